"""The curvature instruments against dense Hessians."""

from functools import cache

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree
from scipy import stats

from gradbias import Problem, losses, models
from gradbias.errors import NotApplicable, UsageError
from gradbias.measures.catalogue import catalogue, generator, take_all
from gradbias.measures.curvature import sharpness
from gradbias.measures.curvature_parts import groups_of, restricted
from gradbias.measures.jax_objective import JaxObjective
from gradbias.measures.objective import OptimizerGeometry, SymmetricOperator
from gradbias.measures.stochastic import squared_frobenius

MINE = {name for name, m in catalogue().items() if m.topic.startswith("curvature")}


def predict(theta, x):
    return theta["b"]["weight"] @ jnp.tanh(theta["a"]["weight"] @ x + theta["a"]["bias"])


@cache
def case(dtype="float64", hidden=12):
    r = np.random.default_rng(0)
    theta = {
        "a": {"weight": r.standard_normal((hidden, 5)) * 0.5, "bias": r.standard_normal(hidden) * 0.1},
        "b": {"weight": r.standard_normal((3, hidden)) * 0.5},
    }
    theta = jax.tree.map(lambda a: jnp.asarray(a, dtype), theta)
    x, y = jnp.asarray(r.standard_normal((40, 5)), dtype), jnp.asarray(r.integers(0, 3, 40))
    return Problem(predict, losses.cross_entropy, x, y, theta)


def objective(dtype="float64", **settings):
    problem = case(dtype)
    return JaxObjective(problem, problem.theta0).with_settings(**settings)


@jax.jit
def _hessian_at(problem, flat):
    return jax.hessian(lambda z: problem.risk(ravel_pytree(problem.theta0)[1](z)))(flat)


def hessian_at(flat):
    return np.asarray(_hessian_at(case(), flat))


@cache
def dense(part=""):
    """The Hessian in float64, or its Gauss-Newton part, by other means than the operators."""
    problem = case()
    flat, unravel = ravel_pytree(problem.theta0)
    if part == "gauss-newton":
        jac = np.asarray(jax.jacobian(lambda z: problem.outputs(unravel(z)))(flat))
        p = np.asarray(jax.nn.softmax(problem.outputs(problem.theta0)))
        inner = np.einsum("ia,ab->iab", p, np.eye(3)) - np.einsum("ia,ib->iab", p, p)
        return np.einsum("iap,iab,ibq->pq", jac, inner, jac) / len(p)
    return hessian_at(flat)


def eigenvalues(a):
    return np.linalg.eigvalsh(a)[::-1]


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("name", ["sharpness", "top_eigenvalues", "bottom_eigenvalues", "gauss_newton_sharpness"])
def test_eigenvalues_are_those_of_the_dense_matrix_within_their_bounds(name, dtype):
    matrix = dense("gauss-newton" if name == "gauss_newton_sharpness" else "")
    truth = eigenvalues(matrix)[::-1] if name == "bottom_eigenvalues" else eigenvalues(matrix)
    for tolerance in (1e-2, 1e-8):
        estimate = take_all({name: {"rtol": tolerance}}, objective(dtype))[name]
        value, bound = np.atleast_1d(estimate.value), np.atleast_1d(estimate.bound)
        assert estimate.converged
        assert np.all(np.abs(value - truth[: len(value)]) <= bound)
        assert np.all(bound <= 1.01 * tolerance * np.abs(truth).max() + 1e-4 * (dtype == "float32"))
        assert estimate.cost.products < 80


def test_the_instrument_and_the_dense_function_of_the_same_name_agree():
    found = take_all({"sharpness": {"rtol": 1e-10}}, objective())["sharpness"]
    assert float(found) == pytest.approx(float(eqx.filter_jit(sharpness)(case(), case().theta0)), rel=1e-10)


def test_vectors_are_eigenvectors():
    estimate = take_all({"bottom_eigenvalues": {"rtol": 1e-4}}, objective())["bottom_eigenvalues"]
    vectors = estimate.details["vectors"]
    left = np.linalg.norm(vectors @ dense() - np.asarray(estimate.value)[:, None] * vectors, axis=1)
    assert np.all(left <= estimate.details["residuals"] + 1e-12)


