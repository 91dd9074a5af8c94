"""Volumes and areas of combined domains, from the visible parts of their primitives' boundaries.

The area of a boundary piece is the area of what is left of a primitive's face, and by the divergence theorem the volume
is the sum of the fluxes (1/d) int (x - origin).n dA of all of them. A face that meets no other primitive is seen
entirely or not at all, which gives the closed form in any dimension (disjoint holes subtract exactly). The others are

- exact in 1-D and 2-D: the curve is cut where it meets other primitives, and each stretch has a closed form;
- in 3-D an adaptive integral over slices, each of which is exact (relative error around 1e-7);
- otherwise (d > 3, and products inside other combinations) quasi-Monte Carlo estimates with 2^18 points (around 1e-4).
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from .arrangement import Arrangement
from .base import Domain, Sampler, cube
from .curves import Curves, adaptive

PRECISION = 1e-7  # absolute error asked of each face in 3-D, relative to size^(d-1)
ESTIMATES = 2**18


class Measures(NamedTuple):
    """The volume, and the area of each boundary piece."""

    volume: float
    areas: Tensor


def measure(domain: Domain) -> Measures:
    """The measures of a difference, union or intersection; see the head of this file for the methods."""
    arrangement = domain.arrangement
    if any(len(piece.axes) != domain.dim for piece in arrangement.pieces):
        return Measures(_fraction(domain.inside), _fractions(domain))
    found = visible_measures(arrangement, 0.5 * (domain.bounds[0] + domain.bounds[1]), domain.size)
    if measurable(arrangement, domain.dim):
        return found
    return Measures(_fraction(domain.inside), torch.where(found.areas.isnan(), _fractions(domain), found.areas))


def measurable(arrangement: Arrangement, dim: int) -> bool:
    """Whether `visible_measures` finds everything."""
    if any(len(piece.axes) != dim for piece in arrangement.pieces):
        return False
    return dim <= 3 or not bool(_meetings(arrangement).any())


def visible_measures(arrangement: Arrangement, origin: Tensor, size: float) -> Measures:
    """The measures of a set of the given size around `origin`; nan where faces meet in more than three dimensions."""
    dim, count = len(origin), arrangement.pieces[-1].indices.stop
    if dim == 1:
        return _visible_ends(arrangement, size)
    meets = _meetings(arrangement)
    faces = [piece.shape.faces for piece in arrangement.pieces]
    point, normal = (torch.cat([face[i] for face in faces]) for i in (3, 4))
    areas = torch.cat([piece.shape.areas for piece in arrangement.pieces])
    # Moving the origin changes the flux through a flat face, but not that through a closed surface.
    flat = torch.cat([torch.full_like(face.flux, len(face.flux) > 1) for face in faces])
    flux = torch.cat([face.flux for face in faces]) - flat * areas * (normal @ origin) / dim
    outward, visible = arrangement.visible(point, normal, torch.arange(count), size)
    side = (outward * normal).sum(1).sign()
    result = torch.where(visible[:, None], torch.stack([areas, side * flux], 1), 0.0)
    for label in meets.any(1).nonzero()[:, 0].tolist():
        result[label] = _visible_face(arrangement, label, meets[label], origin, size) if dim <= 3 else torch.nan
    return Measures(float(result[:, 1].sum()), result[:, 0])


def _visible_ends(arrangement: Arrangement, size: float) -> Measures:
    """In 1-D all shapes are intervals, with one label or two for their ends."""
    x = torch.cat([torch.stack(piece.shape.bounds) for piece in arrangement.pieces])
    label = torch.tensor([piece.indices[i] for piece in arrangement.pieces for i in (0, -1)])
    outward, visible = arrangement.visible(x, torch.tensor([[-1.0], [1.0]]).to(x).repeat(len(x) // 2, 1), label, size)
    areas = torch.bincount(label[visible], minlength=arrangement.pieces[-1].indices.stop)
    return Measures(float((x * outward)[visible].sum()), areas.double())


def _meetings(arrangement: Arrangement) -> Tensor:
    """Which pieces' boundaries may meet each face, bool (faces, pieces)."""
    margin = 1e-9 * max(piece.shape.size for piece in arrangement.pieces)
    faces = [piece.shape.faces for piece in arrangement.pieces]
    lower, upper, radius = (torch.cat([face[i] for face in faces]) for i in range(3))
    low, high = (torch.stack([piece.shape.bounds[i] for piece in arrangement.pieces]) for i in range(2))
    near = ((lower[:, None] <= high + margin) & (upper[:, None] >= low - margin)).all(2)
    near &= arrangement.clearances(0.5 * (lower + upper)) <= radius[:, None] + margin
    for i, piece in enumerate(arrangement.pieces):
        near[piece.indices.start : piece.indices.stop, i] = False
    return near


