"""Per-sample parameter Jacobians of a residual vector: one row per residual, never a backward pass per row.

Row i depends on point i alone. `sample_jacobian` knows two roads:

* The structured one, for our networks, bare or inside modules that call them once or twice at the points (hard
  boundary values, inverse problems). With the pre-activations z_k (all derivative channels) of layer k kept as
  intermediates, one reverse pass over the *batch* gives d r_i / d z_k for every i at once, and the Jacobian of a weight
  is the outer product of what entered the layer with that: for each point, a small matrix product over the channels.
* Batched gradients (`torch.func.vmap` of `torch.func.jacrev`), for everything else.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from sciml.activations import Activation
from sciml.calculus import Taylor, at
from sciml.networks import Dense, Mscale
from sciml.objective import Batch, Block, rebuilt

__all__ = ["last_layer_of", "sample_jacobian"]

Parameters = dict[str, Tensor]
Vector = Callable[[Any, Batch], Tensor]


def sample_jacobian(
    vector: Vector,
    model: nn.Module,
    batch: Batch,
    entries: int = 20_000_000,
    structured: bool = True,
    only: Collection[str] | None = None,
) -> tuple[Tensor, Tensor, dict[str, slice]]:
    """A residual vector and its Jacobian with respect to the trainable parameters.

    Args:
        vector: ``(field, batch) -> (rows,)``; rows of a point may depend on that point only.
        model: the network.
        batch: the points.
        entries: numbers held at a time beside the result, which bounds the memory of intermediates.
        structured: use closed formulas where the network has them; the values are the same.
        only: names of the parameters wanted; None for all that are trainable.

    Returns:
        ``r (rows,)``, ``J (rows, parameters)`` and the rows of each block by name. Rows are ordered point by point.
    """
    wanted = {k for k, p in model.named_parameters() if p.requires_grad} if only is None else set(only)
    trainable = {k: p.detach() for k, p in model.named_parameters() if k in wanted}
    network = _Inside.find(model) if structured else None
    points = [_Points(vector, name, block, batch.progress) for name, block in batch.blocks.items()]
    with torch.no_grad():
        each = [len(one.at_one(model, [t[0] for t in one.tensors])) for one in points]
    sizes = [k * len(one.block.x) for k, one in zip(each, points, strict=True)]
    like = next(iter(trainable.values()))
    r, jacobian = like.new_empty(sum(sizes)), like.new_empty(sum(sizes), sum(p.numel() for p in trainable.values()))
    slices, begin = {}, 0
    for one, k, size in zip(points, each, sizes, strict=True):
        rows = slices[one.name] = slice(begin, begin + size)
        n, begin = len(one.block.x), begin + size
        into = r[rows].view(n, k), jacobian[rows].view(n, k, -1)
        try:
            if network is None:
                raise _Unstructured
            _by_layers(one, network, trainable, entries, *into)
        except _Unstructured:
            _by_gradients(one, model, trainable, entries, *into)
    return r, jacobian, slices


class _Unstructured(Exception):
    """The residual uses the network in a way that the closed formulas do not cover."""


class _Points:
    """The residual of one block as a function of a field, for all of its points, some of them, or one under vmap."""

    def __init__(self, vector: Vector, name: str, block: Block, progress: float) -> None:
        self.vector, self.name, self.progress = vector, name, progress
        parts = [block.x, block.weight, block.normals, block.partner, *block.given]
        self.block, self.size = block, len(parts)
        self.present = [k for k, t in enumerate(parts) if t is not None]
        self.tensors: list[Tensor] = [parts[k] for k in self.present]

    def block_of(self, tensors: Any) -> Block:
        """The block again, from per-point tensors."""
        full: list[Any] = [None] * self.size
        for k, t in zip(self.present, tensors, strict=True):
            full[k] = t
        given = rebuilt(self.block.given, full[4:])
        return Block(full[0], full[1], full[2], given, self.block.condition, full[3])

    def __call__(self, field: Any, block: Block) -> Tensor:
        return self.vector(field, Batch({self.name: block}, self.progress))

    def chunks(self, size: int) -> Iterator[tuple[Tensor, ...]]:
        """The per-point tensors, so many points at a time."""
        return zip(*(t.split(size) for t in self.tensors), strict=True)

    def at_one(self, field: Any, tensors: Any) -> Tensor:
        """The rows of a single point."""
        return self(field, self.block_of([t[None] for t in tensors]))


def _fill(into: Tensor, tree: Mapping[str, Tensor], order: Iterable[str]) -> None:
    """Jacobians ``(n, k, ...)`` by parameter side by side in ``(n, k, parameters)``."""
    n, k = into.shape[:2]
    begin = 0
    for name in order:
        part = tree[name]
        count = part[0, 0].numel() if n else part.numel()
        into[..., begin : begin + count].view(n, k, *part.shape[2:]).copy_(part)
        begin += count


def _by_gradients(
    one: _Points, model: nn.Module, trainable: Parameters, entries: int, r: Tensor, jacobian: Tensor
) -> None:
    """Any network: a batched reverse pass per row."""

    def single(p: Parameters, *tensors: Tensor) -> tuple[Tensor, Tensor]:
        r = one.at_one(at(model, p), tensors)
        return r, r

    each = torch.func.vmap(torch.func.jacrev(single, has_aux=True), in_dims=(None, *[0] * len(one.tensors)))
    begin = 0
    for parts in one.chunks(max(1, entries // (8 * jacobian.shape[-1]))):
        rows = slice(begin, begin + len(parts[0]))
        tree, r[rows] = each(trainable, *parts)
        _fill(jacobian[rows], tree, trainable)
        begin = rows.stop


# ----------------------------------------------------------------------------------------------------- closed formulas


@dataclass(frozen=True)
class _Inside:
    """One of our networks inside modules that only hold it as ``network`` and have no other parameters but scalars."""

    model: nn.Module
    network: Dense | Mscale
    prefix: str

    @staticmethod
    def find(model: nn.Module) -> _Inside | None:
        inner, prefix = model, ""
        while not isinstance(inner, (Dense, Mscale)):
            below = inner._modules.get("network")
            if below is None or not hasattr(inner, "taylor"):
                return None
            inner, prefix = below, f"{prefix}network."
        return _Inside(model, inner, prefix)

    def around(self, inner: nn.Module) -> nn.Module:
        """The model with another network inside; the model itself is not changed."""
        return self._around(self.model, inner)

    def _around(self, outer: nn.Module, inner: nn.Module) -> nn.Module:
        if outer is self.network:
            return inner
        twin = copy.copy(outer)
        below = outer._modules["network"]
        assert below is not None
        twin._modules = {**outer._modules, "network": self._around(below, inner)}
        return twin


class _Stub(nn.Module):
    """What stands for a network: it hands its input to `answer`, which gives the channels of the output."""

    def __init__(self, network: Dense | Mscale, answer: Callable[[Taylor], Taylor]) -> None:
        super().__init__()
        self.scalar, self.smoothness, self.answer = network.outputs == 1, network.smoothness, answer

    def forward(self, x: Tensor) -> Tensor:
        value = self.answer(Taylor(x)).value
        return value.squeeze(-1) if self.scalar else value

    def taylor(self, t: Taylor) -> Taylor:
        return self.answer(t)


def _by_layers(one: _Points, inside: _Inside, trainable: Parameters, entries: int, r: Tensor, jacobian: Tensor) -> None:
    """Our networks: see the head of the module."""
    network = inside.network
    own = {k.removeprefix(inside.prefix): v for k, v in trainable.items() if k.startswith(inside.prefix)}
    others = {k: v for k, v in trainable.items() if not k.startswith(inside.prefix)}
    # per point: the Jacobian by layer, and the channels of every layer about eight times
    channels = 2 + one.block.x.shape[1] * (one.block.x.shape[1] + 1) // 2
    stack = len(network.scales) if isinstance(network, Mscale) and network.variant == 2 else 1
    chunk = max(1, entries // (jacobian[0].numel() + 8 * channels * stack * sum(network.widths)))
    begin = 0
    for parts in one.chunks(chunk):
        rows = slice(begin, begin + len(parts[0]))
        r[rows], mine, rest = _chunk(one, inside, own, others, parts, r.shape[1])
        _fill(jacobian[rows], {**{inside.prefix + k: v for k, v in mine.items()}, **rest}, trainable)
        begin = rows.stop


def _chunk(
    one: _Points, inside: _Inside, own: Parameters, others: Parameters, tensors: tuple[Tensor, ...], each: int
) -> tuple[Tensor, Parameters, Parameters]:
    """Rows ``(n, k)`` and their Jacobians ``(n, k, ...)`` by parameter: of the network, and of the rest."""
    network = inside.network
    # weights and biases from here on: nothing is pulled back through layers whose parameters are not wanted
    begin = -2 if own and set(own) <= set(last_layer(network)) else 0
    layers = _effective(network, own)
    _, pull, *_ = torch.func.vjp(lambda p: _effective(network, p)[begin:], own)
    block = one.block_of(tensors)
    passes: list[_Pass] = []

    def record(t: Taylor) -> Taylor:
        if not (t.value is block.x or t.value is block.partner):
            raise _Unstructured
        passes.append(_Pass(network, layers, t))
        return passes[-1].output()

    with torch.no_grad():
        one(inside.around(_Stub(network, record)), block)

    if not others and each == 1:
        seeds, rest, r = _head_of_batch(one, inside, passes, block)
    else:
        seeds, rest, r = _head_by_point(one, inside, passes, others, tensors)
    found = []
    for k in range(r.shape[1]):
        parts = [p.jacobian(seed[:, k].movedim(0, -1), begin) for p, seed in zip(passes, seeds, strict=True)]
        found.append([torch.stack(ts).sum(0) if len(ts) > 1 else ts[0] for ts in zip(*parts, strict=True)])
    by_layer = [ts[0][:, None] if len(ts) == 1 else torch.stack(ts, 1) for ts in zip(*found, strict=True)]
    (mine,) = torch.func.vmap(torch.func.vmap(pull))(by_layer)
    return r, mine, rest


def _replies(passes: list[_Pass], outputs: list[Tensor]) -> Callable[[Taylor], Taylor]:
    """Answers with given channels ``(outputs, c, n)``, in the order in which the network was evaluated."""
    left = iter(zip(passes, outputs, strict=True))

    def reply(t: Taylor) -> Taylor:
        done, y = next(left)
        return done.unpack(y)

    return reply


def _head_of_batch(
    one: _Points, inside: _Inside, passes: list[_Pass], block: Block
) -> tuple[list[Tensor], Parameters, Tensor]:
    """Derivatives of one row per point with respect to the channels, ``(n, 1, outputs, c)``: one gradient of their sum.

    Nothing runs under `torch.func.vmap`, which boundary values with checks of their own would not survive.
    """
    with torch.enable_grad():
        outputs = [p.values.detach().requires_grad_() for p in passes]
        r = one(inside.around(_Stub(inside.network, _replies(passes, outputs))), block)
        pulled = torch.autograd.grad(r.sum(), outputs)
    return [g.movedim(-1, 0)[:, None] for g in pulled], {}, r.detach()[:, None]


def _head_by_point(
    one: _Points, inside: _Inside, passes: list[_Pass], others: Parameters, tensors: tuple[Tensor, ...]
) -> tuple[list[Tensor], Parameters, Tensor]:
    """The same for several rows per point, and for other parameters than the network's."""

    def head(outputs: list[Tensor], scalars: Parameters, *parts: Tensor) -> tuple[Tensor, Tensor]:
        stub = _Stub(inside.network, _replies(passes, [y[..., None] for y in outputs]))
        r = one.at_one(at(inside.around(stub), scalars), parts)
        return r, r

    each = torch.func.vmap(
        torch.func.jacrev(head, argnums=(0, 1), has_aux=True), in_dims=(0, None, *[0] * len(tensors))
    )
    (seeds, rest), r = each([p.values.movedim(-1, 0) for p in passes], others, *tensors)
    return seeds, rest, r


