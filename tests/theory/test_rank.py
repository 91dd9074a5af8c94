"""Model rank against the theorem k (d + 2), matrix factorisation against 2 r d - r^2, and identifiability by hand."""

import pytest
import torch
from torch import nn

from sciml import theory
from sciml.theory.rank import identifiability, jacobian_rank, model_rank, optimistic_sample_size


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def draw(*shape, seed=0):
    return torch.randn(*shape, generator=generator(seed), dtype=torch.float64)


def two_layer(d, width, seed=0):
    net = nn.Sequential(nn.Linear(d, width), nn.Tanh(), nn.Linear(width, 1, bias=False)).double()
    with torch.no_grad():
        for k, p in enumerate(net.parameters()):
            p.copy_(draw(*p.shape, seed=10 * seed + k))
    return net


def widened(d, k, width):
    """k neurons split until there are `width`."""
    net = two_layer(d, k, seed=d)
    for i in range(width - k):
        net = theory.split(net, neuron=i % k, alpha=0.3 + 0.05 * i)
    return net


class Factorisation(nn.Module):
    """f(i, j) = (A B^T)_ij."""

    def __init__(self, d, rank):
        super().__init__()
        left, right = draw(d, rank, seed=d), draw(d, rank, seed=d + 1)
        pad = torch.zeros(d, d - rank, dtype=torch.float64)
        self.a, self.b = nn.Parameter(torch.cat([left, pad], 1)), nn.Parameter(torch.cat([right, pad], 1))

    def forward(self, x):
        i, j = x[:, 0].long(), x[:, 1].long()
        return (self.a[i] * self.b[j]).sum(1)


@pytest.mark.parametrize("d", [1, 2, 5])
@pytest.mark.parametrize(("k", "width"), [(1, 1), (1, 5), (2, 2), (2, 6), (3, 3), (3, 20)])
def test_model_rank_counts_distinct_neurons(d, k, width):
    net = widened(d, k, width)
    assert net[0].out_features == width
    assert model_rank(net, 2 * draw(6 * 20 * (d + 2), d)) == k * (d + 2)


def test_generic_width_six_has_full_rank():
    assert model_rank(two_layer(2, 6), 2 * draw(400, 2)) == 24


@pytest.mark.parametrize(("d", "ranks"), [(4, (7, 12, 15)), (10, (19, 36, 51))])
def test_matrix_factorisation(d, ranks):
    entries = torch.cartesian_prod(torch.arange(d), torch.arange(d)).double()
    for r, expected in zip((1, 2, 3), ranks, strict=True):
        assert jacobian_rank(Factorisation(d, r), entries).rank == expected == 2 * r * d - r**2


def test_optimistic_sample_size_is_that_of_the_merged_network():
    assert optimistic_sample_size(widened(2, 2, 6), 2 * draw(200, 2)) == 8


def test_a_null_neuron_raises_the_rank_but_not_the_sample_size():
    wide = theory.add_neurons(widened(1, 2, 2), 3)
    assert model_rank(wide, 2 * draw(100, 1)) == 6 + 3
    assert optimistic_sample_size(wide, 2 * draw(100, 1)) == 6


def test_sketch_gives_the_same_rank():
    net = widened(2, 3, 10)
    assert model_rank(net, draw(300, 2), sketch=20) == 12
    with pytest.raises(ValueError, match="larger"):
        model_rank(net, draw(300, 2), sketch=8)


def test_training_points_decide_as_many_directions_as_there_are():
    assert [jacobian_rank(widened(1, 1, 4), draw(n, 1)).rank for n in (1, 2, 3, 4)] == [1, 2, 3, 3]


def test_gap_and_effective_dimension():
    found = jacobian_rank(widened(1, 2, 5), draw(200, 1))
    assert found.gap > 1e4
    s = found.singular_values
    assert found.effective_dimension(1e-3) == pytest.approx(float((s**2 / (s**2 + 1e-3)).sum()))
    assert found.effective_dimension(1e-30) == pytest.approx(float(len(s)), abs=len(s) - found.rank + 0.5)
    with pytest.raises(ValueError, match="damping"):
        found.effective_dimension(0)


def test_float32_is_refused():
    net = two_layer(1, 3).float()
    with pytest.raises(ValueError, match=r"float32.*\.double"):
        model_rank(net, draw(50, 1))
    with pytest.raises(ValueError, match="points is float32"):
        model_rank(two_layer(1, 3), draw(50, 1).float())


def test_too_few_points_are_refused():
    with pytest.raises(ValueError, match="give at least"):
        model_rank(two_layer(1, 6), draw(10, 1))


def test_too_large_a_jacobian_is_refused():
    with pytest.raises(ValueError, match="sketch"):
        jacobian_rank(two_layer(1, 300), torch.zeros(60_000, 1, dtype=torch.float64))


