"""What the benchmark scripts share: one table for people, one JSON object for programs."""

import argparse
import json
import platform
import time
from collections.abc import Callable
from typing import Any

import jax


def arguments(description: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--json", action="store_true", help="print one JSON object and nothing else")
    return parser.parse_args()


def seconds(run: Callable[[], Any], repeats: int = 5) -> float:
    """Median wall time of a call that is compiled already."""
    taken = []
    for _ in range(repeats):
        start = time.perf_counter()
        jax.block_until_ready(run())
        taken.append(time.perf_counter() - start)
    return sorted(taken)[len(taken) // 2]


def first_call(run: Callable[[], Any]) -> tuple[Any, float]:
    """The result of the first call and its wall time, compilation included."""
    start = time.perf_counter()
    result = jax.block_until_ready(run())
    return result, time.perf_counter() - start


def show(rows: list[dict[str, Any]], as_json: bool) -> None:
    if as_json:
        print(json.dumps({"python": platform.python_version(), "jax": jax.__version__, "rows": rows}))
        return
    columns = list(dict.fromkeys(key for row in rows for key in row))
    print("| " + " | ".join(columns) + " |")
    print("|" + "---|" * len(columns))
    for row in rows:
        cells = [f"{row[c]:.3g}" if isinstance(row.get(c), float) else str(row.get(c, "")) for c in columns]
        print("| " + " | ".join(cells) + " |")
