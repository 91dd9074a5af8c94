"""A QR of sparse rows that never forms what is zero.

Columns come in cells, and a row sees a few of these. Cells are eliminated in groups, the two sides of a cut before the
cells along it (nested dissection): the rows that see a group are stacked and factorised, the part that holds the
group's own columns is put aside, and what remains are rows for its neighbours. Orthogonal transformations keep the
digits that normal equations would square away.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

__all__ = ["SparseFactor"]


class SparseFactor:
    """Multifrontal QR of rows that see a few cells each.

    Args:
        blocks: rows ``(n, cells * width + 1)`` with the cells whose columns they hold, the right-hand side last.
        cells: number of cells.
        width: columns of a cell.
        damping: Tikhonov's parameter for columns of length one.
        places: centers of the cells.
    """

    def __init__(
        self,
        blocks: Sequence[tuple[tuple[int, ...], Tensor]],
        cells: int,
        width: int,
        damping: float,
        places: Tensor,
    ) -> None:
        self.cells, self.width = cells, width
        self.size = cells * width
        squares = torch.zeros(cells, width, dtype=torch.float64)
        for owners, rows in blocks:
            squares.index_add_(0, torch.tensor(owners), rows[:, :-1].square().sum(0).reshape(len(owners), width))
        self.norms = squares.sqrt()
        self.norms[self.norms == 0] = 1.0
        groups = _dissection([owners for owners, _ in blocks], cells, places)
        rank = {c: k for k, group in enumerate(groups) for c in group}
        waiting: list[list[tuple[tuple[int, ...], Tensor]]] = [[] for _ in groups]
        for owners, rows in blocks:
            scaled = rows.clone()
            scaled[:, :-1] /= self.norms[list(owners)].reshape(-1)
            waiting[min(rank[c] for c in owners)].append((owners, scaled))
        #: per group of cells eliminated at once: all cells of its rows, the group first; its rows of R
        self.parts: list[tuple[int, tuple[int, ...], Tensor]] = []
        left = 0.0
        for k, group in enumerate(groups):
            left += self._eliminate(group, waiting[k], waiting, rank, damping)
            waiting[k] = []
        #: norm of what is left of the right-hand side, relative to it
        self.gap = math.sqrt(left / (sum(float(rows[:, -1].square().sum()) for _, rows in blocks) or 1.0))

    def _eliminate(self, group: list[int], mine: list, waiting: list, rank: dict[int, int], damping: float) -> float:
        width, own = self.width, len(group) * self.width
        others = sorted({c for owners, _ in mine for c in owners} - set(group), key=rank.__getitem__)
        columns = (*group, *others)
        at = {c: k * width for k, c in enumerate(columns)}
        stack = torch.zeros(sum(len(r) for _, r in mine) + own, len(columns) * width + 1, dtype=torch.float64)
        stack[:own, :own].fill_diagonal_(damping)
        top = own
        for owners, rows in mine:
            part = stack[top : top + len(rows)]
            for k, c in enumerate(owners):
                part[:, at[c] : at[c] + width] += rows[:, k * width : (k + 1) * width]
            part[:, -1] = rows[:, -1]
            top += len(rows)
        r = torch.linalg.qr(stack, mode="r").R
        self.parts.append((len(group), columns, r[:own]))
        rest = r[own : len(columns) * width, own:]  # without the row of the residual itself
        if others and len(rest):
            waiting[rank[others[0]]].append((tuple(others), rest))
        return float(r[len(columns) * width :, -1].square().sum())

    def solve(self) -> Tensor:
        """Coefficients ``(size,)``."""
        x = torch.zeros(self.cells, self.width, dtype=torch.float64)
        for count, columns, r in reversed(self.parts):
            own = count * self.width
            rhs = r[:, -1] - r[:, own:-1] @ x[list(columns[count:])].reshape(-1)
            found = torch.linalg.solve_triangular(r[:, :own], rhs[:, None], upper=True)
            x[list(columns[:count])] = found.reshape(count, self.width)
        return (x / self.norms).reshape(-1)

    def least(self, vectors: Tensor) -> Tensor:
        """The least norm of the homogeneous rows over coefficients c with v . c = 1, for rows v ``(n, size)``."""
        v = vectors.reshape(-1, self.cells, self.width) / self.norms
        total = torch.zeros(len(v), dtype=v.dtype)
        for count, columns, r in self.parts:
            own = count * self.width
            y = torch.linalg.solve_triangular(r[:, :own].T, v[:, list(columns[:count])].flatten(1).T, upper=False)
            total += y.square().sum(0)
            v[:, list(columns[count:])] -= (r[:, own:-1].T @ y).T.reshape(len(v), -1, self.width)
        return total.rsqrt()


def _dissection(sets: Sequence[tuple[int, ...]], cells: int, places: Tensor) -> list[list[int]]:
    """Groups of cells in an order of elimination that keeps fronts small: both sides of a cut, then the cut.

    Args:
        sets: cells that share rows.
        cells: their number.
        places: their centers.
    """
    near = torch.zeros(cells, cells, dtype=torch.bool)
    for owners in set(sets):
        k = torch.tensor(owners)
        near[k[:, None], k] = True

    def order(group: Tensor) -> list[list[int]]:
        x = places[group]
        axis = int((x.amax(0) - x.amin(0)).argmax())
        ranked = group[x[:, axis].argsort(stable=True)]
        low, high = ranked[: len(group) // 2], ranked[len(group) // 2 :]
        cut = near[low[:, None], high].any(1)
        if len(group) < 3 or bool(cut.all()):
            return [group.tolist()]
        if not bool(cut.any()):
            return order(low) + order(high)
        return [*order(low[~cut]), *order(high), low[cut].tolist()]

    return order(torch.arange(cells))
