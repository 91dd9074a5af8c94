"""The experiments of parameter space run end to end, small, with the numbers that survive being small."""

from dataclasses import replace

import pytest

from sciml.problems import regimes
from sciml.results import begin


def result(path, config):
    with begin(path / "run", {"seed": 0}, "test", lambda *a, **k: None) as run:
        return regimes.run(config, run)


def test_smoke(tmp_path):
    found = result(tmp_path, regimes.VARIANTS["smoke"])
    slopes = list(found["S_w"].values())
    assert slopes[0] < slopes[1] < slopes[2]
    assert (tmp_path / "run" / "sweep.png").exists()


def test_the_error_jumps_when_the_loss_becomes_a_residual(tmp_path):
    found = result(tmp_path, replace(regimes.VARIANTS["jump"], steps=1500, width=20, lr=3e-3))
    assert found["residual"]["J_mse"] >= 10 and found["control"]["J_mse"] <= 2
    assert found["residual"]["low_share"][1] > 0.5


def test_half_of_the_neurons_are_enough_for_burgers(tmp_path):
    found = result(tmp_path, replace(regimes.VARIANTS["reduction"], steps=60, width=16))
    assert found["share of the neurons"] <= 0.5 and found["growth of the error"] <= 0.1


def test_unknown_choices_are_refused(tmp_path):
    with pytest.raises(ValueError, match="case is 'x'"):
        result(tmp_path, regimes.Config(case="x"))
    with pytest.raises(ValueError, match="equation is 'x'"):
        result(tmp_path, regimes.Config(case="jump", equation="x"))