def test_a_reading_that_did_not_converge_is_nan_and_tells_the_interval():
    estimate = take_all({"sharpness": {"max_products": 3, "rtol": 1e-6}}, objective())["sharpness"]
    assert np.isnan(float(estimate))
    assert not estimate.converged
    assert "off by at most" in estimate.reason
    assert estimate.details["unconverged"][0] <= eigenvalues(dense())[0]
    assert estimate.cost.products == 3


def test_readings_along_descent_are_followed_and_say_what_they_assume():
    at, states, step = objective(), {}, 0.5
    spent = []
    for _ in range(8):
        estimate = take_all(["sharpness"], at, states=states)["sharpness"]
        truth = eigenvalues(hessian_at(at.parameters()))[0]
        assert abs(float(estimate) - truth) <= estimate.bound
        assert ("assuming" in estimate.reason) == estimate.reason.startswith("followed")
        spent.append(estimate.cost.products)
        for _step in range(3):
            at = at.at(at.parameters() - step * at.gradient())
    assert sum(spent[1:]) < 7 * 6


def test_a_sharpness_short_of_its_tolerance_is_no_number_and_says_which_tolerance():
    estimate = take_all({"sharpness": {"max_products": 2}}, objective())["sharpness"]
    assert np.isnan(float(estimate))
    assert str(estimate).startswith("not converged (stopped after 2 products, short of a tolerance of 0.01;")
    assert estimate.details["unconverged"][0] <= eigenvalues(dense())[0]


def test_the_spectrum_is_that_of_the_dense_hessian():
    estimate = take_all(["spectrum"], objective())["spectrum"]
    e = eigenvalues(dense())
    d = estimate.details
    truth = stats.norm.pdf(d["grid"][:, None], e, d["sigma"]).mean(axis=1)
    assert np.mean(np.abs(d["density"] - truth) <= d["density_bound"]) > 0.9
    named = {
        "smallest": e[-1],
        "largest": e[0],
        "mean": e.mean(),
        "below": stats.norm.cdf((-d["edge"] - e) / d["sigma"]).mean(),
        "above": stats.norm.sf((d["edge"] - e) / d["sigma"]).mean(),
    }
    for name, value, bound in estimate.items():
        assert abs(value - named[name]) <= bound, name


@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_trace_and_norm_are_those_of_the_dense_hessian(dtype):
    found = take_all({"trace": {"max_products": 60}, "frobenius_norm": {"max_products": 300}}, objective(dtype))
    assert abs(float(found["trace"]) - np.trace(dense())) <= found["trace"].bound
    assert found["trace"].confidence == 0.95
    exact = found["frobenius_norm"]  # as many products as there are columns
    assert abs(float(exact) - np.linalg.norm(dense())) <= exact.bound <= (1e-10 if dtype == "float64" else 1e-3)
    assert exact.confidence is None


def test_the_interval_of_the_norm_is_the_root_of_that_of_its_square():
    at, options = objective(), dict(sketch=0, max_products=16)
    root = take_all({"frobenius_norm": options}, at)["frobenius_norm"]
    square = squared_frobenius(at.hessian(), rng=generator("frobenius_norm", 0), **options)
    ends = np.sqrt([square.value - square.bound, square.value + square.bound])
    assert float(root) - root.bound == pytest.approx(ends[0])  # the farther end: the root is concave
    assert float(root) + root.bound >= ends[1]


@pytest.mark.parametrize("groups", ["tensor", "layer"])
def test_the_sharpness_of_layers_is_that_of_the_diagonal_blocks(groups):
    at = objective()
    found = take_all({"layer_sharpness": {"groups": groups}}, at)["layer_sharpness"]
    parts = groups_of(at.blocks, groups)
    assert tuple(parts) == found.names
    assert len(parts) == (3 if groups == "tensor" else 2)
    for (name, own), bound in zip(parts.items(), found.bound, strict=True):
        index = np.concatenate([np.arange(s.start, s.stop) for s in own])
        assert abs(found[name] - eigenvalues(dense()[np.ix_(index, index)])[0]) <= bound


