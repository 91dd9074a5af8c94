"""Local features: a partition of unity, its sparse QR, cells that halve where they must, and marching in time."""

import math

import pytest
import torch

from sciml.calculus import jet
from sciml.conditions import Dirichlet, Initial, Neumann, Periodic
from sciml.domain import Ball, Box
from sciml.problem import PDE, Elliptic, Evolution
from sciml.problems import burgers
from sciml.solution import compare, load
from sciml.solvers import local
from sciml.solvers.collocation import Collocation
from sciml.solvers.cover import Cover, windowed
from sciml.solvers.families import degrees_up_to
from sciml.solvers.features import FeatureSolver
from sciml.solvers.leastsquares import UNDETERMINED
from sciml.solvers.local import solve_locally
from sciml.solvers.multifrontal import SparseFactor
from sciml.solvers.patches import PatchSystem, patch_blocks
from sciml.solvers.patchfield import Patches, PatchField, polynomials
from sciml.solvers.refinement import trimmed
from sciml.training import Deadline

PI = math.pi
SQUARE = Box([-1, -1], [1, 1])


def irregular():
    """Cells of different sizes and shapes."""
    cover = Cover.even(*SQUARE.bounds, [3, 2])
    for axes in ([[0, 0]], [[2, 0], [2, 1]], [[5, 1]]):
        marked = torch.zeros(cover.size, 2, dtype=torch.bool)
        for cell, axis in axes:
            marked[cell, axis] = True
        cover = cover.split(marked)
    return cover


def test_windows_add_up_to_one():
    x = SQUARE.interior(500)
    pairs = irregular().pairs(x)
    for index, w in pairs.window.items():
        total = torch.zeros(len(x), dtype=w.dtype).index_add(0, pairs.point, w)
        torch.testing.assert_close(total, torch.full_like(total, float(index == ())), rtol=0, atol=1e-9)
    assert float(pairs.window[()].min()) >= 0


def test_a_window_ends_where_its_box_does():
    cover = irregular()
    lower, upper = cover.boxes
    x = SQUARE.interior(500)
    pairs = cover.pairs(x, 0)
    inside = ((x[pairs.point] >= lower[pairs.cell]) & (x[pairs.point] <= upper[pairs.cell])).all(1)
    assert bool(inside.all())
    # inside a cell, further from its sides than windows reach, it is alone
    core = cover.pairs((cover.lower + cover.upper) / 2, 0)
    assert core.cell.tolist() == list(range(cover.size))


def test_an_operator_on_a_product_of_window_and_feature():
    w = {i: torch.tensor([float(k + 2)]) for k, i in enumerate([(), (0,), (1,), (0, 0), (0, 1)])}
    # (w f)_xy = w f_xy + w_x f_y + w_y f_x + w_xy f
    found = windowed({(0, 1): 3.0}, w)
    assert {i: float(v) for i, v in found.items()} == {(0, 1): 6.0, (1,): 9.0, (0,): 12.0, (): 18.0}


def test_derivatives_of_a_field():
    cover, degrees = irregular(), degrees_up_to(4, 2)
    generator = torch.Generator().manual_seed(0)
    c = torch.randn(cover.size * len(degrees), 1, generator=generator, dtype=torch.float64)
    field = PatchField(Patches(cover, polynomials(degrees)), c)
    x, h = SQUARE.interior(200), 1e-5
    j = jet(field, x, 2, [(0, 0), (0, 1), (1, 1)])
    for axis in range(2):
        step = torch.zeros(1, 2, dtype=torch.float64)
        step[0, axis] = h
        slope = (field(x + step) - field(x - step)) / (2 * h)
        torch.testing.assert_close(j.gradient[:, axis], slope, rtol=1e-5, atol=1e-4)
        gradients = [jet(field, x + s * step, 1).gradient for s in (1, -1)]
        bend = (gradients[0] - gradients[1]) / (2 * h)
        torch.testing.assert_close(j.second[min(axis, 1), 1], bend[:, 1], rtol=1e-4, atol=1e-2)


