"""Long jobs: their seeds are trained in groups, what is done survives the process, and no number depends on it."""

from collections.abc import Sequence
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gradbias import run
from gradbias.claim import Measured
from gradbias.errors import UsageError
from gradbias.run.checkpoint import Checkpoint
from gradbias.run.job import Job
from gradbias.run.store import Store
from gradbias.run.sweep import run_all
from gradbias.training import Program, train

MEAN = Path(__file__).parents[1] / "claims_for_tests" / "sound" / "mean_minimizes.py"


@pytest.fixture
def long_claim(tmp_path: Path) -> Path:
    """A claim that says that its three seeds take three minutes."""
    path = tmp_path / "sound" / "takes_long.py"
    path.parent.mkdir()
    path.write_text(MEAN.read_text().replace('seconds={"smoke": 1}', 'seconds={"smoke": 180}'))
    return path


def test_a_job_is_cut_into_groups_of_about_a_minute(long_claim: Path) -> None:
    assert [Job(long_claim).groups(seeds) for seeds in (0, 1, 2, 3, 5, 30)] == [1, 1, 2, 3, 5, 30]
    assert Job(MEAN).groups(3) == 1
    assert Job(MEAN).groups(60 * 3 + 1) == 2


def test_a_killed_job_goes_on_from_there_and_ends_with_the_same_bits(
    long_claim: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = run.run(long_claim, seeds=5, store=tmp_path / "whole")
    put, asked = Checkpoint.put, []

    def killed_after_two(self: Checkpoint, group: int, leaves: Sequence[np.ndarray]) -> None:
        put(self, group, leaves)
        if group == 1:
            raise KeyboardInterrupt

    monkeypatch.setattr(Checkpoint, "put", killed_after_two)
    with pytest.raises(KeyboardInterrupt):
        run.run(long_claim, seeds=5, store=tmp_path / "store")
    (unfinished,) = (tmp_path / "store" / "unfinished").iterdir()
    assert sorted(path.name for path in unfinished.iterdir()) == ["0.npz", "1.npz"]

    def counted(self: Program, *arguments: object) -> Measured:
        asked.append(len(arguments[1]))  # type: ignore[arg-type]
        return trained(self, *arguments)

    trained = Program.__call__
    monkeypatch.setattr(Checkpoint, "put", put)
    monkeypatch.setattr(Program, "__call__", counted)
    rest = run.run(long_claim, seeds=5, store=tmp_path / "store")
    assert asked == [1, 1, 1]
    for name, array in whole.arrays.items():
        assert array.tobytes() == rest.arrays[name].tobytes(), name
    assert not (tmp_path / "store" / "unfinished").exists()


def test_what_was_kept_is_ignored_if_it_is_corrupt_or_if_all_is_to_be_fresh(long_claim: Path, tmp_path: Path) -> None:
    store, job = Store(tmp_path / "store"), Job(long_claim)
    expected = run.run(long_claim).arrays["measured/value"]
    for spoil in (b"", b"PK no archive"):
        kept = Checkpoint(store, job.address)
        kept.put(0, [np.zeros(1)])
        (tmp_path / "store" / kept.prefix / "0.npz").write_bytes(spoil)
        assert kept.get(0) is None
    np.testing.assert_array_equal(run.run(long_claim, store=store.folder).arrays["measured/value"], expected)
    kept.put(0, [np.zeros(1)])
    again = run.run(long_claim, store=store.folder, fresh=True)
    np.testing.assert_array_equal(again.arrays["measured/value"], expected)


def outputs(x: jax.Array, key: jax.Array, *, scale: float) -> Measured:
    return Measured({"sum": scale * jnp.sum(x)[None], "noise": jax.random.normal(key, (2,))}, curves={"x": x})


@pytest.mark.parametrize("groups", [2, 3, 5])
def test_filling_up_the_last_group_changes_no_number(groups: int) -> None:
    data, keys = list(np.random.default_rng(0).normal(size=(5, 7))), list(jax.random.split(jax.random.key(0), 5))
    whole = train(Program(outputs, ()), data, keys, {"scale": 2.0})
    cut = train(Program(outputs, ()), data, keys, {"scale": 2.0}, groups=groups)
    for one, other in zip(jax.tree.leaves(whole), jax.tree.leaves(cut), strict=True):
        assert one.shape == other.shape
        np.testing.assert_array_equal(one, other)


def sorted_pairs(x: jax.Array, key: jax.Array) -> Measured:
    return Measured(jnp.sum(jnp.sort(x[:, None] * x[None, :], axis=0)[0])[None])


def test_a_training_that_does_not_fit_into_memory_is_refused_with_its_size_before_it_starts() -> None:
    data, keys = [np.ones(1_000_000)] * 2, list(jax.random.split(jax.random.key(0), 2))
    with pytest.raises(UsageError, match=r"2 seeds at once needs about \d{5}\.\d GB .*Nothing was run.*--seeds"):
        train(Program(sorted_pairs, ()), data, keys, {})


def test_data_that_do_not_fit_into_memory_are_refused_with_their_size(tmp_path: Path) -> None:
    path = tmp_path / "sound" / "huge.py"
    path.parent.mkdir()
    path.write_text(MEAN.read_text().replace("spread * jr.normal(key, (n,))", "__import__('numpy').ones((n, n))"))
    (ended,) = run_all([Job(path, changes={"n": 1_000_000})], Store(tmp_path / "store"))
    assert isinstance(ended.error, UsageError)
    assert "more memory than this machine has. Unable to allocate 7.28 TiB" in str(ended.error)
    assert "--seeds" in str(ended.error)
