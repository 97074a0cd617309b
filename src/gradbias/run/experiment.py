"""An experiment that is no claim: a function of a key and numbers, swept and stored as claims are, and not judged."""

import inspect
from collections.abc import Callable, Mapping
from typing import Any, NoReturn

from ..claim import Claim, Measured, Source
from ..errors import UsageError
from ..figures import curves

UNJUDGED = "something is predicted, so that there is something to judge"


def claim_of(function: Callable[..., Any]) -> Claim:
    """A function `f(key, *, alpha: float, depth: int, …)` of arrays by name, as a claim that predicts nothing.

    It is traced, and `vmap`ped over seeds, as `Claim.measured` is: parameters annotated `float` reach it as traced
    numbers, all others as constants. Its records have the outcome `invalid`: nothing was judged. Raises `UsageError`
    for a function of another form.
    """
    parameters = list(inspect.signature(function).parameters.values())
    first, rest = parameters[:1], parameters[1:]
    if not first or any(each.kind is not inspect.Parameter.KEYWORD_ONLY for each in rest):
        raise UsageError(
            f"An experiment is a function f(key, *, alpha: float, …) with keyword-only parameters after its key; "
            f"got {function.__name__}{inspect.signature(function)}."
        )

    def measured(data: Any, key: Any, **given: Any) -> Measured:
        del data
        found = function(key, **given)
        if isinstance(found, Measured):
            return found
        return Measured(dict(found) if isinstance(found, Mapping) else found)

    data, key = (inspect.Parameter(name, inspect.Parameter.POSITIONAL_OR_KEYWORD) for name in ("data", "key"))
    measured.__signature__ = inspect.Signature([data, key, *rest])  # type: ignore[attr-defined]
    defaults = {each.name: each.default for each in rest if each.default is not inspect.Parameter.empty}
    told = (inspect.getdoc(function) or function.__name__).partition("\n")[0]
    return Claim(
        statement=told,
        source=Source("none", "an experiment"),
        data=_nothing,
        measured=measured,
        predicted=_unpredicted,
        tolerance=0.0,
        tolerance_reason="Nothing is judged.",
        settings={"smoke": defaults},
        control={},
        control_reason="Nothing is judged.",
        figure=curves("step", "value"),
        assumptions={UNJUDGED: lambda data: False},
    )


def _nothing(key: Any) -> tuple[()]:
    return ()


def _unpredicted(data: Any) -> NoReturn:
    raise ValueError(UNJUDGED)
