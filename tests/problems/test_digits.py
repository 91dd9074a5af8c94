"""The oracle of unit loads against closed forms, and the bound it claims."""

import math

import pytest
import torch

from sciml import Dirichlet, Robin, jet
from sciml.domain import Ball, Box
from sciml.problems import digits
from sciml.problems._load import unit_load


def square_series(x, terms=60):
    """-Lap u = 1 on the unit square, u = 0 on its sides, by Fourier."""
    k = math.pi * torch.arange(1, 2 * terms, 2, dtype=torch.float64)
    y = x[:, 1:] - 0.5
    wall = (torch.exp(k * (y - 0.5)) + torch.exp(-k * (y + 0.5))) / (1 + torch.exp(-k))  # cosh ky / cosh k/2
    return (4 / k**3 * torch.sin(k * x[:, :1]) * (1 - wall)).sum(1)


def test_the_series_of_a_square():
    x = Box([0, 0.1], [1, 0.9]).interior(500)
    found = unit_load([(0, 0), (1, 0), (1, 1), (0, 1)])
    slow = (square_series(x, 2000) - square_series(x, 1000)).abs().max()
    assert float((found(x) - square_series(x, 2000)).abs().max()) <= max(2 * float(slow), 2 * found.largest)
    assert found.largest < 1e-7


@pytest.mark.parametrize("name", ["plate", "L-shape"])
def test_the_bound_is_seen_on_the_boundary_and_poisson_holds(name):
    problem = digits.CASES["load"][name](0)
    edge = problem.domain.boundary(4000, torch.Generator().manual_seed(3)).points
    assert float(problem.exact(edge).abs().max()) <= 2 * problem.exact.largest < 1e-7
    x = (problem.domain & Ball([-0.1, 0.3], 0.1)).interior(50)
    h = 1e-3
    steps = torch.tensor([[h, 0], [-h, 0], [0, h], [0, -h]], dtype=torch.float64)
    laplacian = (sum(problem.exact(x + s) for s in steps) - 4 * problem.exact(x)) / h**2
    assert float((laplacian + 1).abs().max()) < 1e-4


def test_too_few_terms_are_not_certified():
    rough = unit_load(digits.SIDES, digits.PLATE, orders=(8, 3, 4))
    assert rough.largest > 1e-4


@pytest.mark.parametrize("name", digits.CASES["elsewhere"])
def test_problems_elsewhere_have_the_solutions_that_they_name(name):
    problem = digits.CASES["elsewhere"][name](0)
    x = problem.domain.interior(60)
    size = float(problem.source(x).abs().max()) + float(problem.exact(x).abs().max())
    assert float(problem.residual(problem.jet(problem.exact, x), x).abs().max()) < 1e-9 * size
    edge = problem.domain.boundary(80, torch.Generator().manual_seed(0))
    j = jet(problem.exact, edge.points, 1)
    for condition, mask in problem.partition(edge.points, edge.labels):
        at, u = edge.points[mask], j.value[mask]
        left = u if isinstance(condition, Dirichlet) else (j.gradient * edge.normals).sum(1)[mask]
        if isinstance(condition, Robin):
            left = left + condition.coefficient_at(at) * u
        torch.testing.assert_close(left, condition.at(at), rtol=1e-9, atol=1e-9)
