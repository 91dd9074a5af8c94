"""Finite elements: the reference for elliptic problems on domains of any shape, with the same face as every solver.

    reference = FiniteElement(n=64, degree=4).solve(problem)

finds u, continuous and polynomial on each cell, with

    int a |grad u|^(p-2) grad u . grad v + c u v dx + int_R k u v ds  =  int f v dx + int_N q v ds + int_R r v ds

for all such v that vanish on the Dirichlet part; N is the Neumann part (flux q) and R the Robin part (coefficient k,
value r). The edges of the cells are curves of the same degree and the boundary nodes lie on the exact boundary, where
alone boundary values are asked for: the error in the mean-square norm is O(h^(degree + 1)) around holes as in a square.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from sciml.problem import Data, Elliptic
from sciml.solution import Solution, compare
from sciml.solvers.differences import solve_sparse
from sciml.solvers.grid import check_nodes
from sciml.solvers.lagrange import Array
from sciml.solvers.mesh import build
from sciml.solvers.meshfield import MeshField
from sciml.solvers.weakform import WeakForm, newton
from sciml.training import History

__all__ = ["FiniteElement"]


@dataclass(frozen=True)
class FiniteElement:
    """Solve an `Elliptic` problem in one to three dimensions with Lagrange elements.

    A box becomes a grid of lines, quadrilaterals or hexahedra; other domains are meshed by gmsh (extra ``mesh``) with
    curved triangles or tetrahedra. Cells fit the edges of the regions of a `Piecewise` diffusion.

    Attributes:
        n: cells on the longest side of the bounding box; h = side / n is the size of all cells.
        degree: of the polynomials and of the edges, 1 to 4.
        order: polynomials of this order are integrated exactly on straight cells; None takes 2 degree + 2.
        coefficient: "quadrature" evaluates the diffusion at all quadrature points, "centre" once per cell. The latter
            with ``degree=1`` is how published reference solutions of multi-scale problems were made (arXiv:2009.14597);
            it sees nothing of a diffusion that varies within cells.
        estimate: solve on cells of twice the size as well; their relative distance becomes `Solution.error_estimate`,
            which exceeds the error of the finer solution as soon as that converges.
        tolerance: relative residual at which iterative linear solvers stop.
        direct: largest number of unknowns that is given to a direct solver (a tenth of it in 3-D).
    """

    n: int = 64
    degree: int = 2
    order: int | None = None
    coefficient: Literal["quadrature", "centre"] = "quadrature"
    estimate: bool = False
    tolerance: float = 1e-12
    direct: int = 400_000

    def __post_init__(self) -> None:
        """Check the options."""
        for name, low in (("n", 1), ("degree", 1), ("direct", 1), ("order", 1)):
            value = getattr(self, name)
            if name == "order" and value is None:
                continue
            if isinstance(value, bool) or not isinstance(value, int) or value < low:
                raise ValueError(f"{name} is {value!r}, but must be an integer >= {low}")
        if self.degree > 4:
            raise ValueError(f"degree is {self.degree}, but must be 1, 2, 3 or 4")
        if self.coefficient not in ("quadrature", "centre"):
            raise ValueError(f"coefficient is {self.coefficient!r}, but must be 'quadrature' or 'centre'")
        if not 0 < self.tolerance < 1:
            raise ValueError(f"tolerance is {self.tolerance}, but must be between 0 and 1")

    def solve(
        self,
        problem: Elliptic,
        seed: int = 0,
        callbacks: Sequence[Callable[..., Any]] = (),
        checkpoint: str | None = None,
    ) -> Solution:
        """Mesh, assemble and solve.

        Args:
            problem: an `Elliptic` with Dirichlet, Neumann and Robin conditions, on a box also periodic ones.
            seed: not used; the same for every solver.
            callbacks: not used.
            checkpoint: not used.

        Returns:
            A `Solution` whose field is a `MeshField`; its status names the solver and the relative residual, and its
            history has one row per Newton step if p != 2.

        Raises:
            TypeError: for a `PDE` or an `Evolution`, and for Data conditions.
            ValueError: for more than three dimensions, a domain that cannot be meshed, a bad coefficient, or a solution
                that is determined only up to a constant.
            ImportError: if gmsh is needed but missing.
        """
        begun = time.perf_counter()
        _check(problem)
        check_nodes(problem.domain, self.n, self.degree)
        mesh = build(problem.domain, self.n, self.degree, problem.interfaces)
        form = WeakForm(problem, mesh, self.order or 2 * self.degree + 2, self.coefficient == "centre")
        if form.floating:
            raise ValueError(
                "conditions leave the solution free up to a constant; give a Dirichlet or Robin piece, or a reaction"
            )

        def linear(matrix: Any, right: Array, tolerance: float = self.tolerance) -> tuple[Array, str]:
            return solve_sparse(matrix, right, problem.dim, tolerance, self.direct)

        history = None
        if problem.linear:
            matrix, right = form.system()
            unknown, status = linear(matrix, right)
            u = form.complete(unknown)
        else:
            history = History()
            u, status = newton(form, problem.p, linear, history)
        field = MeshField(problem.domain, mesh.cell, mesh.nodes, mesh.cells, u)
        error = self._estimate(problem, field) if self.estimate else None
        return Solution(
            field,
            problem,
            history=history,
            seconds=time.perf_counter() - begun,
            status=status,
            error_estimate=error,
            cost={"unknowns": len(form.free), "cells": len(mesh.cells), "flattened": mesh.flattened},
        )

    def _estimate(self, problem: Elliptic, field: MeshField) -> float:
        if self.n < 2:
            raise ValueError(f"n is {self.n}, but estimate=True compares with n / 2 and needs n >= 2")
        coarse = replace(self, n=self.n // 2, estimate=False).solve(problem)
        return compare(coarse, field, problem.domain)["rel_l2"]


def _check(problem: Elliptic) -> None:
    if not isinstance(problem, Elliptic):
        raise TypeError(f"problem is a {type(problem).__name__}, but FiniteElement accepts an Elliptic problem")
    if problem.dim > 3:
        raise ValueError(f"problem has {problem.dim} dimensions, but FiniteElement accepts one to three")
    for condition in problem.conditions:
        if isinstance(condition, Data):
            raise TypeError("conditions holds Data, but FiniteElement accepts conditions on the boundary only")
