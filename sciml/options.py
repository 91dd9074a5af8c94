"""Options of an experiment: variants by name and ``key=value`` texts become a frozen configuration.

Values are read by the annotations of the `Config` dataclass and never evaluated as code.
"""

from __future__ import annotations

import dataclasses
import difflib
import json
import types
import typing
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

__all__ = ["configure", "did_you_mean", "parse"]


def did_you_mean(given: str, accepted: Iterable[str]) -> str:
    """The rest of a sentence that refuses a name: the nearest accepted one, if one is near, and all of them."""
    names = list(accepted)
    near = difflib.get_close_matches(given, names, 1)
    return (f"did you mean {near[0]!r} among " if near else "the choice is ") + (", ".join(names) or "empty")


def configure(variants: Mapping[str, Any], variant: str | None, overrides: Sequence[str], name: str) -> tuple[str, Any]:
    """The name and configuration of a variant with ``key=value`` overrides, parsed by the types of Config's fields.

    Args:
        variants: configurations (dataclasses) by name; empty for a file that only states a problem.
        variant: None takes the first.
        overrides: such as ``["steps=2000", "scales=1,2,4"]``; a dot reaches into a nested dataclass.
        name: of the problem, for messages.

    Raises:
        ValueError: for an unknown variant or option, or a value of another type, naming what is accepted.
    """
    if not variants:
        if variant is not None or overrides:
            given = f"variant {variant!r}" if variant is not None else f"option {overrides[0]!r}"
            raise ValueError(f"{name} only states a problem, so it has no {given}")
        return "", None
    chosen = next(iter(variants)) if variant is None else variant
    if chosen not in variants:
        raise ValueError(f"{name} has no variant {chosen!r}; {did_you_mean(chosen, variants)}")
    config = variants[chosen]
    for override in overrides:
        key, equals, text = override.partition("=")
        if not equals:
            raise ValueError(f"--set is {override!r}, but must be KEY=VALUE")
        config = _replaced(config, key.strip().split("."), text, key.strip())
    return chosen, config


def _replaced(config: Any, keys: Sequence[str], text: str, full: str) -> Any:
    names = [f.name for f in dataclasses.fields(config)]
    if keys[0] not in names:
        raise ValueError(f"there is no option {full!r}; {did_you_mean(keys[0], names)}")
    if len(keys) > 1:
        inner = getattr(config, keys[0])
        if not dataclasses.is_dataclass(inner):
            raise ValueError(f"option {full!r} does not exist, since {keys[0]!r} has no parts")
        value = _replaced(inner, keys[1:], text, full)
    else:
        value = parse(text, typing.get_type_hints(type(config))[keys[0]], full)
    return dataclasses.replace(config, **{keys[0]: value})


def parse(text: str, annotation: Any, name: str) -> Any:
    """Read a value of the annotated type: int, float, bool, str, Literal, tuples of these, and unions with None.

    Raises:
        ValueError: naming the option, what was given and what is accepted.

    >>> parse("1, 2, 4", tuple[int, ...], "scales")
    (1, 2, 4)
    """
    members = typing.get_args(annotation)
    kind = typing.get_origin(annotation) or annotation
    refusal = ValueError(f"{name} is {text!r}, but must be {_told(annotation)}")
    if kind in (typing.Union, types.UnionType):
        for member in members:
            try:
                return parse(text, member, name)
            except ValueError:
                continue
        raise refusal
    if kind is typing.Literal:
        for member in members:
            if text.strip() == str(member):
                return member
        raise ValueError(f"{name} is {text!r}, but must be one of {', '.join(map(str, members))}")
    if kind is tuple:
        return _parse_tuple(_items(text), members or (str, ...), name, refusal)
    if kind is str:
        return text
    word = text.strip().lower()
    if kind is type(None) and word == "none":
        return None
    if kind is bool and word in {"true", "yes", "1", "false", "no", "0"}:
        return word in {"true", "yes", "1"}
    if kind in (int, float):
        try:
            return _number(word, kind)
        except (ValueError, OverflowError):
            raise refusal from None
    raise refusal


def _told(annotation: Any) -> str:
    """What an annotation accepts, in words."""
    words = {int: "a whole number", float: "a number", bool: "true or false", str: "a text", type(None): "none"}
    members = typing.get_args(annotation)
    kind = typing.get_origin(annotation) or annotation
    if kind in (typing.Union, types.UnionType):
        return " or ".join(map(_told, members))
    if kind is tuple and members and members[-1] is Ellipsis:
        return f"a list, separated by commas, each {_told(members[0])}"
    if kind is tuple and members:
        return f"a list, separated by commas, of {', '.join(map(_told, members))}"
    return words.get(kind, getattr(annotation, "__name__", str(annotation)))


def _number(word: str, kind: type) -> float:
    if kind is float:
        return float(word)
    try:
        return int(word)
    except ValueError:
        number = float(word)  # a whole number may be written as 1e4
    if number != int(number):
        raise ValueError(word)
    return int(number)


def _items(text: str) -> list[Any]:
    """The members of a tuple written as ``1,2``, ``(1, 2)`` or ``[[1, 2], [3, 4]]``."""
    brackets = text.strip().replace("(", "[").replace(")", "]").replace(",]", "]")
    for candidate in (brackets, f"[{brackets.rstrip(',')}]"):
        try:
            found = json.loads(candidate)
        except json.JSONDecodeError:
            continue
        if isinstance(found, list):
            return found
    return [part.strip() for part in brackets.strip("[]").split(",") if part.strip()]


def _parse_tuple(items: Any, members: tuple[Any, ...], name: str, refusal: ValueError) -> tuple[Any, ...]:
    if not isinstance(items, list):
        raise refusal
    kinds = [members[0]] * len(items) if members[-1] is Ellipsis else list(members)
    if len(kinds) != len(items):
        raise refusal
    try:
        return tuple(_member(item, kind, name, refusal) for item, kind in zip(items, kinds, strict=True))
    except ValueError:
        raise refusal from None


def _member(item: Any, kind: Any, name: str, refusal: ValueError) -> Any:
    if typing.get_origin(kind) is tuple:
        return _parse_tuple(item, typing.get_args(kind), name, refusal)
    return parse(str(item), kind, name)
