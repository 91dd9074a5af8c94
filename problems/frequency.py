"""The frequency principle: networks learn low frequencies first, Jacobi iterations damp high ones first.

regression   fit y = sin x + sin 3x + sin 5x on [-pi, pi): T_1 < T_3 < T_5, where T_k is the step after which the
             relative error at wavenumber k stays below 10 % (arXiv:1807.01251, arXiv:1901.06523)
control      the same with weights from N(0, 2^2): as the network starts with high frequencies, T_5 / T_1 is 2 or 3
             instead of 40, and for some seeds the order is lost
handover     -u'' = sin x + 4 sin 4x - 8 sin 8x + 16 sin 24x on [-1, 1], u(-1) = u(1) = 0: a network for a while,
             then Jacobi sweeps or smoothing on a few grids, against either alone in the same time (arXiv:1901.06523);
             beside them multigrid down to one unknown, which needs no network
overhead     the perforated square of `poisson holes`, watched by `default_diagnostics`: their share of the processor
             time; records are log-spaced, so the share falls with the number of steps
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sciml import Elliptic, MscaleSolver, compare
from sciml.networks import Dense, Initialisation, tanh
from sciml.objective import Batch, Block
from sciml.results import Run
from sciml.theory import (
    Diagnostic,
    Fourier,
    FrequencyProbe,
    Sine,
    Snapshots,
    default_diagnostics,
    every,
    jacobi_damping,
)
from sciml.training import Adam, fit

from . import poisson

GLOROT = Initialisation(lambda i, o: math.sqrt(2 / (i + o)), flat=True)


@dataclass(frozen=True)
class Config:
    """Options of a run.

    Attributes:
        case: "regression", "handover" or "overhead".
        width: neurons of each of two hidden layers (tanh).
        start: standard deviation of all weights and biases; 0 is Glorot's uniform distribution.
        steps: of Adam.
        lr: learning rate.
        points: training points of the regression, interior points per step of the hand-over.
        tolerance: relative error below which a wavenumber counts as learned.
        cells: of the smoothers, a power of 2.
        levels: grids of the multigrid smoother, which has no coarse solver.
        share: part of its steps that the network has done when it hands over.
    """

    case: str = "regression"
    width: int = 64
    start: float = 0.0
    steps: int = 3500
    lr: float = 1e-3
    points: int = 160
    tolerance: float = 0.1
    cells: int = 4096
    levels: int = 3
    share: float = 0.75


VARIANTS = {
    "paper": Config(),
    "smoke": Config(width=16, steps=40, points=40),
    "control": Config(start=2.0, steps=2000),
    "handover": Config(case="handover", steps=1500, lr=3e-3, points=1000),
    "overhead": Config(case="overhead", steps=700),
}


def initialisation(config: Config) -> Initialisation:
    return Initialisation(lambda i, o: config.start, lambda i, o: config.start) if config.start else GLOROT


def three_sines(x: Tensor) -> Tensor:
    """sin x + sin 3x + sin 5x."""
    return sum(torch.sin(k * x[:, 0]) for k in (1, 3, 5))  # type: ignore[return-value]


class MeanSquare:
    """Mean square distance to given values: an objective for plain regression."""

    def terms(self, field: Any, batch: Batch) -> dict[str, Tensor]:
        data = batch.blocks["data"]
        return {"data": (field(data.x) - data.given[0]).square().mean()}


def regression(config: Config, run: Run) -> dict[str, Any]:
    """Which wavenumber is learned when."""
    basis = Fourier([-math.pi], [math.pi], config.points)
    x = basis.points
    batch = Batch({"data": Block(x, torch.full((len(x),), 1 / len(x), dtype=x.dtype), given=(three_sines(x),))})
    generator = torch.Generator().manual_seed(run.seed)
    network = Dense(1, (config.width,) * 2, activation=tanh, initialisation=initialisation(config), generator=generator)
    probe = FrequencyProbe(basis, three_sines, schedule=every(20))
    stages = [Adam(config.steps, lr=config.lr, schedule=lambda progress: 1.0, resample=None)]
    history = fit(network, MeanSquare(), lambda _: batch, stages, [probe], seed=run.seed)
    times = probe.times(config.tolerance)
    probe.save(run.path, "network")
    names = [f"T_{k:.0f}" for k in probe.k]
    return {
        **dict(zip(names, map(float, times), strict=True)),
        "ordered": int((times[:-1] < times[1:]).all()),
        "ratio": float(times[-1] / times[0]) if math.isfinite(times[0]) else math.nan,
        "score": probe.score(config.tolerance),
        "seconds": history.seconds,
        "status": history.status,
        "table": [{"wavenumber": float(k), "steps to 10 %": float(t)} for k, t in zip(probe.k, times, strict=True)],
    }


class Clock:
    """Relative errors of an iteration over its processor time, which other work on the machine does not change."""

    def __init__(self, exact: np.ndarray, offset: float = 0.0) -> None:
        self.exact, self.begun = exact, time.process_time() - offset
        self.seconds: list[float] = []
        self.errors: list[float] = []

    def note(self, values: Callable[[], np.ndarray]) -> float:
        """Evaluate and keep the error, with the clock stopped; returns the seconds so far."""
        now = time.process_time()
        self.seconds.append(now - self.begun)
        self.errors.append(float(np.linalg.norm(values() - self.exact) / np.linalg.norm(self.exact)))
        self.begun += time.process_time() - now
        return self.seconds[-1]

    def at(self, seconds: float) -> float:
        """The error that had been reached by then."""
        return self.errors[max(int(np.searchsorted(self.seconds, seconds, side="right")) - 1, 0)]


def relax(u: np.ndarray, f: np.ndarray, h: float, omega: float = 1.0, sweeps: int = 1) -> None:
    """Jacobi sweeps for -u'' = f in place; the ends of u are its boundary values."""
    for _ in range(sweeps):
        u[1:-1] += omega * (0.5 * (u[:-2] + u[2:] + h**2 * f[1:-1]) - u[1:-1])


def cycle(u: np.ndarray, f: np.ndarray, h: float, levels: int) -> None:
    """One V-cycle in place: two damped sweeps down and up on each of `levels` grids, nothing else on the last."""
    relax(u, f, h, 2 / 3, 2)
    if levels > 1 and len(u) > 3:
        r = f[1:-1] + (u[:-2] - 2 * u[1:-1] + u[2:]) / h**2
        coarse = np.zeros(len(u) // 2 + 1)
        correction = np.zeros_like(coarse)
        coarse[1:-1] = (r[:-2:2] + 2 * r[1:-1:2] + r[2::2]) / 4
        cycle(correction, coarse, 2 * h, levels - 1)
        u[::2] += correction
        u[1::2] += (correction[:-1] + correction[1:]) / 2
    relax(u, f, h, 2 / 3, 2)


def smoothed(
    config: Config, problem: Elliptic, levels: int, seconds: float, offset: float = 0.0, initial: Any = None
) -> Clock:
    """Jacobi sweeps (`levels` 0) or V-cycles from zero or from a network, until the time is used.

    On all grids that there are, 20 cycles reach the error of the finest, so they are enough.
    """
    x = torch.linspace(-1, 1, config.cells + 1, dtype=torch.float64)[:, None]
    u, f, h = np.zeros(len(x)), problem.source(x).numpy(), 2 / config.cells
    clock = Clock(problem.exact(x[1:-1]).numpy(), offset)  # type: ignore[misc]
    if initial is not None:
        u[1:-1] = initial(x[1:-1]).detach().numpy()
    full = 2**levels >= config.cells
    while clock.note(lambda: u[1:-1]) < seconds and not (full and len(clock.errors) > 20):
        for _ in range(1 if full else 200 // (1 + 10 * levels)):
            if levels:
                cycle(u, f, h, levels)
            else:
                relax(u, f, h)
    return clock


def learned(config: Config, run: Run, problem: Elliptic, steps: int, probe: FrequencyProbe) -> tuple[Any, Clock]:
    """The network after some steps, and its errors on the way."""
    points = probe.basis.points
    clock = Clock(problem.exact(points).numpy())  # type: ignore[misc]

    def values(model: Any) -> np.ndarray:
        with torch.no_grad():
            return model(points).numpy()

    def watch(step: Any) -> None:
        if (step.number + 1) % 50 == 0 or step.number + 1 == steps:
            clock.note(lambda: values(step.model))

    solver = MscaleSolver(
        network=lambda i, o, generator: Dense(
            i, (config.width,) * 2, o, activation=tanh, initialisation=GLOROT, generator=generator
        ),
        stages=[Adam(steps, lr=config.lr)],
        interior=config.points,
    )
    return solver.solve(problem, seed=run.seed, callbacks=[watch, probe]), clock


def handover(config: Config, run: Run) -> dict[str, Any]:
    """A network, smoothers, and smoothers from where the network left off, in the same time."""
    problem = poisson.four_waves()
    grid = Sine([-1.0], [1.0], config.cells - 1)
    probe = FrequencyProbe(grid, problem.exact)
    _, alone = learned(config, run, problem, config.steps, probe)
    total = alone.seconds[-1]
    begun, first = learned(config, run, problem, round(config.share * config.steps), FrequencyProbe(grid))
    spent = min(first.seconds[-1], 0.98 * total)
    curves, gains = {"network": alone}, {}
    for name, levels in (("Jacobi", 0), (f"{config.levels}-grid smoothing", config.levels)):
        curves[name] = smoothed(config, problem, levels, total)
        after = curves[f"network, then {name}"] = smoothed(config, problem, levels, total, spent, begun)
        gains[name] = min(alone.at(total), curves[name].at(total)) / after.at(total)
    full = smoothed(config, problem, int(math.log2(config.cells)), total)
    with run.figure("handover") as figure:
        axes = figure.subplots()
        for name, curve in curves.items():
            axes.plot(curve.seconds, curve.errors, "--" if name.startswith("network,") else "-", label=name)
        axes.set(xlabel="seconds of processor time", ylabel="relative L2 error", yscale="log")
        axes.legend()
    probe.save(run.path, "network")
    errors = {name: curve.at(total) for name, curve in curves.items()}
    # what a smoother cannot do, grids down to one unknown can: where they exist, no network is needed
    final = full.errors[-1]
    needed = next(s for s, e in zip(full.seconds, full.errors, strict=True) if e <= 1.01 * final)
    return {
        "seconds": total,
        "rel_l2": errors,
        "gain over the better of the two": gains,
        "full multigrid": {"seconds": needed, "rel_l2": final},
        "left of the slowest mode by 1000 sweeps": jacobi_damping(1, config.cells, 1000),
        "table": [
            *({"method": n, "seconds": total, "rel_l2": e} for n, e in errors.items()),
            {"method": "full multigrid", "seconds": needed, "rel_l2": final},
        ],
    }


class Timed:
    """A diagnostic, and the processor time that it takes."""

    def __init__(self, diagnostic: Diagnostic) -> None:
        self.diagnostic, self.seconds = diagnostic, 0.0
        self.records, self.save = diagnostic.records, diagnostic.save

    def __call__(self, step: Any) -> Any:
        begun = time.process_time()
        measured = self.diagnostic(step)
        self.seconds += time.process_time() - begun
        return measured


def overhead(config: Config, run: Run) -> dict[str, Any]:
    """What the default diagnostics cost."""
    perforated = poisson.VARIANTS["holes"]
    problem = poisson.CASES["holes"](perforated)
    solver = replace(poisson.networks(perforated)["MscaleDNN"], stages=[poisson.stage(perforated, config.steps)])
    watched = [Timed(diagnostic) for diagnostic in default_diagnostics(problem)]
    begun = time.process_time()
    solution = run.solve("network", solver, problem, callbacks=[*watched, Snapshots(run.path / "network.snapshots")])
    total = time.process_time() - begun
    rows = [{"diagnostic": w.diagnostic.name, "records": len(w.records), "seconds": w.seconds} for w in watched]
    spent = sum(w.seconds for w in watched)
    return {
        "share": spent / (total - spent),
        "seconds": total,
        "steps": config.steps,
        "seconds by diagnostic": {r["diagnostic"]: r["seconds"] for r in rows},
        **compare(solution, problem.exact, problem.domain),  # type: ignore[arg-type]
        "table": rows,
    }


def run(config: Config, run: Run) -> dict[str, Any]:
    """One case."""
    cases = {"regression": regression, "handover": handover, "overhead": overhead}
    if config.case not in cases:
        raise ValueError(f"case is {config.case!r}, but must be one of {', '.join(cases)}")
    return cases[config.case](config, run)
