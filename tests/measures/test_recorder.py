"""The schedule against a clock that only moves when told, and what is kept of a run."""

import dataclasses
import math
import warnings

import jax.numpy as jnp
import numpy as np
import pytest

from gradbias import Problem, losses, models
from gradbias.errors import NotApplicable, ProbeError, UsageError
from gradbias.measures.catalogue import Measure
from gradbias.measures.estimate import Estimate
from gradbias.measures.jax_objective import JaxObjective
from gradbias.measures.readings import MOST_KEPT, MOST_NAMES
from gradbias.measures.recorder import FIRST, Recorder

GRADIENT = 1.0  # seconds of a gradient: a plan of g gradients is g seconds
PROBLEM = Problem(models.linear, losses.square, jnp.array([[3.0], [1.0]]), jnp.array([0.0, 1.0]), jnp.zeros(1))


OBJECTIVE = JaxObjective(PROBLEM, PROBLEM.theta0)


def objective():
    return OBJECTIVE


class Clock:
    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now


def instrument(name, take, *, planned=1.0, needs=""):
    def estimate(objective, *, rng, state, **options):
        return take(rng, state)

    return Measure(
        name, "toys", f"The toy {name}.", "", lambda options: planned, "none", "up", "down", needs, (), {}, estimate
    )


def costing(clock, seconds, value=1.0):
    """A reading that takes a constant, or the next of some seconds."""
    costs = iter(seconds) if isinstance(seconds, list) else None

    def take(rng, state):
        clock.now += seconds if costs is None else next(costs)
        return Estimate(value, 0.0)

    return take


def recorder(clock, *measures, **options):
    return Recorder([(m, {}) for m in measures], gradient_seconds=GRADIENT, clock=clock, **options)


def train(clock, told, steps, seconds=1.0):
    """Rows of a loop whose own work takes so many seconds per step."""
    rows = []
    for _ in range(steps):
        clock.now += seconds
        rows.append(told.step(objective))
    return rows


def read_at(rows, name):
    return [number for number, row in enumerate(rows, 1) if row and name in row]


@pytest.mark.parametrize("costs", [(0.001, 0.01), (0.3, 0.3, 0.3), (0.01, 5.0), (0.0001, 0.05, 1.0, 40.0)])
@pytest.mark.parametrize("budget", [0.01, 0.05, 0.5])
def test_the_overhead_never_exceeds_the_budget_whatever_the_length_of_the_run(costs, budget):
    clock = Clock()
    told = recorder(
        clock, *(instrument(f"m{k}", costing(clock, c), planned=c) for k, c in enumerate(costs)), budget=budget
    )
    for _ in range(600):
        clock.now += 1.0
        told.step(objective)
        assert not told.overhead > budget * (1 + 1e-9)


def test_the_budget_is_spent_and_split_evenly():
    clock = Clock()
    measures = [instrument(name, costing(clock, cost), planned=cost) for name, cost in (("a", 0.5), ("b", 2.0))]
    told = recorder(clock, *measures, budget=0.05)
    rows = train(clock, told, 4000)
    assert told.overhead == pytest.approx(0.05, rel=0.03)
    a, b = (series.seconds for series in told.run.series)
    assert a == pytest.approx(b, rel=0.05)
    assert len(read_at(rows, "a")) == pytest.approx(4 * len(read_at(rows, "b")), rel=0.05)


def test_the_first_reading_waits_until_it_is_paid_for_at_twice_its_plan():
    clock = Clock()
    told = recorder(clock, instrument("m", costing(clock, 1.0), planned=1.0), budget=0.1)
    # The time before the first call earns nothing; then 0.1 s a step: 2 s after 20 more, and 1 s of them left over.
    assert FIRST == 2.0
    assert read_at(train(clock, told, 60), "m") == [21, 22, 32, 42, 52]


def test_what_a_cheap_measure_does_not_need_goes_to_the_others():
    clock = Clock()
    cheap = instrument("cheap", costing(clock, 0.01), planned=0.01)
    dear = instrument("dear", costing(clock, 3.0), planned=3.0)
    rows = train(clock, recorder(clock, cheap, dear, budget=0.05), 3001)
    assert len(read_at(rows, "cheap")) >= 2990
    # 0.05 s a step less 0.01 for the cheap one: 3 s every 75 steps, where an even split would need 120.
    assert len(read_at(rows, "dear")) == pytest.approx(3000 / 75, abs=2)


