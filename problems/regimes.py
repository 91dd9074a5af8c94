"""What a network does in parameter space: regimes, condensation, sample sizes, spikes, loss jumps, reduction.

sweep         two-layer ReLU networks, f = 1/alpha sum a_k relu(w_k x + b_k): S_w, the slope over log m of
              log |w(end) - w(0)| / |w(0)|, is -0.51, 0.01, 0.37 for gamma = 0.5, 1, 1.75 (arXiv:2007.07497, figure 3)
diagram       the same over gamma and gamma': the phase diagram
condensation  tanh, 50 neurons from N(0, 50^-4), y = sum_k 3.5 sin(5 x_k + 1) in 5 dimensions: 2 orientations first,
              more later (arXiv:2105.11686)
samples       t0 + t1 x1 + t2 t3 x2 from 1e-12 fits n samples of 1 + x1: the error falls at n = 2, the rank, while
              t0 + t1 x1 + t2 x2 needs 3 (arXiv:2307.08921)
spikes        Adam on theta^2 / 2: the preconditioned curvature crosses 2 / eta before the loss
              spikes (arXiv:2506.04805)
jump          fit u, then switch to the residual of its equation: the error jumps (arXiv:2405.03095); -u'' = f on
              [0, 1] or Burgers' equation, beside the control that keeps the data loss
reduction     a network that solves Burgers' equation, without half of its neurons (arXiv:2405.01041)
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from sciml import Box, Elliptic, MscaleSolver
from sciml.networks import Dense, Initialisation, tanh
from sciml.objective import Batch, Block, LeastSquares, least_squares
from sciml.results import Run
from sciml.theory import (
    AdamStability,
    Condensation,
    LossSwitch,
    RegimeSweep,
    Sine,
    Spikes,
    every,
    jacobian_rank,
    log_spaced,
    reduce,
)
from sciml.training import LBFGS, Adam, Stage, constant, exponential, fit

from .burgers import cole_hopf, forward
from .frequency import MeanSquare


@dataclass(frozen=True)
class Config:
    """Options of a run.

    Attributes:
        case: one of those of the module's first lines.
        gammas: of the sweep.
        gamma_primes: of the sweep.
        widths: of the sweep.
        repeats: initialisations that the sweep averages over.
        steps: of each training.
        lr: learning rate.
        equation: of the jump: "poisson" or "burgers".
        width: neurons of each hidden layer.
        nu: viscosity.
        scales: of the multi-scale network to reduce, each subnetwork of `width`; none: a plain network.
        keep: share of the neurons to keep.
    """

    case: str = "sweep"
    gammas: tuple[float, ...] = (0.5, 1.0, 1.75)
    gamma_primes: tuple[float, ...] = (0.0,)
    widths: tuple[int, ...] = (250, 500, 1000, 2000, 4000)
    repeats: int = 3
    steps: int = 20_000
    lr: float = 1e-3
    equation: str = "poisson"
    width: int = 40
    nu: float = 0.05
    scales: tuple[float, ...] = ()
    keep: float = 0.5


VARIANTS = {
    "paper": Config(),
    "smoke": Config(widths=(50, 200), repeats=1, steps=500),
    "diagram": Config(
        case="diagram",
        gammas=(0.25, 0.5, 0.75, 1.0, 1.25, 1.5, 1.75),
        gamma_primes=(-0.75, -0.25, 0.0, 0.25, 0.75),
        widths=(250, 1000, 2000),
        repeats=1,
    ),
    "condensation": Config(case="condensation", width=50, steps=1501),
    "samples": Config(case="samples", steps=1000, lr=0.3),
    "spikes": Config(case="spikes", steps=3000, lr=0.15),
    "jump": Config(case="jump", steps=4000, lr=3e-3),
    "jump_burgers": Config(case="jump", equation="burgers", steps=4000, lr=5e-3),
    "reduction": Config(case="reduction", steps=400),
    "reduction_mscale": Config(case="reduction", steps=400, scales=(1, 2, 4)),
}


def data(x: Tensor, y: Tensor) -> Batch:
    """Values to fit, weighted equally."""
    return Batch({"data": Block(x, torch.full((len(x),), 1 / len(x), dtype=x.dtype), given=(y,))})


# -------------------------------------------------------------------------------------------------------------- regimes


def sweep(config: Config, run: Run) -> dict[str, Any]:
    """S_w at every place of the diagram."""
    x = torch.tensor([[-0.5], [0.0], [0.5]], dtype=torch.float64)
    y = torch.tensor([-0.5, 0.0, 1.0], dtype=torch.float64)
    seeds = tuple(range(run.seed, run.seed + config.repeats))
    places = {"gammas": config.gammas, "gamma_primes": config.gamma_primes, "widths": config.widths}
    found = RegimeSweep(x, y, **places, seeds=seeds, steps=config.steps, tolerance=1e-2).run()
    run.array("distances", found.distances)
    run.array("slopes", found.slopes)
    with run.figure("sweep", 9, 4) as figure:
        found.plot(figure)
    return {
        "S_w": {f"gamma={g:g},gamma'={p:g}": float(s) for p, row in zip(config.gamma_primes, found.slopes, strict=True)
                for g, s in zip(config.gammas, row, strict=True)},
        "largest_relative_loss": float(found.losses.max()),
    }  # fmt: skip


def condensation(config: Config, run: Run) -> dict[str, Any]:
    """Effective neurons over the training."""
    generator = torch.Generator().manual_seed(run.seed)
    x = torch.rand(80, 5, generator=generator, dtype=torch.float64) * 6 - 4
    y = (3.5 * torch.sin(5 * x + 1)).sum(1)
    start = Initialisation(lambda i, o: config.width**-2.0, lambda i, o: config.width**-2.0)
    network = Dense(5, (config.width,), activation=tanh, initialisation=start, generator=generator)
    probe = Condensation(schedule=log_spaced(20), layers=["layers.0"])
    stages = [Adam(config.steps, lr=config.lr, schedule=constant)]
    fit(network, MeanSquare(), lambda g: data(x, y), stages, [probe], seed=run.seed)
    steps, counts = probe.series("layers.0")
    early, late = (steps >= 40) & (steps <= 110), steps > config.steps // 2
    probe.save(run.path, "network")
    with run.figure("orientations", 5, 4) as figure:
        probe.similarity(network, figure)
    run.array("steps", steps)
    run.array("effective", counts)
    found = {"early": float(np.median(counts[early])) if early.any() else float(counts[0])}
    return {**found, "last": float(counts[late][-1]) if late.any() else float(counts[-1])}


@dataclass(frozen=True)
class Descent:
    """Plain gradient descent as a stage: what the theorem is about (Adam would start every parameter alike)."""

    steps: int
    lr: float
    resample: int | None = None

    def start(self, model: nn.Module) -> Any:
        return Descending(self.lr)


class Descending:
    reason = ""

    def __init__(self, lr: float) -> None:
        self.lr = lr

    def step(self, work: Any) -> None:
        work.backward()
        with torch.no_grad():
            for p in work.model.parameters():
                p -= self.lr * p.grad

    def state(self) -> dict[str, Any]:
        return {}

    def load(self, state: dict[str, Any]) -> None:
        """Nothing is kept."""


class Factored(nn.Module):
    """t0 + t1 x1 + t2 t3 x2, or, not factored, t0 + t1 x1 + t2 x2."""

    def __init__(self, factored: bool, start: Tensor) -> None:
        super().__init__()
        self.factored, self.t = factored, nn.Parameter(start.clone())

    def forward(self, x: Tensor) -> Tensor:
        last = self.t[2] * self.t[3] if self.factored else self.t[2]
        return self.t[0] + self.t[1] * x[:, 0] + last * x[:, 1]


def samples(config: Config, run: Run) -> dict[str, Any]:
    """Test error against the number of samples of 1 + x1, and the rank that predicts where it falls."""
    generator = torch.Generator().manual_seed(run.seed)
    test = torch.rand(500, 2, generator=generator, dtype=torch.float64) * 2 - 1
    points = torch.rand(4, 2, generator=generator, dtype=torch.float64) * 2 - 1
    target = lambda x: 1 + x[:, 0]  # noqa: E731
    found: dict[str, Any] = {}
    with run.figure("samples") as figure:
        axes = figure.subplots()
        for label, factored, size in (("factored", True, 4), ("linear", False, 3)):
            exact = Factored(factored, torch.tensor([1.0, 1.0, 0.0, 0.0][:size], dtype=torch.float64))
            rank, row = jacobian_rank(exact, test).rank, {}
            for n in range(1, 5):
                network = Factored(factored, 1e-12 * torch.randn(size, generator=generator, dtype=torch.float64))
                batch = data(points[:n], target(points[:n]))
                stages = [Descent(config.steps, config.lr)]
                fit(network, MeanSquare(), lambda g, b=batch: b, stages, seed=run.seed)  # type: ignore[misc]
                row[str(n)] = float((network(test) - target(test)).detach().square().mean())
            found[label] = {"rank": rank, "test_mse": row}
            axes.semilogy(range(1, 5), list(row.values()), "o-", label=f"{label}, rank {rank}")
        axes.set(xlabel="samples", ylabel="mean square test error")
        axes.legend()
    return found


# --------------------------------------------------------------------------------------------------------------- spikes


class Point(nn.Module):
    """One parameter theta."""

    def __init__(self) -> None:
        super().__init__()
        self.theta = nn.Parameter(torch.ones(1, dtype=torch.float64))

    def forward(self, x: Tensor) -> Tensor:
        return self.theta * x


class HalfSquare:
    """theta^2 / 2."""

    def terms(self, field: Any, batch: Batch) -> dict[str, Tensor]:
        return {"loss": field(torch.ones(1, dtype=torch.float64)).square().sum() / 2}


def spikes(config: Config, run: Run) -> dict[str, Any]:
    """Crossing, uncorrected crossing and spike, with beta2 = 0.99 and in the control."""
    found: dict[str, Any] = {}
    with run.figure("spikes", 10, 4) as figure:
        axes = figure.subplots(1, 2)
        for ax, (name, lr, beta2) in zip(axes, (("spike", config.lr, 0.99), ("control", 0.05, 0.999)), strict=True):
            betas = 0.9, beta2
            probes = [AdamStability(lr, betas, schedule=every(10), momentum=m) for m in (True, False)]
            detector = Spikes(window=100, envelope=20)
            stages = [Adam(config.steps, lr=lr, betas=betas, schedule=constant)]
            history = fit(Point(), HalfSquare(), lambda g: Batch({}), stages, [*probes, detector], seed=run.seed)
            steps, loss = history.series("loss")
            ax.semilogy(steps, loss, color="0.7", label="loss")
            row: dict[str, Any] = {}
            for probe, label in zip(probes, ("corrected", "uncorrected"), strict=True):
                at, margin = probe.series("margin")
                row[label] = int(at[margin > 1][0]) if (margin > 1).any() else None
                ax.semilogy(at, margin, label=f"{label} curvature * eta / 2")
            late = [s["step"] for s in detector.spikes if row["corrected"] is not None and s["step"] > row["corrected"]]
            row["spike"] = late[0] if late else None
            row["lead"] = late[0] - row["corrected"] if late else None
            ax.axhline(1, color="k", linestyle=":")
            ax.set(xlabel="step", title=name)
            ax.legend()
            found[name] = row
    return found


# ----------------------------------------------------------------------------------------------------------------- jump


class Switched:
    """Data until `at` of the stage, then the squared residual (as a control: data for good); Adam's state is kept."""

    def __init__(self, residual: LeastSquares | None, at: float) -> None:
        self.residual, self.at = residual, at

    def terms(self, field: Any, batch: Batch) -> dict[str, Tensor]:
        blocks: Mapping[str, Block] = batch.blocks
        if self.residual is None or batch.progress < self.at:
            return MeanSquare().terms(field, batch)
        return self.residual.terms(field, Batch({k: b for k, b in blocks.items() if k != "data"}, batch.progress))


