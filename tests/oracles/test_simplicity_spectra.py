"""Spectra behind the bias towards simple functions: circle, interval, cube, and the catapult's recursion."""

from math import comb

import numpy as np
import pytest

from gradbias import oracles

CUBE = 1.0 - 2.0 * (np.arange(256)[:, None] >> np.arange(8) & 1)


def test_rates_on_the_circle_are_the_eigenvalues_of_the_tangent_kernel():
    n = 16
    t = 2 * np.pi * np.arange(n) / n
    gram = oracles.relu_tangent_kernel((1 + np.cos(t[:, None] - t[None, :])) / 2)
    found = oracles.circle_tangent_rates(n, np.arange(n // 2 + 1)).value
    every = np.sort(np.append(found, found[1:-1]))  # waves between 0 and n/2 come twice
    np.testing.assert_allclose(every, np.linalg.eigvalsh(gram / n), atol=1e-8)  # arccos near 1 costs half the digits


def test_rates_on_the_circle_fall_as_the_square_of_the_frequency():
    rates = oracles.circle_tangent_rates(4096, [50, 100]).value
    assert np.log2(rates[0] / rates[1]) == pytest.approx(2.0, abs=0.05)


def test_the_kernel_of_many_units_is_the_limit_kernel():
    rng = np.random.default_rng(0)
    x = np.array([[1.0, 0.0], [0.6, 0.8]])
    gram = oracles.relu_tangent_gram(x, rng.normal(size=(200_000, 2)), np.ones(200_000))
    np.testing.assert_allclose(gram, oracles.relu_tangent_kernel(x @ x.T), atol=0.03)


def test_a_sobolev_loss_multiplies_rates():
    plain, tuned = (oracles.circle_tangent_rates(32, [3], power=s).value[0] for s in (0, 2))
    assert tuned == pytest.approx(100 * plain)


@pytest.mark.parametrize("bad", [[0.5], [-1], [17]])
def test_frequencies_that_the_points_do_not_have_are_refused(bad):
    with pytest.raises(ValueError, match="whole numbers"):
        oracles.circle_tangent_rates(32, bad)


def test_a_weight_that_is_not_positive_is_refused():
    with pytest.raises(ValueError, match="positive definite"):
        oracles.linearized_residuals(np.eye(2), [1.0, 0.0], rate=0.1, steps=1, weight=np.diag([1.0, 0.0]))


def test_the_beam_is_the_limit_of_many_relus():
    n = 400
    b = (np.arange(n) + 0.5) / n
    larger, smaller = np.maximum(b[:, None], b), np.minimum(b[:, None], b)
    gram = (1 - larger) ** 3 / 3 + (1 - larger) ** 2 / 2 * (larger - smaller)
    modes = oracles.cantilever_modes(4, np.linspace(0, 1, 2001))
    assert modes.certified
    np.testing.assert_allclose(np.linalg.eigvalsh(gram / n)[::-1][:4], modes.value["rates"], rtol=1e-3)
    np.testing.assert_allclose(np.mean(modes.value["shapes"] ** 2, axis=1), 1.0, atol=2e-3)


def test_hats_are_conditioned_below_three_and_relus_as_the_fourth_power():
    assert np.divide(*oracles.hat_rates(1000, [1, 1000]).value) == pytest.approx(3.0, abs=1e-4)
    small, large = (float(oracles.relu_condition(n).value) for n in (32, 64))
    assert np.log2(large / small) == pytest.approx(4.0, abs=0.01)


def test_brute_force_on_eight_bits_finds_the_eigenvalues_by_degree():
    kernel = oracles.deep_kernels(1 - np.arange(9) / 4, 3, weight=2.0, bias=0.5)[1, -1]
    matrix = kernel[((8 - CUBE @ CUBE.T) / 2).round().astype(int)] / 256
    values = oracles.cube_spectrum(kernel).value["eigenvalues"]
    every = np.sort(np.repeat(values, [comb(8, k) for k in range(9)]))
    np.testing.assert_allclose(np.linalg.eigvalsh(matrix), every, atol=1e-13)


def test_shares_of_all_degrees_sum_to_one():
    kernel = oracles.deep_kernels(1 - np.arange(25) / 12, 5, weight=2.0, bias=0.5)[0, -1]
    assert np.sum(oracles.cube_spectrum(kernel).value["shares"]) == pytest.approx(1.0, abs=1e-8)


@pytest.mark.parametrize("unit", ["relu", "erf"])
def test_deep_kernels_are_gaussian_averages(unit):
    from scipy.special import erf

    act = {"relu": lambda z: np.maximum(z, 0), "erf": erf}[unit]
    u, v = np.random.default_rng(0).multivariate_normal([0, 0], [[1.5, 0.9], [0.9, 1.5]], 400_000).T
    kernel = oracles.deep_kernels([0.6], 1, weight=1.5, bias=0.0, unit=unit)[0, 0, 0]
    assert kernel == pytest.approx(1.5 * np.mean(act(u) * act(v)), abs=0.01)


def gaussian_average(f, sigma, size):
    """E f(u, v) of variances `size` and covariance `sigma`, in polar coordinates."""
    nodes, weights = np.polynomial.legendre.leggauss(60)
    r, angle = 5 * (nodes[:, None] + 1), 2 * np.pi * (np.arange(4000) + 0.5) / 4000
    c = sigma / size
    u, v = r * np.cos(angle), r * (c * np.cos(angle) + np.sqrt(1 - c**2) * np.sin(angle))
    return 5 * weights @ (r[:, 0] * np.exp(-(r[:, 0] ** 2) / 2) * np.mean(f(size**0.5 * u, size**0.5 * v), axis=1))


@pytest.mark.parametrize("unit", ["relu", "erf"])
@pytest.mark.parametrize("cosine", [1.0, 0.6, -0.7])
def test_deep_and_tangent_kernels_follow_the_recursion_of_gaussian_averages(unit, cosine):
    from scipy.special import erf

    act = {"relu": lambda z: np.maximum(z, 0), "erf": erf}[unit]
    slope = {"relu": lambda z: 1.0 * (z > 0), "erf": lambda z: 2 / np.pi**0.5 * np.exp(-(z**2))}[unit]
    sigma = theta = 1.5 * cosine + 0.3
    size = 1.8
    for found in np.moveaxis(oracles.deep_kernels([cosine], 3, weight=1.5, bias=0.3, unit=unit)[:, :, 0], 1, 0):
        both, slopes = (gaussian_average(lambda u, v, g=g: g(u) * g(v), sigma, size) for g in (act, slope))
        sigma, size = 1.5 * both + 0.3, 1.5 * gaussian_average(lambda u, v: act(u) ** 2, sigma, size) + 0.3
        theta = sigma + 1.5 * theta * slopes
        np.testing.assert_allclose(found, [sigma, theta], rtol=1e-3)


def test_the_catapult_is_gradient_descent_on_two_layers():
    (u, v), rates = np.random.default_rng(0).normal(size=(2, 9)), np.array([0.4, 1.3])
    path = oracles.catapult_path(u @ v / 3, (u @ u + v @ v) / 9, 9, rates, steps=5).value
    for f, kernel, rate in zip(path["function"], path["kernel"], rates, strict=True):
        a, b = u, v
        for t in range(6):
            np.testing.assert_allclose([f[t], kernel[t]], [a @ b / 3, (a @ a + b @ b) / 9], rtol=1e-10)
            a, b = a - rate * (a @ b / 9) * b, b - rate * (a @ b / 9) * a


def test_rates_of_hats_are_the_eigenvalues_of_their_mass_matrix():
    mass = (4 * np.eye(7) + np.eye(7, k=1) + np.eye(7, k=-1)) / 6
    found = oracles.hat_rates(7, np.arange(1, 8))
    np.testing.assert_allclose(found.value[::-1], np.linalg.eigvalsh(mass), atol=1e-14)
    assert found.certified


def test_the_catapult_converges_up_to_four_and_not_beyond():
    path = oracles.catapult_path(0.5, 1.0, 100, [1.5, 2.5, 3.8, 4.2], steps=400)
    f, kernel = np.abs(path.value["function"]), path.value["kernel"]
    assert path.certified
    assert np.all(f[:3, -1] < 1e-3)
    assert f[3, -1] > 1e50
    assert list(np.max(f, axis=1) > 0.5 + 1e-12) == [False, True, True, True]
    assert np.all(kernel[:3, -1] * [1.5, 2.5, 3.8] < 2.0)


def test_outputs_that_no_weights_have_are_refused():
    with pytest.raises(ValueError, match="at most"):
        oracles.catapult_path(10.0, 1.0, 4, [1.0], steps=1)
