"""Jets: both roads against each other, against closed forms, and on awkward callables."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sciml.calculus import Taylor, jet, partial


def wave(x):
    return torch.sin(x[:, 0]) * torch.exp(x[:, -1]) + x.square().sum(1)


class ByTaylor:
    """The same function as `wave`, told as a Taylor expansion."""

    def __call__(self, x):
        return wave(x)

    def taylor(self, t):
        first, last = t.map(lambda a: a[..., :1]), t.map(lambda a: a[..., -1:])
        sine = first.compose((first.value.sin(), first.value.cos(), -first.value.sin()))
        exp = last.compose((last.value.exp(),) * 3)
        square = (t * t).map(lambda a: a.sum(-1, keepdim=True))
        return sine * exp + square


def points(d, n=7):
    return torch.rand(n, d, generator=torch.Generator().manual_seed(d), dtype=torch.float64)


@pytest.mark.parametrize("d", [1, 2, 3])
@pytest.mark.parametrize("pairs", [None, "all"])
def test_both_roads_agree(d, pairs):
    x = points(d)
    pairs = None if pairs is None else [(i, j) for i in range(d) for j in range(i, d)]
    a, b = jet(wave, x, 2, pairs), jet(ByTaylor(), x, 2, pairs)
    for name in ("value", "gradient", "laplacian"):
        torch.testing.assert_close(getattr(a, name), getattr(b, name), rtol=1e-13, atol=1e-13)
    assert a.second.keys() == b.second.keys() == set(pairs or [])
    for key in a.second:
        torch.testing.assert_close(a.second[key], b.second[key], rtol=1e-13, atol=1e-13)


def test_against_closed_form():
    x = points(3)
    j = jet(wave, x, 2, [(0, 2), (1, 1)])
    mixed = x[:, 0].cos() * x[:, 2].exp()
    torch.testing.assert_close(j.second[0, 2], mixed, rtol=1e-14, atol=1e-14)
    torch.testing.assert_close(j.second[1, 1], torch.full((7,), 2.0, dtype=x.dtype))
    assert j.laplacian is None  # not all pure derivatives were asked for
    torch.testing.assert_close(partial(wave, x, (0, 0, 2)), -x[:, 0].sin() * x[:, 2].exp(), rtol=1e-13, atol=1e-13)


def test_vector_field_has_components_second():
    x = points(2)
    j = jet(lambda x: torch.stack([wave(x), x[:, 0] * x[:, 1]], 1), x, 2, [(0, 1)])
    assert j.value.shape == (7, 2) and j.gradient.shape == (7, 2, 2)
    torch.testing.assert_close(j.gradient[:, 1], x.flip(1))
    torch.testing.assert_close(j.second[0, 1][:, 1], torch.ones(7, dtype=x.dtype))


@pytest.mark.filterwarnings("ignore:Converting a tensor with requires_grad")
def test_awkward_callables():
    x = points(2)
    constant = jet(lambda x: torch.ones(len(x), dtype=x.dtype), x)
    assert constant.gradient.abs().max() == 0 and constant.laplacian.abs().max() == 0

    def branching(x):
        return x[:, 0] ** 3 if float(x.sum()) > 0 else x[:, 1]

    torch.testing.assert_close(jet(branching, x).laplacian, 6 * x[:, 0])


def test_owns_requires_grad_and_keeps_the_parameters_graph():
    a = torch.tensor(2.0, dtype=torch.float64, requires_grad=True)
    x = points(2)
    j = jet(lambda x: a * x[:, 0] ** 2, x)
    assert not x.requires_grad
    (grad,) = torch.autograd.grad(j.laplacian.sum(), a)
    assert float(grad) == pytest.approx(14)
    with torch.no_grad():
        quiet = jet(lambda x: a * x[:, 0] ** 2, x)
    assert not quiet.laplacian.requires_grad
    torch.testing.assert_close(quiet.laplacian, j.laplacian.detach())


def test_composes_with_torch_func():
    x = points(2)

    def loss(a):
        return jet(lambda y: a * y[:, 0] ** 3, x).laplacian.square().sum()

    a = torch.tensor(1.5, dtype=torch.float64)
    expected = 2 * 1.5 * (6 * x[:, 0]).square().sum()
    torch.testing.assert_close(torch.func.grad(loss)(a), expected)


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 4), st.floats(-3, 3), st.floats(-3, 3))
def test_jets_are_linear_in_the_field(d, a, b):
    x = points(d)
    other = lambda x: torch.cos(x.sum(1))  # noqa: E731
    both = jet(lambda x: a * wave(x) + b * other(x), x).laplacian
    torch.testing.assert_close(both, a * jet(wave, x).laplacian + b * jet(other, x).laplacian, rtol=1e-10, atol=1e-10)


def test_bad_input_is_a_sentence():
    with pytest.raises(ValueError, match=r"\(n, d\)"):
        jet(wave, torch.rand(3))
    with pytest.raises(ValueError, match="order is 3"):
        jet(wave, points(2), order=3)
    with pytest.raises(ValueError, match="the field gave shape"):
        jet(lambda x: x[:3, 0], points(2))


def test_seed_is_the_identity():
    x = points(3)
    t = Taylor.seed(x, 2, ((0, 1),))
    assert torch.equal(t.first[1], torch.eye(3, dtype=x.dtype)[1].expand(7, 3)) and math.isclose(
        float(t.second.abs().max()), 0
    )
