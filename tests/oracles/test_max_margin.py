import re

import cvxpy as cp
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import linprog
from sklearn.datasets import load_breast_cancer, load_digits
from sklearn.svm import SVC

from gradbias.oracles import (
    is_separable,
    margin,
    max_margin,
    max_margin_dual,
    max_margin_multiclass,
    max_margin_value,
    non_separability_certificate,
)
from gradbias.oracles._least_distance import LeastDistance
from oracles.separable import separable

SIZES = [(20, 5), (40, 20), (20, 60)]
NORMS = [1, 1.1, 1.5, 2, 3, 4, np.inf]


def by_cvxpy(x, y, norm):
    w = cp.Variable(x.shape[1])
    problem = cp.Problem(cp.Minimize(cp.norm(w, norm)), [cp.multiply(y, x @ w) >= 1])
    problem.solve(solver=cp.CLARABEL)
    return w.value


@pytest.mark.parametrize(("n", "d"), SIZES)
def test_the_l2_machine_is_that_of_libsvm_with_a_huge_penalty(n, d):
    x, y = separable(n, d, 0)
    found = max_margin(x, y, bias="free")
    peer = SVC(kernel="linear", C=1e10, tol=1e-10).fit(x, y)
    assert found.certified
    assert np.linalg.norm(found.value["w"] - peer.coef_[0]) < 1e-6
    assert abs(found.value["b"] - peer.intercept_[0]) < 1e-6
    assert max(found.error.values()) < 1e-12


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize(("n", "d"), SIZES)
def test_every_norm_agrees_with_a_cone_programme(n, d, norm):
    x, y = separable(n, d, 1)
    found, value, peer = max_margin(x, y, norm=norm), max_margin_value(x, y, norm=norm), by_cvxpy(x, y, norm)
    assert found.certified
    assert value.certified
    assert found.error < 1e-9
    assert np.linalg.norm(found.value - peer) < 2e-4 * np.linalg.norm(peer)
    assert abs(value.value * np.linalg.norm(peer, norm) - 1) < 1e-6
    assert abs(margin(x, y, found.value, norm=norm) - value.value) <= value.error + 1e-14


@pytest.mark.parametrize(("n", "d", "seed"), [(33, 11, 2), (21, 7, 25), (27, 5, 44)])
@pytest.mark.parametrize("norm", [1.05, 1.3, 1.8])
def test_more_examples_than_features_do_not_stall_the_dual(n, d, seed, norm):
    x, y = separable(n, d, seed, gap=0.05)
    found = max_margin(x, y, norm=norm)
    assert found.certified
    assert found.error < 1e-9


def test_certificates_go_red_when_the_value_is_moved():
    x, y = separable(20, 5, 2)
    a = y[:, None] * x
    good, alpha = max_margin(x, y).value, max_margin_dual(x, y).value
    free = np.zeros((20, 0))
    assert max(LeastDistance(a, free, good, np.zeros(0), alpha).certificate().values()) < 1e-13
    for w, multipliers in [(good * 1.001, alpha), (good, alpha * 1.001), (good + 1e-3, alpha), (-good, alpha)]:
        moved = LeastDistance(a, free, w, np.zeros(0), multipliers)
        assert max(moved.certificate().values()) > 1e-5
        assert moved.error() >= np.linalg.norm(w - good)


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 10_000), st.floats(1e-3, 1e3), st.sampled_from(["2", "1", "inf", "3"]))
def test_scaling_inputs_divides_and_permuting_examples_keeps_the_machine(seed, factor, norm):
    norm = float(norm)
    x, y = separable(12, 6, seed)
    order = np.random.default_rng(seed).permutation(12)
    found, other = max_margin(x, y, norm=norm), max_margin(factor * x[order], y[order], norm=norm)
    assert found.certified
    assert other.certified
    allowed = found.error + factor * other.error + 1e-11 * np.linalg.norm(found.value)
    assert np.linalg.norm(factor * other.value - found.value) <= allowed


