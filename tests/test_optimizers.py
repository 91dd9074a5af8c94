"""Second-order stages: SSBroyden beside scipy, structured Jacobians beside batched gradients."""

import math

import pytest
import torch
from scipy.optimize import minimize, rosen
from torch import nn

from sciml.activations import s2relu, sine, tanh
from sciml.hard import Hard
from sciml.networks import Dense, Mscale
from sciml.objective import Batch, Block, least_squares, ritz
from sciml.optimizers import SOAP, SSBroyden, sample_jacobian
from sciml.optimizers.broyden import _scaling
from sciml.solvers.mscale import Inverse
from sciml.training import LBFGS, Adam, fit
from tests import cases

F64 = torch.float64


class Point(nn.Module):
    """A vector of parameters."""

    def __init__(self, start):
        super().__init__()
        self.x = nn.Parameter(torch.as_tensor(start, dtype=F64).clone())


class Function:
    """Objective: a function of the parameters that counts its evaluations."""

    def __init__(self, f):
        self.f, self.calls = f, 0

    def terms(self, model, batch):
        self.calls += 1
        return {"f": self.f(model.x)}


def one_batch(generator):
    return Batch({"interior": Block(torch.zeros(1, 1, dtype=F64), torch.ones(1, dtype=F64))})


def rosenbrock(x):
    return (100 * (x[1:] - x[:-1] ** 2) ** 2 + (1 - x[:-1]) ** 2).sum()


# ------------------------------------------------------------------------------------------------------------ SSBroyden


