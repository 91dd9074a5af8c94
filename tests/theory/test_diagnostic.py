"""The protocol: live and afterwards, the same numbers, and no trace left behind."""

import json
import random
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from sciml import Ball, Box, Dirichlet, Elliptic, Evolution, theory
from sciml.networks import Mscale, relu
from sciml.objective import LeastSquares, Ritz
from sciml.results import jsonable
from sciml.theory import Diagnostic, FrequencyProbe, Snapshots, State, every, log_spaced, replay
from sciml.training import LBFGS, Adam, fit

PROBLEM = Elliptic.manufactured(Box([0.0], [1.0]), lambda x: torch.sin(2 * torch.pi * x[:, 0]))


def residual(field, x):
    return PROBLEM.residual(PROBLEM.jet(field, x), x)


class Noisy(Diagnostic):
    """Does everything a diagnostic must be protected from doing: draws, switches modes, runs backward."""

    name = "noisy"

    def observe(self, state):
        torch.rand(3), np.random.rand(3), random.random()
        state.model.eval()
        state.model(torch.rand(5, 1, dtype=torch.float64)).sum().backward()
        return {"value": torch.rand(2), "training": state.model.training}


def everything():
    basis = theory.Sine([0.0], [1.0], 31)
    points = torch.linspace(0, 1, 40, dtype=torch.float64)[:, None]
    return [
        Noisy(every(3)),
        FrequencyProbe(basis, PROBLEM.exact, residual=residual),
        FrequencyProbe(basis, residual=residual, name="blind"),
        theory.FrequencyPreference(basis),
        theory.TermBalance(),
        theory.FilterProbe(points, PROBLEM.exact, [1e-3, 1e-1]),
        theory.AliasAlarm(points[::8], points),
        theory.Kernel(basis, operator=residual),
    ]


class Dropped(nn.Module):
    """A network whose training draws from the global generator and updates a buffer."""

    def __init__(self):
        super().__init__()
        layers = nn.Linear(1, 16), nn.Tanh(), nn.BatchNorm1d(16), nn.Dropout(0.2), nn.Linear(16, 1)
        self.layers = nn.Sequential(*layers).double()

    def forward(self, x):
        return self.layers(x)[:, 0]


class Regression:
    """Mean square distance to the exact solution at the interior points."""

    def terms(self, field, batch):
        x = batch.blocks["interior"].x
        return {"data": (field(x) - PROBLEM.exact(x)).square().mean()}


def make(kind):
    torch.manual_seed(3)
    np.random.seed(3)
    random.seed(3)
    if kind == "dropout":
        return Dropped()
    return Mscale(1, [8, 8], [1, 2], generator=torch.Generator().manual_seed(0)).double()


@pytest.mark.parametrize("kind", ["mscale", "dropout"])
def test_training_with_diagnostics_is_bit_identical(kind):
    results = []
    for callbacks in ([], everything()[: None if kind == "mscale" else 3]):
        model, ritz = make(kind), Ritz(PROBLEM, 10.0)
        objective = ritz if kind == "mscale" else Regression()
        stages = [Adam(25, lr=1e-2), LBFGS(3)] if kind == "mscale" else [Adam(25, lr=1e-2)]
        history = fit(model, objective, lambda g, r=ritz: r.sample(50, 2, g), stages, callbacks)
        left = torch.rand(4), np.random.rand(4).tolist(), random.random()
        results.append((model.state_dict(), [r["loss"] for r in history.steps], left, model.training))
    (plain, losses, left, mode), (watched, watched_losses, watched_left, watched_mode) = results
    assert all(torch.equal(a, b) for a, b in zip(plain.values(), watched.values(), strict=True))
    assert losses == watched_losses and mode == watched_mode
    assert torch.equal(left[0], watched_left[0]) and left[1:] == watched_left[1:]


def test_gradients_survive_a_measurement():
    model = make("mscale")
    model(torch.ones(1, 1, dtype=torch.float64)).sum().backward()
    before = {k: p.grad for k, p in model.named_parameters()}
    Noisy().measure(model)
    assert all(p.grad is before[k] for k, p in model.named_parameters())


def test_a_diagnostic_that_writes_to_the_model_is_refused():
    class Vandal(Diagnostic):
        def observe(self, state):
            with torch.no_grad():
                next(state.model.parameters()).mul_(1.0)
            return {}

    with pytest.raises(RuntimeError, match="wrote to the model"):
        Vandal().measure(make("mscale"))


def test_records_reach_the_history_are_json_and_can_be_plotted_from_it():
    model, objective, diagnostics = make("mscale"), Ritz(PROBLEM, 10.0), everything()[1:]
    history = fit(model, objective, lambda g: objective.sample(50, 2, g), [Adam(12)], diagnostics)
    saved = json.loads(json.dumps(jsonable(history.records)))
    assert {r["step"] for r in history.records} == {s for s in range(12) if log_spaced()(s) or log_spaced(3)(s)}
    for diagnostic in diagnostics:
        assert diagnostic.plot().axes
        assert diagnostic.plot(saved).axes
    assert np.array_equal(diagnostics[0].series("error")[1], diagnostics[0].series("error", saved)[1])
    steps, _ = history.series("frequency.error")
    assert steps.tolist() == [r["step"] for r in diagnostics[0].records]


