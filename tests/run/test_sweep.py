"""Sweeps: what shares a program, what survives what, and that the numbers do not depend on who computed them."""

import json
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import gradbias as gb
from gradbias import run, training
from gradbias.errors import TooLarge, UsageError
from gradbias.run.block import Block, run_block
from gradbias.run.executors import SerialExecutor
from gradbias.run.job import Job
from gradbias.run.ledger import statuses
from gradbias.run.plan import grid, plan
from gradbias.run.pool import WorkerDied, WorkerPool
from gradbias.run.results import Sweep
from gradbias.run.store import Store
from gradbias.run.sweep import Noted

MEAN = Path(__file__).parents[1] / "claims_for_tests" / "sound" / "mean_minimizes.py"
OVER = {"spread": [0.5, 1.0, 2.0, 4.0, 8.0], "n": [5, 6]}


def arrays(store: Store) -> dict[str, bytes]:
    """Every sample array of a store, as bytes."""
    return {f"{r.address} {name}": array.tobytes() for r in store.scan() for name, array in r.arrays.items()}


def poisoned(folder: Path, line: str) -> Path:
    """The claim, with data that run a line first."""
    path = folder / "family" / "poisoned.py"
    path.parent.mkdir()
    path.write_text(MEAN.read_text().replace("    if n < 1:", f"    {line}\n    if n < 1:"))
    return path


