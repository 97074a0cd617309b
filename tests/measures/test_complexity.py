import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gradbias as gb
from gradbias.errors import NotApplicable, ProbeError, UsageError
from gradbias.measures.catalogue import asked_for, generator, take, take_all
from gradbias.measures.complexity import departures, disjoint, mean_of_samples
from gradbias.measures.jax_objective import JaxObjective


def linear_map(theta, x):
    return theta @ x


def relu_network(theta, x):
    """Any number of layers (weight, bias), ReLU between them."""
    for w, b in theta[:-1]:
        x = jax.nn.relu(w @ x + b)
    return theta[-1][0] @ x + theta[-1][1]


def tanh_network(theta, x):
    return theta[1] @ jnp.tanh(theta[0] @ x)


def objective(predict, theta, x, y=None, loss=gb.losses.square):
    if y is None:
        f = jax.eval_shape(predict, theta, x[0])
        y = np.zeros((len(x), *f.shape), x.dtype)
    return JaxObjective(gb.Problem(predict, loss, x, y, theta), theta)


def random_relu(widths, seed, dtype="float64"):
    rng = np.random.default_rng(seed)
    return tuple(
        (
            jnp.asarray(rng.normal(size=(b, a)) * math.sqrt(2 / a), dtype),
            jnp.asarray(0.3 * rng.normal(size=b), dtype),
        )
        for a, b in itertools.pairwise(widths)
    )


def kinks_along(theta, start, end):
    """Positions in (0, 1) where a unit of a ReLU network switches, layer by layer, from the zeros of affine pieces."""
    nodes = np.array([0.0, 1.0])
    layers = [(np.asarray(w, np.float64), np.asarray(b, np.float64)) for w, b in theta[:-1]]
    for depth in range(len(layers)):
        h = start + nodes[:, None] * (end - start)
        for w, b in layers[:depth]:
            h = np.maximum(h @ w.T + b, 0)
        z = h @ layers[depth][0].T + layers[depth][1]
        i, unit = np.nonzero(z[:-1] * z[1:] < 0)
        share = z[i, unit] / (z[i, unit] - z[i + 1, unit])
        nodes = np.sort(np.concatenate([nodes, nodes[i] + share * (nodes[i + 1] - nodes[i])]))
    return nodes[1:-1]


X = np.random.default_rng(0).normal(size=(25, 3))
W = jnp.asarray(np.random.default_rng(1).normal(size=(4, 3)))


def test_geometric_complexity_of_a_linear_map_is_its_squared_frobenius_norm():
    estimate = take_all(["geometric_complexity"], objective(linear_map, W, X))["geometric_complexity"]
    assert abs(estimate.value - float(jnp.sum(W**2))) <= estimate.bound
    assert estimate.confidence is None


def test_geometric_complexity_of_a_network_is_the_mean_of_squared_finite_differences():
    rng = np.random.default_rng(2)
    theta = (jnp.asarray(rng.normal(size=(6, 3))), jnp.asarray(rng.normal(size=(2, 6))))
    a, b = (np.asarray(t) for t in theta)

    def f(x):
        return np.tanh(x @ a.T) @ b.T

    h = 1e-6
    squares = sum(np.sum(((f(X + h * e) - f(X - h * e)) / (2 * h)) ** 2, axis=1) for e in np.eye(3))
    value = float(take_all(["geometric_complexity"], objective(tanh_network, theta, X))["geometric_complexity"])
    assert value == pytest.approx(np.mean(squares), rel=1e-7)


def test_random_directions_cover_the_exact_value_at_their_stated_rate():
    rng = np.random.default_rng(3)
    theta = (jnp.asarray(rng.normal(size=(6, 3))), jnp.asarray(rng.normal(size=(5, 6))))
    made = objective(tanh_network, theta, X)
    exact = float(take_all(["geometric_complexity"], made)["geometric_complexity"])
    for directions in (2, 4):
        taken = [
            take_all({"geometric_complexity": {"directions": directions}}, made, seed=seed)["geometric_complexity"]
            for seed in range(200)
        ]
        assert all(one.confidence == 0.95 for one in taken)
        covered = sum(abs(one.value - exact) <= one.bound for one in taken)
        # 200 trials at 0.95 are between 180 and 199 with probability above 0.998.
        assert 180 <= covered <= 199


