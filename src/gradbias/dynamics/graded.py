r"""Gradient flow on $L(UU^\top)$ from starts of any smallness, from saddle to saddle.

From $U(0) = \epsilon G$ the singular values of U grow one after the other, at rates of order one, over times of order
$\log 1/\epsilon$: between them U is some $e^{-50}$ to $e^{-10000}$ in all but a few directions, where float64 keeps
nothing of it. In the coordinates used here the equations lose nothing, and a waiting time is a few long steps.
"""

import equinox as eqx
import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Float, PRNGKeyArray

from ..models.gram import EndToEnd, GradedFactor, gram_product
from ..problem import Problem
from .base import require_choice
from .flow import AbstractFlow, FlowState, Method, norm_with_slope
from .limits import SAFETY, residuals

# A singular value of U below e^-QUIET moves W by less than e^-2·QUIET: until then its growth rate hardly changes.
QUIET = 4.0


class GradedFlow(AbstractFlow[FlowState]):
    r"""$\dot U = -\nabla_U L(UU^\top) = NU$, $N = -(G + G^\top)$, $G = \partial L/\partial W$, with U a `GradedFactor`.

    $U = Q e^{\rho} R$ moves by continuous QR decomposition. For any upper triangular T,
    $$\dot Q = NQ - QT, \quad \dot\rho = \mathrm{diag}\,T, \quad
      \dot R = (e^{-\rho}\, T e^{\rho} - \mathrm{diag}\,T) R$$
    leaves U on its path. The T with $T + T^\top = 2 Q^\top N Q$ keeps Q orthonormal; a correction in $E = Q^\top Q - I$
    makes $\dot E = -\|N\| E$ to first order where rounding or the integrator made it drift. Nothing is linearized: at
    ε = e^-10⁴ and at ε = 1 the equations are those of U. `problem.predict` must take a `EndToEnd` and a
    `GradedFactor` (see `gradbias.models.gram_entry`, `gram_sensing`), and θ is made by `gradbias.models.graded`.

    While a singular value is below e^-4, no step goes past the time at which it would reach that at its present rate:
    no escape is stepped over. Tolerances are per step; `rtol` on ρ is relative, so that at ρ = -10⁴ a singular value's
    logarithm is known to 10⁴ rtol per step, which shifts the time of its escape and not the path. Rounding adds some
    1e-16 of a column's direction to it; where the next saddle's unstable direction is orthogonal to it to more digits
    than that (commuting measurements, an observation graph that falls apart) the order of escapes is not to be trusted.
    `tsit5` takes steps of the order of one relaxation time of Q; `kvaerno3` and `kvaerno5` step over waiting times.
    """

    method: Method = eqx.field(static=True, default="kvaerno5")
    rtol: Float[Array, ""] | float = 1e-8
    atol: Float[Array, ""] | float = 1e-10
    first_step: Float[Array, ""] | float = 1e-2

    def __check_init__(self) -> None:
        require_choice("method", self.method, Method)

    def init(self, problem: Problem, theta: GradedFactor) -> FlowState:
        """The slope at the start, and time zero; raises where θ is no `GradedFactor`, or not float64."""
        if not isinstance(theta, GradedFactor):
            raise ValueError(
                f"GradedFlow moves a GradedFactor; got {type(theta).__name__}. Start from gradbias.models.graded(U)."
            )
        if theta.q.dtype != jnp.float64:
            raise ValueError(
                f"GradedFlow is integrated in float64; got {theta.q.dtype}. Call "
                'jax.config.update("jax_enable_x64", True) first.'
            )
        return self._integrator().init(_slope(problem, theta), jnp.zeros(()))

    def step(
        self, problem: Problem, theta: GradedFactor, state: FlowState, *, limit: Float[Array, ""], key: PRNGKeyArray
    ) -> tuple[GradedFactor, FlowState]:
        """One trial step of the integrator, not past the next escape."""
        del key
        y, unravel = ravel_pytree(theta)
        rates = unravel(state.slope).log_scale
        waits = (-QUIET - theta.log_scale) / jnp.where(rates > 0, rates, 1.0)
        nearest = jnp.min(jnp.where((rates > 0) & (waits > 0), waits, jnp.inf))
        # A last stretch that is shorter than a step in which a singular value doubles is not worth stopping for.
        limit = jnp.minimum(limit, state.clock + jnp.maximum(nearest, 0.5 / jnp.maximum(jnp.max(rates), 1e-300)))
        y, state = self._integrator().step(
            lambda z: _slope(problem, unravel(z)), y, state, limit=limit, log_speed=lambda z: jnp.zeros(())
        )
        return unravel(y), state

    def clock(self, state: FlowState) -> Float[Array, ""]:
        """Time."""
        return state.clock

    def log_time(self, state: FlowState) -> Float[Array, ""]:
        """log t."""
        return state.log_time

    def local_error(self, theta: GradedFactor, state: FlowState) -> GradedFactor:
        """The embedded estimate of the last accepted step."""
        return ravel_pytree(theta)[1](state.error)


def _slope(problem: Problem, theta: GradedFactor) -> Float[Array, " p"]:
    q, rho = theta.q, theta.log_scale
    g = jax.grad(lambda w: problem.risk(EndToEnd(w)))(gram_product(theta))
    n = -(g + g.T)
    a = q.T @ n @ q
    off = q.T @ q - jnp.eye(len(rho))
    turned = off @ _upper(2.0 * a)
    t = _upper(2.0 * a - turned - turned.T + norm_with_slope(n) * off)
    strict = jnp.triu(jnp.ones_like(t), 1) > 0
    # Masked before the exponential: the lower triangle would overflow, and its product with zero be NaN.
    ratio = jnp.exp(jnp.where(strict, rho[None, :] - rho[:, None], 0.0))
    moved = GradedFactor(n @ q - q @ t, jnp.diag(t), (jnp.triu(t, 1) * ratio) @ theta.mixing)
    return ravel_pytree(moved)[0]


def _upper(symmetric: Float[Array, "k k"]) -> Float[Array, "k k"]:
    """The upper triangular T with T + Tᵀ = S."""
    return jnp.triu(symmetric, 1) + 0.5 * jnp.diag(jnp.diag(symmetric))


def gram_of(problem: Problem, theta: GradedFactor) -> Float[Array, "d d"]:
    r"""$W = UU^\top$: the quantity to track in `Until`."""
    del problem
    return gram_product(theta)


def to_gram_interpolation(problem: Problem, theta: GradedFactor) -> Float[Array, ""]:
    r"""Remaining way of $W = UU^\top$ to zero square loss: $2\,\|\partial W\, J^+ r\| + \|r - JJ^+ r\|$, J by U.

    As `to_interpolation`, but for limits of low rank, at which $JJ^\top$ is singular. The part of the residuals that no
    first-order change of U removes is added as it is: at a saddle it is all of them, so no saddle passes for a limit.
    """
    u = theta.factor()
    r = residuals(problem, u)
    jacobian = jax.jacrev(lambda z: residuals(problem, z))(u).reshape(r.size, -1)
    left, s, right = jnp.linalg.svd(jacobian, full_matrices=False)
    seen = left.T @ r
    kept = s > 1e-7 * s[0]
    step = (right.T @ jnp.where(kept, seen / jnp.where(kept, s, 1.0), 0.0)).reshape(u.shape)
    unseen = r - left @ jnp.where(kept, seen, 0.0)
    return SAFETY * jnp.linalg.norm(step @ u.T + u @ step.T) + jnp.linalg.norm(unseen)
