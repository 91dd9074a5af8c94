"""Reduction of small mechanisms to parts known by enumeration; evaluation of masks against Cantera alone."""

import math
from dataclasses import replace
from itertools import product

import cantera as ct
import numpy as np
import pytest

from sciml.archive import Store
from sciml.chemistry.conditions import Conditions
from sciml.chemistry.evaluation import Evaluation, error_table, protected
from sciml.chemistry.graphs import ranking, samples
from sciml.chemistry.mechanism import Mechanism
from sciml.chemistry.metrics import Burnt, Extinction, IgnitionDelay, Profiles, StirredReactor
from sciml.chemistry.reduction import Options, count, greedy, reduce, sensitivity, single_harm, sweep
from sciml.chemistry.submechanism import submechanism
from sciml.proposers import Model

TABLE = Conditions.grid("H2", [1100.0, 1300.0], [1.0], [1.0])


@pytest.fixture(scope="module")
def hydrogen():
    return Mechanism("h2o2.yaml")


@pytest.fixture(scope="module")
def evaluate(hydrogen):
    return Evaluation(hydrogen, TABLE, [Burnt(kelvin=10.0), IgnitionDelay(0.1)])


@pytest.fixture(scope="module")
def fixed(evaluate, hydrogen):
    return evaluate.parts.mask(protected(hydrogen, TABLE))


@pytest.fixture(scope="module")
def smallest(evaluate, fixed):
    free = np.flatnonzero(~fixed)
    sizes = []
    for kept in product((0.0, 1.0), repeat=len(free)):
        design = np.ones(len(fixed))
        design[free] = kept
        size, errors = evaluate(design)
        if not np.isnan(errors).any() and np.abs(errors).max() <= 1:
            sizes.append(size)
    return int(min(sizes))


def mask_without(mechanism, *gone):
    return np.array([float(name not in gone) for name in mechanism.species])


# ------------------------------------------------------------------ evaluation


def cantera_delay(mechanism, T, p, phi):
    """The largest temperature difference of neighbouring steps, with Cantera alone."""
    gas = ct.Solution(thermo="ideal-gas", kinetics="gas", species=mechanism.gas.species(),
                      reactions=mechanism.gas.reactions())  # fmt: skip
    gas.TP = T, p
    gas.set_equivalence_ratio(phi, "H2", "O2:1, N2:3.76")
    reactor = ct.IdealGasConstPressureReactor(gas, clone=False)
    net = ct.ReactorNet([reactor])
    net.rtol, net.atol, net.max_time_step = 1e-9, 1e-15, 1e-6
    times, temperatures = [0.0], [T]
    while times[-1] < 1e-3:
        net.step()
        times.append(net.time)
        temperatures.append(reactor.T)
    t, T = np.array(times), np.array(temperatures)
    at = np.argmax(np.diff(T) / np.diff(t))
    return 0.5 * (t[at] + t[at + 1])


def test_delays_and_their_errors_are_those_of_cantera(hydrogen, evaluate):
    reduced = submechanism(hydrogen, [s for s in hydrogen.species if s not in ("AR", "H2O2")])
    design = mask_without(hydrogen, "AR", "H2O2")
    errors = evaluate(design)[1][-2:]
    for error, (T, p, phi) in zip(errors, TABLE.points, strict=True):
        full, part = (cantera_delay(m, T, p, phi) for m in (hydrogen, reduced))
        assert 0.1 * error == pytest.approx(part / full - 1, abs=5e-3)


def test_burnt_gas_is_the_equilibrium_of_cantera(hydrogen):
    metric = Burnt(products=("H2O",))
    values = metric.measure(hydrogen, TABLE, None)
    gas = ct.Solution("h2o2.yaml")
    for k, T in enumerate((300.0, 1100.0, 1300.0)):
        gas.TP = T, ct.one_atm
        gas.set_equivalence_ratio(1.0, "H2", "O2:1, N2:3.76")
        gas.equilibrate("HP")
        assert values[k] == pytest.approx(gas.T, rel=1e-6) and values[3 + k] == pytest.approx(gas["H2O"].X[0], rel=1e-4)
    assert metric.errors(values + 20.0, values)[:3] == pytest.approx(2.0)


