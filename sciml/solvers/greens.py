"""Learn the Green's function of a family of linear problems, and with it the operator from data to solutions (MOD-Net).

    u(x) = int G(x, x') f(x') dx' + int H(x, b) g(b) db             (arXiv:2107.03673)

    family = Family(Elliptic(Box([0, 0], [1, 1]), source=1.0, boundary=0.0), sources=sampler)
    operator = GreensSolver().solve(family)
    operator(source)(points)

The kernel is the option: `SingularityAware` knows the fundamental solution and learns the smooth rest; `LowRank` learns
sum phi_k(x) psi_k(x') for coefficients that vary.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sciml.problem import Elliptic
from sciml.solvers.operator import Family, Operator, boundary_of
from sciml.solvers.singular_kernel import SingularityAware

__all__ = ["Family", "GreensSolver", "Operator"]


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
        if not family.problem.linear:
            p = family.problem.p
            raise ValueError(f"problem is nonlinear (p = {p:g}), but u = int G f needs a linear equation (p = 2)")
        boundary = boundary_of(family.problem)
        begin = time.perf_counter()
        kernel, status, history = self.kernel.learn(family, seed=seed, callbacks=callbacks, checkpoint=checkpoint)
        given = family.problem.conditions[0].value  # type: ignore[attr-defined]
        stored = float(given) if isinstance(given, (int, float)) else boundary
        return Operator(kernel, stored, time.perf_counter() - begin, status, history, kernel_cost(kernel))


def kernel_cost(kernel: Any) -> dict[str, Any]:
    """The number of learned parameters."""
    return {"parameters": int(sum(a.size for a in kernel.arrays().values()))}
