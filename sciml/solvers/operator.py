"""Operators: what solves a family of problems, as a function from data to solutions.

operator = GreensSolver().solve(Family(problem, sources=sampler))
solution = operator(lambda x: torch.sin(x[:, 0]))
operator.save("green.h5"); sciml.load("green.h5")(source)(points)
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from torch import Tensor

from sciml.domain import Domain
from sciml.files import write_h5
from sciml.solution import Solution
from sciml.solvers.lowrank import LowRankKernel
from sciml.solvers.members import Applied, Data, boundary_of
from sciml.solvers.semigroup import SemigroupKernel
from sciml.solvers.semilinear import SemilinearKernel
from sciml.solvers.singular_kernel import SingularKernel
from sciml.solvers.trained import TrainedKernel

__all__ = ["LearnedKernel", "Operator"]

# kind in the file -> class that restores it
_KERNELS: dict[str, Any] = {
    "singular": SingularKernel,
    "lowrank": LowRankKernel,
    "trained": TrainedKernel,
    "semigroup": SemigroupKernel,
    "semilinear": SemilinearKernel,
}


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
    return next((kind for kind, made in _KERNELS.items() if type(kernel) is made), None)


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
            source: f, a number or a function of points ``(n, d)`` that returns ``(n,)``, or ``(n, k)`` for k sources;
                of an `Evolution`, the initial values, a function of points in space.
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
            known = ", ".join(sorted(_KERNELS))
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
    def restore(cls, description: Mapping[str, Any], arrays: Mapping[str, np.ndarray], problem: Any = None) -> Operator:
        """From what `save` wrote; `problem` gives boundary data that were a function.

        Raises:
            ValueError: if the kernel is of an unknown kind.
        """
        kind = description["kernel"]
        if kind not in _KERNELS:
            raise ValueError(f"the operator has a kernel of kind {kind!r}, but this sciml knows {', '.join(_KERNELS)}")
        own = {"problem": problem} if kind == "semilinear" else {}  # whose equation no file holds
        kernel = _KERNELS[kind].restore(description["describe"], arrays, **own)
        boundary = description["boundary"]
        if boundary is None:
            boundary = _missing if problem is None else boundary_of(problem)
        return cls(kernel, boundary, description["seconds"], description["status"], None, description["cost"])


def _missing(x: Tensor) -> Tensor:
    raise ValueError(
        "boundary is not given, but the family's own was a function, which no file holds; give it to the call"
    )