def _effective(network: Dense | Mscale, parameters: Parameters) -> list[Tensor]:
    """Weights and biases as the layers use them, W_1, b_1, W_2, ...; a linear map of the parameters but for scales."""
    hidden, weight, bias = torch.func.functional_call(
        _Layers(network), {f"network.{k}": v for k, v in parameters.items()}, ()
    )
    return [p for layer in hidden for p in layer[:2]] + [weight, bias]


def last_layer(network: Dense | Mscale) -> list[str]:
    """Names of the parameters of the linear last layer."""
    if isinstance(network, Dense):
        return [f"layers.{len(network.layers) - 1}.{k}" for k in ("weight", "bias")]
    return [f"weights.{len(network.weights) - 1}", f"biases.{len(network.biases) - 1}"]


def last_layer_of(model: nn.Module) -> list[str] | None:
    """The same for one of our networks inside other modules; None where there is none."""
    inside = _Inside.find(model)
    return None if inside is None else [inside.prefix + k for k in last_layer(inside.network)]


class _Layers(nn.Module):
    """Lets `torch.func.functional_call` reach the layers of a network."""

    def __init__(self, network: Dense | Mscale) -> None:
        super().__init__()
        self.network = network

    def forward(self) -> Any:
        return self.network._layers()


class _Pass:
    """One evaluation of a network at a batch of points, kept so that per-sample Jacobians can follow.

    Attributes:
        y: channels of the output without the last bias, ``(outputs, c, n)``, with a graph.
        values: channels of the output.
    """

    def __init__(self, network: Dense | Mscale, layers: list[Tensor], t: Taylor) -> None:
        self.dim = 0 if t.first is None else len(t.first)
        self.laplacian, self.pairs = t.lap is not None, t.pairs if t.second is not None else ()
        value = t.value if network.centre is None else t.value - network.centre
        first = None if t.first is None else t.first.expand(self.dim, *value.shape)
        channels = [value[None], first, None if t.lap is None else t.lap[None], t.second]
        h = torch.cat([c for c in channels if c is not None]).permute(2, 0, 1).contiguous()
        activations = [layer.activation for layer in network._layers()[0]]
        weights, biases = layers[::2], layers[1::2]
        self.entering, self.images = [h], []
        self.transposed = isinstance(network, Dense)
        with torch.enable_grad():
            for k, activation in enumerate(activations):
                z = self._linear(weights[k], h)
                z = z.detach().requires_grad_() if k == 0 else z
                self.images.append(z)
                out = self._activate(activation, z, biases[k])
                h = out + h if network.shortcut and k and out.shape == h.shape else out
                self.entering.append(h.detach())
            y = self._linear(weights[-1], h)
            self.y = y.sum(0) if y.ndim == 4 else y
        self.values = self.y.detach().clone()
        self.values[:, 0] += biases[-1].reshape(-1, network.outputs).sum(0)[:, None]

    @staticmethod
    def _linear(weight: Tensor, h: Tensor) -> Tensor:
        flat = torch.matmul(weight.mT, h.reshape(*h.shape[:-2], -1))
        return flat.reshape(*flat.shape[:-1], *h.shape[-2:])

    def _activate(self, activation: Activation, z: Tensor, bias: Tensor) -> Tensor:
        order = 2 if self.laplacian or self.pairs else 1 if self.dim else 0
        f = activation.derivatives(z.select(-2, 0) + bias.unsqueeze(-1), order)
        rows = [f[0].unsqueeze(-2)]
        if self.dim:
            first = z.narrow(-2, 1, self.dim)
            rows.append(f[1].unsqueeze(-2) * first)
        if self.laplacian:
            lap = z.select(-2, 1 + self.dim)
            rows.append((f[2] * first.square().sum(-2) + f[1] * lap).unsqueeze(-2))
        if self.pairs:
            i, j = map(list, zip(*self.pairs, strict=True))
            cross = first[..., i, :] * first[..., j, :]
            second = z.narrow(-2, 1 + self.dim + self.laplacian, len(self.pairs))
            rows.append(f[2].unsqueeze(-2) * cross + f[1].unsqueeze(-2) * second)
        return rows[0] if len(rows) == 1 else torch.cat(rows, -2)

    def unpack(self, y: Tensor) -> Taylor:
        """Channels ``(outputs, c, n)`` as an expansion."""
        rows = y.permute(1, 2, 0)
        first = rows[1 : 1 + self.dim] if self.dim else None
        lap = rows[1 + self.dim] if self.laplacian else None
        second = rows[1 + self.dim + self.laplacian :] if self.pairs else None
        return Taylor(rows[0], first, lap, second, self.pairs)

    def output(self) -> Taylor:
        """The expansion of the network at the points."""
        return self.unpack(self.values)

    def jacobian(self, seed: Tensor, begin: int) -> list[Tensor]:
        """Derivatives with respect to W_1, b_1, W_2, ... of sum(seed * y), point by point: ``(n, *shape)`` each.

        Args:
            seed: ``(outputs, c, n)``.
            begin: 0 for all, -2 for the last layer only.
        """
        pulled = () if begin else torch.autograd.grad(self.y, self.images, seed, retain_graph=True)
        stack = self.images[0].shape[:-3]
        found = []
        for h, g in zip(self.entering[begin // 2 :], [*pulled, seed], strict=True):
            # what enters the first layer and leaves the last is shared by all subnetworks
            h, g = h.expand(*stack, *h.shape[-3:]), g.expand(*stack, *g.shape[-3:])
            # contiguous, since a batched product would otherwise copy matrix by matrix
            h, g = h.movedim(-1, 0).contiguous(), g.movedim(-1, 0).contiguous()
            # Dense keeps its weights (out, in): in that order they need no transposition point by point
            found.append(torch.matmul(g, h.mT).mT if self.transposed else torch.matmul(h, g.mT))
            found.append(g.select(-1, 0))
        return found
