"""Networks that integrate data against a kernel, the ansatz of MOD-Net (arXiv:2107.03673).

    u_k(x) = lift_k(x) + factor(x) F(x, c_k(x)),        c_k(x) = sum_j w_j G(x, y_j) g_k(y_j)

G is a dense network of x and y together with one or more outputs, F a dense network or, for the linear ansatz, the sum
of its argument. One evaluation of G serves all members g_1, .., g_K of a family. Derivatives with respect to x reach G
through its first argument alone, so every equation acts on u by `sciml.calculus`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from sciml.calculus import Taylor
from sciml.domain import Domain, domain_from
from sciml.hard import field_taylor
from sciml.networks import Dense
from sciml.solvers.members import refuse_outside
from sciml.solvers.quadrature import derivative, legendre, transform

__all__ = ["IntegralNetwork", "Interpolant", "Kernel", "Members"]


class Kernel(nn.Module):
    """The integral c_k(x) = sum_j w_j G(x, y_j) g_k(y_j).

    Args:
        network: G, of points (x, y) with d + e columns.
        nodes: y ``(m, e)``.
        weights: w ``(m,)``.
        symmetric: take (G(x, y) + G(y, x)) / 2, as the Green's function of a self-adjoint equation is.

    Raises:
        ValueError: if a symmetric kernel has arguments of different dimensions.
    """

    nodes: Tensor
    weights: Tensor

    def __init__(self, network: Dense, nodes: Tensor, weights: Tensor, symmetric: bool = False) -> None:
        super().__init__()
        self.network, self.symmetric = network, symmetric
        self.dim = network.inputs - nodes.shape[1]
        if symmetric and self.dim != nodes.shape[1]:
            raise ValueError(
                f"symmetric=True needs x and y in the same space, but they have {self.dim} and {nodes.shape[1]} columns"
            )
        like = next(network.parameters())
        self.register_buffer("nodes", nodes.to(like))
        self.register_buffer("weights", weights.to(like))

    def pairs(self, t: Taylor, nodes: Tensor) -> Taylor:
        """The expansion of G, values ``(n m, channels)``, along that of x ``(n, d)``; x runs slowest."""
        found = self.network.taylor(self._joined(t, nodes, self.dim))
        if self.symmetric:
            other = self.network.taylor(self._joined(t, nodes, -1))
            found = (found + other).map(lambda a: 0.5 * a)
        return found

    def _joined(self, t: Taylor, nodes: Tensor, split: int) -> Taylor:
        """(x, y), or (y, x) where split < 0, for all pairs."""
        n, m = len(t.value), len(nodes)
        x, y = t.value.repeat_interleave(m, 0), nodes.repeat(n, 1)
        before, after = (0, nodes.shape[1]) if split >= 0 else (nodes.shape[1], 0)

        def padded(a: Tensor) -> Tensor:
            return nn.functional.pad(a, (before, after))

        value = torch.cat([x, y] if split >= 0 else [y, x], 1)
        if t.first is None:
            return Taylor(value)
        # derivatives of the identity: the same row for all pairs
        first = padded(t.first[:, :1]).expand(-1, n * m, -1)
        lap = None if t.lap is None else torch.zeros_like(value)
        second = None if t.second is None else value.new_zeros(len(t.pairs), *value.shape)
        return Taylor(value, first, lap, second, t.pairs)

    def taylor(self, t: Taylor, data: Tensor) -> Taylor:
        """The expansion of c, values ``(n, K, channels)``, for data ``(m, K)`` at the nodes."""
        n, weighted = len(t.value), self.weights[:, None] * data

        def integrate(a: Tensor) -> Tensor:
            shaped = a.reshape(*a.shape[:-2], n, len(weighted), a.shape[-1])
            return torch.matmul(shaped.transpose(-1, -2), weighted).transpose(-1, -2)

        return self.pairs(t, self.nodes).map(integrate)


class Interpolant(nn.Module):
    """The polynomial through data at the Gauss nodes of an interval, as a function of the last coordinate of x."""

    to_modes: Tensor
    slope: Tensor

    def __init__(self, low: float, high: float, count: int) -> None:
        super().__init__()
        self.low, self.high, self.count = low, high, count
        self.register_buffer("to_modes", transform(count), persistent=False)
        self.register_buffer("slope", derivative(count) * (2 / (high - low)), persistent=False)

    def taylor(self, t: Taylor, data: Tensor) -> Taylor:
        """The expansion, values ``(n, K)``."""
        c = self.to_modes.to(data) @ data
        slope = self.slope.to(data)
        table = legendre(2 * (t.value[:, -1] - self.low) / (self.high - self.low) - 1, self.count)
        last = t.value.shape[1] - 1
        bend = table @ slope @ slope @ c
        first = lap = second = None
        if t.first is not None:
            first = bend.new_zeros(len(t.first), *bend.shape)
            first[last] = table @ slope @ c
        if t.lap is not None:
            lap = bend
        if t.second is not None:
            second = torch.stack([bend if p == (last, last) else torch.zeros_like(bend) for p in t.pairs])
        return Taylor(table @ c, first, lap, second, t.pairs)


class IntegralNetwork(nn.Module):
    """What is trained, and with the data of a call, what an operator returns: values ``(n, K)``, or ``(n,)`` for one.

    Args:
        domain: of the points x.
        kernels: one for each kind of data.
        data: ``(m, K)`` at the nodes of each kernel.
        head: F, of (x, c); None sums up.
        hard: multiply by the domain's factor, which vanishes on its boundary (on all but the final time with a lift).
        boundary: added constant.
        lift: with it, u starts at t = 0 from the data of the first kernel: u = lift + t factor F.
    """

    def __init__(
        self,
        domain: Domain,
        kernels: list[Kernel],
        data: list[Tensor],
        head: Dense | None = None,
        hard: bool = False,
        boundary: float = 0.0,
        lift: Interpolant | None = None,
    ) -> None:
        super().__init__()
        self.domain, self.hard, self.boundary, self.single = domain, hard, boundary, False
        self.kernels, self.head, self.lift = nn.ModuleList(kernels), head, lift
        self.with_data(data)
        self.dim = self.inputs = domain.dim

    def with_data(self, data: list[Tensor]) -> None:
        """Take other members."""
        like = next(self.parameters())
        self.data = [d.to(like) for d in data]

    def twin(self, data: list[Tensor], single: bool) -> IntegralNetwork:
        """The same network with other data; parameters are shared."""
        other = IntegralNetwork(self.domain, self._kernels(), data, self.head, self.hard, self.boundary, self.lift)
        other.single = single
        return other

    @property
    def smoothness(self) -> float:
        """That of the kernel."""
        return float(min(k.network.smoothness for k in self._kernels()))

    def _kernels(self) -> list[Kernel]:
        return [k for k in self.kernels if isinstance(k, Kernel)]

    def taylor(self, t: Taylor) -> Taylor:
        """The expansion at points: `t` is that of the identity; values ``(n, K)``."""
        parts = [k.taylor(t, d) for k, d in zip(self._kernels(), self.data, strict=True)]
        total = parts[0]
        for other in parts[1:]:
            total = total + other
        lifted = None if self.lift is None else self.lift.taylor(t, self.data[0])
        u = self._headed(t, total, lifted)
        if self.hard:
            u = field_taylor(self._factor, t) * u
        if lifted is not None:
            return u + lifted
        return replace(u, value=u.value + self.boundary)

    def _factor(self, x: Tensor) -> Tensor:
        if self.lift is None:
            return self.domain.factor(x)
        # at the initial time and the sides, not at the end
        lower, upper = (b.to(x) for b in self.domain.bounds)
        y = (x - lower) / (upper - lower)
        return y[:, 0] * (4 * y[:, 1:] * (1 - y[:, 1:])).prod(1)

    def _headed(self, t: Taylor, c: Taylor, lifted: Taylor | None) -> Taylor:
        """F at (x, c), and the lift where there is one, for every member."""
        if self.head is None:
            return c.map(lambda a: a.sum(-1))
        n, many = c.value.shape[:2]

        def stacked(own: Tensor, integral: Tensor, start: Tensor | None) -> Tensor:
            own = own.unsqueeze(-2).expand(*integral.shape[:-1], own.shape[-1])
            parts = [own, integral, *([] if start is None else [start.unsqueeze(-1)])]
            joined = torch.cat(parts, -1)
            return joined.reshape(*joined.shape[:-3], n * many, joined.shape[-1])

        def channel(name: str) -> Tensor | None:
            own, integral = getattr(t, name), getattr(c, name)
            if integral is None:
                return None
            own = own.expand(*own.shape[:-2], n, own.shape[-1])
            return stacked(own, integral, None if lifted is None else getattr(lifted, name))

        value = stacked(t.value, c.value, None if lifted is None else lifted.value)
        inner = Taylor(value, channel("first"), channel("lap"), channel("second"), c.pairs)
        return self.head.taylor(inner).map(lambda a: a.reshape(*a.shape[:-2], n, many))

    def forward(self, x: Tensor) -> Tensor:
        """Values ``(n, K)``, or ``(n,)`` for one function.

        Raises:
            ValueError: for points outside the domain.
        """
        refuse_outside(self.domain, x)
        value = self.taylor(Taylor(x)).value
        return value[:, 0] if self.single else value

    # ---------------------------------------------------------------------------------------------------------- files

    def describe(self) -> dict[str, Any]:
        """All but the arrays."""
        return {
            "domain": self.domain.describe(),
            "kernels": [{"network": k.network.describe(), "symmetric": k.symmetric} for k in self._kernels()],
            "head": None if self.head is None else self.head.describe(),
            "hard": self.hard,
            "boundary": self.boundary,
            "lift": None if self.lift is None else [self.lift.low, self.lift.high, self.lift.count],
            "single": self.single,
        }

    def arrays(self) -> dict[str, np.ndarray]:
        """Parameters, nodes and data."""
        arrays = {k: v.detach().cpu().numpy() for k, v in self.state_dict().items()}
        return arrays | {f"data.{i}": d.detach().cpu().numpy() for i, d in enumerate(self.data)}

    @classmethod
    def restore(
        cls, description: Mapping[str, Any], arrays: Mapping[str, np.ndarray], problem: Any = None
    ) -> IntegralNetwork:
        """From `describe` and `arrays`."""
        d, t = description, {k: torch.as_tensor(np.asarray(v)) for k, v in arrays.items()}

        def dense(told: Mapping[str, Any], prefix: str) -> Dense:
            own = {k.removeprefix(prefix): v for k, v in arrays.items() if k.startswith(prefix)}
            return Dense.restore(told, own)

        kernels = [
            Kernel(
                dense(k["network"], f"kernels.{i}.network."),
                t[f"kernels.{i}.nodes"],
                t[f"kernels.{i}.weights"],
                k["symmetric"],
            )
            for i, k in enumerate(d["kernels"])
        ]
        head = None if d["head"] is None else dense(d["head"], "head.")
        lift = None if d["lift"] is None else Interpolant(*d["lift"])
        data = [t[f"data.{i}"] for i in range(len(kernels))]
        network = cls(domain_from(d["domain"]), kernels, data, head, d["hard"], d["boundary"], lift)
        network.single = d["single"]
        return network


class Members:
    """All members of an integral network as one scalar field: points repeated K times each, member by member.

    Every equation of the package is written for one unknown; along these ``(n K)`` rows it holds for all members at
    once.

    Args:
        field: gives ``(n, K)``, with a method taylor.
        many: K.
    """

    def __init__(self, field: Any, many: int) -> None:
        self.field, self.many = field, many

    def repeat(self, x: Tensor) -> Tensor:
        """Points ``(n K, d)`` from ``(n, d)``."""
        return x.repeat_interleave(self.many, 0)

    def __call__(self, x: Tensor) -> Tensor:
        """Values ``(n K,)`` at repeated points."""
        return self.taylor(Taylor(x)).value[:, 0]

    def taylor(self, t: Taylor) -> Taylor:
        """The expansion at repeated points, values ``(n K, 1)``."""
        x = t.value[:: self.many]
        found = self.field.taylor(Taylor.seed(x, *t.request))
        return found.map(lambda a: a.reshape(*a.shape[:-2], -1, 1))
