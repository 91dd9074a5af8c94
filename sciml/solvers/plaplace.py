"""Newton's method for -div(a |grad u|^(p-2) grad u) + c u = f on a traced grid.

Around every node, each of the 2^d corners of its control volume has d links and thus a gradient (delta_1, ...,
delta_d) of one-sided differences. The energy  sum over corners of (volume / p) (sum_k b_k delta_k^2)^(p/2)  with b_k =
a_k^(2/p) has the flux

    b_k delta_k * mean over the corners that contain link k of  (sum_l b_l delta_l^2)^((p-2)/2)

through link k, which for p = 2 is the linear scheme of `stencil`. At cut links the same fluxes are divided by the true
control volume, as in the linear case. Newton's method follows p from 2 upwards, and a regularisation
|grad u|^2 + eps^2 down to zero, because the equation degenerates where grad u = 0.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import scipy.sparse as sp

from sciml.problem import Elliptic
from sciml.solvers.grid import Array, Index, Links, open_links
from sciml.solvers.stencil import discretise, link_coefficients, sources
from sciml.training import History

__all__ = ["newton"]

Linear = Callable[[sp.csr_array, Array], Array]
REGULARISATIONS = (1e-1, 1e-2, 1e-4, 1e-6, 0.0)  # eps relative to the root mean square of a^(1/p) |grad u|
STEPS = 50  # of Newton's method per stage


@dataclass(frozen=True)
class _Corners:
    """All corners with their links; values are numbered unknowns first, then fixed ones.

    Attributes:
        node: ``(C,)`` value number of the node.
        end: ``(C, d)`` value numbers of the other ends of its links.
        length, weight, coefficient: ``(C, d)`` of each link: its length, one over the number of corners that contain
            it, and a.
        into_node, into_end: ``(C, d)`` what a unit of flux adds to the equations of node and end (0 for fixed values).
        fixed: values on the boundary.
    """

    node: Index
    end: Index
    length: Array
    weight: Array
    coefficient: Array
    into_node: Array
    into_end: Array
    fixed: Array


class _Equation:
    """Residual and Jacobian, times control volumes, for any exponent and regularisation."""

    def __init__(self, problem: Elliptic, links: Links, coefficient: Array, points: int) -> None:
        self.volume, self.right, self.diagonal = sources(problem, links)
        self.count = len(links.free)
        self.corners = _corners(problem, links, coefficient, points, self.volume)

    def _differences(self, u: Array) -> Array:
        c = self.corners
        values = np.concatenate([u, c.fixed])
        return (values[c.end] - values[c.node][:, None]) / c.length

    def scale(self, u: Array, p: float) -> float:
        """Root mean square of a^(1/p) |grad u|."""
        c = self.corners
        return float(np.sqrt((c.coefficient ** (2 / p) * self._differences(u) ** 2).sum(1).mean()))

    def residual(self, u: Array, p: float, eps: float) -> tuple[Array, float]:
        """Equations times control volumes, and the size of the fluxes that cancel in them."""
        c, delta = self.corners, self._differences(u)
        b = c.coefficient ** (2 / p)
        power = ((b * delta**2).sum(1) + eps**2) ** ((p - 2) / 2)
        flux = c.weight * power[:, None] * b * delta
        result = self.diagonal * u - self.right
        total = np.abs(self.right)
        for into, where in (
            (c.into_node * flux, np.broadcast_to(c.node[:, None], c.end.shape)),
            (c.into_end * flux, c.end),
        ):
            inner = where < self.count
            result += np.bincount(where[inner], into[inner], self.count)
            total += np.bincount(where[inner], np.abs(into[inner]), self.count)
        return result, float(np.linalg.norm(total))

    def jacobian(self, u: Array, p: float, eps: float) -> sp.csr_array:
        """Derivative of the residual."""
        c, delta = self.corners, self._differences(u)
        b = c.coefficient ** (2 / p)
        square = (b * delta**2).sum(1) + eps**2
        power = square ** ((p - 2) / 2)
        bend = np.divide(power, square, out=np.zeros_like(power), where=square > 0) * (p - 2)
        rows, columns, entries = [np.arange(self.count)], [np.arange(self.count)], [self.diagonal]
        d = delta.shape[1]
        for k, other in itertools.product(range(d), repeat=2):
            slope = bend * b[:, k] * delta[:, k] * b[:, other] * delta[:, other] + (
                power * b[:, k] if k == other else 0
            )
            slope = slope * c.weight[:, k] / c.length[:, other]
            for row, into in ((c.node, c.into_node[:, k]), (c.end[:, k], c.into_end[:, k])):
                for column, sign in ((c.end[:, other], 1.0), (c.node, -1.0)):
                    inner = (row < self.count) & (column < self.count)
                    rows.append(row[inner])
                    columns.append(column[inner])
                    entries.append(sign * (into * slope)[inner])
        index = (np.concatenate(rows), np.concatenate(columns))
        return sp.coo_array((np.concatenate(entries), index), shape=(self.count, self.count)).tocsr()


def newton(
    problem: Elliptic,
    links: Links,
    coefficient: Array,
    points: int,
    linear: Linear,
    tolerance: float,
    history: History,
) -> tuple[Array, str]:
    """Solve the nonlinear equations.

    Args:
        problem: with p != 2.
        links: the traced grid.
        coefficient: ``(m, 2d)``, see `stencil.conductance`.
        points: Gauss points of the coefficient averages.
        linear: solves a sparse system.
        tolerance: residual relative to the fluxes that cancel in it.
        history: receives one row per Newton step.

    Returns:
        The unknowns, and a sentence with the number of steps and the residual.
    """
    equation = _Equation(problem, links, coefficient, points)
    start = discretise(problem, links, coefficient)
    u = linear(start.matrix, start.right)
    target = problem.p - 1
    exponents = [1 + target ** (i / max(1, round(abs(np.log(target)) / 0.4))) for i in range(1, 99)]
    stages = [(q, 0.1) for q in exponents if abs(q - 2) < abs(problem.p - 2) - 1e-9]
    stages += [(problem.p, eps) for eps in REGULARISATIONS if eps > 0 or problem.p > 2]
    for number, (p, eps) in enumerate(stages):
        last = number == len(stages) - 1
        u, error = _descend(equation, u, p, eps, linear, tolerance if last else 1e-3, history)
    outcome = "solved" if error <= max(tolerance, 1e-8) else "not solved"
    return u, (
        f"{outcome}: {len(history.steps)} Newton steps up to p = {problem.p:g} with regularisation {eps:g}, "
        f"{len(u)} unknowns, residual {error:.1e} of the fluxes"
    )


def _descend(
    equation: _Equation, u: Array, p: float, eps: float, linear: Linear, tolerance: float, history: History
) -> tuple[Array, float]:
    """Damped Newton steps until the residual is small or no longer falls."""
    scale = equation.scale(u, p)
    # Where u is flat, the flux ~ |grad u|^(p-1) is below the rounding errors of its neighbours and the Jacobian is
    # meaningless; regularising it (not the residual) at 1e-12 of the largest flux slope leaves the solution unchanged
    floor = 10 ** (-12 / max(p - 2, 2.0))
    residual, size = equation.residual(u, p, eps * scale)
    for _ in range(STEPS):
        error = float(np.linalg.norm(residual)) / size
        history.steps.append({"step": len(history.steps), "residual": error, "p": p, "regularisation": eps * scale})
        if error <= tolerance:
            break
        step = linear(equation.jacobian(u, p, max(eps, floor) * scale), -residual)
        slope = float(residual @ step)  # of the energy along the step, < 0
        damping = 1.0
        while damping > 1e-6:
            with np.errstate(over="ignore", invalid="ignore"):
                new, new_size = equation.residual(u + damping * step, p, eps * scale)
                falls = np.linalg.norm(new) < (1 - 1e-4 * damping) * np.linalg.norm(residual)
            # far from the solution the residual may have to grow; the energy falls as long as its slope stays negative
            if falls or new @ step <= 0.1 * abs(slope):
                break
            damping /= 2
        else:
            break
        u, residual, size = u + damping * step, new, new_size
    return u, float(np.linalg.norm(residual)) / size


def _corners(problem: Elliptic, links: Links, coefficient: Array, points: int, volume: Array) -> _Corners:
    """Collect the corners of all nodes, those on the boundary included where the grid runs along it."""
    grid, number, d, m = links.grid, links.number, links.grid.dim, len(links.free)
    boundary = np.flatnonzero(np.isfinite(links.known) & (number < 0))
    slot = number.copy()
    slot[boundary] = m + np.arange(len(boundary))
    shape = (grid.size, 2 * d)
    end, name, length, a = np.full(shape, -1), np.full(shape, -1), np.ones(shape), np.ones(shape)
    forward = open_links(problem.domain, links)
    for k in range(d):
        here = np.flatnonzero(forward[:, k])
        there = grid.neighbour(here, 2 * k + 1)
        at = np.where(number[here] >= 0, coefficient[number[here], 2 * k + 1], coefficient[number[there], 2 * k])
        edge = (number[here] < 0) & (number[there] < 0)
        reach = np.full(int(edge.sum()), grid.spacing[k])
        at[edge] = link_coefficients(problem, links, grid.points(here[edge]), k, reach, points)
        for one, other, side in ((here, there, 2 * k + 1), (there, here, 2 * k)):
            end[one, side], name[one, side] = slot[other], here * d + k
            length[one, side], a[one, side] = grid.spacing[k], at
    between = end[links.free[links.cut_row], links.cut_direction] < 0  # links that are cut between nodes
    row, direction = links.cut_row[between], links.cut_direction[between]
    cut, extra = links.free[row], np.arange(len(row))
    end[cut, direction], name[cut, direction] = m + len(boundary) + extra, grid.size * d + extra
    length[cut, direction], a[cut, direction] = links.length[row, direction], coefficient[row, direction]

    around = [2 * np.arange(d) + np.array(high) for high in itertools.product((0, 1), repeat=d)]
    nodes = [np.flatnonzero((end[:, links_of] >= 0).all(1)) for links_of in around]
    picks = [(some[:, None], links_of) for some, links_of in zip(nodes, around, strict=True)]
    vertex = np.concatenate(nodes)
    ends, names, lengths, values = (np.concatenate([part[pick] for pick in picks]) for part in (end, name, length, a))
    unit = np.zeros((m + len(boundary) + len(row), d))  # what one unit of flux along an axis adds to an equation
    unit[:m] = volume[:, None] / links.span
    return _Corners(
        node=slot[vertex],
        end=ends,
        length=lengths,
        weight=1 / np.bincount(names.ravel())[names],
        coefficient=values,
        into_node=-unit[slot[vertex]],
        into_end=unit[ends, np.arange(d)],
        fixed=np.concatenate([links.known[boundary], links.cut_value[between]]),
    )
