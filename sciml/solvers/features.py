"""Frozen multi-scale features fitted to the equation by least squares: no training, nothing to tune.

u = sum_j c_j phi_j, with sines and cosines up to a bandwidth, a few polynomials, and the functions that solutions
have near holes and corners (`families`, `singular`). The equation and every condition are rows of one matrix
(`collocation`), scaled by their quadrature weights and by the size of the operator at the bandwidth, and solved by QR
without truncation (`leastsquares`): the features are redundant, but the least-squares solution is accurate wherever a
solution of moderate size exists. For a nonlinear problem this is one step of Newton's method.

The bandwidth along each axis starts from the spectrum of the data (`sciml.theory.spectra`). One factorisation holds
the solutions for all smaller bandwidths as well, because the columns are ordered, so the residuals at fresh points
show how fast the error falls with the bandwidth, and how much larger it must be. The error estimate is the distance
of two of these nested solutions times the ratio of their residuals.

Where that takes more features than are allowed, or a nonlinear equation has a time to march along, the features are
local ones on a partition of unity, whose cells halve where they must (`local`).

Three kinds of problems take another road: a p-Laplacian on an interval, whose energy degenerates where u' = 0 and whose
flux does not (`flux`), Poisson's equation in three dimensions on boxes and balls minus balls (`particular`), and with a
reaction on boxes and balls (`reacting`).
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from sciml.domain import Box
from sciml.problem import PDE, Elliptic, Evolution
from sciml.solution import Solution, check_tolerance
from sciml.solvers import flux, particular, reacting, transient
from sciml.solvers.ansatz import Ansatz, fitted, start
from sciml.solvers.bases import Basis
from sciml.solvers.collocation import Block, Collocation
from sciml.solvers.families import VALUE
from sciml.solvers.featurefield import FeatureField
from sciml.solvers.leastsquares import UNDETERMINED, Factor, Normal, System
from sciml.solvers.local import solve_locally
from sciml.solvers.newton import newton
from sciml.training import Deadline

__all__ = ["FeatureSolver"]

_LOCAL = 20  # times as many local features as global ones are allowed: their matrix is sparse
_HELD = 1500  # fresh points at most
_BYTES = {1: 25_000, 2: 25_000, 3: 80_000}  # of a sparse factor per local feature, by dimension
_WORK = 3.5  # floating-point operations of a QR of twice as many rows as columns, over the cube of the latter
_SPEED = 5e9  # operations a second, at least: a first attempt of which the whole time allows


@dataclass(frozen=True)
class FeatureSolver:
    """Solve a problem with frozen features.

    Attributes:
        tolerance: relative L2 error to reach, as the solver itself estimates it.
        features: largest number of unknowns that are not local; a dense matrix of about twice as many rows is
            factorised. Local ones, whose matrix is sparse, may be twenty times as many.
        bandwidth: wavenumber to start from, one for all axes or one per axis; None takes it from the data.
        memory: largest size of the matrix in bytes.
        seconds: after which no enlargement and no step of Newton's method is begun.
        basis: the features: `Sines()`, `Neurons(tanh)`, `Neurons(phi)` or any other `Basis`; None takes waves with a
            few polynomials for the whole domain, and polynomials for cells.
        local: whether every cell of a partition of unity has features of its own; None takes global ones where they
            are few enough and reach the tolerance.
    """

    tolerance: float = 1e-8
    features: int = 9000
    bandwidth: float | Sequence[float] | None = None
    memory: float = 4e9
    seconds: float = math.inf
    basis: Basis | None = None
    local: bool | None = None

    def __post_init__(self) -> None:
        """Check the numbers."""
        check_tolerance(self.tolerance)
        if not (isinstance(self.features, int) and self.features >= 10):
            raise ValueError(f"features is {self.features!r}, but must be a whole number >= 10")
        if not self.memory > 0:
            raise ValueError(f"memory is {self.memory!r}, but must be a positive number of bytes")
        if not self.seconds > 0:
            raise ValueError(f"seconds is {self.seconds!r}, but must be positive")
        if self.basis is not None and not callable(self.basis):
            raise TypeError(f"basis is {self.basis!r}, but must be a Basis such as Sines() or Neurons(tanh), or None")
        if self.local not in (None, True, False):
            raise TypeError(f"local is {self.local!r}, but must be True, False or None")

    def solve(
        self,
        problem: Elliptic | PDE | Evolution,
        seed: int = 0,
        callbacks: Sequence[Callable[[Any], Any]] = (),
        checkpoint: str | None = None,
    ) -> Solution:
        """Fit features to `problem`.

        Args:
            problem: what to solve.
            seed: of the points.
            callbacks: ignored; there is no training.
            checkpoint: ignored.
        """
        begun = time.perf_counter()
        clock = Deadline(begun + self.seconds)
        best = self._otherwise(problem, clock, begun) if self.basis is None and self.local is None else None
        if best is not None and (_estimate_of(best) <= self.tolerance or flux.applies(problem)):
            return best
        stated = problem.pde() if isinstance(problem, Evolution) else problem
        collocation = Collocation(stated)
        if best is None and self.basis is None and self.local is None and transient.applies(problem, collocation):
            best = self._in_time(problem, seed, clock, begun)
            if best is not None and _estimate_of(best) <= self.tolerance:
                return best
        if self.local:
            return self._only_locally(problem, collocation, clock, begun)
        search = _Search(self, collocation, torch.Generator().manual_seed(seed), clock)
        roads: list[Callable[[], Solution | None]] = [search.solution]
        if self.local is None:
            roads.append(lambda: _locally(self, problem, collocation, clock))
        for road in reversed(roads) if search.hopeless else roads:
            if best is not None and (_estimate_of(best) <= self.tolerance or search.undetermined or clock.over):
                break
            found = road()
            if found is not None and (best is None or _estimate_of(found) < _estimate_of(best)):
                best = found
        assert best is not None
        return replace(best, problem=problem, seconds=time.perf_counter() - begun)

    def _otherwise(self, problem: Any, clock: Deadline, begun: float) -> Solution | None:
        """Roads that some problems may take before features are fitted at points."""
        if flux.applies(problem):
            found = flux.integrate(problem, self.tolerance)
            cost = {"unknowns": found.unknowns, "panels": found.panels}
            return self._told(problem, found, f"by integrating the flux on {found.panels} panels", cost, begun)
        if particular.applies(problem):
            limit = min(self.features, int(math.sqrt(self.memory / 40)))
            split = particular.split(problem, self.tolerance, limit)
            how = "by a particular solution on a box and harmonic functions"
            return None if split is None else self._told(problem, split, how, {"unknowns": split.unknowns}, begun)
        if reacting.applies(problem):
            moved = reacting.react(problem, self.tolerance, self.memory, clock)
            how = "by solutions of Poisson's equation on a box, with the reaction moved to the right"
            return None if moved is None else self._told(problem, moved, how, {"unknowns": moved.unknowns}, begun)
        return None

    def _in_time(self, problem: Any, seed: int, clock: Deadline, begun: float) -> Solution | None:
        """Stages in time, each of which is solved with features in space."""
        waves = [self.bandwidth]  # what one stage needs, so will the next

        def elliptic(stage: PDE, tolerance: float) -> Solution:
            left = max(clock.at - time.perf_counter(), 1e-3)
            solver = replace(self, tolerance=tolerance, seconds=left, local=False, bandwidth=waves[-1])
            found = solver.solve(stage, seed)
            assert found.cost is not None
            waves.append(found.cost["bandwidth"])
            return found

        found = transient.march(problem, self.tolerance, clock, elliptic)
        if found is None:
            return None
        how = f"by stages on {found.slabs} slabs of time"
        return self._told(problem, found, how, {"unknowns": found.unknowns, "slabs": found.slabs}, begun)

    def _told(self, problem: Any, found: Any, how: str, cost: dict[str, Any], begun: float) -> Solution:
        met = "converged:" if found.estimate <= self.tolerance else "stopped at an"
        return Solution(
            found.field,
            problem=problem,
            seconds=time.perf_counter() - begun,
            status=f"{met} estimated relative error {found.estimate:.1e} {how}",
            error_estimate=found.estimate,
            cost=cost,
        )

    def _only_locally(self, problem: Any, collocation: Collocation, clock: Deadline, begun: float) -> Solution:
        if collocation.problem.dim > 3:
            raise ValueError(
                f"local is True, but the problem has {collocation.problem.dim} dimensions and cells at most 3"
            )
        if collocation.problem.order > 2:
            raise ValueError(
                f"local is True, but the equation has order {collocation.problem.order} and cells take two"
            )
        found = _locally(self, problem, collocation, clock)
        if found is None:
            raise ValueError(f"features={self.features} and memory={self.memory:g} allow no first choice of cells")
        return replace(found, seconds=time.perf_counter() - begun)


def _estimate_of(solution: Solution) -> float:
    return math.inf if solution.error_estimate is None else solution.error_estimate


def _locally(
    solver: FeatureSolver, problem: Elliptic | PDE | Evolution, collocation: Collocation, clock: Deadline
) -> Solution | None:
    """Local features on a partition of unity, if there are any for the problem."""
    if collocation.problem.dim > 3 or collocation.problem.order > 2:  # windows are differentiated twice
        return None
    space = problem.space if isinstance(problem, Evolution) and not isinstance(problem.space, Box) else None
    limit = min(_LOCAL * solver.features, int(solver.memory / _BYTES[collocation.problem.dim]))
    found = solve_locally(collocation, solver.tolerance, limit, clock, space, solver.basis)
    if found is None:
        return None
    e, unknowns = found.estimate, found.field.size * collocation.components
    kind = f"{unknowns} local features on {found.cells} cells"
    if e <= solver.tolerance and not found.note:
        status = f"converged: estimated relative error {e:.1e} with {kind}"
    else:
        status = f"stopped at an estimated relative error of {e:.1e} with {kind}: {found.note}"
    cost = {"unknowns": unknowns, "cells": found.cells, "attempts": found.attempts}
    return Solution(found.field, problem=problem, status=status, error_estimate=e, cost=cost)


@dataclass(frozen=True)
class _Attempt:
    """One least-squares solution with what fresh points say about it and its nested solutions.

    Attributes:
        field: the solution.
        ansatz: its features.
        estimate: of its relative error.
        residuals: scaled norm of the residual at fresh points, of the solution and of the nested ones.
        note: what went wrong, if anything.
    """

    field: FeatureField
    ansatz: Ansatz
    estimate: float
    residuals: tuple[float, ...]
    note: str = ""


class _Search:
    """The loop that enlarges the features until the estimate meets the tolerance."""

    def __init__(
        self, solver: FeatureSolver, collocation: Collocation, generator: torch.Generator, clock: Deadline
    ) -> None:
        self.solver, self.collocation, self.generator, self.clock = solver, collocation, generator, clock
        self.limit = min(solver.features, int(math.sqrt(solver.memory / 40)))
        self.affordable = int((solver.seconds * _SPEED / _WORK) ** (1 / 3)) if solver.seconds < math.inf else 10**9
        self.attempts = 0
        #: whether something may be added to the solution, whatever the features
        self.undetermined = False
        self.first = start(collocation, solver.tolerance, solver.bandwidth, self.limit, generator, solver.basis)

    @property
    def hopeless(self) -> bool:
        """Whether local features are the better choice: far fewer numbers, or a time to march along."""
        if self.solver.bandwidth is not None or self.solver.local is False:
            return False
        marches = self.collocation.marches and not self.collocation.linear
        return self.first.size * self.collocation.components > self.limit or marches

    def solution(self) -> Solution:
        """The best that waves, polynomials and singular functions on the whole domain can do."""
        attempt, status = self.run()
        return Solution(
            attempt.field,
            status=status,
            error_estimate=attempt.estimate,
            cost={
                "unknowns": attempt.field.size * self.collocation.components,
                "bandwidth": attempt.ansatz.bandwidth.tolist(),
                "attempts": self.attempts,
            },
        )

    def run(self) -> tuple[_Attempt, str]:
        """The best attempt and a sentence about it."""
        ansatz: Ansatz | None = self.first
        if self.solver.bandwidth is None:
            ansatz = fitted(self.first, min(self.limit, self.affordable) // self.collocation.components)
        best: _Attempt | None = None
        reason = "more features did not help" if ansatz else "they allow no choice of features"
        last, seconds = 1, 0.0
        while ansatz is not None and self.attempts < 12:
            size = ansatz.size * self.collocation.components
            if size > self.limit:
                reason = f"{size} features would exceed the limit of {self.limit} set by features= and memory="
                break
            begun = time.perf_counter()
            if best is not None and begun + seconds * min((size / last) ** 3, 8.0) > self.clock.at:
                reason = "the time is over"
                break
            found = self._attempt(ansatz, None if best is None or best.note else best.field)
            last, seconds = size, time.perf_counter() - begun
            if best is None or found.estimate < best.estimate:
                best = found
            reason = found.note or "more features did not help"
            if found.note and self.collocation.linear:
                break
            if not best.note and best.estimate <= self.solver.tolerance:
                e, n = best.estimate, best.field.size
                return best, f"converged: estimated relative error {e:.1e} with {n} features"
            excess = found.estimate / self.solver.tolerance
            ansatz = ansatz.larger(found.residuals, excess, found.field.coefficients[:, 0])
        if best is None:
            raise ValueError(
                f"features={self.solver.features} and memory={self.solver.memory:g} are too small: {reason}"
            )
        return best, f"stopped at an estimated relative error of {best.estimate:.1e}: {reason}"

    # -------------------------------------------------------------------------------------------------------- one fit

    def _attempt(self, ansatz: Ansatz, before: FeatureField | None) -> _Attempt:
        self.attempts += 1
        # moderate coefficients, where features are singular and where a step of Newton's method only half knows its way
        damping = 1e-3 * self.solver.tolerance if ansatz.damped or not self.collocation.linear else 0.0
        components = self.collocation.components
        order = ansatz.order if components == 1 else None
        independent = ansatz.independent and self.collocation.linear
        system = System(ansatz.families, ansatz.bandwidth, components, damping, order, independent)
        points: dict[str, Any] = dict(ansatz.points)
        blocks = self.collocation.blocks(generator=self.generator, **points)
        fresh = torch.Generator().manual_seed(1_000_003 + self.attempts)
        fewer: dict[str, Any] = {k: min(v, _HELD) for k, v in ansatz.points.items()}
        if self.collocation.problem.dim == 1:
            fewer["interior"] = max(_HELD, 4 * ansatz.size)  # cheap on a line, and a layer must not hide between them
        held = self.collocation.blocks(generator=fresh, sobol=False, **fewer)
        if self.collocation.linear:
            factor = system.factor([(b, self.collocation.linearise(b)) for b in blocks])
            field, note = system.field(factor.solve()), ""
        else:
            factor, field, note = newton(self.collocation, system, blocks, before, self.solver.tolerance, self.clock)
        return self._judge(system, ansatz, factor, field, held, note)

    def _judge(
        self, system: System, ansatz: Ansatz, factor: Factor | Normal, field: FeatureField, held: list[Block], note: str
    ) -> _Attempt:
        """Residuals at fresh points, of the solution and of nested ones, and the estimate that follows."""
        about = [None if self.collocation.linear else system.values(self.collocation, b, field) for b in held]
        matrix = system.matrix([(b, self.collocation.linearise(b, v)) for b, v in zip(held, about, strict=True)])
        columns = [factor.size, *ansatz.cuts] if system.components == 1 else [factor.size]
        solutions = torch.stack([factor.solve(c) for c in columns], 1)
        solutions[:, 0] = field.coefficients.T.reshape(-1)
        gaps = torch.linalg.vector_norm(matrix[:, :-1] @ solutions - matrix[:, -1:], dim=0).tolist()
        weight = held[0].weight.sqrt()[:, None]
        basis = weight * torch.cat([f.apply(held[0].x, VALUE) for f in system.families], 1)
        size = float(torch.linalg.vector_norm(basis @ field.coefficients)) or 1.0
        if system.components == 1:
            distances = torch.linalg.vector_norm(basis @ (solutions[:, 1:] - solutions[:, :1]), dim=0).tolist()
            estimate = _estimate([d / size for d in distances], gaps, gaps[0] / size, ansatz.damped)
        else:
            estimate = gaps[0] / size
        if self.collocation.problem.dim == 1:  # where it costs little: what depends on the points is no solution
            other = system.factor([(b, self.collocation.linearise(b, v)) for b, v in zip(held, about, strict=True)])
            gap = basis @ (system.field(other.solve()).coefficients - field.coefficients)
            estimate = max(estimate, float(torch.linalg.vector_norm(gap)) / size)
        # a solution that leaves most of the right-hand side unexplained is none, however stable it looks
        data = float(torch.linalg.vector_norm(matrix[:, -1])) or 1.0
        estimate = max(estimate, 0.02 * gaps[0] / data if self.collocation.linear else 0.0, 1e-15)
        if self.collocation.linear and self._free(basis, matrix, factor):
            estimate, note = math.inf, UNDETERMINED
            self.undetermined = True
        elif not math.isfinite(estimate):
            estimate, note = math.inf, "the equations gave numbers that are not finite"
        return _Attempt(field, ansatz, estimate, tuple(gaps), note)

    def _free(self, basis: Tensor, matrix: Tensor, factor: Factor | Normal) -> bool:
        """Whether a function of size one satisfies all homogeneous equations.

        The function with the least residual for its value at a point has coefficients (A^T A)^-1 phi(x) = R^-1 R^-T
        phi(x), and 1 / |R^-T phi(x)| is that residual where R is exact.
        """
        if factor.free:
            return True
        point = (basis[:4] / torch.linalg.vector_norm(basis[:4], dim=1, keepdim=True)).T
        if factor.size != len(point) or factor.damped:
            return False
        order = slice(None) if factor.order is None else factor.order
        r, point = factor.triangle[:-1, :-1], point[order] / factor.norms[:, None]
        y = torch.linalg.solve_triangular(r.T, point, upper=False)
        if isinstance(factor, Factor):
            return bool((torch.linalg.vector_norm(y, dim=0) > 1e9).all())
        c = torch.empty_like(y)
        c[order] = torch.linalg.solve_triangular(r, y, upper=True) / factor.norms[:, None]
        residual, value = (torch.linalg.vector_norm(m @ c, dim=0) for m in (matrix[:, :-1], basis))
        return bool((residual < 1e-6 * value).all())


def _estimate(distances: list[float], gaps: list[float], residual: float, singular: bool) -> float:
    """The relative error, from the distances of nested solutions and the residuals of the solution and of these.

    With singular functions the distances err to the low side, since the nested systems lack the same functions, and the
    residual to the high side, since it is largest where it matters least: their geometric mean counts.
    """
    estimates = [max(d * gaps[0] / max(g, 1e-300), 1e-17) for d, g in zip(distances, gaps[1:], strict=True)]
    if singular:
        return math.sqrt(max(estimates) * residual)
    return math.exp(sum(map(math.log, estimates)) / len(estimates))
