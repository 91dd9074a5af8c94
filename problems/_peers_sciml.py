"""`sciml` and the classical solvers on the peers' problems, each in a process of its own: ``METHOD`` is the fifth word.

solve         the front door with nothing but a tolerance, 1e-2 to 1e-12
elements      scikit-fem's P4 elements on curved cells (line, holes)
differences   second-order finite differences (line, holes; the method of lines for Burgers' equation)
"""
# mypy: ignore-errors

import sys

from _peers_equations import EPS, MU, NU, Meter

from sciml import FiniteDifference, FiniteElement, solve
from sciml.problems import burgers, p_laplacian, poisson


def stated(name):
    """The same problems in sciml's words."""
    if name == "holes":
        return poisson.Elliptic.manufactured(poisson.plate(), poisson.product_of_sines(MU))
    if name == "burgers":
        return burgers.forward(NU)
    return p_laplacian.CASES[name](2.0, EPS)


def attempts(method, problem, meter):
    """(setting, how to solve, factor by which the next takes longer) from cheap to dear."""
    if method == "solve":
        for tolerance in (1e-2, 1e-4, 1e-6, 1e-8, 1e-10, 1e-12):
            yield (
                f"tolerance {tolerance:g}",
                lambda t=tolerance: solve(problem, t, meter.seed, seconds=max(meter.left, 1.0)),
                1.0,
            )
    elif method == "elements":
        for n in [2**k for k in range(3, 14)]:
            yield (
                f"{n} cells a side, P4",
                lambda n=n: FiniteElement(n, degree=4).solve(problem),
                2.0 ** (problem.dim + 1),
            )
    else:
        for n in [2**k for k in range(5, 20)]:
            yield f"{n} cells a side", lambda n=n: FiniteDifference(n).solve(problem), 2.0 ** (problem.dim + 1)


def main():
    meter = Meter()
    note = ""
    for setting, run, factor in attempts(sys.argv[5], stated(meter.problem.name), meter):
        meter.fresh()
        try:
            solution = run()
        except (ValueError, TypeError, MemoryError) as refusal:
            note = str(refusal)
            break
        meter.record(solution, setting)
        note = solution.status
        if meter.curve[-1]["seconds"] * factor > meter.left:
            break
    meter.write(note)


if __name__ == "__main__":
    main()
