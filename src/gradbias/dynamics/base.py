"""The one loop: `evolve` moves a problem's start by a dynamics until a criterion, recording on the way.

It rests on a decomposition in four: *how* θ moves is an `AbstractDynamics`; *what* to record is a function of
(problem, θ) and *when* is data (`Record`); *when to stop* is a bound on the distance to the limit (`Until`); and what
comes back is one `Trajectory`. Everything is traced: seeds and settings are `vmap`ped around it, one compile a shape.
"""

import abc
from collections.abc import Callable
from typing import Any, Generic, NamedTuple, TypeVar, get_args

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray, PyTree

from ..claim import Measured
from ..problem import Problem

State = TypeVar("State")

RUNNING, CONVERGED, COMPLETED, NOT_CONVERGED, DIVERGED, UNSTABLE = range(6)
STATUS = {
    RUNNING: "still running",
    CONVERGED: "converged: the bound on the distance to the limit fell below its threshold",
    COMPLETED: "completed: the horizon was reached, and no criterion had been asked for",
    NOT_CONVERGED: "not converged: the horizon or the step cap came first; raise it, or loosen the threshold",
    DIVERGED: "diverged: the next iterate is NaN or infinite, or no step of a flow is small enough; the one kept is "
    "the last finite one. Lower the step size",
    UNSTABLE: "unstable: the risk rose far above its start, as beyond the stability threshold. Lower the step size",
}


class AbstractDynamics(eqx.Module, Generic[State]):
    """A training rule. Concrete classes are final.

    The *clock* counts in the rule's own unit: steps for discrete rules, the integration variable for flows. Training
    time itself is kept as a logarithm, since in classification it passes any float.
    """

    @property
    def one_by_one(self) -> bool:
        """Whether runs that are `vmap`ped are taken one after the other inside of the program.

        Worth it where a step is costly and runs differ in the steps they need: together, all wait for the slowest.
        """
        return False

    @abc.abstractmethod
    def init(self, problem: Problem, theta: PyTree) -> State:
        """What must be carried between steps besides θ."""

    @abc.abstractmethod
    def step(
        self, problem: Problem, theta: PyTree, state: State, *, limit: Float[Array, ""], key: PRNGKeyArray
    ) -> tuple[PyTree, State]:
        """One step, never past the clock value `limit`."""

    @abc.abstractmethod
    def clock(self, state: State) -> Float[Array, ""]:
        """The rule's own clock."""

    @abc.abstractmethod
    def log_time(self, state: State) -> Float[Array, ""]:
        """Logarithm of the training time that has passed (step size × steps for discrete rules)."""

    @abc.abstractmethod
    def local_error(self, theta: PyTree, state: State) -> PyTree | None:
        """Estimate of the last step's error, shaped like θ; None for rules that are exact recursions."""


def require_choice(name: str, value: str, choices: Any) -> None:
    """Raise `ValueError` unless `value` is one of the `Literal` type `choices`."""
    if value not in get_args(choices):
        raise ValueError(f"Unknown {name} {value!r}; choose from {', '.join(get_args(choices))}.")


BELOW_STABILITY = "2 over the largest curvature (for data x, below 2 len(x) / ‖x‖₂² on the square loss)"


def require_rate(rate: Any, below: str = BELOW_STABILITY) -> None:
    """Raise `ValueError` unless a step size is a positive finite number; arrays and traced values are passed over."""
    if isinstance(rate, float | int) and not (0.0 < rate < float("inf")):
        raise ValueError(f"A step size must be a positive, finite number; got rate={rate}. Try one below {below}.")


def require_fraction(name: str, value: Any) -> None:
    """Raise `ValueError` unless a number lies in [0, 1); arrays and traced values are passed over."""
    if isinstance(value, float | int) and not (0.0 <= value < 1.0):
        raise ValueError(
            f"{name} must be at least 0 and below 1; got {value}. At 1 and beyond old gradients never fade: try 0.9."
        )


