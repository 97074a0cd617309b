"""Where blocks run: processes of this machine, a Ray or Dask cluster, Slurm. Anything else with `submit` works too."""

import concurrent.futures
import contextlib
import logging
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from pathlib import Path
from typing import Any

from ..errors import UsageError
from .pool import WorkerPool, compute_environment, cores

NAMES = ("process", "serial", "ray", "dask", "slurm", "local")


class SerialExecutor(concurrent.futures.Executor):
    """Runs each task in this process, at once: for debugging."""

    workers = 1

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        """Run it now; the future that comes back is done."""
        future: Future[Any] = Future()
        future.set_running_or_notify_cancel()
        try:
            future.set_result(fn(*args, **kwargs))
        except Exception as error:
            future.set_exception(error)
        return future


class RayExecutor(concurrent.futures.Executor):
    """Tasks of one core each on a Ray cluster; `address` is that of `ray.init`, None for a cluster on this machine.

    Ray's own retries are off: a task whose process or node dies ends with Ray's error, and who submitted it decides. A
    Ray that is connected already is used as it is. Raises `UsageError` if Ray is not installed or cannot be reached.
    """

    own_processes = True

    def __init__(self, address: str | None = None) -> None:
        try:
            import ray
        except ImportError as error:
            raise _not_installed("ray", "pip install 'gradbias[ray]'") from error
        if not ray.is_initialized():
            try:
                ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR)
            except (ConnectionError, RuntimeError, ValueError, OSError) as error:
                raise UsageError(
                    f"No Ray cluster answers at {address!r} ({error}). Start one with `ray start --head`, or leave "
                    "--address out for one on this machine."
                ) from error
        self._call = ray.remote(num_cpus=1, max_retries=0, runtime_env={"env_vars": compute_environment()})(_call)
        self._cancel = ray.cancel
        # Twice what can run: workers never wait for the driver, and no task waits for long where its time counts.
        self.workers = max(1, 2 * int(ray.cluster_resources().get("CPU", 1)))

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        """Run it on the cluster; arguments and results travel by pickle."""
        return self._call.remote(fn, args, kwargs).future()


def _call(fn: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    return fn(*args, **kwargs)


@contextlib.contextmanager
def executor(
    name: str,
    *,
    workers: int | None = None,
    address: str | None = None,
    partition: str | None = None,
    max_jobs: int | None = None,
    folder: Path = Path("gradbias-runs/slurm"),
    minutes: int = 60,
) -> Iterator[tuple[Any, int]]:
    """An executor by its name, and how many blocks to submit at a time; what it started is ended on the way out.

    Raises `UsageError` for an unknown name, a package that is not installed, or a cluster that does not answer.
    """
    if name == "process":
        pool = WorkerPool(workers)
        try:
            yield pool, pool.workers
        finally:
            pool.kill()
    elif name == "serial":
        yield SerialExecutor(), 1
    elif name == "ray":
        found = RayExecutor(address)
        yield found, max_jobs or found.workers
    elif name == "dask":
        with _dask(address, workers) as client:
            yield client.get_executor(pure=False, retries=0), max_jobs or 1000
    elif name in ("slurm", "local"):
        yield _submitit(name, folder, partition, max_jobs, minutes=minutes), max_jobs or 1000
    else:
        raise UsageError(f"There is no executor {name!r}; there are {', '.join(NAMES)}.")


@contextlib.contextmanager
def _dask(address: str | None, workers: int | None) -> Iterator[Any]:
    try:
        from distributed import Client, LocalCluster
    except ImportError as error:
        raise _not_installed("distributed", "pip install distributed") from error
    if address is not None:
        try:
            client = Client(address, timeout="10s")
        except (OSError, TimeoutError, ValueError) as error:
            raise UsageError(f"No Dask scheduler answers at {address!r} ({error}).") from error
        with client:
            yield client
        return
    environment = compute_environment()
    with (
        LocalCluster(
            n_workers=workers or cores(), threads_per_worker=1, dashboard_address=None, env=environment
        ) as made,
        Client(made) as client,
    ):
        yield client


def _submitit(cluster: str, folder: Path, partition: str | None, max_jobs: int | None, *, minutes: int) -> Any:
    try:
        import submitit
    except ImportError as error:
        raise _not_installed("submitit", "pip install submitit") from error
    try:
        made = submitit.AutoExecutor(folder=folder, cluster=cluster)
    except RuntimeError as error:
        raise UsageError(f"Slurm cannot be used from here: {error}. Run this where `sbatch` is.") from error
    wanted = {"timeout_min": minutes, "cpus_per_task": 1, "name": "gradbias"}
    if cluster == "slurm":
        wanted |= {"slurm_partition": partition, "slurm_array_parallelism": max_jobs}
    made.update_parameters(**{name: value for name, value in wanted.items() if value is not None})
    return made


def _not_installed(package: str, command: str) -> UsageError:
    return UsageError(f"{package} is not installed here. Install it with `{command}`, or use --executor process.")
