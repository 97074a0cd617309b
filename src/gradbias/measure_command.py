"""What `gradbias measure` does: a model, its weights and probe data from files; a table, JSON or a page of measures."""

import dataclasses
import importlib.util
import inspect
import json
import math
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.markup import escape

from .errors import NotApplicable, ProbeError, UsageError
from .run.console import put, say, table
from .run.parameters import checked

if TYPE_CHECKING:
    from .measures.catalogue import Measure
    from .measures.estimate import Estimate
    from .pytorch import TorchObjective

Chosen = list[tuple["Measure", dict[str, Any]]]


@dataclass(frozen=True)
class Asked:
    """What was typed."""

    model: str
    checkpoint: Path | None
    data: str
    measures: str
    changes: Sequence[str] = ()
    loss: str | None = None
    initial: Path | None = None
    key: str | None = None
    trust_pickle: bool = False
    mode: str = "eval"
    max_memory: int | None = None
    batch_size: int | None = None
    seed: int = 0
    output: Path | None = None
    as_json: bool = False


def print_catalogue(*, as_json: bool) -> int:
    """Every measure: what a value means, what it costs, what it needs, its options."""
    from .measures import catalogue

    rows = table("measure", "means", "cost", "needs", "options")
    for measure in catalogue().values():
        options = ", ".join(f"{name} = {value!r}" for name, value in measure.options.items())
        if as_json:
            told = {field.name: getattr(measure, field.name) for field in dataclasses.fields(measure)}
            del told["take"], told["gradients"]
            print(json.dumps({**told, "options": options, "measure": told.pop("name")}, ensure_ascii=False))
        else:
            rows.add_row(measure.name, *map(escape, (measure.says, measure.cost, measure.needs, options)))
    if not as_json:
        put(rows)
    return 0


def measure(asked: Asked) -> int:
    """Measure and tell. Exit code 0, or 1 if something that was asked for has no meaning here."""
    chosen = _chosen(asked.measures, asked.changes)
    if asked.mode not in ("eval", "train"):
        raise UsageError(f"--mode is eval or train; got {asked.mode!r}.")
    if importlib.util.find_spec("torch") is None:
        raise ProbeError("Measuring a model from a file needs torch: pip install 'gradbias[torch]'.")
    objective = _objective(asked)
    taken: dict[str, Estimate | NotApplicable] = {}
    for one, options in chosen:
        taken[one.name] = _take(one, options, objective, asked.seed)
        if asked.as_json and not isinstance(estimate := taken[one.name], NotApplicable):
            print(_json(one.name, options, estimate), flush=True)
    if not asked.as_json:
        _show(taken)
    for name, estimate in taken.items():
        if isinstance(estimate, NotApplicable):
            say(f"error: {name}: {estimate}")
    if asked.output is not None:
        _write(asked, chosen, taken, objective)
    return 1 if any(isinstance(estimate, NotApplicable) for estimate in taken.values()) else 0


def _chosen(names: str, changes: Sequence[str]) -> Chosen:
    from .measures.catalogue import asked_for, catalogue

    wanted = [name.strip() for name in names.split(",") if name.strip()]
    if not wanted:
        raise UsageError("--measures takes names, for example sharpness,margin; `gradbias measure --list` shows them.")
    options: dict[str, dict[str, Any]] = {name: {} for name in wanted}
    for change in changes:
        where, equals, value = change.partition("=")
        name, _, option = where.strip().partition(".")
        if not equals or name not in options or not option:
            raise UsageError(
                f"--set takes measure.option=value with a measure of --measures; got {change!r}. For example: --set "
                "top_eigenvalues.k=20."
            )
        known = catalogue().get(name)
        parameters = {} if known is None else dict(inspect.signature(known.take).parameters)
        options[name] |= checked({option: value.strip()}, parameters)
    return asked_for(options)


def _objective(asked: Asked) -> "TorchObjective":
    """The risk of the model with the weights of the checkpoint; what was taken for what is said on stderr."""
    from .measures.objective import Settings
    from .pytorch import TorchObjective
    from .pytorch.monitor import at_state

    data = _called(asked.data)
    model = _model(asked, asked.checkpoint)
    options: dict[str, Any] = {"mode": asked.mode, "max_memory": asked.max_memory}
    loss = _default_loss(model, data, options) if asked.loss is None else _named(asked.loss)
    objective = TorchObjective(model, loss, data, settings=Settings(batch_size=asked.batch_size), **options)
    if asked.initial is not None:
        objective.settings.initial = at_state(objective, _model(asked, asked.initial))
    return objective.at(objective.parameters())


def _model(asked: Asked, checkpoint: Path | None) -> Any:
    import torch

    from .pytorch.checkpoint import load_checkpoint

    model = _called(asked.model)
    if not isinstance(model, torch.nn.Module):
        raise ProbeError(f"{asked.model} must return a torch.nn.Module; it returned a {type(model).__name__}.")
    if checkpoint is None:
        say("weights: those the model is built with")
    else:
        say(f"weights: {load_checkpoint(model, checkpoint, trust_pickle=asked.trust_pickle, key=asked.key)}")
    return model


def _named(spec: str) -> Any:
    """The object `name` of `file.py:name` or `package.module:name`."""
    place, colon, name = spec.rpartition(":")
    if not colon or not name.isidentifier():
        raise UsageError(f"Name a function as file.py:function; got {spec!r}.")
    module = _imported(place)
    if not hasattr(module, name):
        raise UsageError(f"There is no {name!r} in {place}.")
    return getattr(module, name)


