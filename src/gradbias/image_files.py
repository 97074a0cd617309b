"""MNIST, Fashion-MNIST and CIFAR-10 from files that the user has: the standard binary formats, nothing is downloaded.

The folder is given, or named by `GRADBIAS_DATA`. What is read is what the format says, or an error that says where it
departs: magic number, dimensions, byte counts, labels. Contents of MNIST and Fashion-MNIST, whose files have the same
names, are compared with the MD5 sums of the originals; the files inside of the CIFAR-10 archive have no published sums,
so that there the format alone is checked.
"""

import functools
import gzip
import hashlib
import os
import warnings
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal, NamedTuple, get_args

import numpy as np
from jaxtyping import Int, UInt8

from .errors import UsageError

ImageFiles = Literal["mnist", "fashion_mnist", "cifar10"]
VARIABLE = "GRADBIAS_DATA"
CLASSES = 10
CIFAR_RECORD = 1 + 3 * 32 * 32
CIFAR_IMAGES = 10_000

# MD5 of the uncompressed originals, in the order training images and labels, test images and labels.
IDX = ("train-images-idx3-ubyte", "train-labels-idx1-ubyte", "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte")
MD5: dict[str, tuple[str, ...]] = {
    "mnist": (
        "6bbc9ace898e44ae57da46a324031adb",
        "a25bea736e30d166cdddb491f175f624",
        "2646ac647ad5339dbf082846283269ea",
        "27ae3e4e09519cfbb04c329615203637",
    ),
    "fashion_mnist": (
        "f4a8712d7a061bf5bd6d2ca38dc4d50a",
        "9018921c3c673c538a1fc5bad174d6f9",
        "8181f5470baa50b63fa0f6fddb340f0a",
        "15d484375f8d13e6eb1aabb0c3f46965",
    ),
}
CIFAR = (*(f"data_batch_{i}.bin" for i in range(1, 6)), "test_batch.bin")
# Where the archives, and other libraries that unpack them, put the files; the folder itself comes last.
PLACES = {
    "mnist": ("mnist", "MNIST/raw", "MNIST", "."),
    "fashion_mnist": ("fashion_mnist", "fashion-mnist", "FashionMNIST/raw", "FashionMNIST", "."),
    "cifar10": ("cifar10", "cifar-10-batches-bin", "cifar10/cifar-10-batches-bin", "."),
}
TITLES = {"mnist": "MNIST", "fashion_mnist": "Fashion-MNIST", "cifar10": "CIFAR-10"}


class Images(NamedTuple):
    """Images as rows of bytes (0 to 255; colour images channel by channel), and their classes, 0 to 9."""

    x: UInt8[np.ndarray, "n pixels"]
    y: Int[np.ndarray, " n"]


def mnist(folder: Path | str | None = None) -> tuple[Images, Images]:
    """MNIST, 60,000 and 10,000 images of 28 × 28: the four IDX files, gzipped or plain, below `folder`.

    Without a folder `GRADBIAS_DATA` names it. Raises `UsageError` for files that are missing, cut short, corrupt, or
    those of Fashion-MNIST; warns of files that are none of the originals.
    """
    return read("mnist", folder)


def fashion_mnist(folder: Path | str | None = None) -> tuple[Images, Images]:
    """Fashion-MNIST, in the same format and with the same file names and errors as `mnist`."""
    return read("fashion_mnist", folder)


def cifar10(folder: Path | str | None = None) -> tuple[Images, Images]:
    """CIFAR-10, 50,000 and 10,000 colour images of 32 × 32: the six .bin files of its binary version, below `folder`.

    A row holds the red, then the green, then the blue pixels. Folder and errors as in `mnist`.
    """
    return read("cifar10", folder)


def read(source: ImageFiles, folder: Path | str | None = None) -> tuple[Images, Images]:
    """The training and the test part of a set, read once for each state of its files."""
    return _read(source, tuple((path, *_state(path)) for path in files(source, folder)))


