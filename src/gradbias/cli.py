"""The command line: list, show, run, sweep, status, query, check, report, measure.

Nothing numerical is imported here; what a command needs it imports when it runs.
"""

import contextlib
import json
import os
import sys
import time
import traceback
from collections.abc import Sequence
from contextvars import ContextVar
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.markup import escape
from rich.table import Table

from . import catalogue
from .errors import ClaimError, NotApplicable, ProbeError, StoreError, UsageError
from .run.console import exit_code, progress_bar, put, say, summarize, table, tell

if TYPE_CHECKING:
    from .run.store import Store
    from .run.sweep import Finished

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    help="Theorems on what training finds, as experiments with a verdict. [bold]--debug[/] shows tracebacks.",
)
KNOWN = (UsageError, ClaimError, StoreError, ProbeError, NotApplicable)  # their text says it all
_debugging: ContextVar[bool] = ContextVar("debugging", default=False)

StoreOption = Annotated[
    str | None,
    typer.Option("--store", help="Folder or s3://bucket/prefix of records. Default: $GRADBIAS_STORE, ./gradbias-runs."),
]
JsonOption = Annotated[bool, typer.Option("--json", help="One JSON object per line on stdout, and nothing else there.")]


def main(arguments: Sequence[str] | None = None) -> None:
    """Entry point of `gradbias`: run a command and exit with its code."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    debug = "--debug" in given
    sys.exit(_guarded([a for a in given if a != "--debug"], debug=debug))


def _guarded(arguments: list[str], *, debug: bool) -> int:
    """Run a command; say in one paragraph what went wrong, with a traceback only for those who debug."""
    _debugging.set(debug)
    try:
        with typer.main.get_command(app).make_context("gradbias", list(arguments) or ["--help"]) as context:
            code = context.command.invoke(context)
            sys.stdout.flush()
        return code if isinstance(code, int) else 0
    except typer.Exit as ended:
        return ended.exit_code if arguments else 2
    except BrokenPipeError:  # the reader has gone (`| head`): end as quietly as a program that SIGPIPE ends
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except KeyboardInterrupt:
        say("Interrupted.")
        return 130
    except KNOWN as error:
        _complain(error, debug=debug)
        return 2 if isinstance(error, UsageError) else 1
    except Exception as error:
        if hasattr(error, "format_message") and hasattr(error, "exit_code"):  # how the parser says wrong usage
            say(f"error: {error.format_message()} (`gradbias --help` lists commands and options.)")
            return 2
        _complain(error, debug=debug)
        return 1


def _complain(error: Exception, *, debug: bool) -> None:
    if debug:
        notes = getattr(error, "__notes__", None)
        print("\n".join(notes) if notes else "".join(traceback.format_exception(error)), file=sys.stderr)
    known = isinstance(error, KNOWN)
    name = "" if known else f"{type(error).__name__}: "
    say(f"error: {name}{error}" + ("" if known or debug else " (--debug shows where.)"))


def _version(asked: bool) -> bool:
    if asked:
        import importlib.metadata

        print(f"gradbias {importlib.metadata.version('gradbias')}")
        raise typer.Exit
    return asked


@app.callback()
def _options(
    version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="Print it.")] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show tracebacks; goes with every command.")] = False,
) -> None:
    del version, debug  # `--version` ends in its callback, `--debug` is taken out in `main`


@app.command("list")
def list_claims(as_json: JsonOption = False) -> int:
    """Every claim: id, statement, source, settings, expected seconds. A broken file is shown as such."""
    entries = list(catalogue.entries().values())
    if as_json:
        for entry in entries:
            print(json.dumps(_listed(entry), ensure_ascii=False))
    else:
        rows = table("claim", "statement", "source", "settings (expected seconds)")
        for entry in entries:
            row = _listed(entry)
            source = ", ".join(row["source"] or [])
            settings = " ".join(f"{s} ({row['seconds'].get(s, '?')})" for s in row["settings"])
            stands = "" if row["standing"] == "supported" else f" (stands {row['standing']}: {row['reason']})"
            rows.add_row(entry.id, escape(row["problem"] or row["statement"] + stands), escape(source), settings)
        put(rows)
    for entry in entries:
        if entry.problem:
            say(f"error: {entry.problem}")
    return 1 if any(entry.problem for entry in entries) else 0


def _listed(entry: catalogue.Entry) -> dict[str, Any]:
    standing, reason = [*(entry.fields.get("standing") or ["supported"]), ""][:2]
    return {
        "claim": entry.id,
        "family": entry.family,
        "statement": entry.summary,
        "source": entry.fields.get("source"),
        "settings": list(entry.settings),
        "seconds": entry.fields.get("seconds", {}),
        "standing": standing,
        "reason": reason,
        "problem": entry.problem,
    }


@app.command()
def show(
    claim: Annotated[str, typer.Argument(help="Id of a claim, or a claim file.")], store: StoreOption = None
) -> None:
    """What a claim says: statement, assumptions, source, settings, control, tolerance and why, last verdict."""
    from .run.chosen import entry_of
    from .run.job import double_precision
    from .run.store import Store

    entry = entry_of(claim)
    with double_precision():
        loaded = entry.load()
    from .claim import describe_parameters

    rows = {
        entry.id: entry.summary,
        "statement": loaded.statement,
        "assumes": "\n".join(f"{n}{'' if check else ' (by construction)'}" for n, check in loaded.assumptions.items()),
        "source": f"{loaded.source.key}, {loaded.source.where}",
        "judged by": f"{loaded.relation}, for {loaded.quantifier} (every run, or the mean of runs)",
        "tolerance": f"{loaded.tolerance}: {loaded.tolerance_reason}",
        "settings": "\n".join(
            f"{name}: {_assignments(values)}" + (f" (about {loaded.seconds[name]} s)" if name in loaded.seconds else "")
            for name, values in loaded.settings.items()
        ),
        "parameters": describe_parameters(loaded.parameters(), loaded.settings["smoke"]),
        "control": f"{_assignments(loaded.control)}: {loaded.control_reason}",
        "standing": f"{loaded.standing.outcome.name} {loaded.standing.reason}".strip(),
        "last verdict": _last_verdict(Store(store), entry.id),
        "file": str(entry.path),
    }
    lines = Table(box=None, show_header=False, pad_edge=False, padding=(0, 2, 0, 0))
    lines.add_column(style="bold", no_wrap=True)
    lines.add_column()
    for name, text in rows.items():
        if text:
            lines.add_row(name, escape(text))
    put(lines)


def _assignments(values: Any) -> str:
    return ", ".join(f"{name} = {value!r}" for name, value in values.items())


def _last_verdict(store: "Store", claim: str) -> str:
    records = [record for record in store.scan() if record.claim == claim and not record.control]
    if not records:
        return f"none in {store.folder}"
    last = records[-1]
    return f"{last.outcome} ({last.setting}, gap {last.gap:.1e} ± {last.error:.1e}, {last.created[:16]}) {last.reason}"


@app.command()
def run(
    claims: Annotated[list[str] | None, typer.Argument(help="Ids of claims, or claim files.")] = None,
    every: Annotated[bool, typer.Option("--all", help="Every claim of the atlas; writes the report.")] = False,
    setting: Annotated[str, typer.Option(help="smoke, standard, deep, or real (data) where a claim has it.")] = "smoke",
    seeds: Annotated[int | None, typer.Option(help="How many seeds, instead of the setting's own number.")] = None,
    set_: Annotated[list[str] | None, typer.Option("--set", help="name=value: change a parameter; repeatable.")] = None,
    control: Annotated[bool, typer.Option("--control", help="Run the negative controls: all must be refuted.")] = False,
    base_seed: Annotated[int, typer.Option(help="Other data and starts.")] = 0,
    fresh: Annotated[bool, typer.Option("--fresh", help="Compute again what is in the store.")] = False,
    store: StoreOption = None,
    workers: Annotated[int | None, typer.Option(min=1, help="Processes; one per core by default.")] = None,
    timeout: Annotated[
        float | None, typer.Option(min=1, help="Seconds per claim; default: 600 plus 20 times what it expects.")
    ] = None,
    data_dir: Annotated[
        Path | None,
        typer.Option("--data-dir", help="Folder of MNIST, Fashion-MNIST or CIFAR-10. Default: $GRADBIAS_DATA."),
    ] = None,
    as_json: JsonOption = False,
) -> int:
    """Run claims and say what came out. Exit code 0: all as they stand; 1: some differ; 3: some could not be judged."""
    from .image_files import data_folder
    from .run.chosen import chosen_claims, jobs_of
    from .run.store import Store
    from .run.sweep import run_all

    place = Store(store)
    chosen = chosen_claims(claims or [], every=every)
    if every and any(setting in entry.settings for entry in chosen):
        # Not every claim is about data.
        chosen = [entry for entry in chosen if entry.problem or setting in entry.settings]
    jobs = jobs_of(chosen, setting, seeds, set_ or [], control=control, base_seed=base_seed)
    done: list[Finished] = []
    start = time.perf_counter()
    try:
        with (
            data_folder(data_dir),
            progress_bar(len(jobs)) as advance,
            contextlib.closing(run_all(jobs, place, fresh=fresh, workers=workers, timeout=timeout)) as results,
        ):
            for finished in results:
                done.append(finished)
                tell(finished, as_json=as_json, debug=_debugging.get())
                advance()
    except KeyboardInterrupt:
        kept = sum(finished.record is not None for finished in done)
        say(f"Interrupted: {kept} of {len(jobs)} records are in {place.folder}; the same command goes on from there.")
        return 130
    if not as_json:
        summarize(done, time.perf_counter() - start)
    if every:
        from .run.report import write_report

        pages = place.folder / "report" if isinstance(place.folder, Path) else Path("site")  # a bucket holds no pages
        print(f"report: {write_report(place, pages)}", file=sys.stderr if as_json else sys.stdout)
    return exit_code(done)


@app.command()
def sweep(
    claim: Annotated[str, typer.Argument(help="Id of a claim, a claim file, file.py:function, or a .toml file.")],
    over: Annotated[
        list[str] | None, typer.Option("--over", help="alpha=1e-6:10:log:25, depth=2,3,4, b=0:1:lin:11; repeatable.")
    ] = None,
    seeds: Annotated[int | None, typer.Option(help="How many seeds per setting.")] = None,
    setting: Annotated[str | None, typer.Option(help="The setting that is swept. Default: smoke.")] = None,
    set_: Annotated[list[str] | None, typer.Option("--set", help="name=value: change a parameter; repeatable.")] = None,
    control: Annotated[bool, typer.Option("--control", help="Sweep the negative control.")] = False,
    base_seed: Annotated[int | None, typer.Option(help="Other data and starts.")] = None,
    executor: Annotated[str, typer.Option(help="process, serial, ray, dask, slurm or local (submitit).")] = "process",
    workers: Annotated[int | None, typer.Option(min=1, help="Processes; one per core by default.")] = None,
    address: Annotated[str | None, typer.Option(help="Of a Ray or Dask cluster.")] = None,
    partition: Annotated[str | None, typer.Option(help="Of Slurm.")] = None,
    max_jobs: Annotated[int | None, typer.Option(min=1, help="Blocks that are submitted at a time.")] = None,
    timeout: Annotated[float | None, typer.Option(min=1, help="Seconds per block of settings.")] = None,
    retries: Annotated[int, typer.Option(min=0, help="How often a block that does not come back is tried again.")] = 2,
    fresh: Annotated[bool, typer.Option("--fresh", help="Compute again what is in the store.")] = False,
    resume: Annotated[bool, typer.Option("--resume", help="Go on from the store; what is always done.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the plan and end.")] = False,
    store: StoreOption = None,
    as_json: JsonOption = False,
) -> int:
    """A claim at every combination of some parameters' values. Exit code 0: all have a record; 1: some failed."""
    if fresh and resume:
        raise UsageError("--fresh computes everything again, and --resume nothing twice: give one of the two.")
    from .run.pool import compute_environment

    os.environ.update(compute_environment())  # before JAX is imported
    from . import sweep_command

    given = {"seeds": seeds, "setting": setting, "base_seed": base_seed, "control": control}
    asked = sweep_command.asked_for(claim, over or [], set_ or [], given)
    where = {"executor": executor, "workers": workers, "address": address, "partition": partition}
    how = {"max_jobs": max_jobs, "timeout": timeout, "retries": retries, "fresh": fresh}
    return sweep_command.sweep(asked, store, where | how, as_json=as_json, dry=dry_run)


