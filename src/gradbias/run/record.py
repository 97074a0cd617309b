"""A record: everything one run of a claim said, as valid JSON next to an `.npz` of arrays.

`record.json` obeys `record.schema.json`, shipped with the package. JSON has no NaN and no infinity; they are written as
the strings "nan", "inf" and "-inf". `arrays.npz` is a zip of NumPy arrays, one per name (`measured/<part>`,
`predicted/<part>`, `error/<part>`, `gap/<part>`, `converged`, `certified`, `steps`, `certificates/<name>`,
`curves/<name>`), with the seeds along the first axis and never a pickle.
"""

import functools
import io
import json
import math
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from importlib import resources
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import StoreError

if TYPE_CHECKING:
    from ..claim import Evidence

SCHEMA_VERSION = 1
Arrays = dict[str, np.ndarray]
ARRAYS = "arrays.npz"
_NUMBERS = ("gap", "error", "tolerance", "seconds", "compile_seconds")


@dataclass(frozen=True, kw_only=True)
class Record:
    """What a run of a claim found, and all that is needed to run it again.

    `outcome`, `gap`, `error`, `tolerance`, `part`, `seed` and `reason` are the verdict; `standing` is the outcome on
    record for the claim. `changes` are the parameters given by hand, `parameters` all of them. `certificates` holds the
    largest residual of each of the oracle's certificates. `data_files` has the SHA-256 of files that the user has, by
    the name of the set. `address` is the record's name in a store.
    """

    address: str
    claim: str
    family: str
    summary: str
    statement: str
    source: tuple[str, str]
    setting: str
    changes: dict[str, Any]
    parameters: dict[str, Any]
    seeds: int
    base_seed: int
    control: bool
    outcome: str
    gap: float
    error: float
    tolerance: float
    part: str
    seed: int | None
    reason: str
    standing: str
    standing_reason: str
    certificates: dict[str, float]
    refused: dict[str, str]
    versions: dict[str, str]
    package_sha256: str
    claim_sha256: str
    device: str
    dtype: str
    seconds: float
    compile_seconds: float
    compilations: int
    created: str
    data_files: dict[str, str] = field(default_factory=dict)
    schema_version: int = SCHEMA_VERSION
    load_arrays: Callable[[], Arrays] = field(repr=False, compare=False)

    @property
    def arrays(self) -> Arrays:
        """The arrays of the record by name; read from the store when asked for."""
        return self.load_arrays()

    @property
    def expected(self) -> str:
        """The outcome that this record should have: `refuted` for a control, the claim's standing otherwise."""
        return "refuted" if self.control else self.standing

    @property
    def as_expected(self) -> bool:
        """Whether the outcome is the expected one."""
        return self.outcome == self.expected

    def evidence(self) -> "Evidence":
        """The evidence as it was judged, rebuilt from the arrays."""
        return evidence_of(self.arrays, {int(seed): why for seed, why in self.refused.items()})

    def to_json(self, *, indent: int | None = None, arrays: str | None = None) -> str:
        """The record as JSON, with the name of the file of its arrays; on one line unless an indent is given."""
        named = {f.name: getattr(self, f.name) for f in fields(self) if f.name != "load_arrays"}
        named |= {} if arrays is None else {"arrays": arrays}
        return json.dumps(plain(named), indent=indent, ensure_ascii=False, allow_nan=False)


def from_json(text: str, load_arrays: Callable[[], Arrays]) -> Record:
    """Rebuild a record from its JSON; raises `ValueError` if it does not obey the schema."""
    import jsonschema

    try:
        found = json.loads(text)
        _validator().validate(found)
    except jsonschema.ValidationError as error:
        raise ValueError(f"{error.json_path}: {error.message}") from None
    found.pop("arrays", None)
    found |= {name: number(found[name]) for name in _NUMBERS}
    found["certificates"] = {k: number(v) for k, v in found["certificates"].items()}
    return Record(**found | {"source": tuple(found["source"])}, load_arrays=load_arrays)


@functools.cache
def _validator() -> Any:
    import jsonschema

    schema = json.loads(resources.files(__package__).joinpath("record.schema.json").read_text(encoding="utf-8"))
    return jsonschema.Draft202012Validator(schema)


