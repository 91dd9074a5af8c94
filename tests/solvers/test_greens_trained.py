"""Trained kernels against closed forms, automatic differentiation and classical schemes."""

# ruff: noqa: E731

import math

import pytest
import torch

import sciml
from sciml import PDE, Ball, Box, Dirichlet, Elliptic, Evolution, Family, GreensSolver, compare, jet
from sciml.calculus import Taylor
from sciml.networks import Dense
from sciml.objective import Batch, Block
from sciml.optimizers import GaussNewton, sample_jacobian
from sciml.problems.greens import sines
from sciml.solvers.integral import IntegralNetwork, Interpolant, Kernel, Members
from sciml.solvers.quadrature import boundary_rule, domain_rule, gauss
from sciml.solvers.risk import EnergyRisk, Risk, balanced, volume_rule
from sciml.solvers.trained import Trained
from sciml.training import LBFGS, Adam

PI = math.pi
LINE, SQUARE = Box([0], [1]), Box([0, 0], [1, 1])
POISSON = Family(Elliptic(LINE, 1.0, 0.0), sines)
BURGERS = Evolution(Box([-1], [1]), lambda x, u: -u * u.x + 0.1 * u.xx, 0.0, [Dirichlet(0.0)])
TINY = {"widths": (6, 6), "nodes": 6, "members": 3, "points": 8, "stages": [Adam(3)]}


def waves(count, generator):
    c = torch.randn(2, count, generator=generator, dtype=torch.float64)
    return lambda x: torch.sin(PI * x[:, -1:]) * c[0] + torch.sin(2 * PI * x[:, -1:]) * c[1]


def lines(count, generator):
    c = torch.randn(2, count, generator=generator, dtype=torch.float64)
    return lambda x: c[0] + c[1] * x[:, :1]


# ---- learning ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def poisson():
    stages = [Adam(50, lr=5e-3), GaussNewton(12)]
    options = Trained(widths=(10, 10), nodes=12, members=8, points=24, symmetric=True, stages=stages)
    return GreensSolver(options).solve(POISSON)


def test_a_symmetric_network_becomes_the_tent(poisson):
    x = torch.linspace(0, 1, 41, dtype=torch.float64)[:, None]
    exact = torch.minimum(x, x.T) * (1 - torch.maximum(x, x.T))
    found = poisson.kernel(x, x)
    torch.testing.assert_close(found, found.T)
    assert (found - exact).norm() < 0.1 * exact.norm()


@pytest.mark.parametrize("stage", [GaussNewton(8), LBFGS(60)])
def test_by_its_energy_and_by_other_stages(stage):
    """The variational risk reaches the same kernel, by energy natural gradient and by L-BFGS."""
    x = torch.linspace(0, 1, 41, dtype=torch.float64)[:, None]
    exact = torch.minimum(x, x.T) * (1 - torch.maximum(x, x.T))

    def error(stages):
        options = Trained(
            widths=(10, 10), nodes=12, members=8, points=48, symmetric=True, energy=True, stages=[*stages, stage]
        )
        operator = GreensSolver(options).solve(POISSON)
        assert operator.history.steps[-1]["energy"] < 0
        return float((operator.kernel(x, x) - exact).norm() / exact.norm())

    assert error([Adam(50, lr=5e-3)]) < 0.15


def test_lbfgs_on_the_residual():
    options = Trained(widths=(10, 10), nodes=12, members=8, points=24, symmetric=True, stages=[LBFGS(60)])
    history = GreensSolver(options).solve(POISSON).history
    assert history.steps[-1]["loss"] < 0.05 * history.steps[0]["loss"]


@pytest.mark.parametrize("energy", [False, True])
def test_variable_coefficients_under_gauss_newton(energy):
    """-((1 + x) u')' + x u = f with u = x (1 - x)."""
    problem = Elliptic(LINE, 1.0, 0.0, diffusion=lambda x: 1 + x[:, 0], reaction=lambda x: x[:, 0])
    stages = [Adam(50, lr=5e-3), GaussNewton(10)]
    options = Trained(widths=(10, 10), nodes=10, members=8, points=48, energy=energy, stages=stages)
    operator = GreensSolver(options).solve(Family(problem, sines))
    exact = lambda x: x[:, 0] * (1 - x[:, 0])
    source = lambda x: 1 + 4 * x[:, 0] + x[:, 0] * exact(x)
    assert compare(operator(source), exact, LINE)["rel_l2"] < 3e-2


