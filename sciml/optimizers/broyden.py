"""The self-scaled Broyden method: quasi-Newton with a dense inverse Hessian, for any objective.

With s the step, y the change of the gradient, B = H^-1 and the numbers

    b = s.Bs / y.s,   h = y.Hy / y.s,   a = b h - 1 >= 0,

a member of Broyden's family with scaling updates the inverse Hessian by

    H+ = (H - Hy (Hy)^T / y.Hy + phi v v^T) / tau + s s^T / y.s,   v = (y.Hy)^(1/2) (s / y.s - Hy / y.Hy).

phi = 1, tau = 1 is BFGS. The self-scaled choice of Al-Baali (Comput. Optim. Appl. 9, 1998), which Urban, Stefanou and
Pons (arXiv:2405.04230) found to gain orders of magnitude in equations solved by networks, is

    rho = min(1, h (1 - (a / (1 + a))^(1/2))),   theta = max((rho - 1) / a, min(1 / rho, (1 - b) / b)),
    sigma = 1 + a theta,   phi = (1 - theta) / sigma,
    tau = min(1, 1/b) min(sigma^(-1/(n-1)), 1/theta)   if theta > 0,   min(min(1, 1/b) sigma^(-1/(n-1)), sigma) else.
"""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from scipy.optimize import line_search
from torch import Tensor, nn

from sciml.optimizers.gaussnewton import _assign
from sciml.stages import Stepper, Work, check_steps

__all__ = ["SSBroyden"]


@dataclass(frozen=True)
class SSBroyden:
    """Self-scaled Broyden with a line search for the strong Wolfe conditions, in float64; says why it stopped.

    A step costs a few gradients and a few passes over a matrix of the squared number of parameters, where Gauss-Newton
    costs a product of Jacobians: it is the cheaper one from several thousand parameters on, and the only one for an
    objective that is neither a sum of squares nor an energy.

    Attributes:
        steps: at most.
        tolerance: stop when the largest gradient entry is below it.
        resample: draw a new batch every so many steps, keeping the curvature; None keeps one batch.
        memory: largest size of the matrix in bytes.
    """

    steps: int = 1000
    tolerance: float = 1e-12
    resample: int | None = None
    memory: float = 2e9

    def __post_init__(self) -> None:
        """Check the numbers."""
        check_steps(self)
        if not self.tolerance >= 0:
            raise ValueError(f"SSBroyden tolerance is {self.tolerance}, but must be >= 0")

    def start(self, model: nn.Module) -> Stepper:
        """Begin on a model.

        Raises:
            ValueError: if it is not in float64, or the matrix would exceed the memory.
        """
        trainable = [p for p in model.parameters() if p.requires_grad]
        if any(p.dtype != torch.float64 for p in trainable):
            given = ", ".join(sorted({str(p.dtype) for p in trainable}))
            raise ValueError(f"SSBroyden needs parameters in torch.float64, but was given {given}")
        count = sum(p.numel() for p in trainable)
        if 8 * count**2 > self.memory:
            raise ValueError(
                f"SSBroyden memory is {self.memory:.3g} bytes, but the matrix of {count} parameters takes "
                f"{8.0 * count**2:.3g}; allow more, or use LBFGS"
            )
        return _SSBroydenStepper(self)


@dataclass
class _Point:
    x: Tensor
    loss: float
    gradient: Tensor
    terms: dict[str, float]


