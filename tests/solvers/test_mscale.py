"""The multi-scale solver on every kind of problem that it claims, and on what it must refuse."""

import math
from dataclasses import replace

import pytest
import torch
from torch import nn

from sciml import PDE, Box, Data, Dirichlet, Elliptic, Evolution, Initial, MscaleSolver, Periodic, compare, load
from sciml.networks import Dense, phi, relu, s2relu, sine, srelu, tanh
from sciml.objective import least_squares
from sciml.optimizers import GaussNewton
from sciml.solvers.hardbox import HardBox
from sciml.training import LBFGS, Adam
from tests import cases

PI = math.pi
SMALL = MscaleSolver(scales=(1, 2), widths=(12, 12), interior=256, boundary=128)


def dense(inputs, outputs, generator):
    return Dense(inputs, (16, 16), outputs, activation=tanh, generator=generator)


def with_options(solver=SMALL, **options):
    return MscaleSolver(**{**vars(solver), **options})


@pytest.mark.parametrize("name", cases.CASES)
@pytest.mark.parametrize("ritz", [True, False])
def test_every_elliptic_case(name, ritz):
    problem = cases.CASES[name]()
    solver = with_options(ritz=ritz, penalty=1000.0 if ritz else 100.0, stages=[Adam(400, lr=5e-3), GaussNewton(25)])
    solution = solver.solve(problem)
    # the energy's minimiser on 256 points and the penalty's bias limit Ritz; least squares has no bias
    assert compare(solution, problem.exact, problem.domain)["rel_l2"] < (0.1 if ritz else 2e-3)


def test_p_laplacian_by_its_energy():
    problem = cases.p_laplacian_1d(3.0, 0.5)
    solver = with_options(interior=512, stages=[Adam(600, lr=5e-3), GaussNewton(20)])
    assert compare(solver.solve(problem), problem.exact, problem.domain)["rel_l2"] < 0.03


@pytest.mark.parametrize(("activation", "below"), [(s2relu, 0.02), (srelu, 0.3), (phi, 0.05), (relu, 0.4)])
def test_compact_and_kinked_activations_have_an_energy(activation, below):
    problem = cases.poisson_1d()
    solver = with_options(activation=activation, scales=(1, 2, 4), stages=[Adam(600, lr=5e-3)], ritz=True)
    assert compare(solver.solve(problem), problem.exact, problem.domain)["rel_l2"] < below


def test_hard_boundary_values_hold_exactly():
    problem = Elliptic(Box([0, 0], [1, 1]), 1.0, 2.5)
    solution = with_options(stages=[Adam(5)]).solve(problem)
    points = problem.domain.boundary(100).points
    assert (solution(points) - 2.5).abs().max() < 1e-14
    soft = with_options(stages=[Adam(5)], hard=False).solve(problem)
    assert (soft(points) - 2.5).abs().max() > 1e-3
    with pytest.raises(ValueError, match="hard=True needs one constant"):
        with_options(hard=True).solve(cases.poisson_holes())


def wave_in_a_box():
    """u_t = u_xx / 10 with values that change along every face."""
    exact = lambda p: torch.exp(-0.1 * p[:, 0]) * torch.cos(p[:, 1]) + p[:, 1] ** 2 * p[:, 0]  # noqa: E731
    forcing = lambda x: x[:, 1] ** 2 - 0.2 * x[:, 0]  # noqa: E731
    residual = lambda x, u: u.t - 0.1 * u.xx - forcing(x)  # noqa: E731
    return PDE(Box([0, -1], [2, 1]), "tx", residual, [Initial(exact), Dirichlet(exact)], exact=exact)