def _imported(place: str) -> Any:
    path = Path(place).resolve()
    if path.suffix != ".py" or not path.is_file():
        raise UsageError(f"There is no file {place}; name one as in model.py:build.")
    if str(path.parent) not in sys.path:  # the file may import its neighbours
        sys.path.insert(0, str(path.parent))
    known = sys.modules.get(path.stem)
    if known is not None and getattr(known, "__file__", None) == str(path):
        return known
    name = path.stem if known is None else f"{path.stem} ({path})"  # a file may be called like a module
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        del sys.modules[name]
        raise ProbeError(f"{place} cannot be imported: {type(error).__name__}: {error}") from error
    return module


def _called(spec: str) -> Any:
    """What the function returns, or the object itself where it is none."""
    found = _named(spec)
    import torch

    if not callable(found) or isinstance(found, torch.nn.Module):
        return found
    try:
        return found()
    except Exception as error:
        raise ProbeError(f"{spec} failed: {type(error).__name__}: {error}") from error


def _default_loss(model: Any, data: Any, options: Mapping[str, Any]) -> Callable[..., Any] | None:
    """By the targets: cross-entropy, binary cross-entropy or the mean squared error; a mapping has the model's own."""
    import numpy as np

    from .pytorch import TorchObjective
    from .pytorch.computation import Computation

    if isinstance(data, Mapping):
        say("loss: the model's own (--loss names another)")
        return None
    pick = Computation(model, None, None, "mean", "eval").outputs
    probe = TorchObjective(model, lambda returned, _: pick(returned).float().mean(), data, **options)
    targets, outputs = probe.targets(), probe.outputs()
    classes = outputs.shape[1] // max(1, math.prod(targets.shape[1:]))
    if np.issubdtype(targets.dtype, np.integer) and classes > 1:
        name, loss = "cross-entropy", _cross_entropy
    elif outputs.shape[1] == 1 and set(np.unique(targets)) <= {0, 1}:
        name, loss = "binary cross-entropy", _binary_cross_entropy
    else:
        name, loss = "mean squared error", _mean_squared_error
    say(f"loss: {name} (--loss names another)")
    return lambda returned, y: loss(pick(returned), y)


def _cross_entropy(f: Any, y: Any) -> Any:
    from torch.nn.functional import cross_entropy

    return cross_entropy(f.reshape(-1, f.shape[-1]), y.reshape(-1))


def _binary_cross_entropy(f: Any, y: Any) -> Any:
    from torch.nn.functional import binary_cross_entropy_with_logits

    return binary_cross_entropy_with_logits(f, y.reshape(f.shape).to(f.dtype))


def _mean_squared_error(f: Any, y: Any) -> Any:
    from torch.nn.functional import mse_loss

    return mse_loss(f, y.reshape(f.shape).to(f.dtype))


def _take(measure: "Measure", options: dict[str, Any], objective: "TorchObjective", seed: int) -> Any:
    from .measures.catalogue import generator, take

    try:
        return take(measure, objective, options, rng=generator(measure.name, seed))
    except NotApplicable as error:  # the others are worth having
        return error


def _show(taken: Mapping[str, Any]) -> None:
    from .measures.readings import short

    rows = table("measure", "value ± bound", "cost", "reason")
    for name, estimate in taken.items():
        if isinstance(estimate, NotApplicable):
            rows.add_row(name, "not applicable", "", "")
        else:
            rows.add_row(name, *map(escape, (short(estimate), str(estimate.cost), estimate.reason)))
    put(rows)
    for note in dict.fromkeys(n for e in taken.values() if not isinstance(e, NotApplicable) for n in e.notes):
        print(f"note: {note}")


def _json(name: str, options: dict[str, Any], estimate: "Estimate") -> str:
    """One line; what is not finite is null."""

    def finite(value: Any) -> Any:
        return value if math.isfinite(value) else None

    several = bool(estimate.names)
    told = {
        "measure": name,
        "options": options,
        "value": [finite(v) for v in estimate.value.tolist()] if several else finite(estimate.value),
        "bound": [finite(b) for b in estimate.bound.tolist()] if several else finite(estimate.bound),
        "names": list(estimate.names),
        "converged": estimate.converged,
        "confidence": estimate.confidence,
        "reason": estimate.reason,
        "cost": dataclasses.asdict(estimate.cost),
        "notes": list(estimate.notes),
    }
    return json.dumps(told, ensure_ascii=False, default=str)


def _write(asked: Asked, chosen: Chosen, taken: Mapping[str, Any], objective: "TorchObjective") -> None:
    from .measures.page import write
    from .measures.readings import Run, Series

    series = []
    for measure, options in chosen:
        estimate, one = taken[measure.name], Series(measure, options)
        if isinstance(estimate, NotApplicable):
            one.failure = str(estimate)
        else:
            one.add(0, estimate)
            one.seconds = estimate.cost.seconds
        series.append(one)
    facts = {
        "model": f"{asked.model}, {objective.size} trainable parameters, in {asked.mode} mode",
        "weights": "as built" if asked.checkpoint is None else str(asked.checkpoint),
        "probe data": f"{asked.data}, {objective.examples} examples",
        "seed": str(asked.seed),
    }
    assert asked.output is not None
    run = Run(series, facts, {"batch_size": asked.batch_size})
    told = f"report: {write(run, asked.output, title='What these weights are like')}"
    print(told, file=sys.stderr if asked.as_json else sys.stdout)
