"""The round primitives, Ball and Ellipsoid: affine images of the unit ball."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from .base import Sampler
from .curves import Arcs, quadric_roots
from .primitive import Faces, Numbers, Primitive, vector


class Round(Primitive):
    """The points center + M y with |y| <= 1; the columns of `matrix` M are the semi-axes."""

    center: Tensor
    matrix: Tensor
    inverse: Tensor

    def unit(self, x: Tensor) -> Tensor:
        """The coordinates y (n, d) in which this is the unit ball."""
        return (x - self.center.to(x.device)) @ self.inverse.T.to(x.device)

    def arc_roots(self, center: Tensor, side: Tensor, other: Tensor) -> Tensor:
        """Two ellipses, or an ellipse and a sphere: a quartic."""
        return quadric_roots(self.unit(center), side @ self.inverse.T, other @ self.inverse.T)

    def slices(self, label: int, s: Tensor) -> Arcs:
        """The ellipse in 2-D, in 3-D the circles of latitude y_3 = -cos(pi s)."""
        axis, side, other = (torch.zeros(len(s), self.dim, dtype=torch.float64) for _ in range(3))
        width = torch.ones_like(s) if self.dim == 2 else torch.sin(math.pi * s)
        side[:, 0] = other[:, 1] = width
        if self.dim == 3:
            axis[:, 2] = -torch.cos(math.pi * s)
        weight = width if self.dim == 2 else math.pi * width
        return Arcs(self.center, self.matrix, axis, side, other, weight)

    def slice_of(self, label: int, x: Tensor) -> Tensor:
        """By the height above the middle."""
        return torch.acos(-self.unit(x)[:, 2].clamp(-1, 1)) / math.pi

    @cached_property
    def faces(self) -> Faces:
        """One piece; it ends where the first semi-axis does."""
        lower, upper = (bound[None] for bound in self.bounds)
        radius = torch.linalg.vector_norm(self.matrix, dim=0).max()[None]
        normal = torch.nn.functional.normalize(self.inverse[:1], dim=1)
        point = self.center + self.matrix[:, 0]
        return Faces(lower, upper, radius, point[None], normal, torch.tensor([self.volume], dtype=torch.float64))

    def inner_factor(self, x: Tensor) -> Tensor:
        """1 - |y|^2."""
        return 1 - (self.unit(x) ** 2).sum(-1)

    def outer_factor(self, x: Tensor) -> Tensor:
        """(|y|^2 - 1) / (|y|^2 + 1)."""
        square = (self.unit(x) ** 2).sum(-1)
        return (square - 1) / (square + 1)

    @property
    def volume(self) -> float:
        """|det M| pi^(d/2) / Gamma(d/2 + 1)."""
        return unit_ball_volume(self.dim) * float(torch.linalg.det(self.matrix).abs())

    @property
    def inside(self) -> Sampler:
        """The unit ball, stretched."""

        def draw(u: Tensor) -> tuple[Tensor, ...]:
            y = unit_ball_points(u, self.dim)
            return self.center.to(u.device) + y @ self.matrix.T.to(u.device), torch.ones_like(u[:, 0], dtype=torch.bool)

        return Sampler(self.volume, unit_ball_dims(self.dim), draw)


class Ball(Round):
    """The ball |x - center| <= radius.

    Args:
        center: d numbers (a single number in 1-D).
        radius: positive.
        label: the name of its boundary.

    Raises:
        ValueError: if the centre is not finite or the radius is not positive.
    """

    def __init__(self, center: Numbers, radius: float, *, label: str = "ball"):
        self.center = vector("center", center)
        self.dim = len(self.center)
        try:
            self.radius = float(radius)
        except (TypeError, ValueError) as error:
            raise TypeError(f"radius must be a positive number, but it is {radius!r}.") from error
        if not (0 < self.radius < math.inf):
            raise ValueError(f"radius must be a positive number, but it is {radius}.")
        self.bounds = (self.center - self.radius, self.center + self.radius)
        self.parameters = (self.center, torch.tensor(self.radius, dtype=torch.float64))
        self.names = (label,)

    @cached_property
    def matrix(self) -> Tensor:  # type: ignore[override]
        """The radius on the diagonal."""
        return self.radius * torch.eye(self.dim, dtype=torch.float64)

    @cached_property
    def inverse(self) -> Tensor:  # type: ignore[override]
        """The inverse of `matrix`."""
        return torch.eye(self.dim, dtype=torch.float64) / self.radius

    @staticmethod
    def levels(parameters: tuple[Tensor, ...], x: Tensor) -> Tensor:
        """Signed distance."""
        center, radius = parameters
        return radius - torch.cdist(x, center, compute_mode="donot_use_mm_for_euclid_dist")

    @staticmethod
    def roots(parameters: tuple[Tensor, ...], start: Tensor, step: Tensor) -> tuple[Tensor, Tensor]:
        """The two solutions of a quadratic equation."""
        center, radius = parameters
        t = _unit_roots((start - center) / radius[:, None], step / radius[:, None])
        return t, torch.zeros_like(t, dtype=torch.int64)

    @cached_property
    def areas(self) -> Tensor:
        """The volume times d / r."""
        return torch.tensor([self.dim * self.volume / self.radius], dtype=torch.float64)

    @property
    def _surface(self) -> Sampler:
        def draw(u: Tensor) -> tuple[Tensor, ...]:
            y = unit_sphere_points(u, self.dim)
            x = self.center.to(u.device) + self.radius * y
            yes = torch.ones_like(u[:, 0], dtype=torch.bool)
            return x, y, torch.zeros_like(yes, dtype=torch.int64), yes

        return Sampler(self.area, unit_sphere_dims(self.dim), draw)

    def describe(self) -> dict[str, Any]:
        """Centre and radius."""
        result: dict[str, Any] = {"kind": "ball", "center": self.center.tolist(), "radius": self.radius}
        return result if self.names == ("ball",) else result | {"label": self.names[0]}


class Ellipsoid(Round):
    """The ellipse (2-D) or ellipsoid sum (y_i / semi_axes_i)^2 <= 1 in axes y = rotation^T (x - center).

    Args:
        center: d numbers.
        semi_axes: d positive numbers.
        rotation: an angle in radians, anti-clockwise (2-D), or an orthogonal (d, d) matrix whose columns are the
            directions of the semi-axes; None leaves them along the coordinates.
        label: the name of its boundary.

    Raises:
        ValueError: if the numbers are not finite or do not match, a semi-axis is not positive, or the rotation is
            neither an angle in 2-D nor an orthogonal matrix.
    """

    def __init__(
        self,
        center: Numbers,
        semi_axes: Numbers,
        rotation: float | Sequence[Sequence[float]] | Tensor | None = None,
        *,
        label: str = "ellipsoid",
    ):
        self.center = vector("center", center)
        self.dim = len(self.center)
        self.semi_axes = vector("semi_axes", semi_axes, self.dim)
        if not bool((self.semi_axes > 0).all()):
            raise ValueError(f"semi_axes must be positive, but they are {self.semi_axes.tolist()}.")
        self.rotation = _rotation(rotation, self.dim)
        self.matrix = self.rotation * self.semi_axes
        self.inverse = self.rotation.T / self.semi_axes[:, None]
        reach = torch.linalg.vector_norm(self.matrix, dim=1)
        self.bounds = (self.center - reach, self.center + reach)
        self.parameters = (self.center, self.inverse, self.semi_axes.min())
        self.names = (label,)

    @staticmethod
    def levels(parameters: tuple[Tensor, ...], x: Tensor) -> Tensor:
        """(1 - |y|) |y| / |M^-T y|: the distance to first order near the boundary, finite in the middle."""
        tiny = 1e-100  # keeps the middle finite
        center, inverse, smallest = parameters
        y = torch.einsum("kij,nkj->nki", inverse, x[:, None] - center)
        length = torch.linalg.vector_norm(y, dim=-1)
        slope = torch.linalg.vector_norm(torch.einsum("kij,nki->nkj", inverse, y), dim=-1)
        return (1 - length) * length.clamp_min(tiny) / slope.clamp_min(tiny / smallest)

    @classmethod
    def clearance(cls, parameters: tuple[Tensor, ...], x: Tensor) -> Tensor:
        """|1 - |y|| times the smallest semi-axis."""
        center, inverse, smallest = parameters
        y = torch.einsum("kij,nkj->nki", inverse, x[:, None] - center)
        return (1 - torch.linalg.vector_norm(y, dim=-1)).abs() * smallest

    @staticmethod
    def roots(parameters: tuple[Tensor, ...], start: Tensor, step: Tensor) -> tuple[Tensor, Tensor]:
        """The two solutions of a quadratic equation."""
        center, inverse, _ = parameters
        t = _unit_roots(*(torch.einsum("mij,mj->mi", inverse, part) for part in (start - center, step)))
        return t, torch.zeros_like(t, dtype=torch.int64)

    @cached_property
    def areas(self) -> Tensor:
        """The perimeter or area, to rounding in all dimensions.

        It is |det M| |S| times the mean of |M^-T y| over the unit sphere S. For a Gaussian vector g, E|M^-T g| splits
        into that mean times E|g|, and sqrt(q) = int_0^inf (1 - exp(-q t^2)) t^-2 dt / sqrt(pi) turns it into one
        integral; with t = exp(v) the trapezoidal rule converges exponentially.
        """
        slope = self.semi_axes.min() / self.semi_axes  # at most one
        v = torch.arange(-45.0, 45.0, 0.15, dtype=torch.float64)
        exponent = torch.log1p(2 * torch.exp(2 * v)[:, None] * slope**2).sum(1)
        gaussian = float((-torch.expm1(-0.5 * exponent) * torch.exp(-v)).sum() * 0.15) / math.sqrt(math.pi)
        length = math.sqrt(2) * math.exp(math.lgamma((self.dim + 1) / 2) - math.lgamma(self.dim / 2))
        mean = gaussian / length / float(self.semi_axes.min())
        return torch.tensor([self.dim * self.volume * mean], dtype=torch.float64)

    @property
    def _surface(self) -> Sampler:
        dims = unit_sphere_dims(self.dim)
        steepest = float(1 / self.semi_axes.min())
        measure = self.dim * self.volume * steepest

        def draw(u: Tensor) -> tuple[Tensor, ...]:
            # Uniform points of the sphere are kept with a chance proportional to the stretching of the area there.
            y = unit_sphere_points(u, self.dim)
            x = self.center.to(u.device) + y @ self.matrix.T.to(u.device)
            gradient = y @ self.inverse.to(u.device)
            slope = torch.linalg.vector_norm(gradient, dim=1)
            label = torch.zeros_like(slope, dtype=torch.int64)
            return x, gradient / slope[:, None], label, u[:, dims] * steepest <= slope

        return Sampler(measure, dims + 1, draw)

    def describe(self) -> dict[str, Any]:
        """Centre, semi-axes and the rotation matrix."""
        result: dict[str, Any] = {"kind": "ellipsoid", "center": self.center.tolist()}
        result |= {"semi_axes": self.semi_axes.tolist(), "rotation": self.rotation.tolist()}
        return result if self.names == ("ellipsoid",) else result | {"label": self.names[0]}


def _rotation(rotation: float | Sequence[Sequence[float]] | Tensor | None, dim: int) -> Tensor:
    """An orthogonal matrix (d, d)."""
    if rotation is None:
        return torch.eye(dim, dtype=torch.float64)
    matrix = torch.as_tensor(rotation, dtype=torch.float64).detach().cpu().clone()
    if matrix.ndim == 0 and dim == 2 and bool(matrix.isfinite()):
        cosine, sine = math.cos(float(matrix)), math.sin(float(matrix))
        return torch.tensor([[cosine, -sine], [sine, cosine]], dtype=torch.float64)
    if matrix.shape != (dim, dim) or not torch.allclose(matrix.T @ matrix, torch.eye(dim).double(), rtol=0, atol=1e-9):
        accepted = "an angle or an orthogonal (2, 2) matrix" if dim == 2 else f"an orthogonal ({dim}, {dim}) matrix"
        raise ValueError(f"rotation must be {accepted}, but it is {rotation}.")
    return matrix


# ---- the unit ball ---------------------------------------------------------------------------------------------------


def unit_ball_volume(dim: int) -> float:
    """Volume of the unit ball in d dimensions."""
    return math.pi ** (dim / 2) / math.gamma(dim / 2 + 1)


def unit_sphere_dims(dim: int) -> int:
    """How many uniform numbers `unit_sphere_points` takes."""
    return {1: 1, 2: 1, 3: 2}.get(dim, dim)


def unit_sphere_points(u: Tensor, dim: int) -> Tensor:
    """Uniform numbers to uniform points (n, d) of the unit sphere."""
    if dim == 1:
        return torch.where(u[:, :1] < 0.5, -torch.ones_like(u[:, :1]), 1.0)
    angle = 2 * math.pi * u[:, 0]
    circle = torch.stack([torch.cos(angle), torch.sin(angle)], 1)
    if dim == 2:
        return circle
    if dim == 3:  # Archimedes: the height on a sphere is uniform
        height = 2 * u[:, 1:2] - 1
        return torch.cat([circle * torch.sqrt(1 - height**2), height], 1)
    return torch.nn.functional.normalize(torch.special.ndtri(u[:, :dim]), dim=1)


def unit_ball_dims(dim: int) -> int:
    """How many uniform numbers `unit_ball_points` takes."""
    return 1 if dim == 1 else 1 + unit_sphere_dims(dim)


def unit_ball_points(u: Tensor, dim: int) -> Tensor:
    """Uniform numbers to uniform points (n, d) of the unit ball."""
    if dim == 1:
        return 2 * u[:, :1] - 1
    return u[:, :1] ** (1 / dim) * unit_sphere_points(u[:, 1:], dim)


def _unit_roots(start: Tensor, step: Tensor) -> Tensor:
    """Where |start + t step| = 1: t (m, 2), nan for lines that miss. Measured from the closest point, for accuracy."""
    square = (step**2).sum(-1)
    closest = -(start * step).sum(-1) / square
    gap = ((start + closest[:, None] * step) ** 2).sum(-1)
    half = torch.sqrt((1 - gap) / square)
    return torch.stack([closest - half, closest + half], -1)
