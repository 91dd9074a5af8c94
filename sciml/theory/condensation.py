"""Condensation: how many different neurons a layer really has, and a network without the spare ones.

During training from small weights neurons turn into few common directions (arXiv:2105.11686, arXiv:2007.07497). A
neuron is its row [w, b]; two are parallel if the cosine of their angle exceeds 0.95. The *effective neurons* of a layer
are the fewest of its neurons such that each is parallel to one of them (arXiv:2207.05952, definition 1); finding the
fewest is hard, so a greedy cover, an upper bound, is reported.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from sciml.theory.chains import neurons, rows
from sciml.theory.diagnostic import Diagnostic, Record, Schedule, State

__all__ = [
    "Condensation",
    "clusters",
    "effective_neurons",
    "orientation_similarity",
    "response_similarity",
]

_MOST = 4096  # neurons per layer whose similarity matrix is formed


def orientation_similarity(layer: nn.Module | Tensor) -> Tensor:
    """Cosines ``(m, m)`` between the neurons [w, b] of a layer; a zero neuron is parallel to nothing but itself.

    Args:
        layer: a linear layer, or rows ``(m, d)``.

    >>> orientation_similarity(torch.tensor([[1.0, 0.0], [3.0, 0.0], [0.0, -2.0]])).tolist()
    [[1.0, 1.0, 0.0], [1.0, 1.0, 0.0], [0.0, 0.0, 1.0]]
    """
    values = rows(layer)
    if len(values) > _MOST:
        raise ValueError(f"the layer has {len(values)} neurons, but similarities are formed for at most {_MOST}")
    # divided by the largest entry first: initialisations of 1e-200 are legal and their squares underflow
    largest = values.abs().amax(1, keepdim=True)
    unit = values / torch.where(largest > 0, largest, 1.0)
    length = unit.norm(dim=1, keepdim=True)
    unit = unit / torch.where(length > 0, length, 1.0)
    cosines = (unit @ unit.T).clamp(-1, 1)
    cosines.fill_diagonal_(1.0)
    return cosines


def response_similarity(values: Tensor) -> Tensor:
    """Correlations ``(m, m)`` between the outputs ``(n, m)`` of neurons at probe points, for any kind of layer."""
    return orientation_similarity((values - values.mean(0)).T)


def clusters(similarity: Tensor, threshold: float = 0.95, signed: bool = True) -> list[list[int]]:
    """A greedy cover: each group holds neurons whose similarity to its first member exceeds `threshold`.

    Args:
        similarity: ``(m, m)`` in [-1, 1].
        threshold: in (0, 1).
        signed: whether w and -w belong to different groups.

    Returns:
        Groups of indices; the largest first, the neuron that represents it first in each.
    """
    if not 0 < threshold < 1:
        raise ValueError(f"threshold is {threshold}, but must lie between 0 and 1")
    near = (similarity if signed else similarity.abs()) > threshold
    left, counts = torch.ones(len(near), dtype=torch.bool), near.sum(1)
    groups: list[list[int]] = []
    while left.any():
        if int(counts.max()) <= 1:  # nobody is near anybody else any more
            return groups + [[k] for k in left.nonzero()[:, 0].tolist()]
        centre = int(counts.argmax())
        members = (near[centre] & left).nonzero()[:, 0].tolist()
        groups.append([centre, *(k for k in members if k != centre)])
        left[members] = False
        counts = (counts - near[:, members].sum(1)) * left
    return groups


def effective_neurons(layer: nn.Module | Tensor, threshold: float = 0.95, signed: bool = True) -> int:
    """How many different orientations the neurons [w, b] of a layer have (arXiv:2207.05952, definition 1).

    Args:
        layer: a linear layer, or rows ``(m, d)``.
        threshold: cosine above which two neurons count as one.
        signed: whether w and -w count as two (False for odd or even activations, where they do the same work).

    Raises:
        ValueError: for a layer without rows, or a threshold outside (0, 1).

    >>> w = torch.tensor([[1.0, 2.0], [2.0, 4.0], [-1.0, -2.0], [1.0, 0.0]])
    >>> effective_neurons(w), effective_neurons(w, signed=False)
    (3, 2)
    """
    return len(clusters(orientation_similarity(layer), threshold, signed))


class Condensation(Diagnostic):
    """Effective neurons of every hidden layer: ``{layer}`` and ``{layer}.ratio`` (to the width), by layer name.

    Args:
        threshold: see `effective_neurons`.
        signed: see `effective_neurons`.
        layers: names as in the records; None takes all but the last, whose outputs are the network's.
        schedule: see `Diagnostic`.

    A layer given no bias is read as rows w. At tiny initialisation (tanh) first two signed clusters form, later more.
    """

    name = "effective_neurons"

    def __init__(
        self,
        threshold: float = 0.95,
        signed: bool = True,
        layers: Sequence[str] | None = None,
        schedule: Schedule | None = None,
    ) -> None:
        super().__init__(schedule)
        self.threshold, self.signed, self.layers = threshold, signed, layers

    def observe(self, state: State) -> Record:
        """Count."""
        found = neurons(state.module)
        names = self.layers if self.layers is not None else _hidden(found)
        if unknown := [n for n in names if n not in found]:
            raise ValueError(f"layers names {unknown[0]!r}, but the layers are {', '.join(found)}")
        record: Record = {}
        for name in names:
            count = effective_neurons(found[name], self.threshold, self.signed)
            record |= {name: count, f"{name}.ratio": count / len(found[name])}
        return record

    def draw(self, figure: Any, records: Sequence[Record]) -> None:
        """Effective neurons of every layer against the step."""
        axes = figure.subplots()
        names = [k.removeprefix(f"{self.name}.") for k in records[-1] if k.startswith(f"{self.name}.")]
        for name in names:
            if not name.endswith(".ratio"):
                steps, counts = self.series(name, records)
                axes.plot(steps + 1, counts, "o-", markersize=3, label=name)
        axes.set(xlabel="step + 1", xscale="log", yscale="log", ylabel="effective neurons")
        axes.legend(fontsize="small", ncols=1 + len(names) // 16)

    def similarity(self, model: nn.Module, figure: Any = None, layer: str | None = None) -> Any:
        """Draw the cosines between the neurons of a layer, ordered by cluster."""
        from matplotlib.figure import Figure

        found = neurons(model)
        name = next(iter(found)) if layer is None else layer
        cosines = orientation_similarity(found[name])
        order = [k for group in clusters(cosines, self.threshold, self.signed) for k in group]
        figure = Figure(figsize=(5, 4.2), layout="constrained") if figure is None else figure
        axes = figure.subplots()
        image = axes.imshow(cosines[order][:, order].numpy(), vmin=-1, vmax=1, cmap="RdBu_r", interpolation="nearest")
        axes.set(xlabel="neuron, by cluster", ylabel="neuron, by cluster", title=f"cosines in layer {name or 0}")
        figure.colorbar(image, ax=axes)
        return figure


def _hidden(found: dict[str, Tensor]) -> list[str]:
    """All layers but the last, or, of stacked subnetworks, but the last of each."""
    last = next(reversed(found)).partition("[")[0]
    return [k for k in found if k.partition("[")[0] != last] or list(found)
