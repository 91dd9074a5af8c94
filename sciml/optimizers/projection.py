"""Variable projection: the last layer of a network solved exactly, the inner layers trained on what remains.

For an equation and conditions that are linear in u, the residual is affine in the weights c of a linear last layer,
r(theta, c) = A(theta) c - b. With A = Q R the best c is a triangular solve, and the residual that remains,
(I - Q Q^T) r, is a function of the inner parameters theta alone, whose Jacobian Kaufman (BIT 15, 1975) approximates by
(I - Q Q^T) dr/dtheta: the term that Golub and Pereyra (SIAM J. Numer. Anal. 10, 1973) have beside it is small with the
residual. A Levenberg-Marquardt step with this Jacobian takes the valleys of c for granted, in which descent on all
parameters together creeps.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from sciml.objective import LeastSquares
from sciml.optimizers.gaussnewton import _by_point, _Damped
from sciml.optimizers.jacobians import last_layer_of, sample_jacobian
from sciml.stages import Stepper, Work, check_steps

__all__ = ["VariableProjection"]

_RIDGE = 1e-14  # relative to each column: keeps the solution finite where columns depend on each other


@dataclass(frozen=True)
class VariableProjection:
    """Exact least squares for the last layer, Levenberg-Marquardt on the projected residual for the inner ones.

    Attributes:
        steps: at most; each ends with the last layer solved.
        damping: the first lambda, relative to the mean diagonal of J^T J; it adapts to what each step achieves.
        tolerance: stop when the predicted decrease of the loss, relative to it, is below this.
        resample: draw new points every so many steps; None keeps one batch.
        inner: train the inner layers; False only solves the last one, in a single step.
    """

    steps: int = 50
    damping: float = 1e-3
    tolerance: float = 1e-12
    resample: int | None = None
    inner: bool = True

    def __post_init__(self) -> None:
        """Check the numbers."""
        check_steps(self)
        if not self.damping > 0:
            raise ValueError(f"VariableProjection damping is {self.damping}, but must be positive")

    def start(self, model: nn.Module) -> Stepper:
        """Begin on a model.

        Raises:
            ValueError: if its last layer is not known to be linear.
        """
        names = last_layer_of(model)
        if names is None:
            raise ValueError(
                f"VariableProjection needs a Dense or Mscale network, whose last layer is linear, but was given a "
                f"{type(model).__name__}"
            )
        return _ProjectionStepper(self, names)


class _ProjectionStepper:
    def __init__(self, stage: VariableProjection, last: list[str]) -> None:
        self.stage, self.last, self.reason, self.relative = stage, last, "", stage.damping

    def step(self, work: Work) -> None:
        if not isinstance(work.objective, LeastSquares):
            name = type(work.objective).__name__
            raise TypeError(f"VariableProjection needs a LeastSquares objective, but was given {name}")
        loss = self._solve_last(work)
        with torch.no_grad():
            terms = work.objective.terms(work.model, work.batch)
        work.terms = {k: float(v) for k, v in terms.items()}
        if not self.stage.inner:
            self.reason = "the last layer is solved"
            return
        self._train_inner(work, loss)

    def _train_inner(self, work: Work, loss: float) -> None:
        objective, model = work.objective, work.model
        assert isinstance(objective, LeastSquares)
        inner = [k for k, p in model.named_parameters() if p.requires_grad and k not in self.last]
        r, jacobian, _ = sample_jacobian(objective.residuals, model, work.batch, only=inner)
        _, a, _ = sample_jacobian(objective.residuals, model, work.batch, only=self.last)
        projection = _LeastSquares(a)
        r = projection.remove(r)
        jacobian = projection.remove(jacobian)
        solve = _Damped(jacobian, jacobian.T @ r)
        start = {k: p.detach().clone() for k, p in model.named_parameters()}
        for _ in range(20):
            delta, predicted = solve(self.relative)
            if predicted <= self.stage.tolerance * (loss or 1.0):
                self.reason = f"the predicted decrease is below {self.stage.tolerance:.0e} of the loss"
                break
            _move(model, start, inner, delta)
            value = self._solve_last(work)
            if value < loss:
                gain = (loss - value) / predicted
                self.relative = max(self.relative / (4 if gain > 0.25 else 1), 1e-16)
                return
            self.relative = min(self.relative * 4, 1e12)
        else:
            self.reason = "no damping gives a decrease: the limit of this precision and these points"
        _move(model, start, [], torch.empty(0))

    def _solve_last(self, work: Work) -> float:
        """Solve for the last layer at the current inner ones; returns the loss."""
        objective, model = work.objective, work.model
        assert isinstance(objective, LeastSquares)
        r, a, _ = sample_jacobian(objective.residuals, model, work.batch, only=self.last)
        if len(r) < a.shape[1]:
            raise ValueError(
                f"VariableProjection has {len(r)} equations for {a.shape[1]} weights of the last layer; give more "
                "points (interior=, boundary=) or a narrower last layer"
            )
        least = _LeastSquares(a)
        # once more with what remains, since the first weights may be far away and their rounding large
        for repeat in range(2):
            start = {k: p.detach().clone() for k, p in model.named_parameters()}
            delta = least.solve(r)
            _move(model, start, self.last, delta)
            with torch.no_grad():
                found = _by_point(objective, model, work.batch)
            gap, size = (found - r - a @ delta).norm(), r.norm() + (a.abs() @ delta.abs()).norm()
            if not repeat and bool(gap > 1e-6 * size):
                raise ValueError(
                    "the residual is not linear in the last layer, so VariableProjection cannot solve for it: the "
                    "equation or a condition is nonlinear in u; use GaussNewton"
                )
            r = found
        return 0.5 * float(r.square().sum())

    def state(self) -> Any:
        return {"relative": self.relative}

    def load(self, state: Any) -> None:
        self.relative = state["relative"]


def _move(model: nn.Module, start: dict[str, Tensor], names: list[str], delta: Tensor) -> None:
    """Set parameters to `start`, those named moved by `delta`."""
    steps, begin = {}, 0
    with torch.no_grad():
        for name, p in model.named_parameters():
            if name in names:
                steps[name] = delta[begin : begin + p.numel()].reshape(p.shape)
                begin += p.numel()
            p.copy_(start[name] + steps[name] if name in names else start[name])


class _LeastSquares:
    """min |r + A delta| by QR with columns scaled to one and a ridge at the level of rounding."""

    def __init__(self, a: Tensor) -> None:
        self.norms = torch.linalg.vector_norm(a, dim=0).clamp_min(1e-300)
        n, p = a.shape
        tall = a.new_zeros(n + p, p)
        torch.div(a, self.norms, out=tall[:n])
        tall[n:].diagonal().fill_(_RIDGE)
        q, self.r = torch.linalg.qr(tall)
        self.q = q[:n]

    def solve(self, r: Tensor) -> Tensor:
        """The best delta."""
        y = torch.linalg.solve_triangular(self.r, -(self.q.T @ r)[:, None], upper=True)[:, 0]
        return y / self.norms

    def remove(self, v: Tensor) -> Tensor:
        """What the columns of A cannot reach of a vector or of columns."""
        return v - self.q @ (self.q.T @ v)
