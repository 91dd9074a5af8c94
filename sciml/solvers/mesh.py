"""Meshes for the finite-element reference: grids of boxes, and gmsh's fitted curved meshes of everything else.

Geometry and unknowns share their nodes (see `lagrange`), so a mesh of degree k has edges of degree k, and its boundary
nodes lie on the exact boundary. gmsh (GPL) is a tool beside this package: it is imported when a domain needs it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sciml.domain import Ball, Box, Difference, Domain, Ellipsoid, Intersection, Polygon, Union
from sciml.solvers.lagrange import Array, Cell, Integers

__all__ = ["Mesh", "build"]

CURVATURE = 8  # least number of cells around a full circle, however coarse the mesh is elsewhere
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
    """

    cell: Cell
    nodes: Array
    cells: Integers
    facets: Integers
    labels: Integers

    @property
    def size(self) -> float:
        """Mean size of a cell: a length, the d-th root of its volume in the bounding box."""
        extent = np.ptp(self.nodes, axis=0)
        return float((extent.prod() / len(self.cells)) ** (1 / self.cell.dim))

    @cached_property
    def edge(self) -> tuple[Integers, Integers]:
        """Boundary nodes and their labels; a node where pieces meet appears once for each."""
        pairs = []
        for side in range(len(self.cell.slopes)):
            mine = self.facets[:, 1] == side
            nodes = self.cells[self.facets[mine, 0]][:, self.cell.on_side(side)]
            pairs.append(np.stack([nodes, np.broadcast_to(self.labels[mine, None], nodes.shape)], -1).reshape(-1, 2))
        unique = np.unique(np.concatenate(pairs), axis=0)
        return unique[:, 0], unique[:, 1]


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
    return Mesh(cell, nodes, cells.astype(np.int64), np.concatenate(facets), np.concatenate(labels))


# ---- gmsh ------------------------------------------------------------------------------------------------------------


@contextmanager
def _gmsh() -> Iterator[Any]:
    """A silent gmsh with an empty model; whatever happens, nothing of it is left behind."""
    try:
        import gmsh
    except ImportError as error:
        message = "Meshing this domain needs gmsh; install it with `pip install sciml-solvers[mesh]`."
        raise ImportError(message) from error
    mine = not gmsh.isInitialized()
    if mine:
        gmsh.initialize(readConfigFiles=False, run=False, interruptible=False)
    before = None if mine else gmsh.model.getCurrent()
    try:
        gmsh.option.setNumber("General.Terminal", 0)
        gmsh.model.add("sciml")
        yield gmsh
    finally:
        if mine:
            gmsh.finalize()
        else:
            gmsh.model.remove()
            gmsh.model.setCurrent(before)


def _fitted(domain: Domain, h: float, degree: int, interfaces: Sequence[Domain]) -> Mesh:
    with _gmsh() as gmsh:
        body = _shape(gmsh, domain)
        inner = [tag for part in interfaces for tag in _shape(gmsh, part & domain)]
        if inner:
            gmsh.model.occ.fragment(body, inner)
        gmsh.model.occ.synchronize()
        options = {
            "Mesh.MeshSizeMax": h,
            "Mesh.MeshSizeFromCurvature": CURVATURE,
            "Mesh.Algorithm": 6,
            "Mesh.Algorithm3D": 1,
            "Mesh.MaxNumThreads1D": 1,
            "Mesh.MaxNumThreads2D": 1,
            "Mesh.MaxNumThreads3D": 1,
            "Mesh.RandomSeed": 1,
        }
        for name, value in options.items():
            gmsh.option.setNumber(name, value)
        gmsh.model.mesh.generate(domain.dim)
        gmsh.model.mesh.setOrder(degree)
        tags, places, _ = gmsh.model.mesh.getNodes()
        kinds, _, connections = gmsh.model.mesh.getElements(domain.dim)
        if len(kinds) != 1:
            raise ValueError(f"domain is {domain!r}, but gmsh found nothing in it to mesh with simplices")
        per_cell, local = gmsh.model.mesh.getElementProperties(kinds[0])[3:5]
    cell = Cell(domain.dim, degree, simplex=True)
    # gmsh counts the nodes of a cell from its corners inwards, we count in the order of the lattice
    lattice = np.rint(np.reshape(local, (per_cell, -1))[:, : domain.dim] * degree).astype(np.int64)
    order = [int(np.flatnonzero((lattice == p).all(1))[0]) for p in cell.lattice]
    used, cells = np.unique(np.reshape(connections[0], (-1, per_cell))[:, order], return_inverse=True)
    rank = np.argsort(tags)
    nodes = np.reshape(places, (-1, 3))[rank[np.searchsorted(tags, used, sorter=rank)], : domain.dim]
    return _on_boundary(domain, cell, nodes, cells.reshape(-1, per_cell).astype(np.int64))


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
    centers = nodes[cells[:, cell.corners]].mean(1)
    for side in range(len(cell.slopes)):
        mine = np.flatnonzero(facets[:, 1] == side)
        owner, local = facets[mine, 0], cell.on_side(side)
        moved, _ = project(domain, centers[owner], nodes[cells[owner][:, local]])
        nodes[cells[owner][:, local]] = moved
        middle = cell.values(torch.from_numpy(cell.lattice[local].mean(0) / cell.degree)).numpy()
        labels[mine] = project(domain, centers[owner], (middle @ nodes[cells[owner]])[:, None])[1][:, 0]
    return Mesh(cell, nodes, cells, facets, labels)


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


def project(domain: Domain, inside: Array, x: Array) -> tuple[Array, Integers]:
    """Move points of boundary facets onto the exact boundary, seen from the middle of their cells.

    Args:
        domain: whose boundary.
        inside: ``(e, d)`` points inside, one for each cell.
        x: ``(e, q, d)`` points near the boundary.

    Returns:
        The moved points and the pieces ``(e, q)`` of the boundary on which they are.
    """
    start = torch.from_numpy(np.broadcast_to(inside[:, None], x.shape).reshape(-1, domain.dim).copy())
    step = 2 * (torch.from_numpy(x.reshape(-1, domain.dim)) - start)
    t, label = domain.crossing(start, start + step)
    if not bool(t.isfinite().all()):
        bad = [round(c, 6) for c in x.reshape(-1, domain.dim)[~t.isfinite().numpy()][0].tolist()]
        raise ValueError(f"n is too small for the mesh to follow the boundary near {bad}; give a larger one")
    moved = (start + t[:, None] * step).reshape(x.shape)
    return moved.numpy(), label.reshape(x.shape[:2]).numpy()
