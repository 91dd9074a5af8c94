"""Flow maps against exact flows: decay on two scales, refusals, storage, what the tuning on rollouts gains."""

import numpy as np
import pytest

from sciml.flowmap import FlowMap
from sciml.training import Adam
from sciml.transforms import Identity, Log

RATES = np.array([1.0, 30.0])


def exact(x, dt):
    return x * np.exp(-np.outer(np.broadcast_to(dt, len(x)), RATES))


def states(n, seed=0):
    return 10 ** np.random.default_rng(seed).uniform(-3, 0, (n, 2))


def trained(dt=0.02, tuning=(), steps=400, seed=0, **options):
    x = states(3000)
    windows = np.stack([exact(x, k * 0.02) for k in range(6)], 1)
    return FlowMap.fit(
        x, exact(x, dt), dt, [True, True], (32, 32), [Adam(steps, lr=3e-3)], windows, tuning, 256, seed=seed, **options
    )[0]


@pytest.fixture(scope="module")
def model():
    return trained()


def test_a_step_is_that_of_the_exact_flow_on_all_scales(model):
    x = states(500, seed=1)
    error = np.abs(model.step(x) / exact(x, 0.02) - 1)
    assert error.mean() < 0.02
    assert np.abs(x / exact(x, 0.02) - 1).mean() > 10 * error.mean()  # standing still is no answer


def test_rollouts_begin_with_the_initial_state_and_repeat_the_step(model):
    x = states(4, seed=2)
    out = model.rollout(x, 3)
    assert out.shape == (4, 4, 2) and out.dtype == np.float64
    assert np.array_equal(out[:, 0], x)
    np.testing.assert_array_equal(out[:, 1], model.step(x))
    np.testing.assert_allclose(model.rollout(out[:, 1], 2), out[:, 1:], rtol=1e-12)


def test_a_batch_is_the_same_as_a_loop(model):
    x = states(20, seed=3)
    np.testing.assert_allclose(model.step(x), np.concatenate([model.step(r[None]) for r in x]), rtol=1e-5)


def test_unknowns_that_cannot_be_negative_never_are(model):
    x = np.concatenate([states(200), np.zeros((1, 2)), [[1e-30, 1e3]]])
    assert (model.rollout(x, 50) >= 0).all()


def test_tuning_on_rollouts_lessens_their_error():
    x = states(300, seed=4)
    errors = [
        np.abs(np.log(m.rollout(x, 5)[:, -1] / exact(x, 0.1))).mean()
        for m in (trained(steps=150), trained(steps=150, tuning=[Adam(150, lr=1e-3)]))
    ]
    assert errors[1] < errors[0]


def test_the_step_may_be_an_input():
    x, dt = states(3000), 10 ** np.random.default_rng(5).uniform(-3, -1, 3000)
    model = FlowMap.fit(x, exact(x, dt), dt, [True, True], (32, 32), [Adam(600, lr=3e-3)])[0]
    for step in (0.002, 0.02, 0.08):
        error = np.abs(model.step(x[:300], step) - exact(x[:300], step)).mean()
        assert error < 0.15 * np.abs(x[:300] - exact(x[:300], step)).mean()
    each = np.array([0.002, 0.08])
    np.testing.assert_allclose(
        model.step(x[:2], each), np.concatenate([model.step(x[i : i + 1], each[i]) for i in (0, 1)]), rtol=1e-5
    )
    for bad, complaint in (([0.1, 0.1, 0.1], "one for each of 2"), ([0.1, -1.0], "positive dt"), (np.nan, "positive")):
        with pytest.raises(ValueError, match=complaint):
            model.step(x[:2], np.array(bad))
    with pytest.raises(ValueError, match="takes a positive dt"):
        model.step(x)


def test_the_generalised_transform_of_increments_is_undone():
    x = states(500, seed=6)
    error = np.abs(trained(general=0.5).step(x) / exact(x, 0.02) - 1)
    assert error.mean() < 0.05


def test_another_transform_may_take_the_place_of_box_cox(tmp_path):
    """In logarithms decay is a constant increment; without a transform small states are lost beside large ones."""
    x = states(500, seed=7)
    found = {}
    for scale in (Log(), Identity()):
        model = trained(steps=150, lmbda=scale)
        found[scale.kind] = np.abs(model.step(x) / exact(x, 0.02) - 1).mean()
        assert (model.step(x) >= 0).all()
        model.save(tmp_path / "m.h5")
        np.testing.assert_array_equal(FlowMap.load(tmp_path / "m.h5").step(x), model.step(x))
    assert found["log"] < 0.01 < 0.05 < found["identity"]


def test_increments_with_a_size_of_their_own_are_more_accurate_on_all_scales():
    """Steps from 1e-5 to 0.1 as an input: what a plain network adds up to is lost in the smallest of them."""
    x, dt = states(3000), 10 ** np.random.default_rng(5).uniform(-5, -1, 3000)
    errors = {}
    for expert in (False, True):
        model = FlowMap.fit(
            x, exact(x, dt), dt, [True, True], (24, 24), [Adam(600, lr=3e-3)], lmbda=Log(), expert=expert
        )[0]
        y = states(500, seed=1)
        errors[expert] = np.abs(np.log(model.step(y, 2e-5) / exact(y, 2e-5))).mean() / (2e-5 * RATES.mean())
    assert errors[True] < 0.3 and errors[True] < 0.5 * errors[False]


def test_the_sum_stays_where_it_is_kept(tmp_path):
    x = states(500, seed=8)
    x /= x.sum(1, keepdims=True)
    a = 1 - np.exp(-0.5)
    after = np.stack([x[:, 0] * (1 - a), x[:, 1] + a * x[:, 0]], 1)
    options = {"dt": 0.5, "positive": [True, True], "widths": (8,), "stages": [Adam(50)], "expert": True}
    kept = FlowMap.fit(x, after, conserve=True, **options)[0]
    loose = FlowMap.fit(x, after, **options)[0]
    drift = [np.abs(m.rollout(x, 20).sum(2) - 1).max() for m in (kept, loose)]
    assert drift[0] < 1e-13 and drift[1] > 1e-4
    kept.save(tmp_path / "m.h5")
    np.testing.assert_array_equal(FlowMap.load(tmp_path / "m.h5").rollout(x, 3), kept.rollout(x, 3))
    with pytest.raises(ValueError, match="conserve needs columns"):
        FlowMap.fit(x, after, 0.5, [True, False], conserve=True)


def test_another_step_than_the_trained_one_is_refused(model):
    with pytest.raises(ValueError, match="trained for 0.02 only"):
        model.step(states(1), 0.01)
    assert np.array_equal(model.step(states(1), 0.02), model.step(states(1)))


@pytest.mark.parametrize(
    ("given", "complaint"),
    [(np.ones((3, 3)), "must have shape"), (np.ones(2), "must have shape"), (-np.ones((1, 2)), "negative")],
)
def test_states_that_do_not_fit_are_refused(model, given, complaint):
    with pytest.raises(ValueError, match=complaint):
        model.step(given)


def test_a_saved_flow_map_is_the_same(model, tmp_path):
    model.save(tmp_path / "m.h5")
    again = FlowMap.load(tmp_path / "m.h5")
    assert np.array_equal(again.rollout(states(5), 4), model.rollout(states(5), 4)) and again.dt == 0.02


def test_the_same_seed_gives_the_same_flow_map(model):
    assert np.array_equal(trained().step(states(5)), model.step(states(5)))
    assert not np.array_equal(trained(seed=1).step(states(5)), model.step(states(5)))
