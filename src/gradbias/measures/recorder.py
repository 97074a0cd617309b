r"""When to measure along a run: each measure when its share of the budget has paid for it.

The allowance is `budget` × the time between calls of `step` that was not spent in here. It is split evenly among the
measures; what a measure does not need, because it has saved for its next reading, goes to the others. A reading is made
when the measure's own account and the account of all together cover its expected cost; what it takes beyond that is
debt. So the time spent stays below the allowance but for the one reading that cost more than expected.
"""

import contextlib
import math
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import NotApplicable, UsageError
from .catalogue import Measure, take
from .objective import AbstractObjective
from .readings import Run, Series, flat, summary, trajectory

if TYPE_CHECKING:
    from xarray import Dataset

Row = dict[str, float]

LONGEST = 1.0  # seconds of a reading that is made before the first step
FIRST = 2.0  # a first reading builds graphs and starts cold: it is planned at twice its usual cost


@dataclass
class Account:
    """A measure's share of the budget, in seconds, beside its readings."""

    series: Series
    expected: float
    """Seconds of the next reading."""
    credit: float = 0.0
    earned: float = 0.0
    recent: list[float] = field(default_factory=list)
    state: dict[str, Any] = field(default_factory=dict)
    warned: bool = False
    again: int = 0
    """The step before which it is not tried: what has no meaning now may have one in a run twice as long."""

    def pay(self, seconds: float, *, succeeded: bool) -> None:
        """Charge a reading, and expect the next to cost as much as the larger of the last two."""
        self.credit -= seconds
        self.series.seconds += seconds
        if succeeded:
            self.recent = [*self.recent, seconds][-2:]
            self.expected = max(self.recent)

    @property
    def last(self) -> int:
        """The step of the last reading, -1 if there is none."""
        return self.series.readings[-1].step if self.series.readings else -1


