"""Under which conditions mechanisms are compared: a table of temperature, pressure and equivalence ratio."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
from scipy.sparse.csgraph import minimum_spanning_tree

from sciml.chemistry.mechanism import Mechanism

__all__ = ["ATM", "Conditions"]

ATM = 101325.0
_HIGHEST = 1e9  # Pa; who asks for more has given Pa where atm were meant


@dataclass(frozen=True)
class Conditions:
    """A table of initial states.

    Attributes:
        fuel: by moles, such as ``"CH4"`` or ``"CH4:0.9, H2:0.1"``.
        oxidiser: by moles.
        points: rows of temperature (K), pressure (Pa), equivalence ratio.
    """

    fuel: str
    points: tuple[tuple[float, float, float], ...]
    oxidiser: str = "O2:1, N2:3.76"

    def __post_init__(self) -> None:
        """Check the rows."""
        if not self.points:
            raise ValueError("conditions has no points, but needs at least one temperature, pressure and phi")
        for point in self.points:
            if len(point) != 3 or not all(np.isfinite(v) and v > 0 for v in point):
                raise ValueError(f"conditions has the point {point}, but needs a positive T (K), p (Pa) and phi each")
            if point[1] > _HIGHEST:
                raise ValueError(f"conditions has the pressure {point[1] / ATM:g} atm; pressures are given in atm")

    @classmethod
    def grid(
        cls,
        fuel: str,
        temperatures: Sequence[float],
        pressures: Sequence[float],
        phis: Sequence[float],
        oxidiser: str = "O2:1, N2:3.76",
    ) -> Conditions:
        """Every combination; pressures in atm."""
        points = tuple((float(T), float(p) * ATM, float(f)) for T, p, f in product(temperatures, pressures, phis))
        return cls(fuel, points, oxidiser)

    @classmethod
    def from_yaml(cls, path: str | Path, fuel: str, oxidiser: str = "O2:1, N2:3.76") -> Conditions:
        """Read ``temperatures``, ``pressures`` (atm) and ``phis``, a grid, or ``points``, rows of the three.

        ``fuel`` and ``oxidiser`` of the file, if it has them, go before the arguments.

        Raises:
            FileNotFoundError: if there is no such file.
            ValueError: if it has neither, or something else.
        """
        from ruamel.yaml import YAML
        from ruamel.yaml.error import YAMLError

        path = Path(path)
        if not path.is_file():
            raise FileNotFoundError(f"conditions file {path} does not exist")
        try:
            table = YAML(typ="safe").load(path.read_text(encoding="utf-8"))
            return cls._from_table(table, fuel, oxidiser)
        except (TypeError, ValueError, YAMLError) as error:
            raise ValueError(f"conditions file {path}: {' '.join(str(error).split())}") from error

    @classmethod
    def _from_table(cls, table: Any, fuel: str, oxidiser: str) -> Conditions:
        lists = dict(table) if isinstance(table, dict) else {}
        mixtures = lists.pop("fuel", fuel), lists.pop("oxidiser", oxidiser)
        if set(lists) not in ({"points"}, {"temperatures", "pressures", "phis"}):
            found = ", ".join(map(str, lists)) or "none of them"
            raise ValueError(
                "it must have lists temperatures, pressures (atm) and phis, or points, and may have fuel and oxidiser,"
                f" but it has {found}"
            )
        for name, value in zip(("fuel", "oxidiser"), mixtures, strict=True):
            if not isinstance(value, str):
                raise ValueError(f"{name} is {value!r}, but must be a text such as 'CH4:0.9, H2:0.1'")
        for name, value in lists.items():
            if not isinstance(value, list):
                raise ValueError(f"{name} is {value!r}, but must be a list")
        if "points" not in lists:
            return cls.grid(mixtures[0], lists["temperatures"], lists["pressures"], lists["phis"], mixtures[1])
        for row in lists["points"]:
            if not isinstance(row, list) or len(row) != 3:
                raise ValueError(f"points has {row!r}, but its rows are temperature (K), pressure (atm) and phi")
        points = tuple((float(T), float(p) * ATM, float(phi)) for T, p, phi in lists["points"])
        return cls(mixtures[0], points, mixtures[1])

    @property
    def is_grid(self) -> bool:
        """Whether the rows are every combination of their temperatures, pressures and phis."""
        return len(set(self.points)) == math.prod(len(set(column)) for column in zip(*self.points, strict=True))

    def between(self) -> Conditions:
        """Held-out conditions: centres between neighbours, 5 % beyond the ends (in 1/T, log p, log phi).

        Where the rows are no grid: centres of the edges of their shortest tree, and each row moved outwards so far.

        Raises:
            ValueError: if there is one row only, for nothing lies between or beyond.
        """
        if len(set(self.points)) < 2:
            raise ValueError("conditions has one row only, but held-out conditions lie between rows")
        if self.is_grid:
            return self._grid(lambda values: [*(values[1:] + values[:-1]) / 2, *_ends(values, 0.05)])
        T, p, phi = np.array(list(dict.fromkeys(self.points))).T
        rows = np.column_stack([1 / T, np.log(p), np.log(phi)])
        low, high = rows.min(0), rows.max(0)
        scaled = rows / np.where(high > low, high - low, 1.0)
        one, other = minimum_spanning_tree(np.linalg.norm(scaled[:, None] - scaled, axis=-1)).nonzero()
        chosen = np.concatenate([(rows[one] + rows[other]) / 2, rows + 0.1 * (rows - (low + high) / 2)])
        points = np.column_stack([1 / chosen[:, 0], np.exp(chosen[:, 1:])])
        return replace(self, points=tuple((T, p, phi) for T, p, phi in points.tolist()))

    def corners(self, widen: float = 0.1) -> Conditions:
        """The corners of the box around the table, widened by a share of its sides (in 1/T, log p, log phi)."""
        return self._grid(partial(_ends, widen=widen))

    def _grid(self, chosen: Callable[[np.ndarray], Sequence[float]]) -> Conditions:
        """Every combination of what is chosen from the table's temperatures, pressures and phis."""
        axes = []
        scales: Sequence[tuple[Callable[..., Any], Callable[..., Any]]]
        scales = [(_inverse, _inverse), (np.log, np.exp), (np.log, np.exp)]
        for column, (to, back) in enumerate(scales):
            values = np.unique([p[column] for p in self.points])
            axes.append(back(np.sort(chosen(np.sort(to(values))))) if len(values) > 1 else values)
        grid = tuple((float(T), float(p), float(f)) for T, p, f in product(*axes))
        return replace(self, points=grid)

    def within(self, mechanism: Mechanism) -> Conditions:
        """Those of the points that the mechanism's thermodynamic data cover."""

        def covered(point: tuple[float, float, float]) -> bool:
            try:
                return len(replace(self, points=(point,)).states(mechanism)) == 1
            except ValueError:
                return False

        return replace(self, points=tuple(filter(covered, self.points)))

    def at(self, temperature: float, phis: tuple[float, float] = (0.0, np.inf)) -> Conditions:
        """The pressures, and the equivalence ratios that lie in a range, at one temperature (K)."""
        chosen = (p for p in self.points if phis[0] <= p[2] <= phis[1])
        return replace(self, points=tuple(dict.fromkeys((temperature, p, phi) for _, p, phi in chosen)))

    def states(self, mechanism: Mechanism) -> np.ndarray:
        """(n, 2+s)."""
        T, p, phi = np.array(self.points).T
        return np.atleast_2d(mechanism.state(T, p, self.fuel, self.oxidiser, phi))

    def labels(self) -> list[str]:
        """A short name of each row."""
        return [f"{T:.0f} K, {p / ATM:.3g} atm, phi {phi:.3g}" for T, p, phi in self.points]


def _ends(values: np.ndarray, widen: float) -> list[float]:
    """The ends of an axis, moved outwards by a share of its length."""
    beyond = widen * float(np.ptp(values))
    return [values[0] - beyond, values[-1] + beyond]


def _inverse(values: Any) -> np.ndarray:
    return 1.0 / np.asarray(values)
