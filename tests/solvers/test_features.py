"""Frozen features: accuracy with nothing tuned, honest estimates, and what bad input gets."""

import math

import numpy as np
import pytest
import torch

from sciml.activations import phi, tanh
from sciml.calculus import jet
from sciml.conditions import Dirichlet, Neumann, Periodic, Robin
from sciml.domain import Ball, Box, Ellipsoid
from sciml.problem import PDE, Elliptic
from sciml.problems import p_laplacian
from sciml.solution import compare, load
from sciml.solvers.ansatz import Lattice
from sciml.solvers.clusters import clusters, facings
from sciml.solvers.families import Bubbles, Polynomials, Ridges, degrees_up_to, lattice
from sciml.solvers.features import FeatureSolver
from sciml.solvers.singular import corner_features, corners, hole_features

PI = math.pi
SQUARE = Box([-1, -1], [1, 1])
HOLES = SQUARE - Ball([-0.5, -0.5], 0.1) - Ball([0.5, 0.5], 0.2) - Ellipsoid([-0.5, 0.5], [0.25, 0.125], rotation=0.4)
L_SHAPE = SQUARE - Box([0, -2], [2, 0])


def sines(*mu):
    return lambda x: torch.sin(torch.tensor(mu, dtype=x.dtype) * x).prod(1)


def vector(*values):
    return torch.tensor(values, dtype=torch.float64)


FAMILIES = {
    "waves": lambda: lattice(vector(5.0, 3.0), vector(4.0, 4.0), vector(-1.0, -1.0), vector(1.0, 1.0)),
    "polynomials": lambda: Polynomials(degrees_up_to(4, 2), vector(-1.0, -1.0), vector(1.0, 1.0)),
    "bubbles": lambda: Bubbles(degrees_up_to(4, 2), vector(-1.0, -1.0), vector(1.0, 1.0)),
    "tanh": lambda: Ridges(
        torch.randn(7, 2, dtype=torch.float64), torch.randn(7, dtype=torch.float64), vector(0, 0), tanh
    ),
    "phi": lambda: Ridges(
        torch.randn(7, 2, dtype=torch.float64), torch.rand(7, dtype=torch.float64), vector(0, 0), phi
    ),
    "disc": lambda: hole_features(SQUARE - Ball([0.1, 0.2], 0.3), 3, False)[0],
    "ellipse": lambda: hole_features(SQUARE - Ellipsoid([0.1, 0.2], [0.2, 0.4], rotation=0.7), 3, False)[0],
    "corner": lambda: corner_features(L_SHAPE, 5, False)[3],
}


@pytest.mark.parametrize("name", FAMILIES)
def test_derivatives_of_families(name):
    torch.manual_seed(0)
    family = FAMILIES[name]()
    x = (L_SHAPE - Ball([0.1, 0.2], 0.5)).interior(20)
    j = jet(lambda y: family.apply(y, {(): 1.0}), x, 2, [(0, 0), (0, 1), (1, 1)])
    for i in range(2):
        torch.testing.assert_close(family.apply(x, {(i,): 1.0}), j.gradient[..., i], rtol=1e-9, atol=1e-9)
    for pair, second in j.second.items():
        torch.testing.assert_close(family.apply(x, {pair: 1.0}), second, rtol=1e-8, atol=1e-8)
    w = torch.linspace(1, 2, len(x), dtype=x.dtype)
    both = family.apply(x, {(): w, (0,): 2.0, (1, 1): -w})
    expected = w[:, None] * j.value + 2 * j.gradient[..., 0] - w[:, None] * j.second[1, 1]
    torch.testing.assert_close(both, expected, rtol=1e-8, atol=1e-8)
    again = type(family).restore(family.arrays())
    torch.testing.assert_close(again.apply(x, {(0,): 1.0}), family.apply(x, {(0,): 1.0}))


def test_harmonic_functions_of_holes_and_corners_are_harmonic():
    x = (HOLES - Box([0, -2], [2, 0])).interior(100)
    for family in hole_features(HOLES, 6, True) + corner_features(L_SHAPE, 6, True):
        laplacian = family.apply(x, {(0, 0): 1.0, (1, 1): 1.0})
        assert float(laplacian.abs().max()) <= 1e-9 * float(family.apply(x, {(0, 0): 1.0}).abs().max())


def test_bubbles_vanish_on_all_faces():
    box = Box([0.0] * 4, [1.0, 2.0, 1.0, 0.5])
    edge = box.boundary(200).points
    assert float(Bubbles(degrees_up_to(3, 4), *box.bounds).apply(edge, {(): 1.0}).abs().max()) < 1e-13


def test_corners_of_combined_boxes():
    found = {c.point: c.angle for c in corners(L_SHAPE)}
    assert len(found) == 6 and found[0.0, 0.0] == pytest.approx(1.5 * PI)
    assert all(a == pytest.approx(PI / 2) for p, a in found.items() if p != (0.0, 0.0))


