"""What a person sees while jobs run: a bar, a line for every verdict, a table at the end."""

import contextlib
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from ..errors import UsageError

if TYPE_CHECKING:
    from .record import Record
    from .sweep import Finished

STYLES = {"supported": "green", "refuted": "red", "inconclusive": "yellow", "invalid": "magenta"}
WITHHELD = ("inconclusive", "invalid")


def say(message: str) -> None:
    """A line on stderr."""
    print(message, file=sys.stderr, flush=True)


def console() -> Console:
    """Stdout; as wide as the text needs where it is no terminal."""
    return Console(highlight=False) if sys.stdout.isatty() else Console(width=1000, highlight=False)


def put(shown: str | Table) -> None:
    """Print on stdout, without the blanks that pad a table's cells where it is no terminal."""
    out = console()
    if out.is_terminal:
        out.print(shown)
        return
    with out.capture() as captured:
        out.print(shown)
    print("\n".join(line.rstrip() for line in captured.get().splitlines()), flush=True)


def table(*titles: str) -> Table:
    """An empty table in the house style; no column but the first keeps its text on one line."""
    made = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False)
    for number, title in enumerate(titles):
        made.add_column(title, no_wrap=number == 0)
    return made


@contextlib.contextmanager
def progress_bar(total: int) -> Iterator[Callable[[], None]]:
    """A bar on stderr if that is a terminal, nothing at all otherwise; what it yields is called after every job."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    stderr = Console(stderr=True)
    if not stderr.is_terminal:
        yield lambda: None
        return
    columns = (TextColumn("running"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=stderr, transient=True, redirect_stdout=sys.stdout.isatty()) as progress:
        task = progress.add_task("running", total=total)
        yield lambda: progress.advance(task)


def tell(finished: "Finished", *, as_json: bool, debug: bool) -> None:
    """One line as soon as a job is done: JSON or the verdict on stdout, an error on stderr."""
    record = finished.record
    if record is None:
        say(f"error: {finished.error}")
        for note in getattr(finished.error, "__notes__", []) if debug else []:
            say(note)
    elif as_json:
        print(record.to_json(), flush=True)
    else:
        took = "from the store" if finished.reused else f"{record.seconds:.1f} s"
        numbers = f"gap {record.gap:.2g} ± {record.error:.1g}, tolerance {record.tolerance:.2g}"
        style = STYLES[record.outcome]
        put(f"[{style}]{record.outcome:<12}[/] [bold]{record.claim}[/]  {numbers}  ({took})  {escape(_remark(record))}")


def _remark(record: "Record") -> str:
    if not record.as_expected:
        return f"expected: {record.expected}. {record.reason}".strip()
    return "as expected of the control" if record.control else record.standing_reason or record.reason


def summarize(done: Sequence["Finished"], seconds: float) -> None:
    """The table of verdicts and one line that adds them up."""
    records = [finished.record for finished in done if finished.record]
    control = any(record.control for record in records)
    made = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False, padding=(0, 1, 0, 0))
    made.add_column("claim", overflow="fold")  # on a narrow terminal the name gives way, never a number
    for title in ("outcome", "expected" if control else "standing"):
        made.add_column(title, no_wrap=True)
    for title in ("gap", "error", "tolerance", "seconds", "compiling"):
        made.add_column(title, justify="right", no_wrap=True)
    for r in sorted(records, key=lambda record: (record.family, record.claim)):
        mark = "" if r.as_expected else " ←"
        numbers = [f"{r.gap:.2g}", f"{r.error:.1g}", f"{r.tolerance:.2g}", f"{r.seconds:.1f}"]
        share = f"{r.compile_seconds / r.seconds:.0%}" if r.seconds else ""
        made.add_row(r.claim, f"[{STYLES[r.outcome]}]{r.outcome}[/]{mark}", r.expected, *numbers, share)
    if records:
        print()
        put(made)
        print()
    for r in records:
        if r.standing_reason and not r.control:
            print(f"{r.claim} stands {r.standing}: {r.standing_reason}")
    counts = {name: sum(r.outcome == name for r in records) for name in STYLES}
    counts["failed"] = sum(finished.error is not None for finished in done)
    counts["other than expected"] = sum(not r.as_expected for r in records)
    told = ", ".join(f"{count} {name}" for name, count in counts.items() if count)
    print(f"{len(done)} run: {told}. {_work_done(done, seconds)}")


def _work_done(done: Sequence["Finished"], seconds: float) -> str:
    new = [f.record for f in done if f.record and not f.reused]
    work, compiling = sum(r.seconds for r in new), sum(r.compile_seconds for r in new)
    stored = sum(f.reused for f in done)
    told = f"{seconds:.1f} s"
    if new and work:
        told += f", {work:.1f} s of work ({compiling / work:.0%} compiling)"
    return told + (f", {stored} from the store" if stored else "") + "."


def exit_code(done: Sequence["Finished"]) -> int:
    """0: all as expected; 1: some verdict differs or a claim failed; 2: a value was wrong; 3: support was withheld."""
    if any(isinstance(finished.error, UsageError) for finished in done):
        return 2
    if any(finished.error for finished in done):
        return 1
    unexpected = [f.record for f in done if f.record and not f.record.as_expected]
    if not unexpected:
        return 0
    withheld = all(r.expected == "supported" and r.outcome in WITHHELD for r in unexpected)
    return 3 if withheld else 1
