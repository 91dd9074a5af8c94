"""What is prescribed at the edge of a domain or inside it: boundary, initial, periodic conditions and data.

A condition says what is known and where (``on``: the label of a boundary piece, a predicate ``x -> (n,) bool``, or None
for everything that no earlier condition has taken). How strongly a solver enforces it is the solver's business.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

Value = float | Callable[[Tensor], Tensor]
Where = str | Callable[[Tensor], Tensor] | None

__all__ = [
    "Condition",
    "Data",
    "Dirichlet",
    "Initial",
    "InvalidFunction",
    "Neumann",
    "Periodic",
    "Relation",
    "Robin",
    "Value",
    "Where",
    "evaluate",
]


class InvalidFunction(ValueError):
    """A function of a user's fails, or gives what it must not; a function that calls it passes this on as it is."""


def evaluate(name: str, value: Value, x: Tensor) -> Tensor:
    """Values of a number or callable at points ``x (n, d)``, checked: shape ``(n,)`` and finite.

    Raises:
        ValueError: for another shape, NaN or infinity, or where the callable fails; the message calls the value `name`.
    """
    if isinstance(value, (int, float)):
        return torch.full((len(x),), float(value), dtype=x.dtype, device=x.device)
    try:
        found = value(x)
    except InvalidFunction:
        raise
    except (TypeError, ValueError, IndexError, AttributeError, RuntimeError) as error:
        raise InvalidFunction(
            f"{name} fails at points of shape {tuple(x.shape)}: {error}; "
            "it must be a function of one torch tensor (n, d), made of torch functions"
        ) from error
    given = check_values(name, found, x)
    if not bool(given.isfinite().all()):
        bad = [round(b, 6) for b in x[~given.isfinite()][0].tolist()]
        raise InvalidFunction(f"{name} is not finite at the point {bad}; finite values are needed there")
    return given


def check_values(name: str, given: Any, x: Tensor) -> Tensor:
    """What a callable gave at points ``x (n, d)``, as a tensor ``(n,)``; a number stands for all points.

    Raises:
        ValueError: for another shape.
    """
    if not isinstance(given, Tensor):
        try:
            given = torch.as_tensor(given, device=x.device)
        except (TypeError, ValueError, RuntimeError) as error:
            kind = type(given).__name__
            raise InvalidFunction(
                f"{name} gave a {kind} at points of shape {tuple(x.shape)}, but must give (n,)"
            ) from error
    if given.is_complex():
        raise InvalidFunction(
            f"{name} gave complex values, but must be real: state real and imaginary part as two unknowns"
        )
    if given.ndim == 0:
        given = given.expand(len(x))
    if tuple(given.shape) != (len(x),):
        shapes = f"{tuple(given.shape)} at points of shape {tuple(x.shape)}"
        raise InvalidFunction(f"{name} gave shape {shapes}, but must give one value per point, ({len(x)},)")
    return given.to(x.dtype)


def check_value(name: str, value: Any) -> None:
    """Refuse what is neither a finite number nor callable."""
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        if value != value or abs(value) == float("inf"):
            raise ValueError(f"{name} is {value}, but must be a finite number or a callable of the points (n, d)")
    elif not callable(value):
        raise TypeError(f"{name} is {value!r}, but must be a finite number or a callable of the points (n, d)")


def _check_component(name: str, component: Any) -> None:
    if not (isinstance(component, int) and component >= 0):
        raise ValueError(f"{name} component is {component!r}, but must be a whole number >= 0")


@dataclass(frozen=True)
class Condition:
    """Common face of everything that is prescribed on the boundary."""

    @property
    def name(self) -> str:
        """The condition's name in tables of loss terms."""
        return type(self).__name__.lower()


@dataclass(frozen=True)
class Dirichlet(Condition):
    """u = value; `component` says of which unknown of a system."""

    value: Value = 0.0
    on: Where = None
    component: int = 0

    def __post_init__(self) -> None:
        """Check the value."""
        check_value("Dirichlet value", self.value)
        _check_component("Dirichlet", self.component)

    def at(self, x: Tensor) -> Tensor:
        """Prescribed values ``(n,)`` at boundary points."""
        return evaluate("Dirichlet value", self.value, x)