@pytest.fixture(scope="module")
def serial(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """The sweep as it comes out in this process."""
    store = Store(tmp_path_factory.mktemp("serial"))
    with gb.sweep(MEAN, OVER, seeds=4, executor=SerialExecutor(), store=store.folder) as results:
        assert results.failures() == []
    return store


def test_settings_that_differ_in_numbers_alone_share_a_block_and_shapes_do_not() -> None:
    made = plan(grid(MEAN, OVER, seeds=4).jobs, set())
    assert made.compilations == 2
    assert sorted(len(block.jobs) for block in made.blocks) == [5, 5]
    assert {job.changes["n"] for job in made.blocks[0].jobs} == {made.blocks[0].jobs[0].changes["n"]}
    assert "10 settings in 2 blocks of up to 20 runs; 2 programs to compile" in str(made)


def test_the_size_of_a_block_does_not_depend_on_what_is_stored() -> None:
    jobs = grid(MEAN, {"spread": [float(s) for s in range(1, 41)]}, seeds=10).jobs
    whole = plan(jobs, set())
    assert {block.size for block in whole.blocks} == {10}  # 100 of 128 lanes, and four equal blocks
    some = plan(jobs, {job.address for job in jobs[3:]})
    assert [(len(block.jobs), block.size) for block in some.blocks] == [(3, 10)]
    assert some.stored == 37
    assert "nothing to compute" in str(plan(jobs, {job.address for job in jobs}))


def test_a_sweep_agrees_with_single_runs(serial: Store) -> None:
    for job in grid(MEAN, OVER, seeds=4).jobs:
        alone, together = run.run(MEAN, **job.changes), serial.get(job.address)
        assert together is not None
        assert alone.address == together.address
        assert alone.outcome == together.outcome
        np.testing.assert_allclose(alone.arrays["measured/value"], together.arrays["measured/value"], rtol=1e-13)


def test_processes_give_the_bytes_that_this_process_gives(serial: Store, tmp_path: Path) -> None:
    with gb.sweep(MEAN, OVER, seeds=4, store=tmp_path, workers=2) as results:
        assert results.failures() == []
    assert arrays(Store(tmp_path)) == arrays(serial)


def test_what_the_store_has_is_not_computed_again_and_the_rest_gets_the_same_bits(
    serial: Store, tmp_path: Path
) -> None:
    shutil.copytree(serial.folder, tmp_path / "store")
    store = Store(tmp_path / "store")
    jobs = grid(MEAN, OVER, seeds=4).jobs
    for job in jobs[2:5]:
        shutil.rmtree(store.records / job.address)
    kept = {job.address: (store.records / job.address / "record.json").stat().st_mtime_ns for job in jobs[5:]}
    with gb.sweep(MEAN, OVER, seeds=4, executor=SerialExecutor(), store=store.folder) as results:
        finished = list(results)
    assert sum(each.reused for each in finished) == len(jobs) - 3
    assert arrays(store) == arrays(serial)
    for address, stamp in kept.items():
        assert (store.records / address / "record.json").stat().st_mtime_ns == stamp


def test_a_setting_that_raises_fails_alone(tmp_path: Path) -> None:
    path = poisoned(tmp_path, "if spread == 2.0: raise RuntimeError('too wide')")
    store = tmp_path / "store"
    with gb.sweep(path, OVER, executor=SerialExecutor(), store=store) as results:
        failed = results.failures()
        data = results.to_xarray()
    assert {each.job.changes["spread"] for each in failed} == {2.0}
    assert all(re.search(r"poisoned\.py:1\d: .*too wide", str(each.error)) for each in failed)
    assert (data.outcome == "failed").sum() == 2
    assert (data.outcome == "supported").sum() == 8
    assert np.isnan(data.gap.sel(spread=2.0)).all()
    assert not np.isnan(data.gap.sel(spread=4.0)).any()


def test_a_training_that_raises_is_found_among_its_neighbours(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    true = training.Program.__call__

    def call(self: training.Program, data: Any, keys: Any, numbers: dict[str, Any]) -> Any:
        if 0.3 in numbers["rate"]:
            raise RuntimeError("this rate is refused")
        return true(self, data, keys, numbers)

    monkeypatch.setattr(training.Program, "__call__", call)
    rates = {"rate": [0.1, 0.2, 0.3, 0.4, 0.5]}
    with gb.sweep(MEAN, rates, executor=SerialExecutor(), store=tmp_path) as results:
        (failed,) = results.failures()
        assert failed.job.changes == {"rate": 0.3}
        assert "this rate is refused" in str(failed.error)
        assert len(Store(tmp_path).addresses()) == 4


def test_a_setting_that_kills_its_process_fails_alone_with_its_cause(tmp_path: Path) -> None:
    path = poisoned(tmp_path, "if spread == 2.0: import os; os.kill(os.getpid(), 9)")
    with gb.sweep(path, {"spread": OVER["spread"]}, store=tmp_path / "store", workers=1, retries=1) as results:
        events = list(results.events())
        (failed,) = results.failures()
    assert failed.job.changes == {"spread": 2.0}
    assert "SIGKILL" in str(failed.error)
    assert {event.what for event in events if isinstance(event, Noted)} == {"started", "retried", "halved"}
    assert len(Store(tmp_path / "store").addresses()) == 4
    (status,) = statuses(Store(tmp_path / "store"))
    assert (status.done, status.left, len(status.failures)) == (4, 0, 1)
    assert "SIGKILL" in status.failures[0].cause
    told = status.failures[0].command
    assert told.startswith("gradbias run")
    assert "--set spread=2.0" in told


def test_a_setting_that_never_ends_is_ended_and_fails_alone(tmp_path: Path) -> None:
    path = poisoned(tmp_path, "if spread == 2.0: import time; time.sleep(600)")
    over = {"spread": [1.0, 2.0]}
    with gb.sweep(path, over, store=tmp_path / "store", workers=1, retries=0, timeout=30.0) as results:
        (failed,) = results.failures()
    assert failed.job.changes == {"spread": 2.0}
    assert "had not finished in its time" in str(failed.error)
    assert len(Store(tmp_path / "store").addresses()) == 1


def test_a_block_that_needs_too_much_memory_is_halved_until_it_fits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tried = []

    def require(compiled: Any, *, seeds: int) -> None:
        tried.append(seeds)
        if seeds > 6:
            raise TooLarge(f"{seeds} lanes are too many")

    monkeypatch.setattr(training, "_require_memory", require)
    monkeypatch.setattr(training, "program", training.program.__wrapped__)  # nothing that is compiled already
    over = {"spread": [float(s) for s in range(1, 8)]}
    with gb.sweep(MEAN, over, seeds=3, executor=SerialExecutor(), store=tmp_path) as results:
        events = list(results.events())
        assert results.failures() == []
    assert tried[:3] == [21, 12, 6]
    assert sum(event.what == "halved" for event in events if isinstance(event, Noted)) >= 2
    assert len(Store(tmp_path).addresses()) == 7


def test_one_setting_too_large_by_itself_says_how_large(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(training.psutil, "virtual_memory", lambda: type("Memory", (), {"available": 10}))
    monkeypatch.setattr(training, "program", training.program.__wrapped__)
    monkeypatch.setattr("gradbias.evidence.program", training.program)
    with gb.sweep(MEAN, {"spread": [1.0, 3.0]}, executor=SerialExecutor(), store=tmp_path) as results:
        failed = results.failures()
    assert len(failed) == 2
    assert all("GB of memory" in str(each.error) for each in failed)


def test_an_executor_that_loses_a_block_is_asked_again(tmp_path: Path) -> None:
    class Forgetful(SerialExecutor):
        lost = 0

        def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
            if self.lost < 2:
                self.lost += 1
                future: Future[Any] = Future()
                future.set_exception(ConnectionError("the node has gone"))
                return future
            return super().submit(fn, *args, **kwargs)

    with gb.sweep(MEAN, {"spread": [1.0]}, executor=Forgetful(), store=tmp_path) as results:
        events = list(results.events())
        assert results.failures() == []
    assert [event.cause[-40:] for event in events if isinstance(event, Noted) and event.what == "retried"] != []


def test_named_dimensions_in_the_order_of_the_sweep(serial: Store) -> None:
    with gb.sweep(MEAN, {k: np.array(v) for k, v in OVER.items()}, seeds=4, store=serial.folder) as results:
        assert results.plan.blocks == ()
        data = results.to_xarray()
    assert data.gap.dims == ("spread", "n", "seed")
    assert data.gap.shape == (5, 2, 4)
    record = serial.get(grid(MEAN, OVER, seeds=4).jobs[3].address)
    assert record is not None
    assert record.changes["n"] == 6
    found = data.measured_value.sel(spread=1.0, n=6)
    np.testing.assert_array_equal(found, record.arrays["measured/value"][:, 0])
    assert (data.outcome == "supported").all()
    assert data.attrs["claim"] == "mean-minimizes"


@pytest.mark.parametrize(
    ("over", "more", "told"),
    [
        ({"spraed": [1.0]}, {}, "Unknown parameter 'spraed'"),
        ({"spread": []}, {}, "no values"),
        ({"spread": [1.0, 1]}, {}, "twice"),
        ({"n": [2.5]}, {}, "must be of type int"),
        ({"seeds": [1, 2]}, {}, "--seeds"),
        ({"n": [5]}, {"n": 6}, "fixed too"),
        ({"n": [5]}, {"setting": "huge"}, "Unknown setting 'huge'"),
    ],
)
def test_a_grid_that_makes_no_sense_is_refused(
    over: dict[str, list[Any]], more: dict[str, Any], told: str, tmp_path: Path
) -> None:
    with pytest.raises(UsageError, match=told):
        gb.sweep(MEAN, over, store=tmp_path, **more)
    assert not any(tmp_path.iterdir())


def test_a_pool_goes_on_after_a_death_and_ends_what_runs() -> None:
    pool = WorkerPool(1)
    try:
        with pytest.raises(WorkerDied, match="exit code 3"):
            pool.submit(_leave, 3).result()
        assert pool.submit(divmod, 7, 2).result() == (3, 1)
        with pytest.raises(ZeroDivisionError):
            pool.submit(divmod, 7, 0).result()
        sleeping = pool.submit(time.sleep, 600)
    finally:
        time.sleep(0.5)
        pool.kill()
    with pytest.raises(WorkerDied):
        sleeping.result(timeout=30)


def _leave(code: int) -> None:
    import os

    os._exit(code)


def test_a_block_takes_what_another_driver_has_stored(serial: Store) -> None:
    jobs = grid(MEAN, OVER, seeds=4).jobs
    stamps = serial.stamps()
    ended = run_block(Block(jobs[:2], 5), serial)
    assert [each.address for each in ended] == [job.address for job in jobs[:2]]
    assert serial.stamps() == stamps


def test_stopping_starts_nothing_more_and_the_same_sweep_goes_on(tmp_path: Path) -> None:
    over = {"spread": [1.0, 2.0], "n": [5, 6, 7, 8]}
    made = Sweep(grid(MEAN, over), Store(tmp_path), SerialExecutor())
    with made:
        for _ in made:
            made.stop()
    done = Store(tmp_path).addresses()
    assert len(done) == 2  # the block that ran
    with gb.sweep(MEAN, over, executor=SerialExecutor(), store=tmp_path) as results:
        assert sum(each.reused for each in results) == 2
    assert len(Store(tmp_path).addresses()) == 8


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_drains_and_leaves_a_store_that_resumes(tmp_path: Path, number: signal.Signals) -> None:
    path = poisoned(tmp_path, "import time; time.sleep(0.5 * (n > 5))")
    store = tmp_path / "store"
    asked = ["--over", "spread=1,2", "--over", "n=5,20,21,22,23,24", "--store", str(store), "--workers", "1"]
    command = [sys.executable, "-m", "gradbias", "sweep", str(path), *asked]
    with subprocess.Popen([*command, "--json"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if json.loads(line)["event"] == "finished":
                break
        process.send_signal(number)
        _, told = process.communicate(timeout=120)
    assert process.returncode == 130, told
    assert "Stopping" in told
    kept = Store(store).addresses()
    assert 0 < len(kept) < 12
    again = subprocess.run(command, capture_output=True, text=True, check=False)
    assert again.returncode == 0, again.stderr
    assert f"{len(kept)} from the store" in again.stdout
    assert len(Store(store).addresses()) == 12


def test_jobs_longer_than_a_minute_keep_their_own_checkpoints() -> None:
    path = gb.find("grokking-modular-addition").path
    made = plan([Job(path, "standard", {"seeds": 10}), Job(path, "standard", {"seeds": 10}, base_seed=1)], set())
    assert [block.size for block in made.blocks] == [1, 1]


EXPERIMENT = """
import jax
import jax.numpy as jnp
import jax.random as jr


def decay(key, *, rate: float, steps: int = 10):
    \"""How far a random start comes in some steps.\"""
    start = jr.normal(key, ())
    end = jax.lax.fori_loop(0, steps, lambda _, w: w - rate * w, start)
    return {"gap": jnp.abs(end), "ratio": end / start}


def misshapen(key, rate):
    return rate
"""


def test_a_function_is_swept_and_its_arrays_are_the_variables(tmp_path: Path) -> None:
    file = tmp_path / "mine.py"
    file.write_text(EXPERIMENT)
    over = {"rate": np.array([0.1, 0.5]), "steps": [1, 2, 3]}
    with gb.sweep(f"{file}:decay", over, seeds=5, store=tmp_path / "store", workers=1) as results:
        assert results.failures() == []
        data = results.to_xarray()
    assert results.plan.compilations == 3
    assert data.gap.dims == ("rate", "steps", "seed")
    exact = (1.0 - data.rate) ** data.steps
    np.testing.assert_allclose(
        data.ratio.transpose("rate", "steps", "seed"), exact.expand_dims(seed=5, axis=2), rtol=1e-14
    )
    assert set(data.data_vars) == {"gap", "ratio", "converged", "outcome", "seconds"}
    assert (data.outcome == "invalid").all()  # nothing is predicted, so nothing is judged
    assert data.attrs["claim"] == "decay"


def experiment(key: Any, *, rate: float) -> dict[str, Any]:
    return {"gap": rate}


def test_a_function_is_found_in_its_file_and_one_without_a_file_is_refused(tmp_path: Path) -> None:
    made = gb.sweep(experiment, {"rate": [1.0]}, store=tmp_path)
    assert (made.grid.path, made.grid.function) == (Path(__file__).resolve(), "experiment")
    with pytest.raises(UsageError, match="top level"):
        gb.sweep(lambda key, *, rate: rate, {"rate": [1.0]}, store=tmp_path)
    space: dict[str, Any] = {}
    exec("def nowhere(key, *, rate: float): return rate", space)
    with pytest.raises(UsageError, match="in none"):
        gb.sweep(space["nowhere"], {"rate": [1.0]}, store=tmp_path)


@pytest.mark.parametrize(
    ("name", "told"), [("misshapen", "keyword-only"), ("absent", "has no function"), ("jr", "has no function")]
)
def test_what_is_no_experiment_is_refused(name: str, told: str, tmp_path: Path) -> None:
    file = tmp_path / "mine.py"
    file.write_text(EXPERIMENT)
    with pytest.raises(UsageError, match=told):
        gb.sweep(f"{file}:{name}", {"rate": [1.0]}, store=tmp_path / "store")
