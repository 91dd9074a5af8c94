"""What the ideas of multi-scale networks are worth under good optimisers: every combination at equal time.

One hidden layer u = sum_j c_j sigma(alpha_j (w_j . x) + b_j), as in MscaleDNN-1 (arXiv:2007.11207), with

    sigma       sReLU^2, phi, s2ReLU, sin, tanh
    alpha       one scale; 1, 2, 4, 8, 16, 32; scales that fill the bandwidth of the data's spectrum evenly
    optimiser   Adam; Gauss-Newton; least squares on frozen hidden neurons; variable projection

on the perforated square with mu = 7 pi, the two-scale Poisson-Boltzmann equation on seven holes and the line of period
0.1. All minimise the squared residual in double precision with terms of equal weight, stop at the same time, and are
drawn from the same seeds. Frozen neurons cost one factorisation, so there are as many as the time allows.
"""

from __future__ import annotations

import itertools
import json
import math
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn

from sciml import Elliptic, MscaleSolver, compare
from sciml.activations import Activation, phi, s2relu, sine, srelu, tanh
from sciml.files import write_json
from sciml.networks import Mscale
from sciml.optimizers import GaussNewton, VariableProjection
from sciml.theory import bandwidth
from sciml.training import Adam, Deadline, Stage

from . import p_laplacian, poisson, poisson_boltzmann

PROBLEMS: dict[str, Callable[[], Elliptic]] = {
    "holes": lambda: Elliptic.manufactured(poisson.plate(), poisson.product_of_sines(7 * math.pi)),
    "screened": lambda: poisson_boltzmann.scales(2.0, 30.0),
    "line": lambda: p_laplacian.line(2.0, 0.1),
}
ACTIVATIONS: dict[str, Activation] = {"sReLU^2": srelu**2, "phi": phi, "s2ReLU": s2relu, "sin": sine, "tanh": tanh}
SCALES = ("one", "given", "spectrum")
OPTIMISERS: dict[str, Stage] = {
    "Adam": Adam(10**6, lr=3e-3),
    "Gauss-Newton": GaussNewton(10**6, resample=20),
    "frozen": VariableProjection(1, inner=False),
    "projection": VariableProjection(10**6, resample=20),
}


@dataclass(frozen=True)
class Config:
    """Options of a run.

    Attributes:
        problems: which of holes, screened and line.
        activations: which of sReLU^2, phi, s2ReLU, sin and tanh.
        optimisers: which of Adam, Gauss-Newton, frozen and projection.
        seconds: of training for each.
        seeds: of networks and points; medians are told.
        neurons: of a trained layer.
        frozen: neurons of a frozen layer.
    """

    problems: tuple[str, ...] = tuple(PROBLEMS)
    activations: tuple[str, ...] = tuple(ACTIVATIONS)
    optimisers: tuple[str, ...] = tuple(OPTIMISERS)
    seconds: float = 2.0
    seeds: int = 5
    neurons: int = 300
    frozen: int = 1000


VARIANTS = {
    "smoke": Config(problems=("line",), activations=("s2ReLU", "sin"), seconds=0.1, seeds=1, neurons=20, frozen=60),
    "paper": Config(),
    "long": Config(seconds=10.0, neurons=500, frozen=2500),
}


def reach(problem: Elliptic) -> float:
    """The largest wavenumber of the solution that the data tell, in units of one over the half sides."""
    fields = [(problem.source, 2, 0.03)]
    if problem.constant_diffusion is None:
        fields.append((problem.diffusion, 0, 0.1))
    lower, upper = problem.domain.bounds
    return float((bandwidth(fields, problem.domain) * (upper - lower) / 2).max())


def scales_of(kind: str, activation: Activation, problem: Elliptic) -> Sequence[float]:
    """The scales alpha of a choice."""
    if kind != "spectrum":
        return (1.0,) if kind == "one" else (1.0, 2.0, 4.0, 8.0, 16.0, 32.0)
    plain = Mscale(problem.dim, (400,), (1.0,), activation=activation, kind=1, normalise=True, box=box_of(problem))
    # how fast a neuron of scale one varies; a compact activation goes through one wave on its support
    speed = float(plain.weights[0].detach().norm(dim=0).median())
    if activation.support is not None:
        speed *= 2 * math.pi / (activation.support[1] - activation.support[0])
    top = max(1.3 * reach(problem) / speed, 1.0)
    return tuple(np.linspace(top / 20, top, 20))


def box_of(problem: Elliptic) -> Any:
    """Both corners of the bounding box."""
    return tuple(b.tolist() for b in problem.domain.bounds)


