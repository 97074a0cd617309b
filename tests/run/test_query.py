"""`gradbias query` and `gb.query`: what SQL gets, how it is shown, and what is refused."""

import csv
import io
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import gradbias as gb
from gradbias.cli import main
from gradbias.errors import UsageError
from gradbias.run.store import Store
from run.test_store import record

pytestmark = pytest.mark.usefixtures("_cache")
Call = Callable[..., tuple[int, str, str]]


@pytest.fixture
def store(tmp_path: Path) -> Store:
    store = Store(tmp_path / "store")
    for number in range(4):
        claim = "even" if number % 2 == 0 else "odd"
        gap = float("nan") if number == 3 else number / 4
        arrays = {"gap/value": np.array([gap, 1.0]), "error/value": np.zeros(2)}
        arrays |= {"converged": np.ones(2, bool), "certified": np.ones(2, bool)}
        store.put(record(str(number), claim=claim, gap=gap, parameters={"alpha": number / 2}, arrays=arrays))
    return store


@pytest.fixture
def call(store: Store, capsys: pytest.CaptureFixture[str]) -> Call:
    def run(*arguments: str) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as ended:
            main(["query", *arguments, "--store", str(store.folder)])
        said = capsys.readouterr()
        assert "Traceback" not in said.err
        return int(ended.value.code or 0), said.out, said.err

    return run


def test_python_gets_an_arrow_table(store: Store) -> None:
    sql = "select claim, alpha, count(*) as runs from records where claim = 'even' group by all order by alpha"
    assert gb.query(sql, store.folder).to_pylist() == [
        {"claim": "even", "alpha": 0.0, "runs": 1},
        {"claim": "even", "alpha": 1.0, "runs": 1},
    ]


def test_the_store_may_be_a_bucket(s3: str) -> None:
    Store(s3).put(record())
    assert gb.query("select gap, n from records", s3).to_pylist() == [{"gap": 0.25, "n": 3}]


def test_samples_are_read_when_a_query_names_them(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    sql = "select claim, max(s.gap) as worst from Samples as s join records using (address, claim) group by claim"
    found = {row["claim"]: row["worst"] for row in gb.query(sql, store.folder).to_pylist()}
    assert found["even"] == 1.0
    assert np.isnan(found["odd"])  # DuckDB sorts NaN above all numbers
    monkeypatch.setattr("gradbias.run.query.samples", lambda _: pytest.fail("not asked for"))
    assert len(gb.query("select * from records", store.folder)) == 4
    assert {row["name"] for row in gb.query("show tables", store.folder).to_pylist()} == {"records", "samples"}


def test_columns_are_described(store: Store) -> None:
    names = [row["column_name"] for row in gb.query("describe records", store.folder).to_pylist()]
    assert names[0] == "address"
    assert "alpha" in names
    assert "stamp" not in names
    assert [row["column_name"] for row in gb.query("describe samples", store.folder).to_pylist()][-1] == "certified"


def test_a_result_is_a_table(call: Call) -> None:
    code, out, err = call("select claim, avg(alpha) as mean from records group by claim order by claim")
    assert code == 0
    assert [line.split() for line in out.splitlines()][::2] == [["claim", "mean"], ["even", "0.5"]]
    assert out.splitlines()[3].split() == ["odd", "1"]
    assert err == ""


def test_a_result_is_json_with_one_object_per_line(call: Call) -> None:
    sql = "select gap, sum(seeds) as s, created, [1, null] as l, {'a': 1.5::decimal(4,1)} as d, null as no from records"
    code, out, _ = call(sql + " group by all", "--json")
    found = [json.loads(line, parse_constant=pytest.fail) for line in out.splitlines()]
    assert code == 0
    assert sorted((row["gap"] for row in found), key=str) == [0.0, 0.25, 0.5, "nan"]
    assert found[0]["s"] == 2
    assert found[0]["created"] == "2026-01-01T00:00:00"
    assert found[0]["l"] == [1, None]
    assert found[0]["d"] == {"a": 1.5}
    assert found[0]["no"] is None


def test_a_result_is_csv(call: Call) -> None:
    code, out, _ = call("select claim, alpha from records order by alpha", "--csv")
    assert code == 0
    assert list(csv.reader(io.StringIO(out)))[:2] == [["claim", "alpha"], ["even", "0"]]


def test_a_result_is_written_to_a_file(call: Call, tmp_path: Path) -> None:
    import pyarrow.csv
    import pyarrow.parquet

    sql = "select claim, alpha from records order by alpha"
    assert call(sql, "--output", str(tmp_path / "new" / "a.parquet")) == (0, "", "")
    assert call(sql, "--output", str(tmp_path / "a.csv")) == (0, "", "")
    for found in (pyarrow.parquet.read_table(tmp_path / "new" / "a.parquet"), pyarrow.csv.read_csv(tmp_path / "a.csv")):
        assert found["alpha"].to_pylist() == [0.0, 0.5, 1.0, 1.5]


def test_a_long_result_says_that_it_is_longer(call: Call) -> None:
    _, out, err = call("select * from range(1001)")
    assert len(out.splitlines()) == 1002
    assert "1000 of 1001 rows" in err


@pytest.mark.parametrize(
    ("sql", "words"),
    [
        ("select alfa from records", 'Candidate bindings: "alpha"'),
        ("select * from record", 'Did you mean "records"'),
        ("selec 1", 'syntax error at or near "selec"'),
        ("", "this is none"),
        ("select 1; select 2", "this is 2"),
        ("create table a (b int)", "no create"),
        ("set threads = 1", "no set"),
        ("pragma version", "no pragma"),
        ("copy records to 'a.csv'", "no copy"),
        ("attach 'a.db'", "no attach"),
        ("install httpfs", "no load"),
        ("select * from read_csv('/etc/passwd')", "Permission Error"),
        ("select * from read_text('https://example.org')", "Permission Error"),
        ("select * from '/etc/passwd'", "does not exist"),
        ("select * from found", "does not exist"),
        ("select 'a'::int from records", "Could not convert"),
        ("select * from records where alpha = ?", "parameter"),
    ],
)
def test_what_cannot_be_answered_is_one_sentence_and_code_2(call: Call, sql: str, words: str) -> None:
    code, out, err = call(sql)
    assert code == 2
    assert words in err
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    assert out == ""


def test_options_that_do_not_fit_are_refused(call: Call, tmp_path: Path) -> None:
    assert call("select 1", "--output", str(tmp_path / "a.xlsx"))[::2] == (
        2,
        f"error: --output writes .parquet or .csv; got {tmp_path}/a.xlsx.\n",
    )
    assert "not both" in call("select 1", "--csv", "--json")[2]
    assert "Try --json" in call("select [1]", "--csv")[2]
    assert "equal names" in call("select gap, gap from records", "--json")[2]
    (tmp_path / "file").write_text("")
    code, _, err = call("select 1", "--output", str(tmp_path / "file" / "a.csv"))
    assert code == 1
    assert "cannot be written" in err


def test_an_empty_store_is_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"There are no records in .*nothing; `gradbias run`"):
        gb.query("select 1", tmp_path / "nothing")
