"""A sweep from Python: `with gradbias.sweep(...) as results`, and its numbers as an xarray of named dimensions."""

import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

import numpy as np

from .. import catalogue
from ..errors import ClaimError, UsageError
from .chosen import file_of
from .ledger import Ledger
from .plan import Grid, Plan, grid, plan, seeds_of
from .pool import WorkerPool
from .store import Store
from .sweep import Driver, Finished, Noted, Submits

if TYPE_CHECKING:
    import xarray

    from ..claim import Claim


class Sweep:
    """A claim over a grid of settings, and the executor that computes it; see `sweep`.

    Iterating yields each setting as it is `Finished`; what the store has comes first. `grid` is what was asked for,
    `plan` what has to be computed.
    """

    def __init__(
        self,
        grid: Grid,
        store: Store,
        executor: Any = None,
        *,
        workers: int | None = None,
        fresh: bool = False,
        retries: int = 2,
        timeout: float | None = None,
        window: int | None = None,
    ) -> None:
        self.grid, self.store, self.fresh = grid, store, fresh
        self._stored = set() if fresh else store.addresses()
        self.plan: Plan = plan(grid.jobs, self._stored)
        self._own = WorkerPool(workers) if executor is None else None
        self._executor: Submits = executor if self._own is None else self._own
        self._window = window or int(getattr(self._executor, "workers", 1000))
        self._retries, self._timeout = retries, timeout
        self.ledger = Ledger(store, grid.name)
        self.stopping = False
        self._finished: list[Finished] = []
        self._events: Iterator[Finished | Noted] | None = None

    def __enter__(self) -> "Sweep":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """End the workers that this sweep started; what has ended is in the store."""
        if self._events is not None:
            self._events.close()  # type: ignore[attr-defined]
        if self._own is not None:
            self._own.kill()

    def stop(self) -> None:
        """Start nothing more: what runs may end, then the sweep ends. The same call goes on from there."""
        self.stopping = True

    def __iter__(self) -> Iterator[Finished]:
        yield from (event for event in self.events() if isinstance(event, Finished))

    def events(self) -> Iterator[Finished | Noted]:
        """Everything that happens, once: settings that are finished, blocks that start, are retried or halved."""
        if self._events is None:
            self._events = self._run()
        for event in self._events:
            if isinstance(event, Finished):
                self._finished.append(event)
            yield event

    def _run(self) -> Iterator[Finished | Noted]:
        for job in self.grid.jobs:
            if job.address in self._stored:
                yield Finished(job, self.store, job.address, reused=True)
        if not self.plan.blocks:
            return
        self.store.require_writable()
        self.ledger.begin(self.grid)
        driver = Driver(
            self.store,
            self._executor,
            fresh=self.fresh,
            retries=self._retries,
            timeout=self._timeout,
            window=self._window,
            stop=lambda: self.stopping,
            tick=lambda now: self.ledger.beat([str(run.block) for run in now.running.values()]),
        )
        try:
            for event in driver.run(self.plan.blocks):
                if isinstance(event, Finished):
                    self._note(event)
                yield event
        finally:
            self.ledger.end()

    def _note(self, finished: Finished) -> None:
        if finished.address:
            self.ledger.succeeded(finished.address)
        else:
            self.ledger.fail(finished.job, str(finished.error))

    def failures(self) -> list[Finished]:
        """The settings that failed, with their errors."""
        for _ in self.events():
            pass
        return [finished for finished in self._finished if finished.error is not None]

    def to_xarray(self) -> "xarray.Dataset":
        """Wait for what is left, and put all numbers side by side: a dimension per swept parameter, then `seed`.

        `gap` and `error` are the largest over all parts and components, `gap_<part>` the largest of each part,
        `measured_<part>` and `predicted_<part>` the values of parts that have one number per seed. `outcome` and
        `seconds` are per setting. A setting that failed has NaN everywhere and the outcome "failed"; `failures()` says
        why.
        """
        for _ in self.events():
            pass
        by_job = {finished.job.address: finished for finished in self._finished}
        return _dataset(self.grid, [by_job.get(job.address) for job in self.grid.jobs])


