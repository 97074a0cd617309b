"""The contract over the whole catalogue, one test per claim; and that the contract itself catches what it should."""

from pathlib import Path
from types import SimpleNamespace

import jax
import numpy as np
import pytest

from gradbias import catalogue
from gradbias.claim import Measured
from gradbias.contract import Check, _of_the_runs, check_claim
from gradbias.evidence import Timing

CLAIMS = Path(__file__).parent / "claims_for_tests"
SOUND = (CLAIMS / "sound" / "mean_minimizes.py").read_text()


@pytest.fixture(autouse=True)
def _forget_programs() -> None:
    """Programs of one claim are of no use to the next, and memory is finite."""
    jax.clear_caches()


def checks(path: Path) -> dict[str, Check]:
    return {check.name: check for check in check_claim(catalogue.read(path))}


@pytest.mark.parametrize("name", list(catalogue.entries()))
def test_the_claim_meets_the_contract(name: str) -> None:
    failed = [f"{check.name}: {check.detail}" for check in check_claim(catalogue.find(name)) if not check.passed]
    assert not failed, "\n".join(failed)


def test_a_sound_claim_passes_every_check() -> None:
    found = checks(CLAIMS / "sound" / "mean_minimizes.py")
    assert [name for name, check in found.items() if not check.passed] == []
    assert "compiling" in found["seconds"].detail


def test_a_negative_finding_that_says_so_passes() -> None:
    assert all(check.passed for check in checks(CLAIMS / "sound" / "known_false.py").values())


@pytest.mark.parametrize(
    ("old", "new", "name"),
    [
        ("Gradient descent on the", "gradient descent on the", "its first line is a sentence"),
        ('"soudry2018implicit"', '"nobody1900"', "its source is in the bibliography, with a locator"),
        ('"number not checked"', '" "', "its source is in the bibliography, with a locator"),
        ('seconds={"smoke": 1},', "", "what `list` shows can be read without importing"),
        ('"deep": {', '"shallow": {', "it has smoke, standard and deep settings and a control"),
        ('"deep": {"seeds"', '"deep": {"sedes"', "it has smoke, standard and deep settings and a control"),
        ('control={"power": 2}', "control={}", "it has smoke, standard and deep settings and a control"),
        ("import jax\n", "import jax\nfrom gradbias.run import store\n", "it imports only what lies below claims"),
        ("import jax\n", "import jax\nimport gradbias.claims.regression\n", "it imports only what lies below claims"),
        (
            "def mean(x):\n",
            "def mean(x):\n    models.linear\n",
            "its prediction shares no code with its measurement",
        ),
        ("x.mean()[None], cert", "x.mean()[None] + 1, cert", "smoke ends as the claim stands"),
        ('control={"power": 2}', 'control={"rate": 0.1}', "the control is refuted"),
        ('"stationarity": float(', '"stationarity": 1.0 + float(', "every oracle is certified"),
        ("Measured(w[None],", "Measured(w[None] * jnp.nan,", "nothing is NaN or infinite"),
        ("tolerance=1e-6", "tolerance=2.0", "a prediction that is ten tolerances off is not supported"),
        ("length=200)\n", "length=200)\n    w = w + LUCK.normal()\n", "smoke ends as the claim stands"),
        ("jr.normal(key, (n,))", "jr.normal(key, (n,)) + LUCK.normal()", "the data of a seed come from its key alone"),
        ('curves("time", "distance"', 'curves("time", "nothing"', "its figure can be drawn from the record"),
        ("def descent(x, key, *, ", "def descent(x, key, *, missing: int, ", "smoke and control run"),
    ],
)
def test_a_claim_that_breaks_one_clause_is_caught(tmp_path: Path, old: str, new: str, name: str) -> None:
    assert old in SOUND
    needed = "import numpy as np\nfrom gradbias import models\nLUCK = np.random.default_rng()\n\n\ndef points"
    path = tmp_path / "family" / "mean_minimizes.py"
    path.parent.mkdir()
    path.write_text(SOUND.replace(old, new).replace("def points", needed, 1))
    found = checks(path)
    assert not found[name].passed, f"{name} passed"
    assert found[name].detail


def measured(*values: float) -> Measured:
    return Measured(np.array(values), np.zeros(2), np.ones(2, dtype=bool), np.zeros(2, dtype=int))


def test_a_bit_that_depends_on_the_other_seeds_is_caught() -> None:
    clause = dict(_of_the_runs)["the same key gives the same bits, whatever the other seeds are"]
    case = SimpleNamespace(run=SimpleNamespace(seeds=2), measured=measured(1.0, 2.0), backwards=measured(2.0, 1.0))
    assert clause(case) is None
    case.backwards = measured(np.nextafter(2.0, 3.0), 1.0)
    assert "Seed 1 differs by up to 4.4e-16 in .value" in str(clause(case))


def test_training_that_compiles_again_is_caught() -> None:
    clause = dict(_of_the_runs)["training compiles once for all seeds and orders"]
    assert clause(SimpleNamespace(backwards_clock=Timing())) is None
    assert "compiled 2 more" in str(clause(SimpleNamespace(backwards_clock=Timing(compilations=2))))


def test_a_broken_file_is_one_failed_check() -> None:
    found = checks(CLAIMS / "broken" / "unfinished.py")
    assert list(found) == ["the file can be imported"]
    assert "unfinished.py:3" in found["the file can be imported"].detail
