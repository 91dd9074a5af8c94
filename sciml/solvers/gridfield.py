"""A grid function as a Field: second order up to the edge of a hole, and never across one.

Where a block of 4^d nodes around (or beside) a cell has values and only open links, the cell is interpolated by the
tensor product of cubic Lagrange polynomials. Every other cell is near a curved boundary: there each inside node
carries a quadratic polynomial fitted to the nodes it can see and to the boundary values where their links are cut, and
the polynomials of the visible corners of the cell are blended. All of it is precomputed, so the field needs no problem.
"""

from __future__ import annotations

import itertools
from functools import cached_property
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from sciml.domain import Domain, domain_from
from sciml.solvers.grid import NUDGE, Array, Grid, Index, Links, Mask, open_links, tensor

__all__ = ["GridField"]

FITTED = -1  # instead of the number of a shift: this cell has no clean block
BATCH = 2**17  # points evaluated at a time


def _shifts(dim: int) -> list[tuple[int, ...]]:
    """Where the 4^d block may start relative to the centred one, the centred one first."""
    return sorted(itertools.product((0, -1, 1), repeat=dim), key=lambda s: sum(map(abs, s)))


def _monomials(x: Any) -> list[Any]:
    """1, x_i, x_i x_j at points whose coordinates are the last axis."""
    d = x.shape[-1]
    pairs = [x[..., i] * x[..., j] for i in range(d) for j in range(i, d)]
    return [x[..., 0] * 0 + 1, *(x[..., i] for i in range(d)), *pairs]


