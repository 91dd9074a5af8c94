"""Search for the best design whose simulation meets its tolerances: propose, simulate, verify.

A design is a row of numbers, of switches (`Switches`) or of coordinates in a box (`Coordinates`). A simulation gives

    objective  what is to be small,
    errors     (k,) signed, each divided by its tolerance, so a design is feasible where max |errors| <= 1.

An infinite error is a failure, NaN is an error that was not asked for since an earlier one was already too large.
`search` is the only loop. What varies is who proposes: `RandomMoves` looks around the best designs at random, those
of `proposers` ask networks, `Integer` solves integer programmes. The answer is always a simulated design, never a
predicted one.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from sciml import parallel
from sciml.archive import Archive, Outcome, Store

Simulate = Callable[[np.ndarray], Outcome]

__all__ = [
    "Coordinates",
    "Proposer",
    "RandomMoves",
    "Simulate",
    "Space",
    "Switches",
    "parents",
    "search",
    "simulate_all",
    "unseen",
]


class Space(Protocol):
    """The designs that exist."""

    def moves(self, parents: np.ndarray, count: int, generator: np.random.Generator) -> np.ndarray:
        """(count, d): random neighbours of the parents (p, d)."""
        ...

    def project(self, relaxed: np.ndarray, generator: np.random.Generator) -> np.ndarray:
        """(n, d): the designs nearest to relaxed ones in the box of `bounds`."""
        ...

    @property
    def bounds(self) -> tuple[np.ndarray, np.ndarray]:
        """(d,) and (d,): the box of relaxed designs."""
        ...


@dataclass(frozen=True)
class Switches:
    """Vectors of zeros and ones.

    Attributes:
        fixed: (d,) boolean: switches that always stay on.
        largest: the share of the free switches that one move may turn off at most; most moves turn off far fewer.
        additions: how probable it is that a move also turns some on (a swap, or an addition alone).
    """

    fixed: np.ndarray
    largest: float = 0.5
    additions: float = 0.4

    @property
    def bounds(self) -> tuple[np.ndarray, np.ndarray]:
        """Fixed switches are on, others between off and on."""
        return self.fixed.astype(float), np.ones(len(self.fixed))

    def moves(self, parents: np.ndarray, count: int, generator: np.random.Generator) -> np.ndarray:
        """Neighbours by deletions, their number log-uniform, and additions in some of them."""
        children = parents[generator.integers(len(parents), size=count)].copy()
        most = max(self.largest * np.sum(~self.fixed), 1.0)
        off = np.floor(most ** generator.random(count)).astype(int)
        on = np.where(generator.random(count) < self.additions, generator.geometric(0.6, size=count), 0)
        off = np.where((on > 0) & (generator.random(count) < 0.2), 0, off)  # additions alone
        for child, n_off, n_on in zip(children, off, on, strict=True):
            present, absent = np.flatnonzero((child > 0) & ~self.fixed), np.flatnonzero(child == 0)
            child[generator.permutation(present)[:n_off]] = 0
            child[generator.permutation(absent)[:n_on]] = 1
        return children

    def project(self, relaxed: np.ndarray, generator: np.random.Generator) -> np.ndarray:
        """Round each row at a random threshold, so that one relaxed answer gives designs of several sizes."""
        threshold = generator.uniform(0.2, 0.8, size=(len(relaxed), 1))
        return ((relaxed > threshold) | self.fixed).astype(float)


@dataclass(frozen=True)
class Coordinates:
    """Points of a box.

    Attributes:
        lower: (d,).
        upper: (d,).
        step: standard deviation of a move, relative to the sides of the box.
    """

    lower: np.ndarray
    upper: np.ndarray
    step: float = 0.05

    def __post_init__(self) -> None:
        """Check the box."""
        if np.shape(self.lower) != np.shape(self.upper) or not np.all(np.asarray(self.lower) < np.asarray(self.upper)):
            raise ValueError("lower must have the shape of upper and lie below it")

    @property
    def bounds(self) -> tuple[np.ndarray, np.ndarray]:
        """The box."""
        return self.lower, self.upper

    def moves(self, parents: np.ndarray, count: int, generator: np.random.Generator) -> np.ndarray:
        """Gaussian steps, of sizes between a tenth of `step` and `step`."""
        chosen = parents[generator.integers(len(parents), size=count)]
        size = self.step * 10 ** generator.uniform(-1, 0, size=(count, 1))
        noise = generator.standard_normal(chosen.shape) * size * (self.upper - self.lower)
        return self.project(chosen + noise, generator)

    def project(self, relaxed: np.ndarray, generator: np.random.Generator) -> np.ndarray:  # noqa: ARG002
        """Into the box."""
        return np.clip(relaxed, self.lower, self.upper)


class Proposer(Protocol):
    """Who says what is simulated next."""

    def __call__(self, archive: Archive, space: Space, count: int, generator: np.random.Generator) -> np.ndarray:
        """(at most count, d): new designs."""
        ...


def parents(archive: Archive, count: int, slack: float = 2.0) -> np.ndarray:
    """The designs to look around: feasible ones with small objectives, and every third one slightly infeasible."""
    order = sorted(range(len(archive)), key=lambda i: (archive.objectives[i], archive.worst[i]))
    feasible = archive.feasible
    good = [i for i in order if feasible[i]][: count - count // 3]
    near = [i for i in order if not feasible[i] and archive.worst[i] <= slack][: count // 3]
    rows = good + near
    if not rows:  # nothing is near: start from the least bad
        rows = sorted(range(len(archive)), key=lambda i: archive.worst[i])[:count]
    return archive.designs[rows]


@dataclass(frozen=True)
class RandomMoves:
    """Neighbours of the best designs, at random: what a network has to beat.

    Attributes:
        around: number of parents.
    """

    around: int = 12

    def __call__(self, archive: Archive, space: Space, count: int, generator: np.random.Generator) -> np.ndarray:
        """Draw more than are asked for, since some were simulated already."""
        return unseen(space.moves(parents(archive, self.around), 8 * count, generator), archive)[:count]


def unseen(designs: np.ndarray, archive: Archive) -> np.ndarray:
    """Different designs that were not simulated yet, in the order given."""
    kept: dict[bytes, np.ndarray] = {}
    for design in designs:
        if design not in archive:
            kept.setdefault(design.tobytes(), design)
    return np.array(list(kept.values())).reshape(-1, designs.shape[1])


def search(
    simulate: Simulate,
    space: Space,
    start: Iterable[np.ndarray],
    proposers: Sequence[Proposer],
    budget: int,
    errors: int,
    batch: int = 8,
    seed: int = 0,
    workers: Any = 0,
    timeout: float | None = None,
    keep: Callable[[Archive], None] | None = None,
    store: Store | None = None,
    archive: Archive | None = None,
) -> Archive:
    """Simulate the start, then what the proposers propose in turn, until the budget is used.

    The same seed gives the same archive, whatever the number of workers, so a search whose `simulate` caches on disk
    continues where it was killed.

    Args:
        simulate: design (d,) -> objective, errors (k,); with workers it must be picklable.
        space: the designs that exist.
        start: designs simulated first.
        proposers: take turns, a batch each.
        budget: number of designs simulated in all.
        errors: k.
        batch: designs between two trainings.
        seed: of every draw.
        workers: handed to `parallel.run`: 0 is this process, n that many processes, or an executor.
        timeout: seconds for one design; beyond it, its errors are infinite.
        store: outcomes of earlier searches; what is found there is not simulated again, but counts.
        keep: called with the archive after each batch, for whoever writes the best so far to disk.
        archive: what was simulated already and counts, to be continued in place; None begins anew.

    Returns:
        Everything simulated.
    """
    if budget < 1:
        raise ValueError(f"budget is {budget}, but must be at least one simulation")
    generator = np.random.default_rng(seed)
    first = [np.asarray(d, dtype=float) for d in start]
    archive = Archive.empty(len(space.bounds[0]), errors) if archive is None else archive
    with parallel.kept(workers) as team:
        if first:
            designs = unseen(np.array(first), archive)[: max(budget - len(archive), 0)]
            simulate_all(simulate, designs, archive, team, timeout, store)
        fruitless = turn = 0
        while len(archive) < budget and fruitless < 3 * max(len(proposers), 1) and proposers:
            if keep is not None:
                keep(archive)
            proposer, turn = proposers[turn % len(proposers)], turn + 1
            designs = proposer(archive, space, min(batch, budget - len(archive)), generator)
            fruitless = 0 if len(designs) else fruitless + 1
            simulate_all(simulate, designs, archive, team, timeout, store)
    if keep is not None:
        keep(archive)
    return archive


def simulate_all(
    simulate: Simulate,
    designs: np.ndarray,
    archive: Archive,
    workers: Any = 0,
    timeout: float | None = None,
    store: Store | None = None,
) -> None:
    """Simulate designs, or take them from the store, and append them in the order given, whatever finishes first.

    A simulation that raises, exceeds `timeout` or loses its process twice has infinite errors and objective.
    """
    done = {i: store[d] for i, d in enumerate(designs) if store is not None and d in store}
    missing = [i for i in range(len(designs)) if i not in done]
    failed = (math.inf, np.full(archive.errors.shape[1], math.inf))
    while missing:
        killed = []  # a process that was killed once says nothing of the design
        for i, outcome in parallel.run(simulate, [designs[j] for j in missing], workers=workers, timeout=timeout):
            row = missing[i]
            if not isinstance(outcome, parallel.Failure):
                done[row] = outcome
                if store is not None:  # at once, so that nothing finished is ever lost
                    store[designs[row]] = outcome
            else:
                killed += [row] * (outcome.died and row not in done)
                done[row] = failed
        missing, workers = killed, 1 if workers == -1 else workers  # what ends processes must not end this one
    for row, design in enumerate(designs):
        archive.add(design, *done[row])
