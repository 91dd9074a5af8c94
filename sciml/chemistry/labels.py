"""What states become: sampled states and their labels in one HDF5 file, made by workers in chunks that survive a crash.

A label is a window: the state and its successors at dt, 2 dt, ..., integrated without a restart, so that a window of
many steps costs hardly more than one step and serves for training on pairs and on rollouts alike.

While it is made, `labels.h5` is a folder `labels.h5.chunks` with the plan (states and settings) and one file for each
finished chunk, all written atomically; `label` with the same plan, or `resume`, goes on from there.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, fields, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from numpy.typing import NDArray

from sciml import parallel
from sciml.chemistry.mechanism import Mechanism, Reactor
from sciml.chemistry.reactors import ATOL, RTOL, Integrator, advance, trajectories
from sciml.files import jsonable, read_h5, write_h5

if TYPE_CHECKING:
    from sciml.chemistry.samples import Samples

__all__ = ["Audit", "Dataset", "audit", "label", "resume"]

Array = NDArray[np.float64]
Progress = Callable[[int, int], None]
_LMBDA = 0.1  # of the Box-Cox transform in which labels are audited


@dataclass(frozen=True)
class Dataset:
    """Labelled states with all that says how they came about.

    Attributes:
        windows: (n, steps+1, 2+s), each state and its successors.
        origin: (n,) index into `origins`.
        origins: the samplers, by name.
        left_out: how many states each filter refused, and how many were not integrated ("refused", "failed").
        mechanism: the string that names the mechanism.
        hash: of its content.
        species: in the order of the fractions.
        dt: s.
        reactor: "constant-pressure" or "constant-volume".
        rtol: of the integrator.
        atol: of the integrator.
        seed: of the sampling; None if not known.
        ranges: of the charges that the states came from; see `sampling.Ranges`.
    """

    windows: Array
    origin: NDArray[np.int64]
    origins: tuple[str, ...]
    left_out: Mapping[str, int]
    mechanism: str
    hash: str
    species: tuple[str, ...]
    dt: float
    reactor: Reactor = "constant-pressure"
    rtol: float = RTOL
    atol: float = ATOL
    seed: int | None = None
    ranges: Mapping[str, Any] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.windows)

    @property
    def steps(self) -> int:
        """Steps of each window."""
        return self.windows.shape[1] - 1

    @property
    def states(self) -> Array:
        """All states that have a successor, (n steps, 2+s)."""
        return self.windows[:, :-1].reshape(-1, self.windows.shape[2])

    @property
    def next_states(self) -> Array:
        """The state dt after each of `states`, of the same shape."""
        return self.windows[:, 1:].reshape(-1, self.windows.shape[2])

    def check(self, mechanism: Mechanism) -> None:
        """Refuse a mechanism of other content than the one that made the labels.

        Raises:
            ValueError: if it is another one.
        """
        if mechanism.hash != self.hash:
            raise ValueError(
                f"the labels are those of mechanism {self.mechanism!r} with {len(self.species)} species, but "
                f"{mechanism.source!r} ({mechanism.n_species} species) has other content"
            )

    def save(self, path: str | Path) -> None:
        """Write one HDF5 file, atomically.

        Raises:
            OSError: if it cannot be written, as on a full disk.
        """
        named = [f.name for f in fields(self) if f.name not in ("windows", "origin")]
        description = {"kind": "labels", **{name: getattr(self, name) for name in named}}
        write_h5(path, description, {"windows": self.windows, "origin": self.origin})

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """Read what `save` wrote.

        Raises:
            FileNotFoundError: if there is no such file; an unfinished one is named with what is missing.
            ValueError: if it holds something else.
        """
        if not Path(path).exists() and folder_of(path).exists():
            raise FileNotFoundError(f"{path} is unfinished: {standing(path)}; `resume` continues")
        description, arrays = _read(path, "labels")
        description["origins"], description["species"] = map(tuple, (description["origins"], description["species"]))
        return cls(windows=arrays["windows"], origin=arrays["origin"], **description)


def _read(path: str | Path, kind: str) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    description, arrays = read_h5(path)
    if (found := description.pop("kind", None)) != kind:
        raise ValueError(f"{path} holds {found!r}, but {kind} are wanted")
    return description, arrays


# ------------------------------------------------------------------ labelling


def label(
    mechanism: Mechanism,
    samples: Samples,
    path: str | Path,
    dt: float = 1e-6,
    steps: int = 1,
    reactor: Reactor = "constant-pressure",
    rtol: float = RTOL,
    atol: float = ATOL,
    workers: int | Any = 0,
    chunk: int = 500,
    seed: int | None = None,
    ranges: Mapping[str, Any] | None = None,
    progress: Progress | None = None,
) -> Dataset:
    """Integrate every state and keep the windows in `path`; continue where an interrupted call with the same plan was.

    Args:
        mechanism: the chemistry; workers other than this process read it again from its file.
        samples: the states and where they come from.
        path: of the HDF5 file; replaced if it is a finished one.
        dt: s.
        steps: successors of each state.
        reactor: "constant-pressure" or "constant-volume", adiabatic.
        rtol: of CVODES.
        atol: of CVODES; see `audit`.
        workers: see `parallel.run`.
        chunk: states of one job.
        seed: of the sampling, for the record.
        ranges: of the sampling, for the record.
        progress: called with (finished, all) chunks.

    Returns:
        The labelled states without the failed ones, which are counted in `left_out`.

    Raises:
        ValueError: for an impossible option, or if `path` has an unfinished plan of another kind.
        OSError: if a chunk cannot be written; the finished ones stay.
        RuntimeError: if a whole chunk came back without a result.
    """
    if not (np.isfinite(dt) and dt > 0):
        raise ValueError(f"dt is {dt!r}, but must be a positive number of seconds")
    for name, value in (("steps", steps), ("chunk", chunk)):
        if isinstance(value, bool) or not isinstance(value, (int, np.integer)) or value < 1:
            raise ValueError(f"{name} is {value!r}, but must be a whole number of at least 1")
    Integrator(mechanism, reactor, rtol, atol)  # refuses impossible options before anything is written
    if not len(samples):
        raise ValueError("samples is empty, so there is nothing to label")
    settings = _Plan(
        mechanism.source,
        mechanism.hash,
        mechanism.species,
        float(dt),
        int(steps),
        reactor,
        rtol,
        atol,
        int(chunk),
        seed,
        jsonable(ranges or {}),
    )
    folder = folder_of(path)
    if (folder / "plan.h5").exists():
        known, planned = _plan(path)
        # the file of the mechanism may have moved: its content is what counts
        if (
            replace(known, mechanism=settings.mechanism) != settings
            or planned.states.tobytes() != samples.states.tobytes()
        ):
            raise ValueError(
                f"{folder} holds an unfinished labelling of other states or settings; resume it, or delete it"
            )
    else:
        _begin(folder, settings, samples)
    return _carry_out(mechanism, samples, settings, Path(path), workers, progress)


def resume(path: str | Path, workers: int | Any = 0, progress: Progress | None = None) -> Dataset:
    """Continue the labelling of `path` from its finished chunks, with the plan that it began with.

    Raises:
        FileNotFoundError: if nothing was begun.
        ValueError: if the mechanism has changed since.
    """
    if not folder_of(path).exists():
        raise FileNotFoundError(f"{path} has no unfinished labelling beside it ({folder_of(path)})")
    settings, samples = _plan(path)
    mechanism = Mechanism(settings.mechanism)
    if mechanism.hash != settings.hash:
        raise ValueError(f"mechanism {settings.mechanism!r} has changed since the labelling of {path} began")
    return _carry_out(mechanism, samples, settings, Path(path), workers, progress)


@dataclass(frozen=True)
class _Plan:
    """What is written down before the first chunk."""

    mechanism: str
    hash: str
    species: tuple[str, ...]
    dt: float
    steps: int
    reactor: Reactor
    rtol: float
    atol: float
    chunk: int
    seed: int | None
    ranges: Mapping[str, Any]


def folder_of(path: str | Path) -> Path:
    """The folder that a file of labels is while it is made."""
    return Path(path).with_name(Path(path).name + ".chunks")


def _begin(folder: Path, settings: _Plan, samples: Samples) -> None:
    """Make the folder with the plan, or nothing."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OSError(f"cannot make the folder {folder}: {error.strerror}") from error
    told = {"kind": "plan", "settings": settings, "origins": samples.origins, "left_out": dict(samples.left_out)}
    try:
        write_h5(folder / "plan.h5", told, {"states": samples.states, "origin": samples.origin})
    except BaseException:
        with suppress(OSError):
            folder.rmdir()
        raise


