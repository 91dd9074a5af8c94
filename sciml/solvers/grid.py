"""A node grid over a domain of any shape: which nodes are unknowns, and where the boundary cuts the links between them.

The grid covers the bounding box. A node inside the domain is an unknown; so is a node on a flat side of the bounding
box where a flux is prescribed, or where the box is periodic. Every *link* from an unknown to its 2d neighbours is
asked of `Domain.crossing`. It is either **open** (the segment stays in the domain) or **cut** at the exact point where
it leaves, and boundary values are asked for at those points and nowhere else. A hole thinner than the spacing
therefore separates the two nodes on its sides, although both are inside.

Directions are numbered like the faces of a box: ``2 * axis`` is backward, ``2 * axis + 1`` forward.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sciml.domain import Domain
from sciml.problem import Dirichlet, Elliptic, Periodic, Robin

__all__ = ["CUT", "FACE", "NUDGE", "Flux", "Grid", "Links", "check_nodes", "link", "open_links"]

Array = NDArray[np.float64]
Index = NDArray[np.int64]
Mask = NDArray[np.bool_]

CUT, FACE = -1, -2  # instead of a neighbour: the boundary comes first; there is no link, the node is on that side
_NODES = 1e8  # of a grid: beyond that not even its coordinates fit
NUDGE = 1e-6  # in spacings: how far nodes on sides are moved inwards before the geometry is asked


def tensor(x: Array) -> Tensor:
    """The same numbers for the functions of a problem."""
    return torch.from_numpy(np.ascontiguousarray(x))


@dataclass(frozen=True)
class Grid:
    """Nodes ``lower + i * spacing``, numbered in C order.

    Attributes:
        lower: ``(d,)`` first node.
        spacing: ``(d,)``.
        cells: number of cells along each axis.
        periodic: axes on which the last node is the first one (and is not stored).
    """

    lower: Array
    spacing: Array
    cells: tuple[int, ...]
    periodic: tuple[bool, ...]

    @staticmethod
    def over(domain: Domain, n: int, periodic: tuple[bool, ...]) -> Grid:
        """The grid over the bounding box with n nearly square cells on the longest side, at least 4 on all."""
        lower, upper = (b.detach().cpu().numpy().astype(float) for b in domain.bounds)
        sides = upper - lower
        cells = tuple(max(4, round(n * side / sides.max())) for side in sides)
        return Grid(lower, sides / np.array(cells), cells, periodic)

    @property
    def dim(self) -> int:
        """Number of axes."""
        return len(self.cells)

    @property
    def shape(self) -> tuple[int, ...]:
        """Nodes along each axis."""
        return tuple(c if wrap else c + 1 for c, wrap in zip(self.cells, self.periodic, strict=True))

    @property
    def upper(self) -> Array:
        """``(d,)`` upper corner."""
        return self.lower + self.spacing * np.array(self.cells)

    @property
    def size(self) -> int:
        """Number of nodes."""
        return int(np.prod(self.shape))

    def multi(self, flat: Index) -> Index:
        """Indices ``(m, d)`` along the axes."""
        return np.stack(np.unravel_index(flat, self.shape), 1).astype(np.int64)

    def points(self, flat: Index) -> Array:
        """Coordinates ``(m, d)``; the last node of an axis is the upper corner to the last digit."""
        multi = self.multi(flat)
        x = self.lower + multi * self.spacing
        return np.where(multi == np.array(self.cells), self.upper, x)

    def neighbour(self, flat: Index, direction: int) -> Index:
        """Number of the next node, -1 beyond the grid."""
        axis, step = direction // 2, 2 * (direction % 2) - 1
        multi = self.multi(flat)
        multi[:, axis] += step
        count = self.shape[axis]
        if self.periodic[axis]:
            multi[:, axis] %= count
        beyond = (multi[:, axis] < 0) | (multi[:, axis] >= count)
        multi[beyond, axis] = 0
        return np.where(beyond, -1, np.ravel_multi_index(tuple(multi.T), self.shape))

    def inwards(self, x: Array) -> Array:
        """Points on sides of the bounding box moved a little into it, so that they are on no two pieces at once."""
        nudge = NUDGE * self.spacing
        return np.clip(x, self.lower + nudge, self.upper - nudge)


@dataclass(frozen=True)
class Flux:
    """Unknowns on one side of the box where ``a |grad u|^(p-2) du/dn + gain u = value``.

    Attributes:
        row: ``(k,)`` which unknowns.
        direction: of the outward normal.
        gain: ``(k,)``, zero for a Neumann condition.
        value: ``(k,)``.
    """

    row: Index
    direction: int
    gain: Array
    value: Array


@dataclass(frozen=True)
class Links:
    """Unknowns, their links and the boundary data.

    Attributes:
        grid: the nodes.
        free: ``(m,)`` node numbers of the unknowns.
        neighbour: ``(m, 2d)`` node at the other end of an open link, else CUT or FACE.
        length: ``(m, 2d)`` of open and cut links, 0 for FACE.
        cut_row, cut_direction, cut_point, cut_value: ``(k,)``, ``(k,)``, ``(k, d)``, ``(k,)`` where links are cut, and
        u there.
        flux: sides with a prescribed flux.
        known: ``(N,)`` u at nodes on the boundary, NaN at all other nodes.
    """

    grid: Grid
    free: Index
    neighbour: Index
    length: Array
    cut_row: Index
    cut_direction: Index
    cut_point: Array
    cut_value: Array
    flux: tuple[Flux, ...]
    known: Array

    @cached_property
    def number(self) -> Index:
        """``(N,)`` which unknown a node is, -1 for none."""
        number = np.full(self.grid.size, -1)
        number[self.free] = np.arange(len(self.free))
        return number

    @cached_property
    def span(self) -> Array:
        """``(m, d)`` half the distance between both ends of a node's links: the width of its control volume."""
        return 0.5 * (self.length[:, 0::2] + self.length[:, 1::2])

    @cached_property
    def end_value(self) -> Array:
        """``(m, 2d)`` u at the ends of cut links, NaN elsewhere."""
        values = np.full(self.length.shape, np.nan)
        values[self.cut_row, self.cut_direction] = self.cut_value
        return values

    def nodal(self, u: Array) -> Array:
        """All nodes' values ``(N,)`` from the unknowns ``(m,)``; NaN outside the domain."""
        values = self.known.copy()
        values[self.free] = u
        return values


