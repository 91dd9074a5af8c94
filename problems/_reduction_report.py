"""What `mechanism_reduction` tells of its answer: the header of the file, tables of errors, the front and figures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from sciml.chemistry.conditions import Conditions
from sciml.chemistry.evaluation import Evaluation, error_table
from sciml.chemistry.mechanism import Mechanism
from sciml.chemistry.metrics import Burnt, Corners, Metric
from sciml.chemistry.reduction import Reduction, single_harm
from sciml.files import jsonable, write_json

if TYPE_CHECKING:
    from .mechanism_reduction import Config

_BARS = 150  # in a figure; a longer one could not be read, nor written at all


def names(mechanism: Mechanism, mask: np.ndarray) -> list[str]:
    """Species of a mask."""
    return [name for name, keep in zip(mechanism.species, mask, strict=True) if keep]


def applies(metric: Metric, conditions: Conditions) -> bool:
    """Whether the metric is measured at any of these conditions."""
    if isinstance(metric, Corners):
        return False
    low, high = getattr(metric, "phis", (0.0, np.inf))
    return any(low <= phi <= high for _, _, phi in conditions.points)


def provenance(config: Config, run: Any, evaluate: Evaluation, found: Reduction, reactions: int) -> dict[str, Any]:
    """What stands in the header of the file."""
    points = np.array(evaluate.conditions.points)
    return {
        "parent": Path(config.mechanism).name,
        "conditions": {
            "fuel": evaluate.conditions.fuel,
            "oxidiser": evaluate.conditions.oxidiser,
            "temperatures (K)": np.unique(points[:, 0]).tolist(),
            "pressures (Pa)": np.unique(points[:, 1]).tolist(),
            "equivalence ratios": np.unique(points[:, 2]).tolist(),
            **({} if evaluate.conditions.is_grid else {"rows (K, Pa, 1)": points.tolist()}),
        },
        "metrics": {m.name: told(m) for m in evaluate.metrics},
        "species": found.size,
        "reactions": reactions,
        "simulated masks of species": found.simulated,
        "seed": run.seed,
    }


def told(metric: Metric) -> dict[str, Any]:
    """Its options."""
    return {k: v for k, v in jsonable(asdict(metric)).items() if v is not None}  # type: ignore[call-overload]


def report(
    config: Config, run: Any, evaluate: Evaluation, found: Reduction, rows: list[dict[str, Any]], species: Sequence[str]
) -> dict[str, Any]:
    """Verify the written file on design and held-out conditions, draw, and collect the metrics."""
    mechanism, reduced = evaluate.mechanism, Mechanism(run.path / "reduced.yaml")
    tables = {"design": error_table(mechanism, reduced, evaluate.conditions, evaluate.started)}
    if len(set(evaluate.conditions.points)) > 1:  # nothing lies between the rows of a table of one
        held_out = evaluate.conditions.between().within(mechanism)
        chosen = [m for m in evaluate.metrics if applies(m, held_out)]
        tables["held out"] = error_table(mechanism, reduced, held_out, chosen)
    if not (config.burnt and config.burnt_hot):  # not asked for, but nobody should have to guess it
        tables["burnt gas from all temperatures"] = error_table(mechanism, reduced, evaluate.conditions, [Burnt()])
    draw(run, evaluate, found, single_harm(found.archive, np.zeros(mechanism.n_species, bool)))
    errors = [{"points": where, **row} for where, table in tables.items() for row in table]
    front = pareto(evaluate, found)
    write_json(run.path / "front.json", front)
    beyond = max((row["max"] / row["tolerance"] for row in tables.get("held out", ())), default=None)
    return {
        "largest held-out error / tolerance": beyond,
        "species": reduced.n_species,
        "reactions": reduced.n_reactions,
        "names": list(species),
        "methods": {row["method"]: row for row in rows},
        "errors": {where: {row["metric"]: row for row in table} for where, table in tables.items()},
        "front": {str(row["species"]): row["worst error / tolerance"] for row in front},
        "table": [*rows, *errors],
    }


def pareto(evaluate: Evaluation, found: Reduction) -> list[dict[str, Any]]:
    """The front of species against error: what to keep for each number of species."""
    archive = found.archive
    return [
        {
            "species": int(archive.objectives[i]),
            "worst error / tolerance": float(archive.worst[i]),
            "names": names(evaluate.mechanism, archive.designs[i] > 0.5),
        }
        for i in archive.front()
    ]


def draw(run: Any, evaluate: Evaluation, found: Reduction, harm: np.ndarray) -> None:
    """Figures: the front, the error of each condition, and which species mattered."""
    archive, worst = found.archive, np.maximum(found.archive.worst, 1e-4)  # the parent's own is rounding
    finite = np.isfinite(worst)
    with run.figure("front") as figure:
        axes = figure.subplots()
        axes.semilogy(archive.objectives[finite], worst[finite], ".", color="0.7", label="simulated")
        front = archive.front()
        axes.semilogy(archive.objectives[front], worst[front], "o-", label="front")
        axes.axhline(1.0, color="k", lw=0.8)
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.set(xlabel="species", ylabel="largest error / tolerance")
        axes.legend()
    errors = np.abs(archive.errors[archive.best])
    shown = np.sort(np.argsort(errors, kind="stable")[-_BARS:])  # the largest, in the order of the table
    with run.figure("errors", height=max(3.0, 0.16 * len(shown))) as figure:
        axes = figure.subplots()
        axes.barh(range(len(shown)), errors[shown])
        axes.set_yticks(range(len(shown)), [evaluate.labels[k] for k in shown], fontsize=5)
        axes.axvline(1.0, color="k", lw=0.8)
        axes.margins(y=0.01)
        axes.invert_yaxis()  # as in the table
        axes.set_xlabel("error / tolerance")
    # those that went together with others were never deleted alone, so nothing is known of each
    order = [k for k in np.argsort(harm, kind="stable") if np.isfinite(harm[k]) or found.mask[k]][-_BARS:]
    with run.figure("species", height=max(3.0, 0.14 * len(order))) as figure:
        axes = figure.subplots()
        values = np.clip(harm, 1e-6, 1e3)[order]
        colours = ["tab:blue" if found.mask[k] else "0.7" for k in order]
        axes.barh(range(len(order)), values, color=colours)
        axes.set_yticks(range(len(order)), [evaluate.mechanism.species[k] for k in order], fontsize=5)
        axes.margins(y=0.01)
        said = "error when deleted alone / tolerance (blue: kept; full bars: never deleted, or nothing burns without)"
        axes.set(xscale="log", xlabel=said)
