"""Harmonic functions on a box with round holes, and the boundary nodes at which they are fitted.

In a disc-like domain harmonic polynomials converge geometrically; every hole adds the functions that decay away from
it (log |x - c|, Re and Im (r / (z - c))^k), without which no polynomial can turn around it. At the corners of a square
a source that does not vanish leaves z^2 log z, z^4 log z, .., to which polynomials converge slowly; these are added.
"""

from __future__ import annotations

import math
from itertools import product
from typing import NamedTuple

import torch
from torch import Tensor

from sciml.domain import Ball, Box, Difference, Domain
from sciml.solvers.quadrature import tensor_rule

__all__ = ["Edge", "box_and_holes", "edge", "edge_of", "features"]

_CORNER = 4  # singular functions at each corner; the next one is of size z^10 log z
_TINY = 1e-150


class Edge(NamedTuple):
    """Boundary nodes ``(n, d)`` and quadrature weights ``(n,)``."""

    points: Tensor
    weights: Tensor


def box_and_holes(domain: Domain) -> tuple[Box, tuple[Ball, ...]]:
    """Take a domain apart.

    Raises:
        ValueError: if it is not a box of 1, 2 or 3 dimensions, or a square minus separate discs inside it.
    """
    parts = domain.parts if isinstance(domain, Difference) else (domain,)
    box, *holes = parts
    wanted = "must be a Box of at most 3 dimensions, or a Box minus separate discs inside it"
    if not isinstance(box, Box) or box.dim > 3 or not all(isinstance(h, Ball) for h in holes):
        raise ValueError(f"domain is {domain.describe()}, but for the singularity-aware kernel it {wanted}")
    if holes and box.dim != 2:
        raise ValueError(f"domain has {len(holes)} holes in {box.dim} dimensions, but holes are known in 2 only")
    balls = tuple(h for h in holes if isinstance(h, Ball))
    lower, upper = box.bounds
    for i, ball in enumerate(balls):
        margin = torch.minimum(ball.center - lower, upper - ball.center).min() - ball.radius
        gaps = [float((ball.center - b.center).norm()) - ball.radius - b.radius for b in balls[:i]]
        if min([float(margin), *gaps]) <= 0:
            raise ValueError(
                f"the hole at {ball.center.tolist()} touches the sides or another hole; the domain {wanted}"
            )
    return box, balls


def edge(box: Box, holes: tuple[Ball, ...], n: int) -> Edge:
    """Gauss nodes on the flat sides, n per direction, and 4 n equal steps around each hole."""
    lower, upper = box.bounds
    points, weights = [], []
    for axis in range(box.dim):
        others = [i for i in range(box.dim) if i != axis]
        if others:
            flat, w = tensor_rule(lower[others], upper[others], n)
        else:
            flat, w = lower.new_zeros(1, 0), lower.new_ones(1)
        for value in (lower[axis], upper[axis]):
            x = lower.new_zeros(len(flat), box.dim)
            x[:, others], x[:, axis] = flat, value
            points.append(x)
            weights.append(w)
    for ball in holes:
        angle = 2 * math.pi * torch.arange(4 * n, dtype=torch.float64) / (4 * n)
        points.append(ball.center + ball.radius * torch.stack([angle.cos(), angle.sin()], 1))
        weights.append(torch.full((4 * n,), 2 * math.pi * ball.radius / (4 * n), dtype=torch.float64))
    return Edge(torch.cat(points), torch.cat(weights))


def edge_of(domain: Domain, n: int) -> Edge:
    """The same for any domain: outside boxes quasi-random points of equal weight."""
    if isinstance(domain, Box):
        return edge(domain, (), n)
    count = 8 * n if domain.dim == 2 else 8 * n**2
    points = domain.boundary(count, sobol=True)[0]
    return Edge(points, torch.full((count,), domain.area / count, dtype=points.dtype))


def features(x: Tensor, box: Box, holes: tuple[Ball, ...], degree: int) -> Tensor:
    """Values ``(n, q)`` of the harmonic functions of order one at points ``(n, d)``.

    1 and x in one dimension; real and imaginary parts of z^k up to `degree` in two; in three (x_3 + i (x_1 cos a +
    x_2 sin a))^k for 2 k + 1 angles a, which span the solid harmonics of degree k.
    """
    lower, upper = (b.to(x.device, x.dtype) for b in box.bounds)
    y = (x - (lower + upper) / 2) / ((upper - lower).norm() / 2)
    one = torch.ones_like(y[:, :1])
    if box.dim == 1:
        return torch.cat([one, y], 1)
    columns = [one]
    if box.dim == 3:
        for k in range(1, degree + 1):
            # the real part holds the even orders m = 0, 2, .. <= k, the imaginary part the odd ones
            for part, count in ((torch.real, 2 * (k // 2) + 1), (torch.imag, 2 * ((k + 1) // 2))):
                angle = math.pi * torch.arange(count, dtype=x.dtype) / count
                flat = y[:, :1] * angle.cos() + y[:, 1:2] * angle.sin()
                columns.append(part(torch.complex(y[:, 2:].expand(-1, count), flat) ** k))
        return torch.cat(columns, 1)
    columns += _powers(torch.complex(y[:, 0], y[:, 1]), degree)
    columns += _corners(x, lower, upper)
    for ball in holes:
        offset = (x - ball.center.to(x)) / ball.radius
        squared = offset.square().sum(1)
        # 1 / z = conj(z) / |z|^2
        columns += [squared.log()[:, None], *_powers(torch.complex(offset[:, 0], -offset[:, 1]) / squared, degree)]
    return torch.cat(columns, 1)


def _corners(x: Tensor, lower: Tensor, upper: Tensor) -> list[Tensor]:
    """z^(2 j) log z about each corner, cut along the diagonal that leaves the square."""
    size = (upper - lower).max()
    columns = []
    for corner in product(*zip(lower, upper, strict=True)):
        offset = (x - torch.stack(corner)) / size
        # turned so that the way to the centre is the positive axis: the principal branch is cut outside
        inward = torch.sign((lower + upper) / 2 - torch.stack(corner)) / math.sqrt(2)
        z = torch.complex(offset @ inward, offset[:, 1] * inward[0] - offset[:, 0] * inward[1])
        logarithm = torch.log(z + _TINY)  # z^2 log z is 0 in the corner, and so are its slopes
        for j in range(1, _CORNER + 1):
            f = z ** (2 * j) * logarithm
            columns += [f.real[:, None], f.imag[:, None]]
    return columns


def _powers(z: Tensor, degree: int) -> list[Tensor]:
    power, columns = torch.ones_like(z), []
    for _ in range(degree):
        power = power * z
        columns += [power.real[:, None], power.imag[:, None]]
    return columns
