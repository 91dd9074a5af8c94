"""Domains: membership, measures against closed forms, uniform sampling by chi-square tests, crossings, refusals."""

import json
import math
from functools import lru_cache
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from scipy import special, stats
from torch import Tensor

from sciml.domain import Ball, Box, Difference, Domain, Ellipsoid, Polygon, Product, domain_from

PI = math.pi
SEVEN_HOLES = [  # (x, y, diameter), x and y of the lower left corner of the square around each
    (0.1, 0.1, 0.225), (0.3, 0.5, 0.16), (0.6, 0.2, 0.2), (0.825, 0.5, 0.125),
    (0.1, 0.75, 0.1), (0.8, 0.75, 0.16), (0.4, 0.75, 0.09),
]  # fmt: skip


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def plate() -> Domain:
    domain: Domain = Box([0, 0], [1, 1])
    for x, y, d in SEVEN_HOLES:
        domain = domain - Ball([x + d / 2, y + d / 2], d / 2)
    return domain


def sponge(radius: float = 0.075) -> Domain:
    domain: Domain = Box([-1] * 3, [1] * 3)
    ticks = [-0.8, -0.4, 0.0, 0.4, 0.8]
    for x in ticks:
        for y in ticks:
            for z in ticks:
                domain = domain - Ball([x, y, z], radius)
    return domain


@lru_cache
def beads(seed: int = 3) -> tuple[Domain, np.ndarray, np.ndarray]:
    """A ball with 20 small ones on its surface, inside the unit ball, and the centres and radii."""
    rng = np.random.default_rng(seed)
    centers = rng.normal(size=(20, 3))
    centers *= 0.5 / np.linalg.norm(centers, axis=1, keepdims=True)
    radii = rng.uniform(0.1, 0.2, 20)
    domain: Domain = Ball([0, 0, 0], 0.5)
    for center, radius in zip(centers, radii, strict=True):
        domain = domain | Ball(torch.tensor(center), float(radius))
    return domain & Ball([0, 0, 0], 1), np.vstack([np.zeros(3), centers]), np.append(0.5, radii)


LSHAPE = Polygon([[0, 0], [2, 0], [2, 1], [1, 1], [1, 2], [0, 2]])
TILTED = Ellipsoid([0.1, -0.2], [0.8, 0.3], rotation=0.5)

DOMAINS = {
    "interval": lambda: Box(0, 2),
    "square": lambda: Box([-1, -1], [1, 1]),
    "box5": lambda: Box([-1] * 5, [1, 2, 1, 1, 3]),
    "disc": lambda: Ball([0.5, 0.5], 0.3),
    "ball3": lambda: Ball([0, 0, 1], 2),
    "ball5": lambda: Ball([0] * 5, 1),
    "ellipse": lambda: TILTED,
    "ellipsoid": lambda: Ellipsoid([0, 0, 0], [1, 2, 0.5], stats.ortho_group(3, seed=1).rvs().tolist()),
    "lshape": lambda: LSHAPE,
    "clockwise": lambda: Polygon([[0, 0], [0, 1], [1, 1], [1, 0]]),
    "plate": plate,
    "ring": lambda: Ball([0, 0], 3) - Ball([0, 0], 1),
    "bitten": lambda: Box([0, 0], [1, 1]) - Ball([1, 1], 0.5) - Ball([0, 0.5], 0.25),
    "two discs": lambda: Ball([0, 0], 1) | Ball([1, 0], 1),
    "lens": lambda: Ball([0, 0], 1) & Ball([1, 0], 1),
    "nested": lambda: (
        (Box([-1, -1], [1, 1]) - (TILTED | Ball([0.8, 0.8], 0.4))) | (Ball([0, 0], 0.2) - Ball([0, 0], 0.1))
    ),
    "cut cube": lambda: Box([0] * 3, [1] * 3) - Ball([1, 1, 1], 0.5),
    "pipe": lambda: (Ball([0, 0], 1) - Ball([0, 0], 0.5)) * Box(0, 2),
    "space-time": lambda: Box(0, 1, labels=("t-", "t+")) * (Box([-1, -1], [1, 1]) - TILTED),
    "drilled pipe": lambda: Ball([0, 0], 1) * Box(0, 2) - Ball([0, 0, 0], 0.5),
    "split line": lambda: Box(0, 1) - Ball(0.5, 0.1),
}


@pytest.fixture(params=DOMAINS, ids=list(DOMAINS))
def domain(request: pytest.FixtureRequest) -> Domain:
    return DOMAINS[request.param]()


# ------------------------------------------------------------------------------------------------- every domain obeys


def test_points_inside_and_on_the_boundary(domain: Domain) -> None:
    for sobol in (False, True):
        x = domain.interior(500, seeded(1), sobol)
        assert x.shape == (500, domain.dim) and x.dtype == torch.float64
        assert domain.contains(x).all()
        assert ((x >= domain.bounds[0]) & (x <= domain.bounds[1])).all()
        points, normals, labels = domain.boundary(400, seeded(1), sobol)
        assert points.shape == normals.shape == (400, domain.dim) and labels.shape == (400,)
        assert domain.level(points).abs().max() < 1e-9
        assert torch.allclose(normals.norm(dim=1), torch.ones(400).double(), rtol=1e-12)
        assert domain.contains(points).all()
        assert domain.contains(points - 1e-6 * normals).double().mean() > 0.995  # not at corners
        assert not domain.contains(points + 1e-6 * normals).any()
        assert set(labels.tolist()) <= set(range(len(domain.labels)))


def test_sampling_is_reproducible(domain: Domain) -> None:
    assert torch.equal(domain.interior(50), domain.interior(50, seeded(0)))
    assert not torch.equal(domain.interior(50, seeded(1)), domain.interior(50, seeded(2)))
    for sobol in (False, True):
        first, second = (domain.boundary(50, seeded(5), sobol) for _ in range(2))
        assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
    assert domain.interior(0).shape == (0, domain.dim)
    assert domain.boundary(0).points.shape == (0, domain.dim)


