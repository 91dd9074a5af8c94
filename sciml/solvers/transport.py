"""A learned kernel for radiative transfer in a slab: from inflow to the whole distribution f(x, v).

    f(x, v) = inflow exp(-sigma d / |v|) + int Gamma(x, v; y) rho_0(y) dy,     d the distance to the wall of entry

The first part, what has never collided, is known exactly; its kernel holds a delta in v - v', which no smooth kernel
can. The collided rest depends on the inflow only through the density rho_0 of the uncollided part, and its
density rho solves Peierls' equation

    rho(x) - s/2 int E_1(sigma |x - y|) rho(y) dy = rho_0(x).

Here rho = sum p_k(x) c_k with Legendre polynomials on panels that shrink towards the walls, where rho behaves like
x log x. The unknown kernel from rho_0 to c is linear, so the risk of the equation is minimised by one factorisation for
every inflow. Integrals of E_1 against polynomials use Gauss rules graded towards its logarithm.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from scipy.special import exp1
from torch import Tensor

from sciml.solution import Solution
from sciml.solvers.ordinates import Slab

Array = np.ndarray
Inflow = Callable[[Array], Array]

__all__ = ["SlabKernel", "SlabOperator", "SlabSolver"]

_REACH = 40.0  # free paths after which a ray is below 1e-17
_PARTS = 2  # pieces of a ray on a panel, 20 nodes each
_GRADE = 4  # nodes at t^4: the logarithm becomes smooth


@dataclass(frozen=True)
class SlabSolver:
    """Learn the solution operator of a slab.

    Attributes:
        order: Legendre polynomials on each panel.
        smallest: width of the panels at the walls, in free paths.
    """

    order: int = 8
    smallest: float = 1e-3

    def __post_init__(self) -> None:
        """Check the numbers."""
        if not (isinstance(self.order, int) and self.order >= 2):
            raise ValueError(f"order is {self.order!r}, but must be a whole number >= 2")
        if not 0 < self.smallest <= 0.1:
            raise ValueError(f"smallest is {self.smallest!r}, but must lie in (0, 0.1]")

    def solve(self, slab: Slab) -> SlabOperator:
        """Build the matrix of Peierls' equation and factorise it."""
        edges = _panels(self.smallest / slab.total)
        # 3/2 as many rows as unknowns: the residual of the equation is minimised, not its value at chosen points
        t, w = np.polynomial.legendre.leggauss(self.order + self.order // 2)
        half = np.diff(edges)[:, None] / 2
        nodes = (edges[:-1, None] + half * (1 + t)).ravel()
        weights = np.sqrt((half * w).ravel())
        near = _integrals(nodes, edges, self.order, slab.total)
        table = _table(nodes, edges, self.order)
        matrix = weights[:, None] * (table - 0.5 * slab.scattering * near)
        return SlabOperator(slab, SlabKernel(edges, nodes, np.linalg.pinv(matrix) * weights))


@dataclass(frozen=True)
class SlabKernel:
    """From uncollided density to the coefficients of the density.

    Attributes:
        edges: of the panels, ``(p + 1,)``.
        nodes: where the uncollided density is evaluated, ``(q,)``.
        matrix: ``(p * order, q)``.
    """

    edges: Array
    nodes: Array
    matrix: Array


@dataclass(frozen=True)
class SlabOperator:
    """The operator from inflow to f."""

    slab: Slab
    kernel: SlabKernel

    def __call__(self, left: Inflow, right: Inflow) -> Solution:
        """Solve for an inflow.

        Args:
            left: f(0, v) as a function of v > 0, ``(n,)`` to ``(n,)``.
            right: f(1, -v) as a function of v > 0.

        Returns:
            F as a function of points ``(x, v)`` in [0, 1] x [-1, 1].

        Raises:
            ValueError: for an inflow of another shape or not finite.
        """
        x = self.kernel.nodes
        rho = 0.5 * (moment("left", left, self.slab.total * x) + moment("right", right, self.slab.total * (1 - x)))
        return Solution(
            _Distribution(self, left, right, self.kernel.matrix @ rho), dim=2, status="linear least squares"
        )

    def density(self, coefficients: Array, x: Array) -> Array:
        """Rho at points ``(n,)`` in [0, 1]."""
        order = len(coefficients) // (len(self.kernel.edges) - 1)
        return _table(x, self.kernel.edges, order) @ coefficients


def moment(name: str, inflow: Inflow, depth: Array) -> Array:
    """Int_0^1 inflow(v) exp(-depth / v) dv by a rule graded towards v = 0."""
    t, w = np.polynomial.legendre.leggauss(160)
    t, w = (1 + t) / 2, w / 2
    v, w = t**3, 3 * t**2 * w
    values = np.asarray(inflow(v), dtype=float)
    if values.shape != v.shape:
        raise ValueError(f"{name} gave shape {values.shape} at {len(v)} directions, but must give ({len(v)},)")
    if not np.isfinite(values).all():
        raise ValueError(f"{name} is not finite at the direction {v[~np.isfinite(values)][0]:.3g}")
    return np.exp(-depth[:, None] / v) @ (w * values)


class _Distribution:
    """f(x, v): what entered and faded, plus what was scattered along the ray."""

    def __init__(self, operator: SlabOperator, left: Inflow, right: Inflow, rho: Array) -> None:
        self.operator, self.left, self.right, self.rho = operator, left, right, rho
        self.dim = 2

    def __call__(self, points: Tensor) -> Tensor:
        x, v = points.detach().numpy().T
        if ((x < 0) | (x > 1) | (np.abs(v) > 1)).any():
            bad = points[torch.as_tensor((x < 0) | (x > 1) | (np.abs(v) > 1))][0].tolist()
            raise ValueError(f"points holds {bad}, outside the domain [0, 1] x [-1, 1]")
        slab, edges = self.operator.slab, self.operator.kernel.edges
        order = len(self.rho) // (len(edges) - 1)
        up = v > 0
        # where v = 0 nothing arrives from elsewhere; the limit of small v says the same without dividing by zero
        speed = np.maximum(np.abs(v), 1e-14)
        result = np.empty(len(x))
        for mask, inflow, depth in ((up, self.left, x), (~up, self.right, 1 - x)):
            if mask.any():
                result[mask] = inflow(speed[mask]) * np.exp(-slab.total * depth[mask] / speed[mask])
        path = speed / slab.total
        side = np.where(up, -1.0, 1.0)
        swept = _along(x, side, path, edges, order, self.rho)
        return torch.from_numpy(result + slab.scattering / slab.total * swept)


def _panels(smallest: float) -> Array:
    """Edges that double their distance from the wall, up to an eighth."""
    steps = smallest * 2.0 ** np.arange(max(int(np.ceil(np.log2(0.125 / smallest))), 1))
    steps = steps[steps < 0.1]
    inner = np.linspace(0.125, 0.875, 13)
    return np.concatenate([[0.0], steps, inner, 1 - steps[::-1], [1.0]])


def _table(x: Array, edges: Array, order: int) -> Array:
    """The basis at points: ``(n, p * order)``, zero but on the panel of each point."""
    panel = np.clip(np.searchsorted(edges, x, side="right") - 1, 0, len(edges) - 2)
    t = 2 * (x - edges[panel]) / (edges[panel + 1] - edges[panel]) - 1
    result = np.zeros((len(x), len(edges) - 1, order))
    result[np.arange(len(x)), panel] = np.polynomial.legendre.legvander(t, order - 1)
    return result.reshape(len(x), -1)


def _integrals(x: Array, edges: Array, order: int, sigma: float) -> Array:
    """Integrals of E_1(sigma |x - y|) against the basis, ``(n, p * order)``, by rules graded towards x."""
    t, w = np.polynomial.legendre.leggauss(40)
    t, w = ((1 + t) / 2) ** _GRADE, _GRADE * ((1 + t) / 2) ** (_GRADE - 1) * w / 2
    result = np.zeros((len(x), len(edges) - 1, order))
    for p, (low, high) in enumerate(zip(edges[:-1], edges[1:], strict=True)):
        for side in (-1, 1):
            start = np.clip(x, low, high)
            end = np.clip(x + side * _REACH / sigma, low, high)
            y = start[:, None] + (end - start)[:, None] * t
            r = np.abs((start - x)[:, None] + (end - start)[:, None] * t)
            length = np.abs(end - start)
            values = np.zeros_like(r)
            full = length > 0  # elsewhere the piece is empty, and E_1 perhaps infinite
            values[full] = exp1(sigma * r[full]) * w * length[full, None]
            basis = np.polynomial.legendre.legvander(2 * (y - low) / (high - low) - 1, order - 1)
            result[:, p] += np.einsum("nq,nqm->nm", values, basis)
    return result.reshape(len(x), -1)


def _along(x: Array, side: Array, path: Array, edges: Array, order: int, rho: Array) -> Array:
    """Int exp(-s) rho(x + side path s) ds along each ray, s in free paths, up to the wall."""
    t, w = np.polynomial.legendre.leggauss(20)
    t, w = (1 + t) / 2, w / 2
    total = np.zeros(len(x))
    coefficients = rho.reshape(-1, order)
    for p, (low, high) in enumerate(zip(edges[:-1], edges[1:], strict=True)):
        start = np.clip(x, low, high)
        end = np.clip(x + side * _REACH * path, low, high)
        some = np.flatnonzero(start != end)
        if not len(some):
            continue
        begin = np.abs(start - x)[some, None] / path[some, None]
        length = np.abs(end - start)[some, None] / path[some, None]
        # equal parts of a ray that fades within the panel
        for part in range(_PARTS):
            s = begin + length * (part + t) / _PARTS
            y = x[some, None] + side[some, None] * s * path[some, None]
            values = np.polynomial.legendre.legval(2 * (y - low) / (high - low) - 1, coefficients[p])
            total[some] += (np.exp(-s) * values * length / _PARTS) @ w
    return total
