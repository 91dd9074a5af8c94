"""A low-rank kernel for any linear elliptic equation, learned by linear least squares on the equation.

    G(x, x') = sum_k phi_k(x) psi_k(x'),      phi_k products of Legendre polynomials

The unknown psi_k enter linearly, so the risk |L G - delta|^2 + |G|^2 on the boundary, summed over all sources that the
quadrature nodes can tell apart, has one matrix and is minimised by one factorisation. Applying the operator costs two
thin matrix products. Polynomials suit coefficients and solutions that are smooth; where they are not, the boundary
values, whose error every solution reports, show it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import reduce
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sciml.domain import Domain, domain_from
from sciml.problem import Elliptic
from sciml.solvers.harmonic import edge_of
from sciml.solvers.members import Applied, Data, Family, relative, values_of
from sciml.solvers.quadrature import derivative, legendre, tensor_rule
from sciml.solvers.singular_kernel import PotentialField

__all__ = ["MODES", "LowRank", "LowRankKernel", "factorised", "products", "products_of"]

MODES = {1: 40, 2: 22, 3: 9}
_RANK = 1e-13  # singular values below this part of the largest are rounding


@dataclass(frozen=True)
class LowRank:
    """Options of the low-rank kernel.

    Attributes:
        modes: Legendre polynomials per coordinate; None takes 40, 22 and 9 in 1, 2 and 3 dimensions.
    """

    modes: int | None = None

    def __post_init__(self) -> None:
        """Check the number."""
        if self.modes is not None and not (isinstance(self.modes, int) and self.modes >= 3):
            raise ValueError(f"modes is {self.modes!r}, but must be a whole number >= 3 or None")

    def learn(self, family: Family, **unused: Any) -> tuple[LowRankKernel, str, Any]:
        """Factorise the matrix of the equation and the boundary condition.

        Raises:
            ValueError: in more than three dimensions.
        """
        problem = family.problem
        assert isinstance(problem, Elliptic)  # GreensSolver refuses others
        if problem.dim > 3:
            raise ValueError(f"domain has {problem.dim} dimensions, but the low-rank kernel is for at most 3")
        modes = self.modes or MODES[problem.dim]
        nodes, weights = tensor_rule(*problem.domain.bounds, modes + modes // 2)
        inside = problem.domain.contains(nodes)
        nodes, weights = nodes[inside], weights[inside]
        boundary = edge_of(problem.domain, modes + modes // 2)
        equation = apply_operator(problem, nodes, modes)
        table = products(boundary.points, problem.domain, modes)
        basis, fit = factorised(equation, weights, table, boundary.weights)
        kernel = LowRankKernel(problem.domain, modes, nodes, boundary.points, basis, fit)
        return kernel, f"linear least squares: rank {len(fit)}, {fit.shape[1]} rows", None


def factorised(equation: Tensor, weights: Tensor, table: Tensor, edge_weights: Tensor) -> tuple[Tensor, Tensor]:
    """Factors ``(m, r)`` and ``(r, q + b)`` of the least-squares solution of both: coefficients from data.

    Args:
        equation: what the operator makes of m functions at q nodes, ``(q, m)``.
        weights: of the nodes.
        table: the functions at b boundary nodes, ``(b, m)``.
        edge_weights: of these.
    """
    # of the size that the operator has on the highest polynomials, so that neither term drowns the other
    penalty = float(equation.norm() / len(equation) ** 0.5)
    scales = torch.cat([weights.sqrt(), penalty * edge_weights.sqrt()])
    matrix = scales[:, None] * torch.cat([equation, table])
    column = matrix.norm(dim=0)
    u, s, vt = torch.linalg.svd(matrix / column, full_matrices=False)
    keep = s > _RANK * s[0]
    basis, fit = vt[keep].T / s[keep] / column[:, None], (scales[:, None] * u[:, keep]).T
    return basis.contiguous(), fit.contiguous()


def _tables(x: Tensor, domain: Domain, modes: int) -> list[Tensor]:
    lower, upper = domain.bounds
    return [legendre(t, modes) for t in (2 * (x - lower) / (upper - lower) - 1).unbind(1)]


def _multiply(tables: list[Tensor]) -> Tensor:
    return reduce(lambda a, b: (a[:, :, None] * b[:, None]).reshape(len(a), -1), tables)


def products(x: Tensor, domain: Domain, modes: int) -> Tensor:
    """Products of Legendre polynomials on the box around a domain, ``(n, modes^d)``."""
    return _multiply(_tables(x, domain, modes))


def products_of(x: Tensor, domain: Domain, modes: int, change: Callable[[int, Tensor], Tensor]) -> Tensor:
    """The same with each axis's table ``(n, modes)`` changed first, by ``change(axis, table)``."""
    return _multiply([change(axis, table) for axis, table in enumerate(_tables(x, domain, modes))])


