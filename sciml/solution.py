"""A Solution is a function of points, with the record of how it was made; `compare` measures how far two functions are.

Whatever made it (a network, a grid, a finite-element mesh, a Green's operator), a `Solution` is called the same way, so
any two can be compared. A file of a Solution stores arrays and a description, never code; the closed table `_FIELDS`
says which class restores each stored kind.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, replace
from importlib import import_module
from pathlib import Path
from typing import Any, overload

import numpy as np
import torch
from torch import Tensor, nn

from sciml.files import read_h5, write_h5

__all__ = ["Solution", "check_tolerance", "compare", "load"]

# kind in the file -> class that restores it; strings, because solvers stand above this room
_FIELDS = {
    "dense": "sciml.networks:Dense",
    "mscale": "sciml.networks:Mscale",
    "hard": "sciml.hard:Hard",
    "hard box": "sciml.solvers.hardbox:HardBox",
    "grid": "sciml.solvers.gridfield:GridField",
    "mesh": "sciml.solvers.meshfield:MeshField",
    "panels": "sciml.solvers.panels:PanelField",
    "features": "sciml.solvers.featurefield:FeatureField",
    "patches": "sciml.solvers.patchfield:PatchField",
    "stages": "sciml.solvers.transient:StageField",
    "slabs": "sciml.solvers.patchfield:SlabField",
    "integral": "sciml.solvers.integral:IntegralNetwork",
    "semigroup": "sciml.solvers.semigroup:SemigroupField",
    "potential": "sciml.solvers.singular_kernel:PotentialField",
}
_OPERATOR = "sciml.solvers.operator:Operator"  # what a file of kind "operator" restores
_HISTORY = "sciml.training:History"
_CHUNK = 16384  # points per evaluation: bounds the memory of wide networks


def _resolve(place: str) -> Any:
    module, name = place.split(":")
    return getattr(import_module(module), name)


@dataclass(eq=False)
class Solution:
    """What a solver returns: a function of points ``(n, d)`` and how it came about.

    Calling it with a float64 numpy array gives numpy, with a tensor gives a tensor that is differentiable with respect
    to the points; ``(n,)`` for a scalar unknown, ``(n, m)`` for m of them.

    Attributes:
        field: the function on tensors.
        problem: what was solved; not stored in files.
        history: of the training, with ``steps`` and ``records``; None for a direct solver.
        seconds: wall time of the solve.
        status: one sentence on how it ended; begins with "diverged" if it did.
        parameters: of an inverse problem: name -> (value, standard error).
        error_estimate: relative L2 error that the solver itself expects, if it has an estimate.
        cost: other numbers, such as the count of trainable parameters.
        dim: number of columns of the points; taken from the problem or the field where they tell.
    """

    field: Callable[[Tensor], Tensor]
    problem: Any = None
    history: Any = None
    seconds: float = 0.0
    status: str = ""
    parameters: Mapping[str, Any] | None = None
    error_estimate: float | None = None
    cost: Mapping[str, Any] | None = None
    dim: int | None = None

    def __post_init__(self) -> None:
        """Find the dimension."""
        if self.dim is None and self.problem is not None:
            self.dim = self.problem.domain.dim
        if self.dim is None:
            self.dim = getattr(self.field, "dim", getattr(self.field, "inputs", None))

    @overload
    def __call__(self, points: np.ndarray) -> np.ndarray: ...

    @overload
    def __call__(self, points: Tensor) -> Tensor: ...

    def __call__(self, points: np.ndarray | Tensor) -> np.ndarray | Tensor:
        """Values at points ``(n, d)``.

        Raises:
            ValueError: if the points have another shape.
            TypeError: if they are neither an array nor a tensor.
        """
        if isinstance(points, Tensor):
            self._check(points)
            return self._values(points)
        if not isinstance(points, np.ndarray):
            raise TypeError(
                f"points is a {type(points).__name__}, but must be a numpy array or a tensor of shape (n, d)"
            )
        self._check(points)
        return _evaluate(self._values, torch.as_tensor(points, dtype=torch.float64), "the solution").numpy()

    def _check(self, points: np.ndarray | Tensor) -> None:
        if isinstance(points, Tensor) and not points.is_floating_point():
            raise TypeError(
                f"points has the type {points.dtype}, but must be of a floating-point type: points.double()"
            )
        if points.ndim != 2 or self.dim not in (None, points.shape[1]):
            wanted = "(n, d)" if self.dim is None else f"(n, {self.dim})"
            raise ValueError(f"points has shape {tuple(points.shape)}, but must have shape {wanted}")

    def _values(self, points: Tensor) -> Tensor:
        if not isinstance(self.field, nn.Module):
            return self.field(points)
        # a finished solution is a function of points alone: its parameters take no part in differentiation
        constants = {k: v.detach() for k, v in self.field.named_parameters()}
        like = next(iter(constants.values()), points)
        values = torch.func.functional_call(self.field, constants, (points.to(like.device, like.dtype),))
        return values.to(points.device, points.dtype)

    @property
    def taylor(self) -> Callable[[Any], Any]:
        """The field's own propagation of derivatives, which `jet` uses; only there if the field has one."""
        inner = self.field.taylor  # type: ignore[attr-defined]
        like = next(self.field.parameters(), None) if isinstance(self.field, nn.Module) else None

        def cast(t: Any, dtype: torch.dtype, device: torch.device) -> Any:
            parts = {f.name: getattr(t, f.name) for f in fields(t)}
            return replace(t, **{k: v.to(device, dtype) for k, v in parts.items() if isinstance(v, Tensor)})

        def outer(t: Any) -> Any:
            if like is None:
                return inner(t)
            x = t.value
            return cast(inner(cast(t, like.dtype, like.device)), x.dtype, x.device)

        return outer

    @property
    def savable(self) -> bool:
        """Whether `save` knows the kind of the field: a network of the user's own class is not stored."""
        inner = getattr(self.field, "network", self.field)  # what a boundary factor is wrapped around
        return _kind_of(self.field) is not None and _kind_of(inner) is not None

    def save(self, path: str | Path) -> None:
        """Write everything but the problem to one HDF5 file, atomically.

        Raises:
            TypeError: if the field is of a kind that files do not store.
            OSError: if the folder cannot be written.
        """
        kind = _kind_of(self.field)
        if not self.savable:
            name = type(getattr(self.field, "network", self.field)).__name__
            raise TypeError(f"field is a {name}, which files do not store; they store {', '.join(sorted(_FIELDS))}")
        inner: Any = self.field
        arrays = inner.arrays() if hasattr(inner, "arrays") else _state(inner)
        history = self.history if self.history is None or isinstance(self.history, Mapping) else vars(self.history)
        description = {
            "kind": "solution",
            "field": kind,
            "describe": inner.describe(),
            "dim": self.dim,
            "history": history,
            "trained": history is not self.history,
            "seconds": self.seconds,
            "status": self.status,
            "parameters": self.parameters,
            "error_estimate": self.error_estimate,
            "cost": self.cost,
        }
        write_h5(path, description, arrays)


