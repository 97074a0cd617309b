"""The same sweep on Ray, Dask and submitit: equal bytes, and nothing lost when processes and nodes die."""

import contextlib
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import psutil
import pytest

import gradbias as gb
from gradbias.errors import UsageError
from gradbias.run.executors import NAMES, RayExecutor, SerialExecutor, executor
from gradbias.run.ledger import statuses
from gradbias.run.store import Store

MEAN = Path(__file__).parents[1] / "claims_for_tests" / "sound" / "mean_minimizes.py"
# Of these packages themselves; and they start processes by forking this one, which then only executes another program.
THEIRS = pytest.mark.filterwarnings(
    "ignore::DeprecationWarning",
    "ignore::FutureWarning",
    "ignore::ResourceWarning",
    r"ignore:os\.fork\(\) was called:RuntimeWarning",
)
OVER = {"spread": [0.5, 1.0, 2.0], "n": [5, 6]}


def swept(store: Path, over: dict[str, list[Any]], executor: Any, claim: Path = MEAN) -> dict[str, bytes]:
    """Sweep into a store, and every sample array that is then in it."""
    with gb.sweep(claim, over, seeds=4, executor=executor, store=store) as results:
        assert results.failures() == []
    records = list(Store(store).scan())
    return {f"{r.address} {name}": array.tobytes() for r in records for name, array in r.arrays.items()}


@pytest.fixture(scope="module")
def serial(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    return swept(tmp_path_factory.mktemp("serial"), OVER, SerialExecutor())


@pytest.fixture
def cluster() -> Iterator[Any]:
    """Two nodes of one core each, and this process as their driver."""
    import ray
    from ray.cluster_utils import Cluster

    made = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    second = made.add_node(num_cpus=1)
    made.wait_for_nodes()
    ray.init(address=made.address, log_to_driver=False)
    try:
        yield made, second
    finally:
        ray.shutdown()
        made.shutdown()


@THEIRS
def test_ray_gives_the_same_bytes_and_loses_nothing_when_a_worker_and_a_node_die(
    cluster: Any, serial: dict[str, bytes], tmp_path: Path
) -> None:
    nodes, second = cluster
    assert swept(tmp_path / "same", OVER, RayExecutor()) == serial
    slow = tmp_path / "family" / "slow.py"
    slow.parent.mkdir()
    slow.write_text(MEAN.read_text().replace("    if n < 1:", "    import time; time.sleep(0.2)\n    if n < 1:"))
    over = {"spread": [1.0, 2.0], "n": list(range(5, 15))}
    store = tmp_path / "store"
    with (
        ThreadPoolExecutor() as pool,
        gb.sweep(slow, over, seeds=3, executor=RayExecutor(), store=store, retries=5) as results,
    ):
        ended = []
        for each in results:
            ended.append(each.address)
            if len(ended) == 4:
                killed = pool.submit(_kill_a_ray_worker)
            if len(ended) == 8:
                nodes.remove_node(second, allow_graceful=False)
        assert results.failures() == []
        assert killed.result()
    assert len(ended) == len(set(ended)) == 20
    assert Store(store).addresses() == set(ended)
    assert [record.seeds for record in Store(store).scan()] == [3] * 20
    (status,) = statuses(Store(store))
    assert (status.done, status.left, status.failures) == (20, 0, ())


def _kill_a_ray_worker() -> bool:
    """Kill a process that computes for Ray, as soon as there is one: between two tasks they are named `ray::IDLE`."""
    started = time.monotonic()
    while time.monotonic() - started < 60:
        for process in psutil.Process().children(recursive=True):
            with contextlib.suppress(psutil.NoSuchProcess):
                if " ".join(process.cmdline()).startswith("ray::_call"):
                    process.kill()
                    return True
    return False


@THEIRS
def test_dask_gives_the_same_bytes(serial: dict[str, bytes], tmp_path: Path) -> None:
    with executor("dask", workers=1) as (found, _):
        assert swept(tmp_path, OVER, found) == serial


@THEIRS
def test_submitit_gives_the_same_bytes(serial: dict[str, bytes], tmp_path: Path) -> None:
    with executor("local", folder=tmp_path / "logs") as (found, _):
        assert swept(tmp_path / "store", OVER, found) == serial


@THEIRS
def test_a_sweep_into_a_bucket_gives_the_same_bytes(serial: dict[str, bytes], s3: str) -> None:
    with gb.sweep(MEAN, OVER, seeds=4, store=s3, workers=1) as results:
        assert results.failures() == []
    records = list(Store(s3).scan())
    assert {f"{r.address} {name}": a.tobytes() for r in records for name, a in r.arrays.items()} == serial
    (status,) = statuses(Store(s3))
    assert (status.done, status.left, status.drivers) == (6, 0, 0)


def test_two_drivers_of_one_sweep_leave_every_record_once(serial: dict[str, bytes], tmp_path: Path) -> None:
    over = ["--over", "spread=0.5,1,2", "--over", "n=5,6", "--seeds", "4"]
    command = [sys.executable, "-m", "gradbias", "sweep", str(MEAN), *over, "--workers", "1", "--store", str(tmp_path)]
    both = [subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) for _ in range(2)]
    told = [driver.communicate(timeout=240) for driver in both]
    assert [driver.returncode for driver in both] == [0, 0], told
    records = list(Store(tmp_path).scan())
    assert len(records) == 6
    assert {f"{r.address} {name}": a.tobytes() for r in records for name, a in r.arrays.items()} == serial


def test_an_executor_that_does_not_exist_is_refused_with_those_that_do() -> None:
    with pytest.raises(UsageError, match=", ".join(NAMES)), executor("condor"):
        pass


def test_slurm_where_there_is_none_says_so(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="Slurm cannot be used from here"), executor("slurm", folder=tmp_path):
        pass


@pytest.mark.parametrize(("name", "package"), [("ray", "ray"), ("dask", "distributed"), ("local", "submitit")])
def test_a_package_that_is_not_installed_is_named_with_its_command(
    name: str, package: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    told = f"{package} is not installed here. Install it with"
    with pytest.raises(UsageError, match=told), executor(name, folder=tmp_path):
        pass
