"""A partition of unity: boxes that tile a larger box, each with a smooth window, and features of its own in each.

The window of a cell is one inside and falls to zero a little way into its neighbours, a share of the smaller of the
two. Divided by their sum the windows w_k add up to one, whatever the sizes of the cells, and

    u(x) = sum_k w_k(x) sum_j c_kj phi_kj(x)

is as smooth as the windows and as accurate as the phi_kj are in the cells. A differential operator on w phi is another
operator on phi, by Leibniz' rule.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import product
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from sciml.solvers.families import Indices, Operator, legendre
from sciml.solvers.featurefield import FeatureField

__all__ = ["Cover", "PatchField", "Pairs", "SlabField", "features", "windowed"]

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


def features(
    cover: Cover, degrees: Tensor, pairs: Pairs, x: Tensor, indices: Iterable[Indices]
) -> dict[Indices, Tensor]:
    """Derivatives of w phi for pairs of points and cells: index -> ``(pairs, features)``.

    The phi are products of Legendre polynomials in the box of each window, one row of `degrees` each.
    """
    lower, upper = cover.boxes
    scale = 2 / (upper - lower)[pairs.cell]
    y = (x[pairs.point] - lower[pairs.cell]) * scale - 1
    indices = list(indices)
    order = max(map(len, indices))
    tables = [legendre(y[:, i], int(degrees[:, i].max()), order) for i in range(x.shape[1])]
    plain: dict[Indices, Tensor] = {}

    def derivative(index: Indices) -> Tensor:
        if index not in plain:
            parts = [tables[i][index.count(i)][:, degrees[:, i]] for i in range(x.shape[1])]
            value = parts[0]
            for part in parts[1:]:
                value = value * part
            plain[index] = value * scale[:, list(index)].prod(1, keepdim=True) if index else value
        return plain[index]

    found = {}
    for index in indices:
        inner = windowed({index: 1.0}, pairs.window)
        found[index] = sum(torch.as_tensor(w)[:, None] * derivative(i) for i, w in inner.items())
    return found  # type: ignore[return-value]


class PatchField(FeatureField):
    """A combination of polynomials in each cell of a cover, under windows.

    Args:
        cover: the cells.
        degrees: ``(m, d)`` of the products of Legendre polynomials in the box of each window.
        coefficients: ``(cells * m, components)``.
    """

    kind: ClassVar[str] = "patches"

    def __init__(self, cover: Cover, degrees: Tensor, coefficients: Tensor) -> None:
        self.cover, self.degrees, self.coefficients = cover, degrees, coefficients
        self.size = cover.size * len(degrees)

    @property
    def local(self) -> Tensor:
        """Coefficients ``(cells, m, components)``."""
        return self.coefficients.reshape(self.cover.size, len(self.degrees), -1)

    def derivative(self, x: Tensor, operator: Operator) -> Tensor:
        """The operator applied to the field at points ``(n, d)``: ``(n, components)``."""
        rows = max(1, _CHUNK // (16 * len(self.degrees)))
        found = []
        for start in range(0, max(1, len(x)), rows):
            part = x[start : start + rows]
            pairs = self.cover.pairs(part, max(map(len, operator), default=0))
            values = features(self.cover, self.degrees, pairs, part, operator)
            total = torch.zeros(len(pairs.point), len(self.degrees), dtype=x.dtype)
            for index, weight in operator.items():
                w = torch.as_tensor(weight, dtype=x.dtype)
                total += (w[start : start + rows][pairs.point, None] if w.ndim else w) * values[index]
            terms = torch.einsum("km,kmc->kc", total, self.local[pairs.cell])
            found.append(torch.zeros(len(part), terms.shape[1], dtype=x.dtype).index_add_(0, pairs.point, terms))
        return torch.cat(found)

    def describe(self) -> dict[str, Any]:
        """Nothing but arrays."""
        return {}

    def arrays(self) -> dict[str, np.ndarray]:
        """Cells, degrees and coefficients."""
        arrays = {"lower": self.cover.lower, "upper": self.cover.upper}
        return {k: v.numpy() for k, v in {**arrays, "degrees": self.degrees, "coefficients": self.coefficients}.items()}

    @classmethod
    def restore(cls, description: Mapping[str, Any], arrays: Mapping[str, np.ndarray], problem: Any = None) -> Any:
        """From `describe` and `arrays`."""
        lower, upper, degrees, coefficients = (
            torch.as_tensor(arrays[k]) for k in ("lower", "upper", "degrees", "coefficients")
        )
        return cls(Cover(lower, upper), degrees, coefficients)


class SlabField(FeatureField):
    """One `PatchField` after another along the first axis.

    Args:
        starts: where each begins, ascending.
        parts: the fields.
    """

    kind: ClassVar[str] = "slabs"

    def __init__(self, starts: Sequence[float], parts: Sequence[PatchField]) -> None:
        self.starts, self.parts = torch.tensor(starts, dtype=torch.float64), tuple(parts)
        self.size = sum(p.size for p in parts)

    def derivative(self, x: Tensor, operator: Operator) -> Tensor:
        """The operator applied to the field at points ``(n, d)``: ``(n, components)``."""
        part = torch.searchsorted(self.starts, x[:, 0].contiguous().detach(), right=True).clamp_min(1) - 1
        found = torch.zeros(len(x), self.parts[0].coefficients.shape[1], dtype=x.dtype)
        for k in part.unique().tolist():
            mine = (part == k).nonzero()[:, 0]
            own = {i: w[mine] if isinstance(w, Tensor) and w.ndim else w for i, w in operator.items()}
            found = found.index_copy(0, mine, self.parts[k].derivative(x[mine], own))
        return found

    def describe(self) -> dict[str, Any]:
        """How many parts."""
        return {"parts": len(self.parts)}

    def arrays(self) -> dict[str, np.ndarray]:
        """Starts and all parts."""
        found = {"starts": self.starts.numpy()}
        for k, part in enumerate(self.parts):
            found |= {f"part{k}/{name}": values for name, values in part.arrays().items()}
        return found

    @classmethod
    def restore(cls, description: Mapping[str, Any], arrays: Mapping[str, np.ndarray], problem: Any = None) -> Any:
        """From `describe` and `arrays`."""
        parts = []
        for k in range(description["parts"]):
            prefix = f"part{k}/"
            own = {name.removeprefix(prefix): v for name, v in arrays.items() if name.startswith(prefix)}
            parts.append(PatchField.restore({}, own))
        return cls(arrays["starts"].tolist(), parts)
