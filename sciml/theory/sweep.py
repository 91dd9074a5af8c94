"""The phase diagram by experiment: S_w, the slope of log RD over log m, for networks of two layers (arXiv:2007.07497).

S_w is negative in the linear regime, positive in the condensed one and zero between; see `sciml.theory.regimes`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

__all__ = ["PhaseDiagram", "RegimeSweep", "TwoLayer"]


class TwoLayer(nn.Module):
    """f(x) = 1 / alpha sum_k a_k sigma(w_k . x + b_k), the network of the phase diagram.

    Args:
        width: m.
        gamma: see `sciml.theory.regimes`; alpha = m^(gamma - gamma').
        gamma_prime: see `sciml.theory.regimes`; beta1 = m^-gamma', beta2 = 1.
        inputs: d.
        activation: sigma.
        generator: of the parameters; None is one seeded 0.
    """

    def __init__(
        self,
        width: int,
        gamma: float,
        gamma_prime: float = 0.0,
        inputs: int = 1,
        activation: Callable[[Tensor], Tensor] = torch.relu,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0) if generator is None else generator
        # kappa' = beta1 = m^-gamma' and kappa = beta1 / alpha = m^-gamma
        beta1, self.alpha = width**-gamma_prime, width ** (gamma - gamma_prime)
        rows = torch.randn(width, inputs + 1, dtype=torch.float64, generator=generator)
        self.rows = nn.Parameter(rows)
        self.a = nn.Parameter(beta1 * torch.randn(width, dtype=torch.float64, generator=generator))
        self.activation = activation

    def forward(self, x: Tensor) -> Tensor:
        """Values ``(n,)``."""
        return self.activation(x @ self.rows[:, :-1].T + self.rows[:, -1]) @ self.a / self.alpha


@dataclass(frozen=True)
class PhaseDiagram:
    """What a `RegimeSweep` measured.

    Attributes:
        gammas: ``(g,)``.
        gamma_primes: ``(h,)``.
        widths: ``(w,)``.
        distances: RD of the inner layer at the end, ``(h, g, w)``, geometric mean over the seeds.
        slopes: S_w, ``(h, g)``.
        losses: largest final loss relative to the first, ``(h, g, w)``: RD is that of the trained network only where it
            is small.
    """

    gammas: np.ndarray
    gamma_primes: np.ndarray
    widths: np.ndarray
    distances: np.ndarray
    slopes: np.ndarray
    losses: np.ndarray

    def plot(self, figure: Any = None) -> Any:
        """RD over width, and for a sweep over both coordinates the diagram with its critical line."""
        from matplotlib.figure import Figure

        figure = Figure(figsize=(9, 4), layout="constrained") if figure is None else figure
        left, right = figure.subplots(1, 2)
        for j, prime in enumerate(self.gamma_primes):
            for i, gamma in enumerate(self.gammas):
                label = f"{gamma:g}, {prime:g}: {self.slopes[j, i]:+.2f}"
                left.loglog(self.widths, self.distances[j, i], "o-", label=label)
        left.set(xlabel="width m", ylabel="relative distance RD")
        if self.slopes.size <= 9:
            left.legend(title="gamma, gamma': S_w", fontsize="small")
        g, h = np.meshgrid(self.gammas, self.gamma_primes)
        shown = right.scatter(
            g.ravel(), h.ravel(), c=self.slopes.ravel(), cmap="RdBu_r", vmin=-0.6, vmax=0.6, s=90, edgecolors="k"
        )
        low, high = min(-0.5, h.min() - 0.2), max(0.5, h.max() + 0.2)
        line = np.linspace(low, high, 50)
        right.plot(np.maximum(1, 1 + line), line, "k--")
        right.set(xlabel="gamma", ylabel="gamma'", title="S_w; dashed: critical line")
        figure.colorbar(shown, ax=right)
        return figure


@dataclass(frozen=True)
class RegimeSweep:
    """Measures S_w: trains two-layer networks of several widths to one relative loss by gradient descent.

    The learning rate is the whole difficulty, because curvature scales with alpha and changes by orders of magnitude as
    a condensed network leaves its small start. Here each step takes what is stable: a share of n / |J|^2, the curvature
    of the Gauss-Newton part, and of alpha / (|r| |x|), that of the rest.

    Attributes:
        points: ``(n, d)``, few.
        values: ``(n,)``.
        gammas: see `TwoLayer`.
        gamma_primes: see `TwoLayer`.
        widths: at least two.
        seeds: of initialisations that are averaged over.
        steps: at most, per training.
        tolerance: final loss relative to that of the zero function.
        share: of the stability limits that a step takes.
        antisymmetric: start from the zero function by pairs of neurons with opposite a (arXiv:1905.07777); a random
            first output would have to be unlearned, which scatters RD in the linear regime.
    """

    points: Tensor
    values: Tensor
    gammas: Sequence[float] = (0.5, 1.0, 1.75)
    gamma_primes: Sequence[float] = (0.0,)
    widths: Sequence[int] = (250, 500, 1000, 2000, 4000)
    seeds: Sequence[int] = (0,)
    steps: int = 20_000
    tolerance: float = 1e-3
    share: float = 0.5
    antisymmetric: bool = True

    def __post_init__(self) -> None:
        """Check what a slope needs."""
        if len(set(self.widths)) < 2 or min(self.widths) < 2:
            raise ValueError(f"widths is {tuple(self.widths)}, but a slope needs at least two widths above 1")
        if self.values.shape != (len(self.points),):
            raise ValueError(f"values has shape {tuple(self.values.shape)}, but there are {len(self.points)} points")

    def run(self) -> PhaseDiagram:
        """Train everything."""
        shape = len(self.gamma_primes), len(self.gammas), len(self.widths)
        distances, losses = np.zeros(shape), np.zeros(shape)
        for (j, i, k), _ in np.ndenumerate(distances):
            ends = [self.train(self.widths[k], self.gammas[i], self.gamma_primes[j], seed) for seed in self.seeds]
            distances[j, i, k] = math.exp(np.mean([math.log(rd) for rd, _ in ends]))
            losses[j, i, k] = max(loss for _, loss in ends)
        logs = np.log(np.asarray(self.widths, float))
        slopes = np.array([[np.polyfit(logs, np.log(d), 1)[0] for d in row] for row in distances])
        gammas, primes, widths = (np.asarray(v, float) for v in (self.gammas, self.gamma_primes, self.widths))
        return PhaseDiagram(gammas, primes, widths, distances, slopes, losses)

    def train(self, width: int, gamma: float, gamma_prime: float, seed: int) -> tuple[float, float]:
        """One training: (RD of the inner layer, final loss relative to that of the zero function)."""
        net = TwoLayer(width, gamma, gamma_prime, self.points.shape[1], generator=torch.Generator().manual_seed(seed))
        w, a = net.rows.detach().clone(), net.a.detach().clone()
        if self.antisymmetric:
            half = width // 2
            w[half : 2 * half], a[half : 2 * half] = w[:half], -a[:half]
        start, alpha, n = w.clone(), net.alpha, len(self.points)
        x = torch.cat([self.points, torch.ones(n, 1, dtype=torch.float64)], 1)
        size = float(self.values.square().mean())
        reach, loss = float(x.norm(dim=1).max()), math.inf
        gram = x @ x.T
        for _ in range(self.steps):
            z = x @ w.T
            h = z.clamp_min(0)
            r = h @ a / alpha - self.values
            loss = float(r.square().mean()) / size
            if loss < self.tolerance or not math.isfinite(loss):
                break
            gate = (z > 0).double()
            # K = J J^T, n by n: from the outgoing and from the incoming weights
            kernel = (h @ h.T + (gate * a.square()) @ gate.T * gram) / alpha**2
            curvature = float(torch.linalg.eigvalsh(kernel)[-1]) / n
            rest = float(r.norm()) * reach / (alpha * n**0.5)
            lr = self.share / max(curvature, rest, 1e-300)
            step_a = h.T @ r / (n * alpha)
            step_w = (gate * r[:, None]).T @ x * a[:, None] / (n * alpha)
            a, w = a - lr * step_a, w - lr * step_w
        return float((w - start).norm() / start.norm()), loss
