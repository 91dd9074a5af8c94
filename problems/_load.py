"""-Lap u = 1, u = 0 on polygons with round holes by a harmonic series: an oracle that certifies itself.

u = -|z - m|^2 / 4 + Re f(z) satisfies the equation exactly for every analytic f, so by the maximum principle the error
is nowhere larger than on the boundary, where it can be seen. f is a polynomial, a logarithm and Laurent terms in each
hole (in the exterior Joukowski coordinate of an ellipse), and poles that cluster exponentially towards each corner from
outside (Gopal and Trefethen, SIAM J. Numer. Anal. 57, 2074, 2019). Nothing here is shared with the measured solver.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

Array = np.ndarray
Hole = tuple[float, float, float, float, float]  # centre, half axes, angle of the first axis

__all__ = ["Series", "unit_load"]


@dataclass(frozen=True)
class Series:
    """The solution, a function of points ``(n, 2)``.

    Attributes:
        vertices: corners of the outer polygon, anticlockwise, as complex numbers.
        holes: see `Hole`.
        orders: degree of the polynomial, Laurent terms of a hole, poles of a corner.
        norms: of the columns.
        coefficients: of the columns divided by their norms.
        largest: value on the boundary, a bound of the error everywhere.
    """

    vertices: Array
    holes: tuple[Hole, ...]
    orders: tuple[int, int, int]
    norms: Array
    coefficients: Array
    largest: float = np.inf

    def __call__(self, x: Tensor) -> Tensor:
        """Values ``(n,)``."""
        z = x[:, 0].numpy() + 1j * x[:, 1].numpy()
        parts = np.array_split(z, max(1, len(z) // 4000))
        values = [self.particular(p) + (self.basis(p) / self.norms) @ self.coefficients for p in parts]
        return torch.as_tensor(np.concatenate(values))

    def particular(self, z: Array) -> Array:
        """-|z - m|^2 / 4."""
        return -(np.abs(z - self.vertices.mean()) ** 2) / 4

    def basis(self, z: Array) -> Array:
        """Columns ``(n, q)``."""
        degree, laurent, poles = self.orders
        v = self.vertices
        w = (z - v.mean()) / np.abs(v - v.mean()).max()
        found = [w[:, None] ** np.arange(degree + 1)]
        size = np.abs(v - np.roll(v, 1)).max()
        ladder = size * np.exp(4 * (np.sqrt(np.arange(1, poles + 1)) - np.sqrt(poles)))
        for corner, before, after in zip(v, np.roll(v, 1), np.roll(v, -1), strict=True):
            found.append(ladder / (z[:, None] - (corner + ladder * outward(before, corner, after))))
        for place, way, free, gap in narrow(v, self.holes):
            steps = np.geomspace(free, max(gap, 1e-3 * free), poles // 2)
            found.append(steps / (z[:, None] - (place + steps * way)))
        logarithms = []
        for x, y, a, b, angle in self.holes:
            s = (z - (x + 1j * y)) * np.exp(-1j * angle)
            focus = np.sqrt(complex(a**2 - b**2))
            zeta = (s + np.sqrt(s - focus) * np.sqrt(s + focus)) / (a + b)
            found.append((1 / zeta)[:, None] ** np.arange(1, laurent + 1))
            logarithms.append(np.log(np.abs(zeta)))
            for p, q in zip(v, np.roll(v, -1), strict=True):  # its image beyond a side that is near
                along = (q - p) / abs(q - p)
                image = p + along * np.conj((x + 1j * y - p) / along)
                if abs(image - (x + 1j * y)) < 8 * max(a, b):
                    found.append((max(a, b) / (z - image))[:, None] ** np.arange(1, laurent // 2 + 1))
        analytic = np.concatenate(found, 1)
        return np.concatenate([analytic.real, analytic.imag[:, 1:], *(g[:, None] for g in logarithms)], 1)


def outward(before: complex, corner: complex, after: complex) -> complex:
    """Direction of the outer bisector at a corner of an anticlockwise polygon."""
    forth, back = after - corner, before - corner
    inner = np.angle(back / forth) % (2 * np.pi)
    return complex(-np.exp(1j * (np.angle(forth) + inner / 2)))


def narrow(v: Array, holes: Sequence[Hole]) -> list[tuple[complex, complex, float, float]]:
    """Where a hole nearly touches a side: place, way out of the domain, how far that is free, gap; for both pieces."""
    found = []
    for x, y, a, b, _ in holes:
        c, r = complex(x, y), max(a, b)
        for p, q in zip(v, np.roll(v, -1), strict=True):
            normal = -1j * (q - p) / abs(q - p)
            gap = ((p - c) / normal).real - r
            if gap < 0.2 * r:
                found += [(c + (r + gap) * normal, normal, r, gap), (c + r * normal, -normal, 0.9 * r, gap)]
    return found


def unit_load(
    vertices: Sequence[tuple[float, float]], holes: Sequence[Hole] = (), orders: tuple[int, int, int] = (50, 35, 60)
) -> Series:
    """Fit the boundary values by least squares.

    Args:
        vertices: corners of the outer polygon, anticlockwise.
        holes: inside it.
        orders: see `Series`.
    """
    v = np.array([x + 1j * y for x, y in vertices])
    degree, laurent, poles = orders
    found = Series(v, tuple(holes), orders, np.ones(1), np.zeros(1))

    def edge(per_side: int, per_hole: int) -> Array:
        # places on a side, clustered exponentially towards both ends
        t = np.linspace(-1, 1, per_side)
        places = 0.5 * (1 + np.tanh(14 * t) / np.tanh(14.0))
        places = np.concatenate([places, np.linspace(0, 1, per_side)[1:-1]])
        sides = [a + (b - a) * places for a, b in zip(v, np.roll(v, -1), strict=True)]
        turn = np.exp(2j * np.pi * np.arange(per_hole) / per_hole)
        rings = [
            complex(x, y) + np.exp(1j * angle) * (a * turn.real + 1j * b * turn.imag) for x, y, a, b, angle in holes
        ]
        near = np.geomspace(1e-4, 1, per_hole)
        for place, way, free, _ in narrow(v, holes)[::2]:
            sides.append(place + free * np.concatenate([-near, near]) * 1j * way)
        for place, way, free, _ in narrow(v, holes)[1::2]:
            r = free / 0.9
            rings.append(place + r * way * (1 - np.exp(1j * np.concatenate([-near, near]))))
        return np.concatenate([*sides, *rings])

    z = edge(6 * poles + 3 * degree, 6 * laurent)
    matrix = found.basis(z)
    norms = np.linalg.norm(matrix, axis=0)
    coefficients = np.linalg.lstsq(matrix / norms, -found.particular(z), rcond=1e-14)[0]
    fitted = Series(v, tuple(holes), orders, norms, coefficients)
    check = edge(20 * poles + 7 * degree + 1, 20 * laurent + 1)
    largest = float(fitted(torch.as_tensor(np.stack([check.real, check.imag], 1))).abs().max())
    return Series(v, tuple(holes), orders, norms, coefficients, largest)
