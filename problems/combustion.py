"""Combustion surrogates: networks Y(t) -> Y(t + dt) instead of the stiff integrator (arXiv:2201.03549, 2401.01220).

    dT/dt = -sum_k h_k w_k / (rho c_p),    dY_k/dt = w_k / rho    (adiabatic, constant pressure)

States are sampled, labelled by CVODE over dt, learnt, and the surrogate is measured beside the integrator: ignition
delays, one step, perturbed states, long rollouts, speed. Mechanisms are paths, files in a folder of CANTERA_DATA, or
names that Cantera ships: `sciml run combustion dme --set mechanism=FILE`, or FILE#PHASE for a phase of several.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from importlib.resources import files
from pathlib import Path
from typing import Any, Literal

import numpy as np

from sciml.chemistry import accuracy, labels
from sciml.chemistry.hybrid import limits
from sciml.chemistry.mechanism import Mechanism
from sciml.chemistry.recipe import Drawn, Sampling, Training, draw, grid_of, train
from sciml.chemistry.sampling import Ranges
from sciml.chemistry.surrogate import Surrogate
from sciml.files import read_json, write_json
from sciml.problems._combustion_ablation import Trial, table  # type: ignore[import-not-found]
from sciml.problems._combustion_flame import compare  # type: ignore[import-not-found]
from sciml.problems._combustion_workers import by_two  # type: ignore[import-not-found]
from sciml.results import Run

ATM = 101325.0


@dataclass(frozen=True)
class Config:
    """Options of a run.

    Attributes:
        task: train and measure a surrogate, show an ignition, measure speed, burn a flame with it, train every mix of
            transform and samples in the plain way, or measure what a second process that labels brings.
        mechanism: a path, or a name that Cantera finds.
        fuel: by moles.
        oxidiser: by moles.
        temperatures: range of the charges, K.
        pressures: range, atm.
        phis: range of equivalence ratios.
        dt: the step, s.
        reactor: what the steps keep.
        sampling: which states.
        length: consecutive states that each label brings.
        training: how they are learnt.
        grid: temperatures and equivalence ratios of the ignitions that are compared.
        two_stage: compare the first of two stages as well.
        perturbations: ignitions that start from perturbed states.
        long: steps of the rollouts that must stay bounded.
        rest: steps from equilibrium, which must stay.
        workers: processes that label; -1 is one on every core, 0 is this one alone.
        cells: across the front of a flame.
        lengths: of its own thickness that a flame burns through; 0 for no flame, nor is there one at constant volume.
        surrogate: the file of a trained one; empty takes the package's, or trains.
        compiled: measure the speed of generated code as well, which takes a minute and a C++ compiler.
    """

    task: Literal["surrogate", "demo", "speed", "flame", "ablation", "workers"] = "surrogate"
    mechanism: str = "h2o2.yaml"
    fuel: str = "H2"
    oxidiser: str = "O2:1, N2:3.76"
    temperatures: tuple[float, float] = (1000.0, 1500.0)
    pressures: tuple[float, float] = (1.0, 1.0)
    phis: tuple[float, float] = (0.5, 2.0)
    dt: float = 1e-6
    reactor: Literal["constant-pressure", "constant-volume"] = "constant-pressure"
    sampling: Sampling = Sampling()
    length: int = 8
    training: Training = Training(rounds=1)
    grid: tuple[int, int] = (6, 3)
    two_stage: bool = False
    perturbations: int = 120
    long: int = 2000
    rest: int = 10000
    workers: int = -1
    cells: int = 30
    lengths: float = 2.0
    surrogate: str = ""
    compiled: bool = True


_QUICK = {
    "compiled": False,
    "workers": 0,
    "sampling": Sampling(states=600, ignitions=4, flames=0),
    "training": Training(widths=(32, 32), steps=200, batch=256, tuning=3, rounds=1, visits=2),
}
_HYDROGEN = Training(rounds=1, share=0.3)
VARIANTS = {
    "paper": Config(training=_HYDROGEN),
    "smoke": Config(**_QUICK, length=3, grid=(2, 1), perturbations=2, long=50, rest=50, lengths=0),  # type: ignore[arg-type]
    "demo": Config(
        task="demo",
        sampling=Sampling(states=8000, ignitions=25, flames=0),
        training=Training(widths=(64, 64), steps=2500, batch=1024),
    ),
    "h2": Config(training=_HYDROGEN),
    "speed": Config(task="speed"),
    "flame": Config(task="flame"),
    "workers": Config(task="workers", sampling=Sampling(flames=0)),
    "ablation": Config(
        task="ablation",
        sampling=Sampling(states=9000, ignitions=60, flames=0),
        training=Training(steps=2000, batch=1024),
        perturbations=20,
    ),
    "drm19": Config(
        mechanism="ch4_drm19_21sp.yaml",
        fuel="CH4",
        temperatures=(1300.0, 1900.0),
        sampling=Sampling(states=150000),
        length=3,  # the step that takes a perturbed state, or one after transport, back is the hard one: more of those
        training=Training(steps=50000),
        lengths=1.0,
    ),
    "gri30": Config(
        mechanism="gri30.yaml",
        fuel="CH4",
        temperatures=(1300.0, 1900.0),
        sampling=Sampling(states=100000, flames=2),
        length=3,
        training=Training(steps=50000, rounds=2, visits=200, share=0.3),
        lengths=0,
    ),
    "dme": Config(
        mechanism="dme_zhao2008_55sp.yaml",
        fuel="CH3OCH3",
        temperatures=(750.0, 1200.0),
        pressures=(30.0, 50.0),
        phis=(0.7, 1.5),
        sampling=Sampling(states=100000, flames=0),
        length=3,
        training=Training(steps=50000, rounds=2, visits=200),
        two_stage=True,
        lengths=0,
    ),
}


def ranges_from(config: Config) -> Ranges:
    """Where the charges lie, in Pa."""
    low, high = config.pressures
    return Ranges(config.fuel, config.temperatures, (low * ATM, high * ATM), config.phis, config.oxidiser)


def run(config: Config, run: Run) -> dict[str, Any]:
    """Carry out the task."""
    mechanism = Mechanism(config.mechanism)
    grid_of(mechanism, ranges_from(config), config.grid)  # refuses a fuel that is not there, early
    if config.task in ("flame", "ablation", "workers") and config.reactor != "constant-pressure":
        raise ValueError(f"reactor is {config.reactor!r}, but task {config.task!r} is done at constant pressure only")
    tasks = {
        "surrogate": measured,
        "demo": demonstrated,
        "speed": timed,
        "flame": burning,
        "ablation": ablated,
        "workers": shared,
    }
    return tasks[config.task](config, run, mechanism)


def obtained(config: Config, run: Run, mechanism: Mechanism) -> tuple[Surrogate, dict[str, Any]]:
    """The surrogate of a file, of the package, or one trained now, and what it cost."""
    shipped = Path(str(files("sciml.data") / "h2_surrogate.h5"))
    named = config.surrogate or (str(shipped) if config.task != "surrogate" and shipped.exists() else "")
    if named:
        model = Surrogate.load(named)
        wanted = {"hash": mechanism.hash, "dt": config.dt, "reactor": config.reactor}
        other = [name for name, value in wanted.items() if getattr(model.settings, name) != value]
        if not other:
            return model, {"surrogate": Path(named).name}
        if "hash" in other and config.surrogate:
            raise ValueError(f"surrogate {named} is that of {model.mechanism!r}, but mechanism is {config.mechanism!r}")
        if config.surrogate:
            raise ValueError(
                f"surrogate {named} has {other[0]} {getattr(model.settings, other[0])!r}, but {other[0]} is"
                f" {wanted[other[0]]!r}"
            )
    return trained(config, run, mechanism)


def trained(config: Config, run: Run, mechanism: Mechanism) -> tuple[Surrogate, dict[str, Any]]:
    """Sample, label and train, going on where an interrupted run was."""
    finished = run.path / "cost.json"
    if finished.exists():
        return Surrogate.load(run.path / "surrogate.h5"), read_json(finished)
    clock = Clock(run.path / "seconds.json")
    path = run.path / "labels.h5"
    if path.exists():
        dataset = labels.Dataset.load(path)
    else:
        with clock.stage("sampling"):
            drawn = drawn_once(config, run, mechanism)
        print(f"{len(drawn.samples)} states drawn in {clock.seconds['sampling']:.1f} s", flush=True)
        options: dict[str, Any] = {"reactor": config.reactor, "workers": config.workers, "seed": run.seed}
        with clock.stage("labels"):
            dataset = labels.label(
                mechanism, drawn.samples, path, config.dt, config.length, ranges=drawn.recorded, **options
            )
        print(f"{len(dataset)} windows labelled in {clock.seconds['labels']:.1f} s", flush=True)
    with clock.stage("audit"):
        audit = labels.audit(dataset, mechanism)
    checkpoint = run.path / "training.checkpoint.h5"
    with clock.stage("training"):
        model, history = train(dataset, mechanism, config.training, run.seed, checkpoint, config.workers)
    print(f"trained in {clock.seconds['training']:.1f} s: {'; '.join(history.reasons)}", flush=True)
    model.save(run.path / "surrogate.h5")
    cost = {
        "seconds": clock.seconds,
        "pairs": len(dataset) * dataset.steps,
        "left out": dict(dataset.left_out),
        "label audit, worst": audit.worst,
        "label audit, median": audit.median,
    }
    write_json(finished, cost)
    for done in (checkpoint, clock.path):
        done.unlink(missing_ok=True)
    return model, cost


def drawn_once(config: Config, run: Run, mechanism: Mechanism) -> Drawn:
    """The states of this run: those of its file, if it was interrupted after they were drawn."""
    path = run.path / "states.h5"
    if not path.exists():
        draw(mechanism, ranges_from(config), config.sampling, run.seed, reactor=config.reactor).save(path)
    return Drawn.load(path)


class Clock:
    """Wall times of stages, kept in a file: a resumed run counts what it spent before."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.seconds: dict[str, float] = read_json(path) if path.exists() else {}

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Add the time of what is done within, be it finished or interrupted."""
        begun = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - begun
            write_json(self.path, self.seconds)


# ------------------------------------------------------------------ tasks


def measured(config: Config, run: Run, mechanism: Mechanism) -> dict[str, Any]:
    """Train (or load) a surrogate and measure it in every way."""
    model, cost = obtained(config, run, mechanism)
    charges = grid_of(mechanism, ranges_from(config), config.grid)
    found = accuracy.ignitions(model, mechanism, charges, two_stage=config.two_stage)
    rng = np.random.default_rng([run.seed, 1])
    test = held_out_pairs(config, mechanism, rng)
    scales = accuracy.one_step(model, *test)
    recovery = {}
    if config.perturbations:
        kicked = ranges_from(config).charges(mechanism, config.perturbations, rng)
        recovery = accuracy.recovery(model, mechanism, kicked, rng)
    steps = accuracy.speed(model, mechanism, test[0])
    draw_ignitions(run, mechanism, found)
    draw_scales(run, scales)
    draw_speed(run, steps)
    run.array("charges", found.states)
    run.array("delays", np.column_stack([found.exact, found.found]))
    names = dict.fromkeys(row["species"] for row in scales)
    isobaric = config.reactor == "constant-pressure"
    flame = burnt(config, run, mechanism, model) if config.lengths and isobaric else {}
    metrics = {
        **found.summary(),
        "speed-up, largest batch": steps[-2]["speed-up"],
        "microseconds, largest batch": steps[-1]["microseconds"],
        "one step, mean relative error": accuracy.overall(scales),
        **{f"perturbed: {k}": v for k, v in recovery.items()},
        **accuracy.stability(model, charges, config.long),
        **{f"equilibrium: {k}": v for k, v in accuracy.fixed_point(model, mechanism, charges[:3], config.rest).items()},
        **{f"hybrid: {k}": v for k, v in limits(model, mechanism, test[0]).items()},
        **{f"flame: {k}": v for k, v in flame.items() if k != "table"},
        **compiled(config, model, mechanism, test[0]),  # last: from here on it would step by generated code
    }
    by_batch = {f"batch {row['batch']}, rtol {row['rtol']:g}": row for row in steps}
    by_species = {name: {f"1e{r['decade']}": r["relative"] for r in scales if r["species"] == name} for name in names}
    nested = {"speed": by_batch, "scales": by_species}
    return {**metrics, **cost, **nested, "table": delay_table(found)}


def held_out_pairs(config: Config, mechanism: Mechanism, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """States along ignitions that were not trained on, and their successors."""
    sampling = replace(config.sampling, kinds=("manifold",), states=1000, ignitions=5, flames=0)
    seed = int(rng.integers(2**31))
    states = draw(mechanism, ranges_from(config), sampling, seed, reactor=config.reactor).samples.states
    done = mechanism.advance(states, config.dt, reactor=config.reactor)
    return states[done.ok], done.states[done.ok]


def delay_table(found: accuracy.Ignitions) -> list[dict[str, Any]]:
    """A row for each charge."""
    return [
        {
            "T (K)": float(state[0]),
            "p (atm)": float(state[1] / ATM),
            "delay, CVODE (us)": 1e6 * float(exact),
            "delay error (%)": 100 * float(error),
            "final T error (K)": float(final),
        }
        for state, exact, error, final in zip(found.states, found.exact, found.error, found.final, strict=True)
    ]


def demonstrated(config: Config, run: Run, mechanism: Mechanism) -> dict[str, Any]:
    """Ignitions of the surrogate beside Cantera's."""
    model, cost = obtained(config, run, mechanism)
    low, high = config.temperatures
    T = np.array([low, (low + high) / 2, high])
    states = mechanism.state(T, ATM * config.pressures[0], config.fuel, config.oxidiser)
    begun = time.perf_counter()
    found = accuracy.ignitions(model, mechanism, states)
    draw_ignitions(run, mechanism, found)
    seconds = time.perf_counter() - begun
    return {**found.summary(), **cost, "seconds of both": seconds, "table": delay_table(found)}


