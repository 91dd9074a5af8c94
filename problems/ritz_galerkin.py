"""Implicit bias: Ritz-Galerkin against a network when -Lap u = f is known at n points only (arXiv:2002.07989).

With zero boundary values, both minimise the same sampled energy

    1/2 int |grad u|^2 dx - |Omega|/n sum_i f(x_i) u(x_i).

With m -> inf basis functions Ritz-Galerkin tends to the solution of -Lap u = |Omega|/n sum_i f(x_i) delta(x - x_i):
on an interval [a, b] a function with a kink at every point,

    u(x) = (b - a)/n sum_i f(x_i) [(b - x_i)(x - a)/(b - a) - (x - x_i)_+],

on a square the sine series whose value at the points grows without bound. A network of any width stays smooth. (The
paper writes 1/n for |Omega|/n; on domains of measure 1 they agree.)

    interval   [-1, 1], f = sin pi x at 5 equispaced points: P1 elements and Legendre polynomials beside a network
    square     (0, 1)^2, f = 2 pi^2 sin pi x sin pi y at random points: sines beside a network
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.polynomial import legendre
from torch import Tensor

from sciml import Box
from sciml.calculus import jet
from sciml.hard import Hard
from sciml.networks import Dense, sine
from sciml.objective import Batch, Block
from sciml.results import Run
from sciml.theory import Sine
from sciml.training import Adam, fit

Array = np.ndarray
Function = Callable[[Array], Array]


@dataclass(frozen=True)
class Config:
    """Options of a run.

    Attributes:
        dim: 1 for the interval, 2 for the square.
        samples: n, points at which f is known.
        bases: m, numbers of basis functions (per axis on the square).
        widths: of the networks, one hidden layer of sines each.
        steps: of Adam.
        lr: learning rate.
    """

    dim: int = 1
    samples: int = 5
    bases: tuple[int, ...] = (4, 16, 64, 256)
    widths: tuple[int, ...] = (50, 500)
    steps: int = 3000
    lr: float = 3e-3


VARIANTS = {
    "paper": Config(),
    "smoke": Config(bases=(4, 16), widths=(20,), steps=30),
    "square": Config(dim=2, samples=16, bases=(4, 8, 16, 32), widths=(100, 400)),
}


def limit_1d(a: float, b: float, x: Array, f: Array) -> Function:
    """The limit of many basis functions on an interval: piecewise linear, zero at both ends."""
    weights = (b - a) * f / len(x)

    def u(t: Array) -> Array:
        ramp = (b - x) * (t[:, None] - a) / (b - a)
        return (ramp - np.maximum(t[:, None] - x, 0)) @ weights

    return u


def hats(m: int, a: float, b: float, x: Array, f: Array) -> Function:
    """Ritz-Galerkin with m hat functions on an equispaced grid."""
    nodes = np.linspace(a, b, m + 2)
    h = nodes[1] - nodes[0]
    stiffness = (2 * np.eye(m) - np.eye(m, k=1) - np.eye(m, k=-1)) / h
    values = np.maximum(0, 1 - np.abs(x[:, None] - nodes[1:-1]) / h)
    u = np.concatenate([[0], np.linalg.solve(stiffness, (b - a) / len(x) * values.T @ f), [0]])
    return lambda t: np.interp(t, nodes, u)


def polynomials(m: int, a: float, b: float, x: Array, f: Array) -> Function:
    """Ritz-Galerkin with m integrated Legendre polynomials, whose stiffness matrix is diagonal."""

    def basis(t: Array) -> Array:
        # (P_{k+1} - P_{k-1}) / (2k + 1) is the integral of P_k and vanishes at both ends
        p = legendre.legvander(2 * (t - a) / (b - a) - 1, m + 1)
        k = np.arange(1, m + 1)
        return (p[:, k + 1] - p[:, k - 1]) / (2 * k + 1)

    stiffness = 2 / (2 * np.arange(1, m + 1) + 1) * 2 / (b - a)
    coefficients = (b - a) / len(x) * basis(x).T @ f / stiffness
    return lambda t: basis(t) @ coefficients


def sines_2d(m: int, x: Array, f: Array) -> Function:
    """Ritz-Galerkin with m x m sines on the unit square: the first m^2 terms of the limit's series."""
    k = np.pi * np.arange(1, m + 1)
    along = [np.sin(np.outer(x[:, i], k)) for i in (0, 1)]
    load = np.einsum("i,ik,il->kl", f / len(x), *along)
    coefficients = 4 * load / (k[:, None] ** 2 + k**2)

    def u(t: Array) -> Array:
        return np.einsum("ik,kl,il->i", np.sin(np.outer(t[:, 0], k)), coefficients, np.sin(np.outer(t[:, 1], k)))

    return u


class SampledEnergy:
    """1/2 int |grad u|^2 by quadrature, the load at the samples only."""

    def terms(self, field: Any, batch: Batch) -> dict[str, Tensor]:
        grid, samples = batch.blocks["grid"], batch.blocks["samples"]
        gradient, f = jet(field, grid.x, 1).gradient, samples.given[0]
        assert gradient is not None and f is not None
        dirichlet = 0.5 * (grid.weight * gradient.square().sum(-1)).sum()
        return {"dirichlet": dirichlet, "load": -(samples.weight * f * field(samples.x)).sum()}


