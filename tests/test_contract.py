"""The contract over the whole catalogue, one test per claim; and that the contract itself catches what it should."""

import dataclasses
import multiprocessing
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import jax
import numpy as np
import pytest

from gradbias import catalogue
from gradbias.contract import Case, Check, _case, _of_the_runs, check_claim
from gradbias.evidence import Timing
from gradbias.run.pool import compute_environment

CLAIMS = Path(__file__).parent / "claims_for_tests"
SOUND = (CLAIMS / "sound" / "mean_minimizes.py").read_text()


def checks(path: Path) -> dict[str, Check]:
    return {check.name: check for check in check_claim(catalogue.read(path))}


def _failed(name: str) -> list[str]:
    """What a claim of the atlas fails, in a process that computes as `gradbias run` does, only more strictly."""
    jax.config.update("jax_enable_x64", True)
    jax.config.update("jax_numpy_rank_promotion", "raise")
    jax.config.update("jax_numpy_dtype_promotion", "strict")
    failed = [f"{check.name}: {check.detail}" for check in check_claim(catalogue.find(name)) if not check.passed]
    jax.clear_caches()  # programs of one claim are of no use to the next, and memory is finite
    return failed


@pytest.fixture(scope="session")
def worker() -> Iterator[ProcessPoolExecutor]:
    """One process that computes as `gradbias run` does."""
    with pytest.MonkeyPatch.context() as patch:
        for variable, value in compute_environment().items():
            patch.setenv(variable, value)
        with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
            pool.submit(int).result()  # it has started, with this environment
            yield pool


@pytest.mark.parametrize("claim", list(catalogue.entries()))
def test_the_claim_meets_the_contract(claim: str, worker: ProcessPoolExecutor) -> None:
    failed = worker.submit(_failed, claim).result()
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


@pytest.fixture(scope="module")
def case() -> Case:
    entry = catalogue.read(CLAIMS / "sound" / "mean_minimizes.py")
    return _case(entry, entry.load())


def test_a_bit_that_depends_on_the_other_seeds_is_caught(case: Case) -> None:
    clause = dict(_of_the_runs)["the same key gives the same bits, whatever the other seeds are"]
    assert clause(case) is None
    off = jax.tree.map(np.array, case.backwards)
    off.value[0] = np.nextafter(off.value[0], 9.0)  # the first of the reversed is the last seed
    assert "Seed 2 differs" in str(clause(dataclasses.replace(case, backwards=off)))


def test_training_that_compiles_again_is_caught(case: Case) -> None:
    clause = dict(_of_the_runs)["training compiles once for all seeds and orders"]
    assert clause(case) is None
    again = dataclasses.replace(case, backwards_clock=Timing(compilations=2))
    assert "compiled 2 more" in str(clause(again))


def test_a_broken_file_is_one_failed_check() -> None:
    found = checks(CLAIMS / "broken" / "unfinished.py")
    assert list(found) == ["the file can be imported"]
    assert "unfinished.py:3" in found["the file can be imported"].detail