def test_replay_over_snapshots_repeats_what_was_seen_live(tmp_path):
    model, objective = make("mscale"), Ritz(PROBLEM, 10.0)
    live = FrequencyProbe(theory.Sine([0.0], [1.0], 31), PROBLEM.exact)
    fit(model, objective, lambda g: objective.sample(50, 2, g), [Adam(30, lr=1e-2)], [live, Snapshots(tmp_path)])
    end = {k: v.clone() for k, v in model.state_dict().items()}
    later = FrequencyProbe(theory.Sine([0.0], [1.0], 31), PROBLEM.exact)
    assert replay(later, model, tmp_path) == live.records
    assert all(torch.equal(v, model.state_dict()[k]) for k, v in end.items())
    with pytest.raises(ValueError, match="snapshot of another network"):
        replay(later, nn.Linear(3, 3), tmp_path)
    with pytest.raises(ValueError, match="holds no snapshots; train with callbacks"):
        replay(later, model, tmp_path / "elsewhere")


def test_a_run_keeps_its_diagnostics_and_show_tells_them(tmp_path, capsys):
    import sciml
    from sciml.__main__ import command
    from sciml.results import begin
    from sciml.solvers.mscale import MscaleSolver

    solver = MscaleSolver(scales=(1, 2), widths=(8, 8), stages=[Adam(30)], interior=50)
    callbacks = theory.default_diagnostics(PROBLEM)
    path = tmp_path / "run"
    with begin(path, {"seed": 0}, "test", sciml.load) as run:
        watched = [*callbacks, Snapshots(run.path / "snapshots")]
        solution = run.solve("network", solver, PROBLEM, callbacks=watched)
        first = (run.path / "network.frequency.diagnostic.json").read_text()
        (run.path / "network.frequency.diagnostic.json").unlink()
        run.solve("network", solver, PROBLEM, callbacks=theory.default_diagnostics(PROBLEM))  # as in a resumed run
        assert (run.path / "network.frequency.diagnostic.json").read_text() == first
    for diagnostic in callbacks:
        kept = theory.read_records(path / f"network.{diagnostic.name}.diagnostic.json")
        own = [r for r in diagnostic.records if len(r) > 2]
        assert [r["step"] for r in kept] == [r["step"] for r in own]
        assert (path / f"network.{diagnostic.name}.png").exists() == bool(own)
        if own:
            assert diagnostic.plot(kept).axes
    later = theory.RelativeDistance()
    later.name = "afterwards"
    assert len(replay(later, sciml.load(path / "network.h5", PROBLEM), path)) == len(callbacks[1].records)
    later.save(path, "network")
    assert later.records[-1]["afterwards.all"] == callbacks[1].records[-1]["relative_distance.all"]
    assert command(["show", str(path)]) == 0
    shown = capsys.readouterr().out
    frequency = next(line for line in shown.splitlines() if line.startswith(" frequency"))
    assert "error " in frequency and f" {len(callbacks[0].records)} " in frequency
    assert any(line.split()[:3] == ["spike", "network", "0"] and "nothing" in line for line in shown.splitlines())
    assert "snapshots: 12 snapshots, for theory.replay" in shown and "000000.snapshot" not in shown
    assert "afterwards" in shown and "network.frequency.png" in shown and "network.afterwards.png" in shown
    assert solution.history.records  # what is drawn comes from the history, which a resumed run has complete


def every_kind():
    basis, exact = theory.Sine([0.0], [1.0], 31), PROBLEM.exact
    points = torch.linspace(0, 1, 40, dtype=torch.float64)[:, None]
    many = torch.linspace(0, 1, 250, dtype=torch.float64)[:, None]
    return [
        *everything()[1:],
        theory.RelativeDistance(),
        theory.Linearisation(points),
        theory.Condensation(),
        theory.Spikes(window=10, envelope=2, rise=1.01, score=0.5),
        theory.AdamStability(1e-2, schedule=every(5), eigenvalue=3),
        theory.LossSwitch(exact, basis=basis),
        theory.DeepFrequency(points, exact),
        theory.ModelRank(many, damping=1.0),
    ]


def test_every_kind_of_diagnostic_runs_in_a_training_and_leaves_a_picture(tmp_path):
    def kinds(cls):
        return {cls}.union(*map(kinds, cls.__subclasses__()))

    model, objective, diagnostics = make("mscale"), Ritz(PROBLEM, 10.0), every_kind()
    for name in theory.__all__:
        getattr(theory, name)
    known = {k for k in kinds(Diagnostic) if k.__module__.startswith("sciml.") and not k.__name__.startswith("_")}
    assert {type(d) for d in diagnostics} == known - {Diagnostic}
    plain = make("mscale")
    fit(plain, objective, lambda g: objective.sample(50, 2, g), [Adam(40, lr=1.0, resample=3)])
    fit(model, objective, lambda g: objective.sample(50, 2, g), [Adam(40, lr=1.0, resample=3)], diagnostics)
    assert all(torch.equal(a, b) for a, b in zip(plain.parameters(), model.parameters(), strict=True))
    for diagnostic in diagnostics:
        path = diagnostic.save(tmp_path, "network")
        assert diagnostic.records and path.with_name(f"network.{diagnostic.name}.png").stat().st_size > 5000
        assert len(theory.read_records(path)) == len(diagnostic.records)
        assert diagnostic.plot(diagnostic.records[:1]).axes  # a picture of a single record must not fail a run


