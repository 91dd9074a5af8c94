"""Run folders: the bytes, names and provenance of an experiment.

A finished run is a folder with

    config.json       the problem, its variant, every option, the seed
    metrics.json      what `run(config, run)` returned
    provenance.json   status, command, commit, versions, hardware, times
    arrays.h5         named arrays, with the provenance beside them
    NAME.png, NAME.h5 figures and solutions

A run is written as ``NAME.partial`` and renamed when it is complete, so a folder without that ending is never
half-written. An error removes it; Ctrl-C keeps it with status "interrupted"; a killed process leaves the ``.partial``.
Both can be resumed: solutions already finished are loaded, an unfinished one continues from its checkpoint.
"""

from __future__ import annotations

import os
import platform
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np

from sciml.files import atomic, jsonable, read_h5, read_json, write_h5, write_json

__all__ = ["Diverged", "Interrupted", "Run", "begin", "environment", "read_h5", "read_run", "resumed", "write_h5"]

_PARTIAL = ".partial"
_PACKAGES = ("sciml-solvers", "torch", "numpy", "scipy", "h5py", "scikit-fem", "cantera", "matplotlib", "gmsh", "pyamg")


class Diverged(ArithmeticError):
    """A solver ended without an answer; the message is its status."""


def environment() -> dict[str, Any]:
    """Commit, package versions and hardware, for the record of a run."""
    versions = {}
    for package in _PACKAGES:
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return {
        **_commit(),
        "python": platform.python_version(),
        "versions": versions,
        "platform": platform.platform(terse=True),
        "device": _device(),
    }


def _commit() -> dict[str, Any]:
    """The commit of the checkout that this file lies in, if it lies in one."""

    def git(*words: str) -> str | None:
        try:
            done = subprocess.run(
                ["git", "-C", str(Path(__file__).parent), *words], capture_output=True, text=True, timeout=10
            )
        except (OSError, subprocess.TimeoutExpired):
            return None
        return done.stdout.strip() if done.returncode == 0 else None

    # a package installed inside somebody else's checkout is not described by their commit
    if git("ls-files", "--error-unmatch", Path(__file__).name) is None:
        return {"commit": None}
    changed = git("status", "--porcelain", "--", ":(top)sciml", ":(top)problems", ":(top)pyproject.toml")
    return {"commit": git("rev-parse", "HEAD"), "uncommitted_changes": bool(changed)}


def _device() -> dict[str, Any]:
    model = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        names = [
            line.split(":", 1)[1].strip() for line in cpuinfo.read_text().splitlines() if line[:10] == "model name"
        ]
        model = names[0] if names else model
    device: dict[str, Any] = {"cpu": model, "cores": os.cpu_count()}
    if hasattr(os, "sched_getaffinity"):
        device["cores"] = len(os.sched_getaffinity(0))
    torch = sys.modules.get("torch")  # never imported just to be described
    if torch is not None:
        device["threads"] = torch.get_num_threads()
        if torch.cuda.is_available():
            device["gpu"] = torch.cuda.get_device_name()
    return device


class Interrupted(Exception):
    """Ctrl-C during a run that was kept; the message is its folder."""