class _SSBroydenStepper:
    def __init__(self, stage: SSBroyden) -> None:
        self.stage, self.reason = stage, ""
        self.inverse: Tensor | None = None
        self.blocks: Any = None
        self.known: dict[bytes, _Point] = {}

    def step(self, work: Work) -> None:
        trainable = [p for p in work.model.parameters() if p.requires_grad]
        x = torch.cat([p.detach().reshape(-1) for p in trainable])
        if self.blocks is not work.batch.blocks:
            self.known.clear()
        self.blocks = work.batch.blocks
        here = self._at(work, x)
        largest = float(here.gradient.abs().max())
        if largest <= self.stage.tolerance:
            self.reason = f"gradient {largest:.1e} is below the tolerance {self.stage.tolerance:.1e}"
        else:
            there = self._search(work, here)
            if there is None and self.inverse is not None:
                self.inverse = None  # rounding spoils the matrix in time: begin anew downhill
                there = self._search(work, here)
            if there is None:
                self.reason = f"the line search finds no decrease (gradient {largest:.1e}): the limit of this precision"
            else:
                self._update(there.x - x, there.gradient - here.gradient, here.gradient)
                x = there.x
        _assign(work.model, x)
        work.terms = here.terms
        self.known = {k: p for k, p in self.known.items() if torch.equal(p.x, x)}

    def _at(self, work: Work, x: Tensor) -> _Point:
        """Loss and gradient at parameters; the points of the current line search are remembered."""
        key = x.cpu().numpy().tobytes()
        if key not in self.known:
            _assign(work.model, x)
            loss = float(work.backward())
            parts = [p for p in work.model.parameters() if p.requires_grad]
            gradient = torch.cat([(torch.zeros_like(p) if p.grad is None else p.grad).reshape(-1) for p in parts])
            self.known[key] = _Point(x.clone(), loss, gradient, work.terms)
        return self.known[key]

    def _search(self, work: Work, here: _Point) -> _Point | None:
        g = here.gradient
        direction = -g if self.inverse is None else -(self.inverse @ g)
        slope = float(direction @ g)
        if not (slope < 0 and math.isfinite(slope)):
            return None
        # without curvature the first step moves the parameters by a length of one at most
        unit = min(1.0, 1.0 / float(direction.norm())) if self.inverse is None else 1.0

        def at(x: np.ndarray) -> _Point:
            return self._at(work, torch.as_tensor(x, device=g.device))

        def loss(x: np.ndarray) -> float:
            value = at(x).loss
            return value if math.isfinite(value) else math.inf

        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # its failure is a value here
            alpha, *_ = line_search(
                loss,
                lambda x: at(x).gradient.cpu().numpy(),
                here.x.cpu().numpy(),
                (unit * direction).cpu().numpy(),
                g.cpu().numpy(),
                here.loss,
                maxiter=20,
            )
        if alpha is None:
            return None
        there = at(here.x.cpu().numpy() + alpha * (unit * direction).cpu().numpy())
        return there if there.loss < here.loss else None

    def _update(self, s: Tensor, y: Tensor, g: Tensor) -> None:
        ys = float(y @ s)
        if not ys > 1e-300:
            return
        if self.inverse is None:
            # the size of the curvature along the first step
            self.inverse = torch.eye(len(s), dtype=s.dtype, device=s.device) * (ys / float(y @ y))
            sbs = float(s @ s) * float(y @ y) / ys
        else:
            # s is a positive multiple alpha of -H g, so B s = -alpha g
            along = self.inverse @ g
            sbs = -float(s @ g) * float(s.norm() / along.norm())
        hy = self.inverse @ y
        yhy = float(y @ hy)
        tau, phi = _scaling(sbs / ys, yhy / ys, len(s))
        v = s / ys - hy / yhy
        # three rank-one terms in one product
        left = torch.stack([hy * (-1 / (yhy * tau)), v * (phi * yhy / tau), s / ys], 1)
        self.inverse.mul_(1 / tau).addmm_(left, torch.stack([hy, v, s]))

    def state(self) -> Any:
        return {"inverse": self.inverse}

    def load(self, state: Any) -> None:
        self.inverse = state["inverse"]


def _scaling(b: float, h: float, n: int) -> tuple[float, float]:
    """Tau and phi of the self-scaled update; see the head of the module."""
    a = max(h * b - 1, 1e-15)  # positive but for rounding, by Cauchy and Schwarz
    rho = min(1.0, h * (1 - math.sqrt(a / (1 + a))))
    theta = max((rho - 1) / a, min(1 / rho, (1 - b) / b))
    sigma = 1 + a * theta
    power = sigma ** (-1 / (n - 1)) if n > 1 else 1.0
    first = min(1.0, 1 / b)
    tau = first * min(power, 1 / theta) if theta > 0 else min(first * power, sigma)
    return tau, (1 - theta) / sigma
