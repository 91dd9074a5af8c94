"""Variable projection: the last layer is the least-squares optimum, the inner Jacobian the projected one."""

import pytest
import torch

from sciml import MscaleSolver, compare
from sciml.activations import sine, tanh
from sciml.hard import Hard
from sciml.networks import Dense, Mscale
from sciml.objective import least_squares, ritz
from sciml.optimizers import GaussNewton, VariableProjection, sample_jacobian
from sciml.optimizers.jacobians import last_layer_of
from sciml.training import fit
from tests import cases
from tests.test_training import Tiny

F64 = torch.float64


def fixed(objective, interior, boundary):
    return lambda generator: objective.sample(interior, boundary, generator, sobol=True)


@pytest.mark.parametrize(
    "make",
    [
        lambda: Dense(2, (8, 10), activation=tanh),
        lambda: Mscale(2, (6, 6), (1, 2), activation=sine),
        lambda: Mscale(2, (12,), (1, 2, 4), kind=1, fourier=1.0),
    ],
)
def test_the_last_layer_is_the_least_squares_optimum(make):
    """Against the normal equations of a matrix built column by column from unit weights."""
    objective, model = least_squares(cases.mixed_2d()), make()
    batches = fixed(objective, 200, 80)
    inner_before = [p.detach().clone() for p in model.parameters()]
    history = fit(model, objective, batches, [VariableProjection(5, inner=False)])
    assert len(history.steps) == 1 and "the last layer is solved" in history.status
    names = last_layer_of(model)
    for (name, p), old in zip(model.named_parameters(), inner_before, strict=True):
        assert torch.equal(p, old) != (name in names)
    batch = batches(torch.Generator().manual_seed(0))
    last = [p for name, p in model.named_parameters() if name in names]
    with torch.no_grad():
        best = [p.clone() for p in last]

        def residual(parts):
            for p, value in zip(last, parts, strict=True):
                p.copy_(value)
            return objective.residuals(model, batch)

        loss = float(residual(best).square().sum())
        zero = residual([torch.zeros_like(p) for p in last])
        columns = []
        for k, p in enumerate(last):
            for i in range(p.numel()):
                unit = [torch.zeros_like(q) for q in last]
                unit[k].view(-1)[i] = 1
                columns.append(residual(unit) - zero)
        residual(best)
    a = torch.stack(columns, 1)
    least = torch.linalg.lstsq(a, -zero[:, None], driver="gelsd").solution
    expected = float((a @ least + zero[:, None]).square().sum())
    assert loss == pytest.approx(expected, rel=1e-6, abs=1e-18)
    assert history.steps[0]["loss"] == pytest.approx(0.5 * loss, rel=1e-6)


def test_the_projected_gradient_is_that_of_the_reduced_loss():
    """The reduced loss min_c |r(theta, c)|^2 / 2 by differences; Kaufman's Jacobian gives its exact gradient."""
    objective, model = least_squares(cases.variable_2d()), Dense(2, (5, 6), activation=tanh)
    batches = fixed(objective, 100, 60)
    solve = [VariableProjection(1, inner=False)]
    fit(model, objective, batches, solve)
    batch = batches(torch.Generator().manual_seed(0))
    inner = [k for k, _ in model.named_parameters() if k not in last_layer_of(model)]
    r, j, _ = sample_jacobian(objective.residuals, model, batch, only=inner)
    gradient = j.T @ r
    direction = torch.randn(len(gradient), generator=torch.Generator().manual_seed(1), dtype=F64)
    start = {k: v.clone() for k, v in model.state_dict().items()}
    values = []
    for h in (1e-4, -1e-4):
        model.load_state_dict(start)
        begin = 0
        with torch.no_grad():
            for name, p in model.named_parameters():
                if name in inner:
                    p += h * direction[begin : begin + p.numel()].reshape(p.shape)
                    begin += p.numel()
        fit(model, objective, batches, solve)
        values.append(0.5 * float(objective.residuals(model, batch).detach().square().sum()))
    assert (values[0] - values[1]) / 2e-4 == pytest.approx(float(gradient @ direction), rel=1e-4)


@pytest.mark.parametrize("name", ["poisson_2d", "variable_2d"])
def test_it_gains_digits_over_gauss_newton_at_equal_steps(name):
    problem, errors = cases.CASES[name](), []
    for stage in (VariableProjection(30), GaussNewton(30)):
        solver = MscaleSolver(
            network=lambda i, o, g: Dense(i, (12, 24), o, tanh, generator=g, box=([0, 0], [1, 1]), normalise=True),
            ritz=False,
            penalty=100.0,
            stages=[stage],
            interior=600,
            boundary=200,
        )
        errors.append(compare(solver.solve(problem), problem.exact, problem.domain)["rel_l2"])
    assert errors[0] < 5e-6 and errors[0] < 0.5 * errors[1]


def test_resume_is_bit_identical(tmp_path):
    problem = cases.poisson_2d()
    objective = least_squares(problem)

    def train(**options):
        model = Hard(Dense(2, (6, 8), activation=sine), problem.domain)
        draw = lambda g: objective.sample(100, 4, g, hard=True)  # noqa: E731
        fit(model, objective, draw, [VariableProjection(12, resample=5)], **options)
        return torch.cat([p.detach().reshape(-1) for p in model.parameters()])

    def interrupt(step):
        if step.number == 7:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(callbacks=[interrupt], checkpoint=tmp_path / "c.h5")
    assert torch.equal(train(checkpoint=tmp_path / "c.h5"), train())


def test_what_it_cannot_do_is_a_sentence():
    with pytest.raises(ValueError, match="needs a Dense or Mscale network"):
        VariableProjection().start(Tiny())
    with pytest.raises(ValueError, match="damping is 0"):
        VariableProjection(damping=0)
    nonlinear = least_squares(cases.p_laplacian_1d(3.0))
    with pytest.raises(ValueError, match="nonlinear in u; use GaussNewton"):
        fit(Dense(1, (8, 8)), nonlinear, fixed(nonlinear, 100, 2), [VariableProjection(3)])
    with pytest.raises(ValueError, match="equations for 41 weights"):
        few = least_squares(cases.poisson_1d())
        fit(Dense(1, (40,)), few, fixed(few, 16, 2), [VariableProjection(3)])
    with pytest.raises(TypeError, match="needs a LeastSquares objective"):
        energy = ritz(cases.poisson_1d())
        fit(Dense(1, (8, 8)), energy, fixed(energy, 100, 2), [VariableProjection(3)])
