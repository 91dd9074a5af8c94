"""Mechanisms, reactors and ignition against Cantera used by hand, conservation laws and closed forms."""

import math
import pickle
import re

import cantera as ct
import numpy as np
import pytest

from sciml.chemistry import Mechanism
from sciml.chemistry.ignition import audit_ignition, peak, stages
from sciml.chemistry.reactors import Integrator

ATM = 101325.0


@pytest.fixture(scope="module")
def h2():
    return Mechanism("h2o2.yaml")


@pytest.fixture(scope="module")
def charge(h2):
    return h2.state([1100.0, 1300.0], ATM, "H2", phi=[0.5, 1.0])


def test_state_is_the_mixture_that_the_equivalence_ratio_says(h2):
    state = h2.state(1000.0, ATM, "H2", "O2:1, N2:3.76", phi=0.5)
    moles = state[2:] / h2.molar_masses
    hydrogen, oxygen, nitrogen = (moles[h2.index(s)] for s in ("H2", "O2", "N2"))
    assert hydrogen / oxygen == pytest.approx(1.0)  # phi 0.5 of H2 + O2/2
    assert nitrogen / oxygen == pytest.approx(3.76)
    assert state[:2].tolist() == [1000.0, ATM] and state[2:].sum() == pytest.approx(1, abs=1e-14)


def test_states_broadcast(h2):
    states = h2.state(np.array([[900.0], [1000.0]]), ATM, "H2", phi=np.array([0.5, 1.0, 2.0]))
    assert states.shape == (6, 12)
    assert states[4] == pytest.approx(h2.state(1000.0, ATM, "H2", phi=1.0), abs=0)


def test_names_differ_in_case_only_are_found(h2):
    assert h2.state(1000.0, ATM, "h2", "o2:1, n2:3.76") == pytest.approx(h2.state(1000.0, ATM), abs=0)


def test_advance_is_what_cantera_gives(h2, charge):
    after = h2.advance(charge, 1e-5)
    assert after.status.tolist() == [0, 0] and after.rebuilt == 0 and after.clipped > -1e-12
    gas = ct.Solution("h2o2.yaml")
    for before, state in zip(charge, after.states, strict=True):
        gas.TPY = before[0], before[1], before[2:]
        reactor = ct.IdealGasConstPressureMoleReactor(gas, clone=False)
        net = ct.ReactorNet([reactor])
        net.rtol, net.atol = 1e-11, 1e-22
        net.advance(1e-5)
        assert state[0] == pytest.approx(gas.T, abs=1e-5)
        np.testing.assert_allclose(state[2:], gas.Y, rtol=5e-5, atol=1e-13)


@pytest.mark.parametrize(
    ("reactor", "kept"), [("constant-pressure", "enthalpy_mass"), ("constant-volume", "energy_mass")]
)
def test_advance_keeps_elements_and_energy(h2, charge, reactor, kept):
    import torch

    after = h2.advance(charge, 2e-4, reactor=reactor).states
    assert (after[:, 0] > charge[:, 0] + 500).all()
    np.testing.assert_allclose(h2.element_fractions(after), h2.element_fractions(charge), rtol=1e-10, atol=1e-16)
    energy = [getattr(h2.thermo, kept)(torch.tensor(s[:, 0]), torch.tensor(s[:, 2:])) for s in (charge, after)]
    torch.testing.assert_close(energy[1], energy[0], rtol=1e-6, atol=1.0)
    other = h2.advance(
        charge, 2e-4, reactor="constant-volume" if reactor == "constant-pressure" else "constant-pressure"
    )
    assert abs(other.states[:, 1] - after[:, 1]).max() > 1e4  # one changes the pressure, the other does not


def test_a_long_time_ends_in_equilibrium(h2, charge):
    assert h2.advance(charge, 1.0).states == pytest.approx(h2.equilibrium(charge), rel=1e-4, abs=1e-7)
    burnt = h2.equilibrium(charge)
    assert h2.advance(burnt, 1e-2).states == pytest.approx(burnt, rel=1e-6, abs=1e-8)


def test_a_failed_row_does_not_spoil_the_next_ones(h2, charge, monkeypatch):
    """A network that fails once on a valid state is rebuilt, the row repeated, and both are counted."""
    true, calls = Integrator._advance, []

    def failing(self, state, dt):
        calls.append(dt)
        if len(calls) in (2, 4, 5):  # row 1 fails once; row 2 fails on the fresh network too
            raise ct.CanteraError("no convergence")
        return true(self, state, dt)

    monkeypatch.setattr(Integrator, "_advance", failing)
    states = np.concatenate([charge, charge])
    after = h2.advance(states, 1e-6)
    assert after.status.tolist() == [0, 0, 2, 0]
    assert after.rescued == 1 and after.rebuilt == 3
    assert "no convergence" in after.reasons[2] and np.isnan(after.states[2]).all()
    assert after.states[3] == pytest.approx(after.states[1], rel=1e-9, abs=1e-14)


