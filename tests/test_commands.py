"""From a mechanism to an exported surrogate at the command line, and what bad input gets."""

import contextlib
import io
import os
import shutil
from pathlib import Path

import numpy as np
import pytest

from sciml import commands
from sciml.__main__ import command
from sciml.chemistry import Surrogate
from sciml.chemistry import labels as labelling
from sciml.chemistry.labels import Dataset
from sciml.chemistry.recipe import Drawn
from sciml.files import read_h5, write_h5

SMALL = ("--states", 90, "--ignitions", 2, "--flames", 0, "--temperatures", "1100,1500")


def sciml(*arguments, cwd, code=0):
    """Carry out a command line in this process: what it says on stdout, or on stderr if it is to fail."""
    out, err, before = io.StringIO(), io.StringIO(), Path.cwd()
    os.chdir(cwd)
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            found = command([str(a) for a in arguments])
    finally:
        os.chdir(before)
    assert found == code, out.getvalue() + err.getvalue()
    return err.getvalue() if code else out.getvalue()


def refused(*arguments, cwd):
    before = set(cwd.rglob("*"))
    said = sciml(*arguments, cwd=cwd, code=2)
    assert said.startswith("sciml: ") and said.count("\n") == 1 and "Traceback" not in said
    assert set(cwd.rglob("*")) == before
    return said


@pytest.fixture(scope="module")
def chain(tmp_path_factory):
    """A folder with states, labels and a surrogate of h2o2.yaml, made by the commands."""
    folder = tmp_path_factory.mktemp("chain")
    sciml("sample", "h2o2.yaml", *SMALL, "--seed", 3, cwd=folder)
    sciml("label", "states.h5", "--steps", 2, "--chunk", 30, cwd=folder)
    sciml("train", "labels.h5", "--widths", "8", "--steps", 5, "--tuning", 2, "--rounds", 0, "--batch", 32, cwd=folder)
    return folder


def test_each_file_remembers_where_it_comes_from(chain):
    drawn, dataset = Drawn.load(chain / "states.h5"), Dataset.load(chain / "labels.h5")
    model = Surrogate.load(chain / "surrogate.h5")
    assert drawn.seed == dataset.seed == model.settings.labels["seed"] == 3
    assert drawn.hash == dataset.hash == model.settings.hash
    assert drawn.ranges.T == (1100.0, 1500.0) and tuple(dataset.ranges["T"]) == (1100.0, 1500.0)
    assert model.settings.labels["ranges"] == dataset.ranges and model.settings.labels["rtol"] == 1e-9
    assert (model.mechanism, model.dt) == ("h2o2.yaml", 1e-6)
    # labels are windows of the states drawn, some of which were left out
    first = {row.tobytes() for row in dataset.windows[:, 0]}
    assert first <= {row.tobytes() for row in drawn.samples.states}
    assert len(dataset) == len(drawn.samples) - dataset.left_out["failed"] - dataset.left_out["refused"]
    assert not list(chain.glob("*.chunks")) and not list(chain.glob("*checkpoint*"))


def test_the_same_seed_gives_the_same_states(chain, tmp_path):
    sciml("sample", "h2o2.yaml", *SMALL, "--seed", 3, cwd=tmp_path)
    again, first = Drawn.load(tmp_path / "states.h5"), Drawn.load(chain / "states.h5")
    np.testing.assert_array_equal(again.samples.states, first.samples.states)


def test_evaluate_prints_every_measure(chain):
    said = sciml("evaluate", "surrogate.h5", "--grid", "1,1", "--perturbations", 1, "--steps", 20, cwd=chain)
    for name in (
        "delay error, mean",
        "perturbed: recovered",
        "element drift",
        "hybrid: net speed-up",
        "speed-up at batch 8192, rtol 1e-06",
    ):
        assert f"{name}: " in said


def test_an_interrupted_labelling_goes_on(chain, tmp_path, monkeypatch):
    states = chain / "states.h5"

    def interrupt(completed, total):
        if completed == 2:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(commands, "bar", lambda label: contextlib.nullcontext(interrupt))
        said = sciml("label", states, "--steps", 2, "--chunk", 30, cwd=tmp_path, code=130)
    assert said.startswith("interrupted; ") and "chunks are there" in said and said.count("\n") == 1
    kept = sorted((tmp_path / "labels.h5.chunks").glob("chunk-*.h5"))
    assert kept
    assert "unfinished" in refused("train", "labels.h5", cwd=tmp_path)
    shutil.copytree(tmp_path / "labels.h5.chunks", tmp_path / "other.h5.chunks")
    sciml("label", states, "--steps", 2, "--chunk", 30, cwd=tmp_path)
    assert "labels: other.h5" in sciml("resume", "other.h5", cwd=tmp_path)
    whole = Dataset.load(chain / "labels.h5")
    for name in ("labels.h5", "other.h5"):
        np.testing.assert_array_equal(whole.windows, Dataset.load(tmp_path / name).windows)


