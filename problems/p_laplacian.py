"""The p-Laplacian with oscillating coefficients -div(a |grad u|^(p-2) grad u) = f in one to five dimensions.

Problems of arXiv:2009.14597 (and, for p = 2, of arXiv:2112.06660):

    line      1-D, a = 1 / (2 + cos(2 pi x / eps)), one solution for every p (section 4.1)
    E1 .. E4  2-D on [-1, 1]^2, p = 2, f = 1, u = 0, no solution in closed form: a = 1, 2 + sin cos, five and six scales
    E5, E6    E3's coefficient with p = 3 on [0, 1]^2 and [-1, 1]^2
    cube      3-D, a = 1 + cos pi x cos 3 pi y cos 5 pi z, u = prod sin pi x_i
    five      5-D, a = 1 + cos pi x1 cos 2 pi x2 cos 3 pi x3 cos 2 pi x4 cos pi x5, u = prod sin pi x_i (Example 4.6)

The published finite-element references of E3 and E4 have 65 cells a side and take the coefficient at cell centres; the
variant ``references`` reproduces them and shows how far they are from a resolved solution.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from sciml import Box, Elliptic, FeatureSolver, FiniteDifference, FiniteElement, MscaleSolver, compare
from sciml.networks import Activation, Dense, relu, s2relu, sine, srelu
from sciml.optimizers import GaussNewton
from sciml.report import draw_fields, published, side_by_side
from sciml.training import Adam

PI = math.pi


def line(p: float, eps: float) -> Elliptic:
    """The 1-D family; 1/eps must be an integer for u(1) = 0."""

    def exact(x: Tensor) -> Tensor:
        x = x[:, 0]
        s, c = torch.sin(2 * PI * x / eps), torch.cos(2 * PI * x / eps)
        return x - x**2 + eps * (s / PI * (0.25 - 0.5 * x) + eps / (4 * PI**2) * (1 - c))

    def diffusion(x: Tensor) -> Tensor:
        return 1 / (2 + torch.cos(2 * PI * x[:, 0] / eps))

    made = Elliptic.manufactured(Box([0], [1]), exact, diffusion=diffusion, p=p)
    return Elliptic(Box([0], [1]), made.source, 0.0, diffusion=diffusion, p=p, exact=exact)


def two_waves(x: Tensor) -> Tensor:
    """Coefficient of E2."""
    return 2 + torch.sin(3 * PI * x[:, 0]) * torch.cos(5 * PI * x[:, 1])


def five_scales(x: Tensor) -> Tensor:
    """Coefficient of E3, E5 and E6."""
    e = [1 / 5, 1 / 13, 1 / 17, 1 / 31, 1 / 65]
    x, y = x[:, 0], x[:, 1]

    def s(z: Tensor, k: int) -> Tensor:
        return 1.1 + torch.sin(2 * PI * z / e[k])

    def c(z: Tensor, k: int) -> Tensor:
        return 1.1 + torch.cos(2 * PI * z / e[k])

    quotients = s(x, 0) / s(y, 0) + s(y, 1) / c(x, 1) + c(x, 2) / s(y, 2) + s(y, 3) / c(x, 3) + c(x, 4) / s(y, 4)
    return (quotients + torch.sin(4 * x**2 * y**2) + 1) / 6


def six_scales(x: Tensor) -> Tensor:
    """Coefficient of E4, not separable."""
    x, y = x[:, 0], x[:, 1]
    a = torch.ones_like(x)
    for k in range(1, 7):
        a = a * (1 + 0.5 * torch.cos(2**k * PI * (x + y))) * (1 + 0.5 * torch.sin(2**k * PI * (y - 3 * x)))
    return a


def product_of_sines(dim: int, diffusion: Callable[[Tensor], Tensor]) -> Elliptic:
    """u = prod_i sin pi x_i on the unit cube, which vanishes on its boundary."""
    exact = lambda x: torch.sin(PI * x).prod(1)  # noqa: E731
    box = Box([0.0] * dim, [1.0] * dim)
    made = Elliptic.manufactured(box, exact, diffusion=diffusion)
    return Elliptic(box, made.source, 0.0, diffusion=diffusion, exact=exact)


def cosines(*frequencies: int) -> Callable[[Tensor], Tensor]:
    """1 + prod_i cos(k_i pi x_i)."""
    k = PI * torch.tensor(frequencies, dtype=torch.float64)
    return lambda x: 1 + torch.cos(k.to(x) * x).prod(1)


SQUARE, UNIT, UNIT5 = ([-1, -1], [1, 1]), ([0, 0], [1, 1]), ([0.0] * 5, [1.0] * 5)
CASES: dict[str, Callable[[float, float], Elliptic]] = {
    "line": line,
    "E1": lambda p, eps: Elliptic(Box(*SQUARE), 1.0, 0.0),
    "E2": lambda p, eps: Elliptic(Box(*SQUARE), 1.0, 0.0, diffusion=two_waves),
    "E3": lambda p, eps: Elliptic(Box(*SQUARE), 1.0, 0.0, diffusion=five_scales),
    "E4": lambda p, eps: Elliptic(Box(*SQUARE), 1.0, 0.0, diffusion=six_scales),
    "E5": lambda p, eps: Elliptic(Box(*UNIT), 1.0, 0.0, diffusion=five_scales, p=3),
    "E6": lambda p, eps: Elliptic(Box(*SQUARE), 1.0, 0.0, diffusion=five_scales, p=3),
    "cube": lambda p, eps: product_of_sines(3, cosines(1, 3, 5)),
    "five": lambda p, eps: product_of_sines(5, cosines(1, 2, 3, 2, 1)),
}
ACTIVATIONS: dict[str, Activation] = {"s2ReLU": s2relu, "sReLU": srelu, "ReLU": relu, "sine": sine}


@dataclass(frozen=True)
class Config:
    """Options of a run.

    Attributes:
        case: one of the problems above, "references" (all of E1 to E6 by classical solvers) or "activations".
        p: exponent of the case "line".
        eps: period of its coefficient.
        activation: of the network: s2ReLU, sReLU, ReLU or sine.
        scales: of the multi-scale network.
        width: of each subnetwork.
        depth: hidden layers.
        steps: of Adam.
        lr: first learning rate.
        interior: points inside per step.
        newton: steps of energy natural gradient after Adam; feasible for a few thousand parameters.
        cells: of the classical solver; 0 leaves it out.
    """

    case: str = "line"
    p: float = 2.0
    eps: float = 0.1
    activation: str = "sine"
    scales: tuple[float, ...] = (1, 2, 4, 8, 16, 32)
    width: int = 20
    depth: int = 2
    steps: int = 4000
    lr: float = 3e-3
    interior: int = 512
    newton: int = 0
    cells: int = 4096


SQUARE_NET: dict[str, Any] = {"width": 40, "interior": 2048, "cells": 256}
LINE: dict[str, Any] = {"width": 16, "steps": 300, "interior": 2048, "newton": 40}
FINE: dict[str, Any] = {**LINE, "scales": (1, 4, 16, 64, 128, 256), "interior": 8192, "cells": 16384}
VARIANTS = {
    "smoke": Config(scales=(1, 4), width=8, steps=50, interior=64, cells=128),
    "paper": Config(activation="s2ReLU"),
    "line_p2": Config(**LINE),
    "line_p3": Config(p=3.0, **LINE),
    "line_p4": Config(p=4.0, **LINE),
    "line_p5": Config(p=5.0, **LINE),
    "line_p8": Config(p=8.0, width=20, steps=300, interior=2048, newton=220),
    "line_p2_fine": Config(eps=0.01, **FINE),
    "line_p5_fine": Config(p=5.0, eps=0.01, **FINE),
    "activations": Config(case="activations", steps=1500, cells=0),
    "references": Config(case="references", cells=390),
    "E1": Config(case="E1", **SQUARE_NET),
    "E2": Config(case="E2", **SQUARE_NET),
    "E3": Config(case="E3", **SQUARE_NET),
    "E4": Config(case="E4", **SQUARE_NET),
    "E5": Config(case="E5", **SQUARE_NET),
    "E6": Config(case="E6", **SQUARE_NET),
    "cube": Config(case="cube", scales=(1, 2, 4), width=40, interior=2048, cells=48),
    "five": Config(case="five", scales=(1, 2, 3), width=40, steps=2000, interior=2048, lr=5e-3, cells=0),
}


def network(config: Config, activation: str | None = None) -> MscaleSolver:
    """The multi-scale solver of a configuration."""
    name = activation or config.activation
    if name not in ACTIVATIONS:
        raise ValueError(f"activation is {name!r}, but must be one of {', '.join(ACTIVATIONS)}")
    return MscaleSolver(
        scales=config.scales,
        widths=(config.width,) * config.depth,
        activation=ACTIVATIONS[name],
        ritz=True,
        stages=[Adam(config.steps, lr=config.lr), *([GaussNewton(config.newton)] if config.newton else [])],
        interior=config.interior,
        # first-order training ends far above single precision
        dtype=torch.float64 if config.newton else torch.float32,
    )


def run(config: Config, run: Any) -> dict[str, Any]:
    """Solve one case by the network and a classical solver."""
    if config.case == "references":
        return references(config, run)
    if config.case == "activations":
        solvers: dict[str, Any] = {name: network(config, name) for name in ("s2ReLU", "sReLU", "ReLU")}
        return side_by_side(run, line(config.p, config.eps), solvers)
    if config.case not in CASES:
        raise ValueError(f"case is {config.case!r}, but must be one of {', '.join(CASES)}, references, activations")
    problem = CASES[config.case](config.p, config.eps)
    solvers = {"MscaleDNN": network(config)}
    if config.case == "five":
        solvers["Gauss-Newton, 2 x 32 sines"] = MscaleSolver(
            network=lambda inputs, outputs, generator: Dense(
                inputs, (32, 32), outputs, sine, generator=generator, box=UNIT5
            ),
            ritz=False,
            stages=[GaussNewton(40, resample=8)],
            interior=2500,
        )
    if config.case == "line" and not problem.linear:
        solvers["flux on panels"] = FeatureSolver()
    if config.cells and problem.linear and problem.dim == 2:
        solvers["finite elements P2"] = FiniteElement(config.cells, degree=2)
    elif config.cells:
        solvers["finite differences"] = FiniteDifference(config.cells)
    return side_by_side(run, problem, solvers)


def references(config: Config, run: Any) -> dict[str, Any]:
    """E1 to E6 by classical solvers: the published grids reproduced, beside a finer solution."""
    rows, metrics = [], {}
    fine = {}
    for case, largest in published("multiscale_elliptic")["largest value"].items():
        problem = CASES[case](0, 0)
        if problem.linear:
            coarse = FiniteElement(65, degree=1, coefficient="centre")
            resolved: Any = FiniteElement(config.cells, degree=2)
        else:
            coarse = FiniteElement(64, degree=1, coefficient="centre")
            resolved = FiniteElement(min(config.cells, 128), degree=2)
        a = run.solve(f"{case}-published-grid", coarse, problem)
        b = fine[case] = run.solve(f"{case}-resolved", resolved, problem)
        nodes = torch.linspace(0, 1, coarse.n + 1, dtype=torch.float64)
        low, high = problem.domain.bounds
        grid = low + (high - low) * torch.cartesian_prod(nodes, nodes)
        metrics[case] = {
            "published_max": largest,
            "reproduced_max": float(a(grid).max()),
            "resolved_max": float(b(grid).max()),
            "rel_l2_sq_of_published_grid": compare(a, b, grid)["rel_l2_sq"],
        }
        rows.append({"case": case, **metrics[case], "seconds": b.seconds})
    draw_fields(run, CASES["E4"](0, 0), {"E3": fine["E3"], "E4": fine["E4"]}, None)
    return {**metrics, "table": rows}
