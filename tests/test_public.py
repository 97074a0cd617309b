"""The public names: each resolves, is documented, and cites what the bibliography has."""

import ast
import re
from pathlib import Path

import pytest

import gradbias as gb
from gradbias.bibliography import references

PACKAGE = Path(gb.__file__).parent
STUB = ast.parse((PACKAGE / "__init__.pyi").read_text(encoding="utf-8"))
NAMES = [alias.asname for node in STUB.body if isinstance(node, ast.ImportFrom) for alias in node.names]
FILES = [path for path in sorted(PACKAGE.rglob("*.py")) if "claims" not in path.relative_to(PACKAGE).parts]


@pytest.mark.parametrize("name", NAMES)
def test_a_public_name_resolves_and_has_a_docstring(name):
    assert (getattr(gb, name).__doc__ or "").strip()


def test_public_names_are_sixty_at_most():
    assert len(NAMES) <= 60


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_what_a_docstring_cites_is_in_the_bibliography(path):
    cited = set(re.findall(r"\[@([a-z]+\d{4}[a-z]+)", path.read_text(encoding="utf-8")))
    assert cited <= set(references())
