"""A chemical mechanism: one gas phase of a Cantera file, and the only room that knows cantera.

States are rows `[T (K), p (Pa), Y_1 ... Y_s]` with the mass fractions in the order of `Mechanism.species`. What happens
to a state over time stands in `reactors`, `ignition`, `stirred` and `flames`; `Mechanism` offers all of it as methods.
"""

from __future__ import annotations

import difflib
import hashlib
import io
import json
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import cantera as ct
import numpy as np
from numpy.typing import ArrayLike, NDArray

from sciml.chemistry.inspection import Inspection, inspect_phase
from sciml.chemistry.states import check_rows

if TYPE_CHECKING:
    from sciml.chemistry.flames import Flame
    from sciml.chemistry.ignition import Ignition
    from sciml.chemistry.reactors import Advanced
    from sciml.chemistry.stirred import Extinction, Stirred
    from sciml.chemistry.thermo import Thermo

__all__ = ["CanteraError", "Mechanism", "Reactor", "free_flame", "network", "quiet", "sentence", "stirred_network"]

Array = NDArray[np.float64]


@contextmanager
def quiet() -> Iterator[None]:
    """Without Cantera's warnings of what `Mechanism.inspection` reports once: kinks and ranges of the thermo data."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        yield


Reactor = Literal["constant-pressure", "constant-volume"]
CanteraError: type[Exception] = ct.CanteraError
_REACTORS: dict[str, Any] = {
    "constant-pressure": ct.IdealGasConstPressureReactor,
    "constant-volume": ct.IdealGasReactor,
}
# Cantera 3.2 can copy the phase of a reactor and will do so by default; we set the state of the phase itself
_OWN: dict[str, Any] = {"clone": False} if tuple(map(int, ct.__version__.split(".")[:2])) >= (3, 2) else {}
_COPY: dict[str, Any] = {"clone": True} if _OWN else {}


def sentence(error: BaseException) -> str:
    """The message of a Cantera error on one line, without its frame of stars and its advice."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip() and set(line.strip()) != {"*"}]
    body = [line for line in lines if " thrown by " not in line and not line.startswith(("To fix", "|", ">"))]
    return " ".join(body)[:400] or type(error).__name__