def timed(config: Config, run: Run, mechanism: Mechanism) -> dict[str, Any]:
    """Processor time of a step against a reused CVODE reactor at two tolerances."""
    model, cost = obtained(config, run, mechanism)
    states, _ = held_out_pairs(config, mechanism, np.random.default_rng(run.seed))
    rows = accuracy.speed(model, mechanism, states)
    draw_speed(run, rows)
    return {**cost, **compiled(config, model, mechanism, states), "table": rows}


def compiled(config: Config, model: Surrogate, mechanism: Mechanism, states: np.ndarray) -> dict[str, float]:
    """What generated code brings at the largest batch; nothing where there is no compiler."""
    if not config.compiled:
        return {}
    begun = time.perf_counter()
    try:
        model.compile()
    except RuntimeError as error:
        print(error)
        return {}
    seconds = time.perf_counter() - begun
    loose, tight = accuracy.speed(model, mechanism, states, batches=(8192,))
    return {
        "speed-up, compiled": loose["speed-up"],
        "speed-up, compiled, tight": tight["speed-up"],
        "microseconds, compiled": loose["microseconds"],
        "seconds to compile": seconds,
    }


def burning(config: Config, run: Run, mechanism: Mechanism) -> dict[str, Any]:
    """A stoichiometric flame at 300 K, by CVODE, the surrogate and both."""
    model, cost = obtained(config, run, mechanism)
    return {**burnt(config, run, mechanism, model), **cost}


