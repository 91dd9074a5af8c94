"""Burgers' equation u_t + u u_x = nu u_xx on [-1, 1], u(0, x) = -sin pi x, u(t, +-1) = 0, 0 < t < 1.

The exact solution is that of Cole and Hopf: with F(y) = exp(-cos(pi y) / (2 pi nu)),

    u(t, x) = -int sin(pi (x - z)) F(x - z) exp(-z^2 / 4 nu t) dz / int F(x - z) exp(-z^2 / 4 nu t) dz.

The variant ``sharp`` solves nu = 0.01/pi by Gauss-Newton: initial and boundary values built in, points where the
residual is. The variant ``inverse`` finds nu from noisy values of u at random points. How well it can be found is
limited by the data: at nu = 0.01/pi the shock is so thin that 200 uniform points with 1 % noise hardly touch it
(`information_limit`).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sciml import PDE, Box, Data, Dirichlet, Evolution, FiniteDifference, Initial, MscaleSolver
from sciml.networks import Dense, tanh
from sciml.optimizers import GaussNewton
from sciml.report import side_by_side
from sciml.training import Adam, Stage

PI = math.pi
SPACE_TIME = ([0.0, -1.0], [1.0, 1.0])


def cole_hopf(nu: float, nodes: int = 200) -> Callable[[Tensor], Tensor]:
    """The exact solution on points (t, x), by Gauss-Hermite quadrature with the exponentials kept in range."""
    z, w = (torch.as_tensor(a) for a in np.polynomial.hermite.hermgauss(nodes))

    def exact(p: Tensor) -> Tensor:
        t, x = p[:, :1], p[:, 1:]
        y = x - 2 * (nu * t).sqrt() * z
        exponent = -torch.cos(PI * y) / (2 * PI * nu)
        f = w * torch.exp(exponent - exponent.max(1, keepdim=True).values)
        return -(torch.sin(PI * y) * f).sum(1) / f.sum(1)

    return exact


def initial(x: Tensor) -> Tensor:
    """u at t = 0; the last column is x, in space as in space-time."""
    return -torch.sin(PI * x[:, -1])


def forward(nu: float) -> Evolution:
    """The problem with known viscosity."""
    rate = lambda x, u: -u * u.x + nu * u.xx  # noqa: E731
    return Evolution(Box([-1], [1]), rate, initial, [Dirichlet(0.0)], exact=cole_hopf(nu))


def inverse(nu: float, start: float, count: int, noise: float, seed: int) -> PDE:
    """The problem with unknown viscosity and `count` measured values, each with noise relative to their spread."""
    exact = cole_hopf(nu)
    generator = torch.Generator().manual_seed(seed)
    domain = Box([0, -1], [1, 1])
    points = domain.interior(count, generator)
    values = exact(points)
    values = values + noise * values.std() * torch.randn(count, generator=generator, dtype=torch.float64)
    conditions = [Initial(initial), Dirichlet(0.0), Data(points, values)]
    residual = lambda x, u, q: u.t + u * u.x - q.nu * u.xx  # noqa: E731
    return PDE(domain, "tx", residual, conditions, exact=exact, unknowns={"nu": start})


def information_limit(config: Config, problem: PDE) -> float:
    """Cramer-Rao bound: no unbiased estimate of nu from these points and this noise has a smaller standard error."""
    data = next(c for c in problem.conditions if isinstance(c, Data))
    h = 1e-3 * config.nu
    slope = (cole_hopf(config.nu + h)(data.points) - cole_hopf(config.nu - h)(data.points)) / (2 * h)
    return float(config.noise * cole_hopf(config.nu)(data.points).std() / slope.norm())


@dataclass(frozen=True)
class Config:
    """Options of a run.

    Attributes:
        nu: viscosity.
        width: of the network.
        depth: hidden layers.
        steps: of Adam; 0 begins with Gauss-Newton.
        lr: first learning rate.
        newton: Gauss-Newton steps after Adam.
        resample: new points for Gauss-Newton every so many steps; 0 keeps one set.
        hard: build the initial and boundary values into the network, and draw points in proportion to the residual.
        interior: points inside.
        boundary: points on the edge.
        penalty: weight of initial, boundary and data terms.
        cells: of finite differences; 0 leaves them out.
        data: measured values; 0 for the forward problem.
        noise: of the data, relative to their standard deviation.
        start: viscosity at the start of the inverse problem.
    """

    nu: float = 0.01 / PI
    width: int = 24
    depth: int = 3
    steps: int = 3000
    lr: float = 3e-3
    newton: int = 0
    resample: int = 0
    hard: bool = False
    interior: int = 3000
    boundary: int = 400
    penalty: float = 10.0
    cells: int = 1024
    data: int = 0
    noise: float = 0.01
    start: float = 0.05


VARIANTS = {
    "smoke": Config(nu=0.1, width=8, depth=2, steps=30, newton=3, interior=200, boundary=60, cells=64),
    "paper": Config(),
    "sharp": Config(steps=0, newton=480, resample=10, hard=True, interior=4000, cells=2048),
    "viscous": Config(nu=0.1, cells=256),
    "inverse": Config(nu=0.05, start=0.2, data=200, width=20, newton=60, steps=500, interior=2000, cells=0),
    "inverse_sharp": Config(start=0.05, data=200, width=20, newton=80, steps=500, interior=2000, cells=0),
}


def run(config: Config, run: Any) -> dict[str, Any]:
    """Solve forwards, or find the viscosity from data."""
    stages: list[Stage] = [Adam(config.steps, lr=config.lr)] if config.steps else []
    if config.newton:
        stages.append(GaussNewton(config.newton, resample=config.resample or None))

    def network(inputs: int, outputs: int, generator: torch.Generator) -> torch.nn.Module:
        widths, box = (config.width,) * config.depth, SPACE_TIME if config.hard else None
        return Dense(inputs, widths, outputs, activation=tanh, generator=generator, box=box, normalise=box is not None)

    solver = MscaleSolver(
        network=network,
        penalty=config.penalty,
        stages=stages,
        interior=config.interior,
        boundary=config.boundary,
        hard=config.hard or None,
        adaptive=config.hard,
    )
    if not config.data:
        solvers: dict[str, Any] = {"network": solver}
        if config.cells:
            solvers["finite differences"] = FiniteDifference(config.cells)
        return side_by_side(run, forward(config.nu), solvers)
    problem = inverse(config.nu, config.start, config.data, config.noise, run.seed)
    metrics = side_by_side(run, problem, {"network": solver})
    value, error = run.load(run.path / "network.h5", problem=problem).parameters["nu"]
    found = {
        "true": config.nu,
        "information limit": information_limit(config, problem),
        "found": value,
        "standard error": error,
        "relative error": abs(value / config.nu - 1),
        "standard errors away": abs(value - config.nu) / error,
    }
    return {**metrics, "nu": found, "table": [*metrics["table"], {"method": "nu", **found}]}
