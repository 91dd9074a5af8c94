"""The command `sciml`: list, run, resume, show, compare and bless experiments; the surrogates' commands are `commands`.

The only place where strings from outside become objects. Every error is one sentence on stderr with exit code 2; set
SCIML_TRACEBACK=1 to see where it came from. Ctrl-C (or SIGTERM, as batch systems send it) keeps the run for
`sciml resume` and exits with 130.
"""

from __future__ import annotations

import os
import signal
import sys
import traceback
from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby
from pathlib import Path
from types import FrameType
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from sciml import commands

app = typer.Typer(
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Solve PDEs with multi-scale networks, and chemistry with surrogates, beside honest references.",
)

Out = Annotated[Path, typer.Option("--out", help="Folder for run folders.")]
RunFolder = Annotated[Path, typer.Argument(metavar="RUN", help="A run folder.")]


def _console() -> Console:
    # a pipe or a file has no width to fit into
    return Console() if sys.stdout.isatty() else Console(width=200)


@app.command("list")
def list_problems(
    problem: Annotated[str | None, typer.Argument(help="Show the options of this problem.")] = None,
    plain: Annotated[bool, typer.Option("--plain", help="Names only, one a line.")] = False,
) -> None:
    """List the problems of the package and their variants."""
    from sciml.catalogue import listings
    from sciml.options import did_you_mean

    found = listings()
    if problem is not None:
        chosen = [listing for listing in found if listing.name == problem]
        if not chosen:
            raise ValueError(f"there is no problem {problem!r}; {did_you_mean(problem, [n.name for n in found])}")
        print(f"{chosen[0].summary}\n\nvariants: {', '.join(chosen[0].variants)}\n\noptions (--set NAME=VALUE):")
        print("\n".join(f"  {option}" for option in chosen[0].options))
    elif plain:
        print("\n".join(listing.name for listing in found))
    else:
        table = Table("problem", "variants", "what it is", box=None)
        for listing in found:
            table.add_row(*map(escape, (listing.name, " ".join(listing.variants), listing.summary)))
        _console().print(table)


@app.command()
def run(
    problem: Annotated[str, typer.Argument(help="A problem of `sciml list`, or a file of your own ending in .py.")],
    variant: Annotated[str | None, typer.Argument(help="Its variant; the first one if left out.")] = None,
    overrides: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Change an option; may be repeated.")
    ] = None,
    seed: Annotated[int, typer.Option("--seed", help="Of all random draws.")] = 0,
    seeds: Annotated[str | None, typer.Option("--seeds", help="Several seeds, e.g. 0,1,2: one run each.")] = None,
    out: Out = Path("runs"),
    bless: Annotated[bool, typer.Option("--bless", help="Keep the numbers in data/results.")] = False,
    scheduler: Annotated[
        str | None, typer.Option("--scheduler", metavar="ADDRESS", help="Of Dask, for problems with such an option.")
    ] = None,
) -> None:
    """Run a problem, print its table and leave a run folder."""
    from sciml import catalogue, experiments

    chosen = _seeds(seeds) if seeds is not None else [seed]
    changes = [*(overrides or []), *([] if scheduler is None else [f"scheduler={scheduler}"])]
    path = experiments.execute(catalogue.find(problem), variant, changes, chosen, out)
    _print_metrics(path)
    print(f"run folder: {path}")
    if bless:
        print(f"blessed: {experiments.bless(path)}")


def _seeds(text: str) -> list[int]:
    from sciml.options import parse

    found = parse(text, tuple[int, ...], "--seeds")
    if not found or len(set(found)) < len(found):
        raise ValueError(f"--seeds is {text!r}, but must be different whole numbers such as 0,1,2")
    return list(found)


@app.command()
def resume(path: RunFolder) -> None:
    """Continue an interrupted run from its checkpoints, or an interrupted labelling (the name of its file)."""
    from sciml import experiments

    if commands.unfinished(path):
        commands.resume_labelling(path)
        return

    path = experiments.resume(path)
    _print_metrics(path)
    print(f"run folder: {path}")


