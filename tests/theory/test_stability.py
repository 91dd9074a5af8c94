"""Curvature of the preconditioned Hessian: the quadratic whose spikes are known, and dense oracles."""

import math

import numpy as np
import pytest
import torch
from torch import nn

from sciml import theory
from sciml.networks import Dense
from sciml.theory.diagnostic import State, every
from sciml.theory.functional import at, parameters_of
from sciml.theory.spikes import Spikes
from sciml.theory.stability import AdamStability, gradient_curvature, largest_eigenvalue
from sciml.training import Adam, constant, fit


class Point(nn.Module):
    def __init__(self, size=1):
        super().__init__()
        self.theta = nn.Parameter(torch.ones(size, dtype=torch.float64))

    def forward(self, x):
        return self.theta * x


class Quadratic:
    """L = sum_i c_i theta_i^2 / 2."""

    def __init__(self, *curvatures):
        self.c = torch.tensor(curvatures, dtype=torch.float64)

    def terms(self, field, batch):
        return {"loss": (self.c * field(torch.ones(len(self.c), dtype=torch.float64)).square()).sum() / 2}


def empty(generator):
    from sciml.objective import Batch

    return Batch({})


def train(stages, callbacks=(), curvatures=(1.0,)):
    model = Point(len(curvatures))
    return model, fit(model, Quadratic(*curvatures), empty, stages, callbacks)


def first(mask):
    return int(np.flatnonzero(mask)[0]) + 1 if mask.any() else None


def experiment(lr, betas, steps, schedule, momentum=True):
    """Steps of the curvature's crossing and of the rise to 30 times the lowest envelope, in a run of `fit`."""
    probe = AdamStability(lr, betas, schedule=schedule, momentum=momentum)
    detector = Spikes(window=100, envelope=20)
    _, history = train([Adam(steps, lr=lr, betas=betas, schedule=constant)], [probe, detector])
    measured, margin = probe.series("margin")
    theta = np.sqrt(2 * history.series("loss")[1])
    # with momentum theta oscillates through zero, so the envelope is watched
    envelope = np.array([theta[max(0, k - 20) : k + 1].max() for k in range(len(theta))])
    crossing = int(measured[margin > 1][0]) + 1 if (margin > 1).any() else None
    return crossing, first(envelope > 30 * np.minimum.accumulate(envelope)), probe, detector


@pytest.fixture(scope="module")
def corrected():
    """Sparse measurements first, every step where it becomes interesting."""
    return experiment(0.15, (0.9, 0.99), 850, lambda step: step % 40 == 0 or step > 770)


def test_curvature_crosses_before_the_spike(corrected):
    crossing, spike, _, _ = corrected
    assert crossing == pytest.approx(789, abs=2)
    assert 5 <= spike - crossing <= 40


def test_without_momentum_too():
    crossing, spike, _, _ = experiment(0.15, (0.0, 0.99), 230, lambda step: step > 170)
    assert crossing == pytest.approx(190, abs=2) and 5 <= spike - crossing <= 40


def test_uncorrected_curvature_is_a_false_alarm(corrected):
    """Without (1 - beta1) / (1 + beta1) the threshold is crossed 574 steps before anything happens."""
    crossing, _, _, _ = experiment(0.15, (0.9, 0.99), 230, lambda step: step > 190, momentum=False)
    assert crossing == pytest.approx(215, abs=2) and corrected[0] - crossing > 500


def test_control_never_crosses_and_never_spikes():
    """beta2 = 0.999 at a small rate; the uncorrected curvature, 19 times as large, alarms here, too."""
    crossing, spike, probe, _ = experiment(0.05, (0.9, 0.999), 3000, every(50))
    assert crossing is None and spike is None
    assert max(probe.series("warning")[1]) == 0
    steps, margin = probe.series("margin")
    assert (margin[steps > 2600] * 19 > 1).all() and (margin[(steps > 500) & (steps < 2500)] * 19 < 1).all()


def test_warning_comes_before_the_detector_sees_the_spike(corrected):
    _, _, probe, detector = corrected
    steps, warnings = probe.series("warning")
    late = [s for s in detector.spikes if s["step"] > 700]
    assert late and steps[warnings > 0][0] < late[0]["step"] and late[0]["ratio"] > 30


def test_second_moments_are_the_optimisers():
    model, batch = Dense(1, (4,)), torch.linspace(-1, 1, 9, dtype=torch.float64)[:, None]
    probe, optimizer = AdamStability(1e-2), torch.optim.Adam(model.parameters(), lr=1e-2)
    for _ in range(20):
        optimizer.zero_grad()
        model(batch).square().mean().backward()
        optimizer.step()
        probe.follow({k: p.grad for k, p in model.named_parameters()})
    for k, p in model.named_parameters():
        assert torch.allclose(probe.second_moments[k], optimizer.state[p]["exp_avg_sq"], rtol=1e-12)


def test_diagnostics_do_not_change_the_training():
    plain, _ = train([Adam(50, lr=0.1)], curvatures=(1.0, 7.0))
    watched, _ = train([Adam(50, lr=0.1)], [AdamStability(0.1, eigenvalue=5), Spikes(20, envelope=5)], (1.0, 7.0))
    assert torch.equal(plain.theta, watched.theta)


# --------------------------------------------------------------------------------------------------------- eigenvalues


def pinn():
    """A loss that differentiates the network in x."""
    net = Dense(1, (5, 5), generator=torch.Generator().manual_seed(5))
    x = torch.linspace(-1, 1, 20, dtype=torch.float64)[:, None]

    def loss(p):
        from sciml.calculus import jet

        u = jet(at(net, p), x)
        return (u.laplacian + u.value**2 - 1).square().mean()

    return net, loss


