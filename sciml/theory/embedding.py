"""The embedding principle: wider and deeper networks that are the same function.

Splitting neuron j into two with the same row and outgoing weights alpha a_j and (1 - alpha) a_j, or adding a neuron
with outgoing weight 0, leaves output and criticality of the parameters unchanged for every loss (arXiv:2105.14573,
arXiv:2111.15527); the numbers of negative, zero and positive eigenvalues of the loss's Hessian never decrease, so a
local minimum can become a strict saddle: room to go on. A layer can be inserted that works in the linear part of its
activation (arXiv:2205.13283). `grow` uses this during training: a network gets wider without losing its solution.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from sciml.networks import Dense
from sciml.theory.chains import Chain, chains, copied, set_linear, set_widths
from sciml.theory.curvature import Inertia, inertia
from sciml.theory.functional import flatten, loss_closures, parameters_of

__all__ = [
    "Grow",
    "add_neurons",
    "check_embedding",
    "compatible",
    "deepen",
    "grow",
    "split",
    "stagnation_levels",
]


def _chain(network: nn.Module, which: int, layer: int) -> Chain:
    found = chains(network)
    if not 0 <= which < len(found):
        raise ValueError(f"chain is {which}, but the network has {len(found)}, counted from 0")
    if not 0 <= layer < len(found[which].widths):
        raise ValueError(f"layer is {layer}, but hidden layers are counted from 0 to {len(found[which].widths) - 1}")
    return found[which]


def _append(chain: Chain, layer: int, incoming: Tensor, bias: Tensor, outgoing: Tensor) -> None:
    """Neurons with rows ``(k, d)``, ``(k,)`` and outgoing columns ``(o, k)`` at the end of a hidden layer."""
    here, after = chain.layers[layer], chain.layers[layer + 1]
    weight = torch.cat([here.weight, incoming.to(here.weight)])
    set_linear(here, weight, None if here.bias is None else torch.cat([here.bias, bias.to(here.weight)]))
    set_linear(after, torch.cat([after.weight, outgoing.to(after.weight)], 1), None)
    set_widths(chain)


def split(network: nn.Module, layer: int = 0, neuron: int = 0, alpha: float = 0.5, chain: int = 0) -> nn.Module:
    """A copy with one neuron split in two: the same row twice, outgoing weights alpha a and (1 - alpha) a.

    Args:
        network: left as it is.
        layer: hidden layer, from 0.
        neuron: in that layer, from 0.
        alpha: any number; between 0 and 1 the two pull in the same direction.
        chain: which of the network's chains, from 0.

    Returns:
        The same function to rounding, one neuron wider.

    Raises:
        ValueError: if there is no such layer or neuron, or no layer can be read.
    """
    wide = copied(network)
    c = _chain(wide, chain, layer)
    here, after = c.layers[layer], c.layers[layer + 1]
    if not 0 <= neuron < here.out_features:
        raise ValueError(f"neuron is {neuron}, but layer {layer} has neurons 0 to {here.out_features - 1}")
    row, column = here.weight.detach()[neuron : neuron + 1], after.weight.detach()[:, neuron : neuron + 1]
    bias = here.weight.new_zeros(1) if here.bias is None else here.bias.detach()[neuron : neuron + 1]
    twin = (1 - alpha) * column
    with torch.no_grad():
        after.weight[:, neuron : neuron + 1] = column - twin
    _append(c, layer, row, bias, twin)
    return wide


def add_neurons(
    network: nn.Module, neurons: int, layer: int = 0, generator: torch.Generator | None = None, chain: int = 0
) -> nn.Module:
    """A copy with neurons of outgoing weight 0 (null embedding) and rows drawn like those that are there.

    Args:
        network: left as it is.
        neurons: how many.
        layer: hidden layer, from 0.
        generator: of the rows; None is one seeded 0.
        chain: which of the network's chains, from 0.

    Returns:
        The same function exactly.
    """
    wide = copied(network)
    _add(
        _chain(wide, chain, layer), layer, neurons, torch.Generator().manual_seed(0) if generator is None else generator
    )
    return wide


def _add(chain: Chain, layer: int, neurons: int, generator: torch.Generator) -> None:
    if neurons < 1:
        raise ValueError(f"neurons is {neurons}, but must be >= 1")
    here, after = chain.layers[layer], chain.layers[layer + 1]

    def drawn(like: Tensor, shape: tuple[int, ...]) -> Tensor:
        size = like.detach().square().mean().sqrt().cpu().double()
        return torch.randn(shape, dtype=torch.float64, generator=generator) * size

    bias = torch.zeros(neurons) if here.bias is None else drawn(here.bias, (neurons,))
    _append(
        chain,
        layer,
        drawn(here.weight, (neurons, here.in_features)),
        bias,
        after.weight.new_zeros(after.out_features, neurons),
    )


def compatible(network: nn.Module, shares: Sequence[Sequence[float]], layer: int = 0, chain: int = 0) -> nn.Module:
    """A copy by a general compatible embedding: neuron j becomes ``len(shares[j])`` neurons with the same row.

    Args:
        network: left as it is.
        shares: for each neuron of the layer the shares of its outgoing weight, which sum to 1.
        layer: hidden layer, from 0.
        chain: which of the network's chains, from 0.

    Raises:
        ValueError: if shares do not sum to 1 or there are not as many as neurons.
    """
    wide = copied(network)
    c = _chain(wide, chain, layer)
    here, after = c.layers[layer], c.layers[layer + 1]
    if len(shares) != here.out_features:
        raise ValueError(f"shares has {len(shares)} entries, but layer {layer} has {here.out_features} neurons")
    for j, each in enumerate(shares):
        if not each or abs(sum(each) - 1) > 1e-12:
            raise ValueError(f"shares[{j}] sums to {sum(each)}, but the shares of a neuron must sum to 1")
    origin = [j for j, each in enumerate(shares) for _ in each]
    factor = torch.tensor([s for each in shares for s in each], dtype=torch.float64).to(after.weight)
    set_linear(here, here.weight[origin], None if here.bias is None else here.bias[origin])
    set_linear(after, after.weight[:, origin] * factor, None)
    set_widths(c)
    return wide


def deepen(network: nn.Module, at: int = 0, slope: float = 1e-5, chain: int = 0) -> nn.Module:
    """The chain with one more hidden layer of the same width behind hidden layer `at` (arXiv:2205.13283).

    The new layer maps h to sigma(c + slope h), c a place where sigma is straightest, and the layer behind undoes it to
    first order: the output changes by O(slope^2) where sigma''(c) = 0 (tanh, sine: c = 0), by O(slope) elsewhere, and
    not at all for relu, whose identity on h >= 0 is exact.

    Args:
        network: left as it is.
        at: hidden layer behind which to insert, from 0.
        slope: of the inserted layer.
        chain: which of the network's chains, from 0.

    Returns:
        For sciml's Dense another Dense; otherwise a `torch.nn.Sequential` of the chain, which gives ``(n, m)`` for one
        output too.
    """
    c = _chain(copied(network), chain, at)
    if c.stack is not None:
        raise ValueError("the subnetworks of an Mscale share their depth, so one of them cannot be deepened")
    sigma, here, after = c.activations[at], c.layers[at], c.layers[at + 1]
    centre, value, rate = _straightest(sigma)
    if rate == 0:
        raise ValueError("the activation has no place with a slope, so no layer of it can pass values on")
    exact = centre is None
    factor, offset = (1.0, 0.0) if exact else (slope, centre or 0.0)
    width = here.out_features
    inserted = nn.Linear(width, width).to(here.weight)
    set_linear(
        inserted, factor * torch.eye(width, dtype=torch.float64), torch.full((width,), offset, dtype=torch.float64)
    )
    weight = after.weight.detach() / (1.0 if exact else slope * rate)
    old = after.weight.new_zeros(after.out_features) if after.bias is None else after.bias.detach()
    behind = nn.Linear(after.in_features, after.out_features).to(after.weight)
    set_linear(behind, weight, old - weight.sum(1) * value)
    layers = [*c.layers[: at + 1], inserted, behind, *c.layers[at + 2 :]]
    if isinstance(c.owner, Dense):
        c.owner.layers = nn.ModuleList(layers)
        c.owner.widths = tuple(layer.out_features for layer in layers[:-1])
        return c.owner
    sigmas = [*c.activations[: at + 1], sigma, *c.activations[at + 1 :]]
    parts = [m for k, layer in enumerate(layers) for m in (layer, *map(_module, sigmas[k : k + 1]))]
    return nn.Sequential(*parts)


class _Applied(nn.Module):
    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x)


def _module(sigma: Callable[[Tensor], Tensor]) -> nn.Module:
    return sigma if isinstance(sigma, nn.Module) else _Applied(sigma)


def _straightest(sigma: Callable[[Tensor], Tensor]) -> tuple[float | None, float, float]:
    """Where sigma is best replaced by its tangent: (place, value, slope); place None if sigma(z) = z for z >= 0."""
    z = torch.cat([torch.zeros(1, dtype=torch.float64), torch.linspace(-2, 2, 401, dtype=torch.float64)])
    if torch.equal(sigma(z.abs()), z.abs()) and float(sigma(-z.abs()).abs().max()) == 0:
        return None, 0.0, 1.0

    def total(y: Tensor) -> Tensor:
        return sigma(y).sum()

    first = torch.func.grad(total)(z)
    second = torch.func.grad(lambda y: torch.func.grad(total)(y).sum())(z)
    # zero comes first in z, so among equally straight places the one with relative precision wins
    bend = torch.where(first.abs() > 0.1 * first.abs().max(), second.abs() / first.abs().clamp_min(1e-300), torch.inf)
    k = int((bend <= bend.min() + 1e-9).nonzero()[0, 0])
    return float(z[k]), float(sigma(z[k : k + 1])), float(first[k])


# -------------------------------------------------------------------------------------------------------------- checked


@dataclass(frozen=True)
class Embedding:
    """What an embedding changed: each pair is of the network and of the larger one.

    Attributes:
        output: largest difference of their values at the points.
        losses: equal, up to rounding.
        gradients: norms of the loss's gradient; a critical point stays one.
        inertias: of the Hessian; none of the three numbers falls (arXiv:2111.15527).
    """

    output: float
    losses: tuple[float, float]
    gradients: tuple[float, float]
    inertias: tuple[Inertia, Inertia]


def check_embedding(
    network: nn.Module, larger: nn.Module, points: Tensor, objective: Any, batch: Any, tolerance: float = 1e-9
) -> Embedding:
    """Compare a network with one that it was embedded in, at its present parameters.

    Args:
        network: at most 2000 parameters, float64.
        larger: e.g. from `split`, alike.
        points: ``(n, d)`` where outputs are compared.
        objective: of the loss, see `loss_closures`.
        batch: handed to it.
        tolerance: see `inertia`.
    """
    losses, gradients, inertias = [], [], []
    for model in (network, larger):
        loss, parameters = loss_closures(model, objective, batch)["loss"], parameters_of(model)
        gradient, value = torch.func.grad_and_value(loss)(parameters)
        losses.append(float(value))
        gradients.append(float(flatten(gradient).norm()))
        inertias.append(inertia(loss, parameters, tolerance))
    with torch.no_grad():
        output = float((larger(points) - network(points)).abs().max())
    return Embedding(output, (losses[0], losses[1]), (gradients[0], gradients[1]), (inertias[0], inertias[1]))


def stagnation_levels(
    losses: Sequence[float] | Tensor, window: int = 200, slope: float = 0.02
) -> list[tuple[int, int, float]]:
    """Plateaus of a training: stretches over which log loss falls by less than `slope` per `window` steps.

    By the embedding principle the level of a plateau is often the loss of a narrower network's minimum.

    Returns:
        ``(first step, last step, median loss)`` of each plateau.

    Raises:
        ValueError: if a loss is not positive, or there are fewer than two windows.
    """
    values = torch.as_tensor(losses, dtype=torch.float64)
    if len(values) < 2 * window or float(values.min()) <= 0:
        raise ValueError(f"losses has {len(values)} entries, but must be positive and at least {2 * window} long")
    log = values.log()
    flat = (log[:-window] - log[window:]).abs() < slope
    levels, start = [], None
    for k, f in enumerate([*flat.tolist(), False]):
        if f and start is None:
            start = k
        elif not f and start is not None:
            end = k - 1 + window
            levels.append((start, end, float(values[start : end + 1].median())))
            start = None
    return levels


# --------------------------------------------------------------------------------------------------------------- growth


@dataclass(frozen=True)
class Grow:
    """A training stage: widen the network without changing its function, then train it with another stage.

        fit(model, objective, batches, stages=[Adam(2000), theory.grow(Adam(2000), neurons=10)])

    New neurons have outgoing weight 0 and rows drawn like the layer's own, so the first step starts from exactly the
    function that the previous stage ended with. The network is changed in place.

    Attributes:
        then: the stage that trains the grown network.
        neurons: added to each hidden layer, of an Mscale to that of each subnetwork.
        layers: hidden layers from 0, the same in every chain; None means all.
        seed: of the new rows.
    """

    then: Any
    neurons: int = 10
    layers: tuple[int, ...] | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        """Check the numbers."""
        if not (isinstance(self.neurons, int) and self.neurons >= 1):
            raise ValueError(f"grow neurons is {self.neurons!r}, but must be a whole number >= 1")
        if not hasattr(self.then, "start"):
            raise TypeError(f"grow then is a {type(self.then).__name__}, but must be a stage such as Adam(1000)")

    @property
    def steps(self) -> int:
        """Those of `then`."""
        return self.then.steps

    @property
    def resample(self) -> int | None:
        """That of `then`."""
        return self.then.resample

    def prepare(self, model: nn.Module) -> None:
        """Widen in place: what `training.fit` does before `start`, and a resumed run before it loads a checkpoint."""
        generator = torch.Generator().manual_seed(self.seed)
        for chain in chains(model):
            for layer in range(len(chain.widths)) if self.layers is None else self.layers:
                if not 0 <= layer < len(chain.widths):
                    raise ValueError(f"grow layers names {layer}, but hidden layers are 0 to {len(chain.widths) - 1}")
                _add(chain, layer, self.neurons, generator)

    def start(self, model: nn.Module) -> Any:
        """Begin `then` on the widened network."""
        return self.then.start(model)


grow = Grow  # a verb reads better in a list of stages
