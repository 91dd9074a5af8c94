"""The command: what each subcommand prints, and that every mistake is one sentence with exit code 2."""

import contextlib
import io
import json
import os
import re
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import pytest

from sciml.__main__ import _print_metrics, command
from sciml.catalogue import listings
from sciml.experiments import bless, summarise
from sciml.options import configure, parse

STUB = '''
"""A stub: the metrics are its options."""
from dataclasses import dataclass, field

import numpy as np

@dataclass(frozen=True)
class Inner:
    depth: int = 2

@dataclass(frozen=True)
class Config:
    width: float = 1.5
    scales: tuple[int, ...] = (1, 2)
    fail: bool = False
    inner: Inner = field(default_factory=Inner)

    def __post_init__(self):
        if self.width <= 0:
            raise ValueError(f"width is {self.width}, but must be positive")

VARIANTS = {"smoke": Config(), "paper": Config(width=3.0)}

def run(config, run):
    run.array("ones", config.width * np.ones(4))
    with run.figure("empty", 2, 2):
        pass
    if config.fail:
        return 1 / 0
    rows = [{"method": "net", "rel_l2": config.width * (run.seed + 1)}, {"method": "fd", "rel_l2": None}]
    return {"error": config.width * (run.seed + 1), "table": rows, "scales": config.scales, "depth": config.inner.depth}
'''


@dataclass
class Done:
    stdout: str
    stderr: str


def sciml(*arguments, cwd, check=0):
    """Carry out a command line in this process."""
    out, err, before = io.StringIO(), io.StringIO(), Path.cwd()
    os.chdir(cwd)
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            code = command([str(a) for a in arguments])
    finally:
        os.chdir(before)
    assert code == check, out.getvalue() + err.getvalue()
    return Done(out.getvalue(), err.getvalue())


def refused(*arguments, cwd):
    """The sentence that a mistake gets; nothing else may be said, and nothing may be left."""
    before = set(cwd.rglob("*"))
    done = sciml(*arguments, cwd=cwd, check=2)
    assert "Traceback" not in done.stderr and done.stderr.startswith("sciml: ") and done.stderr.count("\n") == 1
    assert {p for p in cwd.rglob("*") if "__pycache__" not in p.parts} == before
    return done.stderr


@pytest.fixture
def stub(tmp_path):
    (tmp_path / "stub.py").write_text(STUB)
    return tmp_path


def folder(cwd, pattern="stub-*"):
    (found,) = (cwd / "runs").glob(pattern)
    return found


# ------------------------------------------------------------------------------------------------------------ speaking


def test_help_and_list_answer_without_torch(tmp_path):
    code = "import sys; from sciml.__main__ import command; command({!r}); print(*sys.modules, file=sys.stderr)"
    for arguments in (["--help"], ["list"], ["list", "--plain"], []):
        words = [sys.executable, "-c", code.format(arguments)]
        done = subprocess.run(words, cwd=tmp_path, check=True, capture_output=True, text=True)
        assert (
            not {"torch", "numpy", "matplotlib", "cantera", "scipy", "h5py"} & set(done.stderr.split()) and done.stdout
        )


def test_list_reads_what_the_files_say():
    import importlib

    for listing in listings():
        module = importlib.import_module(f"sciml.problems.{listing.name}")
        assert listing.variants == tuple(module.VARIANTS), "VARIANTS must be written as a literal"
        assert {"smoke", "paper"} <= set(listing.variants)
        assert len(listing.summary) > 10 and len(listing.options) > 0


def test_a_run_leaves_a_folder_and_prints_its_table(stub):
    done = sciml("run", "stub.py", "smoke", "--set", "scales=4,8", "--set", "inner.depth=5", cwd=stub)
    path = folder(stub)
    assert {p.name for p in path.iterdir()} >= {
        "config.json",
        "metrics.json",
        "provenance.json",
        "arrays.h5",
        "empty.png",
    }
    metrics = json.loads((path / "metrics.json").read_text())
    assert metrics["error"] == 1.5 and metrics["scales"] == [4, 8] and metrics["depth"] == 5
    assert (
        re.search(r"method +rel_l2", done.stdout) and re.search(r"fd +-", done.stdout) and "error: 1.5" in done.stdout
    )
    assert str(path.relative_to(stub)) in done.stdout and done.stderr == ""


def test_the_first_variant_is_the_default_and_others_go_by_name(stub):
    sciml("run", "stub.py", cwd=stub)
    sciml("run", "stub.py", "paper", "--seed", 2, "--out", "else/where", cwd=stub)
    assert json.loads((folder(stub, "stub-smoke-*") / "config.json").read_text())["config"]["width"] == 1.5
    (path,) = (stub / "else" / "where").iterdir()
    assert json.loads((path / "metrics.json").read_text())["error"] == 9.0


