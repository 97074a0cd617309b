"""Measures of the tangent kernel against models whose kernels are known in closed form."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gradbias import Problem, losses
from gradbias.errors import NotApplicable, UsageError
from gradbias.measures.catalogue import take_all
from gradbias.measures.jax_objective import JaxObjective, _factors
from gradbias.measures.kernel import _chosen, kernel_spectrum, kernel_target_alignment


def linear(theta, x):
    return theta @ x


def product(theta, x):
    u, v = theta
    return u * v * x


def network(theta, x):
    a, b, c = theta
    return c @ jnp.tanh(a @ x + b)


def convolution(theta, x):
    kernel, last = theta
    return last @ jnp.tanh(jax.lax.conv(x[None, None], kernel, (1,), "VALID")[0].mean(axis=1))


def squares(f, y):
    return 0.5 * jnp.sum((f - y) ** 2)


def drawn(*shape, seed=0):
    return jnp.asarray(np.random.default_rng([seed, *shape]).normal(size=shape))


def linear_objective(n=9, d=4, k=3):
    return JaxObjective(Problem(linear, squares, drawn(n, d), drawn(n, k), drawn(k, d)), drawn(k, d))


def product_objective(u, v, initial=None, n=7):
    theta = (jnp.array([u]), jnp.array([v]))
    x = drawn(n, 1)
    problem = Problem(product, squares, x, x, theta)
    start = None if initial is None else JaxObjective(problem, tuple(jnp.array([w]) for w in initial))
    return JaxObjective(problem, theta).with_settings(initial=start)


def weights(scale=1.0, seed=0, dtype=jnp.float64):
    shapes = ((16, 5), (16,), (3, 16))
    return tuple((scale * drawn(*shape, seed=seed)).astype(dtype) for shape in shapes)


def network_objective(theta, initial=None):
    problem = Problem(network, losses.cross_entropy, drawn(12, 5), np.arange(12) % 3, theta)
    objective = JaxObjective(problem, theta)
    start = None if initial is None else JaxObjective(problem, initial, work=objective.work)
    return objective.with_settings(initial=start)


def one(name, objective, states=None, **options):
    return take_all({name: options}, objective, states=states)[name]


def test_a_linear_model_has_the_gram_matrix_of_its_inputs_once_for_each_output():
    objective = linear_objective()
    x = np.asarray(objective.problem.x)
    truth = np.repeat(np.linalg.eigvalsh(x @ x.T / 9)[::-1], 3)
    estimate = one("ntk_spectrum", objective, count=12)
    assert np.all(np.abs(estimate.value - truth[:12]) <= estimate.bound)
    assert np.max(estimate.bound) < 1e-11
    assert estimate.names[0] == "eig1"
    assert estimate.details["trace"] == pytest.approx(3 * np.trace(x @ x.T) / 9)
    np.testing.assert_allclose(
        estimate.details["kernel"], np.einsum("ij,ab->iajb", x @ x.T, np.eye(3)), rtol=0, atol=1e-12
    )


def test_the_kernel_has_the_spectrum_of_the_gauss_newton_matrix_of_squares():
    theta = weights()
    objective = JaxObjective(Problem(network, squares, drawn(8, 5), drawn(8, 3), theta), theta)
    operator = objective.gauss_newton()
    matrix = np.stack([operator(row) for row in np.eye(objective.size)])
    truth = np.linalg.eigvalsh(matrix)[::-1][:5]
    estimate = one("ntk_spectrum", objective, count=5)
    np.testing.assert_allclose(estimate.value, truth, rtol=1e-10)


def test_a_count_beyond_the_kernel_gives_all_eigenvalues():
    assert len(one("ntk_spectrum", linear_objective(), count=100).value) == 27
    assert len(kernel_spectrum(np.eye(6).reshape(3, 2, 3, 2))) == 6


def test_a_linear_model_does_not_move_its_kernel_and_is_lazy():
    objective = linear_objective()
    objective.with_settings(initial=JaxObjective(objective.problem, drawn(3, 4, seed=8)))
    assert one("ntk_drift", objective).value <= 1e-15
    estimate = one("laziness", objective)
    assert estimate["nonlinearity"] <= 1e-15
    moved = np.linalg.norm(drawn(3, 4) - drawn(3, 4, seed=8)) / np.linalg.norm(drawn(3, 4, seed=8))
    assert estimate["movement"] == pytest.approx(moved, rel=1e-12)


def test_drift_and_laziness_of_a_product_of_two_weights_are_those_of_the_formula():
    """K = (u² + v²) x x', f - f₀ - J₀ Δ = Δu Δv x."""
    u, v, u0, v0 = 1.5, -0.5, 0.9, 0.4
    objective = product_objective(u, v, (u0, v0))
    drift = one("ntk_drift", objective)
    assert abs(drift.value - abs(u * u + v * v - u0 * u0 - v0 * v0) / (u0 * u0 + v0 * v0)) <= drift.bound < 1e-12
    assert drift.details["rotation"] == pytest.approx(0, abs=1e-14)
    estimate = one("laziness", objective)
    truth = abs((u - u0) * (v - v0) / (u * v - u0 * v0)), np.hypot(u - u0, v - v0) / np.hypot(u0, v0), drift.value
    assert np.all(np.abs(estimate.value - truth) <= estimate.bound)
    assert np.max(estimate.bound) < 1e-12
    assert estimate.converged


