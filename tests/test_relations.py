"""Conditions of any form on a part of the boundary, and equations of order three and four."""

import math

import pytest
import torch

import sciml
from sciml import PDE, Ball, Box, Dirichlet, Elliptic, FeatureSolver, Initial, MscaleSolver, Neumann, Relation
from sciml.calculus import partial
from sciml.objective import LeastSquares
from sciml.own import run_own
from sciml.results import Run

PI = math.pi


def wave(velocity, speed=1.0, waves=2):
    """u_tt = c^2 u_xx with u = sin(k x) (cos(c k t) + sin(c k t)), of which u_t(0) = c k sin(k x)."""
    k = waves * PI

    def exact(x):
        return torch.sin(k * x[:, 1]) * (torch.cos(speed * k * x[:, 0]) + torch.sin(speed * k * x[:, 0]))

    conditions = [Initial(lambda x: torch.sin(k * x[:, 1])), Dirichlet(0.0)]
    if velocity:
        conditions.append(Relation(lambda x, u: u.t - speed * k * torch.sin(k * x[:, 1]), on="t-"))
    return PDE(Box([0, 0], [1, 1]), "tx", lambda x, u: u.tt - speed**2 * u.xx, conditions, exact=exact)


def plate(conditions, m=1, n=1):
    """The biharmonic equation; the solution of a plate that is simply supported is sin m pi x sin n pi y."""

    def exact(x):
        return torch.sin(m * PI * x[:, 0]) * torch.sin(n * PI * x[:, 1])

    def residual(x, u):
        return u.xxxx + 2 * u.xxyy + u.yyyy - (m**2 + n**2) ** 2 * PI**4 * exact(x)

    return PDE(Box([0, 0], [1, 1]), "xy", residual, conditions, exact=exact)


def error(solution, problem):
    x = problem.domain.interior(4000)
    e = problem.exact(x)
    return float((solution(x) - e).norm() / e.norm())


@pytest.mark.parametrize(("speed", "waves"), [(1.0, 2), (0.5, 5)])
def test_initial_velocity(speed, waves):
    problem = wave(True, speed, waves)
    found = sciml.solve(problem, tolerance=1e-8)
    assert found.status.startswith("converged")
    assert error(found, problem) < 1e-8


def test_a_wave_without_velocity_is_not_determined():
    assert sciml.solve(wave(False), tolerance=1e-8).status.startswith("stopped")


def test_a_plate_takes_values_and_moments():
    problem = plate([Dirichlet(0.0), Relation(lambda x, u: u.laplacian)])
    found = sciml.solve(problem, tolerance=1e-9)
    assert found.status.startswith("converged")
    assert error(found, problem) < 1e-9


def test_a_clamped_disc_takes_values_and_slopes():
    # (1 - r^2)^2 bends under a uniform load of 64
    problem = PDE(
        Ball([0.0, 0.0], 1.0),
        "xy",
        lambda x, u: u.xxxx + 2 * u.xxyy + u.yyyy - 64.0,
        [Dirichlet(0.0), Neumann(0.0)],
        exact=lambda x: (1 - x.square().sum(1)) ** 2,
    )
    found = sciml.solve(problem, tolerance=1e-9)
    assert found.status.startswith("converged")
    assert error(found, problem) < 1e-9


def test_a_plate_without_slopes_is_not_determined():
    assert sciml.solve(plate([Dirichlet(0.0)]), tolerance=1e-8).status.startswith("stopped")


def test_cantilever():
    # u'''' = 24, clamped on the left, no moment and no shear on the right
    problem = PDE(
        Box([0.0], [1.0]),
        "x",
        lambda x, u: u.xxxx - 24.0,
        [
            Dirichlet(0.0, on="x-"),
            Neumann(0.0, on="x-"),
            Relation(lambda x, u: u.xx, on="x+"),
            Relation(lambda x, u: u.xxx, on="x+"),
        ],
        exact=lambda x: x[:, 0] ** 2 * (x[:, 0] ** 2 - 4 * x[:, 0] + 6),
    )
    assert error(sciml.solve(problem, tolerance=1e-10), problem) < 1e-10


