"""Kriging over switches: errors of neighbouring designs, with their uncertainty, from everything simulated nearby.

Relative to a simulated design b, the errors of a design v are a Gaussian process

    e_j(v) - e_j(b) ~ N(0, s_j^2 k),    k(v, w) = <v - b, w - b> + q exp(-|v - w|_1 / l)

whose first part adds up the effects of single flips and whose second part is what flips do together. It interpolates
what was simulated; l and q maximise the likelihood, and s_j^2 follows in closed form (Rasmussen and Williams, Gaussian
Processes for Machine Learning, 2006, chapter 2 and 5).
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product

import numpy as np
from scipy.linalg import cho_factor, cho_solve, solve_triangular

__all__ = ["Kriging"]

_LENGTHS, _SHARES = (4.0, 16.0, 64.0), (0.03, 0.3, 3.0, 30.0)


@dataclass(frozen=True)
class _Group:
    """Outputs that were simulated for the same designs."""

    columns: np.ndarray
    centred: np.ndarray  # (n, d), designs minus base
    factor: tuple[np.ndarray, bool]
    weights: np.ndarray  # (n, c), K^-1 (y - y_base)
    scale: np.ndarray  # (c,), s_j
    length: float
    share: float


class Kriging:
    """The process, conditioned on simulated designs.

    Args:
        base: (d,), one of the designs.
        designs: (n, d).
        values: (n, k); NaN where nothing is known.
        nearest: at most so many designs, those nearest to the base, are used.
    """

    def __init__(self, base: np.ndarray, designs: np.ndarray, values: np.ndarray, nearest: int = 400) -> None:
        order = np.argsort(np.abs(designs - base).sum(1), kind="stable")
        self.base, self.k = base, values.shape[1]
        self.value = values[order[0]]
        known = np.isfinite(values[order])
        self.groups = []
        patterns, which = np.unique(known, axis=1, return_inverse=True)
        for pattern in range(patterns.shape[1]):
            columns = np.flatnonzero(which.reshape(-1) == pattern)
            rows = order[patterns[:, pattern]][:nearest]
            self.groups.append(_fitted(columns, designs[rows] - base, values[np.ix_(rows, columns)]))

    def __call__(self, designs: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Mean (n, k) and standard deviation (n, k) of the errors of designs (n, d)."""
        centred = designs - self.base
        mean, deviation = np.empty((len(designs), self.k)), np.empty((len(designs), self.k))
        for g in self.groups:
            cross = _kernel(centred, g.centred, g.length, g.share)
            mean[:, g.columns] = self.value[g.columns] + cross @ g.weights
            explained = solve_triangular(g.factor[0], cross.T, lower=True)
            own = (centred**2).sum(1) + g.share
            deviation[:, g.columns] = np.sqrt(np.maximum(own - (explained**2).sum(0), 0))[:, None] * g.scale
        return mean, deviation

    def flips(self, generator: np.random.Generator, spread: float) -> np.ndarray:
        """(d, k): a draw of the effects of every single flip of the base; `spread` 0 gives their mean."""
        d = len(self.base)
        centred = np.diag(1 - 2 * self.base)
        effects = np.empty((d, self.k))
        for g in self.groups:
            cross = _kernel(centred, g.centred, g.length, g.share)
            effects[:, g.columns] = cross @ g.weights
            if spread:
                explained = solve_triangular(g.factor[0], cross.T, lower=True)
                covariance = _kernel(centred, centred, g.length, g.share) - explained.T @ explained
                root = np.linalg.cholesky(covariance + 1e-6 * (1 + g.share) * np.eye(d))
                effects[:, g.columns] += spread * (root @ generator.standard_normal((d, len(g.columns)))) * g.scale
        return effects

    def together(self) -> np.ndarray:
        """(k,): standard deviation of what one more flip adds beyond its own effect."""
        found = np.empty(self.k)
        for g in self.groups:
            found[g.columns] = g.scale * np.sqrt(2 * g.share * (1 - np.exp(-1 / g.length)))
        return found


def _kernel(a: np.ndarray, b: np.ndarray, length: float, share: float) -> np.ndarray:
    inner = a @ b.T
    # entries are -1, 0, 1 with one sign per column, so |a - b|_1 = |a - b|_2^2
    apart = (a**2).sum(1)[:, None] + (b**2).sum(1) - 2 * inner
    return np.asarray(inner + share * np.exp(-apart / length))


def _fitted(columns: np.ndarray, centred: np.ndarray, values: np.ndarray) -> _Group:
    """The likeliest length and share of a group."""
    y = values - values[0]  # the nearest design is the base
    best: tuple[float, _Group] | None = None
    for length, share in product(_LENGTHS, _SHARES):
        matrix = _kernel(centred, centred, length, share)
        matrix[np.diag_indices_from(matrix)] += 1e-6 * (1 + share)
        factor = cho_factor(matrix, lower=True)
        weights = cho_solve(factor, y)
        variance = np.maximum((y * weights).mean(0), 1e-8)
        loss = len(y) * np.log(variance).sum() + 2 * len(columns) * np.log(np.diag(factor[0])).sum()
        if best is None or loss < best[0]:
            best = loss, _Group(columns, centred, factor, weights, np.sqrt(variance), length, share)
    assert best is not None
    return best[1]
