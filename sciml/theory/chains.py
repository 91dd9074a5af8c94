"""Reading a network's layers: which neurons it has, and how to give a layer another width.

Diagnostics of neurons (condensation, embedding, reduction, growth) need plain chains

    h_0 = x,   h_l = sigma(W_l h_{l-1} + b_l),   output = W_L h_{L-1} + b_L.

`chains` finds them inside any torch module and *proves* by evaluation that what it read is what the module computes, so
a network with other operations (residual additions, normalisation, scalings in forward) is refused, not misread. The
independent subnetworks of sciml's Mscale are one chain each, see `sciml.theory.stacks`.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from sciml.theory.stacks import Stack

Sigma = Callable[[Tensor], Tensor]

__all__ = ["Chain", "Parity", "chains", "copied", "linears", "neurons", "parity", "rows", "set_linear", "set_widths"]


@dataclass(frozen=True)
class Chain:
    """A plain chain of linear layers and activations inside a network.

    Attributes:
        name: of the module that computes it ("" for the network itself).
        owner: that module.
        names: of the linear layers, as in ``network.named_modules()``.
        layers: the linear layers; they are the network's own, but copies of a stack's.
        activations: one fewer.
        stack: whose subnetwork it is, or None.
        part: which one.
    """

    name: str
    owner: nn.Module
    names: tuple[str, ...]
    layers: tuple[nn.Linear, ...]
    activations: tuple[Sigma, ...]
    stack: Stack | None = None
    part: int = 0

    @property
    def widths(self) -> tuple[int, ...]:
        """Hidden widths."""
        return tuple(layer.out_features for layer in self.layers[:-1])

    def hidden(self, x: Tensor) -> list[Tensor]:
        """Values ``(n, width)`` of every hidden layer, and the output ``(n, m)`` last."""
        if self.stack is not None:
            x = self.stack.enter(self.part, x)
        else:
            # sciml's Dense sees points relative to the centre of their box, perhaps in units of its half-widths
            centre, stretch = getattr(self.owner, "centre", None), getattr(self.owner, "stretch", None)
            x = x if centre is None else x - centre
            x = x if stretch is None else x * stretch
        values = []
        for layer, sigma in zip(self.layers, self.activations, strict=False):
            x = sigma(layer(x))
            values.append(x)
        return [*values, self.layers[-1](x)]


def linears(network: nn.Module) -> Iterator[tuple[str, nn.Linear]]:
    """All linear layers with their names, in order of registration."""
    for name, module in network.named_modules():
        if isinstance(module, nn.Linear):
            yield name, module


def neurons(network: nn.Module) -> dict[str, Tensor]:
    """The rows [w, b] ``(m, d + 1)`` float64 of every layer of linear neurons, by name.

    Linear layers, and the stacked subnetworks of sciml's Mscale as ``weights.K[I]`` (layer K of subnetwork I).

    Raises:
        ValueError: if there is none.
    """
    found: dict[str, Tensor] = {}
    for name, module in network.named_modules():
        if isinstance(module, nn.Linear):
            found[name] = rows(module)
        weights, biases = getattr(module, "weights", None), getattr(module, "biases", None)
        if isinstance(weights, nn.ParameterList) and isinstance(biases, nn.ParameterList):
            missing = len(weights) - len(biases)  # Fourier features have no bias
            for k, w in enumerate(weights):
                b = None if k < missing else biases[k - missing]
                label = f"{name}.weights.{k}" if name else f"weights.{k}"
                for i, part in enumerate(w.unbind(0) if w.ndim == 3 else (w,)):
                    bias = None if b is None else (b[i] if w.ndim == 3 else b)
                    row = part.T if bias is None else torch.cat([part.T, bias[:, None]], 1)
                    found[f"{label}[{i}]" if w.ndim == 3 else label] = rows(row)
    if not found:
        raise ValueError(
            f"{type(network).__name__} has no layer whose neurons can be read: torch.nn.Linear layers and sciml's "
            "Dense and Mscale can"
        )
    return found


def chains(network: nn.Module) -> list[Chain]:
    """The plain chains of a network: itself, or its largest submodules that are chains.

    Raises:
        TypeError: if it is no module.
        ValueError: if there is none, saying what is read.
    """
    if not isinstance(network, nn.Module):
        raise TypeError(f"network is a {type(network).__name__}, but must be a torch.nn.Module")
    found = list(_chains("", network))
    if not found:
        raise ValueError(
            f"{type(network).__name__} holds no chain of linear layers and elementwise activations that can be read; "
            "neurons are read from torch.nn.Sequential, sciml's Dense and Mscale (of independent subnetworks, without "
            "Fourier features), and modules that apply their torch.nn.Linear layers in order with one `activation`, "
            "without residual additions or normalisation"
        )
    return found


def _chains(name: str, module: nn.Module) -> Iterator[Chain]:
    chain, stack = _read(name, module), Stack.of(module)
    if chain is not None:
        yield chain
        return
    if stack is not None:
        yield from _subnetworks(name, stack)
        return
    for key, child in module.named_children():
        yield from _chains(f"{name}.{key}" if name else key, child)


def _subnetworks(name: str, stack: Stack) -> list[Chain]:
    owner, found = stack.owner, []
    for i, layers in enumerate(stack.parts):
        names = tuple(f"{name}.weights.{k}[{i}]" if name else f"weights.{k}[{i}]" for k in range(len(layers)))
        found.append(Chain(name, owner, names, layers, (owner.activation,) * (len(layers) - 1), stack, i))
    whole = _gives(owner, found[0].layers[0], lambda x: stack.combine([c.hidden(x)[-1] for c in found]))
    return found if whole and not _shortcuts(owner, len(owner.widths)) else []


def _shortcuts(module: nn.Module, hidden: int) -> bool:
    """Whether other widths would switch residual additions on: sciml's networks add layers of equal widths."""
    return bool(getattr(module, "shortcut", False)) and hidden > 1


