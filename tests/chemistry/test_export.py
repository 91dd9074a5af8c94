"""What a flow solver gets: one graph from raw states to rates, equal to Python's, in files that say what they are."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from sciml.chemistry import Mechanism, Surrogate
from sciml.chemistry.export import Step, export, manifest
from sciml.chemistry.labels import label
from sciml.chemistry.recipe import Sampling, Training, draw, train
from sciml.chemistry.sampling import Ranges

pytest.importorskip("onnx", reason="the export to ONNX needs the extra `onnx`")
pytest.importorskip("onnxscript", reason="the export to ONNX needs the extra `onnx`")
onnxruntime = pytest.importorskip("onnxruntime", reason="the export to ONNX needs the extra `onnx`")

CLIENT = Path(__file__).parents[2] / "problems" / "_surrogate_client.py"


@pytest.fixture(scope="module")
def mechanism():
    return Mechanism("h2o2.yaml")


@pytest.fixture(scope="module")
def surrogate(mechanism, tmp_path_factory):
    drawn = draw(mechanism, Ranges("H2", (1000.0, 1500.0)), Sampling(states=90, ignitions=2, flames=0), seed=0)
    path = tmp_path_factory.mktemp("labels") / "l.h5"
    dataset = label(mechanism, drawn.samples, path, steps=2, seed=0, ranges=drawn.recorded)
    return train(dataset, mechanism, Training((16, 16), steps=400, batch=128, tuning=0, edges=(1800.0,)))[0]


@pytest.fixture(scope="module")
def folder(surrogate, tmp_path_factory):
    out = tmp_path_factory.mktemp("exported") / "new"
    assert {p.name for p in export(surrogate, out)} == {p.name for p in out.iterdir()}
    return out


@pytest.fixture(scope="module")
def states(mechanism):
    return np.concatenate([mechanism.ignition(mechanism.state(T, 101325.0)).states for T in (1050.0, 1400.0)])


def session(folder):
    return onnxruntime.InferenceSession(str(folder / "surrogate.onnx"), providers=["CPUExecutionProvider"])


def rates_of(mechanism, before, after, dt):
    """RR by Cantera's density, independently of the graph."""
    density = []
    for row in before:
        mechanism.gas.TPY = row[0], row[1], row[2:]
        density.append(mechanism.gas.density)
    return np.array(density)[:, None] * (after[:, 2:] - before[:, 2:]) / dt


def test_onnx_returns_the_rates_of_python(mechanism, surrogate, folder, states):
    after, rates, score = session(folder).run(None, {"states": states})
    exact = rates_of(mechanism, states, surrogate.step(states), surrogate.dt)
    assert np.abs(exact).max() > 1  # kg/m3/s: the network has learnt to react
    scale = np.abs(exact).max(0)  # of every species by itself
    # besides, fractions of order one are rounded before they are subtracted and divided by dt
    assert (np.abs(rates - exact) <= 1e-9 * scale + 1e-9).all()
    np.testing.assert_allclose(after, surrogate.step(states), rtol=1e-9, atol=1e-15)
    many = np.resize(states, (8192, states.shape[1]))  # negative control: with the network in float32
    fast = rates_of(mechanism, many, surrogate.step(many), surrogate.dt)[: len(states)]
    off = (np.abs(fast - rates) / scale.max()).max()
    assert 1e-9 < off < 1e-5
    np.testing.assert_allclose(score, surrogate.score(states), rtol=1e-6)
    assert np.abs(rates.sum(1)).max() <= 1e-9 * np.abs(rates).max()  # mass
    assert not rates[:, -2:].any()  # AR and N2


def test_onnx_takes_any_number_of_states(surrogate, folder, states):
    run = session(folder)
    whole = run.run(None, {"states": states[:40]})
    for count in (1, 2, 7):
        part = run.run(None, {"states": states[:count]})
        for a, b in zip(part, whole, strict=True):
            np.testing.assert_allclose(a, b[:count], rtol=1e-6, atol=1e-6 * np.abs(b).max())


def test_torchscript_equals_python(surrogate, folder, states):
    loaded = torch.jit.load(str(folder / "surrogate.pt"))
    for count in (1, 3, len(states)):
        with torch.no_grad():
            after, rates, score = loaded(torch.as_tensor(states[:count]))
            expected = Step(surrogate)(torch.as_tensor(states[:count]))
        np.testing.assert_allclose(after, surrogate.step(states[:count]), rtol=1e-6, atol=1e-9)
        np.testing.assert_allclose(rates, expected[1], rtol=1e-6, atol=1e-6 * float(expected[1].abs().max()))
        np.testing.assert_allclose(score, surrogate.score(states[:count]), rtol=1e-9)