def test_labels_are_unique_and_have_areas(domain: Domain) -> None:
    assert len(set(domain.labels)) == len(domain.labels) == len(domain.areas)
    assert domain.area == pytest.approx(float(domain.areas.sum()))
    assert domain.volume > 0 and (domain.areas >= 0).all()
    assert [i for piece in domain.pieces for i in piece.indices] == list(range(len(domain.labels)))


def test_label_counts_follow_areas(domain: Domain) -> None:
    labels = domain.boundary(4000, seeded(2)).labels
    assert chi_square(torch.bincount(labels, minlength=len(domain.labels)), domain.areas) > 1e-3


def test_divergence_theorem_on_samples(domain: Domain) -> None:
    """The flux of x through the sampled boundary is d times the volume: normals, areas and volume agree."""
    points, normals, _ = domain.boundary(2**14, seeded(3), sobol=True)
    flux = domain.area * (points * normals).sum(1).mean() / domain.dim
    assert float(flux) == pytest.approx(domain.volume, rel=0.01)


def test_description_survives_json(domain: Domain) -> None:
    twin = domain_from(json.loads(json.dumps(domain.describe())))
    assert type(twin) is type(domain) and twin.labels == domain.labels
    x = domain.interior(100, seeded(4)) * 1.1
    assert torch.equal(twin.level(x), domain.level(x))


def test_level_has_slope_one_at_the_boundary(domain: Domain) -> None:
    points, normals, _ = domain.boundary(300, seeded(6))
    slope = (domain.level(points) - domain.level(points + 1e-6 * normals)) / 1e-6
    assert (slope - 1).abs().median() < 1e-5


def test_crossing_agrees_with_marching(domain: Domain) -> None:
    start = domain.interior(200, seeded(7))
    lower, upper = domain.bounds
    end = lower + (upper - lower) * (1.4 * torch.rand(200, domain.dim, generator=seeded(8), dtype=torch.float64) - 0.2)
    t, label = domain.crossing(start, end)
    hit = t.isfinite()
    assert torch.equal(hit, label >= 0)
    assert hit.any() and (t[hit] > 0).all() and (t[hit] <= 1).all()
    assert domain.level((start + t[:, None] * (end - start))[hit]).abs().max() < 1e-9 * domain.size
    steps = torch.linspace(0, 1, 2001, dtype=torch.float64)
    for i in range(200):
        outside = ~domain.contains(start[i] + steps[:, None] * (end[i] - start[i]))
        first = float(steps[outside.nonzero()[0, 0]]) if outside.any() else math.inf
        reached = float(t[i]) if hit[i] else math.inf
        # Marching can step over a stretch outside that is shorter than a step, but never leaves too early.
        assert reached <= first and (first - reached <= 6e-4 or _short_stretch(domain, start[i], end[i], reached))


def _short_stretch(domain: Domain, start: Tensor, end: Tensor, t: float) -> bool:
    """Whether the segment is outside right after t."""
    after = t + torch.logspace(-9, -3.3, 40, dtype=torch.float64)
    return bool((~domain.contains(start + after[:, None] * (end - start))).any())


# -------------------------------------------------------------------------------------------------- volumes and areas


def lens(r: float, s: float, d: float) -> float:
    """Area common to two discs."""
    a, b = (d * d + r * r - s * s) / (2 * d), (d * d + s * s - r * r) / (2 * d)
    return (
        r * r * math.acos(a / r)
        - a * math.sqrt(r * r - a * a)
        + s * s * math.acos(b / s)
        - b * math.sqrt(s * s - b * b)
    )


def ball_lens(r: float, s: float, d: float) -> float:
    """Volume common to two balls in 3-D."""
    return PI * (r + s - d) ** 2 * (d * d + 2 * d * (r + s) - 3 * (r - s) ** 2) / (12 * d)


MEASURES = [
    (Box(-1, 3), 4, 2),
    (Box([0, 0, 0], [1, 2, 3]), 6, 22),
    (Ball(0.5, 2), 4, 2),
    (Ball([0, 0], 2), 4 * PI, 4 * PI),
    (Ball([0, 0, 0], 2), 32 * PI / 3, 16 * PI),
    (Ball([0] * 4, 1), PI**2 / 2, 2 * PI**2),
    (Ellipsoid([0], [2.0]), 4, 2),
    (Ellipsoid([0, 0], [3, 0.5], 1.1), 1.5 * PI, 12 * special.ellipe(1 - 1 / 36)),
    (Ellipsoid([0, 0], [1, 100]), 100 * PI, 400 * special.ellipe(1 - 1e-4)),
    (Ellipsoid([0, 0, 0], [1, 2, 3]), 8 * PI, 4 * PI * special.elliprg(4, 9, 36)),
    (Ellipsoid([0] * 6, [2] * 6), 64 * PI**3 / 6, 32 * PI**3),
    (LSHAPE, 3, 8),
    (Polygon([[0, 0], [0, 3], [4, 0]]), 6, 12),
    (Ball([0, 0], 3) - Ball([0, 0], 1), 8 * PI, 8 * PI),
    (Box([0, 0], [1, 1]) - Ball([1, 1], 0.5), 1 - PI / 16, 3 + PI / 4),
    (Box([-1, -1], [1, 1]) - Box([0, 0], [1, 1]), 3, 8),
    (Box([0, 0], [1, 1]) | Box([1, 0], [2, 1]), 2, 6),
    (Box([0, 0], [1, 1]) | Box([0, 0], [2, 1]), 2, 6),
    (Ball([0, 0], 1) & Ball([0.9, 0.3], 0.7), lens(1, 0.7, math.hypot(0.9, 0.3)), None),
    (Ball([0, 0], 1) | Ball([0.9, 0.3], 0.7), 1.49 * PI - lens(1, 0.7, math.hypot(0.9, 0.3)), None),
    (Ellipsoid([0, 0], [3, 0.5], 0.3) & Ellipsoid([0, 0], [0.5, 3], 0.3), 6 * math.atan(1 / 6), None),
    (Ellipsoid([0, 0], [2, 1]) & Box([0, -2], [3, 2]), PI, 2 + 4 * special.ellipe(0.75)),
    (LSHAPE - Ball([1, 1], 0.5), 3 - 0.75 * PI / 4, 7 + 0.75 * PI),
    (Ball([0, 0], 1) * Box(0, 2), 2 * PI, 6 * PI),
    (Box([0, 0], [1, 1]) * Box(0, 1) * Box(0, 1), 1, 8),
    (Box(0, 1) - Ball(0.5, 0.1), 0.8, 4),
    (Box(0, 1) - Ball(0, 0.1), 0.9, 2),
    (Box([-1] * 5, [1] * 5) - Ball([0] * 5, 0.5), 32 - 8 * PI**2 / 15 / 32, 160 + 8 * PI**2 / 3 / 16),
]


