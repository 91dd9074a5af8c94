"""Stiff systems without chemistry: the flow map of each as a network, rolled out beside Radau (arXiv:2401.01220).

robertson      y1' = -0.04 y1 + 1e4 y2 y3, y2' = 0.04 y1 - 1e4 y2 y3 - 3e7 y2^2, y3' = 3e7 y2^2; log dt is an input
van_der_pol    y1' = y2, y2' = mu ((1 - y1^2) y2 - y1), mu = 10
oregonator     y1' = 77.27 (y2 + y1 (1 - 8.375e-6 y1 - y2)), y2' = (y3 - (1 + y1) y2)/77.27, y3' = 0.161 (y1 - y3)
predator_prey  y1' = 2/3 y1 - 4/3 y1 y2, y2' = y1 y2 - y2
ring           the ring modulator, 15 currents and voltages driven by two sines (Test Set for IVP Solvers, problem II-3)

Samples are evolved (EMCS): random states are drawn on all scales around a few long trajectories, and every sample
brings the points of its own trajectory, fast at first and slow later.
"""

from __future__ import annotations

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
        length: consecutive states that each brings.
        widths: neurons of the hidden layers.
        steps: of SOAP on pairs.
        tuning: of Adam on rollouts over `length` steps; 0 for none.
        lr: learning rate of SOAP; Adam takes a fiftieth of it.
        batch: rows per step.
        spread: of the random states around trajectories: factors exp(spread U(-1, 1)), or shares of each range.
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
    "paper": Config(),
    "smoke": Config(case="predator_prey", samples=20, widths=(16,), steps=40, tuning=3, batch=64),
    "van_der_pol": Config(case="van_der_pol"),
    "oregonator": Config(case="oregonator"),
    "predator_prey": Config(case="predator_prey"),
    "ring": Config(case="ring", samples=400, widths=(96, 96)),
}


@dataclass(frozen=True)
class System:
    """A system y' = rate(t, y), its reference trajectory, and how it is sampled.

    Attributes:
        rate: right-hand side.
        start: of the reference trajectory.
        dt: the step; None draws steps on all scales between 1e-4 and `end`.
        end: of the reference trajectory.
        positive: whether the unknowns cannot be negative.
        exact: columns at the end that are functions of time alone, never perturbed.
        method: of the reference; the ring modulator takes a million evaluations, which LSODA does in compiled code.
    """

    rate: Rate
    start: tuple[float, ...]
    dt: float | None
    end: float
    positive: bool
    exact: int = 0
    method: str = "Radau"


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
    y1, y2, y3, y4, y5, y6, y7, y8, y9, y10, y11, y12, y13, y14, y15 = y[:15]
    u1, u2 = 0.5 * y[16], 2 * y[18]
    across = np.array([y3 - y5 - y7 - u2, -y4 + y6 - y7 - u2, y4 + y5 + y7 + u2, -y3 - y6 + y7 + u2])
    # a diode law without bound overflows where Newton's method only tries a state
    q1, q2, q3, q4 = 40.67286402e-9 * np.expm1(np.minimum(17.7493332 * across, 200.0))
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
    return np.array([*circuit, -w * y[16], w * y[15], -10 * w * y[18], 10 * w * y[17]])


SYSTEMS = {
    "robertson": System(robertson, (1.0, 0.0, 0.0), None, 1e5, True),
    "van_der_pol": System(van_der_pol, (2.0, 0.0), 0.02, 20.0, False),
    "oregonator": System(oregonator, (1.0, 2.0, 3.0), 0.2, 360.0, True),
    "predator_prey": System(predator_prey, (1.0, 1.0), 0.1, 30.0, True),
    "ring": System(ring_modulator, (0.0,) * 15 + (1.0, 0.0, 1.0, 0.0), 1e-6, 1e-3, False, exact=4, method="LSODA"),
}


def reference(system: System, start: np.ndarray, times: np.ndarray, rtol: float = 1e-8) -> np.ndarray:
    """States ``(m, d)`` at increasing times from 0, by the stiff method of the system.

    Raises:
        RuntimeError: if the integration fails.
    """
    atol = 1e-10 * np.maximum(np.abs(np.asarray(system.start)).max(), 1e-3)
    solved = solve_ivp(system.rate, (0.0, times[-1]), start, system.method, times, rtol=rtol, atol=atol)
    if not solved.success:
        raise RuntimeError(f"{system.method} failed: {solved.message}")
    return np.maximum(solved.y.T, 0.0) if system.positive else solved.y.T


