"""Finite elements against exact solutions, scikit-fem and published numbers: rates on curved domains above all."""

import math
import sys
import threading

import numpy as np
import pytest
import skfem
import torch
from cases import CASES, only_on_boundary, p_laplacian_1d, p_laplacian_source
from skfem.helpers import dot, grad

from sciml import (
    PDE,
    Ball,
    Box,
    Data,
    Dirichlet,
    Ellipsoid,
    Elliptic,
    FiniteElement,
    Neumann,
    Periodic,
    Piecewise,
    Polygon,
    Robin,
    compare,
    jet,
    load,
)
from sciml.solvers.lagrange import Cell
from sciml.solvers.mesh import build

PI = math.pi
SQUARE = Box([-1, -1], [1, 1])
UNIT = Box([0, 0], [1, 1])
RING = Ball([0, 0], 1.0) - Ball([0, 0], 0.4)
L_SHAPE = Polygon([[-1, -1], [1, -1], [1, 0], [0, 0], [0, 1], [-1, 1]])
HOLES = (
    SQUARE
    - Ball([-0.5, -0.5], 0.1)
    - Ball([0.5, 0.5], 0.2)
    - Ball([0.5, -0.5], 0.2)
    - Ellipsoid([-0.5, 0.5], [0.25, 0.125])
)
CELLS = [Cell(d, k, s) for d in (1, 2, 3) for s in (False, True)[: min(d, 2)] for k in (1, 2, 3, 4)]


def smooth(x):
    return torch.exp(x[:, 0]) * torch.sin(2 * x[:, 1]) + x[:, 0] ** 2


def seven_pi(x):
    return torch.sin(7 * PI * x).prod(1)


def e2(x):
    return 2 + torch.sin(3 * PI * x[:, 0]) * torch.cos(5 * PI * x[:, 1])


def e3(x):
    def s(i, k):
        return 1.1 + torch.sin(2 * PI * x[:, i] * k)

    def c(k):
        return 1.1 + torch.cos(2 * PI * x[:, 0] * k)

    last = torch.sin(4 * x[:, 0] ** 2 * x[:, 1] ** 2) + 1
    return (s(0, 5) / s(1, 5) + s(1, 13) / c(13) + c(17) / s(1, 17) + s(1, 31) / c(31) + c(65) / s(1, 65) + last) / 6


def e4(x):
    result = 1
    for k in range(1, 7):
        result = result * (1 + 0.5 * torch.cos(2**k * PI * (x[:, 0] + x[:, 1])))
        result = result * (1 + 0.5 * torch.sin(2**k * PI * (x[:, 1] - 3 * x[:, 0])))
    return result


def error(solution, exact, n=20000):
    return compare(solution, exact, solution.problem.domain, n)["rel_l2"]


def observed_order(problem, exact, degree, ns, points=20000):
    """From the number of cells, because n counts cells of an unstructured mesh only roughly."""
    coarse, fine = (FiniteElement(n=n, degree=degree).solve(problem) for n in ns)
    h = (fine.cost["cells"] / coarse.cost["cells"]) ** (1 / problem.dim)
    return math.log(error(coarse, exact, points) / error(fine, exact, points)) / math.log(h)


# ---- cells -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("cell", CELLS, ids=str)
def test_shape_functions_are_one_at_their_node_and_their_gradients_are_right(cell):
    nodes = torch.from_numpy(cell.lattice / cell.degree)
    assert torch.allclose(cell.values(nodes), torch.eye(len(nodes), dtype=torch.float64), atol=1e-12)
    x = torch.rand(5, cell.dim, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) / cell.dim
    by_autograd = torch.func.vmap(torch.func.jacrev(cell.values))(x)
    assert torch.allclose(cell.gradients(x), by_autograd, atol=1e-11)


