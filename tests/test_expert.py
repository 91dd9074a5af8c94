"""The network of a surrogate: what its shortcut is for."""

import numpy as np
import torch

from sciml.expert import Expert
from sciml.flowmap import RelativeIncrement, Rows, draw_rows
from sciml.optimizers import SOAP
from sciml.training import fit


def drawn(seed=0):
    return Expert.drawn(7, (12, 12), 3, torch.Generator().manual_seed(seed))


def test_it_is_the_formula_in_both_precisions():
    expert = drawn()
    z = torch.randn(20, 7, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    with torch.no_grad():
        expert.shortcut.copy_(torch.randn(7, 3, generator=torch.Generator().manual_seed(2)))
        out, C = expert.network(z), expert.shortcut.double()
        wanted = (out[:, :3] + z @ C) * torch.exp(out[:, 3:])
        assert out[:, 3:].abs().max() < 3
        torch.testing.assert_close(expert(z), wanted, rtol=1e-13, atol=1e-13)
        assert expert(z.float()).dtype == torch.float32
        torch.testing.assert_close(expert(z.float()).double(), wanted, rtol=1e-4, atol=1e-4)
        assert not torch.allclose(wanted, out[:, :3] * torch.exp(out[:, 3:]))  # the shortcut does something


def test_what_it_describes_comes_back():
    expert = drawn()
    with torch.no_grad():
        expert.shortcut.add_(0.3)
    again = Expert.restore(expert.describe(), {k: v.numpy() for k, v in expert.state_dict().items()})
    z = torch.ones(2, 7)
    assert torch.equal(again(z), expert(z)) and torch.equal(again.shortcut, expert.shortcut)


def test_relaxation_from_anywhere_is_learnt_sooner_with_the_shortcut():
    """Species that end a step where the others say, wherever they began: increments are G(z) - z."""
    rng = torch.Generator().manual_seed(0)
    z = torch.randn(4000, 7, generator=rng)
    goal = 0.3 * torch.sin(z[:, 3:6]) * z[:, 6:]
    errors = {}
    for name in ("with", "without"):
        expert = drawn(3)
        expert.shortcut.requires_grad_(name == "with")
        rows = draw_rows((z, goal - z[:, :3]), 256)
        fit(expert, RelativeIncrement(expert), rows, [SOAP(300, lr=1e-2)], seed=0)
        with torch.no_grad():
            errors[name] = float((expert(z) - goal + z[:, :3]).abs().mean())
    assert errors["with"] < 0.7 * errors["without"]
    assert np.isfinite(errors["without"])


def test_increments_count_by_rows_or_each_by_itself():
    """An error of 0.01 beside a large increment hardly counts by the row, but as its share of its own."""
    found, true = torch.tensor([[1.0, 0.01]]), torch.tensor([[1.0, 0.02]])
    batch = Rows((found, true))

    def loss(**options):
        return float(RelativeIncrement(lambda z: z, floor=0.0, **options).terms(None, batch)["increment"])

    assert np.isclose(loss(), 0.01 / 2 / 0.51)
    assert np.isclose(loss(share=0.3), 0.01 / 2 / (0.02 + 0.3 * 0.51))
    assert np.isclose(loss(share=0.0), 0.01 / 2 / 0.02)
    assert np.isclose(loss(relative=False), 0.01 / 2)
