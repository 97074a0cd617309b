"""Gradient noise, on linear problems whose per-example gradients are chosen: w·x at w = 0, y = -1 has ∇ℓ_i = x_i."""

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

import gradbias as gb
from cases import PROPERTY, without_type_checks
from gradbias.errors import NotApplicable, ProbeError, UsageError
from gradbias.measures import jax_objective
from gradbias.measures.catalogue import take_all
from gradbias.measures.jax_objective import JaxObjective
from gradbias.measures.noise import _noise_directions
from gradbias.measures.per_example import entropy_rank, hill, simple_noise_scale, tail_bound


def with_gradients(g, residual=1.0):
    """An objective whose per-example gradients are residual_i · g_i, and whose Hessian is the mean of g gᵀ."""
    g = np.asarray(g)
    y = (-np.ones(len(g)) * residual).astype(g.dtype)
    problem = gb.Problem(gb.models.linear, gb.losses.square, g, y, np.zeros(g.shape[1], g.dtype))
    return JaxObjective(problem, jnp.zeros(g.shape[1], g.dtype))


def measured(name, objective, seed=0, **options):
    return take_all([(name, options)], objective, seed=seed)[name]


def covers_as_promised(hits, rate=0.95):
    """Fewer hits than promised by no more than chance does once in a thousand times."""
    return np.sum(hits) >= stats.binom.ppf(0.001, len(hits), rate)


def test_the_gradient_norm_of_chosen_gradients_is_the_norm_of_their_mean():
    found = measured("gradient_norm", with_gradients([[3.0, 0.0], [3.0, 8.0]]))
    assert abs(found.value - 5) <= found.bound < 1e-13


def test_the_gradient_norm_in_float32_is_within_its_bound_where_gradients_cancel():
    rng, hits = np.random.default_rng(0), []
    for _ in range(20):
        half = rng.normal(size=(50, 7))
        g = np.concatenate([half, -half + 1e-5]).astype(np.float32)
        found = measured("gradient_norm", with_gradients(g))
        hits.append(abs(found.value - np.linalg.norm(g.astype(float).mean(axis=0))) <= found.bound)
    assert all(hits)


def test_the_noise_scale_of_the_probe_is_exact():
    g = np.random.default_rng(1).normal(size=(30, 4)) + 1
    found = measured("noise_scale", with_gradients(g), population="probe")
    assert abs(found.value - np.trace(np.cov(g.T, bias=True)) / np.sum(g.mean(axis=0) ** 2)) <= found.bound < 1e-10
    assert found.confidence is None


def test_the_parts_of_the_noise_scale_are_without_bias():
    rng, mu, parts = np.random.default_rng(2), np.array([0.3, 0.0, 0.4]), []
    for _ in range(4000):
        g = mu + rng.normal(size=(6, 3)) * [1.0, 2.0, 0.5]
        parts.append(simple_noise_scale(np.sum(g**2, axis=1), g @ g.mean(axis=0))[0][:2])
    mean, error = np.mean(parts, axis=0), np.std(parts, axis=0) / np.sqrt(len(parts))
    assert np.all(np.abs(mean - [1 + 4 + 0.25, 0.25]) <= 4 * error)


def test_what_is_left_without_an_example_is_what_the_others_give():
    g = np.random.default_rng(3).normal(size=(5, 3))
    rest = np.delete(g, 2, axis=0)
    left = simple_noise_scale(np.sum(g**2, axis=1), g @ g.mean(axis=0))[1][2]
    assert left == pytest.approx(simple_noise_scale(np.sum(rest**2, axis=1), rest @ rest.mean(axis=0))[0][:2])


def test_the_bound_on_the_noise_scale_of_a_population_covers_at_its_rate():
    rng, sizes, hits = np.random.default_rng(4), 1 / np.sqrt(np.arange(1, 9)), []
    for _ in range(200):
        found = measured("noise_scale", with_gradients(0.4 + rng.normal(size=(150, 8)) * sizes))
        assert found.converged
        hits.append(abs(found.value - np.sum(sizes**2) / (8 * 0.16)) <= found.bound)
    assert covers_as_promised(hits)


