"""Reacting gases: mechanisms, the sampling and labelling of their states, and what is built on them.

The names are resolved on first use (PEP 562), so `import sciml.chemistry` imports neither cantera nor torch.
"""

from importlib import import_module
from typing import Any

_ROOMS = {
    "flames": ("Flame",),
    "ignition": ("Ignition",),
    "labels": ("Dataset", "audit", "label"),
    "mechanism": ("Mechanism",),
    "reactors": ("Advanced",),
    "samples": ("Samples",),
    "sampling": ("Ranges",),
    "surrogate": ("Surrogate",),
    "thermo": ("Thermo",),
}
_ROOM_OF = {name: room for room, names in _ROOMS.items() for name in names}
__all__ = sorted(_ROOM_OF)


def __getattr__(name: str) -> Any:
    if name not in _ROOM_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_ROOM_OF[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
