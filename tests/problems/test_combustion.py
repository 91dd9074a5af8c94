"""The combustion problem: its smallest runs leave figures and numbers, and refuse what cannot be."""

import dataclasses
import json
from importlib import resources

import numpy as np
import pytest

from sciml.__main__ import command
from sciml.chemistry import Dataset, Mechanism, Surrogate, accuracy
from sciml.chemistry.recipe import grid_of
from sciml.problems import _combustion_ablation, combustion

TINY = ["--set", "sampling.states=60", "--set", "sampling.ignitions=2", "--set", "training.steps=5"]
TINY += ["--set", "training.widths=8", "--set", "training.tuning=2", "--set", "length=2"]


def folder(path):
    (found,) = path.glob("combustion-*")
    return found


def test_smoke_measures_and_draws_everything(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert command(["run", "combustion", "smoke", *TINY]) == 0
    path = folder(tmp_path / "runs")
    names = {p.name for p in path.iterdir()}
    assert {"labels.h5", "surrogate.h5", "ignition.png", "scales.png", "speed.png", "metrics.json"} <= names
    metrics = json.loads((path / "metrics.json").read_text())
    assert metrics["element drift"] < 1e-10 and metrics["smallest fraction"] >= 0
    assert metrics["sum of fractions"] < 1e-12
    assert len(metrics["table"]) == 2 and set(metrics["seconds"]) == {"sampling", "labels", "audit", "training"}
    assert metrics["label audit, worst"] < 1e-3
    assert "OH" in metrics["scales"] and len(metrics["speed"]) == 6
    model = Surrogate.load(path / "surrogate.h5")
    assert model.mechanism == "h2o2.yaml"


def test_an_interrupted_measurement_goes_on_without_training_again(tmp_path, monkeypatch):
    def stop(*arguments, **options):
        raise KeyboardInterrupt

    monkeypatch.chdir(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(combustion.accuracy, "ignitions", stop)
        assert command(["run", "combustion", "smoke", *TINY]) == 130
    path = folder(tmp_path / "runs")
    trained = (path / "surrogate.h5").read_bytes()
    monkeypatch.setattr(combustion, "train", stop)
    assert command(["resume", str(path)]) == 0
    assert (path / "surrogate.h5").read_bytes() == trained
    assert json.loads((path / "metrics.json").read_text())["seconds"]["training"] > 0


def test_a_resumed_run_counts_what_it_did_before(tmp_path, monkeypatch):
    def stop(*arguments, **options):
        raise KeyboardInterrupt

    monkeypatch.chdir(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(combustion, "train", stop)
        assert command(["run", "combustion", "smoke", *TINY]) == 130
    path = folder(tmp_path / "runs")
    before = json.loads((path / "seconds.json").read_text())
    assert command(["resume", str(path)]) == 0
    seconds = json.loads((path / "metrics.json").read_text())["seconds"]
    assert seconds["sampling"] == before["sampling"] > 0 and seconds["labels"] == before["labels"] > 0
    assert seconds["training"] > before["training"] > 0 and not (path / "seconds.json").exists()


def test_demo_shows_a_trained_surrogate_beside_cantera(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert command(["run", "combustion", "demo", *TINY, "--set", "mechanism=h2o2.yaml"]) == 0
    path = folder(tmp_path / "runs")
    assert (path / "ignition.png").stat().st_size > 10_000
    assert len(json.loads((path / "metrics.json").read_text())["table"]) == 3


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("mechanism=nothing.yaml", "mechanism 'nothing.yaml' was not found"),
        ("fuel=CH4", "species 'CH4' is not in mechanism"),
        ("temperatures=1500,1000", "which is empty"),
        ("sampling.kinds=magic", "kinds is 'magic'"),
        ("surrogate=nothing.h5", "nothing.h5 does not exist"),
    ],
)
def test_what_cannot_be_is_one_sentence_and_no_folder(tmp_path, monkeypatch, capsys, override, words):
    monkeypatch.chdir(tmp_path)
    assert command(["run", "combustion", "smoke", "--set", override]) == 2
    said = capsys.readouterr().err
    assert words in said and said.count("\n") == 1 and not list(tmp_path.iterdir())


def test_a_surrogate_for_another_step_or_reactor_is_not_taken_for_this_one(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    shipped = f"surrogate={resources.files('sciml.data') / 'h2_surrogate.h5'}"
    for override, words in (
        ("dt=2e-6", "has dt 1e-06, but dt is 2e-06"),
        ("reactor=constant-volume", "has reactor 'constant-pressure', but reactor is 'constant-volume'"),
    ):
        assert command(["run", "combustion", "speed", "--set", shipped, "--set", override]) == 2
        assert words in capsys.readouterr().err


def test_demo_burns_in_the_oxidiser_that_is_named(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    argon = ["--set", "oxidiser=O2:1,AR:20", "--set", "temperatures=1300,1500"]
    assert command(["run", "combustion", "demo", *argon]) == 0
    table = json.loads((folder(tmp_path / "runs") / "metrics.json").read_text())["table"]
    gas = Mechanism("h2o2.yaml")
    exact = gas.ignition(gas.state(1300.0, combustion.ATM, "H2", "O2:1, AR:20")).delay
    air = gas.ignition(gas.state(1300.0, combustion.ATM, "H2")).delay
    assert abs(1e-6 * table[0]["delay, CVODE (us)"] / exact - 1) < 0.02 < abs(air / exact - 1)


def test_held_out_charges_fill_the_ranges():
    config = dataclasses.replace(combustion.VARIANTS["dme"], fuel="H2", grid=(4, 3))
    charges = grid_of(Mechanism("h2o2.yaml"), combustion.ranges_from(config), config.grid)
    assert charges.shape == (12, 12)
    assert (charges[:, 0].min(), charges[:, 0].max()) == (750.0, 1200.0)
    atm = charges[:, 1] / combustion.ATM
    assert 30 <= atm.min() < 33 and 47 < atm.max() <= 50
    assert len(np.unique(atm.round(6))) == 12


def test_a_flame_burns_by_all_three_chemistries(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    small = ["--set", "task=flame", "--set", "sampling.flames=1", "--set", "cells=12", "--set", "lengths=0.3"]
    assert command(["run", "combustion", "smoke", *TINY, *small]) == 0
    path = folder(tmp_path / "runs")
    metrics = json.loads((path / "metrics.json").read_text())
    assert [row["chemistry"] for row in metrics["table"]][:2] == ["Cantera's steady flame", "CVODE"]
    assert len(metrics["table"]) == 4 and 0 <= metrics["share of CVODE in the hybrid"] <= 1
    assert 0 < metrics["table"][1]["speed (m/s)"] < metrics["flame speed, Cantera"]  # coarse, and just begun
    assert (path / "flame.png").exists()


def test_the_ablation_has_a_row_for_every_mix(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(_combustion_ablation, "KINDS", ("manifold", "multi-scale"))
    small = ["--set", "task=ablation", "--set", "perturbations=1", "--set", "temperatures=1300,1500"]
    assert command(["run", "combustion", "smoke", *TINY, *small]) == 0
    rows = json.loads((folder(tmp_path / "runs") / "metrics.json").read_text())["table"]
    assert [(r["samples"], r["transform"]) for r in rows] == [
        (kind, transform) for kind in ("manifold", "multi-scale") for transform in _combustion_ablation.TRANSFORMS
    ]
    assert all({"one step", "delay error, median", "recovered"} <= set(r) for r in rows)


def test_a_plain_pipeline_that_has_learnt_is_a_surrogate():
    """One mix, a little trained on the states along one ignition: better than standing still, by its own measure."""
    mechanism = Mechanism("h2o2.yaml")
    path = mechanism.trajectory(mechanism.state(1300.0, 101325.0), 1e-6 * np.arange(60))
    dataset = Dataset(
        np.stack([path[:-1], path[1:]], 1), np.zeros(59, int), ("one",), {}, "h2o2.yaml", "", mechanism.species, 1e-6
    )
    trial = _combustion_ablation.Trial((32, 32), 400, 59)
    errors = {}
    for transform in _combustion_ablation.TRANSFORMS:
        model = _combustion_ablation.learnt(dataset, mechanism, transform, trial, 0)
        errors[transform] = accuracy.overall(accuracy.one_step(model, path[:-1], path[1:]))
        assert (model.rollout(path[:1], 3)[0, :, 2:] >= 0).all()
    assert errors["Box-Cox"] < 0.3 and errors["Box-Cox, generalised"] < 0.3
    assert errors["none"] > 3 * errors["Box-Cox"]  # the papers' claim: without a transform radicals are not seen
