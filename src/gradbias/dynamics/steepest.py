r"""Steepest descent with respect to a norm, with decreasing steps on the direction alone.

$w_{k+1} = w_k + \eta_k \Delta_k$, $\Delta_k = \arg\max_{\|\Delta\| \le 1} \langle \Delta, -\nabla L(w_k) \rangle$. The
direction is computed from $\nabla \log L$, which is parallel to $\nabla L$ and does not underflow.
"""

from typing import Literal

import equinox as eqx
import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Float, PRNGKeyArray, PyTree

from ..problem import Problem
from .base import AbstractDynamics
from .descent import Count


class SteepestDescent(AbstractDynamics[Count]):
    r"""Normalized steepest descent, $\eta_k = $ `rate` $\cdot (k+1)^{-\text{power}}$.

    `norm="l2"` is normalized gradient descent, `"linf"` sign descent, `"l1"` greedy coordinate descent.
    [@gunasekar2018characterizing]
    """

    rate: Float[Array, ""] | float
    norm: Literal["l1", "l2", "linf"] = eqx.field(static=True, default="l2")
    power: Float[Array, ""] | float = 0.5

    def init(self, problem: Problem, theta: PyTree) -> Count:
        """No steps yet."""
        del problem, theta
        return Count(jnp.asarray(0.0))

    def step(
        self, problem: Problem, theta: PyTree, state: Count, *, limit: Float[Array, ""], key: PRNGKeyArray
    ) -> tuple[PyTree, Count]:
        """One step along the steepest direction."""
        del limit, key
        g, unravel = ravel_pytree(jax.grad(problem.log_risk)(theta))
        if self.norm == "l2":
            direction = g / jnp.linalg.norm(g)
        elif self.norm == "linf":
            direction = jnp.sign(g)
        else:
            j = jnp.argmax(jnp.abs(g))
            direction = jnp.zeros_like(g).at[j].set(jnp.sign(g[j]))
        size = self.rate * (state.steps + 1.0) ** -self.power
        return jax.tree.map(lambda p, d: p - size * d, theta, unravel(direction)), Count(state.steps + 1.0)

    def clock(self, state: Count) -> Float[Array, ""]:
        """Steps."""
        return state.steps

    def log_time(self, state: Count) -> Float[Array, ""]:
        """log of the path length so far, approximately rate · k^(1-power) / (1-power)."""
        return jnp.log(self.rate / (1 - self.power)) + (1 - self.power) * jnp.log(state.steps)

    def local_error(self, theta: PyTree, state: Count) -> None:
        """Exact recursion."""
        del theta, state
