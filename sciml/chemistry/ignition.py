"""Ignition of a homogeneous charge: delays that do not depend on the size of a step.

A delay is the maximum of a parabola through the three largest neighbouring values, never a whole step. dT/dt comes from
the right-hand side of the reactor at the integrator's own steps, not from differences of temperatures.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.signal import find_peaks

from sciml.chemistry.mechanism import CanteraError, Reactor, sentence
from sciml.chemistry.reactors import ATOL, RTOL, Integrator, silence
from sciml.chemistry.states import rows

if TYPE_CHECKING:
    from sciml.chemistry.mechanism import Mechanism

__all__ = ["Ignition", "audit_ignition", "ignition", "peak", "stages"]

Array = NDArray[np.float64]
Kind = Literal["dT/dt", "OH", "two-stage"]


@dataclass(frozen=True)
class Ignition:
    """What became of a charge.

    Attributes:
        delay: seconds to ignition; inf if it does not ignite before the end, nan if the integration failed.
        first_stage: seconds to the first of two stages; nan when there is one stage or it was not asked for.
        temperature: at the end of the integration (K).
        status: `"ignited"`, `"did not ignite"`, or a sentence on the failure.
        times: (m,) the integrator's steps (s).
        states: (m, 2+s) at these times.
        rates: (m,) dT/dt (K/s) at these times.
    """

    delay: float
    first_stage: float
    temperature: float
    status: str
    times: Array
    states: Array
    rates: Array


def peak(times: ArrayLike, values: ArrayLike) -> float:
    """Where the parabola through the largest value and its two neighbours has its maximum.

    The largest value at an end of the record is no maximum of a parabola; its own time is returned.

    Args:
        times: (m,) increasing.
        values: (m,).
    """
    t, v = np.asarray(times, dtype=float), np.asarray(values, dtype=float)
    at = int(np.argmax(v))
    if at in (0, len(v) - 1):
        return float(t[at])
    left, right = t[at - 1] - t[at], t[at + 1] - t[at]
    down, up = v[at - 1] - v[at], v[at + 1] - v[at]
    curvature = (up / right - down / left) / (right - left)
    if not curvature < 0:
        return float(t[at])
    slope = up / right - curvature * right
    return float(t[at] - slope / (2 * curvature))


def stages(times: ArrayLike, temperatures: ArrayLike, rates: ArrayLike) -> tuple[float, float]:
    """Times of the first and the main stage of heat release.

    Peaks of dT/dt count when the valley between them and a higher one is at most half as high, and when at least one
    per cent of the temperature rise lies before the valley; the first of them is the first stage and the largest of the
    others the main one, which need not be the larger of the two.

    Returns:
        (first, main); first is nan when there is a single stage.
    """
    t, T, rate = (np.asarray(v, dtype=float) for v in (times, temperatures, rates))
    height = np.log(np.maximum(rate, rate.max() * 1e-9))
    # the ends are valleys, so that a peak in the first or last interval is seen
    padded = np.concatenate([[height.min() - 1], height, [height.min() - 1]])
    found = find_peaks(padded, prominence=np.log(2.0))[0] - 1
    rise = T.max() - T[0]
    kept = []
    for number, at in enumerate(found):
        stop = found[number + 1] if number + 1 < len(found) else len(T) - 1
        valley = at + int(np.argmin(rate[at : stop + 1]))
        if T[valley] - T[0] >= 0.01 * rise:
            kept.append(at)
    if len(kept) < 2:
        return float("nan"), peak(t, rate)
    main = max(kept[1:], key=lambda at: rate[at])
    return _near(t, rate, kept[0]), _near(t, rate, main)


def _near(t: Array, rate: Array, at: int) -> float:
    window = slice(max(at - 1, 0), at + 2)
    return peak(t[window], rate[window])


def ignition(
    mechanism: Mechanism,
    state: ArrayLike,
    end: float | None = None,
    kind: Kind = "dT/dt",
    reactor: Reactor = "constant-pressure",
    rtol: float = RTOL,
    atol: float = ATOL,
    max_steps: int = 100_000,
) -> Ignition:
    """Integrate a charge through ignition and find the delay.

    Args:
        mechanism: the chemistry.
        state: (2+s,).
        end: the time (s) at which to give up; 10 s when None. Without it the run ends once the charge has burnt.
        kind: the delay is the largest dT/dt (`"dT/dt"`), the largest OH fraction (`"OH"`), or the main stage of heat
            release with the first stage beside it (`"two-stage"`).
        reactor: see `reactors.advance`.
        rtol: relative tolerance.
        atol: absolute tolerance; cold charges with few radicals may need a smaller one (see `audit_ignition`).
        max_steps: of the integrator.

    Raises:
        ValueError: for a bad state or option, or `"OH"` with a mechanism without OH.
    """
    if kind not in ("dT/dt", "OH", "two-stage"):
        raise ValueError(f"kind is {kind!r}, but must be 'dT/dt', 'OH' or 'two-stage'")
    limit = 10.0 if end is None else float(end)
    if not limit > 0:
        raise ValueError(f"end is {end!r}, but must be a positive time in seconds")
    initial = rows(state, mechanism.n_species)
    if len(initial) != 1:
        raise ValueError(f"state has {len(initial)} rows, but ignition starts from one")
    mechanism.check(initial)
    hydroxyl = 2 + mechanism.index("OH") if kind == "OH" else None
    rise = _expected_rise(mechanism, initial[0], reactor)
    engine = Integrator(mechanism, reactor, rtol, atol)
    try:
        times, states, rates = _integrate(engine, initial[0], limit, _Burnt(rise, hydroxyl, end is None), max_steps)
    except CanteraError as error:
        nothing = np.empty((0, initial.shape[1]))
        return Ignition(np.nan, np.nan, np.nan, f"failed: {sentence(error)}", nothing[:, 0], nothing, nothing[:, 0])
    silence(mechanism, initial, states[None])
    final = float(states[-1, 0])
    reached = states[:, 0].max() - states[0, 0]
    at = int(np.argmax(rates))
    if not (reached >= 0.5 * rise > 0) or at in (0, len(rates) - 1):
        return Ignition(np.inf, np.nan, final, "did not ignite", times, states, rates)
    first = np.nan
    if hydroxyl is not None:
        delay = peak(times, states[:, hydroxyl])
    elif kind == "two-stage":
        first, delay = stages(times, states[:, 0], rates)
    else:
        delay = peak(times, rates)
    return Ignition(delay, first, final, "ignited", times, states, rates)


def _expected_rise(mechanism: Mechanism, initial: Array, reactor: Reactor) -> float:
    """Temperature rise (K) to equilibrium: what complete ignition would give."""
    hold: Literal["HP", "UV"] = "HP" if reactor == "constant-pressure" else "UV"
    return float(mechanism.equilibrium(initial, hold)[0] - initial[0])


@dataclass
class _Burnt:
    """When a charge has burnt: most of the rise is done and the peaks that are looked for have passed."""

    rise: float
    hydroxyl: int | None
    may_stop: bool
    fastest: float = 0.0
    most: float = 0.0

    def __call__(self, state: Array, initial: Array, rate: float) -> bool:
        self.fastest = max(self.fastest, rate)
        waiting = False
        if self.hydroxyl is not None:
            self.most = max(self.most, state[self.hydroxyl])
            waiting = state[self.hydroxyl] > 0.9 * self.most
        # heat is released twenty times slower than at the peak
        slow = rate < 0.05 * self.fastest
        return self.may_stop and not waiting and slow and state[0] - initial[0] > 0.8 * self.rise > 0


def _integrate(
    engine: Integrator, initial: Array, limit: float, burnt: _Burnt, max_steps: int
) -> tuple[Array, Array, Array]:
    """The record of one run: times, states and dT/dt at the integrator's steps up to `limit`."""
    try:
        return _steps(engine, initial, limit, burnt, max_steps)
    except CanteraError:
        engine.rebuild()
        return _steps(engine, initial, limit, burnt, max_steps)


