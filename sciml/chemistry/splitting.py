"""States that the chemistry of a flow solver meets: those of flames after transport, before reaction.

A flow solver with operator splitting lets transport and chemistry act in turn. What it hands to the chemistry lies off
the flame that it settles to by one step of transport: cold gas with radicals that have just diffused into it. Near
the cold end of a flame their reaction is a small change, and a surrogate that has not met them is wrong by tens of
per cent.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from sciml.chemistry.premixed import Transport, resampled
from sciml.chemistry.samples import Samples
from sciml.chemistry.sampling import Ranges
from sciml.chemistry.trajectories import along

if TYPE_CHECKING:
    from sciml.chemistry.flames import Flame
    from sciml.chemistry.mechanism import Mechanism

__all__ = ["after_transport", "flames_of"]


def flames_of(mechanism: Mechanism, ranges: Ranges, n: int, generator: np.random.Generator) -> tuple[Flame, ...]:
    """Free flames of `n` random charges of the ranges, those that were found.

    Every other one starts at 300 K (or the lower end of the thermodynamic data), the others up to 300 K above.
    """
    charges = ranges.charges(mechanism, n, generator)
    warmer = np.where(np.arange(n) % 2, 300 * generator.uniform(0, 1, n), 0.0)
    charges[:, 0] = max(300.0, mechanism.temperature_range[0]) + warmer
    found = (mechanism.flame_speed(charge) for charge in charges)
    return tuple(flame for flame in found if flame.status == "ok")


def after_transport(
    mechanism: Mechanism,
    flames: Sequence[Flame],
    n: int,
    generator: np.random.Generator,
    times: tuple[float, float] = (2e-7, 3e-6),
    cells: tuple[int, int] = (15, 80),
    points: int = 50,
) -> Samples:
    """Flames on cells of random size after transport alone over random times, spread along each by length.

    Args:
        mechanism: with transport data.
        flames: that were found.
        n: at most so many states.
        generator: draws times and cells, both uniform in the logarithm.
        times: shortest and longest (s).
        cells: fewest and most across the rise of the temperature.
        points: states of each draw.

    Raises:
        ValueError: if there are no flames.
    """
    if not flames:
        raise ValueError("flames is empty, so there is nothing to split")
    parts: list[NDArray[np.float64]] = []
    while sum(map(len, parts)) < n:
        flame = flames[len(parts) % len(flames)]
        time, number = (np.exp(generator.uniform(*np.log(r))) for r in (times, cells))
        states, width = resampled(mechanism, flame, round(number))
        transport = Transport(mechanism, width)
        transport.refresh(states)
        parts.append(along(transport.advance(states, time), points))
    states = np.concatenate(parts)[:n]
    return Samples(states, np.zeros(len(states), dtype=np.int64), ("flame after transport",))
