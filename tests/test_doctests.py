"""The examples in docstrings are run."""

import doctest
import importlib
from pathlib import Path

import pytest

import gradbias

PACKAGE = Path(gradbias.__file__).parent
WITH_EXAMPLES = [
    ".".join(("gradbias", *path.relative_to(PACKAGE).with_suffix("").parts)).removesuffix(".__init__")
    for path in sorted(PACKAGE.rglob("*.py"))
    if ">>> " in path.read_text(encoding="utf-8")
]


@pytest.mark.parametrize("name", WITH_EXAMPLES)
def test_the_examples_of_a_module_give_what_they_show(name):
    failed, tried = doctest.testmod(importlib.import_module(name))
    assert tried
    assert not failed
