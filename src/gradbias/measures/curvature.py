"""Curvature of the risk."""

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Float, PyTree

from ..problem import Problem


def sharpness(problem: Problem, theta: PyTree) -> Float[Array, ""]:
    r"""$\lambda_{\max}(\nabla^2 L(\theta))$ from the dense Hessian: exact, for up to a few thousand parameters.

    >>> from gradbias import Problem, losses, models
    >>> problem = Problem(models.linear, losses.square, jnp.array([[3.0]]), jnp.array([0.0]), jnp.zeros(1))
    >>> float(sharpness(problem, problem.theta0))
    9.0
    """
    flat, unravel = ravel_pytree(theta)
    return jnp.linalg.eigvalsh(jax.hessian(lambda z: problem.risk(unravel(z)))(flat))[-1]
