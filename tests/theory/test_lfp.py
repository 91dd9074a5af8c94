"""The linear frequency principle against splines, closed-form kernels and the decay of wide networks."""

import numpy as np
import pytest
import torch
from scipy.interpolate import CubicSpline
from torch import nn

from sciml.theory.lfp import LFP, FourierVariational, power_decay, relu_decay, tanh_decay

X = np.array([-0.8, -0.6, -0.3, -0.06, 0.1])[:, None]
Y = np.array([0.25, -0.25, -0.07, 0.15, -0.05])
GRID = np.linspace(-0.8, 0.1, 181)[:, None]


def test_inverse_square_gives_the_linear_spline():
    for box in (4, 20):
        h = LFP(power_decay(2.0), box=box).solve(X, Y)
        assert np.abs(h(GRID) - np.interp(GRID[:, 0], X[:, 0], Y)).max() < 1e-3


def test_inverse_fourth_power_gives_the_natural_cubic_spline_and_not_another():
    natural = CubicSpline(X[:, 0], Y, bc_type="natural")(GRID[:, 0])
    other = CubicSpline(X[:, 0], Y)(GRID[:, 0])
    gap = {box: np.abs(LFP(power_decay(4.0), box=box).solve(X, Y)(GRID) - natural).max() for box in (4, 20)}
    assert gap[20] < 5e-3
    assert gap[20] < gap[4] / 4  # the box is the error: it vanishes as the box grows
    assert np.abs(LFP(power_decay(4.0)).solve(X, Y)(GRID) - other).max() > 0.03


@pytest.mark.parametrize("decay", [relu_decay, tanh_decay])
@pytest.mark.parametrize("dim", [1, 2])
def test_long_training_interpolates_and_short_training_does_not(decay, dim):
    generator = np.random.default_rng(0)
    x, y = generator.uniform(-1, 1, (8, dim)), generator.normal(size=8)
    lfp = LFP(decay(0.3 * generator.normal(size=200), np.abs(generator.normal(size=200)) * 4, dim), modes=60, box=3)
    assert np.abs(lfp.solve(x, y)(x) - y).max() < 1e-6
    start = lfp.trajectory(x, y, 0.0)
    assert np.allclose(start(x), y.mean())
    misfit = [np.linalg.norm(lfp.trajectory(x, y, t)(x) - y) for t in (0, 1, 100, 1e4, 1e8)]
    assert misfit == sorted(misfit, reverse=True)


def test_fp_norm_prefers_low_frequencies():
    lfp = LFP(relu_decay(0.1, 3.0))
    assert lfp.fp_norm([1.0, 2.0], [1.0, 0.0]) < lfp.fp_norm([1.0, 2.0], [0.0, 1.0])
    assert lfp.fp_norm([0.0, 1.0], [5.0, 0.0]) == 0  # the constant is free


def test_relu_decay_is_the_transform_of_the_kernel_of_its_neurons():
    # training a and b of sum a relu(w x + b) with b spread over a wide interval gives a kernel whose even part in
    # x - x' has fourth and second derivatives r^3 and a^2 r times delta functions: compare second differences
    a, r, width = 0.7, 2.0, 40.0
    b = np.linspace(-width, width, 400_001)
    step, h, at = b[1] - b[0], 0.5, np.array([-2, -1, 0, 1, 2]) * 0.5

    def relu(z):
        return np.maximum(z, 0)

    k_b = np.array([[a**2 * ((r * x + b > 0) * (r * y + b > 0)).sum() * step for y in at] for x in at])
    k_a = np.array([[(relu(r * x + b) * relu(r * y + b)).sum() * step for y in at] for x in at])
    # mixed differences see -g'' of the even part g(x - x'); what is linear in x + x' drops out
    mixed_b = (k_b[1:, 1:] - k_b[:-1, 1:] - k_b[1:, :-1] + k_b[:-1, :-1]) / h**2
    assert np.allclose(np.diag(mixed_b), a**2 * r / h, rtol=1e-3)  # -g'' = a^2 r delta: one cell of width h
    xi = 0.37
    second = relu_decay(a, r)(xi) - relu_decay(0.0, r)(xi)
    assert np.isclose(second * 4 * np.pi**2 * xi**2, a**2 * r)
    kink = np.diff(np.diff(k_a, n=2, axis=0), n=2, axis=1) / h**4
    # fourth derivative r^3 delta, seen through two hat functions: their convolution is 2/3 of a cell at its centre
    assert np.allclose(np.diag(kink), 2 / 3 * r**3 / h, rtol=1e-3)
    assert np.isclose(relu_decay(0.0, r)(xi) * 16 * np.pi**4 * xi**4, r**3)


