"""Knowing one's limits: what lies outside the training is seen, goes to the integrator, and is counted."""

import dataclasses

import numpy as np
import pytest

from sciml.chemistry import Mechanism, Surrogate
from sciml.chemistry.hybrid import Ensemble, hybrid, limits
from sciml.chemistry.labels import label
from sciml.chemistry.recipe import Sampling, Training, draw, train
from sciml.chemistry.sampling import Ranges


@pytest.fixture(scope="module")
def mechanism():
    return Mechanism("h2o2.yaml")


@pytest.fixture(scope="module")
def dataset(mechanism, tmp_path_factory):
    drawn = draw(mechanism, Ranges("H2", (1100.0, 1400.0)), Sampling(states=600, ignitions=6, flames=0), seed=0)
    return label(mechanism, drawn.samples, tmp_path_factory.mktemp("labels") / "l.h5", steps=1)


@pytest.fixture(scope="module")
def members(mechanism, dataset):
    quick = Training((24, 24), steps=80, batch=128, tuning=0)
    return [train(dataset, mechanism, quick, seed)[0] for seed in (0, 1)]


@pytest.fixture(scope="module")
def surrogate(members):
    return members[0]


def inside(mechanism):
    return mechanism.ignition(mechanism.state(1230.0, 101325.0, phi=0.9)).states[::4]


def outside(mechanism):
    """Hotter, richer, and at another pressure."""
    hot = mechanism.state(1900.0, 101325.0)
    rich = mechanism.state(1200.0, 101325.0, phi=8.0)
    dense = mechanism.state(1200.0, 30 * 101325.0)
    return np.array([hot, rich, dense])


def test_the_score_sees_what_is_outside(mechanism, surrogate, dataset):
    assert (surrogate.score(dataset.states) > 1).mean() <= 0.0025
    assert (surrogate.score(inside(mechanism)) <= 1).mean() > 0.9
    score = surrogate.score(outside(mechanism))
    assert (score > 1).all()


def test_a_state_off_the_manifold_is_farther_although_every_range_holds_it(mechanism, surrogate, dataset):
    """Negative control: a box of T, p and fractions would let burnt radicals at an unburnt temperature through."""
    known, path = dataset.states, inside(mechanism)
    odd = path[path[:, 2 + mechanism.index("OH")].argmax()].copy()
    odd[0] = 1150.0
    assert ((odd >= known.min(0) - 1e-12) & (odd <= known.max(0) + 1e-12)).all()
    assert surrogate.score(odd[None])[0] > 2 * surrogate.score(path).max()


def test_outsiders_are_integrated_and_counted(mechanism, surrogate):
    good, bad = inside(mechanism), outside(mechanism)
    good = good[surrogate.score(good) <= 1]
    states = np.concatenate([good, bad])
    done = hybrid(surrogate, mechanism, states)
    np.testing.assert_array_equal(done.integrated, np.arange(len(states)) >= len(good))
    assert done.share == pytest.approx(3 / len(states)) and not done.failed.any()
    exact = mechanism.advance(bad, 1e-6).states
    np.testing.assert_allclose(done.states[len(good) :], exact, rtol=1e-6, atol=1e-12)
    np.testing.assert_array_equal(done.states[: len(good)], surrogate.step(good))


def test_what_no_integrator_takes_is_returned_as_it_was(mechanism, surrogate):
    states = inside(mechanism)[:4].copy()
    states[2, 0] = 6000.0  # the thermodynamic data end at 3500 K
    done = hybrid(surrogate, mechanism, states)
    np.testing.assert_array_equal(done.failed, [False, False, True, False])
    np.testing.assert_array_equal(done.integrated, done.failed)
    np.testing.assert_allclose(done.states[2], states[2], rtol=1e-14)


def test_the_net_speed_up_includes_the_integrator(mechanism, surrogate):
    states = np.concatenate([inside(mechanism), outside(mechanism)])
    none, half, every = (hybrid(surrogate, mechanism, states, threshold) for threshold in (np.inf, 1.0, 0.0))
    assert (none.share, every.share) == (0.0, 1.0) and 0 < half.share < 1
    assert none.integrating <= half.integrating <= every.integrating <= every.seconds
    for done in (none, half, every):
        assert done.speedup(1.0) == pytest.approx(1 / done.seconds)
    np.testing.assert_allclose(every.states, mechanism.advance(states, 1e-6).states, rtol=1e-6, atol=1e-12)


def test_what_is_not_trusted_costs_speed(mechanism, surrogate):
    good = np.resize(inside(mechanism)[:40], (400, 12))
    hot = np.tile(outside(mechanism), (200, 1))
    trusted, mixed = limits(surrogate, mechanism, good), limits(surrogate, mechanism, np.concatenate([good, hot]))
    assert trusted["share of CVODE"] == 0.0 and mixed["share of CVODE"] == pytest.approx(0.6)
    assert trusted["failed"] == mixed["failed"] == 0
    # the integrator's share bounds the net speed-up whatever the surrogate costs
    assert mixed["net speed-up"] < trusted["net speed-up"]


def test_disagreement_is_seen_where_the_first_member_feels_at_home(mechanism, members, dataset):
    both = Ensemble(members, dataset.states)
    assert (both.score(dataset.states) > 1).mean() <= 0.004
    np.testing.assert_array_equal(both.step(dataset.states[:5]), members[0].step(dataset.states[:5]))
    assert (both.score(outside(mechanism)) > 1).all()
    # negative control: twins never disagree, whatever they are asked
    twins = Ensemble([members[0], members[0]], dataset.states)
    assert not twins.spread(outside(mechanism)).any()
    # a member that errs on hot states only is noticed on those alone
    liar = Surrogate.load(saved(members[1]))
    liar.settings = dataclasses.replace(liar.settings, edges=(2000.0,))
    liar.experts.append(Surrogate.load(saved(members[1])).experts[0])
    liar.experts[1].requires_grad_(False)
    for parameter in liar.experts[1].parameters():
        parameter.mul_(3.0)
    wary = Ensemble([members[0], members[1]], dataset.states)
    wary.members = (members[0], liar)
    hot = dataset.states[:, 0] > 2000
    assert hot.any()
    spreads = wary.spread(dataset.states), both.spread(dataset.states)
    # but for a few that are used up within the step, whose rounding Box-Cox space magnifies
    assert np.quantile(np.abs(spreads[0] / spreads[1] - 1)[~hot], 0.99) < 1e-6
    assert np.mean(spreads[0][hot]) > 1.5 * np.mean(spreads[1][hot])
    done = hybrid(wary, mechanism, dataset.states[:50], threshold=1.0)
    np.testing.assert_array_equal(done.integrated, wary.score(dataset.states[:50]) > 1)


def saved(model):
    import tempfile
    from pathlib import Path

    path = Path(tempfile.mkdtemp()) / "m.h5"
    model.save(path)
    return path


def test_members_must_agree(members, dataset):
    with pytest.raises(ValueError, match="members has 1"):
        Ensemble(members[:1], dataset.states)
    other = Surrogate.load(saved(members[1]))
    other.settings = dataclasses.replace(other.settings, dt=2e-6)
    with pytest.raises(ValueError, match="members must agree in dt, but have 1e-06, 2e-06"):
        Ensemble([members[0], other], dataset.states)


def test_another_mechanism_is_refused(surrogate):
    with pytest.raises(ValueError, match="other content than the one the surrogate was trained on"):
        hybrid(surrogate, Mechanism("gri30.yaml"), np.zeros((1, 55)))
