"""A block: settings of one claim that one worker trains as one `vmap`ped program, and stores one by one.

What goes wrong with one setting (its data, its oracle, its training) is its own error and costs the others nothing.
What ends the process, or needs more memory than there is, is the driver's to mend: see `sweep`.
"""

import contextlib
import faulthandler
import os
import sys
import traceback
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from ..errors import ClaimError, StoreError, TooLarge, UsageError
from .job import Job, double_precision, explained, loaded, one_report, record_of, resolved, run_job
from .pool import compute_environment
from .store import Store

if TYPE_CHECKING:
    from ..claim import Claim, Measured
    from ..evidence import Run, Timing


@dataclass(frozen=True)
class Block:
    """Jobs of one claim that differ in numbers alone, trained in as many lanes as `size` of them have seeds."""

    jobs: tuple[Job, ...]
    size: int = 1

    @property
    def expected_seconds(self) -> float:
        """What the claim expects of its jobs, one after the other; together they take less."""
        return sum(job.expected_seconds for job in self.jobs)

    def halves(self, *, smaller: bool) -> tuple["Block", ...]:
        """The block in two; with half the lanes if it is to be `smaller`, else padded to as many as before."""
        middle = len(self.jobs) // 2
        size = max(1, -(-self.size // 2)) if smaller else self.size
        pieces = (self.jobs[:middle], self.jobs[middle:]) if middle else (self.jobs,)
        return tuple(Block(piece, max(size, len(piece))) for piece in pieces)

    def __str__(self) -> str:
        more = f" and {len(self.jobs) - 1} more" if len(self.jobs) > 1 else ""
        return f"{self.jobs[0]}{more}"


@dataclass(frozen=True)
class Ended:
    """How a job of a block ended: its record's address and outcome, or its error."""

    address: str | None = None
    outcome: str = ""
    error: Exception | None = None


def run_block(block: Block, store: Store, *, fresh: bool = False, deadline: float | None = None) -> list[Ended]:
    """Train, judge and store every job of a block that is not in the store; in the order of the jobs.

    Raises `TooLarge` where several settings together need more memory than there is. With a `deadline` (seconds) the
    whole process is ended when it has passed, whatever it is doing.
    """
    if "jax" not in sys.modules:
        os.environ.update(compute_environment())
    if deadline is not None:
        # Not a thread of Python's: native code that never comes back can hold its lock.
        faulthandler.dump_traceback_later(deadline, exit=True, file=open(os.devnull, "w"))  # noqa: SIM115
    try:
        ended: dict[int, Ended] = {}
        for i, job in enumerate(block.jobs):
            if not fresh and (known := store.get(job.address)) is not None:
                ended[i] = Ended(known.address, known.outcome)
        left = [i for i in range(len(block.jobs)) if i not in ended]
        if block.size == 1:
            ended |= {i: _alone(block.jobs[i], store, fresh=fresh) for i in left}
        elif left:
            ended |= dict(zip(left, _Together(block, store, fresh).run([block.jobs[i] for i in left]), strict=True))
        return [ended[i] for i in range(len(block.jobs))]
    finally:
        if deadline is not None:
            faulthandler.cancel_dump_traceback_later()


def _alone(job: Job, store: Store, *, fresh: bool) -> Ended:
    try:
        record = run_job(job, store, fresh=fresh)
    except Exception as error:
        return Ended(error=_told(job, error))
    return Ended(record.address, record.outcome)


def _told(job: Job, error: Exception) -> Exception:
    """An error that pickles and says what it is about; its traceback travels along for those who debug."""
    known = isinstance(error, ClaimError | UsageError | StoreError)
    told = error if known else ClaimError(f"{job.path}: {job} failed: {type(error).__name__}: {error}")
    told.__notes__ = ["".join(traceback.format_exception(error))]
    told.__cause__ = told.__context__ = None
    return told


@dataclass
class _Ready:
    """A job whose data are made, with the seconds that took."""

    place: int
    job: Job
    parameters: dict[str, Any]
    run: "Run"
    clock: "Timing"


@dataclass
class _Together:
    """Jobs trained in one program."""

    block: Block
    store: Store
    fresh: bool

    def run(self, jobs: Sequence[Job]) -> list[Ended]:
        """All jobs, each ended by its record or by its own error."""
        ended: dict[int, Ended] = {}
        with double_precision(), one_report():
            try:
                claim = loaded(jobs[0])
            except Exception as error:
                return [Ended(error=_told(job, error)) for job in jobs]
            ready: dict[Any, list[_Ready]] = {}
            for place, job in enumerate(jobs):
                with _kept(ended, place, job):
                    made = _prepared(place, job, claim)
                    ready.setdefault(_shape(made.run), []).append(made)
            for alike in ready.values():
                self._train(claim, alike, ended)
        return [ended[place] for place in range(len(jobs))]

    def _train(self, claim: "Claim", alike: list[_Ready], ended: dict[int, Ended]) -> None:
        """One program for settings of one shape; one that makes it fail is found by halving and fails alone."""
        from ..evidence import timed
        from ..training import program, train_settings

        first = alike[0].run
        together = program(claim.measured, first.constant, numbers_by_lane=True)
        try:
            with timed() as clock:
                measured = train_settings(
                    together,
                    [each.run.datasets for each in alike],
                    [each.run.training_keys for each in alike],
                    [each.run.traced for each in alike],
                    size=self.block.size,
                )
        except Exception as error:
            if isinstance(error, TooLarge | MemoryError) or "RESOURCE_EXHAUSTED" in str(error):
                raise TooLarge(f"{self.block}: {error}") from None
            if len(alike) == 1:
                ended[alike[0].place] = Ended(error=_told(alike[0].job, explained(alike[0].job, error)))
                return
            middle = len(alike) // 2
            self._train(claim, alike[:middle], ended)
            self._train(claim, alike[middle:], ended)
            return
        for each, result in zip(alike, measured, strict=True):
            with _kept(ended, each.place, each.job):
                ended[each.place] = self._stored(claim, each, result, _share(clock, len(alike)))

    def _stored(self, claim: "Claim", ready: _Ready, measured: "Measured", training: "Timing") -> Ended:
        from ..evidence import assemble, timed

        with timed() as clock:
            evidence = assemble(claim, ready.run, measured, ready.run.predict(), control=ready.job.control)
        spent = _sum(ready.clock, training, clock)
        record = record_of(ready.job, claim, ready.parameters, evidence, clock=spent)
        stored = self.store.put(record, replace=self.fresh)
        return Ended(stored.address, stored.outcome)


@contextlib.contextmanager
def _kept(ended: dict[int, Ended], place: int, job: Job) -> Any:
    """What goes wrong inside is the error of this job alone."""
    try:
        yield
    except (UsageError, StoreError) as error:
        ended[place] = Ended(error=_told(job, error))
    except Exception as error:
        ended[place] = Ended(error=_told(job, explained(job, error)))


def _prepared(place: int, job: Job, claim: "Claim") -> _Ready:
    from ..evidence import prepare, timed

    parameters = resolved(job, claim)
    with timed() as clock:
        run = prepare(claim, parameters, base_seed=job.base_seed)
    return _Ready(place, job, parameters, run, clock)


def _shape(run: "Run") -> Any:
    """What two settings must share to be lanes of one program."""
    import jax

    leaves, structure = jax.tree.flatten(run.datasets)
    return run.constant, structure, tuple((leaf.shape, leaf.dtype.str) for leaf in leaves)


def _share(clock: "Timing", count: int) -> "Timing":
    """An equal part of the seconds that settings spent together."""
    return replace(clock, seconds=clock.seconds / count, compile_seconds=clock.compile_seconds / count)


def _sum(*clocks: "Timing") -> "Timing":
    from ..evidence import Timing

    return Timing(
        compile_seconds=sum(clock.compile_seconds for clock in clocks),
        seconds=sum(clock.seconds for clock in clocks),
        compilations=sum(clock.compilations for clock in clocks),
    )
