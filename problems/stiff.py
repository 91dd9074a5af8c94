"""Stiff systems without chemistry: the flow map of each as a network, rolled out beside Radau (arXiv:2401.01220).

robertson      y1' = -0.04 y1 + 1e4 y2 y3, y2' = 0.04 y1 - 1e4 y2 y3 - 3e7 y2^2, y3' = 3e7 y2^2; log dt is an input
van_der_pol    y1' = y2, y2' = mu ((1 - y1^2) y2 - y1), mu = 10
oregonator     y1' = 77.27 (y2 + y1 (1 - 8.375e-6 y1 - y2)), y2' = (y3 - (1 + y1) y2)/77.27, y3' = 0.161 (y1 - y3)
predator_prey  y1' = 2/3 y1 - 4/3 y1 y2, y2' = y1 y2 - y2
ring           the ring modulator, 15 currents and voltages driven by two sines (Test Set for IVP Solvers, problem II-3)

Samples are evolved (EMCS): random states are drawn around a long trajectory, half of them by the length of their next
step, for a jump is over in a few, and every one brings the points of its own trajectory, fast at first and slow later.

Errors are root mean squares over the steps of a rollout, in shares of each unknown's largest value. Robertson's are
taken at the ends of steps that grow like the time, six to a decade from 1e-6 to 1e11, together with errors relative to
the value itself, for all unknowns decay by many decades. Where a solution oscillates, a small error of the period
moves every later spike, so period and amplitude are compared as well, over five reference times. Steps count as within
10 % until the mean error first exceeds a tenth.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.integrate import solve_ivp

from sciml.flowmap import FlowMap
from sciml.optimizers import SOAP
from sciml.results import Run
from sciml.training import Adam

Rate = Callable[[float, np.ndarray], np.ndarray]


@dataclass(frozen=True)
class Config:
    """Options of a run.

    Attributes:
        case: the system, by the name above.
        samples: initial states of the evolution.
        length: consecutive states that each brings; where fast unknowns are at rest after one step, longer windows
            are all but their first steps without a kick, and a network may learn that those unknowns never move.
        widths: neurons of the hidden layers.
        steps: of SOAP on pairs.
        tuning: of Adam on rollouts over `length` steps; 0 for none.
        lr: learning rate of SOAP; Adam takes a fiftieth of it.
        batch: rows per step.
        spread: of the random states around trajectories: factors exp(k), or shares k of each range, with a k of either
            sign for every unknown, on all scales from a ten-thousandth of the spread on, for a fast unknown has to
            come back however little it is off.
        general: power of the generalised Box-Cox transform of increments; 0 for none.
    """

    case: str = "robertson"
    samples: int = 1500
    length: int = 16
    widths: tuple[int, ...] = (64, 64)
    steps: int = 6000
    tuning: int = 300
    lr: float = 1e-2
    batch: int = 1024
    spread: float = 0.3
    general: float = 0.0


VARIANTS = {
    "paper": Config(samples=600, length=24, steps=5000),
    "smoke": Config(case="predator_prey", samples=20, widths=(16,), steps=40, tuning=3, batch=64),
    "van_der_pol": Config(case="van_der_pol"),
    "oregonator": Config(case="oregonator", samples=12000, length=1, steps=8000, tuning=0, spread=1.0),
    "predator_prey": Config(case="predator_prey"),
    "ring": Config(case="ring", samples=4000, length=10, widths=(96, 96), steps=8000, tuning=0, spread=0.1),
}


@dataclass(frozen=True)
class System:
    """A system y' = rate(t, y), its reference trajectory, and how it is sampled.

    Attributes:
        rate: right-hand side.
        start: of the reference trajectory.
        dt: the step; None draws steps on all scales between 1e-6 and `end`.
        end: of the reference trajectory.
        positive: whether the unknowns cannot be negative.
        conserve: whether their sum stays.
        cycle: whether the solution oscillates; the first unknown tells the period.
        drive: gives columns at the end that are functions of time alone: never perturbed, and known to a rollout.
        atol: absolute tolerance of references and labels.
        method: of the reference; the ring modulator takes a million evaluations, which LSODA does in compiled code.
    """

    rate: Rate
    start: tuple[float, ...]
    dt: float | None
    end: float
    positive: bool
    conserve: bool = False
    cycle: bool = False
    drive: Callable[[float], np.ndarray] | None = None
    atol: float = 1e-10
    method: str = "Radau"

    @property
    def driven(self) -> int:
        """Columns of the drive."""
        return 0 if self.drive is None else len(self.drive(0.0))


def robertson(t: float, y: np.ndarray) -> np.ndarray:
    """Robertson's three reactions."""
    slow, back, fast = 0.04 * y[0], 1e4 * y[1] * y[2], 3e7 * y[1] ** 2
    return np.array([back - slow, slow - back - fast, fast])


