"""The peers' table: the same problems for all, honest summaries, and failures that stay in the table."""

import json
import sys
from dataclasses import replace

import pytest
import torch

from sciml.calculus import jet
from sciml.problems import peers
from sciml.results import begin

sys.path.insert(0, str(peers.HERE))  # the peers' scripts are no modules of the package
import _peers_equations as equations  # noqa: E402
import _peers_sciml as ours  # noqa: E402


@pytest.mark.parametrize("name", peers.PROBLEMS)
def test_peers_and_sciml_solve_the_same_problem(name):
    theirs, mine = equations.Problem(name), ours.stated(name)
    generator = torch.Generator().manual_seed(0)
    x, edge = theirs.interior(300, generator), theirs.boundary(300, generator)
    torch.testing.assert_close(theirs.exact(x), mine.exact(x))
    torch.testing.assert_close(theirs.given(edge), mine.exact(edge), rtol=1e-9, atol=1e-9)
    assert bool(mine.domain.contains(x).all())
    assert float(mine.domain.level(edge).abs().max()) < 1e-12
    if name == "burgers":
        j = jet(mine.exact, x, 2, [(1, 1)])
        rate = -j.value * j.gradient[:, 1] + equations.NU * j.second[1, 1]
        assert float((j.gradient[:, 0] - rate).abs().median()) < 1e-6
        return
    torch.testing.assert_close(theirs.source(x), mine.source(x), rtol=1e-9, atol=1e-9)
    a, slope = theirs.diffusion(x)
    torch.testing.assert_close(a, mine.diffusion(x))
    there = mine.coefficients(x).diffusion_gradient
    torch.testing.assert_close(slope, torch.zeros_like(slope) if there is None else there, rtol=1e-9, atol=1e-9)


def test_holes_are_left_out_in_proportion():
    theirs = equations.Problem("holes")
    x = 2 * torch.rand(40000, 2, generator=torch.Generator().manual_seed(1), dtype=torch.float64) - 1
    assert 4 * float(theirs.inside(x).double().mean()) == pytest.approx(float(ours.stated("holes").domain.volume), 0.01)


def test_every_peer_is_pinned_and_has_a_script():
    for peer, pins in peers.PINS.items():
        assert all("==" in pin for pin in pins) and pins[0].startswith("torch==")
        operators = peer == "neuraloperator"  # of Green's operators: _greens_peers
        assert (peers.HERE / f"_peers_{'operators' if operators else peer}.py").is_file()
    assert set(peers.Config().peers) == {*peers.OURS, *peers.PINS} - {"neuraloperator"}


def point(seconds, error):
    return {"seconds": seconds, "error": error, "setting": ""}


def test_the_summary_counts_only_what_the_budget_allows():
    curve = [point(3.0, 1e-5), point(1.0, 0.5), point(70.0, 1e-9), point(2.0, 1e-3)]
    row = peers.summary({"curve": curve, "peak_mebibytes": 99.6, "note": ""}, 60.0)
    assert row["s to 1e-02"] == 2.0 and row["s to 1e-04"] == 3.0 and row["s to 1e-06"] == 70.0
    assert row["best error"] == 1e-5 and row["MiB"] == 100
    assert peers.frontier(curve) == ([1.0, 2.0, 3.0, 70.0], [0.5, 1e-3, 1e-5, 1e-9])


def test_a_peer_that_reaches_nothing_has_an_empty_row():
    row = peers.summary({"curve": [], "note": "failed: no"}, 60.0)
    assert row == {"s to 1e-02": None, "s to 1e-04": None, "s to 1e-06": None, "best error": None, "MiB": None} | {
        "note": "failed: no"
    }


class FakeProcess:
    def __init__(self, returncode, stderr):
        self.returncode, self.stderr = returncode, stderr


def test_a_failure_keeps_what_was_measured_before_it(monkeypatch, tmp_path):
    def crash(words, **options):
        (tmp_path / "f.json").write_text(json.dumps({"curve": [point(1.0, 0.1)], "note": ""}))
        return FakeProcess(1, "Traceback\nMemoryError: too much")

    monkeypatch.setattr(peers.subprocess, "run", crash)
    peers.measure("fastlsq", "line", peers.Config(), "python", tmp_path / "f.json", 0)
    found = json.loads((tmp_path / "f.json").read_text())
    assert found["note"] == "failed: MemoryError: too much" and found["curve"] == [point(1.0, 0.1)]


def test_a_peer_is_compared_at_equal_error_and_at_equal_time():
    ours = {"curve": [point(1.0, 1e-3), point(2.0, 1e-6), point(70.0, 1e-12)]}
    theirs = {"curve": [point(1.5, 0.5), point(4.0, 1e-3), point(50.0, 1e-4)]}
    found = peers.beside_peer(ours, theirs, 60.0)
    assert found["time ratio to"] == {"1e-2": 4.0, "1e-3": 4.0, "1e-4": 25.0} | dict.fromkeys(
        [f"1e-{k}" for k in range(5, 11)]
    )
    assert found["error ratio at equal time"] == pytest.approx(0.5 / 1e-6)
    assert peers.beside_peer(ours, {"curve": []}, 60.0)["error ratio at equal time"] == pytest.approx(1e6)


def test_smoke_installs_nothing_and_reaches_its_targets(monkeypatch, tmp_path):
    monkeypatch.setattr(peers.venv, "create", lambda *a, **k: pytest.fail("smoke must not install"))
    with begin(tmp_path / "run", {"seed": 0}, "", None) as run:  # one process only: each imports torch anew
        metrics = peers.run(replace(peers.VARIANTS["smoke"], peers=("sciml",), budget=30.0), run)
    row = metrics["rows"]["line"]["sciml"]
    assert row["best error"] < 1e-9 and row["s to 1e-06"] > 0
    assert metrics["beside sciml"]["line"]["sciml"]["error ratio at equal time"] == 1.0
    assert (tmp_path / "run" / "work-precision.png").stat().st_size > 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"peers": ("fastqls",)}, "peers holds 'fastqls', but must be of sciml"),
        ({"problems": ("hole",)}, "problems holds 'hole', but must be of holes"),
        ({"budget": 0.0}, "budget is 0.0"),
        ({"threads": -1}, "threads is -1"),
    ],
)
def test_bad_options_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        peers.check(peers.Config(**options))


def test_a_failed_installation_is_a_sentence(monkeypatch, tmp_path):
    monkeypatch.setattr(peers.venv, "create", lambda *a, **k: None)
    monkeypatch.setattr(peers.subprocess, "run", lambda *a, **k: FakeProcess(1, "ERROR: no such version"))
    with pytest.raises(OSError, match="fastlsq could not be installed .*: ERROR: no such version"):
        peers.interpreter("fastlsq", peers.Config(environments=str(tmp_path)))
