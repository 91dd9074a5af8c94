"""From a mechanism to a surrogate: which states are drawn, labelled and learnt.

`Sampling` says which kinds of states and how many, `Training` how they are learnt. A file of drawn states knows its
mechanism and ranges; so do the labels made of it, and the surrogate trained on those.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from sciml.chemistry.samples import Samples, concatenate, fractions_within, heat_release_within
from sciml.chemistry.sampling import Ranges, monte_carlo, multi_scale, named, perturbed
from sciml.chemistry.splitting import after_transport, flames_of
from sciml.chemistry.trajectories import LONGEST, along, evolved, manifold, on_the_way, relaxed
from sciml.files import read_h5, write_h5

if TYPE_CHECKING:
    from sciml.chemistry.labels import Dataset
    from sciml.chemistry.mechanism import Mechanism, Reactor
    from sciml.chemistry.surrogate import Surrogate
    from sciml.training import History

__all__ = ["KINDS", "Drawn", "Sampling", "Training", "draw", "grid_of", "ranges_of", "train", "visited"]

Progress = Callable[[int, int], None]
KINDS = ("manifold", "perturbed", "relaxed", "nearby", "multi-scale", "evolution", "monte carlo")


@dataclass(frozen=True)
class Sampling:
    """Which states are drawn.

    Args:
        kinds: of `KINDS`, in equal shares: trajectories of igniting charges; these with fractions raised to powers
            around 1; such states, from the way to ignition, followed until they ignite; states perturbed by so little
            that they fall back within a step; compositions uniform in Box-Cox space; these followed along their own
            trajectories; compositions uniform in the fractions themselves.
        states: how many in all, before filters.
        ignitions: trajectories of the manifold.
        flames: one-dimensional flames that bring a third as many states as the ignitions, as a flow solver meets
            them (`splitting`); none for a mechanism without transport data.
        alpha: largest change of the power.
        factor: drawn states are kept if no species and no heat release exceeds so many times the manifold's; 0 keeps
            all.
    """

    kinds: tuple[str, ...] = ("manifold", "perturbed", "relaxed", "nearby")
    states: int = 60000
    ignitions: int = 200
    flames: int = 8
    alpha: float = 0.15
    factor: float = 10.0

    def __post_init__(self) -> None:
        wrong = [kind for kind in self.kinds if kind not in KINDS]
        if wrong or not self.kinds:
            raise ValueError(f"kinds is {', '.join(self.kinds)!r}, but must be some of {', '.join(KINDS)}")
        if self.states < len(self.kinds) or self.ignitions < 1 or self.flames < 0:
            raise ValueError(
                f"states ({self.states}) must be at least one of each kind, ignitions ({self.ignitions}) at least 1"
                f" and flames ({self.flames}) not negative"
            )


@dataclass(frozen=True)
class Training:
    """How a surrogate learns.

    Args:
        widths: hidden layers; empty for three that grow slowly with the number of reactive species: 96 wide for
            hydrogen, 128 for DRM19 and GRI-3.0.
        steps: of SOAP on pairs of states.
        lr: its learning rate, falling to zero along a cosine.
        batch: pairs per step.
        tuning: steps of SOAP on rollouts over the windows of the labels; 0 for none.
        edges: temperatures (K) between experts; empty for one network.
        rounds: how often the states that rollouts of the surrogate itself pass through are labelled and learnt too,
            with a quarter of the steps each time: errors lead where no sampler went.
        visits: number of these rollouts; half start from charges, half from perturbed states on the way to ignition.
        share: in the rounds, errors count relative to the increment of their own species and this share of the row's
            mean; None for the row's alone. Rollouts have radicals a little off their balance, beside whose return
            errors of slow species are lost: 0.3 halves the errors of delays of hydrogen and GRI-3.0, but some charges
            of dimethyl ether then never ignite.
    """

    widths: tuple[int, ...] = ()
    steps: int = 30000
    lr: float = 1e-2
    batch: int = 2048
    tuning: int = 0
    edges: tuple[float, ...] = ()
    rounds: int = 0
    visits: int = 100
    share: float | None = None

    def __post_init__(self) -> None:
        if self.share is not None and not 0 < self.share <= 1:
            raise ValueError(f"share is {self.share!r}, but must be above 0 and at most 1, or None")
        if self.rounds < 0 or self.tuning < 0 or self.visits < 1 or self.batch < 1:
            raise ValueError(
                f"rounds ({self.rounds}) and tuning ({self.tuning}) must not be negative, visits ({self.visits}) and"
                f" batch ({self.batch}) at least 1"
            )

    def layers(self, reactive: int) -> tuple[int, ...]:
        """Widths for so many reactive species."""
        return self.widths or (32 * math.ceil(2.2 + 0.22 * math.sqrt(reactive)),) * 3


@dataclass(frozen=True)
class Drawn:
    """Drawn states and all that says how they came about.

    Attributes:
        samples: the states, their origins and what filters refused.
        mechanism: the string that names the mechanism.
        hash: of its content.
        ranges: of the charges.
        seed: of the draws.
        reactor: of the ignitions, and of the labels unless another one is named.
    """

    samples: Samples
    mechanism: str
    hash: str
    ranges: Ranges
    seed: int
    reactor: Reactor = "constant-pressure"

    @property
    def recorded(self) -> dict[str, Any]:
        """The ranges, as labels and surrogates remember them."""
        return asdict(self.ranges)

    def save(self, path: str | Path) -> None:
        """Write one HDF5 file, atomically."""
        samples = self.samples
        description = {
            "kind": "states",
            "mechanism": self.mechanism,
            "hash": self.hash,
            "ranges": self.recorded,
            "seed": self.seed,
            "reactor": self.reactor,
            "origins": samples.origins,
            "left_out": dict(samples.left_out),
        }
        write_h5(path, description, {"states": samples.states, "origin": samples.origin})

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """Read what `save` wrote.

        Raises:
            FileNotFoundError: if there is no such file.
            ValueError: if it holds something else.
        """
        told, arrays = read_h5(path)
        if told.get("kind") != "states":
            raise ValueError(f"{path} holds {told.get('kind')!r}, but states are wanted: the file of `sciml sample`")
        samples = Samples(arrays["states"], arrays["origin"], tuple(told["origins"]), told["left_out"])
        reactor = told.get("reactor", "constant-pressure")
        return cls(samples, told["mechanism"], told["hash"], ranges_of(told["ranges"]), told["seed"], reactor)


def ranges_of(stored: dict[str, Any]) -> Ranges:
    """Ranges from what JSON keeps of them."""
    given: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in stored.items()}
    return Ranges(**given)


def grid_of(mechanism: Mechanism, ranges: Ranges, counts: tuple[int, int]) -> np.ndarray:
    """Charges (n, 2+s) on a grid of temperatures and equivalence ratios, ends included, at pressures of the range.

    Raises:
        ValueError: for a count below 1.
    """
    if min(counts) < 1:
        raise ValueError(f"grid is {counts[0]},{counts[1]}, but must be two numbers of at least 1")
    T, phi = np.linspace(*ranges.T, counts[0]), np.geomspace(*ranges.phi, counts[1])
    T, phi = (v.reshape(-1) for v in np.meshgrid(T, phi, indexing="ij"))
    # shares by the golden ratio: every part of the grid meets every pressure
    share = np.modf(0.6180339887 * np.arange(len(T)))[0]
    p = ranges.p[0] * (ranges.p[1] / ranges.p[0]) ** share
    return np.atleast_2d(mechanism.state(T, p, ranges.fuel, ranges.oxidiser, phi))


def draw(
    mechanism: Mechanism,
    ranges: Ranges,
    sampling: Sampling | None = None,
    seed: int = 0,
    progress: Progress | None = None,
    reactor: Reactor = "constant-pressure",
) -> Drawn:
    """Draw states of all kinds asked for, filter, deduplicate and shuffle them.

    Args:
        mechanism: the chemistry.
        ranges: of the charges.
        sampling: which states.
        seed: of all draws.
        progress: called with (done, all) trajectories.
        reactor: of the ignitions: what the steps of the surrogate will keep.

    Raises:
        ValueError: if the fuel is not in the mechanism, nothing burns, or its data are such that no surrogate takes.
    """
    from sciml.chemistry.affinity import coefficients

    coefficients(mechanism)  # refuses, before hours of labelling, what cannot be learnt
    sampling = sampling or Sampling()
    generator = np.random.default_rng(seed)
    each = sampling.states // len(sampling.kinds)
    points = max(each // sampling.ignitions, 20)
    # what is asked for must not lie at the edge of what is known
    wide = ranges.widened(within=mechanism.temperature_range)
    base = manifold(mechanism, wide, generator, sampling.ignitions, 0, 0, points, progress, reactor)
    flames = 0 if mechanism.inspection.without_transport else sampling.flames
    if burning := flames_of(mechanism, wide, flames, generator) if flames else ():
        base = concatenate([base, after_transport(mechanism, burning, max(each // 3, 1), generator)])
    top = np.minimum(1.0, max(sampling.factor, 1.0) * base.states[:, 2:].max(axis=0))
    parts = []
    for kind in sampling.kinds:
        if kind == "manifold":
            # every trajectory brings one fresh charge; more of them, since every use of the surrogate begins there
            fresh = wide.charges(mechanism, max(each // 5, 1), generator)
            parts += [base, Samples(fresh, np.zeros(len(fresh), dtype=np.int64), ("charge",))]
            continue
        if kind == "perturbed":
            # mixing and perturbations in use change the ratio of elements too
            half = (each + 1) // 2
            found = concatenate(
                [perturbed(mechanism, base, half, generator, sampling.alpha, 0.02, 0.0, keep) for keep in (True, False)]
            )
        elif kind == "relaxed":
            found = relaxed(mechanism, wide, each, generator, sampling.alpha, progress=progress, reactor=reactor)
        elif kind == "nearby":
            small = sampling.alpha * 10 ** generator.uniform(-4, 0, each)
            found = perturbed(mechanism, base, each, generator, small, temperature=0.002)
        elif kind == "monte carlo":
            found = monte_carlo(mechanism, ranges, each, generator, top)
        elif kind == "multi-scale":
            found = multi_scale(mechanism, ranges, each, generator, ceiling=top)
        else:
            first = multi_scale(mechanism, ranges, max(each // 6, 1), generator, ceiling=top)
            found = evolved(mechanism, first, generator, progress=progress, reactor=reactor)
        if sampling.factor:
            limits = {
                "fractions beyond the manifold's": fractions_within(base.states, sampling.factor),
                "heat release beyond the manifold's": heat_release_within(base.states, sampling.factor),
            }
            found = found.filtered(mechanism, limits)
        parts.append(found)
    samples = concatenate(parts).deduplicated().shuffled(generator)
    return Drawn(samples, mechanism.source, mechanism.hash, ranges, seed, reactor)


def train(
    dataset: Dataset,
    mechanism: Mechanism,
    training: Training | None = None,
    seed: int = 0,
    checkpoint: str | Path | None = None,
    workers: int = 0,
) -> tuple[Surrogate, History]:
    """Train a surrogate on labels; it remembers how they were made.

    Args:
        dataset: of `mechanism`.
        mechanism: the chemistry.
        training: how.
        seed: of parameters and batches.
        checkpoint: file of the training on pairs, to resume from.
        workers: processes that label what rollouts meet; as for `label`.

    Raises:
        ValueError: if the labels are those of another mechanism, or the training diverges.
    """
    from sciml.chemistry.surrogate import Surrogate
    from sciml.optimizers import SOAP

    dataset.check(mechanism)
    training = training or Training()
    windows = dataset.windows if dataset.steps > 1 and training.tuning else None
    model, history = Surrogate.fit(
        dataset.states,
        dataset.next_states,
        mechanism,
        dataset.dt,
        dataset.reactor,
        training.layers(len(mechanism.reactive)),
        training.edges,
        [SOAP(training.steps, lr=training.lr)],
        windows,
        [SOAP(training.tuning, lr=training.lr / 10, warmup=20)] if windows is not None else (),
        training.batch,
        seed=seed,
        checkpoint=checkpoint,
    )
    if history.diverged:
        raise ValueError(f"the training {history.status}")
    model.settings = replace(model.settings, labels=_origin(dataset))
    states, after = dataset.states, dataset.next_states
    for number in range(1, training.rounds + 1):
        more = _visited_labels(model, mechanism, dataset, training.visits, seed + number, workers)
        states, after = np.concatenate([states, more.states]), np.concatenate([after, more.next_states])
        again = [SOAP(max(training.steps // 4, 1), lr=training.lr / 2)]
        history.add(model.learn(states, after, again, training.batch, seed + number, share=training.share))
    return model, history


def visited(
    model: Surrogate, mechanism: Mechanism, ranges: Ranges, n: int, generator: np.random.Generator, points: int = 80
) -> Samples:
    """States that `n` rollouts of a surrogate pass through to 1.5 delays, spread as in `along`.

    One half starts from charges, the other from perturbed states on the way to ignition. A rollout leaves the states of
    the samplers by its own errors; a network that knows what the mechanism does there comes back (dataset aggregation,
    arXiv:1011.0686).

    Raises:
        ValueError: if no charge ignites.
    """
    options: dict[str, Any] = {"reactor": model.settings.reactor}
    kicked = on_the_way(mechanism, ranges, n // 2, generator, **options).states[: n // 2]
    starts = np.concatenate([ranges.charges(mechanism, n - len(kicked), generator), kicked])
    delays = np.array([mechanism.ignition(start, **options).delay for start in starts])
    order = np.argsort(delays)[: int(np.isfinite(delays).sum())]
    if not len(order):
        raise ValueError(f"none of {n} charges ignites, so there is nothing to visit in these ranges")
    found = []
    for few in np.array_split(order, math.ceil(len(order) / 20)):  # all paths at once would not fit into memory
        ends = np.ceil(np.minimum(1.5 * delays[few] / model.dt, LONGEST)).astype(int)
        paths = model.rollout(starts[few], int(ends.max()))
        found += [along(path[: end + 1], points) for path, end in zip(paths, ends, strict=True)]
    return named(np.concatenate(found), "visited")


def _visited_labels(
    model: Surrogate, mechanism: Mechanism, dataset: Dataset, n: int, seed: int, workers: int
) -> Dataset:
    from sciml.chemistry.labels import label

    if not dataset.ranges:
        raise ValueError("rounds needs labels that know the ranges of their charges")
    found = visited(model, mechanism, ranges_of(dict(dataset.ranges)), n, np.random.default_rng([seed, 2]))
    with TemporaryDirectory() as folder:
        options: dict[str, Any] = {"reactor": dataset.reactor, "rtol": dataset.rtol, "atol": dataset.atol}
        return label(mechanism, found, Path(folder) / "v.h5", dataset.dt, dataset.steps, workers=workers, **options)


def _origin(dataset: Dataset) -> dict[str, Any]:
    """How labels were made, for the file of the surrogate and its exports."""
    named = ("ranges", "rtol", "atol", "seed", "origins", "left_out")
    return {"pairs": len(dataset) * dataset.steps, **{name: getattr(dataset, name) for name in named}}
