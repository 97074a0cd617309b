"""Who may import whom, from the import statements of the package itself; no cycles; lightness where promised."""

import ast
import subprocess
import sys
from collections.abc import Iterator, Mapping
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "src" / "gradbias"
Graph = dict[str, set[str]]

# Lowest first; a module imports its own layer and those below. Names are those directly below the package.
LAYERS = (
    {
        "problem",
        "losses",
        "data",
        "image_files",
        "metric",
        "claim",
        "judging",
        "evidence",
        "training",
        "errors",
        "figures",
        "catalogue",
        "bibliography",
        "pages",
    },
    {"models", "dynamics", "measures", "oracles"},
    {"assumptions", "pytorch"},
    {"claims"},
    {"run", "contract", "measure_command", "sweep_command"},
    {"cli", "__main__"},
)
# In the second layer only `models` may be imported by its siblings.
SHARED_BY_SIBLINGS = {"models"}
# The prediction shares no code with the measurement.
FORBIDDEN = {"oracles": {"models", "dynamics", "measures"}}
# The pages read the store and compute no verdict.
WEB_MAY_IMPORT = {"gradbias.run.store", "gradbias.run.record", "gradbias.errors"}


def modules(root: Path) -> Iterator[tuple[str, Path]]:
    for path in sorted(root.rglob("*.py")):
        parts = path.relative_to(root.parent).with_suffix("").parts
        yield ".".join(parts[:-1] if parts[-1] == "__init__" else parts), path


def import_graph(root: Path, *, deferred: bool) -> Graph:
    """Every module of a package with the modules of the package that it imports; `deferred`: also inside functions."""
    known = dict(modules(root))
    return {
        name: {target for target in _imports(name, path, known, deferred=deferred) if target != name}
        for name, path in known.items()
    }


def _imports(name: str, path: Path, known: Mapping[str, Path], *, deferred: bool) -> Iterator[str]:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    package = name if path.name == "__init__.py" else name.rpartition(".")[0]
    for node in ast.walk(tree) if deferred else _at_import(tree):
        if isinstance(node, ast.Import):
            wanted = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = ".".join([*package.split(".")[: len(package.split(".")) - node.level + 1]]) if node.level else ""
            base = ".".join(part for part in (base, node.module) if part)
            wanted = [f"{base}.{alias.name}" if f"{base}.{alias.name}" in known else base for alias in node.names]
        else:
            continue
        yield from (target for target in wanted if target in known)


def _at_import(tree: ast.AST) -> Iterator[ast.AST]:
    """Nodes that run when a module is imported: not the bodies of functions, not what only a type checker reads."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            continue
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            continue
        yield node
        yield from _at_import(node)


def top(module: str) -> str:
    return module.split(".")[1] if "." in module else ""


def layer(name: str) -> int:
    return next((number for number, names in enumerate(LAYERS) if name in names), -1)


def violations(graph: Graph) -> list[str]:
    found = []
    for module, targets in graph.items():
        for target in sorted(targets):
            a, b = top(module), top(target)
            if not a or not b or a == b:
                continue  # the package itself only names what is public, lazily
            if a == "web":
                wrong = target not in WEB_MAY_IMPORT
            else:
                siblings = layer(a) == layer(b) == 1 and b not in SHARED_BY_SIBLINGS
                wrong = layer(b) > layer(a) or siblings or b in FORBIDDEN.get(a, set())
            if wrong:
                found.append(f"{module} imports {target}")
    return found


def test_every_module_has_a_layer() -> None:
    names = {top(module) for module, _ in modules(PACKAGE)} - {"", "web"}
    assert {name for name in names if layer(name) < 0} == set()


def test_the_layers_hold() -> None:
    assert violations(import_graph(PACKAGE, deferred=True)) == []


def test_there_are_no_import_cycles() -> None:
    try:
        list(TopologicalSorter(import_graph(PACKAGE, deferred=False)).static_order())
    except CycleError as error:
        pytest.fail(f"import cycle: {' -> '.join(error.args[1])}")


@pytest.mark.parametrize(
    ("module", "line"),
    [
        ("oracles/margin.py", "from ..dynamics import flow"),
        ("oracles/margin.py", "from gradbias.models import linear"),
        ("oracles/margin.py", "def late():\n    import gradbias.dynamics.flow"),
        ("dynamics/flow.py", "from ..oracles.margin import value"),
        ("problem.py", "from .models import linear"),
        ("models/linear.py", "from .. import cli"),
        ("web/pages.py", "from ..judging import judge"),
        ("claims/family/one.py", "from gradbias.run.job import Job"),
    ],
)
def test_a_violation_is_seen(tmp_path: Path, module: str, line: str) -> None:
    root = tmp_path / "gradbias"
    for name in (
        "oracles/margin",
        "dynamics/flow",
        "models/linear",
        "run/job",
        "problem",
        "judging",
        "cli",
        "web/pages",
    ):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        for folder in {root, (root / name).parent}:
            (folder / "__init__.py").touch()
        (root / f"{name}.py").touch()
    assert violations(import_graph(root, deferred=True)) == []
    (root / module).parent.mkdir(parents=True, exist_ok=True)
    (root / module).write_text(line)
    assert len(violations(import_graph(root, deferred=True))) == 1


def test_a_cycle_is_seen(tmp_path: Path) -> None:
    root = tmp_path / "gradbias"
    root.mkdir()
    (root / "__init__.py").touch()
    (root / "losses.py").write_text("from . import data")
    (root / "data.py").write_text("def later():\n    from . import losses")
    TopologicalSorter(import_graph(root, deferred=False)).prepare()
    (root / "data.py").write_text("from .losses import square")
    with pytest.raises(CycleError):
        TopologicalSorter(import_graph(root, deferred=False)).prepare()


@pytest.mark.parametrize(
    "module",
    ["gradbias", "gradbias.cli", "gradbias.run", "gradbias.run.job", "gradbias.run.sweep", "gradbias.run.query"],
)
def test_starting_up_imports_nothing_heavy(module: str) -> None:
    heavy = {"jax", "equinox", "diffrax", "scipy", "sklearn", "cvxpy", "torch", "plotly", "xarray"}
    heavy |= {"duckdb", "pyarrow", "fsspec"}
    code = f"import sys, {module}; print(sorted({heavy} & set(sys.modules)))"
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert told.stdout.strip() == "[]"