def files(source: ImageFiles, folder: Path | str | None = None) -> list[Path]:
    """The paths of a set's files; raises `UsageError` naming those that are missing and what they should be called."""
    if source not in get_args(ImageFiles):
        raise UsageError(f"There is no file format for {source!r}; there are {', '.join(get_args(ImageFiles))}.")
    top = _folder(source, folder)
    names = CIFAR if source == "cifar10" else IDX
    tried = [{name: _find(top / place, name) for name in names} for place in PLACES[source]]
    found = max(tried, key=lambda paths: sum(path is not None for path in paths.values()))
    missing = [name for name, path in found.items() if path is None]
    if missing:
        python = next((p for p in (top, top / "cifar-10-batches-py") if (p / "data_batch_1").is_file()), None)
        hint = f" {python} has the Python version; the binary version is needed." if python else ""
        what = "each plain or as .gz" if source != "cifar10" else "from cifar-10-binary.tar.gz, unpacked"
        raise UsageError(
            f"{TITLES[source]} is not complete in {top}: no {', '.join(missing)} there or in "
            f"{', '.join(PLACES[source][:-1])} below it. It takes {', '.join(names)} ({what}).{hint}"
        )
    return [path for path in found.values() if path is not None]


def fingerprint(source: ImageFiles, folder: Path | str | None = None) -> str:
    """SHA-256 of the contents of a set's files, wherever they lie; what a record keeps to say what it was made of."""
    sums = [_sha256(path, *_state(path)) for path in files(source, folder)]
    return hashlib.sha256("".join(sums).encode()).hexdigest()


@contextmanager
def data_folder(folder: Path | str | None) -> Iterator[None]:
    """Name the folder for this process and those it starts, by `GRADBIAS_DATA`; None leaves it as it is.

    Raises `UsageError` for a folder that does not exist.
    """
    if folder is None:
        yield
        return
    before = os.environ.get(VARIABLE)
    os.environ[VARIABLE] = str(_existing(folder).resolve())
    try:
        yield
    finally:
        os.environ.pop(VARIABLE) if before is None else os.environ.update({VARIABLE: before})


def _folder(source: str, folder: Path | str | None) -> Path:
    given = folder if folder is not None else os.environ.get(VARIABLE)
    if not given:
        raise UsageError(
            f"{TITLES[source]} is read from files that you have: name their folder with --data-dir or {VARIABLE}. "
            "Nothing is downloaded."
        )
    return _existing(given)


def _existing(folder: Path | str) -> Path:
    top = Path(folder).expanduser()
    if not top.is_dir():
        raise UsageError(f"The data folder {top} {'is no folder' if top.exists() else 'does not exist'}.")
    return top


def _find(place: Path, name: str) -> Path | None:
    names = [name, f"{name}.gz"]
    if name in IDX:  # as some archives write it
        names += [other.replace("-idx", ".idx") for other in names]
    return next((path for other in names if (path := place / other).is_file()), None)


def _state(path: Path) -> tuple[int, int]:
    status = path.stat()
    return status.st_size, status.st_mtime_ns


@functools.lru_cache(maxsize=64)
def _sha256(path: Path, size: int, modified: int) -> str:
    del size, modified
    return hashlib.sha256(_bytes(path)).hexdigest()


def _bytes(path: Path) -> bytes:
    """The contents of a file, uncompressed."""
    try:
        content = path.read_bytes()
        return gzip.decompress(content) if path.suffix == ".gz" else content
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise UsageError(f"{path} is corrupt or cut short ({error}); get the file again.") from None
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror}.") from None


@functools.lru_cache(maxsize=3)
def _read(source: ImageFiles, found: tuple[tuple[Path, int, int], ...]) -> tuple[Images, Images]:
    paths = [path for path, _, _ in found]
    if source == "cifar10":
        batches = [read_cifar_batch(path) for path in paths]
        for path, batch in zip(paths, batches, strict=True):
            if len(batch.y) != CIFAR_IMAGES:
                _warn(source, path, f"it has {len(batch.y):,} images instead of {CIFAR_IMAGES:,}")
        parts = Images(*(np.concatenate(arrays) for arrays in zip(*batches[:-1], strict=True))), batches[-1]
    else:
        unknown = [_compare(source, path, number) for number, path in enumerate(paths)]
        parts = _paired(paths[0], paths[1]), _paired(paths[2], paths[3])
        for path, what in zip(paths, unknown, strict=True):  # only now: files that cannot be used need no warning
            if what:
                _warn(source, path, what)
    for part in parts:
        for array in part:
            array.setflags(write=False)  # they are shared by all who ask
    return parts


