"""Problems on which no rule of `sciml.solve` was chosen: other domains, reactions, layers, conditions on the flux."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from sciml import Ball, Box, Dirichlet, Ellipsoid, Elliptic, Neumann, Polygon, Robin, jet
from sciml.conditions import Condition
from sciml.domain import Domain

SQUARE = Box([-1.0, -1.0], [1.0, 1.0])
ELLIPSE = Ellipsoid([0.1, -0.2], [1.0, 0.5], rotation=0.6)
RING = Ball([0.0, 0.0], 1.0) - Ball([0.0, 0.0], 0.4)
TRIANGLE = Polygon([[0.0, 0.0], [2.0, 0.0], [0.5, 1.5]])
THIN = 1e-3**0.5  # width of a boundary layer


def peak(x: Tensor) -> Tensor:
    """A rational function with poles beside the real domain."""
    return 1 / (1 + 4 * ((x - 0.25) ** 2).sum(1))


def pole(at: Sequence[float]) -> Callable[[Tensor], Tensor]:
    """log |x - at|^2, harmonic away from a point."""
    return lambda x: torch.log((x - torch.tensor(at, dtype=x.dtype)).square().sum(1))


def layers(x: Tensor) -> Tensor:
    """-1e-3 u'' + u = 1 with zero values at both ends of [0, 1]."""
    return 1 - torch.cosh((x[:, 0] - 0.5) / THIN) / math.cosh(0.5 / THIN)


def outward(x: Tensor) -> Tensor:
    """The slope of `peak` along x / |x|."""
    gradient = jet(peak, x, 1).gradient
    assert gradient is not None
    return (gradient * x).sum(1) / x.norm(dim=1)


def inner(x: Tensor) -> Tensor:
    """The inner edge of the ring."""
    return x.norm(dim=1) < 0.7


def with_flux(domain: Domain, *conditions: Condition, reaction: float = 0.0) -> Elliptic:
    """The equation of `peak` with given conditions."""
    source = Elliptic.manufactured(domain, peak, reaction=reaction).source
    return Elliptic(domain, source, reaction=reaction, conditions=conditions, exact=peak)


CASES: dict[str, Callable[[int], Elliptic]] = {
    "ellipse": lambda seed: Elliptic.manufactured(ELLIPSE, peak),
    "ellipse, reaction": lambda seed: Elliptic.manufactured(ELLIPSE, peak, reaction=25.0),
    "triangle, pole": lambda seed: Elliptic.manufactured(TRIANGLE, pole([2.2, -0.1])),
    "ring": lambda seed: Elliptic.manufactured(RING, peak, reaction=lambda x: 1 + x[:, 0] ** 2),
    "ring, pole": lambda seed: Elliptic.manufactured(RING, pole([0.2, 0.0])),
    "ring, Neumann": lambda seed: with_flux(RING, Neumann(lambda x: -outward(x), on=inner), Dirichlet(peak)),
    "ring, Robin": lambda seed: with_flux(
        RING, Dirichlet(peak, on=inner), Robin(2.0, lambda x: outward(x) + 2 * peak(x))
    ),
    "disc, Neumann": lambda seed: with_flux(Ball([0.0, 0.0], 1.0), Neumann(outward), reaction=1.0),
    "square, peak": lambda seed: Elliptic.manufactured(SQUARE, lambda x: torch.exp(-20 * ((x - 0.3) ** 2).sum(1))),
    "boundary layers": lambda seed: Elliptic(Box([0.0], [1.0]), 1.0, 0.0, diffusion=1e-3, reaction=1.0, exact=layers),
    "inner layer": lambda seed: Elliptic.manufactured(Box([-1.0], [1.0]), lambda x: torch.tanh(12 * x[:, 0])),
}
