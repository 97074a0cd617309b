"""Stages of greedy learning, least traces, von Neumann projections, balanced singular values: exact cases, refusals."""

import jax.random as jr
import numpy as np
import pytest

from gradbias import data, oracles
from gradbias.oracles import greedy

RNG = np.random.default_rng(5)
BASIS = np.linalg.qr(RNG.normal(size=(4, 4)))[0]


def diagonal(values):
    return np.einsum("ab,ib,cb->iac", BASIS, np.asarray(values, dtype=float), BASIS)


def entries(x, size):
    a = np.zeros((len(x), size, size))
    a[np.arange(len(x)), x[:, 0], x[:, 1]] = 1.0
    return a


def test_with_every_entry_seen_greedy_learning_takes_one_eigenvector_after_the_other():
    values = np.array([4.0, 2.5, 1.0, -3.0])
    w = (BASIS * values) @ BASIS.T
    found = oracles.greedy_low_rank(entries(np.argwhere(np.ones((4, 4))), 4), w.ravel())
    assert found.certified
    assert found.value["rank"] == 3  # the negative eigenvalue is never learnt
    for r in range(4):
        kept = np.where(np.arange(4) < min(r + 1, 3), values, 0.0)
        np.testing.assert_allclose(found.value["stages"][r], (BASIS * kept) @ BASIS.T, atol=1e-8)
    np.testing.assert_allclose(found.value["growth"][0] * 16, [4.0, 2.5, 1.0, -3.0], atol=1e-9)
    np.testing.assert_allclose(found.value["growth"][1, 0] * 16, 2.5, atol=1e-9)
    assert found.condition == pytest.approx(4.0 / 1.5)


@pytest.mark.parametrize("seed", range(4))
def test_every_stage_is_stationary_and_the_last_one_a_minimum(seed):
    made = data.symmetric_completion(4, 2, 8, key=jr.key(seed))
    a, found = entries(made.x, 4), None
    found = oracles.greedy_low_rank(a, made.y)
    assert found.certified
    for r, w in enumerate(found.value["stages"]):
        residual = w[made.x[:, 0], made.x[:, 1]] - made.y
        slope = np.tensordot(residual, a, axes=1)
        slope = slope + slope.T
        assert np.linalg.norm(slope @ w) < 1e-7
        assert np.linalg.matrix_rank(w, tol=1e-6) <= r + 1
        if r + 1 >= found.value["rank"]:
            assert np.linalg.eigvalsh(slope)[0] > -1e-6


# Of 167 a stage is over, to rounding, long before its time.
@pytest.mark.parametrize("draw", [12, 41, 167])
def test_a_stage_that_drifts_slowly_is_followed_in_few_steps(draw, monkeypatch):
    made = data.symmetric_completion(5, 2, 11, key=jr.key(draw))
    slopes, spent = greedy._gradient, []

    def counted(*arguments):
        spent.append(1)
        assert len(spent) < 100_000  # LSODA alone takes a step per unit of time, of which there are 1e8
        return slopes(*arguments)

    monkeypatch.setattr(greedy, "_gradient", counted)
    assert oracles.greedy_low_rank(entries(made[1], 5), made[2]).certified


@pytest.mark.parametrize("draw", [61, 89])
def test_a_stage_that_goes_on_drifting_is_not_known_where_newtons_method_stops(draw):
    made = data.symmetric_completion(5, 2, 11, key=jr.key(draw))
    found = oracles.greedy_low_rank(entries(made[1], 5), made[2])
    assert found.certified  # stationary it is
    assert found.error["stages"] > 1e-3


def test_stages_scale_with_the_targets():
    made = data.symmetric_completion(4, 2, 8, key=jr.key(7))
    one, many = (oracles.greedy_low_rank(entries(made.x, 4), c * made.y).value["stages"] for c in (1.0, 50.0))
    np.testing.assert_allclose(many, 50.0 * one, atol=1e-5)


def test_a_commuting_least_trace_is_a_linear_programme():
    # tr W s.t. w_1 + 2 w_2 = 2, w_3 = 1: put everything on the second.
    found = oracles.min_trace_value(diagonal([[1, 2, 0, 0], [0, 0, 1, 0]]), [2.0, 1.0])
    assert found.certified
    assert abs(found.value - 2.0) <= found.error + 1e-12
    assert found.error < 1e-6


def test_the_least_trace_is_the_least_nuclear_norm_of_a_positive_semidefinite_completion():
    made = data.symmetric_completion(4, 2, 8, key=jr.key(1))
    mask = np.zeros((4, 4))
    mask[made.x[:, 0], made.x[:, 1]] = 1
    other = oracles.min_nuclear_norm(mask, made.matrix, psd=True)
    found = oracles.min_trace_value(entries(made.x, 4), made.y)
    assert found.certified
    assert abs(found.value - np.trace(other.value)) < 1e-6