@pytest.mark.parametrize("domain", [HOLES, L_SHAPE], ids=["rings", "sector"])
def test_density_of_clustered_points(domain):
    for cluster in clusters(domain):
        x = cluster.draw(20000, torch.Generator().manual_seed(0))
        small = (x[:, 0] > -0.9) & (x[:, 0] < 0.9) & (cluster.density(x) > 0)
        # the mean of 1 / density over a set is its area
        inside = lambda y: cluster.density(y) > 0.5  # noqa: E731, B023
        area = float((inside(x) & small).double().div(cluster.density(x).clamp_min(1e-9)).mean())
        y = Box([-0.9, -4], [0.9, 4]).interior(40000)
        assert area == pytest.approx(1.8 * 8 * float(inside(y).double().mean()), rel=0.1)


def test_density_of_points_that_face_a_hole():
    domain = SQUARE - Ball([0.8, 0.1], 0.1)
    (place,) = facings(domain)
    x, inward = place.edge(20000, torch.Generator().manual_seed(0))
    torch.testing.assert_close(inward[0], vector(-1.0, 0.0))
    torch.testing.assert_close(x[:, 0], torch.ones_like(x[:, 0]))
    near = (x[:, 1] - 0.1).abs() < 0.3
    assert float(near.double().div(place.edge_density(x)).mean()) == pytest.approx(0.6, rel=0.05)
    assert float(place.edge_density(torch.zeros(1, 2, dtype=torch.float64))) == 0.0


# ------------------------------------------------------------------------------------------------------- accuracy


def variable(x):
    return 2 + torch.sin(3 * x[:, 0]) * torch.cos(2 * x[:, 1])


def mixed():
    exact = lambda x: torch.exp(x[:, 0]) * x[:, 1] ** 2  # noqa: E731
    conditions = (Neumann(exact, on="x+"), Robin(2.0, lambda x: 4 * torch.exp(x[:, 0]), on="y+"))
    return Elliptic.manufactured(Box([0, 0], [1, 1]), exact, conditions=conditions)


def oscillating(eps=0.1):
    def exact(x):
        x = x[:, 0]
        s, c = torch.sin(2 * PI * x / eps), torch.cos(2 * PI * x / eps)
        return x - x**2 + eps * (s / PI * (0.25 - 0.5 * x) + eps / (4 * PI**2) * (1 - c))

    return Elliptic(Box([0], [1]), 1.0, 0.0, lambda x: 1 / (2 + torch.cos(2 * PI * x[:, 0] / eps)), exact=exact)


def periodic():
    exact = lambda x: torch.sin(2 * PI * x[:, 0]) * torch.exp(x[:, 1])  # noqa: E731
    return Elliptic.manufactured(Box([0, 0], [1, 1]), exact, reaction=1.0, conditions=(Periodic("x"),))


def re_entrant():
    def exact(x):
        angle = torch.atan2(x[:, 1], x[:, 0]) % (2 * PI)
        radius = (x.square().sum(1) + 1e-300) ** (1 / 3)
        return (1 - x[:, 0] ** 2) * (1 - x[:, 1] ** 2) * radius * torch.sin(2 / 3 * angle)

    return Elliptic.manufactured(L_SHAPE, exact, diffusion=variable)


def convection():
    exact = lambda x: torch.exp(-x[:, 0]) * torch.sin(4 * x[:, 1])  # noqa: E731
    equation = lambda x, u: u.x + 2 * u.y - 0.1 * (u.xx + u.yy) + x[:, 0] * u  # noqa: E731
    bare = PDE(SQUARE, "xy", equation, [Dirichlet(exact)])
    source = lambda x: bare.residual(exact, x)[0]  # noqa: E731
    return PDE(SQUARE, "xy", lambda x, u: equation(x, u) - source(x), [Dirichlet(exact)], exact)


# problem, tolerance asked for, error allowed
ACCURACY = {
    "low": (lambda: Elliptic.manufactured(HOLES, sines(3.0, 2.0)), 1e-8, 1e-10),
    "anisotropic": (lambda: Elliptic.manufactured(HOLES, sines(20.3, 4.0)), 1e-8, 1e-10),
    "variable": (lambda: Elliptic.manufactured(HOLES, sines(4.0, 5.0), variable, 1.0), 1e-8, 1e-10),
    "mixed": (mixed, 1e-8, 1e-10),
    "oscillating 1-D": (oscillating, 1e-8, 1e-10),
    "very oscillating 1-D": (lambda: oscillating(0.01), 1e-8, 1e-11),
    "periodic": (periodic, 1e-8, 1e-9),
    "re-entrant corner": (re_entrant, 1e-5, 1e-5),
    "convection": (convection, 1e-8, 1e-8),
    "3-D": (lambda: Elliptic.manufactured(Box([-1] * 3, [1] * 3), sines(1.0, 2.0, 1.5)), 1e-4, 1e-4),
    "5-D": (lambda: p_laplacian.CASES["five"](2.0, 0.1), 1e-4, 1e-4),
    "10-D": (
        lambda: Elliptic.manufactured(Box([0] * 10, [1] * 10), lambda x: (x[:, ::2] * x[:, 1::2]).sum(1)),
        1e-8,
        1e-12,
    ),
}


