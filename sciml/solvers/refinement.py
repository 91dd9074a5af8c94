"""Cells that halve where they must: a problem solved on a cover of patches, again and again."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from sciml.domain import Box, Domain
from sciml.solvers.collocation import Block, Collocation
from sciml.solvers.cover import Cover
from sciml.solvers.enrichment import extras_of
from sciml.solvers.families import Family
from sciml.solvers.leastsquares import UNDETERMINED
from sciml.solvers.newton import newton
from sciml.solvers.patches import PatchSystem, patch_blocks
from sciml.solvers.patchfield import Patches, PatchField, wave_of
from sciml.training import Deadline

__all__ = ["Refined", "Refinement", "trimmed"]

_ROUNDS = 12  # of halving
_LOOSE = 1e-2  # tolerance of Newton's method as long as cells are halved
_DAMPING = (0.01, 1e-5)  # in units of the goal; of linear problems, and of others, whose merit does not contain it
_FRESH = 2  # times as many points for misfits as for the solution
_FREE = 1e-9  # norm of the rows of a function that is one at some point, below which nothing determines it


@dataclass(frozen=True)
class Refined:
    """A solution on one cover.

    Attributes:
        field: the solution.
        tails: see `PatchSystem.tails` or, for features that are no polynomials, `PatchSystem.misfits`.
        size: root mean square of the solution, of this slab or the largest of all before.
        note: what went wrong, "" if nothing did.
        gap: norm of what a linear problem's rows leave unexplained, relative to their right-hand side.
    """

    field: PatchField
    tails: Tensor
    size: float
    note: str
    gap: float = 0.0

    @property
    def worst(self) -> float:
        """The largest tail, relative to the solution."""
        return float(self.tails.max()) / (self.size or 1.0)


def trimmed(cover: Cover, domain: Domain) -> Cover:
    """Only cells that the domain reaches into."""
    if isinstance(domain, Box):
        return cover
    d = domain.dim
    # samples inside cells: what a sliver thinner than their distance would hold, its neighbour reaches as well
    middle = (torch.arange(8, dtype=torch.float64) + 0.5) / 8
    y = torch.cartesian_prod(*([middle] * d)).reshape(-1, d)
    level = domain.level((cover.lower[:, None] + y * cover.sides[:, None]).reshape(-1, d))
    near = (level.reshape(cover.size, -1) > 0).any(1)
    return Cover(cover.lower[near], cover.upper[near])


@dataclass(frozen=True)
class Refinement:
    """How cells are halved.

    Attributes:
        families: the features of a cell, on [-1, 1]^d.
        limit: of unknowns.
        clock: no round is begun after its time.
        singular: give the cells around holes and corners the functions of these.
    """

    families: tuple[Family, ...]
    limit: int
    clock: Deadline
    singular: bool = False

    @property
    def wave(self) -> float:
        """The largest wavenumber of a feature times the side of its cell."""
        return wave_of(self.families)

    def solve(
        self,
        collocation: Collocation,
        cover: Cover,
        goal: float,
        start: Any = None,
        size: float = 0.0,
        most: int | None = None,
    ) -> Refined:
        """Solve, halve cells, solve again, until all cells meet a goal.

        Args:
            collocation: the problem.
            cover: the first cells.
            goal: largest tail of a cell, relative to the solution.
            start: where Newton's method starts, anything with a ``derivative``; None is zero.
            size: root mean square that the solution has elsewhere.
            most: cells that are allowed; None takes `limit`.
        """
        most = min(self.most(collocation), most or self.limit)
        found: Refined | None = None
        for _ in range(_ROUNDS):
            if cover.size > most:
                return self._failed(collocation, found, cover, f"it takes more than {most} cells")
            if self.clock.over:
                return self._failed(collocation, found, cover, "the time is over")
            first = found is None and size == 0
            found = self.once(collocation, cover, goal, start, size, first, loose=True)
            if found.note or found.worst <= goal:
                return found
            cover, start = self.halved(collocation, found, goal), found.field
        return self._failed(collocation, found, cover, "smaller cells did not help")

    def most(self, collocation: Collocation) -> int:
        """Number of cells that the limit allows."""
        return self.limit // (sum(f.size for f in self.families) * collocation.components)

    def halved(self, collocation: Collocation, found: Refined, goal: float) -> Cover:
        """The cells that do not meet a goal are halved, along the axes along which coefficients fall slowly."""
        bad = found.tails > goal * found.size
        bad &= found.tails > 0.3 * found.tails.amax(1, keepdim=True)
        return trimmed(found.field.cover.split(bad), collocation.problem.domain)

    def once(
        self,
        collocation: Collocation,
        cover: Cover,
        goal: float,
        start: Any,
        size: float = 0.0,
        first: bool = False,
        loose: bool = False,
    ) -> Refined:
        """Solve on one cover.

        Args:
            collocation: the problem.
            cover: the cells.
            goal: see `solve`.
            start: see `solve`.
            size: see `solve`.
            first: find out whether the problem determines its solution.
            loose: end Newton's method early if cells do not meet the goal.
        """
        patches = Patches(cover, self.families)
        if self.singular:
            patches = replace(patches, extras=extras_of(collocation, cover, patches.width))
        system = PatchSystem(collocation, patches, _DAMPING[0 if collocation.linear else 1] * goal)
        blocks = patch_blocks(collocation, cover, patches.width)
        note, gap = "", 0.0
        if collocation.linear:
            factor = system.factor([(b, collocation.linearise(b)) for b in blocks])
            field, gap = system.field(factor.solve()), factor.gap
        else:
            tolerance = max(goal, _LOOSE) if loose else goal
            _, field, note = newton(collocation, system, blocks, start, tolerance, self.clock)
        if first and self._free(system, blocks, field):
            return Refined(field, torch.zeros_like(cover.lower), 0.0, UNDETERMINED)
        size = max(size, system.rms(blocks[0], field))
        found = Refined(field, self._tails(system, blocks, field), size, note, gap)
        if loose and not note and found.worst <= goal and not collocation.linear:
            _, field, note = newton(collocation, system, blocks, field, goal, self.clock)
            found = replace(found, field=field, tails=self._tails(system, blocks, field), note=note)
        return found

    def fallen(self, collocation: Collocation, field: PatchField, before: Any) -> float:
        """What the equations leave of a solution at fresh points, over what they leave of another, in the same norm."""
        system = PatchSystem(collocation, field.patches)
        fresh = patch_blocks(collocation, field.patches.cover, _FRESH * field.patches.width)
        return system.misfit(fresh, field) / max(system.misfit(fresh, before), 1e-300)

    def _tails(self, system: PatchSystem, blocks: list[Block], field: PatchField) -> Tensor:
        patches = system.patches
        if patches.degrees is not None:
            return system.tails(blocks[0], field)
        fresh = patch_blocks(system.collocation, patches.cover, _FRESH * patches.width)
        return system.misfits(fresh, field)

    def _free(self, system: PatchSystem, blocks: list[Block], field: PatchField) -> bool:
        """Whether a function that is one at some point, such as a constant, satisfies all homogeneous equations."""
        collocation = system.collocation
        x = blocks[0].x[:: max(1, len(blocks[0].x) // 8)]  # inside: beyond the boundary nothing is determined
        about = [None if collocation.linear else system.values(collocation, b, field) for b in blocks]
        equations = [(b, collocation.linearise(b, v)) for b, v in zip(blocks, about, strict=True)]
        strict = replace(system, damping=1e-13)
        return bool((strict.factor(equations).least(system.values_at(x)) < _FREE).any())

    def _failed(self, collocation: Collocation, found: Refined | None, cover: Cover, note: str) -> Refined:
        if found is not None:
            return Refined(found.field, found.tails, found.size, note)
        patches = Patches(cover, self.families)
        zero = torch.zeros(patches.size, collocation.components, dtype=torch.float64)
        return Refined(PatchField(patches, zero), torch.zeros_like(cover.lower), 0.0, note)
