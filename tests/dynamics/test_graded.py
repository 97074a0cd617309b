"""Flows on logarithmic scales: the same paths as in the parameters themselves, and as closed forms where those end."""

from itertools import pairwise

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gradbias as gb
from cases import KEY, without_type_checks
from gradbias.dynamics import BalancedFlow, GradedFlow, gram_of, to_gram_interpolation
from gradbias.models import EndToEnd, GradedFactor, SingularFactor, graded, gram_entry, gram_product, gram_sensing

RNG = np.random.default_rng(3)
DATA = gb.data.symmetric_completion(4, 2, 8, key=KEY)
G = RNG.normal(size=(4, 4))
TIMES = np.array([5.0, 20.0, 40.0])


def problem(start, predict=gram_entry, x=DATA.x, y=DATA.y):
    return gb.Problem(predict, gb.losses.square, x, y, start)


def product(problem, theta):
    return gram_product(theta)


@jax.jit
def in_logarithms(log_size):
    until = gb.Until(TIMES[-1], quantity=gram_of, max_steps=20_000)
    flow = GradedFlow(rtol=1e-10, atol=1e-12)
    return gb.evolve(problem(graded(G, log_size)), flow, until=until, record=gb.Record(product, TIMES), key=KEY)


@jax.jit
def in_the_factor(size):
    until, flow = gb.Until(TIMES[-1], max_steps=20_000), gb.GradientFlow(rtol=1e-12, atol=1e-22)
    return gb.evolve(problem(size * G), flow, until=until, record=gb.Record(product, TIMES), key=KEY)


@pytest.mark.parametrize("size", [1.0, 1e-4, 1e-8])
def test_the_graded_path_is_that_of_the_factor_itself(size):
    graded_run, direct = in_logarithms(np.log(size)), in_the_factor(size)
    assert graded_run.converged
    difference = np.linalg.norm(graded_run.recorded - direct.recorded, axis=(1, 2))
    assert np.all(difference < 1e-6 * np.linalg.norm(direct.recorded, axis=(1, 2)))
    q = graded_run.theta.q
    np.testing.assert_allclose(q.T @ q, np.eye(4), atol=1e-7)


def test_a_single_weight_escapes_from_exp_minus_ten_thousand_at_the_time_of_the_logistic_curve():
    # w = u², L = (w - 1)²/2: w' = 4w(1 - w), so log(w / (1 - w)) grows at rate 4 from -20,000.
    one = np.ones((1, 1))
    start = problem(graded(one, -1e4), gram_sensing, np.ones((1, 1, 1)), np.ones(1))
    at = 5000.0 + np.array([-1000.0, -0.5, 0.0, 0.5])
    flow = GradedFlow(rtol=1e-10, atol=1e-12)
    done = gb.evolve(start, flow, until=gb.Until(at[-1], max_steps=5000), record=gb.Record(product, at), key=KEY)
    np.testing.assert_allclose(np.ravel(done.recorded)[1:], 1 / (1 + np.exp(-4 * (at[1:] - 5000.0))), atol=1e-5)
    assert float(done.recorded[0, 0, 0]) == 0.0  # e^-4000: below any float, and not lost
    assert int(done.step) < 500


def test_two_directions_escape_in_turn_at_their_own_rates():
    # Diagonal measurements do not mix: w_i' = 2 w_i (y_i - w_i) for the mean of two squares.
    y = np.array([2.0, 1.0])
    x = np.stack([np.diag([1.0, 0.0]), np.diag([0.0, 1.0])])
    at = np.array([600.0, 1400.0])
    start = problem(graded(np.eye(2), -1e3), gram_sensing, x, y)
    record = gb.Record(product, at)
    done = gb.evolve(start, GradedFlow(), until=gb.Until(at[-1], max_steps=5000), record=record, key=KEY)
    np.testing.assert_allclose(done.recorded[0], np.diag([2.0, 0.0]), atol=1e-6)  # the first escapes at 500,
    np.testing.assert_allclose(done.recorded[1], np.diag([2.0, 1.0]), atol=1e-6)  # the second at 1000


def test_a_rectangular_product_is_a_block_of_the_gram_matrix():
    a, b, index = RNG.normal(size=(2, 2)), RNG.normal(size=(3, 2)), np.array([[0, 0], [1, 1], [0, 2], [1, 0]])
    y, at = RNG.normal(size=4), np.array([0.5, 2.0])
    stacked = problem(graded(np.concatenate([a, b])), gram_entry, index + np.array([0, 2]), y)
    layers = problem((b.T, a), gb.models.entry, index, y)
    until = gb.Until(2.0, max_steps=5000)
    one = gb.evolve(stacked, GradedFlow("tsit5"), until=until, record=gb.Record(product, at), key=KEY)
    record = gb.Record(lambda _, theta: gb.models.factor_product(theta), at)
    two = gb.evolve(layers, gb.GradientFlow(), until=until, record=record, key=KEY)
    np.testing.assert_allclose(one.recorded[:, :2, 2:], two.recorded, atol=1e-6)


