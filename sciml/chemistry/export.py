"""A surrogate for flow solvers: one graph from raw states to rates, with all transforms inside, and a manifest.

    RR_k = rho (Y_k' - Y_k) / dt    [kg/m3/s],    rho of the ideal gas before the step

The graph takes states (n, 2+s) in float64, `[T (K), p (Pa), Y in the order of the manifest]`, and gives the states dt
later (n, 2+s), the rates RR (n, s) and the score (n,): above 1 a state lies outside the training. Fractions are clipped
at zero and scaled to sum to one first, as transport in a flow solver leaves them a little off. The whole graph is
float64, so that every runtime gives the same rates.
"""

from __future__ import annotations

import copy
import json
import shutil
import warnings
from dataclasses import replace
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import torch
from numpy.polynomial.chebyshev import Chebyshev, cheb2poly
from scipy.special import erfcx
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from sciml.activations import Activation, gelu
from sciml.expert import Expert
from sciml.files import atomic, jsonable, write_json

if TYPE_CHECKING:
    from sciml.chemistry.surrogate import Surrogate

__all__ = ["OUTPUTS", "Step", "export", "manifest", "to_onnx", "to_torchscript"]

INPUT = "states"
OUTPUTS = ("next_states", "rates", "score")


class Step(nn.Module):
    """What is exported: raw states in; next states, rates and scores out."""

    def __init__(self, surrogate: Surrogate) -> None:
        super().__init__()
        self.surrogate = surrogate

    def forward(self, states: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(n, 2+s) -> (n, 2+s), (n, s), (n,)."""
        Y = states[:, 2:].clamp_min(0.0)
        x = torch.cat([states[:, :2], Y / Y.sum(1, keepdim=True)], 1)
        after = self.surrogate.constrained(x, *self.surrogate.kept(x), precision=torch.float64)
        density = self.surrogate.thermo.density(x[:, 0], x[:, 1], x[:, 2:])
        rates = density[:, None] * (after[:, 2:] - x[:, 2:]) / self.surrogate.dt
        return after, rates, self.surrogate.distance(x)


def manifest(surrogate: Surrogate) -> dict[str, Any]:
    """What a caller must know: names, units, the step, ranges, how the labels were made."""
    settings = surrogate.settings
    edges = (surrogate.familiarity.low, surrogate.familiarity.high)
    scale, centre = (v[: len(edges[0])] for v in (surrogate.inputs.scale, surrogate.inputs.centre))
    low, high = (edge * scale + centre for edge in edges)
    s = len(settings.species)
    # among the inputs of the network: T, 1000/T, ln p, F(Y)
    fractions = [
        surrogate.boxcox.inverse(edge[3 : 3 + s].clamp(max=0.0)).detach().numpy().tolist() for edge in (low, high)
    ]
    return {
        "kind": "combustion surrogate",
        "sciml": metadata.version("sciml-solvers"),
        "mechanism": Path(settings.mechanism).name,
        "mechanism_sha256": settings.hash,
        "species": list(settings.species),
        "inert": [name for k, name in enumerate(settings.species) if k not in settings.reactive],
        "input": {INPUT: ["T (K)", "p (Pa)", "mass fractions in the order of species"], "dtype": "float64"},
        "outputs": {
            "next_states": "as the input, dt later",
            "rates": "RR = rho (Y' - Y) / dt of each species, kg/m3/s",
            "score": "above 1 the state lies outside the training: integrate it instead",
        },
        "dt_s": settings.dt,
        "reactor": f"{settings.reactor}, adiabatic",
        "lambda": settings.lmbda,
        "ranges": {
            "T_K": [float(low[0]), float(high[0])],
            "p_Pa": [float(low[2].exp()), float(high[2].exp())],
            "Y": {name: [a, b] for name, a, b in zip(settings.species, *fractions, strict=True)},
        },
        "labels": jsonable(dict(settings.labels)),
    }


def export(surrogate: Surrogate, folder: str | Path) -> list[Path]:
    """Write `surrogate.onnx`, `surrogate.pt` (TorchScript), `surrogate.h5` and `manifest.json` into a folder.

    Returns:
        The files written.

    Raises:
        ModuleNotFoundError: if onnx or onnxscript is not installed.
        OSError: if the folder cannot be written.
    """
    folder = Path(folder)
    if folder.exists() and not folder.is_dir():
        raise NotADirectoryError(f"{folder} is a file, but must be a folder to write into")
    _need_onnx()
    fresh = not folder.exists()
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"surrogate.{end}" for end in ("onnx", "pt", "h5")]
    try:
        to_onnx(surrogate, paths[0])
        to_torchscript(surrogate, paths[1])
        surrogate.save(paths[2])
        write_json(folder / "manifest.json", manifest(surrogate))
    except BaseException:
        if fresh:
            shutil.rmtree(folder)
        raise
    return [*paths, folder / "manifest.json"]


def _need_onnx() -> None:
    missing = [name for name in ("onnx", "onnxscript") if find_spec(name) is None]
    if missing:
        raise ModuleNotFoundError(f"the export needs {' and '.join(missing)}: pip install 'sciml-solvers[onnx]'")


def _example(surrogate: Surrogate) -> Tensor:
    """Two states inside the ranges: only their shape and precision matter."""
    width = 2 + len(surrogate.settings.species)
    states = torch.full((2, width), 1.0 / (width - 2), dtype=torch.float64)
    states[:, 0], states[:, 1] = 1200.0, 101325.0
    return states


def to_torchscript(surrogate: Surrogate, path: str | Path) -> None:
    """Write a TorchScript file that libtorch loads without Python."""
    step = Step(surrogate).eval()
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter(
            "ignore"
        )  # deprecated in favour of torch.export, which libtorch-based solvers cannot load
        traced = torch.jit.trace(step, _example(surrogate), check_trace=False)
        with atomic(path) as temporary:
            traced.save(str(temporary))


class _Exact(TorchFunctionMode):
    """Turns numbers in the code into float64 constants of the graph; the exporter would round them to float32.

    Each number is one tensor for good: after a first evaluation a graph finds them all made, and holds no operations
    that make them, which would double its size and the time of the export.
    """

    def __init__(self) -> None:
        super().__init__()
        self.made: dict[float, Tensor] = {}

    def _constant(self, value: Any) -> Any:
        if not isinstance(value, float):
            return value
        if value not in self.made:
            self.made[value] = torch.tensor(value, dtype=torch.float64)
        return self.made[value]

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Call `func` with tensors in place of numbers, where it takes either."""
        del types
        if getattr(func, "__name__", "").strip("_") in _EITHER:
            args = tuple(map(self._constant, args))
            kwargs = {k: self._constant(v) for k, v in (kwargs or {}).items()}
        return func(*args, **(kwargs or {}))


_EITHER = {"add", "radd", "sub", "rsub", "mul", "rmul", "div", "truediv", "rtruediv", "rdiv", "where"}
_EITHER |= {"clamp", "clamp_min", "clamp_max", "maximum", "minimum"}


def _elementary_gelu(degree: int = 12) -> Activation:
    """The gelu without erf, which onnxruntime has in float32 only, to 1e-10.

    erfc(z) = t exp(-z^2 + P(t)) with t = 2/(2 + z) is smooth in t (W. H. Press et al., Numerical Recipes, 6.2), and
    beyond z = 6 it is zero for this purpose.
    """
    nodes = np.asarray(Chebyshev.basis(degree + 1, [0.25, 1.0]).roots(), dtype=np.float64)
    z = 2.0 / nodes - 2.0
    P = Chebyshev.fit(nodes, np.log(erfcx(z) / nodes), degree, [0.25, 1.0])
    # in u, which is t scaled to [-1, 1]: powers of it stay well conditioned
    coefficients = cheb2poly(P.coef).tolist()

    def rule(x: Tensor, order: int) -> tuple[Tensor, ...]:
        del order
        z = (x.abs() * 0.5**0.5).clamp_max(6.0)
        t = 2 / (2 + z)
        u = (t - 0.625) / 0.375
        value = u * coefficients[-1] + coefficients[-2]
        for c in coefficients[-3::-1]:
            value = value * u + c
        tail = 0.5 * t * torch.exp(value - z * z)
        return (x * torch.where(x > 0, 1 - tail, tail),)

    return replace(gelu, rule=rule)


def to_onnx(surrogate: Surrogate, path: str | Path) -> None:
    """Write an ONNX file; the manifest stands in its metadata too.

    Raises:
        ModuleNotFoundError: if onnx or onnxscript is not installed.
    """
    _need_onnx()
    import onnx

    elementary = copy.deepcopy(surrogate)
    for expert in elementary.experts:
        cast(Expert, expert).network.activation = _elementary_gelu()
    step, example = Step(elementary).eval(), _example(surrogate)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        shapes = {INPUT: {0: torch.export.Dim("n", min=1)}}
        with _Exact(), torch.no_grad():
            step(example)
            graph = torch.export.export(step, (example,), dynamic_shapes=shapes, strict=False)
        # runtimes simplify a graph when they load it, in a thousandth of the time that it takes here
        program = torch.onnx.export(
            graph, input_names=[INPUT], output_names=list(OUTPUTS), dynamo=True, optimize=False, verbose=False
        )
    assert program is not None
    model = program.model_proto
    for key, value in manifest(surrogate).items():
        entry = model.metadata_props.add()
        entry.key, entry.value = key, value if isinstance(value, str) else json.dumps(jsonable(value))
    onnx.checker.check_model(model)
    with atomic(path) as temporary:
        temporary.write_bytes(model.SerializeToString())
