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


def _compare(interval: Interval, other: Interval, factor: float) -> bool | None:
    """Whether a > factor · b for a in the one interval and b in the other."""
    ends = [factor * end for end in other]
    return True if interval[0] > max(ends) else False if interval[1] <= min(ends) else None


def _any(found: Sequence[bool | None]) -> bool | None:
    return True if True in found else None if None in found else False


def _all(found: Sequence[bool | None]) -> bool | None:
    return False if False in found else None if None in found else True


def _ends(run: Run, name: str) -> tuple[Reading, Reading] | None:
    """The first and the last reading, if there are two."""
    readings = run[name]
    return (readings[0], readings[-1]) if len(readings) > 1 else None


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
    share = [tuple(end / level for end in _within(r)) for r, level in zip(readings, levels, strict=True)]
    low, high = (float(np.median([s[k] for s in share])) for k in (0, 1))
    told = f"{_told(readings[-1])}, threshold {levels[-1]:.4g}; median share in [{low:.3g}, {high:.3g}]"
    return Finding(_all([_above((low, high), 0.9), _not(_above((low, high), 1.5))]), told)


def _not(found: bool | None) -> bool | None:
    return None if found is None else not found


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