def test_show_prints_what_a_run_was(stub):
    sciml("run", "stub.py", "--set", "width=2", cwd=stub)
    shown = sciml("show", folder(stub), cwd=stub).stdout
    for part in (
        "--set width=2",
        "status: finished",
        "width = 2",
        "inner.depth = 2",
        "error: 2",
        "empty.png",
        "arrays.h5",
    ):
        assert part in shown


def test_rows_of_another_kind_are_a_table_of_their_own(monkeypatch, capsys):
    from sciml import results

    rows = [{"method": "a", "size": 3}, {"method": "b"}, {"metric": "delay", "max": 0.5}]
    monkeypatch.setattr(results, "read_run", lambda path: (None, None, {"table": rows, "total": 2}))
    _print_metrics(Path("anywhere"))
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert lines == [["method", "size"], ["a", "3"], ["b", "-"], ["metric", "max"], ["delay", "0.5"], ["total:", "2"]]


def test_compare_shows_what_differs(stub):
    sciml("run", "stub.py", cwd=stub)
    first = folder(stub)
    sciml("run", "stub.py", "paper", cwd=stub)
    second = folder(stub, "stub-paper-*")
    shown = sciml("compare", first, second, cwd=stub).stdout
    assert re.search(r"config.width +1.5 +3 +2", shown) and re.search(r"error +1.5 +3 +2", shown)
    assert "depth" not in shown and "array ones: relative difference 0.5" in shown


def test_seeds_make_one_folder_with_a_summary(stub):
    done = sciml("run", "stub.py", "--seeds", "0,1,4", cwd=stub)
    path = folder(stub)
    metrics = json.loads((path / "metrics.json").read_text())
    assert metrics["median"]["error"] == 3.0 and metrics["min"]["error"] == 1.5 and metrics["max"]["error"] == 7.5
    assert (
        metrics["median"]["table"][0] == {"method": "net", "rel_l2": 3.0} and metrics["seeds"]["seed 4"]["error"] == 7.5
    )
    assert {p.name for p in path.iterdir() if p.is_dir()} == {"seed0", "seed1", "seed4"}
    assert "median over 3 seeds" in done.stdout


def test_summary_of_what_differs_in_kind():
    found = summarise({"seed 0": {"s": "a", "t": "x", "n": None}, "seed 1": {"s": "a", "t": "y", "n": 1.0}})
    assert found["median"] == {"s": "a", "t": "varies", "n": "varies"}


# ------------------------------------------------------------------------------------------------------------ mistakes


def test_mistakes_in_the_command_line(stub):
    for arguments, sentence in {
        ("rum",): "No such command 'rum'",
        ("run",): "Missing argument",
        (
            "run",
            "stub.py",
            "--sed",
            "3",
        ): "the options of `sciml run` are --set, --seed, --seeds, --out, --bless, --scheduler, --help",
        ("run", "poison"): "there is no problem 'poison'",
        ("list", "poison"): "there is no problem 'poison'",
        ("run", "none.py"): "there is no file",
        ("run", "stub.py", "smok"): "stub has no variant 'smok'; did you mean 'smoke' among smoke, paper",
        ("run", "stub.py", "--set", "widht=2"): "there is no option 'widht'; did you mean 'width' among width, scales",
        ("run", "stub.py", "--scheduler", "tcp://here:1"): "there is no option 'scheduler'",
        ("run", "stub.py", "--set", "width"): "--set is 'width', but must be KEY=VALUE",
        ("run", "stub.py", "--set", "width=wide"): "width is 'wide', but must be a number",
        ("run", "stub.py", "--set", "width.depth=1"): "'width' has no parts",
        ("run", "stub.py", "--set", "inner.dept=1"): "did you mean 'depth'",
        ("run", "stub.py", "--set", "width=-1"): "width is -1.0, but must be positive",
        ("run", "stub.py", "--seeds", "0,0"): "--seeds is '0,0'",
        ("run", "stub.py", "--seeds", "a"): "--seeds is 'a'",
        ("run", "stub.py", "--seed", "a"): "Invalid value for '--seed'",
        ("run", "stub.py", "--out", "stub.py"): "cannot create the run folder",
        ("show", "none"): "none does not exist",
        ("show", "stub.py"): "stub.py is not a run of sciml",
        ("resume", "stub.py"): "stub.py is not a run of sciml",
        ("compare", "stub.py", "stub.py"): "stub.py is not a run of sciml",
    }.items():
        assert sentence in refused(*arguments, cwd=stub), arguments


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("def f(:\n  pass", "mine.py, line 1: invalid syntax"),
        ("x = 1\ny = x / 0", "mine.py, line 2: ZeroDivisionError: division by zero"),
        ("x = 1", "mine.py defines neither `problem` nor `VARIANTS` and `run`"),
        ("import nonsense", "mine.py, line 1: ModuleNotFoundError: No module named 'nonsense'"),
        ("problem = 3", "problem is 3, but must be an Elliptic, an Evolution or a PDE"),
        ("from sciml import Bocks", "mine.py, line 1: ImportError: cannot import name 'Bocks'"),
        ("from sciml import Box\n\nBox([1.0], [0.0])", "mine.py, line 3: "),
        ("raise KeyError('lost')", "mine.py, line 1: KeyError: 'lost'"),
        ("VARIANTS = {'a': 1}\ndef run(config, run):\n    return None", "returned None, but must return a mapping"),
    ],
)
def test_mistakes_in_a_file(tmp_path, text, sentence):
    (tmp_path / "mine.py").write_text(text)
    assert sentence in refused("run", "mine.py", cwd=tmp_path)


