"""A store of 100,000 records: `gradbias query` and `status` as whole commands, and the listing.

The records have the parameters that the catalogue's claims have. Making them is not timed.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from table import arguments, show

from gradbias import catalogue
from gradbias.run.job import versions
from gradbias.run.places import place_of
from gradbias.run.record import Record, packed
from gradbias.run.store import Store, sha256

COUNT = int(os.environ.get("COUNT", "100000"))
SQL = {
    "group by": "select claim, outcome, count(*), avg(gap), max(seconds) from records group by all",
    "one claim": "select n, avg(gap) from records where claim = 'min-norm-regression' group by n",
}


def records(count: int) -> Iterator[Record]:
    """A sweep over the claims of the catalogue."""
    entries, rng = list(catalogue.entries().values()), np.random.default_rng(0)
    used = versions()
    for number in range(count):
        entry = entries[number % len(entries)]
        given = {k: v for k, v in entry.fields["settings"]["smoke"].items() if k != "seeds"}
        given = {k: v * rng.uniform(0.5, 2.0) if isinstance(v, float) else v for k, v in given.items()}
        address = sha256(str(number).encode())
        yield Record(
            address=address,
            claim=entry.id,
            family=entry.family,
            summary=entry.summary,
            statement=str(entry.fields["statement"]),
            source=tuple(entry.fields["source"]),
            setting="smoke",
            changes=given,
            parameters=given,
            seeds=5,
            base_seed=number,
            control=False,
            outcome="supported",
            gap=rng.uniform(),
            error=1e-6,
            tolerance=1e-3,
            part="value",
            seed=0,
            reason="",
            standing="supported",
            standing_reason="",
            certificates={"kkt": 1e-12},
            refused={},
            versions=used,
            package_sha256=address,
            claim_sha256=address,
            device="cpu (x86_64, 2 cores)",
            dtype="float64",
            seconds=rng.uniform(),
            compile_seconds=0.1,
            compilations=3,
            created=f"2026-01-01T00:{number // 60 % 60:02}:{number % 60:02}.000+00:00",
            load_arrays=dict,
        )


def fill(folder: Path, count: int) -> None:
    """What `Store.put` leaves behind, without waiting for the disk."""
    arrays = packed({name: np.zeros(5) for name in ("gap/value", "error/value", "converged", "certified")})
    for number, record in enumerate(records(count)):
        place = folder / "records" / record.address
        place.mkdir(parents=True)
        if number % 10_000 == 0:  # file systems limit the names of a file
            one = place / "arrays.npz"
            one.write_bytes(arrays)
        else:
            (place / "arrays.npz").hardlink_to(one)
        (place / "record.json").write_text(record.to_json(indent=2) + "\n", encoding="utf-8")


def asked_for(store: Store) -> None:
    """A sweep of which the whole store is the result."""
    over = {"n": list(range(COUNT))}
    asked = {
        "claim": "min-norm-regression",
        "over": over,
        "addresses": sorted(store.addresses()),
        "asked": "2026-01-01",
    }
    store.place.write("sweeps/all.json", json.dumps(asked).encode())


def command(row: str, sql: str, env: dict[str, str]) -> dict[str, Any]:
    """A query (or `status`) as a process: seconds from its start to its end, and the most memory that it had."""
    asked = ["query", sql] if sql else ["status"]
    start = time.perf_counter()
    process = subprocess.Popen(["gradbias", *asked, "--json"], stdout=subprocess.DEVNULL, env=env)
    _, status, usage = os.wait4(process.pid, 0)
    taken = time.perf_counter() - start
    assert status == 0
    cpu = usage.ru_utime + usage.ru_stime
    peak = usage.ru_maxrss / (1e6 if sys.platform == "darwin" else 1e3)
    return {"what": row, "seconds": taken, "CPU seconds": cpu, "µs per record": taken / COUNT * 1e6, "peak MB": peak}


def call(row: str, function: Callable[[], Any]) -> dict[str, Any]:
    """A call in this process: the fastest of three."""
    taken = []
    for _ in range(3):
        start = time.perf_counter()
        function()
        taken.append(time.perf_counter() - start)
    return {"what": row, "seconds": min(taken), "µs per record": min(taken) / COUNT * 1e6}


def main() -> None:
    options = arguments(__doc__)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name) / "store"
        fill(folder, COUNT)
        store = Store(place_of(folder))
        env = os.environ | {"GRADBIAS_STORE": str(folder), "XDG_CACHE_HOME": f"{name}/cache"}
        rows = [command("query, nothing kept", SQL["group by"], env)]
        rows += [command(f"query again, {row}", sql, env) for row, sql in SQL.items()]
        asked_for(store)
        rows += [command("status", "", env)]
        for record in records(1000):
            store.place.remove(f"records/{record.address}")
        rows += [command("query after 1,000 records have gone", SQL["group by"], env)]
        for record in records(1000):
            store.place.write(f"records/{record.address}/arrays.npz", packed({}))
            store.place.write(f"records/{record.address}/record.json", record.to_json().encode())
        rows += [command("query after 1,000 records have come", SQL["group by"], env)]
        rows += [call("Store.addresses()", store.addresses), call("Store.stamps()", store.stamps)]
        (table,) = Path(f"{name}/cache/gradbias/tables").iterdir()
        rows += [{"what": f"the cache: {table.stat().st_size / 1e6:.1f} MB"}]
        rows += [{"what": 'the command by itself (`gradbias query "select 1"` on one record)'} | one_record(name)]
        show(rows, options.json)


def one_record(folder: str) -> dict[str, Any]:
    """What the command takes whatever the store has."""
    fill(Path(folder) / "one", 1)
    env = os.environ | {"GRADBIAS_STORE": f"{folder}/one", "XDG_CACHE_HOME": f"{folder}/cache"}
    command("", "select 1", env)
    found = command("", "select 1", env)
    return {name: found[name] for name in ("seconds", "CPU seconds", "peak MB")}


if __name__ == "__main__":
    main()
