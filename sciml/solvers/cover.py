"""A partition of unity: boxes that tile a larger box, each with a smooth window, and features of its own in each.

The window of a cell is one inside and falls to zero a little way into its neighbours, a share of the smaller of the
two. Divided by their sum the windows w_k add up to one, whatever the sizes of the cells, and

    u(x) = sum_k w_k(x) sum_j c_kj phi_kj(x)

is as smooth as the windows and as accurate as the phi_kj are in the cells. A differential operator on w phi is another
operator on phi, by Leibniz' rule.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import product

import torch
from torch import Tensor

from sciml.solvers.families import Indices, Operator

__all__ = ["Cover", "Pairs", "windowed"]

_SHARE = 0.2  # of the smaller of two neighbours that a window reaches into the other
_SLIVER = 0.15  # of a cell that its window reaches across a wall
_CHUNK = 2**24  # numbers in one block of a points x cells table


@dataclass(frozen=True)
class Pairs:
    """Points and the cells whose windows do not vanish there.

    Attributes:
        point: ``(k,)``, ascending.
        cell: ``(k,)``.
        window: derivative index -> its value ``(k,)``.
    """

    point: Tensor
    cell: Tensor
    window: dict[Indices, Tensor]


def windowed(operator: Operator, window: Mapping[Indices, Tensor]) -> dict[Indices, Tensor | float]:
    """The operator L with L phi = operator (w phi)."""
    found: dict[Indices, Tensor | float] = {}
    for index, weight in operator.items():
        for mask in product((False, True), repeat=len(index)):
            inner = tuple(i for i, m in zip(index, mask, strict=True) if m)
            outer = tuple(i for i, m in zip(index, mask, strict=True) if not m)
            found[inner] = found.get(inner, 0.0) + weight * window[outer]
    return found


@dataclass(frozen=True)
class Cover:
    """Cells of a partition of unity.

    Attributes:
        lower: ``(k, d)`` corners of boxes that tile a box, or the part of it that matters.
        upper: ``(k, d)`` opposite corners.
    """

    lower: Tensor
    upper: Tensor

    @classmethod
    def even(cls, lower: Tensor, upper: Tensor, counts: Sequence[int]) -> Cover:
        """A grid of `counts` cells along each axis."""
        h = (upper - lower) / torch.tensor(counts, dtype=torch.float64)
        grid = torch.cartesian_prod(*(torch.arange(n, dtype=torch.float64) for n in counts)).reshape(-1, len(counts))
        return cls(lower + grid * h, lower + (grid + 1) * h)

    @property
    def size(self) -> int:
        """Number of cells."""
        return len(self.lower)

    @property
    def sides(self) -> Tensor:
        """``(k, d)``."""
        return self.upper - self.lower

    def split(self, marked: Tensor) -> Cover:
        """Halve marked cells.

        Args:
            marked: ``(k, d)`` bool, the axes along which a cell is halved.
        """
        lower, upper, origin = self.lower, self.upper, torch.arange(self.size)
        for axis in range(lower.shape[1]):
            m = marked[origin, axis]
            middle = (lower[m, axis] + upper[m, axis]) / 2
            above, below = lower[m].clone(), upper[m].clone()
            above[:, axis] = below[:, axis] = middle
            lower, upper = torch.cat([lower[~m], lower[m], above]), torch.cat([upper[~m], below, upper[m]])
            origin = torch.cat([origin[~m], origin[m], origin[m]])
        return Cover(lower, upper)

    @cached_property
    def touching(self) -> Tensor:
        """``(k, k)`` bool: whether two cells share a point."""
        tiny = 1e-9 * float(self.sides.min())
        return ((self.lower[:, None] <= self.upper + tiny) & (self.upper[:, None] >= self.lower - tiny)).all(-1)

    @cached_property
    def _reach(self) -> tuple[Tensor, Tensor]:
        """How far windows reach out of their cells below and above, ``(k, d)`` each; inf where nothing lies there."""
        low, high = torch.full_like(self.lower, torch.inf), torch.full_like(self.lower, torch.inf)
        h = self.sides
        tiny = 1e-9 * float(h.min())
        for axis in range(h.shape[1]):
            meets = self.touching & ((self.lower[:, None, axis] - self.upper[None, :, axis]).abs() < tiny)
            width = _SHARE * torch.minimum(h[:, None, axis], h[None, :, axis])
            low[:, axis] = torch.where(meets, width, torch.inf).amin(1)
            high[:, axis] = torch.where(meets.T, width, torch.inf).amin(1)
        return low, high

    @cached_property
    def boxes(self) -> tuple[Tensor, Tensor]:
        """Corners of the boxes in which windows do not vanish, ``(k, d)`` each; walls are not crossed."""
        low, high = (torch.where(r.isfinite(), r, torch.zeros_like(r)) for r in self._reach)
        return self.lower - low, self.upper + high

    def pairs(self, x: Tensor, order: int = 2) -> Pairs:
        """Which windows do not vanish at points ``(n, d)``, and their derivatives up to an order."""
        low, high = self._reach
        # beyond a wall only as far as slivers of the domain may lie there without a cell of their own
        near_low = self.lower - torch.where(low.isfinite(), low, _SLIVER * self.sides)
        near_high = self.upper + torch.where(high.isfinite(), high, _SLIVER * self.sides)
        points, cells = [], []
        step = max(1, _CHUNK // max(1, self.size * x.shape[1]))
        for start in range(0, len(x), step):
            part = x[start : start + step, None]
            inside = ((part > near_low) & (part < near_high)).all(-1)
            lost = ~inside.any(1)
            if bool(lost.any()):  # beyond all cells: the nearest one
                gap = (self.lower - part[lost]).clamp_min(0) + (part[lost] - self.upper).clamp_min(0)
                inside[lost, gap.square().sum(-1).argmin(1)] = True
            p, c = inside.nonzero(as_tuple=True)
            points.append(p + start)
            cells.append(c)
        point, cell = torch.cat(points), torch.cat(cells)
        bump = self._bumps(x[point], cell, order)
        return Pairs(point, cell, _normalised(bump, point, len(x), x.shape[1], order))

    def _bumps(self, x: Tensor, cell: Tensor, order: int) -> dict[Indices, Tensor]:
        """Products over the axes of a rise and a fall, before they are divided by their sum."""
        low, high = self._reach
        d = x.shape[1]
        factors = []
        for axis in range(d):
            rise = _ramp((x[:, axis] - self.lower[cell, axis]) / low[cell, axis], 1 / low[cell, axis])
            fall = _ramp((self.upper[cell, axis] - x[:, axis]) / high[cell, axis], -1 / high[cell, axis])
            factors.append(
                (
                    rise[0] * fall[0],
                    rise[1] * fall[0] + rise[0] * fall[1],
                    rise[2] * fall[0] + 2 * rise[1] * fall[1] + rise[0] * fall[2],
                )
            )
        found = {}
        for index in _indices(d, order):
            value = torch.ones_like(x[:, 0])
            for axis in range(d):
                value = value * factors[axis][index.count(axis)]
            found[index] = value
        return found


def _indices(d: int, order: int) -> list[Indices]:
    found: list[Indices] = [()]
    if order > 0:
        found += [(i,) for i in range(d)]
    if order > 1:
        found += [(i, j) for i in range(d) for j in range(i, d)]
    return found


def _ramp(s: Tensor, slope: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """A rise from 0 at s = -1 to 1 at s = 1 with three continuous derivatives; and its derivatives by s' = slope."""
    wall = slope == 0  # no neighbour
    y = torch.where(wall, torch.ones_like(s), s).clamp(-1, 1)
    r = 1 - y * y
    value = 0.5 + y * (35 - 35 * y**2 + 21 * y**4 - 5 * y**6) / 32
    return value, 35 / 32 * r**3 * slope, -105 / 16 * y * r**2 * slope**2


def _normalised(bump: dict[Indices, Tensor], point: Tensor, n: int, d: int, order: int) -> dict[Indices, Tensor]:
    total = {i: torch.zeros(n, dtype=b.dtype).index_add_(0, point, b)[point] for i, b in bump.items()}
    # beyond all cells the nearest one has a window of one, whatever its bump
    lone = total[()] <= 1e-12
    t = torch.where(lone, torch.ones_like(total[()]), total[()])
    w: dict[Indices, Tensor] = {(): torch.where(lone, torch.ones_like(t), bump[()] / t)}
    for i in range(d if order > 0 else 0):
        w[i,] = (bump[i,] - w[()] * total[i,]) / t
    for i in range(d if order > 1 else 0):
        for j in range(i, d):
            w[i, j] = (bump[i, j] - w[i,] * total[j,] - w[j,] * total[i,] - w[()] * total[i, j]) / t
            w[i, j][lone] = 0.0
    for i in range(d if order > 0 else 0):
        w[i,] = torch.where(lone, torch.zeros_like(t), w[i,])
    return w
