"""Stages in time and features in space against closed forms of linear evolutions."""

import math

import numpy as np
import pytest
import torch

from sciml import Ball, Box, Dirichlet, Ellipsoid, Evolution, FeatureSolver, Neumann, Robin, compare, jet, load
from sciml.solvers import transient
from sciml.solvers.collocation import Collocation

PI = math.pi
DISC = Ball([0, 0], 1)


def test_two_stages_are_those_of_the_textbook():
    """A = [[5/12, -1/12], [3/4, 1/4]]: the eigenvalues of its inverse are 2 +- i sqrt(2)."""
    radau = transient._Radau(2)
    assert np.allclose(radau.nodes, [1 / 3, 1])
    values, vectors, inverse = radau.modes
    assert np.allclose(values, 2 + 1j * math.sqrt(2))
    assert np.allclose(2 * np.real(vectors @ inverse), np.eye(2))


def cooled(space, conditions):
    """u_t = Lap u + u.x / 2 + g with u = exp(-t) cos(x + 2 y), under conditions made from u and its gradient."""

    def exact(p):
        return torch.exp(-p[:, 0]) * torch.cos(p[:, 1] + 2 * p[:, 2])

    def slope(p):
        return -torch.exp(-p[:, 0]) * torch.sin(p[:, 1] + 2 * p[:, 2])

    def rate(x, u):
        phase = x[:, 0] + 2 * x[:, 1]
        return u.laplacian + 0.5 * u.x + torch.exp(-u.time) * (4 * torch.cos(phase) + 0.5 * torch.sin(phase))

    initial = lambda x: torch.cos(x[:, 0] + 2 * x[:, 1])  # noqa: E731
    return Evolution(space, rate, initial, conditions(exact, slope), (0, 0.5), exact)


HOLED = Ellipsoid([0, 0], [1, 0.7]) - Ball([0.2, 0.1], 0.2)
PROBLEMS = {
    "values on an ellipse with a hole": lambda: cooled(HOLED, lambda u, s: [Dirichlet(u)]),
    "fluxes on a disc": lambda: cooled(DISC, lambda u, s: [Neumann(lambda p: s(p) * (p[:, 1] + 2 * p[:, 2]))]),
    "both and Robin on a square": lambda: cooled(
        Box([0, 0], [1, 1]),
        lambda u, s: [
            Neumann(s, on="x+"),
            Robin(3.0, lambda p: 2 * s(p) + 3 * u(p), on="y+"),
            Dirichlet(u),
        ],
    ),
}


@pytest.mark.parametrize("name", PROBLEMS)
def test_errors_and_their_estimates(name):
    problem = PROBLEMS[name]()
    solution = FeatureSolver(tolerance=1e-5).solve(problem)
    error = compare(solution, problem.exact, problem.domain, 3000)["rel_l2"]
    assert "by stages on" in solution.status and solution.status.startswith("converged")
    assert error <= 1e-5 and error <= 10 * solution.error_estimate


@pytest.fixture(scope="module")
def decaying():
    """The slowest mode of the disc, J0(j r) exp(-j^2 t), in slabs that shorten until degree seven follows it."""
    j = 2.404825557695773
    mode = lambda r: torch.special.bessel_j0(j * r)  # noqa: E731
    problem = Evolution(
        DISC,
        lambda x, u: u.laplacian,
        lambda x: mode(torch.linalg.vector_norm(x, dim=1)),
        [Dirichlet(0.0)],
        (0.0, 1.0),
        lambda p: mode(torch.linalg.vector_norm(p[:, 1:], dim=1)) * torch.exp(-(j**2) * p[:, 0]),
    )
    return problem, FeatureSolver(tolerance=1e-4).solve(problem)


def test_slabs_follow_a_decay(decaying):
    problem, solution = decaying
    assert solution.status.startswith("converged") and solution.cost["slabs"] > 1
    error = compare(solution, problem.exact, problem.domain, 3000)["rel_l2"]
    assert error <= 1e-4 and error <= 10 * solution.error_estimate


def test_derivatives_and_files(decaying, tmp_path):
    problem, solution = decaying
    x = problem.domain.interior(50)
    x = x[(x[:, 0] > 0.01) & (x[:, 0] < 0.99)]
    found = jet(solution, x, 1).gradient
    for axis, step in enumerate(1e-5 * torch.eye(3, dtype=torch.float64)):
        assert torch.allclose(found[:, axis], (solution(x + step) - solution(x - step)) / 2e-5, atol=1e-3)
    solution.save(tmp_path / "s.h5")
    assert torch.equal(load(tmp_path / "s.h5")(x), solution(x))


@pytest.mark.parametrize(
    "rate",
    [
        lambda x, u: (1 + u.time) * u.laplacian,
        lambda x, u: u.laplacian - u**3,
    ],
)
def test_coefficients_that_move_are_left_to_others(rate):
    problem = Evolution(DISC, rate, 0.0, [Dirichlet(0.0)])
    assert not transient.applies(problem, Collocation(problem.pde()))
    still = Evolution(DISC, lambda x, u: u.laplacian + u.time, 0.0, [Dirichlet(0.0)])
    assert transient.applies(still, Collocation(still.pde()))
