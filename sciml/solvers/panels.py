"""Functions on an interval, piecewise polynomial: panels of Gauss points, refined until each resolves what it holds."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Any, ClassVar, NamedTuple

import numpy as np
import torch
from numpy.polynomial import legendre
from torch import Tensor

from sciml.calculus import Taylor

__all__ = ["PanelField", "Rule", "rule"]


class Rule(NamedTuple):
    """Gauss-Legendre points on [-1, 1] and the linear maps that act on values at them.

    Attributes:
        points: ``(m,)``.
        weights: ``(m,)``.
        transform: ``(m, m)`` values to Legendre coefficients.
        rising: ``(m, m)`` values to the integrals from -1 to each point.
        falling: ``(m, m)`` values to the integrals from each point to 1.
    """

    points: np.ndarray
    weights: np.ndarray
    transform: np.ndarray
    rising: np.ndarray
    falling: np.ndarray


@lru_cache
def rule(m: int) -> Rule:
    """The rule of `m` points."""
    points, weights = legendre.leggauss(m)
    degrees = np.arange(m)
    transform = (degrees[:, None] + 0.5) * legendre.legvander(points, m - 1).T * weights
    columns = np.eye(m)
    rising = np.stack([legendre.legval(points, legendre.legint(c, lbnd=-1)) for c in columns], 1) @ transform
    falling = np.stack([-legendre.legval(points, legendre.legint(c, lbnd=1)) for c in columns], 1) @ transform
    return Rule(points, weights, transform, rising, falling)


class PanelField:
    """A piecewise polynomial of one variable, continuous with its first derivative resolved: a Field.

    Args:
        edges: ``(k + 1,)`` ends of the panels, ascending; beyond the ends the outermost polynomials go on.
        coefficients: ``(k, m)`` Legendre coefficients of the values on each panel.
    """

    kind: ClassVar[str] = "panels"
    dim: ClassVar[int] = 1

    def __init__(self, edges: Tensor, coefficients: Tensor) -> None:
        self.edges, self.coefficients = edges, coefficients
        self._derivatives = [coefficients]

    def _order(self, order: int) -> Tensor:
        """Coefficients of a derivative."""
        while len(self._derivatives) <= order:
            inner = legendre.legder(self._derivatives[-1].numpy(), axis=1)
            scale = 2 / np.diff(self.edges.numpy())
            self._derivatives.append(torch.from_numpy(inner * scale[:, None]))
        return self._derivatives[order]

    def derivative(self, x: Tensor, order: int = 0) -> Tensor:
        """A derivative at points ``(n, 1)``: ``(n,)``."""
        z = x[:, 0].to("cpu", torch.float64)
        panel = torch.bucketize(z.detach(), self.edges[1:-1].contiguous(), right=True)
        left, right = self.edges[panel], self.edges[panel + 1]
        t = (2 * z - left - right) / (right - left)
        table = self._order(order)[panel]
        total, before, now = table[:, 0] * 1.0, torch.ones_like(t), t
        for k in range(1, table.shape[1]):
            total = total + table[:, k] * now
            before, now = now, ((2 * k + 1) * t * now - k * before) / (k + 1)
        return total.to(x.device, x.dtype)

    def __call__(self, x: Tensor) -> Tensor:
        """Values ``(n,)``."""
        return self.derivative(x)

    def taylor(self, t: Taylor) -> Taylor:
        """Exact derivatives, see `sciml.calculus`."""
        x = t.value
        value = self.derivative(x)[:, None]
        if t.first is None:
            return Taylor(value)
        slope = self.derivative(x, 1)[:, None]
        bend = self.derivative(x, 2)[:, None] if t.lap is not None or t.second is not None else slope
        first = slope * t.first
        lap = None if t.lap is None else bend * t.first.square().sum(0) + slope * t.lap
        second = None
        if t.second is not None:
            products = torch.stack([t.first[i] * t.first[j] for i, j in t.pairs])
            second = bend * products + slope * t.second
        return Taylor(value, first, lap, second, t.pairs)

    def describe(self) -> dict[str, Any]:
        """Nothing beside the arrays."""
        return {}

    def arrays(self) -> dict[str, np.ndarray]:
        """Edges and coefficients."""
        return {"edges": self.edges.numpy(), "coefficients": self.coefficients.numpy()}

    @classmethod
    def restore(cls, description: Mapping[str, Any], arrays: Mapping[str, np.ndarray], problem: Any = None) -> Any:
        """From `describe` and `arrays`."""
        return cls(torch.as_tensor(arrays["edges"]), torch.as_tensor(arrays["coefficients"]))


Sampler = Callable[[np.ndarray], np.ndarray]  # (n,) points to (n, q) values


class Panels:
    """Panels with values of some functions at their Gauss points, which can be halved.

    Args:
        edges: ``(k + 1,)``.
        sample: the functions.
        m: Gauss points a panel.

    Attributes:
        x: ``(k, m)`` points.
        values: ``(k, m, q)``.
        half: ``(k,)`` half widths.
    """

    def __init__(self, edges: np.ndarray, sample: Sampler, m: int) -> None:
        self.sample, self.rule = sample, rule(m)
        self.edges = edges
        self.x, self.values = self._at(edges[:-1], edges[1:])

    @property
    def half(self) -> np.ndarray:
        """Half widths ``(k,)``."""
        return np.diff(self.edges) / 2

    def _at(self, left: np.ndarray, right: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        x = left[:, None] + (right - left)[:, None] * (1 + self.rule.points) / 2
        values = self.sample(x.ravel())
        return x, values.reshape(*x.shape, -1)

    def split(self, bad: np.ndarray) -> None:
        """Halve the panels of a mask."""
        left, right = self.edges[:-1], self.edges[1:]
        middle = (left + right) / 2
        ends = np.stack([left[bad], middle[bad], right[bad]], 1)
        x, values = self._at(ends[:, :2].ravel(), ends[:, 1:].ravel())
        keep = ~bad
        starts = np.concatenate([left[keep], ends[:, :2].ravel()])
        order = np.argsort(starts, kind="stable")
        self.x = np.concatenate([self.x[keep], x])[order]
        self.values = np.concatenate([self.values[keep], values])[order]
        self.edges = np.append(starts[order], self.edges[-1])

    def tail(self, values: np.ndarray) -> np.ndarray:
        """How far values ``(k, m)`` are from a polynomial of two thirds of the degree, on each panel ``(k,)``."""
        coefficients = np.abs(values @ self.rule.transform.T)
        return coefficients[:, -(len(self.rule.points) // 3) :].max(1)
