"""Which features a problem gets: from the spectrum of its data, its geometry and its dimension.

Up to two dimensions `Waves` on a lattice of wavenumbers below a bandwidth, a few polynomials, and the functions of
holes and corners once waves alone have failed; in three see `space`; in more dimensions polynomials of a total degree.
An ansatz knows how many points it needs, which nested systems its columns hold, and what follows it when it was not
enough.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import Any, Protocol

import torch
from torch import Tensor

from sciml.conditions import Dirichlet, Initial
from sciml.domain import Box, Domain
from sciml.problem import PDE, Elliptic
from sciml.solvers.bases import Basis
from sciml.solvers.collocation import Collocation
from sciml.solvers.families import Bubbles, Family, Polynomials, Ridges, Waves, degrees_up_to, lattice
from sciml.solvers.singular import Powers, corner_features, hole_features, regular_features
from sciml.solvers.space import Graded, Peaked
from sciml.theory.spectra import bandwidth, peaks

__all__ = ["Ansatz", "fitted", "start", "wavenumbers"]

_MARGIN = 9.0  # how far the bandwidth lies above the highest wavenumber of the data, in units of 1 / half side
_LOW = 14.0  # bandwidth, in the same units, at which a first attempt with singular functions is made
_FRACTIONS = (0.85, 0.7)  # of the bandwidth, for nested solutions


class Ansatz(Protocol):
    """A choice of features.

    Attributes:
        families: the features; those of one family are ordered, low ones first.
        size: their number.
        bandwidth: ``(d,)`` wavenumbers that scale the rows.
        cuts: numbers of leading columns that make smaller systems.
        order: of the columns, leading ones first; None as they are.
        points: arguments of `Collocation.blocks`.
        damped: whether coefficients need to be kept small.
        independent: whether features are far enough from dependent for normal equations.
    """

    @property
    def families(self) -> list[Family]:
        """See above."""
        ...

    @property
    def size(self) -> int:
        """See above."""
        ...

    @property
    def bandwidth(self) -> Tensor:
        """See above."""
        ...

    @property
    def cuts(self) -> tuple[int, ...]:
        """See above."""
        ...

    @property
    def order(self) -> Tensor | None:
        """See above."""
        ...

    @property
    def points(self) -> dict[str, int]:
        """See above."""
        ...

    @property
    def damped(self) -> bool:
        """See above."""
        ...

    @property
    def independent(self) -> bool:
        """See above."""
        ...

    def larger(self, residuals: Sequence[float], excess: float, coefficients: Tensor) -> Ansatz | None:
        """What to try next.

        Args:
            residuals: of the whole and of the nested systems.
            excess: error over tolerance.
            coefficients: of the whole, ``(size,)`` for one unknown function.
        """
        ...


@dataclass(frozen=True)
class Lattice:
    """Waves below a bandwidth, with singular functions from `level` 1 on.

    Attributes:
        domain: where.
        kappa: bandwidth in units of one over the half sides, ``(d,)``.
        harmonic: whether solutions are harmonic but for a smooth part.
        level: highest power of the singular functions; 0 for none.
        before: residual of the attempt with fewer singular functions, if there was one.
        singular: whether singular functions may come; their derivatives are known up to order two.
        basis: other features in place of the waves.
    """

    domain: Domain
    kappa: Tensor
    harmonic: bool
    level: int = 0
    singular: bool = True
    basis: Basis | None = None
    independent = False
    before: float = math.inf

    @cached_property
    def families(self) -> list[Family]:
        """See `Ansatz`."""
        d = self.domain.dim
        lower, upper = self.domain.bounds
        found: list[Family] = [] if self.basis else [Polynomials(degrees_up_to(6, d), lower, upper)]
        if self.level:
            found.append(regular_features(self.domain, 2 * self.level))
            found += corner_features(self.domain, min(self.level, 12), self.harmonic)
            found += hole_features(self.domain, self.level, self.harmonic)
        if self.basis is not None:
            return found + self.basis(self.kappa, lower, upper)
        # the larger box is at least twice the domain: closer to one, coefficients would grow without bound
        period = (upper - lower) * (2.1 + 10 / self.kappa)
        found.append(lattice(self.bandwidth, period, lower, upper))
        return found

    @property
    def size(self) -> int:
        """See `Ansatz`."""
        return sum(f.size for f in self.families)

    @property
    def bandwidth(self) -> Tensor:
        """See `Ansatz`."""
        lower, upper = self.domain.bounds
        return self.kappa / ((upper - lower) / 2)

    @cached_property
    def _tiers(self) -> Tensor:
        """Which of the nested systems a column belongs to ``(size,)``, 0 for the smallest.

        Without singular functions these are waves up to the fractions of the bandwidth. With them the smallest has low
        waves and low powers, the next all waves, the last everything.
        """
        low, high = sorted(_FRACTIONS)
        found = []
        for family in self.families:
            tier = torch.zeros(family.size, dtype=torch.long)
            if isinstance(family, Waves):
                k = (family.wavenumbers / self.bandwidth).abs().amax(1)
                tier = (k > low).long() if self.level else (k > low).long() + (k > high).long()
            elif isinstance(family, Ridges):
                k = torch.linalg.vector_norm(family.directions / self.bandwidth, dim=1)
                k = k / k.max()
                tier = (k > low).long() if self.level else (k > low).long() + (k > high).long()
            elif isinstance(family, Powers):
                power = family.exponents.abs().sum(1)
                tier = 2 * (power > low * power.max()).long()
            found.append(tier)
        return torch.cat(found)

    @property
    def cuts(self) -> tuple[int, ...]:
        """See `Ansatz`."""
        return int((self._tiers <= 1).sum()), int((self._tiers == 0).sum())

    @property
    def order(self) -> Tensor | None:
        """See `Ansatz`."""
        return self._tiers.argsort(stable=True) if self.level or self.basis else None

    @property
    def points(self) -> dict[str, int]:
        """See `Ansatz`."""
        per_length = 4 * float(self.bandwidth.max()) / math.pi
        edge = min(self.domain.area * per_length ** (self.domain.dim - 1), self.size)
        special = [f.size for f in self.families if isinstance(f, Powers)][1:]
        clustered = 0 if self.harmonic else 3 * max(special, default=0)
        return {
            "interior": int(1.5 * self.size) + 50,
            "boundary": int(edge) + 20,
            "least": 4 * self.level + 8,
            "clustered": clustered,
            "edges": max(4 * self.level, clustered // 2),
        }

    @property
    def damped(self) -> bool:
        """See `Ansatz`."""
        return self.level > 0

    def larger(self, residuals: Sequence[float], excess: float, coefficients: Tensor) -> Lattice | None:
        """See `Ansatz`."""
        whole, low = max(residuals[0], 1e-300), max(residuals[-1], 1e-300)
        slope = math.log(low / whole) / (1 - _FRACTIONS[-1]) if len(residuals) > 1 else 0.0
        growth = 1 + math.log(3 * excess) / slope if slope > 0.5 else math.inf
        # of a system no nested solutions are known: waves, as long as these help, before singular functions
        if len(residuals) == 1 and (self.level or whole < 0.5 * self.before):
            level = self.level + 2 if self.level else 0
            return replace(self, kappa=1.5 * self.kappa, level=level, before=whole)
        if self.level == 0 and growth > 1.6 and self._has_singular:
            return replace(self, kappa=self.kappa.clamp_max(_LOW), level=12 if self.harmonic else 8)
        factor = min(max(growth, 1.15), 1.5)
        if not self.level:
            return replace(self, kappa=self.kappa * factor)
        more = 6 if self.harmonic else 2
        # around holes and corners a harmonic function is all powers: waves only as far as these do not help any more
        if self.harmonic and whole < 0.5 * self.before:
            return replace(self, level=self.level + more, before=whole)
        # what the last singular functions gained, and what the last waves did
        powers, waves = residuals[1] / whole, low / residuals[1]
        if powers > max(1.5, waves):
            return replace(self, level=self.level + more)
        return replace(self, kappa=self.kappa * factor, level=self.level + more)

    @property
    def _has_singular(self) -> bool:
        return self.singular and bool(corner_features(self.domain, 6, True) or hole_features(self.domain, 1, True))


@dataclass(frozen=True)
class TotalDegree:
    """Polynomials of a total degree, for four and more dimensions.

    Attributes:
        domain: where.
        degree: largest total degree.
        walls: all vanish on the faces of the box, as the solution does.
    """

    domain: Domain
    degree: int = 4
    walls: bool = False
    independent = False

    @cached_property
    def families(self) -> list[Family]:
        """See `Ansatz`."""
        kind = Bubbles if self.walls else Polynomials
        return [kind(degrees_up_to(self.degree, self.domain.dim), *self.domain.bounds)]

    @property
    def size(self) -> int:
        """See `Ansatz`."""
        return math.comb(self.domain.dim + self.degree, self.degree)

    @property
    def bandwidth(self) -> Tensor:
        """See `Ansatz`."""
        lower, upper = self.domain.bounds
        return 2 * (self.degree + 2 * self.walls) / (upper - lower)

    @property
    def cuts(self) -> tuple[int, ...]:
        """See `Ansatz`."""
        # symmetric solutions gain nothing by a single degree
        return (math.comb(self.domain.dim + self.degree - 2, self.degree - 2),)

    @property
    def order(self) -> Tensor | None:
        """See `Ansatz`."""
        return None

    @property
    def points(self) -> dict[str, int]:
        """See `Ansatz`."""
        return {"interior": int(1.2 * self.size) + 100, "boundary": 20 if self.walls else int(1.2 * self.size) + 100}

    @property
    def damped(self) -> bool:
        """See `Ansatz`."""
        return False

    def larger(self, residuals: Sequence[float], excess: float, coefficients: Tensor) -> TotalDegree:
        """See `Ansatz`."""
        twice = replace(self, degree=self.degree + 2)
        return twice if excess > 100 or twice.size < 3 * self.size else replace(self, degree=self.degree + 1)


def start(
    collocation: Collocation,
    tolerance: float,
    given: Any,
    limit: int,
    generator: torch.Generator,
    basis: Basis | None = None,
) -> Ansatz:
    """The first choice for a problem.

    Args:
        collocation: the problem.
        tolerance: to be reached.
        given: a bandwidth, or None for that of the data.
        limit: of unknowns; the choice may exceed it, see `fitted`, but is the smaller one of several.
        generator: of the lines along which spectra are taken.
        basis: features of the caller's choice.
    """
    problem, domain = collocation.problem, collocation.problem.domain
    if basis is not None:
        return _of_basis(collocation, basis, given, generator)
    if domain.dim > 3:
        return TotalDegree(domain, 2, _vanishes(problem))
    lower, upper = domain.bounds
    if domain.dim == 3:
        return _in_space(collocation, tolerance, given, limit // collocation.components, generator)
    harmonic = isinstance(problem, Elliptic) and problem.constant_diffusion is not None and not problem.has_reaction
    if given is not None:
        kappa = torch.as_tensor(given, dtype=torch.float64).expand(domain.dim) * (upper - lower) / 2
    else:
        kappa = wavenumbers(collocation, generator) * (upper - lower) / 2 + _MARGIN
    return Lattice(domain, kappa, harmonic and collocation.linear, singular=problem.order <= 2)


def _of_basis(collocation: Collocation, basis: Basis, given: Any, generator: torch.Generator) -> Lattice:
    domain = collocation.problem.domain
    if domain.dim > 3:
        raise ValueError(f"basis is given, but the problem has {domain.dim} dimensions and bases are for three at most")
    lower, upper = domain.bounds
    half = (upper - lower) / 2
    if given is None:
        kappa = wavenumbers(collocation, generator) * half + _MARGIN
    else:
        kappa = torch.as_tensor(given, dtype=torch.float64).expand(len(half)) * half
    return Lattice(domain, kappa, False, singular=collocation.problem.order <= 2, basis=basis)


def fitted(ansatz: Ansatz, limit: int) -> Ansatz | None:
    """The same with a smaller bandwidth, if there are more than `limit` features; None if none is small enough."""
    if isinstance(ansatz, (Graded, Peaked)):
        smaller = replace(ansatz, limit=min(limit, ansatz.limit)).within()
        return smaller and replace(smaller, limit=ansatz.limit)
    while isinstance(ansatz, Lattice) and ansatz.size > limit and float(ansatz.kappa.max()) > 4:
        ansatz = replace(ansatz, kappa=0.85 * ansatz.kappa)
    return ansatz


def _in_space(
    collocation: Collocation, tolerance: float, given: Any, limit: int, generator: torch.Generator
) -> Graded | Peaked:
    """The choice of `space` with fewer unknowns."""
    domain = collocation.problem.domain
    lower, upper = domain.bounds
    margin = -1.5 * math.log10(tolerance)
    if given is not None:
        kappa = torch.as_tensor(given, dtype=torch.float64).expand(3) * (upper - lower) / 2
        return Graded(domain, kappa, margin, limit)
    kappa = wavenumbers(collocation, generator)
    fields = _fields(collocation)
    # many terms that are left out add up
    k, a = peaks(fields[0][0], domain, fields[0][1], level=min(max(0.03 * tolerance, 3e-4), 1e-2))
    if len(k):
        kappa = torch.maximum(kappa, k[a >= max(tolerance, 1e-2) * a.max()].abs().amax(0))
    graded = Graded(domain, kappa * (upper - lower) / 2, margin, limit)
    if graded.size > limit and collocation.linear and collocation.components == 1 and len(k):
        peaked = Peaked(domain, k, a / a.max(), 0.3 * tolerance, limit)
        return peaked if peaked.size < graded.size else graded
    return graded


def _vanishes(problem: Elliptic | PDE) -> bool:
    """Whether zero is prescribed on all faces of a box."""
    if not isinstance(problem.domain, Box) or (isinstance(problem, PDE) and problem.components > 1):
        return False
    return all(isinstance(c, Dirichlet) and c.on is None and c.value == 0 for c in problem.conditions)


def wavenumbers(collocation: Collocation, generator: torch.Generator) -> Tensor:
    """The largest wavenumbers ``(d,)`` that the data put into the solution."""
    domain = collocation.problem.domain
    found = bandwidth(_fields(collocation), domain, generator)
    if domain.dim > 1 and isinstance(domain, Box):
        found = torch.maximum(found, _of_faces(collocation, domain, generator))
    return found


def _fields(collocation: Collocation) -> list[tuple[Any, int, float]]:
    """The data inside, with the order and the level of `bandwidth`; first what drives the solution."""
    problem = collocation.problem
    if not isinstance(problem, Elliptic):
        return [(collocation.at_rest, 1, 0.03)]
    # the operator's inverse divides the source by k^2; wiggles of the diffusion appear in u undivided
    fields: list[tuple[Any, int, float]] = [(problem.source, 2, 0.03)]
    if problem.constant_diffusion is None:
        fields.append((problem.diffusion, 0, 0.1))
    if problem.has_reaction:
        fields.append((problem.reaction, 2, 0.1))
    return fields


def _of_faces(collocation: Collocation, box: Box, generator: torch.Generator) -> Tensor:
    """Wavenumbers of prescribed values along the faces of a box."""
    problem = collocation.problem
    found = torch.zeros(box.dim, dtype=torch.float64)
    for label in range(2 * box.dim):
        axis, side = divmod(label, 2)
        others = [i for i in range(box.dim) if i != axis]
        face = Box(box.lower[others], box.upper[others])
        place = float(box.bounds[side][axis])

        def lift(y: Tensor, axis: int = axis, place: float = place) -> Tensor:
            return torch.cat([y[:, :axis], torch.full_like(y[:, :1], place), y[:, axis:]], 1)

        middle = lift(((face.lower + face.upper) / 2)[None])
        for condition, mask in problem.partition(middle, torch.tensor([label])):
            if bool(mask.any()) and isinstance(condition, (Dirichlet, Initial)) and callable(condition.value):
                k = bandwidth([(partial(_on_face, condition, lift), 0, 0.03)], face, generator)
                found[others] = torch.maximum(found[others], k)
    return found


def _on_face(condition: Dirichlet | Initial, lift: Callable[[Tensor], Tensor], y: Tensor) -> Tensor:
    return condition.at(lift(y))
