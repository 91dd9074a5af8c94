"""The spectrum of a Field over any domain, and the bandwidth read off it."""

import math

import pytest
import torch

from sciml.domain import Ball, Box
from sciml.theory.spectra import bandwidth, radial, spectrum

SQUARE = Box([-1, -1], [1, 1])
HOLES = SQUARE - Ball([-0.5, -0.5], 0.2) - Ball([0.5, 0.5], 0.3) - Ball([0.3, -0.4], 0.1)


@pytest.mark.parametrize("domain", [SQUARE, HOLES], ids=["square", "holes"])
@pytest.mark.parametrize(("kx", "ky"), [(22.0, 22.0), (35.0, 4.0), (3.0, 60.0)])
def test_bandwidth_along_each_axis_of_a_product_of_sines(domain, kx, ky):
    field = lambda x: torch.sin(kx * x[:, 0]) * torch.cos(ky * x[:, 1])  # noqa: E731
    found = [s.bandwidth(0.05) for s in spectrum(field, domain)]
    assert found == pytest.approx([kx, ky], abs=4)


def test_a_peak_has_the_height_of_its_amplitude():
    (s,) = spectrum(lambda x: 3 * torch.sin(20 * x[:, 0]), Box([0], [4]))
    assert float(s.amplitudes.max()) == pytest.approx(3.0, rel=0.05)
    assert float(s.wavenumbers[s.amplitudes.argmax()]) == pytest.approx(20, abs=1)
    assert s.resolved


def test_high_wavenumbers_are_resolved_by_more_points_and_reported_when_they_are_not():
    field = lambda x: torch.cos(900 * x[:, 0])  # noqa: E731
    (s,) = spectrum(field, Box([0], [1]))
    assert s.resolved and s.bandwidth(0.05) == pytest.approx(900, abs=10)
    (coarse,) = spectrum(field, Box([0], [1]), limit=128)
    assert not coarse.resolved


def test_order_discounts_high_wavenumbers():
    field = lambda x: torch.sin(3 * x[:, 0]) + torch.sin(60 * x[:, 0])  # noqa: E731
    (s,) = spectrum(field, Box([0], [2 * math.pi]))
    assert s.bandwidth(0.1) == pytest.approx(60, abs=2)
    assert s.bandwidth(0.1, order=2) < 10


def test_radial_sees_the_length_of_a_wave_vector():
    s = radial(lambda x: torch.cos(12 * x[:, 0] + 16 * x[:, 1]), HOLES, lines=64)
    assert s.bandwidth(0.05) == pytest.approx(20, abs=4)


def test_constants_and_zero_have_no_bandwidth():
    assert bandwidth([(lambda x: torch.ones(len(x), dtype=x.dtype), 0, 0.1)], SQUARE).max() < 3
    assert bandwidth([(lambda x: torch.zeros(len(x), dtype=x.dtype), 0, 0.1)], SQUARE).tolist() == [0, 0]


def test_several_fields_take_the_largest_bandwidth():
    fields = [(lambda x: torch.sin(9 * x[:, 0]), 0, 0.1), (lambda x: torch.sin(30 * x[:, 1]), 0, 0.1)]
    assert bandwidth(fields, SQUARE).tolist() == pytest.approx([9, 30], abs=4)


def test_never_evaluated_outside():
    def field(x):
        assert bool(HOLES.contains(x).all())
        return x[:, 0]

    spectrum(field, HOLES)


def test_a_field_of_another_shape_is_refused():
    with pytest.raises(ValueError, match="finite values"):
        spectrum(lambda x: x, SQUARE)


def test_the_front_door_gives_the_function_whatever_was_imported_before():
    from sciml import theory

    assert theory.spectrum is spectrum and theory.radial is radial and "spectrum" in theory.__all__