def test_the_interval_of_a_mean_of_samples_is_students_for_one_number():
    # Of 1, 2, 3: mean 2, variance 1, t of 2 degrees of freedom at 97.5 % is 4.302653.
    mean, half = mean_of_samples(np.array([[1.0, 2.0, 3.0]]))
    assert mean == 2
    assert half == pytest.approx(4.302653 / math.sqrt(3), rel=1e-6)


def test_one_output_has_no_sampling_error():
    made = objective(linear_map, W[:1], X)
    estimate = take_all({"geometric_complexity": {"directions": 3}}, made)["geometric_complexity"]
    assert estimate.confidence is None
    assert abs(estimate.value - float(jnp.sum(W[:1] ** 2))) <= estimate.bound < 1e-12


def test_input_gradient_norm_is_the_mean_of_norms():
    y = np.random.default_rng(4).normal(size=(25, 4))
    residual = X @ np.asarray(W).T - y
    norms = np.linalg.norm(residual @ np.asarray(W), axis=1)
    estimate = take_all(["input_gradient_norm"], objective(linear_map, W, X, y))["input_gradient_norm"]
    assert abs(estimate.value - norms.mean()) <= estimate.bound
    assert estimate.details["standard_error"] == pytest.approx(norms.std(ddof=1) / 5, rel=1e-12)
    assert "25 examples" in estimate.notes[0]


@pytest.mark.parametrize("name", ["geometric_complexity", "input_gradient_norm"])
def test_float32_derivatives_are_within_the_bound(name):
    low, high = (
        take_all([name], objective(relu_network, random_relu([3, 30, 30, 4], 0, t), X.astype(t)))[name]
        for t in ("float32", "float64")
    )
    assert abs(low.value - high.value) <= low.bound
    assert low.bound < 1e-4 * low.value


def regions(theta, segments, *, predict=relu_network, dtype="float64", seed=0, **options):
    segments = np.asarray(segments)
    x = segments.reshape(-1, *segments.shape[2:]).astype(dtype)
    made = objective(predict, theta, x)
    return take_all({"linear_regions": {"segments": segments, **options}}, made, seed=seed)["linear_regions"]


def hinges(places, heights, dtype="float64"):
    """f(x) = Σ_j h_j relu(x - p_j) of one input."""
    n = len(places)
    first = (jnp.ones((n, 1), dtype), -jnp.asarray(places, dtype))
    return (first, (jnp.asarray([heights], dtype), jnp.zeros(1, dtype)))


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("count", [0, 1, 3, 20])
def test_pieces_of_a_function_with_known_kinks_are_counted(count, dtype):
    places = np.concatenate([np.linspace(0, 1, count + 2)[1:-1], np.full(20 - count, 2.0)])
    theta = hinges(places, np.resize([1.0, -2.0], 20), dtype)
    estimate = regions(theta, [[[0.0], [1.0]]] * 4, dtype=dtype)
    assert estimate.details["counts"].tolist() == [count + 1] * 4
    assert estimate.details["ambiguous"] == 0
    assert estimate.bound == math.inf  # nothing is known from above


def test_kinks_closer_than_a_cell_are_told_apart_down_to_the_resolution():
    gap = 2.0**-8
    theta = hinges([0.3, 0.3 + gap, 0.7], [1.0, 1.0, 1.0])
    assert regions(theta, [[[0.0], [1.0]]]).value == 4
    assert regions(theta, [[[0.0], [1.0]]], resolution=2.0**-6).value == 3


def test_kinks_that_rounding_would_hide_in_smaller_cells_stay_found():
    places = np.concatenate([np.linspace(0, 1, 11)[1:-1], [-1.0]])
    theta = hinges(places, [1e-3] * 9 + [1.0], "float32")
    estimate = regions(theta, [[[0.0], [1.0]]] * 4, dtype="float32")
    assert estimate.converged
    assert np.all(np.abs(estimate.details["counts"] - 10) <= 1)


def test_a_kink_that_the_outputs_do_not_show_is_not_counted():
    assert regions(hinges([0.3, 0.3, 0.6], [1.0, -1.0, 1.0]), [[[0.0], [1.0]]]).value == 2


