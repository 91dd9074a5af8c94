"""Importance of species by graphs of direct interaction: DRG, DRGEP and PFA.

With w_i the net rate of progress and nu_Ai the net stoichiometric coefficient, P_A and C_A production and consumption:

    DRG    r_AB = sum_i |nu_Ai w_i| d_Bi / sum_i |nu_Ai w_i|              (Lu and Law, PCI 30, 2005)
    DRGEP  r_AB = |sum_i nu_Ai w_i d_Bi| / max(P_A, C_A)                  (Pepiot-Desjardins and Pitsch, C&F 154, 2008)
    PFA    r_AB = r_AB^pro + r_AB^con + second generation of both         (Sun et al., C&F 157, 2010)

d_Bi is 1 where reaction i involves B. The coefficient of a species is the best path from a target: the product of
the edges along it for DRGEP, the smallest edge along it for DRG and PFA (so a threshold keeps what it can reach).
Coefficients are largest over the sampled states.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np

from sciml.chemistry.conditions import Conditions
from sciml.chemistry.mechanism import Mechanism

__all__ = ["coefficients", "importance", "ranking", "reaction_ranking", "samples"]

Method = Literal["DRG", "DRGEP", "PFA"]


def coefficients(method: Method, change: np.ndarray, rates: np.ndarray, involved: np.ndarray) -> np.ndarray:
    """Direct interaction coefficients r_AB at one state, (s, s), zero on the diagonal.

    Args:
        method: see the module.
        change: (s, r), net stoichiometric coefficients.
        rates: (r,), net rates of progress.
        involved: (s, r) boolean: species takes part in the reaction.

    Raises:
        ValueError: for another method.
    """
    flow = change * rates
    produced, consumed = np.maximum(flow, 0), np.maximum(-flow, 0)
    P, C, d = produced.sum(1), consumed.sum(1), involved.T.astype(float)
    if method == "DRG":
        r = _ratio(np.abs(flow) @ d, np.abs(flow).sum(1))
    elif method == "DRGEP":
        r = _ratio(np.abs(flow @ d), np.maximum(P, C))
    elif method == "PFA":
        first = [_ratio(part @ d, np.maximum(P, C)) for part in (produced, consumed)]
        for one in first:
            np.fill_diagonal(one, 0.0)
        r = first[0] + first[1] + first[0] @ first[0] + first[1] @ first[1]
    else:
        raise ValueError(f"method is {method!r}, but must be DRG, DRGEP or PFA")
    np.fill_diagonal(r, 0.0)
    return r


def importance(method: Method, edges: np.ndarray, targets: Sequence[int]) -> np.ndarray:
    """(s,): the best path from any target, 1 for targets (or what exceeds it, for PFA's unbounded edges).

    Args:
        method: DRGEP multiplies edges along a path, the others take the smallest.
        edges: (s, s), r_AB.
        targets: indices.
    """
    best = np.zeros(len(edges))
    best[list(targets)] = np.inf if method == "PFA" else 1.0
    open_ = np.ones(len(edges), dtype=bool)
    for _ in range(len(edges)):  # Dijkstra with the largest value first; both ways of combining never grow along a path
        at = int(np.where(open_, best, -1.0).argmax())
        open_[at] = False
        through = best[at] * edges[at] if method == "DRGEP" else np.minimum(best[at], edges[at])
        best = np.where(open_, np.maximum(best, through), best)
    return best


def samples(mechanism: Mechanism, conditions: Conditions, count: int = 20) -> np.ndarray:
    """States along the ignition of each condition: `count` of each, evenly in temperature, (n, 2+s)."""
    rows = []
    for state in conditions.states(mechanism):
        ignition = mechanism.ignition(state)
        if not len(ignition.states):
            continue  # the integration failed; the others tell enough
        T = ignition.states[:, 0]
        levels = np.linspace(T[0], T.max(), count + 1)[1:]
        rows.append(ignition.states[np.minimum(np.searchsorted(np.maximum.accumulate(T), levels), len(T) - 1)])
    return np.concatenate(rows)


def ranking(mechanism: Mechanism, states: np.ndarray, targets: Sequence[str], method: Method) -> np.ndarray:
    """(s,): importance of every species, the largest over the states.

    Args:
        mechanism: the parent.
        states: (n, 2+s), from `samples`.
        targets: names of species.
        method: see the module.
    """
    gas = mechanism.gas
    change = mechanism.net_coefficients
    involved = (np.asarray(gas.product_stoich_coeffs) > 0) | (np.asarray(gas.reactant_stoich_coeffs) > 0)
    chosen = [mechanism.index(name) for name in targets]
    best = np.zeros(mechanism.n_species)
    for state in states:
        gas.TPY = state[0], state[1], state[2:]
        edges = coefficients(method, change, gas.net_rates_of_progress, involved)
        best = np.maximum(best, importance(method, edges, chosen))
    return best


def reaction_ranking(mechanism: Mechanism, states: np.ndarray) -> np.ndarray:
    """(r,): the largest share max_A |nu_Ai w_i| / max(P_A, C_A) of each reaction, over species and states.

    Args:
        mechanism: whose reactions are ranked.
        states: (n, 2+s), from `samples`.
    """
    gas = mechanism.gas
    change = mechanism.net_coefficients
    best = np.zeros(mechanism.n_reactions)
    for state in states:
        gas.TPY = state[0], state[1], state[2:]
        flow = change * gas.net_rates_of_progress
        turnover = np.maximum(np.maximum(flow, 0).sum(1), np.maximum(-flow, 0).sum(1))
        best = np.maximum(best, _ratio(np.abs(flow), turnover).max(0))
    return best


def _ratio(matrix: np.ndarray, by: np.ndarray) -> np.ndarray:
    return np.divide(matrix, by[:, None], out=np.zeros_like(matrix), where=by[:, None] > 0)
