"""Green's operators beside trained peers: the truth, the clock, and failures as sentences; nothing is installed."""

import sys
import time
from dataclasses import replace

import numpy as np
import pytest
import torch

from sciml.problems import _greens_peers as beside
from sciml.problems import greens
from sciml.problems._compact import compact, distances
from sciml.results import begin

sys.path.insert(0, str(beside.SCRIPT.parent))  # the peers' scripts are no modules of the package
import _peers_operators as script  # noqa: E402


@pytest.mark.parametrize("dim", [1, 2, 3])
def test_the_truth_is_of_fourth_order_also_where_the_source_does_not_vanish_at_the_sides(dim):
    def gap(n):
        x = np.linspace(0, 1, n + 1)
        g, bend = (x - x**2) * np.exp(x), -(3 * x + x**2) * np.exp(x)
        grids = np.meshgrid(*[np.arange(n + 1)] * dim, indexing="ij")
        u = np.prod([g[i] for i in grids], axis=0)
        f = -sum(np.prod([(bend if j == k else g)[i] for k, i in enumerate(grids)], axis=0) for j in range(dim))
        return np.abs(compact(f[None])[0] - u).max()

    assert gap(8) / gap(16) == pytest.approx(16, rel=0.1) and gap(16) < 1e-4


def test_our_operator_needs_no_peer_and_meets_the_truth(tmp_path, monkeypatch):
    monkeypatch.setattr(beside.peers.venv, "create", lambda *a, **k: pytest.fail("nothing may be installed"))
    kernels = {"sciml": greens.kernel_options(greens.Config())}
    with begin(tmp_path / "run", {"seed": 0}, "", None) as run:
        found = beside.beside(
            (), greens.SOURCES, greens.CASES["square"](), kernels, run, labels=2, members=3, budget=1.0
        )
    (row,) = found["table"]
    assert max(row[name] for name in greens.SOURCES) < 1e-5
    truth = beside.pairs(greens.fields(3, torch.Generator().manual_seed(0)))[1]
    assert distances(truth, truth).max() == 0 and distances(truth[::-1], truth).max() > 0.3


def trial(folder):
    f, u = beside.pairs(greens.fields(4, torch.Generator().manual_seed(0)))
    np.savez(folder / "pairs.npz", f=f, u=u, f_fields=2 * f, u_fields=2 * u)
    return script.Trial(str(folder / "pairs.npz"), "10", "0", str(folder / "curve.json"))


def test_a_peer_is_measured_on_its_own_scale_with_the_clock_at_rest(tmp_path):
    ours = trial(tmp_path)
    assert float(ours.f.square().mean()) == pytest.approx(1, rel=1e-4)
    assert float(ours.factor.max()) == pytest.approx(1) and float(ours.factor.reshape(33, 33)[0].max()) == 0
    ours.start()

    def slow(f):
        time.sleep(0.2)
        return ours.tests["fields"][1]

    ours.every(slow, 1)
    ours.every(lambda f: 0 * f, 2, last=True)
    assert [p["fields"] for p in ours.curve] == pytest.approx([0, 1], abs=1e-6)
    assert ours.curve[1]["seconds"] < 0.2 and ours.rate == pytest.approx(1, abs=0.01)


def test_a_peer_that_fails_is_a_sentence(tmp_path, monkeypatch):
    monkeypatch.setattr(beside.peers, "interpreter", lambda peer, config: sys.executable)
    trial(tmp_path)
    with pytest.raises(OSError, match=r"^deeponet failed: ModuleNotFoundError: No module named 'deepxde'$"):
        beside.trained("deeponet", tmp_path, 1.0, 0, 1)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"peers": ("gno",)}, "peers holds 'gno' for 'square', but must be of deeponet, fno"),
        ({"case": "line"}, "peers holds 'deeponet' for 'line'"),
        ({"budget": 0.0}, "budget is 0.0"),
    ],
)
def test_bad_options_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        greens.run(replace(greens.VARIANTS["peers"], **options), None)
