"""Functions on a partition of unity: features of its own in every cell, and those of a hole or a corner in a few.

    u(x) = sum_k w_k(x) sum_j c_kj phi_j(y_k(x)) + sum_e W_e(x) sum_j c_ej psi_ej(x),      W_e = sum_(k in e) w_k

The phi_j are given once, on [-1, 1]^d, and y_k maps the box of the window of cell k onto it. Functions psi that know
the geometry stay as they are, under the windows of the cells around their hole or corner. To the linear algebra such
a group is one more cell.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, reduce
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from sciml.solvers.cover import Cover, Pairs, windowed
from sciml.solvers.families import Family, Indices, Operator, Polynomials, Ridges, Waves, legendre
from sciml.solvers.featurefield import FeatureField, nested, restored, under

__all__ = ["Extra", "PatchField", "Patches", "SlabField", "polynomials", "wave_of"]

_CHUNK = 2**24  # numbers in one block of a points x features table


def polynomials(degrees: Tensor) -> tuple[Polynomials]:
    """Products of Legendre polynomials on [-1, 1]^d, one row of `degrees` each."""
    one = torch.ones(degrees.shape[1], dtype=torch.float64)
    return (Polynomials(degrees, -one, one),)


@dataclass(frozen=True)
class Extra:
    """Functions under the windows of several cells together.

    Attributes:
        family: in the coordinates of the domain.
        cells: ``(k,)`` whose windows are added.
    """

    family: Family
    cells: Tensor


@dataclass(frozen=True)
class Patches:
    """Cells with features.

    Attributes:
        cover: the cells.
        families: the features of a cell on the box [-1, 1]^d.
        extras: of several cells, each with no more functions than a cell has.
    """

    cover: Cover
    families: tuple[Family, ...]
    extras: tuple[Extra, ...] = ()

    @cached_property
    def width(self) -> int:
        """Number of features of a cell."""
        return sum(f.size for f in self.families)

    @property
    def owners(self) -> int:
        """Number of cells and extras, which follow them."""
        return self.cover.size + len(self.extras)

    @property
    def size(self) -> int:
        """Number of features, of which those that extras lack are zero."""
        return self.owners * self.width

    @property
    def degrees(self) -> Tensor | None:
        """Of the polynomials, if the features are nothing else."""
        return (
            self.families[0].degrees if isinstance(self.families[0], Polynomials) and len(self.families) == 1 else None
        )

    @cached_property
    def wave(self) -> float:
        """The largest wavenumber of a feature times the side of its cell."""
        return wave_of(self.families)

    @cached_property
    def places(self) -> Tensor:
        """Centers of all owners ``(owners, d)``."""
        middle = (self.cover.lower + self.cover.upper) / 2
        return torch.cat([middle, *(middle[e.cells].mean(0, keepdim=True) for e in self.extras)])

    def pairs(self, x: Tensor, order: int = 2) -> Pairs:
        """Which owners' windows do not vanish at points ``(n, d)``, and their derivatives up to an order."""
        found = self.cover.pairs(x, order)
        if not self.extras:
            return found
        points, cells, windows = [found.point], [found.cell], [found.window]
        for k, extra in enumerate(self.extras, self.cover.size):
            mine = torch.isin(found.cell, extra.cells)
            point, at = found.point[mine].unique(return_inverse=True)
            zero = torch.zeros(len(point), dtype=x.dtype)
            points.append(point)
            cells.append(torch.full_like(point, k))
            windows.append({i: zero.index_add(0, at, w[mine]) for i, w in found.window.items()})
        point, sort = torch.cat(points).sort(stable=True)
        joined = {i: torch.cat([w[i] for w in windows])[sort] for i in found.window}
        return Pairs(point, torch.cat(cells)[sort], joined)

    def features(self, pairs: Pairs, x: Tensor, indices: Iterable[Indices]) -> dict[Indices, Tensor]:
        """Derivatives of windows times features for pairs: index -> ``(pairs, width)``."""
        indices = list(indices)
        if not self.extras:
            return self._local(pairs, x, indices)
        found = {i: torch.zeros(len(pairs.point), self.width, dtype=x.dtype) for i in indices}
        kind = (pairs.cell - self.cover.size).clamp_min(-1)
        for k in kind.unique().tolist():
            at = (kind == k).nonzero()[:, 0]
            part = Pairs(pairs.point[at], pairs.cell[at], {i: w[at] for i, w in pairs.window.items()})
            if k < 0:
                values = self._local(part, x, indices)
            else:
                here, family = x[part.point], self.extras[k].family
                values = {i: family.apply(here, windowed({i: 1.0}, part.window)) for i in indices}
            for i, v in values.items():
                found[i][at, : v.shape[1]] = v
        return found

    def _local(self, pairs: Pairs, x: Tensor, indices: list[Indices]) -> dict[Indices, Tensor]:
        lower, upper = self.cover.boxes
        scale = 2 / (upper - lower)[pairs.cell]
        y = (x[pairs.point] - lower[pairs.cell]) * scale - 1
        tables = [_derivatives(f, y, max(map(len, indices))) for f in self.families]
        plain: dict[Indices, Tensor] = {}
        found = {}
        for index in indices:
            total = torch.zeros((), dtype=x.dtype)
            for i, w in windowed({index: 1.0}, pairs.window).items():
                if i not in plain:
                    plain[i] = torch.cat([t(i) for t in tables], 1) if len(tables) > 1 else tables[0](i)
                total = total + (w * scale[:, list(i)].prod(1))[:, None] * plain[i]
            found[index] = total
        return found