@pytest.mark.parametrize(("domain", "volume", "area"), MEASURES, ids=lambda value: repr(value)[:40])
def test_closed_forms(domain: Domain, volume: float, area: float | None) -> None:
    assert domain.volume == pytest.approx(volume, rel=1e-12)
    if area is not None:
        assert domain.area == pytest.approx(area, rel=1e-12)


def test_disjoint_holes_subtract_exactly() -> None:
    holes = [d / 2 for *_, d in SEVEN_HOLES]
    assert plate().volume == pytest.approx(1 - PI * sum(r * r for r in holes), rel=1e-14)
    assert plate().area == pytest.approx(4 + 2 * PI * sum(holes), rel=1e-14)
    domain = sponge()
    assert domain.volume == pytest.approx(8 - 125 * 4 / 3 * PI * 0.075**3, rel=1e-13)
    assert domain.area == pytest.approx(24 + 125 * 4 * PI * 0.075**2, rel=1e-13)


def test_overlapping_bodies() -> None:
    distance = math.sqrt(0.7)
    a, b = Ball([0, 0, 0], 1), Ball([0.6, 0.5, 0.3], 0.7)
    common = ball_lens(1, 0.7, distance)
    depth = 1 - (distance**2 + 1 - 0.49) / (2 * distance)  # of the cap that b cuts from a
    assert (a & b).volume == pytest.approx(common, rel=1e-6)
    assert (a - b).areas[0] == pytest.approx(2 * PI * (2 - depth), rel=1e-6)
    assert (a | b).volume == pytest.approx(4 / 3 * PI * 1.343 - common, rel=1e-6)
    assert (Box([0] * 3, [1] * 3) - Ball([1] * 3, 0.5)).volume == pytest.approx(1 - PI / 48, rel=1e-6)
    spheroid = Ellipsoid([0, 0, 0], [1, 2, 3])
    half = spheroid & Box([0, -4, -4], [4, 4, 4])
    assert half.volume == pytest.approx(4 * PI, rel=1e-6)
    assert half.area == pytest.approx(spheroid.area / 2 + 6 * PI, rel=1e-6)
    hyper = Ball([0] * 4, 1) | Ball([1, 0, 0, 0], 1)  # estimated: no slices above three dimensions
    cap = PI**2 / 4 * special.betainc(2.5, 0.5, 0.75)
    assert hyper.volume == pytest.approx(PI**2 - 2 * cap, rel=1e-3)
    pipe = Ball([0, 0], 1) * Box(-1, 1) - Ball([0, 0, 1], 0.5)  # estimated: a product inside a difference
    assert pipe.volume == pytest.approx(2 * PI - PI / 12, rel=1e-3)
    assert pipe.area == pytest.approx(6 * PI - PI / 4 + PI / 2, rel=1e-3)


@pytest.mark.parametrize(("dim", "trials"), [(2, 25), (3, 3)])
def test_boxes_with_common_faces_against_counted_cells(dim: int, trials: int) -> None:
    """Boxes on integer coordinates share faces, edges and corners all the time; cells of the grid can be counted."""
    rng = np.random.default_rng(5)
    cell = torch.cartesian_prod(*[torch.arange(-1, 5)] * dim).double() + 0.5

    def box() -> Box:
        low = rng.integers(0, 4, dim)
        return Box(low.tolist(), rng.integers(low + 1, 5).tolist())

    for _ in range(trials):
        domain: Domain = box()
        for sign in rng.choice(list("-|&"), 4):
            try:
                domain = {"-": domain.__sub__, "|": domain.__or__, "&": domain.__and__}[sign](box())
            except ValueError:  # cuts nothing or everything
                continue
        full = domain.contains(cell).reshape([6] * dim)
        faces = sum(int((full.narrow(i, 1, 5) != full.narrow(i, 0, 5)).sum()) for i in range(dim))
        assert domain.volume == pytest.approx(int(full.sum()), rel=1e-12)
        assert domain.area == pytest.approx(faces, rel=1e-12)
        points, normals, _ = domain.boundary(100, seeded(1))
        assert (domain.level(points - 1e-6 * normals) > 0).all() and (domain.level(points + 1e-6 * normals) < 0).all()


def test_beads_against_a_count_of_random_points() -> None:
    domain, centers, radii = beads()
    x = np.random.default_rng(0).uniform(-0.7, 0.7, (200_000, 3))
    inside = (np.linalg.norm(x[:, None] - centers, axis=2) <= radii).any(1)
    error = 1.4**3 * inside.std() / math.sqrt(len(x))
    assert domain.volume == pytest.approx(1.4**3 * inside.mean(), abs=4 * error)
    # the same for the area: random points on all spheres that are in no other ball
    rng, area, variance = np.random.default_rng(1), 0.0, 0.0
    for i, (center, radius) in enumerate(zip(centers, radii, strict=True)):
        y = rng.normal(size=(20_000, 3))
        y = center + radius * y / np.linalg.norm(y, axis=1, keepdims=True)
        bare = ~(np.linalg.norm(y[:, None] - np.delete(centers, i, 0), axis=2) <= np.delete(radii, i)).any(1)
        area += 4 * PI * radius**2 * bare.mean()
        variance += (4 * PI * radius**2) ** 2 * bare.var() / len(y)
    assert domain.area == pytest.approx(area, abs=4 * math.sqrt(variance))