def test_a_graded_factor_is_the_factor_it_was_made_of():
    np.testing.assert_allclose(graded(G).factor(), G, atol=1e-14)
    np.testing.assert_allclose(graded(G, -2.0).factor(), np.exp(-2.0) * G, atol=1e-14)
    np.testing.assert_allclose(gram_product(graded(G)), G @ G.T, atol=1e-13)
    np.testing.assert_array_equal(gram_product(EndToEnd(jnp.asarray(G))), G)


def test_the_way_to_interpolation_is_long_at_a_saddle_and_bounds_what_is_left_near_a_limit():
    factor = np.linalg.cholesky(DATA.matrix + 1e-12 * np.eye(4))[:, :2]
    near = graded(factor + 1e-5 * RNG.normal(size=(4, 2)))
    far = graded(1e-9 * G)
    assert float(to_gram_interpolation(problem(far), far)) > 0.5 * np.linalg.norm(DATA.y)
    left = float(to_gram_interpolation(problem(near), near))
    assert 1e-6 < left < 1e-3


def test_a_start_at_a_saddle_is_refused_in_words():
    with pytest.raises(Exception, match=r"at a saddle or on its stable manifold.*log_size=-1e4"):
        graded(np.zeros((3, 3)))
    with pytest.raises(Exception, match="linearly dependent columns"):
        graded(np.ones((3, 2)))
    with pytest.raises(ValueError, match=r"k ≤ d; got shape \(2, 3\)"):
        graded(np.ones((2, 3)))


def test_what_the_flows_cannot_move_is_refused():
    with without_type_checks():
        with pytest.raises(ValueError, match="moves a GradedFactor; got"):
            GradedFlow().init(problem(jnp.asarray(G)), jnp.asarray(G))
        low = GradedFactor(*(jnp.asarray(a, jnp.float32) for a in (np.eye(2), np.zeros(2), np.eye(2))))
        with pytest.raises(ValueError, match=r"float64; got float32.*jax_enable_x64"):
            GradedFlow().init(problem(jnp.asarray(G)), low)
        with pytest.raises(ValueError, match="moves a SingularFactor of float64 arrays; got"):
            BalancedFlow(2).init(problem(jnp.asarray(G)), jnp.asarray(G))
    with pytest.raises(ValueError, match="depth must be at least 2"):
        BalancedFlow(1)
    for made in (lambda: GradedFlow("euler"), lambda: BalancedFlow(2, "euler")):
        with without_type_checks(), pytest.raises(ValueError, match="Unknown method 'euler'"):
            made()


@pytest.mark.parametrize("depth", [2, 3])
def test_the_balanced_path_is_that_of_balanced_layers(depth):
    w = RNG.normal(size=(3, 3))
    u, s, vt = np.linalg.svd(w)
    bases = [vt.T, *[np.linalg.qr(RNG.normal(size=(3, 3)))[0] for _ in range(depth - 1)], u]
    layers = tuple((after * s ** (1 / depth)) @ before.T for before, after in pairwise(bases))
    made, at = gb.data.low_rank_completion(3, 1, 5, key=KEY), np.array([0.5, 3.0])
    until = gb.Until(3.0, max_steps=5000)
    record = gb.Record(lambda _, theta: gb.models.factor_product(theta), at)
    one = gb.evolve(
        problem(layers, gb.models.entry, made.x, made.y), gb.GradientFlow(), until=until, record=record, key=KEY
    )
    start = SingularFactor(jnp.asarray(u), jnp.log(s), jnp.asarray(vt.T))
    record = gb.Record(lambda _, theta: gb.models.singular_product(theta), at)
    other = problem(start, gb.models.singular_entry, made.x, made.y)
    two = gb.evolve(other, BalancedFlow(depth, "tsit5"), until=until, record=record, key=KEY)
    np.testing.assert_allclose(two.recorded, one.recorded, atol=1e-6)
    np.testing.assert_allclose(two.theta.u.T @ two.theta.u, np.eye(3), atol=1e-7)


@pytest.mark.parametrize("name", ["graded", "balanced"])
def test_a_flow_rests_where_every_residual_is_exactly_zero(name):
    index = np.array([[0, 0], [1, 2]])
    if name == "graded":
        start, predict, flow = graded(np.diag([2.0, 1.0, 0.5])), gram_entry, GradedFlow()
        w = gram_product(start)
    else:
        start, predict = SingularFactor(jnp.eye(3), jnp.arange(3.0), jnp.eye(3)), gb.models.singular_entry
        flow, w = BalancedFlow(2), gb.models.singular_product(start)
    at_rest = problem(start, predict, index, np.asarray(w)[index[:, 0], index[:, 1]])
    assert float(at_rest.risk(start)) == 0.0
    done = gb.evolve(at_rest, flow, until=gb.Until(1e6, max_steps=1000), key=KEY)
    assert done.converged, done.why()
    np.testing.assert_array_equal(jax.tree.leaves(done.theta)[1], jax.tree.leaves(start)[1])
