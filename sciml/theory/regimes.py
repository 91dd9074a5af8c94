"""Kernel-like or condensed: in which regime a network trains.

For f = 1 / alpha sum_k a_k sigma(w_k . x), a ~ N(0, beta1^2), w ~ N(0, beta2^2 I), width m, the coordinates are

    kappa = beta1 beta2 / alpha,  kappa' = beta1 / beta2,    gamma = -log kappa / log m,  gamma' = -log kappa' / log m

in the limit m -> infinity (arXiv:2007.07497). Training is linear (parameters hardly move, RD -> 0) for gamma < 1 or
gamma' > gamma - 1, condensed (RD -> infinity) for gamma > 1 and gamma' < gamma - 1, critical in between, where
RD = |theta_w(end) - theta_w(0)| / |theta_w(0)|; `sciml.theory.sweep` tells them apart by experiment.
Deeper networks have one pair of coordinates per two consecutive layers (arXiv:2205.12101), which is heuristic.

The one knob is ``init_rate`` of `sciml.networks`: standard deviation fan_in^-gamma.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn

from sciml.theory.chains import neurons
from sciml.theory.diagnostic import Diagnostic, Record, Schedule, State
from sciml.theory.functional import Parameters, at, parameters_of

__all__ = [
    "Coordinates",
    "LayerCoordinates",
    "Linearisation",
    "RelativeDistance",
    "Scaling",
    "e_et_al",
    "he_scaling",
    "initial_regime",
    "lecun_scaling",
    "mean_field",
    "ntk_scaling",
    "xavier_scaling",
]

Scale = Callable[[float, float], float]


class Coordinates(NamedTuple):
    """A place in the phase diagram."""

    gamma: float
    gamma_prime: float

    @property
    def regime(self) -> str:
        """One of "linear", "condensed" or "critical" (to 1e-9)."""
        distance = max(1.0, 1.0 + self.gamma_prime) - self.gamma  # the critical line is gamma = 1, or gamma' + 1
        return "critical" if abs(distance) < 1e-9 else "linear" if distance > 0 else "condensed"


@dataclass(frozen=True)
class Scaling:
    """How alpha, beta1 and beta2 depend on the width m and the input dimension d: functions of (m, d).

    >>> xavier_scaling.coordinates()
    Coordinates(gamma=1.0, gamma_prime=0.0)
    """

    alpha: Scale
    beta1: Scale
    beta2: Scale

    def coordinates(self, d: float = 1.0) -> Coordinates:
        """Gamma and gamma' for m -> infinity: slopes between two widths so large that constants are gone."""
        wide, wider = 1e60, 1e120

        def slope(value: Callable[[float], float]) -> float:
            return -(math.log(value(wider)) - math.log(value(wide))) / (math.log(wider) - math.log(wide))

        gamma = slope(lambda m: self.beta1(m, d) * self.beta2(m, d) / self.alpha(m, d))
        prime = slope(lambda m: self.beta1(m, d) / self.beta2(m, d))
        return Coordinates(round(gamma, 12) + 0.0, round(prime, 12) + 0.0)


def _one(m: float, d: float) -> float:
    return 1.0


lecun_scaling = Scaling(_one, lambda m, d: m**-0.5, lambda m, d: d**-0.5)
he_scaling = Scaling(_one, lambda m, d: (2 / m) ** 0.5, lambda m, d: (2 / d) ** 0.5)
xavier_scaling = Scaling(_one, lambda m, d: (2 / (m + 1)) ** 0.5, lambda m, d: (2 / (m + d)) ** 0.5)
ntk_scaling = Scaling(lambda m, d: m**0.5, _one, _one)
mean_field = Scaling(lambda m, d: m, _one, _one)


def e_et_al(beta: Scale) -> Scaling:
    """A ~ N(0, beta(m, d)^2), w of order one: gamma = gamma' = lim log(1 / beta) / log m."""
    return Scaling(_one, beta, _one)


@dataclass(frozen=True)
class LayerCoordinates:
    """Measured coordinates of two consecutive layers at a finite width.

    Attributes:
        layers: their names.
        width: of the layer between them.
        coordinates: from the standard deviations beta1 (outgoing weights) and beta2 (incoming), alpha = 1.
        deviations: (beta1, beta2).
    """

    layers: tuple[str, str]
    width: int
    coordinates: Coordinates
    deviations: tuple[float, float]


def initial_regime(network: nn.Module) -> list[LayerCoordinates]:
    """Gamma and gamma' of any network's weights as they are now, per two consecutive layers.

    At width m the constants in the deviations shift gamma by about 1 / log m, so judge trends over widths, or
    `Scaling`, rather than one number; with more than two layers the coordinates are heuristic. A factor 1 / alpha that
    a network applies in its forward method is not seen.

    Raises:
        ValueError: if there are no two consecutive layers of linear neurons, or a layer is constant.
    """
    found = list(neurons(network).items())
    stacked = any("[" in name for name, _ in found)
    pairs = [(a, b) for a in found for b in found if _follows(a, b, stacked)]
    if not pairs:
        raise ValueError(
            f"{type(network).__name__} has no two consecutive layers of linear neurons, which gamma is about"
        )
    result = []
    for (name, rows), (after, outgoing) in pairs:
        m = len(rows)
        if m < 2:
            raise ValueError(f"layer {name or '0'} has one neuron, but gamma is about widths of at least 2")
        inner, outer = float(rows.std()), float(outgoing[:, :m].std(correction=int(outgoing[:, :m].numel() > 1)))
        if inner == 0 or outer == 0:
            raise ValueError(f"the weights of layer {name if inner == 0 else after} do not vary, so gamma is infinite")
        log = math.log(m)
        place = Coordinates(-math.log(inner * outer) / log, -math.log(outer / inner) / log)
        result.append(LayerCoordinates((name, after), m, place, (outer, inner)))
    return result


