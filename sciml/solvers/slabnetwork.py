"""A plain kernel for radiative transfer in a slab, trained as in MOD-Net (arXiv:2107.03673).

    f(x, v) = inflow e + (1 - e) S(x, v),        S = int_0^1 G_left(x, v; v') phi_left(v') dv' + the same of the right

with e = exp(-sigma d / |v|), d the distance to the wall where the ray entered. What has never collided is exact, as in
`transport`. The collided rest h = (1 - e) S jumps at the walls where v changes sign and is steep beside them; S, the
mean over the ray of what is scattered into it, does not. So the factor is built in, h = 0 holds where rays enter, and
the networks G_left and G_right make S, trained on

    S + (1 - e) v S_x / sigma - s/(2 sigma) int h dv = s rho_0 / sigma,        h = coarse discrete ordinates

for a family of inflows, rho_0 the density of the exact part. `SlabSolver` learns its kernel for the same equation by
one factorisation, in less time and to more digits; this one is for the comparison of equation, labels and both.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sciml.calculus import Taylor
from sciml.domain import Box
from sciml.networks import Dense
from sciml.objective import Batch, Block
from sciml.solution import Solution
from sciml.solvers.integral import IntegralNetwork, Kernel
from sciml.solvers.ordinates import DiscreteOrdinates, Inflow, Slab
from sciml.solvers.quadrature import gauss
from sciml.solvers.risk import Gap, Risk, balanced, mean_weights
from sciml.solvers.transport import moment
from sciml.training import Adam, Stage, fit

Pair = tuple[Inflow, Inflow]

__all__ = ["SlabNetwork", "TrainedSlab"]

_PLACES = 256  # x at which the equation is asked for; each batch takes some of them


@dataclass(frozen=True)
class SlabNetwork:
    """Options of the trained kernel.

    Attributes:
        widths: hidden widths of both G.
        directions: Gauss nodes in each half of [-1, 1], for both integrals.
        labels: members with labels, the first ones.
        scheme: makes the labels.
        model: weight of the equation; 0 trains on labels only.
        label: weight of the labels.
        balance: multiply it so that both terms pull equally at the first parameters.
        points: places x per batch, each with all directions; as many labels.
        stages: of the training, first-order ones.
    """

    widths: Sequence[int] = (32, 32)
    directions: int = 6
    labels: int = 0
    scheme: DiscreteOrdinates = DiscreteOrdinates(cells=32, directions=8)
    model: float = 1.0
    label: float = 10.0
    balance: bool = False
    points: int = 8
    stages: Sequence[Stage] = (Adam(2000, lr=3e-3),)

    def solve(self, slab: Slab, members: Sequence[Pair], seed: int = 0) -> TrainedSlab:
        """Train on a family of inflows.

        Args:
            slab: the equation.
            members: (left, right) as `SlabOperator` takes them.
            seed: of all draws.

        Raises:
            ValueError: if more members shall have labels than there are.
        """
        if not 0 <= self.labels <= len(members) or (not self.model and not self.labels):
            raise ValueError(
                f"labels is {self.labels} with model = {self.model:g}, but must lie between 0 and {len(members)}, the "
                "number of members, and not be 0 without the equation"
            )
        generator = torch.Generator().manual_seed(seed)
        v, weights = gauss(0.0, 1.0, self.directions)
        box = ([0.0, -1.0, 0.0], [1.0, 1.0, 1.0])
        kernels = [
            Kernel(Dense(3, self.widths, generator=generator, box=box, normalise=True), v[:, None], weights)
            for _ in range(2)
        ]
        network = IntegralNetwork(Box([0, -1], [1, 1]), kernels, _read(members, v))
        training = _Training(self, slab, members)
        risk = training.risk
        if self.balance:
            risk = balanced(risk, network, training(generator), generator)
        history = fit(network, risk, training, self.stages, seed=seed)
        return TrainedSlab(slab, network, history.seconds, history.status)


class _Training:
    """Risk and batches of a family of inflows."""

    def __init__(self, options: SlabNetwork, slab: Slab, members: Sequence[Pair]) -> None:
        self.options, self.slab, self.members = options, slab, members
        self.v, self.weights = _directions(options.directions)
        rays = [options.scheme.solve(slab, *pair) for pair in members[: options.labels]]
        if rays:
            x, v = (torch.as_tensor(a) for a in np.meshgrid(rays[0].x, rays[0].v, indexing="ij"))
            self.at = torch.stack([x.reshape(-1), v.reshape(-1)], 1)
            self.collided = torch.stack([torch.as_tensor(r.f).reshape(-1) for r in rays], 1)
            self.collided = self.collided - uncollided(slab, members[: options.labels], self.at)
        if options.model:
            # half of the places even, half near the walls, where h is steep
            u = torch.arange(1, _PLACES // 2 + 1, dtype=torch.float64) / (_PLACES // 2 + 1)
            near = (u[::2] ** 2 * 3 / slab.total).clamp_max(1)
            self.x = torch.cat([u, near, 1 - near])
            self.rho = source(slab, members, self.x)
        gaps: dict[str, Gap] = {"interior": self.equation, "label": self.labelled}
        self.risk = Risk(gaps, {"interior": options.model, "label": options.label})

    def equation(self, field: Any, block: Block) -> Tensor:
        """S + (1 - e) v S_x / sigma - s / sigma (rho + rho_0); points are all directions at every x."""
        t = field.taylor(Taylor.seed(block.x, 1))
        collided = collided_share(self.slab, block.x)
        h = (collided * t.value).reshape(-1, len(self.v), t.value.shape[1])
        rho = 0.5 * torch.einsum("xvk,v->xk", h, self.weights.to(h)).repeat_interleave(len(self.v), 0)
        ratio = self.slab.scattering / self.slab.total
        swept = collided * block.x[:, 1:] * t.first[0] / self.slab.total
        return t.value + swept - ratio * (rho + block.given[0])

    def labelled(self, field: Any, block: Block) -> Tensor:
        """H minus its labels."""
        h = collided_share(self.slab, block.x) * field.taylor(Taylor(block.x)).value
        return h[:, : self.options.labels] - block.given[0]

    def __call__(self, generator: torch.Generator) -> Batch:
        """Fresh places x of every term."""
        options, blocks = self.options, {}
        if options.model:
            chosen = torch.randint(len(self.x), (options.points,), generator=generator)
            points = torch.cartesian_prod(self.x[chosen], self.v)
            rho = self.rho[chosen].repeat_interleave(len(self.v), 0)
            blocks["interior"] = Block(points, mean_weights(points), given=(rho,))
        if options.labels:
            chosen = torch.randint(len(self.at), (options.points * len(self.v),), generator=generator)
            at = self.at[chosen]
            blocks["label"] = Block(at, mean_weights(at), given=(self.collided[chosen],))
        return Batch(blocks)


@dataclass(frozen=True)
class TrainedSlab:
    """The operator from inflow to f."""

    slab: Slab
    network: IntegralNetwork
    seconds: float
    status: str

    def __call__(self, left: Inflow, right: Inflow) -> Solution:
        """Solve for an inflow, given as to `SlabOperator`."""
        kernel = self.network.kernels[0]
        assert isinstance(kernel, Kernel)
        pairs = [(left, right)]
        mean = self.network.twin(_read(pairs, kernel.nodes[:, 0]), single=True)

        def f(points: Tensor) -> Tensor:
            with torch.no_grad():
                h = collided_share(self.slab, points)[:, 0] * mean(points)
            return h + uncollided(self.slab, pairs, points)[:, 0]

        return Solution(f, dim=2, seconds=self.seconds, status=self.status)


def collided_share(slab: Slab, points: Tensor) -> Tensor:
    """1 - e ``(n, 1)`` at points (x, v)."""
    x, v = points[:, :1], points[:, 1:]
    return -torch.expm1(-slab.total * torch.where(v > 0, x, 1 - x) / v.abs().clamp_min(1e-14))


def uncollided(slab: Slab, members: Sequence[Pair], points: Tensor) -> Tensor:
    """The exact part ``(n, K)`` at points (x, v)."""
    fade = 1 - collided_share(slab, points)[:, 0].numpy()
    speed, up = points[:, 1].abs().numpy(), points[:, 1].numpy() > 0
    return torch.as_tensor(np.stack([np.where(up, left(speed), right(speed)) * fade for left, right in members], 1))


def source(slab: Slab, members: Sequence[Pair], x: Tensor) -> Tensor:
    """The density rho_0 of the exact part, ``(n, K)`` at places ``(n,)``."""
    depth = slab.total * x.numpy()
    columns = [0.5 * (moment("left", a, depth) + moment("right", b, slab.total - depth)) for a, b in members]
    return torch.as_tensor(np.stack(columns, 1))


def _directions(count: int) -> tuple[Tensor, Tensor]:
    """Gauss rules on both halves of [-1, 1]."""
    v, w = gauss(0.0, 1.0, count)
    return torch.cat([-v.flip(0), v]), torch.cat([w.flip(0), w])


def _read(members: Sequence[Pair], v: Tensor) -> list[Tensor]:
    """Inflow ``(m, K)`` at directions v > 0, from the left and from the right."""
    return [torch.as_tensor(np.stack([pair[side](v.numpy()) for pair in members], 1)) for side in (0, 1)]
