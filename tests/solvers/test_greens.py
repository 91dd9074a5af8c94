"""Green's operators against closed forms, Fourier series and another family of solvers."""

# ruff: noqa: E731

import math
from functools import partial
from importlib.resources import files

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import sciml
from sciml import Ball, Box, Elliptic, Family, FiniteElement, GreensSolver, compare
from sciml.solvers.fundamental import axis_integrals, free_space, imaged, separable
from sciml.solvers.harmonic import features
from sciml.solvers.quadrature import gauss, random_rule, tensor_rule, transform
from sciml.solvers.singular_kernel import SingularityAware

PI = math.pi
LINE, SQUARE, CUBE = Box([0], [1]), Box([0, 0], [1, 1]), Box([0, 0, 0], [1, 1, 1])
PLATE = SQUARE - Ball([0.3, 0.3], 0.1) - Ball([0.7, 0.6], 0.15)


def learn(domain, **options):
    return GreensSolver(SingularityAware(**options)).solve(Elliptic(domain, 1.0, 0.0))


@pytest.fixture(scope="module")
def square():
    return learn(SQUARE)


def sines(k, m):
    """-Lap u = f with u = sin k pi x sin m pi y."""
    u = lambda x: torch.sin(k * PI * x[:, 0]) * torch.sin(m * PI * x[:, 1])
    return u, lambda x: (k**2 + m**2) * PI**2 * u(x)


# ---- one dimension -------------------------------------------------------------------------------------------------


def test_kernel_on_the_line_is_the_tent():
    x = torch.rand(200, 1, dtype=torch.float64)
    y = torch.rand(190, 1, dtype=torch.float64)
    exact = torch.minimum(x, y.T) * (1 - torch.maximum(x, y.T))
    assert (learn(LINE).kernel(x, y) - exact).norm() < 1e-13 * exact.norm()


@settings(max_examples=15, deadline=None)
@given(st.floats(0.1, 20), st.floats(-3, 3), st.floats(-2, 2), st.floats(0.5, 4))
def test_line_solves_what_it_never_saw(k, left, right, a):
    box = Box([-1.0], [2.0])
    exact = lambda x: torch.sin(k * x[:, 0]) + left * x[:, 0] + right
    problem = Elliptic.manufactured(box, exact, diffusion=a)
    solution = GreensSolver().solve(problem)(problem.source, exact)
    assert compare(solution, exact, box)["rel_l2"] < 1e-9


# ---- two and three dimensions --------------------------------------------------------------------------------------


def test_kernel_on_the_square_is_the_fourier_series(square):
    """At points apart, where the double series, one index summed in closed form, converges fast."""
    x = torch.tensor([[0.2, 0.3], [0.05, 0.9], [0.7, 0.95]], dtype=torch.float64)
    y = torch.tensor([[0.6, 0.7], [0.5, 0.02], [0.98, 0.4]], dtype=torch.float64)
    exact = torch.zeros(3, 3, dtype=torch.float64)
    for k in range(1, 200):
        low, high = torch.minimum(x[:, 1:], y[:, 1]), torch.maximum(x[:, 1:], y[:, 1])
        # sinh products without overflow
        e = (
            torch.exp(-k * PI * (high - low))
            * (1 - torch.exp(-2 * k * PI * low))
            * (1 - torch.exp(-2 * k * PI * (1 - high)))
        )
        green = e / (2 * k * PI * (1 - math.exp(-2 * k * PI)))
        exact += 2 * torch.sin(k * PI * x[:, :1]) * torch.sin(k * PI * y[:, 0]) * green
    assert (square.kernel(x, y) - exact).abs().max() < 1e-7
    assert (square.kernel(x, y) - square.kernel(y, x).T).abs().max() < 1e-7


def test_images_are_what_makes_the_rest_smooth():
    """Near a side the regular part is log-singular itself: without images a rest of the same degree fails there."""
    x, y = torch.tensor([[0.5, 0.01]], dtype=torch.float64), torch.tensor([[0.52, 0.012]], dtype=torch.float64)
    fine, with_images, without = (
        float(learn(SQUARE, degree=d, images=i).kernel(x, y)) for d, i in ((40, True), (20, True), (20, False))
    )
    assert abs(with_images - fine) < 1e-5 * fine < 1e-3 * fine < abs(without - fine)


@pytest.mark.parametrize(("k", "m"), [(1, 1), (3, 2), (7, 5)])
def test_square_solves_sines(square, k, m):
    exact, source = sines(k, m)
    assert compare(square(source), exact, SQUARE)["rel_l2"] < 1e-6


def test_square_meets_a_source_that_does_not_vanish_in_the_corners(square):
    problem = Elliptic(SQUARE, lambda x: torch.exp(x[:, 0]) + torch.sin(5 * x[:, 1]), lambda x: x[:, 0] * x[:, 1])
    reference = FiniteElement(24, degree=4).solve(problem)
    solution = square(problem.source, lambda x: x[:, 0] * x[:, 1])
    assert compare(solution, reference, SQUARE, n=4000)["rel_l2"] < 1e-5