def test_the_error_bound_holds_for_perturbed_optima():
    x, y = separable(15, 15, 3)
    a, free = y[:, None] * x, np.zeros((15, 0))
    exact, alpha = max_margin(x, y).value, max_margin_dual(x, y).value
    rng = np.random.default_rng(0)
    for size in [1e-12, 1e-10, 1e-6, 1e-2]:
        w = exact + size * rng.normal(size=15)
        assert LeastDistance(a, free, w, np.zeros(0), alpha).error() >= np.linalg.norm(w - exact)


def test_a_degenerate_support_still_has_a_bound():
    # The second row is active with multiplier zero; the third repeats the first.
    found = max_margin([[1.0, 0.0], [1.0, 1.0], [1.0, 0.0]], [1, 1, 1])
    assert np.allclose(found.value, [1.0, 0.0], atol=1e-15)
    assert found.certified
    assert found.error < 1e-13


def test_a_penalised_bias_is_a_constant_feature_and_a_free_one_is_not():
    x, y = separable(20, 5, 4)
    x = x + 2.0
    if not is_separable(np.hstack([x, np.ones((20, 1))]), y):
        pytest.fail("the shifted data must be separable with a bias")
    penalised, free = max_margin(x, y, bias="penalized").value, max_margin(x, y, bias="free").value
    joint = max_margin(np.hstack([x, np.ones((20, 1))]), y).value
    assert np.allclose(np.append(penalised["w"], penalised["b"]), joint, atol=1e-13)
    assert np.linalg.norm(penalised["w"] - free["w"]) > 1e-3
    # A free bias ignores shifts of the inputs.
    shifted = max_margin(x - 7.0, y, bias="free").value
    assert np.allclose(shifted["w"], free["w"], atol=1e-11)
    assert np.isclose(shifted["b"], free["b"] + 7.0 * free["w"].sum(), atol=1e-9)


def test_real_data_sets_are_solved_to_rounding():
    x, c = load_digits(return_X_y=True)
    found = max_margin(x[c < 2] / 16, 2.0 * c[c < 2] - 1)
    assert found.certified
    assert found.error < 1e-12
    x, c = load_breast_cancer(return_X_y=True)
    x = (x - x.mean(axis=0)) / x.std(axis=0)
    features = np.tanh(0.4 * x @ np.random.default_rng(0).normal(size=(30, 300)))
    found = max_margin(np.hstack([x, features]), 2.0 * c - 1, bias="free")
    assert found.certified
    assert found.error["w"] < 1e-11


def test_multipliers_are_the_dual_optimum():
    x, y = separable(20, 30, 5)
    found = max_margin_dual(x, y)
    assert found.certified
    assert found.error < 1e-12
    assert found.value.min() >= 0
    assert np.allclose((found.value * y) @ x, max_margin(x, y).value, atol=1e-13)
    repeated = max_margin_dual(np.vstack([x, x]), np.append(y, y))
    assert repeated.error == np.inf


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_several_classes_agree_with_a_cone_programme(seed):
    rng = np.random.default_rng(seed)
    x = (3 * rng.normal(size=(3, 4)))[np.repeat(np.arange(3), 6)] + 0.5 * rng.normal(size=(18, 4))
    labels = np.repeat([7, 3, 5], 6)
    found = max_margin_multiclass(x, labels, classes=[7, 3, 5])
    own = np.repeat(np.arange(3), 6)
    w = cp.Variable((3, 4))
    limits = [(w[own[i]] - w[k]) @ x[i] >= 1 for i in range(18) for k in range(3) if k != own[i]]
    cp.Problem(cp.Minimize(cp.sum_squares(w)), limits).solve(solver=cp.CLARABEL)
    assert found.certified
    assert found.error < 1e-12
    assert np.linalg.norm(found.value - w.value) < 1e-5
    assert np.allclose(max_margin_multiclass(x, labels).value, found.value[[1, 2, 0]], atol=1e-13)


def test_two_classes_are_half_the_binary_machine_each():
    x, y = separable(15, 4, 6)
    binary, both = max_margin(x, y).value, max_margin_multiclass(x, y).value
    assert np.allclose(both, [-0.5 * binary, 0.5 * binary], atol=1e-13)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 5))
