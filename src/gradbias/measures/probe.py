"""Measures of a JAX model: once, or along somebody's own training loop."""

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

import jax
from jaxtyping import Array, PyTree

from ..errors import ProbeError
from ..problem import Problem
from .catalogue import Asked, asked_for, take_all
from .estimate import Estimate
from .jax_objective import JaxObjective
from .objective import OptimizerGeometry, Settings
from .recorder import Recorded, Recorder, Row, timed

if TYPE_CHECKING:
    pass

Features = Callable[..., Mapping[str, Array]]


def measure(
    problem: Problem,
    theta: PyTree,
    measures: Asked,
    *,
    seed: int = 0,
    features: Features | None = None,
    initial: PyTree | None = None,
    geometry: OptimizerGeometry | None = None,
    batch_size: int | None = None,
) -> dict[str, Estimate]:
    r"""Measure a model at the weights `theta`: each number with its bound, its cost and why it stopped there.

    `features(theta, x_i)` returns the inputs of the layers by the names of their weights, for measures of features.
    `initial` are the weights that drift is measured from, `geometry` is what the optimizer makes of curvature,
    `batch_size` that of the training. Raises `UsageError` for an unknown measure, `NotApplicable` for one without a
    meaning here, `ProbeError` for a risk that is not finite.
    """
    asked_for(measures)
    objective = _objective(problem, theta, features, Settings(batch_size=batch_size))
    return take_all(measures, _with_references(objective, initial, geometry), seed=seed)


def _objective(problem: Problem, theta: PyTree, features: Features | None, settings: Settings) -> JaxObjective:
    objective = JaxObjective(problem, theta, features=features, settings=settings)
    if not abs(risk := objective.risk()) < float("inf"):
        raise ProbeError(f"The risk at these weights is {risk}: look for NaN in theta, or for a loss that overflows.")
    return objective


def _with_references(
    objective: JaxObjective, initial: PyTree | None, geometry: OptimizerGeometry | None
) -> JaxObjective:
    if initial is not None:
        # The shapes of two pytrees are equal only where their structures are.
        if jax.tree.map(jax.numpy.shape, initial) != jax.tree.map(jax.numpy.shape, objective.theta):
            raise ProbeError("The initial weights must be a pytree of the same structure and shapes as theta.")
        objective.settings.initial = JaxObjective(
            objective.problem, initial, features=objective._features, work=objective.work
        )
    if geometry is not None:
        objective.settings.geometry = lambda: geometry
    return objective


def _copied(tree: PyTree) -> PyTree:
    return jax.tree.map(lambda leaf: jax.numpy.array(leaf, copy=True), tree)


class Probe(Recorded):
    r"""Measures along a training loop in JAX, within a budget of its time.

    `probe.step(theta)` after each step returns a flat row of floats when something was read, else `None`. `initial`
    (default: the problem's `theta0`) are the weights that drift is measured from; there, what takes a second at most is
    read at construction, as step 0.
    """

    def __init__(
        self,
        problem: Problem,
        measures: Asked,
        *,
        budget: float | None = 0.05,
        every: int | None = None,
        seed: int = 0,
        features: Features | None = None,
        initial: PyTree | None = None,
        geometry: Callable[[], OptimizerGeometry] | None = None,
        batch_size: int | None = None,
    ) -> None:
        asked = asked_for(measures)
        # Arrays may be donated to the next step by the loop: what is read later is a copy.
        kept, start = _copied((problem.theta0, problem.theta0 if initial is None else initial))
        problem = Problem(problem.predict, problem.loss, problem.x, problem.y, kept)
        self._problem, self._features = problem, features
        objective = _objective(problem, start, features, Settings(batch_size=batch_size, geometry=geometry))
        self._settings, self._work = objective.settings, objective.work
        if any("initial" in one.needs for one, _ in asked):
            self._settings.initial = JaxObjective(problem, start, features=features, work=self._work)
        build_seconds, gradient_seconds = timed(lambda: self._at(start))
        self._recorder = Recorder(
            asked,
            budget=budget,
            every=every,
            seed=seed,
            facts={
                "model": f"{getattr(problem.predict, '__name__', 'predict')}, {objective.size} parameters",
                "probe data": f"{objective.examples} examples",
            },
            settings={"batch_size": batch_size},
            build_seconds=build_seconds,
            gradient_seconds=gradient_seconds,
        )
        self._recorder.start(self._at(start))

    def _at(self, theta: PyTree) -> JaxObjective:
        return JaxObjective(self._problem, theta, features=self._features, settings=self._settings, work=self._work)

    def step(self, theta: PyTree) -> Row | None:
        """A step of the training has ended at `theta`; what is due is read."""
        return self._recorder.step(lambda: self._at(theta), settle=lambda: jax.block_until_ready(theta))