def test_plate_uses_nothing_inside_the_holes():
    exact = lambda x: torch.exp(2 * x[:, 0] * x[:, 1]) + torch.sin(9 * x[:, 0])
    problem = Elliptic.manufactured(PLATE, exact)

    def source(x):
        assert bool(PLATE.contains(x).all())
        return problem.source(x)

    operator = learn(PLATE)
    solution = operator(source, exact)
    assert compare(solution, exact, PLATE)["rel_l2"] < 1e-5
    edges = PLATE.boundary(500)[0]
    edges = edges[PLATE.contains(edges)]
    assert (solution(edges) - exact(edges)).abs().max() < 1e-4
    # negative control: forget the holes
    assert compare(learn(SQUARE)(problem.source, exact), lambda x: exact(x) + 1, PLATE)["rel_l2"] > 0.1


def test_cube():
    exact = lambda x: torch.exp(x[:, 0] * x[:, 1]) * torch.sin(3 * x[:, 2])
    problem = Elliptic.manufactured(CUBE, exact)
    assert compare(learn(CUBE)(problem.source, exact), exact, CUBE, n=3000)["rel_l2"] < 1e-3


def test_error_falls_with_the_degree_of_the_rest():
    exact = lambda x: torch.exp(2 * x[:, 0] * x[:, 1]) + torch.sin(9 * x[:, 0])
    source = Elliptic.manufactured(SQUARE, exact).source
    errors = [
        compare(learn(SQUARE, degree=d, modes=24)(source, exact), exact, SQUARE, n=2000)["rel_l2"] for d in (2, 6, 12)
    ]
    assert errors[0] > 5 * errors[1] > 25 * errors[2]


def test_expected_error_bounds_the_true_one(square):
    for k, m in ((1, 2), (12, 3)):
        exact, source = sines(k, m)
        solution = square(source)
        assert compare(solution, exact, SQUARE)["rel_l2"] < 3 * solution.error_estimate + 1e-6
    rough = square(lambda x: torch.sign(x[:, 0] - 0.4))
    assert rough.error_estimate > 1e-3


# ---- the face ------------------------------------------------------------------------------------------------------


def test_batches_are_the_solutions_one_by_one(square):
    parts = [sines(1, 1), sines(2, 3)]
    both = square(lambda x: torch.stack([f(x) for _, f in parts], 1))
    x = SQUARE.interior(50)
    assert both(x).shape == (50, 2)
    for i, (_, source) in enumerate(parts):
        torch.testing.assert_close(both(x)[:, i], square(source)(x))


def test_operator_is_linear(square):
    (_, f), (_, g) = sines(1, 2), sines(3, 1)
    x = SQUARE.interior(100)
    sum_ = square(lambda x: 2 * f(x) - g(x))(x)
    torch.testing.assert_close(sum_, 2 * square(f)(x) - square(g)(x), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("domain", [LINE, PLATE], ids=["line", "plate"])
def test_operators_and_their_solutions_are_saved(tmp_path, domain):
    operator = GreensSolver().solve(Elliptic(domain, 1.0, 2.0))
    operator.save(tmp_path / "o.h5")
    back = sciml.load(tmp_path / "o.h5")
    x = domain.interior(20).numpy()
    assert np.array_equal(back(1.0)(x), operator(1.0)(x))
    back(1.0).save(tmp_path / "s.h5")
    assert np.array_equal(sciml.load(tmp_path / "s.h5")(x), operator(1.0)(x))
    assert back.status == operator.status and back.cost == operator.cost


def test_the_operator_that_ships(square):
    path = files("sciml.data") / "greens_poisson2d.h5"
    assert path.stat().st_size < 2e6
    shipped = sciml.load(path)
    torch.testing.assert_close(shipped.kernel.nodes, square.kernel.nodes)
    exact, source = sines(4, 3)
    assert compare(shipped(source), exact, SQUARE, n=2000)["rel_l2"] < 1e-6


def test_boundary_functions_are_asked_for_again(tmp_path):
    problem = Elliptic(LINE, 0.0, lambda x: 1 + x[:, 0])
    GreensSolver().solve(problem).save(tmp_path / "o.h5")
    x = LINE.interior(5)
    torch.testing.assert_close(sciml.load(tmp_path / "o.h5", problem)(0.0)(x), 1 + x[:, 0])
    with pytest.raises(ValueError, match="boundary is not given"):
        sciml.load(tmp_path / "o.h5")(0.0)


def test_derivatives_of_a_solution(square):
    exact, source = sines(2, 1)
    x = SQUARE.interior(20)
    residual = Elliptic(SQUARE, source, 0.0).residual(sciml.jet(square(source), x), x)
    assert residual.abs().max() < 1e-3 * source(x).abs().max()


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        (lambda: GreensSolver().solve(Elliptic(LINE, 1.0, 0.0, p=3)), "nonlinear"),
        (lambda: GreensSolver().solve(Elliptic(SQUARE, 1.0, 0.0, diffusion=lambda x: 1 + x[:, 0])), "LowRank"),
        (lambda: GreensSolver().solve(Elliptic(SQUARE, 1.0, 0.0, reaction=1.0)), "LowRank"),
        (lambda: GreensSolver().solve(Elliptic(Ball([0, 0], 1), 1.0, 0.0)), "must be a Box"),
        (lambda: GreensSolver().solve(Elliptic(SQUARE - Ball([0, 0], 0.2), 1.0, 0.0)), "touches"),
        (lambda: Family(Elliptic(LINE, 1.0, 0.0), lambda n, g: lambda x: x), "drew 3 functions"),
        (lambda: Family(LINE), "made of an Elliptic"),
        (lambda: learn(LINE)(lambda x: x[:, 0] / 0), "not finite"),
        (lambda: learn(LINE)(lambda x: x[:3]), "gave shape"),
        (lambda: learn(LINE)(1.0)(np.array([[1.5]])), "outside the domain"),
        (lambda: SingularityAware(degree=0), "degree is 0"),
    ],
)
def test_bad_input_is_a_sentence(call, sentence):
    with pytest.raises((TypeError, ValueError), match=sentence):
        call()