def test_a_noise_scale_without_a_gradient_is_not_converged():
    g = np.random.default_rng(5).normal(size=(40, 6))
    found = measured("noise_scale", with_gradients(g))
    assert not found.converged
    assert np.isnan(found.value)
    assert "not clear of 0" in found.reason


def test_a_noise_scale_is_converged_where_the_gradient_is_three_standard_errors_from_zero():
    rng, seen = np.random.default_rng(13), set()
    for _ in range(40):
        found = measured("noise_scale", with_gradients(rng.normal(size=(40, 6)) + 0.35))
        clear = found.details["signal"] > 3 * found.details["signal_error"]
        assert found.converged <= clear
        seen.add((found.converged, found.details["signal"] > 0))
    assert seen >= {(True, True), (False, True)}


def test_covariance_eigenvalues_are_those_of_the_dense_covariance(monkeypatch):
    g = np.random.default_rng(6).normal(size=(23, 40)) + 2
    dense = np.linalg.eigvalsh(np.cov(g.T, bias=True))[::-1]
    whole = measured("noise_covariance", with_gradients(g), k=5)
    monkeypatch.setattr(jax_objective, "CHUNK_BYTES", 5 * 40 * 8)
    chunked = measured("noise_covariance", with_gradients(g), k=5)
    for found in (whole, chunked):
        assert np.all(np.abs(found.value[2:] - dense[:5]) <= found.bound[2:])
        assert abs(found["trace"] - dense.sum()) <= found.bound[0]
        assert found.bound[2] < 1e-10
    assert chunked.cost.gradients > 2 * whole.cost.gradients


def test_isotropic_noise_has_full_effective_rank():
    found = measured("noise_covariance", with_gradients(np.concatenate([np.eye(6), -np.eye(6)])))
    assert abs(found["effective_rank"] - 6) <= found.bound[1] < 1e-9
    assert found["1"] == pytest.approx(1 / 6)
    assert found["6"] == pytest.approx(1 / 6)


def test_a_covariance_of_few_of_the_examples_says_so():
    found = measured("noise_covariance", with_gradients(np.random.default_rng(7).normal(size=(50, 3))), examples=10)
    assert "10 examples drawn from the 50" in found.notes[0]


@PROPERTY
@given(st.lists(st.floats(0, 1), min_size=2, max_size=8), st.lists(st.floats(0, 1), min_size=2, max_size=8))
def test_the_bound_on_the_effective_rank_holds_for_any_two_spectra(a, b):
    m = min(len(a), len(b))
    p, q = (np.array(v[:m]) + 1e-3 for v in (a, b))
    distance = 0.5 * np.sum(np.abs(p / p.sum() - q / q.sum()))
    (found, bound), (other, _) = entropy_rank(p, distance), entropy_rank(q, 0.0)
    assert abs(found - other) <= bound * (1 + 1e-9) + 1e-9


def test_noise_with_the_covariance_of_the_hessian_has_cosine_one():
    half = np.random.default_rng(8).normal(size=(10, 4))
    g = np.concatenate([half, -half])
    found = measured("noise_alignment", with_gradients(g), probes=20)
    values = np.linalg.eigvalsh(g.T @ g / 20)
    assert abs(found["cosine"] - 1) <= found.bound[0] < 1e-10
    assert abs(found["anisotropy"] - 4 * np.sum(values**2) / np.sum(values) ** 2) <= found.bound[1] < 1e-10
    assert found.confidence is None
    assert found.cost.products == 20 + 4 + 4


