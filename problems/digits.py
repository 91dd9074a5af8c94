"""How many digits `sciml.solve` reaches with nothing tuned, and whether it knows how many it has.

Every case is solved with default settings but the tolerance; the seed draws the points, and in the case "random" the
problem as well: disjoint discs and ellipses in a square, u = sin mu x sin nu y with mu and nu between 1 and 12 pi.
The error is relative L2 at 20,000 uniform points. Where no solution is known in closed form, it is measured against a
harmonic series, whose own error is bounded by the maximum principle (`_load`), or against elements of degree 4.

    square    u = sin 7 pi x sin 7 pi y on the four perforated squares in turn
    random    as above
    load      -Lap u = 1, u = 0 on the perforated square, on seven and twenty discs, and on an L-shape
    corner    variable coefficient on the L-shape, u = (1-x^2)(1-y^2) r^(2/3) sin(2 theta / 3); on discs, source 1
    screened  Poisson-Boltzmann with a 20 pi mode in the coefficient and seven discs
    line      1-D p-Laplacians, p = 2, 5, 8, eps = 0.1 and 0.01
    five      Example 4.6 of arXiv:2009.14597
    ten       10-D Poisson, u = sum of x_{2k-1} x_{2k}, and u = sin of three times the mean of x
    burgers   nu = 0.01 / pi, against Cole and Hopf
    cube      [-1, 1]^3 minus 27 balls, u = prod sin 5 x_i
    bead      Poisson-Boltzmann with a molecule of 21 balls in three dimensions, mu = 5 (bead15: mu = 15)
    solid     -Lap u = 1, u = 0 in three dimensions: a shell, and cubes minus balls against finer solutions
    elsewhere ellipse, triangle, ring and disc, reactions, layers, Neumann and Robin conditions (`_elsewhere`)
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sciml import PDE, Ball, Box, Ellipsoid, Elliptic, Evolution, FiniteElement, Polygon, Solution, compare, solve

from . import _elsewhere, burgers, p_laplacian, poisson, poisson_boltzmann
from ._load import Hole, unit_load

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


SIDES = ((-1.0, -1.0), (1.0, -1.0), (1.0, 1.0), (-1.0, 1.0))
L_SIDES = ((0.0, 0.0), (1.0, 0.0), (1.0, 1.0), (-1.0, 1.0), (-1.0, -1.0), (0.0, -1.0))
PLATE = (
    (-0.5, -0.5, 0.1, 0.1, 0.0),
    (0.5, 0.5, 0.2, 0.2, 0.0),
    (0.5, -0.5, 0.2, 0.2, 0.0),
    (-0.5, 0.5, 0.25, 0.125, 0.0),
)


def rounds(table: str) -> tuple[Hole, ...]:
    """The discs of a table of `poisson` as holes of the series."""
    entries = [tuple(map(float, e.split(","))) for e in table.strip("()").split("),(")]
    return tuple((x + d / 2, y + d / 2, d / 2, d / 2, 0.0) for x, y, d in entries)


def load(domain: Any, vertices: Sequence[tuple[float, float]], holes: Sequence[Hole] = ()) -> Elliptic:
    """Unit load, measured against a harmonic series."""
    return Elliptic(domain, 1.0, 0.0, exact=unit_load(vertices, holes))


def bent_plate(seed: int) -> Elliptic:
    """A variable coefficient under unit load on the perforated square, measured against curved elements."""
    reference = FiniteElement(160, degree=4).solve(Elliptic(poisson.plate(), 1.0, 0.0, diffusion=bent))
    return Elliptic(poisson.plate(), 1.0, 0.0, diffusion=bent, exact=reference)


def shell(inner: float) -> Elliptic:
    """Unit load between two concentric spheres, in closed form."""

    def exact(x: Tensor) -> Tensor:
        r = x.norm(dim=1)
        return (1 - r**2) / 6 + (inner**2 - 1) / 6 * (1 / r - 1) / (1 / inner - 1)

    return Elliptic(Ball([0, 0, 0], 1.0) - Ball([0, 0, 0], inner), 1.0, 0.0, exact=exact)


@cache
def perforated_cube() -> Elliptic:
    """Unit load on a cube minus two balls, measured against a solution that is asked for a digit more."""
    domain = Box([-1] * 3, [1] * 3) - Ball([0.3, 0.2, -0.4], 0.3) - Ball([-0.4, 0.5, 0.3], 0.25)
    reference = solve(Elliptic(domain, 1.0, 0.0), 1e-7, seed=1_000)
    return Elliptic(domain, 1.0, 0.0, exact=reference)


HOLES = ("holes", "holes5", "holes7", "holes20")
CASES: dict[str, dict[str, Callable[[int], Elliptic | PDE | Evolution]]] = {
    "square": {name: lambda seed, name=name: square_of(name, 7 * PI) for name in HOLES},  # type: ignore[misc]
    "random": {"random holes": random_problem},
    "load": {
        "plate": lambda seed: load(poisson.plate(), SIDES, PLATE),
        "seven discs": lambda seed: load(
            poisson.discs(Box([0, 0], [1, 1]), poisson.SEVEN), ((0, 0), (1, 0), (1, 1), (0, 1)), rounds(poisson.SEVEN)
        ),
        "twenty discs": lambda seed: load(poisson.discs(Box(*SQUARE), poisson.TWENTY), SIDES, rounds(poisson.TWENTY)),
        "L-shape": lambda seed: load(l_shape(), L_SIDES),
    },
    "corner": {
        "L-shape": lambda seed: Elliptic.manufactured(l_shape(), corner_solution, diffusion=bent),
        "plate": bent_plate,
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
    "five": {"five": lambda seed: p_laplacian.CASES["five"](2.0, 0.1)},
    "burgers": {"burgers": lambda seed: burgers.forward(0.01 / PI)},
    "bead": {"mu = 5": lambda seed: poisson_boltzmann.bead(2.0, 5.0)},
    "bead15": {"mu = 15": lambda seed: poisson_boltzmann.bead(2.0, 15.0)},
    "solid": {"shell": lambda seed: shell(0.3), "cube minus two balls": lambda seed: perforated_cube()},
    "elsewhere": {**_elsewhere.CASES},
    "cube": {"27 balls": lambda seed: square_of("cube27", 5.0)},
}


@dataclass(frozen=True)
class Config:
    """Options of a run.

    Attributes:
        case: one of those above.
        tolerance: what the solver is asked for.
        seconds: after which no other method is begun.
        problems: how many different problems of the case "random".
    """

    case: str = "square"
    tolerance: float = 1e-11
    seconds: float = 600.0
    problems: int = 10


VARIANTS = {
    "smoke": Config(case="random", tolerance=1e-3, problems=1),
    "paper": Config(),
    "square": Config(),
    "random": Config(case="random", tolerance=1e-9),
    "load": Config(case="load", tolerance=1e-6),
    "corner": Config(case="corner", tolerance=1e-6),
    "screened": Config(case="screened", tolerance=1e-8),
    "line": Config(case="line", tolerance=1e-11),
    "ten": Config(case="ten", tolerance=1e-4),
    "five": Config(case="five", tolerance=1e-6, seconds=120.0),
    "burgers": Config(case="burgers", tolerance=1e-6, seconds=300.0),
    "elsewhere": Config(case="elsewhere", tolerance=1e-6, seconds=20.0),
    "cube": Config(case="cube", tolerance=1e-6),
    "bead": Config(case="bead", tolerance=1e-3, seconds=120.0),
    "bead15": Config(case="bead15", tolerance=1e-2, seconds=120.0),
    "solid": Config(case="solid", tolerance=1e-6),
}


@dataclass(frozen=True)
class Front:
    """`sciml.solve` with the face of a solver."""

    tolerance: float
    seconds: float

    def solve(self, problem: Any, seed: int, callbacks: Any = (), checkpoint: Any = None) -> Solution:
        """See `sciml.solve`."""
        return solve(problem, self.tolerance, seed, self.seconds, callbacks)


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
        solution = run.solve(name, Front(config.tolerance, config.seconds), problem)
        assert problem.exact is not None
        error = compare(solution, problem.exact, problem.domain)["rel_l2"]
        rows.append(
            {
                "problem": name,
                "error": error,
                "estimate": solution.error_estimate,
                "estimate / error": solution.error_estimate / max(error, 1e-15),
                "error of the oracle": getattr(problem.exact, "largest", None),
                "unknowns": (solution.cost or {}).get("unknowns"),
                "seconds": solution.seconds,
                "converged": solution.status.startswith("converged"),
            }
        )
    draw(run, rows)
    errors = [r["error"] for r in rows]
    ratios = [r["estimate / error"] for r in rows]
    summary = {
        "median error": statistics.median(errors),
        "largest error": max(errors),
        "largest seconds": max(r["seconds"] for r in rows),
        "estimates within a factor of 10": sum(0.1 <= q <= 10 for q in ratios),
        "estimates": len(ratios),
    }
    return {**summary, **{r["problem"]: r for r in rows}, "table": rows}


def draw(run: Any, rows: list[dict[str, Any]]) -> None:
    """Save ``estimates.png``: the solver's estimate against the error."""
    with run.figure("estimates", 5.0, 4.5) as figure:
        ax = figure.subplots()
        ax.loglog([r["error"] for r in rows], [r["estimate"] for r in rows], "o")
        ends = np.array([1e-16, 1.0])
        for factor, style in ((1, "-"), (10, ":"), (0.1, ":")):
            ax.loglog(ends, factor * ends, "k" + style, linewidth=0.7)
        ax.set(xlabel="relative L2 error", ylabel="estimate of the solver", title="what the solver says of itself")