def _compare(source: str, path: Path, number: int) -> str:
    """What is not as in the original, or nothing; raises `UsageError` for a file of another set or place."""
    found = hashlib.md5(_bytes(path), usedforsecurity=False).hexdigest()
    for other, sums in MD5.items():
        if found in sums and (other, found) != (source, MD5[source][number]):
            raise UsageError(
                f"{path} is {IDX[sums.index(found)]} of {TITLES[other]}, not {IDX[number]} of {TITLES[source]}: the "
                "sets use the same names. Give each a folder of its own."
            )
    expected = MD5[source][number]
    return "" if found == expected else f"its MD5 is {found} instead of {expected}"


def _warn(source: str, path: Path, what: str) -> None:
    warnings.warn(
        f"{path} is in the right format but not the original of {TITLES[source]} ({what}). It is used as it is.",
        stacklevel=2,
    )


def _paired(images: Path, labels: Path) -> Images:
    x, y = read_idx(images), read_idx(labels)
    if x.ndim != 3 or y.ndim != 1 or len(x) != len(y):
        raise UsageError(
            f"{images} and {labels} must hold as many images as labels; got arrays of shape {x.shape} and {y.shape}."
        )
    if x.shape[1:] != (28, 28):
        raise UsageError(f"{images} must hold images of 28 × 28 pixels; got {x.shape[1]} × {x.shape[2]}.")
    return Images(x.reshape(len(x), -1), _classes(labels, y))


def _classes(path: Path, y: UInt8[np.ndarray, " n"]) -> Int[np.ndarray, " n"]:
    bad = np.flatnonzero(y >= CLASSES)
    if len(bad):
        raise UsageError(
            f"{path} has labels out of range: {len(bad)} of {len(y)} are above {CLASSES - 1}, the first at index "
            f"{bad[0]} ({y[bad[0]]}). The file is corrupt, or not of a set with ten classes."
        )
    return y.astype(np.int64)


def read_idx(path: Path) -> UInt8[np.ndarray, "..."]:
    """The array of bytes in an IDX file, gzipped if its name ends in .gz.

    Two zero bytes, the type (8: unsigned bytes), the number of dimensions, each dimension as a big-endian 32-bit
    number, the entries. Raises `UsageError` for anything else, and for too few or too many bytes.
    """
    content = _bytes(path)
    if len(content) < 4 or content[:3] != b"\0\0\x08" or not 1 <= content[3] <= 3:
        raise UsageError(
            f"{path} is no IDX file of bytes: it must begin with 00 00 08 and one to three dimensions; got "
            f"{content[:4].hex(' ') or 'nothing'}. If it is compressed, its name must end in .gz."
        )
    header = 4 + 4 * content[3]
    if len(content) < header:
        raise UsageError(f"{path} is cut short: it ends inside of its header, after {len(content)} bytes.")
    shape = tuple(int(size) for size in np.frombuffer(content, ">u4", count=content[3], offset=4))
    wanted = header + int(np.prod(shape, dtype=object))
    if len(content) != wanted or min(shape) == 0:
        what = "empty" if min(shape) == 0 else "cut short" if len(content) < wanted else "too long"
        raise UsageError(f"{path} is {what}: shape {shape} takes {wanted:,} bytes; got {len(content):,}.")
    return np.frombuffer(content, np.uint8, offset=header).reshape(shape)


def read_cifar_batch(path: Path) -> Images:
    """The images in one .bin file of the binary version of CIFAR-10: records of a label and 3 × 32 × 32 bytes.

    Raises `UsageError` for a file that ends within a record, is empty, or has labels above 9.
    """
    content = _bytes(path)
    if not content or len(content) % CIFAR_RECORD:
        raise UsageError(
            f"{path} is cut short or no CIFAR-10 batch: {len(content):,} bytes are not a positive number of records of "
            f"{CIFAR_RECORD:,} ({len(content) % CIFAR_RECORD:,} are left over). The originals have 30,730,000."
        )
    records = np.frombuffer(content, np.uint8).reshape(-1, CIFAR_RECORD)
    return Images(records[:, 1:], _classes(path, records[:, 0]))
