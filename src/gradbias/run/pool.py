"""An executor of spawned processes with one thread each; a process that dies costs the task that it was on.

The standard library's process pool is broken for good by one dead worker. Here every worker belongs to a thread that
hands it tasks through a pipe; the pipe ends when the process does, and the thread starts another one.
"""

import concurrent.futures
import contextlib
import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

import platformdirs
import psutil

# Keep every program: making data runs dozens of small ones, 50 ms each to compile and 1 ms to load.
_WORTH_KEEPING_SECONDS = "0"
# JAX never forgets a program; beyond a gigabyte the oldest go.
_CACHE_BYTES = 1 << 30


class WorkerDied(RuntimeError):
    """The process that ran a task ended before the task did; the text says by which signal or exit code."""


@dataclass
class _Worker:
    process: multiprocessing.process.BaseProcess
    pipe: Connection


class WorkerPool(concurrent.futures.Executor):
    """Processes that compute in float64 with one thread each; `submit` as in `concurrent.futures`.

    A task whose process dies ends with `WorkerDied`. A script that makes one needs an `if __name__ == "__main__":`,
    like everything that spawns processes.
    """

    own_processes = True  # a task may end the process that runs it and costs nobody else anything

    def __init__(self, workers: int | None = None) -> None:
        self.workers = workers or cores()
        self._threads = ThreadPoolExecutor(self.workers, thread_name_prefix="gradbias-worker")
        self._processes: dict[int, _Worker] = {}  # by the thread that owns it
        self._lock = threading.Lock()
        self._closed = False

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        """Run `fn(*args, **kwargs)`, which must pickle, in the first process that is free."""
        return self._threads.submit(self._call, fn, args, kwargs)

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Let what was submitted end (unless `cancel_futures`: what waits is dropped), then end the processes."""
        self._threads.shutdown(wait=wait, cancel_futures=cancel_futures)
        if wait:
            self.kill()

    def kill(self) -> None:
        """End every process now, whatever it is doing: its tasks end with `WorkerDied`."""
        with self._lock:
            self._closed = True
            ending = list(self._processes.values())
        self._threads.shutdown(wait=False, cancel_futures=True)
        for worker in ending:
            worker.process.terminate()
        for worker in ending:
            worker.process.join(1.0)
            if worker.process.is_alive():
                worker.process.kill()
                worker.process.join(1.0)

    def _call(self, fn: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        worker = self._worker()
        try:
            worker.pipe.send((fn, args, kwargs))
            result, error = worker.pipe.recv()
        except (EOFError, ConnectionError) as ended:
            raise WorkerDied(f"the process died ({self._bury(worker)})") from ended
        if error is not None:
            raise error
        return result

    def _worker(self) -> _Worker:
        """The process of this thread; started at its first task, and again after it has died."""
        worker = self._processes.get(threading.get_ident())
        if worker is None or worker.pipe.closed or not worker.process.is_alive():
            context = multiprocessing.get_context("spawn")
            ours, theirs = context.Pipe()
            process = context.Process(target=_work, args=(theirs,), daemon=True)
            with self._lock:
                if self._closed:
                    raise WorkerDied("the pool was shut down")
                with _environment(compute_environment()):
                    process.start()
                theirs.close()
                worker = self._processes[threading.get_ident()] = _Worker(process, ours)
        return worker

    def _bury(self, worker: _Worker) -> str:
        worker.process.join(5)
        worker.pipe.close()
        code = worker.process.exitcode
        return f"signal {signal.Signals(-code).name}" if code and code < 0 else f"exit code {code}"


def cores() -> int:
    """How many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _work(pipe: Connection) -> None:
    """The life of a worker: functions in, results (or errors) out, until there is no more."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent, which ends us
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    os.dup2(2, 1)  # whatever a claim prints is no part of the parent's output
    threading.Thread(target=_die_with_parent, daemon=True).start()
    _refuse_more_than_all_memory()
    with contextlib.suppress(EOFError, BrokenPipeError):
        while True:
            fn, args, kwargs = pipe.recv()
            answer: tuple[Any, Exception | None]
            try:
                answer = (fn(*args, **kwargs), None)
            except Exception as error:
                answer = (None, error)
            pipe.send(answer)


def _refuse_more_than_all_memory() -> None:
    """Make an array larger than the machine a `MemoryError` that names its size, not a process that is killed."""
    if sys.platform == "linux":
        import resource

        _, hard = resource.getrlimit(resource.RLIMIT_DATA)
        everything = psutil.virtual_memory().total
        resource.setrlimit(resource.RLIMIT_DATA, (everything if hard < 0 else min(everything, hard), hard))


def _die_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        wait([parent.sentinel])
        os._exit(1)


def compute_environment() -> dict[str, str]:
    """Environment of a process that computes: float64, one thread, JAX's cache in the user's folder.

    What the user has set already stays as it is.
    """
    wanted = {
        "JAX_ENABLE_X64": "1",
        # One thread for XLA. Its own flag for that (--xla_cpu_multi_thread_eigen) hangs in batched linear algebra.
        "NPROC": "1",
        "OMP_NUM_THREADS": "1",
        "OPENBLAS_NUM_THREADS": "1",
    }
    cache = Path(platformdirs.user_cache_dir("gradbias")) / "compiled"
    with contextlib.suppress(OSError):  # no cache is slower, not wrong
        cache.mkdir(parents=True, exist_ok=True)
        if os.access(cache, os.W_OK):
            _forget_oldest(cache)
            wanted |= {
                "JAX_COMPILATION_CACHE_DIR": str(cache),
                "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": _WORTH_KEEPING_SECONDS,
            }
    return {name: value for name, value in wanted.items() if name not in os.environ}


def _forget_oldest(cache: Path) -> None:
    """Keep the cache below a gigabyte: programs of old versions are never asked for again."""
    files = sorted((path.stat().st_mtime, path.stat().st_size, path) for path in cache.iterdir() if path.is_file())
    excess = sum(size for _, size, _ in files) - _CACHE_BYTES
    for _, size, path in files:
        if excess <= 0:
            break
        path.unlink(missing_ok=True)
        excess -= size


@contextlib.contextmanager
def _environment(variables: dict[str, str]) -> Iterator[None]:
    os.environ.update(variables)
    try:
        yield
    finally:
        for name in variables:
            os.environ.pop(name, None)
