"""Discrete ordinates against closed forms, conservation, its order and the iteration without acceleration."""

import numpy as np
import pytest

from sciml.solvers.ordinates import DiscreteOrdinates, Slab, walled


def flat(v):
    return np.ones_like(v)


def none(v):
    return np.zeros_like(v)


def test_without_scattering_rays_fade():
    rays = DiscreteOrdinates(cells=20).solve(Slab(3.0, 0.0), flat, none)
    up = rays.v > 0
    np.testing.assert_allclose(rays.f[:, up], np.exp(-3 * rays.x[:, None] / rays.v[up]), rtol=1e-10, atol=1e-300)
    assert not rays.f[:, ~up].any()


def test_a_slab_that_only_scatters_conserves():
    slab = Slab(5.0, 5.0)
    np.testing.assert_allclose(DiscreteOrdinates(cells=60).solve(slab, flat, flat).f, 1.0, rtol=1e-8)
    flux = []
    for cells in (100, 200):
        rays = DiscreteOrdinates(cells=cells).solve(slab, flat, none)
        current = (rays.f * rays.v) @ rays.weights
        flux.append(np.ptp(current) / current.mean())
    assert flux[1] < flux[0] / 3 and flux[1] < 1e-3


@pytest.mark.parametrize("eps", [1.0, 0.1])
def test_second_order_in_the_grid(eps):
    slab = Slab(1 / eps, 1 / eps - 0.5 * eps)
    rho = []
    for cells in (50, 100, 200, 400):
        rays = DiscreteOrdinates(cells=cells, directions=8).solve(slab, lambda v: 1 + v, none)
        rho.append(np.trapezoid(rays.rho * (1 + rays.x), rays.x))
    gaps = [abs(a - b) for a, b in zip(rho, rho[1:], strict=False)]
    assert 3.2 < gaps[1] / gaps[2] < 5


def test_converges_in_the_directions():
    rho = [DiscreteOrdinates(200, n).solve(Slab(2.0, 1.9), lambda v: v, none).rho for n in (4, 8, 16, 32)]
    gaps = [np.abs(a - b).max() for a, b in zip(rho, rho[1:], strict=False)]
    assert gaps[0] > 2.5 * gaps[1] > 6.25 * gaps[2]


@pytest.mark.parametrize("eps", [1.0, 0.1, 0.01])
def test_acceleration_makes_the_rate_independent_of_eps(eps):
    slab = Slab(1 / eps, 1 / eps - 0.5 * eps)
    changes = DiscreteOrdinates(cells=400, directions=16).solve(slab, flat, none).changes
    assert changes[-1] / changes[-2] < 0.35 and len(changes) < 25


def test_without_acceleration_thick_slabs_do_not_converge():
    slab = Slab(20.0, 20.0 - 0.025)
    fast = DiscreteOrdinates(cells=200, directions=8, tolerance=1e-6).solve(slab, flat, none)
    with pytest.raises(ArithmeticError, match="after 60 sweeps"):
        DiscreteOrdinates(200, 8, 1e-6, sweeps=60, accelerate=False).solve(slab, flat, none)
    slow = DiscreteOrdinates(200, 8, 1e-8, sweeps=2000, accelerate=False).solve(slab, flat, none)
    np.testing.assert_allclose(fast.rho, slow.rho, atol=2e-5)
    assert len(slow.changes) > 20 * len(fast.changes)


def test_grid_and_bad_numbers():
    x = walled(100, 1e-3)
    assert len(x) == 101 and (np.diff(x) > 0).all() and x[1] < 4e-4
    np.testing.assert_allclose(x + x[::-1], 1, atol=1e-6)
    with pytest.raises(ValueError, match="scattering is 3"):
        Slab(2.0, 3.0)
    with pytest.raises(ValueError, match="total is 0"):
        Slab(0.0, 0.0)
    with pytest.raises(ValueError, match="not finite"):
        DiscreteOrdinates().solve(Slab(1.0, 0.5), lambda v: v * np.nan, none)
