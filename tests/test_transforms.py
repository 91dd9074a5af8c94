"""Transforms: exact inverses over all magnitudes, the papers' values, statistics that travel."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sciml.transforms import BoxCox, GeneralBoxCox, Identity, Log, Standardize

LAMBDAS = st.sampled_from([0.05, 0.1, 0.5, 1.0])


@settings(deadline=None)
@given(LAMBDAS, st.lists(st.floats(1e-30, 1.0), min_size=1, max_size=20))
def test_box_cox_is_inverted_over_all_magnitudes(lmbda, values):
    y = torch.tensor([0.0, *values], dtype=torch.float64)
    back = BoxCox(lmbda).inverse(BoxCox(lmbda)(y))
    # the derivative of the inverse is y^(1 - lambda): rounding of F(0) = -1/lambda is a power of itself at zero
    torch.testing.assert_close(back, y, rtol=1e-11, atol=1e-15)


@settings(deadline=None)
@given(LAMBDAS, st.lists(st.floats(-1e10, 1e10), min_size=1, max_size=20))
def test_general_box_cox_is_inverted_and_odd(lmbda, values):
    y = torch.tensor(values, dtype=torch.float64)
    transform = GeneralBoxCox(lmbda)
    torch.testing.assert_close(transform.inverse(transform(y)), y, rtol=1e-10, atol=0)
    assert torch.equal(transform(-y), -transform(y))


def test_box_cox_of_zero_is_the_paper_s_without_any_floor():
    assert float(BoxCox(0.1)(torch.tensor(0.0))) == -10.0
    assert BoxCox(0.1)(torch.tensor(-1e-9)).isnan()
    assert float(BoxCox(0.1).inverse(torch.tensor(-12.0))) == 0.0  # an even power would give 1e-7


def test_box_cox_opens_the_scales():
    z = BoxCox(0.1)(torch.tensor([1e-20, 1e-10, 1.0], dtype=torch.float64))
    np.testing.assert_allclose(z, [-9.9, -9.0, 0.0], atol=1e-12)


def test_the_logarithm_is_the_limit_of_box_cox_and_has_a_floor():
    y = torch.tensor([1e-12, 1e-3, 0.5], dtype=torch.float64)
    torch.testing.assert_close(Log()(y), BoxCox(1e-6)(y), rtol=1e-4, atol=0)
    torch.testing.assert_close(Log().inverse(Log()(y)), y)
    assert float(Log(1e-8)(torch.tensor(0.0))) == pytest.approx(np.log(1e-8))
    for floor in (0.0, -1.0, float("inf")):
        with pytest.raises(ValueError, match="floor is"):
            Log(floor)


def test_the_identity_leaves_all_as_it_is():
    y = torch.tensor([-1.0, 0.0, 2.0])
    assert torch.equal(Identity()(y), y) and torch.equal(Identity().inverse(y), y)


@pytest.mark.parametrize("lmbda", [0, -0.1, 1.5, float("nan"), "a"])
def test_a_power_outside_the_unit_interval_is_refused(lmbda):
    for kind in (BoxCox, GeneralBoxCox):
        with pytest.raises(ValueError, match="lmbda is"):
            kind(lmbda)


def test_standardize_has_mean_zero_and_unit_spread_and_leaves_constants():
    x = torch.randn(500, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64) * 7 + 1e5
    x[:, 1] = 101325.0
    s = Standardize.fit(x)
    z = s(x)
    np.testing.assert_allclose(z.mean(0), 0, atol=1e-9)
    np.testing.assert_allclose(z.std(0, correction=0), [1, 0, 1], atol=1e-9)
    torch.testing.assert_close(s.inverse(z), x)


def test_scaling_by_magnitude_keeps_zero():
    s = Standardize.fit(torch.tensor([[1.0, -2.0], [3.0, 2.0]]), by="magnitude")
    assert torch.equal(s(torch.zeros(1, 2)), torch.zeros(1, 2))
    assert torch.equal(s.scale, torch.tensor([2.0, 2.0]))


@pytest.mark.parametrize("transform", [BoxCox(0.2), GeneralBoxCox(0.4), Standardize(torch.ones(2), torch.ones(2) * 3)])
def test_a_restored_transform_is_the_same(transform):
    again = type(transform).restore(transform.describe(), transform.arrays())
    x = torch.rand(5, 2)
    assert torch.equal(again(x), transform(x))


def test_bad_statistics_are_refused():
    with pytest.raises(ValueError, match="shapes"):
        Standardize(torch.ones(2), torch.ones(3))
    with pytest.raises(ValueError, match="positive"):
        Standardize(torch.ones(2), torch.zeros(2))
    with pytest.raises(ValueError, match=r"shape \(0, 2\)"):
        Standardize.fit(torch.ones(0, 2))
    with pytest.raises(ValueError, match="by is"):
        Standardize.fit(torch.ones(2, 2), by="max")