@pytest.mark.parametrize("dim", [1, 2, 3])
@pytest.mark.parametrize("order", [4, 6, 10, 21])
def test_rules_integrate_all_monomials_of_their_order_over_simplices(dim, order):
    x, w = Cell(dim, 1, simplex=dim > 1).rule(order)
    for powers in np.ndindex(*(order + 1,) * dim):
        if sum(powers) <= order:
            exact = math.prod(map(math.factorial, powers)) / math.factorial(sum(powers) + dim)
            assert float((x ** torch.tensor(powers)).prod(1) @ w) == pytest.approx(exact, rel=1e-11)


# ---- against scikit-fem ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("domain", "element", "degree"),
    [(UNIT, skfem.ElementQuad2(), 2), (L_SHAPE, skfem.ElementTriP4(), 4)],
    ids=["quadrilaterals", "triangles"],
)
def test_nodal_values_are_those_of_scikit_fem_on_the_same_cells(domain, element, degree):
    problem = Elliptic(domain, smooth, smooth, lambda x: 2 + x[:, 0] * x[:, 1], lambda x: 1 + x[:, 1] ** 2)
    mine = FiniteElement(n=4, degree=degree, order=12).solve(problem).field
    corners = np.array(
        [[0, 0], [0, degree], [degree, 0]] if mine.cell.simplex else [[0, 0], [degree, 0], [degree] * 2, [0, degree]]
    )
    local = [int(np.flatnonzero((mine.cell.lattice == c).all(1))[0]) for c in corners]
    used, t = np.unique(mine.cells.numpy()[:, local], return_inverse=True)
    kind = skfem.MeshTri if mine.cell.simplex else skfem.MeshQuad
    basis = skfem.Basis(kind(mine.nodes.numpy()[used].T, t.reshape(-1, len(local)).T), element, intorder=12)

    def at(function, x):
        return function(torch.from_numpy(x.reshape(2, -1).T)).numpy().reshape(x.shape[1:])

    def form(u, v, w):
        a, c = at(lambda x: 2 + x[:, 0] * x[:, 1], w.x), at(lambda x: 1 + x[:, 1] ** 2, w.x)
        return a * dot(grad(u), grad(v)) + c * u * v

    matrix = skfem.BilinearForm(form).assemble(basis)
    right = skfem.LinearForm(lambda v, w: at(smooth, w.x) * v).assemble(basis)
    edge = basis.get_dofs().flatten()
    known = np.zeros(basis.N)
    known[edge] = at(smooth, basis.doflocs[:, edge])
    theirs = skfem.solve(*skfem.condense(matrix, right, x=known, D=edge))
    assert mine(torch.from_numpy(basis.doflocs.T.copy())).numpy() == pytest.approx(theirs, abs=1e-11)


# ---- rates -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("degree", [1, 2, 3, 4])
def test_orders_on_a_square(degree):
    problem = Elliptic.manufactured(SQUARE, smooth, diffusion=lambda x: 2 + x[:, 0] * x[:, 1], reaction=1.0)
    assert observed_order(problem, smooth, degree, (6, 12)) == pytest.approx(degree + 1, abs=0.15)


@pytest.mark.parametrize("degree", [1, 2, 3, 4])
def test_orders_around_holes_with_data_on_the_exact_boundary_only(degree):
    domain = SQUARE - Ball([0.3, 0.2], 0.5) - Ellipsoid([-0.6, -0.5], [0.35, 0.25], rotation=0.4)
    problem = Elliptic(
        domain, Elliptic.manufactured(domain, smooth).source, conditions=(only_on_boundary(domain, smooth),)
    )
    order = observed_order(problem, smooth, degree, (20, 40))
    assert degree + 0.8 < order < degree + 2


