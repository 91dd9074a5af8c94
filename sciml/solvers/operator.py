"""Operators: what solves a family of problems, as a function from data to solutions.

operator = GreensSolver().solve(Family(problem, sources=sampler))
solution = operator(lambda x: torch.sin(x[:, 0]))
operator.save("green.h5"); sciml.load("green.h5")(source)(points)
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from sciml.conditions import Dirichlet
from sciml.domain import Domain
from sciml.files import write_h5
from sciml.problem import Elliptic
from sciml.solution import Solution

Function = Callable[[Tensor], Tensor]
Data = float | Function
Sampler = Callable[[int, torch.Generator], Function]

__all__ = ["Applied", "Data", "Family", "Function", "LearnedKernel", "Operator", "Sampler", "values_of"]


def _kernels() -> dict[str, Any]:
    """Kind in the file -> class that restores it; imported late, since the kernels stand on this module."""
    from sciml.solvers.lowrank import LowRankKernel
    from sciml.solvers.singular_kernel import SingularKernel

    return {"singular": SingularKernel, "lowrank": LowRankKernel}


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


@dataclass(frozen=True)
class Family:
    """Problems that share domain and coefficients and differ in source or boundary data.

    Attributes:
        problem: states the equation; its own source is one member of the family.
        sources: ``sources(k, generator)`` draws k sources and returns a function from points ``(n, d)`` to ``(n, k)``.
            None keeps the problem's own.
        boundaries: draws boundary data in the same way; None keeps the problem's own.

    Raises:
        TypeError: if the problem is not an `Elliptic`.
        ValueError: if a sampler returns another shape.
    """

    problem: Elliptic
    sources: Sampler | None = None
    boundaries: Sampler | None = None

    def __post_init__(self) -> None:
        """Draw once, so that a wrong sampler is found here."""
        if not isinstance(self.problem, Elliptic):
            raise TypeError(f"problem is a {type(self.problem).__name__}, but a family is made of an Elliptic problem")
        for name in ("sources", "boundaries"):
            if getattr(self, name) is not None:
                x = self.problem.domain.interior(7)
                drawn = values_of(name, getattr(self, name)(3, torch.Generator().manual_seed(0)), x)
                if drawn.shape != (7, 3):
                    raise ValueError(
                        f"{name} drew 3 functions, but gave shape {tuple(drawn.shape)} at 7 points, not (7, 3)"
                    )

    def draw(self, count: int, generator: torch.Generator) -> tuple[Function, Data]:
        """Sources and boundary data of `count` members."""
        sources = self.sources(count, generator) if self.sources else self.problem.source
        boundary = self.boundaries(count, generator) if self.boundaries else boundary_of(self.problem)
        return sources, boundary


def boundary_of(problem: Elliptic) -> Data:
    """The Dirichlet data of a problem.

    Raises:
        ValueError: if it has other conditions.
    """
    if len(problem.conditions) != 1 or not isinstance(problem.conditions[0], Dirichlet):
        given = ", ".join(type(c).__name__ for c in problem.conditions)
        raise ValueError(f"conditions are {given}, but an operator is learned for one Dirichlet condition")
    return problem.conditions[0].at


class Applied(Protocol):
    """What a kernel makes of data: the field, the relative error it expects (None: unknown) and a sentence."""

    field: Any
    error: float | None
    status: str


class LearnedKernel(Protocol):
    """A learned kernel."""

    domain: Domain

    def __call__(self, x: Tensor, y: Tensor) -> Tensor:
        """G ``(n, m)`` at x ``(n, d)`` of unit sources at y ``(m, d)``."""
        ...

    def apply(self, source: Data, boundary: Data) -> Applied:
        """Integrate the kernel against data."""
        ...

    def describe(self) -> dict[str, Any]:
        """All but the arrays, as JSON."""
        ...

    def arrays(self) -> dict[str, np.ndarray]:
        """The arrays by name."""
        ...


def _kind_of(kernel: Any) -> str | None:
    return next((kind for kind, made in _kernels().items() if type(kernel) is made), None)


@dataclass(eq=False)
class Operator:
    """The solution operator of a family: u = int G f dx' + boundary part.

    Attributes:
        kernel: G, which can be evaluated as ``operator.kernel(x, y)``.
        boundary: Dirichlet data used if none is given; a function is not stored in files.
        seconds: wall time of the training.
        status: one sentence on how it ended.
        history: of the training, where there was a loop.
        cost: other numbers.
    """

    kernel: Any
    boundary: Data = 0.0
    seconds: float = 0.0
    status: str = ""
    history: Any = None
    cost: Mapping[str, Any] | None = None

    def __call__(self, source: Data, boundary: Data | None = None) -> Solution:
        """Solve for a source.

        Args:
            source: f, a number or a function of points ``(n, d)`` that returns ``(n,)``, or ``(n, k)`` for k sources.
            boundary: Dirichlet data in the same form, evaluated on the boundary only; None takes the family's own.

        Returns:
            The solution, with ``(n,)`` values, or ``(n, k)`` for k sources. Points outside the domain are refused.

        Raises:
            ValueError: if data have another shape or are not finite.
        """
        begin = time.perf_counter()
        applied = self.kernel.apply(source, self.boundary if boundary is None else boundary)
        seconds = time.perf_counter() - begin
        return Solution(
            applied.field,
            seconds=seconds,
            status=applied.status,
            error_estimate=applied.error,
            dim=self.kernel.domain.dim,
        )

    def save(self, path: str | Path) -> None:
        """Write to one HDF5 file, atomically; `sciml.load` reads it.

        Raises:
            TypeError: if the kernel is of a kind that files do not store.
            OSError: if the folder cannot be written.
        """
        kind = _kind_of(self.kernel)
        if kind is None:
            known = ", ".join(sorted(_kernels()))
            raise TypeError(f"kernel is a {type(self.kernel).__name__}, which files do not store; they store {known}")
        description = {
            "kind": "operator",
            "kernel": kind,
            "describe": self.kernel.describe(),
            "boundary": self.boundary if isinstance(self.boundary, (int, float)) else None,
            "seconds": self.seconds,
            "status": self.status,
            "cost": self.cost,
        }
        write_h5(path, description, self.kernel.arrays())

    @classmethod
    def restore(
        cls, description: Mapping[str, Any], arrays: Mapping[str, np.ndarray], problem: Elliptic | None = None
    ) -> Operator:
        """From what `save` wrote; `problem` gives boundary data that were a function.

        Raises:
            ValueError: if the kernel is of an unknown kind.
        """
        kind = description["kernel"]
        known = _kernels()
        if kind not in known:
            raise ValueError(f"the operator has a kernel of kind {kind!r}, but this sciml knows {', '.join(known)}")
        kernel = known[kind].restore(description["describe"], arrays)
        boundary = description["boundary"]
        if boundary is None:
            boundary = _missing if problem is None else boundary_of(problem)
        return cls(kernel, boundary, description["seconds"], description["status"], None, description["cost"])


def _missing(x: Tensor) -> Tensor:
    raise ValueError(
        "boundary is not given, but the family's own was a function, which no file holds; give it to the call"
    )


def relative(difference: Tensor, reference: Tensor) -> float:
    """|difference| / |reference| in the largest entry; 0 if both vanish."""
    size = float(reference.abs().max())
    gap = float(difference.abs().max())
    return gap / size if size > 0 else (0.0 if gap == 0 else math.inf)
