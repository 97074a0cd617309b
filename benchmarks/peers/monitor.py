"""The monitor with ten measures on, budget 5 %: seconds in it over seconds of steps, and peak memory with and without.

Each run is a process of its own, one thread: seconds are wall time, the peak is the process's resident set, libraries
included; `baseline` in the JSON is what it holds before the first step.
"""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

BUDGET, SECONDS, BATCH = 0.05, 25.0, 128
MEASURES = [
    "sharpness",
    "batch_sharpness",
    "margin",
    "geometric_complexity",
    "effective_rank",
    "neural_collapse",
    "ntk_drift",
    "noise_scale",
    "gradient_norm",
    "weight_norm",
]


def peak() -> int:
    """Largest resident set so far, in KiB; the `ru_maxrss` of a child starts at its parent's."""
    status = Path("/proc/self/status").read_text()
    return int(next(line.split()[1] for line in status.splitlines() if line.startswith("VmHWM")))


def train(name: str, monitored: bool) -> dict:
    import torch
    import workloads

    torch.set_num_threads(1)
    model, x, y = {"MLP": workloads.mlp, "CNN": workloads.cnn, "transformer": workloads.transformer}[name](1024)
    loss = torch.nn.functional.cross_entropy
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    before, monitor, inside, rows = peak(), None, 0.0, 0
    if monitored:
        import gradbias.pytorch as gbt

        probe = (x[:BATCH], y[:BATCH])
        monitor = gbt.Monitor(model, loss, probe, measures=MEASURES, optimizer=optimizer, budget=BUDGET, batch_size=32)
    start, steps, order = time.perf_counter(), 0, torch.Generator().manual_seed(0)
    while time.perf_counter() - start < SECONDS:
        index = torch.randperm(len(x), generator=order)[:BATCH]
        optimizer.zero_grad()
        loss(model(x[index]), y[index]).backward()
        optimizer.step()
        steps += 1
        if monitor is not None:
            entered = time.perf_counter()
            rows += monitor.step() is not None
            inside += time.perf_counter() - entered
    outside = time.perf_counter() - start - inside
    read = [m for m in MEASURES if monitor is not None and m in monitor.trajectory()]
    return {
        "steps": steps,
        "milliseconds per step": 1e3 * outside / steps,
        "overhead": inside / outside,
        "rows": rows,
        "measures read": len(read),
        "baseline": before,
        "peak": peak(),
    }


def child(name: str, monitored: bool) -> dict:
    here = Path(__file__)
    told = subprocess.run(
        [sys.executable, here, name, "with" if monitored else "without"],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=True,
    )
    return json.loads(told.stdout.splitlines()[-1])


def rows() -> list[dict]:
    told = []
    for name in ("MLP", "CNN", "transformer"):
        alone, watched = child(name, False), child(name, True)
        row = {"model": name, "steps": watched["steps"], "rows": watched["rows"]}
        row |= {"measures read": f"{watched['measures read']} of {len(MEASURES)}"}
        row |= {"ms per step": watched["milliseconds per step"], "overhead": watched["overhead"], "goal": "≤ 0.06"}
        row["peak MB with / without"] = f"{watched['peak'] / 1024:.0f} / {alone['peak'] / 1024:.0f}"
        row["before the first step"] = f"{watched['baseline'] / 1024:.0f}"
        row["ratio"] = watched["peak"] / alone["peak"]
        told.append(row | {"goal (memory)": "≤ 1.5"})
    return told


if __name__ == "__main__":
    if sys.argv[1:2] and not sys.argv[1].startswith("-"):
        print(json.dumps(train(sys.argv[1], sys.argv[2] == "with")))
    else:
        from run import main

        main({"monitor": rows}, __doc__)
