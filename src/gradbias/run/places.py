"""Where a store lives: a folder, or a bucket that fsspec reaches by URL. Four operations on named files.

Names are relative and have slashes. No operation takes a lock, and none lets a reader see half a file.
"""

import contextlib
import errno
import os
import secrets
import shutil
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any, final
from urllib.parse import unquote, urlsplit

from ..errors import StoreError, UsageError

TEMPORARY = ".writing-"
# In what a listing says of an object, all that may change with its content, under the names that file systems use.
_STAMPS = ("ETag", "etag", "generation", "md5Hash", "LastModified", "last_modified", "mtime", "created", "size")


class Place(ABC):
    """Named files that are there whole or not at all; can be sent to other processes."""

    @abstractmethod
    def read(self, name: str) -> bytes:
        """The content of a file. Raises `FileNotFoundError` if there is none, `StoreError` if it cannot be read."""

    @abstractmethod
    def write(self, name: str, content: bytes) -> None:
        """Write a file, whole or not at all, in place of one of that name. Raises `StoreError`."""

    @abstractmethod
    def names(self, prefix: str = "") -> dict[str, str]:
        """Every file below a folder, from one listing, with a stamp that changes when its content does.

        A folder that does not exist is empty. Raises `StoreError` if nothing can be listed.
        """

    @abstractmethod
    def remove(self, prefix: str) -> None:
        """Remove a file, or a folder and all below it; nothing happens if there is none. Raises `StoreError`."""

    @abstractmethod
    def __str__(self) -> str:
        """The path or URL."""


def place_of(where: Place | Path | str) -> Place:
    """The place that a path or URL names; `file://` is a folder. Raises `UsageError` for what is neither."""
    if isinstance(where, Place):
        return where
    text = str(where)
    if isinstance(where, Path) or "://" not in text:
        protocol, slash, rest = text.partition(":/")
        if slash and isinstance(where, Path) and len(protocol) > 1 and "/" not in protocol:
            raise UsageError(f"The store {text} is a URL that became a path; give it as text: '{protocol}://{rest}'.")
        return Folder(Path(text))
    if urlsplit(text).scheme in ("file", "local"):
        return Folder(Path(unquote(text.partition("://")[2])))
    protocol, _, path = text.partition("://")
    if not path.strip("/") and protocol != "memory":
        raise UsageError(f"The store {text} names no bucket; give for example {protocol}://bucket/prefix.")
    return Remote(f"{protocol}://{path.rstrip('/')}")