# ------------------------------------------------------------------------------------------------------- uniformity


def chi_square(counts: Tensor, shares: Tensor) -> float:
    """The p-value of counts against expected shares."""
    counts, shares = counts.double(), shares / shares.sum()
    assert (counts[shares == 0] == 0).all()
    counts, shares = counts[shares > 0], shares[shares > 0]
    return float(stats.chisquare(counts, counts.sum() * shares).pvalue) if len(counts) > 1 else 1.0


def bins(x: Tensor, count: int = 20) -> Tensor:
    """Counts of numbers in [0, 1] in equal bins."""
    return torch.bincount((x.clamp(0, 1 - 1e-12) * count).long(), minlength=count)


def even(x: Tensor, count: int = 20) -> float:
    return chi_square(bins(x, count), torch.ones(count).double())


@pytest.mark.parametrize("dim", [1, 2, 3, 4, 7])
def test_balls_are_uniform(dim: int) -> None:
    center = torch.arange(dim).double()
    ball = Ball(center, 2)
    y = (ball.interior(8000, seeded(dim)) - center) / 2
    assert even(y.norm(dim=1) ** dim) > 1e-3
    points, normals, _ = ball.boundary(8000, seeded(dim))
    assert torch.allclose(points, center + 2 * normals)
    if dim > 1:  # one coordinate of a uniform direction, squared, is a beta variable
        for direction in (y / y.norm(dim=1, keepdim=True), normals):
            for i in (0, dim - 1):
                square = torch.from_numpy(special.betainc(0.5, (dim - 1) / 2, direction[:, i].numpy() ** 2))
                assert even(square) > 1e-3
                assert abs(float(direction[:, i].sign().mean())) < 0.04


def arc_fraction(ellipse: Ellipsoid, points: Tensor) -> Tensor:
    """Length of the arc from the first semi-axis to the points, over the perimeter."""
    y = ellipse.unit(points)
    angle = torch.atan2(y[:, 1], y[:, 0]).remainder(2 * PI)
    a, b = ellipse.semi_axes.tolist()
    # the length element is sqrt(a^2 sin^2 + b^2 cos^2)
    return torch.from_numpy(special.ellipeinc(angle.numpy(), 1 - (a / b) ** 2)) * b / ellipse.area


@pytest.mark.parametrize("semi_axes", [[1.0, 0.25], [0.1, 1.0], [20.0, 1.0]])
def test_ellipses_are_uniform_by_arc_length(semi_axes: list[float]) -> None:
    ellipse = Ellipsoid([1, -1], semi_axes, rotation=0.7)
    assert even(arc_fraction(ellipse, ellipse.boundary(10_000, seeded(1)).points), 40) > 1e-3
    y = ellipse.unit(ellipse.interior(10_000, seeded(2)))
    assert even(y.norm(dim=1) ** 2) > 1e-3
    assert even(torch.atan2(y[:, 1], y[:, 0]) / (2 * PI) + 0.5) > 1e-3


def test_the_chi_square_test_rejects_uniform_angles() -> None:
    """The negative control: angles drawn uniformly crowd the ends of an ellipse."""
    ellipse = Ellipsoid([1, -1], [1.0, 0.25], rotation=0.7)
    angle = 2 * PI * torch.rand(10_000, generator=seeded(1), dtype=torch.float64)
    points = ellipse.center + torch.stack([angle.cos(), angle.sin()], 1) @ ellipse.matrix.T
    assert ellipse.level(points).abs().max() < 1e-12
    assert even(arc_fraction(ellipse, points), 40) < 1e-10


def zones(ellipsoid: Ellipsoid, points: Tensor) -> tuple[Tensor, Tensor]:
    """Counts of boundary points of a 3-D ellipsoid in 8 x 8 cells of height and angle, and the areas of the cells."""
    y = ellipsoid.unit(points)
    cell = ((y[:, 2] + 1) * 4).clamp(0, 7).long() * 8 + (torch.atan2(y[:, 1], y[:, 0]) / PI * 4 + 4).clamp(0, 7).long()
    fine = 64
    z = (torch.arange(8 * fine).double() + 0.5) / (4 * fine) - 1
    angle = ((torch.arange(8 * fine).double() + 0.5) / (4 * fine) - 1) * PI
    ring = (1 - z**2).sqrt()[:, None]
    parts = (ring * angle.cos(), ring * angle.sin(), z[:, None].expand(-1, 8 * fine))
    density = sum((part / axis) ** 2 for part, axis in zip(parts, ellipsoid.semi_axes, strict=True)).sqrt()
    return torch.bincount(cell, minlength=64), density.reshape(8, fine, 8, fine).mean((1, 3)).flatten()


def test_ellipsoids_are_uniform_by_area() -> None:
    ellipsoid = Ellipsoid([0, 1, 2], [1, 2, 0.5], stats.ortho_group(3, seed=1).rvs().tolist())
    counts, areas = zones(ellipsoid, ellipsoid.boundary(20_000, seeded(1)).points)
    assert chi_square(counts, areas) > 1e-3
    stretched = ellipsoid.center + Ball([0, 0, 0], 1).boundary(20_000, seeded(1)).points @ ellipsoid.matrix.T
    assert chi_square(zones(ellipsoid, stretched)[0], areas) < 1e-10
    assert even(ellipsoid.unit(ellipsoid.interior(8000, seeded(2))).norm(dim=1) ** 3) > 1e-3


