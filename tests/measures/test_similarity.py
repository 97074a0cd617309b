import math

import jax.numpy as jnp
import numpy as np
import pytest

import gradbias as gb
from gradbias.errors import NotApplicable, UsageError
from gradbias.measures.catalogue import asked_for, take, take_all
from gradbias.measures.collapse import feature_error
from gradbias.measures.jax_objective import JaxObjective
from gradbias.measures.similarity import _direction_error, centred_gram, linear_cka

RNG = np.random.default_rng(0)
X, Y = RNG.normal(size=(20, 6)), RNG.normal(size=(20, 3))


def predict(theta, x):
    return theta["b"] @ jnp.tanh(theta["a"] @ x)


def inputs_of_layers(theta, x):
    return {"a": x, "b": jnp.tanh(theta["a"] @ x)}


def objective(theta, x, initial=None):
    def at(theta):
        theta = {k: jnp.asarray(v, x.dtype) for k, v in theta.items()}
        y = np.zeros((len(x), 2), x.dtype)
        return JaxObjective(gb.Problem(predict, gb.losses.square, x, y, theta), theta, features=inputs_of_layers)

    return at(theta).with_settings(initial=None if initial is None else at(initial))


def weights(seed):
    rng = np.random.default_rng(seed)
    return {"a": rng.normal(size=(8, 4)), "b": rng.normal(size=(2, 8))}


INPUTS = np.random.default_rng(5).normal(size=(30, 4))


def test_cka_is_the_ratio_of_squared_norms_of_cross_products():
    a, b = X - X.mean(0), Y - Y.mean(0)
    known = np.linalg.norm(b.T @ a) ** 2 / (np.linalg.norm(a.T @ a) * np.linalg.norm(b.T @ b))
    assert linear_cka(X, Y) == pytest.approx(known, rel=1e-12)


@pytest.mark.parametrize("unbiased", [False, True])
def test_cka_is_one_up_to_rotation_scale_and_shift(unbiased):
    q = np.linalg.qr(RNG.normal(size=(6, 6)))[0]
    assert linear_cka(X, 3 * X @ q + 100, unbiased=unbiased) == pytest.approx(1.0, rel=1e-10)


def test_cka_of_uncorrelated_features_is_zero():
    x, y = np.array([[1.0], [1.0], [-1.0], [-1.0]]), np.array([[1.0], [-1.0], [1.0], [-1.0]])
    assert linear_cka(x, y) == 0


def hsic(k, l):
    """The unbiased estimate as it is written: a trace, two sums and a cross term of matrices without diagonals."""
    n = len(k)
    k, l = k - np.diag(np.diag(k)), l - np.diag(np.diag(l))
    one = np.ones(n)
    whole = np.trace(k @ l) + (one @ k @ one) * (one @ l @ one) / ((n - 1) * (n - 2)) - 2 / (n - 2) * one @ k @ l @ one
    return whole / (n * (n - 3))


def test_the_unbiased_option_uses_the_unbiased_independence_criterion():
    k, l = X @ X.T, Y @ Y.T
    assert np.sum(centred_gram(X, unbiased=True) * centred_gram(Y, unbiased=True)) / (20 * 17) == pytest.approx(
        hsic(k, l), rel=1e-10
    )
    known = hsic(k, l) / math.sqrt(hsic(k, k) * hsic(l, l))
    assert linear_cka(X, Y, unbiased=True) == pytest.approx(known, rel=1e-10)


def test_the_unbiased_option_of_independent_features_is_zero_on_average_and_the_plain_one_is_not():
    rng = np.random.default_rng(3)
    pairs = [rng.normal(size=(2, 10, 40)) for _ in range(200)]
    plain, unbiased = (np.array([linear_cka(*pair, unbiased=u) for pair in pairs]) for u in (False, True))
    assert abs(unbiased.mean()) < 4 * unbiased.std() / math.sqrt(200)
    assert plain.mean() > 0.7


