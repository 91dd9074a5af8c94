"""The closed-form limits of Ritz-Galerkin with point-sampled loads, and the network that does not share them."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from sciml.problems.ritz_galerkin import VARIANTS, hats, limit_1d, methods, polynomials, setting, sines_2d

X = np.array([-0.7, -0.31, 0.05, 0.4, 0.83])
F = np.array([1.0, -2.0, 0.5, 3.0, -1.0])


@pytest.mark.parametrize("m", [3, 10, 77])
def test_hats_are_exact_at_their_nodes(m):
    nodes = np.linspace(-1, 1, m + 2)
    assert np.abs(hats(m, -1, 1, X, F)(nodes) - limit_1d(-1, 1, X, F)(nodes)).max() < 1e-12


@pytest.mark.parametrize("method", [hats, polynomials])
def test_many_basis_functions_reach_the_piecewise_linear_limit(method):
    t = np.linspace(-1, 1, 1001)
    limit = limit_1d(-1, 1, X, F)(t)
    gaps = [np.abs(method(m, -1, 1, X, F)(t) - limit).max() for m in (8, 64, 512)]
    assert gaps[1] < gaps[0] / 4 and gaps[2] < gaps[1] / 4
    assert limit[0] == limit[-1] == 0
    kinks = np.abs(np.diff(limit, 2)) > 1e-9
    assert kinks.sum() <= 2 * len(X)


def test_the_square_diverges_at_the_samples_only():
    x, f = np.array([[0.3, 0.6]]), np.ones(1)
    at = [sines_2d(m, x, f)(x)[0] for m in (8, 16, 32, 64)]
    assert np.allclose(np.diff(at), np.log(2) / (2 * np.pi), rtol=0.1)  # -log|x| / (2 pi)
    away = [sines_2d(m, x, f)(np.array([[0.8, 0.2]]))[0] for m in (32, 64)]
    assert abs(away[0] - away[1]) < 1e-3


def test_a_network_stays_smooth_where_the_limit_has_kinks():
    config = replace(VARIANTS["paper"], bases=(256,), widths=(20, 80), steps=250)
    domain, x, f, _ = setting(config, 0)
    found = methods(config, domain, x, f, 0)
    t = torch.linspace(-1, 1, 401, dtype=torch.float64)[:, None]
    values = {k: np.asarray(u(t).detach()) for k, u in found.items()}
    rough = {k: np.abs(np.diff(v, 2)).max() for k, v in values.items()}
    smooth = [rough["network, width 20"], rough["network, width 80"]]
    assert max(smooth) < rough["limit"] / 10
    assert np.abs(values["network, width 20"] - values["network, width 80"]).max() < 0.02  # stable in the width
