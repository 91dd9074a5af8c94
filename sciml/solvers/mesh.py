"""Meshes for the finite-element reference: grids of boxes, and gmsh's fitted curved meshes of everything else.

Geometry and unknowns share their nodes (see `lagrange`), so a mesh of degree k has edges of degree k, and its boundary
nodes lie on the exact boundary. gmsh (GPL) is a tool beside this package: it is imported when a domain needs it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sciml.domain import Ball, Box, Difference, Domain, Ellipsoid, Intersection, Polygon, Union
from sciml.solvers.lagrange import Array, Cell, Integers

__all__ = ["Mesh", "build", "edge_points", "jacobians", "project"]

CURVATURE = 8  # least number of cells around a full circle, however coarse the mesh is elsewhere
REACHES = (0.3, 0.1, 0.03, 0.6)  # how far the boundary is looked for on both sides of a point, in widths of its cell
ON = 1e-10  # relative to the domain: a point so near to the boundary need not be moved
OVERLAP = 0.03  # least ratio of the volume elements |det J| inside one cell
SAME = 1e-6  # relative size below which two faces of a grid are one


@dataclass(frozen=True)
class Mesh:
    """Isoparametric cells of one kind.

    Attributes:
        cell: the reference cell.
        nodes: ``(N, d)`` places of the unknowns.
        cells: ``(E, nodes per cell)`` indices into `nodes`.
        facets: ``(F, 2)`` cell and side of each boundary facet.
        labels: ``(F,)`` which piece of the domain's boundary (index into `Domain.labels`) a facet belongs to.
        feet: ``(N, d)`` the same as `nodes`, but where a node of a flattened cell is off the boundary, the point on it.
        flattened: number of cells on whose curved sides nodes were moved to the chords because they overlapped.
    """

    cell: Cell
    nodes: Array
    cells: Integers
    facets: Integers
    labels: Integers
    feet: Array
    flattened: int = 0

    def sides(self) -> Iterator[tuple[int, Integers]]:
        """The boundary facets by the side of the cell that they are: its number, and indices into `facets`."""
        for side in range(len(self.cell.slopes)):
            yield side, np.flatnonzero(self.facets[:, 1] == side)

    def on_facets(self, chosen: NDArray[np.bool_]) -> Integers:
        """The nodes of some facets, chosen by a mask ``(F,)``."""
        nodes = [
            self.cells[self.facets[mine[chosen[mine]], 0]][:, self.cell.on_side(side)].ravel()
            for side, mine in self.sides()
        ]
        return np.unique(np.concatenate(nodes))


def build(domain: Domain, n: int, degree: int, interfaces: Sequence[Domain] = ()) -> Mesh:
    """Mesh a domain with n cells along the longest side of its bounding box, fitted to interfaces inside it.

    Args:
        domain: a Box of one to three dimensions, or what gmsh can build from Box, Ball, Ellipsoid and Polygon.
        n: sets the size h = longest side / n of all cells.
        degree: of the cells.
        interfaces: regions whose edges the cells shall not cross.

    Raises:
        ValueError: for a domain that cannot be meshed.
        ImportError: if gmsh is needed but missing.
    """
    h = domain.size / n
    intervals = [_as_interval(part) for part in interfaces]
    if isinstance(domain, Box) and all(isinstance(part, Box) for part in intervals):
        return _grid(domain, h, degree, intervals)
    if domain.dim == 1:
        raise ValueError(f"domain is {domain!r}, but in one dimension finite elements need an interval, Box([a], [b])")
    return _fitted(domain, h, degree, interfaces)


def _as_interval(domain: Domain) -> Domain:
    return Box(*domain.bounds) if isinstance(domain, Ball) and domain.dim == 1 else domain


def _grid(box: Box, h: float, degree: int, interfaces: Sequence[Domain]) -> Mesh:
    """Lines, quadrilaterals or hexahedra between equispaced planes, some of which are the faces of interfaces."""
    dim = box.dim
    cell = Cell(dim, degree)
    axes, counts = [], []
    for i in range(dim):
        low, high = float(box.lower[i]), float(box.upper[i])
        faces = [float(bound[i]) for part in interfaces for bound in part.bounds]
        stops = [low]
        for stop in sorted(f for f in faces if low < f < high) + [high]:
            if stop - stops[-1] > SAME * (high - low) or stop == high:
                stops.append(stop)
        parts = [max(1, round((b - a) / h - 1e-9)) for a, b in zip(stops[:-1], stops[1:], strict=True)]
        spans = zip(stops[:-1], stops[1:], parts, strict=True)
        axes.append(np.concatenate([[low], *(np.linspace(a, b, degree * m + 1)[1:] for a, b, m in spans)]))
        counts.append(sum(parts))
    nodes = np.stack(np.meshgrid(*axes, indexing="ij"), -1).reshape(-1, dim)
    index = np.stack(np.unravel_index(np.arange(np.prod(counts)), counts), -1)
    shape = tuple(len(axis) for axis in axes)
    cells = np.ravel_multi_index(tuple(np.moveaxis(degree * index[:, None] + cell.lattice, -1, 0)), shape)
    facets, labels = [], []
    for side in range(2 * dim):
        axis, low_side = divmod(side, 2)  # side 2i is X_i = 1, side 2i + 1 is X_i = 0
        where = np.flatnonzero(index[:, axis] == (0 if low_side else counts[axis] - 1))
        facets.append(np.stack([where, np.full_like(where, side)], 1))
        labels.append(np.full_like(where, 2 * axis + 1 - low_side))
    return Mesh(cell, nodes, cells.astype(np.int64), np.concatenate(facets), np.concatenate(labels), nodes)


# ---- gmsh ------------------------------------------------------------------------------------------------------------


@contextmanager
def _gmsh(options: dict[str, float]) -> Iterator[Any]:
    """A silent gmsh with an empty model; whatever happens, nothing of it is left behind."""
    try:
        import gmsh
    except ImportError as error:
        message = "Meshing this domain needs gmsh; install it with `pip install sciml-solvers[mesh]`."
        raise ImportError(message) from error
    mine = not gmsh.isInitialized()
    if mine:
        gmsh.initialize(readConfigFiles=False, run=False, interruptible=False)
    before = "" if mine else gmsh.model.getCurrent()
    kept = {name: gmsh.option.getNumber(name) for name in options}
    try:
        for name, value in options.items():
            gmsh.option.setNumber(name, value)
        gmsh.model.add("sciml")
        yield gmsh
    finally:
        if mine:
            gmsh.finalize()
        else:
            gmsh.model.remove()
            gmsh.model.setCurrent(before)
            for name, value in kept.items():
                gmsh.option.setNumber(name, value)


def _fitted(domain: Domain, h: float, degree: int, interfaces: Sequence[Domain]) -> Mesh:
    options = {
        "General.Terminal": 0,
        "Mesh.MeshSizeMax": h,
        "Mesh.MeshSizeFromCurvature": CURVATURE if min(domain.dim, degree) <= 2 else 1.5 * CURVATURE,
        "Mesh.Algorithm": 6,
        "Mesh.Algorithm3D": 1,
        "Mesh.MaxNumThreads1D": 1,
        "Mesh.MaxNumThreads2D": 1,
        "Mesh.MaxNumThreads3D": 1,
        "Mesh.RandomSeed": 1,
        "Mesh.HighOrderThresholdMin": 2 * OVERLAP,
        "Mesh.HighOrderNumLayers": 2,
        "Mesh.HighOrderPassMax": 5,
    }
    with _gmsh(options) as gmsh:
        body = _shape(gmsh, domain)
        inner = [tag for part in interfaces for tag in _shape(gmsh, part & domain)]
        if inner:
            gmsh.model.occ.fragment(body, inner)
        gmsh.model.occ.synchronize()
        gmsh.model.mesh.generate(domain.dim)
        gmsh.model.mesh.setOrder(degree)
        cell, nodes, cells = _read(gmsh, domain)
        # in 3-D above degree two gmsh's optimiser may take minutes; there it is left to `_flatten`
        if min(domain.dim, degree) <= 2 and _overlapping(cell, nodes, cells).any():
            gmsh.model.mesh.optimize("HighOrder")
            cell, nodes, cells = _read(gmsh, domain)
    return _on_boundary(domain, cell, nodes, cells)


def _read(gmsh: Any, domain: Domain) -> tuple[Cell, Array, Integers]:
    """Reference cell, nodes and cells of gmsh's mesh, in our order of the nodes of a cell."""
    tags, places, _ = gmsh.model.mesh.getNodes()
    kinds, _, connections = gmsh.model.mesh.getElements(domain.dim)
    if len(kinds) != 1:
        raise ValueError(f"domain is {domain!r}, but gmsh found nothing in it to mesh")
    _, _, degree, per_cell, local, _ = gmsh.model.mesh.getElementProperties(kinds[0])
    cell = Cell(domain.dim, degree, simplex=True)
    # gmsh counts the nodes of a cell from its corners inwards, we count in the order of the lattice
    lattice = np.rint(np.reshape(local, (per_cell, -1))[:, : domain.dim] * degree).astype(np.int64)
    order = [int(np.flatnonzero((lattice == p).all(1))[0]) for p in cell.lattice]
    used, cells = np.unique(np.reshape(connections[0], (-1, per_cell))[:, order], return_inverse=True)
    rank = np.argsort(tags)
    nodes = np.reshape(places, (-1, 3))[rank[np.searchsorted(tags, used, sorter=rank)], : domain.dim]
    return cell, nodes, cells.reshape(-1, per_cell).astype(np.int64)


