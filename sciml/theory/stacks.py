"""The subnetworks of a multi-scale network, one by one, and the way back into its stacked arrays.

sciml's `Mscale` evaluates its subnetworks together, so they have equal widths. Taken apart they may differ: a narrower
one is filled up with neurons whose weights, in and out, are zero. Such neurons do nothing and, where sigma(0) = 0,
never learn; reading leaves them out again.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from sciml.networks import Mscale

__all__ = ["Stack"]


class Stack:
    """The subnetworks of an `Mscale` as linear layers of their own.

    Args:
        owner: one whose subnetworks are independent; see `Stack.of`.

    Attributes:
        owner: the network.
        parts: by subnetwork its linear layers: copies, which `store` writes back.
    """

    def __init__(self, owner: Mscale) -> None:
        self.owner = owner
        self.parts = [self._read(i) for i in range(len(owner.scales))]

    @staticmethod
    def of(module: nn.Module) -> Stack | None:
        """The stack of a module that is one: not of kind 1, nor with Fourier features."""
        if isinstance(module, Mscale) and module.variant == 2 and module.fourier is None:
            return Stack(module)
        return None

    def _read(self, i: int) -> tuple[nn.Linear, ...]:
        weights = [w.detach()[i].T for w in self.owner.weights]
        biases = [b.detach()[i] for b in self.owner.biases]
        for k in range(len(weights) - 1):
            live = (weights[k] != 0).any(1) | (biases[k] != 0) | (weights[k + 1] != 0).any(0)
            if not live.any():
                live[0] = True  # a layer keeps at least one neuron
            weights[k], biases[k], weights[k + 1] = weights[k][live], biases[k][live], weights[k + 1][:, live]
        return tuple(_linear(w, b) for w, b in zip(weights, biases, strict=True))

    def enter(self, i: int, x: Tensor) -> Tensor:
        """Points ``(n, d)`` as the first layer of subnetwork i sees them."""
        x = x if self.owner.centre is None else x - self.owner.centre
        x = x if self.owner.stretch is None else x * self.owner.stretch
        return x * self.owner.scales[i].detach()

    def combine(self, outputs: Sequence[Tensor]) -> Tensor:
        """The network's output ``(n, m)`` from those of the subnetworks."""
        scales = self.owner.scales.detach()
        factors = scales**self.owner.inputs if self.owner.prefactor else torch.ones_like(scales)
        return torch.stack([a * out for a, out in zip(factors, outputs, strict=True)]).sum(0)

    def store(self) -> None:
        """Write the layers into the network, filled up with zeros to the widest of each."""
        for k in range(len(self.owner.weights)):
            layers = [part[k] for part in self.parts]
            rows, columns = max(a.out_features for a in layers), max(a.in_features for a in layers)
            old, bias = self.owner.weights[k], self.owner.biases[k]
            wide, long = old.new_zeros(len(layers), columns, rows), old.new_zeros(len(layers), rows)
            for i, layer in enumerate(layers):
                wide[i, : layer.in_features, : layer.out_features] = layer.weight.detach().T
                long[i, : layer.out_features] = layer.bias.detach()
            self.owner.weights[k] = nn.Parameter(wide, requires_grad=old.requires_grad)
            self.owner.biases[k] = nn.Parameter(long, requires_grad=bias.requires_grad)
        self.owner.widths = tuple(w.shape[-1] for w in list(self.owner.weights)[:-1])


def _linear(weight: Tensor, bias: Tensor) -> nn.Linear:
    layer = nn.utils.skip_init(nn.Linear, weight.shape[1], weight.shape[0], dtype=weight.dtype, device=weight.device)
    with torch.no_grad():
        layer.weight.copy_(weight)
        layer.bias.copy_(bias)
    return layer
