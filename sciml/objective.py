"""How an equation becomes numbers to minimise.

`ritz` integrates the energy of an `Elliptic`; `least_squares` the squared residual of any problem. Both measure with
real volumes and areas (a term estimates an integral, not a mean), so that a penalty keeps its meaning across domains.
One definition serves every optimiser: ``terms`` are what is logged and summed, ``residuals`` the vector r with
loss = |r|^2 / 2, ``metric_vector`` the vector m whose Jacobian gives the metric of a natural-gradient method.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Protocol

import torch
from torch import Tensor

from sciml.calculus import Field, jet
from sciml.conditions import Condition, Data, Dirichlet, Initial, Neumann, Periodic, Relation, Robin
from sciml.domain import Box, Domain, gauss_nodes
from sciml.problem import PDE, Elliptic, Evolution

Penalty = float | Callable[[float], float] | Mapping[str, float]

__all__ = ["Batch", "Block", "LeastSquares", "Objective", "Residuals", "Ritz", "least_squares", "ritz", "staged"]


@dataclass(frozen=True)
class Block:
    """Points of one term and what was evaluated there once.

    Attributes:
        x: ``(n, d)``.
        weight: quadrature weight of each point, ``(n,)``: sum(weight * g(x)) estimates the integral of g.
        normals: outward normals, on the boundary.
        given: right-hand sides and coefficients at the points.
        condition: the condition that holds there; None in the interior.
        partner: the opposite points of a periodic condition.
    """

    x: Tensor
    weight: Tensor
    normals: Tensor | None = None
    given: tuple[Any, ...] = ()
    condition: Condition | None = None
    partner: Tensor | None = None

    def to(self, device: torch.device | str, dtype: torch.dtype) -> Block:
        """The block on another device or in another precision."""

        def cast(t: Tensor | None) -> Tensor | None:
            return None if t is None else t.to(device=device, dtype=dtype)

        return Block(
            self.x.to(device=device, dtype=dtype),
            self.weight.to(device=device, dtype=dtype),
            cast(self.normals),
            rebuilt(self.given, [cast(t) for t in self.given]),
            self.condition,
            cast(self.partner),
        )


def rebuilt(like: tuple[Any, ...], members: list[Any]) -> tuple[Any, ...]:
    """A tuple, or named tuple, of the same class with other members."""
    return type(like)(*members) if hasattr(like, "_fields") else tuple(members)


@dataclass(frozen=True)
class Batch:
    """Blocks by the name of their term ("interior" first) and the progress of the stage, 0 to 1."""

    blocks: Mapping[str, Block]
    progress: float = 1.0

    def to(self, device: torch.device | str, dtype: torch.dtype) -> Batch:
        """The batch on another device or in another precision."""
        return replace(self, blocks={k: b.to(device, dtype) for k, b in self.blocks.items()})

    def at(self, progress: float) -> Batch:
        """The same points at another progress."""
        return replace(self, progress=progress)


class Objective(Protocol):
    """What `training.fit` minimises: the sum of named terms of a field on a batch."""

    def terms(self, field: Field, batch: Batch) -> dict[str, Tensor]:
        """Named scalar terms; their sum is the loss."""
        ...


def staged(start: float) -> Callable[[float], float]:
    """The penalty schedule of arXiv:2009.14597: 1, 10, 50, 100, 200, 500 times `start` as training progresses.

    The factor changes at 1/10, 1/5, 1/4, 1/2 and 3/4 of the steps.
    """

    def penalty(progress: float) -> float:
        for until, factor in ((0.1, 1), (0.2, 10), (0.25, 50), (0.5, 100), (0.75, 200)):
            if progress < until:
                return factor * start
        return 500 * start

    return penalty


def _penalty(penalty: Penalty, name: str, progress: float) -> float:
    if isinstance(penalty, Mapping):
        return float(penalty.get(name, 1.0))
    return float(penalty(progress)) if callable(penalty) else float(penalty)


class _Sampled:
    """Shared by both objectives: where the points lie."""

    problem: Elliptic | PDE
    gauss_up_to = 1  # dimensions in which quasi-random points are Gauss nodes

    def __init__(self, problem: Elliptic | PDE | Evolution, penalty: Penalty) -> None:
        self.problem = problem.pde() if isinstance(problem, Evolution) else problem
        self.penalty = penalty

    def sample(
        self,
        interior: int,
        boundary: int,
        generator: torch.Generator | None = None,
        sobol: bool = False,
        hard: bool = False,
    ) -> Batch:
        """Draw a batch: `interior` points inside and `boundary` points on the edge, shared out by area.

        Args:
            interior: number of interior points.
            boundary: number of boundary points.
            generator: source of randomness; None is a fresh one seeded with 0.
            sobol: quasi-random points instead of independent ones: for an energy in up to three dimensions, and on
                intervals, Gauss nodes on randomly shifted panels (about `interior` of them; `domain.gauss_nodes`),
                scrambled Sobol points otherwise.
            hard: leave out the Dirichlet and Initial blocks, which the field satisfies by construction.
        """
        domain = self.problem.domain
        nodes = gauss_nodes(domain, interior, generator) if sobol and domain.dim <= self.gauss_up_to else None
        if nodes is not None:
            x, weight = nodes
        else:
            x = domain.interior(interior, generator, sobol=sobol)
            weight = torch.full((len(x),), domain.volume / len(x), dtype=x.dtype)
        blocks = {"interior": Block(x, weight, given=self._interior(x))}
        points, normals, labels = domain.boundary(boundary, generator, sobol=sobol)
        share = domain.area / len(points)
        for condition, mask in self.problem.partition(points, labels):
            if not bool(mask.any()) or (hard and isinstance(condition, (Dirichlet, Initial))):
                continue
            at, n = points[mask], normals[mask]
            block = Block(at, torch.full((len(at),), share, dtype=x.dtype), n, self._given(condition, at), condition)
            if isinstance(condition, Periodic):
                block = self._periodic(condition, block, domain)
            blocks[self._name(condition, blocks)] = block
        for condition in self.problem.conditions:
            if isinstance(condition, Data):
                w = torch.full((len(condition.points),), 1 / len(condition.points), dtype=x.dtype)
                block = Block(condition.points, w, given=(condition.values,), condition=condition)
                blocks[self._name(condition, blocks)] = block
        return Batch(blocks)

    def _interior(self, x: Tensor) -> tuple[Any, ...]:
        return ()

    def _given(self, condition: Condition, x: Tensor) -> tuple[Any, ...]:
        if isinstance(condition, (Periodic, Relation)):
            return ()
        value = condition.at(x)  # type: ignore[attr-defined]
        scale = self.problem.diffusion(x) if isinstance(self.problem, Elliptic) else None
        if isinstance(condition, Robin):
            return value, condition.coefficient_at(x), scale
        return (value, None, scale) if isinstance(condition, Neumann) else (value,)

    def _periodic(self, condition: Periodic, block: Block, domain: Domain) -> Block:
        assert isinstance(domain, Box)
        axis = self.problem.axis(condition)
        low, high = (float(b[axis]) for b in domain.bounds)
        x, partner = block.x.clone(), block.x.clone()
        x[:, axis], partner[:, axis] = low, high
        return replace(block, x=x, partner=partner)

    @staticmethod
    def _name(condition: Condition, blocks: Mapping[str, Block]) -> str:
        name, k = condition.name, 2
        while name in blocks:
            name, k = f"{condition.name}{k}", k + 1
        return name

    def _mismatch(self, field: Field, block: Block) -> Tensor:
        """What a boundary, initial or data block asks to vanish, ``(k n,)``."""
        condition, problem = block.condition, self.problem

        def pick(t: Tensor) -> Tensor:
            return t[:, getattr(condition, "component", 0)] if _is_system(problem) else t

        if isinstance(condition, (Dirichlet, Initial, Data)):
            return pick(field(block.x)) - block.given[0]
        if isinstance(condition, Periodic):
            assert block.partner is not None
            axis = problem.axis(condition)
            here, there = jet(field, block.x, 1), jet(field, block.partner, 1)
            assert here.gradient is not None and there.gradient is not None
            gap = [here.value - there.value]
            if not isinstance(problem, PDE) or any(i.count(axis) > 1 for i in problem.derivatives):
                gap.append(here.gradient[..., axis] - there.gradient[..., axis])
            return torch.cat([g.reshape(-1) for g in gap])
        if isinstance(condition, Relation):
            assert isinstance(problem, PDE)
            return torch.cat(problem.mismatch(condition, field, block.x))
        u = jet(field, block.x, 1)
        assert u.gradient is not None and block.normals is not None
        value, coefficient, a = block.given
        slope = (pick(u.gradient) * block.normals).sum(-1)
        if isinstance(problem, Elliptic):
            slope = a * slope
            if problem.p != 2:
                slope = slope * (u.gradient.square().sum(-1) + 1e-24) ** (problem.p / 2 - 1)
        return slope - value if coefficient is None else slope + coefficient * pick(u.value) - value


def _is_system(problem: Elliptic | PDE) -> bool:
    return isinstance(problem, PDE) and problem.components > 1


class Residuals(ABC):
    """Terms that are squared norms of vectors: all that Gauss-Newton methods need, for whatever should vanish."""

    @abstractmethod
    def vectors(self, field: Field, batch: Batch) -> dict[str, Tensor]:
        """Weighted residuals by term, in the order of the batch's blocks; each row depends on one point."""

    def terms(self, field: Field, batch: Batch) -> dict[str, Tensor]:
        """Named squared norms."""
        return {name: v.square().sum() for name, v in self.vectors(field, batch).items()}

    def residuals(self, field: Field, batch: Batch) -> Tensor:
        """R with loss = |r|^2 / 2."""
        return 2**0.5 * torch.cat(list(self.vectors(field, batch).values()))

    metric_vector = residuals


