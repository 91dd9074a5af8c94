"""Error against time of `sciml.solve` beside its peers and classical solvers, on the same problems and cores.

holes     Poisson's equation on a perforated square, u = sin mu x sin mu y, mu = 7 pi (arXiv:2007.11207)
five      a variable coefficient in five dimensions, Example 4.6 of arXiv:2009.14597
burgers   Burgers' equation, nu = 0.01 / pi, against Cole and Hopf
line      a coefficient of period 0.01 in one dimension (arXiv:2009.14597)

Peers are never dependencies: each gets a virtual environment of its own with the versions of ``peers_pins.json`` and
runs in a process of its own, one after the other. The clock of all starts after imports and stops while errors are
measured. A direct method is run anew for every size; a trained one is measured as it trains. How each peer is set up
is said in its script ``_peers_NAME.py``. Every error is the relative L2 error at 20,000 uniform points.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import subprocess
import sys
import venv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
PINS: dict[str, list[str]] = json.loads((HERE / "peers_pins.json").read_text())
PROBLEMS = ("holes", "five", "burgers", "line")
# our own interpreter, no installation: name in the table -> the method of _peers_sciml.py and the problems it accepts
OURS: dict[str, tuple[str, tuple[str, ...]]] = {
    "sciml": ("solve", PROBLEMS),
    "scikit-fem": ("elements", ("holes", "line")),
    "differences": ("differences", ("holes", "burgers", "line")),
}
TARGETS = (1e-2, 1e-4, 1e-6)


@dataclass(frozen=True)
class Config:
    """Options of a run.

    Attributes:
        problems: which of holes, five, burgers and line.
        peers: which of sciml, scikit-fem, differences and the names of ``peers_pins.json``.
        budget: seconds for each peer on each problem, imports and measurements apart.
        threads: that each process may use; 0 takes as many as there are cores for this process.
        environments: folder of the virtual environments; empty takes ``~/.cache/sciml/peers``.
    """

    problems: tuple[str, ...] = PROBLEMS
    peers: tuple[str, ...] = ("sciml", "scikit-fem", "differences", "fastlsq", "deepxde", "scimba")
    budget: float = 60.0
    threads: int = 0
    environments: str = ""


VARIANTS = {
    "smoke": Config(problems=("line",), peers=("sciml", "differences"), budget=0.5),
    "paper": Config(),
    "holes": Config(problems=("holes",)),
    "five": Config(problems=("five",)),
    "burgers": Config(problems=("burgers",)),
    "line": Config(problems=("line",)),
    "long": Config(budget=300.0),
}


def run(config: Config, run: Any) -> dict[str, Any]:
    """Every peer on every problem; finished ones are kept when a run is resumed."""
    check(config)
    results: dict[str, dict[str, Any]] = {problem: {} for problem in config.problems}
    interpreters = {peer: interpreter(peer, config) for peer in config.peers}
    for problem in config.problems:
        for peer in config.peers:
            file = run.path / f"{problem}-{peer}.json"
            if not (file.exists() and json.loads(file.read_text()).get("finished")):
                measure(peer, problem, config, interpreters[peer], file, run.seed)
            results[problem][peer] = json.loads(file.read_text())
    table = [
        {"problem": problem, "peer": peer, **summary(result, config.budget)}
        for problem, by_peer in results.items()
        for peer, result in by_peer.items()
    ]
    draw(run, results)
    rows = {problem: {row["peer"]: row for row in table if row["problem"] == problem} for problem in results}
    beside = {
        problem: {peer: beside_peer(by_peer["sciml"], result, config.budget) for peer, result in by_peer.items()}
        for problem, by_peer in results.items()
        if "sciml" in by_peer
    }
    return {"threads": threads_of(config), "rows": rows, "beside sciml": beside, "curves": results, "table": table}


def check(config: Config) -> None:
    """Refuse names that there are not."""
    for name, given, known in (
        ("problems", config.problems, PROBLEMS),
        ("peers", config.peers, (*OURS, *(peer for peer in PINS if (HERE / f"_peers_{peer}.py").is_file()))),
    ):
        for word in given:
            if word not in known:
                raise ValueError(f"{name} holds {word!r}, but must be of {', '.join(known)}")
    if not config.budget > 0:
        raise ValueError(f"budget is {config.budget}, but must be a positive number of seconds")
    if config.threads < 0:
        raise ValueError(f"threads is {config.threads}, but must be at least 0")


def threads_of(config: Config) -> int:
    """Threads of every process."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return config.threads or cores


# --------------------------------------------------------------------------------------------------- environments


