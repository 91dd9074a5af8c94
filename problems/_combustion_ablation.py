"""What transforms and samples are worth: the papers' plain pipeline, F(Y') = F(Y) + S N(F(Y)), in every mix of both.

F is nothing, the logarithm or the Box-Cox transform of the fractions; the last case has the generalised Box-Cox
transform on the increments as well. No conservation, no temperature from enthalpy: network and transform alone
(arXiv:2201.03549, arXiv:2401.01220, arXiv:2512.05685).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from types import SimpleNamespace
from typing import Any

import numpy as np

from sciml.chemistry import accuracy, labels
from sciml.chemistry.labels import Dataset
from sciml.chemistry.mechanism import Mechanism
from sciml.chemistry.recipe import Sampling, draw, grid_of
from sciml.chemistry.sampling import Ranges
from sciml.flowmap import FlowMap
from sciml.results import Run
from sciml.training import Adam, cosine
from sciml.transforms import BoxCox, Identity, Log, Transform

TRANSFORMS: dict[str, tuple[Callable[[], Transform], float | None]] = {
    "none": (Identity, None),
    "log": (Log, None),
    "Box-Cox": (BoxCox, None),
    "Box-Cox, generalised": (BoxCox, 0.5),
}
KINDS = ("monte carlo", "manifold", "perturbed", "multi-scale", "evolution")


class Plain:
    """A flow map of T and the fractions at constant pressure with the face of a surrogate."""

    def __init__(self, model: FlowMap, mechanism: Mechanism, dt: float) -> None:
        self.model, self.dt = model, dt
        self.settings = SimpleNamespace(
            reactor="constant-pressure", species=mechanism.species, reactive=tuple(mechanism.reactive)
        )

    def step(self, states: np.ndarray) -> np.ndarray:
        """States (n, 2+s) one step later; what is no longer finite becomes zero, and T stays within 200 to 5000 K."""
        after = np.array(states, dtype=float)
        inside = np.delete(after, 1, axis=1)
        moved = np.nan_to_num(self.model.step(inside), posinf=0.0, neginf=0.0)
        after[:, 0] = np.clip(moved[:, 0], 200.0, 5000.0)
        Y = np.clip(moved[:, 1:], 0.0, 1.0)
        after[:, 2:] = Y / np.maximum(Y.sum(1, keepdims=True), 1e-300)
        return after

    def rollout(self, states: np.ndarray, steps: int) -> np.ndarray:
        """States (n, steps+1, 2+s), the initial one first."""
        path = [np.array(states, dtype=float)]
        for _ in range(steps):
            path.append(self.step(path[-1]))
        return np.stack(path, 1)


@dataclass(frozen=True)
class Trial:
    """What one mix is trained with.

    Attributes:
        widths: hidden layers.
        steps: of Adam.
        batch: pairs per step.
    """

    widths: tuple[int, ...]
    steps: int
    batch: int


def learnt(dataset: Dataset, mechanism: Mechanism, transform: str, trial: Trial, seed: int) -> Plain:
    """Train one mix."""
    make, general = TRANSFORMS[transform]
    before, after = (np.delete(states, 1, axis=1) for states in (dataset.states, dataset.next_states))
    model, _ = FlowMap.fit(
        before,
        after,
        dataset.dt,
        [False, *[True] * mechanism.n_species],
        trial.widths,
        [Adam(trial.steps, lr=2e-3, schedule=cosine)],
        batch=trial.batch,
        relative=False,
        lmbda=make(),
        general=general,
        seed=seed,
    )
    return Plain(model, mechanism, dataset.dt)


def table(
    run: Run, mechanism: Mechanism, ranges: Ranges, sampling: Sampling, dt: float, trial: Trial, perturbations: int
) -> dict[str, Any]:
    """Every transform on every kind of samples: one-step, rollout and robustness columns."""
    rng = np.random.default_rng([run.seed, 2])
    charges, kicked = grid_of(mechanism, ranges, (3, 2)), ranges.charges(mechanism, perturbations, rng)
    held = replace(sampling, kinds=("manifold",), states=600, ignitions=4, flames=0)
    test = draw(mechanism, ranges, held, run.seed + 1000).samples.states
    done = mechanism.advance(test, dt)
    test, after = test[done.ok], done.states[done.ok]
    rows = []
    for kind in KINDS:
        drawn = draw(mechanism, ranges, replace(sampling, kinds=(kind,), flames=0), run.seed)
        dataset = labels.label(mechanism, drawn.samples, run.path / "labels.h5", dt, 1, seed=run.seed)
        print(f"{kind}: {len(dataset)} pairs", flush=True)
        for transform in TRANSFORMS:
            model: Any = learnt(dataset, mechanism, transform, trial, run.seed)
            found = accuracy.ignitions(model, mechanism, charges)
            recovery = accuracy.recovery(model, mechanism, kicked, np.random.default_rng([run.seed, 3]))
            rows.append(
                {
                    "samples": kind,
                    "transform": transform,
                    "pairs": len(dataset),
                    "one step": accuracy.overall(accuracy.one_step(model, test, after)),
                    "ignited": int(np.isfinite(found.found).sum()),
                    "delay error, median": float(np.median(found.error)),
                    "final T error (K)": float(np.median(np.abs(found.final))),
                    "recovered": recovery["recovered"],
                    "delay error, perturbed": recovery["delay error, median"],
                }
            )
            print(f"  {transform}: one step {rows[-1]['one step']:.3g}", flush=True)
    draw_table(run, rows)
    return {"charges": len(charges), "table": rows}


def draw_table(run: Run, rows: list[dict[str, Any]]) -> None:
    """One-step errors and delay errors by mix."""
    with run.figure("ablation") as figure:
        for axes, column in zip(figure.subplots(1, 2), ("one step", "delay error, median"), strict=True):
            values = [[r[column] for r in rows if r["samples"] == kind] for kind in KINDS]
            shown = np.log10(np.clip(np.array(values, dtype=float), 1e-4, 10.0))
            image = axes.imshow(shown, cmap="viridis_r", aspect="auto")
            axes.set_xticks(range(len(TRANSFORMS)), list(TRANSFORMS), rotation=30, ha="right")
            axes.set_yticks(range(len(KINDS)), list(KINDS))
            axes.set_title(f"log10 of {column}")
            figure.colorbar(image, ax=axes)
