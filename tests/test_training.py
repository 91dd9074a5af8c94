"""The training loop: it minimises, repeats, resumes bit for bit, stops for stated reasons, never hides a failure."""

import math

import pytest
import torch
from torch import nn

from sciml.objective import Batch, Block, least_squares
from sciml.optimizers import GaussNewton, sample_jacobian
from sciml.training import LBFGS, Adam, EarlyStopping, StopTraining, constant, cosine, exponential, fit
from tests import cases

F64 = torch.float64


class Tiny(nn.Module):
    """A plain torch network: the loop must not need one of ours."""

    def __init__(self, seed=0, width=12, d=1):
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        self.a = nn.Parameter(torch.randn(d, width, generator=generator, dtype=F64))
        self.b = nn.Parameter(torch.randn(width, generator=generator, dtype=F64))
        self.c = nn.Parameter(torch.randn(width, generator=generator, dtype=F64) / width)

    def forward(self, x):
        return torch.tanh(x @ self.a + self.b) @ self.c


class Fit:
    """Objective: match a function at the batch's points."""

    def __init__(self, target):
        self.target = target

    def terms(self, field, batch):
        x = batch.blocks["interior"].x
        return {"fit": (field(x) - self.target(x)).square().mean()}


def batches(generator):
    x = torch.rand(64, 1, generator=generator, dtype=F64)
    return Batch({"interior": Block(x, torch.full((64,), 1 / 64, dtype=F64))})


def wave(x):
    return torch.sin(3 * x[:, 0])


def weights(model):
    return torch.cat([p.detach().reshape(-1) for p in model.parameters()])


@pytest.mark.parametrize(
    ("stages", "below"),
    [([Adam(1500, lr=1e-2)], 1e-3), ([LBFGS(200)], 1e-6), ([Adam(200, lr=1e-2), LBFGS(100)], 1e-5)],
)
def test_it_minimises(stages, below):
    model = Tiny()
    history = fit(model, Fit(wave), batches, stages)
    assert history.steps[-1]["loss"] < below
    assert len(history.reasons) == len(stages) and history.status == "; ".join(history.reasons)
    number, loss = history.series("loss")
    assert len(number) == len(loss) == len(history.steps)


def test_same_seed_same_numbers_and_another_seed_others():
    runs = []
    for seed in (0, 0, 1):
        model = Tiny()
        fit(model, Fit(wave), batches, [Adam(50)], seed=seed)
        runs.append(weights(model))
    assert torch.equal(runs[0], runs[1]) and not torch.equal(runs[0], runs[2])


@pytest.mark.parametrize("stages", [[Adam(60, lr=1e-2), LBFGS(20)], [LBFGS(40)], [Adam(80, resample=7)]])
@pytest.mark.parametrize("stop", [3, 17, 37, 65])
def test_a_resumed_run_is_bit_identical(tmp_path, stages, stop):
    whole = Tiny()
    history = fit(whole, Fit(wave), batches, stages)

    def interrupt(step):
        if step.number == stop:
            raise KeyboardInterrupt

    path = tmp_path / "run.checkpoint.h5"
    first = Tiny()
    try:
        fit(first, Fit(wave), batches, stages, [interrupt], checkpoint=path)
    except KeyboardInterrupt:
        assert path.exists()
    second = Tiny(seed=5)  # whatever it starts from, the checkpoint decides
    resumed = fit(second, Fit(wave), batches, stages, checkpoint=path)
    assert torch.equal(weights(whole), weights(second))
    assert [r["loss"] for r in resumed.steps] == [r["loss"] for r in history.steps]
    assert resumed.reasons == history.reasons


def test_a_finished_checkpoint_is_not_trained_again(tmp_path):
    path = tmp_path / "c.h5"
    fit(Tiny(), Fit(wave), batches, [Adam(20)], checkpoint=path)
    model = Tiny()
    history = fit(model, Fit(wave), batches, [Adam(20)], checkpoint=path)
    assert len(history.steps) == 20
    with pytest.raises(ValueError, match="another network"):
        fit(Tiny(width=3), Fit(wave), batches, [Adam(20)], checkpoint=path)


def test_divergence_is_a_sentence_and_keeps_finite_weights():
    model = Tiny()
    history = fit(
        model, Fit(lambda x: wave(x) * (1 if len(seen) < 5 else float("nan"))), batches, [Adam(20)], [seen_append]
    )
    assert history.diverged and "loss became nan at step" in history.status
    assert weights(model).isfinite().all()
    seen.clear()


