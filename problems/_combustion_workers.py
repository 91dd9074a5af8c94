"""What a second process that labels brings, beside the most that a second core can bring here."""

from __future__ import annotations

import time
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from sciml import parallel
from sciml.chemistry import labels
from sciml.chemistry.mechanism import Mechanism
from sciml.chemistry.reactors import trajectories
from sciml.chemistry.recipe import Drawn


def by_two(mechanism: Mechanism, drawn: Drawn, path: Path, dt: float, length: int) -> dict[str, Any]:
    """Wall times of the same labels by one process and by two, and whether they are the same.

    No sharing of work is faster than two processes that know nothing of each other: cores share caches, memory and
    often more.
    """
    seconds, made = [], []
    for workers in (1, 2):
        begun = time.perf_counter()
        made.append(labels.label(mechanism, drawn.samples, path, dt, length, workers=workers))
        seconds.append(time.perf_counter() - begun)
    return {
        "states": len(drawn.samples),
        "seconds": {"1 worker": seconds[0], "2 workers": seconds[1]},
        "speed-up of two": seconds[0] / seconds[1],
        "speed-up of two that share nothing": _apart(mechanism, drawn.samples.states[:8000], dt, length),
        "largest difference": float(np.abs(made[0].windows - made[1].windows).max()),
    }


def _apart(mechanism: Mechanism, states: np.ndarray, dt: float, length: int) -> float:
    """The speed-up of two processes of which each has the work that one had alone."""
    task = partial(trajectories, mechanism, times=dt * np.arange(length + 1))
    seconds = []
    for count in (1, 2):
        with parallel.Pool(count) as pool:
            for rows in (states[:50], states):  # the first starts the processes
                begun = time.perf_counter()
                list(parallel.run(task, [rows] * count, pool))
        seconds.append(time.perf_counter() - begun)
    return 2 * seconds[0] / seconds[1]