def _follows(a: tuple[str, Tensor], b: tuple[str, Tensor], stacked: bool) -> bool:
    """Whether b is the layer after a: the next of the same subnetwork, with as many inputs as a has rows."""
    if stacked:
        head, _, part = a[0].partition("[")
        other, _, other_part = b[0].partition("[")
        stem, _, number = head.rpartition(".")
        if part != other_part or other != f"{stem}.{int(number) + 1}":
            return False
    else:
        stem, _, number = a[0].rpartition(".")
        other_stem, _, other_number = b[0].rpartition(".")
        if stem != other_stem or not (number.isdigit() and other_number.isdigit()):
            return stem == other_stem and number < other_number and b[1].shape[1] in (len(a[1]), len(a[1]) + 1)
        if not 0 < int(other_number) - int(number) <= 3:  # an activation and a dropout may stand between
            return False
    return b[1].shape[1] in (len(a[1]), len(a[1]) + 1)


class _SinceStart(Diagnostic):
    """A diagnostic that compares with earlier parameters."""

    def __init__(self, start: nn.Module | None, schedule: Schedule | None) -> None:
        super().__init__(schedule)
        self.start: Parameters | None = None
        self.given = start is not None
        if start is not None:
            self.start = {k: v.clone() for k, v in parameters_of(start).items()}

    def _from(self, state: State) -> Parameters:
        now = parameters_of(state.module)
        shapes = {k: v.shape for k, v in now.items()}
        same = self.start is not None and {k: v.shape for k, v in self.start.items()} == shapes
        if not same and self.given:
            raise ValueError(
                "the network has other parameters than the one given as start, so a distance between them means nothing"
            )
        if not same:  # the first measurement, or the first after a stage that let the network grow
            self.start = {k: v.clone() for k, v in now.items()}
        return now


class RelativeDistance(_SinceStart):
    """RD = |theta(t) - theta(0)| / |theta(0)|, of each layer (weights and bias together) and of all as "all".

    Small at the end of training: kernel-like. Above one: features were learned.

    Args:
        start: the network at the start (a copy is taken); None takes the parameters at the first measurement, which as
            a callback are those after the first step, and begins anew where the network grows.
        schedule: see `Diagnostic`.
    """

    name = "relative_distance"

    def __init__(self, start: nn.Module | None = None, schedule: Schedule | None = None) -> None:
        super().__init__(start, schedule)

    def observe(self, state: State) -> Record:
        """Distances by layer."""
        now, groups = self._from(state), dict[str, tuple[float, float]]()
        assert self.start is not None
        for name, first in self.start.items():
            layer = _layer(name, self.start)
            moved, size = groups.get(layer, (0.0, 0.0))
            gap = float((now[name] - first).double().square().sum())
            groups[layer] = moved + gap, size + float(first.double().square().sum())
        total = tuple(map(sum, zip(*groups.values(), strict=True)))
        return {k: math.sqrt(a / b) if b > 0 else math.inf for k, (a, b) in {**groups, "all": total}.items()}


def _layer(name: str, parameters: Parameters) -> str:
    """The layer that a parameter belongs to; of lists of weights and biases, that of the weight."""
    stem, _, last = name.rpartition(".")
    if not last.isdigit():
        return stem or name
    if not stem.endswith("biases"):
        return name
    weights = stem.removesuffix("biases") + "weights"
    missing = sum(k.startswith(f"{weights}.") for k in parameters) - sum(k.startswith(f"{stem}.") for k in parameters)
    return f"{weights}.{int(last) + max(missing, 0)}"  # a layer of Fourier features has no bias


class Linearisation(_SinceStart):
    """How far the network is from its linearisation at the starting parameters: |u - u_lin| / |u| at points.

    u_lin(x) = u(x; theta_0) + d u / d theta (x; theta_0) (theta - theta_0), by one forward-mode product. Small during
    all of training: the kernel predicts it.

    Args:
        points: ``(n, d)``.
        start: see `RelativeDistance`.
        schedule: see `Diagnostic`.
    """

    name = "linearisation"

    def __init__(self, points: Tensor, start: nn.Module | None = None, schedule: Schedule | None = None) -> None:
        super().__init__(start, schedule)
        self.points = points

    def observe(self, state: State) -> Record:
        """The relative error of the linearisation."""
        now = self._from(state)
        assert self.start is not None
        x = self.points.to(next(iter(now.values())))
        step = {k: now[k] - self.start[k] for k in now}
        value, along, *_ = torch.func.jvp(lambda p: at(state.module, p)(x), (self.start,), (step,))
        with torch.no_grad():
            u = state.module(x)
        size = float(u.norm())
        return {"error": float((u - value - along).norm()) / size if size > 0 else math.inf}