def test_sources_it_never_saw(poisson):
    bump = lambda x: 2 - 12 * (x[:, 0] - 0.5) ** 2
    exact = lambda x: -(x[:, 0] ** 2) + (x[:, 0] - 0.5) ** 4 + x[:, 0] - 1 / 16
    assert compare(poisson(bump), exact, LINE)["rel_l2"] < 1e-2
    untrained = GreensSolver(Trained(**TINY)).solve(POISSON)
    assert compare(untrained(bump), exact, LINE)["rel_l2"] > 0.3


def test_boundary_kernel():
    """Harmonic functions of an interval are straight lines."""
    options = Trained(nodes=4, widths=(8, 8), members=4, points=8, stages=[Adam(30, lr=1e-2), GaussNewton(12)])
    operator = GreensSolver(options).solve(Family(Elliptic(LINE, 0.0, 0.0), boundaries=lines))
    line = lambda x: 2 - 3 * x[:, 0]
    assert compare(operator(0.0, line), line, LINE)["rel_l2"] < 1e-2


def test_labels_alone_are_enough_where_there_are_many():
    """And the labels of a coarse grid are exact for sources that are linear in x."""
    options = Trained(
        widths=(10, 10), nodes=8, members=8, labels=8, cells=8, model=0.0, points=16, stages=[GaussNewton(12)]
    )
    operator = GreensSolver(options).solve(Family(Elliptic(LINE, 1.0, 0.0), lines))
    assert compare(operator(2.0), lambda x: x[:, 0] * (1 - x[:, 0]), LINE)["rel_l2"] < 2e-2


def test_nonlinear_families():
    """-u_xx + u^3 = f with u = s x (1 - x), s unseen."""

    def sources(count, generator):
        s = 4 * torch.rand(count, generator=generator, dtype=torch.float64)
        return lambda x: 2 * s + (s * x * (1 - x)) ** 3

    problem = PDE(LINE, "x", lambda x, u: u**3 - u.xx, [Dirichlet(0.0)])
    options = Trained(
        widths=(6,), head=(10,), channels=3, nodes=6, members=6, points=12, stages=[Adam(30, lr=1e-2), GaussNewton(12)]
    )
    operator = GreensSolver(options).solve(Family(problem, sources))
    s = 2.7
    exact = lambda x: s * x[:, 0] * (1 - x[:, 0])
    assert compare(operator(lambda x: 2 * s + exact(x) ** 3), exact, LINE)["rel_l2"] < 2e-2


def test_initial_values_are_met_exactly():
    operator = GreensSolver(Trained(**{**TINY, "nodes": 16}, head=(6,), labels=1, cells=16)).solve(
        Family(BURGERS, initials=waves)
    )
    start = lambda x: torch.sin(PI * x[:, -1])
    solution = operator(start)
    x = torch.linspace(-1, 1, 21, dtype=torch.float64)
    at_zero, at_side = torch.stack([0 * x, x], 1), torch.stack([x.abs(), torch.ones_like(x)], 1)
    torch.testing.assert_close(solution(at_zero), start(at_zero), atol=1e-9, rtol=0)
    assert solution(at_side).abs().max() < 1e-9


# ---- parts ---------------------------------------------------------------------------------------------------------


def network(head=None, symmetric=False, hard=True):
    generator = torch.Generator().manual_seed(3)
    nodes, weights = domain_rule(SQUARE, 3)
    kernel = Kernel(Dense(4, (7, 7), 2 if head else 1, generator=generator), nodes, weights, symmetric)
    data = torch.randn(9, 4, generator=generator, dtype=torch.float64)
    return IntegralNetwork(SQUARE, [kernel], [data], Dense(4, (6,)) if head else None, hard, 0.5)


@pytest.mark.parametrize("head", [None, True])
@pytest.mark.parametrize("symmetric", [False, True])
def test_derivatives_are_those_of_automatic_differentiation(head, symmetric):
    model, x = network(head, symmetric), SQUARE.interior(6)
    fast, slow = jet(model, x, 2, [(0, 0), (0, 1), (1, 1)]), jet(lambda y: model(y), x, 2, [(0, 0), (0, 1), (1, 1)])
    torch.testing.assert_close(fast.value, slow.value)
    torch.testing.assert_close(fast.gradient, slow.gradient)
    for pair in slow.second:
        torch.testing.assert_close(fast.second[pair], slow.second[pair])
    torch.testing.assert_close(jet(model, x).laplacian, slow.laplacian)


