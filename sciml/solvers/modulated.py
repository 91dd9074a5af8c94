"""Waves with polynomial envelopes: the features of functions whose spectrum is a few peaks.

An envelope of degree q adds the wavenumbers around a peak that a smooth amplitude needs; on a ball of radius R its
(q + 1)(q + 2)(q + 3) / 6 functions do what a lattice of waves as wide as q / R would do.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from sciml.solvers.families import VALUE, Operator, Polynomials, column, degrees_up_to

__all__ = ["Modulated"]


class Modulated:
    """P_a(x) cos k . (x - c) and P_a(x) sin k . (x - c), of total degree |a| up to one that each k has for itself.

    Columns are those of the first wavenumber, cosines of all a before sines, then those of the next; k = 0 has no
    sines. P_a are products of Legendre polynomials on a box, c is its middle.

    Args:
        wavenumbers: ``(m, d)``, angular.
        degrees: ``(m,)`` whole numbers.
        lower: corner of the box.
        upper: opposite corner.
    """

    kind: ClassVar[str] = "modulated"

    def __init__(self, wavenumbers: Tensor, degrees: Tensor, lower: Tensor, upper: Tensor) -> None:
        self.wavenumbers, self.degrees, self.lower, self.upper = wavenumbers, degrees, lower, upper
        indices = degrees_up_to(int(degrees.max()), wavenumbers.shape[1])
        self.envelopes = Polynomials(indices, lower, upper)
        total = indices.sum(1)
        #: number of envelopes of every wavenumber, and whether it has sines
        self.counts = [int((total <= q).sum()) for q in degrees.tolist()]
        self.moving = (wavenumbers != 0).any(1).tolist()
        self.size = sum(n * (1 + moving) for n, moving in zip(self.counts, self.moving, strict=True))

    @property
    def orders(self) -> tuple[Tensor, Tensor]:
        """The index of the wavenumber and the total degree of every column, each ``(size,)``."""
        total = self.envelopes.degrees.sum(1)
        owner, degree = [], []
        for k, (n, moving) in enumerate(zip(self.counts, self.moving, strict=True)):
            copies = 1 + moving
            owner.append(torch.full((n * copies,), k))
            degree.append(total[:n].repeat(copies))
        return torch.cat(owner), torch.cat(degree)

    def apply(self, x: Tensor, operator: Operator) -> Tensor:
        """See `Family`; derivatives of order two at most, by the product rule."""
        d = x.shape[1]
        k = self.wavenumbers
        phase = (x - (self.lower + self.upper) / 2) @ k.T
        cosine, sine = torch.cos(phase), torch.cos(phase - torch.pi / 2)
        # the operator on P cos: (D P - second P) cos - (first P + sum_i mixed_i d_i P) sin
        second, first = torch.zeros_like(phase), torch.zeros_like(phase)
        mixed: dict[int, Tensor] = {}
        for index, weight in operator.items():
            w = column(weight, x)
            if len(index) == 1:
                first += w * k[:, index[0]]
            elif len(index) == 2:
                i, j = index
                second += w * (k[:, i] * k[:, j])
                mixed[i] = mixed.get(i, 0.0) + w * k[:, j]
                mixed[j] = mixed.get(j, 0.0) + w * k[:, i]
        envelope = self.envelopes.apply(x, VALUE)
        outer = self.envelopes.apply(x, operator)
        slopes = {i: self.envelopes.apply(x, {(i,): 1.0}) for i in range(d) if i in mixed}
        result = torch.empty(len(x), self.size, dtype=x.dtype)
        plain = set(operator) == {()}
        at = 0
        for j, (n, moving) in enumerate(zip(self.counts, self.moving, strict=True)):
            even = outer[:, :n]
            if not moving:
                result[:, at : at + n] = even
                at += n
                continue
            c, s = cosine[:, j : j + 1], sine[:, j : j + 1]
            if plain:
                result[:, at : at + n], result[:, at + n : at + 2 * n] = even * c, even * s
            else:
                even = even - second[:, j : j + 1] * envelope[:, :n]
                odd = first[:, j : j + 1] * envelope[:, :n]
                for i, slope in slopes.items():
                    odd += mixed[i][:, j : j + 1] * slope[:, :n]
                result[:, at : at + n] = even * c - odd * s
                result[:, at + n : at + 2 * n] = even * s + odd * c
            at += 2 * n
        return result

    def arrays(self) -> dict[str, np.ndarray]:
        """Wavenumbers, degrees and box."""
        return {k: getattr(self, k).numpy() for k in ("wavenumbers", "degrees", "lower", "upper")}

    @classmethod
    def restore(cls, arrays: Mapping[str, np.ndarray]) -> Modulated:
        """From `arrays`."""
        return cls(*(torch.as_tensor(arrays[k]) for k in ("wavenumbers", "degrees", "lower", "upper")))
