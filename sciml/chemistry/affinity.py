"""How far a mixture is from chemical equilibrium, cheaply: the affinities of one reaction for each free species.

Every species that is not one of a basis is made from the basis by one reaction, X_i = sum_j c_ij X_j. Its affinity

    A_i = mu_i/RT - sum_j c_ij mu_j/RT,    mu/RT = g0(T)/RT + ln X + ln p/p0

is zero for all i exactly at equilibrium, whatever the enthalpy and the elements of the mixture are, so that an output
that is proportional to |A| leaves equilibrium alone without ever computing it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn

from sciml.chemistry.conservation import shortened
from sciml.chemistry.thermo import GAS_CONSTANT, recorded

if TYPE_CHECKING:
    from sciml.chemistry.mechanism import Mechanism

__all__ = ["FLOOR", "Affinity", "basis_of", "coefficients"]

_ROUNDING = 1e-15  # kmol/kg times an affinity: what fractions of order one leave when they are subtracted
FLOOR = 1e-30  # mass fraction below which the logarithm is that of the floor
_LOWEST = math.log(FLOOR)


class Affinity(nn.Module):
    """Affinities of the reactions that make every free species from the basis, divided by RT.

    Args:
        gibbs: (i, s, 7) coefficients of g0/RT in each interval of temperature, in the functions of `_functions`.
        breaks: (i-1,) temperatures between the intervals, K.
        molar_masses: kg/kmol, (s,).
        reactions: (r, s), one for the species made and minus its parts of the basis.
        made: the species that each of them makes, and no other touches, (r,).
        reference: pressure of the standard state, Pa.
    """

    gibbs: Tensor
    breaks: Tensor
    molar_masses: Tensor
    reactions: Tensor
    changes: Tensor
    extents: Tensor
    made: Tensor

    def __init__(
        self,
        gibbs: Tensor,
        breaks: Tensor,
        molar_masses: Tensor,
        reactions: Tensor,
        made: Sequence[int],
        reference: float,
    ):
        super().__init__()
        # one row for each reaction: combined once, not for every state
        self.register_buffer("gibbs", torch.einsum("rs,isk->irk", reactions, gibbs))
        self.register_buffer("breaks", breaks.clone())
        self.register_buffer("molar_masses", molar_masses.clone())
        self.register_buffer("reactions", reactions.clone())
        self.register_buffer("changes", reactions.sum(1))
        # changes of mass fractions -> extents of the reactions, without rounding where only a trace is made
        extents = torch.zeros_like(reactions.T)
        extents[list(made), range(len(made))] = 1 / molar_masses[list(made)]
        self.register_buffer("extents", extents)
        self.register_buffer("made", torch.as_tensor(list(made)), persistent=False)  # `extents` tells it
        self.reference = float(reference)

    @classmethod
    def of(cls, mechanism: Mechanism, reactive: list[int], basis: list[int]) -> Affinity:
        """From the thermodynamic data of a mechanism; `basis` are indices among `reactive`."""
        thermo, a = mechanism.thermo, coefficients(mechanism)
        count, s = a.shape[:2]
        edges = [300.0, *thermo.breaks.tolist(), 0.0]
        gibbs = torch.zeros(count, s, 7, dtype=torch.float64)
        for i in range(count):
            # entropies beyond their constants follow from heat capacities; the constant from one temperature inside
            T = 0.5 * (edges[i] + edges[i + 1]) if i < count - 1 else edges[i] + 500.0
            gibbs[i, :, :6] = _gibbs_of_heat_capacity(a[i])
            mechanism.gas.TP = T, mechanism.gas.reference_pressure
            wanted = torch.as_tensor(np.array(mechanism.gas.standard_gibbs_RT))
            gibbs[i, :, 6] = wanted - gibbs[i] @ _functions(torch.tensor([T], dtype=torch.float64))[0]
        made = [k for k in reactive if k not in basis]
        atoms = mechanism.composition
        parts = np.linalg.lstsq(atoms[basis].T, atoms[made].T, rcond=None)[0].T
        reactions = np.zeros((len(made), s))
        reactions[np.arange(len(made)), made] = 1.0
        reactions[:, basis] -= np.where(np.abs(parts) < 1e-12, 0.0, parts)
        reference = mechanism.gas.reference_pressure
        return cls(gibbs, thermo.breaks, thermo.molar_masses, torch.as_tensor(reactions), made, reference)

    def forward(self, T: Tensor, p: Tensor, Y: Tensor, logs: Tensor) -> Tensor:
        """(n, r) from T (n,), p (n,), Y (n, s) and the logarithms of Y."""
        count, r = self.gibbs.shape[:2]
        shapes = _functions(T)
        if count > 1:  # those of every interval side by side, zero but in the one that holds: one product does all
            interval = (T > self.breaks[:, None]).sum(0)
            here = (interval[:, None] == torch.arange(count, device=T.device)).to(T.dtype)
            shapes = (here[:, :, None] * shapes[:, None]).flatten(1)
        level = (p / self.reference).log() - (Y @ (1 / self.molar_masses)).log()
        constant = self.gibbs[:, :, -1:] - (self.reactions @ self.molar_masses.log())[:, None]
        table = torch.cat([self.gibbs[:, :, :-1], constant], 2).transpose(1, 2).reshape(-1, r)
        standard = torch.cat([shapes, level[:, None]], 1) @ torch.cat([table, self.changes[None]], 0)
        return torch.addmm(standard, logs, self.reactions.T)

    def measurable(self, A: Tensor, logs: Tensor) -> Tensor:
        """Affinities (n, r) without what leads below the floor of fractions: the distance from rest that can be seen.

        What would have less than the floor at equilibrium is measured against the floor, A_i <= ln Y_i/Y_floor; such
        traces would never come to rest. No logarithm may be below that of the floor.
        """
        return torch.minimum(A, logs.index_select(1, self.made) - _LOWEST)

    def allowed(self, A: Tensor, old: Tensor, new: Tensor, species: Tensor) -> Tensor:
        """New mass fractions of some species to which the second law allows a step at affinities A (n, r), (n, k).

        The entropy is concave, so that what an adiabatic reactor gains in a step of any length is at most what its
        slope at the start says, -A dn: a change with A dn > 0 leads to less entropy, and no reactor makes it. Of such
        a change the reactions that go against their affinities are slowed by one factor until A dn = 0, so that the
        others go on: near to partial equilibria small errors would otherwise stop a rollout for ever. Rounding alone is
        never refused.

        Args:
            A: (n, r).
            old: mass fractions at the start, (n, k).
            new: mass fractions with the same elements, none of them negative, (n, k).
            species: their indices, (k,).
        """
        extents = (new - old) @ self.extents.index_select(0, species)
        parts = A * extents
        total = parts.sum(1)
        refused = total > _ROUNDING
        if not recorded() and not bool(refused.any()):
            return new
        against = parts.clamp_min(0.0).sum(1)
        excess = torch.where(refused, total / against.clamp_min(1e-300), 0.0)
        back = torch.where(parts > 0, extents, 0.0) * excess[:, None]
        columns = (self.reactions * self.molar_masses).index_select(1, species)
        # what was slowed may have fed a species that has none to lose; no row depends on what the others are
        return torch.where(refused[:, None], shortened(old, new - back @ columns), new)


def coefficients(mechanism: Mechanism) -> Tensor:
    """Polynomials of h/RT, (i, s, 8), as in `thermo`: where there are none, no surrogate can be.

    Raises:
        ValueError: for other data, or nine coefficients, whose logarithms over T are not among the functions.
    """
    thermo = mechanism.thermo
    shape = (mechanism.n_species, len(thermo.breaks) + 1, 8)
    a = (thermo.coefficients.reshape(shape) * thermo.molar_masses[:, None, None] / GAS_CONSTANT).permute(1, 0, 2)
    if bool((a[..., :2] != 0).any()):
        raise ValueError("the mechanism has NASA9 data, but surrogates take seven-coefficient data")
    return a


def _functions(T: Tensor) -> Tensor:
    """1/T, ln T, T, T^2, T^3, T^4 and 1, the functions that g0/RT of seven-coefficient data is a sum of; (n, 7)."""
    square = T * T
    return torch.stack([1 / T, T.log(), T, square, square * T, square * square, torch.ones_like(T)], 0).T


def _gibbs_of_heat_capacity(a: Tensor) -> Tensor:
    """g0/RT = h/RT - s/R for seven-coefficient data, (s, 6), without the constant."""
    return torch.stack([a[:, 7], -a[:, 2], -a[:, 3] / 2, -a[:, 4] / 6, -a[:, 5] / 12, -a[:, 6] / 20], 1)


def basis_of(mechanism: Mechanism, reactive: list[int], fractions: np.ndarray) -> list[int]:
    """Species from whose atoms all reactive ones are made: the most abundant independent ones.

    Args:
        mechanism: names the atoms.
        reactive: indices of the species that react.
        fractions: (n, s) mass fractions, whose mean says what is abundant.
    """
    atoms = mechanism.composition[reactive]
    order = np.argsort(-fractions.mean(0)[reactive])
    basis: list[int] = []
    rank, wanted = 0, np.linalg.matrix_rank(atoms)
    for k in order:
        tried = [*basis, int(k)]
        if np.linalg.matrix_rank(atoms[tried]) > rank:
            basis, rank = tried, rank + 1
        if rank == wanted:
            break
    return [reactive[k] for k in basis]
