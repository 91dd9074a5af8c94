"""Activations with their derivatives in closed form, and their passage through a layer of derivative channels.

The compactly supported ones come from the multi-scale networks of arXiv:2007.11207 and arXiv:2009.14597::

    srelu(x)  = (x)_+ (1-x)_+                                        support [0, 1], maximum 1/4
    s2relu(x) = sin(2 pi x) (x)_+ (1-x)_+                            support [0, 1]
    phi(x)    = (x)_+^2 - 3 (x-1)_+^2 + 3 (x-2)_+^2 - (x-3)_+^2      support [0, 3], maximum 3/2

A derivative that jumps at a kink takes there the value of the piece nearer to the centre of the support (for relu, the
value from the right): relu'(0) = 1, srelu'(0) = 1, srelu'(1) = -1, phi''(0) = phi''(3) = 2, phi''(1) = phi''(2) = -4.
Differentiating any of these by autograd gives the same values as the closed forms.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import torch
from torch import Tensor

from sciml.calculus import Pairs

__all__ = ["Activation", "gelu", "phi", "relu", "s2relu", "sine", "srelu", "tanh"]

Derivatives = tuple[Tensor, ...]


@dataclass(frozen=True)
class Activation:
    """An elementwise function that knows its derivatives.

    Attributes:
        name: as in the paper; ``srelu**2`` is called "srelu**2".
        smoothness: the largest k for which the function is C^k (``inf`` for analytic ones).
        rule: ``rule(x, order)`` gives ``(f, f', ...)`` up to `order` <= 3, each differentiable by autograd.
        support: the interval outside of which the function is exactly zero, or None.
        vanishing: at every kink the function behaves like ``(x - kink)_+ ** vanishing``; None where it does not
            vanish there, so that powers are no smoother than the function.
        exponent: of a power.

    >>> (srelu**2).smoothness, float((srelu**2)(torch.tensor(0.5)))
    (1.0, 0.0625)
    """

    name: str
    smoothness: float
    rule: Callable[[Tensor, int], Derivatives] = field(repr=False)
    support: tuple[float, float] | None = None
    vanishing: int | None = None
    exponent: int = 1

    def __call__(self, x: Tensor) -> Tensor:
        """The function, for any shape."""
        return self.derivatives(x, 0)[0]

    def derivatives(self, x: Tensor, order: int) -> Derivatives:
        """``(f, f', ..., f^(order))`` at `x`, each of the shape of `x`, computed together.

        Raises:
            ValueError: if `order` is not 0, 1, 2 or 3.
        """
        if order not in (0, 1, 2, 3):
            raise ValueError(f"order is {order!r}, but closed forms exist for 0, 1, 2 and 3")
        return _power(self.rule(x, order), self.exponent)

    def __pow__(self, exponent: int) -> Activation:
        """The k-th power of the function, k >= 1; kinks at which it vanishes become smoother."""
        if not isinstance(exponent, int) or exponent < 1:
            raise ValueError(f"exponent is {exponent!r}, but must be an integer >= 1")
        total = self.exponent * exponent
        smoothness = self.smoothness if self.vanishing is None else float(self.vanishing * total - 1)
        base = self.name.partition("**")[0]
        return replace(self, name=base if total == 1 else f"{base}**{total}", smoothness=smoothness, exponent=total)


def _power(f: Derivatives, k: int) -> Derivatives:
    """Derivatives of f^k from those of f."""
    if k == 1:
        return f

    def times(factor: int, exponent: int) -> Tensor:
        return factor * f[0] ** exponent if factor and exponent >= 0 else torch.zeros_like(f[0])

    outer = (f[0] ** k, times(k, k - 1), times(k * (k - 1), k - 2), times(k * (k - 1) * (k - 2), k - 3))
    out = [outer[0]]
    if len(f) > 1:
        out.append(outer[1] * f[1])
    if len(f) > 2:
        out.append(outer[2] * f[1] ** 2 + outer[1] * f[2])
    if len(f) > 3:
        out.append(outer[3] * f[1] ** 3 + 3 * outer[2] * f[1] * f[2] + outer[1] * f[3])
    return tuple(out)


# ------------------------------------------------------------------------------------------------------ closed forms


def _relu(x: Tensor, order: int) -> Derivatives:
    one = (x >= 0).to(x.dtype)
    return (x.clamp(min=0), one, torch.zeros_like(x), torch.zeros_like(x))[: order + 1]


def _srelu(x: Tensor, order: int) -> Derivatives:
    u = x.clamp(0, 1)
    if order == 0:
        return (u - u * u,)
    inside = (x == u).to(x.dtype)
    return (u - u * u, (1 - 2 * u) * inside, -2 * inside, torch.zeros_like(x))[: order + 1]


def _s2relu(x: Tensor, order: int) -> Derivatives:
    # Products are formed at the point of [0, 1] nearest to x: exactly zero outside, for however large an x.
    w = 2 * math.pi
    u = x.clamp(0, 1)
    p = u - u * u
    if order == 0:
        return (torch.sin(w * u) * p,)
    s, c = SinCos.apply(w * u)
    inside = (x == u).to(x.dtype)
    dp = 1 - 2 * u
    out = [s * p, inside * (w * c * p + s * dp)]
    if order > 1:
        out.append(inside * (2 * w * c * dp - s * (w * w * p + 2)))
    if order > 2:
        out.append(inside * (-w * c * (w * w * p + 6) - 3 * w * w * s * dp))
    return tuple(out)


def _phi(x: Tensor, order: int) -> Derivatives:
    # phi = a^2 - 3 b^2 with a = (3/2 - t)_+, b = (1/2 - t)_+, t = |x - 3/2|: nothing large cancels.
    side = torch.where(x < 1.5, -1.0, 1.0).to(x.dtype)
    t = side * (x - 1.5)
    a, b = (1.5 - t).clamp(min=0), (0.5 - t).clamp(min=0)
    out = [a * a - 3 * b * b]
    if order > 0:
        out.append(side * (6 * b - 2 * a))
    if order > 1:
        out.append(2 * (t <= 1.5).to(x.dtype) - 6 * (t <= 0.5).to(x.dtype))
    if order > 2:
        out.append(torch.zeros_like(x))
    return tuple(out)


def _sine(x: Tensor, order: int) -> Derivatives:
    if order == 0:
        return (torch.sin(x),)
    s, c = SinCos.apply(x)
    if order == 1:
        return (s, c)
    return (s, c, -s) if order == 2 else (s, c, -s, -c)


def _tanh(x: Tensor, order: int) -> Derivatives:
    t = torch.tanh(x)
    out = [t]
    if order > 0:
        d = 1 - t * t
        out.append(d)
    if order > 1:
        out.append(-2 * t * d)
    if order > 2:
        out.append(d * (6 * t * t - 2))
    return tuple(out)


def _gelu(x: Tensor, order: int) -> Derivatives:
    below = 0.5 * torch.erfc(x * -math.sqrt(0.5))
    out = [x * below]
    if order > 0:
        density = torch.exp(-0.5 * x * x) / math.sqrt(2 * math.pi)
        out.append(below + x * density)
    if order > 1:
        out.append(density * (2 - x * x))
    if order > 2:
        out.append(density * x * (x * x - 4))
    return tuple(out)


class SinCos(torch.autograd.Function):
    """``(sin x, cos x)``; the derivatives of each are made of the other, so no backward pass evaluates them again."""

    @staticmethod
    def forward(x: Tensor) -> tuple[Tensor, Tensor]:
        return torch.sin(x), torch.cos(x)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor], output: tuple[Tensor, Tensor]) -> None:
        ctx.save_for_backward(*output)
        ctx.save_for_forward(*output)
        ctx.set_materialize_grads(False)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> Tensor | None:
        s, c = ctx.saved_tensors
        gs, gc = grads
        if gs is None:
            return None if gc is None else -gc * s
        return gs * c if gc is None else gs * c - gc * s

    @staticmethod
    def jvp(ctx: Any, tangent: Tensor) -> tuple[Tensor, Tensor]:
        s, c = ctx.saved_tensors
        return tangent * c, -tangent * s

    @staticmethod
    def vmap(info: Any, in_dims: tuple[int], x: Tensor) -> tuple[tuple[Tensor, Tensor], tuple[int, int]]:
        return SinCos.apply(x), (in_dims[0], in_dims[0])


relu = Activation("relu", 0.0, _relu, vanishing=1)
srelu = Activation("srelu", 0.0, _srelu, (0.0, 1.0), vanishing=1)
s2relu = Activation("s2relu", 1.0, _s2relu, (0.0, 1.0), vanishing=2)
phi = Activation("phi", 1.0, _phi, (0.0, 3.0))
sine = Activation("sine", math.inf, _sine)
tanh = Activation("tanh", math.inf, _tanh)
gelu = Activation("gelu", math.inf, _gelu)

_NAMED = {a.name: a for a in (relu, srelu, s2relu, phi, sine, tanh, gelu)}


def named(name: str) -> Activation:
    """The activation that a saved network names.

    Raises:
        ValueError: if it is none of this module's and no power of one.
    """
    base, _, exponent = name.partition("**")
    if base not in _NAMED or not (exponent or "1").isdecimal():
        raise ValueError(f"the saved activation is {name!r}, but must be a power of one of {', '.join(_NAMED)}")
    return _NAMED[base] ** int(exponent or 1)


# --------------------------------------------------------------------------------- passage of derivative channels


class Channels(NamedTuple):
    """Which derivatives travel with a value: one row per coordinate, then the Laplacian, then chosen pairs.

    A packed tensor holds them as ``(..., channels, n, width)``: value, first_0, ..., [laplacian], second_0, ...
    """

    dim: int = 0
    laplacian: bool = False
    pairs: Pairs = ()

    @property
    def order(self) -> int:
        """Of the derivative of the activation that the channels need."""
        return 2 if self.laplacian or self.pairs else 1 if self.dim else 0

    def split(self, packed: Tensor, slopes: Tensor | None = None) -> tuple[Tensor, Tensor | None, Tensor | None]:
        """Views: first derivatives ``(..., d, n, w)``, Laplacian ``(..., 1, n, w)``, pairs ``(..., p, n, w)``."""
        at = 1
        if slopes is None:
            first = packed.narrow(-3, 1, self.dim)
            at += self.dim
        else:
            first = slopes.unsqueeze(-2)
        lap = packed.narrow(-3, at, 1) if self.laplacian else None
        second = packed.narrow(-3, at + self.laplacian, len(self.pairs)) if self.pairs else None
        return first, lap, second


class Activate(torch.autograd.Function):
    """One activation applied to a packed affine image, by the chain rule, with all its derivatives in one node.

    ``apply(z, bias, slopes, activation, channels, above)``: `z` is ``(*l, c, n, w)``, `bias` ``(*l, w)`` is added to
    the value only. Where the first derivatives are the same at all points, as in a first layer, they come as `slopes`
    ``(*l, d, w)`` and `z` lacks their rows. The first output is the packed result; the others, not differentiable, are
    ``f', f'', ...`` up to the order of the channels plus `above` (1 for a result that will be differentiated), kept so
    that the backward pass evaluates nothing twice.
    """

    @staticmethod
    def forward(
        z: Tensor, bias: Tensor | None, slopes: Tensor | None, activation: Activation, channels: Channels, above: int
    ) -> tuple[Tensor, ...]:
        z0 = z.select(-3, 0) if bias is None else z.select(-3, 0) + bias.unsqueeze(-2)
        f = activation.derivatives(z0, channels.order + above)
        extra = 0 if slopes is None else channels.dim
        lead = z0.shape[:-2]
        out = z.new_empty(*lead, z.shape[-3] + extra, *z.shape[-2:])
        out.select(-3, 0).copy_(f[0])
        first, lap, second = channels.split(z, slopes)
        out_first, out_lap, out_second = channels.split(out)
        f1 = f[1].unsqueeze(-3)
        torch.mul(f1, first, out=out_first)
        if lap is not None:
            torch.mul(f1, lap, out=out_lap)
            for i in range(channels.dim):
                row = first.select(-3, i)
                out_lap.select(-3, 0).addcmul_(f[2], row * row)
        if second is not None:
            torch.mul(f1, second, out=out_second)
            for k, (i, j) in enumerate(channels.pairs):
                out_second.select(-3, k).addcmul_(f[2], first.select(-3, i) * first.select(-3, j))
        return (out, *f[1:])

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        z, bias, slopes, ctx.activation, ctx.channels, _ = inputs
        ctx.mark_non_differentiable(*output[1:])
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(z, bias, slopes, *output[1:])
        ctx.save_for_forward(z, bias, slopes, *output[1:])

    @staticmethod
    def _saved(ctx: Any, order: int) -> tuple[Tensor, Tensor | None, Tensor | None, Derivatives]:
        """The inputs and ``(f', ..., f^(order))``, differentiable where they will be differentiated once more."""
        z, bias, slopes, *f = ctx.saved_tensors
        if len(f) < order or torch.is_grad_enabled():
            z0 = z.select(-3, 0) if bias is None else z.select(-3, 0) + bias.unsqueeze(-2)
            f = ctx.activation.derivatives(z0, order)[1:]
        return z, bias, slopes, tuple(f)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
        g, channels = grads[0], ctx.channels
        if g is None:
            return (None,) * 6
        z, bias, slopes, f = Activate._saved(ctx, channels.order + 1)
        first, lap, second = channels.split(z, slopes)
        g_first, g_lap, g_second = channels.split(g)
        # weight of f'' in the gradient of the value row: sum over the rows of (derivative in) * (gradient out)
        bend = _dot(first, g_first)
        f1 = f[0].unsqueeze(-3)
        if slopes is None:
            gz = f1 * g
        else:
            gz = f1 * torch.cat(
                [g.narrow(-3, 0, 1), g.narrow(-3, 1 + channels.dim, g.shape[-3] - 1 - channels.dim)], -3
            )
        rows: dict[int, Tensor] = {}  # what the products of first derivatives send back to each of them
        if lap is not None and g_lap is not None:
            weight = g_lap.select(-3, 0)
            bend = bend + lap.select(-3, 0) * weight
            for i in range(channels.dim):
                rows[i] = 2 * first.select(-3, i) * weight
        if second is not None and g_second is not None:
            bend = bend + _dot(second, g_second)
            for k, (i, j) in enumerate(channels.pairs):
                weight = g_second.select(-3, k)
                for a, b in ((i, j), (j, i)):
                    sent = first.select(-3, b) * weight
                    rows[a] = rows[a] + sent if a in rows else sent
        gz0 = f[1] * bend
        if rows:
            gz0 = gz0 + f[2] * sum(first.select(-3, i) * row for i, row in rows.items()) * 0.5
        gz.select(-3, 0).add_(gz0)
        if slopes is None:
            for i, row in rows.items():
                gz.select(-3, 1 + i).add_(f[1] * row)
            g_slopes = None
        else:
            parts = f1 * g_first
            for i, row in rows.items():
                parts.select(-3, i).add_(f[1] * row)
            g_slopes = parts.sum(-2).sum_to_size(slopes.shape)
        g_bias = None if bias is None else gz.select(-3, 0).sum(-2).sum_to_size(bias.shape)
        return gz.sum_to_size(z.shape), g_bias, g_slopes, None, None, None

    @staticmethod
    def jvp(ctx: Any, dz: Tensor | None, db: Tensor | None, ds: Tensor | None, *_: Any) -> tuple[Tensor | None, ...]:
        channels = ctx.channels
        z, bias, slopes, f = Activate._saved(ctx, channels.order + 1)
        dz = torch.zeros_like(z) if dz is None else dz
        if slopes is not None and ds is None:
            ds = torch.zeros_like(slopes)
        d0 = dz.select(-3, 0) if db is None else dz.select(-3, 0) + db.unsqueeze(-2)
        first, lap, second = channels.split(z, slopes)
        d_first, d_lap, d_second = channels.split(dz, ds)
        f1, f2, moved = f[0].unsqueeze(-3), f[1].unsqueeze(-3), d0.unsqueeze(-3)
        parts = [f1 * moved, f1 * d_first + f2 * moved * first]
        if lap is not None:
            cross = (2 * (first * d_first)).sum(-3, keepdim=True)
            bent = f[2].unsqueeze(-3) * moved * (first * first).sum(-3, keepdim=True)
            parts.append(f1 * d_lap + f2 * (moved * lap + cross) + bent)
        if second is not None:
            i, j = map(list, zip(*channels.pairs, strict=True))
            a, b = first[..., i, :, :], first[..., j, :, :]
            cross = d_first[..., i, :, :] * b + a * d_first[..., j, :, :]
            parts.append(f1 * d_second + f2 * (moved * second + cross) + f[2].unsqueeze(-3) * moved * a * b)
        return (torch.cat(parts, -3), *(None for _ in range(len(ctx.saved_tensors) - 3)))

    @staticmethod
    def vmap(
        info: Any,
        in_dims: tuple[int | None, ...],
        z: Tensor,
        bias: Tensor | None,
        slopes: Tensor | None,
        activation: Activation,
        channels: Channels,
        above: int,
    ) -> tuple[tuple[Tensor, ...], tuple[int, ...]]:
        # One more leading dimension is all it takes: of size one where an argument is not batched.
        full = z.movedim(in_dims[0], 0) if in_dims[0] is not None else z.expand(info.batch_size, *z.shape)
        rest = [
            a if a is None else a.unsqueeze(0) if d is None else a.movedim(d, 0)
            for a, d in zip((bias, slopes), in_dims[1:3], strict=True)
        ]
        out = Activate.apply(full, *rest, activation, channels, above)
        return out, (0,) * len(out)


def _dot(a: Tensor, b: Tensor) -> Tensor:
    """Sum over the channels of the product, without a temporary that has them all."""
    total = a.select(-3, 0) * b.select(-3, 0)
    for i in range(1, b.shape[-3]):
        total = torch.addcmul(total, a.select(-3, i), b.select(-3, i))
    return total
