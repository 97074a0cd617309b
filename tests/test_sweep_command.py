"""`gradbias sweep` and `gradbias status`: what ranges and files mean, what is printed, and what is refused."""

import json
from pathlib import Path

import numpy as np
import pytest

from gradbias.cli import main
from gradbias.errors import UsageError
from gradbias.run.store import Store
from gradbias.sweep_command import asked_for, values

MEAN = str(Path(__file__).parent / "claims_for_tests" / "sound" / "mean_minimizes.py")


def gradbias(*arguments: str) -> int:
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    return int(ended.value.code or 0)


def test_a_range_has_both_ends_and_as_many_values_as_it_says() -> None:
    np.testing.assert_allclose(values("1e-6:10:log:8"), 10.0 ** np.arange(-6, 2), rtol=1e-14)
    assert values("0:1:lin:5") == [0.0, 0.25, 0.5, 0.75, 1.0]


@pytest.mark.parametrize(
    ("text", "meant"),
    [("2,3,4", [2, 3, 4]), ("1e-3", [1e-3]), ("(1,2),(3,4)", [(1, 2), (3, 4)]), ("gd, adam", ["gd", "adam"])],
)
def test_a_list_has_values_with_commas_between(text: str, meant: list[object]) -> None:
    assert values(text) == meant


@pytest.mark.parametrize(
    "text", ["1:2", "1:2:log", "1:2:cubic:3", "1:2:lin:1", "0:1:log:3", "a:2:lin:3", "1:inf:lin:3"]
)
def test_a_range_that_is_none_is_refused_with_what_one_is(text: str) -> None:
    with pytest.raises(UsageError, match="must be positive" if text == "0:1:log:3" else "start:stop:log:count"):
        values(text)


def test_a_file_says_all_of_a_sweep_and_options_add_to_it(tmp_path: Path) -> None:
    file = tmp_path / "sweep.toml"
    file.write_text('claim = "a"\nseeds = 5\n[over]\nalpha = "1:100:log:3"\ndepth = [2, 3]\n[set]\nn = 7\n')
    asked = asked_for(str(file), ["depth=4"], ["d=9"], {"seeds": 6, "setting": None, "control": False})
    assert (asked.claim, asked.seeds, asked.setting, asked.changes) == ("a", 6, "smoke", {"n": 7, "d": "9"})
    assert asked.over == {"alpha": [1.0, pytest.approx(10.0), 100.0], "depth": [4]}


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("claim = ", "is no TOML file"),
        ('seeds = 3\n[over]\na = "1,2"\n', "names no claim"),
        ('claim = "a"\nsedes = 3\n', "unknown key 'sedes'"),
        ('claim = "a"\n[over]\nb = 3\n', "b must be a list or a range"),
        ('claim = "a"\n', "something to sweep over"),
    ],
)
def test_a_file_that_makes_no_sense_is_refused(text: str, told: str, tmp_path: Path) -> None:
    (tmp_path / "sweep.toml").write_text(text)
    with pytest.raises(UsageError, match=told):
        asked_for(str(tmp_path / "sweep.toml"), [], [], {})


def test_a_sweep_says_its_plan_and_its_events_and_status_says_how_far_it_is(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store = str(tmp_path / "store")
    asked = [MEAN, "--over", "spread=1,2", "--over", "n=5,6", "--store", store, "--executor", "serial"]
    assert gradbias("sweep", *asked, "--dry-run") == 0
    assert "4 settings in 2 blocks" in capsys.readouterr().err
    assert not Path(store).exists()
    assert gradbias("sweep", *asked, "--json") == 0
    events = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [e["event"] for e in events].count("finished") == 4
    assert (events[0]["event"], events[0]["blocks"], events[0]["compilations"]) == ("plan", 2, 2)
    assert {e["address"] for e in events if e["event"] == "finished"} == Store(store).addresses()
    assert gradbias("sweep", *asked) == 0
    assert "4 from the store" in capsys.readouterr().out
    assert gradbias("status", "--store", store, "--json") == 0
    (told,) = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert (told["done"], told["total"], told["left"], told["drivers"]) == (4, 4, 0, 0)
    assert told["over"] == {"spread": [1.0, 2.0], "n": [5, 6]}
    assert gradbias("status", "--store", store) == 0
    assert "4 of 4" in capsys.readouterr().out


def test_a_setting_that_fails_is_told_with_the_command_that_reruns_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store = str(tmp_path / "store")
    asked = [MEAN, "--over", "n=0,5", "--store", store, "--executor", "serial"]
    assert gradbias("sweep", *asked) == 1
    told = capsys.readouterr()
    assert "n must be at least 1; got 0" in told.err
    assert f"--set n=0 --store {store}" in told.err
    assert "1 failed" in told.out
    assert gradbias("status", "--store", store) == 1
    assert "n must be at least 1; got 0" in capsys.readouterr().out
    assert gradbias("status", "--store", store, "--json") == 1
    (status,) = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert (status["failed"], status["left"], status["done"]) == (1, 0, 1)
    assert "gradbias run" in status["failures"][0]["command"]


def test_a_store_without_sweeps_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert gradbias("status", "--store", str(tmp_path)) == 0
    assert "There is no sweep" in capsys.readouterr().out


def test_fresh_and_resume_exclude_each_other(capsys: pytest.CaptureFixture[str]) -> None:
    assert gradbias("sweep", MEAN, "--over", "n=5", "--fresh", "--resume") == 2
    assert "give one of the two" in capsys.readouterr().err
