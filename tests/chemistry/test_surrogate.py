"""The surrogate that ships, beside Cantera: what it keeps, ignitions, equilibrium, perturbed states, refusals."""

import shutil
from importlib.resources import files

import numpy as np
import pytest
import torch

from sciml.chemistry import Mechanism, Surrogate, accuracy
from sciml.chemistry.hybrid import hybrid

PATH = files("sciml.data") / "h2_surrogate.h5"
ATM = 101325.0


@pytest.fixture(scope="module")
def surrogate():
    return Surrogate.load(PATH)


@pytest.fixture(scope="module")
def mechanism(surrogate):
    return Mechanism(surrogate.mechanism)


@pytest.fixture(scope="module")
def charges(mechanism):
    rng = np.random.default_rng(11)
    return mechanism.state(rng.uniform(1000, 1500, 12), ATM, "H2", phi=np.exp(rng.uniform(np.log(0.5), np.log(2), 12)))


@pytest.fixture(scope="module")
def ignitions(surrogate, mechanism, charges):
    return accuracy.ignitions(surrogate, mechanism, charges)


def test_it_is_that_of_the_mechanism_cantera_ships(surrogate, mechanism):
    assert (surrogate.mechanism, surrogate.dt, PATH.stat().st_size < 2e6) == ("h2o2.yaml", 1e-6, True)
    assert surrogate.settings.hash == mechanism.hash and surrogate.settings.species == mechanism.species


def test_fresh_charges_lie_inside_and_ignite_when_cantera_does(surrogate, charges, ignitions):
    assert (surrogate.score(charges) <= 1).all()
    assert ignitions.error.mean() < 0.005 and ignitions.error.max() < 0.02
    assert np.abs(ignitions.final).max() < 5


def test_what_it_never_met_is_outside_although_every_range_holds_it(surrogate, mechanism, charges, ignitions):
    """Burnt gas at temperatures of the fresh charge and below, and fresh charges as hot as flames."""
    path = np.concatenate(ignitions.reference)
    assert (surrogate.score(path) <= 1).mean() > 0.99
    burnt = mechanism.equilibrium(charges)
    assert (surrogate.score(burnt) <= 1).all()
    for T in (600.0, 900.0, 1200.0):
        cooled = burnt.copy()
        cooled[:, 0] = T
        assert (surrogate.score(cooled) > 1).all()
    for T in (1800.0, 2400.0):
        heated = charges.copy()
        heated[:, 0] = T
        assert (surrogate.score(heated) > 1).all()
    # and rightly: there it errs a hundred times more than beside the fastest states of its own paths
    cooled[:, 0] = 1200.0
    fastest = np.concatenate([p[np.argmax(np.diff(p[:, 0])) - 5 :][:10] for p in ignitions.reference])

    def errors(states):
        exact = mechanism.advance(states, surrogate.dt).states
        return np.abs(surrogate.step(states) - exact)[:, 2:].sum(1) / np.abs(exact - states)[:, 2:].sum(1)

    assert np.median(errors(cooled)) > 100 * np.median(errors(fastest))


@pytest.mark.skipif(shutil.which("g++") is None, reason="generated code needs a C++ compiler")
def test_generated_code_steps_as_python_does(surrogate, mechanism, charges):
    compiled = Surrogate.load(PATH)
    compiled.compile(block=16)
    path = np.concatenate([mechanism.ignition(charge).states[::40] for charge in charges[:2]])
    states = np.resize(path, (75, path.shape[1]))  # no multiple of the block
    one, other = surrogate.step(states), compiled.step(states)
    change = np.abs(one - states)[:, 2:].max(1)
    assert (np.abs(one - other)[:, 2:].max(1) <= 1e-5 * change + 1e-15).all()
    np.testing.assert_allclose(one[:, 0], other[:, 0], rtol=1e-6)
    np.testing.assert_array_equal(compiled.step(states[:15]), surrogate.step(states[:15]))  # fewer than a block
    long, short = compiled.rollout(states[:20], 3), surrogate.rollout(states[:20], 3)
    np.testing.assert_allclose(long[:, :, 0], short[:, :, 0], rtol=1e-6)


