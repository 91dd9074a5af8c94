"""Scales from the spectrum: `MscaleSolver` with no options, its estimate, and what happens without the spectrum."""

import pytest
import torch

from sciml import Box, Data, Dirichlet, Elliptic, Evolution, FeatureSolver, MscaleSolver, compare, solve
from sciml.solvers import automatic
from tests import cases

SQUARE = Box([-1, -1], [1, 1])


def waves(mu, nu):
    return Elliptic.manufactured(cases.perforated_square(), lambda x: torch.sin(mu * x[:, 0]) * torch.sin(nu * x[:, 1]))


PROBLEMS = {
    "line": lambda: Elliptic.manufactured(Box([-1], [1]), cases.sines(20.0)),
    "holes": cases.poisson_holes,
    "anisotropic": lambda: waves(11.0, 2.0),
    "variable": cases.variable_2d,
    "mixed": cases.mixed_2d,
}


@pytest.mark.parametrize("name", PROBLEMS)
def test_no_options_meet_the_tolerance(name):
    problem = PROBLEMS[name]()
    solution = MscaleSolver(tolerance=1e-4).solve(problem)
    error = compare(solution, problem.exact, problem.domain, 4000)["rel_l2"]
    assert solution.status.startswith("converged") and error <= 1e-4
    assert 0.1 * error <= solution.error_estimate <= 10 * error or error < 1e-14


def test_scales_follow_the_data():
    low, high = (MscaleSolver(tolerance=1e-4).solve(waves(mu, 2.0)).cost["largest scale"] for mu in (3.0, 18.0))
    assert high > 18.0 > low


def test_without_the_spectrum_nothing_is_found_or_claimed(monkeypatch):
    blind = automatic.start

    def half_blind(*arguments):
        found = blind(*arguments)
        return automatic.replace(found, kappa=0.1 * found.kappa)

    monkeypatch.setattr(automatic, "start", half_blind)
    problem = waves(18.0, 12.0)
    solution = MscaleSolver(tolerance=1e-6).solve(problem)
    error = compare(solution, problem.exact, problem.domain, 4000)["rel_l2"]
    assert error > 1e-3 and not solution.status.startswith("converged")
    assert solution.error_estimate > 1e-3


def heat():
    return Evolution(
        Box([0], [1]),
        lambda x, u: 0.1 * u.xx,
        lambda x: torch.sin(cases.PI * x[:, 0]),
        [Dirichlet(0.0)],
        exact=lambda p: torch.exp(-0.1 * cases.PI**2 * p[:, 0]) * torch.sin(cases.PI * p[:, 1]),
    )


ESTIMATED = {
    **PROBLEMS,
    "waves": lambda: waves(15.0, 9.0),
    "bump": lambda: Elliptic.manufactured(SQUARE, lambda x: torch.exp(-9 * (x - 0.3).square().sum(1))),
    "layer": lambda: Elliptic.manufactured(Box([-1], [1]), lambda x: torch.tanh(10 * x[:, 0])),
    "heat": heat,
}


def honest(solution, problem):
    """Whether the estimate is within a factor of ten; below 1e-12 both are rounding."""
    error = compare(solution, problem.exact, problem.domain, 4000)["rel_l2"]
    return 0.1 * error <= solution.error_estimate + 1e-12 and solution.error_estimate <= 10 * error + 1e-11


@pytest.mark.parametrize("tolerance", [1e-3, 1e-6])
@pytest.mark.parametrize("name", ESTIMATED)
def test_estimates_are_within_a_factor_of_ten(name, tolerance):
    problem = ESTIMATED[name]()
    assert honest(solve(problem, tolerance), problem)


def test_the_estimate_of_a_poor_start():
    problem = ESTIMATED["bump"]()
    assert honest(FeatureSolver(tolerance=1e-4, bandwidth=5.0).solve(problem), problem)


def test_contradictory_conditions_are_not_called_converged():
    middle = Data(torch.tensor([[0.5]], dtype=torch.float64), torch.tensor([3.0], dtype=torch.float64))
    problem = Elliptic(Box([0.0], [1.0]), 0.0, conditions=[Dirichlet(0.0), middle])  # u'' = 0 from 0 to 3 and back
    solution = MscaleSolver(tolerance=1e-3).solve(problem)
    assert not solution.status.startswith("converged") and solution.error_estimate > 0.1
