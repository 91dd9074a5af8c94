"""The study of scales and optimisers: scales from the spectrum, equal time, and its contrast."""

import pytest

from sciml.activations import s2relu, sine
from sciml.problems import study
from sciml.solution import compare


@pytest.mark.parametrize("mu", [5.0, 40.0])
def test_scales_fill_the_bandwidth(mu):
    problem = study.Elliptic.manufactured(study.poisson.Box([0], [2]), study.poisson.product_of_sines(mu))
    scales = study.scales_of("spectrum", sine, problem)
    assert study.reach(problem) == pytest.approx(mu, rel=0.3)
    assert len(scales) == 20 and scales[0] == pytest.approx(scales[-1] / 20)
    assert study.scales_of("one", s2relu, problem) == (1.0,)


def test_frozen_sines_need_the_spectrum():
    problem = study.PROBLEMS["line"]()
    errors = {}
    for kind in ("one", "spectrum"):
        scales = study.scales_of(kind, sine, problem)
        found = study.solve(problem, sine, scales, "frozen", study.Config(frozen=300), 0)
        errors[kind] = compare(found, problem.exact, problem.domain, 2000)["rel_l2"]
    assert errors["spectrum"] < 1e-8 and errors["one"] > 100 * errors["spectrum"]


def test_training_ends_in_time():
    found = study.solve(study.PROBLEMS["line"](), sine, (1.0,), "Adam", study.Config(seconds=0.3, neurons=10), 0)
    assert 0.3 <= found.seconds < 5 and "time is over" in found.status


def test_names_are_checked():
    with pytest.raises(ValueError, match="optimisers holds 'SGD', but must be of Adam"):
        study.run(study.Config(optimisers=("SGD",)), None)
