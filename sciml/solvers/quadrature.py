"""Quadrature and Legendre polynomials on boxes, the nodes of integral operators.

Rules are products of Gauss-Legendre rules; on any other domain random points of equal weight.
"""

from __future__ import annotations

from functools import reduce

import numpy as np
import torch
from torch import Tensor

from sciml.domain import Domain

__all__ = ["derivative", "gauss", "legendre", "product_points", "random_rule", "tensor_rule", "transform"]


def gauss(low: float, high: float, n: int) -> tuple[Tensor, Tensor]:
    """Nodes and weights ``(n,)`` of the Gauss-Legendre rule on an interval, exact to degree 2 n - 1."""
    t, w = (torch.as_tensor(a) for a in np.polynomial.legendre.leggauss(n))
    return low + (high - low) * (1 + t) / 2, (high - low) / 2 * w


def legendre(t: Tensor, count: int) -> Tensor:
    """Legendre polynomials P_0 .. P_{count - 1} at t of any shape, along a new last axis."""
    table = [torch.ones_like(t), t]
    for k in range(1, count - 1):
        table.append(((2 * k + 1) * t * table[k] - k * table[k - 1]) / (k + 1))
    return torch.stack(table[:count], -1)


def derivative(count: int) -> Tensor:
    """The matrix D with (P_0', .., P_{count - 1}') = (P_0, .., P_{count - 1}) D."""
    k, n = torch.arange(count)[:, None], torch.arange(count)
    return torch.where((k < n) & ((n - k) % 2 == 1), 2.0 * k + 1, 0.0).to(torch.float64)


def transform(n: int) -> Tensor:
    """The matrix ``(n, n)`` from values at the n Gauss nodes to Legendre coefficients."""
    t, w = gauss(-1.0, 1.0, n)
    return (torch.arange(n, dtype=torch.float64) + 0.5)[:, None] * legendre(t, n).T * w


def product_points(axes: list[Tensor]) -> Tensor:
    """All points ``(n, d)`` of a tensor grid, the last coordinate running fastest."""
    return torch.stack(torch.meshgrid(*axes, indexing="ij"), -1).reshape(-1, len(axes))


def tensor_rule(lower: Tensor, upper: Tensor, n: int) -> tuple[Tensor, Tensor]:
    """Points ``(n^d, d)`` and weights ``(n^d,)`` of the product rule on a box."""
    rules = [gauss(float(a), float(b), n) for a, b in zip(lower, upper, strict=True)]
    weights = reduce(lambda u, v: (u[:, None] * v).reshape(-1), [w for _, w in rules])
    return product_points([x for x, _ in rules]), weights


def random_rule(domain: Domain, n: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Uniform random points ``(n, d)`` with the weight volume / n each: unbiased, of error n^(-1/2)."""
    points = domain.interior(n, generator)
    return points, torch.full((n,), domain.volume / n, dtype=points.dtype)
