"""The problems of the peers' table in plain torch, and the clock that every peer is timed with.

A script that another interpreter runs; it knows nothing of `sciml`, whose own statement of the same problems
`tests/problems/test_peers.py` holds against this one.

    holes     -Lap u = f, u = sin mu x sin mu y, mu = 7 pi, on [-1, 1]^2 minus three discs and an ellipse
    five      -div(a grad u) = f, a = 1 + prod_i cos k_i pi x_i, k = 1 2 3 2 1, u = prod_i sin pi x_i on [0, 1]^5
    burgers   u_t + u u_x = nu u_xx, nu = 0.01 / pi, on (t, x) in [0, 1] x [-1, 1], against Cole and Hopf
    line      -(a u')' = 1, a = 1 / (2 + cos(2 pi x / eps)), eps = 0.01 on (0, 1)
"""
# mypy: ignore-errors

import json
import math
import os
import resource
import sys
import time

import numpy as np
import torch

PI = math.pi
MU = 7 * PI
NU = 0.01 / PI
EPS = 0.01
COSINES = (1, 2, 3, 2, 1)
DISCS = ((-0.5, -0.5, 0.1), (0.5, 0.5, 0.2), (0.5, -0.5, 0.2))  # x, y, radius
ELLIPSE = (-0.5, 0.5, 0.25, 0.125)  # x, y, half axes
CHECKED = 20000  # uniform points at which errors are measured


def product(x, k):
    """prod_i cos k_i pi x_i and its gradient."""
    c, s = torch.cos(PI * k * x), torch.sin(PI * k * x)
    columns = torch.arange(len(k))
    gradient = [-PI * k[i] * s[:, i] * c[:, columns != i].prod(1) for i in range(len(k))]
    return c.prod(1), torch.stack(gradient, 1)