class Record(NamedTuple):
    """Record `measure(problem, θ)`, a pytree of arrays, when the clock reaches each of `at` (increasing).

    With a `memory` (a pytree of arrays) the measure is `measure(problem, θ, state, memory)` and returns what to record
    and the memory for the next record point; `state` is that of the dynamics. So a warm-started eigensolver follows a
    run from inside of the compiled loop.
    """

    measure: Callable[..., Any]
    at: Any
    memory: PyTree | None = None


class Until(eqx.Module):
    r"""Stop when a bound on the distance to the limit falls below a threshold, or at the clock's `horizon`.

    `distance(problem, θ)` bounds how far `quantity(problem, θ)` is from its limit (see `gradbias.dynamics.limits`);
    without one the run is `completed` at the horizon. The integration error of flows is tracked in the same
    `quantity` (θ itself by default). The criterion is looked at every `check_every` steps; `max_steps` caps solver
    steps; a risk above `blowup` × (its start + 1) counts as unstable.
    """

    horizon: Float[Array, ""] | float
    distance: Callable[[Problem, Any], Float[Array, ""]] | None = None
    below: Float[Array, ""] | float = 0.0
    quantity: Callable[[Problem, Any], PyTree] | None = eqx.field(static=True, default=None)
    max_steps: int = 100_000_000
    check_every: int = eqx.field(static=True, default=1)
    blowup: float = 1e8


class Trajectory(eqx.Module):
    """A finished run: what was recorded, where it ended, how far from a limit it can be, and why it stopped.

    `clock`, `log_time` and the leaves of `recorded` have one entry per record point; after an early stop they repeat
    the last state. `distance` is the criterion's bound at the end (0 without one); `integration_error` the accumulated
    error estimate of a flow. `step` is the number of steps taken; for a diverged run the step that failed.
    """

    clock: Float[Array, " t"]
    log_time: Float[Array, " t"]
    recorded: PyTree
    theta: PyTree
    distance: Float[Array, ""]
    integration_error: Float[Array, ""]
    status: Int[Array, ""]
    step: Int[Array, ""]

    @property
    def converged(self) -> Bool[Array, ""]:
        """Whether the run ended as it was meant to."""
        return (self.status == CONVERGED) | (self.status == COMPLETED)

    @property
    def error(self) -> Float[Array, ""]:
        """Bound on the distance of the tracked quantity to its limit: stopping early plus integration."""
        return self.distance + self.integration_error

    def first(self, reached: Bool[Array, " t"]) -> Float[Array, ""]:
        """Clock of the first record point where `reached` holds; the last one, a lower bound, where it never does."""
        return jnp.where(jnp.any(reached), self.clock[jnp.argmax(reached)], self.clock[-1])

    def measured(self, value: PyTree, **curves: PyTree) -> Measured:
        """What a claim's `measured` returns: `value` with this run's error bound, outcome and recorded curves.

        The curves are `clock`, `log_time`, what was recorded (if that is a dict) and any given here.
        """
        recorded = self.recorded if isinstance(self.recorded, dict) else {}
        shown = {"clock": self.clock, "log_time": self.log_time, **recorded, **curves}
        return Measured(value, self.error, self.converged, self.step, shown)

    def why(self) -> str:
        """The reason for stopping, in words, with the step; for one run outside of `jit`."""
        return f"{STATUS[int(self.status)]} (step {int(self.step)})"

    def to_xarray(self) -> Any:
        """An `xarray.Dataset` over `time` (and `seed` first for `vmap`ped runs), one variable per recorded leaf."""
        import xarray as xr

        lead = ("seed",) * (np.ndim(self.clock) - 1)
        variables: dict[str, Any] = {}
        for path, leaf in jax.tree_util.tree_leaves_with_path(self.recorded):
            name = jax.tree_util.keystr(path, simple=True, separator=".") or "recorded"
            extra = tuple(f"{name}_{i}" for i in range(np.ndim(leaf) - np.ndim(self.clock)))
            variables[name] = (*lead, "time", *extra), np.asarray(leaf)
        for name in ("distance", "integration_error", "status", "step"):
            variables[name] = lead, np.asarray(getattr(self, name))
        for name in ("clock", "log_time"):
            variables[name] = (*lead, "time"), np.asarray(getattr(self, name))
        return xr.Dataset({k: (dims, values) for k, (dims, values) in variables.items()})


