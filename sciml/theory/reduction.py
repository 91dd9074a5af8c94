"""A network without the neurons that it does not need: merging what is condensed (arXiv:2405.01041).

`reduce` goes through a network layer by layer, merges neurons that do the same work, and fine-tunes in between;
`merge_exactly` merges only what does not change the function.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from sciml.theory.chains import Chain, Parity, chains, copied, parity, set_linear, set_widths
from sciml.theory.condensation import clusters, orientation_similarity, response_similarity

__all__ = ["Reduction", "merge_exactly", "reduce"]


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
    refits: int = 3,
) -> Reduction:
    """Merge the condensed neurons of a network, layer by layer, with fine-tuning after each (arXiv:2405.01041).

    Without `points`, neurons are merged by their weights: parallel ones of homogeneous activations (relu) exactly,
    others where their rows nearly coincide (up to sign for odd and even activations). With `points`, neurons are merged
    whose values there are correlated, and the outgoing weights of those that stay are solved for by least squares.

    The subnetworks of an Mscale are reduced side by side, each by itself, and filled up to the widest of them.

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
        refits: fine-tune again, at most so many times in all per layer, while the error is too large.

    Raises:
        ValueError: if no layer can be read, or `keep` is given without points.
    """
    if keep is not None and (points is None or not 0 < keep <= 1):
        raise ValueError(
            f"keep is {keep}, but must be a share in (0, 1] and needs points at which neurons are compared"
        )
    if refits < 1:
        raise ValueError(f"refits is {refits}, but must be >= 1")
    small = copied(network)
    before, steps = chains(small), []
    widths = tuple(w for c in before for w in c.widths)
    first = None if error is None else float(error(network))
    for numbers in _together(before):
        for depth in range(len(before[numbers[0]].widths)):
            trial = copied(small)
            layers = [chain for n, chain in enumerate(chains(trial)) if n in numbers]
            width = sum(chain.widths[depth] for chain in layers)
            held = sum(_shrink(trial, chain, depth, points, threshold, keep) for chain in layers)
            label = layers[0].names[depth].partition("[")[0] or "0"
            if held == width:
                steps.append(f"layer {label}: {width} neurons, none alike")
                continue
            now = _refitted(trial, refit, error, refits, math.inf if first is None else (1 + allowed) * first)
            if now is not None and first is not None and not now <= (1 + allowed) * first:
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


def _together(found: Sequence[Chain]) -> list[list[int]]:
    """Numbers of the chains that are reduced at once: the subnetworks of one stack, every other chain alone."""
    groups: dict[int, list[int]] = {}
    for n, chain in enumerate(found):
        groups.setdefault(n if chain.stack is None else -id(chain.stack), []).append(n)
    return list(groups.values())


def _refitted(
    network: nn.Module,
    refit: Callable[[nn.Module], Any] | None,
    error: Callable[[nn.Module], float] | None,
    times: int,
    enough: float,
) -> float | None:
    """Fine-tune in place until the error is small enough; the error, if it can be measured."""
    for _ in range(0 if refit is None else times):
        refit(network)  # type: ignore[misc]
        if error is None:
            return None
        if (now := float(error(network))) <= enough:
            return now
    return None if error is None else float(error(network))


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
