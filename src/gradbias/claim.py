"""Claim, evidence, verdict: what a claim file states, what one run of it yields, and how that is judged.

The judging is NumPy on the host: it sees only arrays (measured, predicted, error) and never the code that made them.
"""

import enum
import inspect
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

import equinox as eqx
import numpy as np
from jaxtyping import Array, PyTree

from .errors import UsageError
from .metric import Metric, relative_l2

Relation = Literal["equals", "at_most", "at_least", "increases", "decreases"]

# What a claim may return as a number: an array, or a constant that is the same for every seed.
Number = Array | np.ndarray | np.generic | bool | int | float

# Certificates are relative residuals; an oracle with a larger one has not proved its answer.
CERTIFICATE_TOLERANCE = 1e-8
# Rounding is budgeted as c·eps·cond relative to the value; c covers the few operations behind one reported number.
ROUNDING = 16 * float(np.finfo(np.float64).eps)
# Monte Carlo error of a mean, in standard errors: 4 sigma, one false alarm in 16,000 for a normal mean.
STANDARD_ERRORS = 4.0


class Outcome(enum.Enum):
    """The four things a run can say about a claim."""

    supported = "The measured value agrees with the prediction: gap plus error is within the tolerance."
    refuted = "The measured value disagrees by more than the tolerance and the error budget together."
    inconclusive = "The evidence cannot tell: not converged, not finite, too few seeds, or an error budget too wide."
    invalid = "Nothing was judged: the oracle failed its own certificate, or an assumption does not hold on the data."


@dataclass(frozen=True)
class Source:
    """Where a statement comes from: a key of `refs.bib` and a locator ("Theorem 3", or "number not checked")."""

    key: str
    where: str


@dataclass(frozen=True)
class Standing:
    """The outcome on record for a claim; anything but `supported` needs a reason that a reader can check."""

    outcome: Outcome = Outcome.supported
    reason: str = ""

    def __post_init__(self) -> None:
        if self.outcome is not Outcome.supported and not self.reason.strip():
            raise ValueError(f"A standing of {self.outcome.name!r} needs a reason; say what was measured.")


@dataclass(frozen=True)
class Prediction:
    """What an oracle returns: the value, and residuals which vanish if and only if the value is right.

    `certificate` holds relative residuals (feasibility, stationarity, duality gap …); all must be at most `tolerance`.
    `error` bounds the Euclidean distance of `value` to the true object (one number, or one per part of a dict value);
    `condition` is the factor by which the problem amplifies rounding.
    """

    value: PyTree
    certificate: Mapping[str, float]
    error: float | Mapping[str, float] = 0.0
    condition: float = 1.0
    tolerance: float = CERTIFICATE_TOLERANCE

    @property
    def certified(self) -> bool:
        """Whether every residual is finite and within the tolerance; an empty certificate certifies nothing."""
        return bool(self.certificate) and all(abs(float(r)) <= self.tolerance for r in self.certificate.values())

    def only(self, *names: str) -> "Prediction":
        """The named parts of a dict-valued prediction, with the same certificate."""
        errors = {name: float(_for_part(self.error, name)) for name in names}
        return Prediction(
            {name: self.value[name] for name in names}, self.certificate, errors, self.condition, self.tolerance
        )


def combine(*merged: Prediction, **named: "Prediction | float | np.ndarray") -> Prediction:
    """One prediction with several parts: keywords are parts (plain numbers are exact), dict-valued ones are merged.

    Residuals are kept under `part.name`, rescaled to the tightest of the oracles' tolerances; the condition is the
    worst one. Raises `ValueError` where no part carries a certificate.
    """
    oracles = [p for p in (*merged, *named.values()) if isinstance(p, Prediction)]
    if not oracles:
        raise ValueError("combine needs at least one Prediction: constants alone certify nothing.")
    tolerance = min(p.tolerance for p in oracles)
    value: dict[str, Any] = {}
    error: dict[str, float] = {}
    certificate: dict[str, float] = {}
    for prediction in merged:
        value |= dict(prediction.value)
        error |= {name: float(_for_part(prediction.error, name)) for name in prediction.value}
        certificate |= {k: float(v) * tolerance / prediction.tolerance for k, v in prediction.certificate.items()}
    for name, part in named.items():
        if isinstance(part, Prediction):
            value[name], error[name] = part.value, float(_for_part(part.error, name))
            scale = tolerance / part.tolerance
            certificate |= {f"{name}.{k}": float(v) * scale for k, v in part.certificate.items()}
        else:
            value[name], error[name] = part, 0.0
    return Prediction(value, certificate, error, max(p.condition for p in oracles), tolerance)


