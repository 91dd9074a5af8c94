"""Exact conservation of elements, and so of mass, without a negative fraction.

A proposed composition y* >= 0 is moved onto the elements of the old one by weighted least squares, with species that
are abundant moved most: y = y* + w E lambda, w = y* + y0, with (E^T W E) lambda = b - E^T y*. Where that would make a
fraction negative, the step is shortened: y0 + theta (y - y0) has the right elements for every theta, as both ends have.

Species of an element that the mixture lacks stay as they are, as the carbon of GRI-3.0 where hydrogen burns: a network
proposes traces of them, which no multipliers remove, and shortening the step to none of them would leave no step.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from sciml.chemistry.states import lacking
from sciml.chemistry.thermo import recorded

__all__ = ["Conservation", "shortened"]


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

    def impossible(self, elements: Tensor) -> Tensor | None:
        """Which species (n, r) hold an element of which mixtures have none (n, e); None where no mixture lacks any."""
        none = lacking(elements, self.atoms)
        if not recorded() and not bool(none.any()):
            return None
        return (none.to(elements.dtype) @ (self.atoms > 0).to(elements.dtype).T) > 0

    def forward(self, old: Tensor, proposed: Tensor, elements: Tensor) -> Tensor:
        """Fractions (n, r) with the elements (n, e) of `old`, near to `proposed`, none of them negative."""
        # small systems as rows over the states, since passes along many states are the fast ones
        e, y = self.atoms.shape[1], proposed
        weight = old + y
        if (impossible := self.impossible(elements)) is not None:
            y, weight = torch.where(impossible, old, y), torch.where(impossible, 0.0, weight)
        pairs = [(i, j) for i in range(e) for j in range(i + 1)]
        first, second = (torch.tensor(side, device=y.device) for side in zip(*pairs, strict=True))
        gram = (self.atoms.index_select(1, first) * self.atoms.index_select(1, second)).T @ weight.T
        wanted = elements.T
        diagonal = [i * (i + 3) // 2 for i in range(e)]
        # zero for an element that nothing may change
        scale = [torch.where(gram[k] > 0, gram[k].clamp_min(1e-300).rsqrt(), 0.0) for k in diagonal]
        lower = _cholesky([[gram[i * (i + 1) // 2 + j] * scale[i] * scale[j] for j in range(i + 1)] for i in range(e)])
        scales = torch.stack(scale)
        for _ in range(2):  # the second pass removes what rounding left
            multipliers = _solve(lower, (wanted - self.atoms.T @ y.T) * scales) * scales
            y = torch.addcmul(y, weight, multipliers.T @ self.atoms.T)
        defect = (wanted - self.atoms.T @ y.T).abs()
        reached = (defect <= self.tolerance * wanted + 1e-18).all(0)
        y = torch.where(reached[:, None], y, old)
        return shortened(old, y)


def shortened(old: Tensor, new: Tensor) -> Tensor:
    """A step between fractions (n, r), shortened, if it must be, to where the first of them is zero."""
    theta = torch.where(new < 0, old / (old - new).clamp_min(1e-300), 1.0).amin(1, keepdim=True)
    return torch.lerp(old, new, theta).clamp_min(0.0)  # `lerp` is exact at both ends


def _cholesky(matrix: list[list[Tensor]]) -> list[list[Tensor]]:
    """Rows of the lower factor of small positive definite systems, written out so that graphs can hold it.

    The diagonal holds reciprocals.
    """
    lower: list[list[Tensor]] = []
    for i, given in enumerate(matrix):
        row: list[Tensor] = []
        for j in range(i + 1):
            total = given[j]
            for k in range(j):
                total = total - row[k] * (row[k] if i == j else lower[j][k])
            # 1e-13: the rank of a mixture of one species only
            row.append((total + 1e-13).clamp_min(1e-13).rsqrt() if i == j else total * lower[j][j])
        lower.append(row)
    return lower


def _solve(lower: list[list[Tensor]], right: Tensor) -> Tensor:
    """Solutions (e, n) of the systems with a factor of `_cholesky` and right-hand sides (e, n)."""
    e = len(lower)
    out = list(right.unbind(0))
    for i in range(e):
        for k in range(i):
            out[i] = out[i] - lower[i][k] * out[k]
        out[i] = out[i] * lower[i][i]
    for i in reversed(range(e)):
        for k in range(i + 1, e):
            out[i] = out[i] - lower[k][i] * out[k]
        out[i] = out[i] * lower[i][i]
    return torch.stack(out)
