"""Run folders and files: what is written, what is left after an error, an interruption or a kill, what is refused."""

import json
import os
import subprocess
import sys

import h5py
import numpy as np
import pytest
import torch

from sciml.files import atomic, jsonable, read_h5, read_json, write_h5, write_json
from sciml.results import Diverged, Interrupted, begin, environment, read_run, resumed


class Answer:
    """What a solver returns, as far as a run folder is concerned."""

    def __init__(self, value=1.0, status="done", savable=True):
        self.value, self.status, self.savable, self.seconds = value, status, savable, 0.1

    def save(self, path):
        write_h5(path, {"value": self.value, "status": self.status}, {})


class Counting:
    def __init__(self, answer=None, interrupt=False):
        self.answer, self.interrupt, self.calls = answer or Answer(), interrupt, []

    def solve(self, problem, seed, callbacks, checkpoint):
        self.calls.append((problem, seed, checkpoint))
        if self.interrupt:
            write_h5(checkpoint, {}, {})
            raise KeyboardInterrupt
        return self.answer


def load(path, problem):
    return Answer(**read_h5(path)[0])


def start(path, **config):
    return begin(path, {"seed": 3, **config}, "sciml run stub", load)


# --------------------------------------------------------------------------------------------------------------- files


def test_h5_keeps_arrays_and_description(tmp_path):
    arrays = {
        "a": np.arange(6.0).reshape(2, 3),
        "deep/b": np.array([True, False]),
        "c": np.float32(2),
        "e": np.zeros(0),
    }
    description = {"text": "grün", "rows": [{"loss": float("nan")}], "large": "x" * 200_000}
    write_h5(tmp_path / "f.h5", description, arrays)
    found, back = read_h5(tmp_path / "f.h5")
    assert found["text"] == "grün" and found["large"] == description["large"] and np.isnan(found["rows"][0]["loss"])
    assert back.keys() == arrays.keys()
    for name, values in arrays.items():
        assert back[name].dtype == np.asarray(values).dtype and np.array_equal(back[name], values)


def test_h5_refuses_what_is_not_a_number(tmp_path):
    with pytest.raises(TypeError, match="'names' has dtype <U1"):
        write_h5(tmp_path / "f.h5", {}, {"names": np.array(["a"])})
    assert not list(tmp_path.iterdir())


def test_reading_foreign_files_is_refused_in_a_sentence(tmp_path):
    with pytest.raises(FileNotFoundError, match="none.h5 does not exist"):
        read_h5(tmp_path / "none.h5")
    (tmp_path / "text.h5").write_text("hello")
    with pytest.raises(ValueError, match="text.h5 is not an HDF5 file"):
        read_h5(tmp_path / "text.h5")
    with pytest.raises(ValueError, match="is not an HDF5 file"):
        read_h5(tmp_path)
    with h5py.File(tmp_path / "foreign.h5", "w") as file:
        file["x"] = 1.0
    with pytest.raises(ValueError, match="was not written by sciml"):
        read_h5(tmp_path / "foreign.h5")
    write_h5(tmp_path / "new.h5", {}, {})
    with h5py.File(tmp_path / "new.h5", "a") as file:
        file.attrs["version"] = 99
    with pytest.raises(ValueError, match="format version 99, but this sciml reads version 1"):
        read_h5(tmp_path / "new.h5")
    write_h5(tmp_path / "whole.h5", {}, {"a": np.arange(1000.0)})
    (tmp_path / "cut.h5").write_bytes((tmp_path / "whole.h5").read_bytes()[:3000])
    with pytest.raises(ValueError, match="cut.h5 is damaged"):
        read_h5(tmp_path / "cut.h5")


def test_reading_does_not_follow_links_to_other_files(tmp_path):
    with h5py.File(tmp_path / "secret.h5", "w") as file:
        file["x"] = np.ones(3)
    write_h5(tmp_path / "f.h5", {}, {"a": np.ones(2)})
    with h5py.File(tmp_path / "f.h5", "a") as file:
        file["arrays/b"] = h5py.ExternalLink(str(tmp_path / "secret.h5"), "/x")
    assert read_h5(tmp_path / "f.h5")[1].keys() == {"a"}


