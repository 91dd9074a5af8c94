"""Method of lines: u_t = rate(x, u) on an interval, central differences in space, an implicit integrator in time.

At the nodes x_i = a + i h

    u_x = (u_{i+1} - u_{i-1}) / 2h,   u_xx = (u_{i+1} - 2 u_i + u_{i-1}) / h^2,

second order each; on a periodic interval also u_xxx and u_xxxx by five points. A Dirichlet end is no unknown. At an
end with du/dn + c u = g the node is one, and a ghost node beyond it takes the condition's central difference. The
stiff system is integrated by backward differentiation formulas of variable order with a banded Jacobian.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy.sparse as sp
import torch
from scipy.integrate import BDF, solve_ivp
from torch import Tensor

from sciml.conditions import check_values, evaluate
from sciml.domain import Box
from sciml.problem import Condition, Dirichlet, Evolution, Neumann, Periodic, Robin, Unknown
from sciml.solvers.grid import Array, Grid
from sciml.solvers.gridfield import GridField
from sciml.unknown import plain

__all__ = ["march"]


@dataclass(frozen=True)
class _Line:
    """The unknowns on an interval and the values beside them.

    Attributes:
        problem: the evolution.
        x: ``(m, 1)`` nodes of the unknowns.
        h: spacing.
        ends: conditions at the lower and the upper end, None for both if periodic.
    """

    problem: Evolution
    x: Tensor
    h: float
    ends: tuple[Condition | None, Condition | None]

    def at(self, end: int, t: Array) -> Tensor:
        """Space-time points ``(k, 2)`` of an end at some times."""
        place = float(self.problem.space.bounds[end])
        return torch.stack([torch.as_tensor(t), torch.full((len(t),), place, dtype=torch.float64)], 1)

    def beside(self, t: float, u: Tensor, end: int) -> Tensor:
        """The value ``(1,)`` next to the first or last unknown, outwards."""
        condition, place = self.ends[end], self.at(end, np.array([t]))
        if isinstance(condition, Dirichlet):
            return condition.at(place)
        last, inner = (u[:1], u[1:2]) if end == 0 else (u[-1:], u[-2:-1])
        slope = condition.at(place)  # type: ignore[union-attr]
        if isinstance(condition, Robin):
            slope = slope - condition.coefficient_at(place) * last
        return inner + 2 * self.h * slope

    def unknown(self, t: float, u: Tensor) -> Unknown:
        """What the rate sees."""
        if self.ends[0] is None:
            wide = torch.cat([u[-2:], u, u[:2]])
        else:
            missing = torch.full((1,), torch.nan, dtype=u.dtype)
            wide = torch.cat([missing, self.beside(t, u, 0), u, self.beside(t, u, 1), missing])

        def derivative(indices: tuple[int, ...]) -> Tensor:
            return _difference(wide, len(indices), self.h)

        return Unknown(u, self.problem.coordinates[1:], derivative, torch.full_like(u, t))

    def rate(self, t: float, u: Array) -> Array:
        """du/dt of the unknowns."""
        with torch.no_grad():
            given = self.problem.rate(self.x, self.unknown(t, torch.from_numpy(u)))
            return check_values("rate", plain(given), self.x).numpy()


def _difference(wide: Tensor, order: int, h: float) -> Tensor:
    """Central differences of order 1 to 4; `wide` has two more values at both ends."""
    a, b, c, d, e = wide[:-4], wide[1:-3], wide[2:-2], wide[3:-1], wide[4:]
    rules: list[Callable[[], Tensor]] = [
        lambda: (d - b) / (2 * h),
        lambda: (d - 2 * c + b) / h**2,
        lambda: (e - 2 * d + 2 * b - a) / (2 * h**3),
        lambda: (e - 4 * d + 6 * c - 4 * b + a) / h**4,
    ]
    return rules[order - 1]()


def _line(problem: Evolution, n: int) -> _Line:
    space = problem.space
    if not (isinstance(space, Box) and space.dim == 1):
        raise ValueError(f"the Evolution lives on {space!r}, but FiniteDifference accepts an interval, Box([a], [b])")
    low, high = (float(b) for b in space.bounds)
    x = torch.linspace(low, high, n + 1, dtype=torch.float64)
    ends: list[Condition | None] = []
    middle = 0.5 * sum(problem.time)
    points = torch.tensor([[middle, low], [middle, high]], dtype=torch.float64)
    for end in range(2):
        parts = problem.pde().partition(points[end : end + 1], torch.tensor([2 + end]))
        ends.append(next((condition for condition, mask in parts if bool(mask.any())), None))
    if all(isinstance(condition, Periodic) for condition in ends):
        line = _Line(problem, x[:-1, None], (high - low) / n, (None, None))
    else:
        for condition, name in zip(ends, ("lower", "upper"), strict=True):
            if not isinstance(condition, (Dirichlet, Neumann, Robin)):
                raise ValueError(f"no condition holds at the {name} end; give Dirichlet, Neumann, Robin or Periodic")
        first, last = (1 if isinstance(condition, Dirichlet) else 0 for condition in ends)
        line = _Line(problem, x[first : n + 1 - last, None], (high - low) / n, (ends[0], ends[1]))
    order = max((len(i) for i in problem.pde().derivatives if i != (0,)), default=0)
    allowed = 4 if line.ends[0] is None else 2
    if order > allowed:
        where = "a periodic interval" if allowed == 4 else "an interval that is not periodic"
        raise ValueError(
            f"rate has a derivative of order {order}, but FiniteDifference has those up to {allowed} on {where}"
        )
    return line


def _sparsity(line: _Line, order: int) -> sp.csr_array:
    m, reach = len(line.x), 1 if order <= 2 else 2
    i = np.arange(m)
    pairs = [(i, i + k) for k in range(-reach, reach + 1)]
    if line.ends[0] is None:
        pairs = [(a, b % m) for a, b in pairs]
    rows, columns = np.concatenate([a for a, _ in pairs]), np.concatenate([b for _, b in pairs])
    inside = (columns >= 0) & (columns < m)
    return sp.coo_array((np.ones(int(inside.sum())), (rows[inside], columns[inside])), shape=(m, m)).tocsr()


def march(problem: Evolution, n: int, rtol: float, times: int) -> tuple[GridField, dict[str, Any], str]:
    """Integrate in time.

    Args:
        problem: on an interval.
        n: cells in space.
        rtol: relative tolerance of the integrator; the absolute one is a hundredth of it.
        times: stored time intervals.

    Returns:
        The field on ``(t, x)`` points (NaN after the time at which the integrator failed), its cost, and a sentence.
    """
    line = _line(problem, n)
    with torch.no_grad():
        start = problem.initial(line.x)
    order = max((len(i) for i in problem.pde().derivatives if i != (0,)), default=0)
    t = np.linspace(*problem.time, times + 1)
    evaluate("rate", lambda _: torch.from_numpy(line.rate(t[0], start.numpy())), line.x)
    run = solve_ivp(
        line.rate,
        problem.time,
        start.numpy(),
        method=BDF,
        t_eval=t,
        rtol=rtol,
        atol=0.01 * rtol,
        jac_sparsity=_sparsity(line, order),
    )
    values = np.full((times + 1, len(line.x)), np.nan)
    values[: run.y.shape[1]] = run.y.T
    for end in range(2):
        condition = line.ends[end]
        if isinstance(condition, Dirichlet):
            with torch.no_grad():
                side = condition.at(line.at(end, t)).numpy()[:, None]
                side[0] = problem.initial(line.at(end, t[:1])[:, 1:]).numpy()
            values = np.concatenate([side, values] if end == 0 else [values, side], 1)
    low, high = (float(b) for b in problem.space.bounds)
    lower, spacing = np.array([t[0], low]), np.array([t[1] - t[0], (high - low) / n])
    field = GridField.full(problem.domain, Grid(lower, spacing, (times, n), (False, line.ends[0] is None)), values)
    cost = {"unknowns": len(line.x), "evaluations": int(run.nfev), "factorisations": int(run.nlu)}
    work = f"method of lines, {len(line.x)} unknowns, {run.nfev} evaluations of the rate, relative tolerance {rtol:.0e}"
    if run.success:
        return field, cost, f"integrated: {work}"
    reached = t[max(0, run.y.shape[1] - 1)]
    return field, cost, f"diverged: the time integration failed after t = {reached:g} ({run.message}); {work}"