def test_a_kink_of_any_output_counts():
    theta = (hinges([0.3, 0.6], [1.0, 1.0])[0], (jnp.eye(2), jnp.zeros(2)))
    assert regions(theta, [[[0.0], [1.0]]]).value == 3


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_pieces_of_a_deep_network_are_those_of_its_activation_patterns(seed, dtype):
    theta = random_relu([2, 8, 8, 2], seed, dtype)
    ends = np.random.default_rng(seed).normal(size=(3, 2, 2))
    known = [kinks_along(theta, *pair) for pair in ends]
    estimate = regions(theta, ends, dtype=dtype)
    for count, kinks in zip(estimate.details["counts"], known, strict=True):
        assert count <= 1 + len(kinks)
        if dtype == "float64":  # kinks are told apart for sure from 4 times the resolution on
            assert count >= 1 + np.sum(np.diff(np.concatenate([[-1.0], kinks])) > 4 * 2.0**-16)


def test_a_smooth_network_has_no_pieces_to_count():
    rng = np.random.default_rng(0)
    theta = (rng.normal(size=(20, 1)), rng.normal(size=(1, 20)))
    for dtype in ("float32", "float64"):
        weights = tuple(jnp.asarray(w, dtype) for w in theta)
        estimate = regions(weights, [[[-1.0], [1.0]]], predict=tanh_network, dtype=dtype)
        assert not estimate.converged
        assert math.isnan(estimate.value)
        assert "do not stand apart" in estimate.reason
        assert estimate.details["unconverged"] > 10


def test_more_kinks_than_the_resolution_tells_apart_do_not_converge():
    theta = hinges(np.linspace(0, 1, 402)[1:-1], np.resize([1.0, -1.0], 400))
    estimate = regions(theta, [[[0.0], [1.0]]], resolution=2.0**-8)
    assert not estimate.converged
    assert estimate.details["unconverged"] <= 401
    assert regions(theta, [[[0.0], [1.0]]], resolution=2.0**-13).value == 401


def test_segments_join_probe_examples_and_stay_along_a_run():
    theta = random_relu([3, 5, 2], 0)
    made = objective(relu_network, theta, X)
    ((measure, options),) = asked_for([("linear_regions", {"segments": 6})])
    state = {}
    first = take(measure, made, options, rng=generator("a", 0), state=state)
    again = take(measure, made, options, rng=generator("b", 1), state=state)
    rows = {tuple(row) for row in X}
    assert state["segments"].shape == (6, 2, 3)
    assert all(tuple(end) in rows for end in state["segments"].reshape(-1, 3))
    assert first.details["counts"].tolist() == again.details["counts"].tolist()
    known = [1 + len(kinks_along(theta, *pair)) for pair in state["segments"]]
    assert first.details["counts"].tolist() == known


def test_departure_from_affine_is_zero_on_uneven_nodes_of_a_line():
    t = np.array([0.0, 0.1, 0.7, 1.0])
    np.testing.assert_allclose(departures(t, np.stack([3 * t, 1 - t], 1)), 0, atol=1e-15)
    assert disjoint(np.zeros((0, 2))) == 0
    assert disjoint(np.array([[0.0, 1.0], [1.0, 2.0], [0.5, 1.5]])) == 2


def test_what_cannot_be_counted_is_refused_with_the_reason():
    theta = random_relu([3, 5, 2], 0)
    same = objective(relu_network, theta, np.ones((4, 3)))
    with pytest.raises(NotApplicable, match="all equal"):
        take_all(["linear_regions"], same)
    with pytest.raises(UsageError, match="directions is None"):
        take_all({"geometric_complexity": {"directions": 1}}, same)
    with pytest.raises(UsageError, match="resolution is a share"):
        take_all({"linear_regions": {"resolution": 0.5}}, same)
    with pytest.raises(UsageError, match="pairs of inputs"):
        take_all({"linear_regions": {"segments": np.ones((3, 3))}}, same)
    with pytest.raises(ProbeError, match="NaN or infinity"):
        take_all(["input_gradient_norm"], same.at(np.full(same.size, np.nan)))
    tokens = JaxObjective(
        gb.Problem(lambda t, x: t[x], gb.losses.square, np.array([0, 1]), np.zeros((2, 2)), jnp.eye(2)), jnp.eye(2)
    )
    for name in ("geometric_complexity", "linear_regions"):
        with pytest.raises(NotApplicable, match="real inputs"):
            take_all([name], tokens)
