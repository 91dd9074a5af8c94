"""Objectives: real measures, the right minimiser, and one definition for terms, residuals and metric."""

import math

import pytest
import torch

from sciml import PDE, Ball, Box, Data, Dirichlet, Elliptic, Evolution, Initial, Periodic, Piecewise
from sciml.calculus import jet
from sciml.domain import gauss_nodes
from sciml.objective import least_squares, ritz, staged
from tests import cases

PI = math.pi


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("name", cases.CASES)
def test_least_squares_vanishes_at_the_exact_solution(name):
    problem = cases.CASES[name]()
    objective = least_squares(problem)
    batch = objective.sample(300, 200, generator())
    terms = objective.terms(problem.exact, batch)
    assert "equation" in terms and "dirichlet" in terms
    assert sum(terms.values()) < 1e-20 * (1 + float(problem.source(batch.blocks["interior"].x).square().mean()))
    wrong = objective.terms(lambda x: 1.1 * problem.exact(x) + 0.01, batch)
    assert all(float(v) > 1e-8 for v in wrong.values())


@pytest.mark.parametrize("name", cases.CASES)
def test_residuals_and_terms_are_one_definition(name):
    problem = cases.CASES[name]()
    objective = least_squares(problem, penalty=7.0)
    batch = objective.sample(50, 40, generator())
    field = lambda x: torch.cos(x.sum(1))  # noqa: E731
    loss = sum(objective.terms(field, batch).values())
    torch.testing.assert_close(objective.residuals(field, batch).square().sum() / 2, loss)


@pytest.mark.parametrize("name", cases.CASES)
def test_ritz_is_least_at_the_exact_solution(name):
    """Along directions that vanish at the boundary conditions' Dirichlet part, on one large batch."""
    problem = cases.CASES[name]()
    objective = ritz(problem, penalty=1e4)
    batch = objective.sample(2**15, 2**13, generator(), sobol=True)

    def loss(s):
        bump = lambda x: problem.domain.factor(x) * torch.cos(3 * x.sum(1))  # noqa: E731
        return float(sum(objective.terms(lambda x: problem.exact(x) + s * bump(x), batch).values()))

    low, mid, high = loss(-0.3), loss(0.0), loss(0.3)
    assert low > mid < high
    assert abs(high - low) < 0.1 * (high + low - 2 * mid)


@pytest.mark.parametrize("scale", [0.5, 1.0, 3.0])
def test_measures_are_real(scale):
    """The terms estimate integrals: known ones, on boxes of any size."""
    domain = Box([0, 0], [scale, scale])
    batch = least_squares(Elliptic(domain, 1.0, 0.0), penalty=2.0).sample(500, 400, generator())
    objective = least_squares(Elliptic(domain, 1.0, 0.0), penalty=2.0)
    terms = objective.terms(lambda x: torch.ones(len(x), dtype=x.dtype) + 0 * x[:, 0], batch)
    assert float(terms["equation"]) == pytest.approx(scale**2)  # (-0 - 1)^2 over the area
    assert float(terms["dirichlet"]) == pytest.approx(2 * 4 * scale)  # penalty times the perimeter
    energy = ritz(Elliptic(domain, 1.0, 0.0), penalty=2.0)
    batch = energy.sample(4096, 400, generator(), sobol=True)
    value = energy.terms(lambda x: x[:, 0], batch)
    assert float(value["energy"]) == pytest.approx(0.5 * scale**2 - scale**3 / 2, abs=1e-3 * scale**3)


def test_ritz_gradient_agrees_with_the_residual():
    """d/ds energy(u + s v) = int R(u) v for v zero at the boundary: energy and residual are one equation."""
    for p in (2.0, 3.0):
        problem = cases.p_laplacian_1d(p, 0.5)
        n = 20000
        x = ((torch.arange(n, dtype=torch.float64) + 0.5) / n)[:, None]
        u = lambda x: torch.sin(PI * x[:, 0]) + x[:, 0]  # noqa: E731
        v = lambda x: torch.sin(2 * PI * x[:, 0])  # noqa: E731

        def energy(s):
            return problem.energy(jet(lambda x: u(x) + s * v(x), x, 1), x).mean()  # noqa: B023

        slope = float(energy(1e-4) - energy(-1e-4)) / 2e-4
        weak = float((problem.residual(problem.jet(u, x), x) * v(x)).mean())
        assert slope == pytest.approx(weak, rel=1e-4)


def test_metric_is_the_second_variation_of_the_energy():
    """|J_m delta|^2 equals d^2/ds^2 energy(u + s v), with p and reaction."""
    for p in (2.0, 4.0):
        problem = Elliptic(Box([0, 0], [1, 1]), 1.0, 0.0, diffusion=2.0, reaction=3.0, p=p)
        objective = ritz(problem, penalty=5.0)
        batch = objective.sample(200, 100, generator())
        u = lambda x: torch.sin(2 * x[:, 0]) + x[:, 1] ** 2  # noqa: E731
        v = lambda x: torch.cos(x[:, 0] * x[:, 1])  # noqa: E731

        def m(s):
            return objective.metric_vector(lambda x: u(x) + s * v(x), batch)  # noqa: B023

        def loss(s):
            return sum(objective.terms(lambda x: u(x) + s * v(x), batch).values())  # noqa: B023

        zero = torch.zeros((), dtype=torch.float64)
        _, along = torch.func.jvp(m, (zero,), (zero + 1,))
        second = torch.func.grad(torch.func.grad(loss))(zero)
        torch.testing.assert_close(along.square().sum(), second, rtol=1e-6, atol=1e-9)


