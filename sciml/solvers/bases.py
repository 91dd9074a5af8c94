"""Frozen features by the bandwidth: sines, or neurons of any activation, for a whole domain or for each patch of it.

A basis makes, for a box and a bandwidth kappa in units of one over its half sides, a list of families (`families`)
whose functions vary as fast as waves up to that bandwidth, slow ones first.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from sciml.activations import Activation, tanh
from sciml.solvers.families import Family, Polynomials, Ridges, Waves, degrees_up_to, lattice

__all__ = ["Basis", "Neurons", "Sines"]

#: (bandwidth, lower corner, upper corner), ``(d,)`` each, -> families on that box
Basis = Callable[[Tensor, Tensor, Tensor], list[Family]]

_SLOPE = 0.4  # neurons this much wider than the fastest wave span more than narrow ones
_MARGIN = 0.2  # of a half side that transitions of neurons may lie beyond the box


def _waves(kappa: Tensor, lower: Tensor, upper: Tensor) -> Waves:
    """Cosines and sines in an ellipsoid of wavenumbers, of periods that fit a larger box."""
    half = (upper - lower) / 2
    # a larger box of five times the domain: slow waves are polynomials already, slower ones add nothing but roundoff
    every = lattice(kappa / half, 2 * half * (2.1 + 10 / kappa).clamp_max(5.0), lower, upper)
    size = torch.linalg.vector_norm(every.wavenumbers * half / kappa, dim=1)
    kept = size.argsort(stable=True)[: int((size <= 1 + 1e-9).sum())]
    return Waves(every.wavenumbers[kept], every.phases[kept], every.center)


@dataclass(frozen=True)
class Sines:
    """Sines and cosines of all wavenumbers below the bandwidth, and linear functions.

    >>> import torch
    >>> one = torch.ones(2, dtype=torch.float64)
    >>> [f.size for f in Sines()(3 * one, -one, one)]
    [3, 69]
    """

    def __call__(self, kappa: Tensor, lower: Tensor, upper: Tensor) -> list[Family]:
        """See the module."""
        return [Polynomials(degrees_up_to(1, len(kappa)), lower, upper), _waves(kappa, lower, upper)]


@dataclass(frozen=True)
class Neurons:
    """sigma(w . x + b): a hidden layer that is never trained, with linear functions.

    Directions fill a ball evenly and transitions the box; there are `share` times as many neurons as `Sines` of the
    same bandwidth has waves.

    Attributes:
        activation: sigma, at least once continuously differentiable: tanh, phi, srelu**2, s2relu**2, ...
        share: see above.
        seed: of directions and offsets.

    Raises:
        ValueError: for an activation whose slope jumps, since rows at points do not see the jump.
    """

    activation: Activation = tanh
    share: float = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        """Check the options."""
        if not isinstance(self.activation, Activation):
            raise TypeError(
                f"activation is {self.activation!r}, but must be an Activation such as sciml.activations.tanh"
            )
        if self.activation.smoothness < 1:
            raise ValueError(
                f"activation is {self.activation.name}, whose slope jumps, but an equation of second order at points "
                "needs a continuous one: take a higher power of it"
            )
        if not self.share > 0:
            raise ValueError(f"share is {self.share!r}, but must be positive")

    def __call__(self, kappa: Tensor, lower: Tensor, upper: Tensor) -> list[Family]:
        """See the module."""
        d, half = len(kappa), (upper - lower) / 2
        count = max(1, round(self.share * _waves(kappa, lower, upper).size))
        generator = torch.Generator().manual_seed(self.seed)
        direction = torch.randn(count, d, generator=generator, dtype=torch.float64)
        direction /= torch.linalg.vector_norm(direction, dim=1, keepdim=True)
        radius = torch.rand(count, 1, generator=generator, dtype=torch.float64).sort(0).values ** (1 / d)
        place = (2 * torch.rand(count, d, generator=generator, dtype=torch.float64) - 1) * (1 + _MARGIN)
        # as wide as one wave, or as the support
        start, end = self.activation.support or (-math.pi, math.pi)
        middle, speed = (start + end) / 2, _SLOPE * (end - start) / (2 * math.pi)
        w = direction * radius * kappa * speed
        ridges = Ridges(w / half, middle - (w * place).sum(1), (lower + upper) / 2, self.activation)
        return [Polynomials(degrees_up_to(1, d), lower, upper), ridges]
