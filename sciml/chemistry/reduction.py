"""Mechanism reduction: the smallest part of a mechanism that is right where one cares.

    minimise |v|  over v in {0, 1}^s  subject to  |error_j(v)| <= tolerance_j  for every j       (arXiv:2201.02025)

`reduce` bisects along the order of a graph method, screens every single deletion of what is left, then lets a model
propose and simulations decide, and at last tries every remaining single deletion of the best. `greedy` is what it has
to beat: delete one after another, least harmful first, until none can go. `sweep` follows a graph method alone. All use
one `Evaluation` and one count of simulated masks.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np
import torch

from sciml import parallel
from sciml.archive import Archive, Store
from sciml.chemistry.evaluation import Evaluation
from sciml.integer import Integer
from sciml.proposers import Inverse, Model, Screened
from sciml.search import Proposer, RandomMoves, Switches, search, simulate_all, unseen

__all__ = ["Options", "Reduction", "greedy", "reduce", "sensitivity", "single_harm", "sweep"]

Keep = Callable[[Archive], None]


@dataclass(frozen=True)
class Options:
    """How the loop searches.

    Attributes:
        budget: masks simulated in all, the first ones and the polish included.
        proposals: "integer" solves integer programmes on a local model, "network" screens moves by the ensemble,
            "random" simulates moves as they come, "inverse" descends the ensemble's prediction, "both" lets network
            and inverse take turns.
        batch: masks between two fits of the model.
        polish: share of the budget that is kept for single deletions of the best at the end.
        model: the ensemble.
        workers: see `parallel.run`.
        timeout: seconds for one mask; beyond it its errors are infinite. Needs at least one worker.
    """

    budget: int = 300
    proposals: Literal["integer", "network", "random", "inverse", "both"] = "integer"
    batch: int = 4
    polish: float = 0.1
    model: Model = field(default_factory=lambda: Model(cost=count))
    workers: Any = 0
    timeout: float | None = None

    def __post_init__(self) -> None:
        """Check the options."""
        if self.budget < 1:
            raise ValueError(f"budget is {self.budget}, but must be at least one simulated mask")
        if self.proposals not in ("integer", "network", "random", "inverse", "both"):
            raise ValueError(f"proposals is {self.proposals!r}, but must be integer, network, random, inverse or both")
        if not 0 <= self.polish < 1:
            raise ValueError(f"polish is {self.polish}, but must be a share of the budget, at least 0 and below 1")
        parallel.check(self.workers, self.timeout)

    @property
    def proposers(self) -> list[Proposer]:
        """Who takes turns."""
        screened, inverse = Screened(self.model), Inverse(self.model)
        return {
            "integer": [Integer()],
            "network": [screened],
            "random": [RandomMoves()],
            "inverse": [inverse],
            "both": [screened, inverse],
        }[self.proposals]  # type: ignore[return-value]


def count(designs: torch.Tensor) -> torch.Tensor:
    """The number of switches that are on: the objective of a reduction, known without simulation."""
    return designs.sum(-1)


@dataclass(frozen=True)
class Reduction:
    """What a search found.

    Attributes:
        archive: every mask simulated.
    """

    archive: Archive

    @property
    def mask(self) -> np.ndarray:
        """The smallest simulated mask that meets every tolerance, boolean.

        Raises:
            ArithmeticError: if none does.
        """
        if self.archive.best is None:
            raise ArithmeticError("no simulated mask meets every tolerance, not even the full mechanism")
        return self.archive.designs[self.archive.best] > 0.5

    @property
    def size(self) -> int:
        """Species (or reactions) of the answer."""
        return int(self.mask.sum())

    @property
    def error(self) -> float:
        """The largest error of the answer in units of its tolerance."""
        return float(self.archive.worst[self.archive.best])

    @property
    def simulated(self) -> int:
        """Masks simulated, the full mechanism included."""
        return len(self.archive)


@dataclass(frozen=True)
class _Trial:
    """Simulates designs into an archive, within the budget."""

    evaluate: Evaluation
    options: Options
    store: Store | None
    archive: Archive

    def __call__(self, designs: Sequence[np.ndarray]) -> None:
        fresh = unseen(np.array(designs), self.archive)[: self.options.budget - len(self.archive)]
        options = self.options
        simulate_all(self.evaluate, fresh, self.archive, options.workers, options.timeout, self.store)


def reduce(
    evaluate: Evaluation,
    fixed: np.ndarray,
    options: Options | None = None,
    seed: int = 0,
    store: Store | None = None,
    keep: Keep | None = None,
    rankings: Sequence[np.ndarray] = (),
) -> Reduction:
    """Search for the smallest mask that meets every tolerance.

    Args:
        evaluate: mask -> size, errors.
        fixed: (d,) boolean: what is never deleted.
        options: how to search.
        seed: of every draw; the same seed finds the same masks.
        store: a cache on disk: a search that was killed repeats its way through it at once.
        keep: called with the archive after every batch.
        rankings: importances (d,) by graph methods, from which the search starts where they lead furthest.

    Returns:
        The reduction; masks simulated never exceed the budget.

    Raises:
        ArithmeticError: if the whole is out of tolerance or time, or its worker died.
    """
    options = options or Options()
    fixed = np.asarray(fixed, dtype=bool)
    archive = Archive.empty(len(fixed), evaluate.size)
    with parallel.kept(options.workers) as team:
        options = replace(options, workers=team)
        trial = _Trial(evaluate, options, store, archive)
        trial([np.ones(len(fixed))])
        if not archive.feasible[0]:
            late = "" if options.timeout is None else f" within the {options.timeout:g} s of its time limit"
            raise ArithmeticError(f"the full mechanism does not meet every tolerance{late}, so no part of it is sought")
        for ranking in rankings:
            _bisect(trial, fixed, ranking)
        if archive.best is not None and len(archive) < options.budget:
            trial(_deletions(archive.designs[archive.best], fixed))
        search(
            evaluate,
            Switches(fixed),
            [],
            options.proposers,
            max(int(options.budget * (1 - options.polish)), 1),
            evaluate.size,
            options.batch,
            seed,
            options.workers,
            options.timeout,
            keep,
            store,
            archive,
        )
        _polish(trial, fixed, keep)
    return Reduction(archive)


def _bisect(trial: _Trial, fixed: np.ndarray, ranking: np.ndarray) -> None:
    """How many of the least important can go at once: about log2(d) masks."""
    order = np.flatnonzero(~fixed)[np.argsort(ranking[~fixed], kind="stable")]
    low, high = 0, len(order) + 1
    while high - low > 1 and len(trial.archive) < trial.options.budget:
        middle = (low + high) // 2
        design = np.ones(len(fixed))
        design[order[:middle]] = 0
        trial([design])
        feasible = trial.archive.feasible[trial.archive.index(design)]
        low, high = (middle, high) if feasible else (low, middle)


def _polish(trial: _Trial, fixed: np.ndarray, keep: Keep | None) -> None:
    """Try every single deletion of the best, least harmful first by earlier deletions, until none can go."""
    archive, budget = trial.archive, trial.options.budget
    harm = single_harm(archive, fixed)
    while len(archive) < budget and archive.best is not None:
        best = archive.best
        for design in unseen(np.array(_deletions(archive.designs[best], fixed, harm)), archive):
            trial([design])
            if archive.objectives[archive.best] < archive.objectives[best] or len(archive) >= budget:
                break
        else:
            break
        if keep is not None:
            keep(archive)


def greedy(
    evaluate: Evaluation,
    fixed: np.ndarray,
    budget: int,
    start: np.ndarray | None = None,
    store: Store | None = None,
    workers: Any = 0,
    timeout: float | None = None,
) -> Reduction:
    """Plain deletion: every single one first, then one after another in that order, keeping what stays in tolerance.

    Passes are repeated, each in the order of the errors last seen, until a whole pass deletes nothing or the budget
    is used.

    Args:
        evaluate: mask -> size, errors.
        fixed: (d,) boolean: what is never deleted.
        budget: masks simulated at most.
        start: the mask to begin with; None is everything.
        store: a cache on disk.
        workers: see `parallel.run`; used for the singles, since the rest is one after another.
        timeout: seconds for one mask.
    """
    fixed = np.asarray(fixed, dtype=bool)
    now = np.ones(len(fixed)) if start is None else np.asarray(start, dtype=float)
    archive = Archive.empty(len(fixed), evaluate.size)
    with parallel.kept(workers) as team:
        first = np.array([now, *_deletions(now, fixed)])[:budget]
        simulate_all(evaluate, first, archive, team, timeout, store)
        harm = {int(np.flatnonzero(now - d)[0]): w for d, w in zip(first[1:], archive.worst[1:], strict=True)}
        deleted = True
        while deleted:
            deleted = False
            for k in sorted(harm, key=lambda k: harm[k]):
                if len(archive) >= budget or not now[k]:
                    continue
                design = now.copy()
                design[k] = 0
                if design not in archive:
                    simulate_all(evaluate, design[None], archive, 0 if timeout is None else team, timeout, store)
                    harm[k] = archive.worst[-1]
                    if archive.feasible[-1]:
                        now, deleted = design, True
                elif archive.feasible[archive.index(design)]:
                    now, deleted = design, True
    return Reduction(archive)


def sweep(
    evaluate: Evaluation,
    fixed: np.ndarray,
    ranking: np.ndarray,
    budget: int,
    store: Store | None = None,
    patience: int = 1,
) -> Reduction:
    """Delete in the order of a graph method's coefficients, smallest first, until the tolerance is exceeded.

    Args:
        evaluate: mask -> size, errors.
        fixed: (d,) boolean: what is never deleted.
        ranking: (d,) importance.
        budget: masks simulated at most.
        store: a cache on disk.
        patience: how many masks in a row may be out of tolerance before the sweep ends; graph methods take 1.
    """
    design = np.ones(len(fixed))
    archive = Archive.empty(len(fixed), evaluate.size)
    simulate_all(evaluate, design[None], archive, store=store)
    missed = 0
    for k in np.argsort(np.where(fixed, np.inf, ranking), kind="stable"):
        if fixed[k] or len(archive) >= budget or missed >= patience:
            break
        design = design.copy()
        design[k] = 0
        simulate_all(evaluate, design[None], archive, store=store)
        missed = 0 if archive.feasible[-1] else missed + 1
    return Reduction(archive)


def sensitivity(
    evaluate: Evaluation, fixed: np.ndarray, ranking: np.ndarray, budget: int, store: Store | None = None
) -> Reduction:
    """DRGEPASA and its kin: a sweep, then greedy deletion of what the sweep left (Niemeyer et al., C&F 157, 2010)."""
    swept = sweep(evaluate, fixed, ranking, budget, store)
    left = budget - swept.simulated
    if left < 1:
        return swept
    after = greedy(evaluate, fixed, left, swept.mask.astype(float), store).archive
    for design, objective, errors in zip(after.designs, after.objectives, after.errors, strict=True):
        if design not in swept.archive:
            swept.archive.add(design, float(objective), errors)
    return swept


def _deletions(design: np.ndarray, fixed: np.ndarray, harm: np.ndarray | None = None) -> list[np.ndarray]:
    """The design without each of its free members; the least harmful first."""
    members = np.flatnonzero((design > 0) & ~fixed)
    if harm is not None:
        members = members[np.argsort(harm[members], kind="stable")]
    children = np.tile(design, (len(members), 1))
    children[np.arange(len(members)), members] = 0
    return list(children)


def single_harm(archive: Archive, fixed: np.ndarray) -> np.ndarray:
    """(d,): least worst error, in tolerances, that the deletion of each alone from a simulated feasible mask gave.

    Infinite where fixed, or never deleted alone.
    """
    harm = np.full(len(fixed), np.inf)
    for parent in archive.designs[archive.feasible]:
        fewer = parent - archive.designs
        alone = np.flatnonzero((fewer.min(1) >= 0) & (fewer.sum(1) == 1))
        which = fewer[alone].argmax(1)
        np.minimum.at(harm, which, archive.worst[alone])
    harm[fixed] = np.inf
    return harm
