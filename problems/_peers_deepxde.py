"""DeepXDE on the peers' problems: tanh networks, Adam and then L-BFGS in float64, as its own examples and FAQ advise.

Values on the edge of a box are built in (output transform); holes, which have no such transform, get a Dirichlet term
of weight 100. Half of the time goes to Adam with a decaying rate, the rest to L-BFGS. Oscillating problems get Fourier
features, sin and cos of random wavenumbers in front of the network (its multi-scale network for PyTorch is newer than
the release), which serve it better than plain inputs.
"""
# mypy: ignore-errors

import os

os.environ["DDE_BACKEND"] = "pytorch"

import deepxde as dde  # noqa: E402
import numpy as np  # noqa: E402
import torch  # noqa: E402
from _peers_equations import DISCS, ELLIPSE, NU, Meter  # noqa: E402

SIZES = {"holes": [100, 100, 100], "five": [64, 64, 64], "burgers": [20] * 5, "line": [50, 50, 50]}
POINTS = {"holes": 3000, "five": 2000, "burgers": 4000, "line": 1000}
FOURIER = {"holes": 22.0, "line": 300.0}  # standard deviation of the wavenumbers


class Features(torch.nn.Module):
    """sin and cos of random projections, in front of a network."""

    def __init__(self, dim, sigma):
        super().__init__()
        self.register_buffer("frequencies", sigma * torch.randn(dim, 64))

    def forward(self, x):
        return torch.cat([torch.sin(x @ self.frequencies), torch.cos(x @ self.frequencies), x], 1)


class Watch(dde.callbacks.Callback):
    """Records errors and stops a stage when its time is over."""

    def __init__(self, meter, until):
        super().__init__()
        self.meter, self.until = meter, until

    def on_epoch_end(self):
        network = self.model.net

        def predict(x):
            network.eval()
            return network(x)

        self.meter.every(predict, self.model.opt_name if isinstance(self.model.opt_name, str) else "L-BFGS")
        if self.meter.total > self.until:
            self.model.stop_training = True


def geometry(problem):
    low, high = problem.low.tolist(), problem.high.tolist()
    if problem.name == "line":
        return dde.geometry.Interval(low[0], high[0])
    if problem.name == "five":
        return dde.geometry.Hypercube(low, high)
    domain = dde.geometry.Rectangle(low, high)
    if problem.name == "holes":
        for a, b, r in DISCS:
            domain = domain - dde.geometry.Disk([a, b], r)
        a, b, p, q = ELLIPSE
        domain = domain - dde.geometry.Ellipse([a, b], p, q)
    return domain


def residual(problem):
    def burgers(x, u):
        ux = dde.grad.jacobian(u, x, i=0, j=1)
        return dde.grad.jacobian(u, x, i=0, j=0) + u * ux - NU * dde.grad.hessian(u, x, i=1, j=1)

    def elliptic(x, u):
        laplacian = sum(dde.grad.hessian(u, x, i=i, j=i) for i in range(problem.dim))
        a, slope = problem.diffusion(x)
        value = a[:, None] * laplacian + problem.source(x)[:, None]
        if problem.name != "holes":
            gradient = torch.cat([dde.grad.jacobian(u, x, i=0, j=j) for j in range(problem.dim)], 1)
            value = value + (slope * gradient).sum(1, keepdim=True)
        return value

    return burgers if problem.name == "burgers" else elliptic


def network(problem):
    sigma = FOURIER.get(problem.name)
    inputs = problem.dim if sigma is None else problem.dim + 128
    net = dde.nn.FNN([inputs, *SIZES[problem.name], 1], "tanh", "Glorot uniform")
    if sigma is not None:
        net.apply_feature_transform(Features(problem.dim, sigma))
    low, high = problem.low, problem.high
    if problem.name == "burgers":  # u = -sin pi x + t (1 - x^2) N
        net.apply_output_transform(lambda x, y: -torch.sin(np.pi * x[:, 1:]) + x[:, :1] * (1 - x[:, 1:] ** 2) * y)
    elif problem.name != "holes":  # a factor that is 1 in the middle
        net.apply_output_transform(
            lambda x, y: (4 * (x - low) * (high - x) / (high - low) ** 2).prod(1, keepdim=True) * y
        )
    return net


def main():
    meter = Meter()
    problem = meter.problem
    dde.config.set_default_float("float64")
    dde.config.set_random_seed(meter.seed)
    conditions, edge, weights = [], 0, [1.0]
    domain = geometry(problem)
    if problem.name == "holes":
        truth = lambda x: problem.exact(torch.as_tensor(x, dtype=torch.float64)).numpy()[:, None]  # noqa: E731
        conditions, edge = [dde.icbc.DirichletBC(domain, truth, lambda x, on: on)], 1000
        weights = [1e-6, 100.0]  # the residual is of the size mu^2
    data = dde.data.PDE(
        domain,
        residual(problem),
        conditions,
        num_domain=POINTS[problem.name],
        num_boundary=edge,
        train_distribution="pseudo",
    )
    model = dde.Model(data, network(problem))
    model.compile("adam", lr=2e-3, loss_weights=weights, decay=("inverse time", 2000, 0.5))
    meter.fresh()  # the first compile imports most of torch
    model.train(iterations=10**7, display_every=10**9, verbose=0, callbacks=[Watch(meter, meter.budget / 2)])
    dde.optimizers.set_LBFGS_options(maxiter=10**6, gtol=0, maxcor=50)
    dde.optimizers.config.LBFGS_options["iter_per_step"] = 10
    model.stop_training = False
    model.compile("L-BFGS", loss_weights=weights)
    model.train(display_every=10**9, verbose=0, callbacks=[Watch(meter, meter.budget)])
    meter.record(lambda x: model.net(x), "end")
    meter.write("")


if __name__ == "__main__":
    main()
