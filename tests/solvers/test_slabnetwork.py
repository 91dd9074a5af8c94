"""The trained kernel of a slab against the factorised one and closed forms."""

import math

import numpy as np
import pytest
import torch

from sciml import Box, compare
from sciml.objective import Batch
from sciml.problems.radiative_transfer import inflow, slab
from sciml.solvers.ordinates import DiscreteOrdinates, Slab
from sciml.solvers.slabnetwork import SlabNetwork, _Training, collided_share, source, uncollided
from sciml.solvers.transport import SlabSolver
from sciml.training import Adam

SPACE = Box([0, -1], [1, 1])


def pairs(count, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return [(inflow("polynomial", generator), inflow("polynomial", generator)) for _ in range(count)]


def test_the_equation_holds_for_the_factorised_solution():
    """The residual of the collided part that another solver made is the error of the quadrature in v."""
    equation, members = slab(1.0), pairs(2)
    training = _Training(SlabNetwork(directions=24, points=30), equation, members)
    solutions = [SlabSolver().solve(equation)(*pair) for pair in members]

    class Field:
        def __call__(self, x):
            # some places lie on the walls, where what collided is 0 / 0
            x = torch.cat([x[:, :1].clamp(1e-4, 1 - 1e-4), x[:, 1:]], 1)
            collided = torch.stack([s(x) for s in solutions], 1) - uncollided(equation, members, x)
            return collided / collided_share(equation, x)

        def taylor(self, t):
            low = torch.cat([t.value[:, :1].clamp(1e-4, 1 - 2e-4), t.value[:, 1:]], 1)
            slope = (self(low + torch.tensor([1e-4, 0.0], dtype=torch.float64)) - self(low)) / 1e-4
            return type(t)(self(t.value), slope[None])

    blocks = training(torch.Generator().manual_seed(0)).blocks
    assert float(training.risk.terms(Field(), Batch({"interior": blocks["interior"]}))["interior"].sqrt()) < 1e-2

    class Zero(Field):
        def __call__(self, x):
            return torch.zeros(len(x), 2, dtype=torch.float64)

    assert float(training.risk.terms(Zero(), Batch({"interior": blocks["interior"]}))["interior"].sqrt()) > 0.1


def test_training_improves_on_what_never_collided():
    equation, unseen = slab(1.0), pairs(1, seed=9)[0]
    reference = SlabSolver().solve(equation)(*unseen)
    options = SlabNetwork(widths=(12, 12), labels=4, points=4, directions=4, stages=(Adam(60, lr=2e-2),))
    operator = options.solve(equation, pairs(4))
    error = compare(operator(*unseen), reference, SPACE, n=1000)["rel_l2"]
    bare = compare(lambda x: uncollided(equation, [unseen], x)[:, 0], reference, SPACE, n=1000)["rel_l2"]
    assert error < bare / 2


def test_rays_enter_with_nothing_collided():
    """And far from their wall all is collided: the share is 1 - exp(-sigma d / |v|)."""
    x = torch.tensor([[0.0, 0.3], [1.0, -0.3], [0.25, 0.5], [0.25, -0.5], [0.5, 0.0]], dtype=torch.float64)
    expected = 1 - torch.tensor([1.0, 1.0, math.exp(-1), math.exp(-3), 0.0], dtype=torch.float64)
    torch.testing.assert_close(collided_share(Slab(2.0, 1.0), x)[:, 0], expected)


def test_the_density_of_the_exact_part():
    """Isotropic inflow from the left: rho_0 = E_2(sigma x) / 2."""
    from scipy.special import expn

    x = torch.linspace(0, 1, 7, dtype=torch.float64)
    found = source(Slab(3.0, 1.0), [(np.ones_like, np.zeros_like)], x)[:, 0]
    np.testing.assert_allclose(found, 0.5 * expn(2, 3 * x.numpy()), rtol=1e-6)


def test_bad_input():
    with pytest.raises(ValueError, match="labels is 3"):
        SlabNetwork(labels=3).solve(slab(1.0), pairs(2))
    with pytest.raises(ValueError, match="labels is 0 with model = 0"):
        SlabNetwork(model=0.0).solve(slab(1.0), pairs(2))
    with pytest.raises(ArithmeticError, match="cells of"):
        DiscreteOrdinates(16, 4).solve(slab(0.01), np.ones_like, np.zeros_like)
