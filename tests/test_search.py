"""The loop of propose, simulate, verify, on problems whose answer is known by enumeration or by hand."""

import math
import os
import time
from functools import partial
from itertools import product

import numpy as np
import pytest
import torch

from sciml.archive import Archive, Store
from sciml.ensemble import Ensemble
from sciml.integer import Integer
from sciml.kriging import Kriging
from sciml.proposers import Inverse, Model, Screened, singles
from sciml.search import Coordinates, RandomMoves, Switches, parents, search, simulate_all

D, K = 12, 4
EFFECTS = np.random.default_rng(5).standard_normal((D, K)) * 0.6
TOGETHER = np.random.default_rng(6).standard_normal((D, D, K)) * 0.03


def additive(design):
    """Errors that add up, and cancel, with small interactions; nothing left fails."""
    off = 1 - np.asarray(design)
    if off.sum() > D - 2:
        return math.inf, np.full(K, math.inf)
    return float(np.sum(design)), off @ EFFECTS + np.einsum("i,j,ijk->k", off, off, TOGETHER)


def total(designs):
    return designs.sum(-1)


@pytest.fixture(scope="module")
def smallest():
    """By enumeration of all 4096 designs."""
    sizes = [np.sum(d) for d in product((0, 1), repeat=D) if np.abs(additive(np.array(d))[1]).max() <= 1]
    return min(sizes)


def start():
    return [np.ones(D), *(np.ones(D) - np.eye(D))]


PROPOSERS = {
    "integer": Integer(),
    "network": Screened(Model(cost=total, additive=True, steps=100), pool=200, generations=3),
    "inverse": Inverse(Model(cost=total, additive=True, steps=100), starts=32, steps=40),
}


@pytest.mark.parametrize("name", PROPOSERS)
def test_proposers_find_the_smallest_design_in_a_fraction_of_all(name, smallest):
    archive = search(additive, Switches(np.zeros(D, bool)), start(), [PROPOSERS[name]], 90, K, batch=6)
    assert len(archive) <= 90
    assert archive.objectives[archive.best] <= smallest + (0 if name == "integer" else 1)


def test_integer_programmes_beat_random_moves_at_equal_simulations(smallest):
    def best(proposer, seed):
        archive = search(additive, Switches(np.zeros(D, bool)), start(), [proposer], 30, K, batch=2, seed=seed)
        return archive.objectives[archive.best]

    ours, random = (np.mean([best(p, s) for s in range(3)]) for p in (Integer(), RandomMoves()))
    assert smallest <= ours < random


def test_the_same_seed_gives_the_same_archive_and_another_one_another():
    def designs(seed):
        return search(additive, Switches(np.zeros(D, bool)), start(), [Integer()], 30, K, seed=seed).designs

    np.testing.assert_array_equal(designs(3), designs(3))
    assert not np.array_equal(designs(3), designs(4))


def test_fixed_switches_stay_on_in_everything_simulated():
    fixed = np.arange(D) < 3
    archive = search(additive, Switches(fixed), [np.ones(D)], [RandomMoves(), Integer()], 40, K)
    assert archive.designs[:, fixed].all() and not archive.designs[:, ~fixed].all()


def test_simulations_that_raise_are_infinite_errors_and_the_search_goes_on():
    def fragile(design):
        if design[0] == 0:
            raise RuntimeError("exploded")
        return additive(design)

    archive = search(fragile, Switches(np.zeros(D, bool)), start(), [RandomMoves()], 40, K)
    broken = archive.designs[:, 0] == 0
    assert broken.any() and np.isinf(archive.errors[broken]).all() and np.isinf(archive.objectives[broken]).all()
    assert archive.best is not None and archive.designs[archive.best][0] == 1


def test_a_design_is_never_simulated_twice_and_the_store_spares_a_second_search(tmp_path):
    calls = []

    def counted(design):
        calls.append(design.tobytes())
        return additive(design)

    def run():
        store = Store(tmp_path / "s.h5", D, K, "additive")
        return search(counted, Switches(np.zeros(D, bool)), start(), [Integer()], 40, K, store=store)

    first = run()
    assert len(calls) == len(set(calls)) == len(first) == 40
    again = run()
    assert len(calls) == 40
    np.testing.assert_array_equal(first.designs, again.designs)
    np.testing.assert_array_equal(first.errors, again.errors)


def test_a_search_continues_an_archive_and_counts_it():
    space = Switches(np.zeros(D, bool))
    archive = search(additive, space, start(), [RandomMoves()], 20, K)
    same = search(additive, space, [], [RandomMoves()], 30, K, archive=archive)
    assert same is archive and len(archive) == 30


