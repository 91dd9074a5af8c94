"""The method of lines against exact solutions of evolutions on an interval."""

import math

import numpy as np
import pytest
import torch

from sciml import Ball, Box, Dirichlet, Evolution, FiniteDifference, Neumann, Periodic, Robin, load

PI = math.pi


def cole_hopf(t, x, nu, nodes=4000):
    """Burgers' equation with u(0, x) = -sin(pi x): a quotient of integrals, by the trapezoidal rule on logarithms.

    u = -int sin(pi y) exp(-cos(pi y) / (2 pi nu) - (x - y)^2 / (4 nu t)) dy / int exp(same) dy
    """
    t, x = t[:, None], x[:, None]
    offset = np.minimum(12 * np.sqrt(2 * nu * t), 2.5) * np.linspace(-1, 1, nodes + 1)
    y = x - offset
    exponent = -np.cos(np.pi * y) / (2 * np.pi * nu) - offset**2 / (4 * nu * t)
    weight = np.exp(exponent - exponent.max(1, keepdims=True))
    return -(np.sin(np.pi * y) * weight).sum(1) / weight.sum(1)


def burgers(nu):
    return Evolution(
        Box([-1.0], [1.0]),
        rate=lambda x, u: -u * u.x + nu * u.xx,
        initial=lambda x: -torch.sin(PI * x[:, 0]),
        conditions=[Dirichlet(0.0)],
    )


def points(n=1000, low=-1.0, high=1.0):
    x = torch.rand(n, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    return torch.stack([x[:, 0].clamp_min(1e-6), low + (high - low) * x[:, 1]], 1)


def errors(problem, exact, n, at, **options):
    solution = FiniteDifference(n=n, **options).solve(problem)
    assert solution.status.startswith("integrated")
    difference = solution(at) - exact
    return float(difference.abs().max()), float(difference.square().mean().sqrt())


def orders(problem, exact, sizes, at):
    return -np.polyfit(np.log(sizes), np.log([errors(problem, exact, n, at, times=256) for n in sizes]), 1)[0]


def test_burgers_is_second_order():
    at = points()
    exact = torch.from_numpy(cole_hopf(*at.numpy().T, 0.1))
    assert min(orders(burgers(0.1), exact, (32, 64, 128), at)) > 1.9


def test_burgers_with_a_thin_shock():
    """A shock of width 0.006 at nu = 0.01 / pi, where the solution falls from 1 to -1."""
    at, nu = points(), 0.01 / PI
    exact = torch.from_numpy(cole_hopf(*at.numpy().T, nu))
    largest, mean = errors(burgers(nu), exact, 512, at, rtol=1e-6)
    assert largest < 0.1 and mean < 5e-3


def heat(ends, exact):
    source = lambda x, t: (PI**2 - 1) * torch.exp(-t) * torch.sin(PI * x + 1)  # noqa: E731
    return Evolution(
        Box([0.0], [1.0]),
        rate=lambda x, u: u.xx + source(x[:, 0], u.time),
        initial=lambda x: torch.sin(PI * x[:, 0] + 1),
        conditions=ends,
        exact=exact,
    )


def decay(x):
    return torch.exp(-x[:, 0]) * torch.sin(PI * x[:, 1] + 1)


def slope(x):
    return PI * torch.exp(-x[:, 0]) * torch.cos(PI * x[:, 1] + 1)


ENDS = {
    "Dirichlet": [Dirichlet(decay)],
    "Neumann and Dirichlet": [Neumann(lambda x: -slope(x), on="x-"), Dirichlet(decay, on="x+")],
    "Robin and Neumann": [Robin(2.0, lambda x: slope(x) + 2 * decay(x), on="x+"), Neumann(lambda x: -slope(x))],
}


@pytest.mark.parametrize("name", ENDS)
def test_conditions_at_the_ends_are_second_order(name):
    at = points(low=0.0)
    assert min(orders(heat(ENDS[name], decay), decay(at), (16, 32, 64), at)) > 1.9


def test_periodic_dispersion_uses_third_and_fourth_derivatives():
    """u_t = -u_xxx - u_xxxx of a single wave: exp(-k^4 t) sin(k x + k^3 t)."""
    k = 2 * PI
    exact = lambda x: torch.exp(-(k**4) * x[:, 0]) * torch.sin(k * x[:, 1] + k**3 * x[:, 0])  # noqa: E731
    problem = Evolution(
        Box([0.0], [1.0]),
        rate=lambda x, u: -u.xxx - u.xxxx,
        initial=lambda x: torch.sin(k * x[:, 0]),
        conditions=[Periodic("x")],
        time=(0.0, 1e-3),
    )
    at = points(low=0.0) * torch.tensor([1e-3, 1.0])
    assert min(orders(problem, exact(at), (32, 64, 128), at)) > 1.9


def test_initial_and_boundary_values_are_those_of_the_problem():
    solution = FiniteDifference(n=64).solve(burgers(0.1))
    x = torch.linspace(-1, 1, 65, dtype=torch.float64)
    start = torch.stack([torch.zeros_like(x), x], 1)
    torch.testing.assert_close(solution(start), -torch.sin(PI * x), rtol=0, atol=1e-12)
    sides = torch.tensor([[0.3, -1.0], [0.7, 1.0]], dtype=torch.float64)
    assert float(solution(sides).abs().max()) < 1e-12


def test_saved_evolution_gives_the_same_numbers(tmp_path):
    solution = FiniteDifference(n=32).solve(heat(ENDS["Dirichlet"], decay))
    solution.save(tmp_path / "lines.h5")
    at = points(low=0.0)
    assert torch.equal(load(tmp_path / "lines.h5")(at), solution(at))


def test_a_failed_integration_is_a_sentence():
    """u_t = u^2 from 1 blows up at t = 1."""
    problem = Evolution(Box([0.0], [1.0]), lambda x, u: u * u, 1.0, [Neumann(0.0)], time=(0.0, 2.0))
    solution = FiniteDifference(n=8, times=20).solve(problem)
    assert solution.status.startswith("diverged") and "after t = " in solution.status
    before = torch.tensor([[0.4, 0.5]], dtype=torch.float64)
    assert float(solution(before)) == pytest.approx(1 / 0.6, rel=1e-3)


def test_refusals_are_one_sentence():
    plane = Evolution(Box([0, 0], [1, 1]), lambda x, u: u.xx + u.yy, 0.0, [Dirichlet(0.0)])
    ball = Evolution(Ball([0.0], 1.0), lambda x, u: u.xx, 0.0, [Dirichlet(0.0)])
    high = Evolution(Box([0.0], [1.0]), lambda x, u: u.xxx, 0.0, [Dirichlet(0.0)])
    for problem, sentence in ((plane, "interval"), (ball, "interval"), (high, "order 3")):
        with pytest.raises(ValueError, match=sentence):
            FiniteDifference(n=16).solve(problem)
    with pytest.raises(ValueError, match=r"no condition holds on the boundary piece 'x\+'"):
        FiniteDifference(n=16).solve(Evolution(Box([0.0], [1.0]), lambda x, u: u.xx, 0.0, [Dirichlet(0.0, on="x-")]))


def test_a_rate_of_wrong_shape_is_a_sentence():
    sizes = {"n": 0}

    def rate(x, u):
        sizes["n"] += 1
        return u.xx if sizes["n"] < 2 else torch.ones(3, dtype=torch.float64)

    problem = Evolution(Box([0.0], [1.0]), rate, 0.0, [Dirichlet(0.0)])
    with pytest.raises(ValueError, match="rate gave shape"):
        FiniteDifference(n=16).solve(problem)
