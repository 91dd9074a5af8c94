"""What each term of a loss asks for: the frequencies that it would change next, and how hard it pulls.

A loss is a sum of terms (equation, boundary, data); they enter as closures ``params -> scalar``, so losses that
differentiate the network in its inputs work like any other. No reference solution is needed.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from sciml.theory.basis import Basis
from sciml.theory.diagnostic import Diagnostic, Record, Schedule, State
from sciml.theory.frequency import Groups
from sciml.theory.functional import at, flatten, parameters_of

__all__ = ["FrequencyPreference", "TermBalance"]


def _names(state: State, terms: Sequence[str] | None) -> list[str]:
    names = [t for t in state.losses if t != "loss"] if terms is None else list(terms)
    if not names:
        state.closure()  # says what is missing
    return names


class FrequencyPreference(Diagnostic):
    """Which wavenumbers each term of the loss would change next: one gradient step in function space, no reference.

    For each loss term L the change of the solution under gradient flow, du = -J grad L with J the Jacobian of the
    solution in the parameters, is analysed in `basis`. Recorded for each term: "TERM.share", the fraction of du's
    energy per group of modes, and "TERM.mean", its mean wavenumber. A squared residual of order m weighs wavenumber k
    by about k^(2m) against plain data, which is why residual losses neglect low frequencies (arXiv:2405.03095).

    Args:
        basis: see `FrequencyProbe`.
        wavenumbers: see `FrequencyProbe`.
        shells: see `FrequencyProbe`.
        terms: names of the losses to look at; None takes all of them.
        component: of a vector field.
        schedule: see `Diagnostic`.
        name: see `Diagnostic`.
    """

    name = "preference"

    def __init__(
        self,
        basis: Basis,
        wavenumbers: Sequence[float] | None = None,
        shells: int | None = None,
        terms: Sequence[str] | None = None,
        component: int = 0,
        schedule: Schedule | None = None,
        name: str | None = None,
    ) -> None:
        super().__init__(schedule, name)
        self.basis, self.terms, self.component = basis, terms, component
        self._groups = Groups(basis, wavenumbers, shells, None)
        self.k = self._groups.wavenumbers

    def observe(self, state: State) -> Record:
        """Shares of the next change by loss term."""
        measured: Record = {"k": self.k}
        for term in _names(state, self.terms):
            power = self._groups.amplitudes(self.basis.analyse(self.change(state, term))) ** 2
            total = max(float(power.sum()), 1e-300)
            measured[f"{term}.share"] = power / total
            measured[f"{term}.mean"] = float(power @ self.k / total)
        return measured

    def change(self, state: State, term: str) -> Tensor:
        """The change du = -J grad L at the points of the basis, ``(n,)``."""
        parameters = parameters_of(state.module)
        first = next(iter(parameters.values()))
        x = self.basis.points.to(first.device, first.dtype)
        gradient = torch.func.grad(state.closure(term))(parameters)
        tangent = {k: -g for k, g in gradient.items()}
        du = torch.func.jvp(lambda p: at(state.module, p)(x), (parameters,), (tangent,))[1]
        return (du if du.ndim == 1 else du[:, self.component]).detach().to("cpu", torch.float64)

    def draw(self, figure: Any, records: Sequence[Record]) -> None:
        """The last shares of every term."""
        axes = figure.subplots()
        shares = [(k, v) for k, v in records[-1].items() if k.startswith(f"{self.name}.") and k.endswith(".share")]
        for key, value in shares:
            axes.plot(self.k, value, "o-", markersize=3, label=key.removeprefix(f"{self.name}.").removesuffix(".share"))
        axes.set(
            xlabel="wavenumber", ylabel="share of the next change", yscale="log", title=f"step {records[-1]['step']}"
        )
        axes.legend()


class TermBalance(Diagnostic):
    """Sizes and directions of the gradients of the loss terms.

    Recorded: "TERM.norm" of each gradient, "ratio" of the largest to the smallest norm, and "conflict", the smallest
    cosine between two gradients: near -1, terms undo each other's progress. A ratio above about 100 says that the
    smaller term is not trained at all; its penalty wants raising.

    Args:
        terms: names of the losses to look at; None takes all of them.
        schedule: see `Diagnostic`.
        name: see `Diagnostic`.
    """

    name = "balance"

    def __init__(
        self, terms: Sequence[str] | None = None, schedule: Schedule | None = None, name: str | None = None
    ) -> None:
        super().__init__(schedule, name)
        self.terms = terms

    def observe(self, state: State) -> Record:
        """Norms, their ratio and the worst cosine."""
        parameters, names = parameters_of(state.module), _names(state, self.terms)
        g = torch.stack([flatten(torch.func.grad(state.closure(n))(parameters)) for n in names]).double()
        norms = g.norm(dim=1)
        measured: Record = {f"{n}.norm": norms[i] for i, n in enumerate(names)}
        if len(names) > 1:
            unit = g / norms.clamp_min(1e-300)[:, None]
            cosines = unit @ unit.T
            off = cosines[~torch.eye(len(names), dtype=torch.bool, device=cosines.device)]
            measured |= {"ratio": norms.max() / norms.min().clamp_min(1e-300), "conflict": off.min()}
        return measured