def test_the_traces_of_layers_are_unbiased_and_covered():
    at, repeats = objective(), 100
    taken = [take_all({"layer_trace": {"max_products": 20}}, at, seed=s)["layer_trace"] for s in range(repeats)]
    truth = np.array([np.trace(dense()[s, s]) for s in at.blocks.values()])
    values = np.array([t.value for t in taken])
    assert np.all(np.abs(values.mean(axis=0) - truth) <= 4 * values.std(axis=0, ddof=1) / np.sqrt(repeats))
    covered = np.mean([np.abs(t.value - truth) <= t.bound for t in taken], axis=0)
    assert np.all(covered >= 0.95 - 3 * np.sqrt(0.95 * 0.05 / repeats))


def test_blocks_need_not_be_next_to_each_other():
    a = np.arange(36.0).reshape(6, 6)
    a = a + a.T
    block = restricted(SymmetricOperator(a.__matmul__, 6, 2e-16), [slice(4, 6), slice(0, 1)])
    np.testing.assert_array_equal([block(row) for row in np.eye(3)], a[np.ix_([4, 5, 0], [4, 5, 0])])
    assert block.rows(2).shape == (2, 3)
    with pytest.raises(UsageError, match="'tensor' or 'layer'"):
        groups_of({}, "block")


def test_the_split_is_into_the_gauss_newton_matrix_and_the_rest():
    found = take_all(["gauss_newton_split"], objective())["gauss_newton_split"]
    g, rest = dense("gauss-newton"), dense() - dense("gauss-newton")
    truth = [eigenvalues(g)[0], eigenvalues(rest)[0], np.trace(g), np.trace(rest)]
    assert np.all(np.abs(found.value - truth) <= found.bound)


@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_nothing_is_left_of_the_hessian_of_a_linear_model(dtype):
    r = np.random.default_rng(0)
    x, y = jnp.asarray(r.standard_normal((30, 40)), dtype), jnp.asarray(r.standard_normal(30), dtype)
    problem = Problem(models.linear, losses.square, x, y, jnp.zeros(40, dtype))
    found = take_all(["gauss_newton_split"], JaxObjective(problem, problem.theta0))["gauss_newton_split"]
    for name in ("sharpness of H - G", "trace of H - G"):
        i = found.names.index(name)
        assert abs(found.value[i]) <= found.bound[i] <= 1e5 * jnp.finfo(dtype).eps
    assert found.cost.products < 200


def test_the_metric_of_the_optimizer_and_its_threshold_are_used():
    scale = np.linspace(0.5, 2, len(dense()))
    geometry = OptimizerGeometry("Adam", 38.0, scale=scale, decay=0.1, source="cohen2022adaptive")
    found = take_all(["preconditioned_sharpness"], objective(geometry=lambda: geometry))["preconditioned_sharpness"]
    truth = eigenvalues(scale[:, None] * (dense() + 0.1 * np.eye(len(scale))) * scale)[0]
    assert abs(float(found) - truth) <= found.bound
    assert found.details["threshold"] == 38.0
    assert found.details["ratio"] == pytest.approx(float(found) / 38)
    with pytest.raises(NotApplicable, match="optimizer="):
        take_all(["preconditioned_sharpness"], objective())


def test_batch_sharpness_is_the_mean_over_all_batches():
    """With batches of one there are as many as examples, and the mean is known."""
    problem = case()
    flat, unravel = ravel_pytree(problem.theta0)

    def along_its_gradient(x, y):
        def loss(z):
            return losses.cross_entropy(predict(unravel(z), x), y)

        g, h = jax.grad(loss)(flat), jax.hessian(loss)(flat)
        return g @ h @ g / (g @ g)

    each = np.asarray(jax.jit(jax.vmap(along_its_gradient))(problem.x, problem.y))
    found = take_all({"batch_sharpness": {"max_batches": 40}}, objective(batch_size=1))["batch_sharpness"]
    assert abs(float(found) - np.mean(each)) <= found.bound
    assert set(np.round(found.details["samples"], 8)) <= set(np.round(each, 8))
    assert found.cost.products == pytest.approx(len(found.details["samples"]) / 40)