def test_a_full_disk_is_one_sentence_and_keeps_chunks(chain, tmp_path, monkeypatch):
    write, written = labelling.write_h5, []

    def full(file, *rest):
        if len(written) == 2:
            raise OSError(28, "No space left on device", str(file))
        write(file, *rest)
        written.append(file)

    monkeypatch.setattr(labelling, "write_h5", full)
    said = sciml("label", chain / "states.h5", "--steps", 2, "--chunk", 30, cwd=tmp_path, code=2)
    assert said.count("\n") == 1 and "No space left" in said
    assert (tmp_path / "labels.h5.chunks" / "chunk-000000.h5").exists()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("sample", "nothing.yaml"), "mechanism 'nothing.yaml' was not found"),
        (("sample", "broken.yaml"), "mechanism 'broken.yaml' cannot be read"),
        (("sample", "h2o2.yaml", "--fuel", "CH4"), "species 'CH4' is not in mechanism 'h2o2.yaml'"),
        (("sample", "h2o2.yaml", "--temperatures", "1500,1000"), "the range T is 1500 to 1000 K, which is empty"),
        (("sample", "h2o2.yaml", "--temperatures", "10,20"), "temperature"),
        (("sample", "h2o2.yaml", "--phis", "a"), "--phis is 'a'"),
        (("sample", "h2o2.yaml", "--pressures", "1,2,3"), "one number or two"),
        (("sample", "h2o2.yaml", "--kinds", "magic"), "kinds is 'magic', but must be some of manifold"),
        (("sample", "h2o2.yaml", "--out", "nowhere/s.h5"), "there is no folder nowhere"),
        (("label", "nothing.h5"), "nothing.h5 does not exist"),
        (("label", "labels.h5"), "holds 'labels', but states are wanted"),
        (("label", "states.h5", "--mechanism", "gri30.yaml"), "'gri30.yaml' has other content"),
        (("label", "states.h5", "--reactor", "magic"), "reactor is 'magic'"),
        (("label", "states.h5", "--dt", "-1"), "dt is -1.0, but must be a positive number"),
        (("train", "states.h5"), "holds 'states', but labels are wanted"),
        (("train", "labels.h5", "--mechanism", "gri30.yaml"), "'gri30.yaml' has other content"),
        (("evaluate", "labels.h5"), "holds 'labels', but load reads the file of a Surrogate"),
        (("evaluate", "surrogate.h5", "--temperatures", "1500,1000"), "which is empty"),
        (("sample", "h2o2.yaml", "--seed", "-1"), "--seed"),
        (("label", "states.h5", "--out", "states.h5"), "--out is states.h5, the file that is read"),
        (("train", "labels.h5", "--out", "labels.h5"), "--out is labels.h5, the file that is read"),
        (("train", "labels.h5", "--edges", "5000"), "no state lies from 5000 to inf K"),
        (("train", "labels.h5", "--batch", "0"), "batch (0) at least 1"),
        (("evaluate", "surrogate.h5", "--grid", "0,1"), "grid is 0,1, but must be two numbers of at least 1"),
        (("evaluate", "surrogate.h5", "--perturbations", "-1"), "--perturbations"),
        (("export", "labels.h5"), "holds 'labels', but load reads the file of a Surrogate"),
        (("export", "surrogate.h5", "--out", "states.h5"), "states.h5 is a file, but must be a folder"),
    ],
)
def test_bad_input_is_one_sentence(chain, arguments, words):
    (chain / "broken.yaml").write_text("phases: [")
    if arguments[0] in ("sample", "label") and "--out" not in arguments:
        arguments = (*arguments, "--out", "new.h5")
    assert words in refused(*arguments, cwd=chain)


def test_a_file_with_a_part_missing_is_one_sentence(chain):
    description, arrays = read_h5(chain / "surrogate.h5")
    for number, (name, value) in enumerate((("reactive", None), ("experts.0.shortcut", np.nan))):
        changed = {k: v for k, v in arrays.items() if k != name}
        if value is not None:
            changed[name] = arrays[name] * value
        write_h5(chain / f"{number}.h5", description, changed)
        said = refused("export", f"{number}.h5", "--out", "nowhere", cwd=chain)
        assert ("can read: Missing key" in said) if value is None else ("not finite" in said)


def test_labels_keep_what_the_states_were_sampled_for(chain, tmp_path):
    small = ("--states", 60, "--ignitions", 1, "--flames", 0, "--temperatures", "1300,1500", "--kinds", "manifold")
    sciml("sample", "h2o2.yaml", *small, "--reactor", "constant-volume", cwd=tmp_path)
    sciml("label", "states.h5", "--steps", 2, "--workers", 0, cwd=tmp_path)
    assert Dataset.load(tmp_path / "labels.h5").reactor == "constant-volume"


def test_bad_states_are_left_out_and_counted(chain, tmp_path):
    drawn = Drawn.load(chain / "states.h5")
    states = drawn.samples.states
    states[0, 0] = 20.0  # below the thermodynamic data
    states[1, 2] = -0.1
    states[2, 2:] *= 0.5
    drawn.save(tmp_path / "states.h5")
    said = sciml("label", "states.h5", "--steps", 1, cwd=tmp_path)
    assert "3 left out: refused" in said
