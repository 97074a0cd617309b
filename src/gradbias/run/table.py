"""The records of a store as tables for SQL: `records`, and `samples` with a row per seed and part.

There is no index in the store. A table is kept as Parquet in the user's cache folder and compared with one listing of
the store each time: what has a new stamp is read, what has gone is dropped. Its file starts with the SHA-256 of the
rest, and one that is damaged is built again. Nothing else reads it, and no two readers wait for each other.
"""

import contextlib
import functools
import hashlib
import itertools
import json
import math
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import platformdirs

from ..errors import StoreError
from .places import Folder
from .record import number, parsed
from .store import Store

if TYPE_CHECKING:
    import pyarrow as pa
    import pyarrow.dataset as ds

Row = dict[str, Any]
Reader = Callable[[Store, Sequence[str]], Iterator[Row]]
# Of every record, in this order; a parameter that has one of these names gets `param_` before it.
FIELDS = {
    "address": str,
    "claim": str,
    "family": str,
    "setting": str,
    "control": bool,
    "seeds": int,
    "base_seed": int,
    "outcome": str,
    "gap": float,
    "error": float,
    "tolerance": float,
    "part": str,
    "seed": int,
    "standing": str,
    "reason": str,
    "seconds": float,
    "compile_seconds": float,
    "compilations": int,
    "created": datetime,
    "device": str,
    "versions": dict,
    "changes": dict,
    "parameters": dict,
}
SAMPLES = {
    "address": str,
    "claim": str,
    "setting": str,
    "control": bool,
    "base_seed": int,
    "seed": int,
    "part": str,
    "gap": float,
    "error": float,
    "converged": bool,
    "certified": bool,
}
_NOT_FINITE = {"nan", "inf", "-inf"}
_LONGEST = 2**63 - 1
# Part of the file's name: a table of another form is not looked at.
_VERSION = 1
# Rows that are turned into columns at once, which bounds the memory that this takes.
_ROWS = 1 << 13
_FORGOTTEN_SECONDS = 30 * 86400.0


def records(store: Store) -> "ds.Dataset":
    """The table `records`. Raises `StoreError` if the store cannot be listed, or has records of a newer gradbias."""
    return _synced(store, "records", FIELDS, _record_rows)


def samples(store: Store) -> "ds.Dataset":
    """The table `samples`; reads the arrays of every new record. Raises `StoreError` as `records` does."""
    return _synced(store, "samples", SAMPLES, _sample_rows)


def no_samples() -> "pa.Table":
    """The table `samples` without rows, for queries that do not name it."""
    return _schema(SAMPLES).empty_table()


def _synced(store: Store, name: str, fields: Mapping[str, type], read: Reader) -> "ds.Dataset":
    """The table as the store is now: the rows that were kept and are still true, and new ones."""
    import pyarrow as pa

    stamps = store.stamps()
    path = _cache_folder() / f"{name}-{_VERSION}-{_name_of(store)}.parquet"
    kept = _load(path)
    schema = _schema({**fields, "stamp": str})
    old, known = schema.empty_table(), {}
    if kept is not None:
        seen = _dataset(kept).to_table(["address", "stamp"]).to_pydict()
        known = dict(zip(seen["address"], seen["stamp"], strict=True))
        if known == stamps:
            return _dataset(kept)
        old = _dataset(kept).to_table(schema.names)
        old = old.filter(pa.array([stamps.get(address) == known[address] for address in seen["address"]], pa.bool_()))
    new = sorted(address for address, stamp in stamps.items() if known.get(address) != stamp)
    added = list(_tables(read(store, new), stamps, schema))
    if kept is not None and not added and len(old) == len(seen["address"]):
        return _dataset(kept)  # what is new cannot be read
    whole, ordered = pa.concat_tables([old, *added]), not len(old)
    del old, added  # half of the memory that this takes
    kept = _parquet(whole, ordered=ordered)
    _keep(path, kept)
    return _dataset(kept)