class Measured(eqx.Module):
    """What one training run returns: the value, and how far it can be from the limit the claim speaks of.

    `distance` bounds the Euclidean distance of `value` to its limit (stopping early, integration, Monte Carlo inside
    one seed): one number, or one per part of a dict value. `converged` is False where the run ended for any other
    reason than its criterion; `step` is where. `curves` are arrays for the figure and are never judged.
    """

    value: PyTree[Number]
    distance: PyTree[Number] = 0.0
    converged: PyTree[Number] = True
    step: PyTree[Number] = 0
    curves: dict[str, PyTree[Number]] = field(default_factory=dict)


@dataclass(frozen=True)
class Evidence:
    """All seeds of one run, stacked (seeds first): what `judge` decides from and what a record stores.

    `error` is in the units of the metric and has one array per part. `refused` names seeds that prove nothing, with
    the reason (an oracle without certificate, an assumption that does not hold).
    """

    measured: PyTree
    predicted: PyTree
    error: Mapping[str, np.ndarray]
    converged: np.ndarray
    certified: np.ndarray
    steps: np.ndarray
    certificates: Mapping[str, np.ndarray] = field(default_factory=dict)
    curves: Mapping[str, np.ndarray] = field(default_factory=dict)
    refused: Mapping[int, str] = field(default_factory=dict)

    @property
    def seeds(self) -> int:
        """How many seeds there are."""
        return len(self.converged)


@dataclass(frozen=True)
class Verdict:
    """An outcome with the numbers it rests on: of the part and seed closest to, or furthest past, its tolerance."""

    outcome: Outcome
    gap: float
    error: float
    tolerance: float
    part: str = "value"
    seed: int | None = None
    reason: str = ""


