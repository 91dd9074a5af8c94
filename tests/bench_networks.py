"""How long one training step takes: `python -m tests.bench_networks` prints a table.

A step is the Ritz energy of 1000 points and its gradient with respect to all parameters, float64, six subnetworks of
three hidden layers of width 30: (a) as one `Mscale`, (b) as a loop over six `Dense` networks that carry the same
derivative channels, (c) as a loop over six plain torch networks with autograd in x, (d) `Mscale` with the squared
Laplacian instead. Contestants take turns and the fastest turn of each counts, so that other work on the machine
disturbs all alike; with one thread the clock is the thread's CPU time.
"""

import sys
import time

import torch
from torch import nn

from sciml.activations import s2relu, sine, tanh
from sciml.calculus import jet
from sciml.networks import Dense, Mscale

SCALES, WIDTHS, POINTS = (1, 2, 4, 8, 16, 32), (30, 30, 30), 1000
PLAIN = {
    "sine": torch.sin,
    "tanh": torch.tanh,
    "s2relu": lambda x: torch.sin(2 * torch.pi * x) * torch.relu(x) * torch.relu(1 - x),
}


class PlainLoop(nn.Module):
    """What a user would write first."""

    def __init__(self, network, function):
        super().__init__()
        self.function, sizes = function, (network.inputs, *WIDTHS, 1)
        self.subnetworks = nn.ModuleList()
        for i in range(len(SCALES)):
            layers = nn.ModuleList(nn.Linear(a, b, dtype=torch.float64) for a, b in zip(sizes, sizes[1:], strict=False))
            for layer, w, b in zip(layers, network.weights, network.biases, strict=True):
                layer.weight.data.copy_(w[i].T)
                layer.bias.data.copy_(b[i])
            self.subnetworks.append(layers)

    def forward(self, x):
        total = 0
        for scale, layers in zip(SCALES, self.subnetworks, strict=True):
            h = scale * x
            for layer in layers[:-1]:
                h = self.function(layer(h))
            total = total + layers[-1](h)
        return total[:, 0]


def energy(value, gradient):
    return (0.5 * gradient.square().sum(-1) - value).mean()


def contestants(d, activation):
    """Functions that make one step each, and give its energy."""
    network = Mscale(d, WIDTHS, SCALES, activation=activation)
    plain = PlainLoop(network, PLAIN[activation.name])
    several = nn.ModuleList(Dense(d, WIDTHS, activation=activation) for _ in SCALES)
    for dense, layers in zip(several, plain.subnetworks, strict=True):
        dense.layers.load_state_dict(layers.state_dict())
    x = torch.rand(POINTS, d, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) * 2 - 1

    def step(module, loss):
        module.zero_grad()
        result = loss()
        result.backward()
        return result.item()

    def batched():
        j = jet(network, x, 1)
        return energy(j.value, j.gradient)

    def loop():
        jets = [jet(dense, scale * x, 1) for dense, scale in zip(several, SCALES, strict=True)]
        gradient = sum(scale * j.gradient for j, scale in zip(jets, SCALES, strict=True))
        return energy(sum(j.value for j in jets), gradient)

    def autograd():
        y = x.clone().requires_grad_()
        value = plain(y)
        return energy(value, torch.autograd.grad(value.sum(), y, create_graph=True)[0])

    return {
        "batched": lambda: step(network, batched),
        "loop, channels": lambda: step(several, loop),
        "loop, autograd": lambda: step(plain, autograd),
        "batched, Laplacian": lambda: step(network, lambda: jet(network, x).laplacian.square().mean()),
    }


def race(functions, rounds):
    """The fastest turn of each, in seconds."""
    clock = time.thread_time if torch.get_num_threads() == 1 else time.perf_counter
    best = dict.fromkeys(functions, float("inf"))
    for _ in range(rounds):
        for name, function in functions.items():
            for _ in range(3):
                begun = clock()
                function()
                best[name] = min(best[name], clock() - begun)
    return best


def main(rounds=20, threads=(1, 2)):
    """Print milliseconds per step, and how many times slower than (a) each is."""
    for count in threads:
        torch.set_num_threads(count)
        for d in (1, 2):
            for activation in (sine, tanh, s2relu):
                functions = contestants(d, activation)
                energies = [functions[name]() for name in ("batched", "loop, channels", "loop, autograd")]
                assert max(energies) - min(energies) <= 1e-12 * max(map(abs, energies)), energies
                best = race(functions, rounds)
                row = [f"{k} {v * 1e3:.2f} ms ({v / best['batched']:.1f}x)" for k, v in best.items()]
                print(f"{count} threads, d={d}, {activation.name}:", ", ".join(row), flush=True)


if __name__ == "__main__":
    main(*(int(a) for a in sys.argv[1:2]))