def _shape(gmsh: Any, domain: Domain) -> list[tuple[int, int]]:
    """Build a domain in gmsh's OpenCASCADE kernel; returns (dimension, tag) pairs."""
    occ = gmsh.model.occ
    if isinstance(domain, (Difference, Union, Intersection)):
        combine = {Difference: occ.cut, Union: occ.fuse, Intersection: occ.intersect}[type(domain)]
        first, *rest = (_shape(gmsh, part) for part in domain.parts)
        if isinstance(domain, Intersection):
            for part in rest:
                first = combine(first, part)[0]
            return first
        return combine(first, [tag for part in rest for tag in part])[0]
    flat = domain.dim == 2
    if isinstance(domain, Box) and domain.dim in (2, 3):
        low, side = domain.lower.tolist(), (domain.upper - domain.lower).tolist()
        return [(2, occ.addRectangle(*low, 0, *side))] if flat else [(3, occ.addBox(*low, *side))]
    if isinstance(domain, Ball) and domain.dim in (2, 3):
        center, r = domain.center.tolist(), domain.radius
        return [(2, occ.addDisk(*center, 0, r, r))] if flat else [(3, occ.addSphere(*center, r))]
    if isinstance(domain, Ellipsoid) and domain.dim in (2, 3):
        return _ellipsoid(occ, domain)
    if isinstance(domain, Polygon):
        points = [occ.addPoint(x, y, 0) for x, y in domain.corners.tolist()]
        lines = [occ.addLine(a, b) for a, b in zip(points, [*points[1:], points[0]], strict=True)]
        return [(2, occ.addPlaneSurface([occ.addCurveLoop(lines)]))]
    accepted = "Box, Ball, Ellipsoid, Polygon and their differences, unions and intersections in 2-D or 3-D"
    raise ValueError(f"domain contains {domain!r}, but finite elements mesh {accepted}")


