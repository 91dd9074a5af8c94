"""Problems with known answers, shared by the tests of every solver. Each entry is lazy: ``CASES[name]()``."""

import math

import torch

from sciml import Ball, Box, Dirichlet, Elliptic, Neumann, Robin

PI = math.pi


def sines(mu):
    return lambda x: torch.sin(mu * x).prod(1)


def perforated_square():
    return Box([-1, -1], [1, 1]) - Ball([-0.5, -0.5], 0.1) - Ball([0.5, 0.5], 0.2) - Ball([0.5, -0.5], 0.2)


def poisson_1d():
    return Elliptic.manufactured(Box([0], [1]), sines(PI))


def poisson_2d():
    return Elliptic.manufactured(Box([0, 0], [1, 1]), sines(PI))


def poisson_holes():
    return Elliptic.manufactured(perforated_square(), sines(PI))


def variable_2d():
    return Elliptic.manufactured(
        Box([0, 0], [1, 1]),
        lambda x: torch.exp(x[:, 0]) * torch.cos(2 * x[:, 1]),
        diffusion=lambda x: 1.5 + torch.sin(3 * x[:, 0]) * x[:, 1],
        reaction=lambda x: 1 + x[:, 0],
    )


def mixed_2d():
    """u = exp(x) y^2 on the unit square: Neumann on the right, Robin on the top, Dirichlet elsewhere."""
    exact = lambda x: torch.exp(x[:, 0]) * x[:, 1] ** 2  # noqa: E731
    conditions = (Neumann(exact, on="x+"), Robin(2.0, lambda x: 4 * torch.exp(x[:, 0]), on="y+"))
    return Elliptic.manufactured(Box([0, 0], [1, 1]), exact, conditions=conditions)


def p_laplacian_1d(p=3.0, eps=0.1):
    """The family of arXiv:2009.14597, section 4.1: one solution for every p (1/eps an integer)."""

    def exact(x):
        x = x[:, 0]
        s, c = torch.sin(2 * PI * x / eps), torch.cos(2 * PI * x / eps)
        return x - x**2 + eps * (s / PI * (0.25 - 0.5 * x) + eps / (4 * PI**2) * (1 - c))

    def diffusion(x):
        return 1 / (2 + torch.cos(2 * PI * x[:, 0] / eps))

    made = Elliptic.manufactured(Box([0], [1]), exact, diffusion=diffusion, p=p)
    return Elliptic(Box([0], [1]), made.source, 0.0, diffusion=diffusion, p=p, exact=exact)


def p_laplacian_source(p, eps):
    """The closed form of that family's source, derived by hand: an oracle for the automatic one."""

    def source(x):
        x = x[:, 0]
        c, s, w = torch.cos(2 * PI * x / eps), torch.sin(2 * PI * x / eps), 1 - 2 * x
        first = (p - 1) * w.abs() ** (p - 2) * (2 + c) ** (p - 2) / 2 ** (p - 2)
        second = (p - 2) * (2 * PI / eps) * s * w.abs() ** (p - 2) * w * (2 + c) ** (p - 3) / 2 ** (p - 1)
        return first + second

    return source


def reaction_1d():
    """-u'' + lambda^2 u = (lambda^2 + mu^2) sin mu x on (0, 1), u = 0: linearised Poisson-Boltzmann."""
    lam, mu = 4.0, 9.0

    def exact(x):
        x = x[:, 0]
        return torch.sin(mu * x) - math.sin(mu) / math.sinh(lam) * torch.sinh(lam * x)

    source = lambda x: (lam**2 + mu**2) * torch.sin(mu * x[:, 0])  # noqa: E731
    return Elliptic(Box([0], [1]), source, 0.0, reaction=lam**2, exact=exact)


CASES = {
    "poisson_1d": poisson_1d,
    "poisson_2d": poisson_2d,
    "poisson_holes": poisson_holes,
    "variable_2d": variable_2d,
    "mixed_2d": mixed_2d,
    "reaction_1d": reaction_1d,
}


def only_on_boundary(domain, value):
    """Boundary data that exist on the boundary and nowhere else."""

    def g(x):
        assert float(domain.level(x).abs().max()) < 1e-9, "boundary data asked for away from the boundary"
        return value(x)

    return Dirichlet(g)