def interpreter(peer: str, config: Config) -> str:
    """The Python that runs a peer: ours, or that of a virtual environment, made if it is not there."""
    if peer in OURS:
        return sys.executable
    pins = PINS[peer]
    root = Path(config.environments or Path.home() / ".cache" / "sciml" / "peers")
    key = hashlib.sha256(" ".join([sys.version, *pins]).encode()).hexdigest()[:10]
    folder = root / f"{peer}-{key}"
    python = folder / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    if not (folder / "complete").exists():
        venv.create(folder, with_pip=True, clear=True)
        words = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *pins]
        done = subprocess.run(words, capture_output=True, text=True)
        if done.returncode:
            last = (done.stderr.strip().splitlines() or ["pip said nothing"])[-1]
            raise OSError(f"{peer} could not be installed ({' '.join(pins)}): {last}")
        (folder / "complete").touch()
    return str(python)


# ------------------------------------------------------------------------------------------ one peer on one problem


def measure(peer: str, problem: str, config: Config, python: str, file: Path, seed: int) -> None:
    """Run one peer's script; what it has written counts even if it fails or has to be stopped."""
    method, accepted = OURS.get(peer, (None, PROBLEMS))
    if problem not in accepted:
        file.write_text(json.dumps({"curve": [], "note": "not made for this problem", "finished": True}))
        return
    script = HERE / f"_peers_{'sciml' if method else peer}.py"
    words = [python, str(script), problem, str(config.budget), str(seed), str(file), *([method] if method else [])]
    threads = {f"{k}_NUM_THREADS": str(threads_of(config)) for k in ("OMP", "MKL", "OPENBLAS")}
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"} | threads
    note = ""
    try:
        # imports, measurements and the last step that began in time come on top
        limit = 3 * config.budget + 120
        done = subprocess.run(
            words, env=environment, cwd=file.parent, capture_output=True, text=True, errors="replace", timeout=limit
        )
        if done.returncode:
            note = "failed: " + (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
    except subprocess.TimeoutExpired:
        note = f"stopped after {limit:g} s"
    found = json.loads(file.read_text()) if file.exists() else {"curve": [], "note": ""}
    found.update(note=note or found["note"], finished=True)
    file.write_text(json.dumps(found))


def summary(result: Mapping[str, Any], budget: float) -> dict[str, Any]:
    """Seconds to each target, the best error within the budget, memory."""
    curve = result["curve"]
    row: dict[str, Any] = {}
    for target in TARGETS:
        reached = [p["seconds"] for p in curve if p["error"] <= target]
        row[f"s to {target:.0e}"] = min(reached, default=None)
    row["best error"] = min((p["error"] for p in curve if p["seconds"] <= budget), default=None)
    row["MiB"] = round(result["peak_mebibytes"]) if result.get("peak_mebibytes") else None
    row["note"] = result["note"]
    return row


def beside_peer(ours: Mapping[str, Any], theirs: Mapping[str, Any], budget: float) -> dict[str, Any]:
    """A peer beside `sciml`: how many times its time over ours, error by error, and its error over ours.

    The error is that at the time of our best within the budget, so that both have had equally long.
    """

    def reached(result: Mapping[str, Any], error: float) -> float:
        return min((p["seconds"] for p in result["curve"] if p["error"] <= error), default=math.inf)

    def within(result: Mapping[str, Any], seconds: float) -> dict[str, Any]:
        fit = [p for p in result["curve"] if p["seconds"] <= seconds]
        return min(fit, key=lambda p: p["error"], default={"error": 1.0, "seconds": seconds})

    best = within(ours, budget)
    times: dict[str, float | None] = {}
    for k in range(2, 11):
        mine, other = reached(ours, 10.0**-k), reached(theirs, 10.0**-k)
        if math.isfinite(mine):
            times[f"1e-{k}"] = other / mine if math.isfinite(other) else None  # None: never reached
    return {
        "time ratio to": times,
        "error ratio at equal time": within(theirs, best["seconds"])["error"] / best["error"],
    }


def frontier(curve: Sequence[Mapping[str, Any]]) -> tuple[list[float], list[float]]:
    """The least error reached by each time."""
    seconds: list[float] = []
    errors: list[float] = []
    for point in sorted(curve, key=lambda p: p["seconds"]):
        if not errors or point["error"] < errors[-1]:
            seconds.append(point["seconds"])
            errors.append(point["error"])
    return seconds, errors


def draw(run: Any, results: Mapping[str, Mapping[str, Any]]) -> None:
    """Work-precision curves, one panel per problem."""
    peers = list(dict.fromkeys(peer for by_peer in results.values() for peer in by_peer))
    with run.figure("work-precision", 4.2 * len(results), 3.6) as figure:
        axes = figure.subplots(1, len(results), squeeze=False)
        for axis, (problem, by_peer) in zip(axes[0], results.items(), strict=True):
            for peer, result in by_peer.items():
                if result["curve"]:
                    style: dict[str, Any] = {"color": f"C{peers.index(peer)}", "lw": 2.4 if peer == "sciml" else 1.2}
                    axis.loglog(*frontier(result["curve"]), marker="o", ms=3, label=peer, **style)
            axis.set(title=problem, xlabel="seconds", ylabel="relative L2 error")
            axis.grid(alpha=0.3)
            axis.legend(fontsize=7)
