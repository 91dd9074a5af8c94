"""Quadrature and Legendre polynomials on boxes, the nodes of integral operators.

Rules are products of Gauss-Legendre rules; on any other domain random points of equal weight.
"""

from __future__ import annotations

from functools import reduce

import numpy as np
import torch
from torch import Tensor

from sciml.domain import Box, Domain

__all__ = [
    "boundary_rule",
    "derivative",
    "domain_rule",
    "gauss",
    "legendre",
    "product_points",
    "random_rule",
    "tensor_rule",
    "transform",
]


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


def boundary_rule(domain: Domain, n: int) -> tuple[Tensor, Tensor]:
    """About 4 n^(d-1) quasi-random boundary points ``(b, d)`` with weights ``(b,)``; both ends of an interval."""
    count = 2 if domain.dim == 1 else 4 * n ** (domain.dim - 1)
    points = domain.boundary(count, sobol=True)[0]
    return points, torch.full((len(points),), domain.area / len(points), dtype=points.dtype)


def domain_rule(domain: Domain, n: int) -> tuple[Tensor, Tensor]:
    """Nodes and weights on any domain: the product rule on a box, else its nodes inside, with corrected weights.

    Polynomials of degree n / 2 per coordinate are integrated as 2^17 quasi-random points do; of all such weights these
    differ least from those of the box.
    """
    points, weights = tensor_rule(*domain.bounds, n)
    if isinstance(domain, Box):
        return points, weights
    inside = domain.contains(points)
    points, weights = points[inside], weights[inside]
    lower, upper = domain.bounds
    many = domain.interior(2**17, sobol=True)

    def table(x: Tensor) -> Tensor:
        parts = [legendre(t, n // 2 + 1) for t in (2 * (x - lower) / (upper - lower) - 1).unbind(1)]
        return reduce(lambda a, b: (a[:, :, None] * b[:, None]).reshape(len(x), -1), parts)

    moments = domain.volume * torch.stack([table(x).mean(0) for x in many.split(2**13)]).mean(0)
    root = weights.sqrt()
    missing = moments - table(points).T @ weights
    return points, weights + root * (torch.linalg.pinv(table(points).T * root, rtol=1e-8) @ missing)
