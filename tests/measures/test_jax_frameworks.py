"""Measures on Equinox and Flax models equal those on the same function in plain JAX."""

import functools

import equinox as eqx
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gradbias import Problem, losses
from gradbias.measures.catalogue import take_all
from gradbias.measures.jax_objective import JaxObjective

N, D, M, K = 12, 5, 8, 3


def plain(theta, x):
    a, b, c, d = theta
    return c @ jnp.tanh(a @ x + b) + d


def draw(*shape):
    return jnp.asarray(np.random.default_rng(list(shape)).normal(size=shape))


WEIGHTS = (draw(M, D), draw(M), draw(K, M), draw(K))
X, Y = draw(N, D), np.arange(N) % K


@functools.cache
def plain_objective():
    return JaxObjective(Problem(plain, losses.cross_entropy, X, Y, WEIGHTS), WEIGHTS)


def tensors(model):
    return [model.layers[0].weight, model.layers[0].bias, model.layers[1].weight, model.layers[1].bias]


@functools.cache
def equinox_objective():
    model = eqx.nn.MLP(D, K, M, depth=1, activation=jnp.tanh, key=jax.random.key(0))
    model = eqx.tree_at(tensors, model, list(WEIGHTS))
    theta, static = eqx.partition(model, eqx.is_inexact_array)

    def predict(theta, x):
        return eqx.combine(theta, static)(x)

    return JaxObjective(Problem(predict, losses.cross_entropy, X, Y, theta), theta)


class Dense(nn.Module):
    @nn.compact
    def __call__(self, x):
        x = nn.Dense(M, param_dtype=jnp.float64)(x)
        return nn.Dense(K, param_dtype=jnp.float64)(jnp.tanh(x))


@functools.cache
def flax_objective():
    model = Dense()
    theta = model.init(jax.random.key(0), X[0])
    a, b, c, d = WEIGHTS
    ours = {"params": {"Dense_0": {"kernel": a.T, "bias": b}, "Dense_1": {"kernel": c.T, "bias": d}}}
    assert jax.tree.map(jnp.shape, ours) == jax.tree.map(jnp.shape, theta)
    return JaxObjective(Problem(model.apply, losses.cross_entropy, X, Y, ours), ours)


FRAMEWORKS = {"equinox": equinox_objective, "flax": flax_objective}


@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_a_framework_gives_the_numbers_of_the_same_function_in_plain_jax(framework):
    theirs, ours = FRAMEWORKS[framework](), plain_objective()
    assert theirs.size == ours.size
    np.testing.assert_allclose(theirs.risk(), ours.risk(), rtol=1e-12)
    np.testing.assert_allclose(theirs.outputs(), ours.outputs(), rtol=1e-10)
    np.testing.assert_allclose(np.linalg.norm(theirs.gradient()), np.linalg.norm(ours.gradient()), rtol=1e-10)
    np.testing.assert_allclose(theirs.ntk(), ours.ntk(), rtol=1e-9)
    spectra = []
    for objective in (theirs, ours):
        operator = objective.hessian()
        spectra.append(np.linalg.eigvalsh(np.stack([operator(row) for row in np.eye(objective.size)])))
    np.testing.assert_allclose(*spectra, rtol=0, atol=1e-10 * np.abs(spectra[0]).max())
    norms = [
        np.linalg.norm(np.concatenate(list(objective.per_example_gradients("margin"))), axis=1)
        for objective in (theirs, ours)
    ]
    np.testing.assert_allclose(*norms, rtol=1e-10)


@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_measures_of_a_framework_are_those_of_plain_jax(framework):
    names = ["ntk_spectrum", "ntk_alignment", "ntk_drift", "laziness"]
    told = []
    for objective in (FRAMEWORKS[framework](), plain_objective()):
        initial = objective.at(0.9 * objective.parameters())
        told.append(take_all(names, objective.with_settings(initial=initial)))
    for name in names:
        value, bound = told[0][name].value, np.asarray(told[0][name].bound) + told[1][name].bound
        assert np.all(np.abs(value - told[1][name].value) <= bound)
        np.testing.assert_allclose(value, told[1][name].value, rtol=1e-9)


@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_weights_of_a_framework_are_named_as_there(framework):
    blocks = list(FRAMEWORKS[framework]().blocks)
    expected = {
        "equinox": ["layers.0.weight", "layers.0.bias", "layers.1.weight", "layers.1.bias"],
        "flax": ["params.Dense_0.bias", "params.Dense_0.kernel", "params.Dense_1.bias", "params.Dense_1.kernel"],
    }
    assert blocks == expected[framework]
