"""`gradbias sweep` and `gradbias status`: what was asked for, the plan, what happens, and how to go on."""

import ast
import contextlib
import json
import math
import signal
import sys
import threading
import time
import tomllib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import FrameType
from typing import Any

from rich.console import Console
from rich.markup import escape

from .errors import UsageError
from .run import executors
from .run.chosen import file_of
from .run.console import STYLES, put, say, table
from .run.ledger import Status, command, statuses
from .run.parameters import parse
from .run.plan import duration, grid
from .run.results import Sweep
from .run.store import Store
from .run.sweep import Finished, Noted

# A line this often where stderr is no terminal.
LINE_SECONDS = 60.0
SPACINGS = ("log", "lin")


@dataclass(frozen=True)
class Asked:
    """What was asked for on the command line or in a file."""

    claim: str
    over: Mapping[str, Sequence[Any]]
    setting: str = "smoke"
    seeds: int | None = None
    changes: Mapping[str, Any] | None = None
    base_seed: int = 0
    control: bool = False


def values(text: str) -> list[Any]:
    """The values that `--over name=…` means: `1e-6:10:log:25`, `0:1:lin:11`, or a list with commas between.

    Raises `UsageError` for a range without its four parts, ends of a logarithmic one that are not positive, and a count
    below two.
    """
    if ":" not in text:
        return _listed(text)
    import numpy as np

    try:
        low, high, spacing, count = text.split(":")
        start, stop, number = float(low), float(high), int(count)
    except ValueError:
        raise UsageError(f"A range is start:stop:log:count or start:stop:lin:count; got {text!r}.") from None
    if spacing not in SPACINGS or number < 2 or not np.isfinite([start, stop]).all():
        raise UsageError(
            f"A range is start:stop:log:count or start:stop:lin:count, with a count of 2 or more; got {text!r}."
        )
    if spacing == "lin":
        return [float(value) for value in np.linspace(start, stop, number)]
    if min(start, stop) <= 0:
        raise UsageError(f"The ends of a logarithmic range must be positive; got {text!r}.")
    return [float(value) for value in np.geomspace(start, stop, number)]


def _listed(text: str) -> list[Any]:
    """Values with commas between; those inside of brackets belong to a value."""
    try:
        found = ast.literal_eval(f"[{text}]")
    except (ValueError, SyntaxError):
        return [value.strip() for value in text.split(",") if value.strip()]  # words
    return list(found)


def asked_for(what: str, over: Sequence[str], assignments: Sequence[str], options: Mapping[str, Any]) -> Asked:
    """A sweep from a claim and options, or from a `.toml` file that options add to.

    Raises `UsageError` for a file that is absent or no TOML, keys unknown in it, and a sweep over nothing.
    """
    found = Asked(what, {})
    if what.endswith(".toml"):
        found = _from_file(Path(what))
    given = {name: value for name, value in options.items() if value not in (None, False)}
    swept = dict(found.over) | {name: values(text) for name, text in parse(over, option="--over").items()}
    if not swept:
        raise UsageError("A sweep needs something to sweep over: --over alpha=1e-6:10:log:25, or --over depth=2,3,4.")
    return replace(found, over=swept, changes=dict(found.changes or {}) | parse(assignments), **given)


def _from_file(path: Path) -> Asked:
    try:
        found = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UsageError(f"There is no file {path}.") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UsageError(f"{path} is no TOML file: {error}.") from None
    known = {"claim", "over", "set", "setting", "seeds", "base_seed", "control"}
    if unknown := set(found) - known:
        raise UsageError(f"{path} has an unknown key {sorted(unknown)[0]!r}; it may have {', '.join(sorted(known))}.")
    if "claim" not in found:
        raise UsageError(f'{path} names no claim. For example: claim = "diagonal-net-l1-l2".')
    swept = {name: values(v) if isinstance(v, str) else v for name, v in found.pop("over", {}).items()}
    if wrong := [name for name, v in swept.items() if not isinstance(v, list)]:
        raise UsageError(f'{path}: {wrong[0]} must be a list or a range such as "1e-6:10:log:25".')
    return Asked(over=swept, changes=found.pop("set", {}), **found)


@dataclass
class Shown:
    """What a person, or a program, sees of a sweep while it runs."""

    sweep: Sweep
    as_json: bool

    def plan(self) -> None:
        """The plan, before anything runs."""
        plan = self.sweep.plan
        if self.as_json:
            numbers = {"settings": plan.jobs, "stored": plan.stored, "blocks": len(plan.blocks)}
            costs = {"compilations": plan.compilations, "seconds": plan.seconds, "data_bytes": plan.data_bytes}
            self._event("plan", sweep=self.sweep.grid.name, **numbers, **costs)
        else:
            say(f"sweep {self.sweep.grid.name}: {plan}")

    def run(self) -> list[Finished]:
        """Show events as they come; returns every setting that ended."""
        done: list[Finished] = []
        start = last = time.monotonic()
        new, total = 0, len(self.sweep.grid.jobs)
        with _bar(total, shown=not self.as_json) as (advance, bar):
            for event in self.sweep.events():
                if isinstance(event, Finished):
                    done.append(event)
                    new += not event.reused
                    advance()
                self._tell(event)
                if not bar and not self.as_json and new and time.monotonic() - last > LINE_SECONDS:
                    last = time.monotonic()
                    say(_line(done, total, new / (last - start)))
        return done

    def _tell(self, event: Finished | Noted) -> None:
        if isinstance(event, Noted):
            if self.as_json:
                settings = [str(job) for job in event.block.jobs]
                self._event(event.what, settings=settings, **({"cause": event.cause} if event.cause else {}))
            elif event.what != "started":
                say(f"{event.what}: {event.cause}")
        elif event.error is not None:
            rerun = command(event.job, self.sweep.store)
            if self.as_json:
                self._event("failed", setting=str(event.job), cause=str(event.error), command=rerun)
            else:
                say(f"failed: {event.error}\n  alone: {rerun}")
        elif self.as_json:
            self._event(
                "finished",
                setting=str(event.job),
                address=event.address,
                outcome=event.outcome or None,
                reused=event.reused,
            )

    def _event(self, what: str, **more: Any) -> None:
        print(json.dumps({"event": what} | more, ensure_ascii=False), flush=True)