@app.command()
def show(path: RunFolder) -> None:
    """Print what a run was and what it found."""
    from sciml.results import read_run

    config, provenance, metrics = read_run(path)
    print(f"{provenance['command']}\nstatus: {provenance['status']}, started {provenance['started']}")
    print(f"commit: {provenance.get('commit')}, on {provenance['device']['cpu']}")
    for name, value in _flat(config.get("config") or {}):
        print(f"  {name} = {value}")
    if metrics is not None:
        _print_metrics(path, everything=True)
    _print_diagnostics(path)
    for file in sorted(p for p in path.rglob("*") if p.suffix in {".png", ".h5"} and ".snapshot." not in p.name):
        print(file)
    for folder in sorted({p.parent for p in path.rglob("*.snapshot.h5")}):
        print(f"{folder}: {len(list(folder.glob('*.snapshot.h5')))} snapshots, for theory.replay")


@app.command()
def compare(first: RunFolder, second: RunFolder) -> None:
    """Compare two runs: the options and metrics in which they differ, and their arrays."""
    import numpy as np

    from sciml.results import read_h5, read_run

    runs = [read_run(path) for path in (first, second)]
    tables: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
        "option": (dict(_flat(runs[0][0])), dict(_flat(runs[1][0]))),
        "metric": (dict(_flat(runs[0][2] or {})), dict(_flat(runs[1][2] or {}))),
    }
    for kind, (a, b) in tables.items():
        table = Table(kind, first.name, second.name, "ratio", box=None)
        for name in [k for k in {**a, **b} if a.get(k) != b.get(k)]:
            table.add_row(escape(name), _cell(a.get(name)), _cell(b.get(name)), _ratio(a.get(name), b.get(name)))
        _console().print(table if table.row_count else f"no {kind} differs")
    files = [path / "arrays.h5" for path in (first, second)]
    if not all(file.exists() for file in files):
        return
    left, right = (read_h5(file)[1] for file in files)
    for name in sorted(left.keys() & right.keys()):
        if left[name].shape == right[name].shape and np.isfinite(right[name]).any():
            difference, reference = left[name] - right[name], right[name]
            relative = np.sqrt(np.nansum(abs(difference) ** 2) / np.nansum(abs(reference) ** 2))
            print(f"array {name}: relative difference {relative:.3g}")


def _ratio(a: Any, b: Any) -> str:
    numbers = all(isinstance(v, (int, float)) and not isinstance(v, bool) for v in (a, b))
    return _cell(b / a) if numbers and a else ""


@app.command()
def bless(path: RunFolder) -> None:
    """Keep the numbers of a finished run in data/results."""
    from sciml import experiments

    print(f"blessed: {experiments.bless(path)}")


for _command in (commands.sample, commands.label, commands.train, commands.evaluate, commands.export):
    app.command()(_command)


# ------------------------------------------------------------------------------------------------------------ printing


