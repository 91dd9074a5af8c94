"""`MscaleSolver` without options: scales, widths and points from the spectrum, enriched until an estimate is met.

1. The wavenumbers that the data put into the solution (`sciml.solvers.ansatz`) give a bandwidth along every axis.
2. A linear problem in up to three dimensions gets a multi-scale network of one hidden layer of sines, whose scales fill
   a ball of that bandwidth evenly; its last layer is solved exactly (`VariableProjection`). Any other problem gets
   subnetworks at scales 1, 2, 4, ... up to the bandwidth, trained by Gauss-Newton on adaptive points.
3. Each round has a larger bandwidth and more neurons, the second kind also the bandwidth of the solution just found.
   The error estimate is the distance of the last two solutions, times the ratio of their residuals at fresh points
   where that is smaller than one: the step from a coarse solution to a fine one is the error of the coarse one.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from sciml.networks import Mscale
from sciml.objective import LeastSquares
from sciml.optimizers import GaussNewton, VariableProjection
from sciml.problem import PDE, Elliptic, Evolution
from sciml.solution import Solution, compare
from sciml.solvers.ansatz import fitted, start
from sciml.solvers.collocation import Collocation
from sciml.theory.spectra import spectrum
from sciml.training import Adam, Callback

__all__ = ["automatic"]

Problem = Elliptic | PDE | Evolution

_NEURONS = 3200  # of a hidden layer that is solved for exactly
_ROUNDS = 8
_WORK = 1e12  # floating-point operations of a third round of Gauss-Newton: about half a minute on a few cores
_CHECKED = 4000  # points for distances and residuals
_UNEXPLAINED = 0.1  # of the data: equations that leave more contradict each other


@dataclass(frozen=True)
class _Round:
    solution: Solution
    residual: float
    scales: tuple[float, ...]
    neurons: int


def automatic(solver: Any, problem: Problem, seed: int, callbacks: Sequence[Callback]) -> Solution:
    """Solve with everything chosen from the problem.

    Args:
        solver: the `MscaleSolver`, whose options for hard values, tolerance and device hold.
        problem: what to solve.
        seed: of networks and points.
        callbacks: see `training.fit`; they see the steps of every round.
    """
    begun = time.perf_counter()
    stated = problem.pde() if isinstance(problem, Evolution) else problem
    collocation = Collocation(stated)
    exactly = collocation.linear and collocation.components == 1 and stated.dim <= 3
    make = _solved if exactly else _trained
    first = start(collocation, solver.tolerance, None, _NEURONS, torch.Generator().manual_seed(seed))
    bandwidth = (fitted(first, _NEURONS // collocation.components) or first).bandwidth
    scalar = collocation.linear and collocation.components == 1
    data = _residual(lambda x: 0 * x[:, 0], stated, seed) if scalar else math.inf  # what u = 0 leaves of the data
    rounds: list[_Round] = []
    best: Solution | None = None
    for k in range(_ROUNDS):
        found = make(solver, problem, stated, bandwidth, k, seed, callbacks)
        if found is None:
            break
        rounds.append(found)
        if len(rounds) > 1:
            estimate = _estimate(rounds[-2], rounds[-1], stated)
            if found.residual > _UNEXPLAINED * data:  # no solution, however stable it looks
                estimate = max(estimate, found.residual / (data or 1.0))
            if best is None or estimate < (best.error_estimate or math.inf):
                best = replace(found.solution, error_estimate=estimate, cost=_cost(rounds))
            if estimate <= solver.tolerance:
                break
        bandwidth = _next(bandwidth, found.solution, stated, exactly)
    if best is None:
        best = replace(rounds[-1].solution, error_estimate=None, cost=_cost(rounds))
    return replace(best, status=_status(best, solver.tolerance, len(rounds)), seconds=time.perf_counter() - begun)


def _status(best: Solution, tolerance: float, rounds: int) -> str:
    if best.status.startswith("diverged"):
        return best.status
    if best.error_estimate is None:
        return "stopped without an error estimate: the first network already has as many neurons as are allowed"
    if best.error_estimate <= tolerance:
        return f"converged: estimated relative error {best.error_estimate:.1e} after {rounds} rounds"
    return f"stopped at an estimated relative error of {best.error_estimate:.1e} after {rounds} rounds of enrichment"


def _cost(rounds: Sequence[_Round]) -> dict[str, Any]:
    last = rounds[-1]
    return {
        **(last.solution.cost or {}),
        "rounds": len(rounds),
        "neurons": last.neurons,
        "largest scale": max(last.scales),
    }


def _estimate(coarse: _Round, fine: _Round, problem: Elliptic | PDE) -> float:
    distance = compare(coarse.solution, fine.solution, problem.domain, _CHECKED)["rel_l2"]
    return max(distance * min(1.0, fine.residual / max(coarse.residual, 1e-300)), 1e-15)


def _residual(field: Any, problem: Elliptic | PDE, seed: int) -> float:
    """Norm of the residual, conditions included, at points that no training has seen."""
    objective = LeastSquares(problem, 1.0)
    batch = objective.sample(_CHECKED, 400, torch.Generator().manual_seed(1_000_003 + seed))
    if isinstance(field, nn.Module):
        p = next(field.parameters())
        batch = batch.to(p.device, p.dtype)
    with torch.no_grad():
        return float(objective.residuals(field, batch).norm())


def _next(bandwidth: Tensor, solution: Solution, problem: Elliptic | PDE, exactly: bool) -> Tensor:
    if exactly or (isinstance(problem, PDE) and problem.components > 1):
        return 1.25 * bandwidth
    found = [s.bandwidth(1e-3) for s in spectrum(lambda x: torch.as_tensor(solution(x)), problem.domain)]
    return torch.maximum(1.2 * bandwidth, torch.tensor(found, dtype=torch.float64))


# ------------------------------------------------------------------------------------------------ solved, not trained


def _solved(
    solver: Any,
    problem: Problem,
    stated: Elliptic | PDE,
    bandwidth: Tensor,
    k: int,
    seed: int,
    callbacks: Sequence[Callback],
) -> _Round | None:
    """One hidden layer of sines with the last layer solved exactly."""
    lower, upper = stated.domain.bounds
    # as many waves as a lattice of the box's own spacing would have below the bandwidth, and half as many again
    neurons = int(1.5 * float((bandwidth * (upper - lower) / math.pi + 3).prod())) + 20
    if neurons > _NEURONS:
        if k > 1:
            return None
        neurons = int(_NEURONS * (0.6, 1.0)[k])
    largest = float(bandwidth.max())
    count = min(neurons, 64)
    # radii of equal shares of a ball
    scales = tuple(largest * ((j + 0.5) / count) ** (1 / stated.dim) for j in range(count))

    def network(inputs: int, outputs: int, generator: torch.Generator) -> nn.Module:
        box: Any = (lower.tolist(), upper.tolist())
        made = Mscale(inputs, (neurons,), scales, outputs, kind=1, generator=generator, box=box)
        _directions(made, bandwidth / largest, generator)
        return made

    per_length = 4 * largest / math.pi
    edge = int(min(stated.domain.area * per_length ** (stated.dim - 1), neurons)) + 40
    plain = replace(
        solver,
        network=network,
        ritz=False,
        balanced=True,
        stages=[VariableProjection(1, inner=False)],
        interior=2 * neurons + 100,
        boundary=edge,
    )
    solution = plain.solve(problem, seed + k, callbacks)
    return _Round(solution, _residual(solution.field, stated, seed), scales, neurons)


def _directions(network: Mscale, aspect: Tensor, generator: torch.Generator) -> None:
    """First-layer weights on the unit sphere, stretched to the aspect of the bandwidths, and phases on the circle."""
    weight, bias = network.weights[0], network.biases[0]
    with torch.no_grad():
        drawn = torch.randn(weight.shape, generator=generator, dtype=weight.dtype)
        weight.copy_(aspect[:, None] * drawn / torch.linalg.vector_norm(drawn, dim=0))
        bias.copy_(2 * math.pi * torch.rand(bias.shape, generator=generator, dtype=bias.dtype))


# ------------------------------------------------------------------------------------------------------------- trained


def _trained(
    solver: Any,
    problem: Problem,
    stated: Elliptic | PDE,
    bandwidth: Tensor,
    k: int,
    seed: int,
    callbacks: Sequence[Callback],
) -> _Round | None:
    """Subnetworks at scales 1, 2, 4, ... up to the bandwidth, trained by Gauss-Newton."""
    lower, upper = stated.domain.bounds
    width = 16 + 4 * k
    # a subnetwork of scale one already resolves a few waves across the domain
    waves = float((bandwidth * (upper - lower)).max()) / (4 * math.pi)
    scales = tuple(2.0**j for j in range(1 + max(0, math.ceil(math.log2(max(waves, 1.0))))))
    unknowns = len(scales) * width**2
    points = max(1000, 3 * unknowns)
    newton = GaussNewton(60, resample=10)
    # an estimate takes two rounds; normal equations of the third are only formed where that is cheap
    if k > 2 or (k == 2 and newton.steps * points * unknowns**2 > _WORK):
        return None
    plain = replace(
        solver,
        scales=scales,
        widths=(width, width),
        ritz=False,
        balanced=False,
        adaptive=True,
        stages=[Adam(100, lr=3e-3, resample=10), newton],
        interior=points,
        boundary=max(200, unknowns // 2),
    )
    solution = plain.solve(problem, seed + k, callbacks)
    return _Round(solution, _residual(solution.field, stated, seed), scales, len(scales) * width)
