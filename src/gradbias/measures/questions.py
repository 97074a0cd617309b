r"""Questions a run may be asked, each answered from readings by a rule said in words: yes, no, or cannot tell.

A rule is a function `(run) -> Finding` declared with `@question`; there is no list of them. It is given readings that
have converged, with their bounds, and may say yes or no only if that holds wherever the truth lies within them.
"""

import math
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from .readings import Reading, Run, number

Interval = tuple[float, float]


@dataclass(frozen=True)
class Finding:
    """What a rule has found: `True`, `False` or `None` where the bounds allow neither, and the number it rests on."""

    holds: bool | None
    number: str


@dataclass(frozen=True)
class Answer:
    """A question with its verdict, the number it rests on (or what to add), and the rule."""

    CANNOT_TELL: ClassVar[str] = "cannot tell"
    NOT_ASKED: ClassVar[str] = "not asked"

    question: str
    verdict: str
    number: str
    rule: str


@dataclass(frozen=True)
class Question:
    """A question, the measures any of which can answer it (the better first), and the rule."""

    text: str
    measures: tuple[str, ...]
    rule: str
    find: Callable[[Run, str], Finding]


def question(text: str, *, measures: Sequence[str], rule: str) -> Callable[[Callable[[Run, str], Finding]], Any]:
    """Declare a rule: it is given the run and the first of `measures` that has been read."""

    def declare(find: Callable[[Run, str], Finding]) -> Callable[[Run, str], Finding]:
        find.question = Question(text, tuple(measures), rule, find)  # type: ignore[attr-defined]
        return find

    return declare


def questions() -> list[Question]:
    """Every question, in the order in which this file asks them."""
    return [item.question for item in vars(sys.modules[__name__]).values() if hasattr(item, "question")]


def answers(run: Run) -> list[Answer]:
    """Every question with its answer."""
    return [_answer(run, one) for one in questions()]


def _answer(run: Run, one: Question) -> Answer:
    taken = [name for name in one.measures if run[name]]
    if not taken:
        return Answer(one.text, Answer.NOT_ASKED, f"add measure {' or '.join(one.measures)}", one.rule)
    finding = one.find(run, taken[0])
    verdict = {True: "yes", False: "no", None: Answer.CANNOT_TELL}[finding.holds]
    return Answer(one.text, verdict, finding.number, one.rule)


def _within(reading: Reading, name: str = "") -> Interval:
    """Where the truth lies; everywhere if the value did not converge."""
    for part, value, bound in reading.estimate.items():
        if part == name:
            return (-math.inf, math.inf) if math.isnan(value) else (value - bound, value + bound)
    return (-math.inf, math.inf)


def _told(reading: Reading, name: str = "") -> str:
    told = next((number(v, b) for part, v, b in reading.estimate.items() if part == name), "not read")
    return f"{f'{name} ' if name else ''}{told} at step {reading.step}"


def _above(interval: Interval, level: float) -> bool | None:
    """Whether it is above the level, wherever in the interval it is."""
    low, high = interval
    return True if low > level else False if high <= level else None


def _less(interval: Interval, other: Interval, factor: float = 1.0) -> bool | None:
    """Whether a < factor · b, wherever a and b > 0 are in their intervals."""
    return True if interval[1] < factor * other[0] else False if interval[0] >= factor * other[1] else None


def _any(found: Sequence[bool | None]) -> bool | None:
    return True if True in found else None if None in found else False


def _all(found: Sequence[bool | None]) -> bool | None:
    return False if False in found else None if None in found else True


def _change(run: Run, name: str, part: str = "") -> tuple[Interval, Interval, str] | None:
    """Where the first and the last reading lie, and both in words; `None` if there are not two."""
    if len(run[name]) < 2:
        return None
    first, last = run[name][0], run[name][-1]
    return _within(first, part), _within(last, part), f"{_told(first, part)}, {_told(last, part)}"


ONE = Finding(None, "one reading: a change needs two")


