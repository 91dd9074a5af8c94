"""Second-order stages for `training.fit`: Gauss-Newton on per-sample Jacobians.

Row i of a least-squares residual depends on point i alone, so its parameter Jacobian is one batched gradient
(`torch.func.vmap`), never a backward pass per row. With J (n, p) in hand, a Levenberg-Marquardt step solves

    (J^T J + lambda I) delta = -J^T r        (primal, p <= n)     or
    delta = -J^T (J J^T + lambda I)^-1 r     (sample space, p > n; the same vector by the Woodbury identity).

For a Ritz energy the gradient is the energy's and J that of `Objective.metric_vector`: energy natural gradient descent
(Mueller and Zeinhofer, arXiv:2302.13163).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from scipy.linalg import blas
from torch import Tensor, nn

from sciml.conditions import Data
from sciml.objective import Batch, LeastSquares, Residuals, Ritz
from sciml.optimizers.jacobians import sample_jacobian
from sciml.stages import Stepper, Work, check_steps

__all__ = ["GaussNewton", "standard_errors"]


def _assign(model: nn.Module, start: Tensor) -> None:
    offset = 0
    with torch.no_grad():
        for p in model.parameters():
            if p.requires_grad:
                p.copy_(start[offset : offset + p.numel()].reshape(p.shape))
                offset += p.numel()


@dataclass(frozen=True)
class GaussNewton:
    """Levenberg-Marquardt with geodesic acceleration for least squares, energy natural gradient for Ritz.

    The acceleration a solves (J^T J + lambda I) a = -J^T r'', with r'' the second derivative of the residual along the
    step delta; moving by delta + a / 2 follows the curved valleys in which plain Gauss-Newton creeps (Transtrum and
    Sethna, arXiv:1201.5885). It costs one more residual and one more triangular solve. float64 is strongly advised.

    Attributes:
        steps: at most.
        damping: the first lambda, relative to the mean diagonal of J^T J; it adapts to what each step achieves.
        tolerance: stop when the predicted decrease of the loss, relative to it, is below this.
        resample: draw new points every so many steps; None keeps one batch.
        acceleration: use the second-order correction (least squares only).
    """

    steps: int = 100
    damping: float = 1e-3
    tolerance: float = 1e-14
    resample: int | None = None
    acceleration: bool = True

    def __post_init__(self) -> None:
        """Check the numbers."""
        check_steps(self)
        if not self.damping > 0:
            raise ValueError(f"GaussNewton damping is {self.damping}, but must be positive")

    def start(self, model: nn.Module) -> Stepper:
        """Begin on a model."""
        return _GaussNewtonStepper(self)


class _GaussNewtonStepper:
    def __init__(self, stage: GaussNewton) -> None:
        self.stage, self.reason, self.relative = stage, "", stage.damping
        self.note = ""  # what the status says beside why it ended

    def step(self, work: Work) -> None:
        objective, model = work.objective, work.model
        metric_vector = getattr(objective, "metric_vector", None)
        if metric_vector is None:
            raise TypeError(
                "GaussNewton needs an objective with a metric_vector, as least squares and Ritz energies have, but was "
                f"given a {type(objective).__name__}"
            )
        loss = float(work.backward())
        m, jacobian, _ = sample_jacobian(metric_vector, model, work.batch)
        rows, unknowns = jacobian.shape
        if rows < unknowns:
            self.note = f"; only {rows} equations for {unknowns} parameters, so a small loss says little"
        trainable = [p for p in model.parameters() if p.requires_grad]
        start = torch.cat([p.detach().reshape(-1) for p in trainable])
        gradient = torch.cat([(torch.zeros_like(p) if p.grad is None else p.grad).reshape(-1) for p in trainable])
        solve = _Damped(jacobian, gradient)
        bent = isinstance(objective, Residuals) and self.stage.acceleration
        for _ in range(20):
            delta, predicted = solve(self.relative)
            if predicted <= self.stage.tolerance * (abs(loss) or 1.0):
                self.reason = f"the predicted decrease is below {self.stage.tolerance:.0e} of the loss"
                break
            turn = 0.0
            if bent:
                _assign(model, start + _PROBE * delta)
                ahead = _by_point(objective, model, work.batch)  # type: ignore[arg-type]
                second = 2 / _PROBE * ((ahead - m) / _PROBE - jacobian @ delta)
                bend = solve.again(jacobian.T @ second)
                turn = float(2 * bend.norm() / delta.norm())
                delta = delta + 0.5 * bend
            value = self._value(work, start + delta)
            while not bent and value < loss:
                # a degenerate energy like |grad u|^p wants up to p - 1 times Newton's step
                longer = self._value(work, start + 2 * delta)
                if not longer < value:
                    _assign(model, start + delta)
                    break
                value, delta = longer, 2 * delta
            # where the correction rivals the step, the quadratic model has ended
            if value < loss and turn < 1.5:
                gain = (loss - value) / predicted
                self.relative = max(self.relative / (4 if gain > 0.25 else 1), 1e-16)
                return
            self.relative = min(self.relative * 4, 1e12)
        else:
            self.reason = "no damping gives a decrease: the limit of this precision and these points"
        self.reason += self.note
        _assign(model, start)

    @staticmethod
    def _value(work: Work, parameters: Tensor) -> float:
        _assign(work.model, parameters)
        with torch.no_grad():
            return float(torch.stack(list(work.objective.terms(work.model, work.batch).values())).sum())

    def state(self) -> Any:
        return {"relative": self.relative}

    def load(self, state: Any) -> None:
        self.relative = state["relative"]


_PROBE = 0.1  # of a step, for the second difference of the residual


def _by_point(objective: Residuals, model: nn.Module, batch: Batch) -> Tensor:
    """The residual vector with rows in the order of `sample_jacobian`, point by point."""
    with torch.no_grad():
        vectors = objective.vectors(model, batch)
    parts = zip(vectors.values(), batch.blocks.values(), strict=True)
    return 2**0.5 * torch.cat([v.reshape(-1, len(block.x)).T.reshape(-1) for v, block in parts])


class _Damped:
    """Solves (J^T J + lambda I) delta = -g for several lambda from one product of J with itself."""

    def __init__(self, jacobian: Tensor, gradient: Tensor) -> None:
        self.j, self.g = jacobian, gradient
        n, p = jacobian.shape
        self.primal = p <= n
        self.gram = _gram(jacobian, self.primal)
        self.scale = float(self.gram.diagonal().sum()) / p
        self.damping, self.factor = 0.0, self.gram

    def __call__(self, relative: float) -> tuple[Tensor, float]:
        """The step and the decrease of the loss that the quadratic model predicts for it."""
        self.damping = relative * self.scale
        while True:
            a = self.gram.clone()
            a.diagonal().add_(self.damping)
            self.factor, failed = torch.linalg.cholesky_ex(a)
            if not int(failed):
                break
            self.damping *= 10
        delta = self.again(self.g)
        curvature = (self.j @ delta).square().sum()
        return delta, float(-(self.g @ delta) - 0.5 * curvature)

    def again(self, g: Tensor) -> Tensor:
        """The solution for another right-hand side -g in the range of J^T, with the same lambda."""
        if self.primal:
            return -torch.cholesky_solve(g[:, None], self.factor)[:, 0]
        inner = torch.cholesky_solve((self.j @ g)[:, None], self.factor)[:, 0]
        return -(g - self.j.T @ inner) / self.damping


def _gram(j: Tensor, primal: bool) -> Tensor:
    """J^T J, or J J^T; on the CPU only its lower triangle, all that Cholesky's method reads, at half the cost."""
    if j.device.type != "cpu":
        return j.T @ j if primal else j @ j.T
    product = blas.dsyrk if j.dtype == torch.float64 else blas.ssyrk
    return torch.as_tensor(product(1.0, j.detach().contiguous().numpy().T, trans=0 if primal else 1, lower=1))