class LeastSquares(_Sampled, Residuals):
    """Integral of the squared residual plus penalised mismatch of every condition.

    loss = int |R(u)|^2 / scale + sum_k penalty_k int |mismatch_k|^2, with loss = |residuals|^2 / 2.
    """

    def __init__(self, problem: Elliptic | PDE | Evolution, penalty: Penalty = 1.0) -> None:
        super().__init__(problem, penalty)
        if isinstance(problem, Elliptic) and problem.interfaces:
            raise ValueError(
                "least squares cannot see the flux condition at a jump of the diffusion; use Ritz (ritz=True)"
            )

    def check(self, field: object) -> None:
        """Refuse a network whose kinks hide part of the residual (they are deltas between the points)."""
        smoothness = getattr(field, "smoothness", None)
        order = 2 if isinstance(self.problem, Elliptic) else self.problem.order
        if smoothness is not None and smoothness < order - 1:
            raise ValueError(
                f"the activation is only C^{smoothness}, but least squares of an equation of order {order} needs "
                f"C^{order - 1}: use sine, tanh, phi, s2relu or a power of srelu, or the Ritz energy"
            )

    def _interior(self, x: Tensor) -> tuple[Any, ...]:
        return self.problem.coefficients(x) if isinstance(self.problem, Elliptic) else ()

    def vectors(self, field: Field, batch: Batch) -> dict[str, Tensor]:
        """Weighted residuals by term: the term is the vector's squared norm."""
        vectors = {}
        for name, block in batch.blocks.items():
            if block.condition is None:
                if isinstance(self.problem, Elliptic):
                    parts: tuple[Tensor, ...] = (self.problem.residual(self.problem.jet(field, block.x), block.given),)  # type: ignore[arg-type]
                else:
                    parts = self.problem.residual(field, block.x, getattr(field, "unknowns", None))
                vectors["equation"] = torch.cat([p * block.weight.sqrt() for p in parts])
                weight = (
                    _penalty(self.penalty, "equation", batch.progress) if isinstance(self.penalty, Mapping) else 1.0
                )
                vectors["equation"] = vectors["equation"] * weight**0.5
            else:
                gap = self._mismatch(field, block)
                repeats = len(gap) // len(block.weight)
                scale = (_penalty(self.penalty, name, batch.progress) * block.weight).sqrt()
                vectors[name] = scale.repeat(repeats) * gap
        return vectors

    def concentrate(
        self, field: Field, batch: Batch, count: int, generator: torch.Generator, even: float = 0.5
    ) -> Batch:
        """A batch with fewer interior points, drawn in proportion to the residual of a field.

        Point i is drawn with density q_i = even + (1 - even) |R_i| / mean |R| and weighs as much less: the loss stays
        an unbiased estimate of the same integral, with a smaller variance where the residual is concentrated. (The
        residual-adaptive points of Wu et al., arXiv:2207.10289, leave out the weights, and so change the norm.)

        Args:
            field: the candidate solution.
            batch: to choose from, with several times as many interior points.
            count: interior points wanted.
            generator: of the draw, which is systematic: point i is taken floor or ceil of its expected times.
            even: share of the density that does not look at the residual.
        """
        block = batch.blocks["interior"]
        with torch.no_grad():
            vector = self.vectors(field, Batch({"interior": block}, batch.progress))["equation"]
        size = (vector.reshape(-1, len(block.x)).square().sum(0) / block.weight).sqrt()
        mean = (block.weight * size).sum() / block.weight.sum()
        density = even + (1 - even) * size / mean if bool(mean > 0) else torch.ones_like(size)
        expected = block.weight * density
        expected = count * expected / expected.sum()
        start = torch.rand((), generator=generator, dtype=torch.float64).to(expected)
        ticks = start + torch.arange(count, dtype=expected.dtype, device=expected.device)
        chosen = torch.searchsorted(expected.cumsum(0), ticks).clamp_max(len(size) - 1)

        def pick(t: Tensor | None) -> Tensor | None:
            return None if t is None else t[chosen]

        given = rebuilt(block.given, [pick(t) for t in block.given])
        drawn = replace(block, x=block.x[chosen], weight=(block.weight / expected)[chosen], given=given)
        return replace(batch, blocks={**batch.blocks, "interior": drawn})

    def balanced(self, traces: Mapping[str, float]) -> LeastSquares:
        """The objective with penalties under which all blocks pull equally at the parameters.

        Penalty k is tr(J^T J) of the interior over that of block k at penalty one: the balance of the traces of the
        neural tangent kernel (Wang, Yu and Perdikaris, arXiv:2007.14527).

        Args:
            traces: squared Frobenius norm of the Jacobian of each block's residual, by name of the block.
        """
        penalties = {k: traces["interior"] / max(v, 1e-300) for k, v in traces.items() if k != "interior"}
        return LeastSquares(self.problem, penalties)