@pytest.mark.parametrize("name", ACCURACY)
def test_accuracy_with_nothing_tuned(name):
    make, tolerance, allowed = ACCURACY[name]
    problem = make()
    solution = FeatureSolver(tolerance=tolerance).solve(problem)
    error = compare(solution, problem.exact, problem.domain, n=4000)["rel_l2"]
    assert solution.status.startswith("converged"), solution.status
    assert error <= allowed
    assert error <= 10 * solution.error_estimate


@pytest.mark.parametrize("domain", [SQUARE - Ball([0.5, 0.5], 0.2), L_SHAPE], ids=["hole", "corner"])
def test_a_real_solution_certified_by_the_maximum_principle(domain):
    solution = FeatureSolver(tolerance=1e-6).solve(Elliptic(domain, 1.0, 0.0))
    edge = domain.boundary(3000, torch.Generator().manual_seed(9)).points
    x = domain.interior(2000, torch.Generator().manual_seed(9))
    # where -Laplacian u = 1 holds, the error is nowhere larger than on the boundary
    largest = float(solution(x).abs().max())
    assert solution.status.startswith("converged")
    assert float(solution(edge).abs().max()) <= 1e-4 * largest
    residual = (jet(solution, x).laplacian + 1).abs()
    assert float(residual.median()) <= 1e-4 and float(residual.max()) <= 0.05


def test_a_solution_is_a_field_with_exact_jets_that_survives_a_file(tmp_path):
    problem = Elliptic(SQUARE - Ball([0.5, 0.5], 0.2), 1.0, 0.0)
    solution = FeatureSolver(tolerance=1e-4).solve(problem)
    solution.save(tmp_path / "s.h5")
    again = load(tmp_path / "s.h5")
    x = problem.domain.interior(50)
    assert np.array_equal(again(x.numpy()), solution(x.numpy()))
    exact, slow = jet(solution, x), jet(lambda y: solution.field(y), x)
    torch.testing.assert_close(exact.gradient, slow.gradient, rtol=1e-7, atol=1e-7)
    torch.testing.assert_close(exact.laplacian, slow.laplacian, rtol=1e-6, atol=1e-6)


def test_the_same_seed_gives_the_same_numbers():
    problem = mixed()
    x = problem.domain.interior(20)
    a, b, c = (FeatureSolver(tolerance=1e-5).solve(problem, seed=s)(x) for s in (1, 1, 2))
    assert torch.equal(a, b) and not torch.equal(a, c)


# ------------------------------------------------------------------------------------------------------- bad input


def test_a_problem_without_a_unique_solution_is_not_converged():
    solution = FeatureSolver().solve(Elliptic(SQUARE, 0.0, conditions=(Neumann(0.0),)))
    assert not solution.status.startswith("converged") and "does not determine" in solution.status


def test_contradictory_conditions_are_not_converged():
    conditions = (Dirichlet(1.0, on="x-"), Dirichlet(0.0))
    solution = FeatureSolver(features=200).solve(Elliptic(SQUARE, 0.0, conditions=conditions))
    assert solution.status.startswith("stopped") and solution.error_estimate > 1e-4


def test_a_limit_that_is_too_small_is_reported():
    problem = Elliptic.manufactured(SQUARE, sines(40.0, 40.0))
    solution = FeatureSolver(features=300).solve(problem)
    assert solution.status.startswith("stopped") and "300" in solution.status
    assert solution.error_estimate > 1e-2


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"tolerance": 1e-20}, "tolerance is 1e-20"),
        ({"features": 0}, "features is 0"),
        ({"memory": -1.0}, "memory is -1.0"),
    ],
)
def test_wrong_options_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        FeatureSolver(**options)


def test_features_of_systems_grow_without_nested_solutions():
    """Waves while residuals fall, functions of the corners when they do not, and more of both from then on."""
    first = Lattice(Box([0, 0], [1, 1]), torch.tensor([5.0, 5.0]), False)
    waves = first.larger([1e-2], 1e6, torch.empty(0))
    assert waves.level == 0 and torch.equal(waves.kappa, 1.5 * first.kappa)
    corners = waves.larger([0.9e-2], 1e6, torch.empty(0))
    assert corners.level > 0
    assert corners.larger([0.8e-2], 1e6, torch.empty(0)).level > corners.level