def test_large_initial_weights_are_lazier_than_small_ones():
    """The product of two weights moved by the same step from where they are large and from where they are small."""
    told = []
    for scale in (10.0, 1.0, 0.1):
        objective = product_objective(scale + 0.3, scale + 0.3, (scale, scale))
        told.append(one("laziness", objective)["nonlinearity"])
    assert told[0] < 0.02 < told[1] < told[2]


def test_at_the_initial_weights_the_kernel_has_not_moved_and_laziness_is_undecided():
    objective = product_objective(1.0, 2.0, (1.0, 2.0))
    assert one("ntk_drift", objective).value == 0
    estimate = one("laziness", objective)
    assert np.isnan(estimate["nonlinearity"])
    assert not estimate.converged
    assert "have not changed" in estimate.reason
    assert estimate["movement"] == estimate["kernel_drift"] == 0


def test_a_change_within_rounding_leaves_laziness_undecided():
    estimate = one("laziness", product_objective(1.0 + 1e-15, 2.0, (1.0, 2.0)))
    assert np.isnan(estimate["nonlinearity"])
    assert not estimate.converged


@pytest.mark.parametrize("name", ["ntk_drift", "laziness"])
def test_without_initial_weights_the_remedy_is_told(name):
    with pytest.raises(NotApplicable, match="pass initial="):
        one(name, linear_objective())


def test_an_initial_kernel_of_zero_is_refused():
    with pytest.raises(NotApplicable, match="no output depends"):
        one("ntk_drift", product_objective(1.0, 1.0, (0.0, 0.0)))


@pytest.mark.parametrize("name", ["ntk_drift", "laziness"])
def test_the_initial_kernel_is_computed_once(name):
    states = {}
    objective = network_objective(weights(), weights(seed=1))
    first = one(name, objective, states)
    kernel = states[name]["kernel"]
    before = objective.work.total.gradients
    again = one(name, objective, states)
    assert states[name]["kernel"] is kernel
    assert objective.work.total.gradients - before < first.cost.gradients
    np.testing.assert_array_equal(first.value, again.value)


def test_the_examples_are_drawn_once_and_are_those_asked_for():
    states = {}
    objective = network_objective(weights(), weights(seed=1))
    estimate = one("ntk_spectrum", objective, states, examples=4)
    index = states["ntk_spectrum"]["index"]
    assert len(set(index.tolist())) == 4
    np.testing.assert_array_equal(estimate.details["kernel"], objective.subset(index).ntk())
    one("ntk_spectrum", objective, states, examples=4)
    assert states["ntk_spectrum"]["index"] is index


def test_many_outputs_limit_the_examples_and_that_is_noted():
    theta = drawn(2000, 2)
    objective = JaxObjective(Problem(linear, squares, drawn(6, 2), jnp.zeros((6, 2000)), theta), theta)
    states = {}
    _, notes = _chosen(objective, 200, np.random.default_rng(0), states)
    assert len(states["index"]) == 4
    assert "of 4 examples" in notes[0]
    wide = drawn(5000, 2)
    objective = JaxObjective(Problem(linear, squares, drawn(6, 2), jnp.zeros((6, 5000)), wide), wide)
    with pytest.raises(NotApplicable, match="Pass outputs="):
        one("ntk_spectrum", objective)


def test_alignment_is_one_for_the_kernel_of_the_targets_and_shifts_do_not_matter():
    y = np.eye(3)[np.arange(9) % 3]
    kernel = y @ y.T
    assert kernel_target_alignment(kernel, y) == pytest.approx(1, abs=1e-14)
    shift = np.arange(9.0)
    assert kernel_target_alignment(kernel + shift[:, None] + shift, y + 2) == pytest.approx(1, abs=1e-13)
    assert kernel_target_alignment(-kernel, y) == pytest.approx(-1, abs=1e-14)


