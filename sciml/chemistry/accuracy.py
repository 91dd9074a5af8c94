"""Errors of a surrogate against its mechanism: one step, ignition, perturbed states, long rollouts, speed."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from sciml.chemistry.ignition import peak

if TYPE_CHECKING:
    from sciml.chemistry.mechanism import Mechanism
    from sciml.chemistry.surrogate import Surrogate

__all__ = ["Ignitions", "delay", "ignitions", "one_step", "perturbed", "power_perturbation", "speed", "stability"]


def delay(temperatures: np.ndarray, dt: float) -> float:
    """Time (s) of the largest dT/dt of temperatures (m,) at equal steps: a parabola through three differences.

    inf where the largest difference is the first or last, or the temperature never rises by 100 K.
    """
    rises = np.diff(temperatures)
    if len(rises) < 3 or temperatures.max() - temperatures[0] < 100.0:
        return float("inf")
    k = int(np.argmax(rises))
    if k in (0, len(rises) - 1):
        return float("inf")
    return peak(dt * (np.arange(len(rises)) + 0.5), rises)


@dataclass(frozen=True)
class Ignitions:
    """Rollouts beside the mechanism's.

    Attributes:
        states: (n, 2+s) at the start.
        exact: delays (n,), s.
        found: delays of the surrogate (n,), s.
        final: difference of T (K) at 1.5 delays (n,).
        reference: trajectories, one (m_i, 2+s) array for each state, at steps of dt.
        rollout: those of the surrogate, of the same shapes.
    """

    states: np.ndarray
    exact: np.ndarray
    found: np.ndarray
    final: np.ndarray
    reference: list[np.ndarray]
    rollout: list[np.ndarray]

    @property
    def error(self) -> np.ndarray:
        """Relative errors of the delays (n,); inf where only one of the two ignites."""
        with np.errstate(invalid="ignore"):
            both = np.isinf(self.exact) & np.isinf(self.found)
            return np.where(both, 0.0, np.abs(self.found / self.exact - 1))

    def summary(self) -> dict[str, float]:
        """Mean, largest and signed mean error of the delays, and the largest error of the final temperature."""
        signed = np.where(np.isfinite(self.found), self.found / self.exact - 1, np.inf)
        return {
            "delay error, mean": float(self.error.mean()),
            "delay error, max": float(self.error.max()),
            "delay error, signed mean": float(signed.mean()),
            "final T error, max": float(np.abs(self.final).max()),
        }


def ignitions(surrogate: Surrogate, mechanism: Mechanism, states: np.ndarray, reach: float = 1.5) -> Ignitions:
    """Roll out to `reach` delays of every state, beside the mechanism (rtol 1e-9, atol 1e-15).

    Raises:
        ValueError: if a state does not ignite: there is nothing to compare.
    """
    reactor, dt = surrogate.settings.reactor, surrogate.dt
    reference, found, exact, final, rollout = [], [], [], [], []
    for state in states:
        first = mechanism.ignition(state, reactor=reactor).delay
        if not np.isfinite(first):
            raise ValueError(f"the state at {state[0]:g} K and {state[1]:g} Pa does not ignite")
        steps = max(int(np.ceil(reach * first / dt)), 8)
        reference.append(mechanism.trajectory(state, dt * np.arange(steps + 1), reactor=reactor))
    longest = max(len(r) for r in reference)
    together = surrogate.rollout(states, longest - 1)
    for true, ours in zip(reference, together, strict=True):
        ours = ours[: len(true)]
        rollout.append(ours)
        exact.append(delay(true[:, 0], dt))
        found.append(delay(ours[:, 0], dt))
        final.append(ours[-1, 0] - true[-1, 0])
    return Ignitions(np.asarray(states), np.array(exact), np.array(found), np.array(final), reference, rollout)


def one_step(surrogate: Surrogate, states: np.ndarray, next_states: np.ndarray) -> list[dict[str, Any]]:
    """Errors of one step by species and by scale: one row for each decade of each reactive species' fraction.

    A row holds the mean absolute error over the mean absolute change, so 1 is as good as standing still.
    """
    ours = surrogate.step(states)
    rows = []
    for k in surrogate.settings.reactive:
        scale = np.floor(np.log10(np.maximum(next_states[:, 2 + k], 1e-20)))
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
                    "relative": float(error / change) if change > 0 else 0.0,
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


def perturbed(
    surrogate: Surrogate, mechanism: Mechanism, states: np.ndarray, rng: np.random.Generator, strength: float = 0.1
) -> dict[str, float]:
    """Delays after a power perturbation: the share within 2 % of the mechanism's, and the mean error."""
    found = ignitions(surrogate, mechanism, power_perturbation(surrogate, states, strength, rng))
    return {"recovered": float((found.error <= 0.02).mean()), "delay error, mean": float(found.error.mean())}


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
    rtol: float = 1e-6,
    atol: float = 1e-10,
    repeats: int = 3,
) -> list[dict[str, float]]:
    """Processor time for each state, everything included, against a reused CVODE reactor.

    Args:
        surrogate: timed with `step`, from arrays to arrays.
        mechanism: timed on at most 256 of the states.
        states: from which batches are filled by repetition.
        batches: sizes.
        rtol: of CVODE.
        atol: of CVODE.
        repeats: the best of so many is taken.
    """
    sample = states[:256]
    reactor = surrogate.settings.reactor
    times = []
    for _ in range(repeats):
        begun = time.process_time()
        mechanism.advance(sample, surrogate.dt, rtol=rtol, atol=atol, reactor=reactor)
        times.append((time.process_time() - begun) / len(sample))
    integrator, rows = min(times), []
    for size in batches:
        batch = np.resize(states, (size, states.shape[1]))
        surrogate.step(batch)
        count = max(1, 2048 // size)
        ours = []
        for _ in range(repeats):
            begun = time.process_time()
            for _ in range(count):
                surrogate.step(batch)
            ours.append((time.process_time() - begun) / (count * size))
        rows.append(
            {
                "batch": float(size),
                "microseconds": 1e6 * min(ours),
                "CVODE, microseconds": 1e6 * integrator,
                "speed-up": integrator / min(ours),
            }
        )
    return rows
