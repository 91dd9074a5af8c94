"""Nonlinear families and the ablation of MOD-Net (arXiv:2107.03673): equation, coarse labels, or both.

    u_k(x) = F(x, int G(x, x') g_k(x') dx')

reaction  -u_xx + u^3 = g on (0, 1), u = 0 at the ends; sources are random fields, labels Newton's method on 32 cells
burgers   u_t + u u_x = nu u_xx on (-1, 1), 0 < t < 1, u = 0 at the ends; g is the initial value, a sum of three sines
          with random factors, labels the method of lines on 64 cells

transport radiative transfer in a slab (`radiative_transfer`), from inflow to f(x, v), linear: without F; members are
          sums of four cosines of v with random factors, labels discrete ordinates on 32 cells in 16 directions

Members of the training are drawn from one seed, the unseen ones from another; the truth is the same scheme on a fine
grid, for transport the factorised operator of `SlabSolver`. Weights make all terms pull equally at the first
parameters (arXiv:2007.14527). Kernels: ``plain`` is the paper's pair of networks G and F; ``semigroup`` the same of
short times, composed (`sciml.solvers.semigroup`); ``newton`` knows the equation and learns its linear part only
(`sciml.solvers.semilinear`). ``ablation_*`` train plain networks by first-order methods, at equal steps, on the
equation alone, on labels alone and on both, for several numbers of labelled members.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from scipy.linalg import solve_banded
from torch import Tensor

from sciml import PDE, Box, Dirichlet, Evolution, Family, FiniteDifference, GreensSolver
from sciml.optimizers import SOAP
from sciml.problems.greens import fields  # type: ignore[import-not-found]
from sciml.problems.radiative_transfer import slab  # type: ignore[import-not-found]
from sciml.solvers.semigroup import Semigroup
from sciml.solvers.semilinear import Semilinear
from sciml.solvers.slabnetwork import SlabNetwork
from sciml.solvers.trained import Trained
from sciml.solvers.transport import SlabSolver
from sciml.training import Adam, Stage

Function = Callable[[Tensor], Tensor]
MODES = ("both", "model only", "labels only")
KERNELS = {"reaction": ("plain", "newton"), "burgers": ("plain", "semigroup"), "transport": ("plain",)}
COARSE = {"reaction": 32, "burgers": 64}
FINE = {"reaction": 8192, "burgers": 512}  # cells of the truth


def waves(count: int, generator: torch.Generator) -> Function:
    """sum_{j <= 3} c_j sin(j pi x), c_j uniform in (-1/j, 1/j)."""
    j = torch.arange(1, 4, dtype=torch.float64)
    c = (2 * torch.rand(3, count, generator=generator, dtype=torch.float64) - 1) / j[:, None]
    return lambda x: torch.sin(math.pi * x[:, -1:] * j) @ c


def cosines(generator: torch.Generator) -> Callable[[np.ndarray], np.ndarray]:
    """One inflow sum_{k < 4} c_k cos(k pi v), c_k normal."""
    c, k = torch.randn(4, generator=generator, dtype=torch.float64).numpy(), np.arange(4)
    return lambda v: np.cos(math.pi * k * v[..., None]) @ c


def strong(count: int, generator: torch.Generator) -> Function:
    """Random fields of size 100, under which u^3 is as large as u_xx."""
    drawn = fields(count, generator, length=0.3)
    return lambda x: 100 * drawn(x)


def family(case: str, nu: float) -> Family:
    """The members of a case."""
    if case == "reaction":
        return Family(PDE(Box([0], [1]), "x", lambda x, u: u**3 - u.xx, [Dirichlet(0.0)]), sources=strong)
    rate = lambda x, u: -u * u.x + nu * u.xx  # noqa: E731
    return Family(Evolution(Box([-1], [1]), rate, 0.0, [Dirichlet(0.0)]), initials=waves)


def cubic(cells: int, source: Function) -> Function:
    """-u_xx + u^3 = f by central differences and Newton's method, linear between the nodes."""
    x = np.linspace(0, 1, cells + 1)
    f = source(torch.as_tensor(x[1:-1, None])).numpy()
    u, h = np.zeros(cells - 1), 1 / cells
    for _ in range(50):
        wide = np.concatenate([[0.0], u, [0.0]])
        residual = u**3 - (wide[2:] - 2 * u + wide[:-2]) / h**2 - f
        bands = np.full((3, cells - 1), -1 / h**2)
        bands[1] = 2 / h**2 + 3 * u**2
        step = solve_banded((1, 1), bands, residual)
        u = u - step
        if np.abs(step).max() < 1e-10 * max(np.abs(u).max(), 1e-300):
            break
    values = np.concatenate([[0.0], u, [0.0]])
    return lambda p: torch.as_tensor(np.interp(p[:, 0].numpy(), x, values))