def cells(domain: Domain, count: int) -> tuple[list[Box], torch.Tensor]:
    """A grid of boxes over a plane domain, and the area of the domain in each (through exact intersections)."""
    xs, ys = (
        torch.linspace(float(a), float(b), count + 1, dtype=torch.float64).tolist()
        for a, b in zip(*domain.bounds, strict=True)
    )
    boxes = [Box([x0, y0], [x1, y1]) for x0, x1 in pairwise(xs) for y0, y1 in pairwise(ys)]
    return boxes, torch.tensor([common_volume(domain, box) for box in boxes], dtype=torch.float64)


def common_volume(a: Domain, b: Domain) -> float:
    try:
        return (a & b).volume
    except ValueError:  # nothing in common
        return 0.0


@pytest.mark.parametrize("name", ["plate", "ring", "bitten", "two discs", "lens", "nested", "lshape", "ellipse"])
def test_plane_domains_are_uniform(name: str) -> None:
    domain = DOMAINS[name]()
    boxes, areas = cells(domain, 6)
    assert float(areas.sum()) == pytest.approx(domain.volume, rel=1e-9)
    x = domain.interior(8000, seeded(3))
    counts = torch.stack([box.contains(x).sum() for box in boxes])
    assert chi_square(counts, areas) > 1e-3


@pytest.mark.parametrize("name", ["bitten", "two discs", "lens", "nested", "plate"])
def test_plane_boundaries_are_uniform(name: str) -> None:
    """Each visible piece is cut by a grid whose lengths are exact; hidden parts of primitives get no points."""
    domain = DOMAINS[name]()
    boxes, _ = cells(domain, 5)  # some touch holes
    points, _, labels = domain.boundary(8000, seeded(4))
    count = len(domain.labels)
    lengths, counts = [], []
    for box in boxes:
        try:
            lengths.append((domain & box).areas[:count])
        except ValueError:
            lengths.append(torch.zeros(count, dtype=torch.float64))
        counts.append(torch.bincount(labels[box.contains(points)], minlength=count))
    expected, found = torch.stack(lengths).flatten(), torch.stack(counts).flatten()
    # faces of the grid that lie on faces of the domain belong to one of them only
    known = expected > 5e-3
    assert float(expected.sum()) == pytest.approx(domain.area, rel=1e-7)
    assert chi_square(found[known], expected[known]) > 1e-3


def test_beads_are_uniform_on_their_visible_surface() -> None:
    domain, _, _ = beads()
    points, _, labels = domain.boundary(6000, seeded(5))
    assert chi_square(torch.bincount(labels, minlength=len(domain.labels)), domain.areas) > 1e-3
    assert domain.areas[-1] == 0  # the unit ball is not touched
    for i in range(3):
        height = (points[labels == 0][:, i] / 0.5).abs()
        sphere = domain.pieces[0].shape.boundary(40_000, seeded(6)).points
        seen = sphere[domain.level(sphere).abs() < 1e-9][:, i].abs() / 0.5
        assert stats.ks_2samp(height.numpy(), seen.numpy()).pvalue > 1e-3


def test_sobol_points_integrate_better() -> None:
    for domain in (plate(), TILTED, Ball([0, 0], 1) - Ball([0.5, 0], 0.3)):
        error = {}
        for sobol in (False, True):
            means = torch.stack([domain.interior(1024, seeded(i), sobol).mean(0) for i in range(8)])
            error[sobol] = float(means.std(0).max())
        assert error[True] < 0.35 * error[False]
    edges = [TILTED.boundary(1024, seeded(i), True).points.mean(0) - TILTED.center for i in range(4)]
    assert torch.stack(edges).abs().max() < 0.02


def test_thin_domains_are_refused_by_sampling() -> None:
    sliver = Box([0, 0], [1, 1]) - Box([-1, 1e-6], [2, 2])
    assert sliver.volume == pytest.approx(1e-6, rel=1e-6)
    with pytest.raises(ValueError, match="too thin to sample"):
        sliver.interior(10)


# ------------------------------------------------------------------------------------------------------- crossings


def segment(domain: Domain, start: list[float], end: list[float]) -> tuple[float, str | None]:
    t, label = domain.crossing(*torch.tensor([[start], [end]], dtype=torch.float64))
    return float(t), domain.labels[int(label)] if int(label) >= 0 else None


def test_crossings_of_a_thin_hole() -> None:
    domain = Box([-1, -1], [1, 1]) - Ball([0, 0], 0.01)
    assert segment(domain, [-0.5, 0], [0.5, 0]) == (pytest.approx(0.49, rel=1e-14), "ball")
    assert segment(domain, [0.5, 0], [2.5, 0]) == (0.25, "x+")
    assert segment(domain, [-0.5, 0.5], [0.5, 0.5]) == (math.inf, None)
    assert segment(domain, [-0.5, 0.01], [0.5, 0.01]) == (math.inf, None)  # touches
    assert segment(domain, [-0.5, 0.0], [-0.01, 0.0])[0] == pytest.approx(1)  # ends on the boundary, about to leave


def test_crossings_from_the_boundary() -> None:
    domain = Box([0, 0], [1, 1]) - Ball([0.5, 0.5], 0.25)
    assert segment(domain, [0, 0.5], [-1, 0.5]) == (0.0, "x-")
    assert segment(domain, [0, 0.5], [1, 0.5]) == (0.25, "ball")
    assert segment(domain, [0.25, 0.5], [1, 0.5]) == (0.0, "ball")
    assert segment(domain, [0.25, 0.5], [0.1, 0.5]) == (math.inf, None)
    assert segment(domain, [0, 0], [0, 2]) == (0.5, "y+")  # along an edge
    assert segment(domain, [0.25, 0.25], [0.25, 0.25]) == (math.inf, None)


def test_crossings_know_what_is_hidden() -> None:
    union = Ball([0, 0], 1) | Ball([1, 0], 1)
    assert segment(union, [-0.5, 0], [3, 0]) == (pytest.approx(2.5 / 3.5), "ball2")
    joined = Box([0, 0], [1, 1]) | Box([1, 0], [2, 1])
    assert segment(joined, [0.5, 0.5], [2.5, 0.5]) == (0.75, "x+2")
    corner = Box([-1, -1], [1, 1]) - Box([0, 0], [1, 1])
    assert segment(corner, [-0.5, 0.5], [0.5, 0.5]) == (0.5, "x-2")
    assert segment(corner, [-0.5, -0.5], [0.5, 0.5])[0] == 0.5
    assert segment(corner, [-0.5, 0.5], [0.5, -0.5]) == (math.inf, None)  # past the corner
    assert segment(LSHAPE, [0.5, 1.5], [1.5, 1.5]) == (0.5, "edge3")


