"""A network that replaces the stiff integrator of a mechanism over a fixed time, raw states in and out.

    z = [T, 1000/T, ln p, F(Y), A/|A|, ln|A|],        F the Box-Cox transform (arXiv:2201.03549), A the affinities
    F(Y') = F(Y) + S g N(z),                          g = |A|/(1 + |A|), N the network, see `expert`
    Y'    = projection onto the elements of Y,        T' from enthalpy (constant pressure) or energy (constant volume)

Equilibrium is a fixed point since A = 0 there, and it is the right one since elements and enthalpy are exact. No
rollout drifts past it, since what of a step would lower the entropy is not made. Increments are accurate relative to
their own size over many decades, which is what decides the length of an induction. The parameters of the
network are float32 and everything else is float64: a few states are evaluated in float64, many with a network in
float32, which takes half the time and is 1e-6 of the largest increment off.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import torch
from torch import Tensor, nn

from sciml.chemistry.affinity import FLOOR, Affinity, basis_of
from sciml.chemistry.conservation import Conservation
from sciml.chemistry.familiarity import Familiarity
from sciml.chemistry.states import sound
from sciml.chemistry.thermo import GAS_CONSTANT, Thermo
from sciml.expert import Expert
from sciml.files import read_h5, write_h5
from sciml.flowmap import RelativeIncrement, draw_rows
from sciml.optimizers import SOAP
from sciml.training import History, Stage, fit
from sciml.transforms import BoxCox, Standardize

if TYPE_CHECKING:
    from sciml.chemistry.mechanism import Mechanism

__all__ = ["Settings", "Surrogate"]

_QUIET = 1e-5  # affinities (in units of RT) below which their direction fades out
_SLOW = 1e-5  # increments, in units of the mean one, below which errors no longer count by their share
_TEMPERATURES = (250.0, 5000.0)  # K, between which a step may end
_MANY = 8192  # states from which on the time of the network counts more than 1e-6
_SLACK = 1e-3  # of the thermodynamic range: what the transport of a flow solver leaves at its ends
_NEWTON = 4  # iterations for T; third order, from the temperature before the step


@dataclass(frozen=True)
class Settings:
    """What a surrogate is for.

    Attributes:
        mechanism: the string that names the mechanism.
        hash: of its content.
        species: names in the order of the fractions.
        elements: names of the elements that the reactive species are made of.
        dt: the step (s).
        reactor: "constant-pressure" or "constant-volume", both adiabatic.
        reactive: indices of the species that take part in reactions; all others stay untouched.
        lmbda: of the Box-Cox transform.
        edges: temperatures (K) between the regions of the experts, ascending; empty for one network.
        temperatures: the range (K) in which the thermodynamic data are valid.
        labels: how its labels were made: ranges of the charges, tolerances, seed, origins.
    """

    mechanism: str
    hash: str
    species: tuple[str, ...]
    elements: tuple[str, ...]
    dt: float
    reactor: str
    reactive: tuple[int, ...]
    lmbda: float = 0.1
    edges: tuple[float, ...] = ()
    temperatures: tuple[float, float] = (200.0, 5000.0)
    labels: Mapping[str, Any] = field(default_factory=dict)


class Surrogate(nn.Module):
    """The flow map of a mechanism; made by `fit` or `load`.

    A state is [T (K), p (Pa), Y in the order of the mechanism]. `surrogate(states)` gives states one step later.

    Attributes:
        settings: what it is for.
    """

    reactive: Tensor
    made: Tensor
    heats: Tensor

    def __init__(
        self,
        settings: Settings,
        experts: Sequence[Expert],
        thermo: Thermo,
        affinity: Affinity,
        conservation: Conservation,
        inputs: Standardize,
        increment: Standardize,
        familiarity: Familiarity,
    ) -> None:
        super().__init__()
        self.settings = settings
        self.experts = nn.ModuleList(experts)
        self.thermo, self.affinity, self.conservation = thermo, affinity, conservation
        self.inputs, self.increment, self.familiarity = inputs, increment, familiarity
        self.boxcox = BoxCox(settings.lmbda)
        self.register_buffer("reactive", torch.as_tensor(settings.reactive))
        self.register_buffer("made", torch.searchsorted(self.reactive, affinity.made), persistent=False)
        # neighbours among the reactive species: copying ranges is several times as fast as gathering columns
        reactive = set(settings.reactive)
        first, past = ([k + i for k in settings.reactive if k + d not in reactive] for i, d in ((0, -1), (1, 1)))
        self._runs = list(zip(first, past, strict=True))
        ends = torch.tensor(_TEMPERATURES, dtype=torch.float64)
        heats = thermo.enthalpies(ends)
        if not self._isobaric:
            heats = heats - GAS_CONSTANT * ends[:, None] / thermo.molar_masses
        self.register_buffer("heats", heats.T.contiguous())
        self._block = 0
        self._generated: Callable[..., Tensor] | None = None

    @property
    def mechanism(self) -> str:
        """The string that names the mechanism."""
        return self.settings.mechanism

    @property
    def dt(self) -> float:
        """The step, s."""
        return self.settings.dt

    # ------------------------------------------------------------------------------------------------- the graph

    def features(self, x: Tensor, elements: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor]:
        """Inputs of the network before standardisation (n, m), the gate g (n,) and the affinities (n, k).

        Args:
            x: (n, 2+s).
            elements: of its reactive species (n, e), if they are known already.
        """
        T, p, Y = x[:, 0], x[:, 1], x[:, 2:]
        logs = Y.clamp_min(FLOOR).log()
        A = self.affinity(T, p, Y, logs)
        elements = self.conservation.moles(self.reacting(Y)) if elements is None else elements
        if (impossible := self.conservation.impossible(elements)) is not None:
            A = torch.where(impossible.index_select(1, self.made), 0.0, A)  # what cannot be made is at rest
        seen = self.affinity.measurable(A, logs)
        size = (seen.square().mean(1) + 1e-24).sqrt()
        shown = (size + _QUIET)[:, None]
        z = [T[:, None], 1e3 / T[:, None], p[:, None].log(), self._scaled(Y, logs), seen / shown, shown.log()]
        return torch.cat(z, 1), size / (1 + size), A

    def _scaled(self, Y: Tensor, logs: Tensor) -> Tensor:
        """F(Y), from logarithms that are known already; exactly -1/lambda at zero."""
        lmbda = self.settings.lmbda
        return torch.where(Y > 0, torch.expm1(lmbda * logs) / lmbda, -1 / lmbda)

    def increments(self, z: Tensor, gate: Tensor, region: Tensor) -> Tensor:
        """Increments of F(Y) in units of `increment`, (n, r), from standardised inputs, in their precision."""
        out = self.experts[0](z)
        for k, expert in enumerate(list(self.experts)[1:], 1):
            out = torch.where((region == k)[:, None], expert(z), out)
        return gate[:, None] * out

    def region(self, x: Tensor) -> Tensor:
        """Which expert answers for a state, (n,): every temperature has exactly one."""
        edges = x.new_tensor(self.settings.edges)
        return (x[:, :1] >= edges).sum(1)

    def __call__(self, states: Any) -> Any:
        """States one step later: arrays as `step` does, tensors as `forward` does."""
        return super().__call__(states) if isinstance(states, Tensor) else self.step(states)

    def forward(self, x: Tensor) -> Tensor:
        """States (n, 2+s) one step later, in float64, differentiable."""
        return self.constrained(x, *self.kept(x))

    def reacting(self, Y: Tensor) -> Tensor:
        """The columns (n, r) of the reactive species among all (n, s or more); a view where they are neighbours."""
        parts = [Y[:, a:b] for a, b in self._runs]
        return parts[0] if len(parts) == 1 else torch.cat(parts, 1)

    def _replaced(self, Y: Tensor, y: Tensor) -> Tensor:
        """Fractions (n, s) with other ones of the reactive species."""
        parts, done, taken = [], 0, 0
        for a, b in self._runs:
            parts += [Y[:, done:a], y[:, taken : taken + b - a]]
            done, taken = b, taken + b - a
        return torch.cat([*parts, Y[:, done:]], 1)

    def kept(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """What the reaction keeps: elements of the reactive species (n, e), and enthalpy or energy (n,)."""
        elements = self.conservation.moles(self.reacting(x[:, 2:]))
        heat = self.thermo.enthalpy_mass if self._isobaric else self.thermo.energy_mass
        return elements, heat(x[:, 0], x[:, 2:])

    @property
    def _isobaric(self) -> bool:
        return self.settings.reactor == "constant-pressure"

    def constrained(self, x: Tensor, elements: Tensor, heat: Tensor, precision: torch.dtype | None = None) -> Tensor:
        """A step that ends at given elements and heat, so that a rollout does not even add up rounding.

        Args:
            x: (n, 2+s).
            elements: as `kept` gives them.
            heat: likewise.
            precision: of the network; None is float64 for fewer than 8192 states and float32 for more.
        """
        z, gate, A = self.features(x, elements)
        if precision is None:
            precision = torch.float64 if len(x) < _MANY else torch.float32
        change = self.increments(self.inputs(z).to(precision), gate.to(precision), self.region(x)).double()
        old = self.reacting(x[:, 2:])
        F = self.reacting(z[:, 3:])
        proposed = self.boxcox.inverse((F + self.increment.inverse(change)).clamp(max=0.0))
        y = self.affinity.allowed(A, old, self.conservation(old, proposed, elements), self.reactive)
        y = self._within(x, old, y, heat)
        Y = self._replaced(x[:, 2:], y)
        inverse = self.thermo.temperature_from_enthalpy if self._isobaric else self.thermo.temperature_from_energy
        T = inverse(heat, Y, x[:, 0], steps=_NEWTON)
        p = x[:, 1]
        if not self._isobaric:  # the density stays
            gas = self.thermo.gas_constant
            p = p * (T * gas(Y)) / (x[:, 0] * gas(x[:, 2:]))
        return torch.cat([T[:, None], p[:, None], Y], 1)

    def _within(self, x: Tensor, old: Tensor, y: Tensor, heat: Tensor) -> Tensor:
        """A step shortened, if it must be, to fractions that have a temperature: heats at both ends are linear in Y."""
        # colder than the low end is what has less heat than at it, hotter than the high end what has more
        sign = x.new_tensor([1.0, -1.0])
        need = sign * ((y - old) @ self.heats.index_select(0, self.reactive))
        room = sign * (heat[:, None] - x[:, 2:] @ self.heats)
        share = room.clamp_min(0.0) / torch.where(need > room, need.abs().clamp_min(1e-300), 1.0)
        theta = torch.where(need > room, share, 1.0).clamp(max=1.0).amin(1)
        return torch.lerp(old, y, theta[:, None])

    # --------------------------------------------------------------------------------------------- arrays in and out

    def step(self, states: np.ndarray, dt: float | None = None) -> np.ndarray:
        """States (n, 2+s) one step later.

        Raises:
            ValueError: for a bad state, or a dt that is not the trained one.
        """
        self._check_step(dt)
        x = self.checked(states)
        with torch.no_grad():
            return self._advanced(x, *self.kept(x)).numpy()

    def rollout(self, states: np.ndarray, steps: int, dt: float | None = None) -> np.ndarray:
        """States (n, steps+1, 2+s) at 0, dt, 2 dt ..., the initial one first.

        Raises:
            ValueError: for a bad state, an impossible number of steps, or a dt that is not the trained one.
        """
        self._check_step(dt)
        if isinstance(steps, bool) or not isinstance(steps, (int, np.integer)) or steps < 0:
            raise ValueError(f"steps is {steps!r}, but must be a whole number that is not negative")
        x = self.checked(states)
        out = np.empty((len(x), steps + 1, x.shape[1]))
        out[:, 0] = x.numpy()
        with torch.no_grad():
            kept = self.kept(x)
            for k in range(steps):
                x = self._advanced(x, *kept)
                out[:, k + 1] = x.numpy()
        return out

    def compile(self, block: int = 512) -> None:
        """Let generated code take the steps of many states from now on; in place.

        Writing the code takes most of a minute and a C++ compiler. It is the faster the larger the mechanism is: 1.2
        times for GRI-3.0, hardly for hydrogen. The network is evaluated in float32 there.

        Args:
            block: states that the code takes at once; fewer of them are stepped as before.

        Raises:
            ValueError: if block is not positive.
            RuntimeError: if no code can be generated here, as without a compiler.
        """
        if block < 1:
            raise ValueError(f"block is {block!r}, but must be a positive number of states")
        count = len(self.settings.species)
        row = torch.tensor([[1500.0, 1e5, *[1 / count] * count]], dtype=torch.float64)
        self._block, self._generated = block, torch.compile(partial(self.constrained, precision=torch.float32))
        try:
            with torch.no_grad():
                x = row.repeat(block, 1)
                self._advanced(x, *self.kept(x))
        except Exception as error:  # whatever the compilers raise
            self._generated = None
            why = (str(error).strip() or type(error).__name__).splitlines()[0]
            raise RuntimeError(
                f"no code was generated for the surrogate, whose steps stay as they were: {why}"
            ) from error

    def _advanced(self, x: Tensor, elements: Tensor, heat: Tensor) -> Tensor:
        """One step, by generated code where there is some and enough states."""
        n, block = len(x), self._block
        if self._generated is None or n < block:
            return self.constrained(x, elements, heat)
        starts = [*range(0, n - block, block), n - block]  # the last block overlaps the one before
        out = torch.empty_like(x)
        for a in starts:
            rows = slice(a, a + block)
            out[rows] = self._generated(x[rows], elements[rows], heat[rows])
        return out

    def _check_step(self, dt: float | None) -> None:
        if dt is not None and not abs(dt - self.dt) <= 1e-9 * self.dt:
            raise ValueError(f"dt is {dt:g} s, but this surrogate was trained for {self.dt:g} s only")

    def checked(self, states: np.ndarray) -> Tensor:
        """States as float64 with fractions that add up to one.

        Raises:
            ValueError: naming the first bad row and what is wrong with it, or all rows whose temperature lies outside
                the thermodynamic data.
        """
        x = self.sound(states)
        bad = self.beyond(x)
        if bad.any():
            T, (low, high), which = x[:, 0].numpy()[bad], self.settings.temperatures, np.flatnonzero(bad)
            raise ValueError(
                f"states must lie in {low:g} to {high:g} K, where the thermodynamic data are valid, but row(s) "
                f"{', '.join(map(str, which[:8]))}{', ...' if len(which) > 8 else ''} have {T.min():g} to {T.max():g} K"
            )
        return x

    def beyond(self, x: Tensor) -> np.ndarray:
        """Which states (n, 2+s) lie outside the range of the thermodynamic data, (n,)."""
        T, (low, high) = x[:, 0].numpy(), self.settings.temperatures
        low, high = low * (1 - _SLACK), high * (1 + _SLACK)
        if not len(T) or (T.min() >= low and T.max() <= high):  # two passes where all is well
            return np.zeros(len(T), dtype=bool)
        return np.asarray((T < low) | (T > high))

    def sound(self, states: np.ndarray) -> Tensor:
        """As `checked`, at whatever temperature: what can be scored, or handed to an integrator that refuses rows.

        Raises:
            ValueError: naming the first bad row and what is wrong with it.
        """
        return torch.as_tensor(sound(states, len(self.settings.species)))

    def score(self, states: np.ndarray) -> np.ndarray:
        """How far states are from those of the training, (n,): above 1 is outside; see `familiarity`."""
        with torch.no_grad():
            return torch.cat([self.distance(part) for part in self.sound(states).split(_MANY)]).numpy()

    def distance(self, x: Tensor) -> Tensor:
        """The `score` of states (n, 2+s) as a part of a graph."""
        return self.familiarity(self.described(self.features(x)[0]))

    def described(self, z: Tensor) -> Tensor:
        """The inputs that describe a mixture, standardised: T, 1000/T, ln p and F(Y), but not its affinities."""
        return self.inputs(z)[:, : 3 + len(self.settings.species)]

    # ---------------------------------------------------------------------------------------------------- training

    @classmethod
    def fit(
        cls,
        states: np.ndarray,
        next_states: np.ndarray,
        mechanism: Mechanism,
        dt: float,
        reactor: str = "constant-pressure",
        widths: Sequence[int] = (64, 64, 64),
        edges: Sequence[float] = (),
        stages: Sequence[Stage] = (SOAP(20000),),
        windows: np.ndarray | None = None,
        tuning: Sequence[Stage] = (),
        batch: int = 1024,
        lmbda: float = 0.1,
        seed: int = 0,
        checkpoint: str | Path | None = None,
    ) -> tuple[Self, History]:
        """Train on pairs of states, then on rollouts.

        Args:
            states: (n, 2+s).
            next_states: (n, 2+s), the states dt later.
            mechanism: what made them.
            dt: s.
            reactor: "constant-pressure" or "constant-volume": what the pairs keep.
            widths: hidden layers of each expert (gelu, float32).
            edges: temperatures (K) between experts; empty for one network.
            stages: of the training on pairs, relative increments (`flowmap.RelativeIncrement`).
            windows: (m, steps+1, 2+s) consecutive states.
            tuning: stages that minimise the error of rollouts over the windows, from their first states.
            batch: pairs per step; rollouts take a quarter of it.
            lmbda: of the Box-Cox transform.
            seed: of parameters and batches.
            checkpoint: file of the training on pairs, to resume from.

        Raises:
            ValueError: if the arrays do not fit the mechanism or each other, a fraction is negative, or an expert has
                no states.
        """
        if reactor not in ("constant-pressure", "constant-volume"):
            raise ValueError(f"reactor is {reactor!r}, but must be 'constant-pressure' or 'constant-volume'")
        if not dt > 0:
            raise ValueError(f"dt is {dt!r}, but must be a positive number of seconds")
        model = cls._blank(np.asarray(states, float), mechanism, dt, reactor, widths, edges, lmbda, seed)
        examples = model._examples(states, next_states)
        met = torch.bincount(examples[2], minlength=len(model.experts))
        if not bool(met.all()):
            border = [0.0, *model.settings.edges, float("inf")]
            low, high = border[int(met.argmin())], border[int(met.argmin()) + 1]
            raise ValueError(
                f"edges is {', '.join(f'{e:g}' for e in edges)} K, but no state lies from {low:g} to {high:g} K"
            )
        model._standardise(examples)
        history = model._trained(examples, stages, batch, seed, checkpoint)
        if tuning and windows is not None:
            model.tune(windows, tuning, max(batch // 4, 1), seed + 1)
        return model, history

    def learn(
        self,
        states: np.ndarray,
        next_states: np.ndarray,
        stages: Sequence[Stage],
        batch: int = 1024,
        seed: int = 0,
        checkpoint: str | Path | None = None,
        share: float | None = None,
    ) -> History:
        """Go on training on pairs of states, with the statistics of the inputs as they are; arguments as for `fit`.

        Where a `share` is given, errors count relative to the increment of their own species and that share of the
        row's mean (see `flowmap.RelativeIncrement`).
        """
        return self._trained(self._examples(states, next_states), stages, batch, seed, checkpoint, share)

    def _trained(
        self,
        examples: tuple[Tensor, Tensor, Tensor, Tensor],
        stages: Sequence[Stage],
        batch: int,
        seed: int,
        checkpoint: str | Path | None,
        share: float | None = None,
    ) -> History:
        z, gate, region, moved = examples
        with torch.no_grad():
            rows = (self.inputs(z).float(), gate.float(), region, self.increment(moved).float())
        objective = RelativeIncrement(self.increments, floor=_SLOW, share=share)
        return fit(self, objective, draw_rows(rows, batch), stages, (), checkpoint, seed, label="increments")

    @classmethod
    def _blank(
        cls,
        states: np.ndarray,
        mechanism: Mechanism,
        dt: float,
        reactor: str,
        widths: Sequence[int],
        edges: Sequence[float],
        lmbda: float,
        seed: int,
    ) -> Self:
        reactive = mechanism.reactive
        atoms = mechanism.composition[reactive]
        present = np.asarray(atoms.any(0))
        affinity = Affinity.of(mechanism, reactive, basis_of(mechanism, reactive, states[:, 2:]))
        moles = atoms[:, present] / mechanism.molar_masses[reactive][:, None]
        inputs = 3 + mechanism.n_species + len(affinity.reactions) + 1
        generator = torch.Generator().manual_seed(seed)
        settings = Settings(
            mechanism.source,
            mechanism.hash,
            tuple(mechanism.species),
            tuple(e for e, p in zip(mechanism.elements, present, strict=True) if p),
            float(dt),
            reactor,
            tuple(reactive),
            float(lmbda),
            tuple(sorted(float(e) for e in edges)),
            mechanism.temperature_range,
        )
        experts = [Expert.drawn(inputs, widths, len(reactive), generator) for _ in range(len(settings.edges) + 1)]
        given, made = (Standardize(torch.zeros(m).double(), torch.ones(m).double()) for m in (inputs, len(reactive)))
        familiarity = Familiarity(3 + mechanism.n_species, 1)
        conservation = Conservation(torch.as_tensor(moles))
        return cls(settings, experts, mechanism.thermo, affinity, conservation, given, made, familiarity)

    def _examples(self, states: np.ndarray, next_states: np.ndarray) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Inputs of the network before standardisation, gates, regions, and increments in Box-Cox space."""
        x, after = self.sound(states), self.sound(next_states)
        if x.shape != after.shape:
            raise ValueError(f"states has shape {tuple(x.shape)} and next_states {tuple(after.shape)}")
        with torch.no_grad():
            z, gate = (
                torch.cat(column) for column in zip(*(self.features(p)[:2] for p in x.split(_MANY)), strict=True)
            )
            F, F1 = (self.boxcox(a[:, 2:].index_select(1, self.reactive)) for a in (x, after))
            return z, gate, self.region(x), F1 - F

    def _standardise(self, examples: tuple[Tensor, Tensor, Tensor, Tensor]) -> None:
        """Set the statistics of inputs, increments and of what is familiar."""
        z, _, _, moved = examples
        with torch.no_grad():
            self.inputs, self.increment = Standardize.fit(z), Standardize.fit(moved, by="magnitude")
            self.familiarity = Familiarity.fit(self.described(z))

    def tune(self, windows: np.ndarray, stages: Sequence[Stage], batch: int = 256, seed: int = 1) -> History:
        """Minimise the error of rollouts over windows (m, steps+1, 2+s) of consecutive true states."""
        n, length, width = np.shape(windows)
        rows = self.sound(np.reshape(windows, (-1, width))).reshape(n, length, width)
        return fit(self, _RolloutError(), draw_rows((rows,), batch), stages, seed=seed, label="rollouts")

    # ------------------------------------------------------------------------------------------------------- files

    def save(self, path: str | Path) -> None:
        """Write one HDF5 file, atomically: arrays and a description, no code."""
        description = {
            "kind": "surrogate",
            "settings": asdict(self.settings),
            "experts": [e.describe() for e in self.experts],  # type: ignore[operator]
            "reference": self.affinity.reference,
        }
        write_h5(path, description, {k: v.detach().cpu().numpy() for k, v in self.state_dict().items()})

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """Read what `save` wrote; needs no cantera.

        Raises:
            FileNotFoundError: if there is no such file.
            ValueError: if it is not the file of a surrogate, or a damaged one.
        """
        description, arrays = read_h5(path)
        if description.get("kind") != "surrogate":
            raise ValueError(f"{path} holds {description.get('kind')!r}, but load reads the file of a Surrogate")
        if "experts.0.shortcut" not in arrays:
            raise ValueError(f"{path} was written by an earlier version of this package, so it must be trained again")
        try:
            model = cls._restored(description, arrays)
        except (AttributeError, IndexError, KeyError, RuntimeError, TypeError, ValueError) as error:
            said = str(error).splitlines()[-1].strip() if str(error) else type(error).__name__
            raise ValueError(f"{path} is no surrogate that this version of the package can read: {said}") from error
        if not all(np.isfinite(array).all() for array in arrays.values()):
            raise ValueError(f"{path} is damaged: it holds a number that is not finite")
        return model

    @classmethod
    def _restored(cls, description: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> Self:
        stored: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in description["settings"].items()}
        settings = Settings(**stored)
        parts, columns = arrays["familiarity.centres"].shape

        def of(name: str) -> Tensor:
            return torch.zeros(arrays[name].shape, dtype=torch.float64)

        def statistics(name: str) -> Standardize:
            return Standardize.restore({}, {part: arrays[f"{name}.{part}"] for part in ("centre", "scale")})

        breaks, masses = of("thermo.breaks"), torch.ones(len(settings.species), dtype=torch.float64)
        count = len(breaks) + 1
        made = arrays["affinity.extents"].argmax(0).tolist()
        reactions, gibbs = of("affinity.reactions"), torch.zeros(count, len(masses), 7, dtype=torch.float64)
        model = cls(
            settings,
            [
                Expert.restore(d, {k.removeprefix(p): v for k, v in arrays.items() if k.startswith(p)})
                for p, d in ((f"experts.{i}.", d) for i, d in enumerate(description["experts"]))
            ],
            Thermo(torch.zeros(count, len(masses), 8, dtype=torch.float64), breaks, masses),
            Affinity(gibbs, breaks, masses, reactions, made, description["reference"]),
            Conservation(of("conservation.atoms")),
            statistics("inputs"),
            statistics("increment"),
            Familiarity(columns, parts),
        )
        model.load_state_dict({k: torch.as_tensor(np.asarray(v)) for k, v in arrays.items()})
        return model


class _RolloutError:
    """Distance from the true states in Box-Cox space after every step, relative to the window's mean increment."""

    def terms(self, field: Any, batch: Any) -> dict[str, Tensor]:
        (windows,) = batch.columns
        n, length, width = windows.shape
        with torch.no_grad():
            y = windows[:, :, 2:].index_select(2, field.reactive)
            true = field.boxcox(y.reshape(n * length, -1)).reshape(y.shape) / field.increment.scale
            weight = 1 / (true.diff(dim=1).abs().mean((1, 2)) + 1e-3)
            kept = field.kept(windows[:, 0])
        x, total = windows[:, 0], windows.new_zeros(())
        for k in range(1, length):
            x = field.constrained(x, *kept)
            # the floor keeps the slope of the transform finite where a fraction is zero
            F = field.boxcox(x[:, 2:].index_select(1, field.reactive).clamp_min(FLOOR)) / field.increment.scale
            # a few windows that go astray must not outweigh all others
            total = total + (weight * (F - true[:, k]).abs().mean(1)).clamp(max=20.0).mean() / k
        return {"rollout": total / (length - 1)}
