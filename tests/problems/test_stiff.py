"""Stiff systems: right-hand sides against published solutions and invariants, and a trained one beside Radau."""

import numpy as np
import pytest

from sciml.problems import stiff
from sciml.results import Run


def test_robertson_reaches_the_published_values():
    system = stiff.SYSTEMS["robertson"]
    # Hairer & Wanner, Solving Ordinary Differential Equations II, table of test problems: t = 40
    y = stiff.reference(system, np.array(system.start), np.array([0.0, 40.0]))[-1]
    np.testing.assert_allclose(y, [0.7158270688, 9.185534765e-6, 0.2841637457], rtol=1e-5)


def test_the_ring_modulator_reaches_the_published_values():
    system = stiff.SYSTEMS["ring"]
    y = stiff.reference(system, np.array(system.start), np.array([0.0, 1e-3]), rtol=1e-5)[-1]
    # Test Set for IVP Solvers, ring modulator with Cs = 2e-12, t = 1e-3
    np.testing.assert_allclose(y[:2], [-0.2339057358486745e-1, -0.7367485485540825e-2], rtol=1e-3)
    np.testing.assert_allclose(y[15:], [1, 0, 1, 0], atol=1e-4)  # the phase comes back after 1 ms
    early = stiff.reference(system, np.array(system.start), np.array([0.0, 1.3e-5]), rtol=1e-6)[-1]
    np.testing.assert_allclose(early[15:], stiff.ring_drive(1.3e-5), atol=1e-4)  # what a rollout is driven by


def test_predators_and_prey_keep_their_invariant():
    system = stiff.SYSTEMS["predator_prey"]
    x, y = stiff.reference(system, np.array([1.2, 0.8]), np.linspace(0, 20, 50)).T
    invariant = x - np.log(x) + 4 / 3 * y - 2 / 3 * np.log(y)
    assert np.ptp(invariant) < 1e-6


def test_the_oregonator_returns_to_its_start_after_a_period():
    system = stiff.SYSTEMS["oregonator"]
    y = stiff.reference(system, np.array([1.0, 2.0, 3.0]), np.array([0.0, 360.0]))[-1]
    # Hairer & Wanner: the solution at t = 360
    np.testing.assert_allclose(y, [1.000814870318523, 1228.178521549917, 132.0554942846706], rtol=1e-4)


def test_samples_are_evolved_repeatable_and_on_the_manifold():
    system, config = stiff.SYSTEMS["robertson"], stiff.Config(samples=5, length=4)
    windows, times = stiff.sample(system, config, np.random.default_rng(0))
    again, _ = stiff.sample(system, config, np.random.default_rng(0))
    assert windows.shape == (5, 5, 3) and times.shape == (5, 5) and np.array_equal(windows, again)
    np.testing.assert_allclose(windows.sum(2), 1, atol=1e-8)


def test_pairs_lie_as_far_apart_as_their_step_says():
    system = stiff.SYSTEMS["robertson"]
    windows, times = stiff.sample(system, stiff.Config(samples=3, length=5), np.random.default_rng(1))
    states, after, dt = stiff.pairs(system, windows, times)
    assert len(states) == 3 * 15 and dt.shape == (45,) and (dt > 0).all()
    for k in (0, 7, 30, 44):
        radau = stiff.reference(system, states[k], np.array([0.0, dt[k]]))[-1]
        np.testing.assert_allclose(after[k], radau, rtol=1e-4, atol=1e-14)
    fixed = stiff.SYSTEMS["predator_prey"]
    assert stiff.pairs(fixed, np.zeros((3, 6, 2)), np.zeros((3, 6)))[2] == fixed.dt


def test_states_before_a_jump_are_among_the_samples():
    """The Oregonator falls from its excited branch in a hundredth of a percent of its period."""
    system = stiff.SYSTEMS["oregonator"]
    y = stiff._places(system, 400, np.random.default_rng(0))
    steps = [stiff.reference(system, state, np.array([0.0, system.dt]), method="LSODA") for state in y[:200]]
    falls = [(a[0] > 1e3 > b[0]) for a, b in steps]  # y1 falls by four decades within the step
    assert np.mean(falls) > 0.1


def test_the_period_is_that_of_a_sine():
    t = np.arange(0, 50, 0.05)
    assert stiff.period(t, np.sin(2 * t)) == pytest.approx(np.pi, rel=1e-4)
    assert np.isnan(stiff.period(t[:50], np.sin(2 * t[:50])))


def test_robertson_is_followed_over_seventeen_decades(tmp_path):
    """A twentieth of the default's training, far better than standing still; and no error of it may be nan."""
    config = stiff.Config(samples=120, length=16, widths=(32, 32), steps=700, batch=512)
    metrics = stiff.run(config, Run(tmp_path, 0, None, {}))
    system = stiff.SYSTEMS["robertson"]
    exact = stiff.reference(system, np.array(system.start), stiff.grid(system))
    still = np.mean(np.sqrt(np.mean((exact[0] - exact) ** 2, 0)) / exact.max(0))
    assert metrics["rollout error"] < 0.3 * still
    assert metrics["one-step error"] < 0.05 and metrics["steps"] == 103
    assert 0 < metrics["relative error, mean"] < 0.5


def test_a_kick_of_a_fast_unknown_is_forgotten():
    """On the Oregonator's slow branch y1 comes back to y2/(y2 - 1) within a step; what stays of kicks adds up."""
    system = stiff.SYSTEMS["oregonator"]
    config = stiff.Config(
        case="oregonator", samples=800, length=1, widths=(32, 32), steps=1200, tuning=0, batch=512, spread=1.0
    )
    model = stiff.train(system, config, 0)
    y2 = np.geomspace(20, 1000, 30)
    slow = np.stack([y2 / (y2 - 1), y2, np.full(30, 1.1)], 1)
    kicked = slow * np.exp([0.05, 0, 0])
    stays = np.log(model.step(kicked)[:, 0] / model.step(slow)[:, 0]) / 0.05
    assert np.abs(stays).max() < 0.2  # 1 for a map that leaves y1 where it is


def test_a_trained_flow_map_follows_radau(tmp_path):
    config = stiff.Config(case="predator_prey", samples=150, widths=(32, 32), steps=1500, tuning=60, batch=256)
    run = Run(tmp_path, 0, None, {})
    metrics = stiff.run(config, run)
    assert metrics["one-step error"] < 5e-3
    assert metrics["rollout error"] < 0.1 and metrics["steps"] == 300
    assert metrics["period error"] < 0.01


def test_an_unknown_system_is_refused():
    with pytest.raises(ValueError, match="one of robertson, van_der_pol"):
        stiff.run(stiff.Config(case="brusselator"), None)
