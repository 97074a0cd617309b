"""Measures of JAX models, once and along somebody's own loop."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gradbias as gb
from gradbias.errors import NotApplicable, ProbeError, UsageError
from gradbias.measures.objective import OptimizerGeometry

RNG = np.random.default_rng(0)
X, Y = jnp.asarray(RNG.normal(size=(20, 4))), jnp.asarray(RNG.integers(0, 3, 20))
THETA = {"a": jnp.asarray(RNG.normal(size=(6, 4))), "b": jnp.asarray(RNG.normal(size=(3, 6)))}


def predict(theta, x):
    return theta["b"] @ jnp.tanh(theta["a"] @ x)


def features(theta, x):
    return {"a": x, "b": jnp.tanh(theta["a"] @ x)}


PROBLEM = gb.Problem(predict, gb.losses.cross_entropy, X, Y, THETA)


@jax.jit
def descend(theta):
    return jax.tree.map(lambda t, g: t - 0.5 * g, theta, jax.grad(PROBLEM.risk)(theta))


def test_one_shot_numbers_are_those_of_the_model():
    told = gb.measure(PROBLEM, THETA, ["margin", "weight_norm", "effective_rank"])
    outputs = np.array(PROBLEM.outputs(THETA))
    right = outputs[np.arange(20), Y]
    outputs[np.arange(20), Y] = -np.inf
    assert float(told["margin"]) == pytest.approx(float((right - outputs.max(1)).min()))
    flat = np.concatenate([np.ravel(t) for t in jax.tree.leaves(THETA)])
    assert told["weight_norm"]["total"] == pytest.approx(np.linalg.norm(flat))
    assert told["effective_rank"]["a"] == pytest.approx(float(gb.measures.effective_rank(THETA["a"])))
    assert isinstance(told["margin"], gb.Estimate)


def test_what_goes_with_a_measure_reaches_it():
    geometry = OptimizerGeometry("GD", 4.0)
    told = gb.measure(PROBLEM, THETA, "preconditioned_sharpness", geometry=geometry)["preconditioned_sharpness"]
    assert told.details["threshold"] == 4.0
    with pytest.raises(NotApplicable):
        gb.measure(PROBLEM, THETA, "preconditioned_sharpness")


def test_a_foreign_loop_gets_rows_of_floats_and_a_trajectory_from_the_start():
    probe = gb.Probe(PROBLEM, ["margin", "cka_to_init"], features=features, budget=None, every=5)
    theta, rows = THETA, []
    for _ in range(10):
        theta = descend(theta)
        rows.append(probe.step(theta))
    assert [row is not None for row in rows] == [n % 5 == 0 for n in range(1, 11)]
    assert all(type(value) is float for value in rows[-1].values())
    assert rows[-1]["margin"] == float(gb.measure(PROBLEM, theta, ["margin"])["margin"])
    found = probe.trajectory()
    assert found["step"].values.tolist() == [0, 5, 10]
    assert float(found["cka_to_init"].sel(step=0, cka_to_init_part="b")) == pytest.approx(1.0, abs=1e-6)
    assert float(found["cka_to_init"].sel(step=10, cka_to_init_part="b")) < 0.9999
    assert "predict, 42 parameters" in probe.summary()


def test_drift_is_from_the_weights_given():
    other = jax.tree.map(lambda t: t + 1.0, THETA)
    told = gb.measure(PROBLEM, THETA, ["cka_to_init"], features=features, initial=other)["cka_to_init"]
    assert told["b"] < 0.99
    same = gb.measure(PROBLEM, THETA, ["cka_to_init"], features=features, initial=THETA)["cka_to_init"]
    assert same["b"] == pytest.approx(1.0, abs=1e-6)


def test_the_start_is_a_copy_that_donated_buffers_do_not_take_away():
    theta = jax.tree.map(jnp.array, THETA)
    problem = gb.Problem(predict, gb.losses.cross_entropy, X, Y, theta)
    probe = gb.Probe(problem, ["cka_to_init"], features=features, budget=None, every=1)
    for leaf in jax.tree.leaves(theta):
        leaf.delete()
    assert probe.step(THETA)["cka_to_init/b"] == pytest.approx(1.0, abs=1e-6)


def test_the_page_has_the_questions(tmp_path):
    probe = gb.Probe(PROBLEM, ["margin"], budget=None, every=1)
    probe.step(THETA)
    assert "Is every probe example classified as labelled?" in probe.report(tmp_path / "run.html").read_text()


@pytest.mark.parametrize(
    ("theta", "options", "error", "words"),
    [
        (THETA, {"measures": ["margins"]}, UsageError, "Did you mean"),
        (jax.tree.map(lambda t: t * jnp.nan, THETA), {}, ProbeError, "risk at these weights is nan"),
        (THETA, {"initial": {"a": THETA["a"]}}, ProbeError, "same structure"),
        (THETA, {"initial": {"a": THETA["b"], "b": THETA["b"]}}, ProbeError, "same structure and shapes"),
    ],
)
def test_what_cannot_be_measured_is_said(theta, options, error, words):
    given = {"measures": ["margin"], **options}
    with pytest.raises(error, match=words):
        gb.measure(PROBLEM, theta, given.pop("measures"), **given)
