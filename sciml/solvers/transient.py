"""Linear evolutions in the plane and in space whose coefficients stand still: collocation in time, features in space.

    u_t = L u + g(t, x),      B u = h(t, x) on the boundary

Radau collocation (Hairer & Wanner, Solving Ordinary Differential Equations II, IV.5) takes a slab of time of length
tau from u_0 to values U_j at s nodes, with A the matrix of its integrals:

    A^-1 U / tau - L U = A^-1 1 u_0 / tau + G

The eigenvectors of A^-1 = V diag(lambda) V^-1 uncouple the stages. Each W = V^-1 U solves (lambda / tau - L) W = F: an
elliptic problem in space alone, for which `FeatureSolver` finds features, whatever the domain. Eigenvalues are complex
and come in pairs, so s / 2 systems of a real and an imaginary part are one slab. Slabs are as long as the last term of
their polynomials in time allows.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.polynomial import legendre
from torch import Tensor

from sciml.conditions import Dirichlet, Neumann, Robin
from sciml.problem import PDE, Evolution
from sciml.solution import Solution
from sciml.solvers.collocation import Block, Collocation
from sciml.solvers.families import Operator
from sciml.solvers.featurefield import FeatureField, nested, under
from sciml.training import Deadline
from sciml.unknown import Unknown, plain

__all__ = ["StageField", "Transient", "applies", "march"]

_STAGES = 8
_SHARE = 0.1  # of the tolerance, for what stages err in space
_NOISE = 0.01  # of the error of the state that a slab starts from, which no features can fit, is seen in a stage
_SHORTEST = 1e-6  # slab, as a share of the time
_CHECKED = 500  # points in space at which errors are measured

Elliptic = Callable[[PDE, float], Solution]  #: solves a problem in space to a relative error


@dataclass(frozen=True)
class _Radau:
    """Nodes on (0, 1], eigenvalues of A^-1 with positive imaginary part, and their eigenvectors.

    Attributes:
        count: s.
    """

    count: int

    @cached_property
    def nodes(self) -> np.ndarray:
        """``(s,)``, the last is 1."""
        roots = np.sort(legendre.legroots([0.0] * (self.count - 1) + [1.0, -1.0]).real)
        roots[-1] = 1.0
        return (roots + 1) / 2

    @cached_property
    def modes(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Eigenvalues ``(s / 2,)``, columns of V ``(s, s / 2)`` and rows of its inverse ``(s / 2, s)``."""
        x = 2 * self.nodes - 1
        p = legendre.legvander(x, self.count)
        integrals = [x + 1] + [(p[:, n + 1] - p[:, n - 1]) / (2 * n + 1) for n in range(1, self.count)]
        a = 0.5 * np.stack(integrals, 1) @ self.polynomials
        values, vectors = np.linalg.eig(np.linalg.inv(a))
        chosen = values.imag > 0
        return values[chosen], vectors[:, chosen], np.linalg.inv(vectors)[chosen]

    @cached_property
    def polynomials(self) -> np.ndarray:
        """Legendre coefficients ``(s, s)`` of the polynomials that are one at a node and zero at the others."""
        return np.linalg.inv(legendre.legvander(2 * self.nodes - 1, self.count - 1))


