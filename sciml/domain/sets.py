"""Difference, Union, Intersection and Product of domains."""

from __future__ import annotations

from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from .arrangement import Arrangement
from .base import Domain, Sampler, choose
from .measure import Measures, measure
from .overlap import covers, overlap


class _Set(Domain):
    """Two domains `a` and `b` of one dimension combined by their membership."""

    kind: str

    def __init__(self, a: Domain, b: Domain):
        _require_domains(a, b)
        if a.dim != b.dim:
            raise ValueError(f"The parts of a {self.kind} must have one dimension, but they have {a.dim} and {b.dim}.")
        self.a, self.b, self.dim = a, b, a.dim
        self._arrangement = a.arrangement.combined(b.arrangement, self.kind)

    @property
    def arrangement(self) -> Arrangement:
        """The primitives of a, then those of b."""
        return self._arrangement

    @property
    def surface(self) -> tuple[Sampler, ...]:
        """The boundaries of all primitives."""
        return tuple(sampler for part in self.parts for sampler in part.surface)

    @property
    def parts(self) -> tuple[Domain, ...]:
        """Both, and in a chain like ((A - B) - C) - D all of A, B, C, D."""
        parts: list[Domain] = []
        first: Domain = self
        while type(first) is type(self):
            parts.append(first.b)
            first = first.a
        return (first, *reversed(parts))

    @cached_property
    def _measures(self) -> Measures:
        return measure(self)

    @property
    def volume(self) -> float:
        """See `measure`."""
        return self._measures.volume

    @property
    def areas(self) -> Tensor:
        """See `measure`."""
        return self._measures.areas

    def describe(self) -> dict[str, Any]:
        """The kind and the parts, from left to right."""
        return {"kind": self.kind, "parts": [part.describe() for part in self.parts]}

    def __repr__(self) -> str:
        sign = {"difference": " - ", "union": " | ", "intersection": " & ", "product": " * "}[self.kind]
        return "(" + sign.join(map(repr, self.parts)) + ")"


class Difference(_Set):
    """The closure of a without b, written `a - b`; the boundary of b belongs to it.

    Raises:
        ValueError: if the dimensions differ, b lies outside of a, or b leaves nothing of a.
    """

    kind = "difference"

    def __init__(self, a: Domain, b: Domain):
        super().__init__(a, b)
        self.bounds = a.bounds
        if not overlap(a, b):
            raise ValueError(f"The hole b must cut something from a, but {_short(b)} lies outside of {_short(a)}.")
        if covers(a, b):
            raise ValueError(f"The hole b must leave something of a, but {_short(b)} covers {_short(a)}.")

    @property
    def inside(self) -> Sampler:
        """Candidates of the set the holes are cut from."""
        first = self.parts[0].inside

        def draw(u: Tensor) -> tuple[Tensor, ...]:
            x, ok = first.draw(u)
            return x, ok & (self.level(x) > 0)

        return Sampler(first.measure, first.dims, draw)


class Intersection(_Set):
    """The common part of a and b, written `a & b`.

    Raises:
        ValueError: if the dimensions differ, or a and b have nothing in common.
    """

    kind = "intersection"

    def __init__(self, a: Domain, b: Domain):
        super().__init__(a, b)
        self.bounds = (torch.maximum(a.bounds[0], b.bounds[0]), torch.minimum(a.bounds[1], b.bounds[1]))
        if not overlap(a, b):
            raise ValueError(f"a and b must have common points, but {_short(b)} lies outside of {_short(a)}.")

    @property
    def inside(self) -> Sampler:
        """Candidates of the smaller part."""
        smaller = min((part.inside for part in self.parts), key=lambda sampler: sampler.measure)

        def draw(u: Tensor) -> tuple[Tensor, ...]:
            x, ok = smaller.draw(u)
            return x, ok & (self.level(x) > 0)

        return Sampler(smaller.measure, smaller.dims, draw)