def _record_rows(store: Store, addresses: Sequence[str]) -> Iterator[Row]:
    for address, text in store.texts(addresses):
        with contextlib.suppress(KeyError, TypeError, ValueError):
            if text is not None:
                yield _row(address, parsed(address, text))
                continue
        # It has gone, or is corrupt, which the store says of it; or it was replaced just now, and is whole again.
        if (record := store.get(address)) is not None:
            try:
                yield _row(address, json.loads(record.to_json()))
            except (TypeError, ValueError) as error:
                store.warn(f"the record {store.place}/records/{address} cannot be a row ({error}); skipped.")


def _row(address: str, found: Row) -> Row:
    row = {name: _CONVERTED[kind](found[name]) for name, kind in FIELDS.items()}
    if row["address"] != address:
        raise ValueError(f"its address is {row['address']}")
    return row


def _sample_rows(store: Store, addresses: Sequence[str]) -> Iterator[Row]:
    for rows in store.mapped(lambda address: _samples_of(store, address), addresses):
        yield from rows


def _samples_of(store: Store, address: str) -> list[Row]:
    import numpy as np

    if (record := store.get(address)) is None:
        return []
    try:
        arrays = record.arrays
        gaps = {n.removeprefix("gap/"): a.reshape(len(a), -1) for n, a in arrays.items() if n.startswith("gap/")}
        same = {name: getattr(record, name) for name in SAMPLES if hasattr(record, name)}
        return [
            same
            | {
                "seed": seed,
                "part": part,
                "gap": float(np.max(gap[seed])) if gap.shape[1] else math.nan,
                "error": float(arrays[f"error/{part}"][seed]),
                "converged": bool(arrays["converged"][seed]),
                "certified": bool(arrays["certified"][seed]),
            }
            for part, gap in gaps.items()
            for seed in range(len(gap))
        ]
    except (StoreError, KeyError, IndexError, TypeError, ValueError) as error:
        store.warn(f"the arrays of {store.place}/records/{address} cannot be used ({error}); skipped.")
        return []


def _tables(rows: Iterator[Row], stamps: Mapping[str, str], schema: "pa.Schema") -> Iterator["pa.Table"]:
    import pyarrow as pa

    while some := list(itertools.islice(rows, _ROWS)):
        columns = {name: [row[name] for row in some] for name in schema.names if name != "stamp"}
        columns["stamp"] = [stamps[row["address"]] for row in some]
        yield pa.table(columns, schema=schema)


def _schema(fields: Mapping[str, type]) -> "pa.Schema":
    import pyarrow as pa

    kinds = {str: pa.string(), dict: pa.string(), bool: pa.bool_(), int: pa.int64(), float: pa.float64()}
    kinds[datetime] = pa.timestamp("ms")
    return pa.schema([(name, kinds[kind]) for name, kind in fields.items()])


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{value!r} is no text")
    return value


def _flag(value: Any) -> bool:
    if not isinstance(value, bool):
        raise TypeError(f"{value!r} is neither true nor false")
    return value


def _whole(value: Any) -> int | None:
    if value is not None and (type(value) is not int or not -_LONGEST <= value <= _LONGEST):
        raise TypeError(f"{value!r} is no integer of 64 bits")
    return value


def _instant(value: str) -> datetime:
    return datetime.fromisoformat(value).astimezone(UTC).replace(tzinfo=None)


_CONVERTED: dict[type, Callable[[Any], Any]] = {
    str: _text,
    bool: _flag,
    int: _whole,
    float: number,
    datetime: _instant,
    dict: functools.partial(json.dumps, ensure_ascii=False),
}


def _parquet(whole: "pa.Table", *, ordered: bool) -> bytes:
    """The table as a file, by address, with a column for every parameter."""
    import pyarrow as pa
    import pyarrow.compute as pc
    import pyarrow.parquet as pq

    kinds = _parameter_kinds(whole) if "parameters" in whole.column_names else {}
    schema = pa.schema([*whole.schema, *(pa.field(column, kind) for column, kind in kinds.values())])
    order = None if ordered else pc.sort_indices(whole["address"])
    sink = pa.BufferOutputStream()
    with pq.ParquetWriter(sink, schema, compression="zstd") as file:
        for start in range(0, whole.num_rows, _ROWS):
            # Piece by piece, which needs no second table; what was read just now is in order already.
            part = whole.take(order.slice(start, _ROWS)) if order is not None else whole.slice(start, _ROWS)
            part = part.combine_chunks()
            columns = _parameter_columns(part, kinds) if kinds else []
            file.write_table(pa.Table.from_arrays([*part.columns, *columns], schema=schema))
    return sink.getvalue().to_pybytes()


