"""Features of the caller's choice, for a whole domain or for each patch of it, and what holes and corners add."""

import math
from dataclasses import replace

import pytest
import torch

from sciml.activations import phi, s2relu, srelu, tanh
from sciml.calculus import jet
from sciml.domain import Ball, Box
from sciml.problem import Elliptic
from sciml.solution import compare, load
from sciml.solvers.bases import Neurons, Sines
from sciml.solvers.collocation import Collocation
from sciml.solvers.cover import Cover
from sciml.solvers.enrichment import extras_of
from sciml.solvers.families import Polynomials
from sciml.solvers.features import FeatureSolver
from sciml.solvers.patches import PatchSystem, patch_blocks
from sciml.solvers.patchfield import Patches, PatchField
from sciml.solvers.refinement import Refinement, trimmed
from sciml.training import Deadline

PI = math.pi
SQUARE = Box([-1, -1], [1, 1])
HOLES = SQUARE - Ball([-0.4, 0.3], 0.2) - Ball([0.5, -0.4], 0.25)
L_SHAPE = SQUARE - Box([0, -2], [2, 0])
BASES = {"sines": Sines(), "tanh": Neurons(tanh), "phi^2": Neurons(phi**2, share=2), "s2ReLU^3": Neurons(s2relu**3)}


def product(x):
    return torch.sin(9 * x[:, 0]) * torch.cos(7 * x[:, 1])


def slow(x):
    return torch.sin(4 * x[:, 0]) * torch.cos(3 * x[:, 1])


def singular(x):
    angle = torch.atan2(x[:, 1], x[:, 0]) % (2 * PI)
    return (1 - x**2).prod(1) * (x.square().sum(1) + 1e-300) ** (1 / 3) * torch.sin(2 / 3 * angle)


def on_patches(basis, kappa=3.0):
    """The families of a patch."""
    one = torch.ones(2, dtype=torch.float64)
    return tuple(basis(kappa * one, -one, one))


def fitted(problem, patches):
    """One least-squares solution."""
    collocation = Collocation(problem)
    system = PatchSystem(collocation, patches, 1e-11)
    blocks = patch_blocks(collocation, patches.cover, patches.width)
    return system.field(system.factor([(b, collocation.linearise(b)) for b in blocks]).solve())


@pytest.mark.parametrize("name", BASES)
def test_derivatives_on_patches(name):
    collocation = Collocation(Elliptic(L_SHAPE, 1.0, 0.0))
    cover, families = Cover.even(*SQUARE.bounds, [3, 4]), on_patches(BASES[name])
    extras = extras_of(collocation, cover, sum(f.size for f in families))
    patches = Patches(cover, families, extras)
    generator = torch.Generator().manual_seed(0)
    field = PatchField(patches, torch.randn(patches.size, 1, generator=generator, dtype=torch.float64))
    x, h = L_SHAPE.interior(100), 1e-5
    x = x[x.norm(dim=1) > 0.1]
    j = jet(field, x, 2, [(0, 0), (0, 1), (1, 1)])
    for axis in range(2):
        step = torch.zeros(1, 2, dtype=torch.float64)
        step[0, axis] = h
        slope = (field(x + step) - field(x - step)) / (2 * h)
        torch.testing.assert_close(j.gradient[:, axis], slope, rtol=1e-4, atol=1e-3)
        gradients = [jet(field, x + s * step, 1).gradient for s in (1, -1)]
        bend = (gradients[0] - gradients[1]) / (2 * h)
        torch.testing.assert_close(j.second[min(axis, 1), 1], bend[:, 1], rtol=1e-3, atol=1e-1)


@pytest.mark.parametrize("name", BASES)
@pytest.mark.parametrize("domain", [SQUARE, HOLES], ids=["square", "holes"])
def test_convergence_rate_on_patches(name, domain):
    problem = Elliptic.manufactured(domain, product, reaction=1.0)
    errors = []
    for n in (1, 2, 4):
        field = fitted(problem, Patches(Cover.even(*domain.bounds, [n, n]), on_patches(BASES[name])))
        errors.append(compare(field, product, domain, 2000)["rel_l2"])
    # the same features on one patch do not see waves that are faster than they are
    assert errors[0] > 0.3
    assert math.log2(errors[1] / errors[2]) > 2.5
    assert errors[2] < (0.2 if name == "phi^2" else 5e-3)


