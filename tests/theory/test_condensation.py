"""Condensation at tiny initialisation, counting by hand, and reduction against the function it must keep."""

import copy
import time

import pytest
import torch
from torch import nn

from sciml import Box, theory
from sciml.activations import relu, sine, tanh
from sciml.hard import Hard
from sciml.networks import Dense, Mscale
from sciml.theory.condensation import Condensation, clusters, effective_neurons, orientation_similarity
from sciml.theory.reduction import merge_exactly, reduce


def draw(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def difference(a, b, x=None):
    x = draw(200, 2, seed=9) if x is None else x
    with torch.no_grad():
        u, v = a(x), b(x)
    return float((u - v).abs().max() / u.abs().max())


def test_counting_by_hand():
    rows = torch.tensor([[1.0, 0.0], [0.99, 0.05], [-1.0, 0.0], [0.0, 1.0], [0.0, 0.0]])
    assert effective_neurons(rows) == 4
    assert effective_neurons(rows, signed=False) == 3
    assert effective_neurons(rows, threshold=0.99999) == 5
    assert clusters(orientation_similarity(rows))[0] == [0, 1]


def test_bias_belongs_to_the_neuron():
    layer = nn.Linear(1, 2).double()
    with torch.no_grad():
        layer.weight.fill_(1.0)
        layer.bias.copy_(torch.tensor([1.0, -1.0]))
    assert effective_neurons(layer) == 2


def test_tiny_weights_still_have_orientations():
    rows = draw(5, 3)
    assert torch.allclose(orientation_similarity(1e-200 * rows), orientation_similarity(rows))
    assert effective_neurons(1e-200 * rows[:1].expand(4, 3)) == 1


@pytest.fixture(scope="module")
def tiny():
    """5 inputs, 80 points in (-4, 2)^5, sum_k 3.5 sin(5 x_k + 1), 50 tanh neurons from 50^-2, Adam 1e-3."""
    x = torch.rand(80, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64) * 6 - 4
    y = (3.5 * torch.sin(5 * x + 1)).sum(1)
    net = nn.Sequential(nn.Linear(5, 50), nn.Tanh(), nn.Linear(50, 1)).double()
    with torch.no_grad():
        for k, p in enumerate(net.parameters()):
            p.copy_(50**-2 * draw(*p.shape, seed=k))
    optimizer, counts = torch.optim.Adam(net.parameters(), lr=1e-3), {}
    for step in range(1501):
        if step in (0, 10, 50, 100, 200, 400, 800, 1500):
            counts[step] = effective_neurons(net[0])
        optimizer.zero_grad()
        (net(x)[:, 0] - y).square().mean().backward()
        optimizer.step()
    return counts


def test_two_clusters_early(tiny):
    """Two orientations, +w and -w: the multiplicity of tanh at 0 is one (arXiv:2105.11686)."""
    assert tiny[0] > 20
    assert tiny[50] == tiny[100] == 2


def test_clusters_grow_later(tiny):
    assert tiny[100] < tiny[400] <= tiny[800] < tiny[1500] and tiny[1500] > 8


def test_gaussian_neurons_in_many_dimensions_do_not_condense():
    assert effective_neurons(draw(60, 20)) == 60


def test_as_a_diagnostic():
    net = Dense(2, (6, 4))
    net.layers[1].weight.data[:] = net.layers[1].weight.data[:1]
    net.layers[1].bias.data[:] = net.layers[1].bias.data[:1]
    probe = Condensation()
    found = probe.measure(net)
    assert found["layers.1"] == 1 and found["layers.1.ratio"] == 0.25 and set(found) == {
        "layers.0", "layers.0.ratio", "layers.1", "layers.1.ratio"
    }  # fmt: skip
    probe.record(net)
    assert probe.plot() is not None and probe.similarity(net, layer="layers.1") is not None
    with pytest.raises(ValueError, match="layers names 'x'"):
        Condensation(layers=["x"]).measure(net)


def test_stacked_subnetworks_are_read():
    found = Condensation().measure(Mscale(1, (6, 6), (1, 2)))
    assert {"weights.0[0]", "weights.0[1]", "weights.1[0]", "weights.1[1]"} <= set(found) and len(found) == 8


def test_layers_that_cannot_be_read_are_refused():
    for bad in (nn.LSTM(2, 2), nn.Conv1d(2, 2, 3), torch.zeros(3), nn.BatchNorm1d(3)):
        with pytest.raises(ValueError, match="layer"):
            effective_neurons(bad)
    with pytest.raises(ValueError, match="non-finite"):
        effective_neurons(torch.full((2, 2), float("nan")))
    with pytest.raises(ValueError, match="between 0 and 1"):
        effective_neurons(torch.ones(2, 2), threshold=1.0)
    with pytest.raises(ValueError, match="neurons can be read"):
        Condensation().measure(nn.BatchNorm1d(3))
    with pytest.raises(TypeError, match="parameters"):
        Condensation().measure(lambda x: x)


@pytest.mark.parametrize("signed", [True, False])
@pytest.mark.parametrize("seed", range(5))
def test_the_cover_is_greedy_and_covers(seed, signed):
    directions = draw(6, 3, seed=seed)
    cosines = orientation_similarity(directions[torch.arange(40) % 6] + 0.15 * draw(40, 3, seed=seed + 50))
    near = (cosines if signed else cosines.abs()) > 0.95
    left, expected = set(range(40)), []
    while left:
        centre = max(sorted(left), key=lambda k: sum(bool(near[k, j]) for j in left))
        members = [j for j in sorted(left) if near[centre, j]]
        expected.append([centre, *(j for j in members if j != centre)])
        left -= set(members)
    found = clusters(cosines, 0.95, signed)
    assert found == expected and 1 < len(found) < 40 and len(found[0]) > 1


def test_wide_layers_without_clusters_are_counted_in_no_time():
    begun = time.process_time()
    assert effective_neurons(draw(3000, 40)) == 3000
    assert time.process_time() - begun < 5


# ------------------------------------------------------------------------------------------------------------ reduction


@pytest.mark.parametrize("activation", [tanh, sine, relu])
def test_reduction_undoes_splits(activation):
    net = Dense(2, (6, 5), activation=activation, generator=torch.Generator().manual_seed(4))
    wide = net
    for layer, neuron, alpha in ((0, 1, 0.3), (0, 4, 1.7), (1, 0, 0.5), (1, 5, 0.2)):
        wide = theory.split(wide, layer, neuron, alpha)
    assert wide.widths == (8, 7)
    small = reduce(wide, threshold=1 - 1e-12)
    assert small.widths == ((8, 7), (6, 5)) and small.share == 11 / 15
    assert difference(net, small.network) < 1e-12
    assert difference(wide, merge_exactly(wide)) < 1e-12
    again = Dense.restore(small.network.describe(), small.network.arrays())
    assert torch.equal(again(draw(4, 2)), small.network(draw(4, 2)))


def test_odd_neurons_merge_with_their_mirror_images():
    net = Dense(2, (4,), activation=tanh)
    with torch.no_grad():
        for p in (net.layers[0].weight, net.layers[0].bias):
            p[3] = -p[1]
    small = reduce(net, threshold=0.999999)
    assert small.widths[1] == (3,) and difference(net, small.network) < 1e-12


def test_parallel_relu_neurons_of_different_length_merge():
    net = Dense(2, (4,), activation=relu)
    with torch.no_grad():
        for p in (net.layers[0].weight, net.layers[0].bias):
            p[3] = 2.5 * p[1]
    assert reduce(net, threshold=0.999999).widths[1] == (3,)
    assert difference(net, reduce(net, threshold=0.999999).network) < 1e-12


def test_dead_and_constant_neurons_go():
    net, x = Dense(2, (6,)), draw(100, 2)
    with torch.no_grad():
        net.layers[1].weight[0, 2] = 0
        net.layers[0].weight[4] = 0
    assert reduce(net, threshold=0.999999).widths[1] == (5,)
    by_values = reduce(net, points=x, threshold=0.999999)
    assert by_values.widths[1] == (5,) and difference(net, by_values.network, x) < 1e-10
    assert by_values.seconds is not None


def test_refit_and_error_decide():
    net, x = Dense(2, (10, 10)), draw(100, 2)
    target = net(x).detach()
    error = lambda n: float((n(x) - target).detach().norm() / target.norm()) + 0.01  # noqa: E731
    refitted = []
    kept = reduce(net, points=x, keep=0.1, error=error)
    assert kept.share == 1 and "kept, because" in kept.steps[0] and kept.errors == pytest.approx((0.01, 0.01))
    loose = reduce(net, refit=refitted.append, points=x, keep=0.5, error=error, allowed=1e9)
    assert loose.widths[1] == (5, 5) and len(refitted) == 2 and loose.parameters[1] < loose.parameters[0]


SCALED = {
    "plain": {},
    "in a box": {"box": ([0.0, -1.0], [3.0, 1.0]), "normalise": True},
    "with factors": {"prefactor": True, "trainable_scales": True},
}


@pytest.mark.parametrize("options", SCALED.values(), ids=SCALED)
def test_reduction_undoes_splits_in_subnetworks(options):
    net = Mscale(2, (5, 4), (1, 2, 4), generator=torch.Generator().manual_seed(4), **options)
    wide = net
    for layer, neuron, alpha, chain in ((0, 1, 0.3, 0), (0, 4, 1.7, 0), (1, 0, 0.5, 2), (1, 4, 0.2, 2), (0, 2, 0.4, 1)):
        wide = theory.split(wide, layer, neuron, alpha, chain)
    assert wide.widths == (7, 6) and difference(net, wide) < 1e-12
    small = reduce(wide, threshold=1 - 1e-12)
    assert small.widths == ((7, 4, 6, 4, 5, 6), (5, 4, 5, 4, 5, 4)) and small.network.widths == (5, 4)
    assert difference(net, small.network) < 1e-12 and difference(net, merge_exactly(wide)) < 1e-12
    again = Mscale.restore(small.network.describe(), small.network.arrays())
    assert torch.equal(again(draw(4, 2)), small.network(draw(4, 2)))


def test_subnetworks_are_halved_side_by_side_inside_boundary_values():
    inner = Mscale(2, (20, 20), (1, 2), activation=tanh, generator=torch.Generator().manual_seed(1))
    net, x = Hard(inner, Box([-1, -1], [1, 1])), draw(300, 2).clamp(-1, 1)
    refitted = []
    small = reduce(net, refit=refitted.append, points=x, keep=0.5)
    assert len(refitted) == 2  # once per layer, not per subnetwork
    assert small.share <= 0.5 and small.network.network.widths[0] <= 10 and small.network.network.widths[1] <= 10
    naive = copy.deepcopy(net)
    with torch.no_grad():
        naive.network.weights[2][:, 10:] = 0
    # smooth neurons are nearly dependent: least squares finds it, leaving some out does not
    assert difference(net, small.network, x) < difference(net, naive, x) / 4


def test_shortcuts_that_other_widths_would_switch_on_are_refused():
    for net in (Dense(2, (8, 10), shortcut=True), Mscale(2, (8, 10), (1, 2), shortcut=True)):
        with pytest.raises(ValueError, match="without residual additions"):
            reduce(net)
    for net in (Mscale(2, (8, 8), (1, 2), fourier=1.0), Mscale(2, (8, 8), (1, 2), kind=1)):
        with pytest.raises(ValueError, match="of independent subnetworks, without Fourier features"):
            reduce(net)


def test_fine_tuning_is_repeated_until_the_error_is_small_enough():
    net, x = Dense(2, (10,)), draw(100, 2)
    shrunk = []

    def refit(network):
        shrunk.append(network.widths[0])

    error = lambda n: 1.0 if n is net or len(shrunk) > 2 else 2.0  # noqa: E731
    assert reduce(net, refit, x, keep=0.5, error=error).widths[1] == (5,) and len(shrunk) == 3
    shrunk.clear()
    assert reduce(net, refit, x, keep=0.5, error=error, refits=2).widths[1] == (10,) and len(shrunk) == 2
    with pytest.raises(ValueError, match="refits is 0"):
        reduce(net, refit, refits=0)


def test_unreadable_networks_and_options_are_refused():
    with pytest.raises(ValueError, match="no chain"):
        reduce(nn.LSTM(2, 2))
    with pytest.raises(ValueError, match="needs points"):
        reduce(Dense(2, (3,)), keep=0.5)
    assert merge_exactly(nn.LSTM(2, 2)) is None
