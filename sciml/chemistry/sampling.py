"""States to learn from: where a surrogate is trained decides where it may be trusted.

Samplers return `Samples`, which remember how each state came about and what was left out on the way. Monte Carlo and
the multi-scale sampler draw mass fractions whose magnitudes spread over many decades (arXiv:2201.03549); the manifold
sampler of `trajectories` follows ignitions, stirred reactors and flames; `perturbed` raises fractions to powers around
1; `adaptive` draws where a model is worst.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from sciml.chemistry.samples import Samples

if TYPE_CHECKING:
    from sciml.chemistry.mechanism import Mechanism

__all__ = [
    "Ranges",
    "adaptive",
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

    def widened(self, T: float = 0.1, phi: float = 0.2, within: tuple[float, float] = (-np.inf, np.inf)) -> Ranges:
        """Ranges whose ends are no longer at an end: T by a share of its span, phi by a factor 1 + phi.

        Widening leaves the temperatures `within` (K) only where the ends themselves lie beyond them.
        """
        (low, high), margin = self.T, T * (self.T[1] - self.T[0])
        wide = min(low, max(low - margin, within[0])), max(high, min(high + margin, within[1]))
        return replace(self, T=wide, phi=(self.phi[0] / (1 + phi), self.phi[1] * (1 + phi)))

    def charges(self, mechanism: Mechanism, n: int, generator: Generator) -> Array:
        """`n` unburnt mixtures: T uniform, p and phi uniform in the logarithm, (n, 2+s)."""
        check_count(n)
        T = generator.uniform(self.T[0], self.T[1], n)
        p, phi = (np.exp(generator.uniform(np.log(r[0]), np.log(r[1]), n)) for r in (self.p, self.phi))
        return np.atleast_2d(mechanism.state(T, p, self.fuel, self.oxidiser, phi))


def check_count(n: int) -> None:
    """Refuse what is no number of states."""
    if isinstance(n, bool) or not isinstance(n, (int, np.integer)) or n < 1:
        raise ValueError(f"n is {n!r}, but must be a positive number of states")


def named(states: Array, name: str, left_out: Mapping[str, int] | None = None) -> Samples:
    """States of one origin."""
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
    return named(states, name).keep(good, "elements not reached")


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
    # charge is zero in all that is neutral, and yet there may be carriers of it
    present = (wanted > 1e-14 * wanted.max(axis=1, keepdims=True)) | (atoms < 0).any(axis=0)
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


# ------------------------------------------------------------------ around what burning does


def inside(mechanism: Mechanism, states: Array) -> NDArray[np.bool_]:
    """Which states (n, 2+s) lie in the range of the thermodynamic data, (n,)."""
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
    check_count(n)
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
    return made.keep(inside(mechanism, made.states), "thermo range")


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
    check_count(n)
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
