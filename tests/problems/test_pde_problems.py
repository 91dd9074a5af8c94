"""The papers' problems: their exact solutions solve them, and classical solvers, which do not know those, find them."""

import math
from dataclasses import replace

import pytest
import torch

from sciml import FiniteDifference, compare
from sciml.problems import burgers, p_laplacian, poisson, poisson_boltzmann

PI = math.pi


def config(case):
    mu = {"ring": 5.0, "cube27": 5.0, "cube125": 5.0, "stored": 6 * PI}.get(case, 15.0 if "squares" in case else 7 * PI)
    return replace(poisson.Config(), case=case, mu=mu)


@pytest.mark.parametrize("case", poisson.CASES)
def test_poisson_cases_state_their_solution(case):
    problem = poisson.CASES[case](config(case))
    if case == "ring":  # torch has no derivative of the Bessel function
        return
    x = problem.domain.interior(200)
    assert problem.residual(problem.jet(problem.exact, x), x).abs().max() < 1e-9 * problem.source(x).abs().max()


@pytest.mark.parametrize(
    ("case", "n", "below"),
    [
        ("stored", 512, 1e-3),
        ("squares2", 128, 0.1),
        ("holes", 192, 0.03),
        ("holes7", 128, 0.02),
        ("ring", 96, 0.01),
        ("jacobi", 512, 1e-2),
        ("cube27", 24, 0.03),
    ],
)
def test_finite_differences_find_the_poisson_solutions(case, n, below):
    problem = poisson.CASES[case](config(case))
    assert compare(FiniteDifference(n).solve(problem), problem.exact, problem.domain)["rel_l2"] < below


@pytest.mark.parametrize(("case", "holes"), [("holes", 4), ("holes5", 5), ("holes7", 7), ("holes20", 20)])
def test_hole_sets_are_disjoint_and_inside(case, holes):
    domain = poisson.CASES[case](config(case)).domain
    assert len(domain.labels) == 4 + holes
    # a disc that left the square or met another would lose part of its edge
    radii = domain.areas[4:] / (2 * PI)
    if case == "holes":
        assert sorted(round(float(r), 12) for r in radii[:3]) == [0.1, 0.2, 0.2]
        assert domain.volume == pytest.approx(4 - PI * (0.01 + 0.04 + 0.04 + 0.25 * 0.125), rel=1e-12)
    else:
        side = 1 if case == "holes7" else 4
        # two of the twenty overlap by a sliver of 3e-10
        assert domain.volume == pytest.approx(side - float(PI * radii.square().sum()), rel=1e-9)


def test_cubes_have_27_and_125_balls():
    assert len(poisson.CASES["cube27"](config("cube27")).domain.labels) == 6 + 27
    assert len(poisson.CASES["cube125"](config("cube125")).domain.labels) == 6 + 125


@pytest.mark.parametrize("p", [2, 3, 5])
def test_finite_differences_find_the_p_laplacian_line(p):
    problem = p_laplacian.line(p, 0.1)
    ends = torch.tensor([[0.0], [1.0]], dtype=torch.float64)
    assert problem.exact(ends).abs().max() < 1e-15
    assert compare(FiniteDifference(2048).solve(problem), problem.exact, problem.domain)["rel_l2"] < 1e-3


def test_five_dimensional_source_is_the_product_rule():
    """f = -k lap u - grad k . grad u, written out for Example 4.6."""
    problem = p_laplacian.CASES["five"](2, 0)
    x = problem.domain.interior(100)
    k = PI * torch.tensor([1.0, 2, 3, 2, 1], dtype=torch.float64)
    s, c = torch.sin(PI * x), torch.cos(k * x)
    f = 5 * PI**2 * (1 + c.prod(1)) * s.prod(1)
    for i in range(5):
        others = [j for j in range(5) if j != i]
        slope = k[i] * torch.sin(k[i] * x[:, i]) * c[:, others].prod(1)
        f = f + slope * PI * torch.cos(PI * x[:, i]) * s[:, others].prod(1)
    torch.testing.assert_close(problem.source(x), f, rtol=1e-10, atol=1e-9)


@pytest.mark.parametrize(
    ("case", "lam", "mu", "n", "below"),
    [
        ("line", 20, 50, 1024, 1e-3),
        ("square", 2, 30, 128, 0.02),
        ("scales", 0, 0, 192, 0.02),
        ("bead", 0, 2.0, 24, 0.05),
    ],
)
def test_finite_differences_find_the_poisson_boltzmann_solutions(case, lam, mu, n, below):
    problem = poisson_boltzmann.CASES[case](lam, mu)
    assert compare(FiniteDifference(n).solve(problem), problem.exact, problem.domain)["rel_l2"] < below


def test_cole_hopf_solves_burgers():
    """By its residual, which the quadrature does not know, and by the method of lines."""
    problem = burgers.forward(0.05)
    x = problem.domain.interior(200)
    x = x[x[:, 0] > 0.05]
    assert problem.pde().residual(problem.exact, x)[0].abs().max() < 1e-9
    reference = FiniteDifference(256).solve(problem)
    assert compare(reference, problem.exact, problem.domain)["rel_l2"] < 2e-3


def test_information_limit_of_the_inverse_problem():
    """More data and less noise say more, in the proportions of statistics."""
    base = burgers.Config(nu=0.05, data=200)

    def limit(**options):
        c = replace(base, **options)
        return burgers.information_limit(c, burgers.inverse(c.nu, 0.2, c.data, c.noise, 0))

    assert limit(noise=0.02) == pytest.approx(2 * limit(), rel=1e-6)
    assert limit(data=800) == pytest.approx(limit() / 2, rel=0.3)
    assert limit() / 0.05 < 0.01 < limit(nu=0.01 / PI) / (0.01 / PI)