@pytest.mark.parametrize("degree", [1, 2, 4])
def test_orders_with_neumann_and_robin_conditions_on_circles(degree):
    def flux(x):
        radius = x.norm(dim=1)
        assert float(torch.minimum((radius - 1).abs(), (radius - 0.4).abs()).max()) < 1e-9
        normal = torch.where(radius > 0.7, 1.0, -1.0)[:, None] * x / radius[:, None]
        return (1 + 0.3 * x[:, 1]) * (jet(smooth, x, 1).gradient * normal).sum(1)

    conditions = (Neumann(flux, on="ball"), Robin(2.0, lambda x: flux(x) + 2 * smooth(x), on="ball2"))
    problem = Elliptic.manufactured(RING, smooth, lambda x: 1 + 0.3 * x[:, 1], conditions=conditions)
    assert observed_order(problem, smooth, degree, (12, 24)) > degree + 0.8


@pytest.mark.parametrize("degree", [1, 2, 3, 4])
def test_orders_in_a_cube(degree):
    problem = Elliptic.manufactured(
        Box([0, 0, 0], [1, 1, 1]), lambda x: smooth(x) * torch.cos(x[:, 2]), lambda x: 1 + x[:, 2]
    )
    ns = (2, 4) if degree > 2 else (4, 8)
    assert observed_order(problem, problem.exact, degree, ns, 2000) == pytest.approx(degree + 1, abs=0.2)


def test_second_degree_around_a_ball_in_a_cube():
    domain = Box([0, 0, 0], [1, 1, 1]) - Ball([0.5, 0.5, 0.5], 0.3)
    problem = Elliptic.manufactured(domain, lambda x: smooth(x) * torch.cos(x[:, 2]))
    errors = {k: error(FiniteElement(n=6, degree=k).solve(problem), problem.exact, 2000) for k in (1, 2)}
    assert errors[1] < 2e-2 and errors[2] < 1e-3


@pytest.mark.parametrize(
    "name", ["poisson_1d", "poisson_2d", "poisson_holes", "variable_2d", "mixed_2d", "reaction_1d"]
)
def test_shared_cases(name):
    problem = CASES[name]()
    assert error(FiniteElement(n=16, degree=4).solve(problem), problem.exact) < 1e-6


# ---- published and known numbers -------------------------------------------------------------------------------------


@pytest.mark.parametrize(("diffusion", "peak"), [(1.0, 0.2946854), (e2, 0.1520796)])
def test_resolved_peaks(diffusion, peak):
    solution = FiniteElement(n=32, degree=4).solve(Elliptic(SQUARE, 1.0, 0.0, diffusion))
    assert float(solution.field.values.max()) == pytest.approx(peak, abs=1e-6)


@pytest.mark.parametrize(
    ("diffusion", "peak"),
    [(1.0, 0.294464), (e2, 0.151937), (e3, 0.16438), (e4, 0.562983)],
    ids=["E1", "E2", "E3", "E4"],
)
def test_one_value_per_cell_reproduces_the_published_references(diffusion, peak):
    published = FiniteElement(n=65, degree=1, coefficient="centre").solve(Elliptic(SQUARE, 1.0, 0.0, diffusion))
    assert float(published.field.values.max()) == pytest.approx(peak, rel=1e-3)


@pytest.mark.parametrize(("diffusion", "low", "high"), [(e3, 3e-3, 6e-3), (e4, 1.1e-2, 2e-2)], ids=["E3", "E4"])
def test_published_references_are_not_resolved(diffusion, low, high):
    problem = Elliptic(SQUARE, 1.0, 0.0, diffusion)
    published = FiniteElement(n=65, degree=1, coefficient="centre").solve(problem)
    resolved = FiniteElement(n=150, degree=2).solve(problem)
    assert low < compare(published, resolved, published.field.nodes)["rel_l2_sq"] < high


def test_seven_pi_on_the_perforated_square():
    problem = Elliptic(
        HOLES, lambda x: 2 * (7 * PI) ** 2 * seven_pi(x), conditions=(only_on_boundary(HOLES, seven_pi),)
    )
    solution = FiniteElement(n=48, degree=4).solve(problem)
    assert error(solution, seven_pi) < 5e-5
    on_edge = HOLES.boundary(5000).points
    assert float((solution(on_edge) - seven_pi(on_edge)).abs().max()) < 2e-4


