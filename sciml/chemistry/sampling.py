"""States to learn from: where a surrogate is trained decides where it may be trusted.

Samplers return `Samples`, which remember how each state came about and what was left out on the way. Monte Carlo and
the multi-scale sampler draw mass fractions whose magnitudes spread over many decades (arXiv:2201.03549); the manifold
sampler follows ignitions, stirred reactors and flames; `evolved` adds the trajectories of drawn states (DeePODE,
arXiv:2401.01220); `perturbed` raises fractions to powers around 1; `adaptive` draws where a model is worst.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from sciml.chemistry.samples import Samples, concatenate

if TYPE_CHECKING:
    from sciml.chemistry.mechanism import Mechanism

__all__ = [
    "Ranges",
    "adaptive",
    "along",
    "evolved",
    "manifold",
    "monte_carlo",
    "multi_scale",
    "perturbed",
    "with_elements",
]

Array = NDArray[np.float64]
Generator = np.random.Generator


@dataclass(frozen=True)
class Ranges:
    """Where to sample: a fuel and an oxidiser at ranges of temperature, pressure and equivalence ratio.

    Args:
        fuel: as in `Mechanism.state`.
        oxidiser: as in `Mechanism.state`.
        T: (low, high) in K.
        p: (low, high) in Pa, equal for one pressure.
        phi: (low, high).
    """

    fuel: str
    T: tuple[float, float]
    p: tuple[float, float] = (101325.0, 101325.0)
    phi: tuple[float, float] = (0.5, 2.0)
    oxidiser: str = "O2:1, N2:3.76"

    def __post_init__(self) -> None:
        for name, unit in (("T", "K"), ("p", "Pa"), ("phi", "")):
            low, high = getattr(self, name)
            if not (np.isfinite([low, high]).all() and 0 < low <= high):
                raise ValueError(f"the range {name} is {low:g} to {high:g} {unit}".rstrip() + ", which is empty")

    def widened(self, T: float = 0.1, phi: float = 0.2) -> Ranges:
        """Ranges whose ends are no longer at an end: T by a share of its span, phi by a factor 1 + phi."""
        margin = T * (self.T[1] - self.T[0])
        return replace(
            self, T=(self.T[0] - margin, self.T[1] + margin), phi=(self.phi[0] / (1 + phi), self.phi[1] * (1 + phi))
        )

    def charges(self, mechanism: Mechanism, n: int, generator: Generator) -> Array:
        """`n` unburnt mixtures: T uniform, p and phi uniform in the logarithm, (n, 2+s)."""
        _count(n)
        T = generator.uniform(self.T[0], self.T[1], n)
        p, phi = (np.exp(generator.uniform(np.log(r[0]), np.log(r[1]), n)) for r in (self.p, self.phi))
        return np.atleast_2d(mechanism.state(T, p, self.fuel, self.oxidiser, phi))


def _count(n: int) -> None:
    if isinstance(n, bool) or not isinstance(n, (int, np.integer)) or n < 1:
        raise ValueError(f"n is {n!r}, but must be a positive number of states")


def _samples(states: Array, name: str, left_out: Mapping[str, int] | None = None) -> Samples:
    return Samples(states, np.zeros(len(states), dtype=np.int64), (name,), left_out or {})


# ------------------------------------------------------------------ drawn compositions


def monte_carlo(
    mechanism: Mechanism, ranges: Ranges, n: int, generator: Generator, ceiling: ArrayLike | None = None
) -> Samples:
    """Mass fractions drawn uniformly up to a ceiling, then given the elements of a mixture of the range.

    Nearly all such states have large fractions of every radical: the comparison that the multi-scale sampler is for.

    Args:
        mechanism: the chemistry.
        ranges: where; temperatures reach the hottest equilibrium.
        n: number of states.
        generator: draws everything.
        ceiling: (s,) largest fraction of each species; 1 when None.
    """
    charges = ranges.charges(mechanism, n, generator)
    top = np.ones(mechanism.n_species) if ceiling is None else np.asarray(ceiling, dtype=float)
    drawn = generator.uniform(0, 1, (n, mechanism.n_species)) * top
    return _balanced(mechanism, ranges, charges, drawn, generator, "monte carlo")


def multi_scale(
    mechanism: Mechanism,
    ranges: Ranges,
    n: int,
    generator: Generator,
    scale: Literal["box-cox", "log"] = "box-cox",
    lmbda: float = 0.1,
    floor: float = 1e-20,
    ceiling: ArrayLike | None = None,
) -> Samples:
    """Fractions of every species drawn uniformly in Box-Cox or logarithm, so that all magnitudes are met.

    Args:
        mechanism: the chemistry.
        ranges: where; temperatures reach the hottest equilibrium.
        n: number of states.
        generator: draws everything.
        scale: in which the fractions are uniform.
        lmbda: of the Box-Cox transform (Y^lmbda - 1)/lmbda; not for `"log"`.
        floor: the smallest fraction drawn.
        ceiling: (s,) the largest of each species; 1 when None.

    Raises:
        ValueError: for another scale or an impossible floor.
    """
    if scale not in ("box-cox", "log"):
        raise ValueError(f"scale is {scale!r}, but must be 'box-cox' or 'log'")
    if not 0 < floor < 1 or not lmbda > 0:
        raise ValueError(f"floor ({floor!r}) must lie between 0 and 1, and lmbda ({lmbda!r}) above 0")
    charges = ranges.charges(mechanism, n, generator)
    top = np.ones(mechanism.n_species) if ceiling is None else np.maximum(np.asarray(ceiling, dtype=float), floor)
    share = generator.uniform(0, 1, (n, mechanism.n_species))
    if scale == "log":
        drawn = np.exp(np.log(floor) + share * (np.log(top) - np.log(floor)))
    else:
        drawn = (floor**lmbda + share * (top**lmbda - floor**lmbda)) ** (1 / lmbda)
    return _balanced(mechanism, ranges, charges, drawn, generator, f"multi-scale ({scale})")


def _balanced(
    mechanism: Mechanism, ranges: Ranges, charges: Array, drawn: Array, generator: Generator, name: str
) -> Samples:
    """Drawn fractions, scaled to the elements of the charges, at temperatures up to the hottest equilibrium."""
    corners = mechanism.state(ranges.T[1], ranges.p[0], ranges.fuel, ranges.oxidiser, np.clip(1.0, *ranges.phi))
    hottest = min(float(mechanism.equilibrium(corners)[0]), mechanism.temperature_range[1])
    states = charges.copy()
    states[:, 0] = generator.uniform(ranges.T[0], hottest, len(states))
    states[:, 2:], good = with_elements(mechanism, drawn, charges[:, 2:])
    return _samples(states, name).keep(good, "elements not reached")


def with_elements(mechanism: Mechanism, drawn: Array, target: Array) -> tuple[Array, NDArray[np.bool_]]:
    """Scale fractions to the elements of `target`, keeping every one positive and small ones small.

    The nearest composition in relative entropy with given elements is Y_k = drawn_k exp(sum_e a_ke m_e): each fraction
    changes by a factor, which keeps magnitudes. The multipliers m are found by a damped Newton iteration on the convex
    dual. Species of elements that the target lacks become zero; inert species (an element of their own) follow exactly.

    Args:
        mechanism: composition and molar masses.
        drawn: (n, s), positive.
        target: (n, s) fractions whose elements are wanted.

    Returns:
        fractions (n, s), and which rows were reached to 1e-10, (n,).
    """
    atoms = mechanism.composition
    per_mass = atoms / mechanism.molar_masses[:, None]
    wanted = target @ per_mass
    present = wanted > 1e-14 * wanted.max(axis=1, keepdims=True)
    allowed = ((atoms > 0)[None] <= present[:, None, :]).all(axis=2)
    # moles and wanted moles in units of the total, so that multipliers are of order one
    size = wanted.sum(axis=1, keepdims=True)
    start = np.where(allowed, drawn, 0.0) / mechanism.molar_masses
    start /= (start @ atoms.sum(axis=1))[:, None]
    goal = wanted / size
    multipliers = np.zeros_like(goal)
    for _ in range(60):
        moles = start * np.exp(np.clip(multipliers @ atoms.T, -600, 600))
        gap = goal - moles @ atoms
        if (abs(gap) <= 1e-13).all():
            break
        curvature = np.einsum("nk,ke,kf->nef", moles, atoms, atoms)
        ridge = 1e-14 + (~present)[..., None] * 1.0
        curvature += ridge * np.eye(atoms.shape[1])
        step = np.linalg.solve(curvature, gap[..., None])[..., 0]
        # a factor of at most e for every species in one iteration
        multipliers += step / np.maximum(1.0, abs(step @ atoms.T).max(axis=1, keepdims=True))
    moles = start * np.exp(np.clip(multipliers @ atoms.T, -600, 600))
    fractions = moles * mechanism.molar_masses * size
    good = (abs(goal - moles @ atoms) <= 1e-10).all(axis=1) & np.isfinite(fractions).all(axis=1)
    total = fractions.sum(axis=1, keepdims=True)
    fractions = np.where(good[:, None], fractions / np.where(total > 0, total, 1), target)
    return fractions, good


# ------------------------------------------------------------------ along what burning does


def manifold(
    mechanism: Mechanism,
    ranges: Ranges,
    generator: Generator,
    ignitions: int = 20,
    stirred: int = 0,
    flames: int = 0,
    points: int = 200,
    progress: Callable[[int, int], None] | None = None,
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
            run = mechanism.ignition(charge)
            states, kind = None, "ignition"
            if run.status == "ignited":
                late = run.delay * np.geomspace(0.01, 1000.0, 200)  # radicals recombine long after the runaway
                path = np.concatenate([run.states, mechanism.trajectory(run.states[-1], late)])
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
            parts.append(_samples(states, kind))
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

    Raises:
        ValueError: for impossible times or counts.
    """
    if not 0 < shortest < duration:
        raise ValueError(f"shortest ({shortest!r}) must be positive and below duration ({duration!r})")
    _count(points)
    found, origin, failed = [], [], 0
    for number, state in enumerate(samples.states):
        times = np.exp(np.sort(generator.uniform(np.log(shortest), np.log(duration), points)))
        try:
            found.append(mechanism.trajectory(state, times, rtol=rtol, atol=atol))
            origin += [samples.origin[number]] * points
        except RuntimeError:
            failed += 1
        if progress is not None:
            progress(number + 1, len(samples))
    names = (*samples.origins, *(f"{name}, evolved" for name in samples.origins))
    shifted = np.array(origin, dtype=np.int64) + len(samples.origins)
    counted = dict(samples.left_out)
    counted["trajectory failed"] = counted.get("trajectory failed", 0) + failed
    states = np.concatenate([samples.states, *found])
    inside = _inside(mechanism, states)
    return Samples(states, np.concatenate([samples.origin, shifted]), names, counted).keep(inside, "thermo range")