@pytest.mark.parametrize("count", [5, 12])
def test_what_all_gradients_share_is_in_no_direction_of_the_noise(count):
    g = np.random.default_rng(14).normal(size=(12, 4))
    one, other = (_noise_directions(with_gradients(a), count, np.random.default_rng(0))[0] for a in (g, g + 7))
    assert np.array(one) == pytest.approx(np.array(other), abs=1e-12)


def test_isotropic_noise_has_anisotropy_one_whatever_the_hessian():
    x = np.array([[3.0, 0.0], [-3.0, 0.0], [0.0, 1.0], [0.0, -1.0]])
    found = measured("noise_alignment", with_gradients(x, residual=np.array([1.0, 1.0, 3.0, 3.0])), probes=4)
    assert abs(found["anisotropy"] - 1) <= found.bound[1] < 1e-10
    assert found["cosine"] == pytest.approx((9 + 1) / np.sqrt(82 * 2))


def test_the_monte_carlo_errors_of_alignment_cover_at_their_rate():
    rng = np.random.default_rng(9)
    x = rng.normal(size=(80, 60)) / np.arange(1, 61) ** 0.5
    residual = 2 + rng.normal(size=80)  # a mean that would outweigh the noise, were it counted
    objective, g = with_gradients(x, residual), residual[:, None] * x
    hessian, noise = x.T @ x / 80, np.cov(g.T, bias=True)
    product = np.sum(hessian * noise)
    truth = {
        "cosine": product / np.linalg.norm(hessian) / np.linalg.norm(noise),
        "anisotropy": 60 * product / np.trace(hessian) / np.trace(noise),
    }
    exact = measured("noise_alignment", objective, probes=80)
    assert exact.details["tr_HSigma"] == pytest.approx(product)
    runs = [measured("noise_alignment", objective, seed=seed, probes=24) for seed in range(50)]
    for place, name in enumerate(truth):
        assert covers_as_promised([abs(run[name] - truth[name]) <= run.bound[place] for run in runs])
        assert np.median([run.bound[place] for run in runs]) < 0.6 * truth[name]


def test_the_tail_index_of_power_laws_is_covered_at_the_stated_rate():
    rng = np.random.default_rng(10)
    for index in (1.5, 4.0):
        estimates = np.array([hill(row, 20) for row in 1 + rng.pareto(index, size=(400, 300))])
        assert abs(estimates.mean() - index) <= 4 * estimates.std() / 20
        assert covers_as_promised(np.abs(estimates - index) <= tail_bound(20) * estimates)


def test_the_tail_index_of_noise_with_students_tails_is_covered_at_the_stated_rate():
    rng, hits = np.random.default_rng(11), []
    for _ in range(60):
        found = measured("noise_tail_index", with_gradients(stats.t(2).rvs(size=(3000, 1), random_state=rng)))
        hits.append(not found.converged or abs(found.value - 2) <= found.bound)
        assert found.details["k"] == 55
    assert covers_as_promised(hits)


def test_a_tail_that_is_cut_off_is_not_converged():
    g = np.minimum(1 + np.random.default_rng(12).pareto(1.0, size=(2000, 1)), 60.0)
    g[::2] *= -1
    found = measured("noise_tail_index", with_gradients(g))
    assert not found.converged
    assert "no stable tail" in found.reason


def test_equal_gradients_have_no_noise_to_measure():
    objective = with_gradients(np.ones((30, 2)))
    for name in ("noise_covariance", "noise_alignment", "noise_tail_index"):
        with pytest.raises(NotApplicable):
            measured(name, objective)


def test_too_few_examples_and_wrong_options_are_refused():
    with pytest.raises(ProbeError, match="4 ≤ k < n"):
        measured("noise_tail_index", with_gradients(np.eye(5)))
    with pytest.raises(ProbeError, match="at least 3"):
        measured("noise_scale", with_gradients(np.eye(2)))
    with pytest.raises(UsageError, match="'sample' or 'probe'"), without_type_checks():
        measured("noise_scale", with_gradients(np.eye(5)), population="all")
