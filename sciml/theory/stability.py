"""Why the loss spikes, and how to see it coming.

Gradient descent with learning rate eta is stable while the largest eigenvalue of the Hessian H is below 2 / eta. Adam
divides by sqrt(v) first, and its momentum damps, so what counts is the largest eigenvalue of

    (1 - beta1) / ((1 + beta1) (1 - beta1^t)) D H,      D = diag(1 / (sqrt(v / (1 - beta2^t)) + eps))

(arXiv:2506.04805). Where gradients become small, v decays like beta2^t, D grows, and the loss spikes once the threshold
is crossed although nothing is wrong with the loss. Without the factor of the momentum the alarm is false for hundreds
of steps.

The curvature along the gradient, g^T D H g / |g|^2, costs one Hessian-vector product and is the early warning; the
largest eigenvalue costs ten to thirty. v is not read from the optimiser but followed from the gradients, so
`AdamStability` must be called at every step.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from sciml.theory.diagnostic import Diagnostic, Record, Schedule, State, every, untouched
from sciml.theory.functional import Closure, Parameters, flatten, loss_closures, parameters_of

__all__ = [
    "AdamStability",
    "Eigenvalue",
    "Stabilized",
    "adam_preconditioner",
    "gradient_curvature",
    "hessian_product",
    "largest_eigenvalue",
    "stabilized",
]


def hessian_product(loss: Closure, parameters: Parameters, vector: Parameters) -> tuple[Parameters, Parameters]:
    """The gradient and the Hessian times `vector`, both by parameter name, at the cost of about two gradients.

    Backward over backward: it works for every loss whose gradient is differentiable by autograd.
    """
    leaves = {k: p.detach().requires_grad_(True) for k, p in parameters.items()}
    with torch.enable_grad():
        value = loss(leaves)
        if value.ndim:
            raise ValueError(f"the loss has shape {tuple(value.shape)}, but must be a scalar")
        gradient = torch.autograd.grad(value, list(leaves.values()), create_graph=True, materialize_grads=True)
        along = sum((g * vector[k]).sum() for k, g in zip(leaves, gradient, strict=True))
        if isinstance(along, Tensor) and along.requires_grad:
            product = torch.autograd.grad(along, list(leaves.values()), materialize_grads=True)
        else:  # the loss is linear
            product = tuple(torch.zeros_like(p) for p in leaves.values())
    return {k: g.detach() for k, g in zip(leaves, gradient, strict=True)}, dict(zip(leaves, product, strict=True))


def _gradient(loss: Closure, parameters: Parameters) -> Parameters:
    leaves = {k: p.detach().requires_grad_(True) for k, p in parameters.items()}
    with torch.enable_grad():
        value = loss(leaves)
        if value.ndim:
            raise ValueError(f"the loss has shape {tuple(value.shape)}, but must be a scalar")
        return dict(zip(leaves, torch.autograd.grad(value, list(leaves.values()), materialize_grads=True), strict=True))


def gradient_curvature(
    loss: Closure, parameters: Parameters, precondition: Parameters | None = None, gradient: Parameters | None = None
) -> float:
    """g^T P H g / |g|^2 with g the gradient and P = diag(`precondition`), by one Hessian-vector product.

    Args:
        loss: ``params -> scalar``.
        parameters: where.
        precondition: the diagonal by name; None is the identity.
        gradient: the direction; None computes the gradient there.

    Returns:
        The curvature; 0 where the gradient vanishes.
    """
    if gradient is None:
        gradient = _gradient(loss, parameters)
    norm = math.sqrt(sum(float(g.square().sum()) for g in gradient.values()))
    if norm == 0:
        return 0.0
    unit = {k: g / norm for k, g in gradient.items()}
    _, product = hessian_product(loss, parameters, unit)
    weight = unit if precondition is None else {k: u * precondition[k] for k, u in unit.items()}
    return float(sum((weight[k] * h).sum() for k, h in product.items()))


@dataclass(frozen=True)
class Eigenvalue:
    """An extreme eigenvalue: its `value`, its `vector` by parameter name, the `residual` |A v - value v|."""

    value: float
    vector: Parameters
    residual: float


def largest_eigenvalue(
    loss: Closure,
    parameters: Parameters,
    precondition: Parameters | None = None,
    iterations: int = 30,
    start: Parameters | None = None,
    generator: torch.Generator | None = None,
) -> Eigenvalue:
    """Largest eigenvalue of the Hessian, or of P H for a positive diagonal P, by Lanczos with full orthogonalisation.

    P H has the eigenvalues of the symmetric P^(1/2) H P^(1/2), which is what is multiplied.

    Args:
        loss: ``params -> scalar``.
        parameters: where.
        precondition: the diagonal of P by name; None is the identity.
        iterations: Hessian-vector products at most.
        start: first vector, e.g. the `vector` of an earlier call; None draws one.
        generator: of the first vector; None is one seeded 0.

    Returns:
        The eigenvalue, the eigenvector of the symmetric form, and the residual, which bounds the error.
    """
    names, like = list(parameters), next(iter(parameters.values()))
    root = None if precondition is None else flatten({k: precondition[k] for k in names}).sqrt()

    def product(v: Tensor) -> Tensor:
        scaled = v if root is None else v * root
        out = flatten(hessian_product(loss, parameters, _shaped(scaled, parameters))[1])
        return out if root is None else out * root

    if start is None:
        generator = torch.Generator().manual_seed(0) if generator is None else generator
        count = sum(p.numel() for p in parameters.values())
        v = torch.randn(count, dtype=torch.float64, generator=generator).to(like)
    else:
        v = flatten({k: start[k] for k in names}).clone()
    basis, alphas, betas = [v / v.norm()], [], []
    for _ in range(min(iterations, len(v))):
        w = product(basis[-1])
        alphas.append(float(basis[-1] @ w))
        stack = torch.stack(basis)
        for _ in range(2):  # twice is enough
            w = w - stack.T @ (stack @ w)
        betas.append(float(w.norm()))
        if betas[-1] <= 1e-12 * max(map(abs, alphas)) or not math.isfinite(betas[-1]):
            break
        basis.append(w / betas[-1])
    k = len(alphas)
    values, vectors = np.linalg.eigh(np.diag(alphas) + np.diag(betas[: k - 1], 1) + np.diag(betas[: k - 1], -1))
    combined = torch.stack(basis[:k]).T @ torch.as_tensor(vectors[:, -1]).to(like)
    return Eigenvalue(float(values[-1]), _shaped(combined, parameters), abs(betas[-1] * float(vectors[-1, -1])))


def _shaped(vector: Tensor, like: Parameters) -> Parameters:
    parts = vector.split([p.numel() for p in like.values()])
    return {k: part.reshape(p.shape) for (k, p), part in zip(like.items(), parts, strict=True)}


def adam_preconditioner(
    second_moments: Parameters,
    step: int,
    betas: tuple[float, float] = (0.9, 0.999),
    eps: float = 1e-8,
    momentum: bool = True,
) -> Parameters:
    """The diagonal by which Adam multiplies the Hessian, with the factor of its momentum (arXiv:2506.04805).

    Args:
        second_moments: v, as in the optimiser's ``exp_avg_sq`` (not bias-corrected).
        step: number of steps taken, from 1.
        betas: of Adam.
        eps: of Adam.
        momentum: False leaves the factor (1 - beta1) / ((1 + beta1) (1 - beta1^step)) out, which gives false alarms.
    """
    b1, b2 = betas
    factor = (1 - b1) / ((1 + b1) * (1 - b1**step)) if momentum else 1.0
    return {k: factor / ((v / (1 - b2**step)).sqrt() + eps) for k, v in second_moments.items()}


class AdamStability(Diagnostic):
    """Early warning of loss spikes under Adam.

    Records ``curvature`` along the gradient, ``threshold`` 2 / eta, ``margin`` = curvature / threshold (a spike follows
    when it stays above 1), ``warning`` (1 if so for `patience` measurements running), ``lag`` = |g^2| / |v|
    (small: the preconditioner is behind) and, if asked for, ``largest`` with its ``residual``.

    Args:
        lr: learning rate, or a function of the stage's progress in [0, 1].
        betas: of Adam.
        eps: of Adam.
        schedule: None measures every 10 steps; the gradients are followed at every step all the same.
        eigenvalue: also compute the largest eigenvalue with this many Hessian-vector products; 0 does not.
        momentum: see `adam_preconditioner`.
        patience: measurements above the threshold that make a warning.

    Pitfalls: it follows v from the first step it sees; attached later or after a resumption it is right after about
    ``3 / (1 - beta2)`` steps. Where the points are redrawn, curvature is that of the current points.
    """

    name = "stability"

    def __init__(
        self,
        lr: float | Callable[[float], float],
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        schedule: Schedule | None = None,
        eigenvalue: int = 0,
        momentum: bool = True,
        patience: int = 2,
    ) -> None:
        super().__init__(every(10) if schedule is None else schedule)
        self.lr, self.betas, self.eps = lr, betas, eps
        self.eigenvalue, self.momentum, self.patience = eigenvalue, momentum, patience
        self.second_moments: Parameters = {}
        self.steps = self.above = 0
        self.last: Parameters | None = None

    def __call__(self, step: Any) -> Record | None:
        """Follow the second moments; measure when due."""
        self.follow(State.of(step).gradients)
        return super().__call__(step)

    def follow(self, gradients: Any) -> None:
        """Update v = beta2 v + (1 - beta2) g^2 with the gradient of one step, by parameter name."""
        if not gradients:
            raise ValueError(
                "the parameters have no gradients; AdamStability must be called after each Adam step of a training"
            )
        self.steps += 1
        with torch.no_grad():
            for k, g in gradients.items():
                if k in self.second_moments and self.second_moments[k].shape == g.shape:
                    self.second_moments[k].mul_(self.betas[1]).addcmul_(g, g, value=1 - self.betas[1])
                else:
                    self.second_moments[k] = (1 - self.betas[1]) * g.detach().square()

    def observe(self, state: State) -> Record:
        """Curvature against threshold."""
        if not self.steps:
            raise ValueError("no step has been followed yet; run AdamStability as a callback of the training")
        parameters = {k: p for k, p in parameters_of(state.module).items() if k in self.second_moments}
        loss = _restricted(state, parameters)
        diagonal = adam_preconditioner(self.second_moments, self.steps, self.betas, self.eps, self.momentum)
        gradient = _gradient(loss, parameters)
        curvature = gradient_curvature(loss, parameters, diagonal, gradient)
        threshold = 2 / (self.lr(state.progress) if callable(self.lr) else self.lr)
        self.above = self.above + 1 if curvature > threshold else 0
        squares = math.sqrt(sum(float(g.double().pow(4).sum()) for g in gradient.values()))
        moments = math.sqrt(sum(float(v.double().square().sum()) for v in self.second_moments.values()))
        record: Record = {
            "curvature": curvature,
            "threshold": threshold,
            "margin": curvature / threshold,
            "warning": int(self.above >= self.patience),
            "lag": squares / moments if moments > 0 else 1.0,
        }
        if self.eigenvalue:
            found = largest_eigenvalue(loss, parameters, diagonal, self.eigenvalue, self.last)
            self.last = found.vector
            record |= {"largest": found.value, "residual": found.residual}
        return record

    def draw(self, figure: Any, records: Sequence[Record]) -> None:
        """Curvature and threshold against the step."""
        axes = figure.subplots()
        for key in ("curvature", "largest", "threshold"):
            if any(f"{self.name}.{key}" in r for r in records):
                steps, values = self.series(key, records)
                axes.plot(steps, np.where(values > 0, values, np.nan), "k--" if key == "threshold" else "-", label=key)
        axes.set(xlabel="step", yscale="log", title="curvature of the preconditioned Hessian")
        axes.legend()


def _restricted(state: State, parameters: Parameters) -> Closure:
    """The loss as a function of some parameters, the others as they are."""
    rest = {k: p for k, p in parameters_of(state.module).items() if k not in parameters}
    loss = state.closure()
    return (lambda p: loss({**rest, **p})) if rest else loss


# ---------------------------------------------------------------------------------------------------------------- stage


@dataclass(frozen=True)
class Stabilized:
    """A training stage: another Adam stage whose learning rate is held below the threshold of instability.

        fit(model, objective, batches, stages=[theory.stabilized(Adam(5000, lr=1e-2))])

    Every `interval` steps the curvature along the gradient of the Adam-preconditioned Hessian is measured, and the
    learning rate is capped at ``safety * 2 / curvature``; the cap rises again by at most `release` per measurement.

    Attributes:
        then: a stage with ``lr``, ``schedule`` and ``betas`` whose stepper's state is that of `torch.optim.Adam`.
        interval: steps between measurements, each about the price of two extra steps.
        safety: share of the threshold that is used.
        release: factor by which the cap may rise per measurement.
    """

    then: Any
    interval: int = 10
    safety: float = 0.8
    release: float = 1.2

    def __post_init__(self) -> None:
        """Check the stage and the numbers."""
        missing = [a for a in ("lr", "schedule", "betas", "steps", "start") if not hasattr(self.then, a)]
        if missing:
            raise TypeError(
                f"stabilized then is a {type(self.then).__name__} without {missing[0]!r}, but must be an Adam stage"
            )
        if self.interval < 1 or not 0 < self.safety <= 1 or self.release < 1:
            raise ValueError(
                f"interval, safety, release are {self.interval}, {self.safety}, {self.release}, "
                "but must be >= 1, in (0, 1] and >= 1"
            )

    @property
    def steps(self) -> int:
        """Those of `then`."""
        return self.then.steps

    @property
    def resample(self) -> int | None:
        """That of `then`."""
        return self.then.resample

    def start(self, model: nn.Module) -> Any:
        """Begin on a model."""
        return _StabilizedStepper(self, model)


stabilized = Stabilized  # a participle reads better in a list of stages


class _StabilizedStepper:
    def __init__(self, stage: Stabilized, model: nn.Module) -> None:
        self.stage, self.model = stage, model
        self.cap, self.count = math.inf, 0
        self.inner = replace(stage.then, schedule=self._schedule).start(model)

    @property
    def reason(self) -> str:
        return self.inner.reason

    def _schedule(self, progress: float) -> float:
        return min(self.stage.then.schedule(progress), self.cap / self.stage.then.lr)

    def step(self, work: Any) -> None:
        if self.count and self.count % self.stage.interval == 0:
            self._measure(work)
        self.inner.step(work)
        self.count += 1

    def _measure(self, work: Any) -> None:
        state = self.inner.state()["state"]
        names = [k for k, p in self.model.named_parameters() if p.requires_grad]
        moments = {names[i]: s["exp_avg_sq"] for i, s in state.items()}
        steps = int(next(iter(state.values()))["step"])
        parameters = {k: p for k, p in parameters_of(self.model).items() if k in moments}
        with untouched(self.model):
            loss = loss_closures(self.model, work.objective, work.batch)["loss"]
            diagonal = adam_preconditioner(moments, steps, self.stage.then.betas)
            curvature = gradient_curvature(
                _restricted(State(self.model, losses={"loss": loss}), parameters), parameters, diagonal
            )
        bound = self.stage.safety * 2 / curvature if curvature > 0 else math.inf
        self.cap = min(bound, self.cap * self.stage.release)

    def state(self) -> Any:
        return {"inner": self.inner.state(), "cap": str(self.cap), "count": self.count}

    def load(self, state: Any) -> None:
        self.inner.load(state["inner"])
        self.cap, self.count = float(state["cap"]), state["count"]
