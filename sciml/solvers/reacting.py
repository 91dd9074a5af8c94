"""Poisson's equation with a reaction in a ball or a box of three dimensions, for data of any bandwidth.

    -a Lap u + c(x) u = f,    u = T (f - c u),    T = the inverse of -a Lap with u's boundary values

T is a particular solution on a box (`boxes`, N functions per axis in O(N^4) operations) and, in a ball, harmonic
functions for the boundary, whose coefficients are integrals over the sphere. u + T (c u) = T f is an equation of the
second kind with a compact operator, so GMRES (Saad & Schultz 1986) takes few steps whatever N is, also where c jumps.
A mode of wavenumber 70 needs a million numbers in three dimensions, and no matrix is ever formed.
"""

from __future__ import annotations

import math
import time
from typing import Any

import numpy as np
import torch
from scipy.sparse.linalg import LinearOperator, gmres
from torch import Tensor

from sciml.conditions import Dirichlet
from sciml.domain import Ball, Box
from sciml.problem import Elliptic
from sciml.solvers.boxes import BoxSolver, TensorPolynomial, finite
from sciml.solvers.families import VALUE, Bubbles
from sciml.solvers.featurefield import FeatureField
from sciml.solvers.particular import Split
from sciml.solvers.solid import SolidHarmonics, reflections
from sciml.training import Deadline

__all__ = ["applies", "react"]

_COUNTS = (16, 24, 32, 48, 64, 96, 128)  # functions per axis of the box
_HIGHEST = 80  # degree of a solid harmonic, whose scale is a factorial
_LOW = 24  # degree of those that the reaction sees: it acts on higher ones divided by their square
_STEPS = 40  # of GMRES
_NUMBERS = 60  # vectors of the size of the grid that are kept at once
_CHECKED = 2000


def applies(problem: Any) -> bool:
    """Whether a problem is Poisson's with a reaction, in a whole ball or with zero values in a whole box."""
    if not isinstance(problem, Elliptic) or problem.dim != 3 or problem.p != 2 or not problem.has_reaction:
        return False
    if problem.constant_diffusion is None or problem.interfaces:
        return False
    if len(problem.conditions) != 1 or not isinstance(problem.conditions[0], Dirichlet):
        return False
    condition = problem.conditions[0]
    if isinstance(problem.domain, Box):
        return condition.on is None and not callable(condition.value) and condition.value == 0
    return isinstance(problem.domain, Ball) and condition.on is None


def react(problem: Elliptic, tolerance: float, memory: float, clock: Deadline) -> Split | None:
    """Solve a problem for which `applies`.

    Args:
        problem: the problem.
        tolerance: relative L2 error at which to stop.
        memory: in bytes; limits the number of functions.
        clock: nothing is begun that would end after its time.

    Returns:
        The solution with the least estimate; None if the source or the reaction cannot be evaluated all over the box,
        if the reaction is negative somewhere, or if the time or the memory allow no second solution.
    """
    x = problem.domain.interior(_CHECKED, torch.Generator().manual_seed(1), sobol=True)
    best: Split | None = None
    before, last, seconds = None, math.inf, 0.0
    for k, count in enumerate(_COUNTS):
        begun = time.perf_counter()
        growth = (count / _COUNTS[k - 1]) ** 4 if k else 1.0
        if begun + growth * seconds > clock.at or _NUMBERS * 8 * count**3 > memory:
            break
        try:
            field, left = _Equation(problem, count).solve(max(1e-3 * tolerance, 1e-13))
        except ValueError:
            break
        seconds = time.perf_counter() - begun
        values = field(x)
        if before is not None:
            distance = float((values - before).norm()) / (float(values.norm()) or 1.0)
            # at least of second order in the number of functions, once the data are resolved; before, distances fall
            # faster than errors
            estimate = max(
                (distance * min(0.5, max(distance / last, 0.1)) if last < math.inf else distance) + left, 1e-15
            )
            if best is None or estimate < best.estimate:
                best = Split(field, estimate, sum(f.size for f in field.families) - 1 + count**3)
            if estimate <= tolerance:
                break
            last = distance
        before = values
    return best