seen = []


def seen_append(step):
    seen.append(step.number)


def test_callbacks_record_and_stop():
    def stop(step):
        if step.number == 9:
            raise StopTraining("seen enough")
        return {"twice": 2 * step.number}

    history = fit(Tiny(), Fit(wave), batches, [Adam(100), Adam(100)], [stop])
    assert len(history.steps) == 10 and history.reasons == ["Adam: seen enough"]
    assert history.series("twice")[1].tolist() == [2 * k for k in range(9)]


def test_early_stopping_stops_a_plateau_and_only_a_plateau():
    flat = fit(Tiny(), Fit(wave), batches, [Adam(5000, lr=1e-12, schedule=constant)], [EarlyStopping(10, 3)])
    assert len(flat.steps) < 100 and "has not fallen" in flat.status
    falling = fit(Tiny(), Fit(wave), batches, [Adam(300, lr=3e-3)], [EarlyStopping(50, 3)])
    assert len(falling.steps) == 300


def test_budget_of_seconds():
    history = fit(Tiny(), Fit(wave), batches, [Adam(10**6)], max_seconds=0.2)
    assert "time budget" in history.status and len(history.steps) < 10**6


def test_schedules():
    assert constant(0.7) == 1 and cosine(0) == 1 and cosine(1) == pytest.approx(0)
    assert exponential(0.01)(1.0) == pytest.approx(0.01) and exponential(0.01)(0.5) == pytest.approx(0.1)


def test_lbfgs_says_why_it_stopped():
    model = Tiny()
    history = fit(model, Fit(lambda x: 0 * x[:, 0]), batches, [LBFGS(3000, tolerance=1e-6)])
    assert "gradient" in history.status and len(history.steps) < 3000


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Adam(0), "Adam steps is 0"),
        (lambda: Adam(10, lr=-1), "lr is -1"),
        (lambda: Adam(10, lr=math.nan), "lr is nan"),
        (lambda: LBFGS(10, resample=0), "resample is 0"),
        (lambda: GaussNewton(5, damping=0), "damping is 0"),
    ],
)
def test_bad_options_are_sentences(make, message):
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize("name", ["poisson_1d", "variable_2d", "mixed_2d"])
def test_sample_jacobian_equals_the_dense_one(name):
    problem = cases.CASES[name]()
    objective = least_squares(problem)
    batch = objective.sample(20, 30, torch.Generator().manual_seed(0))
    model = Tiny(d=problem.dim)
    r, j, slices = sample_jacobian(objective.residuals, model, batch, entries=3000)
    parameters = {k: p.detach() for k, p in model.named_parameters()}

    def dense(p):
        return objective.residuals(lambda x: torch.func.functional_call(model, p, (x,)), batch)

    expected = torch.func.jacrev(dense)(parameters)
    torch.testing.assert_close(r, objective.residuals(model, batch).detach())
    torch.testing.assert_close(j, torch.cat([v.reshape(len(r), -1) for v in expected.values()], 1))
    assert sum(s.stop - s.start for s in slices.values()) == len(r)


def test_gauss_newton_solves_a_poisson_problem():
    problem = cases.poisson_1d()
    objective = least_squares(problem, penalty=100.0)
    model = Tiny(width=20)
    history = fit(model, objective, lambda g: objective.sample(100, 2, g, sobol=True), [GaussNewton(100)])
    x = problem.domain.interior(200)
    with torch.no_grad():
        assert (model(x) - problem.exact(x)).abs().max() < 1e-5
    assert history.steps[-1]["loss"] < 1e-6 * history.steps[0]["loss"]


def test_primal_and_sample_space_steps_are_the_same():
    from sciml.optimizers.gaussnewton import _Damped

    generator = torch.Generator().manual_seed(0)
    j = torch.randn(30, 20, generator=generator, dtype=F64)
    r = torch.randn(30, generator=generator, dtype=F64)
    wide = torch.cat([j, torch.zeros(30, 25, dtype=F64)], 1)  # more parameters than rows, the rest idle
    primal, _ = _Damped(j, j.T @ r)(1e-3)
    sample, _ = _Damped(wide, wide.T @ r)(1e-3 * 45 / 20)
    torch.testing.assert_close(sample[:20], primal)
    assert sample[20:].abs().max() == 0
