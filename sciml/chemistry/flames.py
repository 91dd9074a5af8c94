"""Freely propagating premixed flames, solved by Cantera, with a ladder of retries.

A flame that fails on one grid is solved on another: a wider domain, then coarser criteria, then simple transport as a
start for the one that was asked for. What was tried is in the answer.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from sciml.chemistry.mechanism import CanteraError, free_flame, sentence
from sciml.chemistry.states import clean, rows

if TYPE_CHECKING:
    from sciml.chemistry.mechanism import Mechanism

__all__ = ["Flame", "flame_speed"]

Array = NDArray[np.float64]
_COARSE = {"ratio": 10.0, "slope": 0.3, "curve": 0.4, "prune": 0.0}


@dataclass(frozen=True)
class Flame:
    """A steady flame in the frame of its front.

    Attributes:
        speed: of the unburnt gas into the flame, m/s; nan if no rung of the ladder succeeded.
        thickness: thermal, (T_b - T_u) / max |dT/dx|, m.
        grid: (m,) in m, from the unburnt gas.
        T: (m,) in K.
        Y: (m, s).
        states: (m, 2+s).
        velocity: (m,) in m/s.
        status: `"ok"`, or a sentence with the last failure.
        attempts: a sentence for each rung that was climbed.
    """

    speed: float
    thickness: float
    grid: Array
    T: Array
    Y: Array
    states: Array
    velocity: Array
    status: str
    attempts: tuple[str, ...]


def flame_speed(
    mechanism: Mechanism,
    state_in: ArrayLike,
    width: float = 0.03,
    slope: float = 0.06,
    curve: float = 0.12,
    ratio: float = 3.0,
    transport: str | None = None,
    start: Flame | None = None,
) -> Flame:
    """The speed and the profiles of a freely propagating flame.

    Args:
        mechanism: the chemistry, with transport data.
        state_in: the unburnt gas, (2+s,).
        width: of the domain (m); the ladder widens it.
        slope: largest change between neighbouring points, relative to the range of a profile.
        curve: the same for the profile's slope.
        ratio: largest ratio of neighbouring cells.
        transport: `"mixture-averaged"`, `"multicomponent"` or `"unity-Lewis-number"`; the mechanism's when None.
        start: a flame of the same species; its grid is kept as it is and its profiles are the guess, in one attempt.

    Raises:
        ValueError: for a bad state or option, or a mechanism without transport data.
    """
    inlet = rows(state_in, mechanism.n_species)[0]
    mechanism.check(inlet)
    if not width > 0:
        raise ValueError(f"width is {width!r}, but must be a positive length in metres")
    if mechanism.inspection.without_transport:
        missing = ", ".join(mechanism.inspection.without_transport[:5])
        raise ValueError(f"mechanism {mechanism.source!r} has no transport data for {missing}, so it has no flames")
    gas = mechanism.gas
    wanted = transport or (gas.transport_model if gas.transport_model != "none" else "mixture-averaged")
    kept = gas.transport_model
    fine = {"ratio": ratio, "slope": slope, "curve": curve, "prune": 0.0}
    attempts: list[str] = []
    reason = ""
    try:
        if start is not None:
            try:
                return _record(_continued(gas, inlet, start, wanted), inlet, [f"from {len(start.grid)} points"])
            except CanteraError as error:
                return _none(inlet, sentence(error), ["from a start"])
        for scale, simple in ((1.0, False), (3.0, False), (0.3, False), (1.0, True), (10.0, True)):
            said = f"width {width * scale:g} m" + (", unity Lewis numbers first" if simple else "")
            try:
                flame = _solve(gas, inlet, width * scale, fine, wanted, simple)
            except CanteraError as error:
                reason = sentence(error)
                attempts.append(f"{said}: {reason}")
                continue
            attempts.append(f"{said}: solved on {flame.flame.n_points} points")
            return _record(flame, inlet, attempts)
    finally:
        gas.transport_model = kept
    return _none(inlet, reason, attempts)


def _none(inlet: Array, reason: str, attempts: list[str]) -> Flame:
    nothing = np.empty((0, len(inlet)))
    empty = nothing[:, 0]
    said = f"no attempt of {len(attempts)} succeeded: {reason}"
    return Flame(np.nan, np.nan, empty, empty, nothing[:, 2:], nothing, empty, said, tuple(attempts))


def _continued(gas: Any, inlet: Array, start: Flame, wanted: str) -> Any:
    gas.TPY = inlet[0], inlet[1], inlet[2:]
    gas.transport_model = wanted
    flame = free_flame(gas, start.grid)
    flame.inlet.mdot = start.velocity[0] * gas.density
    flame.set_initial_guess()
    where = (start.grid - start.grid[0]) / np.ptp(start.grid)
    profiles = {"T": start.T, "velocity": start.velocity, **dict(zip(gas.species_names, start.Y.T, strict=True))}
    for name, values in profiles.items():
        flame.flame.set_profile(name, where, values)
    flame.fixed_temperature = start.T[np.flatnonzero(start.T < 0.75 * start.T[0] + 0.25 * start.T[-1])[-1]]
    flame.solve(loglevel=0, refine_grid=False, auto=False)
    return _lit(flame, inlet)


def _solve(gas: Any, inlet: Array, width: float, fine: dict[str, float], wanted: str, simple: bool) -> Any:
    gas.TPY = inlet[0], inlet[1], inlet[2:]
    gas.transport_model = "unity-Lewis-number" if simple else wanted
    flame = free_flame(gas, width * np.array([0.0, 0.2, 0.3, 0.35, 0.4, 0.45, 0.5, 0.7, 1.0]))
    flame.set_refine_criteria(**_COARSE)
    if simple:
        flame.solve(loglevel=0, auto=True)
        flame.transport_model = wanted
    flame.solve(loglevel=0, auto=not simple)
    flame.set_refine_criteria(**fine)
    flame.solve(loglevel=0, auto=False)
    return _lit(flame, inlet)


def _lit(flame: Any, inlet: Array) -> Any:
    if not flame.velocity[0] > 0 or flame.T[-1] < inlet[0] + 100:
        raise CanteraError("the flame went out")
    return flame


def _record(flame: Any, inlet: Array, attempts: list[str]) -> Flame:
    grid, T, Y = flame.grid.copy(), flame.T.copy(), flame.Y.T.copy()
    states = clean(np.column_stack([T, np.full_like(T, inlet[1]), Y]))
    thickness = (T[-1] - T[0]) / abs(np.gradient(T, grid)).max()
    velocity = flame.velocity.copy()
    return Flame(float(velocity[0]), float(thickness), grid, T, states[:, 2:], states, velocity, "ok", tuple(attempts))
