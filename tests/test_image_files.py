"""Readers of image files, on small files in the true formats: what is wrong with a file is said, nothing is guessed."""

import gzip
import hashlib
from pathlib import Path

import jax
import numpy as np
import pytest

import gradbias as gb
from gradbias import image_files
from gradbias.cli import main
from gradbias.errors import UsageError
from gradbias.image_files import CIFAR, IDX, data_folder, files, fingerprint, read_cifar_batch, read_idx
from gradbias.run.job import Job

NOT_ORIGINAL = "not the original"


def idx(array: np.ndarray) -> bytes:
    header = bytes([0, 0, 8, array.ndim]) + b"".join(size.to_bytes(4, "big") for size in array.shape)
    return header + array.astype(np.uint8).tobytes()


def write_idx(folder: Path, *, train: int = 20, test: int = 10, packed: bool = False) -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    arrays = [a for n in (train, test) for a in (rng.integers(0, 256, (n, 28, 28)), rng.integers(0, 10, n))]
    folder.mkdir(parents=True, exist_ok=True)
    for name, array in zip(IDX, arrays, strict=True):
        path = folder / (f"{name}.gz" if packed else name)
        path.write_bytes(gzip.compress(idx(array)) if packed else idx(array))
    return arrays


def write_cifar(folder: Path, images: int = 4) -> list[np.ndarray]:
    rng = np.random.default_rng(1)
    folder.mkdir(parents=True, exist_ok=True)
    batches = [rng.integers(0, 256, (images, 3073)).astype(np.uint8) for _ in CIFAR]
    for name, batch in zip(CIFAR, batches, strict=True):
        batch[:, 0] %= 10
        (folder / name).write_bytes(batch.tobytes())
    return batches


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("below", ["", "MNIST/raw"])
def test_mnist_comes_back_as_it_was_written(tmp_path: Path, below: str, packed: bool) -> None:
    x, y, x_test, y_test = write_idx(tmp_path / below, packed=packed)
    with pytest.warns(UserWarning, match=NOT_ORIGINAL):
        train, test = gb.data.mnist(tmp_path)
    np.testing.assert_array_equal(train.x, x.reshape(20, 784))
    np.testing.assert_array_equal(train.y, y)
    np.testing.assert_array_equal(test.x, x_test.reshape(10, 784))
    np.testing.assert_array_equal(test.y, y_test)


def test_originals_are_recognized_and_those_of_another_set_refused(tmp_path: Path, monkeypatch) -> None:
    arrays = write_idx(tmp_path)
    sums = tuple(hashlib.md5(idx(array)).hexdigest() for array in arrays)
    monkeypatch.setitem(image_files.MD5, "fashion_mnist", sums)
    train, _ = gb.data.fashion_mnist(tmp_path)  # and no warning, which would be an error here
    assert train.x.shape == (20, 784)
    with pytest.raises(UsageError, match="is train-images-idx3-ubyte of Fashion-MNIST, not"):
        gb.data.mnist(tmp_path)


def test_a_file_in_the_place_of_another_is_refused(tmp_path: Path, monkeypatch) -> None:
    arrays = write_idx(tmp_path)
    monkeypatch.setitem(image_files.MD5, "mnist", tuple(hashlib.md5(idx(a)).hexdigest() for a in arrays))
    (tmp_path / IDX[0]).write_bytes((tmp_path / IDX[2]).read_bytes())
    with pytest.raises(UsageError, match="is t10k-images-idx3-ubyte of MNIST, not train-images"):
        gb.data.mnist(tmp_path)


def test_cifar10_is_five_batches_and_a_test_batch(tmp_path: Path) -> None:
    batches = write_cifar(tmp_path / "cifar-10-batches-bin")
    with pytest.warns(UserWarning, match="4 images instead of 10,000"):
        train, test = gb.data.cifar10(tmp_path)
    every = np.concatenate(batches[:5])
    np.testing.assert_array_equal(train.x, every[:, 1:])
    np.testing.assert_array_equal(train.y, every[:, 0])
    np.testing.assert_array_equal(test.x, batches[5][:, 1:])
    assert test.y.dtype == np.int64


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "is no IDX file"),
        (b"\x1f\x8b\x08\x00rest", "must end in .gz"),
        (b"\0\0\x0d\x01" + b"\0\0\0\1" + b"\0" * 4, "is no IDX file of bytes"),
        (b"\0\0\x08\x03" + b"\0\0\0\2", "inside of its header"),
        (idx(np.zeros((2, 28, 28)))[:-1], "cut short: shape"),
        (idx(np.zeros(7)) + b"\0", "too long"),
        (b"\0\0\x08\x01" + b"\xff\xff\xff\xff", "takes 4,294,967,303 bytes; got 8"),
        (idx(np.zeros(0)), "is empty"),
    ],
)
def test_what_is_no_idx_file_is_refused(tmp_path: Path, content: bytes, said: str) -> None:
    (tmp_path / "file").write_bytes(content)
    with pytest.raises(UsageError, match=said):
        read_idx(tmp_path / "file")


@pytest.mark.parametrize("damage", [lambda b: b[:-6], lambda b: b[:40] + b"\xff\xff" + b[42:], lambda _: b"plain"])
def test_a_damaged_gzip_file_is_refused(tmp_path: Path, damage) -> None:
    (tmp_path / "file.gz").write_bytes(damage(gzip.compress(idx(np.arange(200)))))
    with pytest.raises(UsageError, match=r"file\.gz is corrupt or cut short"):
        read_idx(tmp_path / "file.gz")