def _ellipsoid(occ: Any, domain: Ellipsoid) -> list[tuple[int, int]]:
    dim = domain.dim
    unit = [(dim, occ.addDisk(0, 0, 0, 1, 1) if dim == 2 else occ.addSphere(0, 0, 0, 1))]
    linear = np.eye(4)
    linear[:dim, :dim] = domain.matrix.numpy()
    linear[:dim, 3] = domain.center.numpy()
    occ.affineTransform(unit, linear.ravel().tolist())
    return unit


# ---- the boundary ----------------------------------------------------------------------------------------------------


def _on_boundary(domain: Domain, cell: Cell, nodes: Array, cells: Integers) -> Mesh:
    """Find and label the boundary facets of a mesh, and move their nodes onto the exact boundary."""
    facets = _outer(cell, cells)
    labels = np.empty(len(facets), dtype=np.int64)
    nodes = nodes.copy()
    for side in range(len(cell.slopes)):
        mine = np.flatnonzero(facets[:, 1] == side)
        owner, local = cells[facets[mine, 0]], cell.on_side(side)
        at = torch.from_numpy(cell.lattice[local] / cell.degree)
        nodes[owner[:, local]] = project(domain, edge_points(cell, nodes[owner], side, at))[0].numpy()
        middle = edge_points(cell, nodes[owner], side, at.mean(0, keepdim=True))
        labels[mine] = project(domain, middle)[1][:, 0].numpy()
    if cell.dim == 2 and cell.degree > 2:
        nodes = _blend(cell, nodes, cells)
    feet = nodes
    nodes, flattened = _flatten(cell, nodes, cells)
    return Mesh(cell, nodes, cells, facets, labels, feet, flattened)