class GridField:
    """Values on a grid, interpolated: ``(n, d) -> (n,)``.

    Args:
        domain: where the field may be asked for.
        grid: the nodes.
        values: ``(N,)`` at the nodes, NaN outside the domain.
        stencil: ``cells``-shaped; which shift of the cubic block serves a cell, or FITTED.
        fit_nodes: ``(f,)`` nodes that carry a polynomial.
        fit_coefficients: ``(f, P)`` of `_monomials` of (x - node) / spacing.

    Raises:
        ValueError: when called at a point outside the domain or with another number of columns.
    """

    kind: ClassVar[str] = "grid"

    def __init__(
        self, domain: Domain, grid: Grid, values: Array, stencil: Index, fit_nodes: Index, fit_coefficients: Array
    ) -> None:
        self.domain, self.grid = domain, grid
        self.values = torch.from_numpy(np.asarray(values, float))
        self.stencil = torch.from_numpy(np.asarray(stencil).astype(np.int64).ravel())
        self.fit_nodes = torch.from_numpy(np.asarray(fit_nodes, np.int64))
        self.fit_coefficients = torch.from_numpy(np.asarray(fit_coefficients, float))
        self._shifts = torch.tensor(_shifts(grid.dim))
        self._corners = torch.tensor(list(itertools.product((0, 1), repeat=grid.dim)))
        self._fit_row = torch.full((grid.size,), -1)
        self._fit_row[self.fit_nodes] = torch.arange(len(self.fit_nodes))

    # ---- making ------------------------------------------------------------------------------------------------------

    @classmethod
    def full(cls, domain: Domain, grid: Grid, values: Array) -> GridField:
        """On a box without holes: `values` holds all nodes."""
        everywhere = np.ones((grid.size, grid.dim), bool)
        stencil = _stencils(grid, np.ones(grid.size, bool), everywhere)
        terms = len(_monomials(np.zeros((1, grid.dim))))
        return cls(domain, grid, values.ravel(), stencil, np.zeros(0, np.int64), np.zeros((0, terms)))

    @classmethod
    def build(cls, domain: Domain, links: Links, u: Array) -> GridField:
        """From the unknowns ``(m,)`` of a traced grid."""
        grid, values = links.grid, links.nodal(u)
        stencil = _stencils(grid, np.isfinite(values), open_links(domain, links))
        nodes = _fit_nodes(links, stencil)
        terms = len(_monomials(np.zeros((1, grid.dim))))
        batches = np.array_split(nodes, len(nodes) // 2048 + 1) if len(nodes) else []
        parts = [np.zeros((0, terms)), *(_fit(domain, links, values, batch) for batch in batches)]
        return cls(domain, grid, values, stencil, nodes, np.concatenate(parts))

    # ---- storing -----------------------------------------------------------------------------------------------------

    def describe(self) -> dict[str, Any]:
        """Everything but the numbers."""
        grid = self.grid
        return {
            "domain": self.domain.describe(),
            "lower": grid.lower.tolist(),
            "spacing": grid.spacing.tolist(),
            "cells": list(grid.cells),
            "periodic": list(grid.periodic),
        }

    def arrays(self) -> dict[str, Any]:
        """The numbers."""
        return {
            "values": self.values.numpy(),
            "stencil": self.stencil.numpy().astype(np.int8),
            "fit_nodes": self.fit_nodes.numpy(),
            "fit_coefficients": self.fit_coefficients.numpy(),
        }

    @classmethod
    def restore(cls, description: dict[str, Any], arrays: dict[str, Any], problem: Any = None) -> GridField:
        """The field that `describe` and `arrays` came from."""
        cells = tuple(int(c) for c in description["cells"])
        periodic = tuple(bool(p) for p in description["periodic"])
        grid = Grid(np.array(description["lower"]), np.array(description["spacing"]), cells, periodic)
        parts = (arrays[name] for name in ("values", "stencil", "fit_nodes", "fit_coefficients"))
        return cls(domain_from(description["domain"]), grid, *parts)

    # ---- asking ------------------------------------------------------------------------------------------------------

    @property
    def axes(self) -> tuple[Tensor, ...]:
        """Coordinates of the nodes along each axis."""
        lower, spacing = self.grid.lower, self.grid.spacing
        return tuple(tensor(lower[k] + spacing[k] * np.arange(n)) for k, n in enumerate(self.grid.shape))

    @property
    def nodal(self) -> Tensor:
        """Values at the nodes, shaped like the grid, NaN outside the domain."""
        return self.values.reshape(self.grid.shape)

    def __call__(self, x: Tensor) -> Tensor:
        """Values ``(n,)`` at points ``(n, d)`` of the closed domain; differentiable in x within a cell."""
        if x.ndim != 2 or x.shape[1] != self.grid.dim:
            raise ValueError(f"x has shape {tuple(x.shape)}, but must be points (n, {self.grid.dim})")
        x = x.to("cpu", torch.float64)
        lower, spacing = tensor(self.grid.lower), tensor(self.grid.spacing)
        outside = ~(self.domain.level(x.detach()) >= -1e-3 * float(spacing.min()) * 1e-3)
        if bool(outside.any()):
            bad = [round(b, 9) for b in x.detach()[outside][0].tolist()]
            raise ValueError(f"x has the point {bad} outside the domain, but this field is known inside only")
        parts = [self._evaluate((part - lower) / spacing) for part in x.split(BATCH)]
        return torch.cat(parts)

    def _evaluate(self, s: Tensor) -> Tensor:
        """At points in units of the spacing."""
        cells = torch.tensor(self.grid.cells)
        cell = s.detach().floor().long().clamp_min(0).minimum(cells - 1)
        code = self.stencil[_ravel(cell, self.grid.cells)]
        result = s.new_zeros(len(s))
        for rows, rule in (((code >= 0).nonzero()[:, 0], self._cubic), ((code < 0).nonzero()[:, 0], self._fitted)):
            if len(rows):
                result = result.index_put((rows,), rule(s[rows], cell[rows], code[rows]))
        return result

    def _node(self, multi: Tensor) -> Tensor:
        """Node numbers of indices ``(..., d)``, wrapped on periodic axes."""
        shape = torch.tensor(self.grid.shape)
        wrapped = torch.where(torch.tensor(self.grid.periodic), multi % shape, multi)
        return _ravel(wrapped, self.grid.shape)

    def _cubic(self, s: Tensor, cell: Tensor, code: Tensor) -> Tensor:
        first = cell - 1 + self._shifts[code]
        offsets = torch.tensor(list(itertools.product(range(4), repeat=self.grid.dim)))
        values = self.values[self._node(first[:, None] + offsets)].reshape(len(s), *(4,) * self.grid.dim)
        for k in reversed(range(self.grid.dim)):
            r = s[:, k] - first[:, k]
            a, b, c, d = r, r - 1, r - 2, r - 3
            weights = torch.stack([-b * c * d / 6, a * c * d / 2, -a * b * d / 2, a * b * c / 6], 1)
            values = (values * weights.reshape(len(s), *(1,) * k, 4)).sum(-1)
        return values

    def _fitted(self, s: Tensor, cell: Tensor, code: Tensor) -> Tensor:
        corners = cell[:, None] + self._corners
        row = self._fit_row[self._node(corners)]
        weight = (1 - (s[:, None] - corners).abs()).clamp_min(0).prod(-1) + 1e-9
        seen = row >= 0
        i, j = seen.nonzero(as_tuple=True)
        seen[i, j] = self._visible(corners[i, j].to(s), s.detach()[i])
        blind = (~seen.any(1)).nonzero()[:, 0]
        if len(blind):
            corners, row, seen, weight = (part.clone() for part in (corners, row, seen, weight))
            nearest = self._nearest(s.detach()[blind])
            corners[blind, 0] = self._fit_index[nearest]
            row[blind, 0], seen[blind, 0] = nearest, True
        i, j = seen.nonzero(as_tuple=True)
        terms = torch.stack(_monomials(s[i] - corners[i, j]), 1)
        value = (self.fit_coefficients[row[i, j]] * terms).sum(1)
        w = weight[i, j]
        zero = s.new_zeros(len(s))
        return zero.index_add(0, i, w * value) / zero.index_add(0, i, w)

    def _visible(self, node: Tensor, s: Tensor) -> Tensor:
        """Whether the segments from inside nodes to points, in units of the spacing, stay in the domain."""
        lower, spacing = tensor(self.grid.lower), tensor(self.grid.spacing)
        start = node.clamp_min(NUDGE).minimum(torch.tensor(self.grid.cells) - NUDGE)
        return self.domain.crossing(lower + start * spacing, lower + s * spacing)[0] > 1 - 1e-4

    def _nearest(self, s: Tensor) -> Tensor:
        """The nearest visible polynomial (or else the nearest) of points in cells without an inside corner."""
        count = min(8, len(self.fit_nodes))
        if count == 0:
            raise ValueError(
                "x has points in a part of the domain that the grid does not resolve; solve with a larger n"
            )
        nodes = self._fit_index.to(s)
        near = torch.cat([torch.cdist(part, nodes).topk(count, 1, False)[1] for part in s.split(256)])
        i = torch.arange(len(s)).repeat_interleave(count)
        seen = self._visible(nodes[near.ravel()], s[i]).reshape(near.shape)
        return near[torch.arange(len(s)), seen.to(torch.int8).argmax(1)]

    @cached_property
    def _fit_index(self) -> Tensor:
        return torch.from_numpy(self.grid.multi(self.fit_nodes.numpy()))


def _ravel(multi: Tensor, shape: tuple[int, ...]) -> Tensor:
    flat = multi[..., 0]
    for k in range(1, len(shape)):
        flat = flat * shape[k] + multi[..., k]
    return flat


def _window(flags: Mask, axis: int, width: int, wrap: bool) -> Mask:
    """Are `width` successive flags along an axis all set?"""
    if wrap:
        return np.logical_and.reduce([np.roll(flags, -j, axis) for j in range(width)])
    count = flags.shape[axis] - width + 1
    return np.logical_and.reduce([flags.take(range(j, j + count), axis) for j in range(width)])


def _stencils(grid: Grid, valid: Mask, open_forward: Mask) -> Index:
    """For every cell the first shift whose block of 4^d nodes has values and open links only."""
    clean = valid.reshape(grid.shape)
    for k in range(grid.dim):
        clean = _window(clean, k, 4, grid.periodic[k])
    for along in range(grid.dim):
        flags = open_forward[:, along].reshape(grid.shape)
        for k in range(grid.dim):
            if k == along and not grid.periodic[k]:
                flags = flags.take(range(grid.cells[k]), k)
            flags = _window(flags, k, 3 if k == along else 4, grid.periodic[k])
        clean = clean & flags
    result = np.full(grid.cells, FITTED, np.int64)
    cells = np.indices(grid.cells).reshape(grid.dim, -1).T
    for code, shift in reversed(list(enumerate(_shifts(grid.dim)))):
        first = cells - 1 + np.array(shift)
        wrapped = np.where(np.array(grid.periodic), first % np.array(clean.shape), first)
        inside = ((wrapped >= 0) & (wrapped < np.array(clean.shape))).all(1)
        good = np.zeros(len(cells), bool)
        good[inside] = clean[tuple(wrapped[inside].T)]
        result.ravel()[good] = code
    return result


def _fit_nodes(links: Links, stencil: Index) -> Index:
    """Unknowns at corners of fitted cells, and those beside the boundary one cell further on."""
    grid = links.grid
    near = stencil == FITTED
    corner, beyond = np.zeros(grid.shape, bool), np.zeros(grid.shape, bool)
    for step in itertools.product((-1, 0, 1, 2), repeat=grid.dim):
        index = np.argwhere(near) + np.array(step)
        index = np.where(np.array(grid.periodic), index % np.array(grid.shape), index)
        index = index[((index >= 0) & (index < np.array(grid.shape))).all(1)]
        (corner if all(0 <= s <= 1 for s in step) else beyond)[tuple(index.T)] = True
    beside = np.zeros(grid.size, bool)
    beside[links.free[links.cut_row]] = True
    wanted = corner.ravel() | (beyond.ravel() & beside)
    return links.free[wanted[links.free]]


def _fit(domain: Domain, links: Links, values: Array, nodes: Index) -> Array:
    """Coefficients of the quadratic polynomials around some unknowns, by weighted least squares."""
    grid, d = links.grid, links.grid.dim
    offsets = np.array(list(itertools.product((-1, 0, 1), repeat=d)))
    multi = grid.multi(nodes)[:, None] + offsets
    multi = np.where(np.array(grid.periodic), multi % np.array(grid.shape), multi)
    exists = ((multi >= 0) & (multi < np.array(grid.shape))).all(-1)
    there = np.ravel_multi_index(tuple(np.moveaxis(np.where(exists[..., None], multi, 0), -1, 0)), grid.shape)
    seen = exists & np.isfinite(values[there])
    i, j = np.nonzero(seen)
    x = grid.points(nodes)[i]
    start, end = grid.inwards(x), grid.inwards(x + offsets[j] * grid.spacing)
    t = domain.crossing(tensor(start), tensor(end))[0].numpy()
    seen[i, j] = t > 1 - 1e-4
    i, j = np.nonzero(seen)
    owner, place, datum = [i], [offsets[j].astype(float)], [values[there[i, j]]]
    # where the links of the nodes that are seen are cut, the boundary value is a datum as well
    row = links.number[there[i, j]]
    for direction in range(2 * d):
        axis, high = divmod(direction, 2)
        cut = np.flatnonzero((row >= 0) & np.isfinite(links.end_value[row, direction]))
        x = offsets[j[cut]].astype(float)
        x[:, axis] += (2 * high - 1) * links.length[row[cut], direction] / grid.spacing[axis]
        owner.append(i[cut])
        place.append(x)
        datum.append(links.end_value[row[cut], direction])
    centre = values[nodes]
    datum = [u - centre[k] for u, k in zip(datum, owner, strict=True)]
    slopes = _least_squares(len(nodes), np.concatenate(owner), np.concatenate(place), np.concatenate(datum))
    return np.concatenate([centre[:, None], slopes], 1)


def _least_squares(count: int, owner: Index, x: Array, u: Array) -> Array:
    """Polynomials, 0 at 0, through data u at x ``(k, d)`` of their owners; linear where data are too few."""
    order = np.argsort(owner, kind="stable")
    owner, x, u = owner[order], x[order], u[order]
    amount = np.bincount(owner, minlength=count)
    place = np.arange(len(owner)) - (np.cumsum(amount) - amount)[owner]
    terms = np.stack([*_monomials(x)[1:], u], 1) / np.sqrt(0.1 + (x**2).sum(1))[:, None]
    rows = np.zeros((count, amount.max(), terms.shape[1]))
    rows[owner, place] = terms
    product = rows.transpose(0, 2, 1) @ rows
    normal, right, size = product[:, :-1, :-1], product[:, :-1, -1], terms.shape[1] - 1
    spread = np.linalg.eigvalsh(normal)
    good = spread[:, 0] > 1e-7 * spread[:, -1]
    result = np.zeros((count, size))
    result[good] = np.linalg.solve(normal[good], right[good][..., None])[..., 0]
    few, linear = ~good, x.shape[1]
    inverse = np.linalg.pinv(normal[few, :linear, :linear], rcond=1e-7, hermitian=True)
    result[few, :linear] = np.einsum("fij,fj->fi", inverse, right[few, :linear])
    return result
