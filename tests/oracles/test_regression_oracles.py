"""Oracles of regression claims: potentials of deep diagonal networks, ReLU neurons, kernels, univariate networks."""

import cvxpy as cp
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from mpmath import mp

from gradbias import models
from gradbias.oracles import (
    bregman_projection,
    diagonal_potential,
    function_cost,
    hypentropy,
    kernel_interpolant,
    min_norm_interpolant,
    min_norm_lp_value,
    min_norm_relu_neuron,
    tanh_tangent_features,
    univariate_relu_fit,
)
from oracles.separable import sparse

RNG = np.random.default_rng(0)


@pytest.mark.parametrize("depth", [3, 4, 7])
@pytest.mark.parametrize("alpha", [0.05, 1.0, 20.0])
def test_the_mirror_map_of_a_deep_network_is_the_layers_power_of_the_dual(depth, alpha):
    psi, z = diagonal_potential(depth, alpha), np.array([-0.9, -0.2, 1e-6, 0.0, 0.5, 0.99])
    # The layers themselves: u^(2-D) = α^(2-D) (1 - z).
    u, v = ((alpha ** (2 - depth) * (1 - s * z)) ** (1 / (2 - depth)) for s in (1, -1))
    np.testing.assert_allclose(psi.inverse_gradient(z), u**depth - v**depth, rtol=1e-9, atol=1e-15 * alpha**depth)
    np.testing.assert_allclose(psi.gradient(psi.inverse_gradient(z)), z, rtol=1e-8, atol=1e-14)


@pytest.mark.parametrize("depth", [3, 4, 7])
def test_the_conjugate_and_the_curvature_are_integral_and_derivative_of_the_mirror_map(depth):
    psi, z, h = diagonal_potential(depth, 0.7), np.linspace(-0.8, 0.8, 9), 1e-5
    ahead, behind = z + h, z - h
    slope = (psi.conjugate(ahead) - psi.conjugate(behind)) / (2 * h)
    np.testing.assert_allclose(slope, psi.inverse_gradient(z), rtol=1e-6, atol=1e-9)
    bend = (psi.inverse_gradient(ahead) - psi.inverse_gradient(behind)) / (2 * h)
    np.testing.assert_allclose(bend, psi.curvature(z), rtol=1e-6)
    w = psi.inverse_gradient(z)
    np.testing.assert_allclose(psi.value(w) + psi.conjugate(z), w * z, rtol=1e-8, atol=1e-12)
    assert np.isinf(psi.conjugate(np.array([1.0, -1.5]))).all()


def test_deep_potentials_end_at_the_least_l1_and_the_least_l2_norm():
    x, y = sparse(8, 20, 0)
    l1, l2 = float(min_norm_lp_value(x, y).value), min_norm_interpolant(x, y).value
    excess = []
    for potential in (hypentropy(1e-4), diagonal_potential(3, 1e-2), diagonal_potential(4, 1e-2)):
        found = bregman_projection(x, y, potential=potential)
        assert found.certified
        excess.append(np.abs(found.value).sum() / l1 - 1)
    assert excess[0] > excess[1] > excess[2] > -1e-12
    assert excess[1] < 1e-3
    far = bregman_projection(x, y, potential=diagonal_potential(3, 30.0))
    np.testing.assert_allclose(far.value, l2, atol=1e-3)


def in_fifty_digits(x, y, depth, alpha):
    """The minimizer of the potential of a deep network, by damped Newton on its dual in 50 digits."""
    p, beta = mp.mpf(depth) / (depth - 2), mp.mpf(alpha) ** depth
    x, y, nu = mp.matrix(x.tolist()), mp.matrix(y.tolist()), mp.matrix(len(y), 1)
    for _ in range(2000):
        z = x.T * nu
        w = beta * mp.matrix([(1 - t) ** -p - (1 + t) ** -p for t in z])
        residual = y - x * w
        if mp.norm(residual) < mp.mpf(10) ** -30:
            return np.array([float(each) for each in w])
        bend = mp.diag([beta * p * ((1 - t) ** (-p - 1) + (1 + t) ** (-p - 1)) for t in z])
        change = mp.lu_solve(x * bend * x.T, residual)
        along = x.T * change
        # Never more than halfway to the pole of a coordinate.
        nu += change * min([mp.mpf(1)] + [(1 - abs(t)) / (2 * abs(move)) for t, move in zip(z, along, strict=True)])
    raise AssertionError("no solution in 50 digits")