class Recorder:
    """Measures along a run, within a budget of its time; knows nothing of what computes.

    `budget` is a share of the step time, `every` restricts readings to every so many steps; `budget=None` with `every`
    reads everything then, whatever it takes. `gradient_seconds` and `build_seconds` are what a gradient and making an
    objective take, for the first plan.
    """

    def __init__(
        self,
        measures: Sequence[tuple[Measure, dict[str, Any]]],
        *,
        budget: float | None = 0.05,
        every: int | None = None,
        seed: int = 0,
        gradient_seconds: float = 0.0,
        build_seconds: float = 0.0,
        facts: dict[str, str] | None = None,
        settings: dict[str, Any] | None = None,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        _require(len(measures), budget, every)
        self.budget, self.every, self.seed = budget, every, seed
        self._clock = clock
        self._accounts = [
            Account(Series(measure, options), FIRST * (measure.gradients(options) * gradient_seconds + build_seconds))
            for measure, options in measures
        ]
        self._facts, self._settings = facts or {}, settings or {}
        self._left: float | None = None
        self._failure = ""
        self.steps = 0
        # Time of steps and of ours that is in the accounts; and what came since, while nothing could be due.
        self._timed, self._seconds, self._pending, self._idled, self._quiet = 0.0, 0.0, 0.0, 0.0, 0.0

    @property
    def step_seconds(self) -> float:
        """Time between the calls of `step`."""
        return self._timed + self._pending

    @property
    def seconds(self) -> float:
        """Time spent in `step`."""
        return self._seconds + self._idled

    @property
    def overhead(self) -> float:
        """Seconds in here over seconds of the steps; NaN before the second step."""
        return self.seconds / self.step_seconds if self.step_seconds > 0 else math.nan

    def start(self, objective: AbstractObjective) -> None:
        """Readings before the first step, of what is planned to take a second at most; without a budget, of all.

        They are the start of every curve, and what they compile and import is not charged to the training. One that
        takes longer than planned, but not that long, is repeated: what the next will cost has to be known.
        """
        for account in self._accounts:
            if self.budget is not None and account.expected > LONGEST:
                continue
            planned = account.expected
            for again in (False, True):
                start = self._clock()
                if not (self._start(account, objective, again=again)):
                    break
                account.expected = self._clock() - start
                account.series.seconds += account.expected
                if not planned < account.expected <= LONGEST:
                    break

    def _start(self, account: Account, objective: AbstractObjective, *, again: bool) -> bool:
        if not again:
            return bool(self._take(account, objective))
        with contextlib.suppress(Exception):
            series = account.series
            take(series.measure, objective, series.options, rng=np.random.default_rng(0), state=dict(account.state))
        return True

    def step(
        self, objective: Callable[[], AbstractObjective], settle: Callable[[], object] | None = None
    ) -> Row | None:
        """One step of the training is done: read what is due, as a flat row; `None` if nothing is.

        `settle` waits for what the training has queued, so that it is not counted as ours.
        """
        entered = self._clock()
        self.steps += 1
        # The time before the first call is that of setting up, no step's: it earns nothing.
        self._pending += 0.0 if self._left is None else entered - self._left
        if self._pending < self._quiet or (self.every is not None and self.steps % self.every):
            self._left = self._clock()
            self._idled += self._left - entered
            return None
        return self._awake(objective, settle, entered)

    def _awake(
        self, objective: Callable[[], AbstractObjective], settle: Callable[[], object] | None, entered: float
    ) -> Row | None:
        """Bring the accounts up to date and read what they pay for."""
        self._share(self._idled, self._accounts)
        self._seconds, self._idled = self.seconds, 0.0
        self._earn()
        due = self._due()
        if due and settle is not None:
            settle()
            settled = self._clock()
            self._pending += settled - entered
            entered = settled
            self._earn()
        row = self._read(due, objective, entered) if due else None
        self._left = self._clock()
        if not due:
            self._share(self._left - entered, self._accounts)
        self._seconds += self._left - entered
        self._quiet = self._wait()
        if row and not math.isnan(self.overhead):
            row["monitor/overhead"] = self.overhead
        return row

    def _earn(self) -> None:
        """Split the allowance evenly; what fills an account goes to the others, the emptiest last."""
        seconds, self._pending = self._pending, 0.0
        self._timed += seconds
        if self.budget is None:
            return
        left = self.budget * seconds
        for number, account in enumerate(sorted(self._accounts, key=lambda a: a.expected - a.credit)):
            given = min(left / (len(self._accounts) - number), max(0.0, account.expected - account.credit))
            account.credit += given
            account.earned += given
            left -= given

    def _wait(self) -> float:
        """Seconds of step time before anything can be paid for: until then a step costs two looks at the clock."""
        if self.budget is None:
            return 0.0
        common = self.budget * self._timed - self.seconds
        hungry = sum(account.credit < account.expected for account in self._accounts)
        pace = self._timed / max(1, self.steps)
        waits = [
            max(
                hungry * (a.expected - a.credit) / self.budget,
                (a.expected - common) / self.budget,
                (a.again - self.steps) * pace,
            )
            for a in self._accounts
        ]
        return min(waits) * (1 - 1e-9)

    def _due(self) -> list[Account]:
        """What its own account pays for, the longest unread first."""
        ready = [
            a for a in self._accounts if a.again <= self.steps and (self.budget is None or self._paid(a, a.credit))
        ]
        return sorted(ready, key=lambda account: account.last)

    def _paid(self, account: Account, credit: float) -> bool:
        # An account is filled to its expected cost by many small sums: compared with room for their rounding.
        return credit >= account.expected * (1 - 1e-9) and self._timed > 0

    def _read(self, due: list[Account], objective: Callable[[], AbstractObjective], entered: float) -> Row | None:
        """Read in turn while the account of all covers the next one; work they share is split among them."""
        built: AbstractObjective | None = None
        row: Row = {"step": float(self.steps)}
        costs: list[tuple[Account, float, bool]] = []
        for account in due:
            spent = self.seconds + self._clock() - entered
            if self.budget is not None and not self._paid(account, self.budget * self._timed - spent):
                continue
            if built is None and (built := self._built(objective)) is None:
                break
            start = self._clock()
            read = self._take(account, built)
            row |= read
            costs.append((account, self._clock() - start, bool(read)))
        common = self._clock() - entered - sum(cost for _, cost, _ in costs)
        for account, cost, succeeded in costs:
            account.pay(cost + common / len(costs), succeeded=succeeded)
        if not costs:
            self._share(common, due)
        return row if len(row) > 1 else None

    def _share(self, seconds: float, accounts: list[Account]) -> None:
        for account in accounts:
            account.credit -= seconds / len(accounts)

    def _built(self, objective: Callable[[], AbstractObjective]) -> AbstractObjective | None:
        try:
            return objective()
        except Exception as error:
            if not self._failure:
                self._failure = _told(error)
                _warn(f"The monitor cannot read at step {self.steps}: {self._failure} The training goes on.")
            return None

    def _take(self, account: Account, objective: AbstractObjective) -> Row:
        series = account.series
        rng = np.random.default_rng([self.seed, self.steps, *series.name.encode()])
        try:
            estimate = take(series.measure, objective, series.options, rng=rng, state=account.state)
        except Exception as error:
            if isinstance(error, NotApplicable):
                account.again = max(1, 2 * self.steps)
            elif not self.steps:
                return {}  # an optimizer without averages, say: the first step may mend it
            series.failure = f"step {self.steps}: {_told(error)}"
            if not account.warned:
                account.warned = True
                _warn(f"The measure {series.name} failed at step {self.steps}, the training goes on. {_told(error)}")
            return {}
        series.failure = ""
        series.add(self.steps, estimate)
        return flat(series.name, estimate)

    @property
    def run(self) -> Run:
        """The readings so far, for rules and pages."""
        self._earn()
        self._quiet = self._wait()
        for account in self._accounts:
            account.series.hint = self._hint(account)
        return Run([account.series for account in self._accounts], self._told_facts(), self._settings)

    def _hint(self, account: Account) -> str:
        if account.series.readings or account.series.failure or self.budget is None:
            return ""
        needs = f"never read: needs {account.expected:.2g} s, the budget has given {account.earned:.2g} s"
        if account.earned >= account.expected:
            return f"{needs}, and waits until other readings that took more than planned are paid back"
        return f"{needs}; raise budget= or use fewer probe data"

    def _told_facts(self) -> dict[str, str]:
        budget = "none" if self.budget is None else f"{self.budget:.3g} of the step time"
        every = "" if self.every is None else f", every {self.every} steps"
        told = {"steps": str(self.steps), "step time": f"{self.step_seconds:.3g} s", "budget": budget + every}
        if not math.isnan(self.overhead):
            told["overhead"] = f"{self.overhead:.2%} of the step time ({self.seconds:.3g} s)"
        if self._failure:
            told["could not read"] = self._failure
        return {**self._facts, **told, "seed": str(self.seed)}

    def summary(self) -> str:
        """The last reading of every measure, what it took, and what the monitor took of the step time."""
        return summary(self.run, self._told_facts())

    def trajectory(self) -> "Dataset":
        """Every reading over the dimension `step`; see `gradbias.measures.readings.trajectory`."""
        overhead = None if math.isnan(self.overhead) else self.overhead
        facts = {"seed": self.seed, "budget": self.budget, "every": self.every, "overhead": overhead}
        return trajectory(self.run, facts)

    def report(self, path: Path | str) -> Path:
        """Write one self-contained page: curves with bounds, what they mean and do not, a verdict per question."""
        from .page import write

        return write(self.run, path)


class Recorded:
    """What those tell of their readings who leave them to a recorder."""

    _recorder: Recorder

    @property
    def overhead(self) -> float:
        """Seconds in here over seconds of the steps; NaN before the second step."""
        return self._recorder.overhead

    def summary(self) -> str:
        """The last readings and what they took, in plain text."""
        return self._recorder.summary()

    def trajectory(self) -> "Dataset":
        """Every reading over the dimension `step`; see `gradbias.measures.readings.trajectory`."""
        return self._recorder.trajectory()

    def report(self, path: Path | str) -> Path:
        """Write one self-contained page: curves with bounds, what they mean and do not, a verdict per question."""
        return self._recorder.report(path)


def timed(build: Callable[[], AbstractObjective]) -> tuple[float, float]:
    """Seconds of making an objective and of a gradient, both once warm: what a plan rests on."""
    build().gradient()
    start = time.perf_counter()
    objective = build()
    built = time.perf_counter()
    objective.gradient()
    return built - start, time.perf_counter() - built


def _require(count: int, budget: float | None, every: int | None) -> None:
    if not count:
        raise UsageError("There is nothing to measure: name at least one measure.")
    if budget is None and every is None:
        raise UsageError("Without a budget, say how often to measure: every=100, or budget=0.05.")
    if budget is not None and not 0 < budget < math.inf:
        raise UsageError(f"budget is a share of the step time, for example 0.05; got {budget}.")
    if every is not None and every < 1:
        raise UsageError(f"every counts steps, from 1; got {every}.")


def _told(error: Exception) -> str:
    known = isinstance(error, ValueError) and type(error).__module__.startswith("gradbias.")
    return str(error) if known else f"{type(error).__name__}: {error}"


def _warn(message: str) -> None:
    warnings.warn(message, RuntimeWarning, stacklevel=7)  # the line of the training loop that called `step`
