"""How many directions of function space a network spans at its parameters, and how many data decide them.

The *model rank* at theta is r = dim span {d f(.; theta) / d theta_i}, the rank of the Jacobian J (values x parameters)
at enough points (arXiv:2211.11623). The smallest rank over all parameters that give the same function is its
*optimistic sample size* (arXiv:2307.08921): fewer data cannot decide it by gradient training; with that many it is
possible in the best case. For a two-layer tanh network that uses k distinct neurons of d inputs with bias the rank is k
(d + 2), whatever its width; for a d x d matrix factorisation of rank r it is 2 r d - r^2.

All of it needs float64: in float32 the Jacobian's noise, about 1e-6 of its largest singular value, counts as rank.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from sciml.theory.diagnostic import Diagnostic, Record, Schedule, State, log_spaced
from sciml.theory.functional import Parameters, at, check_rows, flatten, parameter_jacobian, parameters_of

__all__ = [
    "Identifiability",
    "ModelRank",
    "Rank",
    "effective_dimension",
    "identifiability",
    "jacobian_rank",
    "model_rank",
    "optimistic_sample_size",
]

_ENTRIES = 50_000_000  # 400 MB of float64: the largest Jacobian that is formed


@dataclass(frozen=True)
class Rank:
    """The rank of a Jacobian and how clear-cut it is.

    Attributes:
        rank: number of singular values above ``tolerance`` times the largest.
        gap: ratio of the last value counted to the first not counted (inf if there is none): below about 100, the
            rank depends on the tolerance and should not be believed.
        tolerance: relative.
        singular_values: all of them, descending.
        parameters: number of trainable parameters, the largest possible rank.
    """

    rank: int
    gap: float
    tolerance: float
    singular_values: Tensor
    parameters: int

    def effective_dimension(self, damping: float) -> float:
        """sum_i s_i^2 / (s_i^2 + damping): how many directions stand out of noise of variance `damping`."""
        if not damping > 0:
            raise ValueError(f"damping is {damping}, but must be positive")
        squares = self.singular_values.square()
        return float((squares / (squares + damping)).sum())


def _check(network: nn.Module, points: Tensor) -> int:
    """Refuse what would give a meaningless rank; returns the number of parameters."""
    parameters = parameters_of(network)
    check_rows(network)
    for name, p in [*parameters.items(), ("points", points)]:
        if p.dtype != torch.float64:
            raise ValueError(
                f"{name} is {str(p.dtype).removeprefix('torch.')}, whose rounding noise counts as rank; "
                "convert the network with .double() and give float64 points"
            )
    if points.ndim != 2:
        raise ValueError(f"points has shape {tuple(points.shape)}, but must have shape (n, d)")
    return sum(p.numel() for p in parameters.values())


def _decide(singular: Tensor, tolerance: float, parameters: int) -> Rank:
    if not torch.isfinite(singular).all():
        raise ValueError("the Jacobian has non-finite entries: the network overflows at these points or parameters")
    if not len(singular) or singular[0] == 0:
        return Rank(0, float("inf"), tolerance, singular, parameters)
    rank = int((singular > tolerance * singular[0]).sum())
    below = float(singular[rank]) if rank < len(singular) else 0.0
    return Rank(rank, float(singular[rank - 1]) / below if below > 0 else float("inf"), tolerance, singular, parameters)


def jacobian_rank(
    network: nn.Module,
    points: Tensor,
    tolerance: float = 1e-9,
    sketch: int | None = None,
    generator: torch.Generator | None = None,
) -> Rank:
    """The rank of the network's Jacobian at `points`, however few they are.

    On training points it says how many directions these data decide: f can be recovered in the best case once it equals
    the model rank.

    Args:
        network: in float64.
        points: ``(n, d)`` float64.
        tolerance: relative to the largest singular value.
        sketch: form only this many random combinations of the rows (one backward pass each) instead of all; exact for
            ranks below it, and the way for networks whose Jacobian does not fit into memory.
        generator: of the combinations; None is one seeded 0.

    Raises:
        ValueError: for float32, or a Jacobian that is too large to form without `sketch`.
    """
    count = _check(network, points)
    if sketch is None:
        with torch.no_grad():
            values = network(points[:1]).numel() * len(points)
        if values * count > _ENTRIES:
            raise ValueError(
                f"the Jacobian of {values} values by {count} parameters has more than {_ENTRIES:.0e} entries; "
                "give fewer points or sketch=k, with k above the rank you expect"
            )
        return _decide(torch.linalg.svdvals(parameter_jacobian(network, points)), tolerance, count)
    parameters = parameters_of(network)
    value, pull, *_ = torch.func.vjp(lambda p: at(network, p)(points).reshape(-1), parameters)
    generator = torch.Generator().manual_seed(0) if generator is None else generator
    mixes = torch.randn(min(sketch, len(value)), len(value), dtype=torch.float64, generator=generator)
    rows = torch.stack([flatten(pull(mix)[0]) for mix in mixes.to(value.device) / len(value) ** 0.5])
    decided = _decide(torch.linalg.svdvals(rows), tolerance, count)
    if decided.rank == sketch < min(len(value), count):
        raise ValueError(f"sketch is {sketch}, which is not above the rank; give a larger one")
    return decided


def model_rank(network: nn.Module, points: Tensor, tolerance: float = 1e-9, sketch: int | None = None) -> int:
    """Dim span {d f / d theta_i} at the network's parameters (arXiv:2211.11623), measured at `points`.

    Args:
        network: in float64.
        points: ``(n, d)`` float64, more than there are parameters, spread over the domain.
        tolerance: relative singular value that counts as zero.
        sketch: see `jacobian_rank`.

    Raises:
        ValueError: for float32, or if the points are so few that they, not the network, limit the rank.

    >>> net = nn.Sequential(nn.Linear(1, 3), nn.Tanh(), nn.Linear(3, 1, bias=False)).double()
    >>> model_rank(net, torch.linspace(-3, 3, 50, dtype=torch.float64)[:, None])
    9
    """
    found = jacobian_rank(network, points, tolerance, sketch)
    with torch.no_grad():
        values = network(points[:1]).numel() * len(points)
    if found.rank == values < found.parameters:
        raise ValueError(
            f"{len(points)} points give {values} values, all of them independent, so the rank may be higher; "
            f"give at least {-(-found.parameters * len(points) // values) + 1} points"
        )
    return found.rank


def effective_dimension(network: nn.Module, points: Tensor, damping: float) -> float:
    """sum_i s_i^2 / (s_i^2 + damping) over the singular values s_i of the Jacobian at `points`."""
    return jacobian_rank(network, points).effective_dimension(damping)


class ModelRank(Diagnostic):
    """The rank of the network's Jacobian through a training: how many directions of function space it spans.

    Records "rank", "gap" (see `Rank`), "share" of the parameters and "singular_values"; with `damping` also
    "effective_dimension". A rank well below the number of parameters says that a smaller network gives the function.

    Args:
        points: ``(n, d)`` float64, more than there are parameters, spread over the domain.
        tolerance: see `model_rank`.
        damping: see `Rank.effective_dimension`.
        schedule: None measures 3 times per factor ten: each costs one backward pass per point.
    """

    name = "rank"

    def __init__(
        self,
        points: Tensor,
        tolerance: float = 1e-9,
        damping: float | None = None,
        schedule: Schedule | None = None,
    ) -> None:
        super().__init__(log_spaced(3) if schedule is None else schedule)
        self.points, self.tolerance, self.damping = points, tolerance, damping

    def observe(self, state: State) -> Record:
        """One singular value decomposition."""
        found = jacobian_rank(state.module, self.points, self.tolerance)
        record = {"rank": found.rank, "gap": found.gap, "share": found.rank / found.parameters}
        if self.damping is not None:
            record["effective_dimension"] = found.effective_dimension(self.damping)
        return {**record, "singular_values": found.singular_values}

    def draw(self, figure: Any, records: Sequence[Record]) -> None:
        """The rank over the steps, and the singular values at the first and the last record."""
        left, right = figure.subplots(1, 2)
        for key in ("rank", "effective_dimension"):
            if f"{self.name}.{key}" in records[-1]:
                steps, values = self.series(key, records)
                left.plot(steps + 1, values, "o-", markersize=3, label=key.replace("_", " "))
        left.set(xlabel="step + 1", xscale="log")
        left.legend()
        for row in (records[0], records[-1]):
            right.semilogy([max(s, 1e-300) for s in row[f"{self.name}.singular_values"]], label=f"step {row['step']}")
        right.set(xlabel="direction", ylabel="singular value", ylim=(1e-16, None))
        right.legend()


def optimistic_sample_size(
    network: nn.Module, points: Tensor, equivalents: Sequence[nn.Module] = (), tolerance: float = 1e-9
) -> int:
    """The least number of values that can decide the function which the network has become (arXiv:2307.08921).

    It is the smallest model rank over all parameters with the same function; here over the network as it is, as it is
    after its parallel neurons are merged (where its layers can be read), and over `equivalents`. An upper bound of that
    minimum; a *best case*, never a guarantee that as many data are enough.

    Args:
        network: in float64.
        points: ``(n, d)`` float64, more than there are parameters.
        equivalents: other networks known to give the same function.
        tolerance: see `model_rank`.

    Raises:
        ValueError: as in `model_rank`, or if one of `equivalents` differs from the network at the points.
    """
    from sciml.theory.reduction import merge_exactly

    with torch.no_grad():
        values = network(points)
        for k, other in enumerate(equivalents):
            gap = float((other(points) - values).abs().max())
            if gap > 1e-8 * float(values.abs().max()) + 1e-12:
                raise ValueError(f"equivalents[{k}] differs from the network by {gap:.1e}, so it is not equivalent")
    merged = merge_exactly(network)
    candidates = [network, *equivalents, *([] if merged is None else [merged])]
    return min(model_rank(n, points, tolerance) for n in candidates)


@dataclass(frozen=True)
class Identifiability:
    """Which physical parameters of an inverse problem the data decide.

    Attributes:
        names: one per scalar, ``name`` or ``name[i]``.
        rank: number of combinations that the data decide; all are decided if it equals ``len(names)``.
        singular_values: of the sensitivities, columns scaled by the parameters' sizes.
        undecided: one mapping name -> component per combination that can change without a change of the data
            (relative changes; components below 1e-6 left out).
        errors: relative standard error per parameter for data noise of the given size; inf where undecided.
        correlation: ``(k, k)`` of the decided part.
    """

    names: tuple[str, ...]
    rank: int
    singular_values: Tensor
    undecided: tuple[Mapping[str, float], ...]
    errors: Mapping[str, float]
    correlation: Tensor

    @property
    def identifiable(self) -> bool:
        """Whether every parameter is decided by the data."""
        return self.rank == len(self.names)


def identifiability(
    residuals: Callable[[Parameters], Tensor],
    parameters: Mapping[str, Tensor],
    physical: Sequence[str] | None = None,
    noise: float = 1.0,
    tolerance: float = 1e-8,
) -> Identifiability:
    """The model rank of an inverse problem in its physical parameters.

    With J = [J_n, J_p] for nuisance parameters n (the weights of a network that is trained along) and physical ones p,
    the data decide p as far as the part of J_p orthogonal to the range of J_n does.

    Args:
        residuals: ``params -> (rows,)``: predictions or misfits, weighted alike.
        parameters: values by name, float64; the sizes scale the columns (a zero counts as 1).
        physical: names of the parameters asked about; None means all, without nuisance.
        noise: standard deviation of a row.
        tolerance: relative singular value that counts as zero.

    Raises:
        ValueError: for unknown names or parameters that are not float64.

    >>> x = torch.linspace(0, 1, 20, dtype=torch.float64)
    >>> one = torch.ones((), dtype=torch.float64)
    >>> found = identifiability(lambda p: p["a"] * p["b"] * x + p["c"], {"a": one, "b": one, "c": one})
    >>> found.rank, sorted(found.undecided[0])
    (2, ['a', 'b'])
    """
    wanted = list(parameters) if physical is None else list(physical)
    if unknown := [k for k in wanted if k not in parameters]:
        raise ValueError(f"physical names {unknown[0]!r}, but the parameters are {', '.join(parameters)}")
    for k, p in parameters.items():
        if p.dtype != torch.float64:
            raise ValueError(f"parameter {k!r} is {str(p.dtype).removeprefix('torch.')}, but rank needs float64")
    values = {k: p.detach() for k, p in parameters.items()}
    rows = torch.func.jacrev(residuals)(values)
    j = flatten({k: rows[k] for k in wanted}, 1)
    sizes = flatten({k: torch.where(values[k] == 0, 1.0, values[k].abs()) for k in wanted})
    j = j * sizes
    whole = torch.linalg.matrix_norm(j, 2)
    if nuisance := [k for k in values if k not in wanted]:
        u, s, _ = torch.linalg.svd(flatten({k: rows[k] for k in nuisance}, 1), full_matrices=False)
        u = u[:, s > tolerance * s[0]]
        j = j - u @ (u.T @ j)
    names = tuple(k if values[k].numel() == 1 else f"{k}[{i}]" for k in wanted for i in range(values[k].numel()))
    _, s, v = torch.linalg.svd(j, full_matrices=True)
    s = torch.cat([s, s.new_zeros(len(names) - len(s))]) if len(s) < len(names) else s
    # relative to the sensitivities before the projection: what is left of a fully confounded column is rounding
    rank = int((s > tolerance * whole).sum()) if whole > 0 else 0
    undecided = tuple(
        {k: float(c) for k, c in zip(names, row, strict=True) if abs(c) > 1e-6} for row in v[rank:].detach()
    )
    covariance = noise**2 * (v[:rank].T / s[:rank].square()) @ v[:rank]
    deviation = covariance.diagonal().clamp_min(0).sqrt()
    hidden = v[rank:].square().sum(0) > 1e-12
    errors = {k: float("inf") if h else float(e) for k, h, e in zip(names, hidden, deviation, strict=True)}
    scale = torch.where(deviation > 0, deviation, 1.0)
    return Identifiability(names, rank, s, undecided, errors, covariance / scale[:, None] / scale)
