"""Extreme eigenpairs: on matrices whose spectra are known, every bound is to hold."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from gradbias.errors import ProbeError, UsageError
from gradbias.measures.krylov import Eigenpairs, extreme_eigenpairs, smallest_component
from gradbias.measures.objective import SymmetricOperator

BULK = np.linspace(-0.3, 0.5, 200)


def matrix(spectrum, rng, dtype=np.float64):
    """A matrix with this spectrum, in a random orthonormal basis."""
    q = np.linalg.qr(rng.standard_normal((len(spectrum),) * 2))[0]
    a = (q * np.asarray(spectrum)) @ q.T
    return ((a + a.T) / 2).astype(dtype)


def operator(a, counter=None):
    def apply(v):
        if counter is not None:
            counter.append(1)
        return a @ v

    return SymmetricOperator(
        apply,
        len(a),
        float(np.finfo(a.dtype).eps),
        lambda h: np.asarray(h, a.dtype),
        lambda m: np.zeros((m, len(a)), a.dtype),
    )


def torch_operator(a, dtype):
    import torch

    held = torch.as_tensor(a, dtype=dtype)
    return SymmetricOperator(
        lambda v: held @ v,
        len(a),
        float(torch.finfo(dtype).eps),
        lambda h: torch.as_tensor(h, dtype=dtype),
        lambda m: torch.zeros(m, len(a), dtype=dtype),
    )


def holds(pairs: Eigenpairs, truth, which="largest") -> bool:
    """Each of the k extreme eigenvalues is within the bound of a value, and each value of an eigenvalue."""
    truth = np.sort(truth) if which == "smallest" else np.sort(truth)[::-1]
    off = np.abs(pairs.values[:, None] - truth)
    found = np.any(off <= pairs.bounds[:, None], axis=0)[: len(pairs.values)]
    real = np.any(off <= pairs.bounds[:, None], axis=1)
    return bool(found.all() and real.all())


@settings(deadline=None, max_examples=60, derandomize=True)
@given(
    st.integers(0, 10**6),
    st.integers(1, 6),
    st.lists(st.floats(0.6, 3.0), min_size=0, max_size=5),
    st.integers(1, 60),
    st.sampled_from([np.float64, np.float32]),
    st.sampled_from(["largest", "smallest"]),
)
def test_a_converged_bound_holds_whatever_the_spectrum(seed, k, outliers, size, dtype, which):
    rng = np.random.default_rng(seed)
    spectrum = np.concatenate([outliers, rng.uniform(-1, 0.5, size)])
    k = min(k, len(spectrum))
    # At 1e-6 of failure no example of a few hundred may fail.
    pairs = extreme_eigenpairs(
        operator(matrix(spectrum, rng, dtype)), k, which, rng=rng, confidence=1 - 1e-6, max_products=2000
    )
    assert pairs.converged.all()
    assert holds(pairs, spectrum, which)


SPECTRA = {
    "a pair too close to tell apart": lambda rng: np.append(BULK, [2.0, 2.0 - 10 ** rng.uniform(-7, -1)]),
    "a cluster": lambda rng: np.append(BULK, 2.0 - 1e-3 * rng.uniform(size=5)),
    "nothing stands out": lambda rng: np.linspace(-1, 1, 80),
    "an indefinite matrix": lambda rng: np.append(BULK, [-3.0, -2.0, 1.0, 2.0]),
    "a heavy tail": lambda rng: 1 / np.arange(1.0, 300.0),
}


@pytest.mark.parametrize("name", SPECTRA)
def test_the_bound_covers_at_its_confidence_over_random_starts(name):
    missed, repeats = 0, 80
    for seed in range(repeats):
        rng = np.random.default_rng(seed)
        spectrum = SPECTRA[name](rng)
        a = SymmetricOperator(lambda v, s=spectrum: s * v, len(spectrum), 2.2e-16)
        pairs = extreme_eigenpairs(a, 1 + seed % 3, rng=rng, confidence=0.95, max_products=1000)
        assert pairs.converged.all()
        missed += not holds(pairs, spectrum)
    assert missed <= stats.binom.ppf(0.999, repeats, 0.05)


@pytest.mark.parametrize("failure", [0.05, 0.5])
def test_the_interval_misses_as_often_as_its_confidence_says_where_one_eigenvalue_hides(failure):
    """After one product a lone eigenvalue is within the interval if and only if the start saw enough of its vector."""
    spectrum = np.append(1e-4 * np.linspace(-1, 1, 60), 1.0)
    a, repeats, missed = SymmetricOperator(lambda v: spectrum * v, 61, 2.2e-16), 1000, 0
    for seed in range(repeats):
        pairs = extreme_eigenpairs(
            a, 1, rng=np.random.default_rng(seed), rtol=1e-6, confidence=1 - failure, max_products=1
        )
        missed += pairs.values[0] + pairs.bounds[0] < 1.0
    # The end of the interval is the first of a grid of factor 2, so the rate is between that at half the end and it.
    low, high = stats.binom.ppf([0.001, 0.999], repeats, [0.4 * failure, failure])
    assert low <= missed <= high


def test_what_rounding_brings_in_of_a_multiple_eigenvalue_is_within_its_bound_too():
    spectrum = np.append(BULK, [5.0, 5.0, 5.0, 4.0, 4.0, 3.0, 2.5])
    for seed in range(20):
        a = SymmetricOperator(lambda v: spectrum * v, len(spectrum), 2.2e-16)
        pairs = extreme_eigenpairs(a, 6, rng=np.random.default_rng(seed), max_products=1000)
        assert pairs.converged.all()
        assert np.all(np.abs(pairs.values[:, None] - spectrum).min(axis=1) <= pairs.bounds)


def test_the_certificate_is_needed_a_residual_misses_the_larger_of_a_close_pair():
    """From a start nearly orthogonal to the largest eigenvector, residuals are small long before it is seen."""
    wrong = 0
    for seed in range(100):
        rng = np.random.default_rng(seed)
        spectrum = np.append(BULK, [2.0, 1.9])
        a = SymmetricOperator(lambda v, s=spectrum: s * v, len(spectrum), 2.2e-16)
        pairs = extreme_eigenpairs(a, 1, rng=rng, rtol=0.02, confidence=0.05)
        wrong += abs(pairs.values[0] - 2.0) > pairs.residuals[0]
    assert wrong > 0  # which at a confidence of 95 % the test above does not allow


@pytest.mark.parametrize("spectrum", [np.zeros(30), np.ones(30), np.append(np.zeros(27), [5.0, 3.0, 1.0])])
@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_an_invariant_space_gives_exact_eigenvalues_with_all_their_copies(spectrum, dtype):
    rng = np.random.default_rng(0)
    pairs = extreme_eigenpairs(operator(matrix(spectrum, rng, dtype)), 5, rng=rng)
    assert pairs.confidence is None
    assert np.all(np.abs(pairs.values - np.sort(spectrum)[::-1][:5]) <= pairs.bounds)
    assert np.all(pairs.bounds <= 1e3 * np.finfo(dtype).eps)


def test_all_eigenvalues_of_a_small_matrix_are_found():
    rng = np.random.default_rng(1)
    spectrum = np.array([3.0, 3.0, 1.0, -2.0])
    pairs = extreme_eigenpairs(operator(matrix(spectrum, rng)), 4, rng=rng)
    np.testing.assert_allclose(pairs.values, [3, 3, 1, -2], atol=1e-12)
    assert extreme_eigenpairs(operator(np.array([[-7.0]])), 1, rng=rng).values == -7


def test_copies_of_a_multiple_eigenvalue_are_found_when_asked_for():
    spectrum = np.append(BULK, [5.0, 5.0, 5.0, 4.0, 4.0, 3.0])
    for seed in range(5):
        rng = np.random.default_rng(seed)
        pairs = extreme_eigenpairs(operator(matrix(spectrum, rng)), 6, rng=rng, copies=True, max_products=1000)
        assert pairs.converged.all()
        assert np.all(np.abs(pairs.values - [5, 5, 5, 4, 4, 3]) <= pairs.bounds)


def test_a_difference_that_is_all_rounding_is_zero_within_the_rounding_of_its_parts():
    rng = np.random.default_rng(0)
    noise = 1e-16 * rng.standard_normal((200, 200))
    pairs = extreme_eigenpairs(operator(noise + noise.T), 1, rng=rng, floor=1e-14)
    assert pairs.products <= 2
    assert abs(pairs.values[0]) <= pairs.bounds[0] <= 2e-14


def test_vectors_belong_to_their_values():
    rng = np.random.default_rng(0)
    a = matrix(np.append(BULK, [2.0, 3.0, 5.0]), rng)
    pairs = extreme_eigenpairs(operator(a), 3, rng=rng, rtol=1e-4)
    left = np.linalg.norm(pairs.vectors @ a - pairs.values[:, None] * pairs.vectors, axis=1)
    np.testing.assert_allclose(pairs.vectors @ pairs.vectors.T, np.eye(3), atol=1e-10)
    assert np.all(left <= pairs.residuals * (1 + 1e-6))


def test_restarts_change_the_memory_and_not_the_truth():
    for seed in range(25):
        rng = np.random.default_rng(seed)
        spectrum = np.append(np.linspace(-1, 1, 300), [1.05, 1.1, 1.2])
        a = SymmetricOperator(lambda v, s=spectrum: s * v, len(spectrum), 2.2e-16)
        pairs = extreme_eigenpairs(a, 3, rng=rng, max_basis=15, confidence=1 - 1e-6, max_products=2000)
        assert pairs.products > 20
        assert pairs.converged.all()
        assert holds(pairs, spectrum)


@pytest.mark.parametrize("scale", [2.0**-20, 2.0**20])
def test_the_unit_of_the_matrix_does_not_matter_not_even_through_restarts(scale):
    spectrum = np.append(np.linspace(-1, 1, 300), [1.05, 1.1, 1.2])
    plain, scaled = (
        extreme_eigenpairs(
            SymmetricOperator(lambda v, c=c: c * spectrum * v, 303, 2.2e-16),
            3,
            rng=np.random.default_rng(0),
            max_basis=15,
        )
        for c in (1.0, scale)
    )
    assert plain.products == scaled.products > 20
    np.testing.assert_allclose(scaled.values, scale * plain.values, rtol=1e-12)
    np.testing.assert_allclose(scaled.bounds, scale * plain.bounds, rtol=1e-6)


def test_what_did_not_converge_is_said_and_its_interval_still_holds():
    spectrum = np.linspace(-1, 1, 400)
    for seed in range(20):
        rng = np.random.default_rng(seed)
        a = SymmetricOperator(lambda v: spectrum * v, 400, 2.2e-16)
        pairs = extreme_eigenpairs(a, 2, rng=rng, rtol=1e-3, confidence=1 - 1e-6, max_products=25)
        assert not pairs.converged.any()
        assert pairs.products == 25
        assert pairs.values[0] <= 1 <= pairs.values[0] + pairs.bounds[0]


@pytest.mark.parametrize("single", [True, False])
def test_torch_tensors_are_vectors_as_well(single):
    import torch

    dtype = torch.float32 if single else torch.float64
    rng = np.random.default_rng(0)
    spectrum = np.append(BULK, [2.0, 3.0, 5.0])
    pairs = extreme_eigenpairs(torch_operator(matrix(spectrum, rng), dtype), 3, rng=rng, confidence=1 - 1e-6)
    assert isinstance(pairs.vectors, torch.Tensor)
    assert pairs.vectors.dtype == dtype
    assert np.all(np.abs(pairs.values - [5, 3, 2]) <= pairs.bounds)


def test_products_are_counted_and_fewer_than_those_of_arpack_at_a_certified_error_no_larger():
    from scipy.sparse.linalg import LinearOperator, eigsh

    rng = np.random.default_rng(0)
    spectrum = np.concatenate([np.linspace(4, 1, 10), np.geomspace(0.3, 1e-5, 990), -np.geomspace(0.1, 1e-5, 200)])
    counter = []
    pairs = extreme_eigenpairs(operator(np.diag(spectrum), counter), 10, rng=rng, rtol=1e-3)
    ours = len(counter)
    assert pairs.products == ours
    assert holds(pairs, spectrum)
    counter.clear()
    a = operator(np.diag(spectrum), counter)
    arpack = LinearOperator((1200, 1200), matvec=a, dtype=float)
    eigsh(arpack, k=10, which="LA", tol=1e-3, v0=rng.standard_normal(1200))
    assert ours <= len(counter)


def test_the_smallest_component_is_that_of_random_directions():
    rng = np.random.default_rng(0)
    z = rng.standard_normal((20000, 7))
    below = np.mean(np.abs(z[:, 0]) / np.linalg.norm(z, axis=1) < smallest_component(0.1, 7))
    assert abs(below - 0.1) < 4 * np.sqrt(0.1 * 0.9 / 20000)


def test_bad_input_is_refused():
    a = SymmetricOperator(lambda v: v * np.nan, 5, 2.2e-16)
    with pytest.raises(ProbeError, match="not finite"):
        extreme_eigenpairs(a, 1, rng=np.random.default_rng(0))
    with pytest.raises(UsageError, match="k must be from 1 to"):
        extreme_eigenpairs(a, 6, rng=np.random.default_rng(0))
