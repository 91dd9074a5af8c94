"""Networks against slow oracles: a Python loop over subnetworks for values, torch.func for derivatives."""

import json
import math

import numpy as np
import pytest
import torch
from torch.func import functional_call, hessian, jacfwd, jacrev, vmap
from torch.profiler import profile

from sciml.activations import Activation, gelu, phi, relu, s2relu, sine, srelu, tanh
from sciml.calculus import Taylor, jet
from sciml.domain import Ball, Box
from sciml.hard import Hard
from sciml.networks import Dense, Mscale, glorot, he, init_rate, parameter_count, suited, uniform

ACTIVATIONS = [sine, tanh, gelu, srelu, srelu**2, srelu**3, s2relu, phi, relu]
BUILDERS = {
    "dense": lambda d, a: Dense(d, (8, 8, 6), activation=a, shortcut=True),
    "dense in a box": lambda d, a: Dense(d, (7, 5), 3, a, box=([0.5] * d, [2.0] * d), normalise=True),
    "kind 2": lambda d, a: Mscale(d, (7, 7, 5), (1, 2, 4), activation=a, shortcut=True, prefactor=True),
    "kind 2, trainable": lambda d, a: Mscale(d, (6, 6), (1, 3), 2, a, trainable_scales=True, box=([0] * d, [2] * d)),
    "kind 1": lambda d, a: Mscale(d, (8, 8), (1, 2, 4), activation=a, kind=1, shortcut=True),
    "kind 1, fourier": lambda d, a: Mscale(d, (6, 5), (1, 2), activation=a, kind=1, fourier=0.5),
    "kind 2, fourier": lambda d, a: Mscale(d, (6, 12, 5), (1, 2), activation=a, fourier=0.5, shortcut=True),
}


def points(n, d, seed=0):
    return torch.rand(n, d, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)) * 2 - 0.5


