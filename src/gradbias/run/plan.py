"""From a grid of settings to blocks: what differs in numbers alone is trained together, what changes shapes apart."""

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .. import catalogue
from ..errors import UsageError
from .block import Block
from .job import CHECKPOINT_SECONDS, Job, double_precision, loaded, resolved
from .parameters import checked
from .store import sha256

if TYPE_CHECKING:
    from ..claim import Claim

# More lanes gain little on a core, and a block that is lost costs more.
LANES = 128
# As long as a block may take by what the claim expects of each of its settings alone.
BLOCK_SECONDS = 300.0


@dataclass(frozen=True)
class Grid:
    """A claim over every combination of some parameters' values, each with `seeds` seeds."""

    path: Path
    over: Mapping[str, tuple[Any, ...]]
    setting: str = "smoke"
    changes: tuple[tuple[str, Any], ...] = ()
    base_seed: int = 0
    control: bool = False
    function: str = ""

    @cached_property
    def jobs(self) -> tuple[Job, ...]:
        """One job per combination; the last parameter varies fastest."""
        points = itertools.product(*self.over.values())
        given = dict(self.changes)
        return tuple(
            Job(
                self.path,
                self.setting,
                given | dict(zip(self.over, point, strict=True)),
                self.base_seed,
                self.control,
                self.function,
            )
            for point in points
        )

    @cached_property
    def name(self) -> str:
        """Twelve letters that tell this sweep from every other: a hash of its jobs' addresses."""
        return sha256(*[job.address.encode() for job in self.jobs])[:12]


def grid(
    path: Path,
    over: Mapping[str, Sequence[Any]],
    *,
    setting: str = "smoke",
    seeds: int | None = None,
    changes: Mapping[str, Any] | None = None,
    base_seed: int = 0,
    control: bool = False,
    function: str = "",
) -> Grid:
    """A grid whose values have the types that the claim gives its parameters.

    Raises `UsageError` for a setting, parameter or value that does not exist or fit, for a parameter without values or
    with one value twice, and for one that is both swept and changed.
    """
    with double_precision():
        claim = loaded(Job(path, function=function))
    known = claim.parameters()
    given = dict(changes or {}) | ({} if seeds is None else {"seeds": seeds})
    values: dict[str, tuple[Any, ...]] = {}
    for name, wanted in over.items():
        if name in given or name == "seeds":
            other = "--seeds gives how many" if name == "seeds" else "it is fixed too; give one of the two"
            raise UsageError(f"Parameter {name!r} cannot be swept: {other}.")
        found = tuple(checked({name: value}, known)[name] for value in wanted)
        if not found:
            raise UsageError(f"Parameter {name!r} has no values to sweep over.")
        if twice := [value for i, value in enumerate(found) if value in found[:i]]:
            raise UsageError(f"Parameter {name!r} has the value {twice[0]!r} twice.")
        values[name] = found
    changed = tuple(checked(given, known).items())
    made = Grid(path, values, setting, changed, base_seed, control, function)
    resolved(made.jobs[0], claim)  # names and the setting are right for one job if they are for all
    return made


@dataclass(frozen=True)
class Plan:
    """Blocks in the order in which they start, and what they will cost."""

    blocks: tuple[Block, ...]
    compilations: int
    stored: int
    data_bytes: int

    @property
    def jobs(self) -> int:
        """Settings that are to be computed."""
        return sum(len(block.jobs) for block in self.blocks)

    @property
    def seconds(self) -> float:
        """Seconds of one core if every setting took as long as its claim expects of it alone: an upper estimate."""
        return sum(block.expected_seconds for block in self.blocks)

    def __str__(self) -> str:
        if not self.blocks:
            return f"{self.stored} settings, all of them in the store: nothing to compute."
        lanes = max(block.size * seeds_of(block.jobs[0]) for block in self.blocks)
        stored = f", {self.stored} more are in the store" if self.stored else ""
        blocks = f"{_many(len(self.blocks), 'block')} of up to {_many(lanes, 'run')}"
        return (
            f"{_many(self.jobs, 'setting')} in {blocks}{stored}; {_many(self.compilations, 'program')} to compile; "
            f"at most {duration(self.seconds)} of one core (what each setting is expected to take alone); "
            f"{self.data_bytes / 1e6:.3g} MB of data in the largest block."
        )


def plan(jobs: Sequence[Job], stored: "set[str]") -> Plan:
    """Put jobs that are not in the store into blocks that share one program each.

    Two settings share a program if they differ only in parameters annotated `float` (in those of `data` too: these
    change numbers, not shapes; where they do change a shape the block is trained in as many programs). A block has as
    many lanes as fit `LANES`, whatever is in the store: the bits of a record do not depend on what else is left.
    """
    groups: dict[Any, list[Job]] = {}
    with double_precision():
        for job in jobs:
            groups.setdefault(_program(job, loaded(job)), []).append(job)
        blocks: list[Block] = []
        largest, compilations = 0, 0
        for alike in groups.values():
            left = [job for job in alike if job.address not in stored]
            if not left:
                continue
            size, compilations = _size(alike), compilations + 1
            blocks += [Block(tuple(left[i : i + size]), size) for i in range(0, len(left), size)]
            largest = max(largest, size * _data_bytes(left[0], loaded(left[0])))
    blocks.sort(key=lambda block: -block.expected_seconds)
    return Plan(tuple(blocks), compilations, len(jobs) - sum(len(block.jobs) for block in blocks), largest)


def _size(jobs: Sequence[Job]) -> int:
    """How many of these settings make a block: a function of the settings alone, not of what is left of them."""
    alone = jobs[0].expected_seconds
    if alone > CHECKPOINT_SECONDS:
        return 1  # it keeps groups of its seeds as they end
    most = max(1, min(LANES // seeds_of(jobs[0]), int(BLOCK_SECONDS / alone), len(jobs)))
    return -(-len(jobs) // -(-len(jobs) // most))  # as equal as they can be


def seeds_of(job: Job) -> int:
    """How many seeds a job has."""
    usual = catalogue.read(job.path).settings.get(job.setting, {}).get("seeds", 3)
    return int(job.changes.get("seeds", usual))


def _program(job: Job, claim: "Claim") -> Any:
    """What two jobs must share to be lanes of one program."""
    from ..evidence import reads, traced_and_constant

    parameters = resolved(job, claim)
    _, constant = traced_and_constant(claim, parameters)
    shapes = {name: v for name, v in reads(claim.data, parameters).items() if not isinstance(v, float)}
    return (
        job.path,
        job.function,
        job.control,
        job.base_seed,
        parameters["seeds"],
        repr(sorted((constant | shapes).items())),
    )


def _data_bytes(job: Job, claim: "Claim") -> int:
    """Bytes of the data of all seeds of one setting, from those of one seed."""
    import jax
    import numpy as np

    from ..evidence import prepare

    try:
        one = prepare(claim, resolved(job, claim) | {"seeds": 1}, base_seed=job.base_seed)
    except Exception:
        return 0  # it will say so itself when it runs
    return seeds_of(job) * sum(np.asarray(leaf).nbytes for leaf in jax.tree.leaves(one.datasets))


def _many(count: int, what: str) -> str:
    return f"{count} {what}{'' if count == 1 else 's'}"


def duration(seconds: float) -> str:
    """Seconds as a person says them."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
