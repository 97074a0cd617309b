"""The KKT residual at points whose multipliers are known, away from them, and on the kinks of ReLUs."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.optimize
from hypothesis import given
from hypothesis import strategies as st

import gradbias as gb
from cases import PROPERTY
from gradbias.errors import NotApplicable, UsageError
from gradbias.measures.catalogue import take_all
from gradbias.measures.jax_objective import JaxObjective
from gradbias.measures.stationarity import cone_distance, distance_below
from gradbias.oracles import max_margin, max_margin_dual

DATA = gb.data.separable_gaussians(30, 4, key=jax.random.key(1))
PROBLEM = gb.Problem(gb.models.linear, gb.losses.logistic, DATA.x, DATA.y, DATA.start)


def relu_net(theta, x):
    """Two layers; the derivative of jax.nn.relu at its kink is 0."""
    return (theta[1] @ jax.nn.relu(theta[0] @ x))[None]


def at(theta, problem=PROBLEM, **options):
    return take_all([("kkt_residual", options)], JaxObjective(problem, theta))["kkt_residual"]


# Neuron 0 has its kink on example 1, which it would help; example 0 pushes it over, example 1 back: λ = (1, 1) with the
# share SLOPE of neuron 0's Clarke subdifferential at example 1. Neuron 1 serves example 1 and is off on example 0.
SLOPE = 0.3
KINK = gb.Problem(
    relu_net,
    gb.losses.logistic,
    np.array([[1.0, -SLOPE], [0.0, 1.0]]),
    np.ones(2),
    (np.eye(2), np.ones(2)),
)


@pytest.mark.parametrize("scale", [1.0, 7.0])
def test_the_max_margin_direction_is_a_kkt_point_with_the_dual_as_multipliers(scale):
    found = at(jnp.asarray(scale * max_margin(DATA.x, DATA.y).value))
    assert found["stationarity"] <= found.bound[0] < 1e-10
    assert found["complementarity"] <= found.bound[1] < 1e-10
    dual = max_margin_dual(DATA.x, DATA.y).value
    multipliers = np.zeros(30)
    multipliers[found.details["support"]] = found.details["multipliers"]
    assert multipliers == pytest.approx(dual, abs=1e-6)


def test_with_one_example_the_residual_is_the_sine_of_the_angle():
    problem = gb.Problem(gb.models.linear, gb.losses.logistic, np.array([[2.0, 0.0]]), np.ones(1), np.zeros(2))
    found = at(5 * jnp.array([np.cos(0.4), np.sin(0.4)]), problem)
    assert abs(found["stationarity"] - np.sin(0.4)) <= found.bound[0] < 1e-6
    assert found["complementarity"] == 0
    # λ for the scaled problem, in which θ̃ = θ / (10 cos 0.4): the projection of θ̃ on x is λ x.
    assert found.details["multipliers"] == pytest.approx([0.25])


def test_multipliers_that_are_not_the_best_are_covered_by_the_bound(monkeypatch):
    problem = gb.Problem(gb.models.linear, gb.losses.logistic, np.array([[2.0, 0.0]]), np.ones(1), np.zeros(2))
    solve = scipy.optimize.nnls
    for factor in (0.0, 0.5, 0.9, 1.2):
        monkeypatch.setattr(scipy.optimize, "nnls", lambda *a, f=factor, **k: (f * solve(*a, **k)[0], 0.0))
        found = at(5 * jnp.array([np.cos(0.4), np.sin(0.4)]), problem)
        error = abs(found["stationarity"] - np.sin(0.4))
        assert 1e-3 < error <= found.bound[0]


def test_both_parts_are_those_of_the_best_multipliers_on_a_fine_grid():
    x = np.array([[1.0, 0.2], [0.3, 1.5]])
    problem, theta = gb.Problem(gb.models.linear, gb.losses.logistic, x, np.ones(2), np.zeros(2)), np.array([1.0, 0.8])
    q = x @ theta
    grid = np.linspace(0, 1.5, 601)
    a, b = np.meshgrid(grid, grid)
    pull = theta - a[..., None] * x[0] - b[..., None] * x[1]
    slack = (a * (q[0] - q.min()) + b * (q[1] - q.min())) / np.linalg.norm(theta)
    least = np.min(np.sqrt(np.sum(pull**2, axis=-1) + slack**2)) / np.linalg.norm(theta)
    found = at(jnp.asarray(theta), problem, factor=10.0)
    assert found["complementarity"] > 0.05
    assert np.hypot(found["stationarity"], found["complementarity"]) == pytest.approx(least, abs=1e-4)


def test_the_residual_grows_with_the_distance_from_the_max_margin_direction():
    w = max_margin(DATA.x, DATA.y).value
    away = np.random.default_rng(0).normal(size=4)
    away *= np.linalg.norm(w) / np.linalg.norm(away)
    sizes = [np.hypot(*at(jnp.asarray(w + e * away)).value[:2]) for e in (1e-3, 1e-2, 5e-2)]
    assert 1e-4 < sizes[0] < sizes[1] < sizes[2]


def test_a_neuron_on_its_kink_needs_the_clarke_subdifferential():
    found = at((jnp.eye(2), jnp.ones(2)), KINK)
    # One gradient per example: λ_0 = 2 / (2 + SLOPE²) leaves this of neuron 0; ‖θ‖² = 4.
    left = np.sqrt((2 - 4 / (2 + SLOPE**2)) / 4)
    assert abs(found["one_gradient"] - left) <= found.bound[2] < 1e-6
    assert found["stationarity"] <= 1e-7
    assert found["complementarity"] <= 1e-7
    assert found.details["order"] == 2
    assert found.details["kinks"] > 0
    assert found.details["multipliers"] == pytest.approx([1, 1], abs=1e-6)


def test_without_further_elements_the_kink_is_not_seen():
    found = at((jnp.eye(2), jnp.ones(2)), KINK, elements=0)
    assert found["stationarity"] == found["one_gradient"] > 0.1


def test_away_from_kinks_further_elements_change_nothing():
    found = at((jnp.array([[1.0, 0.3], [0.2, 1.0]]), jnp.ones(2)), KINK)
    assert found.details["kinks"] == 0
    assert found["stationarity"] == found["one_gradient"]


def test_scaling_the_weights_leaves_residuals_and_multipliers():
    one, other = (at((jnp.array([[c, 0.3 * c], [0.2 * c, c]]), c * jnp.ones(2)), KINK, factor=9.0) for c in (1.0, 3.0))
    assert one.value == pytest.approx(other.value, abs=1e-7)
    assert one.details["multipliers"] == pytest.approx(other.details["multipliers"], abs=1e-6)


@PROPERTY
@given(st.integers(1, 6), st.integers(1, 6), st.integers(0, 10**6))
def test_no_nonnegative_combination_beats_the_lower_bound(m, d, seed):
    rng = np.random.default_rng(seed)
    theta = rng.normal(size=d)
    rows = rng.normal(size=(m, d))
    rows *= np.sign(rows @ theta)[:, None]
    distance, below, multipliers = cone_distance(theta, rows)
    assert np.all(multipliers >= 0)
    assert distance == pytest.approx(np.linalg.norm(theta - multipliers @ rows))
    assert below <= distance <= np.linalg.norm(theta) * (1 + 1e-12)
    assert distance - below <= 1e-7 * np.linalg.norm(theta)
    for scale in (1e-3, 0.1, 1.0):
        others = np.maximum(0, multipliers + scale * rng.normal(size=(20, m)))
        assert np.all(np.linalg.norm(theta - others @ rows, axis=1) >= below)
        lower = [distance_below(theta, rows, theta - other @ rows) for other in others]
        assert max(lower) <= distance + 1e-12 * np.linalg.norm(theta)  # rounding


def test_misclassified_examples_and_wrong_options_are_refused():
    with pytest.raises(NotApplicable, match="misclassified"):
        at(jnp.asarray(DATA.x[0] * DATA.y[0]))
    with pytest.raises(UsageError, match="factor is at least 1"):
        at(jnp.asarray(max_margin(DATA.x, DATA.y).value), factor=0.5)


def test_few_of_many_close_margins_are_told():
    found = at(jnp.asarray(max_margin(DATA.x, DATA.y).value), examples=2, factor=5.0)
    assert "Only the 2 smallest" in found.notes[0]
