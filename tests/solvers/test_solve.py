"""The front door: every kind of problem reaches its tolerance or says that it did not."""

import math

import pytest
import torch

import sciml
from sciml import (
    PDE,
    Ball,
    Box,
    Dirichlet,
    Elliptic,
    Evolution,
    Initial,
    MscaleSolver,
    Neumann,
    Piecewise,
    Solution,
    compare,
    solve,
)
from sciml.optimizers import GaussNewton
from sciml.solvers import front
from sciml.training import Adam
from tests import cases

PI = math.pi
SQUARE = Box([-1, -1], [1, 1])


def heat():
    return Evolution(
        Box([0], [1]),
        lambda x, u: 0.1 * u.xx,
        lambda x: torch.sin(PI * x[:, 0]),
        [Dirichlet(0.0)],
        exact=lambda p: torch.exp(-0.1 * PI**2 * p[:, 0]) * torch.sin(PI * p[:, 1]),
    )


def semilinear():
    exact = lambda x: torch.sin(2 * x[:, 0]) * torch.cos(x[:, 1])  # noqa: E731
    return PDE(SQUARE, "xy", lambda x, u: -u.laplacian + u**3 - 5 * exact(x) - exact(x) ** 3, [Dirichlet(exact)], exact)


def transport():
    exact = lambda p: torch.sin(3 * (p[:, 1] - p[:, 0]))  # noqa: E731
    start = Initial(lambda p: torch.sin(3 * p[:, 1]))
    return PDE(Box([0, 0], [1, 2]), "tx", lambda x, u: u.t + u.x, [start, Dirichlet(exact, on="x-")], exact)


PROBLEMS = {
    **cases.CASES,
    "p-Laplacian 1-D": lambda: cases.p_laplacian_1d(5.0, 0.1),
    "heat": heat,
    "semilinear": semilinear,
    "transport": transport,
}


@pytest.mark.parametrize("name", PROBLEMS)
def test_the_default_meets_its_tolerance(name):
    problem = PROBLEMS[name]()
    solution = solve(problem)
    assert solution.status.startswith("converged by frozen features (")
    assert solution.error_estimate <= 1e-6
    assert compare(solution, problem.exact, problem.domain, 4000)["rel_l2"] <= 1e-6


def tell(solution, estimate):
    """The same solution with another opinion of itself."""
    return front.replace(solution, error_estimate=estimate)


def without_features(monkeypatch, estimate=0.5):
    """Features that do not get far, so that the next method has its turn."""
    original = front.FeatureSolver.solve
    monkeypatch.setattr(front.FeatureSolver, "solve", lambda *a, **k: tell(original(*a, **k), estimate))


def test_finite_elements_follow_features(monkeypatch):
    without_features(monkeypatch)
    problem = cases.variable_2d()
    solution = solve(problem, tolerance=1e-5)
    assert solution.status.startswith("converged by finite elements of degree 4")
    assert "frozen features: an estimated relative error of 5.0e-01" in solution.status
    assert compare(solution, problem.exact, problem.domain, 4000)["rel_l2"] <= solution.error_estimate <= 1e-5


def test_finite_differences_follow_features_in_time(monkeypatch):
    without_features(monkeypatch)
    problem = heat()
    solution = solve(problem, tolerance=3e-5)
    error = compare(solution, problem.exact, problem.domain, 4000)["rel_l2"]
    assert solution.status.startswith("converged by finite differences")
    assert error <= solution.error_estimate <= min(3e-5, 10 * error)


