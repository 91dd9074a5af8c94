"""Networks for fields: dense and multi-scale (arXiv:2007.11207), with derivatives in one forward pass.

Every network maps points ``(n, d)`` to ``(n,)``, or ``(n, m)`` for m > 1 outputs, and carries a truncated Taylor
expansion through its layers (`taylor`; see `sciml.calculus`): value, first derivatives, Laplacian and chosen second
derivatives pass each linear layer in one matrix product (`sciml.propagation`).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, ClassVar, Self

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from sciml.activations import Activation, gelu, named, phi, relu, s2relu, sine, srelu, tanh, waves
from sciml.calculus import Taylor
from sciml.initialisations import Initialisation, glorot, he, init_rate, suited, uniform
from sciml.propagation import Layer, propagate

__all__ = [
    "Activation",
    "Dense",
    "Initialisation",
    "Mscale",
    "gelu",
    "glorot",
    "he",
    "init_rate",
    "parameter_count",
    "phi",
    "relu",
    "s2relu",
    "sine",
    "srelu",
    "suited",
    "tanh",
    "uniform",
]

Bounds = tuple[Sequence[float], Sequence[float]]

_DTYPES = {"float32": torch.float32, "float64": torch.float64}


def parameter_count(network: nn.Module) -> int:
    """The number of trainable parameters."""
    return sum(p.numel() for p in network.parameters() if p.requires_grad)


class _Network(nn.Module):
    """What all networks of affine layers share: passage of points and of derivatives, description and storage."""

    kind: ClassVar[str]
    centre: Tensor | None
    stretch: Tensor | None

    def __init__(
        self,
        inputs: int,
        widths: Sequence[int],
        outputs: int,
        activation: Activation,
        shortcut: bool,
        box: Bounds | None,
        normalise: bool,
        dtype: torch.dtype,
    ) -> None:
        super().__init__()
        for name, count in [("inputs", inputs), ("outputs", outputs), *(("widths", w) for w in widths)]:
            if not isinstance(count, int) or count < 1:
                raise ValueError(f"{name} holds {count!r}, but must be positive integers")
        if not widths:
            raise ValueError("widths is empty, but a network needs at least one hidden layer")
        if dtype not in _DTYPES.values():
            raise ValueError(f"dtype is {dtype}, but must be torch.float32 or torch.float64")
        self.inputs, self.widths, self.outputs = inputs, tuple(widths), outputs
        self.activation, self.shortcut, self.normalise = activation, shortcut, normalise
        lower, upper = (torch.as_tensor(side, dtype=dtype) for side in box or ([-1.0] * inputs, [1.0] * inputs))
        if lower.shape != (inputs,) or upper.shape != (inputs,) or not bool((lower < upper).all()):
            raise ValueError(
                f"box is {box!r}, but must be (lower, upper) with {inputs} coordinates each, lower < upper"
            )
        if normalise and box is None:
            raise ValueError("normalise=True needs a box to map to [-1, 1]^d, but box is None")
        self.box = None if box is None else (lower.tolist(), upper.tolist())
        self.register_buffer("centre", None if box is None else (lower + upper) / 2, persistent=False)
        self.register_buffer("stretch", 2 / (upper - lower) if normalise else None, persistent=False)
        half = (upper - lower) / 2 * (self.stretch if self.stretch is not None else 1)
        middle = torch.zeros_like(half) if box is not None else (lower + upper) / 2
        self._seen = (middle - half, middle + half)  # the box as the first layer sees it
        # Having freed one block of 32 MB, the allocator of glibc keeps that much memory instead of giving it back after
        # every training step, only to be handed the same pages anew, which takes as long as the arithmetic of the step.
        torch.empty(4_000_000, dtype=torch.float64)

    def _layers(self) -> tuple[list[Layer], Tensor, Tensor]:
        """Hidden layers as weight ``(*s, in, out)``, bias ``(*s, out)``, activation, and the last weight and bias.

        The leading dimension s, where there is one, stacks subnetworks whose outputs are summed.
        """
        raise TypeError(f"{type(self).__name__} is not a network by itself")

    @property
    def smoothness(self) -> float:
        """The network is C^smoothness."""
        return self.activation.smoothness

    def forward(self, x: Tensor) -> Tensor:
        """Values ``(n,)``, or ``(n, outputs)``, at points ``(n, inputs)``."""
        value = self.taylor(Taylor(x)).value
        return value.squeeze(-1) if self.outputs == 1 else value

    def taylor(self, t: Taylor) -> Taylor:
        """The expansion of the network along that of its input: values ``(n, outputs)``.

        Raises:
            ValueError: if the value of `t` is not ``(n, inputs)``.
        """
        if t.value.ndim != 2 or t.value.shape[-1] != self.inputs:
            raise ValueError(f"the points have shape {tuple(t.value.shape)}, but must have shape (n, {self.inputs})")
        if self.centre is not None:
            t = replace(t, value=t.value - self.centre)
        return propagate(t, *self._layers(), self.shortcut)

    def describe(self) -> dict[str, Any]:
        """What `restore` needs beside `arrays`, as JSON.

        Raises:
            ValueError: if the activation is not one of this package's.
        """
        named(self.activation.name)
        return {
            "inputs": self.inputs,
            "widths": list(self.widths),
            "outputs": self.outputs,
            "activation": self.activation.name,
            "shortcut": self.shortcut,
            "box": self.box,
            "normalise": self.normalise,
            "dtype": str(next(self.parameters()).dtype).removeprefix("torch."),
        }

    def arrays(self) -> dict[str, np.ndarray]:
        """Parameters and buffers by name."""
        return {k: v.detach().cpu().numpy().copy() for k, v in self.state_dict().items()}

    @classmethod
    def restore(cls, description: Mapping[str, Any], arrays: Mapping[str, np.ndarray], problem: Any = None) -> Self:
        """The network of a description and its arrays; `problem` is not needed.

        Raises:
            ValueError: if the arrays are not those of the described network.
        """
        options = dict(description)
        options.update(activation=named(options["activation"]), dtype=_DTYPES[options["dtype"]])
        network = cls(**options)
        _load(network, arrays)
        return network


def _load(network: nn.Module, arrays: Mapping[str, np.ndarray]) -> None:
    own = {k: tuple(v.shape) for k, v in network.state_dict().items()}
    given = {k: tuple(v.shape) for k, v in arrays.items()}
    if own != given:
        raise ValueError(f"arrays holds {given}, but the described network has {own}")
    network.load_state_dict({k: torch.as_tensor(np.asarray(v)) for k, v in arrays.items()})


# ------------------------------------------------------------------------------------------------------------ networks


class Dense(_Network):
    """A fully connected network with a linear last layer.

    Args:
        inputs: number of coordinates d.
        widths: of the hidden layers, at least one.
        outputs: number of values; a single one gives the shape ``(n,)``.
        activation: of all hidden layers.
        shortcut: a hidden layer adds the one before it where their widths are equal (as in arXiv:2009.14597).
        initialisation: how parameters are drawn; None is `suited` to the activation.
        generator: source of randomness; None is a fresh one with seed 0.
        dtype: torch.float64 or torch.float32.
        box: (lower, upper), where the points will be: the network sees x minus its centre, and the default
            initialisation spreads the first layer over it. None is [-1, 1]^d, not shifted.
        normalise: also divide by the half-widths of the box.

    Raises:
        ValueError: if a size is not a positive integer, or the box does not fit.

    >>> Dense(2, (20, 20))(torch.zeros(5, 2, dtype=torch.float64)).shape
    torch.Size([5])
    """

    kind: ClassVar[str] = "dense"

    def __init__(
        self,
        inputs: int,
        widths: Sequence[int],
        outputs: int = 1,
        activation: Activation = tanh,
        shortcut: bool = False,
        initialisation: Initialisation | None = None,
        generator: torch.Generator | None = None,
        dtype: torch.dtype = torch.float64,
        box: Bounds | None = None,
        normalise: bool = False,
    ) -> None:
        super().__init__(inputs, widths, outputs, activation, shortcut, box, normalise, dtype)
        sizes = [inputs, *widths, outputs]
        self.layers = nn.ModuleList(
            # skip_init: the constructor of Linear would draw from the global generator
            nn.utils.skip_init(nn.Linear, i, o, dtype=dtype)
            for i, o in zip(sizes[:-1], sizes[1:], strict=True)
        )
        parts = [(layer.weight.detach().T, layer.bias.detach()) for layer in self._linears()]
        _initialise(parts, initialisation or suited(activation), generator, self._seen, torch.ones(1, dtype=dtype))

    def forward(self, x: Tensor) -> Tensor:
        """Values ``(n,)``, or ``(n, outputs)``, at points ``(n, inputs)``; in the precision of the points."""
        if self.shortcut or self.box is not None or x.ndim != 2 or x.shape[1] != self.inputs:
            return super().forward(x)
        # values alone: half the passes over memory that an expansion takes
        *hidden, last = [(layer.weight.to(x.dtype), layer.bias.to(x.dtype)) for layer in self._linears()]
        for weight, bias in hidden:
            x = self.activation(linear(x, weight, bias))
        value = linear(x, *last)
        return value.squeeze(-1) if self.outputs == 1 else value

    def _linears(self) -> list[nn.Linear]:
        return [layer for layer in self.layers if isinstance(layer, nn.Linear)]

    def _layers(self) -> tuple[list[Layer], Tensor, Tensor]:
        weights = [layer.weight.T for layer in self._linears()]
        biases = [layer.bias for layer in self._linears()]
        if self.stretch is not None:
            weights[0] = self.stretch.unsqueeze(-1) * weights[0]
        hidden = [Layer(w, b, self.activation) for w, b in zip(weights[:-1], biases[:-1], strict=True)]
        return hidden, weights[-1], biases[-1]


class Mscale(_Network):
    """A multi-scale network, which sees the domain stretched by several scales alpha_1, ..., alpha_s.

    * ``kind=2``: a sum of independent subnetworks, ``u(x) = sum_i [alpha_i^d] f_i(alpha_i x)``, evaluated together.
    * ``kind=1``: one network whose first layer is ``sigma(K * (x W) + b)``; K repeats each scale
      ``width // len(scales)`` times and is filled up with the largest. The bias is not scaled.

    See arXiv:2007.11207 (both kinds) and arXiv:2009.14597 (kind 1 with many scales); the factor alpha_i^d is that of
    the scaling argument for Fourier transforms.

    Args:
        inputs: number of coordinates d.
        widths: hidden widths, of each subnetwork for ``kind=2``.
        scales: positive numbers.
        outputs: number of values; a single one gives the shape ``(n,)``.
        activation: of all hidden layers.
        kind: 1 or 2.
        trainable_scales: make the scales parameters.
        prefactor: the factors ``alpha_i^d`` (``kind=2`` only).
        fourier: s turns the first layer into ``s [cos z; sin z]``, ``z = alpha x W`` without bias, of twice the width
            (arXiv:2112.06660; s = 1/2 with s2relu, 1 with tanh). None for an ordinary first layer.
        shortcut: a hidden layer adds the one before it where their widths are equal.
        initialisation: how parameters are drawn; None is `suited` to the activation.
        generator: source of randomness; None is a fresh one with seed 0.
        dtype: torch.float64 or torch.float32.
        box: (lower, upper), where the points will be: the scales multiply x minus its centre, in the units of x. None
            is [-1, 1]^d, not shifted.
        normalise: also divide by the half-widths of the box, before the scales.

    Raises:
        ValueError: if a size, scale, kind or box is none of the above.

    >>> network = Mscale(1, (30, 30, 30), (1, 2, 4, 8, 16, 32))
    >>> parameter_count(network)
    11706
    """

    kind: ClassVar[str] = "mscale"
    scales: Tensor
    _group: Tensor | None

    def __init__(
        self,
        inputs: int,
        widths: Sequence[int],
        scales: Sequence[float],
        outputs: int = 1,
        activation: Activation = sine,
        kind: int = 2,
        trainable_scales: bool = False,
        prefactor: bool = False,
        fourier: float | None = None,
        shortcut: bool = False,
        initialisation: Initialisation | None = None,
        generator: torch.Generator | None = None,
        dtype: torch.dtype = torch.float64,
        box: Bounds | None = None,
        normalise: bool = False,
    ) -> None:
        super().__init__(inputs, widths, outputs, activation, shortcut, box, normalise, dtype)
        scales = [float(a) for a in scales]
        if not scales or not all(0 < a < math.inf for a in scales):
            raise ValueError(f"scales is {scales}, but must be positive numbers, at least one")
        if kind not in (1, 2):
            raise ValueError(f"kind is {kind!r}, but must be 1 (one network) or 2 (independent subnetworks)")
        if kind == 1 and len(scales) > widths[0]:
            raise ValueError(f"scales has {len(scales)} entries, but the first layer only has {widths[0]} neurons")
        if kind == 1 and prefactor:
            raise ValueError("prefactor=True needs kind=2: one network has no parts to multiply")
        self.variant, self.prefactor, self.fourier = kind, prefactor, fourier
        self.trainable_scales, self._starting_scales = trainable_scales, scales
        values = torch.tensor(scales, dtype=dtype)
        if trainable_scales:
            self.scales = nn.Parameter(values.clone())
        else:
            self.register_buffer("scales", values.clone())
        each = widths[0] // len(scales)
        group = torch.arange(len(scales)).repeat_interleave(each)
        group = torch.cat([group, values.argmax().expand(widths[0] - len(group))])
        self.register_buffer("_group", group if kind == 1 else None, persistent=False)
        stack = (len(scales),) if kind == 2 else ()
        ins = [inputs, *widths]
        ins[1] *= 1 if fourier is None else 2
        shapes = list(zip(ins, [*widths, outputs], strict=True))
        self.weights = nn.ParameterList(torch.empty(*stack, i, o, dtype=dtype) for i, o in shapes)
        biased = shapes if fourier is None else shapes[1:]
        self.biases = nn.ParameterList(torch.empty(*stack, o, dtype=dtype) for _, o in biased)
        parts = [(w.detach(), b.detach()) for w, b in zip(self.weights, self._biases(), strict=True)]
        per_neuron = values[group] if kind == 1 else values[:, None]
        _initialise(parts, initialisation or suited(activation), generator, self._seen, per_neuron)

    def _biases(self) -> list[Tensor]:
        """Biases of the layers as they are stored; a Fourier layer has none, so a vector that nobody keeps."""
        return (
            list(self.biases) if self.fourier is None else [torch.zeros_like(self.weights[0][..., 0, :]), *self.biases]
        )

    def _layers(self) -> tuple[list[Layer], Tensor, Tensor]:
        weights, biases = list(self.weights), self._biases()
        scale = self.scales[:, None, None] if self._group is None else self.scales[self._group]
        weights[0] = weights[0] * scale
        if self.stretch is not None:
            weights[0] = self.stretch.unsqueeze(-1) * weights[0]
        activations = [self.activation] * len(self.widths)
        if self.fourier is not None:
            # cos z = sin(z + pi/2): a sine layer of twice the width
            weights[0] = torch.cat([weights[0], weights[0]], -1)
            biases[0] = torch.cat([biases[0] + math.pi / 2, biases[0]], -1)
            activations[0] = waves(self.fourier)
        if self.prefactor:
            factor = self.scales**self.inputs
            weights[-1], biases[-1] = factor[:, None, None] * weights[-1], factor[:, None] * biases[-1]
        hidden = [Layer(*parts) for parts in zip(weights[:-1], biases[:-1], activations, strict=True)]
        return hidden, weights[-1], biases[-1]

    def describe(self) -> dict[str, Any]:
        """What `restore` needs beside `arrays`, as JSON."""
        return {
            **super().describe(),
            "scales": self._starting_scales,
            "kind": self.variant,
            "trainable_scales": self.trainable_scales,
            "prefactor": self.prefactor,
            "fourier": self.fourier,
        }


def _initialise(
    parts: Sequence[tuple[Tensor, Tensor]],
    initialisation: Initialisation,
    generator: torch.Generator | None,
    box: tuple[Tensor, Tensor],
    scale: Tensor,
) -> None:
    """Draw all weights ``(*s, in, out)`` and biases ``(*s, out)`` in place, the first layer over the box."""
    generator = torch.Generator().manual_seed(0) if generator is None else generator
    initialisation.first(*parts[0], generator, *box, scale)
    for weight, bias in parts[1:]:
        initialisation.layer(weight, bias, generator, last=weight is parts[-1][0])
