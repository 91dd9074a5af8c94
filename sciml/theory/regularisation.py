"""Tools around initialisation and implicit regularisation.

- `ASI`: a network that starts as the zero function without changing its tangent kernel (arXiv:1905.07777).
- `dropout_penalty`: what dropout adds to the loss, deterministic and differentiable (arXiv:2207.05952).
- `LossSwitch`: the jump of the error when training changes from a data loss to a residual loss (arXiv:2405.03095).
- `observation_graph`: what gradient descent prefers in matrix completion (arXiv:2405.13721).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor, nn

from sciml.calculus import Field, Taylor
from sciml.theory.basis import Basis
from sciml.theory.chains import chains, copied
from sciml.theory.diagnostic import Diagnostic, Record, Schedule, State, every
from sciml.theory.functional import sample

__all__ = [
    "ASI",
    "LossSwitch",
    "ObservationGraph",
    "dropout_penalty",
    "dropout_roughness",
    "observation_graph",
]


class ASI(nn.Module):
    """Anti-symmetrical initialisation: ``(g(x; theta) - g(x; theta')) / sqrt 2`` with theta' = theta at the start.

    The output starts at exactly zero; the tangent kernel is that of g (arXiv:1905.07777). A random start that is not
    zero is an error which a wide network never forgets.

    Args:
        network: the g; copied twice, itself left alone.
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        if not isinstance(network, nn.Module):
            raise TypeError(f"network is a {type(network).__name__}, but must be a torch.nn.Module")
        self.plus, self.minus = copied(network), copied(network)
        if hasattr(network, "taylor"):
            self.taylor = self._taylor

    @property
    def smoothness(self) -> float:
        """That of the network."""
        return getattr(self.plus, "smoothness", math.inf)

    def forward(self, x: Tensor) -> Tensor:
        """Values of the shape that the network gives."""
        return (self.plus(x) - self.minus(x)) / math.sqrt(2)

    def _taylor(self, t: Taylor) -> Taylor:
        plus, minus = self.plus.taylor(t), self.minus.taylor(t)  # type: ignore[operator]
        return (plus + minus.map(torch.neg)).map(lambda a: a / math.sqrt(2))


# -------------------------------------------------------------------------------------------------------------- dropout


def dropout_penalty(network: nn.Module, points: Tensor, keep: float) -> Tensor:
    """R1 = (1 - p) / (2 n p) sum_i sum_j |W_j f_j(x_i)|^2, the mean effect of dropout on the loss (arXiv:2207.05952).

    f_j are the values of the last hidden layer, W_j the j-th column of the last layer's weight. For the loss
    1 / (2 n) sum |f(x_i) - y_i|^2 with dropout (values divided by p) behind the last hidden layer, the mean over all
    masks is the loss plus R1 exactly. Deterministic and differentiable: usable where random masks would destroy
    derivatives in x.

    Args:
        network: a plain chain of linear layers and activations.
        points: ``(n, d)``.
        keep: p, the probability to keep a neuron.

    Returns:
        A scalar that is differentiable in the parameters.

    Raises:
        ValueError: if `keep` is not in (0, 1] or the network is not one chain.
    """
    if not 0 < keep <= 1:
        raise ValueError(f"keep is {keep}, but must be a probability in (0, 1]")
    found = chains(network)
    if len(found) != 1 or found[0].owner is not network or found[0].stack is not None:
        raise ValueError(
            f"network is a {type(network).__name__}, but the penalty is defined for one chain of linear layers and "
            "activations such as Dense or torch.nn.Sequential, not for one inside another module"
        )
    chain = found[0]
    hidden = chain.hidden(points)[-2]
    columns = chain.layers[-1].weight.square().sum(0)
    return (1 - keep) / (2 * len(points) * keep) * (hidden.square() * columns).sum()


def dropout_roughness(
    network: nn.Module,
    points: Tensor,
    values: Tensor,
    keep: float,
    lr: float,
    generator: torch.Generator | None = None,
    samples: int = 64,
) -> float:
    """R2 = lr / 4 E |grad R_drop|^2, the second effect of dropout: it prefers flat places (arXiv:2207.05952).

    Args:
        network: a plain chain.
        points: ``(n, d)``.
        values: ``(n,)`` or ``(n, m)`` to fit.
        keep: probability to keep a neuron.
        lr: learning rate of the gradient descent.
        generator: of the masks; None is one seeded 0.
        samples: number of masks.
    """
    float(dropout_penalty(network, points, keep).detach())  # the same conditions
    chain = chains(network)[0]
    generator = torch.Generator().manual_seed(0) if generator is None else generator
    last, total = chain.layers[-1], 0.0
    parameters = [p for p in network.parameters() if p.requires_grad]
    for _ in range(samples):
        with torch.enable_grad():
            hidden = chain.hidden(points)[-2]
            mask = (torch.rand(hidden.shape, generator=generator, dtype=torch.float64) < keep).to(hidden) / keep
            gap = last(hidden * mask) - values.reshape(len(points), -1)
            gradient = torch.autograd.grad(gap.square().sum() / (2 * len(points)), parameters, materialize_grads=True)
        total += sum(float(g.square().sum()) for g in gradient)
    return lr / 4 * total / samples


# ---------------------------------------------------------------------------------------------------------- loss switch


class LossSwitch(Diagnostic):
    """Watches the error when training changes its loss: data first, then the equation (arXiv:2405.03095).

    Derivatives weight frequency k by |k|^2m, so a residual loss holds low frequencies weakly and the error jumps at the
    switch although the loss falls. A switch is seen when the names of the loss's terms change, or said by `switch`.

    Records "mse" at every step, and after a switch "jump" = mse / mse just before it. `jumps` gives for each switch
    J = max over the `window` steps after it, in the mean square (``J_mse``) and in the relative L2 norm
    (``J_rel_l2`` = sqrt J_mse; never mix the two), and the share of the error in the lowest tenth of the wavenumbers.

    Args:
        reference: the solution, or a trusted one.
        points: ``(n, d)`` where errors are measured, where there is no basis.
        window: steps after a switch that count.
        basis: brings the points, and gives the error's spectrum before and after.
        component: of a vector field.
        schedule: None measures at every step, which costs one evaluation at the points.
    """

    name = "switch"

    def __init__(
        self,
        reference: Field,
        points: Tensor | None = None,
        window: int = 200,
        basis: Basis | None = None,
        component: int = 0,
        schedule: Schedule | None = None,
    ) -> None:
        super().__init__(every(1) if schedule is None else schedule)
        where = points if basis is None else basis.points
        if where is None or (points is not None and basis is not None):
            raise ValueError("LossSwitch needs points or a basis, which brings its own, and not both")
        self.points = where
        self.window, self.basis, self.component = window, basis, component
        self.values = sample(reference, self.points, component)
        self.switches: list[dict[str, Any]] = []
        self._terms: tuple[str, ...] | None = None
        self._gap: Tensor | None = None  # the error of the latest measurement
        self._since: int = 0

    def switch(self) -> None:
        """Say that the loss changes now (where its terms keep their names, or as a control)."""
        if self._gap is None:
            raise ValueError(
                "nothing was measured before the switch; run LossSwitch as a callback of the first training too"
            )
        mse = float(self._gap.square().mean())
        self.switches.append({"mse": mse, "largest": mse, "before": self._gap, "after": self._gap})
        self._since = 0

    def __call__(self, step: Any) -> Record | None:
        """Watch one step."""
        terms = tuple(sorted(step.terms))
        if self._terms not in (None, terms):
            self.switch()
        self._terms = terms
        measured = super().__call__(step)
        if measured is not None:
            self._note(measured[f"{self.name}.mse"])
        return measured

    def observe(self, state: State) -> Record:
        """Mean square error; its ratio to that before the switch."""
        self._gap = sample(state.model, self.points, self.component) - self.values
        mse = float(self._gap.square().mean())
        return {"mse": mse, **({"jump": mse / self.switches[-1]["mse"]} if self.switches else {})}

    def _note(self, mse: float) -> None:
        self._since += 1
        now = self.switches[-1] if self.switches else None
        if now is not None and self._since <= self.window and mse > now["largest"]:
            now["largest"], now["after"] = mse, self._gap

    @property
    def jumps(self) -> list[dict[str, Any]]:
        """One mapping per switch: "J_mse", "J_rel_l2", and with a basis "before", "after" (spectra), "low" (shares)."""
        found = []
        for s in self.switches:
            j = s["largest"] / s["mse"] if s["mse"] > 0 else math.inf
            row = {"J_mse": j, "J_rel_l2": math.sqrt(j)}
            if self.basis is not None:
                k = np.linalg.norm(self.basis.wavenumbers, axis=1)
                low = k <= np.quantile(k, 0.1)
                before, after = (np.abs(self.basis.analyse(s[w].numpy())) for w in ("before", "after"))
                share = [float((c[low] ** 2).sum() / (c**2).sum()) for c in (before, after)]
                row |= {"before": before, "after": after, "low": share}
            found.append(row)
        return found

    def draw(self, figure: Any, records: Sequence[Record]) -> None:
        """Mean square error against the record, as one curve through all losses."""
        axes = figure.subplots()
        _, values = self.series("mse", records)
        axes.semilogy(np.arange(len(values)), values)
        axes.set(xlabel="step of all trainings", ylabel="mean square error", title="error across changes of the loss")


# ---------------------------------------------------------------------------------------------------- matrix completion


@dataclass(frozen=True)
class ObservationGraph:
    """Rows and columns of a matrix, joined where an entry is observed.

    Attributes:
        components: rows and columns of each connected component with an observed entry.
        complete: for each component whether all its entries are observed.
        unseen: rows and columns without any observed entry; gradient descent leaves their entries as they started.
        bias: what a deep factorisation from a small start prefers (arXiv:2405.13721): "lowest rank" for a connected
            graph, "lowest nuclear norm" if every component is complete, "lowest rank in each component" otherwise.
    """

    components: tuple[tuple[tuple[int, ...], tuple[int, ...]], ...]
    complete: tuple[bool, ...]
    unseen: tuple[tuple[int, ...], tuple[int, ...]]
    bias: str

    @property
    def connected(self) -> bool:
        """Whether one component holds all rows and columns."""
        return len(self.components) == 1 and self.unseen == ((), ())


def observation_graph(mask: ArrayLike) -> ObservationGraph:
    """Analyse which entries of a matrix are observed, before it is completed.

    Args:
        mask: ``(rows, columns)``, true where observed; for gappy data rows are sensors and columns snapshots.

    Raises:
        ValueError: if it is not a matrix or nothing is observed.

    >>> observation_graph([[1, 1], [1, 0]]).bias, observation_graph([[1, 0], [0, 1]]).bias
    ('lowest rank', 'lowest nuclear norm')
    """
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    seen = np.asarray(mask).astype(bool)
    if seen.ndim != 2 or not seen.any():
        raise ValueError(f"mask has shape {seen.shape}, but must be a matrix with at least one observed entry")
    n, m = seen.shape
    rows, columns = seen.nonzero()
    count, label = connected_components(coo_array((np.ones(len(rows)), (rows, columns + n)), (n + m, n + m)), False)
    components, complete, alone = [], [], ([], [])  # type: ignore[var-annotated]
    for k in range(count):
        r, c = (label[:n] == k).nonzero()[0], (label[n:] == k).nonzero()[0]
        if not len(r) or not len(c):
            alone[0].extend(map(int, r))
            alone[1].extend(map(int, c))
            continue
        components.append((tuple(map(int, r)), tuple(map(int, c))))
        complete.append(bool(seen[np.ix_(r, c)].all()))
    whole = len(components) == 1 and not alone[0] and not alone[1]
    bias = "lowest rank" if whole else "lowest nuclear norm" if all(complete) else "lowest rank in each component"
    return ObservationGraph(tuple(components), tuple(complete), (tuple(alone[0]), tuple(alone[1])), bias)
