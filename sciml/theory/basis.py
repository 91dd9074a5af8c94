"""Bases in which a function's frequencies are read.

Wavenumbers are angular: sin(3 x) has wavenumber 3 on every domain. Spectra are computed in float64 on the CPU, whatever
the network's precision. A basis knows its points, so it is made once and reused at every measurement:

    basis = Sine([0.0], [1.0], 255)          # for u = 0 at both ends
    basis.analyse(u(basis.points))           # coefficients b_k of sum_k b_k sin(k pi x)
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
import scipy.fft
import torch
from numpy.typing import ArrayLike, NDArray
from scipy.spatial import cKDTree
from torch import Tensor

Array = NDArray[np.float64]

__all__ = [
    "Basis",
    "Cosine",
    "Fourier",
    "Scattered",
    "Sine",
    "along",
    "peaks",
    "principal_direction",
    "quadrature_weights",
]


class Basis(Protocol):
    """Functions with a wavenumber each, and the points where a Field is asked for its values.

    Attributes:
        points: ``(n, d)`` float64.
        wavenumbers: ``(k, d)``, angular.
        norms: ``(k,)``: sum(norms |c|^2) is the mean square of the sampled function (Parseval), where the basis is
            orthogonal at its points.
        limit: the largest wavenumber these points resolve (Nyquist).
    """

    @property
    def points(self) -> Tensor:
        """``(n, d)`` float64."""
        ...

    @property
    def wavenumbers(self) -> Array:
        """``(k, d)``, angular."""
        ...

    @property
    def norms(self) -> Array:
        """``(k,)``, Parseval's factors."""
        ...

    @property
    def limit(self) -> float:
        """Nyquist."""
        ...

    def analyse(self, values: ArrayLike) -> NDArray:
        """Coefficients ``(k,)`` of values ``(n,)``."""
        ...


def _outer(axes: Sequence[Array]) -> Array:
    return np.stack([m.ravel() for m in np.meshgrid(*axes, indexing="ij")], 1)


def _checked(values: ArrayLike, count: int) -> Array:
    v = np.asarray(values.detach().cpu() if isinstance(values, Tensor) else values, float)
    if v.shape != (count,):
        raise ValueError(f"values have shape {v.shape}, but the basis has ({count},) points")
    return v


@dataclass(frozen=True)
class _Grid:
    """A product of one-dimensional bases on a box; a kind of basis says what one axis looks like."""

    lower: ArrayLike
    upper: ArrayLike
    counts: int | Sequence[int]
    points: Tensor = field(init=False, repr=False)
    wavenumbers: Array = field(init=False, repr=False)
    norms: Array = field(init=False, repr=False)
    limit: float = field(init=False)
    shape: tuple[int, ...] = field(init=False)

    def __post_init__(self) -> None:
        """Lay out the grid."""
        a, b = (np.atleast_1d(np.asarray(c, float)) for c in (self.lower, self.upper))
        if a.shape != b.shape or a.ndim != 1 or not (b > a).all():
            raise ValueError(
                f"lower is {a.tolist()} and upper is {b.tolist()}, but every side of a box must be positive"
            )
        shape = (self.counts,) * len(a) if isinstance(self.counts, int) else tuple(self.counts)
        if len(shape) != len(a) or min(shape) < 4:
            raise ValueError(f"counts is {self.counts!r}, but needs at least 4 points along each of the {len(a)} axes")
        last = len(a) - 1
        places, waves, norms = zip(*[self._axis(n, i == last) for i, n in enumerate(shape)], strict=True)
        units = np.pi / (b - a)
        put = object.__setattr__.__get__(self)
        put("shape", shape)
        put("points", torch.as_tensor(a + _outer(places) * (b - a)))
        put("wavenumbers", _outer(waves) * units)
        put("norms", _outer(norms).prod(1))
        put("limit", float(min(u * n for u, n in zip(units, shape, strict=True))))

    def _axis(self, n: int, last: bool) -> tuple[Array, Array, Array]:
        """Points in [0, 1], wavenumbers in units of pi / side, and Parseval's factors."""
        raise TypeError(f"{type(self).__name__} does not say what one axis looks like")