def _blend(cell: Cell, nodes: Array, cells: Integers) -> Array:
    """Place the inner nodes of triangles so that the map of a cell is as smooth as its curved edges.

    With the deviation d(s) of an edge (i, j) from its chord, the map is the affine one plus the sum over the edges of
    l_i l_j q((1 + l_j - l_i) / 2), where q(s) = d(s) / (s (1 - s)) and l are barycentric coordinates. Its m-th
    derivatives are O(h^m), without which half an order of convergence is lost; those of gmsh's own map are not.
    """
    x, s = cell.lattice / cell.degree, np.arange(1, cell.degree) / cell.degree
    bary = np.column_stack([1 - x.sum(1), x])
    inner = np.flatnonzero(bary.min(1) > 0)
    change = np.zeros((len(inner), len(x)))
    for i, j in ((0, 1), (0, 2), (1, 2)):
        on = np.flatnonzero((bary[:, 3 - i - j] == 0) & (bary[:, i] > 0) & (bary[:, j] > 0))
        on = on[np.argsort(bary[on, j])]
        q = np.linalg.solve(np.vander(s), np.diag(1 / (s * (1 - s))))  # its powers, from the values of d
        at = 0.5 + 0.5 * (bary[inner, j] - bary[inner, i])
        change[:, on] += (bary[inner, i] * bary[inner, j])[:, None] * (np.vander(at, len(s)) @ q)
    affine = Cell(2, 1, simplex=True).values(torch.from_numpy(x)).numpy() @ nodes[cells[:, cell.corners]]
    moved = nodes.copy()
    moved[cells[:, inner]] = affine[:, inner] + change @ (nodes[cells] - affine)
    return moved


def _overlapping(cell: Cell, nodes: Array, cells: Integers) -> NDArray[np.bool_]:
    """Which cells ``(E,)`` are so strongly curved against their size that they overlap themselves, or nearly so."""
    at = torch.from_numpy(cell.lattice / cell.degree)
    volumes = torch.linalg.det(jacobians(cell, torch.from_numpy(nodes[cells]), at)).numpy()
    volumes = volumes * np.sign(volumes.mean(1, keepdims=True))
    return volumes.min(1) < OVERLAP * volumes.max(1)


def _flatten(cell: Cell, nodes: Array, cells: Integers) -> tuple[Array, int]:
    """Replace curved sides by chords where cells still overlap."""
    chord = Cell(cell.dim, 1, cell.simplex).values(torch.from_numpy(cell.lattice / cell.degree)).numpy()
    flat = np.zeros(len(cells), dtype=bool)
    while (bad := _overlapping(cell, nodes, cells) & ~flat).any():
        nodes, flat = nodes.copy(), flat | bad
        nodes[cells[bad]] = chord @ nodes[cells[bad][:, cell.corners]]
    return nodes, int(flat.sum())


