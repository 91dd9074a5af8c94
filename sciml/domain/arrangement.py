"""Many primitives as one: batched levels, the min/max tree that combines them, and straight lines through them.

Differences, unions, intersections and products are brought to one tree of minima and maxima over signed levels of
primitives (complements are pushed down to the leaves). Primitives of one kind are stacked, so that a domain with
hundreds of holes costs a few tensor operations.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from .base import OFFSET

if TYPE_CHECKING:
    from .primitive import Primitive

CHUNK = 2**18  # numbers in one block of a points x primitives matrix


class Piece(NamedTuple):
    """A primitive inside a domain.

    Attributes:
        shape: the primitive.
        indices: the label indices of its boundary pieces.
        axes: the coordinates it lives in (all of them, except in a product).
    """

    shape: Primitive
    indices: range
    axes: range


@dataclass(frozen=True)
class Tree:
    """The minimum (or maximum) of signed levels and of subtrees; positive means inside."""

    minimum: bool
    leaves: tuple[int, ...]
    signs: tuple[float, ...]
    children: tuple[Tree, ...] = ()

    @staticmethod
    def leaf() -> Tree:
        """The first primitive."""
        return Tree(True, (0,), (1.0,))

    def shifted(self, by: int) -> Tree:
        """The same tree for primitives that come later in a list."""
        children = tuple(child.shifted(by) for child in self.children)
        return replace(self, leaves=tuple(leaf + by for leaf in self.leaves), children=children)

    def complement(self) -> Tree:
        """Inside and outside exchanged."""
        children = tuple(child.complement() for child in self.children)
        return Tree(not self.minimum, self.leaves, tuple(-sign for sign in self.signs), children)

    def join(self, other: Tree, minimum: bool) -> Tree:
        """The minimum (maximum) of two trees; nested ones of the same kind become one."""
        leaves: tuple[int, ...] = ()
        signs: tuple[float, ...] = ()
        children: tuple[Tree, ...] = ()
        for tree in (self, other):
            if tree.minimum == minimum or len(tree.leaves) + len(tree.children) == 1:
                leaves, signs, children = leaves + tree.leaves, signs + tree.signs, children + tree.children
            else:
                children += (tree,)
        return Tree(minimum, leaves, signs, children)


class _Node(NamedTuple):
    """A tree whose leaves are columns of the matrix of levels; None stands for all columns in order."""

    minimum: bool
    columns: Tensor | None
    signs: Tensor
    children: tuple[_Node, ...]

    @staticmethod
    def of(tree: Tree, position: Tensor) -> _Node:
        columns, order = position[list(tree.leaves)].sort()
        signs = torch.tensor(tree.signs, dtype=torch.float64)[order]
        every = len(columns) == len(position) and bool((columns == torch.arange(len(position))).all())
        children = tuple(_Node.of(child, position) for child in tree.children)
        return _Node(tree.minimum, None if every else columns, signs, children)

    def evaluate(self, levels: Tensor) -> Tensor:
        """Combine the levels (n, k) of all primitives to the level (n,) of the set."""
        found = [child.evaluate(levels) for child in self.children]
        if len(self.signs):
            own = levels if self.columns is None else levels.index_select(1, self.columns.to(levels.device))
            own = own * self.signs.to(levels.device)
            found.append(own.amin(1) if self.minimum else own.amax(1))
        result = found[0]
        for other in found[1:]:
            result = torch.minimum(result, other) if self.minimum else torch.maximum(result, other)
        return result


class _Family(NamedTuple):
    """Primitives of one kind in the same coordinates, with their parameters stacked along a first axis."""

    kind: type[Primitive]
    axes: range
    members: Tensor  # their positions among all pieces
    parameters: tuple[Tensor, ...]

    def columns(self, x: Tensor) -> Tensor:
        return x[:, self.axes.start : self.axes.stop]

    def on(self, device: torch.device) -> tuple[Tensor, ...]:
        return tuple(parameter.to(device) for parameter in self.parameters)


class Arrangement:
    """Primitives and the tree that turns their levels into one set."""

    def __init__(self, pieces: tuple[Piece, ...], tree: Tree):
        self.pieces, self.tree = pieces, tree

    @staticmethod
    def single(shape: Primitive) -> Arrangement:
        """One primitive."""
        return Arrangement((Piece(shape, range(len(shape.names)), range(shape.dim)),), Tree.leaf())

    def combined(self, other: Arrangement, kind: str) -> Arrangement:
        """The difference, union, intersection or product with another arrangement, whose labels come second."""
        labels = self.pieces[-1].indices.stop
        shift = max(piece.axes.stop for piece in self.pieces) if kind == "product" else 0
        moved = tuple(
            Piece(
                piece.shape,
                range(piece.indices.start + labels, piece.indices.stop + labels),
                range(piece.axes.start + shift, piece.axes.stop + shift),
            )
            for piece in other.pieces
        )
        tree = other.tree.shifted(len(self.pieces))
        tree = tree.complement() if kind == "difference" else tree
        return Arrangement(self.pieces + moved, self.tree.join(tree, minimum=kind != "union"))

    @cached_property
    def families(self) -> list[_Family]:
        """The primitives, stacked where their kind, coordinates and parameter shapes agree."""
        groups: dict[tuple, list[int]] = {}
        for i, piece in enumerate(self.pieces):
            key = (type(piece.shape), piece.axes.start, *(p.shape for p in piece.shape.parameters))
            groups.setdefault(key, []).append(i)
        families = []
        for members in groups.values():
            first = self.pieces[members[0]]
            stacked = zip(*(self.pieces[i].shape.parameters for i in members), strict=True)
            parameters = tuple(torch.stack(parameter) for parameter in stacked)
            families.append(_Family(type(first.shape), first.axes, torch.tensor(members), parameters))
        return families

    @cached_property
    def _order(self) -> Tensor:
        """The piece of each column, once the families are put side by side."""
        return torch.cat([family.members for family in self.families])

    @cached_property
    def _root(self) -> _Node:
        return _Node.of(self.tree, torch.argsort(self._order))

    @cached_property
    def _rows(self) -> int:
        """How many points are treated at once, so that the matrices stay in the cache."""
        return max(64, CHUNK // sum(parameter.numel() for family in self.families for parameter in family.parameters))

    def _levels(self, x: Tensor) -> Tensor:
        """The level (n, k) of every primitive at points (n, d), in the order of the families."""
        found = [family.kind.levels(family.on(x.device), family.columns(x)) for family in self.families]
        return found[0] if len(found) == 1 else torch.cat(found, 1)

    def clearances(self, x: Tensor) -> Tensor:
        """A lower bound (n, k) of the distance from points (n, d) to the boundary of each piece."""
        found = [family.kind.clearance(family.on(x.device), family.columns(x)) for family in self.families]
        return torch.cat(found, 1)[:, torch.argsort(self._order).to(x.device)]

    def level(self, x: Tensor) -> Tensor:
        """The level (n,) of the set at points (n, d)."""
        parts = [self._root.evaluate(self._levels(chunk)) for chunk in x.split(self._rows)]
        return parts[0] if len(parts) == 1 else torch.cat(parts)

    def factor(self, x: Tensor) -> Tensor:
        """The product of smooth factors, see `Domain.factor`."""
        if (not self.tree.minimum and len(self.tree.leaves) > 1) or self.tree.children:
            raise ValueError(
                "factor needs a domain without unions (a smooth function that vanishes on its boundary), "
                "but this domain joins parts; impose its boundary values by a penalty instead."
            )
        result = torch.ones_like(x[:, 0])
        for leaf, sign in zip(self.tree.leaves, self.tree.signs, strict=True):
            piece = self.pieces[leaf]
            local = x[:, piece.axes.start : piece.axes.stop]
            result = result * (piece.shape.inner_factor(local) if sign > 0 else piece.shape.outer_factor(local))
        return result

    def visible(self, x: Tensor, normal: Tensor, label: Tensor, size: float) -> tuple[Tensor, Tensor]:
        """Which points on primitives' boundaries are on the boundary of the set, and the normals that point out of it.

        Membership is asked on both sides of the point, which is also right where faces of two primitives coincide;
        of coinciding faces only the first counts.
        """
        owner = torch.tensor([i for i, piece in enumerate(self.pieces) for _ in piece.indices], device=x.device)
        order = self._order.to(x.device)
        normals, visible = [], []
        for p, direction, own in zip(*(part.split(self._rows) for part in (x, normal, owner[label])), strict=True):
            back = self._root.evaluate(self._levels(p - OFFSET * size * direction)) > 0
            front = self._root.evaluate(self._levels(p + OFFSET * size * direction)) > 0
            shared = ((self._levels(p).abs() <= 1e-10 * size) & (order < own[:, None])).any(1)
            visible.append((back != front) & ~shared)
            normals.append(torch.where(front[:, None], -direction, direction))
        return torch.cat(normals), torch.cat(visible)

    # ---- lines -------------------------------------------------------------------------------------------------------

    def _roots(self, start: Tensor, step: Tensor, tolerance: float) -> tuple[Tensor, Tensor, Tensor]:
        """The t in [0, 1] where segments meet boundaries of primitives, as a list sorted by segment and t.

        Returns:
            row (p,), t (p,), label (p,). Only primitives within reach of the middle of a segment are asked.
        """
        length = torch.linalg.vector_norm(step, dim=1)
        slack = tolerance / length.clamp_min(tolerance)
        middle = start + 0.5 * step
        rows, times, labels = [], [], []
        for family in self.families:
            parameters = family.on(start.device)
            near = family.kind.clearance(parameters, family.columns(middle)) <= (0.5 * length + tolerance)[:, None]
            row, member = near.nonzero(as_tuple=True)
            own = tuple(parameter[member] for parameter in parameters)
            t, label = family.kind.roots(own, family.columns(start)[row], family.columns(step)[row])
            first = torch.tensor([self.pieces[i].indices.start for i in family.members.tolist()], device=start.device)
            valid = (t >= -slack[row, None]) & (t <= 1 + slack[row, None])
            rows.append(row[:, None].expand(t.shape)[valid])
            times.append(t[valid].clamp(0, 1))
            labels.append((label + first[member, None]).expand(t.shape)[valid])
        row, t, label = torch.cat(rows), torch.cat(times), torch.cat(labels)
        order = torch.argsort(t, stable=True)
        order = order[torch.argsort(row[order], stable=True)]
        return row[order], t[order], label[order]

    def crossing(self, start: Tensor, end: Tensor, tolerance: float) -> tuple[Tensor, Tensor]:
        """See `Domain.crossing`; `tolerance` is a length."""
        chunks = zip(start.split(self._rows), end.split(self._rows), strict=True)
        parts = [self._crossing(a, b - a, tolerance) for a, b in chunks]
        return torch.cat([t for t, _ in parts]), torch.cat([label for _, label in parts])

    def _crossing(self, start: Tensor, step: Tensor, tolerance: float) -> tuple[Tensor, Tensor]:
        result = torch.full_like(start[:, 0], torch.inf)
        result_label = torch.full_like(result, -1, dtype=torch.int64)
        owner, time, name = self._roots(start, step, tolerance)
        if len(owner) == 0:
            return result, result_label
        row, group, counts = torch.unique_consecutive(owner, return_inverse=True, return_counts=True)
        place = torch.arange(len(owner), device=owner.device) - (torch.cumsum(counts, 0) - counts)[group]
        t = torch.full((len(row), int(counts.max())), torch.inf, dtype=start.dtype, device=start.device)
        label = torch.full_like(t, -1, dtype=torch.int64)
        t[group, place], label[group, place] = time, name
        start, step = start[row], step[row]
        slack = tolerance / torch.linalg.vector_norm(step, dim=1).clamp_min(tolerance)

        # Walk through the sorted candidates; `left` is the first of those that coincide, and the candidate is a
        # crossing if the stretch behind it lies outside. The stretch behind t = 1 reaches a little further.
        left, left_label = t[:, 0], label[:, 0]
        for i in range(t.shape[1]):
            here = t[:, i]
            after = t[:, i + 1] if i + 1 < t.shape[1] else torch.full_like(here, torch.inf)
            after = torch.where(after.isinf(), torch.where(here < 1 - slack, 1.0, 1 + 1e3 * slack + 1e-7), after)
            decided = (here < torch.inf) & (after - here > slack)
            pick = decided.nonzero()[:, 0]
            middle = start[pick] + (0.5 * (here + after))[pick, None] * step[pick]
            outside = self.level(middle) < -tolerance
            out = pick[outside]
            result[row[out]], result_label[row[out]] = left[out], left_label[out]
            if i + 1 == t.shape[1]:
                break
            left = torch.where(decided, t[:, i + 1], left)
            left_label = torch.where(decided, label[:, i + 1], left_label)
            go = decided.new_ones(len(t))
            go[out] = False
            go &= t[:, i + 1] < torch.inf
            t, label, left, left_label, row, start, step, slack = (
                part[go] for part in (t, label, left, left_label, row, start, step, slack)
            )
        return result, result_label
