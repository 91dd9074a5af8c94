"""Parts of a mechanism: the species and reactions that are kept, as a mechanism that reloads.

Taking a species away also takes away

- every reaction in which it is a reactant, a product, an explicit collider (``H + O2 + AR <=> HO2 + AR``) or has a
  reaction order,
- its third-body efficiencies (others keep theirs and the default one; a collision partner that is gone has no
  concentration, so the rates of the kept reactions are those of the parent),
- elements that nothing contains any more, and the mark ``duplicate`` of a reaction whose partner is gone, both of
  which Cantera refuses or warns about.

`kept_reactions` and `assemble` work on Cantera's objects, in milliseconds, for a search. `text` and `submechanism`
work on the parent as Cantera writes it, for files.
"""

from __future__ import annotations

import io
import re
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from sciml.chemistry.mechanism import Mechanism, quiet, sentence
from sciml.files import atomic

__all__ = ["Parts", "submechanism", "text", "write"]

_UNITS = {"length": "cm", "quantity": "mol", "activation-energy": "cal/mol"}


class Parts:
    """Which reactions need which species, read once from a mechanism.

    Args:
        mechanism: the parent.

    Attributes:
        needs: (n_reactions, n_species) boolean: every one of these must be kept.
        colliders: (n_reactions, n_species) boolean: at least one of these must be kept, where there are any; they are
            the partners of a third-body reaction whose other partners have efficiency zero.
    """

    def __init__(self, mechanism: Mechanism) -> None:
        gas = mechanism.gas
        self.mechanism = mechanism
        self.species, self.reactions = gas.species(), gas.reactions()
        index = {name: k for k, name in enumerate(gas.species_names)}
        self.needs = np.zeros((gas.n_reactions, gas.n_species), dtype=bool)
        self.colliders = np.zeros_like(self.needs)
        for row, partners, reaction in zip(self.needs, self.colliders, self.reactions, strict=True):
            row[[index[name] for name in {**reaction.reactants, **reaction.products, **reaction.orders}]] = True
            third = reaction.third_body
            if third is not None and third.default_efficiency == 0:
                partners[[index[name] for name, e in third.efficiencies.items() if e and name in index]] = True

    def kept(self, species: np.ndarray, reactions: np.ndarray | None = None) -> np.ndarray:
        """(n_reactions,) boolean: the reactions that remain.

        Args:
            species: (n_species,) boolean, those kept.
            reactions: (n_reactions,) boolean, those wanted; None wants all.
        """
        whole = ~(self.needs & ~species).any(1)
        collide = (self.colliders & species).any(1) | ~self.colliders.any(1)
        return whole & collide & (True if reactions is None else reactions)

    def assemble(self, species: np.ndarray, reactions: np.ndarray | None = None) -> Any:
        """A Cantera gas of the kept parts, built from the parent's objects in milliseconds.

        Raises:
            ValueError: if no species is kept.
        """
        species = np.asarray(species, dtype=bool)
        if not species.any():
            raise ValueError("species keeps nothing, but a mechanism needs at least one species")
        kept = self.kept(species, reactions)
        with quiet():
            return type(self.mechanism.gas)(
                thermo="ideal-gas",
                kinetics="gas",
                transport_model=self.mechanism.gas.transport_model,
                species=[s for s, keep in zip(self.species, species, strict=True) if keep],
                reactions=[r for r, keep in zip(self.reactions, kept, strict=True) if keep],
            )

    def mask(self, names: Iterable[str]) -> np.ndarray:
        """(n_species,) boolean of species given by name.

        Raises:
            ValueError: naming those that the mechanism does not have.
        """
        names = list(names)
        known = self.mechanism.species
        unknown = [n for n in names if n not in known]
        if unknown:
            raise ValueError(f"{', '.join(unknown)} is not among the species of {self.mechanism.source}")
        return np.isin(np.array(known), names)