def _inside(mechanism: Mechanism, states: Array) -> NDArray[np.bool_]:
    low, high = mechanism.temperature_range
    return (states[:, 0] >= low) & (states[:, 0] <= high)


def perturbed(
    mechanism: Mechanism,
    samples: Samples,
    n: int,
    generator: Generator,
    alpha: ArrayLike = 0.1,
    temperature: float = 0.0,
    pressure: float = 0.0,
    keep_elements: bool = True,
) -> Samples:
    """States whose fractions are raised to the power 1 + alpha U(-1, 1), each species by itself.

    Args:
        mechanism: the chemistry.
        samples: what to perturb.
        n: number of states; every one is its own draw.
        generator: draws the parents (without repetition until all were used) and the powers.
        alpha: largest change of the power, one or (n,); 0.1 is the field's test of robustness.
        temperature: largest change of T, as a share of the range of T.
        pressure: largest change of p, as a share of p.
        keep_elements: scale the result to the elements of the parent.

    Raises:
        ValueError: for a share outside [0, 1).
    """
    _count(n)
    powers = np.broadcast_to(np.asarray(alpha, dtype=float), n)[:, None]
    for name, value in (("alpha", float(powers.max())), ("temperature", temperature), ("pressure", pressure)):
        if not 0 <= value < 1:
            raise ValueError(f"{name} is {value!r}, but must be at least 0 and below 1")
    if not len(samples):
        raise ValueError("samples is empty, so there is nothing to perturb")
    rounds = -(-n // len(samples))
    parents = np.concatenate([generator.permutation(len(samples)) for _ in range(rounds)])[:n]
    states = samples.states[parents]
    draws = generator.uniform(-1, 1, states.shape)
    states[:, 0] += temperature * np.ptp(samples.states[:, 0]) * draws[:, 0]
    states[:, 1] *= 1 + pressure * draws[:, 1]
    raised = np.where(states[:, 2:] > 0, states[:, 2:], 0.0) ** (1 + powers * draws[:, 2:])
    good = np.ones(n, dtype=bool)
    if keep_elements:
        raised, good = with_elements(mechanism, raised, states[:, 2:])
    states[:, 2:] = raised / raised.sum(axis=1, keepdims=True)
    names = tuple(f"{name}, perturbed" for name in samples.origins)
    made = Samples(states, samples.origin[parents], names).keep(good, "elements not reached")
    return made.keep(_inside(mechanism, made.states), "thermo range")


def adaptive(
    samples: Samples,
    error: Callable[[Array], Array],
    n: int,
    generator: Generator,
    power: float = 1.0,
) -> Samples:
    """Draw the candidates at which the current model is worst, with probability error^power, none twice.

    Args:
        samples: candidates.
        error: of the model at states (n, 2+s), (n,), not negative.
        n: how many to draw, at most as many as there are candidates.
        generator: draws.
        power: 0 draws uniformly; the larger, the closer to the worst.

    Raises:
        ValueError: if n is too large, or errors are negative or not finite.
    """
    _count(n)
    if n > len(samples):
        raise ValueError(f"n is {n}, but there are {len(samples)} candidates")
    found = np.asarray(error(samples.states), dtype=float)
    if found.shape != (len(samples),) or not (np.isfinite(found).all() and (found >= 0).all()):
        raise ValueError("error must give one finite number that is not negative for each state")
    with np.errstate(divide="ignore"):
        weights = power * np.log(found) if power else np.zeros(len(found))
    # the n largest of log-weights plus Gumbel noise are a draw without repetition (Efraimidis and Spirakis, 2006)
    order = np.argsort(-(weights + generator.gumbel(size=len(found))), kind="stable")[:n]
    names = tuple(f"{name}, adaptive" for name in samples.origins)
    return Samples(samples.states[order], samples.origin[order], names, samples.left_out)
