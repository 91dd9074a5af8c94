"""Any problem as rows: linear equations sum_alpha w_alpha(x) D^alpha u(x) = b(x) at points.

`Collocation` lays points, and linearises the problem's residual there about given derivatives of u. The derivative of
the residual with respect to every derivative of u is exact (reverse mode at each point), so one routine serves linear
problems, where the point of linearisation does not matter, and every step of Newton's method.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from sciml.calculus import Jet, Taylor
from sciml.conditions import Condition, Data, Dirichlet, Initial, Neumann, Periodic, Relation, Robin
from sciml.problem import PDE, Coefficients, Elliptic
from sciml.solvers.clusters import Facing, Ring, Sector, clusters, facings
from sciml.solvers.families import Indices

Values = Mapping[Indices, Tensor]  # derivatives of u at the points of a block, each (n, components)

__all__ = ["Block", "Collocation", "Rows"]


@dataclass(frozen=True)
class Block:
    """Points that share an equation.

    Attributes:
        x: ``(n, d)``.
        weight: quadrature weights ``(n,)``.
        condition: what holds there; None is the equation itself.
        normals: outward, on the boundary.
        partner: opposite points of a periodic condition.
        given: what was evaluated there once.
    """

    x: Tensor
    weight: Tensor
    condition: Condition | None = None
    normals: Tensor | None = None
    partner: Tensor | None = None
    given: Any = None


@dataclass(frozen=True)
class Rows:
    """Linear equations at the points of a block.

    Attributes:
        operators: one operator per component of u: derivative index -> weight ``(n,)``.
        rhs: ``(n,)``.
        opposite: whether the operator at the partner points is subtracted.
    """

    operators: tuple[dict[Indices, Tensor], ...]
    rhs: Tensor
    opposite: bool = False


class _Known:
    """A Field of which only the derivatives at certain points are known; what a residual is evaluated on."""

    def __init__(self, values: Values) -> None:
        self.values = values

    def __call__(self, x: Tensor) -> Tensor:
        raise ValueError("only derivatives are known of this field, at certain points")

    def partial(self, x: Tensor, indices: Indices) -> Tensor:
        value = self.values.get(indices, torch.zeros_like(self.values[()]))
        return value[:, 0] if value.shape[1] == 1 else value

    def taylor(self, t: Taylor) -> Taylor:
        d, value = t.value.shape[1], self.values[()]
        zero = torch.zeros_like(value)
        first = None if t.first is None else torch.stack([self.values.get((i,), zero) for i in range(d)])
        second = None if t.second is None else torch.stack([self.values.get(p, zero) for p in t.pairs])
        return Taylor(value, first, None, second, t.pairs)


class Collocation:
    """Points and equations of a problem.

    Args:
        problem: an `Elliptic` or a `PDE`.

    Attributes:
        indices: the derivatives of u that the equation sees.
        components: number of unknowns.
        linear: whether superposition holds, found out on random numbers.

    Raises:
        ValueError: for what rows at points cannot express.
    """

    def __init__(self, problem: Elliptic | PDE) -> None:
        self.problem = problem
        d = problem.domain.dim
        if isinstance(problem, Elliptic):
            if problem.interfaces:
                raise ValueError(
                    "diffusion jumps, and the flux across the jump is no equation at points: use FiniteElement"
                )
            self.components = 1
            pairs = [(i, i) for i in range(d)]
            if problem.p != 2:
                pairs = [(i, j) for i in range(d) for j in range(i, d)]
            first = [] if problem.p == 2 and problem.constant_diffusion is not None else [(i,) for i in range(d)]
            self.indices: tuple[Indices, ...] = ((), *first, *pairs)
        else:
            if problem.unknowns:
                raise ValueError(f"unknowns is {problem.unknowns}, but FeatureSolver solves forward problems only")
            self.components = problem.components
            self.indices = ((), *sorted(problem.derivatives - {()}))
        self.linear = self._is_linear()

    @property
    def marches(self) -> bool:
        """Whether a slab of time can follow another: what is known at its start is u, and all that is needed."""
        initial = any(isinstance(c, Initial) for c in self.problem.conditions)
        return initial and not any(i.count(0) > 1 for i in self.indices)

    # ------------------------------------------------------------------------------------------------------- points

    def blocks(
        self,
        interior: int,
        boundary: int,
        generator: torch.Generator,
        sobol: bool = True,
        least: int = 0,
        clustered: int = 0,
        edges: int = 0,
    ) -> list[Block]:
        """Points of the equation and of every condition.

        Args:
            interior: number of points inside.
            boundary: number of points on the boundary, shared out by area.
            generator: of the points.
            sobol: quasi-random points.
            least: number of points that even the smallest piece of the boundary gets.
            clustered: number of further points inside around each hole and corner.
            edges: number of further boundary points around each corner and each place that faces a hole.
        """
        x, weight = self._inside(interior, clustered, generator, sobol)
        found = [Block(x, weight, given=self.coefficients(x))]
        if any(not isinstance(c, Data) for c in self.problem.conditions):
            points, normals, labels, weights = self._edge(boundary, least, edges, generator, sobol)
            for condition, mask in self.problem.partition(points, labels):
                if bool(mask.any()):
                    found.append(self.edge_block(condition, points[mask], normals[mask], weights[mask]))
        for condition in self.problem.conditions:
            if isinstance(condition, Data):
                found.append(self.data_block(condition))
        return found

    def coefficients(self, x: Tensor) -> Coefficients | None:
        """Those of an `Elliptic` at points."""
        return self.problem.coefficients(x) if isinstance(self.problem, Elliptic) else None

    def data_block(self, condition: Data) -> Block:
        """Measured values."""
        count = len(condition.points)
        w = torch.full((count,), self.problem.domain.volume / count, dtype=condition.points.dtype)
        return Block(condition.points, w, condition, given=(condition.values, None, None))

    def _inside(self, count: int, clustered: int, generator: torch.Generator, sobol: bool) -> tuple[Tensor, Tensor]:
        """Interior points and quadrature weights: of a mixture of densities, one over the mixture's density."""
        domain = self.problem.domain
        parts = [domain.interior(count, generator, sobol=sobol)]
        gathered = self.clusters if clustered else []
        for cluster in gathered:
            x = cluster.draw(clustered, generator)
            parts.append(x[domain.level(x) > 0])
        points = torch.cat(parts)
        density = torch.full((len(points),), count / domain.volume, dtype=points.dtype)
        for cluster in gathered:
            density += clustered * cluster.density(points)
        return points, 1 / density

    @cached_property
    def clusters(self) -> list[Ring | Sector]:
        """Where points gather inside."""
        return clusters(self.problem.domain)

    @cached_property
    def edges(self) -> list[Sector | Facing]:
        """Where points gather on the boundary."""
        sectors: list[Sector | Facing] = [c for c in self.clusters if isinstance(c, Sector)]
        return sectors + facings(self.problem.domain)

    def _edge(
        self, count: int, least: int, gathered: int, generator: torch.Generator, sobol: bool
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Boundary points, normals, labels and quadrature weights."""
        domain = self.problem.domain
        if domain.dim == 1:  # a few points, each of which would be met many times
            points, normals, labels = domain.boundary(64 * len(domain.labels), generator)
            keep = torch.stack([(labels == k).long().argmax() for k in labels.unique()])
            return points[keep], normals[keep], labels[keep], torch.ones(len(keep), dtype=points.dtype)
        share = domain.areas / domain.area
        wanted = (share * count).ceil().clamp_min(least)
        smallest = float((wanted / share.clamp_min(1e-12))[share > 0].max())
        drawn = int(min(1.2 * max(smallest, count) + 64, 32 * count + 4096))
        points, normals, labels = domain.boundary(drawn, generator, sobol=sobol)
        rank = torch.zeros(len(labels))
        for k in labels.unique().tolist():
            mine = labels == k
            rank[mine] = torch.arange(int(mine.sum()), dtype=rank.dtype)
        keep = rank < wanted[labels]
        labels = labels[keep]
        points, normals = points[keep], normals[keep]
        density = torch.bincount(labels, minlength=len(share)) / domain.areas.clamp_min(1e-300)
        places = self.edges if gathered else []
        for cluster in places:
            x, inward = cluster.edge(gathered, generator)
            step = 1e-7 * domain.size * inward
            _, label = domain.crossing(x + step, x - step)
            on = label >= 0
            points, normals = torch.cat([points, x[on]]), torch.cat([normals, -inward[on]])
            labels = torch.cat([labels, label[on]])
        total = density[labels]
        for cluster in places:
            total = total + gathered * cluster.edge_density(points)
        return points, normals, labels, 1 / total

    def edge_block(self, condition: Condition, x: Tensor, normals: Tensor, weight: Tensor) -> Block:
        """Points of a condition with what it prescribes there."""
        if isinstance(condition, Periodic):
            axis = self.problem.axis(condition)
            here, there = x.clone(), x.clone()
            here[:, axis], there[:, axis] = (float(b[axis]) for b in self.problem.domain.bounds)
            return Block(here, weight, condition, normals, there)
        if isinstance(condition, Relation):
            return Block(x, weight, condition, normals)
        value = condition.at(x)  # type: ignore[attr-defined]
        a = self.problem.diffusion(x) if isinstance(self.problem, Elliptic) else torch.ones_like(value)
        factor = condition.coefficient_at(x) if isinstance(condition, Robin) else None
        return Block(x, weight, condition, normals, None, (value, factor, a))

    # ---------------------------------------------------------------------------------------------------- equations

    def indices_of(self, block: Block) -> tuple[Indices, ...]:
        """The derivatives of u that a block's equations see."""
        if block.condition is None:
            return self.indices
        if isinstance(block.condition, Relation):
            assert isinstance(self.problem, PDE)
            return ((), *sorted(self.problem.derivatives_of(block.condition) - {()}))
        if isinstance(block.condition, (Neumann, Robin)):
            return ((), *((i,) for i in range(block.x.shape[1])))
        return ((),)

    def residuals(self, block: Block, values: Values) -> tuple[Tensor, ...]:
        """What should vanish at the points of a block, for given derivatives of u (not for periodic blocks)."""
        condition, problem = block.condition, self.problem
        if condition is None and isinstance(problem, PDE):
            return problem.residual(_Known(values), block.x)
        if isinstance(condition, Relation):
            assert isinstance(problem, PDE)
            return problem.mismatch(condition, _Known(values), block.x)
        if condition is None:
            assert isinstance(problem, Elliptic)
            return (problem.residual(self._jet(values, block.x.shape[1]), block.given),)
        value, factor, a = block.given
        pick = {k: v[:, getattr(condition, "component", 0)] for k, v in values.items()}
        if isinstance(condition, (Dirichlet, Initial, Data)):
            return (pick[()] - value,)
        assert block.normals is not None
        gradient = torch.stack([pick[i,] for i in range(block.x.shape[1])], 1)
        slope = a * (gradient * block.normals).sum(1)
        if isinstance(problem, Elliptic) and problem.p != 2:
            slope = slope * (gradient.square().sum(1) + 1e-24) ** (problem.p / 2 - 1)
        return (slope - value if factor is None else slope + factor * pick[()] - value,)

    @staticmethod
    def _jet(values: Values, d: int) -> Jet:
        zero = torch.zeros_like(values[()][:, 0])
        gradient = torch.stack([values[i,][:, 0] if (i,) in values else zero for i in range(d)], 1)
        second = {k: v[:, 0] for k, v in values.items() if len(k) == 2}
        return Jet(values[()][:, 0], gradient, torch.stack([second[i, i] for i in range(d)]).sum(0), second)

    def linearise(self, block: Block, values: Values | None = None) -> list[Rows]:
        """The equations of a block about given derivatives of u (None: about u = 0), one `Rows` per equation."""
        if isinstance(block.condition, Periodic):
            return self._periodic(block)
        wanted = self.indices_of(block)
        n = len(block.x)
        if values is None:
            values = {i: torch.zeros(n, self.components, dtype=torch.float64) for i in wanted}
        leaves = {i: values[i].detach().clone().requires_grad_() for i in wanted}
        with torch.enable_grad():
            residuals = self.residuals(block, leaves)
            rows = []
            for residual in residuals:
                gradients = torch.autograd.grad(
                    residual.sum(), list(leaves.values()), retain_graph=True, allow_unused=True
                )
                slopes = {i: g for i, g in zip(leaves, gradients, strict=True) if g is not None}
                rhs = sum((g * leaves[i].detach()).sum(1) for i, g in slopes.items()) - residual.detach()
                operators = tuple(
                    {i: g[:, c] for i, g in slopes.items() if bool((g[:, c] != 0).any())}
                    for c in range(self.components)
                )
                rows.append(Rows(operators, rhs))
        return rows

    def at_rest(self, x: Tensor) -> Tensor:
        """What the equation leaves of u = 0 at points, ``(n,)``: its source."""
        values = {i: torch.zeros(len(x), self.components, dtype=x.dtype) for i in self.indices}
        block = Block(x, torch.ones(len(x), dtype=x.dtype), given=None)
        return torch.stack(self.residuals(block, values)).square().sum(0).sqrt()

    def _periodic(self, block: Block) -> list[Rows]:
        axis = self.problem.axis(block.condition)  # type: ignore[arg-type]
        one, zero = torch.ones_like(block.weight), torch.zeros_like(block.weight)
        smooth = isinstance(self.problem, Elliptic) or any(i.count(axis) > 1 for i in self.indices)
        found = []
        for component in range(self.components):
            indices: list[Indices] = [(), (axis,)] if smooth else [()]
            for index in indices:
                operators: tuple[dict[Indices, Tensor], ...] = tuple(
                    {index: one} if c == component else {} for c in range(self.components)
                )
                found.append(Rows(operators, zero, opposite=True))
        return found

    def _is_linear(self) -> bool:
        if isinstance(self.problem, Elliptic):
            return self.problem.linear
        generator = torch.Generator().manual_seed(0)
        x = self.problem.domain.interior(64, generator)
        relations = [c for c in self.problem.conditions if isinstance(c, Relation)]
        return all(self._superposes(Block(x, torch.ones_like(x[:, 0]), c), generator) for c in (None, *relations))

    def _superposes(self, block: Block, generator: torch.Generator) -> bool:
        def draw() -> dict[Indices, Tensor]:
            size = (len(block.x), self.components)
            wanted = self.indices_of(block)
            return {i: 0.5 + torch.rand(size, generator=generator, dtype=block.x.dtype) for i in wanted}

        here, there = self.linearise(block, draw()), self.linearise(block, draw())
        for a, b in zip(here, there, strict=True):
            if not torch.allclose(a.rhs, b.rhs, rtol=1e-9, atol=1e-9):
                return False
            for p, q in zip(a.operators, b.operators, strict=True):
                if p.keys() != q.keys() or not all(torch.allclose(p[i], q[i], rtol=1e-9, atol=1e-12) for i in p):
                    return False
        return True
