import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gradbias as gb
from gradbias.errors import NotApplicable, UsageError
from gradbias.measures.catalogue import take_all
from gradbias.measures.collapse import class_means, feature_error, neural_collapse
from gradbias.measures.jax_objective import JaxObjective

NAMES = ("nc1", "nc2_norms", "nc2_angles", "nc3", "nc4")


def simplex(classes, d=None, seed=0):
    """Vertices of a regular simplex around the origin, in d dimensions."""
    d = d or classes
    q = np.linalg.qr(np.random.default_rng(seed).normal(size=(d, classes)))[0]
    return (np.eye(classes) - 1 / classes) @ q.T


def network(theta, x):
    return theta["b"] @ jax.nn.relu(theta["a"] @ x)


def inputs_of_layers(theta, x):
    return {"a": x, "b": jax.nn.relu(theta["a"] @ x)}


def linear_head(theta, x):
    return theta["head"] @ x


def objective(predict, theta, x, y, features):
    loss = gb.losses.cross_entropy if np.issubdtype(y.dtype, np.integer) else gb.losses.logistic
    return JaxObjective(gb.Problem(predict, loss, x, y, theta), theta, features=features)


def measured(h, y, w):
    """Of a linear model on the features themselves."""
    theta = {"head": jnp.asarray(w)}
    return take_all(["neural_collapse"], objective(linear_head, theta, h, y, lambda t, x: {"head": x}))[
        "neural_collapse"
    ]


@pytest.mark.parametrize("classes", [2, 3, 5])
@pytest.mark.parametrize("counts", ["balanced", "unbalanced"])
def test_exact_collapse_gives_zeros(classes, counts):
    y = np.repeat(np.arange(classes), 4 if counts == "balanced" else np.arange(1, classes + 1))
    vertices = simplex(classes, 7)
    estimate = measured(3 * vertices[y], y, 0.2 * vertices)
    assert estimate.names == NAMES
    assert np.all(np.abs(estimate.value) <= estimate.bound)
    assert np.all(estimate.bound[:4] < 1e-11)
    assert estimate.bound[4] == 0
    shifted = neural_collapse(3 * vertices[y] + 10, y, 0.2 * vertices, bias=-2 * np.sum(vertices, axis=1))
    np.testing.assert_allclose(shifted, 0, atol=1e-13)


def test_nc1_is_the_trace_with_the_pseudo_inverse_of_balanced_classes():
    rng = np.random.default_rng(0)
    y = np.repeat(np.arange(3), 10)
    h = rng.normal(size=(30, 6)) + 2 * rng.normal(size=(3, 6))[y]
    means = np.stack([h[y == c].mean(0) for c in range(3)])
    within = (h - means[y]).T @ (h - means[y]) / 30
    between = (means - h.mean(0)).T @ (means - h.mean(0)) / 3
    known = np.trace(within @ np.linalg.pinv(between, rcond=1e-10)) / 3
    assert neural_collapse(h, y, np.ones((3, 6))).nc1 == pytest.approx(known, rel=1e-10)


def test_each_class_counts_alike():
    rng = np.random.default_rng(1)
    h, y = rng.normal(size=(12, 5)), np.repeat(np.arange(3), 4)
    w = rng.normal(size=(3, 5))
    again = np.concatenate([np.arange(12), np.flatnonzero(y == 1), np.flatnonzero(y == 1)])
    few, many = neural_collapse(h, y, w), neural_collapse(h[again], y[again], w)
    np.testing.assert_allclose(many[:4], few[:4], rtol=1e-12)


def test_nc2_is_zero_only_for_equal_norms_and_equal_angles():
    scaled = simplex(3) * np.array([1.0, 1.0, 2.0])[:, None]
    y = np.arange(3)
    # The mean of the scaled vertices is v₃/3: m = v₁ - v₃/3, v₂ - v₃/3, 5 v₃/3 with |v|² = 2/3 and v·v' = -1/3.
    norms = np.sqrt(np.array([2 / 3 + 2 / 9 + 2 / 27] * 2 + [25 * 2 / 27]))
    cosines = np.array([-1 / 3 + 2 / 9 + 2 / 27, *[-5 / 9 - 10 / 27] * 2]) / (norms[[0, 0, 1]] * norms[[1, 2, 2]])
    value = neural_collapse(scaled, y, scaled)
    assert value.nc2_norms == pytest.approx(norms.std() / norms.mean(), rel=1e-12)
    assert value.nc2_angles == pytest.approx(np.mean(np.abs(cosines + 0.5)), rel=1e-12)


