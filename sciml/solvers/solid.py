"""Solid harmonics: the harmonic functions in a ball and outside of one, with all derivatives.

    R_lm = r^l P_lm(cos theta) exp(i m phi) / (l + m)!        I_lm = (l - m)! P_lm(cos theta) exp(i m phi) / r^(l + 1)

In this scaling a derivative of one is another one, d/dz R_lm = R_(l-1)m, (d/dx +- i d/dy) R_lm = +-R_(l-1)(m +- 1), and
d/dz I_lm = -I_(l+1)m, (d/dx +- i d/dy) I_lm = +-I_(l+1)(m +- 1) (Hobson, Spherical and Ellipsoidal Harmonics, 1931).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from itertools import product
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from sciml.solvers.families import Operator, column

__all__ = ["SolidHarmonics", "reflections"]

Table = dict[tuple[int, int], Tensor]


class SolidHarmonics:
    """Real and imaginary parts of R_lm or I_lm, l = 0 .. degree, m = 0 .. l, summed over mirror images.

    Column j is sum_k sign_k h_j((turn_k x + shift_k - center) / scale), turn_k a reflection in coordinate planes.

    Args:
        center: ``(3,)``.
        scale: length.
        degree: largest l.
        outward: I_lm, singular at the center, instead of R_lm.
        images: ``(m, 7)``: turn, shift and sign of every image; see `reflections`.
    """

    kind: ClassVar[str] = "solid harmonics"

    def __init__(self, center: Tensor, scale: float, degree: int, outward: bool, images: Tensor) -> None:
        self.center, self.scale, self.degree, self.outward, self.images = center, scale, degree, outward, images
        self.size = (degree + 1) ** 2

    def apply(self, x: Tensor, operator: Operator) -> Tensor:
        """See `Family`."""
        order = max(map(len, operator), default=0)
        total = torch.zeros(len(x), self.size, dtype=x.dtype)
        for turn, shift, sign in zip(self.images[:, :3], self.images[:, 3:6], self.images[:, 6].tolist(), strict=True):
            y = (x * turn + shift - self.center) / self.scale
            # derivatives of I ascend in l
            table = _outer(y, self.degree + order) if self.outward else _inner(y, self.degree)
            for index, weight in operator.items():
                factor = sign * float(turn[list(index)].prod()) / self.scale ** len(index)
                total += factor * column(weight, x) * self._columns(table, index)
        return total

    def _columns(self, table: Table, index: tuple[int, ...]) -> Tensor:
        found = []
        for l in range(self.degree + 1):  # noqa: E741
            # of size one on the unit sphere
            size = 1 / math.factorial(l) if self.outward else float(math.factorial(l))
            for m in range(l + 1):
                value = self._derivative(table, l, m, index) * size
                found += [value.real, value.imag] if m else [value.real]
        return torch.stack(found, 1)

    def _derivative(self, table: Table, l: int, m: int, index: tuple[int, ...]) -> Tensor:  # noqa: E741
        if abs(m) > l or l < 0:
            return torch.zeros_like(table[0, 0])
        if not index:
            return table[l, m] if m >= 0 else (-1) ** m * table[l, -m].conj()
        step = 1 if self.outward else -1
        axis, rest = index[0], index[1:]
        if axis == 2:
            return -step * self._derivative(table, l + step, m, rest)
        plus = self._derivative(table, l + step, m + 1, rest)
        minus = -self._derivative(table, l + step, m - 1, rest)
        return (plus + minus) / 2 if axis == 0 else (plus - minus) / 2j

    def arrays(self) -> dict[str, np.ndarray]:
        """Center, images, and scale, degree, kind as numbers."""
        numbers = np.array([self.scale, float(self.degree), float(self.outward)])
        return {"center": self.center.numpy(), "images": self.images.numpy(), "numbers": numbers}

    @classmethod
    def restore(cls, arrays: Mapping[str, np.ndarray]) -> SolidHarmonics:
        """From `arrays`."""
        scale, degree, outward = np.asarray(arrays["numbers"]).tolist()
        center, images = (torch.as_tensor(arrays[k]) for k in ("center", "images"))
        return cls(center, scale, int(degree), outward > 0, images)


def reflections(center: Tensor, reach: float, lower: Tensor, upper: Tensor) -> Tensor:
    """The identity and mirror images in those faces of a box that lie within reach, ``(m, 7)``.

    Signs alternate, so that sums nearly vanish on these faces.

    Args:
        center: ``(3,)``.
        reach: length; 0 leaves nothing but the identity.
        lower: corner of the box.
        upper: opposite corner.
    """
    choices: list[list[float | None]] = []
    for c, ends in zip(center.tolist(), zip(lower.tolist(), upper.tolist(), strict=True), strict=True):
        choices.append([None, *(e for e in ends if abs(e - c) < reach)])
    rows = []
    for places in product(*choices):
        turns = [1.0 if e is None else -1.0 for e in places]
        rows.append([*turns, *(0.0 if e is None else 2 * e for e in places), math.prod(turns)])
    return torch.tensor(rows, dtype=torch.float64)


def _inner(x: Tensor, degree: int) -> Table:
    square, z = x.square().sum(1), x[:, 2]
    q = torch.complex(x[:, 0], x[:, 1])
    found: Table = {(0, 0): torch.ones_like(q)}
    for l in range(degree):  # noqa: E741
        found[l + 1, l + 1] = -q / (2 * (l + 1)) * found[l, l]
        for m in range(l + 1):
            before = square * found[l - 1, m] if m < l else 0.0
            found[l + 1, m] = ((2 * l + 1) * z * found[l, m] - before) / ((l + 1 - m) * (l + 1 + m))
    return found


def _outer(x: Tensor, degree: int) -> Table:
    square, z = x.square().sum(1), x[:, 2]
    q = torch.complex(x[:, 0], x[:, 1])
    found: Table = {(0, 0): torch.complex(square.rsqrt(), torch.zeros_like(square))}
    for l in range(degree):  # noqa: E741
        found[l + 1, l + 1] = -(2 * l + 1) * q / square * found[l, l]
        for m in range(l + 1):
            before = (l * l - m * m) * found[l - 1, m] if m < l else 0.0
            found[l + 1, m] = ((2 * l + 1) * z * found[l, m] - before) / square
    return found