@pytest.mark.parametrize("depth", [3, 4])
@pytest.mark.parametrize("alpha", [1e-2, 1e-3, 1e-4])
@pytest.mark.parametrize("seed", [0, 1, 2])  # of 0 and 2 the limit is as sparse as the truth, of 1 it is not
def test_the_limit_from_a_small_start_is_known_to_its_stated_error(depth, alpha, seed):
    rng = np.random.default_rng(seed)
    x, truth = rng.normal(size=(4, 9)), np.zeros(9)
    truth[:2] = 1.0, -0.7
    with mp.workdps(50):
        exact = in_fifty_digits(x, x @ truth, depth, alpha)
    found = bregman_projection(x, x @ truth, potential=diagonal_potential(depth, alpha))
    assert found.certified
    assert np.linalg.norm(found.value - exact) <= found.error < 1e-11


def test_the_depth_potential_refuses_two_layers_and_bad_scales():
    with pytest.raises(ValueError, match="For two layers use hypentropy"):
        diagonal_potential(2, 1.0)
    with pytest.raises(ValueError, match=r"alpha must be positive; got 0"):
        diagonal_potential(3, [1.0, 0.0])
    with pytest.raises(ValueError, match=r"cannot be resolved in float64: .* weight \d of .*Start from a larger scale"):
        bregman_projection([[1.0, 2.0]], [1.0], potential=diagonal_potential(5, 1e-6))


@pytest.mark.parametrize("seed", range(12))
def test_the_shortest_relu_neuron_is_that_of_a_quadratic_programme(seed):
    rng = np.random.default_rng(seed)
    n, d = int(rng.integers(2, 9)), int(rng.integers(3, 7))
    x, teacher = rng.normal(size=(n, d)), rng.normal(size=d)
    y = np.maximum(x @ teacher, 0.0)
    found, w = min_norm_relu_neuron(x, y), cp.Variable(d)
    fits = [x[i] @ w == y[i] if y[i] > 0 else x[i] @ w <= 0 for i in range(n)]
    cp.Problem(cp.Minimize(cp.sum_squares(w)), fits).solve(solver=cp.CLARABEL)
    assert found.certified
    assert np.linalg.norm(found.value) == pytest.approx(np.linalg.norm(w.value), rel=1e-5, abs=1e-4)
    np.testing.assert_allclose(np.maximum(x @ found.value, 0.0), y, atol=1e-10)


def test_targets_that_no_relu_neuron_makes_are_refused():
    x = RNG.normal(size=(9, 3))
    with pytest.raises(ValueError, match=r"No ReLU neuron fits these 9 examples in 3 dimensions.*misses example"):
        min_norm_relu_neuron(x, np.abs(RNG.normal(size=9)))
    with pytest.raises(ValueError, match="A ReLU is never negative; got y = -1"):
        min_norm_relu_neuron([[1.0]], [-1.0])
    with pytest.raises(ValueError, match="No ReLU neuron fits"):  # x and -x cannot both be positive
        min_norm_relu_neuron([[1.0, 0.0], [-1.0, 0.0]], [1.0, 1.0])


def test_the_tangent_features_are_the_jacobian_of_the_network():
    w, b, a, x = RNG.normal(size=(4, 3)), RNG.normal(size=4), RNG.normal(size=4), RNG.normal(size=(5, 3))
    theta = tuple(jnp.asarray(part) for part in (w, b, a))
    jacobian = jax.jacrev(lambda t: jax.vmap(lambda p: models.tanh_network(t, p)[0])(jnp.asarray(x)))(theta)
    expected = np.hstack([np.asarray(part).reshape(5, -1) for part in jacobian])
    np.testing.assert_allclose(tanh_tangent_features(x, w, b, a), expected, rtol=1e-12, atol=1e-14)
    with pytest.raises(ValueError, match=r"weights must have shape \(4, 2\)"):
        tanh_tangent_features(x[:, :2], w, b, a)


