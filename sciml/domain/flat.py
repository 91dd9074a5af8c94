"""The primitives with flat faces: Box and Polygon."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from .base import Sampler
from .curves import Segments, wave_roots
from .primitive import Faces, Numbers, Primitive, face_names, vector


class Box(Primitive):
    """The box lower <= x <= upper; `Box(0, 1)` is an interval.

    Args:
        lower, upper: d numbers each (a single number in 1-D), lower < upper.
        labels: names of the 2d faces, axis by axis, lower face first; default "x-", "x+", "y-", ... up to 3-D and
            "x1-", "x1+", "x2-", ... above.

    Raises:
        ValueError: if the numbers are not finite, do not match, or upper <= lower on some axis.
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
        axes = ["xyz"[i] if self.dim <= 3 else f"x{i + 1}" for i in range(self.dim)]
        self._default = tuple(axis + side for axis in axes for side in "-+")
        self.names = face_names(labels, self._default)

    @staticmethod
    def levels(parameters: tuple[Tensor, ...], x: Tensor) -> Tensor:
        """Signed distance."""
        lower, upper = parameters
        beyond = [torch.maximum(lower[:, i] - x[:, i, None], x[:, i, None] - upper[:, i]) for i in range(x.shape[1])]
        farthest, square = beyond[0], beyond[0].clamp_min(0) ** 2
        for more in beyond[1:]:
            farthest, square = torch.maximum(farthest, more), square + more.clamp_min(0) ** 2
        return torch.where(farthest <= 0, -farthest, -square.clamp_min(1e-300).sqrt())

    @staticmethod
    def roots(parameters: tuple[Tensor, ...], start: Tensor, step: Tensor) -> tuple[Tensor, Tensor]:
        """Entry and exit of the slabs."""
        lower, upper = parameters
        slack = 1e-12 * (upper - lower)
        between = (start >= lower - slack) & (start <= upper + slack)
        still = torch.where(between, -torch.inf, torch.inf)  # a line along a slab is always in it, or never
        first, second = (lower - start) / step, (upper - start) / step
        enter, axis_in = torch.where(step == 0, still, torch.minimum(first, second)).max(-1)
        leave, axis_out = torch.where(step == 0, -still, torch.maximum(first, second)).min(-1)
        forward = step > 0
        label_in = 2 * axis_in + ~forward.gather(-1, axis_in[:, None])[:, 0]
        label_out = 2 * axis_out + forward.gather(-1, axis_out[:, None])[:, 0]
        t = torch.where((enter <= leave)[:, None], torch.stack([enter, leave], -1), torch.inf)
        return t, torch.stack([label_in, label_out], -1)

    def arc_roots(self, center: Tensor, side: Tensor, other: Tensor) -> Tensor:
        """With the planes of all faces."""
        center, side, other = (part.repeat(1, 2) for part in (center, side, other))
        return wave_roots(center - torch.cat([self.lower, self.upper]), side, other).flatten(1)

    def slices(self, label: int, s: Tensor) -> Segments:
        """Segments along the last axis of the face, at s along the other one."""
        axis, side = label // 2, self.upper - self.lower
        *across, along = (i for i in range(self.dim) if i != axis)
        start = self.lower.repeat(len(s), 1)
        start[:, axis] = self.bounds[label % 2][axis]
        start[:, across] += s[:, None] * side[across]
        step = torch.zeros_like(start)
        step[:, along] = side[along]
        return Segments(start, step, self.faces.normal[label], float(side[across].prod()))

    def slice_of(self, label: int, x: Tensor) -> Tensor:
        """Along the first axis of the face."""
        i = 1 if label < 2 else 0
        return ((x[:, i] - self.lower[i]) / (self.upper - self.lower)[i]).clamp(0, 1)

    @cached_property
    def faces(self) -> Faces:
        """Two faces for each axis."""
        axis = torch.arange(self.dim).repeat_interleave(2)
        row, high = torch.arange(2 * self.dim), torch.arange(2 * self.dim) % 2
        lower, upper = self.lower.repeat(2 * self.dim, 1), self.upper.repeat(2 * self.dim, 1)
        place = torch.where(high == 1, self.upper[axis], self.lower[axis])
        lower[row, axis] = upper[row, axis] = place
        normal = torch.zeros_like(lower)
        normal[row, axis] = 2.0 * high.double() - 1
        flux = place * normal[row, axis] * self.areas / self.dim
        radius = 0.5 * torch.linalg.vector_norm(upper - lower, dim=1)
        return Faces(lower, upper, radius, 0.5 * (lower + upper), normal, flux)

    def inner_factor(self, x: Tensor) -> Tensor:
        """The product of (x-a)(b-x)/((b-a)/2)^2 over the axes."""
        lower, upper = self.lower.to(x.device), self.upper.to(x.device)
        waves = (x - lower) * (upper - x) / ((upper - lower) / 2) ** 2
        return math.prod(waves.unbind(-1), start=torch.ones_like(x[:, 0]))  # Tensor.prod cannot be vmapped

    def outer_factor(self, x: Tensor) -> Tensor:
        """An interval is a one-dimensional ball; in higher dimensions there is no smooth one."""
        if self.dim > 1:
            return super().outer_factor(x)
        square = 1 - self.inner_factor(x)
        return (square - 1) / (square + 1)

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
            label = torch.bucketize(u[:, 0].contiguous(), cumulative.to(u.device), right=True)
            lower, upper, normal = (self.faces[i].to(u.device)[label] for i in (0, 1, 4))
            # The numbers after the first serve the axes around the face's own, where lower and upper agree.
            axis = label[:, None] // 2
            other = torch.arange(self.dim, device=u.device)
            source = (other + (other < axis).long()).clamp_max(u.shape[1] - 1)
            x = torch.lerp(lower, upper, u.gather(1, source))
            return x, normal, label, torch.ones_like(u[:, 0], dtype=torch.bool)

        return Sampler(self.area, max(1, self.dim), draw)

    def describe(self) -> dict[str, Any]:
        """The corners."""
        result = {"kind": "box", "lower": self.lower.tolist(), "upper": self.upper.tolist()}
        return result if self.names == self._default else result | {"labels": list(self.names)}


