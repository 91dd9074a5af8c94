"""Learn the Green's function of a family of linear problems, and with it the operator from data to solutions (MOD-Net).

    u(x) = int G(x, x') f(x') dx' + int H(x, b) g(b) db             (arXiv:2107.03673)

    family = Family(Elliptic(Box([0, 0], [1, 1]), source=1.0, boundary=0.0), sources=sampler)
    operator = GreensSolver().solve(family)
    operator(source)(points)

The kernel is the option: `SingularityAware` knows the fundamental solution and learns the smooth rest; `LowRank` learns
sum phi_k(x) psi_k(x') for coefficients that vary; `Trained` trains a network, plain or symmetric, on the equation and
a few coarse labels, and with a second network F also nonlinear problems and initial values, u = F(x, int G g). Of
nonlinear families, `Semilinear` solves boundary-value problems by Newton's method on a learned linear operator, and
`Semigroup` composes learned operators of short times.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from sciml.problem import Elliptic, Evolution
from sciml.solution import Solution
from sciml.solvers.members import Family, boundary_of, constant_boundary
from sciml.solvers.operator import Operator
from sciml.solvers.singular_kernel import SingularityAware

__all__ = ["ByOperator", "Family", "GreensSolver", "Operator"]


@dataclass(frozen=True)
class GreensSolver:
    """Learn the solution operator of a family.

    Attributes:
        kernel: options of the kernel, which say how it is learned.
    """

    kernel: Any = field(default_factory=SingularityAware)

    def solve(
        self,
        family: Family | Elliptic,
        seed: int = 0,
        callbacks: Sequence[Callable[[Any], Any]] = (),
        checkpoint: str | Path | None = None,
    ) -> Operator:
        """Learn the kernel.

        Args:
            family: a family, or one problem whose source and boundary data are to be varied.
            seed: of all random draws.
            callbacks: called after each step of a training loop.
            checkpoint: of a training loop.

        Raises:
            ValueError: if the equation is nonlinear or the kernel does not fit the problem.
        """
        family = family if isinstance(family, Family) else Family(family)
        boundary = boundary_of(family.problem)
        if getattr(self.kernel, "head", None) is None:
            _refuse_nonlinear(family.problem)
        begin = time.perf_counter()
        kernel, status, history = self.kernel.learn(family, seed=seed, callbacks=callbacks, checkpoint=checkpoint)
        constant = constant_boundary(family.problem)
        stored = boundary if constant is None else constant
        return Operator(kernel, stored, time.perf_counter() - begin, status, history, kernel_cost(kernel))


def _refuse_nonlinear(problem: Any) -> None:
    if not isinstance(problem, Elliptic):
        kind = type(problem).__name__
        raise ValueError(
            f"problem is of the kind {kind}, but u = int G f needs a linear Elliptic problem; "
            "use Semilinear or Semigroup"
        )
    if not problem.linear:
        p = problem.p
        raise ValueError(
            f"problem is nonlinear (p = {p:g}), but u = int G f needs a linear equation (p = 2); use Trained(head=...)"
        )


def kernel_cost(kernel: Any) -> dict[str, Any]:
    """The number of learned parameters."""
    return {"parameters": int(sum(a.size for a in kernel.arrays().values()))}


@dataclass(frozen=True)
class ByOperator:
    """The solver of one problem by the operator of its family.

    Attributes:
        solver: learns the operator.
        family: what it is learned for.
        path: where it is kept.
    """

    solver: GreensSolver
    family: Family
    path: Path

    def solve(
        self, problem: Any, seed: int = 0, callbacks: Sequence[Any] = (), checkpoint: str | None = None
    ) -> Solution:
        """Learn the operator, keep it, and apply it to the data that the problem states."""
        operator = self.solver.solve(self.family, seed, callbacks, checkpoint)
        operator.save(self.path)
        data = getattr(problem, "initial" if isinstance(problem, Evolution) else "source", 0.0)
        solution = operator(data)
        status = f"{operator.status}; {solution.status}"
        return replace(
            solution,
            problem=problem,
            history=operator.history,
            seconds=operator.seconds + solution.seconds,
            status=status,
            cost=operator.cost,
        )