def test_a_reading_that_costs_more_than_planned_is_paid_back_before_anything_else_is_read():
    clock = Clock()
    surprise = instrument("surprise", costing(clock, [10.0] + 99 * [1.0]), planned=0.1)
    other = instrument("other", costing(clock, 0.2), planned=0.2)
    told = recorder(clock, surprise, other, budget=0.1)
    rows = train(clock, told, 400)
    first, second, *_ = read_at(rows, "surprise")
    between = [step for step in read_at(rows, "other") if first < step < second]
    assert between[0] >= 99  # 10 s are ten percent of 100 s
    assert told.overhead <= 0.1


def test_what_an_unexpected_cost_has_spent_is_not_spent_again_in_the_same_step():
    clock = Clock()
    measures = [instrument(name, costing(clock, cost), planned=0.1) for name, cost in (("a", 5.0), ("b", 0.1))]
    rows = train(clock, recorder(clock, *measures, budget=0.1), 20)
    assert (read_at(rows, "a"), read_at(rows, "b")) == ([5], [])  # both were due at step 5


def test_costs_that_go_up_and_down_are_met_at_their_larger_end():
    clock = Clock()
    told = recorder(clock, instrument("m", costing(clock, 500 * [1.0, 0.3]), planned=1.0), budget=0.1)
    for _ in range(300):
        clock.now += 1.0
        told.step(objective)
        assert not told.overhead > 0.1 * (1 + 1e-9)


def test_work_that_measures_share_counts_too():
    clock = Clock()
    told = recorder(clock, *(instrument(n, costing(clock, 0.1), planned=0.1) for n in "ab"), budget=0.1)

    def slow():
        clock.now += 2.0
        return objective()

    for _ in range(1000):
        clock.now += 1.0
        told.step(slow)
    assert told.overhead <= 0.1
    assert sum(series.seconds for series in told.run.series) == pytest.approx(told.seconds)


def test_waiting_for_the_accelerator_is_the_training_s_time():
    clock = Clock()
    told = recorder(clock, instrument("m", costing(clock, 0.1), planned=0.1), budget=0.1)

    def settle():
        clock.now += 100.0

    train(clock, told, 2)
    assert told.step_seconds == 1.0
    clock.now += 1.0
    assert told.step(objective, settle) is not None
    assert told.step_seconds == 102.0
    assert told.seconds == pytest.approx(0.1)


def test_without_a_budget_everything_is_read_every_so_many_steps():
    clock = Clock()
    told = recorder(
        clock, instrument("a", costing(clock, 50.0)), instrument("b", costing(clock, 1.0)), budget=None, every=3
    )
    rows = train(clock, told, 10)
    assert [r is not None for r in rows] == [n % 3 == 0 for n in range(1, 11)]
    assert set(rows[2]) == {"step", "a", "a/bound", "b", "b/bound", "monitor/overhead"}
    assert rows[2]["monitor/overhead"] == 51 / 2  # the time before the first call is not that of a step


def test_with_both_readings_are_at_those_steps_and_within_the_budget():
    clock = Clock()
    told = recorder(clock, instrument("m", costing(clock, 1.0), planned=0.5), budget=0.1, every=7)
    steps = read_at(train(clock, told, 200), "m")
    assert steps
    assert all(step % 7 == 0 for step in steps)
    assert told.overhead <= 0.1


def test_what_was_never_affordable_is_said_with_what_it_needs():
    clock = Clock()
    told = recorder(clock, instrument("dear", costing(clock, 100.0), planned=100.0), budget=0.05)
    train(clock, told, 101)
    hint = "never read: needs 2e+02 s, the budget has given 5 s; raise budget= or use fewer probe data"
    assert told.run.series[0].hint == hint
    assert hint in told.summary()
    assert hint in told.trajectory().attrs["not_read"]


def failing(error, planned=1.0):
    calls = []

    def take(rng, state):
        calls.append(1)
        raise error

    return instrument("bad", take, planned=planned), calls


