"""What every diagnostic is: one question, asked of a network during training or afterwards.

A diagnostic implements ``observe(state) -> dict`` and gets the rest from here:

- ``diagnostic.measure(subject)`` for a `State`, a training step, a bare `torch.nn.Module`, a Solution or any Field;
- as a callback of `training.fit`, ``fit(..., callbacks=[diagnostic])``: it measures when its schedule says so
  (log-spaced by default), keeps the results in ``diagnostic.records`` and hands them to ``history.records`` under
  "name.key";
- over a finished run, ``replay(diagnostic, model, folder)``, if the run kept `Snapshots`;
- ``diagnostic.plot()``, and ``diagnostic.save(folder, "network")`` for a picture and numbers that ``sciml show`` names;
  run folders do this for every diagnostic among the callbacks of ``run.solve``.

A diagnostic is a spectator: training with and without it is bit-identical. `untouched` keeps random states, training
modes and gradients, and refuses a measurement that wrote to a parameter or a buffer.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from sciml.files import atomic, write_json
from sciml.theory.functional import Closure, loss_closures

Schedule = Callable[[int], bool]
Record = dict[str, Any]

__all__ = [
    "Diagnostic",
    "Record",
    "Schedule",
    "State",
    "every",
    "log_spaced",
    "untouched",
]


def log_spaced(per_decade: int = 10) -> Schedule:
    """Steps 0, 1, 2, ... whose logarithms are about evenly spaced, `per_decade` of them per factor ten."""
    if per_decade < 1:
        raise ValueError(f"per_decade is {per_decade}, but must be a whole number >= 1")

    def due(step: int) -> bool:
        if step == 0:
            return True
        return math.floor(per_decade * math.log10(step + 1)) > math.floor(per_decade * math.log10(step))

    return due


def every(steps: int) -> Schedule:
    """Every so many steps, beginning with step 0."""
    if steps < 1:
        raise ValueError(f"steps is {steps}, but must be a whole number >= 1")
    return lambda step: step % steps == 0


@dataclass(frozen=True)
class State:
    """What a diagnostic looks at.

    Attributes:
        model: the network, or any Field where no parameters are needed.
        number: the step.
        seconds: of training so far.
        loss: at the parameters before the step; nan where there is no training.
        terms: the loss by term.
        losses: ``params -> scalar`` by term, and their sum as "loss"; empty where there is no objective.
        gradients: the gradient that the step followed, by parameter name; empty where there is none.
        progress: of the stage, 0 to 1.
    """

    model: Any
    number: int = 0
    seconds: float = 0.0
    loss: float = math.nan
    terms: Mapping[str, float] = field(default_factory=dict)
    losses: Mapping[str, Closure] = field(default_factory=dict)
    gradients: Mapping[str, Tensor] = field(default_factory=dict)
    progress: float = 1.0

    @staticmethod
    def of(subject: Any) -> State:
        """The state of a training step (recognised by its shape), a Solution, a module or a Field.

        Raises:
            TypeError: for anything else.
        """
        if isinstance(subject, State):
            return subject
        if hasattr(subject, "number") and hasattr(subject, "model"):
            return _of_step(subject)
        if not isinstance(subject, nn.Module) and hasattr(subject, "field"):
            return State(subject.field)
        if callable(subject):
            return State(subject)
        raise TypeError(
            f"a {type(subject).__name__} was given, but a diagnostic measures a State, a training step, a Solution, "
            "a torch.nn.Module or a callable of points"
        )

    @property
    def module(self) -> nn.Module:
        """The model, where a diagnostic needs its parameters.

        Raises:
            TypeError: if the model is a plain function.
        """
        if not isinstance(self.model, nn.Module):
            raise TypeError(f"this diagnostic reads parameters, but the model is a {type(self.model).__name__}")
        return self.model

    def closure(self, name: str = "loss") -> Closure:
        """One of `losses`.

        Raises:
            ValueError: if there is none of that name.
        """
        if name not in self.losses:
            known = ", ".join(self.losses) or "no losses: run it as a callback of fit or give State(model, losses=...)"
            raise ValueError(f"this diagnostic needs the loss {name!r}, but the state has {known}")
        return self.losses[name]


def _of_step(step: Any) -> State:
    named = step.model.named_parameters() if isinstance(step.model, nn.Module) else ()
    gradients = {k: p.grad for k, p in named if p.grad is not None}
    losses: Mapping[str, Closure] = {}
    if getattr(step, "objective", None) is not None:
        losses = _Lazy(step.model, step.objective, step.batch)
    terms, progress = getattr(step, "terms", {}), getattr(step, "progress", 1.0)
    return State(step.model, step.number, step.seconds, step.loss, terms, losses, gradients, progress)


class _Lazy(Mapping[str, Closure]):
    """The closures of an objective; the terms are not evaluated unless somebody asks for their names."""

    def __init__(self, model: nn.Module, objective: Any, batch: Any) -> None:
        self._arguments = (model, objective, batch)
        self._closures: dict[str, Closure] | None = None

    def _made(self) -> dict[str, Closure]:
        if self._closures is None:
            self._closures = loss_closures(*self._arguments)
        return self._closures

    def __getitem__(self, name: str) -> Closure:
        return self._made()[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._made())

    def __len__(self) -> int:
        return len(self._made())


@contextmanager
def untouched(model: Any) -> Iterator[None]:
    """Leave everything as it was found: random states, training modes, gradients.

    Modules are in evaluation mode inside. Gradients (``p.grad``) are hidden inside and put back.

    Raises:
        RuntimeError: if a parameter or a buffer was written to.
    """
    modules = list(model.modules()) if isinstance(model, nn.Module) else []
    parameters = list(model.parameters()) if isinstance(model, nn.Module) else []
    tensors = [*parameters, *model.buffers()] if isinstance(model, nn.Module) else []
    modes, gradients = [m.training for m in modules], [p.grad for p in parameters]
    versions = [t._version for t in tensors]
    states = torch.get_rng_state(), np.random.get_state(), random.getstate()
    cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else None
    for m in modules:
        m.training = False
    for p in parameters:
        p.grad = None
    try:
        yield
    finally:
        for m, mode in zip(modules, modes, strict=True):
            m.training = mode
        for p, g in zip(parameters, gradients, strict=True):
            p.grad = g
        torch.set_rng_state(states[0])
        np.random.set_state(states[1])
        random.setstate(states[2])
        if cuda is not None:
            torch.cuda.set_rng_state_all(cuda)
    if [t._version for t in tensors] != versions:
        raise RuntimeError("a diagnostic wrote to the model; it must work on copies (torch.func.functional_call)")


class Diagnostic:
    """Base of all diagnostics: override ``name`` and ``observe``, and ``draw`` for a better picture.

    Args:
        schedule: which steps to measure at, as a callback; None is `log_spaced`.
        name: prefix of the recorded keys, where two diagnostics of one kind run together.

    Attributes:
        records: what was measured so far: "step", "seconds" and "name.key" entries.
    """

    name: str = "diagnostic"

    def __init__(self, schedule: Schedule | None = None, name: str | None = None) -> None:
        self.schedule = log_spaced() if schedule is None else schedule
        if name is not None:
            self.name = name
        self.records: list[Record] = []

    def observe(self, state: State) -> Record:
        """The measurement: numbers, arrays or tensors by key."""
        raise TypeError(f"{type(self).__name__} does not say what it observes")

    def measure(self, subject: Any) -> Record:
        """Measure now, whatever the schedule says, without recording.

        Args:
            subject: a `State`, a training step, a Solution, a `torch.nn.Module` or any Field.

        Returns:
            Numbers and nested lists by key.
        """
        state = State.of(subject)
        with untouched(state.model):
            return {k: _plain(v) for k, v in self.observe(state).items()}

    def record(self, subject: Any) -> Record:
        """Measure now and keep the result; returns it with keys "name.key"."""
        state = State.of(subject)
        measured = {f"{self.name}.{k}": v for k, v in self.measure(state).items()}
        self.records.append({"step": state.number, "seconds": state.seconds, **measured})
        return measured

    def __call__(self, step: Any) -> Record | None:
        """The callback of `training.fit`."""
        return self.record(step) if self.schedule(step.number) else None

    def series(self, key: str, records: Sequence[Record] | None = None) -> tuple[np.ndarray, np.ndarray]:
        """Steps ``(t,)`` and values ``(t, ...)`` of one key.

        Args:
            key: without the name of the diagnostic.
            records: e.g. ``history.records`` of a saved run; None takes the diagnostic's own.

        Raises:
            ValueError: if nothing was recorded under that key.
        """
        rows = [r for r in (self.records if records is None else records) if f"{self.name}.{key}" in r]
        if not rows:
            known = sorted(
                {k.removeprefix(f"{self.name}.") for r in records or self.records for k in r} - {"step", "seconds"}
            )
            raise ValueError(
                f"nothing was recorded as {self.name}.{key}; recorded are {', '.join(known) or 'no keys yet'}"
            )
        steps = np.array([r["step"] for r in rows])
        return steps, np.array([r[f"{self.name}.{key}"] for r in rows], dtype=float)

    def plot(self, records: Sequence[Record] | None = None, figure: Any = None) -> Any:
        """Draw what was recorded into a matplotlib Figure (a new one unless given) and return it."""
        from matplotlib.figure import Figure

        figure = Figure(figsize=(8, 4.5), layout="constrained") if figure is None else figure
        own = [
            r for r in (self.records if records is None else records) if any(k.startswith(f"{self.name}.") for k in r)
        ]
        if not own:
            raise ValueError(f"{self.name} has recorded nothing to plot; run it as a callback or call its record first")
        self.draw(figure, own)
        return figure

    def save(self, folder: str | Path, prefix: str, records: Sequence[Record] | None = None) -> Path:
        """Write ``PREFIX.NAME.diagnostic.json`` and, if anything was recorded, ``PREFIX.NAME.png``.

        Args:
            folder: usually a run folder, of which ``sciml show`` then tells the diagnostics.
            prefix: what was measured, e.g. the name of a solution.
            records: see `plot`; those of other diagnostics are left out.

        Returns:
            The path of the numbers, which `afterwards.read_records` gives back.
        """
        own = [
            {k: v for k, v in r.items() if k in ("step", "seconds") or k.startswith(f"{self.name}.")}
            for r in (self.records if records is None else records)
        ]
        own = [r for r in own if len(r) > 2]
        path = Path(folder) / f"{prefix}.{self.name}.diagnostic.json"
        write_json(path, {"kind": "diagnostic", "name": self.name, "of": prefix, "records": own})
        if own:
            with atomic(Path(folder) / f"{prefix}.{self.name}.png") as temporary:
                self.plot(own).savefig(temporary, format="png", dpi=120)
        return path

    def draw(self, figure: Any, records: Sequence[Record]) -> None:
        """Every recorded number against the step, on one logarithmic pair of axes."""
        axes = figure.subplots()
        prefix = f"{self.name}."
        numbers = {k for r in records for k, v in r.items() if k.startswith(prefix) and isinstance(v, (int, float))}
        for key in sorted(numbers):
            steps, values = self.series(key.removeprefix(prefix), records)
            axes.plot(steps, values, "o-", markersize=3, label=key.removeprefix(prefix))
        axes.set(xlabel="step", xscale="symlog", title=self.name)
        axes.legend()


def _plain(value: Any) -> Any:
    """Tensors and arrays as numbers and lists, the rest unchanged."""
    if isinstance(value, Mapping):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(v) for v in value]
    if isinstance(value, Tensor):
        value = value.detach().cpu()
    return value.tolist() if hasattr(value, "tolist") else value