def _line(done: Sequence[Finished], total: int, rate: float) -> str:
    failed = sum(each.error is not None for each in done)
    left = total - len(done)
    return f"{len(done)} of {total} settings ({failed} failed), {rate:.2g} a second, {duration(left / rate)} left"


@contextlib.contextmanager
def _bar(total: int, *, shown: bool) -> Iterator[tuple[Callable[[], None], bool]]:
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    stderr = Console(stderr=True)
    if not shown or not stderr.is_terminal:
        yield lambda: None, False
        return
    columns = (TextColumn("settings"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn())
    with Progress(*columns, console=stderr, transient=True, redirect_stdout=sys.stdout.isatty()) as progress:
        task = progress.add_task("settings", total=total)
        yield lambda: progress.advance(task), True


def sweep(asked: Asked, place: Any, options: Mapping[str, Any], *, as_json: bool, dry: bool) -> int:
    """Plan a sweep, say so, and run it. Exit code 0: every setting has a record; 1: some failed; 130: stopped."""
    store = Store(place)
    path, function = file_of(asked.claim)
    wanted = grid(
        path,
        asked.over,
        function=function,
        setting=asked.setting,
        seeds=asked.seeds,
        changes=asked.changes,
        base_seed=asked.base_seed,
        control=asked.control,
    )
    own = {name: options[name] for name in ("fresh", "retries", "timeout")}
    where = {name: options[name] for name in ("workers", "address", "partition", "max_jobs")}
    where |= {"minutes": math.ceil(options["timeout"] / 60)} if options["timeout"] else {}
    with executors.executor(options["executor"], **where) as (executor, window):
        made = Sweep(wanted, store, executor, window=window, **own)
        shown = Shown(made, as_json)
        shown.plan()
        if dry:
            return 0
        with made, _draining(made):
            done = shown.run()
    failed = sum(each.error is not None for each in done)
    stopped = made.stopping and len(done) < len(wanted.jobs)
    if not as_json:
        _summarize(done, len(wanted.jobs), store)
    return 130 if stopped else 1 if failed else 0


@contextlib.contextmanager
def _draining(made: Sweep) -> Iterator[None]:
    """The first Ctrl-C or SIGTERM lets what runs end; the second ends it."""

    def drain(number: int, _: FrameType | None) -> None:
        if made.stopping:
            raise KeyboardInterrupt
        made.stop()
        say(
            "Stopping: what runs may end, nothing new starts. Again to end it now; the same command goes on from there."
        )

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.signal(number, drain) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _summarize(done: Sequence[Finished], total: int, store: Store) -> None:
    new = [each for each in done if not each.reused and each.error is None]
    counts = {name: sum(each.outcome == name for each in new) for name in STYLES}
    told = ", ".join(f"[{STYLES[name]}]{count} {name}[/]" for name, count in counts.items() if count)
    failed, stored = sum(each.error is not None for each in done), sum(each.reused for each in done)
    pieces = [f"{len(done)} of {total} settings", told, f"{stored} from the store" if stored else ""]
    pieces += [f"{failed} failed (`gradbias status` says why)" if failed else ""]
    put(": ".join([pieces[0], ", ".join(piece for piece in pieces[1:] if piece)]) + ".")
    if len(done) < total:
        say(f"{total - len(done)} are left; the same command goes on from {store.place}.")


def status(place: Any, *, as_json: bool) -> int:
    """How far every sweep of a store has come. Exit code 1 if a setting failed."""
    store = Store(place)
    found = statuses(store)
    if as_json:
        for each in found:
            print(json.dumps(_as_dict(each), ensure_ascii=False))
        return int(any(each.failures for each in found))
    if not found:
        put(f"There is no sweep in {escape(str(store.place))}. Start one with `gradbias sweep`.")
        return 0
    rows = table("sweep", "claim", "over", "done", "running", "failed", "left", "settings a second", "time left")
    for each in found:
        over = ", ".join(f"{name} ({len(v)})" for name, v in each.asked["over"].items())
        running = f"{len(each.running)} blocks" if each.drivers else "nobody"
        numbers = [f"{each.done} of {each.total}", running, str(len(each.failures)), str(each.left)]
        rate = "" if not each.rate else f"{each.rate:.2g}"
        left = "" if each.seconds_left is None else duration(each.seconds_left)
        rows.add_row(each.name, each.asked["claim"], escape(over), *numbers, rate, left)
    put(rows)
    for each in found:
        for failure in each.failures:
            put(f"[red]failed[/] {escape(failure.job)}: {escape(failure.cause)}\n  alone: {escape(failure.command)}")
    return int(any(each.failures for each in found))


def _as_dict(each: Status) -> dict[str, Any]:
    counts = {"total": each.total, "done": each.done, "failed": len(each.failures), "left": each.left}
    pace = {
        "running": list(each.running),
        "drivers": each.drivers,
        "rate": each.rate,
        "seconds_left": each.seconds_left,
    }
    failures = [{"setting": f.job, "cause": f.cause, "command": f.command} for f in each.failures]
    return {"sweep": each.name, **each.asked, **counts, **pace, "failures": failures}