class _Equation:
    """u + T (c u) = T f with `count` functions per axis."""

    def __init__(self, problem: Elliptic, count: int) -> None:
        domain = problem.domain
        lower, upper = domain.bounds
        self.ball = domain if isinstance(domain, Ball) else None
        # away from the faces the particular solution is as smooth as f
        pad = 0.0 if self.ball is None else 0.05 * (upper - lower)
        box = Box(lower - pad, upper + pad)
        self.diffusion = float(problem.constant_diffusion or 1.0)
        self.poisson = BoxSolver(box, count, self.diffusion)
        self.points = self.poisson.points
        self.source = finite(problem.source, self.points)
        self.inside = domain.level(self.points) > 0
        self.weights = self.poisson.weights[self.inside]
        self.reaction = finite(problem.reaction, self.points[self.inside])
        if bool((self.reaction < 0).any()):
            raise ValueError("a negative reaction may leave the solution undetermined")
        condition = problem.conditions[0]
        assert isinstance(condition, Dirichlet)
        self.boundary = condition
        if self.ball is not None:
            # what lies outside does not matter inside, but f - c u should not jump: u continues as it ends
            outside = self.points[~self.inside] - self.ball.center
            ends = self.ball.center + self.ball.radius * torch.nn.functional.normalize(outside, dim=1)
            beyond = finite(problem.reaction, self.points[~self.inside]) * self.boundary.at(ends)
            self.source = self.source.masked_scatter(~self.inside, self.source[~self.inside] - beyond)
            self.coarse, self.fine = (_Sphere(self.ball, min(count, l), count) for l in (_LOW, _HIGHEST))  # noqa: E741
            self.smooth = _Harmonic(self.coarse.family, box, self.poisson)

    def solve(self, tolerance: float) -> tuple[FeatureField, float]:
        """The solution, and the relative size of what GMRES and the reaction on high harmonics may still change."""
        start = self._inverse(self.source, None if self.ball is None else self.fine, self.boundary)
        right = self._at_points(*start)

        def matvec(u: np.ndarray) -> np.ndarray:
            v = torch.from_numpy(np.asarray(u).reshape(-1))
            sphere = None if self.ball is None else self.coarse
            return (v + self._at_points(*self._inverse(self._moved(v), sphere))).numpy()

        operator = LinearOperator((len(right),) * 2, matvec=matvec, dtype=np.float64)
        u, failed = gmres(operator, right.numpy(), rtol=tolerance, atol=0.0, restart=_STEPS, maxiter=1)
        if failed:
            raise ValueError(f"GMRES did not converge in {_STEPS} steps")
        rest = self.source - self._moved(torch.from_numpy(u))
        particular, harmonic = self._inverse(rest, None if self.ball is None else self.fine, self.boundary)
        # what one more step changes is more than what is still wrong
        size = float(self._norm(torch.from_numpy(u))) or 1.0
        left = float(self._norm(self._at_points(particular, harmonic) - torch.from_numpy(u))) / size
        one = torch.ones(1, dtype=torch.float64)
        if harmonic is None:
            return FeatureField([particular], one[:, None]), left
        field = FeatureField([particular, self.fine.family], torch.cat([one, harmonic])[:, None])
        return field, left + self._left_out(harmonic) / size

    def _inverse(
        self, data: Tensor, sphere: _Sphere | None, boundary: Any = None
    ) -> tuple[TensorPolynomial, Tensor | None]:
        """T of a source: the particular solution and the coefficients of the harmonic functions."""
        particular = self.poisson.solve(data)
        if sphere is None:
            return particular, None
        given = torch.zeros(()) if boundary is None else boundary.at(sphere.points)
        return particular, sphere.project(given - sphere.trace(particular))

    def _at_points(self, particular: TensorPolynomial, harmonic: Tensor | None) -> Tensor:
        values = self.poisson.values(particular)
        return (values if harmonic is None else values + self.smooth(harmonic))[self.inside]

    def _moved(self, u: Tensor) -> Tensor:
        """C u at all points of the box, from u at those inside."""
        return torch.zeros_like(self.source).masked_scatter(self.inside, self.reaction * u)

    def _norm(self, u: Tensor) -> Tensor:
        """The L2 norm of values at the points that lie inside."""
        return (self.weights * u.square()).sum().sqrt()

    def _left_out(self, harmonic: Tensor) -> float:
        """Norm of T (c v) of the harmonic functions v of high degree l: at most c / (a l^2) times that of v."""
        assert self.ball is not None
        low, radius = self.coarse.family.size, float(self.ball.radius)
        high = harmonic[low:]
        if not len(high):
            return 0.0
        l = self.fine.degrees[low:]  # noqa: E741
        square = self.fine.norms[low:] * high.square() / (2 * l + 3)
        c = float(self.reaction.max())
        return math.sqrt(float(square.sum()) * radius**3) * c * radius**2 / (self.diffusion * float(l[0]) ** 2)


