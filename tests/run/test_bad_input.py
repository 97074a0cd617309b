"""Settings outside of a theorem, end to end: the failed assumption is named and nothing judged, or the run refused."""

import jax
import numpy as np
import pytest

import gradbias as gb
from cases import without_type_checks
from gradbias import run
from gradbias.data import Dataset
from gradbias.errors import UsageError
from gradbias.evidence import unmet
from gradbias.run.job import Job
from gradbias.run.store import Store
from gradbias.run.sweep import Finished, run_all


@pytest.fixture(autouse=True)
def _as_users_run_claims():
    with without_type_checks():
        yield


OUTSIDE = {
    "a start that is no minimum": (
        "gd-stability-network",
        dict(fit=3, n=3, width=4, steps=400),
        "the start is a minimum (zero loss)",
    ),
    "a model that is not homogeneous": (
        "homogeneous-margin-kkt",
        dict(model="biased", n=4, width=3, steps=200.0),
        "the model is homogeneous",
    ),
    "more examples than can be interpolated": ("min-norm-regression", dict(n=30, d=5), "X has full row rank"),
    "a support without ties, where ties are claimed": (
        "logreg-degenerate",
        dict(tied=0, horizon=1e3),
        "an example is tied",
    ),
}


REFUSED = {
    "a batch of nobody": ("batch-size-flatness", dict(small=0), "batch must be at least one example; got 0"),
    "a batch larger than the data": (
        "batch-size-flatness",
        dict(small=100),
        "batch must be between 1 and the 64 examples; got 100",
    ),
    "a sweep that hits the threshold": (
        "optimal-ridge-removes-peak",
        dict(ratios=(0.5, 1.0, 2.0)),
        "the expected risk is infinite; the sweep holds d = 50 at n = 50. Leave it out",
    ),
    "a sweep that leaves the threshold out": (
        "double-descent-sample-wise",
        dict(ratios=(0.5, 0.7)),
        "n = 25, 35 all lie on one side of d = 50, and a peak cannot show. Add ratios on the other side",
    ),
    "a bank of features without the threshold": (
        "double-descent-random-features-digits",
        dict(n=90),
        "must end at the 90 examples. Take a number of examples that is a multiple of 40",
    ),
    "points that a polynomial interpolates": ("poly-overfit-deg3-vs-deg8", dict(n=9), "over 9 points; got n=9"),
    "no directions at all": ("compression-bound-nonvacuous", dict(k=()), "each at least 1; got ()"),
    "a start at a saddle": ("deep-linear-max-margin", dict(init=0.0), "The log_norm clock has no meaning at θ = 0"),
}


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return Store(tmp_path_factory.mktemp("store"))


@pytest.fixture(scope="module")
def ended(store: Store) -> dict[str, Finished]:
    """What became of every case, in the processes in which the command line runs claims."""
    jobs = {
        name: Job(gb.find(claim).path, changes=changes | {"seeds": 1})
        for name, (claim, changes, _) in (OUTSIDE | REFUSED).items()
    }
    names = {str(job): name for name, job in jobs.items()}
    return {names[str(finished.job)]: finished for finished in run_all(list(jobs.values()), store)}


@pytest.mark.parametrize("case", OUTSIDE)
def test_the_assumption_that_a_setting_breaks_is_named_and_nothing_is_judged(case, ended):
    record = ended[case].record
    assert record is not None, ended[case].error
    assert record.outcome == "invalid"
    assert record.reason == f"Seed 0: the assumption {OUTSIDE[case][2]!r} does not hold on the data."


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_run_is_refused_with_what_was_given_and_one_sentence(case, ended):
    claim, changes, sentence = REFUSED[case]
    told = ended[case].error
    assert isinstance(told, UsageError)
    ((name, value),) = changes.items()
    assert f"{claim} cannot run with {name} = {value}: " in str(told)
    assert sentence in str(told)
    assert "\n" not in str(told)


def test_nothing_is_kept_of_what_was_refused(ended, store):
    assert len(ended) == len(OUTSIDE | REFUSED)
    assert {record.claim for record in store.scan()} == {claim for claim, _, _ in OUTSIDE.values()}
    assert len(list(store.records.iterdir())) == len(OUTSIDE)


def unmet_on(claim, made):
    """The assumptions of a claim that do not hold on these data."""
    loaded = gb.find(claim).load()
    return unmet(loaded, loaded.setting("smoke"), made)


def test_an_example_on_a_kink_leaves_the_sharpness_unjudged():
    x, y = np.array([[1.0, 0.5], [-0.3, 2.0]]), np.array([1.0, -1.0])
    w, a = np.array([[1.0, -1.0], [0.5, 2.0], [-1.0, 0.2]]), np.array([0.7, -1.0, 0.4])
    for nearest in (0.0, 1e-10):  # on it, and nearer than any difference quotient could see
        b = np.array([nearest - x[0] @ w[0], 0.3, -0.1])
        assert unmet_on("sharpness-reparametrization", Dataset(x, y, (w, b, a))) == ["no example is on a kink"]
    assert unmet_on("sharpness-reparametrization", Dataset(x, y, (w, b + 0.1, a))) == []


def test_data_that_are_not_separable_are_not_judged():
    x, y = np.array([[1.0, 2.0], [1.0, 2.0], [3.0, -1.0]]), np.array([1.0, -1.0, 1.0])
    assert unmet_on("max-margin-logistic", Dataset(x, y, np.zeros(2))) == ["linearly separable"]
    assert unmet_on("max-margin-logistic", Dataset(x[1:], y[1:], np.zeros(2))) == []


def test_a_tie_in_the_support_leaves_the_rates_unjudged():
    tied = gb.find("logreg-degenerate").load().data
    for ties, unmet_there in ((1, ["no example on the margin has multiplier zero"]), (0, [])):
        made = tied(jax.random.key(0), n=8, d=5, carrying=3, tied=ties)
        assert unmet_on("logistic-rates", made) == unmet_there


@pytest.mark.parametrize("claim", ["batch-size-flatness", "adam-linf-margin", "normalized-gd-sharpness-flow"])
@pytest.mark.parametrize("rate", [0.0, -0.1, float("inf"), float("nan")])
def test_a_step_size_that_is_not_positive_is_refused_before_anything_runs(claim, rate):
    name = "eta" if claim == "normalized-gd-sharpness-flow" else "rate"
    with pytest.raises(UsageError, match=f"must be a positive, finite number; got {name} = {rate}"):
        run.run(claim, **{name: rate})