class Mechanism:
    """A gas phase: its species, reactions, thermodynamics and reactors.

    Args:
        source: a path, or the name of a file that Cantera ships (`"h2o2.yaml"`, `"gri30.yaml"`); `"FILE#PHASE"` for
            another phase than its first.
        phase: the phase of the file, which must be an ideal gas; when None that of `source`.
        transport: `"mixture-averaged"`, `"multicomponent"`, `"unity-Lewis-number"`; the file's choice when None.

    Attributes:
        source: the string given, with the phase if one was named: what opens it again (empty for `from_yaml`).
        species: names, in the order of the mass fractions.
        elements: names, in the order of the columns of `composition`.
        composition: atoms of each element in each species, (s, e).
        molar_masses: kg/kmol, (s,).
        inspection: what the checks on load found; `inspection.warnings` are sentences.
        hash: SHA-256 of the parsed species and reactions: the same for a copy of the file under another name.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if the file cannot be read as a gas mechanism, or the phase is not an ideal gas.
    """

    def __init__(self, source: str | Path, phase: str | None = None, transport: str | None = None):
        file, _, named = str(source).rpartition("#")
        if not file or Path(source).exists():  # no phase is named
            file, named = str(source), ""
        self._file, named = file, phase or named
        self.source = f"{file}#{named}" if named else file
        self._text: str | None = None
        self._open(named or None, transport)

    @classmethod
    def from_yaml(cls, text: str, phase: str | None = None, transport: str | None = None) -> Mechanism:
        """A mechanism from the text of a Cantera YAML file, such as `to_yaml` of a reduced one."""
        self = cls.__new__(cls)
        self.source, self._file, self._text = "", "", text
        self._open(phase, transport)
        return self

    @classmethod
    def from_chemkin(cls, mechanism: Path, thermo: Path, transport: Path | None = None) -> Mechanism:
        """A mechanism from CHEMKIN files, by Cantera's own converter."""
        from cantera import ck2yaml

        with tempfile.TemporaryDirectory() as folder:
            converted = Path(folder) / "converted.yaml"
            with redirect_stdout(io.StringIO()):  # it prints what it also raises
                ck2yaml.convert(mechanism, thermo, transport, out_name=converted, quiet=True)
            return cls.from_yaml(converted.read_text(encoding="utf-8"))

    def _open(self, phase: str | None, transport: str | None) -> None:
        self._phase, self._transport = phase, transport
        name = self.source or "the text given"
        if self._text is None and not self.source:
            raise ValueError("source is empty, but must be the path of a mechanism or a name that Cantera ships")
        try:
            gas = self._solution()
        except FileNotFoundError:
            raise
        except (CanteraError, ValueError, RuntimeError, UnicodeDecodeError) as error:
            if "not found in directories" in str(error):
                raise FileNotFoundError(
                    f"mechanism {name!r} was not found: give a path, or a name that Cantera ships such as h2o2.yaml"
                ) from error
            raise ValueError(f"mechanism {name!r} cannot be read: {sentence(error)}") from error
        if gas.thermo_model != "ideal-gas":
            raise ValueError(
                f"phase {gas.name!r} of mechanism {name!r} is {gas.thermo_model}, but must be an ideal-gas;"
                " name another phase of the file, if it has one, as in FILE#PHASE"
            )
        if not gas.n_reactions:
            raise ValueError(f"mechanism {name!r} has {gas.n_species} species but no reactions")
        self.gas = gas
        self.species: tuple[str, ...] = tuple(gas.species_names)
        self.elements: tuple[str, ...] = tuple(gas.element_names)
        self.n_species, self.n_reactions = int(gas.n_species), int(gas.n_reactions)
        self.molar_masses: Array = gas.molecular_weights.copy()
        self.composition: Array = np.array([[gas.n_atoms(s, e) for e in self.elements] for s in self.species])
        self._index = {name: k for k, name in enumerate(self.species)}

    def _solution(self) -> Any:
        options: dict[str, Any] = {"transport_model": self._transport} if self._transport else {}
        if self._text is not None:
            with quiet():
                return ct.Solution(yaml=self._text, name=self._phase or "", **options)
        with quiet():
            return ct.Solution(self._file, self._phase or "", **options)

    def __reduce__(self) -> tuple[Any, ...]:
        # a phase is a pointer into C++: another process reads the mechanism again
        if self._text is not None:
            return Mechanism.from_yaml, (self._text, self._phase, self._transport)
        return Mechanism, (self._file, self._phase, self._transport)

    def __repr__(self) -> str:
        return f"Mechanism({self.source or self.gas.name!r}: {self.n_species} species, {self.n_reactions} reactions)"

    def copy(self) -> Mechanism:
        """The same mechanism with a phase of its own, for another thread."""
        constructor, arguments = self.__reduce__()
        return constructor(*arguments)

    @cached_property
    def hash(self) -> str:
        """SHA-256 of the parsed content."""
        content = [
            self.elements,
            [s.input_data for s in self.gas.species()],
            [r.input_data for r in self.gas.reactions()],
        ]
        return hashlib.sha256(json.dumps(content, sort_keys=True, default=str).encode()).hexdigest()

    @cached_property
    def inspection(self) -> Inspection:
        """Checks on the content: counts, third bodies, continuity of the thermodynamic data, transport."""
        return inspect_phase(self.gas)

    @cached_property
    def thermo(self) -> Thermo:
        """Batched thermodynamics in torch, equal to Cantera's."""
        from sciml.chemistry.thermo import Thermo

        return Thermo.from_species(
            [s.input_data["thermo"] for s in self.gas.species()], self.species, self.molar_masses
        )

    @property
    def net_coefficients(self) -> NDArray[np.float64]:
        """Products minus reactants, (n_species, n_reactions)."""
        return np.asarray(self.gas.product_stoich_coeffs) - np.asarray(self.gas.reactant_stoich_coeffs)

    @property
    def reactive(self) -> list[int]:
        """Indices of the species that some reaction makes or consumes."""
        return [int(k) for k in np.flatnonzero(self.net_coefficients.any(1))]

    @cached_property
    def temperature_range(self) -> tuple[float, float]:
        """The temperatures (K) at which the data of every species are valid."""
        return float(self.gas.min_temp), float(self.gas.max_temp)

    def to_yaml(self) -> str:
        """The text of a Cantera file with this phase; `from_yaml` reads it."""
        return self.gas.write_yaml(skip_user_defined=True)

    def index(self, species: str) -> int:
        """The position of a species among the mass fractions; the case of letters is ignored where that is unambiguous.

        Raises:
            ValueError: if there is no such species, with the nearest names.
        """
        if species in self._index:
            return self._index[species]
        same = [k for k, name in enumerate(self.species) if name.lower() == species.lower()]
        if len(same) == 1:
            return same[0]
        near = difflib.get_close_matches(species, self.species, n=3) or list(self.species[:8])
        raise ValueError(
            f"species {species!r} is not in mechanism {self.source!r}; it has, for example, {', '.join(near)}"
        )

    def mixture(self, text: str) -> str:
        """A composition such as `"CH4:1, H2:0.5"` with this mechanism's spelling of the names.

        Raises:
            ValueError: if it is not of that form, an amount is negative, or a species is not in the mechanism.
        """
        parts = [part.strip() for part in text.split(",") if part.strip()]
        pairs = [(part.rpartition(":") if ":" in part else (part, ":", "1")) for part in parts]
        try:
            amounts = [(self.species[self.index(name.strip())], float(amount)) for name, _, amount in pairs]
        except ValueError as error:
            if "species" in str(error):
                raise
            raise ValueError(f"mixture {text!r} must look like 'CH4:1, H2:0.5'") from error
        if not amounts or any(not a >= 0 for _, a in amounts) or sum(a for _, a in amounts) <= 0:
            raise ValueError(f"mixture {text!r} must have amounts that are not negative and not all zero")
        return ", ".join(f"{name}:{amount!r}" for name, amount in amounts)

    def state(
        self,
        T: ArrayLike,
        p: ArrayLike,
        fuel: str = "H2",
        oxidiser: str = "O2:1, N2:3.76",
        phi: ArrayLike = 1.0,
    ) -> Array:
        """The state of a mixture of fuel and oxidiser (by moles) at an equivalence ratio.

        Args:
            T: temperature (K), a number or an array; T, p and phi broadcast.
            p: pressure (Pa).
            fuel: one species, or amounts such as `"CH4:0.9, H2:0.1"`.
            oxidiser: in the same form.
            phi: equivalence ratio.

        Returns:
            (2+s,) when all three are numbers, else (n, 2+s).

        Raises:
            ValueError: for a species that is not in the mechanism, or a value out of range.
        """
        fuel, oxidiser = self.mixture(fuel), self.mixture(oxidiser)
        values = np.broadcast_arrays(*(np.asarray(v, dtype=float) for v in (T, p, phi)))
        temperatures, pressures, ratios = (v.reshape(-1) for v in values)
        if not (np.isfinite(ratios).all() and (ratios >= 0).all()):
            raise ValueError(f"phi is {np.asarray(phi)}, but must not be negative")
        unique, where = np.unique(ratios, return_inverse=True)
        fractions = np.empty((len(unique), self.n_species))
        for row, ratio in enumerate(unique):
            try:
                if not 0 < self.gas.stoich_air_fuel_ratio(fuel, oxidiser) < np.inf:
                    raise ValueError(f"{fuel} in {oxidiser} has no equivalence ratio: it does not burn")
                self.gas.set_equivalence_ratio(float(ratio), fuel, oxidiser)
            except CanteraError as error:
                raise ValueError(f"{fuel} in {oxidiser} has no equivalence ratio: {sentence(error)}") from error
            fractions[row] = self.gas.Y
        states = np.column_stack([temperatures, pressures, fractions[where.reshape(-1)]])
        self.check(states)
        return states[0] if values[0].ndim == 0 else states

    def problems(self, states: Array) -> list[tuple[int, str]]:
        """What is wrong with which rows, (row, sentence): nothing for states that the reactors accept."""
        return check_rows(states, self.n_species, self.temperature_range)

    def check(self, states: Array) -> None:
        """Refuse states that are not states of this mechanism.

        Raises:
            ValueError: naming the first bad row and what is wrong with it.
        """
        wrong = self.problems(np.atleast_2d(states))
        if wrong:
            more = f" ({len(wrong)} of {len(np.atleast_2d(states))} states are refused)" if len(wrong) > 1 else ""
            raise ValueError(f"state {wrong[0][0]} {wrong[0][1]}{more}")

    def equilibrium(self, states: ArrayLike, hold: Literal["HP", "UV", "TP"] = "HP") -> Array:
        """Chemical equilibrium at constant enthalpy and pressure, energy and volume, or temperature and pressure.

        Raises:
            ValueError: for a bad state, another pair, or a state whose equilibrium is not found.
        """
        if hold not in ("HP", "UV", "TP"):
            raise ValueError(f"hold is {hold!r}, but must be 'HP', 'UV' or 'TP'")
        rows = np.array(states, dtype=float)
        self.check(rows)
        flat = np.atleast_2d(rows)
        for number, row in enumerate(flat):
            for solver in ("auto", "vcs", "gibbs"):
                self.gas.TPY = row[0], row[1], row[2:]
                try:
                    with quiet():  # temperatures beyond the range of the data that are only tried
                        self.gas.equilibrate(hold, solver=solver, rtol=1e-10)
                    break
                except CanteraError as error:
                    reason = sentence(error)
            else:
                raise ValueError(f"the {hold} equilibrium of state {number} was not found: {reason}")
            row[0], row[1], row[2:] = self.gas.T, self.gas.P, self.gas.Y
        return rows

    def element_fractions(self, states: ArrayLike) -> Array:
        """Moles of atoms of each element per kilogram of gas, (n, e): what reactions keep."""
        rows = np.atleast_2d(np.asarray(states, dtype=float))
        return rows[:, 2:] @ (self.composition / self.molar_masses[:, None])

    def advance(self, states: ArrayLike, dt: ArrayLike, **options: Any) -> Advanced:
        """Adiabatic reaction of each state over `dt` seconds; see `reactors.advance`."""
        from sciml.chemistry.reactors import advance

        return advance(self, states, dt, **options)

    def trajectory(self, state: ArrayLike, times: ArrayLike, **options: Any) -> Array:
        """The state at each of the times (s), (m, 2+s); see `reactors.trajectory`."""
        from sciml.chemistry.reactors import trajectory

        return trajectory(self, state, times, **options)

    def ignition(self, state: ArrayLike, **options: Any) -> Ignition:
        """Ignition delay of a homogeneous charge; see `ignition.ignition`."""
        from sciml.chemistry.ignition import ignition

        return ignition(self, state, **options)

    def psr(self, state_in: ArrayLike, residence_time: float, **options: Any) -> Stirred:
        """Steady state of a perfectly stirred reactor; see `stirred.psr`."""
        from sciml.chemistry.stirred import psr

        return psr(self, state_in, residence_time, **options)

    def extinction(self, state_in: ArrayLike, **options: Any) -> Extinction:
        """Residence time at which a perfectly stirred reactor goes out; see `stirred.extinction`."""
        from sciml.chemistry.stirred import extinction

        return extinction(self, state_in, **options)

    def flame_speed(self, state_in: ArrayLike, **options: Any) -> Flame:
        """Freely propagating premixed flame; see `flames.flame_speed`."""
        from sciml.chemistry.flames import flame_speed

        return flame_speed(self, state_in, **options)


