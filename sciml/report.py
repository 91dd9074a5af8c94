"""Methods side by side on one problem: a table of errors and times, and the figures that go with it.

Measuring and drawing are apart: `side_by_side` solves and measures, `draw_fields` and `draw_training` draw what it
found.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from importlib.resources import files
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from sciml.results import Run
from sciml.solution import Solution, compare

Function = Callable[[Tensor], Tensor]

__all__ = ["ErrorMonitor", "draw_fields", "draw_training", "published", "side_by_side"]


def published(name: str) -> dict[str, Any]:
    """The numbers of a paper, or of authors' code, kept in ``data/published/NAME.json`` with their source."""
    return json.loads((files("sciml.data") / "published" / f"{name}.json").read_text(encoding="utf-8"))


class ErrorMonitor:
    """Training callback: the relative L2 error against a known solution, at log-spaced steps.

    Args:
        exact: the solution.
        domain: where to measure.
        points: how many points.
        first: the first step measured; each next one is 1.25 times later.
    """

    def __init__(self, exact: Function, domain: Any, points: int = 4000, first: int = 10) -> None:
        self.x = domain.interior(points, torch.Generator().manual_seed(1))
        with torch.no_grad():
            self.reference = exact(self.x)
        self.next = float(first)

    def __call__(self, step: Any) -> dict[str, float] | None:
        """Measure if due."""
        if step.number + 1 < self.next:
            return None
        self.next = max(self.next * 1.25, step.number + 2)
        return {"rel_l2": self.measure(step.model)}

    def measure(self, model: nn.Module) -> float:
        """Relative L2 error of a network."""
        like = next(model.parameters())
        with torch.no_grad():
            value = model(self.x.to(like.device, like.dtype)).to("cpu", torch.float64)
        return float(((value - self.reference).square().mean() / self.reference.square().mean()).sqrt())


def side_by_side(
    run: Run,
    problem: Any,
    solvers: Mapping[str, Any],
    truth: Function | None = None,
    tolerate_divergence: bool = False,
) -> dict[str, Any]:
    """Solve a problem by several methods; measure and draw each against the truth.

    Args:
        run: the run folder; finished solutions in it are loaded.
        problem: what to solve.
        solvers: by the name under which they appear.
        truth: what errors are measured against; None takes ``problem.exact``, else the last method.
        tolerate_divergence: keep a diverged method as a row of the table.

    Returns:
        Metrics: by method its errors, seconds and cost, and ``"table"``, the rows to print.
    """
    solutions: dict[str, Solution] = {}
    exact = truth if truth is not None else problem.exact
    for name, solver in solvers.items():
        monitor = [ErrorMonitor(exact, problem.domain)] if exact is not None and hasattr(solver, "stages") else []
        solutions[name] = run.solve(name, solver, problem, callbacks=monitor, tolerate_divergence=tolerate_divergence)
    reference = exact if exact is not None else solutions[list(solutions)[-1]]
    metrics: dict[str, Any] = {}
    rows = []
    for name, solution in solutions.items():
        errors = {} if solution is reference else compare(solution, reference, problem.domain)
        cost = dict(solution.cost or {})
        found = {k: {"value": v, "standard_error": e} for k, (v, e) in (solution.parameters or {}).items()}
        estimate = {} if solution.error_estimate is None else {"error_estimate": solution.error_estimate}
        metrics[name] = {**errors, **estimate, **found, "seconds": solution.seconds, **cost, "status": solution.status}
        rows.append(
            {
                "method": name,
                "unknowns": cost.get("parameters", cost.get("unknowns")),
                "steps": cost.get("steps"),
                "rel_l2": errors.get("rel_l2"),
                "max error": errors.get("max"),
                "seconds": solution.seconds,
                **estimate,
                **{k: f"{v['value']:.5g} +- {v['standard_error']:.1g}" for k, v in found.items()},
            }
        )
    draw_fields(run, problem, solutions, reference)
    draw_training(run, solutions)
    return {**metrics, "table": rows}


def draw_fields(run: Run, problem: Any, solutions: Mapping[str, Function], reference: Function | None) -> None:
    """Save ``solution.png`` and ``error.png``: curves in 1-D, maps in 2-D and space-time, a middle slice beyond."""
    domain = problem.domain
    lower, upper = (edge.numpy() for edge in domain.bounds)
    names = getattr(problem, "coordinates", "") or [f"x{i + 1}" for i in range(domain.dim)]
    count = 1001 if domain.dim == 1 else 201
    axes = [np.linspace(lower[i], upper[i], count) for i in range(min(domain.dim, 2))]
    grids = np.meshgrid(*axes, indexing="ij")
    x = np.tile((lower + upper) / 2, (grids[0].size, 1))
    for i, grid in enumerate(grids):
        x[:, i] = grid.ravel()
    inside = domain.contains(torch.as_tensor(x)).numpy()
    values = {name: on_points(f, x, inside) for name, f in solutions.items()}
    run.array("points", x)
    for name, v in values.items():
        run.array(name, v)
    errors: dict[str, np.ndarray] = {}
    if reference is not None:
        true = on_points(reference, x, inside)
        run.array("reference", true)
        errors = {name: np.abs(v - true) for name, v in values.items() if solutions[name] is not reference}
        if all(f is not reference for f in solutions.values()):
            values = {"exact": true, **values}
    draw = _curves if domain.dim == 1 else _maps
    draw(run, "solution", axes, values, names)
    if errors:
        draw(run, "error", axes, errors, names, logarithmic=True)


