"""The commands between a mechanism and a surrogate: sample, label, train, evaluate, export.

Each reads one file and writes the next: states, labels, a surrogate, its errors, what a flow solver calls. Options are
numbers and names; nothing heavy is imported before it is needed.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sciml.options import parse
from sciml.progress import bar

if TYPE_CHECKING:
    from sciml.chemistry.labels import Dataset
    from sciml.chemistry.mechanism import Mechanism
    from sciml.chemistry.sampling import Ranges

__all__ = ["evaluate", "export", "label", "resume_labelling", "sample", "train", "unfinished"]

ATM = 101325.0
Fuel = Annotated[str, typer.Option("--fuel", help="By moles: one species, or amounts such as CH4:0.9,H2:0.1.")]
Oxidiser = Annotated[str, typer.Option("--oxidiser", help="By moles.")]
Temperatures = Annotated[str, typer.Option("--temperatures", help="Range of the charges, K.")]
Pressures = Annotated[str, typer.Option("--pressures", help="Range, atm.")]
Phis = Annotated[str, typer.Option("--phis", help="Range of equivalence ratios.")]
Seed = Annotated[int, typer.Option("--seed", min=0, help="Of all random draws.")]
Reactor = Annotated[
    str | None, typer.Option("--reactor", help="constant-pressure or constant-volume; as sampled if left out.")
]
Other = Annotated[
    str | None, typer.Option("--mechanism", help="Where the mechanism is now; as recorded in the file if left out.")
]


def _counting(told: Callable[..., None]) -> Callable[[int, int], None]:
    """Progress as (done, all)."""
    return lambda done, total: told(completed=done, total=total)


def _range(text: str, name: str) -> tuple[float, float]:
    found = parse(text, tuple[float, ...], name)
    if len(found) not in (1, 2):
        raise ValueError(f"{name} is {text!r}, but must be one number or two, LOW,HIGH")
    return found[0], found[-1]


def _ranges(fuel: str, oxidiser: str, temperatures: str, pressures: str, phis: str) -> Ranges:
    from sciml.chemistry.sampling import Ranges

    low, high = _range(pressures, "--pressures")
    T, phi = _range(temperatures, "--temperatures"), _range(phis, "--phis")
    return Ranges(fuel, T, (low * ATM, high * ATM), phi, oxidiser)


def _mechanism(recorded: str, given: str | None, hash: str, what: str) -> Mechanism:
    """The mechanism of a file, refused if its content is another one."""
    from sciml.chemistry.mechanism import Mechanism

    mechanism = Mechanism(given or recorded)
    if mechanism.hash != hash:
        raise ValueError(f"{what} belongs to mechanism {recorded!r}, but {mechanism.source!r} has other content")
    return mechanism


def sample(
    mechanism: Annotated[
        str, typer.Argument(help="A Cantera file: a path, or a name that Cantera finds; FILE#PHASE names a phase.")
    ],
    out: Annotated[Path, typer.Option("--out", help="The file of states.")] = Path("states.h5"),
    fuel: Fuel = "H2",
    oxidiser: Oxidiser = "O2:1, N2:3.76",
    temperatures: Temperatures = "1000,1500",
    pressures: Pressures = "1",
    phis: Phis = "0.5,2",
    reactor: Annotated[str, typer.Option("--reactor", help="constant-pressure or constant-volume.")] = (
        "constant-pressure"
    ),
    kinds: Annotated[str | None, typer.Option("--kinds", help="Of states, separated by commas.")] = None,
    states: Annotated[int | None, typer.Option("--states", help="How many, before filters.")] = None,
    ignitions: Annotated[int | None, typer.Option("--ignitions", help="Trajectories of the manifold.")] = None,
    flames: Annotated[int | None, typer.Option("--flames", help="One-dimensional flames of the manifold.")] = None,
    seed: Seed = 0,
) -> None:
    """Draw states of a mechanism to learn from."""
    from sciml.chemistry.mechanism import Mechanism
    from sciml.chemistry.recipe import Sampling, draw

    named = None if kinds is None else parse(kinds, tuple[str, ...], "--kinds")
    chosen = _changed(Sampling(), kinds=named, states=states, ignitions=ignitions, flames=flames)
    ranges = _ranges(fuel, oxidiser, temperatures, pressures, phis)
    _writable(out)
    with bar("trajectories") as told:
        drawn = draw(Mechanism(mechanism), ranges, chosen, seed, _counting(told), reactor)  # type: ignore[arg-type]
    drawn.save(out)
    _counted(drawn.samples)
    print(f"states: {out}")


def _changed(recipe: Any, **given: Any) -> Any:
    """A recipe with what was given instead of its defaults."""
    from dataclasses import replace

    return replace(recipe, **{name: value for name, value in given.items() if value is not None})


def _writable(out: Path, read: Path | None = None) -> None:
    """Refuse, before hours of work, a place where nothing can be written, or where the file is that is read."""
    if not out.parent.is_dir():
        raise FileNotFoundError(f"there is no folder {out.parent} to write {out.name} into")
    if out.is_dir():
        raise IsADirectoryError(f"{out} is a folder, but must be a file to write")
    if read is not None and out.exists() and out.samefile(read):
        raise ValueError(f"--out is {out}, the file that is read, but must be another one")


def _counted(found: Any) -> None:
    """How many of each origin, and how many were left out by what."""
    import numpy as np

    for name, number in zip(found.origins, np.bincount(found.origin, minlength=len(found.origins)), strict=True):
        print(f"{number} {name}")
    for name, number in found.left_out.items():
        if number:
            print(f"{number} left out: {name}")


def label(
    states: Annotated[Path, typer.Argument(help="The file of `sciml sample`.")],
    out: Annotated[Path, typer.Option("--out", help="The file of labels.")] = Path("labels.h5"),
    dt: Annotated[float, typer.Option("--dt", help="The step, s.")] = 1e-6,
    steps: Annotated[int, typer.Option("--steps", help="Successors of each state.")] = 8,
    reactor: Reactor = None,
    rtol: Annotated[float, typer.Option("--rtol", help="Of CVODES.")] = 1e-9,
    atol: Annotated[float, typer.Option("--atol", help="Of CVODES.")] = 1e-15,
    workers: Annotated[int, typer.Option("--workers", help="Processes; -1 is one on every core, 0 this one.")] = -1,
    chunk: Annotated[int, typer.Option("--chunk", help="States of one job; finished jobs survive a crash.")] = 500,
    mechanism: Other = None,
) -> None:
    """Integrate every state over the steps; an interrupted labelling goes on where it was."""
    from sciml.chemistry import labels
    from sciml.chemistry.recipe import Drawn

    drawn = Drawn.load(states)
    _writable(out, states)
    gas = _mechanism(drawn.mechanism, mechanism, drawn.hash, str(states))
    options: dict[str, Any] = {
        "reactor": reactor or drawn.reactor,
        "rtol": rtol,
        "atol": atol,
        "workers": workers,
        "chunk": chunk,
    }
    try:
        with bar("chunks") as told:
            dataset = labels.label(
                gas,
                drawn.samples,
                out,
                dt,
                steps,
                seed=drawn.seed,
                ranges=drawn.recorded,
                progress=_counting(told),
                **options,
            )
    except KeyboardInterrupt:
        raise _stopped(out) from None
    _labelled(dataset, gas, out)


def _stopped(out: Path) -> typer.Exit:
    """Say how far an interrupted labelling is."""
    from sciml.chemistry import labels

    begun = labels.folder_of(out).is_dir()
    kept = f"{labels.standing(out)}, and the same command goes on from there" if begun else "nothing was begun"
    print(f"interrupted; {kept}", file=sys.stderr)
    return typer.Exit(130)


def _labelled(dataset: Dataset, mechanism: Mechanism, out: Path) -> None:
    """Say what was labelled, and how far tighter tolerances would change it."""
    from sciml.chemistry.labels import audit

    _counted(dataset)
    found = audit(dataset, mechanism)
    print(f"labels change by {found.worst:.1e} (worst species) of a step at rtol {found.rtol:g}, atol {found.atol:g}")
    print(f"labels: {out}")


def unfinished(path: Path) -> bool:
    """Whether `path` is a labelling that was interrupted."""
    return not path.exists() and path.with_name(path.name + ".chunks").is_dir()


def resume_labelling(path: Path, workers: int = -1) -> None:
    """Go on with an interrupted labelling, with the plan that it began with."""
    from sciml.chemistry import labels
    from sciml.chemistry.mechanism import Mechanism

    try:
        with bar("chunks") as told:
            dataset = labels.resume(path, workers, _counting(told))
    except KeyboardInterrupt:
        raise _stopped(path) from None
    _labelled(dataset, Mechanism(dataset.mechanism), path)


def train(
    labels: Annotated[Path, typer.Argument(help="The file of `sciml label`.")],
    out: Annotated[Path, typer.Option("--out", help="The file of the surrogate.")] = Path("surrogate.h5"),
    widths: Annotated[str | None, typer.Option("--widths", help="Hidden layers, separated by commas.")] = None,
    steps: Annotated[int | None, typer.Option("--steps", help="On pairs of states.")] = None,
    tuning: Annotated[int | None, typer.Option("--tuning", help="Steps on rollouts; 0 for none.")] = None,
    lr: Annotated[float | None, typer.Option("--lr", help="Learning rate.")] = None,
    batch: Annotated[int | None, typer.Option("--batch", help="Pairs in a step.")] = None,
    edges: Annotated[str | None, typer.Option("--edges", help="Temperatures (K) between experts.")] = None,
    rounds: Annotated[
        int | None, typer.Option("--rounds", help="Of labelling what its rollouts visit; 1 if possible.")
    ] = None,
    seed: Seed = 0,
    mechanism: Other = None,
) -> None:
    """Train a surrogate on labels; an interrupted training goes on from its last checkpoint."""
    from sciml.chemistry.labels import Dataset
    from sciml.chemistry.recipe import Training
    from sciml.chemistry.recipe import train as learn

    dataset = Dataset.load(labels)
    _writable(out, labels)
    gas = _mechanism(dataset.mechanism, mechanism, dataset.hash, str(labels))
    layers = None if widths is None else parse(widths, tuple[int, ...], "--widths")
    between = None if edges is None else parse(edges, tuple[float, ...], "--edges")
    options: dict[str, Any] = {"widths": layers, "steps": steps, "lr": lr, "batch": batch, "tuning": tuning}
    options |= {"edges": between, "rounds": rounds}
    chosen = _changed(Training(rounds=int(bool(dataset.ranges))), **options)
    checkpoint = out.with_name(out.name + ".checkpoint.h5")
    try:
        model, history = learn(dataset, gas, chosen, seed, checkpoint, workers=-1)
    except KeyboardInterrupt:
        print(f"interrupted; the same command goes on from {checkpoint}", file=sys.stderr)
        raise typer.Exit(130) from None
    model.save(out)
    checkpoint.unlink(missing_ok=True)
    print(f"{len(dataset) * dataset.steps} pairs, {history.seconds:.0f} s, {'; '.join(history.reasons)}")
    print(f"surrogate: {out}")


def evaluate(
    surrogate: Annotated[Path, typer.Argument(help="The file of `sciml train`.")],
    temperatures: Annotated[str | None, typer.Option("--temperatures", help="Of charges, K; recorded if left out.")] = (
        None
    ),
    phis: Annotated[str | None, typer.Option("--phis", help="Of charges; recorded if left out.")] = None,
    pressures: Annotated[str | None, typer.Option("--pressures", help="Atm; recorded if left out.")] = None,
    grid: Annotated[str, typer.Option("--grid", help="How many temperatures and equivalence ratios.")] = "6,3",
    two_stage: Annotated[bool, typer.Option("--two-stage", help="Compare the first stage of ignition too.")] = False,
    perturbations: Annotated[
        int, typer.Option("--perturbations", min=0, help="Ignitions from perturbed states; 0 for none.")
    ] = 20,
    steps: Annotated[int, typer.Option("--steps", min=1, help="Of the rollouts that must stay bounded.")] = 2000,
    seed: Seed = 0,
    mechanism: Other = None,
) -> None:
    """Measure a surrogate beside its mechanism: ignition delays, perturbed states, long rollouts, speed."""
    import numpy as np

    from sciml.chemistry import accuracy
    from sciml.chemistry.hybrid import limits
    from sciml.chemistry.recipe import grid_of, ranges_of
    from sciml.chemistry.surrogate import Surrogate

    model = Surrogate.load(surrogate)
    gas = _mechanism(model.mechanism, mechanism, model.settings.hash, str(surrogate))
    stored = dict(model.settings.labels.get("ranges") or {})
    if not stored:
        raise ValueError(f"{surrogate} does not say which charges it was trained on, so it cannot be evaluated here")
    for name, text, unit in (("T", temperatures, 1.0), ("p", pressures, ATM), ("phi", phis, 1.0)):
        if text is not None:
            stored[name] = [unit * v for v in _range(text, name)]
    ranges, rng = ranges_of(stored), np.random.default_rng(seed)
    count = parse(grid, tuple[int, int], "--grid")
    charges = grid_of(gas, ranges, count)
    found = accuracy.ignitions(model, gas, charges, two_stage=two_stage)
    told: dict[str, Any] = found.summary()
    if perturbations:
        kicked = ranges.charges(gas, perturbations, rng)
        told |= {f"perturbed: {k}": v for k, v in accuracy.recovery(model, gas, kicked, rng).items()}
    told |= accuracy.stability(model, found.states, steps)
    states = np.concatenate([path[::5] for path in found.reference])
    told |= {f"hybrid: {k}": v for k, v in limits(model, gas, states).items()}
    for row in accuracy.speed(model, gas, states):
        told[f"speed-up at batch {row['batch']}, rtol {row['rtol']:g}"] = row["speed-up"]
    for name, value in told.items():
        print(f"{name}: {value:.4g}")


def export(
    surrogate: Annotated[Path, typer.Argument(help="The file of `sciml train`.")],
    out: Annotated[Path, typer.Option("--out", help="A folder; made if it is not there.")] = Path("exported"),
) -> None:
    """Write a surrogate for a flow solver: ONNX, TorchScript and a manifest, with everything inside the graph."""
    from sciml.chemistry import export as exports
    from sciml.chemistry.surrogate import Surrogate

    for path in exports.export(Surrogate.load(surrogate), out):
        print(path)
