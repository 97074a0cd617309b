r"""Mirror descent and mirror flow: $\nabla\psi$ maps the primal to the dual, where the gradient is followed."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
from jaxtyping import Array, Float, PRNGKeyArray

from ..problem import Problem
from .base import AbstractDynamics

Map = Callable[[Float[Array, " d"]], Float[Array, " d"]]


@dataclass(frozen=True)
class MirrorMap:
    r"""A separable potential ψ by its gradient (`dual`), the inverse of that (`primal`) and $1/\psi''$ (`metric`)."""

    name: str
    dual: Map
    primal: Map
    metric: Map


euclidean = MirrorMap("Euclidean", lambda w: w, lambda z: z, jnp.ones_like)
# ψ = Σ w log w − w on w > 0: multiplicative updates.
entropy = MirrorMap("entropy", jnp.log, jnp.exp, lambda w: w)


@cache
def p_norm(p: float) -> MirrorMap:
    r"""$\psi(w) = \sum |w_i|^p / p$, $p > 1$; raises `ValueError` otherwise."""
    if not p > 1:
        raise ValueError(f"A mirror map needs a strictly convex potential, p > 1; got p={p}.")

    def signed_power(z: Float[Array, " d"], exponent: float) -> Float[Array, " d"]:
        return jnp.sign(z) * jnp.abs(z) ** exponent

    return MirrorMap(
        f"{p}-norm",
        lambda w: signed_power(w, p - 1),
        lambda z: signed_power(z, 1 / (p - 1)),
        lambda w: jnp.abs(w) ** (2 - p) / (p - 1),
    )


class Dual(NamedTuple):
    """Steps taken and the dual iterate."""

    steps: Float[Array, ""]
    z: Float[Array, " d"]


class MirrorDescent(AbstractDynamics[Dual]):
    r"""$\nabla\psi(w_{k+1}) = \nabla\psi(w_k) - \eta \nabla L(w_k)$, on all examples or on a random `batch` of them.

    θ is one vector. [@gunasekar2018characterizing]
    """

    rate: Float[Array, ""] | float
    mirror: MirrorMap = eqx.field(static=True, default=euclidean)
    batch: int | None = eqx.field(static=True, default=None)

    def init(self, problem: Problem, theta: Float[Array, " d"]) -> Dual:
        """The dual of the start; raises if it is not finite (entropy needs a positive start)."""
        del problem
        z = self.mirror.dual(theta)
        message = f"The {self.mirror.name} mirror map is not finite at the start; entropy needs every entry positive."
        return Dual(jnp.asarray(0.0), eqx.error_if(z, ~jnp.all(jnp.isfinite(z)), message))

    def step(
        self, problem: Problem, theta: Float[Array, " d"], state: Dual, *, limit: Float[Array, ""], key: PRNGKeyArray
    ) -> tuple[Float[Array, " d"], Dual]:
        """One step in the dual."""
        del limit
        if self.batch is not None:
            problem = problem.batch(jr.randint(key, (self.batch,), 0, problem.x.shape[0]))
        z = state.z - self.rate * jax.grad(problem.risk)(theta)
        return self.mirror.primal(z), Dual(state.steps + 1.0, z)

    def clock(self, state: Dual) -> Float[Array, ""]:
        """Steps."""
        return state.steps

    def log_time(self, state: Dual) -> Float[Array, ""]:
        """log(η k)."""
        return jnp.log(self.rate * state.steps)

    def local_error(self, state: Dual) -> None:
        """Exact recursion."""
        del state
