"""The empirical neural tangent kernel: which modes of the solution or of the residual a network learns, and how fast.

K = J J^T with J = d u(x_i) / d theta, or d (A u)(x_i) / d theta for an operator A such as the residual of an
equation. Under gradient descent with rate eta on sum_i r_i^2 / 2 the component of the residual along eigenvector i of
K shrinks by (1 - eta lambda_i) per step, so it is halved every ln 2 / (eta lambda_i) steps as long as K stays where
it is: `Kernel` reports the eigenvalues, the wavenumber of each eigenvector, and how far K has moved. `term_traces`
compares the kernels of the equation and of the boundary, whose traces suggest penalties (Wang, Yu and Perdikaris,
arXiv:2007.14527).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from scipy.stats import spearmanr
from torch import Tensor, nn

from sciml.theory.basis import Array, Basis
from sciml.theory.diagnostic import Diagnostic, Record, Schedule, State, log_spaced
from sciml.theory.functional import Operator, parameter_jacobian

__all__ = ["Kernel", "Spectrum", "kernel_spectrum", "ntk", "term_traces"]


def ntk(
    model: nn.Module, points: Tensor, operator: Operator | None = None, other: Tensor | None = None, chunk: int = 256
) -> Tensor:
    """K = J(points) J(other)^T, ``(n m, n' m)`` for m values per point.

    Args:
        model: in float64 if the small eigenvalues matter: float32 keeps about six digits of the largest one.
        points: ``(n, d)``.
        operator: what is differentiated, see `functional.parameter_jacobian`; None is the network's output.
        other: second set of points; None takes `points`.
        chunk: points differentiated at a time.
    """
    j = parameter_jacobian(model, points, operator, chunk)
    return j @ (j if other is None else parameter_jacobian(model, other, operator, chunk)).T


@dataclass(frozen=True)
class Spectrum:
    """Eigenvalues of a kernel and the wavenumbers of its eigenvectors.

    Attributes:
        values: ``(n,)`` descending.
        vectors: ``(n, n)``, column i belongs to value i.
        wavenumbers: ``(n,)`` dominant wavenumber of each eigenvector.
        resolution: the size below which eigenvalues are rounding noise.
    """

    values: Array
    vectors: Array
    wavenumbers: Array
    resolution: float

    @property
    def order(self) -> float:
        """Spearman correlation of wavenumber and rank of the eigenvalue: near 1, low frequencies are learned first.

        Only eigenvalues above the resolution count; nan if all their wavenumbers agree.
        """
        above = self.values > self.resolution
        k = self.wavenumbers[above]
        if above.sum() < 3 or (k == k[0]).all():
            return float("nan")
        return float(spearmanr(np.arange(len(k)), k).statistic)

    def steps(self, rate: float, factor: float = 0.1) -> Array:
        """Steps of gradient descent with learning rate `rate` on sum r^2 / 2 until each mode shrinks to `factor`.

        inf for modes below the resolution and for those that diverge, rate * value >= 2.
        """
        if not (rate > 0 and 0 < factor < 1):
            raise ValueError(f"rate is {rate} and factor is {factor}, but must be positive and between 0 and 1")
        speed = np.abs(1 - rate * np.maximum(self.values, 0))
        with np.errstate(divide="ignore"):
            needed = np.log(factor) / np.log(speed)
        return np.where((self.values > self.resolution) & (speed < 1), needed, np.inf)


def kernel_spectrum(kernel: Tensor, basis: Basis) -> Spectrum:
    """Eigendecomposition of a kernel on the points of a basis, with the wavenumber of each eigenvector.

    Args:
        kernel: symmetric ``(n, n)``, from `ntk` at ``basis.points``.
        basis: reads the frequencies.

    Raises:
        ValueError: if the kernel belongs to other points.
    """
    n = len(basis.points)
    if kernel.shape != (n, n):
        raise ValueError(f"the kernel is {tuple(kernel.shape)}, but the basis has {n} points and one value at each")
    k = kernel.detach().to("cpu")
    digits = torch.finfo(k.dtype).eps
    values, vectors = torch.linalg.eigh(0.5 * (k + k.T).double())
    values, vectors = values.flip(0).numpy(), vectors.flip(1).numpy()
    sizes = np.linalg.norm(basis.wavenumbers, axis=1)
    power = np.stack([basis.norms * np.abs(basis.analyse(v)) ** 2 for v in vectors.T])
    return Spectrum(values, vectors, sizes[power.argmax(1)], float(n * digits * np.abs(values).max()))


def term_traces(model: nn.Module, terms: Mapping[str, tuple[Operator | None, Tensor]]) -> dict[str, dict[str, float]]:
    """The mean speed at which each group of residuals is learned, and weights that would make them equal.

    Args:
        model: the network.
        terms: by name an operator (None for the value) and the points where it is trained, for example
            ``{"equation": (residual, interior), "boundary": (None, edge)}``.

    Returns:
        By name "trace" of K / number of rows, and "weight", sum of all traces / own trace (arXiv:2007.14527).
    """
    traces = {}
    for name, (operator, points) in terms.items():
        j = parameter_jacobian(model, points, operator)
        traces[name] = float(j.square().sum() / len(j))
    total = sum(traces.values())
    return {k: {"trace": t, "weight": total / t if t > 0 else float("inf")} for k, t in traces.items()}


class Kernel(Diagnostic):
    """Eigenvalues of the tangent kernel, the wavenumbers of its eigenvectors, and how far it has moved.

    Recorded: "eigenvalues" (descending), "wavenumbers" of their eigenvectors, "order" (their rank correlation, see
    `Spectrum.order`), "condition" (largest over smallest eigenvalue above rounding), "steps" that each mode needs to
    shrink tenfold at `rate`, and "change", |K - K_0| / |K_0| since the first record: small means that training is
    linear (the kernel regime) and the predicted steps can be believed.

    Args:
        basis: brings the points, at most 1024 (the work is points times parameters).
        operator: whose kernel; None is the network's output. The output has one value per point.
        rate: learning rate of the gradient descent that "steps" counts, on the loss sum r^2 / 2.
        schedule: see `Diagnostic`; a kernel costs one backward pass per point, so the default records 3 per decade.
        name: see `Diagnostic`.
    """

    name = "kernel"

    def __init__(
        self,
        basis: Basis,
        operator: Operator | None = None,
        rate: float = 1e-3,
        schedule: Schedule | None = None,
        name: str | None = None,
    ) -> None:
        super().__init__(log_spaced(3) if schedule is None else schedule, name)
        if len(basis.points) > 1024:
            raise ValueError(f"the basis has {len(basis.points)} points, but a kernel takes at most 1024")
        self.basis, self.operator, self.rate = basis, operator, rate
        self._first: Tensor | None = None
        self._latest: Tensor | None = None

    def observe(self, state: State) -> Record:
        """Spectrum and change of the kernel."""
        first = next(state.module.parameters())
        k = ntk(state.module, self.basis.points.to(first.device, first.dtype), self.operator)
        self._latest = k
        s = kernel_spectrum(k, self.basis)
        start = k if self._first is None else self._first
        good = s.values[s.values > s.resolution]
        return {
            "eigenvalues": s.values,
            "wavenumbers": s.wavenumbers,
            "order": s.order,
            "condition": float(good[0] / good[-1]) if len(good) else float("inf"),
            "steps": s.steps(self.rate),
            "change": float((k - start).norm() / start.norm().clamp_min(1e-300)),
        }

    def record(self, subject: Any) -> Record:
        """Measure, keep the result, and remember the first kernel for "change"."""
        measured = super().record(subject)
        self._first = self._latest if self._first is None else self._first
        return measured

    def draw(self, figure: Any, records: Sequence[Record]) -> None:
        """Eigenvalue against wavenumber at the first and the last record; the change over the steps."""
        left, right = figure.subplots(1, 2)
        for row in (records[0], records[-1]):
            k, values = row[f"{self.name}.wavenumbers"], row[f"{self.name}.eigenvalues"]
            left.plot(k, values, ".", label=f"step {row['step']}")
        left.set(yscale="log", xlabel="wavenumber of the eigenvector", ylabel="eigenvalue")
        left.legend()
        steps, change = self.series("change", records)
        right.plot(steps + 1, change, "o-", markersize=3)
        right.set(xscale="log", xlabel="step + 1", ylabel="relative change of the kernel")
