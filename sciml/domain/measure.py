"""Volumes and areas of combined domains."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from .base import Domain


class Measures(NamedTuple):
    """The volume and the area of each boundary piece."""

    volume: float
    areas: Tensor


def measure(domain: Domain, n: int = 2**16) -> Measures:
    """Quasi-Monte Carlo estimates from the accepted fractions of the samplers."""

    def cube(dims: int) -> Tensor:
        draws = torch.quasirandom.SobolEngine(dims, scramble=True, seed=0).draw(n, dtype=torch.float64)
        return draws.clamp_(2.0**-40, 1 - 2.0**-40)

    inside, edge = domain.inside, domain._edge
    volume = inside.measure * float(inside.draw(cube(inside.dims))[-1].double().mean())
    _, _, label, ok = edge.draw(cube(edge.dims))
    counts = torch.bincount(label[ok], minlength=len(domain.labels))
    return Measures(volume, edge.measure * counts.double() / n)
