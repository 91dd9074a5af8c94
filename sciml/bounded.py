"""What all problems share: a domain, and which condition holds at which point of its boundary."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor

from sciml.conditions import Condition, Data, Initial, Periodic, Relation, Robin, Where
from sciml.domain import Box, Domain

__all__ = ["Bounded", "check_exact", "listed"]


def listed(conditions: Any) -> tuple[Condition, ...]:
    """What was given as conditions, refused if it is no list."""
    if isinstance(conditions, Condition) or not isinstance(conditions, Iterable):
        raise TypeError(f"conditions is {conditions!r}, but must be a list such as [Dirichlet(0.0)]")
    return tuple(conditions)


def check_exact(exact: Any) -> None:
    """Refuse a solution that is no function."""
    if exact is not None and not callable(exact):
        raise TypeError(f"exact is {exact!r}, but must be a callable of points (n, d), or None")


def _assign(conditions: Sequence[Condition], masks: Callable[[Condition], Tensor], several: bool) -> list:
    """Give each boundary point to the first condition that claims it, for each unknown of a system.

    Relations take nothing from others; where `several` hold at a point, only conditions of one kind exclude each other.
    """
    taken: dict[Any, Tensor] = {}
    parts = []
    for condition in conditions:
        if isinstance(condition, Data):
            continue
        mask = masks(condition)
        if not isinstance(condition, Relation):
            key = (getattr(condition, "component", 0), type(condition) if several else None)
            before = taken.get(key, torch.zeros_like(mask))
            mask = mask & ~before
            taken[key] = before | mask
        parts.append((condition, mask))
    return parts


def _on(where: Where, labels: Sequence[str], points: Tensor, ids: Tensor) -> Tensor:
    if where is None:
        return torch.ones(len(points), dtype=torch.bool, device=points.device)
    if isinstance(where, str):
        if where not in labels:
            raise ValueError(f"on is {where!r}, but the boundary has the pieces {', '.join(labels)}")
        return ids == labels.index(where)
    mask = where(points)
    if mask.shape != (len(points),) or mask.dtype != torch.bool:
        given = f"{mask.dtype} of shape {tuple(mask.shape)}"
        raise ValueError(f"the predicate `on` gave {given} at {len(points)} points, but must give bool of shape (n,)")
    return mask


class Bounded:
    """A problem on a domain with a boundary."""

    domain: Domain
    conditions: tuple[Condition, ...]
    coordinates: str
    order = 2  #: highest order of derivative in the equation

    @property
    def dim(self) -> int:
        """Number of independent variables."""
        return self.domain.dim

    @property
    def labels(self) -> tuple[str, ...]:
        """Names of the boundary pieces, by coordinate letter where the domain is a box."""
        if isinstance(self.domain, Box) and len(self.coordinates) == self.dim:
            return tuple(c + sign for c in self.coordinates for sign in "-+")
        return self.domain.labels

    def partition(self, points: Tensor, labels: Tensor) -> list[tuple[Condition, Tensor]]:
        """Which condition holds where: pairs of a condition and its mask; a point is taken once for each unknown.

        An equation of order three or more takes one condition of each kind: values and slopes, say. A `Relation` holds
        beside all others.

        Args:
            points: boundary points ``(n, d)``.
            labels: ``(n,)`` index of each point's piece, as `Domain.boundary` gives it.
        """
        timed = any(isinstance(c, Initial) for c in self.conditions)

        def mask(condition: Condition) -> Tensor:
            if timed and getattr(condition, "on", "") is None:
                return labels > 1  # the sides: nothing is known at the final time
            if isinstance(condition, Periodic):
                low = 2 * self.axis(condition)
                return (labels == low) | (labels == low + 1)
            if isinstance(condition, Initial):
                return labels == 0
            return _on(condition.on, self.labels, points, labels)  # type: ignore[attr-defined]

        return _assign(self.conditions, mask, self.order > 2)

    def axis(self, condition: Periodic) -> int:
        """Index of the coordinate along which a condition is periodic."""
        axis = condition.axis
        index = self.coordinates.find(axis) if isinstance(axis, str) else axis
        if not 0 <= index < self.dim:
            raise ValueError(f"Periodic axis is {axis!r}, but the coordinates are {', '.join(self.coordinates)}")
        if not isinstance(self.domain, Box):
            raise ValueError(f"Periodic needs a Box, but the domain is a {type(self.domain).__name__}")
        return index

    def _check_conditions(self, kinds: tuple[type[Condition], ...]) -> None:
        for condition in self.conditions:
            if not isinstance(condition, kinds):
                accepted = ", ".join(k.__name__ for k in kinds)
                raise TypeError(f"conditions holds {condition!r}, but {type(self).__name__} accepts {accepted}")
            if isinstance(condition, Data) and condition.points.shape[1] != self.dim:
                raise ValueError(f"Data points have {condition.points.shape[1]} columns, but need {self.dim}")
            if isinstance(condition, Periodic):
                self.axis(condition)
        points, _, labels = self.domain.boundary(256)
        for condition, mask in self.partition(points, labels):
            on = getattr(condition, "on", None)
            if isinstance(on, str) and not mask.any() and (labels == self.labels.index(on)).any():
                name = type(condition).__name__
                raise ValueError(f"{name} on {on!r} holds nowhere: earlier conditions hold there; put it before them")
            if mask.any() and not isinstance(condition, (Periodic, Relation)):
                condition.at(points[mask])  # type: ignore[attr-defined]
                if isinstance(condition, Robin):
                    condition.coefficient_at(points[mask])
