"""Finite differences: the classical reference with the same face as every other solver.

    reference = FiniteDifference(n=512).solve(problem)

An `Elliptic` problem in one to three dimensions is discretised on nodes with cut links at curved boundaries (see
`grid` and `stencil`; second order in the maximum norm, up to the edge of a hole), its p-Laplacian is solved by
Newton's method (see `plaplace`), and a one-dimensional `Evolution` by the method of lines (see `lines`). `Jacobi` runs
the classical iteration on the same equations, which damps high frequencies first, the opposite of a network
(arXiv:1901.06523).

Two limits: at curved interfaces of a `Piecewise` diffusion the order is one (finite elements on a fitted mesh have
two), and layers of an `Evolution` must be wider than the spacing.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from importlib.util import find_spec
from typing import Any

import numpy as np
import scipy.sparse as sp
import torch
from scipy.sparse.linalg import LinearOperator, bicgstab, splu

from sciml.calculus import Field
from sciml.conditions import Data
from sciml.problem import Elliptic, Evolution
from sciml.solution import Solution
from sciml.solvers.grid import Array, link, tensor
from sciml.solvers.gridfield import GridField
from sciml.solvers.lines import march
from sciml.solvers.plaplace import newton
from sciml.solvers.stencil import conductance, discretise
from sciml.training import History

__all__ = ["FiniteDifference", "Jacobi", "solve_sparse"]


@dataclass(frozen=True)
class FiniteDifference:
    """Solve an `Elliptic` problem (1-D to 3-D) or an `Evolution` (1-D) by finite differences of second order.

    Attributes:
        n: cells on the longest side of the bounding box; the other sides get as many as keep cells nearly square.
        points: Gauss points per direction in the averages of a variable diffusion over links.
        tolerance: relative residual at which Newton's method and iterative linear solvers stop.
        direct: largest number of unknowns that is given to a direct solver (a thirtieth of it in 3-D).
        rtol: relative tolerance of the time integration of an `Evolution`.
        times: number of stored time intervals of an `Evolution`; None takes n.
    """

    n: int = 128
    points: int = 4
    tolerance: float = 1e-10
    direct: int = 300_000
    rtol: float = 1e-8
    times: int | None = None

    def __post_init__(self) -> None:
        """Check the options."""
        _check_count("n", self.n, 4)
        _check_count("points", self.points, 1)
        if self.times is not None:
            _check_count("times", self.times, 4)
        for name in ("tolerance", "rtol"):
            if not 0 < getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}, but must be between 0 and 1")

    def solve(
        self,
        problem: Elliptic | Evolution,
        seed: int = 0,
        callbacks: Sequence[Callable[..., Any]] = (),
        checkpoint: str | None = None,
    ) -> Solution:
        """Discretise and solve.

        Args:
            problem: an `Elliptic` or a one-dimensional `Evolution`.
            seed: not used; the same for every solver.
            callbacks: not used.
            checkpoint: not used.

        Returns:
            A `Solution` whose field is a `GridField`; its status names the linear solver and the relative residual.

        Raises:
            TypeError: for a `PDE`, whose equation is not known in a form that can be discretised, or values inside.
            ValueError: for more than three dimensions, a flux condition on a curved boundary, a solution that is
                determined only up to a constant, or a grid without a node inside the domain.
        """
        begun = time.perf_counter()
        if isinstance(problem, Evolution):
            field, cost, status = march(problem, self.n, self.rtol, self.times or self.n)
            return Solution(field, problem, seconds=time.perf_counter() - begun, status=status, cost=cost)
        _check_elliptic(problem, "FiniteDifference", "an Elliptic problem or a one-dimensional Evolution")
        links = link(problem, self.n)
        coefficient = conductance(problem, links, self.points)
        history = None
        if problem.linear:
            system = discretise(problem, links, coefficient)
            u, status = solve_sparse(system.matrix, system.right, links.grid.dim, self.tolerance, self.direct)
        else:
            history = History()

            def linear(matrix: sp.csr_array, right: Array) -> Array:
                return solve_sparse(matrix, right, links.grid.dim, 1e-8, self.direct)[0]

            u, status = newton(problem, links, coefficient, self.points, linear, self.tolerance, history)
        field = GridField.build(problem.domain, links, u)
        cost = {"unknowns": len(u), "nodes": links.grid.size}
        seconds = time.perf_counter() - begun
        return Solution(field, problem, history=history, seconds=seconds, status=status, cost=cost)


@dataclass(frozen=True)
class Jacobi:
    """The Jacobi iteration u <- u + D^-1 (b - A u) on the finite-difference equations of a linear `Elliptic` problem.

    On an interval of length L it multiplies the error's component sin(k pi x / L) by cos(k pi h / L) in every step.

    Attributes:
        n: cells on the longest side, see `FiniteDifference`.
        iterations: number of steps.
        initial: where to start, any Field (a network that hands over, a `Solution`); None starts from 0.
        points: see `FiniteDifference`.
    """

    n: int = 128
    iterations: int = 1000
    initial: Field | None = None
    points: int = 4

    def __post_init__(self) -> None:
        """Check the options."""
        _check_count("n", self.n, 4)
        _check_count("iterations", self.iterations, 0)
        if self.initial is not None and not callable(self.initial):
            raise TypeError(f"initial is {self.initial!r}, but must be None or a callable of points (n, d)")

    def solve(
        self,
        problem: Elliptic,
        seed: int = 0,
        callbacks: Sequence[Callable[..., Any]] = (),
        checkpoint: str | None = None,
    ) -> Solution:
        """Iterate.

        Args:
            problem: a linear `Elliptic`.
            seed: not used.
            callbacks: called as ``(iteration, values)`` before the first and after every step; `values` is shaped like
                the grid (its axes are ``solution.field.axes``), NaN outside the domain. Diagnostics of `sciml.theory`
                see the iterate as a Field and the relative residual as the loss.
            checkpoint: not used.

        Returns:
            A `Solution`; ``history.series("residual")`` is the relative residual before each step.
        """
        begun = time.perf_counter()
        _check_elliptic(problem, "Jacobi", "a linear Elliptic problem")
        if not problem.linear:
            raise ValueError(f"p is {problem.p}, but Jacobi accepts a linear problem, p = 2")
        links = link(problem, self.n)
        system = discretise(problem, links, conductance(problem, links, self.points))
        u = np.zeros(len(links.free))
        if self.initial is not None:
            with torch.no_grad():
                start = torch.as_tensor(self.initial(tensor(links.grid.points(links.free))))
            if start.shape != (len(u),):
                raise ValueError(
                    f"initial gave shape {tuple(start.shape)}, but must give one value per point, ({len(u)},)"
                )
            u = start.to("cpu", torch.float64).numpy().copy()
        diagonal, scale = system.matrix.diagonal(), np.linalg.norm(system.right) or 1.0
        history = History()
        for iteration in range(self.iterations + 1):
            residual = system.right - system.matrix @ u
            size = float(np.linalg.norm(residual) / scale)
            history.steps.append({"step": iteration, "residual": size})
            for callback in callbacks:
                if not hasattr(callback, "observe"):
                    callback(iteration, torch.from_numpy(links.nodal(u)).reshape(links.grid.shape))
                    continue
                sweep = _Sweep(
                    iteration, time.perf_counter() - begun, size, partial(GridField.build, problem.domain, links, u)
                )
                if measured := callback(sweep):
                    history.records.append({"step": iteration, "seconds": sweep.seconds, **measured})
            if iteration < self.iterations:
                u = u + residual / diagonal
        history.seconds = time.perf_counter() - begun
        history.status = (
            f"{self.iterations} Jacobi steps, {len(u)} unknowns, relative residual {history.steps[-1]['residual']:.1e}"
        )
        field = GridField.build(problem.domain, links, u)
        seconds, cost = time.perf_counter() - begun, {"unknowns": len(u), "iterations": self.iterations}
        return Solution(field, problem, history=history, seconds=seconds, status=history.status, cost=cost)


@dataclass(frozen=True)
class _Sweep:
    """What a diagnostic sees of an iteration: the iterate is made a field only when it is asked for."""

    number: int
    seconds: float
    loss: float
    field: Callable[[], GridField]

    @cached_property
    def model(self) -> GridField:
        return self.field()


def _check_count(name: str, value: Any, least: int) -> None:
    if not isinstance(value, (int, np.integer)) or isinstance(value, bool) or value < least:
        raise ValueError(f"{name} is {value!r}, but must be a whole number of at least {least}")


def _check_elliptic(problem: Any, solver: str, accepted: str) -> None:
    if not isinstance(problem, Elliptic):
        raise TypeError(f"{solver} was given a {type(problem).__name__}, but accepts {accepted}")
    if any(isinstance(c, Data) for c in problem.conditions):
        raise TypeError(f"conditions holds Data, but {solver} accepts conditions on the boundary only")


def solve_sparse(
    matrix: sp.csr_array, right: Array, dim: int, tolerance: float = 1e-10, direct: int = 300_000
) -> tuple[Array, str]:
    """Solve a sparse system; directly if it is small, else by BiCGSTAB, with multigrid if pyamg is there.

    Returns:
        The solution, and a sentence with the method, the number of unknowns and the relative residual.
    """
    m, scale = len(right), float(np.linalg.norm(right)) or 1.0

    def residual(u: Array) -> float:
        return float(np.linalg.norm(matrix @ u - right)) / scale

    if m <= (direct if dim < 3 else direct // 30):
        # the matrices are diagonally dominant unless the reaction is negative: pivoting is tried second
        options = {"permc_spec": "MMD_AT_PLUS_A", "diag_pivot_thresh": 0.0, "options": {"SymmetricMode": True}}
        u, method = splu(matrix.tocsc(), **options).solve(right), "sparse LU"
        if not residual(u) < 1e-9:
            u, method = splu(matrix.tocsc()).solve(right), "sparse LU with pivoting"
    else:
        u, method = _iterate(matrix, right, tolerance)
    size = residual(u)
    outcome = "solved" if size <= max(10 * tolerance, 1e-8) else "not solved"
    return u, f"{outcome}: {method}, {m} unknowns, relative residual {size:.1e}"


def _iterate(matrix: sp.csr_array, right: Array, tolerance: float) -> tuple[Array, str]:
    if find_spec("pyamg"):
        import pyamg

        levels = pyamg.smoothed_aggregation_solver(sp.csr_matrix(matrix), max_coarse=500)
        preconditioner, method = levels.aspreconditioner(), "BiCGSTAB with algebraic multigrid"
    else:
        # incomplete factors take longer to make than all the steps that they save
        inverse = 1 / matrix.diagonal()
        preconditioner = LinearOperator(matrix.shape, lambda v: inverse * v.ravel())
        method = "BiCGSTAB with diagonal scaling"
    steps = 0

    def count(_: Array) -> None:
        nonlocal steps
        steps += 1

    u, _ = bicgstab(matrix, right, rtol=tolerance, atol=0.0, maxiter=2000, M=preconditioner, callback=count)
    return u, f"{method}, {steps} steps"
