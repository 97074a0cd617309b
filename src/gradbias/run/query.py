"""SQL over the records of a store, by DuckDB inside this process; it sees two tables and nothing else."""

import json
import re
import sys
from collections.abc import Iterator, Mapping
from datetime import date, time
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.markup import escape

from ..errors import StoreError, UsageError
from .console import put, say, table
from .places import Folder, Place
from .record import plain
from .store import Store
from .table import no_samples, records, samples, without_stamps

if TYPE_CHECKING:
    import pyarrow as pa

# A terminal is no place for more; files and --csv and --json have all of them.
_SHOWN = 1000


def query(sql: str, store: Place | Path | str | None = None) -> "pa.Table":
    """The result of one SQL query over the tables `records` and `samples` of a store.

    A row of `records` is a record: its fields, and a column for every parameter of its claim. A row of `samples` is one
    seed and part of a record: gap, error, converged, certified.

    Raises `UsageError` for what is no query or names what is not there, and for an empty store; `StoreError`.
    """
    import duckdb

    with duckdb.connect(
        ":memory:",
        config={
            "autoinstall_known_extensions": "false",
            "autoload_known_extensions": "false",
            "python_enable_replacements": "false",  # names are tables, never variables of this program
        },
    ) as connection:
        try:
            _require_one_query(connection.extract_statements(sql))
            place = Store(store)
            found = records(place)
            if not found.count_rows():
                raise UsageError(f"There are no records in {place.place}; `gradbias run` makes some.")
            connection.register("records", without_stamps(found))
            named = re.search(r"\bsamples\b", sql, re.IGNORECASE)
            connection.register("samples", without_stamps(samples(place)) if named else no_samples())
            connection.execute("set enable_external_access = false; set lock_configuration = true")
            return connection.sql(sql).to_arrow_table()
        except duckdb.Error as error:
            # The first paragraph says what is wrong, and what there is; the rest draws an arrow below the text.
            told = " ".join(re.split(r"\n\s*\nLINE ", str(error))[0].split())
            raise UsageError(f"The query cannot be answered: {told}") from error


def _require_one_query(statements: list[Any]) -> None:
    if len(statements) != 1:
        raise UsageError(f"Give one SQL query; this is {len(statements) or 'none'}.")
    if (kind := statements[0].type.name) not in ("SELECT", "EXPLAIN"):
        raise UsageError(f"The store is only read: give a query such as `select * from records`, no {kind.lower()}.")


def show(result: "pa.Table", *, output: Path | None, as_csv: bool, as_json: bool) -> None:
    """Print a result as a table, CSV or JSON, or write it to a file. Raises `UsageError` for another kind of file."""
    if as_csv and as_json:
        raise UsageError("Give --csv or --json, not both.")
    if output is not None:
        _write(result, output)
    elif as_csv:
        sys.stdout.write(_csv(result).decode())
    elif as_json:
        if len(set(result.column_names)) < len(result.column_names):
            raise UsageError("Columns of equal names have no form in JSON; rename them, as in `select gap as other`.")
        for row in _rows(result):
            named = dict(zip(result.column_names, map(_for_json, row), strict=True))
            print(json.dumps(named, ensure_ascii=False, allow_nan=False))
    else:
        made = table(*(escape(name) for name in result.column_names))
        for row in _rows(result.slice(0, _SHOWN)):
            made.add_row(*(escape(_for_people(value)) for value in row))
        put(made)
        if len(result) > _SHOWN:
            say(f"These are {_SHOWN} of {len(result)} rows; --csv, --json and --output have all.")


def _rows(result: "pa.Table") -> Iterator[tuple[Any, ...]]:
    return zip(*(column.to_pylist() for column in result.columns), strict=True)


def _for_json(value: Any) -> Any:
    """A value of SQL as the records have it: NaN and infinities as text, times in ISO 8601."""
    if isinstance(value, float | int | str | None):
        return plain(value)
    if isinstance(value, Mapping):
        return {str(name): _for_json(below) for name, below in value.items()}
    if isinstance(value, list | tuple):
        return [_for_json(below) for below in value]
    if isinstance(value, Decimal):  # what sums of integers are
        return int(value) if value == value.to_integral_value() else float(value)
    return value.isoformat() if isinstance(value, date | time) else str(value)


def _for_people(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.6g}"
    return "" if value is None else str(value) if isinstance(value, str | bool) else str(_for_json(value))


def _csv(result: "pa.Table") -> bytes:
    import pyarrow as pa
    import pyarrow.csv

    sink = pa.BufferOutputStream()
    try:
        pyarrow.csv.write_csv(result, sink)
    except pa.ArrowInvalid as error:
        raise UsageError(f"CSV has no form for this result: {error}. Try --json, or --output with .parquet.") from error
    return sink.getvalue().to_pybytes()


def _write(result: "pa.Table", output: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet

    if output.suffix == ".csv":
        content = _csv(result)
    elif output.suffix == ".parquet":
        sink = pa.BufferOutputStream()
        pyarrow.parquet.write_table(result, sink)
        content = sink.getvalue().to_pybytes()
    else:
        raise UsageError(f"--output writes .parquet or .csv; got {output}.")
    try:
        Folder(output.parent).write(output.name, content)
    except StoreError as error:
        raise StoreError(f"{output} cannot be written: {error.__cause__}. Choose another --output.") from error