def test_where_no_code_can_be_generated_steps_stay_as_they_were(surrogate, charges, monkeypatch):
    stubborn = Surrogate.load(PATH)

    def without(*_, **__):
        raise FileNotFoundError("no compiler here")

    monkeypatch.setattr(torch, "compile", lambda *_, **__: without)
    with pytest.raises(RuntimeError, match="no code was generated.*no compiler here"):
        stubborn.compile(block=4)
    np.testing.assert_array_equal(stubborn.step(charges), surrogate.step(charges))
    with pytest.raises(ValueError, match="block is 0"):
        stubborn.compile(block=0)


def test_a_spoilt_weight_is_noticed(mechanism, charges):
    spoilt = Surrogate.load(PATH)
    with torch.no_grad():
        spoilt.experts[0].network.layers[0].weight.mul_(1.05)
    assert accuracy.ignitions(spoilt, mechanism, charges[:4]).error.max() > 0.02


def test_elements_mass_and_signs_are_exact_over_2000_steps(surrogate, mechanism, charges, ignitions):
    rng = np.random.default_rng(2)
    middle = np.array([path[rng.integers(len(path))] for path in ignitions.reference])
    drawn = charges.copy()
    drawn[:, 2:] = rng.dirichlet(np.full(mechanism.n_species, 0.2), len(drawn))  # nothing that it has learnt
    pure = charges[:2].copy()
    pure[:, 2:] = np.eye(mechanism.n_species)[[mechanism.index("N2"), mechanism.index("H2")]]
    states = np.concatenate([charges, accuracy.power_perturbation(surrogate, middle, 0.1, rng), drawn, pure])
    path = surrogate.rollout(states, 2000)
    n, length, width = path.shape
    assert (n, length, width) == (len(states), 2001, 2 + mechanism.n_species)
    np.testing.assert_allclose(path[:, 0], states, rtol=1e-14)
    assert np.isfinite(path).all() and path[:, :, 2:].min() >= 0 and (path[:, :, 1] == states[:, 1:2]).all()
    assert np.abs(path[:, :, 2:].sum(2) - 1).max() < 1e-12
    atoms = mechanism.element_fractions(path[:, ::50].reshape(-1, width)).reshape(n, -1, len(mechanism.elements))
    assert np.abs(atoms - atoms[:, :1]).max() < 1e-10
    inert = [2 + mechanism.index(k) for k in ("N2", "AR")]
    assert (path[:, :, inert] == path[:, :1, inert]).all()


def test_enthalpy_stays_as_cantera_counts_it(surrogate, mechanism, charges):
    path = surrogate.rollout(charges[:3], 300)[:, ::60]
    for row in path:
        found = []
        for state in row:
            mechanism.gas.TPY = state[0], state[1], state[2:]
            found.append(mechanism.gas.enthalpy_mass)
        assert np.ptp(found) < 1e-3  # of about 1e6 J/kg


def test_equilibrium_is_a_fixed_point(surrogate, mechanism, charges):
    rest = mechanism.equilibrium(charges[:3])
    end = surrogate.rollout(rest, 3000)[:, -1]  # 10,000 in the blessed run
    assert np.abs(end[:, 0] - rest[:, 0]).max() < 1 and np.abs(end[:, 2:] - rest[:, 2:]).max() < 1e-5


def test_equilibria_beyond_the_data_are_left_out(surrogate, mechanism):
    hot = mechanism.state([3000.0], 1e7, "H2", "O2:1")
    assert mechanism.equilibrium(hot)[0, 0] > mechanism.temperature_range[1]
    assert accuracy.fixed_point(surrogate, mechanism, hot, 2) == {}
    both = np.concatenate([hot, mechanism.state([1200.0], 101325.0)])
    assert accuracy.fixed_point(surrogate, mechanism, both, 2)["T"] < 1e-2