def test_many_crossings_at_once_equal_single_ones() -> None:
    domain = sponge(0.15)
    start = domain.interior(3000, seeded(1))
    end = start + 0.5 * torch.randn(3000, 3, generator=seeded(2), dtype=torch.float64)
    t, label = domain.crossing(start, end)
    for i in range(0, 3000, 100):
        one, name = domain.crossing(start[i : i + 1], end[i : i + 1])
        assert one[0] == t[i] and name[0] == label[i]


# ------------------------------------------------------------------------------------------ membership, levels, factor


def test_many_holes_are_one_batch() -> None:
    domain = sponge()
    assert len(domain.labels) == 131 and domain.labels[-1] == "ball125"
    assert isinstance(domain, Difference) and isinstance(domain.b, Ball) and domain.a.labels[-1] == "ball124"
    x = 2.2 * torch.rand(20_000, 3, generator=seeded(1), dtype=torch.float64) - 1.1
    expected = torch.stack([-piece.shape.level(x) for piece in domain.pieces[1:]]).amin(0)
    expected = torch.minimum(expected, domain.pieces[0].shape.level(x))
    assert torch.equal(domain.level(x), expected)
    assert torch.equal(domain.contains(x), expected >= -1e-12 * 2)


def test_signed_distances() -> None:
    x = 4 * torch.rand(2000, 2, generator=seeded(1), dtype=torch.float64) - 1
    for shape in (Box([0, 0], [2, 1]), LSHAPE, Ball([1, 1], 0.7)):
        near = shape.boundary(20_000, seeded(2), sobol=True).points
        distance = torch.cdist(x, near).amin(1)
        assert (shape.level(x).abs() - distance).abs().max() < 2e-3
    square, polygon = Box([0, 0], [2, 1]), Polygon([[0, 0], [2, 0], [2, 1], [0, 1]])
    assert torch.allclose(square.level(x), polygon.level(x), atol=1e-14)
    assert torch.equal(Polygon([[0, 1], [2, 1], [2, 0], [0, 0]]).level(x), polygon.level(x))


def test_the_set_is_closed() -> None:
    x = torch.tensor([[0.0, 0.3], [1, 1], [1 + 1e-9, 0.5]], dtype=torch.float64)
    assert Box([0, 0], [1, 1]).contains(x).tolist() == [True, True, False]
    ring = Ball([0, 0], 3) - Ball([0, 0], 1)
    assert ring.contains(torch.tensor([[1.0, 0], [0.999, 0], [3, 0], [0, 0]])).tolist() == [True, False, True, False]


def test_polygon_corners_and_angles() -> None:
    assert torch.allclose(LSHAPE.angles / PI, torch.tensor([0.5, 0.5, 0.5, 1.5, 0.5, 0.5]).double())
    reverse = Polygon(LSHAPE.corners.flip(0))
    assert torch.allclose(reverse.angles, LSHAPE.angles.flip(0))
    assert torch.equal(reverse.corners, LSHAPE.corners.flip(0))
    x = LSHAPE.interior(200, seeded(1))
    assert torch.allclose(reverse.level(x), LSHAPE.level(x))


FACTORS = {
    "box": Box([0, 0, 1], [1, 2, 5]),
    "interval": Box(0, 2) - Box(0.5, 1.0),
    "ball": Ball([0, 0, 0], 2),
    "ellipse": TILTED,
    "triangle": Polygon([[0, 0], [2, 0], [1, 0.9], [0.2, 1]]),
    "plate": plate(),
    "lens": Ball([0, 0], 1) & Ball([1, 0], 1) - TILTED,
    "space-time": Box(0, 1) * (Box([-1, -1], [1, 1]) - TILTED),
    "sponge": sponge(),
}


@pytest.mark.parametrize("domain", FACTORS.values(), ids=list(FACTORS))
def test_factor_vanishes_exactly_on_the_boundary(domain: Domain) -> None:
    assert domain.factor(domain.boundary(500, seeded(1)).points).abs().max() < 1e-13
    inside = domain.factor(domain.interior(500, seeded(1)))
    assert (inside > 0).all() and (inside <= 1).all() and inside.max() > 1e-3


@pytest.mark.parametrize("domain", FACTORS.values(), ids=list(FACTORS))
def test_factor_is_smooth_and_can_be_mapped(domain: Domain) -> None:
    x = domain.interior(20, seeded(1))
    one = lambda point: domain.factor(point[None])[0]  # noqa: E731
    slope = torch.func.vmap(torch.func.grad(one))(x)
    hessian = torch.func.vmap(torch.func.jacfwd(torch.func.grad(one)))(x)
    step = 1e-5
    for i in range(domain.dim):
        shift = step * torch.eye(domain.dim).double()[i]
        central = (domain.factor(x + shift) - domain.factor(x - shift)) / (2 * step)
        assert torch.allclose(slope[:, i], central, atol=1e-5, rtol=1e-5)
    assert hessian.isfinite().all()


@pytest.mark.parametrize(
    "domain",
    [Ball([0, 0], 1) | Ball([1, 0], 1), LSHAPE, Box([0, 0], [3, 3]) - Box([1, 1], [2, 2]),
     Ball([0, 0], 3) - (Ball([0, 0], 1) & Ball([1, 0], 1))],
    ids=["union", "non-convex", "square hole", "lens hole"],
)  # fmt: skip
def test_factor_refuses_domains_without_a_smooth_one(domain: Domain) -> None:
    with pytest.raises(ValueError, match="factor needs"):
        domain.factor(domain.interior(3))


