"""Places and the stores in them: folders, memory and S3 hold whole files, and readers see whole records or none."""

import dataclasses
import multiprocessing
import os
import pickle
import secrets
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from gradbias.errors import StoreError, UsageError
from gradbias.run.bucket import BucketRecords
from gradbias.run.checkpoint import Checkpoint
from gradbias.run.places import Folder, Place, Remote, place_of
from gradbias.run.store import Store
from run.test_store import record


@pytest.fixture(params=["folder", "file", "memory", "s3"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    kinds = {
        "folder": str(tmp_path),
        "file": f"file://{tmp_path}/a%20b",
        "memory": f"memory://{secrets.token_hex(8)}/a",
    }
    return kinds.get(request.param) or request.getfixturevalue("s3")


@pytest.fixture
def place(url: str) -> Place:
    return place_of(url)


def test_what_is_written_is_read_listed_and_removed(place: Place) -> None:
    assert place.names() == place.names("a") == {}
    for name, content in {"a/b/c": b"1", "a/b2": b"", "ab": b"3" * 10_000}.items():
        place.write(name, content)
        assert place.read(name) == content
    assert set(place.names()) == {"a/b/c", "a/b2", "ab"}
    assert set(place.names("a")) == set(place.names("a/")) == {"a/b/c", "a/b2"}
    assert set(place.names("a/b")) == {"a/b/c"}
    assert place.names("ab") == place.names("c") == {}
    place.remove("a/b")
    place.remove("nothing/here")
    assert set(place.names()) == {"a/b2", "ab"}
    place.remove("a")
    place.remove("ab")
    assert place.names() == {}


@pytest.mark.parametrize("name", ["missing", "a", "a/b/c"])
def test_a_file_that_is_not_there_is_not_found(place: Place, name: str) -> None:
    place.write("a/b", b"")
    with pytest.raises(FileNotFoundError):
        place.read(name)


def test_a_stamp_changes_when_the_content_does_and_only_then(place: Place) -> None:
    place.write("a", b"first")
    place.write("b", b"other")
    before = place.names()
    assert place.names() == before
    place.write("a", b"later")  # as long as before, and as soon as possible
    after = place.names()
    assert after["a"] != before["a"]
    assert after["b"] == before["b"]


def test_files_of_one_length_written_within_one_tick_of_the_clock_have_stamps_of_their_own(tmp_path: Path) -> None:
    place, stamps = place_of(tmp_path), set()
    for content in (b"first", b"later"):
        place.write("a", content)
        os.utime(tmp_path / "a", ns=(1, 1))
        stamps.add(place.names()["a"])
    assert len(stamps) == 2


def test_what_a_writer_has_not_finished_is_not_listed(tmp_path: Path) -> None:
    place = place_of(tmp_path)
    place.write("a/b", b"")
    (tmp_path / "a" / ".writing-1-2").write_bytes(b"half")
    assert set(place.names()) == {"a/b"}


def test_a_place_travels_to_other_processes(place: Place) -> None:
    place.write("a", b"1")
    there = pickle.loads(pickle.dumps(place))
    assert str(there) == str(place)
    assert there.read("a") == b"1"


def test_a_url_of_a_file_is_the_folder_and_a_path_that_was_a_url_is_refused(tmp_path: Path) -> None:
    assert isinstance(place_of(f"file://{tmp_path}/a%20b"), Folder)
    assert place_of(f"file://{tmp_path}/a%20b").path == tmp_path / "a b"  # type: ignore[attr-defined]
    assert str(place_of("s3://bucket/prefix/")) == "s3://bucket/prefix"
    with pytest.raises(UsageError, match="'s3://bucket/a'"):
        Store(Path("s3://bucket/a"))
    with pytest.raises(UsageError, match="no bucket"):
        Store("s3://")


@pytest.mark.parametrize(
    ("url", "words"), [("nothing://bucket/a", "Protocol not known"), ("gs://bucket/a", "pip install gcsfs")]
)
def test_a_protocol_that_cannot_be_spoken_is_one_paragraph(
    url: str, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "gcsfs", None)
    with pytest.raises(UsageError, match=words) as raised:
        Store(url).require_writable()
    assert "\n" not in str(raised.value)


def test_a_bucket_that_is_missing_is_named_whatever_is_asked_of_it(s3: str) -> None:
    store = Store("s3://there-is-none/prefix")
    for use in (store.require_writable, store.addresses, lambda: list(store.scan()), lambda: store.put(record())):
        with pytest.raises(StoreError, match=r"s3://there-is-none/prefix cannot be used: .*not exist.*--store"):
            use()


def test_an_end_point_that_does_not_answer_is_named(s3: str, monkeypatch: pytest.MonkeyPatch) -> None:
    import s3fs

    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    monkeypatch.setattr(s3fs.core.S3FileSystem, "retries", 1)
    monkeypatch.setattr(s3fs.core.S3FileSystem, "cachable", False)
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    with pytest.raises(StoreError, match=r"Could not connect.*--store"):
        Store(s3).require_writable()


def test_a_folder_that_is_a_file_is_one_paragraph(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    place = place_of(tmp_path / "file")
    for use in (lambda: place.read("a"), lambda: place.write("a", b""), place.names):
        with pytest.raises(StoreError, match=r"(Not a directory|File exists).*--store"):
            use()


def test_a_writer_that_fails_leaves_the_old_content_and_no_litter(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = place_of(tmp_path)
    place.write("a", b"old")

    def fails(*_: object) -> None:
        raise OSError("cannot")

    monkeypatch.setattr(os, "replace", fails)
    with pytest.raises(StoreError):
        place.write("a", b"new")
    assert place.read("a") == b"old"
    assert os.listdir(tmp_path) == ["a"]


def test_a_store_is_the_same_wherever_it_is(url: str) -> None:
    store = Store(url)
    store.require_writable()
    assert list(store.scan()) == []
    put = store.put(record())
    assert put == record() == store.get(put.address)
    np.testing.assert_array_equal(put.arrays["measured/value"], [1.0, np.nan])
    assert store.put(record(gap=9.0)).gap == 0.25
    before = store.stamps()
    assert store.put(record(gap=9.0), replace=True).gap == 9.0
    assert store.addresses() == set(before) == {put.address}
    assert store.stamps() != before
    assert [r.gap for r in store.scan()] == [9.0]
    with pytest.raises(ValueError, match="outcome"):
        store.put(record("other", outcome="splendid"))
    assert store.get("0" * 64) is None
    assert store.addresses() == {put.address}


def test_checkpoints_go_where_the_store_is(url: str) -> None:
    store = Store(url)
    kept = Checkpoint(store, "a")
    assert kept.get(0) is None
    kept.put(0, [np.arange(3), np.ones(())])
    found = Checkpoint(store, "a").get(0)
    assert found is not None
    np.testing.assert_array_equal(found[0], np.arange(3))
    kept.remove()
    assert kept.get(0) is None
    assert store.place.names("unfinished") == {}


def test_the_arrays_are_written_before_the_text_that_names_them(s3: str, monkeypatch: pytest.MonkeyPatch) -> None:
    store, write, written = Store(s3), Remote.write, []

    def noted(self: Remote, name: str, content: bytes) -> None:
        written.append(name.rpartition("/")[2])
        assert store.get(record().address) is None
        write(self, name, content)

    monkeypatch.setattr(Remote, "write", noted)
    store.put(record())
    assert written[0].startswith("arrays-")
    assert written[1:] == ["record.json"]


def test_arrays_that_are_not_those_of_their_name_are_refused(s3: str) -> None:
    store = Store(s3)
    put = store.put(record())
    (name,) = [name for name in store.place.names() if "arrays-" in name]
    store.place.write(name, store.place.read(name)[:-1])
    with pytest.raises(StoreError, match="not those of its name"):
        _ = put.arrays
    store.place.remove(name)
    with pytest.raises(StoreError, match="cannot be read"):
        _ = dataclasses.replace(store.get(put.address)).arrays  # type: ignore[type-var]


def test_a_reader_of_a_record_that_is_replaced_still_gets_its_arrays(s3: str) -> None:
    store = Store(s3)
    first = store.put(record())
    store.put(record(arrays={"measured/value": np.zeros(2), "error/value": np.zeros(2)}), replace=True)
    np.testing.assert_array_equal(first.arrays["measured/value"], [1.0, np.nan])


def test_a_corrupt_record_in_a_bucket_is_named_and_replaced_by_the_next_run(s3: str) -> None:
    said: list[str] = []
    store = Store(s3, warn=said.append)
    put = store.put(record())
    store.place.write(f"records/{put.address}/record.json", b"{")
    assert list(store.scan()) == []
    assert store.get(put.address) is None
    assert len(said) == 1
    assert put.address in said[0]
    assert store.put(record()) == record()


def test_a_copy_of_a_bucket_is_a_folder_and_the_other_way_round(s3: str, tmp_path: Path) -> None:
    bucket, folder, back = Store(s3), Store(tmp_path), Store(s3 + "-copy")
    put = bucket.put(record())
    for source, target in ((bucket, folder), (folder, back)):
        for name in source.place.names():
            target.place.write(name, source.place.read(name))
        (found,) = target.scan()
        assert found == put
        np.testing.assert_array_equal(found.arrays["measured/value"], [1.0, np.nan])
    local = Store(tmp_path / "local")
    local.put(record())
    for name in local.place.names():
        Store(s3 + "-other").place.write(name, local.place.read(name))
    (found,) = Store(s3 + "-other").scan()
    np.testing.assert_array_equal(found.arrays["measured/value"], [1.0, np.nan])


def _write_many(url: str, own: str, count: int) -> None:
    store = Store(url)
    for number in range(count):
        array = np.full(2, float(number))
        for name in ("shared", f"{own} {number}"):
            store.put(record(name, gap=float(number), arrays={"error/value": array}), replace=True)


def test_many_writers_and_a_reader_never_meet_half_a_record(s3: str) -> None:
    store = Store(s3, warn=pytest.fail)
    context = multiprocessing.get_context("spawn")
    writers = [context.Process(target=_write_many, args=(s3, own, 8)) for own in "ab"]
    for writer in writers:
        writer.start()
    while any(writer.is_alive() for writer in writers):
        for found in store.scan():
            assert found.arrays["error/value"][0] == found.gap
    for writer in writers:
        writer.join()
        assert writer.exitcode == 0
    assert len(list(store.scan())) == 17


KILLED_WRITER = """
import os, signal, sys
sys.path.insert(0, {tests!r})
from run.test_store import record
from gradbias.run.places import Remote
from gradbias.run.store import Store
write = Remote.write
def killed(self, name, content):
    if name.endswith("record.json"):
        os.kill(os.getpid(), signal.SIGKILL)
    write(self, name, content)
Remote.write = killed
Store({url!r}).put(record("new"))
"""


def test_a_writer_killed_between_its_two_objects_leaves_no_record(s3: str) -> None:
    store = Store(s3, warn=pytest.fail)
    first = store.put(record("first"))
    code = KILLED_WRITER.format(tests=str(Path(__file__).parents[1]), url=s3)
    killed = subprocess.run([sys.executable, "-c", code], check=False)
    assert killed.returncode == -signal.SIGKILL
    new = record("new")
    assert any(new.address in name for name in store.place.names())
    assert store.addresses() == {first.address}
    assert store.get(new.address) is None
    assert list(store.scan()) == [first]
    assert store.put(new) == new


def test_records_in_a_bucket_are_read_many_at_once(s3: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from threading import Barrier

    together = Barrier(4, timeout=20)
    text = BucketRecords.text

    def waits(self: BucketRecords, address: str) -> bytes | None:
        together.wait()
        return text(self, address)

    store = Store(s3)
    addresses = [store.put(record(str(i))).address for i in range(4)]
    monkeypatch.setattr(BucketRecords, "text", waits)
    found: Iterator[tuple[str, bytes | None]] = store.texts(addresses)
    assert [address for address, content in found if content] == addresses
