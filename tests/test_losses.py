"""Losses against 60-digit arithmetic, far beyond where they underflow, and against each other."""

import decimal
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import gradbias as gb
from cases import PROPERTY
from gradbias.losses import cross_entropy, exponential, logistic, polynomial_tail, square

MARGINS = [-1e4, -745.2, -40.0, -1.0, -1e-9, 0.0, 1e-9, 1.0, 29.999999, 30.0, 30.000001, 37.0, 700.0, 745.2, 1e4]
LOSSES = {
    "exponential": exponential,
    "logistic": logistic,
    "tail 1/2": polynomial_tail(0.5),
    "tail 3": polynomial_tail(3.0),
}
margins = st.floats(-30.0, 30.0)
# ℓ, log ℓ and both derivatives, for every loss at once: one compilation.
OUT = {
    name: jax.jit(
        jax.vmap(
            lambda z, loss=loss: (
                *jax.value_and_grad(lambda t: loss(t[None], jnp.asarray(1.0)))(z),
                *jax.value_and_grad(lambda t: loss.log(t[None], jnp.asarray(1.0)))(z),
            )
        )
    )
    for name, loss in LOSSES.items()
}


def evaluate(name, z):
    return (np.asarray(a) for a in OUT[name](jnp.asarray(z)))


def exact(name, z):
    """ℓ and log ℓ as 60-digit numbers."""
    z, one = decimal.Decimal(z), decimal.Decimal(1)
    if name == "exponential":
        return (-z).exp(), -z
    if name == "logistic":
        e = (-z).exp()
        loss = e - e * e / 2 if z > 100 else (one + e).ln()  # ln(1 + e) to 60 digits needs the series there
        return loss, loss.ln()
    q = decimal.Decimal("0.5" if name == "tail 1/2" else "3")
    loss = (one + z) ** -q if z >= 0 else one - q * z
    return loss, loss.ln()


@pytest.mark.parametrize("name", LOSSES)
def test_a_loss_and_its_logarithm_are_exact_at_margins_of_ten_thousand(name):
    loss, _, log, _ = evaluate(name, MARGINS)
    with decimal.localcontext(prec=60), np.errstate(over="ignore"):
        expected = [exact(name, z) for z in MARGINS]
        direct = [float(value) if value < decimal.Decimal("1e308") else math.inf for value, _ in expected]
    # e^-z amplifies the rounding of z by z.
    np.testing.assert_allclose(loss, direct, rtol=3e-13, atol=1e-323)
    np.testing.assert_allclose(log, [float(value) for _, value in expected], rtol=5e-16, atol=5e-16)


@pytest.mark.parametrize("name", LOSSES)
def test_the_slope_of_the_logarithm_is_finite_and_exact_at_margins_of_ten_thousand(name):
    _, _, _, slope = evaluate(name, MARGINS)
    expected = []
    with decimal.localcontext(prec=60):
        for z in MARGINS:
            h = decimal.Decimal("1e-20")
            above, below = (exact(name, decimal.Decimal(z) + s * h)[1] for s in (1, -1))
            expected.append(float((above - below) / (2 * h)))
    np.testing.assert_allclose(slope, expected, rtol=2e-13)


@pytest.mark.parametrize("name", LOSSES)
@PROPERTY
@given(z=margins)
def test_derivatives_are_those_of_central_differences(name, z):
    h = 1e-5
    loss, slope, log, log_slope = evaluate(name, [z - h, z, z + h])
    curvature = 10.0 * max(loss)  # bounds the third derivative of every loss here, up to the kink of the tail at 0
    assert slope[1] == pytest.approx((loss[2] - loss[0]) / (2 * h), rel=1e-4, abs=1e-9 + curvature * h)
    assert log_slope[1] == pytest.approx((log[2] - log[0]) / (2 * h), rel=1e-4, abs=1e-8 + 10 * h)


@pytest.mark.parametrize("name", LOSSES)
@PROPERTY
@given(a=margins, b=margins)
def test_margin_losses_decrease_and_are_convex(name, a, b):
    loss, *_ = evaluate(name, [a, b, (a + b) / 2])
    assert (loss[0] - loss[1]) * (b - a) >= 0
    assert loss[2] <= (loss[0] + loss[1]) / 2 * (1 + 1e-14)


@PROPERTY
@given(f=margins)
def test_a_margin_loss_depends_on_the_product_of_output_and_label_alone(f):
    for loss in LOSSES.values():
        pair = [float(loss(jnp.asarray([s * f]), jnp.asarray(s))) for s in (1.0, -1.0)]
        assert pair[0] == pair[1]