@app.command()
def status(store: StoreOption = None, as_json: JsonOption = False) -> int:
    """How far every sweep of a store has come, and what failed. Exit code 1 if something did."""
    from . import sweep_command

    return sweep_command.status(store, as_json=as_json)


@app.command()
def check(file: Annotated[str, typer.Argument(help="A claim file, or the id of a claim.")]) -> int:
    """The contract of a claim file, from one smoke run and one control run. Exit code 1 if any check fails."""
    from .run.pool import compute_environment

    os.environ.update(compute_environment())  # before JAX is imported
    import jax

    from .contract import check_claim
    from .run.chosen import entry_of
    from .run.job import double_precision

    entry = entry_of(file)
    failed = 0
    with double_precision(), jax.numpy_rank_promotion("raise"), jax.numpy_dtype_promotion("strict"):
        for result in check_claim(entry):
            failed += not result.passed
            mark = "[green]✓[/]" if result.passed else "[red]✗[/]"
            put(f"{mark} {escape(result.name)}  [dim]{escape(result.detail)}[/]")
    print(f"{entry.id}: " + ("the contract holds." if not failed else f"{failed} of its checks failed."))
    return 1 if failed else 0


@app.command()
def report(
    output: Annotated[Path, typer.Option("--output", help="Folder to write the pages to.")] = Path("site"),
    store: StoreOption = None,
) -> int:
    """Static pages of everything in the store."""
    from .run.report import write_report
    from .run.store import Store

    print(f"report: {write_report(Store(store), output)}")
    return 0


