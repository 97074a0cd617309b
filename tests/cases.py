"""Problems whose training is known in closed form, shared by all tests so that each is compiled once."""

from contextlib import contextmanager

import jax.numpy as jnp
import jax.random as jr
import numpy as np
from hypothesis import settings
from jaxtyping import config

import gradbias as gb

KEY = jr.key(0)
PROPERTY = settings(derandomize=True, deadline=None, max_examples=60)


@contextmanager
def without_type_checks():
    """As for users who install no type checker: what is refused is refused by the package, in its own words."""
    before = config.jaxtyping_disable
    config.update("jaxtyping_disable", True)
    try:
        yield
    finally:
        config.update("jaxtyping_disable", before)


def theta_of(problem, theta):
    """A measure: the parameters themselves."""
    del problem
    return theta


def size_of(problem, theta):
    """A criterion: the distance of the parameters to zero."""
    del problem
    return jnp.linalg.norm(theta)


def least_squares(n=4, d=3):
    """Linear least squares with a generic design and a start away from zero."""
    rng = np.random.default_rng(1)
    x, y, start = rng.normal(size=(n, d)), rng.normal(size=n), rng.normal(size=d)
    return gb.Problem(gb.models.linear, gb.losses.square, x, y, start)


def least_squares_iterate(problem, rate, k):
    """θ_k = w* + (I − ηH)^k (θ_0 − w*) of gradient descent, H the Hessian."""
    x, y, start = (np.asarray(a) for a in (problem.x, problem.y, problem.theta0))
    hessian, best = x.T @ x / len(y), np.linalg.lstsq(x, y)[0]
    return best + np.linalg.matrix_power(np.eye(len(start)) - rate * hessian, k) @ (start - best)


def bowl(curvature=1.0, start=1.0):
    r"""$L(w) = \tfrac{\lambda}{2} w^2$ in one dimension."""
    x = np.full((1, 1), np.sqrt(curvature))
    return gb.Problem(gb.models.linear, gb.losses.square, x, np.zeros(1), np.full(1, start))


AXES = np.array([1.0, 2.0])
AXES_START = np.array([0.3, -0.2])


def axes(loss=gb.losses.exponential):
    """One example on each axis, a_i e_i: the coordinates decouple, and the largest margin is that of (1/a_1, 1/a_2)."""
    return gb.Problem(gb.models.linear, loss, np.diag(AXES), np.ones(2), AXES_START)


def axes_flow(log_t):
    """Gradient flow of the exponential loss on `axes`, at any log t."""
    return np.logaddexp(AXES * AXES_START, log_t + np.log(AXES**2 / 2)) / AXES


def axes_log_time(w):
    """The log t at which the flow of the exponential loss on `axes` passes through w: one value per coordinate."""
    z, z0 = AXES * np.asarray(w), AXES * AXES_START
    return z + np.log(-np.expm1(z0 - z)) - np.log(AXES**2 / 2)


def axes_logistic_log_time(w):
    """The same for the logistic loss, from a w + exp(a w) = a w_0 + exp(a w_0) + a² t / 2."""
    z, z0 = AXES * np.asarray(w), AXES * AXES_START
    return z + np.log1p((z - z0 - np.exp(z0)) * np.exp(-z)) - np.log(AXES**2 / 2)


def interpolation(model, start):
    """Three examples, five features, square loss, in a model that can fit any targets."""
    rng = np.random.default_rng(3)
    x, y = rng.normal(size=(3, 5)), rng.normal(size=3)
    return gb.Problem(model, gb.losses.square, x, y, start)


def network_start(*shapes):
    """Gaussian layers of scale 0.3."""
    rng = np.random.default_rng(4)
    return tuple(0.3 * rng.normal(size=shape) for shape in shapes)
