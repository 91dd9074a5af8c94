"""A premixed flame whose chemistry is CVODE, a surrogate, or the surrogate with CVODE for states it does not know."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

from sciml.chemistry.flames import Flame
from sciml.chemistry.hybrid import hybrid
from sciml.chemistry.mechanism import Mechanism
from sciml.chemistry.premixed import Front, premixed
from sciml.chemistry.surrogate import Surrogate
from sciml.results import Run


class Shared:
    """Hybrid chemistry that counts whom it asked."""

    def __init__(self, surrogate: Surrogate, mechanism: Mechanism) -> None:
        self.surrogate, self.mechanism = surrogate, mechanism
        self.shares: list[float] = []

    def __call__(self, states: np.ndarray) -> np.ndarray:
        """States one step later."""
        done = hybrid(self.surrogate, self.mechanism, states, rtol=1e-6, atol=1e-10)
        self.shares.append(done.share)
        return done.states


def compare(
    run: Run, mechanism: Mechanism, surrogate: Surrogate, inlet: np.ndarray, cells: int, lengths: float
) -> dict[str, Any]:
    """Flames by all three chemistries: a row for each, and the profiles beside Cantera's."""
    flame = mechanism.flame_speed(inlet)
    if flame.status != "ok":
        raise ValueError(f"Cantera finds no flame to start from: {flame.status}")
    dt = surrogate.dt
    steps = max(round(lengths * flame.thickness / flame.speed / dt), 20)

    def cvode(states: np.ndarray) -> np.ndarray:
        return mechanism.advance(states, dt, rtol=1e-6, atol=1e-10).states

    shared = Shared(surrogate, mechanism)
    chemistries: dict[str, Callable[[np.ndarray], np.ndarray]] = {
        "CVODE": cvode,
        "surrogate": surrogate.step,
        "hybrid": shared,
    }
    rows: list[dict[str, Any]] = [{"chemistry": "Cantera's steady flame", "speed (m/s)": flame.speed}]
    fronts: dict[str, Front] = {}
    for name, chemistry in chemistries.items():
        try:
            fronts[name] = premixed(mechanism, flame, chemistry, dt, steps, cells)
        except (RuntimeError, ValueError) as error:  # a surrogate that puts the flame out is a result, not a crash
            rows.append({"chemistry": name, "status": str(error)})
            continue
        rows.append(row_of(name, fronts[name], fronts.get("CVODE"), flame))
    if "CVODE" in fronts:
        draw(run, mechanism, flame, fronts)
    reference = fronts.get("CVODE")
    told = {
        f"speed of {name} against CVODE": front.speed / reference.speed - 1
        for name, front in fronts.items()
        if reference is not None and name != "CVODE"
    }
    share = float(np.mean(shared.shares)) if shared.shares else 1.0
    return {"flame speed, Cantera": flame.speed, **told, "share of CVODE in the hybrid": share, "table": rows}


def row_of(name: str, front: Front, reference: Front | None, flame: Flame) -> dict[str, Any]:
    """Speed, errors of the profiles against the same solver with CVODE, and time."""
    against = reference or front
    T = np.interp(against.x, front.x, front.states[:, 0])
    return {
        "chemistry": name,
        "speed (m/s)": front.speed,
        "against CVODE (%)": 100 * (front.speed / against.speed - 1),
        "against Cantera (%)": 100 * (front.speed / flame.speed - 1),
        "mean error of T (K)": float(abs(T - against.states[:, 0]).mean()),
        "drift": front.drift,
        "chemistry (s)": front.chemistry_seconds,
        "speed-up of chemistry": against.chemistry_seconds / front.chemistry_seconds,
        "status": "settled" if front.drift < 0.02 else "not settled",
    }


def draw(run: Run, mechanism: Mechanism, flame: Flame, fronts: dict[str, Front]) -> None:
    """Temperature and radicals over the distance from the middle temperature."""
    middle = 0.5 * (flame.T[0] + flame.T[-1])
    shift = np.interp(middle, flame.T, flame.grid)
    chosen = [k for k in ("OH", "H", "HO2") if k in mechanism.species]
    with run.figure("flame", height=6.0) as figure:
        upper, lower = figure.subplots(2, 1, sharex=True)
        upper.plot(1e3 * (flame.grid - shift), flame.T, "k", lw=0.8, label="Cantera, steady")
        places = partial(np.multiply, 1e3)
        for style, (name, front) in zip(("-", "--", ":"), fronts.items(), strict=False):
            upper.plot(places(front.x), front.states[:, 0], style, label=name)
            for number, species in enumerate(chosen):
                column = 2 + mechanism.index(species)
                label = species if style == "-" else None
                lower.semilogy(
                    places(front.x), np.maximum(front.states[:, column], 1e-12), style, color=f"C{number}", label=label
                )
        for number, species in enumerate(chosen):
            Y = np.maximum(flame.Y[:, mechanism.index(species)], 1e-12)
            lower.semilogy(1e3 * (flame.grid - shift), Y, color=f"C{number}", lw=0.5)
        x = fronts["CVODE"].x
        upper.set(ylabel="T (K)", xlim=(1e3 * x[0], 1e3 * x[-1]))
        lower.set(xlabel="mm", ylabel="mass fraction", ylim=(1e-8, 1))
        upper.legend()
        lower.legend()