def test_atomic_leaves_the_old_file_on_error(tmp_path):
    write_json(tmp_path / "f.json", {"old": 1})
    with pytest.raises(ZeroDivisionError), atomic(tmp_path / "f.json") as temporary:
        temporary.write_text("half")
        raise ZeroDivisionError
    assert read_json(tmp_path / "f.json") == {"old": 1}
    assert [p.name for p in tmp_path.iterdir()] == ["f.json"]


def test_unwritable_place_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    for write in (lambda p: write_json(p, {}), lambda p: write_h5(p, {}, {})):
        with pytest.raises(OSError, match="cannot write .*file/x"):
            write(tmp_path / "file" / "x")
    with (
        pytest.raises(OSError, match="cannot create the run folder .*file/run.partial"),
        start(tmp_path / "file" / "run"),
    ):
        pass


def test_a_disk_that_fills_up_is_an_error_that_leaves_the_old_file(tmp_path):
    """In a process of its own, whose files may not grow beyond a limit: the library that writes must not end it."""
    write_h5(tmp_path / "f.h5", {}, {"a": np.arange(3)})
    code = """
import resource, sys
import numpy as np
from sciml.files import write_h5
resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, 50_000))
try:
    write_h5(sys.argv[1], {}, {"a": np.ones(100_000)})
except OSError as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", code, tmp_path / "f.h5"], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0 and done.stderr == ""
    assert done.stdout == f"cannot write {tmp_path / 'f.h5'}: File too large\n"
    assert [p.name for p in tmp_path.iterdir()] == ["f.h5"]
    np.testing.assert_array_equal(read_h5(tmp_path / "f.h5")[1]["a"], np.arange(3))


def test_jsonable():
    value = {"t": (1, 2.5), "nan": float("inf"), "a": np.arange(2), "s": np.float64(0.5), "x": torch.ones(2), 3: None}
    expected = {"t": [1, 2.5], "nan": "inf", "a": [0, 1], "s": 0.5, "x": [1.0, 1.0], "3": None}
    assert jsonable({**value, "f": jsonable}) == {**expected, "f": "jsonable"}
    with pytest.raises(TypeError, match=r"metrics.rows\[0\] is a object"):
        jsonable({"rows": [object()]}, "metrics")


def test_reading_json_that_is_none(tmp_path):
    (tmp_path / "f.json").write_text("{")
    with pytest.raises(ValueError, match="f.json is not a JSON file"):
        read_json(tmp_path / "f.json")


# ---------------------------------------------------------------------------------------------------------------- runs


def test_a_finished_run(tmp_path):
    path = tmp_path / "deep" / "run"
    with start(path, width=4) as run:
        assert run.seed == 3 and not path.exists()
        run.array("points", torch.ones(4, 2))
        with run.figure("curve") as figure:
            figure.subplots().plot([0, 1], [0, 1])
        run.metrics["error"] = np.float64(0.25)
    assert {p.name for p in path.iterdir()} == {
        "config.json",
        "provenance.json",
        "metrics.json",
        "arrays.h5",
        "curve.png",
    }
    assert [p.name for p in path.parent.iterdir()] == ["run"]
    config, provenance, metrics = read_run(path)
    assert config == {"seed": 3, "width": 4} and metrics == {"error": 0.25}
    assert provenance["status"] == "finished" and provenance["command"] == "sciml run stub"
    assert provenance["versions"]["torch"] == torch.__version__.split("+")[0] or "+" in provenance["versions"]["torch"]
    description, arrays = read_h5(path / "arrays.h5")
    assert description["command"] == "sciml run stub" and np.array_equal(arrays["points"], np.ones((4, 2)))
    assert (path / "curve.png").read_bytes().startswith(b"\x89PNG")


def test_an_error_leaves_nothing_behind(tmp_path):
    with pytest.raises(ValueError, match="wrong"), start(tmp_path / "new" / "out" / "run") as run:
        run.array("a", np.ones(2))
        raise ValueError("wrong")
    assert not list(tmp_path.iterdir())


def test_an_error_keeps_other_runs(tmp_path):
    with start(tmp_path / "out" / "first"):
        pass
    with pytest.raises(ValueError, match="wrong"), start(tmp_path / "out" / "second"):
        raise ValueError("wrong")
    assert [p.name for p in (tmp_path / "out").iterdir()] == ["first"]


def test_an_existing_folder_is_refused(tmp_path):
    with start(tmp_path / "run"):
        pass
    with pytest.raises(FileExistsError, match="run already exists"), start(tmp_path / "run"):
        pass


def test_an_interrupted_run_is_kept_and_resumed(tmp_path):
    path, first, second = tmp_path / "run", Counting(), Counting(interrupt=True)
    with pytest.raises(Interrupted, match="run"), start(path) as run:
        run.solve("one", first, "problem")
        run.solve("two", second, "problem", seed=8)
    assert read_run(path)[1]["status"] == "interrupted" and read_run(path)[2] is None
    assert first.calls[0][1] == 3 and second.calls[0][1] == 8
    assert (path / "two.checkpoint.h5").exists() and not (path / "one.checkpoint.h5").exists()

    second.interrupt = False
    with resumed(path, load) as run:
        assert run.solve("one", first, "problem").value == 1.0
        run.solve("two", second, "problem", seed=8)
        run.metrics["done"] = True
    assert len(first.calls) == 1 and second.calls[1][2] == path / "two.checkpoint.h5"
    assert not (path / "two.checkpoint.h5").exists()
    assert read_run(path)[1]["status"] == "finished" and read_run(path)[2] == {"done": True}
    with pytest.raises(ValueError, match="is finished"), resumed(path, load):
        pass


def killed(path, **provenance):
    """The folder that a process leaves that was killed."""
    folder = path.with_name(path.name + ".partial")
    folder.mkdir()
    write_json(folder / "config.json", {"seed": 0})
    write_json(folder / "provenance.json", {"status": "running", "command": "c", "started": "s", **provenance})
    return folder


def test_a_killed_run_is_resumed_under_its_final_name(tmp_path):
    folder = killed(tmp_path / "run", process=2**22 + 1, host=os.uname().nodename)
    with resumed(folder, load):
        pass
    assert [p.name for p in tmp_path.iterdir()] == ["run"] and read_run(tmp_path / "run")[1]["status"] == "finished"


def test_a_run_that_another_process_writes_is_left_alone(tmp_path):
    folder = killed(tmp_path / "run", process=os.getppid(), host=os.uname().nodename)
    with pytest.raises(ValueError, match="is being written by process"), resumed(folder, load):
        pass


def test_an_error_while_resuming_keeps_the_earlier_work(tmp_path):
    folder = killed(tmp_path / "run")
    with pytest.raises(ZeroDivisionError), resumed(folder, load):
        raise ZeroDivisionError
    assert read_run(folder)[1]["status"] == "interrupted"


def test_divergence_is_an_error_unless_it_is_counted(tmp_path):
    diverged = Counting(Answer(status="diverged: the loss became nan at step 3"))
    with start(tmp_path / "counted") as run:
        assert run.solve("net", diverged, None, tolerate_divergence=True).status.startswith("diverged")
    with pytest.raises(Diverged, match="net diverged: the loss became nan at step 3"), start(tmp_path / "run") as run:
        run.solve("net", diverged, None)
    assert not (tmp_path / "run").exists()


def test_a_solution_of_unknown_kind_keeps_its_checkpoint_instead(tmp_path):
    with start(tmp_path / "run") as run:
        write_h5(run.path / "net.checkpoint.h5", {}, {})
        run.solve("net", Counting(Answer(savable=False)), None)
    assert (tmp_path / "run" / "net.checkpoint.h5").exists() and not (tmp_path / "run" / "net.h5").exists()


@pytest.mark.parametrize("content", [None, {"other.json": "{}"}, {"config.json": "[]", "provenance.json": "[]"}])
def test_what_is_not_a_run_is_refused(tmp_path, content):
    path = tmp_path / "thing"
    if content is None:
        path.write_text("")
    else:
        path.mkdir()
        for name, text in content.items():
            (path / name).write_text(text)
    with pytest.raises(ValueError, match="thing is not a run of sciml"):
        read_run(path)


def test_environment_is_json_without_paths():
    text = json.dumps(environment())
    assert "cores" in text and "python" in text and os.path.expanduser("~") not in text