def test_an_error_while_running_leaves_no_folder(stub):
    line = STUB[: STUB.index("1 / 0")].count("\n") + 1
    assert f"stub.py, line {line}: ZeroDivisionError" in refused("run", "stub.py", "--set", "fail=yes", cwd=stub)
    assert "ZeroDivisionError" in refused("run", "stub.py", "--set", "fail=yes", "--seeds", "0,1", cwd=stub)


def test_the_traceback_can_be_asked_for(stub, monkeypatch):
    monkeypatch.setenv("SCIML_TRACEBACK", "1")
    done = sciml("run", "stub.py", "--set", "fail=1", cwd=stub, check=2)
    assert "Traceback" in done.stderr and "return 1 / 0" in done.stderr


def test_a_diverged_run_is_an_error(tmp_path):
    (tmp_path / "mine.py").write_text(
        "class Solver:\n"
        "    def solve(self, problem, **options):\n"
        "        from sciml import Solution\n"
        "        return Solution(lambda x: x, dim=1, status='diverged: the loss became nan at step 3')\n"
        "VARIANTS = {'smoke': None}\n"
        "def run(config, run):\n"
        "    run.solve('net', Solver(), None)\n"
    )
    assert "net diverged: the loss became nan at step 3" in refused("run", "mine.py", cwd=tmp_path)


# -------------------------------------------------------------------------------------------------------- interruption

SLOW = '''
"""A stub that waits in its second part when it runs for the first time."""
import pathlib, time
import numpy as np
from sciml.files import write_h5

class Wait:
    def solve(self, problem, seed, callbacks, checkpoint):
        if not checkpoint.exists():
            write_h5(checkpoint, {}, {})
            (pathlib.Path(__file__).parent / f"waiting{seed}").touch()
            time.sleep(60)
        return type("Done", (), {"seconds": 0.5, "status": "done", "savable": False})()

VARIANTS = {"smoke": None}

def run(config, run):
    run.solve("part", Wait(), None)
    return {"seed": run.seed}
'''


def interrupted(cwd, how, *arguments, waiting="waiting0"):
    def heard():  # a job in the background would inherit that Ctrl-C is ignored
        signal.signal(signal.SIGINT, signal.SIG_DFL)

    command = [sys.executable, "-m", "sciml", *arguments]
    process = subprocess.Popen(command, cwd=cwd, stderr=subprocess.PIPE, text=True, preexec_fn=heard)
    end = time.monotonic() + 60
    while not (cwd / waiting).exists():
        assert process.poll() is None and time.monotonic() < end
        time.sleep(0.02)
    process.send_signal(how)
    said = process.communicate(timeout=60)[1]
    return process.returncode, said


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_run_says_how_to_resume(tmp_path, how):
    (tmp_path / "slow.py").write_text(SLOW)
    code, said = interrupted(tmp_path, how, "run", "slow.py")
    path = folder(tmp_path, "slow-*")
    assert code == 130 and said == f"interrupted; resume with `sciml resume {path.relative_to(tmp_path)}`\n"
    assert "status: interrupted" in sciml("show", path, cwd=tmp_path).stdout
    assert "seed: 0" in sciml("resume", path, cwd=tmp_path / "runs").stdout
    assert "is finished" in refused("resume", path, cwd=tmp_path)


def test_a_killed_run_is_resumed(tmp_path):
    (tmp_path / "slow.py").write_text(SLOW)
    interrupted(tmp_path, signal.SIGKILL, "run", "slow.py")
    path = folder(tmp_path, "slow-*")
    assert path.name.endswith(".partial")
    sciml("resume", str(path).removesuffix(".partial"), cwd=tmp_path)
    assert not folder(tmp_path, "slow-*").name.endswith(".partial")


