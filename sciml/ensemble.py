"""An ensemble of networks that predicts a vector and says how unsure it is, for designs that are costly to simulate.

Each member is a linear map plus a small network (`wide and deep`), trained on its own bootstrap sample by the same
`training.fit` as everything else; all members are one module, so a fit costs one training. What the members were not
shown tells how large their errors really are (`Ensemble.residual`), which is added to their spread.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from sciml.objective import Batch
from sciml.training import Adam, fit

__all__ = ["Ensemble", "Prediction"]


@dataclass(frozen=True)
class Prediction:
    """What members predict.

    Attributes:
        members: (m, n, k).
        residual: (k,), standard deviation of the members' errors on what they were not shown.
    """

    members: Tensor
    residual: Tensor

    @property
    def mean(self) -> Tensor:
        """(n, k)."""
        return self.members.mean(0)

    @property
    def deviation(self) -> Tensor:
        """(n, k): spread of the members and their residual, in quadrature."""
        return (self.members.var(0) + self.residual.square()).sqrt()


class Ensemble(nn.Module):
    """Networks x -> (k,) trained on bootstrap samples.

    Args:
        inputs: d.
        outputs: k.
        members: number of networks, at least two.
        width: of the two hidden layers.
        generator: of the first parameters and the bootstrap samples.

    Attributes:
        residual: (k,), root mean square of the errors on samples that a member was not shown; set by `train_on`.
    """

    def __init__(self, inputs: int, outputs: int, members: int, width: int, generator: torch.Generator) -> None:
        super().__init__()
        if members < 2:
            raise ValueError(f"members is {members}, but a spread needs at least two")
        sizes = [inputs, width, width, outputs]
        self.weights = nn.ParameterList()
        self.biases = nn.ParameterList()
        for fan_in, fan_out in zip(sizes[:-1], sizes[1:], strict=True):
            scale = math.sqrt(1 / fan_in)
            self.weights.append(scale * torch.randn(members, fan_in, fan_out, generator=generator))
            self.biases.append(torch.zeros(members, 1, fan_out))
        self.linear = nn.Parameter(torch.zeros(members, inputs, outputs))
        self.generator = generator
        self.register_buffer("scale", torch.ones(outputs))
        self.register_buffer("centre", torch.zeros(outputs))
        self.register_buffer("residual", torch.ones(outputs))

    def forward(self, x: Tensor) -> Tensor:
        """(n, d) -> (m, n, k), in the standardised units of training."""
        z = x
        for i, (weight, bias) in enumerate(zip(self.weights, self.biases, strict=True)):
            z = z @ weight + bias
            if i < 2:
                z = torch.tanh(z)
        return z + x @ self.linear

    def predict(self, x: Tensor) -> Prediction:
        """Predictions in the units of the data; differentiable with respect to `x`."""
        return Prediction(self(x) * self.scale + self.centre, self.residual)

    def train_on(self, x: np.ndarray, y: np.ndarray, steps: int = 300, lr: float = 1e-2, decay: float = 1e-4) -> None:
        """Fit every member to a bootstrap sample.

        Args:
            x: (n, d).
            y: (n, k); NaN where nothing is known.
            steps: of Adam on all samples.
            lr: first learning rate.
            decay: weight of the mean square of all weights, which keeps few samples from being interpolated wildly.
        """
        known = torch.as_tensor(np.isfinite(y))
        values = np.where(np.isfinite(y), y, 0.0)
        count = np.maximum(np.isfinite(y).sum(0), 1)
        centre = values.sum(0) / count
        spread = np.sqrt((np.isfinite(y) * (values - centre) ** 2).sum(0) / count)
        self.centre = torch.as_tensor(centre, dtype=torch.float32)
        self.scale = torch.as_tensor(np.where(spread > 0, spread, 1.0), dtype=torch.float32)
        inputs = torch.as_tensor(x, dtype=torch.float32)
        targets = (torch.as_tensor(values, dtype=torch.float32) - self.centre) / self.scale
        drawn = torch.randint(len(x), (len(self.linear), len(x)), generator=self.generator)
        shown = torch.zeros(len(self.linear), len(x)).scatter_add_(1, drawn, torch.ones(drawn.shape))
        fit(
            self,
            _Bootstrap(inputs, targets, shown[:, :, None] * known, decay),
            lambda _: Batch({}),
            [Adam(steps, lr=lr, resample=None)],
            label="ensemble",
        )
        with torch.no_grad():
            hidden = (shown == 0)[:, :, None] & known
            errors = (self(inputs) - targets).square() * hidden
            seen = hidden.sum((0, 1))
            rms = (errors.sum((0, 1)) / seen.clamp(min=1)).sqrt()
            self.residual = torch.where(seen > 0, rms, torch.ones_like(rms)) * self.scale


class _Bootstrap:
    """Mean square of the errors, weighted by how often each member drew each sample."""

    def __init__(self, inputs: Tensor, targets: Tensor, weights: Tensor, decay: float) -> None:
        self.inputs, self.targets, self.weights, self.decay = inputs, targets, weights, decay

    def terms(self, field: Callable[[Tensor], Tensor], batch: Batch) -> dict[str, Tensor]:
        assert isinstance(field, Ensemble)
        misfit = (field(self.inputs) - self.targets).square() * self.weights
        decay = sum((w.square().sum() for w in field.weights), field.linear.square().sum())
        members = len(self.weights)
        return {"misfit": misfit.sum() / self.weights.sum().clamp(min=1) * members, "decay": self.decay * decay}