def test_labels_out_of_range_and_other_numbers_of_labels_are_refused(tmp_path: Path) -> None:
    write_idx(tmp_path)
    (tmp_path / IDX[1]).write_bytes(idx(np.full(20, 10)))
    with pytest.raises(UsageError, match="out of range: 20 of 20"):  # and no warning beside it
        gb.data.mnist(tmp_path)
    (tmp_path / IDX[1]).write_bytes(idx(np.zeros(19)))
    with pytest.raises(UsageError, match="as many images as labels"):
        gb.data.mnist(tmp_path)


def test_a_cifar_batch_that_is_cut_short_or_has_other_labels_is_refused(tmp_path: Path) -> None:
    write_cifar(tmp_path)
    path = tmp_path / CIFAR[0]
    content = path.read_bytes()
    path.write_bytes(content[:-1])
    with pytest.raises(UsageError, match="3,072 are left over"):
        read_cifar_batch(path)
    path.write_bytes(b"\x0a" + content[1:])
    with pytest.raises(UsageError, match=r"the first at index 0 \(10\)"):
        read_cifar_batch(path)


def test_missing_files_and_folders_are_named(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.delenv("GRADBIAS_DATA", raising=False)
    with pytest.raises(UsageError, match="--data-dir or GRADBIAS_DATA"):
        files("cifar10")
    with pytest.raises(UsageError, match="does not exist"):
        files("mnist", tmp_path / "nowhere")
    write_idx(tmp_path)
    (tmp_path / IDX[3]).unlink()
    with pytest.raises(UsageError, match=r"MNIST is not complete in .*: no t10k-labels-idx1-ubyte there"):
        files("mnist", tmp_path)
    (tmp_path / "cifar-10-batches-py").mkdir()
    (tmp_path / "cifar-10-batches-py" / "data_batch_1").touch()
    with pytest.raises(UsageError, match="has the Python version; the binary version is needed"):
        files("cifar10", tmp_path)


def test_the_address_of_a_job_follows_the_contents_of_its_files(tmp_path: Path) -> None:
    job = Job(gb.find("random-labels-memorisation").path, changes={"source": "cifar10"})
    other = Job(job.path)
    write_cifar(tmp_path / "a")
    write_cifar(tmp_path / "b")
    with data_folder(tmp_path / "a"):
        first, without = job.address, other.address
        assert job.data_files == {"cifar10": fingerprint("cifar10")}
    with data_folder(tmp_path / "b"):
        assert job.address == first  # the same files elsewhere
        path = tmp_path / "b" / CIFAR[2]
        path.write_bytes(path.read_bytes()[:-1] + b"?")
        assert job.address != first
        assert other.address == without  # digits are no user's files
    with data_folder(tmp_path), pytest.raises(UsageError, match="is not complete"):
        _ = job.address


def test_an_image_split_takes_distinct_images_of_each_part(tmp_path: Path) -> None:
    arrays = write_idx(tmp_path)
    with data_folder(tmp_path), pytest.warns(UserWarning, match=NOT_ORIGINAL):
        train, test = gb.data.image_split("mnist", 20, 10, key=jax.random.key(0))
    assert sorted(map(tuple, train.x * 255)) == sorted(map(tuple, arrays[0].reshape(20, -1).astype(float)))
    assert sorted(test.y) == sorted(arrays[3])
    train, test = gb.data.image_split("digits", 1000, 797, key=jax.random.key(0))
    assert len(np.unique(np.concatenate([train.x, test.x]), axis=0)) == len(np.unique(gb.data.digits()[0], axis=0))
    with pytest.raises(ValueError, match="at most 1797 together"):
        gb.data.image_split("digits", 1000, 798, key=jax.random.key(0))


def test_the_command_line_says_what_is_missing_before_anything_runs(tmp_path: Path, capsys) -> None:
    place = tmp_path / "store"
    asked = ["run", "random-labels-memorisation", "--set", "source=fashion_mnist", "--store", str(place)]
    for folder, said in ((tmp_path, "Fashion-MNIST is not complete"), (tmp_path / "none", "does not exist")):
        with pytest.raises(SystemExit) as ended:
            main([*asked, "--data-dir", str(folder)])
        assert ended.value.code == 2
        assert said in capsys.readouterr().err
    assert not place.exists()


def test_a_run_on_a_damaged_label_file_ends_in_one_sentence_and_keeps_nothing(tmp_path: Path, capfd) -> None:
    write_idx(tmp_path)
    (tmp_path / IDX[1]).write_bytes(idx(np.full(20, 77)))
    asked = ["run", "double-descent-random-features-digits", "--set", "source=mnist", "--data-dir", str(tmp_path)]
    with pytest.raises(SystemExit) as ended:
        main([*asked, "--store", str(tmp_path / "store")])
    assert ended.value.code == 2
    told = [line for line in capfd.readouterr().err.splitlines() if line.startswith("error")]
    assert told == [
        f"error: {tmp_path / IDX[1]} has labels out of range: 20 of 20 are above 9, the first at index 0 (77). The "
        "file is corrupt, or not of a set with ten classes."
    ]
    assert not list((tmp_path / "store" / "records").iterdir())