@dataclass(frozen=True)
class Neumann(Condition):
    """du/dn = flux along the outward normal; for `Elliptic` the conormal a |grad u|^(p-2) du/dn = flux."""

    flux: Value = 0.0
    on: Where = None
    component: int = 0

    def __post_init__(self) -> None:
        """Check the flux."""
        check_value("Neumann flux", self.flux)
        _check_component("Neumann", self.component)

    def at(self, x: Tensor) -> Tensor:
        """Prescribed flux ``(n,)`` at boundary points."""
        return evaluate("Neumann flux", self.flux, x)


@dataclass(frozen=True)
class Robin(Condition):
    """du/dn + coefficient u = value; for `Elliptic` the conormal a |grad u|^(p-2) du/dn + coefficient u = value."""

    coefficient: Value = 1.0
    value: Value = 0.0
    on: Where = None
    component: int = 0

    def __post_init__(self) -> None:
        """Check coefficient and value."""
        check_value("Robin coefficient", self.coefficient)
        check_value("Robin value", self.value)
        _check_component("Robin", self.component)

    def at(self, x: Tensor) -> Tensor:
        """Prescribed right-hand side ``(n,)``."""
        return evaluate("Robin value", self.value, x)

    def coefficient_at(self, x: Tensor) -> Tensor:
        """The factor of u ``(n,)``."""
        return evaluate("Robin coefficient", self.coefficient, x)


@dataclass(frozen=True)
class Periodic(Condition):
    """u and its normal derivative agree on opposite sides of a box along `axis` (a coordinate's letter or index)."""

    axis: str | int = 0


@dataclass(frozen=True)
class Initial(Condition):
    """u = value at the initial time; inside a `PDE` the callable sees full points, inside an `Evolution` space only."""

    value: Value = 0.0
    component: int = 0

    def __post_init__(self) -> None:
        """Check the value."""
        check_value("Initial value", self.value)
        _check_component("Initial", self.component)

    def at(self, x: Tensor) -> Tensor:
        """Prescribed values ``(n,)`` on the initial face."""
        return evaluate("Initial value", self.value, x)


@dataclass(frozen=True)
class Relation(Condition):
    """residual(x, u) = 0 on a part of the boundary, beside whatever else holds there; for a `PDE`.

    What the other conditions cannot say: an initial velocity ``Relation(lambda x, u: u.t - v(x), on="t-")``, an edge
    without a moment ``Relation(lambda x, u: u.xx, on="x+")``, radiation ``Relation(lambda x, u: u.x + u**4 - 1)``.

    Attributes:
        residual: ``(x, u) -> (n,)`` as that of a `PDE`.
        on: see above.
    """

    residual: Callable[[Tensor, Any], Any]
    on: Where = None

    def __post_init__(self) -> None:
        """Check the residual."""
        if not callable(self.residual):
            raise TypeError(f"Relation residual is {self.residual!r}, but must be a callable (x, u) -> (n,)")


@dataclass(frozen=True)
class Data(Condition):
    """Measured values of u at points inside the domain: what an inverse problem is fitted to.

    Attributes:
        points: ``(k, d)`` tensor or array.
        values: ``(k,)`` tensor or array.
        component: of which unknown of a system.
    """

    points: Tensor = field(default_factory=lambda: torch.empty(0, 1))
    values: Tensor = field(default_factory=lambda: torch.empty(0))
    component: int = 0

    def __post_init__(self) -> None:
        """Convert arrays and check shapes."""
        points = torch.as_tensor(self.points, dtype=torch.float64)
        values = torch.as_tensor(self.values, dtype=torch.float64)
        if points.ndim != 2 or len(points) == 0 or values.shape != points.shape[:1]:
            given = f"points {tuple(points.shape)} and values {tuple(values.shape)}"
            raise ValueError(f"Data has {given}, but needs points (k, d) and values (k,) with k >= 1")
        if not bool(points.isfinite().all() & values.isfinite().all()):
            raise ValueError("Data has points or values that are NaN or infinite; drop those rows")
        object.__setattr__(self, "points", points)
        object.__setattr__(self, "values", values)