def sample(system: System, config: Config, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Windows ``(samples, length + 1, d)`` of consecutive states and the steps ``(samples, length)`` between them."""
    if system.dt is None:
        along = np.concatenate([[0], np.geomspace(1e-6, system.end, 400)])
    else:
        along = np.arange(0, system.end, system.dt)
    track = reference(system, np.array(system.start), along)
    spans = np.ptp(track, axis=0)
    windows, steps = [], []
    for _ in range(config.samples):
        y = track[rng.integers(len(track))].copy()
        free = len(y) - system.exact
        kick = config.spread * rng.uniform(0, 1) * rng.uniform(-1, 1, free)
        y[:free] = y[:free] * np.exp(kick) if system.positive else y[:free] + kick * spans[:free]
        if system.dt is None:
            y = np.maximum(y, 0) / y.sum()  # Robertson's species add up to one
            dts = np.sort(10 ** rng.uniform(-4, np.log10(system.end), config.length))
        else:
            dts = np.full(config.length, system.dt)
        windows.append(reference(system, y, np.concatenate([[0], np.cumsum(dts)]), rtol=1e-7))
        steps.append(dts)
    return np.array(windows), np.array(steps)


def train(system: System, config: Config, seed: int) -> FlowMap:
    """The flow map of a system from its evolved samples."""
    windows, dts = sample(system, config, np.random.default_rng(seed))
    d = windows.shape[2]
    model, _ = FlowMap.fit(
        windows[:, :-1].reshape(-1, d),
        windows[:, 1:].reshape(-1, d),
        system.dt if system.dt is not None else dts.reshape(-1),
        [system.positive] * d,
        widths=config.widths,
        stages=[SOAP(config.steps, lr=config.lr)],
        windows=windows,
        tuning=[Adam(config.tuning, lr=config.lr / 50)] if config.tuning and system.dt is not None else [],
        batch=config.batch,
        general=config.general or None,
        seed=seed,
    )
    return model


def follow(system: System, model: FlowMap) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Times, reference and rollout of the reference trajectory."""
    start = np.array(system.start)
    if system.dt is not None:
        times = system.dt * np.arange(round(system.end / system.dt) + 1)
        return times, reference(system, start, times), model.rollout(start[None], len(times) - 1)[0]
    times = np.concatenate([[0], np.geomspace(1e-3, system.end / 2, 40)])
    out = [start[None]]
    for dt in np.diff(times):
        out.append(model.step(out[-1], dt))
    return times, reference(system, start, times), np.concatenate(out)


def run(config: Config, run: Run) -> dict[str, Any]:
    """Train one flow map and roll it out beside Radau."""
    if config.case not in SYSTEMS:
        raise ValueError(f"case is {config.case!r}, but must be one of {', '.join(SYSTEMS)}")
    system = SYSTEMS[config.case]
    begun = time.perf_counter()
    model = train(system, config, run.seed)
    seconds = time.perf_counter() - begun
    model.save(run.path / "flowmap.h5")
    times, exact, ours = follow(system, model)
    free = exact.shape[1] - system.exact
    scale = np.abs(exact[:, :free]).max(0)
    errors = np.sqrt(np.mean((ours - exact)[:, :free] ** 2, 0)) / scale
    one = model.step(exact[:-1]) if system.dt is not None else None
    with run.figure("rollout") as figure:
        axes = figure.subplots()
        for k in range(min(free, 3)):
            (line,) = axes.plot(times, exact[:, k] / scale[k], "-", alpha=0.5, label=f"y{k + 1}, Radau")
            axes.plot(times, ours[:, k] / scale[k], "--", color=line.get_color())
        axes.set(xlabel="t", ylabel="share of the largest value", ylim=(-1.2, 1.2))
        axes.set_xscale("log" if system.dt is None else "linear")
        axes.legend()
    return {
        "rollout error": float(errors.mean()),
        "one-step error": float("nan") if one is None else float(np.mean(np.abs(one - exact[1:])[:, :free] / scale)),
        "steps": len(times) - 1,
        "seconds": seconds,
        "table": [{"unknown": f"y{k + 1}", "rollout error": float(e)} for k, e in enumerate(errors)],
    }