def _prescribed(problem: Elliptic, points: Array, labels: Index) -> tuple[Mask, Array, Array]:
    """At boundary points: is u given, the gain of a Robin condition, and the given value or flux."""
    x = tensor(points)
    given, gain, value = np.zeros(len(points), bool), np.zeros(len(points)), np.zeros(len(points))
    taken = np.zeros(len(points), bool)
    for condition, mask in problem.partition(x, torch.from_numpy(labels)):
        here = mask.numpy()
        if not here.any():
            continue
        taken |= here
        if isinstance(condition, Periodic):
            continue
        value[here] = condition.at(x[mask]).detach().numpy()  # type: ignore[attr-defined]
        given[here] = isinstance(condition, Dirichlet)
        if isinstance(condition, Robin):
            gain[here] = condition.coefficient_at(x[mask]).detach().numpy()
    if not taken.all():
        raise ValueError(
            f"no condition holds at the boundary point {points[~taken][0].tolist()}; give boundary= or conditions="
        )
    return given, gain, value


def _faces(problem: Elliptic, grid: Grid) -> Iterator[tuple[Index, int, Mask, Array, Array]]:
    """The nodes of the domain on each side of the bounding box, with what is prescribed there."""
    numbers = np.arange(grid.size).reshape(grid.shape)
    for direction in range(2 * grid.dim):
        axis, high = divmod(direction, 2)
        if grid.periodic[axis]:
            continue
        nodes = numbers.take(grid.cells[axis] if high else 0, axis).ravel()
        x = grid.points(nodes)
        start = grid.inwards(x)
        end = start.copy()
        end[:, axis] += (4 * high - 2) * NUDGE * grid.spacing[axis]
        on = problem.domain.contains(tensor(start)).numpy()
        label = np.full(len(nodes), -1)
        if on.any():
            label[on] = problem.domain.crossing(tensor(start[on]), tensor(end[on]))[1].numpy()
        nodes, x, label = nodes[label >= 0], x[label >= 0], label[label >= 0]
        yield nodes, direction, *_prescribed(problem, x, label)


def check_nodes(domain: Domain, n: int, degree: int = 1) -> None:
    """Refuse a grid of n cells on the longest side, with `degree` nodes each, that no memory could hold."""
    lower, upper = domain.bounds
    sides = (upper - lower).double()
    nodes = float((degree * n * sides / sides.max() + 1).prod())
    if nodes > _NODES:
        raise ValueError(f"n is {n}, which makes {nodes:.0e} nodes, but at most {_NODES:.0e} are accepted")


