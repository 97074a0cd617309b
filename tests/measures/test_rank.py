import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.linalg import hadamard

import gradbias as gb
from gradbias.errors import NotApplicable, ProbeError, UsageError
from gradbias.measures import rank
from gradbias.measures.catalogue import take_all
from gradbias.measures.jax_objective import JaxObjective


def layered(theta, x, features=None):
    """A model whose layers are the matrices in `theta`."""

    def predict(theta, x):
        return jax.tree.leaves(theta)[-1].reshape(-1)[:1] * x[:1]

    return JaxObjective(
        gb.Problem(predict, gb.losses.square, x, np.zeros(len(x), x.dtype), theta), theta, features=features
    )


def with_spectrum(s, shape=None, seed=0):
    m, n = shape or (len(s), len(s))
    rng = np.random.default_rng(seed)
    u, v = (np.linalg.qr(rng.normal(size=(size, len(s))))[0] for size in (m, n))
    return (u * s) @ v.T


def taken(name, theta, *, x=None, features=None, **options):
    x = np.ones((3, 2)) if x is None else x
    return take_all({name: options}, layered(theta, x, features))[name]


@pytest.mark.parametrize(
    ("s", "known"),
    [
        ([3.0, 3.0, 3.0], 3.0),
        ([1.0, 0.0, 0.0], 1.0),
        ([2.0, 1.0, 1.0], 2 ** (0.5 + 0.5 * 2)),
        ([4.0], 1.0),
    ],
)
def test_effective_rank_is_the_exponential_of_the_entropy_of_known_singular_values(s, known):
    estimate = taken("effective_rank", {"w": jnp.asarray(with_spectrum(np.array(s), (7, 5)))})
    assert abs(estimate["w"] - known) <= estimate.bound[0]
    assert estimate.bound[0] < 1e-11


def test_effective_rank_agrees_with_the_traced_function():
    w = jnp.asarray(np.random.default_rng(1).normal(size=(6, 4)))
    assert taken("effective_rank", {"w": w})["w"] == pytest.approx(float(rank.effective_rank(w)), rel=1e-13)


def test_a_kernel_is_a_matrix_with_one_row_per_output():
    kernel = np.zeros((3, 2, 2, 2))
    kernel[0, 0, 0, 0] = kernel[1, 1, 1, 1] = 1.0
    assert taken("effective_rank", {"w": jnp.asarray(kernel)})["w"] == pytest.approx(2.0)


def test_stable_rank_is_the_sum_of_squares_over_the_largest():
    estimate = taken("stable_rank", {"w": jnp.asarray(with_spectrum(np.array([2.0, 1.0, 1.0]), (4, 6)))})
    assert abs(estimate["w"] - 1.5) <= estimate.bound[0] < 1e-13


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_numerical_rank_counts_what_the_arithmetic_of_the_model_can_see(dtype):
    s = np.array([1.0, 1e-3, 1e-9, 0.0])
    w = jnp.asarray(with_spectrum(s, (8, 8)), dtype=dtype)
    estimate = taken("numerical_rank", {"w": w}, x=np.ones((3, 2), dtype))
    assert estimate["w"] == {"float32": 2, "float64": 3}[dtype]
    assert estimate.bound[0] == 0


@pytest.mark.parametrize(("units", "count"), [(5, 6), (10, 7)])
def test_a_singular_value_near_the_threshold_widens_the_bound_of_the_numerical_rank(units, count):
    # The threshold is 8 units, the error of a singular value of 8 × 8 below 6.
    small = units * np.finfo(np.float64).eps
    estimate = taken("numerical_rank", {"w": jnp.diag(jnp.asarray([1.0] * 6 + [small, 0.0]))})
    assert estimate["w"] == count
    assert estimate.bound[0] == 1