def test_a_measure_without_a_meaning_here_is_reported_once_and_tried_again_when_the_run_is_twice_as_long():
    clock, tried = Clock(), []

    def separated(rng, state):
        tried.append(clock.now)
        clock.now += 0.001
        if clock.now < 30:
            raise NotApplicable("Not separated yet.")
        return Estimate(1.0, 0.0)

    told = recorder(clock, instrument("late", separated), instrument("good", costing(clock, 0.0)), budget=None, every=1)
    with pytest.warns(RuntimeWarning, match="late failed at step 1.*Not separated yet.") as caught:
        rows = train(clock, told, 29)
    assert len(caught) == 1
    assert np.round(tried).tolist() == [1, 2, 4, 8, 16]
    assert "Not separated" in told.summary()
    assert read_at(rows, "good") == list(range(1, 30))
    assert read_at(train(clock, told, 5), "late") == [3, 4, 5]  # steps 32, 33, 34
    assert "Not separated" not in told.summary()


def test_what_has_no_meaning_costs_the_others_nothing():
    def readings(*more):
        clock = Clock()
        told = recorder(clock, instrument("good", costing(clock, 1.0), planned=1.0), *more, budget=0.1)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", RuntimeWarning)
            return len(read_at(train(clock, told, 2000), "good"))

    bad, calls = failing(NotApplicable("none"), planned=1.0)
    assert readings(bad) >= readings() - 2  # its account is filled once, with two seconds
    assert 1 < len(calls) <= 12


def test_a_measure_that_fails_is_reported_once_and_tried_again():
    clock = Clock()
    bad, calls = failing(ZeroDivisionError("of nothing"))
    told = recorder(clock, bad, instrument("good", costing(clock, 0.1)), budget=None, every=1)
    with pytest.warns(RuntimeWarning, match="ZeroDivisionError: of nothing") as caught:
        train(clock, told, 4)
    assert len(caught) == 1
    assert len(calls) == 4


def test_a_model_that_cannot_be_read_any_more_does_not_stop_the_training():
    clock = Clock()
    told = recorder(clock, instrument("m", costing(clock, 0.1)), budget=None, every=1)

    def broken():
        raise ProbeError("The risk is nan.")

    with pytest.warns(RuntimeWarning, match="cannot read at step 1: The risk is nan") as caught:
        assert [told.step(broken) for _ in range(3)] == [None] * 3
    assert len(caught) == 1
    assert told.step(objective) is not None


def test_an_interrupt_ends_the_training():
    bad, _ = failing(KeyboardInterrupt())
    with pytest.raises(KeyboardInterrupt):
        train(Clock(), recorder(Clock(), bad, budget=None, every=1), 1)


def test_random_numbers_depend_on_seed_step_and_measure_alone():
    def drawn(every, seed, names):
        measures = [instrument(n, lambda rng, state: Estimate(rng.random(), 0.0)) for n in names]
        rows = train(Clock(), recorder(Clock(), *measures, budget=None, every=every, seed=seed), 6)
        steps.append([row["b"] for row in rows if row])
        return [rows[5][name] for name in names]

    steps = []
    assert drawn(1, 0, "ab") == drawn(6, 0, "ab")
    assert drawn(1, 0, "ab")[1] == drawn(1, 0, "b")[0]
    assert len({*drawn(1, 0, "ab"), *drawn(1, 1, "ab")}) == 4
    assert len(set(steps[0])) == 6


def test_the_readings_before_the_first_step_are_free_and_tell_what_the_next_cost():
    clock = Clock()
    compiling = instrument("compiling", costing(clock, [0.5] + 99 * [0.1]), planned=0.1)
    dear = instrument("dear", costing(clock, 10.0), planned=10.0)
    told = recorder(clock, compiling, dear, budget=0.1)
    told.start(objective())
    assert clock.now == 0.6  # what took longer than planned was taken twice, what is planned to take 10 s not at all
    assert (told.seconds, told.step_seconds) == (0.0, 0.0)
    rows = train(clock, told, 30)
    assert [r.step for r in told.run["compiling"]] == [0, *read_at(rows, "compiling")]
    assert read_at(rows, "compiling")[:3] == [3, 5, 7]  # half of 0.1 s a step each
    assert told.overhead <= 0.1


