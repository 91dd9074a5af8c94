"""Discrete ordinates for steady radiative transfer in a slab, the classical reference of learned operators.

    v f_x + sigma f = s rho,    rho(x) = 1/2 int_{-1}^1 f dv,    f(0, v > 0) and f(1, v < 0) given

Directions are the nodes of two Gauss rules, one for each half of [-1, 1]: at the walls the solution jumps at v = 0.
Along each direction rho is taken as linear between the nodes of the grid and the rest is integrated exactly, which is
of second order, positive and free of ringing however thick the cells are. The scattering is iterated; after each sweep
a diffusion equation on the same grid predicts what further sweeps would add (diffusion synthetic acceleration), without
which the iteration needs 1 / eps^2 sweeps.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from scipy.linalg import solve_banded

Array = np.ndarray
Inflow = Callable[[Array], Array]

__all__ = ["DiscreteOrdinates", "Rays", "Slab", "walled"]


@dataclass(frozen=True)
class Slab:
    """The equation in 0 < x < 1.

    Attributes:
        total: sigma > 0, by which rays are weakened.
        scattering: s, what comes back; 0 <= s <= sigma.
    """

    total: float
    scattering: float

    def __post_init__(self) -> None:
        """Check the numbers."""
        if not self.total > 0:
            raise ValueError(f"total is {self.total}, but must be positive")
        if not 0 <= self.scattering <= self.total:
            raise ValueError(f"scattering is {self.scattering}, but must lie between 0 and total = {self.total}")


class Rays(NamedTuple):
    """Grid ``(n,)``, directions and weights ``(m,)``, f ``(n, m)``, rho ``(n,)`` and the changes per sweep."""

    x: Array
    v: Array
    weights: Array
    f: Array
    rho: Array
    changes: tuple[float, ...]


def walled(n: int, thickness: float) -> Array:
    """A grid of n cells: half of them uniform, half within some free paths of the walls, where it is refined.

    The density of nodes is 1 + thickness-sized layers 1 / (x + thickness) at both ends, in equal shares.
    """
    fine = np.linspace(0.0, 1.0, 20001)
    layer = np.log1p(fine / thickness) / np.log1p(1 / thickness)
    share = 0.5 * fine + 0.25 * layer + 0.25 * (1 - layer[::-1])
    grid = np.interp(np.linspace(0.0, 1.0, n + 1), share, fine)
    grid[0], grid[-1] = 0.0, 1.0
    return grid


@dataclass(frozen=True)
class DiscreteOrdinates:
    """Options of the reference.

    Attributes:
        cells: of the grid.
        directions: Gauss nodes in each half of [-1, 1].
        tolerance: on the relative change of rho in a sweep.
        sweeps: at most.
        accelerate: correct each sweep by diffusion.
    """

    cells: int = 800
    directions: int = 32
    tolerance: float = 1e-10
    sweeps: int = 500
    accelerate: bool = True

    def solve(self, slab: Slab, left: Inflow, right: Inflow) -> Rays:
        """Iterate to the tolerance.

        Args:
            slab: the equation.
            left: f(0, v) as a function of v > 0.
            right: f(1, -v) as a function of v > 0.

        Raises:
            ArithmeticError: if the sweeps do not suffice.
        """
        x = walled(self.cells, 0.1 / slab.total)
        t, w = np.polynomial.legendre.leggauss(self.directions)
        v, w = (1 + t) / 2, w / 2
        inflow = np.stack([left(v), right(v)])
        if inflow.shape != (2, len(v)) or not np.isfinite(inflow).all():
            raise ValueError(
                f"left and right gave {inflow.shape[1:]} values at {len(v)} directions, or not finite ones"
            )
        h = np.diff(x)
        rho, changes = np.zeros(len(x)), list[float]()
        while len(changes) < self.sweeps:
            f = _sweep(slab, h, v, inflow, rho)
            swept = 0.5 * (f @ w).sum(0)
            change = swept - rho
            if self.accelerate:
                swept = swept + _diffuse(slab, h, change)
            size = np.abs(swept).max()
            changes.append(float(np.abs(swept - rho).max() / size) if size > 0 else 0.0)
            rho = swept
            if self.accelerate and size > 1e6 * np.abs(inflow).max():
                thick = slab.total * h.max()
                raise ArithmeticError(
                    f"the acceleration diverges on cells of {thick:.2g} free paths; use more cells or accelerate=False"
                )
            if changes[-1] < self.tolerance:
                f = _sweep(slab, h, v, inflow, rho)
                both = np.concatenate([f[1][:, ::-1], f[0]], 1)
                return Rays(x, np.concatenate([-v[::-1], v]), np.concatenate([w[::-1], w]), both, rho, tuple(changes))
        raise ArithmeticError(f"rho still changes by {changes[-1]:.1e} after {self.sweeps} sweeps; allow more of them")


def _sweep(slab: Slab, h: Array, v: Array, inflow: Array, rho: Array) -> Array:
    """F ``(2, n, m)`` in the directions v and -v, with a source that is linear in each cell."""
    tau = slab.total * h[:, None] / v
    fade = np.exp(-tau)
    mean = -np.expm1(-tau) / tau
    begin, end = slab.scattering / slab.total * (mean - fade), slab.scattering / slab.total * (1 - mean)
    f = np.empty((2, len(rho), len(v)))
    f[0, 0], f[1, -1] = inflow
    forward = begin * rho[:-1, None] + end * rho[1:, None]
    backward = begin * rho[1:, None] + end * rho[:-1, None]
    for i in range(len(h)):
        f[0, i + 1] = fade[i] * f[0, i] + forward[i]
    for i in range(len(h) - 1, -1, -1):
        f[1, i] = fade[i] * f[1, i + 1] + backward[i]
    return f


def _diffuse(slab: Slab, h: Array, change: Array) -> Array:
    """What further scattering of a change adds, in the limit of diffusion.

    -(e' / (3 sigma))' + (sigma - s) e = s change,   e / 2 + e_n / (3 sigma) = 0 at the walls
    """
    lumped = np.zeros(len(change))
    lumped[:-1] += h / 2
    lumped[1:] += h / 2
    flow = 1 / (3 * slab.total * h)
    bands = np.zeros((3, len(change)))
    bands[0, 1:] = bands[2, :-1] = -flow
    bands[1] = (slab.total - slab.scattering) * lumped
    bands[1, :-1] += flow
    bands[1, 1:] += flow
    bands[1, [0, -1]] += 0.5
    return solve_banded((1, 1), bands, slab.scattering * lumped * change)
