"""The frequency experiments run, and their numbers are those of the diagnostics."""

from dataclasses import replace

import numpy as np
import pytest

from sciml.problems.frequency import VARIANTS, cycle, relax, run
from sciml.results import begin
from sciml.theory import jacobi_damping


def execute(config, folder, seed=0):
    with begin(folder / "run", {"seed": seed}, "test", None) as record:
        metrics = run(config, record)
    return metrics, folder / "run"


def test_smoke_regression(tmp_path):
    metrics, folder = execute(VARIANTS["smoke"], tmp_path)
    assert {"T_1", "T_3", "T_5", "ordered", "score"} <= set(metrics)
    assert (folder / "network.frequency.png").exists()


def test_smoke_handover(tmp_path):
    config = replace(VARIANTS["handover"], width=10, steps=100, cells=64, points=64)
    metrics, folder = execute(config, tmp_path)
    assert (folder / "handover.png").exists()
    # 64 cells are few: Jacobi repairs what a network of a hundred steps leaves
    for smoother in ("Jacobi", "3-grid smoothing"):
        assert metrics["rel_l2"][f"network, then {smoother}"] < metrics["rel_l2"]["network"]
    assert metrics["full multigrid"]["rel_l2"] < 0.1  # second order: (24 h)^2 / 12 of the highest wave


def test_the_cost_of_the_default_diagnostics_is_measured(tmp_path):
    metrics, folder = execute(replace(VARIANTS["overhead"], steps=10), tmp_path)
    assert 0 < metrics["share"] < 2 and sum(metrics["seconds by diagnostic"].values()) < metrics["seconds"]
    assert (folder / "network.frequency.png").exists() and len(list(folder.rglob("*.snapshot.h5"))) == 8


def test_jacobi_damps_modes_by_their_cosines():
    n, sweeps = 64, 50
    nodes = np.linspace(0, 1, n + 1)
    for k in (1, 5, 20):
        u = np.sin(k * np.pi * nodes)
        relax(u, 0 * nodes, 1 / n, sweeps=sweeps)
        assert np.abs(u - jacobi_damping(k, n, sweeps) * np.sin(k * np.pi * nodes)).max() < 1e-12


@pytest.mark.parametrize("cells", [64, 1024])
def test_a_cycle_on_all_grids_converges_at_a_rate_free_of_the_mesh(cells):
    nodes = np.linspace(0, 1, cells + 1)
    f, h = np.random.default_rng(0).normal(size=cells + 1), 1 / cells
    u = np.random.default_rng(1).normal(size=cells + 1)
    u[[0, -1]] = 0.3, -0.2
    matrix = (2 * np.eye(cells - 1) - np.eye(cells - 1, k=1) - np.eye(cells - 1, k=-1)) / h**2
    right = f[1:-1].copy()
    right[[0, -1]] += u[[0, -1]] / h**2
    exact = np.linalg.solve(matrix, right)
    errors = []
    for _ in range(6):
        errors.append(np.abs(u[1:-1] - exact).max())
        cycle(u, f, h, int(np.log2(cells)))
    assert errors[-1] < 0.15**5 * errors[0] and u[0] == 0.3 and u[-1] == -0.2 and nodes[0] == 0
    few = np.sin(np.pi * nodes)  # but without the coarse grids the slowest mode stays
    cycle(few, 0 * f, h, 2)
    assert np.abs(few).max() > 0.95


def test_an_unknown_case_is_named(tmp_path):
    with pytest.raises(ValueError, match="case is 'x', but must be one of regression, handover, overhead"):
        execute(replace(VARIANTS["smoke"], case="x"), tmp_path)
