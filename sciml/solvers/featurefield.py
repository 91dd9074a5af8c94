"""A linear combination of frozen features: a Field with exact derivatives that can be saved."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from sciml.calculus import Taylor
from sciml.solvers.boxes import TensorPolynomial
from sciml.solvers.families import VALUE, Bubbles, Family, Indices, Operator, Polynomials, Ridges, Waves
from sciml.solvers.modulated import Modulated
from sciml.solvers.singular import Powers
from sciml.solvers.solid import SolidHarmonics

__all__ = ["FeatureField", "nested", "restored", "under"]

_KINDS: dict[str, Any] = {
    f.kind: f for f in (Waves, Polynomials, Bubbles, Modulated, Ridges, Powers, TensorPolynomial, SolidHarmonics)
}
_CHUNK = 2**19  # numbers in one block of a points x features matrix


class FeatureField:
    """A linear combination of features.

    Args:
        families: the features.
        coefficients: ``(sum of sizes, components)``.
    """

    kind: ClassVar[str] = "features"

    def __init__(self, families: Sequence[Family], coefficients: Tensor) -> None:
        self.families, self.coefficients = tuple(families), coefficients
        self.size = sum(f.size for f in self.families)

    def derivative(self, x: Tensor, operator: Operator) -> Tensor:
        """The operator applied to the field at points ``(n, d)``: ``(n, components)``."""
        parts = torch.split(self.coefficients, [f.size for f in self.families])
        rows = max(1, _CHUNK // max(1, self.size))
        found: list[Tensor] = []
        for start in range(0, max(1, len(x)), rows):
            chunk = slice(start, start + rows)
            cut = {i: w[chunk] if isinstance(w, Tensor) and w.ndim else w for i, w in operator.items()}
            terms = [f.apply(x[chunk], cut) @ c for f, c in zip(self.families, parts, strict=True)]
            found.append(torch.stack(terms).sum(0))
        return torch.cat(found)

    def __call__(self, x: Tensor) -> Tensor:
        """Values ``(n,)``, or ``(n, m)`` for m unknowns."""
        value = self.derivative(x, VALUE)
        return value[:, 0] if value.shape[1] == 1 else value

    def taylor(self, t: Taylor) -> Taylor:
        """Exact derivatives, see `sciml.calculus`; `t` is the expansion of the coordinates."""
        x, d = t.value, t.value.shape[1]
        value = self.derivative(x, VALUE)
        if t.first is None:
            return Taylor(value)
        gradient = [self.derivative(x, {(i,): 1.0}) for i in range(d)]

        def along(direction: Tensor) -> Tensor:
            return sum(gradient[i] * direction[:, i : i + 1] for i in range(d))  # type: ignore[return-value]

        def bend(a: Tensor, b: Tensor) -> Tensor:
            operator: dict[Indices, Tensor | float] = {}
            for i in range(d):
                for j in range(d):
                    weight = a[:, i] * b[:, j]
                    if bool((weight != 0).any()):
                        key = (min(i, j), max(i, j))
                        operator[key] = operator.get(key, 0.0) + weight
            return self.derivative(x, operator) if operator else torch.zeros_like(value)

        first = torch.stack([along(v) for v in t.first])
        lap = second = None
        if t.lap is not None:
            operator: dict[Indices, Tensor | float] = {}
            gram = torch.einsum("kni,knj->nij", t.first, t.first)
            for i in range(d):
                for j in range(i, d):
                    weight = gram[:, i, j] * (1.0 if i == j else 2.0)
                    if bool((weight != 0).any()):
                        operator[i, j] = weight
            lap = self.derivative(x, operator) + along(t.lap)
        if t.second is not None:
            second = torch.stack(
                [bend(t.first[i], t.first[j]) + along(t.second[k]) for k, (i, j) in enumerate(t.pairs)]
            )
        return Taylor(value, first, lap, second, t.pairs)

    def partial(self, x: Tensor, indices: Indices) -> Tensor:
        """A derivative of any order, ``(n,)`` or ``(n, m)``; see `sciml.calculus`."""
        found = self.derivative(x, {indices: 1.0})
        return found[:, 0] if found.shape[1] == 1 else found

    def describe(self) -> dict[str, Any]:
        """Kinds of the families."""
        return {"families": [f.kind for f in self.families]}

    def arrays(self) -> dict[str, np.ndarray]:
        """Coefficients and all families."""
        return {"coefficients": self.coefficients.numpy(), **nested("family", self.families)}

    @classmethod
    def restore(cls, description: Mapping[str, Any], arrays: Mapping[str, np.ndarray], problem: Any = None) -> Any:
        """From `describe` and `arrays`."""
        return cls(restored(description["families"], arrays), torch.as_tensor(arrays["coefficients"]))


def nested(name: str, parts: Iterable[Any]) -> dict[str, np.ndarray]:
    """The arrays of several parts, under NAMEk/."""
    return {f"{name}{k}/{key}": values for k, part in enumerate(parts) for key, values in part.arrays().items()}


def under(prefix: str, arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The arrays whose names begin with a prefix, without it."""
    return {name.removeprefix(prefix): values for name, values in arrays.items() if name.startswith(prefix)}


def restored(kinds: Sequence[str], arrays: Mapping[str, np.ndarray], name: str = "family") -> list[Family]:
    """Families again, from their kinds and `nested` arrays."""
    return [_KINDS[kind].restore(under(f"{name}{k}/", arrays)) for k, kind in enumerate(kinds)]
