"""How a flow solver calls an exported surrogate: onnxruntime and numpy alone, as `python _surrogate_client.py FOLDER`.

    RR_k = rho (Y_k' - Y_k) / dt    [kg/m3/s]

Cells whose score is above 1 lie outside the training; a solver integrates those itself.
"""

import json
import sys
from pathlib import Path

import numpy as np
import onnxruntime


class Chemistry:
    """The exported surrogate of a folder."""

    def __init__(self, folder, threads=1):
        self.manifest = json.loads((Path(folder) / "manifest.json").read_text())
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        self.session = onnxruntime.InferenceSession(
            str(Path(folder) / "surrogate.onnx"), options, providers=["CPUExecutionProvider"]
        )

    def states(self, T, p, Y):
        """Rows [T (K), p (Pa), Y] from cells: T and p (n,), and fractions by name, each (n,)."""
        missing = set(Y) - set(self.manifest["species"])
        if missing:
            raise ValueError(f"the surrogate does not have the species {', '.join(sorted(missing))}")
        zero = np.zeros(len(T))
        total = sum(Y.values(), zero)
        if np.abs(total - 1).max(initial=0) > 0.01:  # more than transport leaves: a species was forgotten
            raise ValueError(f"mass fractions add up to {total.min():g} to {total.max():g}, but must add up to 1")
        return np.column_stack([T, p, *(Y.get(name, zero) for name in self.manifest["species"])])

    def rates(self, states, dt):
        """RR (n, s) in kg/m3/s, and the score (n,) of rows of `states`, for the flow solver's step dt."""
        if not abs(dt - self.manifest["dt_s"]) <= 1e-9 * dt:
            raise ValueError(
                f"the flow solver's step is {dt:g} s, but the surrogate was trained for {self.manifest['dt_s']:g} s"
            )
        if not len(states):  # a process may have no cells
            return np.zeros((0, len(self.manifest["species"]))), np.zeros(0)
        _, rates, score = self.session.run(None, {"states": np.ascontiguousarray(states, dtype=np.float64)})
        return rates, score


def main(folder):
    """Rates of stoichiometric hydrogen in air, or of equal parts of all species of another mechanism."""
    chemistry = Chemistry(folder)
    species = chemistry.manifest["species"]
    burning = {"H2": 0.0284, "O2": 0.2264, "N2": 0.7452}
    Y = burning if set(burning) <= set(species) else {name: 1 / len(species) for name in species}
    T = np.array([1100.0, 1300.0, 1500.0])
    states = chemistry.states(T, np.full(3, 101325.0), {name: np.full(3, share) for name, share in Y.items()})
    rates, score = chemistry.rates(states, chemistry.manifest["dt_s"])
    for row in range(3):
        fastest = int(np.abs(rates[row]).argmax())
        print(f"{T[row]:.0f} K: RR of {species[fastest]} {rates[row, fastest]:.4g} kg/m3/s, score {score[row]:.2f}")


if __name__ == "__main__":
    main(sys.argv[1])
