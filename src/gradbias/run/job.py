"""One job: a claim at one setting. `run_job` turns it into a record."""

import functools
import importlib.metadata
import json
import logging
import math
import os
import platform
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

from .. import catalogue
from ..errors import ClaimError, StoreError, UsageError
from ..image_files import ImageFiles, fingerprint
from .checkpoint import Checkpoint
from .parameters import checked
from .record import Record, arrays_of, plain
from .store import Store, sha256

if TYPE_CHECKING:
    from ..claim import Claim, Evidence
    from ..evidence import Timing

PACKAGE = Path(__file__).parent.parent
# What a process that is killed loses at most, about.
CHECKPOINT_SECONDS = 60.0


@dataclass(frozen=True)
class Job:
    """A claim file at one setting with some parameters changed, from one base seed; `control` adds the control."""

    path: Path
    setting: str = "smoke"
    changes: Mapping[str, Any] = field(default_factory=dict)
    base_seed: int = 0
    control: bool = False
    function: str = ""  # of the file, where that is an experiment and no claim

    @property
    def claim(self) -> str:
        """The claim's id, or the name of the experiment."""
        return self.function or self.path.stem.replace("_", "-")

    @property
    def address(self) -> str:
        """SHA-256 of everything that the numbers depend on: the code of the package, the claim file and the versions of
        all that gradbias depends on, the setting, the changes, the seed, the user's data files. Nothing is imported to
        compute it. Raises `UsageError` where data files are missing.
        """
        what = {
            "claim": self.claim,
            "setting": self.setting,
            "changes": plain(dict(self.changes)),
            "base_seed": self.base_seed,
            "control": self.control,
            "package": package_sha256(),
            "file": file_sha256(self.path),
            "versions": versions(),
            "machine": platform.machine(),
            "x64": True,
            **({"function": self.function} if self.function else {}),
        } | self.data_files
        return sha256(json.dumps(what, sort_keys=True).encode())

    @property
    def data_files(self) -> dict[str, str]:
        """SHA-256 of the data files that the parameter `source` asks for, if it names a set that is read from files."""
        fields = catalogue.read(self.path).fields
        given = dict(fields.get("settings", {}).get(self.setting, {}))
        given |= (fields.get("control") or {}) if self.control else {}
        source = (given | dict(self.changes)).get("source")
        return {name: fingerprint(name) for name in get_args(ImageFiles) if name == source}

    @property
    def expected_seconds(self) -> float:
        """What the claim file expects this setting to take; the smoke budget where it does not say."""
        return float(catalogue.read(self.path).fields.get("seconds", {}).get(self.setting, 8.0))

    def groups(self, seeds: int) -> int:
        """In how many groups seeds are trained: what takes over a minute is kept bit by bit as it goes on.

        A function of the claim file and the seeds alone, so that a run that was interrupted ends with the same bits.
        """
        usual = catalogue.read(self.path).fields.get("settings", {}).get(self.setting, {}).get("seeds", 1)
        return max(1, min(seeds, math.ceil(self.expected_seconds * seeds / (usual * CHECKPOINT_SECONDS))))

    def __str__(self) -> str:
        changes = [f"{name}={value}" for name, value in self.changes.items()]
        return " ".join([self.claim, self.setting, *(["control"] if self.control else []), *changes])


@functools.cache
def package_sha256() -> str:
    """SHA-256 of every Python file of the installed package, except the claims: they do not depend on each other."""
    claims = PACKAGE / "claims"
    files = [p for p in sorted(PACKAGE.rglob("*.py")) if not (claims in p.parents and not p.name.startswith("_"))]
    return sha256(*[part for p in files for part in (p.relative_to(PACKAGE).as_posix().encode(), p.read_bytes())])


def file_sha256(path: Path) -> str:
    """SHA-256 of a claim file."""
    status = path.stat()
    return _file_sha256(path, status.st_mtime_ns, status.st_size)


@functools.lru_cache(maxsize=512)
def _file_sha256(path: Path, *_stamp: int) -> str:
    return sha256(path.read_bytes())


def loaded(job: Job) -> "Claim":
    """The claim of a job, imported once per content: programs are kept by the functions that they are made of."""
    return _loaded(job.path, job.function, file_sha256(job.path))


@functools.lru_cache(maxsize=8)
def _loaded(path: Path, function: str, _: str) -> "Claim":
    if not function:
        return catalogue.read(path).load()
    from .experiment import claim_of

    found = getattr(catalogue.import_file(path), function, None)
    if not callable(found):
        raise UsageError(f"{path} has no function {function!r}.")
    return claim_of(found)


@functools.cache
def versions() -> dict[str, str]:
    """Versions of Python, gradbias and every package it requires (the metadata says which), and of jaxlib."""
    required = [r for r in importlib.metadata.requires("gradbias") or [] if "extra ==" not in r]
    names = {re.split(r"[^A-Za-z0-9_.-]", r, maxsplit=1)[0] for r in required} | {"gradbias", "jaxlib"}
    return {"python": platform.python_version()} | {name: importlib.metadata.version(name) for name in sorted(names)}


@contextmanager
def double_precision() -> Iterator[None]:
    """Claims compute in float64; the caller's session keeps its own precision."""
    import jax

    with jax.enable_x64(True):
        yield


