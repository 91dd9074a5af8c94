"""Proposals by networks: an ensemble learns the errors of what was simulated, and says what to simulate next.

`Screened` draws many random moves and keeps those that the ensemble trusts, `Inverse` descends its prediction from many
starts over the relaxed design (DiDo, arXiv:2107.08166). See `search` for the loop.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch

from sciml.archive import Archive
from sciml.ensemble import Ensemble
from sciml.search import Space, parents, unseen

__all__ = ["Fitted", "Inverse", "Model", "Screened", "ranked", "singles"]

_FAILED = 30.0  # errors beyond 30 tolerances, infinite ones too, teach the same: far away
_LIMIT = math.asinh(1.0)


@dataclass(frozen=True)
class Model:
    """How objective and errors are learned from an archive.

    Attributes:
        members: of the ensemble.
        width: of its hidden layers.
        steps: of training.
        cost: the objective of relaxed designs (n, d) if it is known, such as their number of switches; None learns it.
        additive: take the errors of a design to be the sum of the errors of its single deletions, and learn only what
            differs. Needs an archive with all switches on, and each alone off.
    """

    members: int = 6
    width: int = 32
    steps: int = 300
    cost: Callable[[torch.Tensor], torch.Tensor] | None = None
    additive: bool = False

    def fit(self, archive: Archive, generator: np.random.Generator) -> Fitted:
        """Train on everything simulated. Errors are learned as asinh, which keeps signs and tames failures."""
        errors = np.clip(archive.errors, -_FAILED, _FAILED)
        effects = singles(archive) if self.additive else np.zeros((archive.designs.shape[1], errors.shape[1]))
        expected = np.clip((1 - archive.designs) @ effects, -_FAILED, _FAILED)
        errors = np.arcsinh(errors) - np.arcsinh(expected)
        objectives = np.where(np.isfinite(archive.objectives), archive.objectives, np.nan)
        learned = errors if self.cost is not None else np.concatenate([errors, objectives[:, None]], 1)
        torch_generator = torch.Generator().manual_seed(int(generator.integers(2**31)))
        ensemble = Ensemble(archive.designs.shape[1], learned.shape[1], self.members, self.width, torch_generator)
        ensemble.train_on(archive.designs, learned, self.steps)
        return Fitted(ensemble, torch.as_tensor(effects, dtype=torch.float32), self.cost)


def singles(archive: Archive) -> np.ndarray:
    """(d, k): errors of each switch off alone, limited; 0 where that was not simulated."""
    alone = np.flatnonzero(archive.designs.sum(1) == archive.designs.shape[1] - 1)
    effects = np.zeros((archive.designs.shape[1], archive.errors.shape[1]))
    effects[archive.designs[alone].argmin(1)] = np.nan_to_num(np.clip(archive.errors[alone], -_FAILED, _FAILED))
    return effects


@dataclass(frozen=True)
class Fitted:
    """A trained `Model`."""

    ensemble: Ensemble
    effects: torch.Tensor
    cost: Callable[[torch.Tensor], torch.Tensor] | None

    def __call__(self, designs: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Objective (n,), probability of feasibility (n,), and expected worst error in units of its limit (n,).

        The worst |error| over the k outputs is taken in every member; members and their residual error on unseen
        samples make it a normal variable.
        """
        predicted = self.ensemble.predict(designs)
        k = self.effects.shape[1]
        expected = ((1 - designs) @ self.effects).clamp(-_FAILED, _FAILED).asinh()
        errors = (predicted.members[..., :k] + expected).abs()
        worst, which = errors.max(-1)
        noise = predicted.residual[:k][which].mean(0)
        mean, deviation = worst.mean(0), (worst.var(0) + noise.square()).sqrt()
        feasible = torch.distributions.Normal(0.0, 1.0).cdf((_LIMIT - mean) / deviation.clamp(min=1e-6))
        cost = self.cost(designs) if self.cost is not None else predicted.mean[:, -1]
        return cost, feasible, mean / _LIMIT


