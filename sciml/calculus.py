"""Derivatives of any Field at points.

A *Field* is any callable that maps points ``(n, d)`` to values ``(n,)`` (scalar) or ``(n, m)`` (vector), row by row.
`jet` gives its value, gradient, Laplacian and second derivatives at a batch of points.

Two roads lead there. A field with a method ``taylor(Taylor) -> Taylor`` (every network of this package) pushes a
truncated Taylor expansion through its layers: one forward pass with ``1 + d + 1`` channels for the Laplacian, instead
of ``d`` reverse passes over a reverse pass. Everything else goes through `torch.func`, batch-wise, so that callables
with data-dependent branches work as well. Both roads stay differentiable with respect to the field's parameters,
compose with `torch.func` transforms, work under `torch.no_grad`, and never ask the caller for ``requires_grad``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn

Field = Callable[[Tensor], Tensor]
Pairs = tuple[tuple[int, int], ...]

__all__ = ["Field", "Jet", "Pairs", "Taylor", "at", "jet", "partial"]


@dataclass(frozen=True)
class Taylor:
    """A truncated Taylor expansion travelling through a network.

    Attributes:
        value: ``(..., n, m)``.
        first: ``(d, ..., n, m)`` derivatives along each coordinate, or None.
        lap: ``(..., n, m)`` sum of the pure second derivatives, or None.
        second: ``(len(pairs), ..., n, m)`` second derivatives for `pairs`, or None.
        pairs: the index pairs ``(i, j)`` of `second`.
    """

    value: Tensor
    first: Tensor | None = None
    lap: Tensor | None = None
    second: Tensor | None = None
    pairs: Pairs = ()

    @staticmethod
    def seed(x: Tensor, order: int, pairs: Pairs | None = None) -> Taylor:
        """The expansion of the identity at points ``x (n, d)``."""
        n, d = x.shape
        if order == 0:
            return Taylor(x)
        first = torch.eye(d, dtype=x.dtype, device=x.device)[:, None, :].expand(d, n, d)
        if order == 1:
            return Taylor(x, first)
        if pairs is None:
            return Taylor(x, first, lap=x.new_zeros(1, d).expand(n, d))
        return Taylor(x, first, second=x.new_zeros(len(pairs), n, d), pairs=pairs)

    @property
    def request(self) -> tuple[int, Pairs | None]:
        """The order and pairs with which `seed` and `jet` give the derivatives that travel here."""
        if self.first is None:
            return 0, None
        if self.second is not None:
            return 2, self.pairs
        return (1 if self.lap is None else 2), None

    def map(self, linear: Callable[[Tensor], Tensor], bias: Tensor | None = None) -> Taylor:
        """Apply a linear map to every channel, and a bias to the value only."""
        value = linear(self.value)
        return Taylor(
            value if bias is None else value + bias,
            None if self.first is None else linear(self.first),
            None if self.lap is None else linear(self.lap),
            None if self.second is None else linear(self.second),
            self.pairs,
        )

    def compose(self, derivatives: Sequence[Tensor]) -> Taylor:
        """Chain rule for an elementwise function with ``derivatives = (f, f', f'')`` at ``value``."""
        if self.first is None:
            return Taylor(derivatives[0])
        first = derivatives[1] * self.first
        lap = second = None
        if self.lap is not None:
            lap = derivatives[2] * self.first.square().sum(0) + derivatives[1] * self.lap
        if self.second is not None:
            i, j = map(list, zip(*self.pairs, strict=True))
            second = derivatives[2] * (self.first[i] * self.first[j]) + derivatives[1] * self.second
        return Taylor(derivatives[0], first, lap, second, self.pairs)

    def __add__(self, other: Taylor) -> Taylor:
        """Sum of two expansions with the same channels."""

        def add(a: Tensor | None, b: Tensor | None) -> Tensor | None:
            return None if a is None or b is None else a + b

        first, lap, second = (add(getattr(self, c), getattr(other, c)) for c in ("first", "lap", "second"))
        return Taylor(self.value + other.value, first, lap, second, self.pairs)

    def __mul__(self, other: Taylor) -> Taylor:
        """Product rule for two expansions with the same channels."""
        product = Taylor(self.value * other.value)
        if self.first is None or other.first is None:
            return product
        product = replace(product, first=self.first * other.value + self.value * other.first)
        if self.lap is not None and other.lap is not None:
            cross = 2 * (self.first * other.first).sum(0)
            product = replace(product, lap=self.lap * other.value + cross + self.value * other.lap)
        if self.second is not None and other.second is not None:
            i, j = map(list, zip(*self.pairs, strict=True))
            cross = self.first[i] * other.first[j] + self.first[j] * other.first[i]
            second = self.second * other.value + cross + self.value * other.second
            product = replace(product, second=second, pairs=self.pairs)
        return product


@dataclass(frozen=True)
class Jet:
    """Value and derivatives of a Field at ``n`` points.

    Attributes:
        value: ``(n,)``, or ``(n, m)`` for a vector field.
        gradient: ``(n, d)`` or ``(n, m, d)``; None for order 0.
        laplacian: ``(n,)`` or ``(n, m)``; None unless order 2.
        second: second derivatives by index pair ``(i, j)``, ``i <= j``; empty unless asked for.
    """

    value: Tensor
    gradient: Tensor | None = None
    laplacian: Tensor | None = None
    second: Mapping[tuple[int, int], Tensor] = field(default_factory=dict)


def jet(field: Field, x: Tensor, order: int = 2, pairs: Sequence[tuple[int, int]] | None = None) -> Jet:
    """Value and derivatives of `field` at points `x`.

    Args:
        field: maps ``(n, d)`` to ``(n,)`` or ``(n, m)``, row by row.
        x: points ``(n, d)``.
        order: 0 (value), 1 (and gradient) or 2 (and second derivatives).
        pairs: which second derivatives; None means the Laplacian only. With all diagonal pairs the Laplacian is
            their sum.

    Raises:
        ValueError: if `x` is not ``(n, d)``, the order is not 0, 1 or 2, or the field's output has another shape.

    >>> j = jet(lambda x: x[:, 0] ** 2 * x[:, 1], torch.tensor([[1.0, 2.0]], dtype=torch.float64))
    >>> j.value.item(), j.gradient.tolist(), j.laplacian.item()
    (2.0, [[4.0, 1.0]], 4.0)
    """
    if x.ndim != 2:
        raise ValueError(f"x has shape {tuple(x.shape)}, but points must have shape (n, d)")
    if order not in (0, 1, 2):
        raise ValueError(f"order is {order!r}, but must be 0, 1 or 2")
    wanted = None if pairs is None else tuple((min(p), max(p)) for p in pairs)
    if hasattr(field, "taylor"):
        return _from_taylor(field.taylor(Taylor.seed(x, order, wanted)), order, x.shape[1])
    return _from_callable(field, x, order, wanted)


def _from_taylor(t: Taylor, order: int, d: int) -> Jet:
    scalar = t.value.shape[-1] == 1

    def shaped(a: Tensor) -> Tensor:
        return a.squeeze(-1) if scalar else a

    if order == 0 or t.first is None:
        return Jet(shaped(t.value))
    gradient = shaped(t.first).movedim(0, -1)
    if order == 1:
        return Jet(shaped(t.value), gradient)
    if t.second is None:
        return Jet(shaped(t.value), gradient, None if t.lap is None else shaped(t.lap))
    second = {pair: shaped(t.second[k]) for k, pair in enumerate(t.pairs)}
    return Jet(shaped(t.value), gradient, _trace(second, d), second)


def _trace(second: Mapping[tuple[int, int], Tensor], d: int) -> Tensor | None:
    if not all((i, i) in second for i in range(d)):
        return None
    return torch.stack([second[i, i] for i in range(d)]).sum(0)


def _from_callable(field: Field, x: Tensor, order: int, pairs: Pairs | None) -> Jet:
    n, d = x.shape
    value = field(x)
    if value.ndim not in (1, 2) or value.shape[0] != n:
        raise ValueError(f"the field gave shape {tuple(value.shape)} at {n} points, but must give ({n},) or ({n}, m)")
    if order == 0:
        return Jet(value)
    columns = [None] if value.ndim == 1 else list(range(value.shape[1]))

    def gradient_of(function: Field) -> Field:
        return torch.func.grad(lambda y: function(y).sum())

    def component(k: int | None) -> Field:
        return field if k is None else (lambda y: field(y)[:, k])

    def stack(parts: list[Tensor]) -> Tensor:
        return parts[0] if columns == [None] else torch.stack(parts, 1)

    gradients = [gradient_of(component(k)) for k in columns]
    gradient = stack([g(x) for g in gradients])
    if order == 1:
        return Jet(value, gradient)
    rows: dict[int, Tensor] = {}
    for i in sorted({i for i, _ in pairs} if pairs is not None else set(range(d))):
        rows[i] = stack([gradient_of(_column(g, i))(x) for g in gradients])
    if pairs is None:
        return Jet(value, gradient, torch.stack([rows[i][..., i] for i in range(d)]).sum(0))
    second = {(i, j): rows[i][..., j] for i, j in pairs}
    return Jet(value, gradient, _trace(second, d), second)


def partial(field: Field, x: Tensor, indices: Sequence[int]) -> Tensor:
    """A mixed partial derivative of any order, by nested reverse mode: ``indices=(0, 0, 1)`` is u_xxy.

    Slow for high orders, exact for every differentiable callable; `jet` is the fast road up to order two. A field that
    knows its derivatives in closed form has a method ``partial(x, indices)``, which is called instead.
    """
    if hasattr(field, "partial"):
        return field.partial(x, tuple(indices))
    function = field
    for i in indices:
        function = _derivative(function, i)
    return function(x)


def _column(function: Field, i: int) -> Field:
    return lambda y: function(y)[:, i]


def _derivative(function: Field, i: int) -> Field:
    def derived(y: Tensor) -> Tensor:
        shape = torch.func.vjp(function, y)[0].shape
        if len(shape) == 1:
            return torch.func.grad(lambda z: function(z).sum())(y)[:, i]
        return torch.stack([_derivative(_column(function, k), i)(y) for k in range(shape[1])], 1)

    return derived


# ---------------------------------------------------------------------------------------------------- other parameters


def at(model: nn.Module, parameters: Mapping[str, Tensor]) -> Field:
    """A network as a Field at other parameters: differentiable in them and, like the network, fast in its jets.

    Args:
        model: any module; it is not changed.
        parameters: by name, as in ``model.named_parameters()``; those left out are as they are.
    """
    return _At(model, parameters)


class _Methods(nn.Module):
    """Lets `torch.func.functional_call` reach every method of a model, not only forward."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, name: str, *arguments: Any) -> Any:
        member = getattr(self.model, name)
        return member(*arguments) if callable(member) else member


class _At:
    def __init__(self, model: nn.Module, parameters: Mapping[str, Tensor]) -> None:
        self._methods = _Methods(model)
        self._parameters = {f"model.{k}": v for k, v in parameters.items()}
        # a Field has these only if the model has them
        if hasattr(model, "taylor"):
            self.taylor = lambda t: self._call("taylor", t)
        if hasattr(model, "unknowns"):
            self.unknowns = self._call("unknowns")

    def _call(self, name: str, *arguments: Any) -> Any:
        return torch.func.functional_call(self._methods, self._parameters, (name, *arguments))

    def __call__(self, x: Tensor) -> Tensor:
        return self._call("__call__", x)