def test_separability_agrees_with_a_linear_programme(seed, d):
    rng = np.random.default_rng(seed)
    x, y = rng.normal(size=(8, d)), rng.choice([-1.0, 1.0], size=8)
    feasible = linprog(np.zeros(d), A_ub=-y[:, None] * x, b_ub=-np.ones(8), bounds=[(None, None)] * d).status == 0
    assert is_separable(x, y) == feasible
    if not feasible:
        proof = non_separability_certificate(x, y)
        assert proof.certified
        assert np.linalg.norm((proof.value * y) @ x) < 1e-12


def test_tiny_margins_are_separable_and_exact_ties_are_not():
    x = np.array([[1.0, 1e-8], [-1.0, 1e-8]])
    assert is_separable(x, [1, 1])
    assert np.allclose(max_margin(x, [1, 1]).value, [0.0, 1e8], rtol=1e-7)
    assert not is_separable([[1.0, 0.0], [-1.0, 0.0]], [1, 1])
    assert not is_separable([[0.0, 0.0], [1.0, 0.0]], [1, 1])


def test_non_unique_minimisers_have_no_error_bound_but_a_margin():
    x, y = [[1.0, 1.0]], [1]
    assert max_margin(x, y, norm=1).error == np.inf
    value = max_margin_value(x, y, norm=1)
    assert value.certified
    assert abs(value.value - 1.0) <= value.error < 1e-14


def test_jax_arrays_and_integer_labels_are_taken():
    x, y = separable(10, 3, 7)
    found = max_margin(jnp.asarray(x), jnp.asarray(y, dtype=jnp.int32))
    assert np.array_equal(found.value, max_margin(x, y).value)


def test_data_that_are_not_separable_are_refused_with_the_examples_that_prove_it():
    x, y = separable(20, 3, 8)
    x, y = np.vstack([x, x[4]]), np.append(y, -y[4])
    with pytest.raises(
        ValueError, match=r"not separable.*on \d of 21 signed rows; example \(weight\): 20 \(0\.4"
    ) as told:
        max_margin(x, y)
    carried = np.array([int(i) for i in re.findall(r"(\d+) \(0\.", str(told.value))])
    assert not is_separable(x[carried], y[carried])
    for refused in (max_margin_value, max_margin_dual):
        with pytest.raises(ValueError, match=r"not separable"):
            refused(x, y)
    with pytest.raises(ValueError, match=r"not separable"):
        max_margin_multiclass(x, y)
    with pytest.raises(ValueError, match=r"not separable"):
        max_margin(x, y, bias="free")


def test_what_cannot_be_meant_is_refused():
    x, y = separable(6, 2, 9)
    with pytest.raises(ValueError, match=r"labels -1 and \+1; got 0 at index 0.*2 \* y - 1"):
        max_margin(x, np.zeros(6))
    with pytest.raises(ValueError, match=r"got 6 and 5 \(shapes"):
        max_margin(x, y[:5])
    with pytest.raises(ValueError, match=r"x must be finite.*index \(1, 0\)"):
        max_margin(np.where(np.arange(12).reshape(6, 2) == 2, np.nan, x), y)
    with pytest.raises(ValueError, match=r"2 axes; got shape \(6,\)"):
        max_margin(x[:, 0], y)
    with pytest.raises(ValueError, match=r"norm must be a number p ≥ 1"):
        max_margin(x, y, norm=0.5)
    with pytest.raises(ValueError, match=r"norm=2 only; got norm=1"):
        max_margin(x, y, norm=1, bias="free")
    with pytest.raises(ValueError, match=r"both labels must occur"):
        max_margin(np.abs(x), np.ones(6), bias="free")
    with pytest.raises(ValueError, match=r"w = 0 does not exist"):
        margin(x, y, [0.0, 0.0])
    with pytest.raises(ValueError, match=r"w must have shape \(2,\)"):
        margin(x, y, [1.0])
    with pytest.raises(ValueError, match=r"two or more distinct classes"):
        max_margin_multiclass(x, np.zeros(6))
    with pytest.raises(ValueError, match=r"labels outside them \[2\.0\]"):
        max_margin_multiclass(x, [0, 1, 2, 0, 1, 2], classes=[0, 1])
    with pytest.raises(ValueError, match=r"are separable. Use max_margin"):
        non_separability_certificate(x, y)
