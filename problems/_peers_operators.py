"""DeepONet (DeepXDE) and FNO (neuraloperator) for -Lap u = f on the unit square, u = 0 at its sides, trained on labels.

    python _peers_operators.py METHOD DATA BUDGET SEED FILE

A script that another interpreter runs, METHOD ``deeponet`` or ``fno``. DATA is an .npz with ``f`` and ``u``,
``(K, s, s)`` on a grid with its sides, of the training, and ``f_NAME``, ``u_NAME`` of each family of the test. The
clock starts after imports and the first compilation and stops while errors are measured; labels cost nothing. Both
networks see sources and solutions divided by their training sizes, train on the mean relative L2 error by Adam with a
rate that falls over the time given, as their own examples do, and are multiplied by 16 x (1 - x) y (1 - y), which
builds in the sides.
"""
# mypy: ignore-errors

import json
import math
import os
import sys
import time

os.environ["DDE_BACKEND"] = "pytorch"

import numpy as np  # noqa: E402
import torch  # noqa: E402

BATCH = 20


class Trial:
    """The data, the clock and the file of errors against time."""

    def __init__(self, data, budget, seed, path):
        arrays = {k: torch.as_tensor(v, dtype=torch.float32) for k, v in np.load(data).items()}
        self.budget, self.seed, self.path = float(budget), int(seed), path
        self.size = {k: float(arrays[k].square().mean().sqrt()) for k in "fu"}
        self.f, self.u = arrays["f"] / self.size["f"], arrays["u"] / self.size["u"]
        names = [k[2:] for k in arrays if k.startswith("f_")]
        self.tests = {n: (arrays[f"f_{n}"] / self.size["f"], arrays[f"u_{n}"] / self.size["u"]) for n in names}
        x = torch.linspace(0, 1, self.f.shape[-1])
        self.points = torch.cartesian_prod(x, x)
        self.factor = 16 * (self.points * (1 - self.points)).prod(1)
        self.curve, self.paused, self.started = [], 0.0, None

    def start(self):
        self.started = time.perf_counter()

    @property
    def seconds(self):
        return time.perf_counter() - self.started - self.paused

    @property
    def rate(self):
        """Half a cosine over the time given."""
        return 0.5 * (1 + math.cos(math.pi * min(self.seconds / self.budget, 1)))

    def every(self, predict, steps, last=False):
        """Record the median errors of all families once the time has grown by a third."""
        seconds = self.seconds
        if self.curve and not last and seconds < max(1.33 * self.curve[-1]["seconds"], 0.5):
            return
        stopped = time.perf_counter()
        with torch.no_grad():
            errors = {name: self.error(predict(f), u) for name, (f, u) in self.tests.items()}
        self.curve.append({"seconds": seconds, "steps": steps, **errors})
        with open(self.path + ".new", "w") as file:
            json.dump(self.curve, file)
        os.replace(self.path + ".new", self.path)
        self.paused += time.perf_counter() - stopped

    @staticmethod
    def error(found, u):
        gap = (found.reshape(u.shape) - u).flatten(1).norm(dim=1) / u.flatten(1).norm(dim=1)
        return float(gap.median())


def deeponet(trial):
    """Branch and trunk of three layers of 128 tanh, as in the comparison of arXiv:2111.05512."""
    import deepxde as dde

    dde.config.set_random_seed(trial.seed)
    inputs = trial.f.flatten(1).numpy(), trial.points.numpy()
    data = dde.data.TripleCartesianProd(inputs, trial.u.flatten(1).numpy(), inputs, trial.u.flatten(1).numpy())
    sizes = [128, 128, 128]
    net = dde.nn.DeepONetCartesianProd([inputs[0].shape[1], *sizes], [2, *sizes], "tanh", "Glorot normal")
    net.apply_output_transform(lambda _, outputs: outputs * trial.factor)
    model = dde.Model(data, net)
    model.compile("adam", lr=2e-3, loss="mean l2 relative error")

    class Watch(dde.callbacks.Callback):
        def on_epoch_end(self):
            for group in model.opt.param_groups:
                group["lr"] = 2e-3 * trial.rate
            trial.every(lambda f: net((f.flatten(1), trial.points)), model.train_state.epoch)
            model.stop_training = trial.seconds > trial.budget

    trial.start()
    model.train(iterations=10**7, batch_size=BATCH, display_every=10**9, verbose=0, callbacks=[Watch()])
    trial.every(lambda f: net((f.flatten(1), trial.points)), model.train_state.epoch, last=True)


def fno(trial):
    """Four layers of 24 channels and 12 modes, padded, as the square is not periodic."""
    from neuralop.losses import LpLoss
    from neuralop.models import FNO

    torch.manual_seed(trial.seed)
    net = FNO(n_modes=(12, 12), in_channels=1, out_channels=1, hidden_channels=24, n_layers=4, domain_padding=0.1)
    factor, loss = trial.factor.reshape(trial.f.shape[1:]), LpLoss(d=2, p=2, reduction="mean")

    def predict(f):
        return torch.cat([net(part[:, None])[:, 0] for part in f.split(50)]) * factor

    predict(trial.f[:2])  # the first call imports
    adam = torch.optim.Adam(net.parameters(), lr=2e-3)
    generator = torch.Generator().manual_seed(trial.seed)
    trial.start()
    steps = 0
    while trial.seconds < trial.budget:
        for chosen in torch.randperm(len(trial.f), generator=generator).split(BATCH):
            for group in adam.param_groups:
                group["lr"] = 2e-3 * trial.rate
            adam.zero_grad()
            loss(predict(trial.f[chosen])[:, None], trial.u[chosen][:, None]).backward()
            adam.step()
            steps += 1
            trial.every(predict, steps)
            if trial.seconds > trial.budget:
                break
    trial.every(predict, steps, last=True)


if __name__ == "__main__":
    {"deeponet": deeponet, "fno": fno}[sys.argv[1]](Trial(*sys.argv[2:6]))
