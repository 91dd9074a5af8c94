"""`sciml run mechanism_reduction` from the command line: what it writes, and one sentence for what it refuses."""

import json
from pathlib import Path

import numpy as np
import pytest

from sciml.__main__ import command
from sciml.archive import Store
from sciml.chemistry.mechanism import Mechanism
from sciml.problems import mechanism_reduction

QUICK = ["budget=14", "reactions=4", "temperatures=1200.0,", "phis=1.0,", "compare=", "graphs="]


def run(tmp_path, *options):
    words = [w for option in [*QUICK, *options] for w in ("--set", option)]
    return command(["run", "mechanism_reduction", "smoke", *words, "--out", str(tmp_path / "runs")])


def only(tmp_path):
    (folder,) = (tmp_path / "runs").iterdir()
    return folder


def test_a_user_brings_a_mechanism_and_conditions_and_gets_a_smaller_one(tmp_path, capsys):
    Mechanism("h2o2.yaml").gas.write_yaml(str(tmp_path / "mine.yaml"))
    (tmp_path / "where.yaml").write_text("temperatures: [1150]\npressures: [2]\nphis: [0.8]\n")
    assert run(tmp_path, f"mechanism={tmp_path / 'mine.yaml'}", f"conditions={tmp_path / 'where.yaml'}") == 0
    folder = only(tmp_path)
    reduced = Mechanism(folder / "reduced.yaml")
    metrics = json.loads((folder / "metrics.json").read_text())
    assert reduced.n_species == metrics["species"] < 10
    assert reduced.n_reactions == metrics["reactions"]
    assert metrics["errors"]["design"]["ignition delay"]["max"] <= 0.1
    assert metrics["methods"]["integer"]["simulated masks"] <= 14
    text = (folder / "reduced.yaml").read_text()
    assert "provenance" in text and "mine.yaml" in text and "1150" in text and "202650" in text
    for name in ("reduced.inp", "reduced_thermo.dat", "front.json", "best.yaml"):
        assert (folder / name).stat().st_size > 0
    assert {p.stem for p in folder.rglob("*.png")} >= {"front", "errors", "species"}


@pytest.mark.parametrize(
    ("option", "said"),
    [
        ("fuel=C3H8", "C3H8"),
        ("tolerance=1e-8", "solver's own noise"),
        ("tolerance=-1.0", "tolerance is -1.0"),
        ("temperatures=400.0,", "full mechanism itself has no"),
        ("protect=XYZ,", "XYZ"),
        ("mechanism=none.yaml", "none.yaml"),
        ("conditions=none.yaml", "none.yaml does not exist"),
        ("budget=0", "budget is 0"),
        ("proposals=luck", "luck"),
        ("graphs=CSP,", "CSP"),
        ("compare=luck,", "luck"),
    ],
)
def test_what_is_refused_gets_one_sentence_and_leaves_nothing(tmp_path, capsys, option, said):
    assert run(tmp_path, option) == 2
    error = capsys.readouterr().err
    assert said in error and len([line for line in error.splitlines() if line.startswith("sciml:")]) == 1
    assert "Traceback" not in error
    assert not (tmp_path / "runs").exists() or not list((tmp_path / "runs").iterdir())


def test_a_cache_of_another_mechanism_is_refused_and_untouched(tmp_path, capsys):
    store = Store(tmp_path / "masks.h5", 10, 3, "another mechanism")
    store[np.ones(10)] = (10.0, np.zeros(3))
    before = Path(tmp_path / "masks.h5").read_bytes()
    assert run(tmp_path, f"cache={tmp_path / 'masks.h5'}") == 2
    assert "belongs to another mechanism" in capsys.readouterr().err
    assert Path(tmp_path / "masks.h5").read_bytes() == before


def test_an_error_costs_no_finished_simulation(tmp_path, capsys, monkeypatch):
    def fails(*_):
        raise OSError("the disk is full")

    with monkeypatch.context() as patched:
        patched.setattr(mechanism_reduction, "report", fails)
        assert run(tmp_path) == 2
    assert "resume with" in capsys.readouterr().err
    assert command(["resume", str(only(tmp_path))]) == 0
    rows = json.loads((only(tmp_path) / "metrics.json").read_text())["methods"]
    assert rows["integer"]["simulated masks"] > 0 and rows["integer"]["new to this run"] == 0