def test_at_the_initial_weights_every_layer_is_one():
    estimate = take_all(["cka_to_init"], objective(weights(0), INPUTS, weights(0)))["cka_to_init"]
    assert estimate.names == ("a", "b")
    assert np.all(np.abs(estimate.value - 1) <= estimate.bound)
    assert np.all(estimate.bound < 1e-10)


def test_a_moved_layer_changes_what_follows_and_not_what_precedes():
    estimate = take_all(["cka_to_init"], objective(weights(1), INPUTS, weights(0)))["cka_to_init"]
    hidden = [np.tanh(INPUTS @ weights(seed)["a"].T) for seed in (0, 1)]
    assert estimate["a"] == pytest.approx(1, rel=1e-12)
    assert estimate["b"] == pytest.approx(linear_cka(*hidden), rel=1e-12)
    assert estimate["b"] < 0.95


def test_along_a_run_the_examples_and_the_reference_are_those_of_the_first_reading():
    ((measure, options),) = asked_for([("cka_to_init", {"examples": 10})])
    state = {}
    first = take(measure, objective(weights(0), INPUTS, weights(0)), options, rng=np.random.default_rng(1), state=state)
    again = take(measure, objective(weights(1), INPUTS), options, rng=np.random.default_rng(2), state=state)
    assert len(state["index"]) == 10
    assert "10 of 30" in first.notes[0]
    hidden = [np.tanh(INPUTS[state["index"]] @ weights(seed)["a"].T) for seed in (0, 1)]
    assert again["b"] == pytest.approx(linear_cka(*hidden), rel=1e-12)


def test_work_on_a_part_of_the_examples_counts_by_its_share():
    made = objective(weights(0), INPUTS, weights(0))
    ((measure, options),) = asked_for([("cka_to_init", {"examples": 15})])
    state = {}
    take(measure, made, options, rng=np.random.default_rng(1), state=state)
    second = take(measure, made, options, rng=np.random.default_rng(1), state=state)
    assert second.cost.forwards == pytest.approx(0.5)


@pytest.mark.parametrize("unbiased", [False, True])
def test_float32_is_within_the_bound(unbiased):
    low, high = (
        take_all({"cka_to_init": {"unbiased": unbiased}}, objective(weights(1), INPUTS.astype(t), weights(0)))[
            "cka_to_init"
        ]
        for t in ("float32", "float64")
    )
    assert np.all(np.abs(low.value - high.value) <= low.bound)
    assert np.all(low.bound < 1e-3)


def test_constant_features_have_no_alignment():
    dead = {"a": np.zeros((8, 4)), "b": weights(0)["b"]}
    estimate = take_all(["cka_to_init"], objective(dead, INPUTS, weights(0)))["cka_to_init"]
    assert math.isnan(estimate["b"])
    assert estimate["a"] == pytest.approx(1)
    assert not estimate.converged
    assert "constant" in estimate.reason


def test_without_initial_weights_the_remedy_is_told():
    with pytest.raises(NotApplicable, match="pass initial="):
        take_all(["cka_to_init"], objective(weights(0), INPUTS))


def test_too_few_examples_are_refused():
    with pytest.raises(UsageError, match="4 or more; got 3"):
        take_all({"cka_to_init": {"examples": 3}}, objective(weights(0), INPUTS, weights(0)))
    with pytest.raises(UsageError, match="four examples or more; got 3"):
        linear_cka(X[:3], Y[:3], unbiased=True)


@pytest.mark.parametrize("unbiased", [False, True])
def test_the_bound_covers_features_moved_against_the_alignment(unbiased):
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(2, 30, 1))
    y += x
    value = linear_cka(x, y, unbiased=unbiased)
    slope = np.array([linear_cka(x + 1e-6 * e[:, None], y, unbiased=unbiased) - value for e in np.eye(30)])
    for eta in (1e-6, 1e-3):
        moved = linear_cka(x - eta * np.sign(slope)[:, None], y, unbiased=unbiased)
        gram, unit = centred_gram(x, unbiased=unbiased), eta / feature_error(x, 1.0)
        bound = _direction_error(x, centred_gram(x), float(np.linalg.norm(gram)), unit)
        assert 0 < value - moved <= bound
