"""Drive blocks through an executor: retries, halving, deadlines, and a store from which the same sweep goes on.

A block comes back with an outcome for each of its jobs, and whatever went wrong inside one job is that job's error. If
the block does not come back (its process or its node died, or its time ran out) it is tried again, then cut in
half until the one setting that does this is alone and fails alone. A block that needs too much memory is cut in half
with half the lanes. What is in the store stays, whatever happens here.
"""

import concurrent.futures
import time
from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Protocol, runtime_checkable

from ..errors import ClaimError, TooLarge
from .block import Block, Ended, run_block
from .job import Job
from .pool import WorkerPool, cores
from .record import Record
from .store import Store

# How often the driver looks up from its futures: to see a deadline, a signal, or the time to report.
_TICK_SECONDS = 0.5


@runtime_checkable
class Submits(Protocol):
    """What every executor can do."""

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
        """Run a function elsewhere; returns something with `done()` and `result()`."""
        ...


@dataclass(frozen=True)
class Finished:
    """A job that is done: its record's address (`reused` if it was in the store already) or the error it ended with."""

    job: Job
    store: Store = field(repr=False)
    address: str | None = None
    outcome: str = ""
    error: Exception | None = None
    reused: bool = False

    @cached_property
    def record(self) -> Record | None:
        """The record, read from the store when asked for; None if the job failed."""
        return self.store.get(self.address) if self.address else None


@dataclass(frozen=True)
class Noted:
    """Something that happened to a block: `started`, `retried`, `halved` or `abandoned`, and why."""

    what: str
    block: Block
    cause: str = ""


@dataclass
class Driver:
    """Blocks that wait, blocks that run, and what to do when one does not come back.

    `window` blocks are submitted at a time; `timeout` is in seconds per block, by default ten minutes plus twenty times
    what its claim expects. `stop` is asked now and then: when it says so, nothing new starts and what runs may end.
    """

    store: Store
    executor: Submits
    fresh: bool = False
    retries: int = 0
    timeout: float | None = None
    window: int = 1000
    stop: Callable[[], bool] = lambda: False
    tick: Callable[["Driver"], None] = lambda _: None
    waiting: deque[tuple[Block, int]] = field(default_factory=deque)
    running: dict[Any, "_Running"] = field(default_factory=dict)

    def run(self, blocks: Sequence[Block]) -> Generator[Finished | Noted, None, None]:
        """Submit blocks in their order and yield what comes back, until there is no more or `stop` says so."""
        self.waiting.extend((block, self.retries) for block in blocks)
        while True:
            stopping = self.stop()
            while self.waiting and len(self.running) < self.window and not stopping:
                yield self._submit(*self.waiting.popleft())
            if stopping:
                self._withdraw()
            if not self.running:
                return
            for handle in self._done():
                yield from self._received(self.running.pop(handle), handle)
            yield from self._overdue()
            self.tick(self)

    def _submit(self, block: Block, retries: int) -> Noted:
        deadline = self.deadline(block)
        own = getattr(self.executor, "own_processes", False)
        handle = self.executor.submit(
            run_block, block, self.store, fresh=self.fresh, deadline=deadline if own else None
        )
        # With processes of its own a block ends itself; elsewhere its time starts when it is seen to run.
        self.running[handle] = _Running(block, retries, deadline, own, time.monotonic() if own else None)
        return Noted("started", block)

    def deadline(self, block: Block) -> float:
        """Seconds that a block may take."""
        return self.timeout or 600.0 + 20.0 * block.expected_seconds

    def _done(self) -> list[Any]:
        handles = list(self.running)
        if all(isinstance(handle, Future) for handle in handles):
            return list(concurrent.futures.wait(handles, _TICK_SECONDS, concurrent.futures.FIRST_COMPLETED).done)
        ready = [handle for handle in handles if handle.done()]
        if not ready:
            time.sleep(_TICK_SECONDS)
        return ready

    def _withdraw(self) -> None:
        """Take back what has not started; it is computed when the sweep goes on."""
        for handle in [handle for handle in self.running if handle.cancel() is True]:
            del self.running[handle]
        self.waiting.clear()

    def _received(self, run: "_Running", handle: Any) -> Iterator[Finished | Noted]:
        try:
            ended: list[Ended] = handle.result()
        except TooLarge as error:
            yield from self._halved(run, str(error), smaller=True)
        except (Exception, concurrent.futures.CancelledError) as error:
            late = run.started is not None and time.monotonic() - run.started >= run.deadline
            yield from self._lost(run, _ran_out(run.block) if late else _died(run.block, error), late=late)
        else:
            for job, each in zip(run.block.jobs, ended, strict=True):
                yield Finished(job, self.store, each.address, each.outcome, each.error)

    def _lost(self, run: "_Running", cause: str, *, late: bool) -> Iterator[Finished | Noted]:
        """A block that did not come back: once more, then in halves; one setting fails when its retries are over."""
        if len(run.block.jobs) > 1 and (late or run.retries < self.retries):
            yield from self._halved(run, cause, smaller=False)
        elif run.retries > 0 and not late:
            self.waiting.appendleft((run.block, run.retries - 1))
            yield Noted("retried", run.block, cause)
        elif len(run.block.jobs) > 1:
            yield from self._halved(run, cause, smaller=False)
        else:
            yield Finished(run.block.jobs[0], self.store, error=ClaimError(cause))

    def _halved(self, run: "_Running", cause: str, *, smaller: bool) -> Iterator[Noted]:
        for half in reversed(run.block.halves(smaller=smaller)):
            self.waiting.appendleft((half, run.retries))
        yield Noted("halved", run.block, cause)

    def _overdue(self) -> Iterator[Finished | Noted]:
        """Give up blocks whose time ran out where nobody could end them."""
        now = time.monotonic()
        for handle, run in list(self.running.items()):
            if run.ends_itself:
                continue
            if run.started is None:
                run.started = now if getattr(handle, "running", bool)() else None
            elif now - run.started > run.deadline:
                handle.cancel()
                del self.running[handle]
                yield Noted("abandoned", run.block, _ran_out(run.block))
                yield from self._lost(run, _ran_out(run.block), late=True)


