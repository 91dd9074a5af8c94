"""Mechanism reduction (arXiv:2201.02025): minimise |v|, v in {0, 1}^s, subject to |error_j(v)| <= tolerance_j.

v says which species of a mechanism are kept; the errors are those of ignition delays, of the burnt gas and, if asked
for, of stirred reactors and flame speeds over a table of conditions. A model proposes, simulations decide. Integer
programmes on a local model propose by default: on GRI-3.0 they reach the size that ensembles of networks reach, after
fewer simulations. `proposals=network`, `inverse` or `both` select networks. Plain greedy deletion and the graph methods
DRG, DRGEP, PFA and DRGEPASA go through the same evaluation. The second stage deletes reactions. What comes out is
``reduced.yaml``, a mechanism that Cantera reads, with its table of errors.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal

import numpy as np

from sciml.archive import Archive, Store
from sciml.chemistry.conditions import Conditions
from sciml.chemistry.evaluation import Assembled, Evaluation, protected
from sciml.chemistry.graphs import ranking, reaction_ranking, samples
from sciml.chemistry.mechanism import Mechanism
from sciml.chemistry.metrics import Burnt, Corners, Extinction, FlameSpeed, IgnitionDelay, Metric, StirredReactor
from sciml.chemistry.reduction import Options, Reduction, greedy, reduce, sensitivity, sweep
from sciml.chemistry.submechanism import write

from ._reduction_report import applies, names, provenance, report

GRAPHS = ("DRG", "DRGEP", "PFA", "DRGEPASA")
COMPARED = ("greedy", "integer", "random", "network", "inverse", "both")


@dataclass(frozen=True)
class Config:
    """Options of a run.

    Attributes:
        mechanism: a path, or the name of a file that Cantera ships.
        phase: of the file; empty takes the first.
        fuel: by moles.
        oxidiser: by moles.
        conditions: a YAML file with lists temperatures (K), pressures (atm), phis, or points, and fuel and oxidiser if
            they are not those above; empty takes the next 3.
        temperatures: K.
        pressures: atm.
        phis: equivalence ratios.
        tolerance: of ignition delays, relative.
        beyond: how many of these tolerances delays may err at the corners of the table's box made a tenth larger; 0 is
            without.
        burnt: tolerance of the burnt temperature in K; 0 leaves the burnt gas out.
        burnt_hot: burn charges at the design temperatures too, not only at 300 K.
        products: tolerance of the mole fractions of CO2, H2O and CO in the burnt gas.
        two_stage: compare the first stage of ignition too.
        reactor: of the ignition delays.
        stirred: relative tolerance of the temperature of a stirred reactor; 0 leaves it out.
        extinction: relative tolerance of the residence time at which it goes out; 0 leaves it out.
        flame: relative tolerance of the flame speed; 0 leaves it out.
        steady_phis: reactors and flames are compared at the equivalence ratios of the table in this range, for towards
            its ends there may be none that burns.
        protect: species that are kept besides those of fuel and oxidiser.
        budget: masks of species that are simulated.
        reactions: masks of reactions that are simulated in the second stage; 0 leaves it out.
        proposals: who proposes: integer, network, random, inverse, both.
        compare: what else runs with the same budget: greedy, integer, random, network, inverse, both.
        graphs: graph methods to run: DRG, DRGEP, PFA, DRGEPASA.
        workers: processes; -1 is one on every core, 0 is this one alone.
        timeout: seconds for one mask, with workers; 0 is no limit.
        scheduler: address of a Dask scheduler, instead of workers.
        cache: an HDF5 file of simulated masks to use again; empty keeps one in the run folder, for all its seeds.
        chemkin: also write CHEMKIN files.
    """

    mechanism: str = "gri30.yaml"
    phase: str = ""
    fuel: str = "CH4"
    oxidiser: str = "O2:1, N2:3.76"
    conditions: str = ""
    temperatures: tuple[float, ...] = (1200.0, 1400.0, 1600.0)
    pressures: tuple[float, ...] = (1.0,)
    phis: tuple[float, ...] = (0.5, 1.0, 2.0)
    tolerance: float = 0.1
    beyond: float = 2.0
    burnt: float = 10.0
    burnt_hot: bool = True
    products: float = 0.005
    two_stage: bool = False
    reactor: Literal["constant-pressure", "constant-volume"] = "constant-pressure"
    stirred: float = 0.0
    extinction: float = 0.0
    flame: float = 0.0
    steady_phis: tuple[float, float] = (0.0, 100.0)
    protect: tuple[str, ...] = ()
    budget: int = 300
    reactions: int = 300
    proposals: Literal["integer", "network", "random", "inverse", "both"] = "integer"
    compare: tuple[str, ...] = ("greedy", "random")
    graphs: tuple[str, ...] = ("DRG", "DRGEP", "PFA", "DRGEPASA")
    workers: int = -1
    timeout: float = 0.0
    scheduler: str = ""
    cache: str = ""
    chemkin: bool = True


PROPOSERS = ("greedy", "random", "network")
LARGE = Config(pressures=(1.0, 20.0), budget=500, reactions=0, compare=(), graphs=("DRGEP",))
DODECANE = replace(
    LARGE,
    mechanism="nDodecane_Reitz.yaml",
    phase="nDodecane_IG",
    fuel="c12h26",
    oxidiser="o2:1, n2:3.76",
    temperatures=(1000.0, 1200.0, 1400.0),
)
HEPTANE = replace(  # its mechanism does not come with Cantera: CANTERA_DATA names its folder
    LARGE,
    mechanism="nc7h16_chaos_dryer_116sp.yaml",
    fuel="nc7h16",
    oxidiser="o2:1, n2:3.76",
    temperatures=(1200.0, 1500.0, 1800.0),
    tolerance=0.25,
)
VARIANTS = {
    "own": Config(compare=(), graphs=("DRGEP",)),  # what a user's mechanism gets when no variant is named
    "smoke": Config(
        mechanism="h2o2.yaml",
        fuel="H2",
        temperatures=(1100.0, 1300.0),
        budget=40,
        reactions=25,
        graphs=("DRGEP",),
        workers=0,
    ),
    "paper": Config(pressures=(1.0, 10.0, 20.0), stirred=0.1, budget=3000, reactions=1000),
    "gri30": Config(burnt_hot=False, compare=("greedy",)),
    "gri30_hot": Config(),
    "gri30_delay": Config(burnt=0.0, compare=("greedy",)),
    "gri30_proposers": Config(burnt_hot=False, budget=150, reactions=0, compare=(*PROPOSERS, "inverse"), graphs=()),
    "dodecane": DODECANE,
    "dodecane_proposers": replace(DODECANE, budget=160, compare=PROPOSERS, graphs=()),
    "gri30_flame": Config(
        phis=(0.5, 0.7, 1.0, 1.3, 2.0),
        burnt_hot=False,
        stirred=0.1,
        flame=0.1,
        steady_phis=(0.6, 1.5),
        compare=(),
        graphs=("DRGEP",),
        reactions=0,
    ),
    "heptane": HEPTANE,
    "heptane_proposers": replace(HEPTANE, budget=160, compare=PROPOSERS, graphs=()),
    "heptane_10": replace(HEPTANE, tolerance=0.1),
    "heptane_1atm": replace(HEPTANE, tolerance=0.1, pressures=(1.0,), phis=(0.6, 0.9, 1.2), budget=2500),
}


def metrics(config: Config) -> list[Metric]:
    """Cheapest first."""
    chosen: list[Metric] = []
    if config.burnt:
        chosen.append(Burnt(kelvin=config.burnt, fraction=config.products, hot=config.burnt_hot))
    chosen.append(IgnitionDelay(config.tolerance, reactor=config.reactor, two_stage=config.two_stage))
    if config.beyond:
        chosen.append(Corners(IgnitionDelay(config.tolerance, reactor=config.reactor), config.beyond))
    if config.stirred:
        chosen.append(StirredReactor(config.stirred, phis=config.steady_phis))
    if config.extinction:
        chosen.append(Extinction(config.extinction, phis=config.steady_phis))
    if config.flame:
        chosen.append(FlameSpeed(config.flame, phis=config.steady_phis, slope=0.12, curve=0.24))
    return chosen


def table_of(config: Config) -> Conditions:
    """The design conditions."""
    if config.conditions:
        return Conditions.from_yaml(config.conditions, config.fuel, config.oxidiser)
    return Conditions.grid(config.fuel, config.temperatures, config.pressures, config.phis, config.oxidiser)


def executor(config: Config) -> Any:
    """Processes, or a client of a Dask scheduler."""
    if not config.scheduler:
        return config.workers
    try:
        from distributed import Client
    except ImportError as error:
        raise ValueError("scheduler needs dask: pip install 'sciml-solvers[cluster]'") from error
    logging.getLogger("distributed").setLevel(logging.CRITICAL)  # its tracebacks; what matters is said in one sentence
    try:
        return Client(config.scheduler, timeout=10)
    except (OSError, ValueError) as error:
        raise ValueError(f"scheduler is {config.scheduler!r}, but nothing answers there: {error}") from error


def run(config: Config, run: Any) -> dict[str, Any]:
    """Reduce species, compare methods, reduce reactions, write and verify."""
    for name, given, known in (("graphs", config.graphs, GRAPHS), ("compare", config.compare, COMPARED)):
        if unknown := set(given) - set(known):
            raise ValueError(
                f"{name} has {', '.join(sorted(unknown))}, but its members must be among {', '.join(known)}"
            )
    if config.reactions < 0:
        raise ValueError(f"reactions is {config.reactions}, but must be a number of simulated masks, 0 for none")
    options = Options(config.budget, config.proposals, workers=executor(config), timeout=config.timeout or None)
    mechanism = Mechanism(config.mechanism, config.phase or None)
    conditions, chosen = table_of(config), metrics(config)
    writable(mechanism, config.chemkin)
    if not all(applies(metric, conditions) for metric in chosen if not isinstance(metric, Corners)):
        raise ValueError(f"steady_phis is {config.steady_phis}, but no equivalence ratio of the conditions lies there")
    evaluate = Evaluation(mechanism, conditions, chosen)
    fixed = evaluate.parts.mask(protected(mechanism, conditions, config.protect))
    states = samples(mechanism, conditions)
    targets = names(mechanism, fixed)
    start = [ranking(mechanism, states, targets, "DRGEP")]
    among = run.path.name.removesuffix(".partial") == f"seed{run.seed}"  # seeds share their masks
    where = Path(config.cache) if config.cache else (run.path.parent if among else run.path) / "masks.h5"
    store = Store(where, mechanism.n_species, evaluate.size, evaluate.fingerprint)
    run.precious = True  # an error must not cost finished simulations

    def keep(archive: Archive) -> None:
        if archive.best is None:
            return
        print(f"{len(archive)} masks: {archive.objectives[archive.best]:.0f} species", flush=True)
        best = archive.designs[archive.best] > 0.5
        write(run.path / "best.yaml", mechanism, names(mechanism, best), header={"simulated masks": len(archive)})

    rows: list[dict[str, Any]] = []
    found = timed(
        rows, config.proposals, store, lambda: reduce(evaluate, fixed, options, run.seed, store, Best(keep), start)
    )
    for method in config.compare:
        other = partial(proposed, evaluate, fixed, options, method, run.seed, store, start)
        found = smaller(found, timed(rows, method, store, other))
    for label, graph in graph_methods(config, evaluate, fixed, store, states).items():
        found = smaller(found, timed(rows, label, store, graph))
    species = names(mechanism, found.mask)
    kept, reactions = second_stage(config, run, evaluate, options, found, rows)
    header = provenance(config, run, evaluate, found, kept)
    write(run.path / "reduced.yaml", mechanism, species, reactions, header, config.chemkin)
    return report(config, run, evaluate, found, rows, species)


def writable(mechanism: Mechanism, chemkin: bool) -> None:
    """Refuse a mechanism whose parts could not be written at the end, before hours are spent on them."""
    with TemporaryDirectory() as folder:
        try:
            write(Path(folder) / Path(mechanism.source).name, mechanism, mechanism.species, chemkin=chemkin)
        except ValueError as error:
            raise ValueError(f"{error}; chemkin=false does without" if chemkin else str(error)) from error


def proposed(
    evaluate: Evaluation,
    fixed: np.ndarray,
    options: Options,
    method: str,
    seed: int,
    store: Store,
    start: Sequence[np.ndarray],
) -> Reduction:
    """Greedy deletion, or the search with another proposer, at the budget of `options`."""
    if method == "greedy":
        return greedy(evaluate, fixed, options.budget, None, store, options.workers, options.timeout)
    return reduce(evaluate, fixed, replace(options, proposals=method), seed, store, None, start)  # type: ignore[arg-type]


class Best:
    """Calls `keep` only when the best has become smaller, so that the file of the best is written only then."""

    def __init__(self, keep: Callable[[Archive], None]) -> None:
        self.keep, self.size = keep, float("inf")

    def __call__(self, archive: Archive) -> None:
        if archive.best is not None and archive.objectives[archive.best] < self.size:
            self.size = archive.objectives[archive.best]
            self.keep(archive)


def smaller(one: Reduction, other: Reduction) -> Reduction:
    """The better of two answers: fewer species, then the smaller error."""
    return min(one, other, key=lambda r: (r.size, r.error))


def timed(rows: list[dict[str, Any]], name: str, store: Store, work: Callable[[], Reduction]) -> Reduction:
    """Run a method and add its row to the table; masks count whether an earlier method of the run knew them or not."""
    begun, known = time.perf_counter(), len(store)
    found = work()
    rows.append(
        {
            "method": name,
            "size": found.size,
            "worst error / tolerance": found.error,
            "simulated masks": found.simulated,
            "size reached after": int(found.archive.best or 0) + 1,
            "new to this run": len(store) - known,
            "seconds for the new": time.perf_counter() - begun,
        }
    )
    print(f"{name}: {found.size} with {found.simulated} masks", flush=True)
    return found


def graph_methods(
    config: Config, evaluate: Evaluation, fixed: np.ndarray, store: Store, states: np.ndarray
) -> dict[str, Callable[[], Reduction]]:
    """The graph methods asked for, as functions."""
    methods: dict[str, Callable[[], Reduction]] = {}
    mechanism = evaluate.mechanism
    targets = names(mechanism, fixed)
    for label in config.graphs:
        rank = ranking(mechanism, states, targets, label.removesuffix("ASA"))  # type: ignore[arg-type]
        follow = sensitivity if label.endswith("ASA") else sweep
        methods[label] = partial(follow, evaluate, fixed, rank, config.budget, store)
    return methods


def second_stage(
    config: Config, run: Any, evaluate: Evaluation, options: Options, found: Reduction, rows: list[dict[str, Any]]
) -> tuple[int, np.ndarray | None]:
    """Delete reactions among the species found: their number, and the mask over the parent's reactions.

    The answer is the smallest simulated set that also holds at the held-out conditions, to twice the tolerances.
    """
    if not config.reactions:
        return int(evaluate.parts.kept(found.mask).sum()), None
    inner = Evaluation(evaluate.mechanism, evaluate.conditions, evaluate.metrics, species=found.mask)
    store = Store(run.path / "reactions.h5", inner.dim, inner.size, inner.fingerprint)
    fixed = np.zeros(inner.dim, dtype=bool)
    part = Assembled(inner.parts.assemble(found.mask))
    start = [reaction_ranking(part, samples(part, inner.conditions))]
    work = partial(reduce, inner, fixed, replace(options, budget=config.reactions), run.seed, store, None, start)
    archive = timed(rows, "reactions", store, work).archive
    try:
        between = evaluate.conditions.between().within(evaluate.mechanism)
        plain = [metric for metric in evaluate.metrics if applies(metric, between)]
        held_out = Evaluation(evaluate.mechanism, between, plain, species=found.mask)
    except ValueError:  # there are none, or the parent itself fails at one
        return int(archive.objectives[archive.best]), inner.masks(archive.designs[archive.best])[1]
    feasible = np.flatnonzero(archive.feasible)
    for i in sorted(feasible, key=lambda i: (archive.objectives[i], archive.worst[i])):
        # a few reactions can be right at every design point and fail between them
        if np.abs(np.nan_to_num(held_out(archive.designs[i])[1], nan=np.inf)).max() <= 2:
            rows[-1] |= {"size that holds between": int(archive.objectives[i])}
            return int(archive.objectives[i]), inner.masks(archive.designs[i])[1]
    return inner.dim, None
