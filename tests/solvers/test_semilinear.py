"""Newton's method on a learned Green's operator against manufactured solutions and dense linear algebra."""

# ruff: noqa: E731

import math

import pytest
import torch

import sciml
from sciml import PDE, Box, Dirichlet, Elliptic, Evolution, Family, GreensSolver, compare
from sciml.problems.modnet import cubic, errors, strong
from sciml.solvers.semilinear import Semilinear, gmres

PI = math.pi
LINE, SQUARE = Box([0], [1]), Box([0, 0], [1, 1])
CUBIC = PDE(LINE, "x", lambda x, u: u**3 - u.xx, [Dirichlet(0.0)])


def ones(count, generator):
    return lambda x: torch.ones(len(x), count, dtype=torch.float64)


def test_gmres_of_many_systems():
    generator = torch.Generator().manual_seed(0)
    a = torch.randn(3, 20, 20, generator=generator, dtype=torch.float64) + 5 * torch.eye(20, dtype=torch.float64)
    b = torch.randn(3, 20, generator=generator, dtype=torch.float64)
    apply = lambda z: torch.einsum("kij,kj->ki", a, z)
    exact = torch.linalg.solve(a, b)
    torch.testing.assert_close(gmres(apply, b, 20, 1e-13), exact)
    short = gmres(apply, b, 5, 1e-13)
    assert 1e-6 < float((short - exact).norm()) < float(exact.norm())
    assert not gmres(apply, torch.zeros_like(b), 20, 1e-10).any()


def test_manufactured_solutions_from_weak_to_strong():
    """-u'' + u^3 = f for u = s sin(pi x); at s = 20 the reaction is 40 times the diffusion."""
    operator = GreensSolver(Semilinear()).solve(Family(CUBIC, sources=strong))
    sizes = torch.tensor([1.0, 5.0, 20.0], dtype=torch.float64)
    exact = lambda x: torch.sin(PI * x) * sizes
    found = operator(lambda x: PI**2 * exact(x) + exact(x) ** 3)
    x = LINE.interior(50)
    torch.testing.assert_close(found(x), exact(x), rtol=0, atol=1e-9)
    one = operator(lambda x: (PI**2 * exact(x) + exact(x) ** 3)[:, 1])
    torch.testing.assert_close(one(x), exact(x)[:, 1], rtol=0, atol=1e-9)


def test_random_members_against_differences():
    operator = GreensSolver(Semilinear()).solve(Family(CUBIC, sources=strong))
    f = strong(8, torch.Generator().manual_seed(7))
    x = LINE.interior(400)
    truth = torch.stack([cubic(2048, lambda x, k=k: f(x)[:, k])(x) for k in range(8)], 1)
    assert errors(operator(f)(x), truth)["worst"] < 1e-5
    linear = GreensSolver().solve(Family(Elliptic(LINE, 1.0, 0.0), strong))
    assert errors(linear(f)(x), truth)["rel_l2"] > 0.1


def test_convection_boundary_values_and_files(tmp_path):
    exact = lambda x: torch.sin(x[:, 0]) + torch.sin(PI * x[:, 0]) * torch.sin(PI * x[:, 1])
    problem = PDE(SQUARE, "xy", lambda x, u: -u.laplacian + u * u.x + torch.exp(u), [Dirichlet(0.0)])
    operator = GreensSolver(Semilinear(modes=14)).solve(Family(problem, sources=ones))
    source = lambda x: problem.residual(exact, x)[0]
    solution = operator(source, exact)
    assert compare(solution, exact, SQUARE)["rel_l2"] < 1e-7
    operator.save(tmp_path / "o.h5")
    x = SQUARE.interior(9)
    torch.testing.assert_close(sciml.load(tmp_path / "o.h5", problem)(source, exact)(x), solution(x))
    with pytest.raises(ValueError, match="problem must be the PDE"):
        sciml.load(tmp_path / "o.h5")
    with pytest.raises(ValueError, match="no single kernel"):
        operator.kernel(x, x)


def test_no_solution_is_said():
    """-Lap u = 20 exp(u) has none: the fold lies at 6.8."""
    problem = PDE(SQUARE, "xy", lambda x, u: -u.laplacian - 20 * torch.exp(u), [Dirichlet(0.0)])
    operator = GreensSolver(Semilinear(modes=10)).solve(Family(problem, sources=ones))
    assert "did not converge" in operator(0.0).status


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        (lambda: Semilinear(modes=2), "modes is 2"),
        (lambda: Semilinear(tolerance=0.0), "tolerance is 0.0"),
        (lambda: GreensSolver(Semilinear()).solve(Family(Elliptic(LINE, 1.0, 0.0), strong)), "of the kind Elliptic"),
        (
            lambda: GreensSolver(Semilinear()).solve(
                Family(Evolution(LINE, lambda x, u: u.xx, 0.0, [Dirichlet(0.0)]), initials=strong)
            ),
            "of the kind Evolution",
        ),
        (
            lambda: GreensSolver(Semilinear()).solve(
                Family(PDE(LINE, "x", lambda x, u: u * u.xx, [Dirichlet(0.0)]), sources=strong)
            ),
            "no second derivatives",
        ),
        (
            lambda: GreensSolver(Semilinear()).solve(Family(CUBIC, sources=strong))(lambda x: x[:, 0] / 0),
            "source is not finite",
        ),
    ],
)
def test_bad_input_is_a_sentence(call, sentence):
    with pytest.raises(ValueError, match=sentence):
        call()