def test_a_right_delay_with_a_wrong_flame_is_wrong():
    """The negative control of the burnt gas: methane without CO2 ignites in time and burns too cold."""
    gri = Mechanism("gri30.yaml")
    table = Conditions.grid("CH4", [1500.0], [1.0], [1.0])
    both = Evaluation(gri, table, [Burnt(), IgnitionDelay(0.1)], reject=1e9)
    errors = both(mask_without(gri, "CO2"))[1]
    labels = np.array(both.labels)
    assert abs(errors[labels == "burnt temperature, 300 K, 1 atm, phi 1"][0]) > 10
    assert abs(errors[-1]) < 1


def test_masks_that_fail_are_infinite_and_never_raise(hydrogen, evaluate):
    for gone in (("H",), ("O", "OH", "H"), tuple(hydrogen.species)):
        size, errors = evaluate(mask_without(hydrogen, *gone))
        assert size == hydrogen.n_species - len(gone) and np.nanmax(np.abs(errors)) > 1
    # without the burnt gas to reject it first, what does not ignite is infinite, and what follows is not measured
    errors = Evaluation(hydrogen, TABLE, [IgnitionDelay()])(mask_without(hydrogen, "H"))[1]
    assert np.isposinf(errors[0]) and np.isnan(errors[1:]).all()


def test_an_early_metric_out_of_tolerance_spares_the_later(hydrogen, evaluate):
    errors = evaluate(mask_without(hydrogen, "H2O"))[1]
    assert np.nanmax(np.abs(errors)) > 2 and np.isnan(errors[-2:]).all()


def test_the_full_mechanism_has_no_error(evaluate):
    assert np.abs(evaluate(np.ones(evaluate.dim))[1]).max() < 1e-6


def test_stirred_reactors_and_profiles_compare_the_full_mechanism_with_itself(hydrogen):
    metrics = [StirredReactor(0.1), Profiles(("H2O", "OH"), delays=(0.5, 2.0))]
    evaluate = Evaluation(hydrogen, Conditions.grid("H2", [1200.0], [1.0], [1.0]), metrics)
    assert np.abs(evaluate(np.ones(evaluate.dim))[1]).max() < 1e-3
    assert len(evaluate.labels) == evaluate.size == 1 + 1 + 4
    without = evaluate(mask_without(hydrogen, "HO2"))[1]
    assert np.nanmax(np.abs(without)) > 1e-2


@pytest.mark.parametrize(
    ("metrics", "table", "said"),
    [
        ([IgnitionDelay(1e-7)], TABLE, "solver's own noise"),
        ([Extinction(1e-4)], TABLE, "measured twice"),
        ([IgnitionDelay()], Conditions.grid("H2", [500.0], [1.0], [1.0]), "full mechanism itself has no"),
        ([IgnitionDelay()], Conditions.grid("C3H8", [1200.0], [1.0], [1.0]), "C3H8"),
    ],
)
def test_what_cannot_be_compared_is_refused(hydrogen, metrics, table, said):
    with pytest.raises(ValueError, match=said):
        Evaluation(hydrogen, table, metrics)


def test_protected_species_are_those_of_fuel_and_oxidiser_and_named_ones(hydrogen):
    assert protected(hydrogen, TABLE, ("OH",)) == ("H2", "O2", "N2", "OH")
    with pytest.raises(ValueError, match="XYZ"):
        protected(hydrogen, TABLE, ("XYZ",))


def test_the_fingerprint_knows_mechanism_conditions_and_tolerances(hydrogen, evaluate):
    one = Evaluation(hydrogen, TABLE, [IgnitionDelay(0.1)])
    others = [
        Evaluation(hydrogen, TABLE, [IgnitionDelay(0.2)]),
        Evaluation(hydrogen, Conditions.grid("H2", [1100.0], [1.0], [1.0]), [IgnitionDelay(0.1)]),
        Evaluation(submechanism(hydrogen, [n for n in hydrogen.species if n != "AR"]), TABLE, [IgnitionDelay(0.1)]),
    ]
    assert len({e.fingerprint for e in [one, evaluate, *others]}) == 5
    assert Evaluation(hydrogen, TABLE, [IgnitionDelay(0.1)]).fingerprint == one.fingerprint


# ------------------------------------------------------------------ conditions


