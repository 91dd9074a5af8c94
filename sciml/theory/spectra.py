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

__all__ = ["Spectrum", "bandwidth", "peaks", "radial", "spectrum"]

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


def peaks(
    field: Field, domain: Domain, order: int = 0, level: float = 1e-3, limit: int = 2**21
) -> tuple[Tensor, Tensor]:
    """The waves a field is made of: peaks of its Fourier transform on a grid, tapered to zero at the boundary.

    A peak counts if it stands above what the taper spreads from higher ones; at levels of a few thousandths, what a
    wave between two grid points spreads may still be taken for waves.

    Args:
        field: maps points ``(n, d)`` to ``(n,)``.
        domain: where it lives, in two or three dimensions.
        order: divide amplitudes by ``k ** order``, see `Spectrum.bandwidth`.
        level: least amplitude relative to the largest.
        limit: largest number of grid points.

    Returns:
        Wavenumbers ``(m, d)``, one of k and -k, and their amplitudes ``(m,)``, highest first.

    >>> from sciml.domain import Ball
    >>> wave = lambda x: torch.cos(20 * x[:, 0] - 15 * x[:, 1])
    >>> k, a = peaks(wave, Ball([0, 0], 1), level=1e-2)
    >>> [round(float(v)) for v in k[0].abs()], len(k)
    ([20, 15], 1)
    """
    lower, upper = domain.bounds
    sides = upper - lower
    cells = 32
    while True:
        counts = (cells * sides / sides.max()).ceil().long().clamp_min(8).tolist()
        found, nyquist = _peaks_on(field, domain, counts, order, level)
        high = (found[0].abs() > 0.5 * nyquist).any(1)
        # a field that vanishes has no peaks
        resolved = not bool((found[1][high] > 3 * level * found[1].amax()).any()) if len(found[1]) else True
        if resolved or math.prod(counts) * 2**domain.dim > limit:
            return found
        cells *= 2


def _peaks_on(
    field: Field, domain: Domain, counts: list[int], order: int, level: float
) -> tuple[tuple[Tensor, Tensor], Tensor]:
    """Peaks on one grid, and its largest wavenumbers ``(d,)``."""
    lower, upper = domain.bounds
    d = domain.dim
    cells = [(torch.arange(n, dtype=torch.float64) + 0.5) / n for n in counts]
    x = lower + (upper - lower) * torch.cartesian_prod(*cells)
    depth = domain.level(x)
    inside = depth > 0
    s = (1 - depth[inside] / depth.max()).clamp(0, 1)
    taper, tapered = torch.zeros(len(x), dtype=torch.float64), torch.zeros(len(x), dtype=torch.float64)
    taper[inside] = torch.i0(_SHAPE * torch.sqrt(1 - s**2))
    values = torch.cat([torch.as_tensor(field(part)).detach() for part in x[inside].split(2**16)])
    tapered[inside] = taper[inside] * values
    padded = [2 * n for n in counts]
    whole = [torch.fft.fftn(t.reshape(counts), padded).abs() * (2 / taper.sum()) for t in (tapered, taper)]
    steps = 2 * math.pi / (2 * (upper - lower))
    grids = [torch.fft.fftfreq(n, 1 / n, dtype=torch.float64) * steps[i] for i, n in enumerate(padded)]
    height, lobe = whole
    k = torch.cartesian_prod(*grids)
    # local maxima, the transform continued periodically
    around = height[None, None]
    for axis in range(2, d + 2):
        around = torch.maximum(around, torch.maximum(around.roll(1, axis), around.roll(-1, axis)))
    # the lowest wave that vanishes at the ends of the box
    lowest = (math.pi / (upper - lower)).square().sum()
    weight = (1 + k.square().sum(1) / lowest) ** (-order / 2)
    unit = math.pi / float((upper - lower).max())
    height, lobe, top = height.reshape(-1), lobe.reshape(-1) / 2, height.reshape(-1) >= around.reshape(-1)
    height[0] /= 2  # the mean is one wave, any other two
    amplitude = height * weight
    first = k.gather(1, (k != 0).long().argmax(1, keepdim=True))[:, 0]
    spot = torch.nonzero(top & (first >= 0) & (amplitude > level * amplitude.max()))[:, 0]
    spot = spot[height[spot].argsort(descending=True)]
    # what the taper spreads to a distance or beyond, from the highest to the lowest peak
    bins = (torch.linalg.vector_norm(k, dim=1) / unit).long()
    spread = torch.zeros(int(bins.max()) + 1, dtype=torch.float64).scatter_reduce(0, bins, lobe, "amax")
    spread = spread.flip(0).cummax(0).values.flip(0)
    kept: list[int] = []
    for i in spot.tolist():
        if kept:
            others = torch.cat([k[kept], -k[kept]])
            distance = (torch.linalg.vector_norm(k[i] - others, dim=1) / unit).long().clamp_max(len(spread) - 1)
            if float(height[i]) < 1.5 * float((height[kept].repeat(2) * spread[distance]).max()):
                continue
        kept.append(i)
    chosen = torch.tensor(kept, dtype=torch.long)
    chosen = chosen[amplitude[chosen].argsort(descending=True)]
    return (k[chosen] + steps * _offsets(whole[0], chosen), amplitude[chosen]), steps * torch.tensor(counts)


def _offsets(height: Tensor, spots: Tensor) -> Tensor:
    """Where between grid points maxima lie, in steps, ``(m, d)``: parabolas through the logarithms of neighbours."""
    log = height.clamp_min(1e-300).log()
    places = torch.stack(torch.unravel_index(spots, height.shape), 1)
    shape = torch.tensor(height.shape)
    found = torch.zeros(places.shape, dtype=height.dtype)
    for axis in range(height.ndim):
        step = torch.zeros_like(places)
        step[:, axis] = 1
        before, here, after = (log[tuple(((places + t * step) % shape).T)] for t in (-1, 0, 1))
        found[:, axis] = 0.5 * (before - after) / (before - 2 * here + after).clamp_max(-1e-12)
    found[spots == 0] = 0.0
    return found.clamp(-0.5, 0.5)


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