def clamped_beam():
    return PDE(
        Box([0.0], [1.0]),
        "x",
        lambda x, u: u.xxxx - 24.0,
        [Dirichlet(0.0), Neumann(0.0)],
        exact=lambda x: x[:, 0] ** 2 * (1 - x[:, 0]) ** 2,
    )


@pytest.mark.parametrize("options", [{}, {"widths": (8,), "scales": (1,)}])
def test_networks_refuse_a_fourth_derivative_and_name_who_takes_it(options):
    with pytest.raises(ValueError, match="derivatives of order 4, but MscaleSolver .* use FeatureSolver"):
        MscaleSolver(**options).solve(clamped_beam())


def test_a_file_that_only_states_a_problem_is_solved_by_the_method_that_suits_it(tmp_path):
    class Module:
        problem = clamped_beam()

    run = Run(tmp_path, 0, None, {})
    found = run_own(Module, run)["solve"]
    assert found["status"].startswith("converged by frozen features") and found["rel_l2"] < 1e-8


def test_nonlinear_relation():
    # u'' = 0, u(0) = 1, u'(1) = -u(1)^4: the slope is -s with s = (1 - s)^4
    problem = PDE(
        Box([0.0], [1.0]), "x", lambda x, u: u.xx, [Dirichlet(1.0, on="x-"), Relation(lambda x, u: u.x + u**4, on="x+")]
    )
    found = FeatureSolver(tolerance=1e-10).solve(problem)
    end = float(found(torch.tensor([[1.0]], dtype=torch.float64)))
    assert found.status.startswith("converged")
    assert abs((1 - end) - end**4) < 1e-9


def test_convergence_of_a_plate_with_the_bandwidth():
    problem = plate([Dirichlet(0.0), Relation(lambda x, u: u.laplacian)], 5, 3)
    errors = []
    for bandwidth, limit in ((10.0, 220), (16.0, 340), (24.0, 580)):  # no room for a second attempt
        found = FeatureSolver(1e-14, features=limit, bandwidth=bandwidth).solve(problem)
        assert found.cost["attempts"] == 1
        errors.append(error(found, problem))
    assert errors[0] > 1e-6  # so few waves cannot do it
    assert errors[1] < 1e-2 * errors[0]
    assert errors[2] < 1e-2 * errors[1]


def test_residuals_of_networks_see_relations():
    problem = wave(True)
    objective = LeastSquares(problem)
    batch = objective.sample(200, 400, torch.Generator().manual_seed(0))
    right = objective.terms(problem.exact, batch)
    still = objective.terms(lambda x: torch.sin(2 * PI * x[:, 1]) * torch.cos(2 * PI * x[:, 0]), batch)
    assert max(float(v) for v in right.values()) < 1e-20
    assert float(still["relation"]) > 1  # at rest at first: the equation and all values hold, the velocity does not
    assert float(still["equation"]) < 1e-20


def test_derivatives_of_a_solution_of_any_order():
    problem = plate([Dirichlet(0.0), Relation(lambda x, u: u.laplacian)])
    field = FeatureSolver(tolerance=1e-10).solve(problem).field
    x = torch.rand(50, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    wanted = PI**3 * torch.cos(PI * x[:, 0]) * torch.sin(PI * x[:, 1])
    assert torch.allclose(partial(field, x, (0, 1, 1)), -wanted, atol=1e-5)


def test_what_is_refused():
    with pytest.raises(TypeError, match="Relation residual is 1.0, but must be a callable"):
        Relation(1.0)
    with pytest.raises(TypeError, match="Elliptic accepts Dirichlet"):
        Elliptic(Box([0.0], [1.0]), 1.0, 0.0, conditions=[Relation(lambda x, u: u.x)])
    with pytest.raises(ValueError, match="Relation residual gave shape"):
        PDE(Box([0.0], [1.0]), "x", lambda x, u: u.xx, [Dirichlet(0.0), Relation(lambda x, u: u.x[:3])])
    with pytest.raises(ValueError, match="Neumann on 't-' holds nowhere: earlier conditions hold there"):
        PDE(Box([0, 0], [1, 1]), "tx", lambda x, u: u.tt - u.xx, [Initial(0.0), Dirichlet(0.0), Neumann(1.0, on="t-")])
