"""Graphs of direct interaction against cases worked out by hand."""

import numpy as np
import pytest

from sciml.chemistry.conditions import Conditions
from sciml.chemistry.graphs import coefficients, importance, ranking, reaction_ranking, samples
from sciml.chemistry.mechanism import Mechanism

# A -> B at 2, A -> C at 1, B -> C at 1
CHANGE = np.array([[-1.0, -1.0, 0.0], [1.0, 0.0, -1.0], [0.0, 1.0, 1.0]])
RATES = np.array([2.0, 1.0, 1.0])
BY_HAND = {
    "DRG": [[0, 2 / 3, 1 / 3], [2 / 3, 0, 1 / 3], [1 / 2, 1 / 2, 0]],
    "DRGEP": [[0, 2 / 3, 1 / 3], [1, 0, 1 / 2], [1 / 2, 1 / 2, 0]],
    "PFA": [[0, 2 / 3, 2 / 3], [1, 0, 1 / 2], [1, 1 / 2, 0]],  # A eats B's, and B C's: 1/3 + 2/3 x 1/2
}


@pytest.mark.parametrize("method", BY_HAND)
def test_coefficients_by_hand(method):
    np.testing.assert_allclose(coefficients(method, CHANGE, RATES, CHANGE != 0), BY_HAND[method])


def test_drgep_sees_cancellation_and_drg_does_not():
    # B is made and used by A at the same rate: A's net dependence on it is nothing
    change = np.array([[1.0, -1.0, -1.0], [-1.0, 1.0, 0.0], [0.0, 0.0, 1.0]])
    rates = np.array([1.0, 1.0, 0.5])
    assert coefficients("DRGEP", change, rates, change != 0)[0, 1] == 0
    assert coefficients("DRG", change, rates, change != 0)[0, 1] == pytest.approx(0.8)


def test_paths_multiply_for_drgep_and_take_the_weakest_edge_for_drg():
    edges = np.array([[0, 0.5, 0.1, 0], [0, 0, 0.4, 0], [0, 0, 0, 0.9], [0, 0, 0, 0.0]])
    np.testing.assert_allclose(importance("DRGEP", edges, [0]), [1, 0.5, 0.2, 0.18])
    np.testing.assert_allclose(importance("DRG", edges, [0]), [1, 0.5, 0.4, 0.4])
    np.testing.assert_allclose(importance("DRG", edges, [2]), [0, 0, 1, 0.9])


def test_still_gas_has_no_interactions():
    for method in BY_HAND:
        assert not coefficients(method, CHANGE, np.zeros(3), CHANGE != 0).any()


def test_another_method_is_refused():
    with pytest.raises(ValueError, match="must be DRG, DRGEP or PFA"):
        coefficients("CSP", CHANGE, RATES, CHANGE != 0)


@pytest.fixture(scope="module")
def hydrogen():
    mechanism = Mechanism("h2o2.yaml")
    return mechanism, samples(mechanism, Conditions.grid("H2", [1200.0], [1.0], [1.0]), count=10)


def test_samples_span_the_ignition(hydrogen):
    mechanism, states = hydrogen
    assert states.shape == (10, 2 + mechanism.n_species)
    assert states[0, 0] < 1400 and states[-1, 0] > 2400 and (np.diff(states[:, 0]) > 0).all()


@pytest.mark.parametrize("method", BY_HAND)
def test_ranking_keeps_radicals_and_drops_what_takes_no_part(hydrogen, method):
    mechanism, states = hydrogen
    rank = dict(zip(mechanism.species, ranking(mechanism, states, ["H2", "O2", "N2"], method), strict=True))
    assert rank["AR"] == 0 and rank["N2"] >= 1
    assert min(rank["H"], rank["O"], rank["OH"]) > 2 * rank["H2O2"]


def test_reactions_rank_by_their_share_of_a_species(hydrogen):
    mechanism, states = hydrogen
    rank = reaction_ranking(mechanism, states)
    equations = [r.equation for r in mechanism.gas.reactions()]
    assert rank.shape == (len(equations),) and rank.max() <= 1 + 1e-12
    by_name = dict(zip(equations, rank, strict=True))
    assert by_name["H + O2 <=> O + OH"] > 0.9
    assert all(rank[i] == 0 for i, e in enumerate(equations) if "AR" in e)
