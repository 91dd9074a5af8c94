"""The singularity-aware kernel of -a Lap u = f: fundamental solution, images across flat sides, a learned smooth rest.

    G(x, x') = sum_images +- Phi(x - image(x')) + R(x, x'),        R(x, x') = sum_k phi_k(x) psi_k(x')

The singular part is not learned: its integral against a source, expanded in Legendre polynomials, is a sum of products
of exact one-dimensional integrals (`fundamental`). The rest is harmonic in x, so phi_k are harmonic functions, the
equation holds exactly, and what is left of the risk is the boundary term: phi psi = -(singular part) on the boundary, a
linear least-squares problem whose Gauss-Newton method ends after one step. It has the same matrix for every x', which
is why one factorisation learns the kernel for all sources at once, and boundary data as well.

With the images the regular part stays smooth when x and x' meet at a side. A corner source still makes r^2 log r.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sciml.domain import Ball, Box, Domain, domain_from
from sciml.problem import Elliptic
from sciml.solvers.fundamental import axis_integrals, imaged, separable
from sciml.solvers.harmonic import box_and_holes, edge, features
from sciml.solvers.members import Applied, Data, Family, refuse_outside, relative, values_of
from sciml.solvers.quadrature import gauss, legendre, product_points, transform

__all__ = ["PotentialField", "SingularKernel", "SingularityAware"]

_MODES = {1: 64, 2: 48, 3: 20}
_DEGREE = {1: 1, 2: 20, 3: 14}
_RANK = 1e-13  # singular values below this part of the largest are rounding


@dataclass(frozen=True)
class SingularityAware:
    """Options of the singularity-aware kernel.

    Attributes:
        modes: Legendre polynomials per coordinate that sources and potentials are expanded in; None takes 64, 48, 20
            in 1, 2, 3 dimensions.
        degree: of the harmonic functions; None takes 20 in 2 and 14 in 3 dimensions.
        images: reflect the fundamental solution in the flat sides.
    """

    modes: int | None = None
    degree: int | None = None
    images: bool = True

    def __post_init__(self) -> None:
        """Check the numbers."""
        for name in ("modes", "degree"):
            value = getattr(self, name)
            if value is not None and not (isinstance(value, int) and value >= 2):
                raise ValueError(f"{name} is {value!r}, but must be a whole number >= 2 or None")

    def learn(self, family: Family, **unused: Any) -> tuple[SingularKernel, str, Any]:
        """Fit the rest; the family's samples are not needed, since the fit holds for every source.

        Raises:
            ValueError: if the equation is not -a Lap u = f with a number a.
        """
        problem = family.problem
        assert isinstance(problem, Elliptic)  # GreensSolver refuses others
        a = problem.constant_diffusion
        if a is None or problem.has_reaction:
            what = "a reaction term" if a is not None else "a diffusion that varies"
            raise ValueError(f"problem has {what}, but the fundamental solution is known for -a Lap u; use LowRank()")
        box, holes = box_and_holes(problem.domain)
        modes, degree = self.modes or _MODES[box.dim], self.degree or _DEGREE[box.dim]
        boundary = edge(box, holes, max(degree + 8, 4) if box.dim == 3 else 3 * degree + 8)
        root = boundary.weights.sqrt()[:, None]
        matrix = root * features(boundary.points, box, holes, degree)
        scale = matrix.norm(dim=0)
        # two factors, not their product: that would mix the rounding of small singular values into large ones
        u, s, vt = torch.linalg.svd(matrix / scale, full_matrices=False)
        keep = s > _RANK * s[0]
        basis, fit = vt[keep].T / s[keep] / scale[:, None], (root * u[:, keep]).T
        basis, fit = basis.contiguous(), fit.contiguous()  # as files give them back, to the last bit
        kernel = SingularKernel(problem.domain, a, modes, degree, self.images, boundary.points, (basis, fit))
        return kernel, f"linear least squares: {len(basis)} harmonic functions at {len(root)} boundary nodes", None


class SingularKernel:
    """G of -a Lap on a box, or on a square with discs cut out; made by `SingularityAware`.

    Attributes:
        domain: where.
        nodes: boundary nodes ``(b, d)``.
        rest: ``(q, r)`` and ``(r, b)``; their product turns boundary values into coefficients of harmonic functions.
    """

    def __init__(
        self,
        domain: Domain,
        a: float,
        modes: int,
        degree: int,
        images: bool,
        nodes: Tensor,
        rest: tuple[Tensor, Tensor],
    ) -> None:
        self.domain, self.a, self.modes, self.degree, self.images = domain, a, modes, degree, images
        self.nodes, self.rest = nodes, rest
        self.box, self.holes = box_and_holes(domain)

    def __call__(self, x: Tensor, y: Tensor) -> Tensor:
        """G ``(n, m)`` at x ``(n, d)`` of unit sources at y ``(m, d)``."""
        lower, upper = self.box.bounds
        rest = self.fitted(imaged(self.nodes, y, lower, upper, self.images))
        smooth = features(x, self.box, self.holes, self.degree) @ rest
        return (imaged(x, y, lower, upper, self.images) - smooth) / self.a

    def fitted(self, values: Tensor) -> Tensor:
        """Coefficients ``(q, k)`` of the harmonic functions with values ``(b, k)`` at the boundary nodes."""
        basis, fit = self.rest
        return basis @ (fit @ values)

    @cached_property
    def _factors(self) -> tuple[Tensor, list[Tensor]]:
        """Weights ``(k,)`` and, per axis, integrals ``(k, modes, modes)`` that end in Legendre coefficients."""
        lower, upper = self.box.bounds
        terms = separable(self.box.dim, float((upper - lower).max()))
        to_modes = transform(self.modes)
        factors: list[Tensor] = []
        for low, high in zip(lower.tolist(), upper.tolist(), strict=True):
            x = gauss(low, high, self.modes)[0]
            factors.append(to_modes @ axis_integrals(x, low, high, self.modes, terms, self.images))
        return terms.weights, factors

    @cached_property
    def _fit(self) -> tuple[Tensor, Tensor | None]:
        """Where sources are evaluated and, with holes, the matrix from their values there to Legendre coefficients.

        Inside holes sources need not exist: they are continued there by least squares, and the potential of the
        continuation is harmonic in the domain, so the boundary fit takes it away again.
        """
        lower, upper = self.box.bounds
        if not self.holes:
            return product_points(
                [gauss(a, b, self.modes)[0] for a, b in zip(lower.tolist(), upper.tolist(), strict=True)]
            ), None
        count = max(self.modes // 2, 2)
        axes = [gauss(a, b, 2 * count)[0] for a, b in zip(lower.tolist(), upper.tolist(), strict=True)]
        points = product_points(axes)
        points = points[self.domain.contains(points)]
        table = self._products(points, count)
        return points, torch.linalg.pinv(table, rtol=1e-11)

    def _products(self, x: Tensor, count: int) -> Tensor:
        lower, upper = self.box.bounds
        table = [legendre(t, count) for t in (2 * (x - lower) / (upper - lower) - 1).unbind(1)]
        result = table[0]
        for other in table[1:]:
            result = (result[:, :, None] * other[:, None]).reshape(len(x), -1)
        return result

    def expand(self, source: Data) -> tuple[Tensor, float]:
        """Legendre coefficients ``(k, modes, .., modes)`` of k sources, and the relative size of the last ones."""
        x, fit = self._fit
        values = values_of("source", source, x).T
        d, count = self.box.dim, self.modes
        if fit is None:
            c = values.reshape(-1, *(count,) * d)
            for axis in range(1, d + 1):
                c = torch.movedim(torch.tensordot(c, transform(count), dims=([axis], [1])), -1, axis)
            used = count
        else:
            used = max(count // 2, 2)
            small = (values @ fit.T).reshape(-1, *(used,) * d)
            c = small.new_zeros(len(small), *(count,) * d)
            c[(slice(None), *(slice(0, used),) * d)] = small
        # a Legendre coefficient of degree n is sqrt(2 n + 1) times its part in the norm
        size = c
        for axis in range(1, d + 1):
            shape = [1] * (d + 1)
            shape[axis] = count
            size = size / (2 * torch.arange(count, dtype=c.dtype) + 1).sqrt().reshape(shape)
        degree = torch.stack(torch.meshgrid(*[torch.arange(count)] * d, indexing="ij")).amax(0)
        high = size[:, degree >= used - max(used // 8, 1)].norm()
        total = size.norm()
        return c, float(high / total) if total > 0 else 0.0

    def potential(self, coefficients: Tensor) -> Tensor:
        """Legendre coefficients ``(k, modes, ..)`` of the potentials of sources with such coefficients."""
        weights, factors = self._factors
        total = torch.zeros_like(coefficients)
        for k, weight in enumerate(weights):
            term = coefficients
            for axis, factor in enumerate(factors, 1):
                term = torch.movedim(torch.tensordot(term, factor[k], dims=([axis], [1])), -1, axis)
            total += weight * term
        return total / self.a

    def apply(self, source: Data, boundary: Data) -> Applied:
        """The solution for a source and Dirichlet data."""
        coefficients, tail = self.expand(source)
        potential = self.potential(coefficients)
        given = values_of("boundary", boundary, self.nodes)
        trace = self._products(self.nodes, self.modes) @ potential.reshape(len(potential), -1).T
        if given.shape[1] not in (1, trace.shape[1]) and trace.shape[1] != 1:
            raise ValueError(f"boundary gives {given.shape[1]} functions, but source gives {trace.shape[1]}")
        wanted = given - trace
        rest = self.fitted(wanted)
        many = max(given.shape[1], trace.shape[1])
        single = many == 1
        field = PotentialField(self.domain, self.degree, potential.expand(many, *potential.shape[1:]), rest, single)
        missed = features(self.nodes, self.box, self.holes, self.degree) @ rest - wanted
        # what is harmonic is largest on the boundary: this bounds the error of the rest everywhere
        whole = torch.cat([field.values(self.domain.interior(64)), given.expand(-1, many)])
        error = relative(missed, whole) + tail
        status = f"boundary values met to {relative(missed, whole):.1e}, source resolved to {tail:.1e}"
        return Applied(field, error, status)

    def describe(self) -> dict[str, Any]:
        """Domain and options."""
        return {
            "domain": self.domain.describe(),
            "diffusion": self.a,
            "modes": self.modes,
            "degree": self.degree,
            "images": self.images,
        }

    def arrays(self) -> dict[str, np.ndarray]:
        """Boundary nodes and the learned rest."""
        return {"nodes": self.nodes.numpy(), "basis": self.rest[0].numpy(), "fit": self.rest[1].numpy()}

    @classmethod
    def restore(cls, description: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> SingularKernel:
        """From `describe` and `arrays`."""
        d = description
        nodes, basis, fit = (torch.as_tensor(arrays[name]) for name in ("nodes", "basis", "fit"))
        return cls(domain_from(d["domain"]), d["diffusion"], d["modes"], d["degree"], d["images"], nodes, (basis, fit))


class PotentialField:
    """A polynomial plus harmonic functions: what a kernel makes of data.

    Args:
        domain: where it may be evaluated.
        degree: of the harmonic functions; None if there are none.
        potential: Legendre coefficients ``(k, modes, ..)`` of k potentials, on the box around the domain.
        rest: coefficients ``(q, k)`` of the harmonic functions.
        single: whether values are ``(n,)`` rather than ``(n, k)``.
    """

    def __init__(self, domain: Domain, degree: int | None, potential: Tensor, rest: Tensor, single: bool) -> None:
        self.domain, self.degree, self.potential, self.rest, self.single = domain, degree, potential, rest, single
        self.dim = domain.dim

    def __call__(self, x: Tensor) -> Tensor:
        """Values ``(n,)`` or ``(n, k)``.

        Raises:
            ValueError: for points outside the domain.
        """
        refuse_outside(self.domain, x)
        values = self.values(x)
        return values[:, 0] if self.single else values

    def values(self, x: Tensor) -> Tensor:
        """Values ``(n, k)``, without a question whether the points lie inside."""
        lower, upper = (b.to(x.device, x.dtype) for b in self.domain.bounds)
        total: Tensor = self.potential.to(x)
        for i, t in enumerate((2 * (x - lower) / (upper - lower) - 1).unbind(1)):
            table = legendre(t, self.potential.shape[1])
            # first axis: (n, m) (k, m, ..) -> (n, k, ..); later ones contract point by point
            total = (
                torch.tensordot(table, total, dims=([1], [1]))
                if i == 0
                else torch.einsum("nm,nkm...->nk...", table, total)
            )
        if self.degree is None:
            return total
        return total + features(x, *self._parts, self.degree) @ self.rest.to(x)

    @cached_property
    def _parts(self) -> tuple[Box, tuple[Ball, ...]]:
        return box_and_holes(self.domain)

    def describe(self) -> dict[str, Any]:
        """Domain, degree and shape."""
        return {"domain": self.domain.describe(), "degree": self.degree, "single": self.single}

    def arrays(self) -> dict[str, np.ndarray]:
        """Both sets of coefficients."""
        return {"potential": self.potential.numpy(), "rest": self.rest.numpy()}

    @classmethod
    def restore(
        cls, description: Mapping[str, Any], arrays: Mapping[str, np.ndarray], problem: Any = None
    ) -> PotentialField:
        """From `describe` and `arrays`."""
        potential, rest = torch.as_tensor(arrays["potential"]), torch.as_tensor(arrays["rest"])
        return cls(domain_from(description["domain"]), description["degree"], potential, rest, description["single"])