def standard_errors(objective: LeastSquares | Ritz, model: nn.Module, batch: Batch) -> dict[str, float]:
    """Linearised standard errors of the scalars of an inverse problem.

    Every block of residuals counts as measured with its own root-mean-square misfit, the network's weights have a weak
    unit prior, and the scalars none: cov = (J^T S^-1 J + P)^-1.

    Returns:
        One standard error per entry of ``model.unknowns``.
    """
    if not isinstance(objective, LeastSquares):
        raise TypeError("standard errors need a least-squares objective")
    r, j, slices = sample_jacobian(objective.residuals, model, batch)
    for name, rows in slices.items():
        freedom = 1
        if isinstance(batch.blocks[name].condition, Data):
            freedom = max(1, len(r[rows]) - len(model.unknowns))  # type: ignore[arg-type]
        else:
            freedom = len(r[rows])
        j[rows] /= (r[rows].square().sum() / freedom).sqrt() + 1e-300
    names = [k for k, p in model.named_parameters() if p.requires_grad for _ in range(p.numel())]
    shift = torch.tensor([k.startswith("shifts.") for k in names], device=j.device)
    information = j.T @ j
    information.diagonal().add_((~shift).to(j.dtype))
    covariance = torch.linalg.pinv(information, hermitian=True)
    variances = covariance.diagonal()[shift]
    scales = [abs(s) or 1.0 for s in model.start.values()]  # type: ignore[operator]
    order = [k.removeprefix("shifts.") for k in names if k.startswith("shifts.")]
    by_name = dict(zip(order, variances.clamp_min(0).sqrt().tolist(), strict=True))
    return {k: by_name[k] * scale for k, scale in zip(model.start, scales, strict=True)}  # type: ignore[arg-type]
