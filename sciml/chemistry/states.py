"""What makes a row `[T (K), p (Pa), Y_1 ... Y_s]` a state of a gas."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

__all__ = ["check_rows", "clean", "lacking", "rows", "sound"]

Array = NDArray[np.float64]
# what integrators leave behind (their absolute tolerance), far above rounding, far below any fraction that matters
_NEGATIVE = 1e-12
_SUM = 1e-6
_ABSENT = 1e-30  # kmol of an element in a kilogram below which there is none of it


def rows(states: ArrayLike, n_species: int) -> Array:
    """States as a (n, 2+s) array of float64, a copy.

    Raises:
        ValueError: for another shape.
    """
    array = np.array(states, dtype=float)
    if array.ndim == 1:
        array = array[None]
    if array.ndim != 2 or array.shape[1] != 2 + n_species:
        raise ValueError(
            f"states have shape {np.shape(states)}, but must be (n, {2 + n_species}): T, p and the mass fractions"
        )
    return array


def check_rows(states: ArrayLike, n_species: int, temperatures: tuple[float, float]) -> list[tuple[int, str]]:
    """What is wrong with which rows: (row, the rest of a sentence), one entry for each bad row.

    Args:
        states: (n, 2+s).
        n_species: s.
        temperatures: the range (K) in which the thermodynamic data are valid.

    Raises:
        ValueError: if the shape is wrong.
    """
    array = rows(states, n_species)
    low, high = temperatures
    T, p, Y = array[:, 0], array[:, 1], array[:, 2:]
    finite = np.asarray(np.isfinite(array).all(axis=1))
    total = Y.sum(axis=1)
    bad = ~finite | (p <= 0) | (Y.min(axis=1) < -_NEGATIVE) | (abs(total - 1) > _SUM) | (T < low) | (T > high)
    found = []
    for row in np.flatnonzero(bad):
        if not finite[row]:
            said = "has an entry that is not a finite number"
        elif p[row] <= 0:
            said = f"has pressure {p[row]:g} Pa, but it must be positive"
        elif Y[row].min() < -_NEGATIVE:
            k = int(Y[row].argmin())
            said = f"has the mass fraction {Y[row, k]:g} for species {k}, but none may be negative"
        elif abs(total[row] - 1) > _SUM:
            said = f"has mass fractions that sum to {total[row]:g}, but they must sum to 1"
        else:
            said = f"has temperature {T[row]:g} K, but the thermodynamic data are valid from {low:g} to {high:g} K"
        found.append((int(row), said))
    return found


def clean(states: Array) -> Array:
    """Set the negative mass fractions that an integrator leaves (around its absolute tolerance) to zero; sum to 1."""
    out = states.copy()
    np.maximum(out[..., 2:], 0.0, out=out[..., 2:])
    out[..., 2:] /= out[..., 2:].sum(axis=-1, keepdims=True)
    return out


def lacking(elements: Any, atoms: Any) -> Any:
    """Which elements mixtures have none of, (n, e) booleans, arrays or tensors as given.

    Charge is zero in all that is neutral, and yet there may be carriers of it: what some species lower is never lacked.

    Args:
        elements: (n, e), kmol in a kilogram.
        atoms: (s, e), of whatever scale: their signs count.
    """
    return (elements < _ABSENT) & (atoms >= 0).all(0)


def sound(states: ArrayLike, n_species: int) -> Array:
    """A copy (n, 2+s) whose fractions add up to one, at whatever temperature; for graphs, which take no negative ones.

    Raises:
        ValueError: naming the first bad row and what is wrong with it.
    """
    array = np.array(states, dtype=np.float64)
    width = 2 + n_species
    if array.ndim != 2 or array.shape[1] != width:
        raise ValueError(
            f"states has shape {array.shape}, but must have shape (n, {width}): T, p and the fractions of "
            f"{n_species} species"
        )
    T, p, Y = array[:, 0], array[:, 1], array[:, 2:]
    total = Y.sum(1)
    # a few passes tell whether all is well; which row is not, and why, is found out only then
    well = (T > 0) & (p > 0) & np.isfinite(T + p) & (np.abs(total - 1) <= _SUM)
    if not (well.all() and Y.min(initial=0.0) >= 0):
        for bad, what in (
            (~np.isfinite(array).all(1), "holds a number that is not finite"),
            ((T <= 0) | (p <= 0), "has a temperature or a pressure that is not positive"),
            ((Y < 0).any(1), "has a negative mass fraction"),
            (np.abs(total - 1) > _SUM, "has mass fractions that do not add up to 1"),
        ):
            if bad.any():
                raise ValueError(f"state {int(np.argmax(bad))} {what}")
    Y /= total[:, None]
    return array
