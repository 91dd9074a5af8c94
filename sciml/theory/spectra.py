"""The spectrum of a Field over a Domain of any shape, and the bandwidth that follows from it.

The Field is sampled along straight lines through the domain, tapered to zero at the ends of each line, and
transformed by a non-uniform sum; the root mean square over the lines is the spectrum along that axis. Holes only
shorten lines, so nothing is ever evaluated outside. `radial` does the same along random directions.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from sciml.calculus import Field
from sciml.domain import Domain

__all__ = ["Spectrum", "bandwidth", "radial", "spectrum"]

_SHAPE = 6.0  # of the Kaiser taper: side lobes below 1e-3
_LOBE = math.sqrt(math.pi**2 + _SHAPE**2)  # half width of its main lobe, times 2 / length


@dataclass(frozen=True)
class Spectrum:
    """Amplitudes along one direction.

    Attributes:
        wavenumbers: ``(k,)``, angular, from 0.
        amplitudes: ``(k,)``, root mean square over lines; a sine of amplitude 1 has a peak of height 1 if it is
            present on every line.
        width: half width of a peak, all that the lengths of the lines can resolve.
        resolved: False if the amplitudes had not fallen at the largest wavenumber.
    """

    wavenumbers: Tensor
    amplitudes: Tensor
    width: float
    resolved: bool

    def bandwidth(self, level: float = 1e-2, order: int = 0) -> float:
        """The largest wavenumber whose amplitude exceeds `level` times the largest amplitude.

        Args:
            level: relative to the peak.
            order: divide amplitudes by ``k ** order`` first: of the source of a second-order equation, order 2
                gives the bandwidth of the solution.
        """
        unit = max(self.width, 1e-300)
        a = self.amplitudes / (1 + (self.wavenumbers / unit) ** 2) ** (order / 2)
        if not float(a.max()) > 0:
            return 0.0
        # a peak is as wide as the taper's main lobe: take half of it off
        top = float(self.wavenumbers[a > level * a.max()].max())
        return max(0.0, top - 0.6 * self.width)


def spectrum(
    field: Field, domain: Domain, generator: torch.Generator | None = None, lines: int = 16, limit: int = 4096
) -> tuple[Spectrum, ...]:
    """The spectrum of a scalar field along every axis.

    Args:
        field: maps points ``(n, d)`` to ``(n,)``.
        domain: where it lives.
        generator: of the lines; None is a fresh one seeded with 0.
        lines: number of lines per axis.
        limit: largest number of points per line.

    Raises:
        ValueError: if the field does not give finite ``(n,)``.

    >>> from sciml.domain import Box
    >>> along_x, along_y = spectrum(lambda x: torch.sin(40 * x[:, 0]) * torch.sin(9 * x[:, 1]), Box([-1, -1], [1, 1]))
    >>> abs(along_x.bandwidth() - 40) < 3, abs(along_y.bandwidth() - 9) < 3
    (True, True)
    """
    generator = torch.Generator().manual_seed(0) if generator is None else generator
    directions = torch.eye(domain.dim, dtype=torch.float64)
    return tuple(_along(field, domain, directions[i].expand(lines, -1), generator, limit) for i in range(domain.dim))


def radial(
    field: Field, domain: Domain, generator: torch.Generator | None = None, lines: int = 32, limit: int = 4096
) -> Spectrum:
    """The spectrum along random directions; arguments as in `spectrum`."""
    generator = torch.Generator().manual_seed(0) if generator is None else generator
    directions = torch.randn(lines, domain.dim, generator=generator, dtype=torch.float64)
    return _along(field, domain, torch.nn.functional.normalize(directions, dim=1), generator, limit)


def bandwidth(
    fields: Sequence[tuple[Field, int, float]], domain: Domain, generator: torch.Generator | None = None
) -> Tensor:
    """The bandwidth ``(d,)`` of several fields, each with its `order` and `level`; see `Spectrum.bandwidth`."""
    found = torch.zeros(domain.dim, dtype=torch.float64)
    for field, order, level in fields:
        rows = spectrum(field, domain, generator)
        found = torch.maximum(found, torch.tensor([s.bandwidth(level, order) for s in rows], dtype=torch.float64))
    return found


def _along(field: Field, domain: Domain, directions: Tensor, generator: torch.Generator, limit: int) -> Spectrum:
    starts, ends = _chords(domain, directions, generator)
    lengths = torch.linalg.vector_norm(ends - starts, dim=1)
    longest = float(lengths.max())
    count = 128
    found = _transform(field, starts, ends, lengths, count, longest)
    while 2 * count <= limit:
        # a wave above the sampling limit looks like a low one, but another at each number of points
        count *= 2
        finer = _transform(field, starts, ends, lengths, count - 7, longest)
        k = min(len(found.amplitudes), len(finer.amplitudes))
        gap = (finer.amplitudes[:k] - found.amplitudes[:k]).abs().max()
        if found.resolved and finer.resolved and bool(gap <= 0.02 * finer.amplitudes.max()):
            return finer
        found = finer
    return replace(found, resolved=False)


def _chords(domain: Domain, directions: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """The longest of several stretches inside the domain along each direction."""
    tries = 8
    p = domain.interior(tries * len(directions), generator)
    step = directions.repeat(tries, 1) * domain.size * 2 * math.sqrt(domain.dim)
    ahead, _ = domain.crossing(p, p + step)
    behind, _ = domain.crossing(p, p - step)
    length = (ahead + behind).reshape(tries, -1)
    best = length.argmax(0) * len(directions) + torch.arange(len(directions))
    # a little inside, so that no point of a line is lost to rounding
    inner = 1 - 1e-9
    return p[best] - inner * behind[best, None] * step[best], p[best] + inner * ahead[best, None] * step[best]


def _transform(field: Field, starts: Tensor, ends: Tensor, lengths: Tensor, count: int, longest: float) -> Spectrum:
    t = (torch.arange(count, dtype=torch.float64) + 0.5) / count
    points = starts[:, None] + t[None, :, None] * (ends - starts)[:, None]
    values = torch.as_tensor(field(points.reshape(-1, points.shape[-1]))).detach()
    if values.shape != (points.shape[0] * count,) or not bool(values.isfinite().all()):
        raise ValueError(f"the field must give finite values (n,), but gave shape {tuple(values.shape)}")
    values = values.reshape(-1, count)
    taper = torch.i0(_SHAPE * torch.sqrt(1 - (2 * t - 1) ** 2))
    # along each line the taper is normalised, so that its length does not matter
    weighted = values * (2 * taper / taper.sum())
    nyquist = math.pi * count / longest
    wavenumbers = torch.arange(0, nyquist, math.pi / longest / 2, dtype=torch.float64)
    # four times as many frequencies as points: fine enough to be read off between them
    power = torch.fft.rfft(weighted, 4 * count, dim=1).abs().square()
    position = wavenumbers * (4 * count / (2 * math.pi)) * (lengths[:, None] / count)
    left = position.floor().clamp(0, power.shape[1] - 2)
    part = (position - left).clamp(0, 1)
    index = left.long()
    power = ((1 - part) * power.gather(1, index) + part * power.gather(1, index + 1)).sum(0)
    amplitudes = (power / len(lengths)).sqrt()
    tail = amplitudes[wavenumbers > 0.5 * nyquist].max()
    return Spectrum(wavenumbers, amplitudes, 2 * _LOBE / longest, bool(tail <= 1e-3 * amplitudes.max()))