@dataclass(frozen=True)
class Screened:
    """Many random moves, of which those with the largest expected improvement are simulated.

    Expected improvement is the probability of feasibility times the gain in objective over the best so far. The moves
    of the first generation start from simulated designs, those of later ones from the best of the generation before,
    so that the network is searched as far as it is trusted. One proposal in `explore` goes where it is least sure.

    Attributes:
        model: how errors are learned.
        around: number of parents.
        pool: number of moves that are screened in each generation.
        generations: see above.
        explore: see above; 0 never explores.
    """

    model: Model = Model()
    around: int = 12
    pool: int = 600
    generations: int = 8
    explore: int = 6

    def __call__(self, archive: Archive, space: Space, count: int, generator: np.random.Generator) -> np.ndarray:
        """Train, draw, rank."""
        fitted = self.model.fit(archive, generator)
        pool = unseen(space.moves(parents(archive, self.around), self.pool, generator), archive)
        for _ in range(self.generations - 1):
            best = ranked(fitted, pool, archive, 3 * self.around, explore=0)
            pool = unseen(np.concatenate([best, space.moves(best, self.pool, generator)]), archive)
        return ranked(fitted, pool, archive, count, self.explore)


@dataclass(frozen=True)
class Inverse:
    """Projected gradient descent on the networks' prediction, from many starts (DiDo).

    Minimises cost(z) - weight log P(feasible | z) over the relaxed designs z, which are then rounded to designs and
    ranked as those of `Screened`.

    Attributes:
        model: how errors are learned.
        starts: number of descents, beginning at moves around the best designs.
        steps: of each descent.
        rate: step length, relative to the sides of the box.
        weight: of feasibility, in units of the spread of objectives in the archive.
    """

    model: Model = Model()
    starts: int = 64
    steps: int = 60
    rate: float = 0.03
    weight: float = 1.0

    def __call__(self, archive: Archive, space: Space, count: int, generator: np.random.Generator) -> np.ndarray:
        """Train, descend, round, rank."""
        fitted = self.model.fit(archive, generator)
        lower, upper = (torch.as_tensor(b, dtype=torch.float32) for b in space.bounds)
        first = space.moves(parents(archive, 12), self.starts, generator)
        z = torch.as_tensor(first, dtype=torch.float32).clone().requires_grad_()
        scale = max(float(archive.objectives[np.isfinite(archive.objectives)].std()), 1e-12)
        optimizer = torch.optim.Adam([z], lr=self.rate)
        for _ in range(self.steps):
            cost, feasible, worst = fitted(z)
            # the log of a tiny probability has no slope in float32, so far from feasible the worst error leads
            loss = cost / scale - self.weight * (feasible + 1e-4).log() + self.weight * torch.relu(worst - 1)
            (gradient,) = torch.autograd.grad(loss.sum(), z)
            z.grad = gradient * (upper - lower)
            optimizer.step()
            with torch.no_grad():
                z.clamp_(lower, upper)
        relaxed = np.repeat(z.detach().numpy().astype(float), 4, axis=0)
        return ranked(fitted, unseen(space.project(relaxed, generator), archive), archive, count, explore=0)


def ranked(fitted: Fitted, pool: np.ndarray, archive: Archive, count: int, explore: int) -> np.ndarray:
    """The designs of a pool with the largest expected improvement; every `explore`-th the least certain one."""
    if not len(pool):
        return pool
    with torch.no_grad():
        cost, feasible, worst = (a.numpy() for a in fitted(torch.as_tensor(pool, dtype=torch.float32)))
    if archive.best is None:
        score, gain = -worst, np.ones(len(pool))
    else:
        gain = np.maximum(archive.objectives[archive.best] - cost, 0)
        score = feasible * gain
    order = np.argsort(-score, kind="stable")[: min(count, len(pool))]
    unsure = np.argsort(np.abs(feasible - 0.5) + (gain <= 0), kind="stable")
    rows = dict.fromkeys(int(i) for i in order[: len(order) - (len(order) // explore if explore else 0)])
    for i in unsure:
        if len(rows) >= len(order):
            break
        rows.setdefault(int(i), None)
    return pool[list(rows)]
