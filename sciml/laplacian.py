"""Value, gradient and Laplacian of a scalar network where nothing is kept for a backward pass.

With pre-activations z_k, their tangents ``T_k = dz_k/dx`` (d rows) and the adjoint ``r_k = dy/dh_k`` of a network
``h_k = f(z_k)``, the chain rule gives ::

    Lap y = sum_k  r_k . ( f''(z_k) |T_k|^2 ),        |T_k|^2 the sum over the coordinates,

so only the tangents travel upwards beside the value, one adjoint travels down, and no second derivative does (the
"forward Laplacian" of arXiv:2307.08214 with its last channel transposed). The tangents of the first layer are the same
at all points, so that those of the second are one matrix product with f'(z_1). Points go through in blocks, which
bounds the memory and keeps it in the cache.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from sciml.activations import Activation

__all__ = ["Laplacian"]

_ENTRIES = 2**19  # numbers of a tangent per thread: less, and the calls take longer than the arithmetic


class Laplacian(torch.autograd.Function):
    """`apply(x, first, lap, activations, shortcut, channels, *parameters)` gives y ``(n,)``, G ``(d, n)``, L ``(n,)``.

    Args (of `apply`):
        x: input of the network ``(n, m)``.
        first: its derivatives along d coordinates ``(d, m)``, the same at all points.
        lap: its Laplacian ``(m,)``, the same at all points.
        activations: of the hidden layers.
        shortcut: a hidden layer adds the one before it where their widths are equal.
        channels: the same function by derivative channels, which takes over where derivatives or batches are wanted.
        parameters: W_1, b_1, ..., W_l, b_l; a leading dimension stacks subnetworks, whose outputs are summed.
    """

    @staticmethod
    def forward(
        x: Tensor,
        first: Tensor,
        lap: Tensor,
        activations: Sequence[Activation],
        shortcut: bool,
        channels: Callable[..., tuple[Tensor, Tensor, Tensor]],
        *parameters: Tensor,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Block by block."""
        per_point = max(w[..., 0, :].numel() for w in parameters[:-2:2]) * len(first)
        size = max(32, _ENTRIES * torch.get_num_threads() // per_point)
        slopes = torch.matmul(parameters[0].mT, first.T)
        bends = torch.matmul(parameters[0].mT, lap.unsqueeze(-1))
        blocks = [_block(part, slopes, bends, activations, shortcut, parameters) for part in x.split(size)]
        y, gradient, laplacian = (torch.cat(parts, -1) for parts in zip(*blocks, strict=True))
        return y, gradient, laplacian

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        """Keep what the derivative channels need."""
        x, first, lap, _, _, ctx.channels, *parameters = inputs
        ctx.save_for_backward(x, first, lap, *parameters)
        ctx.save_for_forward(x, first, lap, *parameters)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        """By derivative channels."""
        gx, gf, gl, *g = torch.func.vjp(ctx.channels, *ctx.saved_tensors)[1](grads)
        return gx, gf, gl, None, None, None, *g

    @staticmethod
    def jvp(ctx: Any, dx: Tensor | None, df: Tensor | None, dl: Tensor | None, *rest: Tensor | None) -> Any:
        """By derivative channels: the transpose of the pull-back, which is linear."""
        arguments = ctx.saved_tensors
        given = (dx, df, dl, *rest[3:])
        moved = tuple(torch.zeros_like(a) if t is None else t for a, t in zip(arguments, given, strict=True))
        with torch.enable_grad():
            value, pull, *_ = torch.func.vjp(ctx.channels, *arguments)
            push = torch.func.vjp(pull, tuple(torch.zeros_like(v) for v in value))[1]
            return push(moved)[0]

    @staticmethod
    def vmap(info: Any, in_dims: tuple[int | None, ...], *inputs: Any) -> tuple[Any, tuple[int, int, int]]:
        """By derivative channels."""
        x, first, lap, _, _, channels, *parameters = inputs
        dims = (*in_dims[:3], *in_dims[6:])
        return torch.func.vmap(channels, dims)(x, first, lap, *parameters), (0, 0, 0)


def _block(
    x: Tensor,
    slopes: Tensor,
    bends: Tensor,
    activations: Sequence[Activation],
    shortcut: bool,
    parameters: Sequence[Tensor],
) -> tuple[Tensor, Tensor, Tensor]:
    """Value, gradient and Laplacian at the points of a block, in the notation of the module."""
    weights, biases, last = parameters[:-2:2], parameters[1:-2:2], parameters[-2]
    h, t = x.T, slopes.unsqueeze(-1)  # t is (*s, width, d, n)
    adds = [shortcut and k > 0 and w.shape[-2] == w.shape[-1] for k, w in enumerate(weights)]
    kept: list[tuple[Tensor, Tensor]] = []  # f' and f'' |T|^2 of each layer, of the first f' and f''
    for k, (w, b) in enumerate(zip(weights, biases, strict=True)):
        z = torch.matmul(w.mT, h).add_(b.unsqueeze(-1))
        f0, f1, f2 = activations[k].derivatives(z, 2)
        h = f0 + h if adds[k] else f0
        if k:
            tangent = _tangent(w, slopes, kept[0][0]) if k == 1 else _product(w, t)
            f2 = _squares(tangent).mul_(f2)
        if k + 1 < len(weights) and (k or shortcut):
            moved = tangent.mul_(f1.unsqueeze(-2)) if k else t * f1.unsqueeze(-2)
            t = moved.add_(t) if adds[k] else moved
        kept.append((f1, f2))
    n = len(x)
    y = torch.matmul(last.reshape(1, -1), h.reshape(-1, n))[0] + parameters[-1].sum()
    laplacian, r = torch.zeros_like(y), last
    for k in range(len(weights) - 1, -1, -1):
        f1, f2 = kept[k]
        if k:
            laplacian += (f2 * r).flatten(0, -2).sum(0)
        q = f1 * r
        if k:
            below = torch.matmul(weights[k], q)
            r = below.add_(r) if adds[k] else below
    flat = q.reshape(-1, n)
    gradient = torch.matmul(slopes.flatten(0, -2).T, flat)
    laplacian += torch.matmul(slopes.square().sum(-1).reshape(1, -1), (f2 * r).reshape(-1, n))[0]
    return y, gradient, laplacian.add_(torch.matmul(bends.reshape(1, -1), flat)[0])


def _tangent(w: Tensor, slopes: Tensor, f1: Tensor) -> Tensor:
    """``W^T (f'(z_1) slopes)`` as one product with f'(z_1), ``(*s, out, d, n)``."""
    stacked = w.mT.unsqueeze(-2) * slopes.mT.unsqueeze(-3)
    product = torch.matmul(stacked.flatten(-3, -2), f1)
    return product.unflatten(-2, (w.shape[-1], slopes.shape[-1]))


def _product(w: Tensor, t: Tensor) -> Tensor:
    """``W^T t`` for every row of t ``(*s, in, d, n)``."""
    return torch.matmul(w.mT, t.flatten(-2)).unflatten(-1, t.shape[-2:])


def _squares(t: Tensor) -> Tensor:
    """The sum of the squares over the coordinates, ``(*s, width, n)``."""
    total = t.select(-2, 0).square()
    for i in range(1, t.shape[-2]):
        row = t.select(-2, i)
        total.addcmul_(row, row)
    return total
