"""The metrics of mechanism reduction beside reactors and flames that are built here with Cantera alone."""

from dataclasses import replace

import cantera as ct
import numpy as np
import pytest

from sciml.chemistry.conditions import Conditions
from sciml.chemistry.evaluation import Assembled, Evaluation, error_table
from sciml.chemistry.mechanism import Mechanism
from sciml.chemistry.metrics import Burnt, Corners, Extinction, FlameSpeed, IgnitionDelay, Profiles, StirredReactor
from sciml.chemistry.submechanism import Parts

TABLE = Conditions.grid("H2", [1200.0], [1.0], [0.5])
FEW = ("H2", "H", "O", "O2", "OH", "H2O", "HO2", "N2")


@pytest.fixture(scope="module")
def hydrogen():
    return Mechanism("h2o2.yaml")


@pytest.fixture(scope="module")
def part(hydrogen):
    parts = Parts(hydrogen)
    return Assembled(parts.assemble(parts.mask(FEW)))


@pytest.fixture(scope="module")
def dead(hydrogen):
    """Without H nothing burns."""
    parts = Parts(hydrogen)
    return Assembled(parts.assemble(~parts.mask(["H"])))


def gas_of(mechanism, T):
    gas = ct.Solution(thermo="ideal-gas", kinetics="gas", transport_model="mixture-averaged",
                      species=mechanism.gas.species(), reactions=mechanism.gas.reactions())  # fmt: skip
    gas.TP = T, ct.one_atm
    gas.set_equivalence_ratio(0.5, "H2", "O2:1, N2:3.76")
    return gas


def stirred(mechanism, time, inlet=500.0):
    """Temperature of a reactor of constant volume with a valve, after its residence time was shortened to `time`."""
    gas = gas_of(mechanism, inlet)
    feed, exhaust = ct.Reservoir(gas, clone=True), ct.Reservoir(gas, clone=True)
    gas.equilibrate("HP")
    reactor = ct.IdealGasReactor(gas, clone=True)
    now = [0.0]
    inflow = ct.MassFlowController(feed, reactor, mdot=lambda t: reactor.mass / now[0])
    ct.PressureController(reactor, exhaust, primary=inflow, K=0.1)
    net = ct.ReactorNet([reactor])
    end = 0.0
    for factor in (8, 4, 2, 1.4, 1.2, 1.1, 1):
        now[0] = factor * time
        end += 100 * now[0]
        net.reinitialize()
        net.advance(end)
    return reactor.T


def test_stirred_reactors_are_those_of_cantera(hydrogen, part):
    metric = StirredReactor(residence=2e-4)
    full, less = (metric.measure(m, TABLE, None) for m in (hydrogen, part))
    expected = [stirred(m, 2e-4) for m in (hydrogen, part)]
    assert full == pytest.approx(expected[0], rel=1e-3) and less == pytest.approx(expected[1], rel=1e-3)
    assert metric.errors(less, full) == pytest.approx(10 * (expected[1] / expected[0] - 1), abs=0.01)


def test_reactors_burn_just_above_the_extinction_time_and_not_below(hydrogen, part):
    metric = Extinction()
    reference = metric.measure(hydrogen, TABLE, None)
    for mechanism, given in ((hydrogen, None), (part, reference)):
        time = metric.measure(mechanism, TABLE, given)[0]
        assert stirred(mechanism, 1.03 * time) > 1000 and stirred(mechanism, 0.97 * time) < 510


def test_flame_speeds_are_those_of_cantera_from_their_own_start(hydrogen, part):
    metric = FlameSpeed(slope=0.1, curve=0.2)
    started = metric.started(hydrogen, TABLE)
    full = started.measure(hydrogen, TABLE, None)
    less = started.measure(part, TABLE, full)
    expected = []
    for mechanism in (hydrogen, part):
        flame = ct.FreeFlame(gas_of(mechanism, 300.0), width=0.03)
        flame.set_refine_criteria(ratio=3, slope=0.1, curve=0.2)
        flame.solve(loglevel=0, auto=True)
        expected.append(flame.velocity[0])
    assert full == pytest.approx(expected[0], rel=0.03) and less == pytest.approx(expected[1], rel=0.03)
    assert metric.errors(less, full) == pytest.approx(10 * (expected[1] / expected[0] - 1), abs=0.15)