@dataclass(frozen=True)
class Config:
    """Options of a run.

    Attributes:
        case: reaction, burgers or transport.
        modes: of both, model only and labels only.
        nu: viscosity of Burgers' equation.
        eps: mean free path of transport.
        members: of the training.
        labels: numbers of labelled members, one training each.
        steps: of Adam, or of SOAP.
        soap: train by SOAP.
        kernel: plain, semigroup (Burgers) or newton (reaction).
        rounds: trainings of a semigroup, each of all steps, on the states that the one before leads through.
        lr: learning rate.
        model: weight of the equation, before weights are balanced.
        width: of all hidden layers.
        points: per batch.
        unseen: members of the test.
        cells: of the labels; 0 takes the coarse grids named above.
    """

    case: str = "burgers"
    modes: tuple[str, ...] = ("both",)
    nu: float = 0.01
    eps: float = 1.0
    cells: int = 0
    members: int = 60
    labels: tuple[int, ...] = (4,)
    steps: int = 1500
    soap: bool = False
    kernel: str = "plain"
    rounds: int = 1
    lr: float = 3e-3
    model: float = 1.0
    width: int = 32
    points: int = 16
    unseen: int = 10


VARIANTS = {
    "smoke": Config(case="reaction", members=4, labels=(2,), steps=20, width=8, points=8, unseen=2),
    "paper": Config(
        kernel="semigroup",
        modes=("labels only",),
        members=120,
        labels=(120,),
        cells=256,
        width=64,
        points=1024,
        steps=4000,
        soap=True,
        lr=1e-2,
    ),
    "reaction": Config(case="reaction", kernel="newton"),
    "reaction_plain": Config(case="reaction", members=200, labels=(200,), cells=256, points=30, soap=True, lr=1e-2),
    "ablation_burgers": Config(modes=MODES, labels=(4, 16), members=40, steps=1000),
    "ablation_semigroup": Config(
        kernel="semigroup",
        modes=MODES,
        labels=(2, 4),
        cells=128,
        members=40,
        steps=1000,
        points=512,
        soap=True,
        lr=1e-2,
        width=64,
    ),
    "ablation_transport": Config(
        case="transport", modes=MODES, eps=0.3, labels=(4, 8), members=40, steps=1000, soap=True, points=8, lr=1e-2
    ),
}


def run(config: Config, run: Any) -> dict[str, Any]:
    """Train one operator per mode and number of labels; measure all on unseen members."""
    check(config)
    if config.case == "transport":
        metrics = transport(config, run)
        draw_errors(run, config, metrics)
        return {**metrics, "table": table(config, metrics)}
    made = family(config.case, config.nu)
    x = made.problem.domain.interior(4000, torch.Generator().manual_seed(run.seed))
    drawn = made.draw(config.unseen, torch.Generator().manual_seed(1000 + run.seed))
    truth = torch.stack([solve(config, made, drawn, k, FINE[config.case])(x) for k in range(config.unseen)], 1)
    coarse = torch.stack(
        [solve(config, made, drawn, k, config.cells or COARSE[config.case])(x) for k in range(config.unseen)], 1
    )
    metrics = {"labels' own error": errors(coarse, truth)}
    for name, mode, count in trainings(config):
        operator = train(config, made, mode, count, run)
        (data,) = drawn.values()
        metrics[name] = {**errors(operator(data)(x), truth), "seconds": operator.seconds}
        print(f"{name}: {metrics[name]}, {operator.status}", flush=True)
    draw_errors(run, config, metrics)
    draw_members(run, config, operator, drawn)
    return {**metrics, "table": table(config, metrics)}


def table(config: Config, metrics: dict[str, Any]) -> list[dict[str, Any]]:
    """A row for each training."""
    return [{"trained on": name, **metrics[name]} for name, _, _ in trainings(config)]


def trainings(config: Config) -> list[tuple[str, str, int]]:
    """(name in the table, mode, labelled members) of all trainings."""
    if config.kernel == "newton":
        return [("equation", "model only", 0)]
    several = len(config.labels) > 1
    return [
        (f"{mode}, {count} labels" if several and mode != "model only" else mode, mode, count)
        for count in config.labels
        for mode in config.modes
        if mode != "model only" or count == config.labels[0]
    ]


def transport(config: Config, run: Any) -> dict[str, Any]:
    """Errors of the trainings of the slab."""

    def pairs(count: int, seed: int) -> list[Any]:
        generator = torch.Generator().manual_seed(seed)
        return [(cosines(generator), cosines(generator)) for _ in range(count)]

    equation = slab(config.eps)
    reference, unseen = SlabSolver().solve(equation), pairs(config.unseen, 1000 + run.seed)
    x = Box([0, -1], [1, 1]).interior(4000, torch.Generator().manual_seed(run.seed))
    truth = torch.stack([reference(*pair)(x) for pair in unseen], 1)
    metrics: dict[str, Any] = {}
    for name, mode, count in trainings(config):
        options = SlabNetwork(
            widths=(config.width, config.width),
            labels=0 if mode == "model only" else count,
            model=0.0 if mode == "labels only" else config.model,
            points=config.points,
            balance=True,
            stages=((SOAP if config.soap else Adam)(config.steps, lr=config.lr),),
        )
        operator = options.solve(equation, pairs(config.members, run.seed), run.seed)
        found = torch.stack([operator(*pair)(x) for pair in unseen], 1)
        metrics[name] = {**errors(found, truth), "seconds": operator.seconds}
        print(f"{name}: {metrics[name]}, {operator.status}", flush=True)
    return metrics