def slow_if_bare(design):
    if design[0] == 0:
        time.sleep(60)
    return additive(design)


def test_workers_give_the_same_archive_and_a_time_limit_is_an_infinite_error():
    here, there = Archive.empty(D, K), Archive.empty(D, K)
    designs = np.array(start()[::-1])
    simulate_all(additive, designs, here)
    simulate_all(slow_if_bare, designs, there, workers=2, timeout=3.0)
    np.testing.assert_array_equal(here.designs, there.designs)
    late = designs[:, 0] == 0
    np.testing.assert_array_equal(here.errors[~late], there.errors[~late])
    assert np.isinf(there.errors[late]).all()


def dies(folder, often, design):
    """The process of a design without its first switch ends: once, or whenever it is simulated."""
    if design[0] == 0 and (often or not (folder / "died").exists()):
        (folder / "died").touch()
        os._exit(9)
    return additive(design)


@pytest.mark.parametrize("often", [False, True])
def test_a_design_whose_process_is_killed_is_simulated_again_but_only_once(tmp_path, often):
    here, there = Archive.empty(D, K), Archive.empty(D, K)
    designs = np.array(start()[::-1])
    simulate_all(additive, designs, here)
    store = Store(tmp_path / "s.h5", D, K, "additive")
    simulate_all(partial(dies, tmp_path, often), designs, there, workers=1, store=store)
    lost = (designs[:, 0] == 0) & often
    np.testing.assert_array_equal(here.errors[~lost], there.errors[~lost])
    assert (
        (tmp_path / "died").exists() and np.isinf(there.errors[lost]).all() and len(store) == len(designs) - lost.sum()
    )


def test_a_budget_of_nothing_is_refused():
    with pytest.raises(ValueError, match="budget is 0"):
        search(additive, Switches(np.zeros(D, bool)), start(), [], 0, K)


def test_moves_of_switches_delete_and_add():
    space = Switches(np.arange(30) < 4)
    parent = (np.arange(30) < 20).astype(float)
    children = space.moves(parent[None], 400, np.random.default_rng(0))
    assert children[:, :4].all() and set(np.unique(children)) == {0, 1}
    assert (children[:, 20:].sum(1) > 0).mean() > 0.2  # additions
    assert (children[:, :20].sum(1) < 20).mean() > 0.5  # deletions


def test_coordinates_stay_in_their_box_and_a_bad_box_is_refused():
    space = Coordinates(np.zeros(3), np.array([1.0, 2.0, 3.0]), step=5.0)
    moved = space.moves(np.full((1, 3), 0.5), 50, np.random.default_rng(0))
    assert (moved >= 0).all() and (moved <= space.upper).all()
    with pytest.raises(ValueError, match="lie below"):
        Coordinates(np.ones(2), np.zeros(2))


def test_parents_are_the_best_and_some_that_nearly_are():
    archive = Archive.empty(2, 1)
    for design, objective, error in (([0, 0], 0, 9), ([0, 1], 1, 1.5), ([1, 0], 1.5, 0.5), ([1, 1], 2, 0)):
        archive.add(design, objective, [error])
    np.testing.assert_array_equal(parents(archive, 3), [[1, 0], [1, 1], [0, 1]])


def test_singles_are_the_errors_of_each_switch_alone():
    archive = Archive.empty(D, K)
    simulate_all(additive, np.array(start()), archive)
    np.testing.assert_allclose(singles(archive), EFFECTS + np.einsum("iik->ik", TOGETHER))


def test_kriging_interpolates_learns_single_effects_and_knows_what_it_does_not_know():
    archive = Archive.empty(D, K)
    simulate_all(additive, np.array(start()), archive)
    model = Kriging(archive.designs[0], archive.designs, archive.errors)
    mean, deviation = model(archive.designs)
    np.testing.assert_allclose(mean, archive.errors, atol=1e-2)
    np.testing.assert_allclose(model.flips(np.random.default_rng(0), 0.0), archive.errors[1:], atol=1e-2)
    generator = np.random.default_rng(1)
    far = np.array([d for d in (generator.random((60, D)) > 0.3).astype(float) if d.sum() < D - 2])
    truth = np.array([additive(d)[1] for d in far])
    mean, deviation = model(far)
    z = (truth - mean) / deviation
    assert deviation.min() > 1e-3 and 0.1 < np.sqrt((z**2).mean()) < 4
    assert np.sqrt(((truth - mean) ** 2).mean()) < 0.5 * truth.std()


