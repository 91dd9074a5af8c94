"""How many digits frozen features reach with nothing tuned, and whether the solver knows how many it has.

Every case is solved with default settings but the tolerance; the seed draws the points, and in the case "random" the
problem as well: disjoint discs and ellipses in a square, u = sin mu x sin nu y with mu and nu between 1 and 12 pi.
The error is relative L2 at 20,000 uniform points, or, where no solution is known in closed form, a bound by the maximum
principle. The estimate is the solver's own.

    square    u = sin 7 pi x sin 7 pi y on the four perforated squares in turn
    random    as above
    load      -Lap u = 1, u = 0 on the perforated square, on seven and twenty discs, and on an L-shape
    corner    variable coefficient on the L-shape, u = (1-x^2)(1-y^2) r^(2/3) sin(2 theta / 3); on discs, a smooth one
    screened  Poisson-Boltzmann with a 20 pi mode in the coefficient and seven discs
    line      1-D p-Laplacians, p = 2, 5, 8, eps = 0.1 and 0.01
    ten       10-D Poisson, u = sum of x_{2k-1} x_{2k}, and u = sin of three times the mean of x
    cube      [-1, 1]^3 minus 27 balls, u = prod sin 5 x_i
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sciml import Ball, Box, Ellipsoid, Elliptic, FeatureSolver, Polygon, compare

from . import p_laplacian, poisson, poisson_boltzmann

PI = math.pi
SQUARE = ([-1.0, -1.0], [1.0, 1.0])


def square_of(name: str, mu: float) -> Elliptic:
    """A case of `poisson`."""
    return poisson.CASES[name](poisson.Config(case=name, mu=mu))


def random_problem(seed: int) -> Elliptic:
    """Two to six disjoint holes in a square and a product of sines."""
    generator = np.random.default_rng(seed)
    domain: Any = Box(*SQUARE)
    placed: list[tuple[np.ndarray, float]] = []
    count = int(generator.integers(2, 7))
    while len(placed) < count:
        radius, centre = float(generator.uniform(0.05, 0.3)), generator.uniform(-0.9, 0.9, 2)
        clear = all(np.linalg.norm(centre - c) > radius + r + 0.04 for c, r in placed)
        if not clear or np.abs(centre).max() + radius > 0.96:
            continue
        placed.append((centre, radius))
        if generator.random() < 0.5:
            domain = domain - Ball(centre.tolist(), radius)
        else:
            axes = [radius, radius * float(generator.uniform(0.4, 0.9))]
            domain = domain - Ellipsoid(centre.tolist(), axes, rotation=float(generator.uniform(0, PI)))
    mu, nu = generator.uniform(1.0, 12 * PI, 2)
    return Elliptic.manufactured(domain, lambda x: torch.sin(mu * x[:, 0]) * torch.sin(nu * x[:, 1]))


def l_shape() -> Polygon:
    """[-1, 1]^2 without its lower right quarter."""
    return Polygon([[0, 0], [0, -1], [-1, -1], [-1, 1], [1, 1], [1, 0]])


def corner_solution(x: Tensor) -> Tensor:
    """(1 - x^2)(1 - y^2) r^(2/3) sin(2 theta / 3), theta from the side along the positive x-axis."""
    theta = torch.atan2(x[:, 1], x[:, 0])
    theta = torch.where(theta < -1e-12, theta + 2 * PI, theta)
    r = x.square().sum(1)
    return (1 - x**2).prod(1) * r ** (1 / 3) * torch.sin(2 * theta / 3)


def bent(x: Tensor) -> Tensor:
    """A variable coefficient."""
    return 1 + 0.5 * torch.sin(2 * x[:, 0] + x[:, 1])


def ten(exact: Callable[[Tensor], Tensor]) -> Elliptic:
    """Ten dimensions."""
    return Elliptic.manufactured(Box([0.0] * 10, [1.0] * 10), exact)


def load(domain: Any) -> Elliptic:
    """Unit load, no closed form."""
    return Elliptic(domain, 1.0, 0.0)


HOLES = ("holes", "holes5", "holes7", "holes20")
CASES: dict[str, dict[str, Callable[[int], Elliptic]]] = {
    "square": {name: lambda seed, name=name: square_of(name, 7 * PI) for name in HOLES},  # type: ignore[misc]
    "random": {"random holes": random_problem},
    "load": {
        "plate": lambda seed: load(poisson.plate()),
        "seven discs": lambda seed: load(poisson.discs(Box([0, 0], [1, 1]), poisson.SEVEN)),
        "twenty discs": lambda seed: load(poisson.discs(Box(*SQUARE), poisson.TWENTY)),
        "L-shape": lambda seed: load(l_shape()),
    },
    "corner": {
        "L-shape": lambda seed: Elliptic.manufactured(l_shape(), corner_solution, diffusion=bent),
        "plate": lambda seed: Elliptic(poisson.plate(), 1.0, 0.0, diffusion=bent),
    },
    "screened": {"scales": lambda seed: poisson_boltzmann.scales(2, 30)},
    "line": {
        f"p = {p}, eps = {eps}": lambda seed, p=p, eps=eps: p_laplacian.line(p, eps)  # type: ignore[misc]
        for p in (2.0, 5.0, 8.0)
        for eps in (0.1, 0.01)
    },
    "ten": {
        "products": lambda seed: ten(lambda x: (x[:, ::2] * x[:, 1::2]).sum(1)),
        "mean": lambda seed: ten(lambda x: torch.sin(3 * x.mean(1))),
    },
    "cube": {"27 balls": lambda seed: square_of("cube27", 5.0)},
}


@dataclass(frozen=True)
class Config:
    """Options of a run.

    Attributes:
        case: one of those above.
        tolerance: what the solver is asked for.
        problems: how many different problems of the case "random".
    """

    case: str = "square"
    tolerance: float = 1e-11
    problems: int = 10


VARIANTS = {
    "smoke": Config(case="load", tolerance=1e-3),
    "paper": Config(),
    "square": Config(),
    "random": Config(case="random", tolerance=1e-9),
    "load": Config(case="load", tolerance=1e-6),
    "corner": Config(case="corner", tolerance=1e-6),
    "screened": Config(case="screened", tolerance=1e-8),
    "line": Config(case="line", tolerance=1e-11),
    "ten": Config(case="ten", tolerance=1e-4),
    "cube": Config(case="cube", tolerance=1e-6),
}


def certified(problem: Elliptic, solution: Any) -> float:
    """A bound of the relative L2 error of -Lap u = 1, u = 0, at dense points.

    |e| <= max |e| on the boundary + max |residual| diameter^2 / 8 by the maximum principle; both maxima are taken at
    20,000 points, and the L2 norm of a constant is compared with that of the solution.
    """
    generator = torch.Generator().manual_seed(7)
    edge, _, _ = problem.domain.boundary(20000, generator)
    inside = problem.domain.interior(20000, generator)
    residual = problem.residual(problem.jet(solution, inside), inside).abs().max()
    low, high = problem.domain.bounds
    size = solution(inside).square().mean().sqrt()
    return float((solution(edge).abs().max() + residual * (high - low).square().sum() / 8) / size)


def run(config: Config, run: Any) -> dict[str, Any]:
    """Solve all problems of a case; tell error, estimate and time of each."""
    if config.case not in CASES:
        raise ValueError(f"case is {config.case!r}, but must be one of {', '.join(CASES)}")
    makers = {
        f"{name} {k}" if config.case == "random" else name: (make, run.seed * config.problems + k)
        for name, make in CASES[config.case].items()
        for k in range(config.problems if config.case == "random" else 1)
    }
    rows = []
    for name, (make, seed) in makers.items():
        problem = make(seed)
        solution = run.solve(name, FeatureSolver(tolerance=config.tolerance), problem)
        known = problem.exact is not None
        bounded = not known and problem.constant_diffusion is not None
        error = compare(solution, problem.exact, problem.domain)["rel_l2"] if problem.exact is not None else None
        if bounded:
            error = certified(problem, solution)
        rows.append(
            {
                "problem": name,
                "error": error,
                "measured as": "error" if known else "bound" if bounded else "not known",
                "estimate": solution.error_estimate,
                "estimate / error": None if error is None else solution.error_estimate / max(error, 1e-15),
                "unknowns": solution.cost["unknowns"],
                "seconds": solution.seconds,
                "converged": solution.status.startswith("converged"),
            }
        )
    draw(run, rows)
    errors = [r["error"] for r in rows if r["error"] is not None]
    ratios = [r["estimate / error"] for r in rows if r["measured as"] == "error"]
    summary = {
        "median error": statistics.median(errors) if errors else None,
        "largest error": max(errors, default=None),
        "largest seconds": max(r["seconds"] for r in rows),
        "estimates within a factor of 10": sum(0.1 <= q <= 10 for q in ratios),
        "estimates": len(ratios),
    }
    return {**summary, **{r["problem"]: r for r in rows}, "table": rows}


def draw(run: Any, rows: list[dict[str, Any]]) -> None:
    """Save ``estimates.png``: the solver's estimate against the error."""
    known = [r for r in rows if r["error"] is not None]
    with run.figure("estimates", 5.0, 4.5) as figure:
        ax = figure.subplots()
        ax.loglog([r["error"] for r in known], [r["estimate"] for r in known], "o")
        ends = np.array([1e-16, 1.0])
        for factor, style in ((1, "-"), (10, ":"), (0.1, ":")):
            ax.loglog(ends, factor * ends, "k" + style, linewidth=0.7)
        ax.set(xlabel="relative L2 error", ylabel="estimate of the solver", title="what the solver says of itself")
