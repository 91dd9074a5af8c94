"""The functions of holes and corners for the cells around them."""

from __future__ import annotations

import torch
from torch import Tensor

from sciml.domain import Box
from sciml.problem import Elliptic
from sciml.solvers.collocation import Collocation
from sciml.solvers.cover import Cover
from sciml.solvers.patchfield import Extra
from sciml.solvers.singular import Powers, corner_features, corners, hole_features, holes

__all__ = ["extras_of"]

_LEVELS = {True: 10, False: 5}  # highest power, if solutions are harmonic but for a smooth part, and if not
_AROUND = 12  # cells that a hole touches, beyond which polynomials follow its edge better than Laurent's terms


def extras_of(collocation: Collocation, cover: Cover, width: int) -> tuple[Extra, ...]:
    """Singular functions of every corner and of every hole that few cells surround, in two dimensions without time.

    Args:
        collocation: the problem.
        cover: the cells.
        width: most functions of one group; more are shared out over several.
    """
    problem = collocation.problem
    domain = problem.domain
    if domain.dim != 2 or isinstance(domain, Box) or collocation.components > 1 or collocation.marches:
        return ()
    harmonic = isinstance(problem, Elliptic) and problem.constant_diffusion is not None and not problem.has_reaction
    level = _LEVELS[harmonic and collocation.linear]
    found = list[Extra]()
    for corner in corners(domain):
        place = torch.tensor(corner.point, dtype=torch.float64)
        own = cover.sides[_touched(cover, place, place)]
        margin = 0.5 * float(own.min()) if len(own) else 0.0
        own_functions = corner_features(domain, level, level == _LEVELS[True], [corner])
        found += _shared(own_functions, _touched(cover, place - margin, place + margin), width)
    for hole, family in zip(holes(domain), hole_features(domain, level, level == _LEVELS[True]), strict=False):
        # twice its size, for a cell that does not touch a hole but is close to it needs its terms as well
        reach = 2 * torch.linalg.vector_norm(hole.matrix, dim=1)
        cells = _touched(cover, hole.center - reach, hole.center + reach)
        if len(cells) <= _AROUND:
            found += _shared([family], cells, width)
    return tuple(found)


def _touched(cover: Cover, lower: Tensor, upper: Tensor) -> Tensor:
    """Cells that share a point with a box."""
    tiny = 1e-9 * float(cover.sides.min())
    return ((cover.lower <= upper + tiny) & (cover.upper >= lower - tiny)).all(1).nonzero()[:, 0]


def _shared(families: list[Powers], cells: Tensor, width: int) -> list[Extra]:
    """Groups of at most `width` functions."""
    found = []
    for f in families:
        for at in torch.arange(f.size).split(width):
            found.append(Extra(Powers(f.chart, f.exponents[at], f.logs[at], f.imaginary[at]), cells))
    return found if len(cells) else []