def test_l_shape():
    solution = FiniteElement(n=24, degree=3).solve(Elliptic(L_SHAPE, 1.0, 0.0))
    x = L_SHAPE.interior(2**16, sobol=True)
    assert 3 * float(solution(x).mean()) == pytest.approx(0.2140758, rel=2e-3)  # the torsion number of the L-shape
    mirrored = x.flip(1)
    assert float((solution(x) - solution(mirrored)).abs().max()) < 1e-3


def test_symmetry_and_maximum_principle():
    def wall(x):
        return (x[:, 0] > 0.999).to(x.dtype)

    square = FiniteElement(n=32, degree=2).solve(Elliptic(SQUARE, 1.0, 0.0, reaction=3.0))
    x = SQUARE.interior(500)
    for twin in (x.flip(1), -x, x * torch.tensor([1.0, -1.0])):
        assert torch.allclose(square(x), square(twin), atol=1e-12)
    values = FiniteElement(n=24, degree=1).solve(Elliptic(HOLES, 0.0, wall)).field.values
    assert -1e-12 < float(values.min()) and float(values.max()) < 1 + 1e-12


# ---- the p-Laplacian -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("p", "bound"), [(2, 1e-6), (3, 1e-6), (5, 1e-6), (8, 2e-6)])
def test_p_laplacian_with_an_oscillating_coefficient(p, bound):
    known = p_laplacian_1d(p, 0.1)
    problem = Elliptic(known.domain, p_laplacian_source(p, 0.1), 0.0, known.diffusion, p=p)
    solution = FiniteElement(n=400, degree=2).solve(problem)
    assert error(solution, known.exact) < bound and solution.status.startswith("solved")


def test_p_laplacian_with_a_hundred_periods():
    problem = p_laplacian_1d(3.0, 0.01)
    assert error(FiniteElement(n=4000, degree=2).solve(problem), problem.exact) < 1e-6


@pytest.mark.parametrize("p", [1.5, 3.0])
def test_p_laplacian_on_a_disc(p):
    # |grad u|^(p-2) grad u = -x / 2 for u = (1 - r^q) / (q 2^(q-1)), 1/p + 1/q = 1
    q = p / (p - 1)
    domain = Ball([0, 0], 1.0)
    problem = Elliptic(domain, 1.0, 0.0, p=p)
    solution = FiniteElement(n=24, degree=2).solve(problem)
    assert error(solution, lambda x: (1 - x.norm(dim=1) ** q) / (q * 2 ** (q - 1))) < 3e-4
    assert len(solution.history.steps) < 30


def test_p_laplacian_with_robin_condition_and_reaction():
    exact = lambda x: 1 + 2 * x[:, 0] + x[:, 1]  # noqa: E731
    flux = 2 * 5**0.5  # |grad u| u_x
    conditions = (Robin(3.0, lambda x: flux + 3 * exact(x), on="x+"), Dirichlet(exact))
    problem = Elliptic(UNIT, exact, reaction=1.0, p=3.0, conditions=conditions)
    assert error(FiniteElement(n=4, degree=1).solve(problem), exact) < 1e-10


# ---- coefficients with jumps, periods, predicates --------------------------------------------------------------------


@pytest.mark.parametrize(("degree", "bound"), [(1, 2e-2), (2, 1e-4), (4, 1e-7)])
def test_cells_fit_a_circular_interface(degree, bound):
    def exact(x):
        square = x.square().sum(1)
        return torch.where(square < 0.25, square / 10 + 0.225, square)

    diffusion = Piecewise(1.0, [(Ball([0, 0], 0.5), 10.0)])
    solution = FiniteElement(n=12, degree=degree).solve(Elliptic(SQUARE, -4.0, exact, diffusion))
    assert error(solution, exact) < bound


