"""Thermodynamics in torch against Cantera: both forms of data, every interval, both inverses, refusals."""

import cantera as ct
import numpy as np
import pytest
import torch

from sciml.chemistry.thermo import Thermo

FILES = ["h2o2.yaml", "gri30.yaml", "airNASA9.yaml", "nDodecane_Reitz.yaml"]


@pytest.fixture(scope="module", params=FILES)
def both(request):
    """A gas, its thermodynamics, and mixtures on both sides of every break."""
    gas = ct.Solution(request.param)
    entries = [s.input_data["thermo"] for s in gas.species()]
    thermo = Thermo.from_species(entries, gas.species_names, gas.molecular_weights)
    rng = np.random.default_rng(0)
    edges = thermo.breaks.numpy()
    T = np.concatenate([rng.uniform(gas.min_temp, gas.max_temp, 60), edges * (1 - 1e-9), edges * (1 + 1e-9)])
    Y = rng.dirichlet(np.full(gas.n_species, 0.2), len(T))
    p = 10 ** rng.uniform(4, 7, len(T))
    return gas, thermo, T, p, Y


def cantera(gas, T, p, Y, *names):
    out = []
    for row in zip(T, p, Y, strict=True):
        gas.TPY = row
        out.append([getattr(gas, name) for name in names])
    return np.array(out).T


def tensors(*arrays):
    return [torch.as_tensor(a) for a in arrays]


def test_mixtures_equal_cantera(both):
    gas, thermo, T, p, Y = both
    ideal = gas if gas.thermo_model == "ideal-gas" else ct.Solution(thermo="ideal-gas", species=gas.species())
    names = ("enthalpy_mass", "int_energy_mass", "cp_mass", "cv_mass", "density")
    h, u, cp, cv, rho = cantera(ideal, T, p, Y, *names)
    t, q, y = tensors(T, p, Y)
    scale = np.abs(h) + cp * T  # an enthalpy may pass through zero
    assert (np.abs(thermo.enthalpy_mass(t, y).numpy() - h) / scale).max() < 1e-10
    assert (np.abs(thermo.energy_mass(t, y).numpy() - u) / scale).max() < 1e-10
    for ours, theirs in (
        (thermo.cp_mass(t, y), cp),
        (thermo.cv_mass(t, y), cv),
        (thermo.density(t, q, y), rho),
    ):
        np.testing.assert_allclose(ours.numpy(), theirs, rtol=1e-10)


def test_temperatures_come_back_from_enthalpy_and_energy(both):
    _, thermo, T, _, Y = both
    t, y = tensors(T, Y)
    for heat, inverse in (
        (thermo.enthalpy_mass(t, y), thermo.temperature_from_enthalpy),
        (thermo.energy_mass(t, y), thermo.temperature_from_energy),
    ):
        # the data of a species may jump at a break by more than rounding; there, no temperature has that enthalpy
        back = inverse(heat, y, t * 1.3)
        assert ((back - t).abs() / t).max() < 1e-5
        assert (back - t).abs().div(t).quantile(0.8) < 1e-10


def test_few_steps_from_the_temperature_before_are_enough(both):
    _, thermo, T, _, Y = both
    t, y = tensors(T[:60], Y[:60])
    h = thermo.enthalpy_mass(t, y)
    for shift in (1.0, 100.0):
        assert ((thermo.temperature_from_enthalpy(h, y, t + shift, steps=3) - t).abs() / t).max() < 1e-5
        assert ((thermo.temperature_from_enthalpy(h, y, t + shift, steps=3) - t).abs() / t).quantile(0.8) < 1e-10


def test_heat_release_equals_cantera():
    gas = ct.Solution("gri30.yaml")
    thermo = Thermo.from_species(
        [s.input_data["thermo"] for s in gas.species()], gas.species_names, gas.molecular_weights
    )
    rng = np.random.default_rng(1)
    T, Y = rng.uniform(900, 2500, 5), rng.dirichlet(np.full(gas.n_species, 0.2), 5)
    released, rates = [], []
    for state in zip(T, np.full(5, ct.one_atm), Y, strict=True):
        gas.TPY = state
        released.append(gas.heat_release_rate)
        rates.append(gas.net_production_rates * gas.molecular_weights)
    t, w = tensors(T, np.array(rates))
    np.testing.assert_allclose(thermo.heat_release(t, w).numpy(), released, rtol=1e-10)
    by_species = thermo.enthalpies(t).numpy()
    gas.TP = T[0], ct.one_atm
    np.testing.assert_allclose(
        by_species[0], gas.standard_enthalpies_RT * ct.gas_constant * T[0] / gas.molecular_weights
    )


def test_an_enthalpy_of_no_temperature_is_refused():
    gas = ct.Solution("h2o2.yaml")
    thermo = Thermo.from_species(
        [s.input_data["thermo"] for s in gas.species()], gas.species_names, gas.molecular_weights
    )
    y = torch.as_tensor(np.eye(gas.n_species)[:1])
    with pytest.raises(RuntimeError, match="row 0"):
        thermo.temperature_from_enthalpy(torch.tensor([-1e9], dtype=torch.float64), y)


def test_other_data_than_nasa_is_refused_by_name():
    with pytest.raises(ValueError, match="'X' has constant-cp data"):
        Thermo.from_species([{"model": "constant-cp"}], ["X"], np.ones(1))