def test_every_condition_has_a_term():
    data = Data(torch.rand(5, 2, dtype=torch.float64), torch.zeros(5))
    problem = PDE(
        Box([0, 0], [1, 1]),
        "tx",
        lambda x, u: u.t + u.x - u.xx,
        [Initial(lambda x: torch.sin(2 * PI * x[:, 1])), Periodic("x"), data],
    )
    objective = least_squares(problem)
    batch = objective.sample(50, 100, generator())
    wave = lambda x: torch.sin(2 * PI * x[:, 1])  # noqa: E731
    terms = objective.terms(wave, batch)
    assert terms.keys() == {"equation", "initial", "periodic", "data"}
    assert float(terms["initial"]) < 1e-28 and float(terms["periodic"]) < 1e-28
    assert float(objective.terms(lambda x: x[:, 1] ** 2, batch)["periodic"]) > 1


def test_evolution_is_accepted():
    heat = Evolution(Box([0], [1]), lambda x, u: u.xx, lambda x: torch.sin(PI * x[:, 0]), [Dirichlet(0.0)])
    objective = least_squares(heat)
    batch = objective.sample(64, 64, generator())
    exact = lambda x: torch.exp(-(PI**2) * x[:, 0]) * torch.sin(PI * x[:, 1])  # noqa: E731
    assert float(sum(objective.terms(exact, batch).values())) < 1e-20


def test_staged_penalty_grows_500_fold():
    penalty = staged(2.0)
    assert [penalty(p) for p in (0.0, 0.15, 0.22, 0.3, 0.6, 0.9)] == [2, 20, 100, 200, 400, 1000]
    problem = cases.poisson_2d()
    objective = ritz(problem, penalty=penalty)
    batch = objective.sample(10, 10, generator())
    one = lambda x: torch.ones(len(x), dtype=x.dtype) + 0 * x[:, 0]  # noqa: E731
    early, late = (float(objective.terms(one, batch.at(p))["dirichlet"]) for p in (0.0, 1.0))
    assert late == pytest.approx(500 * early)


def test_hard_batches_have_no_dirichlet_block():
    objective = ritz(cases.poisson_2d())
    assert "dirichlet" not in objective.sample(10, 10, hard=True).blocks


class Kinked:
    smoothness = 0


def test_refusals():
    with pytest.raises(ValueError, match="reaction is -1.*reaction >= 0"):
        ritz(Elliptic(Box([0], [1]), 1.0, 0.0, reaction=-1.0))
    with pytest.raises(TypeError, match="ritz needs an Elliptic"):
        ritz(PDE(Box([0], [1]), "x", lambda x, u: u.x))
    with pytest.raises(ValueError, match=r"only C\^0"):
        least_squares(cases.poisson_1d()).check(Kinked())
    least_squares(PDE(Box([0], [1]), "x", lambda x, u: u.x)).check(Kinked())  # first order: a kink is harmless
    ritz(cases.poisson_1d()).check(Kinked())
    jump = Piecewise(1.0, [(Box([0.0], [0.5]), 2.0)])
    with pytest.raises(ValueError, match="jump of the diffusion"):
        least_squares(Elliptic(Box([0], [1]), 1.0, 0.0, diffusion=jump))
    least_squares(Elliptic(Box([0], [1]), 1.0, 0.0, reaction=jump))


@pytest.mark.parametrize(
    "domain",
    [
        Box([-1, -1], [1, 1]) - Ball([0.4, 0.3], 0.3),
        Box([-1, 0], [1, 3]) - Ball([1, 0], 0.9),
        Box([0, 0, 0], [3, 2, 1]),
    ],
)
def test_gauss_nodes_integrate_waves_better_than_sobol_points(domain):
    """Against 2^19 Sobol points; and without bias: the mean over the shifts is closer than one rule is."""
    wave = lambda x: torch.cos(10 * x[:, 0] + 7 * x[:, 1] + 1)  # noqa: E731
    g, n = generator(), 2048 if domain.dim == 2 else 4096
    exact = float(wave(domain.interior(2**19, sobol=True)).mean()) * domain.volume
    errors = {"gauss": [], "sobol": []}
    for _ in range(30):
        x, weight = gauss_nodes(domain, n, g)
        assert bool(domain.contains(x).all()) and 0.5 * n < len(x) < 1.5 * n
        errors["gauss"].append(float((weight * wave(x)).sum()) - exact)
        errors["sobol"].append(float(wave(domain.interior(n, g, sobol=True)).mean()) * domain.volume - exact)
    rms = {k: sum(e * e for e in v) ** 0.5 / len(v) ** 0.5 for k, v in errors.items()}
    assert rms["gauss"] < 0.6 * rms["sobol"]
    assert abs(sum(errors["gauss"])) / 30 < 0.6 * rms["gauss"] + 1e-5


def test_gauss_nodes_are_exact_on_boxes_and_refused_where_useless():
    x, weight = gauss_nodes(Box([0, 1], [2, 2]), 600, generator())
    # degree 7 in each coordinate
    torch.testing.assert_close(
        (weight * x[:, 0] ** 7 * x[:, 1] ** 3).sum().item(), 2**8 / 8 * 15 / 4, rtol=1e-12, atol=0
    )
    assert gauss_nodes(Box([0, 0], [1, 1]), 20, generator()) is None
    assert gauss_nodes(Box([0] * 4, [1] * 4), 4096, generator()) is None
    assert gauss_nodes(Ball([0, 0, 0], 1.0), 4096, generator()) is None  # its edge is too much of it
    assert gauss_nodes(Ball([0, 0], 1.0), 4096, generator()) is None