def van_der_pol(t: float, y: np.ndarray) -> np.ndarray:
    """Van der Pol's oscillator with mu = 10."""
    return np.array([y[1], 10 * ((1 - y[0] ** 2) * y[1] - y[0])])


def oregonator(t: float, y: np.ndarray) -> np.ndarray:
    """The Belousov-Zhabotinskii reaction."""
    return np.array(
        [
            77.27 * (y[1] + y[0] * (1 - 8.375e-6 * y[0] - y[1])),
            (y[2] - (1 + y[0]) * y[1]) / 77.27,
            0.161 * (y[0] - y[2]),
        ]
    )


def predator_prey(t: float, y: np.ndarray) -> np.ndarray:
    """Lotka and Volterra's two populations."""
    return np.array([2 / 3 * y[0] - 4 / 3 * y[0] * y[1], y[0] * y[1] - y[1]])


def ring_modulator(t: float, y: np.ndarray) -> np.ndarray:
    """Fifteen unknowns of the circuit, and cos, sin of the phase 2000 pi t and of ten times it, which drive it."""
    c, cs, cp, lh, ls1, ls2 = 1.6e-8, 2e-12, 1e-8, 4.45, 2e-3, 5e-4
    r, rp, rg1, rg2, ri, rc = 25e3, 50.0, 36.3, 17.3, 50.0, 600.0
    # Python's own numbers: fifteen formulas are a third of the time of arrays of four
    y1, y2, y3, y4, y5, y6, y7, y8, y9, y10, y11, y12, y13, y14, y15, c1, s1, c10, s10 = y.tolist()
    u1, u2 = 0.5 * s1, 2 * s10
    across = (y3 - y5 - y7 - u2, -y4 + y6 - y7 - u2, y4 + y5 + y7 + u2, -y3 - y6 + y7 + u2)
    # a diode law without bound overflows where Newton's method only tries a state
    q1, q2, q3, q4 = (40.67286402e-9 * math.expm1(min(17.7493332 * u, 200.0)) for u in across)
    circuit = [
        (y8 - 0.5 * y10 + 0.5 * y11 + y14 - y1 / r) / c,
        (y9 - 0.5 * y12 + 0.5 * y13 + y15 - y2 / r) / c,
        (y10 - q1 + q4) / cs,
        (-y11 + q2 - q3) / cs,
        (y12 + q1 - q3) / cs,
        (-y13 - q2 + q4) / cs,
        (-y7 / rp + q1 + q2 - q3 - q4) / cp,
        -y1 / lh,
        -y2 / lh,
        (0.5 * y1 - y3 - rg2 * y10) / ls2,
        (-0.5 * y1 + y4 - rg2 * y11) / ls2,
        (0.5 * y2 - y5 - rg2 * y12) / ls2,
        (-0.5 * y2 + y6 - rg2 * y13) / ls2,
        (-y1 + u1 - (ri + rg1) * y14) / ls1,
        (-y2 - (rc + rg1) * y15) / ls1,
    ]
    w = 2000 * np.pi
    return np.array([*circuit, -w * s1, w * c1, -10 * w * s10, 10 * w * c10])


def ring_drive(t: float) -> np.ndarray:
    """The columns of the ring modulator that drive it."""
    w = 2000 * np.pi * t
    return np.array([np.cos(w), np.sin(w), np.cos(10 * w), np.sin(10 * w)])


SYSTEMS = {
    "robertson": System(robertson, (1.0, 0.0, 0.0), None, 1e11, True, conserve=True, atol=1e-18),
    "van_der_pol": System(van_der_pol, (2.0, 0.0), 0.02, 20.0, False, cycle=True),
    "oregonator": System(oregonator, (1.0, 2.0, 3.0), 0.2, 360.0, True, cycle=True),
    "predator_prey": System(predator_prey, (1.0, 1.0), 0.1, 30.0, True, cycle=True),
    "ring": System(
        ring_modulator, (0.0,) * 15 + (1.0, 0.0, 1.0, 0.0), 2e-8, 1e-3, False, drive=ring_drive, method="LSODA"
    ),
}
_LAPS = 5  # reference times over which periods and amplitudes are compared