def small_network(problem, steps, device):
    stages = [Adam(100, lr=5e-3), GaussNewton(steps // 3, resample=10)]
    return MscaleSolver(scales=(1,), widths=(12, 12), ritz=False, stages=stages, interior=200, boundary=80)


def test_networks_come_last(monkeypatch):
    without_features(monkeypatch)
    monkeypatch.setattr(front, "_network", small_network)
    problem = semilinear()
    solution = solve(problem, tolerance=1e-2)
    error = compare(solution, problem.exact, problem.domain, 4000)["rel_l2"]
    assert solution.status.startswith("converged by networks")
    assert error <= 10 * solution.error_estimate <= 0.1


def test_the_least_estimate_wins_where_none_meets_the_tolerance(monkeypatch):
    without_features(monkeypatch, 1e-5)
    monkeypatch.setattr(front, "_networks", lambda *a: pytest.fail("networks cannot give 1e-13"))
    solution = solve(cases.poisson_1d(), tolerance=1e-14)
    assert solution.status.startswith("stopped by ")
    assert "frozen features" in solution.status and "networks not tried" in solution.status
    assert 1e-14 < solution.error_estimate <= 1e-8


def test_time_runs_out(monkeypatch):
    without_features(monkeypatch)
    solution = solve(cases.poisson_1d(), seconds=1e-6)
    assert solution.status.startswith("stopped by frozen features")
    assert "finite elements of degree 4 not tried, 1e-06 s are over" in solution.status


def test_networks_stop_when_the_time_is_over(monkeypatch):
    monkeypatch.setattr(front, "_methods", networks_only)
    monkeypatch.setattr(front, "_network", small_network)
    seen = []
    solution = solve(semilinear(), seconds=0.5, callbacks=[lambda step: seen.append(step.number)])
    assert solution.status.startswith("stopped by networks") and 0 < len(seen) < 240


def networks_only(*arguments, original=front._methods):
    return original(*arguments)[-1:]


def test_an_undetermined_problem_is_left_to_no_other_method(monkeypatch):
    monkeypatch.setattr(front, "_networks", lambda *a: pytest.fail("networks hide what is not determined"))
    solution = solve(Elliptic(SQUARE, 0.0, conditions=(Neumann(0.0),)))
    assert solution.status.startswith("stopped: ") and "does not determine" in solution.status
    assert solution.error_estimate == math.inf


def test_contradictory_conditions_never_converge(monkeypatch):
    monkeypatch.setattr(front, "_networks", lambda *a: iter(()))
    original = front.FeatureSolver
    monkeypatch.setattr(front, "FeatureSolver", lambda tolerance, **_: original(tolerance, features=200))
    solution = solve(Elliptic(SQUARE, 0.0, conditions=(Dirichlet(1.0, on="x-"), Dirichlet(0.0))), seconds=10)
    assert solution.status.startswith("stopped") and solution.error_estimate > 1e-4


def test_coefficients_that_jump_are_left_to_finite_elements():
    """-(a u')' = 1 on (-1, 1) with a = 10 on the left: a u' = c - x, and u is continuous at 0."""
    c = 0.45 / 1.1
    exact = lambda x: (c * (x[:, 0] - x[:, 0].sign()) + (1 - x[:, 0] ** 2) / 2) / torch.where(x[:, 0] < 0, 10.0, 1.0)  # noqa: E731
    problem = Elliptic(Box([-1], [1]), 1.0, 0.0, Piecewise(1.0, [(Box([-1], [0]), 10.0)]))
    solution = solve(problem)
    assert solution.status.startswith("converged by finite elements")
    assert compare(solution, exact, problem.domain, 4000)["rel_l2"] <= 1e-6


@pytest.mark.parametrize(
    ("source", "exact"),
    [
        (lambda x: -0.75 * x[:, 0] ** -0.5, lambda x: x[:, 0] ** 1.5),
        (lambda x: -0.24 * x[:, 0] ** -0.8, lambda x: x[:, 0] ** 1.2),
        (lambda x: 2500 / torch.cosh(50 * (x[:, 0] - 0.3)) ** 2 * 2 * torch.tanh(50 * (x[:, 0] - 0.3)), None),
    ],
)
def test_estimates_where_points_see_little_of_a_source(source, exact):
    """A source without bound at an end, or in a thin layer: what depends on the points is no solution."""
    exact = exact or (lambda x: torch.tanh(50 * (x[:, 0] - 0.3)))
    problem = Elliptic(Box([0], [1]), source, exact)
    for tolerance in (1e-2, 1e-4, 1e-6):
        solution = solve(problem, tolerance, seconds=2)
        assert compare(solution, exact, problem.domain, 4000)["rel_l2"] <= 10 * solution.error_estimate


def test_a_distance_that_is_small_by_chance_convinces_nobody():
    """Errors of a method of order two, two of which are nearly the same, as where a source jumps inside of a cell."""

    class Grid:
        def __init__(self, error):
            self.error = error

        def solve(self, problem):
            return Solution(lambda x: 1 + self.error + 0 * x[:, 0], problem=problem)

    def estimates(errors):
        attempts = front._refined([Grid(e) for e in errors], cases.poisson_1d(), front.Deadline(math.inf), 0.25)
        return list(zip([s.error_estimate for s in attempts], errors[1:], strict=True))

    assert all(found > 0.3 * error for found, error in estimates([0.3, 0.12, 0.119, 0.03]))
    assert all(error < found < 10 * error for found, error in estimates([0.3, 0.075, 0.02, 0.005]))


def test_the_latest_of_a_method_counts(monkeypatch):
    """Its estimate contradicts the smaller one of a coarser solution."""
    problem = cases.poisson_1d()
    pair = [
        Solution(lambda x, k=k: 0 * x[:, 0] + k, problem=problem, error_estimate=e) for k, e in ((1, 1e-5), (2, 1e-2))
    ]
    monkeypatch.setattr(front, "_methods", lambda *a: [front._Method("two", "a test", lambda: iter(pair))])
    solution = solve(problem)
    assert solution.error_estimate == 1e-2 and solution.status.startswith("stopped by two")


def test_the_same_seed_gives_the_same_numbers():
    problem = cases.mixed_2d()
    x = problem.domain.interior(20)
    a, b, c = (solve(problem, 1e-4, seed=s)(x) for s in (3, 3, 4))
    assert torch.equal(a, b) and not torch.equal(a, c)


def test_it_is_a_public_name():
    assert sciml.solve is front.solve and "solve" in sciml.__all__


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"problem": Ball([0], 1)}, TypeError, "problem is a Ball, but solve accepts Elliptic, PDE and Evolution"),
        ({"tolerance": 1e-17}, ValueError, "tolerance is 1e-17, but float64 can give 1e-14 at best"),
        ({"tolerance": 2.0}, ValueError, "tolerance is 2.0"),
        ({"tolerance": "fine"}, ValueError, "tolerance is 'fine'"),
        ({"seconds": "long"}, ValueError, "seconds is 'long', but must be positive"),
        ({"seconds": 0}, ValueError, "seconds is 0, but must be positive"),
        ({"seed": 1.5}, TypeError, "seed is 1.5, but must be a whole number"),
        ({"device": "gpu"}, ValueError, "device is 'gpu', but must be one of torch's"),
    ],
)
def test_bad_input_is_refused(options, error, message):
    with pytest.raises(error, match=message):
        solve(**{"problem": cases.poisson_1d(), **options})