def test_grids_fit_intervals():
    diffusion = Piecewise(1.0, [(Box([0.313], [0.7]), 10.0)])
    solution = FiniteElement(n=3, degree=2).solve(Elliptic(Box([0], [1]), -2.0, lambda x: x[:, 0], diffusion))
    x = solution.problem.domain.interior(200)
    j = jet(solution, x, 2)
    assert torch.allclose(diffusion(x) * j.laplacian, torch.full((200,), 2.0, dtype=torch.float64))


@pytest.mark.parametrize("others", [(Periodic("y"),), (Dirichlet(lambda x: torch.sin(2 * PI * x[:, 0])),)])
def test_periodic_boxes(others):
    exact = lambda x: torch.sin(2 * PI * x[:, 0]) * torch.cos(2 * PI * x[:, 1])  # noqa: E731
    problem = Elliptic.manufactured(UNIT, exact, reaction=1.0, conditions=(Periodic("x"), *others))
    assert error(FiniteElement(n=12, degree=3).solve(problem), exact) < 1e-4


def test_conditions_on_a_predicate():
    conditions = (
        Neumann(lambda x: smooth(x) - x[:, 0] ** 2 + 2 * x[:, 0], on=lambda x: x[:, 0] > 0.99999),
        Dirichlet(smooth),
    )
    problem = Elliptic.manufactured(UNIT, smooth, conditions=conditions)
    assert error(FiniteElement(n=8, degree=4).solve(problem), smooth) < 1e-7


# ---- the field -------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def curved():
    return {k: FiniteElement(n=12, degree=k).solve(Elliptic.manufactured(HOLES, smooth)) for k in (1, 2, 4)}


@pytest.mark.parametrize(("degree", "bound"), [(1, 6e-2), (2, 3e-3), (4, 5e-5)])
def test_the_field_reaches_the_edge_of_holes(curved, degree, bound):
    solution = curved[degree]
    x = HOLES.boundary(4000).points
    assert float((solution(x) - smooth(x)).abs().max()) < bound
    with pytest.raises(ValueError, match="outside the domain"):
        solution(np.array([[0.5, 0.5]]))


def test_the_field_has_derivatives(curved):
    x = HOLES.interior(300)
    mine, exact = jet(curved[4], x, 2), jet(smooth, x, 2)
    assert torch.allclose(mine.gradient, exact.gradient, atol=5e-3)
    assert torch.allclose(mine.laplacian, exact.laplacian, atol=0.3)
    by_difference = (curved[4](x + 1e-6) - curved[4](x - 1e-6)) / 2e-6
    assert torch.allclose(mine.gradient.sum(1), by_difference, atol=2e-3)


def test_files(curved, tmp_path):
    x = HOLES.interior(300)
    for solution in curved.values():
        solution.save(tmp_path / "s.h5")
        assert torch.equal(load(tmp_path / "s.h5")(x), solution(x))


def test_the_mesh_is_reproducible_and_its_boundary_exact():
    a, b = build(HOLES, 12, 3), build(HOLES, 12, 3)
    assert np.array_equal(a.nodes, b.nodes) and np.array_equal(a.cells, b.cells)
    nodes = a.on_facets(a.labels >= 0)
    assert float(HOLES.level(torch.from_numpy(a.nodes[nodes])).abs().max()) < 1e-12
    assert set(a.labels) == set(range(len(HOLES.labels)))


def test_overlapping_curved_cells_are_mended():
    near = UNIT - Ball([0.2, 0.5], 0.15) - Ball([0.505, 0.5], 0.15)  # a gap of 0.005
    solution = FiniteElement(n=4, degree=4).solve(Elliptic.manufactured(near, smooth))
    assert error(solution, smooth) < 1e-4