def test_kernel_regression_is_the_shortest_fit_in_feature_space():
    here, there, y = RNG.normal(size=(5, 12)), RNG.normal(size=(3, 12)), RNG.normal(size=5)
    found, weights = kernel_interpolant(here @ here.T, y, there @ here.T), min_norm_interpolant(here, y).value
    assert found.certified
    assert np.linalg.norm(found.value["function"] - there @ weights) <= found.error["function"] + 1e-12
    assert found.value["norm"] == pytest.approx(np.linalg.norm(weights), rel=1e-12)


def test_kernels_that_cannot_fit_or_are_no_kernels_are_refused():
    with pytest.raises(ValueError, match="not positive definite"):
        kernel_interpolant(np.ones((2, 2)), [1.0, 2.0], np.ones((1, 2)))
    with pytest.raises(ValueError, match="gram must be symmetric"):
        kernel_interpolant([[1.0, 0.5], [0.0, 1.0]], [1.0, 2.0], np.ones((1, 2)))
    with pytest.raises(ValueError, match=r"cross must have one column per example, 2; got shape \(1, 3\)"):
        kernel_interpolant(np.eye(2), [1.0, 2.0], np.ones((1, 3)))


@pytest.mark.parametrize("seed", range(6))
def test_the_cost_of_a_function_is_a_linear_programme_over_hinges(seed):
    rng = np.random.default_rng(seed)
    x = np.sort(rng.uniform(-2, 2, 6))
    y = (3.0 if seed % 2 else 0.0) * x + 0.3 * rng.normal(size=6)
    hinges = np.hstack([np.maximum(x[:, None] - x, 0), np.maximum(x - x[:, None], 0)])
    p, c = cp.Variable(12), cp.Variable()
    least = cp.Problem(cp.Minimize(cp.norm1(p)), [hinges @ p + c == y]).solve(solver=cp.CLARABEL)
    assert function_cost(x, y) == pytest.approx(least, rel=1e-6)
    order = rng.permutation(6)
    assert function_cost(x[order], y[order]) == pytest.approx(function_cost(x, y), rel=1e-13)


def test_the_cost_of_a_network_is_never_below_that_of_its_function():
    for _ in range(20):
        w, b, a = RNG.normal(size=(3, 5))
        x = np.sort(np.concatenate([[-9.0, 9.0], -b / w, np.linspace(-8, 8, 7)]))
        y = np.maximum(np.outer(x, w) + b, 0.0) @ a
        assert function_cost(x, y) <= 0.5 * (w @ w + a @ a) + 1e-9
        assert function_cost(x, y) <= np.sum(np.abs(w * a)) + 1e-9


def test_the_fit_of_weight_decay_is_certified_keeps_the_order_and_tends_to_interpolation():
    # Sorted by a permutation that is not its own inverse.
    x, y = np.array([0.5, 2.0, -1.0, 1.0]), np.array([1.0, 2.5, 0.0, -1.0])
    found = univariate_relu_fit(x, y, decay=1e-6)
    assert found.certified
    np.testing.assert_allclose(found.value["fitted"], y, atol=1e-3)
    assert float(found.value["cost"]) == pytest.approx(function_cost(x, y), rel=1e-3)
    strong = univariate_relu_fit(x, y, decay=100.0)
    np.testing.assert_allclose(strong.value["fitted"], np.mean(y), atol=1e-8)  # the constant is free
    with pytest.raises(ValueError, match="decay must be positive"):
        univariate_relu_fit(x, y, decay=0.0)
    with pytest.raises(ValueError, match="at least two distinct points"):
        function_cost([1.0, 1.0], [0.0, 1.0])