def link(problem: Elliptic, n: int) -> Links:
    """Lay a grid of n cells on the longest side over the domain of `problem` and trace all links.

    Raises:
        ValueError: for a dimension above 3, a grid without a node inside, or a flux condition on a curved boundary.
    """
    domain = problem.domain
    if domain.dim > 3:
        raise ValueError(f"the domain has {domain.dim} dimensions, but FiniteDifference accepts 1 to 3")
    check_nodes(domain, n)
    axes = {problem.axis(c) for c in problem.conditions if isinstance(c, Periodic)}
    grid = Grid.over(domain, n, tuple(k in axes for k in range(domain.dim)))
    known = np.full(grid.size, np.nan)
    is_flux = np.zeros(grid.size, bool)
    fluxes = []
    for nodes, direction, given, gain, value in _faces(problem, grid):
        known[nodes[given]] = value[given]
        is_flux[nodes[~given]] = True
        fluxes.append((nodes[~given], direction, gain[~given], value[~given]))
    everything = np.arange(grid.size)
    x = grid.points(everything)
    level = domain.level(tensor(grid.inwards(x))).numpy()
    on_side = np.zeros(grid.size, bool)
    multi = grid.multi(everything)
    for k in range(grid.dim):
        if not grid.periodic[k]:
            on_side |= (multi[:, k] == 0) | (multi[:, k] == grid.cells[k])
    inside = (level > 0.5 * NUDGE * grid.spacing.min()) & (~on_side | is_flux)
    free = np.flatnonzero(inside & np.isnan(known))
    if len(free) == 0:
        raise ValueError(f"n is {n}, but then no node of the grid lies inside the domain; give a larger n")
    number = np.full(grid.size, -1)
    number[free] = np.arange(len(free))
    sides = []
    for nodes, direction, gain, value in fluxes:
        keep = number[nodes] >= 0
        if keep.any():
            sides.append(Flux(number[nodes[keep]], direction, gain[keep], value[keep]))
    return _Tracer(problem, grid, free, number, known, tuple(sides)).links()


