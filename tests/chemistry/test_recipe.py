"""What the recipe draws: fresh charges, states beyond the ends of the ranges, large and small perturbations."""

import dataclasses

import numpy as np
import pytest
import torch

from sciml.chemistry import Mechanism, Samples, Surrogate
from sciml.chemistry.labels import label
from sciml.chemistry.reactors import advance, trajectories
from sciml.chemistry.recipe import Sampling, Training, draw, train, visited
from sciml.chemistry.sampling import Ranges, perturbed
from sciml.chemistry.trajectories import on_the_way
from sciml.optimizers import SOAP


@pytest.fixture(scope="module")
def mechanism():
    return Mechanism("h2o2.yaml")


@pytest.fixture(scope="module")
def drawn(mechanism):
    return draw(mechanism, Ranges("H2", (1000.0, 1500.0)), Sampling(states=600, ignitions=8, flames=0), seed=1).samples


def test_fresh_charges_and_equilibria_lie_inside(mechanism, drawn):
    states = drawn.states
    radicals = states[:, 2:][:, [mechanism.index(k) for k in ("H", "O", "OH", "HO2", "H2O2")]]
    fresh = states[(radicals == 0).all(1)]
    assert fresh[:, 0].min() < 1000 and fresh[:, 0].max() > 1450
    burnt = states[states[:, 0] > 2300]
    assert (np.abs(mechanism.equilibrium(burnt)[:, 0] - burnt[:, 0]) < 2).any()


def test_charges_that_burn_at_constant_volume_rise_in_pressure(mechanism):
    ranges, few = Ranges("H2", (1000.0, 1500.0)), Sampling(("manifold", "relaxed"), 300, 3, 0)
    found = draw(mechanism, ranges, few, seed=1, reactor="constant-volume")
    states, kinds = found.samples.states, np.array(found.samples.origins)[found.samples.origin]
    assert found.reactor == "constant-volume"
    for kind in set(kinds) - {"charge"}:
        burnt = states[(kinds == kind) & (states[:, 0] > 2000)]
        # p = rho R T / W with the density of a charge: by more than half of what the temperatures say
        assert (burnt[:, 1] / 101325.0 > 0.5 * burnt[:, 0] / 1550).all()
    same = draw(mechanism, ranges, few, seed=1)
    assert same.reactor == "constant-pressure"
    np.testing.assert_allclose(same.samples.states[:, 1], 101325.0, rtol=1e-9)


def test_hydrogen_is_learnt_by_a_mechanism_with_carbon():
    gri = Mechanism("gri30.yaml")
    path = gri.trajectory(gri.state(1300.0, 101325.0, "H2"), 1e-6 * np.arange(61))
    model, _ = Surrogate.fit(path[:-1], path[1:], gri, 1e-6, widths=(16,), stages=[SOAP(30)], batch=60)
    rest = gri.equilibrium(path[:1])
    assert (np.abs(model.step(path[5:-1]) - path[5:-1])[:, 2:].max(1) > 0).all()  # no step is lost
    with torch.no_grad():
        assert float(model.features(torch.as_tensor(rest))[1]) < 1e-3  # the gate closes at equilibrium
    np.testing.assert_allclose(model.rollout(rest, 200)[:, -1], rest, rtol=1e-6, atol=1e-6)


def test_a_range_that_begins_where_the_data_do_is_sampled(mechanism):
    wide = Ranges("H2", (mechanism.temperature_range[0], 1500.0))
    assert len(draw(mechanism, wide, Sampling(("manifold",), 60, 4, 0)).samples)


def test_thermodynamic_data_that_no_surrogate_takes_are_refused_before_sampling(mechanism):
    text = mechanism.to_yaml()
    start = text.index("- name: AR", text.index("species:\n"))
    data = text.index("thermo:", start)
    stop = text.index("transport:", data)
    other = "thermo: {model: constant-cp, T0: 298.15, h0: 0.0, s0: 154000.0, cp0: 20786.0}\n    "
    changed = Mechanism.from_yaml(text[:data] + other + text[stop:])
    with pytest.raises(ValueError, match="species 'AR' has constant-cp data"):
        draw(changed, Ranges("H2", (1000.0, 1500.0)), Sampling(states=60, ignitions=1, flames=0))


