"""Pieces of claims about simplicity whose slips no verdict would show."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gradbias.claims.simplicity.nearest_class_centre_effective_depth import centre_errors
from gradbias.claims.simplicity.residual_ensemble_lesion import DELETED, lesions
from gradbias.claims.simplicity.sgd_weight_decay_rank import stable_rank
from gradbias.measures.collapse import class_means, nearest_centre
from gradbias.models import mlp_start


def test_lesions_delete_each_block_once_and_swap_each_pair_of_neighbours():
    keep, order, share = lesions(9, np.random.default_rng(0))
    np.testing.assert_allclose(share.sum(axis=1), 1.0, rtol=1e-14)
    for kind, deleted in enumerate(DELETED):
        trials = share[kind] > 0
        assert set((1 - keep[trials]).sum(axis=1)) == {deleted}
        np.testing.assert_array_equal(order[trials], np.broadcast_to(np.arange(9), order[trials].shape))
    single = keep[share[DELETED.index(1)] > 0]
    np.testing.assert_array_equal(single, 1 - np.eye(9))
    swapped = order[share[-1] > 0]
    assert np.all(keep[share[-1] > 0] == 1)
    for b, row in enumerate(swapped):
        expected = np.arange(9)
        expected[b], expected[b + 1] = b + 1, b
        np.testing.assert_array_equal(row, expected)
    assert len(swapped) == 8


def test_the_stable_rank_is_the_square_ratio_of_known_singular_values():
    assert float(stable_rank(jnp.diag(jnp.array([4.0, 2.0, 2.0])))) == pytest.approx(1.5, rel=1e-14)


def test_centre_errors_are_those_of_the_activations_after_each_hidden_layer():
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(60, 4)), np.arange(60) % 10
    theta = tuple((w, rng.normal(size=len(b))) for w, b in mlp_start([4, 6, 5, 10], rng, gain=2**0.5))
    expected, h = [], x
    for w, b in theta:
        expected.append(np.mean(nearest_centre(h, class_means(h, y)[2])[0] != y))
        h = np.maximum(h @ w.T + b, 0.0)
    np.testing.assert_allclose(
        centre_errors(jax.tree.map(jnp.asarray, theta), jnp.asarray(x), jnp.asarray(y)), expected
    )