def on_points(function: Function, x: np.ndarray, inside: np.ndarray) -> np.ndarray:
    """First component of a function at the points marked inside, NaN elsewhere."""
    values = np.full(len(x), np.nan)
    with torch.no_grad():
        found = torch.cat([torch.as_tensor(function(c)) for c in torch.as_tensor(x[inside]).split(16384)]).numpy()
    values[inside] = found if found.ndim == 1 else found[:, 0]
    return values


def _curves(
    run: Run,
    name: str,
    axes: Sequence[np.ndarray],
    values: Mapping[str, np.ndarray],
    names: Any,
    logarithmic: bool = False,
) -> None:
    with run.figure(name, 7.0, 4.0) as figure:
        ax = figure.subplots()
        for (label, v), style in zip(values.items(), ("-", "--", "-.", ":") * 5, strict=False):
            ax.plot(axes[0], v, style, lw=1.2, label=label)
        ax.set(xlabel=names[0], ylabel="|error|" if logarithmic else "u", yscale="log" if logarithmic else "linear")
        ax.legend()


def _maps(
    run: Run,
    name: str,
    axes: Sequence[np.ndarray],
    values: Mapping[str, np.ndarray],
    names: Any,
    logarithmic: bool = False,
) -> None:
    from matplotlib.colors import LogNorm, Normalize

    rows = math.ceil(len(values) / 4)
    columns = math.ceil(len(values) / rows)
    shape = tuple(map(len, axes))
    # all share the colours, so that a wrong amplitude shows, and whose error is smaller
    bound = float(np.nanmax(np.abs(next(iter(values.values()))))) or 1.0
    norm: Any = Normalize(-bound, bound)
    if logarithmic:
        tops = [max(float(np.nanmax(v)), 1e-300) for v in values.values()]
        norm = LogNorm(min(tops) * 1e-2, max(*tops, min(tops) * 2))
    with run.figure(name, 3.2 * columns + 0.9, 3.2 * rows) as figure:
        panels = list(np.ravel(figure.subplots(rows, columns)))
        for ax, (label, v) in zip(panels, values.items(), strict=False):
            shown = np.maximum(v, norm.vmin) if logarithmic else v
            image = ax.pcolormesh(
                *axes, shown.reshape(shape).T, norm=norm, cmap="viridis" if logarithmic else "RdBu_r", rasterized=True
            )
            ax.set(title=label, xlabel=names[0], ylabel=names[1], aspect="auto" if "t" in names else "equal")
        for ax in panels[len(values) :]:
            ax.remove()
        figure.colorbar(image, ax=panels[: len(values)], shrink=0.8, label="|error|" if logarithmic else "u")


def draw_training(run: Run, solutions: Mapping[str, Solution]) -> None:
    """Save ``training.png``: loss terms by step and, where recorded, the error by seconds, of what was trained."""
    trained = {k: s for k, s in solutions.items() if getattr(s.history, "steps", None)}
    if not trained:
        return
    timed = any("rel_l2" in r for s in trained.values() for r in s.history.records)
    with run.figure("training", 11.0 if timed else 6.0, 4.0) as figure:
        left, *others = figure.subplots(1, 2 if timed else 1, squeeze=False)[0]
        for k, (name, solution) in enumerate(trained.items()):
            steps = solution.history.steps
            stride = max(1, len(steps) // 2000)
            for style, term in zip(
                ("-", "--", ":", "-."), sorted(steps[-1].keys() - {"step", "seconds", "loss"}), strict=False
            ):
                rows = [r for r in steps[::stride] if term in r]
                label = f"{name}: {term}"
                left.plot(
                    [r["step"] for r in rows], [abs(r[term]) for r in rows], style, c=f"C{k}", lw=0.7, label=label
                )
            rows = [r for r in solution.history.records if "rel_l2" in r]
            for right in others if rows else ():
                right.plot([r["seconds"] for r in rows], [r["rel_l2"] for r in rows], c=f"C{k}", label=name)
        for k, (name, solution) in enumerate(solutions.items(), start=len(trained)):
            for right in others if name not in trained else ():
                right.axvline(solution.seconds, c=f"C{k}", ls=":", lw=1, label=f"{name} done")
        left.set(xlabel="step", ylabel="|loss term|", yscale="log")
        for right in others:
            right.set(xlabel="seconds", ylabel="relative L2 error", yscale="log", xscale="log")
        for ax in (left, *others):
            if ax.get_legend_handles_labels()[0]:
                ax.legend(fontsize=7)
