"""The measures by name: what each is, what it costs, what it is invariant to, what it needs; and how one is taken.

A measure is a function `_name(objective, *, rng, state, ...options) -> Estimate` in a module of this package, declared
with `@instrument`; `state` is a dict that is kept between the readings along one run, and starts empty. There is no
list of measures: the modules are walked, and the options are the function's own keywords.
"""

import dataclasses
import difflib
import importlib
import inspect
import pkgutil
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..errors import UsageError
from .estimate import Estimate
from .objective import AbstractObjective

Take = Callable[..., Estimate]
Asked = str | Iterable[str | tuple[str, Mapping[str, Any]]] | Mapping[str, Mapping[str, Any]]


@dataclass(frozen=True)
class Measure:
    """An entry of the catalogue; `definition` is the docstring of the function that takes the measure."""

    name: str
    topic: str
    definition: str
    cost: str
    gradients: Callable[[Mapping[str, Any]], float]
    invariances: str
    says: str
    not_says: str
    needs: str
    source: tuple[str, ...]
    options: Mapping[str, Any]
    take: Take = dataclasses.field(repr=False)


def instrument(
    *,
    gradients: float | Callable[[Mapping[str, Any]], float],
    cost: str,
    invariances: str,
    says: str,
    not_says: str,
    needs: str = "any differentiable loss",
) -> Callable[[Take], Take]:
    """Declare a measure: `gradients` is its expected cost in gradients (of its options), for planning.

    `says` and `not_says`: one sentence each on what a value means and what it does not.
    """

    def declare(take: Take) -> Take:
        name = take.__name__.removeprefix("_")
        parameters = inspect.signature(take).parameters.values()
        own = {p.name: p.default for p in parameters if p.name not in ("objective", "rng", "state")}
        definition = inspect.getdoc(take) or ""
        keys = tuple(dict.fromkeys(re.findall(r"\[@([a-z]+\d{4}[a-z]+)", definition)))
        topic = take.__module__.rpartition(".")[2].removeprefix("_")
        estimated = gradients if callable(gradients) else lambda options: gradients
        take.measure = Measure(  # type: ignore[attr-defined]
            name, topic, definition, cost, estimated, invariances, says, not_says, needs, keys, own, take
        )
        return take

    return declare


def catalogue() -> dict[str, Measure]:
    """Every measure, by name, in alphabetical order of topic and name."""
    package = importlib.import_module(__package__ or "gradbias.measures")
    found = {}
    for module in sorted(pkgutil.iter_modules(package.__path__), key=lambda m: m.name):
        for item in vars(importlib.import_module(f"{package.__name__}.{module.name}")).values():
            declared = getattr(item, "measure", None)
            if isinstance(declared, Measure) and item.__module__.endswith(f".{module.name}"):
                found[declared.name] = declared
    return dict(sorted(found.items(), key=lambda pair: (pair[1].topic, pair[0])))


def asked_for(measures: Asked) -> list[tuple[Measure, dict[str, Any]]]:
    """The measures asked for with their options; raises `UsageError` naming an unknown one, or an unknown option."""
    known = catalogue()
    measures = [measures] if isinstance(measures, str) else measures
    pairs = (
        measures.items()
        if isinstance(measures, Mapping)
        else [m if isinstance(m, tuple) else (m, {}) for m in measures]
    )
    chosen = []
    for name, options in pairs:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=3)
            hint = f"Did you mean {' or '.join(near)}?" if near else f"There are {', '.join(known)}."
            raise UsageError(f"There is no measure {name!r}. {hint} (`gradbias.measures.catalogue()` describes them.)")
        wrong = set(options) - set(known[name].options)
        if wrong:
            has = ", ".join(f"{n} = {v!r}" for n, v in known[name].options.items()) or "none"
            raise UsageError(f"The measure {name} has no option {', '.join(sorted(wrong))}; its options are: {has}.")
        chosen.append((known[name], {**known[name].options, **options}))
    return chosen


def take(
    measure: Measure,
    objective: AbstractObjective,
    options: Mapping[str, Any],
    *,
    rng: np.random.Generator,
    state: dict[str, Any] | None = None,
) -> Estimate:
    """Take one measure, with its cost and the notes of the objective."""
    with objective.work.spent() as told:
        estimate = measure.take(objective, rng=rng, state={} if state is None else state, **options)
    notes = tuple(dict.fromkeys((*estimate.notes, *objective.settings.notes)))
    return dataclasses.replace(estimate, cost=told[0], notes=notes)


def take_all(
    measures: Asked, objective: AbstractObjective, *, seed: int = 0, states: dict[str, dict[str, Any]] | None = None
) -> dict[str, Estimate]:
    """Take each measure that is asked for; equal seeds give equal numbers, whatever else is measured beside it."""
    states = {} if states is None else states
    taken = {}
    for measure, options in asked_for(measures):
        state = states.setdefault(measure.name, {})
        taken[measure.name] = take(measure, objective, options, rng=generator(measure.name, seed), state=state)
    return taken


def generator(name: str, seed: int) -> np.random.Generator:
    """Random numbers that depend on the seed and the measure alone."""
    return np.random.default_rng([seed, *name.encode()])
