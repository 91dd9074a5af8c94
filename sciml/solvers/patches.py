"""Least squares with features that live on patches: the points, and rows that hold no zeros.

A row of the linear system sees only the few cells whose windows cover its point. Points with the same cells are kept
together as one dense block, and the blocks are what `multifrontal` factorises. A Tikhonov term for columns of length
one keeps moderate what no row determines, as in a cell that the domain hardly touches.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sciml.conditions import Data, Periodic
from sciml.domain import Box
from sciml.solvers.collocation import Block, Collocation, Rows, Values
from sciml.solvers.cover import Cover, Pairs
from sciml.solvers.families import Indices
from sciml.solvers.multifrontal import SparseFactor
from sciml.solvers.patchfield import Patches, PatchField

__all__ = ["PatchSystem", "gauss", "patch_blocks"]


# -------------------------------------------------------------------------------------------------------------- points


def patch_blocks(collocation: Collocation, cover: Cover, features: int) -> list[Block]:
    """Points of the equation and of every condition, about twice as many a cell as it has features."""
    d = cover.lower.shape[1]
    count = math.ceil((2.0 * features) ** (1 / d))
    problem = collocation.problem
    x, weight = _inside(problem.domain, cover, count, features)
    found = [Block(x, weight, given=collocation.coefficients(x))]
    points, normals, labels, weights = _edge(problem.domain, cover, count)
    for condition, mask in problem.partition(points, labels):
        if bool(mask.any()):
            found.append(collocation.edge_block(condition, points[mask], normals[mask], weights[mask]))
    found += [collocation.data_block(c) for c in problem.conditions if isinstance(c, Data)]
    return found


def gauss(count: int, d: int) -> tuple[Tensor, Tensor]:
    """Points ``(count^d, d)`` of a product rule on [0, 1]^d and weights that add up to one."""
    y, w = (torch.as_tensor(a) for a in np.polynomial.legendre.leggauss(count))
    if d == 0:
        return torch.zeros(1, 0, dtype=y.dtype), torch.ones(1, dtype=y.dtype)
    points = torch.cartesian_prod(*([(y + 1) / 2] * d)).reshape(-1, d)
    return points, torch.cartesian_prod(*([w / 2] * d)).reshape(-1, d).prod(1)


def _inside(domain: Any, cover: Cover, count: int, features: int) -> tuple[Tensor, Tensor]:
    """Gauss points of every cell; in cells that the boundary cuts, finer ones, of which those inside are kept."""
    y, w = gauss(count, cover.lower.shape[1])
    x = (cover.lower[:, None] + y * cover.sides[:, None]).reshape(-1, y.shape[1])
    weight = (w * cover.sides.prod(1)[:, None]).reshape(-1)
    if isinstance(domain, Box):
        return x, weight
    inside = domain.level(x) > 0
    share = inside.reshape(cover.size, -1).double().mean(1)
    whole = (share == 1)[:, None].expand(-1, len(y)).reshape(-1)
    parts = [(x[whole], weight[whole])]
    for cell in (share < 1).nonzero()[:, 0].tolist():
        finer = min(3 * count, math.ceil(count / max(float(share[cell]), 1e-3) ** (1 / y.shape[1])))
        y, w = gauss(finer, y.shape[1])
        x = cover.lower[cell] + y * cover.sides[cell]
        keep = domain.level(x) > 0
        parts.append((x[keep], w[keep] * cover.sides[cell].prod()))
    return torch.cat([p for p, _ in parts]), torch.cat([q for _, q in parts])


def _edge(domain: Any, cover: Cover, count: int) -> tuple[Tensor, ...]:
    """Boundary points, normals, labels and quadrature weights: where lines along the axes leave the domain.

    In every cell lines pass through Gauss points of the face across, and a crossing counts on the lines along the axis
    that is closest to its normal.
    """
    if isinstance(domain, Box):
        return _faces(domain, cover, count)
    d, steps = domain.dim, 3 * count
    y, w = gauss(count + 2, d - 1)
    along = torch.linspace(-1e-6, 1 + 1e-6, steps + 1, dtype=torch.float64)
    found = []
    for axis in range(d):
        others = [i for i in range(d) if i != axis]
        place = torch.empty(len(y), steps + 1, d, dtype=torch.float64)
        place[..., others], place[..., axis] = y[:, None], along
        line = cover.lower[:, None, None] + place * cover.sides[:, None, None]  # cells, lines, steps, axes
        inside = domain.level(line.reshape(-1, d)).reshape(line.shape[:-1]) > 0
        weight = (w * cover.sides[:, others].prod(1)[:, None])[..., None].expand(-1, -1, steps)
        low, high = slice(None, -1), slice(1, None)
        for here, there in ((low, high), (high, low)):
            leaves = inside[..., here] & ~inside[..., there]
            start, end, share = line[..., here, :][leaves], line[..., there, :][leaves], weight[leaves]
            t, label = domain.crossing(start, end)
            met = t <= 1
            x = start[met] + t[met, None] * (end - start)[met]
            normal = _outward(domain, x)
            closest = (normal.abs().argmax(1) == axis) & (normal[:, axis] != 0)
            tilt = normal[closest, axis].abs()
            found.append((x[closest], normal[closest], label[met][closest], share[met][closest] / tilt))
    return tuple(torch.cat(parts) for parts in zip(*found, strict=True))


def _outward(domain: Any, x: Tensor) -> Tensor:
    """Unit normals at boundary points, down the slope of the level; zero at corners, where there is none."""
    step = 1e-6 * domain.size * torch.eye(x.shape[1], dtype=x.dtype)
    slope = torch.stack([domain.level(x - s) - domain.level(x + s) for s in step], 1)
    length = torch.linalg.vector_norm(slope, dim=1, keepdim=True)
    return torch.where(length > 1e-6 * domain.size, slope / length.clamp_min(1e-300), torch.zeros_like(slope))


def _faces(box: Box, cover: Cover, count: int) -> tuple[Tensor, ...]:
    """Gauss points on the faces of all cells that lie on faces of the box."""
    d = box.dim
    y, w = gauss(count + 2, d - 1)
    found = []
    for label in range(2 * d):
        axis, side = divmod(label, 2)
        place = float(box.bounds[side][axis])
        others = [i for i in range(d) if i != axis]
        near = (cover.upper if side else cover.lower)[:, axis]
        cells = ((near - place).abs() < 1e-9 * cover.sides[:, axis]).nonzero()[:, 0]
        x = torch.full((len(cells), len(y), d), place, dtype=torch.float64)
        x[..., others] = cover.lower[cells][:, None, others] + y * cover.sides[cells][:, None, others]
        weight = w * cover.sides[cells][:, others].prod(1)[:, None]
        n = len(cells) * len(y)
        normal = torch.zeros(n, d, dtype=torch.float64)
        normal[:, axis] = 2.0 * side - 1
        found.append((x.reshape(n, d), normal, torch.full((n,), label), weight.reshape(-1)))
    return tuple(torch.cat(parts) for parts in zip(*found, strict=True))


# -------------------------------------------------------------------------------------------------------------- system


@dataclass
class _Table:
    """Windowed features at the points of a block.

    Attributes:
        pairs: points and cells.
        values: derivative index -> ``(pairs, features)``.
        groups: points with the same cells, these cells, and the rows of both in `values` ``(points, cells)``.
    """

    pairs: Pairs
    values: dict[Indices, Tensor]
    groups: list[tuple[Tensor, tuple[int, ...], Tensor]]


@dataclass
class PatchSystem:
    """Rows of all blocks in the features of patches.

    Attributes:
        collocation: the problem.
        patches: the features.
        damping: Tikhonov's parameter for columns of length one.
        size: number of features of one component.
    """

    collocation: Collocation
    patches: Patches
    damping: float = 1e-12
    _tables: list[tuple[Block, _Table]] = field(default_factory=list)

    @property
    def size(self) -> int:
        """See above."""
        return self.patches.size

    @property
    def components(self) -> int:
        """Number of unknown functions."""
        return self.collocation.components

    def field(self, coefficients: Tensor) -> PatchField:
        """From coefficients in the order of the columns: owner, component, feature."""
        c = coefficients.reshape(self.patches.owners, self.components, -1).transpose(1, 2)
        return PatchField(self.patches, c.reshape(self.size, self.components).contiguous())

    def scale(self, block: Block, rows: Rows) -> Tensor:
        """The operator's size on the fastest feature of the cell ``(n,)``."""
        pairs = self.patches.cover.pairs(block.x, 0)
        k = self.patches.wave / self.patches.cover.sides
        point = pairs.point[:, None].expand(-1, block.x.shape[1])
        wave = torch.zeros_like(block.x).scatter_reduce(0, point, k[pairs.cell], "amax")
        found = torch.zeros_like(rows.rhs)
        for operator in rows.operators:
            for i, w in operator.items():
                found += w.abs() * wave[:, list(i)].prod(1)
        return found

    def values(self, collocation: Collocation, block: Block, field: PatchField | None) -> Values | None:
        """The derivatives of a field that a block's equations see; None where they do not matter."""
        if field is None or isinstance(block.condition, Periodic):
            return None
        indices = collocation.indices_of(block)
        if getattr(field, "patches", None) is not self.patches:
            return {i: field.derivative(block.x, {i: 1.0}) for i in indices}
        table = self._table(block)
        zero = torch.zeros(len(block.x), self.components, dtype=torch.float64)
        local = field.local[table.pairs.cell]
        return {
            i: zero.index_add(0, table.pairs.point, torch.einsum("km,kmc->kc", table.values[i], local)) for i in indices
        }

    def values_at(self, x: Tensor) -> Tensor:
        """Values of the columns of every unknown at points ``(n, d)``: ``(n * components, columns)``."""
        pairs = self.patches.pairs(x, 0)
        w = self.patches.features(pairs, x, [()])[()]
        out = torch.zeros(self.components, len(x), self.patches.owners, self.components, w.shape[1], dtype=w.dtype)
        for c in range(self.components):
            out[c, pairs.point, pairs.cell, c] = w
        return out.reshape(self.components * len(x), -1)

    def tails(self, block: Block, field: PatchField) -> Tensor:
        """How large the two highest degrees are in every cell, shared out over the axes: ``(cells, d)``.

        The mean square is taken over the points of a block, those of the equation, and over at least the whole cell:
        what a polynomial does beyond the domain does not matter, nor does a cell that the domain hardly touches.
        """
        degrees, cover = self.patches.degrees, self.patches.cover
        assert degrees is not None
        total = degrees.sum(1)
        top = total >= total.max() - 1
        table = self._table(block)
        mine = table.pairs.cell < cover.size
        point, cell = table.pairs.point[mine], table.pairs.cell[mine]
        local = field.local[: cover.size, top]
        values = table.values[()][mine][:, top]
        part = torch.einsum("km,kmc->kc", values, local[cell]).square().sum(1)
        weight = block.weight[point]
        zero = torch.zeros(cover.size, dtype=torch.float64)
        square = zero.index_add(0, cell, weight * part)
        covered = zero.index_add(0, cell, weight * table.pairs.window[()][mine].square())
        square /= torch.maximum(covered, cover.sides.prod(1))
        highest = degrees[top].double()
        each = local.square().sum(2) / (2 * highest + 1).prod(1)
        share = each @ (highest.square() / highest.square().sum(1, keepdim=True))
        return (square[:, None] * share / share.sum(1, keepdim=True).clamp_min(1e-300)).sqrt()

    def misfit(self, blocks: Sequence[Block], field: Any) -> float:
        """Norm of what the equations leave of any field at the points of blocks, rows divided by their `scale`."""
        return math.sqrt(sum(float((b.weight * r.square()).sum()) for b, r in self._misfits(blocks, field)))

    def _misfits(self, blocks: Sequence[Block], field: Any) -> Iterator[tuple[Block, Tensor]]:
        for block in blocks:
            if block.partner is not None:
                continue
            values = {i: field.derivative(block.x, {i: 1.0}) for i in self.collocation.indices_of(block)}
            for rows in self.collocation.linearise(block, None if self.collocation.linear else values):
                left = -rows.rhs.clone()
                for c, operator in enumerate(rows.operators):
                    for i, w in operator.items():
                        left += w * values[i][:, c]
                yield block, left / self.scale(block, rows)

    def misfits(self, blocks: Sequence[Block], field: PatchField) -> Tensor:
        """What the equations leave in every cell at fresh points, as a size of u and the same for all axes.

        Rows are divided by their `scale`; the mean square of those of conditions is taken over the edge.
        """
        cover = self.patches.cover
        square = torch.zeros(cover.size, dtype=torch.float64)
        for block, r in self._misfits(blocks, field):
            pairs = cover.pairs(block.x, 0)
            most = torch.zeros(len(block.x), dtype=torch.float64).scatter_reduce(
                0, pairs.point, pairs.window[()], "amax"
            )
            first = pairs.window[()] >= most[pairs.point]
            cell = torch.zeros(len(block.x), dtype=torch.long).index_copy(0, pairs.point[first], pairs.cell[first])
            measure = cover.sides.prod(1) / (cover.sides.amin(1) if block.condition is not None else 1.0)
            square.index_add_(0, cell, block.weight * r.square() / measure[cell])
        return square.sqrt()[:, None].expand(-1, cover.lower.shape[1])

    def rms(self, block: Block, field: PatchField) -> float:
        """Root mean square over the points of a block."""
        u = self.values(self.collocation, block, field)[()]  # type: ignore[index]
        return math.sqrt(float((block.weight * u.square().sum(1)).sum() / block.weight.sum()))

    def _table(self, block: Block) -> _Table:
        for known, table in self._tables:
            if known is block:
                return table
        indices = self.collocation.indices_of(block)
        if block.partner is not None:
            indices = ((), (self.collocation.problem.axis(block.condition),))  # type: ignore[arg-type]
        order = max(map(len, indices))
        pairs = self.patches.pairs(block.x, order)
        values = self.patches.features(pairs, block.x, indices)
        if block.partner is not None:  # what one side says minus what the other does
            there = self.patches.pairs(block.partner, order)
            other = self.patches.features(there, block.partner, indices)
            both = torch.cat([pairs.point, there.point]).sort(stable=True)
            values = {i: torch.cat([values[i], -other[i]])[both.indices] for i in indices}
            window: dict[Indices, Tensor] = {(): torch.cat([pairs.window[()], there.window[()]])[both.indices]}
            pairs = Pairs(both.values, torch.cat([pairs.cell, there.cell])[both.indices], window)
        self._tables.append((block, _Table(pairs, values, _groups(pairs, len(block.x), self.patches.owners))))
        return self._tables[-1][1]

    def factor(self, equations: Sequence[tuple[Block, list[Rows]]]) -> SparseFactor:
        """The QR of all rows, each times the root of its quadrature weight over its scale."""
        blocks: list[tuple[tuple[int, ...], Tensor]] = []
        for block, equation in equations:
            for rows in equation:
                w = block.weight.sqrt() / self.scale(block, rows)
                blocks += self._rows(self._table(block), rows, w)
        p = self.patches
        return SparseFactor(blocks, p.owners, p.width * self.components, self.damping, p.places)

    def _rows(self, table: _Table, rows: Rows, w: Tensor) -> list[tuple[tuple[int, ...], Tensor]]:
        point = table.pairs.point
        parts = []
        for operator in rows.operators:
            part = torch.zeros(len(point), self.patches.width, dtype=torch.float64)
            for i, weight in operator.items():
                part += (weight * w)[point, None] * table.values[i]
            parts.append(part)
        dense = torch.cat(parts, 1)
        return [
            (cells, torch.cat([dense[at].flatten(1), (w * rows.rhs)[points, None]], 1))
            for points, cells, at in table.groups
        ]


def _groups(pairs: Pairs, n: int, cells: int) -> list[tuple[Tensor, tuple[int, ...], Tensor]]:
    """Points with the same cells, see `_Table`; pairs ascend by point. A cell may come twice (periodic conditions)."""
    code = torch.randint(2**62, (cells,), generator=torch.Generator().manual_seed(0))
    key = torch.zeros(n, dtype=torch.long).index_add_(0, pairs.point, code[pairs.cell])
    _, group = key.unique(return_inverse=True)
    counts = torch.bincount(pairs.point, minlength=n)
    first = counts.cumsum(0) - counts
    found = []
    for points in group.argsort(stable=True).split(torch.bincount(group).tolist()):
        at = first[points, None] + torch.arange(int(counts[points[0]]))
        found.append((points, tuple(pairs.cell[at[0]].tolist()), at))
    return found
