"""Local features where a global expansion would need too many: cells that halve where they must, slabs of time in turn.

`refinement` solves a problem on a cover, looks at how far the coefficients of every cell have fallen at the highest
degrees, and halves the cells where that is not enough, along the axes along which they fall slowly. `marching` does so
in one slab of time after another.

Marching is repeated for a sequence of ever smaller goals; without time, every solution halves the worst cells of the
one before. The distance of two solutions is the error of the coarser one; times the ratio of their residuals, or of
their tails, it is the estimate of the finer one's.
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, replace

import torch

from sciml.domain import Domain
from sciml.problem import PDE
from sciml.solution import compare
from sciml.solvers.ansatz import wavenumbers
from sciml.solvers.bases import Basis
from sciml.solvers.collocation import Block, Collocation
from sciml.solvers.cover import Cover
from sciml.solvers.families import Family, degrees_up_to
from sciml.solvers.leastsquares import UNDETERMINED
from sciml.solvers.marching import march
from sciml.solvers.patchfield import PatchField, SlabField, polynomials
from sciml.solvers.refinement import Refined, Refinement, trimmed
from sciml.training import Deadline

__all__ = ["Local", "solve_locally"]

_DEGREES = {1: (16, 16), 2: (8, 14), 3: (5, 8)}  # total degree of the polynomials of a cell, by dimension
_BANDWIDTHS = {1: (5.0, 8.0), 2: (3.0, 4.5), 3: (1.9, 2.6)}  # of other bases, in units of one over half sides
_GOALS = (100.0, 10.0, 1.0, 0.1)  # in units of the tolerance
_LOOSEST = 1e-3  # goal: what is worse than that leads Newton's method astray
_STEP = 0.1  # from the largest tail of one solution to the goal of the next, at most
_RATIO = (0.2, 0.5)  # of the errors at two successive goals, at least and at most
_HALVINGS = 12
_LEAST = 0.1  # of the error, that one step takes away where residuals say it takes nothing
_UNEXPLAINED = 0.01  # of the right-hand side: residuals that are larger, and do not fall, say nothing about the error
_GROWTH = 3.0  # of the time that the next goal takes
_WORK = {1: 1.0, 2: 1.5, 3: 2.0}  # powers of the number of cells with which elimination grows, by dimension
_UNKNOWNS = {2: 3_000, 3: 3_000}  # of the first cover: one that resolves sharp layers everywhere would never end
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
    collocation: Collocation,
    tolerance: float,
    limit: int,
    clock: Deadline,
    space: Domain | None = None,
    basis: Basis | None = None,
) -> Local | None:
    """Solve a problem on a partition of unity.

    Args:
        collocation: the problem, in one to three dimensions.
        tolerance: relative L2 error to reach.
        limit: of unknowns, of one slab where there is time.
        clock: when to stop.
        space: the domain without time, where that is no box.
        basis: of every cell; None takes polynomials.

    Returns:
        The best solution, or None if not even a first one was found.

    Raises:
        ValueError: if the problem does not determine its solution.
    """
    problem, marches = collocation.problem, collocation.marches
    families = _features(problem.domain.dim, tolerance, basis)
    refinement = Refinement(families, limit, clock, singular=True)
    best: Local | None = None
    before: _Step | None = None
    note, seconds = "smaller cells did not help", 0.0
    for k in range(len(_GOALS) if marches else _HALVINGS):
        begun = time.perf_counter()
        if marches:
            found = _marched(collocation, refinement, _GOALS[k] * tolerance, before, space)
        else:
            found = _halved(collocation, refinement, tolerance, before, seconds)
        field = found.field
        if field is None:
            note = found.note
            break
        estimate = math.inf
        if before is not None and not found.note and not before.note:
            assert before.field is not None
            distance = compare(before.field, field, problem.domain, _CHECKED)["rel_l2"]
            # a solution that leaves much of the right-hand side unexplained is none, however stable it looks
            gap = 0.0 if found.refined is None else found.refined.gap
            estimate = max(max(distance, 1e-15) * found.ratio(before), 0.02 * gap)
        # the later knows more: its distance from an earlier one contradicts an estimate of that which was too small
        if best is None or math.isfinite(estimate) or math.isinf(best.estimate):
            best = Local(field, estimate, found.note, sum(p.cover.size for p in _parts(field)), k + 1)
        if best.estimate <= tolerance:
            return best
        before, seconds = found, time.perf_counter() - begun
        if clock.over or (marches and time.perf_counter() + _GROWTH * seconds > clock.at):
            note = "the time is over"
            break
    return best and replace(best, note=best.note or note)


@dataclass(frozen=True)
class _Step:
    """One of a sequence of ever better solutions.

    Attributes:
        field: the solution, None if there is none.
        worst: largest tail of all cells.
        residual: norm of the residual, where it is known.
        note: what went wrong.
        refined: the solution with its tails, where there is no time.
        distance: from the solution of the step before.
        fallen: residual at fresh points over that of the step before, where there is no time.
    """

    field: Field | None
    worst: float
    residual: float = 1.0
    note: str = ""
    refined: Refined | None = None
    fallen: float = 1.0

    def ratio(self, before: _Step) -> float:
        """Of the error to that of the step before."""
        tail = self.worst / max(before.worst, 1e-300)
        if self.refined is not None:
            if self.fallen > 1 - _LEAST and self.refined.gap > _UNEXPLAINED:
                return math.inf  # cells were halved where it does not matter, and both solutions are equally wrong
            # errors fall as residuals do, and the distance of the two is the difference of their errors
            return self.fallen / max(1 - self.fallen, _LEAST)
        return min(max(self.residual / before.residual, min(_RATIO[0], 1.5 * tail)), _RATIO[1])


def _marched(
    collocation: Collocation, refinement: Refinement, goal: float, before: _Step | None, space: Domain | None
) -> _Step:
    """Slabs of time, all of whose cells meet a goal."""
    # a goal that the last solution met already would give the same one, and a distance that means nothing
    goal = min(goal, _LOOSEST, math.inf if before is None else _STEP * before.worst)
    assert isinstance(collocation.problem, PDE)
    field, note, worst = march(refinement, collocation.problem, goal, space)
    return _Step(field, worst, 1.0 if field is None else max(_residual(collocation, field), 1e-300), note)


def _halved(
    collocation: Collocation, refinement: Refinement, tolerance: float, before: _Step | None, seconds: float
) -> _Step:
    """The cells that are worst are halved, if that ends in time: the step before took `seconds`."""
    if before is None:
        cover, start = _first(collocation, refinement), None
    else:
        assert before.refined is not None
        cover = refinement.halved(collocation, before.refined, _STEP * before.worst)
        start = None if before.note else before.field
        seconds *= (cover.size / before.refined.field.cover.size) ** _WORK[collocation.problem.dim]
    most = refinement.most(collocation)
    if cover.size > most or time.perf_counter() + seconds > refinement.clock.at:
        return _Step(None, 0.0, note="the time is over" if cover.size <= most else f"it takes more than {most} cells")
    found = refinement.once(collocation, cover, tolerance, start, first=before is None)
    if found.note == UNDETERMINED:
        raise ValueError(UNDETERMINED)
    fallen = 1.0 if before is None else refinement.fallen(collocation, found.field, before.field)
    return _Step(found.field, found.worst, note=found.note, refined=found, fallen=fallen)


def _features(d: int, tolerance: float, basis: Basis | None) -> tuple[Family, ...]:
    """Of one cell, the more the smaller the tolerance."""
    digits = -math.log10(tolerance)
    if basis is None:
        fewest, most = _DEGREES[d]
        return polynomials(degrees_up_to(min(max(round(4 + digits), fewest), most), d))
    least, largest = _BANDWIDTHS[d]
    one = torch.ones(d, dtype=torch.float64)
    return tuple(basis(one * min(max(0.65 * digits, least), largest), -one, one))


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


def _first(collocation: Collocation, refinement: Refinement) -> Cover:
    """Cells that resolve the wavenumbers of the data if these are not many, and never fewer than two along an axis."""
    domain = collocation.problem.domain
    lower, upper = domain.bounds
    k = wavenumbers(collocation, torch.Generator().manual_seed(0))
    waves = 1.2 * k * (upper - lower) / refinement.wave
    many = _UNKNOWNS.get(domain.dim, math.inf) / (sum(f.size for f in refinement.families) * collocation.components)
    while float(waves.clamp_min(2).prod()) > max(many, 2.0**domain.dim):
        waves = 0.9 * waves
    return trimmed(Cover.even(lower, upper, [max(2, math.ceil(w)) for w in waves.tolist()]), domain)
