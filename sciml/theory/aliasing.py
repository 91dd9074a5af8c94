"""When training points mistake one frequency for another (arXiv:2405.17479).

On n points per period 2 pi the wavenumbers k and k - j n are the same data: sin 5x on 8 points is -sin 3x. A network
then fits the lower one (the F-principle at work), the training loss vanishes and the validation error does not: what
looks like grokking, or a residual that is zero at the collocation points only.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import ArrayLike
from torch import Tensor

from sciml.theory.basis import Scattered, along, quadrature_weights
from sciml.theory.diagnostic import Diagnostic, Record, Schedule, State
from sciml.theory.functional import Operator, sample

__all__ = ["AliasAlarm", "alias"]


def alias(wavenumber: float, spacing: float) -> float:
    """The wavenumber, at most pi / spacing, that regular points cannot tell from `wavenumber`.

    >>> round(alias(5.0, 2 * np.pi / 8), 12)
    3.0
    """
    sampling = 2 * np.pi / spacing
    rest = wavenumber % sampling
    return float(min(rest, sampling - rest))


class AliasAlarm(Diagnostic):
    """Compares the spectrum that the training points see with the true one, along one direction.

    Recorded: "mismatch", the distance of the two amplitude spectra below the training points' limit, relative to the
    larger of them; "hidden", the part of the true energy above that limit; "frequency" and "seen_as", the strongest
    wavenumbers of the two; and "alarm", whether the mismatch exceeds `threshold`: then the remedy is more or other
    training points, not more steps.

    Args:
        training: training or collocation points ``(n, d)``.
        dense: many points ``(N, d)`` of the same domain.
        limit: largest wavenumber of interest, resolved by `dense`; None takes what `dense` resolves, at most 4 times
            what `training` does.
        direction: see `along`; None is the first axis.
        operator: ``(field, points) -> (n,)``, for example the residual of an equation; None looks at the field itself.
        threshold: of the mismatch.
        weights: quadrature weights of the two sets; None weighs cells in one dimension and equally beyond.
        component: of a vector field.
        schedule: see `Diagnostic`.
        name: see `Diagnostic`.
    """

    name = "alias"

    def __init__(
        self,
        training: Tensor,
        dense: Tensor,
        limit: float | None = None,
        direction: ArrayLike | None = None,
        operator: Operator | None = None,
        threshold: float = 0.5,
        weights: tuple[ArrayLike, ArrayLike] | None = None,
        component: int = 0,
        schedule: Schedule | None = None,
        name: str | None = None,
    ) -> None:
        super().__init__(schedule, name)
        self.operator, self.threshold, self.component = operator, threshold, component
        d = training.shape[1]
        p = np.eye(d)[0] if direction is None else np.asarray(direction, float) / np.linalg.norm(direction)
        self.seen_limit, extent = _limit(training, p)
        dense_limit, _ = _limit(dense, p)
        top = min(dense_limit, 4 * self.seen_limit) if limit is None else limit
        if dense_limit < 2 * self.seen_limit:
            raise ValueError(
                f"dense has {len(dense)} points and training {len(training)}: an alias shows only with at least "
                "twice as many"
            )
        k = np.arange(1, max(2, int(top * extent / (2 * np.pi)) + 1)) * 2 * np.pi / extent
        if weights is None and d == 1:
            weights = quadrature_weights(training), quadrature_weights(dense)
        pair = (None, None) if weights is None else weights
        self.k, below = k, k[k <= self.seen_limit * (1 + 1e-9)]
        self._train = along(training, p, list(below), pair[0])
        self._dense = along(dense, p, list(k), pair[1])

    def observe(self, state: State) -> Record:
        """Both spectra compared."""
        seen, true = (self._amplitudes(state.model, basis) for basis in (self._train, self._dense))
        below = true[: len(seen)]
        size = max(float(np.linalg.norm(seen)), float(np.linalg.norm(true)), 1e-300)
        mismatch = float(np.linalg.norm(seen - below)) / size
        hidden = float((true[len(seen) :] ** 2).sum()) / max(float((true**2).sum()), 1e-300)
        return {
            "mismatch": mismatch,
            "hidden": hidden,
            "frequency": float(self.k[true.argmax()]),
            "seen_as": float(self.k[seen.argmax()]),
            "alarm": mismatch > self.threshold,
        }

    def _amplitudes(self, model: Callable[[Tensor], Tensor], basis: Scattered) -> np.ndarray:
        return 2 * np.abs(basis.analyse(sample(model, basis.points, self.component, self.operator)))


def _limit(points: Tensor, p: np.ndarray) -> tuple[float, float]:
    """Largest wavenumber that points resolve along p (regular points, or as many irregular ones), and their period."""
    s = np.unique(np.round(np.asarray(points, float) @ p, 12))
    if len(s) < 3:
        raise ValueError(
            f"the points take {len(s)} different values along the direction, but a spectrum needs at least 3"
        )
    extent = (s[-1] - s[0]) * len(s) / (len(s) - 1)  # n points of a period span n - 1 of its n cells
    return float(np.pi * len(s) / extent), float(extent)
