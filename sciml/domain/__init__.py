"""Domains: sets of points that can be asked, sampled, measured and combined.

    square = Box([-1, -1], [1, 1])
    plate = square - Ball([0.5, 0.5], 0.3) - Ellipsoid([-0.5, 0.0], [0.3, 0.1], rotation=0.4)
    plate.contains(x); plate.interior(1000, generator); plate.boundary(200, generator); plate.volume; plate.area

All coordinates are float64 tensors (n, d); the device is that of the points.
"""

from collections.abc import Callable
from typing import Any

from .base import Boundary, Domain
from .flat import Box, Polygon
from .nodes import gauss_nodes
from .round import Ball, Ellipsoid
from .sets import Difference, Intersection, Product, Union

__all__ = [
    "Ball",
    "Boundary",
    "Box",
    "Difference",
    "Domain",
    "Ellipsoid",
    "Intersection",
    "Polygon",
    "Product",
    "Union",
    "domain_from",
    "gauss_nodes",
]

_SHAPES: dict[str, Callable[..., Domain]] = {"box": Box, "ball": Ball, "ellipsoid": Ellipsoid, "polygon": Polygon}
_SETS: dict[str, Callable[[Domain, Domain], Domain]] = {
    "difference": Difference,
    "union": Union,
    "intersection": Intersection,
    "product": Product,
}


def domain_from(description: dict[str, Any]) -> Domain:
    """Rebuild a domain from what its `describe` returned.

    Raises:
        ValueError: if the description names no known kind of domain.
    """
    arguments = dict(description)
    kind = arguments.pop("kind", None)
    if kind in _SETS:
        first, *rest = (domain_from(part) for part in arguments["parts"])
        for part in rest:
            first = _SETS[kind](first, part)
        return first
    if kind in _SHAPES:
        return _SHAPES[kind](**arguments)
    raise ValueError(f"description must have a kind among {sorted(_SHAPES | _SETS)}, but it is {kind!r}.")