def test_before_the_first_step_only_what_has_no_meaning_is_reported():
    missing, calls = failing(NotApplicable("no classes"), planned=0.1)
    later = iter([ProbeError("no averages yet"), None])

    def take(rng, state):
        if error := next(later):
            raise error
        return Estimate(1.0, 0.0)

    told = recorder(Clock(), missing, instrument("later", take, planned=0.1), budget=None, every=1)
    with pytest.warns(RuntimeWarning, match="bad failed at step 0.*no classes") as caught:
        told.start(objective())
    assert len(caught) == 1
    assert read_at(train(Clock(), told, 1), "later") == [1]
    assert len(calls) == 2


def test_state_is_kept_between_readings():
    def take(rng, state):
        state["count"] = state.get("count", 0) + 1
        return Estimate(state["count"], 0.0)

    rows = train(Clock(), recorder(Clock(), instrument("m", take), budget=None, every=1), 3)
    assert [row["m"] for row in rows] == [1.0, 2.0, 3.0]


def test_a_row_is_flat_and_many_parts_are_summed_up_in_three():
    few = Estimate(np.array([1.0, 2.0]), np.array([0.1, 0.2]), names=("fc1", "fc2"))
    many = np.arange(MOST_NAMES + 1.0)
    lots = Estimate(many, 0.01 * many, names=tuple(map(str, range(len(many)))))
    measures = [instrument("few", lambda rng, state: few), instrument("lots", lambda rng, state: lots)]
    told = recorder(Clock(), *measures, budget=None, every=1)
    (row,) = train(Clock(), told, 1)
    assert row == {
        "step": 1.0,
        "few/fc1": 1.0,
        "few/fc1/bound": 0.1,
        "few/fc2": 2.0,
        "few/fc2/bound": 0.2,
        "lots/min": 0.0,
        "lots/min/bound": 0.32,
        "lots/median": 16.0,
        "lots/median/bound": 0.32,
        "lots/max": 32.0,
        "lots/max/bound": 0.32,
    }
    assert all(type(value) is float for value in row.values())


def test_the_trajectory_has_every_reading_and_nan_elsewhere():
    clock = Clock()
    estimates = iter([Estimate(math.nan, math.inf, converged=False, reason="in [0, 3]"), Estimate(2.0, 0.5)])
    pair = Estimate(np.array([1.0, 2.0]), np.array([0.1, 0.2]), names=("fc1", "fc2"))

    def rare(rng, state):
        if state.setdefault("calls", 0) > 1:
            raise ValueError("no more")
        state["calls"] += 1
        return next(estimates)

    measures = [instrument("rare", rare), instrument("pair", lambda rng, state: pair)]
    told = recorder(clock, *measures, budget=None, every=2, seed=7)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        train(clock, told, 6)
    data = told.trajectory()
    assert data["step"].values.tolist() == [2, 4, 6]
    assert data["rare"].dims == ("step",)
    np.testing.assert_array_equal(data["rare"], [math.nan, 2.0, math.nan])
    np.testing.assert_array_equal(data["rare_bound"], [math.inf, 0.5, math.nan])
    assert data["pair"].dims == ("step", "pair_part")
    assert data["pair"].sel(step=4, pair_part="fc2") == 2.0
    assert data["pair_bound"].sel(step=4, pair_part="fc1") == 0.1
    assert data.attrs["seed"] == 7
    assert data.attrs["gradbias_version"]
    assert data["pair"].attrs["definition"] == "The toy pair."
    assert data["rare"].attrs["failure"] == "step 6: ValueError: no more"


def test_large_arrays_in_the_details_do_not_outlive_a_reading():
    details = {"threshold": 2.0, "vectors": np.zeros(MOST_KEPT + 1), "grid": np.zeros(3), "graph": object()}
    made = dataclasses.replace(Estimate(1.0, 0.0), details=details)
    told = recorder(Clock(), instrument("m", lambda rng, state: made), budget=None, every=1)
    train(Clock(), told, 1)
    assert set(told.run["m"][0].estimate.details) == {"threshold", "grid"}


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"budget": None}, "every=100"),
        ({"budget": 0.0}, "share of the step time"),
        ({"budget": math.nan}, "share of the step time"),
        ({"every": 0}, "counts steps"),
    ],
)
def test_a_schedule_that_makes_no_sense_is_refused(options, words):
    with pytest.raises(UsageError, match=words):
        recorder(Clock(), instrument("m", lambda rng, state: Estimate(1.0, 0.0)), **options)


def test_nothing_to_measure_is_refused():
    with pytest.raises(UsageError, match="at least one"):
        recorder(Clock())
