"""How near the weights are to a stationary point of the margin problem that training on separable data approaches."""

from typing import Any

import numpy as np
from jaxtyping import Float

from ..errors import NotApplicable, UsageError
from .catalogue import instrument
from .estimate import Estimate
from .layers import order_of
from .margin import margins_of
from .objective import AbstractObjective


def distance_below(
    theta: Float[np.ndarray, " p"], rows: Float[np.ndarray, "m p"], residual: Float[np.ndarray, " p"]
) -> float:
    r"""A lower bound on $\min_{\lambda \ge 0} \|\theta - \sum_i \lambda_i g_i\|$ from any vector r, such as a residual.

    With $\tau = \max(0, \max_i r \cdot g_i)$, every $\lambda \ge 0$ has $\|\theta - \sum_i \lambda_i g_i\| \ge
    (r \cdot \theta - \tau \sum_i \lambda_i) / \|r\|$, and the best has $\sum_i \lambda_i \le \|\theta\|^2 / \min_i
    \theta \cdot g_i$, which must be positive; else 0.

    >>> distance_below(np.array([1.0, 1.0]), np.array([[2.0, 0.0]]), np.array([0.0, 3.0]))
    1.0
    """
    size, least = float(np.linalg.norm(residual)), float(np.min(rows @ theta))
    if size == 0 or least <= 0:
        return 0.0
    excess = max(0.0, float(np.max(rows @ residual)))
    return max(0.0, (float(residual @ theta) - excess * float(theta @ theta) / least) / size)


def cone_distance(
    theta: Float[np.ndarray, " p"], rows: Float[np.ndarray, "m p"]
) -> tuple[float, float, Float[np.ndarray, " m"]]:
    r"""$\min_{\lambda \ge 0} \|\theta - \sum_i \lambda_i g_i\|$: the distance attained, one no λ can beat, and λ.

    The problem is solved on the triangular factor of θ and the rows $g_i$; the distance of the λ found is then computed
    from the vectors themselves, and the lower one is `distance_below` of its residual.

    >>> [round(float(d), 9) for d in cone_distance(np.array([1.0, 1.0]), np.array([[2.0, 0.0]]))[:2]]
    [1.0, 1.0]
    """
    from scipy.optimize import nnls

    # Gradients of unlike length would make the problem ill-conditioned for no reason.
    lengths = np.linalg.norm(rows, axis=1)
    unit = rows / np.where(lengths > 0, lengths, 1.0)[:, None]
    stacked = np.vstack([theta / np.linalg.norm(theta), unit])
    # A triangle R with ‖θ − Σ λ g‖ = ‖R (1, −λ)‖ for all λ; the Gram matrix would square the condition number.
    root = np.asarray(np.linalg.qr(stacked.T, mode="r"))
    scaled = nnls(root[:, 1:], root[:, 0], maxiter=30 * len(stacked))[0]
    multipliers = scaled * np.linalg.norm(theta) / np.where(lengths > 0, lengths, 1.0)
    residual = theta - multipliers @ rows
    distance = float(np.linalg.norm(residual))
    return distance, min(distance, distance_below(theta, rows, residual)), multipliers


def _margin_gradients(objective: AbstractObjective) -> np.ndarray:
    return np.concatenate([objective.asnumpy(chunk) for chunk in objective.per_example_gradients("margin")])


