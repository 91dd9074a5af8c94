"""What a part of a mechanism gets wrong: `Evaluation` measures masks, `error_table` reports them.

A mask that does not ignite, fails or raises has infinite errors; no mask raises. Metrics run in the order given, the
cheapest first, and the first that is plainly out of tolerance ends the evaluation: the later errors are NaN.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, replace
from functools import cached_property
from typing import Any

import numpy as np

from sciml.chemistry.conditions import Conditions
from sciml.chemistry.mechanism import CanteraError, Mechanism
from sciml.chemistry.metrics import Burnt, Corners, FlameSpeed, IgnitionDelay, Metric
from sciml.chemistry.submechanism import Parts

__all__ = ["Assembled", "Evaluation", "error_table", "protected"]


class Assembled(Mechanism):
    """A mechanism around a gas that exists already, without reading any text."""

    def __init__(self, gas: Any) -> None:
        self._made = gas
        self.source, self._text = "a part of a mechanism", None
        self._open(None, None)

    def _solution(self) -> Any:
        return self._made

    def __reduce__(self) -> tuple[Any, ...]:
        return Mechanism.from_yaml, (self.to_yaml(),)


def protected(mechanism: Mechanism, conditions: Conditions, also: Sequence[str] = ()) -> tuple[str, ...]:
    """Species that are always kept: those of fuel and oxidiser (the inert too), and the named ones.

    Raises:
        ValueError: for a species that the mechanism does not have.
    """
    mixtures = (mechanism.mixture(conditions.fuel), mechanism.mixture(conditions.oxidiser))
    inside = [part.split(":")[0].strip() for mixture in mixtures for part in mixture.split(",")]
    named = [mechanism.species[mechanism.index(name)] for name in also]
    return tuple(dict.fromkeys([*inside, *named]))


class Evaluation:
    """Mask of species or reactions -> (size, signed errors in units of their tolerances).

    Args:
        mechanism: the parent.
        conditions: where it is compared.
        metrics: cheapest first.
        reject: an error beyond so many tolerances ends the evaluation; errors below it still teach a network.
        species: (s,) boolean; None lets a design choose species, else it chooses among the reactions of these species.

    Attributes:
        started: the metrics as masks are measured by them: flames start from the parent's.

    Raises:
        ValueError: if the parent itself fails in a metric, or a tolerance lies below its solver's noise.
    """

    def __init__(
        self,
        mechanism: Mechanism,
        conditions: Conditions,
        metrics: Sequence[Metric] = (Burnt(), IgnitionDelay()),
        reject: float = 3.0,
        species: np.ndarray | None = None,
    ) -> None:
        if reject < 1:
            raise ValueError(f"reject is {reject}, but must be at least 1 tolerance, or good masks would be rejected")
        self.mechanism, self.conditions, self.metrics = mechanism, conditions, tuple(metrics)
        self.reject, self.species = reject, species
        conditions.states(mechanism)  # refuses a fuel or a state that the mechanism does not have
        self.started: list[Metric] = [
            m.started(mechanism, conditions) if isinstance(m, Corners | FlameSpeed) else m for m in self.metrics
        ]
        self.reference = [m.measure(mechanism, conditions, None) for m in self.started]
        for metric, values in zip(self.started, self.reference, strict=True):
            bad = np.flatnonzero(~np.isfinite(values))
            if len(bad):
                what = metric.labels(conditions)[bad[0]]
                raise ValueError(f"the full mechanism itself has no {what}, so nothing can be compared there")
        self._check_noise()

    def _check_noise(self) -> None:
        for metric, values in zip(self.metrics, self.reference, strict=True):
            if isinstance(metric, IgnitionDelay):
                tight = replace(metric, rtol=metric.rtol * 1e-3, atol=metric.atol * 1e-3)
                noise = np.abs(metric.errors(tight.measure(self.mechanism, self.conditions, None), values)).max()
                if noise > 0.2:
                    raise ValueError(
                        f"tolerance of {metric.name} is {metric.tolerance:g}, but the solver's own noise in the full"
                        f" mechanism is {noise * metric.tolerance:.1e}; use a larger tolerance or a smaller rtol"
                    )
        if self.species is not None:
            return
        whole = np.nan_to_num(np.abs(self(np.ones(self.dim))[1]), posinf=np.inf)  # those after a large one are NaN
        if whole.max(initial=0.0) > 0.2:
            where = int(whole.argmax())
            raise ValueError(
                f"the full mechanism, measured twice, differs by {whole[where]:.1e} tolerances in {self.labels[where]};"
                " use a larger tolerance"
            )

    def __getstate__(self) -> dict[str, Any]:
        return {k: v for k, v in self.__dict__.items() if k != "parts"}

    @cached_property
    def parts(self) -> Parts:
        """Read once in each process."""
        return Parts(self.mechanism)

    @property
    def dim(self) -> int:
        """Length of a design: species, or reactions present."""
        return self.mechanism.n_species if self.species is None else int(self.present.sum())

    @cached_property
    def present(self) -> np.ndarray:
        """(r,) boolean: the parent's reactions among which a design chooses, those of the species kept."""
        return self.parts.kept(np.ones(self.mechanism.n_species, bool) if self.species is None else self.species)

    @property
    def size(self) -> int:
        """Number of errors k."""
        return sum(map(len, self.reference))

    @property
    def labels(self) -> list[str]:
        """(k,) what each error is of."""
        return [label for m in self.started for label in m.labels(self.conditions)]

    @property
    def fingerprint(self) -> str:
        """Changes with the mechanism, the conditions, the metrics and the species that reactions are chosen among."""
        chosen = None if self.species is None else np.flatnonzero(self.species).tolist()
        content = [
            self.mechanism.hash,
            asdict(self.conditions),
            [[type(m).__name__, asdict(m)] for m in self.metrics],  # type: ignore[call-overload]
            self.reject,
            chosen,
        ]
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()

    def masks(self, design: np.ndarray) -> tuple[np.ndarray, np.ndarray | None]:
        """Boolean masks of species (s,) and of the parent's reactions (r,), None for all."""
        design = np.asarray(design) > 0.5
        if self.species is None:
            return design, None
        reactions = self.present.copy()
        reactions[self.present] = design
        return self.species, reactions

    def __call__(self, design: np.ndarray) -> tuple[float, np.ndarray]:
        """Size of the design and its errors (k,)."""
        return float(np.sum(np.asarray(design) > 0.5)), np.concatenate(self._errors(design))

    def _errors(self, design: np.ndarray) -> list[np.ndarray]:
        species, reactions = self.masks(design)
        try:
            reduced: Mechanism | None = Assembled(self.parts.assemble(species, reactions))
        except (CanteraError, ValueError):
            reduced = None  # nothing left that reacts
        found: list[np.ndarray] = []
        for metric, reference in zip(self.started, self.reference, strict=True):
            if found and np.nanmax(np.abs(found[-1]), initial=0.0) > self.reject:
                found += [np.full(len(r), np.nan) for r in self.reference[len(found) :]]
                break
            found.append(_errors(metric, reduced, self.conditions, reference))
        return found


