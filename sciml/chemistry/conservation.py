"""Exact conservation of elements, and so of mass, without a negative fraction.

A proposed composition y* >= 0 is moved onto the elements of the old one by weighted least squares, with species that
are abundant moved most: y = y* + w E lambda, w = y* + y0, with (E^T W E) lambda = b - E^T y*. Where that would make a
fraction negative, the step is shortened: y0 + theta (y - y0) has the right elements for every theta, as both ends have.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

__all__ = ["Conservation"]


class Conservation(nn.Module):
    """Projection of reactive fractions onto given moles of elements.

    Args:
        atoms: (r, e) kmol of each element in a kilogram of each reactive species, of full column rank.
        tolerance: relative defect above which a state that cannot be corrected (a mixture whose species cannot change
            the ratio of its elements) is left as it was.
    """

    atoms: Tensor

    def __init__(self, atoms: Tensor, tolerance: float = 1e-13):
        super().__init__()
        self.register_buffer("atoms", atoms.clone())
        self.tolerance = tolerance

    def moles(self, y: Tensor) -> Tensor:
        """Moles (kmol) of each element in a kilogram, (n, e)."""
        return y @ self.atoms

    def forward(self, old: Tensor, proposed: Tensor, elements: Tensor) -> Tensor:
        """Fractions (n, r) with the elements (n, e) of `old`, near to `proposed`, none of them negative."""
        weight = old + proposed
        gram = torch.einsum("nr,re,rf->nef", weight, self.atoms, self.atoms)
        scale = torch.diagonal(gram, dim1=1, dim2=2).clamp_min(1e-300).rsqrt()
        matrix = gram * scale[:, :, None] * scale[:, None, :]
        y = proposed
        for _ in range(2):  # the second pass removes what rounding left
            multipliers = _solve(matrix, (elements - self.moles(y)) * scale) * scale
            y = y + weight * (multipliers @ self.atoms.T)
        reached = ((elements - self.moles(y)).abs() <= self.tolerance * elements + 1e-18).all(1, keepdim=True)
        change = torch.where(reached, y - old, torch.zeros_like(y))
        # zero of nothing is no limit: a fraction that does not fall allows the whole step
        allowed = torch.where(change < 0, old / (-change).clamp_min(1e-300), torch.ones_like(change))
        theta = allowed.amin(1, keepdim=True).clamp(max=1.0)
        return (old + theta * change).clamp_min(0.0)


def _solve(matrix: Tensor, right: Tensor) -> Tensor:
    """Solve small positive definite systems (n, e, e) by Cholesky's factors, written out so that graphs can hold it."""
    e = right.shape[1]
    lower: list[list[Tensor]] = []
    for i in range(e):
        row: list[Tensor] = []
        for j in range(i + 1):
            total = matrix[:, i, j]
            for k in range(j):
                total = total - row[k] * (row[k] if i == j else lower[j][k])
            # 1e-13: the rank of a mixture of one species only
            row.append((total + 1e-13).clamp_min(1e-13).sqrt() if i == j else total / lower[j][j])
        lower.append(row)
    forward: list[Tensor] = []
    for i in range(e):
        total = right[:, i]
        for k in range(i):
            total = total - lower[i][k] * forward[k]
        forward.append(total / lower[i][i])
    back: list[Tensor] = [right[:, 0]] * e
    for i in reversed(range(e)):
        total = forward[i]
        for k in range(i + 1, e):
            total = total - lower[k][i] * back[k]
        back[i] = total / lower[i][i]
    return torch.stack(back, 1)
