import cvxpy as cp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize

from gradbias.oracles import (
    bregman_projection,
    entropy,
    euclidean,
    hypentropy,
    min_norm_interpolant,
    min_norm_lp,
    min_norm_lp_value,
    p_norm,
    quasi_norm,
)
from oracles.separable import sparse


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 6), st.integers(1, 3), st.booleans())
def test_the_least_norm_interpolant_is_the_pseudo_inverse(seed, n, k, far):
    rng = np.random.default_rng(seed)
    x, y, start = rng.normal(size=(n, 9)), rng.normal(size=(n, k)), 100.0 * far * rng.normal(size=(9, k))
    found = min_norm_interpolant(x, y, start=start)
    exact = start + np.linalg.pinv(x) @ (y - x @ start)
    assert found.certified
    assert np.linalg.norm(found.value - exact) <= found.error + 1e-11 * found.condition * np.linalg.norm(exact)
    assert found.error < 1e-10 * found.condition


def test_the_error_of_an_interpolant_is_its_distance():
    x, y = sparse(8, 20, 0)
    found = min_norm_interpolant(x, y)
    assert found.error < 1e-13
    assert np.allclose(found.value, bregman_projection(x, y, potential=euclidean).value, atol=1e-13)
    assert np.allclose(found.value, min_norm_lp(x, y, norm=2).value, atol=1e-14)


@pytest.mark.parametrize("potential", [None, hypentropy(1.0), p_norm(3.0)])
def test_errors_cover_ill_conditioned_inputs(potential):
    # Every number is exact in binary, the only interpolant is (1, 1), and the condition number is 2^28.
    x, y = np.array([[1.0, 1.0], [1.0, 1.0 + 2.0**-26]]), np.array([2.0, 2.0 + 2.0**-26])
    found = min_norm_interpolant(x, y) if potential is None else bregman_projection(x, y, potential=potential)
    distance = np.linalg.norm(found.value - 1.0)
    assert found.certified
    assert distance <= found.error + 16 * np.finfo(float).eps * found.condition
    assert found.condition > 2.0**26
    assert found.error < 1e-5


def test_consistent_rank_deficient_inputs_are_interpolated_and_inconsistent_ones_refused():
    x, y = sparse(4, 10, 1)
    twice = np.vstack([x, x[:1]])
    found = min_norm_interpolant(twice, np.append(y, y[0]))
    assert np.allclose(found.value, min_norm_interpolant(x, y).value, atol=1e-12)
    for refused in (min_norm_interpolant, min_norm_lp, lambda x, y: bregman_projection(x, y, potential=euclidean)):
        with pytest.raises(ValueError, match=r"X has rank 4 with n = 5 examples and d = 10"):
            refused(twice, np.append(y, y[0] + 1.0))
    assert not min_norm_interpolant(np.zeros((1, 3)), [0.0]).value.any()


def test_mismatched_interpolation_problems_are_refused():
    with pytest.raises(ValueError, match=r"start must have shape \(2,\).*got \(3,\)"):
        min_norm_interpolant([[1.0, 2.0]], [1.0], start=[0.0, 0.0, 0.0])
    with pytest.raises(ValueError, match=r"x and y must have one row per example; got 1 and 2"):
        min_norm_interpolant([[1.0, 2.0]], [1.0, 2.0])
    with pytest.raises(ValueError, match=r"y must be finite"):
        min_norm_interpolant([[1.0, 2.0]], [np.inf])


@pytest.mark.parametrize("alpha", [1e-2, 0.1, 1.0])
def test_hypentropy_agrees_with_an_exponential_cone_programme(alpha):
    x, y = sparse(6, 12, 2)
    beta = alpha**2
    # β Σ q(w/β) = min over p - m = w of KL(p, β) + KL(m, β).
    p, m = cp.Variable(12), cp.Variable(12)
    energy = cp.sum(cp.kl_div(p / beta, np.ones(12)) + cp.kl_div(m / beta, np.ones(12)))
    cp.Problem(cp.Minimize(energy), [x @ (p - m) == y]).solve(solver=cp.CLARABEL)
    found = bregman_projection(x, y, potential=hypentropy(beta))
    assert found.certified
    assert found.error < 1e-11
    assert np.linalg.norm(found.value - (p.value - m.value)) < 1e-4 * np.linalg.norm(found.value)


