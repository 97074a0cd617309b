import jax.numpy as jnp
import numpy as np
import pytest

import gradbias as gb
from gradbias.errors import NotApplicable, ProbeError, UsageError
from gradbias.measures.catalogue import asked_for, generator, take, take_all
from gradbias.measures.frequency import fourier_coefficients, power_spectrum
from gradbias.measures.jax_objective import JaxObjective

T = np.arange(64) / 64


def wave(theta, x):
    """A sine of the first input, theta = (amplitude, angular frequency)."""
    return (theta[0] * jnp.sin(theta[1] * x[0]))[None]


def network(theta, x):
    return theta[1] @ jnp.tanh(theta[0] @ x)


def objective(predict, theta, x, y=None):
    y = np.zeros((len(x), 1), x.dtype) if y is None else y
    return JaxObjective(gb.Problem(predict, gb.losses.square, x, y, theta), theta)


def spread(n=101, d=1, length=2.0):
    """Inputs evenly along the first axis, around zero; the others hardly vary."""
    rng = np.random.default_rng(0)
    first = np.linspace(-length / 2, length / 2, n)[:, None]
    return np.concatenate([first, 1e-3 * rng.normal(size=(n, d - 1))], axis=1)


def taken(predict, theta, x, y=None, **options):
    return take_all({"spectral_bias": options}, objective(predict, theta, x, y))["spectral_bias"]


@pytest.mark.parametrize("k", [1, 3, 8, 31])
def test_a_sine_has_all_of_its_power_at_its_frequency(k):
    power = power_spectrum(3 * np.sin(2 * np.pi * k * T + 0.4)[:, None], "none")
    assert power[k] == pytest.approx(4.5, rel=1e-12)
    assert np.sum(np.delete(power, k)) < 1e-25


def test_the_hann_window_shows_a_sine_at_its_neighbours_and_no_further():
    power = power_spectrum(np.sin(2 * np.pi * 10 * T)[:, None], "hann")
    np.testing.assert_allclose(power[9:12], np.array([1, 4, 1]) / 12, rtol=1e-12)
    assert np.sum(power) == pytest.approx(0.5, rel=1e-12)


@pytest.mark.parametrize("window", ["hann", "none"])
def test_powers_sum_to_the_weighted_mean_square(window):
    f = np.random.default_rng(0).normal(size=(64, 3))
    w = np.sin(np.pi * T) ** 2 if window == "hann" else np.ones(64)
    known = np.sum((w[:, None] * f) ** 2) / np.sum(w**2)
    assert np.sum(power_spectrum(f, window)) == pytest.approx(known, rel=1e-12)


def test_a_jump_leaks_less_into_high_frequencies_through_the_hann_window():
    power = {window: power_spectrum(T[:, None], window)[16:].sum() for window in ("hann", "none")}
    assert power["hann"] < 1e-4 * power["none"]


def test_coefficients_at_scattered_positions_are_the_sums_they_are_written_as():
    rng = np.random.default_rng(0)
    v, p = rng.normal(size=(7, 2)), rng.random(7)
    known = [sum(v[i] * np.exp(-2j * np.pi * k * p[i]) for i in range(7)) / 7 for k in (0, 2)]
    np.testing.assert_allclose(fourier_coefficients(v, p, np.array([0.0, 2.0])), known, rtol=1e-12)


@pytest.mark.parametrize(("k", "band"), [(1, "1-2"), (5, "4-8"), (20, "16-32")])
def test_the_band_of_a_model_that_is_a_sine_holds_its_power(k, band):
    # k waves on the line, which is 2 long.
    estimate = taken(wave, jnp.array([2.0, np.pi * k]), spread(), window="none", points=128)
    assert abs(estimate[band] - 2.0) <= estimate.bound[estimate.names.index(band)]
    others = np.array([name != band for name in estimate.names])
    assert np.all(estimate.value[others] <= estimate.bound[others])
    assert np.all(estimate.bound < 1e-12)


def test_bands_have_their_lower_edge_and_not_their_upper_one():
    theta = jnp.array([2.0, np.pi * 4])
    estimate = taken(wave, theta, spread(), window="none", bands=np.array([0.0, 4.0, 5.0, 6.0]))
    assert estimate.names == ("0-4", "4-5", "5-6")
    np.testing.assert_allclose(estimate.value, [0, 2, 0], atol=1e-12)