class _Sphere:
    """Solid harmonics in a ball and the quadrature of its surface that finds their coefficients.

    Args:
        ball: the ball.
        degree: highest of the harmonics.
        rule: highest of the data that do not fold back.
    """

    def __init__(self, ball: Ball, degree: int, rule: int) -> None:
        once = reflections(ball.center, 0.0, *ball.bounds)
        self.family = SolidHarmonics(ball.center, float(ball.radius), degree, False, once)
        self.degrees = torch.tensor([l for l in range(degree + 1) for _ in range(2 * l + 1)])  # noqa: E741
        z, w = (torch.from_numpy(t) for t in np.polynomial.legendre.leggauss(rule + 1))
        angles = 2 * math.pi * torch.arange(2 * rule + 2, dtype=torch.float64) / (2 * rule + 2)
        z, phi = (t.reshape(-1) for t in torch.meshgrid(z, angles, indexing="ij"))
        rho = torch.sqrt(1 - z * z)
        unit = torch.stack([rho * torch.cos(phi), rho * torch.sin(phi), z], 1)
        self.points = ball.center + ball.radius * unit
        self._rings = (rule + 1, len(angles))
        self.weights = w.repeat_interleave(len(angles)) * (2 * math.pi / len(angles))
        table = self.family.apply(self.points, VALUE)
        #: integrals of squares over the unit sphere
        self.norms = self.weights @ table.square()
        self._table = table.mul_(self.weights[:, None])

    def trace(self, particular: TensorPolynomial) -> Tensor:
        """Values at `points`, ring after ring: the third coordinate is the same all along a ring."""
        count = particular.coefficients.shape[0]
        y = (2 * self.points - particular.lower - particular.upper) / (particular.upper - particular.lower)
        y = y.reshape(*self._rings, 3)
        ring = Bubbles._table(y[:, 0, 2], count - 1, 0)[0]
        plane = torch.tensordot(ring, particular.coefficients, ([1], [2]))
        first, second = (Bubbles._table(y[..., i].reshape(-1), count - 1, 0)[0] for i in (0, 1))
        first, second = (t.reshape(*self._rings, count) for t in (first, second))
        return ((first @ plane) * second).sum(-1).reshape(-1)

    def project(self, values: Tensor) -> Tensor:
        """Coefficients of the harmonic function with these values at `points`."""
        return values @ self._table / self.norms


class _Harmonic:
    """Solid harmonics of low degree at the points of a box: polynomials, so that a coarse grid holds them exactly."""

    def __init__(self, family: SolidHarmonics, box: Box, solver: BoxSolver) -> None:
        degree = family.degree
        nodes = np.polynomial.legendre.leggauss(degree + 1)[0]
        fine = np.polynomial.legendre.leggauss(len(solver.table))[0]
        to = np.polynomial.legendre.legvander(fine, degree) @ np.linalg.inv(
            np.polynomial.legendre.legvander(nodes, degree)
        )
        self.size, self._to, self._shape = family.size, torch.from_numpy(to), [degree + 1] * 3
        half = (box.upper - box.lower) / 2
        x = (box.lower + box.upper) / 2 + half * torch.cartesian_prod(*[torch.from_numpy(nodes)] * 3)
        self._table = family.apply(x, VALUE)

    def __call__(self, coefficients: Tensor) -> Tensor:
        """Values at all points; coefficients of higher degrees are left out."""
        data = (self._table @ coefficients[: self.size]).reshape(self._shape)
        for axis in range(3):
            data = torch.tensordot(self._to, data, ([1], [axis])).movedim(0, axis)
        return data.reshape(-1)