def run_job(job: Job, store: Store | None = None, *, fresh: bool = False) -> Record:
    """The record of a job: from the store if it is there and not `fresh`, else computed (and stored).

    Raises `UsageError` for a setting, parameter or value that does not exist or fit, `ClaimError` naming file and line
    for a claim that is broken or fails, `StoreError` if the record cannot be kept.
    """
    if store and not fresh and (known := store.get(job.address)) is not None:
        return known
    kept = Checkpoint(store, job.address) if store else None
    if kept and fresh:
        kept.remove()
    with double_precision(), one_report():
        claim = loaded(job)
        try:
            record = _compute(job, claim, kept)
        except (UsageError, StoreError):
            raise
        except Exception as error:
            raise explained(job, error) from error
    if store is None or kept is None:
        return record
    stored = store.put(record, replace=fresh)
    kept.remove()
    return stored


def resolved(job: Job, claim: "Claim") -> dict[str, Any]:
    """All parameters of the job with their types checked; raises `UsageError` listing what exists."""
    changes = checked(job.changes, claim.parameters())
    return claim.setting(job.setting, dict(claim.control) | changes if job.control else changes)


def explained(job: Job, error: Exception) -> Exception:
    """An error of a job as one that a person at the keyboard can mend, with the line of the claim file."""
    where = catalogue.where(job.path, error)
    refused = _refused_inside(error)
    what = refused or f"{type(error).__name__}: {str(error) or 'no message'}"
    if isinstance(error, MemoryError):
        what = f"it needs more memory than this machine has. {str(error).rstrip('.') or 'No more is known'}"
        return UsageError(f"{job} cannot run: {what} ({where}). Try fewer seeds (`--seeds`) or a smaller size.")
    values = {name: value for name, value in job.changes.items() if name != "seeds"}
    if values and (refused or isinstance(error, ValueError | TypeError | ZeroDivisionError | OverflowError)):
        given = ", ".join(f"{name} = {value!r}" for name, value in values.items())
        return UsageError(f"{job.claim} cannot run with {given}: {what} ({where})")
    return ClaimError(f"{where}: {job.claim} ({job.setting}{', control' if job.control else ''}) failed: {what}")


def _refused_inside(error: Exception) -> str:
    """The sentence with which compiled code refused its numbers; JAX wraps it in the traceback of its callback."""
    found = re.search(r"^\S*EquinoxRuntimeError: (.+)$", str(error), re.MULTILINE)
    return found[1] if found else ""


@contextmanager
def one_report() -> Iterator[None]:
    """JAX logs the traceback of an error that compiled code raises before raising it; the error itself is enough."""
    logger = logging.getLogger("jax._src.callback")
    before, logger.disabled = logger.disabled, True
    try:
        yield
    finally:
        logger.disabled = before


def _compute(job: Job, claim: "Claim", kept: Checkpoint | None) -> Record:
    from ..evidence import collect, timed

    parameters = resolved(job, claim)
    with timed() as clock:
        evidence = collect(
            claim,
            parameters,
            base_seed=job.base_seed,
            control=job.control,
            groups=job.groups(parameters["seeds"]),
            kept=kept,
        )
    return record_of(job, claim, parameters, evidence, clock=clock)


def record_of(
    job: Job, claim: "Claim", parameters: Mapping[str, Any], evidence: "Evidence", *, clock: "Timing"
) -> Record:
    """Judge the evidence of a job, and put down all that is needed to run it again."""
    import jax

    from ..judging import judge

    verdict = judge(claim, evidence)
    entry = catalogue.read(job.path)
    arrays = arrays_of(evidence, gaps_of(claim, evidence))
    return Record(
        address=job.address,
        claim=job.claim,
        family=entry.family,
        summary=entry.summary,
        statement=claim.statement,
        source=(claim.source.key, claim.source.where),
        setting=job.setting,
        changes=plain(dict(job.changes)),
        parameters=plain({name: value for name, value in parameters.items() if name != "seeds"}),
        seeds=int(parameters["seeds"]),
        base_seed=job.base_seed,
        control=job.control,
        outcome=verdict.outcome.name,
        gap=verdict.gap,
        error=verdict.error,
        tolerance=verdict.tolerance,
        part=verdict.part,
        seed=verdict.seed,
        reason=verdict.reason,
        standing=claim.standing.outcome.name,
        standing_reason=claim.standing.reason,
        certificates={name: _largest(values) for name, values in evidence.certificates.items()},
        refused={str(seed): why for seed, why in evidence.refused.items()},
        versions=versions(),
        package_sha256=package_sha256(),
        claim_sha256=file_sha256(job.path),
        data_files=job.data_files,
        device=f"{jax.devices()[0].device_kind} ({platform.machine()}, {os.cpu_count()} cores)",
        dtype="float64",
        seconds=clock.seconds,
        compile_seconds=clock.compile_seconds,
        compilations=clock.compilations,
        created=datetime.now(UTC).isoformat(timespec="milliseconds"),
        load_arrays=lambda: arrays,
    )


def gaps_of(claim: "Claim", evidence: "Evidence") -> dict[str, Any]:
    """The gap of every seed, part and component on the side that the relation forbids."""
    import numpy as np

    from ..claim import parts
    from ..judging import violation

    measured, predicted = parts(evidence.measured), parts(evidence.predicted)
    return {
        part: np.stack([violation(claim, part, measured[part][i], predicted[part][i]) for i in range(evidence.seeds)])
        for part in (predicted if evidence.seeds else {})
    }


def _largest(values: Any) -> float:
    import numpy as np

    return float(np.max(np.abs(values))) if np.size(values) else float("nan")
