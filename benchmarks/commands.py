"""Whole commands: `list`; every family and all claims into an empty store, and again; the share spent compiling."""

import json
import os
import subprocess
import tempfile
import time

from table import arguments, show

from gradbias import catalogue


def timed(*command: str, env: dict[str, str]) -> tuple[str, float]:
    start = time.perf_counter()
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=env)
    return done.stdout, time.perf_counter() - start


def families() -> dict[str, list[str]]:
    """Ids of the claims by the folder that they are in."""
    found: dict[str, list[str]] = {}
    for name, entry in catalogue.entries().items():
        found.setdefault(entry.path.parent.name, []).append(name)
    return found


def main() -> None:
    options = arguments(__doc__)
    empty = {f"run {family}": names for family, names in families().items()} | {"run --all": ["--all"]}
    with tempfile.TemporaryDirectory() as folder:

        def run(row: str, place: str, *which: str) -> dict[str, object]:
            env = os.environ | {
                "GRADBIAS_STORE": f"{folder}/{place}/store",
                "XDG_CACHE_HOME": f"{folder}/{place}/cache",
            }
            out, wall = timed("gradbias", "run", "--json", *which, env=env)
            records = [json.loads(line) for line in out.splitlines()]
            share = sum(r["compile_seconds"] for r in records) / sum(r["seconds"] for r in records)
            return {"command": row, "seconds": wall, "claims": len(records), "compiling/working": share}

        listing = sorted(timed("gradbias", "list", env=dict(os.environ))[1] for _ in range(5))[2]
        rows: list[dict[str, object]] = [{"command": "gradbias list", "seconds": listing}]
        rows += [run(f"{row}, empty store and compilation cache", row, *which) for row, which in empty.items()]
        again = run("run --all again, from the store", "run --all", "--all")
        del again["compiling/working"]  # it would be that of the runs before
        rows += [again, run("run --all --fresh, warm compilation cache", "run --all", "--all", "--fresh")]
    show(rows, options.json)


if __name__ == "__main__":
    main()
