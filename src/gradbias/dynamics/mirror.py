r"""Mirror descent and mirror flow: $\nabla\psi$ maps the primal to the dual, where the gradient is followed."""

import abc
from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
from jaxtyping import Array, Float, PRNGKeyArray, PyTree

from ..problem import Problem
from .base import AbstractDynamics, require_rate
from .flow import AbstractFlow, FlowState, Method


class AbstractMirrorMap(eqx.Module):
    r"""A separable potential ψ by its gradient (`dual`), the inverse of that (`primal`) and $1/\psi''$ (`metric`)."""

    @abc.abstractmethod
    def dual(self, w: Float[Array, " d"]) -> Float[Array, " d"]:
        r"""$\nabla\psi(w)$."""

    @abc.abstractmethod
    def primal(self, z: Float[Array, " d"]) -> Float[Array, " d"]:
        r"""$(\nabla\psi)^{-1}(z)$."""

    @abc.abstractmethod
    def metric(self, w: Float[Array, " d"]) -> Float[Array, " d"]:
        r"""$1/\psi''(w)$: how fast each coordinate moves."""


class Euclidean(AbstractMirrorMap):
    r"""$\psi(w) = \|w\|_2^2/2$: gradient descent."""

    def dual(self, w: Float[Array, " d"]) -> Float[Array, " d"]:
        """The identity."""
        return w

    def primal(self, z: Float[Array, " d"]) -> Float[Array, " d"]:
        """The identity."""
        return z

    def metric(self, w: Float[Array, " d"]) -> Float[Array, " d"]:
        """Ones."""
        return jnp.ones_like(w)


class Entropy(AbstractMirrorMap):
    r"""$\psi(w) = \sum w_i \log w_i - w_i$ on $w > 0$: multiplicative updates."""

    def dual(self, w: Float[Array, " d"]) -> Float[Array, " d"]:
        """log w."""
        return jnp.log(w)

    def primal(self, z: Float[Array, " d"]) -> Float[Array, " d"]:
        """exp z."""
        return jnp.exp(z)

    def metric(self, w: Float[Array, " d"]) -> Float[Array, " d"]:
        """The weights themselves."""
        return w


class PNorm(AbstractMirrorMap):
    r"""$\psi(w) = \sum |w_i|^p / p$, $p > 1$."""

    p: float = eqx.field(static=True)

    def __check_init__(self) -> None:
        if not self.p > 1:
            raise ValueError(f"A mirror map needs a strictly convex potential, p > 1; got p={self.p}.")

    def dual(self, w: Float[Array, " d"]) -> Float[Array, " d"]:
        r"""$\mathrm{sign}(w)|w|^{p-1}$."""
        return jnp.sign(w) * jnp.abs(w) ** (self.p - 1)

    def primal(self, z: Float[Array, " d"]) -> Float[Array, " d"]:
        r"""$\mathrm{sign}(z)|z|^{1/(p-1)}$."""
        return jnp.sign(z) * jnp.abs(z) ** (1 / (self.p - 1))

    def metric(self, w: Float[Array, " d"]) -> Float[Array, " d"]:
        r"""$|w|^{2-p}/(p-1)$."""
        return jnp.abs(w) ** (2 - self.p) / (self.p - 1)


class Hypentropy(AbstractMirrorMap):
    r"""$\nabla\psi(w) = \operatorname{asinh}(w / 2\beta)$, β given by its logarithm: it may be e^{-1400}.

    Gradient flow on $w = u^2 - v^2$ from $u = v = \alpha$ is mirror flow with $\beta = \alpha^2$, four times as fast.
    [@woodworth2020kernel]
    """

    log_beta: Float[Array, ""] | float

    def dual(self, w: Float[Array, " d"]) -> Float[Array, " d"]:
        r"""$\mathrm{sign}(w) \log(q + \sqrt{1 + q^2})$, $q = |w|/2\beta$, in logarithms where q is large."""
        log_q = jnp.log(jnp.abs(w)) - jnp.log(2.0) - self.log_beta
        large = log_q > 20.0  # then asinh q = log 2q up to e^-40
        return jnp.sign(w) * jnp.where(large, log_q + jnp.log(2.0), jnp.arcsinh(jnp.exp(jnp.minimum(log_q, 20.0))))

    def primal(self, z: Float[Array, " d"]) -> Float[Array, " d"]:
        r"""$2 \beta \sinh z$."""
        return -jnp.sign(z) * jnp.exp(self.log_beta + jnp.abs(z)) * jnp.expm1(-2 * jnp.abs(z))

    def metric(self, w: Float[Array, " d"]) -> Float[Array, " d"]:
        r"""$\sqrt{w^2 + 4\beta^2}$."""
        return jnp.hypot(w, 2 * jnp.exp(self.log_beta))


