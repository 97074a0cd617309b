"""From a claim and a setting to evidence: data per seed, one compiled training for all seeds, one oracle per seed."""

import inspect
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import jax
import jax.random as jr
import numpy as np
from jaxtyping import PRNGKeyArray, PyTree

from .claim import Claim, Evidence, Measured, Prediction, parts
from .judging import error_budget
from .training import Kept, Program, program, train


@dataclass
class Timing:
    """Seconds spent tracing and compiling, seconds in all, and how many programs were compiled."""

    compile_seconds: float = 0.0
    seconds: float = 0.0
    compilations: int = 0
    _counted: list[tuple[float, float]] = field(default_factory=list)

    def add(self, seconds: float) -> None:
        """Count an interval that ends now; those inside it (tracing a function that traces another) count once."""
        begun = time.perf_counter() - seconds
        while self._counted and self._counted[-1][0] >= begun:
            self.compile_seconds -= self._counted.pop()[1]
        self._counted.append((begun, seconds))
        self.compile_seconds += seconds


_COMPILING = (
    "/jax/core/compile/jaxpr_trace_duration",
    "/jax/core/compile/jaxpr_to_mlir_module_duration",
    "/jax/core/compile/backend_compile_duration",
)
_clocks: list[Timing] = []


def _on_duration(event: str, duration_secs: float, **_: str | int) -> None:
    for clock in _clocks if event in _COMPILING else ():
        clock.add(duration_secs)
        clock.compilations += event.endswith("backend_compile_duration")


jax.monitoring.register_event_duration_secs_listener(_on_duration)


@contextmanager
def timed() -> Iterator[Timing]:
    """Measure wall time and what of it JAX spent compiling, in this thread of control."""
    clock, start = Timing(), time.perf_counter()
    _clocks.append(clock)
    try:
        yield clock
    finally:
        _clocks.remove(clock)
        clock.seconds = time.perf_counter() - start


def seed_keys(seeds: int, base_seed: int) -> list[PRNGKeyArray]:
    """Key `i` depends on (`base_seed`, `i`) alone, so more seeds leave the earlier ones as they were."""
    base = jr.key(base_seed)
    return [jr.fold_in(base, i) for i in range(seeds)]


def reads(function: Callable[..., Any], parameters: Mapping[str, Any]) -> dict[str, Any]:
    """The parameters that a function of a claim names as its own."""
    named = inspect.signature(function).parameters
    return {k: v for k, v in parameters.items() if k in named and named[k].kind is inspect.Parameter.KEYWORD_ONLY}


