"""Kernels trained on the equation, with a few coarse labels: MOD-Net itself (arXiv:2107.03673).

    risk = model |L u_k - f_k|^2 + penalty |u_k - g_k|^2 on the boundary + label |u_k - U_k|^2

averaged over the members k of a family, u_k the integral of their data against the kernel (`integral`) and U_k the
solution of the first few members by a conventional scheme on a coarse grid; or with the energy of u_k in place of the
first term (`risk`). The equation may be nonlinear if the integral goes through a second network; then
u = F(x, int G g), and initial values are data like sources.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sciml.activations import Activation, tanh
from sciml.calculus import Taylor
from sciml.domain import Box, Domain
from sciml.networks import Dense
from sciml.objective import Batch, Block, Objective
from sciml.problem import Elliptic, Evolution
from sciml.solvers.differences import FiniteDifference
from sciml.solvers.integral import IntegralNetwork, Interpolant, Kernel, Members
from sciml.solvers.members import (
    Applied,
    Data,
    Family,
    Function,
    boundary_of,
    check_counts,
    check_trainable,
    constant_boundary,
    values_of,
)
from sciml.solvers.quadrature import boundary_rule, domain_rule, gauss
from sciml.solvers.risk import EnergyRisk, Risk, balanced, mean_weights, repeated, volume_rule
from sciml.training import Adam, Stage, fit

__all__ = ["Trained", "TrainedKernel"]


@dataclass(frozen=True)
class Trained:
    """Options of a trained kernel.

    Attributes:
        widths: hidden widths of the kernel's network.
        activation: of all networks.
        symmetric: G(x, y) = G(y, x).
        head: hidden widths of F in u = F(x, int G g); None is the linear ansatz u = int G g.
        channels: outputs of G, if there is an F.
        nodes: quadrature nodes per coordinate.
        members: drawn for the training.
        labels: of them solved on the coarse grid.
        scheme: solves a member for its labels; None takes `FiniteDifference` on `cells` cells.
        cells: of the coarse grid.
        model: weight of the equation; 0 trains on labels only.
        penalty: weight of the boundary values, where they are not built in.
        label: weight of the labels.
        balance: multiply the weights of labels and boundary so that all terms pull equally at the first parameters.
        energy: minimise the energy of a linear elliptic problem instead of its squared residual: the variational form.
        hard: build in a constant boundary value where the domain has a smooth factor.
        points: collocation points per batch.
        stages: of the training; None is Adam.
        dtype: precision.
    """

    widths: Sequence[int] = (64, 64, 64)
    activation: Activation = tanh
    symmetric: bool = False
    head: Sequence[int] | None = None
    channels: int = 16
    nodes: int = 12
    members: int = 100
    labels: int = 0
    scheme: Callable[[Any], Callable[[Tensor], Tensor]] | None = None
    cells: int = 32
    model: float = 1.0
    penalty: float = 100.0
    label: float = 1.0
    balance: bool = False
    energy: bool = False
    hard: bool = True
    points: int = 64
    stages: Sequence[Stage] | None = None
    dtype: torch.dtype = torch.float64

    def __post_init__(self) -> None:
        """Check the numbers."""
        check_counts(self, nodes=2, members=1, labels=0, cells=4, points=1, channels=1)
        check_trainable(self.model, self.labels, self.members)

    @property
    def linear(self) -> bool:
        """Whether u is linear in the data."""
        return self.head is None

    def learn(
        self,
        family: Family,
        seed: int = 0,
        callbacks: Sequence[Callable[[Any], Any]] = (),
        checkpoint: str | Path | None = None,
    ) -> tuple[TrainedKernel, str, Any]:
        """Train on the family's equation and labels.

        Raises:
            ValueError: if nothing in the family varies, or initial values cannot be built in.
        """
        generator = torch.Generator().manual_seed(seed)
        drawn = family.draw(self.members, generator)
        kernel = TrainedKernel.build(self, family, generator)
        network = kernel.network
        network.to(self.dtype).with_data(kernel.read(drawn))
        training = _Training(self, family, kernel, drawn)
        stages = [Adam(3000, lr=2e-3)] if self.stages is None else self.stages
        history = fit(network, training.risk, training, stages, callbacks, checkpoint, seed)
        network.to(torch.float64)
        return kernel, history.status, history


class _Training:
    """Risk and batches of a family."""

    def __init__(self, options: Trained, family: Family, kernel: TrainedKernel, drawn: Mapping[str, Function]) -> None:
        self.options, self.problem, self.drawn = options, family.problem, drawn
        self.hard = kernel.network.hard
        self.labels = self._labels(family) if options.labels else None
        self.label_size = None if self.labels is None else self.labels[1].square().mean(0).sqrt()
        x = self.problem.domain.interior(512, sobol=True)
        # members count alike however large they are
        self.size = self._source(x).square().mean(0).sqrt().clamp_min(1e-12) if "source" in drawn else x.new_ones(1)

        def equation(field: Any, block: Block) -> Tensor:
            return self._residual(field, block) / self.size.to(block.x)

        def boundary(field: Any, block: Block) -> Tensor:
            return field.taylor(Taylor(block.x)).value - block.given[0]

        def label(field: Any, block: Block) -> Tensor:
            assert self.label_size is not None
            gap = field.taylor(Taylor(block.x)).value[:, : options.labels] - block.given[0]
            return gap / self.label_size.to(gap)

        squares = Risk(
            {"interior": equation, "boundary": boundary, "label": label},
            {"interior": options.model, "boundary": options.penalty, "label": options.label},
        )
        if options.balance and not options.energy:
            generator = torch.Generator().manual_seed(0)
            squares = balanced(squares, kernel.network, self(generator).to("cpu", options.dtype), generator)
        self.risk: Objective = squares
        if options.energy:
            self.risk = EnergyRisk(self.problem, self.size, squares, options.model)

    def _source(self, x: Tensor) -> Tensor:
        own = self.problem.source if isinstance(self.problem, Elliptic) else 0.0
        return values_of("source", self.drawn.get("source", own), x)

    def _residual(self, field: Any, block: Block) -> Tensor:
        many, problem = self.options.members, self.problem
        members = Members(field, many)
        x = members.repeat(block.x)
        if isinstance(problem, Elliptic):
            own = repeated(block)
            found = problem.residual(problem.jet(members, x), own) + own.source
        else:
            (found,) = (problem.pde() if isinstance(problem, Evolution) else problem).residual(members, x)
        return found.reshape(-1, many) - block.given[0]

    def _labels(self, family: Family) -> tuple[Tensor, Tensor]:
        """Points of the coarse grid inside the domain and the labels ``(n, labels)`` there."""
        options, domain = self.options, self.problem.domain
        axes = [
            torch.linspace(float(a), float(b), options.cells + 1, dtype=torch.float64)
            for a, b in zip(*domain.bounds, strict=True)
        ]
        x = torch.stack(torch.meshgrid(*axes, indexing="ij"), -1).reshape(-1, domain.dim)
        x = x[domain.contains(x)]
        scheme = options.scheme or (lambda problem: FiniteDifference(options.cells).solve(problem))
        columns = [scheme(family.member(self.drawn, k))(x) for k in range(options.labels)]
        return x, torch.stack([torch.as_tensor(c) for c in columns], 1)

    def __call__(self, generator: torch.Generator) -> Batch:
        """Fresh points of every term."""
        options, domain = self.options, self.problem.domain
        blocks = {}
        if options.model:
            if options.energy:
                x, weights = volume_rule(domain, options.points, generator)
            else:
                x = domain.interior(options.points, generator, sobol=True)
                weights = mean_weights(x)
            problem = self.problem
            # evaluated here, once: they are functions of a user's
            own = problem.coefficients(x, gradient=not options.energy) if isinstance(problem, Elliptic) else ()
            blocks["interior"] = Block(x, weights, given=(self._source(x).expand(-1, options.members), *own))
        if not self.hard:
            x = domain.boundary(options.points, generator)[0]
            g = values_of("boundary", self.drawn.get("boundary", boundary_of(self.problem)), x)
            blocks["boundary"] = Block(x, mean_weights(x), given=(g.expand(-1, options.members),))
        if self.labels is not None:
            chosen = torch.randint(len(self.labels[0]), (options.points,), generator=generator)
            x = self.labels[0][chosen]
            blocks["label"] = Block(x, mean_weights(x), given=(self.labels[1][chosen],))
        return Batch(blocks)


class TrainedKernel:
    """A kernel, or several, with the quadrature that applies them; made by `Trained`.

    Attributes:
        kinds: of data that it takes, in order: "source", "boundary" or "initial".
        network: with the data of the training or the last call.
    """

    def __init__(self, kinds: Sequence[str], network: IntegralNetwork) -> None:
        self.kinds, self.network, self.domain = tuple(kinds), network, network.domain

    @classmethod
    def build(cls, options: Trained, family: Family, generator: torch.Generator) -> TrainedKernel:
        """An untrained kernel for what varies in a family.

        Raises:
            ValueError: if nothing varies, or initial values cannot be built in.
        """
        problem, kinds = family.problem, tuple(family.varied)
        if not kinds:
            raise ValueError("the family has no sampler, but a trained kernel needs sources, boundaries or initials")
        constant = constant_boundary(problem)
        lift, domain = None, problem.domain
        hard = options.hard and constant is not None and "boundary" not in kinds and _has_factor(domain)
        if isinstance(problem, Evolution):
            if not (isinstance(problem.space, Box) and problem.space.dim == 1 and constant == 0.0):
                raise ValueError("initials need an Evolution on an interval with the Dirichlet value 0 at both ends")
            low, high = (float(b) for b in problem.space.bounds)
            lift, hard = Interpolant(low, high, options.nodes), True
        kernels = []
        for kind in kinds:
            nodes, weights = _rule(kind, problem, options.nodes)
            lower, upper = (
                [*a.tolist(), *b.tolist()] for a, b in zip(domain.bounds, _bounds(kind, problem), strict=True)
            )
            network = Dense(
                len(lower),
                options.widths,
                options.channels if options.head else 1,
                options.activation,
                generator=generator,
                box=(lower, upper),
                normalise=True,
            )
            if options.symmetric and hard:
                weights = weights * domain.factor(nodes)
            kernels.append(Kernel(network, nodes, weights, options.symmetric))
        head = None
        if options.head:
            inputs = domain.dim + options.channels + (lift is not None)
            head = Dense(inputs, options.head, 1, options.activation, generator=generator)
        empty = [k.nodes.new_zeros(len(k.nodes), 1) for k in kernels]
        return cls(kinds, IntegralNetwork(domain, kernels, empty, head, hard, constant or 0.0, lift))

    def read(self, data: Mapping[str, Data]) -> list[Tensor]:
        """Values ``(m, K)`` of data at the nodes of each kernel."""
        kernels = [k for k in self.network.kernels if isinstance(k, Kernel)]
        return [values_of(kind, data[kind], k.nodes.double()) for kind, k in zip(self.kinds, kernels, strict=True)]

    def __call__(self, x: Tensor, y: Tensor) -> Tensor:
        """G ``(n, m)`` at x ``(n, d)`` of unit data of the first kind at y ``(m, e)``."""
        kernel, network = self.network.kernels[0], self.network
        assert isinstance(kernel, Kernel)
        if network.head is not None:
            raise ValueError("the operator is nonlinear, so it has no single kernel G(x, y)")
        with torch.no_grad():
            values = kernel.pairs(Taylor(x), y).value.reshape(len(x), len(y))
        if network.hard:
            values = values * network.domain.factor(x)[:, None]
            values = values * network.domain.factor(y) if kernel.symmetric else values
        return values

    def apply(self, source: Data, boundary: Data) -> Applied:
        """The solution for a source (initial values, for an evolution) and Dirichlet data.

        Raises:
            ValueError: for data that the operator was not trained to take.
        """
        given = {"source": source, "initial": source, "boundary": boundary}
        if self.kinds == ("boundary",) and source != 0:
            raise ValueError(
                "source was not varied in the training of this operator, which takes boundary data; give 0"
            )
        if "boundary" not in self.kinds and boundary != self.network.boundary:
            raise ValueError(
                f"boundary was not varied in the training of this operator, whose value is {self.network.boundary:g}"
            )
        data = self.read(given)
        many = max(d.shape[1] for d in data)
        if not {d.shape[1] for d in data} <= {1, many}:
            raise ValueError(f"boundary gives {data[1].shape[1]} functions, but source gives {data[0].shape[1]}")
        field = self.network.twin([d.expand(-1, many) for d in data], single=many == 1)
        return Applied(field, None, "the integral of the data against a trained kernel")

    def describe(self) -> dict[str, Any]:
        """Kinds of data and the network."""
        return {"kinds": list(self.kinds), "network": self.network.describe()}

    def arrays(self) -> dict[str, np.ndarray]:
        """Those of the network."""
        return self.network.arrays()

    @classmethod
    def restore(cls, description: dict[str, Any], arrays: dict[str, np.ndarray]) -> TrainedKernel:
        """From `describe` and `arrays`."""
        return cls(description["kinds"], IntegralNetwork.restore(description["network"], arrays))


def _has_factor(domain: Domain) -> bool:
    try:
        domain.factor(torch.stack(list(domain.bounds)).mean(0, keepdim=True))
    except ValueError:
        return False
    return True


def _bounds(kind: str, problem: Any) -> tuple[Tensor, Tensor]:
    return problem.space.bounds if kind == "initial" else problem.domain.bounds


def _rule(kind: str, problem: Any, count: int) -> tuple[Tensor, Tensor]:
    """Where data are read and with which weights."""
    if kind == "initial":
        low, high = (float(b) for b in problem.space.bounds)
        nodes, weights = gauss(low, high, count)
        return nodes[:, None], weights
    return boundary_rule(problem.domain, count) if kind == "boundary" else domain_rule(problem.domain, count)
