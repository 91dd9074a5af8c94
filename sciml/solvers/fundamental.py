"""Fundamental solutions of -Lap in 1, 2 and 3 dimensions, their images, and exact integrals against polynomials.

    -|r| / 2,    -log(r) / (2 pi),    1 / (4 pi r)

In two and three dimensions the heat kernel writes them as an integral of Gaussians over time,

    -log r = 1/2 int (exp(-e^s r^2) - exp(-e^s)) ds,       1/r = 2/sqrt(pi) int exp(s - e^{2 s} r^2) ds,

for which the trapezoidal rule converges exponentially in its step. A Gaussian is a product over the coordinates, and
so are its reflections in the sides of a box: the potential of a polynomial, images included, takes one-dimensional
integrals only, each done by a Gauss rule on the piece of the interval that the Gaussian reaches.
"""

from __future__ import annotations

import math
from itertools import product
from typing import NamedTuple

import torch
from torch import Tensor

from sciml.solvers.quadrature import gauss, legendre

__all__ = ["Separable", "axis_integrals", "free_space", "imaged", "separable"]

_REACH = 6.5  # standard lengths after which a Gaussian is below 1e-18


class Separable(NamedTuple):
    """sum_k weights_k prod_i exp(-rates_k r_i^2); in one dimension `rates` is None and the function is -|r| / 2."""

    weights: Tensor
    rates: Tensor | None


def free_space(squared: Tensor, dim: int) -> Tensor:
    """The fundamental solution as a function of the squared distance."""
    if dim == 1:
        return -squared.sqrt() / 2
    if dim == 2:
        return -squared.log() / (4 * math.pi)
    return 1 / (4 * math.pi * squared.sqrt())


def separable(dim: int, size: float) -> Separable:
    """The fundamental solution as products over the coordinates.

    Args:
        dim: 1, 2 or 3.
        size: length of the longest side; the sum holds to about 1e-9 for distances from 1e-4 to 4 sizes, and what is
            cut off at the short end changes a potential by 1e-9 of the source.
    """
    if dim == 1:
        return Separable(torch.ones(1, dtype=torch.float64), None)
    if dim == 2:
        step = 0.45
        s = torch.arange(-24.0, 21.0, step, dtype=torch.float64)
        rates = torch.exp(s) / size**2
        weights = torch.full_like(rates, step / (4 * math.pi))
        # the constant of the logarithm is a Gaussian of rate zero
        constant = -(weights * torch.exp(-rates)).sum()
        return Separable(torch.cat([weights, constant[None]]), torch.cat([rates, rates.new_zeros(1)]))
    step = 0.22
    s = torch.arange(-9.5, 10.5, step, dtype=torch.float64)
    weights = 2 * step / math.sqrt(math.pi) * torch.exp(s) / (4 * math.pi * size)
    return Separable(weights, torch.exp(2 * s) / size**2)


def imaged(x: Tensor, y: Tensor, lower: Tensor, upper: Tensor, images: bool = True) -> Tensor:
    """The fundamental solution ``(n, m)`` at x ``(n, d)`` of sources y ``(m, d)``, with images across the sides.

    Each coordinate of y is kept, or reflected in its lower or upper side with the opposite sign, in all combinations.
    """
    dim = x.shape[1]
    total = x.new_zeros(len(x), len(y))
    choices = [[(y[:, i], 1.0)] for i in range(dim)]
    if images:
        for i in range(dim):
            choices[i] += [(2 * lower[i] - y[:, i], -1.0), (2 * upper[i] - y[:, i], -1.0)]
    for combination in product(*choices):
        there = torch.stack([c for c, _ in combination], 1)
        squared = (x[:, None] - there).square().sum(-1)
        total = total + math.prod(sign for _, sign in combination) * free_space(squared, dim)
    return total


def axis_integrals(x: Tensor, low: float, high: float, count: int, terms: Separable, images: bool) -> Tensor:
    """Integrals over [low, high] of the one-dimensional factors against Legendre polynomials.

    Args:
        x: where, ``(n,)``.
        low: lower end.
        high: upper end.
        count: number of polynomials.
        terms: gives the factors.
        images: subtract the reflections in both ends.

    Returns:
        ``(k, n, count)`` for the k factors.
    """
    centres = torch.stack([x, 2 * low - x, 2 * high - x][: 3 if images else 1])
    signs = torch.tensor([1.0, -1.0, -1.0][: len(centres)], dtype=torch.float64)
    t, w = gauss(0.0, 1.0, count // 2 + 36)  # a Gaussian on its reach needs about 35 nodes
    rates = [None] if terms.rates is None else terms.rates.tolist()
    result = x.new_zeros(len(rates), len(x), count)
    for k, rate in enumerate(rates):
        reach = math.inf if not rate else _REACH / math.sqrt(rate)
        for side in (-1, 1):
            # from the centre outwards, cut to the interval; empty pieces get no weight
            start = centres.clamp(low, high)
            end = (centres + side * reach).clamp(low, high)
            there = start[..., None] + (end - start)[..., None] * t
            r = there - centres[..., None]
            values = -r.abs() / 2 if rate is None else torch.exp(-rate * r.square())
            weighted = values * w * (end - start).abs()[..., None] * signs[:, None, None]
            table = legendre(2 * (there - low) / (high - low) - 1, count)
            result[k] += torch.einsum("cnq,cnqm->nm", weighted, table)
    return result