def _derivatives(family: Family, y: Tensor, order: int) -> Callable[[Indices], Tensor]:
    """Derivatives ``(n, size)`` up to an order by their indices; what they share is evaluated once."""
    if isinstance(family, Polynomials):
        degrees = family.degrees
        axes = [legendre(y[:, i], int(degrees[:, i].max()), order) for i in range(y.shape[1])]
        return lambda index: reduce(torch.mul, [t[index.count(i)][:, degrees[:, i]] for i, t in enumerate(axes)])
    if isinstance(family, Waves):
        phase = torch.addmm(family.phases, y - family.center, family.wavenumbers.T)
        turns, slopes = [torch.cos(phase + o * math.pi / 2) for o in range(order + 1)], family.wavenumbers
    elif isinstance(family, Ridges):
        z = torch.addmm(family.offsets, y - family.center, family.directions.T)
        turns, slopes = list(family.activation.derivatives(z, order)), family.directions
    else:
        return lambda index: family.apply(y, {index: 1.0})
    return lambda index: turns[len(index)] * slopes[:, list(index)].prod(1)


def wave_of(families: Iterable[Family]) -> float:
    """The largest wavenumber of functions on [-1, 1]^d, times the side of this box."""

    def of(family: Family) -> float:
        if isinstance(family, Polynomials):
            return float(family.degrees.max())
        if isinstance(family, Waves):
            return 2 * float(family.wavenumbers.abs().max())
        return 2 * float(family.directions.abs().max()) if isinstance(family, Ridges) else 0.0

    return max(map(of, families))


