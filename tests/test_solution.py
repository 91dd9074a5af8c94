"""Solutions: called on arrays and tensors, compared with functions, saved and loaded."""

import numpy as np
import pytest
import torch
from torch import nn

import sciml.solution
from sciml.calculus import jet
from sciml.domain import Box
from sciml.solution import Solution, compare, load
from sciml.training import History


class Net(nn.Module):
    """A savable field: u = sum_i w_i x_i^2, in float32 if asked."""

    def __init__(self, inputs, dtype=torch.float64):
        super().__init__()
        self.inputs = inputs
        self.weight = nn.Parameter(torch.arange(1.0, inputs + 1, dtype=dtype))

    def forward(self, x):
        assert x.dtype == self.weight.dtype
        return x.square() @ self.weight

    def describe(self):
        return {"inputs": self.inputs}

    @classmethod
    def restore(cls, description, arrays, problem=None):
        net = cls(description["inputs"])
        net.load_state_dict({k: torch.as_tensor(v) for k, v in arrays.items()})
        return net


@pytest.fixture
def savable(monkeypatch):
    monkeypatch.setitem(sciml.solution._FIELDS, "net", f"{Net.__module__}:Net")


def exact(x):
    return x[:, 0].square() + 2 * x[:, 1].square()


# ------------------------------------------------------------------------------------------------------------- calling


def test_arrays_give_arrays_and_tensors_give_tensors():
    solution, points = Solution(Net(2)), np.random.default_rng(0).random((20_000, 2))
    values = solution(points)
    assert isinstance(values, np.ndarray) and values.dtype == np.float64 and values.shape == (20_000,)
    assert np.allclose(values, points[:, 0] ** 2 + 2 * points[:, 1] ** 2, rtol=1e-14)
    tensor = torch.as_tensor(points)
    assert torch.equal(solution(tensor), torch.as_tensor(values)) and not solution(tensor).requires_grad
    assert solution(np.zeros((0, 2))).shape == (0,)


def test_single_precision_networks_take_and_give_double():
    solution = Solution(Net(2, torch.float32))
    assert solution(np.ones((3, 2))).dtype == np.float64 and solution(torch.ones(3, 2).double()).dtype == torch.float64


def test_a_solution_can_be_differentiated_in_the_points():
    solution, x = Solution(Net(2)), torch.rand(5, 2, dtype=torch.float64, requires_grad=True)
    (gradient,) = torch.autograd.grad(solution(x).sum(), x)
    assert torch.allclose(gradient, 2 * x * torch.tensor([1.0, 2.0]))
    assert torch.allclose(jet(solution, x.detach()).laplacian, torch.tensor(6.0).double())


def test_a_solution_lends_the_derivatives_of_its_field_to_jet():
    class Taylored(Net):
        calls = 0

        def taylor(self, t):
            Taylored.calls += 1
            assert t.value.dtype == torch.float32
            squares = t.compose((t.value.square(), 2 * t.value, torch.full_like(t.value, 2.0)))
            return squares.map(lambda a: (a @ self.weight)[..., None])

    x = torch.rand(5, 2, dtype=torch.float64)
    found = jet(Solution(Taylored(2, torch.float32)), x)
    assert Taylored.calls == 1 and found.laplacian.dtype == torch.float64
    assert torch.allclose(found.laplacian, torch.tensor(6.0).double()) and not hasattr(Solution(exact), "taylor")


def test_points_of_another_shape_are_refused():
    solution = Solution(Net(2))
    with pytest.raises(ValueError, match=r"points has shape \(4, 3\), but must have shape \(n, 2\)"):
        solution(np.zeros((4, 3)))
    with pytest.raises(ValueError, match=r"points has shape \(4,\)"):
        solution(torch.zeros(4))
    with pytest.raises(TypeError, match="points is a list"):
        solution([[0.0, 0.0]])


def test_the_dimension_comes_from_the_problem():
    class Problem:
        domain = Box([0, 0, 0], [1, 1, 1])

    with pytest.raises(ValueError, match=r"\(n, 3\)"):
        Solution(exact, Problem())(np.zeros((4, 2)))


# ----------------------------------------------------------------------------------------------------------- comparing


def test_compare_gives_the_four_distances():
    points = np.random.default_rng(1).random((1000, 2))
    found = compare(lambda x: 1.5 * exact(x), exact, points)
    reference = exact(torch.as_tensor(points)).numpy()
    assert found["rel_l2"] == pytest.approx(0.5) and found["rel_l2_sq"] == pytest.approx(0.25)
    assert found["max"] == pytest.approx(0.5 * reference.max())
    assert found["mse"] == pytest.approx(0.25 * np.mean(reference**2))


def test_compare_draws_points_in_a_domain_and_repeats_them():
    domain, seen = Box([0, 0], [1, 1]), []

    def watching(x):
        seen.append(x)
        return exact(x)

    first = compare(Solution(Net(2)), watching, domain)
    assert sum(map(len, seen)) == 20_000 and first["max"] < 1e-14
    assert compare(lambda x: x[:, 0], exact, domain, n=500) == compare(lambda x: x[:, 0], exact, domain, n=500)
    assert compare(lambda x: x[:, 0], exact, domain, 500, 0) != compare(lambda x: x[:, 0], exact, domain, 500, 1)