@dataclass(frozen=True)
class Fourier(_Grid):
    """exp(i k x) on a regular grid of a periodic box (right ends are left out); half the modes, as fields are real.

    Attributes:
        lower: corner ``(d,)``.
        upper: corner ``(d,)``.
        counts: points along each axis, one number or one per axis.
    """

    def _axis(self, n: int, last: bool) -> tuple[Array, Array, Array]:
        modes: Array = np.asarray(np.fft.rfftfreq(n) * n if last else np.fft.fftfreq(n) * n, float)
        twice: Array = np.where((modes == 0) | (2 * modes == n), 1.0, 2.0) if last else np.ones(n)
        return np.arange(n) / n, 2 * modes, twice

    def analyse(self, values: ArrayLike) -> NDArray:
        """Coefficients of sum_k c_k exp(i k (x - lower)); the amplitude of a sine is 2 |c|."""
        v = _checked(values, len(self.points))
        return np.fft.rfftn(v.reshape(self.shape)).ravel() / len(v)


@dataclass(frozen=True)
class Sine(_Grid):
    """prod_i sin(k_i (x_i - lower_i)), k_i = pi m / side: eigenfunctions of the Laplacian with zero Dirichlet values.

    Attributes:
        lower: corner ``(d,)``.
        upper: corner ``(d,)``.
        counts: interior points along each axis.
    """

    def _axis(self, n: int, last: bool) -> tuple[Array, Array, Array]:
        # sum_j sin^2 = (n + 1) / 2, while the mean is over the n points
        return np.arange(1, n + 1) / (n + 1), np.arange(1.0, n + 1), np.full(n, (n + 1) / (2 * n))

    def analyse(self, values: ArrayLike) -> NDArray:
        """Coefficients b_k of sum_k b_k prod_i sin(k_i (x_i - lower_i))."""
        v = _checked(values, len(self.points)).reshape(self.shape)
        return scipy.fft.dstn(v, type=1).ravel() / math.prod(n + 1 for n in self.shape)


@dataclass(frozen=True)
class Cosine(_Grid):
    """prod_i cos(k_i (x_i - lower_i)), k_i = pi m / side: eigenfunctions of the Laplacian with zero Neumann values.

    Attributes:
        lower: corner ``(d,)``.
        upper: corner ``(d,)``.
        counts: cell midpoints along each axis.
    """

    def _axis(self, n: int, last: bool) -> tuple[Array, Array, Array]:
        modes = np.arange(float(n))
        return (modes + 0.5) / n, modes, np.where(modes == 0, 1.0, 0.5)

    def analyse(self, values: ArrayLike) -> NDArray:
        """Coefficients a_k of sum_k a_k prod_i cos(k_i (x_i - lower_i))."""
        v = _checked(values, len(self.points)).reshape(self.shape)
        # the transform counts constants twice, once per axis on which the mode is constant
        return scipy.fft.dctn(v, type=2).ravel() / v.size * 0.5 ** (self.wavenumbers == 0).sum(1)


