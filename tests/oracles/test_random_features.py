"""The deterministic equivalent of random-feature regression, and the network of 2n + d weights."""

import jax.numpy as jnp
import numpy as np
import pytest

from gradbias.oracles import effective_ridge, gaussian_kernel, memorising_network, random_feature_error


def test_the_effective_ridge_solves_its_equation_and_vanishes_above_the_threshold() -> None:
    values = np.geomspace(0.01, 5.0, 20)
    for width, ridge in ((5, 0.0), (5, 0.2), (20, 0.2), (60, 1e-6)):
        kappa = effective_ridge(values, width, ridge)
        assert kappa - kappa / width * np.sum(values / (values + kappa)) == pytest.approx(ridge, abs=1e-12)
        assert kappa > ridge
    assert effective_ridge(values, 20) == 0.0


@pytest.mark.parametrize(("width", "ridge"), [(24, 0.0), (120, 0.0), (60, 0.1), (30, 0.3)])
def test_gaussian_features_average_to_the_prediction(width: int, ridge: float) -> None:
    rng = np.random.default_rng(1)
    n, m = 60, 20
    x = rng.normal(size=(n + m, 4))
    kernel = gaussian_kernel(x, x, 1.5)
    y = np.sin(x[:, :2])
    root = np.linalg.cholesky(kernel + 1e-9 * np.eye(n + m))
    errors = []
    for _ in range(300):
        phi = root @ rng.normal(size=(n + m, width)) / np.sqrt(width)
        if ridge:
            w = phi[:n].T @ np.linalg.solve(phi[:n] @ phi[:n].T + ridge * np.eye(n), y[:n])
        else:
            w = np.linalg.lstsq(phi[:n], y[:n], rcond=None)[0]
        errors.append(np.mean((phi[n:] @ w - y[n:]) ** 2))
    kernels = kernel[:n, :n] + 1e-9 * np.eye(n), kernel[n:, :n], np.diag(kernel)[n:]
    predicted = random_feature_error(kernels, (y[:n], y[n:]), [width], ridge=ridge)
    assert predicted.certified
    spread = 4 * np.std(errors) / np.sqrt(len(errors))
    assert np.mean(errors) == pytest.approx(float(predicted.value["error"][0]), abs=spread + 0.06 * np.mean(errors))


def test_many_features_are_the_kernel_machine() -> None:
    rng = np.random.default_rng(2)
    x, y = rng.normal(size=(12, 3)), rng.normal(size=(12, 1))
    kernel = gaussian_kernel(x, x)
    gram, cross, own = kernel[:8, :8], kernel[8:, :8], np.ones(4)
    p = random_feature_error((gram, cross, own), (y[:8], y[8:]), [10**9], ridge=0.1)
    exact = cross @ np.linalg.solve(gram + 0.1 * np.eye(8), y[:8])
    assert p.value["error"][0] == pytest.approx(np.mean((exact - y[8:]) ** 2), rel=1e-6)


def test_the_threshold_without_a_ridge_and_equal_examples_are_refused() -> None:
    kernels, targets = (np.eye(3), np.zeros((1, 3)), [1.0]), (np.ones((3, 1)), [[0.0]])
    with pytest.raises(ValueError, match="infinite at the threshold"):
        random_feature_error(kernels, targets, [2, 3])
    with pytest.raises(ValueError, match="singular"):
        random_feature_error((np.zeros((3, 3)), *kernels[1:]), targets, [2])


def test_two_n_plus_d_weights_have_any_labels() -> None:
    rng = np.random.default_rng(3)
    x, y, a = rng.normal(size=(200, 7)), rng.integers(0, 10, 200), rng.normal(size=7)
    p = memorising_network(x, y, a)
    assert p.certified
    assert p.value["wrong"] == 0
    assert p.value["weights"] == 2 * 200 + 7
    outputs = np.maximum(0.0, (x @ a)[:, None] - p.value["b"]) @ p.value["w"]
    np.testing.assert_allclose(outputs, y, atol=1e-6)


def test_a_construction_that_breaks_down_has_every_example_wrong() -> None:
    from gradbias.claims.generalization.random_labels_memorisation import constructed

    x, y, a = jnp.array([[0.0], [1.0], [3.0]]), jnp.array([2, 0, 1]), jnp.array([1.0])
    assert float(constructed(x, y, a)) == 0.0
    assert float(constructed(jnp.array([[0.0], [1.0], [1.0]]), y, a)) > 0.0  # no such network: numbers that are none


def test_examples_that_coincide_along_the_direction_are_named() -> None:
    with pytest.raises(ValueError, match="Examples 0 and 2 coincide"):
        memorising_network([[1.0, 0.0], [2.0, 0.0], [1.0, 5.0]], [0.0, 1.0, 2.0], [1.0, 0.0])
