"""Passage of values and derivatives through the layers of a network.

A *packed* tensor ``(*s, width, channels, n)`` holds, for every neuron, rows over the n points: the value, the first
derivatives, the Laplacian, chosen second derivatives. The leading dimension s, where there is one, stacks
subnetworks. Points come last because matrix products and elementwise passes run about twice as fast along n as along
a narrow width.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd import forward_ad

from sciml.activations import Activation, Derivatives
from sciml.calculus import Pairs, Taylor
from sciml.laplacian import Laplacian

__all__ = ["Channels", "Gradient", "Layer", "Step", "propagate"]


class Layer(NamedTuple):
    """``activation(x W + b)`` with weight ``(*s, in, out)`` and bias ``(*s, out)``."""

    weight: Tensor
    bias: Tensor
    activation: Activation


class Channels(NamedTuple):
    """Which rows travel: the value, one first derivative per coordinate, the Laplacian, and second derivatives."""

    dim: int = 0
    laplacian: bool = False
    pairs: Pairs = ()

    @property
    def order(self) -> int:
        """Of the derivative of the activation that the rows need."""
        return 2 if self.laplacian or self.pairs else 1 if self.dim else 0

    def split(self, packed: Tensor, slopes: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor]:
        """Views: first derivatives ``(..., d, n)``, Laplacian ``(..., 0 or 1, n)``, pairs ``(..., p, n)``."""
        own = self.dim if slopes is None else 0
        first = packed.narrow(-2, 1, own) if slopes is None else slopes.unsqueeze(-1)
        lap = packed.narrow(-2, 1 + own, int(self.laplacian))
        return first, lap, packed.narrow(-2, 1 + own + self.laplacian, len(self.pairs))


def propagate(t: Taylor, hidden: Sequence[Layer], weight: Tensor, bias: Tensor, shortcut: bool) -> Taylor:
    """The expansion of a network along that of its input; outputs of stacked subnetworks are summed.

    Args:
        t: value ``(n, in)`` and derivatives. Where the first derivatives are the same at all points, as at a seed or
            after a linear map (a stride of zero along n tells), they stay one row until the first activation.
        hidden: the hidden layers.
        weight: ``(*s, width, out)`` of the linear last layer.
        bias: ``(*s, out)`` of the linear last layer.
        shortcut: a hidden layer adds the one before it where their widths are equal.
    """
    first = t.first
    if first is None or t.second is not None or weight.shape[-1] > 1 or not _constant(first):
        return _by_steps(t, hidden, weight, bias, shortcut)
    if len(t.value) == 1:  # one point at a time, as in a batch of gradients: reverse mode would go through twice
        return _by_steps(t, hidden, weight, bias, shortcut)
    parameters = [p for layer in hidden for p in layer[:2]] + [weight, bias]
    activations = tuple(layer.activation for layer in hidden)
    above = int(torch.is_grad_enabled())
    if t.lap is not None:
        # training needs what the channels keep: to go through twice would take longer
        if above or not _constant(t.lap[None]):
            return _by_steps(t, hidden, weight, bias, shortcut)
        channels = partial(_laplacian_by_channels, activations, shortcut)
        seeds = t.value, first[:, 0], t.lap[0]
        value, gradient, laplacian = Laplacian.apply(*seeds, activations, shortcut, channels, *parameters)
        return Taylor(value[:, None], gradient[..., None], laplacian[:, None])
    value, gradient = Gradient.apply(t.value, activations, shortcut, above, *parameters)[:2]
    return Taylor(value[:, None], torch.matmul(first[:, 0], gradient)[..., None])


def _constant(first: Tensor) -> bool:
    """Whether first derivatives ``(d, n, m)`` are the same at all n points, as far as the strides tell."""
    return first.shape[1] == 1 or first.stride(1) == 0


def _by_steps(t: Taylor, hidden: Sequence[Layer], weight: Tensor, bias: Tensor, shortcut: bool) -> Taylor:
    """Any expansion, all derivatives forward."""
    pairs = t.pairs if t.second is not None else ()
    channels = Channels(0 if t.first is None else len(t.first), t.lap is not None, pairs)
    rows, slopes = [t.value[None]], None
    if t.first is not None:
        if _constant(t.first):
            slopes = torch.matmul(hidden[0].weight.mT, t.first[:, 0].T)
        else:
            rows.append(t.first)
    rows += [a for a in (None if t.lap is None else t.lap[None], t.second) if a is not None]
    h = (rows[0] if len(rows) == 1 else torch.cat(rows)).permute(2, 0, 1)
    above = int(torch.is_grad_enabled())
    for k, layer in enumerate(hidden):
        start = slopes if k == 0 else None
        out = Step.apply(h, layer.weight, layer.bias, start, layer.activation, channels, above)[0]
        h = out + h if shortcut and k and out.shape == h.shape else out
    # one product, which also sums over the subnetworks
    stacked = h.reshape(h.shape[:-2].numel(), h.shape[-2] * h.shape[-1])
    y = _rows(torch.matmul(weight.reshape(-1, weight.shape[-1]).T, stacked), h)
    first, lap, second = (a.permute(1, 2, 0) for a in channels.split(y))
    return Taylor(
        y[:, 0].T + (bias.sum(0) if bias.ndim == 2 else bias),
        first if channels.dim else None,
        lap[0] if channels.laplacian else None,
        second if pairs else None,
        pairs,
    )


class Step(torch.autograd.Function):
    """One hidden layer in one node: matrix product, bias on the value, activation by the chain rule.

    ``apply(h, weight, bias, slopes, activation, channels, above)`` with packed h ``(*s, in, c, n)``, weight
    ``(*s, in, out)`` and bias ``(*s, out)``. In a first layer, first derivatives that are the same at all points come
    multiplied as `slopes` ``(*s, out, d)``, and h lacks their rows. The outputs are the packed result, the image z
    before the activation, and ``f', f'', ...`` at z (these not differentiable) up to the order of the channels plus
    `above`, 1 for a result that will be differentiated: the backward pass evaluates nothing twice.
    """

    @staticmethod
    def forward(
        h: Tensor,
        weight: Tensor,
        bias: Tensor,
        slopes: Tensor | None,
        activation: Activation,
        channels: Channels,
        above: int,
    ) -> tuple[Tensor, ...]:
        """The packed result, z, and derivatives of the activation at z."""
        z = _rows(torch.matmul(weight.mT, _columns(h)), h)
        value = z.select(-2, 0).add_(bias.unsqueeze(-1))
        f = activation.derivatives(value, channels.order + above)
        if channels.dim == 0:
            return (f[0].unsqueeze(-2), z, *f[1:])
        first, lap, second = channels.split(z, slopes)
        out = z.new_empty(*z.shape[:-2], z.shape[-2] + (0 if slopes is None else channels.dim), z.shape[-1])
        out_first, out_lap, out_second = channels.split(out)
        out.select(-2, 0).copy_(f[0])
        f1 = f[1].unsqueeze(-2)
        torch.mul(f1, first, out=out_first)
        if channels.laplacian:
            torch.mul(f1, lap, out=out_lap)
            for i in range(channels.dim):
                row = first.select(-2, i)
                out_lap.select(-2, 0).addcmul_(f[2], row * row)
        if channels.pairs:
            torch.mul(f1, second, out=out_second)
            for k, (i, j) in enumerate(channels.pairs):
                out_second.select(-2, k).addcmul_(f[2], first.select(-2, i) * first.select(-2, j))
        return (out, z, *f[1:])

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        """What the derivatives of this node need."""
        h, weight, bias, slopes, ctx.activation, ctx.channels, _ = inputs
        ctx.mark_non_differentiable(*output[2:])
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(h, weight, slopes, *output[1:])
        ctx.save_for_forward(h, weight, slopes, *output[1:])

    @staticmethod
    def _derivatives(ctx: Any, z: Tensor, saved: Sequence[Tensor]) -> Derivatives:
        """``(f', f'', ...)`` at z: the saved ones, or, where they will be differentiated, evaluated once more."""
        order = ctx.channels.order + 1
        moving = forward_ad.unpack_dual(z).tangent is not None
        if len(saved) < order or torch.is_grad_enabled() or moving:
            return ctx.activation.derivatives(z.select(-2, 0), order)[1:]
        return tuple(saved)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
        """Gradients with respect to h, weight, bias and slopes."""
        g, gz = grads[:2]
        h, weight, slopes, z, *f = ctx.saved_tensors
        g_slopes = None
        if g is not None:
            pulled, g_slopes = _pull(g, z, slopes, Step._derivatives(ctx, z, f), ctx.channels)
            gz = pulled if gz is None else gz + pulled
        if gz is None:
            return (None,) * 7
        g_bias = gz.select(-2, 0).sum(-1)
        flat = _columns(gz)
        g_weight = torch.matmul(_columns(h), flat.mT)
        g_h = None
        if ctx.needs_input_grad[0]:
            g_h = _rows(torch.matmul(weight, flat), gz).sum_to_size(h.shape)
        return (
            g_h,
            g_weight.sum_to_size(weight.shape),
            g_bias.sum_to_size(weight[..., 0, :].shape),
            g_slopes,
            None,
            None,
            None,
        )

    @staticmethod
    def jvp(
        ctx: Any, dh: Tensor | None, dw: Tensor | None, db: Tensor | None, ds: Tensor | None, *_: Any
    ) -> tuple[Tensor | None, ...]:
        """Tangents of the packed result and of z."""
        h, weight, slopes, z, *f = ctx.saved_tensors
        dz = torch.zeros_like(z)
        if dh is not None:
            dz = dz + _rows(torch.matmul(weight.mT, _columns(dh)), z)
        if dw is not None:
            dz = dz + _rows(torch.matmul(dw.mT, _columns(h)), z)
        if db is not None:
            dz = torch.cat([dz.narrow(-2, 0, 1) + db[..., None, None], dz.narrow(-2, 1, z.shape[-2] - 1)], -2)
        if slopes is not None and ds is None:
            ds = torch.zeros_like(slopes)
        again = ctx.activation.derivatives(z.select(-2, 0), ctx.channels.order + 1)[1:]
        out = _push(dz, ds, z, slopes, again, ctx.channels)
        return (out, dz, *(None for _ in f))

    @staticmethod
    def vmap(info: Any, in_dims: tuple[int | None, ...], *inputs: Any) -> tuple[tuple[Tensor, ...], tuple[int, ...]]:
        """A batch of points becomes more columns, a batch of weights one more leading dimension."""
        h, weight, bias, slopes, *rest = inputs
        if all(d is None for d in in_dims[1:4]):
            # a batch of points: more columns for the same matrix product
            out = Step.apply(h.movedim(in_dims[0], -2).flatten(-2), weight, bias, slopes, *rest)
            columns = (info.batch_size, h.shape[-1])
            return tuple(a.unflatten(-1, columns) for a in out), tuple(a.ndim - 1 for a in out)
        # a batch of weights: one more leading dimension, of size one where an argument is shared
        leading = max(a.ndim - (d is not None) - core for a, d, core in zip((h, weight), in_dims, (3, 2), strict=False))
        h, weight, bias = (
            _leading(a, d, leading + core) for a, d, core in zip((h, weight, bias), in_dims[:3], (3, 2, 1), strict=True)
        )
        slopes = slopes if slopes is None else _leading(slopes, in_dims[3], leading + 2)
        out = Step.apply(h, weight.expand(info.batch_size, *weight.shape[1:]), bias, slopes, *rest)
        return out, (0,) * len(out)


def _leading(a: Tensor, at: int | None, rank: int) -> Tensor:
    """The batch dimension first, then as many dimensions of size one as make up the rank of the others."""
    a = a.unsqueeze(0) if at is None else a.movedim(at, 0)
    return a.reshape(a.shape[0], *[1] * (rank + 1 - a.ndim), *a.shape[1:])


def _pull(
    g: Tensor, z: Tensor, slopes: Tensor | None, f: Derivatives, channels: Channels
) -> tuple[Tensor, Tensor | None]:
    """Gradients with respect to z and to the slopes, from that of the packed result; f = (f', f'', ...)."""
    f1 = f[0].unsqueeze(-2)
    if channels.dim == 0:
        return f1 * g, None
    first, lap, second = channels.split(z, slopes)
    g_first, g_lap, g_second = channels.split(g)
    bend = _dot(first, g_first)  # f'' times the sum over rows of (row in) * (gradient out) goes to the value
    back: dict[int, Tensor] = {}  # what the products of first derivatives send back to each of them, over f''
    if channels.laplacian:
        weight = g_lap.select(-2, 0)
        bend = torch.addcmul(bend, lap.select(-2, 0), weight)
        for i in range(channels.dim):
            back[i] = 2 * first.select(-2, i) * weight
    if channels.pairs:
        bend = bend + _dot(second, g_second)
        for k, (i, j) in enumerate(channels.pairs):
            for a, b in ((i, j), (j, i)):
                row = first.select(-2, b) * g_second.select(-2, k)
                back[a] = back[a] + row if a in back else row
    to_value = [(0, f[1], bend)]
    if back:
        bent = sum((first.select(-2, i) * row for i, row in back.items()), torch.zeros_like(bend))
        to_value.append((0, f[2], 0.5 * bent))
    if slopes is None:
        return _add_products(f1 * g, [*to_value, *((1 + i, f[1], row) for i, row in back.items())]), None
    rows = [0, *range(1 + channels.dim, g.shape[-2])]
    gz = f1 * (g.narrow(-2, 0, 1) if len(rows) == 1 else g[..., rows, :])
    to_first = _add_products(f1 * g_first, [(i, f[1], row) for i, row in back.items()])
    return _add_products(gz, to_value), to_first.sum(-1).sum_to_size(slopes.shape)


def _push(
    dz: Tensor, ds: Tensor | None, z: Tensor, slopes: Tensor | None, f: Derivatives, channels: Channels
) -> Tensor:
    """The tangent of the packed result from those of z and of the slopes."""
    d0, f1 = dz.narrow(-2, 0, 1), f[0].unsqueeze(-2)
    if channels.dim == 0:
        return f1 * d0
    f2 = f[1].unsqueeze(-2)
    first, lap, second = channels.split(z, slopes)
    d_first, d_lap, d_second = channels.split(dz, ds)
    parts = [f1 * d0, f1 * d_first + f2 * d0 * first]
    if channels.laplacian:
        cross = (2 * first * d_first).sum(-2, keepdim=True)
        bent = f[2].unsqueeze(-2) * d0 * first.square().sum(-2, keepdim=True)
        parts.append(f1 * d_lap + f2 * (d0 * lap + cross) + bent)
    if channels.pairs:
        i, j = map(list, zip(*channels.pairs, strict=True))
        a, b = first[..., i, :], first[..., j, :]
        cross = d_first[..., i, :] * b + a * d_first[..., j, :]
        parts.append(f1 * d_second + f2 * (d0 * second + cross) + f[2].unsqueeze(-2) * d0 * a * b)
    return torch.cat(parts, -2)


def _add_products(packed: Tensor, terms: Sequence[tuple[int, Tensor, Tensor]]) -> Tensor:
    """Add a * b to row k of a fresh tensor for all (k, a, b): in place, but where torch.func may not allow that."""
    if not torch.is_grad_enabled():
        for k, a, b in terms:
            packed.select(-2, k).addcmul_(a, b)
        return packed
    rows = list(packed.unbind(-2))
    for k, a, b in terms:
        rows[k] = rows[k] + a * b
    return torch.stack(rows, -2)


def _columns(a: Tensor) -> Tensor:
    """``(..., c, n)`` as the columns ``(..., c * n)`` of a matrix product."""
    return a.reshape(*a.shape[:-2], a.shape[-2] * a.shape[-1])


def _rows(columns: Tensor, like: Tensor) -> Tensor:
    """Back to ``(..., c, n)``."""
    return columns.reshape(*columns.shape[:-1], *like.shape[-2:])


def _dot(a: Tensor, b: Tensor) -> Tensor:
    """Sum over the rows of the product, without a temporary that holds them all."""
    total = a.select(-2, 0) * b.select(-2, 0)
    for i in range(1, b.shape[-2]):
        total = torch.addcmul(total, a.select(-2, i), b.select(-2, i))
    return total


class Gradient(torch.autograd.Function):
    """Value and gradient of a scalar network by reverse mode, with a closed backward pass.

    ``apply(x, activations, shortcut, above, *parameters)``, parameters W_1, b_1, ..., W_l, b_l as in `propagate`, gives
    ``y (n,)`` and ``G (in, n)``, then what the backward pass needs. That pass is six matrix products per layer and
    point, whatever the number of coordinates is; d derivative channels take ``3 (1 + d)``::

        z_k = W_k^T h_(k-1) + b_k,  h_k = f(z_k),           up    (1)
        q_k = f'(z_k) r_k,          r_(k-1) = W_k q_k,      down  (1), r_l = W_(l+1), and r_0 = G
        t_k = W_k^T f'(z_(k-1)) t_(k-1),                    up    (1), the derivative of z along the gradient of G
        g_k = f'(z_k) W_(k+1) g_(k+1) + f''(z_k) t_k r_k,   down  (1), g_(l+1) the gradient of y
        dW_k = h_(k-1) g_k^T + f'(z_(k-1)) t_(k-1) q_k^T          (2)

    Where more than that is wanted (derivatives of these derivatives, of x, batches) the derivative channels take over.
    """

    @staticmethod
    def forward(
        x: Tensor, activations: Sequence[Activation], shortcut: bool, above: int, *parameters: Tensor
    ) -> tuple[Tensor, ...]:
        """``y``, ``G``, and for each layer h, f', f'', r, q."""
        weights, biases = parameters[::2], parameters[1::2]
        h = x.T
        hs: list[Tensor] = []
        f1s: list[Tensor] = []
        f2s: list[Tensor] = []
        for k, activation in enumerate(activations):
            z = torch.matmul(weights[k].mT, h).add_(biases[k].unsqueeze(-1))
            f = activation.derivatives(z, 1 + above)
            h = f[0] + h if _adds(weights, k, shortcut) else f[0]
            hs.append(h)
            f1s.append(f[1])
            f2s += f[2:]
        y = torch.matmul(weights[-1].reshape(1, -1), h.reshape(-1, len(x)))[0] + biases[-1].sum()
        rs, qs = [], []
        r = weights[-1]
        for k in range(len(activations) - 1, -1, -1):
            q = f1s[k] * r
            rs.append(r)
            qs.append(q)
            if k:
                below = torch.matmul(weights[k], q)
                r = below.add_(r) if _adds(weights, k, shortcut) else below
        first = weights[0].movedim(-2, 0)
        gradient = torch.matmul(first.reshape(len(first), -1), q.reshape(-1, len(x)))
        kept = [*hs, *f1s, *f2s, *rs[:0:-1], *qs[::-1]] if above else []
        return (y, gradient, *kept)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        """What the backward pass needs."""
        x, ctx.activations, ctx.shortcut, _, *parameters = inputs
        ctx.mark_non_differentiable(*output[2:])
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(x, *parameters, *output[2:])
        ctx.save_for_forward(x, *parameters, *output[2:])

    @staticmethod
    def _open(ctx: Any) -> tuple[Callable[..., tuple[Tensor, Tensor]], tuple[Tensor, ...], tuple[Tensor, ...]]:
        """The same function by derivative channels, its arguments, and what forward kept."""
        count = 3 + 2 * len(ctx.activations)
        arguments, kept = ctx.saved_tensors[:count], ctx.saved_tensors[count:]
        return partial(_by_channels, ctx.activations, ctx.shortcut), arguments, kept

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
        """Gradients with respect to the parameters."""
        function, (x, *parameters), kept = Gradient._open(ctx)
        gy = x.new_zeros(len(x)) if grads[0] is None else grads[0]
        gg = torch.zeros_like(x).T if grads[1] is None else grads[1]
        moving = any(forward_ad.unpack_dual(p).tangent is not None for p in (gy, gg, *parameters))
        if not kept or moving or torch.is_grad_enabled() or ctx.needs_input_grad[0]:
            gx, *g = torch.func.vjp(function, x, *parameters)[1]((gy, gg))
            return gx, None, None, None, *g
        return None, None, None, None, *_gradient_backward(gy, gg, x, parameters, kept, ctx.shortcut)

    @staticmethod
    def jvp(ctx: Any, dx: Tensor | None, _a: None, _b: None, _c: None, *tangents: Tensor | None) -> tuple[Any, ...]:
        """Tangents of y and G: the transpose of the pull-back, which is linear."""
        function, arguments, kept = Gradient._open(ctx)
        given = (dx, *tangents)
        moved = tuple(torch.zeros_like(a) if t is None else t for a, t in zip(arguments, given, strict=True))
        value, pull, *_ = torch.func.vjp(function, *arguments)
        push = torch.func.vjp(pull, tuple(torch.zeros_like(v) for v in value))[1]
        return *push(moved)[0], *(None for _ in kept)

    @staticmethod
    def vmap(info: Any, in_dims: tuple[int | None, ...], *inputs: Any) -> tuple[tuple[Tensor, Tensor], tuple[int, int]]:
        """By derivative channels."""
        x, activations, shortcut, _, *parameters = inputs
        function = partial(_by_channels, activations, shortcut)
        dims = (in_dims[0], *in_dims[4:])
        return torch.func.vmap(function, dims)(x, *parameters), (0, 0)


def _by_channels(
    activations: Sequence[Activation], shortcut: bool, x: Tensor, *parameters: Tensor
) -> tuple[Tensor, Tensor]:
    """``y (n,)`` and ``G (in, n)`` by derivative channels."""
    layers = [Layer(*p) for p in zip(parameters[:-2:2], parameters[1:-2:2], activations, strict=True)]
    t = _by_steps(Taylor.seed(x, 1), layers, parameters[-2], parameters[-1], shortcut)
    assert t.first is not None
    return t.value[:, 0], t.first[..., 0]


def _laplacian_by_channels(
    activations: Sequence[Activation], shortcut: bool, x: Tensor, first: Tensor, lap: Tensor, *parameters: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """`Laplacian` by derivative channels."""
    layers = [Layer(*p) for p in zip(parameters[:-2:2], parameters[1:-2:2], activations, strict=True)]
    seed = Taylor(x, first.unsqueeze(1).expand(len(first), *x.shape), lap.expand(x.shape))
    t = _by_steps(seed, layers, parameters[-2], parameters[-1], shortcut)
    assert t.first is not None and t.lap is not None
    return t.value[:, 0], t.first[..., 0], t.lap[:, 0]


def _adds(weights: Sequence[Tensor], k: int, shortcut: bool) -> bool:
    """Whether hidden layer k adds the one before it."""
    return shortcut and k > 0 and weights[k].shape[-2] == weights[k].shape[-1]


def _gradient_backward(
    gy: Tensor, gg: Tensor, x: Tensor, parameters: Sequence[Tensor], kept: Sequence[Tensor], shortcut: bool
) -> list[Tensor]:
    """Gradients with respect to W_1, b_1, ... in the notation of `Gradient`."""
    weights, last = parameters[:-2:2], parameters[-2]
    depth = len(weights)
    hs, f1s, f2s = ([*kept[i * depth : (i + 1) * depth]] for i in range(3))
    rs, qs = [*kept[3 * depth : 4 * depth - 1], last], kept[4 * depth - 1 :]
    moved, bent, s = [gg], [], gg  # the derivatives of h along gg, and t r
    for k in range(depth):
        t = torch.matmul(weights[k].mT, s)
        bent.append(t * rs[k])
        s = t.mul_(f1s[k])
        if _adds(weights, k, shortcut):
            s = s.add_(moved[-1])
        moved.append(s)
    g_last = torch.matmul(hs[-1], gy).add_(s.sum(-1)).unsqueeze(-1)
    found = [gy.sum().expand(parameters[-1].shape), g_last]
    gh = last * gy
    for k in range(depth - 1, -1, -1):
        g = (f1s[k] * gh).addcmul_(f2s[k], bent[k])
        below = hs[k - 1] if k else x.T
        g_weight = torch.matmul(below, g.mT).add_(torch.matmul(moved[k], qs[k].mT))
        found += [g.sum(-1), g_weight]
        if k:
            down = torch.matmul(weights[k], g)
            gh = down.add_(gh) if _adds(weights, k, shortcut) else down
    return found[::-1]
