"""What a primitive is.

A primitive supplies the geometry of one shape in closed form: its level, its intersections with straight lines and
arcs, a parametrisation of its interior and of its boundary, its measures and smooth factors. `levels`, `clearance` and
`roots` work on stacked parameters (a leading axis of shapes of one kind), so that many holes are one tensor operation.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from functools import cached_property
from typing import NamedTuple

import torch
from torch import Tensor

from .arrangement import Arrangement
from .base import Domain, Sampler
from .curves import Curves

Numbers = float | Sequence[float] | Tensor


class Faces(NamedTuple):
    """Boundary pieces at a glance, each row one label.

    Attributes:
        lower, upper: (f, d), corners of boxes around them.
        radius: (f,), of a ball around them, centred in that box.
        point, normal: (f, d), one point of each and the outward normal there.
        flux: (f,), (1/d) int x.n dA; the sum over the faces is the volume.
    """

    lower: Tensor
    upper: Tensor
    radius: Tensor
    point: Tensor
    normal: Tensor
    flux: Tensor


class Primitive(Domain):
    """A shape with closed-form geometry. `parameters` are tensors; k shapes of one kind are stacked along a first axis.

    Attributes:
        names: the name of each boundary piece.
    """

    names: tuple[str, ...]
    parameters: tuple[Tensor, ...]

    @cached_property
    def arrangement(self) -> Arrangement:
        """This shape alone."""
        return Arrangement.single(self)

    @staticmethod
    @abstractmethod
    def levels(parameters: tuple[Tensor, ...], x: Tensor) -> Tensor:
        """Levels (n, k) of k shapes at points (n, d)."""

    @classmethod
    def clearance(cls, parameters: tuple[Tensor, ...], x: Tensor) -> Tensor:
        """A lower bound (n, k) of the distance from points (n, d) to the boundaries of k shapes."""
        return cls.levels(parameters, x).abs()

    @staticmethod
    @abstractmethod
    def roots(parameters: tuple[Tensor, ...], start: Tensor, step: Tensor) -> tuple[Tensor, Tensor]:
        """All t (m, r) at which start + t step is on the boundary, for m shapes and m lines; nan or inf for none.

        The second tensor, broadcastable to (m, r), holds the local labels.
        """

    @abstractmethod
    def arc_roots(self, center: Tensor, side: Tensor, other: Tensor) -> Tensor:
        """All t (m, r) at which center + side cos t + other sin t is on the boundary (or on planes that hold it)."""

    @abstractmethod
    def slices(self, label: int, s: Tensor) -> Curves:
        """The curve (in 2-D; s is ignored) or curves (in 3-D, at s (m,) in [0, 1]) that make up a boundary piece."""

    @abstractmethod
    def slice_of(self, label: int, x: Tensor) -> Tensor:
        """The s (m,) in [0, 1] of the slices nearest to points (m, 3)."""

    @property
    @abstractmethod
    def faces(self) -> Faces:
        """Extent and flux of each boundary piece."""

    @abstractmethod
    def inner_factor(self, x: Tensor) -> Tensor:
        """Smooth, positive inside, zero on the boundary."""

    def outer_factor(self, x: Tensor) -> Tensor:
        """Smooth, positive outside, zero on the boundary."""
        raise ValueError(
            f"factor needs holes with a smooth boundary (Ball, Ellipsoid), but a {type(self).__name__} is cut out; "
            "impose its boundary values by a penalty instead."
        )

    @property
    @abstractmethod
    def _surface(self) -> Sampler: ...

    @property
    def surface(self) -> tuple[Sampler, ...]:
        """The boundary of this shape."""
        return (self._surface,)

    def __repr__(self) -> str:
        arguments = ", ".join(f"{key}={value}" for key, value in self.describe().items() if key != "kind")
        return f"{type(self).__name__}({arguments})"


def vector(name: str, values: Numbers, dim: int | None = None) -> Tensor:
    """Finite float64 numbers (d,), or a ValueError that names the argument."""
    try:
        result = torch.as_tensor(values, dtype=torch.float64).detach().cpu()
    except (TypeError, ValueError, RuntimeError) as error:
        raise TypeError(f"{name} must be a non-empty row of finite numbers, but it is {values!r}.") from error
    result = result.reshape(1) if result.ndim == 0 else result.clone()
    if result.ndim != 1 or len(result) == 0 or not bool(result.isfinite().all()):
        raise ValueError(f"{name} must be a non-empty row of finite numbers, but it is {values}.")
    if dim is not None and len(result) != dim:
        raise ValueError(f"{name} must have {dim} numbers, but it has {len(result)}: {result.tolist()}.")
    return result


def face_names(labels: Sequence[str] | None, default: tuple[str, ...]) -> tuple[str, ...]:
    """The names a user gave to the boundary pieces, checked, or the default ones."""
    if labels is None:
        return default
    if isinstance(labels, str) or len(labels) != len(default) or len(set(labels)) != len(default):
        raise ValueError(f"labels must be {len(default)} different names, one for each of {default}, not {labels}.")
    return tuple(labels)
