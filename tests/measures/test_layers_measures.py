"""Norms, order of homogeneity and balance of layers; and which networks are chains of dense layers."""

import jax.numpy as jnp
import numpy as np
import pytest

import gradbias as gb
from gradbias.errors import NotApplicable, UsageError
from gradbias.measures.catalogue import take_all
from gradbias.measures.jax_objective import JaxObjective
from gradbias.measures.layers import dense_network, homogeneity_order

RNG = np.random.default_rng(0)
X, Y = RNG.normal(size=(12, 3)), RNG.integers(0, 2, 12)
W, B, V, C = RNG.normal(size=(4, 3)), RNG.normal(size=4), RNG.normal(size=(2, 4)), RNG.normal(size=2)


def relu_net(theta, x):
    return theta[1] @ jnp.maximum(theta[0] @ x, 0)


def tanh_net(theta, x):
    return theta[1] @ jnp.tanh(theta[0] @ x)


def biased_relu_net(theta, x):
    (w, b), (v, c) = theta
    return v @ jnp.maximum(w @ x + b, 0) + c


def transposed_relu_net(theta, x):
    """Weights stored (in, out), biases before them, as Flax does."""
    (b, w), (c, v) = theta
    return jnp.maximum(x @ w + b, 0) @ v + c


def residual_net(theta, x):
    return theta[1] @ (x + jnp.maximum(theta[0] @ x, 0))


def normalized_net(theta, x):
    h = theta[0] @ x
    return theta[1] @ jnp.maximum(h / jnp.sqrt(jnp.mean(h**2)), 0)


def cubic_leaky_net(theta, x):
    h = theta[0] @ x
    h = jnp.where(h > 0, h, 0.01 * h)
    return theta[2] @ jnp.maximum(theta[1] @ h, 0)


def objective(model, theta):
    return JaxObjective(gb.Problem(model, gb.losses.cross_entropy, X, Y, theta), theta)


def measured(name, model, theta, **options):
    return take_all([(name, options)], objective(model, theta))[name]


def test_weight_norms_add_up_in_squares():
    found = measured("weight_norm", relu_net, (W, V))
    assert found.names == ("total", "0", "1")
    assert found["0"] == pytest.approx(np.sqrt(np.sum(W**2)))
    assert found["total"] ** 2 == pytest.approx(found["0"] ** 2 + found["1"] ** 2)


@pytest.mark.parametrize(
    ("model", "theta", "order"),
    [(relu_net, (W, V), 2), (cubic_leaky_net, (W, np.eye(4), V), 3), (normalized_net, (W, V), 1)],
)
def test_the_order_of_homogeneity_is_the_number_of_layers_that_scale(model, theta, order):
    found = measured("homogeneity", model, theta)
    assert abs(found.value - order) <= found.bound < 1e-11
    assert found.cost.forwards == 5


@pytest.mark.parametrize(("model", "theta"), [(tanh_net, (W, V)), (biased_relu_net, ((W, B), (V, C)))])
def test_a_network_that_is_not_homogeneous_has_no_order(model, theta):
    found = measured("homogeneity", model, theta)
    assert not found.converged
    assert np.isnan(found.value)
    assert "not homogeneous" in found.reason


def test_biases_at_zero_do_not_break_homogeneity_in_value():
    assert measured("homogeneity", biased_relu_net, ((W, 0 * B), (V, 0 * C))).value == pytest.approx(2)


def test_the_order_of_a_power_law_is_its_power_whatever_the_misfit():
    f = np.array([[1.0, 2.0]])
    order, bound = homogeneity_order(f, [(0.5, f * 0.5**2.5), (3.0, f * 3**2.5)], 1e-16)
    assert abs(order - 2.5) <= bound < 1e-12
    turned = homogeneity_order(f, [(2.0, np.array([[4.0, 8.001]]))], 1e-16)
    assert 1e-5 < turned[1] < 1e-3
    assert homogeneity_order(f, [(2.0, -f)], 1e-16)[1] == np.inf


def test_scales_that_test_nothing_are_refused():
    with pytest.raises(UsageError, match="other than 1"):
        measured("homogeneity", relu_net, (W, V), scales=(1.0,))
    with pytest.raises(NotApplicable, match="outputs are zero"):
        measured("homogeneity", relu_net, (W, 0 * V))


def test_layers_with_shared_singular_values_and_vectors_are_balanced():
    u, _, wt = np.linalg.svd(RNG.normal(size=(4, 3)), full_matrices=False)
    p = np.linalg.qr(RNG.normal(size=(3, 3)))[0]
    s = np.diag([3.0, 2.0, 1.0])
    found = measured("balance", relu_net, (s @ wt, u[:, :3] @ p @ s @ np.eye(3)))
    assert np.all(np.abs(found.value) <= found.bound)


def test_imbalance_is_of_the_second_layer_over_the_first_relative_to_their_mean():
    first, second = np.diag([1.0, 2.0, 0.0]), np.array([[3.0, 0.0, 0.0], [0.0, 0.0, 4.0]])
    found = measured("balance", relu_net, (first, second))
    assert found["0, 1 norm"] == pytest.approx((25 - 5) / 15)
    assert found["0, 1 matrix"] == pytest.approx(np.sqrt(8**2 + 4**2 + 16**2) / 15)
    assert found.details["neurons"]["0, 1"].tolist() == [8, -4, 16]


def test_balance_needs_two_layers_that_meet():
    one = JaxObjective(gb.Problem(gb.models.linear, gb.losses.logistic, X, 2.0 * Y - 1, np.ones(3)), np.ones(3))
    with pytest.raises(NotApplicable, match="two dense layers"):
        take_all(["balance"], one)


@pytest.mark.parametrize(
    ("model", "theta", "activation", "biased"),
    [
        (relu_net, (W, V), "relu", False),
        (tanh_net, (W, V), "tanh", False),
        (gb.models.deep_linear, (W, V), "identity", False),
        (biased_relu_net, ((W, B), (V, C)), "relu", True),
        (transposed_relu_net, ((B, W.T), (C, V.T)), "relu", True),
    ],
)
def test_a_chain_of_dense_layers_is_told_from_its_outputs(model, theta, activation, biased):
    network = dense_network(objective(model, theta))
    assert network.activation.name == activation
    assert network.biased == biased
    assert network.weights[0] == pytest.approx(W)


def test_a_constant_unit_stands_for_the_biases():
    found = objective(biased_relu_net, ((W, B), (V, C)))
    (first, second), x = dense_network(found).without_biases()
    assert np.maximum(x @ first.T, 0) @ second.T == pytest.approx(found.outputs())
    assert x[:, -1].tolist() == [1.0] * 12


@pytest.mark.parametrize(
    ("model", "theta"),
    [(residual_net, (np.eye(3), V[:, :3])), (normalized_net, (W, V)), (cubic_leaky_net, (W, W @ W.T, V))],
)
def test_branches_normalization_and_mixed_activations_are_no_chain(model, theta):
    with pytest.raises(NotApplicable, match="do not come out"):
        dense_network(objective(model, theta))
