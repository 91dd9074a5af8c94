"""Fields that satisfy boundary values by construction: ``u(x) = lift(x) + factor(x) N(x)``.

The factor is zero exactly where values are given and positive elsewhere; the lift takes the values there. What differs
between such fields is where factor and lift come from: `Hard` takes them from a domain, `sciml.solvers.hardbox` from
the faces of a box.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any, ClassVar, Self

import numpy as np
import torch
from torch import Tensor, nn
from torch.autograd import forward_ad

from sciml.calculus import Taylor, jet
from sciml.domain import Domain, domain_from
from sciml.networks import Dense, Mscale

__all__ = ["Hard", "HardField", "field_taylor"]

Expansions = tuple[Taylor, Taylor | float]

_REMEMBERED = 6  # sets of points whose factor and lift are kept
_PROBE = "lift at points"  # values of a lift, by which a file recognises it
_INNER: dict[str, type[Dense] | type[Mscale]] = {"dense": Dense, "mscale": Mscale}


class HardField(nn.Module):
    """What all such fields share: values, expansion and storage.

    Args:
        network: the N, with ``taylor`` and ``forward``.
        domain: where the field lives.
    """

    kind: ClassVar[str]

    def __init__(self, network: nn.Module, domain: Domain) -> None:
        super().__init__()
        self.network, self.domain = network, domain
        self._known: list[tuple[Tensor, int, tuple[Any, ...], Expansions]] = []

    def factor(self, x: Tensor) -> Tensor:
        """F at points, ``(n,)``."""
        return self.domain.factor(x)

    def lift_taylor(self, t: Taylor) -> Taylor | float:
        """The expansion of the lift at the points of a seed."""
        raise TypeError(f"{type(self).__name__} is not a field by itself")

    @property
    def inputs(self) -> int:
        """Number of coordinates."""
        return self.domain.dim

    @property
    def smoothness(self) -> float:
        """That of the network."""
        return getattr(self.network, "smoothness", math.inf)

    def forward(self, x: Tensor) -> Tensor:
        """Values ``(n,)``, or ``(n, m)``, at points ``(n, d)``."""
        value = self.taylor(Taylor(x)).value
        return value.squeeze(-1) if value.shape[-1] == 1 else value

    def taylor(self, t: Taylor) -> Taylor:
        """The expansion at points: `t` is that of the identity (`Taylor.seed`).

        Raises:
            ValueError: if the first derivatives of `t` are not those of the identity.
        """
        if t.first is not None and not _is_seed(t):
            raise ValueError(
                "t is an expansion after another map, but boundary values are built in at points of the domain"
            )
        factor, lift = self._expansions(t)
        result = self.network.taylor(t) * factor  # type: ignore[operator]
        if isinstance(lift, Taylor):
            return result + lift
        return Taylor(result.value + lift, result.first, result.lap, result.second, result.pairs)

    def _expansions(self, t: Taylor) -> Expansions:
        """Factor and lift, which depend on the points alone: training returns to the same points many times a step."""
        plain = not t.value.requires_grad and forward_ad.unpack_dual(t.value).tangent is None
        for x, version, request, known in self._known if plain else []:
            if request == t.request and x._version == version and _same_memory(x, t.value):
                return known
        found = field_taylor(self.factor, t), self.lift_taylor(t)
        solid = all(_same_memory(a, a) and not a.requires_grad for a in _tensors(t.value, *found))
        if plain and solid and torch.is_grad_enabled():  # in training
            # the points are kept, so that no others get their memory; copies with another network share the list
            self._known.insert(0, (t.value.detach(), t.value._version, t.request, found))
            del self._known[_REMEMBERED:]
        return found

    def lift_values(self) -> Tensor | None:
        """Values of the lift at fixed points, by which `restore` recognises it; None where a file holds all of it."""
        return None

    def describe(self) -> dict[str, Any]:
        """What `restore` needs beside `arrays`, as JSON.

        Raises:
            ValueError: if the network is no `Dense` or `Mscale`.
        """
        inner: Any = self.network
        if type(inner) not in _INNER.values():
            raise ValueError(f"the network is a {type(inner).__name__}, but files store {', '.join(_INNER)}")
        return {"network": {"kind": inner.kind, "describe": inner.describe()}}

    def arrays(self) -> dict[str, np.ndarray]:
        """Those of the network, and values of the lift."""
        arrays: dict[str, np.ndarray] = self.network.arrays()  # type: ignore[operator]
        values = self.lift_values()
        return arrays if values is None else {**arrays, _PROBE: values.detach().cpu().numpy()}

    @staticmethod
    def stored_network(description: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> Dense | Mscale:
        """The network inside a description and its arrays."""
        inner = _INNER[description["network"]["kind"]]
        own = {k: v for k, v in arrays.items() if k != _PROBE}
        return inner.restore(description["network"]["describe"], own)

    def recognised(self, arrays: Mapping[str, np.ndarray]) -> Self:
        """The field, if its lift takes the values in `arrays`.

        Raises:
            ValueError: otherwise.
        """
        values = self.lift_values()
        if values is not None and not np.allclose(values.detach().cpu().numpy(), arrays[_PROBE], rtol=1e-6, atol=1e-9):
            raise ValueError("problem has other boundary values than the one that the network was trained for")
        return self


class Hard(HardField):
    """A network with the values of a whole boundary built in: ``u(x) = lift(x) + domain.factor(x) N(x)``.

    Args:
        network: the N, with ``taylor`` and ``forward``.
        domain: one that has a smooth factor.
        boundary: the constant value on the boundary where `lift` is None.
        lift: a Field that takes the boundary values, extended into the domain; overrides `boundary`.

    Raises:
        ValueError: if neither `boundary` nor `lift` is given, or the domain has no smooth factor.
    """

    kind: ClassVar[str] = "hard"

    def __init__(
        self,
        network: nn.Module,
        domain: Domain,
        boundary: float | None = 0.0,
        lift: Callable[[Tensor], Tensor] | None = None,
    ) -> None:
        super().__init__(network, domain)
        if boundary is None and lift is None:
            raise ValueError("boundary is None and lift is None, but one of them must give the values on the boundary")
        domain.factor(torch.stack(list(domain.bounds)).mean(0, keepdim=True))  # raises where there is none
        self.boundary, self.lift = boundary, lift

    def lift_taylor(self, t: Taylor) -> Taylor | float:
        """The expansion of the lift, or the constant value."""
        if self.lift is not None:
            return field_taylor(self.lift, t)
        assert self.boundary is not None
        return self.boundary

    def lift_values(self) -> Tensor | None:
        """Values of a lift."""
        return None if self.lift is None else self.lift(self.domain.interior(16))

    def describe(self) -> dict[str, Any]:
        """What `restore` needs beside `arrays`, as JSON; a `lift` is only mentioned.

        Raises:
            ValueError: if the network is no `Dense` or `Mscale`.
        """
        return {
            **super().describe(),
            "domain": self.domain.describe(),
            "boundary": self.boundary,
            "lift": self.lift is not None,
        }

    @classmethod
    def restore(cls, description: Mapping[str, Any], arrays: Mapping[str, np.ndarray], problem: Any = None) -> Self:
        """The field of a description and its arrays.

        Args:
            description: from `describe`.
            arrays: from `arrays`.
            problem: needed for a field with a `lift`, which no file holds: its Dirichlet value is taken.

        Raises:
            ValueError: if the lift is missing, or differs from the one the network was trained with.
        """
        lift = _dirichlet(problem) if description["lift"] else None
        if description["lift"] and lift is None:
            raise ValueError(
                "the field has boundary values given by a function, which no file holds; "
                "give problem= with that function as its only Dirichlet condition"
            )
        network, domain = cls.stored_network(description, arrays), domain_from(description["domain"])
        return cls(network, domain, description["boundary"], lift).recognised(arrays)


def _dirichlet(problem: Any) -> Callable[[Tensor], Tensor] | None:
    """The value of a problem's only Dirichlet condition."""
    found = [c.value for c in getattr(problem, "conditions", ()) if hasattr(c, "component")]
    return found[0] if len(found) == 1 and callable(found[0]) else None


