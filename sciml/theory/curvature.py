"""The Hessian of a small network's loss, and the signs of its eigenvalues.

For networks of any size `sciml.theory.stability` gives products with it and its largest eigenvalue.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from sciml.theory.functional import Closure, Parameters, parameters_of

__all__ = ["Inertia", "hessian", "inertia"]

_MOST = 2000  # parameters whose Hessian is formed


class Inertia(NamedTuple):
    """Numbers of negative, zero and positive eigenvalues of a symmetric matrix."""

    negative: int
    zero: int
    positive: int


def hessian(loss: Closure, parameters: Parameters) -> Tensor:
    """The Hessian ``(p, p)`` of ``params -> scalar`` in all parameters, symmetric.

    Args:
        loss: a closure, e.g. from `loss_closures`.
        parameters: by name, see `parameters_of`.

    Raises:
        ValueError: for float32 or more than 2000 parameters.
    """
    count = sum(p.numel() for p in parameters.values())
    if count > _MOST:
        raise ValueError(
            f"the network has {count} parameters, but a Hessian is formed for at most {_MOST}; "
            "theory.largest_eigenvalue needs no matrix"
        )
    if any(p.dtype != torch.float64 for p in parameters.values()):
        raise ValueError("the signs of small eigenvalues need float64; convert the network with .double()")
    shapes = {k: p.shape for k, p in parameters.items()}

    def flat(theta: Tensor) -> Tensor:
        parts = theta.split([s.numel() for s in shapes.values()])
        return loss({k: part.reshape(s) for (k, s), part in zip(shapes.items(), parts, strict=True)})

    h = torch.func.hessian(flat)(torch.cat([p.detach().reshape(-1) for p in parameters.values()]))
    return (h + h.T) / 2


def inertia(loss: Closure, parameters: Parameters | nn.Module, tolerance: float = 1e-9) -> Inertia:
    """Inertia of the loss's Hessian; eigenvalues below `tolerance` times the largest count as zero.

    Args:
        loss: ``params -> scalar``.
        parameters: where, by name, or the network.
        tolerance: relative.
    """
    where = parameters_of(parameters) if isinstance(parameters, nn.Module) else parameters
    values = torch.linalg.eigvalsh(hessian(loss, where))
    small = tolerance * float(values.abs().max())
    negative, positive = int((values < -small).sum()), int((values > small).sum())
    return Inertia(negative, len(values) - negative - positive, positive)