def reference(
    system: System, start: np.ndarray, times: np.ndarray, rtol: float = 1e-8, method: str | None = None
) -> np.ndarray:
    """States ``(m, d)`` at increasing times from 0, by the stiff method of the system or another one of scipy.

    Raises:
        RuntimeError: if the integration fails.
    """
    method = method or system.method
    solved = solve_ivp(system.rate, (0.0, times[-1]), start, method, times, rtol=rtol, atol=system.atol)
    if not solved.success:
        raise RuntimeError(f"{method} failed: {solved.message}")
    return np.maximum(solved.y.T, 0.0) if system.positive else solved.y.T


def grid(system: System, steps: int | None = None) -> np.ndarray:
    """Times of a rollout: whole steps, or six to a decade where steps grow like the time."""
    if system.dt is None:
        return np.concatenate([[0], np.geomspace(1e-6, system.end, 1 + round(6 * np.log10(system.end / 1e-6)))])
    return system.dt * np.arange((steps or round(system.end / system.dt)) + 1)


def _places(system: System, count: int, rng: np.random.Generator) -> np.ndarray:
    """States ``(count, d)`` of the reference trajectory: half drawn by time, half by the length of their next step.

    The length is that of the path of F(y) over its range. A jump is over in a few steps, and a step that crosses it
    begins before it: drawn by where the path is long, those states would be missing.
    """
    per = 32  # points to a step
    if system.dt is None:
        along, per = np.concatenate([[0], np.geomspace(1e-6, system.end, 400)]), 1
    else:
        along = system.dt / per * np.arange(per * round(system.end / system.dt) + 1)
    track = reference(system, np.array(system.start), along)
    z = track**0.1 if system.positive else track
    lengths = np.linalg.norm(np.diff(z, axis=0) / np.maximum(np.ptp(z, axis=0), 1e-300), axis=1)
    far = np.concatenate([[0], np.cumsum(lengths)])
    ahead = np.cumsum(far[per:] - far[:-per])
    by_length = np.searchsorted(ahead, rng.uniform(0, ahead[-1], count // 2))
    by_time = rng.integers(len(track), size=count - count // 2)
    if system.dt is None:
        by_time[::5] = 0  # one in ten: from where the first steps lead on all scales
    return track[np.concatenate([by_length, by_time])]


def sample(system: System, config: Config, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Windows ``(samples, length + 1, d)`` of states of one trajectory each, and their times from its start."""
    places = _places(system, config.samples, rng)
    spans = np.ptp(places, axis=0)
    windows, times = [], []
    for y in places:
        free = len(y) - system.driven
        kick = config.spread * 10 ** rng.uniform(-4, 0, free) * rng.choice([-1.0, 1.0], free)
        y[:free] = y[:free] * np.exp(kick) if system.positive else y[:free] + kick * spans[:free]
        if system.conserve:
            y = y * (np.sum(system.start) / y.sum())
        if system.dt is None:
            t = np.concatenate([[0], np.sort(10 ** rng.uniform(-6, np.log10(system.end), config.length))])
        else:
            t = grid(system, config.length)
        windows.append(reference(system, y, t, method="LSODA"))
        times.append(t)
    return np.array(windows), np.array(times)


def pairs(system: System, windows: np.ndarray, times: np.ndarray) -> tuple[np.ndarray, np.ndarray, float | np.ndarray]:
    """States, states later and the steps between: neighbours, or all pairs of a window where the step is an input."""
    d, m = windows.shape[2], windows.shape[1]
    i, j = np.triu_indices(m, 1) if system.dt is None else (np.arange(m - 1), np.arange(1, m))
    step = (times[:, j] - times[:, i]).reshape(-1) if system.dt is None else system.dt
    return windows[:, i].reshape(-1, d), windows[:, j].reshape(-1, d), step


def train(system: System, config: Config, seed: int) -> FlowMap:
    """The flow map of a system from its evolved samples."""
    windows, times = sample(system, config, np.random.default_rng(seed))
    model, _ = FlowMap.fit(
        *pairs(system, windows, times),
        [system.positive] * windows.shape[2],
        widths=config.widths,
        stages=[SOAP(config.steps, lr=config.lr)],
        windows=windows,
        tuning=[Adam(config.tuning, lr=config.lr / 50)] if config.tuning and system.dt is not None else [],
        batch=config.batch,
        general=config.general or None,
        expert=True,
        conserve=system.conserve,
        seed=seed,
    )
    return model


def follow(system: System, model: FlowMap, times: np.ndarray) -> np.ndarray:
    """The rollout ``(m, d)`` from the start of the reference trajectory."""
    out = [np.array(system.start)[None]]
    for dt, t in zip(np.diff(times), times[1:], strict=True):
        astray = not np.isfinite(out[-1]).all()
        out.append(out[-1] * np.nan if astray else model.step(out[-1], dt if system.dt is None else None))
        if system.drive is not None:
            out[-1][:, -system.driven :] = system.drive(t)
    return np.concatenate(out)


def period(t: np.ndarray, y: np.ndarray) -> float:
    """Mean time between rises of y through the middle of its range, interpolated; nan where there are not two."""
    if not np.isfinite(y).all():
        return float("nan")
    above = y - (y.min() + y.max()) / 2
    k = np.flatnonzero((above[:-1] < 0) & (above[1:] >= 0))
    crossings = t[k] + (t[k + 1] - t[k]) * above[k] / (above[k] - above[k + 1])
    return float(np.mean(np.diff(crossings))) if len(k) > 1 else float("nan")


def _oscillation(system: System, model: FlowMap) -> dict[str, float]:
    """Relative errors of the period and of the largest values, the worst unknown of them, over several periods."""
    assert system.dt is not None
    t = grid(system, round(_LAPS * system.end / system.dt))
    exact, ours = reference(system, np.array(system.start), t), follow(system, model, t)
    # a rollout that has gone astray has no period
    first = [np.log(np.maximum(y[:, 0], 1e-300)) if system.positive else y[:, 0] for y in (exact, ours)]
    periods = [period(t, y) for y in first]
    peaks = [np.abs(y).max(0) for y in (exact, ours)]
    return {
        "period": periods[0],
        "period error": abs(periods[1] / periods[0] - 1),
        "amplitude error": float(np.abs(peaks[1] / peaks[0] - 1).max()),
    }


def run(config: Config, run: Run) -> dict[str, Any]:
    """Train one flow map and roll it out beside Radau."""
    if config.case not in SYSTEMS:
        raise ValueError(f"case is {config.case!r}, but must be one of {', '.join(SYSTEMS)}")
    system = SYSTEMS[config.case]
    begun = time.perf_counter()
    model = train(system, config, run.seed)
    seconds = time.perf_counter() - begun
    model.save(run.path / "flowmap.h5")
    times = grid(system)
    exact, ours = reference(system, np.array(system.start), times), follow(system, model, times)
    one = model.step(exact[:-1], np.diff(times) if system.dt is None else None)
    _draw(run, system, times, exact, ours)
    free = exact.shape[1] - system.driven
    scale = np.abs(exact[:, :free]).max(0)
    now = np.mean(np.abs(ours - exact)[:, :free] / scale, 1)
    astray = np.flatnonzero(~(now < 0.1))
    errors = np.sqrt(np.mean((ours - exact)[:, :free] ** 2, 0)) / scale
    metrics: dict[str, Any] = {
        "rollout error": float(errors.mean()),
        "one-step error": float(np.mean(np.abs(one - exact[1:])[:, :free] / scale)),
        "steps": len(times) - 1,
        "steps within 10 %": int(astray[0]) if len(astray) else len(times) - 1,
        "seconds": seconds,
        "table": [{"unknown": f"y{k + 1}", "rollout error": float(e)} for k, e in enumerate(errors)],
    }
    if system.dt is None:
        share = np.abs(ours[1:] / exact[1:] - 1)
        metrics |= {"relative error, mean": float(share.mean()), "relative error, largest": float(share.max())}
    return metrics | (_oscillation(system, model) if system.cycle else {})


def _draw(run: Run, system: System, times: np.ndarray, exact: np.ndarray, ours: np.ndarray) -> None:
    scale = np.abs(exact).max(0)
    with run.figure("rollout") as figure:
        axes = figure.subplots()
        for k in range(min(exact.shape[1] - system.driven, 3)):
            (line,) = axes.plot(times, exact[:, k] / scale[k], "-", alpha=0.5, label=f"y{k + 1}, {system.method}")
            axes.plot(times, ours[:, k] / scale[k], "--", color=line.get_color())
        axes.set(xlabel="t", ylabel="share of the largest value", ylim=(-1.2, 1.2))
        axes.set_xscale("log" if system.dt is None else "linear")
        axes.legend()
