"""The ``u`` of a residual: behaves like its own value in formulas and knows its derivatives by name."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from sciml.calculus import Field, jet, partial

Indices = tuple[int, ...]

__all__ = ["Unknown", "Unknowns", "plain", "probe", "request"]


def plain(a: Any) -> Any:
    """What an equation gives, with values in place of unknowns."""
    if isinstance(a, Unknown):
        return a.value
    if isinstance(a, (tuple, list)):
        return type(a)(plain(b) for b in a)
    return a


class Unknown:
    """A scalar unknown at ``n`` points.

    Args:
        value: ``(n,)``.
        coordinates: letters of the coordinates, e.g. "tx".
        derivative: gives the ``(n,)`` derivative along a sorted tuple of coordinate indices.
        time: ``(n,)`` time of each point where the problem is an evolution.

    ``u.x``, ``u.xx``, ``u.xy`` are derivatives, ``u.laplacian`` the sum of all pure second ones; every other attribute
    and all arithmetic are those of the value, and so are torch functions: ``torch.sin(u)``.
    """

    # numpy scalars and arrays on the left must hand over to __rmul__ and its kin
    __array_ufunc__ = None

    def __init__(
        self, value: Tensor, coordinates: str, derivative: Callable[[Indices], Tensor], time: Tensor | None = None
    ) -> None:
        self.value, self.coordinates, self.derivative, self.time = value, coordinates, derivative, time

    @property
    def laplacian(self) -> Tensor:
        """Sum of the pure second derivatives over all coordinates but time."""
        space = [i for i, c in enumerate(self.coordinates) if c != "t"]
        return torch.stack([self.derivative((i, i)) for i in space]).sum(0)

    def __getattr__(self, name: str) -> Any:
        """Derivatives by coordinate letters; anything else is the value's."""
        if name.startswith("__"):
            raise AttributeError(name)
        if all(letter in self.coordinates for letter in name):
            return self.derivative(tuple(sorted(self.coordinates.index(letter) for letter in name)))
        if len(set(name)) <= 3 and all(letter in self.coordinates + "txyz" for letter in name):
            raise ValueError(f"u.{name} is not a derivative here: the coordinates are {', '.join(self.coordinates)}")
        return getattr(self.value, name)

    @classmethod
    def __torch_function__(cls, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Torch functions see the value."""
        return function(*plain(args), **{k: plain(v) for k, v in (kwargs or {}).items()})

    def __getitem__(self, index: Any) -> Any:
        """A scalar unknown has no components."""
        raise ValueError(
            f"u[{index!r}] was asked of a single unknown; write u, or index it in every equation of a system"
        )

    def __len__(self) -> int:
        """Number of points."""
        return len(self.value)

    def __repr__(self) -> str:
        """Say what it is."""
        return f"Unknown({self.value!r})"


def _forward(name: str) -> Callable[..., Any]:
    def method(self: Unknown, *args: Any) -> Any:
        return getattr(self.value, name)(*map(plain, args))

    return method


_ARITHMETIC = ["add", "sub", "mul", "truediv", "pow"]
for _name in [
    *(f"__{side}{op}__" for op in _ARITHMETIC for side in ("", "r")),
    *("__neg__", "__pos__", "__abs__", "__lt__", "__le__", "__gt__", "__ge__"),
]:
    setattr(Unknown, _name, _forward(_name))


class Unknowns:
    """The unknowns of a system, ``u[0], u[1], ...``; unpacks like a tuple."""

    def __init__(self, members: list[Unknown]) -> None:
        self.members = members

    def __getitem__(self, index: int) -> Unknown:
        """The unknown number `index`."""
        return self.members[index]

    def __iter__(self) -> Iterator[Unknown]:
        """All unknowns in order."""
        return iter(self.members)

    def __len__(self) -> int:
        """Number of unknowns."""
        return len(self.members)


def request(field: Field, x: Tensor, coordinates: str, wanted: frozenset[Indices], components: int) -> Any:
    """The `Unknown` (or `Unknowns`) of a field at points, with the `wanted` derivatives from one jet.

    Derivatives of order three and above, or that were not announced, are computed when they are asked for.
    """
    order = max((len(i) for i in wanted if len(i) <= 2), default=0)
    pairs = sorted((i[0], i[1]) for i in wanted if len(i) == 2)
    j = jet(field, x, order, pairs if order == 2 else None)
    if components > 1 and (j.value.ndim != 2 or j.value.shape[1] < components):
        raise ValueError(f"the field gave shape {tuple(j.value.shape)}, but the system has {components} unknowns")

    def member(k: int | None) -> Unknown:
        def pick(t: Tensor) -> Tensor:
            return t if k is None else t[:, k]

        def derivative(indices: Indices) -> Tensor:
            if len(indices) == 1 and j.gradient is not None:
                return pick(j.gradient)[:, indices[0]]
            if len(indices) == 2 and indices in j.second:
                return pick(j.second[indices[0], indices[1]])
            return pick(partial(field, x, indices))

        return Unknown(pick(j.value), coordinates, derivative)

    return member(None) if components == 1 else Unknowns([member(k) for k in range(components)])


class _Recording(Unknowns):
    """Counts the components that a residual asks for."""

    def __init__(self, make: Callable[[int], Unknown]) -> None:
        super().__init__([])
        self.make, self.count = make, 0

    def __getitem__(self, index: int) -> Unknown:
        self.count = max(self.count, index + 1)
        return self.make(index)

    def __iter__(self) -> Iterator[Unknown]:
        raise ValueError("a system is unpacked in residual; index it instead, u[0], u[1], so that its size is known")


class _Indexed(Exception):
    pass


def probe(
    call: Callable[[Tensor, Any, Any], tuple[Tensor, ...]], x: Tensor, coordinates: str, unknowns: Mapping[str, float]
) -> tuple[frozenset[Indices], int, int]:
    """Run a residual once on random numbers; return the derivatives it uses, its components and its equations."""
    generator = torch.Generator().manual_seed(0)
    used: set[Indices] = set()

    def sample() -> Tensor:
        # positive and away from zero, so that logarithms, roots and quotients of u are defined at the probe
        return 0.5 + torch.rand(len(x), generator=generator, dtype=x.dtype)

    def derivative(indices: Indices) -> Tensor:
        used.add(indices)
        return sample()

    class Scalar(Unknown):
        def __getitem__(self, index: Any) -> Any:
            raise _Indexed

    q = SimpleNamespace(**{k: torch.tensor(v, dtype=x.dtype) for k, v in unknowns.items()})
    recording = _Recording(lambda _: Unknown(sample(), coordinates, derivative))
    try:
        try:
            equations = call(x, Scalar(sample(), coordinates, derivative), q)
        except _Indexed:
            used.clear()
            equations = call(x, recording, q)
    except (RuntimeError, TypeError, AttributeError, IndexError) as error:  # of what a user wrote, shapes for example
        raise ValueError(
            f"the equation cannot be evaluated at {len(x)} points, u of shape (n,): {error}; "
            "it must be a function (x, u) -> (n,), made of torch functions and derivatives such as u.xx"
        ) from error
    return frozenset(used), max(recording.count, 1), len(equations)
