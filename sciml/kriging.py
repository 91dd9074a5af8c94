"""Kriging over switches: errors of neighbouring designs, with their uncertainty, from everything simulated nearby.

Relative to a simulated design b, the errors of a design v are a Gaussian process

    e_j(v) - e_j(b) ~ N(0, s_j^2 k),    k(v, w) = <r (v - b), r (w - b)> + q exp(-|r (v - w)|^2 / l)

whose first part adds up the effects of single flips and whose second part is what flips do together. The relevance
r_i of a switch is the largest change that was seen between two designs that differ in it alone, and small where there
are none. The process interpolates what was simulated; l and q maximise the likelihood, and s_j^2 follows in closed form
(Rasmussen and Williams, Gaussian Processes for Machine Learning, 2006, chapters 2 and 5).
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product

import numpy as np
from scipy.linalg import cho_factor, cho_solve, solve_triangular

__all__ = ["Kriging"]

_LENGTHS, _SHARES = (1.0, 4.0, 16.0), (0.01, 0.1, 1.0, 10.0)
_UNSEEN = 0.1  # relevance of a switch whose effect was not seen, and the least of any, in units of a typical large one


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
    relevance: np.ndarray  # (d,)

    def kernel(self, a: np.ndarray, b: np.ndarray) -> np.ndarray:
        """(n, m) of centred designs."""
        return _kernel(a * self.relevance, b * self.relevance, self.length, self.share)


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
            cross = g.kernel(centred, g.centred)
            mean[:, g.columns] = self.value[g.columns] + cross @ g.weights
            explained = solve_triangular(g.factor[0], cross.T, lower=True)
            own = ((centred * g.relevance) ** 2).sum(1) + g.share
            deviation[:, g.columns] = np.sqrt(np.maximum(own - (explained**2).sum(0), 0))[:, None] * g.scale
        return mean, deviation

    def flips(self, generator: np.random.Generator, spread: float) -> np.ndarray:
        """(d, k): a draw of the effects of every single flip of the base; `spread` 0 gives their mean."""
        d = len(self.base)
        centred = np.diag(1 - 2 * self.base)
        effects = np.empty((d, self.k))
        for g in self.groups:
            cross = g.kernel(centred, g.centred)
            effects[:, g.columns] = cross @ g.weights
            if spread:
                explained = solve_triangular(g.factor[0], cross.T, lower=True)
                covariance = g.kernel(centred, centred) - explained.T @ explained
                root = np.linalg.cholesky(covariance + 1e-6 * (1 + g.share) * np.eye(d))
                effects[:, g.columns] += spread * (root @ generator.standard_normal((d, len(g.columns)))) * g.scale
        return effects

    def together(self) -> np.ndarray:
        """(k,): standard deviation of what one more flip of middling relevance adds beyond its own effect."""
        found = np.empty(self.k)
        for g in self.groups:
            apart = np.median(g.relevance) ** 2 / g.length
            found[g.columns] = g.scale * np.sqrt(2 * g.share * (1 - np.exp(-apart)))
        return found


def _kernel(a: np.ndarray, b: np.ndarray, length: float, share: float) -> np.ndarray:
    inner = a @ b.T
    apart = np.maximum((a**2).sum(1)[:, None] + (b**2).sum(1) - 2 * inner, 0)
    return np.asarray(inner + share * np.exp(-apart / length))


def _relevance(centred: np.ndarray, values: np.ndarray) -> np.ndarray:
    """(d,): see the module; 1 for the largest."""
    squares = (centred**2).sum(1)
    apart = squares[:, None] + squares - 2 * centred @ centred.T
    one, other = np.nonzero(np.triu(np.abs(apart - 1) < 0.5))
    which = np.abs(centred[one] - centred[other]).argmax(1)
    found = np.zeros(centred.shape[1])
    np.maximum.at(found, which, np.abs(values[one] - values[other]).max(1))
    largest = found.max()
    return np.maximum(found / largest, _UNSEEN) if largest > 0 else np.ones_like(found)


def _fitted(columns: np.ndarray, centred: np.ndarray, values: np.ndarray) -> _Group:
    """The likeliest length and share of a group."""
    y = values - values[0]  # the nearest design is the base
    relevance = _relevance(centred, values)
    scaled = centred * relevance
    best: tuple[float, _Group] | None = None
    for length, share in product(_LENGTHS, _SHARES):
        matrix = _kernel(scaled, scaled, length, share)
        matrix[np.diag_indices_from(matrix)] += 1e-5 * (1 + share)
        factor = cho_factor(matrix, lower=True)
        weights = cho_solve(factor, y)
        variance = np.maximum((y * weights).mean(0), 1e-8)
        loss = len(y) * np.log(variance).sum() + 2 * len(columns) * np.log(np.diag(factor[0])).sum()
        if best is None or loss < best[0]:
            best = loss, _Group(columns, centred, factor, weights, np.sqrt(variance), length, share, relevance)
    assert best is not None
    return best[1]
