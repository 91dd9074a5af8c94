"""Embeddings keep function and criticality; the Hessian's inertia grows as the principle says."""

import pytest
import torch
from torch import nn

from sciml import load, theory
from sciml.activations import relu, s2relu, sine, tanh
from sciml.networks import Dense, Mscale
from sciml.objective import Batch, Block
from sciml.theory.curvature import inertia
from sciml.theory.embedding import check_embedding, deepen, split, stagnation_levels
from sciml.theory.functional import at, parameters_of


def draw(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def sequential(d=2, widths=(5, 4), bias=True):
    sizes = [d, *widths, 1]
    parts = []
    for i, o in zip(sizes, sizes[1:], strict=False):
        parts += [nn.Linear(i, o, bias=bias or o > 1), nn.Tanh()]
    net = nn.Sequential(*parts[:-1]).double()
    with torch.no_grad():
        for k, p in enumerate(net.parameters()):
            p.copy_(draw(*p.shape, seed=k))
    return net


NETWORKS = {
    "sequential": sequential,
    "dense": lambda: Dense(2, (5, 4), generator=torch.Generator().manual_seed(1)),
    "dense in a box": lambda: Dense(2, (5, 4), activation=sine, box=([0, 0], [1, 3]), normalise=True),
    "subnetworks": lambda: Mscale(2, (5, 4), (1, 2), activation=tanh, generator=torch.Generator().manual_seed(1)),
}


@pytest.fixture(params=NETWORKS)
def network(request):
    return NETWORKS[request.param]()


def gap(a, b, n=100):
    x = draw(n, 2, seed=9)
    with torch.no_grad():
        u, v = a(x).reshape(-1), b(x).reshape(-1)
    return float((u - v).abs().max() / u.abs().max())


@pytest.mark.parametrize("layer", [0, 1])
def test_width_embeddings_keep_the_function(network, layer):
    width = (5, 4)[layer]
    assert gap(network, split(network, layer, 2, 0.3)) < 1e-14
    wide = theory.add_neurons(network, 7, layer)
    assert gap(network, wide) < 1e-14
    shares = [[1.0]] * (width - 2) + [[0.2, 0.5, 0.3], [2.0, -1.0]]
    assert gap(network, theory.compatible(network, shares, layer)) < 1e-14
    assert sum(p.numel() for p in wide.parameters()) > sum(p.numel() for p in network.parameters())


def test_the_original_is_left_alone(network):
    before = {k: v.clone() for k, v in network.state_dict().items()}
    split(network), theory.add_neurons(network, 3)
    if not isinstance(network, Mscale):
        deepen(network)
    after = network.state_dict()
    assert before.keys() == after.keys() and all(torch.equal(before[k], after[k]) for k in before)


@pytest.mark.parametrize("at_layer", [0, 1])
@pytest.mark.parametrize("kind", [k for k in NETWORKS if k != "subnetworks"])
def test_depth_lifting(kind, at_layer):
    network = NETWORKS[kind]()
    deep = deepen(network, at_layer, slope=1e-5)
    assert gap(network, deep) < 1e-9
    assert len([m for m in deep.modules() if isinstance(m, nn.Linear)]) == 4


def test_depth_lifting_of_dense_stays_a_dense_and_relu_is_exact():
    net = Dense(2, (5, 4), activation=relu)
    deep = deepen(net)
    assert isinstance(deep, Dense) and deep.widths == (5, 5, 4)
    assert gap(net, deep) < 1e-14
    again = Dense.restore(deep.describe(), deep.arrays())
    assert torch.equal(again(draw(5, 2)), deep(draw(5, 2)))


def test_depth_lifting_error_falls_with_the_slope():
    first = Dense(2, (5,), activation=s2relu)
    errors = [gap(first, deepen(first, slope=s)) for s in (1e-2, 1e-3, 1e-4)]
    assert errors[0] > errors[1] > errors[2] and errors[2] < 1e-3


def test_grown_dense_can_be_saved():
    wide = theory.add_neurons(Dense(2, (5, 4)), 3, 1)
    assert wide.widths == (5, 7)
    again = Dense.restore(wide.describe(), wide.arrays())
    assert torch.equal(again(draw(5, 2)), wide(draw(5, 2)))


# ---------------------------------------------------------------------------------------------- inertia at a minimum

X = torch.linspace(-2, 2, 12, dtype=torch.float64)[:, None]
Y = (1.2 * torch.tanh(1.5 * X - 0.6) - 0.9 * torch.tanh(0.8 * X + 0.9) + 0.12 * torch.sin(3 * X))[:, 0]


def loss_of(net):
    return lambda p: (at(net, p)(X).reshape(-1) - Y).square().mean()


@pytest.fixture(scope="module")
def minimum():
    """tanh, width 2, without output bias, at a nondegenerate minimum: Newton from near it."""
    net = sequential(1, (2,), bias=False)
    net[0] = nn.Linear(1, 2).double()
    start = torch.tensor([0.82, -1.44, 0.68, 0.32, -1.35, -1.56], dtype=torch.float64)
    nn.utils.vector_to_parameters(start, net.parameters())
    for _ in range(8):
        p = parameters_of(net)
        theta = torch.cat([v.reshape(-1) for v in p.values()])
        step = torch.linalg.solve(theory.hessian(loss_of(net), p), gradient(net))
        nn.utils.vector_to_parameters(theta - step, net.parameters())
    return net


def gradient(net):
    return torch.cat([v.reshape(-1) for v in torch.func.grad(loss_of(net))(parameters_of(net)).values()])


@pytest.mark.parametrize("alpha", [0.3, 0.5])
@pytest.mark.parametrize("neurons", [(0, 0), (0, 1), (1, 2)])
def test_inertia_grows_by_one_of_each_per_split(minimum, neurons, alpha):
    once = split(minimum, neuron=neurons[0], alpha=alpha)
    twice = split(once, neuron=neurons[1], alpha=alpha)
    assert float(gradient(minimum).norm()) < 1e-14
    assert [tuple(inertia(loss_of(n), n)) for n in (minimum, once, twice)] == [(0, 0, 6), (1, 1, 7), (2, 2, 8)]
    values = [float(loss_of(n)(parameters_of(n))) for n in (minimum, once, twice)]
    assert values[0] == pytest.approx(1.33029e-3, abs=1e-8)
    assert max(abs(v - values[0]) for v in values) < 1e-14
    assert float(gradient(twice).norm()) < 1e-14


def test_an_embedding_is_checked_as_a_whole(minimum):
    batch = Batch({"data": Block(X, Y)})
    found = check_embedding(minimum, split(minimum, neuron=1), X, Data(), batch)
    assert found.inertias == ((0, 0, 6), (1, 1, 7)) and found.output < 1e-14
    assert found.losses[0] == pytest.approx(found.losses[1], abs=1e-14) and max(found.gradients) < 1e-13
    other = check_embedding(minimum, sequential(1, (3,)), X, Data(), batch)  # not an embedding, and it shows
    assert other.output > 0.1 and other.gradients[1] > 0.1


def test_hessian_against_curvlinops_or_differences(minimum):
    h = theory.hessian(loss_of(minimum), parameters_of(minimum))
    theta = torch.cat([p.detach().reshape(-1) for p in minimum.parameters()])
    for k in range(len(theta)):
        columns = []
        for sign in (1, -1):
            moved = theta.clone()
            moved[k] += sign * 1e-5
            nn.utils.vector_to_parameters(moved, minimum.parameters())
            columns.append(gradient(minimum))
        nn.utils.vector_to_parameters(theta, minimum.parameters())
        assert torch.allclose((columns[0] - columns[1]) / 2e-5, h[:, k], atol=1e-8)


def test_plateaus():
    losses = torch.cat([torch.full((600,), 1.0), torch.logspace(0, -2, 400), torch.full((500,), 0.01)])
    levels = stagnation_levels(losses)
    assert [round(level, 2) for _, _, level in levels] == [1.0, 0.01]
    with pytest.raises(ValueError, match="positive"):
        stagnation_levels(-losses)


# ----------------------------------------------------------------------------------------------------------- as a stage


class Data:
    """The mean squared misfit as an objective."""

    def terms(self, field, batch):
        return {"data": (field(batch.blocks["data"].x).reshape(-1) - batch.blocks["data"].weight).square().mean()}


def fitted(stages, callbacks=(), seed=0, checkpoint=None):
    from sciml.training import fit

    net = Dense(1, (6, 6), activation=tanh, generator=torch.Generator().manual_seed(seed))
    batch = Batch({"data": Block(X, Y)})
    return net, fit(net, Data(), lambda generator: batch, stages, callbacks, checkpoint, seed)


def test_growing_is_a_stage_that_keeps_the_output():
    from sciml.training import Adam

    net, history = fitted([Adam(60, lr=1e-2), theory.grow(Adam(60, lr=1e-2), neurons=5)])
    assert net.widths == (11, 11)
    steps = [r["loss"] for r in history.steps]
    narrow, _ = fitted([Adam(60, lr=1e-2)])
    with torch.no_grad():
        at_growth = float((narrow(X) - Y).square().mean())
    assert steps[60] == pytest.approx(at_growth, rel=1e-12)
    assert steps[-1] < steps[60]


def test_prepare_leaves_the_output_unchanged():
    from sciml.training import Adam

    net = Dense(1, (6, 6))
    before = net(X).detach()
    theory.grow(Adam(1), neurons=20).prepare(net)
    assert float((net(X).detach() - before).abs().max()) <= 1e-12 and net.widths == (26, 26)


@pytest.mark.parametrize("stop", [10, 19, 20, 25, 47])
def test_a_run_resumed_across_growth_is_bit_identical(tmp_path, stop):
    from sciml.training import LBFGS, Adam

    stages = [Adam(20, lr=1e-2), theory.grow(LBFGS(20), neurons=3), theory.grow(Adam(10), neurons=2, layers=(1,))]
    whole, history = fitted(stages)

    def interrupt(step):
        if step.number == stop:
            raise KeyboardInterrupt

    path = tmp_path / "run.checkpoint.h5"
    with pytest.raises(KeyboardInterrupt):
        fitted(stages, [interrupt], checkpoint=path)
    resumed, again = fitted(stages, seed=0, checkpoint=path)
    assert resumed.widths == whole.widths == (9, 11)
    assert all(torch.equal(a, b) for a, b in zip(whole.parameters(), resumed.parameters(), strict=True))
    assert [r["loss"] for r in again.steps] == [r["loss"] for r in history.steps]
    finished, once_more = fitted(stages, checkpoint=path)  # and a finished run is not grown or trained again
    assert finished.widths == (9, 11) and len(once_more.steps) == len(history.steps)


def test_an_interruption_while_growing_keeps_the_checkpoint_before(tmp_path):
    from sciml.training import Adam

    class Torn:
        steps, resample = 10, None

        def prepare(self, model):
            theory.grow(Adam(1), neurons=1).prepare(model)
            raise KeyboardInterrupt

        def start(self, model):
            raise AssertionError("not reached")

    path = tmp_path / "run.checkpoint.h5"
    with pytest.raises(KeyboardInterrupt):
        fitted([Adam(5), Torn()], checkpoint=path)
    assert not path.exists()  # nothing was written before, and a half-grown network must not be


def test_every_subnetwork_grows_and_trains_on(tmp_path):
    from sciml import Box, Elliptic
    from sciml.solvers.mscale import MscaleSolver
    from sciml.training import Adam

    problem = Elliptic.manufactured(Box([0.0], [1.0]), lambda x: torch.sin(2 * torch.pi * x[:, 0]))
    stages = [Adam(40, lr=1e-2), theory.grow(Adam(40, lr=1e-2), neurons=3, layers=(1,))]
    seen = []

    def watch(step):
        seen.append(step.model.widths)

    solver = MscaleSolver(scales=(1, 2), widths=(6, 6), stages=stages, interior=64)
    solution = solver.solve(problem, callbacks=[watch, *theory.default_diagnostics(problem)])  # which let it grow
    assert seen[39] == (6, 6) and seen[40] == (6, 9) and not solution.status.startswith("diverged")
    solution.save(tmp_path / "grown.h5")
    x = torch.rand(20, 1, dtype=torch.float64)
    assert torch.equal(load(tmp_path / "grown.h5", problem)(x), solution(x))
    net = Mscale(2, (5, 5), (1, 2, 4))
    x = draw(30, 2)
    before = net(x).detach()
    theory.grow(Adam(1), neurons=4).prepare(net)
    assert net.widths == (9, 9) and float((net(x).detach() - before).abs().max()) <= 1e-12
    grown = [w.detach()[:, -4:, :] for w in list(net.weights)[1:]]  # outgoing weights of the new neurons
    assert all(float(w.abs().max()) == 0 for w in grown[-1:])
    assert all(bool((w[:, :, -4:] != 0).all()) for w in list(net.weights)[:-1])  # new rows in every subnetwork


def test_the_depth_of_subnetworks_stays():
    with pytest.raises(ValueError, match="share their depth"):
        deepen(Mscale(1, (5, 5), (1, 2)))


def test_bad_growth_is_refused():
    from sciml.training import Adam

    with pytest.raises(ValueError, match="neurons is 0"):
        theory.grow(Adam(1), neurons=0)
    with pytest.raises(TypeError, match="must be a stage"):
        theory.grow(10)
    with pytest.raises(ValueError, match="hidden layers are 0 to 1"):
        theory.grow(Adam(1), layers=(5,)).prepare(Dense(1, (3, 3)))


class Residual(nn.Module):
    """h + tanh(W h): not a plain chain."""

    activation = staticmethod(torch.tanh)

    def __init__(self):
        super().__init__()
        self.a, self.b, self.c = nn.Linear(2, 4), nn.Linear(4, 4), nn.Linear(4, 1)

    def forward(self, x):
        h = torch.tanh(self.a(x))
        return self.c(h + torch.tanh(self.b(h)))


def test_networks_that_cannot_be_read_are_refused():
    for net in (Residual(), nn.Sequential(nn.Conv1d(1, 1, 3)), Dense(2, (4, 4), shortcut=True)):
        with pytest.raises(ValueError, match="no chain of linear layers"):
            split(net)
    with pytest.raises(TypeError, match=r"torch\.nn\.Module"):
        split(lambda x: x)
    with pytest.raises(ValueError, match="neurons 0 to 4"):
        split(sequential(), neuron=9)
    with pytest.raises(ValueError, match="counted from 0 to 1"):
        split(sequential(), layer=2)


def test_hessians_refuse_float32_and_size():
    net = sequential().float()
    with pytest.raises(ValueError, match="float64"):
        inertia(lambda p: p["0.weight"].sum(), net)
    with pytest.raises(ValueError, match="at most 2000"):
        inertia(lambda p: p["layers.0.weight"].sum(), Dense(1, (60, 60)))