def test_perturbed_states_return(surrogate, mechanism, ignitions):
    rng = np.random.default_rng(4)
    early = [
        path[rng.integers(0, int(0.8 * t / surrogate.dt))]
        for path, t in zip(ignitions.reference, ignitions.exact, strict=True)
    ]
    moved = accuracy.power_perturbation(surrogate, np.array(early), 0.1, rng)
    assert (accuracy.ignitions(surrogate, mechanism, moved).error < 0.02).mean() > 0.9


def test_a_batch_is_its_rows_and_a_rollout_its_steps(surrogate, charges):
    whole = surrogate.rollout(charges, 20)
    for k in (0, 7):
        np.testing.assert_allclose(surrogate.rollout(charges[k : k + 1], 20)[0], whole[k], rtol=1e-5, atol=1e-12)
    x = charges
    for k in range(3):
        x = surrogate(x)
        np.testing.assert_allclose(x, whole[:, k + 1], rtol=1e-6, atol=1e-12)
    assert (surrogate.rollout(charges, 20) == whole).all()


def test_a_saved_copy_is_the_same(surrogate, charges, tmp_path):
    surrogate.save(tmp_path / "copy.h5")
    again = Surrogate.load(tmp_path / "copy.h5")
    assert (again.rollout(charges, 30) == surrogate.rollout(charges, 30)).all() and again.settings == surrogate.settings


def test_states_outside_the_thermodynamic_data_are_refused_by_row(surrogate, mechanism, charges):
    low, high = surrogate.settings.temperatures
    assert (low, high) == mechanism.temperature_range
    states = np.repeat(charges[:1], 5, 0)
    states[:, 0] = [1000.0, low - 20, 1200.0, low - 1, high + 50]
    for call in (surrogate.step, lambda x: surrogate.rollout(x, 2), surrogate):
        with pytest.raises(ValueError, match=rf"{low:g} to {high:g} K.* 1, 3, 4 have {low - 20:g} to {high + 50:g} K$"):
            call(states)
    with pytest.raises(ValueError, match="row|state 1"):  # the mechanism says the same of its integrator
        mechanism.advance(states, 1e-6)
    states[:, 0] = [low, high, low, high, low * (1 - 1e-9)]  # the ends belong to the range, whatever rounding does
    assert np.isfinite(surrogate.step(states)).all()
    assert len(surrogate.step(states[:0])) == 0


def test_a_hybrid_step_hands_rows_outside_the_data_to_the_integrator(surrogate, mechanism, charges):
    states = np.repeat(charges[:1], 3, 0)
    states[1, 0] = surrogate.settings.temperatures[0] - 30
    done = hybrid(surrogate, mechanism, states)
    np.testing.assert_array_equal(done.integrated, [False, True, False])
    np.testing.assert_array_equal(done.failed, [False, True, False])
    np.testing.assert_allclose(done.states[1], states[1], rtol=1e-12)


def test_what_it_cannot_do_is_refused(surrogate, charges):
    negative, heavy, cold = (charges.copy() for _ in range(3))
    negative[3, 4], heavy[2, 2], cold[1, 0] = -1e-3, 0.9, 100.0
    for states, words in (
        (negative, "state 3 has a negative"),
        (heavy, "state 2 has mass fractions that do not add up"),
        (cold, r"300 to 3500 K.*row\(s\) 1 have 100 to 100 K"),
        (charges[:, :-1], "must have shape"),
        (np.where(charges == charges[0, 0], np.nan, charges), "not finite"),
    ):
        with pytest.raises(ValueError, match=words):
            surrogate.step(states)
    with pytest.raises(ValueError, match="trained for 1e-06 s only"):
        surrogate.rollout(charges, 2, dt=2e-6)
    with pytest.raises(ValueError, match="steps"):
        surrogate.rollout(charges, -1)
