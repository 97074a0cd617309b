"""Parameters given as text or as values: checked against the annotation that the claim gives them."""

import ast
import builtins
import inspect
import types
import typing
from collections.abc import Mapping, Sequence
from typing import Any

from ..errors import UsageError

# What claims call their step sizes: positive wherever they stand, which traced code cannot check.
STEP_SIZES = ("rate", "eta")


def parse(assignments: Sequence[str], *, option: str = "--set") -> dict[str, str]:
    """Split `name=value` texts; the values stay text until `checked` knows their types."""
    found: dict[str, str] = {}
    for assignment in assignments:
        name, equals, value = assignment.partition("=")
        if not equals or not name.strip().isidentifier():
            raise UsageError(f"{option} takes name=value; got {assignment!r}. For example: {option} n=200.")
        found[name.strip()] = value.strip()
    return found


def checked(changes: Mapping[str, Any], parameters: Mapping[str, inspect.Parameter]) -> dict[str, Any]:
    """Values of the types that the parameters are annotated with; names unknown here are left as they are.

    Raises `UsageError` naming the parameter, the value and the type, or the range of seeds and step sizes.
    """
    found: dict[str, Any] = {}
    for name, value in changes.items():
        kind: Any = int if name == "seeds" else _kind(parameters.get(name))
        try:
            found[name] = _as(kind, value)
        except (ValueError, TypeError):
            raise UsageError(f"Parameter {name!r} must be of type {_name(kind)}; got {value!r}.") from None
        if name == "seeds" and found[name] < 1:
            raise UsageError(f"A run needs at least one seed; got seeds = {found[name]}.")
        if name in STEP_SIZES and isinstance(found[name], float | int) and not 0.0 < found[name] < float("inf"):
            raise UsageError(f"A step size must be a positive, finite number; got {name} = {found[name]}.")
    return found


def _kind(parameter: inspect.Parameter | None) -> Any:
    if parameter is None:
        return Any
    kind = parameter.annotation
    if isinstance(kind, str):  # a claim file with `from __future__ import annotations`
        kind = getattr(builtins, kind, Any)
    if kind is inspect.Parameter.empty:
        return Any if parameter.default in (inspect.Parameter.empty, None) else type(parameter.default)
    return kind


def _name(kind: Any) -> str:
    return kind.__name__ if isinstance(kind, type) and not typing.get_args(kind) else str(kind).replace("typing.", "")


def _literal(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    try:
        return ast.literal_eval(value)
    except (ValueError, SyntaxError):
        return {"true": True, "false": False}.get(value.lower(), value)


def _as(kind: Any, value: Any) -> Any:
    """`value` (or the text of one) as a value of a type; raises `ValueError` if it is none."""
    origin, choices = typing.get_origin(kind), typing.get_args(kind)
    if kind is Any:
        return _literal(value)
    if origin is typing.Literal:
        found = [choice for choice in choices if choice in (value, _literal(value))]
        return found[0] if found else _reject(value)
    if origin in (typing.Union, types.UnionType):
        return _first(choices, value)
    if kind is str:
        return _text(value)
    if kind is float and isinstance(value, str):
        return float(value)  # inf and nan are no Python literals
    literal = _literal(value)
    if (origin or kind) in (tuple, list):
        return _sequence(origin or kind, choices, literal)
    if kind is bool or literal is None or isinstance(literal, bool):
        return literal if type(literal) is (type(None) if kind is None else kind) else _reject(value)
    if kind is float:
        return float(literal)
    if kind is int:
        return int(literal) if literal == int(literal) else _reject(value)
    return literal if not isinstance(kind, type) or isinstance(literal, kind) else _reject(value)


def _reject(value: Any) -> Any:
    raise ValueError(value)


def _text(value: Any) -> str:
    literal = _literal(value)
    quoted = isinstance(value, str) and value[:1] in "'\"" and isinstance(literal, str)
    return literal if quoted else value if isinstance(value, str) else _reject(value)


def _first(choices: Sequence[Any], value: Any) -> Any:
    for choice in choices:
        try:
            return _as(choice, value)
        except (ValueError, TypeError):
            continue
    return _reject(value)


def _sequence(container: Any, choices: Sequence[Any], literal: Any) -> Any:
    if isinstance(literal, str) or not isinstance(literal, list | tuple):
        _reject(literal)
    if container is list or (len(choices) == 2 and choices[1] is Ellipsis):
        return container(_as(choices[0] if choices else Any, item) for item in literal)
    if choices and len(choices) != len(literal):
        _reject(literal)
    return tuple(_as(kind, item) for kind, item in zip(choices or [Any] * len(literal), literal, strict=True))
