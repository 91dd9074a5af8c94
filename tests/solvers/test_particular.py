"""Poisson's equation on boxes and balls minus balls: edges, corners and holes against closed forms and series."""

import math

import numpy as np
import pytest
import torch

from sciml.domain import Ball, Box
from sciml.problem import Elliptic
from sciml.solution import compare, load
from sciml.solvers import particular
from sciml.solvers.boxes import on_box
from sciml.solvers.features import FeatureSolver
from sciml.solvers.solid import SolidHarmonics, reflections

CUBE = Box([-1] * 3, [1] * 3)
BALL = Ball([0, 0, 0], 1.0)
EVERY = {(i, j): 1.0 for i in range(3) for j in range(i, 3)}


def vector(*values):
    return torch.tensor(values, dtype=torch.float64)


@pytest.mark.parametrize("outward", [True, False])
def test_solid_harmonics_are_harmonic_and_have_their_derivatives(outward):
    x = 0.2 + torch.rand(6, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    images = reflections(vector(0, 0, -0.5), 1.6, vector(-1, -1, -2), vector(1.5, 2, 2))
    assert len(images) == 2 * 3 * 2
    family = SolidHarmonics(vector(0, 0, -0.5), 0.7, 4, outward, images)
    assert family.size == 25 == family.apply(x, {(): 1.0}).shape[1]
    h = 1e-5
    for i in range(3):
        step = h * torch.eye(3, dtype=torch.float64)[i]
        for index in [(), (0,), (1,), (2,)]:
            slope = (family.apply(x + step, {index: 1.0}) - family.apply(x - step, {index: 1.0})) / (2 * h)
            exact = family.apply(x, {(*index, i): 1.0})
            torch.testing.assert_close(slope, exact, rtol=1e-6, atol=1e-6 * float(exact.abs().max()))
    laplacian = family.apply(x, {(0, 0): 1.0, (1, 1): 1.0, (2, 2): 1.0})
    assert float(laplacian.abs().max()) < 1e-10 * float(family.apply(x, EVERY).abs().max())


def test_images_vanish_on_the_faces_they_mirror():
    images = reflections(vector(0, 0, 0.2), 1.0, vector(-3, -3, -3), vector(3, 3, 1))
    family = SolidHarmonics(vector(0, 0, 0.2), 0.3, 5, True, images)
    x = torch.rand(20, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    x[:, 2] = 1.0
    assert float(family.apply(x, {(): 1.0}).abs().max()) < 1e-13


@pytest.mark.parametrize("d", [1, 2, 3])
def test_box_against_a_product_of_sines(d):
    box = Box([0, -1, 2][:d], [1, 1, 2.5][:d])
    lower, upper = box.bounds
    k = math.pi / (upper - lower)

    def exact(x):
        return torch.sin(k * (x - lower)).prod(1)

    found = on_box(box, lambda x: (3 * k.square().sum() + 2) * exact(x), 20, 3.0, 2.0)
    x = box.interior(50)
    torch.testing.assert_close(found.apply(x, {(): 1.0})[:, 0], exact(x), rtol=0, atol=1e-12)
    slope = k[0] * torch.cos(k[0] * (x[:, 0] - lower[0])) * torch.sin(k * (x - lower))[:, 1:].prod(1)
    torch.testing.assert_close(found.apply(x, {(0,): 1.0})[:, 0], slope, rtol=0, atol=1e-10)


def cube_series(x, terms=400):
    """-Lap u = 1 on (-1, 1)^3 by a double cosine series, to about 1e-7."""
    m = 2 * np.arange(terms) + 1
    sign = np.where(m // 2 % 2 == 0, 1.0, -1.0)
    gamma = np.pi / 2 * np.hypot(m[:, None], m[None, :])
    c = 16 * np.outer(sign / m, sign / m) / (np.pi**2 * gamma**2)
    out = []
    for p in x.tolist():
        rise = np.exp(gamma * (abs(p[2]) - 1)) * (1 + np.exp(-2 * gamma * abs(p[2]))) / (1 + np.exp(-2 * gamma))
        waves = [np.cos(m * np.pi / 2 * v) for v in p[:2]]
        out.append(waves[0] @ (c * (1 - rise)) @ waves[1])
    return torch.tensor(out, dtype=torch.float64)


def test_unit_load_on_a_cube_against_a_series():
    solution = FeatureSolver(tolerance=1e-6).solve(Elliptic(CUBE, 1.0, 0.0))
    x = CUBE.interior(40)
    expected = cube_series(x)
    error = float((solution(x) - expected).norm() / expected.norm())
    assert solution.status.startswith("converged")
    assert error < 2e-6
    assert float(CUBE.boundary(50)[0].shape[0]) == 50 and float(solution(CUBE.boundary(50)[0]).abs().max()) < 1e-12


def test_shell_against_its_closed_form(tmp_path):
    def exact(x):
        r = x.norm(dim=1)
        return (1 - r**2) / 6 + (0.09 - 1) / 6 * (1 / r - 1) / (1 / 0.3 - 1)

    problem = Elliptic(BALL - Ball([0, 0, 0], 0.3), 1.0, 0.0, exact=exact)
    solution = FeatureSolver(tolerance=1e-6).solve(problem)
    error = compare(solution, exact, problem.domain)["rel_l2"]
    assert solution.status.startswith("converged")
    assert error < 1e-6
    assert error / 10 < solution.error_estimate < 10 * error
    solution.save(tmp_path / "s.h5")
    x = problem.domain.interior(20)
    torch.testing.assert_close(load(tmp_path / "s.h5")(x), solution(x), rtol=1e-12, atol=1e-12)


def test_cube_minus_a_ball_satisfies_equation_and_boundary():
    domain = CUBE - Ball([0.5, 0.2, -0.3], 0.3)
    problem = Elliptic(domain, lambda x: torch.exp(x[:, 0]), lambda x: (x.norm(dim=1) < 0.99) * 0.1 * x[:, 1])
    assert particular.applies(problem)
    found = particular.split(problem, 1e-5, 4000)
    assert found is not None and found.estimate < 1e-5
    x, _, _ = domain.boundary(400, torch.Generator().manual_seed(7))
    y = domain.interior(200)
    size = float(found.field(y).abs().max())
    # the remainder is harmonic, so its error is largest on the boundary
    assert float((found.field(x) - problem.conditions[0].at(x)).abs().max()) < 1e-4 * size
    laplacian = found.field.derivative(0.7 * y, {(0, 0): 1.0, (1, 1): 1.0, (2, 2): 1.0})[:, 0]
    inside = domain.level(0.7 * y) > 0.1
    assert float((laplacian + torch.exp(0.7 * y[:, 0])).abs()[inside].max()) < 1e-2


def test_what_is_left_to_other_methods():
    assert not particular.applies(Elliptic(CUBE, 1.0, lambda x: x[:, 0]))
    assert not particular.applies(Elliptic(CUBE, 1.0, 0.0, reaction=1.0))
    assert not particular.applies(Elliptic(CUBE - Ball([0.9, 0, 0], 0.3), 1.0, 0.0))
    assert not particular.applies(Elliptic(Box([0, 0], [1, 1]), 1.0, 0.0))
    shell = BALL - Ball([0, 0, 0], 0.5)
    # a source that exists in the domain only gives no particular solution on a box
    broken = Elliptic(shell, lambda x: torch.where(x.norm(dim=1) < 0.4, math.nan, 1.0), 0.0)
    assert particular.split(broken, 1e-4, 1000) is None
