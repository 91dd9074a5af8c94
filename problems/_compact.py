"""Poisson's equation on the unit cube of any dimension to fourth order, by fast sine transforms: a truth for `greens`.

    -(sum_i d_i^2 + h^2 / 6 sum_{i<j} d_i^2 d_j^2) u = (1 + h^2 / 12 sum_i d_i^2) f,    u = 0 on the sides,

d_i^2 the second difference along axis i: the nine-point scheme of Collatz (1960) in two dimensions.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.fft import dstn, idstn
from torch import Tensor

from sciml.solvers.quadrature import product_points

Array = NDArray[np.float64]


def compact(f: Array) -> Array:
    """Solve -Lap u = f on the unit cube, u = 0 at its sides.

    Args:
        f: ``(K, n + 1, .., n + 1)`` at the nodes of a grid with its sides.

    Returns:
        u in the same shape.
    """
    n, axes = f.shape[-1] - 1, tuple(range(1, f.ndim))
    inner = (slice(None), *[slice(1, -1)] * len(axes))
    right = f[inner].copy()
    symbol, pairs = np.zeros((1,) * len(axes)), np.zeros((1,) * len(axes))
    for axis in axes:
        before, after = list(inner), list(inner)
        before[axis], after[axis] = slice(None, -2), slice(2, None)
        right += (f[tuple(before)] - 2 * f[inner] + f[tuple(after)]) / 12
        shape = [n - 1 if a == axis else 1 for a in axes]
        second = (2 - 2 * np.cos(np.pi * np.arange(1, n) / n)).reshape(shape)
        pairs = pairs + symbol * second
        symbol = symbol + second
    u = np.zeros_like(f)
    u[inner] = idstn(dstn(right, type=1, axes=axes) / ((symbol - pairs / 6) * n**2), type=1, axes=axes)
    return u


def sampled(source: Callable[[Tensor], Tensor], n: int, dim: int = 2) -> Array:
    """Values ``(K, n + 1, .., n + 1)`` of K sources at the nodes of a grid on the unit cube."""
    line = torch.linspace(0, 1, n + 1, dtype=torch.float64)
    values = torch.cat([source(part) for part in product_points([line] * dim).split(20000)])
    return values.T.reshape(-1, *[n + 1] * dim).numpy()


def distances(found: Array, truth: Array) -> Array:
    """Relative L2 errors ``(K,)``."""
    gap = (found - truth).reshape(len(truth), -1)
    return np.asarray(np.linalg.norm(gap, axis=1) / np.linalg.norm(truth.reshape(len(truth), -1), axis=1))
