"""How far a state is from those of a training: ranges, and the mixtures that were met at its temperature.

The fractions that a training meets depend on the temperature: burnt gas is hot, and radicals are few where it is cold.
So states are divided by temperature into parts of equal number, and each part has a mean and a covariance of its own.
The distance is Mahalanobis's over its 99.9 % quantile within the part. One covariance for all would call burnt gas at
the temperature of the fresh charge, of which a network knows nothing, nearer than many states that it has learnt.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

__all__ = ["Familiarity"]

_PARTS = 16  # of equal number, by temperature
_EACH = 10  # rows that a part has for every column, at least
_OUTSIDE = 0.001  # share of the training that is called outside


class Familiarity(nn.Module):
    """The score of states: above 1 is outside.

    Args:
        columns: of the inputs: temperature first, then what else describes a mixture.
        parts: by temperature.
    """

    low: Tensor
    high: Tensor
    borders: Tensor
    centres: Tensor
    whitening: Tensor
    radii: Tensor

    def __init__(self, columns: int, parts: int) -> None:
        super().__init__()
        shapes = {
            "low": (columns,),
            "high": (columns,),
            "borders": (parts - 1,),
            "centres": (parts, columns),
            "whitening": (parts, columns, columns),
            "radii": (parts,),
        }
        for name, shape in shapes.items():
            self.register_buffer(name, torch.zeros(shape, dtype=torch.float64))

    @classmethod
    def fit(cls, u: Tensor) -> Familiarity:
        """From the standardised inputs of a training (n, columns)."""
        parts = max(1, min(_PARTS, len(u) // (_EACH * u.shape[1])))
        found = cls(u.shape[1], parts)
        found.low.copy_(u.amin(0))
        found.high.copy_(u.amax(0))
        order = u[:, 0].sort().values
        found.borders.copy_(order[[k * len(u) // parts for k in range(1, parts)]])
        part = found.part(u)
        for k in range(parts):
            # equal temperatures may leave a part empty, which no state falls into either
            rows = u[part == k] if bool((part == k).any()) else u
            spread, axes = torch.linalg.eigh(torch.cov(rows.T).reshape(u.shape[1], -1))
            # directions that hardly vary (fractions add up to one) say nothing on distance
            useful = spread > 1e-8 * spread.amax()
            found.centres[k] = rows.mean(0)
            found.whitening[k] = axes * torch.where(useful, spread.clamp_min(1e-300).rsqrt(), 0.0)
            lengths = found.lengths(rows)[:, k]
            found.radii[k] = lengths.kthvalue(max(1, round((1 - _OUTSIDE) * len(rows)))).values.clamp_min(1e-12)
        return found

    def part(self, u: Tensor) -> Tensor:
        """Which part the temperature of each row belongs to, (n,)."""
        return (u[:, :1] >= self.borders).sum(1)

    def lengths(self, u: Tensor) -> Tensor:
        """Mahalanobis's distances of u (n, columns) from every part, (n, parts)."""
        parts, columns = self.centres.shape
        shifts = (self.centres[:, None] @ self.whitening).reshape(-1)
        whitened = u @ self.whitening.permute(1, 0, 2).reshape(columns, -1) - shifts
        return whitened.reshape(-1, parts, columns).square().sum(2).sqrt()

    def forward(self, u: Tensor) -> Tensor:
        """The larger of the distance and, where an input leaves its range, 1 and the excess in units of the range."""
        # an input that never changed has a range of rounding only
        span = (self.high - self.low).clamp_min(1e-3)
        beyond = (torch.maximum(self.low - u, u - self.high) / span).amax(1)
        distance = (self.lengths(u) / self.radii).gather(1, self.part(u)[:, None])[:, 0]
        score = torch.where(beyond > 1e-6, torch.maximum(1 + beyond, distance), distance)
        return torch.where(score < torch.inf, score, torch.inf)  # what is not a number is not familiar