def test_an_integrator_that_cannot_is_a_status_not_an_exception(h2, charge, monkeypatch):
    start = Integrator.start

    def hobbled(self, state):
        start(self, state)
        self.net.max_steps = 2  # a true CVODES failure

    monkeypatch.setattr(Integrator, "start", hobbled)
    after = h2.advance(charge, 1e-4)
    assert after.status.tolist() == [2, 2] and "step" in after.reasons[0]


@pytest.mark.parametrize(
    ("column", "value", "said"),
    [
        (0, 150.0, "temperature 150 K"),
        (0, 9000.0, "temperature 9000 K"),
        (0, math.nan, "not a finite number"),
        (1, -1.0, "pressure -1 Pa"),
        (3, -0.01, "none may be negative"),
        (3, 0.5, "must sum to 1"),
    ],
)
def test_bad_states_are_refused_in_a_sentence(h2, charge, column, value, said):
    states = charge.copy()
    states[1, column] = value
    with pytest.raises(ValueError, match=f"state 1 .*{said}"):
        h2.advance(states, 1e-6)
    marked = h2.advance(states, 1e-6, strict=False)
    assert marked.status.tolist() == [0, 1] and said in marked.reasons[1]


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda m, s: m.advance(s[:, :-1], 1e-6), "states have shape"),
        (lambda m, s: m.advance(s, -1e-6), "dt is -1e-06"),
        (lambda m, s: m.advance(s, 1e-6, rtol=0.0), "rtol and atol"),
        (lambda m, s: m.advance(s, 1e-6, reactor="isothermal"), "reactor is 'isothermal'"),
        (lambda m, s: m.state(1000.0, ATM, "CH4"), "species 'CH4' is not in mechanism 'h2o2.yaml'"),
        (lambda m, s: m.state(1000.0, ATM, "H2:x"), "must look like"),
        (lambda m, s: m.state(1000.0, ATM, "H2:-1"), "not negative"),
        (lambda m, s: m.state(1000.0, ATM, "N2"), "no equivalence ratio|equivalence"),
        (lambda m, s: m.state(1000.0, ATM, phi=-1.0), "phi is -1"),
        (lambda m, s: m.trajectory(s, [0.0]), "starts from one"),
        (lambda m, s: m.trajectory(s[0], [1e-6, 0.0]), "do not decrease"),
        (lambda m, s: m.ignition(s[0], kind="CH"), "kind is 'CH'"),
        (lambda m, s: m.ignition(s[0], end=-1.0), "end is -1"),
        (lambda m, s: m.equilibrium(s[0], "SV"), "hold is 'SV'"),
        (lambda m, s: m.psr(s[0], 0.0), "residence_time is 0"),
    ],
)
def test_bad_input_is_a_sentence(h2, charge, call, said):
    with pytest.raises(ValueError, match=said) as caught:
        call(h2, charge)
    assert "\n" not in str(caught.value)