class Polygon(Primitive):
    """The polygon with the given corners, in either direction; it need not be convex.

    Args:
        vertices: (n, 2) numbers, the corners in order; "edge0" goes from the first to the second.
        labels: names of the n edges.

    Attributes:
        corners: float64 (n, 2), the vertices as given.
        angles: float64 (n,), the interior angle at each of them, in (0, 2 pi).

    Raises:
        ValueError: if there are less than 3 vertices, or the edges touch each other, or they enclose nothing.
    """

    def __init__(self, vertices: Sequence[Sequence[float]] | Tensor, *, labels: Sequence[str] | None = None):
        corners = torch.as_tensor(vertices, dtype=torch.float64).detach().cpu().clone()
        if corners.ndim != 2 or corners.shape[1] != 2 or len(corners) < 3 or not bool(corners.isfinite().all()):
            raise ValueError(
                f"vertices must be at least 3 points of the plane with finite coordinates, shape (n, 2), "
                f"but its shape is {tuple(corners.shape)}."
            )
        self.dim, self.corners = 2, corners
        self.bounds = (corners.amin(0), corners.amax(0))
        self.parameters = (corners,)
        self._edges = corners.roll(-1, 0) - corners
        doubled = float(_cross(corners - corners[0], self._edges).sum())
        _check_simple(corners, self._edges, self.size)
        if abs(doubled) <= 1e-12 * self.size**2:
            raise ValueError("vertices must enclose an area, but they are on one line.")
        self._turn = math.copysign(1.0, doubled)  # 1 for counter-clockwise corners
        self._area = 0.5 * abs(doubled)
        self._default = tuple(f"edge{i}" for i in range(len(corners)))
        self.names = face_names(labels, self._default)

    @cached_property
    def angles(self) -> Tensor:
        """Interior angle at each corner, float64 (n,)."""
        before, after = self._edges.roll(1, 0), self._edges
        turn = self._turn * torch.atan2(_cross(before, after), (before * after).sum(1))
        return math.pi - turn

    @staticmethod
    def levels(parameters: tuple[Tensor, ...], x: Tensor) -> Tensor:
        """Signed distance: the nearest edge, and the parity of the edges to the right."""
        (corner,) = parameters  # (k, e, 2)
        ax, ay = corner[..., 0], corner[..., 1]
        bx, by = ax.roll(-1, 1), ay.roll(-1, 1)
        px, py = x[:, 0, None, None], x[:, 1, None, None]
        ex, ey, wx, wy = bx - ax, by - ay, px - ax, py - ay
        along = ((wx * ex + wy * ey) / (ex * ex + ey * ey)).clamp(0, 1)
        square = ((wx - along * ex) ** 2 + (wy - along * ey) ** 2).amin(-1)
        straddles = (ay > py) != (by > py)
        right = wx < wy * ex / torch.where(ey == 0, 1.0, ey)
        inside = (straddles & right).sum(-1) % 2 == 1
        distance = square.clamp_min(1e-300).sqrt()
        return torch.where(inside, distance, -distance)

    @staticmethod
    def roots(parameters: tuple[Tensor, ...], start: Tensor, step: Tensor) -> tuple[Tensor, Tensor]:
        """With every edge."""
        (corner,) = parameters  # (m, e, 2)
        edge = corner.roll(-1, 1) - corner
        offset, step = corner - start[:, None], step[:, None]
        slope = _cross(step, edge)
        t, u = _cross(offset, edge) / slope, _cross(offset, step) / slope
        hit = (u >= -1e-12) & (u <= 1 + 1e-12)
        return torch.where(hit, t, torch.inf), torch.arange(corner.shape[1], device=corner.device)

    def arc_roots(self, center: Tensor, side: Tensor, other: Tensor) -> Tensor:
        """With the lines of all edges."""
        normal = self.faces.normal
        offset = (normal * self.corners).sum(1)
        return wave_roots(center @ normal.T - offset, side @ normal.T, other @ normal.T).flatten(1)

    def slices(self, label: int, s: Tensor) -> Segments:
        """The edge."""
        return Segments(self.corners[label, None], self._edges[label, None], self.faces.normal[label], 1.0)

    def slice_of(self, label: int, x: Tensor) -> Tensor:
        """An edge is one slice."""
        return torch.zeros_like(x[:, 0])

    @cached_property
    def faces(self) -> Faces:
        """The edges."""
        end = self.corners + self._edges
        normal = self._turn * torch.stack([self._edges[:, 1], -self._edges[:, 0]], 1) / self.areas[:, None]
        flux = 0.5 * (self.corners * normal).sum(1) * self.areas
        return Faces(
            torch.minimum(self.corners, end), torch.maximum(self.corners, end), 0.5 * self.areas,
            self.corners + 0.5 * self._edges, normal, flux,
        )  # fmt: skip

    def inner_factor(self, x: Tensor) -> Tensor:
        """For convex polygons: the product of the distances to the lines of the edges, each over half the width."""
        if bool((self.angles > math.pi + 1e-9).any()):
            raise ValueError("factor needs a convex polygon, but this one has a corner that points inwards.")
        result = torch.ones_like(x[:, 0])
        for corner, normal, angle in zip(self.corners, self.faces.normal, self.angles, strict=True):
            if angle < math.pi - 1e-9:  # otherwise the edge continues the line of the one before
                half_width = 0.5 * ((corner - self.corners) @ normal).max()
                corner, normal = corner.to(x.device), normal.to(x.device)
                result = result * ((corner - x) * normal).sum(-1) / half_width.to(x.device)
        return result

    @property
    def volume(self) -> float:
        """Half the sum of cross products."""
        return self._area

    @cached_property
    def areas(self) -> Tensor:
        """The lengths of the edges."""
        return torch.linalg.vector_norm(self._edges, dim=1)

    @property
    def inside(self) -> Sampler:
        """The box around it."""
        box = Box(*self.bounds).inside

        def draw(u: Tensor) -> tuple[Tensor, ...]:
            x, _ = box.draw(u)
            return x, self.level(x) > 0

        return box._replace(draw=draw)

    @property
    def _surface(self) -> Sampler:
        cumulative = torch.cumsum(self.areas / self.areas.sum(), 0)[:-1]

        def draw(u: Tensor) -> tuple[Tensor, ...]:
            label = torch.bucketize(u[:, 0].contiguous(), cumulative.to(u.device), right=True)
            corner, edge, normal = (p.to(u.device)[label] for p in (self.corners, self._edges, self.faces.normal))
            return corner + u[:, 1:2] * edge, normal, label, torch.ones_like(label, dtype=torch.bool)

        return Sampler(self.area, 2, draw)

    def describe(self) -> dict[str, Any]:
        """The vertices."""
        result: dict[str, Any] = {"kind": "polygon", "vertices": self.corners.tolist()}
        return result if self.names == self._default else result | {"labels": list(self.names)}


