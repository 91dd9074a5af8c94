"""The p-Laplacian on an interval through its flux.

The energy of -(a |u'|^(p-2) u')' = f is flat to the power p where u' = 0, so descending it finds few digits there. The
flux s = a |u'|^(p-2) u' obeys the linear equation -s' = f, of which everything but one constant is a quadrature, and

    u' = sign(s) (|s| / a)^(1 / (p - 1))

is a function of it. The root of order 1 / (p - 1) magnifies an error of s near its zeros: with the constant in double
precision, p = 8 leaves four digits. So the unknown is the *place* x0 of a zero of s instead of the constant, and
s(x) = -int_x0^x f is summed outwards from there, which keeps its relative precision; x0 follows from the boundary
values. Panels of Gauss points are halved until f and u' are resolved.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from scipy.optimize import brentq

from sciml.conditions import Dirichlet, Neumann, Robin
from sciml.domain import Box
from sciml.problem import PDE, Elliptic, Evolution
from sciml.solvers.panels import PanelField, Panels

__all__ = ["Integrated", "applies", "integrate"]

_ORDERS = (16, 22)  # points a panel of the solution, and of the second one that it is measured against
_EPS = float(np.finfo(float).eps)
_PANELS = 20000


@dataclass(frozen=True)
class Integrated:
    """What `integrate` found.

    Attributes:
        field: the solution.
        estimate: of its relative L2 error, from a second solution on other points and from rounding of the flux.
        unknowns: coefficients of the field.
        panels: on which they live.
        zeros: places where the flux changes its sign.
    """

    field: PanelField
    estimate: float
    unknowns: int
    panels: int
    zeros: list[float]


def applies(problem: Elliptic | PDE | Evolution) -> bool:
    """Whether a problem is a p-Laplacian on an interval without reaction, with p != 2 and a condition at each end."""
    if not isinstance(problem, Elliptic) or problem.linear or problem.has_reaction:
        return False
    if problem.dim != 1 or not isinstance(problem.domain, Box):
        return False
    if not all(isinstance(c, (Dirichlet, Neumann, Robin)) for c in problem.conditions):
        return False
    ends = _ends(problem)
    return not (ends[0].slope == ends[1].slope == 0) and all(e.value >= 0 for e in ends)


class _End(NamedTuple):
    """A condition ``slope * u + value * conormal = given``, with one of slope and value equal to one or both set."""

    slope: float
    value: float
    given: float


def _ends(problem: Elliptic) -> list[_End]:
    points = torch.stack(list(problem.domain.bounds)).to(torch.float64)
    labels = torch.tensor([0, 1])
    found: dict[int, _End] = {}
    for condition, mask in problem.partition(points, labels):
        for i in torch.nonzero(mask)[:, 0].tolist():
            x = points[i : i + 1]
            given = float(condition.at(x))  # type: ignore[attr-defined]
            if isinstance(condition, Dirichlet):
                found[i] = _End(1.0, 0.0, given)
            elif isinstance(condition, Neumann):
                found[i] = _End(0.0, 1.0, given)
            else:
                assert isinstance(condition, Robin)
                found[i] = _End(float(condition.coefficient_at(x)), 1.0, given)
    return [found[0], found[1]]


class _Profile(NamedTuple):
    """Flux and slope on panels, and what the ends say of them."""

    panels: Panels
    flux: np.ndarray
    slope: np.ndarray
    start: float  # u at the left end
    gap: float  # by which the condition at the other end fails


class _Line:
    """One problem at one order of its panels.

    Args:
        problem: such that `applies`.
        order: points a panel.
        tolerance: relative, of f and u' on each panel.
    """

    def __init__(self, problem: Elliptic, order: int, tolerance: float) -> None:
        self.problem, self.order, self.tolerance = problem, order, tolerance
        self.left, self.right = (float(b[0]) for b in problem.domain.bounds)
        self.ends = _ends(problem)
        edges = np.linspace(self.left, self.right, 9)
        sides = [float(b[0]) for region in problem.interfaces for b in region.bounds]  # the slope jumps there
        edges = np.unique(np.append(edges, [s for s in sides if self.left < s < self.right]))
        base = Panels(edges, self._sample, order)
        self._refine(base, lambda p: p.tail(p.values[..., 0]) * p.half > tolerance * self._load(p))
        self.base, self.load = base.edges, self._load(base)

    def _sample(self, x: np.ndarray) -> np.ndarray:
        points = torch.from_numpy(np.ascontiguousarray(x))[:, None]
        source, diffusion = self.problem.source(points), self.problem.diffusion(points)
        return torch.stack([source.detach(), diffusion.detach()], 1).numpy()

    @staticmethod
    def _load(p: Panels) -> float:
        """The integral of |f|."""
        return float((np.abs(p.values[..., 0]) @ p.rule.weights) @ p.half)

    def _refine(self, panels: Panels, bad: Callable[[Panels], np.ndarray]) -> None:
        smallest = 4 * _EPS * max(abs(self.left), abs(self.right), self.right - self.left)
        for _ in range(60):
            mask = bad(panels) & (panels.half > smallest)
            if not mask.any() or len(mask) + mask.sum() > _PANELS:
                return
            panels.split(mask)

    def profile(self, anchor: float, flux: float, tolerance: float) -> _Profile:
        """The solution of the equation whose flux at `anchor` is `flux`."""
        edges = np.append(self.base, anchor)
        if flux == 0:  # u' has a root there: panels that shrink towards it from the start
            steps = (self.right - self.left) * 2.0 ** -np.arange(2, 42)
            graded = np.concatenate([anchor - steps, anchor + steps])
            edges = np.append(edges, graded[(graded > self.left) & (graded < self.right)])
        edges = np.unique(edges)
        panels = Panels(edges, self._sample, self.order)
        state: list[np.ndarray] = []

        def bad(p: Panels) -> np.ndarray:
            s = self._flux(p, anchor, flux)
            v = np.sign(s) * (np.abs(s) / p.values[..., 1]) ** (1 / (self.problem.p - 1))
            state[:] = [s, v]
            size = np.abs(v).max(1) * p.half
            total = size.sum() or 1.0
            # an error of f enters u' relative to the flux, and matters as far as the panel holds some of u
            share = p.tail(p.values[..., 0]) * p.half / np.maximum(np.abs(s).max(1), 1e-300)
            return (p.tail(v) * p.half > tolerance * total) | (share * size > tolerance * total)

        self._refine(panels, bad)
        bad(panels)
        s, v = state
        rise = float((v @ panels.rule.weights) @ panels.half)
        start, gap = self._close(panels, s, rise)
        return _Profile(panels, s, v, start, gap)

    def _flux(self, p: Panels, anchor: float, flux: float) -> np.ndarray:
        """The flux at all points, summed outwards from the anchor."""
        f, half = p.values[..., 0], p.half
        whole = (f @ p.rule.weights) * half
        right = p.edges[:-1] >= anchor
        first = int(np.argmax(right)) if right.any() else len(half)
        after = np.concatenate([[0.0], np.cumsum(whole[first:])[:-1]]) if first < len(half) else np.zeros(0)
        before = np.cumsum(whole[:first][::-1])[::-1]
        before = np.append(before[1:], 0.0) if first else np.zeros(0)
        s = np.empty_like(f)
        s[first:] = flux - (after[:, None] + half[first:, None] * (f[first:] @ p.rule.rising.T))
        s[:first] = flux + (before[:, None] + half[:first, None] * (f[:first] @ p.rule.falling.T))
        return s

    def _close(self, p: Panels, s: np.ndarray, rise: float) -> tuple[float, float]:
        """The left value of u and the gap at the right one, from the fluxes at both."""
        f = p.values[..., 0]
        low = float(s[0, 0] + p.half[0] * (f[0] @ p.rule.rising[0]))
        high = float(s[-1, -1] - p.half[-1] * (f[-1] @ p.rule.falling[-1]))
        left, right = self.ends
        if left.slope:
            start = (left.given + left.value * low) / left.slope
            return start, right.slope * (start + rise) + right.value * high - right.given
        start = (right.given - right.value * high) / right.slope - rise
        return start, left.given + low

    # ------------------------------------------------------------------------------------------------ the one unknown

    def solve(self) -> tuple[_Profile, float | None]:
        """The solution and the place of the zero that it was summed from, None if the flux is known at an end."""
        left, right = self.ends
        if left.slope == 0:
            return self.profile(self.left, -left.given, self.tolerance), self.left if left.given == 0 else None
        if right.slope == 0:
            return self.profile(self.right, right.given, self.tolerance), self.right if right.given == 0 else None
        span, reach = self.right - self.left, self.load + 1e-3 * (abs(left.given) + abs(right.given)) or 1.0
        constant = self._root(lambda s: (self.left, s), 0.0, reach, 1e-7, math.inf)
        if constant is None:
            raise ValueError("the boundary values cannot be met: no flux gives them")
        for low, high in _crossings(self.profile(self.left, constant, 1e-7)):
            place = self._root(lambda x: (x, 0.0), (low + high) / 2, high - low, 1e-7, span)
            if place is not None:
                place = self._root(lambda x: (x, 0.0), place, 1e-4 * span, self.tolerance, span)
            if place is not None:
                return self.profile(place, 0.0, self.tolerance), place
        sharp = self._root(lambda s: (self.left, s), constant, 1e-6 * reach, self.tolerance, math.inf)
        return self.profile(self.left, constant if sharp is None else sharp, self.tolerance), None

    def _root(
        self, at: Callable[[float], tuple[float, float]], guess: float, width: float, tolerance: float, limit: float
    ) -> float | None:
        """The unknown near a guess, such that ``profile(*at(unknown))`` meets all conditions; None without a bracket.

        The gap is flat where the flux is degenerate, so the search ends once it is below what the panels resolve.
        """

        def gap(unknown: float) -> float:
            anchor, flux = at(unknown)
            found = self.profile(min(max(anchor, self.left), self.right), flux, tolerance)
            size = (np.abs(found.slope) @ found.panels.rule.weights) @ found.panels.half + abs(found.start)
            return 0.0 if abs(found.gap) <= 0.1 * tolerance * size else found.gap

        for _ in range(100):
            low, high = guess - width, guess + width
            a, b = gap(low), gap(high)
            if not (np.isfinite(a) and np.isfinite(b)):
                return None
            if a * b <= 0:
                precision = 4 * _EPS * max(abs(low), abs(high))
                return float(brentq(gap, low, high, xtol=precision, rtol=4 * _EPS))
            if width > limit:
                return None
            width *= 8
        return None


def _crossings(profile: _Profile) -> list[tuple[float, float]]:
    """Points between which the flux changes its sign, the most degenerate place first."""
    x, s, f = profile.panels.x.ravel(), profile.flux.ravel(), profile.panels.values[..., 0].ravel()
    k = np.nonzero(np.sign(s[1:]) != np.sign(s[:-1]))[0]
    k = k[np.argsort(np.minimum(np.abs(f[k]), np.abs(f[k + 1])), kind="stable")]
    return [(float(x[i]), float(x[i + 1])) for i in k]


def integrate(problem: Elliptic, tolerance: float) -> Integrated:
    """Solve a problem such that `applies`.

    Args:
        problem: the equation and its conditions.
        tolerance: relative, to which panels resolve f and u'; at least 1e-13 is aimed at.

    Raises:
        ValueError: if the boundary values cannot be met.
    """
    resolution = min(1e-13, tolerance)
    (first, anchor), (second, _) = (_Line(problem, m, resolution).solve() for m in _ORDERS)
    field, other = _field(first), _field(second)
    x = torch.from_numpy(first.panels.x.ravel())[:, None]
    weights = (first.panels.half[:, None] * first.panels.rule.weights).ravel()
    u = field(x).numpy()
    size = float(np.sqrt(weights @ u**2)) or 1.0
    gap = float(np.sqrt(weights @ (other(x).numpy() - u) ** 2)) / size
    zeros = sorted((low + high) / 2 for low, high in _crossings(first))
    estimate = gap + _rounding(problem, first, anchor) / size + 0.1 * resolution
    return Integrated(field, estimate, field.coefficients.numel(), len(field.coefficients), zeros)


def _rounding(problem: Elliptic, profile: _Profile, anchor: float | None) -> float:
    """The L2 size of what rounding of the flux, away from the zero it is summed from, does to u."""
    p, s = profile.panels, profile.flux
    delta = 32 * _EPS * np.abs(s).max()
    away = np.ones_like(s, dtype=bool)
    if anchor is not None:
        zeros = _crossings(profile)
        low = max((b for _, b in zeros if b < anchor), default=-np.inf)
        high = min((a for a, _ in zeros if a > anchor), default=np.inf)
        away = (p.x <= (low + anchor) / 2) | (p.x >= (high + anchor) / 2)
    root = 1 / (problem.p - 1)
    change = np.abs((np.abs(s) + delta) ** root - np.abs(s) ** root) / p.values[..., 1] ** root
    moved = float(((np.where(away, change, 0.0)) @ p.rule.weights) @ p.half)
    return moved * float(np.sqrt(p.edges[-1] - p.edges[0]))


def _field(profile: _Profile) -> PanelField:
    """The solution from its slope and its value at the left end."""
    p = profile.panels
    slope = profile.slope @ p.rule.transform.T
    values = np.polynomial.legendre.legint(slope, lbnd=-1, axis=1) * p.half[:, None]
    rises = 2 * p.half * slope[:, 0]
    values[:, 0] += profile.start + np.concatenate([[0.0], np.cumsum(rises)[:-1]])
    return PanelField(torch.from_numpy(p.edges.copy()), torch.from_numpy(values))
