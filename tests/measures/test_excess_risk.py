"""Sweeps of least-squares fits against fits made one at a time."""

import jax.numpy as jnp
import numpy as np
import pytest

from gradbias.measures import flat_tailed_rows, least_squares_risks, positive_inverse, sizes_across

X = np.random.default_rng(0).normal(size=(14, 23))
TARGET = np.random.default_rng(1).normal(size=23)


def one_by_one(n, d, *, variances, ridge):
    """The fit as a matrix, by the normal equations or the pseudo-inverse."""
    x, b, l = X[:n, :d], TARGET[:d], variances[:d]
    fit = np.linalg.pinv(x) if ridge == 0 else np.linalg.solve(x.T @ x + ridge * np.eye(d), x.T)
    return np.sum(l[:, None] * fit**2), np.sum(l * (fit @ x @ b - b) ** 2)


@pytest.mark.parametrize("ridge", [0.0, 0.7])
@pytest.mark.parametrize("flat", [True, False])
@pytest.mark.parametrize(
    "sizes",
    [
        [(9, 3), (9, 5), (9, 12), (9, 15), (9, 23)],
        [(4, 8), (6, 8), (11, 8), (14, 8)],
        [(14, 4), (5, 23), (5, 9), (3, 12)],
    ],
)
def test_a_sweep_is_its_fits_one_by_one(sizes, flat, ridge):
    variances = np.ones(23) if flat else 1.0 / np.arange(1.0, 24)
    given = None if flat else jnp.asarray(variances)
    penalty = jnp.full(len(sizes), ridge)
    variance, bias = least_squares_risks(X, sizes, variances=given, target=jnp.asarray(TARGET), ridge=penalty)
    for k, (n, d) in enumerate(sizes):
        expected = one_by_one(n, d, variances=variances, ridge=ridge)
        assert (float(variance[k]), float(bias[k])) == pytest.approx(expected, rel=1e-9, abs=1e-12)


def test_columns_of_zeros_change_no_number():
    padded = np.concatenate([X[:6, :10], np.zeros((6, 5))], axis=1)
    target = jnp.asarray(np.r_[TARGET[:10], np.zeros(5)])
    with_zeros = least_squares_risks(padded, [(6, 15)], target=target)
    without = least_squares_risks(X, [(6, 10)], target=jnp.asarray(TARGET))
    assert np.allclose(with_zeros, without, rtol=1e-14)


def test_the_bias_of_several_targets_is_their_mean():
    both = jnp.stack([jnp.asarray(TARGET), jnp.arange(23.0)], axis=1)
    each = [least_squares_risks(X, [(6, 10)], target=both[:, k])[1] for k in (0, 1)]
    assert np.allclose(least_squares_risks(X, [(6, 10)], target=both)[1], (each[0] + each[1]) / 2)


@pytest.mark.parametrize("n", [1, 9, 10, 11, 23])
def test_elimination_in_blocks_inverts_whatever_the_size(n):
    gram = X[:, :n].T @ X[:, :n] + np.eye(n)
    assert np.allclose(positive_inverse(jnp.asarray(gram)) @ gram, np.eye(n), atol=1e-12)


def test_sweeps_that_hit_or_leave_out_the_threshold_are_refused():
    assert sizes_across(10, [0.5, 1.3]) == [(10, 5), (10, 13)]
    with pytest.raises(ValueError, match="infinite; the sweep holds d = 10 at n = 10"):
        sizes_across(10, [0.5, 1.0, 2.0])
    with pytest.raises(ValueError, match="leaves the threshold d = n out: d = 2, 5 all lie on one side of n = 10"):
        sizes_across(10, [0.2, 0.5])
    with pytest.raises(ValueError, match="leaves the threshold d = n out: n = 2, 5 all lie on one side of d = 10"):
        sizes_across(10, [0.2, 0.5], vary="n")
    with pytest.raises(ValueError, match="increasing sizes of at least 1; got d = 20, 5"):
        sizes_across(10, [2.0, 0.5])
    with pytest.raises(ValueError, match="d = none"):
        sizes_across(10, [])


def test_a_compressed_tail_has_the_gram_matrices_of_the_whole_one():
    strong, (value, count), n = np.array([2.0, 1.0]), (0.3, 50), 6
    x, variances = flat_tailed_rows(n, strong, tail=(value, count), draws=20000, rng=np.random.default_rng(0))
    assert x.shape == (20000, n, 2 + n)
    assert variances.tolist() == [2.0, 1.0] + [0.3] * n
    whole = np.random.default_rng(1).normal(size=(20000, n, 2 + count)) * np.sqrt(np.r_[strong, np.full(count, value)])
    ours, theirs = (np.linalg.inv(z @ z.transpose(0, 2, 1)) for z in (x, whole))
    for moment in (1, 2):
        a, b = (np.mean(np.trace(g, axis1=1, axis2=2) ** moment) for g in (ours, theirs))
        assert a == pytest.approx(b, rel=0.01)
    assert np.allclose(np.mean(x @ x.transpose(0, 2, 1), axis=0), np.eye(n) * (3.0 + value * count), atol=0.25)


def test_a_tail_shorter_than_the_examples_is_refused():
    with pytest.raises(ValueError, match="none or at least n=6 eigenvalues; got 5"):
        flat_tailed_rows(6, np.ones(1), tail=(1.0, 5), draws=1, rng=np.random.default_rng(0))


def test_a_gram_matrix_that_floats_do_not_resolve_gives_no_number():
    variances = np.exp(-np.arange(1200) / 16.0)
    x = np.random.default_rng(0).normal(size=(300, 1200)) * np.sqrt(variances)
    target = np.eye(1200)[0]
    variance, bias = least_squares_risks(x, [(200, 1200), (300, 1200)], variances=variances, target=target)
    exact = [np.sum(variances[:, None] * np.linalg.pinv(x[:n], rcond=1e-15) ** 2) for n in (200, 300)]
    np.testing.assert_allclose(variance[0], exact[0], rtol=1e-5)
    assert np.isinf(variance[1])  # without a word it would be off by 14 %
    assert np.isinf(bias[1])