def _flat(value: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    """Leaves of nested mappings and lists of mappings, with dotted names."""
    if isinstance(value, Mapping):
        for key, inner in value.items():
            yield from _flat(inner, f"{name}.{key}" if name else str(key))
    elif isinstance(value, list) and value and all(isinstance(v, Mapping) for v in value):
        for k, inner in enumerate(value):
            yield from _flat(inner, f"{name}.{k}")
    else:
        yield name, value


def _cell(value: Any) -> str:
    if value is None:
        return "-"
    return escape(f"{value:.4g}" if isinstance(value, float) else str(value))


def _print_metrics(path: Path, everything: bool = False) -> None:
    """The table of a run (of its medians, for several seeds) and the metrics beside it, or all metrics."""
    from sciml.results import read_run

    metrics = dict(read_run(path)[2] or {})
    if "seeds" in metrics and "median" in metrics:
        print(f"median over {len(metrics['seeds'])} seeds:")
        metrics = dict(metrics["median"])
    rows = metrics.pop("table", [])
    for _, group in groupby(rows, key=lambda row: next(iter(row), "")):  # rows of another kind are a table of their own
        kind = list(group)
        columns = list(dict.fromkeys(key for row in kind for key in row))
        table = Table(*map(escape, columns), box=None)
        for row in kind:
            table.add_row(*(_cell(row.get(column)) for column in columns))
        _console().print(table)
    if rows and not everything:  # what is nested is what the table's rows summarise
        metrics = {k: v for k, v in metrics.items() if not isinstance(v, Mapping)}
    for name, value in _flat(metrics):
        print(f"{name}: {value:.4g}" if isinstance(value, float) else f"{name}: {value}")


def _print_diagnostics(path: Path) -> None:
    """What diagnostics saw of the training: the last value of each number they recorded, and how long they watched."""
    from sciml.files import read_json

    table = Table("diagnostic", "of", "records", "last step", "last values", box=None)
    for file in sorted(path.rglob("*.diagnostic.json")):
        kept = read_json(file)
        if not isinstance(kept, dict) or kept.get("kind") != "diagnostic":
            continue
        rows, name = kept["records"], kept["name"]
        of = str(file.parent.relative_to(path) / kept["of"])
        last = rows[-1] if rows else {}
        seen = [(k.removeprefix(f"{name}."), _spread(v)) for k, v in last.items() if k.startswith(f"{name}.")]
        said = ", ".join(f"{k} {v}" for k, v in seen if v is not None) or "nothing happened"
        table.add_row(escape(name), escape(of), str(len(rows)), _cell(last.get("step")), escape(said))
    if table.row_count:
        _console().print(table)


def _spread(value: Any) -> str | None:
    """A number, or the least and the largest of a list of them."""
    values = [v for v in (value if isinstance(value, list) else [value]) if isinstance(v, (int, float))]
    if not values:
        return None
    low, high = f"{min(values):.3g}", f"{max(values):.3g}"
    return low if low == high else f"{low}..{high}"


# -------------------------------------------------------------------------------------------------------------- errors


def _sentence(error: BaseException) -> str:
    """One line saying what is wrong and, if a user's file took part, where in it."""
    message = " ".join(str(error).split()) or type(error).__name__
    if isinstance(error, SyntaxError):
        return f"{error.filename}, line {error.lineno}: {error.msg}"
    if isinstance(error, OSError) and error.strerror and error.filename:
        message = f"{error.filename}: {error.strerror}"
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if not frame.filename.startswith("<")]
    theirs = {m.__file__ for name, m in sys.modules.items() if name.startswith("_file_")}
    ours = [str(Path(__file__).parent), *getattr(sys.modules.get("sciml.problems"), "__path__", [])]
    at = [frame for frame in frames if frame.filename in theirs]
    inside = [frame for frame in frames if any(Path(frame.filename).is_relative_to(folder) for folder in ours)]
    refused = isinstance(error, (ValueError, TypeError, OSError, ArithmeticError)) and frames[-1:] == inside[-1:]
    if not refused:  # not one of our own sentences
        message = f"{type(error).__name__}: {message}"
        if not at and inside:
            message += f" ({inside[-1].filename}, line {inside[-1].lineno}; SCIML_TRACEBACK=1 shows more)"
    return f"{os.path.relpath(at[-1].filename)}, line {at[-1].lineno}: {message}" if at else message


def _usage(error: Any) -> str:
    """A sentence for a mistake in the command line itself, naming the options that exist."""
    message = " ".join(error.format_message().split()).rstrip(".")
    context = getattr(error, "ctx", None)
    if context is None:
        return message
    if "option" in message.lower():
        names = [max(p.opts, key=len) for p in context.command.params if p.opts[0].startswith("-")]
        return f"{message}; the options of `{context.command_path}` are {', '.join([*names, '--help'])}"
    if hasattr(context.command, "commands"):
        return f"{message}; the commands are {', '.join(context.command.commands)}"
    return message


def _terminate(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def command(arguments: Sequence[str]) -> int:
    """Carry out one command line; return its exit code: 0, 2 after an error, or 130 after Ctrl-C."""
    try:
        return app(list(arguments) or ["--help"], prog_name="sciml", standalone_mode=False) or 0
    except Exception as error:
        from sciml.results import Interrupted

        if isinstance(error, Interrupted):
            print(f"interrupted; resume with `sciml resume {error}`", file=sys.stderr)
            return 130
        if os.environ.get("SCIML_TRACEBACK"):
            traceback.print_exc()
        usage = hasattr(error, "format_message")  # typer brings its own copy of click's exceptions
        print(f"sciml: {_usage(error) if usage else _sentence(error)}", file=sys.stderr)
        return 2


def main() -> None:
    """The console script."""
    signal.signal(signal.SIGTERM, _terminate)
    sys.exit(command(sys.argv[1:]))


if __name__ == "__main__":
    main()