def test_values_on_faces_are_built_in(tmp_path):
    problem = wave_in_a_box()
    solver = with_options(network=dense, hard=True, stages=[GaussNewton(20)])
    solution = solver.solve(problem)
    points, _, labels = problem.domain.boundary(400)
    given = labels != 1  # all but the final time
    assert (solution(points[given]) - problem.exact(points[given])).abs().max() < 1e-14
    assert compare(solution, problem.exact, problem.domain)["rel_l2"] < 1e-6
    solution.save(tmp_path / "s.h5")
    x = problem.domain.interior(20)
    assert torch.equal(load(tmp_path / "s.h5", problem=problem)(x), solution(x))
    with pytest.raises(ValueError, match="give problem="):
        load(tmp_path / "s.h5")
    other = PDE(problem.domain, "tx", lambda x, u: u.t - u.xx, [Initial(2.0), Dirichlet(2.0)])
    with pytest.raises(ValueError, match="other boundary values"):
        load(tmp_path / "s.h5", problem=other)


@pytest.mark.parametrize("dim", [2, 3])
def test_the_lift_takes_the_values_of_all_faces(dim):
    exact = lambda x: torch.exp(x[:, 0]) * torch.sin(2 * x[:, 1]) + x[:, -1] ** 3  # noqa: E731
    problem = Elliptic.manufactured(Box([0] * dim, [1, 2, 3][:dim]), exact)
    field = HardBox(Dense(dim, (4,)), problem)
    points = problem.domain.boundary(300).points
    torch.testing.assert_close(field.lift(points), exact(points))
    assert field.factor(points).abs().max() < 1e-14 and bool((field.factor(problem.domain.interior(50)) > 0).all())


def test_values_that_cannot_be_built_in_are_sentences():
    box = Box([0, 0], [1, 1])
    torn = PDE(box, "tx", lambda x, u: u.t - u.xx, [Initial(1.0), Dirichlet(0.0)])
    with pytest.raises(ValueError, match="differ by 1.0e\\+00 where they meet"):
        with_options(hard=True).solve(torn)
    with pytest.raises(ValueError, match="on whole faces of a Box"):
        with_options(hard=True).solve(cases.mixed_2d())


def test_adaptive_points_follow_the_residual_without_bias():
    problem = cases.poisson_2d()
    objective = least_squares(problem)
    field = lambda x: torch.exp(-200 * (x - 0.3).square().sum(1))  # noqa: E731
    generator = torch.Generator().manual_seed(0)
    many = objective.sample(20_000, 10, generator, sobol=True)
    whole = float(objective.terms(field, many)["equation"])
    found = {"adaptive": [], "even": []}
    for _ in range(40):
        drawn = objective.concentrate(field, objective.sample(2000, 10, generator), 200, generator)
        block = drawn.blocks["interior"]
        assert len(block.x) == 200 and len(block.given[0]) == 200
        torch.testing.assert_close(block.given[0], problem.source(block.x))
        found["adaptive"].append(float(objective.terms(field, drawn)["equation"]))
        found["even"].append(float(objective.terms(field, objective.sample(200, 10, generator))["equation"]))
    adaptive, even = (torch.tensor(found[k], dtype=torch.float64) for k in ("adaptive", "even"))
    assert abs(float(adaptive.mean()) / whole - 1) < 4 * float(adaptive.std()) / whole / math.sqrt(40) + 0.01
    assert adaptive.std() < 0.5 * even.std()
    near = ((block.x - 0.3).square().sum(1) < 0.04).double().mean()
    assert near > 3 * 0.04 * PI * 0.5


def test_adaptive_training_resumes_bit_for_bit(tmp_path):
    problem = cases.poisson_2d()
    solver = with_options(ritz=False, adaptive=True, stages=[Adam(30, resample=7)], interior=64)

    def interrupt(step):
        if step.number == 17:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        solver.solve(problem, callbacks=[interrupt], checkpoint=tmp_path / "c.h5")
    x = problem.domain.interior(50)
    assert torch.equal(solver.solve(problem)(x), solver.solve(problem, checkpoint=tmp_path / "c.h5")(x))
    with pytest.raises(ValueError, match="need a residual"):
        with_options(ritz=True, adaptive=True).solve(problem)


