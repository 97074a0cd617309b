"""The store: whatever happens to a writer, readers see whole records or none."""

import dataclasses
import errno
import json
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from gradbias.errors import StoreError
from gradbias.run import store as store_module
from gradbias.run.record import SCHEMA_VERSION, Record, from_json, number, plain
from gradbias.run.store import Store, sha256


def record(name: str = "one", **changes: object) -> Record:
    arrays = changes.pop("arrays", {"measured/value": np.array([1.0, np.nan]), "error/value": np.zeros(2)})
    fields = {
        "address": sha256(name.encode()),
        "claim": "a-claim",
        "family": "family",
        "summary": "A claim.",
        "statement": r"$w \to \hat w$",
        "source": ("key", "Theorem 1"),
        "setting": "smoke",
        "changes": {},
        "parameters": {"n": 3, "p": "inf", "shape": [1, 2]},
        "seeds": 2,
        "base_seed": 0,
        "control": False,
        "outcome": "supported",
        "gap": 0.25,
        "error": 0.0,
        "tolerance": 1e-3,
        "part": "value",
        "seed": 1,
        "reason": "",
        "standing": "supported",
        "standing_reason": "",
        "certificates": {"kkt": 1e-12},
        "refused": {},
        "versions": {"python": "3"},
        "package_sha256": sha256(b""),
        "claim_sha256": sha256(b""),
        "device": "cpu",
        "dtype": "float64",
        "seconds": 1.0,
        "compile_seconds": 0.5,
        "compilations": 3,
        "created": "2026-01-01T00:00:00+00:00",
    }
    return Record(**fields | changes, load_arrays=lambda: arrays)  # type: ignore[arg-type]


def test_what_is_put_is_got_back(tmp_path: Path) -> None:
    store = Store(tmp_path)
    put = store.put(record())
    got = store.get(put.address)
    assert got == put == record()
    np.testing.assert_array_equal(got.arrays["measured/value"], [1.0, np.nan])
    assert list(store.scan()) == [got]


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_numbers_that_are_not_finite_survive_as_valid_json(tmp_path: Path, value: float) -> None:
    put = Store(tmp_path).put(record(gap=value, certificates={"kkt": value}))
    text = (tmp_path / "records" / put.address / "record.json").read_text()
    json.loads(text, parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))
    np.testing.assert_equal(put.gap, value)
    np.testing.assert_equal(put.certificates["kkt"], value)


def test_plain_values_are_what_json_can_hold() -> None:
    assert plain({"a": np.float64(1.5), "b": (1, np.int64(2)), 3: float("nan")}) == {"a": 1.5, "b": [1, 2], "3": "nan"}
    assert number("-inf") == -np.inf
    with pytest.raises(ValueError, match="cannot hold"):
        plain({"a": object()})


def test_a_record_is_immutable_unless_asked_for(tmp_path: Path) -> None:
    store = Store(tmp_path)
    store.put(record(gap=1.0))
    assert store.put(record(gap=2.0)).gap == 1.0
    assert store.put(record(gap=2.0), replace=True).gap == 2.0
    assert [r.gap for r in store.scan()] == [2.0]
    assert [p.name for p in store.records.iterdir()] == [record().address]


def test_the_arrays_are_an_open_format_without_pickles(tmp_path: Path) -> None:
    put = Store(tmp_path).put(record())
    with np.load(tmp_path / "records" / put.address / "arrays.npz", allow_pickle=False) as archive:
        assert sorted(archive.files) == ["error/value", "measured/value"]


@pytest.mark.parametrize(
    "damage",
    [
        lambda folder: (folder / "record.json").write_text("{"),
        lambda folder: (folder / "record.json").write_text("[]"),
        lambda folder: (folder / "record.json").write_bytes(b"\xff\xfe"),
        lambda folder: (folder / "record.json").write_text((folder / "record.json").read_text().replace("gap", "gip")),
        lambda folder: (folder / "record.json").unlink(),
        lambda folder: (folder / "arrays.npz").unlink(),
        lambda folder: folder.rename(folder.with_name("0" * 64)),
    ],
)
def test_a_corrupt_record_is_named_once_and_passed_over(tmp_path: Path, damage: object) -> None:
    said: list[str] = []
    store = Store(tmp_path, warn=said.append)
    good = store.put(record("good"))
    bad = store.put(record("bad"))
    damage(store.records / bad.address)  # type: ignore[operator]
    assert [r.address for r in store.scan()] == [good.address]
    assert [r.address for r in store.scan()] == [good.address]
    assert store.get(bad.address) is None
    assert len(said) == 1
    assert "records" in said[0]


def test_a_corrupt_record_is_replaced_by_the_next_run(tmp_path: Path) -> None:
    store = Store(tmp_path, warn=lambda _: None)
    put = store.put(record())
    (store.records / put.address / "record.json").write_text("{")
    assert store.get(put.address) is None
    assert store.put(record()) == record()
    assert len(list(store.scan())) == 1


