import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.integrate import solve_ivp
from scipy.optimize import minimize

from gradbias.oracles import (
    gd_growth_rate,
    gd_stability_threshold,
    logistic_asymptote,
    max_margin,
    min_norm_bias,
    min_norm_variance,
    polynomial_tail_direction,
)
from oracles.separable import separable


@pytest.mark.parametrize("power", [0.5, 2.0, 10.0])
def test_the_polynomial_direction_agrees_with_a_general_minimiser(power):
    x, y = separable(20, 30, 0)
    a = y[:, None] * x
    found = polynomial_tail_direction(x, y, power)

    def objective(w):
        z = a @ w
        return np.sum(z**-power) + 0.5 * w @ w if z.min() > 0 else np.inf

    start = max_margin(x, y).value

    def gradient(w):
        with np.errstate(invalid="ignore"):  # the line search may step out of the cone
            return w - power * (a @ w) ** (-power - 1) @ a

    peer = minimize(objective, start, jac=gradient, method="BFGS", options={"gtol": 1e-9}).x
    assert found.certified
    assert found.error < 1e-12
    assert np.linalg.norm(found.value - peer / np.linalg.norm(peer)) < 1e-6


def test_the_polynomial_direction_minimises_on_the_sphere_and_tends_to_the_maximum_margin():
    x, y = separable(20, 5, 1)
    a = y[:, None] * x
    found = polynomial_tail_direction(x, y, 2.0).value
    rng = np.random.default_rng(1)
    for _ in range(20):
        other = found + 1e-3 * rng.normal(size=5)
        other /= np.linalg.norm(other)
        assert np.sum((a @ other) ** -2.0) > np.sum((a @ found) ** -2.0)
    best = max_margin(x, y).value
    best /= np.linalg.norm(best)
    distances = [np.linalg.norm(polynomial_tail_direction(x, y, q).value - best) for q in (2.0, 30.0, 1000.0)]
    assert distances[0] > 0.05
    assert distances[2] < 0.01 < distances[0]
    assert np.all(np.diff(distances) < 0)


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 1000), st.floats(1e-3, 1e3), st.floats(0.5, 20.0))
def test_the_polynomial_direction_ignores_scale(seed, factor, power):
    x, y = separable(10, 4, seed)
    found, other = polynomial_tail_direction(x, y, power), polynomial_tail_direction(factor * x, y, power)
    assert found.certified
    assert np.linalg.norm(found.value - other.value) <= found.error + other.error + 1e-12


def test_a_power_that_is_not_positive_is_refused():
    with pytest.raises(ValueError, match=r"must be positive and finite; got 0"):
        polynomial_tail_direction([[1.0]], [1], 0.0)
    with pytest.raises(ValueError, match=r"not separable"):
        polynomial_tail_direction([[1.0], [1.0]], [1, -1], 2.0)


def test_an_integrated_gradient_flow_follows_the_asymptote_of_the_mean_loss():
    # Two support vectors and one example inside, in s = log t: dw/ds = (1/n) Σ exp(s - z_i) a_i.
    x, y = np.array([[1.0, 0.4], [-0.9, 0.5], [3.0, 3.0]]), np.array([1.0, -1.0, 1.0])
    a = y[:, None] * x
    found = logistic_asymptote(x, y)
    assert found.certified

    def velocity(s, w):
        return np.exp(s - a @ w) @ a / 3

    path = solve_ivp(velocity, (-20.0, 60.0), [0.0, 0.0], method="Radau", rtol=1e-10, atol=1e-12)
    w, s = path.y[:, -1], path.t[-1]
    line = found.value["norm_rate"] * found.value["direction"] * s + found.value["residual"]
    assert np.allclose(w, line, atol=1e-6)
    loss = np.mean(np.exp(s - a @ w))
    assert np.isclose(loss, found.value["loss_constant"], rtol=1e-6)


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 1000))
def test_the_asymptote_satisfies_its_own_equations(seed):
    x, y = separable(12, 6, seed)
    found = logistic_asymptote(x, y)
    assert found.certified
    assert max(found.error["direction"], found.error["norm_rate"]) < 1e-11
    assert np.isclose(found.value["loss_constant"], found.value["norm_rate"] ** 2, rtol=1e-14)
    # k copies of every example: the mean loss is the same, hence everything is.
    again = logistic_asymptote(np.repeat(x, 3, axis=0), np.repeat(y, 3))
    assert np.allclose(again.value["residual"], found.value["residual"], atol=1e-8)


