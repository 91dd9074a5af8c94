"""What a look at a mechanism's content finds before anything is computed with it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

__all__ = ["Inspection", "inspect_phase"]

# a jump of cp or h at the switch of polynomials, relative to cp and R T: published sets stay below a few 1e-3
_JUMP = 1e-2


@dataclass(frozen=True)
class Inspection:
    """What was counted and found.

    Attributes:
        species, reactions, elements: counts.
        irreversible: number of reactions without a reverse rate; with any, equilibrium need not be a fixed point.
        duplicate_third_bodies: equations that stand both with M and with one named collider.
        undeclared_third_bodies: colliders in the file that are not species of the phase.
        jumps: species whose heat capacity or enthalpy jumps where its polynomials meet, with (cp, h) relative jumps.
        without_transport: species that have no transport data.
        unused_elements: elements in no species.
    """

    species: int
    reactions: int
    elements: int
    irreversible: int
    duplicate_third_bodies: tuple[str, ...] = ()
    undeclared_third_bodies: tuple[str, ...] = ()
    jumps: dict[str, tuple[float, float]] = field(default_factory=dict)
    without_transport: tuple[str, ...] = ()
    unused_elements: tuple[str, ...] = ()

    @property
    def warnings(self) -> tuple[str, ...]:
        """One sentence for each thing a user should know."""
        said = []
        if self.duplicate_third_bodies:
            said.append(
                f"reactions counted twice, with M and with a collider: {'; '.join(self.duplicate_third_bodies)}"
            )
        if self.undeclared_third_bodies:
            said.append(f"third bodies that are not species: {', '.join(self.undeclared_third_bodies)}")
        for name, (cp, h) in self.jumps.items():
            said.append(f"the polynomials of {name} do not meet: cp jumps by {cp:.1%}, enthalpy by {h:.1%} of RT")
        if self.irreversible:
            said.append(f"{self.irreversible} of {self.reactions} reactions are irreversible: equilibrium may drift")
        if self.without_transport:
            said.append(f"no transport data, hence no flames, for {', '.join(self.without_transport[:5])}")
        if self.unused_elements:
            said.append(f"elements in no species: {', '.join(self.unused_elements)}")
        return tuple(said)


def inspect_phase(gas: Any) -> Inspection:
    """Look at a Cantera phase."""
    species, reactions = gas.species(), gas.reactions()
    names = set(gas.species_names)
    jumps = {}
    for item in species:
        cp, h = _jumps(item.thermo)
        if cp > _JUMP or h > _JUMP:
            jumps[item.name] = (cp, h)
    return Inspection(
        species=len(species),
        reactions=len(reactions),
        elements=gas.n_elements,
        irreversible=sum(not r.reversible for r in reactions),
        duplicate_third_bodies=_duplicates(reactions, names),
        undeclared_third_bodies=tuple(sorted(_colliders(reactions) - names)),
        jumps=jumps,
        without_transport=tuple(s.name for s in species if s.transport is None),
        unused_elements=tuple(e for e in gas.element_names if not any(s.composition.get(e) for s in species)),
    )


def _jumps(thermo: Any) -> tuple[float, float]:
    """The largest jumps of cp (relative) and h (relative to RT) at the inner ends of the temperature ranges."""
    gas_constant = 8314.46261815324
    inner = thermo.input_data.get("temperature-ranges", [])[1:-1]
    cp = h = 0.0
    for T in inner:
        below, above = T * (1 - 1e-12), T * (1 + 1e-12)
        cp = max(cp, abs(thermo.cp(above) - thermo.cp(below)) / abs(thermo.cp(below)))
        h = max(h, abs(thermo.h(above) - thermo.h(below)) / (gas_constant * T))
    return cp, h


def _colliders(reactions: list[Any]) -> set[str]:
    bodies = [r.third_body for r in reactions if r.third_body is not None]
    named = {body.name for body in bodies} - {"M"}
    written = {name for r in reactions for name in r.input_data.get("efficiencies", {})}
    return named | written


def _duplicates(reactions: list[Any], names: set[str]) -> tuple[str, ...]:
    """Equations that stand both with M and with a collider that has its own efficiency in the former."""

    def key(r: Any) -> tuple[Any, ...]:
        collider = r.third_body.name if r.third_body else ""

        def sides(side: dict[str, float]) -> tuple[Any, ...]:
            return tuple(sorted((k, v) for k, v in side.items() if k != collider or v > 1))

        return sides(r.reactants), sides(r.products)

    # a named collider counts twice when the reaction with M gives it an efficiency as well
    general = {key(r): r for r in reactions if r.third_body is not None and r.third_body.name == "M"}
    found = []
    for r in reactions:
        body = r.third_body
        if body is None or body.name == "M" or body.name not in names:
            continue
        partner = general.get(key(r))
        if partner is None:
            continue
        efficiencies = partner.third_body.efficiencies
        if efficiencies.get(body.name, partner.third_body.default_efficiency) > 0:
            found.append(r.equation)
    return tuple(found)