def test_arrays_that_are_damaged_are_named(tmp_path: Path) -> None:
    put = Store(tmp_path).put(record())
    (tmp_path / "records" / put.address / "arrays.npz").write_bytes(b"PK")
    with pytest.raises(StoreError, match=r"arrays\.npz cannot be read"):
        _ = put.arrays


def test_a_record_of_a_newer_schema_is_refused_by_name(tmp_path: Path) -> None:
    store = Store(tmp_path)
    put = store.put(record())
    file = store.records / put.address / "record.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"schema_version": SCHEMA_VERSION + 1, "more": 1}))
    for read in (lambda: store.get(put.address), lambda: list(store.scan())):
        with pytest.raises(StoreError, match=r"newer gradbias \(schema 2; this one reads up to 1\)"):
            read()


def test_a_record_that_breaks_the_schema_is_not_written(tmp_path: Path) -> None:
    store = Store(tmp_path)
    with pytest.raises(ValueError, match="outcome"):
        store.put(record(outcome="splendid"))
    assert list(store.records.iterdir()) == []
    with pytest.raises(ValueError, match="seeds"):
        from_json(dataclasses.replace(record(), seeds=-1).to_json(), dict)


def test_a_store_that_cannot_be_written_says_so_before_anything_runs(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    store = Store(tmp_path / "file")
    for use in (store.require_writable, lambda: store.put(record()), lambda: list(store.scan())):
        with pytest.raises(StoreError, match=r"Not a directory.*--store"):
            use()


def test_a_full_disk_says_so_and_leaves_nothing_half_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = Store(tmp_path)
    first = store.put(record("first"))

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(store_module, "_write", full)
    with pytest.raises(StoreError, match=r"is full.*untouched"):
        store.put(record("second"))
    assert [p.name for p in store.records.iterdir()] == [first.address]


def test_an_empty_or_missing_store_is_empty(tmp_path: Path) -> None:
    assert list(Store(tmp_path / "missing").scan()) == []
    assert Store(tmp_path / "missing").get("0" * 64) is None
    assert not (tmp_path / "missing").exists()


def _write_many(folder: str, name: str, count: int) -> None:
    store = Store(folder)
    for number_ in range(count):
        store.put(record(name, gap=float(number_)), replace=True)


def test_writers_of_the_same_record_do_not_harm_each_other(tmp_path: Path) -> None:
    store = Store(tmp_path, warn=pytest.fail)
    store.put(record("shared"))
    context = multiprocessing.get_context("spawn")
    writers = [context.Process(target=_write_many, args=(str(tmp_path), "shared", 25)) for _ in range(2)]
    for writer in writers:
        writer.start()
    while any(writer.is_alive() for writer in writers):
        found = list(store.scan())
        assert len(found) <= 1
        assert all(r.outcome == "supported" for r in found)
    for writer in writers:
        writer.join()
        assert writer.exitcode == 0
    assert len(list(store.scan())) == 1
    assert [p.name for p in store.records.iterdir()] == [record("shared").address]


def test_threads_that_write_the_same_record_agree_on_one(tmp_path: Path) -> None:
    store = Store(tmp_path)
    threads = [threading.Thread(target=store.put, args=(record(),)) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert list(store.scan()) == [record()]


ENDLESS_WRITER = """
import sys
sys.path.insert(0, {tests!r})
from test_store import record
from gradbias.run.store import Store
store, number = Store({folder!r}), 0
print("ready", flush=True)
while True:
    store.put(record(f"{{number % 4}}", gap=float(number)), replace=True)
    number += 1
"""


@pytest.mark.parametrize("delay", [0.0, 0.003, 0.011, 0.023, 0.05])
def test_a_writer_killed_at_any_moment_leaves_a_valid_store(tmp_path: Path, delay: float) -> None:
    before = [Store(tmp_path).put(record(str(number_))) for number_ in range(4)]
    code = ENDLESS_WRITER.format(tests=str(Path(__file__).parent), folder=str(tmp_path))
    writer = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE)
    assert writer.stdout is not None
    with writer.stdout:
        writer.stdout.readline()
        time.sleep(delay)
        writer.send_signal(signal.SIGKILL)
        writer.wait()
    store = Store(tmp_path, warn=pytest.fail)
    store.require_writable()  # the next writer mends what the dead one left
    found = {r.address: r for r in store.scan()}
    assert set(found) == {r.address for r in before}
    for r in found.values():
        assert r.arrays["error/value"].shape == (2,)


def test_a_record_moved_aside_by_a_dead_writer_is_put_back(tmp_path: Path) -> None:
    store = Store(tmp_path)
    put = store.put(record())
    (store.records / put.address).rename(store.records / f".replaced-{put.address}-1-2")
    assert store.get(put.address) is None
    store.require_writable()
    assert store.get(put.address) == put


def test_leavings_of_dead_writers_are_removed_when_old(tmp_path: Path) -> None:
    store = Store(tmp_path)
    store.require_writable()
    new, old = store.records / ".writing-new", store.records / ".writing-old"
    new.mkdir()
    old.mkdir()
    os.utime(old, (0, 0))
    assert list(store.scan()) == []
    store.require_writable()
    assert new.exists()
    assert not old.exists()