class _Tracer:
    """Follows every link of the unknowns to its end."""

    def __init__(
        self, problem: Elliptic, grid: Grid, free: Index, number: Index, known: Array, flux: tuple[Flux, ...]
    ) -> None:
        self.problem, self.grid, self.free, self.number, self.known, self.flux = (
            problem,
            grid,
            free,
            number,
            known,
            flux,
        )
        self.x = grid.points(free)
        self.neighbour = np.full((len(free), 2 * grid.dim), CUT)
        self.length = np.zeros((len(free), 2 * grid.dim))
        none = np.zeros(0, np.int64)
        self.cuts: list[tuple[Index, Index, Array, Array]] = [(none, none, np.zeros((0, grid.dim)), np.zeros(0))]

    def links(self) -> Links:
        for side in self.flux:
            self.neighbour[side.row, side.direction] = FACE
        everything = np.arange(len(self.free))
        for axis in range(self.grid.dim):
            forward, backward = 2 * axis + 1, 2 * axis
            self.trace(everything[self.neighbour[:, forward] != FACE], forward)
            # a link is open in both directions or in none
            rows = np.flatnonzero(self.neighbour[:, forward] >= 0)
            ends = self.number[self.neighbour[rows, forward]]
            self.neighbour[ends, backward] = self.free[rows]
            self.length[ends, backward] = self.grid.spacing[axis]
            self.trace(everything[self.neighbour[:, backward] == CUT], backward)
        row, direction, point, value = (np.concatenate(part) for part in zip(*self.cuts, strict=True))
        return Links(
            self.grid, self.free, self.neighbour, self.length, row, direction, point, value, self.flux, self.known
        )

    def trace(self, rows: Index, direction: int) -> None:
        """Find where the links of these unknowns in one direction end."""
        if len(rows) == 0:
            return
        axis, high = divmod(direction, 2)
        h = self.grid.spacing[axis]
        there = self.grid.neighbour(self.free[rows], direction)
        x = self.x[rows].copy()
        if self.grid.periodic[axis] and not high:
            first = x[:, axis] < self.grid.lower[axis] + 0.5 * h
            x[first, axis] = self.grid.upper[axis]
        start = self.grid.inwards(x)
        end = start.copy()
        end[:, axis] = x[:, axis] + (2 * high - 1) * h * (1 + NUDGE)
        t, label = (part.numpy() for part in self.problem.domain.crossing(tensor(start), tensor(end)))
        hit = np.isfinite(t)
        point = start + np.where(hit, t, 0.0)[:, None] * (end - start)
        point[~hit] = self.grid.points(there[~hit])
        inner = (self.number[there] >= 0) & (there >= 0)
        known = np.isfinite(self.known[there]) & (there >= 0)
        lost = ~hit & ~inner & ~known
        point[lost], label[lost] = self.beside(start[lost], self.grid.points(there[lost]))
        length = np.where(hit | lost, np.abs(point[:, axis] - x[:, axis]), h)
        whole = length >= h * (1 - 3 * NUDGE)
        self.length[rows, direction] = np.where(whole, h, length)
        is_open = whole & inner
        self.neighbour[rows[is_open], direction] = there[is_open]

        at_known = whole & known
        value = np.where(at_known, self.known[there], np.nan)
        point[at_known] = self.grid.points(there[at_known])
        asked = ~is_open & ~at_known
        value[asked] = self.boundary_value(point[asked], label[asked])
        ends_on_node = asked & whole & (there >= 0)
        self.known[there[ends_on_node]] = value[ends_on_node]
        cut = ~is_open
        self.cuts.append((rows[cut], np.full(int(cut.sum()), direction), point[cut], value[cut]))

    def beside(self, start: Array, node: Array) -> tuple[Array, Index]:
        """Boundary points next to nodes that a link only grazes: the link is tilted a little, out of the domain."""
        point, label = np.full(node.shape, np.nan), np.full(len(node), -1)
        for tilt in itertools.product((-1, 0, 1), repeat=self.grid.dim):
            rows = np.flatnonzero(label < 0)
            if len(rows) == 0:
                break
            end = node[rows] + 1e-5 * np.array(tilt) * self.grid.spacing
            t, found = (part.numpy() for part in self.problem.domain.crossing(tensor(start[rows]), tensor(end)))
            hit = np.isfinite(t)
            first = start[rows[hit]]
            point[rows[hit]] = first + t[hit, None] * (end[hit] - first)
            label[rows[hit]] = found[hit]
        # a link along a tangent reaches the boundary at the node itself, a tilted one well before it
        touching = np.abs(self.problem.domain.level(tensor(node)).numpy()) < 1e-10 * self.grid.spacing.min()
        point[touching] = node[touching]
        if (label < 0).any():
            lost = node[label < 0][0].tolist()
            raise ValueError(f"domain.crossing finds no boundary near the point {lost}, which is not inside the domain")
        return point, label

    def boundary_value(self, points: Array, labels: Index) -> Array:
        """The given u where links are cut; a flux may be given on sides of the bounding box only."""
        if len(points) == 0:
            return np.zeros(0)
        given, _, value = _prescribed(self.problem, points, labels)
        if not given.all():
            name = self.problem.labels[int(labels[~given][0])]
            raise ValueError(
                f"a Neumann or Robin condition holds on the boundary piece {name!r}, "
                "but FiniteDifference accepts them only on flat sides of the bounding box"
            )
        return value


def open_links(domain: Domain, links: Links) -> Mask:
    """``(N, d)``: may one interpolate along the forward link of a node? Both ends have values, and it stays inside."""
    grid, number = links.grid, links.number
    result = np.zeros((grid.size, grid.dim), bool)
    valid = np.isfinite(links.nodal(np.zeros(len(links.free))))
    nodes = np.flatnonzero(valid)
    for k in range(grid.dim):
        there = grid.neighbour(nodes, 2 * k + 1)
        keep = (there >= 0) & valid[there]
        here, ahead = nodes[keep], there[keep]
        whole = (1 - 1e-9) * grid.spacing[k]
        start, end = number[here], number[ahead]
        ok = np.where(start >= 0, links.length[start, 2 * k + 1], links.length[end, 2 * k]) >= whole
        edge = (start < 0) & (end < 0)
        middle = grid.points(here[edge])
        middle[:, k] += 0.5 * grid.spacing[k]
        ok[edge] = domain.contains(tensor(middle)).numpy()
        result[here[ok], k] = True
    return result
