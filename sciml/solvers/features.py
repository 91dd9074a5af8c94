"""Frozen multi-scale features fitted to the equation by least squares: no training, nothing to tune.

u = sum_j c_j phi_j, with sines and cosines up to a bandwidth, a few polynomials, and the functions that solutions have near
holes and corners (`families`, `singular`). The equation and every condition are rows of one matrix (`collocation`), scaled by
their quadrature weights and by the size of the operator at the bandwidth, and solved by QR without truncation
(`leastsquares`): the features are redundant, but the least-squares solution is accurate wherever a solution of moderate
size exists. For a nonlinear problem this is one step of Newton's method.

The bandwidth along each axis starts from the spectrum of the data (`sciml.theory.spectrum`). One factorisation holds the
solutions for all smaller bandwidths as well, because the columns are ordered, so the residuals at fresh points show how fast
the error falls with the bandwidth, and how much larger it must be. The error estimate is the distance of two of these nested
solutions times the ratio of their residuals.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from sciml.conditions import Dirichlet, Initial
from sciml.domain import Box
from sciml.problem import PDE, Elliptic, Evolution
from sciml.solution import Solution
from sciml.solvers.collocation import Block, Collocation, Rows
from sciml.solvers.families import VALUE, Family, Polynomials, degrees_up_to, lattice
from sciml.solvers.featurefield import FeatureField
from sciml.solvers.leastsquares import Factor, System
from sciml.solvers.singular import Powers, corner_features, hole_features
from sciml.theory.spectrum import bandwidth

__all__ = ["FeatureSolver"]

_FRACTIONS = (1.0, 0.85, 0.7)  # of the bandwidth, of the nested solutions


@dataclass(frozen=True)
class FeatureSolver:
    """Solve a problem with frozen features.

    Attributes:
        tolerance: relative L2 error to reach, as the solver itself estimates it.
        features: largest number of unknowns; a dense matrix of about twice as many rows is factorised.
        bandwidth: wavenumber to start from, one for all axes or one per axis; None takes it from the data.
        memory: largest size of the matrix in bytes.
    """

    tolerance: float = 1e-8
    features: int = 8000
    bandwidth: float | Sequence[float] | None = None
    memory: float = 4e9

    def __post_init__(self) -> None:
        """Check the numbers."""
        if not 1e-14 <= self.tolerance < 1:
            raise ValueError(f"tolerance is {self.tolerance}, but float64 can give 1e-14 at best, and 1 is no accuracy")
        if not (isinstance(self.features, int) and self.features >= 10):
            raise ValueError(f"features is {self.features!r}, but must be a whole number >= 10")

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
        stated = problem.pde() if isinstance(problem, Evolution) else problem
        search = _Search(self, Collocation(stated), torch.Generator().manual_seed(seed))
        attempt, status = search.run()
        return Solution(
            attempt.field,
            problem=problem,
            seconds=time.perf_counter() - begun,
            status=status,
            error_estimate=attempt.estimate,
            cost={
                "unknowns": attempt.field.size * search.collocation.components,
                "bandwidth": attempt.bandwidth.tolist(),
                "attempts": search.attempts,
            },
        )


@dataclass(frozen=True)
class _Attempt:
    """One least-squares solution with what fresh points say about it and its nested solutions."""

    field: FeatureField
    bandwidth: Tensor
    level: int
    estimate: float
    residuals: tuple[float, ...]
    differences: tuple[float, ...]


class _Search:
    """The loop that enlarges the features until the estimate meets the tolerance."""

    def __init__(self, solver: FeatureSolver, collocation: Collocation, generator: torch.Generator) -> None:
        self.solver, self.collocation, self.generator = solver, collocation, generator
        self.domain = collocation.problem.domain
        self.lower, self.upper = self.domain.bounds
        self.half = (self.upper - self.lower) / 2
        self.attempts = 0
        problem = collocation.problem
        self.harmonic = (
            isinstance(problem, Elliptic) and problem.constant_diffusion is not None and not problem.has_reaction
        )
        self.singular = bool(corner_features(self.domain, 6, True) or hole_features(self.domain, 1, True))

    # ------------------------------------------------------------------------------------------------------ the loop

    def run(self) -> tuple[_Attempt, str]:
        """The best attempt and a sentence about it."""
        kappa, level = self._start(), 0
        best: _Attempt | None = None
        reason = ""
        while True:
            found = self._attempt(kappa, level)
            if best is None or found.estimate < best.estimate:
                best = found
            if best.estimate <= self.solver.tolerance:
                break
            following = self._next(found, kappa, level)
            if following is None:
                reason = "more features did not help"
                break
            kappa, level = following
            if self._count(kappa, level) > self._limit:
                reason = f"{self._count(kappa, level)} features would exceed the limit of {self._limit}"
                break
        e = best.estimate
        if not reason:
            return best, f"converged: estimated relative error {e:.1e} with {best.field.size} features"
        return best, f"stopped at an estimated relative error of {e:.1e}: {reason}"

    @property
    def _limit(self) -> int:
        return min(self.solver.features, int(math.sqrt(self.solver.memory / 8 / 5)))

    def _start(self) -> Tensor:
        """Bandwidth in units of the half sides."""
        given = self.solver.bandwidth
        if given is not None:
            return torch.as_tensor(given, dtype=torch.float64).expand(self.domain.dim) * self.half
        problem = self.collocation.problem
        fields: list[tuple[Any, int, float]] = []
        if isinstance(problem, Elliptic):
            # what the operator does to the source is u; wiggles of a coefficient appear in u, divided by nothing
            fields = [(problem.source, 2, 0.03)]
            if problem.constant_diffusion is None:
                fields.append((problem.diffusion, 0, 0.1))
            if problem.has_reaction:
                fields.append((problem.reaction, 2, 0.1))
        found = bandwidth(fields, self.domain, self.generator) * self.half + 9
        while self._count(found, 0) > self._limit:
            found = found * 0.9
        return found

    def _next(self, found: _Attempt, kappa: Tensor, level: int) -> tuple[Tensor, int] | None:
        whole, _, low = found.residuals
        slope = math.log(max(low, 1e-300) / max(whole, 1e-300)) / (1 - _FRACTIONS[-1])
        needed = math.log(3 * found.estimate / self.solver.tolerance)
        growth = 1 + needed / slope if slope > 0.5 else math.inf
        if level == 0 and self.singular and growth > 1.6:
            return torch.minimum(kappa, torch.full_like(kappa, 14.0)), 8
        if self.attempts > 10:
            return None
        return kappa * min(max(growth, 1.15), 1.5), level + 4 if level else 0

    # ------------------------------------------------------------------------------------------------------- features

    def _families(self, kappa: Tensor, level: int) -> list[Family]:
        d = self.domain.dim
        found: list[Family] = [Polynomials(degrees_up_to({1: 6, 2: 6, 3: 3}[d], d), self.lower, self.upper)]
        if level:
            found += corner_features(self.domain, min(level, 12), self.harmonic)
            found += hole_features(self.domain, level, self.harmonic)
        period = 2 * self.half * (2.1 + 10 / kappa)
        found.append(lattice(kappa / self.half, period, self.lower, self.upper))
        return found

    def _count(self, kappa: Tensor, level: int) -> int:
        return sum(f.size for f in self._families(kappa, level)) * self.collocation.components

    # -------------------------------------------------------------------------------------------------------- one fit

    def _attempt(self, kappa: Tensor, level: int) -> _Attempt:
        self.attempts += 1
        system = System(self._families(kappa, level), kappa / self.half, self.collocation.components)
        points = self._points(system, kappa, level)
        blocks = self.collocation.blocks(generator=self.generator, **points)
        factor = Factor(system.matrix([(b, self.collocation.linearise(b)) for b in blocks]))
        waves = system.families[-1]
        fixed = system.size - waves.size
        k = (waves.wavenumbers / (kappa / self.half)).abs().amax(1)  # type: ignore[attr-defined]
        cuts = [fixed + int((k <= f + 1e-9).sum()) for f in _FRACTIONS]
        solutions = torch.stack([factor.solve(c) for c in cuts], 1)
        return self._judge(system, solutions, kappa, level, points)

    def _points(self, system: System, kappa: Tensor, level: int) -> dict[str, int]:
        d = self.domain.dim
        interior = int(1.5 * system.size) + 50
        per_length = 4 * float((kappa / self.half).max()) / math.pi
        boundary = int(min(self.domain.area * per_length ** (d - 1), system.size)) + 20
        special = [f.size for f in system.families if isinstance(f, Powers)]
        clustered = 3 * max(special, default=0) if not self.harmonic else 0
        return {"interior": interior, "boundary": boundary, "least": 4 * level + 8, "clustered": clustered}

    def _judge(
        self, system: System, solutions: Tensor, kappa: Tensor, level: int, points: dict[str, int]
    ) -> _Attempt:
        fresh = torch.Generator().manual_seed(1_000_003 + self.attempts)
        fewer = points | {"interior": min(points["interior"], 1500), "boundary": min(points["boundary"], 800)}
        blocks = self.collocation.blocks(generator=fresh, sobol=False, **fewer)
        held = system.matrix([(b, self.collocation.linearise(b)) for b in blocks])
        gaps = held[:, :-1] @ solutions - held[:, -1:]
        residuals = torch.linalg.vector_norm(gaps, dim=0).tolist()
        weight = blocks[0].weight.sqrt()[:, None]
        values = weight * (torch.cat([f.apply(blocks[0].x, VALUE) for f in system.families], 1) @ solutions)
        size = float(torch.linalg.vector_norm(values[:, 0])) or 1.0
        differences = [float(torch.linalg.vector_norm(values[:, i] - values[:, 0])) / size for i in (1, 2)]
        estimate = max(d * residuals[0] / max(r, 1e-300) for d, r in zip(differences, residuals[1:], strict=True))
        field = FeatureField(system.families, solutions[:, :1].clone())
        return _Attempt(field, kappa / self.half, level, estimate, tuple(residuals), tuple(differences))
