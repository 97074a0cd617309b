"""The atlas as a folder: every file below `gradbias/claims/<family>/` is a claim, its file name the id.

Listing reads the files as text (the docstring and the literal arguments of `Claim(...)`), so it needs neither JAX nor
any claim to be importable; running imports one file. `GRADBIAS_CLAIMS` names another folder to read instead,
of the same form (<family>/<claim>.py).
"""

import ast
import difflib
import functools
import importlib
import importlib.util
import os
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from .errors import ClaimError, UsageError

if TYPE_CHECKING:
    from .claim import Claim

FOLDER = Path(__file__).parent / "claims"


@dataclass(frozen=True)
class Entry:
    """One claim file: where it is and what can be read of it without importing it."""

    id: str
    family: str
    path: Path
    summary: str
    fields: dict[str, Any]
    problem: str = ""

    @property
    def settings(self) -> dict[str, dict[str, Any]]:
        """The named settings."""
        return self.fields.get("settings", {})

    def load(self) -> "Claim":
        """Import the file and return its `CLAIM`; `ClaimError` names the file and line of what is wrong."""
        if self.problem:
            raise ClaimError(self.problem)
        return _import_claim(self)


def folder() -> Path:
    """The folder of claims: `GRADBIAS_CLAIMS` if set, else the package's own."""
    return Path(os.environ.get("GRADBIAS_CLAIMS") or FOLDER).resolve()


def entries() -> dict[str, Entry]:
    """Every claim in the atlas by id, in the order of families and names. A broken file is listed with its problem."""
    found: dict[str, Entry] = {}
    for path in sorted(folder().glob("*/*.py")):
        if path.name.startswith("_"):
            continue
        entry = read(path)
        if (first := found.get(entry.id)) is not None:
            entry = replace(
                first, problem=f"{path}:1: the id {entry.id!r} is already that of {first.path}; rename one."
            )
        found[entry.id] = entry
    return found


def find(name: str) -> Entry:
    """The entry called `name`; raises `UsageError` with the nearest names if there is none."""
    every = entries()
    if name in every:
        return every[name]
    near = difflib.get_close_matches(name, every, n=3, cutoff=0.5)
    hint = f"Did you mean {' or '.join(near)}?" if near else "`gradbias list` shows all of them."
    raise UsageError(f"There is no claim called {name!r}. {hint}")


def read(path: Path) -> Entry:
    """Read one claim file without importing it; again only if it has changed."""
    status = path.stat()
    return _read(path, status.st_mtime_ns, status.st_size)


@functools.lru_cache(maxsize=512)
def _read(path: Path, *_stamp: int) -> Entry:
    name, family = path.stem.replace("_", "-"), path.parent.name
    try:
        tree = ast.parse(path.read_text(encoding="utf-8"), filename=str(path))
    except (SyntaxError, UnicodeDecodeError) as error:
        line = getattr(error, "lineno", None) or 1
        return Entry(name, family, path, "", {}, f"{path}:{line}: the file does not parse: {error}")
    summary = (ast.get_docstring(tree) or "").partition("\n")[0]
    for node in tree.body:
        targets = [node.target] if isinstance(node, ast.AnnAssign) else getattr(node, "targets", [])
        named = any(isinstance(t, ast.Name) and t.id == "CLAIM" for t in targets)
        if named and isinstance(node, ast.Assign | ast.AnnAssign) and isinstance(node.value, ast.Call):
            fields = {k.arg: _literal(k.value) for k in node.value.keywords if k.arg}
            return Entry(name, family, path, summary, {k: v for k, v in fields.items() if v is not None})
    return Entry(name, family, path, summary, {}, f"{path}:1: the file defines no `CLAIM = Claim(...)`.")


def _literal(node: ast.expr) -> Any:
    """The value of a literal, of `dict(a=1)`, `Source("k", "w")`, `Standing(Outcome.x, "r")`; None for the rest."""
    if isinstance(node, ast.Dict):
        return {_literal(k) if k else None: _literal(v) for k, v in zip(node.keys, node.values, strict=True)}
    if isinstance(node, ast.Call):
        called = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
        if called == "dict":
            return {k.arg: _literal(k.value) for k in node.keywords}
        if called in ("Source", "Standing"):
            return [_literal(a) for a in node.args] + [_literal(k.value) for k in node.keywords]
    if isinstance(node, ast.Attribute):
        return node.attr
    try:
        return ast.literal_eval(node)
    except ValueError:
        return None


def import_file(path: Path) -> ModuleType:
    """Import a Python file; `ClaimError` names the file and line of what is wrong."""
    try:
        if path.is_relative_to(FOLDER):
            return importlib.import_module(f"gradbias.claims.{path.parent.name}.{path.stem}")
        spec = importlib.util.spec_from_file_location(f"gradbias_claim_{path.stem}", path)
        if spec is None or spec.loader is None:
            raise ClaimError(f"{path}: not a Python file.")
        module = importlib.util.module_from_spec(spec)
        sys.modules[spec.name] = module
        spec.loader.exec_module(module)
    except ClaimError:
        raise
    except Exception as error:
        raise ClaimError(
            f"{where(path, error)}: the file cannot be imported: {type(error).__name__}: {error}"
        ) from error
    return module


def _import_claim(entry: Entry) -> "Claim":
    from .claim import Claim

    claim = getattr(import_file(entry.path), "CLAIM", None)
    if not isinstance(claim, Claim):
        raise ClaimError(f"{entry.path}:1: `CLAIM` must be a gradbias.Claim; got {type(claim).__name__}.")
    return claim


def where(path: Path, error: BaseException) -> str:
    """`path:line` of the last frame of an error that lies in the file itself."""
    line, trace = 1, error.__traceback__
    while trace is not None:
        if Path(trace.tb_frame.f_code.co_filename) == path:
            line = trace.tb_lineno
        trace = trace.tb_next
    return f"{path}:{line}"