class StageField(FeatureField):
    """Stages of one slab of time after another: u = 2 Re sum_k p_k(t) W_k(x).

    Args:
        edges: where slabs begin, and where the last ends.
        parts: W_k of every slab, each with a real and an imaginary part.
        polynomials: Legendre coefficients ``(K, s)`` of p_k in a slab, complex.
    """

    kind: ClassVar[str] = "stages"

    def __init__(
        self, edges: Sequence[float], parts: Sequence[Sequence[FeatureField]], polynomials: np.ndarray
    ) -> None:
        self.edges, self.parts = torch.tensor(edges, dtype=torch.float64), [tuple(p) for p in parts]
        self.polynomials = polynomials
        self.size = sum(f.size for p in self.parts for f in p)

    def derivative(self, x: Tensor, operator: Operator) -> Tensor:
        """The operator applied to the field at points ``(n, d)``, time first: ``(n, 1)``."""
        slab = torch.searchsorted(self.edges[1:-1], x[:, 0].contiguous().detach())
        found = torch.zeros(len(x), 1, dtype=x.dtype)
        for k in slab.unique().tolist():
            mine = (slab == k).nonzero()[:, 0]
            own = {i: w[mine] if isinstance(w, Tensor) and w.ndim else w for i, w in operator.items()}
            found = found.index_copy(0, mine, self._slab(k, x[mine], own)[:, None])
        return found

    def _slab(self, k: int, x: Tensor, operator: Operator) -> Tensor:
        begin, end = self.edges[k : k + 2].tolist()
        t, y = 2 * (x[:, 0] - begin) / (end - begin) - 1, x[:, 1:]
        total = torch.zeros(len(x), dtype=x.dtype)
        for index, weight in operator.items():
            times = index.count(0)
            space = tuple(i - 1 for i in index if i)
            scale = (2 / (end - begin)) ** times
            for p, part in zip(self.polynomials, self.parts[k], strict=True):
                c = legendre.legder(p, times) if times else p
                w = part.derivative(y, {space: 1.0})
                total = total + weight * (2 * scale) * (_series(t, c.real) * w[:, 0] - _series(t, c.imag) * w[:, 1])
        return total

    def describe(self) -> dict[str, Any]:
        """What each stage of each slab holds."""
        return {"parts": [[f.describe() for f in p] for p in self.parts]}

    def arrays(self) -> dict[str, np.ndarray]:
        """Edges, polynomials and all stages."""
        plain = {"edges": self.edges.numpy(), "real": self.polynomials.real, "imag": self.polynomials.imag}
        return {**plain, **nested("stage", [f for p in self.parts for f in p])}

    @classmethod
    def restore(cls, description: Mapping[str, Any], arrays: Mapping[str, np.ndarray], problem: Any = None) -> Any:
        """From `describe` and `arrays`."""
        number, parts = 0, []
        for slab in description["parts"]:
            parts.append([FeatureField.restore(d, under(f"stage{number + j}/", arrays)) for j, d in enumerate(slab)])
            number += len(slab)
        return cls(arrays["edges"].tolist(), parts, np.asarray(arrays["real"]) + 1j * np.asarray(arrays["imag"]))


def _series(t: Tensor, coefficients: np.ndarray) -> Tensor:
    """A Legendre series at places in [-1, 1], by Clenshaw's recurrence; differentiable."""
    last, found = torch.zeros_like(t), torch.zeros_like(t)
    for n in range(len(coefficients) - 1, -1, -1):
        last, found = found, coefficients[n] + (2 * n + 1) / (n + 1) * t * found - (n + 1) / (n + 2) * last
    return found


@dataclass(frozen=True)
class Transient:
    """What `march` found.

    Attributes:
        field: the solution.
        estimate: of its relative L2 error in space and time.
        slabs: of time.
        unknowns: of all stages.
        note: why it is not better, "" if it meets its goal.
    """

    field: StageField
    estimate: float
    slabs: int
    unknowns: int
    note: str


def applies(problem: Any, collocation: Collocation) -> bool:
    """Whether a problem is a linear evolution in two or three dimensions with coefficients that do not change."""
    if not (isinstance(problem, Evolution) and problem.space.dim > 1 and collocation.linear):
        return False
    if collocation.components > 1 or collocation.problem.order > 2:
        return False
    for condition in problem.conditions:
        if not isinstance(condition, (Dirichlet, Neumann, Robin)) or callable(condition.on):
            return False
        if isinstance(condition, Robin) and callable(condition.coefficient):
            return False
    x = problem.domain.interior(64, sobol=True)
    seen = []
    for share in (0.2, 0.7):
        at = x.clone()
        at[:, 0] = problem.time[0] + share * (problem.time[1] - problem.time[0])
        seen.append(collocation.linearise(Block(at, torch.ones_like(at[:, 0])))[0].operators[0])
    return all(torch.allclose(seen[0][i], seen[1][i]) for i in seen[0])


