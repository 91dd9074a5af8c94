"""What solutions do near holes and corners, as features found from the geometry.

All features of this room are real and imaginary parts of

    exp(alpha l + beta conj(l)) * (1 or lambda l + mu conj(l)),      l = log zeta(z),   z = x + i y,

with a conformal coordinate zeta: z - c at a disc or a corner, the exterior Joukowski coordinate at an ellipse. beta =
0 and alpha = -1, -2, ... are the Laurent terms of a hole, l itself its logarithm, alpha = k pi / omega the corner
functions r^alpha sin(alpha theta), beta != 0 their products with polynomials that variable coefficients call for.
"""

from __future__ import annotations

import cmath
import math
from collections.abc import Mapping, Sequence
from typing import ClassVar, NamedTuple

import numpy as np
import torch
from torch import Tensor

from sciml.domain import Ball, Box, Domain, Ellipsoid, Polygon
from sciml.solvers.families import Operator, column

__all__ = [
    "Corner",
    "Powers",
    "chart_of",
    "coordinate",
    "corner_features",
    "corners",
    "edges_of",
    "hole_features",
    "holes",
    "images",
    "regular_features",
]


class Powers:
    """Generalised powers in a conformal coordinate, see the module.

    Args:
        chart: ``(5,)``: center, direction of the real axis (an angle), scale, and focal distance over scale (0 for a
            disc or a corner).
        exponents: ``(m, 2)`` alpha and beta.
        logs: ``(m, 2)`` lambda and mu; zeros where there is no logarithm.
        imaginary: ``(m,)`` bool: which part is taken.
    """

    kind: ClassVar[str] = "powers"

    def __init__(self, chart: Tensor, exponents: Tensor, logs: Tensor, imaginary: Tensor) -> None:
        self.chart, self.exponents, self.logs, self.imaginary = chart, exponents, logs, imaginary
        self.size = len(exponents)

    def apply(self, x: Tensor, operator: Operator) -> Tensor:
        """See `Family`; derivatives of order two at most."""
        log, p, q = coordinate(self.chart.tolist(), x)
        # real and imaginary parts come in pairs
        rows, which = torch.cat([self.exponents, self.logs], 1).unique(dim=0, return_inverse=True)
        alpha, beta, lam, mu = rows.T
        e = torch.exp(alpha * log + beta * log.conj())
        plain = (lam == 0) & (mu == 0)
        f = e * torch.where(plain, torch.ones_like(e), lam * log + mu * log.conj())
        # Wirtinger derivatives: d/dz acts on l, d/dconj(z) on conj(l)
        order = max(map(len, operator), default=0)
        table: dict[tuple[int, ...], Tensor] = {(): f}
        if order > 0:
            fa, fb = alpha * f + lam * e, beta * f + mu * e
            fz, fc = p * fa, p.conj() * fb
            table |= {(0,): fz + fc, (1,): 1j * (fz - fc)}
        if order > 1:
            fzz = q * fa + p * p * (alpha * fa + alpha * lam * e)
            fcc = q.conj() * fb + (p * p).conj() * (beta * fb + beta * mu * e)
            fzc = p.abs().square() * (alpha * fb + beta * lam * e)
            same, cross = fzz + fcc, 2 * fzc
            table |= {(0, 0): cross + same, (1, 1): cross - same, (0, 1): 1j * (fzz - fcc)}
        total = torch.zeros_like(f)
        for index, w in operator.items():
            total = total + column(w, x) * table[index]
        return torch.where(self.imaginary, total.imag[:, which], total.real[:, which])

    def arrays(self) -> dict[str, np.ndarray]:
        """Chart, exponents, logs, parts."""
        return {k: getattr(self, k).numpy() for k in ("chart", "exponents", "logs", "imaginary")}

    @classmethod
    def restore(cls, arrays: Mapping[str, np.ndarray]) -> Powers:
        """From `arrays`."""
        return cls(*(torch.as_tensor(arrays[k]) for k in ("chart", "exponents", "logs", "imaginary")))