def _steps(
    engine: Integrator, initial: Array, limit: float, burnt: _Burnt, max_steps: int
) -> tuple[Array, Array, Array]:
    engine.start(initial)
    times, states, rates = [0.0], [initial], [engine.heating()]
    for _ in range(max_steps):
        now = engine.net.step()
        if now > limit:
            break
        times.append(now)
        states.append(engine.state())
        rates.append(engine.heating())
        if burnt(states[-1], initial, rates[-1]):
            break
    else:
        raise CanteraError(f"{max_steps} steps of the integrator did not reach {limit:g} s")
    return np.array(times), np.array(states), np.array(rates)


def audit_ignition(
    mechanism: Mechanism,
    state: ArrayLike,
    rtol: float = RTOL,
    atol: float = ATOL,
    tolerance: float = 1e-3,
    **options: object,
) -> tuple[float, float]:
    """Find an absolute tolerance that does not decide the delay.

    Where radicals come only from slow dissociation, their true level can lie below `atol`; the integrator's noise then
    ignites the gas, up to a factor of several too early. `atol` is divided by 1e3 until two delays agree.

    Returns:
        (atol, relative change of the delay on dividing it by 1e3 once more).

    Raises:
        ValueError: for a charge that does not ignite, or if 1e-30 does not suffice.
    """
    delay = ignition(mechanism, state, rtol=rtol, atol=atol, **options).delay  # type: ignore[arg-type]
    change = np.inf  # a loose tolerance may also lose the few radicals that would ignite: inf is no answer yet
    while atol > 1e-30:
        finer = ignition(mechanism, state, rtol=rtol, atol=atol * 1e-3, **options).delay  # type: ignore[arg-type]
        change = abs(delay - finer) / finer if np.isfinite(finer) else np.inf
        if change <= tolerance:
            return atol, change
        atol, delay = atol * 1e-3, finer
    if not np.isfinite(delay):
        raise ValueError("the charge does not ignite, so its delay cannot be audited")
    raise ValueError(f"the delay still changes by {change:.2g} at an absolute tolerance of {atol:g}")