def quadrature(domain: Box, per_axis: int) -> tuple[Tensor, Tensor]:
    """Midpoints and weights."""
    lower, upper = (edge.numpy() for edge in domain.bounds)
    axes = [a + (b - a) * (np.arange(per_axis) + 0.5) / per_axis for a, b in zip(lower, upper, strict=True)]
    x = torch.as_tensor(np.stack([g.ravel() for g in np.meshgrid(*axes, indexing="ij")], 1))
    return x, torch.full((len(x),), domain.volume / len(x), dtype=x.dtype)


def network(config: Config, domain: Box, width: int, x: Tensor, f: Tensor, seed: int) -> torch.nn.Module:
    """A network with zero boundary values, trained on the sampled energy."""
    bounds = domain.bounds[0].tolist(), domain.bounds[1].tolist()
    generator = torch.Generator().manual_seed(seed)
    model = Hard(Dense(config.dim, (width,), activation=sine, generator=generator, box=bounds), domain, 0.0)
    grid = Block(*quadrature(domain, 401 if config.dim == 1 else 41))
    samples = Block(x, torch.full((len(x),), domain.volume / len(x), dtype=x.dtype), given=(f,))
    batch = Batch({"grid": grid, "samples": samples})
    fit(model, SampledEnergy(), lambda _: batch, [Adam(config.steps, lr=config.lr, resample=None)])
    return model


def setting(config: Config, seed: int) -> tuple[Box, Tensor, Tensor, Callable[[Tensor], Tensor]]:
    """Domain, sample points, f there, and the solution for a fully known f."""
    if config.dim == 1:
        x = torch.linspace(-1, 1, config.samples + 2, dtype=torch.float64)[1:-1, None]
        return Box([-1.0], [1.0]), x, torch.sin(math.pi * x[:, 0]), lambda t: torch.sin(math.pi * t[:, 0]) / math.pi**2
    domain = Box([0.0, 0.0], [1.0, 1.0])
    x = domain.interior(config.samples, torch.Generator().manual_seed(seed))

    def exact(t: Tensor) -> Tensor:
        return torch.sin(math.pi * t).prod(1)

    return domain, x, 2 * math.pi**2 * exact(x), exact


def methods(config: Config, domain: Box, x: Tensor, f: Tensor, seed: int) -> dict[str, Callable[[Tensor], Tensor]]:
    """All solutions as fields, by name."""
    points, values = (x[:, 0] if config.dim == 1 else x).numpy(), f.numpy()
    ends = (-1.0, 1.0)

    def field(u: Function) -> Callable[[Tensor], Tensor]:
        return lambda t: torch.as_tensor(u((t[:, 0] if config.dim == 1 else t).numpy()))

    found = {}
    for m in config.bases:
        if config.dim == 1:
            found[f"P1, m = {m}"] = field(hats(m, *ends, points, values))
            found[f"Legendre, m = {m}"] = field(polynomials(m, *ends, points, values))
        else:
            found[f"sines, m = {m} x {m}"] = field(sines_2d(m, points, values))
    if config.dim == 1:
        found["limit"] = field(limit_1d(*ends, points, values))
    for width in config.widths:
        found[f"network, width {width}"] = network(config, domain, width, x, f, seed)
    return found


def run(config: Config, run: Run) -> dict[str, Any]:
    """Every method on the same samples: distance to the limit, roughness, and the tail of the spectrum.

    The tail is the share of the energy at wavenumbers that the samples of f, were they on a grid, would not resolve.
    """
    if config.dim not in (1, 2):
        raise ValueError(f"dim is {config.dim}, but must be 1 or 2")
    domain, x, f, exact = setting(config, run.seed)
    found = methods(config, domain, x, f, run.seed)
    lower, upper = (edge.numpy() for edge in domain.bounds)
    grid = Sine(lower, upper, 1023 if config.dim == 1 else 63)
    k = np.linalg.norm(grid.wavenumbers, axis=1)
    values = {name: np.asarray(u(grid.points).detach(), float) for name, u in found.items()}
    resolved = math.pi * (config.samples / domain.volume) ** (1 / config.dim)
    rows = []
    for name, v in values.items():
        spectrum = np.abs(grid.analyse(v)) ** 2
        # |Lap u|^2 by its sine coefficients: grows with m for Ritz-Galerkin, stays for a network
        row = {"method": name, "max |u|": np.abs(v).max(), "rms of Lap u": float((spectrum * k**4).sum() ** 0.5)}
        row["tail"] = float(spectrum[k > resolved].sum() / spectrum.sum())
        if "limit" in values:
            row["to the limit"] = float(np.abs(v - values["limit"]).max())
        row["to exact"] = float(np.abs(v - exact(grid.points).numpy()).max())
        rows.append(row)
    draw(config, run, grid.points.numpy(), values, x.numpy())
    return {**{r["method"]: {k: v for k, v in r.items() if k != "method"} for r in rows}, "table": rows}


def draw(config: Config, run: Run, points: Array, values: dict[str, Array], x: Array) -> None:
    with run.figure("solutions", 10.0, 4.5) as figure:
        if config.dim == 1:
            axes = figure.subplots()
            for name, v in values.items():
                axes.plot(points[:, 0], v, "--" if name.startswith("network") else "-", label=name)
            axes.plot(x[:, 0], 0 * x[:, 0], "k^", label="samples of f")
            axes.legend(fontsize=7, ncols=2)
            return
        shown = [n for n in values if n.startswith("sines")][-2:] + [n for n in values if n.startswith("network")][-1:]
        side = round(len(points) ** 0.5)
        for axes, name in zip(figure.subplots(1, len(shown)), shown, strict=True):
            image = axes.pcolormesh(values[name].reshape(side, side).T)
            axes.set(title=name, aspect="equal")
            figure.colorbar(image, ax=axes)