@question(
    "Is the run at the edge of stability?",
    measures=["preconditioned_sharpness", "sharpness"],
    rule="yes if the median over the later half of the readings, taken at their lower ends, is at least 0.9 of the "
    "optimizer's threshold; no if at their upper ends it is below. Above 1.5 of it the run is not at the edge but "
    "past it, and cannot stay there.",
)
def _edge_of_stability(run: Run, name: str) -> Finding:
    readings = run[name][len(run[name]) // 2 :]
    levels = [float(r.estimate.details.get("threshold", math.nan)) for r in readings]
    if not all(map(math.isfinite, levels)):
        return Finding(None, "no threshold is known: pass optimizer= and add measure preconditioned_sharpness")
    return _at_edge(readings, levels)


def _at_edge(readings: Sequence[Reading], levels: Sequence[float]) -> Finding:
    """Whether the median share of the threshold (one level for all, or one each) is between 0.9 and 1.5."""
    ends = np.array([_within(reading) for reading in readings])
    low, high = np.median(ends / np.array(levels)[:, None], axis=0).tolist()
    told = f"{_told(readings[-1])}, threshold {levels[-1]:.4g}; median share in [{low:.3g}, {high:.3g}]"
    return Finding(_all([_above((low, high), 0.9), _not(_above((low, high), 1.5))]), told)


def _not(found: bool | None) -> bool | None:
    return None if found is None else not found


@question(
    "Does gradient noise set the edge: are the batches at it?",
    measures=["batch_sharpness"],
    rule="as for the edge of stability, with the batch sharpness against the threshold of SGD, 2 / (step size) without "
    "momentum; known where preconditioned_sharpness is read and the optimizer is SGD.",
)
def _batches_at_the_edge(run: Run, name: str) -> Finding:
    known = [r.estimate.details for r in run["preconditioned_sharpness"] if "threshold" in r.estimate.details]
    last = run[name][-1]
    if not known or known[-1].get("optimizer") != "SGD":
        return Finding(None, f"{_told(last)}; no threshold is known: add preconditioned_sharpness, with SGD")
    return _at_edge(run[name][len(run[name]) // 2 :], [float(known[-1]["threshold"])])


@question(
    "Does gradient noise dominate: is the batch below the noise scale?",
    measures=["noise_scale"],
    rule="yes if the last noise scale, at its lower end, exceeds the batch size of the training; no if it does not at "
    "its upper end. Below the noise scale, a step is mostly noise and a larger batch needs fewer steps.",
)
def _noise_dominates(run: Run, name: str) -> Finding:
    size, last = run.settings.get("batch_size"), run[name][-1]
    if size is None:
        return Finding(None, f"{_told(last)}; the batch size is not known: pass batch_size=")
    return Finding(_above(_within(last), float(size)), f"{_told(last)}, batch size {size}")


@question(
    "Are the tails of the gradient noise heavy (of infinite variance)?",
    measures=["noise_tail_index"],
    rule="yes if the last tail index, at its upper end, is below 2; no if at its lower end it is not.",
)
def _heavy_tails(run: Run, name: str) -> Finding:
    last = run[name][-1]
    return Finding(_not(_above(_within(last), 2.0)), _told(last))


@question(
    "Is every probe example classified as labelled?",
    measures=["margin"],
    rule="yes if the last reading of the smallest margin, at its lower end, is above 0; no if at its upper end it is "
    "not.",
)
def _separated(run: Run, name: str) -> Finding:
    last = run[name][-1]
    return Finding(_above(_within(last), 0.0), _told(last))


@question(
    "Is the normalized margin growing?",
    measures=["optimizer_margin", "margin_normalized"],
    rule="yes if the last reading, at its lower end, is above the first at its upper end; no if at its upper end it is "
    "not above the first at its lower end. The plain margin is not asked: it grows with the size of the weights alone.",
)
def _margin_grows(run: Run, name: str) -> Finding:
    part = run[name][-1].estimate.names[-1] if run[name][-1].estimate.names else ""
    change = _change(run, name, part)
    if change is None:
        return ONE
    first, last, told = change
    # Margins may be negative: their difference is compared with 0.
    return Finding(_above((last[0] - first[1], last[1] - first[0]), 0.0), told)


@question(
    "Have the classes collapsed?",
    measures=["neural_collapse"],
    rule="yes if in the last reading, at their upper ends, the spread within classes (nc1), unequal norms and angles "
    "(nc2) and the distance of the classifier from the class means (nc3) are all at most 0.1, and nc4 at most 0.01; no "
    "if any exceeds that at its lower end.",
)
def _collapsed(run: Run, name: str) -> Finding:
    last = run[name][-1]
    exceeds = [_above(_within(last, part), 0.01 if part == "nc4" else 0.1) for part in last.estimate.names]
    told = ", ".join(f"{part} {number(value, bound)}" for part, value, bound in last.estimate.items())
    return Finding(_not(_any(exceeds)), f"{told} at step {last.step}")


@question(
    "Is rank falling?",
    measures=["effective_rank", "stable_rank", "numerical_rank"],
    rule="yes if in at least one layer the last rank, at its upper end, is below 0.95 of the first at its lower end; "
    "no if in no layer it can be.",
)
def _rank_falls(run: Run, name: str) -> Finding:
    found, told = [], []
    for part in run[name][0].estimate.names or ("",):
        change = _change(run, name, part)
        if change is None:
            return ONE
        first, last, words = change
        found.append(_less(last, first, 0.95))
        told.append((found[-1] is not True, found[-1] is False, words))
    return Finding(_any(found), min(told)[2])  # the layer that decides, or the first


@question(
    "Is it flatter where it ended than where it has been?",
    measures=["sharpness", "preconditioned_sharpness"],
    rule="yes if the last sharpness, at its upper end, is below half of the largest reading at its lower end; no if at "
    "its lower end it is not below half of the largest at its upper end. Flatness alone says little: rescaling layers "
    "changes it at will and leaves the function as it is [Dinh et al. 2017].",
)
def _flatter(run: Run, name: str) -> Finding:
    readings = run[name]
    if len(readings) < 2:
        return ONE
    last, known = readings[-1], [r for r in readings if math.isfinite(_within(r)[0])]
    if not known:
        return Finding(None, "no reading converged")
    most = max(known, key=lambda reading: _within(reading)[0])
    largest = (_within(most)[0], max(_within(reading)[1] for reading in readings))
    return Finding(_less(_within(last), largest, 0.5), f"{_told(last)}, largest {_told(most)}")


@question(
    "Has it left the lazy regime (and learned features)?",
    measures=["laziness", "ntk_drift"],
    rule="yes if in the last reading the share of the outputs' change that the linear model at the start does not have "
    "(or the relative drift of the tangent kernel) is above 0.3 at its lower end; no if it is at most 0.1 at its upper "
    "end; between them neither word fits.",
)
def _rich(run: Run, name: str) -> Finding:
    part = "nonlinearity" if name == "laziness" else ""
    last = run[name][-1]
    low, high = _within(last, part)
    return Finding(True if low > 0.3 else False if high <= 0.1 else None, _told(last, part))


@question(
    "Is the direction of the weights near one that descent can converge to (a KKT point of the margin)?",
    measures=["kkt_residual"],
    rule="yes if in the last reading both residuals, at their upper ends, are at most 0.1; no if either exceeds that "
    "at its lower end.",
)
def _near_kkt(run: Run, name: str) -> Finding:
    last, parts = run[name][-1], ("stationarity", "complementarity")
    exceeds = [_above(_within(last, part), 0.1) for part in parts]
    return Finding(_not(_any(exceeds)), ", ".join(_told(last, part) for part in parts))


BOUNDS = ("spectral_margin_bound", "golowich_bound", "pac_bayes_bound", "parameter_count_bound")


@question(
    "Does a generalization bound say anything?",
    measures=BOUNDS,
    rule="yes if in its last reading one of the bounds on the error rate, at its upper end, is below 1; no if none of "
    "those that were read can be. A vacuous bound says nothing against the model.",
)
def _not_vacuous(run: Run, name: str) -> Finding:
    last = {bound: run[bound][-1] for bound in BOUNDS if run[bound]}
    least = min(last, key=lambda bound: _within(last[bound])[1])
    found = [_less(_within(reading), (1.0, 1.0)) for reading in last.values()]
    return Finding(_any(found), f"{least} {_told(last[least])}")