def burnt(config: Config, run: Run, mechanism: Mechanism, model: Surrogate) -> dict[str, Any]:
    """What that flame does."""
    T = max(300.0, mechanism.temperature_range[0])
    inlet = mechanism.state(T, ATM * config.pressures[0], config.fuel, config.oxidiser, 1.0)
    return compare(run, mechanism, model, inlet, config.cells, config.lengths)


def ablated(config: Config, run: Run, mechanism: Mechanism) -> dict[str, Any]:
    """Every transform on every kind of samples."""
    widths = config.training.layers(len(mechanism.reactive))
    trial = Trial(widths, config.training.steps, config.training.batch)
    return table(run, mechanism, ranges_from(config), config.sampling, config.dt, trial, config.perturbations)


def shared(config: Config, run: Run, mechanism: Mechanism) -> dict[str, Any]:
    """The same labels by one process and by two."""
    drawn = draw(mechanism, ranges_from(config), config.sampling, run.seed)
    return by_two(mechanism, drawn, run.path / "labels.h5", config.dt, config.length)


# ------------------------------------------------------------------ figures


def draw_ignitions(run: Run, mechanism: Mechanism, found: accuracy.Ignitions) -> None:
    """Temperatures and the largest radical over time, for at most six of the charges."""
    chosen = np.unique(np.linspace(0, len(found.states) - 1, 6).astype(int))
    radical = next((k for k in ("OH", "oh") if k in mechanism.species), mechanism.species[-1])
    column = 2 + mechanism.index(radical)
    with run.figure("ignition", height=6.0) as figure:
        upper, lower = figure.subplots(2, 1, sharex=True)
        for index in chosen:
            true, ours = found.reference[index], found.rollout[index]
            times = found.dt * np.arange(len(true)) / found.exact[index]
            (line,) = upper.plot(times, true[:, 0], alpha=0.5, label=f"{true[0, 0]:.0f} K")
            upper.plot(times, ours[:, 0], "--", color=line.get_color())
            lower.semilogy(times, np.maximum(true[:, column], 1e-20), alpha=0.5, color=line.get_color())
            lower.semilogy(times, np.maximum(ours[:, column], 1e-20), "--", color=line.get_color())
        upper.set(ylabel="T (K)", title="lines: CVODE; dashed: surrogate")
        upper.legend()
        lower.set(xlabel="time / ignition delay", ylabel=f"mass fraction of {radical}", ylim=(1e-15, 1))


