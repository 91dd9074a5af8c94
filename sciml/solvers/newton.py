"""Newton's method on the coefficients of features: each step is one least-squares solve of the linearised equation."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from sciml.conditions import Periodic
from sciml.problem import Elliptic
from sciml.solvers.collocation import Block, Collocation, Values
from sciml.solvers.featurefield import FeatureField
from sciml.solvers.leastsquares import Factor, System

__all__ = ["newton", "values_of"]

_STEPS = 30
_EXPONENT = 0.75  # by which p of the p-Laplacian grows from one problem to the next


def values_of(collocation: Collocation, block: Block, field: FeatureField | None) -> Values | None:
    """The derivatives of a field that a block's equations see; None without a field or where they do not matter."""
    if field is None or isinstance(block.condition, Periodic):
        return None
    return {i: field.derivative(block.x, {i: 1.0}) for i in collocation.indices_of(block)}


def newton(
    collocation: Collocation, system: System, blocks: list[Block], before: FeatureField | None, tolerance: float
) -> tuple[Factor, FeatureField, str]:
    """Solve a nonlinear problem in a fixed set of features.

    Args:
        collocation: the problem.
        system: the features.
        blocks: points.
        before: where to start; None starts from zero, or for a p-Laplacian from smaller exponents.
        tolerance: relative size of the last step.

    Returns:
        The last factorisation, the solution and what went wrong, "" if nothing did.
    """
    problem = collocation.problem
    if before is None and isinstance(problem, Elliptic) and problem.p != 2:
        steps = max(1, math.ceil(abs(problem.p - 2) / _EXPONENT))
        for k in range(steps):
            form = Elliptic(
                problem.domain,
                problem.source,
                diffusion=problem.diffusion,
                reaction=problem.reaction,
                p=2 + (problem.p - 2) * k / steps,
                conditions=problem.conditions,
            )
            easier = Collocation(form)
            _, before, _ = _iterate(easier, system, blocks, before, 1e-3)
    return _iterate(collocation, system, blocks, before, tolerance)


def _iterate(
    collocation: Collocation, system: System, blocks: list[Block], start: FeatureField | None, tolerance: float
) -> tuple[Factor, FeatureField, str]:
    values = [values_of(collocation, b, start) for b in blocks]
    zero = torch.zeros(system.size, system.components, dtype=torch.float64)
    field = FeatureField(system.families, zero)
    fresh = start is not None  # the start may live in other features: the first step is a full one
    merit = math.inf
    note = "Newton's method did not converge"
    for _ in range(_STEPS):
        rows = [collocation.linearise(b, v) for b, v in zip(blocks, values, strict=True)]
        factor = Factor(system.matrix(list(zip(blocks, rows, strict=True))), system.damping, system.order)
        target = FeatureField(system.families, factor.solve(factor.size).reshape(system.components, -1).T.contiguous())
        if not bool(target.coefficients.isfinite().all()):
            return factor, field, "Newton's method met numbers that are not finite"
        goal = [values_of(collocation, b, target) for b in blocks]
        weights = _weights(system, blocks, rows)
        merit = _merit(collocation, blocks, values, weights)
        step, accepted = 1.0, False
        while step > 1e-3 and not accepted:
            trial = _between(values, goal, step)
            reached = _merit(collocation, blocks, trial, weights)
            accepted = reached < merit * (1 - 1e-4 * step) or values[0] is None or (fresh and step == 1.0)
            step *= 1.0 if accepted else 0.5
        change = _distance(blocks[0], values[0], goal[0])
        moved = (
            target
            if step == 1.0 or fresh
            else FeatureField(system.families, field.coefficients + step * (target.coefficients - field.coefficients))
        )
        if not accepted or change < max(1e-2 * tolerance, 1e-13):
            # at the floor of rounding no step is downhill any more
            small = change < 1e-4
            return factor, (moved if accepted else (field if not small else target)), "" if small else note
        field, values, fresh = moved, trial, False
        if collocation.linear:
            return factor, field, ""
    return factor, field, note


def _weights(system: System, blocks: list[Block], rows: list) -> list[list[Tensor]]:
    return [[b.weight.sqrt() / system.scale(r) for r in rr] for b, rr in zip(blocks, rows, strict=True)]


def _merit(
    collocation: Collocation, blocks: list[Block], values: list[Values | None], weights: list[list[Tensor]]
) -> float:
    """Sum of squared residuals, with the weights of one linearisation."""
    total = 0.0
    for block, v, w in zip(blocks, values, weights, strict=True):
        if v is None:
            continue
        for r, s in zip(collocation.residuals(block, v), w, strict=True):
            total += float((r * s).square().sum())
    return total if math.isfinite(total) else math.inf


def _between(values: list[Values | None], goal: list[Values | None], step: float) -> list[Values | None]:
    return [
        g if v is None or g is None else {i: v[i] + step * (g[i] - v[i]) for i in g}
        for v, g in zip(values, goal, strict=True)
    ]


def _distance(block: Block, values: Values | None, goal: Values | None) -> float:
    if values is None or goal is None:
        return math.inf
    w = block.weight.sqrt()[:, None]
    size = float(torch.linalg.vector_norm(w * goal[()])) or 1.0
    return float(torch.linalg.vector_norm(w * (goal[()] - values[()]))) / size
