"""Lagrange shape functions of any degree on lines, triangles, quadrilaterals, tetrahedra and hexahedra.

A mesh here is isoparametric: the nodes that carry the unknowns carry the geometry as well, x = sum_i x_i phi_i(X), so
one table of nodes and one of cells describe all of them, flat or curved. The quadrature tables are scikit-fem's; its
elements end at degree two where cells are curved or three-dimensional, and the tests compare with those it has.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from itertools import product

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.special import roots_jacobi
from skfem.quadrature import get_quadrature
from skfem.refdom import RefHex, RefLine, RefQuad, RefTet, RefTri
from torch import Tensor

__all__ = ["Array", "Cell", "Integers"]

Array = NDArray[np.float64]
Integers = NDArray[np.int64]


@dataclass(frozen=True)
class Cell:
    """A reference cell, [0, 1]^d or the unit simplex, with Lagrange shape functions on the equispaced lattice.

    Both kinds are described by barycentric coordinates l_j(X), affine and zero on side j: the d + 1 of a simplex, or
    the pairs (1 - X_i, X_i) of a cube. With the multi-indices alpha of the lattice, the shape functions are
    phi_alpha = prod_j R_{alpha_j}(l_j), where R_m(l) = prod_{i < m} (k l - i) / (i + 1).

    Attributes:
        dim: d, one to three.
        degree: k >= 1, of all variables together (simplex) or of each (cube).
        simplex: a triangle or tetrahedron instead of a cube; a line counts as a cube.
    """

    dim: int
    degree: int
    simplex: bool = False

    @cached_property
    def lattice(self) -> Integers:
        """The nodes times the degree, ``(nodes, d)``, last coordinate fastest."""
        points = product(range(self.degree + 1), repeat=self.dim)
        return np.array([p for p in points if not self.simplex or sum(p) <= self.degree], dtype=np.int64)

    @cached_property
    def _affine(self) -> tuple[Tensor, Tensor]:
        """Offsets ``(m,)`` and slopes ``(m, d)`` of the barycentric coordinates."""
        unit = torch.eye(self.dim, dtype=torch.float64)
        if self.simplex:
            offset = torch.cat([torch.ones(1), torch.zeros(self.dim)]).to(torch.float64)
            return offset, torch.cat([-unit.sum(0, keepdim=True), unit])
        return torch.tensor([1.0, 0.0] * self.dim, dtype=torch.float64), torch.stack([-unit, unit], 1).flatten(0, 1)

    @property
    def slopes(self) -> Tensor:
        """Gradients ``(m, d)`` of the barycentric coordinates; minus row j points out of side j."""
        return self._affine[1]

    def barycentric(self, x: Tensor) -> Tensor:
        """Barycentric coordinates ``(..., m)`` of reference points ``(..., d)``."""
        return self._affine[0] + x @ self._affine[1].T

    @cached_property
    def _alpha(self) -> Tensor:
        return (self.barycentric(torch.from_numpy(self.lattice / self.degree)) * self.degree).round().long()

    def _factors(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """R_{alpha_j}(l_j) and their derivatives, each ``(..., nodes, m)``."""
        coordinate = self.barycentric(x)
        value, slope = [torch.ones_like(coordinate)], [torch.zeros_like(coordinate)]
        for i in range(self.degree):
            step = (self.degree * coordinate - i) / (i + 1)
            slope.append(slope[i] * step + value[i] * (self.degree / (i + 1)))
            value.append(value[i] * step)
        columns = torch.arange(coordinate.shape[-1])
        return torch.stack(value, -2)[..., self._alpha, columns], torch.stack(slope, -2)[..., self._alpha, columns]

    def values(self, x: Tensor) -> Tensor:
        """Shape functions ``(..., nodes)`` at reference points ``(..., d)``."""
        return self._factors(x)[0].prod(-1)

    def gradients(self, x: Tensor) -> Tensor:
        """Their gradients ``(..., nodes, d)``."""
        r, slope = self._factors(x)
        parts = []
        for j in range(r.shape[-1]):
            others = [slope[..., i] if i == j else r[..., i] for i in range(r.shape[-1])]
            parts.append(torch.stack(others, -1).prod(-1))
        return torch.stack(parts, -1) @ self.slopes

    def on_side(self, side: int) -> Integers:
        """Local indices of the nodes on side j, where the barycentric coordinate j is zero."""
        return np.flatnonzero(self._alpha[:, side].numpy() == 0)

    @cached_property
    def corners(self) -> Integers:
        """Local indices of the vertices."""
        return np.flatnonzero((self.lattice % self.degree == 0).all(1))

    # ---- quadrature --------------------------------------------------------------------------------------------------

    def rule(self, order: int) -> tuple[Tensor, Tensor]:
        """Points ``(q, d)`` and weights ``(q,)`` that integrate polynomials of this order over the cell."""
        return _points(*(_simplex_rule if self.simplex else _cube_rule)(self.dim, order))

    def side_rule(self, side: int, order: int) -> tuple[Tensor, Tensor]:
        """Points ``(q, d)`` on a side and weights ``(q,)``, scaled so that dS = |det J| |J^-T slopes_j| w."""
        if self.dim == 1:
            return torch.from_numpy(self.lattice[self.on_side(side)] / self.degree), torch.ones(1, dtype=torch.float64)
        if not self.simplex:
            y, w = _cube_rule(self.dim - 1, order)
            return _points(np.insert(y, side // 2, 1.0 - side % 2, axis=0), w)
        y, w = _simplex_rule(self.dim - 1, order)
        vertices = np.delete(np.concatenate([np.zeros((1, self.dim)), np.eye(self.dim)]), side, 0)
        return _points(vertices.T @ np.concatenate([1 - y.sum(0, keepdims=True), y]), w)


def _points(x: Array, w: Array) -> tuple[Tensor, Tensor]:
    return torch.from_numpy(np.ascontiguousarray(x.T)), torch.from_numpy(np.asarray(w))


def _cube_rule(dim: int, order: int) -> tuple[Array, Array]:
    return get_quadrature((RefLine, RefQuad, RefHex)[dim - 1], order)


def _simplex_rule(dim: int, order: int) -> tuple[Array, Array]:
    """scikit-fem's table where it has one, a collapsed product of Gauss-Jacobi rules above.

    In tetrahedra the tables from order five on (scikit-fem 12.0) miss monomials by a per cent, so they are not used.
    """
    if order <= (order, 19, 4)[dim - 1]:
        return get_quadrature((RefLine, RefTri, RefTet)[dim - 1], order)
    rules = [roots_jacobi(order // 2 + 1, dim - 1 - i, 0.0) for i in range(dim)]
    t = np.stack(np.meshgrid(*((1 + x) / 2 for x, _ in rules), indexing="ij")).reshape(dim, -1)
    w = np.stack(np.meshgrid(*(w / 2 ** (dim - i) for i, (_, w) in enumerate(rules)), indexing="ij"))
    left = np.cumprod(np.concatenate([np.ones((1, t.shape[1])), 1 - t[:-1]]), 0)
    return left * t, w.reshape(dim, -1).prod(0)
