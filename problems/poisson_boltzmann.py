"""The linearised Poisson-Boltzmann equation -div(a grad u) + kappa u = f.

line    -u'' + lambda^2 u = (lambda^2 + mu^2) sin mu x on (0, 1), u = 0 (arXiv:1910.11710, arXiv:2007.11207)
square  the 2-D sum of the same functions, lambda = 2, mu = 30
scales  a = 1/2 + 1/4 cos pi x cos pi y + 1/4 cos 20 pi x cos 20 pi y, kappa = pi^2,
        u = sin pi x sin pi y + 1/20 sin 20 pi x sin 20 pi y on [0, 1]^2 minus 7 discs (arXiv:2112.06660)
bead    a ball and 20 smaller ones on its surface inside the unit ball, kappa = 1 inside and 5 outside, 3-D
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from sciml import Ball, Box, Elliptic, FiniteDifference, MscaleSolver, Piecewise
from sciml.report import side_by_side
from sciml.training import Adam

from .poisson import SEVEN, discs

PI = math.pi


def wave(lam: float, mu: float) -> Callable[[Tensor], Tensor]:
    """sin mu x - (sin mu / sinh lambda) sinh lambda x, written so that sinh does not overflow."""

    def u(x: Tensor) -> Tensor:
        ratio = (torch.exp(lam * (x - 1)) - torch.exp(-lam * (x + 1))) / (1 - math.exp(-2 * lam))
        return torch.sin(mu * x) - math.sin(mu) * ratio

    return u


def line(lam: float, mu: float) -> Elliptic:
    """The 1-D case."""
    u = wave(lam, mu)
    source = lambda x: (lam**2 + mu**2) * torch.sin(mu * x[:, 0])  # noqa: E731
    return Elliptic(Box([0], [1]), source, 0.0, reaction=lam**2, exact=lambda x: u(x[:, 0]))


def square(lam: float, mu: float) -> Elliptic:
    """u(x) + u(y)."""
    u = wave(lam, mu)
    return Elliptic.manufactured(Box([0, 0], [1, 1]), lambda x: u(x[:, 0]) + u(x[:, 1]), reaction=lam**2)


def scales(lam: float, mu: float) -> Elliptic:
    """Two scales on a perforated square."""

    def diffusion(x: Tensor) -> Tensor:
        return 0.5 + 0.25 * torch.cos(PI * x).prod(1) + 0.25 * torch.cos(20 * PI * x).prod(1)

    def exact(x: Tensor) -> Tensor:
        return torch.sin(PI * x).prod(1) + 0.05 * torch.sin(20 * PI * x).prod(1)

    domain = discs(Box([0, 0], [1, 1]), SEVEN)
    return Elliptic.manufactured(domain, exact, diffusion=diffusion, reaction=PI**2)  # 0.003 < a < 1


def bead(lam: float, mu: float) -> Elliptic:
    """The molecule; its 20 beads are drawn once, with radii uniform in [0.1, 0.2]."""
    generator = torch.Generator().manual_seed(20)
    directions = torch.randn(20, 3, generator=generator, dtype=torch.float64)
    centres = 0.5 * directions / directions.norm(dim=1, keepdim=True)
    radii = 0.1 + 0.1 * torch.rand(20, generator=generator, dtype=torch.float64)
    regions = [(Ball([0, 0, 0], 0.5), 1.0)]
    regions += [(Ball(c.tolist(), float(r)), 1.0) for c, r in zip(centres, radii, strict=True)]

    def exact(x: Tensor) -> Tensor:
        r = x.square().sum(1)
        return torch.exp(torch.sin(mu * x).sum(1)) * (r - 1) / (r + 1)

    domain = Ball([0, 0, 0], 1.0)
    kappa = Piecewise(5.0, regions)
    made = Elliptic.manufactured(domain, exact, reaction=kappa)
    return Elliptic(domain, made.source, 0.0, reaction=kappa, exact=exact)


CASES: dict[str, Callable[[float, float], Elliptic]] = {"line": line, "square": square, "scales": scales, "bead": bead}


@dataclass(frozen=True)
class Config:
    """Options of a run.

    Attributes:
        case: line, square, scales or bead.
        lam: screening of line and square, kappa = lam^2.
        mu: wavenumber.
        scales: of the multi-scale network.
        width: of each subnetwork.
        depth: hidden layers.
        steps: of Adam.
        lr: first learning rate.
        interior: points inside per step.
        boundary: points on the edge per step.
        penalty: weight of the boundary term.
        cells: of finite differences on the longest side; 0 leaves them out.
    """

    case: str = "square"
    lam: float = 2.0
    mu: float = 30.0
    scales: tuple[float, ...] = (1, 2, 4, 8, 16, 32)
    width: int = 40
    depth: int = 2
    steps: int = 3000
    lr: float = 2e-3
    interior: int = 2048
    boundary: int = 512
    penalty: float = 1000.0
    cells: int = 256


VARIANTS = {
    "smoke": Config(case="line", lam=2, mu=6, scales=(1, 2, 4), width=8, steps=50, interior=64, boundary=16, cells=64),
    "paper": Config(case="line", lam=20, mu=50, width=30, interior=512, cells=2048),
    "line": Config(case="line", lam=20, mu=50, width=30, interior=512, cells=2048),
    "square": Config(),
    "scales": Config(case="scales"),
    "bead": Config(case="bead", mu=5.0, scales=(1, 2, 4, 8), cells=48),
    "bead15": Config(case="bead", mu=15.0, cells=48),
}


def run(config: Config, run: Any) -> dict[str, Any]:
    """Solve one case by the network and by finite differences."""
    if config.case not in CASES:
        raise ValueError(f"case is {config.case!r}, but must be one of {', '.join(CASES)}")
    mscale = MscaleSolver(
        scales=config.scales,
        widths=(config.width,) * config.depth,
        penalty=config.penalty,
        stages=[Adam(config.steps, lr=config.lr)],
        interior=config.interior,
        boundary=config.boundary,
        dtype=torch.float32,  # first-order training ends far above single precision
    )
    solvers: dict[str, Any] = {"MscaleDNN": mscale}
    if config.cells:
        solvers["finite differences"] = FiniteDifference(config.cells)
    return side_by_side(run, CASES[config.case](config.lam, config.mu), solvers)