def solve(
    problem: Elliptic, activation: Activation, scales: Sequence[float], optimiser: str, c: Config, seed: int
) -> Any:
    """One combination."""
    neurons = c.frozen if optimiser == "frozen" else c.neurons

    def network(inputs: int, outputs: int, generator: torch.Generator) -> nn.Module:
        made = {"kind": 1, "normalise": True, "box": box_of(problem)}
        return Mscale(inputs, (neurons,), scales, outputs, activation, generator=generator, **made)

    solver = MscaleSolver(
        network=network,
        ritz=False,
        balanced=True,
        hard=False,
        stages=[OPTIMISERS[optimiser]],
        interior=2 * c.frozen,
        boundary=c.frozen // 3,
    )
    return solver.solve(problem, seed, [Deadline(time.perf_counter() + c.seconds)])


def run(config: Config, run: Any) -> dict[str, Any]:
    """Median errors of all combinations."""
    for name, given, known in (
        ("problems", config.problems, PROBLEMS),
        ("activations", config.activations, ACTIVATIONS),
        ("optimisers", config.optimisers, OPTIMISERS),
    ):
        for word in given:
            if word not in known:
                raise ValueError(f"{name} holds {word!r}, but must be of {', '.join(known)}")
    kept = run.path / "rows.json"  # finished rows, for a run that is resumed
    rows: list[dict[str, Any]] = json.loads(kept.read_text()) if kept.exists() else []
    cells = list(itertools.product(config.problems, config.activations, SCALES))
    for problem_name, activation, kind in cells[len(rows) :]:
        rows.append(measured(problem_name, activation, kind, config, run.seed))
        write_json(kept, rows)
        told = ", ".join(f"{o} {rows[-1][o]:.1e}" for o in config.optimisers)
        print(f"{problem_name}, {activation}, {kind}: {told}", flush=True)
    draw(run, config, rows)
    return {**worth(rows, config), "table": rows}


def measured(problem_name: str, activation: str, kind: str, config: Config, seed: int) -> dict[str, Any]:
    """Median error and time of every optimiser, for one activation and choice of scales on one problem."""
    problem = PROBLEMS[problem_name]()
    assert problem.exact is not None
    scales = scales_of(kind, ACTIVATIONS[activation], problem)
    row: dict[str, Any] = {"problem": problem_name, "activation": activation, "scales": kind}
    for optimiser in config.optimisers:
        errors, spent = [], []
        for k in range(seed * config.seeds, (seed + 1) * config.seeds):
            found = solve(problem, ACTIVATIONS[activation], scales, optimiser, config, k)
            error = compare(found, problem.exact, problem.domain, 4000)["rel_l2"]
            errors.append(error if math.isfinite(error) else 1e9)
            spent.append(found.seconds)
        row[optimiser] = statistics.median(errors)
        row[f"{optimiser} s"] = statistics.median(spent)
    return row


def worth(rows: Sequence[dict[str, Any]], config: Config) -> dict[str, Any]:
    """Geometric means over the problems of the least error that each choice comes to with the best of all others."""

    def least(**fixed: str) -> float:
        optimisers = [fixed["optimiser"]] if "optimiser" in fixed else config.optimisers
        logs = []
        for name in config.problems:
            fit = [r for r in rows if r["problem"] == name and all(r.get(k, v) == v for k, v in fixed.items())]
            logs.append(math.log(min(r[o] for r in fit for o in optimisers)))
        return math.exp(statistics.mean(logs))

    return {
        "by optimiser": {o: least(optimiser=o) for o in config.optimisers},
        "by scales": {f"{k}, {o}": least(scales=k, optimiser=o) for k in SCALES for o in config.optimisers},
        "by activation": {
            f"{a}, {o}": least(activation=a, optimiser=o) for a in config.activations for o in config.optimisers
        },
    }


def draw(run: Any, config: Config, rows: Sequence[dict[str, Any]]) -> None:
    """Save ``study.png``: the logarithm of the error for every combination, one panel per problem."""
    with run.figure("study", 4.0 * len(config.problems) + 1.5, 6.0) as figure:
        axes = figure.subplots(1, len(config.problems), squeeze=False, sharey=True)[0]
        for ax, name in zip(axes, config.problems, strict=True):
            mine = [r for r in rows if r["problem"] == name]
            values = np.log10([[r[o] for o in config.optimisers] for r in mine])
            image = ax.imshow(values, vmin=-10, vmax=0, cmap="viridis", aspect="auto")
            for i, j in np.ndindex(*values.shape):
                ax.text(j, i, f"{values[i, j]:.1f}", ha="center", va="center", color="w", fontsize=8)
            ax.set_xticks(range(len(config.optimisers)), config.optimisers, fontsize=8)
            ax.set_yticks(range(len(mine)), [f"{r['activation']}, {r['scales']}" for r in mine], fontsize=8)
            ax.set_title(f"{name}, {config.seconds:g} s")
        figure.colorbar(image, ax=list(axes), label="log10 of the relative L2 error")
