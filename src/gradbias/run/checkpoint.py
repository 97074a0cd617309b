"""What a long job has computed so far, so that one that is killed goes on instead of starting again.

    <store>/unfinished/<address>/<group>.npz    the results of a group of seeds, as `training.train` returns them

The address covers the code, the versions, the setting and the seed, so that nothing stale can be taken up.
"""

import contextlib
import shutil
import time
from collections.abc import Sequence

import numpy as np

from .places import Folder
from .record import packed, unpacked
from .store import Store

# Nobody comes back for these: the code has changed since, or the question.
_ABANDONED_SECONDS = 30 * 86400.0


class Checkpoint:
    """The groups of one job that are done."""

    def __init__(self, store: Store, address: str) -> None:
        self.place, self.prefix = store.place, f"unfinished/{address}"

    def get(self, group: int) -> list[np.ndarray] | None:
        """The leaves of a group's result; None if there is none, or none that can be read."""
        try:
            found = unpacked(self.place.read(f"{self.prefix}/{group}.npz"))
            return [found[f"leaf{i}"] for i in range(len(found))]
        except (OSError, ValueError, KeyError):
            return None

    def put(self, group: int, leaves: Sequence[np.ndarray]) -> None:
        """Keep a group's result; a process killed at any moment leaves the whole of it or nothing."""
        self.place.write(f"{self.prefix}/{group}.npz", packed({f"leaf{i}": leaf for i, leaf in enumerate(leaves)}))

    def remove(self) -> None:
        """Forget this job's groups: its record is in the store. Those of other jobs go after a month from a folder;
        a bucket has rules of its own for what is old.
        """
        self.place.remove(self.prefix)
        if isinstance(self.place, Folder):
            for other in (self.place.path / "unfinished").glob("*"):
                with contextlib.suppress(FileNotFoundError):  # another process ends its own just now
                    if time.time() - other.stat().st_mtime > _ABANDONED_SECONDS:
                        shutil.rmtree(other, ignore_errors=True)
