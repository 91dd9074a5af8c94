"""Networks on a box, space-time included, that satisfy initial and Dirichlet values on whole faces by construction.

u = L + F N. The factor F vanishes on the faces with a condition and only there: per axis (x - l)(r - x) scaled to a
maximum of one, or (x - l) / (r - l) where only one face has a condition. The lift L takes the values g: with P_i the
interpolation of g along axis i between its faces (constant from one face, linear between two), it is the Boolean sum

    L = g - (1 - P_1) ... (1 - P_d) g = sum over non-empty sets S of axes of -(-1)^|S| prod_{i in S} P_i g

(Gordon, SIAM J. Numer. Anal. 8, 1971), which evaluates g on faces only. It is exact if g is continuous where faces
meet, which is checked.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from itertools import combinations, product
from typing import Any, ClassVar, Self

import numpy as np
import torch
from torch import Tensor, nn

from sciml.calculus import Taylor
from sciml.conditions import Dirichlet, Initial
from sciml.domain import Box
from sciml.hard import HardField, field_taylor
from sciml.problem import PDE, Elliptic, Evolution

__all__ = ["HardBox"]


class HardBox(HardField):
    """u = L + F N on the box of a problem; see the head of the module.

    Args:
        network: the N, with ``taylor``.
        problem: with one unknown on a `Box`, all conditions of which are Dirichlet or Initial.

    Raises:
        ValueError: if the problem is none such, a condition holds on part of a face only, or the values of two faces
            differ where these meet.
    """

    kind: ClassVar[str] = "hard box"

    def __init__(self, network: nn.Module, problem: Elliptic | PDE | Evolution) -> None:
        self.box, self.values = _faces(problem.pde() if isinstance(problem, Evolution) else problem)
        super().__init__(network, self.box)
        self.axes = sorted({axis for axis, _ in self.values})
        self._check()

    @staticmethod
    def applies(problem: Elliptic | PDE) -> bool:
        """Whether `problem` has nothing but Dirichlet and Initial conditions on whole faces of a box."""
        try:
            _faces(problem)
        except ValueError:
            return False
        return True

    def factor(self, x: Tensor) -> Tensor:
        """F at points, ``(n,)``."""
        low, high = (b.to(x) for b in self.box.bounds)
        parts = []
        for i in self.axes:
            s = (x[:, i] - low[i]) / (high[i] - low[i])
            both = (i, 0) in self.values and (i, 1) in self.values
            parts.append(4 * s * (1 - s) if both else s if (i, 0) in self.values else 1 - s)
        return torch.stack(parts).prod(0)

    def lift(self, x: Tensor) -> Tensor:
        """L at points, ``(n,)``."""
        total = torch.zeros_like(x[:, 0])
        for size in range(1, len(self.axes) + 1):
            for chosen in combinations(self.axes, size):
                total = total - (-1) ** size * self._interpolated(chosen, x)
        return total

    def lift_taylor(self, t: Taylor) -> Taylor:
        """The expansion of L."""
        return field_taylor(self.lift, t)

    def lift_values(self) -> Tensor:
        """Values of L."""
        return self.lift(self.box.interior(16))

    def _interpolated(self, chosen: tuple[int, ...], x: Tensor) -> Tensor:
        """The product of the P_i of the chosen axes, applied to g."""
        low, high = (b.to(x) for b in self.box.bounds)
        total = torch.zeros_like(x[:, 0])
        for sides in product(*([side for side in (0, 1) if (i, side) in self.values] for i in chosen)):
            weight, columns = torch.ones_like(x[:, 0]), list(x.unbind(1))
            for i, side in zip(chosen, sides, strict=True):
                s = (x[:, i] - low[i]) / (high[i] - low[i])
                if (i, 1 - side) in self.values:
                    weight = weight * (s if side else 1 - s)
                columns[i] = torch.ones_like(s) * (high[i] if side else low[i])
            total = total + weight * self.values[chosen[0], sides[0]](torch.stack(columns, 1))
        return total

    def _check(self) -> None:
        """Whether the lift takes all values: it does if they agree where faces meet."""
        x = self.box.interior(64)
        for (axis, side), value in self.values.items():
            on = x.clone()
            on[:, axis] = self.box.bounds[side][axis]
            gap, size = (self.lift(on) - value(on)).abs().max(), 1 + value(on).abs().max()
            if float(gap) > 1e-10 * float(size):
                raise ValueError(
                    f"the values on two faces differ by {float(gap):.1e} where they meet, so that no smooth function "
                    "takes both; use hard=False"
                )

    @classmethod
    def restore(cls, description: Mapping[str, Any], arrays: Mapping[str, np.ndarray], problem: Any = None) -> Self:
        """The field of a description and its arrays; the values come from `problem`, since no file holds functions.

        Raises:
            ValueError: if the problem is missing, or has other values than the one the network was trained for.
        """
        if problem is None:
            raise ValueError(
                "the field has boundary values built in, which no file holds; give problem= with its conditions"
            )
        return cls(cls.stored_network(description, arrays), problem).recognised(arrays)


def _faces(problem: Elliptic | PDE) -> tuple[Box, dict[tuple[int, int], Callable[[Tensor], Tensor]]]:
    """The box and the values on its faces, by (axis, side)."""
    box = problem.domain
    scalar = not isinstance(problem, PDE) or problem.components == 1
    if not isinstance(box, Box) or not scalar:
        raise ValueError("boundary values are built in for one unknown on a Box; use hard=False")
    points, _, labels = box.boundary(64 * 2 * box.dim, sobol=True)
    found: dict[tuple[int, int], Callable[[Tensor], Tensor]] = {}
    for condition, mask in problem.partition(points, labels):
        if not bool(mask.any()):
            continue
        if not isinstance(condition, (Dirichlet, Initial)):
            name = type(condition).__name__
            raise ValueError(f"boundary values are built in for Dirichlet and Initial, not for {name}; use hard=False")
        for label in labels[mask].unique().tolist():
            if bool(mask[labels == label].logical_not().any()):
                raise ValueError("a condition holds on a part of a face only, which is not built in; use hard=False")
            found[divmod(int(label), 2)] = condition.at
    if not found or any(not isinstance(c, (Dirichlet, Initial)) for c in problem.conditions):
        raise ValueError("boundary values are built in where all conditions are Dirichlet or Initial; use hard=False")
    return box, found