def test_interrupted_seeds_are_resumed_where_they_were(tmp_path):
    (tmp_path / "slow.py").write_text(SLOW.replace("not checkpoint.exists()", "seed == 1 and not checkpoint.exists()"))
    code, _ = interrupted(tmp_path, signal.SIGINT, "run", "slow.py", "--seeds", "0,1,2", waiting="waiting1")
    path = folder(tmp_path, "slow-*")
    before = (path / "seed0" / "provenance.json").read_text()
    assert code == 130 and not (path / "seed2").exists()
    sciml("resume", path, cwd=tmp_path)
    assert (path / "seed0" / "provenance.json").read_text() == before
    assert json.loads((path / "metrics.json").read_text())["median"]["seed"] == 1


def test_a_changed_configuration_is_not_resumed(tmp_path):
    (tmp_path / "slow.py").write_text(SLOW)
    interrupted(tmp_path, signal.SIGINT, "run", "slow.py")
    (tmp_path / "slow.py").write_text(SLOW.replace("VARIANTS = {'smoke': None}", "").replace("None}", "3}"))
    path = folder(tmp_path, "slow-*")
    assert "began with another configuration" in refused("resume", path, cwd=tmp_path)


# ------------------------------------------------------------------------------------------------------------- options


@dataclass(frozen=True)
class Options:
    whole: int = 1
    number: float = 1.0
    flag: bool = False
    word: str = "a"
    perhaps: int | None = 3
    choice: Literal["ritz", "pinn"] = "ritz"
    pair: tuple[float, float] = (0.0, 1.0)
    nested: tuple[tuple[int, ...], ...] = ()
    words: tuple[str, ...] = ()


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("whole=12", 12),
        ("whole=1e4", 10_000),
        ("number=1e-3", 1e-3),
        ("number=2", 2.0),
        ("number=inf", float("inf")),
        ("flag=yes", True),
        ("flag=False", False),
        ("word=a=b", "a=b"),
        ("perhaps=none", None),
        ("perhaps=5", 5),
        ("choice=pinn", "pinn"),
        ("pair=1, 2.5", (1.0, 2.5)),
        ("pair=(1,2)", (1.0, 2.0)),
        ("nested=[[1,2],[3]]", ((1, 2), (3,))),
        ("nested=((1,2),(3,))", ((1, 2), (3,))),
        ("words=sine,tanh", ("sine", "tanh")),
        ("words=", ()),
    ],
)
def test_values_are_read_by_their_annotation(text, value):
    name, config = configure({"smoke": Options()}, "smoke", [text], "stub")
    found = getattr(config, text.partition("=")[0])
    assert name == "smoke" and found == value and type(found) is type(value)


@pytest.mark.parametrize(
    "text",
    ["whole=1.5", "whole=inf", "number=x", "flag=2", "perhaps=x", "choice=x", "pair=1", "pair=1,x", "nested=1,2"],
)
def test_values_of_another_type_are_refused(text):
    name, _, value = text.partition("=")
    with pytest.raises(ValueError, match=f"^{name} is '{value}', but must be "):
        configure({"smoke": Options()}, None, [text], "stub")


def test_a_kind_of_option_that_text_cannot_give_is_refused():
    with pytest.raises(ValueError, match="activation is 'sine', but must be Path"):
        parse("sine", Path, "activation")


# ------------------------------------------------------------------------------------------------------------ blessing


def finished(path, settings, metrics):
    path.mkdir()
    (path / "config.json").write_text(json.dumps(settings))
    (path / "metrics.json").write_text(json.dumps(metrics))
    (path / "provenance.json").write_text(json.dumps({"status": "finished", "command": "sciml run p holes --seed 1"}))


def test_blessing_keeps_the_numbers_and_where_they_come_from(tmp_path):
    settings = {"problem": "p", "variant": "holes", "overrides": [], "config": {"mu": 3}, "seed": 1}
    finished(tmp_path / "run", settings, {"error": 0.1})
    target = bless(tmp_path / "run", tmp_path)
    record = json.loads(target.read_text())
    assert target.name == "p_holes.json" and record["metrics"] == {"error": 0.1} and record["seeds"] == [1]
    assert record["config"] == {"mu": 3} and record["provenance"]["command"] == "sciml run p holes --seed 1"


def test_only_a_finished_variant_is_blessed(stub):
    sciml("run", "stub.py", cwd=stub)
    assert "only a variant as it stands can be blessed" in refused("bless", folder(stub), cwd=stub)
    settings = {"problem": "p", "variant": "holes", "overrides": ["mu=2"], "config": {}, "seed": 1}
    finished(stub / "changed", settings, {})
    assert "only a variant as it stands can be blessed" in refused("bless", stub / "changed", cwd=stub)
    (stub / "changed" / "metrics.json").unlink()
    assert "only a finished run can be blessed" in refused("bless", stub / "changed", cwd=stub)
