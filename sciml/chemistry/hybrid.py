"""Stepping that knows its limits: states a surrogate was not trained for go to the integrator, and are counted."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

if TYPE_CHECKING:
    from sciml.chemistry.mechanism import Mechanism
    from sciml.chemistry.surrogate import Settings, Surrogate

__all__ = ["Ensemble", "Hybrid", "hybrid", "limits"]


@dataclass(frozen=True)
class Hybrid:
    """States one step later, and what they cost.

    Attributes:
        states: (n, 2+s).
        integrated: (n,) which rows went to the integrator.
        failed: (n,) which of these it could not advance, or lie outside the thermodynamic data; they are returned as
            they were.
        seconds: processor time of all: scores, surrogate, integrator.
        integrating: the part of it that the integrator took.
    """

    states: np.ndarray
    integrated: np.ndarray
    failed: np.ndarray
    seconds: float
    integrating: float

    @property
    def share(self) -> float:
        """The share of rows that went to the integrator."""
        return float(self.integrated.mean()) if len(self.integrated) else 0.0

    def speedup(self, reference: float) -> float:
        """Net speed-up against `reference` seconds for integrating every row; the integrator's share is included."""
        return reference / self.seconds


def hybrid(
    surrogate: Surrogate | Ensemble,
    mechanism: Mechanism,
    states: np.ndarray,
    threshold: float = 1.0,
    rtol: float = 1e-9,
    atol: float = 1e-15,
) -> Hybrid:
    """One step by the surrogate where its score is at most `threshold`, by CVODE elsewhere.

    Args:
        surrogate: with a `score` per state.
        mechanism: of the same content as the one it was trained on.
        states: (n, 2+s).
        threshold: of the score; 1 is the border of the training states, 0 integrates everything.
        rtol: of the integrator.
        atol: of the integrator.

    Raises:
        ValueError: if the mechanism is another one, or a state is bad.
    """
    if mechanism.hash != surrogate.settings.hash:
        raise ValueError(
            f"mechanism {mechanism.source!r} has other content than the one the surrogate was trained on, "
            f"{surrogate.mechanism!r}"
        )
    begun = time.process_time()
    rows = np.asarray(states, dtype=np.float64)
    x = surrogate.sound(rows)
    out = x.numpy()
    outside = (surrogate.score(rows) > threshold) | surrogate.beyond(x)
    failed = np.zeros(len(rows), dtype=bool)
    if (~outside).any():
        out[~outside] = surrogate.step(rows[~outside])
    middle = time.process_time()
    if outside.any():
        options: dict[str, Any] = {"rtol": rtol, "atol": atol, "reactor": surrogate.settings.reactor}
        advanced = mechanism.advance(out[outside], surrogate.dt, strict=False, **options)
        done = np.asarray(advanced.status) == 0
        chosen = np.flatnonzero(outside)
        out[chosen[done]] = advanced.states[done]
        failed[chosen[~done]] = True
    end = time.process_time()
    return Hybrid(out, outside, failed, end - begun, end - middle)


def limits(
    surrogate: Surrogate | Ensemble,
    mechanism: Mechanism,
    states: np.ndarray,
    threshold: float = 1.0,
    rtol: float = 1e-6,
    atol: float = 1e-10,
) -> dict[str, float]:
    """What not trusting costs: the share of states (n, 2+s) that go to CVODE, and what is left of the speed-up.

    Returns:
        "share of CVODE"; "net speed-up", against CVODE for every state; "failed", the states that CVODE could not
        advance.
    """
    mixed, every = (hybrid(surrogate, mechanism, states, limit, rtol, atol) for limit in (threshold, -np.inf))
    return {
        "share of CVODE": mixed.share,
        "net speed-up": mixed.speedup(every.integrating),
        "failed": float(mixed.failed.sum()),
    }


class Ensemble:
    """Several surrogates of one mechanism: the first steps, and where they disagree none is trusted.

    The spread of a state is the mean, over the reactive species, of the members' standard deviation in Box-Cox space in
    units of the mean increment. The score is the larger of the first member's and the spread over its `radius`.

    Args:
        members: at least two, trained with different seeds.
        states: (n, 2+s), of the training: the spread's `quantile` among them is its radius.
        quantile: of the spread.

    Raises:
        ValueError: for fewer than two members, or members of different mechanisms or steps.
    """

    def __init__(self, members: Sequence[Surrogate], states: np.ndarray, quantile: float = 0.999) -> None:
        if len(members) < 2:
            raise ValueError(f"members has {len(members)} surrogates, but disagreement needs at least 2")
        for name in ("hash", "dt", "reactor", "lmbda"):
            found = {getattr(member.settings, name) for member in members}
            if len(found) > 1:
                raise ValueError(f"members must agree in {name}, but have {', '.join(map(str, sorted(found)))}")
        self.members = tuple(members)
        self.radius = max(float(np.quantile(self.spread(states), quantile)), 1e-300)  # members may be copies

    @property
    def settings(self) -> Settings:
        """What the first member is for."""
        return self.members[0].settings

    @property
    def mechanism(self) -> str:
        """The string that names the mechanism."""
        return self.members[0].mechanism

    @property
    def dt(self) -> float:
        """The step, s."""
        return self.members[0].dt

    def sound(self, states: np.ndarray) -> Tensor:
        """As `Surrogate.sound`."""
        return self.members[0].sound(states)

    def beyond(self, x: Tensor) -> np.ndarray:
        """As `Surrogate.beyond`."""
        return self.members[0].beyond(x)

    def step(self, states: np.ndarray) -> np.ndarray:
        """States (n, 2+s) one step later, by the first member."""
        return self.members[0].step(states)

    def spread(self, states: np.ndarray) -> np.ndarray:
        """How much the members disagree on states (n, 2+s), (n,)."""
        first = self.members[0]
        columns = [2 + k for k in first.settings.reactive]
        with torch.no_grad():
            x = first.sound(states)
            ends = [first.boxcox(member(x)[:, columns]) for member in self.members]
            return (torch.stack(ends).std(0) / first.increment.scale).mean(1).numpy()

    def score(self, states: np.ndarray) -> np.ndarray:
        """How far states (n, 2+s) are from those of the training, (n,): above 1 is outside."""
        return np.maximum(self.members[0].score(states), self.spread(states) / self.radius)
