"""A finite-element function as a Field: found on the cell of a point, exact on curved cells, differentiable in x.

A point belongs to the cell whose inverse map gives it non-negative barycentric coordinates; cells are tried in the
order of their centres' distance. A point between the boundary and the edge of the mesh (a chord for degree one) is in
no cell; the one that it misses least speaks for it.
"""

from __future__ import annotations

from functools import cached_property
from typing import Any, ClassVar

import numpy as np
import torch
from scipy.spatial import cKDTree
from torch import Tensor

from sciml.domain import Domain, domain_from
from sciml.solvers.lagrange import Array, Cell, Integers

__all__ = ["MeshField"]

INSIDE = 1e-10  # barycentric coordinates above minus this count as inside
BESIDE = 0.02  # so little outside the nearest cells a point is between the boundary and a curved edge
AROUND = 0.5  # so far outside the straight cell with the same corners a point is outside the curved one
EDGE = 1e-6  # how far outside the domain, in cells, a point may lie by rounding
FIRST, LAST = 8, 64  # cells tried for a point: at first, and for those that are in none of them
NEWTON_STEPS = 12
BATCH = 2**15  # points evaluated at a time


class MeshField:
    """Nodal values on isoparametric cells, interpolated: ``(n, d) -> (n,)``.

    Args:
        domain: where the field may be asked for.
        cell: the reference cell.
        nodes: ``(N, d)`` places of the nodes.
        cells: ``(E, nodes per cell)`` indices of the nodes of each cell.
        values: ``(N,)`` at the nodes.

    Raises:
        ValueError: when called at a point outside the domain or with another number of columns.
    """

    kind: ClassVar[str] = "mesh"

    def __init__(self, domain: Domain, cell: Cell, nodes: Array, cells: Integers, values: Array) -> None:
        self.domain, self.cell = domain, cell
        self.nodes = torch.from_numpy(np.asarray(nodes, np.float64))
        self.cells = torch.from_numpy(np.asarray(cells, np.int64))
        self.values = torch.from_numpy(np.asarray(values, np.float64))

    # ---- storing -----------------------------------------------------------------------------------------------------

    def describe(self) -> dict[str, Any]:
        """Everything but the numbers."""
        shape = {"dim": self.cell.dim, "degree": self.cell.degree, "simplex": self.cell.simplex}
        return {"domain": self.domain.describe(), "cell": shape}

    def arrays(self) -> dict[str, Any]:
        """The numbers."""
        return {"nodes": self.nodes.numpy(), "cells": self.cells.numpy(), "values": self.values.numpy()}

    @classmethod
    def restore(cls, description: dict[str, Any], arrays: dict[str, Any], problem: Any = None) -> MeshField:
        """The field that `describe` and `arrays` came from."""
        cell = Cell(**description["cell"])
        return cls(domain_from(description["domain"]), cell, arrays["nodes"], arrays["cells"], arrays["values"])

    # ---- asking ------------------------------------------------------------------------------------------------------

    @property
    def dim(self) -> int:
        """Number of coordinates."""
        return self.cell.dim

    def __call__(self, x: Tensor) -> Tensor:
        """Values ``(n,)`` at points ``(n, d)`` of the closed domain; differentiable in x within a cell."""
        if x.ndim != 2 or x.shape[1] != self.dim:
            raise ValueError(f"x has shape {tuple(x.shape)}, but must be points (n, {self.dim})")
        x = x.to("cpu", torch.float64)
        parts = [self._evaluate(part) for part in x.split(BATCH)]
        return torch.cat(parts)

    def _evaluate(self, x: Tensor) -> Tensor:
        where, start = _Locate.apply(x, self)
        nodes = self.cells[where]
        reference = start
        if torch.is_grad_enabled():
            # two Newton steps from the converged point do not move it, but carry derivatives in x up to the third order
            for _ in range(2):
                reference = self._step(reference, self.nodes[nodes], x)
        return (self.cell.values(reference) * self.values[nodes]).sum(-1)

    def _step(self, reference: Tensor, corners: Tensor, x: Tensor) -> Tensor:
        """One Newton step towards the reference points ``(n, d)`` whose images are x."""
        image = (self.cell.values(reference)[..., None] * corners).sum(-2)
        jacobian = corners.mT @ self.cell.gradients(reference)
        return reference + torch.linalg.solve(jacobian, x - image)

    def locate(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Cells ``(n,)`` and reference coordinates ``(n, d)`` of plain points ``(n, d)``.

        Raises:
            ValueError: for a point outside the domain.
        """
        outside = ~(self.domain.level(x) >= -EDGE * self._reach)
        if bool(outside.any()):
            bad = [round(b, 9) for b in x[outside][0].tolist()]
            raise ValueError(f"x has the point {bad} outside the domain, but this field is known inside only")
        best = torch.full((len(x),), -torch.inf, dtype=torch.float64)
        cell, reference = torch.zeros(len(x), dtype=torch.long), torch.zeros_like(x)
        tried = 0
        for count, enough in ((min(FIRST, len(self.cells)), INSIDE), (min(LAST, len(self.cells)), BESIDE)):
            rows = (best < -enough).nonzero()[:, 0]
            if len(rows) == 0 or tried == count:
                break
            near = torch.from_numpy(self._tree.query(x[rows].numpy(), k=np.arange(1, count + 1))[1])
            for j in range(tried, count):
                open_ = (best[rows] < -INSIDE).nonzero()[:, 0]
                if len(open_) == 0:
                    break
                row, candidate = rows[open_], near[open_, j]
                found = self._invert(candidate, x[row])
                depth = self.cell.barycentric(found).amin(-1).nan_to_num(-torch.inf)
                better = depth > best[row]
                row = row[better]
                best[row], cell[row], reference[row] = depth[better], candidate[better], found[better]
            tried = count
        return cell, reference

    def _invert(self, cell: Tensor, x: Tensor) -> Tensor:
        """Reference coordinates of x in given cells, NaN where Newton's method does not find any."""
        offset, inverse, straight = self._affine
        reference = (inverse[cell] @ (x - offset[cell])[..., None])[..., 0]
        near = self.cell.barycentric(reference).amin(-1) > -AROUND
        rows = (near & ~straight[cell]).nonzero()[:, 0]
        corners, target, found = self.nodes[self.cells[cell[rows]]], x[rows], reference[rows].clamp(-0.5, 1.5)
        for _ in range(NEWTON_STEPS):
            moved = self._step(found, corners, target)
            if len(moved) == 0 or float((moved - found).abs().amax()) < 1e-14:
                break
            found = moved.clamp(-1.0, 2.0)
        if len(rows):
            reference[rows] = torch.where((self._step(found, corners, target) - found).abs() < 1e-8, found, torch.nan)
        return reference

    @cached_property
    def _affine(self) -> tuple[Tensor, Tensor, Tensor]:
        """The affine map through corners of each cell: image of 0, inverse Jacobian; and whether that is all."""
        k, d = self.cell.degree, self.cell.dim
        unit = torch.cat([torch.zeros(1, d), torch.eye(d)]).long() * k
        lattice = torch.from_numpy(self.cell.lattice)
        first = [int((lattice == u).all(1).nonzero()) for u in unit]
        corners = self.nodes[self.cells]
        offset = corners[:, first[0]]
        jacobian = (corners[:, first[1:]] - offset[:, None]).mT
        flat = offset[:, None] + (lattice.to(torch.float64) / k) @ jacobian.mT
        scale = jacobian.abs().amax((1, 2))
        straight = (flat - corners).abs().amax((1, 2)) < 1e-12 * scale
        return offset, torch.linalg.inv(jacobian), straight

    @cached_property
    def _reach(self) -> float:
        """Size of a typical cell."""
        return float((1 / torch.linalg.det(self._affine[1]).abs()).mean() ** (1 / self.dim))

    @cached_property
    def _tree(self) -> cKDTree:
        return cKDTree(self.nodes[self.cells].mean(1).numpy())


class _Locate(torch.autograd.Function):
    """`MeshField.locate` under every transform of torch.func: it is a step function, so its derivative is zero."""

    @staticmethod
    def forward(x: Tensor, field: MeshField) -> tuple[Tensor, Tensor]:
        return field.locate(x.detach())

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        ctx.mark_non_differentiable(*output)

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> tuple[None, None]:
        return None, None
