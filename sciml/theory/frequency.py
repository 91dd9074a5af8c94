"""Which frequencies a network has learned, is learning, and how long the others would take.

Networks learn low frequencies first (arXiv:1807.01251, arXiv:1901.06523, arXiv:2101.00747), Jacobi iterations high
ones. `FrequencyProbe` follows the error per wavenumber through a training run or, where no reference is known, the
residual and the change of the solution.

Relative error at wavenumber k (or over a shell of them): Delta_F(k) = |h_k - f_k| / |f_k|; T_k is the first recorded
step after which Delta_F(k) stays below a tolerance, and the F-principle score is Spearman's rank correlation of k and
T_k. Relatives: `terms.FrequencyPreference`, `filters.FilterProbe`, `filters.DeepFrequency`, `aliasing.AliasAlarm`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.stats import spearmanr
from torch import Tensor

from sciml.calculus import Field
from sciml.theory.basis import Array, Basis, Cosine, Fourier, Sine, peaks
from sciml.theory.diagnostic import Diagnostic, Record, Schedule, State
from sciml.theory.functional import Operator, sample

__all__ = [
    "FrequencyProbe",
    "Groups",
    "convergence_times",
    "f_principle_score",
    "jacobi_damping",
]


def convergence_times(steps: ArrayLike, errors: ArrayLike, tolerance: float = 0.1) -> Array:
    """T_k: the first step after which each error stays below `tolerance`, inf where there is none.

    Args:
        steps: ``(t,)``.
        errors: ``(t, k)``.
        tolerance: of the relative error.

    >>> convergence_times([0, 10, 20], [[0.05, 1.0], [0.2, 0.5], [0.01, 0.2]]).tolist()
    [20.0, inf]
    """
    s, e = np.asarray(steps, float), np.asarray(errors, float)
    if e.ndim != 2 or s.shape != e.shape[:1]:
        raise ValueError(f"errors have shape {e.shape}, but must be ({len(s)}, k), one row per step")
    above = ~(e < tolerance)  # nan is not learned
    last = np.where(above.any(0), len(s) - 1 - above[::-1].argmax(0), -1)
    return np.append(s, np.inf)[last + 1]


def f_principle_score(wavenumbers: ArrayLike, times: ArrayLike) -> float:
    """Spearman's rank correlation of wavenumber and convergence time: 1 is low to high, -1 is high to low.

    Wavenumbers that never converged count as slowest; nan if all times agree.
    """
    k, t = np.asarray(wavenumbers, float), np.asarray(times, float)
    if len(k) < 3:
        raise ValueError(f"a score needs at least 3 wavenumbers, but {len(k)} were given")
    ranked = np.where(np.isfinite(t), t, np.finfo(float).max)
    return float("nan") if (ranked == ranked[0]).all() else float(spearmanr(k, ranked).statistic)


def jacobi_damping(mode: int, cells: int, sweeps: int = 1) -> float:
    """cos(mode pi / cells)^sweeps: what Jacobi sweeps leave of the error sin(mode pi j / cells) of -u'' = g.

    Args:
        mode: 1 to cells - 1.
        cells: of the grid, one more than its interior points.
        sweeps: number of iterations.
    """
    if not 1 <= mode < cells:
        raise ValueError(f"mode is {mode}, but a grid of {cells} cells has the modes 1 to {cells - 1}")
    return float(np.cos(mode * np.pi / cells) ** sweeps)


class Groups:
    """Which modes are followed together: chosen wavenumbers, the peaks of a reference, or shells of equal |k|.

    Args:
        basis: whose modes.
        wavenumbers: see `FrequencyProbe`.
        shells: see `FrequencyProbe`.
        values: of the reference at the points of the basis, or None.
    """

    def __init__(self, basis: Basis, wavenumbers: Sequence[float] | None, shells: int | None, values: Any) -> None:
        sizes = np.linalg.norm(basis.wavenumbers, axis=1)
        one = basis.wavenumbers.shape[1] == 1
        if wavenumbers is not None and shells is not None:
            raise ValueError("wavenumbers and shells are both given, but modes are followed one by one or in shells")
        if wavenumbers is not None:
            self.members = [_nearest(sizes, k, basis.limit) for k in wavenumbers]
        elif shells is None and one and values is not None:
            self.members = [np.array([i]) for i in _lines(np.abs(basis.analyse(values)), sizes)]
        elif shells is None and one and len(sizes) <= 128:
            self.members = [np.array([i]) for i in range(len(sizes))]
        else:
            self.members = _shells(sizes, basis.limit, 16 if shells is None else shells)
        weights = np.sqrt(basis.norms)
        self.weights = weights
        self.wavenumbers = np.array([sizes[m].mean() for m in self.members])

    def amplitudes(self, coefficients: NDArray) -> Array:
        """Root-mean-square value of the part of a function in each group."""
        power = np.abs(self.weights * coefficients) ** 2
        return np.array([power[m].sum() for m in self.members]) ** 0.5


def _lines(amplitudes: Array, sizes: Array) -> NDArray[np.int64]:
    """The peaks of a spectrum; of one with fewer than three, its eight largest modes."""
    found = peaks(np.where(sizes > 0, amplitudes, 0.0))
    if len(found) >= 3:
        return found
    largest = np.sort(np.argsort(np.where(sizes > 0, amplitudes, 0.0))[-8:])
    return largest[amplitudes[largest] > 0.01 * amplitudes[largest].max()]


def _nearest(sizes: Array, k: float, limit: float) -> NDArray[np.int64]:
    if not 0 <= k <= limit * (1 + 1e-9):
        raise ValueError(
            f"wavenumber {k:g} was asked for, but the points resolve only up to {limit:.6g}: use more points"
        )
    gaps = np.abs(sizes - k)
    near = np.flatnonzero(gaps <= gaps.min() + 1e-9)
    if gaps.min() > 0.25 * np.median(np.diff(np.unique(np.round(sizes, 9)))):
        raise ValueError(f"wavenumber {k:g} was asked for, but the basis has none nearer than {sizes[near[0]]:.6g}")
    return near


def _shells(sizes: Array, limit: float, count: int) -> list[NDArray[np.int64]]:
    if count < 1:
        raise ValueError(f"shells is {count}, but must be a whole number >= 1")
    edges = np.linspace(0, limit * (1 + 1e-9), count + 1)
    found = [np.flatnonzero((sizes >= a) & (sizes < b)) for a, b in zip(edges[:-1], edges[1:], strict=True)]
    return [f for f in found if len(f)]


def _check_resolved(basis: Basis, reference: Field, component: int) -> None:
    """Refuse a reference whose high wavenumbers the points would show as low ones; a finer grid tells."""
    if not isinstance(basis, (Cosine, Fourier, Sine)):
        return
    finer = type(basis)(basis.lower, basis.upper, tuple(2 * n + 3 for n in basis.shape))
    power = finer.norms * np.abs(finer.analyse(sample(reference, finer.points, component))) ** 2
    limits = np.array([np.abs(k).max() for k in basis.wavenumbers.T])
    above = (np.abs(finer.wavenumbers) > limits * (1 + 1e-9)).any(1)
    share = float(power[above].sum() / max(power.sum(), 1e-300))
    if share > 0.1:
        raise ValueError(
            f"{share:.0%} of the reference's energy lies above wavenumber {limits.min():.4g}, the largest that "
            f"{' x '.join(map(str, basis.shape))} points resolve, and would be taken for low ones: use more points"
        )


class FrequencyProbe(Diagnostic):
    """The spectrum of a solution and of its error, residual and progress, live and afterwards.

    Recorded per group of modes (see `wavenumbers`): "spectrum" of the field; with a reference "error" (relative,
    Delta_F) and "error_spectrum" (absolute); with an operator "residual"; without a reference "change" since the last
    record. Also "high", the fraction of the energy above half the largest resolved wavenumber: when it is not small,
    the points are too few for this function and every number here is doubtful.

    Args:
        basis: `Sine`, `Cosine`, `Fourier`, `Scattered` or your own; it brings the points.
        reference: the exact solution as a Field, or its values ``(n,)`` at ``basis.points``; None if unknown.
        residual: ``(field, points) -> (n,)``, the residual of the equation; None leaves it out.
        wavenumbers: follow these modes only; None follows the peaks of the reference in one dimension (its largest
            eight modes if it has fewer than three), all modes without a reference if they are at most 128, else shells.
        shells: follow this many shells of equal |k|.
        component: of a vector field.
        schedule: see `Diagnostic`.
        name: see `Diagnostic`.

    Raises:
        ValueError: if the points are too few for a wavenumber that was asked for, or for the reference (where it can be
            asked between them: a tenth of its energy lies above what they resolve), or the reference is zero.

    Attributes:
        k: ``(groups,)`` mean wavenumber of each group, angular.

    >>> from sciml.theory.basis import Fourier
    >>> import torch
    >>> two = lambda x: torch.sin(x[:, 0]) + torch.sin(3 * x[:, 0])
    >>> probe = FrequencyProbe(Fourier([0.0], [2 * np.pi], 64), reference=two)
    >>> [round(e, 6) for e in probe.measure(lambda x: torch.sin(x[:, 0]))["error"]]
    [0.0, 1.0]
    """

    name = "frequency"

    def __init__(
        self,
        basis: Basis,
        reference: Field | ArrayLike | None = None,
        residual: Operator | None = None,
        wavenumbers: Sequence[float] | None = None,
        shells: int | None = None,
        component: int = 0,
        schedule: Schedule | None = None,
        name: str | None = None,
    ) -> None:
        super().__init__(schedule, name)
        self.basis, self.residual, self.component = basis, residual, component
        values = reference
        if callable(reference) and not isinstance(reference, Tensor):
            values = sample(reference, basis.points, component)
            _check_resolved(basis, reference, component)
        self._groups = Groups(basis, wavenumbers, shells, values)
        self._target = None if values is None else basis.analyse(values)  # type: ignore[arg-type]
        if self._target is not None and not np.abs(self._target).max() > 0:
            raise ValueError("the reference is zero at every point, so relative errors mean nothing; leave it out")
        self._latest: NDArray | None = None
        self._before: NDArray | None = None
        self.k = self._groups.wavenumbers

    def observe(self, state: State) -> Record:
        """Spectra by group of modes."""
        c = self.basis.analyse(sample(state.model, self.basis.points, self.component))
        self._latest = c
        measured: Record = {"k": self.k, "spectrum": self._groups.amplitudes(c), "high": self._high(c)}
        if self._target is not None:
            error = self._groups.amplitudes(c - self._target)
            measured["error_spectrum"] = error
            measured["error"] = error / np.maximum(self._groups.amplitudes(self._target), 1e-300)
        elif self._before is not None:
            measured["change"] = self._groups.amplitudes(c - self._before)
        if self.residual is not None:
            r = sample(state.model, self.basis.points, self.component, self.residual)
            measured["residual"] = self._groups.amplitudes(self.basis.analyse(r))
        return measured

    def record(self, subject: Any) -> Record:
        """Measure, keep the result, and remember the spectrum for the next "change"."""
        measured = super().record(subject)
        self._before = self._latest
        return measured

    def _high(self, c: NDArray) -> float:
        power = self.basis.norms * np.abs(c) ** 2
        above = np.linalg.norm(self.basis.wavenumbers, axis=1) > self.basis.limit / 2
        return float(power[above].sum() / max(power.sum(), 1e-300))

    def times(self, tolerance: float = 0.1, records: Sequence[Record] | None = None) -> Array:
        """T_k of every group, ``(groups,)``; see `convergence_times`."""
        return convergence_times(*self.series("error", records), tolerance)

    def score(self, tolerance: float = 0.1, records: Sequence[Record] | None = None) -> float:
        """The F-principle score of the run; see `f_principle_score`."""
        return f_principle_score(self.k, self.times(tolerance, records))

    def outlook(self, tolerance: float = 0.1, records: Sequence[Record] | None = None) -> list[dict[str, Any]]:
        """Per wavenumber: the last error, whether it is learned, its decay, and the steps it would still take.

        The decay is the slope of log10(error) against log10(step) over the last half decade of records. A wavenumber
        that is not learned and does not decay asks for another architecture (larger scales, a smoother such as Jacobi
        or multigrid after the network), not for more steps: "steps" is inf.
        """
        steps, errors = self.series("error", records)
        recent = steps >= max(steps[-1] / 3.2, 1)
        if recent.sum() < 3:
            raise ValueError(
                f"an outlook needs 3 records in the last half decade of steps, but there are {recent.sum()}"
            )
        x = np.log10(steps[recent])
        slopes = np.polyfit(x, np.log10(np.maximum(errors[recent], 1e-300)), 1)[0]
        rows = []
        for k, last, slope in zip(self.k, errors[-1], slopes, strict=True):
            needed = float(steps[-1]) if last < tolerance else float("inf")
            if last >= tolerance and slope < -0.05:
                needed = float(steps[-1] * min((last / tolerance) ** (-1 / slope), 1e300))
            known = {"k": float(k), "error": float(last), "learned": bool(last < tolerance)}
            rows.append({**known, "decay": float(slope), "steps": needed})
        return rows

    def draw(self, figure: Any, records: Sequence[Record]) -> None:
        """A heat map of the error (or residual, or change) over step and wavenumber, and the last spectrum."""
        keys = [k for k in ("error", "residual", "change") if any(f"{self.name}.{k}" in r for r in records)]
        if not keys:
            raise ValueError(f"{self.name} has recorded nothing that can be drawn over steps")
        left, right = figure.subplots(1, 2)
        steps, values = self.series(keys[0], records)
        logs = np.log10(np.maximum(values, 1e-16)).T
        image = left.pcolormesh(steps + 1, np.arange(len(self.k) + 1), logs[:, :-1], cmap="viridis", vmax=0.5)
        left.set(xscale="log", xlabel="step + 1", ylabel="wavenumber", title=f"log10 {keys[0]}")
        shown = np.unique(np.linspace(0, len(self.k) - 1, min(len(self.k), 9)).astype(int))
        left.set_yticks(shown + 0.5, [f"{self.k[i]:.3g}" for i in shown])
        figure.colorbar(image, ax=left)
        last = records[-1]
        for key in ("spectrum", "error_spectrum", "residual"):
            if f"{self.name}.{key}" in last:
                right.plot(self.k, last[f"{self.name}.{key}"], "o-", markersize=3, label=key.replace("_", " "))
        right.set(yscale="log", xlabel="wavenumber", title=f"step {last['step']}")
        right.legend()
