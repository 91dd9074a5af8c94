"""Invertible transforms of states and rates; statistics are buffers, so what was fitted travels with the module.

`BoxCox` opens the scales of mass fractions (arXiv:2201.03549): F(y) = (y^lambda - 1)/lambda for y >= 0 is finite at
zero, so no floor has to be chosen. `GeneralBoxCox` does the same for signed rates (arXiv:2512.05685):
G(y) = sign(y) |y|^lambda / lambda. `Standardize` centres and scales columns.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar, Self

import numpy as np
import torch
from torch import Tensor, nn

__all__ = ["BoxCox", "GeneralBoxCox", "Identity", "Log", "Standardize", "Transform"]


class Transform(nn.Module, ABC):
    """An invertible elementwise map that files can store: ``describe``, ``arrays`` and ``restore`` as for networks."""

    kind: ClassVar[str]

    @abstractmethod
    def forward(self, x: Tensor) -> Tensor:
        """The transformed values, of the shape of `x`."""

    @abstractmethod
    def inverse(self, z: Tensor) -> Tensor:
        """The values whose transform is `z`."""

    def describe(self) -> dict[str, Any]:
        """What `restore` needs beside `arrays`, as JSON."""
        return {}

    def arrays(self) -> dict[str, np.ndarray]:
        """Buffers by name."""
        return {k: v.detach().cpu().numpy().copy() for k, v in self.state_dict().items()}

    @classmethod
    def restore(cls, description: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> Self:
        """The transform of a description and its arrays."""
        del arrays  # most transforms have none
        return cls(**description)


def _power(lmbda: float) -> float:
    if not (isinstance(lmbda, (int, float)) and math.isfinite(lmbda) and 0 < lmbda <= 1):
        raise ValueError(f"lmbda is {lmbda!r}, but must be a number in (0, 1]")
    return float(lmbda)


def _whole_power(x: Tensor, power: int) -> Tensor:
    """x^power by squaring: four products for the tenth power, a quarter of the time of `pow`."""
    found = None
    while power:
        if power % 2:
            found = x if found is None else found * x
        power //= 2
        if power:
            x = x * x
    return torch.ones_like(x) if found is None else found


class BoxCox(Transform):
    """F(y) = (y^lambda - 1)/lambda for y >= 0; F(0) = -1/lambda exactly (arXiv:2201.03549, lambda = 0.1).

    Args:
        lmbda: the power, in (0, 1].

    >>> boxcox = BoxCox(0.1)
    >>> boxcox(torch.tensor([0.0, 1.0]))
    tensor([-10.,   0.])
    """

    kind = "box-cox"

    def __init__(self, lmbda: float = 0.1) -> None:
        super().__init__()
        self.lmbda = _power(lmbda)

    def forward(self, x: Tensor) -> Tensor:
        """F(x); a negative x has no transform and gives nan, for it has to be dealt with before."""
        return (x.pow(self.lmbda) - 1) / self.lmbda

    def inverse(self, z: Tensor) -> Tensor:
        """(lambda z + 1)^(1/lambda); what lies below F(0), where nothing is mapped to, gives 0."""
        base, power = (self.lmbda * z + 1).clamp_min(0), 1 / self.lmbda
        return _whole_power(base, int(power)) if power.is_integer() else base.pow(power)

    def describe(self) -> dict[str, Any]:
        """The power."""
        return {"lmbda": self.lmbda}


class Identity(Transform):
    """Leaves values alone: what the others are compared with."""

    kind = "identity"

    def forward(self, x: Tensor) -> Tensor:
        """The values themselves."""
        return x

    def inverse(self, z: Tensor) -> Tensor:
        """The values themselves."""
        return z


class Log(Transform):
    """ln max(y, floor): the limit of `BoxCox` for lambda -> 0, which needs a floor since zero has no logarithm.

    Args:
        floor: positive.

    >>> Log(1e-20)(torch.tensor([0.0, 1.0]))
    tensor([-46.0517,   0.0000])
    """

    kind = "log"

    def __init__(self, floor: float = 1e-20) -> None:
        super().__init__()
        if not (math.isfinite(floor) and floor > 0):
            raise ValueError(f"floor is {floor!r}, but must be a positive number")
        self.floor = float(floor)

    def forward(self, x: Tensor) -> Tensor:
        """The logarithm; what lies below the floor counts as the floor."""
        return x.clamp_min(self.floor).log()

    def inverse(self, z: Tensor) -> Tensor:
        """The exponential of z."""
        return z.exp()

    def describe(self) -> dict[str, Any]:
        """The floor."""
        return {"floor": self.floor}


class GeneralBoxCox(Transform):
    """G(y) = sign(y) |y|^lambda / lambda of signed rates (arXiv:2512.05685, lambda = 0.5).

    Args:
        lmbda: the power, in (0, 1].
    """

    kind = "general-box-cox"

    def __init__(self, lmbda: float = 0.5) -> None:
        super().__init__()
        self.lmbda = _power(lmbda)

    def forward(self, x: Tensor) -> Tensor:
        """G(x), an odd function with an infinite slope at zero for lambda < 1."""
        return x.sign() * x.abs().pow(self.lmbda) / self.lmbda

    def inverse(self, z: Tensor) -> Tensor:
        """sign(z) (lambda |z|)^(1/lambda)."""
        return z.sign() * (self.lmbda * z.abs()).pow(1 / self.lmbda)

    def describe(self) -> dict[str, Any]:
        """The power."""
        return {"lmbda": self.lmbda}


class Standardize(Transform):
    """(x - centre)/scale by column; a column that does not vary is centred and left unscaled.

    Args:
        centre: ``(m,)``.
        scale: ``(m,)``, positive.

    Raises:
        ValueError: if the shapes differ or a scale is not positive.

    >>> Standardize.fit(torch.tensor([[0.0, 5.0], [2.0, 5.0]])).scale
    tensor([1., 1.])
    """

    kind = "standardize"
    centre: Tensor
    scale: Tensor

    def __init__(self, centre: Tensor, scale: Tensor) -> None:
        super().__init__()
        if centre.ndim != 1 or centre.shape != scale.shape:
            raise ValueError(
                f"centre and scale have shapes {tuple(centre.shape)} and {tuple(scale.shape)}, but must be one (m,)"
            )
        if not bool((scale > 0).all() & scale.isfinite().all() & centre.isfinite().all()):
            raise ValueError("scale must hold positive numbers and centre finite ones")
        self.register_buffer("centre", centre.detach().clone())
        self.register_buffer("scale", scale.detach().clone())

    @classmethod
    def fit(cls, x: Tensor, by: str = "deviation") -> Self:
        """Centre by the mean of every column of `x` ``(n, m)`` and scale by its spread.

        Args:
            x: the data.
            by: "deviation" scales by the standard deviation, "magnitude" by the mean absolute value and does not
                centre, so that zero stays zero.

        Raises:
            ValueError: for an empty or non-finite x, or another `by`.
        """
        if x.ndim != 2 or not len(x) or not bool(x.isfinite().all()):
            raise ValueError(f"x has shape {tuple(x.shape)}, but must be finite numbers of shape (n, m) with n >= 1")
        if by not in ("deviation", "magnitude"):
            raise ValueError(f"by is {by!r}, but must be 'deviation' or 'magnitude'")
        centre = x.mean(0) if by == "deviation" else torch.zeros_like(x[0])
        scale = x.std(0, correction=0) if by == "deviation" else x.abs().mean(0)
        # rounding leaves a constant column a spread of the order of its last digit
        still = scale <= 16 * torch.finfo(x.dtype).eps * x.abs().amax(0)
        return cls(centre, torch.where(still, torch.ones_like(scale), scale))

    def forward(self, x: Tensor) -> Tensor:
        """Standardized columns of x ``(..., m)``."""
        return torch.addcmul(-self.centre / self.scale, x, 1 / self.scale)  # one pass

    def inverse(self, z: Tensor) -> Tensor:
        """The columns in their own units."""
        return z * self.scale + self.centre

    @classmethod
    def restore(cls, description: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> Self:
        """The transform of its arrays."""
        return cls(torch.as_tensor(np.asarray(arrays["centre"])), torch.as_tensor(np.asarray(arrays["scale"])))
