"""The linear algebra of features: rows of all equations, their QR or Cholesky factor, and its nested solutions."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from scipy.linalg.blas import dsyrk
from torch import Tensor

from sciml.conditions import Periodic
from sciml.solvers.collocation import Block, Collocation, Rows, Values
from sciml.solvers.families import Family
from sciml.solvers.featurefield import FeatureField

__all__ = ["UNDETERMINED", "Factor", "Normal", "System"]

UNDETERMINED = "the problem does not determine its solution: something may be added to it"

_CHUNK = 2**24  # numbers in one block of a points x features matrix
_PIECE = 2**18  # numbers in what is evaluated at once


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
        independent: whether features are far enough from dependent for normal equations.
    """

    families: list[Family]
    bandwidth: Tensor
    components: int = 1
    damping: float = 0.0
    order: Tensor | None = None
    independent: bool = False

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

    def factor(self, equations: Sequence[tuple[Block, list[Rows]]]) -> Factor | Normal:
        """The QR of all rows, or the Cholesky factor of the normal equations."""
        if self.independent:
            return Normal(self.rows(equations), self.size * self.components, self.order)
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

    def rows(self, equations: Sequence[tuple[Block, list[Rows]]]) -> Iterator[Tensor]:
        """All rows in blocks ``(m, size + 1)``, each row times the root of its quadrature weight over its scale."""
        width = self.size * self.components
        step, piece = max(1, _CHUNK // max(1, width)), max(1, _PIECE // max(1, width))
        for block, equation in equations:
            for rows in equation:
                w = block.weight.sqrt() / self.scale(block, rows)
                for start in range(0, len(block.x), step):
                    part = slice(start, min(start + step, len(block.x)))
                    found = torch.zeros(part.stop - part.start, width + 1, dtype=torch.float64)
                    for at in range(part.start, part.stop, piece):  # small enough for the cache
                        few = slice(at, min(at + piece, part.stop))
                        self._fill(found[few.start - start : few.stop - start], block, rows, few, w[few])
                    found[:, -1] = w[part] * rows.rhs[part]
                    yield found

    def matrix(self, equations: Sequence[tuple[Block, list[Rows]]]) -> Tensor:
        """All `rows`."""
        height = sum(len(block.x) * len(rows) for block, rows in equations)
        out = torch.empty(height, self.size * self.components + 1, dtype=torch.float64)
        at = 0
        for part in self.rows(equations):
            out[at : at + len(part)] = part
            at += len(part)
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
        # two features that agree in every row to the last digit: as good as zero, but not a divisor
        diagonal = self.triangle.diagonal()[:-1]
        diagonal[diagonal == 0] = torch.finfo(matrix.dtype).eps

    def solve(self, columns: int | None = None) -> Tensor:
        """Coefficients ``(size,)``, zero beyond the first columns; None takes all."""
        columns = self.size if columns is None else columns
        r = self.triangle[:columns, :columns]
        c = torch.linalg.solve_triangular(r, self.triangle[:columns, -1:], upper=True)[:, 0]
        full = torch.zeros(self.size, dtype=c.dtype)
        full[slice(columns) if self.order is None else self.order[:columns]] = c / self.norms[:columns]
        return full


class Normal:
    """Cholesky factor of the normal equations, with the face of `Factor`.

    Of a matrix of condition k it loses as many digits as k has, where QR loses none that matter; but it takes a third
    of the time, and rows are used as they come and never kept. For features that are far from dependent.

    Args:
        rows: of the matrix, right-hand side last, in blocks.
        size: number of its columns without the right-hand side.
        order: see `Factor`.
    """

    damped = False

    def __init__(self, rows: Iterable[Tensor], size: int, order: Tensor | None = None) -> None:
        self.order = order
        gram = np.zeros((size + 1, size + 1), order="F")
        for part in rows:
            if order is not None:
                part = part[:, torch.cat([order, torch.tensor([size])])]
            # the upper triangle of part^T part, in place
            gram = dsyrk(1.0, part.numpy().T, 1.0, gram, overwrite_c=1)
        square = torch.from_numpy(gram.T)  # lower triangle
        self.size = size
        self.norms = square.diagonal()[:-1].sqrt()
        self.free = bool((self.norms < 1e-12 * self.norms.max()).any())
        self.norms[self.norms == 0] = 1.0
        square[:-1] /= self.norms[:, None]
        square[:, :-1] /= self.norms
        shift = 0.0
        while True:
            # rounding makes the least eigenvalues negative once features are nearly dependent
            lower, failed = torch.linalg.cholesky_ex(square[:-1, :-1])
            if not int(failed):
                break
            shift = 4 * shift if shift else 1e-15 * math.sqrt(size)
            square.diagonal()[:-1] = 1 + shift
        y = torch.linalg.solve_triangular(lower, square[-1:, :-1].T, upper=False)
        self.triangle = torch.zeros(size + 1, size + 1, dtype=torch.float64)
        self.triangle[:-1, :-1], self.triangle[:-1, -1:] = lower.T, y

    def solve(self, columns: int | None = None) -> Tensor:
        """Coefficients ``(size,)``, zero beyond the first columns; None takes all."""
        columns = self.size if columns is None else columns
        r = self.triangle[:columns, :columns]
        full = torch.zeros(self.size, dtype=torch.float64)
        c = torch.linalg.solve_triangular(r, self.triangle[:columns, -1:], upper=True)[:, 0]
        full[slice(columns) if self.order is None else self.order[:columns]] = c / self.norms[:columns]
        return full
