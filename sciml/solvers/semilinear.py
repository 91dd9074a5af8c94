"""Newton's method on a learned linear Green's operator: nonlinear families to many digits.

    R(x, u, grad u, ..) = f in the domain, u = g on the boundary,        u = G z + H g

G and H are the low-rank Green's operators (`lowrank`) of the equation linearised at u = 0, learned once by linear least
squares. The unknown is z, a source: for a linear equation z = f. In it the linearised equation

    (I + sum_alpha dR_alpha(u) D^alpha G) dz = f - R(u),        dR_alpha(u) = dR/d(D^alpha u) at u, minus the same at 0

is of the second kind, so that GMRES needs a few steps, each of which applies G to all members of a call at once. This
is the ansatz u = F(int G f) of MOD-Net (arXiv:2107.03673) with an F that knows the equation instead of learning it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sciml.domain import Domain, domain_from
from sciml.problem import PDE, Unknown
from sciml.solvers.harmonic import edge_of
from sciml.solvers.lowrank import MODES, factorised, products, products_of
from sciml.solvers.members import Applied, Data, Family, relative, values_of
from sciml.solvers.quadrature import derivative, tensor_rule
from sciml.solvers.singular_kernel import PotentialField

__all__ = ["Semilinear", "SemilinearKernel", "gmres"]

Indices = tuple[int, ...]

_STEPS = 40  # of Newton's method at most
_KRYLOV = 60  # of GMRES at most
_SHORTEST = 1e-3  # share of a Newton step


@dataclass(frozen=True)
class Semilinear:
    """Options of Newton's method on a low-rank kernel.

    Attributes:
        modes: Legendre polynomials per coordinate; None takes 40, 22 and 9 in 1, 2 and 3 dimensions.
        tolerance: relative size of the last Newton step.
    """

    modes: int | None = None
    tolerance: float = 1e-10

    #: u is not linear in the data: what `GreensSolver` asks of kernels for nonlinear problems
    head = ()

    def __post_init__(self) -> None:
        """Check the numbers."""
        if self.modes is not None and not (isinstance(self.modes, int) and self.modes >= 3):
            raise ValueError(f"modes is {self.modes!r}, but must be a whole number >= 3 or None")
        if not 0 < self.tolerance < 1:
            raise ValueError(f"tolerance is {self.tolerance!r}, but must lie in (0, 1)")

    def learn(self, family: Family, **unused: Any) -> tuple[SemilinearKernel, str, Any]:
        """Learn the Green's operator of the equation linearised at zero.

        Raises:
            ValueError: for other problems than one `PDE` of second order in at most 3 dimensions of space, or if its
                linearisation at zero has no inverse.
        """
        problem = family.problem
        if not isinstance(problem, PDE) or problem.dim > 3 or problem.components > 1 or problem.order > 2:
            kind = type(problem).__name__
            raise ValueError(
                f"problem is of the kind {kind}, but Semilinear needs one PDE of at most second order and 3 dimensions"
            )
        modes = self.modes or MODES[problem.dim]
        nodes, weights = tensor_rule(*problem.domain.bounds, modes + modes // 2)
        inside = problem.domain.contains(nodes)
        nodes, weights = nodes[inside], weights[inside]
        zero = {index: torch.zeros(len(nodes), dtype=torch.float64) for index in _slots(problem)}
        _, slopes = _linearised(problem, nodes, zero)
        tables = {i: differentiated(nodes, problem.domain, modes, i) for i in slopes}
        equation = sum(slopes[i][:, None] * tables[i] for i in slopes)
        assert isinstance(equation, Tensor)
        if not bool(equation.isfinite().all()) or not any(len(i) == 2 and bool(slopes[i].any()) for i in slopes):
            raise ValueError("the equation linearised at u = 0 has no second derivatives, so no Green's operator")
        boundary = edge_of(problem.domain, modes + modes // 2)
        basis, fit = factorised(equation, weights, products(boundary.points, problem.domain, modes), boundary.weights)
        places = nodes.contiguous(), boundary.points.contiguous()
        kernel = SemilinearKernel(problem, modes, self.tolerance, places, (basis, fit))
        return kernel, f"linear least squares: rank {len(fit)}, linearised at zero", None


def _slots(problem: PDE) -> list[Indices]:
    return [(), *sorted(problem.derivatives - {()})]


def _linearised(problem: PDE, x: Tensor, values: Mapping[Indices, Tensor]) -> tuple[Tensor, dict[Indices, Tensor]]:
    """R and its slopes dR/d(D^alpha u), each like the values ``(n,)``."""
    slots = {i: v.detach().clone().requires_grad_() for i, v in values.items()}
    with torch.enable_grad():
        u = Unknown(slots[()], problem.coordinates, lambda i: slots[i])
        (found,) = problem._call(x, u, None)
        slopes = torch.autograd.grad(found.sum(), list(slots.values()), allow_unused=True, materialize_grads=True)
    return found.detach(), dict(zip(slots, slopes, strict=True))


def differentiated(x: Tensor, domain: Domain, modes: int, index: Indices) -> Tensor:
    """D^index of all products of Legendre polynomials, ``(n, modes^d)``."""
    lower, upper = domain.bounds
    slope = derivative(modes)
    return products_of(
        x, domain, modes, lambda axis, table: _slope(table, slope, index.count(axis), upper - lower, axis)
    )


def _slope(table: Tensor, slope: Tensor, order: int, size: Tensor, axis: int) -> Tensor:
    for _ in range(order):
        table = table @ slope * (2 / float(size[axis]))
    return table


def gmres(apply: Any, right: Tensor, steps: int, tolerance: float) -> Tensor:
    """The x of ``apply(x) = right`` for all rows ``(K, q)`` at once, of least residual in the Krylov space.

    Args:
        apply: a linear map for each row.
        right: right-hand sides ``(K, q)``.
        steps: dimension of the space at most.
        tolerance: relative residual at which all rows may end.
    """
    size = right.norm(dim=1).clamp_min(1e-300)
    basis = [right / size[:, None]]
    columns: list[Tensor] = []
    y = right.new_zeros(len(right), 1)
    for k in range(steps):
        new = apply(basis[-1])
        stacked = torch.stack(basis, 1)
        h = torch.einsum("kjq,kq->kj", stacked, new)
        new = new - torch.einsum("kjq,kj->kq", stacked, h)
        again = torch.einsum("kjq,kq->kj", stacked, new)  # once is not enough in floating point
        new, h = new - torch.einsum("kjq,kj->kq", stacked, again), h + again
        length = new.norm(dim=1)
        columns.append(torch.cat([h, length[:, None]], 1))
        hessenberg = torch.stack([torch.nn.functional.pad(c, (0, k + 2 - c.shape[1])) for c in columns], 2)
        first = right.new_zeros(len(right), k + 2, 1)
        first[:, 0, 0] = size
        y = torch.linalg.lstsq(hessenberg, first).solution[:, :, 0]
        left = (first[:, :, 0] - torch.einsum("kij,kj->ki", hessenberg, y)).norm(dim=1)
        if bool((left <= tolerance * size).all()) or bool((length <= 1e-14 * h.norm(dim=1)).all()):
            break
        basis.append(new / length.clamp_min(1e-300)[:, None])
    return torch.einsum("kjq,kj->kq", torch.stack(basis[: y.shape[1]], 1), y)


class SemilinearKernel:
    """G with the equation whose linearisation it inverts; made by `Semilinear`.

    Attributes:
        problem: the equation, which files do not hold.
        nodes: where sources are evaluated ``(q, d)``.
        edge: where boundary data are evaluated ``(b, d)``.
    """

    def __init__(
        self,
        problem: PDE,
        modes: int,
        tolerance: float,
        places: tuple[Tensor, Tensor],
        factors: tuple[Tensor, Tensor],
    ) -> None:
        self.problem, self.domain, self.modes, self.tolerance = problem, problem.domain, modes, tolerance
        self.nodes, self.edge = places
        self.basis, self.fit = factors
        self.tables = {i: differentiated(self.nodes, self.domain, modes, i) for i in _slots(problem)}

    def __call__(self, x: Tensor, y: Tensor) -> Tensor:
        """There is no single kernel.

        Raises:
            ValueError: always.
        """
        raise ValueError("the operator is nonlinear, so it has no single kernel G(x, y)")

    def _state(self, c: Tensor) -> tuple[dict[Indices, Tensor], Tensor, dict[Indices, Tensor]]:
        """Derivatives ``(K, q)``, R and its slopes of functions with coefficients ``(K, m)``."""
        many, x = len(c), self.nodes.repeat(len(c), 1)
        values = {i: c @ table.T for i, table in self.tables.items()}
        found, slopes = _linearised(self.problem, x, {i: v.reshape(-1) for i, v in values.items()})
        return values, found.reshape(many, -1), {i: s.reshape(many, -1) for i, s in slopes.items()}

    def apply(self, source: Data, boundary: Data) -> Applied:
        """The solution for a source and Dirichlet data.

        Raises:
            ValueError: for data of another shape or not finite.
        """
        f, g = values_of("source", source, self.nodes).T, values_of("boundary", boundary, self.edge).T
        many = max(len(f), len(g))
        if not {len(f), len(g)} <= {1, many}:
            raise ValueError(f"boundary gives {len(g)} functions, but source gives {len(f)}")
        f, g = f.expand(many, -1), g.expand(many, -1)
        inner, outer = self.fit[:, : len(self.nodes)], self.fit[:, len(self.nodes) :]
        c = (g @ outer.T) @ self.basis.T
        change = torch.full((many,), torch.inf, dtype=f.dtype)
        for steps in range(_STEPS):  # noqa: B007
            _, found, slopes = self._state(c)
            missed = f - found

            def linear(z: Tensor, slopes: dict[Indices, Tensor] = slopes) -> Tensor:
                dc = (z @ inner.T) @ self.basis.T
                return torch.stack([slopes[i] * (dc @ table.T) for i, table in self.tables.items()]).sum(0)

            step = (gmres(linear, missed, _KRYLOV, 1e-3 * self.tolerance**0.5) @ inner.T) @ self.basis.T
            share = self._share(c, step, missed @ inner.T, f)
            c = torch.where(share[:, None] > 0, c + share[:, None] * step, c)
            change = (step @ self.tables[()].T).norm(dim=1) / (c @ self.tables[()].T).norm(dim=1).clamp_min(1e-300)
            if bool(((change <= self.tolerance) | (share == 0)).all()):
                break
        return self._applied(c, g, steps + 1, float(change.max()))

    def _share(self, c: Tensor, step: Tensor, missed: Tensor, f: Tensor) -> Tensor:
        """The share ``(K,)`` of a Newton step that brings G (f - R(u)) down for each member; 0 if none does."""
        before = missed.norm(dim=1)
        share = torch.ones_like(before)
        while True:
            _, found, _ = self._state(c + share[:, None] * step)
            left = ((f - found) @ self.fit[:, : len(self.nodes)].T).norm(dim=1)
            bad = ~(left <= (1 - 1e-4 * share) * before) & (share > 0) & (before > 1e-12 * f.norm(dim=1))
            if not bool(bad.any()):
                return share
            share = torch.where(bad, share / 2, share)
            share = torch.where(share < _SHORTEST, 0.0, share)

    def _applied(self, c: Tensor, g: Tensor, steps: int, change: float) -> Applied:
        many = len(c)
        potential = c.reshape(many, *(self.modes,) * self.domain.dim)
        field = PotentialField(self.domain, None, potential, c.new_zeros(0, many), many == 1)
        missed = c @ products(self.edge, self.domain, self.modes).T - g
        size = relative(missed, torch.cat([c @ self.tables[()].T, g], 1))
        if change > 1e3 * self.tolerance:
            status = f"Newton's method did not converge: after {steps} steps the last changed u by {change:.1e}"
            return Applied(field, None, status)
        return Applied(field, None, f"{steps} steps of Newton's method, boundary values met to {size:.1e}")

    def describe(self) -> dict[str, Any]:
        """Domain, modes and tolerance."""
        return {"domain": self.domain.describe(), "modes": self.modes, "tolerance": self.tolerance}

    def arrays(self) -> dict[str, np.ndarray]:
        """Nodes and factors."""
        return {k: getattr(self, k).numpy() for k in ("nodes", "edge", "basis", "fit")}

    @classmethod
    def restore(
        cls, description: Mapping[str, Any], arrays: Mapping[str, np.ndarray], problem: Any = None
    ) -> SemilinearKernel:
        """From `describe` and `arrays` and the equation.

        Raises:
            ValueError: without the equation, or with one on another domain.
        """
        if not isinstance(problem, PDE) or problem.domain.describe() != domain_from(description["domain"]).describe():
            raise ValueError(
                "problem must be the PDE that the operator was made for: load(path, problem), for no file holds it"
            )
        nodes, edge, basis, fit = (torch.as_tensor(arrays[k]) for k in ("nodes", "edge", "basis", "fit"))
        return cls(problem, description["modes"], description["tolerance"], (nodes, edge), (basis, fit))