def test_balanced_terms_pull_equally():
    """A boundary condition in other units: balanced weights undo the units, a fixed penalty does not."""
    exact = lambda x: torch.sin(3 * x[:, 0]) * torch.exp(x[:, 1])  # noqa: E731
    errors = {}
    for balanced in (True, False):
        domain = Box([0, 0], [1, 1])
        residual = lambda x, u: 1e6 * (u.laplacian + 8 * exact(x))  # noqa: E731
        problem = PDE(domain, "xy", residual, [Dirichlet(exact)], exact=exact)
        solver = with_options(network=dense, stages=[GaussNewton(30)], balanced=balanced)
        errors[balanced] = compare(solver.solve(problem), exact, domain)["rel_l2"]
    assert errors[True] < 1e-4 and errors[True] < 0.1 * errors[False]


def test_equation_of_first_order_in_time():
    heat = Evolution(
        Box([0], [1]),
        lambda x, u: 0.1 * u.xx,
        lambda x: torch.sin(PI * x[:, 0]),
        [Dirichlet(0.0)],
        exact=lambda p: torch.exp(-0.1 * PI**2 * p[:, 0]) * torch.sin(PI * p[:, 1]),
    )
    solver = with_options(network=dense, penalty=10.0, stages=[Adam(200, lr=5e-3), GaussNewton(30)])
    assert compare(solver.solve(heat), heat.exact, heat.domain)["rel_l2"] < 1e-3


def test_periodic_transport():
    """u_t + u_x = 0 carries a wave around the circle."""
    exact = lambda p: torch.sin(2 * PI * (p[:, 1] - p[:, 0]))  # noqa: E731
    problem = PDE(Box([0, 0], [0.5, 1]), "tx", lambda x, u: u.t + u.x, [Initial(exact), Periodic("x")], exact=exact)
    solver = with_options(network=dense, penalty=10.0, stages=[Adam(300, lr=5e-3), GaussNewton(40)])
    assert compare(solver.solve(problem), exact, problem.domain)["rel_l2"] < 5e-3


def test_system():
    """u' = v, v' = -u from (0, 1): sine and cosine."""
    problem = PDE(
        Box([0], [2]),
        "t",
        lambda t, u: (u[0].t - u[1], u[1].t + u[0]),
        [Initial(0.0), Initial(1.0, component=1)],
        exact=lambda t: torch.stack([torch.sin(t[:, 0]), torch.cos(t[:, 0])], 1),
    )
    solver = with_options(network=dense, penalty=10.0, stages=[Adam(200, lr=5e-3), GaussNewton(40)])
    solution = solver.solve(problem)
    assert solution(torch.zeros(3, 1, dtype=torch.float64)).shape == (3, 2)
    assert compare(solution, problem.exact, problem.domain)["rel_l2"] < 1e-4


def scalar_inverse(noise, seed, a=2.0):
    """-a u'' = 1, u(0) = u(1) = 0: u = x (1 - x) / (2 a), with a unknown."""
    generator = torch.Generator().manual_seed(100 + seed)
    points = torch.rand(40, 1, generator=generator, dtype=torch.float64)
    values = points[:, 0] * (1 - points[:, 0]) / (2 * a)
    values = values + noise * torch.randn(40, generator=generator, dtype=torch.float64)
    conditions = [Dirichlet(0.0), Data(points, values)]
    return PDE(Box([0], [1]), "x", lambda x, u, q: q.a * u.xx + 1, conditions, unknowns={"a": 1.0})


def test_inverse_problem_and_its_standard_error():
    """The value is found, and over repetitions of the noise it scatters as the standard error says."""
    solver = with_options(
        network=lambda i, o, g: Dense(i, (6,), o, activation=tanh, generator=g),
        penalty={"equation": 1.0, "dirichlet": 100.0, "data": 1000.0},
        stages=[Adam(100, lr=1e-2), GaussNewton(40)],
        interior=40,
        boundary=2,
    )
    found = [solver.solve(scalar_inverse(0.002, seed)).parameters["a"] for seed in range(8)]
    values, errors = torch.tensor(found, dtype=torch.float64).T
    # least squares for one parameter, known in closed form: da = 2 a^2 noise / |x (1 - x)|
    x = torch.linspace(0, 1, 1001)
    expected = 8 * 0.002 / math.sqrt(40 * float((x * (1 - x)).square().mean()))
    assert (values - 2).abs().max() < 4 * expected
    assert 0.5 * expected < float(errors.mean()) < 2 * expected
    assert 0.3 * expected < float(values.std()) < 2 * expected


