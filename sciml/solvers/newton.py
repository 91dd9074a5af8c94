"""Newton's method on the coefficients of features: each step is one least-squares solve of the linearised equation."""

from __future__ import annotations

import math
from collections.abc import Sequence
from copy import copy
from typing import Any, Protocol

import torch
from torch import Tensor

from sciml.problem import Elliptic
from sciml.solvers.collocation import Block, Collocation, Rows, Values
from sciml.training import Deadline

__all__ = ["Linearised", "newton"]

_STEPS = 30
_EXPONENT = 0.75  # by which p of the p-Laplacian grows from one problem to the next


class Linearised(Protocol):
    """What Newton's method asks of a linear system: `leastsquares.System` and `patches.PatchSystem`.

    Attributes:
        size: number of features.
        components: number of unknown functions.
    """

    @property
    def size(self) -> int:
        """See above."""
        ...

    @property
    def components(self) -> int:
        """See above."""
        ...

    def field(self, coefficients: Tensor) -> Any:
        """The function with these coefficients."""
        ...

    def values(self, collocation: Collocation, block: Block, field: Any) -> Values | None:
        """The derivatives of a field that a block's equations see; None without one or where they do not matter."""
        ...

    def factor(self, equations: Sequence[tuple[Block, list[Rows]]]) -> Any:
        """A factorisation; its `solve()` gives coefficients."""
        ...

    def scale(self, block: Block, rows: Rows) -> Tensor:
        """What rows are divided by, ``(n,)``."""
        ...


def newton(
    collocation: Collocation,
    system: Linearised,
    blocks: list[Block],
    before: Any,
    tolerance: float,
    clock: Deadline,
) -> tuple[Any, Any, str]:
    """Solve a nonlinear problem in a fixed set of features.

    Args:
        collocation: the problem.
        system: the features.
        blocks: points.
        before: where to start; None starts from zero, or for a p-Laplacian from smaller exponents.
        tolerance: relative size of the last step.
        clock: no step is begun after its time.

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
            _, before, _ = _iterate(easier, system, blocks, before, 1e-3, clock)
    return _iterate(collocation, system, blocks, before, tolerance, clock)


def _iterate(
    collocation: Collocation,
    system: Linearised,
    blocks: list[Block],
    start: Any,
    tolerance: float,
    clock: Deadline,
) -> tuple[Any, Any, str]:
    values = [system.values(collocation, b, start) for b in blocks]
    field = system.field(torch.zeros(system.size * system.components, dtype=torch.float64))
    fresh = start is not None  # the start may live in other features: the first step is a full one
    merit = math.inf
    note = "Newton's method did not converge"
    for _ in range(_STEPS):
        rows = [collocation.linearise(b, v) for b, v in zip(blocks, values, strict=True)]
        factor = system.factor(list(zip(blocks, rows, strict=True)))
        target = system.field(factor.solve())
        if not bool(target.coefficients.isfinite().all()):
            return factor, field, "Newton's method met numbers that are not finite"
        goal = [system.values(collocation, b, target) for b in blocks]
        weights = _weights(system, blocks, rows)
        merit = _merit(collocation, blocks, values, weights)
        step, accepted = 1.0, False
        while step > 1e-3 and not accepted:
            trial = _between(values, goal, step)
            reached = _merit(collocation, blocks, trial, weights)
            accepted = reached < merit * (1 - 1e-4 * step) or values[0] is None or (fresh and step == 1.0)
            step *= 1.0 if accepted else 0.5
        change = _distance(blocks[0], values[0], goal[0])
        moved = target if step == 1.0 or fresh else _combined(field, target, step)
        if not accepted or change < max(1e-2 * tolerance, 1e-13):
            # at the floor of rounding no step is downhill any more
            small = change < 1e-4
            return factor, (moved if accepted else (field if not small else target)), "" if small else note
        field, values, fresh = moved, trial, False
        if collocation.linear:
            return factor, field, ""
        if clock.over:
            return factor, field, "the time is over"
    return factor, field, note


def _combined(field: Any, target: Any, step: float) -> Any:
    moved = copy(target)
    moved.coefficients = field.coefficients + step * (target.coefficients - field.coefficients)
    return moved


def _weights(system: Linearised, blocks: list[Block], rows: list) -> list[list[Tensor]]:
    return [[b.weight.sqrt() / system.scale(b, r) for r in rr] for b, rr in zip(blocks, rows, strict=True)]


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
