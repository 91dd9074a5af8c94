"""The face every domain shows, and the three engines behind it: rejection, crossing and membership.

A domain is a closed set of points. It is built from primitives (`Piece`s); each primitive knows its signed level and
where a straight line meets its boundary, and the signs of all levels together decide membership (`Arrangement`).
Sampling is one loop for all domains: a `Sampler` maps the unit cube to candidate points which are uniform on some
simple superset, says which candidates are real, and `fill` draws until there are enough of them.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

if TYPE_CHECKING:
    from .arrangement import Arrangement, Piece
    from .sets import Difference, Intersection, Product, Union

TOLERANCE = 1e-12  # a point this far outside, relative to the size of the domain, still belongs to the closed set
OFFSET = 1e-9  # how far both sides of a boundary point are probed, relative to the size of the domain
MAX_TRIES = 2_000_000  # candidates drawn before a hopeless acceptance rate is reported
MIN_ACCEPTANCE = 1e-5


class Boundary(NamedTuple):
    """Points on a boundary.

    Attributes:
        points: float64 (n, d).
        normals: float64 (n, d), outward unit normals; at a hole they point into the hole.
        labels: int64 (n,), index into `Domain.labels`.
    """

    points: Tensor
    normals: Tensor
    labels: Tensor


class Sampler(NamedTuple):
    """A map from the unit cube to candidates: `draw` takes (m, dims) and gives tensors of m rows, the last a mask.

    The accepted candidates are uniform, and `measure` times the accepted fraction is the measure of what they cover.
    """

    measure: float
    dims: int
    draw: Callable[[Tensor], tuple[Tensor, ...]]


class Domain(ABC):
    """A closed bounded set in d dimensions with labelled boundary pieces.

    Attributes:
        dim: the dimension d.
        bounds: two float64 tensors (d,), the corners of a box around the domain.
        labels: one unique name for each boundary piece.

    Domains combine: `A - B` (difference), `A | B` (union), `A & B` (intersection), and `A * B` (Cartesian product,
    the coordinates of A first).
    """

    dim: int
    bounds: tuple[Tensor, Tensor]

    # ---- what each domain supplies -------------------------------------------------------------------------------

    @property
    @abstractmethod
    def arrangement(self) -> Arrangement:
        """The primitives of this domain and how the signs of their levels combine to membership."""

    @property
    @abstractmethod
    def inside(self) -> Sampler:
        """Candidates (points, accepted) for uniform points of the domain."""

    @property
    @abstractmethod
    def surface(self) -> tuple[Sampler, ...]:
        """One sampler (points, normals, local labels, accepted) for the whole boundary of each primitive, in order."""

    @property
    @abstractmethod
    def volume(self) -> float:
        """The d-dimensional volume."""

    @property
    @abstractmethod
    def areas(self) -> Tensor:
        """The (d-1)-dimensional area of each boundary piece, float64 (len(labels),); in 1-D the number of points."""

    @abstractmethod
    def describe(self) -> dict[str, Any]:
        """A JSON-able description; `domain_from` rebuilds the domain from it."""

    # ---- what follows from it --------------------------------------------------------------------------------------

    @property
    def area(self) -> float:
        """The area of the whole boundary (length in 2-D, number of end points in 1-D)."""
        return float(self.areas.sum())

    @cached_property
    def size(self) -> float:
        """The longest side of the bounding box; tolerances are relative to it."""
        return float((self.bounds[1] - self.bounds[0]).max())

    @cached_property
    def labels(self) -> tuple[str, ...]:
        """One unique name for each boundary piece; a repeated name gets a number: "ball", "ball2", ..."""
        return unique_names([name for piece in self.pieces for name in piece.shape.names])

    @property
    def pieces(self) -> tuple[Piece, ...]:
        """The primitives, each with its range of label indices and its coordinate axes."""
        return self.arrangement.pieces

    def points(self, x: Tensor, name: str = "x") -> Tensor:
        """Return `x` as float64 points (n, d).

        Raises:
            ValueError: if `x` is not a matrix with d columns.
        """
        x = torch.as_tensor(x, dtype=torch.float64)
        if x.ndim != 2 or x.shape[1] != self.dim:
            raise ValueError(
                f"{name} must hold points of a {self.dim}-dimensional domain, shape (n, {self.dim}), "
                f"but its shape is {tuple(x.shape)}."
            )
        return x

    def level(self, x: Tensor) -> Tensor:
        """Signed level (n,) at points (n, d): positive inside, 0 on the boundary, negative outside.

        Near a smooth piece of the boundary its gradient has length one, as a signed distance has.
        """
        return self.arrangement.level(self.points(x))

    def contains(self, x: Tensor) -> Tensor:
        """Bool (n,): whether points (n, d) belong to the closed domain, up to a relative 1e-12.

        Where a hole shares a face with the domain it is cut from, points of that face still count (their level is 0);
        they are not part of `boundary` and have no area.
        """
        return self.level(x) >= -TOLERANCE * self.size

    def factor(self, x: Tensor) -> Tensor:
        """A smooth function (n,) of points (n, d), positive inside and exactly zero on the boundary, of order one.

        A box gives prod (x-a)(b-x)/((b-a)/2)^2, a ball or ellipsoid 1-|y|^2 in the coordinates y that make it the unit
        ball, a hole (|y|^2-1)/(|y|^2+1); differences, intersections and products multiply.

        Raises:
            ValueError: for unions, non-convex polygons and holes with corners, which have no smooth one.
        """
        return self.arrangement.factor(self.points(x))

    def interior(self, n: int, generator: torch.Generator | None = None, sobol: bool = False) -> Tensor:
        """Uniform points of the domain, float64 (n, d).

        Args:
            n: the number of points.
            generator: source of randomness; None is a fresh generator with seed 0, so the points are always the same.
            sobol: take a scrambled Sobol sequence (seeded by the generator) instead of independent points.

        Raises:
            ValueError: if `n` is not a count, or the domain fills less than 1e-5 of what it is cut from.
        """
        return fill(self.inside, n, generator, sobol)[0]

    def boundary(self, n: int, generator: torch.Generator | None = None, sobol: bool = False) -> Boundary:
        """Points of the boundary, uniform by area, with outward normals and labels; arguments as in `interior`."""
        points, normals, labels = fill(self.edge, n, generator, sobol)
        return Boundary(points, normals, labels)

    def crossing(self, start: Tensor, end: Tensor) -> tuple[Tensor, Tensor]:
        """Where the segments from `start` to `end` first leave the domain.

        Args:
            start: points (n, d) inside or on the boundary.
            end: points (n, d) anywhere; a segment that ends on the boundary, about to leave, crosses at t = 1.

        Returns:
            t: float64 (n,), the smallest t in [0, 1] at which start + t (end - start) leaves; inf if it never does.
            label: int64 (n,), the index of the piece that is crossed; -1 if none is.
        """
        start, end = self.points(start, "start"), self.points(end, "end")
        if start.shape != end.shape:
            raise ValueError(f"start and end must pair up, but there are {len(start)} starts and {len(end)} ends.")
        return self.arrangement.crossing(start, end, TOLERANCE * self.size)

    @cached_property
    def edge(self) -> Sampler:
        """Boundary candidates: those of all primitives, kept where membership really changes across them."""
        pieces, samplers = self.pieces, self.surface
        shares = torch.tensor([sampler.measure for sampler in samplers], dtype=torch.float64)

        def draw(u: Tensor) -> tuple[Tensor, ...]:
            rows, columns = choose(u[:, 0], shares), u[:, 1:]
            parts = []
            for piece, sampler, row in zip(pieces, samplers, rows, strict=True):
                if len(row):
                    x, normal, label, ok = sampler.draw(columns[row, : sampler.dims])
                    parts.append((x, normal, label + piece.indices.start, ok))
            x, normal, label, ok = (torch.cat(part) for part in zip(*parts, strict=True))
            if len(pieces) > 1:
                normal, visible = self.arrangement.visible(x, normal, label, self.size)
                ok = ok & visible
            order = torch.argsort(torch.cat([row for row in rows if len(row)]))
            return x[order], normal[order], label[order], ok[order]

        return Sampler(float(shares.sum()), 1 + max(sampler.dims for sampler in samplers), draw)

    # ---- algebra -----------------------------------------------------------------------------------------------------
    # The sets import this module, so they can only be imported when an operator is used.

    def __sub__(self, other: Domain) -> Difference:
        from .sets import Difference

        return Difference(self, other) if isinstance(other, Domain) else NotImplemented

    def __or__(self, other: Domain) -> Union:
        from .sets import Union

        return Union(self, other) if isinstance(other, Domain) else NotImplemented

    def __and__(self, other: Domain) -> Intersection:
        from .sets import Intersection

        return Intersection(self, other) if isinstance(other, Domain) else NotImplemented

    def __mul__(self, other: Domain) -> Product:
        from .sets import Product

        return Product(self, other) if isinstance(other, Domain) else NotImplemented


def unique_names(names: Sequence[str]) -> tuple[str, ...]:
    """Number repeated names: a, b, a, a -> a, b, a2, a3."""
    taken: set[str] = set()
    counts: dict[str, int] = {}
    result = []
    for name in names:
        counts[name] = counts.get(name, 0) + 1
        unique = name if counts[name] == 1 else f"{name}{counts[name]}"
        while unique in taken:
            counts[name] += 1
            unique = f"{name}{counts[name]}"
        taken.add(unique)
        result.append(unique)
    return tuple(result)


def choose(u: Tensor, shares: Tensor) -> list[Tensor]:
    """Split uniform numbers u (m,) over alternatives with the given shares (k,): the rows of each alternative."""
    edges = torch.cumsum(shares / shares.sum(), 0)[:-1].to(u.device)
    chosen = torch.bucketize(u.contiguous(), edges, right=True)
    order = torch.argsort(chosen, stable=True)
    return list(torch.split(order, torch.bincount(chosen, minlength=len(shares)).tolist()))


def fill(sampler: Sampler, n: int, generator: torch.Generator | None, sobol: bool) -> tuple[Tensor, ...]:
    """Draw candidates until n are accepted; return their first n rows (without the mask)."""
    if isinstance(n, bool) or not isinstance(n, int) or n < 0:
        raise ValueError(f"n must be a number of points, an integer >= 0, but it is {n!r}.")
    generator = torch.Generator().manual_seed(0) if generator is None else generator
    draws = cube(sampler.dims, generator, sobol)
    parts: list[tuple[Tensor, ...]] = []
    tried, accepted = 0, 0
    while accepted < n or not parts:
        rate = accepted / tried if accepted else 1.0 if not tried else 0.01
        wanted = n - accepted if rate == 1.0 else int(1.05 * (n - accepted) / rate) + 16
        *found, ok = sampler.draw(draws(min(max(wanted, 1), 2**19)))
        parts.append(tuple(part[ok] for part in found))
        tried, accepted = tried + len(ok), accepted + int(ok.sum())
        if tried > MAX_TRIES and accepted < MIN_ACCEPTANCE * tried:
            raise ValueError(
                f"The domain is too thin to sample: {accepted} of {tried} candidate points were inside, "
                f"and at least {MIN_ACCEPTANCE:g} of them is needed."
            )
    return tuple(torch.cat(part)[:n] for part in zip(*parts, strict=True))


def cube(dims: int, generator: torch.Generator, sobol: bool) -> Callable[[int], Tensor]:
    """A source of points (m, dims) in the open unit cube."""
    tiny = 2.0**-40  # keeps the quantile functions of the samplers finite
    if sobol:
        seed = int(torch.randint(2**31 - 1, (), generator=generator, device=generator.device))
        engine = torch.quasirandom.SobolEngine(dims, scramble=True, seed=seed)
        return lambda m: engine.draw(m, dtype=torch.float64).clamp_(tiny, 1 - tiny).to(generator.device)
    options: dict[str, Any] = {"generator": generator, "dtype": torch.float64, "device": generator.device}
    return lambda m: torch.rand(m, dims, **options).clamp_(tiny, 1 - tiny)
