"""The network of a flow map: increments that are accurate relative to their size, over many decades of it.

    (v(z) + C z) exp(e(z))    (v, e) the outputs of a network, C a matrix

A species that is consumed within a step ends where production balances consumption, wherever it began: its increment
is that place minus its own fraction, which is linear in an input. Hidden layers would spend themselves on passing it
through; C does it for them, and states off the manifold, where all such species move at once, are learnt many times
as fast. The same holds of any fast unknown of a stiff system.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor, nn

from sciml.activations import gelu
from sciml.networks import Dense

__all__ = ["Expert"]

_EXPONENTS = (-12.0, 3.0)  # of the size of increments in units of the mean one


class Expert(nn.Module):
    """From standardised inputs (n, m) to increments (n, r).

    Args:
        network: of m inputs and 2 r outputs.
    """

    def __init__(self, network: Dense) -> None:
        super().__init__()
        self.network = network
        dtype = next(network.parameters()).dtype
        self.shortcut = nn.Parameter(torch.zeros(network.inputs, network.outputs // 2, dtype=dtype))

    @classmethod
    def drawn(cls, inputs: int, widths: Sequence[int], reactive: int, generator: torch.Generator) -> Self:
        """Hidden layers of gelu with drawn parameters, no shortcut yet; all in float32."""
        return cls(Dense(inputs, widths, 2 * reactive, gelu, generator=generator, dtype=torch.float32))

    def forward(self, z: Tensor) -> Tensor:
        """Increments (n, r) in units of their mean magnitudes, in the precision of the inputs."""
        r = self.shortcut.shape[1]
        out = self.network(z)
        return torch.addmm(out[:, :r], z, self.shortcut.to(z.dtype)) * out[:, r:].clamp(*_EXPONENTS).exp()

    def describe(self) -> dict[str, Any]:
        """What `restore` needs beside the arrays, as JSON."""
        return self.network.describe()

    def arrays(self) -> dict[str, np.ndarray]:
        """Parameters by name."""
        return {k: v.detach().cpu().numpy().copy() for k, v in self.state_dict().items()}

    @classmethod
    def restore(cls, description: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> Self:
        """From what `describe` and the state_dict gave."""
        parts = {k.removeprefix("network."): v for k, v in arrays.items() if k.startswith("network.")}
        expert = cls(Dense.restore(description, parts))
        with torch.no_grad():
            expert.shortcut.copy_(torch.as_tensor(np.asarray(arrays["shortcut"])))
        return expert
