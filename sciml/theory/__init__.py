"""Diagnostics of networks and of their training: in frequency, in parameter space, in function space.

Every diagnostic attaches to any torch network and any training run, see `sciml.theory.diagnostic`:

    from sciml import theory
    probe = theory.FrequencyProbe(...)
    solution = MscaleSolver().solve(problem, callbacks=[probe])   # live
    probe.measure(solution)                                       # or afterwards
    probe.plot().savefig("frequencies.png")

Run folders keep what their diagnostics saw, and ``sciml show RUN`` tells it; a run that kept `Snapshots` can be asked
something new when it is over, with `replay`. The names below are resolved on first use.
"""

from importlib import import_module
from typing import Any

_ROOMS = {
    "aliasing": ("AliasAlarm", "alias"),
    "basis": (
        "Basis",
        "Cosine",
        "Fourier",
        "Scattered",
        "Sine",
        "along",
        "peaks",
        "principal_direction",
        "quadrature_weights",
    ),
    "defaults": ("basis_of", "default_diagnostics", "residual_of"),
    "filters": ("DeepFrequency", "FilterProbe", "filter_split", "low_frequency_ratio"),
    "rank": (
        "ModelRank",
        "Rank",
        "effective_dimension",
        "identifiability",
        "jacobian_rank",
        "model_rank",
        "optimistic_sample_size",
    ),
    "condensation": (
        "Condensation",
        "clusters",
        "effective_neurons",
        "orientation_similarity",
        "response_similarity",
    ),
    "reduction": ("Reduction", "merge_exactly", "reduce"),
    "embedding": (
        "add_neurons",
        "check_embedding",
        "compatible",
        "deepen",
        "grow",
        "split",
        "stagnation_levels",
    ),
    "curvature": ("Inertia", "hessian", "inertia"),
    "regimes": (
        "Coordinates",
        "Linearisation",
        "RelativeDistance",
        "Scaling",
        "e_et_al",
        "he_scaling",
        "initial_regime",
        "lecun_scaling",
        "mean_field",
        "ntk_scaling",
        "xavier_scaling",
    ),
    "sweep": ("PhaseDiagram", "RegimeSweep", "TwoLayer"),
    "regularisation": (
        "ASI",
        "LossSwitch",
        "dropout_penalty",
        "dropout_roughness",
        "observation_graph",
    ),
    "spectra": ("Spectrum", "bandwidth", "radial", "spectrum"),
    "spikes": ("Spikes",),
    "stability": (
        "AdamStability",
        "adam_preconditioner",
        "gradient_curvature",
        "hessian_product",
        "largest_eigenvalue",
        "stabilized",
    ),
    "frequency": ("FrequencyProbe", "convergence_times", "f_principle_score", "jacobi_damping"),
    "kernels": ("Kernel", "kernel_spectrum", "ntk", "term_traces"),
    "lfp": ("LFP", "FourierVariational", "power_decay", "relu_decay", "tanh_decay", "two_layer"),
    "terms": ("FrequencyPreference", "TermBalance"),
    "diagnostic": ("Diagnostic", "State", "every", "log_spaced", "untouched"),
    "afterwards": ("Snapshots", "read_records", "replay"),
    "functional": ("at", "loss_closures", "parameter_jacobian", "parameters_of", "sample"),
}
_ROOM_OF = {name: room for room, names in _ROOMS.items() for name in names}

__all__ = sorted(_ROOM_OF)


def __getattr__(name: str) -> Any:
    if name not in _ROOM_OF:
        raise AttributeError(f"module 'sciml.theory' has no attribute {name!r}; its names are {', '.join(__all__)}")
    value = getattr(import_module(f"sciml.theory.{_ROOM_OF[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
