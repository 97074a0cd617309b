r"""Gradient flow, integrated adaptively by Runge–Kutta methods; in classification in a time that can reach the limit.

The methods are diffrax's tableaux. Stages run in one `lax.scan` and stiff stages use a dense Newton iteration with the
Jacobian of the step's start, which compiles in a third of the time of a general solver. Two details matter when the
problem is very stiff: a stage's slope is taken from the solved equation, $k = (z - b)/(h a_{ii})$, never from $f(z)$,
and the first slope is the last of the step before.
"""

from collections.abc import Callable
from functools import cache
from typing import Any, Literal, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Bool, Float, PRNGKeyArray, PyTree

from ..problem import Problem
from .base import AbstractDynamics, State, require_choice

Method = Literal["tsit5", "dopri8", "kvaerno3", "kvaerno5"]
ClockKind = Literal["time", "log_risk", "log_norm"]
VectorField = Callable[[Float[Array, " p"]], Float[Array, " p"]]
LogSpeed = Callable[[Float[Array, " p"]], Float[Array, ""]]

NEWTON_TOLERANCE = 1e-2  # of the step's error tolerance, as in Hairer & Wanner II, IV.8
NEWTON_STEPS = 10


class Tableau(NamedTuple):
    """Butcher tableau: `a` strictly below its diagonal, weights `b`, error weights `e`, order of the error estimate."""

    a: Float[np.ndarray, "s s"]
    diagonal: Float[np.ndarray, " s"]
    b: Float[np.ndarray, " s"]
    e: Float[np.ndarray, " s"]
    order: int


@cache
def tableau(method: Method) -> Tableau:
    """The tableau of a method by name."""
    import diffrax

    solvers = {
        "tsit5": diffrax.Tsit5,
        "dopri8": diffrax.Dopri8,
        "kvaerno3": diffrax.Kvaerno3,
        "kvaerno5": diffrax.Kvaerno5,
    }
    if method not in solvers:
        raise ValueError(f"Unknown method {method!r}; choose from {', '.join(solvers)}.")
    t: Any = solvers[method]().tableau
    b = np.asarray(t.b_sol, dtype=float)
    a = np.zeros((len(b), len(b)))
    for row, entries in enumerate(t.a_lower, start=1):
        a[row, :row] = entries
    diagonal = np.zeros(len(b)) if t.a_diagonal is None else np.asarray(t.a_diagonal, dtype=float)
    return Tableau(a, diagonal, b, np.asarray(t.b_error, dtype=float), solvers[method]().order(None))


def norm_with_slope(matrix: Float[Array, "m n"]) -> Float[Array, ""]:
    """The Frobenius norm, with the derivative 0 at 0, where that of the norm is NaN: a gradient can be exactly 0."""
    return jnp.sqrt(jnp.sum(jnp.square(matrix)) + jnp.finfo(matrix.dtype).tiny)


def implicit(method: Method) -> bool:
    """Whether a step inverts a matrix: costly, and stiff runs differ tenfold in how many they need."""
    return bool(tableau(method).diagonal.any())


class Step(NamedTuple):
    """A trial step: the end point, its error estimate, the slope there, and whether Newton's iteration converged."""

    y: Float[Array, " p"]
    error: Float[Array, " p"]
    slope: Float[Array, " p"]
    solved: Bool[Array, ""]


def explicit_step(f: VectorField, y: Float[Array, " p"], h: Float[Array, ""], t: Tableau) -> Step:
    """One step of an explicit method, stages in a scan."""
    a = jnp.asarray(t.a)

    def stage(k: Float[Array, "s p"], i: Array) -> tuple[Float[Array, "s p"], None]:
        return k.at[i].set(f(y + h * (a[i] @ k))), None

    k, _ = jax.lax.scan(stage, jnp.zeros((len(t.b), y.size), y.dtype), jnp.arange(len(t.b)))
    return Step(y + h * (jnp.asarray(t.b) @ k), h * (jnp.asarray(t.e) @ k), k[-1], jnp.asarray(True))


