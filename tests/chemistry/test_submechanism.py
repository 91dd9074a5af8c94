"""Parts of a mechanism: what is kept reacts exactly as in the parent, and the files reload."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sciml.chemistry.mechanism import Mechanism
from sciml.chemistry.submechanism import Parts, rate_difference, submechanism, text, write

ARTIFICIAL = """
units: {length: cm, quantity: mol, activation-energy: cal/mol}
phases:
- {name: gas, thermo: ideal-gas, elements: [H, O, Ar, N], species: [H, O2, HO2, AR, N2, OH, O], kinetics: gas,
   explicit-third-body-duplicates: mark-duplicate}
species:
%s
reactions:
- {equation: H + O2 + M <=> HO2 + M, type: three-body, rate-constant: {A: 2.8e+18, b: -0.86, Ea: 0},
   efficiencies: {O2: 0.0, AR: 0.0, N2: 0.0, OH: 5.0}}
- {equation: H + O2 + AR <=> HO2 + AR, rate-constant: {A: 7.0e+17, b: -0.8, Ea: 0}}
- {equation: HO2 + H <=> 2 OH, rate-constant: {A: 1.0e+13, b: 0, Ea: 1000}, duplicate: true}
- {equation: HO2 + H <=> 2 OH, rate-constant: {A: 3.0e+13, b: 0, Ea: 2000}, duplicate: true}
- {equation: H + O2 <=> O + OH, rate-constant: {A: 2.6e+16, b: -0.67, Ea: 17041}}
"""


def artificial():
    """Five reactions whose fate under every deletion is plain to see."""
    atoms = {
        "H": "H: 1",
        "O2": "O: 2",
        "HO2": "H: 1, O: 2",
        "AR": "Ar: 1",
        "N2": "N: 2",
        "OH": "H: 1, O: 1",
        "O": "O: 1",
    }
    entry = "- {{name: {}, composition: {{{}}}, thermo: {{model: constant-cp, h0: 0, s0: 0, cp0: 30000}}}}"
    return Mechanism.from_yaml(ARTIFICIAL % "\n".join(entry.format(k, v) for k, v in atoms.items()))


def equations(mechanism):
    return [r.equation for r in mechanism.gas.reactions()]


def test_a_species_takes_its_reactions_and_its_colliders_along():
    parent = artificial()
    assert equations(submechanism(parent, ["H", "O2", "HO2", "OH", "O"])) == [
        e for e in equations(parent) if "AR" not in e
    ]
    assert equations(submechanism(parent, ["H", "O2", "OH", "O"])) == ["H + O2 <=> O + OH"]


def test_efficiencies_of_absent_species_go_and_others_stay():
    reduced = submechanism(artificial(), ["H", "O2", "HO2", "OH"])
    assert reduced.gas.reaction(0).third_body.efficiencies == {"O2": 0.0, "OH": 5.0}
    assert reduced.gas.reaction(0).third_body.default_efficiency == 1.0


def test_elements_that_nothing_contains_go():
    assert submechanism(artificial(), ["H", "O2", "HO2", "OH", "O"]).elements == ("H", "O")


def test_a_duplicate_whose_partner_is_eliminated_is_none():
    parent = artificial()
    wanted = np.array([True, True, True, False, True])
    reduced = submechanism(parent, parent.species, wanted)
    assert [r.duplicate for r in reduced.gas.reactions() if r.equation == "H + HO2 <=> 2 OH"] == [False]
    assert rate_difference(parent, reduced, wanted) == 0
    both = submechanism(parent, parent.species)
    assert [r.duplicate for r in both.gas.reactions() if r.equation == "H + HO2 <=> 2 OH"] == [True, True]


@settings(max_examples=4, deadline=None)
@given(st.sets(st.integers(0, 52), min_size=20), st.integers(0, 2**31))
def test_kept_reactions_of_gri_run_as_in_the_parent(gri, kept, seed):
    names = [n for k, n in enumerate(gri.species) if k in kept] + ["H", "O2", "OH", "O"]
    wanted = np.random.default_rng(seed).random(gri.n_reactions) < 0.7
    wanted[37] = True  # H + O2 <=> O + OH
    reduced = submechanism(gri, names, wanted)
    assert rate_difference(gri, reduced, wanted) <= 1e-12
    assert set(reduced.species) == set(names)


def test_the_comparison_sees_a_wrong_efficiency(gri):
    names = [n for n in gri.species if n != "AR"]
    content = text(gri, names)
    assert "H2O: 15.4" in content
    wrong = Mechanism.from_yaml(content.replace("H2O: 15.4", "H2O: 15.5"))
    assert rate_difference(gri, wrong) > 1e-4


def test_objects_and_text_agree(gri):
    parts = Parts(gri)
    mask = np.random.default_rng(3).random(gri.n_species) < 0.7
    mask[:6] = True
    gas = parts.assemble(mask)
    reduced = submechanism(gri, [n for n, k in zip(gri.species, mask, strict=True) if k])
    assert gas.species_names == list(reduced.species)
    assert [r.equation for r in gas.reactions()] == equations(reduced)
    X = np.random.default_rng(0).random(gas.n_species)
    gas.TPX = reduced.gas.TPX = 1500, 2e5, X
    np.testing.assert_allclose(gas.net_production_rates, reduced.gas.net_production_rates, rtol=1e-10, atol=1e-12)


def test_files_reload_with_transport_header_and_chemkin(tmp_path, gri):
    names = ["CH4", "O2", "N2", "H", "O", "OH", "H2O", "HO2", "CH3", "CO", "CO2", "HCO", "CH2O", "NO", "N"]
    path = write(tmp_path / "part.yaml", gri, names, header={"simulated masks": 12}, chemkin=True)
    again = Mechanism(path)
    assert again.gas.transport_model == gri.gas.transport_model
    again.gas.TPX = gri.gas.TPX = 1000, 1e5, "CH4:1, O2:2, NO:1"
    assert again.gas.viscosity == pytest.approx(gri.gas.viscosity, rel=1e-4)  # fits over the species there are
    assert "simulated masks: 12" in path.read_text()
    back = Mechanism.from_chemkin(*(tmp_path / f"part{end}" for end in (".inp", "_thermo.dat", "_transport.dat")))
    assert back.species == again.species and equations(back) == equations(again)
    back.gas.TPX = again.gas.TPX = 1500, 2e5, np.random.default_rng(0).random(15)
    np.testing.assert_allclose(
        back.gas.forward_rates_of_progress, again.gas.forward_rates_of_progress, rtol=1e-4, atol=1e-12
    )


def test_what_chemkin_cannot_say_is_refused_and_the_yaml_is_kept(tmp_path):
    parent = artificial()  # its heat capacities are constant, which CHEMKIN has no form for
    with pytest.raises(ValueError, match=r"CHEMKIN has no form for part\.yaml: .*constant-cp"):
        write(tmp_path / "part.yaml", parent, parent.species, chemkin=True)
    assert Mechanism(tmp_path / "part.yaml").species == parent.species
    assert [path.name for path in tmp_path.iterdir()] == ["part.yaml"]


def test_unknown_and_no_species_are_refused(gri):
    with pytest.raises(ValueError, match="XYZ is not among the species of gri30.yaml"):
        submechanism(gri, ["XYZ"])
    with pytest.raises(ValueError, match="species is empty"):
        submechanism(gri, [])
    with pytest.raises(ValueError, match="keeps nothing"):
        Parts(gri).assemble(np.zeros(53, dtype=bool))


@pytest.fixture(scope="module")
def gri():
    return Mechanism("gri30.yaml")
