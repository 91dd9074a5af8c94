"""Every sampler and filter: what it promises of its states, for any seed, and what it refuses."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sciml.chemistry import Mechanism
from sciml.chemistry.samples import (
    concatenate,
    elements_within,
    fractions_within,
    heat_release,
    heat_release_within,
    temperature_between,
)
from sciml.chemistry.sampling import Ranges, adaptive, monte_carlo, multi_scale, named, perturbed, with_elements
from sciml.chemistry.trajectories import along, evolved, manifold, on_the_way, relaxed

MECHANISM = Mechanism("h2o2.yaml")
RANGES = Ranges("H2", (1000.0, 1500.0), (1e5, 4e5), (0.5, 2.0))
SEEDS = st.integers(0, 10**6)


def moles(states):
    return states[:, 2:] / MECHANISM.molar_masses @ MECHANISM.composition


def sound(states):
    return (states[:, 2:] >= 0).all() and np.abs(states[:, 2:].sum(1) - 1).max() < 1e-12


def phi(states):
    """Equivalence ratio by hand: H2 + O2/2 for the elements H and O."""
    hydrogen, oxygen = (moles(states)[:, MECHANISM.elements.index(e)] for e in "HO")
    return hydrogen / (2 * oxygen)


@pytest.fixture(scope="module")
def burning():
    return manifold(MECHANISM, RANGES, np.random.default_rng(0), ignitions=4, points=60)


@settings(max_examples=10, deadline=None)
@given(SEEDS)
def test_charges_lie_in_their_ranges(seed):
    states = RANGES.charges(MECHANISM, 40, np.random.default_rng(seed))
    assert sound(states) and np.array_equal(states, RANGES.charges(MECHANISM, 40, np.random.default_rng(seed)))
    for column, low, high in ((states[:, 0], 1000, 1500), (states[:, 1], 1e5, 4e5), (phi(states), 0.5, 2)):
        assert column.min() >= low * (1 - 1e-9) and column.max() <= high * (1 + 1e-9)
        assert column.max() - column.min() > 0.5 * (high - low)


@settings(max_examples=6, deadline=None)
@given(SEEDS, st.sampled_from(["monte carlo", "box-cox", "log"]))
def test_drawn_compositions_have_the_elements_of_a_charge(seed, kind):
    generator = np.random.default_rng(seed)
    if kind == "monte carlo":
        found = monte_carlo(MECHANISM, RANGES, 60, generator)
    else:
        found = multi_scale(MECHANISM, RANGES, 60, generator, scale=kind)
    assert sound(found.states) and len(found) + found.left_out["elements not reached"] == 60 and len(found) > 50
    ratio = phi(found.states)
    assert ratio.min() >= 0.5 * (1 - 1e-8) and ratio.max() <= 2 * (1 + 1e-8)
    nitrogen, oxygen = (moles(found.states)[:, MECHANISM.elements.index(e)] for e in "NO")
    np.testing.assert_allclose(nitrogen / oxygen, 3.76, rtol=1e-7)  # air
    assert found.states[:, 0].min() >= 1000


def test_multi_scale_meets_every_magnitude_and_monte_carlo_does_not():
    """Share of H2O2 below 1e-5: most decades, some of a Box-Cox transform's range, hardly any of the fractions'."""
    generator, column = np.random.default_rng(0), 2 + MECHANISM.index("H2O2")
    drawn = {
        "log": multi_scale(MECHANISM, RANGES, 300, generator, scale="log"),
        "box-cox": multi_scale(MECHANISM, RANGES, 300, generator),
        "monte carlo": monte_carlo(MECHANISM, RANGES, 300, generator),
    }
    small = {name: float((found.states[:, column] < 1e-5).mean()) for name, found in drawn.items()}
    assert small["log"] > 0.45 and 0.1 < small["box-cox"] < small["log"] and small["monte carlo"] < 0.02
    for scale, floor, words in (("cubic", 1e-20, "scale is 'cubic'"), ("log", 0.0, "floor")):
        with pytest.raises(ValueError, match=words):
            multi_scale(MECHANISM, RANGES, 3, generator, scale=scale, floor=floor)


@settings(max_examples=10, deadline=None)
@given(SEEDS)
def test_elements_are_reached_by_a_factor_for_each_element(seed):
    generator = np.random.default_rng(seed)
    target = RANGES.charges(MECHANISM, 5, generator)[:, 2:]
    drawn = 10 ** generator.uniform(-8, 0, target.shape)
    found, good = with_elements(MECHANISM, drawn, target)
    atoms = MECHANISM.composition / MECHANISM.molar_masses[:, None]
    assert good.all() and np.abs(found @ atoms - target @ atoms).max() < 1e-11
    # the logarithm of the factors is linear in the atoms of a species: H2O2 as H + HO2
    with np.errstate(divide="ignore"):  # argon is in none
        factor = dict(zip(MECHANISM.species, np.log(found / drawn).T, strict=True))
    np.testing.assert_allclose(factor["H2O2"] + factor["H"], factor["H2"] + factor["HO2"], atol=1e-6)
    np.testing.assert_allclose(factor["OH"] + factor["O"], factor["O2"] + factor["H"], atol=1e-6)


@settings(max_examples=10, deadline=None)
@given(SEEDS, st.floats(0.01, 0.3))
def test_perturbed_states_are_powers_and_keep_elements_if_asked(burning, seed, alpha):
    kept = perturbed(MECHANISM, burning, 50, np.random.default_rng(seed), alpha)
    assert sound(kept.states) and len(kept) + sum(kept.left_out.values()) == 50
    free = perturbed(MECHANISM, burning, 50, np.random.default_rng(seed), alpha, keep_elements=False)
    parents = burning.states[
        np.abs(burning.states[:, 0][None] - free.states[:, :1]).argmin(1)  # the temperature is that of the parent
    ]
    some = (parents[:, 2:] > 1e-30) & (parents[:, 2:] < 0.9)
    sizes = np.where(some, np.log(np.where(some, free.states[:, 2:], 0.5)), 0.0)
    powers = np.where(some, sizes / np.where(some, np.log(np.where(some, parents[:, 2:], 0.5)), 1.0), 1.0)
    small = parents[:, 2:] < 1e-6  # where the normalisation of the sum does not matter
    assert np.abs(powers - 1)[some & small].max() <= alpha + 0.05
    same = np.abs(burning.states[:, 0][None] - kept.states[:, :1]).argmin(1)
    np.testing.assert_allclose(moles(kept.states), moles(burning.states[same]), rtol=1e-8, atol=1e-12)
    assert np.abs(moles(free.states) - moles(parents)).max() > 1e-4 * alpha  # the control


def test_perturbations_that_cannot_be_are_refused(burning):
    for name in ("alpha", "temperature", "pressure"):
        with pytest.raises(ValueError, match=name):
            perturbed(MECHANISM, burning, 3, np.random.default_rng(0), **{name: 1.0})
    with pytest.raises(ValueError, match="n is 0"):
        perturbed(MECHANISM, burning, 0, np.random.default_rng(0))


def test_the_manifold_leads_from_the_charge_to_equilibrium(burning):
    states = burning.states
    radicals = states[:, [2 + MECHANISM.index(k) for k in ("H", "O", "OH", "HO2", "H2O2")]]
    fresh = (radicals == 0).all(1)
    assert sound(states) and fresh.sum() == 4 and burning.origins == ("ignition",)
    for charge in states[fresh]:
        goal = MECHANISM.equilibrium(charge)
        near = np.abs(states[:, 0] - goal[0]) < 1
        assert (np.abs(states[near][:, 2:] - goal[2:]).max(1) < 1e-4).any()
    with pytest.raises(ValueError, match="none of 2 charges burnt"):
        manifold(MECHANISM, Ranges("H2", (300.0, 310.0)), np.random.default_rng(0), 2)


def test_states_along_a_path_are_spread_by_its_length():
    path = np.zeros((1001, 2 + MECHANISM.n_species))
    path[:, 0] = 1000 + 1000 * np.linspace(0, 1, 1001) ** 4  # slow first, fast later
    chosen = along(path, 11)
    assert len(chosen) == 11 and np.abs(np.diff(chosen[:, 0]) - 100).max() < 5


def test_evolution_follows_every_state_by_itself():
    start = monte_carlo(MECHANISM, RANGES, 3, np.random.default_rng(0))
    found = evolved(MECHANISM, start, np.random.default_rng(1), duration=1e-5, points=4).states
    again = np.random.default_rng(1)
    for k, state in enumerate(start.states):
        times = np.exp(np.sort(again.uniform(np.log(1e-8), np.log(1e-5), 4)))
        np.testing.assert_allclose(
            found[(np.abs(moles(found) - moles(state[None])) < 1e-9).all(1)][-4:],
            MECHANISM.trajectory(state, times, rtol=1e-10, atol=1e-18),
            rtol=1e-3,
            atol=1e-8,
            err_msg=str(k),
        )
    with pytest.raises(ValueError, match="shortest"):
        evolved(MECHANISM, start, np.random.default_rng(1), duration=1e-9)


def test_perturbed_states_are_followed_until_they_burn():
    kicked = on_the_way(MECHANISM, RANGES, 8, np.random.default_rng(0))
    assert sound(kicked.states) and 0 < len(kicked) <= 8
    assert sum(np.isfinite(MECHANISM.ignition(state).delay) for state in kicked.states) >= 4
    found = relaxed(MECHANISM, RANGES, 80, np.random.default_rng(0), points=10)
    assert sound(found.states) and found.states[:, 0].max() > 2000 and len(found) > 40
    with pytest.raises(ValueError, match="charges burnt"):
        relaxed(MECHANISM, Ranges("H2", (300.0, 310.0)), 8, np.random.default_rng(0))


def test_adaptive_draws_come_from_where_errors_are(burning):
    generator = np.random.default_rng(0)

    def hot(states):
        return (states[:, 0] > 2000).astype(float) + 1e-6

    def share(power):
        return float((adaptive(burning, hot, 30, generator, power).states[:, 0] > 2000).mean())

    everywhere = float((burning.states[:, 0] > 2000).mean())
    assert share(1.0) > 0.95 and abs(share(0.0) - everywhere) < 0.3 and everywhere < 0.8
    drawn = adaptive(burning, hot, len(burning), generator)
    assert len(np.unique(drawn.states, axis=0)) == len(np.unique(burning.states, axis=0))  # none twice
    for error, n, words in ((hot, len(burning) + 1, "candidates"), (lambda s: -hot(s), 3, "not negative")):
        with pytest.raises(ValueError, match=words):
            adaptive(burning, error, n, generator)


def test_filters_keep_what_they_name_and_count_the_rest(burning):
    states, few = burning.states, burning.states[:5]
    release = abs(heat_release(MECHANISM, states))
    conditions = {
        "cold": (temperature_between(0, 1600), states[:, 0] <= 1600),
        "calm": (heat_release_within(few, 2.0), release <= 2 * release[:5].max()),
        "few radicals": (fractions_within(few, 3.0), (states[:, 2:] <= np.minimum(1, 3 * few[:, 2:].max(0))).all(1)),
    }
    for name, (condition, wanted) in conditions.items():
        left = burning.filtered(MECHANISM, {name: condition})
        assert np.array_equal(left.states, states[wanted])
        assert 0 < left.left_out[name] == (~wanted).sum() < len(states)
    lean = MECHANISM.state(1200.0, 1e5, "H2", phi=0.3)
    mixed = concatenate([burning, named(np.atleast_2d(lean), "lean")])
    left = mixed.filtered(MECHANISM, {"elements": elements_within(MECHANISM, states)})
    assert left.left_out["elements"] == 1 and len(left) == len(states)


@settings(max_examples=10, deadline=None)
@given(SEEDS)
def test_duplicates_go_and_the_order_is_random_but_seeded(burning, seed):
    generator = np.random.default_rng(seed)
    rows = generator.integers(0, len(burning), 40)
    one = burning.deduplicated()
    repeated = concatenate([burning, burning.keep(np.isin(np.arange(len(burning)), rows), "others")])
    left = repeated.deduplicated()
    assert len(left) == len(one) and left.left_out["duplicate"] >= len(np.unique(rows))
    mixed = left.shuffled(np.random.default_rng(seed))
    assert np.array_equal(mixed.states, left.shuffled(np.random.default_rng(seed)).states)
    assert np.array_equal(np.sort(mixed.states[:, 0]), np.sort(left.states[:, 0]))


@pytest.mark.parametrize(("name", "value"), [("T", (1500.0, 1000.0)), ("p", (0.0, 1e5)), ("phi", (1.0, np.inf))])
def test_empty_ranges_are_refused(name, value):
    with pytest.raises(ValueError, match=f"the range {name} is"):
        Ranges("H2", **{"T": (1000.0, 1500.0), name: value})