def test_conditions_from_files(tmp_path):
    (tmp_path / "grid.yaml").write_text("temperatures: [1000, 1200]\npressures: [1, 10]\nphis: [1.0]\n")
    grid = Conditions.from_yaml(tmp_path / "grid.yaml", "H2")
    assert len(grid.points) == 4 and grid.points[-1] == (1200.0, 10 * 101325.0, 1.0)
    (tmp_path / "points.yaml").write_text("fuel: CH4\npoints:\n- [1000, 1, 0.5]\n- [1200, 10, 1]\n")
    points = Conditions.from_yaml(tmp_path / "points.yaml", "H2")
    assert points.fuel == "CH4" and points.points[0] == (1000.0, 101325.0, 0.5)
    for content in ("temperatures: [1000]\n", "points: [[1000, 1]]\n", "- 1\n", "a: [\n", "points: [[-1, 1, 1]]\n"):
        (tmp_path / "bad.yaml").write_text(content)
        with pytest.raises(ValueError, match="conditions"):
            Conditions.from_yaml(tmp_path / "bad.yaml", "H2")
    lists = "temperatures: [1200]\npressures: [1]\nphis: [1]\n"
    for content, said in (
        (lists + "oxidizer: 'O2:1, AR:3.76'\n", "it has temperatures, pressures, phis, oxidizer"),
        (lists + "points: [[1000, 1, 1]]\n", "phis, points"),
        (lists + "fuel: {H2: 1}\n", "fuel is {'H2': 1}, but must be a text"),
        (lists.replace("[1200]", "1200"), "temperatures is 1200, but must be a list"),
        (lists.replace("[1200]", "'1200'"), "temperatures is '1200', but must be a list"),
        (lists.replace("[1200]", "[hot]"), "hot"),
        (lists.replace("[1200]", "[.nan]"), "positive"),
        (lists.replace("phis: [1]", "phis: []"), "no points"),
        (lists.replace("pressures: [1]", "pressures: [101325]"), "pressures are given in atm"),
        ("points: [[1000, 1]]\n", r"points has \[1000, 1\]"),
        ("", "it has none of them"),
    ):
        (tmp_path / "bad.yaml").write_text(content)
        with pytest.raises(ValueError, match=rf"bad\.yaml: .*{said}"):
            Conditions.from_yaml(tmp_path / "bad.yaml", "H2")
    with pytest.raises(FileNotFoundError, match=r"none\.yaml does not exist"):
        Conditions.from_yaml(tmp_path / "none.yaml", "H2")


def test_held_out_conditions_lie_between_and_beyond():
    table = Conditions.grid("H2", [1000.0, 1250.0], [1.0, 4.0], [0.5, 1.0])
    T, p, phi = np.array(table.between().points).T
    assert np.unique(T) == pytest.approx([1 / 1.01e-3, 1111.111, 1 / 0.79e-3], rel=1e-3)
    assert np.unique(p / 101325.0)[1] == pytest.approx(2.0) and np.unique(phi)[1] == pytest.approx(0.5**0.5)
    assert not set(table.points) & set(table.between().points)


def test_rows_that_are_no_grid_have_few_held_out_conditions_beside_them():
    """Those of a grid through 30 rows would be 32 cubed."""
    along = np.linspace(0, 1, 30)
    rows = tuple(zip(1 / (1e-3 - 3e-4 * along), 1e5 * 20**along, 0.5 * 4**along, strict=True))
    T, p, phi = np.array(Conditions("H2", rows).between().points).T
    there = (1e-3 - 1 / T) / 3e-4  # where on the line that the rows lie on
    for other in (np.log(p / 1e5) / np.log(20), np.log(phi / 0.5) / np.log(4)):
        assert other == pytest.approx(there)
    centres, moved = (along[:-1] + along[1:]) / 2, along + 0.1 * (along - 0.5)
    assert np.sort(there) == pytest.approx(np.sort([*centres, *moved])) and there.max() == pytest.approx(1.05)
    with pytest.raises(ValueError, match="one row only"):
        Conditions("H2", (rows[0], rows[0])).between()


# ------------------------------------------------------------------ search


@pytest.mark.parametrize("proposals", ["integer", "network", "inverse", "random"])
def test_every_way_ends_at_the_smallest_part(evaluate, fixed, smallest, proposals):
    found = reduce(evaluate, fixed, Options(45, proposals, batch=8, model=Model(cost=count, steps=100)))
    assert found.size == smallest and found.error <= 1 and found.simulated <= 45
    assert found.mask[fixed].all()