def test_a_module_supplies_the_moments_and_a_deep_one_is_refused():
    net = nn.Sequential(nn.Linear(1, 50), nn.ReLU(), nn.Linear(50, 1)).double()
    h = LFP.of(net).solve(X, Y)
    assert torch.allclose(h(torch.as_tensor(X)), torch.as_tensor(Y), atol=1e-6)
    deep = nn.Sequential(nn.Linear(1, 5), nn.ReLU(), nn.Linear(5, 5), nn.ReLU(), nn.Linear(5, 1))
    with pytest.raises(ValueError, match="3 torch.nn.Linear layers"):
        LFP.of(deep)


def test_bad_data_are_refused_in_one_sentence():
    with pytest.raises(ValueError, match="two of the points are equal"):
        LFP(power_decay(2)).solve(np.zeros((2, 1)), np.ones(2))
    with pytest.raises(ValueError, match="must be \\(n, d\\)"):
        LFP(power_decay(2)).solve(np.zeros(2), np.ones(2))
    with pytest.raises(ValueError, match="resolves"):
        FourierVariational(2.0).interpolate([[0.0], [10.0]], [0.0, 1.0])


@pytest.mark.parametrize(
    ("alpha", "kernel"),
    [
        (2.0, lambda x: np.pi * np.exp(-2 * np.pi * x)),
        (4.0, lambda x: np.pi / 2 * (1 + 2 * np.pi * x) * np.exp(-2 * np.pi * x)),
    ],
)
def test_variational_kernel_against_its_closed_form(alpha, kernel):
    x = np.array([[0.0], [0.2], [0.9]])
    found = FourierVariational(alpha, cut=3000.0).kernel(x, np.zeros((1, 1)))[:, 0]
    assert np.allclose(found, kernel(x[:, 0]), atol=2 / 3000)


def test_variational_kernel_in_the_plane():
    # alpha = 3 in two dimensions: K = 2 pi exp(-2 pi |x|)
    x = np.array([[0.3, 0.0], [0.0, 0.7]])
    found = FourierVariational(3.0, cut=400.0).kernel(x, np.zeros((1, 2)))[:, 0]
    assert np.allclose(found, 2 * np.pi * np.exp(-2 * np.pi * np.array([0.3, 0.7])), atol=2e-3)


def test_a_minimiser_exists_for_alpha_above_the_dimension_only():
    x, y = np.array([[-0.5], [0.0], [0.5]]), np.ones(3)

    def value(alpha, cut):
        return FourierVariational(alpha, cut).interpolate(x, y)(np.array([[0.25]]))[0]

    low = [value(0.5, cut) for cut in (1e2, 1e3, 1e4)]
    assert low[0] > 2.5 * low[1] > 6 * low[2] > 0  # to zero
    assert value(2.0, 1e4) == pytest.approx(0.3985, abs=2e-4)
    assert value(4.0, 1e3) == pytest.approx(0.8755, abs=1e-4)
    assert abs(value(4.0, 1e3) - value(4.0, 1e4)) < 1e-6
    assert not FourierVariational(0.5).exists() and FourierVariational(1.5).exists()
    assert not FourierVariational(1.5).exists(2)