def _parameter_kinds(whole: "pa.Table") -> dict[str, tuple[str, "pa.DataType"]]:
    """The column of every parameter and its type: a number if all are numbers, else text."""
    import pyarrow as pa

    seen: dict[str, set[str]] = {}
    for text in whole["parameters"]:
        for name, value in json.loads(text.as_py()).items():
            seen.setdefault(name, set()).add(_kind(value))
    taken, kinds = {name.casefold() for name in whole.column_names}, {}
    for name in sorted(seen, key=str.swapcase):  # of n and N the small one keeps its name
        found = seen[name]
        column = name
        while column.casefold() in taken:  # SQL's names have no case
            column = f"param_{column}"
        taken.add(column.casefold())
        found.discard("null")
        kind = pa.string()
        if found == {"bool"}:
            kind = pa.bool_()
        elif found == {"int"}:
            kind = pa.int64()
        elif found & {"int", "float"} and found <= {"int", "float", "not finite"}:
            kind = pa.float64()
        kinds[name] = (column, kind)
    return kinds


def _kind(value: Any) -> str:
    if value is None:
        return "null"
    if isinstance(value, int) and not isinstance(value, bool):
        return "int" if -_LONGEST <= value <= _LONGEST else "other"
    if isinstance(value, str):
        return "not finite" if value in _NOT_FINITE else "other"
    return {bool: "bool", float: "float"}.get(type(value), "other")


def _parameter_columns(part: "pa.Table", kinds: Mapping[str, tuple[str, "pa.DataType"]]) -> "list[pa.Array]":
    import numpy as np
    import pyarrow as pa

    places: dict[str, list[int]] = {name: [] for name in kinds}
    values: dict[str, list[Any]] = {name: [] for name in kinds}
    for row, text in enumerate(part["parameters"].to_pylist()):
        for name, value in json.loads(text).items():
            places[name].append(row)
            values[name].append(value)
    columns = []
    for name, (_, kind) in kinds.items():
        as_kind = _as_text if pa.types.is_string(kind) else float if pa.types.is_floating(kind) else lambda value: value
        given = pa.array([None if v is None else as_kind(v) for v in values[name]], kind)
        where = np.full(part.num_rows, -1)
        where[places[name]] = np.arange(len(given))
        columns.append(given.take(pa.array(where, mask=where < 0)))
    return columns


def _as_text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _dataset(content: bytes) -> "ds.Dataset":
    """What SQL reads column by column, from memory: the file itself may be replaced meanwhile."""
    import pyarrow as pa
    import pyarrow.dataset as ds

    form = ds.ParquetFileFormat()
    piece = form.make_fragment(pa.BufferReader(content))
    return ds.FileSystemDataset([piece], piece.physical_schema, form)


def without_stamps(table: "ds.Dataset") -> "ds.Dataset":
    """A table as queries see it."""
    import pyarrow as pa

    return table.replace_schema(pa.schema([field for field in table.schema if field.name != "stamp"]))


def _cache_folder() -> Path:
    return Path(platformdirs.user_cache_dir("gradbias")) / "tables"


def _name_of(store: Store) -> str:
    place = str(store.place.path.resolve()) if isinstance(store.place, Folder) else str(store.place)
    return hashlib.sha256(place.encode()).hexdigest()


def _load(path: Path) -> bytes | None:
    try:
        content = path.read_bytes()
        os.utime(path)
    except OSError:
        return None
    size = hashlib.sha256().digest_size
    return content[size:] if content[:size] == hashlib.sha256(content[size:]).digest() else None


def _keep(path: Path, content: bytes) -> None:
    """Keep a table for the next query; where that is impossible, the next query takes longer."""
    with contextlib.suppress(OSError, StoreError):
        Folder(path.parent).write(path.name, hashlib.sha256(content).digest() + content)
        for other in path.parent.iterdir():
            if time.time() - other.stat().st_mtime > _FORGOTTEN_SECONDS:
                other.unlink()
