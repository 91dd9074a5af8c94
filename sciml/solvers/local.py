"""Local features where a global expansion would need too many: cells that halve where they must, slabs of time in turn.

`refinement` solves a problem on a cover, looks at how far the coefficients of every cell have fallen at the highest
degrees, and halves the cells where that is not enough, along the axes along which they fall slowly. `marching` does so
in one slab of time after another.

The whole is done for a sequence of ever smaller goals. The distance of two solutions is the error of the coarser one;
times the ratio of their residuals it is the estimate of the finer one's.
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass

import torch

from sciml.conditions import Initial
from sciml.domain import Domain
from sciml.problem import PDE
from sciml.solution import compare
from sciml.solvers.ansatz import wavenumbers
from sciml.solvers.collocation import Block, Collocation
from sciml.solvers.cover import Cover, PatchField, SlabField
from sciml.solvers.families import degrees_up_to
from sciml.solvers.leastsquares import UNDETERMINED
from sciml.solvers.marching import march
from sciml.solvers.refinement import Refinement, trimmed
from sciml.training import Deadline

__all__ = ["Local", "solve_locally"]

_DEGREES = {1: (16, 16), 2: (8, 14), 3: (5, 8)}  # total degree of the polynomials of a cell, by dimension
_GOALS = (100.0, 10.0, 1.0, 0.1)  # in units of the tolerance
_LOOSEST = 1e-3  # goal: what is worse than that leads Newton's method astray
_STEP = 0.1  # from the largest tail of one solution to the goal of the next, at most
_RATIO = (0.2, 0.5)  # of the errors at two successive goals, at least and at most
_GROWTH = 3.0  # of the time that the next goal takes
_CHECKED = 4000  # points for distances

Field = PatchField | SlabField


@dataclass(frozen=True)
class Local:
    """A solution in local features.

    Attributes:
        field: the solution.
        estimate: of its relative L2 error; inf if there is nothing to compare it with.
        note: why it is not better, "" if it meets its goal.
        cells: number of cells.
        attempts: number of goals.
    """

    field: Field
    estimate: float
    note: str
    cells: int
    attempts: int


def solve_locally(
    collocation: Collocation, tolerance: float, limit: int, clock: Deadline, space: Domain | None = None
) -> Local | None:
    """Solve a problem on a partition of unity.

    Args:
        collocation: the problem, in one to three dimensions.
        tolerance: relative L2 error to reach.
        limit: of unknowns, of one slab where there is time.
        clock: when to stop.
        space: the domain without time, where that is no box.

    Returns:
        The best solution, or None if not even a first one was found.

    Raises:
        ValueError: if the problem does not determine its solution.
    """
    d = collocation.problem.domain.dim
    fewest, most = _DEGREES[d]
    degree = min(max(round(4 - math.log10(tolerance)), fewest), most)
    refinement = Refinement(degrees_up_to(degree, d), limit, clock)
    best: Local | None = None
    field: Field | None = None
    residual, worst, note = math.inf, math.inf, "smaller cells did not help"
    for k, factor in enumerate(_GOALS):
        begun = time.perf_counter()
        # a goal that the last solution met already would give the same one, and a distance that means nothing
        goal = min(factor * tolerance, _LOOSEST, _STEP * worst)
        found, failed, tail = _solve(collocation, refinement, goal, field, space)
        if found is None or (failed and best is not None and math.isfinite(best.estimate)):
            note = failed
            break
        gap = _residual(collocation, found)
        estimate = math.inf
        if field is not None:
            distance = compare(field, found, collocation.problem.domain, _CHECKED)["rel_l2"]
            least = min(_RATIO[0], 1.5 * tail / worst)
            estimate = max(distance * min(max(gap / residual, least), _RATIO[1]), 1e-15)
        if best is None or estimate < best.estimate or math.isinf(best.estimate):
            cells = sum(p.cover.size for p in _parts(found))
            best = Local(found, estimate, failed, cells, k + 1)
        field, residual, worst = found, max(gap, 1e-300), tail
        if best.estimate <= tolerance and not best.note:
            return best
        if time.perf_counter() + _GROWTH * (time.perf_counter() - begun) > clock.at:
            note = "the time is over"
            break
        if failed:
            break
    return best and Local(best.field, best.estimate, best.note or note, best.cells, best.attempts)


def _parts(field: Field) -> tuple[PatchField, ...]:
    return field.parts if isinstance(field, SlabField) else (field,)


def _residual(collocation: Collocation, field: Field) -> float:
    """Norm of the equation's residual at random points of all cells."""
    generator = torch.Generator().manual_seed(1_000_003)
    total = 0.0
    for part in _parts(field):
        cover = part.cover
        cell = torch.arange(cover.size).repeat_interleave(20)
        x = torch.rand(len(cell), cover.lower.shape[1], generator=generator, dtype=torch.float64)
        x = cover.lower[cell] + x * cover.sides[cell]
        inside = collocation.problem.domain.level(x) > 0
        x, weight = x[inside], cover.sides.prod(1)[cell[inside]] / 20
        block = Block(x, weight, given=collocation.coefficients(x))
        values = {i: part.derivative(x, {i: 1.0}) for i in collocation.indices}
        total += sum(float((weight * r.square()).sum()) for r in collocation.residuals(block, values))
    return math.sqrt(total)


def _solve(
    collocation: Collocation, refinement: Refinement, goal: float, before: Field | None, space: Domain | None
) -> tuple[Field | None, str, float]:
    """A solution whose cells all meet a goal, what went wrong, and the largest tail of all cells."""
    problem = collocation.problem
    if isinstance(problem, PDE) and any(isinstance(c, Initial) for c in problem.conditions):
        return march(refinement, problem, goal, space)
    cover = before.cover if isinstance(before, PatchField) else _first(collocation, refinement)
    found = refinement.solve(collocation, cover, goal, before)
    if found.note == UNDETERMINED:
        raise ValueError(UNDETERMINED)
    return (None if found.note and not found.size else found.field), found.note, found.worst


def _first(collocation: Collocation, refinement: Refinement) -> Cover:
    """Cells that resolve the wavenumbers of the data, and never fewer than two along an axis."""
    domain = collocation.problem.domain
    lower, upper = domain.bounds
    k = wavenumbers(collocation, torch.Generator().manual_seed(0))
    waves = k * (upper - lower) / float(refinement.degrees.max())
    return trimmed(Cover.even(lower, upper, [max(2, math.ceil(1.2 * w)) for w in waves.tolist()]), domain)