class _Carry(NamedTuple):
    theta: PyTree
    state: Any
    step: Int[Array, ""]
    status: Int[Array, ""]
    drift: Float[Array, ""]
    distance: Float[Array, ""]


def _nothing(problem: Problem, theta: PyTree) -> dict[str, Array]:
    del problem, theta
    return {}


def _finite(tree: PyTree) -> Bool[Array, ""]:
    leaves = [jnp.all(jnp.isfinite(leaf)) for leaf in jax.tree.leaves(tree)]
    return jnp.all(jnp.stack(leaves))


def _choose(flag: Bool[Array, ""], yes: PyTree, no: PyTree) -> PyTree:
    return jax.tree.map(lambda a, b: jnp.where(flag, a, b), yes, no)


def norm(tree: PyTree) -> Float[Array, ""]:
    """Euclidean norm of all leaves together."""
    return jnp.sqrt(sum(jnp.sum(jnp.square(leaf)) for leaf in jax.tree.leaves(tree)))


def _drift(problem: Problem, until: Until, old: PyTree, new: _Carry, local: PyTree) -> Float[Array, ""]:
    """Accumulated error, amplified by the growth of θ (as near a saddle), plus the last step's in the quantity."""
    quantity = until.quantity
    if quantity is not None:
        _, local = jax.jvp(lambda t: quantity(problem, t), (new.theta,), (local,))
    growth = jnp.maximum(1.0, norm(new.theta) / jnp.maximum(norm(old), jnp.finfo(new.drift.dtype).tiny))
    return new.drift * growth + norm(local)


def evolve(
    problem: Problem, dynamics: AbstractDynamics, *, until: Until, record: Record | None = None, key: PRNGKeyArray
) -> Trajectory:
    """Move `problem.theta0` by `dynamics` until `until`; compiled once per shape, `vmap` and `jit` it as you like.

    Divergence does not raise: it ends the run at the last finite iterate with a status and a step
    (`Trajectory.why`). Record points past the horizon hold the last state. Raises `ValueError` if the record points
    are not an increasing sequence.
    """
    if record is not None:
        _require_increasing(record.at)
        record = record._replace(at=jnp.asarray(record.at, dtype=float))
    # As arrays, step sizes, tolerances and horizons are arguments of the compiled program instead of parts of it.
    dynamics, until = jax.tree.map(lambda a: jnp.asarray(a) if isinstance(a, float | int) else a, (dynamics, until))
    run = _one_by_one if dynamics.one_by_one else _evolve
    return run(problem, dynamics, until, record, key)


def _one_by_one(*given: Any) -> Trajectory:
    """`_evolve`, whose lanes a `vmap` does not step together."""
    arrays, rest = eqx.partition(given, eqx.is_array)
    # With what the functions among them close over as arguments: that may have lanes too.
    run = eqx.filter_closure_convert(lambda arrays: _evolve(*eqx.combine(arrays, rest)), arrays)
    enclosed, rest_of_run = eqx.partition(run, eqx.is_array)

    @jax.custom_batching.sequential_vmap
    def call(enclosed: PyTree, arrays: PyTree) -> Trajectory:
        return eqx.combine(enclosed, rest_of_run)(arrays)

    return call(enclosed, arrays)


def _require_increasing(at: Any) -> None:
    traced = any(isinstance(point, jax.core.Tracer) for point in jax.tree.leaves(at))
    points = jnp.asarray(at, dtype=float) if traced else np.asarray(at, dtype=float)
    bad = points.ndim != 1 or points.shape[0] == 0
    if not (bad or traced):
        bad = not bool(np.all(np.diff(points) >= 0) and np.all(np.isfinite(points)))
    if bad:
        raise ValueError(
            f"Record points must be a non-empty, increasing sequence of finite clock values; got {at} of shape "
            f"{points.shape}."
        )