def test_product_of_parameters_is_not_identifiable():
    x = torch.linspace(0, 1, 30, dtype=torch.float64)
    values = {k: torch.tensor(v, dtype=torch.float64) for k, v in {"a": 2.0, "b": 3.0, "c": -1.0}.items()}
    found = identifiability(lambda p: p["a"] * p["b"] * torch.sin(x) + p["c"] * x, values)
    assert not found.identifiable and found.rank == 2
    assert found.undecided[0]["a"] == pytest.approx(-found.undecided[0]["b"])
    assert found.errors["a"] == float("inf") and found.errors["c"] < float("inf")


def test_standard_errors_are_those_of_linear_regression():
    x = torch.linspace(0, 1, 50, dtype=torch.float64)
    values = {k: torch.tensor(v, dtype=torch.float64) for k, v in {"slope": 2.0, "offset": 0.5}.items()}
    found = identifiability(lambda p: p["slope"] * x + p["offset"], values, noise=0.1)
    design = torch.stack([x, torch.ones_like(x)], 1)
    expected = 0.1 * torch.linalg.inv(design.T @ design).diagonal().sqrt()
    assert found.errors["slope"] == pytest.approx(float(expected[0]) / 2)
    assert found.errors["offset"] == pytest.approx(float(expected[1]) / 0.5)
    assert found.correlation[0, 1] == pytest.approx(-0.86, abs=0.02)


def test_what_the_network_can_imitate_is_not_identifiable():
    x = torch.linspace(0, 1, 40, dtype=torch.float64)
    weights = torch.zeros(2, dtype=torch.float64)
    values = {"k": torch.tensor(1.5, dtype=torch.float64), "w": weights}
    confounded = identifiability(lambda p: p["k"] * x + p["w"][0] * x + p["w"][1], values, physical=["k"])
    assert confounded.rank == 0 and not confounded.identifiable
    free = identifiability(lambda p: p["k"] * x**2 + p["w"][0] * x + p["w"][1], values, physical=["k"])
    assert free.identifiable
    with pytest.raises(ValueError, match="physical names 'nu'"):
        identifiability(lambda p: p["k"] * x, values, physical=["nu"])


class Linear3(nn.Module):
    """f = t0 + t1 x1 + t2 t3 x2 (arXiv:2307.08921)."""

    def __init__(self):
        super().__init__()
        self.t = nn.Parameter(1e-12 * draw(4))

    def forward(self, x):
        return self.t[0] + self.t[1] * x[:, 0] + self.t[2] * self.t[3] * x[:, 1]


def train(net, x, y, steps=3000, lr=0.1):
    for _ in range(steps):
        net.zero_grad()
        (net(x) - y).square().mean().backward()
        with torch.no_grad():
            for p in net.parameters():
                p -= lr * p.grad
    return net


def test_recovery_at_the_optimistic_sample_size_and_not_below():
    target = lambda x: 1 + x[:, 0]  # noqa: E731
    test = torch.rand(500, 2, generator=generator(1), dtype=torch.float64) * 2 - 1
    true = Linear3()
    with torch.no_grad():
        true.t.copy_(torch.tensor([1.0, 1.0, 0.0, 0.0]))
    assert jacobian_rank(true, test).rank == 2
    errors = []
    for n in (1, 2, 3):
        x = torch.tensor([[0.3, 0.8], [-0.7, 0.1], [0.2, -0.9]], dtype=torch.float64)[:n]
        errors.append(float((train(Linear3(), x, target(x))(test) - target(test)).detach().square().mean()))
    assert errors[0] > 0.05 and errors[1] < 1e-6 and errors[2] < 1e-6


def test_the_rank_of_a_training_is_recorded():
    net = torch.nn.Sequential(torch.nn.Linear(1, 3), torch.nn.Tanh(), torch.nn.Linear(3, 1, bias=False)).double()
    points = torch.linspace(-3, 3, 50, dtype=torch.float64)[:, None]
    found = theory.ModelRank(points, damping=1e-12).measure(net)
    assert found["rank"] == theory.model_rank(net, points) == 9 and found["share"] == 1
    assert found["effective_dimension"] == pytest.approx(9, abs=1e-3)
    with pytest.raises(ValueError, match="float32, whose rounding noise counts as rank"):
        theory.ModelRank(points).measure(net.float())
    normalised = torch.nn.Sequential(torch.nn.Linear(1, 3), torch.nn.BatchNorm1d(3), torch.nn.Linear(3, 1)).double()
    with pytest.raises(ValueError, match=r"rows mix points; call \.eval\(\)"):
        theory.model_rank(normalised, points)
