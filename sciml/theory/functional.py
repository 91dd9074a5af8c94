"""A network as a function of its parameters: what losses, kernels and curvatures are made of."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from sciml.calculus import Field, at

Parameters = dict[str, Tensor]
Closure = Callable[[Parameters], Tensor]

Operator = Callable[[Field, Tensor], Tensor]

__all__ = [
    "Closure",
    "Operator",
    "Parameters",
    "at",
    "check_rows",
    "flatten",
    "loss_closures",
    "parameter_jacobian",
    "parameters_of",
    "sample",
]


def parameters_of(model: nn.Module) -> Parameters:
    """The trainable parameters by name, detached (they share memory with the model: do not write to them).

    Raises:
        TypeError: if `model` is not a torch module.
        ValueError: if none of its parameters is trainable.
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"model is a {type(model).__name__}, but parameters belong to a torch.nn.Module")
    trainable = {k: p.detach() for k, p in model.named_parameters() if p.requires_grad}
    if not trainable:
        raise ValueError(f"model is a {type(model).__name__} without a parameter that has requires_grad")
    return trainable


def loss_closures(model: nn.Module, objective: Any, batch: Any) -> dict[str, Closure]:
    """``params -> scalar`` for every term of an objective, and for their sum as "loss".

    Args:
        model: the network.
        objective: anything with ``terms(field, batch) -> dict[str, Tensor]``.
        batch: handed to it.
    """
    with torch.no_grad():
        names = list(objective.terms(model, batch))

    def term(name: str) -> Closure:
        return lambda parameters: objective.terms(at(model, parameters), batch)[name]

    def total(parameters: Parameters) -> Tensor:
        return torch.stack(list(objective.terms(at(model, parameters), batch).values())).sum()

    return {**{name: term(name) for name in names}, "loss": total}


def flatten(tree: Mapping[str, Tensor], leading: int = 0) -> Tensor:
    """All entries in one last axis: ``(*leading shape, number of parameters)``."""
    return torch.cat([t.reshape(*t.shape[:leading], -1) for t in tree.values()], -1)


def check_rows(model: nn.Module) -> None:
    """Refuse a network whose values at a point depend on the other points.

    Raises:
        ValueError: if a batch normalisation is in training mode.
    """
    for name, module in model.named_modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm) and module.training:
            raise ValueError(
                f"layer {name or '0'} normalises over the batch, so rows mix points; call .eval() on the network first"
            )


def parameter_jacobian(model: nn.Module, points: Tensor, operator: Operator | None = None, chunk: int = 256) -> Tensor:
    """J with one row per value, one column per trainable parameter.

    Args:
        model: a Field; row i of its output depends on row i of the points only.
        points: ``(n, d)``.
        operator: what is differentiated: ``(field, points (n, d)) -> (n,) or (n, m)``, for example the residual of an
            equation; None is the field itself.
        chunk: rows that are differentiated at a time, which bounds the memory.

    Returns:
        ``(n, p)`` for one value per point, ``(n m, p)`` for m of them, ordered point by point.

    Raises:
        ValueError: if batch normalisation mixes the points.
    """
    parameters = parameters_of(model)
    check_rows(model)
    count = sum(p.numel() for p in parameters.values())
    if operator is not None:
        # equations check their coefficients, which vmap over points does not allow: one backward pass per row instead
        def batch(p: Parameters) -> Tensor:
            return operator(at(model, p), points).reshape(-1)

        return flatten(torch.func.jacrev(batch, chunk_size=chunk)(parameters), 1).reshape(-1, count)

    def single(p: Parameters, x: Tensor) -> Tensor:
        return at(model, p)(x[None]).reshape(-1)

    rows = torch.func.vmap(torch.func.jacrev(single), in_dims=(None, 0), chunk_size=chunk)(parameters, points)
    return flatten(rows, 2).reshape(-1, count)


def sample(field: Field, points: Tensor, component: int = 0, operator: Operator | None = None) -> Tensor:
    """Values of one component ``(n,)``, float64 on the CPU; the points are cast to a network's precision and device.

    Args:
        field: a network or any Field.
        points: ``(n, d)``.
        component: of a vector field.
        operator: applied to the field, see `parameter_jacobian`; None is the field itself.

    Raises:
        ValueError: if the field's output is not ``(n,)`` or ``(n, m)`` with m > component.
    """
    first = next(field.parameters(), None) if isinstance(field, nn.Module) else None
    x = points if first is None else points.to(first.device, first.dtype)
    with torch.no_grad():
        values = field(x) if operator is None else operator(field, x)
    if values.ndim == 2 and values.shape[0] == len(x) and values.shape[1] > component:
        values = values[:, component]
    if values.shape != (len(x),):
        raise ValueError(
            f"the field gave shape {tuple(values.shape)} at {len(x)} points, but component {component} needs "
            f"({len(x)},) or ({len(x)}, m) with m > {component}"
        )
    return values.detach().to("cpu", torch.float64)