def coordinate(chart: Sequence[float], x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """l, dl/dz and d2l/dz2, each ``(n, 1)``."""
    cx, cy, angle, scale, focus = chart
    turn = complex(math.cos(angle), -math.sin(angle)) / scale
    w = torch.complex(x[:, :1] - cx, x[:, 1:2] - cy) * turn
    if focus == 0:
        inverse = turn / w
        return torch.log(w), inverse, -inverse * inverse
    # zeta = w + sqrt(w - f) sqrt(w + f) has its cut between the foci, and l' = 1 / sqrt(w^2 - f^2)
    root = torch.sqrt(w - focus) * torch.sqrt(w + focus)
    slope = 1 / root
    return torch.log((w + root) / (1 + math.sqrt(1 - focus**2))), turn * slope, -(turn**2) * w * slope**3


def _powers(chart: list[float], rows: list[tuple[float, float, float, float, bool]]) -> Powers:
    table = torch.tensor([[float(v) for v in row] for row in rows], dtype=torch.float64)
    return Powers(torch.tensor(chart, dtype=torch.float64), table[:, :2], table[:, 2:4], table[:, 4] != 0)


# ------------------------------------------------------------------------------------------------------------- points


class Corner(NamedTuple):
    """A corner of a plane domain.

    Attributes:
        point: ``(2,)``.
        angle: interior angle.
        start: direction of the edge from which angles into the domain are counted.
        kinds: whether the solution itself is prescribed on the first and on the second edge.
    """

    point: tuple[float, float]
    angle: float
    start: float
    kinds: tuple[bool, bool] = (True, True)


# --------------------------------------------------------------------------------------------------------------- holes


def holes(domain: Domain) -> list[Ball | Ellipsoid]:
    """Round pieces that are cut out."""
    if domain.dim != 2:
        return []
    found = []
    for piece in domain.pieces:
        if isinstance(piece.shape, (Ball, Ellipsoid)) and len(piece.axes) == 2:
            if not bool(domain.contains(piece.shape.center[None])):
                found.append(piece.shape)
    return found


def hole_features(domain: Domain, level: int, harmonic: bool) -> list[Powers]:
    """Logarithm and Laurent terms in every round hole of a plane domain.

    Args:
        domain: where.
        level: highest power.
        harmonic: leave out what is not harmonic; False for variable coefficients.
    """
    found = [_powers(chart_of(hole), _laurent(level, harmonic)) for hole in holes(domain)]
    return found + [_powers(chart, _laurent(max(1, level // 2), harmonic)) for chart in images(domain)]


_NEAR = 8.0  # distance of a hole and its image, in half axes of the hole, up to which the image matters


def images(domain: Domain) -> list[list[float]]:
    """Charts of the holes mirrored at straight edges nearby, where a solution continued past the edge is singular."""
    found = []
    for hole in holes(domain):
        chart = chart_of(hole)
        reach = chart[3] * _NEAR
        for a, b in edges_of(domain):
            p, along = complex(*a), complex(*(b - a))
            along /= abs(along)
            center = complex(chart[0], chart[1])
            image = p + along * ((center - p) / along).conjugate()
            angle = 2 * cmath.phase(along) - chart[2]
            foci = [image + f * chart[3] * chart[4] * cmath.exp(1j * angle) for f in (-1, 0, 1)]
            spots = torch.tensor([[z.real, z.imag] for z in foci], dtype=torch.float64)
            if abs(image - center) < reach and bool((domain.level(spots) < 0).all()):
                found.append([image.real, image.imag, angle, *chart[3:]])
    return found


def regular_features(domain: Domain, level: int) -> Powers:
    """Harmonic polynomials Re z^k, Im z^k, k = 1 .. level, about the middle of a plane domain."""
    lower, upper = domain.bounds
    cx, cy = ((lower + upper) / 2).tolist()
    rows = [(float(k), 0.0, 0.0, 0.0, part) for k in range(1, level + 1) for part in (False, True)]
    return _powers([cx, cy, 0.0, domain.size / 2 * math.sqrt(2), 0.0], rows)


def chart_of(hole: Ball | Ellipsoid) -> list[float]:
    """The conformal coordinate of a hole, see `Powers`."""
    cx, cy = hole.center.tolist()
    sides = torch.linalg.vector_norm(hole.matrix, dim=0)
    long = int(sides.argmax())
    a, b = float(sides[long]), float(sides[1 - long])
    axis = hole.matrix[:, long]
    focus = math.sqrt(max(0.0, 1 - (b / a) ** 2))
    if focus < 1e-6:
        return [cx, cy, 0.0, math.sqrt(a * b), 0.0]
    return [cx, cy, math.atan2(float(axis[1]), float(axis[0])), a, focus]


def _laurent(level: int, harmonic: bool) -> list[tuple[float, float, float, float, bool]]:
    rows = [(0.0, 0.0, 0.5, 0.5, False)]
    for k in range(level + 1):
        # |zeta|^-j e^(i k phi): alpha = (k - j) / 2, beta = -(k + j) / 2; j = k is the harmonic one
        for j in [k] if harmonic else range(level + 1):
            if j + k > 0 and j + k <= 2 * level:
                alpha, beta = (k - j) / 2, -(k + j) / 2
                rows += [(alpha, beta, 0.0, 0.0, part) for part in ((False, True) if k else (False,))]
        if not harmonic and k > 0 and k <= 2:
            rows += [(k / 2, -k / 2, 0.5, 0.5, part) for part in (False, True)]
    return rows


# ------------------------------------------------------------------------------------------------------------- corners


def corners(domain: Domain) -> list[Corner]:
    """The corners of a plane domain made of boxes, polygons and round shapes."""
    if domain.dim != 2:
        return []
    edges = edges_of(domain)
    points = {(round(float(p[0]), 12), round(float(p[1]), 12)) for edge in edges for p in edge}
    for i, (a, b) in enumerate(edges):
        for c, d in edges[:i]:
            cross = _intersection(a, b, c, d)
            if cross is not None:
                points.add(cross)
    found = []
    for point in sorted(points):
        sector = _sector(domain, point, edges)
        if sector is not None:
            found.append(Corner(point, *sector))
    return found


def edges_of(domain: Domain) -> list[tuple[np.ndarray, np.ndarray]]:
    """Both ends of every straight edge of a plane domain's pieces."""
    found = []
    for piece in domain.pieces:
        shape = piece.shape
        if isinstance(shape, Box) and shape.dim == 2:
            (x0, y0), (x1, y1) = shape.lower.tolist(), shape.upper.tolist()
            vertices = np.array([[x0, y0], [x1, y0], [x1, y1], [x0, y1]])
        elif isinstance(shape, Box):  # a product of two intervals
            continue
        elif isinstance(shape, Polygon):
            vertices = shape.corners.numpy()
        else:
            continue
        found += list(zip(vertices, np.roll(vertices, -1, 0), strict=True))
    if not found and all(isinstance(p.shape, Box) and p.shape.dim == 1 for p in domain.pieces):
        (x0, y0), (x1, y1) = (b.tolist() for b in domain.bounds)
        vertices = np.array([[x0, y0], [x1, y0], [x1, y1], [x0, y1]])
        found = list(zip(vertices, np.roll(vertices, -1, 0), strict=True))
    return found


def _intersection(a: np.ndarray, b: np.ndarray, c: np.ndarray, d: np.ndarray) -> tuple[float, float] | None:
    p, q = b - a, d - c
    det = p[0] * q[1] - p[1] * q[0]
    if abs(det) < 1e-12 * np.linalg.norm(p) * np.linalg.norm(q):
        return None
    s, t = ((c - a)[0] * q[1] - (c - a)[1] * q[0]) / det, ((c - a)[0] * p[1] - (c - a)[1] * p[0]) / det
    if not (0 <= s <= 1 and 0 <= t <= 1):
        return None
    x, y = a + s * p
    return (round(float(x), 12), round(float(y), 12))


def _sector(
    domain: Domain, point: tuple[float, float], edges: list[tuple[np.ndarray, np.ndarray]]
) -> tuple[float, float] | None:
    """Angle and first direction of the one sector of the domain at a point; None where there is no corner."""
    here = np.array(point)
    directions = set()
    for a, b in edges:
        along = (b - a) / np.linalg.norm(b - a)
        if abs(along[0] * (here - a)[1] - along[1] * (here - a)[0]) < 1e-9 * domain.size:
            angle = math.atan2(along[1], along[0])
            directions |= {round(angle % (2 * math.pi), 12), round((angle + math.pi) % (2 * math.pi), 12)}
    angles = torch.tensor(sorted(directions), dtype=torch.float64)
    gaps = (angles.roll(-1) - angles) % (2 * math.pi)
    middle = angles + gaps / 2
    probe = torch.stack([torch.cos(middle), torch.sin(middle)], 1) * (1e-6 * domain.size)
    inside = domain.level(torch.as_tensor(here)[None] + probe) > 0
    starts = inside & ~inside.roll(1)
    if int(starts.sum()) != 1:
        return None
    total = float(gaps[inside].sum())
    return None if abs(total - math.pi) < 1e-9 else (total, float(angles[starts][0]))


def corner_features(domain: Domain, level: int, harmonic: bool, found: list[Corner] | None = None) -> list[Powers]:
    """Singular functions at every corner.

    With u (or its flux) prescribed on both edges the exponents are k pi / omega, with one of each (k - 1/2) pi / omega.
    Whole exponents are smooth, but a logarithm goes with them where source and data do not fit together.

    Args:
        domain: where.
        level: highest exponent.
        harmonic: leave out products with polynomials; False for variable coefficients.
        found: the corners; None finds them.
    """
    return [
        _powers(_corner_chart(domain, c), rows)
        for c in (corners(domain) if found is None else found)
        if (rows := _corner_rows(c, level, harmonic))
    ]


def _corner_chart(domain: Domain, corner: Corner) -> list[float]:
    # the cut of the logarithm, opposite to the real axis, lies in the middle of the outside
    return [*corner.point, corner.start + corner.angle / 2, domain.size, 0.0]


def _corner_rows(corner: Corner, level: int, harmonic: bool) -> list[tuple[float, float, float, float, bool]]:
    first, second = corner.kinds
    rows = []
    k = 0
    while True:
        k += 1
        exponent = (k if first == second else k - 0.5) * math.pi / corner.angle
        whole = abs(exponent - round(exponent)) < 1e-4
        exponent = float(round(exponent)) if whole else exponent
        if exponent > level:
            break
        # products with x^i y^j are products with z^i conj(z)^j
        products = [(0, 0)] if harmonic else [(i, j) for i in range(4) for j in range(4) if exponent + i + j <= level]
        for i, j in products:
            alpha, beta = exponent + i, float(j)
            log = 1.0 if whole else 0.0
            for part in (False, True):
                rows.append((alpha, beta, log, 0.0, part))
    return list(dict.fromkeys(rows))