@final
class Folder(Place):
    """A folder of this machine, or of a network that looks like one."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __str__(self) -> str:
        return str(self.path)

    def read(self, name: str) -> bytes:
        with explained(self, missing=True):
            try:
                return (self.path / name).read_bytes()
            except (IsADirectoryError, NotADirectoryError):
                if self.path.exists() and not self.path.is_dir():
                    raise
                raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(self.path / name)) from None

    def write(self, name: str, content: bytes) -> None:
        path = self.path / name
        temporary = path.with_name(f"{TEMPORARY}{os.getpid()}-{secrets.token_hex(4)}")
        with explained(self):
            for tries_left in range(100, -1, -1):
                path.parent.mkdir(parents=True, exist_ok=True)
                try:
                    write_flushed(temporary, content)
                    os.replace(temporary, path)
                    return flush_folder(path.parent)
                except FileNotFoundError:  # whoever removed the last file of the folder took the folder as well
                    if not tries_left:
                        raise
                except BaseException:
                    temporary.unlink(missing_ok=True)
                    raise

    def names(self, prefix: str = "") -> dict[str, str]:
        with explained(self):
            if self.path.exists() and not self.path.is_dir():
                raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(self.path))
            return dict(_files(str(self.path / prefix), f"{prefix.strip('/')}/".lstrip("/")))

    def remove(self, prefix: str) -> None:
        path = self.path / prefix
        with explained(self):
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path, ignore_errors=True)
            else:
                with contextlib.suppress(FileNotFoundError, NotADirectoryError):
                    path.unlink()
            for parent in path.parents:  # a bucket has no empty folders either
                if parent == self.path or self.path not in parent.parents:
                    break
                try:
                    parent.rmdir()
                except OSError:
                    break


def _files(folder: str, prefix: str) -> Iterator[tuple[str, str]]:
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                if entry.name.startswith("."):
                    continue
                if entry.is_dir():
                    yield from _files(entry.path, f"{prefix}{entry.name}/")
                else:
                    with contextlib.suppress(FileNotFoundError):  # removed since the folder was read
                        yield prefix + entry.name, stamp_of(entry.stat())
    except (FileNotFoundError, NotADirectoryError):
        return


def stamp_of(status: os.stat_result) -> str:
    """The stamp of a local file; the inode tells files apart that were written within one tick of the clock."""
    return f"{status.st_mtime_ns}-{status.st_size}-{status.st_ino}"


@final
class Remote(Place):
    """A bucket, and a prefix in it. Credentials, end point and region come from the environment, as fsspec finds them.

    A write is one request that replaces one object, which object stores do whole or not at all.
    """

    def __init__(self, url: str) -> None:
        self.url = url

    def __str__(self) -> str:
        return self.url

    def __reduce__(self) -> tuple[type["Remote"], tuple[str]]:
        return Remote, (self.url,)  # connections do not travel

    @cached_property
    def _system(self) -> tuple[Any, str]:
        import fsspec

        try:
            # What others have written counts, not what we saw last.
            return fsspec.core.url_to_fs(self.url, use_listings_cache=False)  # type: ignore[no-any-return]
        except ImportError as error:
            package = {"s3": "s3fs", "s3a": "s3fs", "gs": "gcsfs", "gcs": "gcsfs"}.get(urlsplit(self.url).scheme, "")
            remedy = f"`pip install {package}`" if package else "Install the package that fsspec names"
            raise UsageError(
                f"The store {self.url} needs a package that is not installed: {error}. {remedy}."
            ) from error
        except ValueError as error:
            raise UsageError(
                f"The store {self.url} cannot be reached: {error}. Give a folder, or a URL such as s3://bucket/prefix "
                "or gs://bucket/prefix."
            ) from error

    def _path(self, name: str) -> str:
        return f"{self._system[1].rstrip('/')}/{name.strip('/')}".rstrip("/")

    def read(self, name: str) -> bytes:
        with explained(self, missing=True):
            return bytes(self._system[0].cat_file(self._path(name)))

    def write(self, name: str, content: bytes) -> None:
        with explained(self):
            self._system[0].pipe_file(self._path(name), content)

    def names(self, prefix: str = "") -> dict[str, str]:
        with explained(self):
            folder, start = self._path(prefix) + "/", len(self._path("")) + 1
            found: Mapping[str, Mapping[str, Any]] = self._system[0].find(folder[:-1], detail=True)
            return {path[start:]: _stamp(about) for path, about in found.items() if path.startswith(folder)}

    def remove(self, prefix: str) -> None:
        with explained(self):
            system, path = self._system[0], self._path(prefix)
            if paths := [one for one in system.find(path) if one == path or one.startswith(path + "/")]:
                with contextlib.suppress(FileNotFoundError):  # somebody else removes the same
                    system.rm(paths)


def _stamp(about: Mapping[str, Any]) -> str:
    return " ".join(str(about[name]) for name in _STAMPS if about.get(name) is not None)


@contextlib.contextmanager
def explained(place: Place, *, missing: bool = False) -> Iterator[None]:
    """Say of an operation that fails what failed and what to try; `missing`: a file that is not there is no failure."""
    try:
        yield
    except (StoreError, UsageError):
        raise
    except FileNotFoundError as error:
        if missing:
            raise
        raise StoreError(_said(place, error)) from error
    except OSError as error:
        raise StoreError(_said(place, error)) from error
    except Exception as error:
        if isinstance(place, Folder):
            raise
        raise StoreError(_said(place, error)) from error  # every protocol has errors of its own


def _said(place: Place, error: Exception) -> str:
    if isinstance(place, Folder):
        number = error.errno if isinstance(error, OSError) else None
        full = number in (errno.ENOSPC, errno.EDQUOT)
        what = "is full" if full else f"cannot be used: {getattr(error, 'strerror', None) or error}"
        remedy = "Make room" if full else "Make it a writable folder"
    else:
        told = " ".join(str(error).split()).rstrip(".") or "no more is known"
        what = f"cannot be used: {told} ({type(error).__name__})"
        remedy = "Check that the bucket exists, that it can be reached and that the environment has its credentials"
    return (
        f"The store {place} {what}. {remedy}, or give another one with --store or GRADBIAS_STORE. What was stored "
        "before is untouched."
    )


def write_flushed(path: Path, content: bytes) -> None:
    """Write a file and wait until it is on the disk."""
    with path.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def flush_folder(folder: Path) -> None:
    """Wait until the names in a folder are on the disk."""
    if os.name != "posix":
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