class Problem:
    """Box, coefficients and exact solution; points are (n, d) tensors, values (n,)."""

    def __init__(self, name):
        boxes = {
            "holes": ([-1, -1], [1, 1]),
            "five": ([0] * 5, [1] * 5),
            "burgers": ([0, -1], [1, 1]),
            "line": ([0], [1]),
        }
        if name not in boxes:
            raise ValueError(f"problem is {name!r}, but must be one of {', '.join(boxes)}")
        self.name = name
        self.low, self.high = (torch.tensor(side, dtype=torch.float64) for side in boxes[name])
        self.dim = len(self.low)

    def exact(self, x):
        if self.name == "holes":
            return torch.sin(MU * x).prod(1)
        if self.name == "five":
            return torch.sin(PI * x).prod(1)
        if self.name == "burgers":
            return cole_hopf(x)
        x = x[:, 0]
        s, c = torch.sin(2 * PI * x / EPS), torch.cos(2 * PI * x / EPS)
        return x - x**2 + EPS * (s / PI * (0.25 - 0.5 * x) + EPS / (4 * PI**2) * (1 - c))

    def diffusion(self, x):
        """The diffusion a and its gradient, of the elliptic problems."""
        if self.name == "five":
            value, gradient = product(x, torch.tensor(COSINES, dtype=x.dtype))
            return 1 + value, gradient
        if self.name == "line":
            a = 1 / (2 + torch.cos(2 * PI * x[:, 0] / EPS))
            return a, (2 * PI / EPS * torch.sin(2 * PI * x[:, 0] / EPS) * a**2)[:, None]
        return torch.ones(len(x), dtype=x.dtype), torch.zeros_like(x)

    def source(self, x):
        """The right-hand side f of -div(a grad u) = f."""
        if self.name == "holes":
            return 2 * MU**2 * self.exact(x)
        if self.name == "line":
            return torch.ones(len(x), dtype=x.dtype)
        a, slope = self.diffusion(x)
        s, c = torch.sin(PI * x), torch.cos(PI * x)
        columns = torch.arange(self.dim)
        gradient = torch.stack([PI * c[:, i] * s[:, columns != i].prod(1) for i in range(self.dim)], 1)
        return a * self.dim * PI**2 * s.prod(1) - (slope * gradient).sum(1)

    def inside(self, x):
        """Whether points of the box are outside all holes."""
        free = torch.ones(len(x), dtype=torch.bool)
        if self.name == "holes":
            for a, b, r in DISCS:
                free &= (x[:, 0] - a) ** 2 + (x[:, 1] - b) ** 2 > r**2
            a, b, p, q = ELLIPSE
            free &= ((x[:, 0] - a) / p) ** 2 + ((x[:, 1] - b) / q) ** 2 > 1
        return free

    def interior(self, n, generator):
        """Uniform points inside."""
        found, count = [], 0
        while count < n:
            x = torch.rand(2 * n, self.dim, generator=generator, dtype=torch.float64)
            x = self.low + (self.high - self.low) * x
            x = x[self.inside(x)]
            found.append(x)
            count += len(x)
        return torch.cat(found)[:n]

    def boundary(self, n, generator):
        """Points on the boundary where u is given (of Burgers' equation: not at the final time), side by side."""
        sides = [(i, e) for i in range(self.dim) for e in (self.low[i], self.high[i])]
        if self.name == "burgers":
            sides.remove((0, self.high[0]))
        share = n // (len(sides) + (2 if self.name == "holes" else 0)) + 1
        found = []
        for i, end in sides:
            x = torch.rand(1 if self.dim == 1 else share, self.dim, generator=generator, dtype=torch.float64)
            x = self.low + (self.high - self.low) * x
            x[:, i] = end
            found.append(x)
        if self.name == "holes":
            for a, b, p, q in [(a, b, r, r) for a, b, r in DISCS] + [ELLIPSE]:
                angle = 2 * PI * torch.rand(share // 2 + 1, generator=generator, dtype=torch.float64)
                found.append(torch.stack([a + p * torch.cos(angle), b + q * torch.sin(angle)], 1))
        return torch.cat(found)

    def given(self, x):
        """Values of u on the boundary."""
        if self.name == "burgers":
            return torch.where(x[:, 0] <= 0, -torch.sin(PI * x[:, 1]), torch.zeros(len(x), dtype=x.dtype))
        return self.exact(x) if self.name == "holes" else torch.zeros(len(x), dtype=x.dtype)


def cole_hopf(p, nodes=200):
    """The exact solution of Burgers' equation by Gauss-Hermite quadrature."""
    z, w = (torch.as_tensor(a, dtype=p.dtype) for a in np.polynomial.hermite.hermgauss(nodes))
    t, x = p[:, :1], p[:, 1:]
    y = x - 2 * (NU * t).sqrt() * z
    exponent = -torch.cos(PI * y) / (2 * PI * NU)
    f = w * torch.exp(exponent - exponent.max(1, keepdim=True).values)
    return -(torch.sin(PI * y) * f).sum(1) / f.sum(1)


class Meter:
    """Writes error against time to a JSON file; the clock stands still while errors are measured.

    ``python SCRIPT PROBLEM BUDGET SEED FILE``. The clock starts with the first `fresh`, so neither imports nor the
    statement of the problem are timed. A method that trains calls `record` as it goes on; a direct method begins each
    solve with `fresh`, so that every size is timed by itself.
    """

    def __init__(self):
        name, budget, seed, self.path = sys.argv[1:5]
        self.problem, self.budget, self.seed = Problem(name), float(budget), int(seed)
        self.x = self.problem.interior(CHECKED, torch.Generator().manual_seed(12345))
        self.u = self.problem.exact(self.x)
        self.curve, self.paused, self.size = [], 0.0, 0.0
        self.begun = self.started = None

    @property
    def total(self):
        """Seconds since the start without measurements."""
        return time.perf_counter() - self.started - self.paused

    @property
    def left(self):
        return self.budget - self.total

    def generator(self):
        return torch.Generator().manual_seed(self.seed)

    def fresh(self):
        """Time the next record from here."""
        self.begun = time.perf_counter() - self.paused
        self.started = self.begun if self.started is None else self.started

    def record(self, predict, setting=""):
        """Measure ``predict``, which maps (n, d) float64 tensors to values, and write."""
        seconds = time.perf_counter() - self.begun - self.paused
        stopped = time.perf_counter()
        with torch.no_grad():
            values = [torch.as_tensor(predict(x)).double().reshape(-1) for x in self.x.split(4000)]
        error = float((torch.cat(values) - self.u).norm() / self.u.norm())
        self.curve.append({"seconds": seconds, "error": error if math.isfinite(error) else 1e300, "setting": setting})
        self.write("")
        self.paused += time.perf_counter() - stopped
        return error

    def every(self, predict, setting="", factor=1.12):
        """Record, but only once the time has grown by a factor since the last record."""
        seconds = time.perf_counter() - self.begun - self.paused
        if not self.curve or seconds > max(factor * self.curve[-1]["seconds"], 0.2):
            self.record(predict, setting)

    def write(self, note):
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        with open(self.path + ".new", "w") as file:
            json.dump({"curve": self.curve, "peak_mebibytes": peak, "note": note}, file)
        os.replace(self.path + ".new", self.path)
