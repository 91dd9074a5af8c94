"""Features in three dimensions: few unknowns, sparse spectra, honest estimates, and what bad input gets."""

import math

import pytest
import torch

from sciml.calculus import jet
from sciml.conditions import Dirichlet, Neumann
from sciml.domain import Ball, Box, Ellipsoid
from sciml.problem import Elliptic, Evolution, Piecewise
from sciml.solution import compare, load
from sciml.solvers.ansatz import start
from sciml.solvers.collocation import Collocation
from sciml.solvers.features import FeatureSolver
from sciml.solvers.leastsquares import Factor, Normal
from sciml.solvers.modulated import Modulated
from sciml.solvers.space import Graded, Peaked
from sciml.theory.spectra import peaks

CUBE = Box([-1] * 3, [1] * 3)
HOLES = CUBE - Ball([0.3, 0.2, -0.4], 0.3) - Ellipsoid([-0.4, 0.5, 0.3], [0.3, 0.2, 0.15])
BALL = Ball([0, 0, 0], 1.0)


def sines(*mu):
    return lambda x: torch.sin(torch.tensor(mu, dtype=x.dtype) * x).prod(1)


def vector(*values):
    return torch.tensor(values, dtype=torch.float64)


def test_derivatives_of_modulated_waves():
    waves = vector([0.0, 0, 0], [3, 1, -2], [5, 0, 0])
    family = Modulated(waves, torch.tensor([3, 2, 1]), vector(-1, -1, -1), vector(1, 1, 2))
    x = torch.rand(20, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    pairs = [(i, j) for i in range(3) for j in range(i, 3)]
    j = jet(lambda y: family.apply(y, {(): 1.0}), x, 2, pairs)
    for i in range(3):
        torch.testing.assert_close(family.apply(x, {(i,): 1.0}), j.gradient[..., i], rtol=1e-9, atol=1e-9)
    for pair, second in j.second.items():
        torch.testing.assert_close(family.apply(x, {pair: 1.0}), second, rtol=1e-8, atol=1e-8)
    w = x[:, 0]
    mixed = family.apply(x, {(0, 1): w, (2,): 2.0, (): w})
    expected = w[:, None] * (j.second[0, 1] + j.value) + 2 * j.gradient[..., 2]
    torch.testing.assert_close(mixed, expected, rtol=1e-8, atol=1e-8)
    assert family.size == 20 + 2 * 10 + 2 * 4 == len(family.orders[0])


def test_normal_equations_agree_with_qr():
    a = torch.randn(200, 41, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    order = torch.randperm(40, generator=torch.Generator().manual_seed(1))
    for o in (None, order):
        normal, factor = Normal([a[:90], a[90:]], 40, o), Factor(a.clone(), order=o)
        for columns in (40, 17, 1):
            torch.testing.assert_close(normal.solve(columns), factor.solve(columns), rtol=1e-10, atol=1e-12)


def test_peaks_of_three_waves_of_different_height():
    def field(x):
        return (
            2 * torch.cos(30 * x[:, 0]) + 0.3 * torch.sin(12 * x[:, 1] - 24 * x[:, 2]) + 0.01 * torch.cos(50 * x[:, 2])
        )

    k, a = peaks(field, BALL)
    expected = vector([30, 0, 0], [0, 12, 24], [0, 0, 50])
    assert len(k) == 3
    torch.testing.assert_close(k.abs(), expected, rtol=0, atol=0.2)
    torch.testing.assert_close(a, vector(2, 0.3, 0.01), rtol=0.05, atol=0)
    # a smooth function has no peaks far from zero
    k, a = peaks(lambda x: torch.sin(3 * x.square().sum(1)), BALL)
    assert float(k[a > 0.05 * a.max()].abs().max()) < 15


def test_what_is_zero_has_no_peaks():
    k, a = peaks(lambda x: torch.zeros(len(x), dtype=x.dtype), BALL)
    assert len(k) == len(a) == 0


def test_heat_in_two_dimensions():
    def exact(p):
        return torch.exp(-2 * math.pi**2 * p[:, 0]) * torch.sin(math.pi * p[:, 1]) * torch.sin(math.pi * p[:, 2])

    problem = Evolution(
        Box([0, 0], [1, 1]),
        lambda x, u: u.xx + u.yy,
        lambda x: torch.sin(math.pi * x).prod(1),
        [Dirichlet(0.0)],
        time=(0, 0.1),
        exact=exact,
    )
    solution = FeatureSolver(tolerance=1e-4).solve(problem)
    error = compare(solution, exact, problem.domain)["rel_l2"]
    assert solution.status.startswith("converged")
    assert error < 1e-4
    assert error / 10 < solution.error_estimate < 10 * error


PROBLEMS = {
    "holes": (lambda: Elliptic.manufactured(HOLES, sines(2.0, 1.0, 3.0)), 1e-5),
    "ball": (lambda: Elliptic.manufactured(BALL - Ball([0.4, 0, 0], 0.2), sines(3.0, 1.0, 1.0)), 1e-5),
}


@pytest.mark.parametrize("name", PROBLEMS)
def test_reaches_its_tolerance_and_knows_it(name):
    make, tolerance = PROBLEMS[name]
    problem = make()
    solution = FeatureSolver(tolerance=tolerance).solve(problem)
    error = compare(solution, problem.exact, problem.domain)["rel_l2"]
    assert solution.status.startswith("converged")
    assert error < 3 * tolerance
    assert error / 10 < solution.error_estimate < 10 * error


def sparse(mu):
    """A screened equation whose screening jumps; the spectrum of the solution is two peaks."""
    kappa = Piecewise(5.0, [(Ball([0, 0, 0], 0.5), 1.0), (Ball([0.5, 0, 0], 0.2), 1.0)])

    def exact(x):
        waves = torch.cos(mu * x[:, 0] + 3 * x[:, 1]) + 0.1 * torch.sin(mu * x[:, 1] + 30 * x[:, 2])
        return waves * (x.square().sum(1) - 1)

    return Elliptic.manufactured(BALL, exact, reaction=kappa)


def test_sparse_spectrum_needs_few_unknowns(tmp_path):
    problem = sparse(40.0)
    first = start(Collocation(problem), 1e-2, None, 8000, torch.Generator().manual_seed(0))
    assert isinstance(first, Peaked)
    solution = FeatureSolver(tolerance=1e-2, local=False).solve(problem)  # by features alone
    error = compare(solution, problem.exact, problem.domain)["rel_l2"]
    assert solution.status.startswith("converged")
    assert error < 1e-2
    assert error / 10 < solution.error_estimate < 10 * error
    assert solution.cost["unknowns"] < 1500
    solution.save(tmp_path / "s.h5")
    x = BALL.interior(50)
    torch.testing.assert_close(load(tmp_path / "s.h5")(x), solution(x), rtol=1e-12, atol=1e-12)


def test_wavenumbers_move_to_where_the_waves_are():
    k, off = vector([20.0, 0, 0], [0, 12, -9]), vector([0.6, -0.3, 0.2], [0, 0.5, 0])
    rough = Peaked(BALL, k + off, vector(1, 0.5), 0.02, 1000)
    x = BALL.interior(2000, torch.Generator().manual_seed(0))
    exact = torch.cos(x @ k[0]) * (x.square().sum(1) - 1) + 0.5 * torch.sin(x @ k[1])
    columns = rough.families[0].apply(x, {(): 1.0})
    coefficients = torch.linalg.lstsq(columns, exact[:, None]).solution[:, 0]
    larger = rough.larger((1e-2, 1e-1, 1.0), 10.0, coefficients)
    assert larger is not None
    torch.testing.assert_close(larger.wavenumbers, k, rtol=0, atol=0.03)


def test_low_wavenumbers_get_polynomials():
    first = start(
        Collocation(Elliptic.manufactured(HOLES, sines(4.0, 3.0, 2.0))),
        1e-2,
        None,
        8000,
        torch.Generator().manual_seed(0),
    )
    assert isinstance(first, Graded)
    larger = first.larger((1e-3, 2e-3, 4e-3), 10.0, torch.zeros(first.size))
    assert larger is not None and larger.size > first.size
    # the columns of the smaller choice lead those of the larger one
    a, b = (f.families[0].degrees for f in (first, larger))
    assert {tuple(i) for i in a.tolist()} == {tuple(i) for i in b[: len(a)].tolist()}


@pytest.mark.parametrize("memory", [10.0, 1e3])
def test_too_little_memory_is_refused(memory):
    with pytest.raises(ValueError, match="too small"):
        FeatureSolver(memory=memory).solve(Elliptic.manufactured(CUBE, sines(5.0, 5.0, 5.0)))


def test_what_equations_do_not_determine_is_no_solution():
    problem = Elliptic(CUBE, lambda x: torch.cos(math.pi * x[:, 0]), conditions=[Neumann(0.0)])
    solution = FeatureSolver(tolerance=1e-3).solve(problem)
    assert "does not determine" in solution.status
    assert math.isinf(solution.error_estimate)
