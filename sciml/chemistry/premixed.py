"""A one-dimensional premixed flame by operator splitting: own transport, any chemistry.

In the mass coordinate psi, d psi = rho dx, an open flame at constant pressure has no convection:

    dY_k/dt = -dJ_k/dpsi + w_k/rho,    dh/dt = -dq/dpsi,    q = -lambda dT/dx + sum_k h_k J_k,
    J_k = -rho D_k (W_k/W) dX_k/dx - Y_k (sum of the former),    d/dx = rho d/dpsi

with Cantera's mixture-averaged D_k and lambda. The flame eats its way through psi at m = rho_u S_L, the burning rate;
cells leave at the burnt end and fresh ones join at the other, so nothing is interpolated and no scheme for convection
blurs the front. Transport over dt is the stabilised explicit Runge-Kutta-Legendre method of second order (Meyer,
Balsara and Aslam, J. Comput. Phys. 257 (2014) 594), chemistry a function of states: a surrogate as well as CVODE.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray

from sciml.chemistry.states import clean

if TYPE_CHECKING:
    from sciml.chemistry.flames import Flame
    from sciml.chemistry.mechanism import Mechanism

__all__ = ["Front", "Transport", "premixed", "resampled"]

Array = NDArray[np.float64]
Chemistry = Callable[[Array], Array]  # states (n, 2+s) -> states one step later


@dataclass(frozen=True)
class Front:
    """A flame that has settled.

    Attributes:
        speed: of the unburnt gas into the flame, m/s, over the last half of the run.
        drift: relative difference of the speeds over the two halves of it: small when settled.
        x: (n,) m, zero where the temperature is halfway up.
        states: (n, 2+s), from the unburnt gas.
        times: (steps,) s.
        positions: (steps,) burnt mass, kg/m2.
        chemistry_seconds: processor time of the chemistry.
        transport_seconds: of the rest.
    """

    speed: float
    drift: float
    x: Array
    states: Array
    times: np.ndarray
    positions: np.ndarray
    chemistry_seconds: float
    transport_seconds: float


def premixed(
    mechanism: Mechanism,
    start: Flame,
    chemistry: Chemistry,
    dt: float = 1e-6,
    steps: int = 600,
    cells: int = 60,
    refresh: int = 10,
    progress: Callable[[int, int], None] | None = None,
) -> Front:
    """Let a flame burn and measure its speed.

    Args:
        mechanism: thermodynamics and transport.
        start: a flame to start from, as Cantera's (`Mechanism.flame_speed`); its first state is the unburnt gas.
        chemistry: what reaction does to states over dt.
        dt: of the splitting, s.
        steps: how many; the first half lets the flame settle.
        cells: across the rise of the temperature from 5 % to 95 %.
        refresh: transport coefficients are computed anew every so many steps.
        progress: called with (done, all) steps.

    Raises:
        ValueError: for a start without a flame, or impossible counts.
        RuntimeError: if the flame goes out or leaves the domain.
    """
    if start.status != "ok":
        raise ValueError(f"start is not a flame: {start.status}")
    if min(steps, cells, refresh) < 1 or not dt > 0:
        raise ValueError(
            f"steps ({steps}), cells ({cells}) and refresh ({refresh}) must be at least 1, dt ({dt}) positive"
        )
    states, width = resampled(mechanism, start, cells)
    transport = Transport(mechanism, width)
    fresh, middle = states[0].copy(), 0.5 * (states[0, 0] + states[-1, 0])
    home = _crossing(states[:, 0], middle)
    eaten, positions, seconds, begun = 0, [], 0.0, time.process_time()
    for number in range(steps):
        if number % refresh == 0:
            transport.refresh(states)
        states = transport.advance(states, dt)
        before = time.process_time()
        states = chemistry(clean(states))
        seconds += time.process_time() - before
        while (at := _crossing(states[:, 0], middle)) < home - 1:
            states = np.concatenate([fresh[None], states[:-1]])
            transport.shift()
            eaten += 1
        positions.append((eaten + home - at) * width)
        if progress is not None:
            progress(number + 1, steps)
    total = time.process_time() - begun
    times, burnt = np.linspace(dt, dt * steps, steps), np.array(positions)
    late = steps // 2
    quarter = late + (steps - late) // 2
    rate, first, second = (_slope(times[part], burnt[part]) for part in _parts(late, quarter))
    return Front(
        rate / transport.density(states[:1])[0],
        abs(second - first) / abs(rate),
        _places(states, transport.density(states), width, middle),
        states,
        times,
        burnt,
        seconds,
        total - seconds,
    )


def _parts(late: int, quarter: int) -> tuple[slice, slice, slice]:
    return slice(late, None), slice(late, quarter), slice(quarter, None)


def _slope(t: np.ndarray, m: np.ndarray) -> float:
    return float(np.polyfit(t, m, 1)[0]) if len(t) > 1 else float("nan")


def _crossing(T: Array, middle: float) -> float:
    """Where, in cells, the temperature first rises through `middle`."""
    above = np.flatnonzero(T >= middle)
    if not len(above) or above[0] == 0:
        raise RuntimeError("the flame went out" if not len(above) else "the flame has left the domain")
    k = int(above[0])
    return k - 1 + float((middle - T[k - 1]) / (T[k] - T[k - 1]))


def _places(states: Array, density: Array, width: float, middle: float) -> Array:
    """Centres of cells (m), zero at the middle temperature."""
    size = width / density
    x = np.cumsum(size) - 0.5 * size
    at = _crossing(states[:, 0], middle)
    return x - np.interp(at, np.arange(len(x)), x)


def resampled(mechanism: Mechanism, start: Flame, cells: int) -> tuple[Array, float]:
    """The flame on cells of equal mass, and their mass (kg/m2): room for its heat in front, for its radicals behind."""
    density = _density(mechanism, start.states)
    psi = np.concatenate([[0.0], np.cumsum(0.5 * (density[1:] + density[:-1]) * np.diff(start.grid))])
    share = (start.T - start.T[0]) / (start.T[-1] - start.T[0])
    low, high = (float(psi[np.argmax(share >= level)]) for level in (0.05, 0.95))
    width = (high - low) / cells
    centres = np.arange(low - 1.5 * (high - low), high + 1.5 * (high - low), width)
    table = [np.interp(centres, psi, column) for column in start.states.T]
    return clean(np.column_stack(table)), width


def _density(mechanism: Mechanism, states: Array) -> Array:
    x = torch.as_tensor(states)
    return mechanism.thermo.density(x[:, 0], x[:, 1], x[:, 2:]).numpy()


class Transport:
    """Diffusion of species and heat between cells of equal mass.

    Args:
        mechanism: thermodynamics, and Cantera's transport coefficients.
        width: of the cells, kg/m2.
    """

    def __init__(self, mechanism: Mechanism, width: float) -> None:
        self.gas, self.thermo, self.width = mechanism.gas, mechanism.thermo, width
        self.masses = torch.as_tensor(mechanism.molar_masses)
        self.mechanism = mechanism
        self.diffusion = self.conduction = torch.empty(0)

    def density(self, states: Array) -> Array:
        """kg/m3, (n,)."""
        return _density(self.mechanism, states)

    def refresh(self, states: Array) -> None:
        """D_k (n, s) in m2/s and lambda (n,) in W/m/K from Cantera."""
        gas, D, conduction = self.gas, [], []
        for row in states:
            gas.TPY = row[0], row[1], row[2:]
            D.append(gas.mix_diff_coeffs)
            conduction.append(gas.thermal_conductivity)
        self.diffusion, self.conduction = torch.as_tensor(np.array(D)), torch.as_tensor(np.array(conduction))

    def shift(self) -> None:
        """A fresh cell in front, one less behind."""
        self.diffusion = torch.cat([self.diffusion[:1], self.diffusion[:-1]])
        self.conduction = torch.cat([self.conduction[:1], self.conduction[:-1]])

    def advance(self, states: Array, dt: float) -> Array:
        """States after dt of transport alone, by Runge-Kutta-Legendre."""
        x = torch.as_tensor(states)
        p, T = x[:, 1], x[:, 0]
        u0 = torch.cat([self.thermo.enthalpy_mass(T, x[:, 2:])[:, None], x[:, 2:]], 1)
        density = self.thermo.density(T, p, x[:, 2:])
        cp = self.thermo.cp_mass(T, x[:, 2:])
        fastest = torch.maximum(self.diffusion.amax(1), self.conduction / (density * cp))
        explicit = 0.5 * self.width**2 / float((density**2 * fastest).max())
        stages = max(3, int(np.ceil(0.5 * (np.sqrt(9 + 16 * 1.2 * dt / explicit) - 1))))
        r0, T = self.rate(u0, p, T)
        b = [1 / 3] * 3 + [(j * j + j - 2) / (2 * j * (j + 1)) for j in range(3, stages + 1)]
        w = 4 / (stages * stages + stages - 2)
        older, u = u0, u0 + b[1] * w * dt * r0
        for j in range(2, stages + 1):
            mu, nu = (2 * j - 1) / j * b[j] / b[j - 1], -(j - 1) / j * b[j] / b[j - 2]
            rate, T = self.rate(u, p, T)
            change = mu * w * dt * (rate - (1 - b[j - 1]) * r0)
            older, u = u, mu * u + nu * older + (1 - mu - nu) * u0 + change
        T = self.thermo.temperature_from_enthalpy(u[:, 0], u[:, 1:], T, steps=4)
        return torch.cat([T[:, None], p[:, None], u[:, 1:]], 1).numpy()

    def rate(self, u: torch.Tensor, p: torch.Tensor, T: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """d(h, Y)/dt of (h, Y) (n, 1+s), and the temperature, starting its search from T."""
        Y = u[:, 1:]
        T = self.thermo.temperature_from_enthalpy(u[:, 0], Y, T, steps=3)
        density = self.thermo.density(T, p, Y)
        moles = Y / self.masses
        mean = 1 / moles.sum(1, keepdim=True)
        X = moles * mean

        def face(a: torch.Tensor) -> torch.Tensor:
            return 0.5 * (a[1:] + a[:-1])

        slope = face(density) / self.width  # d/dx = rho d/dpsi
        weights = face(density[:, None] * self.diffusion * self.masses / mean)
        J = -weights * (X[1:] - X[:-1]) * slope[:, None]
        J = J - face(Y) * J.sum(1, keepdim=True)
        q = -face(self.conduction) * (T[1:] - T[:-1]) * slope + (self.thermo.enthalpies(face(T)) * J).sum(1)
        flux = torch.cat([q[:, None], J], 1)
        nothing = torch.zeros_like(flux[:1])  # in front nothing has happened yet, behind nothing changes any more
        padded = torch.cat([nothing, flux, nothing])
        return -(padded[1:] - padded[:-1]) / self.width, T