def _plan(path: str | Path) -> tuple[_Plan, Samples]:
    from sciml.chemistry.samples import Samples

    description, arrays = _read(folder_of(path) / "plan.h5", "plan")
    stored = description["settings"]
    stored["species"] = tuple(stored["species"])
    samples = Samples(arrays["states"], arrays["origin"], tuple(description["origins"]), description["left_out"])
    return _Plan(**stored), samples


def standing(path: str | Path) -> str:
    """How far an unfinished labelling is: `3 of 5 chunks are there`."""
    plan, samples = _plan(path)
    done = len(list(folder_of(path).glob("chunk-*.h5")))
    return f"{done} of {-(-len(samples) // plan.chunk)} chunks are there"


def _carry_out(
    mechanism: Mechanism, samples: Samples, plan: _Plan, path: Path, workers: int | Any, progress: Progress | None
) -> Dataset:
    folder = folder_of(path)
    starts = range(0, len(samples), plan.chunk)
    files = [folder / f"chunk-{number:06d}.h5" for number in range(len(starts))]
    todo = [number for number, file in enumerate(files) if not file.exists()]
    before = len(files) - len(todo)

    def told(done: int, total: int) -> None:
        if progress is not None:
            progress(before + done, len(files))

    rows = [samples.states[starts[n] : starts[n] + plan.chunk] for n in todo]
    task = partial(_windows, mechanism, plan)
    lost: list[str] = []
    for index, result in parallel.run(task, rows, workers, progress=told):
        if isinstance(result, parallel.Failure):
            lost.append(result.message)
        else:
            windows, status = result
            write_h5(files[todo[index]], {"kind": "chunk"}, {"windows": windows, "status": status})
    if lost:
        raise RuntimeError(f"{len(lost)} of {len(files)} chunks have no result ({lost[0]}); the others are kept")
    try:
        found = [_read(file, "chunk")[1] for file in files]
    except ValueError as error:
        raise ValueError(f"{error}; without it, the chunk is labelled again") from error
    status = np.concatenate([f["status"] for f in found])
    kept, counted = status == 0, dict(samples.left_out)
    counted |= {"refused": int((status == 1).sum()), "failed": int((status == 2).sum())}
    if not kept.any():
        raise ValueError(f"none of {len(samples)} states could be integrated, so there are no labels")
    dataset = Dataset(
        np.concatenate([f["windows"] for f in found])[kept],
        samples.origin[kept],
        samples.origins,
        counted,
        plan.mechanism,
        plan.hash,
        plan.species,
        plan.dt,
        plan.reactor,
        plan.rtol,
        plan.atol,
        plan.seed,
        plan.ranges,
    )
    dataset.save(path)
    shutil.rmtree(folder)
    return dataset


