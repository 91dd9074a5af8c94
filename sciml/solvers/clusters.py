"""Where points gather: around holes and corners, and on straight edges that face a hole.

Each cluster draws points of a density it knows, so that mixtures of clusters with uniform points still have quadrature
weights (`sciml.solvers.collocation`).
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from sciml.domain import Domain
from sciml.solvers.singular import Corner, chart_of, coordinate, corners, edges_of, holes

__all__ = ["Facing", "Ring", "Sector", "clusters", "facings"]


class Ring(NamedTuple):
    """Where points gather around a hole: uniform in angle and in 1 / |zeta|, down to 1/8."""

    chart: tuple[float, ...]

    def draw(self, n: int, generator: torch.Generator) -> Tensor:
        """Points ``(n, 2)``, some of them perhaps outside the domain."""
        u = torch.rand(n, 2, generator=generator, dtype=torch.float64)
        cx, cy, angle, scale, focus = self.chart
        small = (1 + math.sqrt(1 - focus**2)) if focus else 1.0
        zeta = torch.polar(small / (1 - 0.875 * u[:, 0]), 2 * math.pi * u[:, 1])
        w = 0.5 * (zeta + focus**2 / zeta) if focus else zeta
        z = w * complex(math.cos(angle), math.sin(angle)) * scale + complex(cx, cy)
        return torch.stack([z.real, z.imag], 1)

    def density(self, x: Tensor) -> Tensor:
        """Probability per area ``(n,)``."""
        log, slope, _ = coordinate(self.chart, x)
        r = torch.exp(log.real[:, 0])
        # area element: |dz|^2 = |dl|^2 / |l'|^2, and 1 / r is uniform
        return torch.where((r >= 1) & (r <= 8), slope.abs()[:, 0].square() / r / 0.875 / (2 * math.pi), 0.0)


class Sector(NamedTuple):
    """Where points gather around a corner: uniform in angle and in log r."""

    corner: Corner
    radius: float

    def draw(self, n: int, generator: torch.Generator) -> Tensor:
        """Points ``(n, 2)``."""
        u = torch.rand(n, 2, generator=generator, dtype=torch.float64)
        r = self.radius * torch.exp(-_DEPTH * u[:, 0])
        angle = self.corner.start + self.corner.angle * u[:, 1]
        return torch.tensor([self.corner.point]) + r[:, None] * torch.stack([torch.cos(angle), torch.sin(angle)], 1)

    def density(self, x: Tensor) -> Tensor:
        """Probability per area ``(n,)``."""
        v = x - torch.tensor([self.corner.point])
        r = torch.linalg.vector_norm(v, dim=1)
        angle = (torch.atan2(v[:, 1], v[:, 0]) - self.corner.start) % (2 * math.pi)
        near = (r <= self.radius) & (r >= self.radius * math.exp(-_DEPTH)) & (angle <= self.corner.angle)
        return torch.where(near, 1 / (_DEPTH * self.corner.angle * r.square().clamp_min(1e-300)), 0.0)

    def edge(self, n: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Points on the two edges, n in all, and their inward normals."""
        u = torch.rand(n, generator=generator, dtype=torch.float64)
        r = self.radius * torch.exp(-_DEPTH * u)
        second = torch.arange(n) % 2 == 1
        angle = torch.where(second, self.corner.start + self.corner.angle, self.corner.start)
        along = torch.stack([torch.cos(angle), torch.sin(angle)], 1)
        turn = torch.where(second, -1.0, 1.0).to(torch.float64)
        inward = torch.stack([-along[:, 1], along[:, 0]], 1) * turn[:, None]
        return torch.tensor([self.corner.point]) + r[:, None] * along, inward

    def edge_density(self, x: Tensor) -> Tensor:
        """Probability per length ``(n,)`` at points of the boundary."""
        v = x - torch.tensor([self.corner.point])
        r = torch.linalg.vector_norm(v, dim=1)
        near = (r <= self.radius) & (r >= self.radius * math.exp(-_DEPTH))
        on = torch.zeros_like(near)
        for angle in (self.corner.start, self.corner.start + self.corner.angle):
            along = v[:, 0] * math.cos(angle) + v[:, 1] * math.sin(angle)
            on |= (along - r).abs() <= 1e-9 * r
        return torch.where(near & on, 1 / (2 * _DEPTH * r.clamp_min(1e-300)), 0.0)


_DEPTH = math.log(1e4)


class Facing(NamedTuple):
    """Points of a straight edge, uniform in the angle under which the centre of a hole sees them."""

    foot: tuple[float, float]
    inward: tuple[float, float]
    height: float

    def edge(self, n: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Points ``(n, 2)``, some of them perhaps beyond the ends of the edge, and inward normals."""
        angle = math.pi * (torch.rand(n, generator=generator, dtype=torch.float64) - 0.5)
        inward = torch.tensor([self.inward], dtype=torch.float64)
        along = torch.stack([-inward[:, 1], inward[:, 0]], 1)
        return torch.tensor([self.foot]) + self.height * torch.tan(angle)[:, None] * along, inward.expand(n, 2)

    def edge_density(self, x: Tensor) -> Tensor:
        """Probability per length ``(n,)`` at points of the boundary."""
        v = x - torch.tensor([self.foot])
        off = v[:, 0] * self.inward[0] + v[:, 1] * self.inward[1]
        square = v.square().sum(1)
        on = off.abs() <= 1e-9 * (self.height + square.sqrt())
        return torch.where(on, self.height / (math.pi * (self.height**2 + square)), 0.0)


def clusters(domain: Domain) -> list[Ring | Sector]:
    """Where features of holes and corners vary fast, so that points must gather."""
    found: list[Ring | Sector] = [Ring(tuple(chart_of(hole))) for hole in holes(domain)]
    for corner in corners(domain):
        if abs(corner.angle - math.pi / 2) > 1e-6:
            found.append(Sector(corner, 0.25 * float((domain.bounds[1] - domain.bounds[0]).min())))
    return found


_NEAR = 4.0  # distance of centre and edge, in radii, up to which points are needed


def facings(domain: Domain) -> list[Facing]:
    """Where straight edges face a hole nearby."""
    found = []
    for hole in holes(domain):
        chart = chart_of(hole)
        center = torch.tensor(chart[:2], dtype=torch.float64)
        for a, b in edges_of(domain):
            start, along = torch.as_tensor(a), torch.as_tensor(b - a)
            along = along / torch.linalg.vector_norm(along)
            foot = start + along * ((center - start) @ along)
            height = float(torch.linalg.vector_norm(center - foot))
            if 0 < height < _NEAR * chart[3]:
                found.append(Facing(tuple(foot.tolist()), tuple(((center - foot) / height).tolist()), height))
    return found