def test_greedy_and_graph_methods_verify_what_they_return(evaluate, fixed, hydrogen, smallest):
    rank = ranking(hydrogen, samples(hydrogen, TABLE, 10), ["H2", "O2", "N2"], "DRGEP")
    results = [
        greedy(evaluate, fixed, 60),
        sweep(evaluate, fixed, rank, 60),
        sensitivity(evaluate, fixed, rank, 60),
        reduce(evaluate, fixed, Options(40), rankings=[rank]),
    ]
    for found in results:
        assert smallest <= found.size < hydrogen.n_species
        errors = evaluate(found.mask.astype(float))[1]
        assert np.abs(errors).max() <= 1
    assert results[0].size == results[-1].size == smallest


def test_a_killed_reduction_repeats_its_way_through_the_cache(evaluate, fixed, tmp_path):
    whole = reduce(evaluate, fixed, Options(30), seed=1)
    store = Store(tmp_path / "m.h5", evaluate.dim, evaluate.size, evaluate.fingerprint)
    calls = []

    class Killed(BaseException):
        pass

    class Counting:
        size = evaluate.size

        def __call__(self, design):
            if len(calls) == 17:
                raise Killed
            calls.append(design)
            return evaluate(design)

    with pytest.raises(Killed):
        reduce(Counting(), fixed, Options(30), seed=1, store=store)
    again = Store(tmp_path / "m.h5", evaluate.dim, evaluate.size, evaluate.fingerprint)
    assert len(again) == 17
    resumed = reduce(evaluate, fixed, Options(30), seed=1, store=again)
    np.testing.assert_array_equal(resumed.archive.designs, whole.archive.designs)
    np.testing.assert_array_equal(resumed.archive.errors, whole.archive.errors)


def test_a_cache_of_another_mechanism_is_refused(evaluate, hydrogen, tmp_path):
    Store(tmp_path / "m.h5", evaluate.dim, evaluate.size, evaluate.fingerprint)
    other = Evaluation(submechanism(hydrogen, hydrogen.species), TABLE, [IgnitionDelay(0.2)])
    with pytest.raises(ValueError, match="belongs to another mechanism"):
        Store(tmp_path / "m.h5", other.dim, other.size, other.fingerprint)


def test_reactions_are_eliminated_among_the_species_kept(evaluate, fixed, hydrogen):
    species = reduce(evaluate, fixed, Options(40)).mask
    inner = Evaluation(hydrogen, TABLE, evaluate.metrics, species=species)
    assert inner.dim == int(inner.present.sum()) < hydrogen.n_reactions
    found = reduce(inner, np.zeros(inner.dim, bool), Options(60))
    kept_species, kept = inner.masks(found.mask)
    assert found.size < inner.dim and kept.sum() == found.size and not (kept & ~inner.present).any()
    reduced = submechanism(hydrogen, [s for s, k in zip(hydrogen.species, kept_species, strict=True) if k], kept)
    for row in error_table(hydrogen, reduced, TABLE, evaluate.metrics):
        assert row["max"] <= 1.01 * row["tolerance"] and abs(row["signed mean"]) <= row["mean"] <= row["max"]


def test_a_whole_that_is_out_of_tolerance_is_not_searched():
    class Wrong:
        size, calls = 1, 0

        def __call__(self, design):
            self.calls += 1
            return float(sum(design)), np.array([1.5])

    wrong = Wrong()
    with pytest.raises(ArithmeticError, match="the full mechanism does not meet every tolerance"):
        reduce(wrong, np.zeros(9, bool), Options(100))
    assert wrong.calls == 1


def test_harm_is_that_of_single_deletions(evaluate, fixed, hydrogen):
    found = greedy(evaluate, fixed, 12)
    harm = dict(zip(hydrogen.species, single_harm(found.archive, fixed), strict=True))
    assert harm["AR"] < 1e-2 and harm["H2O"] > 1 and math.isinf(harm["N2"])


def test_bad_options_are_refused(hydrogen):
    for options, said in (
        ({"budget": 0}, "budget"),
        ({"proposals": "luck"}, "proposals"),
        ({"polish": 1.0}, "polish"),
        ({"workers": -3}, "workers is -3"),
        ({"timeout": 5.0}, "timeout is 5"),
    ):
        with pytest.raises(ValueError, match=said):
            Options(**options)
    with pytest.raises(ValueError, match="tolerance is -1"):
        replace(IgnitionDelay(), tolerance=-1.0)
    with pytest.raises(ValueError, match="reject is 0"):
        Evaluation(hydrogen, TABLE, [IgnitionDelay()], reject=0.5)
