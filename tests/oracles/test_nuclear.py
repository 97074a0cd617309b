import numpy as np
import pytest

from gradbias.oracles import min_nuclear_norm


@pytest.mark.parametrize("seed", [0, 1, 3])
def test_a_rank_one_matrix_is_completed_exactly(seed):
    rng = np.random.default_rng(seed)
    m, k = rng.normal(size=(8, 1)), rng.normal(size=(8, 1))
    mask = rng.random((8, 8)) < 0.7
    found = min_nuclear_norm(mask, m @ k.T)
    if not found.error < 1.0:
        pytest.fail("these masks determine the matrix")
    # The minimiser may be another matrix: only its norm is known to be at most that of the planted one.
    assert found.certified
    assert np.linalg.norm(found.value, "nuc") <= np.linalg.norm(m @ k.T, "nuc") * (1 + 1e-9)
    assert np.allclose(found.value[mask], (m @ k.T)[mask], atol=1e-12)
    symmetric = min_nuclear_norm(mask | np.eye(8, dtype=bool), m @ m.T, psd=True)
    assert symmetric.certified
    assert np.linalg.norm(symmetric.value - m @ m.T) <= symmetric.error + 1e-13


@pytest.mark.parametrize(("ratio", "trace"), [(3.0, 14.97), (10.0, 54.57)])
def test_the_least_trace_is_below_that_of_the_rank_one_completion(ratio, trace):
    # v = (1, R, 1, R): the observed entries admit v v^T, of trace 2 + 2R², and something much lighter.
    v = np.array([1.0, ratio, 1.0, ratio])
    mask = np.zeros((4, 4))
    for i, j in [(0, 1), (0, 2), (0, 3), (1, 2), (2, 3)]:
        mask[i, j] = 1
    found = min_nuclear_norm(mask, np.outer(v, v), psd=True)
    assert found.certified
    assert abs(np.trace(found.value) - trace) < 0.005
    assert np.linalg.eigvalsh(found.value)[0] > -1e-12
    assert found.error < 1e-4


def test_observing_everything_returns_the_matrix():
    m = np.random.default_rng(1).normal(size=(4, 3))
    found = min_nuclear_norm(np.ones((4, 3)), m)
    assert found.certified
    assert np.linalg.norm(found.value - m) <= found.error + 1e-14


def test_a_minimiser_that_is_not_unique_has_no_error_bound():
    found = min_nuclear_norm(np.eye(2), np.eye(2))
    assert found.certified
    assert found.error == np.inf


def test_the_solution_scales_with_the_entries():
    rng = np.random.default_rng(2)
    m, mask = rng.normal(size=(6, 1)) @ rng.normal(size=(1, 5)), rng.random((6, 5)) < 0.7
    one, large = min_nuclear_norm(mask, m), min_nuclear_norm(mask, 1e5 * m)
    assert np.linalg.norm(large.value - 1e5 * one.value) <= large.error + 1e5 * one.error


def test_entries_that_no_matrix_has_are_refused():
    with pytest.raises(ValueError, match=r"same shape.*at least one true entry; got \(1, 2\) \(0 observed\)"):
        min_nuclear_norm([[0, 0]], [[1.0, 2.0]])
    with pytest.raises(ValueError, match=r"values must be finite.*index \(0, 1\)"):
        min_nuclear_norm([[1, 1]], [[1.0, np.nan]])
    with pytest.raises(ValueError, match=r"is square; got shape"):
        min_nuclear_norm([[1, 1]], [[1.0, 2.0]], psd=True)
    with pytest.raises(ValueError, match=r"equal entries at \(0, 1\) and \(1, 0\); got 2 and 3"):
        min_nuclear_norm(np.ones((2, 2)), [[1.0, 2.0], [3.0, 1.0]], psd=True)
    with pytest.raises(ValueError, match=r"No positive semidefinite matrix has these entries"):
        min_nuclear_norm(np.ones((2, 2)), [[1.0, 2.0], [2.0, 1.0]], psd=True)
    with pytest.raises(ValueError, match=r"All observed values are 0"):
        min_nuclear_norm([[1, 0]], [[0.0, 5.0]])