@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize("k", [2, 30])
def test_tiny_initialisation_gives_the_least_l1_norm_and_a_huge_one_the_least_l2_norm(seed, k):
    x, y = sparse(12, 30, seed, k=k)
    tiny = bregman_projection(x, y, potential=hypentropy(log_beta=2 * np.log(1e-300)))
    huge = bregman_projection(x, y, potential=hypentropy(1e8))
    least = min_norm_lp(x, y)
    assert tiny.certified
    assert huge.certified
    assert least.certified
    assert tiny.error < 1e-6
    assert np.linalg.norm(tiny.value - least.value) < 1e-6
    assert np.linalg.norm(huge.value - min_norm_interpolant(x, y).value) < 1e-10


def test_beta_may_differ_by_coordinate_and_start_may_be_anywhere():
    x, y = sparse(5, 12, 3)
    rng = np.random.default_rng(3)
    beta, start = np.exp(rng.normal(size=12)), rng.normal(size=12)
    found = bregman_projection(x, y, potential=hypentropy(beta), start=start)

    def divergence(w):
        psi = beta * (2 - np.sqrt(4 + (w / beta) ** 2)) + w * np.arcsinh(w / (2 * beta))
        return np.sum(psi - w * np.arcsinh(start / (2 * beta)))

    kernel = np.linalg.svd(x)[2][5:].T
    assert found.certified
    for step in kernel.T:
        assert divergence(found.value) < min(
            divergence(found.value + 1e-3 * step), divergence(found.value - 1e-3 * step)
        )
    swapped = bregman_projection(x, y, potential=hypentropy(log_beta=np.log(beta)), start=start)
    assert np.array_equal(found.value, swapped.value)
    assert np.linalg.norm(found.value - bregman_projection(x, y, potential=hypentropy(beta)).value) > 0.01


@pytest.mark.parametrize("start", [1e-300, 1e-8, 0.3, 100.0])
def test_entropy_agrees_with_a_general_minimiser(start):
    x, _ = sparse(6, 15, 4)
    y = x @ np.abs(np.random.default_rng(4).normal(size=15))
    found = bregman_projection(x, y, potential=entropy, start=np.full(15, start))
    assert found.certified
    assert found.error < 1e-9
    assert found.value.min() >= 0
    if start > 1e-3:
        dual = minimize(
            lambda nu: np.sum(start * np.exp(nu @ x)) - nu @ y,
            np.zeros(6),
            jac=lambda nu: x @ (start * np.exp(nu @ x)) - y,
            method="BFGS",
            options={"gtol": 1e-7},
        )
        assert np.linalg.norm(found.value - start * np.exp(dual.x @ x)) < 1e-5


@pytest.mark.parametrize("p", [1.1, 1.5, 2.0, 3.0, 4.0, 10.0])
def test_p_norms_agree_with_a_cone_programme(p):
    x, y = sparse(8, 20, 5, k=20)
    found = bregman_projection(x, y, potential=p_norm(p))
    w = cp.Variable(20)
    cp.Problem(cp.Minimize(cp.pnorm(w, p)), [x @ w == y]).solve(solver=cp.CLARABEL)
    assert found.certified
    assert np.linalg.norm(found.value - w.value) < 1e-3 * np.linalg.norm(w.value)
    assert np.linalg.norm(found.value, p) <= np.linalg.norm(w.value, p) * (1 + 1e-7)
    if p <= 4:
        assert found.error < 1e-9
    assert np.array_equal(min_norm_lp(x, y, norm=p).value, found.value) or p == 2


