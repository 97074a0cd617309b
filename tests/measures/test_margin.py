"""Margins of networks whose outputs are known."""

import jax.numpy as jnp
import numpy as np
import pytest

import gradbias as gb
from gradbias.errors import NotApplicable
from gradbias.measures.catalogue import take_all
from gradbias.measures.jax_objective import JaxObjective
from gradbias.measures.margin import margins
from gradbias.measures.objective import OptimizerGeometry, Settings

X = np.array([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]])
Y = np.array([0, 1, 1])
THETA = (np.diag([2.0, 3.0]), np.diag([5.0, 1.0]))  # outputs (10 x_0, 3 x_1): margins 10, 3, -7


def deep(theta=THETA, x=X, y=Y, settings=None, dtype=np.float64):
    theta = tuple(np.asarray(w, dtype) for w in theta)
    problem = gb.Problem(gb.models.deep_linear, gb.losses.cross_entropy, x.astype(dtype), y, theta)
    return JaxObjective(problem, theta, settings=settings)


def measured(name, objective, **options):
    return take_all([(name, options)], objective)[name]


def linear(w, settings=None):
    x, y = np.array([[1.0, 2.0], [-3.0, 1.0]]), np.array([1.0, -1.0])
    return JaxObjective(
        gb.Problem(gb.models.linear, gb.losses.logistic, x, y, np.zeros(2)), jnp.array(w), settings=settings
    )


def test_the_margin_is_that_of_the_worst_example_and_the_details_have_all():
    found = measured("margin", deep())
    assert abs(found.value + 7) <= found.bound < 1e-12
    assert found.details["margins"].tolist() == [10, 3, -7]
    assert found.details["error_rate"] == pytest.approx(1 / 3)


def test_each_example_has_its_margin_under_its_number():
    found = measured("example_margins", deep())
    assert found.names == ("0", "1", "2")
    assert [found["0"], found["1"], found["2"]] == pytest.approx([10, 3, -7], abs=1e-12)


def test_with_one_output_the_label_gives_the_sign():
    found = measured("margin", linear([1.0, 1.0]))
    assert found.details["margins"].tolist() == [3, 2]


def test_an_example_on_the_decision_boundary_is_an_error_and_undecided():
    found = measured("margin", deep(x=np.array([[3.0, 10.0]]), y=np.array([0])))
    assert found.details["error_rate"] == 1
    assert found.details["undecided"] == 1


def test_the_margin_is_to_the_best_of_the_other_classes():
    f = np.random.default_rng(0).normal(size=(50, 4))
    y = np.random.default_rng(1).integers(0, 4, 50)
    expected = [row[c] - max(np.delete(row, c)) for row, c in zip(f, y, strict=True)]
    assert margins(f, y) == pytest.approx(np.array(expected), abs=0)


def test_quantiles_are_in_order_and_end_at_the_extremes():
    found = measured("margin_quantiles", deep())
    assert found.names == ("min", "q01", "q10", "median", "q90", "max")
    assert found.value.tolist() == pytest.approx([-7, -6.8, -5, 3, 8.6, 10])


def test_float32_margins_are_within_their_bound_of_the_exact_ones():
    rng = np.random.default_rng(2)
    theta, x, y = tuple(rng.normal(size=(9, 9)) for _ in range(4)), rng.normal(size=(40, 9)), rng.integers(0, 9, 40)
    theta, x = tuple(w.astype(np.float32).astype(float) for w in theta), x.astype(np.float32).astype(float)
    exact = measured("margin", deep(theta, x, y)).details["margins"]
    found = measured("margin", deep(theta, x, y, dtype=np.float32))
    assert np.max(np.abs(found.details["margins"] - exact)) <= found.bound < 1e-2 * np.max(np.abs(exact))


def test_the_normalized_margin_divides_by_the_norms_of_the_layers():
    found = measured("margin_normalized", deep())
    assert found["spectral"] == pytest.approx(-7 / 15)
    assert found["frobenius"] == pytest.approx(-7 / np.sqrt(13 * 26))
    assert found["parameters"] == pytest.approx(-7 / (13 + 26))


def test_rescaling_layers_or_all_weights_leaves_the_normalized_margin():
    before = measured("margin_normalized", deep())
    layers = measured("margin_normalized", deep((THETA[0] * 4, THETA[1] / 4)))
    whole = measured("margin_normalized", deep((THETA[0] * 3, THETA[1] * 3)))
    for name in ("spectral", "frobenius"):
        assert layers[name] == pytest.approx(before[name])
        assert whole[name] == pytest.approx(before[name])
    assert whole["parameters"] == pytest.approx(before["parameters"])


@pytest.mark.parametrize(("norm", "size"), [("l2", 5.0), ("linf", 4.0)])
def test_the_optimizer_margin_is_in_the_norm_of_the_optimizer(norm, size):
    settings = Settings(geometry=lambda: OptimizerGeometry("sgd", 1.0, norm=norm))
    found = measured("optimizer_margin", linear([3.0, 4.0], settings))
    assert abs(found.value - 5 / size) <= found.bound < 1e-12  # margins 11 and 5
    assert found.details["order"] == 1
    assert measured("optimizer_margin", linear([3.0, 4.0], settings), order=2.0).value == pytest.approx(5 / size**2)


def test_without_an_optimizer_or_a_homogeneous_network_there_is_no_optimizer_margin():
    with pytest.raises(NotApplicable, match="pass the optimizer"):
        measured("optimizer_margin", linear([3.0, 4.0]))
    theta = (np.ones((2, 2)), np.ones(2), np.ones(2))
    problem = gb.Problem(gb.models.tanh_network, gb.losses.logistic, X, np.array([1.0, 1.0, -1.0]), theta)
    settings = Settings(geometry=lambda: OptimizerGeometry("sgd", 1.0))
    with pytest.raises(NotApplicable, match="not: the order"):
        measured("optimizer_margin", JaxObjective(problem, theta, settings=settings))


def test_a_regression_has_no_margin():
    problem = gb.Problem(gb.models.linear, gb.losses.square, X, np.array([0.5, 1.0, 2.0]), np.zeros(2))
    with pytest.raises(NotApplicable, match="classifier"):
        measured("margin", JaxObjective(problem, jnp.ones(2)))