def test_the_principal_direction_is_the_one_along_which_the_inputs_vary():
    estimate = taken(wave, jnp.array([1.0, np.pi * 3]), spread(d=3), window="none")
    assert estimate["2-4"] == pytest.approx(0.5, rel=1e-3)
    assert estimate.details["lengths"] == pytest.approx([2.0], rel=1e-4)


def test_a_given_direction_is_used_whatever_its_length():
    x = np.random.default_rng(0).uniform(-1, 1, size=(200, 2))
    x = np.concatenate([x, [[-1.0, 0.0], [1.0, 0.0]]])
    theta = jnp.array([1.0, np.pi * 3])
    along, across = (taken(wave, theta, x, directions=np.array([u])) for u in ([5.0, 0.0], [0.0, 1.0]))
    assert along["2-4"] > 0.3
    assert np.sum(across.value[2:]) < 1e-25  # constant; the window shows that at 1 as well
    both = taken(wave, theta, x, directions=np.eye(2))
    np.testing.assert_allclose(both.value, (along.value + across.value) / 2, rtol=1e-12, atol=1e-15)


def test_the_residual_is_read_at_the_data():
    # Evenly spaced without the end point, so that sines at whole frequencies are orthogonal; the end point is added to
    # stretch the line, with no residual there.
    x = np.append(np.arange(64) / 64, 1.0)[:, None]
    y = np.sin(2 * np.pi * 3 * x[:, 0]) + 0.5 * np.sin(2 * np.pi * 20 * x[:, 0])
    made = taken(wave, jnp.array([1.0, 2 * np.pi * 3]), x, y, of="residual", points=64)
    assert made["16-32"] == pytest.approx((0.25 * 64 / 65) ** 2, rel=1e-9)
    assert made["2-4"] < 1e-20


def test_float32_is_within_the_bound():
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(50, 3)), rng.normal(size=(2, 50))
    x, y = rng.normal(size=(40, 3)), rng.normal(size=(40, 2))
    for of in ("function", "residual"):
        low, high = (
            taken(network, (jnp.asarray(a, t), jnp.asarray(b, t)), x.astype(t), y.astype(t), of=of)
            for t in ("float32", "float64")
        )
        assert np.all(np.abs(low.value - high.value) <= low.bound)


def test_along_a_run_the_lines_stay():
    made = objective(network, (jnp.ones((2, 3)), jnp.ones((1, 2))), np.random.default_rng(0).normal(size=(1200, 3)))
    ((measure, options),) = asked_for(["spectral_bias"])
    state = {}
    first = take(measure, made, options, rng=generator("a", 0), state=state)
    again = take(measure, made, options, rng=generator("b", 0), state=state)
    assert np.array_equal(first.value, again.value)
    assert first.cost.forwards == pytest.approx(256 / 1200)


def test_power_at_the_upper_end_is_told():
    theta = jnp.array([1.0, np.pi * 31])
    assert "raise points=" in taken(wave, theta, spread(), points=64).notes[0]
    assert taken(wave, theta, spread(), points=256).notes == ()


def test_what_has_no_spectrum_is_refused_with_the_reason():
    theta, x = jnp.array([1.0, 2.0]), spread(10, 2)
    for options, message in (
        ({"of": "loss"}, "'function' or 'residual'; got 'loss'"),
        ({"window": "box"}, "hann, none"),
        ({"points": 7}, "even number of points"),
        ({"bands": np.array([2.0, 1.0])}, "increasing edges"),
        ({"directions": 3}, "from 1 to 2"),
        ({"directions": np.zeros((1, 2))}, "none of them zero"),
        ({"directions": np.ones(3)}, "vectors like an input"),
    ):
        with pytest.raises(UsageError, match=message):
            taken(wave, theta, x, **options)
    with pytest.raises(NotApplicable, match="do not vary"):
        taken(wave, theta, np.ones((5, 2)))
    classes = gb.Problem(network, gb.losses.cross_entropy, x, np.arange(10) % 2, (jnp.eye(2), jnp.eye(2)))
    with pytest.raises(NotApplicable, match="residual is of a regression"):
        take_all({"spectral_bias": {"of": "residual"}}, JaxObjective(classes, classes.theta0))
    with pytest.raises(ProbeError, match="NaN"):
        take_all(["spectral_bias"], objective(wave, theta, x).at(np.array([np.nan, 1.0])))
