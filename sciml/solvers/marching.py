"""Slabs of time in turn: local features for an equation with initial values.

Each slab starts from the final values and from the cells of the one before, is halved when its cells become too many or
Newton's method fails, and lengthened when one cell spans it with ease. The first cells resolve the initial values.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from sciml.conditions import Initial
from sciml.domain import Box, Domain
from sciml.problem import PDE
from sciml.solvers.collocation import Collocation
from sciml.solvers.cover import Cover
from sciml.solvers.families import degrees_up_to, legendre
from sciml.solvers.leastsquares import UNDETERMINED
from sciml.solvers.patches import gauss
from sciml.solvers.patchfield import PatchField, SlabField
from sciml.solvers.refinement import Refined, Refinement

__all__ = ["march"]

_SLABS = 8  # to begin with
_SHORTEST = 1e-5  # slab, as a share of the whole time
_ROUNDS = 14  # of halving cells for the initial values


def march(
    refinement: Refinement, problem: PDE, goal: float, space: Domain | None = None
) -> tuple[SlabField | None, str, float]:
    """Solve slab after slab.

    Args:
        refinement: of the cells of a slab.
        problem: with an `Initial` condition.
        goal: see `Refinement.solve`.
        space: the domain without time, where that is no box.

    Returns:
        The solution, or None; what went wrong; and the largest tail of all cells.

    Raises:
        ValueError: if the problem does not determine its solution.
    """
    _closed(problem)
    lower, upper = problem.domain.bounds
    t, end = float(lower[0]), float(upper[0])
    span = end - t
    length = span / _SLABS
    cells, guess = _initial(problem, int(refinement.wave), goal, space)
    before: _Frozen | None = None
    starts, parts, size, worst = list[float](), list[PatchField](), 0.0, 0.0
    while t < end - 1e-12 * span:
        pieces = max(1, math.ceil((end - t) / length - 0.3))
        step = min(length, (end - t) / pieces) if pieces > 1 else end - t
        column = torch.full((cells.size, 1), t, dtype=torch.float64)
        cover = Cover(torch.cat([column, cells.lower], 1), torch.cat([column + step, cells.upper], 1))
        slab = Collocation(_slab(problem, t, t + step, before, space))
        found = refinement.solve(slab, cover, goal, before or guess, size, 3 * cells.size + 30)
        if found.note:
            length = step / 2
            if found.note == UNDETERMINED:
                raise ValueError(UNDETERMINED)
            if refinement.clock.over or length < _SHORTEST * span:
                return None, f"{found.note} at time {t:.3g}", worst
            continue
        starts.append(t)
        parts.append(found.field)
        worst = max(worst, found.worst)
        before = _Frozen(found.field, t + step)
        size, t = found.size, t + step
        cells = _final(found, goal, lower[1:])
        thin = float(found.field.cover.sides[:, 0].min()) / step
        easy = float(found.tails[:, 0].max()) < 0.1 * goal * size
        length = step * (0.5 if thin < 0.3 else 1.5 if easy and thin > 0.9 else 1.0)
    return SlabField(starts, parts), "", worst


def _slab(problem: PDE, start: float, end: float, before: _Frozen | None, space: Domain | None) -> PDE:
    conditions = [
        c if before is None or not isinstance(c, Initial) else Initial(before.component(c.component), c.component)
        for c in problem.conditions
    ]
    if space is not None:
        return problem.restated(Box([start], [end]) * space, conditions)
    low, high = (b.clone() for b in problem.domain.bounds)
    low[0], high[0] = start, end
    return problem.restated(Box(low.tolist(), high.tolist()), conditions)


def _closed(problem: PDE) -> None:
    """Refuse a problem in which diffusion reaches a side where nothing is prescribed.

    Raises:
        ValueError: naming a point there.
    """
    axes = sorted({i for pair in problem.derivatives if len(pair) == 2 for i in pair if i > 0})
    points, normals, labels = problem.domain.boundary(64 * len(problem.domain.labels), torch.Generator().manual_seed(0))
    bare = (normals[:, axes].abs() > 0.5).any(1)
    for _, mask in problem.partition(points, labels):
        bare &= ~mask
    if bool(bare.any()):
        place = [round(v, 3) for v in points[bare][0].tolist()]
        raise ValueError(f"no condition holds at {place}, so {UNDETERMINED}")


class _Frozen:
    """The last instant of a field, for all times: initial values of a slab, and where Newton's method starts."""

    def __init__(self, field: PatchField, t: float) -> None:
        self.field, self.t, self.components = field, t, field.coefficients.shape[1]

    def derivative(self, x: Tensor, operator: Any) -> Tensor:
        """As that of the field, zero along time."""
        kept = {i: w for i, w in operator.items() if 0 not in i}
        if not kept:
            return torch.zeros(len(x), self.components, dtype=x.dtype)
        return self.field.derivative(torch.cat([torch.full_like(x[:, :1], self.t), x[:, 1:]], 1), kept)

    def component(self, k: int) -> Callable[[Tensor], Tensor]:
        """Values of one unknown."""
        return lambda x: self.derivative(x, {(): 1.0})[:, k]


