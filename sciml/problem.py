"""Problems: physics on a domain, stated once and read by every solver.

- `Elliptic`: -div(a |grad u|^(p-2) grad u) + c u = f, the equation that Ritz energies, residuals, finite differences
  and finite elements share.
- `PDE`: any residual written like mathematics, ``residual=lambda x, u: u.t + u * u.x - nu * u.xx``.
- `Evolution`: u_t = rate(x, u), which a network sees in space-time and finite differences as a method of lines.

A problem never holds a penalty, a number of points or a step size: those belong to solvers.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from types import SimpleNamespace
from typing import Any, NamedTuple

import torch
from torch import Tensor

from sciml.bounded import Bounded, check_exact, listed
from sciml.calculus import Field, Jet, jet
from sciml.conditions import (
    Condition,
    Data,
    Dirichlet,
    Initial,
    Neumann,
    Periodic,
    Relation,
    Robin,
    Value,
    check_value,
    check_values,
    evaluate,
)
from sciml.domain import Box, Domain
from sciml.unknown import Unknown, Unknowns, plain, probe, request

__all__ = [
    "PDE",
    "Coefficients",
    "Condition",
    "Data",
    "Dirichlet",
    "Elliptic",
    "Evolution",
    "Initial",
    "Neumann",
    "Periodic",
    "Piecewise",
    "Relation",
    "Robin",
    "Unknown",
]

# |grad u|^q is differentiated at points where grad u = 0; this keeps 0/0 out of the chain rule without being seen
_TINY = 1e-24
_AXES = "xyz"


@dataclass(frozen=True)
class Piecewise:
    """A coefficient with jumps: ``coefficient`` inside each region (the first that contains x), `default` elsewhere.

    >>> a = Piecewise(1.0, [(Box([0.0], [0.5]), 3.0)])
    >>> a(torch.tensor([[0.2], [0.8]], dtype=torch.float64)).tolist()
    [3.0, 1.0]
    """

    default: Value
    regions: Sequence[tuple[Domain, Value]]

    def __post_init__(self) -> None:
        """Check the values."""
        check_value("Piecewise default", self.default)
        for _, coefficient in self.regions:
            check_value("Piecewise coefficient", coefficient)

    def __call__(self, x: Tensor) -> Tensor:
        """Values ``(n,)``."""
        result = evaluate("Piecewise default", self.default, x)
        for region, coefficient in reversed(list(self.regions)):
            result = torch.where(region.contains(x.detach()), evaluate("Piecewise coefficient", coefficient, x), result)
        return result


class Coefficients(NamedTuple):
    """Source f, diffusion a, its gradient ``(n, d)`` (None if constant or not asked for) and reaction c at points."""

    source: Tensor
    diffusion: Tensor
    diffusion_gradient: Tensor | None
    reaction: Tensor


class Elliptic(Bounded):
    """-div(a |grad u|^(p-2) grad u) + c u = f in a domain, with conditions on its boundary.

    Args:
        domain: where.
        source: f, a number or a callable ``(n, d) -> (n,)``.
        boundary: g, short for ``conditions=(Dirichlet(g),)``; called on the boundary only.
        diffusion: a > 0; a `Piecewise` makes interfaces, at which u and the flux are continuous.
        reaction: c.
        p: exponent of the p-Laplacian, > 1; 2 is the linear equation.
        conditions: Dirichlet, Neumann, Robin, Periodic and Data, tried in order; those without ``on`` take the rest.
        exact: the solution, if known; used by comparisons only, never by a solver.

    Raises:
        ValueError: for a coefficient of wrong shape, not finite or (diffusion) not positive, or a boundary piece
            without a condition.

    >>> problem = Elliptic(Box([0.0], [1.0]), source=2.0, boundary=0.0, exact=lambda x: x[:, 0] * (1 - x[:, 0]))
    >>> problem.residual(jet(problem.exact, torch.tensor([[0.3]], dtype=torch.float64)), torch.tensor([[0.3]])).item()
    0.0
    """

    def __init__(
        self,
        domain: Domain,
        source: Value = 0.0,
        boundary: Value | None = None,
        diffusion: Value | Piecewise = 1.0,
        reaction: Value | Piecewise = 0.0,
        p: float = 2.0,
        conditions: Sequence[Condition] = (),
        exact: Field | None = None,
    ) -> None:
        if not isinstance(domain, Domain):
            raise TypeError(f"domain is {domain!r}, but must be a Domain such as Box([0, 0], [1, 1])")
        if not (isinstance(p, (int, float)) and p > 1):
            raise ValueError(f"p is {p!r}, but the p-Laplacian needs p > 1")
        for name, value in (("source", source), ("diffusion", diffusion), ("reaction", reaction)):
            check_value(name, value)
        if isinstance(boundary, Condition):
            raise TypeError(
                f"boundary is {boundary!r}, but must be a number or a callable; give conditions=[...] instead"
            )
        check_exact(exact)
        self.domain, self.p, self.exact = domain, float(p), exact
        self._source, self._diffusion, self._reaction = source, diffusion, reaction
        self.conditions = (*listed(conditions), *(() if boundary is None else (Dirichlet(boundary),)))
        self.coordinates = _AXES[: domain.dim] if domain.dim <= 3 else ""
        self._check()

    def _check(self) -> None:
        x = self.domain.interior(256, sobol=True)
        self.source(x)
        self.diffusion(x)
        self.reaction(x)
        self._check_conditions((Dirichlet, Neumann, Robin, Periodic, Data))
        points, _, labels = self.domain.boundary(256)
        taken = torch.zeros(len(points), dtype=torch.bool)
        for _, mask in self.partition(points, labels):
            taken |= mask
        if not bool(taken.all()):
            piece = self.labels[int(labels[~taken][0])]
            raise ValueError(f"no condition holds on the boundary piece {piece!r}; give boundary= or conditions=")

    @staticmethod
    def manufactured(
        domain: Domain,
        exact: Field,
        diffusion: Value = 1.0,
        reaction: Value = 0.0,
        p: float = 2.0,
        conditions: Sequence[Condition] = (),
    ) -> Elliptic:
        """The problem whose solution is `exact`: source and Dirichlet data by automatic differentiation of it."""
        bare = Elliptic(domain, 0.0, exact, diffusion, reaction, p, conditions)

        def source(x: Tensor) -> Tensor:
            return bare.residual(bare.jet(exact, x), x)

        return Elliptic(domain, source, exact, diffusion, reaction, p, conditions, exact)

    def source(self, x: Tensor) -> Tensor:
        """F at points, ``(n,)``."""
        return evaluate("source", self._source, x)

    def diffusion(self, x: Tensor) -> Tensor:
        """A positive at points, ``(n,)``."""
        a = evaluate("diffusion", self._diffusion, x)
        if bool((a <= 0).any()):
            bad = [round(c, 6) for c in x[a <= 0][0].tolist()]
            raise ValueError(f"diffusion is {float(a.min()):.3g} at the point {bad}, but must be positive everywhere")
        return a

    def reaction(self, x: Tensor) -> Tensor:
        """C at points, ``(n,)``."""
        return evaluate("reaction", self._reaction, x)

    @property
    def linear(self) -> bool:
        """Whether the equation is linear in u."""
        return self.p == 2

    @property
    def has_reaction(self) -> bool:
        """Whether there is a reaction term at all."""
        return not (isinstance(self._reaction, (int, float)) and self._reaction == 0)

    @property
    def constant_diffusion(self) -> float | None:
        """The diffusion if it is a number, else None."""
        return float(self._diffusion) if isinstance(self._diffusion, (int, float)) else None

    @property
    def interfaces(self) -> tuple[Domain, ...]:
        """Regions of a `Piecewise` diffusion, across whose edges the flux, not the gradient, is continuous."""
        return tuple(r for r, _ in self._diffusion.regions) if isinstance(self._diffusion, Piecewise) else ()

    def coefficients(self, x: Tensor, gradient: bool = True) -> Coefficients:
        """All coefficients at points, with grad a when `gradient` (the strong form needs it, the energy does not)."""
        gradient_a = None
        if gradient and self.constant_diffusion is None:
            gradient_a = jet(self._diffusion, x, order=1).gradient  # type: ignore[arg-type]
        return Coefficients(self.source(x), self.diffusion(x), gradient_a, self.reaction(x))

    def jet(self, field: Field, x: Tensor) -> Jet:
        """The derivatives of `field` that `residual` needs."""
        d = self.dim
        pairs = None if self.p == 2 else [(i, j) for i in range(d) for j in range(i, d)]
        return jet(field, x, 2, pairs)

    def energy(self, u: Jet, at: Tensor | Coefficients) -> Tensor:
        """Energy density a/p |grad u|^p + c/2 u^2 - f u, ``(n,)``; its integral is least at the solution."""
        c = at if isinstance(at, Coefficients) else self.coefficients(at, gradient=False)
        assert u.gradient is not None
        power = u.gradient.square().sum(-1)
        if self.p != 2:
            power = (power + _TINY) ** (self.p / 2)
        return c.diffusion / self.p * power + (0.5 * c.reaction * u.value - c.source) * u.value

    def residual(self, u: Jet, at: Tensor | Coefficients) -> Tensor:
        """-div(a |grad u|^(p-2) grad u) + c u - f, ``(n,)``."""
        c = at if isinstance(at, Coefficients) else self.coefficients(at)
        assert u.gradient is not None and u.laplacian is not None
        divergence = c.diffusion * u.laplacian
        if self.p != 2:
            squared = u.gradient.square().sum(-1) + _TINY
            bend = sum((1 if i == j else 2) * u.gradient[:, i] * h * u.gradient[:, j] for (i, j), h in u.second.items())
            divergence = divergence + (self.p - 2) * c.diffusion * bend / squared
        if c.diffusion_gradient is not None:
            divergence = divergence + (c.diffusion_gradient * u.gradient).sum(-1)
        if self.p != 2:
            divergence = divergence * squared ** (self.p / 2 - 1)
        return -divergence + c.reaction * u.value - c.source

    def flux(self, u: Jet, normals: Tensor, x: Tensor) -> Tensor:
        """Conormal derivative a |grad u|^(p-2) du/dn at boundary points, ``(n,)``."""
        assert u.gradient is not None
        along = self.diffusion(x) * (u.gradient * normals).sum(-1)
        if self.p != 2:
            along = along * (u.gradient.square().sum(-1) + _TINY) ** (self.p / 2 - 1)
        return along


def _equations(name: str, result: Any, x: Tensor) -> tuple[Tensor, ...]:
    parts = result if isinstance(result, (tuple, list)) else (result,)
    return tuple(check_values(name, plain(p), x) for p in parts)


def _related(relation: Relation, x: Tensor, u: Any, q: Any = None) -> tuple[Tensor, ...]:
    return _equations("Relation residual", relation.residual(x, u), x)


class PDE(Bounded):
    """Any equation ``residual(x, u) = 0`` with conditions; the unknown acts like its own value in formulas.

    Args:
        domain: where, time included (first, by custom).
        coordinates: one letter per column of the points, e.g. "x", "xy", "tx".
        residual: ``(x, u) -> (n,)``, or a tuple of such for a system; x is the ``(n, d)`` tensor, u an `Unknown` with
            ``u.x, u.xx, u.xy, u.t, u.laplacian``. A system indexes it: ``u[0].x``. With `unknowns` it is called as
            ``residual(x, u, q)`` with ``q.name`` trainable.
        conditions: Dirichlet, Neumann, Robin, Periodic, Initial (on the first coordinate's lower end), Relation and
            Data. All their callables see full points ``(n, d)``. Beside an Initial, a condition without `on` holds at
            the sides, not at the final time. An equation of order three or more takes Dirichlet and Neumann at once.
        exact: the solution, if known; for comparisons only.
        unknowns: starting values of the scalars to be found in an inverse problem.

    >>> burgers = PDE(Box([0, -1], [1, 1]), "tx", lambda x, u: u.t + u * u.x - 0.1 * u.xx,
    ...               [Initial(lambda x: -torch.sin(torch.pi * x[:, 1])), Dirichlet(0.0)])
    >>> sorted(burgers.derivatives)
    [(0,), (1,), (1, 1)]
    """

    def __init__(
        self,
        domain: Domain,
        coordinates: str,
        residual: Callable[..., Any],
        conditions: Sequence[Condition] = (),
        exact: Field | None = None,
        unknowns: Mapping[str, float] | None = None,
    ) -> None:
        if not isinstance(domain, Domain):
            raise TypeError(f"domain is {domain!r}, but must be a Domain such as Box([0, 0], [1, 1])")
        if not isinstance(coordinates, str):
            raise TypeError(f"coordinates is {coordinates!r}, but must be a string of letters such as 'xy'")
        if len(coordinates) != domain.dim or len(set(coordinates)) != domain.dim or not coordinates.isalpha():
            raise ValueError(
                f"coordinates is {coordinates!r}, but needs {domain.dim} different letters for this domain"
            )
        if not callable(residual):
            raise TypeError(f"residual is {residual!r}, but must be a callable (x, u) -> (n,)")
        check_exact(exact)
        self.domain, self.coordinates, self.exact = domain, coordinates, exact
        self.conditions = listed(conditions)
        self.unknowns = {k: float(v) for k, v in (unknowns or {}).items()}
        self._residual = residual
        x = domain.interior(16, sobol=True)
        #: derivatives that the residual uses, and whether (and how large) it is a system
        self.derivatives, self.components, self.equations = probe(self._call, x, coordinates, self.unknowns)
        if not self.derivatives:
            raise ValueError("residual does not depend on u, so there is nothing to solve; write it as (x, u) -> (n,)")
        self._related: dict[int, frozenset[tuple[int, ...]]] = {}
        for condition in self.conditions:
            used = getattr(condition, "component", 0) + 1
            if isinstance(condition, Relation):
                call = partial(_related, condition)
                self._related[id(condition)], used, _ = probe(call, x, coordinates, {})
            self.components = max(self.components, used)
        self._check_conditions((Dirichlet, Neumann, Robin, Periodic, Initial, Relation, Data))
        if self.unknowns and not any(isinstance(c, Data) for c in self.conditions):
            raise ValueError(
                f"unknowns is {self.unknowns}, but finding them needs a Data condition with measured values"
            )

    def _call(self, x: Tensor, u: Unknown | Unknowns, q: Any) -> tuple[Tensor, ...]:
        return _equations("residual", self._residual(x, u, q) if self.unknowns else self._residual(x, u), x)

    def restated(self, domain: Domain, conditions: Sequence[Condition]) -> PDE:
        """The same equation on another domain, with other conditions."""
        return PDE(domain, self.coordinates, self._residual, conditions, self.exact, self.unknowns)

    @property
    def order(self) -> int:  # type: ignore[override]
        """Highest order of derivative in the equation and its relations."""
        return max((len(i) for used in (self.derivatives, *self._related.values()) for i in used), default=0)

    def derivatives_of(self, relation: Relation) -> frozenset[tuple[int, ...]]:
        """The derivatives that one of the conditions uses."""
        return self._related[id(relation)]

    def mismatch(self, relation: Relation, field: Field, x: Tensor) -> tuple[Tensor, ...]:
        """What one of the conditions leaves of a field at boundary points, one ``(n,)`` tensor per equation."""
        u = request(field, x, self.coordinates, self.derivatives_of(relation), self.components)
        return _related(relation, x, u)

    def residual(self, field: Field, x: Tensor, unknowns: Mapping[str, Tensor] | None = None) -> tuple[Tensor, ...]:
        """The equations' residuals at points, one ``(n,)`` tensor each.

        Args:
            field: the candidate solution, ``(n,)`` or ``(n, components)``.
            x: points ``(n, d)``.
            unknowns: values of the inverse problem's scalars; None uses the starting values.
        """
        q = SimpleNamespace(**{**self.unknowns, **(unknowns or {})})
        return self._call(x, request(field, x, self.coordinates, self.derivatives, self.components), q)


class Evolution(Bounded):
    """u_t = rate(x, u) on a spatial domain, for one unknown.

    Args:
        domain: in space.
        rate: ``(x, u) -> (n,)``; x is space ``(n, d)`` and u an `Unknown` with spatial derivatives ``u.x, u.xx`` and
            the time ``u.time``.
        initial: u at the initial time, a number or a callable of space ``(n, d)``.
        conditions: Dirichlet, Neumann, Robin and Periodic on the boundary in space; their callables see ``(t, x)``
            points ``(n, 1 + d)``, as do `exact` and every Solution of this problem.
        time: initial and final time.
        exact: the solution on ``(t, x)`` points, if known.
    """

    def __init__(
        self,
        domain: Domain,
        rate: Callable[[Tensor, Any], Any],
        initial: Value,
        conditions: Sequence[Condition] = (),
        time: tuple[float, float] = (0.0, 1.0),
        exact: Field | None = None,
    ) -> None:
        if not isinstance(domain, Domain) or domain.dim > 3:
            raise TypeError(f"domain is {domain!r}, but must be a Domain of 1 to 3 space dimensions")
        if not (isinstance(time, (tuple, list)) and len(time) == 2 and time[1] > time[0]):
            raise ValueError(f"time is {time!r}, but must be (start, end) with end > start")
        check_value("initial", initial)
        check_exact(exact)
        conditions = listed(conditions)
        for condition in conditions:
            if isinstance(condition, Initial):
                raise TypeError(f"conditions holds {condition!r}, but an Evolution takes initial values as initial=")
        self.space, self.time, self.rate, self.exact = domain, (float(time[0]), float(time[1])), rate, exact
        self.initial_value = initial
        interval = Box([self.time[0]], [self.time[1]])
        if isinstance(domain, Box):
            low, high = domain.bounds
            self.domain: Domain = Box([self.time[0], *low.tolist()], [self.time[1], *high.tolist()])
        else:
            self.domain = interval * domain
        self.coordinates = "t" + _AXES[: domain.dim]
        self.conditions = conditions
        start = Initial(lambda x: self.initial(x[:, 1:]))
        self._pde = PDE(self.domain, self.coordinates, self._space_time, (start, *self.conditions), exact)
        self._check_sides()

    def _check_sides(self) -> None:
        """Something must be known on every side across which the rate differentiates twice."""
        points, normals, labels = self.domain.boundary(256)
        free = labels > 1
        for _, mask in self._pde.partition(points, labels):
            free &= ~mask
        for axis in range(1, self.domain.dim):
            across = free & (normals[:, axis].abs() > 1e-6)
            if (axis, axis) in self._pde.derivatives and bool(across.any()):
                piece = self._pde.labels[int(labels[across].min())]
                raise ValueError(f"no condition holds on the boundary piece {piece!r}; give conditions=[...]")

    def initial(self, x: Tensor) -> Tensor:
        """U at the initial time at points of space ``(n, d)``."""
        return evaluate("initial", self.initial_value, x)

    def _space_time(self, x: Tensor, u: Any) -> Tensor:
        in_space = Unknown(u.value, self.coordinates[1:], lambda i: u.derivative(tuple(k + 1 for k in i)), x[:, 0])
        return u.t - plain(self.rate(x[:, 1:], in_space))

    def pde(self) -> PDE:
        """The same problem in space-time, time first."""
        return self._pde
