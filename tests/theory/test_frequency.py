"""Bases against exact transforms, and the order in which frequencies are learned against an unfavourable control."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from sciml import theory
from sciml.theory import (
    AliasAlarm,
    Cosine,
    DeepFrequency,
    FilterProbe,
    Fourier,
    FrequencyPreference,
    FrequencyProbe,
    Scattered,
    Sine,
    State,
    alias,
    along,
    convergence_times,
    every,
    f_principle_score,
    filter_split,
    jacobi_damping,
    low_frequency_ratio,
    peaks,
    principal_direction,
    quadrature_weights,
)

PI = math.pi
BASES = [Fourier, Sine, Cosine]


def random(n, seed):
    return np.random.default_rng(seed).normal(size=n)


# ------------------------------------------------------------------------------------------------------------- bases


@settings(max_examples=30, deadline=None)
@given(
    kind=st.sampled_from(BASES),
    n=st.integers(4, 40),
    m=st.integers(4, 9),
    seed=st.integers(0, 99),
    d=st.sampled_from([1, 2]),
)
def test_parseval_and_linearity(kind, n, m, seed, d):
    basis = kind([-1.0, 0.5][:d], [2.0, 1.0][:d], (n, m)[:d])
    u, v = random(len(basis.points), seed), random(len(basis.points), seed + 1)
    c = basis.analyse(u)
    assert len(c) == len(basis.wavenumbers) == len(basis.norms)
    assert np.isclose((basis.norms * np.abs(c) ** 2).sum(), (u**2).mean(), rtol=1e-12)
    assert np.allclose(basis.analyse(2 * u - 3 * v), 2 * c - 3 * basis.analyse(v), atol=1e-12)


@settings(max_examples=30, deadline=None)
@given(n=st.integers(2, 30), d=st.integers(1, 4), log_delta=st.floats(-4, 4), seed=st.integers(0, 99))
def test_the_two_parts_of_a_filter_sum_to_the_whole(n, d, log_delta, seed):
    x, y = random((n, d), seed), random((n, 2), seed + 1)
    low, high = filter_split(x, y, 10.0**log_delta)
    assert np.allclose(low + high, y, atol=1e-12)
    assert np.abs(low).max() <= np.abs(y).max() + 1e-12  # a mean of the data
    assert np.allclose(filter_split(x, np.ones(n), 1.0)[0], 1)


@settings(max_examples=20, deadline=None)
@given(n=st.integers(8, 60), seed=st.integers(0, 99))
def test_scattered_on_a_regular_grid_is_the_fast_transform(n, seed):
    grid = Fourier([0.0], [2.0], n)
    free = Scattered(grid.points, grid.wavenumbers)
    u = random(n, seed)
    assert np.allclose(free.analyse(u), grid.analyse(u), atol=1e-11)


def test_single_modes_are_read_with_their_amplitude_and_wavenumber():
    sine = Sine([1.0], [3.0], 40)
    b = sine.analyse(0.7 * torch.sin(5 * PI * (sine.points[:, 0] - 1) / 2))
    assert np.argmax(np.abs(b)) == 4 and np.isclose(b[4], 0.7) and np.isclose(sine.wavenumbers[4, 0], 2.5 * PI)
    cosine = Cosine([0.0, 0.0], [1.0, 2.0], (8, 9))
    x = cosine.points
    a = cosine.analyse(2 + torch.cos(3 * PI * x[:, 0]) * torch.cos(PI * x[:, 1]))
    found = np.flatnonzero(np.abs(a) > 1e-12)
    assert np.allclose(a[found], [2, 1]) and np.allclose(cosine.wavenumbers[found[1]], [3 * PI, PI])
    fourier = Fourier([-PI], [PI], 30)
    c = fourier.analyse(torch.sin(4 * fourier.points[:, 0]))
    assert np.isclose(2 * np.abs(c[4]), 1) and np.isclose(np.abs(c).sum(), 0.5)


def test_weights_remove_the_density_of_the_points():
    x = 2 * PI * torch.linspace(0, 1, 400, dtype=torch.float64)[:, None] ** 2  # crowded at the left
    k = np.arange(1.0, 12.0)
    u = torch.sin(3 * x[:, 0])
    weighted = 2 * np.abs(Scattered(x, k, quadrature_weights(x)).analyse(u))
    plain = 2 * np.abs(Scattered(x, k).analyse(u))
    exact = (k == 3).astype(float)
    assert np.abs(weighted - exact).max() < 0.05 < 0.2 < np.abs(plain - exact).max()


def test_cells_by_nearest_points_agree_with_exact_cells():
    x = torch.as_tensor(np.random.default_rng(1).uniform(0, 1, (20, 1)))
    edges = torch.cat([x.min(0, keepdim=True).values, x.max(0, keepdim=True).values])
    fill = torch.linspace(float(edges[0]), float(edges[1]), 200_001, dtype=torch.float64)[:, None]
    assert np.allclose(quadrature_weights(x), quadrature_weights(x, fill), atol=1e-4)
    with pytest.raises(ValueError, match="give fill="):
        quadrature_weights(torch.rand(5, 2))


def test_a_direction_shows_the_frequency_along_it():
    x = torch.as_tensor(np.random.default_rng(2).uniform(-1, 1, (3000, 5)))
    p = np.array([3.0, 4.0, 0, 0, 0])
    u = torch.sin(6 * (x @ torch.as_tensor(p / 5)))
    spectrum = np.abs(along(x, p, [2.0, 4.0, 6.0, 8.0]).analyse(u))
    assert spectrum.argmax() == 2
    stretched = x * torch.tensor([1.0, 1, 9, 1, 1])
    assert np.abs(principal_direction(stretched)[2]) > 0.99


def test_too_few_points_and_wrong_shapes_are_refused():
    with pytest.raises(ValueError, match="cannot resolve wavenumber 9"):
        Scattered(torch.linspace(0, 2 * PI, 8)[:, None], [9.0])
    with pytest.raises(ValueError, match="resolve only up to"):
        FrequencyProbe(Fourier([0.0], [2 * PI], 8), wavenumbers=[5.0])
    with pytest.raises(ValueError, match="none nearer than"):
        FrequencyProbe(Sine([0.0], [1.0], 8), wavenumbers=[1.0])
    with pytest.raises(ValueError, match="the basis has \\(8,\\) points"):
        Fourier([0.0], [1.0], 8).analyse(np.ones(7))
    with pytest.raises(ValueError, match="every side of a box"):
        Sine([1.0], [0.0], 8)
    with pytest.raises(ValueError, match="reference is zero"):
        FrequencyProbe(Sine([0.0], [1.0], 8), reference=np.zeros(8))
    with pytest.raises(ValueError, match="component 2 needs"):
        FrequencyProbe(Sine([0.0], [1.0], 8), component=2).measure(lambda x: x.repeat(1, 2))


# ------------------------------------------------------------------------------------------------------------- probe


def test_probe_without_reference_shows_residual_and_progress():
    basis = Sine([0.0], [1.0], 31)
    probe = FrequencyProbe(basis, residual=lambda f, x: torch.sin(3 * PI * x[:, 0]))
    first = probe.record(lambda x: 0 * x[:, 0])
    second = probe.record(lambda x: torch.sin(2 * PI * x[:, 0]))
    assert "frequency.change" not in first
    assert np.argmax(second["frequency.change"]) == 1
    assert np.argmax(second["frequency.residual"]) == 2


def test_shells_in_the_plane_hold_all_energy_below_the_limit():
    basis = Fourier([0.0, 0.0], [1.0, 1.0], 24)
    probe = FrequencyProbe(basis, shells=12)
    wave = lambda x: torch.sin(2 * PI * (3 * x[:, 0] + 4 * x[:, 1]))  # noqa: E731
    measured = probe.measure(wave)
    assert np.isclose(np.sum(np.square(measured["spectrum"])), 0.5)
    assert abs(probe.k[np.argmax(measured["spectrum"])] - 10 * PI) < 2 * PI
    assert measured["high"] < 1e-12
    assert probe.measure(lambda x: torch.sin(2 * PI * 11 * x[:, 0]))["high"] > 0.99


def test_times_scores_and_peaks():
    errors = [[1, 1, 1], [0.05, 1, 1], [0.3, 0.01, 1], [0.01, 0.02, math.nan]]
    assert convergence_times([0, 1, 2, 3], errors).tolist() == [3, 2, math.inf]
    assert f_principle_score([1, 3, 5], [10, 20, math.inf]) == 1
    assert f_principle_score([1, 3, 5], [30, 20, 10]) == -1
    assert math.isnan(f_principle_score([1, 3, 5], [4, 4, 4]))
    with pytest.raises(ValueError, match="at least 3"):
        f_principle_score([1, 2], [1, 2])
    assert peaks([0, 3, 0, 0, 1, 0, 0.001, 0]).tolist() == [1, 4]


def test_outlook_tells_slow_modes_from_stuck_ones():
    basis = Fourier([0.0], [2 * PI], 32)
    probe = FrequencyProbe(basis, lambda x: torch.sin(x[:, 0]) + torch.sin(3 * x[:, 0]) + torch.sin(5 * x[:, 0]))
    for step in range(1, 101):
        weights = 1 - 1e-3, 1 - 1 / step**0.4, 0.0

        def field(x, w=weights):
            return sum(a * torch.sin(k * x[:, 0]) for a, k in zip(w, (1, 3, 5), strict=True))

        probe.record(State(field, number=step))
    learned, slow, stuck = probe.outlook()
    assert learned["learned"] and not slow["learned"] and not stuck["learned"]
    assert slow["decay"] == pytest.approx(-0.4, abs=0.01) and slow["steps"] == pytest.approx(10**2.5, rel=0.05)
    assert math.isinf(stuck["steps"])


# ------------------------------------------------------------------------------------------------- order of learning


def learn(seed, steps, start=None):
    """Convergence times of sin x + sin 3x + sin 5x; start is the standard deviation of all weights, None is Glorot."""
    generator = torch.Generator().manual_seed(seed)
    net = nn.Sequential(nn.Linear(1, 64), nn.Tanh(), nn.Linear(64, 64), nn.Tanh(), nn.Linear(64, 1))
    with torch.no_grad():
        for p in net.parameters():
            if start is not None:
                p.normal_(0, start, generator=generator)
            elif p.ndim == 2:
                nn.init.xavier_uniform_(p, generator=generator)
            else:
                p.zero_()
    basis = Fourier([-PI], [PI], 160)
    target = lambda x: torch.sin(x[:, 0]) + torch.sin(3 * x[:, 0]) + torch.sin(5 * x[:, 0])  # noqa: E731
    probe = FrequencyProbe(basis, target, schedule=every(20))
    assert np.allclose(probe.k, [1, 3, 5])
    x, y = basis.points.float(), target(basis.points).float()[:, None]
    optimizer = torch.optim.Adam(net.parameters(), lr=1e-3)
    for step in range(steps):
        optimizer.zero_grad()
        (net(x) - y).square().mean().backward()
        optimizer.step()
        if step % 20 == 0:
            probe.record(State(net, number=step + 1))
            if step > probe.times().max() + 100:  # all are learned, for five records
                break
    return probe.times(), probe.score()


@pytest.mark.parametrize("seed", range(5))
def test_low_frequencies_are_learned_first(seed):
    (t1, t3, t5), score = learn(seed, 3500)
    assert t1 < t3 < t5 < math.inf
    assert t5 / t1 > 5
    assert score == 1


def test_large_initial_weights_break_the_order():
    times = [learn(seed, 1000, start=2.0)[0] for seed in range(5)]
    assert sum(not t[0] < t[1] < t[2] for t in times) >= 1
    assert all(t[2] / t[0] < 3 for t in times)


def test_jacobi_damps_high_frequencies_first():
    cells, sweeps = 128, 100
    x = np.arange(cells + 1) / cells
    for mode in (1, 4, 8, 24, 100):
        u = np.sin(mode * PI * x)
        for _ in range(sweeps):
            u[1:-1] = (u[:-2] + u[2:]) / 2
        assert np.abs(u - jacobi_damping(mode, cells, sweeps) * np.sin(mode * PI * x)).max() < 1e-12
    left = [jacobi_damping(mode, cells, sweeps) for mode in (1, 4, 8, 24)]
    assert np.allclose(left, [0.9703, 0.6171, 0.1437, 0.0], atol=1e-4)  # published to four digits
    with pytest.raises(ValueError, match="has the modes 1 to 127"):
        jacobi_damping(128, 128)


# --------------------------------------------------------------------------------------------------------- relatives


def test_filter_probe_sees_which_half_is_missing():
    x = torch.as_tensor(np.random.default_rng(3).uniform(0, 2 * PI, (400, 1)))
    low, both = lambda x: torch.sin(x[:, 0]), lambda x: torch.sin(x[:, 0]) + torch.sin(12 * x[:, 0])  # noqa: E731
    measured = FilterProbe(x, both, [0.05]).measure(low)
    assert measured["low"][0] < 0.15 < 0.9 < measured["high"][0]
    assert FilterProbe(x, both, [0.05]).measure(both)["high"][0] < 1e-12


def test_preference_of_residual_over_data_is_for_high_frequencies():
    # u = sum_k c_k sin kx trained on |u - f|^2 and on |u'' + g|^2: the gradients weigh mode k by 1 and by k^4
    class Modes(nn.Module):
        def __init__(self):
            super().__init__()
            self.c = nn.Parameter(torch.zeros(3, dtype=torch.float64))

        def forward(self, x):
            return torch.sin(x * torch.tensor([1.0, 3.0, 5.0])) @ self.c

    basis = Sine([0.0], [PI], 31)
    k = torch.tensor([1.0, 3.0, 5.0])
    losses = {
        "data": lambda p: (p["c"] - 1).square().sum() / 2,
        "residual": lambda p: (k**2 * (p["c"] - 1)).square().sum() / 2,
    }
    probe = FrequencyPreference(basis, wavenumbers=[1, 3, 5])
    measured = probe.measure(State(Modes(), losses=losses))
    assert np.allclose(measured["data.share"], 1 / 3)
    power = np.array([1, 3, 5.0]) ** 8
    assert np.allclose(measured["residual.share"], power / power.sum())
    assert measured["residual.mean"] > measured["data.mean"] == pytest.approx(3)


def test_alias_alarm_hears_sin_5x_as_sin_3x_on_8_points():
    train = torch.arange(8, dtype=torch.float64)[:, None] * 2 * PI / 8
    dense = torch.arange(64, dtype=torch.float64)[:, None] * 2 * PI / 64
    assert torch.allclose(torch.sin(5 * train), -torch.sin(3 * train), atol=1e-12)
    alarm = AliasAlarm(train, dense, limit=16)
    heard = alarm.measure(lambda x: torch.sin(5 * x[:, 0]))
    assert heard["alarm"] and heard["hidden"] > 0.8
    assert heard["frequency"] == pytest.approx(5) and heard["seen_as"] == pytest.approx(
        alias(5, PI / 4)
    ) == pytest.approx(3)
    quiet = alarm.measure(lambda x: torch.sin(3 * x[:, 0]))
    assert not quiet["alarm"] and quiet["hidden"] < 0.05 and quiet["frequency"] == pytest.approx(3)
    with pytest.raises(ValueError, match="at least twice as many"):
        AliasAlarm(train, train)


def test_doubling_features_shifts_the_ratio_exactly():
    x, y = random((60, 3), 4), random(60, 5)
    deltas = np.geomspace(1e-2, 10, 7)
    assert np.allclose(low_frequency_ratio(2 * x, y, 4 * deltas), low_frequency_ratio(x, y, deltas), atol=1e-12)
    ratio = low_frequency_ratio(x, y, np.geomspace(1e-6, 1e6, 9))
    assert ratio[0] == pytest.approx(1) and ratio[-1] == pytest.approx(y.mean() ** 2 / (y**2).mean(), rel=1e-3)


def test_deeper_layers_of_a_trained_network_face_lower_frequencies():
    x = torch.linspace(-PI, PI, 120)[:, None]
    y = torch.cos(3 * x) + torch.cos(5 * x)
    generator = torch.Generator().manual_seed(0)
    sizes = [1, 60, 60, 60, 1]
    layers = [m for a, b in zip(sizes[:-1], sizes[1:], strict=True) for m in (nn.Linear(a, b), nn.Tanh())][:-1]
    net = nn.Sequential(*layers)
    for m in net:
        if isinstance(m, nn.Linear):
            nn.init.xavier_normal_(m.weight, generator=generator)
            nn.init.zeros_(m.bias)
    probe = DeepFrequency(x.double(), y[:, 0])
    before = probe.measure(net)["median"]
    optimizer = torch.optim.Adam(net.parameters(), lr=3e-3)
    for _ in range(800):
        optimizer.zero_grad()
        (net(x) - y).square().mean().backward()
        optimizer.step()
    after = probe.measure(net)["median"]
    assert len(after) == 4 and before[0] == after[0]
    assert after[-1] < after[0] / 2 and after[-1] < before[-1]
    with pytest.raises(ValueError, match="can be read"):
        probe.measure(nn.PReLU().double())


def test_layers_of_subnetworks_stand_side_by_side():
    from sciml.networks import Mscale
    from sciml.theory.filters import layer_inputs

    net, x = Mscale(1, (5, 4), (1, 2, 4)), torch.linspace(-1, 1, 9, dtype=torch.float64)[:, None]
    layers = layer_inputs(net, x)
    assert [tuple(a.shape) for a in layers] == [(9, 1), (9, 15), (9, 12)]
    outgoing = torch.cat([w for w in net.weights[2].detach()])  # all neurons of the last layer, and nothing else
    assert torch.allclose(layers[-1] @ outgoing[:, 0] + net.biases[2].detach().sum(), net(x).detach())


@pytest.mark.parametrize("basis", [theory.Sine, theory.Cosine, theory.Fourier])
def test_a_reference_above_what_the_points_resolve_is_refused(basis):
    fast = lambda x: torch.sin(40 * torch.pi * x[:, 0])  # noqa: E731
    with pytest.raises(ValueError, match=r"of the reference's energy lies above wavenumber .* use more points"):
        FrequencyProbe(basis([0.0], [1.0], 15), fast)
    assert FrequencyProbe(basis([0.0], [1.0], 127), fast).k.max() > 100
    with pytest.raises(ValueError, match="15 x 40 points resolve"):
        FrequencyProbe(basis([0.0, 0.0], [1.0, 1.0], (15, 40)), fast)


def test_jacobi_is_watched_like_a_network_and_learns_high_frequencies_first():
    from sciml import Box, Elliptic, Jacobi

    waves = lambda x: torch.sin(torch.pi * x[:, 0]) + torch.sin(4 * torch.pi * x[:, 0]) / 4  # noqa: E731
    problem, cells = Elliptic.manufactured(Box([0.0], [1.0]), waves), 64
    probe = FrequencyProbe(theory.Sine([0.0], [1.0], cells - 1), waves, wavenumbers=[math.pi, 4 * math.pi])
    solution = Jacobi(cells, 400).solve(problem, callbacks=[probe, theory.Spikes()])
    steps, errors = probe.series("error", solution.history.records)
    assert steps[0] == 0 and np.allclose(errors[0], 1)
    for k, error in zip((1, 4), errors.T, strict=True):
        left = np.array([theory.jacobi_damping(k, cells, int(s)) for s in steps])
        assert np.abs(error - left).max() < (k * math.pi / cells) ** 2 / 6  # up to the error of the differences
    slow, fast = probe.times(0.5)
    assert fast < slow and probe.plot().axes
    with pytest.raises(TypeError, match="reads parameters, but the model is a GridField"):
        Jacobi(cells, 1).solve(problem, callbacks=[theory.RelativeDistance()])
