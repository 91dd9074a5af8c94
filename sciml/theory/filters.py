"""Low and high frequencies of scattered data in any dimension, by Gaussian filters in place of a Fourier basis.

`FilterProbe` follows the errors of the two parts through training (arXiv:1901.06523). `DeepFrequency` asks what is
left to learn after each layer (arXiv:2007.14313): seen from layer l, the data are (h_l(x_i), y_i), and the
frequencies of that map are read from the low-frequency ratio

    LFR(delta) = sum_i |y_low,i|^2 / sum_i |y_i|^2,    filtered with variance delta in the space of h_l.

Its derivative in 1/delta is the ratio density function RDF; the more of it lies at small 1/delta, the lower the
frequencies.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor, nn

from sciml.calculus import Field
from sciml.theory.basis import Array
from sciml.theory.chains import chains
from sciml.theory.diagnostic import Diagnostic, Record, Schedule, State
from sciml.theory.functional import sample

Features = Callable[[nn.Module, Tensor], Sequence[Tensor]]

__all__ = ["DeepFrequency", "FilterProbe", "filter_split", "layer_inputs", "low_frequency_ratio"]


def filter_split(points: ArrayLike, values: ArrayLike, delta: float) -> tuple[Array, Array]:
    """The low- and the high-frequency part of scattered values, in any dimension (arXiv:1901.06523).

    y_low,i = sum_j y_j G(x_i - x_j) / sum_j G(x_i - x_j), G(x) = exp(-|x|^2 / (2 delta)); y_high = y - y_low.

    Args:
        points: ``(n, d)``, n at most 8192 (the work is n^2).
        values: ``(n,)`` or ``(n, m)``.
        delta: the filter's variance in space: wavenumbers well below 1 / sqrt(delta) are low.
    """
    x, y = np.asarray(points, float), np.asarray(values, float)
    if not delta > 0:
        raise ValueError(f"delta is {delta}, but must be positive")
    if len(x) > 8192:
        raise ValueError(f"{len(x)} points were given, but a dense filter takes at most 8192: take a subset")
    square = (x * x).sum(1)
    g = np.exp(-np.maximum(square[:, None] + square - 2 * x @ x.T, 0) / (2 * delta))
    low = (g @ y) / (g.sum(1) if y.ndim == 1 else g.sum(1, keepdims=True))
    return low, y - low


def low_frequency_ratio(points: ArrayLike, values: ArrayLike, deltas: Iterable[float]) -> Array:
    """LFR(delta) of values over points, one per delta: 1 for delta -> 0, the share of the mean for delta -> inf."""
    y = np.asarray(values, float)
    total = max(float((y * y).sum()), 1e-300)
    return np.array([float((filter_split(points, y, d)[0] ** 2).sum()) / total for d in deltas])


def layer_inputs(model: nn.Module, points: Tensor) -> list[Tensor]:
    """The points and the hidden layers of a model, in the order of evaluation.

    They are what enters each `torch.nn.Linear`, or what `chains` reads from a network that applies its layers itself.

    Raises:
        ValueError: if the layers cannot be read.
    """
    found: list[Tensor] = []
    handles = [
        m.register_forward_pre_hook(lambda _, inputs: found.append(inputs[0].detach()))
        for m in model.modules()
        if isinstance(m, nn.Linear)
    ]
    try:
        with torch.no_grad():
            model(points)
    finally:
        for handle in handles:
            handle.remove()
    if found:
        return found
    parts = chains(model)
    parts = parts if parts[0].stack is not None else parts[:1]  # subnetworks side by side make one layer
    with torch.no_grad():
        layers = zip(*(chain.hidden(points)[:-1] for chain in parts), strict=True)
        return [points, *(torch.cat(layer, 1) for layer in layers)]


class FilterProbe(Diagnostic):
    """Error of the low- and of the high-frequency part by Gaussian filters: scattered points, any dimension.

    e_low = |y_low - h_low| / |y_low|, e_high alike (arXiv:1901.06523), recorded as "low" and "high" per delta.

    Args:
        points: ``(n, d)``, at most 8192; usually training or test inputs.
        reference: values ``(n,)`` or ``(n, m)``, or a Field.
        deltas: filter variances; see `filter_split`.
        schedule: see `Diagnostic`.
        name: see `Diagnostic`.
    """

    name = "filter"

    def __init__(
        self,
        points: Tensor,
        reference: Field | ArrayLike,
        deltas: Sequence[float],
        schedule: Schedule | None = None,
        name: str | None = None,
    ) -> None:
        super().__init__(schedule, name)
        self.points, self.deltas = points, tuple(deltas)
        given = reference(points) if callable(reference) and not isinstance(reference, Tensor) else reference
        self._reference = np.asarray(given.detach().cpu() if isinstance(given, Tensor) else given, float)
        self._parts = [filter_split(points, self._reference, d) for d in self.deltas]

    def observe(self, state: State) -> Record:
        """Relative errors of the two parts for every delta."""
        columns = self._reference.shape[1] if self._reference.ndim == 2 else 1
        h = np.stack([sample(state.model, self.points, c).numpy() for c in range(columns)], 1)
        h = h.reshape(self._reference.shape)
        errors = []
        for delta, parts in zip(self.deltas, self._parts, strict=True):
            found = filter_split(self.points, h, delta)
            norms = [max(float(np.linalg.norm(p)), 1e-300) for p in parts]
            errors.append([float(np.linalg.norm(f - p)) / n for f, p, n in zip(found, parts, norms, strict=True)])
        return {"delta": list(self.deltas), "low": [e[0] for e in errors], "high": [e[1] for e in errors]}

    def draw(self, figure: Any, records: Sequence[Record]) -> None:
        """Both errors against the step, a pair of lines per delta."""
        axes = figure.subplots()
        for part, style in (("low", "-"), ("high", "--")):
            steps, values = self.series(part, records)
            for i, delta in enumerate(self.deltas):
                axes.plot(steps + 1, values[:, i], style, color=f"C{i}", label=f"{part}, delta {delta:g}")
        axes.set(xlabel="step + 1", xscale="log", yscale="log", ylabel="relative error")
        axes.legend()


class DeepFrequency(Diagnostic):
    """The frequencies that each layer leaves to the layers after it (arXiv:2007.14313).

    Features of each layer are scaled to mean pairwise distance 1, since the scale of a feature changes its frequencies;
    "scale" is the distance before. Recorded per layer: "lfr", the ratios for every delta, and "median", the value of
    1/delta at which the ratio is halfway between its ends: where half of the frequency content lies below.

    Args:
        points: ``(n, d)``, n at most 2000 (the work is n^2 per layer and delta).
        values: targets ``(n,)`` or ``(n, m)``, or a Field.
        inverse_deltas: increasing values of 1/delta.
        features: ``(model, points) -> [(n, width), ...]``; None reads the layers, see
            `layer_inputs`.
        schedule: see `Diagnostic`.
        name: see `Diagnostic`.
    """

    name = "deep"

    def __init__(
        self,
        points: Tensor,
        values: Field | ArrayLike,
        inverse_deltas: Sequence[float] = tuple(np.geomspace(0.1, 1e4, 26)),
        features: Features | None = None,
        schedule: Schedule | None = None,
        name: str | None = None,
    ) -> None:
        super().__init__(schedule, name)
        if len(points) > 2000:
            raise ValueError(f"{len(points)} points were given, but at most 2000 are filtered per layer: take a subset")
        self.points, self.inverse = points, np.asarray(inverse_deltas, float)
        self.features = layer_inputs if features is None else features
        given = values(points) if callable(values) and not isinstance(values, Tensor) else values
        self.values = np.asarray(given.detach().cpu() if isinstance(given, Tensor) else given, float)

    def observe(self, state: State) -> Record:
        """Ratios of every layer."""
        first = next(state.module.parameters())
        layers = self.features(state.module, self.points.to(first.device, first.dtype))
        curves, scales = [], []
        for layer in layers:
            h = layer.detach().to("cpu", torch.float64)
            scale = float(torch.nn.functional.pdist(h).mean())
            scales.append(scale)
            curves.append(low_frequency_ratio((h / max(scale, 1e-300)).numpy(), self.values, 1 / self.inverse))
        return {"lfr": curves, "scale": scales, "median": [self._median(c) for c in curves]}

    def _median(self, curve: Array) -> float:
        rising = np.maximum.accumulate(curve)
        half = (rising[0] + rising[-1]) / 2
        return float(np.exp(np.interp(half, rising, np.log(self.inverse))))

    def draw(self, figure: Any, records: Sequence[Record]) -> None:
        """The last ratios, a line per layer, beside their medians over the steps."""
        left, right = figure.subplots(1, 2)
        _, curves = self.series("lfr", records)
        for i, curve in enumerate(curves[-1]):
            left.plot(self.inverse, curve, label=f"layer {i}")
        left.set(xscale="log", xlabel="1 / delta", ylabel="low-frequency ratio")
        left.legend()
        steps, medians = self.series("median", records)
        for i in range(medians.shape[1]):
            right.plot(steps + 1, medians[:, i], "o-", markersize=3)
        right.set(xscale="log", yscale="log", xlabel="step + 1", ylabel="median 1 / delta")
