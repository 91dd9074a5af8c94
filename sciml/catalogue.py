"""The catalogue: which experiments there are, found by name or by file.

An experiment is a Python file with a docstring, a frozen dataclass `Config`, ``VARIANTS: dict[str, Config]`` and
``run(config, run) -> metrics``; or, shorter, a user's file that only states ``problem = ...`` (see `sciml.own`).
Listing must answer at once, so it reads the files' syntax trees and imports nothing heavy.
"""

from __future__ import annotations

import ast
import importlib.util
import sys
import types
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sciml.options import did_you_mean

if TYPE_CHECKING:
    from sciml.results import Run

__all__ = ["Experiment", "Listing", "find", "folder", "listings"]


@dataclass(frozen=True)
class Listing:
    """What a problem's file says without being run: its name, the first line of its docstring, variants, options."""

    name: str
    summary: str
    variants: tuple[str, ...]
    options: tuple[str, ...]


def folder(package: str) -> Path:
    """Where a package's files are, without importing them.

    Raises:
        OSError: if the package is not installed, as `sciml.problems` in a bare checkout.
    """
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise OSError(f"{package} is not installed; inside a checkout, install with `pip install -e .`")
    return Path(next(iter(spec.submodule_search_locations)))


def listings() -> list[Listing]:
    """All problems of the package, by name."""
    found = (_listing(path) for path in sorted(folder("sciml.problems").glob("*.py")))
    return [listing for listing in found if listing.variants]


def _listing(path: Path) -> Listing:
    tree = ast.parse(path.read_text(encoding="utf-8"), filename=str(path))
    variants: tuple[str, ...] = ()
    options: tuple[str, ...] = ()
    for node in tree.body:
        targets = [node.target] if isinstance(node, ast.AnnAssign) else getattr(node, "targets", [])
        if any(isinstance(t, ast.Name) and t.id == "VARIANTS" for t in targets):
            keys = getattr(getattr(node, "value", None), "keys", [])
            variants = tuple(str(k.value) for k in keys if isinstance(k, ast.Constant))
        if isinstance(node, ast.ClassDef) and node.name == "Config":
            members = [n for n in node.body if isinstance(n, ast.AnnAssign)]
            options = tuple(ast.unparse(n) for n in members)
    summary = (ast.get_docstring(tree) or "").split("\n")[0]
    return Listing(path.stem, summary, variants, options)


@dataclass(frozen=True)
class Experiment:
    """An experiment ready to run.

    Attributes:
        name: of the problem.
        source: how the command line calls it: its name, or the path of a user's file.
        variants: configurations by name; empty for a file that only states a problem.
        run: ``run(config, run) -> metrics``.
    """

    name: str
    source: str
    variants: Mapping[str, Any]
    run: Callable[[Any, Run], Mapping[str, Any]]


def find(source: str) -> Experiment:
    """The experiment called `source`: a problem of the package, or a user's file ending in ``.py``.

    Raises:
        ValueError: if there is none, naming those that there are.
        OSError: if the file does not exist.
    """
    if source.endswith(".py"):
        source = str(Path(source).resolve())  # a run is resumed from anywhere
        module = _import_file(Path(source))
    else:
        names = [listing.name for listing in listings()]
        if source not in names:
            hint = did_you_mean(source, names)
            raise ValueError(f"there is no problem {source!r}; {hint} (and files of your own, ending in .py)")
        module = importlib.import_module(f"sciml.problems.{source}")
    name = Path(source).stem
    if hasattr(module, "VARIANTS") and hasattr(module, "run"):
        return Experiment(name, source, module.VARIANTS, module.run)
    if hasattr(module, "problem"):
        from sciml.own import run_own

        return Experiment(name, source, {}, lambda config, run: run_own(module, run))
    raise ValueError(f"{source} defines neither `problem` nor `VARIANTS` and `run`, so there is nothing to run in it")


def _import_file(path: Path) -> types.ModuleType:
    if not path.is_file():
        raise FileNotFoundError(f"there is no file {path}")
    spec = importlib.util.spec_from_file_location(f"_file_{path.stem}", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.path.append(str(path.parent))  # the file may import its neighbours
    sys.modules[spec.name] = module  # where dataclasses look their annotations up
    spec.loader.exec_module(module)
    return module
