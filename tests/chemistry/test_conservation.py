"""Projection onto elements: exact, never negative, and affinities that vanish at Cantera's equilibrium only."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sciml.chemistry import Mechanism
from sciml.chemistry.affinity import FLOOR, Affinity, basis_of
from sciml.chemistry.conservation import Conservation


def conservation(mechanism):
    active = mechanism.composition.any(0)
    return Conservation(torch.as_tensor(mechanism.composition[:, active] / mechanism.molar_masses[:, None]))


@pytest.fixture(scope="module", params=["h2o2.yaml", "gri30.yaml"])
def mechanism(request):
    return Mechanism(request.param)


@settings(deadline=None, max_examples=50)
@given(st.integers(0, 2**31), st.floats(0.01, 3.0), st.floats(0.0, 0.7))
def test_elements_are_exact_and_nothing_is_negative(mechanism_seed, strength, zeros):
    rng = np.random.default_rng(mechanism_seed)
    mechanism = _H2
    old = torch.as_tensor(rng.dirichlet(np.full(mechanism.n_species, 0.1), 20))
    proposed = old * torch.as_tensor(np.exp(strength * rng.normal(size=old.shape)))
    proposed = torch.where(torch.as_tensor(rng.uniform(size=old.shape) < zeros), 0.0, proposed)
    keep = conservation(mechanism)
    new = keep(old, proposed, keep.moles(old))
    assert (new >= 0).all()
    assert (keep.moles(new) - keep.moles(old)).abs().max() < 1e-15
    assert (new.sum(1) - 1).abs().max() < 1e-13


_H2 = Mechanism("h2o2.yaml")


def test_a_proposal_with_the_right_elements_is_taken_as_it_is(mechanism):
    fuel = "CH4" if "CH4" in mechanism.species else "H2"
    start = mechanism.state([1100.0, 1500.0], 101325.0, fuel=fuel, phi=[0.6, 1.5])
    end = mechanism.equilibrium(start)[:, 2:]
    old, proposed = torch.as_tensor(start[:, 2:]), torch.as_tensor(end)
    keep = conservation(mechanism)
    torch.testing.assert_close(keep(old, proposed, keep.moles(old)), proposed, rtol=1e-6, atol=1e-9)


def test_a_defect_is_shared_rather_than_refused():
    old = torch.as_tensor(_H2.state([1100.0], 101325.0)[:, 2:])
    water = _H2.index("H2O")
    proposed = old.clone()
    proposed[0, water] += 0.01  # water from nothing
    keep = conservation(_H2)
    new = keep(old, proposed, keep.moles(old))
    assert 0.003 < new[0, water] < 0.01  # most of it is made, of fuel and oxygen
    assert new[0, _H2.index("O2")] < old[0, _H2.index("O2")]


def test_species_of_an_absent_element_stay_and_stop_nothing():
    gri = Mechanism("gri30.yaml")
    keep = conservation(gri)
    start = gri.state([1100.0, 1500.0], 101325.0, fuel="H2")
    old, end = (torch.as_tensor(a[:, 2:]) for a in (start, gri.equilibrium(start)))
    carbon = torch.as_tensor(gri.composition[:, gri.elements.index("C")] > 0)
    proposed = torch.where(carbon, 1e-12, end)  # traces that no multipliers remove
    new = keep(old, proposed, keep.moles(old))
    assert not new[:, carbon].any()
    torch.testing.assert_close(new, end, rtol=1e-6, atol=1e-9)
    methane = keep.impossible(keep.moles(torch.as_tensor(gri.state([1500.0], 101325.0, "CH4")[:, 2:])))
    assert torch.equal(methane.nonzero(), torch.tensor([[0, gri.index("AR")]]))


def test_ions_may_form_in_what_is_neutral():
    ions = Mechanism("gri30_ion.yaml")
    keep = conservation(ions)
    charge = torch.as_tensor(ions.composition[:, ions.elements.index("E")] / ions.molar_masses)
    burnt = ions.equilibrium(ions.state([1500.0], 101325.0, "CH4"))[:, 2:]
    old = torch.as_tensor(np.where(charge == 0, burnt, 0.0))
    proposed = old.clone()
    cation, electron = ions.index("H3O+"), ions.index("E")
    proposed[0, cation], proposed[0, electron] = 2e-9, 1e-9 * ions.molar_masses[electron] / ions.molar_masses[cation]
    new = keep(old, proposed, keep.moles(old))
    assert new[0, cation] > 1e-10 and abs(float(new[0] @ charge)) < 1e-20


def test_affinities_vanish_at_equilibrium_and_only_there(mechanism):
    fuel = "CH4" if "CH4" in mechanism.species else "H2"
    start = mechanism.state([900.0, 1500.0, 2200.0], [1e5, 2e6, 5e4], fuel=fuel, phi=[0.6, 1.0, 1.7])
    end = mechanism.equilibrium(start)
    inert = {"AR", "N2"} if fuel == "H2" else {"AR"}
    reactive = [k for k, name in enumerate(mechanism.species) if name not in inert]
    affinity = Affinity.of(mechanism, reactive, basis_of(mechanism, reactive, end[:, 2:]))

    def of(states):
        x = torch.as_tensor(states)
        logs = x[:, 2:].clamp_min(FLOOR).log()
        return affinity.measurable(affinity(x[:, 0], x[:, 1], x[:, 2:], logs), logs).abs().amax(1)

    # also where a species has less than the floor there, as large hydrocarbons do
    assert fuel == "H2" or end[:, 2:][:, reactive].min() < FLOOR
    assert (of(end) < 1e-6).all()
    moved = end.copy()
    moved[:, 0] += 1.0
    assert (of(moved) > 1e-3).all()
    assert (of(start) > 1.0).all()


def test_what_cvode_does_is_allowed_and_its_opposite_is_not(mechanism):
    fuel = "CH4" if "CH4" in mechanism.species else "H2"
    charge = mechanism.state(1400.0, 101325.0, fuel)
    run = mechanism.ignition(charge)
    rng = np.random.default_rng(0)
    states = run.states[rng.choice(len(run.states), 15)]
    share = rng.uniform(0, 0.1, 15)[:, None]
    states[:, 2:] = (1 - share) * states[:, 2:] + share * rng.dirichlet(np.full(mechanism.n_species, 0.3), 15)
    everything = list(range(mechanism.n_species))
    affinity = Affinity.of(mechanism, everything, basis_of(mechanism, everything, states[:, 2:]))
    for reactor in ("constant-pressure", "constant-volume"):
        for dt in (1e-7, 1e-4):
            after = mechanism.advance(states, dt, reactor=reactor).states
            x, y = torch.as_tensor(states), torch.as_tensor(after[:, 2:])
            A = affinity(x[:, 0], x[:, 1], x[:, 2:], x[:, 2:].clamp_min(1e-30).log())
            old, species = x[:, 2:], torch.arange(mechanism.n_species)
            assert torch.equal(affinity.allowed(A, old, y, species), y)
            # a tenth of the way back, so that no fraction falls below zero by much
            back = torch.lerp(old, y, -torch.where(y > old, 0.1 * old / (y - old), 0.1).amin(1, keepdim=True))
            found = affinity.allowed(A, old, back, species)
            assert (found >= 0).all() and not (found == back).all(1).any()
            produced = ((found - old) @ affinity.extents * A).sum(1)
            assert (produced <= 2e-15).all() and (((back - old) @ affinity.extents * A).sum(1) > 1e-14).all()
            atoms = torch.as_tensor(mechanism.composition / mechanism.molar_masses[:, None])
            torch.testing.assert_close(found @ atoms, old @ atoms, rtol=1e-12, atol=1e-17)


def test_a_refused_step_does_not_stop_what_is_allowed(mechanism):
    """Partial equilibrium disturbed the wrong way: what the second law refuses is slowed, the rest of it goes on."""
    fuel = "CH4" if "CH4" in mechanism.species else "H2"
    run = mechanism.ignition(mechanism.state(1400.0, 101325.0, fuel))
    states = run.states[np.linspace(len(run.states) // 2, len(run.states) - 2, 6).astype(int)]
    everything = list(range(mechanism.n_species))
    affinity = Affinity.of(mechanism, everything, basis_of(mechanism, everything, states[:, 2:]))
    x = torch.as_tensor(states)
    A, old = affinity(x[:, 0], x[:, 1], x[:, 2:], x[:, 2:].clamp_min(1e-30).log()), x[:, 2:]
    rows = torch.arange(len(x))
    stepped = torch.as_tensor(mechanism.advance(states, 1e-6).states[:, 2:])
    # of the reaction with the largest affinity downhill, some mass the wrong way: more than the right step makes up for
    k = A.abs().argmax(1)
    wrong = A[rows, k].sign()[:, None] * (affinity.reactions * affinity.molar_masses)[k]
    room = torch.where(wrong < 0, stepped / wrong.abs(), torch.inf).amin(1)
    tried = stepped + 0.5 * room[:, None] * wrong
    found = affinity.allowed(A, old, tried, torch.arange(mechanism.n_species))
    total = (A * ((tried - old) @ affinity.extents)).sum(1)
    assert (total > 1e-15).any()
    refused = total > 1e-15
    assert ((found - old).abs().sum(1) > 0)[refused].all() and (found >= 0).all()


def test_the_basis_spans_all_atoms(mechanism):
    reactive = list(range(mechanism.n_species))
    fractions = np.random.default_rng(0).dirichlet(np.ones(mechanism.n_species), 3)
    basis = basis_of(mechanism, reactive, fractions)
    atoms = mechanism.composition
    assert np.linalg.matrix_rank(atoms[basis]) == len(basis) == np.linalg.matrix_rank(atoms)