def test_perturbed_ions_stay_neutral():
    ions = Mechanism("gri30_ion.yaml")
    path = ions.ignition(ions.state(2000.0, 101325.0, "CH4")).states
    burning = path[path[:, 0] > 2200]
    samples = Samples(burning, np.zeros(len(burning), dtype=np.int64), ("burning",))
    moved = perturbed(ions, samples, 100, np.random.default_rng(0)).states
    moles = moved[:, 2:] / ions.molar_masses
    charge = ions.composition[:, ions.elements.index("E")]
    assert moles[:, charge > 0].sum(1).max() > 1e-12  # there are electrons
    assert np.abs(moles @ charge).max() < 1e-3 * (moles @ np.abs(charge)).max()


def test_an_expert_without_states_is_refused(mechanism):
    path = mechanism.trajectory(mechanism.state(1300.0, 101325.0), 1e-6 * np.arange(20))
    for edges, words in (((5000.0,), "5000 to inf K"), ((1500.0, 1500.0), "from 1500 to 1500 K")):
        with pytest.raises(ValueError, match=f"edges is .*{words}"):
            Surrogate.fit(path[:-1], path[1:], mechanism, 1e-6, edges=edges)


def test_kinds_differ_as_they_say(mechanism, drawn):
    kinds = np.array(drawn.origins)[drawn.origin]
    assert {"charge", "ignition", "ignition, perturbed", "ignition, perturbed and followed"} == set(kinds)
    atoms = mechanism.element_fractions(drawn.states)
    h, n = (mechanism.elements.index(e) for e in "HN")
    plain = atoms[kinds == "ignition"]
    moved = atoms[kinds == "ignition, perturbed"]
    # some perturbed states leave the line on which mixtures of fuel and air lie
    slope = np.polyfit(plain[:, h], plain[:, n], 1)
    assert np.abs(np.polyval(slope, plain[:, h]) - plain[:, n]).max() < 1e-9
    assert 0.05 < (np.abs(np.polyval(slope, moved[:, h]) - moved[:, n]) > 1e-6).mean() < 0.5


def test_followed_states_have_relaxed_but_remember_their_perturbation(mechanism, drawn):
    kinds = np.array(drawn.origins)[drawn.origin]
    groups = [drawn.states[kinds == k] for k in ("ignition, perturbed", "ignition, perturbed and followed")]

    def pace(states):  # of the fast species, over a step
        after = advance(mechanism, states, 1e-6).states
        return np.median(np.abs(after[:, 2:] ** 0.1 - states[:, 2:] ** 0.1).max(1))

    assert pace(groups[1]) < 0.5 * pace(groups[0])
    atoms = mechanism.element_fractions(groups[1])
    plain = mechanism.element_fractions(drawn.states[kinds == "ignition"])
    h, n = (mechanism.elements.index(e) for e in "HN")
    slope = np.polyfit(plain[:, h], plain[:, n], 1)
    assert 0.2 < (np.abs(np.polyval(slope, atoms[:, h]) - atoms[:, n]) > 1e-6).mean() < 0.8


def test_powers_may_differ_from_state_to_state(mechanism, drawn):
    generator = np.random.default_rng(0)
    alpha = np.where(np.arange(200) % 2, 0.1, 1e-6)
    base = drawn.filtered(mechanism, {"hot": lambda _, s: s[:, 0] > 1600})
    moved = perturbed(mechanism, base, 200, generator, alpha)
    assert len(moved) == 200
    parents = base.states[:, 2:]
    nearest = np.array([(np.abs(parents - y) / np.maximum(y, 1e-12)).max(1).min() for y in moved.states[:, 2:]])
    assert nearest[::2].max() < 1e-3 < np.median(nearest[1::2])