def test_missing_and_broken_files(tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere.yaml' was not found"):
        Mechanism("nowhere.yaml")
    broken = tmp_path / "broken.yaml"
    for text in ("phases: [", "no: phases", "phases: [{name: a, thermo: ideal-gas, species: [H2]}]", ""):
        broken.write_text(text)
        with pytest.raises(ValueError, match="cannot be read") as caught:
            Mechanism(broken)
        assert "\n" not in str(caught.value)
    with pytest.raises(ValueError, match="must be an ideal-gas"):
        Mechanism("nDodecane_Reitz.yaml")
    assert Mechanism("nDodecane_Reitz.yaml", "nDodecane_IG").n_species == 100
    with pytest.raises(ValueError, match="no reactions"):
        Mechanism("airNASA9.yaml")
    with pytest.raises(ValueError, match="source is empty"):
        Mechanism("")


def test_what_cannot_be_there_is_exactly_zero():
    gri = Mechanism("gri30.yaml")
    charge = gri.state([1400.0], ATM, "H2")
    carbon = np.concatenate([[False, False], gri.composition[:, gri.elements.index("C")] > 0])
    run = gri.ignition(charge[0])
    assert run.status == "ignited" and run.states[-1, 2 + gri.index("NO")] > 0
    found = (run.states, gri.advance(charge, 1e-4).states, gri.trajectory(charge[0], [1e-5, 1e-4]))
    assert not any(part[:, carbon].any() for part in found)


def test_another_phase_of_a_file_is_named_behind_it():
    found = Mechanism("nDodecane_Reitz.yaml#nDodecane_IG")
    same = Mechanism("nDodecane_Reitz.yaml", phase="nDodecane_IG")
    assert found.source == same.source == "nDodecane_Reitz.yaml#nDodecane_IG" and found.hash == same.hash
    assert pickle.loads(pickle.dumps(same)).hash == Mechanism(same.source).hash == found.hash
    with pytest.raises(ValueError, match=r"'nDodecane_RK' .* as in FILE#PHASE"):
        Mechanism("nDodecane_Reitz.yaml")
    with pytest.raises(ValueError, match="nDodecane_Reitz.yaml#none' cannot be read"):
        Mechanism("nDodecane_Reitz.yaml#none")


def test_a_mechanism_travels_and_keeps_its_hash(h2, tmp_path):
    other = pickle.loads(pickle.dumps(h2))
    assert other.hash == h2.hash and other.species == h2.species and other.gas is not h2.gas
    text = Mechanism.from_yaml(h2.to_yaml())
    again = pickle.loads(pickle.dumps(text))
    assert again.species == h2.species and again.n_reactions == h2.n_reactions
    changed = Mechanism.from_yaml(h2.to_yaml().replace("A: 1.2e+11", "A: 1.3e+11"))
    assert changed.hash != text.hash


@pytest.mark.filterwarnings("ignore:NasaPoly2", "ignore:Kinetics")
def test_inspection_sees_what_is_wrong_with_a_mechanism(h2):
    assert h2.inspection.warnings == ()
    assert (h2.inspection.species, h2.inspection.reactions) == (10, 29)
    text = h2.to_yaml()
    # CH2CHO of a published n-heptane mechanism has a lost minus sign like this one
    jump = Mechanism.from_yaml(text.replace("-1.9478151e-05", "1.9478151e-05"))
    assert set(jump.inspection.jumps) == {"H2"} and "polynomials of H2" in jump.inspection.warnings[0]
    one_way = Mechanism.from_yaml(text.replace("equation: H2 + O <=> H + OH", "equation: H2 + O => H + OH"))
    assert one_way.inspection.irreversible == 1


def test_inspection_sees_third_bodies_counted_twice_or_undeclared(h2):
    gas = h2.gas
    reactions = [
        ct.Reaction(equation="HO2 + M <=> H + O2 + M", rate={"A": 1e10, "b": 0, "Ea": 1e8}),
        ct.Reaction(equation="HO2 + AR <=> H + O2 + AR", rate={"A": 1e10, "b": 0, "Ea": 1e8}),
    ]
    others = [r for r in gas.reactions() if not r.equation.startswith("H + O2 +")]
    solution = ct.Solution(thermo="ideal-gas", kinetics="gas", species=gas.species(), reactions=others + reactions)
    text = solution.write_yaml()
    found = Mechanism.from_yaml(text).inspection
    assert found.duplicate_third_bodies == ("HO2 + AR <=> H + O2 + AR",)
    assert any("counted twice" in said for said in found.warnings) and found.undeclared_third_bodies == ()
    strange = text.replace("H2O: 15.4", "CO2: 15.4")
    strange = re.sub(r"( +)(kinetics: \w+)", r"\1\2\n\1skip-undeclared-third-bodies: true", strange, count=1)
    assert Mechanism.from_yaml(strange).inspection.undeclared_third_bodies == ("CO2",)


# ------------------------------------------------------------------ ignition


@pytest.mark.parametrize("shift", [-0.4, 0.0, 0.3])
def test_peak_of_a_parabola_is_exact_on_any_grid(shift):
    times = np.array([0.0, 0.7, 1.0, 1.6, 2.5])
    assert peak(times, 3 - 2 * (times - 1.1 - shift) ** 2) == pytest.approx(1.1 + shift, abs=1e-12)


def test_peak_at_an_end_is_that_end():
    assert peak([0.0, 1.0, 2.0], [3.0, 2.0, 1.0]) == 0.0


def test_ignition_delay_against_a_fine_uniform_trajectory(h2):
    state = h2.state(1200.0, ATM, "H2", phi=1.0)
    found = h2.ignition(state)
    times = np.linspace(0, 1.2e-4, 24001)
    T = h2.trajectory(state, times)[:, 0]
    assert found.status == "ignited"
    assert found.delay == pytest.approx(times[np.argmax(np.gradient(T, times))], abs=6e-9)
    assert found.times[-1] < 1e-3 and math.isnan(found.first_stage)


def test_delay_does_not_step_with_the_integrator(h2):
    """Delays of neighbouring temperatures lie on a smooth curve: third differences far below a step."""
    delays = np.log([h2.ignition(h2.state(T, ATM)).delay for T in np.linspace(1200, 1220, 6)])
    assert abs(np.diff(delays, 3)).max() < 1e-4


def test_ignition_at_constant_volume_is_another_one(h2):
    state = h2.state(1200.0, ATM)
    pressure, volume = (h2.ignition(state, reactor=r) for r in ("constant-pressure", "constant-volume"))
    assert volume.states[-1, 1] > 2 * ATM and pressure.states[-1, 1] == pytest.approx(ATM)
    T, rate = volume.states[:, 0], volume.rates
    steps = np.diff(volume.times)
    assert np.sum(steps * (rate[1:] + rate[:-1]) / 2) == pytest.approx(T[-1] - T[0], rel=0.02)


def test_what_does_not_ignite_has_an_infinite_delay(h2):
    cold = h2.ignition(h2.state(400.0, ATM), end=1e-3)
    assert cold.delay == math.inf and cold.status == "did not ignite" and cold.temperature == pytest.approx(400, abs=1)
    burnt = h2.ignition(h2.equilibrium(h2.state(1200.0, ATM)), end=1e-3)
    assert burnt.delay == math.inf


def test_hydroxyl_peaks_after_the_largest_heating(h2):
    state = h2.state(1200.0, ATM)
    assert h2.ignition(state).delay < h2.ignition(state, kind="OH").delay < 3 * h2.ignition(state).delay


def test_two_stages_of_a_known_curve():
    """The larger dT/dt may belong to the first stage; a ripple is no stage."""
    times = np.linspace(0, 10, 4001)

    def bump(at, width, height):
        return height * np.exp(-(((times - at) / width) ** 2))

    rate = bump(3.0, 0.1, 400.0) + bump(7.0, 0.8, 200.0) + bump(7.6, 0.05, 2.0) + bump(0.5, 0.01, 5.0) + 1e-3
    T = 800 + np.concatenate([[0], np.cumsum((rate[1:] + rate[:-1]) / 2 * np.diff(times))])
    first, main = stages(times, T, rate)
    assert first == pytest.approx(3.0, abs=1e-3) and main == pytest.approx(7.0, abs=0.02)
    single = bump(7.0, 0.8, 200.0) + 1e-3
    T = 800 + np.concatenate([[0], np.cumsum((single[1:] + single[:-1]) / 2 * np.diff(times))])
    assert math.isnan(stages(times, T, single)[0]) and stages(times, T, single)[1] == pytest.approx(7.0, abs=1e-3)


def test_noise_ignites_a_gas_without_initiation_and_the_audit_sees_it(h2):
    """Without H2 + O2 initiation the true radical level lies below the default tolerance."""
    gas = h2.gas
    slow = [r for r in gas.reactions() if "HO2" not in r.equation and "H2O2" not in r.equation]
    text = ct.Solution(thermo="ideal-gas", kinetics="gas", species=gas.species(), reactions=slow).write_yaml()
    mechanism = Mechanism.from_yaml(text)
    state = mechanism.state(1000.0, ATM)
    atol, change = audit_ignition(mechanism, state)
    assert atol < 1e-15 and change < 1e-3
    loose, tight = (mechanism.ignition(state, atol=a).delay for a in (1e-15, atol))
    assert abs(loose - tight) > 0.1 * tight
    assert audit_ignition(h2, h2.state(1200.0, ATM))[0] == 1e-15


# ------------------------------------------------------------------ stirred reactor


def test_stirred_reactor_is_a_steady_state_of_its_equations(h2):
    feed = h2.state(300.0, ATM, "H2", phi=0.6)
    tau = 1e-3
    found = h2.psr(feed, tau)
    assert found.status == "burning"
    gas = ct.Solution("h2o2.yaml")
    gas.TPY = found.state[0], found.state[1], found.state[2:]
    balance = (feed[2:] - gas.Y) / tau + gas.net_production_rates * gas.molecular_weights / gas.density
    assert abs(balance).max() < 1e-4 * abs((feed[2:] - gas.Y) / tau).max()
    burnt = gas.enthalpy_mass
    gas.TPY = feed[0], feed[1], feed[2:]
    assert burnt == pytest.approx(gas.enthalpy_mass, abs=300.0)  # J/kg, of 3e6 that combustion moves
    assert found.state[0] < h2.equilibrium(feed)[0]


def test_extinction_encloses_the_turning_point(h2):
    feed = h2.state(300.0, ATM, "H2", phi=0.6)
    found = h2.extinction(feed, longest=1e-3, tolerance=0.05)
    assert found.status == "found" and found.extinct_time < found.residence_time <= 1.05 * found.extinct_time
    assert h2.psr(feed, found.residence_time).status == "burning"
    assert h2.psr(feed, 0.9 * found.extinct_time).status == "extinct"
    assert (np.diff(found.branch[:, 0]) < 0).all()  # shorter is colder along the burning branch
    never = h2.extinction(feed, longest=found.extinct_time / 2)
    assert "extinct at the longest" in never.status and math.isnan(never.residence_time)
