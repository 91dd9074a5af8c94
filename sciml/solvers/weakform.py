"""The weak form of an `Elliptic` problem on a mesh: matrix, load and energy, and Newton's method on them.

With shape functions phi_i, the matrices int a grad phi_i . grad phi_j + c phi_i phi_j dx of a block of cells are one
batched product of the gradients at the quadrature points: ten times faster than a sum over pairs (i, j), of which a
cell of degree four has 625. Boundary terms take their data at points that are moved onto the exact boundary.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np
import torch
from scipy.sparse import coo_array, csr_array
from torch import Tensor

from sciml.problem import Dirichlet, Elliptic, Neumann, Periodic, Robin
from sciml.solvers.lagrange import Array, Integers
from sciml.solvers.mesh import Mesh, edge_points, jacobians, project
from sciml.training import History

__all__ = ["WeakForm", "newton"]

BLOCK = 2**22  # numbers in the gradients of all shape functions, or in the matrices, of one block of cells
KEPT = 8  # so many blocks keep the gradients of their shape functions
FLAT = 1e-6  # |grad u|^2 is regularised by this fraction of its root mean square, squared
PATH = 0.35  # step of log(p - 1) on the way from p = 2
STEPS = 60  # of Newton's method for one exponent
TIGHT, LOOSE = 1e-10, 1e-2  # energy norm of the last step for one exponent, relative to that of u
ROUNDING = 1e-6  # steps smaller than this change the energy by less than its rounding error

Linear = Callable[..., tuple[Array, str]]


class _Block(NamedTuple):
    """Some cells, e of them, with q quadrature points and b shape functions.

    Attributes:
        numbers: ``(e, b)`` unknowns.
        slopes: ``(e, q, d, b)`` gradients of the shape functions.
        dx: ``(e, q)`` measures.
        a, c, f: ``(e, q)`` diffusion, reaction and source; a may be ``(e, 1)``.
    """

    numbers: Integers
    slopes: Tensor
    dx: Tensor
    a: Tensor
    c: Tensor
    f: Tensor


class WeakForm:
    """An `Elliptic` problem on a mesh, ready to be assembled.

    Args:
        problem: the equation and its conditions.
        mesh: of its domain.
        order: of the quadrature.
        centre: take the diffusion at the centre of each cell instead of the quadrature points.

    Attributes:
        number: ``(N,)`` unknown of each node; nodes that a periodic condition identifies share one.
        owners: ``(F,)`` index of the condition that holds on each facet.
        fixed, fixed_values: unknowns on the Dirichlet part, and their values.
        free: the other unknowns.
        robin: matrix of the Robin part.
        flux: load ``(unknowns,)`` of the Neumann and Robin parts.
    """

    def __init__(self, problem: Elliptic, mesh: Mesh, order: int, centre: bool = False) -> None:
        self.problem, self.mesh, self.order, self.centre = problem, mesh, order, centre
        self.points, self.weights = mesh.cell.rule(order)
        self.shapes = mesh.cell.values(self.points)
        self.number = _identify(problem, mesh)
        self.count = int(self.number.max()) + 1
        self.owners = self._owners()
        self.fixed, self.fixed_values = self._dirichlet()
        self.free = np.setdiff1d(np.arange(self.count), self.fixed)
        self.robin, self.flux = self._natural()
        per_cell = len(mesh.cell.lattice) * max(len(mesh.cell.lattice), len(self.weights) * problem.dim)
        self._parts = np.array_split(np.arange(len(mesh.cells)), -(-len(mesh.cells) * per_cell // BLOCK))
        self._kept: dict[int, _Block] = {}

    def _blocks(self) -> Iterator[_Block]:
        for i, cells in enumerate(self._parts):
            block = self._kept.get(i) or self._block(cells)
            if i < KEPT:
                self._kept[i] = block
            yield block

    def _block(self, cells: Integers) -> _Block:
        cell, problem, shape = self.mesh.cell, self.problem, (len(cells), len(self.weights))
        corners = torch.from_numpy(self.mesh.nodes[self.mesh.cells[cells]])
        jacobian = jacobians(cell, corners, self.points)
        slopes = torch.linalg.inv(jacobian).mT @ cell.gradients(self.points).mT
        dx = torch.linalg.det(jacobian).abs() * self.weights
        x = (self.shapes @ corners).flatten(0, 1)
        with torch.no_grad():
            c, f = problem.reaction(x).reshape(shape), problem.source(x).reshape(shape)
            if self.centre:
                middle = torch.from_numpy(cell.lattice.mean(0, keepdims=True) / cell.degree)
                x = (cell.values(middle) @ corners)[:, 0]
            a = problem.diffusion(x).reshape(len(cells), -1)
        return _Block(self.number[self.mesh.cells[cells]], slopes, dx, a, c, f)

    @property
    def floating(self) -> bool:
        """Whether constants solve the homogeneous equations."""
        bound = len(self.fixed) or self.robin.count_nonzero()
        return not bound and not any(bool(block.c.any()) for block in self._blocks())

    # ---- conditions --------------------------------------------------------------------------------------------------

    def _owners(self) -> Integers:
        """Which condition holds on each facet ``(F,)``: the one at its middle."""
        mesh, owners = self.mesh, np.full(len(self.mesh.facets), -1)
        for side, mine in mesh.sides():
            middle = mesh.cell.lattice[mesh.cell.on_side(side)].mean(0, keepdims=True) / mesh.cell.degree
            edge = edge_points(mesh.cell, mesh.nodes[mesh.cells[mesh.facets[mine, 0]]], side, torch.from_numpy(middle))
            x, _ = project(self.problem.domain, edge)
            parts = self.problem.partition(x[:, 0], torch.from_numpy(mesh.labels[mine]))
            for i, (_, mask) in enumerate(parts):
                owners[mine[mask.numpy()]] = i
        return owners

    def _dirichlet(self) -> tuple[Integers, Array]:
        values: dict[int, float] = {}
        for i, condition in enumerate(self.problem.conditions):
            if not isinstance(condition, Dirichlet):
                continue
            nodes = self.mesh.on_facets(self.owners == i)
            with torch.no_grad():
                found = condition.at(torch.from_numpy(self.mesh.feet[nodes])).tolist()
            for unknown, value in zip(self.number[nodes].tolist(), found, strict=True):
                values.setdefault(unknown, value)
        fixed = np.array(sorted(values), dtype=np.int64)
        return fixed, np.array([values[i] for i in fixed.tolist()])

    def _natural(self) -> tuple[csr_array, Array]:
        mesh, matrix, load = self.mesh, csr_array((self.count, self.count)), np.zeros(self.count)
        conditions = self.problem.conditions
        natural = [i for i, condition in enumerate(conditions) if isinstance(condition, (Neumann, Robin))]
        for side, mine in mesh.sides():
            mine = mine[np.isin(self.owners[mine], natural)]
            if len(mine) == 0:
                continue
            at, w = mesh.cell.side_rule(side, self.order)
            cells = mesh.cells[mesh.facets[mine, 0]]
            edge = edge_points(mesh.cell, mesh.nodes[cells], side, at)
            points, _ = project(self.problem.domain, edge)
            k, q = (part * edge.stretch * w for part in self._boundary_data(points, mesh.labels[mine]))
            shapes = mesh.cell.values(at)
            matrix = matrix + self._sum(self.number[cells], _masses(shapes, k))
            load = load + self._add(self.number[cells], q @ shapes)
        return matrix, load

    def _boundary_data(self, points: Tensor, labels: Integers) -> tuple[Tensor, Tensor]:
        """Factor of u and prescribed flux at boundary points ``(e, q, d)``, zero where neither is prescribed."""
        shape = points.shape[:2]
        x, label = points.flatten(0, 1), torch.from_numpy(labels).repeat_interleave(shape[1])
        k, q = (torch.zeros(len(x), dtype=torch.float64) for _ in range(2))
        with torch.no_grad():
            for condition, mask in self.problem.partition(x, label):
                if isinstance(condition, (Neumann, Robin)) and bool(mask.any()):
                    q[mask] = condition.at(x[mask])
                if isinstance(condition, Robin) and bool(mask.any()):
                    k[mask] = condition.coefficient_at(x[mask])
        return k.reshape(shape), q.reshape(shape)

    # ---- assembly ----------------------------------------------------------------------------------------------------

    def _sum(self, numbers: Integers, matrices: Tensor) -> csr_array:
        """Add the matrices ``(e, b, b)`` of cells."""
        shape = tuple(matrices.shape)
        rows, columns = np.broadcast_to(numbers[:, :, None], shape), np.broadcast_to(numbers[:, None, :], shape)
        entries = (matrices.numpy().ravel(), (rows.ravel(), columns.ravel()))
        return coo_array(entries, shape=(self.count, self.count)).tocsr()

    def _add(self, numbers: Integers, vectors: Tensor) -> Array:
        return np.bincount(numbers.ravel(), vectors.numpy().ravel(), self.count).astype(np.float64)

    def complete(self, unknown: Array) -> Array:
        """Values at all nodes ``(N,)`` from those of the free unknowns."""
        return self._all(unknown)[self.number]

    def _all(self, unknown: Array) -> Array:
        u = np.zeros(self.count)
        u[self.free], u[self.fixed] = unknown, self.fixed_values
        return u

    def system(self) -> tuple[csr_array, Array]:
        """Matrix and right-hand side of the free unknowns for p = 2."""
        matrix, right = self.robin, self.flux
        for block in self._blocks():
            local = _stiffness(block.slopes, block.a * block.dx) + _masses(self.shapes, block.c * block.dx)
            matrix = matrix + self._sum(block.numbers, local)
            right = right + self._add(block.numbers, (block.f * block.dx) @ self.shapes)
        rows = matrix[self.free]
        return rows[:, self.free], right[self.free] - rows[:, self.fixed] @ self.fixed_values

    def _fields(self, u: Array) -> Iterator[tuple[_Block, Tensor, Tensor]]:
        """Blocks with u ``(e, q)`` and grad u ``(e, q, d)``."""
        for block in self._blocks():
            local = torch.from_numpy(u[block.numbers])
            yield block, local @ self.shapes.T, (block.slopes @ local[:, None, :, None])[..., 0]

    def slope_scale(self, unknown: Array) -> float:
        """Root mean square of |grad u|."""
        parts = [
            (float((g.square().sum(-1) * block.dx).sum()), float(block.dx.sum()))
            for block, _, g in self._fields(self._all(unknown))
        ]
        return (sum(square for square, _ in parts) / sum(volume for _, volume in parts)) ** 0.5

    def energy(self, unknown: Array, p: float, eps: float) -> float:
        """The integral of a/p (|grad u|^2 + eps^2)^(p/2) + c/2 u^2 - f u, plus boundary terms."""
        u = self._all(unknown)
        total = float(0.5 * u @ (self.robin @ u) - self.flux @ u)
        for block, value, g in self._fields(u):
            density = block.a / p * (g.square().sum(-1) + eps**2) ** (p / 2) + (0.5 * block.c * value - block.f) * value
            total += float((density * block.dx).sum())
        return total

    def derivatives(self, unknown: Array, p: float, eps: float) -> tuple[Array, csr_array]:
        """Gradient and Hessian of the energy in the free unknowns."""
        u = self._all(unknown)
        gradient, hessian = self.robin @ u - self.flux, self.robin
        for block, value, g in self._fields(u):
            square = g.square().sum(-1) + eps**2
            b = block.a * square ** (p / 2 - 1) * block.dx
            along = (g[..., None, :] @ block.slopes)[..., 0, :]
            slope = (b[..., None] * along).sum(1) + ((block.c * value - block.f) * block.dx) @ self.shapes
            gradient = gradient + self._add(block.numbers, slope)
            local = _stiffness(block.slopes, b) + _masses(self.shapes, block.c * block.dx)
            local = local + along.mT @ (((p - 2) * b / square)[..., None] * along)
            hessian = hessian + self._sum(block.numbers, local)
        return gradient[self.free], hessian[self.free][:, self.free]


def _stiffness(slopes: Tensor, weights: Tensor) -> Tensor:
    """sum_q w_q grad phi_i . grad phi_j, ``(e, b, b)``."""
    flat = slopes.flatten(1, 2)
    return flat.mT @ (weights[..., None, None] * slopes).flatten(1, 2)


def _masses(shapes: Tensor, weights: Tensor) -> Tensor:
    """sum_q w_q phi_i phi_j, ``(e, b, b)``."""
    pairs = (shapes[:, :, None] * shapes[:, None, :]).flatten(1)
    return (weights @ pairs).reshape(len(weights), shapes.shape[1], shapes.shape[1])


def _identify(problem: Elliptic, mesh: Mesh) -> Integers:
    """Number the unknowns: one for each node, but the same for nodes that face each other across a period."""
    number = np.arange(len(mesh.nodes))
    for condition in problem.conditions:
        if not isinstance(condition, Periodic):
            continue
        if mesh.cell.simplex:
            raise ValueError("conditions holds Periodic, but on a box with curved interfaces FiniteElement has none")
        axis = problem.axis(condition)
        x = mesh.nodes[:, axis]
        low, high = np.flatnonzero(x == x.min()), np.flatnonzero(x == x.max())
        number[high] = number[low]  # a grid lists both faces in the same order
    return np.unique(number, return_inverse=True)[1]


def newton(form: WeakForm, p: float, linear: Linear, history: History) -> tuple[Array, str]:
    """Minimise the energy for p != 2, on a path of exponents that starts at 2.

    Args:
        form: of the problem.
        p: the exponent.
        linear: solves a sparse system.
        history: receives one row per Newton step.

    Returns:
        Values at all nodes, and a sentence.
    """
    u, _ = linear(*form.system())
    stages = max(1, round(abs(np.log(p - 1)) / PATH))
    for i in range(1, stages + 1):
        exponent = 1 + (p - 1) ** (i / stages)
        u, error = _minimise(form, u, exponent, linear, TIGHT if i == stages else LOOSE, history)
    outcome = "solved" if error <= 100 * TIGHT else "not solved"
    how = f"{len(history.steps)} Newton steps up to p = {p:g}, {len(u)} unknowns, last step {error:.1e}"
    return form.complete(u), f"{outcome}: {how}"


def _minimise(
    form: WeakForm, u: Array, p: float, linear: Linear, tolerance: float, history: History
) -> tuple[Array, float]:
    """Newton steps for one exponent, shortened until the energy falls; u and the relative size of the last step."""
    eps = FLAT * form.slope_scale(u)
    energy, error = form.energy(u, p, eps), np.inf
    for _ in range(STEPS):
        gradient, hessian = form.derivatives(u, p, eps)
        step, _ = linear(hessian, -gradient, 1e-8)
        drop = float(-gradient @ step)
        size = float(u @ (hessian @ u))
        error = (max(drop, 0.0) / size) ** 0.5 if size > 0 else 0.0
        history.steps.append({"step": len(history.steps), "size": error, "p": p, "energy": energy})
        damping, trial = 1.0, u + step
        while error > ROUNDING and damping > 1e-6:
            lower = form.energy(trial, p, eps)
            if lower <= energy - 1e-4 * damping * drop:
                energy = lower
                break
            damping /= 2
            trial = u + damping * step
        u = trial
        if error <= tolerance:
            break
    return u, error
