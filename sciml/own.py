"""The experiment for a file that only states a problem: solve it, measure the error, draw the solution.

    from sciml import Box, Elliptic

    problem = Elliptic(Box([0, 0], [1, 1]), source=1.0, boundary=0.0)

is a whole file for ``sciml run``. It may also state ``solver`` and ``reference``, anything with a method ``solve``.
Without these, `sciml.solve` chooses the method, beside finite differences where they apply. Errors are measured against
the exact solution if the problem has one, else against the reference.

With a `GreensSolver`, ``problem`` may be a `Family`: its operator is learned, kept as ``operator.h5``, and applied to
what the family's problem states.
"""

from __future__ import annotations

from typing import Any

from sciml.problem import PDE, Elliptic, Evolution
from sciml.report import side_by_side
from sciml.results import Run
from sciml.solution import Solution
from sciml.solvers.differences import FiniteDifference
from sciml.solvers.front import solve
from sciml.solvers.greens import ByOperator, Family, GreensSolver

__all__ = ["run_own"]

_CELLS = {1: 1024, 2: 256, 3: 48}


class _Chosen:
    """`sciml.solve` with the face of a solver."""

    def solve(self, problem: Any, seed: int = 0, callbacks: Any = (), checkpoint: Any = None) -> Solution:
        del checkpoint  # an interrupted search for a method begins again
        return solve(problem, seed=seed, callbacks=callbacks)


def run_own(module: Any, run: Run) -> dict[str, Any]:
    """Solve ``module.problem`` into `run` and return the metrics, with a table of methods.

    Args:
        module: with ``problem``, and perhaps ``solver`` and ``reference``.
        run: the run folder.

    Raises:
        TypeError: if one of the three is something else than its name says.
    """
    family = module.problem if isinstance(module.problem, Family) else None
    problem = module.problem if family is None else family.problem
    if not isinstance(problem, (Elliptic, Evolution, PDE)):
        raise TypeError(f"problem is {problem!r}, but must be an Elliptic, an Evolution or a PDE")
    solver = getattr(module, "solver", _Chosen() if family is None else GreensSolver())
    reference = getattr(module, "reference", None)
    for name, given in (("solver", solver), ("reference", reference or solver)):
        if not hasattr(given, "solve") or isinstance(given, type):
            raise TypeError(f"{name} is {given!r}, but must be a solver such as MscaleSolver()")
    if family is not None and not isinstance(solver, GreensSolver):
        raise TypeError(f"solver is {solver!r}, but a Family needs a GreensSolver")
    solvers = {"solve" if isinstance(solver, _Chosen) else type(solver).__name__: solver}
    if isinstance(solver, GreensSolver):
        solvers["GreensSolver"] = ByOperator(solver, family or Family(problem), run.path / "operator.h5")
    reference = reference or _default_reference(problem)
    if reference is not None:
        name = type(reference).__name__
        solvers[f"{name} reference" if name in solvers else name] = reference
    return side_by_side(run, problem, solvers)


def _default_reference(problem: Any) -> Any:
    """Finite differences where they apply: `Elliptic` in up to three dimensions, `Evolution` in one."""
    limit = {Elliptic: 3, Evolution: 2}.get(type(problem), 0)  # an Evolution's domain counts time
    d = problem.domain.dim
    return FiniteDifference(n=_CELLS[d]) if d <= limit else None