# ---- parts ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dim", [2, 3])
def test_gaussians_add_up_to_the_fundamental_solution(dim):
    terms = separable(dim, 2.0)
    r = torch.logspace(-3, 0.8, 60, dtype=torch.float64)
    total = (terms.weights * torch.exp(-terms.rates * r[:, None] ** 2)).sum(1)
    # the two differ by one constant, which is harmonic
    torch.testing.assert_close(
        total - total[-1], free_space(r**2, dim) - free_space(r**2, dim)[-1], rtol=1e-7, atol=1e-7
    )


@pytest.mark.parametrize("images", [False, True])
def test_axis_integrals_against_a_fine_rule(images):
    terms = separable(2, 1.0)
    x = torch.tensor([0.0, 0.3, 0.99], dtype=torch.float64)
    mild = (terms.rates > 0.1) & (terms.rates < 1e3)
    found = axis_integrals(x, 0.0, 1.0, 9, terms, images)[mild]
    y, w = gauss(0.0, 1.0, 400)
    table = (
        transform(400)[:9] * (2 / (2 * torch.arange(9, dtype=torch.float64) + 1))[:, None]
    )  # rows: P_m at the nodes times weight
    for rate, part in zip(terms.rates[mild], found, strict=True):
        g = lambda c, rate=rate: torch.exp(-rate * (c[:, None] - y) ** 2)
        values = g(x) - g(-x) - g(2 - x) if images else g(x)
        torch.testing.assert_close(part, values @ table.T / 2, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("domain", [LINE, SQUARE, PLATE, CUBE], ids=["line", "square", "plate", "cube"])
def test_rest_is_harmonic_and_independent(domain):
    box, holes = sciml.solvers.harmonic.box_and_holes(domain)
    x = domain.interior(400)
    values = features(x, box, holes, 5)
    assert torch.linalg.matrix_rank(values / values.norm(dim=0)) == values.shape[1]
    if domain.dim == 3:
        assert values.shape[1] == 36
    for k in range(0, values.shape[1], 3):
        j = sciml.jet(partial(lambda k, x: features(x, box, holes, 5)[:, k], k), x[:20])
        assert j.laplacian.abs().max() < 1e-6 * (1 + j.gradient.abs().max())


def test_images_vanish_where_they_must():
    """One side and its image: on that side they cancel, the sources of the opposite one aside."""
    x = torch.tensor([[0.0]], dtype=torch.float64)
    y = torch.tensor([[0.4]], dtype=torch.float64)
    lower, upper = LINE.bounds
    # -|x - y|/2 + |x + y|/2 + |x - 2 + y|/2 at x = 0
    assert float(imaged(x, y, lower, upper)) == pytest.approx((2 - 0.4) / 2, abs=1e-15)
    assert float(imaged(x, y, lower, upper, images=False)) == pytest.approx(-0.2, abs=1e-15)


def test_rules():
    x, w = tensor_rule(*PLATE.bounds, 5)
    assert float((w * x[:, 0] ** 9 * x[:, 1] ** 4).sum()) == pytest.approx(1 / 50, rel=1e-13)
    x, w = random_rule(PLATE, 20000, torch.Generator().manual_seed(0))
    assert float(w.sum()) == pytest.approx(PLATE.volume)
    assert bool(PLATE.contains(x).all())
