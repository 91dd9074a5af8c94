"""Solve PDEs and reacting-flow chemistry with multi-scale networks, beside honest references.

    from sciml import Ball, Box, Elliptic, FiniteDifference, MscaleSolver, compare

    problem = Elliptic(Box([-1, -1], [1, 1]) - Ball([0.5, 0.5], 0.3), source=1.0, boundary=0.0)
    solution = MscaleSolver().solve(problem, seed=0)
    reference = FiniteDifference(n=256).solve(problem)
    compare(solution, reference, problem.domain)["rel_l2"]

The names are resolved on first use (PEP 562): `import sciml` costs nothing and the command line answers at once.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sciml.calculus import Field, Jet, jet
    from sciml.conditions import Data, Dirichlet, Initial, Neumann, Periodic, Relation, Robin
    from sciml.domain import Ball, Box, Ellipsoid, Polygon
    from sciml.problem import PDE, Elliptic, Evolution, Piecewise
    from sciml.solution import Solution, compare, load
    from sciml.solvers.bases import Neurons, Sines
    from sciml.solvers.differences import FiniteDifference, Jacobi
    from sciml.solvers.elements import FiniteElement
    from sciml.solvers.features import FeatureSolver
    from sciml.solvers.front import solve
    from sciml.solvers.greens import Family, GreensSolver, Operator
    from sciml.solvers.mscale import MscaleSolver

__all__ = [
    "PDE",
    "Ball",
    "Box",
    "Data",
    "Dirichlet",
    "Ellipsoid",
    "Elliptic",
    "Evolution",
    "Family",
    "FeatureSolver",
    "Field",
    "FiniteDifference",
    "FiniteElement",
    "GreensSolver",
    "Initial",
    "Jacobi",
    "Jet",
    "MscaleSolver",
    "Neumann",
    "Neurons",
    "Operator",
    "Periodic",
    "Piecewise",
    "Polygon",
    "Relation",
    "Robin",
    "Sines",
    "Solution",
    "compare",
    "jet",
    "load",
    "solve",
]

_ROOMS = {
    "calculus": ("Field", "Jet", "jet"),
    "conditions": ("Data", "Dirichlet", "Initial", "Neumann", "Periodic", "Relation", "Robin"),
    "domain": ("Ball", "Box", "Ellipsoid", "Polygon"),
    "problem": ("PDE", "Elliptic", "Evolution", "Piecewise"),
    "solution": ("Solution", "compare", "load"),
    "solvers.bases": ("Neurons", "Sines"),
    "solvers.differences": ("FiniteDifference", "Jacobi"),
    "solvers.elements": ("FiniteElement",),
    "solvers.features": ("FeatureSolver",),
    "solvers.front": ("solve",),
    "solvers.greens": ("Family", "GreensSolver", "Operator"),
    "solvers.mscale": ("MscaleSolver",),
}
_ROOM_OF = {name: room for room, names in _ROOMS.items() for name in names}


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from importlib.metadata import version

        return version("sciml-solvers")
    if name not in _ROOM_OF:
        raise AttributeError(f"module 'sciml' has no attribute {name!r}; its names are {', '.join(__all__)}")
    value = getattr(import_module(f"sciml.{_ROOM_OF[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__, "__version__"})
