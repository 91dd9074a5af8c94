"""The linear frequency principle: what a wide two-layer network interpolates as, and which frequencies it learns when.

In the kernel regime, with zero initial output, a wide network h = sum_i a_i s(w_i . x + b_i) with broadly spread biases
learns data y_i at points x_i by (arXiv:1905.10264, arXiv:2010.08153)

    d h^(xi) / dt = -gamma^2(xi) (h_rho - y_rho)^(xi),      ( . )_rho = (1/n) sum_i ( . ) delta(x - x_i),

and in the long run minimises the FP-norm int |h^|^2 / gamma^2 among all functions through the data. With r = |w|,

    relu   gamma^2 = E[ r^3 / (16 pi^4 |xi|^(d+3)) + a^2 r / (4 pi^2 |xi|^(d+1)) ]
    tanh   gamma^2 = E[ (pi^2 / r) csch^2(pi^2 |xi| / r) (1 + 4 pi^2 a^2 |xi|^2 / r^2) ] / |xi|^(d-1)

(xi in cycles per unit length; the constant in front only sets the unit of time). The first term comes from training
a, the second from training b. In one dimension |xi|^-2 alone interpolates by a piecewise linear function, |xi|^-4
alone by the natural cubic spline. `FourierVariational` is the minimiser for the weights <xi>^alpha
(arXiv:2105.11675): it exists for alpha > d only; below, the solution collapses to zero with spikes at the data as the
frequency cut grows.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike
from scipy.special import j0
from torch import Tensor, nn

from sciml.theory.basis import Array

Decay = Callable[[Array], Array]

__all__ = ["LFP", "FourierVariational", "Predictor", "power_decay", "relu_decay", "tanh_decay", "two_layer"]


def power_decay(exponent: float) -> Decay:
    """gamma^2 = |xi|^-exponent."""
    return lambda xi: np.asarray(xi, float) ** -exponent


def relu_decay(a: ArrayLike, r: ArrayLike, dim: int = 1) -> Decay:
    """gamma^2(|xi|) of a ReLU network from samples of its output weights `a` and inner weight norms `r`."""
    a, r = np.asarray(a, float), np.asarray(r, float)
    first = float((r**3).mean()) / (16 * np.pi**4)
    second = float((a**2 * r).mean()) / (4 * np.pi**2)
    return lambda xi: first * np.asarray(xi, float) ** -(dim + 3) + second * np.asarray(xi, float) ** -(dim + 1)


def tanh_decay(a: ArrayLike, r: ArrayLike, dim: int = 1) -> Decay:
    """gamma^2(|xi|) of a tanh network from samples of its output weights `a` and inner weight norms `r`."""
    a, r = np.atleast_1d(np.asarray(a, float)), np.atleast_1d(np.asarray(r, float))
    a, r = a[r > 0], r[r > 0]

    def decay(xi: Array) -> Array:
        xi = np.asarray(xi, float)
        total = np.zeros(xi.shape)
        for begin in range(0, len(r), 256):
            ra, aa = r[begin : begin + 256], a[begin : begin + 256]
            z = np.minimum(np.pi**2 * xi[..., None] / ra, 350.0)  # csch^2 underflows to 1e-303, never to 0/0
            total += (np.pi**2 / ra / np.sinh(z) ** 2 * (1 + 4 * np.pi**2 * aa**2 * (xi[..., None] / ra) ** 2)).sum(-1)
        return total / len(r) / xi ** (dim - 1)

    return decay


def two_layer(network: nn.Module) -> tuple[Array, Array]:
    """Samples (a, r) of a two-layer network: output weights and norms of the inner weights, one per neuron.

    They are taken as they are: the factor of the width that standard parametrisations carry only sets the unit of time.

    Raises:
        ValueError: if the network has not exactly two `torch.nn.Linear` layers and one output.
    """
    linear = [m for m in network.modules() if isinstance(m, nn.Linear)]
    if len(linear) != 2 or linear[1].out_features != 1 or linear[1].in_features != linear[0].out_features:
        raise ValueError(
            f"the network has {len(linear)} torch.nn.Linear layers, but the linear frequency principle describes one "
            "hidden layer and one output; give samples of a and r instead"
        )
    with torch.no_grad():
        a, r = linear[1].weight[0].double().cpu().numpy(), linear[0].weight.double().norm(dim=1).cpu().numpy()
    return a, r


@dataclass(frozen=True)
class Predictor:
    """A function h(x) = sum_i c_i K(x, x_i) + constant; a Field.

    Attributes:
        points: data points ``(n, d)``.
        coefficients: c ``(n,)``, sum 0 where the constant is free.
        constant: added to it.
        kernel: ``(x (n, d), y (m, d)) -> (n, m)``.
    """

    points: Array
    coefficients: Array
    constant: float
    kernel: Callable[[Array, Array], Array]

    def __call__(self, x: Any) -> Any:
        """Values ``(n,)``; numpy in, numpy out, tensor in, tensor out."""
        at = np.asarray(x.detach().cpu() if isinstance(x, Tensor) else x, float)
        values = self.kernel(at, self.points) @ self.coefficients + self.constant
        return torch.as_tensor(values) if isinstance(x, Tensor) else values


def _data(points: Any, values: Any, dims: Sequence[int]) -> tuple[Array, Array]:
    x, y = np.asarray(points, float), np.asarray(values, float)
    if x.ndim != 2 or x.shape[1] not in dims or y.shape != (len(x),):
        accepted = " or ".join(map(str, dims))
        raise ValueError(f"points are {x.shape} and values {y.shape}, but must be (n, d) and (n,), d = {accepted}")
    if len(np.unique(x, axis=0)) != len(x):
        raise ValueError("two of the points are equal, but data to interpolate need different points")
    return x, y


@dataclass(frozen=True)
class LFP:
    """Predicts the training of a wide two-layer network in one or two dimensions, without training it.

    The frequencies are those of a periodic box that is `box` times larger than the data; the constant (xi = 0), which
    gamma does not penalise, is free.

    Attributes:
        decay: gamma^2 as a function of |xi|: `relu_decay`, `tanh_decay`, `power_decay` or your own.
        modes: frequencies along each axis; None takes 20000 in one dimension and 200 in two.
        box: side of the periodic box in units of the data's extent.
        ridge: relative regularisation of the linear system.

    >>> x, y = np.array([[-0.8], [-0.3], [0.1]]), np.array([0.25, -0.07, 0.2])
    >>> h = LFP(power_decay(2.0)).solve(x, y)
    >>> float(np.abs(h(x) - y).max()) < 1e-6
    True
    """

    decay: Decay
    modes: int | None = None
    box: float = 20.0
    ridge: float = 1e-14

    def __post_init__(self) -> None:
        """Check the numbers."""
        if not (self.box >= 2 and self.ridge >= 0 and (self.modes is None or self.modes >= 8)):
            raise ValueError(
                f"box is {self.box}, ridge {self.ridge} and modes {self.modes}, but must be at least 2, 0 and 8"
            )

    @classmethod
    def of(cls, network: nn.Module, activation: Callable[..., Decay] = relu_decay, **options: Any) -> LFP:
        """From the parameters of a two-layer network, `relu_decay` or `tanh_decay` according to its activation."""
        a, r = two_layer(network)
        dim = next(m for m in network.modules() if isinstance(m, nn.Linear)).in_features
        return cls(activation(a, r, dim), **options)

    def solve(self, points: ArrayLike, values: ArrayLike) -> Predictor:
        """What the network becomes after infinitely long training.

        Args:
            points: ``(n, d)``, d = 1 or 2.
            values: ``(n,)``.
        """
        return self.trajectory(points, values, np.inf)

    def trajectory(self, points: ArrayLike, values: ArrayLike, time: float) -> Predictor:
        """What the network is at `time` of gradient flow on the mean square of h - y, starting from zero.

        The free constant is learned at once: gamma is infinite there.

        Args:
            points: ``(n, d)``, d = 1 or 2.
            values: ``(n,)``.
            time: >= 0, in the unit that the constant in front of gamma^2 sets; inf is the end of training.
        """
        if not time >= 0:
            raise ValueError(f"time is {time}, but must be >= 0")
        x, y = _data(points, values, (1, 2))
        kernel = self.kernel(x)
        k = kernel(x, x)
        n = len(y)
        centre = np.eye(n) - 1 / n
        speeds, vectors = np.linalg.eigh(centre @ k @ centre)
        floor = max(self.ridge, 1e-15) * max(float(speeds[-1]), 1e-300)
        # the constant vector is the eigenvector that `centre` removes
        keep = (speeds > floor) & (np.abs(vectors.sum(0)) < 0.5 * n**0.5)
        speeds, vectors = speeds[keep], vectors[:, keep]
        c = vectors @ (-np.expm1(-speeds * time / n) / speeds * (vectors.T @ y))
        return Predictor(x, c, float((y - k @ c).mean()), kernel)

    def kernel(self, points: Array) -> Callable[[Array, Array], Array]:
        """K(x, y) = sum_xi gamma^2(xi) cos(2 pi xi (x - y)) over the box around `points`, without its constant."""
        d = points.shape[1]
        side = self.box * max(float(np.ptp(points, axis=0).max()), 1e-300)
        count = self.modes or {1: 20000, 2: 200}[d]
        axis = np.arange(1, count + 1) / side
        if d == 1:
            xi, twice = axis[:, None], np.full(count, 2.0)
        else:
            both = np.concatenate([-axis[::-1], [0.0], axis])
            # a half plane: cosines of xi and of -xi are equal
            grid = np.stack([m.ravel() for m in np.meshgrid(both, np.append(0.0, axis), indexing="ij")], 1)
            xi = grid[(grid[:, 1] > 0) | (grid[:, 0] > 0)]
            twice = np.full(len(xi), 2.0)
        weights = twice * self.decay(np.linalg.norm(xi, axis=1)) / side**d
        live = weights > 1e-18 * weights.max()
        xi, weights = xi[live], weights[live]

        def kernel(a: Array, b: Array) -> Array:
            out = np.zeros((len(a), len(b)))
            step = max(1, 2_000_000 // max(len(a), len(b)))
            for begin in range(0, len(xi), step):
                part, w = xi[begin : begin + step], weights[begin : begin + step]
                pa, pb = (np.exp(2j * np.pi * (z @ part.T)) for z in (a, b))
                out += ((pa * w) @ pb.conj().T).real
            return out

        return kernel

    def fp_norm(self, frequencies: ArrayLike, transform: ArrayLike) -> float:
        """(sum |f^|^2 / gamma^2)^(1/2) over given frequencies; small norms generalise well, zero frequency is free.

        Args:
            frequencies: ``(k,)`` sizes |xi|, or ``(k, d)``.
            transform: f^ there, ``(k,)``.
        """
        xi = np.asarray(frequencies, float)
        sizes = np.abs(xi) if xi.ndim == 1 else np.linalg.norm(xi, axis=1)
        f = np.asarray(transform)
        if f.shape != sizes.shape:
            raise ValueError(f"transform has shape {f.shape}, but there are {len(sizes)} frequencies")
        live = sizes > 0
        with np.errstate(divide="ignore"):
            return float((np.abs(f[live]) ** 2 / self.decay(sizes[live])).sum() ** 0.5)


@dataclass(frozen=True)
class FourierVariational:
    """Minimises int_{|xi| <= cut} (1 + |xi|^2)^(alpha/2) |h^|^2 over functions through the data (arXiv:2105.11675).

    As the cut grows the minimiser converges if alpha > d, and tends to zero away from the data if alpha < d (no regular
    function is the limit). `exists` says which.

    Attributes:
        alpha: decay exponent.
        cut: the largest frequency, in cycles per unit length.
        per_unit: quadrature panels per unit of frequency, eight Gauss points each; resolves distances up to about
            ``2 * per_unit``.
    """

    alpha: float
    cut: float = 1000.0
    per_unit: int = 2

    def __post_init__(self) -> None:
        """Check the numbers."""
        if not (self.cut > 0 and self.per_unit >= 1):
            raise ValueError(f"cut is {self.cut} and per_unit {self.per_unit}, but must be positive and at least 1")

    def exists(self, dim: int = 1) -> bool:
        """Whether there is a minimiser without a cut: alpha > d."""
        return self.alpha > dim

    def interpolate(self, points: ArrayLike, values: ArrayLike) -> Predictor:
        """The minimiser.

        Args:
            points: ``(n, d)``, d = 1 or 2.
            values: ``(n,)``.
        """
        x, y = _data(points, values, (1, 2))
        extent = float(np.ptp(x, axis=0).max())
        resolved = 2 * self.per_unit
        if extent > resolved:
            raise ValueError(f"the data extend over {extent:g}, but per_unit={self.per_unit} resolves {resolved}")
        k = self.kernel(x, x)
        return Predictor(x, np.asarray(np.linalg.solve(k, y), float), 0.0, self.kernel)

    def kernel(self, a: Array, b: Array) -> Array:
        """K(x - y) = int_{|xi| <= cut} (1 + |xi|^2)^(-alpha/2) exp(2 pi i xi (x - y)) d xi."""
        distances = np.linalg.norm(a[:, None] - b[None], axis=2)
        unique, where = np.unique(distances, return_inverse=True)
        nodes, gauss = np.polynomial.legendre.leggauss(8)
        panels = int(np.ceil(self.cut * self.per_unit))
        width = self.cut / panels
        values = np.zeros(len(unique))
        for begin in range(0, panels, 4096):
            left = np.arange(begin, min(begin + 4096, panels)) * width
            xi = (left[:, None] + width * (nodes + 1) / 2).ravel()
            w = np.tile(gauss * width / 2, len(left)) * (1 + xi * xi) ** (-self.alpha / 2)
            phase = 2 * np.pi * np.outer(unique, xi)
            values += (2 * np.cos(phase)) @ w if a.shape[1] == 1 else j0(phase) @ (w * 2 * np.pi * xi)
        return values[where].reshape(distances.shape)
