"""Problems: equations stated once, checked when stated."""

import math

import pytest
import torch

from sciml import PDE, Ball, Box, Data, Dirichlet, Elliptic, Evolution, Initial, Neumann, Periodic, Piecewise, Robin
from sciml.calculus import jet
from tests import cases

PI = math.pi


@pytest.mark.parametrize("name", cases.CASES)
def test_exact_solutions_have_no_residual(name):
    problem = cases.CASES[name]()
    x = problem.domain.interior(200)
    residual = problem.residual(problem.jet(problem.exact, x), x)
    assert residual.abs().max() < 1e-10 * (1 + problem.source(x).abs().max())


@pytest.mark.parametrize("p", [2, 3, 4, 5, 8])
@pytest.mark.parametrize("eps", [0.1, 0.01])
def test_generated_source_equals_the_closed_form(p, eps):
    problem = cases.p_laplacian_1d(p, eps)
    x = problem.domain.interior(500)
    expected = cases.p_laplacian_source(p, eps)(x)
    torch.testing.assert_close(problem.source(x), expected, rtol=1e-8, atol=1e-8 * float(expected.abs().max()))


@pytest.mark.parametrize("p", [2.0, 3.0, 4.5])
def test_energy_is_least_at_the_solution(p):
    """First variation zero and second positive, by quadrature, along random directions that vanish at the ends."""
    problem = cases.p_laplacian_1d(p, 0.25)
    nodes = torch.linspace(0, 1, 4002, dtype=torch.float64)
    x = ((nodes[1:] + nodes[:-1]) / 2)[:, None]

    def energy(s, k):
        trial = lambda x: problem.exact(x) + s * torch.sin(k * PI * x[:, 0])  # noqa: E731
        return float(problem.energy(jet(trial, x, 1), x).mean())

    for k in (1, 2, 5):
        low, mid, high = energy(-1e-3, k), energy(0.0, k), energy(1e-3, k)
        assert low > mid < high
        assert abs(high - low) < 1e-2 * (high + low - 2 * mid)


def test_unknown_behaves_like_its_value():
    seen = {}

    def residual(x, u):
        seen["value"] = u.value
        both = [torch.sin(u), u**2, 2 * u, 1 - u, u / 2, 2 / u, -u, abs(u), x[:, 0] * u, u * x[:, 0], u.exp()]
        v = u.value
        plain = [torch.sin(v), v**2, 2 * v, 1 - v, v / 2, 2 / v, -v, v.abs(), x[:, 0] * v, v * x[:, 0], v.exp()]
        for a, b in zip(both, plain, strict=True):
            assert isinstance(a, torch.Tensor) and torch.equal(a, b)
        return u.t + u * u.x - u.xx + u.tx + u.laplacian

    problem = PDE(Box([0, 0], [1, 1]), "tx", residual)
    assert problem.derivatives == {(0,), (1,), (1, 1), (0, 1)}
    field = lambda x: torch.sin(x[:, 0]) * x[:, 1] ** 3  # noqa: E731
    x = problem.domain.interior(20)
    t, y = x[:, 0], x[:, 1]
    u = torch.sin(t) * y**3
    expected = torch.cos(t) * y**3 + u * 3 * torch.sin(t) * y**2 + 3 * torch.cos(t) * y**2
    torch.testing.assert_close(problem.residual(field, x)[0], expected)


def test_third_derivatives_are_available():
    problem = PDE(Box([0], [1]), "x", lambda x, u: u.xxx + u.x)
    x = problem.domain.interior(9)
    assert problem.order == 3
    assert problem.residual(lambda x: torch.sin(x[:, 0]), x)[0].abs().max() < 1e-14


def test_systems():
    problem = PDE(Box([0], [1]), "x", lambda x, u: (u[0].x - u[1], u[1].x + u[0]), [Dirichlet(0.0, on="x-")])
    assert (problem.components, problem.equations) == (2, 2)
    x = problem.domain.interior(9)
    parts = problem.residual(lambda x: torch.stack([torch.sin(x[:, 0]), torch.cos(x[:, 0])], 1), x)
    assert max(p.abs().max() for p in parts) < 1e-14
    with pytest.raises(ValueError, match="2 unknowns"):
        problem.residual(lambda x: x[:, 0], x)


