"""Families: problems that differ in their data, and how their members are drawn.

family = Family(Elliptic(Box([0, 0], [1, 1]), 1.0, 0.0), sources=sampler)
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from sciml.conditions import Dirichlet
from sciml.domain import Domain
from sciml.problem import PDE, Elliptic, Evolution

Function = Callable[[Tensor], Tensor]
Data = float | Function
Sampler = Callable[[int, torch.Generator], Function]

__all__ = [
    "Applied",
    "Data",
    "Family",
    "Function",
    "Sampler",
    "boundary_of",
    "check_counts",
    "check_trainable",
    "constant_boundary",
    "refuse_outside",
    "relative",
    "values_of",
]


def values_of(name: str, function: Data, x: Tensor) -> Tensor:
    """Values ``(n, k)`` of a function, or of k functions at once, at points ``(n, d)``.

    Raises:
        ValueError: if the values have another shape than (n,) or (n, k), or are not finite.
    """
    if isinstance(function, (int, float)):
        given = torch.full((len(x),), float(function), dtype=x.dtype)
    elif callable(function):
        given = torch.as_tensor(function(x)).detach().to(x.dtype)
    else:
        raise TypeError(f"{name} is {function!r}, but must be a number or a function of points (n, d)")
    if given.ndim not in (1, 2) or len(given) != len(x):
        shape = tuple(given.shape)
        raise ValueError(f"{name} gave shape {shape} at {len(x)} points, but must give (n,), or (n, k) for k functions")
    bad = ~given.isfinite().reshape(len(x), -1).all(1)
    if bool(bad.any()):
        at = [round(c, 6) for c in x[bad][0].tolist()]
        raise ValueError(f"{name} is not finite at {int(bad.sum())} of {len(x)} points, first at {at}")
    return given.reshape(len(x), -1)


def refuse_outside(domain: Domain, x: Tensor) -> None:
    """Raise if a point of ``x (n, d)`` lies outside the domain.

    Raises:
        ValueError: saying how many do, and where the first is.
    """
    inside = domain.contains(x.detach())
    if not bool(inside.all()):
        at = [round(c, 6) for c in x[~inside][0].tolist()]
        raise ValueError(f"points holds {int((~inside).sum())} of {len(x)} outside the domain, first {at}")


@dataclass(frozen=True)
class Applied:
    """What a learned kernel makes of data.

    Attributes:
        field: the solution, or several.
        error: relative error that it expects; None if unknown.
        status: one sentence.
    """

    field: Any
    error: float | None
    status: str


@dataclass(frozen=True)
class Family:
    """Problems that share domain and coefficients and differ in source, boundary data or initial values.

    Each sampler ``sampler(k, generator)`` draws k functions and returns one function from points ``(n, d)`` to
    ``(n, k)``; None keeps what the problem states.

    Attributes:
        problem: states the equation; an `Elliptic` one's own source is one member of the family.
        sources: of the right-hand side; of a `PDE`, what its residual equals instead of zero.
        boundaries: of the Dirichlet values.
        initials: of the initial values of an `Evolution`, functions of points in space.

    Raises:
        TypeError: if the problem is none of these, or a sampler does not belong to it.
        ValueError: if a sampler returns another shape.
    """

    problem: Elliptic | PDE | Evolution
    sources: Sampler | None = None
    boundaries: Sampler | None = None
    initials: Sampler | None = None

    def __post_init__(self) -> None:
        """Draw once, so that a wrong sampler is found here."""
        problem = self.problem
        if not isinstance(problem, (Elliptic, PDE, Evolution)):
            kind = type(problem).__name__
            raise TypeError(f"problem is a {kind}, but a family is made of an Elliptic, PDE or Evolution problem")
        evolves = isinstance(problem, Evolution)
        if evolves != (self.initials is not None) or (evolves and (self.sources or self.boundaries)):
            raise TypeError("initials, and nothing else, are varied in an Evolution, and in no other problem")
        x = (problem.space if isinstance(problem, Evolution) else problem.domain).interior(7)
        for name in ("sources", "boundaries", "initials"):
            if getattr(self, name) is not None:
                drawn = values_of(name, getattr(self, name)(3, torch.Generator().manual_seed(0)), x)
                if drawn.shape != (7, 3):
                    raise ValueError(
                        f"{name} drew 3 functions, but gave shape {tuple(drawn.shape)} at 7 points, not (7, 3)"
                    )

    @property
    def varied(self) -> dict[str, Sampler]:
        """Samplers of the data that differ, by kind: "source", "boundary", "initial"."""
        samplers = {"source": self.sources, "boundary": self.boundaries, "initial": self.initials}
        return {kind: sampler for kind, sampler in samplers.items() if sampler is not None}

    def draw(self, count: int, generator: torch.Generator) -> dict[str, Function]:
        """The varied data of `count` members, by kind."""
        return {kind: sampler(count, generator) for kind, sampler in self.varied.items()}

    def member(self, drawn: Mapping[str, Function], k: int) -> Any:
        """Member k of a draw, as a problem of its own."""
        problem = self.problem
        one = {kind: _column(function, k) for kind, function in drawn.items()}
        if isinstance(problem, Evolution):
            return Evolution(problem.space, problem.rate, one["initial"], problem.conditions, problem.time)
        boundary = one.get("boundary", boundary_of(problem))
        if isinstance(problem, Elliptic):
            source = one.get("source", problem.source)
            a = problem.constant_diffusion or problem.diffusion
            return Elliptic(
                problem.domain, source, boundary, a, problem.reaction if problem.has_reaction else 0.0, problem.p
            )
        source = one.get("source", lambda x: torch.zeros_like(x[:, 0]))
        return PDE(
            problem.domain,
            problem.coordinates,
            lambda x, u: problem._call(x, u, None)[0] - source(x),
            [Dirichlet(boundary)],
        )


def _column(function: Function, k: int) -> Function:
    return lambda x: function(x)[:, k]


def boundary_of(problem: Elliptic | PDE | Evolution) -> Data:
    """The Dirichlet data of a problem.

    Raises:
        ValueError: if it has other conditions.
    """
    if len(problem.conditions) != 1 or not isinstance(problem.conditions[0], Dirichlet):
        given = ", ".join(type(c).__name__ for c in problem.conditions)
        raise ValueError(f"conditions are {given}, but an operator is learned for one Dirichlet condition")
    return problem.conditions[0].at


def constant_boundary(problem: Elliptic | PDE | Evolution) -> float | None:
    """The Dirichlet value of a problem if it is a number, else None."""
    boundary_of(problem)
    given = problem.conditions[0].value  # type: ignore[attr-defined]
    return float(given) if isinstance(given, (int, float)) else None


def relative(difference: Tensor, reference: Tensor) -> float:
    """|difference| / |reference| in the largest entry; 0 if both vanish."""
    size = float(reference.abs().max())
    gap = float(difference.abs().max())
    return gap / size if size > 0 else (0.0 if gap == 0 else math.inf)


def check_counts(options: Any, **least: int) -> None:
    """Refuse options that are no whole numbers from their least value on.

    Raises:
        ValueError: naming the first that is none.
    """
    for name, low in least.items():
        value = getattr(options, name)
        if not (isinstance(value, int) and value >= low):
            raise ValueError(f"{name} is {value!r}, but must be a whole number >= {low}")


def check_trainable(model: float, labels: int, members: int) -> None:
    """Refuse a training on nothing, or on labels of members that are not drawn.

    Raises:
        ValueError: saying which.
    """
    if labels > members:
        raise ValueError(f"labels is {labels}, but only {members} members are drawn")
    if not model and not labels:
        raise ValueError("model is 0 and labels is 0, so there is nothing to train on")
