"""The families and classical schemes of problems/modnet.py."""

import math
from dataclasses import replace

import pytest
import torch

from sciml.problems import modnet


def test_newton_differences_are_of_second_order():
    def exact(x):
        return 9 * torch.sin(math.pi * x[:, 0])

    def source(x):
        return math.pi**2 * exact(x) + exact(x) ** 3

    x = torch.linspace(0, 1, 65, dtype=torch.float64)[:, None]
    gaps = [float((modnet.cubic(n, source)(x) - exact(x)).abs().max()) for n in (64, 128, 256)]
    # linear between the nodes costs nothing here: the points are nodes
    assert gaps[0] / gaps[1] == pytest.approx(4, rel=0.1) and gaps[1] / gaps[2] == pytest.approx(4, rel=0.1)


def test_members_solve_their_problem():
    """The coarse and the fine scheme are of the same member, and far from another one."""
    for case in modnet.COARSE:
        config = modnet.Config(case=case, nu=0.1)
        made = modnet.family(case, config.nu)
        drawn = made.draw(2, torch.Generator().manual_seed(0))
        x = made.problem.domain.interior(500)
        coarse, fine, other = (modnet.solve(config, made, drawn, k, n)(x) for k, n in ((0, 32), (0, 128), (1, 128)))
        assert modnet.errors(coarse[:, None], fine[:, None])["rel_l2"] < 0.05
        assert modnet.errors(other[:, None], fine[:, None])["rel_l2"] > 0.3


def test_bad_names():
    with pytest.raises(ValueError, match="case is 'heat'"):
        modnet.check(replace(modnet.Config(), case="heat"))
    with pytest.raises(ValueError, match="kernel is 'newton', but must be one of plain, semigroup"):
        modnet.check(replace(modnet.Config(), kernel="newton"))
    with pytest.raises(ValueError, match="modes holds 'none'"):
        modnet.check(replace(modnet.Config(), modes=("none",)))
