"""States with their origins, and the named conditions that leave some of them out."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike, NDArray

from sciml.chemistry.states import rows

if TYPE_CHECKING:
    from sciml.chemistry.mechanism import Mechanism

__all__ = [
    "Filter",
    "Samples",
    "concatenate",
    "elements_within",
    "fractions_within",
    "heat_release",
    "heat_release_within",
    "temperature_between",
]

Array = NDArray[np.float64]
Generator = np.random.Generator
# A named condition on states: (mechanism, states (n, 2+s)) -> which to keep (n,)
Filter = Callable[["Mechanism", Array], NDArray[np.bool_]]


@dataclass(frozen=True)
class Samples:
    """States and where they come from.

    Attributes:
        states: (n, 2+s).
        origin: (n,) index into `origins`.
        origins: the samplers, by name with their settings.
        left_out: how many candidates each filter refused, by the name of the filter.
    """

    states: Array
    origin: NDArray[np.int64]
    origins: tuple[str, ...]
    left_out: Mapping[str, int] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.states)

    def keep(self, which: NDArray[np.bool_], name: str) -> Samples:
        """The states where `which` holds; the others are counted under `name`."""
        counted = dict(self.left_out)
        counted[name] = counted.get(name, 0) + int(np.sum(~which))
        return Samples(self.states[which], self.origin[which], self.origins, counted)

    def filtered(self, mechanism: Mechanism, filters: Mapping[str, Filter]) -> Samples:
        """Apply filters in their order; each counts what it refuses of what is left."""
        kept = self
        for name, condition in filters.items():
            kept = kept.keep(np.asarray(condition(mechanism, kept.states), dtype=bool), name)
        return kept

    def deduplicated(self, digits: int = 12) -> Samples:
        """One of each group of states that agree to `digits` significant digits, the first."""
        with np.errstate(divide="ignore"):
            scale = 10.0 ** (digits - 1 - np.floor(np.log10(np.abs(self.states))))
        scale[~np.isfinite(scale)] = 1.0
        rounded = np.rint(self.states * scale) / scale
        first = np.zeros(len(self), dtype=bool)
        first[np.unique(rounded, axis=0, return_index=True)[1]] = True
        return self.keep(first, "duplicate")

    def shuffled(self, generator: Generator, n: int | None = None) -> Samples:
        """`n` of the states (all when None) in random order, without repetition."""
        order = generator.permutation(len(self))[:n]
        return Samples(self.states[order], self.origin[order], self.origins, self.left_out)


def concatenate(parts: Sequence[Samples]) -> Samples:
    """All states of several samplers, with their origins and counts."""
    if not parts:
        raise ValueError("parts is empty, but must hold at least one Samples")
    names = tuple(dict.fromkeys(name for part in parts for name in part.origins))
    origin = [np.array([names.index(n) for n in part.origins], dtype=np.int64)[part.origin] for part in parts]
    counted: dict[str, int] = {}
    for part in parts:
        for name, number in part.left_out.items():
            counted[name] = counted.get(name, 0) + number
    return Samples(np.concatenate([p.states for p in parts]), np.concatenate(origin), names, counted)


# ------------------------------------------------------------------ filters


def temperature_between(low: float, high: float) -> Filter:
    """Keep states from `low` to `high` K."""
    return lambda mechanism, states: (states[:, 0] >= low) & (states[:, 0] <= high)


def heat_release_within(reference: Array, factor: float = 10.0) -> Filter:
    """Keep states whose |heat release| is at most `factor` times the largest of `reference` states."""

    def condition(mechanism: Mechanism, states: Array) -> NDArray[np.bool_]:
        limit = factor * abs(heat_release(mechanism, reference)).max()
        return abs(heat_release(mechanism, states)) <= limit

    return condition


def fractions_within(reference: Array, factor: float = 10.0) -> Filter:
    """Keep states in which no species exceeds `factor` times its largest fraction among `reference` states."""
    top = np.asarray(reference)[:, 2:].max(axis=0)
    return lambda mechanism, states: (states[:, 2:] <= np.minimum(1.0, factor * top)).all(axis=1)


def elements_within(mechanism: Mechanism, reference: Array, margin: float = 0.1) -> Filter:
    """Keep states whose element fractions lie within those of `reference` states, widened by `margin` of each."""
    found = mechanism.element_fractions(reference)
    low, high = (1 - margin) * found.min(axis=0), (1 + margin) * found.max(axis=0)

    def condition(mechanism: Mechanism, states: Array) -> NDArray[np.bool_]:
        fractions = mechanism.element_fractions(states)
        return ((fractions >= low) & (fractions <= high)).all(axis=1)

    return condition


def heat_release(mechanism: Mechanism, states: ArrayLike) -> Array:
    """Heat set free by the reactions of each state, W/m3, (n,)."""
    gas = mechanism.gas
    found = []
    for state in rows(states, mechanism.n_species):
        gas.TPY = state[0], state[1], state[2:]
        found.append(gas.heat_release_rate)
    return np.array(found)