def march(problem: Evolution, tolerance: float, clock: Deadline, elliptic: Elliptic) -> Transient | None:
    """Slabs of time in turn.

    Args:
        problem: for which `applies`.
        tolerance: relative L2 error to reach.
        clock: no slab is begun after its time.
        elliptic: solves a problem in space, of two unknowns, to a relative error.

    Returns:
        The solution, or None if some slab cannot be solved or the time is over before the end.
    """
    begin, end = problem.time
    edges, parts = [begin], list[Sequence[FeatureField]]()
    length = end - begin
    state: Callable[[Tensor], Tensor] = problem.initial
    squares = errors = carried = rough = noise = 0.0
    y = problem.space.interior(_CHECKED, sobol=True)
    while edges[-1] < end:
        if clock.over:
            return None
        length = min(length, end - edges[-1])
        last = edges[-1] + 1.01 * length > end
        slab = _Slab(problem, edges[-1], (end if last else edges[-1] + length) - edges[-1], state, tolerance, noise)
        solved = slab.stages(elliptic)
        if solved is None:
            return None
        stages = [stage for stage, _ in solved]
        size, tail, space = slab.judged(solved)
        whole = math.sqrt(squares + length * size**2) / math.sqrt(end - begin)
        fitting = (0.1 * tolerance * whole / max(tail, 1e-300)) ** (1 / _STAGES)  # as the term of degree s shrinks
        if fitting < 0.9 and length > _SHORTEST * (end - begin):
            length *= max(fitting, 0.1)
            continue
        carried, rough = carried + space + tail, rough + space  # a slab hands its errors on
        squares, errors = squares + length * size**2, errors + length * carried**2
        edges.append(end if last else edges[-1] + length)
        parts.append(stages)
        state = slab.final(stages)
        noise = rough / max(float(state(y).square().mean().sqrt()), 1e-300)
        length *= min(max(fitting, 0.9), 4.0)
    field = StageField(edges, parts, _Slab.polynomials())
    estimate = max(math.sqrt(errors / squares) if squares else errors, 1e-15)
    note = "its stages are no better in space" if estimate > tolerance and carried else ""
    return Transient(field, estimate, len(parts), 2 * field.size, note)


