"""The flame solver: its transport against heat conduction, its speed against Cantera's flame and the laws of flames."""

import numpy as np
import pytest

from sciml.chemistry import Mechanism
from sciml.chemistry.premixed import Transport, premixed
from sciml.chemistry.splitting import after_transport


@pytest.fixture(scope="module")
def mechanism():
    return Mechanism("h2o2.yaml")


@pytest.fixture(scope="module")
def flame(mechanism):
    return mechanism.flame_speed(mechanism.state(300.0, 101325.0), slope=0.1, curve=0.2)


def cvode(mechanism, dt):
    return lambda states: mechanism.advance(states, dt, rtol=1e-6, atol=1e-10).states


def test_a_small_bump_of_heat_spreads_as_the_heat_equation_says(mechanism):
    n, width = 201, 1e-6  # kg/m2
    pure = mechanism.state(1000.0, 101325.0, phi=0.0)
    states = np.tile(pure, (n, 1))
    psi = width * (np.arange(n) - n // 2)
    spread = 10 * width
    states[:, 0] += np.exp(-0.5 * (psi / spread) ** 2)
    transport = Transport(mechanism, width)
    transport.refresh(states)
    mechanism.gas.TPY = pure[0], pure[1], pure[2:]
    gas, t = mechanism.gas, 5e-6
    rate = gas.density * gas.thermal_conductivity / gas.cp_mass  # diffusivity in the mass coordinate
    after = states
    for _ in range(10):
        after = transport.advance(after, t / 10)
    wider = np.sqrt(spread**2 + 2 * rate * t)
    assert wider > 1.5 * spread
    exact = pure[0] + spread / wider * np.exp(-0.5 * (psi / wider) ** 2)
    np.testing.assert_allclose(after[:, 0], exact, atol=5e-3)
    np.testing.assert_allclose(after[:, 2:], states[:, 2:], atol=1e-12)


def test_transport_keeps_mass_elements_and_heat(mechanism, flame):
    transport = Transport(mechanism, 2e-6)
    states = flame.states[::2].copy()
    transport.refresh(states)
    after = transport.advance(states, 1e-6)
    assert abs(after - states).max() > 1e-3  # it does something
    np.testing.assert_allclose(after[:, 2:].sum(1), 1, atol=1e-12)
    elements = [mechanism.element_fractions(x).sum(0) for x in (states, after)]
    np.testing.assert_allclose(elements[1], elements[0], rtol=1e-11)

    def heat(x):
        total = 0.0
        for row in x:
            mechanism.gas.TPY = row[0], row[1], row[2:]
            total += mechanism.gas.enthalpy_mass
        return total

    assert heat(after) == pytest.approx(heat(states), rel=1e-9)


def test_the_speed_approaches_cantera_s(mechanism, flame):
    coarse = premixed(mechanism, flame, cvode(mechanism, 1e-6), 1e-6, steps=80, cells=20)
    fine = premixed(mechanism, flame, cvode(mechanism, 2.5e-7), 2.5e-7, steps=240, cells=40)
    errors = [abs(run.speed / flame.speed - 1) for run in (coarse, fine)]
    assert errors[1] < 0.1 and errors[1] < 0.6 * errors[0]
    # profiles beside Cantera's, halfway temperatures on top of each other
    half = 0.5 * (flame.T[0] + flame.T[-1])
    x = flame.grid - np.interp(half, flame.T, flame.grid)
    inside = (fine.x > -5e-4) & (fine.x < 1e-3)
    T = np.interp(fine.x[inside], x, flame.T)
    assert abs(fine.states[inside, 0] - T).mean() < 0.03 * (flame.T[-1] - flame.T[0])
    water = mechanism.index("H2O")
    Y = np.interp(fine.x[inside], x, flame.Y[:, water])
    assert abs(fine.states[inside, 2 + water] - Y).mean() < 0.03 * Y.max()


def test_slower_chemistry_burns_slower_by_the_square_root(mechanism, flame):
    # cells wider by the square root of two are as fine for a flame that is thicker by that
    whole = premixed(mechanism, flame, cvode(mechanism, 4e-7), 4e-7, steps=200, cells=28)
    half = premixed(mechanism, flame, cvode(mechanism, 4e-7), 8e-7, steps=200, cells=20)
    assert half.speed / whole.speed == pytest.approx(np.sqrt(0.5), rel=0.02)


def test_without_chemistry_nothing_burns(mechanism, flame):
    still = premixed(mechanism, flame, lambda states: states, 1e-6, steps=150, cells=20)
    assert abs(still.speed) < 0.25 * flame.speed


def test_impossible_starts_are_sentences(mechanism, flame):
    from dataclasses import replace

    with pytest.raises(ValueError, match="start is not a flame: it did not"):
        premixed(mechanism, replace(flame, status="it did not"), lambda x: x)
    with pytest.raises(ValueError, match="cells"):
        premixed(mechanism, flame, lambda x: x, cells=0)
    with pytest.raises(RuntimeError, match="the flame went out"):
        premixed(mechanism, flame, lambda x: np.tile(x[0], (len(x), 1)), steps=5)


def test_states_after_transport_are_what_reaction_undoes(mechanism, flame):
    """In a settled flame radicals diffuse into cold gas and react there: reaction takes away what transport brought."""
    drawn = after_transport(mechanism, [flame], 150, np.random.default_rng(0), times=(1e-6, 1e-6))
    assert 100 < len(drawn) <= 150 and drawn.origins == ("flame after transport",)
    np.testing.assert_allclose(drawn.states[:, 2:].sum(1), 1, atol=1e-12)
    cold = drawn.states[(drawn.states[:, 0] > 350) & (drawn.states[:, 0] < 800)]
    column = 2 + mechanism.index("H")
    change = mechanism.advance(cold, 1e-6).states[:, column] - cold[:, column]
    assert len(cold) > 5 and change.sum() < -0.1 * cold[:, column].sum()
    settled = np.interp(cold[:, 0], flame.T, flame.states[:, column])
    assert (cold[:, column] > settled).mean() > 0.8
    with pytest.raises(ValueError, match="flames is empty"):
        after_transport(mechanism, [], 10, np.random.default_rng(0))
