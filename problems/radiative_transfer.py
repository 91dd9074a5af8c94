"""Radiative transfer in a slab: an operator from inflow to f(x, v) (MOD-Net, arXiv:2107.03673).

    v f_x + f / eps = (1 / eps - sigma_a) / 2 int_{-1}^1 f dv',    sigma_a = eps / 2,    0 < x < 1

with f(0, v > 0) and f(1, v < 0) given, eps from 1 (few collisions) to 1e-2 (diffusion). The uncollided part is exact,
the kernel of the collided rest is learned from the equation and applied to inflow that it never saw: random
polynomials, waves in v, and fronts. The reference is discrete ordinates with diffusion synthetic acceleration,
on two grids, so that its own error is known; errors are relative L2 over (x, v).
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from sciml.solvers.ordinates import DiscreteOrdinates, Inflow, Rays, Slab
from sciml.solvers.transport import SlabSolver

INFLOWS = ("polynomial", "waves", "fronts")


def slab(eps: float) -> Slab:
    """The paper's scaling."""
    return Slab(1 / eps, 1 / eps - 0.5 * eps)


def inflow(kind: str, generator: torch.Generator) -> Inflow:
    """One positive random function of v in (0, 1)."""
    c = torch.rand(4, generator=generator, dtype=torch.float64).numpy()
    if kind == "polynomial":
        return lambda v: np.polyval(c, v)
    if kind == "waves":
        return lambda v: 1 + c[0] * np.sin(2 * math.pi * (1 + 3 * c[1]) * v + 6 * c[2])
    if kind == "fronts":
        return lambda v: 1 + np.tanh((v - 0.2 - 0.6 * c[0]) / 0.05)
    raise ValueError(f"kind is {kind!r}, but must be one of {', '.join(INFLOWS)}")


@dataclass(frozen=True)
class Config:
    """Options of a run.

    Attributes:
        eps: mean free paths, one operator each.
        members: pairs of inflows of each kind.
        cells: of the reference.
        directions: of the reference, in each half.
    """

    eps: tuple[float, ...] = (1.0, 0.1, 0.01)
    members: int = 3
    cells: int = 3200
    directions: int = 64


VARIANTS = {
    "smoke": Config(eps=(1.0,), members=1, cells=200, directions=16),
    "paper": Config(),
}


def distance(found: Callable[[np.ndarray], np.ndarray], rays: Rays, every: int = 1) -> float:
    """Relative L2 distance over (x, v) from a reference, by the trapezoidal rule in x on every so many nodes."""
    x, f = rays.x[::every], rays.f[::every]
    cell = np.gradient(x)
    weights = cell[:, None] * rays.weights
    points = np.stack(np.meshgrid(x, rays.v, indexing="ij"), -1).reshape(-1, 2)
    gap = found(points).reshape(f.shape) - f
    return float(np.sqrt((weights * gap**2).sum() / (weights * f**2).sum()))


def run(config: Config, run: Any) -> dict[str, Any]:
    """One operator for each eps, measured on unseen inflow of every kind."""
    metrics: dict[str, Any] = {}
    rows = []
    for eps in config.eps:
        begin = time.process_time()
        operator = SlabSolver().solve(slab(eps))
        training = time.process_time() - begin
        generator = torch.Generator().manual_seed(run.seed)
        for kind in INFLOWS:
            errors, own, seconds = [], [], [0.0, 0.0]
            for _ in range(config.members):
                left, right = inflow(kind, generator), inflow(kind, generator)
                begin = time.process_time()
                rays = DiscreteOrdinates(config.cells, config.directions).solve(slab(eps), left, right)
                seconds[0] += time.process_time() - begin
                coarse = DiscreteOrdinates(config.cells // 2, config.directions).solve(slab(eps), left, right)
                own.append(float(np.abs(np.interp(rays.x, coarse.x, coarse.rho) - rays.rho).max() / rays.rho.max()))
                begin = time.process_time()
                errors.append(distance(operator(left, right), rays, every=8))
                seconds[1] += time.process_time() - begin
            row = {
                "rel_l2": float(np.median(errors)),
                "worst": max(errors),
                "reference on half the cells": max(own),
                "reference seconds": seconds[0] / config.members,
                "operator seconds": seconds[1] / config.members,
            }
            metrics[f"eps {eps:g}, {kind}"] = row
            rows.append({"eps": eps, "inflow": kind, **row})
        metrics[f"eps {eps:g}, training seconds"] = training
    draw(run, config)
    return {**metrics, "table": rows}


def draw(run: Any, config: Config) -> None:
    """f(x, v) for one inflow and every eps."""
    x, v = np.meshgrid(np.linspace(0, 1, 121), np.linspace(-1, 1, 122), indexing="ij")
    points = np.stack([x.ravel(), v.ravel()], 1)
    with run.figure("distribution", 4.0 * len(config.eps), 3.5) as figure:
        axes = np.atleast_1d(figure.subplots(1, len(config.eps)))
        for ax, eps in zip(axes, config.eps, strict=True):
            f = SlabSolver().solve(slab(eps))(lambda v: 1 + v, lambda v: np.zeros_like(v))(points)
            figure.colorbar(ax.pcolormesh(x, v, f.reshape(x.shape), shading="gouraud"))
            ax.set(title=f"eps = {eps:g}", xlabel="x", ylabel="v")
