"""Which features a problem in three dimensions gets: polynomials, or polynomials on the peaks of a sparse spectrum.

In three dimensions the number of unknowns decides, so that nothing redundant can be afforded. Two choices:

`Graded`  products of Legendre polynomials. A wave of wavenumber k needs little more than the degree k h along an axis
          of half side h, and the total degree max k . x over the domain; both grow by one margin with the digits.
`Peaked`  waves with polynomial envelopes (`Modulated`) at the peaks of the data's spectrum (`theory.spectra.peaks`):
          the higher a peak, the higher the degree of its envelope. What a bandwidth of 70 hides from `Graded` behind
          a hundred thousand polynomials is often a hundred peaks.

The one that starts with fewer unknowns is taken. Both are far from dependent on most domains, so that normal equations
do; both order their columns from the indispensable to the least important, for the nested solutions of an estimate.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor

from sciml.domain import Domain
from sciml.solvers.families import VALUE, Family, Polynomials
from sciml.solvers.modulated import Modulated

__all__ = ["Graded", "Peaked"]

_SLOPE = 1.1  # degrees per k h
_STEP = 2.0  # of the margin, from one nested solution to the next: a parity may make a single degree worthless
_DECAY = 0.9  # of envelopes, in the logarithm of their coefficients per degree
_TIERS = (3.0, 10.0)  # by how much nested solutions lie above the level of the whole


class _Spatial(ABC):
    """What both choices share."""

    domain: Domain
    order: Tensor | None = None
    damped = False
    independent = True

    @property
    def size(self) -> int:
        """See `Ansatz`."""
        return sum(f.size for f in self.families)

    @property
    @abstractmethod
    def families(self) -> list[Family]:
        """See `Ansatz`."""

    @property
    @abstractmethod
    def bandwidth(self) -> Tensor:
        """See `Ansatz`."""

    @property
    def points(self) -> dict[str, int]:
        """See `Ansatz`."""
        per_length = 4 * float(self.bandwidth.max()) / math.pi
        edge = min(self.domain.area * per_length**2, self.size)
        return {"interior": int(1.6 * self.size) + 50, "boundary": int(edge) + 20}


@dataclass(frozen=True)
class Graded(_Spatial):
    """Products of Legendre polynomials, see the head of the module.

    Attributes:
        domain: where.
        kappa: bandwidth of the data in units of one over the half sides, ``(3,)``.
        margin: degrees beyond it.
        limit: of the number of unknowns.
    """

    domain: Domain
    kappa: Tensor
    margin: float
    limit: int

    @cached_property
    def _degrees(self) -> tuple[Tensor, Tensor]:
        """All degrees ``(size, 3)`` and the least margin that includes them, in rising order."""
        lower, upper = self.domain.bounds
        edge = self.domain.boundary(4000, torch.Generator().manual_seed(0), sobol=True)[0]
        reach = float((((2 * edge - lower - upper) / (upper - lower)).abs() @ self.kappa).max())
        top = (_SLOPE * self.kappa + self.margin).floor().long().tolist()
        degrees = torch.cartesian_prod(*(torch.arange(n + 1) for n in top))
        least = torch.maximum((degrees - _SLOPE * self.kappa).amax(1), degrees.sum(1) - _SLOPE * reach)
        order = least.argsort(stable=True)
        order = order[least[order] <= self.margin]
        return degrees[order], least[order]

    @cached_property
    def families(self) -> list[Family]:
        """See `Ansatz`."""
        return [Polynomials(self._degrees[0], *self.domain.bounds)]

    @property
    def bandwidth(self) -> Tensor:
        """See `Ansatz`."""
        lower, upper = self.domain.bounds
        return 2 * (self.kappa + self.margin / 2) / (upper - lower)

    @property
    def cuts(self) -> tuple[int, ...]:
        """See `Ansatz`."""
        found = (int((self._degrees[1] <= self.margin - k * _STEP).sum()) for k in (1, 2))
        return tuple(max(n, 1) for n in found)

    def larger(self, residuals: Sequence[float], excess: float, coefficients: Tensor) -> Graded | None:
        """See `Ansatz`."""
        whole, low = max(residuals[0], 1e-300), max(residuals[-1], 1e-300)
        slope = math.log(low / whole) / (2 * _STEP) if len(residuals) > 1 else 0.0
        more = math.log(3 * excess) / slope if slope > 0 else math.inf
        found = replace(self, margin=self.margin + min(max(more, _STEP), 2 + 0.3 * self.margin)).within()
        return found if found is not None and found.size > 1.1 * self.size else None

    def within(self) -> Graded | None:
        """The same with a margin that the limit allows; None if that is no larger than zero."""
        found = self
        while found.size > self.limit:
            found = replace(found, margin=found.margin - 0.5)
            if found.margin <= 0:
                return None
        return found


@dataclass(frozen=True)
class Peaked(_Spatial):
    """Waves with polynomial envelopes, see the head of the module.

    Attributes:
        domain: where.
        wavenumbers: of the peaks, ``(m, 3)``.
        amplitudes: of the peaks in the solution, relative to the largest, ``(m,)``.
        level: amplitude down to which peaks, and terms of their envelopes, are taken.
        limit: of the number of unknowns.
    """

    domain: Domain
    wavenumbers: Tensor
    amplitudes: Tensor
    level: float
    limit: int

    @cached_property
    def families(self) -> list[Family]:
        """See `Ansatz`."""
        taken = self.amplitudes >= self.level
        degrees = ((self.amplitudes[taken] / self.level).log() / _DECAY).floor().long()
        return [Modulated(self.wavenumbers[taken], degrees, *self.domain.bounds)]

    @cached_property
    def _tiers(self) -> Tensor:
        """Which of the nested solutions a column belongs to, 0 for the smallest."""
        family = self.families[0]
        assert isinstance(family, Modulated)
        owner, degree = family.orders
        value = self.amplitudes[self.amplitudes >= self.level][owner] * torch.exp(-_DECAY * degree)
        low, high = _TIERS
        return (value < high * self.level).long() + (value < low * self.level).long()

    @property
    def order(self) -> Tensor | None:  # type: ignore[override]
        """See `Ansatz`."""
        return self._tiers.argsort(stable=True)

    @property
    def cuts(self) -> tuple[int, ...]:
        """See `Ansatz`."""
        return int((self._tiers <= 1).sum()), max(int((self._tiers == 0).sum()), 1)

    @property
    def bandwidth(self) -> Tensor:
        """See `Ansatz`."""
        lower, upper = self.domain.bounds
        family = self.families[0]
        assert isinstance(family, Modulated)
        # that of a typical feature: of all, weighted by the number of their envelopes
        weight = torch.tensor(family.counts, dtype=torch.float64)
        mean = (weight @ family.wavenumbers.square() / weight.sum()).sqrt()
        return mean + 2 * float(family.degrees.max()) / (upper - lower)

    def larger(self, residuals: Sequence[float], excess: float, coefficients: Tensor) -> Peaked | None:
        """See `Ansatz`."""
        whole, low = max(residuals[0], 1e-300), max(residuals[-1], 1e-300)
        slope = math.log(low / whole) / math.log(_TIERS[1]) if len(residuals) > 1 else 0.0
        factor = (3 * excess) ** (1 / slope) if slope > 0.1 else math.inf
        level = self.level / min(max(factor, 1.5), 5.0)
        found = replace(self, level=level, wavenumbers=self._moved(coefficients)).within()
        return found if found.size > 1.1 * self.size else None

    def _moved(self, coefficients: Tensor) -> Tensor:
        """Wavenumbers such that the phases of the envelopes found so far are level on average.

        Where a peak of the data lies is known to a fraction of the taper's width only. The envelope A of the wave that
        was found there turns with exp(i d . x) if the wavenumber is off by d, and d is the mean of Im(grad A / A).
        """
        family = self.families[0]
        assert isinstance(family, Modulated)
        x = self.domain.interior(1000, torch.Generator().manual_seed(0), sobol=True)
        value = family.envelopes.apply(x, VALUE)
        slopes = [family.envelopes.apply(x, {(i,): 1.0}) for i in range(3)]
        lower, upper = self.domain.bounds
        moved, at = self.wavenumbers.clone(), 0
        for j, (n, moving) in enumerate(zip(family.counts, family.moving, strict=True)):
            if moving and n > 1:
                c = torch.complex(coefficients[at : at + n], -coefficients[at + n : at + 2 * n])
                a, *grads = (m[:, :n].to(c.dtype) @ c for m in (value, *slopes))
                turn = torch.stack([(a.conj() * g).imag.sum() for g in grads]) / a.abs().square().sum()
                moved[j] += turn.clamp(-math.pi / (upper - lower), math.pi / (upper - lower))
            at += n * (1 + moving)
        return moved

    def within(self) -> Peaked:
        """The same with a level that the limit allows."""
        found = self
        while found.size > self.limit and found.level < 1:
            found = replace(found, level=1.1 * found.level)
        return found
