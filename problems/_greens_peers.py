"""Green's operators beside DeepONet and FNO, trained on labels of the same family on the same core.

Sources of the training are random fields, of the test also the other families of `greens`. Labels and truth come from
differences of fourth order on a grid four times as fine as that on which the peers read sources. Each peer runs in a
process and a virtual environment of its own (`peers`); labels are free, and its clock rests while errors are measured.
"""

from __future__ import annotations

import json
import os
import subprocess
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sciml import Elliptic, Family, GreensSolver
from sciml.problems import peers  # type: ignore[import-not-found]
from sciml.problems._compact import Array, compact, distances, sampled  # type: ignore[import-not-found]
from sciml.solvers.quadrature import product_points

Sampler = Callable[[int, torch.Generator], Callable[[Tensor], Tensor]]
PEERS = {"deeponet": "deepxde", "fno": "neuraloperator"}  # method of the script -> name of its pins
SCRIPT = Path(__file__).parent / "_peers_operators.py"
SIDE = 32  # cells of the peers' grid
FINER = 4


def pairs(source: Callable[[Tensor], Tensor]) -> tuple[Array, Array]:
    """Sources on the peers' grid and their solutions there, solved for on a finer one."""
    fine = sampled(source, FINER * SIDE)
    return fine[:, ::FINER, ::FINER], compact(fine)[:, ::FINER, ::FINER]


def beside(
    names: tuple[str, ...],
    samplers: Mapping[str, Sampler],
    problem: Elliptic,
    kernels: Mapping[str, Any],
    run: Any,
    *,
    labels: int,
    members: int,
    budget: float,
    threads: int = 1,
) -> dict[str, Any]:
    """Train every operator and peer for one family of sources, measure all on every family.

    Args:
        names: peers, of `PEERS`.
        samplers: families of sources by name; ``fields`` is the one of the training.
        problem: Poisson's equation on the unit square.
        kernels: options of our kernels by name.
        run: the run folder.
        labels: solved sources that a peer is trained on.
        members: of each family in the test.
        budget: seconds of a peer's training.
        threads: of a peer.

    Returns:
        ``curves`` of errors by family against seconds, and a ``table`` of the last ones.
    """
    unseen = {k: s(members, torch.Generator().manual_seed(1000 + run.seed)) for k, s in samplers.items()}
    truth = {k: pairs(f) for k, f in unseen.items()}
    curves: dict[str, list[dict[str, float]]] = {}
    for name, options in kernels.items():
        begin = time.perf_counter()
        operator = GreensSolver(options).solve(Family(problem, samplers["fields"]), seed=run.seed)
        point = {"seconds": time.perf_counter() - begin}
        line = torch.linspace(0, 1, SIDE + 1, dtype=torch.float64)
        for k, f in unseen.items():
            found = operator(f)(product_points([line, line])).T.reshape(truth[k][1].shape).numpy()
            point[k] = float(np.median(distances(found, truth[k][1])))
        curves[name] = [point]
        print(f"{name}: {point}", flush=True)
    given, solved = pairs(samplers["fields"](labels, torch.Generator().manual_seed(run.seed)))
    tests: dict[str, Any] = {
        f"{letter}_{k}": v for k, both in truth.items() for letter, v in zip("fu", both, strict=True)
    }
    with tempfile.TemporaryDirectory() as folder:
        np.savez(Path(folder) / "pairs.npz", f=given, u=solved, **tests)
        for name in names:
            curves[name] = trained(name, Path(folder), budget, run.seed, threads)
            print(f"{name}: {curves[name][-1]}", flush=True)
    draw(run, curves, tuple(samplers))
    return {"curves": curves, "table": [{"operator": name, **curve[-1]} for name, curve in curves.items()]}


def trained(name: str, folder: Path, budget: float, seed: int, threads: int) -> list[dict[str, float]]:
    """Errors of a peer against the seconds of its training, on the pairs in a folder."""
    python = peers.interpreter(PEERS[name], peers.Config())
    words = [python, str(SCRIPT), name, "pairs.npz", str(budget), str(seed), "curve.json"]
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    environment |= {f"{k}_NUM_THREADS": str(threads) for k in ("OMP", "MKL", "OPENBLAS")}
    done = subprocess.run(words, env=environment, cwd=folder, capture_output=True, text=True, errors="replace")
    if done.returncode:
        last = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
        raise OSError(f"{name} failed: {last}")
    return list(json.loads((folder / "curve.json").read_text()))


def draw(run: Any, curves: Mapping[str, list[dict[str, float]]], families: tuple[str, ...]) -> None:
    """Error against time, one panel per family."""
    with run.figure("peers", 3.2 * len(families), 3.2) as figure:
        axes = figure.subplots(1, len(families), sharey=True, squeeze=False)[0]
        for axis, family in zip(axes, families, strict=True):
            for name, curve in curves.items():
                axis.loglog([p["seconds"] for p in curve], [p[family] for p in curve], marker="o", ms=3, label=name)
            axis.set(title=family, xlabel="seconds of training")
        axes[0].set(ylabel="relative L2 error")
        axes[0].legend(fontsize=7)