def _outer(cell: Cell, cells: Integers) -> Integers:
    """Cell and side of the facets that belong to one cell only, ``(F, 2)``."""
    sides = []
    for side in range(len(cell.slopes)):
        corners = np.intersect1d(cell.on_side(side), cell.corners)
        sides.append(np.sort(cells[:, corners], axis=1))
    _, where, counts = np.unique(np.concatenate(sides), axis=0, return_index=True, return_counts=True)
    once = np.sort(where[counts == 1])
    return np.stack([once % len(cells), once // len(cells)], 1)


def jacobians(cell: Cell, corners: Tensor, at: Tensor) -> Tensor:
    """dx_i / dX_j, ``(e, q, d, d)``, at reference points ``(q, d)`` of cells with nodes ``(e, b, d)``."""
    return (cell.gradients(at).mT @ corners[:, None]).mT


class Edge(NamedTuple):
    """Points on one side of e cells, q on each.

    Attributes:
        points: ``(e, q, d)``.
        inward: ``(2, e, q, d)`` two directions to the inside: the chord's normal, as long as the cell is wide, and
            that to its middle.
        stretch: ``(e, q)`` ratio of the measures of the side and the reference side.
    """

    points: Tensor
    inward: Tensor
    stretch: Tensor


def edge_points(cell: Cell, nodes: Array, side: int, at: Tensor) -> Edge:
    """Evaluate a side of the cells with nodes ``(e, b, d)`` at reference points ``(q, d)`` on it."""
    corners = torch.from_numpy(nodes)
    points, jacobian = cell.values(at) @ corners, jacobians(cell, corners, at)
    length = torch.linalg.vector_norm(torch.linalg.inv(jacobian).mT @ cell.slopes[side], dim=-1)
    vertices = corners[:, cell.corners]
    middle = vertices.mean(1, keepdim=True)
    width = torch.linalg.vector_norm(vertices - middle, dim=-1).amax(1)[:, None, None]
    straight = torch.linalg.inv(jacobians(Cell(cell.dim, 1, cell.simplex), vertices, at)).mT @ cell.slopes[side]
    normals = torch.nn.functional.normalize(straight, dim=-1)
    inward = torch.stack([normals * width, middle - points])
    return Edge(points, inward, torch.linalg.det(jacobian).abs() * length)


def project(domain: Domain, edge: Edge) -> tuple[Tensor, Tensor]:
    """Move points near the boundary onto it, along the first of the given directions that meets it, and only just.

    Returns:
        The points ``(e, q, d)`` and the pieces ``(e, q)`` of the boundary they are on; -1 for a point that was on it.
    """
    points = edge.points.flatten(0, 1)
    moved, label = points.clone(), torch.full((len(points),), -1)
    best = torch.full((len(points),), torch.inf, dtype=torch.float64)
    for direction in edge.inward.flatten(1, 2):
        rows = best.isinf().nonzero()[:, 0]
        for reach in REACHES:
            step = reach * direction[rows]
            start = points[rows] + step
            t, found = domain.crossing(start, points[rows] - step)
            distance = torch.where(domain.contains(start), reach * (2 * t - 1).abs(), torch.inf)
            better = distance < best[rows]
            to = rows[better]
            best[to], label[to], moved[to] = distance[better], found[better], (start - 2 * t[:, None] * step)[better]
    lost = best.isinf() & (domain.level(points).abs() > ON * domain.size)
    if bool(lost.any()):
        bad = [round(c, 6) for c in points[lost][0].tolist()]
        raise ValueError(f"n is too small for a mesh that follows the boundary near {bad}; give a larger one")
    return moved.reshape(edge.points.shape), label.reshape(edge.points.shape[:2])