def test_interpolant_and_its_derivatives():
    nodes = gauss(-1.0, 1.0, 12)[0]
    data = torch.stack([nodes**3, nodes**7], 1)
    lift = Interpolant(-1.0, 1.0, 12)

    class Field:
        taylor = staticmethod(lambda t: lift.taylor(t, data))

        def __call__(self, x):
            return jet(self, x, 0).value

    p = torch.rand(5, 2, dtype=torch.float64)
    found = jet(Field(), p, 2, [(0, 0), (1, 1)])
    torch.testing.assert_close(found.value[:, 1], p[:, 1] ** 7)
    torch.testing.assert_close(found.gradient[:, 0], torch.stack([0 * p[:, 0], 3 * p[:, 1] ** 2], 1))
    torch.testing.assert_close(found.second[1, 1][:, 1], 42 * p[:, 1] ** 5)
    assert not found.second[0, 0].any()


def test_members_are_the_columns():
    model, x = network(), SQUARE.interior(5)
    members = Members(model, 4)
    found, each = jet(members, members.repeat(x)), jet(model, x)
    torch.testing.assert_close(found.value, each.value.reshape(-1))
    torch.testing.assert_close(found.laplacian, each.laplacian.reshape(-1))
    torch.testing.assert_close(found.gradient, each.gradient.reshape(-1, 2))


def test_the_jacobian_of_the_risk_is_the_derivative_of_its_residual():
    model = network(head=True)
    risk = Risk({"interior": lambda field, block: jet(field, block.x).laplacian}, {"interior": 2.0})
    x = SQUARE.interior(4)
    batch = Batch({"interior": Block(x, torch.full((4,), 0.25, dtype=torch.float64))})
    r, jacobian, _ = sample_jacobian(risk.residuals, model, batch)
    assert r.square().sum().item() / 2 == pytest.approx(risk.terms(model, batch)["interior"].item())
    risk.terms(model, batch)["interior"].backward()
    gradient = torch.cat([p.grad.reshape(-1) for p in model.parameters()])
    torch.testing.assert_close(jacobian.T @ r, gradient)


def test_balanced_terms_pull_equally():
    model = network(head=True)
    gaps = {
        "interior": lambda field, block: jet(field, block.x).laplacian,
        "label": lambda field, block: field.taylor(Taylor(block.x)).value,
    }
    risk = Risk(gaps, {"interior": 2.0, "label": 1.0})
    x = SQUARE.interior(40)
    weights = torch.full((40,), 1 / 40, dtype=torch.float64)
    batch = Batch({"interior": Block(x, weights), "label": Block(x, weights)})
    traces = []
    for made in (risk, balanced(risk, model, batch, torch.Generator().manual_seed(0), probes=400)):
        _, jacobian, rows = sample_jacobian(made.residuals, model, batch)
        traces.append([float(jacobian[rows[name]].square().sum()) for name in ("interior", "label")])
    assert traces[0][0] > 10 * traces[0][1] and traces[1][0] == traces[0][0]
    assert traces[1][1] == pytest.approx(traces[1][0], rel=0.3)


def test_the_metric_of_the_energy_is_its_second_variation():
    """A kernel is linear in its last layer: there gradients differ by exactly the metric times the step."""
    model = network()
    problem = Elliptic(SQUARE, 1.0, 0.0, diffusion=lambda x: 1 + x[:, 0], reaction=lambda x: x[:, 1])
    gap = lambda field, block: field.taylor(Taylor(block.x)).value - 0.3
    risk = EnergyRisk(problem, torch.tensor([1.0, 2.0, 0.5, 3.0]), Risk({"label": gap}, {"label": 3.0}), 0.7)
    x, weights = volume_rule(SQUARE, 100, torch.Generator().manual_seed(0))
    given = torch.ones(len(x), 4, dtype=torch.float64), *problem.coefficients(x, gradient=False)
    batch = Batch({"interior": Block(x, weights, given=given), "label": Block(x[:5], weights[:5])})
    last = [p for name, p in model.named_parameters() if "layers.2" in name]

    def gradient():
        model.zero_grad()
        sum(risk.terms(model, batch).values()).backward()
        return torch.cat([p.grad.reshape(-1) for p in last])

    m, jacobian, _ = sample_jacobian(risk.metric_vector, model, batch)
    columns = torch.cat([torch.full((p.numel(),), any(p is q for q in last)) for p in model.parameters()])
    before = gradient()
    step = torch.randn(int(columns.sum()), dtype=torch.float64)
    with torch.no_grad():
        torch.nn.utils.vector_to_parameters(torch.nn.utils.parameters_to_vector(last) + step, last)
    j = jacobian[:, columns]
    torch.testing.assert_close(gradient() - before, j.T @ (j @ step))