def test_every_name_is_what_it_was_exported_as():
    rooms = {p.stem for p in Path(theory.__file__).parent.glob("*.py")}
    assert not rooms & set(theory.__all__), "importing such a room would hide the name"
    assert all(getattr(theory, name).__name__ for name in theory.__all__ if not name.endswith(("scaling", "field")))
    with pytest.raises(AttributeError, match="has no attribute 'nonsense'; its names are .*FrequencyProbe"):
        theory.nonsense  # noqa: B018


def test_files_of_other_kinds_are_refused(tmp_path):
    (tmp_path / "a.json").write_text("{}")
    with pytest.raises(ValueError, match="is not a file of records"):
        theory.read_records(tmp_path / "a.json")
    for name in ("one", "two"):
        Snapshots(tmp_path / name)(State(make("mscale")))
    with pytest.raises(ValueError, match="several sets of snapshots, so give one of .*one.*two"):
        replay(Noisy(), make("mscale"), tmp_path)


def test_schedules():
    due = [s for s in range(10_001) if log_spaced(10)(s)]
    assert due[:4] == [0, 1, 2, 3] and len(due) == pytest.approx(40, abs=8)
    assert np.diff(np.log(due[15:])).max() < 0.3
    assert [s for s in range(7) if every(3)(s)] == [0, 3, 6]
    with pytest.raises(ValueError, match="per_decade is 0"):
        log_spaced(0)


def test_what_cannot_be_measured_is_named():
    probe = theory.FrequencyPreference(theory.Sine([0.0], [1.0], 15))
    with pytest.raises(ValueError, match="needs the loss 'loss', but the state has no losses"):
        probe.measure(make("mscale"))
    with pytest.raises(TypeError, match="a int was given"):
        probe.measure(3)
    with pytest.raises(TypeError, match="reads parameters, but the model is a function"):
        theory.Kernel(theory.Sine([0.0], [1.0], 15)).measure(lambda x: x[:, 0])
    with pytest.raises(ValueError, match="nothing was recorded as frequency.error"):
        FrequencyProbe(theory.Sine([0.0], [1.0], 15)).series("error")
    with pytest.raises(ValueError, match="snapshots|nothing"):
        FrequencyProbe(theory.Sine([0.0], [1.0], 15)).plot()


def test_closures_are_the_terms_of_the_objective():
    model, objective = make("mscale"), LeastSquares(PROBLEM, 10.0)
    batch = objective.sample(50, 2)
    losses = theory.loss_closures(model, objective, batch)
    terms = objective.terms(model, batch)
    parameters = theory.parameters_of(model)
    for name, value in terms.items():
        assert torch.equal(losses[name](parameters), value)
    assert torch.allclose(losses["loss"](parameters), sum(terms.values()))
    gradient = torch.func.grad(losses["loss"])(parameters)
    sum(terms.values()).backward()
    for name, p in model.named_parameters():
        assert torch.allclose(gradient[name], p.grad, rtol=1e-9, atol=1e-12)
    assert theory.TermBalance().measure(State(model, losses=losses))["ratio"] >= 1


def perforated():
    exact = lambda x: torch.sin(3 * x).prod(1)  # noqa: E731
    return Elliptic.manufactured(Box([-1, -1], [1, 1]) - Ball([0.3, 0.3], 0.3), exact)


def burgers():
    start = lambda x: -torch.sin(torch.pi * x[:, 0])  # noqa: E731
    return Evolution(Box([-1], [1]), lambda x, u: 0.1 * u.xx - u * u.x, start, conditions=[Dirichlet(0.0)])


@pytest.mark.parametrize("problem", [lambda: PROBLEM, perforated, burgers])
def test_default_diagnostics_fit_every_problem(problem):
    problem = problem()
    callbacks = theory.default_diagnostics(problem)
    stated = problem.pde() if hasattr(problem, "pde") else problem
    network = Mscale(stated.domain.dim, [8, 8], [1, 2], generator=torch.Generator().manual_seed(0)).double()
    objective = LeastSquares(stated, 10.0)
    history = fit(network, objective, lambda g: objective.sample(50, 20, g), [Adam(4)], callbacks)
    probe = callbacks[0]
    names = {k.split(".")[0] for r in history.records for k in r} - {"step", "seconds"}
    assert {"frequency", callbacks[1].name, "effective_neurons"} <= names
    last = probe.records[-1]
    assert np.isfinite(last["frequency.residual"]).all()
    assert ("frequency.error" in last) == (stated.exact is not None)
    kinked = Mscale(stated.domain.dim, [8, 8], [1], activation=relu).double()
    assert np.isnan(probe.measure(kinked)["residual"]).all()  # its second derivatives miss the kinks
