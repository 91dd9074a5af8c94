"""fastlsq on the peers' problems: random sines, one least-squares solve (Newton's method for Burgers' equation).

Settings of its README: three blocks, three points per feature, ``method="auto"`` as `solve_linear` does. Its automatic
scale needs the exact solution, so the scale is chosen by hand for each problem, and that search is not counted.
"""
# mypy: ignore-errors

import torch
from _peers_equations import NU, Meter
from fastlsq import FastLSQSolver
from fastlsq.linalg import solve_lstsq
from fastlsq.newton import build_solver_with_scale, continuation_solve, get_initial_guess

SCALE = {"holes": 15.0, "five": 1.5, "burgers": 12.0, "line": 250.0}
WEIGHT = {"holes": 1000.0, "five": 100.0, "burgers": 200.0, "line": 1e5}  # of boundary rows


class Burgers:
    """The interface of fastlsq's own nonlinear problems, with viscosity marching."""

    dim, weight = 2, WEIGHT["burgers"]

    def __init__(self):
        self.nu = NU

    def source(self, x):
        return torch.zeros(len(x), 1)

    def rows(self, solver, x, bcs, equation, right):
        a, b = [equation], [right]
        for edge, value in bcs:
            features = solver.basis.evaluate(edge)
            a.append(self.weight * features)
            b.append(self.weight * (value - features @ solver.beta))
        return torch.cat(a), torch.cat(b)

    def build_newton_step(self, solver, x, bcs, f):
        basis = solver.basis
        cache = basis.cache(x)
        value, first = basis.evaluate(x, cache=cache), basis.gradient(x, cache=cache)
        second = basis.hessian_diag(x, cache=cache)[:, 1]
        t, dx = first[:, 0], first[:, 1]
        u, ux = value @ solver.beta, dx @ solver.beta
        residual = t @ solver.beta + u * ux - self.nu * (second @ solver.beta)
        return self.rows(solver, x, bcs, t + u * dx + ux * value - self.nu * second, -residual)

    def build_linear_init(self, solver, x, bcs, f):
        basis = solver.basis
        second = basis.hessian_diag(x)[:, 1]
        a = [basis.gradient(x)[:, 0] - self.nu * second]
        b = [torch.zeros(len(x), 1)]
        for edge, value in bcs:
            a.append(self.weight * basis.evaluate(edge))
            b.append(self.weight * value)
        return torch.cat(a), torch.cat(b)


def linear(meter, n):
    problem = meter.problem
    solver = FastLSQSolver(problem.dim)
    for _ in range(3):
        solver.add_block(n // 3, SCALE[problem.name])
    generator = meter.generator()
    x = problem.interior(max(3000, 3 * n), generator)
    edge = problem.boundary(max(800, 3 * n // 5), generator)
    a, slope = problem.diffusion(x)
    basis = solver.basis
    cache = basis.cache(x)
    matrix = -a[:, None] * basis.laplacian(x, cache=cache)
    if problem.name != "holes":
        matrix = matrix - torch.einsum("nd,ndh->nh", slope, basis.gradient(x, cache=cache))
    weight = WEIGHT[problem.name]
    rows = torch.cat([matrix, weight * basis.evaluate(edge)])
    right = torch.cat([problem.source(x), weight * problem.given(edge)])[:, None]
    solver.beta = solve_lstsq(rows, right, method="auto")
    return solver


def burgers(meter, n):
    problem = Burgers()
    solver = build_solver_with_scale(2, SCALE["burgers"], 3, n // 3)
    generator = meter.generator()
    x = meter.problem.interior(max(3000, 3 * n), generator)
    edge = meter.problem.boundary(max(800, 3 * n // 5), generator)
    bcs, f = [(edge, meter.problem.given(edge)[:, None])], problem.source(x)
    problem.nu = 0.1
    get_initial_guess(solver, problem, x, bcs, f, mu=1e-10)
    continuation_solve(
        solver, problem, x, bcs, f, "nu", [0.1, 0.03, 0.01, NU], max_newton_per_step=12, mu=1e-10, verbose=False
    )
    return solver


def main():
    meter = Meter()
    n = 300
    while True:
        torch.manual_seed(meter.seed)
        meter.fresh()
        solver = (burgers if meter.problem.name == "burgers" else linear)(meter, n)
        meter.record(solver.predict, f"{n} features")
        # cost grows with the cube of the number of features
        if meter.curve[-1]["seconds"] * 3.5 > meter.left or n > 12000:
            break
        n = int(1.5 * n) // 3 * 3
    meter.write("scale chosen by hand on the exact solution")


if __name__ == "__main__":
    main()
