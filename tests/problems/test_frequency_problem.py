"""The frequency experiments run, and their numbers are those of the diagnostics."""

from dataclasses import replace

import pytest

from sciml.problems.frequency import VARIANTS, run
from sciml.results import begin


def execute(config, folder, seed=0):
    with begin(folder / "run", {"seed": seed}, "test", None) as record:
        metrics = run(config, record)
    return metrics, folder / "run"


def test_smoke_regression(tmp_path):
    metrics, folder = execute(VARIANTS["smoke"], tmp_path)
    assert {"T_1", "T_3", "T_5", "ordered", "score"} <= set(metrics)
    assert (folder / "frequencies.png").exists()


def test_smoke_handover(tmp_path):
    config = replace(VARIANTS["handover"], width=10, steps=100, cells=64, points=64)
    metrics, folder = execute(config, tmp_path)
    assert (folder / "handover.png").exists()
    # 64 cells are few: Jacobi repairs what a network of a hundred steps leaves
    assert metrics["rel_l2"]["network, then Jacobi"] < metrics["rel_l2"]["network"]


def test_an_unknown_case_is_named(tmp_path):
    with pytest.raises(ValueError, match="case is 'x', but must be one of regression, handover"):
        execute(replace(VARIANTS["smoke"], case="x"), tmp_path)