def test_a_batch_of_everything_is_exact_and_no_batch_size_is_not_applicable():
    found = take_all({"batch_sharpness": {"batch_size": 40}}, objective())["batch_sharpness"]
    problem = case()
    flat, unravel = ravel_pytree(problem.theta0)
    g = np.asarray(jax.grad(lambda z: problem.risk(unravel(z)))(flat))
    assert abs(float(found) - g @ dense() @ g / (g @ g)) <= found.bound <= 1e-10
    with pytest.raises(NotApplicable, match="batch_size="):
        take_all(["batch_sharpness"], objective())


def quadratic_objective():
    """L(w) = w·x squared over two with one example: the worst case is known in closed form."""
    x = jnp.array([[1.0, -2.0, 0.5]])
    problem = Problem(models.linear, losses.square, x, jnp.array([0.0]), jnp.array([1.0, 0.5, -2.0]))
    return JaxObjective(problem, problem.theta0), np.array(x[0]), np.array(problem.theta0)


def test_adaptive_sharpness_of_a_line_is_the_closed_form():
    at, x, w = quadratic_objective()
    rho, size = 0.5, np.linalg.norm(x * np.abs(w))
    residual = float(x @ w)
    truth = 0.5 * (abs(residual) + rho * size) ** 2 - 0.5 * residual**2
    found = take_all(["adaptive_sharpness"], at)["adaptive_sharpness"]
    assert abs(float(found) - truth) <= found.bound <= 1e-12
    assert truth <= found.details["second_order"] <= 1.1 * truth


def test_adaptive_sharpness_does_not_change_when_layers_are_rescaled():
    """For a homogeneous network: a factor moved from one layer to the other, which changes the sharpness."""
    r = np.random.default_rng(0)
    x, y = jnp.asarray(r.standard_normal((20, 3))), jnp.asarray(r.standard_normal(20))
    u, v = jnp.asarray(r.standard_normal((6, 3))), jnp.asarray(r.standard_normal((1, 6)))

    def relu(theta, x):
        return theta[1] @ jax.nn.relu(theta[0] @ x)

    values = []
    for c in (1.0, 10.0):
        problem = Problem(relu, losses.square, x, y, (c * u, v / c))
        options = {"adaptive_sharpness": {"starts": 1, "rho": 0.1}, "sharpness": {}}
        values.append([float(e) for e in take_all(options, JaxObjective(problem, problem.theta0)).values()])
    assert values[1][0] == pytest.approx(values[0][0], rel=1e-8)
    assert values[1][1] > 2 * values[0][1]


def test_adaptive_sharpness_is_a_lower_bound_attained_inside_the_ball():
    at = objective()
    found = take_all(["adaptive_sharpness"], at)["adaptive_sharpness"]
    assert float(found) == max(found.details["increases"])
    assert float(found) > 0
    assert "lower bound" in found.notes[0]


@pytest.mark.parametrize("name", sorted(MINE))
def test_equal_seeds_give_equal_numbers_and_work_is_counted(name):
    settings = dict(batch_size=8, geometry=lambda: OptimizerGeometry("SGD", 2.0))
    once, again = (take_all([name], objective(**settings), seed=3)[name] for _ in range(2))
    np.testing.assert_array_equal(once.value, again.value)
    assert once.cost.products == again.cost.products > 0
    assert catalogue()[name].gradients(catalogue()[name].options) > 0


def test_the_names_are_those_agreed_on():
    whole = {"sharpness", "top_eigenvalues", "bottom_eigenvalues", "spectrum", "trace", "frobenius_norm"}
    parts = {"layer_sharpness", "layer_trace", "gauss_newton_sharpness", "gauss_newton_split"}
    assert whole | parts | {"preconditioned_sharpness", "batch_sharpness", "adaptive_sharpness"} <= MINE
