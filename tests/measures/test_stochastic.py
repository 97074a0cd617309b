"""Monte Carlo estimates: how often their intervals hold the truth, on matrices whose spectra are known."""

import numpy as np
import pytest

from gradbias.errors import UsageError
from gradbias.measures import stochastic
from gradbias.measures.objective import SymmetricOperator

REPEATS = 150
LEAST = 0.95 - 3 * np.sqrt(0.95 * 0.05 / REPEATS)
SPECTRA = {
    "rank one": np.append(np.zeros(199), 5.0),
    "heavy": np.append(np.zeros(160), 100 / np.arange(1.0, 41.0)),
    "power law": np.arange(1.0, 201.0) ** -0.5,
    "indefinite": np.linspace(-1, 1.5, 200),
}


def diagonal(spectrum):
    """Random directions are invariant to rotations: a diagonal matrix is as good as any of its spectrum."""
    return SymmetricOperator(lambda v: spectrum * v, len(spectrum), 2.2e-16)


def coverage(hits):
    return np.mean(hits, axis=0)


@pytest.mark.parametrize(
    ("name", "sketch"),
    [("rank one", 0), ("heavy", 0), ("heavy", 10), ("power law", 10), ("indefinite", 0), ("indefinite", 10)],
)
def test_intervals_of_trace_and_norm_cover_though_the_number_of_probes_is_adapted(name, sketch):
    s, traces, squares = SPECTRA[name], [], []
    for seed in range(REPEATS):
        options = dict(rtol=0.15, sketch=sketch, max_products=100)
        t = stochastic.trace(diagonal(s), rng=np.random.default_rng(seed), **options)
        f = stochastic.squared_frobenius(diagonal(s), rng=np.random.default_rng([seed, 1]), **options)
        traces.append(abs(t.value - s.sum()) <= t.bound)
        squares.append(abs(f.value - np.sum(s**2)) <= f.bound)
    assert coverage(traces) >= LEAST
    assert coverage(squares) >= LEAST


def test_the_usual_t_interval_would_not_cover_on_rank_one():
    from scipy import stats

    samples = np.random.default_rng(0).chisquare(1, (2000, 16))
    usual = stats.t.ppf(0.975, 15) * samples.std(axis=1, ddof=1) / 4
    assert np.mean(np.abs(samples.mean(axis=1) - 1) <= usual) < 0.92
    ours = np.array([stochastic.half_width(row) for row in samples])
    assert np.mean(np.abs(samples.mean(axis=1) - 1) <= ours) >= 0.95


def test_more_products_are_spent_until_the_tolerance_is_met_and_no_more_than_allowed():
    s = np.linspace(-1, 1.5, 8000)
    loose, tight, capped = (
        stochastic.trace(diagonal(s), rng=np.random.default_rng(0), rtol=r, max_products=m, sketch=0)
        for r, m in ((0.5, 3000), (0.002, 3000), (1e-4, 120))
    )
    assert loose.products == stochastic.PILOT
    assert tight.bound <= 0.003 * abs(tight.value)
    assert tight.products > 200
    assert capped.products == 120


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_matrix_of_low_rank_is_exact_after_its_sketch_also_for_torch_tensors(dtype):
    import torch

    kind = getattr(torch, dtype)
    rng = np.random.default_rng(0)
    u = np.linalg.qr(rng.standard_normal((120, 3)))[0]
    held = torch.as_tensor((u * [3.0, -2.0, 1.0]) @ u.T, dtype=kind)
    operator = SymmetricOperator(
        lambda v: held @ v,
        120,
        float(torch.finfo(kind).eps),
        lambda h: torch.as_tensor(h, dtype=kind),
        lambda m: torch.zeros(m, 120, dtype=kind),
    )
    t = stochastic.trace(operator, rng=rng, max_products=50)
    f = stochastic.squared_frobenius(operator, rng=rng, max_products=50)
    assert abs(t.value - 2) <= t.bound <= 1e3 * operator.epsilon
    assert abs(f.value - 14) <= f.bound <= 1e4 * operator.epsilon
    density = stochastic.spectral_density(operator, rng=rng, probes=3, steps=20)
    assert abs(density.extremes[0][1] - 3) <= density.extremes[1][1]


def test_a_small_matrix_is_summed_exactly():
    a = np.random.default_rng(0).standard_normal((30, 30))
    a = a + a.T
    operator = SymmetricOperator(a.__matmul__, 30, 2.2e-16)
    t = stochastic.trace(operator, rng=np.random.default_rng(0))
    f = stochastic.squared_frobenius(operator, rng=np.random.default_rng(0))
    assert (t.samples, t.products) == (0, 30)
    assert abs(t.value - np.trace(a)) <= t.bound <= 1e-12
    assert abs(f.value - np.sum(a**2)) <= f.bound <= 1e-9


@pytest.mark.parametrize("name", SPECTRA)
def test_the_density_is_within_its_error_bars_at_each_point_of_the_grid(name):
    s, hits, fractions, ends = SPECTRA[name], [], [], []
    for seed in range(REPEATS):
        d = stochastic.spectral_density(diagonal(s), rng=np.random.default_rng(seed), probes=3, steps=12, points=24)
        truth = np.exp(-0.5 * ((d.grid[:, None] - s) / d.sigma) ** 2).mean(axis=1) / (d.sigma * np.sqrt(2 * np.pi))
        hits.append(np.abs(d.density - truth) <= d.bound)
        ends.append(np.all(np.abs(d.extremes[0] - [s.min(), s.max()]) <= d.extremes[1]))
        value, bound = d.fraction(0.0, np.inf)
        from scipy.stats import norm

        fractions.append(abs(value - norm.cdf(s / d.sigma).mean()) <= bound)
    assert coverage(hits).min() >= 0.95 - 4.5 * np.sqrt(0.95 * 0.05 / REPEATS)  # the least of 24 points
    assert coverage(hits).mean() >= LEAST
    assert coverage(fractions) >= LEAST
    assert coverage(ends) >= LEAST


def test_the_density_integrates_to_one_and_weights_are_a_distribution():
    d = stochastic.spectral_density(diagonal(SPECTRA["indefinite"]), rng=np.random.default_rng(0))
    np.testing.assert_allclose(d.weights.sum(axis=1), 1, atol=1e-12)
    assert np.trapezoid(d.density, d.grid) == pytest.approx(1, abs=1e-3)


def test_the_quadrature_error_counts_where_the_smoothing_is_too_fine_for_the_steps():
    s = SPECTRA["indefinite"]
    d = stochastic.spectral_density(diagonal(s), rng=np.random.default_rng(0), probes=20, steps=8, sigma=0.01)
    truth = np.exp(-0.5 * ((d.grid[:, None] - s) / d.sigma) ** 2).mean(axis=1) / (d.sigma * np.sqrt(2 * np.pi))
    inside = (d.grid > -1) & (d.grid < 1.5)
    assert np.all(np.abs(d.density - truth) <= d.bound)
    assert np.all(d.bound[inside] > 0.5 * truth[inside])  # so it says that nothing is known


def test_too_few_probes_or_products_are_refused():
    a, rng = diagonal(SPECTRA["heavy"]), np.random.default_rng(0)
    with pytest.raises(UsageError, match="two probes"):
        stochastic.spectral_density(a, rng=rng, probes=1)
    with pytest.raises(UsageError, match="max_products must be at least"):
        stochastic.trace(a, rng=rng, max_products=20)