def test_lanczos_against_the_dense_hessian():
    net, loss = pinn()
    p = parameters_of(net)
    h = theory.hessian(loss, p)
    found = largest_eigenvalue(loss, p, iterations=30)
    assert found.value == pytest.approx(float(torch.linalg.eigvalsh(h)[-1]), rel=1e-6)
    assert found.residual < 1e-2 * found.value
    diagonal = {
        k: torch.rand(v.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64) for k, v in p.items()
    }
    d = torch.cat([v.reshape(-1) for v in diagonal.values()])
    dense = torch.linalg.eigvals(d[:, None] * h).real.max()
    assert largest_eigenvalue(loss, p, diagonal, iterations=40).value == pytest.approx(float(dense), rel=1e-6)
    g = torch.cat([v.reshape(-1) for v in torch.func.grad(loss)(p).values()])
    assert gradient_curvature(loss, p) == pytest.approx(float(g @ h @ g / (g @ g)), rel=1e-10)
    assert gradient_curvature(loss, p, diagonal) == pytest.approx(float(g @ (d * (h @ g)) / (g @ g)), rel=1e-10)


def test_gradient_descent_threshold():
    """diag(1, 10): stable below 2 / 10 exactly."""
    model, objective = Point(2), Quadratic(1.0, 10.0)
    top = largest_eigenvalue(lambda p: objective.terms(at(model, p), None)["loss"], parameters_of(model)).value
    assert 2 / top == pytest.approx(0.2)
    for lr, stable in ((0.199, True), (0.201, False)):
        theta = torch.ones(2)
        for _ in range(500):
            theta = theta - lr * objective.c * theta
        assert (float(theta.abs().max()) < 1) == stable


def test_linear_and_constant_losses():
    p = {"a": torch.ones(3, dtype=torch.float64)}
    assert gradient_curvature(lambda q: q["a"].sum(), p) == 0
    assert gradient_curvature(lambda q: (0 * q["a"]).sum(), p) == 0
    with pytest.raises(ValueError, match="scalar"):
        gradient_curvature(lambda q: q["a"], p)


# --------------------------------------------------------------------------------------------------------------- spikes


def watch(losses, **options):
    detector = Spikes(**options)
    for k, loss in enumerate(losses):
        detector.watch(k, float(loss))
    return detector.spikes


def noise(n, seed=0):
    return torch.randn(n, generator=torch.Generator().manual_seed(seed)).numpy()


def test_a_spike_is_found_and_its_recovery_confirmed():
    losses = 1e-3 * np.exp(0.2 * noise(1000))
    losses[600:630] *= 1e3
    (spike,) = watch(losses)
    assert spike["step"] == 600 and spike["ratio"] > 500 and 30 <= spike["recovered"] <= 45


def test_noise_decay_and_oscillation_are_no_spikes():
    t = np.arange(3000)
    assert watch(np.exp(0.5 * noise(3000))) == []
    assert watch(np.exp(-t / 200) * np.exp(0.2 * noise(3000))) == []
    assert watch(np.exp(-t / 300) * np.cos(t / 3) ** 2 + 1e-300) == []


def test_a_shift_is_not_a_recovered_spike():
    losses = np.concatenate([np.ones(500), 100 * np.ones(3000)]) * np.exp(0.1 * noise(3500))
    (shift,) = watch(losses)
    assert shift["recovered"] == math.inf


def test_negative_energies_are_watched_too():
    losses = -2 + 0.01 * noise(800)
    losses[500:520] += 5
    (spike,) = watch(losses)
    assert spike["step"] == 500 and spike["recovered"] < 60


def test_bad_use_is_refused():
    with pytest.raises(ValueError, match="twice the envelope"):
        Spikes(window=10, envelope=10)
    with pytest.raises(ValueError, match="no loss"):
        Spikes().measure(Point())
    with pytest.raises(ValueError, match="no step has been followed"):
        AdamStability(0.1).measure(State(Point()))
    with pytest.raises(ValueError, match="no gradients"):
        AdamStability(0.1).follow({})
    with pytest.raises(TypeError, match="must be an Adam stage"):
        theory.stabilized(3)
    with pytest.raises(ValueError, match="interval, safety, release"):
        theory.stabilized(Adam(1), safety=2.0)


# ---------------------------------------------------------------------------------------------------------------- stage


def test_stabilized_stage_does_not_spike():
    plain = Adam(300, lr=0.15, betas=(0.0, 0.99), schedule=constant)
    _, wild = train([plain])
    _, calm = train([theory.stabilized(plain, interval=5)])
    late = slice(190, 300)
    assert max(wild.series("loss")[1][late]) > 1e2 * min(wild.series("loss")[1][late])
    assert max(calm.series("loss")[1][late]) < 1e-4 * max(wild.series("loss")[1][late])


def test_stabilized_stage_is_adam_where_nothing_threatens():
    stage = Adam(40, lr=0.01)
    assert torch.equal(train([stage])[0].theta, train([theory.stabilized(stage)])[0].theta)


def test_stabilized_stage_resumes_exactly(tmp_path):
    stage = theory.stabilized(Adam(260, lr=0.15, betas=(0.0, 0.99), schedule=constant), interval=10)

    class Stop(KeyboardInterrupt):
        pass

    def interrupt(step):
        if step.number == 220:
            raise Stop

    whole = train([stage])[0]
    model = Point()
    with pytest.raises(KeyboardInterrupt):
        fit(model, Quadratic(1.0), empty, [stage], [interrupt], checkpoint=tmp_path / "c.h5")
    resumed = Point()
    fit(resumed, Quadratic(1.0), empty, [stage], checkpoint=tmp_path / "c.h5")
    assert torch.equal(whole.theta, resumed.theta)
