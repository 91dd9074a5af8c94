"""Design with constraints nobody wrote down (DiDo, arXiv:2107.08166), on a toy of 100 dimensions.

    minimise  |x - t|^2 / d  over x in [-1, 1]^d  where  (a_j . x)^2 + b_j . x + s sin(3 c_j . x) <= 1  for every j

A simulation tells the objective and the left sides; none of them is known otherwise. The target t violates the first of
them, so the answer lies on the boundary of the feasible region. Networks learn which designs are feasible and what they
cost, the projected gradient of both proposes, and what it proposes is simulated: the loop of mechanism reduction.
Random moves, and the classical optimiser COBYLA on the true functions, get as many simulations.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.optimize import minimize

from sciml.archive import Archive
from sciml.proposers import Inverse, Model, Screened
from sciml.search import Coordinates, Proposer, RandomMoves, search


@dataclass(frozen=True)
class Config:
    """Options of a run.

    Attributes:
        dim: d, number of coordinates.
        constraints: number of g_j.
        budget: simulations of each method.
        start: of these, designs drawn around the middle of the box at first.
        batch: simulations between two trainings.
        steps: of one training.
        ripple: s, the part of the constraints that is not a polynomial.
    """

    dim: int = 100
    constraints: int = 3
    budget: int = 1000
    start: int = 200
    batch: int = 20
    steps: int = 300
    ripple: float = 0.2


VARIANTS = {
    "smoke": Config(dim=10, budget=80, start=40, batch=10, steps=80),
    "paper": Config(),
}


class Toy:
    """The problem of the module; `calls` counts simulations."""

    def __init__(self, config: Config, generator: np.random.Generator) -> None:
        d, k = config.dim, config.constraints
        self.target = np.where(generator.random(d) < 0.5, -0.6, 0.6)
        self.a, self.b, self.c = (generator.standard_normal((k, d)) / np.sqrt(d) for _ in range(3))
        self.b *= 2.0
        self.b[0] += self.target / np.linalg.norm(self.target)  # so that the target is infeasible
        self.ripple, self.calls = config.ripple, 0

    def constraint(self, x: np.ndarray) -> np.ndarray:
        """(k,) g_j, at most 1 where x is feasible."""
        return (self.a @ x) ** 2 + self.b @ x + self.ripple * np.sin(3 * (self.c @ x))

    def objective(self, x: np.ndarray) -> float:
        """The mean square distance to the target."""
        return float(np.mean((x - self.target) ** 2))

    def __call__(self, x: np.ndarray) -> tuple[float, np.ndarray]:
        """Objective, and the g_j where they are positive: errors in units of their limit."""
        self.calls += 1
        return self.objective(x), np.maximum(self.constraint(x), 0.0)


def run(config: Config, run: Any) -> dict[str, Any]:
    """Every method at the same number of simulations, beside the best of many descents with exact derivatives."""
    toy = Toy(config, np.random.default_rng(run.seed))
    space = Coordinates(-np.ones(config.dim), np.ones(config.dim), step=0.2)
    first = list(0.3 * np.random.default_rng(run.seed).standard_normal((config.start, config.dim)).clip(-3, 3))
    model = Model(steps=config.steps)
    proposers: dict[str, list[Proposer]] = {
        "projected gradient and screening": [Inverse(model), Screened(model, pool=300, generations=4)],
        "projected gradient": [Inverse(model)],
        "random moves": [RandomMoves()],
    }
    histories = {
        name: progress(search(toy, space, first, chosen, config.budget, config.constraints, config.batch, run.seed))
        for name, chosen in proposers.items()
    }
    histories["COBYLA"] = classical(toy, first[0], config.budget)
    bound = best_known(toy, first)
    draw(run, histories, bound)
    rows = [{"method": n, "objective": float(h[-1]), "simulations": len(h)} for n, h in histories.items()]
    return {
        "bound": bound,
        "methods": {row["method"]: row for row in rows},
        "table": [*rows, {"method": "SLSQP from 5 starts, no budget", "objective": bound}],
    }


def progress(archive: Archive) -> np.ndarray:
    """(n,) the best feasible objective after each simulation."""
    return np.minimum.accumulate(np.where(archive.feasible, archive.objectives, np.inf))


def classical(toy: Toy, start: np.ndarray, budget: int) -> np.ndarray:
    """(n,) the best feasible objective after each simulation of COBYLA."""
    history: list[float] = []

    def counted(x: np.ndarray) -> float:
        x = np.clip(x, -1, 1)
        feasible = toy.constraint(x).max() <= 1
        history.append(toy.objective(x) if feasible else np.inf)
        return toy.objective(x)

    inside: Callable[[np.ndarray], np.ndarray] = lambda x: 1 - toy.constraint(np.clip(x, -1, 1))  # noqa: E731
    options = {"maxiter": budget, "rhobeg": 0.3}
    minimize(counted, start, method="COBYLA", constraints={"type": "ineq", "fun": inside}, options=options)
    return np.minimum.accumulate(np.array(history[:budget]))


def best_known(toy: Toy, starts: list[np.ndarray]) -> float:
    """The best feasible objective of SLSQP on the true functions, from up to 5 starts."""
    inside = {"type": "ineq", "fun": lambda x: 1 - toy.constraint(x)}
    box = [(-1.0, 1.0)] * len(toy.target)
    found = [minimize(toy.objective, s, method="SLSQP", bounds=box, constraints=inside) for s in starts[:5]]
    return min(float(f.fun) for f in found if toy.constraint(f.x).max() <= 1 + 1e-6)


def draw(run: Any, histories: dict[str, np.ndarray], bound: float) -> None:
    """Figure: the best feasible objective against simulations."""
    with run.figure("progress") as figure:
        axes = figure.subplots()
        for name, history in histories.items():
            axes.plot(np.arange(1, len(history) + 1), np.where(np.isfinite(history), history, np.nan), label=name)
        axes.axhline(bound, color="k", lw=0.8, label="SLSQP from 5 starts")
        axes.set(xlabel="simulations", ylabel="best feasible objective", yscale="log")
        axes.legend()