def test_error_estimate_bounds_the_error():
    problem = Elliptic.manufactured(UNIT, smooth)
    solution = FiniteElement(n=16, degree=2, estimate=True).solve(problem)
    assert error(solution, smooth) < solution.error_estimate < 20 * error(solution, smooth)


def test_the_iterative_solver_agrees_with_the_direct_one():
    problem = Elliptic.manufactured(UNIT, smooth)
    direct, iterative = (FiniteElement(n=16, degree=3, direct=limit).solve(problem) for limit in (10**6, 1))
    assert "steps" in iterative.status and compare(iterative, direct, UNIT)["max"] < 1e-9


# ---- gmsh and refusals -----------------------------------------------------------------------------------------------


def test_gmsh_leaves_nothing_behind_and_works_beside_a_user_and_in_threads():
    import gmsh

    build(RING, 6, 2)
    assert not gmsh.isInitialized()
    gmsh.initialize(interruptible=False)
    try:
        gmsh.model.add("mine")
        size = gmsh.option.getNumber("Mesh.MeshSizeMax")
        build(RING, 6, 2)
        assert gmsh.isInitialized() and gmsh.model.getCurrent() == "mine"
        assert gmsh.option.getNumber("Mesh.MeshSizeMax") == size
    finally:
        gmsh.finalize()
    meshes = []
    thread = threading.Thread(target=lambda: meshes.append(build(RING, 6, 2)))
    thread.start()
    thread.join()
    assert len(meshes) == 1


def test_missing_gmsh_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "gmsh", None)
    with pytest.raises(ImportError, match=r"sciml-solvers\[mesh\]"):
        FiniteElement(n=4).solve(Elliptic(RING, 1.0, 0.0))
    FiniteElement(n=4).solve(Elliptic(UNIT, 1.0, 0.0))


def nan_inside(x):
    return torch.where(x[:, 0] > 0.9985, math.nan, 1.0)


@pytest.mark.parametrize(
    ("problem", "kind", "message"),
    [
        (lambda: PDE(UNIT, "xy", lambda x, u: u.xx + u.yy, [Dirichlet(0.0)]), TypeError, "is a PDE"),
        (lambda: Elliptic(Box([0] * 4, [1] * 4), 1.0, 0.0), ValueError, "4 dimensions"),
        (lambda: Elliptic(Box([0], [1]) * RING, 1.0, 0.0), ValueError, "domain contains"),
        (lambda: Elliptic(Box([0], [1]) - Box([0.3], [0.4]), 1.0, 0.0), ValueError, "interval"),
        (lambda: Elliptic(UNIT, 1.0, conditions=(Neumann(0.0),)), ValueError, "up to a constant"),
        (lambda: Elliptic(UNIT, 1.0, conditions=(Periodic("x"), Periodic("y"))), ValueError, "up to a constant"),
        (lambda: Elliptic(UNIT, 1.0, 0.0, lambda x: 0.9985 - x[:, 0]), ValueError, "diffusion is"),
        (lambda: Elliptic(UNIT, 1.0, 0.0, nan_inside), ValueError, "diffusion is not finite"),
        (lambda: Elliptic(UNIT, nan_inside, 0.0), ValueError, "source is not finite"),
        (
            lambda: Elliptic(UNIT, 1.0, 0.0, conditions=(Data(torch.zeros(1, 2), torch.zeros(1)),)),
            TypeError,
            "Data",
        ),
    ],
)
def test_refusals(problem, kind, message):
    with pytest.raises(kind, match=message):
        FiniteElement(n=40, degree=4).solve(problem())


@pytest.mark.parametrize(
    "options",
    [{"n": 0}, {"n": 2.5}, {"degree": 5}, {"degree": 0}, {"coefficient": "mean"}, {"tolerance": 0.0}, {"order": 0}],
)
def test_bad_options_are_named(options):
    with pytest.raises(ValueError, match=f"^{next(iter(options))} is "):
        FiniteElement(**options)