def _errors(metric: Metric, reduced: Mechanism | None, conditions: Conditions, reference: np.ndarray) -> np.ndarray:
    """(m,) signed errors of what is left of a mechanism; infinite if nothing is, or if it cannot be measured."""
    failed = np.full(len(reference), np.inf)
    if reduced is None:
        return failed
    try:
        return metric.errors(metric.measure(reduced, conditions, reference), reference)
    except (CanteraError, ValueError, RuntimeError, ArithmeticError):
        return failed


def error_table(
    mechanism: Mechanism, reduced: Mechanism, conditions: Conditions, metrics: Sequence[Metric]
) -> list[dict[str, Any]]:
    """Mean, largest and signed mean error of each metric, over the conditions at which the parent has a value.

    Ignition delays are integrated at rtol 1e-9, atol 1e-15. The definition is the metric's: (x - x_0) / x_0 for delays,
    stirred reactors and flames, a difference for burnt temperature (K) and mole fractions. Errors are in these units.

    Returns:
        Rows with metric, definition, mean, max, signed mean, the number of conditions, and where the largest error is.
    """
    rows = []
    for metric in metrics:
        if isinstance(metric, IgnitionDelay):
            metric = replace(metric, rtol=1e-9, atol=1e-15)
        elif isinstance(metric, Corners):
            metric = replace(metric, metric=replace(metric.metric, rtol=1e-9, atol=1e-15))
        reference = metric.measure(mechanism, conditions, None)
        errors = _errors(metric, reduced, conditions, reference)
        errors = np.nan_to_num(errors, nan=np.inf, posinf=np.inf)  # not measured once one has failed
        labels = np.array(metric.labels(conditions))
        groups = {metric.name: (np.ones(len(errors), bool), getattr(metric, "tolerance", 1.0))}
        if isinstance(metric, Burnt):
            n = len(errors) // (1 + len(metric.products))
            hot = np.arange(len(errors)) < n
            groups = {"burnt temperature (K)": (hot, metric.kelvin), "burnt mole fractions": (~hot, metric.fraction)}
        for name, (chosen, scale) in groups.items():
            there = chosen & np.isfinite(reference)
            if not there.any():
                continue
            found = errors[there] * scale
            worst = int(np.abs(found).argmax())
            rows.append(
                {
                    "metric": name,
                    "definition": metric.definition,
                    "mean": float(np.abs(found).mean()),
                    "max": float(np.abs(found).max()),
                    "signed mean": float(found.mean()),
                    "conditions": int(there.sum()),
                    "tolerance": scale,
                    "worst at": str(labels[there][worst]),
                }
            )
    return rows
