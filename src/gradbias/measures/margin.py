"""Margins of classifiers."""

from typing import Literal

import jax.numpy as jnp
from jaxtyping import Array, Float

from ..problem import Problem

ORDERS = {"l1": 1, "l2": 2, "linf": jnp.inf}


def normalized_margin(
    problem: Problem, w: Float[Array, " d"], norm: Literal["l1", "l2", "linf"] = "l2"
) -> Float[Array, ""]:
    r"""$\min_i y_i f(w, x_i) / \|w\|$ of a model with one output that is linear in `w`, labels ±1.

    >>> from gradbias import losses, models
    >>> problem = Problem(models.linear, losses.logistic, jnp.array([[3.0, 4.0]]), jnp.array([1.0]), jnp.zeros(2))
    >>> float(normalized_margin(problem, jnp.array([3.0, 4.0])))
    5.0
    """
    return jnp.min(problem.outputs(w)[:, 0] * problem.y) / jnp.linalg.norm(w, ORDERS[norm])
