"""Records in a bucket, where there are no folders to rename: what makes a record exist is written last.

    <store>/records/<address>/arrays-<SHA-256 of its bytes>.npz
    <store>/records/<address>/record.json     names its arrays

Each is one request that replaces one object. A writer killed between the two leaves no record; of two writers of one
address the last one's text stays, beside the arrays it names. Arrays that no text names any more are left: a reader may
be about to ask for them, and a run that is repeated mostly writes the same bytes under the same name.
"""

import hashlib
import secrets
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from ..errors import StoreError
from .places import Place
from .record import Arrays, Record, from_json, packed, record_at, unpacked

_TEXT = "record.json"
# A read waits for the network most of its time.
_READERS = 32
T = TypeVar("T")


class BucketRecords:
    """The records of a store that is no folder; `warn` is told of corrupt ones."""

    def __init__(self, place: Place, warn: Callable[[str], None]) -> None:
        self.place, self._warn = place, warn

    def require_writable(self) -> None:
        """Prove that an object can be written. Raises `StoreError` otherwise."""
        probe = f"writable-{secrets.token_hex(8)}"  # not that of another process, which may not remove it yet
        self.place.write(probe, b"gradbias")
        self.place.remove(probe)

    def stamps(self) -> dict[str, str]:
        """Every address with the stamp of its text, from one listing."""
        found = ((name.split("/"), stamp) for name, stamp in self.place.names("records").items())
        return {parts[1]: stamp for parts, stamp in found if len(parts) == 3 and parts[2] == _TEXT}

    def get(self, address: str) -> Record | None:
        """The record at an address; None if there is none, or with a warning if it is corrupt."""
        folder = f"records/{address}"
        if (content := self.text(address)) is None:
            return None
        try:
            return record_at(f"{self.place}/{folder}", content, address, lambda name: self._arrays(folder, name))[0]
        except (ValueError, TypeError) as error:
            self._warn(
                f"the record {self.place}/{folder} is corrupt ({error}); skipped. Delete the folder to be rid of it."
            )
            return None

    def mapped(self, function: Callable[[str], T], addresses: Iterable[str]) -> Iterator[T]:
        """A function of many addresses, in their order, with many requests under way."""
        with ThreadPoolExecutor(_READERS) as readers:
            yield from readers.map(function, addresses)

    def text(self, address: str) -> bytes | None:
        """The `record.json` of an address."""
        try:
            return self.place.read(f"records/{address}/{_TEXT}")
        except FileNotFoundError:
            return None

    def put(self, record: Record, *, replace: bool) -> Record:
        """Write a record unless there is one (or `replace`); returns the one that is now in the bucket."""
        if not replace and (there := self.get(record.address)) is not None:
            return there
        folder, content = f"records/{record.address}", packed(record.arrays)
        arrays = f"arrays-{hashlib.sha256(content).hexdigest()}.npz"
        text = record.to_json(indent=2, arrays=arrays) + "\n"
        from_json(text, dict)  # what breaks the schema is not written
        self.place.write(f"{folder}/{arrays}", content)
        self.place.write(f"{folder}/{_TEXT}", text.encode())
        return self.get(record.address) or record

    def _arrays(self, folder: str, name: str) -> Arrays:
        try:
            content = self.place.read(f"{folder}/{name}")
            if name.startswith("arrays-") and name != f"arrays-{hashlib.sha256(content).hexdigest()}.npz":
                raise ValueError("its bytes are not those of its name")
            return unpacked(content)
        except (FileNotFoundError, ValueError) as error:
            raise StoreError(
                f"The arrays {self.place}/{folder}/{name} cannot be read ({error}). Run again with --fresh."
            ) from error
