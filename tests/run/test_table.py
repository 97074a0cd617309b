"""The tables: whatever happened since the last query, they are those of the records that are there now."""

import json
import os
from pathlib import Path

import numpy as np
import pytest

from gradbias.errors import StoreError
from gradbias.run import table
from gradbias.run.record import SCHEMA_VERSION
from gradbias.run.store import Store
from run.test_store import record

pytestmark = pytest.mark.usefixtures("_cache")


def rows(store: Store) -> list[dict[str, object]]:
    return table.records(store).to_table().to_pylist()


def by_claim(store: Store, column: str) -> dict[object, object]:
    return {row["claim"]: row[column] for row in rows(store)}


def columns(store: Store) -> dict[str, str]:
    return {field.name: str(field.type) for field in table.records(store).schema}


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The addresses whose records were read."""
    read: list[str] = []
    row = table._row
    monkeypatch.setattr(table, "_row", lambda address, found: (read.append(address), row(address, found))[1])
    return read


@pytest.fixture(params=["folder", "s3"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    return Store(tmp_path / "store" if request.param == "folder" else request.getfixturevalue("s3"))


def test_a_row_is_what_the_record_says(tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    put = store.put(
        record(changes={"n": 3}, gap=float("nan"), error=float("inf"), created="2026-01-01T02:00:00.500+02:00")
    )
    (row,) = rows(store)
    assert np.isnan(row["gap"])
    assert row["error"] == np.inf
    assert row["created"].isoformat() == "2026-01-01T00:00:00.500000"
    assert json.loads(row["changes"]) == {"n": 3}
    assert json.loads(row["versions"]) == put.versions
    same = set(table.FIELDS) - {"gap", "error", "created", "changes", "versions", "parameters"}
    assert {name: row[name] for name in same} == {name: getattr(put, name) for name in same}


def test_every_parameter_has_a_column_of_its_kind(tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    store.put(record("1", claim="a", parameters={"n": 3, "x": 1, "p": "inf", "t": "x", "b": True, "o": 1, "s": [1, 2]}))
    store.put(record("2", claim="b", parameters={"n": 4, "x": 0.5, "p": 2, "t": "inf", "o": "one", "N": 2**70}))
    store.put(record("3", claim="c", parameters={"gap": 7, "Error": 1, "n": None, "param_gap": 8}))
    kinds = {"n": "int64", "x": "double", "p": "double", "t": "string", "b": "bool", "o": "string", "s": "string"}
    kinds |= {"param_N": "string", "param_gap": "int64", "param_Error": "int64", "param_param_gap": "int64"}
    found = columns(store)
    assert {name: found.get(name) for name in kinds} == kinds
    assert by_claim(store, "n") == {"a": 3, "b": 4, "c": None}
    assert by_claim(store, "x") == {"a": 1.0, "b": 0.5, "c": None}
    assert by_claim(store, "p") == {"a": np.inf, "b": 2.0, "c": None}
    assert by_claim(store, "t") == {"a": "x", "b": "inf", "c": None}
    assert by_claim(store, "o") == {"a": "1", "b": "one", "c": None}
    assert by_claim(store, "s") == {"a": "[1, 2]", "b": None, "c": None}
    assert by_claim(store, "param_gap")["c"] == 7
    assert by_claim(store, "param_param_gap")["c"] == 8
    assert by_claim(store, "gap")["c"] == 0.25
    assert by_claim(store, "param_N")["b"] == str(2**70)


def test_only_what_is_new_or_changed_is_read_and_what_has_gone_is_dropped(store: Store, reads: list[str]) -> None:
    put = {name: store.put(record(name, claim=name, parameters={name: 1})).address for name in "abc"}
    assert by_claim(store, "gap") == {"a": 0.25, "b": 0.25, "c": 0.25}
    assert sorted(reads) == sorted(put.values())
    reads.clear()
    assert len(rows(store)) == 3
    assert reads == []
    store.put(record("c", claim="c", gap=0.75), replace=True)  # as long as it was, and nothing else is new
    assert by_claim(store, "gap") == {"a": 0.25, "b": 0.25, "c": 0.75}
    assert reads == [put["c"]]
    reads.clear()
    store.put(record("a", claim="a", gap=0.75), replace=True)
    new = store.put(record("d", claim="d")).address
    store.place.remove(f"records/{put['b']}")
    assert by_claim(store, "gap") == {"a": 0.75, "c": 0.75, "d": 0.25}
    assert sorted(reads) == sorted([put["a"], new])
    assert "b" not in columns(store)


def test_a_table_does_not_depend_on_what_was_asked_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(table, "_ROWS", 3)  # several row groups
    store = Store(tmp_path / "store")
    for number in range(10):
        store.put(record(str(number), parameters={f"p{number % 4}": number if number < 8 else str(number)}))
        step_by_step = rows(store)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "other"))
    assert rows(store) == step_by_step
    assert len(step_by_step) == 10


@pytest.mark.parametrize("damage", [lambda c: c[:-1], lambda c: b"", lambda c: c[:500] + b"?" + c[501:]])
def test_a_damaged_cache_is_built_again(tmp_path: Path, damage: object, capsys: pytest.CaptureFixture[str]) -> None:
    store = Store(tmp_path / "store")
    store.put(record())
    expected = rows(store)
    (file,) = (tmp_path / "cache" / "gradbias" / "tables").iterdir()
    content = file.read_bytes()
    file.write_bytes(damage(content))  # type: ignore[operator]
    assert rows(store) == expected
    assert file.read_bytes()[:32] != b""
    assert len(file.read_bytes()) == len(content)
    assert capsys.readouterr().err == ""


def test_a_cache_that_cannot_be_written_costs_time_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    store = Store(tmp_path / "store")
    store.put(record())
    assert len(rows(store)) == 1


def test_caches_that_nobody_asked_for_in_a_month_go(tmp_path: Path) -> None:
    old = tmp_path / "cache" / "gradbias" / "tables" / "old.parquet"
    old.parent.mkdir(parents=True)
    old.touch()
    os.utime(old, (0, 0))
    store = Store(tmp_path / "store")
    store.put(record())
    assert len(rows(store)) == 1
    assert not old.exists()


@pytest.mark.parametrize(
    "damage",
    [
        lambda text: "{",
        lambda text: "[]",
        lambda text: text.replace('"gap"', '"gip"'),
        lambda text: text.replace('"gap": 0.25', '"gap": "much"'),
        lambda text: text.replace('"seeds": 2', '"seeds": "2"'),
        lambda text: text.replace('"control": false', '"control": 0'),
        lambda text: text.replace('"claim": "a-claim"', '"claim": 1'),
        lambda text: text.replace("2026-01-01T", "yesterday"),
        lambda text: text.replace('"address": "', '"address": "0'),
    ],
)
def test_a_corrupt_record_is_named_once_and_skipped(store: Store, damage: object) -> None:
    said: list[str] = []
    store.put(record("good"))
    bad = store.put(record("bad")).address
    name = f"records/{bad}/record.json"
    store.place.write(name, damage(store.place.read(name).decode()).encode())  # type: ignore[operator]
    store = Store(store.place, warn=said.append)
    for _ in range(2):
        assert [row["address"] for row in rows(store)] == [record("good").address]
    assert len(said) == 1
    assert bad in said[0]


def test_a_record_without_its_arrays_is_no_row(tmp_path: Path) -> None:
    said: list[str] = []
    store = Store(tmp_path / "store", warn=said.append)
    put = store.put(record())
    (store.records / put.address / "arrays.npz").unlink()
    assert rows(store) == []
    assert "lacks arrays.npz" in said[0]


def test_a_record_of_a_newer_schema_is_refused(store: Store) -> None:
    name = f"records/{store.put(record()).address}/record.json"
    text = json.loads(store.place.read(name)) | {"schema_version": SCHEMA_VERSION + 1}
    store.place.write(name, json.dumps(text).encode())
    with pytest.raises(StoreError, match="newer gradbias"):
        rows(store)


def test_an_empty_store_has_a_table_without_rows(tmp_path: Path) -> None:
    assert rows(Store(tmp_path / "nothing")) == []
    assert not (tmp_path / "nothing").exists()


def test_samples_have_a_row_per_seed_and_part(store: Store) -> None:
    arrays = {
        "gap/a": np.array([[0.5, -1.0], [np.nan, 3.0]]),
        "gap/b": np.array([1.0, 2.0]),
        "error/a": np.array([0.1, 0.2]),
        "error/b": np.array([0.3, 0.4]),
        "converged": np.array([True, False]),
        "certified": np.array([False, True]),
    }
    put = store.put(record(arrays=arrays, base_seed=7))
    found = table.samples(store).to_table().to_pylist()
    np.testing.assert_equal(
        {(r["part"], r["seed"]): (r["gap"], r["error"], r["converged"], r["certified"]) for r in found},
        {
            ("a", 0): (0.5, 0.1, True, False),
            ("a", 1): (np.nan, 0.2, False, True),
            ("b", 0): (1.0, 0.3, True, False),
            ("b", 1): (2.0, 0.4, False, True),
        },
    )
    assert {(r["address"], r["claim"], r["base_seed"]) for r in found} == {(put.address, "a-claim", 7)}


def test_arrays_that_cannot_be_read_cost_their_samples_only(tmp_path: Path) -> None:
    said: list[str] = []
    store = Store(tmp_path / "store", warn=said.append)
    put = store.put(record())
    (store.records / put.address / "arrays.npz").write_bytes(b"PK")
    assert table.samples(store).to_table().to_pylist() == []
    assert put.address in said[0]
    assert len(rows(store)) == 1