def randomised(network, seed=0):
    """All parameters of order one: the starting point may hide a mistake in a small last layer."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p in network.parameters():
            p.add_(0.3 * torch.randn(p.shape, generator=generator, dtype=p.dtype))
    return network


# ------------------------------------------------------------------------------------------------------------- values


def loop(network, x):
    """The definition of a multi-scale network, one subnetwork and one layer at a time."""
    sigma, d = network.activation, x.shape[1]
    x = x if network.centre is None else x - network.centre
    x = x if network.stretch is None else x * network.stretch
    total = 0
    for i in range(len(network.scales) if network.variant == 2 else 1):
        weights, biases = list(network.weights), list(network.biases)
        if network.variant == 2:
            weights, biases, scale = [w[i] for w in weights], [b[i] for b in biases], network.scales[i]
        else:
            each = np.repeat(network.scales.detach().numpy(), network.widths[0] // len(network.scales))
            scale = torch.tensor(np.pad(each, (0, network.widths[0] - len(each)), constant_values=each.max()))
        if network.fourier is None:
            h = sigma(scale * (x @ weights[0]) + biases.pop(0))
        else:
            z = scale * (x @ weights[0])
            h = network.fourier * torch.cat([torch.cos(z), torch.sin(z)], 1)
        for w, b in zip(weights[1:-1], biases[:-1], strict=True):
            new = sigma(h @ w + b)
            h = new + h if network.shortcut and new.shape == h.shape else new
        total = total + (network.scales[i] ** d if network.prefactor else 1) * (h @ weights[-1] + biases[-1])
    return total


@pytest.mark.parametrize("name", [n for n in BUILDERS if n.startswith("kind")])
@pytest.mark.parametrize("d", [1, 2])
def test_values_are_those_of_a_loop_over_subnetworks(name, d):
    network, x = randomised(BUILDERS[name](d, s2relu)), points(50, d)
    expected = loop(network, x)
    torch.testing.assert_close(network(x).reshape(expected.shape), expected, rtol=1e-12, atol=1e-12)


def test_dense_is_the_chain_of_its_linear_layers():
    network, x = randomised(Dense(2, (5, 5, 4), activation=tanh, shortcut=True)), points(20, 2)
    first, second, third, last = network.layers
    h = torch.tanh(first(x))
    h = torch.tanh(second(h)) + h
    torch.testing.assert_close(network(x), last(torch.tanh(third(h)))[:, 0], rtol=1e-13, atol=1e-13)


def test_shapes_follow_the_number_of_outputs():
    x = points(9, 2)
    assert Dense(2, (4,))(x).shape == (9,) and Dense(2, (4,), 3)(x).shape == (9, 3)
    assert Mscale(2, (4,), (1, 2))(x).shape == (9,) and Mscale(2, (4,), (1, 2), 3)(x).shape == (9, 3)
    assert Dense(2, (4,))(points(0, 2)).shape == (0,)


def test_six_subnetworks_of_three_layers_have_the_published_size():
    assert parameter_count(Mscale(1, (30, 30, 30), [32] * 6)) == 11706
    assert parameter_count(Dense(1, (180, 180, 180))) == 65701
    assert parameter_count(Mscale(1, (30, 30, 30), [32] * 6, trainable_scales=True)) == 11712


def test_scales_act_on_distances_from_the_centre_of_the_box_in_units_of_x():
    network = Mscale(1, (6,), (1, 8), box=([2.0], [6.0]))
    moved = Mscale(1, (6,), (1, 8), box=([-2.0], [2.0]))
    moved.load_state_dict(network.state_dict())
    x = points(10, 1)
    torch.testing.assert_close(network(x + 4), moved(x))
    unit = Mscale(1, (6,), (1, 8))
    unit.load_state_dict(network.state_dict())
    torch.testing.assert_close(moved(x), unit(x))
    normal = Mscale(1, (6,), (1, 8), box=([2.0], [6.0]), normalise=True)
    normal.load_state_dict(network.state_dict())
    torch.testing.assert_close(normal(2 * x + 4), unit(x))


# -------------------------------------------------------------------------------------------------------- derivatives


def oracle(network, x):
    """Gradients and Hessians ``(n, m, d)``, ``(n, m, d, d)`` of the values alone."""
    one = lambda a: network(a[None])[0].reshape(-1)  # noqa: E731
    return vmap(jacrev(one))(x), vmap(hessian(one))(x)


@pytest.mark.parametrize("name", BUILDERS)
@pytest.mark.parametrize("activation", ACTIVATIONS, ids=lambda a: a.name)
def test_jets_are_exact(name, activation):
    for d in (1, 2) if activation not in (sine, s2relu) else (1, 2, 3, 4):
        network, x = randomised(BUILDERS[name](d, activation)), points(5, d)
        with torch.no_grad():
            gradient, second = oracle(network, x)
            pairs = tuple((i, j) for i in range(d) for j in range(i, d))
            first, lap, full = jet(network, x, 1), jet(network, x, 2), jet(network, x, 2, pairs)
        close = {"rtol": 1e-10, "atol": 1e-10 * max(1.0, second.abs().max().item())}
        shape = lambda a: a.reshape(5, -1, *a.shape[2:])  # noqa: E731
        trace = second.diagonal(dim1=-2, dim2=-1).sum(-1)
        for j in (first, lap, full):
            torch.testing.assert_close(j.value, network(x), rtol=1e-12, atol=1e-12)
            torch.testing.assert_close(j.gradient.reshape(gradient.shape), gradient, **close)
        torch.testing.assert_close(lap.laplacian.reshape(5, -1), trace, **close)
        torch.testing.assert_close(full.laplacian.reshape(5, -1), trace, **close)
        for i, j in pairs:
            torch.testing.assert_close(shape(full.second[i, j]).reshape(5, -1), second[..., i, j], **close)


@pytest.mark.parametrize("name", BUILDERS)
def test_laplacians_go_through_in_blocks_and_still_transform(name, monkeypatch):
    network, x, v = randomised(BUILDERS[name](2, sine)), points(70, 2), points(70, 2).flip(0)
    # by other channels, which have no blocks
    other = lambda y: jet(network, y, 2, [(0, 0), (1, 1)])  # noqa: E731
    expected = other(x)
    monkeypatch.setattr("sciml.laplacian._ENTRIES", 1)  # blocks of 32 points

    def along(f):
        return torch.func.jvp(lambda y: f(y).laplacian, (x,), (v,))[1]

    with torch.no_grad():
        found, moved = jet(network, x), along(lambda y: jet(network, y))
        each = vmap(lambda y: jet(network, y[None].expand(2, 2)).laplacian[0])(x)
    for part in ("value", "gradient", "laplacian"):
        torch.testing.assert_close(getattr(found, part), getattr(expected, part), rtol=1e-11, atol=1e-11)
    torch.testing.assert_close(moved, along(other), rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(each, expected.laplacian, rtol=1e-10, atol=1e-10)
    parameters = [p for p in network.parameters() if p.requires_grad]
    losses = [j.laplacian.square().sum() + j.value.sum() for j in (other(x), jet(network, x))]  # each bias matters
    grads = [torch.autograd.grad(loss, parameters) for loss in losses]
    for a, b in zip(*grads, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-9 * float(a.abs().max()))


def test_an_expansion_along_another_map_is_carried_through():
    inner, outer, x = randomised(Dense(2, (5,), 3)), randomised(Mscale(3, (4,), (1, 2))), points(6, 2)

    class Composition(torch.nn.Module):
        def forward(self, x):
            return outer(inner(x))

        def taylor(self, t):
            return outer.taylor(inner.taylor(t))

    j, pairs = Composition(), ((0, 0), (0, 1))
    gradient, second = oracle(j, x)
    torch.testing.assert_close(jet(j, x).gradient, gradient[:, 0])
    torch.testing.assert_close(jet(j, x).laplacian, second[:, 0].diagonal(dim1=-2, dim2=-1).sum(-1))
    torch.testing.assert_close(jet(j, x, 2, pairs).second[0, 1], second[:, 0, 0, 1])


class Everything(torch.nn.Module):
    """All channels of a jet in one vector per point, so that transforms can be applied to it."""

    def __init__(self, network, order, pairs=None):
        super().__init__()
        self.network, self.order, self.pairs = network, order, pairs

    def forward(self, x):
        j = jet(self.network, x, self.order, self.pairs)
        parts = [j.value, j.gradient, j.laplacian, *j.second.values()]
        return torch.cat([p.reshape(len(x), -1) for p in parts if p is not None], 1)


JETS = [(0, None), (1, None), (2, None), (2, ((0, 0), (0, 1)))]


@pytest.mark.parametrize(("order", "pairs"), JETS)
@pytest.mark.parametrize("name", ["dense", "kind 2, trainable", "kind 1"])
@pytest.mark.parametrize("activation", [sine, srelu**3], ids=lambda a: a.name)
def test_training_derivatives_pass_gradcheck(name, activation, order, pairs):
    build = {
        "dense": lambda: Dense(2, (3, 3), activation=activation, shortcut=True),
        "kind 2, trainable": lambda: Mscale(2, (2, 3), (1, 2), 2, activation, trainable_scales=True),
        "kind 1": lambda: Mscale(2, (3, 2), (1, 2), activation=activation, kind=1),
    }[name]
    network = randomised(build())
    whole = Everything(network, order, pairs)
    names = [f"network.{k}" for k, _ in network.named_parameters()]
    values = [p.detach().clone().requires_grad_() for p in network.parameters()]

    def function(x, *parameters):
        return functional_call(whole, dict(zip(names, parameters, strict=True)), (x,))

    arguments = (points(3, 2).requires_grad_(), *values)
    options = {"check_forward_ad": True, "check_batched_grad": True, "fast_mode": True, "atol": 1e-6}
    assert torch.autograd.gradcheck(function, arguments, **options)
    assert torch.autograd.gradgradcheck(function, arguments, fast_mode=True, atol=1e-5)


@pytest.mark.parametrize(("order", "pairs"), JETS)
@pytest.mark.parametrize("name", ["dense", "kind 2", "kind 1"])
def test_functional_transforms_agree(name, order, pairs):
    network, x = randomised(BUILDERS[name](2, sine)), points(4, 2)
    whole = Everything(network, order, pairs)
    values = {f"network.{k}": p.detach() for k, p in network.named_parameters()}
    single = lambda p, a: functional_call(whole, p, (a[None],))[0]  # noqa: E731
    full = lambda p, a: functional_call(whole, p, (a,))  # noqa: E731
    expected = jacrev(full)(values, x)
    for found in (vmap(jacrev(single), (None, 0))(values, x), vmap(jacfwd(single), (None, 0))(values, x)):
        for k in values:
            torch.testing.assert_close(found[k], expected[k], rtol=1e-9, atol=1e-9)
    stack = {k: torch.stack([v, 0.5 * v]) for k, v in values.items()}
    half = {k: 0.5 * v for k, v in values.items()}
    torch.testing.assert_close(vmap(full, (0, None))(stack, x)[1], full(half, x))
    torch.testing.assert_close(vmap(full, (0, 0))(stack, torch.stack([x, -x]))[1], full(half, -x))


@pytest.mark.parametrize("order", [0, 1, 2])
@pytest.mark.parametrize("name", ["dense", "kind 2"])
def test_hessians_of_a_loss_agree_between_modes(name, order):
    network, x = randomised(BUILDERS[name](2, sine)), points(4, 2)
    whole = Everything(network, order)
    values = {f"network.{k}": p.detach() for k, p in network.named_parameters()}
    loss = lambda p: functional_call(whole, p, (x,)).square().mean()  # noqa: E731
    gradient = torch.func.grad(loss)(values)
    direction = {k: torch.cos(torch.arange(v.numel(), dtype=v.dtype)).reshape(v.shape) for k, v in values.items()}
    forward = torch.func.jvp(torch.func.grad(loss), (values,), (direction,))[1]
    parameters = {k: v.clone().requires_grad_() for k, v in values.items()}
    first = torch.autograd.grad(loss(parameters), list(parameters.values()), create_graph=True)
    along = sum((g * d).sum() for g, d in zip(first, direction.values(), strict=True))
    reverse = torch.autograd.grad(along, list(parameters.values()))
    with torch.autograd.forward_ad.dual_level():
        dual = {k: torch.autograd.forward_ad.make_dual(v, direction[k]).requires_grad_() for k, v in values.items()}
        plain = torch.autograd.grad(loss(dual), list(dual.values()))
        tangents = [torch.autograd.forward_ad.unpack_dual(g).tangent for g in plain]
    for k, g, r, t in zip(values, first, reverse, tangents, strict=True):
        torch.testing.assert_close(gradient[k], g.detach())
        torch.testing.assert_close(forward[k], r)
        torch.testing.assert_close(t, r)


@pytest.mark.parametrize("name", BUILDERS)
@pytest.mark.parametrize("activation", [sine, s2relu, srelu], ids=lambda a: a.name)
def test_energies_have_the_gradient_that_autograd_finds(name, activation):
    network, x = randomised(BUILDERS[name](3, activation)), points(9, 3)

    def gradient(value, slope):
        loss = (slope.square().sum() + value.square().sum()) / 2 + value.sum()
        return torch.autograd.grad(loss, list(network.parameters()))

    j, y = jet(network, x, 1), x.clone().requires_grad_()
    value = network(y)
    columns = value[:, None] if value.ndim == 1 else value
    slopes = [torch.autograd.grad(c.sum(), y, create_graph=True)[0] for c in columns.T]
    for found, expected in zip(gradient(j.value, j.gradient), gradient(value, torch.stack(slopes, 1)), strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9 * max(1.0, expected.abs().max().item()))


@pytest.mark.parametrize("part", ["value", "gradient"])
def test_a_loss_of_the_value_or_of_the_gradient_alone(part):
    network, x = randomised(Mscale(2, (5, 5), (1, 2))), points(6, 2)
    network.requires_grad_(False)
    network.weights[1].requires_grad_()
    getattr(jet(network, x, 1), part).square().sum().backward()
    y = x.clone().requires_grad_()
    value = network(y)
    expected = value if part == "value" else torch.autograd.grad(value.sum(), y, create_graph=True)[0]
    torch.testing.assert_close(
        network.weights[1].grad, torch.autograd.grad(expected.square().sum(), network.weights[1])[0]
    )


def test_jets_are_differentiable_with_respect_to_the_points():
    network, x = randomised(Mscale(2, (5, 5), (1, 2))), points(4, 2).requires_grad_()
    slope = torch.autograd.grad(jet(network, x, 1).gradient[:, 0].sum(), x)[0]
    second = jet(network, x.detach(), 2, ((0, 0), (0, 1))).second
    torch.testing.assert_close(slope, torch.stack([second[0, 0], second[0, 1]], 1))


def test_a_training_step_evaluates_sine_and_cosine_once_per_layer():
    network, x = Mscale(1, (10, 10, 10), (1, 2, 4)), points(50, 1)
    for order in (0, 1, 2):
        with profile() as record:
            j = jet(network, x, order)
            (j.value if order == 0 else j.gradient if order == 1 else j.laplacian).square().mean().backward()
        calls = {e.key: e.count for e in record.key_averages()}
        assert calls["aten::sin"] == calls["aten::cos"] == 3


def test_float32_networks_work_in_float32():
    x = points(5, 2).float()
    for network in (Dense(2, (4,), dtype=torch.float32), Mscale(2, (4,), (1, 2)).float()):
        j = jet(network, x)
        assert j.value.dtype == j.gradient.dtype == j.laplacian.dtype == torch.float32


# ---------------------------------------------------------------------------------------------------- initialisations


def test_one_seed_gives_one_network_and_leaves_the_global_generator_alone():
    before = torch.random.get_rng_state()
    first = [Mscale(2, (5, 5), (1, 2), generator=torch.Generator().manual_seed(s)) for s in (1, 1, 2)]
    Dense(2, (5, 5))
    assert torch.equal(before, torch.random.get_rng_state())
    a, b, c = (torch.nn.utils.parameters_to_vector(n.parameters()) for n in first)
    assert torch.equal(a, b) and not torch.equal(a, c)


@pytest.mark.parametrize(
    ("initialisation", "std"),
    [
        (glorot, math.sqrt(2 / 500)),
        (he, math.sqrt(2 / 300)),
        (init_rate(0.75), 300**-0.75),
        (uniform, 1 / math.sqrt(900)),
    ],
)
def test_weights_have_the_stated_spread(initialisation, std):
    network = Dense(1, (300, 200), activation=tanh, initialisation=initialisation)
    w = network.layers[1].weight
    assert w.std().item() == pytest.approx(std, rel=0.02)
    if initialisation is uniform:
        assert w.abs().max().item() <= 1 / math.sqrt(300)


@pytest.mark.parametrize("activation", [srelu, s2relu, phi, srelu**2, srelu**3], ids=lambda a: a.name)
@pytest.mark.parametrize(
    "build",
    [
        lambda a, b: Dense(2, (200,) * 4, activation=a, box=b),
        lambda a, b: Mscale(2, (200,) * 4, (1, 8, 64), activation=a, box=b),
        lambda a, b: Mscale(2, (200,) * 4, (1, 8, 64), activation=a, box=b, kind=1),
    ],
    ids=["dense", "kind 2", "kind 1"],
)
def test_compact_activations_start_alive_in_every_layer(activation, build):
    box = ([1.0, -3.0], [2.0, 5.0])
    network = build(activation, box)
    x = Box(*box).interior(300)
    seen = []
    watched = Activation(
        activation.name, activation.smoothness, lambda z, k: (seen.append(z), activation.rule(z, k))[1]
    )
    network.activation = watched**activation.exponent
    network(x)
    lower, upper = activation.support
    for depth, z in enumerate(seen):
        inside = ((z > lower) & (z < upper)).double()
        neurons = inside.mean(-1)
        assert (neurons > 0).double().mean() > 0.8, f"dead neurons in layer {depth}"
        if depth:
            assert inside.mean() > 0.5


def test_first_layer_bumps_lie_inside_the_domain_whatever_the_scale():
    network = Mscale(1, (400,), (1, 100), activation=srelu, box=([2.0], [3.0]))
    weight = network.scales[:, None] * network.weights[0][:, 0]
    place = 2.5 + (0.5 - network.biases[0]) / weight
    assert bool((place > 2).all() and (place < 3).all())
    assert place.std().item() == pytest.approx(math.sqrt(1 / 12), rel=0.1)


@pytest.mark.parametrize("activation", [srelu, s2relu, phi, sine], ids=lambda a: a.name)
def test_signals_keep_their_size_through_many_layers(activation):
    network = Dense(1, (400,) * 6, activation=activation)
    seen = []
    watched = Activation(
        activation.name, activation.smoothness, lambda z, k: (seen.append(z), activation.rule(z, k))[1]
    )
    network.activation = watched
    network(points(200, 1) - 0.5)
    spread = [z.std().item() for z in seen[1:]]
    assert max(spread) < 1.6 * min(spread)


def test_the_default_depends_on_the_activation():
    assert suited(srelu).centre == 0.5 and suited(phi).centre == 1.5 and suited(tanh).centre == 0.0


# ------------------------------------------------------------------------------------------- boundary values, storage


@pytest.mark.parametrize(
    "domain", [Box([-1, 0], [1, 3]), Box([-1, 0], [1, 3]) - Ball([0, 1], 0.3)], ids=["box", "hole"]
)
@pytest.mark.parametrize("lift", [None, lambda x: torch.sin(x[:, 0]) * x[:, 1] ** 2], ids=["constant", "lift"])
def test_boundary_values_hold_exactly_and_jets_obey_the_product_rule(domain, lift):
    network = Hard(randomised(Mscale(2, (6, 6), (1, 2))), domain, 2.0, lift)
    x = domain.boundary(40).points
    expected = torch.full_like(x[:, 0], 2.0) if lift is None else lift(x)
    torch.testing.assert_close(network(x), expected, rtol=0, atol=1e-12)
    x, pairs = domain.interior(5), ((0, 0), (0, 1), (1, 1))
    gradient, second = oracle(network, x)
    torch.testing.assert_close(jet(network, x, 1).gradient, gradient[:, 0])
    torch.testing.assert_close(jet(network, x).laplacian, second[:, 0].diagonal(dim1=-2, dim2=-1).sum(-1))
    full = jet(network, x, 2, pairs)
    for i, j in pairs:
        torch.testing.assert_close(full.second[i, j], second[:, 0, i, j])
    assert network.smoothness == math.inf and network.inputs == 2


def test_boundary_values_refuse_an_expansion_that_is_not_at_points():
    field = Hard(Dense(2, (4,)), Box([0, 0], [1, 1]))
    inner = Dense(2, (3,), 2).taylor(Taylor.seed(points(4, 2), 1))
    with pytest.raises(ValueError, match="after another map"):
        field.taylor(inner)


@pytest.mark.parametrize("name", BUILDERS)
def test_a_network_comes_back_from_json_and_arrays(name):
    network = randomised(BUILDERS[name](2, srelu**2))
    x = points(7, 2)
    again = type(network).restore(json.loads(json.dumps(network.describe())), network.arrays())
    assert torch.equal(network(x), again(x)) and again.smoothness == network.smoothness
    assert [p.shape for p in again.parameters()] == [p.shape for p in network.parameters()]


def test_trained_scales_come_back_even_if_training_made_them_negative():
    network = Mscale(1, (4,), (1, 2), trainable_scales=True)
    with torch.no_grad():
        network.scales.copy_(torch.tensor([-0.5, 3.0]))
    again = Mscale.restore(network.describe(), network.arrays())
    assert again.scales.tolist() == [-0.5, 3.0]


def test_a_hard_field_comes_back_and_asks_for_its_lift():
    class Condition:
        component, value = 0, staticmethod(lambda x: x[:, 0])

    class Problem:
        conditions = (Condition,)

    class Other:
        conditions = (type("C", (), {"component": 0, "value": staticmethod(lambda x: x[:, 1])}),)

    domain, x = Box([0, 0], [1, 1]) - Ball([0.5, 0.5], 0.2), points(7, 2)
    for lift in (None, Condition.value):
        field = Hard(randomised(Dense(2, (4,))), domain, 3.0 if lift is None else None, lift)
        description = json.loads(json.dumps(field.describe()))
        again = Hard.restore(description, field.arrays(), problem=Problem)
        torch.testing.assert_close(again(x), field(x))
        if lift is not None:
            with pytest.raises(ValueError, match="give problem="):
                Hard.restore(description, field.arrays())
            with pytest.raises(ValueError, match="other boundary values"):
                Hard.restore(description, field.arrays(), problem=Other)


@pytest.mark.parametrize(
    "call",
    [
        lambda: Dense(0, (4,)),
        lambda: Dense(1, ()),
        lambda: Dense(1, (4.0,)),
        lambda: Dense(1, (4,), outputs=-1),
        lambda: Dense(1, (4,), dtype=torch.float16),
        lambda: Dense(2, (4,), box=([0.0], [1.0])),
        lambda: Dense(1, (4,), box=([1.0], [1.0])),
        lambda: Dense(1, (4,), normalise=True),
        lambda: Mscale(1, (4,), ()),
        lambda: Mscale(1, (4,), (1, -2)),
        lambda: Mscale(1, (4,), (1, math.inf)),
        lambda: Mscale(1, (4,), (1, 2), kind=3),
        lambda: Mscale(1, (4,), range(1, 9), kind=1),
        lambda: Mscale(1, (4,), (1, 2), kind=1, prefactor=True),
        lambda: Hard(Dense(1, (4,)), Box([0], [1]), None),
        lambda: Hard(torch.nn.Linear(1, 1), Box([0], [1])).describe(),
        lambda: Dense(2, (4,))(points(5, 3)),
        lambda: Dense(2, (4,))(points(5, 2)[0]),
        lambda: Dense.restore(Dense(2, (4,)).describe(), Dense(2, (5,)).arrays()),
        lambda: Dense(1, (4,), activation=Activation("mine", 0.0, tanh.rule)).describe(),
    ],
)
def test_wrong_arguments_are_refused_with_a_sentence(call):
    with pytest.raises(ValueError, match="but|needs|must"):
        call()


def test_factor_and_lift_are_kept_for_the_same_points_only():
    calls = []

    def lift(x):
        calls.append(len(x))
        return x[:, 0] ** 3

    field, x = Hard(Dense(2, (5,)), Box([0, 0], [1, 1]), lift=lift), points(9, 2).clamp(0, 1)
    fresh = lambda y: jet(Hard(field.network, field.domain, lift=lift), y).laplacian  # noqa: E731
    jet(field, x)
    count = len(calls)
    again = jet(field, x.view(3, 3, 2).view(9, 2)).laplacian  # another view of the same numbers
    assert len(calls) == count
    torch.testing.assert_close(again, fresh(x), rtol=0, atol=0)
    torch.testing.assert_close(jet(field, x[:5]).laplacian, fresh(x[:5]), rtol=0, atol=0)
    torch.testing.assert_close(jet(field, x, 1).gradient, jet(field, x.clone(), 1).gradient, rtol=0, atol=0)
    x.mul_(0.5)
    torch.testing.assert_close(jet(field, x).laplacian, fresh(x), rtol=0, atol=0)
    slope = jacrev(lambda y: field(y[None])[0])(x[3])  # the points themselves may be differentiated
    torch.testing.assert_close(slope, jet(field, x).gradient[3])
    y = x.clone().requires_grad_()
    assert torch.autograd.grad(field(y).sum(), y)[0].shape == y.shape