def test_unknowns_reach_the_residual():
    data = Data(torch.rand(4, 1), torch.rand(4))
    problem = PDE(Box([0], [1]), "x", lambda x, u, q: u.xx - q.a, [data], unknowns={"a": 2.0})
    x = problem.domain.interior(5)
    assert problem.residual(lambda x: x[:, 0] ** 2, x)[0].abs().max() == 0
    assert problem.residual(lambda x: x[:, 0] ** 2, x, {"a": torch.tensor(3.0)})[0].max() == -1
    with pytest.raises(ValueError, match="needs a Data condition"):
        PDE(Box([0], [1]), "x", lambda x, u, q: u.xx - q.a, unknowns={"a": 2.0})


def test_evolution_is_its_space_time_equation():
    nu = 0.3
    heat = Evolution(
        Box([0], [1]),
        lambda x, u: nu * u.xx + u.time * 0,
        lambda x: torch.sin(PI * x[:, 0]),
        [Dirichlet(0.0)],
        exact=lambda p: torch.exp(-nu * PI**2 * p[:, 0]) * torch.sin(PI * p[:, 1]),
    )
    pde = heat.pde()
    x = pde.domain.interior(50)
    assert pde.residual(heat.exact, x)[0].abs().max() < 1e-12
    points, _, labels = pde.domain.boundary(400)
    parts = dict(pde.partition(points, labels))
    names = {type(c).__name__: points[m] for c, m in parts.items()}
    assert (names["Initial"][:, 0] == 0).all() and len(names["Initial"]) > 50
    assert ((names["Dirichlet"][:, 1] == 0) | (names["Dirichlet"][:, 1] == 1)).all()
    taken = sum(m.sum() for m in parts.values())
    assert taken == (points[:, 0] < 1).sum()  # nothing is asked of the final time


def test_partition_takes_each_point_once_in_order():
    problem = Elliptic(
        Box([0, 0], [1, 1]),
        1.0,
        0.0,
        conditions=[Neumann(1.0, on="x+"), Robin(1.0, 2.0, on=lambda x: x[:, 1] > 0.5)],
    )
    points, _, labels = problem.domain.boundary(1000)
    masks = [m for _, m in problem.partition(points, labels)]
    assert torch.equal(sum(m.int() for m in masks), torch.ones(1000, dtype=torch.int32))
    assert (points[masks[0]][:, 0] == 1).all() and (points[masks[1]][:, 1] > 0.5).all()


def test_periodic_takes_both_sides():
    problem = PDE(Box([0, 0], [1, 1]), "tx", lambda x, u: u.t - u.xx, [Periodic("x"), Initial(0.0)])
    points, _, labels = problem.domain.boundary(400)
    (_, periodic), (_, initial) = problem.partition(points, labels)
    assert set(points[periodic][:, 1].tolist()) == {0.0, 1.0} and (points[initial][:, 0] == 0).all()


def test_piecewise_first_region_wins():
    a = Piecewise(1.0, [(Box([0.0], [0.5]), 3.0), (Box([0.25], [0.75]), lambda x: x[:, 0])])
    x = torch.tensor([[0.3], [0.6], [0.9]], dtype=torch.float64)
    assert a(x).tolist() == [3.0, 0.6, 1.0]
    assert len(Elliptic(Box([0], [1]), 1.0, 0.0, diffusion=a).interfaces) == 2