def test_sparse_qr_is_the_least_squares_solution():
    problem = Elliptic.manufactured(SQUARE - Ball([0.1, 0.2], 0.3), lambda x: torch.exp(x[:, 0]) * x[:, 1])
    collocation, cover, degrees = Collocation(problem), irregular(), degrees_up_to(3, 2)
    blocks = patch_blocks(collocation, cover, len(degrees))
    system = PatchSystem(collocation, Patches(cover, polynomials(degrees)))
    equations = [(b, collocation.linearise(b)) for b in blocks]
    factor = system.factor(equations)
    # the same rows, dense
    matrix, rhs = [], []
    for block, (rows,) in equations:
        w = block.weight.sqrt() / system.scale(block, rows)
        dense = torch.zeros(len(block.x), system.size, dtype=torch.float64)
        for k in range(system.size):
            unit = torch.zeros(system.size, dtype=torch.float64)
            unit[k] = 1.0
            dense[:, k] = system.field(unit).derivative(block.x, rows.operators[0])[:, 0]
        matrix.append(w[:, None] * dense)
        rhs.append(w * rows.rhs)
    a, b = torch.cat(matrix), torch.cat(rhs)
    expected = torch.linalg.lstsq(a, b[:, None], driver="gelsd").solution[:, 0]
    torch.testing.assert_close(a @ factor.solve(), a @ expected, rtol=0, atol=1e-10 * float(b.norm()))
    v = torch.randn(2, system.size, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    least = (v @ torch.linalg.pinv(a)).norm(dim=1).reciprocal()
    torch.testing.assert_close(factor.least(v), least, rtol=1e-6, atol=0)


def test_a_qr_sees_what_its_rows_leave_open():
    generator = torch.Generator().manual_seed(0)
    rows = torch.randn(6, 5, generator=generator, dtype=torch.float64)
    rows[:, 1] = rows[:, 0]  # two columns that no row tells apart
    factor = SparseFactor([((0, 1), rows)], 2, 2, 1e-12, torch.arange(2.0)[:, None])
    apart = torch.tensor([[1.0, -1.0, 0.0, 0.0], [0.0, 0.0, 1.0, 0.0]], dtype=torch.float64)
    free, determined = factor.least(apart).tolist()
    assert free < 1e-9 and determined > 1e-3


def test_boundary_points_are_a_quadrature_of_the_boundary():
    domain = SQUARE - Ball([0.1, 0.2], 0.3) - Box([-2, -2], [-0.5, -0.5])
    problem = Elliptic(domain, 1.0, conditions=(Dirichlet(0.0, on="ball"), Dirichlet(1.0)))
    inside, *edges = patch_blocks(Collocation(problem), irregular(), 45)
    assert float(inside.weight.sum()) == pytest.approx(domain.volume, rel=2e-2)
    assert sum(float(e.weight.sum()) for e in edges) == pytest.approx(domain.area, rel=3e-2)
    ball = edges[0]
    assert float(ball.weight.sum()) == pytest.approx(0.6 * PI, rel=2e-2)
    assert ball.normals is not None
    away = (torch.tensor([0.1, 0.2], dtype=torch.float64) - ball.x) / 0.3
    torch.testing.assert_close(ball.normals, away, rtol=0, atol=1e-9)


@pytest.mark.parametrize("degree", [3, 5])
@pytest.mark.parametrize("domain", [SQUARE, SQUARE - Ball([0.3, 0.2], 0.35)], ids=["square", "hole"])
def test_convergence_rate(degree, domain):
    exact = lambda x: torch.sin(2 * x[:, 0] + 0.3) * torch.exp(x[:, 1])  # noqa: E731
    collocation = Collocation(Elliptic.manufactured(domain, exact, reaction=1.0))
    degrees, errors = degrees_up_to(degree, 2), []
    for n in (2, 4, 8):
        cover = Cover.even(*domain.bounds, [n, n])
        blocks = patch_blocks(collocation, cover, len(degrees))
        system = PatchSystem(collocation, Patches(cover, polynomials(degrees)))
        field = system.field(system.factor([(b, collocation.linearise(b)) for b in blocks]).solve())
        errors.append(compare(field, exact, domain, 2000)["rel_l2"])
    slope = math.log2(errors[0] / errors[-1]) / 2
    # residuals of second order fall by h^(degree - 1), and least squares promise no more for the solution
    assert degree - 1.2 <= slope <= degree + 2.5


def wave(nu, speed=0.5, height=0.5):
    """A front that travels."""
    exact = lambda p: speed - height * torch.tanh(height * (p[:, 1] + 0.3 - speed * p[:, 0]) / (2 * nu))  # noqa: E731
    start = lambda x: exact(torch.cat([torch.zeros_like(x), x], 1))  # noqa: E731
    return Evolution(Box([-1], [1]), lambda x, u: -u * u.x + nu * u.xx, start, [Dirichlet(exact)], exact=exact)


def ring():
    """Reaction and diffusion on a circle."""
    exact = lambda p: torch.exp(-p[:, 0]) * torch.sin(PI * p[:, 1]) + 1  # noqa: E731

    def rate(x, u):
        e = exact(torch.stack([u.time, x[:, 0]], 1))
        return u.xx - u**3 + e**3 - (1 - PI**2) * (e - 1)

    return Evolution(
        Box([-1], [1]), rate, lambda x: 1 + torch.sin(PI * x[:, 0]), [Periodic("x")], time=(0, 0.2), exact=exact
    )


MARCHES = {"Cole and Hopf": lambda: burgers.forward(0.05), "front": lambda: wave(0.03), "ring": ring}


@pytest.mark.parametrize("name", MARCHES)
def test_marching(name, tmp_path):
    problem = MARCHES[name]()
    solution = FeatureSolver(tolerance=1e-4).solve(problem)
    error = compare(solution, problem.exact, problem.domain, 4000)["rel_l2"]
    assert solution.status.startswith("converged") and "local" in solution.status, solution.status
    assert error <= 1e-4
    assert error <= 10 * solution.error_estimate
    path = tmp_path / "u.h5"
    solution.save(path)
    x = problem.domain.interior(50)
    torch.testing.assert_close(load(path)(x), solution(x), rtol=0, atol=0)


@pytest.mark.parametrize("eps", [1e-3, 1e-6])
def test_thin_layers_on_a_line(eps):
    q = math.sqrt(eps)
    exact = lambda x: 1 - torch.exp((x[:, 0] - 1) / q) - torch.exp((-x[:, 0] - 1) / q)  # noqa: E731
    problem = Elliptic(Box([-1], [1]), 1.0, 0.0, diffusion=eps, reaction=1.0, exact=exact)
    found = solve_locally(Collocation(problem), 1e-8, 100_000, Deadline(math.inf))
    error = compare(found.field, exact, problem.domain, 4000)["rel_l2"]
    assert not found.note and error <= 1e-8
    assert error <= 10 * found.estimate


@pytest.mark.parametrize(("tolerance", "limit"), [(1e-4, 6_000), (1e-6, 20_000)])
def test_cells_halve_until_the_tolerance_is_met(tolerance, limit):
    domain = SQUARE - Ball([-0.4, 0.3], 0.2) - Ball([0.5, -0.4], 0.25)
    problem = Elliptic.manufactured(domain, lambda x: torch.sin(9 * x[:, 0]) * torch.cos(7 * x[:, 1]))
    found = solve_locally(Collocation(problem), tolerance, limit, Deadline(math.inf))
    error = compare(found.field, problem.exact, domain, 4000)["rel_l2"]
    assert not found.note and found.estimate <= tolerance
    assert error <= tolerance and error <= 10 * found.estimate


def test_a_singularity_that_polynomials_cannot_resolve_is_not_called_converged():
    def exact(x):
        return (x - 0.3).square().sum(1).clamp_min(1e-300) ** 0.55  # at no corner, where it would be looked for

    found = solve_locally(Collocation(Elliptic.manufactured(SQUARE, exact)), 1e-4, 3000, Deadline(math.inf))
    error = compare(found.field, exact, SQUARE, 4000)["rel_l2"]
    assert found.note and found.estimate > 1e-4
    assert error <= 10 * found.estimate


def test_what_is_not_determined_is_not_called_converged():
    equation = lambda x, u: u.t + u * u.x - 0.1 * u.xx  # noqa: E731
    ends = Initial(lambda x: -torch.sin(PI * x[:, 1]))
    open_ended = PDE(Box([0, -1], [0.5, 1]), "tx", equation, [ends])
    with pytest.raises(ValueError, match="does not determine its solution"):
        FeatureSolver(tolerance=1e-3).solve(open_ended)


def test_a_deadline_is_kept():
    solution = FeatureSolver(tolerance=1e-10, seconds=1e-3).solve(burgers.forward(0.01))
    assert not solution.status.startswith("converged")
    assert solution.seconds < 20


@pytest.mark.parametrize(("sharpness", "tolerance"), [(40.0, 1e-3), (120.0, 1e-2)])
def test_estimate_of_a_bump_beside_a_hole(sharpness, tolerance):
    # cells around the hole are halved in vain as long as those of the bump decide: the estimate must know
    def bump(x):
        return torch.exp(-sharpness * ((x[:, 0] - 0.3) ** 2 + (x[:, 1] + 0.2) ** 2))

    problem = Elliptic.manufactured(Box([-1, -1], [1, 1]) - Ball([-0.4, 0.5], 0.25), bump)
    found = FeatureSolver(tolerance=tolerance, local=True).solve(problem)
    x = problem.domain.interior(4000)
    error = float((found(x) - bump(x)).norm() / bump(x).norm())
    assert found.status.startswith("converged")
    assert 0.1 < found.error_estimate / error < 10


def test_cells_whose_centers_lie_outside_are_determined_all_the_same():
    """A cover of a disc has such cells; with fluxes alone, a constant may be added."""
    disc = Ball([0, 0], 1)
    refinement = local.Refinement(polynomials(degrees_up_to(5, 2)), 100_000, Deadline(math.inf))
    cover = trimmed(Cover.even(*disc.bounds, [7, 7]), disc)
    assert bool((disc.level((cover.lower + cover.upper)[::5] / 2) < 0).any())
    values = Collocation(Elliptic(disc, 1.0, 0.0))
    fluxes = Collocation(Elliptic(disc, 0.0, conditions=[Neumann(0.0)]))
    assert refinement.once(values, cover, 1e-6, None, first=True).note == ""
    assert refinement.once(fluxes, cover, 1e-6, None, first=True).note == UNDETERMINED


def test_a_sharp_layer_begins_with_few_cells():
    layer = Elliptic.manufactured(SQUARE, lambda x: torch.exp(100 * (x[:, 0] - 1)) * torch.sin(PI * x[:, 1]))
    refinement = local.Refinement(polynomials(degrees_up_to(10, 2)), 100_000, Deadline(math.inf))
    assert local._first(Collocation(layer), refinement).size * 66 <= 2 * local._UNKNOWNS[2]


def test_a_step_that_changes_nothing_is_no_estimate():
    """Where residuals are large and do not fall; where they are small, rounding may be what is left."""

    def step(fallen, gap):
        refined = local.Refined(None, torch.zeros(1, 2), 1.0, "", gap)
        return local._Step(None, 1.0, refined=refined, fallen=fallen)

    before = step(1.0, 0.1)
    assert step(0.99, 0.1).ratio(before) == math.inf
    assert step(0.99, 1e-4).ratio(before) == pytest.approx(9.9)
    assert step(0.2, 0.1).ratio(before) == pytest.approx(0.25)
