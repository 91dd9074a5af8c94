"""Green's operators for families of elliptic problems beside factorised classical solvers (MOD-Net, arXiv:2107.03673).

One operator is learned per family and applied to sources that it never saw, from four families:

    quadratic  -a (x^2 - x + y^2 - y), the paper's
    sines      sums of products of sines with random frequencies
    fields     Gaussian random fields
    bumps      narrow Gaussians, far from all of these

Cases: ``line``, ``square``, ``plate`` (a square with three holes), ``variable-line`` and ``variable-square`` (a
diffusion and a reaction that vary), ``cube``. The kernel knows the fundamental solution or has low rank; the variants
``plain`` and ``symmetric`` train the paper's network G(x, x') instead, on labels of compact differences on 64 cells for
random fields of several correlation lengths. The truth is finite elements of degree 4 in two dimensions, compact
differences of fourth order in the cube and for trained kernels, and finite differences on the line; in the timing it is
a sum of sines. The classical solvers there are one sparse factorisation applied to many sources, and sine transforms.
``peers`` sets the best kernel beside DeepONet and FNO, which train on labels of random fields for a given time
(`_greens_peers`).
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from scipy.fft import dstn, idstn
from scipy.sparse import diags_array, eye_array, kron
from scipy.sparse.linalg import splu
from torch import Tensor

from sciml import Ball, Box, Elliptic, Family, FiniteDifference, FiniteElement, GreensSolver, compare
from sciml.domain import Domain
from sciml.optimizers import SOAP
from sciml.problems._compact import compact, distances, sampled  # type: ignore[import-not-found]
from sciml.problems._greens_peers import PEERS, beside  # type: ignore[import-not-found]
from sciml.solvers.lowrank import LowRank
from sciml.solvers.quadrature import gauss, product_points
from sciml.solvers.singular_kernel import SingularityAware
from sciml.solvers.trained import Trained

PI = math.pi
LENGTHS = (0.3, 0.15, 0.1, 0.07)  # of the mixture
LABEL_CELLS = 64
Sampler = Callable[[int, torch.Generator], Callable[[Tensor], Tensor]]


def quadratic(count: int, generator: torch.Generator) -> Callable[[Tensor], Tensor]:
    """-a sum_i (x_i^2 - x_i), a uniform in [5, 15]."""
    a = 5 + 10 * torch.rand(count, generator=generator, dtype=torch.float64)
    return lambda x: -(x**2 - x).sum(1)[:, None] * a


def sines(count: int, generator: torch.Generator, top: int = 6, terms: int = 5) -> Callable[[Tensor], Tensor]:
    """Sums of prod_i sin(k_i pi x_i), k_i at most `top`."""
    k = torch.randint(1, top + 1, (3, count, terms), generator=generator).to(torch.float64)
    c = torch.randn(count, terms, generator=generator, dtype=torch.float64)

    def values(x: Tensor) -> Tensor:
        waves = torch.ones(len(x), count, terms, dtype=x.dtype)
        for i, column in enumerate(x.unbind(1)):
            waves = waves * torch.sin(k[i] * PI * column[:, None, None])
        return (waves * c).sum(-1)

    return values


def fields(count: int, generator: torch.Generator, length: float = 0.15) -> Callable[[Tensor], Tensor]:
    """Gaussian random fields with correlation exp(-r^2 / (2 length^2)), by 200 random waves."""
    frequency = torch.randn(3, 200, generator=generator, dtype=torch.float64) / length
    c = torch.randn(2, 200, count, generator=generator, dtype=torch.float64) / 200**0.5

    def values(x: Tensor) -> Tensor:
        phase = x @ frequency[: x.shape[1]]
        return phase.cos() @ c[0] + phase.sin() @ c[1]

    return values


def mixture(count: int, generator: torch.Generator) -> Callable[[Tensor], Tensor]:
    """Random fields of several correlation lengths, for networks, which know only what they were shown."""
    shares = [len(range(k, count, len(LENGTHS))) for k in range(len(LENGTHS))]
    parts = [fields(n, generator, length) for n, length in zip(shares, LENGTHS, strict=True) if n]
    return lambda x: torch.cat([part(x) for part in parts], 1)


def bumps(count: int, generator: torch.Generator, width: float = 0.08) -> Callable[[Tensor], Tensor]:
    """Gaussians of the given width at random places."""
    centre = 0.2 + 0.6 * torch.rand(3, count, generator=generator, dtype=torch.float64)

    def values(x: Tensor) -> Tensor:
        gaps = torch.stack([column[:, None] - centre[i] for i, column in enumerate(x.unbind(1))])
        return torch.exp(-gaps.square().sum(0) / (2 * width**2))

    return values


SOURCES: dict[str, Sampler] = {"quadratic": quadratic, "sines": sines, "fields": fields, "bumps": bumps}


def diffusion(x: Tensor) -> Tensor:
    """A smooth coefficient between 1/2 and 3/2."""
    return 1 + 0.5 * torch.sin(4 * x).prod(1)


def plate() -> Domain:
    """The unit square minus three discs."""
    return Box([0, 0], [1, 1]) - Ball([0.3, 0.3], 0.1) - Ball([0.7, 0.65], 0.15) - Ball([0.25, 0.75], 0.08)


CASES: dict[str, Callable[[], Elliptic]] = {
    "line": lambda: Elliptic(Box([0], [1]), 1.0, 0.0),
    "square": lambda: Elliptic(Box([0, 0], [1, 1]), 1.0, 0.0),
    "plate": lambda: Elliptic(plate(), 1.0, 0.0),
    "cube": lambda: Elliptic(Box([0, 0, 0], [1, 1, 1]), 1.0, 0.0),
    "variable-line": lambda: Elliptic(Box([0], [1]), 1.0, 0.0, diffusion=diffusion, reaction=lambda x: 3 * x[:, 0]),
    "variable-square": lambda: Elliptic(
        Box([0, 0], [1, 1]), 1.0, 0.0, diffusion=diffusion, reaction=lambda x: 3 * x[:, 0]
    ),
}


KERNELS = ("best", "plain", "symmetric")


@dataclass(frozen=True)
class Config:
    """Options of a run.

    Attributes:
        case: one of the problems above.
        modes: Legendre polynomials per coordinate; 0 takes the kernel's own.
        members: sources drawn from each family.
        cells: of the reference.
        many: sources of the timing (square only; 0 leaves it out).
        side: points per side of the timing.
        kernel: best, or plain or symmetric for a trained network.
        train: sources drawn for a trained network, all of them labelled.
        steps: of its training by SOAP.
        model: weight of the equation in it, that of the labels being one.
        peers: trained on labels beside it: deeponet, fno (square only).
        budget: seconds of each peer's training.
        labels: solved sources that a peer is trained on.
    """

    case: str = "square"
    modes: int = 0
    members: int = 2
    cells: int = 32
    many: int = 0
    side: int = 64
    kernel: str = "best"
    train: int = 400
    steps: int = 8000
    model: float = 0.0
    peers: tuple[str, ...] = ()
    budget: float = 60.0
    labels: int = 1000


VARIANTS = {
    "smoke": Config(case="line", members=1, cells=256),
    "paper": Config(many=1000),
    "line": Config(case="line", cells=4096),
    "square": Config(many=1000),
    "plain": Config(kernel="plain", members=10, cells=64),
    "symmetric": Config(kernel="symmetric", members=10, cells=64, steps=3000),
    "peers": Config(members=50, peers=tuple(PEERS), budget=40.0),
    "plate": Config(case="plate", members=1, cells=20),
    "cube": Config(case="cube", cells=64),
    "variable-line": Config(case="variable-line", cells=4096),
    "variable-square": Config(case="variable-square", modes=30, cells=24),
}


def run(config: Config, run: Any) -> dict[str, Any]:
    """Learn one operator; measure it on all families; time it beside classical solvers."""
    if config.case not in CASES:
        raise ValueError(f"case is {config.case!r}, but must be one of {', '.join(CASES)}")
    if config.kernel not in KERNELS:
        raise ValueError(f"kernel is {config.kernel!r}, but must be one of {', '.join(KERNELS)}")
    problem = CASES[config.case]()
    if config.peers:
        return beside_peers(config, problem, run)
    shown = fields if config.kernel == "best" else mixture
    operator = GreensSolver(kernel_options(config)).solve(Family(problem, shown), seed=run.seed)
    operator.save(run.path / "operator.h5")
    print(f"operator: {operator.seconds:.2f} s, {operator.status}", flush=True)
    metrics: dict[str, Any] = {"training": {"seconds": operator.seconds, **(operator.cost or {})}}
    if config.case == "line":
        metrics["kernel"] = {"rel_l2": tent_error(operator)}
    rows = []
    for name, sampler in SOURCES.items():
        errors = family_errors(config, operator, problem, sampler, torch.Generator().manual_seed(1000 + run.seed))
        metrics[name] = {"rel_l2": float(np.median(errors)), "worst": max(errors)}
        rows.append({"sources": name, "median rel_l2": float(np.median(errors)), "worst": max(errors)})
    if config.many:
        metrics["timing"] = timing(config, operator, run)
        rows += [{"sources": f"{config.many} x {m}", **v} for m, v in metrics["timing"].items()]
    return {**metrics, "table": rows}


def beside_peers(config: Config, problem: Elliptic, run: Any) -> dict[str, Any]:
    """The operator and its peers."""
    for name in config.peers:
        if name not in PEERS or config.case != "square":
            raise ValueError(f"peers holds {name!r} for {config.case!r}, but must be of {', '.join(PEERS)} for square")
    if not (config.budget > 0 and config.labels >= 1):
        raise ValueError(f"budget is {config.budget} and labels is {config.labels}, but both must be positive")
    kernels = {"sciml": kernel_options(config)}
    options = {"labels": config.labels, "members": config.members, "budget": config.budget}
    return beside(config.peers, SOURCES, problem, kernels, run, **options)


def fourth_order(member: Elliptic) -> Callable[[Tensor], Tensor]:
    """Labels: a member of Poisson's equation on the unit square by compact differences, at their nodes."""
    u = torch.as_tensor(compact(sampled(lambda x: member.source(x)[:, None], LABEL_CELLS))[0])
    return lambda x: u[(x * LABEL_CELLS).round().long().unbind(1)]


