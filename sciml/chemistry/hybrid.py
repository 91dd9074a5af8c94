"""Stepping that knows its limits: states a surrogate was not trained for go to the integrator, and are counted."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from sciml.chemistry.mechanism import Mechanism
    from sciml.chemistry.surrogate import Surrogate

__all__ = ["Hybrid", "hybrid"]


@dataclass(frozen=True)
class Hybrid:
    """States one step later, and what they cost.

    Attributes:
        states: (n, 2+s).
        integrated: (n,) which rows went to the integrator.
        failed: (n,) which of these it could not advance; they are returned as they were.
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
    surrogate: Surrogate,
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
    out = surrogate.checked(rows).numpy()
    outside = surrogate.score(rows) > threshold
    failed = np.zeros(len(rows), dtype=bool)
    if (~outside).any():
        out[~outside] = surrogate.step(rows[~outside])
    middle = time.process_time()
    if outside.any():
        reactor = surrogate.settings.reactor
        advanced = mechanism.advance(out[outside], surrogate.dt, rtol=rtol, atol=atol, reactor=reactor)
        done = np.asarray(advanced.status) == 0
        chosen = np.flatnonzero(outside)
        out[chosen[done]] = advanced.states[done]
        failed[chosen[~done]] = True
    end = time.process_time()
    return Hybrid(out, outside, failed, end - begun, end - middle)