def jump(config: Config, run: Run) -> dict[str, Any]:
    """J of data -> residual and of data -> data."""
    if config.equation == "poisson":
        exact = lambda x: torch.sin(math.pi * x[:, 0]) + 0.3 * torch.sin(4 * math.pi * x[:, 0])  # noqa: E731
        problem: Any = Elliptic.manufactured(Box([0], [1]), exact)
        domain, basis = problem.domain, Sine([0.0], [1.0], 127)
    elif config.equation == "burgers":
        evolution = forward(config.nu)
        exact, problem = cole_hopf(config.nu), evolution.pde()
        domain, basis = evolution.domain, Sine([0.0, -1.0], [1.0, 1.0], 31)
    else:
        raise ValueError(f"equation is {config.equation!r}, but must be poisson or burgers")
    objective, at, found = least_squares(problem), 0.9, {}
    curves = []
    for name, residual in (("residual", objective), ("control", None)):
        generator = torch.Generator().manual_seed(run.seed)
        bounds = tuple(side.tolist() for side in domain.bounds)
        network = Dense(
            domain.dim, (config.width,) * 2, activation=tanh, generator=generator, box=bounds, normalise=True
        )
        x = domain.interior(64 if domain.dim == 1 else 512, sobol=True)
        both = {**data(x, exact(x)).blocks, **objective.sample(len(x), 64, generator).blocks}
        due = lambda step: step % 20 == 0 or step > 0.85 * config.steps  # noqa: E731
        monitor = LossSwitch(exact, basis=basis, window=config.steps // 10, schedule=due)

        def mark(step: Any, monitor: LossSwitch = monitor, name: str = name) -> None:
            if name == "control" and step.number == int(at * config.steps):
                monitor.switch()

        stages = [Adam(config.steps, lr=config.lr, schedule=exponential(0.05), resample=None)]
        batch = Batch(both)
        fit(network, Switched(residual, at), lambda g, b=batch: b, stages, [mark, monitor], seed=run.seed)  # type: ignore[misc]
        (row,) = monitor.jumps
        found[name] = {"J_mse": row["J_mse"], "J_rel_l2": row["J_rel_l2"], "low_share": row["low"]}
        found[name]["mse_at_switch"] = monitor.switches[0]["mse"]
        curves.append((name, monitor))
        run.array(f"{name}_before", row["before"])
        run.array(f"{name}_after", row["after"])
    with run.figure("jump") as figure:
        axes = figure.subplots()
        for name, monitor in curves:
            steps, mse = monitor.series("mse")
            axes.semilogy(steps, mse, label=f"data -> {'data' if name == 'control' else 'residual'}")
        axes.axvline(at * config.steps, color="k", linestyle=":")
        axes.set(xlabel="step", ylabel="mean square error", title=config.equation)
        axes.legend()
    return found


# ------------------------------------------------------------------------------------------------------------ reduction


def reduction(config: Config, run: Run) -> dict[str, Any]:
    """Solve Burgers' equation, halve the network with fine-tuning on the equation; errors and sizes before and after.

    Beside them: what the large network makes of as many more steps.
    """
    problem, exact, widths = forward(config.nu), cole_hopf(config.nu), (config.width,) * 2
    domain = problem.domain
    bounds = domain.bounds[0].tolist(), domain.bounds[1].tolist()
    stages: list[Stage] = [Adam(500, lr=3e-3), LBFGS(config.steps)]
    if config.scales:
        solver = MscaleSolver(scales=config.scales, widths=widths, stages=stages)
    else:
        solver = MscaleSolver(
            network=lambda i, o, generator: Dense(i, widths, o, generator=generator, box=bounds), stages=stages
        )
    solution = run.solve("network", solver, problem)
    objective = LeastSquares(problem.pde(), 10.0)
    x, test = domain.interior(2000, sobol=True), domain.interior(4000, torch.Generator().manual_seed(run.seed))
    reference, spent = exact(test), 0

    def train(model: nn.Module, steps: int) -> None:
        nonlocal spent
        stage = LBFGS(steps)
        history = fit(model, objective, lambda g: objective.sample(2048, 512, g, sobol=True), [stage], seed=run.seed)
        spent += len(history.steps)

    def error(model: nn.Module) -> float:
        with torch.no_grad():
            return float((model(test) - reference).norm() / reference.norm())

    extra = config.steps // 4
    small = reduce(
        solution.field, lambda m: train(m, extra), x, threshold=0.99, keep=config.keep, error=error, refits=5
    )
    assert small.errors is not None and small.seconds is not None
    tuned = spent
    train(solution.field, max(tuned, 1))
    print("\n".join(small.steps))
    return {
        "share of the neurons": small.share,
        "parameters": list(small.parameters),
        "errors": list(small.errors),
        "growth of the error": small.errors[1] / small.errors[0] - 1,
        "seconds": list(small.seconds),
        "steps of fine-tuning": tuned,
        "error of the large network after as many more": error(solution.field),
        "widths": [list(w) for w in small.widths],
    }


def run(config: Config, run: Run) -> dict[str, Any]:
    """One case."""
    cases = {
        "sweep": sweep,
        "diagram": sweep,
        "condensation": condensation,
        "samples": samples,
        "spikes": spikes,
        "jump": jump,
        "reduction": reduction,
    }
    if config.case not in cases:
        raise ValueError(f"case is {config.case!r}, but must be one of {', '.join(cases)}")
    return cases[config.case](config, run)
