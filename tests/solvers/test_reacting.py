"""Poisson's equation with a reaction in a ball or a box: the reaction moved to the right, and GMRES."""

import math

import pytest
import torch

from sciml.conditions import Neumann
from sciml.domain import Ball, Box
from sciml.problem import Elliptic, Piecewise
from sciml.solution import compare, load
from sciml.solvers.features import FeatureSolver
from sciml.solvers.reacting import _Equation, _Sphere, applies, react
from sciml.training import Deadline

PI = math.pi
BALL = Ball([0.2, -0.1, 0.3], 0.7)
BOX = Box([0, 0, 0], [1, 2, 1])


def waves(x):
    return torch.sin(6 * x[:, 0] + x[:, 1]) * torch.exp(x[:, 2])


def closed(x):
    return torch.sin(PI * x[:, 0]) * torch.sin(PI * x[:, 1] / 2) * torch.sin(3 * PI * x[:, 2])


def bumps(x):
    return 3 + torch.sin(4 * x.sum(1))


JUMP = Piecewise(20.0, [(Ball([0.2, -0.1, 0.3], 0.3), 1.0)])
PROBLEMS = {
    "ball": lambda: Elliptic.manufactured(BALL, waves, reaction=bumps, diffusion=2.0),
    "ball, large jump": lambda: Elliptic.manufactured(BALL, waves, reaction=JUMP),
    "box": lambda: Elliptic(
        BOX, Elliptic.manufactured(BOX, closed, reaction=bumps).source, 0.0, reaction=bumps, exact=closed
    ),
}


@pytest.mark.parametrize("name", PROBLEMS)
@pytest.mark.parametrize("tolerance", [1e-3, 1e-5])
def test_tolerance_is_met_and_known(name, tolerance):
    problem = PROBLEMS[name]()
    assert applies(problem)
    solution = FeatureSolver(tolerance=tolerance).solve(problem)
    error = compare(solution, problem.exact, problem.domain, 4000)["rel_l2"]
    assert solution.status.startswith("converged") and "reaction moved" in solution.status
    assert error <= tolerance
    assert error <= 10 * solution.error_estimate


def test_errors_fall_with_the_number_of_functions():
    problem, errors = PROBLEMS["ball"](), []
    for count in (8, 12, 16):
        field, _ = _Equation(problem, count).solve(1e-10)
        errors.append(compare(field, waves, BALL, 2000)["rel_l2"])
    assert errors[1] < 0.1 * errors[0] and errors[2] < 0.1 * errors[1]


def test_a_reaction_that_is_forgotten_is_seen():
    problem = PROBLEMS["ball, large jump"]()
    equation = _Equation(problem, 24)
    equation.reaction = torch.zeros_like(equation.reaction)
    wrong = compare(equation.solve(1e-8)[0], waves, BALL, 2000)["rel_l2"]
    right = compare(_Equation(problem, 24).solve(1e-8)[0], waves, BALL, 2000)["rel_l2"]
    assert wrong > 1e-2 > 100 * right


def test_a_surface_rule_finds_every_harmonic():
    sphere = _Sphere(BALL, 12, 14)
    generator = torch.Generator().manual_seed(0)
    c = torch.randn(sphere.family.size, generator=generator, dtype=torch.float64)
    values = sphere.family.apply(sphere.points, {(): 1.0}) @ c
    torch.testing.assert_close(sphere.project(values), c, rtol=0, atol=1e-9)
    assert float(sphere.weights.sum()) == pytest.approx(4 * PI)


def test_other_problems_take_other_roads():
    assert not applies(Elliptic.manufactured(BALL, waves))  # no reaction
    assert not applies(Elliptic(BALL, 1.0, reaction=1.0, conditions=[Neumann(0.0)]))
    assert not applies(Elliptic.manufactured(BALL - Ball([0.2, -0.1, 0.3], 0.2), waves, reaction=1.0))
    assert not applies(Elliptic.manufactured(BOX, waves, reaction=1.0))  # values at edges and corners
    assert not applies(Elliptic.manufactured(Ball([0, 0], 1.0), lambda x: x.prod(1), reaction=1.0))
    # at the eigenvalue a multiple of the mode may be added
    resonant = Elliptic.manufactured(Ball([0, 0, 0], 1.0), waves, reaction=-(PI**2))
    assert react(resonant, 1e-3, 4e9, Deadline(math.inf)) is None


def test_time_and_memory_are_kept():
    problem = PROBLEMS["ball"]()
    assert react(problem, 1e-6, 1e6, Deadline(math.inf)) is None
    assert react(problem, 1e-6, 4e9, Deadline(-math.inf)) is None


def test_solutions_are_saved(tmp_path):
    solution = FeatureSolver(tolerance=1e-3).solve(PROBLEMS["ball"]())
    solution.save(tmp_path / "u.h5")
    x = BALL.interior(20)
    torch.testing.assert_close(load(tmp_path / "u.h5")(x), solution(x), rtol=0, atol=0)