def test_products_put_coordinates_side_by_side() -> None:
    space = Box([-1, -1], [1, 1]) - Ball([0, 0], 0.5)
    domain = Box(0, 2, labels=("t-", "t+")) * space
    assert isinstance(domain, Product) and domain.a.dim == 1 and domain.b is space
    assert domain.labels == ("t-", "t+", "x-", "x+", "y-", "y+", "ball")
    assert domain.volume == pytest.approx(2 * space.volume) and domain.area == pytest.approx(
        2 * space.volume + 2 * space.area
    )
    points, normals, labels = domain.boundary(2000, seeded(1))
    assert (points[labels == 0][:, 0] == 0).all() and (normals[labels == 1] == torch.tensor([1.0, 0, 0])).all()
    assert (normals[labels == 6][:, 0] == 0).all()
    assert segment(domain, [1, -0.9, 0], [1, 0.9, 0]) == (pytest.approx(0.4 / 1.8), "ball")
    assert segment(domain, [1, -0.9, 0], [3, -0.9, 0]) == (0.5, "t+")
    assert even(domain.interior(4000, seeded(2))[:, 0] / 2) > 1e-3


def test_coordinates_come_out_as_float64() -> None:
    domain = Box(torch.zeros(2, dtype=torch.float32), [1, 1]) - Ball(np.array([0.5, 0.5]).tolist(), 0.2)
    x = torch.rand(10, 2, generator=seeded(1))
    assert domain.level(x).dtype == torch.float64 and domain.factor(x).dtype == torch.float64
    assert domain.bounds[0].dtype == domain.areas.dtype == torch.float64


# --------------------------------------------------------------------------------------------------------- refusals

SQUARE = Box([-1, -1], [1, 1])
CUT = SQUARE - Ball([0, 0], 0.5)

