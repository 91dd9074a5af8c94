"""Poisson's equation -Lap u = f: oscillatory solutions, perforated domains, networks beside classical solvers.

Problems of MscaleDNN (arXiv:2007.11207; ``stored`` is the case whose result the authors publish with their code) and
of the F-principle on Jacobi iteration (arXiv:1901.06523). Every source is made from the exact solution by automatic
differentiation.

    stored       u = sin mu x on [-1, 1], mu = 6 pi
    squares      u = sum_i sin(mu x_i^2) on [-1, 1]^d, mu = 15
    holes        u = sin mu x sin mu y on [-1, 1]^2 minus three discs and an ellipse, mu = 7 pi; also 5, 7 and 20 holes
    ring         u = J_0(mu |x|) for 1 < |x| < 3
    cube         u = prod_i sin mu x_i on [-1, 1]^3 minus 27 or 125 balls
    oscillatory  u = mean_m exp(sin m pi x) mean_n exp(cos n pi y), m, n = 1..20, on [-1, 1]^2
    jacobi       -u'' = sin x + 4 sin 4x - 8 sin 8x + 16 sin 24x on [-1, 1]: which frequencies converge first
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import torch
from scipy.special import j0
from torch import Tensor

from sciml import (
    Ball,
    Box,
    Ellipsoid,
    Elliptic,
    FeatureSolver,
    FiniteDifference,
    FiniteElement,
    Jacobi,
    MscaleSolver,
    compare,
)
from sciml.networks import Dense, glorot, sine
from sciml.optimizers import SOAP
from sciml.report import published, side_by_side
from sciml.training import Adam

PI = math.pi

# (x, y, diameter) of holes by their lower left corner, as the authors' mesh generators give them
SEVEN = "(.1,.1,.225),(.3,.5,.16),(.6,.2,.2),(.825,.5,.125),(.1,.75,.1),(.8,.75,.16),(.4,.75,.09)"
FIVE = "(.3,.3,.4),(-.6,.5,.3),(-.7,-.5,.3),(-.2,-.5,.225),(.4,-.7,.3)"
TWENTY = (
    "(.1,.1,.225),(.3,.5,.125),(.6,.2,.3),(.825,.5,.075),(.1,.75,.1),(-.1,.8,.075),(-.4,.5,.3),(-.6,.2,.1),"
    "(-.8,.7,.2),(-.9,.1,.1),(-.1,-.75,.1),(-.4,-.8,.075),(-.3,-.5,.075),(-.6,-.2,.125),(-.825,-.5,.3),"
    "(.1,-.5,.075),(.3,-.2,.175),(.5,-.75,.125),(.725,-.3,.1),(.9,-.9,.1)"
)


def discs(box: Box, table: str) -> Any:
    """A box minus the discs of a table above."""
    domain: Any = box
    for entry in table.strip("()").split("),("):
        x, y, d = map(float, entry.split(","))
        domain = domain - Ball([x + d / 2, y + d / 2], d / 2)
    return domain


def plate() -> Any:
    """The square minus three discs and an ellipse."""
    square = Box([-1, -1], [1, 1]) - Ball([-0.5, -0.5], 0.1) - Ball([0.5, 0.5], 0.2) - Ball([0.5, -0.5], 0.2)
    return square - Ellipsoid([-0.5, 0.5], [0.25, 0.125])


def swiss_cube(per_side: int, radius: float) -> Any:
    """[-1, 1]^3 minus a lattice of balls."""
    lattice = np.linspace(-0.8, 0.8, per_side)
    domain: Any = Box([-1, -1, -1], [1, 1, 1])
    for centre in np.stack(np.meshgrid(lattice, lattice, lattice), -1).reshape(-1, 3):
        domain = domain - Ball(centre.tolist(), radius)
    return domain


def product_of_sines(mu: float) -> Callable[[Tensor], Tensor]:
    """u = prod_i sin mu x_i."""
    return lambda x: torch.sin(mu * x).prod(1)


def squares(d: int, mu: float) -> Elliptic:
    """u = sum_i sin(mu x_i^2)."""
    return Elliptic.manufactured(Box([-1.0] * d, [1.0] * d), lambda x: torch.sin(mu * x**2).sum(1))


def ring(mu: float) -> Elliptic:
    """u = J_0(mu |x|), for which -Lap u = mu^2 u."""

    def exact(x: Tensor) -> Tensor:
        # torch.special.bessel_j0 is wrong in the seventh digit
        return torch.as_tensor(j0(mu * x.detach().cpu().norm(dim=1).numpy()), dtype=x.dtype, device=x.device)

    domain = Ball([0, 0], 3.0) - Ball([0, 0], 1.0)
    return Elliptic(domain, lambda x: mu**2 * exact(x), exact, exact=exact)


def oscillatory(count: int) -> Elliptic:
    """A product of two means over `count` frequencies."""
    k = PI * torch.arange(1, count + 1, dtype=torch.float64)

    def exact(x: Tensor) -> Tensor:
        return torch.exp(torch.sin(x[:, :1] * k)).mean(1) * torch.exp(torch.cos(x[:, 1:] * k)).mean(1)

    return Elliptic.manufactured(Box([-1, -1], [1, 1]), exact)


WAVES = ((1, 1.0), (4, 4.0), (8, -8.0), (24, 16.0))


def four_waves() -> Elliptic:
    """-u'' = sum_k c_k sin k x with zero values at both ends."""

    def periodic(x: Tensor) -> Tensor:
        return torch.stack([c / k**2 * torch.sin(k * x) for k, c in WAVES]).sum(0)

    def exact(x: Tensor) -> Tensor:
        return periodic(x[:, 0]) - periodic(torch.ones_like(x[:, 0])) * x[:, 0]

    def source(x: Tensor) -> Tensor:
        return torch.stack([c * torch.sin(k * x[:, 0]) for k, c in WAVES]).sum(0)

    return Elliptic(Box([-1], [1]), source, 0.0, exact=exact)


CASES: dict[str, Callable[[Config], Elliptic]] = {
    "stored": lambda c: Elliptic.manufactured(Box([-1], [1]), product_of_sines(c.mu)),
    "squares1": lambda c: squares(1, c.mu),
    "squares2": lambda c: squares(2, c.mu),
    "squares3": lambda c: squares(3, c.mu),
    "holes": lambda c: Elliptic.manufactured(plate(), product_of_sines(c.mu)),
    "holes5": lambda c: Elliptic.manufactured(discs(Box([-1, -1], [1, 1]), FIVE), product_of_sines(c.mu)),
    "holes7": lambda c: Elliptic.manufactured(discs(Box([0, 0], [1, 1]), SEVEN), product_of_sines(c.mu)),
    "holes20": lambda c: Elliptic.manufactured(discs(Box([-1, -1], [1, 1]), TWENTY), product_of_sines(c.mu)),
    "ring": lambda c: ring(c.mu),
    "cube27": lambda c: Elliptic.manufactured(swiss_cube(3, 0.125), product_of_sines(c.mu)),
    "cube125": lambda c: Elliptic.manufactured(swiss_cube(5, 0.075), product_of_sines(c.mu)),
    "oscillatory": lambda c: oscillatory(20),
    "jacobi": lambda c: four_waves(),
}


@dataclass(frozen=True)
class Config:
    """Options of a run.

    Attributes:
        case: one of the problems above.
        mu: its wavenumber.
        scales: of the multi-scale network.
        width: of each subnetwork.
        depth: hidden layers.
        steps: of Adam.
        lr: first learning rate.
        optimiser: "adam" or "soap", Adam in slowly turning bases; both see gradients only.
        interior: points inside per step.
        boundary: points on the edge per step.
        penalty: weight of the boundary term.
        plain: also train one plain network of the same size; its steps are `plain_steps` (0: as many).
        plain_steps: steps of the plain network.
        cells: of finite differences on the longest side; 0 leaves them out.
        elements: of finite elements on the longest side; 0 leaves them out.
        features: also solve by least squares on frozen features.
    """

    case: str = "holes"
    mu: float = 7 * PI
    scales: tuple[float, ...] = (1, 2, 4, 8, 16, 32)
    width: int = 50
    depth: int = 2
    steps: int = 2500
    lr: float = 4e-3
    optimiser: str = "adam"
    interior: int = 4096
    boundary: int = 1024
    penalty: float = 300.0
    plain: bool = True
    plain_steps: int = 0
    cells: int = 256
    elements: int = 0
    features: bool = False


STORED = Config(
    case="stored",
    mu=6 * PI,
    width=30,
    depth=3,
    steps=5000,
    lr=1e-3,
    interior=1000,
    boundary=100,
    penalty=1000.0,
    cells=1024,
)
VARIANTS = {
    "demo": Config(steps=1000, interior=2048, boundary=512, features=True),
    "smoke": Config(case="squares1", mu=5, scales=(1, 2, 4), width=10, steps=60, interior=100, boundary=20, cells=64),
    "paper": STORED,
    "stored": STORED,
    "squares1": Config(case="squares1", mu=15, cells=2048),
    "squares2": Config(case="squares2", mu=15),
    "squares3": Config(case="squares3", mu=15, cells=64),
    "holes": Config(steps=700, lr=1e-2, optimiser="soap", interior=3072, boundary=768, penalty=500.0, elements=32),
    "holes_adam": Config(steps=2000, elements=32),
    "holes5": Config(case="holes5"),
    "holes7": Config(case="holes7"),
    "holes20": Config(case="holes20"),
    "ring": Config(case="ring", mu=5.0),
    "cube27": Config(case="cube27", mu=5.0, cells=48),
    "cube125": Config(case="cube125", mu=5.0, cells=48),
    "oscillatory": Config(case="oscillatory"),
    "jacobi": Config(case="jacobi", width=100, steps=4000, lr=1e-3, interior=512, cells=128),
}


def stage(config: Config, steps: int) -> Adam | SOAP:
    """First-order training."""
    stages = {"adam": Adam, "soap": SOAP}
    if config.optimiser not in stages:
        raise ValueError(f"optimiser is {config.optimiser!r}, but must be adam or soap")
    return stages[config.optimiser](steps, lr=config.lr)


def networks(config: Config) -> dict[str, Any]:
    """The multi-scale network and the plain one of as many parameters."""
    mscale = MscaleSolver(
        scales=config.scales,
        widths=(config.width,) * config.depth,
        penalty=config.penalty,
        stages=[stage(config, config.steps)],
        interior=config.interior,
        boundary=config.boundary,
        dtype=torch.float32,  # first-order training ends far above single precision
    )
    if not config.plain:
        return {"MscaleDNN": mscale}

    # N subnetworks of width w hold N w^2 weights per layer, one network of width sqrt(N) w as many
    plain = partial(plain_network, (round(config.width * len(config.scales) ** 0.5),) * config.depth)
    stages = [stage(config, config.plain_steps or config.steps)]
    return {"MscaleDNN": mscale, "plain network": replace(mscale, network=plain, stages=stages)}


def frequencies(config: Config, run: Any, problem: Elliptic) -> dict[str, Any]:
    """Which frequencies converge first: a network learns low ones first, Jacobi's iteration damps high ones first."""
    from sciml.theory import FrequencyProbe, Sine

    exact = problem.exact
    assert exact is not None
    grid = Sine([-1.0], [1.0], config.cells - 1)  # the nodes of the finite differences
    probe = FrequencyProbe(grid, reference=problem.exact)
    network = MscaleSolver(
        network=lambda inputs, outputs, generator: Dense(inputs, (config.width,) * 2, outputs, generator=generator),
        stages=[Adam(config.steps, lr=config.lr)],
        interior=config.interior,
    )
    learned = run.solve("network", network, problem, callbacks=[probe])
    at, error = probe.series("error", learned.history.records)
    steps: dict[str, list[float]] = {"network": list(at), "Jacobi": []}
    errors: dict[str, list[Any]] = {"network": list(error), "Jacobi": []}

    def watch(iteration: int, values: Tensor) -> None:
        if iteration and (iteration & (iteration - 1) == 0 or iteration % 256 == 0):
            steps["Jacobi"].append(iteration)
            errors["Jacobi"].append(probe.measure(lambda x: values[1:-1])["error"])

    Jacobi(config.cells, iterations=4 * config.cells**2 // 5).solve(problem, callbacks=[watch])
    rows = []
    with run.figure("frequencies", 11.0, 4.0) as figure:
        for ax, method in zip(figure.subplots(1, 2), steps, strict=True):
            at, error = np.array(steps[method]), np.array(errors[method])
            first = [at[below][0] if (below := e < 0.1).any() else None for e in error.T]
            rows.append({"method": method, **{f"k = {k:.1f}": f for k, f in zip(probe.k, first, strict=True)}})
            for k, e in zip(probe.k, error.T, strict=True):
                ax.plot(at, e, label=f"k = {k:.1f}")
            ax.set(title=method, xlabel="step", ylabel="relative error of the mode", xscale="log", yscale="log")
            ax.legend(fontsize=7)
    metrics = {"network": compare(learned, exact, problem.domain), "steps to 10 %": rows}
    return {**metrics, "table": rows}


def stored(config: Config, run: Any, problem: Elliptic) -> dict[str, Any]:
    """The authors' experiment: equal scales, geometric scales and a plain network at their budget, in their measure."""
    solvers = networks(config)
    solvers = {
        "MscaleDNN, scales 32 x 6": replace(solvers["MscaleDNN"], scales=(32,) * 6),
        "MscaleDNN, scales 1..32": solvers["MscaleDNN"],
        # 180 x 180 x 180 as published: more parameters than the subnetworks have together
        "plain network": replace(solvers["plain network"], network=partial(plain_network, (180,) * 3)),
        "finite differences": FiniteDifference(config.cells),
    }
    metrics = side_by_side(run, problem, solvers)
    for row in metrics["table"]:
        row["area x MSE"] = metrics[row["method"]]["area x MSE"] = 2 * metrics[row["method"]]["mse"]
    return {**metrics, "published": published("mscalednn_stored")}


def plain_network(widths: tuple[int, ...], inputs: int, outputs: int, generator: torch.Generator) -> torch.nn.Module:
    """Hidden layers of sines, Glorot weights: what MscaleDNN is compared with."""
    return Dense(inputs, widths, outputs, activation=sine, initialisation=glorot, generator=generator)


def run(config: Config, run: Any) -> dict[str, Any]:
    """Solve one case by every method of the configuration."""
    if config.case not in CASES:
        raise ValueError(f"case is {config.case!r}, but must be one of {', '.join(CASES)}")
    problem = CASES[config.case](config)
    if config.case == "jacobi":
        return frequencies(config, run, problem)
    if config.case == "stored" and config.plain:
        return stored(config, run, problem)
    solvers = networks(config)
    if config.cells:
        solvers["finite differences"] = FiniteDifference(config.cells)
    if config.features:
        solvers["frozen features"] = FeatureSolver()
    if config.elements:
        solvers["finite elements P4"] = FiniteElement(config.elements, degree=4)
    return side_by_side(run, problem, solvers)