def draw_scales(run: Run, rows: list[dict[str, Any]]) -> None:
    """Relative error of one step against the magnitude of the fraction."""
    with run.figure("scales") as figure:
        axes = figure.subplots()
        for species in dict.fromkeys(row["species"] for row in rows):
            mine = [row for row in rows if row["species"] == species]
            axes.semilogy([r["decade"] for r in mine], [max(r["relative"], 1e-6) for r in mine], "o-", label=species)
        axes.set(xlabel="log10 of the mass fraction", ylabel="mean error of one step / mean change")
        axes.legend(ncols=2, fontsize=7)


def draw_speed(run: Run, rows: list[dict[str, float]]) -> None:
    """Microseconds of a state against the size of the batch."""
    with run.figure("speed") as figure:
        axes = figure.subplots()
        loose = [row for row in rows if row["rtol"] == rows[0]["rtol"]]
        axes.loglog([r["batch"] for r in loose], [r["microseconds"] for r in loose], "o-", label="surrogate")
        for rtol in dict.fromkeys(row["rtol"] for row in rows):
            mine = [row for row in rows if row["rtol"] == rtol]
            axes.axhline(mine[0]["CVODE, microseconds"], ls="--", label=f"CVODE, rtol {rtol:g}", color="0.5")
        axes.set(xlabel="states in a batch", ylabel="microseconds for a state, one core")
        axes.legend()