def _visible_face(arrangement: Arrangement, label: int, meets: Tensor, origin: Tensor, size: float) -> Tensor:
    """Area and flux (2,) of what is left of one face, in 2-D or 3-D."""
    piece = next(piece for piece in arrangement.pieces if label in piece.indices)
    local = label - piece.indices.start
    others = [arrangement.pieces[i].shape for i in meets.nonzero()[:, 0].tolist()]

    def slices(s: Tensor) -> tuple[Tensor, Tensor]:
        curves = piece.shape.slices(local, s)
        cuts = [curves.roots(shape) for shape in others]
        met = torch.stack([((t >= 0) & (t <= curves.end)).sum(1) for t in cuts], 1)
        return _visible_parts(arrangement, curves, torch.cat(cuts, 1), label, origin, size), met

    if len(origin) == 2:
        return slices(torch.zeros(1, dtype=torch.float64))[0][0]
    corner = torch.cartesian_prod(*[torch.arange(2)] * 3)
    breaks = [torch.linspace(0, 1, 3, dtype=torch.float64)]
    for shape in others:
        box = torch.stack(shape.bounds)
        s = piece.shape.slice_of(local, box[corner, torch.arange(3)])
        breaks.append(torch.stack([s.min(), s.max()]))
    return adaptive(slices, torch.cat(breaks), PRECISION * size**2)


def _visible_parts(
    arrangement: Arrangement, curves: Curves, cuts: Tensor, label: int, origin: Tensor, size: float
) -> Tensor:
    """Area and flux (m, 2) of the visible parts of m curves, given where (m, r) they meet other primitives."""
    ends = torch.tensor([0.0, curves.end], dtype=torch.float64).expand(len(cuts), 2)
    cuts = torch.cat([cuts.nan_to_num(0.0, 0.0, 0.0).clamp(0, curves.end), ends], 1).sort(dim=1).values
    row, place = (cuts.diff(dim=1) > 1e-13).nonzero(as_tuple=True)
    begin, end = cuts[row, place], cuts[row, place + 1]
    # A stretch is judged at one of three points, the one farthest from other primitives: they may touch the others.
    x, normal = curves.at(row.repeat(3), torch.cat([begin + part * (end - begin) for part in (0.31, 0.5, 0.77)]))
    others = torch.tensor([label not in piece.indices for piece in arrangement.pieces])
    clearance = arrangement.clearances(x)[:, others].amin(1)
    best = clearance.reshape(3, -1).argmax(0) * len(row) + torch.arange(len(row))
    x, normal = x[best], normal[best]
    outward, visible = arrangement.visible(x, normal, torch.full_like(row, label), size)
    side = (outward * normal).sum(1).sign()[visible]
    row, begin, end = row[visible], begin[visible], end[visible]
    found = curves.integrals(row, begin, end, origin)
    found[:, 1] *= side
    return torch.zeros(len(cuts), 2, dtype=torch.float64).index_add(0, row, found)


def _fraction(sampler: Sampler) -> float:
    """The measure of what a sampler accepts."""
    accepted = sampler.draw(cube(sampler.dims, torch.Generator().manual_seed(0), sobol=True)(ESTIMATES))[-1]
    return sampler.measure * float(accepted.double().mean())


def _fractions(domain: Domain) -> Tensor:
    """The measure of what the boundary sampler accepts, for each label."""
    sampler = domain.edge
    draws = cube(sampler.dims, torch.Generator().manual_seed(0), sobol=True)(ESTIMATES)
    _, _, label, ok = sampler.draw(draws)
    return sampler.measure * torch.bincount(label[ok], minlength=len(domain.labels)).double() / len(draws)
