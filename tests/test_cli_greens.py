"""Families and Green's operators in a user's own file."""

import numpy as np
import pytest

import sciml as package
from tests.test_cli import folder, refused, sciml

HEAD = "from sciml import PDE, Box, Dirichlet, Elliptic, Evolution, Family, FiniteDifference, GreensSolver\n"
LINE = "Elliptic(Box([0], [1]), 2.0, 0.0, exact=lambda x: x[:, 0] * (1 - x[:, 0]))"
EVOLUTION = "Evolution(Box([-1], [1]), lambda x, u: u.xx, 0.0, [Dirichlet(0.0)])"


@pytest.mark.parametrize(
    "problem", [LINE, f"Family({LINE}, sources=lambda k, g: lambda x: x + k * x[:, :1].new_ones(k))"]
)
def test_an_operator_solves_what_the_file_states_and_is_kept(tmp_path, problem):
    (tmp_path / "mine.py").write_text(f"{HEAD}problem = {problem}\nsolver = GreensSolver()\n")
    sciml("run", "mine.py", cwd=tmp_path)
    run = folder(tmp_path, "mine-*")
    x = np.array([[0.25]])
    assert package.load(run / "operator.h5")(2.0)(x) == pytest.approx(0.1875)
    assert package.load(run / "GreensSolver.h5")(x) == pytest.approx(0.1875)


@pytest.mark.parametrize(
    ("problem", "solver", "sentence"),
    [
        ("Elliptic(Box([0], [1]), 1.0, 0.0, p=3)", "GreensSolver()", "nonlinear"),
        (f"Family({EVOLUTION}, initials=lambda k, g: lambda x: x.expand(-1, k))", "GreensSolver()", "linear Elliptic"),
        (f"Family({LINE}, sources=lambda k, g: lambda x: x[:, 0])", "GreensSolver()", "sources drew 3 functions"),
        (f"Family({LINE})", "FiniteDifference()", "a Family needs a GreensSolver"),
        ("Elliptic(Box([0], [1]), lambda x: x[:, 0] / 0, 0.0)", "GreensSolver()", "source is not finite"),
    ],
)
def test_mistakes_get_a_sentence_and_leave_nothing(tmp_path, problem, solver, sentence):
    (tmp_path / "mine.py").write_text(f"{HEAD}problem = {problem}\nsolver = {solver}\n")
    assert sentence in refused("run", "mine.py", cwd=tmp_path)