NAN = float("nan")
SQUARE = Box([0, 0], [1, 1])


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Elliptic(SQUARE, lambda x: x, 0.0), r"source gave shape \(256, 2\)"),
        (lambda: Elliptic(SQUARE, lambda x: x[:, :1], 0.0), r"source gave shape"),
        (lambda: Elliptic(SQUARE, NAN, 0.0), "source is nan"),
        (lambda: Elliptic(SQUARE, lambda x: x[:, 0] * NAN, 0.0), "source is not finite at the point"),
        (lambda: Elliptic(SQUARE, 1.0, 0.0, diffusion=lambda x: x[:, 0] - 0.5), "must be positive"),
        (lambda: Elliptic(SQUARE, 1.0, 0.0, diffusion=-1.0), "must be positive"),
        (lambda: Elliptic(SQUARE, 1.0), "no condition holds on the boundary piece"),
        (lambda: Elliptic(SQUARE, 1.0, 0.0, p=1.0), "p > 1"),
        (lambda: Elliptic(SQUARE, 1.0, conditions=[Dirichlet(0.0, on="left")]), "pieces x-, x"),
        (lambda: Elliptic(SQUARE, 1.0, conditions=[Dirichlet(0.0, on=lambda x: x)]), "predicate `on`"),
        (lambda: Elliptic(SQUARE, 1.0, 0.0, conditions=[Initial(0.0)]), "Elliptic accepts"),
        (lambda: Elliptic("square", 1.0, 0.0), "must be a Domain"),
        (lambda: Ball(1.0, [0, 0]), "radius must be a positive number"),
        (lambda: Box("a", "b"), "lower must be a non-empty row of finite numbers"),
        (lambda: Elliptic(SQUARE, lambda x: math.sin(x[:, 0]), 0.0), "source fails .* made of torch functions"),
        (
            lambda: Elliptic(SQUARE, lambda x, y: x, 0.0),
            r"source fails at points of shape \(256, 2\): .* argument: 'y'",
        ),
        (lambda: Elliptic(SQUARE, lambda x: x[:, 2], 0.0), "source fails .* index 2 is out of bounds"),
        (lambda: Elliptic(SQUARE, lambda x: torch.exp(1j * x[:, 0]), 0.0), "source gave complex values"),
        (lambda: Elliptic(SQUARE, lambda x: "f", 0.0), "source gave a str"),
        (lambda: Elliptic(SQUARE, Piecewise(1.0, [(SQUARE, lambda x: x)]), 0.0), "^Piecewise coefficient gave shape"),
        (lambda: Elliptic(SQUARE, 1.0, 0.0, p="2"), "p is '2'"),
        (lambda: Elliptic(SQUARE, 1.0, 0.0, exact=3.0), "exact is 3.0, but must be a callable"),
        (lambda: Elliptic(SQUARE, 1.0, conditions=Dirichlet(0.0)), "conditions is Dirichlet.* must be a list"),
        (lambda: Elliptic(SQUARE, 1.0, Dirichlet(0.0)), "boundary is Dirichlet.* give conditions="),
        (lambda: Dirichlet(0.0, component=-1), "Dirichlet component is -1"),
        (lambda: PDE(SQUARE, ["x", "y"], lambda x, u: u.x), "coordinates is .* a string of letters"),
        (lambda: PDE(SQUARE, "xy", lambda x, u: x[:, 0]), "residual does not depend on u"),
        (lambda: PDE(SQUARE, "xy", lambda x: x[:, 0]), "cannot be evaluated .* takes 1 positional argument"),
        (lambda: PDE(SQUARE, "xy", lambda x, u: u.dx), "cannot be evaluated .* no attribute 'dx'"),
        (lambda: PDE(SQUARE, "xy", lambda x, u: None), "residual gave a NoneType"),
        (lambda: PDE(SQUARE, "xy", lambda x, u: u.x, Dirichlet(0.0)), "conditions is Dirichlet.* must be a list"),
        (lambda: Evolution(SQUARE, lambda x, u: u.xx, 0.0), "no condition holds on the boundary piece 'x-'"),
        (lambda: Evolution(Ball([0, 0], 1), lambda x, u: u.xx, 0.0), "no condition holds on the boundary piece 'ball'"),
        (lambda: Evolution(SQUARE, lambda x, u: u.x, 0.0, [Initial(0.0)]), "takes initial values as initial="),
        (lambda: Evolution(SQUARE, lambda x, u: u.x, lambda x: x[:, 2]), "initial fails"),
        (lambda: Evolution(SQUARE, lambda x, u: u.x, 0.0, time=1.0), "end > start"),
        (lambda: Elliptic(SQUARE - Ball([0.5, 0.5], 0.1), 1.0, conditions=[Periodic(0)]), "Periodic needs a Box"),
        (lambda: PDE(SQUARE, "x", lambda x, u: u.x), "needs 2 different letters"),
        (lambda: PDE(SQUARE, "xy", lambda x, u: u.t), "u.t is not a derivative here"),
        (lambda: PDE(SQUARE, "xy", lambda x, u: x * u), "cannot be evaluated at 16 points"),
        (lambda: PDE(SQUARE, "xy", "u.x"), "residual is"),
        (lambda: Evolution(SQUARE, lambda x, u: u.xx, 0.0, time=(1, 0)), "end > start"),
        (lambda: Data(torch.rand(3, 1), torch.rand(2)), "points .* and values"),
        (lambda: Data(torch.rand(2, 1), [1.0, NAN]), "NaN"),
    ],
)
def test_bad_input_is_a_sentence(make, message):
    with pytest.raises((ValueError, TypeError), match=message):
        make()


def test_sides_across_which_nothing_spreads_need_no_condition():
    """A transport needs none where it leaves, and diffusion along y none at the ends of x."""
    Evolution(SQUARE, lambda x, u: -u.x, 0.0, [Dirichlet(0.0, on="x-")])
    Evolution(SQUARE, lambda x, u: u.yy, 0.0, [Dirichlet(0.0, on="y-"), Neumann(0.0, on="y+")])