REFUSED = {
    "upper below lower": (lambda: Box([0, 1], [1, 0]), "upper must be greater than lower on each axis, but axis 1"),
    "flat box": (lambda: Box([0, 1], [1, 1]), "upper must be greater than lower"),
    "not finite": (lambda: Box([0, 0], [1, math.inf]), "upper must be a non-empty row of finite numbers"),
    "unequal corners": (lambda: Box([0, 0], [1, 1, 1]), "upper must have 2 numbers, but it has 3"),
    "no radius": (lambda: Ball([0, 0], 0), "radius must be a positive number"),
    "negative radius": (lambda: Ball([0, 0], -1), "radius must be a positive number"),
    "nan radius": (lambda: Ball([0, 0], math.nan), "radius must be a positive number"),
    "flat ellipsoid": (lambda: Ellipsoid([0, 0], [1, 0]), "semi_axes must be positive"),
    "angle in space": (lambda: Ellipsoid([0, 0, 0], [1, 1, 1], 0.3), "rotation must be an orthogonal"),
    "shear": (lambda: Ellipsoid([0, 0], [1, 1], [[1, 1], [0, 1]]), "rotation must be an angle or an orthogonal"),
    "two vertices": (lambda: Polygon([[0, 0], [1, 1]]), "vertices must be at least 3 points"),
    "crossing edges": (lambda: Polygon([[0, 0], [1, 1], [1, 0], [0, 1]]), "edge0 and edge2 meet"),
    "touching edges": (lambda: Polygon([[0, 0], [2, 0], [2, 2], [1, 0], [0, 2]]), "edge0 and edge2 meet"),
    "spike": (lambda: Polygon([[0, 0], [2, 0], [1, 0], [1, 1]]), "must not turn back"),
    "on a line": (lambda: Polygon([[0, 0], [1, 1], [2, 2]]), "must not turn back"),
    "double vertex": (lambda: Polygon([[0, 0], [0, 0], [1, 0], [1, 1]]), "vertices 0 and 1 must differ"),
    "wrong labels": (lambda: Box(0, 1, labels=("left",)), "labels must be 2 different names"),
    "far hole": (lambda: SQUARE - Ball([3, 0], 1), "must cut something"),
    "touching hole": (lambda: SQUARE - Ball([2, 0], 1), "must cut something"),
    "adjacent hole": (lambda: SQUARE - Box([1, -1], [2, 1]), "must cut something"),
    "hole past a corner": (lambda: SQUARE - Ellipsoid([2, 2], [2, 0.2], PI / 4 + PI / 2), "must cut something"),
    "hole in a hole": (lambda: CUT - Ball([0, 0], 0.3), "must cut something"),
    "the same hole": (lambda: CUT - Ball([0, 0], 0.5), "must cut something"),
    "hole past a corner in 5-D": (lambda: Box([-1] * 5, [1] * 5) - Ball([1.2] * 5, 0.44), "must cut something"),
    "covering ball": (lambda: SQUARE - Ball([0, 0], math.sqrt(2)), "must leave something"),
    "covering box": (lambda: SQUARE - Box([-2, -2], [1, 1]), "must leave something"),
    "itself": (lambda: TILTED - TILTED, "must leave something"),
    "covering union": (
        lambda: Ball([0, 0], 0.5) - (Ball([0.3, 0], 0.6) | Ball([-0.3, 0], 0.6)),
        "must leave something",
    ),
    "empty intersection": (lambda: SQUARE & Ball([3, 0], 1), "must have common points"),
    "intersection in a hole": (lambda: CUT & Ball([0, 0], 0.5), "must have common points"),
    "other dimension": (lambda: SQUARE - Box(0, 1), "must have one dimension, but they have 2 and 1"),
    "unknown kind": (lambda: domain_from({"kind": "torus"}), "description must have a kind among"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_impossible_domains_are_refused(name: str) -> None:
    build, message = REFUSED[name]
    with pytest.raises(ValueError, match=message):
        build()


ACCEPTED = {
    "tiny hole": lambda: SQUARE - Ball([0.3, 0.4], 0.03),
    "speck": lambda: SQUARE - Ball([0.3, 0.4], 1e-5),
    "needle": lambda: SQUARE - Ellipsoid([0, 0], [0.5, 1e-4], 0.3),
    "barely cut": lambda: SQUARE - Ball([2, 0], 1.0001),
    "corner cut": lambda: SQUARE - Ellipsoid([2, 2], [2, 0.2], PI / 4),
    "barely left": lambda: SQUARE - Ball([0, 0], 1.41421),
    "barely larger": lambda: CUT - Ball([0, 0], 0.5001),
    "shell": lambda: Ellipsoid([0, 0, 0], [1, 2, 3]) - Ellipsoid([0, 0, 0], [1, 2, 2.999]),
    "barely common": lambda: SQUARE & Ball([2, 0], 1.000001),
    "cut corner in 5-D": lambda: Box([-1] * 5, [1] * 5) - Ball([1.2] * 5, 0.4475),
}


@pytest.mark.parametrize("name", ACCEPTED)
def test_small_cuts_are_accepted(name: str) -> None:
    assert ACCEPTED[name]().volume > 0


def test_points_of_the_wrong_dimension_are_refused() -> None:
    for call in (SQUARE.level, SQUARE.contains, SQUARE.factor):
        with pytest.raises(ValueError, match=r"x must hold points of a 2-dimensional domain.*\(4, 3\)"):
            call(torch.zeros(4, 3))
    with pytest.raises(ValueError, match="end must hold points"):
        SQUARE.crossing(torch.zeros(4, 2), torch.zeros(2))
    with pytest.raises(ValueError, match="4 starts and 3 ends"):
        SQUARE.crossing(torch.zeros(4, 2), torch.zeros(3, 2))
    for n in (-1, 2.5, True):
        with pytest.raises(ValueError, match="n must be a number of points"):
            SQUARE.interior(n)
    with pytest.raises(TypeError):
        SQUARE - 3
    with pytest.raises(TypeError, match="Domains combine with domains"):
        Difference(SQUARE, None)


# ------------------------------------------------------------------------------------------------------ random sets

coordinate = st.floats(-1, 1).map(lambda value: round(value, 3))
extent = st.floats(0.1, 0.7).map(lambda value: round(value, 3))
point = st.tuples(coordinate, coordinate)


def rectangle(center: tuple[float, float], half: tuple[float, float]) -> Box:
    (x, y), (w, h) = center, half
    return Box([x - w, y - h], [x + w, y + h])


def quadrangle(center: tuple[float, float], radius: float, turn: float) -> Polygon:
    (x, y), angles = center, [turn + a for a in (0, 1.5, 3, 5)]
    return Polygon([[x + radius * math.cos(a), y + radius * math.sin(a)] for a in angles])


shapes = st.one_of(
    st.builds(Ball, point, extent),
    st.builds(Ellipsoid, point, st.tuples(extent, extent), st.floats(0, 3)),
    st.builds(rectangle, point, st.tuples(extent, extent)),
    st.builds(quadrangle, point, extent, st.floats(0, 3)),
)
steps = st.lists(st.tuples(st.sampled_from("-|&"), shapes), max_size=3)
relaxed = settings(
    max_examples=30, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.filter_too_much]
)


@st.composite
def plane_sets(draw: st.DrawFn) -> Domain:
    domain = draw(shapes)
    for sign, shape in draw(steps):
        try:
            domain = {"-": domain.__sub__, "|": domain.__or__, "&": domain.__and__}[sign](shape)
        except ValueError:
            assume(False)
    assume(domain.volume > 1e-3)
    return domain


@relaxed
@given(plane_sets(), st.integers(0, 1000))
def test_random_sets_keep_their_promises(domain: Domain, seed: int) -> None:
    assert domain.contains(domain.interior(100, seeded(seed))).all()
    points, normals, labels = domain.boundary(100, seeded(seed))
    assert domain.level(points).abs().max() < 1e-9
    # away from corners, where other primitives pass by
    levels = torch.stack([piece.shape.level(points).abs() for piece in domain.pieces], 1)
    corners = [
        torch.cdist(points, shape.corners) for shape in (p.shape for p in domain.pieces) if isinstance(shape, Polygon)
    ]
    smooth = (levels < 1e-4).sum(1) == 1
    for distance in corners:
        smooth &= distance.amin(1) > 1e-4
    assert domain.contains((points - 1e-6 * normals)[smooth]).all()
    assert not domain.contains((points + 1e-6 * normals)[smooth]).any()
    owner = torch.tensor([i for i, piece in enumerate(domain.pieces) for _ in piece.indices])[labels]
    assert levels.gather(1, owner[:, None]).max() < 1e-9


@relaxed
@given(plane_sets(), plane_sets())
def test_volumes_add_up(a: Domain, b: Domain) -> None:
    common = common_volume(a, b)
    assert a.volume + b.volume == pytest.approx((a | b).volume + common, abs=1e-7)
    if common:
        try:
            left = (a - b).volume
        except ValueError:  # b covers a
            left = 0.0
        assert a.volume == pytest.approx(left + common, abs=1e-7)


@relaxed
@given(plane_sets(), st.integers(0, 1000))
def test_random_crossings_are_on_the_boundary(domain: Domain, seed: int) -> None:
    start = domain.interior(100, seeded(seed))
    end = start + torch.randn(100, 2, generator=seeded(seed), dtype=torch.float64)
    t, label = domain.crossing(start, end)
    leaves = ~domain.contains(end)
    assert t[leaves].isfinite().all()
    hit = t.isfinite()
    reached = (start + t[:, None] * (end - start))[hit]
    assert domain.level(reached).abs().max(dim=0).values < 1e-9 if hit.any() else True
    before = start + (t * 0.999)[:, None].nan_to_num(posinf=0.5) * (end - start)
    assert domain.contains(before[hit]).double().mean() > 0.95 or not hit.any()
    halfway = (start + 0.5 * t[:, None].nan_to_num(posinf=2.0) * (end - start))[hit]
    assert domain.contains(halfway).all()
    assert torch.equal(hit, label >= 0)