@app.command()
def query(
    sql: Annotated[str, typer.Argument(help='For example "select claim, avg(gap) from records group by claim".')],
    store: StoreOption = None,
    output: Annotated[Path | None, typer.Option("--output", help="Write to a file .parquet or .csv.")] = None,
    as_csv: Annotated[bool, typer.Option("--csv", help="Comma-separated values on stdout.")] = False,
    as_json: JsonOption = False,
) -> None:
    """SQL on the store. [bold]records[/]: a row per record, a column per field of it and per parameter of its claim.
    [bold]samples[/]: a row per record, seed and part. "describe records" lists the columns. The SQL is DuckDB's.
    """
    from .run.query import query, show

    show(query(sql, store), output=output, as_csv=as_csv, as_json=as_json)


@app.command()
def measure(
    model: Annotated[str | None, typer.Argument(help="file.py:function that returns a torch.nn.Module.")] = None,
    checkpoint: Annotated[Path | None, typer.Argument(help="Its weights: a safetensors or torch file.")] = None,
    data: Annotated[
        str | None, typer.Option(help="file.py:name of the probe data: tensors (x, y) or a loader.")
    ] = None,
    measures: Annotated[str, typer.Option(help="Names of measures, with commas between.")] = "",
    every: Annotated[bool, typer.Option("--list", help="Print every measure, and measure nothing.")] = False,
    loss: Annotated[str | None, typer.Option(help="file.py:function of (outputs, targets). Default: by them.")] = None,
    set_: Annotated[list[str] | None, typer.Option("--set", help="measure.option=value; repeatable.")] = None,
    initial: Annotated[Path | None, typer.Option(help="Weights that drift is measured from.")] = None,
    key: Annotated[str | None, typer.Option(help="Entry of the checkpoint that holds the weights.")] = None,
    trust_pickle: Annotated[bool, typer.Option("--trust-pickle", help="Let the checkpoint run code.")] = False,
    mode: Annotated[str, typer.Option(help="eval or train.")] = "eval",
    max_memory: Annotated[float | None, typer.Option(help="Bytes that graphs may take.")] = None,
    batch_size: Annotated[int | None, typer.Option(help="That of the training, for batch sharpness.")] = None,
    seed: Annotated[int, typer.Option(help="Of random probes.")] = 0,
    output: Annotated[Path | None, typer.Option(help="Write a page, for example report.html.")] = None,
    as_json: JsonOption = False,
) -> int:
    """Measure a PyTorch model: every number with its bound. Exit code 1 if a measure has no meaning for it."""
    from . import measure_command

    if every:
        return measure_command.print_catalogue(as_json=as_json)
    if model is None or data is None:
        raise UsageError("Give a model and --data, for example: gradbias measure model.py:build --data data.py:probe.")
    asked = measure_command.Asked(
        model,
        checkpoint,
        data,
        measures,
        set_ or [],
        loss=loss,
        initial=initial,
        key=key,
        trust_pickle=trust_pickle,
        mode=mode,
        max_memory=None if max_memory is None else int(max_memory),
        batch_size=batch_size,
        seed=seed,
        output=output,
        as_json=as_json,
    )
    return measure_command.measure(asked)
