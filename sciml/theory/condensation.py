"""Condensation: how many different neurons a layer really has, and a network without the spare ones.

During training from small weights neurons turn into few common directions (arXiv:2105.11686, arXiv:2007.07497). A
neuron is its row [w, b]; two are parallel if the cosine of their angle exceeds 0.95. The *effective neurons* of a layer
are the fewest of its neurons such that each is parallel to one of them (arXiv:2207.05952, definition 1); finding the
fewest is hard, so a greedy cover, an upper bound, is reported.

`reduce` merges what is condensed, layer by layer with fine-tuning in between (arXiv:2405.01041).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from sciml.theory.chains import Chain, Parity, chains, copied, neurons, parity, rows, set_linear, set_widths
from sciml.theory.diagnostic import Diagnostic, Record, Schedule, State

__all__ = [
    "Condensation",
    "Reduction",
    "clusters",
    "effective_neurons",
    "merge_exactly",
    "orientation_similarity",
    "reduce",
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
    left = torch.ones(len(near), dtype=torch.bool)
    groups = []
    while left.any():
        counts = (near & left).sum(1) * left
        centre = int(counts.argmax())
        members = (near[centre] & left).nonzero()[:, 0].tolist()
        groups.append([centre, *(k for k in members if k != centre)])
        left[members] = False
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


# ------------------------------------------------------------------------------------------------------------ reduction


@dataclass(frozen=True)
class Reduction:
    """What `reduce` did.

    Attributes:
        network: the smaller network.
        widths: hidden widths before and after, chain by chain.
        parameters: number before and after.
        errors: ``error(network)`` before and after; None without `error`.
        seconds: per evaluation at the points before and after; None without `points`.
        steps: one sentence per layer.
    """

    network: nn.Module
    widths: tuple[tuple[int, ...], tuple[int, ...]]
    parameters: tuple[int, int]
    errors: tuple[float, float] | None
    seconds: tuple[float, float] | None
    steps: tuple[str, ...]

    @property
    def share(self) -> float:
        """Neurons after divided by neurons before."""
        return sum(self.widths[1]) / sum(self.widths[0])


def reduce(
    network: nn.Module,
    refit: Callable[[nn.Module], Any] | None = None,
    points: Tensor | None = None,
    threshold: float = 0.95,
    keep: float | None = None,
    error: Callable[[nn.Module], float] | None = None,
    allowed: float = 0.1,
) -> Reduction:
    """Merge the condensed neurons of a network, layer by layer, with fine-tuning after each (arXiv:2405.01041).

    Without `points`, neurons are merged by their weights: parallel ones of homogeneous activations (relu) exactly,
    others where their rows nearly coincide (up to sign for odd and even activations). With `points`, neurons are merged
    whose values there are correlated, and the outgoing weights of those that stay are solved for by least squares.

    Args:
        network: left as it is; its chains of linear layers are reduced in a copy.
        refit: trains the network it is given in place, briefly; its return value is ignored.
        points: ``(n, d)`` typical inputs of the network.
        threshold: similarity above which neurons are one.
        keep: share of each layer's neurons to keep at most, chosen by pivoted QR of their values at the points when
            merging leaves more; needs `points`.
        error: of a network; measured before and after. A layer whose reduction makes it more than ``1 + allowed``
            times as large, after refitting, is put back.
        allowed: relative growth of the error.

    Raises:
        ValueError: if no layer can be read, or `keep` is given without points.
    """
    if keep is not None and (points is None or not 0 < keep <= 1):
        raise ValueError(
            f"keep is {keep}, but must be a share in (0, 1] and needs points at which neurons are compared"
        )
    small = copied(network)
    before, steps = chains(small), []
    widths = tuple(w for c in before for w in c.widths)
    first = None if error is None else float(error(network))
    for number, depth in [(n, k) for n, c in enumerate(before) for k in range(len(c.widths))]:
        trial = copied(small)
        chain = chains(trial)[number]
        held = _shrink(trial, chain, depth, points, threshold, keep)
        label, width = chain.names[depth] or "0", chains(small)[number].widths[depth]
        if held == width:
            steps.append(f"layer {label}: {width} neurons, none alike")
            continue
        if refit is not None:
            refit(trial)
        if first is not None and error is not None and not (now := float(error(trial))) <= (1 + allowed) * first:
            steps.append(
                f"layer {label}: {width} neurons kept, because {held} gave an error of {now:.3g}, not {first:.3g}"
            )
            continue
        small = trial
        steps.append(f"layer {label}: {width} -> {held} neurons")
    after = tuple(w for c in chains(small) for w in c.widths)
    errors = None if first is None or error is None else (first, float(error(small)))
    seconds = None if points is None else (_seconds(network, points), _seconds(small, points))
    return Reduction(small, (widths, after), (_size(network), _size(small)), errors, seconds, tuple(steps))


def merge_exactly(network: nn.Module) -> nn.Module | None:
    """A copy with parallel and dead neurons merged, the same function to rounding; None where no chain is read."""
    twin = copied(network)
    try:
        found = chains(twin)
    except ValueError:
        return None
    for chain in found:
        for depth in range(len(chain.widths)):
            _shrink(twin, chain, depth, None, 1 - 1e-15, None)
    return twin


def _size(network: nn.Module) -> int:
    return sum(p.numel() for p in network.parameters())


def _seconds(network: nn.Module, points: Tensor) -> float:
    """The fastest of five evaluations: the one least disturbed by other work on the machine."""
    like = next(network.parameters())
    x, times = points.to(like), []
    with torch.no_grad():
        for _ in range(6):
            begun = time.perf_counter()
            network(x)
            times.append(time.perf_counter() - begun)
    return min(times[1:])


def _shrink(
    network: nn.Module, chain: Chain, depth: int, points: Tensor | None, threshold: float, keep: float | None
) -> int:
    """Merge neurons of one hidden layer in place; returns how many are left."""
    layer, after = chain.layers[depth], chain.layers[depth + 1]
    incoming = torch.cat([layer.weight, _bias(layer)[:, None]], 1).detach().double()
    outgoing = after.weight.detach().double()
    if points is None:
        incoming, outgoing = _by_weights(incoming, outgoing, parity(chain.activations[depth]), threshold)
        shift = outgoing.new_zeros(len(outgoing))
    else:
        values = _values(network, chain, depth, points)
        stay, outgoing, shift = _by_values(values, outgoing, threshold, keep, constant=after.bias is not None)
        incoming = incoming[stay]
    if len(incoming) == layer.out_features:
        return len(incoming)
    bias = None if layer.bias is None else incoming[:, -1]
    set_linear(layer, incoming[:, :-1], bias)
    if after.bias is not None:
        shift = after.bias.detach().double() + shift
    set_linear(after, outgoing, None if after.bias is None else shift)
    set_widths(chain)
    return len(incoming)


def _bias(layer: nn.Linear) -> Tensor:
    return layer.weight.new_zeros(layer.out_features) if layer.bias is None else layer.bias


def _by_weights(incoming: Tensor, outgoing: Tensor, symmetry: Parity, threshold: float) -> tuple[Tensor, Tensor]:
    """Merge rows that nearly coincide: amplitude-weighted mean row, sum of outgoing weights."""
    length = incoming.norm(dim=1).clamp_min(1e-300)
    mirrored = symmetry.odd or symmetry.even
    cosine = orientation_similarity(incoming)
    sign = cosine.sign() if mirrored else torch.ones_like(cosine)
    compared = incoming / length[:, None] if symmetry.homogeneous else incoming
    larger = torch.ones_like(cosine) if symmetry.homogeneous else torch.maximum(length[:, None], length[None, :])
    gap = (compared[:, None] - sign[..., None] * compared[None]).norm(dim=-1) / larger
    # 1 - gap^2 / 2 is the cosine of two rows of equal length
    near = torch.where(gap <= 1e-12, 1.0, (1 - gap.square() / 2).clamp(-1, 1 - 2e-15))
    amplitude = length * outgoing.norm(dim=0)
    alive = outgoing.norm(dim=0) > 0
    if not alive.any():
        alive[0] = True  # a layer keeps at least one neuron
    index = alive.nonzero()[:, 0]
    rows_out, columns_out = [], []
    for group in clusters(near[index][:, index], threshold):
        members = index[group]
        head = members[0]
        weight = amplitude[members] / amplitude[members].sum().clamp_min(1e-300)
        if symmetry.homogeneous:
            row = incoming[head]
            column = (outgoing[:, members] * (length[members] / length[head])).sum(1)
        else:
            flips = sign[head, members]
            row = (weight[:, None] * flips[:, None] * incoming[members]).sum(0) if len(members) > 1 else incoming[head]
            column = (outgoing[:, members] * (flips if symmetry.odd else 1.0)).sum(1)
        rows_out.append(row)
        columns_out.append(column)
    return torch.stack(rows_out), torch.stack(columns_out, 1)


def _values(network: nn.Module, chain: Chain, depth: int, points: Tensor) -> Tensor:
    """Values ``(n, width)`` of a hidden layer at inputs of the whole network, which the chain may see transformed."""
    seen: list[Tensor] = []
    x = points.to(chain.layers[0].weight)
    with torch.no_grad():
        handle = chain.owner.register_forward_pre_hook(lambda _m, inputs: seen.append(inputs[0]))
        try:
            network(x)
        finally:
            handle.remove()
        # an owner that is asked for its Taylor expansion, inside sciml's Hard, sees the points themselves
        return torch.cat([chain.hidden(z)[depth].double() for z in seen or [x]])


def _by_values(
    values: Tensor, outgoing: Tensor, threshold: float, keep: float | None, constant: bool
) -> tuple[list[int], Tensor, Tensor]:
    """Choose neurons whose values stand for the others', and outgoing weights by least squares (with a constant)."""
    spread = (values - values.mean(0)).norm(dim=0)
    # constant neurons go into the bias of the next layer, where it has one
    alive = (spread > (1e-9 if constant else -1.0) * values.norm(dim=0).clamp_min(1e-300)).nonzero()[:, 0]
    if not len(alive):
        alive = torch.zeros(1, dtype=torch.long)
    strength = spread * outgoing.norm(dim=0)
    stay = []
    for group in clusters(response_similarity(values[:, alive]), threshold, signed=False):
        members = alive[group]
        stay.append(int(members[strength[members].argmax()]))
    limit = max(1, int(keep * values.shape[1])) if keep is not None else len(stay)
    if len(stay) > limit:
        from scipy.linalg import qr

        weighted = values[:, stay] * outgoing[:, stay].norm(dim=0)
        _, _, pivots = qr((weighted - weighted.mean(0)).numpy(), mode="economic", pivoting=True)
        stay = [stay[int(k)] for k in pivots[:limit]]
    stay.sort()
    if len(stay) == values.shape[1]:
        return stay, outgoing, outgoing.new_zeros(len(outgoing))
    design = torch.cat([values[:, stay], values.new_full((len(values), 1), float(constant))], 1)
    solved = torch.linalg.lstsq(design, values @ outgoing.T, driver="gelsd").solution
    return stay, solved[:-1].T, solved[-1]
