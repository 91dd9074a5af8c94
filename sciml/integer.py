"""Proposals by integer programming on a local model: the smallest design whose errors it believes to be in tolerance.

Around a simulated design b, with y_i = 1 where switch i is flipped and c_i = -1 for switching off and 1 for on,

    minimise sum_i c_i y_i   subject to   |e_j(b) + sum_i F_ij y_i| + t_j (sum_i y_i - 1) <= 1   for every error j

is solved exactly (HiGHS, in `scipy.optimize.milp`). The effects F are drawn from `Kriging`, so that proposals go where
effects are unknown and might help (Thompson sampling); t_j, a random multiple of what flips do together beyond their
sum, says how boldly flips are combined. Errors of opposite sign that cancel are found as readily as harmless ones.
At most twice as many flips are combined as made the last best design out of the one before.

Such programmes lead far, and then no further. Where they stop, a beam search exchanges a few switches: each step
predicts every flip of every design kept, with what flips do together, and keeps the best of each size.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from scipy.optimize import Bounds, LinearConstraint, milp
from scipy.stats import norm

from sciml.archive import Archive
from sciml.kriging import Kriging
from sciml.search import Space, Switches, unseen

__all__ = ["Integer"]

_NEAR, _REPAIRS = 3.0, 3.0  # a base may be out by 3 tolerances; each tolerance may take 3 more switches to mend
_FAILED = 5.0  # errors beyond 5 tolerances, infinite ones too, are the same: far away


@dataclass(frozen=True)
class Integer:
    """Solve the programme of the module for several draws, and keep what is most likely to improve on the best.

    Random moves around the base join them, so that there is a choice when every programme ends at known designs.

    Attributes:
        draws: programmes that are solved for each design asked for.
        moves: random moves that join.
        around: the base is one of so many good designs, slightly infeasible ones too; half of the time it is the best.
        boldest: flips are penalised by up to so many standard deviations of what they do together.
        hopeless: a flip whose own effect leaves an error of so many tolerances is not considered.
        nodes: limit of one programme, in nodes of its tree; a time limit would make answers depend on the machine.
        patience: designs simulated without a better one before switches are exchanged instead.
        deepest: switches that are exchanged at once.
        width: designs of each size that a beam keeps.
    """

    draws: int = 1
    moves: int = 600
    around: int = 8
    boldest: float = 1.5
    hopeless: float = 2.0
    nodes: int = 1
    patience: int = 4
    deepest: int = 5
    width: int = 2

    def __call__(self, archive: Archive, space: Space, count: int, generator: np.random.Generator) -> np.ndarray:
        """At most `count` designs that were not simulated yet, most promising first."""
        if not isinstance(space, Switches):
            raise TypeError(f"space is {type(space).__name__}, but integer programmes need Switches")
        exchanged = np.empty((0, len(space.fixed)))
        if archive.best is not None and len(archive) - 1 - archive.best >= self.patience:
            exchanged = self._exchanges(archive, space.fixed, count, generator)
        if len(exchanged) == count:
            return exchanged
        reach = self._reach(archive, int((~space.fixed).sum()))
        base = archive.designs[_base(archive, self.around, reach, generator)]
        model = Kriging(base, archive.designs, np.clip(archive.errors, -_FAILED, _FAILED))
        near = replace(space, largest=reach / max(int((~space.fixed).sum()), 1))
        pool = [near.moves(base[None], self.moves, generator)]
        for _ in range(self.draws * count):
            effects = model.flips(generator, generator.choice([0.0, 1.0]))
            caution = generator.uniform(0, self.boldest) * model.together()
            pool += self._solve(archive, model, base, space.fixed, effects, caution, reach, generator)
        designs = unseen(np.concatenate(pool), archive)
        within = np.abs(designs - base).sum(1) <= reach
        designs = designs[within] if within.any() else designs
        mean, deviation = model(designs)
        deviation = np.maximum(deviation, 1e-9)
        feasible = (norm.cdf((1 - mean) / deviation) - norm.cdf((-1 - mean) / deviation)).prod(1)
        least = len(base) if archive.best is None else archive.objectives[archive.best]
        gain = np.maximum(least - designs.sum(1), 0.0)
        gain = np.where((gain == 0) & (designs.sum(1) == least), 0.05, gain)  # another base of the same size
        promising = designs[np.argsort(-feasible * gain, kind="stable")[:count]]
        return unseen(np.concatenate([exchanged, promising]), archive)[:count]

    def _reach(self, archive: Archive, free: int) -> int:
        """How many flips may be combined: twice as many as led to the best from the best before it."""
        if archive.best is None:
            return max(free // 2, 2)
        worst, feasible, best = archive.worst, archive.feasible, archive.best
        earlier = np.flatnonzero(feasible & (archive.objectives > archive.objectives[best]))
        if not len(earlier):
            return max(free // 2, 2)
        before = min(earlier, key=lambda i: (archive.objectives[i], worst[i]))
        step = int(np.abs(archive.designs[best] - archive.designs[before]).sum())
        return int(np.clip(2 * step, 2 * self.deepest, max(free // 2, 2)))

    def _exchanges(self, archive: Archive, fixed: np.ndarray, count: int, generator: np.random.Generator) -> np.ndarray:
        """At most `count` designs a few flips from a good one: the best ends of as many beams.

        A beam is the more cautious the larger a multiple of their deviation it adds to the predicted errors.
        """
        base = archive.designs[_base(archive, self.around, self.deepest, generator)]
        model = Kriging(base, archive.designs, np.clip(archive.errors, -_FAILED, _FAILED), nearest=200)
        caution = generator.uniform(0, self.boldest, size=count)
        flips = np.eye(len(base))[~fixed]
        front, pool, merits = base[None], [], []
        for _ in range(self.deepest):
            children = _different(np.abs(front[:, None] - flips).reshape(-1, len(base)))
            mean, deviation = model(children)
            sizes = children.sum(1)
            worst = np.stack([(np.abs(mean) + c * deviation).max(1) for c in caution])
            merit = _merit(sizes, worst) + 0.01 * worst
            kept = set()
            for order in np.argsort(merit, axis=1, kind="stable"):
                for n in np.unique(sizes):
                    kept.update(order[sizes[order] == n][: self.width].tolist())
            front = children[sorted(kept)]
            pool.append(front)
            merits.append(merit[:, sorted(kept)])
        designs, merit = np.concatenate(pool), np.concatenate(merits, axis=1)
        known = np.array([design in archive for design in designs])
        chosen = [int(np.where(known, np.inf, row).argmin()) for row in merit]
        return unseen(designs[list(dict.fromkeys(chosen))], archive)

    def _solve(
        self,
        archive: Archive,
        model: Kriging,
        base: np.ndarray,
        fixed: np.ndarray,
        effects: np.ndarray,
        caution: np.ndarray,
        reach: int,
        generator: np.random.Generator,
    ) -> list[np.ndarray]:
        """(1, d) for one draw, or nothing; designs that were simulated already are cut off, a few times."""
        bound = np.maximum(self.hopeless, np.abs(model.value))
        free = np.flatnonzero(~fixed & (np.abs(model.value + effects) <= bound).all(1))
        if not len(free):
            return []
        binding = np.abs(effects[free]).sum(0) + np.abs(model.value) + caution * len(free) > 1
        e, F, t = model.value[binding], effects[np.ix_(free, binding)].T, caution[binding]
        cost = np.where(base[free] > 0.5, -1.0, 1.0) + 0.01 * generator.standard_normal(len(free))
        constraints = [
            LinearConstraint(F + t[:, None], -np.inf, 1 - e + t),
            LinearConstraint(F - t[:, None], -1 - e - t, np.inf),
            LinearConstraint(np.ones(len(free)), 0, reach),
        ]
        for _ in range(4):
            found = milp(cost, integrality=np.ones(len(free)), bounds=Bounds(0, 1), constraints=constraints,
                         options={"node_limit": self.nodes, "mip_rel_gap": 0.05})  # fmt: skip
            if found.x is None:
                return []
            flips = found.x > 0.5
            design = base.copy()
            design[free[flips]] = 1 - base[free[flips]]
            if design not in archive:
                return [design[None]]
            constraints.append(LinearConstraint(np.where(flips, -1.0, 1.0), 1 - flips.sum(), np.inf))
        return []


def _merit(objectives: np.ndarray, worst: np.ndarray) -> np.ndarray:
    """Size, and how many more switches it may take to mend what is out of tolerance."""
    return np.asarray(objectives + _REPAIRS * np.maximum(worst - 1, 0))


def _different(designs: np.ndarray) -> np.ndarray:
    """Different rows, each once, in the order given."""
    packed = np.packbits(designs > 0.5, axis=1)
    rows = packed.view(f"V{packed.shape[1]}").reshape(-1)
    return designs[np.sort(np.unique(rows, return_index=True)[1])]


def _base(archive: Archive, around: int, reach: int, generator: np.random.Generator) -> int:
    """The best design, or one of the next: as small and as little out of tolerance, known in full, and in reach.

    What contains another one of them is left out, for it is that one and something useless.
    """
    worst, best = archive.worst, archive.best
    known = ~np.isnan(archive.errors).any(1) & np.isfinite(worst)
    rows = np.flatnonzero(known & (worst <= _NEAR))
    if not len(rows):
        return int(np.where(known, worst, np.inf).argmin())
    merit = _merit(archive.objectives, worst)
    least = archive.objectives[best] if best is not None else merit[rows].min()
    kept: list[int] = [] if best is None else [best]
    for i in sorted(map(int, rows), key=lambda i: (merit[i], worst[i])):
        if len(kept) == around or archive.objectives[i] >= least + reach:
            break
        if not any((archive.designs[i] >= archive.designs[j]).all() for j in kept):
            kept.append(i)
    return int(kept[0] if generator.random() < 0.5 else kept[generator.integers(len(kept))])