class Ritz(_Sampled):
    """Energy int a/p |grad u|^p + c/2 u^2 - f u, natural Neumann and Robin terms, other conditions penalised.

    loss = energy + penalty int |u - g|^2 (the Deep Ritz form of arXiv:2007.11207 and arXiv:2009.14597).
    """

    gauss_up_to = 3  # unlike a residual, the energy density does not vanish at the solution: its noise must be small

    def __init__(self, problem: Elliptic, penalty: Penalty = 1000.0) -> None:
        if not isinstance(problem, Elliptic):
            raise TypeError(
                f"ritz needs an Elliptic problem, which has an energy, but was given a {type(problem).__name__}"
            )
        super().__init__(problem, penalty)
        lowest = float(problem.reaction(problem.domain.interior(1024, sobol=True)).min())
        if lowest < 0:
            raise ValueError(
                f"reaction is {lowest:.3g} somewhere, but the Ritz energy needs reaction >= 0; use least squares"
            )

    def check(self, field: object) -> None:
        """Any continuous network has an energy."""

    def _interior(self, x: Tensor) -> tuple[Any, ...]:
        assert isinstance(self.problem, Elliptic)
        return self.problem.coefficients(x, gradient=False)

    def terms(self, field: Field, batch: Batch) -> dict[str, Tensor]:
        """Energy and named boundary terms."""
        assert isinstance(self.problem, Elliptic)
        terms = {}
        for name, block in batch.blocks.items():
            condition = block.condition
            if condition is None:
                density = self.problem.energy(jet(field, block.x, 1), block.given)  # type: ignore[arg-type]
                terms["energy"] = (block.weight * density).sum()
            elif isinstance(condition, (Neumann, Robin)):
                u = field(block.x)
                value, coefficient, _ = block.given
                work = -value * u if coefficient is None else (0.5 * coefficient * u - value) * u
                terms[name] = (block.weight * work).sum()
            else:
                weight = _penalty(self.penalty, name, batch.progress) * block.weight
                gap = self._mismatch(field, block)[: len(weight)]
                terms[name] = (weight * gap.square()).sum()
        return terms

    def metric_vector(self, field: Field, batch: Batch) -> Tensor:
        """M with metric J_m^T J_m: the energy's second variation, its weights detached.

        sqrt(w a) |grad u|^((p-2)/2) B grad u with B^T B = I + (p-2) n n^T, n the direction of grad u; sqrt(w c) u; and
        the square roots of the quadratic boundary terms.
        """
        assert isinstance(self.problem, Elliptic)
        p, parts = self.problem.p, []
        for name, block in batch.blocks.items():
            condition, w = block.condition, block.weight
            if condition is None:
                _, a, _, c = block.given
                u = jet(field, block.x, 1)
                assert u.gradient is not None and a is not None and c is not None
                g = u.gradient
                if p != 2:
                    length = g.detach().square().sum(-1, keepdim=True).sqrt()
                    n = g.detach() / (length + 1e-12)
                    g = length ** (p / 2 - 1) * (g + ((p - 1) ** 0.5 - 1) * n * (n * g).sum(-1, keepdim=True))
                parts.append(((w * a).sqrt()[:, None] * g).reshape(-1))
                if self.problem.has_reaction:
                    parts.append((w * c).sqrt() * u.value)
            elif isinstance(condition, Robin):
                parts.append((w * block.given[1]).sqrt() * field(block.x))
            elif isinstance(condition, Neumann):
                parts.append(0 * field(block.x))  # linear in u: no curvature, but a row per point
            else:
                weight = 2 * _penalty(self.penalty, name, batch.progress) * w
                parts.append(weight.sqrt() * self._mismatch(field, block)[: len(w)])
        return torch.cat(parts)


def ritz(problem: Elliptic, penalty: Penalty = 1000.0) -> Ritz:
    """The Ritz energy of an elliptic problem; see `Ritz`."""
    return Ritz(problem, penalty)


def least_squares(problem: Elliptic | PDE | Evolution, penalty: Penalty = 1.0) -> LeastSquares:
    """The squared residual of any problem; see `LeastSquares`."""
    return LeastSquares(problem, penalty)