class Union(_Set):
    """All points of a or b, written `a | b`."""

    kind = "union"

    def __init__(self, a: Domain, b: Domain):
        super().__init__(a, b)
        self.bounds = (torch.minimum(a.bounds[0], b.bounds[0]), torch.maximum(a.bounds[1], b.bounds[1]))

    @property
    def inside(self) -> Sampler:
        """Candidates of each part, unless an earlier part already has them."""
        parts = self.parts
        samplers = [part.inside for part in parts]
        shares = torch.tensor([sampler.measure for sampler in samplers], dtype=torch.float64)

        def draw(u: Tensor) -> tuple[Tensor, ...]:
            x = u.new_empty(len(u), self.dim)
            ok = torch.zeros_like(u[:, 0], dtype=torch.bool)
            for i, row in enumerate(choose(u[:, 0], shares)):
                x[row], ok[row] = samplers[i].draw(u[row, 1 : 1 + samplers[i].dims])
                for earlier in parts[:i]:
                    ok[row] &= earlier.level(x[row]) <= 0
            return x, ok

        return Sampler(float(shares.sum()), 1 + max(sampler.dims for sampler in samplers), draw)


class Product(_Set):
    """The Cartesian product of a and b, written `a * b`; the coordinates of a come first."""

    kind = "product"

    def __init__(self, a: Domain, b: Domain):
        _require_domains(a, b)
        self.a, self.b, self.dim = a, b, a.dim + b.dim
        self._arrangement = a.arrangement.combined(b.arrangement, self.kind)
        self.bounds = (torch.cat([a.bounds[0], b.bounds[0]]), torch.cat([a.bounds[1], b.bounds[1]]))

    @property
    def parts(self) -> tuple[Domain, ...]:
        """The two factors."""
        return (self.a, self.b)

    @property
    def inside(self) -> Sampler:
        """A point of a and a point of b."""
        a, b = self.a.inside, self.b.inside

        def draw(u: Tensor) -> tuple[Tensor, ...]:
            x, first = a.draw(u[:, : a.dims])
            y, second = b.draw(u[:, a.dims :])
            return torch.cat([x, y], 1), first & second

        return Sampler(a.measure * b.measure, a.dims + b.dims, draw)

    @property
    def surface(self) -> tuple[Sampler, ...]:
        """The boundary of a times the inside of b, then the other way round."""
        walls = [_wall(edge, self.b.inside, self.b.dim, True) for edge in self.a.surface]
        return (*walls, *(_wall(edge, self.a.inside, self.a.dim, False) for edge in self.b.surface))

    @property
    def volume(self) -> float:
        """The product of the volumes."""
        return self.a.volume * self.b.volume

    @property
    def areas(self) -> Tensor:
        """Each boundary piece of one factor times the volume of the other."""
        return torch.cat([self.a.areas * self.b.volume, self.b.areas * self.a.volume])


def _wall(edge: Sampler, inside: Sampler, dim: int, edge_first: bool) -> Sampler:
    """Boundary candidates of one factor times inner candidates of the other, which has dimension `dim`."""

    def draw(u: Tensor) -> tuple[Tensor, ...]:
        x, normal, label, on = edge.draw(u[:, : edge.dims])
        y, ok = inside.draw(u[:, edge.dims :])
        flat = torch.zeros_like(y)
        points = torch.cat([x, y] if edge_first else [y, x], 1)
        return points, torch.cat([normal, flat] if edge_first else [flat, normal], 1), label, on & ok

    return Sampler(edge.measure * inside.measure, edge.dims + inside.dims, draw)


def _require_domains(a: Domain, b: Domain) -> None:
    for part in (a, b):
        if not isinstance(part, Domain):
            raise TypeError(f"Domains combine with domains, but {part!r} is none.")


def _short(domain: Domain) -> str:
    """A name for error messages, also of domains with hundreds of parts."""
    if isinstance(domain, _Set):
        return f"the {domain.kind} of {len(domain.parts)} parts between {[bound.tolist() for bound in domain.bounds]}"
    return repr(domain)