@dataclass(frozen=True)
class _Slab:
    """One slab of time.

    Attributes:
        problem: the evolution.
        begin: of the slab.
        length: tau.
        state: u at its begin, a function of space.
        tolerance: relative error to reach.
        noise: relative error in space of the state.
    """

    problem: Evolution
    begin: float
    length: float
    state: Callable[[Tensor], Tensor]
    tolerance: float
    noise: float = 0.0
    radau: ClassVar[_Radau] = _Radau(_STAGES)

    @classmethod
    def polynomials(cls) -> np.ndarray:
        """Legendre coefficients ``(K, s)`` of p_k."""
        return (cls.radau.polynomials @ cls.radau.modes[1]).T

    def stages(self, elliptic: Elliptic) -> list[tuple[FeatureField, float]] | None:
        """W_k, each with its relative error, or None if there is no solution."""
        found: list[tuple[FeatureField, float]] = []
        _, vectors, inverse = self.radau.modes
        for k in range(len(inverse)):
            # how much of an error in W_k, relative to its size, is seen in u, relative to the size of that
            seen = 2 * len(inverse) * np.abs(vectors[:, k]).max() * max(abs(inverse[k].sum()), 1e-3)
            goal = max(_SHARE * self.tolerance / seen, _NOISE * self.noise, 1e-12)
            solution = elliptic(self._stage(k), min(goal, 0.1))
            if type(solution.field) is not FeatureField or not math.isfinite(solution.error_estimate or math.inf):
                return None
            found.append((solution.field, solution.error_estimate or 0.0))
        return found

    def _stage(self, k: int) -> PDE:
        """(lambda / tau - L) W = F for a real and an imaginary part."""
        problem, (values, _, inverse) = self.problem, self.radau.modes
        value, row = values[k] / self.length, inverse[k]
        start = value * row.sum()
        names = problem.coordinates[1:]

        def rate(x: Tensor, u: Any, time: float) -> Tensor:
            at = torch.full_like(x[:, 0], time)
            given = problem.rate(x, Unknown(u.value, names, u.derivative, at))
            return torch.as_tensor(plain(given), dtype=x.dtype)

        def still(x: Tensor, time: float) -> Tensor:
            zero = torch.zeros_like(x[:, 0])
            return rate(x, Unknown(zero, names, lambda index: zero), time).expand(len(x))

        def residual(x: Tensor, u: Any) -> tuple[Tensor, Tensor]:
            a, b = u[0], u[1]
            base = still(x, self.begin)
            sources = [still(x, self.begin + c * self.length) for c in self.radau.nodes]
            known = self.state(x)
            right = [
                part(start) * known + sum(float(part(r)) * g for r, g in zip(row, sources, strict=True))
                for part in (np.real, np.imag)
            ]
            p, q = float(value.real), float(value.imag)
            return (
                p * a - q * b - (rate(x, a, self.begin) - base) - right[0],
                p * b + q * a - (rate(x, b, self.begin) - base) - right[1],
            )

        conditions = [
            self._transformed(c, part, j, row) for c in problem.conditions for j, part in enumerate((np.real, np.imag))
        ]
        return PDE(problem.space, names, residual, conditions)

    def _transformed(self, condition: Any, part: Callable[[Any], Any], component: int, row: np.ndarray) -> Any:
        """A condition for the real or the imaginary part."""
        weights = [float(part(r)) for r in row]

        def value(x: Tensor) -> Tensor:
            times = self.begin + self.length * self.radau.nodes
            at = (condition.at(torch.cat([torch.full_like(x[:, :1], t), x], 1)) for t in times)
            return sum(w * v for w, v in zip(weights, at, strict=True))

        if isinstance(condition, Robin):
            return Robin(condition.coefficient, value, condition.on, component)
        return type(condition)(value, condition.on, component)

    def judged(self, stages: Sequence[tuple[FeatureField, float]]) -> tuple[float, float, float]:
        """Root mean square of u, of its highest term in time, and of the errors of all stages in space."""
        y = self.problem.space.interior(_CHECKED, sobol=True)
        vectors = self.radau.modes[1]
        w = [torch.view_as_complex(f.derivative(y, {(): 1.0}).contiguous()).numpy() for f, _ in stages]
        u = 2 * np.real(vectors @ np.stack(w))
        # of degree s, through the values at the begin and at all nodes
        x = np.concatenate([[-1.0], 2 * self.radau.nodes - 1])
        c = np.linalg.solve(legendre.legvander(x, _STAGES), np.concatenate([self.state(y).numpy()[None], u]))
        rms = [
            2 * e * np.abs(v).max() * np.sqrt(np.mean(np.abs(a) ** 2))
            for (_, e), v, a in zip(stages, vectors.T, w, strict=True)
        ]
        return float(np.sqrt(np.mean(u**2))), float(np.sqrt(np.mean(c[-1] ** 2))), float(np.sum(rms))

    def final(self, stages: Sequence[FeatureField]) -> Callable[[Tensor], Tensor]:
        """U at the end of the slab."""
        ahead = 2 * self.radau.modes[1][-1]

        def state(x: Tensor) -> Tensor:
            w = [f.derivative(x, {(): 1.0}) for f in stages]
            return sum(float(v.real) * a[:, 0] - float(v.imag) * a[:, 1] for v, a in zip(ahead, w, strict=True))  # type: ignore[return-value]

        return state
