"""Coordinates of the named initialisations, S_w of the three regimes, distances and linearisation."""

import math

import numpy as np
import pytest
import torch
from torch import nn

from sciml import theory
from sciml.networks import Dense, Mscale, init_rate
from sciml.theory import regimes
from sciml.theory.regimes import Coordinates, Linearisation, RelativeDistance, initial_regime
from sciml.theory.sweep import RegimeSweep, TwoLayer

TABLE = {
    "lecun": (regimes.lecun_scaling, (0.5, 0.5), "linear"),
    "he": (regimes.he_scaling, (0.5, 0.5), "linear"),
    "xavier": (regimes.xavier_scaling, (1.0, 0.0), "critical"),
    "ntk": (regimes.ntk_scaling, (0.5, 0.0), "linear"),
    "mean field": (regimes.mean_field, (1.0, 0.0), "critical"),
    "e et al.": (regimes.e_et_al(lambda m, d: m**-1.5), (1.5, 1.5), "linear"),
}


def draw(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("name", TABLE)
@pytest.mark.parametrize("d", [1, 7])
def test_coordinates_table(name, d):
    scaling, expected, regime = TABLE[name]
    assert tuple(scaling.coordinates(d)) == expected
    assert scaling.coordinates(d).regime == regime


@pytest.mark.parametrize(
    ("place", "regime"),
    [
        ((0.9, -3), "linear"),
        ((1.0, -1), "critical"),
        ((1.2, 0), "condensed"),
        ((1.2, 0.2), "critical"),
        ((1.2, 0.5), "linear"),
    ],
)
def test_phases(place, regime):
    assert Coordinates(*place).regime == regime


@pytest.mark.parametrize("gamma", [0.5, 1.0, 1.5])
def test_measured_coordinates_of_a_network(gamma):
    m = 2000
    net = Dense(1, (m,), initialisation=init_rate(gamma), generator=torch.Generator().manual_seed(0))
    (found,) = initial_regime(net)
    assert found.width == m and found.coordinates.gamma == pytest.approx(gamma, abs=0.02)
    assert found.coordinates.gamma_prime == pytest.approx(gamma, abs=0.02)


def test_measured_coordinates_of_torch_defaults_lie_on_the_linear_side():
    net = nn.Sequential(nn.Linear(1, 3000), nn.Tanh(), nn.Linear(3000, 1))
    with torch.no_grad():
        for p, fan in zip(net.parameters(), (1, 1, 3000, 3000), strict=True):
            p.copy_((torch.rand(p.shape, generator=torch.Generator().manual_seed(1)) * 2 - 1) / fan**0.5)
    (found,) = initial_regime(net)
    assert found.coordinates.regime == "linear" and found.coordinates.gamma == pytest.approx(0.5, abs=0.15)


def test_deeper_and_stacked_networks_have_a_pair_per_two_layers():
    deep = initial_regime(Dense(2, (30, 40, 50)))
    assert [r.width for r in deep] == [30, 40, 50]
    stacked = initial_regime(Mscale(1, (20, 20), (1, 2, 4)))
    assert len(stacked) == 6 and {r.width for r in stacked} == {20}


def test_networks_without_neurons_are_refused():
    for net in (nn.Linear(2, 3), nn.LSTM(2, 3)):
        with pytest.raises(ValueError, match="neurons"):
            initial_regime(net)
    with pytest.raises(ValueError, match="do not vary"):
        net = Dense(1, (5,))
        net.layers[0].weight.data.zero_()
        net.layers[0].bias.data.zero_()
        initial_regime(net)


def test_slopes_of_the_three_regimes():
    x = torch.tensor([[-0.5], [0.0], [0.5]], dtype=torch.float64)
    y = torch.tensor([-0.5, 0.0, 1.0], dtype=torch.float64)
    sweep = RegimeSweep(x, y, widths=(250, 1000, 4000), seeds=(0,), tolerance=1e-2, steps=5000)
    found = sweep.run()
    assert found.losses.max() <= 1e-2
    assert np.abs(found.slopes[0] - [-0.51, 0.01, 0.37]).max() < 0.1
    assert found.plot() is not None


def test_sweep_refuses_one_width():
    x = torch.zeros(3, 1, dtype=torch.float64)
    with pytest.raises(ValueError, match="two widths"):
        RegimeSweep(x, x[:, 0], widths=(100,))
    with pytest.raises(ValueError, match="values has shape"):
        RegimeSweep(x, x)


def test_two_layer_has_the_coordinates_asked_for():
    net = TwoLayer(4000, 1.3, 0.4).requires_grad_(False)
    log = math.log(4000)
    assert -math.log(float(net.a.std()) * float(net.rows.std()) / net.alpha) / log == pytest.approx(1.3, abs=0.01)
    assert -math.log(float(net.a.std()) / float(net.rows.std())) / log == pytest.approx(0.4, abs=0.01)


def test_relative_distance_by_hand():
    net = Dense(1, (3,))
    distance = RelativeDistance(net)
    assert set(distance.measure(net).values()) == {0.0}
    with torch.no_grad():
        for p in net.layers[0].parameters():
            p.mul_(1.5)
    found = distance.measure(net)
    assert found["layers.0"] == pytest.approx(0.5) and found["layers.1"] == 0
    assert 0 < found["all"] < 0.5
    with pytest.raises(ValueError, match="other parameters"):
        distance.measure(theory.add_neurons(net, 2))


def test_relative_distance_begins_anew_where_a_network_grows():
    net, distance = Dense(1, (3,)), RelativeDistance()
    distance.measure(net)
    with torch.no_grad():
        net.layers[0].weight.mul_(2)
    assert distance.measure(net)["all"] > 0
    wide = theory.add_neurons(net, 2)
    assert distance.measure(wide)["all"] == 0
    with torch.no_grad():
        wide.layers[0].weight.mul_(2)
    assert distance.measure(wide)["layers.0"] > 0


@pytest.mark.parametrize("fourier", [None, 1.0])
def test_layers_of_stacked_subnetworks_are_told_apart(fourier):
    net = Mscale(1, (4, 4), (1, 2), fourier=fourier)
    distance = RelativeDistance(net)
    with torch.no_grad():
        net.biases[-1].add_(1.0)
    found = distance.measure(net)
    assert set(found) == {"weights.0", "weights.1", "weights.2", "all"}
    assert found["weights.2"] > 0 and found["weights.0"] == found["weights.1"] == 0


def test_linearisation_error_is_second_order():
    start, x = Dense(2, (10, 10)), draw(20, 2)
    probe, errors = Linearisation(x, start), []
    for size in (1e-2, 5e-3, 2.5e-3):
        net = Dense(2, (10, 10))
        with torch.no_grad():
            for k, p in enumerate(net.parameters()):
                p.add_(size * draw(*p.shape, seed=k))
        errors.append(probe.measure(net)["error"])
    ratios = [a / b for a, b in zip(errors, errors[1:], strict=False)]
    assert ratios == pytest.approx([4, 4], rel=0.2)
    assert Linearisation(x).measure(start)["error"] == 0


def test_kernel_networks_stay_linear_and_condensed_ones_do_not():
    """The same data, fitted alike: the linearisation error tells gamma = 0.5 from 1.5."""
    x = torch.linspace(-1, 1, 8, dtype=torch.float64)[:, None]
    y = torch.sin(2 * x[:, 0])
    errors = []
    for gamma, lr in ((0.5, 0.3), (1.5, 1500.0)):
        net = TwoLayer(300, gamma, activation=torch.tanh, generator=torch.Generator().manual_seed(2))
        probe = Linearisation(x, net)
        for _ in range(150):
            net.zero_grad()
            (net(x) - y).square().mean().backward()
            with torch.no_grad():
                for p in net.parameters():
                    p -= lr * p.grad
        assert float((net(x) - y).detach().square().mean()) < 0.1
        errors.append(probe.measure(net)["error"])
    assert errors[0] < 0.3 < 0.6 < errors[1]