def test_alignment_of_a_linear_model_is_that_of_its_inputs():
    objective = linear_objective()
    x, y = np.asarray(objective.problem.x), np.asarray(objective.problem.y)
    h = np.eye(9) - 1 / 9
    k, t = h @ x @ x.T @ h, h @ y @ y.T @ h
    estimate = one("ntk_alignment", objective)
    truth = np.sum(k * t) / np.linalg.norm(k) / np.linalg.norm(t)
    assert abs(estimate.value - truth) <= estimate.bound < 1e-11


def test_class_numbers_are_unit_vectors_and_labels_of_one_output_two_classes():
    objective = network_objective(weights())
    kernel = np.einsum("iaja->ij", objective.ntk())
    truth = kernel_target_alignment(kernel, np.eye(3)[np.arange(12) % 3])
    assert one("ntk_alignment", objective).value == pytest.approx(truth, rel=1e-12)
    x, y = drawn(6, 2), jnp.array([1.0, -1.0, 1.0, 1.0, -1.0, -1.0])
    theta = drawn(1, 2)
    binary = JaxObjective(Problem(linear, losses.logistic, x, y, theta), theta)
    truth = kernel_target_alignment(np.asarray(x @ x.T), np.asarray(y, dtype=float)[:, None])
    assert one("ntk_alignment", binary).value == pytest.approx(truth, rel=1e-12)


def test_equal_targets_align_with_nothing():
    x = drawn(5, 2)
    theta = drawn(3, 2)
    objective = JaxObjective(Problem(linear, losses.cross_entropy, x, np.zeros(5, dtype=int), theta), theta)
    with pytest.raises(NotApplicable, match="same target"):
        one("ntk_alignment", objective)


@pytest.mark.parametrize(("name", "option"), [("ntk_spectrum", "count"), ("ntk_drift", "examples")])
def test_counts_that_are_too_small_are_refused(name, option):
    with pytest.raises(UsageError, match=f"{option} "):
        one(name, linear_objective(), **{option: 0})


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("name", ["ntk_spectrum", "ntk_drift", "ntk_alignment", "laziness"])
def test_in_single_precision_the_bounds_hold(name, seed):
    single, start = weights(1.0, seed, jnp.float32), weights(0.8, seed + 10, jnp.float32)
    x, y = drawn(12, 5).astype(jnp.float32), np.arange(12) % 3

    def objective(cast):
        problem = Problem(network, losses.cross_entropy, cast(x), y, jax.tree.map(cast, single))
        initial = JaxObjective(problem, jax.tree.map(cast, start))
        return JaxObjective(problem, jax.tree.map(cast, single)).with_settings(initial=initial)

    rough, exact = one(name, objective(lambda a: a)), one(name, objective(lambda a: a.astype(jnp.float64)))
    assert np.all(np.abs(rough.value - exact.value) <= rough.bound + exact.bound)
    assert np.any(rough.value != exact.value)
    assert np.max(rough.bound / (np.max(np.abs(exact.value)))) < 1e-2


def twice(theta, x):
    return theta @ (theta @ x)


@pytest.mark.parametrize(
    ("predict", "theta", "size"), [(convolution, (drawn(4, 1, 3), drawn(2, 4)), 8), (twice, drawn(4, 4), 4)]
)
def test_a_kernel_whose_rows_have_no_factors_is_the_gram_matrix_of_the_jacobian(predict, theta, size):
    x = drawn(5, size)
    objective = JaxObjective(Problem(predict, squares, x, x[:, : predict(theta, x[0]).size], theta), theta)
    rows = jax.tree.leaves(jax.jit(jax.jacrev(lambda t: jax.vmap(lambda x: predict(t, x))(x)))(theta))
    jacobian = np.concatenate([np.asarray(leaf).reshape(*leaf.shape[:2], -1) for leaf in rows], -1)
    truth = np.einsum("iap,jbp->iajb", jacobian, jacobian)
    np.testing.assert_allclose(objective.ntk(), truth, rtol=0, atol=1e-12 * truth.max())


def test_factors_are_told_from_matrices_that_are_no_product():
    left, right = drawn(3, 2, 4), drawn(3, 2, 5)
    rows = left[..., None] * right[..., None, :]
    assert bool(_factors(rows)[2])
    assert bool(_factors(rows.at[1].set(0.0))[2])
    assert not bool(_factors(rows.at[1, 0, 2, 3].add(1e-6))[2])


def test_jacobian_products_are_those_of_the_jacobian():
    objective = network_objective(weights())
    v = np.random.default_rng(0).normal(size=objective.size)
    step = 1e-6
    moved = [objective.at(objective.parameters() + s * step * v).outputs() for s in (1, -1)]
    np.testing.assert_allclose(objective.jacobian_product(v), (moved[0] - moved[1]) / (2 * step), atol=1e-7)
