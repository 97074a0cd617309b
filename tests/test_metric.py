"""The identities that the contract and the error budget take from a metric, for random values."""

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from cases import PROPERTY
from gradbias.metric import difference, direction, relative_difference, relative_l2

METRICS = {
    "relative_l2": relative_l2,
    "direction": direction,
    "difference": difference,
    "relative": relative_difference,
}
numbers = st.floats(-1e3, 1e3).map(lambda a: a if abs(a) > 1e-3 else 1.0)
values = arrays(float, (5,), elements=numbers)
matrices = arrays(float, (2, 3), elements=numbers)
gaps = st.floats(1e-6, 1.9)


@pytest.mark.parametrize("name", METRICS)
@PROPERTY
@given(b=st.one_of(values, matrices), s=gaps)
def test_a_value_moved_by_s_has_the_gap_s(name, b, s):
    metric = METRICS[name]
    np.testing.assert_allclose(metric.gap(metric.move(b, s), b), s, rtol=1e-6, atol=1e-12)


@pytest.mark.parametrize("name", METRICS)
@PROPERTY
@given(b=st.one_of(values, matrices))
def test_the_gap_of_a_value_to_itself_is_zero(name, b):
    np.testing.assert_array_equal(METRICS[name].gap(b, b), 0.0)


@pytest.mark.parametrize("name", METRICS)
@PROPERTY
@given(a=values, b=values, delta=values, size=st.floats(1e-3, 0.999))
def test_a_change_of_the_measured_value_moves_the_gap_by_at_most_its_lipschitz_bound(name, a, b, delta, size):
    delta = size * np.linalg.norm(a) * delta / np.linalg.norm(delta)  # the bound of `direction` needs |δ| < |a|
    metric = METRICS[name]
    moved = np.abs(metric.gap(a + delta, b) - metric.gap(a, b))
    bound = metric.lipschitz(a, b) * np.linalg.norm(delta)
    assert np.all(moved <= bound * (1 + 1e-9) + 1e-12)


@PROPERTY
@given(a=values, b=values, scale=st.floats(1e-6, 1e6))
def test_directions_know_no_length_and_relative_distances_no_unit(a, b, scale):
    assert direction.gap(scale * a, b) == pytest.approx(float(direction.gap(a, b)), abs=1e-12)
    assert relative_l2.gap(scale * a, scale * b) == pytest.approx(float(relative_l2.gap(a, b)), rel=1e-12)


@PROPERTY
@given(a=values, b=values)
def test_the_distance_between_directions_is_the_chord_of_their_angle(a, b):
    cosine = a @ b / (np.linalg.norm(a) * np.linalg.norm(b))
    assume(cosine < 0.999)
    assert direction.gap(a, b) == pytest.approx(np.sqrt(2 - 2 * cosine), rel=1e-10)


def test_opposite_directions_are_two_apart_and_nothing_is_further():
    b = np.array([3.0, 4.0])
    assert direction.gap(-b, b) == pytest.approx(2.0)
    assert direction.gap(direction.move(b, 50.0), b) == pytest.approx(2.0)


def test_the_bound_for_directions_is_nearly_attained_near_a_right_angle():
    a, b = np.array([1.0, 0.0]), np.array([0.0, 1.0])
    delta = 0.99 * np.array([np.cos(2.999), np.sin(2.999)])
    moved = abs(direction.gap(a + delta, b) - direction.gap(a, b))
    assert moved > 0.3 * direction.lipschitz(a, b) * 0.99


def test_signed_metrics_keep_the_sign():
    np.testing.assert_array_equal(difference.gap(np.array([1.0, 3.0]), np.array([2.0, 1.0])), [-1.0, 2.0])
    np.testing.assert_array_equal(relative_difference.gap(np.array([1.0]), np.array([-2.0])), [1.5])


def test_a_zero_vector_has_no_direction_and_yields_nan_instead_of_a_small_gap():
    assert np.isnan(direction.gap(np.zeros(2), np.array([1.0, 0.0])))