# ------------------------------------------------------------------ Cantera's objects, for the rooms beside this one


def network(gas: Any, reactor: Reactor, rtol: float, atol: float) -> tuple[Any, Any]:
    """An adiabatic reactor around `gas` and the network that integrates it: (reactor, network)."""
    if reactor not in _REACTORS:
        raise ValueError(f"reactor is {reactor!r}, but must be {' or '.join(map(repr, _REACTORS))}")
    vessel = _REACTORS[reactor](gas, **_OWN)
    net = ct.ReactorNet([vessel])
    net.rtol, net.atol = rtol, atol
    return vessel, net


def stirred_network(gas: Any, inlet: Array, first: Array, time: float) -> tuple[Any, Any]:
    """A perfectly stirred reactor at the inlet's pressure, filled with `first`: (reactor, network).

    As much mass leaves as enters, the mass in the reactor over `time` (s), so that it stays constant.
    """
    gas.TPY = inlet[0], inlet[1], inlet[2:]
    source, sink = ct.Reservoir(gas, **_COPY), ct.Reservoir(gas, **_COPY)
    gas.TPY = first[0], inlet[1], first[2:]
    vessel = ct.IdealGasConstPressureReactor(gas, **_OWN)
    flow = vessel.mass / time
    # the devices are kept by the reactors they join
    ct.MassFlowController(source, vessel, mdot=flow)
    ct.MassFlowController(vessel, sink, mdot=flow)
    return vessel, ct.ReactorNet([vessel])


def free_flame(gas: Any, grid: Array) -> Any:
    """A freely propagating flame on a grid (m)."""
    return ct.FreeFlame(gas, grid=grid)