def text(
    mechanism: Mechanism,
    species: Sequence[str],
    reactions: np.ndarray | None = None,
    header: Mapping[str, Any] | None = None,
) -> str:
    """The kept part of a mechanism as a Cantera YAML text, in cm, mol and cal.

    Args:
        mechanism: the parent.
        species: names of the species kept, in any order; the parent's order is kept.
        reactions: (n_reactions of the parent,) boolean, those wanted; None wants all whose species are kept.
        header: written under ``provenance`` at the top.

    Raises:
        ValueError: for a species that the mechanism does not have, or none at all.
    """
    parts = Parts(mechanism)
    mask = parts.mask(species)
    if not mask.any():
        raise ValueError("species is empty, but a mechanism needs at least one species")
    kept = parts.kept(mask, reactions)
    names = {name for name, keep in zip(mechanism.species, mask, strict=True) if keep}
    parent = _document(mechanism)
    entries = [e for e in parent["species"] if e["name"] in names]
    elements = {element for e in entries for element in e.get("composition", {})}
    phase = {k: v for k, v in parent["phases"][0].items() if k not in {"state", "reactions"}}
    phase["elements"] = [e for e in phase["elements"] if e in elements]
    phase["species"] = [e["name"] for e in entries]
    phase["explicit-third-body-duplicates"] = "mark-duplicate"  # a reaction with M beside one with a named collider
    rows = [_restricted(e, names) for e, keep in zip(parent.get("reactions", ()), kept, strict=True) if keep]
    if not rows:
        phase["reactions"] = "none"
    document = {
        "description": f"Part of {mechanism.source}: {len(entries)} of {mechanism.n_species} species, "
        f"{len(rows)} of {mechanism.n_reactions} reactions.",
        "generator": "sciml",
        **({"provenance": dict(header)} if header else {}),
        "units": parent["units"],
        "phases": [phase],
        **({"elements": parent["elements"]} if "elements" in parent else {}),
        "species": entries,
        "reactions": _without_widows(rows),
    }
    stream = io.StringIO()
    _yaml().dump(document, stream)
    return stream.getvalue()


@lru_cache(maxsize=1)
def _document(mechanism: Mechanism) -> Mapping[str, Any]:
    """The parent as Cantera writes it, read once: a search writes every better part that it finds."""
    return _yaml().load(mechanism.gas.write_yaml(units=_UNITS))


def submechanism(
    mechanism: Mechanism,
    species: Sequence[str],
    reactions: np.ndarray | None = None,
    header: Mapping[str, Any] | None = None,
) -> Mechanism:
    """The kept part of a mechanism; arguments and errors are those of `text`."""
    return Mechanism.from_yaml(text(mechanism, species, reactions, header))


def write(
    path: str | Path,
    mechanism: Mechanism,
    species: Sequence[str],
    reactions: np.ndarray | None = None,
    header: Mapping[str, Any] | None = None,
    chemkin: bool = False,
) -> Path:
    """Write the kept part of a mechanism as YAML, reload it and compare its rates with the parent's.

    Args:
        path: of the YAML file, overwritten as a whole.
        mechanism: the parent.
        species: see `text`.
        reactions: see `text`.
        header: see `text`.
        chemkin: also write ``.inp``, ``_thermo.dat`` and ``_transport.dat`` beside it, by Cantera's own writer, and
            read them back.

    Returns:
        `path`.

    Raises:
        ArithmeticError: if rates of progress of kept reactions differ by more than 1e-12 of their parent's.
        ValueError: if CHEMKIN has no form for what is kept, or rates differ by more than 1e-3 in it.
        OSError: if the folder cannot be written.
    """
    path = Path(path)
    content = text(mechanism, species, reactions, header)
    reduced = Mechanism.from_yaml(content)
    difference = rate_difference(mechanism, reduced, reactions)
    if difference > 1e-12:
        raise ArithmeticError(f"rates of {path.name} differ from the parent's by {difference:.1e} of their value")
    with atomic(path) as temporary:
        temporary.write_text(content, encoding="utf-8")
    if chemkin:
        _write_chemkin(path, reduced)
    return path


