"""The diagnostics that every solve can afford: for a problem, without being told anything else."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sciml.calculus import Field
from sciml.domain import Box, Domain
from sciml.theory.basis import Basis, Cosine, Scattered, Sine
from sciml.theory.condensation import Condensation
from sciml.theory.diagnostic import Diagnostic
from sciml.theory.frequency import FrequencyProbe
from sciml.theory.functional import Operator
from sciml.theory.regimes import RelativeDistance
from sciml.theory.spikes import Spikes

__all__ = ["basis_of", "default_diagnostics", "residual_of"]

_COUNTS = {1: 255, 2: 40, 3: 14}


def default_diagnostics(problem: Any) -> list[Diagnostic]:
    """Callbacks that tell what a network does with `problem`: frequencies, movement, spikes, neurons in use.

        solution = MscaleSolver().solve(problem, callbacks=theory.default_diagnostics(problem))

    They measure at log-spaced steps (the spike detector reads the loss of every step) and cost a few percent of the
    training at most.

    Args:
        problem: an Elliptic, PDE or Evolution: anything with ``domain``; its ``exact`` solution, if it has one, is the
            reference of the spectra.

    Raises:
        TypeError: for anything else.
    """
    stated = problem.pde() if hasattr(problem, "pde") else problem
    if not hasattr(stated, "domain"):
        raise TypeError(f"problem is a {type(problem).__name__}, but must be an Elliptic, PDE or Evolution")
    exact = getattr(stated, "exact", None)
    probe = FrequencyProbe(basis_of(stated), exact, residual_of(stated), shells=None if stated.domain.dim == 1 else 12)
    return [probe, RelativeDistance(), Spikes(), Condensation()]


def basis_of(problem: Any) -> Basis:
    """A basis for fields of a problem: sines on a box with Dirichlet values, cosines on another box, else scattered.

    On a domain that is no box the wavenumbers are spread over shells in a few directions, and the spectrum is that of
    the field cut off at the boundary.
    """
    domain: Domain = problem.domain
    d = domain.dim
    if type(domain) is Box and d in _COUNTS:
        lower, upper = (edge.numpy() for edge in domain.bounds)
        conditions = getattr(problem, "conditions", ())
        kind = Sine if all(c.name == "dirichlet" for c in conditions) else Cosine
        return kind(lower, upper, _COUNTS[d])
    generator = torch.Generator().manual_seed(0)
    points = domain.interior(2048, generator, sobol=True)
    extent = float((domain.bounds[1] - domain.bounds[0]).max())
    sizes = np.arange(1, 25) * math.pi / extent * max(1.0, 2048 ** (1 / d) / 48)
    directions = torch.randn(8, d, generator=generator, dtype=torch.float64)
    directions = torch.nn.functional.normalize(directions, dim=1)
    return Scattered(points, np.concatenate([sizes[:, None] * p.numpy() for p in directions]))


def residual_of(problem: Any) -> Operator:
    """The residual of a problem's (first) equation as ``(field, points) -> (n,)``.

    It is nan for networks whose activation has kinks: their second derivatives hide deltas between the points.
    """

    def residual(field: Field, x: Tensor) -> Tensor:
        if getattr(field, "smoothness", math.inf) < 1:
            return torch.full((len(x),), math.nan, dtype=x.dtype, device=x.device)
        if hasattr(problem, "jet"):
            return problem.residual(problem.jet(field, x), x)
        return problem.residual(field, x, getattr(field, "unknowns", None))[0]

    return residual
