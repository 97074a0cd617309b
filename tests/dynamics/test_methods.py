"""Single Runge–Kutta steps: their order against exact solutions, their error estimates, and stiff behaviour."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.linalg

from cases import without_type_checks
from gradbias.dynamics.flow import Step, explicit_step, implicit_step, tableau

METHODS = {"tsit5": 5, "dopri8": 8, "kvaerno3": 3, "kvaerno5": 5}
EMBEDDED = {"tsit5": 4, "dopri8": 7.6, "kvaerno3": 2, "kvaerno5": 4}
# Where the leading term dominates and rounding does not, as powers of ten of the step: linear, logistic.
SIZES = {
    "tsit5": [(-1.7, -1.0), (-1.6, -1.0)],
    "dopri8": [(-0.25, 0.15), (-0.45, 0.0)],
    "kvaerno3": [(-2.5, -1.5), (-2.0, -1.2)],
    "kvaerno5": [(-1.6, -0.8), (-1.4, -0.8)],
}
MATRIX = np.random.default_rng(0).normal(size=(3, 3))
MATRIX /= np.linalg.norm(MATRIX, 2)
START = np.array([10.0, -20.0, 5.0, 0.2, 0.5, 0.9])


def field(z):
    """A linear system beside three logistic equations."""
    return jnp.concatenate([jnp.asarray(MATRIX) @ z[:3], z[3:] * (1 - z[3:])])


def exact(h):
    return np.concatenate([scipy.linalg.expm(h * MATRIX) @ START[:3], 1 / (1 + (1 / START[3:] - 1) * np.exp(-h))])


def single_steps(method, field, start, sizes):
    t = tableau(method)

    def step(h):
        y = jnp.asarray(start)
        if t.diagonal.any():
            return implicit_step(field, y, h, t, slope=field(y), scale=1e-12 + 1e-13 * jnp.abs(y))
        return explicit_step(field, y, h, t)

    return jax.jit(jax.vmap(step))(jnp.asarray(sizes))


class Measured(NamedTuple):
    method: str
    sizes: np.ndarray  # 6 for the linear part, 6 for the logistic
    steps: Step
    truth: np.ndarray


@pytest.fixture(scope="module", params=METHODS)
def measured(request):
    sizes = np.concatenate([np.logspace(*ends, 6) for ends in SIZES[request.param]])
    steps = single_steps(request.param, field, START, sizes)
    return Measured(request.param, sizes, steps, np.array([exact(h) for h in sizes]))


PARTS = {"linear": (slice(0, 6), slice(0, 3)), "logistic": (slice(6, 12), slice(3, 6))}


def order(sizes, errors):
    return np.polyfit(np.log(sizes), np.log(errors), 1)[0]


@pytest.mark.parametrize("part", PARTS)
def test_one_step_has_the_order_of_the_method_and_estimates_more_than_its_error(measured, part):
    rows, columns = PARTS[part]
    sizes = measured.sizes[rows]
    errors = np.linalg.norm((np.asarray(measured.steps.y) - measured.truth)[rows, columns], axis=1)
    estimates = np.linalg.norm(np.asarray(measured.steps.error)[rows, columns], axis=1)
    # Dopri8 meets the order conditions of linear equations once more than those of all.
    superconvergent = measured.method == "dopri8" and part == "linear"
    assert order(sizes, errors) == pytest.approx(METHODS[measured.method] + 1 + superconvergent, abs=0.3)
    assert order(sizes, estimates) == pytest.approx(EMBEDDED[measured.method] + 1, abs=0.3)
    assert np.all(estimates > errors)


def test_the_slope_handed_to_the_next_step_is_the_field_at_its_end(measured):
    np.testing.assert_allclose(measured.steps.slope, jax.vmap(field)(measured.steps.y), rtol=1e-9, atol=1e-11)
    assert measured.steps.solved.all()


@pytest.mark.parametrize("method", METHODS)
def test_tableaux_are_consistent_and_their_last_stage_is_the_new_point(method):
    t = tableau(method)
    a = t.a + np.diag(t.diagonal)
    nodes = a.sum(axis=1)
    assert t.b.sum() == pytest.approx(1.0, abs=1e-14)
    assert t.e.sum() == pytest.approx(0.0, abs=1e-14)
    assert t.order == METHODS[method]
    np.testing.assert_allclose(a[-1], t.b, atol=1e-14)  # first-same-as-last
    for q in range(1, METHODS[method]):
        assert t.b @ nodes**q == pytest.approx(1 / (q + 1), abs=1e-13)


@pytest.mark.parametrize("method", ["kvaerno3", "kvaerno5"])
def test_implicit_methods_damp_what_is_infinitely_stiff_in_one_step(method):
    steps = single_steps(method, lambda z: -1e10 * z, np.array([1.0]), [1.0])
    assert abs(float(steps.y[0, 0])) < 1e-8
    assert abs(float(steps.error[0, 0])) < 1e-8  # filtered: unfiltered it would be of order 1e10


def test_a_stiff_stage_takes_its_slope_from_the_solved_equation():
    # Newton's iteration ends within 1% of `scale`; f at its last iterate would amplify what is left by the stiffness.
    def field(z):
        return jnp.stack([-1e8 * (1 + z[1] ** 2) * (z[0] - jnp.cos(z[1])), jnp.ones(())])

    def step(scale):
        slope = jnp.array([-jnp.sin(1.0), 1.0])  # that of the slow solution z = (cos s, s), up to 1e-8
        y = jnp.array([jnp.cos(1.0), 1.0])
        return implicit_step(field, y, jnp.asarray(0.2), tableau("kvaerno5"), slope=slope, scale=jnp.full(2, scale))

    loose = jax.jit(step)(1e-3)
    assert bool(loose.solved)
    np.testing.assert_allclose(loose.y, [np.cos(1.2), 1.2], atol=1e-5)
    np.testing.assert_allclose(loose.slope, [-np.sin(1.2), 1.0], atol=1e-2)


def test_a_stage_that_newton_cannot_solve_is_reported():
    # y' = y³ from 1 has left every finite value by t = 1/2.
    t, y = tableau("kvaerno3"), jnp.array([1.0])
    step = jax.jit(lambda h: implicit_step(lambda z: z**3, y, h, t, slope=y**3, scale=jnp.full(1, 1e-8)))
    assert not bool(step(5.0).solved)
    assert bool(step(1e-3).solved)


def test_an_unknown_method_is_refused_with_the_known_ones():
    with without_type_checks(), pytest.raises(ValueError, match="'rk4'; choose from tsit5, dopri8, kvaerno3, kvaerno5"):
        tableau("rk4")
