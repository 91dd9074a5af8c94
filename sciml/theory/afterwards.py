"""Diagnostics of runs that are over: records that were saved, and measuring over the parameters that a run kept."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from sciml.files import read_h5, read_json, write_h5
from sciml.theory.diagnostic import Diagnostic, Record, Schedule, State, log_spaced
from sciml.theory.functional import Closure

__all__ = ["Snapshots", "read_records", "replay"]


def read_records(path: str | Path) -> list[Record]:
    """The records of a diagnostic that was saved, for `Diagnostic.plot` and `Diagnostic.series`.

    Raises:
        ValueError: if the file is not one of `Diagnostic.save`.
    """
    kept = read_json(path)
    if not isinstance(kept, dict) or kept.get("kind") != "diagnostic":
        raise ValueError(f"{path} is not a file of records; Diagnostic.save writes NAME.diagnostic.json")
    return [{k: _numbers(v) for k, v in r.items()} for r in kept["records"]]


def _numbers(value: Any) -> Any:
    """JSON has no nan and inf, so they were written as words."""
    if isinstance(value, list):
        return [_numbers(v) for v in value]
    return float(value) if value in ("nan", "inf", "-inf") else value


class Snapshots:
    """Callback that keeps the parameters of a run, one small file per scheduled step, for `replay`.

    Args:
        folder: made if it does not exist.
        schedule: which steps; None is `log_spaced`.
    """

    def __init__(self, folder: str | Path, schedule: Schedule | None = None) -> None:
        self.folder = Path(folder)
        self.schedule = log_spaced() if schedule is None else schedule

    def __call__(self, step: Any) -> None:
        """Write, if the step is due."""
        if not self.schedule(step.number):
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        about = {"kind": "snapshot", "step": step.number, "seconds": step.seconds, "loss": step.loss}
        arrays = {k: v.detach().cpu().numpy() for k, v in step.model.state_dict().items()}
        write_h5(self.folder / f"{step.number:09d}.snapshot.h5", {**about, "terms": dict(step.terms)}, arrays)


def replay(
    diagnostic: Diagnostic, model: Any, folder: str | Path, losses: Mapping[str, Closure] | None = None
) -> list[Record]:
    """Measure over the `Snapshots` of a finished run, in order of their steps.

        solution = sciml.load("runs/mine/network.h5", problem)
        theory.replay(probe, solution, "runs/mine")
        probe.save("runs/mine", "network")

    Args:
        diagnostic: its `records` grow as if it had been there.
        model: a network of the same shape, or the Solution that holds it; its parameters are the same afterwards.
        folder: where the snapshots are: their folder, or a run folder with one such folder inside.
        losses: for diagnostics that need the objective; see `loss_closures`.

    Raises:
        ValueError: if the folder has no snapshots, several sets of them, or those of another network.
    """
    model = State.of(model).module
    paths = sorted(Path(folder).rglob("*.snapshot.h5"))
    if not paths:
        raise ValueError(f"{folder} holds no snapshots; train with callbacks=[theory.Snapshots(folder)] to keep some")
    if len(places := sorted({str(p.parent) for p in paths})) > 1:
        raise ValueError(f"{folder} holds several sets of snapshots, so give one of {', '.join(places)}")
    kept = {k: v.clone() for k, v in model.state_dict().items()}
    try:
        for path in paths:
            about, arrays = read_h5(path)
            try:
                model.load_state_dict({k: torch.as_tensor(np.array(v)) for k, v in arrays.items()})
            except RuntimeError as error:
                raise ValueError(
                    f"{path} is a snapshot of another network than the {type(model).__name__} given"
                ) from error
            diagnostic.record(
                State(model, about["step"], about["seconds"], about["loss"], about["terms"], losses or {})
            )
    finally:
        model.load_state_dict(kept)
    return diagnostic.records