def test_same_seed_same_solution():
    problem = cases.poisson_2d()
    x = problem.domain.interior(50)
    first, again, other = (with_options(stages=[Adam(20)]).solve(problem, seed=s)(x) for s in (3, 3, 4))
    assert torch.equal(first, again) and not torch.equal(first, other)


def test_save_load_and_resume(tmp_path):
    problem = cases.poisson_holes()
    solver = with_options(stages=[Adam(40)])
    whole = solver.solve(problem)
    path = tmp_path / "checkpoint.h5"

    def interrupt(step):
        if step.number == 17:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        solver.solve(problem, callbacks=[interrupt], checkpoint=path)
    resumed = solver.solve(problem, checkpoint=path)
    x = problem.domain.interior(50)
    assert torch.equal(whole(x), resumed(x))
    resumed.save(tmp_path / "s.h5")
    again = load(tmp_path / "s.h5")
    assert torch.equal(again(x), whole(x))
    assert again.status == whole.status and len(again.history.steps) == 40
    assert (again(x.numpy()) == whole(x).numpy()).all()


def test_hard_solutions_are_stored_with_their_domain(tmp_path):
    problem = cases.reaction_1d()
    solution = with_options(stages=[Adam(5)]).solve(problem)
    solution.save(tmp_path / "s.h5")
    x = problem.domain.interior(20)
    assert torch.equal(load(tmp_path / "s.h5")(x), solution(x))


def test_single_precision_and_other_modules():
    class Polynomial(nn.Module):
        def __init__(self):
            super().__init__()
            self.c = nn.Parameter(torch.zeros(6))

        def forward(self, x):
            return (x ** torch.arange(6, device=x.device)) @ self.c

    problem = cases.poisson_1d()
    solver = with_options(network=lambda i, o, g: Polynomial(), stages=[LBFGS(100)], hard=False, dtype=torch.float64)
    assert compare(solver.solve(problem), problem.exact, problem.domain)["rel_l2"] < 0.02
    single = with_options(stages=[Adam(300, lr=5e-3)], dtype=torch.float32).solve(problem)
    assert next(single.field.parameters()).dtype == torch.float32
    assert single(problem.domain.interior(5)).dtype == torch.float64
    assert compare(single, problem.exact, problem.domain)["rel_l2"] < 0.1


def test_refusals_are_sentences():
    for options, sentence in (
        ({"interior": 0}, "interior is 0, but must be a whole number of points"),
        ({"boundary": 2.5}, "boundary is 2.5"),
        ({"tolerance": 1e-20}, "tolerance is 1e-20, but float64 can give 1e-14 at best"),
    ):
        with pytest.raises(ValueError, match=sentence):
            MscaleSolver(**options)
    with pytest.raises(ValueError, match=r"only C\^0"):
        with_options(activation=relu, ritz=False).solve(cases.poisson_1d())
    with pytest.raises(TypeError, match="MscaleSolver accepts"):
        SMALL.solve("poisson")
    with pytest.raises(TypeError, match="ritz needs an Elliptic"):
        with_options(ritz=True).solve(PDE(Box([0], [1]), "x", lambda x, u: u.x))


def test_divergence_is_a_status():
    solution = with_options(activation=sine, stages=[Adam(300, lr=1e8)]).solve(cases.poisson_2d())
    assert solution.status.startswith("diverged") and "learning rate" in solution.status


def test_too_few_points_for_the_parameters_are_told():
    stages = [GaussNewton(30)]
    solver = MscaleSolver(ritz=False, scales=(1,), widths=(12, 12), interior=20, boundary=8, hard=False, stages=stages)
    few = solver.solve(cases.poisson_2d())
    assert "only 28 equations for 205 parameters" in few.status and not few.status.startswith("converged")
    short = replace(solver, stages=[GaussNewton(2)]).solve(cases.poisson_2d())
    assert "all 2 steps done; only 28 equations" in short.status
    many = replace(solver, interior=400, boundary=100, stages=[GaussNewton(3)]).solve(cases.poisson_2d())
    assert "equations for" not in many.status
