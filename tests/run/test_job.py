"""Jobs: what a record depends on, what a run leaves behind in the session, and what happens when workers die."""

import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gradbias import run
from gradbias.errors import ClaimError, UsageError
from gradbias.run.job import Job, package_sha256, versions
from gradbias.run.parameters import checked
from gradbias.run.record import Record
from gradbias.run.store import Store
from gradbias.run.sweep import run_all

SOUND = Path(__file__).parents[1] / "claims_for_tests" / "sound"
KNOWN_FALSE, MEAN = SOUND / "known_false.py", SOUND / "mean_minimizes.py"


def test_a_record_rebuilds_the_evidence_it_was_judged_from(tmp_path: Path) -> None:
    computed = run.run(MEAN, store=tmp_path)
    stored = Store(tmp_path).get(computed.address)
    assert stored is not None
    evidence = stored.evidence()
    assert evidence.seeds == 3
    assert set(evidence.curves) == {"time", "distance"}
    np.testing.assert_array_equal(evidence.measured["value"], computed.arrays["measured/value"])
    assert np.abs(evidence.measured["value"] - evidence.predicted["value"]).max() < 1e-12


def test_the_same_job_twice_is_the_same_bits() -> None:
    first, again = run.run(MEAN), run.run(MEAN)
    assert first.address == again.address
    for name, array in first.arrays.items():
        assert array.tobytes() == again.arrays[name].tobytes(), name


def test_more_seeds_leave_the_earlier_ones_as_they_were() -> None:
    few, more = run.run(MEAN, seeds=2), run.run(MEAN, seeds=5)
    np.testing.assert_array_equal(few.arrays["predicted/value"], more.arrays["predicted/value"][:2])
    np.testing.assert_array_equal(few.arrays["measured/value"], more.arrays["measured/value"][:2])


def test_another_base_seed_is_other_data() -> None:
    assert not np.array_equal(
        run.run(MEAN).arrays["predicted/value"], run.run(MEAN, base_seed=1).arrays["predicted/value"]
    )


def test_a_run_in_a_single_precision_session_computes_in_double_and_leaves_it_single() -> None:
    with jax.enable_x64(False):
        record = run.run(KNOWN_FALSE)
        assert jnp.ones(1).dtype == jnp.float32
    assert record.dtype == "float64"
    assert record.arrays["measured/value"].dtype == np.float64


def test_an_address_depends_on_everything_the_numbers_depend_on(tmp_path: Path) -> None:
    edited = tmp_path / "sound" / "mean_minimizes.py"
    edited.parent.mkdir()
    edited.write_text(MEAN.read_text() + "\n")
    jobs = [
        Job(MEAN),
        Job(MEAN, "standard"),
        Job(MEAN, changes={"n": 7}),
        Job(MEAN, changes={"seeds": 7}),
        Job(MEAN, base_seed=1),
        Job(MEAN, control=True),
        Job(KNOWN_FALSE),
        Job(edited),
    ]
    assert len({job.address for job in jobs}) == len(jobs)
    assert Job(MEAN).address == Job(MEAN).address


def test_versions_are_those_of_all_that_gradbias_requires() -> None:
    assert {"python", "gradbias", "jax", "jaxlib", "numpy", "scipy", "diffrax"} <= set(versions())
    assert len(package_sha256()) == 64


@pytest.mark.parametrize(
    ("kind", "text", "value"),
    [
        ("n: int", "200", 200),
        ("n: int", "1e3", 1000),
        ("r: float", "1", 1.0),
        ("r: float", "inf", float("inf")),
        ("flag: bool", "true", True),
        ("flag: bool", "False", False),
        ("name: str", "digits", "digits"),
        ("name: str", "'1'", "1"),
        ("name: str", "7", "7"),
        ("shape: tuple[int, ...]", "(1, 2)", (1, 2)),
        ("shape: tuple[int, ...]", "[1, 2]", (1, 2)),
        ("pair: tuple[int, float]", "1, 2", (1, 2.0)),
        ("loss: Literal['a', 'b']", "b", "b"),
        ("cap: int | None", "None", None),
        ("cap: int | None", "3", 3),
        ("free", "3", 3),
    ],
)
def test_text_becomes_a_value_of_the_annotated_type(kind: str, text: str, value: object) -> None:
    name, got = _given(kind, text)
    assert got == {name: value}
    assert type(got[name]) is type(value)


