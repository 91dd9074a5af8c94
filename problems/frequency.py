"""The frequency principle: networks learn low frequencies first, Jacobi iterations damp high ones first.

regression   fit y = sin x + sin 3x + sin 5x on [-pi, pi): T_1 < T_3 < T_5, where T_k is the step after which the
             relative error at wavenumber k stays below 10 % (arXiv:1807.01251, arXiv:1901.06523)
control      the same with weights from N(0, 2^2): the order is lost, as the network starts with high frequencies
handover     -u'' = sin x + 4 sin 4x - 8 sin 8x + 16 sin 24x on [-1, 1], u(-1) = u(1) = 0: a network for a while,
             then Jacobi sweeps cos(k pi h)^n from there, against either alone in the same time (arXiv:1901.06523)
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sciml import Elliptic, Jacobi, MscaleSolver
from sciml.networks import Dense, Initialisation, tanh
from sciml.objective import Batch, Block
from sciml.results import Run
from sciml.theory import Fourier, FrequencyProbe, Sine, every, jacobi_damping
from sciml.training import Adam, fit

from .poisson import four_waves

GLOROT = Initialisation(lambda i, o: math.sqrt(2 / (i + o)), flat=True)


@dataclass(frozen=True)
class Config:
    """Options of a run.

    Attributes:
        case: "regression" or "handover".
        width: neurons of each of two hidden layers (tanh).
        start: standard deviation of all weights and biases; 0 is Glorot's uniform distribution.
        steps: of Adam.
        lr: learning rate.
        points: training points of the regression, interior points per step of the hand-over.
        tolerance: relative error below which a wavenumber counts as learned.
        cells: of the Jacobi iteration.
        share: part of the time that the network has before it hands over.
    """

    case: str = "regression"
    width: int = 64
    start: float = 0.0
    steps: int = 3500
    lr: float = 1e-3
    points: int = 160
    tolerance: float = 0.1
    cells: int = 4096
    share: float = 0.5


VARIANTS = {
    "paper": Config(),
    "smoke": Config(width=16, steps=40, points=40),
    "control": Config(start=2.0, steps=1000),
    "handover": Config(case="handover", steps=1500, lr=3e-3, points=1000),
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
    with run.figure("frequencies", 10.0) as figure:
        probe.plot(figure=figure)
    names = [f"T_{k:.0f}" for k in probe.k]
    return {
        **dict(zip(names, map(float, times), strict=True)),
        "ordered": bool((times[:-1] < times[1:]).all()),
        "ratio": float(times[-1] / times[0]) if np.isfinite(times).all() else None,
        "score": probe.score(config.tolerance),
        "seconds": history.seconds,
        "status": history.status,
        "table": [{"wavenumber": float(k), "steps to 10 %": float(t)} for k, t in zip(probe.k, times, strict=True)],
    }


class Clock:
    """Seconds and relative errors of an iteration, at every second or so of its run."""

    def __init__(self, exact: Tensor, offset: float = 0.0) -> None:
        self.exact, self.begun, self.offset = exact, time.perf_counter(), offset
        self.seconds: list[float] = []
        self.errors: list[float] = []

    def __call__(self, iteration: int, values: Tensor) -> None:
        if iteration % 200 == 0:
            self.note(values[1:-1])

    def at(self, seconds: float) -> float:
        """The error that had been reached by then."""
        return self.errors[max(int(np.searchsorted(self.seconds, seconds, side="right")) - 1, 0)]

    def note(self, values: Tensor) -> None:
        self.seconds.append(self.offset + time.perf_counter() - self.begun)
        self.errors.append(float((values - self.exact).norm() / self.exact.norm()))


def jacobi(config: Config, problem: Elliptic, seconds: float, offset: float = 0.0, initial: Any = None) -> Clock:
    """Sweeps for about as many seconds."""
    exact = problem.exact(Sine([-1.0], [1.0], config.cells - 1).points)  # type: ignore[misc]
    trial = Clock(exact)
    Jacobi(config.cells, 2000, initial=initial).solve(problem, callbacks=[trial])
    per_sweep = (trial.seconds[-1] - trial.seconds[0]) / 2000
    clock = Clock(exact, offset)
    Jacobi(config.cells, max(1, int(seconds / per_sweep)), initial=initial).solve(problem, callbacks=[clock])
    return clock


def learned(config: Config, run: Run, problem: Elliptic, steps: int, probe: FrequencyProbe) -> tuple[Any, Clock]:
    """The network after some steps, and its errors on the way."""
    points = probe.basis.points
    clock = Clock(problem.exact(points))  # type: ignore[misc]

    def watch(step: Any) -> None:
        if (step.number + 1) % 50 == 0:
            with torch.no_grad():
                clock.note(step.model(points))

    solver = MscaleSolver(
        network=lambda i, o, generator: Dense(
            i, (config.width,) * 2, o, activation=tanh, initialisation=GLOROT, generator=generator
        ),
        stages=[Adam(steps, lr=config.lr)],
        interior=config.points,
    )
    return solver.solve(problem, seed=run.seed, callbacks=[probe, watch]), clock


def handover(config: Config, run: Run) -> dict[str, Any]:
    """Network, Jacobi, and Jacobi from where the network left off, in the same time."""
    problem = four_waves()
    grid = Sine([-1.0], [1.0], config.cells - 1)
    probe = FrequencyProbe(grid, problem.exact)
    whole, alone = learned(config, run, problem, config.steps, probe)
    total = alone.seconds[-1]
    half, first = learned(config, run, problem, round(config.share * config.steps), FrequencyProbe(grid, problem.exact))
    spent = first.seconds[-1]
    sweeps = jacobi(config, problem, total)
    after = jacobi(config, problem, max(total - spent, 0.05 * total), spent, half)
    curves = {"network": alone, "Jacobi": sweeps, "network, then Jacobi": after}
    with run.figure("handover") as figure:
        axes = figure.subplots()
        for name, curve in curves.items():
            axes.plot(curve.seconds, curve.errors, label=name)
        axes.set(xlabel="seconds", ylabel="relative L2 error", yscale="log")
        axes.legend()
    with run.figure("frequencies", 10.0) as figure:
        probe.plot(figure=figure)
    errors = {name: curve.at(total) for name, curve in curves.items()}
    return {
        "seconds": total,
        "rel_l2": errors,
        "gain over the better of the two": min(errors["network"], errors["Jacobi"]) / errors["network, then Jacobi"],
        "left of the slowest mode by 1000 sweeps": jacobi_damping(1, config.cells, 1000),
        "table": [{"method": n, "seconds": total, "rel_l2": e} for n, e in errors.items()],
    }


def run(config: Config, run: Run) -> dict[str, Any]:
    """One case."""
    cases = {"regression": regression, "handover": handover}
    if config.case not in cases:
        raise ValueError(f"case is {config.case!r}, but must be one of {', '.join(cases)}")
    return cases[config.case](config, run)
