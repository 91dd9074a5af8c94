"""From a traced grid to equations: link coefficients and the finite-difference matrix of the linear problem.

In every direction the flux difference of an unknown is  -(a_+ (u_+ - u) / h_+ - a_- (u - u_-) / h_-) / ((h_+ + h_-) /
2), where h_+ and h_- end at the next node or at the boundary (Shortley and Weller, 1938). On a side with a prescribed
flux the control volume is half a cell and the flux takes the place of the missing term. Rows are multiplied by the
control volume, which makes the matrix symmetric away from cut links.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import numpy as np
import scipy.sparse as sp
import torch
from scipy.sparse.csgraph import connected_components

from sciml.domain import Box
from sciml.problem import Elliptic
from sciml.solvers.grid import FACE, Array, Index, Links, tensor

__all__ = ["System", "conductance", "discretise", "link_coefficients", "sources"]

BLOCK = 2**21  # coefficient values asked for at a time


@dataclass(frozen=True)
class System:
    """matrix @ u = right for the unknowns of `links`; row i is the equation times its control volume ``volume[i]``."""

    links: Links
    matrix: sp.csr_array
    right: Array
    volume: Array


def link_coefficients(problem: Elliptic, links: Links, start: Array, axis: int, reach: Array, points: int) -> Array:
    """The diffusion that links feel, ``(m,)``.

    Flux is constant along a link to leading order, so that the mean of order -1/(p-1) along it (the harmonic one for
    p = 2) gives the exact drop of u even where `a` jumps or oscillates; across a link fluxes add up, so that there the
    arithmetic mean is right. Where the box between the two control volumes is inside the domain, both are taken over
    it: first along and then across is too small, first across and then along too large, and the geometric mean of the
    two converges fastest when `a` is not resolved. A `Piecewise` coefficient is integrated along the link only, up to
    and from the exact places of its jumps: second order at interfaces along the axes, first order at curved ones.

    Args:
        problem: gives the coefficient, which is asked for inside the domain only.
        links: the grid.
        start: ``(m, d)`` where the links start.
        axis: along which they run.
        reach: ``(m,)`` signed length.
        points: Gauss points per direction.
    """
    if problem.constant_diffusion is not None:
        return np.full(len(start), float(problem.diffusion(tensor(start[:1]))[0]) if len(start) else 0.0)
    block = max(1, BLOCK // points ** start.shape[1])
    parts = [slice(i, i + block) for i in range(0, len(start), block)]
    rule = _broken if problem.interfaces else _means
    means = [rule(problem, links, start[part], axis, reach[part], points) for part in parts]
    return np.concatenate(means) if means else np.zeros(0)


def _gauss(points: int) -> tuple[Array, Array]:
    nodes, weights = np.polynomial.legendre.leggauss(points)
    return 0.5 * (nodes + 1), 0.5 * weights


def _broken(problem: Elliptic, links: Links, start: Array, axis: int, reach: Array, points: int) -> Array:
    """Means along links, with a Gauss rule on every stretch between interfaces."""
    nodes, weights = _gauss(points)
    order = -1 / (problem.p - 1)
    end = start.copy()
    end[:, axis] += reach
    breaks = [np.zeros(len(start)), np.ones(len(start))]
    for region in problem.interfaces:
        first, last = (region.contains(tensor(x)).numpy() for x in (start, end))
        t = np.ones(len(start))
        t[first] = np.minimum(region.crossing(tensor(start[first]), tensor(end[first]))[0].numpy(), 1.0)
        enters = last & ~first
        t[enters] = 1 - np.minimum(region.crossing(tensor(end[enters]), tensor(start[enters]))[0].numpy(), 1.0)
        breaks.append(t)
    places = np.sort(np.stack(breaks, 1), 1)
    share = np.diff(places, axis=1)
    total = np.zeros(len(start))
    for stretch in range(share.shape[1]):
        rows = np.flatnonzero(share[:, stretch] > 0)
        t = places[rows, stretch, None] + share[rows, stretch, None] * nodes
        x = np.repeat(start[rows, None], points, 1)
        x[..., axis] += t * reach[rows, None]
        a = problem.diffusion(tensor(x.reshape(-1, x.shape[-1]))).detach().numpy().reshape(t.shape)
        total[rows] += share[rows, stretch] * ((a**order) @ weights)
    return total ** (1 / order)


def _means(problem: Elliptic, links: Links, start: Array, axis: int, reach: Array, points: int) -> Array:
    d, spacing = start.shape[1], links.grid.spacing
    order = -1 / (problem.p - 1)
    nodes, weights = _gauss(points)

    def lines(x: Array, length: Array) -> Array:
        line = np.repeat(x[..., None, :], points, -2)
        line[..., axis] += length[..., None] * nodes
        return problem.diffusion(tensor(line.reshape(-1, d))).detach().numpy().reshape(line.shape[:-1])

    def along(a: Array) -> Array:
        return ((a**order) @ weights) ** (1 / order)

    if len(start) == 0:
        return np.zeros(0)
    others = [k for k in range(d) if k != axis]
    full = np.abs(reach) >= (1 - 1e-9) * spacing[axis]
    if not others or not full.any():
        return along(lines(start, reach))
    offsets = np.zeros((points ** len(others), d))
    offsets[:, others] = np.array(list(itertools.product(nodes - 0.5, repeat=len(others)))) * spacing[others]
    face_weights = np.prod(list(itertools.product(weights, repeat=len(others))), axis=1)
    face = start[full][:, None] + offsets
    ends = face.copy()
    ends[..., axis] += reach[full][:, None]
    low, high = links.grid.lower, links.grid.upper
    inside = ((np.minimum(face, ends) >= low) & (np.maximum(face, ends) <= high)).all((1, 2))
    if not isinstance(problem.domain, Box):
        for t in nodes:
            between = (face + t * (ends - face))[inside]
            shape = between.shape[:2]
            inside[inside] = problem.domain.contains(tensor(between.reshape(-1, d))).numpy().reshape(shape).all(1)
    averaged = np.flatnonzero(full)[inside]
    result = np.empty(len(start))
    rest = np.ones(len(start), bool)
    rest[averaged] = False
    if rest.any():
        result[rest] = along(lines(start[rest], reach[rest]))
    if len(averaged) == 0:
        return result
    a = lines(face[inside], np.broadcast_to(reach[averaged][:, None], (len(averaged), len(offsets))))
    result[averaged] = np.sqrt((along(a) @ face_weights) * along(np.einsum("mfq,f->mq", a, face_weights)))
    return result


def conductance(problem: Elliptic, links: Links, points: int) -> Array:
    """The coefficient ``(m, 2d)`` of all links of the unknowns, 0 where there is none."""
    x = links.grid.points(links.free)
    result = np.zeros(links.length.shape)
    for axis in range(links.grid.dim):
        forward, backward = 2 * axis + 1, 2 * axis
        rows = np.flatnonzero(links.neighbour[:, forward] != FACE)
        result[rows, forward] = link_coefficients(problem, links, x[rows], axis, links.length[rows, forward], points)
        rows = np.flatnonzero(links.neighbour[:, forward] >= 0)
        result[links.number[links.neighbour[rows, forward]], backward] = result[rows, forward]
        rows = np.flatnonzero(links.neighbour[:, backward] < FACE + 2)
        rows = rows[links.neighbour[rows, backward] != FACE]
        result[rows, backward] = link_coefficients(problem, links, x[rows], axis, -links.length[rows, backward], points)
    return result


def sources(problem: Elliptic, links: Links) -> tuple[Array, Array, Array]:
    """Control volumes, right-hand side without cut links, diagonal of reaction and Robin terms; each ``(m,)``."""
    with torch.no_grad():
        x = tensor(links.grid.points(links.free))
        source, reaction = problem.source(x).numpy(), problem.reaction(x).numpy()
    volume = links.span.prod(1)
    right, diagonal = source * volume, reaction * volume
    for side in links.flux:
        area = (volume / links.span[:, side.direction // 2])[side.row]
        np.add.at(right, side.row, side.value * area)
        np.add.at(diagonal, side.row, side.gain * area)
    return volume, right, diagonal


def discretise(problem: Elliptic, links: Links, coefficient: Array) -> System:
    """The equations of the linear problem, with the link coefficients ``(m, 2d)`` of `conductance`.

    Raises:
        ValueError: if the solution is determined only up to a constant.
    """
    volume, right, diagonal = sources(problem, links)
    _check_unique(links, diagonal)
    m, rows, columns, entries = len(links.free), [], [], []
    for direction in range(2 * links.grid.dim):
        near = links.neighbour[:, direction]
        linked = np.flatnonzero(near != FACE)
        span = links.span[linked, direction // 2]
        weight = np.zeros(m)
        weight[linked] = coefficient[linked, direction] * volume[linked] / (links.length[linked, direction] * span)
        diagonal = diagonal + weight
        inner = np.flatnonzero(near >= 0)
        rows.append(inner)
        columns.append(links.number[near[inner]])
        entries.append(-weight[inner])
        here = links.cut_direction == direction
        np.add.at(right, links.cut_row[here], weight[links.cut_row[here]] * links.cut_value[here])
    everything: Index = np.arange(m)
    index = (np.concatenate([*rows, everything]), np.concatenate([*columns, everything]))
    matrix = sp.coo_array((np.concatenate([*entries, diagonal]), index), shape=(m, m)).tocsr()
    return System(links, matrix, right, volume)


def _check_unique(links: Links, diagonal: Array) -> None:
    """Every connected part needs a boundary value, a Robin condition or a reaction term."""
    m = len(links.free)
    i, direction = np.nonzero(links.neighbour >= 0)
    j = links.number[links.neighbour[i, direction]]
    count, part = connected_components(sp.coo_array((np.ones(len(i)), (i, j)), shape=(m, m)), directed=False)
    held = np.zeros(count, bool)
    held[part[links.cut_row]] = True
    held[part[diagonal != 0]] = True
    if not held.all():
        inside = links.grid.points(links.free[part == np.flatnonzero(~held)[0]][:1])[0].tolist()
        raise ValueError(
            f"around the point {inside} the conditions are all Neumann or Periodic and the reaction is 0, "
            "so that u is determined only up to a constant; give a Dirichlet or Robin condition or a reaction"
        )
