"""Boundaries as curves: the exact one-dimensional integrals from which areas and volumes are made.

In 2-D each boundary piece is one curve, in 3-D a one-parameter family of curves (the slices of a face). A curve is a
segment or an arc of an ellipse. Where it meets other primitives is known in closed form, and so are the two integrals
along it: the area, and the flux (1/d) int (x - origin).n dA, whose sum over the boundary is the volume.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from scipy import special
from torch import Tensor

if TYPE_CHECKING:
    from .primitive import Primitive


@dataclass
class Segments:
    """Curves start + t step, 0 <= t <= 1.

    Attributes:
        start, step: (m, d).
        normal: outward unit normal (d,) of the flat face they are on.
        weight: area of the face per length of curve.
    """

    start: Tensor
    step: Tensor
    normal: Tensor
    weight: float
    end: float = 1.0

    def at(self, row: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        """Points and normals."""
        return self.start[row] + t[:, None] * self.step[row], self.normal.expand(len(row), -1)

    def roots(self, shape: Primitive) -> Tensor:
        """Where they meet the boundary of a shape: t (m, r), nan or inf for nowhere."""
        parameters = tuple(p.expand(len(self.start), *p.shape) for p in shape.parameters)
        return shape.roots(parameters, self.start, self.step)[0]

    def integrals(self, row: Tensor, begin: Tensor, end: Tensor, origin: Tensor) -> Tensor:
        """Area and flux (k, 2) of the stretches begin <= t <= end."""
        area = self.weight * torch.linalg.vector_norm(self.step[row], dim=1) * (end - begin)
        height = (self.start[row] - origin) @ self.normal
        return torch.stack([area, area * height / len(origin)], 1)


@dataclass
class Arcs:
    """Curves center + M (axis + side cos t + other sin t), 0 <= t <= 2 pi, on the ellipsoid center + M (unit sphere).

    Attributes:
        center: (d,); matrix: M (d, d), with orthogonal columns.
        axis, side, other: (m, d), in directions of the third, first and second coordinate.
        weight: (m,), measure on the unit sphere per angle t.
    """

    center: Tensor
    matrix: Tensor
    axis: Tensor
    side: Tensor
    other: Tensor
    weight: Tensor
    end: float = 2 * math.pi

    def at(self, row: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        """Points and normals."""
        y = self.axis[row] + self.side[row] * torch.cos(t)[:, None] + self.other[row] * torch.sin(t)[:, None]
        normal = y @ torch.linalg.inv(self.matrix)
        return self.center + y @ self.matrix.T, torch.nn.functional.normalize(normal, dim=1)

    def roots(self, shape: Primitive) -> Tensor:
        """Where they meet the boundary of a shape: t (m, r), nan for nowhere."""
        axis, side, other = (part @ self.matrix.T for part in (self.axis, self.side, self.other))
        return torch.remainder(shape.arc_roots(self.center + axis, side, other), 2 * math.pi)

    def integrals(self, row: Tensor, begin: Tensor, end: Tensor, origin: Tensor) -> Tensor:
        """Area and flux (k, 2) of the stretches begin <= t <= end.

        With y on the unit sphere, dA = |det M| |M^-T y| dy and
        (x - origin).n dA = |det M| (1 + M^-1 (center - origin).y) dy.
        """
        axis, side, other = self.axis[row], self.side[row], self.other[row]
        scale = self.weight[row] * torch.linalg.det(self.matrix).abs()
        inverse = torch.linalg.inv(self.matrix)
        # |M^-T y|^2 = first cos^2 t + second sin^2 t, because the columns of M are orthogonal
        first, second = (((axis + direction) @ inverse).square().sum(1) for direction in (side, other))
        modulus = (1 - second / first).numpy()
        lengths = special.ellipeinc(end.numpy(), modulus) - special.ellipeinc(begin.numpy(), modulus)
        area = scale * first.sqrt() * torch.from_numpy(lengths)
        mean = axis * (end - begin)[:, None]
        mean = mean + side * (torch.sin(end) - torch.sin(begin))[:, None]
        mean = mean + other * (torch.cos(begin) - torch.cos(end))[:, None]
        flux = scale * (end - begin + mean @ (inverse @ (self.center - origin))) / len(origin)
        return torch.stack([area, flux], 1)


Curves = Segments | Arcs


def wave_roots(constant: Tensor, cosine: Tensor, sine: Tensor) -> Tensor:
    """Solutions t (..., 2) of constant + cosine cos t + sine sin t = 0, nan for none."""
    phase = torch.atan2(sine, cosine)
    half = torch.acos(-constant / torch.hypot(cosine, sine))
    return torch.stack([phase - half, phase + half], -1)


def quadric_roots(center: Tensor, side: Tensor, other: Tensor) -> Tensor:
    """Angles t (m, 4) at which |center + side cos t + other sin t| = 1 for rows (m, d), nan for none.

    With z = exp(it) the equation is a quartic; its roots near the unit circle are polished by Newton steps.
    """
    constant = center.square().sum(1) + 0.5 * (side.square().sum(1) + other.square().sum(1)) - 1
    cosine, sine = 2 * (center * side).sum(1), 2 * (center * other).sum(1)
    cosine2, sine2 = 0.5 * (side.square().sum(1) - other.square().sum(1)), (side * other).sum(1)
    result = torch.full((len(center), 4), torch.nan, dtype=center.dtype)

    second, scale = torch.hypot(cosine2, sine2), constant.abs() + torch.hypot(cosine, sine)
    simple = second <= 1e-13 * scale
    result[simple, :2] = wave_roots(constant[simple], cosine[simple], sine[simple])
    rest = ~simple & (second + torch.hypot(cosine, sine) >= constant.abs())
    if rest.any():
        k0, k1, k2 = constant[rest], torch.complex(cosine[rest], sine[rest]), torch.complex(cosine2[rest], sine2[rest])
        companion = torch.zeros(len(k0), 4, 4, dtype=torch.complex128)
        companion[:, 1:, :3] = torch.eye(3)
        companion[:, :, 3] = -torch.stack([k2, k1, 2 * k0.to(k1.dtype), k1.conj()], 1) / k2.conj()[:, None]
        z = torch.linalg.eigvals(companion)
        t = torch.where((z.abs() - 1).abs() < 1e-2, torch.angle(z), torch.nan)
        k0, k1, k2 = k0[:, None], k1[:, None], k2[:, None]
        for _ in range(3):
            w = torch.polar(torch.ones_like(t), -t)
            value = k0 + (k1 * w).real + (k2 * w * w).real
            slope = (k1 * w).imag + 2 * (k2 * w * w).imag
            newton = value / torch.where(slope == 0, 1.0, slope)
            t = t - torch.where(newton.abs() < 0.1, newton, 0.0)
        result[rest] = t
    return result


def adaptive(
    function: Callable[[Tensor], tuple[Tensor, Tensor]], breaks: Tensor, tolerance: float, narrow: float = 1e-4
) -> Tensor:
    """The integral (k,) over [breaks[0], breaks[-1]] of a vectorised function that is smooth in places.

    Args:
        function: (m,) -> values (m, k) and signatures (m, j); the values are smooth while the signature does not change
            and at worst have a square root where it does.
        breaks: where to start from.
        tolerance: absolute, for the sum over all intervals.
        narrow: the width at which intervals with a change of signature need not be halved any more.

    Gauss sums over whole intervals are compared with those over their halves; all intervals that disagree, or see more
    than one signature between their ends, are halved at once.
    """
    node, weight = (torch.from_numpy(part) for part in special.roots_legendre(8))
    place = torch.cat([torch.tensor([-1 + 1e-9]), node, torch.tensor([1 - 1e-9])])

    def gauss(left: Tensor, right: Tensor) -> tuple[Tensor, Tensor]:
        half = 0.5 * (right - left)[:, None]
        values, signature = function((left[:, None] + half * (place + 1)).flatten())
        signature = signature.reshape(len(left), len(place), -1)
        values = values.reshape(len(left), len(place), -1)[:, 1:-1]
        return (values * (half * weight)[..., None]).sum(1), (signature != signature[:, :1]).any(2).any(1)

    breaks = torch.unique(breaks)
    left, right = breaks[:-1], breaks[1:]
    left, right = left[right - left > 1e-12], right[right - left > 1e-12]
    whole, mixed = gauss(left, right)
    share = tolerance / len(left)
    total = torch.zeros_like(whole[0])
    while len(left):
        middle = 0.5 * (left + right)
        values, signs = gauss(torch.cat([left, middle]), torch.cat([middle, right]))
        first, second = values.split(len(left))
        rough = ((first + second - whole).abs() > share).any(1) | mixed
        rough &= right - left > narrow
        total = total + (first + second)[~rough].sum(0)
        left, right = torch.cat([left[rough], middle[rough]]), torch.cat([middle[rough], right[rough]])
        whole = torch.cat([first[rough], second[rough]])
        mixed = signs[rough.repeat(2)]
    return total
