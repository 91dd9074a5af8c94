"""Batched thermodynamics of ideal-gas mixtures in torch: NASA polynomials with seven and nine coefficients.

    cp/R  = a0 T^-2 + a1 T^-1 + a2 + a3 T + a4 T^2 + a5 T^3 + a6 T^4
    h/R T = -a0 T^-2 + a1 ln(T)/T + a2 + a3 T/2 + a4 T^2/3 + a5 T^3/4 + a6 T^4/5 + a7/T

(McBride, Zehe, Gordon, NASA/TP-2002-211556); the seven-coefficient form has a0 = a1 = 0. The coefficients of a mixture
are sums over species, so a temperature is found from one polynomial for each row, not from one for each species.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

__all__ = ["GAS_CONSTANT", "Thermo", "recorded"]

GAS_CONSTANT = 8314.46261815324  # J/kmol/K, exact since 2019
_COEFFICIENTS = 8


class Thermo(nn.Module):
    """Enthalpy, heat capacity, density and their inverses for batches of mixtures.

    Everything is a buffer, so that the module moves, exports and is saved with what contains it. T is (n,) in K, p is
    (n,) in Pa and Y is (n, s); a result has the dtype of the arguments, in which the buffers must be too
    (`.double()`).

    Args:
        coefficients: (i, s, 8), a0 to a7 of each species in each interval of temperature.
        breaks: (i-1,) temperatures (K) between the intervals.
        molar_masses: kg/kmol, (s,).
    """

    coefficients: Tensor
    breaks: Tensor
    molar_masses: Tensor

    def __init__(self, coefficients: Tensor, breaks: Tensor, molar_masses: Tensor):
        super().__init__()
        # R a / W, so that sums with mass fractions give J/kg; one row for each species, intervals side by side
        per_mass = GAS_CONSTANT * coefficients / molar_masses[None, :, None]
        self.register_buffer("coefficients", per_mass.permute(1, 0, 2).reshape(len(molar_masses), -1).contiguous())
        self.register_buffer("breaks", breaks.clone())
        self.register_buffer("molar_masses", molar_masses.clone())

    @classmethod
    def from_species(
        cls, thermo: Sequence[Mapping[str, Any]], names: Sequence[str], molar_masses: np.ndarray
    ) -> Thermo:
        """From the `thermo` entries of a Cantera file.

        Raises:
            ValueError: for a species with other data than NASA7 or NASA9, by name.
        """
        for name, entry in zip(names, thermo, strict=True):
            if entry.get("model") not in ("NASA7", "NASA9"):
                raise ValueError(f"species {name!r} has {entry.get('model')} data, but only NASA7 and NASA9 are read")
        inner = sorted({float(T) for entry in thermo for T in _ranges(entry)[1:-1]})
        # one temperature inside each interval decides which polynomial of a species holds there
        edges = [0.0, *inner, np.inf]
        middles = [_between(a, b) for a, b in zip(edges[:-1], edges[1:], strict=True)]
        table = np.array([[_coefficients(entry, T) for entry in thermo] for T in middles])
        return cls(torch.as_tensor(table), torch.tensor(inner, dtype=torch.float64), torch.as_tensor(molar_masses))

    # --------------------------------------------------------------- mixtures

    def _mix(self, Y: Tensor) -> Tensor:
        """Coefficients of the mixtures in every interval, (i, 8, n), J/kg: passes along n are the fast ones."""
        return (self.coefficients.T @ Y.T).reshape(len(self.breaks) + 1, _COEFFICIENTS, -1)

    def _interval(self, T: Tensor) -> Tensor:
        """Number of the interval that holds T, (n,). At a break the lower one does."""
        return (T > self.breaks[:, None]).sum(0)

    def _at(self, mixed: Tensor, interval: Tensor) -> Tensor:
        """The coefficients of the mixtures in their intervals, (8, n)."""
        if len(self.breaks) == 0:
            return mixed[0]
        if len(self.breaks) == 1:
            return torch.where(interval > 0, mixed[1], mixed[0])
        return mixed.gather(0, interval.expand(1, _COEFFICIENTS, -1)).squeeze(0)

    def gas_constant(self, Y: Tensor) -> Tensor:
        """R/W of the mixture, J/kg/K, (n,)."""
        return GAS_CONSTANT * (Y @ (1 / self.molar_masses))

    def enthalpy_mass(self, T: Tensor, Y: Tensor) -> Tensor:
        """Specific enthalpy, J/kg, (n,), with the enthalpies of formation."""
        return _enthalpy(self._at(self._mix(Y), self._interval(T)), T)

    def energy_mass(self, T: Tensor, Y: Tensor) -> Tensor:
        """Specific internal energy, J/kg, (n,)."""
        return self.enthalpy_mass(T, Y) - self.gas_constant(Y) * T

    def cp_mass(self, T: Tensor, Y: Tensor) -> Tensor:
        """Specific heat capacity at constant pressure, J/kg/K, (n,)."""
        return _heat_capacity(self._at(self._mix(Y), self._interval(T)), T)

    def cv_mass(self, T: Tensor, Y: Tensor) -> Tensor:
        """Specific heat capacity at constant volume, J/kg/K, (n,)."""
        return self.cp_mass(T, Y) - self.gas_constant(Y)

    def density(self, T: Tensor, p: Tensor, Y: Tensor) -> Tensor:
        """Density of the ideal gas, kg/m3, (n,)."""
        return p / (self.gas_constant(Y) * T)

    def enthalpies(self, T: Tensor) -> Tensor:
        """Specific enthalpy of each pure species, J/kg, (n, s)."""
        table = self.coefficients.reshape(len(self.molar_masses), len(self.breaks) + 1, _COEFFICIENTS)
        interval = self._interval(T)
        return _enthalpy(table.permute(1, 2, 0)[interval].permute(1, 2, 0), T).T

    def heat_release(self, T: Tensor, rates: Tensor) -> Tensor:
        """Heat set free by reactions, W/m3, (n,): -sum of h_k(T) times the mass rates.

        Args:
            T: (n,).
            rates: mass of each species made, kg/m3/s, (n, s).
        """
        return -(self.enthalpies(T) * rates).sum(-1)

    # --------------------------------------------------------------- inverses

    def temperature_from_enthalpy(
        self, h: Tensor, Y: Tensor, guess: Tensor | None = None, steps: int | None = None
    ) -> Tensor:
        """The temperature (K) at which mixtures have a specific enthalpy, (n,).

        Halley's method: third order, so that two steps from the temperature of the step before reach rounding.

        Args:
            h: J/kg, (n,).
            Y: (n, s).
            guess: K, (n,); 1000 K when None.
            steps: at most this many iterations, without an error (all of them where a graph is recorded); until
                converged when None.

        Raises:
            RuntimeError: if `steps` is None and some row does not converge: its enthalpy is that of no temperature, or
                falls into a jump where polynomials do not meet.
        """
        return self._temperature(h, Y, guess, steps, torch.zeros_like(h))

    def temperature_from_energy(
        self, u: Tensor, Y: Tensor, guess: Tensor | None = None, steps: int | None = None
    ) -> Tensor:
        """The temperature (K) at which mixtures have a specific internal energy; see `temperature_from_enthalpy`."""
        return self._temperature(u, Y, guess, steps, self.gas_constant(Y))

    def _temperature(self, goal: Tensor, Y: Tensor, guess: Tensor | None, steps: int | None, gas: Tensor) -> Tensor:
        mixed = self._mix(Y)
        T = torch.full_like(goal, 1000.0) if guess is None else guess
        # third order: what is left after a change of 1e-6 T is rounding
        enough = 16 * torch.finfo(goal.dtype).eps if steps is None else 1e-6
        graph = recorded()
        before, local = None, mixed
        for _ in range(50 if steps is None else steps):
            interval = self._interval(T)
            # hardly any step leaves the interval of a polynomial, and comparing is cheaper than gathering
            if before is None or graph or not torch.equal(interval, before):
                before, local = interval, self._at(mixed, interval)
            slope = _heat_capacity(local, T) - gas
            newton = (_enthalpy(local, T) - gas * T - goal) / slope
            curve = 1 - 0.5 * newton * _heat_capacity_slope(local, T) / slope
            # a state far from the guess may leave the region where the parabola helps
            change = newton / curve.clamp(0.5, 2.0)
            T = torch.maximum(T - change, 0.2 * T)
            if not graph and bool((change.abs() <= enough * T).all()):
                return T
        if steps is not None:
            return T
        if bool((change.abs() <= 1e-7 * T).all()):  # a row that turns around the last digits
            return T
        row = int((change.abs() / T).argmax())
        raise RuntimeError(f"no temperature was found for row {row} with the value {float(goal[row]):g} J/kg")


def recorded() -> bool:
    """Whether operations become a graph, for which no value may decide what is computed."""
    return bool(torch.jit.is_tracing() or torch.compiler.is_compiling())  # type: ignore[attr-defined]


def _enthalpy(a: Tensor, T: Tensor) -> Tensor:
    inner = torch.addcmul(a[3] / 2, T, torch.addcmul(a[4] / 3, T, torch.addcmul(a[5] / 4, T, a[6], value=1 / 5)))
    return torch.addcmul(a[7] - a[0] / T + a[1] * T.log(), T, torch.addcmul(a[2], T, inner))


def _heat_capacity(a: Tensor, T: Tensor) -> Tensor:
    inner = torch.addcmul(a[3], T, torch.addcmul(a[4], T, torch.addcmul(a[5], T, a[6])))
    return torch.addcmul(a[2] + (a[1] + a[0] / T) / T, T, inner)


def _heat_capacity_slope(a: Tensor, T: Tensor) -> Tensor:
    inner = torch.addcmul(2 * a[4], T, torch.addcmul(3 * a[5], T, a[6], value=4.0))
    return torch.addcmul(a[3] - (a[1] + 2 * a[0] / T) / (T * T), T, inner)


def _ranges(entry: Mapping[str, Any]) -> list[float]:
    ranges = [float(T) for T in entry["temperature-ranges"]]
    # a NASA7 entry may give one polynomial with two temperatures
    return ranges


def _between(low: float, high: float) -> float:
    return 2 * low + 1000.0 if np.isinf(high) else (low + high) / 2


def _coefficients(entry: Mapping[str, Any], T: float) -> list[float]:
    inner = _ranges(entry)[1:-1]
    row = [float(v) for v in entry["data"][min(int(np.searchsorted(inner, T)), len(entry["data"]) - 1)]]
    # NASA7: a1..a5, a6 (enthalpy), a7 (entropy); NASA9: a1..a7, b1 (enthalpy), b2 (entropy)
    return [0.0, 0.0, *row[:6]] if entry["model"] == "NASA7" else row[:8]
