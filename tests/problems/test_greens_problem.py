"""The families and comparisons of problems/greens.py."""

import math

import numpy as np
import pytest
import torch

from sciml import Box, Elliptic
from sciml.problems import greens


@pytest.mark.parametrize("name", greens.SOURCES)
@pytest.mark.parametrize("dim", [1, 2, 3])
def test_families_draw_what_they_promise(name, dim):
    x = torch.rand(11, dim, dtype=torch.float64)
    first, again, other = (greens.SOURCES[name](4, torch.Generator().manual_seed(s))(x) for s in (1, 1, 2))
    assert first.shape == (11, 4) and torch.equal(first, again) and not torch.allclose(first, other)


def test_random_fields_have_their_covariance():
    x = torch.tensor([[0.3, 0.3], [0.3, 0.45]], dtype=torch.float64)
    draws = torch.cat([greens.fields(50, torch.Generator().manual_seed(s))(x) for s in range(80)], 1)
    assert float((draws[0] * draws[1]).mean()) == pytest.approx(math.exp(-0.5), abs=0.06)


def test_sine_series_solves_its_equation():
    f, u = greens.sine_series(3, torch.Generator().manual_seed(0))
    x = torch.rand(20, 2, dtype=torch.float64)
    for k in range(3):
        problem = Elliptic(Box([0, 0], [1, 1]), lambda x, k=k: f(x)[:, k], 0.0)
        assert problem.residual(problem.jet(lambda x, k=k: u(x)[:, k], x), x).abs().max() < 1e-10


def test_classical_solvers_and_the_operator_agree_where_each_should():
    class Run:
        seed = 0

    found = greens.timing(greens.Config(many=5, side=31), None, Run)
    # five-point differences are of second order; the sine transform divides by the exact eigenvalues
    assert 1e-4 < found["sparse LU"]["rel_l2"] < 2e-2
    assert found["sine transform"]["rel_l2"] < 1e-10
    errors = [found[f"operator, {n}^2 nodes"]["rel_l2"] for n in (10, 14, 20)]
    assert errors[0] > errors[1] > errors[2] and errors[2] < 1e-6


def test_operator_matrix_is_the_operator():
    points = torch.rand(6, 2, dtype=torch.float64)
    matrix, nodes = greens.operator_matrix(8, points)
    exact = torch.sin(math.pi * points).prod(1)
    values = 2 * math.pi**2 * torch.sin(math.pi * nodes).prod(1)
    assert np.abs(matrix @ values.numpy() - exact.numpy()).max() < 1e-4


def test_errors_on_a_grid_are_those_of_the_operator():
    """The best kernel is exact here to the truth's order; half of it is half wrong."""
    operator = greens.GreensSolver(greens.kernel_options(greens.Config())).solve(greens.CASES["square"]())
    source, config = greens.fields(3, torch.Generator().manual_seed(0)), greens.Config(cells=64)
    assert max(greens.grid_errors(config, operator, source, 2)) < 1e-4
    half = greens.grid_errors(config, lambda f: lambda x: operator(f)(x) / 2, source, 2)
    assert half == pytest.approx([0.5] * 3, rel=1e-3)


def test_a_trained_kernel_is_shown_several_wavelengths():
    x = torch.rand(5, 2, dtype=torch.float64)
    drawn = greens.mixture(7, torch.Generator().manual_seed(0))(x)
    assert drawn.shape == (5, 7)
    options = greens.kernel_options(greens.Config(kernel="symmetric", train=7, steps=5))
    assert options.symmetric and options.labels == options.members == 7 and options.stages[0].steps == 5
