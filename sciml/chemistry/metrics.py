"""By which quantities two mechanisms are compared.

A metric measures a mechanism over a table of conditions and turns two measurements into signed errors, each divided by
its tolerance:

    IgnitionDelay     (tau - tau_0) / tau_0                      relative
    Corners           the same just beyond the table             relative
    Burnt             T - T_0 in K, and mole fractions, of the equilibrium at constant enthalpy
    StirredReactor    T - T_0 of a perfectly stirred reactor     relative
    Extinction        the residence time at which it goes out    relative
    FlameSpeed        (S_L - S_L0) / S_L0                        relative
    Profiles          mole fractions along a reactor, relative to each species' largest
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import ClassVar, Protocol

import numpy as np

from sciml.chemistry.conditions import Conditions
from sciml.chemistry.flames import Flame
from sciml.chemistry.ignition import peak, stages
from sciml.chemistry.mechanism import CanteraError, Mechanism, Reactor, quiet
from sciml.chemistry.reactors import Integrator

_LONGEST = 10.0  # seconds to wait for an ignition

__all__ = ["Burnt", "Corners", "Extinction", "FlameSpeed", "IgnitionDelay", "Metric", "Profiles", "StirredReactor"]


class Metric(Protocol):
    """A quantity by which mechanisms are compared."""

    name: ClassVar[str]
    definition: ClassVar[str]

    def measure(self, mechanism: Mechanism, conditions: Conditions, reference: np.ndarray | None) -> np.ndarray:
        """(m,) values; inf where there is none. The reference, if given, tells when to give up; the rest is NaN."""
        ...

    def errors(self, values: np.ndarray, reference: np.ndarray) -> np.ndarray:
        """(m,) signed errors in units of the tolerance."""
        ...

    def labels(self, conditions: Conditions) -> list[str]:
        """(m,) names of the values."""
        ...


@dataclass(frozen=True)
class _Relative:
    """Signed relative errors."""

    tolerance: float = 0.1
    definition: ClassVar[str] = "(x - x0) / x0"

    def __post_init__(self) -> None:
        """Check the tolerance."""
        if not (np.isfinite(self.tolerance) and self.tolerance > 0):
            raise ValueError(f"tolerance is {self.tolerance}, but must be a positive number")

    def errors(self, values: np.ndarray, reference: np.ndarray) -> np.ndarray:
        """(values / reference - 1) / tolerance."""
        with np.errstate(invalid="ignore", divide="ignore"):
            found = (values / reference - 1) / self.tolerance
        return np.where(np.isnan(values) | np.isfinite(values) & np.isfinite(reference), found, np.inf)

    def labels(self, conditions: Conditions) -> list[str]:
        """One for each condition."""
        return [f"{self.name}, {label}" for label in conditions.labels()]  # type: ignore[attr-defined]


@dataclass(frozen=True)
class IgnitionDelay(_Relative):
    """Time of the largest dT/dt of an adiabatic reactor.

    Attributes:
        tolerance: relative.
        reactor: at constant pressure or volume.
        two_stage: measure the first stage too.
        rtol: of the integrator; 1e-5 moves delays by about 1e-4, which is what a search needs.
        atol: of the integrator.
        patience: a charge that has not ignited after so many delays of the reference has an infinite error, and those
            that follow it are not measured.
    """

    name: ClassVar[str] = "ignition delay"
    reactor: Reactor = "constant-pressure"
    two_stage: bool = False
    rtol: float = 1e-5
    atol: float = 1e-12
    patience: float = 3.0

    def measure(self, mechanism: Mechanism, conditions: Conditions, reference: np.ndarray | None) -> np.ndarray:
        """Delays (s), of all conditions, then first stages of all conditions if asked for."""
        engine = Integrator(mechanism, self.reactor, self.rtol, self.atol)
        states = conditions.states(mechanism)
        limits = np.full(len(states), _LONGEST) if reference is None else self.patience * reference[: len(states)]
        delays = np.full((len(states), 2), np.nan)
        for row, (state, limit) in enumerate(zip(states, limits, strict=True)):
            if not np.isfinite(limit):
                continue  # nor does the reference ignite there
            delays[row] = self._delay(engine, mechanism, state, limit)
            if reference is not None and not np.isfinite(delays[row, 0]):
                break  # one charge that does not ignite is enough; to wait for the others in vain is dear
        return delays.T.reshape(-1) if self.two_stage else delays[:, 0]

    def labels(self, conditions: Conditions) -> list[str]:
        """Delays, then first stages."""
        main = super().labels(conditions)
        return main + [f"first stage, {label}" for label in conditions.labels()] if self.two_stage else main

    def _delay(self, engine: Integrator, mechanism: Mechanism, state: np.ndarray, limit: float) -> tuple[float, float]:
        """(ignition or inf, first stage or inf)."""
        for _ in range(2):  # a network that is used again can fail on a state that a new one integrates
            try:
                times, temperatures, rise = self._record(engine, mechanism, state, limit)
                break
            except CanteraError:
                engine.rebuild()
        else:
            return np.inf, np.inf
        if temperatures[-1] - state[0] < 0.5 * rise or rise < 50:
            return np.inf, np.inf
        rates = np.gradient(temperatures, times)
        if not self.two_stage:
            return peak(times, rates), np.inf
        first, main = stages(times, temperatures, rates)
        return main, (first if np.isfinite(first) else main)

    def _record(
        self, engine: Integrator, mechanism: Mechanism, state: np.ndarray, limit: float
    ) -> tuple[list[float], list[float], float]:
        """Times and temperatures of one run, and the rise (K) that complete combustion would give."""
        gas = mechanism.gas
        gas.TPY = state[0], state[1], state[2:]
        with quiet():
            gas.equilibrate("HP" if self.reactor == "constant-pressure" else "UV")
        rise = gas.T - state[0]
        engine.start(state)
        times, temperatures, largest = [0.0], [state[0]], 0.0
        # what has begun to burn is followed to its end: a lean charge can take longer to burn than to ignite
        while times[-1] < limit or (temperatures[-1] - state[0] > 0.1 * rise and times[-1] < _LONGEST):
            times.append(engine.net.step())
            temperatures.append(gas.T)
            # slopes of steps: the right-hand side at every step would cost as much as the integration
            slope = (temperatures[-1] - temperatures[-2]) / (times[-1] - times[-2])
            largest = max(largest, slope)
            if temperatures[-1] - state[0] > 0.8 * rise > 0 and slope < 0.05 * largest:
                break
            if len(times) > 20_000:
                raise CanteraError("20,000 steps do not reach the end")
        return times, temperatures, rise


@dataclass(frozen=True)
class Corners:
    """Ignition delays beyond the table: a part that is right at every point of it must not fail next to it.

    Attributes:
        metric: the delays.
        beyond: how many of its tolerances are allowed there.
        widen: the corners are those of the table's box, made larger by this share of its sides.
        points: of these corners, those that are not in the table and at which the parent ignites; see `started`.
    """

    name: ClassVar[str] = "ignition delay beyond the table"
    definition: ClassVar[str] = _Relative.definition
    metric: IgnitionDelay
    beyond: float = 2.0
    widen: float = 0.1
    points: tuple[tuple[float, float, float], ...] = ()

    def __post_init__(self) -> None:
        """Check what is allowed: one delay for each corner."""
        if self.metric.two_stage:
            raise ValueError("metric has two_stage, but corners compare the delay alone")
        if not (np.isfinite(self.beyond) and self.beyond > 0):
            raise ValueError(f"beyond is {self.beyond}, but must be a positive number of tolerances")

    @property
    def tolerance(self) -> float:
        """What is allowed."""
        return self.beyond * self.metric.tolerance

    def started(self, mechanism: Mechanism, conditions: Conditions) -> Corners:
        """This metric for parts of a mechanism."""
        corners = conditions.corners(self.widen).within(mechanism)
        ignites = np.isfinite(self.metric.measure(mechanism, corners, None))
        new = [p for p, there in zip(corners.points, ignites, strict=True) if there and p not in conditions.points]
        return replace(self, points=tuple(new))

    def measure(self, mechanism: Mechanism, conditions: Conditions, reference: np.ndarray | None) -> np.ndarray:
        """Delays (s)."""
        if not self.points:
            return np.empty(0)
        return self.metric.measure(mechanism, replace(conditions, points=self.points), reference)

    def errors(self, values: np.ndarray, reference: np.ndarray) -> np.ndarray:
        """Those of the metric over `beyond`."""
        return self.metric.errors(values, reference) / self.beyond

    def labels(self, conditions: Conditions) -> list[str]:
        """One for each corner."""
        where = replace(conditions, points=self.points).labels() if self.points else []
        return [f"{self.name}, {label}" for label in where]


@dataclass(frozen=True)
class Burnt:
    """Temperature and major products of the equilibrium at constant enthalpy and pressure.

    The cheapest metric, and one that ignition delays cannot replace: without CO2 they can be right and the flame 500 K
    too cold. Charges at each temperature of the table and at 300 K are burnt.

    Attributes:
        kelvin: tolerance of the temperature.
        fraction: tolerance of a product's mole fraction, absolute.
        products: whose mole fractions are compared; one that a mechanism lacks counts as zero.
        hot: burn charges at each temperature of the table too, not only at 300 K.
    """

    name: ClassVar[str] = "burnt"
    definition: ClassVar[str] = "x - x0"
    kelvin: float = 10.0
    fraction: float = 0.005
    products: tuple[str, ...] = ("CO2", "H2O", "CO")
    hot: bool = True

    def __post_init__(self) -> None:
        """Check the tolerances."""
        for what, value in (("temperatures (K)", self.kelvin), ("mole fractions", self.fraction)):
            if not (np.isfinite(value) and value > 0):
                raise ValueError(f"the tolerance of burnt {what} is {value}, but must be a positive number")

    def _charges(self, conditions: Conditions) -> Conditions:
        cold = tuple(dict.fromkeys((300.0, p, phi) for _, p, phi in conditions.points))
        points = cold + conditions.points if self.hot else cold
        return Conditions(conditions.fuel, points, conditions.oxidiser)

    def measure(self, mechanism: Mechanism, conditions: Conditions, reference: np.ndarray | None) -> np.ndarray:  # noqa: ARG002
        """Temperatures (K) of all charges, then mole fractions of each product in all of them."""
        gas, rows = mechanism.gas, []
        upper = {name.upper(): k for k, name in enumerate(mechanism.species)}
        where = [upper.get(name.upper()) for name in self.products]
        for state in self._charges(conditions).states(mechanism):
            try:
                gas.TPY = state[0], state[1], state[2:]
                with quiet():
                    gas.equilibrate("HP")
                rows.append([gas.T, *(0.0 if k is None else gas.X[k] for k in where)])
            except CanteraError:
                rows.append([np.inf] * (1 + len(where)))
        return np.array(rows).T.reshape(-1)

    def errors(self, values: np.ndarray, reference: np.ndarray) -> np.ndarray:
        """Differences over `kelvin`, then over `fraction`."""
        n = len(values) // (1 + len(self.products))
        scale = np.repeat([self.kelvin, self.fraction], [n, len(values) - n])
        with np.errstate(invalid="ignore"):
            found = (values - reference) / scale
        return np.where(np.isfinite(values) & np.isfinite(reference), found, np.inf)

    def labels(self, conditions: Conditions) -> list[str]:
        """Temperatures, then products."""
        charges = self._charges(conditions).labels()
        return [
            f"{what}, {c}" for what in ("burnt temperature", *(f"burnt {p}" for p in self.products)) for c in charges
        ]


@dataclass(frozen=True)
class _Steady(_Relative):
    """What is measured of a feed at one temperature, for each pressure and some equivalence ratios of the table."""

    inlet: float = 500.0
    phis: tuple[float, float] = (0.0, np.inf)

    def labels(self, conditions: Conditions) -> list[str]:
        """One for each pressure and phi."""
        return super().labels(conditions.at(self.inlet, self.phis))


@dataclass(frozen=True)
class StirredReactor(_Steady):
    """Temperature of a perfectly stirred reactor fed at 500 K.

    Attributes:
        tolerance: relative, of the temperature.
        residence: seconds.
        inlet: temperature of the feed (K).
        phis: range of the equivalence ratios of the table at which it is measured.
    """

    name: ClassVar[str] = "stirred reactor temperature"
    residence: float = 1e-3

    def measure(self, mechanism: Mechanism, conditions: Conditions, reference: np.ndarray | None) -> np.ndarray:  # noqa: ARG002
        """Temperatures (K)."""
        found = []
        for state in conditions.at(self.inlet, self.phis).states(mechanism):
            result = mechanism.psr(state, self.residence)
            lit = result.state[0] > self.inlet + 100 if np.all(np.isfinite(result.state)) else False
            found.append(float(result.state[0]) if lit else np.inf)
        return np.array(found)


@dataclass(frozen=True)
class Extinction(_Steady):
    """The shortest residence time at which a perfectly stirred reactor burns.

    Attributes:
        tolerance: relative.
        inlet: temperature of the feed (K).
        phis: range of the equivalence ratios of the table at which it is measured.
        resolution: relative width of the interval in which the turning point is enclosed.
        patience: a reactor that does not burn at so many times the reference has an infinite error.
    """

    name: ClassVar[str] = "extinction time"
    resolution: float = 0.01
    patience: float = 4.0

    def measure(self, mechanism: Mechanism, conditions: Conditions, reference: np.ndarray | None) -> np.ndarray:
        """Residence times (s)."""
        states = conditions.at(self.inlet, self.phis).states(mechanism)
        longest = np.full(len(states), 0.1)
        if reference is not None:
            longest = np.where(np.isfinite(reference), self.patience * reference, longest)
        times = []
        for state, first in zip(states, longest, strict=True):
            found = mechanism.extinction(state, longest=first, tolerance=self.resolution, rtol=1e-6, atol=1e-13)
            times.append(np.sqrt(found.residence_time * found.extinct_time))
        return np.where(np.isfinite(times), times, np.inf)


@dataclass(frozen=True)
class FlameSpeed(_Steady):
    """Speed of the freely propagating premixed flame; the dearest metric, so it comes last.

    Attributes:
        tolerance: relative.
        inlet: temperature of the unburnt gas (K).
        phis: range of the equivalence ratios of the table at which it is measured.
        slope: largest change between neighbouring points.
        curve: the same for slopes.
        parents: flames of the full mechanism and its species. Parts of it start from them on the same grid, which
            costs a tenth and makes errors of discretisation cancel; see `started`.
    """

    name: ClassVar[str] = "flame speed"
    inlet: float = 300.0
    slope: float = 0.06
    curve: float = 0.12
    parents: tuple[tuple[Flame, ...], tuple[str, ...]] | None = None

    def started(self, mechanism: Mechanism, conditions: Conditions) -> FlameSpeed:
        """This metric for parts of a mechanism."""
        return replace(self, parents=(tuple(self._flames(mechanism, conditions)), mechanism.species))

    def measure(self, mechanism: Mechanism, conditions: Conditions, reference: np.ndarray | None) -> np.ndarray:
        """Speeds (m/s)."""
        speeds = np.full(len(conditions.at(self.inlet, self.phis).points), np.nan)
        for row, flame in enumerate(self._flames(mechanism, conditions)):
            speeds[row] = flame.speed if np.isfinite(flame.speed) else np.inf
            if reference is not None and np.isfinite(reference[row]) and not np.isfinite(flame.speed):
                break  # one that fails is enough
        return speeds

    def _flames(self, mechanism: Mechanism, conditions: Conditions) -> Iterator[Flame]:
        flames, species = self.parents or ((), ())
        here = [species.index(name) for name in mechanism.species] if flames else []
        for row, state in enumerate(conditions.at(self.inlet, self.phis).states(mechanism)):
            start = None
            if flames:
                Y = flames[row].Y[:, here]
                start = replace(flames[row], Y=Y / Y.sum(1, keepdims=True))
            yield mechanism.flame_speed(state, slope=self.slope, curve=self.curve, start=start)


@dataclass(frozen=True)
class Profiles:
    """Mole fractions of species along an adiabatic reactor, at fixed fractions of the reference's ignition delay.

    Attributes:
        species: those compared.
        tolerance: relative to each species' largest mole fraction in the reference.
        delays: times in units of the reference's delay.
        reactor: at constant pressure or volume.
    """

    name: ClassVar[str] = "profiles"
    definition: ClassVar[str] = "(x - x0) / max x0"
    species: tuple[str, ...]
    tolerance: float = 0.1
    delays: tuple[float, ...] = (0.25, 0.5, 0.75, 1.5, 3.0)
    reactor: Reactor = "constant-pressure"

    def measure(self, mechanism: Mechanism, conditions: Conditions, reference: np.ndarray | None) -> np.ndarray:
        """The reference's delays, then mole fractions: condition by condition, time by time, species by species."""
        states = conditions.states(mechanism)
        if reference is None:
            delay = IgnitionDelay(reactor=self.reactor).measure(mechanism, conditions, None)
        else:
            delay = reference[: len(states)]
        rows = []
        for state, tau in zip(states, delay, strict=True):
            try:
                path = mechanism.trajectory(
                    state, tau * np.array(self.delays), reactor=self.reactor, rtol=1e-6, atol=1e-13
                )
                moles = path[:, 2:] / mechanism.molar_masses
                X = moles / moles.sum(1, keepdims=True)
                rows.append(X[:, [mechanism.index(s) for s in self.species]].reshape(-1))
            except (CanteraError, RuntimeError, ValueError):
                rows.append(np.full(len(self.delays) * len(self.species), np.inf))
        return np.concatenate([delay, *rows])

    def errors(self, values: np.ndarray, reference: np.ndarray) -> np.ndarray:
        """Differences over the largest mole fraction of the species in the reference; the delays count nothing."""
        per = len(self.delays) * len(self.species)
        n = len(reference) // (per + 1)
        shape = (n, len(self.delays), len(self.species))
        found, expected = values[n:].reshape(shape), reference[n:].reshape(shape)
        largest = expected.max((0, 1))
        with np.errstate(invalid="ignore"):  # what the reference does not have at all is compared as it is
            scaled = (found - expected) / (self.tolerance * np.where(largest > 0, largest, 1.0))
        scaled = np.where(np.isfinite(found), scaled, np.inf)
        return np.concatenate([np.zeros(n), scaled.reshape(-1)])

    def labels(self, conditions: Conditions) -> list[str]:
        """As the values."""
        names = [f"{s} at {d:g} delays" for d in self.delays for s in self.species]
        where = conditions.labels()
        return [f"delay, {c}" for c in where] + [f"{name}, {c}" for c in where for name in names]