class Run:
    """One experiment with one seed, writing into one folder.

    Attributes:
        path: the folder while it is being written.
        seed: of this run.
        metrics: what will become metrics.json.
        precious: set it once there is something that must survive an error: the folder is then kept, to be resumed.
        load: reads a saved solution back, ``load(path, problem=problem)``; handed in, since solutions stand above.
    """

    def __init__(self, path: Path, seed: int, load: Callable[..., Any], provenance: dict[str, Any]) -> None:
        self.path, self.seed = path, seed
        self.metrics: dict[str, Any] = {}
        self.precious = False
        self.load, self._provenance = load, provenance
        self._arrays: dict[str, np.ndarray] = {}

    def array(self, name: str, values: Any) -> None:
        """Keep an array (numpy or tensor) under `name` in arrays.h5."""
        if hasattr(values, "detach"):
            values = values.detach().cpu()
        self._arrays[name] = np.asarray(values)

    @contextmanager
    def figure(self, name: str, width: float = 8.0, height: float = 4.5) -> Iterator[Any]:
        """A matplotlib `Figure` that is saved as ``name.png`` when the block ends.

        Args:
            name: of the file, without ending.
            width: in inches.
            height: in inches.
        """
        from matplotlib.figure import Figure  # not pyplot: no window system and no global list of figures

        figure = Figure(figsize=(width, height), layout="constrained")
        yield figure
        with atomic(self.path / f"{name}.png") as temporary:
            figure.savefig(temporary, format="png", dpi=120)

    def solve(
        self,
        name: str,
        solver: Any,
        problem: Any,
        seed: int | None = None,
        callbacks: Sequence[Callable[[Any], Any]] = (),
        tolerate_divergence: bool = False,
    ) -> Any:
        """Solve `problem`, or load the solution if an interrupted run had already finished it.

        Args:
            name: of the files ``name.h5`` (the Solution) and ``name.checkpoint.h5`` (while it is being made).
            solver: anything with ``solve(problem, seed=, callbacks=, checkpoint=)``.
            problem: what to solve.
            seed: None takes the run's.
            callbacks: handed to the solver; they do not see steps from before an interruption. Diagnostics among them
                leave their picture and numbers in the folder (of all steps: the solution's history has them).
            tolerate_divergence: return a diverged Solution instead of raising, for an experiment that counts them.

        Raises:
            Diverged: if the solution's status begins with "diverged".
        """
        path, checkpoint = self.path / f"{name}.h5", self.path / f"{name}.checkpoint.h5"
        if path.exists():
            print(f"{name}: finished before the interruption, loaded", flush=True)
            solution = self.load(path, problem=problem)
            self._keep(name, callbacks, solution)
            return solution
        print(f"{name} ...", flush=True)
        seed = self.seed if seed is None else seed
        solution = solver.solve(problem, seed=seed, callbacks=callbacks, checkpoint=checkpoint)
        print(f"{name}: {solution.seconds:.1f} s, {solution.status or 'done'}", flush=True)
        if solution.status.startswith("diverged") and not tolerate_divergence:
            raise Diverged(f"{name} {solution.status}")
        if solution.savable:
            solution.save(path)
            checkpoint.unlink(missing_ok=True)
        # otherwise the checkpoint stays: its training is finished, so a resumed run passes through it at once
        self._keep(name, callbacks, solution)
        return solution

    def _keep(self, name: str, callbacks: Sequence[Any], solution: Any) -> None:
        """Save what diagnostics recorded; recognised by their shape, since they stand above."""
        records = getattr(getattr(solution, "history", None), "records", None)
        for callback in callbacks if records is not None else ():  # without a history nothing was trained
            if hasattr(callback, "save") and hasattr(callback, "records"):
                callback.save(self.path, name, records)

    def _write(self, status: str) -> None:
        self._provenance["device"] = _device()  # again: by now torch is there to be asked
        if self._arrays:
            write_h5(self.path / "arrays.h5", {"kind": "arrays", **jsonable(self._provenance)}, self._arrays)
        if status == "finished":
            write_json(self.path / "metrics.json", self.metrics)
        _record(self.path, self._provenance, status)


def _record(path: Path, provenance: Mapping[str, Any], status: str) -> None:
    finished = {} if status == "running" else {"ended": _now()}
    process = {"process": os.getpid(), "host": socket.gethostname()} if status == "running" else {}
    write_json(path / "provenance.json", {"status": status, **provenance, **finished, **process})


def _now() -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S%z")


