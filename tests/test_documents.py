"""What the documentation shows is run as it stands."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
SNIPPETS = [
    pytest.param(snippet, id=f"{page.name}-{i}")
    for page in PAGES
    for i, snippet in enumerate(re.findall(r"```python\n(.*?)```", page.read_text(encoding="utf-8"), flags=re.DOTALL))
]


def run(arguments: list[str], folder: Path) -> str:
    """Run Python in a fresh process, in a folder of its own, with warnings as errors."""
    done = subprocess.run(
        [sys.executable, "-W", "error::DeprecationWarning:__main__", *arguments],
        cwd=folder,
        env=os.environ | {"OPENBLAS_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("snippet", SNIPPETS)
def test_a_snippet_runs_and_says_something(snippet, tmp_path):
    assert run(["-c", snippet], tmp_path).strip()


@pytest.mark.parametrize("page", sorted((ROOT / "docs" / "guide").glob("*.py")), ids=lambda page: page.stem)
def test_a_guide_runs_and_its_claim_is_supported_and_its_control_refuted(page, tmp_path):
    said = run([str(page)], tmp_path)
    assert "smoke: supported" in said
    assert "control: refuted" in said


def test_every_command_that_the_readme_shows_exists():
    from typer.main import get_command

    from gradbias.cli import app

    known = set(get_command(app).commands)
    blocks = re.findall(r"```sh\n(.*?)```", (ROOT / "README.md").read_text(encoding="utf-8"), flags=re.DOTALL)
    shown = {word for block in blocks for word in re.findall(r"(?:^|&& )gradbias (\w+)", block, flags=re.MULTILINE)}
    assert shown
    assert shown <= known