def _read(name: str, module: nn.Module) -> Chain | None:
    found = list(linears(module))
    if isinstance(module, nn.Linear) or len(found) < 2:
        return None
    layers = tuple(layer for _, layer in found)
    if any(a.out_features != b.in_features for a, b in zip(layers, layers[1:], strict=False)):
        return None
    sigmas = _activations(module, len(layers) - 1)
    if sigmas is None:
        return None
    names = tuple(f"{name}.{key}" if name else key for key, _ in found)
    chain = Chain(name, module, names, layers, sigmas)
    whole = _gives(module, layers[0], lambda x: chain.hidden(x)[-1])
    return chain if whole and not _shortcuts(module, len(layers) - 1) else None


def _activations(module: nn.Module, count: int) -> tuple[Sigma, ...] | None:
    """The activations between the layers: one attribute `activation` for all, or modules without parameters."""
    activation = getattr(module, "activation", None)
    if callable(activation):
        return (activation,) * count
    leaves = [m for m in module.modules() if not list(m.children())]
    between: list[list[Sigma]] = []
    for leaf in leaves:
        if isinstance(leaf, nn.Linear):
            between.append([])
        elif leaf.state_dict() or not between:
            return None
        else:
            between[-1].append(leaf)
    if len(between) != count + 1 or between[-1] or any(len(b) != 1 for b in between[:-1]):
        return None
    return tuple(b[0] for b in between[:-1])


def _gives(module: nn.Module, layer: nn.Linear, output: Sigma) -> bool:
    """Whether the module gives what was read of it, at random points."""
    first = layer.weight
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(7, layer.in_features, dtype=torch.float64, generator=generator).to(first)
    training = module.training
    module.eval()
    try:
        with torch.no_grad():
            ours, theirs = output(x), module(x)
    except (RuntimeError, TypeError, ValueError, IndexError):
        return False  # a module that wants other arguments is not a chain
    finally:
        module.train(training)
    if not isinstance(theirs, Tensor) or theirs.numel() != ours.numel():
        return False
    scale = float(ours.abs().max()) + float(ours.dtype == torch.float64) * 1e-300
    return bool((ours.reshape(theirs.shape) - theirs).abs().max() <= 1e4 * torch.finfo(ours.dtype).eps * scale)


@dataclass(frozen=True)
class Parity:
    """Symmetries of an activation: sigma(-z) = -sigma(z), sigma(-z) = sigma(z), sigma(c z) = c sigma(z) for c > 0."""

    odd: bool
    even: bool
    homogeneous: bool


def parity(sigma: Sigma) -> Parity:
    """The symmetries of an activation, by evaluation at a hundred places."""
    z = torch.linspace(-5, 5, 101, dtype=torch.float64) * 0.97 + 0.013
    with torch.no_grad():
        value, mirrored, stretched = sigma(z), sigma(-z), sigma(1.7 * z)
    close = 1e-13 * float(value.abs().max())

    def equal(a: Tensor, b: Tensor) -> bool:
        return bool((a - b).abs().max() <= 4 * close)

    return Parity(equal(mirrored, -value), equal(mirrored, value), equal(stretched, 1.7 * value))


def rows(layer: nn.Module | Tensor) -> Tensor:
    """The neurons of a layer as rows [w, b], ``(m, d + 1)`` float64 (``(m, d)`` without bias).

    Args:
        layer: a linear layer, or the rows themselves.

    Raises:
        ValueError: for anything else, or non-finite weights.
    """
    if isinstance(layer, nn.Module):
        weight, bias = getattr(layer, "weight", None), getattr(layer, "bias", None)
        if not isinstance(weight, Tensor) or weight.ndim != 2:
            raise ValueError(
                f"layer is a {type(layer).__name__}, but neurons are the rows of a layer with a 2-d `weight` such as "
                "torch.nn.Linear; for a whole network use theory.Condensation"
            )
        layer = weight if bias is None else torch.cat([weight, bias[:, None]], 1)
    if layer.ndim != 2:
        raise ValueError(f"layer has shape {tuple(layer.shape)}, but neurons are rows of shape (m, d)")
    values = layer.detach().to("cpu", torch.float64)
    if not torch.isfinite(values).all():
        raise ValueError("layer has non-finite weights, which have no orientation")
    return values


def set_linear(layer: nn.Linear, weight: Tensor, bias: Tensor | None) -> None:
    """Give a linear layer other parameters, of another shape if need be."""
    old = layer.weight
    layer.weight = nn.Parameter(weight.detach().to(old), requires_grad=old.requires_grad)
    if bias is not None:
        layer.bias = nn.Parameter(bias.detach().to(old), requires_grad=old.requires_grad)
    layer.out_features, layer.in_features = weight.shape


def set_widths(chain: Chain) -> None:
    """Tell the chain's owner its new widths, if it keeps them, and its layers, if they are copies."""
    if chain.stack is not None:
        chain.stack.store()
    elif isinstance(getattr(chain.owner, "widths", None), tuple):
        chain.owner.widths = chain.widths  # type: ignore[assignment]


def copied(network: nn.Module) -> nn.Module:
    """A network of its own with equal parameters, without gradients."""
    if not isinstance(network, nn.Module):
        raise TypeError(f"network is a {type(network).__name__}, but must be a torch.nn.Module")
    twin = copy.deepcopy(network)
    for p in twin.parameters():
        p.grad = None
    return twin
