"""Free features trained with weight decay collapse to a simplex, one point per class, that classifier and means share.

Literature says "the last layer of a network collapses". What is proved, and shown here, is of the model in which the
features are parameters of their own, with decay on them and balanced classes; networks with finite training come near
it or not. Without decay there is no minimum: loss falls to zero, the norm grows like log t.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, PRNGKeyArray

import gradbias as gb
from gradbias.data import Dataset
from gradbias.measures.collapse import neural_collapse

# The classifier (K, d) and the features over √N (N, d): both then move at the same pace.
Free = tuple[Float[Array, "K d"], Float[Array, "N d"]]
NAMES = ("NC1", "NC2 norms", "NC2 angles", "NC3", "NC4")


def data(key: PRNGKeyArray, *, classes: int, per_class: int, dimension: int) -> Dataset:
    rng, y = gb.data.generator(key), np.repeat(np.arange(classes), per_class)
    start = tuple(rng.normal(size=(rows, dimension)) / dimension**0.5 for rows in (classes, len(y)))
    return Dataset(np.arange(len(y))[:, None], y, start)


def enough_dimensions(data: Dataset) -> bool:
    """A simplex of K points needs K - 1 dimensions; with K + 1 or more no other local minima are known."""
    return bool(data.start[0].shape[1] > data.start[0].shape[0])


def balanced(data: Dataset) -> bool:
    """All classes have the same number of examples."""
    return len(set(np.bincount(data.y).tolist())) == 1


def free_features(theta: Free, x: Int[Array, " 1"]) -> Float[Array, " K"]:
    return jnp.sqrt(float(len(theta[1]))) * (theta[0] @ theta[1][x[0]])


def geometry(h: np.ndarray, w: np.ndarray, y: np.ndarray) -> np.ndarray:
    return np.array(neural_collapse(np.asarray(h), np.asarray(y), np.asarray(w)))


def measured(
    data: Dataset, key: PRNGKeyArray, *, steps: int, rate: float = 0.5, decay: float = 5e-3, decays: float = 1.0
) -> gb.Measured:
    problem = gb.Problem(free_features, gb.losses.cross_entropy, data.x, data.y, data.start)

    def look(problem: gb.Problem, theta: Free) -> dict[str, Array]:
        z, shape = problem.outputs(theta), jax.ShapeDtypeStruct((5,), jnp.float64)
        collapse = jax.pure_callback(geometry, shape, theta[1], theta[0], data.y, vmap_method="sequential")
        own = jnp.take_along_axis(z, jnp.asarray(data.y)[:, None], axis=1)[:, 0]
        classes = float(z.shape[1])
        gap = jnp.mean(own - (jnp.sum(z, axis=1) - own) / (classes - 1.0))
        squares = sum(jnp.sum(leaf**2) for leaf in theta)
        loss = problem.risk(theta) + 0.5 * decay * decays * squares
        return {"logits": z, "collapse": collapse, "gap": gap, "loss": loss}

    # The last three are evenly spaced, as a bound on what is left of a geometric convergence needs them.
    at = jnp.append(jnp.geomspace(1.0, 0.5 * steps, 40).round(), jnp.array([0.75 * steps, 1.0 * steps]))
    descent = gb.GradientDescent(rate, decay * decays)
    run = gb.evolve(problem, descent, until=gb.Until(float(steps)), record=gb.Record(look, at), key=key)
    path = run.recorded
    size = jnp.linalg.norm(path["logits"][-1])
    together = jnp.concatenate([path["logits"].reshape(len(at), -1) / size, path["collapse"]], axis=1)
    left = gb.dynamics.remaining(together)
    value = {name: path[name][-1] for name in ("logits", "collapse", "loss")}
    value["still growing"] = path["gap"][-1] - path["gap"][-3]  # over the last half of the run
    distance = {"logits": left * size, "collapse": left, "loss": left * path["loss"][-1], "still growing": 0.0}
    curves = {name: path["collapse"][:, i] for i, name in enumerate(NAMES)} | {"steps": at, "gap": path["gap"]}
    return gb.Measured(value, distance, run.converged, run.step, curves)


def predicted(data: Dataset, *, decay: float = 5e-3) -> gb.Prediction:
    found = gb.oracles.collapsed_logits(data.y, decay / float(np.sqrt(len(data.y))))
    return gb.combine(found.only("logits", "loss"), **{"collapse": np.zeros(5), "still growing": 0.0})


CLAIM = gb.Claim(
    statement=r"With $K$ balanced classes, $d > K$, cross-entropy and penalties $\frac{\lambda_W}2 \|W\|_F^2 + "
    r"\frac{\lambda_H}2 \|H\|_F^2$, gradient descent on $W$ and free features $H$ (almost every start, small steps) "
    r"ends at logits $a (e_y - \mathbf 1 / K)$, $a = \log(1 / \sqrt{\lambda_W \lambda_H n} - K + 1)$: features of a "
    r"class coincide (NC1), means form a simplex (NC2), parallel to $W$ (NC3), and classify as $W$ does (NC4).",
    source=gb.Source("zhu2021geometric", "Theorems 1 and 2, there with a bias; numbers not checked"),
    data=data,
    measured=measured,
    predicted=predicted,
    metric={
        "logits": gb.metric.relative_l2,
        "loss": gb.metric.relative_difference,
        "collapse": gb.metric.difference,
        "still growing": gb.metric.difference,
    },
    tolerance=1e-6,
    tolerance_reason="The end is a point up to rotation, the rates are geometric: six digits, collapse to 1e-6.",
    assumptions={"more dimensions than classes": enough_dimensions, "balanced classes": balanced},
    settings={
        "smoke": dict(classes=5, per_class=20, dimension=12, steps=12000, seeds=3),
        "standard": dict(classes=10, per_class=30, dimension=16, steps=12000, seeds=10),
        "deep": dict(classes=20, per_class=50, dimension=40, steps=12000, seeds=10),
    },
    control=dict(decays=0.0),
    control_reason="Without decay there is no minimum: the logits still grow, by log 2 and more as the time doubles.",
    figure=gb.figures.curves(
        "steps", ["NC1", "NC2 norms", "NC2 angles", "NC3"], y_title="distance from collapse", log_x=True
    ),
    seconds=dict(smoke=5, standard=8, deep=90),
)
