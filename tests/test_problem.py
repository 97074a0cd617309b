"""What a problem refuses, in which words, and that its risk is the mean of its losses."""

import decimal

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gradbias as gb
from cases import least_squares, without_type_checks
from gradbias.losses import cross_entropy, exponential, logistic, square
from gradbias.models import linear
from gradbias.problem import require_finite

X, Y, W = np.ones((3, 2)), np.ones(3), np.zeros(2)


def scalar_output(w, x):
    return w @ x


def loss_of_each_output(f, y):
    return (f - y) ** 2


def with_offset(theta, x):
    w, offset = theta
    return (w @ x + offset)[None]


@pytest.mark.parametrize(
    ("x", "y"), [(X, np.ones(4)), (X[:0], Y[:0]), (X[:1], Y)], ids=["more targets", "nothing", "fewer inputs"]
)
def test_inputs_and_targets_must_be_equally_many_and_at_least_one(x, y):
    message = r"as many targets as inputs, and at least one; got x of shape \(\d, 2\) and y"
    with without_type_checks(), pytest.raises(ValueError, match=message):
        gb.Problem(linear, square, x, y, W)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_numbers_that_are_not_finite_are_named_with_their_index(bad):
    x, y, start = X.copy(), Y.copy(), (W.copy(), np.zeros((2, 2)))
    x[1, 0] = x[2, 1] = bad
    with pytest.raises(ValueError, match=r"x must be finite; 2 of its 6 entries .* the first at index \(1, 0\)"):
        gb.Problem(linear, square, x, Y, W)
    y[2] = bad
    with pytest.raises(ValueError, match=r"y must be finite; 1 of its 3 entries .* the first at index \(2,\)"):
        gb.Problem(linear, square, X, y, W)
    start[1][0, 1] = bad
    with pytest.raises(ValueError, match=r"theta0 \(leaf 1\) must be finite; .* the first at index \(0, 1\)"):
        gb.Problem(linear, square, X, Y, start)


def test_a_model_that_returns_a_scalar_is_told_how_to_return_a_vector():
    with pytest.raises(
        ValueError, match=r"must return a vector of outputs.*got ShapeDtypeStruct\(shape=\(\).*f\[None\]"
    ):
        gb.Problem(scalar_output, square, X, Y, W)


def test_a_loss_that_returns_a_vector_is_refused_with_its_shape():
    with pytest.raises(ValueError, match=r"must return a scalar; got ShapeDtypeStruct\(shape=\(1,\)"):
        gb.Problem(linear, loss_of_each_output, X, Y, W)


def test_a_start_may_be_any_tree_and_hold_plain_numbers():
    problem = gb.Problem(with_offset, square, X, Y, (W, 0.5))
    assert float(problem.risk(problem.theta0)) == pytest.approx(0.125)
    with pytest.raises(ValueError, match=r"theta0 \(leaf 1\) must be finite"):
        gb.Problem(with_offset, square, X, Y, (W, float("nan")))


def test_traced_arrays_and_integers_are_passed_over_by_the_check_for_finiteness():
    require_finite(labels=np.array([1, 2]))
    jax.jit(lambda a: require_finite(a=a))(jnp.array([jnp.nan]))


def test_the_risk_is_the_mean_of_the_losses():
    problem = least_squares()
    w = jnp.array([0.3, -1.0, 2.0])
    assert float(problem.risk(w)) == pytest.approx(np.mean((problem.x @ np.asarray(w) - problem.y) ** 2) / 2, rel=1e-15)
    np.testing.assert_allclose(problem.outputs(w)[:, 0], problem.x @ np.asarray(w), atol=1e-15)


@pytest.mark.parametrize("loss", [square, exponential, logistic], ids=["square", "exponential", "logistic"])
def test_the_logarithm_of_the_risk_is_the_logarithm_of_the_risk(loss):
    base = least_squares()
    problem = gb.Problem(linear, loss, base.x, np.sign(base.y), base.theta0)
    both = jax.jit(lambda w: (problem.risk(w), problem.log_risk(w)))
    for scale in (0.0, 1.0, 10.0):
        risk, log_risk = both(scale * jnp.asarray(base.theta0))
        assert float(log_risk) == pytest.approx(float(np.log(risk)), rel=1e-13, abs=1e-14)


def test_the_logarithm_of_the_risk_stays_exact_where_the_risk_underflows():
    problem = gb.Problem(linear, logistic, np.array([[1.0], [2.0]]), np.ones(2), np.zeros(1))
    w = jnp.array([5000.0])
    risk, (log_risk, slope) = jax.jit(lambda w: (problem.risk(w), jax.value_and_grad(problem.log_risk)(w)))(w)
    assert float(risk) == 0.0
    with decimal.localcontext(prec=60):
        exact = ((decimal.Decimal(-5000)).exp() + (decimal.Decimal(-10000)).exp()) / 2
        assert float(log_risk) == pytest.approx(float(exact.ln()), rel=1e-15)
    assert float(slope[0]) == -1.0  # the example with the smallest margin alone


def test_the_logarithm_of_the_risk_of_several_classes_underflows_no_sooner():
    problem = gb.Problem(lambda w, x: w * x, cross_entropy, np.eye(3), np.arange(3), np.ones(()))
    assert float(jax.jit(lambda w: problem.log_risk(w))(jnp.asarray(2000.0))) == pytest.approx(
        np.log(2.0) - 2000.0, rel=1e-15
    )


def test_a_batch_is_the_problem_on_those_examples():
    problem = least_squares()
    index = jnp.array([2, 0, 2])
    part = problem.batch(index)
    np.testing.assert_array_equal(part.x, np.asarray(problem.x)[[2, 0, 2]])
    np.testing.assert_array_equal(part.y, np.asarray(problem.y)[[2, 0, 2]])
    w = jnp.asarray(problem.theta0)
    residuals = np.asarray(problem.outputs(w))[[2, 0, 2], 0] - np.asarray(problem.y)[[2, 0, 2]]
    assert float(part.risk(w)) == pytest.approx(np.mean(residuals**2) / 2, rel=1e-15)


@pytest.mark.parametrize(
    ("loss", "y", "message"),
    [
        (logistic, [1.0, 0.0, 0.0], r"labels -1 and \+1; 2 of 3 are others, the first y\[1\] = 0"),
        (gb.losses.polynomial_tail(2.0), [1.0, 2.0, -1.0], r"first y\[1\] = 2"),
        (cross_entropy, [0, 1, 2], "needs labels 0 to 0; 2 of 3"),
        (cross_entropy, [0.0, 1.0, 0.0], "needs integer labels; got float64"),
    ],
)
def test_labels_that_the_loss_cannot_take_are_refused_with_the_first_of_them(loss, y, message):
    with pytest.raises(ValueError, match=message):
        gb.Problem(linear, loss, np.ones((3, 2)), np.array(y), jnp.zeros(2))


def test_a_margin_loss_refuses_a_model_of_several_outputs():
    with without_type_checks(), pytest.raises(ValueError, match="of one output; the model has 2"):
        gb.Problem(gb.models.deep_linear, logistic, np.ones((3, 2)), np.ones(3), (jnp.ones((2, 2)),))
