"""Gradient flow against closed forms: every method, every clock, stiffness of 1e8 and times of exp(1e6)."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gradbias as gb
from cases import (
    AXES,
    KEY,
    axes,
    axes_flow,
    axes_log_time,
    axes_logistic_log_time,
    theta_of,
    without_type_checks,
)

METHODS = ["tsit5", "dopri8", "kvaerno3", "kvaerno5"]
STIFF = np.array([1e8, 1.0, 1e-3])
TIMES = np.array([0.01, 0.5, 1.0])


def quadratic(curvatures):
    """Curvatures 3λ/3 on the axes, minimum at (1, 2, 3), start at 0."""
    x = np.diag(np.sqrt(3 * np.asarray(curvatures)))
    return gb.Problem(gb.models.linear, gb.losses.square, x, x @ np.array([1.0, 2.0, 3.0]), np.zeros(3))


def solution(curvatures, t):
    return np.array([1.0, 2.0, 3.0]) * -np.expm1(-np.asarray(curvatures) * t)


@pytest.mark.parametrize("method", METHODS)
def test_flow_on_a_quadratic_is_its_exponential_solution_at_the_recorded_times(method):
    flow = gb.GradientFlow("time", method, rtol=1e-9)
    until = gb.Until(1.0, max_steps=10_000)
    for curvatures in [(5.0, 1.0, 0.1)] + ([STIFF] if method.startswith("kvaerno") else []):
        done = gb.evolve(quadratic(curvatures), flow, until=until, record=gb.Record(theta_of, TIMES), key=KEY)
        expected = np.array([solution(curvatures, t) for t in TIMES])
        np.testing.assert_allclose(done.recorded, expected, rtol=2e-7)
        np.testing.assert_array_equal(done.clock, TIMES)
        np.testing.assert_allclose(done.log_time, np.log(TIMES), atol=1e-12)
        assert np.linalg.norm(done.theta - expected[-1]) < float(done.integration_error)
        # An explicit method would need 1e8 steps of the stiff one.
        assert int(done.step) < (3000 if method == "kvaerno3" else 300)


@pytest.mark.parametrize(("method", "first_step"), [("tsit5", 3.0)])
def test_a_step_with_too_large_an_error_is_taken_back_and_the_next_one_is_shorter(method, first_step):
    problem, flow = quadratic((5.0, 1.0, 0.1)), gb.GradientFlow("time", method, first_step=first_step)
    start = jnp.asarray(problem.theta0)
    before = flow.init(problem, start)
    theta, after = jax.jit(lambda state: flow.step(problem, start, state, limit=jnp.asarray(9.0), key=KEY))(before)
    np.testing.assert_array_equal(theta, start)
    assert float(flow.clock(after)) == 0.0
    assert float(flow.log_time(after)) == -np.inf
    assert 0.1 * first_step < float(after.h) < first_step
    np.testing.assert_array_equal(flow.local_error(theta, after), 0.0)


def test_tighter_tolerances_give_smaller_errors_in_proportion():
    errors = []
    for rtol in (1e-4, 1e-6, 1e-8):
        flow = gb.GradientFlow("time", "tsit5", rtol=rtol, atol=rtol * 1e-2)
        done = gb.evolve(
            quadratic((5.0, 1.0, 0.1)), flow, until=gb.Until(1.0), record=gb.Record(theta_of, TIMES), key=KEY
        )
        errors.append(np.linalg.norm(done.theta - solution((5.0, 1.0, 0.1), 1.0)))
    slope = np.polyfit(np.log([1e-4, 1e-6, 1e-8]), np.log(errors), 1)[0]
    assert 0.6 < slope < 1.4


def test_a_single_example_of_exponential_loss_has_log_time_in_closed_form():
    # From zero x·w = log(1 + t‖x‖²), and the clock s = −log L gives x·w = ‖x‖² s.
    x = np.array([[3.0, 4.0]])
    one = gb.Problem(gb.models.linear, gb.losses.exponential, x, np.ones(1), np.zeros(2))
    at = np.array([1e-3, 1.0, 1e6 / 25])
    flow = gb.GradientFlow("log_risk", "tsit5", rtol=1e-9)
    done = gb.evolve(one, flow, until=gb.Until(at[-1]), record=gb.Record(theta_of, at), key=KEY)
    np.testing.assert_allclose(done.recorded, np.outer(at, x[0]), rtol=1e-10)
    expected = 25 * at + np.log(-np.expm1(-25 * at)) - np.log(25.0)
    np.testing.assert_allclose(done.log_time, expected, rtol=1e-9, atol=1e-8)
    assert float(done.log_time[-1]) == pytest.approx(1e6 - np.log(25.0), rel=1e-12)  # t = exp(1e6)


@pytest.mark.parametrize(
    ("clock", "method", "horizon"),
    [
        ("time", "tsit5", 100.0),
        ("log_risk", "dopri8", 15.0),
        ("log_risk", "kvaerno5", 15.0),
        ("log_norm", "tsit5", 4.0),
        ("log_norm", "kvaerno3", 4.0),
    ],
)
def test_every_clock_is_at_the_closed_form_of_its_own_log_time(clock, method, horizon):
    flow = gb.GradientFlow(clock, method, rtol=1e-8)
    record = gb.Record(theta_of, jnp.array([0.1, 0.5, 1.0]) * horizon)
    done = gb.evolve(axes(), flow, until=gb.Until(horizon), record=record, key=KEY)
    times = np.array([axes_log_time(w) for w in done.recorded])
    # One path whatever the clock: both coordinates are there at the same time.
    np.testing.assert_allclose(times[:, 0], times[:, 1], atol=1e-5)
    # log t is summed by a rule of second order; what is lost early in log_risk is forgotten as t grows.
    precision = {"time": 1e-6, "log_risk": 4e-3, "log_norm": 3e-2}[clock]
    np.testing.assert_allclose(times[:, 0], done.log_time, atol=precision)
    if clock != "log_norm":
        np.testing.assert_allclose(done.theta, axes_flow(float(done.log_time[-1])), atol=1e-6)


def coupled():
    """A separable logistic problem whose coordinates do not decouple."""
    x = np.array([[1.0, 0.2], [0.3, 1.5], [0.8, -0.4]])
    return gb.Problem(gb.models.linear, gb.losses.logistic, x, np.ones(3), np.array([0.1, -0.5]))


def test_the_three_clocks_trace_the_same_path_of_a_logistic_problem():
    def run(clock, at, rtol):
        flow = gb.GradientFlow(clock, "tsit5", rtol=rtol)
        return gb.evolve(coupled(), flow, until=gb.Until(at[-1]), record=gb.Record(theta_of, at), key=KEY)

    by_risk = run("log_risk", np.array([0.5, 2.0, 8.0]), 1e-10)
    by_time = run("time", np.exp(np.asarray(by_risk.log_time)), 1e-10)
    np.testing.assert_allclose(by_time.recorded, by_risk.recorded, rtol=2e-4)
    by_norm = run("log_norm", np.array([0.5, 1.0, 2.0]), 1e-10)
    at = np.exp(np.asarray(by_norm.log_time))
    np.testing.assert_allclose(run("time", at, 1e-10).recorded, by_norm.recorded, rtol=2e-3)


def test_the_logistic_flow_solves_its_implicit_equation_far_beyond_the_reach_of_time():
    flow = gb.GradientFlow("log_risk", "kvaerno5", rtol=1e-9)
    at = np.array([1.0, 100.0, 1e6])
    done = gb.evolve(axes(gb.losses.logistic), flow, until=gb.Until(1e6), record=gb.Record(theta_of, at), key=KEY)
    expected = np.array([axes_logistic_log_time(w) for w in done.recorded])
    np.testing.assert_allclose(expected[:, 0], expected[:, 1], rtol=1e-7)
    np.testing.assert_allclose(expected[:, 0], done.log_time, rtol=1e-9, atol=1e-4)
    assert float(done.log_time[-1]) > 7e5
    direction = np.asarray(done.theta) / np.linalg.norm(done.theta)
    np.testing.assert_allclose(direction, (1 / AXES) / np.linalg.norm(1 / AXES), atol=1e-5)


def test_the_log_norm_clock_advances_by_the_logarithm_of_the_norm_of_a_network():
    x, y = np.diag(AXES), np.ones(2)
    net = gb.Problem(gb.models.diagonal, gb.losses.logistic, x, y, (np.full(2, 0.5), np.full(2, 0.4)))
    at = jnp.array([4.0, 5.0, 6.0])
    flow = gb.GradientFlow("log_norm", "tsit5", rtol=1e-6)
    done = gb.evolve(net, flow, until=gb.Until(6.0), record=gb.Record(theta_of, at), key=KEY)
    lengths = np.linalg.norm(np.concatenate(done.recorded, axis=1), axis=1)
    np.testing.assert_allclose(np.diff(np.log(lengths)), 1.0, atol=2e-2)


def test_the_log_norm_clock_refuses_to_start_at_zero():
    base = axes()
    at_zero = gb.Problem(base.predict, base.loss, base.x, base.y, np.zeros(2))
    with pytest.raises(Exception, match="no meaning at θ = 0"):
        gb.evolve(at_zero, gb.GradientFlow("log_norm"), until=gb.Until(1.0), key=KEY)


@pytest.mark.parametrize("clock", ["log_risk", "log_norm"])
def test_the_clocks_of_classification_refuse_to_start_at_a_saddle(clock):
    start = jnp.array([[1.0, 2.0], [0.0, 0.0], [0.0, 0.0]])
    saddle = gb.Problem(gb.models.diagonal_product, gb.losses.exponential, jnp.eye(2), jnp.array([1.0, 1.0]), start)
    with pytest.raises(Exception, match="The start is a stationary point"):
        gb.evolve(saddle, gb.GradientFlow(clock), until=gb.Until(1.0), key=KEY)


def cubed(w, x):
    return w**3 / 3 * x


def root(w, x):
    return jnp.sqrt(w) * x


def minus_output(f, y):
    return -jnp.sum(f) + 0.0 * y


def plus_output(f, y):
    return jnp.sum(f) + 0.0 * y


def test_a_flow_that_blows_up_in_finite_time_ends_as_diverged_near_that_time():
    # ẇ = w² from 1 is infinite at t = 1.
    problem = gb.Problem(cubed, minus_output, np.ones((1, 1)), np.ones(1), np.ones(1))
    done = gb.evolve(problem, gb.GradientFlow(rtol=1e-6), until=gb.Until(2.0, max_steps=20_000), key=KEY)
    assert float(done.clock[-1]) == pytest.approx(1.0, abs=1e-4)
    assert np.isfinite(done.theta).all()
    assert not bool(done.converged)


def test_a_flow_into_where_its_slope_is_not_finite_ends_as_diverged_and_not_in_endless_retries():
    # ẇ = −1/(2√w) from 1 reaches zero at t = 2/3·2 = 4/3, where √ has no slope.
    problem = gb.Problem(root, plus_output, np.ones((1, 1)), np.ones(1), np.ones(1))
    done = gb.evolve(problem, gb.GradientFlow(rtol=1e-6), until=gb.Until(2.0, max_steps=20_000), key=KEY)
    assert done.why().startswith("diverged")
    assert float(done.clock[-1]) == pytest.approx(4 / 3, abs=1e-4)
    assert int(done.step) < 5000


@pytest.mark.parametrize("kind", ["clock_kind", "method"])
def test_an_unknown_clock_or_method_is_refused_with_the_known_ones(kind):
    known = {"clock_kind": "time, log_risk, log_norm", "method": "tsit5, dopri8, kvaerno3, kvaerno5"}[kind]
    with without_type_checks(), pytest.raises(ValueError, match=f"Unknown {kind} 'rk4'; choose from {known}"):
        gb.GradientFlow(**{kind: "rk4"})


def test_a_flow_of_parameters_below_double_precision_is_refused_in_words():
    base = axes()
    parts = (a.astype(np.float32) for a in (base.x, base.y, base.theta0))
    single = gb.Problem(base.predict, base.loss, *parts)
    with pytest.raises(ValueError, match=r"integrated in float64, its tolerances are below what float32 resolves"):
        gb.evolve(single, gb.GradientFlow(), until=gb.Until(1.0), key=KEY)


def test_lanes_of_an_implicit_flow_take_the_steps_they_take_alone_and_no_more():
    evaluations = []

    def flow(curvature, end, scale):
        def predict(theta, x):  # closes over a lane's own number
            jax.debug.callback(lambda _: evaluations.append(1), theta)
            return jnp.reshape(scale * jnp.dot(x, theta), (-1,))

        x = jnp.diag(jnp.array([curvature, 1.0, 1e-3]))
        problem = gb.Problem(predict, gb.losses.square, x, x @ jnp.array([1.0, 2.0, 3.0]), np.zeros(3))
        made = gb.GradientFlow("time", "kvaerno5", rtol=1e-9)
        done = gb.evolve(problem, made, until=gb.Until(end, max_steps=10_000), key=KEY)
        return done.theta, done.step

    def counted(call, *arguments):
        evaluations.clear()
        found = jax.block_until_ready(jax.jit(call)(*arguments))
        jax.effects_barrier()
        return found, len(evaluations)

    curvatures, scales, end = jnp.array([1.0, 1e4]), jnp.array([0.5, 2.0, 3.0]), 5.0
    lanes = jax.vmap(jax.vmap(flow, (None, None, 0)), (0, None, None))
    (theta, step), together = counted(lanes, curvatures, end, scales)
    alone = [[counted(flow, curvature, end, scale) for scale in scales] for curvature in curvatures]
    np.testing.assert_array_equal(step, [[found[1] for found, _ in row] for row in alone])
    assert len(np.unique(step)) > 2
    np.testing.assert_allclose(theta, [[found[0] for found, _ in row] for row in alone], rtol=1e-14)
    assert together == sum(count for row in alone for _, count in row)
