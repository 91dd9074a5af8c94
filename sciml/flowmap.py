"""The flow map x(t) -> x(t + dt) of a stiff system as a network (arXiv:2401.01220, DeePODE).

    z = F(x),    F(x(t + dt)) = z + S N(standardised z),    x(t + dt) = F^{-1}(...)

F is the Box-Cox transform of the columns that cannot be negative and the identity elsewhere; N is a network, S the mean
magnitude of the increments. Transform, network and inverse are one object, so training and use cannot disagree, and
increments are formed in float64 before they are rounded to the precision of the network.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor, nn

from sciml.activations import gelu
from sciml.expert import Expert
from sciml.files import read_h5, write_h5
from sciml.networks import Dense
from sciml.training import Adam, History, Stage, fit
from sciml.transforms import BoxCox, GeneralBoxCox, Identity, Log, Standardize, Transform

__all__ = ["FlowMap", "RelativeIncrement", "Rows", "draw_rows"]


@dataclass(frozen=True)
class Rows:
    """A batch of samples: tensors with one row per sample, and the progress of the stage, 0 to 1."""

    columns: tuple[Tensor, ...]
    progress: float = 1.0

    def at(self, progress: float) -> Rows:
        """The same rows at another progress."""
        return replace(self, progress=progress)

    def to(self, device: torch.device | str, dtype: torch.dtype) -> Rows:
        """The rows on another device; their precision is theirs, for labels and states have different ones."""
        del dtype
        return replace(self, columns=tuple(c.to(device) for c in self.columns))


def draw_rows(columns: Sequence[Tensor], size: int) -> Any:
    """Batches of `size` rows drawn from the columns with a generator, as `training.fit` asks for them."""
    n = len(columns[0])

    def draw(generator: torch.Generator) -> Rows:
        chosen = torch.randint(n, (min(size, n),), generator=generator)
        return Rows(tuple(c[chosen] for c in columns))

    return draw


@dataclass(frozen=True)
class RelativeIncrement:
    """Mean absolute error of a head's increments, relative to the size of each row's increment where `relative`.

    A state that moves slowly counts as much as one that ignites: what decides the length of an induction is the
    relative error of slow increments. Rows whose increment is below `floor` count less.

    Where the floor falls, large increments, such as those of jumps and of fast unknowns that come back, are learnt
    before the small ones along a slow manifold, which most states are on.

    Attributes:
        head: gives increments ``(n, m)``, in units of their mean magnitude, from all columns but the last of a batch.
        relative: divide each row by its mean magnitude.
        floor: added to it, in units of the mean increment.
        falling: let the floor fall from 1 to its value over the first two thirds of a stage.
        share: divide every error by the size of its own increment, and this share of its row's, instead of the row's
            alone: beside a fast unknown that comes back, the slow ones that decide the future hardly move.
    """

    head: Any
    relative: bool = True
    floor: float = 1e-3
    falling: bool = False
    share: float | None = None

    def terms(self, field: Any, batch: Any) -> dict[str, Tensor]:
        """The term "increment"."""
        del field  # the head is a part of the model that is trained
        *inputs, target = batch.columns
        error, size = (self.head(*inputs) - target).abs(), target.abs()
        if self.relative:
            floor = self.floor ** min(1.5 * batch.progress, 1.0) if self.falling else self.floor
            row = size.mean(1, keepdim=True) + floor
            error = error / (row if self.share is None else size + self.share * row)
        return {"increment": error.mean()}


@dataclass(frozen=True)
class _RolloutError:
    """Distance of a rollout from the true windows in transformed space, after every step of it."""

    def terms(self, field: Any, batch: Any) -> dict[str, Tensor]:
        (windows,) = batch.columns
        x, total = windows[:, 0], windows.new_zeros(())
        reach = (field.transform(windows[:, -1]) - field.transform(windows[:, 0])).abs() / field.increment.scale
        weight = 1 / (reach.mean(1) + 1e-3)
        for k in range(1, windows.shape[1]):
            x = field.advance(x)
            error = (field.transform(x) - field.transform(windows[:, k])).abs() / field.increment.scale
            total = total + (weight * error.mean(1)).mean()
        return {"rollout": total / (windows.shape[1] - 1)}


class FlowMap(nn.Module):
    """The step of a stiff system over a fixed time, or over a time given with every state.

    Args:
        network: from standardised inputs to standardised increments: a plain one, or one whose increments are accurate
            relative to their size over many decades (see `expert`).
        positive: which columns of the state cannot be negative: they are Box-Cox transformed.
        inputs: standardisation of the transformed state (and of log dt).
        increment: scale of the increments.
        dt: the step, or None where log dt is an input.
        lmbda: of the Box-Cox transform; another `transforms.Transform` instead of a number takes its place.
        general: power of the generalised Box-Cox transform of the increments, or None.
        conserve: the sum of the columns, all positive, stays as it is: a step is scaled to the sum it began with.
    """

    positive: Tensor

    def __init__(
        self,
        network: Dense | Expert,
        positive: Sequence[bool],
        inputs: Standardize,
        increment: Standardize,
        dt: float | None,
        lmbda: float | Transform = 0.1,
        general: float | None = None,
        conserve: bool = False,
    ) -> None:
        super().__init__()
        if conserve and not all(positive):
            raise ValueError("conserve needs columns that cannot be negative, but positive leaves some out")
        self.conserve = conserve
        self.network, self.inputs, self.increment = network, inputs, increment
        self.scale = lmbda if isinstance(lmbda, Transform) else BoxCox(lmbda)
        self.general = None if general is None else GeneralBoxCox(general)
        self.dt = dt
        self.register_buffer("positive", torch.as_tensor(positive, dtype=torch.bool))

    @property
    def dim(self) -> int:
        """Columns of a state."""
        return len(self.positive)

    def transform(self, x: Tensor) -> Tensor:
        """F(x) for states ``(n, d)``."""
        return torch.where(self.positive, self.scale(torch.where(self.positive, x, 1.0)), x)

    def untransform(self, z: Tensor) -> Tensor:
        """The states of F(x)."""
        return torch.where(self.positive, self.scale.inverse(torch.where(self.positive, z, 0.0)).clamp_min(0.0), z)

    def head(self, z: Tensor) -> Tensor:
        """Network output for inputs ``(n, m)`` of the precision of the network."""
        out = self.network(z)
        return out[:, None] if out.ndim == 1 else out

    def advance(self, x: Tensor, dt: float | np.ndarray | Tensor | None = None) -> Tensor:
        """One step of states ``(n, d)`` in float64."""
        z = self.transform(x)
        inputs = self.inputs(z if self.dt is not None else torch.cat([z, self._log(dt, x)], 1))
        label = self.head(inputs.to(next(self.network.parameters()).dtype)).to(x.dtype)
        if self.general is not None:
            label = self.general.inverse(label)
        after = self.untransform(z + self.increment.inverse(label))
        return after * (x.sum(1) / after.sum(1).clamp_min(1e-300))[:, None] if self.conserve else after

    def _log(self, dt: float | np.ndarray | Tensor | None, x: Tensor) -> Tensor:
        return torch.as_tensor(dt, dtype=x.dtype).log().expand(len(x)).reshape(-1, 1)

    def step(self, states: np.ndarray, dt: float | np.ndarray | None = None) -> np.ndarray:
        """States ``(n, d)`` one step later; where the step is an input, dt may be one for each state, ``(n,)``.

        Raises:
            ValueError: if the states do not fit, a positive column is negative, or dt is not the one trained for.
        """
        states = self._checked(states)
        self._check_step(dt, len(states))
        with torch.no_grad():
            return self.advance(torch.as_tensor(states), dt).numpy()

    def rollout(self, states: np.ndarray, steps: int, dt: float | None = None) -> np.ndarray:
        """``(n, steps + 1, d)`` from states ``(n, d)``, initial state first; raises as `step` does."""
        x = torch.as_tensor(self._checked(states))
        self._check_step(dt, len(x))
        out = [x]
        with torch.no_grad():
            for _ in range(steps):
                out.append(self.advance(out[-1], dt))
        return torch.stack(out, 1).numpy()

    def _checked(self, states: np.ndarray) -> np.ndarray:
        states = np.asarray(states, dtype=np.float64)
        if states.ndim != 2 or states.shape[1] != self.dim:
            raise ValueError(f"states has shape {states.shape}, but must have shape (n, {self.dim})")
        if not np.isfinite(states).all() or (states[:, self.positive.numpy()] < 0).any():
            raise ValueError("states holds negative or non-finite numbers in columns that cannot be negative")
        return states

    def _check_step(self, dt: float | np.ndarray | None, count: int) -> None:
        steps = None if dt is None else np.asarray(dt, dtype=np.float64)
        if steps is not None and steps.shape not in ((), (count,)):
            raise ValueError(f"dt has shape {steps.shape}, but must be a number, or one for each of {count} states")
        if self.dt is None and (steps is None or not bool(((steps > 0) & np.isfinite(steps)).all())):
            raise ValueError(f"dt is {dt!r}, but this flow map takes a positive dt with the states")
        if self.dt is not None and steps is not None and np.abs(steps - self.dt).max(initial=0.0) > 1e-9 * self.dt:
            raise ValueError(f"dt is {dt!r}, but this flow map was trained for {self.dt:g} only")

    @classmethod
    def fit(
        cls,
        states: np.ndarray,
        next_states: np.ndarray,
        dt: float | np.ndarray,
        positive: Sequence[bool],
        widths: Sequence[int] = (64, 64),
        stages: Sequence[Stage] = (Adam(3000, lr=2e-3),),
        windows: np.ndarray | None = None,
        tuning: Sequence[Stage] = (),
        batch: int = 1024,
        relative: bool = True,
        lmbda: float | Transform = 0.1,
        general: float | None = None,
        expert: bool = False,
        conserve: bool = False,
        seed: int = 0,
    ) -> tuple[Self, History]:
        """Train on pairs, then on rollouts.

        Args:
            states: ``(n, d)``.
            next_states: ``(n, d)``, one step later.
            dt: the step; an array ``(n,)`` makes log dt an input.
            positive: which columns cannot be negative.
            widths: hidden layers (gelu, float32).
            stages: of the training on pairs.
            windows: ``(m, steps + 1, d)`` consecutive states for the tuning; only for a fixed dt.
            tuning: stages that minimise the error of rollouts over the windows.
            batch: rows per step.
            relative: measure increments relative to each row's own (see `RelativeIncrement`).
            lmbda: of the Box-Cox transform, or another transform instead.
            general: power of the generalised Box-Cox transform of increments, or None.
            expert: give every increment a size and a linear part of its own (see `expert`) instead of a plain network.
            conserve: keep the sum of the columns.
            seed: of initial parameters and batches.

        Raises:
            ValueError: if the shapes differ.
        """
        states, next_states = np.asarray(states, float), np.asarray(next_states, float)
        if states.ndim != 2 or states.shape != next_states.shape or len(positive) != states.shape[1]:
            raise ValueError(
                f"states, next_states and positive have shapes {states.shape}, {next_states.shape} and "
                f"({len(positive)},), but must be (n, d), (n, d) and (d,)"
            )
        fixed = None if np.ndim(dt) else float(dt)
        columns, d = states.shape[1] + (fixed is None), states.shape[1]
        generator = torch.Generator().manual_seed(seed)
        network = (
            Expert.drawn(columns, widths, d, generator)
            if expert
            else Dense(columns, widths, d, gelu, generator=generator, dtype=torch.float32)
        )
        blank = Standardize(torch.zeros(columns, dtype=torch.float64), torch.ones(columns, dtype=torch.float64))
        scale = Standardize(torch.zeros(d, dtype=torch.float64), torch.ones(d, dtype=torch.float64))
        model = cls(network, positive, blank, scale, fixed, lmbda, general, conserve)
        with torch.no_grad():
            z, after = (model.transform(torch.as_tensor(a)) for a in (states, next_states))
            inputs = z if fixed is not None else torch.cat([z, torch.as_tensor(dt).double().log()[:, None]], 1)
            model.inputs = Standardize.fit(inputs)
            model.increment = Standardize.fit(after - z, by="magnitude")
            target = model.increment(after - z)
            target = target if model.general is None else model.general(target)
        objective = RelativeIncrement(model.head, relative, falling=expert and fixed is not None)
        rows = draw_rows((model.inputs(inputs).float(), target.float()), batch)
        history = fit(model, objective, rows, stages, seed=seed, label="increments")
        if tuning and windows is not None and fixed is not None:
            sampled = draw_rows((torch.as_tensor(windows, dtype=torch.float64),), batch)
            history.add(fit(model, _RolloutError(), sampled, tuning, seed=seed + 1, label="rollouts"))
        return model, history

    def save(self, path: str | Path) -> None:
        """Write one HDF5 file, atomically."""
        description = {
            "kind": "flow map",
            "network": self.network.describe(),
            "expert": isinstance(self.network, Expert),
            "conserve": self.conserve,
            "dt": self.dt,
            "scale": [self.scale.kind, self.scale.describe()],
            "general": None if self.general is None else self.general.lmbda,
            "positive": self.positive.tolist(),
        }
        parts = {"network": self.network.arrays(), "inputs": self.inputs.arrays(), "increment": self.increment.arrays()}
        write_h5(path, description, {f"{p}/{k}": v for p, arrays in parts.items() for k, v in arrays.items()})

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """Read what `save` wrote.

        Raises:
            FileNotFoundError: if there is no such file.
            ValueError: if it is not the file of a flow map.
        """
        description, arrays = read_h5(path)
        if description.get("kind") != "flow map":
            raise ValueError(f"{path} holds {description.get('kind')!r}, but load reads the file of a flow map")

        def part(name: str) -> Mapping[str, np.ndarray]:
            return {k.removeprefix(f"{name}/"): v for k, v in arrays.items() if k.startswith(f"{name}/")}

        kind, options = description["scale"]
        return cls(
            (Expert if description.get("expert") else Dense).restore(description["network"], part("network")),
            description["positive"],
            Standardize.restore({}, part("inputs")),
            Standardize.restore({}, part("increment")),
            description["dt"],
            _SCALES[kind](**options),
            description["general"],
            description.get("conserve", False),
        )


_SCALES: Mapping[str, type[Transform]] = {scale.kind: scale for scale in (BoxCox, Identity, Log)}
