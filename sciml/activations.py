"""Activations with their derivatives in closed form.

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
from functools import partial
from typing import Any

import torch
from torch import Tensor

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


def _waves(x: Tensor, order: int, amplitude: float) -> Derivatives:
    return tuple(amplitude * f for f in _sine(x, order))


def waves(amplitude: float) -> Activation:
    """``amplitude * sin x``, of Fourier feature layers."""
    return replace(sine, name=f"{amplitude} sine", rule=partial(_waves, amplitude=amplitude))


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
    if order == 0:
        return (torch.nn.functional.gelu(x),)
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
    base, power, exponent = name.partition("**")
    if base not in _NAMED or power and not exponent.isdecimal():
        raise ValueError(f"the saved activation is {name!r}, but must be a power of one of {', '.join(_NAMED)}")
    return _NAMED[base] ** int(exponent or 1)
