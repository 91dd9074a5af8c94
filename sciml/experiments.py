"""Experiments: run them with seeds, resume them, bless their results."""

from __future__ import annotations

import shlex
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from sciml.catalogue import Experiment, find, folder
from sciml.files import jsonable, write_json
from sciml.options import configure
from sciml.results import Run, begin, read_run, resumed

__all__ = ["bless", "execute", "resume", "summarise"]


def execute(
    experiment: Experiment, variant: str | None, overrides: Sequence[str], seeds: Sequence[int], out: Path
) -> Path:
    """Run an experiment into a new folder below `out`; several seeds make one folder with a run of each inside.

    Returns:
        The run folder.
    """
    chosen, config = configure(experiment.variants, variant, overrides, experiment.name)
    settings = {
        "problem": experiment.source,
        "variant": chosen,
        "overrides": list(overrides),
        "config": config,
        **({"seed": seeds[0]} if len(seeds) == 1 else {"seeds": list(seeds)}),
    }
    path = _free(out, experiment.name, chosen, seeds)
    with begin(path, settings, _command(settings), _load) as run:
        _fill(run, experiment, config, settings)
    return path


def resume(path: Path) -> Path:
    """Continue an interrupted run from its checkpoints, with the configuration that it began with.

    Raises:
        ValueError: if the folder is not an unfinished run, or its problem is no longer configured in the same way.
    """
    if not path.exists() and path.with_name(path.name + ".partial").exists():
        path = path.with_name(path.name + ".partial")
    settings, _, _ = read_run(path)
    experiment = find(settings["problem"])
    _, config = configure(experiment.variants, settings["variant"] or None, settings["overrides"], experiment.name)
    if jsonable(config) != settings["config"]:
        raise ValueError(f"{path} began with another configuration than {settings['problem']} has now; run it anew")
    with resumed(path, _load) as run:
        _fill(run, experiment, config, settings)
    return path.with_name(path.name.removesuffix(".partial"))


def _fill(run: Run, experiment: Experiment, config: Any, settings: Mapping[str, Any]) -> None:
    if "seed" in settings:
        metrics = experiment.run(config, run)
        if not isinstance(metrics, Mapping):
            raise TypeError(f"run in {experiment.source} returned {metrics!r}, but must return a mapping of metrics")
        run.metrics.update(metrics)
        return
    by_seed = {}
    for seed in settings["seeds"]:
        path = run.path / f"seed{seed}"
        unfinished = [p for p in (path, path.with_name(path.name + ".partial")) if p.exists()]
        inner = {**{k: v for k, v in settings.items() if k != "seeds"}, "seed": seed}
        if not unfinished:
            with begin(path, inner, _command(inner), run.load) as child:
                _fill(child, experiment, config, inner)
        elif read_run(unfinished[0])[2] is None:
            with resumed(unfinished[0], run.load) as child:
                _fill(child, experiment, config, inner)
        by_seed[f"seed {seed}"] = read_run(path)[2]
    run.metrics.update(summarise(by_seed))


def summarise(by_seed: Mapping[str, Any]) -> dict[str, Any]:
    """Median, minimum and maximum of every number over the seeds, and the seeds' own metrics."""
    values = list(by_seed.values())
    summary = {name: _combine(values, f) for name, f in (("median", statistics.median), ("min", min), ("max", max))}
    return {**summary, "seeds": dict(by_seed)}


def _combine(values: Sequence[Any], statistic: Callable[[Sequence[Any]], Any]) -> Any:
    first = values[0]
    if all(isinstance(v, Mapping) and v.keys() == first.keys() for v in values):
        return {k: _combine([v[k] for v in values], statistic) for k in first}
    if all(isinstance(v, list) and len(v) == len(first) for v in values):
        return [_combine(column, statistic) for column in zip(*values, strict=True)]
    if all(isinstance(v, (int, float)) and not isinstance(v, bool) for v in values):
        return statistic(values)
    return first if all(v == first for v in values) else "varies"


def _load(path: Path, problem: Any) -> Any:
    from sciml.solution import load  # only when a solution is there: this imports torch

    return load(path, problem)


def _free(out: Path, name: str, variant: str, seeds: Sequence[int]) -> Path:
    which = f"seed{seeds[0]}" if len(seeds) == 1 else f"{len(seeds)}seeds"
    stem = "-".join(part for part in (name, variant, which, time.strftime("%Y%m%d-%H%M%S")) if part)
    path, k = out / stem, 2
    while path.exists() or path.with_name(path.name + ".partial").exists():
        path, k = out / f"{stem}-{k}", k + 1
    return path


def _command(settings: Mapping[str, Any]) -> str:
    words = ["sciml", "run", settings["problem"], *([settings["variant"]] if settings["variant"] else [])]
    for override in settings["overrides"]:
        words += ["--set", override]
    seeds = settings.get("seeds") or [settings["seed"]]
    words += ["--seeds" if len(seeds) > 1 else "--seed", ",".join(map(str, seeds))]
    return shlex.join(words)


def bless(path: Path, into: Path | None = None) -> Path:
    """Write a finished run's numbers to ``data/results/PROBLEM_VARIANT.json``, the only source of the README's numbers.

    Args:
        path: the run folder.
        into: where to; None takes the package's own ``data/results``.

    Raises:
        ValueError: if the run is unfinished, of a user's own file, or was not a variant as it stands.
    """
    settings, provenance, metrics = read_run(path)
    if metrics is None:
        raise ValueError(f"{path} is {provenance['status']}, but only a finished run can be blessed")
    if settings["problem"].endswith(".py") or settings["overrides"]:
        raise ValueError(
            f"{path} was made by `{provenance['command']}`, but only a variant as it stands can be blessed"
        )
    record = {
        "problem": settings["problem"],
        "variant": settings["variant"],
        "config": settings["config"],
        "seeds": settings.get("seeds") or [settings["seed"]],
        "metrics": metrics,
        "provenance": provenance,
    }
    target = (into or folder("sciml.data") / "results") / f"{settings['problem']}_{settings['variant']}.json"
    target.parent.mkdir(parents=True, exist_ok=True)
    write_json(target, record)
    return target
