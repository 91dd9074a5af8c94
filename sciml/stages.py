"""Stages of training: frozen descriptions of optimisers, and the two classical ones.

A *stage* is frozen data with ``start(model)``, which returns a stepper: an object with ``step(work)``, a ``reason``
once it wants to stop, and its state as a tree of tensors. So a new optimiser is one small class: budgets, checkpoints,
divergence, callbacks and progress are those of `training.fit`. Those that know curvature are in `optimizers`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from sciml.objective import Batch, Objective

Schedule = Callable[[float], float]
Tree = Any  # nested dicts, lists and tuples of tensors and JSON values

__all__ = [
    "LBFGS",
    "Adam",
    "Schedule",
    "Stage",
    "Stepper",
    "Tree",
    "Work",
    "check_steps",
    "constant",
    "cosine",
    "exponential",
]


def constant(progress: float) -> float:
    """A learning rate that stays."""
    return 1.0


def cosine(progress: float) -> float:
    """A learning rate that falls to zero along half a cosine."""
    return 0.5 * (1 + math.cos(math.pi * progress))


def exponential(final: float) -> Schedule:
    """A learning rate that falls exponentially to `final` times its start."""
    return lambda progress: final**progress


@dataclass
class Work:
    """What a stepper may use: the model, the objective and the current batch."""

    model: nn.Module
    objective: Objective
    batch: Batch
    terms: dict[str, float] = field(default_factory=dict)

    def backward(self) -> Tensor:
        """Loss at the current parameters, with gradients in ``.grad``."""
        self.model.zero_grad(set_to_none=True)
        terms = self.objective.terms(self.model, self.batch)
        loss = torch.stack(list(terms.values())).sum()
        loss.backward()
        self.terms = {k: float(v.detach()) for k, v in terms.items()}
        return loss.detach()


class Stepper(Protocol):
    """One running optimiser; `reason` is why it ended, and an attribute `note`, if any, is said even if it did not."""

    reason: str

    def step(self, work: Work) -> None:
        """Move the parameters; leave the terms at the old parameters in ``work.terms``."""
        ...

    def state(self) -> Tree:
        """All that decides the next steps."""
        ...

    def load(self, state: Tree) -> None:
        """Restore `state`."""
        ...


class Stage(Protocol):
    """A frozen description of one part of the training.

    A stage that changes the network itself also has ``prepare(model)``, which does so in place and always in the same
    way: it is called once before ``start``, and again on the way to a checkpoint that was written after it.
    """

    @property
    def steps(self) -> int:
        """Number of calls of the stepper at most."""
        ...

    @property
    def resample(self) -> int | None:
        """Draw a new batch every so many steps; None keeps one batch for the stage."""
        ...

    def start(self, model: nn.Module) -> Stepper:
        """Begin on a model."""
        ...


def check_steps(stage: Any) -> None:
    """Refuse a stage without steps, or with an impossible `resample`."""
    if not (isinstance(stage.steps, int) and stage.steps >= 1):
        raise ValueError(f"{type(stage).__name__} steps is {stage.steps!r}, but must be a whole number >= 1")
    if stage.resample is not None and stage.resample < 1:
        raise ValueError(f"{type(stage).__name__} resample is {stage.resample!r}, but must be >= 1 or None")


@dataclass(frozen=True)
class Adam:
    """Adam on a fresh batch every `resample` steps.

    Attributes:
        steps: number of steps.
        lr: learning rate at the start.
        schedule: factor of the learning rate as a function of progress in [0, 1].
        betas: decay of the two moments.
        resample: draw a new batch every so many steps; None keeps one.
    """

    steps: int = 2000
    lr: float = 1e-3
    schedule: Schedule = cosine
    betas: tuple[float, float] = (0.9, 0.999)
    resample: int | None = 1

    def __post_init__(self) -> None:
        """Check the numbers."""
        check_steps(self)
        if not (self.lr > 0 and math.isfinite(self.lr)):
            raise ValueError(f"Adam lr is {self.lr}, but must be a positive number")

    def start(self, model: nn.Module) -> Stepper:
        """Begin on a model."""
        return _AdamStepper(self, model)


class _AdamStepper:
    def __init__(self, stage: Adam, model: nn.Module) -> None:
        self.stage, self.reason = stage, ""
        parameters = [p for p in model.parameters() if p.requires_grad]
        self.optimizer = torch.optim.Adam(parameters, lr=stage.lr, betas=stage.betas, fused=True)

    def step(self, work: Work) -> None:
        for group in self.optimizer.param_groups:
            group["lr"] = self.stage.lr * self.stage.schedule(work.batch.progress)
        work.backward()
        self.optimizer.step()

    def state(self) -> Tree:
        return self.optimizer.state_dict()

    def load(self, state: Tree) -> None:
        self.optimizer.load_state_dict(state)


@dataclass(frozen=True)
class LBFGS:
    """Limited-memory BFGS with a strong Wolfe line search on a fixed batch; says why it stopped.

    Attributes:
        steps: iterations at most.
        memory: curvature pairs kept.
        tolerance: stop when the largest gradient entry is below it.
        resample: draw a new batch (and forget the curvature) every so many steps; None keeps one.
    """

    steps: int = 500
    memory: int = 50
    tolerance: float = 1e-12
    resample: int | None = None

    def __post_init__(self) -> None:
        """Check the numbers."""
        check_steps(self)

    def start(self, model: nn.Module) -> Stepper:
        """Begin on a model."""
        return _LBFGSStepper(self, model)


class _LBFGSStepper:
    """One iteration per step of torch's L-BFGS, which would otherwise neither report nor be interrupted."""

    def __init__(self, stage: LBFGS, model: nn.Module) -> None:
        self.stage, self.reason = stage, ""
        self.trainable = [p for p in model.parameters() if p.requires_grad]
        self.blocks: Any = None
        self.known: tuple[Tensor, Tensor, list[Tensor], dict[str, float]] | None = None
        self.optimizer = self._fresh()

    def _fresh(self) -> torch.optim.LBFGS:
        return torch.optim.LBFGS(
            self.trainable,
            max_iter=1,
            max_eval=30,
            history_size=self.stage.memory,
            tolerance_grad=self.stage.tolerance,
            tolerance_change=0.0,
            line_search_fn="strong_wolfe",
        )

    def _flat(self) -> Tensor:
        return torch.cat([p.detach().reshape(-1) for p in self.trainable])

    def step(self, work: Work) -> None:
        if self.blocks is not None and self.blocks is not work.batch.blocks:
            self.optimizer, self.known = self._fresh(), None
        self.blocks = work.batch.blocks
        before = self._flat()

        def closure() -> Tensor:
            # torch evaluates anew where the last line search ended; remember that instead
            here = self._flat()
            if self.known is None or not torch.equal(self.known[0], here):
                loss = work.backward()
                gradients = [torch.zeros_like(p) if p.grad is None else p.grad.clone() for p in self.trainable]
                self.known = here, loss, gradients, work.terms
            for p, g in zip(self.trainable, self.known[2], strict=True):
                p.grad = g.clone()
            work.terms = self.known[3]
            return self.known[1]

        self.optimizer.step(closure)
        closure()
        assert self.known is not None
        largest = max(float(g.abs().max()) for g in self.known[2])
        if largest <= self.stage.tolerance:
            self.reason = f"gradient {largest:.1e} is below the tolerance {self.stage.tolerance:.1e}"
        elif torch.equal(before, self.known[0]):
            self.reason = f"the line search finds no decrease (gradient {largest:.1e}): the limit of this precision"

    def state(self) -> Tree:
        return self.optimizer.state_dict()

    def load(self, state: Tree) -> None:
        self.optimizer.load_state_dict(state)
