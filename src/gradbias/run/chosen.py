"""From names and options to the claims and jobs that they mean; what is wrong is said before anything runs."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from .. import catalogue
from ..errors import UsageError
from .job import Job, double_precision, resolved
from .parameters import checked, parse


def entry_of(name: str) -> catalogue.Entry:
    """A claim by its id, or a claim file by its path; raises `UsageError` if there is none."""
    if name.endswith(".py"):
        path = Path(name).resolve()
        if not path.is_file():
            raise UsageError(f"There is no file {name}.")
        return catalogue.read(path)
    return catalogue.find(name)


def file_of(name: str) -> tuple[Path, str]:
    """The file of a claim, and the name of a function in it (`my.py:experiment`) or nothing."""
    path, _, function = name.rpartition(".py:")
    if path and function.isidentifier():
        if not Path(f"{path}.py").is_file():
            raise UsageError(f"There is no file {path}.py.")
        return Path(f"{path}.py").resolve(), function
    return entry_of(name).path, ""


def chosen_claims(names: Sequence[str], *, every: bool) -> list[catalogue.Entry]:
    """The claims that are named, each once, or every claim of the atlas; raises `UsageError` if there are none."""
    if not names and not every:
        raise UsageError("Name a claim (`gradbias list` shows them), a claim file, or give --all.")
    chosen = {entry.path: entry for entry in (entry_of(name) for name in names)}
    return list((chosen | ({entry.path: entry for entry in catalogue.entries().values()} if every else {})).values())


def jobs_of(
    entries: Sequence[catalogue.Entry],
    setting: str,
    seeds: int | None,
    assignments: Sequence[str],
    *,
    control: bool,
    base_seed: int,
) -> list[Job]:
    """One job per claim; what is wrong with the setting or a parameter is said before anything runs."""
    texts = parse(assignments) | ({} if seeds is None else {"seeds": str(seeds)})
    setting, control = ("smoke", True) if setting == "control" else (setting, control)
    jobs = []
    for entry in entries:
        if entry.settings and setting not in entry.settings:
            known = ", ".join([*entry.settings, "control"])
            raise UsageError(f"Unknown setting {setting!r} of {entry.id}; it has {known}.")
        changes: dict[str, Any] = checked(texts, {}) if not assignments else {}
        if assignments and not entry.problem:
            with double_precision():
                claim = entry.load()
                resolved(Job(entry.path, setting, texts, base_seed, control), claim)
                changes = checked(texts, claim.parameters())
        jobs.append(Job(entry.path, setting, changes, base_seed, control))
    return jobs