@dataclass
class _Running:
    block: Block
    retries: int
    deadline: float
    ends_itself: bool
    started: float | None


def _died(block: Block, error: BaseException) -> str:
    what = str(error) or type(error).__name__
    return f"{block.jobs[0].path}: the process that ran {block} died ({what}); it may have run out of memory."


def _ran_out(block: Block) -> str:
    return f"{block.jobs[0].path}: {block} was ended: it had not finished in its time."


def run_all(
    jobs: Sequence[Job],
    store: Store,
    *,
    fresh: bool = False,
    workers: int | None = None,
    timeout: float | None = None,
) -> Generator[Finished, None, None]:
    """Run jobs one by one on every core, longest expected first, and yield each as it completes.

    Those in the store come at once. A job is ended after `timeout` seconds, by default ten minutes plus twenty times
    what its claim expects. Closing the iterator (or Ctrl-C) ends the workers within a second; records that are complete
    are in the store. Like everything that spawns processes, a script that calls this needs an `if __name__ ==
    "__main__":`.
    """
    waiting: list[Job] = []
    for job in jobs:
        record = None if fresh else store.get(job.address)
        if record is None:
            waiting.append(job)
        else:
            yield Finished(job, store, record.address, record.outcome, reused=True)
    if not waiting:
        return
    store.require_writable()
    waiting.sort(key=lambda job: -job.expected_seconds)
    count = min(workers or cores(), len(waiting))
    pool = WorkerPool(count)
    try:
        driver = Driver(store, pool, fresh=fresh, timeout=timeout, window=count)
        for event in driver.run([Block((job,)) for job in waiting]):
            if isinstance(event, Finished):
                yield event
    finally:
        pool.kill()
