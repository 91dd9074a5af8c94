"""The primitives: Box, Ball, Ellipsoid, Polygon.

A primitive supplies the geometry of one shape in closed form: its level, its intersections with straight lines, a
parametrisation of its interior and of its boundary, its measures and smooth factors. `levels` and `roots` work on
stacked parameters (a leading axis k of shapes of one kind), so that many holes are one tensor operation.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Sequence
from functools import cached_property
from typing import Any

import torch
from scipy import integrate, special
from torch import Tensor

from .arrangement import Arrangement
from .base import Domain, Sampler

Numbers = float | Sequence[float] | Tensor

AXES = "xyz"


class Primitive(Domain):
    """A shape with closed-form geometry. `parameters` are tensors; k shapes of one kind are stacked along a first axis.

    Attributes:
        names: the name of each boundary piece.
    """

    names: tuple[str, ...]
    parameters: tuple[Tensor, ...]

    @cached_property
    def arrangement(self) -> Arrangement:
        """This shape alone."""
        return Arrangement.single(self)

    @staticmethod
    @abstractmethod
    def levels(parameters: tuple[Tensor, ...], x: Tensor) -> Tensor:
        """Levels (n, k) of k shapes at points (n, d)."""

    @staticmethod
    @abstractmethod
    def roots(parameters: tuple[Tensor, ...], start: Tensor, step: Tensor) -> tuple[Tensor, Tensor]:
        """All t (n, k, r) at which start + t step is on the boundary (nan or inf for none); labels, broadcastable."""

    @abstractmethod
    def inner_factor(self, x: Tensor) -> Tensor:
        """Smooth, positive inside, zero on the boundary."""

    def outer_factor(self, x: Tensor) -> Tensor:
        """Smooth, positive outside, zero on the boundary."""
        raise ValueError(
            f"factor needs holes with a smooth boundary (Ball, Ellipsoid), but a {type(self).__name__} is cut out; "
            "impose its boundary values by a penalty instead."
        )

    @property
    @abstractmethod
    def _surface(self) -> Sampler: ...

    @property
    def surface(self) -> tuple[Sampler, ...]:
        """The boundary of this shape."""
        return (self._surface,)

    def __repr__(self) -> str:
        arguments = ", ".join(f"{key}={value}" for key, value in self.describe().items() if key != "kind")
        return f"{type(self).__name__}({arguments})"


def vector(name: str, values: Numbers, dim: int | None = None) -> Tensor:
    """Finite float64 numbers (d,), or a ValueError that names the argument."""
    result = torch.as_tensor(values, dtype=torch.float64).detach().cpu()
    result = result.reshape(1) if result.ndim == 0 else result.clone()
    if result.ndim != 1 or len(result) == 0 or not bool(result.isfinite().all()):
        raise ValueError(f"{name} must be a non-empty row of finite numbers, but it is {values}.")
    if dim is not None and len(result) != dim:
        raise ValueError(f"{name} must have {dim} numbers, but it has {len(result)}: {result.tolist()}.")
    return result


def _named(labels: Sequence[str] | None, default: tuple[str, ...]) -> tuple[str, ...]:
    if labels is None:
        return default
    if isinstance(labels, str) or len(labels) != len(default) or len(set(labels)) != len(default):
        raise ValueError(f"labels must be {len(default)} different names, one for each of {default}, not {labels}.")
    return tuple(labels)


class Box(Primitive):
    """The box lower <= x <= upper; `Box(0, 1)` is an interval.

    Args:
        lower, upper: d numbers each (a single number in 1-D), lower < upper.
        labels: names of the 2d faces, axis by axis, lower face first; default "x-", "x+", "y-", ... up to 3-D and
            "x1-", "x1+", "x2-", ... above.
    """

    def __init__(self, lower: Numbers, upper: Numbers, *, labels: Sequence[str] | None = None):
        self.lower = vector("lower", lower)
        self.dim = len(self.lower)
        self.upper = vector("upper", upper, self.dim)
        for i, (a, b) in enumerate(zip(self.lower.tolist(), self.upper.tolist(), strict=True)):
            if not a < b:
                raise ValueError(f"upper must be greater than lower on each axis, but axis {i} goes from {a} to {b}.")
        self.bounds = (self.lower, self.upper)
        self.parameters = (self.lower, self.upper)
        axes = [AXES[i] if self.dim <= 3 else f"x{i + 1}" for i in range(self.dim)]
        self._default = tuple(axis + side for axis in axes for side in "-+")
        self.names = _named(labels, self._default)

    @staticmethod
    def levels(parameters: tuple[Tensor, ...], x: Tensor) -> Tensor:
        """Signed distance."""
        lower, upper = parameters
        beyond = torch.maximum(lower - x[:, None], x[:, None] - upper)
        if lower.shape[1] == 1:
            return -beyond[..., 0]
        return -beyond.amax(-1).clamp_max(0) - torch.linalg.vector_norm(beyond.clamp_min(0), dim=-1)

    @staticmethod
    def roots(parameters: tuple[Tensor, ...], start: Tensor, step: Tensor) -> tuple[Tensor, Tensor]:
        """Entry and exit of the slabs."""
        lower, upper = parameters
        start, step = start[:, None], step[:, None]
        slack = 1e-12 * (upper - lower)
        between = (start >= lower - slack) & (start <= upper + slack)
        still = torch.where(between, -torch.inf, torch.inf)  # a segment along a slab is always in it, or never
        first, second = (lower - start) / step, (upper - start) / step
        enter, axis_in = torch.where(step == 0, still, torch.minimum(first, second)).max(-1)
        leave, axis_out = torch.where(step == 0, -still, torch.maximum(first, second)).min(-1)
        forward = (step > 0).expand_as(first)
        label_in = 2 * axis_in + ~forward.gather(-1, axis_in[..., None])[..., 0]
        label_out = 2 * axis_out + forward.gather(-1, axis_out[..., None])[..., 0]
        t = torch.where((enter <= leave)[..., None], torch.stack([enter, leave], -1), torch.inf)
        return t, torch.stack([label_in, label_out], -1)

    def inner_factor(self, x: Tensor) -> Tensor:
        """The product of (x-a)(b-x)/((b-a)/2)^2 over the axes."""
        lower, upper = self.lower.to(x.device), self.upper.to(x.device)
        return ((x - lower) * (upper - x) / ((upper - lower) / 2) ** 2).prod(-1)

    def outer_factor(self, x: Tensor) -> Tensor:
        """An interval is a one-dimensional ball."""
        if self.dim > 1:
            return super().outer_factor(x)
        return Ball((self.lower + self.upper) / 2, float(self.upper - self.lower) / 2).outer_factor(x)

    @property
    def volume(self) -> float:
        """The product of the sides."""
        return float((self.upper - self.lower).prod())

    @cached_property
    def areas(self) -> Tensor:
        """Each face is the product of the other sides."""
        side = self.upper - self.lower
        faces = [side[:i].prod() * side[i + 1 :].prod() for i in range(self.dim)]
        return torch.stack(faces).repeat_interleave(2)

    @property
    def inside(self) -> Sampler:
        """The unit cube, stretched."""

        def draw(u: Tensor) -> tuple[Tensor, ...]:
            lower, upper = self.lower.to(u.device), self.upper.to(u.device)
            return torch.lerp(lower, upper, u), torch.ones_like(u[:, 0], dtype=torch.bool)

        return Sampler(self.volume, self.dim, draw)

    @property
    def _surface(self) -> Sampler:
        cumulative = torch.cumsum(self.areas / self.areas.sum(), 0)[:-1]

        def draw(u: Tensor) -> tuple[Tensor, ...]:
            lower, upper = self.lower.to(u.device), self.upper.to(u.device)
            face = torch.bucketize(u[:, 0].contiguous(), cumulative.to(u.device), right=True)
            axis, high = face // 2, face % 2
            # The numbers of the other axes fill the row around the face's own axis.
            other = torch.arange(self.dim, device=u.device).expand(len(u), -1)
            source = other - (other > axis[:, None]).long()
            rest = u[:, 1:] if self.dim > 1 else u
            x = torch.lerp(lower, upper, rest.gather(1, source.clamp(0, rest.shape[1] - 1)))
            row = torch.arange(len(u), device=u.device)
            x[row, axis] = torch.where(high == 1, upper[axis], lower[axis])
            normal = torch.zeros_like(x)
            normal[row, axis] = (2 * high - 1).to(u.dtype)
            return x, normal, face, torch.ones_like(u[:, 0], dtype=torch.bool)

        return Sampler(self.area, max(1, self.dim), draw)

    def describe(self) -> dict[str, Any]:
        """The corners."""
        result = {"kind": "box", "lower": self.lower.tolist(), "upper": self.upper.tolist()}
        return result if self.names == self._default else result | {"labels": list(self.names)}


class Ball(Primitive):
    """The ball |x - center| <= radius.

    Args:
        center: d numbers (a single number in 1-D).
        radius: positive.
        label: the name of its boundary.
    """

    def __init__(self, center: Numbers, radius: float, *, label: str = "ball"):
        self.center = vector("center", center)
        self.dim = len(self.center)
        self.radius = float(radius)
        if not (0 < self.radius < math.inf):
            raise ValueError(f"radius must be a positive number, but it is {radius}.")
        self.bounds = (self.center - self.radius, self.center + self.radius)
        self.parameters = (self.center, torch.tensor(self.radius, dtype=torch.float64))
        self.names = (label,)

    @staticmethod
    def levels(parameters: tuple[Tensor, ...], x: Tensor) -> Tensor:
        """Signed distance."""
        center, radius = parameters
        return radius - torch.cdist(x, center, compute_mode="donot_use_mm_for_euclid_dist")

    @staticmethod
    def roots(parameters: tuple[Tensor, ...], start: Tensor, step: Tensor) -> tuple[Tensor, Tensor]:
        """The two solutions of a quadratic equation."""
        center, radius = parameters
        t = _unit_ball_roots((start[:, None] - center) / radius[:, None], step[:, None] / radius[:, None])
        return t, torch.zeros(1, 1, 1, dtype=torch.int64, device=t.device)

    def inner_factor(self, x: Tensor) -> Tensor:
        """1 - |y|^2 in coordinates y that make this the unit ball."""
        return 1 - self._square(x)

    def outer_factor(self, x: Tensor) -> Tensor:
        """(|y|^2 - 1) / (|y|^2 + 1)."""
        square = self._square(x)
        return (square - 1) / (square + 1)

    def _square(self, x: Tensor) -> Tensor:
        return (((x - self.center.to(x.device)) / self.radius) ** 2).sum(-1)

    @property
    def volume(self) -> float:
        """pi^(d/2) r^d / Gamma(d/2 + 1)."""
        return unit_ball_volume(self.dim) * self.radius**self.dim

    @cached_property
    def areas(self) -> Tensor:
        """d V / r."""
        return torch.tensor([self.dim * self.volume / self.radius], dtype=torch.float64)

    @property
    def inside(self) -> Sampler:
        """The unit ball, scaled."""

        def draw(u: Tensor) -> tuple[Tensor, ...]:
            y = unit_ball_points(u, self.dim)
            return self.center.to(u.device) + self.radius * y, torch.ones_like(u[:, 0], dtype=torch.bool)

        return Sampler(self.volume, unit_ball_dims(self.dim), draw)

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
        return torch.where(u[:, :1] < 0.5, -1.0, 1.0).to(u.dtype)
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


def _unit_ball_roots(start: Tensor, step: Tensor) -> Tensor:
    """Where |start + t step| = 1: t (..., 2), nan for lines that miss. Measured from the closest point, for accuracy."""
    square = (step**2).sum(-1)
    closest = -(start * step).sum(-1) / square
    gap = ((start + closest[..., None] * step) ** 2).sum(-1)
    half = torch.sqrt((1 - gap) / square)
    return torch.stack([closest - half, closest + half], -1)
