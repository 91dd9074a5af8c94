"""Random starting points of networks, each drawn from an explicit `torch.Generator`.

An `Initialisation` gives the standard deviations of weights and biases of a layer from its fan-in and fan-out.
`suited` is the default: it looks at the activation, so that a network starts with signals of order one in every layer
and with the first layer's kinks, bumps or phases spread over the domain.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from sciml.activations import Activation, sine

__all__ = ["Initialisation", "glorot", "he", "init_rate", "suited", "uniform"]

Spread = Callable[[int, int], float]


@dataclass(frozen=True)
class Initialisation:
    """How the parameters of a layer are drawn.

    Attributes:
        weight: ``(fan_in, fan_out) -> standard deviation`` of the weights.
        bias: the same for the biases.
        flat: uniform on a symmetric interval instead of normal.
        centre: mean of the hidden biases, where the activation lives.
        domain: spread the first layer over the domain (see `first`) instead of drawing it like any other.
        frequency: standard deviation of the weights of such a first layer, in units of the inverse half-width.
        last: factor of the last layer's weights; below one, a network starts near zero, so that training need not first
            unlearn the high frequencies that it was born with.
    """

    weight: Spread
    bias: Spread = lambda fan_in, fan_out: 0.0
    flat: bool = False
    centre: float = 0.0
    domain: bool = False
    frequency: float = 1.0
    last: float = 1.0

    def layer(self, weight: Tensor, bias: Tensor | None, generator: torch.Generator | None, last: bool = False) -> None:
        """Fill ``weight (..., in, out)`` and ``bias (..., out)`` in place."""
        fans = weight.shape[-2], weight.shape[-1]
        _draw(weight, self.weight(*fans) * (self.last if last else 1.0), 0.0, self.flat, generator)
        if bias is not None:
            _draw(bias, self.bias(*fans), 0.0 if last else self.centre, self.flat, generator)

    def first(
        self,
        weight: Tensor,
        bias: Tensor,
        generator: torch.Generator | None,
        lower: Tensor,
        upper: Tensor,
        scale: Tensor,
    ) -> None:
        """Fill the first layer ``z = scale * (x W) + b`` in place, x in the box [lower, upper].

        With `domain` set, neuron j has ``z = centre`` on a hyperplane through a uniformly drawn point of the box: the
        kinks, the support or the phases of the first layer are spread over the domain whatever the scale is.
        """
        if not self.domain:
            self.layer(weight, bias, generator)
            return
        half = ((upper - lower) / 2).to(weight)
        _draw(weight, self.frequency / math.sqrt(weight.shape[-2]), 0.0, self.flat, generator)
        weight.div_(half[:, None])
        place = torch.rand(weight.transpose(-1, -2).shape, generator=generator, dtype=weight.dtype)
        place = lower.to(weight) + place.to(weight.device) * 2 * half
        bias.copy_(self.centre - scale * (place * weight.transpose(-1, -2)).sum(-1))


def _draw(tensor: Tensor, std: float, mean: float, flat: bool, generator: torch.Generator | None) -> None:
    # Drawn on the CPU in the tensor's precision, so that one seed gives one network on every device.
    shape, dtype = tensor.shape, tensor.dtype
    if flat:
        noise = (torch.rand(shape, generator=generator, dtype=dtype) * 2 - 1) * math.sqrt(3)
    else:
        noise = torch.randn(shape, generator=generator, dtype=dtype)
    tensor.copy_(noise * std + mean)


glorot = Initialisation(lambda i, o: math.sqrt(2 / (i + o)))
he = Initialisation(lambda i, o: math.sqrt(2 / i))
uniform = Initialisation(lambda i, o: 1 / math.sqrt(3 * i), lambda i, o: 1 / math.sqrt(3 * i), flat=True)


def init_rate(gamma: float) -> Initialisation:
    """Normal weights and biases with standard deviation ``fan_in ** -gamma`` (arXiv:2007.07497, arXiv:2205.12101).

    A small rate (gamma <= 1/2) trains like a kernel, a large one (gamma > 1) makes neurons condense.

    >>> round(init_rate(0.5).weight(100, 7), 3)
    0.1
    """
    return Initialisation(lambda i, o: i**-gamma, lambda i, o: i**-gamma)


def suited(activation: Activation) -> Initialisation:
    """The default initialisation of a network with this activation.

    * Compact support (srelu, phi, s2relu and powers): the pre-activations of every layer start as N(middle of the
      support, s^2). The weights have the variance that keeps this distribution from layer to layer, and s is where
      derivatives keep their size too: larger, and a deep network starts rough; smaller, and it starts flat. The bumps
      of the first layer lie at uniformly drawn places of the domain.
    * sine: hidden weights keep pre-activations at variance one; phases of the first layer are uniform over the domain.
    * others: Glorot weights and small biases; the first layer is spread over the domain as well.
    """
    if activation.support is not None:
        middle = sum(activation.support) / 2
        s, square = _edge(activation)
        return Initialisation(
            lambda i, o: s / math.sqrt(i * square), lambda i, o: 0.1 * s, centre=middle, domain=True, last=0.05
        )
    if activation.name == sine.name:
        return Initialisation(lambda i, o: math.sqrt(2 / i), lambda i, o: 0.1, domain=True, last=0.05)
    return Initialisation(glorot.weight, lambda i, o: 0.1, domain=True)


def _edge(activation: Activation) -> tuple[float, float]:
    """The s at which ``s^2 E f'(z)^2 = E f(z)^2`` for z ~ N(middle, s^2), by bisection, and that ``E f(z)^2``."""
    lower, upper = activation.support or (0.0, 1.0)
    z = torch.linspace(lower, upper, 2001, dtype=torch.float64)
    f, df = activation.derivatives(z, 1)

    def moments(s: float) -> tuple[float, float]:
        density = torch.exp(-0.5 * ((z - (lower + upper) / 2) / s) ** 2) / (s * math.sqrt(2 * math.pi))
        return torch.trapezoid(f * f * density, z).item(), torch.trapezoid(df * df * density, z).item()

    low, high = 1e-3 * (upper - lower), upper - lower
    for _ in range(50):
        s = math.sqrt(low * high)
        value, slope = moments(s)
        low, high = (s, high) if s * s * slope < value else (low, s)
    return s, value
