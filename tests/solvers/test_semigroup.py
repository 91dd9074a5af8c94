"""Operators of short times against closed forms, finite differences and automatic consistency."""

# ruff: noqa: E731

import math

import pytest
import torch

import sciml
from sciml import Box, Dirichlet, Elliptic, Evolution, Family, GreensSolver, compare, jet
from sciml.optimizers import SOAP
from sciml.solvers.locality import influence, symmetries
from sciml.solvers.semigroup import Semigroup
from sciml.solvers.shorttime import Row, Strip
from sciml.training import Adam

PI = math.pi
LINE = Box([-1], [1])
HEAT = Evolution(LINE, lambda x, u: 0.1 * u.xx, 0.0, [Dirichlet(0.0)])
BURGERS = Evolution(LINE, lambda x, u: -u * u.x + 0.1 * u.xx, 0.0, [Dirichlet(0.0)])
FORCED = Evolution(LINE, lambda x, u: 0.1 * u.xx + 1 + x[:, 0], 0.0, [Dirichlet(0.0)])
TINY = {
    "widths": (6,),
    "head": (8, 8),
    "channels": 4,
    "parts": 4,
    "cells": 24,
    "reach": 0.2,
    "members": 3,
    "labels": 2,
    "points": 32,
    "stages": [Adam(3)],
}


def waves(count, generator):
    c = torch.randn(2, count, generator=generator, dtype=torch.float64)
    return lambda x: torch.sin(PI * x[:, -1:]) * c[0] + torch.sin(2 * PI * x[:, -1:]) * c[1]


def heated(c):
    return lambda p: (
        c[0] * torch.exp(-0.1 * PI**2 * p[:, 0]) * torch.sin(PI * p[:, 1])
        + c[1] * torch.exp(-0.4 * PI**2 * p[:, 0]) * torch.sin(2 * PI * p[:, 1])
    )


@pytest.mark.parametrize("way", [{"labels": 12}, {"labels": 0, "model": 1.0, "rounds": 2}])
def test_heat_from_labels_or_from_the_equation(way):
    """u = sum c_k exp(-0.1 k^2 pi^2 t) sin(k pi x), for factors it never saw."""
    options = Semigroup(
        widths=(16,),
        head=(24, 24),
        channels=8,
        parts=4,
        reach=0.4,
        cells=48,
        members=12,
        points=128,
        stages=[SOAP(300)],
        **way,
    )
    operator = GreensSolver(options).solve(Family(HEAT, initials=waves))
    c = 0.8, -0.5
    start = lambda x: c[0] * torch.sin(PI * x[:, 0]) + c[1] * torch.sin(2 * PI * x[:, 0])
    assert compare(operator(start), heated(c), HEAT.domain)["rel_l2"] < 2e-2
    assert compare(lambda p: start(p[:, 1:]), heated(c), HEAT.domain)["rel_l2"] > 0.3


def test_symmetries():
    assert symmetries(BURGERS) == (True, True, True)
    assert symmetries(FORCED) == (True, False, False)
    moving = Evolution(LINE, lambda x, u: u.xx + 1 + u.time, 0.0, [Dirichlet(0.0)])
    assert symmetries(moving) == (False, True, False)


def test_influence_is_as_far_as_waves_and_heat_travel():
    """A disturbance of u_t + 2 u_x = nu u_xx moves by 2 tau and widens as heat does; the Gaussian tail is known."""
    nu, tau, width = 0.01, 0.1, 4 / 128
    moving = Evolution(LINE, lambda x, u: -2 * u.x + nu * u.xx, 0.0, [Dirichlet(0.0)])
    spread = math.sqrt(math.log(1e3) * (width**2 + 4 * nu * tau))
    found = influence(moving, waves(3, torch.Generator().manual_seed(0)), tau)
    assert found == pytest.approx((2 * tau + spread) / 2, abs=0.02)
    still = Evolution(LINE, lambda x, u: nu * u.xx, 0.0, [Dirichlet(0.0)])
    assert influence(still, waves(3, torch.Generator().manual_seed(0)), tau) == pytest.approx(spread / 2, abs=0.02)


def test_windows_are_values_and_derivatives_beside_a_point():
    strip = Strip(-1.0, 1.0, 64, 8)
    u = torch.stack([torch.sin(PI * strip.nodes), torch.sin(3 * PI * strip.nodes)])
    x = torch.tensor([-1.0, -0.93, 0.2, 1.0], dtype=torch.float64)
    beside = x[:, None] + torch.arange(-8, 9) * (2 / 64)  # beyond the ends as well
    owner = torch.tensor([0, 0, 0, 0])
    value, first, second = strip.windows(strip.extended(u), owner, x, 2)
    torch.testing.assert_close(value, torch.sin(PI * beside), rtol=0, atol=1e-7)
    torch.testing.assert_close(first, PI * torch.cos(PI * beside), rtol=0, atol=1e-5)
    torch.testing.assert_close(second, -(PI**2) * torch.sin(PI * beside), rtol=0, atol=1e-3)
    other = strip.windows(strip.extended(u), owner + 1, x)[0]
    torch.testing.assert_close(other, torch.sin(3 * PI * beside), rtol=0, atol=1e-4)