def test_degenerate_data_have_no_asymptote():
    with pytest.raises(ValueError, match=r"degenerate: example 1 lies on the margin with multiplier"):
        logistic_asymptote([[1.0, 0.0], [1.0, 1.0]], [1, 1])
    with pytest.raises(ValueError, match=r"multipliers are not unique"):
        logistic_asymptote([[1.0, 1.0, 1.0], [1.0, -1.0, 1.0], [1.0, 1.0, -1.0], [1.0, -1.0, -1.0]], [1, 1, 1, 1])


@pytest.mark.parametrize(("n", "d"), [(6, 15), (15, 6)])
def test_gaussian_averages_agree_with_simulation(n, d):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(4000, n, d))
    s = np.linalg.svd(x, compute_uv=False)
    variance = 0.25 * np.sum(s**-2.0, axis=1)
    found = min_norm_variance(n, d, 0.5)
    assert found.certified
    assert abs(variance.mean() - found.value) < 4 * variance.std() / np.sqrt(4000)
    b = np.zeros(d)
    b[0] = 2.0
    lost = np.sum((b - np.einsum("rdn,rn->rd", np.linalg.pinv(x), x[:, :, 0] * 2.0)) ** 2, axis=1)
    bias = min_norm_bias(n, d, 2.0)
    assert bias.certified
    assert abs(lost.mean() - bias.value) <= 4 * lost.std() / np.sqrt(4000) + 1e-12


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 3000), st.integers(1, 3000))
def test_gaussian_averages_are_certified_for_every_size(n, d):
    assert min_norm_bias(n, d, 1.5).certified
    if abs(n - d) >= 2:
        found = min_norm_variance(n, d, 2.0)
        assert found.certified
        assert found.certificate["quadrature"] < 1e-10
    else:
        with pytest.raises(ValueError, match=rf"infinite for .* got n={n}, d={d}"):
            min_norm_variance(n, d, 2.0)


def test_sizes_and_scales_must_make_sense():
    with pytest.raises(ValueError, match=r"n=0, d=3, noise=1.0"):
        min_norm_variance(0, 3, 1.0)
    with pytest.raises(ValueError, match=r"signal=-1.0"):
        min_norm_bias(2, 3, -1.0)


@settings(max_examples=30, deadline=None)
@given(st.floats(0.0, 0.95), st.sampled_from(["polyak", "ema", "nesterov"]))
def test_iterations_grow_just_above_the_threshold_and_shrink_just_below(momentum, form):
    found = gd_stability_threshold(momentum=momentum, form=form)
    assert found.certified
    for factor, grows in [(0.98, False), (1.02, True)]:
        h = factor * float(found.value)
        w, m = 1.0, 0.0
        for _ in range(3000):
            g = h * (w + momentum * m) if form == "nesterov" else h * w
            m = momentum * m - ((1 - momentum) if form == "ema" else 1.0) * g
            w = w + m
            if abs(w) > 1e100:
                break
        assert (abs(w) + abs(m) > 1.0) == grows
        assert (gd_growth_rate(h, momentum=momentum, form=form) > 1) == grows


def test_plain_descent_is_stable_up_to_two():
    for form in ("polyak", "ema", "nesterov"):
        assert gd_stability_threshold(form=form).value == 2.0
    assert gd_stability_threshold(momentum=0.9).value == 3.8
    assert np.isclose(gd_stability_threshold(momentum=0.9, form="ema").value, 38.0)
    assert np.isclose(gd_stability_threshold(momentum=0.9, form="nesterov").value, 3.8 / 2.8)


def test_momentum_outside_its_range_is_refused():
    with pytest.raises(ValueError, match=r"must lie in \[0, 1\); got 1.0"):
        gd_stability_threshold(momentum=1.0)
    with pytest.raises(ValueError, match=r"eta_lambda must be finite"):
        gd_growth_rate(np.nan)