def test_energies_are_refused_where_there_is_none():
    square = lambda x: -torch.ones_like(x[:, 0])
    for problem, message in (
        (PDE(LINE, "x", lambda x, u: u**3 - u.xx, [Dirichlet(0.0)]), "energy=True needs a linear Elliptic problem"),
        (Elliptic(LINE, 1.0, 0.0, reaction=square), "reaction is -1 somewhere"),
    ):
        with pytest.raises(ValueError, match=message):
            GreensSolver(Trained(**TINY, head=(6,), energy=True)).solve(Family(problem, sines))


def test_rules_on_other_domains():
    plate = SQUARE - Ball([0.4, 0.5], 0.2)
    points, weights = domain_rule(plate, 14)
    assert bool(plate.contains(points).all())
    # over the disc the mean of x^2 is c^2 + r^2 / 4
    exact = 1 / 3 - PI * 0.04 * (0.16 + 0.01)
    assert float(weights.sum()) == pytest.approx(plate.volume, rel=1e-4)
    assert float((weights * points[:, 0] ** 2).sum()) == pytest.approx(exact, rel=1e-3)
    points, weights = boundary_rule(plate, 16)
    assert float(weights.sum()) == pytest.approx(4 + 0.4 * PI)
    assert boundary_rule(LINE, 5)[0].tolist() == [[0.0], [1.0]]


@pytest.mark.parametrize("head", [None, (6,)])
def test_saved_and_batched(tmp_path, head):
    operator = GreensSolver(Trained(**TINY, head=head)).solve(POISSON)
    operator.save(tmp_path / "o.h5")
    x = LINE.interior(10)
    both = lambda x: torch.stack([x[:, 0], torch.cos(x[:, 0])], 1)
    values = operator(both)(x)
    assert values.shape == (10, 2)
    torch.testing.assert_close(operator(lambda x: torch.cos(x[:, 0]))(x), values[:, 1])
    assert torch.equal(sciml.load(tmp_path / "o.h5")(both)(x), values)
    solution = operator(1.0)
    solution.save(tmp_path / "s.h5")
    assert torch.equal(sciml.load(tmp_path / "s.h5")(x), solution(x))
    assert torch.equal(operator(both)(x), values)  # one call leaves no trace in the next


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        (lambda: GreensSolver(Trained()).solve(Family(Elliptic(LINE, 1.0, 0.0, p=3), sines)), "nonlinear"),
        (lambda: GreensSolver(Trained()).solve(Family(BURGERS, initials=waves)), "linear Elliptic"),
        (lambda: GreensSolver().solve(Family(BURGERS, initials=waves)), "linear Elliptic"),
        (lambda: GreensSolver(Trained()).solve(Elliptic(LINE, 1.0, 0.0)), "has no sampler"),
        (lambda: Family(BURGERS, initials=lambda n, g: lambda x: x), "initials drew 3 functions"),
        (lambda: Family(BURGERS, sources=waves), "varied in an Evolution"),
        (lambda: Trained(labels=7, members=3), "only 3 members"),
        (lambda: Trained(model=0.0), "nothing to train on"),
        (lambda: Trained(nodes=1), "nodes is 1"),
        (lambda: GreensSolver(Trained(**TINY)).solve(POISSON)(lambda x: x[:, 0] / 0), "source is not finite"),
        (lambda: GreensSolver(Trained(**TINY)).solve(POISSON)(1.0, 2.0), "boundary was not varied"),
        (lambda: GreensSolver(Trained(**TINY)).solve(POISSON)(1.0)(2 * torch.ones(1, 1)), "outside the domain"),
    ],
)
def test_bad_input_is_a_sentence(call, sentence):
    with pytest.raises((TypeError, ValueError), match=sentence):
        call()
