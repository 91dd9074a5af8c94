"""The experiment for a file that only states a problem: solve it, measure the error, draw the solution.

    from sciml import Box, Elliptic

    problem = Elliptic(Box([0, 0], [1, 1]), source=1.0, boundary=0.0)

is a whole file for ``sciml run``. It may also state ``solver`` and ``reference`` (anything with
``solve(problem, ...)``). Without these, a default `MscaleSolver` solves, and the reference is the exact solution if the
problem has one, else finite differences where they apply.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from sciml.problem import PDE, Elliptic, Evolution
from sciml.results import Run
from sciml.solution import Solution, compare
from sciml.solvers.differences import FiniteDifference
from sciml.solvers.mscale import MscaleSolver

__all__ = ["run_own"]

_CELLS = {1: 1024, 2: 256, 3: 48}


def run_own(module: Any, run: Run) -> dict[str, Any]:
    """Solve ``module.problem`` into `run` and return the metrics, with a table of methods.

    Args:
        module: with ``problem``, and perhaps ``solver`` and ``reference``.
        run: the run folder.
    """
    problem = module.problem
    solver = getattr(module, "solver", MscaleSolver())
    for name in ("solver", "reference"):
        given = getattr(module, name, solver)
        if not hasattr(given, "solve"):
            raise TypeError(f"{name} is {given!r}, but must be a solver such as MscaleSolver()")
    solution = run.solve("solution", solver, problem)
    rows, truth = [_row("solution", solver, solution)], problem.exact
    metrics: dict[str, Any] = {"status": solution.status, "seconds": solution.seconds}
    other = getattr(module, "reference", _default_reference(problem))
    if other is not None:
        computed = run.solve("reference", other, problem)
        rows.append(_row("reference", other, computed))
        if truth is not None:
            rows[1] |= _errors(compare(computed, truth, problem.domain))
    if truth is None and other is not None:
        truth = computed
    if truth is not None:
        metrics |= {"against": "reference" if problem.exact is None else "exact solution"}
        metrics |= compare(solution, truth, problem.domain)
        rows[0] |= _errors(metrics)
    if isinstance(problem, PDE):
        metrics["residual_rms"] = _residual(problem, solution)
    if solution.error_estimate is not None:
        metrics["error_estimate"] = solution.error_estimate
    if solution.parameters:
        metrics["parameters"] = {k: {"value": v, "standard_error": e} for k, (v, e) in solution.parameters.items()}
    draw(run, problem, solution, truth)
    return {**metrics, "table": rows}


def _default_reference(problem: Any) -> Any:
    """Finite differences where they apply: `Elliptic` in up to three dimensions, `Evolution` in one."""
    limit = {Elliptic: 3, Evolution: 2}.get(type(problem), 0)  # an Evolution's domain counts time
    d = problem.domain.dim
    return FiniteDifference(n=_CELLS[d]) if d <= limit else None


def _row(name: str, solver: Any, solution: Solution) -> dict[str, Any]:
    return {"": name, "method": type(solver).__name__, "rel_l2": None, "max": None, "seconds": solution.seconds}


def _residual(problem: PDE, solution: Solution) -> float:
    """Root mean square of the equations' residuals at 2000 points: all that is known where nothing else is."""
    found = {k: torch.tensor(v[0], dtype=torch.float64) for k, v in (solution.parameters or {}).items()}
    parts = problem.residual(solution, problem.domain.interior(2000), found)
    return float(torch.stack([r.detach().square().mean() for r in parts]).sum().sqrt())


def _errors(metrics: dict[str, Any]) -> dict[str, Any]:
    return {k: metrics[k] for k in ("rel_l2", "max")}


def draw(run: Run, problem: Any, solution: Solution, reference: Callable[[torch.Tensor], torch.Tensor] | None) -> None:
    """Save ``solution.png`` (curve in 1-D, map in 2-D or space-time, middle slice beyond) and ``loss.png``."""
    domain = problem.domain
    lower, upper = (edge.numpy() for edge in domain.bounds)
    names = getattr(problem, "coordinates", "") or [f"x{i + 1}" for i in range(domain.dim)]
    if domain.dim == 1:
        x = np.linspace(lower[0], upper[0], 1001)[:, None]
        axes = [x]
    else:
        axes = [np.linspace(lower[i], upper[i], 241) for i in (0, 1)]
        first, second = np.meshgrid(*axes, indexing="ij")
        x = np.tile((lower + upper) / 2, (first.size, 1))
        x[:, 0], x[:, 1] = first.ravel(), second.ravel()
    inside = domain.contains(torch.as_tensor(x)).numpy()
    maps = {"solution": _on(solution, x, inside)}
    if reference is not None:
        maps["reference"] = _on(reference, x, inside)
    run.array("points", x)
    for name, values in maps.items():
        run.array(name, values)
    with run.figure("solution", 5.0 * (1 if domain.dim == 1 else len(maps) + (len(maps) > 1)), 4.0) as figure:
        if domain.dim == 1:
            _curves(figure, x[:, 0], maps, names[0])
        else:
            _maps(figure, axes, maps, names)
    steps = getattr(solution.history, "steps", [])
    if steps:
        with run.figure("loss", 6.0, 4.0) as figure:
            ax = figure.subplots()
            for term in sorted(steps[-1].keys() - {"step", "seconds"}):
                ax.plot([row["step"] for row in steps], [abs(row[term]) for row in steps], lw=0.8, label=term)
            ax.set(xlabel="step", ylabel="|term|", yscale="log")
            ax.legend()


def _on(function: Callable[[torch.Tensor], torch.Tensor], x: np.ndarray, inside: np.ndarray) -> np.ndarray:
    """First component at the points inside, NaN outside."""
    values = np.full(len(x), np.nan)
    if isinstance(function, Solution):
        found = function(x[inside])
    else:
        with torch.no_grad():
            found = function(torch.as_tensor(x[inside])).numpy()
    values[inside] = found if found.ndim == 1 else found[:, 0]
    return values


def _curves(figure: Any, x: np.ndarray, maps: dict[str, np.ndarray], name: str) -> None:
    ax = figure.subplots()
    for (label, values), style in zip(maps.items(), ("-", "--"), strict=False):
        ax.plot(x, values, style, label=label)
    ax.set(xlabel=name, ylabel="u")
    ax.legend()


def _maps(figure: Any, axes: list[np.ndarray], maps: dict[str, np.ndarray], names: Any) -> None:
    if "reference" in maps:
        maps = {**maps, "error": maps["solution"] - maps["reference"]}
    shape = tuple(map(len, axes))
    for ax, (label, values) in zip(np.ravel(figure.subplots(1, len(maps))), maps.items(), strict=True):
        bound = {"vmin": -np.nanmax(abs(values)), "vmax": np.nanmax(abs(values))} if label == "error" else {}
        image = ax.pcolormesh(*axes, values.reshape(shape).T, cmap="RdBu_r" if bound else "viridis", **bound)
        ax.set(title=label, xlabel=names[0], ylabel=names[1])
        figure.colorbar(image, ax=ax, shrink=0.8)