class PatchField(FeatureField):
    """A combination of the features of patches.

    Args:
        patches: the features.
        coefficients: ``(patches.size, components)``.
    """

    kind: ClassVar[str] = "patches"

    def __init__(self, patches: Patches, coefficients: Tensor) -> None:
        self.patches, self.coefficients = patches, coefficients
        self.cover, self.size = patches.cover, patches.size

    @property
    def local(self) -> Tensor:
        """Coefficients ``(owners, width, components)``."""
        return self.coefficients.reshape(self.patches.owners, self.patches.width, -1)

    def derivative(self, x: Tensor, operator: Operator) -> Tensor:
        """The operator applied to the field at points ``(n, d)``: ``(n, components)``."""
        width = self.patches.width
        rows = max(1, _CHUNK // (16 * width))
        found = []
        for start in range(0, max(1, len(x)), rows):
            part = x[start : start + rows]
            pairs = self.patches.pairs(part, max(map(len, operator), default=0))
            values = self.patches.features(pairs, part, operator)
            total = torch.zeros(len(pairs.point), width, dtype=x.dtype)
            for index, weight in operator.items():
                w = torch.as_tensor(weight, dtype=x.dtype)
                total += (w[start : start + rows][pairs.point, None] if w.ndim else w) * values[index]
            terms = torch.einsum("km,kmc->kc", total, self.local[pairs.cell])
            found.append(torch.zeros(len(part), terms.shape[1], dtype=x.dtype).index_add_(0, pairs.point, terms))
        return torch.cat(found)

    def describe(self) -> dict[str, Any]:
        """Kinds of the families and of the extras."""
        p = self.patches
        return {"families": [f.kind for f in p.families], "extras": [e.family.kind for e in p.extras]}

    def arrays(self) -> dict[str, np.ndarray]:
        """Cells, features and coefficients."""
        p = self.patches
        plain = {"lower": self.cover.lower, "upper": self.cover.upper, "coefficients": self.coefficients}
        plain |= {f"extra{k}/cells": e.cells for k, e in enumerate(p.extras)}
        return {
            **{k: v.numpy() for k, v in plain.items()},
            **nested("family", p.families),
            **nested("extra", [e.family for e in p.extras]),
        }

    @classmethod
    def restore(cls, description: Mapping[str, Any], arrays: Mapping[str, np.ndarray], problem: Any = None) -> Any:
        """From `describe` and `arrays`."""
        lower, upper, coefficients = (torch.as_tensor(arrays[k]) for k in ("lower", "upper", "coefficients"))
        cells = [torch.as_tensor(arrays[f"extra{k}/cells"]) for k in range(len(description["extras"]))]
        others = restored(description["extras"], arrays, "extra")
        extras = tuple(Extra(f, c) for f, c in zip(others, cells, strict=True))
        return cls(Patches(Cover(lower, upper), tuple(restored(description["families"], arrays)), extras), coefficients)


class SlabField(FeatureField):
    """One `PatchField` after another along the first axis.

    Args:
        starts: where each begins, ascending.
        parts: the fields.
    """

    kind: ClassVar[str] = "slabs"

    def __init__(self, starts: Sequence[float], parts: Sequence[PatchField]) -> None:
        self.starts, self.parts = torch.tensor(starts, dtype=torch.float64), tuple(parts)
        self.size = sum(p.size for p in parts)

    def derivative(self, x: Tensor, operator: Operator) -> Tensor:
        """The operator applied to the field at points ``(n, d)``: ``(n, components)``."""
        part = torch.searchsorted(self.starts, x[:, 0].contiguous().detach(), right=True).clamp_min(1) - 1
        found = torch.zeros(len(x), self.parts[0].coefficients.shape[1], dtype=x.dtype)
        for k in part.unique().tolist():
            mine = (part == k).nonzero()[:, 0]
            own = {i: w[mine] if isinstance(w, Tensor) and w.ndim else w for i, w in operator.items()}
            found = found.index_copy(0, mine, self.parts[k].derivative(x[mine], own))
        return found

    def describe(self) -> dict[str, Any]:
        """How many parts, and what each holds."""
        return {"parts": [p.describe() for p in self.parts]}

    def arrays(self) -> dict[str, np.ndarray]:
        """Starts and all parts."""
        return {"starts": self.starts.numpy(), **nested("part", self.parts)}

    @classmethod
    def restore(cls, description: Mapping[str, Any], arrays: Mapping[str, np.ndarray], problem: Any = None) -> Any:
        """From `describe` and `arrays`."""
        parts = [PatchField.restore(d, under(f"part{k}/", arrays)) for k, d in enumerate(description["parts"])]
        return cls(arrays["starts"].tolist(), parts)
