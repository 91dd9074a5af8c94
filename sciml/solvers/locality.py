"""What the operator of short times of an evolution may ignore: asked of the equation, and measured on its solutions."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from sciml.problem import Evolution
from sciml.solvers.differences import FiniteDifference
from sciml.solvers.members import Function, values_of
from sciml.unknown import Unknown, plain

__all__ = ["influence", "symmetries"]

_PROBES = 128  # cells of the grid on which influence is measured


def symmetries(problem: Evolution) -> tuple[bool, bool, bool]:
    """Whether u_t = rate is the same at all times, the same at all places, and invariant under (x, u) -> (-x, -u).

    Asked of the rate itself, at random values of u and its derivatives.
    """
    generator = torch.Generator().manual_seed(0)
    x, other = (problem.space.interior(64, generator) for _ in range(2))
    drawn: dict[tuple[int, ...], Tensor] = {}

    def value(index: tuple[int, ...]) -> Tensor:
        if index not in drawn:
            drawn[index] = torch.randn(64, generator=generator, dtype=torch.float64)
        return drawn[index]

    def rate(at: Tensor, time: float, odd: bool = False) -> Tensor:
        def seen(index: tuple[int, ...]) -> Tensor:
            return -value(index) if odd and len(index) % 2 == 0 else value(index)

        u = Unknown(seen(()), problem.coordinates[1:], seen, torch.full((64,), time, dtype=torch.float64))
        found = problem.rate(at, u)
        return torch.as_tensor(plain(found), dtype=torch.float64).expand(64)

    begin, end = problem.time
    given = rate(x, begin)
    steady = torch.allclose(given, rate(x, 0.3 * begin + 0.7 * end))
    return steady, torch.allclose(given, rate(other, begin)), torch.allclose(given, -rate(x, begin, odd=True))


def influence(problem: Evolution, initial: Function, tau: float) -> float:
    """How far states have influence within a time tau, as a share of the interval, at most 1/2.

    The two largest of the given members are disturbed at three places each; differences of `FiniteDifference`
    solutions count down to a thousandth of the largest one.
    """
    low, high = (float(b) for b in problem.space.bounds)
    length, begin = high - low, problem.time[0]
    nodes = torch.linspace(low, high, _PROBES + 1, dtype=torch.float64)[:, None]
    end = torch.cat([torch.full_like(nodes, begin + tau), nodes], 1)
    sizes = values_of("initial", initial, nodes).square().mean(0).sqrt()

    def state(start: Callable[[Tensor], Tensor]) -> Tensor:
        short = Evolution(problem.space, problem.rate, start, problem.conditions, (begin, begin + tau))
        return FiniteDifference(_PROBES, rtol=1e-6).solve(short)(end)

    farthest = 2 / _PROBES
    for k in sizes.argsort(descending=True)[:2].tolist():
        calm = state(lambda x, k=k: initial(x)[:, k])  # type: ignore[misc]
        for share in (0.3, 0.5, 0.7):
            place, width = low + share * length, 2 * length / _PROBES

            def disturbed(x: Tensor, k: int = k, place: float = place, width: float = width) -> Tensor:
                bump = torch.exp(-(((x[:, 0] - place) / width) ** 2))
                return initial(x)[:, k] + 0.1 * float(sizes[k]) * bump

            gap = (state(disturbed) - calm).abs()
            met = (nodes[:, 0] - place).abs()[gap > 1e-3 * gap.max()]
            farthest = max(farthest, float(met.max()) / length if len(met) else 0.0)
    return min(farthest, 0.5)
