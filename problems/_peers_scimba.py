"""scimba on the peers' problems: its energy natural gradient for PINNs, as its own elliptic examples use it.

Networks are small, since each step factorises a matrix of the number of parameters: two layers of 32 to 40 sines, of
five times 20 tanh for Burgers' equation. Values on the edge of a box are built in (``post_processing``); holes, which
have no such factor, get a weak condition. Oscillating problems see stretched coordinates (``pre_processing``). The
Armijo line search and the adaptive regularisation are scimba's, whose default, to step by 0.01 even where the loss does
not fall, let all four problems blow up: a step that fails is not taken here. Points are drawn anew in every step.
"""
# mypy: ignore-errors

import numpy as np
import torch
from _peers_equations import NU, Meter
from scimba_torch.approximation_space.nn_space import NNxSpace
from scimba_torch.domain.meshless_domain.domain_nd import HypercubeND
from scimba_torch.integration.monte_carlo import DomainSampler, TensorizedSampler
from scimba_torch.integration.monte_carlo_parameters import UniformParametricSampler
from scimba_torch.neural_nets.coordinates_based_nets.mlp import GenericMLP
from scimba_torch.numerical_solvers.elliptic_pde.pinns import NaturalGradientPinnsElliptic
from scimba_torch.physical_models.elliptic_pde.abstract_elliptic_pde import StrongFormEllipticPDE
from scimba_torch.utils.scimba_tensors import LabelTensor

LAYERS = {"holes": [40, 40], "five": [32, 32], "burgers": [20] * 5, "line": [32, 32]}
POINTS = {"holes": 3000, "five": 2500, "burgers": 3000, "line": 1500}
STRETCH = {"holes": 15.0, "line": 300.0}
# of the squared residual, which on the perforated square has the size mu^4, and of the squared boundary error
WEIGHTS = {"holes": (1e-4, 100.0)}


class OutOfTime(Exception):
    """Ends the training."""


class Points(DomainSampler):
    """The points of the problem, for the geometry library of scimba has no ellipse among holes."""

    def __init__(self, problem, generator):
        self.problem, self.generator = problem, generator

    def labelled(self, x):
        return LabelTensor(x.requires_grad_(), torch.zeros(len(x), dtype=torch.int32))

    def sample(self, n):
        return self.labelled(self.problem.interior(n, self.generator))

    def bc_sample(self, n):
        x = self.problem.boundary(n + 20, self.generator)
        x = x[torch.randperm(len(x), generator=self.generator)[:n]]
        return self.labelled(x), self.labelled(torch.zeros_like(x))

    def get_list_of_labels(self):
        return [0]

    def get_list_of_bc_labels(self):
        return [0]


class Equation(StrongFormEllipticPDE):
    """The residual, for the loss by autograd and for the metric by `torch.func` at one point."""

    def __init__(self, space, problem):
        super().__init__(space, linear=problem.name != "burgers", residual_size=1, bc_residual_size=1)
        self.problem = problem

    def left(self, x, u, gradient, hessian):
        """The left-hand side at points ``(n, d)``, u ``(n,)``, gradient ``(n, d)``, pure second derivatives alike."""
        if self.problem.name == "burgers":
            return gradient[:, 0] + u * gradient[:, 1] - NU * hessian[:, 1]
        a, slope = self.problem.diffusion(x)
        return -a * hessian.sum(1) - (slope * gradient).sum(1)

    def operator(self, w, x, mu):
        points, u = x.x, w.w
        gradient = torch.autograd.grad(u.sum(), points, create_graph=True)[0]
        pure = [
            torch.autograd.grad(gradient[:, i].sum(), points, create_graph=True)[0][:, i]
            for i in range(points.shape[1])
        ]
        return self.left(points, u[:, 0], gradient, torch.stack(pure, 1))[:, None]

    def functional_operator(self, func, x, mu, theta):
        slope = torch.func.jacrev(func, 0)
        hessian = torch.func.jacrev(slope, 0)(x, mu, theta)[0]
        gradient, u = slope(x, mu, theta), func(x, mu, theta)
        return self.left(x[None], u, gradient, hessian.diagonal()[None])

    def rhs(self, w, x, mu):
        points = x.x.detach()
        return torch.zeros_like(w.w) if self.problem.name == "burgers" else self.problem.source(points)[:, None]

    def bc_operator(self, w, x, n, mu):
        return w.w

    def functional_operator_bc(self, func, x, n, mu, theta):
        return func(x, mu, theta)

    def bc_rhs(self, w, x, n, mu):
        return self.problem.given(x.x.detach())[:, None]


def space_of(problem, generator):
    """The network with its built-in values."""
    low, high = problem.low, problem.high
    middle, stretch = (low + high) / 2, STRETCH.get(problem.name, 1.0)

    def built_in(y, x, mu):
        x = x.x
        if problem.name == "burgers":  # u = -sin pi x + t (1 - x^2) N
            return -torch.sin(np.pi * x[:, 1:]) + x[:, :1] * (1 - x[:, 1:] ** 2) * y
        if problem.name == "holes":
            return y
        return (4 * (x - low) * (high - x) / (high - low) ** 2).prod(1, keepdim=True) * y

    sampler = TensorizedSampler([Points(problem, generator), UniformParametricSampler([])])
    domain = HypercubeND(torch.stack([low, high], 1), is_main_domain=True)
    return NNxSpace(
        1,
        0,
        GenericMLP,
        domain,
        sampler,
        layer_sizes=LAYERS[problem.name],
        activation_type="tanh" if problem.name == "burgers" else "sine",
        pre_processing=lambda x, mu: stretch * (x.x - middle),
        pre_processing_out_size=problem.dim,
        post_processing=built_in,
    )


def main():
    meter = Meter()
    problem = meter.problem
    torch.set_default_dtype(torch.float64)
    torch.manual_seed(meter.seed)
    space = space_of(problem, meter.generator())
    inside, edge = WEIGHTS.get(problem.name, (1.0, 1.0))

    def predict(x):
        return space.evaluate(LabelTensor(x), LabelTensor(torch.zeros(len(x), 0))).w

    def watch(data):
        meter.every(predict)
        if meter.left <= 0:
            raise OutOfTime

    solver = NaturalGradientPinnsElliptic(
        Equation(space, problem),
        bc_type="weak" if problem.name == "holes" else "strong",
        in_weight=inside,
        bc_weight=edge,
        matrix_regularization=1e-3,
        adaptive_matrix_regularization=True,
        default_lr=1e-12,
        create_quantities_for_loss=watch,
    )
    meter.fresh()
    try:
        solver.solve(epochs=10**6, n_collocation=POINTS[problem.name], n_bc_collocation=1000, silent=True)
    except OutOfTime:
        pass
    meter.record(predict, "end")
    meter.write("")


if __name__ == "__main__":
    main()