@eqx.filter_jit
def _evolve(
    problem: Problem, dynamics: AbstractDynamics, until: Until, record: Record | None, key: PRNGKeyArray
) -> Trajectory:
    horizon = jnp.asarray(until.horizon, dtype=float)
    at = horizon[None] if record is None else jnp.minimum(record.at, horizon)
    measure: Callable[..., Any] = _nothing if record is None else record.measure
    start_risk = problem.log_risk(problem.theta0)
    limit_risk = jnp.logaddexp(start_risk, 0.0) + jnp.log(until.blowup)

    def one(carry: _Carry, limit: Float[Array, ""]) -> _Carry:
        active = (carry.status == RUNNING) & (dynamics.clock(carry.state) < limit) & (carry.step < until.max_steps)
        theta, state = dynamics.step(problem, carry.theta, carry.state, limit=limit, key=jr.fold_in(key, carry.step))
        finite = _finite(theta)
        new = _Carry(theta, state, carry.step + 1, carry.status, carry.drift, carry.distance)
        local = dynamics.local_error(theta, state)
        if local is not None:
            new = new._replace(drift=_drift(problem, until, carry.theta, new, local))
        stopped = carry._replace(status=jnp.asarray(DIVERGED), step=carry.step + 1)
        return _choose(active, _choose(finite, new, stopped), carry)

    def check(carry: _Carry) -> _Carry:
        capped = (carry.step >= until.max_steps) & (dynamics.clock(carry.state) < horizon)
        status = jnp.where(capped, NOT_CONVERGED, RUNNING)
        distance = carry.distance
        if until.distance is not None:
            distance = until.distance(problem, carry.theta)
            status = jnp.where(distance <= until.below, CONVERGED, status)
        status = jnp.where(problem.log_risk(carry.theta) > limit_risk, UNSTABLE, status)
        return carry._replace(status=jnp.where(carry.status == RUNNING, status, carry.status), distance=distance)

    def chunk(carry: _Carry, limit: Float[Array, ""]) -> _Carry:
        if until.check_every > 1:
            carry, _ = jax.lax.scan(lambda c, _: (one(c, limit), None), carry, None, length=until.check_every)
        else:
            carry = one(carry, limit)
        return check(carry)

    def segment(both: tuple[_Carry, PyTree], limit: Float[Array, ""]) -> tuple[tuple[_Carry, PyTree], Any]:
        carry, memory = both
        carry = jax.lax.while_loop(
            lambda c: (c.status == RUNNING) & (dynamics.clock(c.state) < limit), lambda c: chunk(c, limit), carry
        )
        if memory is None:
            row = measure(problem, carry.theta)
        else:
            row, memory = measure(problem, carry.theta, carry.state, memory)
        return (carry, memory), (dynamics.clock(carry.state), dynamics.log_time(carry.state), row)

    zero = jnp.asarray(0.0)
    theta0 = jax.tree.map(lambda leaf: jnp.asarray(leaf) + 0.0, problem.theta0)
    carry = _Carry(theta0, dynamics.init(problem, theta0), jnp.asarray(0), jnp.asarray(RUNNING), zero, zero)
    memory = None if record is None else record.memory
    # The last stretch, up to the horizon, is run but not recorded.
    (carry, _), rows = jax.lax.scan(segment, (carry, memory), jnp.append(at, horizon))
    clock, log_time, recorded = jax.tree.map(lambda leaf: leaf[:-1], rows)
    completed = (dynamics.clock(carry.state) >= horizon) & (until.distance is None)
    ended = jnp.where(completed, COMPLETED, NOT_CONVERGED)
    status = jnp.where(carry.status == RUNNING, ended, carry.status)
    return Trajectory(clock, log_time, recorded, carry.theta, carry.distance, carry.drift, status, carry.step)
