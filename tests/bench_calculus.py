"""How long a Laplacian takes: `python -m tests.bench_calculus` prints a table.

One Laplacian of a network of four hidden layers of width 64 at 4096 points, float64, without a graph: by the forward
propagation of `jet`, and as the trace of `torch.func.hessian` under `vmap`, of all points at once or of 1024 at a time,
whichever is faster. All give the same numbers to 1e-10. Contestants take turns and the fastest turn of each counts;
with one thread the clock is the thread's CPU time.
"""

import sys

import torch

from sciml.activations import sine, tanh
from sciml.calculus import jet
from sciml.networks import Dense
from tests.bench_networks import race  # found from the checkout

POINTS, WIDTHS = 4096, (64, 64, 64, 64)
WANTED = {2: 4.0, 10: 10.0}  # times as fast, by dimension


def contestants(d, activation, points=POINTS):
    """The Laplacians as functions of nothing."""
    network = Dense(d, WIDTHS, activation=activation)
    x = torch.rand(points, d, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) * 2 - 1

    def scalar(y):
        return network(y[None])[0]

    def propagated():
        with torch.no_grad():
            return jet(network, x).laplacian

    def hessian(chunk):
        with torch.no_grad():
            return torch.func.vmap(lambda y: torch.func.hessian(scalar)(y).trace(), chunk_size=chunk)(x)

    return {"jet": propagated, "trace of hessian": lambda: hessian(None), "1024 at a time": lambda: hessian(1024)}


def main(rounds=3, threads=(1, 2)):
    """Print milliseconds and the ratio, and whether it is what is wanted."""
    for count in threads:
        torch.set_num_threads(count)
        for d, wanted in WANTED.items():
            for activation in (sine, tanh):
                functions = contestants(d, activation)
                fast, slow, _ = (f().detach() for f in functions.values())
                gap = float((fast - slow).abs().max() / slow.abs().max())
                assert gap <= 1e-10, gap
                best = race(functions, rounds)
                ratio = min(best["trace of hessian"], best["1024 at a time"]) / best["jet"]
                times = ", ".join(f"{k} {v * 1e3:.1f} ms" for k, v in best.items())
                verdict = "reached" if ratio >= wanted else "MISSED"
                print(
                    f"{count} threads, d={d}, {activation.name}: {times}, {ratio:.1f}x, {wanted:g}x {verdict}",
                    flush=True,
                )


if __name__ == "__main__":
    main(*(int(a) for a in sys.argv[1:2]))
