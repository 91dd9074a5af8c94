"""The linear algebra of features: rows of all equations in one matrix, its QR, and the nested solutions in it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from sciml.conditions import Periodic
from sciml.solvers.collocation import Block, Collocation, Rows, Values
from sciml.solvers.families import Family
from sciml.solvers.featurefield import FeatureField

__all__ = ["UNDETERMINED", "Factor", "System"]

UNDETERMINED = "the problem does not determine its solution: something may be added to it"

_CHUNK = 2**24  # numbers in one block of a points x features matrix


@dataclass
class System:
    """Rows of all blocks for a list of families, with a last column for the right-hand side.

    Attributes:
        families: the features of every component.
        bandwidth: ``(d,)``; rows are scaled by the size of their operator on a wave of these wavenumbers.
        components: number of unknown functions.
        damping: Tikhonov's parameter for columns of length one; keeps coefficients moderate where features are nearly
            dependent and singular.
        order: of the columns in nested systems, see `Factor`.
    """

    families: list[Family]
    bandwidth: Tensor
    components: int = 1
    damping: float = 0.0
    order: Tensor | None = None

    @property
    def size(self) -> int:
        """Number of features."""
        return sum(f.size for f in self.families)

    def field(self, coefficients: Tensor) -> FeatureField:
        """From coefficients in the order of the columns."""
        return FeatureField(self.families, coefficients.reshape(self.components, -1).T.contiguous())

    def values(self, collocation: Collocation, block: Block, field: FeatureField | None) -> Values | None:
        """The derivatives of a field that a block's equations see; None without a field or where they do not matter."""
        if field is None or isinstance(block.condition, Periodic):
            return None
        return {i: field.derivative(block.x, {i: 1.0}) for i in collocation.indices_of(block)}

    def factor(self, equations: Sequence[tuple[Block, list[Rows]]]) -> Factor:
        """The QR of all rows."""
        return Factor(self.matrix(equations), self.damping, self.order)

    def scale(self, block: Block, rows: Rows) -> Tensor:
        """The operator's size at the bandwidth, ``(n,)``."""
        total = sum(
            w.abs() * float(self.bandwidth[list(i)].prod()) for operator in rows.operators for i, w in operator.items()
        )
        total = torch.as_tensor(total)
        # where the equation degenerates, its rows must not outweigh all others
        floor = 0.01 * float(total.mean()) if total.numel() else 0.0
        return total.clamp_min(floor or 1.0)

    def matrix(self, equations: Sequence[tuple[Block, list[Rows]]]) -> Tensor:
        """All rows, each times the root of its quadrature weight over its scale."""
        height = sum(len(block.x) * len(rows) for block, rows in equations)
        width = self.size * self.components
        out = torch.zeros(height, width + 1, dtype=torch.float64)
        step = max(1, _CHUNK // max(1, self.size))
        at = 0
        for block, equation in equations:
            for rows in equation:
                scale = self.scale(block, rows)
                w = block.weight.sqrt() / scale
                for start in range(0, len(block.x), step):
                    part = slice(start, min(start + step, len(block.x)))
                    target = out[at + part.start : at + part.stop]
                    self._fill(target, block, rows, part, w[part])
                out[at : at + len(block.x), -1] = w * rows.rhs
                at += len(block.x)
        return out

    def _fill(self, target: Tensor, block: Block, rows: Rows, part: slice, w: Tensor) -> None:
        left = 0
        for operator in rows.operators:
            cut = {i: weight[part] * w for i, weight in operator.items()}
            for family in self.families:
                if cut:
                    columns = family.apply(block.x[part], cut)
                    if rows.opposite and block.partner is not None:
                        columns = columns - family.apply(block.partner[part], cut)
                    target[:, left : left + family.size] = columns
                left += family.size


class Factor:
    """QR of a matrix whose last column is the right-hand side; solutions with the first k columns for every k.

    Args:
        matrix: is overwritten.
        damping: see `System`.
        order: the columns, from the first to the last; None takes them as they are.
    """

    def __init__(self, matrix: Tensor, damping: float = 0.0, order: Tensor | None = None) -> None:
        self.order = order
        if order is not None:
            matrix = matrix[:, torch.cat([order, torch.tensor([len(order)])])]
        self.norms = torch.linalg.vector_norm(matrix[:, :-1], dim=0)
        #: whether a feature satisfies all homogeneous equations, so that the problem does not determine its share
        self.free = bool((self.norms < 1e-12 * self.norms.max()).any())
        self.norms[self.norms == 0] = 1.0
        matrix[:, :-1] /= self.norms
        self.size, self.damped = len(self.norms), damping > 0
        if damping:
            rows = torch.zeros(self.size, self.size + 1, dtype=matrix.dtype)
            rows.fill_diagonal_(damping)
            matrix = torch.cat([matrix, rows])
        self.triangle = torch.linalg.qr(matrix, mode="r").R

    def solve(self, columns: int | None = None) -> Tensor:
        """Coefficients ``(size,)``, zero beyond the first columns; None takes all."""
        columns = self.size if columns is None else columns
        r = self.triangle[:columns, :columns]
        c = torch.linalg.solve_triangular(r, self.triangle[:columns, -1:], upper=True)[:, 0]
        full = torch.zeros(self.size, dtype=c.dtype)
        full[slice(columns) if self.order is None else self.order[:columns]] = c / self.norms[:columns]
        return full
