"""`sciml run mechanism_reduction` from the command line: what it writes, and one sentence for what it refuses."""

import json
import re
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from sciml.__main__ import command
from sciml.archive import Archive, Store
from sciml.chemistry.mechanism import Mechanism
from sciml.chemistry.reduction import Reduction
from sciml.options import configure
from sciml.problems import mechanism_reduction
from sciml.problems._reduction_report import draw
from sciml.results import begin

QUICK = ["budget=14", "reactions=4", "temperatures=1200.0,", "phis=1.0,", "compare=", "graphs="]


def run(tmp_path, *options):
    words = [w for option in [*QUICK, *options] for w in ("--set", option)]
    return command(["run", "mechanism_reduction", "smoke", *words, "--out", str(tmp_path / "runs")])


def only(tmp_path):
    (folder,) = (path for path in (tmp_path / "runs").iterdir() if path.is_dir())
    return folder


def test_a_user_brings_a_mechanism_and_conditions_and_gets_a_smaller_one(tmp_path, capsys):
    Mechanism("h2o2.yaml").gas.write_yaml(str(tmp_path / "mine.yaml"))
    (tmp_path / "where.yaml").write_text("temperatures: [1150]\npressures: [2]\nphis: [0.8]\n")
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "config.json").write_text("{}")  # of somebody else
    assert run(tmp_path, f"mechanism={tmp_path / 'mine.yaml'}", f"conditions={tmp_path / 'where.yaml'}") == 0
    folder = only(tmp_path)
    reduced = Mechanism(folder / "reduced.yaml")
    metrics = json.loads((folder / "metrics.json").read_text())
    assert reduced.n_species == metrics["species"] < 10
    assert reduced.n_reactions == metrics["reactions"]
    assert metrics["errors"]["design"]["ignition delay"]["max"] <= 0.1
    assert metrics["methods"]["integer"]["simulated masks"] <= 14
    # nothing lies between the rows of a table of one
    assert "held out" not in metrics["errors"] and metrics["largest held-out error / tolerance"] is None
    assert (folder / "masks.h5").exists() and len(list((tmp_path / "runs").iterdir())) == 2
    text = (folder / "reduced.yaml").read_text()
    assert "provenance" in text and "mine.yaml" in text and "1150" in text and "202650" in text
    for name in ("reduced.inp", "reduced_thermo.dat", "front.json", "best.yaml"):
        assert (folder / name).stat().st_size > 0
    assert {p.stem for p in folder.rglob("*.png")} >= {"front", "errors", "species"}


def test_without_a_variant_there_is_a_real_budget_and_every_core_works():
    name, config = configure(mechanism_reduction.VARIANTS, None, ["mechanism=mine.yaml"], "mechanism_reduction")
    assert name == "own" and config.mechanism == "mine.yaml" and config.budget == 300 and config.workers == -1


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
        ("workers=-3", "workers is -3"),
        ("timeout=5", "timeout is 5.0"),
        ("reactions=-1", "reactions is -1"),
        ("products=0", "mole fractions is 0.0"),
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


def test_a_mechanism_without_a_chemkin_form_is_refused_before_it_is_reduced(tmp_path, capsys):
    text = Mechanism("h2o2.yaml").to_yaml()
    changed = re.sub(r"\n( *)type: three-body\n", r"\n\1type: three-body\n\1default-efficiency: 0.5\n", text, count=1)
    assert changed != text  # CHEMKIN takes every efficiency that is not named for one
    (tmp_path / "mine.yaml").write_text(changed)
    assert run(tmp_path, f"mechanism={tmp_path / 'mine.yaml'}") == 2
    assert "chemkin=false does without" in capsys.readouterr().err and not (tmp_path / "runs").exists()


def test_figures_of_very_many_conditions_and_species_can_be_written(tmp_path):
    archive = Archive.empty(5000, 5000)
    archive.add(np.ones(5000), 5000.0, np.linspace(0, 1, 5000))
    evaluate = SimpleNamespace(
        labels=list(map(str, range(5000))), mechanism=SimpleNamespace(species=list(map(str, range(5000))))
    )
    with begin(tmp_path / "run", {}, "", lambda _: None) as here:
        draw(here, evaluate, Reduction(archive), np.linspace(0.1, 9, 5000))
    assert all((tmp_path / "run" / f"{name}.png").stat().st_size > 0 for name in ("front", "errors", "species"))