@pytest.mark.parametrize("potential", [euclidean, entropy, p_norm(1.5), p_norm(3.0), hypentropy(0.3)])
def test_potentials_are_inverse_and_conjugate_pairs(potential):
    w = np.array([0.1, 0.7, 3.0])
    u = potential.gradient(w)
    assert np.allclose(potential.inverse_gradient(u), w, rtol=1e-14)
    assert np.allclose(potential.value(w) + potential.conjugate(u), u * w, rtol=1e-13)
    numeric = (potential.inverse_gradient(u + 1e-6) - potential.inverse_gradient(u - 1e-6)) / 2e-6
    assert np.allclose(potential.curvature(u), numeric, rtol=1e-8)
    slope = (potential.value(w + 1e-6) - potential.value(w - 1e-6)) / 2e-6
    assert np.allclose(slope, u, rtol=1e-7, atol=1e-9)


def test_the_potential_of_a_tiny_network_is_exact_in_logarithms():
    small = hypentropy(log_beta=-1400.0)
    assert np.isclose(small.gradient(np.array([2.0]))[0], 1400 + np.log(2), rtol=1e-15)
    assert np.isclose(small.gradient(np.array([-2.0]))[0], -1400 - np.log(2), rtol=1e-15)
    assert small.inverse_gradient(np.array([0.5]))[0] == 0.0


@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize("norm", [1, np.inf])
def test_linear_programmes_agree_with_a_cone_programme(seed, norm):
    x, y = sparse(10, 25, seed, k=25)
    found, value = min_norm_lp(x, y, norm=norm), min_norm_lp_value(x, y, norm=norm)
    w = cp.Variable(25)
    least = cp.Problem(cp.Minimize(cp.norm(w, norm)), [x @ w == y]).solve(solver=cp.CLARABEL)
    assert found.certified
    assert value.certified
    assert found.error < 1e-10
    assert value.error < 1e-12 * value.value
    assert abs(value.value - least) < 1e-6 * least
    assert np.linalg.norm(found.value - w.value) < 1e-4


def test_a_face_of_l1_interpolants_has_no_error_bound_but_a_norm():
    assert min_norm_lp([[1.0, 1.0]], [2.0]).error == np.inf
    value = min_norm_lp_value([[1.0, 1.0]], [2.0])
    assert abs(value.value - 2.0) <= value.error < 1e-13


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 1000), st.floats(0.3, 4.0), st.floats(1e-100, 1e100))
def test_quasi_norms_are_homogeneous(seed, q, factor):
    w = np.random.default_rng(seed).normal(size=(2, 3))
    assert np.isclose(quasi_norm(factor * w, q), factor * np.sum(np.abs(w) ** q) ** (1 / q), rtol=1e-12)


def test_what_no_potential_can_do_is_refused():
    x, y = np.array([[1.0, 2.0]]), np.array([-1.0])
    with pytest.raises(ValueError, match=r"No positive weights interpolate.*largest attainable"):
        bregman_projection(x, y, potential=entropy)
    with pytest.raises(ValueError, match=r"start must be positive; got 0 at index 1"):
        bregman_projection(x, -y, potential=entropy, start=[1.0, 0.0])
    with pytest.raises(ValueError, match=r"finite p > 1; got 1.0"):
        p_norm(1.0)
    with pytest.raises(ValueError, match=r"exactly one of beta and log_beta"):
        hypentropy()
    with pytest.raises(ValueError, match=r"beta must be positive"):
        hypentropy(0.0)
    with pytest.raises(ValueError, match=r"q > 0; got 0"):
        quasi_norm([1.0], 0.0)
    with pytest.raises(ValueError, match=r"norm must be a number p ≥ 1"):
        min_norm_lp(x, y, norm=0.5)
    with pytest.raises(ValueError, match=r"takes norm 1 or infinity"):
        min_norm_lp_value(x, y, norm=2)