euclidean, entropy, p_norm, hypentropy = Euclidean(), Entropy(), PNorm, Hypentropy


class Dual(NamedTuple):
    """Steps taken and the dual iterate."""

    steps: Float[Array, ""]
    z: Float[Array, " d"]


class MirrorDescent(AbstractDynamics[Dual]):
    r"""$\nabla\psi(w_{k+1}) = \nabla\psi(w_k) - \eta \nabla L(w_k)$, on all examples or on a random `batch` of them.

    θ is one vector. [@gunasekar2018characterizing]
    """

    rate: Float[Array, ""] | float
    mirror: AbstractMirrorMap = euclidean
    batch: int | None = eqx.field(static=True, default=None)

    def __check_init__(self) -> None:
        require_rate(self.rate)

    def init(self, problem: Problem, theta: Float[Array, " d"]) -> Dual:
        """The dual of the start; raises if it is not finite (entropy needs a positive start)."""
        del problem
        z = self.mirror.dual(theta)
        name = type(self.mirror).__name__
        message = f"The {name} mirror map is not finite at the start; entropy needs every entry positive."
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

    def local_error(self, theta: PyTree, state: Dual) -> None:
        """Exact recursion."""
        del theta, state


class DualFlow(NamedTuple):
    """The dual variable ν and the state of its integrator."""

    nu: Float[Array, " n"]
    flow: FlowState


class MirrorFlow(AbstractFlow[DualFlow]):
    r"""Mirror flow of a linear model, run in the dual.

    $w = (\nabla\psi)^{-1}(\nabla\psi(w_0) + X^\top \nu)$, $\dot\nu_i = -\frac1n \partial_f \ell(f_i, y_i)$, $\nu(0)=0$.

    ν has one entry per example, so a thousand features or an initialisation of 1e-300 cost nothing. But the dual builds
    the answer in: wherever $Xw = y$, w *is* the Bregman projection of the start. Use it for speed and for extreme
    settings; a claim about a network is judged in the network's own parameters. θ is one vector, the model linear.
    """

    mirror: AbstractMirrorMap  # type: ignore[misc]  # abstract fields have no place yet
    method: Method = eqx.field(static=True, default="kvaerno5")
    rtol: Float[Array, ""] | float = 1e-8
    atol: Float[Array, ""] | float = 1e-10
    first_step: Float[Array, ""] | float = 1e-4

    def _weights(self, problem: Problem, nu: Float[Array, " n"]) -> Float[Array, " d"]:
        return self.mirror.primal(self.mirror.dual(problem.theta0) + nu @ problem.x)

    def _slope(self, problem: Problem, nu: Float[Array, " n"]) -> Float[Array, " n"]:
        outputs = problem.outputs(self._weights(problem, nu))
        gradient = jax.vmap(jax.grad(problem.loss))(outputs, jnp.asarray(problem.y))
        return -gradient[:, 0] / len(problem.y)

    def init(self, problem: Problem, theta: Float[Array, " d"]) -> DualFlow:
        """ν = 0."""
        del theta
        nu = jnp.zeros(len(problem.y))
        return DualFlow(nu, self._integrator().init(self._slope(problem, nu), jnp.asarray(0.0)))

    def step(
        self,
        problem: Problem,
        theta: Float[Array, " d"],
        state: DualFlow,
        *,
        limit: Float[Array, ""],
        key: PRNGKeyArray,
    ) -> tuple[Float[Array, " d"], DualFlow]:
        """One trial step in ν."""
        del key, theta
        nu, flow = self._integrator().step(
            lambda v: self._slope(problem, v), state.nu, state.flow, limit=limit, log_speed=lambda v: jnp.asarray(0.0)
        )
        return self._weights(problem, nu), DualFlow(nu, flow)

    def clock(self, state: DualFlow) -> Float[Array, ""]:
        """Time."""
        return state.flow.clock

    def log_time(self, state: DualFlow) -> Float[Array, ""]:
        """log t."""
        return state.flow.log_time

    def local_error(self, theta: Float[Array, " d"], state: DualFlow) -> None:
        """None: an error in ν moves the run along the dual, and what is left of it at the end shows in the residual."""
        del theta, state
