"""Closed forms of activations against autograd, against the papers' formulas, and across their kinks."""

import math

import numpy as np
import pytest
import torch
from torch.autograd import gradcheck, gradgradcheck

from sciml.activations import SinCos, gelu, named, phi, relu, s2relu, sine, srelu, tanh

ALL = [relu, srelu, phi, s2relu, sine, tanh, gelu, srelu**2, srelu**3, relu**2, relu**4, s2relu**2, phi**2, sine**3]
KINKS = {"relu": [0.0], "srelu": [0.0, 1.0], "s2relu": [0.0, 1.0], "phi": [0.0, 1.0, 2.0, 3.0]}


def points(n=4001, lower=-1.0, upper=4.0):
    return torch.linspace(lower, upper, n, dtype=torch.float64)


def positive(x):
    return np.maximum(x, 0.0)


PAPER = {
    "relu": lambda x: positive(x),
    "srelu": lambda x: positive(x) * positive(1 - x),
    "s2relu": lambda x: np.sin(2 * np.pi * x) * positive(x) * positive(1 - x),
    "phi": lambda x: positive(x) ** 2 - 3 * positive(x - 1) ** 2 + 3 * positive(x - 2) ** 2 - positive(x - 3) ** 2,
    "gelu": lambda x: np.array([v * 0.5 * (1 + math.erf(v / math.sqrt(2))) for v in x]),
}


@pytest.mark.parametrize("activation", [relu, srelu, s2relu, phi, gelu], ids=lambda a: a.name)
def test_values_are_those_of_the_papers(activation):
    x = points()
    np.testing.assert_allclose(activation(x), PAPER[activation.name](x.numpy()), rtol=1e-13, atol=1e-13)


@pytest.mark.parametrize("activation", ALL, ids=lambda a: a.name)
def test_each_derivative_is_the_autograd_derivative_of_the_one_before(activation):
    x = points().requires_grad_()
    for order in range(3):
        f = activation.derivatives(x, order)[order]
        closed = activation.derivatives(x, order + 1)[order + 1]
        auto = torch.autograd.grad(f.sum(), x)[0] if f.requires_grad else torch.zeros_like(x)
        torch.testing.assert_close(closed, auto, rtol=1e-12, atol=1e-12 * max(1.0, closed.abs().max().item()))


@pytest.mark.parametrize("activation", ALL, ids=lambda a: a.name)
def test_closed_forms_agree_with_finite_differences_away_from_kinks(activation):
    x, h = points(997) + 1e-4 * math.pi, 1e-5
    base = activation.name.partition("**")[0]
    far = torch.ones_like(x, dtype=torch.bool)
    for kink in KINKS.get(base, []):
        far &= (x - kink).abs() > 2 * h
    for order in range(3):
        slope = (activation.derivatives(x + h, order)[order] - activation.derivatives(x - h, order)[order]) / (2 * h)
        closed = activation.derivatives(x, order + 1)[order + 1]
        scale = max(1.0, closed.abs().max().item())
        torch.testing.assert_close(slope[far], closed[far], rtol=0, atol=3e-6 * scale)


@pytest.mark.parametrize("activation", [a for a in ALL if a.smoothness < math.inf], ids=lambda a: a.name)
def test_smoothness_is_the_highest_derivative_without_a_jump(activation):
    kinks = torch.tensor(KINKS[activation.name.partition("**")[0]], dtype=torch.float64)
    eps = 1e-9
    for order in range(4):
        right = activation.derivatives(kinks + eps, order)[order]
        left = activation.derivatives(kinks - eps, order)[order]
        jump = (right - left).abs().max().item()
        if order <= activation.smoothness:
            assert jump < 1e-5
        elif order == activation.smoothness + 1:
            assert jump > 0.1


def test_smoothness_of_powers_is_stated():
    stated = {a.name: a.smoothness for a in ALL}
    assert stated["srelu"] == 0 and stated["srelu**2"] == 1 and stated["srelu**3"] == 2 and stated["relu**4"] == 3
    assert stated["s2relu"] == 1 and stated["s2relu**2"] == 3
    assert stated["phi"] == stated["phi**2"] == 1, "phi does not vanish at its inner knots"
    assert stated["sine**3"] == math.inf


@pytest.mark.parametrize("activation", [srelu, s2relu, phi, srelu**2, phi**3], ids=lambda a: a.name)
def test_compact_support_is_exactly_zero_outside_however_far(activation):
    lower, upper = activation.support
    far = torch.tensor([1e-12, 1e-3, 1.0, 1e3, 1e8, 1e16, 1e200], dtype=torch.float64)
    for x in (lower - far, upper + far[2:], torch.tensor([math.inf, -math.inf], dtype=torch.float64)):
        for f in activation.derivatives(x, 3):
            assert bool((f == 0).all())
    assert bool(activation(torch.tensor([math.nan])).isnan())


def test_phi_and_srelu_peak_where_the_papers_say():
    assert phi(torch.tensor(1.5)).item() == 1.5 and srelu(torch.tensor(0.5)).item() == 0.25
    assert phi.derivatives(torch.tensor([1.5]), 1)[1].item() == 0


def test_values_at_kinks_are_those_of_the_piece_nearer_to_the_centre():
    at = torch.tensor([0.0, 1.0, 2.0, 3.0], dtype=torch.float64)
    assert phi.derivatives(at, 2)[2].tolist() == [2, -4, -4, 2]
    assert srelu.derivatives(at[:2], 1)[1].tolist() == [1, -1] and relu.derivatives(at[:1], 1)[1].item() == 1


def test_sincos_passes_every_transform():
    x = torch.randn(5, dtype=torch.float64, requires_grad=True)
    assert gradcheck(SinCos.apply, x, check_forward_ad=True, check_batched_grad=True, check_batched_forward_grad=True)
    assert gradgradcheck(SinCos.apply, x)
    y = x.detach()
    product = lambda v: (SinCos.apply(v)[0] * SinCos.apply(v)[1]).sum()  # noqa: E731
    torch.testing.assert_close(torch.func.grad(product)(y), torch.cos(2 * y))
    torch.testing.assert_close(torch.func.hessian(product)(y), torch.diag(-2 * torch.sin(2 * y)))
    torch.testing.assert_close(torch.func.jacrev(torch.func.grad(product))(y), torch.diag(-2 * torch.sin(2 * y)))
    torch.testing.assert_close(torch.func.vmap(torch.func.grad(product))(y[:, None])[:, 0], torch.cos(2 * y))
    tangent = torch.func.jvp(lambda v: SinCos.apply(v)[0], (y,), (torch.ones_like(y),))[1]
    torch.testing.assert_close(tangent, torch.cos(y))


def test_float32_stays_float32():
    x = torch.randn(7)
    for activation in ALL:
        assert all(f.dtype == torch.float32 for f in activation.derivatives(x, 3)), activation.name


def test_powers_compose_and_are_found_by_name():
    assert ((srelu**2) ** 3).name == "srelu**6" and (srelu**1) == srelu
    for activation in ALL:
        again = named(activation.name)
        assert again == activation
        torch.testing.assert_close(again(points(11)), activation(points(11)))


@pytest.mark.parametrize("call", [lambda: srelu**0, lambda: srelu**1.5, lambda: srelu.derivatives(points(), 4)])
def test_wrong_orders_and_exponents_are_refused(call):
    with pytest.raises(ValueError, match="but"):
        call()


@pytest.mark.parametrize("name", ["swish", "srelu**", "srelu**x", "srelu**2**2", "srelu**0"])
def test_an_unknown_saved_name_is_refused(name):
    with pytest.raises(ValueError, match="must be"):
        named(name)