def test_nc3_is_two_for_a_classifier_that_points_the_other_way():
    vertices = simplex(4)
    assert neural_collapse(vertices, np.arange(4), -5 * vertices).nc3 == pytest.approx(2.0, rel=1e-12)


def test_nc4_counts_where_the_classifier_and_the_nearest_mean_disagree():
    h = np.array([[2.0], [4.0], [-2.0], [-4.0], [1.0]])
    y = np.array([1, 1, 0, 0, 0])  # means 3 and -5/3, halfway 2/3: the last is nearest to class 1
    w, b = np.array([[-1.0], [1.0]]), np.array([0.0, -4.0])
    assert neural_collapse(h, y, w).nc4 == 0
    assert neural_collapse(h, y, w, b).nc4 == 2 / 5  # the classifier's threshold at 2, which class 0 takes


def test_one_output_stands_for_two_opposite_rows():
    vertices = simplex(2, 3)
    y = np.array([-1.0, -1.0, 1.0])
    estimate = measured(vertices[[0, 0, 1]], y, vertices[1:])
    assert np.all(np.abs(estimate.value) <= estimate.bound)


def test_a_class_of_one_example_is_told():
    y = np.array([0, 0, 1])
    estimate = measured(np.array([[1.1, 0.0], [0.9, 0.0], [-1.0, 0.0]]), y, np.array([[1.0, 0.0], [-1.0, 0.0]]))
    assert estimate["nc1"] == pytest.approx(0.01 / 2 / 2)
    assert "1 classes have one example" in estimate.notes[0]


def test_a_class_without_examples_is_left_out_and_told():
    vertices = simplex(3)
    two = np.array([[0.5, 0.0, 0.0], [-0.5, 0.0, 0.0]])
    estimate = measured(two, np.array([0, 2]), vertices)
    assert estimate["nc2_norms"] == pytest.approx(0.0, abs=1e-12)
    classifier = np.array([[1.0, 0.0, 0.0], [0.0, 0.0, 0.0], [-1.0, 0.0, 0.0]])
    aligned = measured(two, np.array([0, 2]), classifier)
    assert aligned["nc4"] == 0
    assert aligned["nc3"] == pytest.approx(0.0, abs=1e-12)
    assert "1 of 3 classes" in " ".join(estimate.notes)


def test_a_class_mean_at_the_centre_has_no_angle():
    estimate = measured(np.array([[-1.0], [0.0], [1.0]]), np.arange(3), np.array([[-1.0], [0.0], [1.0]]))
    assert math.isnan(estimate["nc2_angles"])
    assert not estimate.converged
    assert estimate["nc2_norms"] == pytest.approx(math.sqrt(2) / 2)


def test_float32_features_are_within_the_bound():
    rng = np.random.default_rng(0)
    theta = {"a": rng.normal(size=(40, 20)), "b": rng.normal(size=(4, 40))}
    x, y = rng.normal(size=(60, 20)), rng.integers(0, 4, 60)
    low, high = (
        take_all(
            ["neural_collapse"],
            objective(network, {k: jnp.asarray(v, t) for k, v in theta.items()}, x.astype(t), y, inputs_of_layers),
        )["neural_collapse"]
        for t in ("float32", "float64")
    )
    assert np.all(np.abs(low.value - high.value) <= low.bound)
    assert np.all(low.bound < [2e-1, 1e-2, 1e-2, 1e-2, 0.1])


def test_bounds_cover_features_moved_by_their_error():
    rng = np.random.default_rng(2)
    y = np.repeat(np.arange(3), 5)
    h = rng.normal(size=(3, 6))[y] + 0.1 * rng.normal(size=(15, 6))
    w = rng.normal(size=(3, 6))
    from gradbias.measures.collapse import _bounds

    for eta in (1e-6, 1e-3):
        bounds = _bounds(h, y, neural_collapse(h, y, w), eta)
        for _ in range(30):
            step = rng.normal(size=h.shape)
            moved = h + eta * step / np.linalg.norm(step, axis=1, keepdims=True)
            change = np.abs(np.array(neural_collapse(moved, y, w)) - neural_collapse(h, y, w))
            assert np.all(change[:4] <= bounds)


