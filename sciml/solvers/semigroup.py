"""A nonlinear Green's operator of short times, composed: u(t + s) = S_s u(t), for families of initial values.

    u(t + s, x) = u(t, x) + s F(s, u(t, x), c(x)),      c_j(x) = int_{-r}^{r} G_j(y) u(t, x + y) dy,      0 <= s <= tau

The ansatz u = F(int G g) of MOD-Net (arXiv:2107.03673), for an evolution u_t = rate(u) that is the same at all times:
its solution operator is a semigroup, so the operator of one short time is enough, and that one is local. What the
networks G and F must learn is then a function of one neighbourhood instead of all initial values at all times; where
the equation does not change with x, neither do they. Trained on labels of a coarse grid, on the equation, or on both:
the risk is of all states that members pass through.

u vanishes at both ends and is continued beyond them as an odd function. If the equation is invariant under
(x, u) -> (-x, -u), as Burgers' equation is, so is F, and the ends are met exactly.
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
from sciml.domain import Box, domain_from
from sciml.networks import Dense
from sciml.objective import Batch, Block
from sciml.problem import Evolution
from sciml.solvers.differences import FiniteDifference
from sciml.solvers.locality import influence, symmetries
from sciml.solvers.members import (
    Applied,
    Data,
    Family,
    Function,
    check_counts,
    check_trainable,
    constant_boundary,
    refuse_outside,
    values_of,
)
from sciml.solvers.risk import Risk, mean_weights
from sciml.solvers.shorttime import ORDER, Row, ShortTime, Strip
from sciml.training import Adam, Stage, fit

__all__ = ["Semigroup", "SemigroupField", "SemigroupKernel"]

_SUB = 8  # times per step at which labels are kept


@dataclass(frozen=True)
class Semigroup:
    """Options of the operator of short times.

    Attributes:
        widths: hidden widths of G.
        head: hidden widths of F.
        channels: outputs of G.
        activation: of both.
        parts: steps tau that the time of the problem is divided into.
        reach: r, as a share of the interval; None measures how far states have `influence` within tau.
        cells: of the grid on which states are kept.
        members: drawn for the training.
        labels: of them solved on a grid.
        coarse: cells of that grid; None takes `cells`.
        scheme: solves a member for its labels; None takes `FiniteDifference`.
        model: weight of the equation; 0 trains on labels only.
        label: weight of the labels.
        rounds: trainings, each on the states that the one before leads through; 1 knows those of labels alone.
        points: of each term per batch.
        stages: of each round; None is Adam.
        dtype: precision of the training.
    """

    widths: Sequence[int] = (32, 32)
    head: Sequence[int] = (64, 64, 64)
    channels: int = 24
    activation: Activation = tanh
    parts: int = 16
    reach: float | None = None
    cells: int = 256
    members: int = 100
    labels: int = 100
    coarse: int | None = None
    scheme: Callable[[Any], Callable[[Tensor], Tensor]] | None = None
    model: float = 0.0
    label: float = 1.0
    rounds: int = 1
    points: int = 1024
    stages: Sequence[Stage] | None = None
    dtype: torch.dtype = torch.float32

    def __post_init__(self) -> None:
        """Check the numbers."""
        check_counts(self, channels=1, parts=1, cells=8, members=1, labels=0, rounds=1, points=1)
        if self.reach is not None and not 0 < self.reach <= 0.5:
            raise ValueError(f"reach is {self.reach!r}, but must lie in (0, 0.5], a share of the interval, or be None")
        check_trainable(self.model, self.labels, self.members)

    def learn(
        self,
        family: Family,
        seed: int = 0,
        callbacks: Sequence[Callable[[Any], Any]] = (),
        checkpoint: str | Path | None = None,
    ) -> tuple[SemigroupKernel, str, Any]:
        """Train on the family's equation and labels.

        Raises:
            ValueError: if the family is not one of initial values on an interval, with zero at the ends, or the
                equation changes with time.
        """
        generator = torch.Generator().manual_seed(seed)
        drawn = family.draw(self.members, generator)
        kernel = SemigroupKernel.build(self, family, drawn, generator)
        training = _Training(self, family, kernel, drawn)
        stages = [Adam(3000, lr=2e-3)] if self.stages is None else self.stages
        network = kernel.network.to(self.dtype)
        for number in range(self.rounds):
            if number:
                training.follow(kernel)
            kept = None if checkpoint is None else Path(checkpoint).with_suffix(f".{number}.h5")
            history = fit(network, training.risk, training, stages, callbacks, kept, seed + number)
        network.to(torch.float64)
        return kernel, history.status, history


class _Training:
    """Risk and batches of a family: rows of (state, time since it, place)."""

    def __init__(
        self, options: Semigroup, family: Family, kernel: SemigroupKernel, drawn: Mapping[str, Function]
    ) -> None:
        self.options, self.kernel, self.drawn = options, kernel, drawn
        strip = kernel.strip
        self.initial = values_of("initial", drawn["initial"], strip.nodes[:, None]).T
        kernel.network.size = float(self.initial.square().mean().sqrt())
        self.labels = self._labels(family) if options.labels else None
        states = [self.initial[:, None]]
        if self.labels is not None:
            states.append(self.labels.reshape(1, -1, self.labels.shape[-1]).movedim(0, 1))
        self.states = strip.extended(torch.cat([a.reshape(-1, a.shape[-1]) for a in states]))
        self.targets = None if self.labels is None else strip.extended(self.labels)
        size, tau = kernel.network.size, kernel.network.tau

        def equation(field: Any, block: Block) -> Tensor:
            row = Row(field, block.given, strip)
            (found,) = family.problem.pde().residual(row, block.x)  # type: ignore[union-attr]
            return (found * (tau / size))[:, None]

        def label(field: Any, block: Block) -> Tensor:
            *windows, target = block.given
            return (Row(field, windows, strip)(block.x) - target)[:, None] / size

        self.risk = Risk({"interior": equation, "label": label}, {"interior": options.model, "label": options.label})

    def _labels(self, family: Family) -> Tensor:
        """Members ``(labels, times, nodes)`` on the grid of states, as a coarser one gives them."""
        options, strip = self.options, self.kernel.strip
        begin, end = family.problem.time  # type: ignore[union-attr]
        times = torch.linspace(begin, end, options.parts * _SUB + 1, dtype=torch.float64)
        points = torch.cartesian_prod(times, strip.nodes)
        scheme = options.scheme or (lambda p: FiniteDifference(options.coarse or options.cells).solve(p))
        columns = [scheme(family.member(self.drawn, k))(points) for k in range(options.labels)]
        return torch.stack([torch.as_tensor(c).reshape(len(times), -1) for c in columns])

    def follow(self, kernel: SemigroupKernel) -> None:
        """Add the states that the operator, as it is now, leads all members through."""
        with torch.no_grad():
            led = kernel.states(self.initial)
        led = self.kernel.strip.extended(led.double().reshape(-1, led.shape[-1]))
        known = self.states if self.targets is None else self.targets.reshape(-1, self.targets.shape[-1])
        self.states = torch.cat([known, led]) if self.targets is not None else led

    def __call__(self, generator: torch.Generator) -> Batch:
        """Fresh rows of every term."""
        options, strip, tau = self.options, self.kernel.strip, self.kernel.network.tau
        n, blocks = options.points, {}

        def uniform() -> Tensor:
            return torch.rand(n, generator=generator, dtype=torch.float64)

        if options.model:
            owner = torch.randint(len(self.states), (n,), generator=generator)
            x = torch.stack([tau * uniform(), strip.low + (strip.high - strip.low) * uniform()], 1)
            windows = strip.windows(self.states, owner, x[:, 1], 2)
            blocks["interior"] = Block(x, mean_weights(x), given=tuple(windows))
        if self.targets is not None:
            many, times, wide = self.targets.shape
            k = torch.randint(many, (n,), generator=generator)
            ahead = torch.randint(1, _SUB + 1, (n,), generator=generator)
            begin = torch.randint(times - _SUB, (n,), generator=generator)
            node = torch.randint(strip.cells + 1, (n,), generator=generator)
            span = torch.arange(2 * strip.reach + 1)
            margin = strip.reach + ORDER // 2
            window = self.targets[k[:, None], begin[:, None], node[:, None] + ORDER // 2 + span]
            x = torch.stack([tau * ahead / _SUB, strip.nodes[node]], 1)
            blocks["label"] = Block(x, mean_weights(x), given=(window, self.targets[k, begin + ahead, node + margin]))
        return Batch(blocks)


class SemigroupKernel:
    """The operator of short times with the grid of its states; made by `Semigroup`.

    Attributes:
        domain: in time and space.
        network: the operator of times up to tau.
        strip: the grid.
        parts: how often it is applied.
    """

    def __init__(self, domain: Box, network: ShortTime, cells: int, parts: int) -> None:
        self.domain, self.network, self.parts = domain, network, parts
        low, high = (float(b[1]) for b in domain.bounds)
        self.strip = Strip(low, high, cells, network.reach)

    @classmethod
    def build(
        cls, options: Semigroup, family: Family, drawn: Mapping[str, Function], generator: torch.Generator
    ) -> SemigroupKernel:
        """An untrained one.

        Raises:
            ValueError: as `Semigroup.learn`.
        """
        problem = family.problem
        if not (isinstance(problem, Evolution) and isinstance(problem.space, Box) and problem.space.dim == 1):
            kind = type(problem).__name__
            raise ValueError(f"problem is of the kind {kind}, but Semigroup needs an Evolution on an interval")
        if constant_boundary(problem) != 0.0:
            raise ValueError("conditions must be the Dirichlet value 0 at both ends for Semigroup")
        steady, even, odd = symmetries(problem)
        if not steady:
            raise ValueError("rate changes with time, but Semigroup needs an equation that is the same at all times")
        odd = odd and even
        kernel = Dense(
            1, options.widths, options.channels, options.activation, generator=generator, box=([-1.0], [1.0])
        )
        inputs = 2 + options.channels + (not odd)
        head = Dense(inputs, options.head, 1, options.activation, generator=generator)
        tau = (problem.time[1] - problem.time[0]) / options.parts
        share = options.reach or influence(problem, drawn["initial"], tau)
        reach = max(1, round(share * options.cells))
        assert isinstance(problem.domain, Box)
        return cls(problem.domain, ShortTime(kernel, head, tau, reach, 1.0, odd), options.cells, options.parts)

    def states(self, initial: Tensor) -> Tensor:
        """From values ``(K, nodes)`` at the start to those ``(K, parts + 1, nodes)`` at all multiples of tau."""
        strip, found = self.strip, [initial]
        like = next(self.network.parameters())
        place = torch.linspace(-1, 1, strip.cells + 1, dtype=torch.float64).repeat(len(initial)).to(like)
        margin = ORDER // 2
        for _ in range(self.parts):
            wide = strip.extended(found[-1])[:, margin:-margin]
            window = wide.unfold(1, 2 * strip.reach + 1, 1).reshape(len(place), -1).to(like)
            state = self.network([window], torch.full_like(place, self.network.tau), place)
            state = state.reshape(len(initial), -1).to(initial)
            state[:, [0, -1]] = 0.0  # in single precision the ends are met to its rounding
            found.append(state)
        return torch.stack(found, 1)

    def __call__(self, x: Tensor, y: Tensor) -> Tensor:
        """There is no single kernel.

        Raises:
            ValueError: always.
        """
        raise ValueError("the operator is nonlinear, so it has no single kernel G(x, y)")

    def apply(self, source: Data, boundary: Data) -> Applied:
        """The solution from initial values.

        Raises:
            ValueError: for other boundary values than 0.
        """
        if boundary != 0.0:
            raise ValueError(f"boundary is {boundary!r}, but this operator was trained for the value 0")
        initial = values_of("initial", source, self.strip.nodes[:, None]).T
        with torch.no_grad():
            states = self.states(initial)
        field = SemigroupField(self, states, single=len(states) == 1)
        return Applied(field, None, f"{self.parts} steps of a trained operator")

    def describe(self) -> dict[str, Any]:
        """All but the arrays."""
        n = self.network
        return {
            "domain": self.domain.describe(),
            "cells": self.strip.cells,
            "parts": self.parts,
            "kernel": n.kernel.describe(),
            "head": n.head.describe(),
            "short": [n.tau, n.reach, n.size, n.odd],
        }

    def arrays(self) -> dict[str, np.ndarray]:
        """Parameters."""
        return {k: v.detach().cpu().numpy() for k, v in self.network.state_dict().items()}

    @classmethod
    def restore(cls, description: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> SemigroupKernel:
        """From `describe` and `arrays`."""

        def dense(name: str) -> Dense:
            own = {k.removeprefix(f"{name}."): v for k, v in arrays.items() if k.startswith(f"{name}.")}
            return Dense.restore(description[name], own)

        network = ShortTime(dense("kernel"), dense("head"), *description["short"])
        domain = domain_from(description["domain"])
        assert isinstance(domain, Box)
        return cls(domain, network, description["cells"], description["parts"])


class SemigroupField:
    """What a semigroup makes of initial values, on points (t, x).

    Args:
        kernel: the operator.
        states: ``(K, parts + 1, nodes)``.
        single: whether values are ``(n,)`` rather than ``(n, K)``.
    """

    def __init__(self, kernel: SemigroupKernel, states: Tensor, single: bool) -> None:
        self.kernel, self.states, self.single = kernel, states, single
        self.dim = 2

    def __call__(self, x: Tensor) -> Tensor:
        """Values ``(n,)`` or ``(n, K)``.

        Raises:
            ValueError: for points outside the domain.
        """
        refuse_outside(self.kernel.domain, x)
        kernel, strip = self.kernel, self.kernel.strip
        begin = float(kernel.domain.bounds[0][0])
        tau, many = kernel.network.tau, len(self.states)
        since = x[:, 0].double() - begin
        part = (since / tau).floor().long().clamp(0, kernel.parts - 1)
        states = strip.extended(self.states).reshape(-1, self.states.shape[-1] + 2 * (strip.reach + ORDER // 2))
        owner = (part[:, None] + torch.arange(many) * self.states.shape[1]).reshape(-1)
        place = x[:, 1].double().repeat_interleave(many)
        s = (since - part * tau).repeat_interleave(many)
        unit = 2 * (place - strip.low) / (strip.high - strip.low) - 1
        with torch.no_grad():
            rows = [
                kernel.network(strip.windows(states, o, p), t, u)
                for o, p, t, u in zip(*(a.split(2**15) for a in (owner, place, s, unit)), strict=True)
            ]
        values = torch.cat(rows).reshape(-1, many).to(x)
        return values[:, 0] if self.single else values

    def describe(self) -> dict[str, Any]:
        """The operator, and whether there is one function."""
        return {"kernel": self.kernel.describe(), "single": self.single}

    def arrays(self) -> dict[str, np.ndarray]:
        """Parameters and states."""
        return self.kernel.arrays() | {"states": self.states.numpy()}

    @classmethod
    def restore(
        cls, description: Mapping[str, Any], arrays: Mapping[str, np.ndarray], problem: Any = None
    ) -> SemigroupField:
        """From `describe` and `arrays`."""
        own = {k: v for k, v in arrays.items() if k != "states"}
        kernel = SemigroupKernel.restore(description["kernel"], own)
        return cls(kernel, torch.as_tensor(np.asarray(arrays["states"])), description["single"])