class _Expansion:
    """Polynomials in cells of space, for all times: where Newton's method starts in the first slab.

    Args:
        cover: the cells.
        degrees: ``(m, d)`` of products of Legendre polynomials.
        coefficients: ``(cells, m, components)``.
    """

    def __init__(self, cover: Cover, degrees: Tensor, coefficients: Tensor) -> None:
        self.cover, self.degrees, self.coefficients = cover, degrees, coefficients

    def derivative(self, x: Tensor, operator: Any) -> Tensor:
        """A sum over derivatives of constant weights; those along time vanish."""
        y = x[:, None, 1:]
        outside = (self.cover.lower - y).clamp_min(0) + (y - self.cover.upper).clamp_min(0)
        cell = outside.sum(-1).argmin(1)
        scale = 2 / self.cover.sides[cell]
        local = (x[:, 1:] - self.cover.lower[cell]) * scale - 1
        tables = [legendre(local[:, i], int(self.degrees.max()), 2) for i in range(local.shape[1])]
        total = torch.zeros(len(x), self.coefficients.shape[2], dtype=x.dtype)
        for index, weight in operator.items():
            if 0 not in index:
                phi = torch.ones(len(x), len(self.degrees), dtype=x.dtype)
                for i, table in enumerate(tables):
                    order = index.count(i + 1)
                    phi = phi * table[order][:, self.degrees[:, i]] * scale[:, i : i + 1] ** order
                total += weight * torch.einsum("nm,nmc->nc", phi, self.coefficients[cell])
        return total


def _initial(problem: PDE, degree: int, goal: float, space: Domain | None) -> tuple[Cover, _Expansion | None]:
    """Cells in space that resolve the initial values, and these."""
    lower, upper = problem.domain.bounds
    d = problem.dim - 1
    cover = Cover.even(lower[1:], upper[1:], [4] * d)
    if space is not None:
        return cover, None
    degrees = degrees_up_to(degree, d)
    y, w = gauss(degree + 2, d)
    tables = [legendre(2 * y[:, i] - 1, degree, 0)[0][:, degrees[:, i]] for i in range(d)]
    phi = torch.stack(tables).prod(0)
    norms = (2 * degrees + 1).prod(1)
    total = degrees.sum(1)
    for _ in range(_ROUNDS):
        x = (cover.lower[:, None] + y * cover.sides[:, None]).reshape(-1, d)
        points = torch.cat([torch.full_like(x[:, :1], float(lower[0])), x], 1)
        u = torch.zeros(len(x), problem.components, dtype=torch.float64)
        for condition in problem.conditions:
            if isinstance(condition, Initial):
                u[:, condition.component] = condition.at(points)
        c = norms[:, None] * torch.einsum("q,kqc,qm->kmc", w, u.reshape(cover.size, len(y), -1), phi)
        top = (c.square().sum(2) / norms)[:, total >= degree - 1]
        share = degrees[total >= degree - 1].double().square()
        tails = (top @ (share / share.sum(1, keepdim=True))).sqrt()
        bad = (tails > goal * float(u.square().mean().sqrt())) & (tails > 0.3 * tails.amax(1, keepdim=True))
        if not bool(bad.any()) or cover.size > 10**4:
            break
        cover = cover.split(bad)
    return cover, _Expansion(cover, degrees, c)


def _final(found: Refined, goal: float, origin: Tensor) -> Cover:
    """The cells in space at the final time; on a line, two halves of a cell are joined where they are far too fine."""
    cover = found.field.cover
    top = (cover.upper[:, 0] - cover.upper[:, 0].max()).abs() < 1e-9 * cover.sides[:, 0]
    lower, upper = cover.lower[top, 1:], cover.upper[top, 1:]
    degrees = found.field.patches.degrees
    if lower.shape[1] > 1 or degrees is None:
        return Cover(lower, upper)
    easy = found.tails[top, 1] * 2.0 ** (1 + degrees.max() / 2) < goal * found.size
    order = lower[:, 0].argsort()
    lower, upper, easy = lower[order], upper[order], easy[order]
    h = upper - lower
    first = ((lower - origin) / h).round().long()[:, 0] % 2 == 0
    joined = torch.zeros(len(h), dtype=torch.bool)
    joined[:-1] = first[:-1] & ((h[:-1] - h[1:]).abs() < 1e-9 * h[:-1])[:, 0] & easy[:-1] & easy[1:]
    upper = torch.where(joined[:, None], upper.roll(-1, 0), upper)
    kept = ~joined.roll(1)
    return Cover(lower[kept], upper[kept])