def test_both_experts_are_in_the_graph(surrogate, folder, states):
    hot = states[:, 0] >= 1800.0
    assert hot.any() and (~hot).any()
    after = session(folder).run(None, {"states": states})[0]
    np.testing.assert_allclose(after[hot], surrogate.step(states[hot]), rtol=1e-6, atol=1e-8)
    one = Surrogate.load(folder / "surrogate.h5")
    one.experts[1] = one.experts[0]  # negative control: the other expert would answer otherwise
    assert np.abs(one.step(states[hot]) - after[hot]).max() > 1e-6


def test_what_transport_leaves_is_cleaned_inside_the_graph(folder, states):
    """Fractions a little below zero, or not quite adding up, are clipped and scaled as the states are."""
    run = session(folder)
    spoilt = states[5:10].copy()
    spoilt[:, 3] = -1e-15
    clean = spoilt.copy()
    clean[:, 3] = 0.0
    clean[:, 2:] /= clean[:, 2:].sum(1, keepdims=True)
    spoilt[:, 2:] *= 1 + 1e-5
    for a, b in zip(run.run(None, {"states": spoilt}), run.run(None, {"states": clean}), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-7 * max(np.abs(b).max(), 1e-12))


def test_cells_that_are_no_states_are_called_outside(folder, states):
    spoilt = states[:6].copy()
    spoilt[0, 0], spoilt[1, 1], spoilt[2, 5], spoilt[3, 2:], spoilt[4, 1] = np.nan, np.nan, np.nan, 0.0, -1.0
    score = session(folder).run(None, {"states": spoilt})[2]
    assert (score[:5] > 1).all() and np.isfinite(score[5])


def test_the_manifest_says_what_a_caller_must_know(mechanism, surrogate, folder):
    told = json.loads((folder / "manifest.json").read_text())
    assert told == json.loads(json.dumps(manifest(surrogate)))
    assert told["mechanism_sha256"] == mechanism.hash and told["species"] == list(mechanism.species)
    assert told["inert"] == ["AR", "N2"] and told["dt_s"] == 1e-6 and told["lambda"] == 0.1
    assert told["reactor"] == "constant-pressure, adiabatic"
    assert told["labels"]["rtol"] == 1e-9 and told["labels"]["atol"] == 1e-15 and told["labels"]["seed"] == 0
    assert told["ranges"]["T_K"][0] >= 900 and told["ranges"]["T_K"][1] > 2000
    assert told["ranges"]["p_Pa"] == pytest.approx([101325.0, 101325.0])
    low, high = told["ranges"]["Y"]["H2O"]
    assert low == 0.0 and 0.1 < high < 1
    inside = {p.key: p.value for p in __import__("onnx").load(folder / "surrogate.onnx").metadata_props}
    assert inside["mechanism_sha256"] == mechanism.hash and json.loads(inside["species"]) == told["species"]
    assert Surrogate.load(folder / "surrogate.h5").settings.hash == mechanism.hash


def test_the_example_needs_onnxruntime_alone(surrogate, folder):
    code = f"import sys, runpy; sys.argv = ['client', {str(folder)!r}]\n"
    code += f"runpy.run_path({str(CLIENT)!r}, run_name='__main__')\n"
    code += "assert not {'torch', 'sciml', 'cantera', 'onnx'} & set(sys.modules), 'something else was imported'"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("RR of") == 3 and "kg/m3/s" in done.stdout


def test_the_example_refuses_another_step_and_species(surrogate, folder, states):
    from sciml.problems._surrogate_client import Chemistry

    client = Chemistry(folder)
    rates, score = client.rates(states, 1e-6)
    assert rates.shape == (len(states), 10) and score.shape == (len(states),)
    with pytest.raises(ValueError, match="trained for 1e-06 s"):
        client.rates(states, 2e-6)
    assert [a.shape for a in client.rates(states[:0], 1e-6)] == [(0, 10), (0,)]
    with pytest.raises(ValueError, match="add up to 0.25 to 0.25"):
        client.states(np.array([1000.0]), np.array([1e5]), {"H2": np.array([0.03]), "O2": np.array([0.22])})
    with pytest.raises(ValueError, match="does not have the species CH4"):
        client.states(np.array([1000.0]), np.array([1e5]), {"CH4": np.array([1.0])})


def test_a_file_in_the_way_is_refused(surrogate, tmp_path):
    (tmp_path / "taken").write_text("")
    with pytest.raises(NotADirectoryError, match="must be a folder"):
        export(surrogate, tmp_path / "taken")


def test_an_export_that_fails_leaves_no_folder(surrogate, tmp_path, monkeypatch):
    def full(surrogate, path):
        raise OSError(28, "No space left on device", str(path))

    monkeypatch.setattr("sciml.chemistry.export.to_onnx", lambda surrogate, path: path.write_text("a part"))
    monkeypatch.setattr("sciml.chemistry.export.to_torchscript", full)
    with pytest.raises(OSError, match="No space left"):
        export(surrogate, tmp_path / "new")
    assert not list(tmp_path.iterdir())
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes").touch()
    with pytest.raises(OSError, match="No space left"):
        export(surrogate, tmp_path / "mine")
    assert (tmp_path / "mine" / "notes").exists()
