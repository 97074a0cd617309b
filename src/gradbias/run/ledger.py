"""What is known of sweeps besides their records: what was asked for, who works on it, and what failed.

    <store>/sweeps/<name>.json            what was asked for, with the address of every setting's record
    <store>/running/<name>-<who>.json     a driver's sign of life: what it is at, and how far it has come
    <store>/failed/<address>.json         why a setting failed, and the command that runs it alone

What is done is read from the records themselves. Nothing here is needed to go on with a sweep.
"""

import json
import os
import shlex
import socket
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from .. import catalogue
from .job import Job
from .plan import Grid
from .record import plain
from .store import Store

# How often a driver gives a sign of life, and after how long without one it counts as gone.
BEAT_SECONDS, GONE_SECONDS = 5.0, 60.0


@dataclass
class Ledger:
    """The driver's side: signs of life, and failures as they happen."""

    store: Store
    name: str
    begun: float = field(default_factory=time.time)
    done: int = 0
    failed: set[str] = field(default_factory=set)
    _last: float = 0.0

    @property
    def _running(self) -> str:
        return f"running/{self.name}-{socket.gethostname()}-{os.getpid()}.json"

    def begin(self, grid: Grid) -> None:
        """Keep what was asked for."""
        asked = {
            "claim": str(grid.jobs[0].claim),
            "over": {name: list(values) for name, values in grid.over.items()},
            "setting": grid.setting,
            "changes": dict(grid.changes),
            "base_seed": grid.base_seed,
            "control": grid.control,
            "addresses": [job.address for job in grid.jobs],
            "asked": _now(),
        }
        self._write(f"sweeps/{self.name}.json", asked)
        for beat in self.store.place.names("running"):  # of drivers of this sweep that were killed
            told = _read(self.store, beat)
            if told and (said := json.loads(told))["sweep"] == self.name and time.time() - said["now"] > GONE_SECONDS:
                self.store.place.remove(beat)

    def succeeded(self, address: str) -> None:
        """A record is in the store; what was said of its failures before is void."""
        self.done += 1
        if address in self.failed:
            self.failed.discard(address)
            self.store.place.remove(f"failed/{address}.json")

    def fail(self, job: Job, cause: str) -> None:
        """Keep why a setting failed and the command that runs it alone."""
        self.failed.add(job.address)
        told = {"claim": job.claim, "job": str(job), "cause": cause, "command": command(job, self.store), "at": _now()}
        self._write(f"failed/{job.address}.json", told)

    def beat(self, blocks: Iterable[str]) -> None:
        """A sign of life, at most every few seconds."""
        if time.monotonic() - self._last >= BEAT_SECONDS:
            self._last = time.monotonic()
            told = {"sweep": self.name, "begun": self.begun, "now": time.time(), "done": self.done}
            self._write(self._running, told | {"blocks": list(blocks)})

    def end(self) -> None:
        """This driver has ended."""
        self.store.place.remove(self._running)

    def _write(self, name: str, content: Mapping[str, Any]) -> None:
        self.store.place.write(name, (json.dumps(plain(dict(content)), ensure_ascii=False) + "\n").encode())


@dataclass(frozen=True)
class Failure:
    """A setting that failed: why, in one line, and the command that runs it alone."""

    job: str
    cause: str
    command: str


@dataclass(frozen=True)
class Status:
    """How far a sweep has come. `rate` is in settings per second over all drivers alive, None if there are none."""

    name: str
    asked: Mapping[str, Any]
    total: int
    done: int
    running: tuple[str, ...]
    drivers: int
    failures: tuple[Failure, ...]
    rate: float | None

    @property
    def left(self) -> int:
        """Settings that are neither done nor failed."""
        return self.total - self.done - len(self.failures)

    @property
    def seconds_left(self) -> float | None:
        """What is left at the present rate; None while nobody works on it or nothing has come back."""
        return self.left / self.rate if self.rate else None


def statuses(store: Store) -> list[Status]:
    """Every sweep of a store, the latest first, from one listing of the records and one of each of its own folders."""
    place = store.place
    stored = store.addresses()
    failed = {name.rpartition("/")[2].removesuffix(".json"): name for name in place.names("failed")}
    beats = [json.loads(content) for name in place.names("running") if (content := _read(store, name))]
    found = []
    for name in place.names("sweeps"):
        if not (content := _read(store, name)):
            continue
        asked = json.loads(content)
        addresses = asked.pop("addresses")
        sweep = name.rpartition("/")[2].removesuffix(".json")
        alive = [b for b in beats if b["sweep"] == sweep and time.time() - b["now"] < GONE_SECONDS]
        rates = [b["done"] / max(1e-9, b["now"] - b["begun"]) for b in alive]
        failures = [_read(store, failed[a]) for a in addresses if a in failed and a not in stored]
        found.append(
            Status(
                name=sweep,
                asked=asked,
                total=len(addresses),
                done=sum(address in stored for address in addresses),
                running=tuple(block for b in alive for block in b["blocks"]),
                drivers=len(alive),
                failures=tuple(_failure(json.loads(content)) for content in failures if content),
                rate=sum(rates) if alive else None,
            )
        )
    return sorted(found, key=lambda status: status.asked["asked"], reverse=True)


def command(job: Job, store: Store) -> str:
    """The command that runs a job alone."""
    known = catalogue.entries().get(job.claim)
    values = {name: value for name, value in job.changes.items() if name != "seeds"}
    words = ["gradbias", "run", job.claim if known and known.path == job.path else str(job.path)]
    if job.function:  # only sweeps know of experiments
        words = ["gradbias", "sweep", f"{job.path}:{job.function}"]
        words += [word for name, value in values.items() for word in ("--over", f"{name}={value!r}")]
        values = {}
    words += ["--setting", job.setting] if job.setting != "smoke" else []
    words += ["--control"] if job.control else []
    words += ["--seeds", str(job.changes["seeds"])] if "seeds" in job.changes else []
    words += [word for name, value in values.items() for word in ("--set", f"{name}={value}")]
    words += ["--base-seed", str(job.base_seed)] if job.base_seed else []
    return shlex.join([*words, "--store", str(store.place)])


def _failure(told: Mapping[str, str]) -> Failure:
    return Failure(told["job"], told["cause"].partition("\n")[0], told["command"])


def _read(store: Store, name: str) -> bytes | None:
    """A file of the ledger; None if it has gone since it was listed."""
    try:
        return store.place.read(name)
    except FileNotFoundError:
        return None


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds")