@pytest.mark.parametrize("problem", [BURGERS, FORCED])
def test_ends_starts_and_derivatives(problem):
    operator = GreensSolver(Semigroup(**TINY, model=1.0)).solve(Family(problem, initials=waves))
    start = lambda x: torch.sin(PI * x[:, -1])
    solution = operator(start)
    x = torch.linspace(-1, 1, 25, dtype=torch.float64)  # nodes
    at_zero, at_side = torch.stack([0 * x, x], 1), torch.stack([x.abs(), torch.sign(x)], 1)[x != 0]
    torch.testing.assert_close(solution(at_zero), start(at_zero), atol=1e-9, rtol=0)
    assert solution(at_side).abs().max() < 1e-9
    later = torch.tensor([[0.25, 0.3], [0.25 - 1e-12, 0.3]], dtype=torch.float64)
    assert float(solution(later).diff().abs()) < 1e-2  # continuous from step to step, up to interpolation
    kernel, places = operator.kernel, 0.1 + 0.1 * torch.rand(6, 2, dtype=torch.float64)
    states = kernel.strip.extended(start(kernel.strip.nodes[:, None])[None])
    owner = torch.zeros(6, dtype=torch.long)

    def values(p):
        row = Row(kernel.network, kernel.strip.windows(states, owner, p[:, 1]), kernel.strip)
        return row(p).detach()

    row = Row(kernel.network, kernel.strip.windows(states, owner, places[:, 1], 2), kernel.strip)
    found = jet(row, places, 2, [(0, 1), (1, 1)])
    t, s = torch.tensor([[1e-4, 0.0], [0.0, 1e-4]], dtype=torch.float64)
    for axis, step in enumerate((t, s)):
        slope = (values(places + step) - values(places - step)) / 2e-4
        torch.testing.assert_close(found.gradient[:, axis], slope, rtol=1e-3, atol=1e-3)
    bend = (values(places + s) + values(places - s) - 2 * values(places)) / 1e-8
    torch.testing.assert_close(found.second[1, 1], bend, rtol=1e-2, atol=1e-2)


def test_saved_and_batched(tmp_path):
    operator = GreensSolver(Semigroup(**TINY)).solve(Family(BURGERS, initials=waves))
    operator.save(tmp_path / "o.h5")
    p = BURGERS.domain.interior(10)
    both = lambda x: torch.stack([torch.sin(PI * x[:, 0]), torch.sin(2 * PI * x[:, 0])], 1)
    values = operator(both)(p)
    assert values.shape == (10, 2)
    torch.testing.assert_close(operator(lambda x: both(x)[:, 1])(p), values[:, 1])
    assert torch.equal(sciml.load(tmp_path / "o.h5")(both)(p), values)
    solution = operator(both)
    solution.save(tmp_path / "s.h5")
    assert torch.equal(sciml.load(tmp_path / "s.h5")(p), values)


MOVING = Evolution(LINE, lambda x, u: u.xx + u.time, 0.0, [Dirichlet(0.0)])
LIFTED = Evolution(LINE, lambda x, u: u.xx, 0.0, [Dirichlet(1.0)])


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        (lambda: Semigroup(parts=0), "parts is 0"),
        (lambda: Semigroup(reach=0.7), "reach is 0.7"),
        (lambda: Semigroup(labels=7, members=3), "only 3 members"),
        (lambda: Semigroup(labels=0), "nothing to train on"),
        (lambda: GreensSolver(Semigroup(**TINY)).solve(Family(MOVING, initials=waves)), "rate changes with time"),
        (lambda: GreensSolver(Semigroup(**TINY)).solve(Family(LIFTED, initials=waves)), "Dirichlet value 0"),
        (
            lambda: GreensSolver(Semigroup(**TINY)).solve(Family(Elliptic(LINE, 1.0, 0.0), waves)),
            "needs an Evolution on an interval",
        ),
        (
            lambda: GreensSolver(Semigroup(**TINY)).solve(Family(BURGERS, initials=waves))(lambda x: x[:, 0] / 0),
            "initial is not finite",
        ),
        (
            lambda: GreensSolver(Semigroup(**TINY)).solve(Family(BURGERS, initials=waves))(0.0)(
                2 * torch.ones(1, 2, dtype=torch.float64)
            ),
            "outside the domain",
        ),
    ],
)
def test_bad_input_is_a_sentence(call, sentence):
    with pytest.raises((TypeError, ValueError), match=sentence):
        call()
