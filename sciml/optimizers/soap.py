"""SOAP: Adam in the eigenbasis of Shampoo's preconditioner (Vyas et al., arXiv:2409.11321).

For a weight with gradient G, running means of G G^T and G^T G have the eigenvectors Q_L and Q_R, and

    M <- mean of G,   V <- mean of (Q_L^T G Q_R)^2,   W <- W - lr Q_L (Q_L^T M Q_R / sqrt(V)) Q_R^T.

The bases follow their matrices by one orthogonal iteration every few steps. Parameters without a matrix take Adam.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from sciml.stages import Schedule, Stepper, Work, check_steps, cosine

__all__ = ["SOAP"]


@dataclass(frozen=True)
class SOAP:
    """Adam in slowly turning bases: for regressions with small dense networks several times the digits of Adam.

    A step costs a few products of the weights' own size besides the gradient.

    Attributes:
        steps: number of steps.
        lr: learning rate at the start.
        schedule: factor of the learning rate as a function of progress in [0, 1].
        warmup: steps over which the learning rate rises linearly from zero, for the bases are bad at first.
        betas: decay of the two moments.
        memory: decay of the matrices whose eigenvectors are the bases.
        every: steps between two turns of the bases.
        resample: draw a new batch every so many steps; None keeps one.
    """

    steps: int = 2000
    lr: float = 1e-2
    schedule: Schedule = cosine
    warmup: int = 200
    betas: tuple[float, float] = (0.95, 0.95)
    memory: float = 0.95
    every: int = 10
    resample: int | None = 1

    def __post_init__(self) -> None:
        """Check the numbers."""
        check_steps(self)
        if not (self.lr > 0 and math.isfinite(self.lr)):
            raise ValueError(f"SOAP lr is {self.lr}, but must be a positive number")
        if self.every < 1 or self.warmup < 0:
            raise ValueError(f"SOAP every ({self.every}) must be at least 1 and warmup ({self.warmup}) not negative")
        for name, decay in (("betas", self.betas[0]), ("betas", self.betas[1]), ("memory", self.memory)):
            if not 0 <= decay < 1:
                raise ValueError(f"SOAP {name} holds {decay}, but must lie in [0, 1)")

    def start(self, model: nn.Module) -> Stepper:
        """Begin on a model."""
        return _SoapStepper(self, model)


class _SoapStepper:
    def __init__(self, stage: SOAP, model: nn.Module) -> None:
        self.stage, self.reason, self.count = stage, "", 0
        self.parameters = [p for p in model.parameters() if p.requires_grad]
        self.moments: list[dict[str, Tensor]] = [
            {"mean": torch.zeros_like(p), "square": torch.zeros_like(p)} for p in self.parameters
        ]

    def step(self, work: Work) -> None:
        stage = self.stage
        work.backward()
        self.count += 1
        lr = stage.lr * stage.schedule(work.batch.progress) * min(1.0, self.count / max(stage.warmup, 1))
        with torch.no_grad():
            for p, kept in zip(self.parameters, self.moments, strict=True):
                if p.grad is not None:
                    p.add_(self._direction(p.grad, kept), alpha=-lr)

    def _direction(self, gradient: Tensor, kept: dict[str, Tensor]) -> Tensor:
        first, second = self.stage.betas
        kept["mean"].lerp_(gradient, 1 - first)
        matrix = gradient.ndim > 1  # of several stacked networks, one each
        if matrix:
            self._follow(gradient, kept)
        turned = _turn(gradient, kept) if matrix else gradient
        mean = _turn(kept["mean"], kept) if matrix else kept["mean"]
        kept["square"].mul_(second).addcmul_(turned, turned, value=1 - second)
        size = (kept["square"] / (1 - second**self.count)).sqrt_().add_(1e-8)
        direction = mean / (1 - first**self.count) / size
        return kept["left"] @ direction @ kept["right"].mT if matrix else direction

    def _follow(self, gradient: Tensor, kept: dict[str, Tensor]) -> None:
        """Update the matrices and, when due, turn the bases towards their eigenvectors."""
        # contiguous, as what a checkpoint brings back, for products round by the order in memory
        for side, product in (("left", gradient @ gradient.mT), ("right", gradient.mT @ gradient)):
            matrix = f"{side} matrix"
            if side not in kept:
                kept[matrix] = product.contiguous()
                # descending, the order in which orthogonal iterations keep them
                kept[side] = torch.linalg.eigh(product.double())[1].flip(-1).to(product.dtype).contiguous()
                continue
            kept[matrix].lerp_(product, 1 - self.stage.memory)
            if self.count % self.stage.every == 0:
                kept[side] = torch.linalg.qr(kept[matrix] @ kept[side])[0].contiguous()

    def state(self) -> Any:
        return {"count": self.count, "moments": self.moments}

    def load(self, state: Any) -> None:
        self.count, self.moments = int(state["count"]), [dict(kept) for kept in state["moments"]]


def _turn(values: Tensor, kept: dict[str, Tensor]) -> Tensor:
    return kept["left"].mT @ values @ kept["right"]
