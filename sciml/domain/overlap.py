"""Do two domains overlap, and does one cover the other? Asked when a difference or an intersection is made.

Deterministic probes settle almost every case at once. If they do not, pairs of boxes, balls and ellipsoids are decided
exactly, other sets up to 3-D by the volume of what is common or left over; beyond, the probes have the last word.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache

import numpy as np
import torch
from scipy import optimize
from torch import Tensor

from .arrangement import Arrangement
from .base import Domain, cube
from .flat import Box
from .measure import measurable, visible_measures
from .round import Round

PROBES = (64, 2**13)
MARGIN = 1e-9  # relative to the size: shapes that share less than this are said to touch


def overlap(a: Domain, b: Domain) -> bool:
    """Whether a and b have common points inside both."""
    margin = MARGIN * min(a.size, b.size)
    if any(bool((other.level(x) > margin).any()) for own, other in ((b, a), (a, b)) for x in _probes(own)):
        return True
    if isinstance(a, Box | Round) and isinstance(b, Box | Round):
        return _primitives_overlap(a, b)
    return _volume(a.arrangement.combined(b.arrangement, "intersection"), a) > 0


def covers(a: Domain, b: Domain) -> bool:
    """Whether b leaves nothing of a."""
    margin = MARGIN * min(a.size, b.size)
    if any(bool((b.level(x) < -margin).any()) for x in _probes(a)):
        return False
    if isinstance(b, Box | Round) and isinstance(a, Round | Box):
        return _primitive_covers(a, b)
    return not _volume(a.arrangement.combined(b.arrangement, "difference"), a) > 0


def _probes(domain: Domain) -> Iterator[Tensor]:
    """Points inside: a few, then many."""
    inside = domain.inside
    for n in PROBES:
        x, ok = inside.draw(_numbers(n, inside.dims))
        yield x[ok]


@lru_cache(maxsize=32)
def _numbers(n: int, dims: int) -> Tensor:
    return cube(dims, torch.Generator().manual_seed(0), sobol=True)(n)


def _volume(arrangement: Arrangement, a: Domain) -> float:
    """The volume of the set if there is a formula, and it is not a rounding error; otherwise 0."""
    if not measurable(arrangement, a.dim):
        return 0.0
    volume = visible_measures(arrangement, 0.5 * (a.bounds[0] + a.bounds[1]), a.size).volume
    return volume if volume > (1e-7 if a.dim == 3 else 1e-12) * a.size**a.dim else 0.0


def _primitives_overlap(a: Box | Round, b: Box | Round) -> bool:
    if isinstance(a, Box) and isinstance(b, Box):
        depth = torch.minimum(a.upper, b.upper) - torch.maximum(a.lower, b.lower)
        return bool((depth > MARGIN * min(a.size, b.size)).all())
    if isinstance(a, Box):
        return isinstance(b, Round) and _box_distance(b, a) < 1 - MARGIN
    return (_box_distance(a, b) if isinstance(b, Box) else _extreme_distance(a, b, farthest=False)) < 1 - MARGIN


def _primitive_covers(a: Box | Round, b: Box | Round) -> bool:
    if isinstance(b, Box):
        return bool((a.bounds[0] >= b.lower).all() and (a.bounds[1] <= b.upper).all())
    if isinstance(a, Round):
        return _extreme_distance(b, a, farthest=True) <= 1 + MARGIN
    if a.dim > 16:  # too many corners
        return True
    corner = torch.cartesian_prod(*torch.stack(a.bounds, 1)).reshape(-1, a.dim)
    return bool((torch.linalg.vector_norm(b.unit(corner), dim=1) <= 1 + MARGIN).all())


def _box_distance(a: Round, b: Box) -> float:
    """The smallest |y| over b, where y are the coordinates in which a is the unit ball."""
    nearest = optimize.lsq_linear(a.inverse.numpy(), (a.inverse @ a.center).numpy(), (b.lower, b.upper), "bvls")
    return float(np.sqrt(2 * nearest.cost))


def _extreme_distance(a: Round, b: Round, farthest: bool) -> float:
    """The smallest or largest |y| over b, with y as in `_box_distance`.

    That is an extremum of |m + N z|^2 over |z| <= 1 (a trust-region problem), whose dual is exact and one-dimensional.
    """
    center, matrix = a.unit(b.center[None])[0].numpy(), (a.inverse @ b.matrix).numpy()
    eigenvalues, vectors = np.linalg.eigh(matrix.T @ matrix)
    weights = (vectors.T @ (matrix.T @ center)) ** 2
    square, top = float(center @ center), float(eigenvalues[-1])

    def dual(log: float) -> float:
        shift = np.exp(log) * top
        if farthest:
            return top + shift + square + float((weights / (top + shift - eigenvalues)).sum())
        return shift - square + float((weights / (eigenvalues + shift)).sum())

    best = optimize.minimize_scalar(dual, bounds=(-40.0, 40.0), method="bounded", options={"xatol": 1e-12})
    return float(np.sqrt(max(0.0, best.fun if farthest else -best.fun)))