def test_what_has_no_collapse_is_refused_with_the_reason():
    h, w = np.ones((4, 2)), np.eye(2)
    with pytest.raises(NotApplicable, match="two classes or more"):
        measured(h, np.zeros(4, int), w)
    with pytest.raises(NotApplicable, match="means of all classes are equal"):
        measured(h, np.array([0, 0, 1, 1]), w)
    with pytest.raises(NotApplicable, match="weights are zero"):
        measured(np.eye(2), np.arange(2), np.zeros((2, 2)))
    theta = {"head": jnp.eye(2)}
    bent = objective(lambda t, x: jnp.tanh(t["head"] @ x), theta, 3 * np.eye(2), np.arange(2), lambda t, x: {"head": x})
    with pytest.raises(NotApplicable, match="ends with its classifier"):
        take_all(["neural_collapse"], bent)
    regression = JaxObjective(gb.Problem(linear_head, gb.losses.square, h, np.ones((4, 2)), theta), theta)
    with pytest.raises(NotApplicable, match="of a classifier"):
        take_all(["neural_collapse"], regression)


# Rings around the origin: their centres agree, so that no nearest centre separates them before the norm is taken.
ANGLES = np.linspace(0, 2 * np.pi, 12, endpoint=False)
RINGS = np.concatenate([np.stack([r * np.cos(ANGLES), r * np.sin(ANGLES)], 1) for r in (1.0, 3.0)])
RING = np.repeat([0, 1], 12)


def ringed(theta, x):
    h = jnp.sum(jax.nn.relu(theta["a"] @ x))[None]
    return {"a": x, "b": h, "c": theta["b"] @ h}


def depth(**options):
    turns = np.stack([np.cos(ANGLES), np.sin(ANGLES)], 1)
    theta = {"a": jnp.asarray(turns), "b": jnp.ones((1, 1)), "c": jnp.asarray([[-1.0], [1.0]])}
    made = objective(lambda t, x: t["c"] @ ringed(t, x)["c"], theta, RINGS, RING, ringed)
    return take_all({"effective_depth": options}, made)["effective_depth"]


def test_effective_depth_is_the_number_of_layers_before_the_centres_separate():
    estimate = depth()
    assert estimate.names == ("a", "b", "c", "effective_depth")
    assert estimate["a"] > 0.2
    assert estimate["b"] == estimate["c"] == 0
    assert estimate["effective_depth"] == estimate.details["effective_depth"] == 1
    assert estimate.details["holds_from"] == 1
    assert estimate.bound[3] <= 1


def test_slack_allows_for_errors_of_the_nearest_centre():
    assert depth(slack=0.9)["effective_depth"] == 0


def test_inseparable_features_have_the_depth_of_the_whole_network():
    h, y = np.array([[0.0], [1.0], [2.0], [3.5]]), np.array([0, 1, 0, 1])
    theta = {"head": jnp.ones((2, 1))}
    made = objective(linear_head, theta, h, y, lambda t, x: {"head": x})
    estimate = take_all(["effective_depth"], made)["effective_depth"]
    assert estimate.value.tolist() == [0.5, 1.0]
    assert estimate.bound.tolist() == [0.0, 0.0]


def test_examples_halfway_between_centres_widen_the_bound():
    h, y = np.array([[-1.0], [1.0], [-1.0], [1.0], [0.0], [0.0]]), np.array([0, 1, 0, 1, 0, 1])
    theta = {"head": jnp.ones((2, 1))}
    estimate = take_all(["effective_depth"], objective(linear_head, theta, h, y, lambda t, x: {"head": x}))
    assert estimate["effective_depth"].bound.tolist() == [2 / 6, 1.0]


def test_a_share_outside_of_its_range_is_refused():
    with pytest.raises(UsageError, match="slack is a share"):
        depth(slack=1.0)


def test_class_means_are_of_the_classes_that_have_examples():
    classes, row, means = class_means(np.array([[1.0], [3.0], [7.0]]), np.array([5, 5, 2]))
    assert classes.tolist() == [2, 5]
    assert row.tolist() == [1, 1, 0]
    assert means.tolist() == [[7.0], [2.0]]
    assert feature_error(np.zeros((1, 9)), 1.0) == 0
