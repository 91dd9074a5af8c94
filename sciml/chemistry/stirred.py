"""The perfectly stirred reactor: its burning steady state, and the residence time at which it goes out.

At constant pressure and without heat loss: dY/dt = (Y_in - Y)/tau + w W/rho, and the enthalpies of the feed and of the
reactor agree. The burning branch ends in a turning point; it is followed from long times to short ones, each time
starting from the last burning state, and the turning point is then enclosed.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike, NDArray

from sciml.chemistry.mechanism import CanteraError, sentence, stirred_network
from sciml.chemistry.states import clean, rows

if TYPE_CHECKING:
    from sciml.chemistry.mechanism import Mechanism

__all__ = ["Extinction", "Stirred", "extinction", "psr"]

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Stirred:
    """A steady state.

    Attributes:
        state: (2+s,); nan if it was not found.
        status: `"burning"`, `"extinct"`, or a sentence on the failure.
        residence_time: s.
    """

    state: Array
    status: str
    residence_time: float


@dataclass(frozen=True)
class Extinction:
    """The end of the burning branch.

    Attributes:
        residence_time: the shortest at which the reactor was found burning (s); nan if it never burnt.
        extinct_time: the longest at which it was found extinct (s): the turning point lies between the two.
        temperature: of the last burning state (K).
        status: `"found"`, or a sentence.
        branch: the burning states that were met, by decreasing residence time, (m, 2+s).
        times: their residence times (s), (m,).
    """

    residence_time: float
    extinct_time: float
    temperature: float
    status: str
    branch: Array
    times: Array


def psr(
    mechanism: Mechanism,
    state_in: ArrayLike,
    residence_time: float,
    start: ArrayLike | None = None,
    rtol: float = 1e-9,
    atol: float = 1e-15,
) -> Stirred:
    """The steady state that is reached from burnt gas.

    Args:
        mechanism: the chemistry.
        state_in: the feed, (2+s,).
        residence_time: mass in the reactor over mass flow, s.
        start: what the reactor is filled with at first; the feed's equilibrium when None.
        rtol: relative tolerance.
        atol: absolute tolerance.

    Raises:
        ValueError: for a bad state or a residence time that is not positive.
    """
    time = float(residence_time)
    if not (np.isfinite(time) and time > 0):
        raise ValueError(f"residence_time is {residence_time!r}, but must be a positive time in seconds")
    inlet = rows(state_in, mechanism.n_species)[0]
    mechanism.check(inlet)
    burnt = mechanism.equilibrium(inlet)
    first = burnt if start is None else rows(start, mechanism.n_species)[0]
    mechanism.check(first)
    vessel, net = stirred_network(mechanism.gas, inlet, first, time)
    net.rtol, net.atol = rtol, atol
    try:
        # a steady state is one that does not change over many residence times: CVODES steps grow as it is neared
        previous = first
        for _ in range(60):
            net.advance(net.time + 10 * time)
            now = np.concatenate([[mechanism.gas.T, mechanism.gas.P], mechanism.gas.Y])
            change = abs(now[2:] - previous[2:]).max() + abs(now[0] - previous[0]) / now[0]
            previous = now
            if change < 1e-8:
                break
        else:
            raise CanteraError("no steady state after 600 residence times")
    except CanteraError as error:
        return Stirred(np.full_like(inlet, np.nan), f"failed: {sentence(error)}", time)
    burning = now[0] - inlet[0] > 0.2 * (burnt[0] - inlet[0])
    return Stirred(clean(now), "burning" if burning else "extinct", time)


def extinction(
    mechanism: Mechanism,
    state_in: ArrayLike,
    longest: float = 0.1,
    ratio: float = 2.0,
    tolerance: float = 0.01,
    **options: float,
) -> Extinction:
    """Follow the burning branch to shorter residence times until the reactor goes out.

    Args:
        mechanism: the chemistry.
        state_in: the feed, (2+s,).
        longest: the residence time to start from (s).
        ratio: of neighbouring residence times while searching, above 1.
        tolerance: relative width of the interval that is left around the turning point.
        options: `rtol` and `atol` of `psr`.

    Raises:
        ValueError: for a bad option or state.
    """
    if not ratio > 1 or not tolerance > 0 or not longest > 0:
        raise ValueError(f"ratio ({ratio!r}) must exceed 1; tolerance ({tolerance!r}) and longest ({longest!r}) 0")
    found = psr(mechanism, state_in, longest, **options)
    nothing = np.empty((0, 2 + mechanism.n_species))
    if found.status != "burning":
        said = f"the reactor is {found.status} at the longest residence time, {longest:g} s"
        return Extinction(np.nan, longest, np.nan, said, nothing, nothing[:, 0])
    branch, dead = [found], 0.0
    while True:
        last = branch[-1].residence_time
        if dead and last / dead - 1 <= tolerance:
            break
        time = np.sqrt(last * dead) if dead else last / ratio
        if time < 1e-12:
            said = "the reactor still burns at 1e-12 s"
            return Extinction(np.nan, np.nan, branch[-1].state[0], said, *_branch(branch))
        found = psr(mechanism, state_in, time, start=branch[-1].state, **options)
        if found.status == "burning":
            branch.append(found)
        else:  # a failure counts as not burning, so that the answer is a time at which burning was seen
            dead = float(time)
    return Extinction(last, dead, float(branch[-1].state[0]), "found", *_branch(branch))


def _branch(found: list[Stirred]) -> tuple[Array, Array]:
    return np.array([f.state for f in found]), np.array([f.residence_time for f in found])
