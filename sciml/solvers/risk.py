"""What the training of a kernel minimises, averaged over the members u_k of a family.

Risk         weights times squares of what should vanish: residuals, boundary gaps, gaps to labels
EnergyRisk   int (a/2 |grad u_k|^2 + c/2 u_k^2 - f_k u_k) dx / |f_k|^2 in place of the squared residual, the variational
             form of arXiv:2107.03673; it needs first derivatives only, and its Hessian is that of the energy norm
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from sciml.calculus import jet
from sciml.domain import Domain, gauss_nodes
from sciml.objective import Batch, Block, Residuals
from sciml.problem import PDE, Coefficients, Elliptic, Evolution
from sciml.solvers.integral import Members

Gap = Callable[[Any, Block], Tensor]

__all__ = ["EnergyRisk", "Gap", "Risk", "balanced", "mean_weights", "repeated", "volume_rule"]


class Risk(Residuals):
    """Weighted squares of what should vanish, for all members of a family.

    Args:
        gaps: name -> function of the network and a block of points, ``(n, K)`` for K members.
        weights: name -> factor of the term.
    """

    def __init__(self, gaps: Mapping[str, Gap], weights: Mapping[str, float]) -> None:
        self.gaps, self.weights = gaps, weights

    def vectors(self, field: Any, batch: Batch) -> dict[str, Tensor]:
        """Weighted gaps by term, member by member."""
        vectors = {}
        for name, block in batch.blocks.items():
            gap = self.gaps[name](field, block)
            scale = (self.weights[name] / gap.shape[1] * block.weight).sqrt()
            vectors[name] = (scale[:, None] * gap).T.reshape(-1)
        return vectors


def balanced(risk: Risk, network: nn.Module, batch: Batch, generator: torch.Generator, probes: int = 8) -> Risk:
    """The risk with weights under which all terms pull equally at the parameters, as they are now.

    The weight of another term than the interior is multiplied by tr(J^T J) of the interior over its own, J the Jacobian
    of the weighted gaps: the balance of the traces of the neural tangent kernel (Wang, Yu and Perdikaris,
    arXiv:2007.14527), here by Hutchinson's estimate. Where there is no interior, weights stay.
    """
    parameters = [p for p in network.parameters() if p.requires_grad]
    traces = {}
    for name, vector in risk.vectors(network, batch).items():
        traces[name] = 0.0
        for _ in range(probes):
            signs = 2 * torch.randint(2, vector.shape, generator=generator).to(vector) - 1
            pulled = torch.autograd.grad(signs @ vector, parameters, retain_graph=True, allow_unused=True)
            traces[name] += sum(float(g.square().sum()) for g in pulled if g is not None)
    whole = traces.get("interior")
    if not whole:
        return risk
    return Risk(risk.gaps, {k: w * whole / traces.get(k, whole) for k, w in risk.weights.items()})


class EnergyRisk:
    """The mean energy of all members, and weighted squares of what else should vanish.

    Its blocks are those of the squares and "interior", which is given the members' sources ``(n, K)`` and the problem's
    coefficients, with weights of an integral.

    Args:
        problem: a linear elliptic one.
        sizes: of the members' sources, ``(K,)`` or ``(1,)``: energies are quadratic, and members count alike.
        squares: the other terms.
        weight: factor of the energy.

    Raises:
        ValueError: if the problem has no quadratic energy that is bounded below.
    """

    def __init__(self, problem: Elliptic | PDE | Evolution, sizes: Tensor, squares: Risk, weight: float = 1.0) -> None:
        if not (isinstance(problem, Elliptic) and problem.linear):
            kind = type(problem).__name__ if not isinstance(problem, Elliptic) else f"Elliptic with p = {problem.p:g}"
            raise ValueError(
                f"energy=True needs a linear Elliptic problem, which has one, but the problem is of {kind}"
            )
        lowest = float(problem.reaction(problem.domain.interior(1024, sobol=True)).min())
        if lowest < 0:
            raise ValueError(
                f"reaction is {lowest:.3g} somewhere, but the energy needs reaction >= 0; use energy=False"
            )
        self.problem, self.sizes, self.squares, self.weight = problem, sizes, squares, weight

    def _inside(self, field: Any, block: Block) -> tuple[Any, Any, Tensor]:
        """Jet and coefficients at points repeated for every member, and the factor of each of these rows."""
        many = block.given[0].shape[1]
        members = Members(field, many)
        x = members.repeat(block.x)
        own = repeated(block)._replace(source=block.given[0].reshape(-1))
        factor = self.weight / many * block.weight[:, None] / self.sizes.to(x).expand(many).square()
        return jet(members, x, 1), own, factor.reshape(-1)

    def terms(self, field: Any, batch: Batch) -> dict[str, Tensor]:
        """The energy and named squared norms."""
        block, rest = _split(batch)
        energy = {}
        if block is not None:
            u, own, factor = self._inside(field, block)
            energy["energy"] = (factor * self.problem.energy(u, own)).sum()
        return energy | self.squares.terms(field, rest)

    def metric_vector(self, field: Any, batch: Batch) -> Tensor:
        """M, for which J_m^T J_m is the second variation of the risk."""
        block, rest = _split(batch)
        parts = [2**0.5 * v for v in self.squares.vectors(field, rest).values()]
        if block is not None:
            u, own, factor = self._inside(field, block)
            parts.append(((factor * own.diffusion).sqrt()[:, None] * u.gradient).reshape(-1))
            if self.problem.has_reaction:
                parts.append((factor * own.reaction).sqrt() * u.value)
        return torch.cat(parts)


def repeated(block: Block) -> Coefficients:
    """The coefficients ``(n K,)`` of a block that was given sources ``(n, K)`` and them."""
    sources, source, diffusion, gradient, reaction = block.given
    many = sources.shape[1]
    source, diffusion, reaction = (a.repeat_interleave(many, 0) for a in (source, diffusion, reaction))
    return Coefficients(source, diffusion, None if gradient is None else gradient.repeat_interleave(many, 0), reaction)


def _split(batch: Batch) -> tuple[Block | None, Batch]:
    rest = {name: block for name, block in batch.blocks.items() if name != "interior"}
    return batch.blocks.get("interior"), replace(batch, blocks=rest)


def mean_weights(x: Tensor) -> Tensor:
    """Weights ``(n,)`` of a mean over points."""
    return torch.full((len(x),), 1 / len(x), dtype=x.dtype)


def volume_rule(domain: Domain, points: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """About so many points ``(n, d)`` and weights ``(n,)`` of an integral: shifted Gauss nodes, else Sobol points."""
    rule = gauss_nodes(domain, points, generator)
    if rule is not None:
        return rule
    x = domain.interior(points, generator, sobol=True)
    return x, domain.volume * mean_weights(x)