def parsed(where: str, content: bytes) -> dict[str, Any]:
    """What a `record.json` holds, not checked any further. Raises `StoreError` for a newer schema, `ValueError`."""
    found = json.loads(content.decode())
    if not isinstance(found, dict):
        raise ValueError(f"it is no object but {type(found).__name__}")
    version = found.get("schema_version")
    if isinstance(version, int) and version > SCHEMA_VERSION:
        raise StoreError(
            f"The record {where} was written by a newer gradbias (schema {version}; this one reads up to "
            f"{SCHEMA_VERSION}). Upgrade gradbias, or give another place with --store or GRADBIAS_STORE."
        )
    return found


def record_at(where: str, content: bytes, address: str, load: Callable[[str], Arrays]) -> tuple[Record, str]:
    """The record that a `record.json` holds, whose arrays `load` reads from a file, and the name of that file.

    Raises `StoreError` for a newer schema, `ValueError` for what is not the record of this address.
    """
    arrays = str(parsed(where, content).get("arrays", ARRAYS))
    record = from_json(content.decode(), functools.cache(lambda: load(arrays)))
    if record.address != address:
        raise ValueError(f"its address is {record.address}, not the name of its folder")
    return record, arrays


def packed(arrays: Arrays) -> bytes:
    """Named arrays as a compressed `.npz`; equal arrays give equal bytes."""
    file = io.BytesIO()
    np.savez_compressed(file, **arrays)  # type: ignore[arg-type]
    return file.getvalue()


def unpacked(content: bytes) -> Arrays:
    """The inverse of `packed`; raises `ValueError`."""
    try:
        with np.load(io.BytesIO(content), allow_pickle=False) as archive:
            return {name: archive[name] for name in archive.files}
    except (OSError, ValueError, AttributeError, EOFError, zipfile.BadZipFile) as error:
        raise ValueError(f"it is no archive of arrays ({error})") from error


def plain(value: Any) -> Any:
    """A value as JSON can hold it: NumPy scalars as numbers, tuples as lists, NaN and infinities as strings."""
    if isinstance(value, np.generic):
        return plain(value.item())
    if isinstance(value, float) and not math.isfinite(value):
        return "nan" if math.isnan(value) else "inf" if value > 0 else "-inf"
    if isinstance(value, Mapping):
        return {str(k): plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [plain(v) for v in value]
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise ValueError(f"A record cannot hold {value!r} of type {type(value).__name__}; use numbers, strings or tuples.")


def number(value: float | str) -> float:
    """A float from JSON, where NaN and the infinities are strings."""
    return float(value)


def arrays_of(evidence: "Evidence", gaps: Mapping[str, np.ndarray]) -> Arrays:
    """All arrays of the evidence, and the gaps, under the names that a record uses."""
    tree: dict[str, Any] = {
        "measured": evidence.measured,
        "predicted": evidence.predicted,
        "error": evidence.error,
        "gap": gaps,
        "certificates": evidence.certificates,
        "curves": evidence.curves,
        "converged": evidence.converged,
        "certified": evidence.certified,
        "steps": evidence.steps,
    }
    return _flat("", tree)


def evidence_of(arrays: Arrays, refused: Mapping[int, str]) -> "Evidence":
    """The inverse of `arrays_of`."""
    from ..claim import Evidence

    return Evidence(
        measured=_below("measured", arrays),
        predicted=_below("predicted", arrays),
        error=_below("error", arrays),
        converged=arrays["converged"],
        certified=arrays["certified"],
        steps=arrays["steps"],
        certificates=_below("certificates", arrays),
        curves=_below("curves", arrays),
        refused=dict(refused),
    )


def _flat(prefix: str, value: Any) -> Arrays:
    if isinstance(value, Mapping):
        found: Arrays = {}
        for name, below in value.items():
            found |= _flat(f"{prefix}/{name}" if prefix else str(name), below)
        return found
    array = np.asarray(value)
    if array.dtype.kind not in "biufc":
        raise ValueError(f"{prefix} must be an array of numbers or a dict of them; got {type(value).__name__}.")
    return {prefix: array}


def _below(prefix: str, arrays: Arrays) -> Arrays:
    return {name.removeprefix(f"{prefix}/"): a for name, a in arrays.items() if name.startswith(f"{prefix}/")}