@contextmanager
def begin(path: Path, config: Mapping[str, Any], command: str, load: Callable[..., Any]) -> Iterator[Run]:
    """A new run folder: renamed to `path` when the block ends, kept on Ctrl-C, removed if it raises.

    What raises after a seed was finished, or after the run became `precious`, leaves a folder to be resumed.

    Args:
        path: the folder of the finished run; must not exist.
        config: written to config.json; ``config["seed"]`` is the run's seed.
        command: that repeats the run.
        load: reads a saved solution back, ``load(path, problem=problem)``.

    Raises:
        OSError: if the folder exists or cannot be written.
    """
    partial = path.with_name(path.name + _PARTIAL)
    if path.exists() or partial.exists():
        raise FileExistsError(f"{path if path.exists() else partial} already exists")
    made = _make(partial)
    provenance = {"command": command, "started": _now(), **environment()}
    run = Run(partial, config.get("seed", 0), load, provenance)
    try:
        write_json(partial / "config.json", config)
        _record(partial, provenance, "running")
        yield run
        run._write("finished")
        os.replace(partial, path)
    except (KeyboardInterrupt, Interrupted) as interrupt:
        run._write("interrupted")
        os.replace(partial, path)
        raise Interrupted(path) from interrupt
    except BaseException:
        if run.precious or any(partial.glob("seed*/")):
            run._write("interrupted")
            os.replace(partial, path)
            print(f"what was finished is kept; resume with `sciml resume {path}`", file=sys.stderr)
            raise
        shutil.rmtree(partial, ignore_errors=True)
        for folder in made:
            if not any(folder.iterdir()):
                folder.rmdir()
        raise


def _make(partial: Path) -> list[Path]:
    """Create a folder; return those above it that had to be created, innermost first."""
    above = [p for p in partial.parents if not p.exists()]
    try:
        partial.mkdir(parents=True)
    except OSError as error:
        raise OSError(f"cannot create the run folder {partial}: {error.strerror or error}") from error
    return above


@contextmanager
def resumed(path: Path, load: Callable[..., Any]) -> Iterator[Run]:
    """An unfinished run folder again, in place; an error leaves it as it was, still unfinished.

    Raises:
        ValueError: if the folder is not a run, is finished, or another process is writing it.
    """
    _, provenance, _ = read_run(path)
    if provenance["status"] == "finished":
        raise ValueError(f"{path} is finished, so there is nothing to resume")
    if provenance["status"] == "running" and provenance.get("host") == socket.gethostname():
        if provenance.get("process") != os.getpid() and _alive(provenance.get("process", 0)):
            raise ValueError(f"{path} is being written by process {provenance['process']}")
    config = read_json(path / "config.json")
    kept = {k: v for k, v in provenance.items() if k not in {"status", "ended", "process", "host"}}
    run = Run(path, config.get("seed", 0), load, {**kept, "resumed": _now(), **environment()})
    _record(path, run._provenance, "running")
    try:
        yield run
        run._write("finished")
        if path.name.endswith(_PARTIAL):
            os.replace(path, path.with_name(path.name.removesuffix(_PARTIAL)))
    except BaseException as error:
        run._write("interrupted")
        if isinstance(error, (KeyboardInterrupt, Interrupted)):
            raise Interrupted(path) from error
        raise


def _alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def read_run(path: str | Path) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any] | None]:
    """Config, provenance and metrics (None while unfinished) of a run folder.

    Raises:
        ValueError: if `path` is not a run folder.
    """
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"{path} does not exist")
    names = ("config.json", "provenance.json")
    if not path.is_dir() or not all((path / n).is_file() for n in names):
        raise ValueError(f"{path} is not a run of sciml: a run is a folder with config.json and provenance.json")
    config, provenance = (read_json(path / n) for n in names)
    if not isinstance(config, dict) or not isinstance(provenance, dict) or "status" not in provenance:
        raise ValueError(f"{path} is not a run of sciml: its config.json or provenance.json was not written by it")
    metrics = path / "metrics.json"
    return config, provenance, read_json(metrics) if metrics.exists() else None