def _write_chemkin(path: Path, reduced: Mechanism) -> None:
    transport = path.with_name(path.stem + "_transport.dat") if reduced.gas.transport_model != "none" else None
    files = path.with_suffix(".inp"), path.with_name(path.stem + "_thermo.dat"), transport
    try:
        reduced.gas.write_chemkin(*files, overwrite=True, quiet=True)
        difference = rate_difference(Mechanism.from_chemkin(*files), reduced)
        # the format has few digits, and some reactions with colliders are written a thousand times off
        said = f"read back, rates differ by {difference:.1e} of their value" if difference > 1e-3 else ""
    except OSError:
        raise
    except Exception as error:  # writer and reader raise whatever they meet
        said = sentence(error)
    if said:
        for file in filter(None, files):
            file.unlink(missing_ok=True)
        raise ValueError(f"CHEMKIN has no form for {path.name}: {said}")


def rate_difference(
    mechanism: Mechanism, reduced: Mechanism, reactions: np.ndarray | None = None, states: int = 20, seed: int = 0
) -> float:
    """Largest difference of forward and reverse rates of progress, relative to the parent's, on random states.

    The states hold only species that are kept; 800-2500 K, 0.1-100 bar, mole fractions log-uniform over six decades.
    """
    parts = Parts(mechanism)
    mask = parts.mask(reduced.species)
    kept = parts.kept(mask, reactions)
    generator = np.random.default_rng(seed)
    worst = 0.0
    for _ in range(states):
        T, p = generator.uniform(800, 2500), 10 ** generator.uniform(4, 7)
        X = 10 ** generator.uniform(-6, 0, mask.sum())
        full = np.zeros(mechanism.n_species)
        full[mask] = X
        mechanism.gas.TPX = T, p, full
        reduced.gas.TPX = T, p, X
        for rate in ("forward_rates_of_progress", "reverse_rates_of_progress"):
            expected, found = getattr(mechanism.gas, rate)[kept], getattr(reduced.gas, rate)
            unequal = found != expected
            if unequal.any():
                size = np.abs(expected[unequal])
                relative = np.abs(found - expected)[unequal] / np.where(size > 0, size, 1.0)
                worst = max(worst, float(np.nan_to_num(relative, nan=np.inf).max()))
    return worst


def _restricted(entry: dict[str, Any], names: set[str]) -> dict[str, Any]:
    """A reaction without the efficiencies of absent species, and without absent colliders."""
    entry = dict(entry)
    if "efficiencies" in entry:
        entry["efficiencies"] = {k: v for k, v in entry["efficiencies"].items() if k in names}
        if not entry["efficiencies"]:
            del entry["efficiencies"]
    if "colliders" in entry:  # linear-Burke: a list, where M is the default
        entry["colliders"] = [c for c in entry["colliders"] if c["name"] in names | {"M"}]
    return entry


def _without_widows(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Remove the mark of duplicates from reactions that are alone now, by Cantera's own notion of a duplicate."""
    marked = [(i, *_sides(row["equation"])) for i, row in enumerate(rows) if row.get("duplicate")]
    paired = {
        i
        for i, left, right, reversible in marked
        for j, other_left, other_right, other_reversible in marked
        if i != j
        and (
            (left, right) == (other_left, other_right)
            or ((left, right) == (other_right, other_left) and (reversible or other_reversible))
        )
    }
    return [row if i in paired else {k: v for k, v in row.items() if k != "duplicate"} for i, row in enumerate(rows)]


def _sides(equation: str) -> tuple[tuple[str, ...], tuple[str, ...], bool]:
    """Sorted reactants, sorted products, and whether an equation written by Cantera is reversible."""
    left, arrow, right = re.split(r" (<=>|=>) ", equation)
    return *(tuple(sorted(side.split())) for side in (left, right)), arrow == "<=>"  # type: ignore[return-value]


def _yaml() -> Any:
    from ruamel.yaml import YAML  # a dependency of cantera

    yaml = YAML(typ="safe")
    yaml.default_flow_style = None
    yaml.width = 110
    yaml.sort_base_mapping_type_on_output = False  # type: ignore[assignment]
    yaml.allow_unicode = True
    return yaml