@pytest.mark.parametrize(
    ("kind", "text"),
    [
        ("n: int", "abc"),
        ("n: int", "1.5"),
        ("n: int", "True"),
        ("n: int", "inf"),
        ("n: int", "(1, 2)"),
        ("r: float", "fast"),
        ("flag: bool", "1"),
        ("shape: tuple[int, ...]", "3"),
        ("shape: tuple[int, ...]", "(1, 'x')"),
        ("pair: tuple[int, float]", "(1,)"),
        ("loss: Literal['a', 'b']", "c"),
        ("cap: int | None", "x"),
    ],
)
def test_text_that_does_not_fit_is_refused_with_its_name_and_type(kind: str, text: str) -> None:
    with pytest.raises(UsageError, match=rf"Parameter '{kind.split(':')[0]}' must be of type .*; got "):
        _given(kind, text)


def _given(kind: str, text: str) -> tuple[str, dict[str, object]]:
    import inspect

    space: dict[str, object] = {}
    exec(f"from typing import Literal\ndef function(*, {kind}): ...", space)
    name = kind.split(":")[0]
    return name, checked({name: text}, inspect.signature(space["function"]).parameters)  # type: ignore[arg-type]


def test_an_exception_in_a_claim_names_file_and_line() -> None:
    with pytest.raises(ClaimError, match=r"raises\.py:15: raises \(smoke\) failed: RuntimeError"):
        run.run(SOUND.parent / "broken" / "raises.py")


def _claim(folder: Path, name: str, line: str) -> Path:
    path = folder / "family" / f"{name}.py"
    path.parent.mkdir(exist_ok=True)
    path.write_text(KNOWN_FALSE.read_text().replace("def numbers(key):", f"def numbers(key):\n    {line}\n"))
    return path


def test_a_worker_that_dies_costs_its_job_and_no_other(tmp_path: Path) -> None:
    dies = _claim(tmp_path, "dies", "import os; os.kill(os.getpid(), 9)")
    ends = _claim(tmp_path, "ends", "import os; os._exit(7)")
    store = Store(tmp_path / "store")
    done = {f.job.claim: f for f in run_all([Job(dies), Job(ends), Job(KNOWN_FALSE)], store, workers=1)}
    assert "SIGKILL" in str(done["dies"].error)
    assert "exit code 7" in str(done["ends"].error)
    assert isinstance(done["known-false"].record, Record)
    again = list(run_all([Job(KNOWN_FALSE)], store))
    assert [f.reused for f in again] == [True]


def test_a_claim_that_hangs_is_ended_and_the_others_go_on(tmp_path: Path) -> None:
    hangs = _claim(tmp_path, "hangs", "import time; time.sleep(600)")
    jobs = [Job(hangs), Job(KNOWN_FALSE)]
    done = {f.job.claim: f for f in run_all(jobs, Store(tmp_path / "store"), workers=1, timeout=30.0)}
    assert "had not finished in its time" in str(done["hangs"].error)
    assert isinstance(done["known-false"].record, Record)


def test_what_a_claim_prints_stays_out_of_the_output(tmp_path: Path) -> None:
    loud = _claim(tmp_path, "loud", "print('nonsense'); import os; os.write(1, b'nonsense')")
    code = f"""if True:
        from pathlib import Path
        from gradbias.run.job import Job
        from gradbias.run.store import Store
        from gradbias.run.sweep import run_all
        if __name__ == "__main__":
            print([f.record.outcome for f in run_all([Job(Path({str(loud)!r}))], Store({str(tmp_path / "s")!r}))])
    """
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert told.stdout == "['refuted']\n"
    assert "nonsense" in told.stderr


def test_an_abandoned_sweep_ends_its_workers(tmp_path: Path) -> None:
    import multiprocessing

    slow = _claim(tmp_path, "slow", "import time; time.sleep(60)")
    quick = _claim(tmp_path, "quick", "pass")
    results = run_all([Job(slow), Job(quick)], Store(tmp_path / "store"), workers=2)
    assert next(results).job.claim == "quick"
    results.close()
    assert multiprocessing.active_children() == []