def _further_elements(
    objective: AbstractObjective, rows: np.ndarray, elements: int, radius: float, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Margin gradients at random weights within the radius that are not those at θ; and the examples they are of."""
    theta = objective.parameters()
    size = float(np.linalg.norm(objective.asnumpy(theta)))
    lengths = np.linalg.norm(rows, axis=1)
    found, owners = [], []
    for _ in range(elements):
        u = rng.normal(size=objective.size)
        moved = objective.at(theta + objective.asvector(radius * size * u / np.linalg.norm(u)))
        there = _margin_gradients(moved)
        # A smooth function's gradient moves by about the radius; across a kink it jumps.
        jumped = np.linalg.norm(there - rows, axis=1) > np.sqrt(radius) * lengths
        found.append(there[jumped])
        owners.append(np.flatnonzero(jumped))
    return np.concatenate([rows[:0], *found]), np.concatenate([np.arange(0), *owners])


def _require_options(factor: float, elements: int, radius: float, examples: int) -> None:
    if not (factor >= 1 and elements >= 0 and radius > 0 and examples >= 1):
        raise UsageError(
            f"factor is at least 1, elements at least 0, radius positive, examples at least 1; got factor={factor}, "
            f"elements={elements}, radius={radius}, examples={examples}."
        )


def _positive_margins(objective: AbstractObjective) -> np.ndarray:
    q, _ = margins_of(objective)
    if not q.min() > 0:
        raise NotApplicable(
            f"{np.sum(q <= 0)} of {len(q)} probe examples are misclassified: the weights scale to no feasible point. "
            "It has meaning once the training data are separated."
        )
    return q


@instrument(
    gradients=lambda options: 2.0 + 1.1 * options["elements"],
    cost="one pass of margin gradients of the examples near the smallest margin, and one per further element",
    invariances="permutation of neurons; a factor on all weights; not rescaling of layers",
    says="How far the direction of the weights is from one that gradient descent on a homogeneous network can converge "
    "to: 0 at a KKT point of the largest-margin problem.",
    not_says="A KKT point need not have the largest margin, not even locally; and far from one says nothing bad of the "
    "test error.",
    needs="a homogeneous classifier that has every probe example right",
)
def _kkt_residual(
    objective: AbstractObjective,
    *,
    rng: np.random.Generator,
    state: dict[str, Any],
    factor: float = 2.0,
    elements: int = 4,
    radius: float | None = None,
    order: float | None = None,
    examples: int = 128,
) -> Estimate:
    r"""Distance of the weights' direction from a KKT point of $\min \tfrac12\|\theta\|^2$ s.t. $q_i(\theta) \ge 1$.

    The weights are scaled to $\tilde\theta = \theta / q_{\min}^{1/L}$, where the smallest margin is 1. With $h_i$ in
    the Clarke subdifferential of $q_i$ at $\tilde\theta$ and multipliers $\lambda \ge 0$, `stationarity` is
    $\|\tilde\theta - \sum_i \lambda_i h_i\| / \|\tilde\theta\|$ and `complementarity` is
    $L \sum_i \lambda_i (q_i(\tilde\theta) - 1) / \|\tilde\theta\|^2$, the share of the multipliers that sits off the
    margin (in all it is 1 at a KKT point), both for the λ that minimizes the sum of their squares: a projection, so
    that both are unique though λ need not be. Both are 0 at a KKT point and only there; their root sum of squares is at
    most 1. The examples are those with $q_i \le$ `factor` $q_{\min}$, at most the `examples` of smallest margin.
    `one_gradient` is stationarity with the one gradient per example that automatic differentiation takes.

    Where a ReLU is at its kink or two classes tie, the Clarke subdifferential has more elements: margin gradients at
    `elements` random weights within `radius` $\cdot \|\theta\|$ (by default $\sqrt\epsilon$) that differ from those at
    θ join the $h_i$. They lie in the Goldstein `radius`-subdifferential, which contains Clarke's; a few do not find all
    of it, so that the least over all elements can be smaller still.

    The bounds are deterministic, for the gradients used: rounding, and the gap to a dual bound that no λ can beat.
    `details`: `multipliers` (of the scaled problem) and `support` (their examples), `order`, `kinks` (the number of
    further elements). Raises `NotApplicable` where an example is misclassified, or the network is not homogeneous and
    no `order` is given. [@lyu2020gradient, definitions of approximate KKT points, numbers not checked]
    """
    radius = float(np.sqrt(objective.epsilon)) if radius is None else radius
    _require_options(factor, elements, radius, examples)
    q = _positive_margins(objective)
    power = order_of(objective, order, "The KKT residual")
    near = np.flatnonzero(q <= factor * q.min())
    chosen = np.sort(near[np.argsort(q[near], kind="stable")][:examples])
    part = objective.subset(chosen)
    theta, rows = objective.asnumpy(objective.parameters()), _margin_gradients(part)
    extra, owners = _further_elements(part, rows, elements, radius, rng)
    whose = np.append(np.arange(len(rows)), owners)
    size = float(np.linalg.norm(theta))
    # One more coordinate makes the distance to the cone count complementarity, in units of ‖θ‖.
    slack = power * (q[chosen] - q.min()) / size
    target = np.append(theta, 0.0)
    vectors = np.column_stack([np.concatenate([rows, extra]), slack[whose]])
    plain = _parts(target, vectors[: len(rows)], objective.epsilon)
    full = _parts(target, vectors, objective.epsilon) if len(extra) else plain
    # λ̃ = λ q_min^(1 − 2/L): the gradients at θ̃ are q_min^(1/L − 1) times those at θ.
    weights = np.bincount(whose, full[2], len(rows)) * q.min() ** (1 - 2 / power)
    notes = []
    if len(near) > len(chosen):
        notes.append(f"Only the {len(chosen)} smallest of {len(near)} margins within factor are used (examples=).")
    return Estimate(
        np.array([*full[0], plain[0][0]]),
        np.array([*full[1], plain[1][0]]),
        names=("stationarity", "complementarity", "one_gradient"),
        details={"multipliers": weights, "support": chosen, "order": power, "kinks": len(extra)},
        notes=tuple(notes),
    )


def _parts(
    target: np.ndarray, vectors: np.ndarray, epsilon: float
) -> tuple[tuple[float, float], tuple[float, float], np.ndarray]:
    """Both parts of the distance relative to the target, their bounds, and the multipliers."""
    size = float(np.linalg.norm(target))
    distance, below, multipliers = cone_distance(target, vectors)
    residual = (target - multipliers @ vectors) / size
    parts = float(np.linalg.norm(residual[:-1])), abs(float(residual[-1]))
    # The point v found in the cone and the projection v* have ‖v − v*‖² ≤ ‖x − v‖² − ‖x − v*‖², which bounds each part.
    gap = np.sqrt((distance - below) * (distance + below)) / size
    # Gradients are off by a few rounding units of their length (16 for a deep network), and so is Σ λ_i g_i.
    off = 16 * epsilon * (1 + float(multipliers @ np.linalg.norm(vectors, axis=1)) / size)
    return parts, (gap + off, gap + off), multipliers