@dataclass(frozen=True, kw_only=True)
class Claim:
    r"""A theorem in executable form; a claim file's `CLAIM`. Its name is the file's name.

    `data(key, …)` makes one seed's arrays on the host; `measured(data, key, …)` trains (traced, `vmap`ped over seeds,
    compiled once per shape); `predicted(data, …)` asks an oracle on the host and sees the data, never the run. Each
    names the parameters that it reads as keyword-only arguments and gets no others; a default given there is the
    parameter's default. Parameters annotated `float` reach `measured` as traced numbers, all others as constants.

    `value`s are arrays, or dicts of named parts; `metric`, `relation` and `tolerance` are then one for all parts or a
    mapping by part. `quantifier` says whether the theorem speaks of `every` run or of their `mean`. `tolerance` is the
    largest gap that a reader would still call agreement, and `tolerance_reason` says why. `settings` has `smoke`,
    `standard` and `deep`, each with `seeds`; `control` is a change to the smoke setting under which the claim must come
    out refuted, and `control_reason` says what is broken. `assumptions` maps names to predicates of the data (None:
    true by construction or not checkable); where one is false nothing is judged. `seconds` is the time expected per
    setting on one core.
    """

    statement: str
    source: Source
    data: Callable[..., PyTree]
    measured: Callable[..., Measured]
    predicted: Callable[..., Prediction]
    tolerance: float | Mapping[str, float]
    tolerance_reason: str
    settings: Mapping[str, Mapping[str, Any]]
    control: Mapping[str, Any]
    control_reason: str
    figure: Callable[..., Any]
    metric: Metric | Mapping[str, Metric] = relative_l2
    relation: Relation | Mapping[str, Relation] = "equals"
    quantifier: Literal["every", "mean"] = "every"
    assumptions: Mapping[str, Callable[..., bool] | None] = field(default_factory=dict)
    seconds: Mapping[str, int | float] = field(default_factory=dict)
    standing: Standing = Standing()

    def parameters(self) -> dict[str, inspect.Parameter]:
        """Every parameter that `data`, `measured` or `predicted` reads, with its annotation and default."""
        found: dict[str, inspect.Parameter] = {}
        for function in (self.data, self.measured, self.predicted):
            for name, parameter in inspect.signature(function).parameters.items():
                if parameter.kind is inspect.Parameter.KEYWORD_ONLY:
                    known = found.get(name)
                    if known is None or known.default is inspect.Parameter.empty:
                        found[name] = parameter
        return found

    def setting(self, name: str, changes: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """The full parameters (and `seeds`) of a named setting, with changes; `control` is smoke plus the control.

        Raises `UsageError` for a setting or parameter that does not exist, listing those that do.
        """
        if name not in {*self.settings, "control"}:
            raise UsageError(f"Unknown setting {name!r}; this claim has {', '.join([*self.settings, 'control'])}.")
        known = self.parameters()
        given = dict(self.settings["smoke"]) | dict(self.control) if name == "control" else dict(self.settings[name])
        given |= dict(changes or {})
        if unknown := set(given) - set(known) - {"seeds"}:
            raise UsageError(
                f"Unknown parameter {sorted(unknown)[0]!r}. " + describe_parameters(known, self.settings["smoke"])
            )
        defaults = {k: p.default for k, p in known.items() if p.default is not inspect.Parameter.empty}
        missing = set(known) - set(defaults) - set(given)
        if missing:
            raise UsageError(f"Parameter {sorted(missing)[0]!r} has neither a default nor a value in setting {name!r}.")
        # A whole number given for a float is one: as a constant it would be compiled in.
        as_float = {k: float(v) for k, v in (defaults | given).items() if type(v) is int and known_float(known.get(k))}
        return {"seeds": 3} | defaults | given | as_float


def known_float(parameter: inspect.Parameter | None) -> bool:
    """Whether a parameter is annotated `float`."""
    return parameter is not None and parameter.annotation in (float, "float")


def describe_parameters(parameters: Mapping[str, inspect.Parameter], setting: Mapping[str, Any]) -> str:
    """One line that lists parameters with their types and the values they have in a setting."""
    shown = []
    for name, parameter in parameters.items():
        kind = parameter.annotation.__name__ if parameter.annotation in (int, float, str) else parameter.annotation
        shown.append(f"{name}: {str(kind).replace('typing.', '')} = {setting.get(name, parameter.default)!r}")
    return f"Parameters are seeds: int = {setting.get('seeds', 3)}, " + ", ".join(shown) + "."


def parts(value: PyTree) -> dict[str, Any]:
    """The named parts of a measured or predicted value; a bare array is one part called `value`."""
    return dict(value) if isinstance(value, Mapping) else {"value": value}


def _for_part(attribute: Any, part: str) -> Any:
    return attribute[part] if isinstance(attribute, Mapping) else attribute


def violation(claim: Claim, part: str, measured: Any, predicted: Any) -> np.ndarray:
    """The gap, one number per component, NaN where there is none; negative: room left by a one-sided relation."""
    relation, metric = _for_part(claim.relation, part), _for_part(claim.metric, part)
    measured, predicted = np.asarray(measured, dtype=float), np.asarray(predicted, dtype=float)
    with np.errstate(all="ignore"):
        return _wrong_side(relation, _signed(relation, metric, measured, predicted))


def _signed(relation: Relation, metric: Metric, measured: np.ndarray, predicted: np.ndarray) -> np.ndarray:
    if relation == "increases":
        return np.atleast_1d(np.diff(measured) - predicted)
    if relation == "decreases":
        return np.atleast_1d(-np.diff(measured) - predicted)
    return np.atleast_1d(metric.gap(measured, predicted))


def _wrong_side(relation: Relation, signed: np.ndarray) -> np.ndarray:
    """Positive where the relation is violated."""
    signed = np.where(np.isfinite(signed), signed, np.nan)  # a run that diverged to -inf has not met an upper bound
    if relation == "equals":
        return np.abs(signed)
    return signed if relation == "at_most" else -signed


def error_budget(claim: Claim, part: str, measured: Any, prediction: Prediction, *, distance: float) -> np.ndarray:
    r"""Truncation + oracle + rounding, in units of the metric: $\mathrm{Lip}\,(d + e + 16\,\epsilon\,\kappa \|b\|)$."""
    metric, relation = _for_part(claim.metric, part), _for_part(claim.relation, part)
    a = np.asarray(measured, dtype=float)
    b = np.asarray(parts(prediction.value)[part], dtype=float)
    size = max(float(np.linalg.norm(np.ravel(a))), float(np.linalg.norm(np.ravel(b))))
    total = distance + float(_for_part(prediction.error, part)) + ROUNDING * prediction.condition * size
    if relation in ("increases", "decreases"):  # a difference of two components, each off by at most `total`
        return np.asarray(2.0 * total)
    with np.errstate(all="ignore"):
        return np.asarray(np.max(metric.lipschitz(a, b)) * total)


class _Row(NamedTuple):
    """One comparison: of a part of one seed, or (seed -1) of a component of the mean over seeds."""

    seed: int
    part: str
    gap: float
    error: float
    tolerance: float

    @property
    def sound(self) -> bool:
        return math.isfinite(self.gap + self.error) and self.error >= 0.0

    @property
    def share(self) -> float:
        """How much of the tolerance gap and error use; infinite where they are no numbers."""
        return _share(self.gap + self.error, self.tolerance) if self.sound else math.inf


def _judge_every(claim: Claim, evidence: Evidence) -> Iterator[_Row]:
    """The worst component of every part of every seed."""
    measured, predicted = parts(evidence.measured), parts(evidence.predicted)
    for seed in range(evidence.seeds):
        for part in predicted:
            gaps = violation(claim, part, measured[part][seed], predicted[part][seed])
            gap = float(np.max(gaps)) if gaps.size else math.nan  # np.max keeps NaN
            yield _Row(seed, part, gap, float(evidence.error[part][seed]), float(_for_part(claim.tolerance, part)))


def _judge_mean(claim: Claim, evidence: Evidence) -> Iterator[_Row]:
    """The mean over seeds, component by component."""
    measured, predicted = parts(evidence.measured), parts(evidence.predicted)
    for part in predicted:
        relation, metric = _for_part(claim.relation, part), _for_part(claim.metric, part)
        with np.errstate(all="ignore"):
            each = [
                _signed(relation, metric, np.asarray(m, float), np.asarray(p, float))
                for m, p in zip(measured[part], predicted[part], strict=True)
            ]
            signed = np.stack(each) if each else np.full((1, 1), np.nan)
            spread = signed.std(axis=0, ddof=1) if len(each) > 1 else np.full(signed.shape[1:], np.nan)
            gaps = _wrong_side(relation, signed.mean(axis=0))
        errors = float(np.mean(evidence.error[part])) + STANDARD_ERRORS * spread / math.sqrt(max(len(each), 1))
        for gap, error in zip(gaps.ravel(), errors.ravel(), strict=True):
            yield _Row(-1, part, float(gap), float(error), float(_for_part(claim.tolerance, part)))


def judge(claim: Claim, evidence: Evidence) -> Verdict:
    r"""Decide. Supported: every gap + error ≤ tolerance. Refuted: some gap − error > tolerance.

    Only seeds that converged, with a certified prediction and finite numbers, can support or refute. One certified
    violation refutes an "every" claim whatever the others say; one seed that cannot be judged is enough to withhold
    support. A mean needs at least two seeds, all of them usable.
    """
    if not evidence.seeds:
        return Verdict(Outcome.inconclusive, math.nan, math.nan, math.nan, reason="There are no seeds to judge.")
    usable = evidence.converged & evidence.certified
    rows = list(_judge_every(claim, evidence) if claim.quantifier == "every" else _judge_mean(claim, evidence))

    def trusted(row: _Row) -> bool:
        return row.sound and bool(usable.all() if row.seed < 0 else usable[row.seed])

    violated = [row for row in rows if trusted(row) and row.gap - row.error > row.tolerance]
    if violated:
        worst = max(violated, key=lambda row: _share(row.gap - row.error, row.tolerance))
        return _verdict(Outcome.refuted, worst, "")
    worst = max(rows, key=lambda row: row.share)
    if not evidence.certified.all():
        seed = int(np.argmin(evidence.certified))
        reason = evidence.refused.get(seed, "the oracle failed its certificate")
        return _verdict(Outcome.invalid, worst, f"Seed {seed}: {reason}.")
    if not evidence.converged.all():
        seed = int(np.argmin(evidence.converged))
        return _verdict(
            Outcome.inconclusive, worst, f"Seed {seed} had not converged at step {int(evidence.steps[seed])}."
        )
    if not all(row.sound for row in rows):
        why = "A gap or an error is not finite (or a mean has one seed)."
        return _verdict(Outcome.inconclusive, worst, why)
    if worst.share <= 1.0:
        return _verdict(Outcome.supported, worst, "")
    return _verdict(Outcome.inconclusive, worst, "The tolerance lies inside the error budget.")


def _share(part: float, tolerance: float) -> float:
    """How much of a tolerance is used; all and more of a tolerance of zero, unless nothing is asked of it."""
    return part / tolerance if tolerance > 0.0 else math.inf if part > 0.0 else 0.0


def _verdict(outcome: Outcome, row: _Row, reason: str) -> Verdict:
    seed = None if row.seed < 0 else row.seed
    return Verdict(outcome, row.gap, row.error, row.tolerance, row.part, seed, reason)