def apply_operator(problem: Elliptic, x: Tensor, modes: int) -> Tensor:
    """-div(a grad phi) + c phi for all those products, ``(n, modes^d)``."""
    coefficients = problem.coefficients(x)
    tables, slope = _tables(x, problem.domain, modes), derivative(modes)
    lower, upper = problem.domain.bounds
    total = coefficients.reaction[:, None] * _multiply(tables)
    for axis, size in enumerate((upper - lower).tolist()):
        first = tables[axis] @ slope * (2 / size)
        second = first @ slope * (2 / size)
        bend = coefficients.diffusion[:, None] * second
        if coefficients.diffusion_gradient is not None:
            bend = bend + coefficients.diffusion_gradient[:, axis : axis + 1] * first
        total = total - _multiply([bend if i == axis else t for i, t in enumerate(tables)])
    return total


class LowRankKernel:
    """sum phi_k(x) psi_k(x'); made by `LowRank`.

    Attributes:
        domain: where.
        nodes: where sources are evaluated, ``(q, d)``.
        edge: where boundary data are evaluated, ``(b, d)``.
    """

    def __init__(self, domain: Domain, modes: int, nodes: Tensor, edge: Tensor, basis: Tensor, fit: Tensor) -> None:
        self.domain, self.modes, self.nodes, self.edge = domain, modes, nodes, edge
        self.basis, self.fit = basis, fit

    def __call__(self, x: Tensor, y: Tensor) -> Tensor:
        """G ``(n, m)`` of the best polynomial approximations of unit sources at y ``(m, d)``."""
        degrees = torch.stack(torch.meshgrid(*[torch.arange(self.modes)] * self.domain.dim, indexing="ij"), -1)
        volume = (self.domain.bounds[1] - self.domain.bounds[0]).prod()
        norms = (2 * degrees.reshape(-1, self.domain.dim) + 1).prod(1) / volume
        delta = products(self.nodes, self.domain, self.modes) * norms @ products(y, self.domain, self.modes).T
        data = torch.cat([delta, delta.new_zeros(len(self.edge), len(y))])
        return products(x, self.domain, self.modes) @ (self.basis @ (self.fit @ data))

    def apply(self, source: Data, boundary: Data) -> Applied:
        """The solution for a source and Dirichlet data."""
        f, g = values_of("source", source, self.nodes), values_of("boundary", boundary, self.edge)
        many = max(f.shape[1], g.shape[1])
        if not {f.shape[1], g.shape[1]} <= {1, many}:
            raise ValueError(f"boundary gives {g.shape[1]} functions, but source gives {f.shape[1]}")
        c = self.basis @ (self.fit @ torch.cat([f.expand(-1, many), g.expand(-1, many)]))
        missed = products(self.edge, self.domain, self.modes) @ c - g
        potential = c.T.reshape(many, *(self.modes,) * self.domain.dim)
        field = PotentialField(self.domain, None, potential, c.new_zeros(0, many), many == 1)
        size = relative(missed, torch.cat([field.values(self.nodes), g.expand(-1, many)]))
        return Applied(field, None, f"boundary values met to {size:.1e}")

    def describe(self) -> dict[str, Any]:
        """Domain and modes."""
        return {"domain": self.domain.describe(), "modes": self.modes}

    def arrays(self) -> dict[str, np.ndarray]:
        """Nodes and factors."""
        return {k: getattr(self, k).numpy() for k in ("nodes", "edge", "basis", "fit")}

    @classmethod
    def restore(cls, description: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> LowRankKernel:
        """From `describe` and `arrays`."""
        parts = (torch.as_tensor(arrays[k]) for k in ("nodes", "edge", "basis", "fit"))
        return cls(domain_from(description["domain"]), description["modes"], *parts)