@pytest.mark.parametrize("p", [2, 4, 8, 16, 64, 256])
def test_singular_values_are_within_their_error_of_exactly_known_ones(p):
    rng = np.random.default_rng(p)
    h = hadamard(p).astype(np.float64)
    for _ in range(20 if p < 64 else 3):
        s = np.where(rng.random(p) < 0.5, 0.0, 2.0 ** rng.integers(-20, 1, size=p))
        got = np.linalg.svd((h * s) @ h[:, rng.permutation(p)].T, compute_uv=False)
        known = np.sort(s * p)[::-1]
        assert np.max(np.abs(got - known)) <= rank.singular_value_error((p, p), max(known[0], 1e-300))


def test_bounds_hold_for_matrices_that_are_off_by_the_error():
    rng = np.random.default_rng(0)
    for size in (1e-8, 1e-3, 1e-1):
        for _ in range(50):
            s = rng.random(5) ** 3
            moved = np.abs(s + size * rng.uniform(-1, 1, 5))
            for value, bound in (
                (rank.entropy_rank, rank.entropy_rank_bound),
                (rank.stable_rank, rank.stable_rank_bound),
            ):
                assert abs(value(moved) - value(s)) <= bound(s, size)


def test_bounds_are_not_larger_than_a_rank_can_be_off():
    s = np.array([1.0, 1e-3])
    assert rank.entropy_rank_bound(s, 10.0) == 1
    assert rank.stable_rank_bound(s, 10.0) == 2


def test_features_in_float32_are_within_the_bound_of_those_in_float64():
    rng = np.random.default_rng(0)
    theta = {"a": rng.normal(size=(30, 10)), "b": rng.normal(size=(5, 30))}
    x = rng.normal(size=(40, 10))

    def features(theta, x):
        return {"a": x, "b": jax.nn.relu(theta["a"] @ x)}

    for of in ("features", "gram"):
        for name in ("effective_rank", "stable_rank"):
            low, high = (
                taken(
                    name,
                    {k: jnp.asarray(v, dtype) for k, v in theta.items()},
                    x=x.astype(dtype),
                    features=features,
                    of=of,
                )
                for dtype in ("float32", "float64")
            )
            assert np.all(np.abs(low.value - high.value) <= low.bound + high.bound)
            assert np.all(low.bound < 0.1)


def test_the_gram_matrix_has_the_squared_singular_values_of_the_features():
    x = with_spectrum(np.array([2.0, 1.0]), (6, 3))
    theta = {"w": jnp.ones((1, 3))}
    s1, s2 = (
        taken("stable_rank", theta, x=x, features=lambda t, x: {"w": x}, of=of)["w"] for of in ("features", "gram")
    )
    assert s1 == pytest.approx(1 + 1 / 4)
    assert s2 == pytest.approx(1 + 1 / 16)


def test_a_zero_matrix_has_numerical_rank_zero_and_no_other():
    theta = {"a": jnp.zeros((3, 3)), "b": jnp.eye(3)}
    for name in ("effective_rank", "stable_rank"):
        estimate = taken(name, theta)
        assert math.isnan(estimate["a"])
        assert estimate["b"] == pytest.approx(3.0)
        assert not estimate.converged
        assert "a is zero" in estimate.reason
    assert taken("numerical_rank", theta)["a"] == 0


def test_what_has_no_rank_is_refused_with_the_reason():
    with pytest.raises(NotApplicable, match="no layer with a weight matrix"):
        taken("effective_rank", jnp.ones(3))
    with pytest.raises(NotApplicable, match="pass features="):
        taken("stable_rank", {"w": jnp.eye(2)}, of="features")
    with pytest.raises(UsageError, match="'gram'; got 'biases'"):
        taken("stable_rank", {"w": jnp.eye(2)}, of="biases")
    broken = layered({"w": jnp.eye(2)}, np.ones((3, 2))).at(np.array([1.0, np.nan, 0.0, 1.0]))
    with pytest.raises(ProbeError, match="NaN"):
        take_all(["numerical_rank"], broken)