def _windows(mechanism: Mechanism, plan: _Plan, states: Array) -> tuple[Array, NDArray[np.int8]]:
    """Windows (m, steps+1, 2+s) of states, and the status of each as in `reactors.Advanced`."""
    options: dict[str, Any] = {"rtol": plan.rtol, "atol": plan.atol, "reactor": plan.reactor}
    return trajectories(mechanism, states, plan.dt * np.arange(plan.steps + 1), **options)


# ------------------------------------------------------------------ audit


@dataclass(frozen=True)
class Audit:
    """What tighter tolerances change in the labels, as a share of the mean change over one step (in Box-Cox space).

    Attributes:
        rows: how many states were integrated again.
        shares: by species, for those that change at all.
        temperature: the largest change of the temperature after one step, K.
        rtol: of the repetition.
        atol: of the repetition.
    """

    rows: int
    shares: Mapping[str, float] = field(default_factory=dict)
    temperature: float = 0.0
    rtol: float = 0.0
    atol: float = 0.0

    @property
    def worst(self) -> float:
        """The largest share of any species."""
        return max(self.shares.values(), default=0.0)

    @property
    def median(self) -> float:
        """The median share of the species."""
        return float(np.median(list(self.shares.values()))) if self.shares else 0.0


def audit(
    dataset: Dataset, mechanism: Mechanism, n: int = 200, seed: int = 0, rtol: float = 1e-12, atol: float = 1e-24
) -> Audit:
    """Integrate a random subset again with tighter tolerances, one step, and measure what changes.

    Args:
        dataset: of `mechanism`.
        mechanism: the chemistry.
        n: how many pairs, at most all.
        seed: of the choice.
        rtol: of the repetition.
        atol: of the repetition.

    Raises:
        ValueError: if the labels are those of another mechanism.
    """
    dataset.check(mechanism)
    total = len(dataset) * dataset.steps
    chosen = np.random.default_rng(seed).choice(total, min(n, total), replace=False)
    row, step = np.divmod(chosen, dataset.steps)
    before, after = dataset.windows[row, step], dataset.windows[row, step + 1]
    again = advance(mechanism, before, dataset.dt, rtol=rtol, atol=atol, reactor=dataset.reactor, strict=False)
    ok = again.ok
    F0, F1, F2 = (np.maximum(a[ok, 2:], 0.0) ** _LMBDA / _LMBDA for a in (before, after, again.states))
    change = np.abs(F2 - F0).mean(0)
    moves = change > 1e-6
    shares = np.abs(F1 - F2).mean(0)[moves] / change[moves]
    names = [name for name, moving in zip(dataset.species, moves, strict=True) if moving]
    worst = float(np.abs(after[ok, 0] - again.states[ok, 0]).max(initial=0.0))
    return Audit(int(ok.sum()), dict(zip(names, map(float, shares), strict=True)), worst, rtol, atol)