def _is_seed(t: Taylor) -> bool:
    first = t.first
    if first is None or first.shape[0] != first.shape[-1] or first.shape[1] != 1 and first.stride(1) != 0:
        return False
    return torch.equal(first[:, 0], torch.eye(len(first), dtype=first.dtype, device=first.device))


def _tensors(*parts: Any) -> list[Tensor]:
    """The tensors among values and expansions."""
    found: list[Any] = []
    for p in parts:
        found += [p.value, p.first, p.lap, p.second] if isinstance(p, Taylor) else [p]
    return [a for a in found if isinstance(a, Tensor)]


def _same_memory(a: Tensor, b: Tensor) -> bool:
    """Whether two tensors are views of the same numbers; never for those of a transform of `torch.func`."""
    try:
        return a.data_ptr() == b.data_ptr() and a.shape == b.shape and a.stride() == b.stride() and a.dtype == b.dtype
    except RuntimeError:  # a batched or differentiated tensor has no memory of its own
        return False


def field_taylor(field: Callable[[Tensor], Tensor], t: Taylor) -> Taylor:
    """The expansion of any field at the points of a seed."""
    j = jet(lambda x: field(x).to(x.dtype), t.value, *t.request)

    def column(a: Tensor | None) -> Tensor | None:
        return a if a is None else a.unsqueeze(-1) if j.value.ndim == 1 else a

    value = column(j.value)
    assert value is not None
    first = None if j.gradient is None else column(j.gradient.movedim(-1, 0))
    second = column(torch.stack([j.second[p] for p in t.pairs])) if t.second is not None else None
    return Taylor(value, first, column(j.laplacian) if t.lap is not None else None, second, t.pairs)