@pytest.mark.parametrize("power", [0.5, 1.0, 2.0, 7.0])
def test_the_polynomial_tail_is_continuous_with_its_slope_at_zero(power):
    loss = polynomial_tail(power)
    of = jax.jit(jax.vmap(jax.value_and_grad(loss.of_margin)))
    value, slope = of(jnp.asarray([-1e-300, 0.0, 1e-300]))
    np.testing.assert_array_equal(value, [1.0, 1.0, 1.0])
    np.testing.assert_array_equal(slope, [-power, -power, -power])
    far = float(loss.of_margin(jnp.asarray(1e8)))
    assert far == pytest.approx(1e8**-power, rel=1e-7 * power)


@pytest.mark.parametrize("power", [0.0, -1.0, float("nan")])
def test_a_tail_that_does_not_decay_is_refused(power):
    with pytest.raises(ValueError, match=f"positive q; got power={power}"):
        polynomial_tail(power)


def test_the_same_power_gives_the_same_object_so_that_nothing_compiles_twice():
    assert polynomial_tail(2.5) is polynomial_tail(2.5)
    assert polynomial_tail(2.5) is not polynomial_tail(2.0)


outputs = st.lists(st.floats(-1e4, 1e4), min_size=2, max_size=2).map(np.array)
TWO = jax.jit(lambda f, y: (cross_entropy(f, y), cross_entropy.log(f, y), jax.grad(cross_entropy)(f, y)))
SQUARE = jax.jit(jax.value_and_grad(square))
TWO_LOG = jax.jit(jax.grad(cross_entropy.log))


@PROPERTY
@given(f=outputs, y=st.sampled_from([0, 1]))
def test_cross_entropy_of_two_classes_is_the_logistic_loss_of_their_difference(f, y):
    value, log, _ = TWO(f, y)
    margin = jnp.asarray([f[y] - f[1 - y]])
    assert float(value) == pytest.approx(float(logistic(margin, jnp.asarray(1.0))), rel=1e-14)
    assert float(log) == pytest.approx(float(logistic.log(margin, jnp.asarray(1.0))), rel=1e-14, abs=1e-14)


@PROPERTY
@given(f=st.lists(st.floats(-8.0, 8.0), min_size=4, max_size=4).map(np.array), y=st.integers(0, 3))
def test_cross_entropy_is_minus_the_log_softmax_and_its_logarithm_the_logarithm(f, y):
    value, log, gradient = TWO(f, y)
    direct = -float(jax.nn.log_softmax(jnp.asarray(f))[y])
    assert float(value) == pytest.approx(direct, rel=1e-12, abs=1e-15)
    assert float(log) == pytest.approx(math.log(float(value)), rel=1e-12, abs=1e-12)
    np.testing.assert_allclose(gradient, np.exp(f) / np.exp(f).sum() - np.eye(4)[y], atol=1e-14)


@pytest.mark.parametrize("margin", [1e4, -1e4])
def test_gradients_of_cross_entropy_are_finite_at_margins_of_ten_thousand(margin):
    f = np.array([margin, 0.0, -7.0, -7.0])
    _, log, gradient = TWO(f, 0)
    slope = TWO_LOG(f, 0)
    assert float(log) == pytest.approx(-1e4 if margin > 0 else math.log(1e4), abs=2e-3)
    # Correct by 10⁴: log ℓ falls by one per unit of margin while ℓ is flat. Wrong by 10⁴: ℓ falls by one per unit.
    np.testing.assert_allclose(slope[0], -1.0 if margin > 0 else -1e-4, rtol=1e-3)
    np.testing.assert_allclose(gradient[0], 0.0 if margin > 0 else -1.0, atol=1e-12)
    np.testing.assert_allclose([slope.sum(), gradient.sum()], 0.0, atol=1e-15)


@PROPERTY
@given(f=st.lists(st.floats(-1e3, 1e3), min_size=1, max_size=1).map(np.array), y=st.floats(-1e3, 1e3))
def test_square_loss_is_half_the_square_with_the_residual_as_gradient(f, y):
    for target in (jnp.asarray(y), jnp.asarray([y])):
        value, gradient = SQUARE(jnp.asarray(f), target)
        # Compiled code may contract a product and a sum, and flush numbers below the smallest normal one to zero.
        assert float(value) == pytest.approx((f[0] - y) ** 2 / 2, rel=1e-15, abs=1e-300)
        assert float(gradient[0]) == pytest.approx(f[0] - y, rel=1e-15, abs=1e-300)


def test_square_loss_of_vectors_adds_the_outputs():
    assert float(square(jnp.array([3.0, 4.0, 0.0]), jnp.zeros(3))) == 12.5
    with pytest.raises(TypeError, match="reshape"):
        gb.losses.square(jnp.array([3.0, 4.0]), jnp.zeros(3))
