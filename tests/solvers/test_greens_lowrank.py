"""The low-rank kernel against manufactured solutions, finite elements and the kernel with the singularity built in."""

# ruff: noqa: E731

import math

import numpy as np
import pytest
import torch

import sciml
from sciml import Ball, Box, Elliptic, FiniteElement, GreensSolver, compare
from sciml.solvers.lowrank import LowRank, apply_operator, products
from sciml.solvers.quadrature import derivative, legendre

LINE, SQUARE = Box([0], [1]), Box([0, 0], [1, 1])
bump = lambda x: 1 + 0.5 * torch.sin(3 * x).prod(1)


@pytest.mark.parametrize("domain", [LINE, SQUARE, Box([0, -1, 0], [1, 1, 2]), Ball([0.2, 0], 1.0)], ids=str)
def test_variable_coefficients(domain):
    exact = lambda x: torch.cos(x.sum(1)) + x[:, 0] ** 2
    problem = Elliptic.manufactured(domain, exact, diffusion=bump, reaction=lambda x: x[:, 0] ** 2)
    solution = GreensSolver(LowRank()).solve(problem)(problem.source, exact)
    assert compare(solution, exact, domain, n=2000)["rel_l2"] < (1e-4 if domain.dim == 3 else 1e-7)


def test_error_falls_with_the_rank():
    exact = lambda x: torch.sin(6 * x[:, 0]) * torch.exp(x[:, 1])
    problem = Elliptic.manufactured(SQUARE, exact, diffusion=bump)
    solve = lambda n: GreensSolver(LowRank(n)).solve(problem)(problem.source, exact)
    errors = [compare(solve(n), exact, SQUARE, n=2000)["rel_l2"] for n in (6, 10, 14)]
    assert errors[0] > 20 * errors[1] > 400 * errors[2]


def test_sources_it_never_saw_against_finite_elements():
    problem = Elliptic(SQUARE, lambda x: torch.exp(-20 * (x - 0.4).square().sum(1)), 0.0, diffusion=bump, reaction=2.0)
    solution = GreensSolver(LowRank()).solve(Elliptic(SQUARE, 1.0, 0.0, diffusion=bump, reaction=2.0))(problem.source)
    assert compare(solution, FiniteElement(20, degree=4).solve(problem), SQUARE, n=3000)["rel_l2"] < 1e-4


def test_kernel_is_the_tent_as_well_as_its_rank_allows():
    x = torch.linspace(0.05, 0.95, 41, dtype=torch.float64)[:, None]
    exact = torch.minimum(x, x.T) * (1 - torch.maximum(x, x.T))
    errors = []
    for modes in (10, 40):
        found = GreensSolver(LowRank(modes)).solve(Elliptic(LINE, 1.0, 0.0)).kernel(x, x)
        errors.append(float((found - exact).norm() / exact.norm()))
    assert errors[1] < errors[0] / 4 and errors[1] < 1e-2


def test_saved_batched_and_refused(tmp_path):
    operator = GreensSolver(LowRank(12)).solve(Elliptic(SQUARE, 1.0, 0.5, reaction=1.0))
    operator.save(tmp_path / "o.h5")
    x = SQUARE.interior(30)
    sources = lambda x: torch.stack([x[:, 0], x[:, 1] ** 2], 1)
    assert torch.equal(sciml.load(tmp_path / "o.h5")(sources)(x), operator(sources)(x))
    torch.testing.assert_close(operator(sources)(x)[:, 1], operator(lambda x: x[:, 1] ** 2)(x))
    with pytest.raises(ValueError, match="boundary gives 3 functions"):
        operator(sources, lambda x: x[:, :1].expand(-1, 3))
    with pytest.raises(ValueError, match="outside the domain"):
        operator(1.0)(np.array([[2.0, 0.5]]))
    with pytest.raises(ValueError, match="modes is 1"):
        LowRank(1)


def test_derivatives_of_legendre_polynomials():
    t = torch.linspace(-1, 1, 7, dtype=torch.float64).requires_grad_()
    table = legendre(t, 6)
    for k in range(1, 6):
        (slope,) = torch.autograd.grad(table[:, k].sum(), t, retain_graph=True)
        torch.testing.assert_close(slope, (table @ derivative(6))[:, k].detach())


def test_operator_on_products_is_the_residual_of_the_problem():
    problem = Elliptic(SQUARE, 0.0, 0.0, diffusion=bump, reaction=lambda x: math.pi + x[:, 0])
    x = SQUARE.interior(9)
    table = apply_operator(problem, x, 4)
    for k in (0, 5, 15):
        field = lambda x, k=k: products(x, SQUARE, 4)[:, k]
        torch.testing.assert_close(table[:, k], problem.residual(problem.jet(field, x), x))
