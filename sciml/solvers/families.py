"""Families of frozen features: functions with every derivative in closed form, taken as columns of a linear system.

A family never learns anything: it is a list of functions phi_1 .. phi_m, and `apply` gives what a linear differential
operator sum_alpha w_alpha(x) D^alpha makes of each of them at points, an ``(n, m)`` matrix. An operator is a mapping
from derivative indices, () for the value, (0,) for d/dx_0, (0, 1) for d2/dx_0 dx_1, to weights ``(n,)`` or numbers.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import ClassVar, Protocol

import numpy as np
import torch
from torch import Tensor

from sciml.activations import Activation, named

Indices = tuple[int, ...]
Operator = Mapping[Indices, Tensor | float]

__all__ = [
    "Bubbles",
    "Family",
    "Indices",
    "Operator",
    "Polynomials",
    "Ridges",
    "Waves",
    "degrees_up_to",
    "lattice",
    "legendre",
]

VALUE: Operator = {(): 1.0}


class Family(Protocol):
    """A list of functions with derivatives.

    Attributes:
        kind: name in files.
        size: number of functions.
    """

    kind: ClassVar[str]
    size: int

    def apply(self, x: Tensor, operator: Operator) -> Tensor:
        """The operator applied to every function at points ``(n, d)``: ``(n, size)``."""
        ...

    def arrays(self) -> dict[str, np.ndarray]:
        """What defines the family."""
        ...

    @classmethod
    def restore(cls, arrays: Mapping[str, np.ndarray]) -> Family:
        """The family again."""
        ...


def column(weight: Tensor | float, like: Tensor) -> Tensor:
    """A weight as ``(n, 1)`` or ``(1, 1)``."""
    w = torch.as_tensor(weight, dtype=like.dtype)
    return w.reshape(-1, 1)


class Waves:
    """cos(k . (x - center) + phase): with phases 0 and -pi/2 the cosines and sines.

    Args:
        wavenumbers: ``(m, d)``, angular.
        phases: ``(m,)``.
        center: ``(d,)``; near the points, so that phases stay small and exact.
    """

    kind: ClassVar[str] = "waves"

    def __init__(self, wavenumbers: Tensor, phases: Tensor, center: Tensor) -> None:
        self.wavenumbers, self.phases, self.center = wavenumbers, phases, center
        self.size = len(wavenumbers)

    def apply(self, x: Tensor, operator: Operator) -> Tensor:
        """See `Family`; the o-th derivative of a cosine is a cosine shifted by o quarter turns."""
        phase = torch.addmm(self.phases, x - self.center, self.wavenumbers.T)
        result = None
        for odd in (0, 1):
            weights, monomials = [], []
            for index, weight in operator.items():
                if len(index) % 2 == odd:
                    sign = -1.0 if (len(index) + odd) // 2 % 2 else 1.0
                    weights.append(column(weight, x) * sign)
                    monomials.append(self.wavenumbers[:, list(index)].prod(1))
            if not weights:
                continue
            if all(len(w) == 1 for w in weights):
                factor = torch.cat(weights, 1) @ torch.stack(monomials)
            else:
                factor = torch.cat([w.expand(len(x), 1) for w in weights], 1) @ torch.stack(monomials)
            # cos of a shifted phase is several times faster than sin on some processors
            part = factor * torch.cos(phase - math.pi / 2 if odd else phase)
            result = part if result is None else result + part
        return torch.zeros_like(phase) if result is None else result

    def arrays(self) -> dict[str, np.ndarray]:
        """Wavenumbers, phases, center."""
        return {
            "wavenumbers": self.wavenumbers.numpy(),
            "phases": self.phases.numpy(),
            "center": self.center.numpy(),
        }

    @classmethod
    def restore(cls, arrays: Mapping[str, np.ndarray]) -> Waves:
        """From `arrays`."""
        return cls(*(torch.as_tensor(arrays[k]) for k in ("wavenumbers", "phases", "center")))


def lattice(bandwidth: Tensor, period: Tensor, lower: Tensor, upper: Tensor) -> Waves:
    """Cosines and sines of all periods that fit a box larger than the domain, up to a bandwidth, low ones first.

    On the domain itself they are a redundant, Fourier-extension like system: smooth functions need not be periodic.

    Args:
        bandwidth: largest wavenumber along each axis, ``(d,)``.
        period: sides of the larger box, ``(d,)``.
        lower: corner of the domain's bounding box.
        upper: opposite corner.
    """
    unit = 2 * math.pi / period
    top = (bandwidth / unit).floor().long().tolist()
    grid = torch.cartesian_prod(*(torch.arange(-n, n + 1, dtype=torch.float64) for n in top)).reshape(-1, len(top))
    # of k and -k one is enough: keep those whose first nonzero entry is positive
    first = grid.gather(1, (grid != 0).long().argmax(1, keepdim=True))[:, 0]
    half = grid[first > 0] * unit
    half = half[(half / bandwidth).abs().amax(1).argsort(stable=True)]
    k = torch.cat([torch.zeros(1, len(top), dtype=torch.float64), half.repeat_interleave(2, 0)])
    phases = torch.cat([torch.zeros(1, dtype=torch.float64), _quarters(len(half))])
    return Waves(k, phases, (lower + upper) / 2)


def _quarters(pairs: int) -> Tensor:
    return torch.tensor([0.0, -math.pi / 2], dtype=torch.float64).repeat(pairs)


class Polynomials:
    """Products of Legendre polynomials on a box, one multi-index of degrees per function.

    Args:
        degrees: ``(m, d)`` whole numbers.
        lower: corner of the box.
        upper: opposite corner.
    """

    kind: ClassVar[str] = "polynomials"

    def __init__(self, degrees: Tensor, lower: Tensor, upper: Tensor) -> None:
        self.degrees, self.lower, self.upper = degrees, lower, upper
        self.size = len(degrees)

    def apply(self, x: Tensor, operator: Operator) -> Tensor:
        """See `Family`."""
        n, d = x.shape
        y = (2 * x - self.lower - self.upper) / (self.upper - self.lower)
        order = max(map(len, operator), default=0)
        # functions are rows until the end: whole rows are gathered several times faster than columns
        tables = [
            [t.T.contiguous() for t in self._table(y[:, i], int(self.degrees[:, i].max()), order)] for i in range(d)
        ]
        scale = 2 / (self.upper - self.lower)
        columns = self.degrees.T.contiguous()
        value = [tables[i][0].index_select(0, columns[i]) for i in range(d)]
        # products of the other axes' values, so that a Laplacian in d dimensions costs 3d products and not d^2
        left, right = [torch.ones(1, 1, dtype=x.dtype)], [torch.ones(1, 1, dtype=x.dtype)]
        for i in range(d):
            left.append(left[-1] * value[i])
            right.append(right[-1] * value[d - 1 - i])
        result = torch.zeros(self.size, n, dtype=x.dtype)
        for index, weight in operator.items():
            axes = sorted(set(index))
            if not axes:
                term = left[d]
            elif len(axes) == 1:
                i = axes[0]
                term = left[i] * right[d - 1 - i] * tables[i][len(index)].index_select(0, columns[i])
            else:
                term = torch.ones(1, 1, dtype=x.dtype)
                for i in range(d):
                    term = term * tables[i][index.count(i)].index_select(0, columns[i])
            result.addcmul_(column(weight, x).T * float(scale[list(index)].prod()), term)
        return result.T

    @staticmethod
    def _table(y: Tensor, top: int, order: int) -> list[Tensor]:
        return legendre(y, top, order)

    def arrays(self) -> dict[str, np.ndarray]:
        """Degrees and box."""
        return {"degrees": self.degrees.numpy(), "lower": self.lower.numpy(), "upper": self.upper.numpy()}

    @classmethod
    def restore(cls, arrays: Mapping[str, np.ndarray]) -> Polynomials:
        """From `arrays`."""
        return cls(*(torch.as_tensor(arrays[k]) for k in ("degrees", "lower", "upper")))


def legendre(y: Tensor, top: int, order: int) -> list[Tensor]:
    """Legendre polynomials and their derivatives up to an order at ``(n,)``, each ``(n, top + 1)``."""
    tables: list[Tensor] = []
    for o in range(order + 1):
        rows = [torch.ones_like(y) if o == 0 else torch.zeros_like(y)]
        for k in range(1, top + 1):
            before = rows[k - 2] if k > 1 else torch.zeros_like(y)
            if o == 0:
                rows.append(((2 * k - 1) * y * rows[k - 1] - (k - 1) * before) / k)
            else:  # P_k' = P_{k-2}' + (2k - 1) P_{k-1}
                rows.append(before + (2 * k - 1) * tables[o - 1][:, k - 1])
        tables.append(torch.stack(rows, 1))
    return tables


class Bubbles(Polynomials):
    """Products of P_(k+2) - P_k, the polynomials that vanish on all faces of a box; arguments as in `Polynomials`."""

    kind: ClassVar[str] = "bubbles"

    @staticmethod
    def _table(y: Tensor, top: int, order: int) -> list[Tensor]:
        return [t[:, 2:] - t[:, :-2] for t in legendre(y, top + 2, order)]


def degrees_up_to(total: int, dim: int) -> Tensor:
    """All multi-indices ``(m, dim)`` of total degree at most `total`, low ones first.

    >>> degrees_up_to(2, 2).tolist()
    [[0, 0], [0, 1], [1, 0], [0, 2], [1, 1], [2, 0]]
    """

    def of(degree: int, axes: int) -> Iterable[tuple[int, ...]]:
        if axes == 1:
            yield (degree,)
            return
        for first in range(degree + 1):
            for rest in of(degree - first, axes - 1):
                yield (first, *rest)

    return torch.tensor([i for k in range(total + 1) for i in of(k, dim)])


class Ridges:
    """activation(w . (x - center) + b): the features of a network with one frozen hidden layer.

    Args:
        directions: w, ``(m, d)``.
        offsets: b, ``(m,)``.
        center: ``(d,)``.
        activation: with closed-form derivatives.
    """

    kind: ClassVar[str] = "ridges"

    def __init__(self, directions: Tensor, offsets: Tensor, center: Tensor, activation: Activation) -> None:
        self.directions, self.offsets, self.center, self.activation = directions, offsets, center, activation
        self.size = len(directions)

    def apply(self, x: Tensor, operator: Operator) -> Tensor:
        """See `Family`."""
        z = torch.addmm(self.offsets, x - self.center, self.directions.T)
        order = max(map(len, operator), default=0)
        table = self.activation.derivatives(z, order)
        result = torch.zeros_like(z)
        for index, weight in operator.items():
            result += column(weight, x) * (table[len(index)] * self.directions[:, list(index)].prod(1))
        return result

    def arrays(self) -> dict[str, np.ndarray]:
        """Directions, offsets, center and the activation's name as bytes."""
        return {
            "directions": self.directions.numpy(),
            "offsets": self.offsets.numpy(),
            "center": self.center.numpy(),
            "activation": np.frombuffer(self.activation.name.encode(), dtype=np.uint8),
        }

    @classmethod
    def restore(cls, arrays: Mapping[str, np.ndarray]) -> Ridges:
        """From `arrays`."""
        w, b, center = (torch.as_tensor(arrays[k]) for k in ("directions", "offsets", "center"))
        return cls(w, b, center, named(bytes(np.asarray(arrays["activation"], dtype=np.uint8)).decode()))
