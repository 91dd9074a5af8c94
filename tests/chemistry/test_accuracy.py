"""What is measured of surrogates: on stand-ins whose errors are known, so that every number has its oracle."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from sciml.chemistry import accuracy
from sciml.chemistry.mechanism import Mechanism

DT = 1e-6


@pytest.fixture(scope="module")
def mechanism():
    return Mechanism("h2o2.yaml")


class Stretched:
    """The mechanism itself, with time running slower by a factor: delays are longer by just that."""

    def __init__(self, mechanism, factor=1.0):
        gas = mechanism.gas
        moved = (gas.product_stoich_coeffs != gas.reactant_stoich_coeffs).any(1)
        self.mechanism, self.factor, self.dt = mechanism, factor, DT
        self.settings = SimpleNamespace(
            reactor="constant-pressure", species=mechanism.species, reactive=tuple(np.flatnonzero(moved))
        )
        atoms = mechanism.composition / mechanism.molar_masses[:, None]
        self.conservation = SimpleNamespace(atoms=torch.as_tensor(atoms[moved][:, :2]))

    def rollout(self, states, steps):
        times = DT / self.factor * np.arange(steps + 1)
        return np.array([self.mechanism.trajectory(state, times) for state in states])

    def step(self, states):
        return self.mechanism.advance(states, DT / self.factor).states


def charges(mechanism):
    return mechanism.state(np.array([1200.0, 1400.0]), 101325.0, phi=np.array([0.7, 1.5]))


def test_the_mechanism_itself_has_no_error(mechanism):
    found = accuracy.ignitions(Stretched(mechanism), mechanism, charges(mechanism))
    told = found.summary()
    assert told["delay error, max"] < 1e-6 and told["final T error, max"] < 1e-3
    assert told["species profiles, mean error"] < 1e-6
    # a parabola through dT/dt at steps of 1 us agrees with the one at the integrator's own steps
    exact = [mechanism.ignition(state).delay for state in charges(mechanism)]
    np.testing.assert_allclose(found.exact, exact, rtol=0.01)


def test_a_slow_surrogate_is_late_by_its_factor(mechanism):
    found = accuracy.ignitions(Stretched(mechanism, 1.1), mechanism, charges(mechanism))
    np.testing.assert_allclose(found.found / found.exact, 1.1, rtol=0.01)
    assert found.summary()["delay error, signed mean"] == pytest.approx(0.1, rel=0.1)
    # profiles over one's own delay are the same
    assert found.summary()["species profiles, mean error"] < 0.01


def test_a_surrogate_that_never_ignites_has_infinite_error(mechanism):
    found = accuracy.ignitions(Stretched(mechanism, 100.0), mechanism, charges(mechanism))
    assert np.isinf(found.error).all() and found.summary()["species profiles, mean error"] == np.inf


def test_a_dilute_charge_that_warms_by_less_than_100_kelvin_is_compared(mechanism):
    dilute = mechanism.state(np.array([1400.0]), 101325.0, "H2", "O2:1, AR:400")
    found = accuracy.ignitions(Stretched(mechanism, 1.1), mechanism, dilute)
    assert np.ptp(found.reference[0][:, 0]) < 100
    assert found.error == pytest.approx([0.1], rel=0.05)


def test_what_cannot_be_compared_is_left_out_and_counted(mechanism):
    states = mechanism.state(np.array([300.0, 1300.0, 2600.0]), np.array([1.0, 1.0, 100.0]) * 101325.0)
    found = accuracy.ignitions(Stretched(mechanism), mechanism, states)
    assert found.left_out == {"did not ignite": 1, "ignited within a step": 1} and len(found.exact) == 1
    np.testing.assert_array_equal(found.states, states[1:2])
    assert found.summary()["left out: did not ignite"] == 1
    with pytest.raises(ValueError, match="none of 2 states .* 1 did not ignite, 1 ignited within a step"):
        accuracy.ignitions(Stretched(mechanism), mechanism, states[[0, 2]])


def test_delays_between_steps():
    t = DT * np.arange(200)
    for where in (100.2e-6, 100.5e-6, 100.9e-6):
        T = 1000 + 500 * np.tanh((t - where) / 5e-6)
        assert accuracy.delay(T, DT) == pytest.approx(where, abs=0.01 * DT)
    assert accuracy.delay(np.full(200, 1000.0), DT) == np.inf


def test_two_stages_are_seen():
    t = DT * np.arange(400)
    T = 800 + 100 * np.tanh((t - 80.3e-6) / 5e-6) + 700 * np.tanh((t - 250.6e-6) / 5e-6)
    assert accuracy.first_stage(T, DT) == pytest.approx(80.3e-6, abs=0.05 * DT)
    assert accuracy.delay(T, DT) == pytest.approx(250.6e-6, abs=0.05 * DT)
    one = 800 + 700 * np.tanh((t - 250.6e-6) / 5e-6)
    assert np.isnan(accuracy.first_stage(one, DT))


def test_one_step_errors_are_relative_to_the_change(mechanism):
    path = mechanism.trajectory(charges(mechanism)[0], DT * np.arange(40))
    exact = accuracy.one_step(Stretched(mechanism), path[:-1], path[1:])
    assert accuracy.overall(exact) < 1e-4

    class Still(Stretched):
        def step(self, states):
            return states

    rows = accuracy.one_step(Still(mechanism), path[:-1], path[1:])
    assert accuracy.overall(rows) == pytest.approx(1.0, abs=1e-12)
    assert {row["species"] for row in rows} == set(mechanism.species) - {"N2", "AR"}
    assert sum(row["states"] for row in rows if row["species"] == "OH") == 39
    cold = mechanism.state(np.full(3, 400.0), 101325.0)  # where nothing happens, rounding is no error
    rounded = cold + 1e-25
    assert accuracy.overall(accuracy.one_step(Still(mechanism), rounded, cold)) < 1e-3


def test_recovery_tells_a_good_surrogate_from_a_slow_one(mechanism):
    some = charges(mechanism)[:1].repeat(4, axis=0)
    good = accuracy.recovery(Stretched(mechanism), mechanism, some, np.random.default_rng(0))
    slow = accuracy.recovery(Stretched(mechanism, 1.1), mechanism, some, np.random.default_rng(0))
    assert good["recovered"] == 1.0 and good["delay error, mean"] < 1e-5
    assert slow["recovered"] == 0.0 and slow["delay error, median"] == pytest.approx(0.1, rel=0.2)
    with pytest.raises(ValueError, match="none of 1 charges ignites"):
        accuracy.recovery(Stretched(mechanism), mechanism, mechanism.state([300.0], 101325.0), np.random.default_rng(0))


def test_stability_measures_drift(mechanism):
    good = accuracy.stability(Stretched(mechanism), charges(mechanism), 50)
    assert good["element drift"] < 1e-12 and good["smallest fraction"] >= 0

    class Leaking(Stretched):
        def rollout(self, states, steps):
            path = super().rollout(states, steps)
            path[:, -1, 2] += 1e-4  # hydrogen from nowhere
            return path

    leaking = accuracy.stability(Leaking(mechanism), charges(mechanism), 50)
    assert leaking["element drift"] == pytest.approx(1e-4 / 1.008, rel=1e-3)
    assert leaking["sum of fractions"] == pytest.approx(1e-4, rel=1e-6)


def test_speed_compares_with_both_tolerances(mechanism):
    path = mechanism.trajectory(charges(mechanism)[0], DT * np.arange(20))
    rows = accuracy.speed(Stretched(mechanism), mechanism, path, batches=(1, 8), repeats=1)
    assert [(row["batch"], row["rtol"]) for row in rows] == [(1, 1e-6), (1, 1e-9), (8, 1e-6), (8, 1e-9)]
    for row in rows:
        assert row["speed-up"] == pytest.approx(row["CVODE, microseconds"] / row["microseconds"])
