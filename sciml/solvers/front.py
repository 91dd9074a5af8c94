"""The front door: `solve` picks the method, believes only error estimates, and says why.

Methods are tried from the one that is fastest where it works to the one that works almost anywhere:

    frozen features     first for every problem whose equation is given: linear ones are one factorisation, others a
                        few steps of Newton's method, the p-Laplacian on an interval an integration of its flux
    finite elements     for `Elliptic` in one to three dimensions, refined until the distance of two meshes is small
    finite differences  for a one-dimensional `Evolution`, refined likewise
    networks            for everything: two networks of different seeds trained by Gauss-Newton

Each must bring an estimate of its own relative error. The first that meets the tolerance is the answer; if none does,
the one with the least estimate is, and its status says that it stopped short and what every method came to.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from sciml.networks import Dense, sine
from sciml.optimizers import GaussNewton
from sciml.problem import PDE, Elliptic, Evolution
from sciml.solution import Solution, check_tolerance, compare
from sciml.solvers.collocation import Collocation
from sciml.solvers.differences import FiniteDifference
from sciml.solvers.elements import FiniteElement
from sciml.solvers.features import FeatureSolver
from sciml.solvers.mscale import MscaleSolver
from sciml.training import Adam, Callback, Deadline, Stage

__all__ = ["solve"]

_REFUSALS = (ValueError, TypeError, ImportError, MemoryError, torch.linalg.LinAlgError)  # type: ignore[attr-defined]
_CHECKED = 4000  # points at which two solutions are compared


@dataclass(frozen=True)
class _Method:
    """A way to solve a problem.

    Attributes:
        name: as the status calls it.
        why: it is tried, said in the status.
        attempts: solutions that each carry an estimate, the later the better.
        floor: error below which it is not worth trying.
    """

    name: str
    why: str
    attempts: Callable[[], Iterator[Solution]]
    floor: float = 0.0


def solve(
    problem: Elliptic | PDE | Evolution,
    tolerance: float = 1e-6,
    seed: int = 0,
    seconds: float = 600.0,
    callbacks: Sequence[Callback] = (),
    device: str = "cpu",
) -> Solution:
    """Solve `problem` by the method that suits it, to a relative L2 error of `tolerance`.

    Args:
        problem: what to solve.
        tolerance: relative L2 error to reach, between 1e-14 and 1.
        seed: of points and networks; the same seed gives the same numbers unless the time runs out.
        seconds: no method or refinement is begun after this time, and networks stop training at it.
        callbacks: see `training.fit`; networks call them.
        device: where networks train; everything else runs on the CPU.

    Returns:
        A `Solution` with an `error_estimate`. Its status begins with "converged" if and only if the estimate meets the
        tolerance, and names the method, why it was taken, and what others came to before it.

    Raises:
        TypeError: if `problem` is no problem.
        ValueError: for a tolerance or a time that cannot be, or if no method accepts the problem.

    >>> from sciml.domain import Box
    >>> u = solve(Elliptic(Box([0.0], [1.0]), source=2.0, boundary=0.0))
    >>> u.status.startswith("converged by frozen features"), round(float(u(torch.tensor([[0.5]]).double())), 9)
    (True, 0.25)
    """
    _check(problem, tolerance, seed, seconds, device)
    begun = time.perf_counter()
    best: Solution | None = None
    chosen, notes = "", list[str]()
    clock = Deadline(begun + seconds)
    for method in _methods(problem, tolerance, seed, callbacks, clock, device):
        if notes and clock.over:
            notes.append(f"{method.name} not tried, {seconds:g} s are over")
            continue
        if best is not None and _estimate(best) < method.floor:
            notes.append(f"{method.name} not tried, they end near {method.floor:g}")
            continue
        note = "gave nothing"
        latest: Solution | None = None  # it counts even where an earlier one thought better of itself: it knows more
        try:
            for latest in method.attempts():
                note = _reached(latest)
                if _estimate(latest) <= tolerance:
                    return _finish(latest, "converged", f"{method.name} ({method.why})", notes, begun)
        except _REFUSALS as refusal:
            note = f"{'then ' if note != 'gave nothing' else ''}refused: {refusal}"
        notes.append(f"{method.name}: {note}")
        if latest is not None and (best is None or _estimate(latest) < _estimate(best)):
            best, chosen = latest, f"{method.name} ({method.why})"
        if best is not None and math.isinf(_estimate(best)) and _linear(problem):
            break  # not determined by its equations: another method would only hide it
    if best is None:
        raise ValueError(f"no method solved the problem: {'; '.join(notes)}")
    return _finish(best, "stopped", chosen, notes, begun)


def _check(problem: Any, tolerance: float, seed: int, seconds: float, device: str) -> None:
    if not isinstance(problem, (Elliptic, PDE, Evolution)):
        raise TypeError(f"problem is a {type(problem).__name__}, but solve accepts Elliptic, PDE and Evolution")
    check_tolerance(tolerance)
    if not isinstance(seed, int):
        raise TypeError(f"seed is {seed!r}, but must be a whole number")
    if isinstance(seconds, bool) or not (isinstance(seconds, (int, float)) and seconds > 0):
        raise ValueError(f"seconds is {seconds!r}, but must be positive")
    try:
        torch.device(device)
    except RuntimeError as error:
        raise ValueError(f"device is {device!r}, but must be one of torch's, such as 'cpu' or 'cuda'") from error


def _estimate(solution: Solution) -> float:
    e = solution.error_estimate
    return math.inf if e is None or math.isnan(e) or solution.status.startswith("diverged") else e


def _reached(solution: Solution) -> str:
    if math.isinf(_estimate(solution)):
        return solution.status
    return f"an estimated relative error of {_estimate(solution):.1e}"


def _finish(solution: Solution, outcome: str, chosen: str, notes: Sequence[str], begun: float) -> Solution:
    if math.isinf(_estimate(solution)):
        status = f"stopped: {'; '.join(notes)}"
    else:
        before = f"; {'; '.join(notes)}" if notes else ""
        status = f"{outcome} by {chosen} at {_reached(solution)}{before}"
    return replace(solution, status=status, seconds=time.perf_counter() - begun)


def _linear(problem: Elliptic | PDE | Evolution) -> bool:
    if isinstance(problem, Elliptic):
        return problem.linear  # also where its coefficients jump, which is no matter of rows at points
    stated = problem.pde() if isinstance(problem, Evolution) else problem
    return Collocation(stated).linear


# ---------------------------------------------------------------------------------------------------------- the methods


def _methods(
    problem: Elliptic | PDE | Evolution,
    tolerance: float,
    seed: int,
    callbacks: Sequence[Callback],
    clock: Deadline,
    device: str,
) -> list[_Method]:
    """What to try, in order."""
    inverse = isinstance(problem, PDE) and bool(problem.unknowns)

    def features() -> Iterator[Solution]:
        left = max(clock.at - time.perf_counter(), 1e-3)
        yield FeatureSolver(tolerance=tolerance, seconds=left).solve(problem, seed)

    found = []
    if not inverse:
        kind = "linear, so one least-squares fit" if _linear(problem) else "Newton's method on features comes first"
        found.append(_Method("frozen features", kind, features))
    if isinstance(problem, Elliptic) and problem.dim <= 3:
        sizes = {1: (64, 256, 1024, 4096), 2: (8, 16, 32, 64, 128), 3: (4, 8, 16)}[problem.dim]
        found.append(
            _Method(
                "finite elements of degree 4",
                "they converge for every elliptic problem that can be meshed",
                lambda: _refined(
                    [FiniteElement(n, degree=4) for n in sizes], problem, clock, (sizes[0] / sizes[1]) ** 5
                ),
            )
        )
    if isinstance(problem, Evolution) and problem.space.dim == 1:
        grids = [FiniteDifference(n, rtol=max(1e-3 * tolerance, 1e-12)) for n in (128, 256, 512, 1024, 2048)]
        found.append(
            _Method(
                "finite differences",
                "a method of lines in one dimension is cheap",
                lambda: _refined(grids, problem, clock, 0.25),
            )
        )
    why = "scalars are unknown" if inverse else "nothing else met the tolerance"
    # an ill-conditioned sum of neurons: trained networks end near 1e-8 even where they only interpolate
    found.append(_Method("networks", why, lambda: _networks(problem, seed, (*callbacks, clock), device), floor=1e-8))
    return found


def _refined(solvers: Sequence[Any], problem: Any, clock: Deadline, fastest: float) -> Iterator[Solution]:
    """Solutions on finer and finer grids, each with an estimate from its distance from the one before.

    None is begun that would not end in time, were it to take eight times as long as the last. The distance is the error
    of the coarser one; the rate of two distances tells how much smaller that of the finer is. Where a source jumps
    inside of a cell, a distance is small by chance: of two rates the slower counts, and none is faster than `fastest`,
    which is what the order of the method allows.
    """
    before: Solution | None = None
    gap, seconds, rate, estimate = math.inf, 0.0, 0.0, 0.0
    for solver in solvers:
        begun = time.perf_counter()
        if begun + 8 * seconds > clock.at:
            return
        found = solver.solve(problem)
        seconds = time.perf_counter() - begun
        if before is not None:
            last, gap = gap, compare(before, found, problem.domain, _CHECKED)["rel_l2"]
            slower = max(rate, gap / last) if last < math.inf else 0.5
            rate = gap / last
            # the tail r / (1 - r) of a geometric series, taken twice where it is short
            tail = 2 * slower if slower < 0.5 else min(slower / max(1 - slower, 1e-3), 10.0)
            estimate = max(tail * gap, fastest * estimate)
            yield replace(found, error_estimate=estimate)
            if gap > 0.7 * last:
                return  # finer does not help any more
        before = found


def _networks(
    problem: Elliptic | PDE | Evolution, seed: int, callbacks: Sequence[Callback], device: str
) -> Iterator[Solution]:
    """Two networks of different seeds and points, whose distance is the estimate; then two that train longer."""
    for steps in (60, 240):
        pair = [_network(problem, steps, device).solve(problem, s, callbacks) for s in (seed, seed + 1)]
        if any(s.status.startswith("diverged") for s in pair):
            continue
        gap = compare(pair[1], pair[0], problem.domain, _CHECKED)["rel_l2"]
        yield replace(pair[0], error_estimate=max(gap, 1e-15))


def _network(problem: Elliptic | PDE | Evolution, steps: int, device: str) -> MscaleSolver:
    """The residual is fitted, not the energy: its least value, zero, is known, and quadrature does not limit it."""
    stages: list[Stage] = [Adam(300, lr=3e-3), GaussNewton(steps, resample=20)]
    if problem.domain.dim < 4:
        return MscaleSolver(ritz=False, stages=stages, device=device)

    box: Any = tuple(b.tolist() for b in problem.domain.bounds)

    def dense(inputs: int, outputs: int, generator: torch.Generator) -> torch.nn.Module:
        return Dense(inputs, (32, 32), outputs, sine, generator=generator, box=box)

    return MscaleSolver(ritz=False, network=dense, stages=stages, interior=2500, device=device)
