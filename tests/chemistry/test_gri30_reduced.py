"""The reduced GRI-3.0 that ships: what its error table says is measured again."""

import json
from pathlib import Path

import numpy as np
import pytest

from sciml.chemistry.conditions import Conditions
from sciml.chemistry.evaluation import error_table
from sciml.chemistry.mechanism import Mechanism
from sciml.chemistry.metrics import Burnt, IgnitionDelay

DATA = Path(__file__).parents[2] / "data"


@pytest.fixture(scope="module")
def pair():
    return Mechanism("gri30.yaml"), Mechanism(DATA / "gri30_reduced.yaml")


@pytest.fixture(scope="module")
def record():
    return json.loads((DATA / "gri30_reduced.json").read_text())


def test_it_is_as_small_as_its_record_says(pair, record):
    assert pair[1].n_species == record["species"] == 19
    assert pair[1].n_reactions == record["reactions"] <= 60
    assert list(pair[1].species) == record["names"]
    assert [p.name for p in DATA.rglob("*gri*.yaml")] == ["gri30_reduced.yaml"]


def test_its_reactions_run_as_in_the_parent(pair):
    parent, reduced = pair
    generator = np.random.default_rng(0)
    for _ in range(5):
        X = 10 ** generator.uniform(-6, 0, reduced.n_species)
        T, p = generator.uniform(900, 2500), 10 ** generator.uniform(4, 7)
        reduced.gas.TPX = T, p, X
        parent.gas.TPX = T, p, dict(zip(reduced.species, X, strict=True))
        equations = np.array([r.equation for r in parent.gas.reactions()])
        for kind in ("forward_rates_of_progress", "reverse_rates_of_progress"):
            for reaction, rate in zip(reduced.gas.reactions(), getattr(reduced.gas, kind), strict=True):
                candidates = getattr(parent.gas, kind)[equations == reaction.equation]
                assert np.abs(candidates - rate).min() <= 1e-12 * abs(rate)


@pytest.mark.parametrize("where", ["design", "held out"])
def test_its_errors_are_those_of_its_record(pair, record, where):
    table = Conditions.grid("CH4", [1200.0, 1400.0, 1600.0], [1.0], [0.5, 1.0, 2.0])
    if where == "held out":
        points = table.between().points
        table = Conditions("CH4", (points[0], points[5], points[-1]))
    rows = {row["metric"]: row for row in error_table(*pair, table, [Burnt(hot=False), IgnitionDelay(0.1)])}
    for metric, row in rows.items():
        known = record["errors"][where][metric]
        assert row["max"] <= known["max"] * 1.01 + 1e-6
        assert known["max"] <= (1.0 if where == "design" else 2.0) * known["tolerance"]
    if where == "design":
        assert rows["ignition delay"]["max"] == pytest.approx(
            record["errors"][where]["ignition delay"]["max"], rel=1e-2
        )


def test_its_header_says_where_it_comes_from():
    text = (DATA / "gri30_reduced.yaml").read_text()
    for word in ("provenance", "parent: gri30.yaml", "CH4", "simulated masks of species", "seed"):
        assert word in text
