"""Adiabatic reactors: what a state becomes after a time.

The integrator is CVODES (Hindmarsh et al., ACM TOMS 31 (2005) 363) inside Cantera. One network serves a whole batch,
since building it costs more than a step. After one failed row a reused network can fail on valid states too, so it is
then built again and the row repeated; how often is counted.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from sciml.chemistry.mechanism import CanteraError, Reactor, network, sentence
from sciml.chemistry.states import clean, lacking, rows

if TYPE_CHECKING:
    from sciml.chemistry.mechanism import Mechanism

__all__ = ["FAILED", "OK", "REFUSED", "Advanced", "Integrator", "advance", "trajectories", "trajectory"]

Array = NDArray[np.float64]
OK, REFUSED, FAILED = 0, 1, 2
RTOL, ATOL = 1e-9, 1e-15


@dataclass(frozen=True)
class Advanced:
    """A batch of states after a time.

    Attributes:
        states: (n, 2+s); a row that failed holds nan.
        status: (n,) int8: 0 as asked, 1 the state given was refused, 2 the integrator failed.
        seconds: wall time.
        rebuilt: how often the network was built again after a failure.
        rescued: rows that succeeded on the rebuilt network.
        clipped: the most negative mass fraction that the integrator left and that was set to zero (0 if none).
        reasons: a sentence for each row that is not OK.
    """

    states: Array
    status: NDArray[np.int8]
    seconds: float
    rebuilt: int
    rescued: int
    clipped: float
    reasons: dict[int, str]

    @property
    def ok(self) -> NDArray[np.bool_]:
        """Which rows are as asked, (n,)."""
        return self.status == OK


class Integrator:
    """One reused reactor network, built again when it fails.

    Args:
        mechanism: whose phase it uses; nothing else may use that phase meanwhile.
        reactor: `"constant-pressure"` or `"constant-volume"`, both adiabatic.
        rtol, atol: tolerances of CVODES; `atol` applies to mass fractions, and radicals below it are noise.

    Raises:
        ValueError: for another reactor, or a tolerance that is not positive.
    """

    def __init__(
        self, mechanism: Mechanism, reactor: Reactor = "constant-pressure", rtol: float = RTOL, atol: float = ATOL
    ):
        if not (0 < rtol < 1 and 0 < atol < 1):
            raise ValueError(f"rtol and atol are {rtol!r} and {atol!r}, but must lie between 0 and 1")
        self._gas = mechanism.gas
        self._settings = (reactor, rtol, atol)
        self.rebuilt = self.rescued = 0
        self.clipped = 0.0
        self._build()

    def _build(self) -> None:
        self._reactor, self.net = network(self._gas, *self._settings)

    def start(self, state: Array) -> None:
        """Put the reactor into a state at time zero."""
        self._gas.TPY = state[0], state[1], state[2:]
        self._reactor.syncState()
        self.net.initial_time = 0.0
        self.net.reinitialize()

    def state(self) -> Array:
        """The present state, (2+s,), without the negative fractions that lie within the tolerance."""
        gas = self._gas
        now = np.concatenate([[gas.T, gas.P], gas.Y])
        self.clipped = min(self.clipped, float(now[2:].min()))
        return clean(now)

    def heating(self) -> float:
        """dT/dt (K/s) of the present state, from the right-hand side of the reactor."""
        gas = self._gas
        if self._settings[0] == "constant-pressure":
            return float(gas.heat_release_rate / (gas.density * gas.cp_mass))
        released = -float(np.dot(gas.partial_molar_int_energies, gas.net_production_rates))
        return released / float(gas.density * gas.cv_mass)

    def advance(self, state: Array, dt: float) -> Array:
        """The state after `dt` seconds.

        Raises:
            CanteraError: if a fresh network fails as well.
        """
        try:
            return self._advance(state, dt)
        except CanteraError:
            self.rebuild()
            after = self._advance(state, dt)
            self.rescued += 1
            return after

    def rebuild(self) -> None:
        """Build the network again, so that nothing of a failed integration is left in it."""
        self._build()
        self.rebuilt += 1

    def _advance(self, state: Array, dt: float) -> Array:
        self.start(state)
        self.net.advance(dt)
        after = self.state()
        if not np.isfinite(after).all():
            raise CanteraError("the integrator returned a state that is not finite")
        return after


def advance(
    mechanism: Mechanism,
    states: ArrayLike,
    dt: ArrayLike,
    rtol: float = RTOL,
    atol: float = ATOL,
    reactor: Reactor = "constant-pressure",
    strict: bool = True,
) -> Advanced:
    """Let every state react adiabatically for `dt` seconds.

    Args:
        mechanism: the chemistry.
        states: (n, 2+s) or (2+s,); T in K, p in Pa.
        dt: seconds, at least 0: a number, or (n,) with one for each state.
        rtol: relative tolerance of CVODES.
        atol: absolute tolerance of the mass fractions; `labels.audit` measures whether both suffice.
        reactor: `"constant-pressure"` or `"constant-volume"`.
        strict: raise on a bad state; otherwise its row gets status 1.

    Raises:
        ValueError: for a bad option, or (strict) a state with negative or non-normalised fractions, or a temperature
            outside the thermodynamic data.
    """
    before = rows(states, mechanism.n_species)
    times = np.asarray(dt, dtype=float)
    if times.ndim > 1 or (times.ndim == 1 and len(times) != len(before)):
        raise ValueError(f"dt has shape {times.shape}, but must be a number or one for each of {len(before)} states")
    if not (np.isfinite(times).all() and (times >= 0).all()):
        raise ValueError(f"dt is {times.min():g}, but must be a time in seconds that is not negative")
    times = np.broadcast_to(times, len(before))
    reasons, status = _refused(mechanism, before)
    if strict and reasons:
        mechanism.check(before)
    started = time.perf_counter()
    after = np.full_like(before, np.nan)
    engine = Integrator(mechanism, reactor, rtol, atol)
    for row in np.flatnonzero(status == OK):
        try:
            after[row] = engine.advance(before[row], float(times[row]))
        except CanteraError as error:
            status[row] = FAILED
            reasons[int(row)] = f"was not integrated: {sentence(error)}"
            engine.rebuild()  # so that this failure is not handed on
    seconds = time.perf_counter() - started
    silence(mechanism, before, after)
    return Advanced(after, status, seconds, engine.rebuilt, engine.rescued, engine.clipped, reasons)


def trajectory(
    mechanism: Mechanism,
    state: ArrayLike,
    times: ArrayLike,
    rtol: float = RTOL,
    atol: float = ATOL,
    reactor: Reactor = "constant-pressure",
) -> Array:
    """One reactor, integrated without restarts, at each of the times.

    Args:
        mechanism: the chemistry.
        state: (2+s,).
        times: (m,) seconds, not decreasing, at least 0.
        rtol: relative tolerance.
        atol: absolute tolerance.
        reactor: see `advance`.

    Returns:
        (m, 2+s).

    Raises:
        ValueError: for a bad state or times.
        RuntimeError: if the integrator fails, with the time reached.
    """
    initial = rows(state, mechanism.n_species)
    if len(initial) != 1:
        raise ValueError(f"state has {len(initial)} rows, but a trajectory starts from one")
    mechanism.check(initial)
    at = np.atleast_1d(np.asarray(times, dtype=float))
    if at.ndim != 1 or not np.isfinite(at).all() or (at < 0).any() or (np.diff(at) < 0).any():
        raise ValueError("times must be a list of seconds that are not negative and do not decrease")
    engine = Integrator(mechanism, reactor, rtol, atol)
    path = _along(engine, initial[0], at)
    silence(mechanism, initial, path[None])
    return path


def trajectories(
    mechanism: Mechanism,
    states: ArrayLike,
    times: ArrayLike,
    rtol: float = RTOL,
    atol: float = ATOL,
    reactor: Reactor = "constant-pressure",
) -> tuple[Array, NDArray[np.int8]]:
    """Each state at each of the times, with one reused network; see `trajectory`.

    Returns:
        (n, m, 2+s), nan after the start where a row failed, and the status of each row as in `Advanced`.
    """
    before = rows(states, mechanism.n_species)
    at = np.asarray(times, dtype=float)
    paths = np.full((len(before), len(at), before.shape[1]), np.nan)
    paths[:, 0] = before
    _, status = _refused(mechanism, before)
    engine = Integrator(mechanism, reactor, rtol, atol)
    for row in np.flatnonzero(status == OK):
        try:
            paths[row] = _along(engine, before[row], at)
        except RuntimeError:
            status[row] = FAILED
            engine.rebuild()
    silence(mechanism, before, paths)
    return paths, status


def silence(mechanism: Mechanism, before: Array, after: Array) -> None:
    """Set to zero, in place, what the integrator leaves of species that cannot be there.

    They hold an element of which the state at the start has none, as all with carbon do where hydrogen burns. What is
    left, 1e-50 and less, is told from zero where fractions are raised to small powers.

    Args:
        mechanism: the chemistry.
        before: (n, 2+s), the states at the start.
        after: (n, 2+s) or (n, m, 2+s), what became of each.
    """
    atoms = mechanism.composition / mechanism.molar_masses[:, None]
    absent = lacking(before[:, 2:] @ atoms, atoms).astype(float) @ (atoms > 0).T > 0
    fractions = after[..., 2:]
    where = absent.reshape(len(absent), *[1] * (after.ndim - 2), -1) & np.isfinite(fractions)
    np.copyto(fractions, 0.0, where=where)


def _refused(mechanism: Mechanism, states: Array) -> tuple[dict[int, str], NDArray[np.int8]]:
    """What is wrong with bad rows, and the status of every row before it is integrated."""
    reasons = dict(mechanism.problems(states))
    status = np.full(len(states), OK, dtype=np.int8)
    status[list(reasons)] = REFUSED
    return reasons, status


def _along(engine: Any, initial: Array, at: Array) -> Array:
    for attempt in (1, 2):
        out = np.empty((len(at), len(initial)))
        engine.start(initial)
        now = 0.0
        try:
            for number, moment in enumerate(at):
                if moment > now:
                    engine.net.advance(moment)
                    now = float(moment)
                out[number] = engine.state() if moment > 0 else initial
            return out
        except CanteraError as error:
            if attempt == 2:
                raise RuntimeError(f"the integration failed after {engine.net.time:g} s: {sentence(error)}") from error
            engine.rebuild()
    raise AssertionError  # the loop returns or raises