def test_kriging_takes_errors_that_were_not_asked_for():
    archive = Archive.empty(D, K)
    simulate_all(additive, np.array(start()), archive)
    errors = archive.errors.copy()
    errors[5, 2:] = np.nan
    model = Kriging(archive.designs[0], archive.designs, errors)
    mean, deviation = model(archive.designs)
    assert np.isfinite(mean).all() and deviation[5, 2:].min() > 5 * deviation[5, :2].max()


def test_integer_programmes_reach_twice_as_far_as_they_last_led():
    archive = Archive.empty(D, K)
    simulate_all(additive, np.array(start()), archive)
    best, none = archive.designs[archive.best], np.zeros(D, bool)
    alone, last = Archive.empty(D, K), Archive.empty(D, K)
    simulate_all(additive, best[None], alone)  # of the 12 switches half may be flipped at first
    simulate_all(additive, np.array([*(d for d in start() if (d != best).any()), best]), last)  # one was, so then two
    programmes = Integer(around=1, deepest=1)
    far = [programmes(a, Switches(none), 6, np.random.default_rng(2)) for a in (alone, last)]
    furthest = [np.abs(proposed - best).sum(1).max() for proposed in far]
    assert furthest[1] <= 2 < furthest[0] <= 6


def test_switches_are_exchanged_where_no_deletion_leads_on():
    effects = np.random.default_rng(7).standard_normal((D, 2)) * 0.96

    def cancelling(design):
        off = 1 - np.asarray(design)
        return float(np.sum(design)), off @ effects + np.einsum("i,j,ijk->k", off, off, TOGETHER[:, :, :2])

    feasible = {d for d in product((0.0, 1.0), repeat=D) if np.abs(cancelling(np.array(d))[1]).max() <= 1}
    stuck = [d for d in feasible if not any((*d[:i], 0.0, *d[i + 1 :]) in feasible for i in range(D) if d[i])]
    trap, smallest = np.array(max(stuck, key=sum)), min(sum(d) for d in feasible if sum(d) >= 2)
    assert trap.sum() >= smallest + 4

    def best(proposer, seed):
        archive = Archive.empty(D, 2)
        simulate_all(cancelling, np.array([trap, *np.abs(trap - np.eye(D))]), archive)
        budget = len(archive) + 16
        search(cancelling, Switches(np.zeros(D, bool)), [], [proposer], budget, 2, 4, seed, archive=archive)
        return archive.objectives[archive.best]

    assert all(best(Integer(patience=0, deepest=4), seed) <= smallest for seed in range(3))
    assert np.mean([best(RandomMoves(), seed) for seed in range(3)]) > smallest + 2


def test_integer_programmes_refuse_points_of_a_box():
    archive = Archive.empty(2, 1)
    archive.add([0.5, 0.5], 1.0, [0.0])
    with pytest.raises(TypeError, match="need Switches"):
        Integer()(archive, Coordinates(np.zeros(2), np.ones(2)), 1, np.random.default_rng(0))


def test_an_ensemble_fits_ignores_what_is_missing_and_is_less_sure_far_away():
    generator = np.random.default_rng(0)
    x = generator.uniform(-1, 1, (120, 2))
    y = np.stack([x[:, 0] - 2 * x[:, 1], np.sin(3 * x[:, 0])], 1)
    holes = y.copy()
    holes[::3, 1] = np.nan
    ensemble = Ensemble(2, 2, 5, 24, torch.Generator().manual_seed(0))
    ensemble.train_on(x, holes, steps=400)
    with torch.no_grad():
        near = ensemble.predict(torch.as_tensor(x, dtype=torch.float32))
        far = ensemble.predict(torch.tensor([[6.0, 6.0]]))
    assert np.abs(near.mean.numpy() - y).max() < 0.3
    assert far.deviation[0, 1] > 3 * near.deviation[:, 1].median()
    with pytest.raises(ValueError, match="members is 1"):
        Ensemble(2, 2, 1, 8, torch.Generator())


def test_a_model_tells_feasible_from_infeasible():
    archive = Archive.empty(D, K)
    generator = np.random.default_rng(2)
    designs = np.concatenate([start(), (generator.random((80, D)) > generator.random((80, 1)) * 0.5).astype(float)])
    simulate_all(additive, np.unique(designs, axis=0), archive)
    fitted = Model(cost=total, additive=False).fit(archive, generator)
    with torch.no_grad():
        cost, feasible, worst = fitted(torch.as_tensor(archive.designs, dtype=torch.float32))
    np.testing.assert_allclose(cost, archive.designs.sum(1))
    assert feasible[archive.feasible].mean() > feasible[~archive.feasible].mean() + 0.3
    assert np.corrcoef(worst, np.minimum(archive.worst, 3))[0, 1] > 0.7
