"""Jobs, records, the store, reports. Importing this package imports none of the numerical ones."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .record import Record


def run(
    claim: str | Path,
    setting: str = "smoke",
    *,
    seeds: int | None = None,
    base_seed: int = 0,
    control: bool = False,
    store: Path | str | None = None,
    fresh: bool = False,
    **changes: Any,
) -> "Record":
    """Run a claim (an id of the atlas, or the path of a claim file) in this process and return the record.

    `changes` are parameters of the claim. With a `store`, a record that is there is returned at once (unless `fresh`)
    and a new one is kept; without, nothing is written. Computes in float64 whatever the session's precision is.

    Raises `UsageError` for a claim, setting, parameter or value that does not exist or fit, `ClaimError` naming file
    and line for a claim that fails.
    """
    from .. import catalogue
    from .job import Job, run_job
    from .store import Store

    path = catalogue.find(str(claim)).path if not str(claim).endswith(".py") else Path(claim)
    given = changes | ({} if seeds is None else {"seeds": seeds})
    job = Job(path.resolve(), setting, given, base_seed, control)
    return run_job(job, None if store is None else Store(store), fresh=fresh)