def kernel_options(config: Config) -> Any:
    """Of the kernel."""
    if config.kernel == "best":
        options = LowRank if "variable" in config.case else SingularityAware
        return options(modes=config.modes or None)
    return Trained(
        widths=(64, 64, 64),
        symmetric=config.kernel == "symmetric",
        nodes=config.modes or 16,
        members=config.train,
        labels=config.train,
        scheme=fourth_order,
        cells=LABEL_CELLS,
        model=config.model,
        points=32,
        stages=[SOAP(config.steps)],
        dtype=torch.float32,
    )


def tent_error(operator: Any) -> float:
    """Distance of the kernel of the line from min(x, x') (1 - max(x, x'))."""
    x, w = gauss(0.0, 1.0, 200)
    exact = torch.minimum(x[:, None], x) * (1 - torch.maximum(x[:, None], x))
    gap = operator.kernel(x[:, None], x[:, None]) - exact
    return float(((gap**2 * w).sum(1) @ w).sqrt() / ((exact**2 * w).sum(1) @ w).sqrt())


def family_errors(
    config: Config, operator: Any, problem: Elliptic, sampler: Sampler, generator: torch.Generator
) -> list[float]:
    """Relative L2 errors for members of a family against a reference solver."""
    if config.case == "cube" or (config.case == "square" and config.kernel != "best"):
        return grid_errors(config, operator, sampler(config.members, generator), problem.dim)
    errors = []
    for _ in range(config.members):
        draw = sampler(1, generator)

        def source(x: Tensor, draw: Callable[[Tensor], Tensor] = draw) -> Tensor:
            return draw(x)[:, 0]

        member = Elliptic(
            problem.domain,
            source,
            0.0,
            diffusion=problem.constant_diffusion or problem.diffusion,
            reaction=problem.reaction,
        )
        solver = FiniteElement(config.cells, degree=4) if problem.dim == 2 else FiniteDifference(config.cells)
        errors.append(compare(operator(source), solver.solve(member), problem.domain, n=4000)["rel_l2"])
    return errors


