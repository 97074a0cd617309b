"""The store: one folder per record, named by its address, written once and never half.

    <store>/records/<address>/record.json     see `record.schema.json`
    <store>/records/<address>/arrays.npz

In a bucket (see `bucket.py`) the arrays have another name; a copy of either is a store as well. In a folder a record is
written into a temporary folder beside its place, flushed to the disk and renamed; there is no index. A process killed
at any moment loses at most the record it was writing. Replacing a record moves the old one aside first; if the process
dies between the two renames, whoever writes next moves it back.
"""

import contextlib
import errno
import functools
import hashlib
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TypeVar

from ..errors import StoreError
from .bucket import BucketRecords
from .places import TEMPORARY, Folder, Place, Remote, explained, flush_folder, place_of, stamp_of
from .places import write_flushed as _write
from .record import ARRAYS, Arrays, Record, from_json, packed, record_at, unpacked

_REPLACED = ".replaced-"
# A temporary folder this old belongs to a process that died; records take milliseconds to write.
_ABANDONED_SECONDS = 3600.0
T = TypeVar("T")


def default_place() -> str:
    """`GRADBIAS_STORE` if set, else `./gradbias-runs`."""
    return os.environ.get("GRADBIAS_STORE") or "gradbias-runs"


def _warn(message: str) -> None:
    print(f"warning: {message}", file=sys.stderr)


