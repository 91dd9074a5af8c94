"""The learned slab kernel against discrete ordinates, which share no code with it, and closed forms."""

import numpy as np
import pytest
import torch

from sciml.problems import radiative_transfer as rt
from sciml.solvers.ordinates import DiscreteOrdinates, Slab
from sciml.solvers.transport import SlabSolver


def flat(v):
    return np.ones_like(v)


def none(v):
    return np.zeros_like(v)


@pytest.mark.parametrize(("eps", "below"), [(1.0, 1e-6), (0.1, 1e-4), (0.01, 1e-3)])
@pytest.mark.parametrize("kind", rt.INFLOWS)
def test_unseen_inflow(eps, below, kind):
    generator = torch.Generator().manual_seed(3)
    left, right = rt.inflow(kind, generator), rt.inflow(kind, generator)
    operator = SlabSolver().solve(rt.slab(eps))
    rays = DiscreteOrdinates(cells=1600, directions=48).solve(rt.slab(eps), left, right)
    assert rt.distance(operator(left, right), rays, every=40) < below


def test_the_distance_to_the_reference_is_the_error_of_the_reference():
    operator = SlabSolver().solve(rt.slab(0.01))(flat, none)
    gaps = [
        rt.distance(operator, DiscreteOrdinates(cells, 32).solve(rt.slab(0.01), flat, none), every=cells // 40)
        for cells in (200, 400, 800)
    ]
    assert gaps[0] > 3 * gaps[1] > 9 * gaps[2]


def test_equilibrium_and_negative_control():
    points = np.random.default_rng(0).uniform([0, -1], [1, 1], (200, 2))
    solution = SlabSolver().solve(Slab(7.0, 7.0))(flat, flat)
    np.testing.assert_allclose(solution(points), 1.0, atol=1e-7)
    absorbing = SlabSolver().solve(Slab(7.0, 5.0))(flat, flat)
    assert absorbing(points).min() < 0.9


def test_pure_absorption_is_exact():
    points = np.array([[0.5, 0.5], [0.5, -0.5], [0.0, 0.3], [1.0, 1.0]])
    solution = SlabSolver().solve(Slab(2.0, 0.0))(flat, none)
    np.testing.assert_allclose(solution(points), [np.exp(-2), 0.0, 1.0, np.exp(-2)], atol=1e-14)


def test_linear_and_mirrored():
    operator = SlabSolver().solve(rt.slab(0.3))
    points = np.random.default_rng(1).uniform([0, -1], [1, 1], (50, 2))
    mirrored = points * [-1, -1] + [1, 0]
    one = operator(lambda v: v, none)(points)
    np.testing.assert_allclose(operator(none, lambda v: v)(mirrored), one, atol=1e-9)
    np.testing.assert_allclose(operator(lambda v: 3 * v, none)(points), 3 * one, atol=1e-12)


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        (lambda op: op(lambda v: v[:3], none), "left gave shape"),
        (lambda op: op(none, lambda v: v * np.nan), "right is not finite"),
        (lambda op: op(flat, flat)(np.array([[1.2, 0.0]])), "outside the domain"),
        (lambda op: SlabSolver(order=1), "order is 1"),
        (lambda op: rt.inflow("sawtooth", torch.Generator()), "sawtooth"),
    ],
)
def test_bad_input(call, sentence):
    with pytest.raises(ValueError, match=sentence):
        call(SlabSolver().solve(rt.slab(1.0)))
