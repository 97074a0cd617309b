"""The catalogue: what is read from claim files without importing them."""

from pathlib import Path

import pytest

from gradbias import bibliography, catalogue
from gradbias.errors import ClaimError, UsageError

CLAIMS = Path(__file__).parent / "claims_for_tests"


@pytest.fixture
def _test_claims(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GRADBIAS_CLAIMS", str(CLAIMS))


@pytest.mark.usefixtures("_test_claims")
def test_the_name_of_a_file_is_the_id_and_its_folder_the_family() -> None:
    found = catalogue.entries()
    assert {entry.family for entry in found.values()} == {"sound", "broken"}
    assert found["mean-minimizes"].settings["standard"] == {"seeds": 8, "n": 50}
    assert found["known-false"].fields["standing"][0] == "refuted"


@pytest.mark.usefixtures("_test_claims")
def test_a_broken_file_is_listed_and_raises_when_loaded() -> None:
    entry = catalogue.find("unfinished")
    assert entry.problem
    with pytest.raises(ClaimError, match=r"unfinished\.py:3"):
        entry.load()


@pytest.mark.usefixtures("_test_claims")
def test_an_unknown_name_is_answered_with_the_nearest() -> None:
    with pytest.raises(UsageError, match="Did you mean known-false"):
        catalogue.find("know-false")
    with pytest.raises(UsageError, match="gradbias list"):
        catalogue.find("qqqq")


def test_two_files_of_one_name_are_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for family in ("one", "two"):
        (tmp_path / family).mkdir()
        (tmp_path / family / "same.py").write_text((CLAIMS / "sound" / "known_false.py").read_text())
    monkeypatch.setenv("GRADBIAS_CLAIMS", str(tmp_path))
    assert "is already that of" in catalogue.find("same").problem


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("x = 1\n", "defines no `CLAIM"),
        ("CLAIM = Claim(\n", "does not parse"),
        ("import nothing_of_this_name\nCLAIM = Claim()\n", r":1: the file cannot be imported: ModuleNotFoundError"),
        ("\n\nCLAIM = dict(a=1)\n", "must be a gradbias.Claim; got dict"),
    ],
)
def test_what_is_wrong_with_a_file_is_said_with_its_line(tmp_path: Path, text: str, words: str) -> None:
    path = tmp_path / "family" / "some_claim.py"
    path.parent.mkdir()
    path.write_text(text)
    with pytest.raises(ClaimError, match=words):
        catalogue.read(path).load()


def test_every_file_of_the_atlas_can_be_read_as_text() -> None:
    assert [entry.problem for entry in catalogue.entries().values() if entry.problem] == []


def test_the_bibliography_can_be_read_and_every_claim_cites_it() -> None:
    known = bibliography.references()
    assert all(reference.authors and reference.fields["title"] for reference in known.values())
    cited = {entry.fields["source"][0] for entry in catalogue.entries().values() if not entry.problem}
    assert cited <= set(known)


def test_bibtex_is_read_as_it_is_written(tmp_path: Path) -> None:
    path = tmp_path / "refs.bib"
    path.write_text(
        "@comment{x, y}\n@article{a1, author = {Cand{\\`e}s, E. J. and Recht, Ben and {\\'E}cole, X},\n"
        '  title = "The {I}mplicit bias of \\"{o}ther pages 1--2", year = 2018, doi={10.1/x}}\n'
        "@misc{b2,\n  author = {One, A and Two, B and Three, C and Four, D},\n  title = {T {nested {deep}} end},\n"
        "  year = {2019},\n  eprint = {1810.02032},\n}\n"
    )
    first, second = bibliography.references(path).values()
    assert str(first) == "Candès, Recht and École (2018) The Implicit bias of öther pages 1–2."
    assert first.url == "https://doi.org/10.1/x"
    assert str(second) == "One et al. (2019) T nested deep end. arXiv:1810.02032."
    assert second.url == "https://arxiv.org/abs/1810.02032"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("@misc{a, title={x}}\n\n@misc{a, title={y}}", ":3: the key 'a' is used twice"),
        ("\n@misc{a, title={x", ":2: .*never closed"),
    ],
)
def test_a_bibliography_that_is_broken_names_the_line(tmp_path: Path, text: str, words: str) -> None:
    path = tmp_path / "refs.bib"
    path.write_text(text)
    with pytest.raises(ValueError, match=words):
        bibliography.references(path)