class Store:
    """Records in a folder or a bucket. Reading needs no lock; any number of processes may write at once."""

    def __init__(self, place: Place | Path | str | None = None, *, warn: Callable[[str], None] = _warn) -> None:
        self.place = place_of(default_place() if place is None else place)
        self.warn = functools.cache(warn)  # a corrupt record is named once
        self._bucket = BucketRecords(self.place, self.warn) if isinstance(self.place, Remote) else None

    @property
    def folder(self) -> Path | str:
        """The folder, or the URL of a bucket."""
        return self.place.path if isinstance(self.place, Folder) else str(self.place)

    def __reduce__(self) -> "tuple[type[Store], tuple[Place]]":
        return Store, (self.place,)  # a process that gets one warns for itself

    @property
    def records(self) -> Path:
        """The folder that holds the records of a store that is a folder."""
        return Path(self.folder) / "records"

    def require_writable(self) -> None:
        """Make the folders, mend what a killed writer left, and prove that a file can be written.

        Raises `StoreError` otherwise, so that nobody computes for an hour what cannot be kept.
        """
        if self._bucket:
            return self._bucket.require_writable()
        with explained(self.place):
            self.records.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(prefix=TEMPORARY, dir=self.records) as probe:
                _write(Path(probe) / "probe", b"gradbias")
            self._mend()

    def addresses(self) -> set[str]:
        """The addresses of all records, from one listing; none is read, so that some may turn out to be corrupt."""
        return set(self._bucket.stamps()) if self._bucket else set(self._names())

    def stamps(self) -> dict[str, str]:
        """Every address with a stamp that changes when the record does, from one listing."""
        if self._bucket:
            return self._bucket.stamps()
        found, records = {}, str(self.records)
        with explained(self.place):
            for address in self._names():
                try:
                    found[address] = stamp_of(os.stat(f"{records}/{address}/record.json"))
                except (FileNotFoundError, NotADirectoryError):
                    # Where the text is missing, so that the record is corrupt, its folder stands for it.
                    with contextlib.suppress(FileNotFoundError):
                        found[address] = stamp_of(os.stat(f"{records}/{address}"))
        return found

    def texts(self, addresses: Iterable[str]) -> Iterator[tuple[str, bytes | None]]:
        """The `record.json` of many records as it is, None where there is none or no arrays beside it."""
        text = self._bucket.text if self._bucket else functools.partial(_text, str(self.records))
        with explained(self.place):
            yield from self.mapped(lambda address: (address, text(address)), addresses)

    def mapped(self, function: Callable[[str], T], addresses: Iterable[str]) -> Iterator[T]:
        """A function of many addresses that reads each; in a bucket many at once."""
        return self._bucket.mapped(function, addresses) if self._bucket else map(function, addresses)

    def get(self, address: str) -> Record | None:
        """The record at an address, or None if there is none (or it is corrupt, which is said).

        Raises `StoreError` for a record of a newer schema.
        """
        return self._bucket.get(address) if self._bucket else self._read(self.records / address)

    def scan(self) -> Iterator[Record]:
        """Every readable record, oldest first; corrupt ones are named and skipped."""
        found = [record for record in self.mapped(self.get, self.addresses()) if record is not None]
        yield from sorted(found, key=lambda record: (record.created, record.address))

    def put(self, record: Record, *, replace: bool = False) -> Record:
        """Write a record unless its address is taken (or `replace`); returns the one that is now in the store."""
        if self._bucket:
            return self._bucket.put(record, replace=replace)
        place = self.records / record.address
        with explained(self.place):
            self.records.mkdir(parents=True, exist_ok=True)
            temporary = Path(tempfile.mkdtemp(prefix=TEMPORARY, dir=self.records))
            try:
                _write(temporary / ARRAYS, packed(record.arrays))
                _write(temporary / "record.json", (record.to_json(indent=2) + "\n").encode())
                from_json((temporary / "record.json").read_text(encoding="utf-8"), dict)
                os.chmod(temporary, 0o777 & ~_umask())  # mkdtemp makes folders that only their owner can read
                flush_folder(temporary)
                self._place(temporary, place, replace=replace or self._read(place) is None)
                flush_folder(self.records)
            finally:
                shutil.rmtree(temporary, ignore_errors=True)
        return self.get(record.address) or record

    def _names(self) -> list[str]:
        with explained(self.place):
            root = Path(self.folder)
            if root.exists() and not root.is_dir():
                raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(root))
            names = os.listdir(self.records) if self.records.is_dir() else []
            return [name for name in names if not name.startswith(".")]

    def _place(self, temporary: Path, place: Path, *, replace: bool) -> None:
        while True:
            try:
                return os.rename(temporary, place)  # fails if the place is taken: a folder with files is never replaced
            except OSError as error:
                if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                    raise
            if not replace:
                return None  # another process wrote the same record: equally good, keep the first
            aside = self.records / f"{_REPLACED}{place.name}-{os.getpid()}-{time.monotonic_ns()}"
            with contextlib.suppress(FileNotFoundError):  # someone else has just moved it
                os.rename(place, aside)
            try:
                os.rename(temporary, place)
            except OSError as error:
                if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                    raise
                continue
            finally:
                shutil.rmtree(aside, ignore_errors=True) if place.exists() else None
            return None

    def _mend(self) -> None:
        """Put back records that were moved aside by a writer that died, and remove what such writers left."""
        for left in self.records.glob(".*"):
            if left.name.startswith(_REPLACED):
                place = self.records / left.name.removeprefix(_REPLACED).split("-")[0]
                with contextlib.suppress(OSError):
                    shutil.rmtree(left) if place.exists() else os.rename(left, place)
            elif left.name.startswith(TEMPORARY):
                with contextlib.suppress(FileNotFoundError):
                    if time.time() - left.stat().st_mtime > _ABANDONED_SECONDS:
                        shutil.rmtree(left, ignore_errors=True)

    def _read(self, folder: Path) -> Record | None:
        """The record in a folder; None if there is none, or with a warning if it is corrupt.

        A folder comes into its place whole, so what is wrong with it counts only if it stayed there meanwhile: one that
        is being replaced is looked at again.
        """
        while True:
            before = _identity(folder)
            try:
                return _record_in(folder)
            except StoreError:
                raise
            except (ValueError, TypeError, FileNotFoundError) as error:
                if before is not None and _identity(folder) == before:
                    missing = Path(error.filename).name if isinstance(error, FileNotFoundError) else None
                    what = f"lacks {missing}" if missing else f"is corrupt ({error})"
                    self.warn(f"the record {folder} {what}; skipped. Delete the folder to be rid of it.")
                    return None
            except OSError as error:
                raise StoreError(f"The store {self.folder} cannot be read: {error.strerror} ({folder}).") from error


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def _text(records: str, address: str) -> bytes | None:
    try:
        with open(f"{records}/{address}/record.json", "rb") as file:
            content = file.read()
        os.stat(f"{records}/{address}/{ARRAYS}")
    except (FileNotFoundError, NotADirectoryError):
        return None
    return content


def _identity(folder: Path) -> tuple[int, int] | None:
    """What tells a folder from another one that took its place; None if there is none."""
    try:
        status = folder.stat()
    except FileNotFoundError:
        return None
    return status.st_ino, status.st_mtime_ns


def _record_in(folder: Path) -> Record | None:
    if not folder.is_dir():
        return None
    content = (folder / "record.json").read_bytes()
    record, arrays = record_at(str(folder), content, folder.name, lambda name: _read_arrays(folder / name))
    (folder / arrays).stat()
    return record


def _read_arrays(path: Path) -> Arrays:
    try:
        return unpacked(path.read_bytes())
    except (OSError, ValueError) as error:
        raise StoreError(f"The arrays {path} cannot be read ({error}). Delete that folder and run again.") from error


def sha256(*contents: bytes) -> str:
    """SHA-256 over the lengths and contents of some bytes."""
    digest = hashlib.sha256()
    for content in contents:
        digest.update(len(content).to_bytes(8, "big") + content)
    return digest.hexdigest()
