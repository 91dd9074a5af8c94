"""Tangent kernels against explicit Jacobians, against gradient descent, and their order of frequencies."""

import numpy as np
import pytest
import torch
from torch import nn

from sciml.calculus import jet
from sciml.theory import Cosine, Fourier, Kernel, Sine, kernel_spectrum, ntk, parameter_jacobian, term_traces


def shallow(width, seed=0, activation=nn.Tanh):
    generator = torch.Generator().manual_seed(seed)
    net = nn.Sequential(nn.Linear(1, width), activation(), nn.Linear(width, 1)).double()
    with torch.no_grad():
        for p in net.parameters():
            p.uniform_(-1, 1, generator=generator)
        net[2].weight /= width**0.5
    return net


def slope(field, x):
    return jet(field, x, 1).gradient[..., 0]


@pytest.mark.parametrize("operator", [None, slope])
def test_jacobian_against_one_backward_pass_per_row(operator):
    net = shallow(7)
    x = torch.linspace(-1, 1, 5, dtype=torch.float64)[:, None]
    rows = []
    for i in range(5):
        one = x[i : i + 1].clone().requires_grad_()
        value = net(one).sum()
        if operator is not None:
            value = torch.autograd.grad(value, one, create_graph=True)[0].sum()
        grads = torch.autograd.grad(value, list(net.parameters()), allow_unused=True)
        flat = [torch.zeros_like(p) if g is None else g for g, p in zip(grads, net.parameters(), strict=True)]
        rows.append(torch.cat([f.reshape(-1) for f in flat]))
    j = parameter_jacobian(net, x, operator)
    assert torch.allclose(j, torch.stack(rows), atol=1e-13)
    assert torch.allclose(ntk(net, x, operator), j @ j.T)
    assert torch.allclose(ntk(net, x, operator, other=x[:2]), j @ j[:2].T)


@pytest.mark.parametrize("operator", [None, slope])
def test_large_eigenvalues_belong_to_low_frequencies(operator):
    for basis in (Cosine([-1.0], [1.0], 64), Fourier([-1.0], [1.0], 64)):
        assert Kernel(basis, operator).measure(shallow(400, activation=nn.ReLU))["order"] > 0.9


def test_predicted_steps_are_those_of_gradient_descent():
    # a linear model has a constant kernel: the prediction is exact
    basis = Sine([0.0], [1.0], 31)

    class Modes(nn.Module):
        def __init__(self):
            super().__init__()
            self.c = nn.Parameter(torch.ones(3, dtype=torch.float64))

        def forward(self, x):
            scales = torch.tensor([1.0, 0.5, 0.1], dtype=torch.float64)
            return torch.sin(torch.pi * x * torch.tensor([1.0, 2, 5])) @ (scales * self.c)

    s = kernel_spectrum(ntk(Modes(), basis.points), basis)
    assert np.allclose(s.wavenumbers[:3] / np.pi, [1, 2, 5])
    assert np.allclose(s.values[:3], [16, 4, 0.16]) and (s.values[3:] < s.resolution).all()
    steps = s.steps(rate=0.01, factor=0.5)
    assert np.isinf(steps[3:]).all()
    model = Modes()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    halved = [None] * 3
    for step in range(1, 500):
        optimizer.zero_grad()
        (model(basis.points).square().sum() / 2).backward()
        optimizer.step()
        for i in range(3):
            if halved[i] is None and model.c[i] <= 0.5:
                halved[i] = step
    assert halved == [int(np.ceil(t)) for t in steps[:3]]


def test_a_wide_network_keeps_its_kernel_and_a_narrow_one_does_not():
    change = []
    for width in (10, 1000):
        net, kernel = shallow(width), Kernel(Fourier([-1.0], [1.0], 24))
        kernel.record(net)
        x = kernel.basis.points
        optimizer = torch.optim.SGD(net.parameters(), lr=0.5 / width)
        for _ in range(100):
            optimizer.zero_grad()
            (net(x)[:, 0] - torch.sin(3 * x[:, 0])).square().mean().backward()
            optimizer.step()
        change.append(kernel.record(net)["kernel.change"])
    assert change[1] < change[0] / 3


def test_traces_balance_equation_and_boundary():
    net = shallow(50)
    inside = torch.linspace(-1, 1, 20, dtype=torch.float64)[:, None]
    found = term_traces(net, {"equation": (slope, inside), "boundary": (None, inside[[0, -1]])})
    products = [t["trace"] * t["weight"] for t in found.values()]
    assert products[0] == pytest.approx(products[1])
    j = parameter_jacobian(net, inside, slope)
    assert found["equation"]["trace"] == pytest.approx(float((j @ j.T).trace()) / 20)


def test_bad_input_is_refused():
    with pytest.raises(ValueError, match="a kernel takes at most 1024"):
        Kernel(Fourier([0.0], [1.0], 2000))
    with pytest.raises(ValueError, match="but the basis has 8 points"):
        kernel_spectrum(torch.eye(5), Fourier([0.0], [1.0], 8))
    with pytest.raises(ValueError, match="rate is 0"):
        kernel_spectrum(torch.eye(8, dtype=torch.float64), Fourier([0.0], [1.0], 8)).steps(0)
    with pytest.raises(ValueError, match="without a parameter that has requires_grad"):
        Kernel(Fourier([0.0], [1.0], 8)).measure(shallow(3).requires_grad_(False))
