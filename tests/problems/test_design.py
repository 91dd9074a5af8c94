"""The toy design problem: its constraints bind, and every method's answer is feasible and above the best known."""

import numpy as np

from sciml.problems import design


def toy(dim=6, seed=0):
    return design.Toy(design.Config(dim=dim), np.random.default_rng(seed))


def test_the_target_is_infeasible_and_the_middle_feasible():
    for seed in range(5):
        problem = toy(100, seed)
        assert problem.constraint(problem.target).max() > 1 and problem.constraint(np.zeros(100)).max() <= 1


def test_a_simulation_says_objective_and_errors_in_units_of_the_limit():
    problem = toy()
    x = np.full(6, 0.1)
    objective, errors = problem(x)
    assert objective == np.mean((x - problem.target) ** 2) and problem.calls == 1
    np.testing.assert_allclose(errors, np.maximum(problem.constraint(x), 0))


def test_the_best_known_is_on_the_boundary_and_no_budget_beats_it():
    problem = toy()
    bound = design.best_known(problem, [np.zeros(6), np.full(6, 0.1)])
    history = design.classical(problem, np.zeros(6), 150)
    assert len(history) <= 150 and (np.diff(history) <= 0).all()
    assert 0 < bound <= history[-1] + 1e-6 < problem.objective(np.zeros(6))
