"""Loss spikes, found while they happen: see `sciml.theory.stability` for why they do."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from sciml.theory.diagnostic import Diagnostic, Record, State, every

__all__ = ["Spikes"]


class Spikes(Diagnostic):
    """Detects loss spikes: the loss leaves its recent level upwards and comes back.

    Per step the largest loss of the last `envelope` steps is compared, as a robust z-score of its logarithm (median and
    median absolute deviation over `window` earlier steps; of the loss itself where energies are negative), with
    `score`. The envelope matters: with momentum a loss oscillates through its minimum, and loss / lowest loss says
    nothing. A spike counts as confirmed when the loss returns to its earlier level; a rise that does not is a shift.

    Records at each onset: ``onset`` (1), ``score`` and ``ratio`` to the level; at a return: ``recovered`` (steps it
    took).

    Args:
        window: steps that make the level.
        score: z-score that counts.
        rise: factor above the level that a spike must reach besides.
        envelope: steps of the running maximum.

    Attributes:
        spikes: one mapping per onset with "step", "score", "ratio" (largest so far), "recovered" (steps, or None).
    """

    name = "spike"

    def __init__(self, window: int = 200, score: float = 8.0, rise: float = 3.0, envelope: int = 10) -> None:
        super().__init__(every(1))
        if window < 2 * envelope or envelope < 1:
            raise ValueError(
                f"window is {window} and envelope {envelope}, but the window must be at least twice the envelope"
            )
        self.window, self.score, self.rise, self.envelope = window, score, rise, envelope
        self.spikes: list[dict[str, Any]] = []
        self.losses: list[float] = []
        self._normal = math.nan  # level of the loss before the spike that is going on

    def __call__(self, step: Any) -> Record | None:
        """Watch one step; a record only where something happens."""
        event = self.watch(step.number, step.loss)
        if not event:
            return None
        measured = {f"{self.name}.{k}": v for k, v in event.items()}
        self.records.append({"step": step.number, "seconds": step.seconds, **measured})
        return measured

    def observe(self, state: State) -> Record:
        """One loss, and whether it is a spike."""
        return self.watch(state.number, state.loss) or {"onset": 0}

    def watch(self, number: int, loss: float) -> Record:
        """Take one loss; returns what happened, mostly nothing."""
        if math.isnan(loss):
            raise ValueError(
                "the state has no loss; Spikes watches a training, or History losses through watch(step, loss)"
            )
        self.losses.append(loss)
        if self.spikes and self.spikes[-1]["recovered"] is None:
            return self._wait(number)
        del self.losses[: -self.window - self.envelope]
        if len(self.losses) < self.window:
            return {}
        past, now = np.array(self.losses[: -self.envelope]), max(self.losses[-self.envelope :])
        if now <= past[-1]:
            return {}  # cheap way out: nothing rises
        positive = past.min() > 0 and now > 0
        values = np.log(past) if positive else past
        level = float(np.median(values))
        deviation = 1.4826 * float(np.median(np.abs(values - level))) + 1e-12 * (abs(level) + 1)
        z = ((math.log(now) if positive else now) - level) / deviation
        high = now / math.exp(level) if positive else math.inf
        if z <= self.score or high < self.rise:
            return {}
        self._normal = math.exp(level) if positive else level + deviation
        self.spikes.append({"step": number, "score": z, "ratio": high, "recovered": None})
        return {"onset": 1, "score": z, "ratio": high}

    def _wait(self, number: int) -> Record:
        spike, normal = self.spikes[-1], self._normal
        recent = self.losses[-self.envelope :]
        spike["ratio"] = max(spike["ratio"], recent[-1] / normal) if normal > 0 else spike["ratio"]
        back = (
            len(recent) == self.envelope and max(recent) <= self.rise * normal if normal > 0 else max(recent) <= normal
        )
        if back:
            spike["recovered"], self.losses = number - spike["step"], recent
            return {"recovered": spike["recovered"]}
        if number - spike["step"] > 5 * self.window:  # it stays: a new level, not a spike
            spike["recovered"], self.losses = math.inf, recent
        return {}
