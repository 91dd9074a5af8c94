"""Poisson's equation in three dimensions: a particular solution on a box, and harmonic functions for the boundary.

    u = w + v,    -a Lap w = f in a box, w = 0 on its faces (`boxes`),    Lap v = 0, v = g - w on the domain's boundary

w takes the singularities of edges and corners where the domain is a box minus balls. v has none there: zero on the
faces, it continues past them by reflection. It is singular inside the holes and their mirror images, where it gets
solid harmonics (`solid`), and smooth elsewhere, where it gets harmonic polynomials. Only the boundary needs points.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from sciml.conditions import Dirichlet
from sciml.domain import Ball, Box, Difference, Domain
from sciml.problem import Elliptic
from sciml.solvers.boxes import TensorPolynomial, on_box
from sciml.solvers.collocation import Block, Collocation, Rows
from sciml.solvers.families import VALUE, Family
from sciml.solvers.featurefield import FeatureField
from sciml.solvers.leastsquares import Factor, System
from sciml.solvers.solid import SolidHarmonics, reflections

__all__ = ["Split", "applies", "split"]

_COUNTS = (16, 24, 32, 48, 64)  # functions per axis of the box
_DEGREES = (4, 6, 8, 10, 12, 14, 16, 18)  # of solid harmonics
_REACH = 4.0  # radii of a ball up to which its image in a face matters
_CHECKED = 2000


@dataclass(frozen=True)
class Split:
    """What `split` found.

    Attributes:
        field: w + v.
        estimate: of its relative L2 error.
        unknowns: of both parts.
    """

    field: FeatureField
    estimate: float
    unknowns: int


def applies(problem: Any) -> bool:
    """Whether a problem is Poisson's with Dirichlet values, on a box or ball minus separate balls.

    On the faces of a box the values must be zero: others would make v singular at its edges.
    """
    if not isinstance(problem, Elliptic) or problem.dim != 3 or not problem.linear or problem.has_reaction:
        return False
    if problem.constant_diffusion is None or not all(isinstance(c, Dirichlet) for c in problem.conditions):
        return False
    taken = _outside_and_holes(problem.domain)
    if taken is None:
        return False
    outside = taken[0]
    if not isinstance(outside, Box):
        return True
    x, _, labels = problem.domain.boundary(512, torch.Generator().manual_seed(0))
    lower, upper = outside.bounds
    on = torch.minimum((x - lower).abs(), (x - upper).abs()).amin(1) < 1e-9 * outside.size
    for condition, mask in problem.partition(x, labels):
        assert isinstance(condition, Dirichlet)
        if bool((condition.at(x[mask & on]) != 0).any()):
            return False
    return True


def _outside_and_holes(domain: Domain) -> tuple[Box | Ball, list[Ball]] | None:
    outside, *holes = domain.parts if isinstance(domain, Difference) else (domain,)
    balls = [h for h in holes if isinstance(h, Ball)]
    if not isinstance(outside, (Box, Ball)) or len(balls) < len(holes):
        return None
    for i, ball in enumerate(balls):
        inside = float(outside.level(ball.center[None])) - ball.radius
        gaps = [float((ball.center - b.center).norm()) - ball.radius - b.radius for b in balls[:i]]
        if min([inside, *gaps]) <= 0:
            return None
    return outside, balls


def split(problem: Elliptic, tolerance: float, limit: int) -> Split | None:
    """Solve a problem for which `applies`.

    Args:
        problem: the problem.
        tolerance: relative L2 error at which to stop.
        limit: of the unknowns of v.

    Returns:
        The solution with the least estimate; None if f cannot be evaluated all over the box, or if its spectrum there
        does not fall.
    """
    taken = _outside_and_holes(problem.domain)
    assert taken is not None
    outside, holes = taken
    lower, upper = outside.bounds
    # away from its faces the particular solution is as smooth as f
    pad = 0.0 if isinstance(outside, Box) else 0.1 * (upper - lower)
    box = Box(lower - pad, upper + pad)
    x = problem.domain.interior(_CHECKED, torch.Generator().manual_seed(1), sobol=True)
    particular, first = _on_box(problem, box, x, 0.3 * tolerance)
    if particular is None:
        return None
    unknowns = particular.coefficients.numel()
    if isinstance(outside, Box) and not holes:
        return Split(FeatureField([particular], torch.ones(1, 1, dtype=torch.float64)), first, unknowns)
    best: Split | None = None
    before: tuple[Tensor, float] | None = None
    for families in _families(outside, holes, limit):
        field, gap = _fit(problem, particular, families)
        values = field(x)
        if before is not None:
            size = float(values.norm()) or 1.0
            distance = float((values - before[0]).norm()) / size
            estimate = distance * min(1.0, gap / max(before[1], 1e-300)) + first
            if best is None or estimate < best.estimate:
                best = Split(field, max(estimate, 1e-15), unknowns + field.size - 1)
            if estimate <= tolerance:
                break
        before = values, gap
    return best


def _on_box(problem: Elliptic, box: Box, x: Tensor, tolerance: float) -> tuple[TensorPolynomial | None, float]:
    """The particular solution and an estimate of its relative error at points."""
    before: Tensor | None = None
    found, last, estimate = None, math.inf, math.inf
    for count in _COUNTS:
        try:
            found = on_box(box, problem.source, count, float(problem.constant_diffusion or 1.0))
        except ValueError:
            return None, math.inf
        values = found.apply(x, VALUE)[:, 0]
        if before is not None:
            gap = float((values - before).norm()) / (float(values.norm()) or 1.0)
            # at least of second order in the number of functions
            estimate = gap * min(0.5, gap / last) if last < math.inf else 0.5 * gap
            if estimate <= tolerance:
                break
            last = gap
        before = values
    return found, max(estimate, 1e-15)


def _families(outside: Box | Ball, holes: list[Ball], limit: int) -> Iterator[list[Family]]:
    lower, upper = outside.bounds
    middle, size = (lower + upper) / 2, float((upper - lower).norm()) / 2
    once = reflections(middle, 0.0, lower, upper)
    for degree in _DEGREES:
        found: list[Family] = [SolidHarmonics(middle, size, degree + 4, False, once)]
        for hole in holes:
            reach = _REACH * float(hole.radius) if isinstance(outside, Box) else 0.0
            images = reflections(hole.center, reach, lower, upper)
            found.append(SolidHarmonics(hole.center, float(hole.radius), degree, True, images))
        if sum(f.size for f in found) > limit:
            return
        yield found


def _fit(problem: Elliptic, particular: TensorPolynomial, families: list[Family]) -> tuple[FeatureField, float]:
    """Harmonic functions for the boundary values that are left, and the norm of what they leave at fresh points."""
    collocation = Collocation(problem)
    system = System(families, torch.ones(3, dtype=torch.float64))
    most = max(f.size for f in families)

    def matrix(per: float, seed: int) -> Tensor:
        generator = torch.Generator().manual_seed(seed)
        count = int(2 * per * system.size) + 200
        blocks = collocation.blocks(1, count, generator, sobol=False, least=int(per * most) + 20)[1:]
        return system.matrix([(b, [_left(b, particular)]) for b in blocks])

    factor = Factor(matrix(2.0, 0))
    coefficients = factor.solve(factor.size)
    held = matrix(0.5, 1)
    gap = float(torch.linalg.vector_norm(held[:, :-1] @ coefficients - held[:, -1]))
    one = torch.ones(1, dtype=torch.float64)
    return FeatureField([particular, *families], torch.cat([one, coefficients])[:, None]), gap


def _left(block: Block, particular: TensorPolynomial) -> Rows:
    value = torch.as_tensor(block.given[0], dtype=torch.float64)
    ones = torch.ones(len(block.x), dtype=torch.float64)
    return Rows(({(): ones},), value * ones - particular.apply(block.x, VALUE)[:, 0])