@pytest.mark.parametrize("alpha", [1e-100, 1e-8, 1.0, 10.0])
def test_a_commuting_von_neumann_projection_is_an_entropy_projection_of_the_eigenvalues(alpha):
    x, w = RNG.normal(size=(2, 4)), np.array([1.0, 0.5, 2.0, 0.1])
    vector = oracles.bregman_projection(x, x @ w, potential=oracles.entropy, start=np.full(4, alpha))
    matrix = oracles.von_neumann_projection(diagonal(x), x @ w, scale=alpha)
    assert matrix.certified
    np.testing.assert_allclose(matrix.value, (BASIS * vector.value) @ BASIS.T, atol=1e-9)


def test_a_von_neumann_projection_is_feasible_and_closest_for_measurements_that_do_not_commute():
    a = RNG.normal(size=(3, 4, 4))
    a, factor = a + a.transpose(0, 2, 1), RNG.normal(size=(4, 4))
    y = np.tensordot(a, factor @ factor.T)
    found = oracles.von_neumann_projection(a, y, scale=0.3)

    def divergence(w):
        values = np.linalg.eigvalsh(w)
        return np.sum(values * np.log(values / 0.3) - values)

    assert found.certified
    for _ in range(20):
        move = RNG.normal(size=(4, 4))
        move = move + move.T
        flat = a.reshape(3, -1)
        move = (move.ravel() - np.linalg.pinv(flat) @ (flat @ move.ravel())).reshape(4, 4)
        step = 0.1 * np.linalg.eigvalsh(found.value)[0] / np.linalg.norm(move)
        assert divergence(found.value + step * move) > divergence(found.value)


def test_with_every_entry_seen_balanced_singular_values_of_an_aligned_start_follow_their_own_curve():
    # σ' = 2σ(y - σ)/4 at depth 2 (mean of four squares): the logistic curve.
    s, y, at = np.array([0.3, 0.1]), np.array([2.0, 1.0]), np.array([0.5, 1.0, 4.0])
    left, right = (np.linalg.qr(RNG.normal(size=(2, 2)))[0] for _ in range(2))
    found = oracles.balanced_singular_values(
        np.ones((2, 2)), (left * y) @ right.T, start=(left * s) @ right.T, depth=2, times=at
    )
    assert found.certified
    expected = y / (1 + (y / s - 1) * np.exp(-0.5 * y * at[:, None]))
    np.testing.assert_allclose(found.value, expected, atol=1e-9)


BAD = {
    "not square": (lambda: oracles.min_trace_value(np.ones((1, 2, 3)), [1.0]), r"square matrices.*got \(1, 2, 3\)"),
    "nothing asked": (lambda: oracles.min_trace_value(np.ones((1, 2, 2)), [0.0]), "All targets are 0"),
    "impossible": (lambda: oracles.min_trace_value([np.eye(2)], [-1.0]), "No positive semidefinite matrix has these"),
    "lengths": (lambda: oracles.greedy_low_rank(np.ones((2, 2, 2)), [1.0]), "one row per example; got 2 and 1"),
    "nothing learnt": (lambda: oracles.greedy_low_rank([np.eye(2)], [-1.0]), "has no positive eigenvalue"),
    "greedy not square": (lambda: oracles.greedy_low_rank(np.ones((1, 2, 3)), [1.0]), "square matrices"),
    "scale": (lambda: oracles.von_neumann_projection([np.eye(2)], [1.0], scale=0.0), "scale must be positive.*got 0"),
    "dependent": (
        lambda: oracles.von_neumann_projection([np.eye(2), 2 * np.eye(2)], [1.0, 2.0], scale=1.0),
        "linearly dependent",
    ),
    "no projection": (
        lambda: oracles.von_neumann_projection([np.eye(2)], [-1.0], scale=1.0),
        "No positive definite matrix",
    ),
    "depth": (lambda: balanced(depth=1), "depth must be at least 2.*got 1"),
    "times": (lambda: balanced(times=[2.0, 1.0]), "times must increase"),
    "start": (lambda: balanced(start=np.eye(2)), "distinct singular values"),
    "shapes": (lambda: balanced(start=np.ones((3, 3))), r"are \(d, d\); got"),
}


def balanced(start=None, depth=2, times=(1.0,)):
    start = np.diag([0.5, 0.2]) if start is None else start
    return oracles.balanced_singular_values(np.eye(2), np.eye(2), start=start, depth=depth, times=np.array(times))


@pytest.mark.parametrize("case", BAD)
def test_what_has_no_answer_is_refused_with_what_was_wrong(case):
    make, message = BAD[case]
    with pytest.raises(ValueError, match=message):
        make()
