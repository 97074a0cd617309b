r"""Gradient flow on balanced deep matrix factorizations, with singular values as logarithms."""

import equinox as eqx
import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Float, PRNGKeyArray

from ..models.gram import EndToEnd, SingularFactor, singular_product
from ..problem import Problem
from .base import require_choice
from .flow import AbstractFlow, FlowState, Method, norm_with_slope


class BalancedFlow(AbstractFlow[FlowState]):
    r"""The path of $W = W_N \cdots W_1$ under gradient flow from balanced layers, θ a `SingularFactor` of W.

    With $G = \partial L/\partial W$ and $g = U^\top G V$,
    $$\dot\rho_r = -N e^{(1 - 2/N)\rho_r} g_{rr}, \quad \dot U = -U (F \odot [gS + Sg^\top]), \quad
      \dot V = -V (F \odot [Sg + g^\top S]),$$
    $S = \mathrm{diag}(e^\rho)$, $F_{rs} = (e^{2\rho_s/N} - e^{2\rho_r/N})^{-1}$ off the diagonal, 0 on it; a multiple
    of $U^\top U - I$ draws U back to orthogonal matrices, and V likewise. Balance and the sign of $\det W$ hold by
    construction: a singular value of e^-77,000 stays positive, where in the layers one rounding of imbalance would
    outgrow it and change its sign. Choose layers to see whether balance holds. `problem.predict` must take an
    `EndToEnd` and a `SingularFactor` (see `gradbias.models.singular_entry`). Singular values that are equal at the
    start have no vectors: the slope is NaN and the run ends as diverged. [@arora2019implicit, Theorem 3 and Lemma 2;
    numbers not checked]
    """

    depth: int = eqx.field(static=True)  # type: ignore[misc]  # abstract fields have no place yet
    method: Method = eqx.field(static=True, default="kvaerno5")
    rtol: Float[Array, ""] | float = 1e-8
    atol: Float[Array, ""] | float = 1e-10
    first_step: Float[Array, ""] | float = 1e-3

    def __check_init__(self) -> None:
        require_choice("method", self.method, Method)
        if self.depth < 2:
            raise ValueError(
                f"depth must be at least 2 (with one layer there is nothing to balance); got {self.depth}."
            )

    def init(self, problem: Problem, theta: SingularFactor) -> FlowState:
        """The slope at the start, and time zero; raises where θ is no `SingularFactor`, or not float64."""
        if not isinstance(theta, SingularFactor) or theta.u.dtype != jnp.float64:
            raise ValueError(
                f"BalancedFlow moves a SingularFactor of float64 arrays; got {type(theta).__name__}. Start from "
                f"SingularFactor(u, log s, v) of a singular value decomposition W = U diag(s) Vᵀ."
            )
        return self._integrator().init(self._slope(problem, theta), jnp.zeros(()))

    def _slope(self, problem: Problem, theta: SingularFactor) -> Float[Array, " p"]:
        u, rho, v = theta
        gradient = jax.grad(lambda w: problem.risk(EndToEnd(w)))(singular_product(theta))
        g, s = u.T @ gradient @ v, jnp.exp(rho)
        power = jnp.exp(2.0 * rho / self.depth)
        diagonal = jnp.eye(len(rho)) > 0
        f = jnp.where(diagonal, 0.0, 1.0 / jnp.where(diagonal, 1.0, power[None, :] - power[:, None]))
        growth = -self.depth * jnp.exp((1.0 - 2.0 / self.depth) * rho) * jnp.diag(g)
        turn_u = f * (g * s[None, :] + s[:, None] * g.T)
        turn_v = f * (s[:, None] * g + g.T * s[None, :])
        back = 0.5 * norm_with_slope(g)
        eye = jnp.eye(len(rho))
        moved = SingularFactor(-u @ (turn_u + back * (u.T @ u - eye)), growth, -v @ (turn_v + back * (v.T @ v - eye)))
        return ravel_pytree(moved)[0]

    def step(
        self, problem: Problem, theta: SingularFactor, state: FlowState, *, limit: Float[Array, ""], key: PRNGKeyArray
    ) -> tuple[SingularFactor, FlowState]:
        """One trial step of the integrator."""
        del key
        y, unravel = ravel_pytree(theta)
        y, state = self._integrator().step(
            lambda z: self._slope(problem, unravel(z)), y, state, limit=limit, log_speed=lambda z: jnp.zeros(())
        )
        return unravel(y), state

    def clock(self, state: FlowState) -> Float[Array, ""]:
        """Time."""
        return state.clock

    def log_time(self, state: FlowState) -> Float[Array, ""]:
        """log t."""
        return state.log_time

    def local_error(self, theta: SingularFactor, state: FlowState) -> SingularFactor:
        """The embedded estimate of the last accepted step."""
        return ravel_pytree(theta)[1](state.error)