@dataclass(frozen=True)
class Scattered:
    """exp(i k x) at any points: c_k = sum_j w_j u_j exp(-i k x_j), a direct non-uniform transform.

    Without quadrature weights c is the spectrum of the density of the points times u, not of u: give `weights` (see
    `quadrature_weights`) unless the points are uniform.

    Attributes:
        points: ``(n, d)``.
        wavenumbers: ``(k, d)``, angular; ``(k,)`` in one dimension.
        weights: ``(n,)``, None for equal ones; scaled to sum 1.

    Raises:
        ValueError: if there are fewer than two points per wavelength along a wavenumber's direction.
    """

    points: Tensor
    wavenumbers: Array
    weights: ArrayLike | None = None
    norms: Array = field(init=False, repr=False)
    limit: float = field(init=False)

    def __post_init__(self) -> None:
        """Check and build the transform."""
        put = object.__setattr__.__get__(self)
        x = np.asarray(torch.as_tensor(self.points).detach().cpu(), float)
        k = np.asarray(self.wavenumbers, float)
        k = k[:, None] if k.ndim == 1 and x.ndim == 2 and x.shape[1] == 1 else k
        if x.ndim != 2 or k.ndim != 2 or k.shape[1] != x.shape[1]:
            raise ValueError(f"points {x.shape} and wavenumbers {k.shape} must be (n, d) and (k, d) with the same d")
        if len(x) * len(k) > 10**8:
            raise ValueError(f"{len(x)} points times {len(k)} wavenumbers exceed 1e8: take fewer, or a regular grid")
        w = np.ones(len(x)) if self.weights is None else np.asarray(self.weights, float)
        if w.shape != (len(x),) or not w.sum() > 0:
            raise ValueError(f"weights have shape {w.shape}, but must be ({len(x)},) with a positive sum")
        sizes = np.linalg.norm(k, axis=1)
        units = k[sizes > 0] / sizes[sizes > 0, None]
        wavelengths = sizes[sizes > 0] * np.ptp(x @ units.T, axis=0) / (2 * np.pi)
        if len(wavelengths) and len(x) < 2 * wavelengths.max():
            raise ValueError(
                f"{len(x)} points cannot resolve wavenumber {sizes.max():.4g}: it has {wavelengths.max():.4g} periods "
                "across them, and each needs at least two points"
            )
        put("points", torch.as_tensor(x))
        put("wavenumbers", k)
        put("norms", np.where(sizes > 0, 2.0, 1.0))
        put("limit", math.pi * (len(x) ** (1 / x.shape[1])) / max(float(np.ptp(x, axis=0).max()), 1e-300))
        put("_transform", np.exp(-1j * (k @ x.T)) * (w / w.sum()))

    def analyse(self, values: ArrayLike) -> NDArray:
        """Coefficients of exp(i k x); the amplitude of a sine is 2 |c|."""
        return self._transform @ _checked(values, len(self.points))  # type: ignore[attr-defined]


def along(
    points: Tensor, direction: ArrayLike, wavenumbers: Sequence[float], weights: ArrayLike | None = None
) -> Scattered:
    """The frequencies of a function along one direction: wavenumbers k p for the unit vector p (arXiv:1901.06523).

    Args:
        points: ``(n, d)``.
        direction: p, ``(d,)``, any length; see `principal_direction`.
        wavenumbers: angular.
        weights: quadrature weights ``(n,)``.
    """
    p = np.asarray(direction, float)
    if p.ndim != 1 or not np.linalg.norm(p) > 0:
        raise ValueError(f"direction is {direction!r}, but must be a vector that is not zero")
    return Scattered(points, np.outer(np.asarray(wavenumbers, float), p / np.linalg.norm(p)), weights)


def principal_direction(points: Tensor) -> Array:
    """The unit vector ``(d,)`` along which the points vary most."""
    x = np.asarray(points, float)
    return np.linalg.svd(x - x.mean(0), full_matrices=False)[2][0]


def quadrature_weights(points: Tensor, fill: Tensor | None = None) -> Array:
    """The share of the domain that lies nearest to each point, ``(n,)``, sum 1.

    Args:
        points: ``(n, d)``.
        fill: many uniform points of the domain, ``domain.interior(100_000)``; None is for one dimension, where the
            cells between midpoints are exact.

    Raises:
        ValueError: without `fill` in two or more dimensions.
    """
    x = np.asarray(points, float)
    if fill is not None:
        counts = np.bincount(cKDTree(x).query(np.asarray(fill, float))[1], minlength=len(x))
        return counts / counts.sum()
    if x.shape[1] != 1:
        raise ValueError(f"points have {x.shape[1]} columns: give fill=domain.interior(100_000) for their cells")
    order = np.argsort(x[:, 0])
    cells = np.gradient(x[order, 0])
    cells[[0, -1]] /= 2
    weights = np.empty(len(x))
    weights[order] = cells
    return weights / weights.sum()


def peaks(amplitudes: ArrayLike, floor: float = 0.01) -> NDArray[np.int64]:
    """Indices of the local maxima of a one-dimensional spectrum that exceed `floor` times its maximum."""
    a = np.abs(np.asarray(amplitudes))
    padded = np.concatenate([[-1.0], a, [-1.0]])
    top = (a > padded[:-2]) & (a >= padded[2:]) & (a > floor * a.max())
    return np.flatnonzero(top)
