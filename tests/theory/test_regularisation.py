"""ASI, the deterministic dropout penalty, the loss switch and observation graphs against exact answers."""

import itertools

import numpy as np
import pytest
import torch
from torch import nn

from sciml import theory
from sciml.calculus import jet
from sciml.networks import Dense
from sciml.theory.basis import Sine
from sciml.theory.functional import parameter_jacobian
from sciml.theory.regularisation import ASI, LossSwitch, dropout_penalty, dropout_roughness, observation_graph


def draw(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_asi_starts_at_zero_with_the_same_tangent_kernel():
    net, x = Dense(2, (20, 20), generator=torch.Generator().manual_seed(3)), draw(30, 2)
    asi = ASI(net)
    assert float(net(x).detach().abs().max()) > 0
    assert torch.equal(asi(x), torch.zeros(30, dtype=torch.float64))
    j, k = parameter_jacobian(net, x), parameter_jacobian(asi, x)
    kernel = j @ j.T
    assert float((k @ k.T - kernel).norm() / kernel.norm()) < 1e-14


def test_asi_has_fast_jets_and_trains():
    asi, x = ASI(Dense(2, (8,))), draw(10, 2)
    with torch.no_grad():
        next(asi.plus.parameters()).add_(0.3)
    slow = jet(lambda y: asi(y), x)
    fast = jet(asi, x)
    assert torch.allclose(fast.laplacian, slow.laplacian) and torch.allclose(fast.gradient, slow.gradient)
    with pytest.raises(TypeError, match="network"):
        ASI(lambda y: y)


@pytest.mark.parametrize("width", [1, 4, 10])
@pytest.mark.parametrize("keep", [0.5, 0.9])
@pytest.mark.parametrize("outputs", [1, 3])
def test_dropout_penalty_is_the_mean_over_all_masks(width, keep, outputs):
    net, x, y = Dense(2, (5, width), outputs), draw(7, 2), draw(7, outputs, seed=1)
    h = torch.tanh(net.layers[1](torch.tanh(net.layers[0](x))))
    total = 0.0
    for mask in itertools.product((0.0, 1.0), repeat=width):
        eta = torch.tensor(mask, dtype=torch.float64)
        chance = float((keep**eta * (1 - keep) ** (1 - eta)).prod())
        total += chance * float((net.layers[2](h * eta / keep) - y).square().sum().detach()) / (2 * len(x))
    loss = float((net(x).reshape(7, outputs) - y).square().sum().detach()) / (2 * len(x))
    assert float(dropout_penalty(net, x, keep).detach()) == pytest.approx(total - loss, rel=1e-12, abs=1e-12)


def test_dropout_penalty_is_differentiable_and_vanishes_without_dropout():
    net, x = Dense(2, (5, 6)), draw(7, 2)
    dropout_penalty(net, x, 0.9).backward()
    assert all(p.grad is not None for p in list(net.parameters())[:-1])
    assert float(dropout_penalty(net, x, 1.0).detach()) == 0
    for keep in (0.0, 1.5):
        with pytest.raises(ValueError, match="probability"):
            dropout_penalty(net, x, keep)
    with pytest.raises(ValueError, match="no chain"):
        dropout_penalty(nn.LSTM(2, 2), x, 0.9)


def test_dropout_roughness_without_dropout_is_the_gradient():
    net, x, y = Dense(2, (5,)), draw(7, 2), draw(7)
    loss = (net(x) - y).square().sum() / 14
    square = sum(float(g.square().sum()) for g in torch.autograd.grad(loss, list(net.parameters())))
    assert dropout_roughness(net, x, y, 1.0, 0.1, samples=1) == pytest.approx(0.025 * square)
    assert dropout_roughness(net, x, y, 0.5, 0.1) > 0.025 * square


# ---------------------------------------------------------------------------------------------------------- loss switch


class Spectrum(nn.Module):
    """u = sum_k c_k sin kx with trainable coefficients."""

    def __init__(self, values):
        super().__init__()
        self.c = nn.Parameter(torch.as_tensor(values, dtype=torch.float64))

    def forward(self, x):
        k = torch.arange(1, len(self.c) + 1, dtype=torch.float64)
        return torch.sin(x * k) @ self.c


def test_modes_contract_by_their_own_rates_on_the_residual():
    """On |u''|^2 / 2 per mode gradient descent multiplies c_k by 1 - lr k^4, on the data loss by 1 - lr."""
    x = torch.linspace(0, np.pi, 66, dtype=torch.float64)[1:-1, None]
    for power in (0, 4):
        net = Spectrum([1.0, 1.0, 1.0])
        u = net(x) if power == 0 else -jet(net, x).laplacian
        (u.square().sum() / 65).backward()
        contraction = 1 - 0.01 * net.c.grad
        assert contraction.tolist() == pytest.approx([1 - 0.01 * k**power for k in (1, 2, 3)], abs=1e-10)


class Step:
    """What a training shows to callbacks."""

    def __init__(self, number, model, terms):
        self.number, self.model, self.terms = number, model, terms
        self.seconds, self.loss = 0.0, sum(terms.values())


def test_switch_is_seen_and_measured():
    basis = Sine([0.0], [np.pi], 63)
    monitor = LossSwitch(lambda x: torch.zeros(len(x), dtype=x.dtype), basis=basis, window=3)
    sizes = [1.0, 0.1, 0.1, 1.0, 2.0, 0.5, 50.0]
    for k, size in enumerate(sizes):
        monitor(Step(k, Spectrum([0.0, 0.0, size]), {"data" if k < 3 else "equation": size}))
    (jump,) = monitor.jumps
    assert jump["J_mse"] == pytest.approx(400) and jump["J_rel_l2"] == pytest.approx(20)
    assert int(np.argmax(jump["after"])) == 2 and jump["low"] == pytest.approx([1.0, 1.0])
    assert monitor.series("jump")[1][-1] == pytest.approx(250000)
    assert monitor.plot() is not None


def test_control_without_a_change_of_terms():
    monitor = LossSwitch(lambda x: 0 * x[:, 0], points=draw(20, 1))
    with pytest.raises(ValueError, match="nothing was measured"):
        monitor.switch()
    for k in range(5):
        monitor(Step(k, Spectrum([1.0]), {"data": 1.0}))
    assert monitor.jumps == []
    monitor.switch()
    monitor(Step(5, Spectrum([1.0]), {"data": 1.0}))
    assert monitor.jumps[0]["J_mse"] == pytest.approx(1)
    with pytest.raises(ValueError, match="points or a basis"):
        LossSwitch(lambda x: x)


# ---------------------------------------------------------------------------------------------------- matrix completion


def complete(observed, start=1e-4, steps=6000, lr=0.1):
    """W = A B from a small start by gradient descent on the observed entries (nan where not)."""
    d = len(observed)
    target = torch.tensor(observed, dtype=torch.float64)
    seen = ~torch.isnan(target)
    a, b = start * draw(d, d, seed=3), start * draw(d, d, seed=4)
    for _ in range(steps):
        gap = torch.where(seen, a @ b - target.nan_to_num(), 0.0)
        a, b = a - lr * gap @ b.T, b - lr * a.T @ gap
    return a @ b


NAN = float("nan")


def test_connected_observations_give_the_lowest_rank():
    w = complete([[1, 2], [0.5, NAN]])
    s = torch.linalg.svdvals(w)
    assert float(w[1, 1]) == pytest.approx(1.0, abs=1e-3) and float(s[1]) < 1e-4
    assert observation_graph([[1, 1], [1, 0]]).connected


@pytest.mark.parametrize(("diagonal", "norm"), [((1.0, 1.0), 2.0), ((1.0, 2.0), 3.0)])
def test_disconnected_observations_give_the_lowest_nuclear_norm(diagonal, norm):
    w = complete([[diagonal[0], NAN], [NAN, diagonal[1]]])
    assert float(torch.linalg.svdvals(w).sum()) == pytest.approx(norm, abs=1e-3)
    graph = observation_graph([[1, 0], [0, 1]])
    assert not graph.connected and graph.bias == "lowest nuclear norm"
    assert graph.components == (((0,), (0,)), ((1,), (1,)))


def test_other_graphs():
    mixed = observation_graph([[1, 1, 0], [1, 0, 0], [0, 0, 1]])
    assert mixed.bias == "lowest rank in each component" and mixed.complete == (False, True)
    gap = observation_graph([[1, 1, 0], [1, 1, 0]])
    assert gap.unseen == ((), (2,)) and not gap.connected and gap.bias == "lowest nuclear norm"
    for bad in ([1, 0], [[0, 0], [0, 0]]):
        with pytest.raises(ValueError, match="mask has shape"):
            observation_graph(bad)


def test_public_names():
    assert theory.ASI is ASI and theory.observation_graph is observation_graph
