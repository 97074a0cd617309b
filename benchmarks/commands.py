"""Whole commands: `gradbias list`, `gradbias run --all` into an empty store, and again; the share spent compiling."""

import json
import os
import subprocess
import tempfile
import time

from table import arguments, show


def timed(*command: str, env: dict[str, str]) -> tuple[str, float]:
    start = time.perf_counter()
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=env)
    return done.stdout, time.perf_counter() - start


def main() -> None:
    options = arguments(__doc__)
    with tempfile.TemporaryDirectory() as folder:
        env = os.environ | {"GRADBIAS_STORE": f"{folder}/store", "XDG_CACHE_HOME": f"{folder}/cache"}
        listing = sorted(timed("gradbias", "list", env=env)[1] for _ in range(5))[2]
        rows = [{"command": "gradbias list", "seconds": listing}]
        for name, more in {
            "run --all, empty store and compilation cache": [],
            "run --all again, from the store": [],
            "run --all --fresh, warm compilation cache": ["--fresh"],
        }.items():
            out, wall = timed("gradbias", "run", "--all", "--json", *more, env=env)
            records = [json.loads(line) for line in out.splitlines()]
            row = {"command": name, "seconds": wall, "claims": len(records)}
            if "from the store" not in name:
                share = sum(r["compile_seconds"] for r in records) / sum(r["seconds"] for r in records)
                row["compiling/working"] = share
            rows.append(row)
    show(rows, options.json)


if __name__ == "__main__":
    main()