def sweep(
    experiment: "str | Path | Claim | Callable[..., Any]",
    over: Mapping[str, Sequence[Any] | np.ndarray],
    *,
    seeds: int | None = None,
    setting: str = "smoke",
    executor: Any = None,
    store: Path | str | None = None,
    base_seed: int = 0,
    control: bool = False,
    fresh: bool = False,
    workers: int | None = None,
    retries: int = 2,
    timeout: float | None = None,
    **changes: Any,
) -> Sweep:
    """A claim at every combination of some parameters' values; settings that differ in numbers alone train as one.

        with gb.sweep("diagonal-net-l1-l2", {"alpha": np.geomspace(1e-6, 10, 25)}, seeds=20) as results:
            results.to_xarray().gap.mean("seed").plot()

    `experiment` is the id of a claim, a claim file, the `CLAIM` of one, or a function `f(key, *, alpha: float, …)` of a
    file, traced like `Claim.measured`, that returns arrays by name; these are then variables of `to_xarray()`, and
    nothing is judged. `executor` is anything with the `submit` of
    `concurrent.futures` (Dask's `client.get_executor()`, submitit's `AutoExecutor`, `RayExecutor`); by default
    processes of this machine, one per core. Records are kept in the store (default: `GRADBIAS_STORE`, else
    `./gradbias-runs`); what is there is not computed again, unless `fresh`. `timeout` is in seconds per block of
    settings, and a block that does not come back is tried `retries` more times before it is cut in half. A script that
    uses processes of this machine needs an `if __name__ == "__main__":`.

    Raises `UsageError` for a claim, setting, parameter or value that does not exist or fit.
    """
    values = {name: list(np.asarray(v).tolist() if isinstance(v, np.ndarray) else v) for name, v in over.items()}
    path, function = _file(experiment)
    asked = grid(
        path,
        values,
        function=function,
        setting=setting,
        seeds=seeds,
        changes=changes,
        base_seed=base_seed,
        control=control,
    )
    return Sweep(asked, Store(store), executor, workers=workers, fresh=fresh, retries=retries, timeout=timeout)


def _file(experiment: "str | Path | Claim | Callable[..., Any]") -> tuple[Path, str]:
    """The file that workers import, and the name of the function in it that is swept (empty: its claim)."""
    if isinstance(experiment, str | Path):
        return file_of(str(experiment))
    function: Any = experiment if inspect.isfunction(experiment) else getattr(experiment, "data", None)
    path = Path(inspect.getsourcefile(function) or "").resolve() if inspect.isfunction(function) else Path()
    if not path.is_file():
        raise UsageError(f"Workers import what is swept from a file, and {experiment!r} is in none. Put it in one.")
    if inspect.isfunction(experiment):
        name = str(experiment.__qualname__)
        if not name.isidentifier():
            raise UsageError(f"{name} cannot be imported: define it at the top level of {path}.")
        return path, name
    if catalogue.read(path).problem:
        raise UsageError(f"The claim must be the CLAIM of a file, which workers import; {path} defines none.")
    return path, ""


def _dataset(asked: Grid, finished: Sequence[Finished | None]) -> "xarray.Dataset":
    import xarray

    shape = tuple(len(values) for values in asked.over.values())
    seeds = seeds_of(asked.jobs[0])
    columns: dict[str, np.ndarray] = {}
    outcomes, spent = np.full(len(finished), "left", dtype=object), np.full(len(finished), np.nan)
    for i, each in enumerate(finished):
        if each is None or each.error is not None:
            outcomes[i] = "left" if each is None else "failed"
            continue
        record = each.record
        if record is None:
            raise ClaimError(f"The record of {each.job} has gone from the store {each.store.place}; sweep again.")
        outcomes[i], spent[i] = record.outcome, record.seconds
        for name, values in _per_seed(record.arrays).items():
            columns.setdefault(name, np.full((len(finished), seeds), np.nan))[i] = values
    dims = tuple(asked.over)
    data = {name: ((*dims, "seed"), values.reshape(*shape, seeds)) for name, values in columns.items()}
    data |= {"outcome": (dims, outcomes.reshape(shape)), "seconds": (dims, spent.reshape(shape))}
    coordinates = {name: [v if np.ndim(v) == 0 else str(v) for v in values] for name, values in asked.over.items()}
    about = {"claim": asked.jobs[0].claim, "setting": asked.setting, "base_seed": asked.base_seed}
    return xarray.Dataset(data, coordinates | {"seed": np.arange(seeds)}, about)


def _per_seed(arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """What a record has one number per seed of."""
    gaps = {name.removeprefix("gap/"): _largest(v) for name, v in arrays.items() if name.startswith("gap/")}
    errors = {name.removeprefix("error/"): v for name, v in arrays.items() if name.startswith("error/")}
    found = {"converged": arrays["converged"].astype(float)}
    if not any(name.startswith("predicted/") and np.isfinite(v).any() for name, v in arrays.items()):  # an experiment
        own = {name.removeprefix("measured/"): v for name, v in arrays.items() if name.startswith("measured/")}
        return found | {name: v.reshape(-1).astype(float) for name, v in own.items() if v.size == len(v)}
    if gaps:
        found |= {"gap": np.max(list(gaps.values()), axis=0), "error": np.max(list(errors.values()), axis=0)}
    found |= {f"gap_{part}": values for part, values in gaps.items()}
    for side in ("measured", "predicted"):
        for name, values in arrays.items():
            if name.startswith(f"{side}/") and values.size == len(arrays["converged"]):
                found[f"{side}_{name.removeprefix(f'{side}/')}"] = values.reshape(-1).astype(float)
    return found


def _largest(values: np.ndarray) -> np.ndarray:
    return values.reshape(len(values), -1).max(axis=1)