@pytest.mark.parametrize("name", ["sines", "tanh"])  # features that are less smooth need many more cells
def test_local_features_solve_to_the_tolerance(name, tmp_path):
    solver = FeatureSolver(tolerance=1e-2, basis=BASES[name], local=True)
    solution = solver.solve(Elliptic.manufactured(HOLES, slow))
    error = compare(solution, slow, HOLES, 4000)["rel_l2"]
    assert solution.status.startswith("converged") and "local features" in solution.status
    assert error <= 1e-2 and error <= 10 * solution.error_estimate
    path = tmp_path / "u.h5"
    solution.save(path)
    x = HOLES.interior(50)
    torch.testing.assert_close(load(path)(x), solution(x), rtol=0, atol=0)


@pytest.mark.parametrize("name", ["sines", "tanh", "s2ReLU^3"])
def test_the_same_features_for_the_whole_domain(name):
    solution = FeatureSolver(tolerance=1e-3, basis=BASES[name], local=False).solve(
        Elliptic.manufactured(HOLES, product)
    )
    assert solution.status.startswith("converged") and "local" not in solution.status
    assert compare(solution, product, HOLES, 4000)["rel_l2"] <= 1e-3


@pytest.mark.parametrize("basis", [None, Sines()], ids=["polynomials", "sines"])
def test_a_corner_is_resolved_by_its_own_functions(basis):
    problem = Elliptic.manufactured(L_SHAPE, singular)
    solution = FeatureSolver(tolerance=1e-4, basis=basis, local=True).solve(problem)
    error = compare(solution, singular, L_SHAPE, 4000)["rel_l2"]
    assert solution.status.startswith("converged")
    assert error <= 1e-4 and error <= 10 * solution.error_estimate


def test_without_its_own_functions_it_is_not():
    collocation, cover = Collocation(Elliptic.manufactured(L_SHAPE, singular)), Cover.even(*SQUARE.bounds, [4, 4])
    refinement = Refinement(on_patches(Sines()), 10_000, Deadline(math.inf))
    without, with_them = (
        compare(r.once(collocation, trimmed(cover, L_SHAPE), 1e-4, None).field, singular, L_SHAPE, 4000)["rel_l2"]
        for r in (refinement, replace(refinement, singular=True))
    )
    assert without > 1e-2
    assert with_them < 0.1 * without


def test_a_small_hole_lends_its_functions_to_the_cells_around_it():
    problem = Elliptic(SQUARE - Ball([0.1, 0.2], 0.05), 1.0, 0.0)
    cover = Cover.even(*SQUARE.bounds, [4, 4])
    extras = extras_of(Collocation(problem), cover, 100)
    assert len(extras) == 5 and all(1 <= len(e.cells) <= 12 for e in extras)
    fine = Cover.even(*SQUARE.bounds, [80, 80])
    holes = len(extras_of(Collocation(problem), fine, 100))
    assert holes < len(extras_of(Collocation(problem), cover, 100))


def test_bad_choices_are_refused():
    with pytest.raises(ValueError, match="slope jumps"):
        Neurons(srelu)
    with pytest.raises(ValueError, match="share is 0"):
        Neurons(share=0)
    with pytest.raises(TypeError, match="must be an Activation"):
        Neurons("tanh")
    with pytest.raises(TypeError, match="basis is 3"):
        FeatureSolver(basis=3)
    with pytest.raises(TypeError, match="local is 'yes'"):
        FeatureSolver(local="yes")
    five = Elliptic.manufactured(Box([0.0] * 5, [1.0] * 5), lambda x: x.sum(1) ** 3)
    with pytest.raises(ValueError, match="5 dimensions"):
        FeatureSolver(local=True).solve(five)
    with pytest.raises(ValueError, match="5 dimensions"):
        FeatureSolver(basis=Sines()).solve(five)


def test_features_vary_no_faster_than_the_bandwidth():
    one = torch.ones(2, dtype=torch.float64)
    for basis in (Sines(), Neurons(tanh)):
        linear, fast = basis(5 * one, -one, 3 * one)
        assert isinstance(linear, Polynomials) and linear.size == 3
        k = fast.wavenumbers if hasattr(fast, "wavenumbers") else fast.directions
        assert 1.9 < float((k * 2).norm(dim=1).max()) <= 5.0 + 1e-9
    half = Neurons(tanh, share=0.5)(5 * one, -one, one)[1].size
    assert half == pytest.approx(0.5 * Sines()(5 * one, -one, one)[1].size, abs=1)