def check(config: Config) -> None:
    """Refuse names that there are not."""
    if config.case not in KERNELS:
        raise ValueError(f"case is {config.case!r}, but must be one of {', '.join(KERNELS)}")
    if config.kernel not in KERNELS[config.case]:
        known = ", ".join(KERNELS[config.case])
        raise ValueError(f"kernel is {config.kernel!r}, but must be one of {known} for {config.case}")
    for mode in config.modes:
        if mode not in MODES:
            raise ValueError(f"modes holds {mode!r}, but must be of {', '.join(MODES)}")


def solve(config: Config, made: Family, drawn: dict[str, Function], k: int, cells: int) -> Function:
    """A member by the classical scheme."""
    if config.case == "burgers":
        return FiniteDifference(cells, rtol=1e-6).solve(made.member(drawn, k))
    return cubic(cells, lambda x: drawn["source"](x)[:, k])


def train(config: Config, made: Family, mode: str, labels: int, run: Any) -> Any:
    """An operator on the equation, on labels, or on both."""
    cells = config.cells or COARSE[config.case]

    def scheme(problem: Any) -> Function:
        if config.case == "reaction":
            return cubic(cells, lambda x: -problem.residual(zero, x)[0])
        solved: Function = FiniteDifference(cells, rtol=1e-6).solve(problem)
        return solved

    stages: list[Stage] = [(SOAP if config.soap else Adam)(config.steps, lr=config.lr)]
    shared: dict[str, Any] = {
        "widths": (config.width, config.width),
        "head": (config.width,) * 3,
        "members": config.members,
        "labels": 0 if mode == "model only" else labels,
        "scheme": scheme,
        "model": 0.0 if mode == "labels only" else config.model,
        "points": config.points,
        "stages": stages,
        "dtype": torch.float32,
    }
    options: Any = Trained(nodes=24, balance=True, cells=cells, **shared)
    if config.kernel == "semigroup":
        options = Semigroup(rounds=config.rounds, **shared)
    elif config.kernel == "newton":
        options = Semilinear()
    return GreensSolver(options).solve(made, seed=run.seed)


def zero(x: Tensor) -> Tensor:
    """u = 0, whose residual is minus the source."""
    return 0.0 * x[:, 0]


def errors(found: Tensor, truth: Tensor) -> dict[str, float]:
    """Relative L2 errors of the members: their median and the worst."""
    each = (found - truth).norm(dim=0) / truth.norm(dim=0)
    return {"rel_l2": float(each.median()), "worst": float(each.max())}


def draw_errors(run: Any, config: Config, metrics: dict[str, Any]) -> None:
    """Error against the number of labels where there are several, else by mode."""
    if len(config.modes) == 1 and len(config.labels) == 1:
        return
    with run.figure("errors", 4.5, 3.5) as figure:
        axis = figure.subplots()
        if len(config.labels) == 1:
            axis.bar(config.modes, [metrics[mode]["rel_l2"] for mode in config.modes])
            axis.set(ylabel="relative L2 error, unseen members", yscale="log")
            return
        for mode in config.modes:
            if mode == "model only":
                axis.axhline(metrics[mode]["rel_l2"], color="C2", label=mode)
            else:
                found = [metrics[f"{mode}, {n} labels"]["rel_l2"] for n in config.labels]
                axis.loglog(config.labels, found, marker="o", label=mode)
        axis.set(xlabel="labelled members", ylabel="relative L2 error, unseen members")
        axis.legend()


def draw_members(run: Any, config: Config, operator: Any, drawn: dict[str, Function]) -> None:
    """Members of the last operator beside the truth."""
    made = family(config.case, config.nu)
    lower, upper = made.problem.domain.bounds
    line = torch.linspace(float(lower[-1]), float(upper[-1]), 401, dtype=torch.float64)[:, None]
    end = line if config.case == "reaction" else torch.cat([torch.ones_like(line), line], 1)
    with run.figure("members", 4.5, 3.5) as figure:
        axis = figure.subplots()
        (data,) = drawn.values()
        for k, column in enumerate(operator(data)(end).T[:4]):
            truth = solve(config, made, drawn, k, FINE[config.case])(end)
            axis.plot(line[:, 0], truth, color=f"C{k}", lw=2.5, alpha=0.4)
            axis.plot(line[:, 0], column, color=f"C{k}", lw=1)
        axis.set(xlabel="x", title="operator (thin) and truth, at the end")