def test_profiles_are_those_of_cantera(hydrogen, part):
    metric = Profiles(("H2O", "OH"), delays=(0.9, 1.1, 2.0))
    full = metric.measure(hydrogen, TABLE, None)
    less = metric.measure(part, TABLE, full)
    shapes = []
    for mechanism in (hydrogen, part):
        gas = gas_of(mechanism, 1200.0)
        reactor = ct.IdealGasConstPressureReactor(gas, clone=False)
        net = ct.ReactorNet([reactor])
        net.rtol, net.atol = 1e-9, 1e-15
        rows = []
        for factor in metric.delays:
            net.advance(factor * full[0])
            rows.append(gas["H2O", "OH"].X)
        shapes.append(np.array(rows))
    scaled = (shapes[1] - shapes[0]) / (0.1 * shapes[0].max(0))
    assert metric.errors(less, full)[1:] == pytest.approx(scaled.reshape(-1), abs=0.02)


@pytest.mark.parametrize(
    "metric",
    [
        IgnitionDelay(),
        StirredReactor(),
        Extinction(),
        FlameSpeed(slope=0.3, curve=0.4),
        Profiles(("H2O",), delays=(1.1,)),
    ],
)
def test_what_does_not_burn_has_errors_out_of_tolerance_and_nothing_raises(hydrogen, dead, metric):
    evaluate = Evaluation(hydrogen, TABLE, [metric])
    errors = evaluate(np.array([float(s != "H") for s in hydrogen.species]))[1]
    assert np.nanmax(np.abs(errors)) > 2
    if not isinstance(metric, Profiles):
        assert np.isinf(errors).all()
    assert np.abs(evaluate(np.ones(hydrogen.n_species))[1]).max() < 0.05
    assert np.isfinite(Burnt().measure(dead, TABLE, None)).all()


def test_a_charge_that_burns_longer_than_it_takes_to_ignite_has_a_delay(hydrogen):
    lean = Conditions.grid("H2", [1600.0], [0.5], [0.4])
    truth = hydrogen.ignition(lean.states(hydrogen)[0]).delay
    measured = IgnitionDelay().measure(hydrogen, lean, np.array([truth]))  # as a search does, with a limit
    assert measured == pytest.approx([truth], rel=2e-3)


def test_corners_lie_beyond_the_table_where_the_parent_ignites_and_their_errors_are_those_of_the_delays(hydrogen, part):
    table = Conditions.grid("H2", [1000.0, 1300.0], [1.0], [0.5, 1.0])
    metric = Corners(IgnitionDelay(0.1, rtol=1e-8, atol=1e-14), beyond=2.0).started(hydrogen, table)
    T, p, phi = np.array(metric.points).T
    assert len(T) == 4 and set(p) == {101325.0}
    step = 0.1 * (1 / 1000 - 1 / 1300)
    assert np.unique(T) == pytest.approx([1 / (1 / 1000 + step), 1 / (1 / 1300 - step)])
    assert np.unique(phi) == pytest.approx([0.5 / 2**0.1, 2**0.1])
    reference = metric.measure(hydrogen, table, None)
    states = Conditions("H2", metric.points).states
    truth = [m.ignition(state).delay for m in (hydrogen, part) for state in states(m)]
    found = metric.errors(metric.measure(part, table, reference), reference)
    assert found == pytest.approx((np.array(truth[4:]) / truth[:4] - 1) / 0.2, abs=2e-3)
    loose = replace(metric, metric=IgnitionDelay(0.1, rtol=1e-2, atol=1e-8))  # of a search, not of its table
    (row,) = error_table(hydrogen, part, table, [loose])
    assert row["max"] == pytest.approx(np.abs(np.array(truth[4:]) / truth[:4] - 1).max(), rel=1e-2)
    assert all(label.startswith("ignition delay beyond the table, ") for label in metric.labels(table))
    cold = Corners(IgnitionDelay(), widen=2.4).started(hydrogen, table)  # at 640 K nothing ignites, 4600 K is too hot
    assert cold.points == ()
    alone = Conditions.grid("H2", [1200.0], [1.0], [1.0])
    evaluate = Evaluation(hydrogen, alone, [IgnitionDelay(), Corners(IgnitionDelay())])
    assert evaluate.size == 1  # one point has no beyond
    with pytest.raises(ValueError, match="beyond is -1"):
        Corners(IgnitionDelay(), beyond=-1.0)