def traced_and_constant(claim: Claim, parameters: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Split what `measured` reads into numbers that may vary without compiling again (floats) and constants."""
    own = reads(claim.measured, parameters)
    traced = {k: float(v) for k, v in own.items() if isinstance(v, float)}
    return traced, {k: tuple(v) if isinstance(v, list) else v for k, v in own.items() if k not in traced}


@dataclass
class Run:
    """A claim at one setting, made ready: data and keys of every seed, and the training compiled for all of them."""

    claim: Claim
    parameters: dict[str, Any]
    seeds: int
    base_seed: int = 0
    keys: list[PRNGKeyArray] = field(init=False)
    datasets: list[PyTree] = field(init=False)
    program: Program = field(init=False)

    def __post_init__(self) -> None:
        self.keys = seed_keys(self.seeds, self.base_seed)
        own = reads(self.claim.data, self.parameters)
        self.datasets = [jax.tree.map(np.asarray, self.claim.data(key, **own)) for key in self.keys]
        self.traced, constant = traced_and_constant(self.claim, self.parameters)
        self.constant = tuple(sorted(constant.items()))
        self.program = program(self.claim.measured, self.constant)

    def train(self, order: list[int] | None = None, *, groups: int = 1, kept: Kept | None = None) -> Measured:
        """Train all seeds, in the given order; leaves come back as NumPy arrays with the seeds first."""
        order = list(range(self.seeds)) if order is None else order
        data, keys = [self.datasets[i] for i in order], [self.training_keys[i] for i in order]
        return train(self.program, data, keys, self.traced, groups=groups, kept=kept)

    @property
    def training_keys(self) -> list[PRNGKeyArray]:
        """The key of each seed's training; that of its data is another one."""
        return [jr.fold_in(key, 1) for key in self.keys]

    def predict(self) -> list[Prediction | None]:
        """Ask the oracle, seed by seed, on the host; it sees the data and never the run.

        None where it refuses data on which an assumption of the claim does not hold; else its refusal is an error.
        """
        own = reads(self.claim.predicted, self.parameters)
        answers: list[Prediction | None] = []
        for data in self.datasets:
            try:
                answers.append(self.claim.predicted(data, **own))
            except ValueError:
                if not unmet(self.claim, self.parameters, data):
                    raise
                answers.append(None)
        return answers


def unmet(claim: Claim, parameters: Mapping[str, Any], data: PyTree) -> list[str]:
    """The assumptions of a claim that do not hold on the data of one seed."""
    checkable = {name: holds for name, holds in claim.assumptions.items() if holds is not None}
    return [name for name, holds in checkable.items() if not holds(data, **reads(holds, parameters))]


def collect(
    claim: Claim,
    parameters: Mapping[str, Any],
    *,
    base_seed: int = 0,
    control: bool = False,
    groups: int = 1,
    kept: Kept | None = None,
) -> Evidence:
    """Train, predict and assemble the evidence of one setting; `parameters` are those of `Claim.setting`.

    Seeds are trained in `groups`, and those that end are `kept` (see `training.train`). Assumptions are not enforced on
    a control, which may break one on purpose.
    """
    run = prepare(claim, parameters, base_seed=base_seed)
    if not run.seeds:
        return _nothing()
    return assemble(claim, run, run.train(groups=groups, kept=kept), run.predict(), control=control)


def prepare(claim: Claim, parameters: Mapping[str, Any], *, base_seed: int = 0) -> Run:
    """Make data for every seed of a setting; training is compiled at its first call."""
    rest = {k: v for k, v in parameters.items() if k != "seeds"}
    return Run(claim, rest, int(parameters["seeds"]), base_seed)


def _nothing() -> Evidence:
    none = np.zeros(0, dtype=bool)
    return Evidence({}, {}, {}, none, none, np.zeros(0, dtype=int))


def assemble(
    claim: Claim, run: Run, measured: Measured, answers: Sequence[Prediction | None], *, control: bool = False
) -> Evidence:
    """Put measured and predicted side by side, seed by seed, with the error budget in the units of the metric."""
    predictions = _complete(answers, measured)
    refused: dict[int, str] = {}
    for i, (data, prediction) in enumerate(zip(run.datasets, predictions, strict=True)):
        if not prediction.certified:
            refused[i] = _why_not_certified(prediction)
        for name in [] if control else unmet(claim, run.parameters, data):
            refused[i] = f"the assumption {name!r} does not hold on the data"
    names = list(parts(predictions[0].value))
    got = {n: np.asarray(v) for n, v in parts(measured.value).items()}
    if set(got) != set(names):
        raise ValueError(f"measured has parts {sorted(got)}, predicted {sorted(names)}; they must be the same.")
    budget = {
        name: np.array([_budget(claim, name, measured, prediction, i) for i, prediction in enumerate(predictions)])
        for name in names
    }
    predicted = {n: np.stack([np.asarray(parts(p.value)[n], dtype=float) for p in predictions]) for n in names}
    flags = np.stack([np.broadcast_to(c, (run.seeds,)) for c in jax.tree.leaves(measured.converged)])
    steps = np.stack([np.broadcast_to(s, (run.seeds,)) for s in jax.tree.leaves(measured.step)])
    return Evidence(
        measured=got,
        predicted=predicted,
        error=budget,
        converged=np.asarray(flags.all(axis=0)),
        certified=np.array([i not in refused for i in range(run.seeds)]),
        steps=steps.max(axis=0),
        certificates={k: np.array([float(p.certificate[k]) for p in predictions]) for k in predictions[0].certificate},
        curves=measured.curves,
        refused=refused,
    )


def _complete(answers: Sequence[Prediction | None], measured: Measured) -> list[Prediction]:
    """NaN, certified by nothing, where the oracle gave no answer; shaped as its other answers, if there are any."""
    known = next((answer for answer in answers if answer is not None), None)
    if known is None:
        nothing = Prediction(dict.fromkeys(parts(measured.value), np.nan), {"answered": np.nan})
    else:
        shaped = {name: np.full(np.shape(value), np.nan) for name, value in parts(known.value).items()}
        nothing = Prediction(shaped, dict.fromkeys(known.certificate, np.nan))
    return [nothing if answer is None else answer for answer in answers]


def _why_not_certified(prediction: Prediction) -> str:
    def size(name: str) -> float:
        residual = abs(float(prediction.certificate[name]))
        return np.inf if np.isnan(residual) else residual  # NaN is the worst, and max() would pass over it

    if not prediction.certificate:
        return "the oracle gave no certificate"
    worst = max(prediction.certificate, key=size)
    value = float(prediction.certificate[worst])
    return f"the oracle's certificate failed ({worst} = {value:.1e}, allowed {prediction.tolerance:.0e})"


def _budget(claim: Claim, part: str, measured: Measured, prediction: Prediction, seed: int) -> float:
    values, distances = parts(measured.value)[part], measured.distance
    distance = np.broadcast_to(distances[part] if isinstance(distances, Mapping) else distances, len(values))
    return float(error_budget(claim, part, values[seed], prediction, distance=float(distance[seed])))
