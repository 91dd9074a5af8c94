"""Errors of a surrogate against its mechanism: one step, ignition, perturbed states, long rollouts, speed."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from sciml.chemistry.ignition import peak, stages
from sciml.chemistry.trajectories import LONGEST

if TYPE_CHECKING:
    from sciml.chemistry.mechanism import Mechanism
    from sciml.chemistry.surrogate import Surrogate

__all__ = [
    "Ignitions",
    "delay",
    "first_stage",
    "fixed_point",
    "ignitions",
    "one_step",
    "overall",
    "power_perturbation",
    "recovery",
    "speed",
    "stability",
]


_FAINT = 1e-20  # mass fraction that is not told from none


def delay(temperatures: np.ndarray, dt: float, least: float = 100.0) -> float:
    """Time (s) of the largest dT/dt of temperatures (m,) at equal steps: a parabola through three differences.

    inf where the largest difference is the first or last, or the temperature never rises by `least` K.
    """
    rises = np.diff(temperatures)
    if len(rises) < 3 or temperatures.max() - temperatures[0] < least:
        return float("inf")
    k = int(np.argmax(rises))
    if k in (0, len(rises) - 1):
        return float("inf")
    return peak(dt * (np.arange(len(rises)) + 0.5), rises)


def first_stage(temperatures: np.ndarray, dt: float) -> float:
    """Time (s) of the first of two stages of heat release, from temperatures (m,) at equal steps; nan for one stage."""
    rises = np.diff(temperatures)
    if len(rises) < 3 or temperatures.max() - temperatures[0] < 100.0:
        return float("nan")
    return stages(dt * (np.arange(len(rises)) + 0.5), temperatures[:-1], rises / dt)[0]


@dataclass(frozen=True)
class Ignitions:
    """Rollouts beside the mechanism's.

    Attributes:
        states: (n, 2+s) at the start, those that can be compared.
        dt: the step, s.
        exact: delays (n,), s.
        found: delays of the surrogate (n,), s.
        final: difference of T (K) at 1.5 delays (n,).
        reference: trajectories, one (m_i, 2+s) array for each state, at steps of dt.
        rollout: those of the surrogate, of the same shapes.
        first: (n, 2) first stages by the mechanism and by the surrogate, nan where there is one stage; None if not
            asked for.
        left_out: how many states cannot be compared, by the reason.
    """

    states: np.ndarray
    dt: float
    exact: np.ndarray
    found: np.ndarray
    final: np.ndarray
    reference: list[np.ndarray]
    rollout: list[np.ndarray]
    first: np.ndarray | None = None
    left_out: Mapping[str, int] = field(default_factory=dict)

    @property
    def error(self) -> np.ndarray:
        """Relative errors of the delays (n,); inf where the surrogate does not ignite."""
        return np.abs(self.found / self.exact - 1)

    @property
    def first_error(self) -> np.ndarray:
        """Relative errors of the first stages, (m,), of the states that have one; inf where the surrogate has none."""
        if self.first is None:
            return np.empty(0)
        exact, found = self.first[np.isfinite(self.first[:, 0])].T
        return np.where(np.isfinite(found), np.abs(found / exact - 1), np.inf)

    def profiles(self, points: int = 300) -> np.ndarray:
        """Errors of the species profiles, (n, s): mean |Y - Y_exact| over the largest Y_exact.

        Times are in units of each one's own delay, so that a shift of the ignition, which the delays tell, is not
        counted again. nan where the surrogate does not ignite, or the species stays below 1e-12.
        """
        shares = np.linspace(0, 1.0, points)
        errors = np.full((len(self.states), self.states.shape[1] - 2), np.nan)
        for row, (true, ours) in enumerate(zip(self.reference, self.rollout, strict=True)):
            if not np.isfinite(self.found[row]):
                continue
            curves = []
            for path, unit in ((true, self.exact[row]), (ours, self.found[row])):
                t = self.dt * np.arange(len(path)) / unit
                reach = min(1.5, self.dt * (len(true) - 1) / max(self.exact[row], self.found[row]))
                curves.append(np.array([np.interp(reach * shares, t, column) for column in path[:, 2:].T]))
            top = curves[0].max(1)
            errors[row] = np.where(top > 1e-12, np.abs(curves[1] - curves[0]).mean(1) / np.maximum(top, 1e-12), np.nan)
        return errors

    def summary(self) -> dict[str, float]:
        """Errors of delays (mean, largest, signed mean), of both stages if asked for, final temperatures, profiles."""
        profiles = self.profiles()
        kept = profiles[np.isfinite(profiles)]
        told = {
            "delay error, mean": float(self.error.mean()),
            "delay error, max": float(self.error.max()),
            "delay error, signed mean": float((self.found / self.exact - 1).mean()),
            "final T error, max": float(np.abs(self.final).max()),
            "species profiles, mean error": float(kept.mean()) if len(kept) else float("inf"),
        }
        if self.first is not None and len(self.first_error):
            told["first stage error, mean"] = float(self.first_error.mean())
            told["first stage error, max"] = float(self.first_error.max())
            told["states with two stages"] = len(self.first_error)
        return told | {f"left out: {reason}": number for reason, number in self.left_out.items()}


def ignitions(
    surrogate: Surrogate, mechanism: Mechanism, states: np.ndarray, reach: float = 1.5, two_stage: bool = False
) -> Ignitions:
    """Roll out to `reach` delays of every state, beside the mechanism (rtol 1e-9, atol 1e-15).

    Args:
        surrogate: what is measured.
        mechanism: the truth.
        states: (n, 2+s) charges.
        reach: in units of each delay.
        two_stage: find the first of two stages as well.

    States that do not ignite, or too early or late for steps of dt to tell when, are left out and counted.

    Raises:
        ValueError: if none is left to compare.
    """
    dt, kept, reference, exact, left_out = surrogate.dt, [], [], [], dict[str, int]()
    for number, state in enumerate(states):
        true = _reference(mechanism, state, dt, reach, surrogate.settings.reactor)
        if isinstance(true, str):
            left_out[true] = left_out.get(true, 0) + 1
        else:
            kept.append(number)
            reference.append(true[0])
            exact.append(true[1])
    if not kept:
        reasons = ", ".join(f"{number} {reason}" for reason, number in left_out.items())
        raise ValueError(f"none of {len(states)} states has a delay to compare in steps of {dt:g} s: {reasons}")
    chosen = np.asarray(states)[kept]
    together = surrogate.rollout(chosen, max(map(len, reference)) - 1)
    rollout = [ours[: len(true)] for true, ours in zip(reference, together, strict=True)]
    pairs = list(zip(reference, rollout, strict=True))
    found = np.array([delay(ours[:, 0], dt, _least(true)) for true, ours in pairs])
    final = np.array([ours[-1, 0] - true[-1, 0] for true, ours in pairs])
    early = np.array([[first_stage(p[:, 0], dt) for p in pair] for pair in pairs]) if two_stage else None
    return Ignitions(chosen, dt, np.array(exact), found, final, reference, rollout, early, left_out)


def _reference(
    mechanism: Mechanism, state: np.ndarray, dt: float, reach: float, reactor: str
) -> tuple[np.ndarray, float] | str:
    """The path of a state to `reach` delays at steps of dt, and its delay; or why there is none to compare."""
    run = mechanism.ignition(state, reactor=reactor)
    if not np.isfinite(run.delay):
        return run.status.partition(":")[0]
    steps = max(int(np.ceil(reach * run.delay / dt)), 8)
    if steps > LONGEST:
        return f"takes more than {LONGEST} steps"
    path = mechanism.trajectory(state, dt * np.arange(steps + 1), reactor=reactor)
    when = delay(path[:, 0], dt, _least(path))
    return (path, when) if np.isfinite(when) else "ignited within a step"


def _least(path: np.ndarray) -> float:
    """What a temperature must rise by to have ignited, K: less in a dilute mixture."""
    return min(100.0, 0.5 * float(path[:, 0].max() - path[0, 0]))


def one_step(surrogate: Surrogate, states: np.ndarray, next_states: np.ndarray) -> list[dict[str, Any]]:
    """Errors of one step by species and by scale: one row for each decade of each reactive species' fraction.

    A row holds the mean absolute error over the mean absolute change, so 1 is as good as standing still; changes below
    1e-20 count as that much.
    """
    ours = surrogate.step(states)
    rows = []
    for k in surrogate.settings.reactive:
        scale = np.floor(np.log10(np.maximum(next_states[:, 2 + k], _FAINT)))
        for decade in np.unique(scale):
            chosen = scale == decade
            change = np.abs(next_states[chosen, 2 + k] - states[chosen, 2 + k]).mean()
            error = np.abs(ours[chosen, 2 + k] - next_states[chosen, 2 + k]).mean()
            rows.append(
                {
                    "species": surrogate.settings.species[k],
                    "decade": int(decade),
                    "states": int(chosen.sum()),
                    "error": float(error),
                    "relative": float(error / max(change, _FAINT)),
                }
            )
    return rows


def power_perturbation(
    surrogate: Surrogate, states: np.ndarray, strength: float, rng: np.random.Generator
) -> np.ndarray:
    """Y^(1 + strength U(-1, 1)) of every reactive species, scaled to the same sum; all else as it was."""
    out = np.array(states, dtype=np.float64)
    columns = [2 + k for k in surrogate.settings.reactive]
    y = out[:, columns]
    moved = y ** (1 + strength * rng.uniform(-1, 1, y.shape))
    out[:, columns] = moved * (y.sum(1, keepdims=True) / moved.sum(1, keepdims=True))
    return out


def overall(rows: list[dict[str, Any]]) -> float:
    """The mean of the relative errors of `one_step`, weighted by states."""
    weights = np.array([row["states"] for row in rows], dtype=float)
    return float(np.average([row["relative"] for row in rows], weights=weights))


def recovery(
    surrogate: Surrogate, mechanism: Mechanism, charges: np.ndarray, rng: np.random.Generator, strength: float = 0.1
) -> dict[str, float]:
    """Delays from states on the way to ignition whose fractions were raised to powers 1 + strength U(-1, 1).

    Every charge is followed by the mechanism to a random share, at most 0.8, of its delay, and perturbed there; from
    then on the surrogate is compared with the mechanism.

    Returns:
        "recovered", the share of states within 2 % of the mechanism's delay, and the mean and median error.
    """
    reactor = surrogate.settings.reactor
    on_the_way = []
    for charge in charges:
        whole = mechanism.ignition(charge, reactor=reactor).delay
        if np.isfinite(whole):
            on_the_way.append(mechanism.trajectory(charge, [rng.uniform(0, 0.8) * whole], reactor=reactor)[0])
    if not on_the_way:
        raise ValueError(f"none of {len(charges)} charges ignites, so nothing can be perturbed on the way")
    error = ignitions(surrogate, mechanism, power_perturbation(surrogate, np.array(on_the_way), strength, rng)).error
    return {
        "recovered": float((error <= 0.02).mean()),
        "delay error, mean": float(error.mean()),
        "delay error, median": float(np.median(error)),
    }


def fixed_point(
    surrogate: Surrogate, mechanism: Mechanism, states: np.ndarray, steps: int = 10_000
) -> dict[str, float]:
    """How far equilibrium moves in a rollout: the equilibria of states (n, 2+s) are its starts.

    Those beyond the range of the thermodynamic data, as of fuels in oxygen, are left out; nothing is told if all are.
    """
    hold = "HP" if surrogate.settings.reactor == "constant-pressure" else "UV"
    start = mechanism.equilibrium(states, hold)  # type: ignore[arg-type]
    first = surrogate.sound(start)
    first = first[torch.as_tensor(~surrogate.beyond(first))]
    if not len(first):
        return {}
    with torch.no_grad():  # unlike `rollout`, without keeping every state on the way
        x, kept = first, surrogate.kept(first)
        for _ in range(steps):
            x = surrogate.constrained(x, *kept)
    moved = (x - first).abs()
    return {"T": float(moved[:, 0].max()), "Y": float(moved[:, 2:].max())}


def stability(surrogate: Surrogate, states: np.ndarray, steps: int = 2000) -> dict[str, float]:
    """What a long rollout keeps: drift of elements, of the sum of fractions, smallest fraction, last change of T."""
    atoms = surrogate.conservation.atoms.numpy()
    columns = [2 + k for k in surrogate.settings.reactive]
    path = surrogate.rollout(states, steps)
    moles = path[:, :, columns] @ atoms
    return {
        "element drift": float(np.abs(moles - moles[:, :1]).max()),
        "sum of fractions": float(np.abs(path[:, :, 2:].sum(2) - 1).max()),
        "smallest fraction": float(path[:, :, 2:].min()),
        "last change of T": float(np.abs(path[:, -1, 0] - path[:, -2, 0]).max()),
    }


def speed(
    surrogate: Surrogate,
    mechanism: Mechanism,
    states: np.ndarray,
    batches: tuple[int, ...] = (1, 128, 8192),
    tolerances: tuple[tuple[float, float], ...] = ((1e-6, 1e-10), (1e-9, 1e-15)),
    repeats: int = 7,
) -> list[dict[str, float]]:
    """Processor time of a state on one core, everything included, against a reused CVODE reactor.

    Args:
        surrogate: timed with `step`, from arrays to arrays.
        mechanism: timed on at most 256 of the states.
        states: from which batches are filled by repetition.
        batches: sizes.
        tolerances: rtol and atol of CVODE.
        repeats: the best of so many is taken; all take turns, since cores do not stay as fast as they are.
    """
    sample = states[np.linspace(0, len(states) - 1, min(len(states), 256)).astype(int)]
    reactor, threads = surrogate.settings.reactor, torch.get_num_threads()
    counts = {size: max(1, min(2048 // size, 200)) for size in batches}
    work: dict[Any, Callable[[], Any]] = {
        (rtol, atol): partial(mechanism.advance, sample, surrogate.dt, rtol=rtol, atol=atol, reactor=reactor)
        for rtol, atol in tolerances
    }
    for size, count in counts.items():
        work[size] = partial(_repeat, count, partial(surrogate.step, np.resize(states, (size, states.shape[1]))))
    torch.set_num_threads(1)
    try:
        for size in counts:
            work[size]()
        least = _fastest(work, repeats)
    finally:
        torch.set_num_threads(threads)
    return [
        _row(size, pair, least[size] / (count * size), least[pair] / len(sample))
        for size, count in counts.items()
        for pair in tolerances
    ]


def _repeat(count: int, work: Callable[[], Any]) -> None:
    for _ in range(count):
        work()


def _row(size: int, tolerances: tuple[float, float], ours: float, theirs: float) -> dict[str, float]:
    return {
        "batch": size,
        "rtol": tolerances[0],
        "atol": tolerances[1],
        "microseconds": 1e6 * ours,
        "CVODE, microseconds": 1e6 * theirs,
        "speed-up": theirs / ours,
    }


def _fastest(work: Mapping[Any, Callable[[], Any]], repeats: int) -> dict[Any, float]:
    """Least processor times (s) of so many turns."""
    least = dict.fromkeys(work, float("inf"))
    for _ in range(repeats):
        for name, task in work.items():
            begun = time.process_time()
            task()
            least[name] = min(least[name], time.process_time() - begun)
    return least
