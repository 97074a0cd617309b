"""Sweeps under fire: workers, drivers and nodes are killed at random, and every record is there once and readable.

`KILLS` (200) SIGKILLs over repeated sweeps of 60 settings. Whoever is killed, the same command goes on until the sweep
is complete; then the next one begins. Lost: a record that a driver reported and the store has not, or a setting without
one. Duplicated: a setting with two records. Unreadable: a record that does not load, or that the store warns of.
"""

import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from pathlib import Path

import psutil
from table import arguments, show

from gradbias.run.ledger import statuses
from gradbias.run.store import Store

KILLS = int(os.environ.get("KILLS", "200"))
SLOW = Path(__file__).parents[1] / "tests" / "claims_for_tests" / "sound" / "mean_minimizes.py"


def claim(folder: Path) -> Path:
    """The claim of the tests, a twentieth of a second slower per seed, so that there is time to die in."""
    path = folder / "family" / "slow.py"
    path.parent.mkdir()
    path.write_text(SLOW.read_text().replace("    if n < 1:", "    import time; time.sleep(0.05)\n    if n < 1:"))
    return path


class Fire:
    """One sweep at a time, and what its drivers reported."""

    def __init__(self, folder: Path, options: list[str]) -> None:
        self.folder, self.options = folder, options
        self.path = claim(folder)
        self.reported: dict[str, set[str]] = {}
        self.stores: list[Path] = []

    def command(self, number: int) -> list[str]:
        store = self.folder / f"store{number}"
        self.stores.append(store)
        sizes = ",".join(str(n) for n in range(5, 35))
        over = ["--over", "spread=1,2", "--over", f"n={sizes}"]
        more = ["--base-seed", str(number), "--store", str(store), "--retries", "50", "--json", *self.options]
        return [sys.executable, "-m", "gradbias", "sweep", str(self.path), *over, *more]

    def listen(self, driver: subprocess.Popen[str], store: Path) -> None:
        assert driver.stdout is not None
        for line in driver.stdout:
            with contextlib.suppress(json.JSONDecodeError):  # of a driver that died in the middle of a line
                event = json.loads(line)
                if event["event"] == "finished":
                    self.reported.setdefault(str(store), set()).add(event["address"])


def workers(driver: subprocess.Popen[str]) -> list[psutil.Process]:
    with contextlib.suppress(psutil.NoSuchProcess):
        return [p for p in psutil.Process(driver.pid).children() if "spawn_main" in " ".join(p.cmdline())]
    return []


def local_round(fire: Fire, kills: int, dice: random.Random) -> Counter[str]:
    """Kill drivers and their workers until there have been so many; every sweep is carried to its end."""
    died: Counter[str] = Counter()
    number = 0
    while sum(died.values()) < kills:
        command, complete = fire.command(number), False
        number += 1
        while not complete:
            with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as driver:
                listener = threading.Thread(target=fire.listen, args=(driver, fire.stores[-1]))
                listener.start()
                while driver.poll() is None and sum(died.values()) < kills:
                    time.sleep(dice.uniform(0.5, 5.0))
                    victims = workers(driver)
                    if driver.poll() is None and dice.random() < 0.4:
                        driver.kill()
                        died["driver"] += 1
                    elif victims:
                        with contextlib.suppress(psutil.NoSuchProcess):
                            dice.choice(victims).send_signal(signal.SIGKILL)
                            died["worker"] += 1
                complete = driver.wait() == 0
                listener.join()
    return died


def node_round(fire: Fire, kills: int, dice: random.Random) -> Counter[str]:
    """Kill nodes of a Ray cluster, and put another one in the place of each."""
    from ray.cluster_utils import Cluster

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    node, died, number = cluster.add_node(num_cpus=1), Counter(), 1000
    try:
        while died["node"] < kills:
            command, complete = [*fire.command(number), "--address", cluster.address], False
            number += 1
            while not complete:
                with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as driver:
                    listener = threading.Thread(target=fire.listen, args=(driver, fire.stores[-1]))
                    listener.start()
                    while driver.poll() is None:
                        time.sleep(dice.uniform(3.0, 12.0))
                        if driver.poll() is None and died["node"] < kills:
                            cluster.remove_node(node, allow_graceful=False)
                            died["node"] += 1
                            node = cluster.add_node(num_cpus=1)
                    complete = driver.wait() == 0
                    listener.join()
    finally:
        cluster.shutdown()
    return died


def audit(fire: Fire) -> dict[str, int]:
    found: Counter[str] = Counter()
    for folder in dict.fromkeys(fire.stores):
        warned: list[str] = []
        store = Store(folder, warn=warned.append)
        records = list(store.scan())
        for record in records:
            assert record.arrays["measured/value"].shape == (3, 1)
        settings = Counter((r.changes["spread"], r.changes["n"]) for r in records)
        (status,) = statuses(store)
        found["sweeps"] += 1
        found["records"] += len(records)
        found["lost"] += len(fire.reported.get(str(folder), set()) - {r.address for r in records}) + status.left
        found["duplicated"] += sum(count - 1 for count in settings.values())
        found["unreadable"] += len(warned)
    return dict(found)


def main() -> None:
    options, dice, rows = arguments(__doc__), random.Random(0), []
    nodes = KILLS // 10
    for name, round_, kills, more in (
        ("process pool: workers and drivers", local_round, KILLS - nodes, ["--workers", "2"]),
        ("Ray: nodes", node_round, nodes, ["--executor", "ray"]),
    ):
        with tempfile.TemporaryDirectory() as folder:
            fire = Fire(Path(folder), more)
            start = time.perf_counter()
            died = round_(fire, kills, dice)
            zero = dict.fromkeys(("lost", "duplicated", "unreadable"), 0)
            rows.append(
                {"under fire": name, **died, **zero, **audit(fire), "minutes": (time.perf_counter() - start) / 60}
            )
    show(rows, options.json)


if __name__ == "__main__":
    main()
