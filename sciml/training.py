"""The one training loop.

`fit` runs stages (`Adam`, `LBFGS`, ...: see `stages` and `optimizers`) over batches of an objective; checkpoints,
divergence, budgets, callbacks and progress are written once, here.

A checkpoint holds everything that decides the rest of the run (parameters, optimiser, generator, history): a resumed
run continues bit for bit as if it had never been interrupted.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from sciml.objective import Batch, Objective
from sciml.progress import bar
from sciml.results import read_h5, write_h5
from sciml.stages import LBFGS, Adam, Stage, Stepper, Tree, Work, constant, cosine, exponential

__all__ = [
    "LBFGS",
    "Adam",
    "Callback",
    "Deadline",
    "EarlyStopping",
    "History",
    "Stage",
    "Step",
    "StopTraining",
    "constant",
    "cosine",
    "exponential",
    "fit",
]


class StopTraining(Exception):
    """Raised by a callback to end the current fit; its message becomes the reason."""


def _prepare(stage: Stage, model: nn.Module) -> None:
    prepare = getattr(stage, "prepare", None)
    if prepare is not None:
        prepare(model)


@dataclass(frozen=True)
class Step:
    """What a callback sees after each step; it must not change any of it."""

    number: int
    stage: int
    progress: float
    seconds: float
    loss: float
    terms: Mapping[str, float]
    model: nn.Module
    objective: Objective
    batch: Batch


Callback = Callable[[Step], Mapping[str, Any] | None]


class EarlyStopping:
    """Callback: stop when the loss, averaged over `window` steps, has not fallen by `factor` for `patience` windows."""

    def __init__(self, window: int = 100, patience: int = 10, factor: float = 0.999) -> None:
        self.window, self.patience, self.factor = window, patience, factor
        self.losses: list[float] = []
        self.best, self.since = math.inf, 0

    def __call__(self, step: Step) -> None:
        """Watch one step."""
        self.losses.append(step.loss)
        if len(self.losses) < self.window:
            return
        mean, self.losses = sum(self.losses) / len(self.losses), []
        # energies may be negative: "fallen" is measured against the size of the best value
        self.since = (
            0 if mean < self.best - (1 - self.factor) * abs(self.best) or self.best == math.inf else self.since + 1
        )
        self.best = min(self.best, mean)
        if self.since >= self.patience:
            raise StopTraining(f"the loss has not fallen for {self.patience * self.window} steps")


@dataclass(frozen=True)
class Deadline:
    """Callback: stop at a time of `time.perf_counter`, such as one that several trainings share."""

    at: float

    @property
    def over(self) -> bool:
        """Whether it has passed."""
        return time.perf_counter() > self.at

    def __call__(self, step: Step) -> None:
        """Look at the clock."""
        if self.over:
            raise StopTraining("the time is over")


@dataclass
class History:
    """What happened: per step the loss and its terms, what callbacks measured, and why each stage ended."""

    steps: list[dict[str, float]] = field(default_factory=list)
    records: list[dict[str, Any]] = field(default_factory=list)
    reasons: list[str] = field(default_factory=list)
    seconds: float = 0.0
    status: str = ""

    @property
    def diverged(self) -> bool:
        """Whether the run ended in a non-finite loss."""
        return self.status.startswith("diverged")

    def add(self, later: History) -> None:
        """Count a training that came after: its time, and why its stages ended."""
        self.reasons += later.reasons
        self.seconds += later.seconds

    def series(self, name: str) -> tuple[np.ndarray, np.ndarray]:
        """Step numbers and values of a loss term ("loss", "energy", ...) or of something a callback recorded."""
        rows = [r for r in (*self.steps, *self.records) if name in r]
        return np.array([r["step"] for r in rows]), np.array([r[name] for r in rows])


def fit(
    model: nn.Module,
    objective: Objective,
    batches: Callable[[torch.Generator], Batch],
    stages: Sequence[Stage],
    callbacks: Sequence[Callback] = (),
    checkpoint: str | Path | None = None,
    seed: int = 0,
    max_seconds: float | None = None,
    label: str = "training",
) -> History:
    """Train `model` in place.

    Args:
        model: its parameters with ``requires_grad`` are trained.
        objective: gives the named terms whose sum is the loss.
        batches: draws a batch from a generator; it may look at the model, if it says so by ``follows_model = True``.
        stages: run in order.
        callbacks: called after every step; a returned mapping is added to ``history.records``.
        checkpoint: a file that is written every half minute and on Ctrl-C, and continued from if it exists.
        seed: of the batches.
        max_seconds: optional budget of wall time; the default never looks at the clock, so that runs repeat.
        label: shown beside the progress bar.

    Returns:
        The history; ``history.status`` is a sentence. A diverged run gets the last parameters with a finite loss.
    """
    run = _Run(model, objective, batches, stages, callbacks, checkpoint, seed, max_seconds)
    with bar(label, sum(s.steps for s in stages), loss="-") as advance:
        try:
            run.loop(advance)
        except KeyboardInterrupt:
            run.save()
            raise
    if checkpoint is not None and not run.history.diverged:
        run.save()
    return run.history


class _Run:
    """The state of a fit, in one place so that it can be saved and restored."""

    def __init__(self, model, objective, batches, stages, callbacks, checkpoint, seed, max_seconds) -> None:  # type: ignore[no-untyped-def]
        self.model, self.objective, self.batches, self.stages = model, objective, batches, tuple(stages)
        self.callbacks, self.max_seconds = tuple(callbacks), max_seconds
        self.path = None if checkpoint is None else Path(checkpoint)
        self.generator = torch.Generator().manual_seed(seed)
        self.history = History()
        self.stage = self.step = self.total = 0
        self.stepper: Stepper | None = None
        self.batch: Batch | None = None
        self.drawn_from = self.generator.get_state()
        self.drawn_at: dict[str, Tensor] | None = None
        self.finished = self.preparing = False
        if self.path is not None and self.path.exists():
            self.restore()
        self.before = self.history.seconds
        self.begun = self.saved = time.perf_counter()

    @property
    def seconds(self) -> float:
        return self.before + time.perf_counter() - self.begun

    def loop(self, advance: Callable[..., None]) -> None:
        while self.stage < len(self.stages) and not self.finished:
            stage = self.stages[self.stage]
            if self.stepper is None:
                self.preparing = True
                _prepare(stage, self.model)
                self.stepper = stage.start(self.model)
                self.preparing = False
            reason = self.run_stage(stage, self.stepper, advance)
            self.history.reasons.append(f"{type(stage).__name__}: {reason}")
            self.stage, self.step, self.stepper, self.batch = self.stage + 1, 0, None, None
        self.finished = True
        self.history.seconds = self.seconds
        if not self.history.status:
            self.history.status = "; ".join(self.history.reasons)

    def run_stage(self, stage: Stage, stepper: Stepper, advance: Callable[..., None]) -> str:
        good: list[Tensor] = []
        while self.step < stage.steps:
            batch = self.next_batch(stage)
            work = Work(self.model, self.objective, batch.at(self.step / stage.steps))
            backup = [p.detach().clone() for p in self.model.parameters()]
            stepper.step(work)
            loss = sum(work.terms.values())
            first = self.history.steps[0]["loss"] if self.history.steps else loss
            # penalties grow by a factor of 500 at most; nothing healthy grows by a hundred million
            if not math.isfinite(loss) or abs(loss) > 1e8 * (1 + abs(first)):
                return self.diverge(stage, loss, good or backup)
            good = backup
            row = {"step": float(self.total), "seconds": self.seconds, "loss": loss, **work.terms}
            self.history.steps.append(row)
            self.step, self.total = self.step + 1, self.total + 1
            advance(advance=1, loss=f"{loss:.3e}")
            stopped = self.call_back(work, loss)
            self.history.seconds = self.seconds
            if stopped:
                self.finished = True
                return stopped
            if stepper.reason:
                return stepper.reason
            if self.max_seconds is not None and self.seconds > self.max_seconds:
                self.finished = True
                return f"time budget of {self.max_seconds:g} s used after {self.step} steps"
            if self.path is not None and time.perf_counter() - self.saved > 30:
                self.save()
        return f"all {stage.steps} steps done{getattr(stepper, 'note', '')}"

    def next_batch(self, stage: Stage) -> Batch:
        due = stage.resample is not None and self.step % stage.resample == 0
        if self.batch is None or due:
            self.drawn_from = self.generator.get_state()
            self.drawn_at = dict(self.model.state_dict()) if getattr(self.batches, "follows_model", False) else None
            if self.drawn_at is not None:
                self.drawn_at = {k: v.clone() for k, v in self.drawn_at.items()}
            p = next(iter(self.model.parameters()))
            self.batch = self.batches(self.generator).to(p.device, p.dtype)
        return self.batch

    def call_back(self, work: Work, loss: float) -> str:
        step = Step(
            self.total - 1,
            self.stage,
            work.batch.progress,
            self.seconds,
            loss,
            work.terms,
            self.model,
            self.objective,
            work.batch,
        )
        try:
            for callback in self.callbacks:
                measured = callback(step)
                if measured:
                    self.history.records.append({"step": step.number, "seconds": step.seconds, **measured})
        except StopTraining as stop:
            return str(stop) or "stopped by a callback"
        return ""

    def diverge(self, stage: Stage, loss: float, good: list[Tensor]) -> str:
        with torch.no_grad():
            for p, g in zip(self.model.parameters(), good, strict=True):
                p.copy_(g)
        self.finished = True
        name = type(stage).__name__
        self.history.status = (
            f"diverged: the loss became {loss} at step {self.total} ({name}); lower the learning rate or the penalty"
        )
        return "diverged"

    def save(self) -> None:
        if self.path is None or self.preparing:  # a half-prepared network belongs to no stage: the last file stays
            return
        state = {
            "model": dict(self.model.state_dict()),
            "stepper": None if self.stepper is None else self.stepper.state(),
            "generator": self.generator.get_state() if self.batch is None else self.drawn_from,
            "has_batch": self.batch is not None,
            "drawn_at": None if self.batch is None else self.drawn_at,
            "after": self.generator.get_state(),
            "position": [self.stage, self.step, self.total],
            "finished": self.finished,
            "history": vars(self.history),
        }
        arrays: dict[str, np.ndarray] = {}
        write_h5(self.path, {"kind": "checkpoint", "tree": _flatten(state, arrays)}, arrays)
        self.saved = time.perf_counter()

    def restore(self) -> None:
        assert self.path is not None
        description, arrays = read_h5(self.path)
        if description.get("kind") != "checkpoint":
            raise ValueError(f"{self.path} is not a checkpoint of a training run")
        state = _unflatten(description["tree"], arrays)
        number, begun = state["position"][0], state["stepper"] is not None
        for stage in self.stages[: number + begun]:
            _prepare(stage, self.model)
        try:
            self.model.load_state_dict(state["model"])
        except RuntimeError as error:
            raise ValueError(
                f"{self.path} is the checkpoint of another network; remove it or use another folder"
            ) from error
        self.history = History(**state["history"])
        self.stage, self.step, self.total = state["position"]
        self.finished = state["finished"]
        if self.stage < len(self.stages) and state["stepper"] is not None:
            self.stepper = self.stages[self.stage].start(self.model)
            self.stepper.load(state["stepper"])
        self.generator.set_state(state["generator"])
        if state["has_batch"]:
            self.drawn_from, self.drawn_at = state["generator"], state.get("drawn_at")
            if self.drawn_at is not None:
                self.model.load_state_dict(self.drawn_at)
            p = next(iter(self.model.parameters()))
            self.batch = self.batches(self.generator).to(p.device, p.dtype)
            self.model.load_state_dict(state["model"])


def _flatten(tree: Tree, arrays: dict[str, np.ndarray]) -> Any:
    """Turn a tree into JSON, moving its tensors to `arrays`."""
    if isinstance(tree, Tensor):
        name = f"a{len(arrays)}"
        arrays[name] = tree.detach().cpu().numpy()
        return {"array": name}
    if isinstance(tree, Mapping):
        return {"map": [[_flatten(k, arrays), _flatten(v, arrays)] for k, v in tree.items()]}
    if isinstance(tree, (list, tuple)):
        return {"list": [_flatten(v, arrays) for v in tree], "tuple": isinstance(tree, tuple)}
    if isinstance(tree, np.generic):
        return tree.item()
    return tree


def _unflatten(tree: Any, arrays: Mapping[str, np.ndarray]) -> Tree:
    if not isinstance(tree, dict):
        return tree
    if "array" in tree:
        return torch.as_tensor(np.array(arrays[tree["array"]]))
    if "map" in tree:
        return {_unflatten(k, arrays): _unflatten(v, arrays) for k, v in tree["map"]}
    members = [_unflatten(v, arrays) for v in tree["list"]]
    return tuple(members) if tree["tuple"] else members
