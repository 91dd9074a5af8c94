"""Multi-scale networks trained on the equation: MscaleDNN (arXiv:2007.11207) and its relatives.

The solution is u(x) = sum_i f_i(alpha_i x): subnetworks that see the domain stretched by their scale, so that what is
oscillatory for one is slow for another. Training minimises the Ritz energy of an `Elliptic` problem or the squared
residual of any problem.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from sciml.calculus import Taylor
from sciml.domain import Ball, Box, Ellipsoid
from sciml.hard import Hard
from sciml.networks import Activation, Mscale, parameter_count, sine
from sciml.objective import Batch, LeastSquares, Penalty, Ritz
from sciml.optimizers import GaussNewton, sample_jacobian, standard_errors
from sciml.optimizers.jacobians import last_layer_of
from sciml.problem import PDE, Dirichlet, Elliptic, Evolution
from sciml.solution import Solution, check_tolerance
from sciml.solvers.automatic import automatic
from sciml.solvers.hardbox import HardBox
from sciml.training import Adam, Callback, Stage, fit

__all__ = ["Inverse", "MscaleSolver"]

NetworkFactory = Callable[[int, int, torch.Generator], nn.Module]


class Inverse(nn.Module):
    """A network together with the scalars of an inverse problem, each trained relative to its starting size."""

    def __init__(self, network: nn.Module, unknowns: Mapping[str, float]) -> None:
        super().__init__()
        p = next(network.parameters())
        self.network, self.start = network, dict(unknowns)
        self.shifts = nn.ParameterDict({k: nn.Parameter(p.new_zeros(())) for k in unknowns})

    @property
    def unknowns(self) -> dict[str, Tensor]:
        """Current values: start + |start| shift (or the shift itself where the start is 0)."""
        return {k: s + (abs(s) or 1.0) * self.shifts[k] for k, s in self.start.items()}

    @property
    def smoothness(self) -> float:
        """That of the network."""
        return getattr(self.network, "smoothness", float("inf"))

    def forward(self, x: Tensor) -> Tensor:
        """The network."""
        return self.network(x)

    def taylor(self, t: Taylor) -> Taylor:
        """The network."""
        return self.network.taylor(t)  # type: ignore[operator]


@dataclass(frozen=True)
class MscaleSolver:
    """Solve a problem with a multi-scale network.

    With nothing said about scales, widths, activation, energy, penalty, stages or network, all of it is chosen from the
    spectrum of the problem and enriched until an error estimate meets the tolerance (`sciml.solvers.automatic`).
    Otherwise, what is not given has the defaults named below.

    Attributes:
        scales: the alpha_i, one subnetwork each; None takes 1, 2, 4, 8, 16, 32 for an energy and 1, 2, 4 for residuals.
        widths: hidden widths of each subnetwork; None takes (50, 50) for an energy and (20, 20) for residuals.
        activation: of the hidden layers.
        kind: 2 for independent subnetworks, 1 for one network with a grouped first layer.
        ritz: minimise the energy (True) or the squared residual (False); None takes the energy if the problem has one.
        penalty: weight of the boundary terms: a number, a function of progress in [0, 1] (`objective.staged`), or a
            mapping from term names; None takes 1000 for an energy and 10 for residuals.
        stages: of the training; None trains an energy by Adam, and residuals by Adam and then Gauss-Newton, which the
            smaller network allows.
        interior: points inside per batch.
        boundary: points on the boundary per batch.
        hard: satisfy boundary values by construction: a constant Dirichlet value on the whole boundary, or any
            Dirichlet and Initial values on whole faces of a box (`HardBox`); None does so for a constant on one box,
            ball or ellipsoid.
        tolerance: relative L2 error to reach where everything is chosen from the problem, as the solver estimates it.
        adaptive: draw interior points in proportion to the residual, each with its weight (`LeastSquares.concentrate`);
            least squares only.
        balanced: instead of `penalty`, weigh the terms so that all pull equally on the network at the start
            (`LeastSquares.balanced`); least squares only.
        network: ``(inputs, outputs, generator) -> Module`` replaces the network described above.
        dtype: precision of the training.
        device: where to train.
    """

    scales: Sequence[float] | None = None
    widths: Sequence[int] | None = None
    activation: Activation = sine
    kind: int = 2
    ritz: bool | None = None
    penalty: Penalty | None = None
    stages: Sequence[Stage] | None = None
    interior: int = 2048
    boundary: int = 512
    hard: bool | None = None
    tolerance: float = 1e-6
    adaptive: bool = False
    balanced: bool = False
    network: NetworkFactory | None = None
    dtype: torch.dtype = torch.float64
    device: str = "cpu"

    def __post_init__(self) -> None:
        """Check the numbers."""
        for name, count in (("interior", self.interior), ("boundary", self.boundary)):
            if not isinstance(count, int) or count < 1:
                raise ValueError(f"{name} is {count!r}, but must be a whole number of points, at least 1")
        check_tolerance(self.tolerance)

    def solve(
        self,
        problem: Elliptic | PDE | Evolution,
        seed: int = 0,
        callbacks: Sequence[Callback] = (),
        checkpoint: str | None = None,
    ) -> Solution:
        """Train a network on `problem`.

        Args:
            problem: what to solve.
            seed: of initialisation and batches; the same seed gives the same numbers.
            callbacks: see `training.fit`.
            checkpoint: file for exact resumption.

        Returns:
            A `Solution`; its status says how training ended, its parameters the values of an inverse problem.

        Raises:
            TypeError: for another kind of problem.
            ValueError: for a derivative above order two, or options that do not fit the problem.
        """
        begun = time.perf_counter()
        if not isinstance(problem, (Elliptic, PDE, Evolution)):
            kind = type(problem).__name__
            raise TypeError(f"problem is a {kind}, but MscaleSolver accepts Elliptic, PDE and Evolution")
        stated = problem.pde() if isinstance(problem, Evolution) else problem
        if stated.order > 2:
            raise ValueError(
                f"problem has derivatives of order {stated.order}, but MscaleSolver takes them up to order 2; "
                "use FeatureSolver"
            )
        if self._chooses(problem):
            return automatic(self, problem, seed, callbacks)
        generator = torch.Generator().manual_seed(seed)
        energy = self.ritz if self.ritz is not None else isinstance(stated, Elliptic)
        network = self._network(stated, generator, energy)
        bare, network = network, self._built_in(network, stated)
        hard = network is not bare
        unknowns = stated.unknowns if isinstance(stated, PDE) else {}
        model: nn.Module = Inverse(network, unknowns) if unknowns else network
        model.to(self.device, self.dtype)
        penalty = self.penalty if self.penalty is not None else (1000.0 if energy else 10.0)
        objective: Ritz | LeastSquares = (Ritz if energy else LeastSquares)(stated, penalty)  # type: ignore[arg-type]
        objective.check(model)
        if (self.adaptive or self.balanced) and not isinstance(objective, LeastSquares):
            raise ValueError("adaptive points and balanced terms need a residual; use ritz=False")
        if self.balanced and isinstance(objective, LeastSquares):
            objective = self._balanced(objective, model, seed, hard)
        batches = _Batches(objective, self.interior, self.boundary, hard, model if self.adaptive else None)
        stages = self.stages
        if stages is None:
            stages = [Adam(3000, lr=2e-3)] if energy else [Adam(500, lr=3e-3), GaussNewton(80, resample=20)]
        history = fit(model, objective, batches, stages, callbacks, checkpoint, seed)
        parameters = None
        if isinstance(model, Inverse):
            batch = batches(torch.Generator().manual_seed(seed)).to(self.device, self.dtype)
            errors = standard_errors(objective, model, batch)
            parameters = {k: (float(v.detach()), errors[k]) for k, v in model.unknowns.items()}
        cost = {"parameters": parameter_count(model), "steps": len(history.steps), "training_seconds": history.seconds}
        return Solution(
            network,
            problem=problem,
            history=history,
            seconds=time.perf_counter() - begun,
            status=history.status,
            parameters=parameters,
            cost=cost,
        )

    def _network(self, problem: Elliptic | PDE, generator: torch.Generator, energy: bool) -> nn.Module:
        outputs = problem.components if isinstance(problem, PDE) else 1
        if self.network is not None:
            return self.network(problem.dim, outputs, generator)
        return Mscale(
            problem.dim,
            self.widths or ((50, 50) if energy else (20, 20)),
            self.scales or ((1, 2, 4, 8, 16, 32) if energy else (1, 2, 4)),
            outputs,
            activation=self.activation,
            kind=self.kind,
            generator=generator,
            dtype=self.dtype,
            box=tuple(b.tolist() for b in problem.domain.bounds),  # type: ignore[arg-type]
        )

    def _chooses(self, problem: Elliptic | PDE | Evolution) -> bool:
        """Whether scales and training are left to the spectrum of the problem."""
        given = (self.scales, self.widths, self.ritz, self.penalty, self.stages, self.network)
        if any(option is not None for option in given) or self.activation is not sine or self.kind != 2:
            return False
        # jumps of the diffusion need the energy, unknown scalars a standard error at the end of one training
        jumps = isinstance(problem, Elliptic) and bool(problem.interfaces)
        return self.dtype == torch.float64 and not jumps and not getattr(problem, "unknowns", None)

    def _balanced(self, objective: LeastSquares, model: nn.Module, seed: int, hard: bool) -> LeastSquares:
        """The objective with all terms pulling equally at the start."""
        unit = LeastSquares(objective.problem, 1.0)
        batch = unit.sample(self.interior, self.boundary, torch.Generator().manual_seed(seed), sobol=True, hard=hard)
        # on the last layer, where it is known: enough to compare the terms, and cheap for a wide network
        only = last_layer_of(model)
        _, jacobian, slices = sample_jacobian(unit.residuals, model, batch.to(self.device, self.dtype), only=only)
        return unit.balanced({k: float(jacobian[rows].square().sum()) for k, rows in slices.items()})

    def _built_in(self, network: nn.Module, problem: Elliptic | PDE) -> nn.Module:
        """The network with boundary values built in, or as it is."""
        conditions = [c for c in problem.conditions if isinstance(c, Dirichlet)]
        constant = [c.value for c in conditions if isinstance(c.value, (int, float)) and c.on is None]
        whole = isinstance(problem, Elliptic) and len(problem.conditions) == len(constant) == 1
        simple = whole and isinstance(problem.domain, (Box, Ball, Ellipsoid))
        if self.hard is False or (self.hard is None and not simple):
            return network
        if whole:
            return Hard(network, problem.domain, float(constant[0]))
        if not HardBox.applies(problem):
            raise ValueError(
                "hard=True needs one constant Dirichlet value on the whole boundary, or Dirichlet and Initial values "
                "on whole faces of a Box for one unknown; use hard=False"
            )
        return HardBox(network, problem)


class _Batches:
    """Draws batches for `fit`; with a model, adaptive ones."""

    def __init__(
        self, objective: Ritz | LeastSquares, interior: int, boundary: int, hard: bool, model: nn.Module | None
    ) -> None:
        self.objective, self.interior, self.boundary, self.hard, self.model = objective, interior, boundary, hard, model
        self.follows_model = model is not None

    def __call__(self, generator: torch.Generator) -> Batch:
        more = 1 if self.model is None else _CANDIDATES
        batch = self.objective.sample(more * self.interior, self.boundary, generator, sobol=True, hard=self.hard)
        if self.model is None or not isinstance(self.objective, LeastSquares):
            return batch
        p = next(self.model.parameters())
        return self.objective.concentrate(self.model, batch.to(p.device, p.dtype), self.interior, generator)


_CANDIDATES = 10  # points to choose each adaptive one from