def grid_errors(config: Config, operator: Any, source: Callable[[Tensor], Tensor], dim: int) -> list[float]:
    """The same for Poisson's equation, on every fourth node of a grid of compact differences."""
    truth = compact(sampled(source, config.cells, dim))[:, *[slice(None, None, 4)] * dim]
    line = torch.linspace(0, 1, config.cells // 4 + 1, dtype=torch.float64)
    found = operator(source)(product_points([line] * dim)).T.reshape(truth.shape).numpy()
    return [float(e) for e in distances(found, truth)]


def sine_series(
    count: int, generator: torch.Generator
) -> tuple[Callable[[Tensor], Tensor], Callable[[Tensor], Tensor]]:
    """Sources on the square that are sums of four products of sines, and their exact solutions."""
    k = torch.randint(1, 5, (2, 4), generator=generator).to(torch.float64)
    c = torch.randn(4, count, generator=generator, dtype=torch.float64)

    def waves(x: Tensor) -> Tensor:
        return torch.sin(PI * k[0] * x[:, :1]) * torch.sin(PI * k[1] * x[:, 1:])

    return (lambda x: waves(x) @ c), (lambda x: waves(x) / (PI**2 * k.square().sum(0)) @ c)


def timing(config: Config, operator: Any, run: Any) -> dict[str, Any]:
    """Processor seconds for many sources on side^2 points, each method from values of the sources at its nodes."""
    n = config.side
    sources, solutions = sine_series(config.many, torch.Generator().manual_seed(run.seed))
    inner = torch.arange(1, n + 1, dtype=torch.float64) / (n + 1)
    grid = product_points([inner, inner])
    exact = solutions(grid).numpy()
    f = sources(grid).numpy()
    line = diags_array([-1.0, 2.0, -1.0], offsets=[-1, 0, 1], shape=(n, n)) * (n + 1) ** 2
    factors = splu((kron(line, eye_array(n)) + kron(eye_array(n), line)).tocsc())
    waves = (np.pi * np.arange(1, n + 1)) ** 2

    def sine_transform() -> np.ndarray:
        c = dstn(f.T.reshape(-1, n, n), type=1, axes=(1, 2)) / (waves[:, None] + waves)
        return idstn(c, type=1, axes=(1, 2)).reshape(-1, n * n).T

    methods: dict[str, tuple[Callable[[], np.ndarray], np.ndarray]] = {
        "sparse LU": (lambda: factors.solve(f), exact),
        "sine transform": (sine_transform, exact),
    }
    for modes in (10, 14, 20):
        matrix, nodes = operator_matrix(modes, grid)
        values = sources(nodes).numpy()
        methods[f"operator, {modes}^2 nodes"] = partial(np.matmul, matrix, values), exact
    result = {}
    for name, (apply, truth) in methods.items():
        begin = time.process_time()
        found = apply()
        seconds = time.process_time() - begin
        result[name] = {"seconds": seconds, "rel_l2": float(np.linalg.norm(found - truth) / np.linalg.norm(truth))}
    return result


def operator_matrix(modes: int, points: Tensor) -> tuple[np.ndarray, Tensor]:
    """The operator of the square as a matrix from values of a source at modes^2 Gauss nodes to values at points."""
    operator = GreensSolver(SingularityAware(modes=modes)).solve(CASES["square"]())
    x, _ = gauss(0.0, 1.0, modes)
    nodes = product_points([x, x])
    unit = torch.eye(len(nodes), dtype=torch.float64)

    def columns(there: Tensor) -> Tensor:
        if there.shape != nodes.shape or not torch.equal(there, nodes):
            raise ValueError("the operator asked for a source at other points than its Gauss nodes")
        return unit

    return operator(columns)(points).numpy(), nodes
