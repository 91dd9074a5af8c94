"""Where a Gauss-Newton step spends its time: `python -m tests.bench_gaussnewton` prints a table.

The share of BLAS and LAPACK (matrix products, factorisations, triangular solves) in the self time of all operations of
a few steps, at the sizes of the problems that Gauss-Newton is there for:

    five      Example 4.6 of arXiv:2009.14597, 2 x 32 sines, 2500 points
    burgers   nu = 0.01 / pi, 3 x 24 tanh, 5000 points
    ten       10-D Poisson, 2 x 32 sines, 2500 points
"""

import math
import sys
import time

import torch
from torch.profiler import ProfilerActivity, profile, record_function

from sciml.activations import sine, tanh
from sciml.domain import Box
from sciml.networks import Dense
from sciml.optimizers import GaussNewton, gaussnewton
from sciml.problem import Elliptic
from sciml.problems import burgers, p_laplacian
from sciml.solvers.mscale import MscaleSolver

LAPACK = ("aten::mm", "aten::addmm", "aten::bmm", "aten::baddbmm", "aten::addmv_", "aten::dot", "blas::syrk")
LAPACK += ("aten::linalg_cholesky_ex", "aten::tril", "aten::_cholesky_solve_helper")  # tril only cleans up
LAPACK += ("aten::linalg_solve_triangular", "aten::linalg_qr", "aten::linalg_eigh")

CASES = {
    "five": (lambda: p_laplacian.CASES["five"](2.0, 0.1), (32, 32), sine, 2500),
    "burgers": (lambda: burgers.forward(0.01 / math.pi), (24, 24, 24), tanh, 5000),
    "ten": (
        lambda: Elliptic.manufactured(Box([0.0] * 10, [1.0] * 10), lambda x: torch.sin(3 * x.mean(1))),
        (32, 32),
        sine,
        2500,
    ),
}


class Watch:
    """Profiles from the end of the first step, which warms up, to that of the last; a callback of `fit`."""

    def __init__(self):
        self.profile = profile(activities=[ProfilerActivity.CPU])
        self.begun, self.steps = None, 0

    def __call__(self, step):
        if self.begun is None:
            self.profile.start()
            self.begun = time.perf_counter()
        else:
            self.steps += 1
            self.seconds = time.perf_counter() - self.begun


def share(name, steps=4):
    """Seconds per step, the share of BLAS and LAPACK, and the dearest of all other operations."""
    make, widths, activation, points = CASES[name]
    problem = make()
    box = tuple(b.tolist() for b in problem.domain.bounds)
    solver = MscaleSolver(
        network=lambda inputs, outputs, generator: Dense(
            inputs, widths, outputs, activation, generator=generator, box=box
        ),
        ritz=False,
        stages=[GaussNewton(steps + 1)],
        interior=points,
    )
    watch, plain = Watch(), gaussnewton._gram

    def named(jacobian, primal):  # scipy's product is unknown to the profiler
        with record_function("blas::syrk"):
            return plain(jacobian, primal)

    gaussnewton._gram = named
    try:
        solver.solve(problem, 0, [watch])
    finally:
        gaussnewton._gram = plain
    watch.profile.stop()
    spent = {e.key: e.self_cpu_time_total * 1e-6 for e in watch.profile.key_averages()}
    total = sum(spent.values())
    others = sorted(((v, k) for k, v in spent.items() if k not in LAPACK), reverse=True)[:6]
    inside = sum(spent.get(k, 0.0) for k in LAPACK)
    return watch.seconds / watch.steps, inside / watch.seconds, total / watch.seconds, others, watch.seconds


def main(threads=(1, 2)):
    """Print the table."""
    for count in threads:
        torch.set_num_threads(count)
        for name in CASES:
            seconds, inside, seen, others, all_of_it = share(name)
            verdict = "reached" if inside >= 0.5 else "MISSED"
            rest = ", ".join(f"{k} {v / all_of_it:.0%}" for v, k in others)
            print(
                f"{count} threads, {name}: {seconds:.3f} s a step, {inside:.0%} inside BLAS and LAPACK, half {verdict}"
                f" (operations {seen:.0%}; then {rest})",
                flush=True,
            )


if __name__ == "__main__":
    main(tuple(int(a) for a in sys.argv[1:]) or (1, 2))
