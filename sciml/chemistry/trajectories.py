"""States on trajectories of the chemistry: of charges, of drawn states, and of perturbed states on the way to ignition.

Networks that only know ignitions of clean charges, and the first step after a perturbation, go astray later: what a
perturbation does to stable species stays for the whole induction. `relaxed` follows perturbed states all the way.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from sciml.chemistry.samples import Samples, concatenate
from sciml.chemistry.sampling import Array, Generator, Ranges, check_count, inside, named, perturbed

if TYPE_CHECKING:
    from sciml.chemistry.mechanism import Mechanism, Reactor

__all__ = ["LONGEST", "along", "evolved", "manifold", "on_the_way", "relaxed"]

LONGEST = 200_000  # steps of a rollout that is learnt from or compared
_EACH = 4  # perturbed states of every charge


def manifold(
    mechanism: Mechanism,
    ranges: Ranges,
    generator: Generator,
    ignitions: int = 20,
    stirred: int = 0,
    flames: int = 0,
    points: int = 200,
    progress: Callable[[int, int], None] | None = None,
    reactor: Reactor = "constant-pressure",
) -> Samples:
    """States along ignitions, the burning branches of stirred reactors and free flames of random charges.

    An ignition gives `points` states spread over its trajectory by length in T and Box-Cox fractions: the unburnt
    charge itself, the slow build-up of radicals, the runaway and the approach to equilibrium, up to 1000 delays.
    Charges of stirred reactors and flames are at 300 K, or the lower end of the thermodynamic data.

    Args:
        mechanism: the chemistry.
        ranges: of the charges.
        generator: draws them.
        ignitions: how many trajectories.
        stirred: how many branches.
        flames: how many flames.
        points: states of each ignition.
        progress: called with (done, all).
        reactor: of the ignitions; a charge that burns at constant volume rises in pressure.

    Raises:
        ValueError: if nothing is asked for, or nothing burns.
    """
    total = ignitions + stirred + flames
    if min(ignitions, stirred, flames) < 0 or total == 0 or points < 2:
        raise ValueError("ignitions, stirred and flames must not be negative or all zero, and points at least 2")
    parts: list[Samples] = []
    failed: dict[str, int] = {}
    charges = ranges.charges(mechanism, total, generator)
    charges[ignitions:, 0] = max(300.0, mechanism.temperature_range[0])
    for number, charge in enumerate(charges):
        if number < ignitions:
            run = mechanism.ignition(charge, reactor=reactor)
            states, kind = None, "ignition"
            if run.status == "ignited":
                late = run.delay * np.geomspace(0.01, 1000.0, 200)  # radicals recombine long after the runaway
                path = np.concatenate([run.states, mechanism.trajectory(run.states[-1], late, reactor=reactor)])
                states = along(path, points, np.concatenate([np.zeros(len(run.states)), np.log(late / late[0])]))
        elif number < ignitions + stirred:
            branch = mechanism.extinction(charge, ratio=1.3, tolerance=0.05)
            states, kind = branch.branch if branch.status == "found" else None, "stirred reactor"
        else:
            flame = mechanism.flame_speed(charge)
            states, kind = flame.states if flame.status == "ok" else None, "flame"
        if states is None:
            failed[f"{kind} without burning"] = failed.get(f"{kind} without burning", 0) + 1
        else:
            parts.append(named(states, kind))
        if progress is not None:
            progress(number + 1, total)
    if not parts:
        raise ValueError(f"none of {total} charges burnt, so there is no manifold to sample in these ranges")
    found = concatenate(parts)
    return Samples(found.states, found.origin, found.origins, failed)


def along(states: Array, points: int, late: Array | None = None, floor: float = 1e-20) -> Array:
    """`points` of the states of a trajectory, spread evenly by length in T and Box-Cox fractions, each scaled to 1.

    Args:
        states: (m, 2+s), in their order in time.
        points: at most so many.
        late: (m,) logarithms of the time since the runaway, of which the last fifth of the length is made: near to
            equilibrium states hardly change, but a rollout spends most of its steps there.
        floor: smallest fraction that is told from zero.
    """
    lengths = np.column_stack([states[:, 0], np.maximum(states[:, 2:], floor) ** 0.1])
    spread = np.ptp(lengths, axis=0)
    lengths = lengths / np.where(spread > 0, spread, 1.0)
    pace = abs(np.diff(lengths, axis=0)).sum(axis=1)
    if late is not None:
        pace = pace + 0.25 * pace.sum() * np.diff(late) / np.ptp(late)
    way = np.concatenate([[0.0], np.cumsum(pace)])
    wanted = np.linspace(0, way[-1], points)
    return states[np.unique(np.clip(np.searchsorted(way, wanted), 0, len(states) - 1))]


def relaxed(
    mechanism: Mechanism,
    ranges: Ranges,
    n: int,
    generator: Generator,
    alpha: float = 0.15,
    points: int = 20,
    progress: Callable[[int, int], None] | None = None,
    reactor: Reactor = "constant-pressure",
) -> Samples:
    """States along the ignitions of perturbed states that are on their way to ignition themselves.

    The states of `on_the_way` ignite; `points` states are taken from there on, spread as in `manifold`.

    Args:
        mechanism: the chemistry.
        ranges: of the charges.
        n: number of states, about.
        generator: draws the charges, the shares and the powers.
        alpha: see `perturbed`.
        points: states of each trajectory.
        progress: called with (done, all) charges.
        reactor: of the ignitions.

    Raises:
        ValueError: if nothing burns.
    """
    charges = max(round(n / (_EACH * points)), 1)
    total = (1 + _EACH) * charges

    def report(done: int, _: int) -> None:
        if progress is not None:
            progress(done, total)

    moved = on_the_way(mechanism, ranges, _EACH * charges, generator, alpha, report, reactor)
    paths = []
    for number, state in enumerate(moved.states):
        run = mechanism.ignition(state, reactor=reactor)
        if run.status == "ignited":
            paths.append(along(run.states, points))
        report(charges + number + 1, total)
    if not paths:
        raise ValueError("no perturbed state burnt, so there are no perturbed ignitions to follow in these ranges")
    left_out = dict(moved.left_out) | {"perturbed ignition without burning": len(moved) - len(paths)}
    return named(np.concatenate(paths), "ignition, perturbed and followed", left_out)


def on_the_way(
    mechanism: Mechanism,
    ranges: Ranges,
    n: int,
    generator: Generator,
    alpha: float = 0.15,
    progress: Callable[[int, int], None] | None = None,
    reactor: Reactor = "constant-pressure",
) -> Samples:
    """Perturbed states on their way to ignition.

    A charge is followed to four random shares of its delay; what is found there is perturbed, every other state
    without regard to its elements.

    Args:
        mechanism: the chemistry.
        ranges: of the charges.
        n: number of states, rounded up to fours; fewer where charges do not ignite.
        generator: draws the charges, the shares and the powers.
        alpha: see `perturbed`.
        progress: called with (done, all) charges.
        reactor: of the ignitions.

    Raises:
        ValueError: if nothing burns.
    """
    charges = ranges.charges(mechanism, max(-(-n // _EACH), 1), generator)
    starts = []
    for number, charge in enumerate(charges):
        run = mechanism.ignition(charge, reactor=reactor)
        if run.status == "ignited":
            starts.append(run.states[np.searchsorted(run.times, run.delay * generator.uniform(0, 1, _EACH))])
        if progress is not None:
            progress(number + 1, len(charges))
    if not starts:
        raise ValueError(f"none of {len(charges)} charges burnt, so there is nothing to perturb in these ranges")
    halves = [np.concatenate(starts)[first::2] for first in (0, 1)]
    return concatenate(
        [
            perturbed(mechanism, named(half, "ignition"), len(half), generator, alpha, keep_elements=keep)
            for half, keep in zip(halves, (True, False), strict=True)
        ]
    )


def evolved(
    mechanism: Mechanism,
    samples: Samples,
    generator: Generator,
    duration: float = 1e-4,
    shortest: float = 1e-8,
    points: int = 5,
    rtol: float = 1e-6,
    atol: float = 1e-12,
    progress: Callable[[int, int], None] | None = None,
    reactor: Reactor = "constant-pressure",
) -> Samples:
    """Each state and states on its own trajectory, at times uniform in the logarithm (evolution augmentation).

    Drawn states relax within microseconds to slow manifolds; their trajectories show both scales.

    Args:
        mechanism: the chemistry.
        samples: where the trajectories start.
        generator: draws the times.
        duration: the longest time (s).
        shortest: the shortest time (s).
        points: states on each trajectory besides the first.
        rtol: relative tolerance; these are inputs, not labels, so that it may be loose.
        atol: absolute tolerance.
        progress: called with (done, all).
        reactor: what the trajectories keep.

    Raises:
        ValueError: for impossible times or counts.
    """
    if not 0 < shortest < duration:
        raise ValueError(f"shortest ({shortest!r}) must be positive and below duration ({duration!r})")
    check_count(points)
    found, origin, failed = [], [], 0
    for number, state in enumerate(samples.states):
        times = np.exp(np.sort(generator.uniform(np.log(shortest), np.log(duration), points)))
        try:
            found.append(mechanism.trajectory(state, times, rtol=rtol, atol=atol, reactor=reactor))
            origin += [samples.origin[number]] * points
        except RuntimeError:
            failed += 1
        if progress is not None:
            progress(number + 1, len(samples))
    names = (*samples.origins, *(f"{name}, evolved" for name in samples.origins))
    shifted = np.array(origin, dtype=np.int64) + len(samples.origins)
    left_out = dict(samples.left_out)
    left_out["trajectory failed"] = left_out.get("trajectory failed", 0) + failed
    states = np.concatenate([samples.states, *found])
    return Samples(states, np.concatenate([samples.origin, shifted]), names, left_out).keep(
        inside(mechanism, states), "thermo range"
    )