def _kind_of(inner: Any) -> str | None:
    place = f"{type(inner).__module__}:{type(inner).__qualname__}"
    return next((kind for kind, where in _FIELDS.items() if where == place), None)


def _state(module: nn.Module) -> dict[str, np.ndarray]:
    return {k: v.detach().cpu().numpy() for k, v in module.state_dict().items()}


def load(path: str | Path, problem: Any = None) -> Any:
    """Read a Solution, or an Operator, that was saved.

    Args:
        path: the file.
        problem: what was solved; needed if the solution builds in a user's own boundary function, which no file holds.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it is not the file of a Solution or an Operator.
    """
    description, arrays = read_h5(path)
    if description.get("kind") == "operator":
        return _resolve(_OPERATOR).restore(description, arrays, problem=problem)
    if description.get("kind") != "solution":
        raise ValueError(f"{path} holds {description.get('kind')!r}, but load reads the file of a Solution")
    if description["field"] not in _FIELDS:
        known = ", ".join(sorted(_FIELDS))
        raise ValueError(f"{path} holds a field of kind {description['field']!r}, but this sciml knows {known}")
    restore = _resolve(_FIELDS[description["field"]]).restore
    inner = restore(description["describe"], arrays, problem=problem)
    history, parameters = description["history"], description["parameters"]
    return Solution(
        inner,
        problem,
        _resolve(_HISTORY)(**history) if description["trained"] else history,
        description["seconds"],
        description["status"],
        None if parameters is None else {k: tuple(v) if isinstance(v, list) else v for k, v in parameters.items()},
        description["error_estimate"],
        description["cost"],
        description["dim"],
    )