def implicit_step(
    f: VectorField, y: Float[Array, " p"], h: Float[Array, ""], t: Tableau, *, slope: Float[Array, " p"], scale: Array
) -> Step:
    """One step of an explicit-first-stage, singly diagonally implicit method (ESDIRK); `slope` is $f(y)$."""
    a, gamma = jnp.asarray(t.a), float(t.diagonal[-1])
    inverse = jnp.linalg.inv(jnp.eye(y.size, dtype=y.dtype) - h * gamma * jax.jacfwd(f)(y))

    def stage(carry: tuple[Array, Bool[Array, ""]], i: Array) -> tuple[tuple[Array, Bool[Array, ""]], None]:
        k, solved = carry
        base = y + h * (a[i] @ k)

        def newton(c: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
            z, _, count = c
            dz = inverse @ (z - base - h * gamma * f(z))
            return z - dz, jnp.sqrt(jnp.mean((dz / scale) ** 2)), count + 1

        start = (base + h * gamma * k[i - 1], jnp.asarray(jnp.inf, y.dtype), jnp.asarray(0))
        z, size, _ = jax.lax.while_loop(lambda c: (c[1] > NEWTON_TOLERANCE) & (c[2] < NEWTON_STEPS), newton, start)
        return (k.at[i].set((z - base) / (h * gamma)), solved & (size <= NEWTON_TOLERANCE)), None

    k0 = jnp.zeros((len(t.b), y.size), y.dtype).at[0].set(slope)
    (k, solved), _ = jax.lax.scan(stage, (k0, jnp.asarray(True)), jnp.arange(1, len(t.b)))
    # The error estimate is passed through the same inverse: otherwise it overestimates what stiff modes contribute.
    return Step(y + h * (jnp.asarray(t.b) @ k), inverse @ (h * (jnp.asarray(t.e) @ k)), k[-1], solved)


class FlowState(NamedTuple):
    """What a flow carries: clock, step size, slope, logarithm of time and of its speed, last local error."""

    clock: Float[Array, ""]
    h: Float[Array, ""]
    slope: Float[Array, " p"]
    log_time: Float[Array, ""]
    log_speed: Float[Array, ""]
    error: Float[Array, " p"]


class Integrator(eqx.Module):
    """A Runge–Kutta method with its tolerances and first step, for an autonomous vector field on flat vectors."""

    method: Method = eqx.field(static=True)
    rtol: Float[Array, ""] | float
    atol: Float[Array, ""] | float
    first_step: Float[Array, ""] | float

    def init(self, slope: Float[Array, " p"], log_speed: Float[Array, ""]) -> FlowState:
        """At clock and time zero, with the slope and log dt/dclock of the start."""
        h = jnp.asarray(self.first_step, slope.dtype)
        never = jnp.asarray(-jnp.inf, slope.dtype)
        return FlowState(jnp.zeros_like(h), h, slope, never, log_speed, jnp.zeros_like(slope))

    def step(
        self, f: VectorField, y: Float[Array, " p"], state: FlowState, *, limit: Float[Array, ""], log_speed: LogSpeed
    ) -> tuple[Float[Array, " p"], FlowState]:
        """One trial step, not past `limit`; a rejected one leaves y and the clock, and shortens the next."""
        t = tableau(self.method)
        left = limit - state.clock
        h = jnp.minimum(state.h, left)
        if implicit(self.method):
            trial = implicit_step(f, y, h, t, slope=state.slope, scale=self.atol + self.rtol * jnp.abs(y))
        else:
            trial = explicit_step(f, y, h, t)
        scale = self.atol + self.rtol * jnp.maximum(jnp.abs(y), jnp.abs(trial.y))
        size = jnp.sqrt(jnp.mean((trial.error / scale) ** 2))
        usable = trial.solved & jnp.isfinite(size)
        accept = usable & (size <= 1.0)
        factor = jnp.where(usable, jnp.clip(0.9 * jnp.maximum(size, 1e-10) ** (-1.0 / t.order), 0.2, 5.0), 0.25)
        proposal = jnp.where(accept & (h < state.h), jnp.maximum(state.h, h * factor), h * factor)
        speed = log_speed(trial.y)
        log_time = jnp.logaddexp(state.log_time, jnp.log(h) + _log_mean_exp(state.log_speed, speed))
        clock = jnp.where(h >= left, limit, state.clock + h)
        moved = FlowState(clock, proposal, trial.slope, log_time, speed, trial.error)
        stayed = state._replace(h=proposal, error=jnp.zeros_like(state.error))
        new = jax.tree.map(lambda a, b: jnp.where(accept, a, b), moved, stayed)
        # A rejected step that the clock cannot resolve: the slope is not finite, or y blows up. NaN ends the run there.
        stuck = ~accept & (state.clock + h <= state.clock)
        return jnp.where(accept, trial.y, jnp.where(stuck, jnp.nan, y)), new


class AbstractFlow(AbstractDynamics[State]):
    """A flow that an `Integrator` moves; concrete classes have its method, its tolerances and its first step."""

    method: eqx.AbstractVar[Method]
    rtol: eqx.AbstractVar[Float[Array, ""] | float]
    atol: eqx.AbstractVar[Float[Array, ""] | float]
    first_step: eqx.AbstractVar[Float[Array, ""] | float]

    @property
    def one_by_one(self) -> bool:
        """Where the method is implicit."""
        return implicit(self.method)

    def _integrator(self) -> Integrator:
        return Integrator(self.method, self.rtol, self.atol, self.first_step)


class GradientFlow(AbstractFlow[FlowState]):
    r"""$\dot\theta = -\nabla L(\theta)$ in one of three clocks along the same path.

    - `"time"`: $t$ itself;
    - `"log_risk"`: $d\theta/ds = -\nabla \log L$, so $dt = ds / L$; for linear models θ grows linearly in $s$;
    - `"log_norm"`: $d\theta/d\tau = c\,g$ with $g = -\nabla \log L$ and
      $c = \|\theta\|^2 / \sqrt{\langle\theta, g\rangle^2 + \|\theta\|^2}$, which tends to $d\tau = d\log\|\theta\|$
      once the margins grow: for homogeneous models of order two, where θ is exponential in $s$, and more.

    In the last two $\log t$ is carried by the logarithmic trapezoid rule, so $t = \exp(10^9)$ is an ordinary place.
    It is exact where $\log L$ falls linearly in the clock; elsewhere $\log t$ (not θ) is off by the curvature over one
    step, whatever the tolerances: some 0.003 early in `"log_risk"`, 0.03 (up to 0.2 with long steps) in `"log_norm"`.
    `tsit5` and `dopri8` are explicit; `kvaerno3` and `kvaerno5` are implicit, for stiff problems of up to a few
    hundred parameters. Where a network leaves a saddle, `kvaerno5` estimates too small an error (up to 30 times at rtol
    1e-4, twice at 1e-8): take another method there. Tolerances are per step. The last two clocks need a loss's `log`.
    [@lyu2020gradient] and [@soudry2018implicit] use these clocks in their proofs.
    """

    clock_kind: ClockKind = eqx.field(static=True, default="time")
    method: Method = eqx.field(static=True, default="tsit5")
    rtol: Float[Array, ""] | float = 1e-8
    atol: Float[Array, ""] | float = 1e-12
    first_step: Float[Array, ""] | float = 1e-4

    def __check_init__(self) -> None:
        require_choice("clock_kind", self.clock_kind, ClockKind)
        require_choice("method", self.method, Method)

    def init(self, problem: Problem, theta: PyTree) -> FlowState:
        """The slope at the start, and time zero.

        Raises for parameters below float64, for "log_norm" at θ = 0, and at saddles (but in "time").
        """
        flat, unravel = ravel_pytree(theta)
        if any(leaf.dtype != jnp.float64 for leaf in jax.tree.leaves(theta)):
            found = ", ".join(sorted({str(leaf.dtype) for leaf in jax.tree.leaves(theta)}))
            raise ValueError(
                f"Gradient flow is integrated in float64, its tolerances are below what {found} resolves. Call "
                'jax.config.update("jax_enable_x64", True) first, and start from float64 parameters.'
            )
        if self.clock_kind == "log_norm":
            message = "The log_norm clock has no meaning at θ = 0: start from small parameters that are not zero."
            theta = unravel(eqx.error_if(flat, jnp.all(flat == 0), message))
        slope, log_speed = self._field(problem, theta)
        if self.clock_kind != "time":
            message = (
                f"The start is a stationary point (its gradient is zero), which the {self.clock_kind} clock never "
                "leaves: a saddle, as where two layers of a linear network are zero. Start from generic small weights."
            )
            slope = eqx.error_if(slope, jnp.all(slope == 0), message)
        return self._integrator().init(slope, log_speed)

    def _field(self, problem: Problem, theta: PyTree) -> tuple[Float[Array, " p"], Float[Array, ""]]:
        """dθ/dclock, and log dt/dclock."""
        if self.clock_kind == "time":
            g = ravel_pytree(jax.grad(problem.risk)(theta))[0]
            return -g, jnp.zeros((), g.dtype)
        log_risk, gradient = jax.value_and_grad(problem.log_risk)(theta)
        g = -ravel_pytree(gradient)[0]
        if self.clock_kind == "log_risk":
            return g, -log_risk
        flat = ravel_pytree(theta)[0]
        square = flat @ flat
        c = square / jnp.sqrt((flat @ g) ** 2 + square)
        return c * g, jnp.log(c) - log_risk

    def step(
        self, problem: Problem, theta: PyTree, state: FlowState, *, limit: Float[Array, ""], key: PRNGKeyArray
    ) -> tuple[PyTree, FlowState]:
        """One trial step of the integrator."""
        del key
        y, unravel = ravel_pytree(theta)
        y, state = self._integrator().step(
            lambda z: self._field(problem, unravel(z))[0],
            y,
            state,
            limit=limit,
            log_speed=lambda z: self._field(problem, unravel(z))[1],
        )
        return unravel(y), state

    def clock(self, state: FlowState) -> Float[Array, ""]:
        """The integration variable."""
        return state.clock

    def log_time(self, state: FlowState) -> Float[Array, ""]:
        """log t."""
        return state.log_time

    def local_error(self, theta: PyTree, state: FlowState) -> PyTree:
        """The embedded estimate of the last accepted step."""
        return ravel_pytree(theta)[1](state.error)


def _log_mean_exp(a: Float[Array, ""], b: Float[Array, ""]) -> Float[Array, ""]:
    r"""$\log \int_0^1 e^{(1-u) a + u b} du$: exact for speeds whose logarithm is linear over the step."""
    gap = jnp.abs(b - a)
    safe = jnp.maximum(gap, 1e-6)
    return jnp.maximum(a, b) + jnp.where(gap < 1e-6, -gap / 2, jnp.log(-jnp.expm1(-safe) / safe))
