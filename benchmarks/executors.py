"""What each executor costs per task (an empty one), and what a second core gives a sweep.

Ray and Dask are started on this machine; submitit runs its jobs as local processes. Start-up is a row of its own.
"""

import tempfile
import time
from pathlib import Path

import numpy as np
import sweep as diagonal
from table import arguments, show

from gradbias.run.executors import executor


def overhead(name: str, tasks: int) -> dict[str, object]:
    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        with executor(name, workers=1, folder=Path(folder)) as (found, _):
            found.submit(int).result()
            ready = time.perf_counter() - start
            start = time.perf_counter()
            handles = [found.submit(int) for _ in range(tasks)]
            assert [handle.result() for handle in handles] == [0] * tasks
            each = (time.perf_counter() - start) / tasks
    return {"executor": name, "tasks": tasks, "start-up seconds": ready, "milliseconds per task": 1e3 * each}


def scaling() -> dict[str, object]:
    """Blocks of a sweep with one worker and with two, the best of two; programs come from the cache."""
    diagonal.SEEDS, over = 100, np.geomspace(0.01, 1.0, 32)
    diagonal.swept(over[:2], 2)
    one, two = (min(diagonal.swept(over, workers) for _ in range(2)) for workers in (1, 2))
    return {"executor": f"process, 32 blocks: {one:.3g} s with one worker, {two:.3g} s with two", "speed-up": one / two}


def main() -> None:
    options = arguments(__doc__)
    tasks = {"serial": 1000, "process": 1000, "ray": 500, "dask": 500, "local": 10}
    show([overhead(name, count) for name, count in tasks.items()] + [scaling()], options.json)


if __name__ == "__main__":
    main()