def _cross(a: Tensor, b: Tensor) -> Tensor:
    return a[..., 0] * b[..., 1] - a[..., 1] * b[..., 0]


def _check_simple(corners: Tensor, edges: Tensor, size: float) -> None:
    """Refuse edges without length, edges that turn back, and edges that cross or touch others."""
    count = len(corners)
    for i in range(count):
        before = edges[i - 1]
        if float(edges[i].abs().max()) <= 1e-12 * size:
            raise ValueError(f"vertices {i} and {(i + 1) % count} must differ, but both are {corners[i].tolist()}.")
        if float(before @ edges[i]) < 0 and abs(float(_cross(before, edges[i]))) <= 1e-12 * size**2:
            raise ValueError(f"vertices must not turn back, but the edges at vertex {i} lie on each other.")
    # Two segments touch if the ends of each are not strictly on one side of the other.
    first = _cross(edges[:, None], corners - corners[:, None])  # [i, j]: on which side of edge i corner j is
    one_side = first * first.roll(-1, 1) > 0
    low, high = torch.minimum(corners, corners + edges), torch.maximum(corners, corners + edges)
    beside = (low[:, None] > high).any(2)
    apart = one_side | one_side.T | beside | beside.T
    index = torch.arange(count)
    gap = (index[:, None] - index).remainder(count)
    crossing = (~apart & (gap > 1) & (gap < count - 1)).nonzero()
    if len(crossing):
        i, j = crossing[0].tolist()
        raise ValueError(f"vertices must form a simple polygon, but edge{min(i, j)} and edge{max(i, j)} meet.")