def _evaluate(function: Callable[[Tensor], Tensor], points: Tensor, name: str) -> Tensor:
    """Values in float64 on the CPU, in chunks and without a graph."""
    parts = []
    with torch.no_grad():
        for chunk in points.split(_CHUNK):
            values = torch.as_tensor(function(chunk))
            if values.ndim not in (1, 2) or len(values) != len(chunk):
                shape = tuple(values.shape)
                raise ValueError(f"{name} gave shape {shape} at {len(chunk)} points, but must give (n,) or (n, m)")
            parts.append(values.to("cpu", torch.float64))
    return torch.cat(parts)


def check_tolerance(tolerance: Any) -> None:
    """Refuse what no relative L2 error in double precision can be."""
    if isinstance(tolerance, bool) or not (isinstance(tolerance, (int, float)) and 1e-14 <= tolerance < 1):
        raise ValueError(
            f"tolerance is {tolerance!r}, but float64 can give 1e-14 at best, and it must be a number below 1"
        )


def compare(
    a: Callable[[Tensor], Tensor],
    b: Callable[[Tensor], Tensor],
    where: Any,
    n: int = 20000,
    seed: int = 0,
) -> dict[str, float]:
    """The distance of two functions: how far `a` is from the reference `b`.

    Args:
        a: a Solution, or any callable from float64 tensors ``(n, d)`` to ``(n,)`` or ``(n, m)``.
        b: the reference, of either sort.
        where: a Domain (`n` uniform points inside it), or points ``(n, d)`` as an array or tensor.
        n: number of points drawn in a domain.
        seed: of the points drawn.

    Returns:
        ``rel_l2`` = |a - b| / |b| in the mean-square norm (inf if b is zero and a is not); ``rel_l2_sq``, its square,
        which several papers call their relative error; ``max`` = max |a - b|; ``mse`` = mean (a - b)^2.

    Raises:
        ValueError: if a function gives NaN or infinity, or the two have different shapes.

    >>> points = np.linspace(0.0, 1.0, 5)[:, None]
    >>> compare(lambda x: 1.1 * x[:, 0], lambda x: x[:, 0], points)["rel_l2"]
    0.1...
    """
    points = _points(where, n, seed)
    values = {}
    for name, function in (("a", a), ("b", b)):
        if not callable(function):
            raise TypeError(f"{name} is {function!r}, but must be a Solution or another function of points (n, d)")
        v = _evaluate(function, points, name)
        values[name] = v = v[:, 0] if v.ndim == 2 and v.shape[1] == 1 else v
        bad = ~v.isfinite().reshape(len(v), -1).all(1)
        if bool(bad.any()):
            first = [round(c, 6) for c in points[bad][0].tolist()]
            raise ValueError(f"{name} is not finite at {int(bad.sum())} of {len(v)} points, first at {first}")
    if values["a"].shape != values["b"].shape:
        shapes = f"{tuple(values['a'].shape)} and {tuple(values['b'].shape)}"
        raise ValueError(f"a and b gave the shapes {shapes}, but only functions with as many values can be compared")
    difference, reference = values["a"] - values["b"], float(values["b"].square().mean())
    mse = float(difference.square().mean())
    square = mse / reference if reference > 0 else (0.0 if mse == 0 else float("inf"))
    return {"rel_l2": square**0.5, "rel_l2_sq": square, "max": float(difference.abs().max()), "mse": mse}


def _points(where: Any, n: int, seed: int) -> Tensor:
    if hasattr(where, "interior"):
        if n < 1:
            raise ValueError(f"n is {n}, but must be at least 1")
        return where.interior(n, torch.Generator().manual_seed(seed))
    if not isinstance(where, (np.ndarray, Tensor)):
        raise TypeError(f"where is a {type(where).__name__}, but must be a Domain or points of shape (n, d)")
    points = torch.as_tensor(where).detach().to("cpu", torch.float64)
    if points.ndim != 2 or len(points) == 0:
        raise ValueError(f"where has shape {tuple(points.shape)}, but points must have shape (n, d) with n >= 1")
    return points