def test_compare_takes_columns_and_vectors():
    points = torch.rand(100, 2, dtype=torch.float64)
    assert compare(lambda x: exact(x)[:, None], exact, points)["rel_l2"] == 0
    assert compare(lambda x: 2 * x, lambda x: x, points)["rel_l2"] == pytest.approx(1)
    with pytest.raises(ValueError, match=r"shapes \(100, 2\) and \(100,\)"):
        compare(lambda x: x, exact, points)


def test_compare_with_zero():
    points = np.ones((4, 2))
    assert compare(exact, lambda x: 0 * x[:, 0], points)["rel_l2"] == float("inf")
    assert compare(lambda x: 0 * x[:, 0], lambda x: 0 * x[:, 0], points)["rel_l2"] == 0


def test_compare_refuses_what_is_not_finite():
    points = np.array([[0.0, 0.0], [-1.0, 0.5]])
    with pytest.raises(ValueError, match=r"b is not finite at 1 of 2 points, first at \[-1.0, 0.5\]"):
        compare(exact, lambda x: x[:, 0].sqrt(), points)
    with pytest.raises(ValueError, match="a is not finite"):
        compare(lambda x: x[:, 0].sqrt(), exact, points)


def test_compare_refuses_other_places():
    with pytest.raises(TypeError, match="where is a str"):
        compare(exact, exact, "everywhere")
    with pytest.raises(ValueError, match=r"where has shape \(4,\)"):
        compare(exact, exact, np.zeros(4))
    with pytest.raises(ValueError, match=r"a gave shape \(1,\) at 4 points"):
        compare(lambda x: x.sum().reshape(1), exact, np.zeros((4, 2)))
    with pytest.raises(ValueError, match="n is 0"):
        compare(exact, exact, Box([0, 0], [1, 1]), n=0)


# -------------------------------------------------------------------------------------------------------------- saving


def test_everything_but_the_problem_comes_back(savable, tmp_path):
    history = History([{"step": 0.0, "loss": 2.0}, {"step": 1.0, "loss": 1.0}], [{"step": 1, "spectrum": [1.0, 2.0]}])
    made = Solution(
        Net(2), None, history, 1.5, "all 2 steps done", {"nu": (0.1, 0.01)}, float("nan"), {"parameters": 2}
    )
    made.save(tmp_path / "s.h5")
    back = load(tmp_path / "s.h5", problem=None)
    points = np.random.default_rng(0).random((50, 2))
    assert np.array_equal(back(points), made(points)) and back.savable
    assert back.history.steps == history.steps and back.history.records == history.records
    assert (back.seconds, back.status, back.parameters) == (1.5, "all 2 steps done", {"nu": (0.1, 0.01)})
    assert np.isnan(back.error_estimate) and back.cost == {"parameters": 2} and back.dim == 2


def test_a_field_that_files_do_not_store_is_refused(tmp_path):
    assert not Solution(exact, dim=2).savable
    with pytest.raises(TypeError, match="field is a function, which files do not store"):
        Solution(exact, dim=2).save(tmp_path / "s.h5")
    assert not list(tmp_path.iterdir())


def test_a_network_of_ones_own_inside_a_boundary_factor_is_refused(tmp_path):
    from sciml.hard import Hard

    solution = Solution(Hard(Net(2), Box([0, 0], [1, 1])))
    assert not solution.savable
    with pytest.raises(TypeError, match="field is a Net, which files do not store"):
        solution.save(tmp_path / "s.h5")


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_networks_come_back_exactly(tmp_path, dtype):
    from sciml.hard import Hard
    from sciml.networks import Dense, Mscale

    box, points = Box([0, 0], [1, 1]), np.random.default_rng(0).random((50, 2))
    for network in (Dense(2, [8, 8]), Mscale(2, [5], [1, 4]), Hard(Mscale(2, [5], [1, 4]), box, 0.5)):
        made = Solution(network.to(dtype=dtype))
        made.save(tmp_path / "s.h5")
        assert np.array_equal(load(tmp_path / "s.h5")(points), made(points))


def test_references_come_back_exactly(tmp_path):
    from sciml import Elliptic, FiniteDifference, FiniteElement

    problem = Elliptic(Box([0, 0], [1, 1]), source=1.0, boundary=0.0)
    points = np.random.default_rng(0).random((50, 2))
    for solver in (FiniteDifference(n=16), FiniteElement(n=8)):
        made = solver.solve(problem)
        made.save(tmp_path / "s.h5")
        back = load(tmp_path / "s.h5")
        assert np.array_equal(back(points), made(points)) and back.status == made.status


def test_other_files_are_refused(savable, tmp_path, monkeypatch):
    from sciml.files import write_h5

    write_h5(tmp_path / "c.h5", {"kind": "checkpoint"}, {})
    with pytest.raises(ValueError, match="c.h5 holds 'checkpoint', but load reads the file of a Solution"):
        load(tmp_path / "c.h5")
    Solution(Net(2)).save(tmp_path / "s.h5")
    monkeypatch.delitem(sciml.solution._FIELDS, "net")
    with pytest.raises(ValueError, match="field of kind 'net', but this sciml knows"):
        load(tmp_path / "s.h5")


def test_every_kind_in_the_table_can_be_restored():
    for kind, place in sciml.solution._FIELDS.items():
        found = sciml.solution._resolve(place)
        assert callable(found.describe) and callable(found.restore), kind
