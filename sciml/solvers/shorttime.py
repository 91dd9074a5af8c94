"""Networks of a window of a state on a grid: its value a short time later, with exact derivatives in space and time.

    S_s u (x) = u(x) + s F(s, u(x), c(x)),      c_j(x) = int_{-r}^{r} G_j(y) u(x + y) dy,      0 <= s <= tau

`Strip` is the grid, which interpolates states around any place, `ShortTime` the networks G and F, and `Row` is the
field of which an equation asks derivatives.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from sciml.calculus import Taylor
from sciml.networks import Dense

__all__ = ["ORDER", "Row", "ShortTime", "Strip"]

ORDER = 6  # nodes of the polynomials that states are interpolated by


@dataclass(frozen=True)
class Strip:
    """A uniform grid on an interval, whose functions are continued as odd ones.

    Attributes:
        low: end of the interval.
        high: the other.
        cells: of the grid.
        reach: cells to either side that a window shows.
    """

    low: float
    high: float
    cells: int
    reach: int

    @property
    def nodes(self) -> Tensor:
        """``(cells + 1,)`` places."""
        return torch.linspace(self.low, self.high, self.cells + 1, dtype=torch.float64)

    def extended(self, values: Tensor) -> Tensor:
        """Values ``(.., cells + 1 + 2 margin)`` on a wider grid."""
        margin, n = self.reach + ORDER // 2, self.cells
        left, right = values[..., 1 : margin + 1], values[..., n - margin : n]
        return torch.cat([-left.flip(-1), values, -right.flip(-1)], -1)

    def windows(self, extended: Tensor, owner: Tensor, x: Tensor, order: int = 0) -> list[Tensor]:
        """States ``owner (n,)`` around x ``(n,)``, each ``(n, 2 reach + 1)``: u(x + i h) and derivatives in x."""
        h = (self.high - self.low) / self.cells
        place = (x - self.low) / h
        first = place.floor().long().clamp(0, self.cells - 1)
        wide = torch.arange(2 * self.reach + ORDER)
        # of node i - reach - (order / 2 - 1) of the strip the extended values start one margin earlier
        values = extended[owner[:, None], first[:, None] + 1 + wide].unfold(1, ORDER, 1)
        weights = _lagrange(place - first, order).to(values)
        return [torch.einsum("nim,nm->ni", values, w) / h**k for k, w in enumerate(weights)]


def _lagrange(t: Tensor, order: int) -> Tensor:
    """Weights ``(order + 1, n, 6)`` of values at -2, .., 3 for the value and derivatives at t in [0, 1]."""
    nodes = torch.arange(ORDER, dtype=torch.float64) - (ORDER // 2 - 1)
    # columns: coefficients of the six polynomials
    polynomials = torch.linalg.inv(nodes[:, None] ** torch.arange(ORDER))
    powers = t.double()[:, None] ** torch.arange(ORDER)
    slope = torch.diag(torch.arange(1, ORDER, dtype=torch.float64), 1)
    tables = [polynomials]
    for _ in range(order):
        tables.append(slope @ tables[-1])
    return torch.stack([powers @ table for table in tables])


class ShortTime(nn.Module):
    """S_s: from a window of a state to the state a time s later, at the window's middle.

    Args:
        kernel: G, of an offset in [-1, 1], the window.
        head: F, of (s / tau, value, c), and x in [-1, 1] where it is not invariant.
        tau: longest time.
        reach: nodes to either side in a window.
        size: of the states, by which they are divided.
        odd: make F odd; otherwise it sees x, and what it makes vanishes at x = -1 and 1.
    """

    def __init__(self, kernel: Dense, head: Dense, tau: float, reach: int, size: float, odd: bool) -> None:
        super().__init__()
        self.kernel, self.head = kernel, head
        self.tau, self.reach, self.size, self.odd = tau, reach, size, odd

    def forward(self, windows: Sequence[Tensor], s: Tensor, x: Tensor) -> Tensor:
        """Values ``(n,)``."""
        return self.taylor(windows, s, x, (0, None)).value[:, 0]

    def taylor(
        self, windows: Sequence[Tensor], s: Tensor, x: Tensor, request: tuple[int, Any], scale: float = 1.0
    ) -> Taylor:
        """The expansion in (s, x), values ``(n, 1)``.

        Args:
            windows: of the state and its derivatives in x.
            s: times ``(n,)`` since the state.
            x: places ``(n,)`` in [-1, 1].
            request: as in `Taylor.seed`.
            scale: dx in [-1, 1] for dx of the problem.
        """
        offsets = torch.linspace(-1, 1, 2 * self.reach + 1, dtype=s.dtype, device=s.device)[:, None]
        kernel = self.kernel(offsets).reshape(len(offsets), -1) / len(offsets) ** 0.5
        middle = torch.zeros_like(kernel[:, :1])
        middle[self.reach] = 1.0
        table = torch.cat([middle, kernel], 1) / self.size
        time = self._coordinate(s / self.tau, 0, 1 / self.tau, request)
        place = None if self.odd else self._coordinate(x, 1, scale, request)
        change = self.head.taylor(_joined(time, self._seen(windows, table, request), place))
        if self.odd:
            mirrored = self.head.taylor(_joined(time, self._seen(windows, -table.flip(0), request), None))
            change = (change + mirrored.map(torch.neg)).map(lambda a: 0.5 * a)
        else:
            assert place is not None
            change = change * (place * place).map(torch.neg, torch.ones_like(place.value))
        start = self._seen(windows, middle, request)
        return start + (change * time).map(lambda a: self.size * a)

    def _coordinate(self, values: Tensor, axis: int, slope: float, request: tuple[int, Any]) -> Taylor:
        seed = Taylor.seed(torch.zeros(len(values), 2, dtype=values.dtype), *request)
        one = seed.map(lambda a: slope * a[..., axis : axis + 1])
        return Taylor(values[:, None], one.first, one.lap, one.second, one.pairs)

    def _seen(self, windows: Sequence[Tensor], table: Tensor, request: tuple[int, Any]) -> Taylor:
        """Integrals ``(n, k)`` over the window, along (s, x); a window does not change with s."""
        order, pairs = request
        parts = [w @ table for w in windows[: order + 1]]
        first = lap = second = None
        if order:
            first = torch.stack([torch.zeros_like(parts[1]), parts[1]])
        if order == 2 and pairs is None:
            lap = parts[2]
        elif order == 2:
            second = torch.stack([parts[2] if p == (1, 1) else torch.zeros_like(parts[2]) for p in pairs])
        return Taylor(parts[0], first, lap, second, pairs or ())


def _joined(*parts: Taylor | None) -> Taylor:
    """All columns side by side."""
    given = [p for p in parts if p is not None]

    def cat(name: str) -> Tensor | None:
        pieces = [getattr(p, name) for p in given]
        return None if pieces[0] is None else torch.cat([p.expand(*pieces[1].shape[:-1], -1) for p in pieces], -1)

    value = torch.cat([p.value for p in given], -1)
    return Taylor(value, cat("first"), cat("lap"), cat("second"), given[0].pairs)


class Row:
    """One field of space-time points ``(s, x)``, each of which has its own state: what equations are asked of."""

    def __init__(self, network: ShortTime, windows: Sequence[Tensor], strip: Strip) -> None:
        self.network, self.windows, self.strip = network, windows, strip

    def __call__(self, x: Tensor) -> Tensor:
        """Values ``(n,)`` at points ``(n, 2)``."""
        return self.taylor(Taylor(x)).value[:, 0]

    def taylor(self, t: Taylor) -> Taylor:
        """The expansion in (s, x), values ``(n, 1)``."""
        s, x = t.value.unbind(1)
        scale = 2 / (self.strip.high - self.strip.low)
        return self.network.taylor(self.windows, s, (x - self.strip.low) * scale - 1, t.request, scale)