@pytest.mark.parametrize("n", [2, 10, 40])
def test_rosenbrock_like_scipy(n):
    start = torch.tensor([-1.2, 1.0] * (n // 2), dtype=F64)
    model, objective = Point(start), Function(rosenbrock)
    history = fit(model, objective, one_batch, [SSBroyden(1000, tolerance=1e-9)])
    reference = minimize(rosen, start.numpy(), method="BFGS", jac=numpy_gradient, options={"gtol": 1e-9})
    assert rosenbrock(model.x) < 1e-18 and "below the tolerance" in history.status
    # on a problem this mild the scaling costs evaluations in the line search
    assert objective.calls < 2 * reference.nfev + 30


def numpy_gradient(x):
    t = torch.tensor(x, dtype=F64, requires_grad=True)
    return torch.autograd.grad(rosenbrock(t), t)[0].numpy()


def test_the_inverse_of_a_quadratic_is_learned():
    """An ill-conditioned quadratic in a number of steps that steepest descent never reaches."""
    generator = torch.Generator().manual_seed(0)
    n = 30
    q, _ = torch.linalg.qr(torch.randn(n, n, generator=generator, dtype=F64))
    a = q @ torch.diag(torch.logspace(0, 5, n, dtype=F64)) @ q.T
    model = Point(torch.randn(n, generator=generator, dtype=F64))
    history = fit(model, Function(lambda x: 0.5 * x @ a @ x), one_batch, [SSBroyden(400, tolerance=1e-9)])
    assert model.x.abs().max() < 1e-8 and len(history.steps) < 300


@pytest.mark.parametrize(("b", "h"), [(0.3, 5.0), (1.0, 3.0), (4.0, 0.3), (10.0, 2.0), (1e-3, 1e4)])
def test_the_update_obeys_the_secant_equation_and_stays_positive(b, h):
    """H y = s and H+ positive definite, here for matrices with such b and h."""
    tau, phi = _scaling(b, h, 8)
    assert tau > 0
    n, generator = 8, torch.Generator().manual_seed(1)
    # in a basis where H = I: |s|^2 = b ys, |y|^2 = h ys
    y = torch.zeros(n, dtype=F64)
    s = torch.zeros(n, dtype=F64)
    y[0] = math.sqrt(h)
    s[0] = 1 / math.sqrt(h)
    s[1] = math.sqrt(b - 1 / h)
    m = torch.randn(n, n, generator=generator, dtype=F64)  # and back to another one: H = M M^T
    v = math.sqrt(h) * (s - y / h)
    plus = (torch.eye(n, dtype=F64) - torch.outer(y, y) / h + phi * torch.outer(v, v)) / tau + torch.outer(s, s)
    plus = m @ plus @ m.T
    y, s = torch.linalg.solve(m.T, y), m @ s
    torch.testing.assert_close(plus @ y, s)
    assert torch.linalg.eigvalsh(plus).min() > 0


def test_broyden_on_an_equation_beats_lbfgs_at_equal_steps():
    problem = cases.poisson_1d()
    objective = least_squares(problem, penalty=100.0)
    found = []
    for stage in (SSBroyden(300), LBFGS(300)):
        model = Dense(1, (16, 16), activation=tanh)
        history = fit(model, objective, lambda g: objective.sample(100, 2, g, sobol=True), [stage])
        x = problem.domain.interior(200)
        with torch.no_grad():
            found.append(float((model(x) - problem.exact(x)).abs().max()))
        assert history.steps[-1]["loss"] < 1e-4 * history.steps[0]["loss"]
    assert found[0] < 1e-4 and found[0] < found[1]


@pytest.mark.parametrize("stop", [4, 23])
def test_broyden_resumes_bit_for_bit(tmp_path, stop):
    objective = least_squares(cases.poisson_1d())

    def train(**options):
        model = Dense(1, (6,), activation=tanh)
        stages = [SSBroyden(40, resample=10)]
        fit(model, objective, lambda g: objective.sample(30, 2, g), stages, **options)
        return torch.cat([p.detach().reshape(-1) for p in model.parameters()])

    def interrupt(step):
        if step.number == stop:
            raise KeyboardInterrupt

    path = tmp_path / "c.h5"
    with pytest.raises(KeyboardInterrupt):
        train(callbacks=[interrupt], checkpoint=path)
    assert torch.equal(train(checkpoint=path), train())


def test_broyden_says_what_it_cannot_do():
    with pytest.raises(ValueError, match=r"needs parameters in torch.float64, but was given torch.float32"):
        SSBroyden().start(Dense(1, (4,), dtype=torch.float32))
    with pytest.raises(ValueError, match="the matrix of 5251 parameters takes 2.21e"):
        SSBroyden(memory=1e8).start(Dense(1, (50, 50, 50), activation=tanh))
    history = fit(Point([1.0, 1.0]), Function(lambda x: x.abs().sqrt().sum()), one_batch, [SSBroyden(500)])
    assert "no decrease" in history.status or "below the tolerance" in history.status


# ----------------------------------------------------------------------------------------------- per-sample Jacobians


def transport(dim):
    return cases.mixed_2d() if dim == 2 else cases.p_laplacian_1d(3.0)


NETWORKS = {
    "dense": lambda d: Dense(d, (8, 6), activation=tanh, box=([0] * d, [1] * d), normalise=True),
    "shortcut": lambda d: Dense(d, (7, 7, 7), activation=sine, shortcut=True),
    "mscale": lambda d: Mscale(d, (6, 6), (1, 2, 4), shortcut=True, prefactor=True),
    "one network": lambda d: Mscale(d, (9, 6), (1, 2, 4), kind=1, fourier=0.5, trainable_scales=True),
    "fourier": lambda d: Mscale(d, (5, 5), (1, 3), fourier=0.5, trainable_scales=True, activation=s2relu),
}


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize(("dim", "form"), [(2, "residuals"), (1, "residuals"), (2, "metric"), (1, "metric")])
def test_closed_formulas_equal_batched_gradients(name, dim, form):
    problem, model = transport(dim), NETWORKS[name](dim)
    objective = least_squares(problem) if form == "residuals" else ritz(problem)
    batch = objective.sample(20, 30, torch.Generator().manual_seed(0))
    compare_roads(objective.metric_vector, model, batch)


def compare_roads(vector, model, batch):
    r, j, slices = sample_jacobian(vector, model, batch, structured=False)
    # few entries at a time: several chunks
    other = sample_jacobian(vector, model, batch, entries=20_000)
    torch.testing.assert_close(other[0], r, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(other[1], j, rtol=1e-12, atol=1e-12 * float(j.abs().max()))
    assert other[2] == slices and j.abs().max() > 0


def test_closed_formulas_inside_other_modules():
    """Hard boundary values, and the scalars of an inverse problem."""
    from sciml.problems import burgers, p_laplacian

    five = p_laplacian.CASES["five"](2, 0)
    objective = least_squares(five)
    batch = objective.sample(10, 10, torch.Generator().manual_seed(0), hard=True)
    compare_roads(objective.residuals, Hard(Dense(5, (6, 6), activation=sine), five.domain), batch)
    inverse = burgers.inverse(0.05, 0.2, 12, 0.01, 0)
    objective = least_squares(inverse)
    batch = objective.sample(20, 20, torch.Generator().manual_seed(0))
    compare_roads(objective.residuals, Inverse(Dense(2, (6, 6)), inverse.unknowns), batch)


def test_what_closed_formulas_do_not_cover_takes_the_other_road():
    """A third derivative, by nested reverse mode through the network."""
    from sciml import PDE, Box

    problem = PDE(Box([0, 0], [1, 1]), "tx", lambda x, u: u.t + u * u.x + u.xxx)
    objective = least_squares(problem)
    batch = objective.sample(5, 5, torch.Generator().manual_seed(0))
    compare_roads(objective.residuals, Dense(2, (5,), activation=tanh), batch)


# ------------------------------------------------------------------------------------------------------------ SOAP


class Regression:
    """Objective: mean absolute error on fixed data."""

    def __init__(self, x, y):
        self.x, self.y = x, y

    def terms(self, model, batch):
        return {"error": (model(self.x) - self.y).abs().mean()}


def regression(n=512):
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(n, 2, generator=generator, dtype=F64)
    return Regression(x, torch.stack([torch.sin(9 * x[:, 0]) * x[:, 1], torch.exp(-8 * (x - 0.3).square().sum(1))], 1))


def dense(seed=0):
    return Dense(2, (24, 24), 2, activation=tanh, generator=torch.Generator().manual_seed(seed), dtype=F64)


def test_soap_fits_small_networks_far_better_than_adam():
    found = {}
    for stage in (SOAP(600, lr=1e-2, warmup=50), Adam(600, lr=3e-3), Adam(600, lr=1e-2)):
        model, objective = dense(), regression()
        fit(model, objective, one_batch, [stage])
        found.setdefault(type(stage).__name__, []).append(objective.terms(model, None)["error"].item())
    assert found["SOAP"][0] < 0.3 * min(found["Adam"])


def test_soap_does_not_see_rotations_that_adam_sees():
    """Steps in the eigenbasis turn with the problem: f(U^T W V^T) is descended along U W V where f is along W."""
    generator = torch.Generator().manual_seed(1)
    p, q, u, v = (torch.randn(5, 5, generator=generator, dtype=F64) for _ in range(4))
    u, v = torch.linalg.qr(u)[0], torch.linalg.qr(v)[0]

    def plain(w):
        return (torch.tanh(p @ w) @ q - 1).square().sum()

    for stage, same in ((SOAP(25, lr=1e-2, warmup=1), True), (Adam(25, lr=1e-2), False)):
        ends = []
        for f, start in ((plain, p), (lambda w: plain(u.T @ w @ v.T), u @ p @ v)):
            model = Point(start)
            fit(model, Function(f), one_batch, [stage])
            ends.append(model.x.detach())
        gap = (u @ ends[0] @ v - ends[1]).abs().max()
        assert (gap < 1e-6) == same, (stage, gap)


def test_soap_resumes_from_a_checkpoint_as_if_nothing_had_happened(tmp_path):
    whole = dense()
    fit(whole, regression(), one_batch, [SOAP(30, warmup=5)])
    parted, file = dense(), tmp_path / "soap.h5"

    def stop(step):
        if step.number == 12:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fit(parted, regression(), one_batch, [SOAP(30, warmup=5)], [stop], checkpoint=file)
    fresh = dense(1)
    fit(fresh, regression(), one_batch, [SOAP(30, warmup=5)], checkpoint=file)
    assert all(torch.equal(p, q) for p, q in zip(whole.parameters(), fresh.parameters(), strict=True))


def test_soap_refuses_impossible_numbers():
    for options, named in (
        ({"lr": 0.0}, "lr"),
        ({"steps": 0}, "steps"),
        ({"betas": (0.9, 1.0)}, "betas"),
        ({"every": 0}, "every"),
    ):
        with pytest.raises(ValueError, match=named):
            SOAP(**options)