def test_once_a_charge_does_not_ignite_the_others_are_not_measured(hydrogen):
    table = Conditions.grid("H2", [1100.0, 1300.0], [1.0], [1.0])
    errors = Evaluation(hydrogen, table, [IgnitionDelay()])(np.array([float(s != "H") for s in hydrogen.species]))[1]
    assert np.isposinf(errors[0]) and np.isnan(errors[1])


def test_a_parent_that_does_not_ignite_everywhere_is_compared_where_it_does(hydrogen, part):
    table = Conditions.grid("H2", [500.0, 1200.0], [1.0], [1.0])
    (row,) = error_table(hydrogen, part, table, [IgnitionDelay()])
    hot = Conditions.grid("H2", [1200.0], [1.0], [1.0])
    full, less = (m.ignition(hot.states(m)[0]).delay for m in (hydrogen, part))
    assert row["conditions"] == 1 and row["signed mean"] == pytest.approx(less / full - 1, abs=1e-3)
    lean = Conditions.grid("H2", [1200.0], [1.0], [0.05])  # no reactor burns that, in whatever time
    assert np.isposinf(Extinction().measure(part, lean, np.array([np.inf])))


def test_the_first_of_two_stages_stands_behind_the_delays_and_the_whole_mechanism_has_no_error():
    dodecane = Mechanism("nDodecane_Reitz.yaml", "nDodecane_IG")
    table = Conditions.grid("c12h26", [800.0], [20.0], [1.0], "o2:1, n2:3.76")
    metric = IgnitionDelay(0.1, two_stage=True)
    delay, first = values = metric.measure(dodecane, table, None)
    assert [label.split(",")[0] for label in metric.labels(table)] == ["ignition delay", "first stage"]
    times = np.linspace(0, 1.5 * delay, 3000)
    T = dodecane.trajectory(table.states(dodecane)[0], times)[:, 0]
    rate = np.gradient(T, times)
    cold = T < 1000  # the cool flame ends below
    assert times[np.argmax(rate)] == pytest.approx(delay, rel=5e-3)
    assert times[cold][np.argmax(rate[cold & (times < 0.6 * delay)])] == pytest.approx(first, rel=2e-2)
    assert np.abs(metric.errors(metric.measure(dodecane, table, values), values)).max() < 1e-3


def test_a_profile_of_what_the_parent_lacks_is_compared_as_it_is():
    metric = Profiles(("H2O", "AR"), tolerance=0.1, delays=(1.0,))
    errors = metric.errors(np.array([1e-3, 0.21, 0.0]), np.array([1e-3, 0.2, 0.0]))
    assert errors == pytest.approx([0.0, 0.5, 0.0])


@pytest.mark.parametrize(("option", "said"), [({"kelvin": -5.0}, "temperatures"), ({"fraction": 0.0}, "fractions")])
def test_burnt_gas_needs_tolerances_that_can_be_met(option, said):
    with pytest.raises(ValueError, match=rf"burnt .*{said}.* must be a positive number"):
        Burnt(**option)