def test_trajectories_pass_through_single_steps(mechanism):
    states = mechanism.state(np.array([1100.0, 1300.0, 1400.0]), 101325.0)
    states[1, 2] = -0.5
    paths, status = trajectories(mechanism, states, 1e-6 * np.arange(4))
    assert list(status) == [0, 1, 0] and np.isnan(paths[1, 1:]).all() and paths.shape == (3, 4, states.shape[1])
    end = advance(mechanism, states[[0, 2]], 3e-6).states
    np.testing.assert_allclose(paths[[0, 2], 3], end, rtol=1e-6, atol=1e-13)


def test_without_transport_data_there_are_no_flames(mechanism):
    import io

    from ruamel.yaml import YAML

    yaml = YAML(typ="safe")
    content = yaml.load(mechanism.to_yaml())
    for phase in content["phases"]:
        phase.pop("transport", None)
    for species in content["species"]:
        species.pop("transport", None)
    text = io.StringIO()
    yaml.dump(content, text)
    bare = Mechanism.from_yaml(text.getvalue())
    assert bare.inspection.without_transport
    found = draw(bare, Ranges("H2", (1200.0, 1400.0)), Sampling(states=60, ignitions=2, flames=3), seed=0).samples
    assert len(found) > 30 and not any("flame" in origin for origin in found.origins)


def test_rounds_teach_what_rollouts_meet(mechanism, tmp_path):
    ranges = Ranges("H2", (1250.0, 1500.0))
    drawn = draw(mechanism, ranges, Sampling(("manifold",), states=400, ignitions=6, flames=0), seed=0)
    labelled = label(mechanism, drawn.samples, tmp_path / "l.h5", steps=1, ranges=drawn.recorded)
    control = train(labelled, mechanism, Training((24, 24), steps=1000, batch=256), seed=0)[0]
    met = visited(control, mechanism, ranges, 16, np.random.default_rng(1)).states
    again = np.random.default_rng(1)
    kicked = on_the_way(mechanism, ranges, 8, again).states
    paths = control.rollout(np.concatenate([ranges.charges(mechanism, 8, again), kicked]), 80).reshape(-1, met.shape[1])
    assert len(met) > 100 and all((np.abs(paths - state).max(1) < 1e-6).any() for state in met[::10])
    met = met[(met[:, 0] > 300) & (met[:, 0] < 3500)]
    after = mechanism.advance(met, 1e-6).states

    def error(model):
        ours, true = (model.boxcox(torch.as_tensor(a[:, 2:])) for a in (model.step(met), after))
        return float((ours - true).abs().mean(1).median())

    control.save(tmp_path / "s.h5")
    taught = Surrogate.load(tmp_path / "s.h5")
    states, later = labelled.states, labelled.next_states
    more = np.concatenate([states, met]), np.concatenate([later, after])
    for model, pairs in ((control, (states, later)), (taught, more)):
        model.learn(*pairs, [SOAP(250, lr=5e-3)], 256, 1)
    assert error(taught) < 0.9 * error(control)


def test_rounds_follow_the_training(mechanism, drawn, tmp_path):
    ranges = {"fuel": "H2", "T": (1300.0, 1500.0)}
    few = Samples(drawn.states[:30], drawn.origin[:30], drawn.origins)
    labelled = label(mechanism, few, tmp_path / "l.h5", steps=1, ranges=ranges)
    quick = Training((8,), steps=8, batch=16, rounds=2, visits=2)
    models, histories = zip(*(train(labelled, mechanism, quick, seed=3) for _ in range(2)), strict=True)
    assert len(histories[0].reasons) == 3
    np.testing.assert_array_equal(*(model.step(few.states) for model in models))
    with pytest.raises(ValueError, match="ranges of their charges"):
        train(dataclasses.replace(labelled, ranges={}), mechanism, quick)
    with pytest.raises(ValueError, match="rounds"):
        Training(rounds=-1)
    with pytest.raises(ValueError, match="share is 0"):
        Training(share=0.0)
    other = train(labelled, mechanism, dataclasses.replace(quick, share=0.3), seed=3)[0]
    assert np.abs(other.step(few.states) - models[0].step(few.states)).max() > 0
