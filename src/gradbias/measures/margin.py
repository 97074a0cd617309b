"""Margins of classifiers."""

from typing import Any, Literal

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from ..errors import NotApplicable
from ..problem import Problem
from .catalogue import instrument
from .estimate import Estimate
from .layers import SUM, order_of
from .objective import AbstractObjective

ORDERS = {"l1": 1, "l2": 2, "linf": jnp.inf}


def normalized_margin(
    problem: Problem, w: Float[Array, " d"], norm: Literal["l1", "l2", "linf"] = "l2"
) -> Float[Array, ""]:
    r"""$\min_i y_i f(w, x_i) / \|w\|$ of a model with one output that is linear in `w`, labels ±1.

    >>> from gradbias import losses, models
    >>> problem = Problem(models.linear, losses.logistic, jnp.array([[3.0, 4.0]]), jnp.array([1.0]), jnp.zeros(2))
    >>> float(normalized_margin(problem, jnp.array([3.0, 4.0])))
    5.0
    """
    return jnp.min(problem.outputs(w)[:, 0] * problem.y) / jnp.linalg.norm(w, ORDERS[norm])


def margins(outputs: Float[np.ndarray, "n k"], labels: Int[np.ndarray, " n"]) -> Float[np.ndarray, " n"]:
    r"""$q_i = f_{y_i} - \max_{j \ne y_i} f_j$; with one output, $f$ for class 1 and $-f$ for class 0.

    >>> margins(np.array([[3.0, 1.0, 2.5]]), np.array([0])).tolist()
    [0.5]
    >>> margins(np.array([[3.0], [3.0]]), np.array([0, 1])).tolist()
    [-3.0, 3.0]
    """
    if outputs.shape[1] == 1:
        return np.where(labels == 1, outputs[:, 0], -outputs[:, 0])
    rows = np.arange(len(outputs))
    others = outputs.copy()
    others[rows, labels] = -np.inf
    return outputs[rows, labels] - others.max(axis=1)


def margins_of(objective: AbstractObjective) -> tuple[np.ndarray, np.ndarray]:
    """The margins on the probe data and their rounding error."""
    outputs = objective.outputs()
    q = margins(outputs, objective.labels())
    # An output comes with a few rounding units per layer, relative to its row's largest; 64 is a deep network.
    return q, 64 * objective.epsilon * np.max(np.abs(outputs), axis=1)


def _details(q: np.ndarray, error: np.ndarray) -> dict[str, Any]:
    """`undecided` examples have a margin within its rounding error of zero."""
    return {"margins": q, "error_rate": float(np.mean(q <= 0)), "undecided": int(np.sum(np.abs(q) <= error))}


@instrument(
    gradients=0.4,
    cost="one forward pass",
    invariances="permutation of neurons; rescaling of layers; not a factor on all weights, which scales it",
    says="How far the worst example's right class is ahead of the next; negative where the example is misclassified.",
    not_says="It grows with the size of the weights while the decisions stay: compare margin_normalized or "
    "optimizer_margin along a run.",
    needs="a classifier: class numbers, or labels ±1 or 0/1 with one output",
)
def _margin(objective: AbstractObjective, *, rng: np.random.Generator, state: dict[str, Any]) -> Estimate:
    r"""Smallest margin $\min_i q_i$ over the probe data, $q_i = f_{y_i} - \max_{j \ne y_i} f_j$.

    With one output, $q_i = \pm f$. The bound is that of rounding in the outputs. `details`: `margins` of shape (n,)
    in the order of the examples; `error_rate`, the share with $q_i \le 0$; `undecided`, the number of examples whose
    margin is within its rounding error of 0. [@soudry2018implicit, number not checked]
    """
    q, error = margins_of(objective)
    # |min a - min b| <= max |a - b|, and the maximum of the errors is attained at no example that matters more.
    return Estimate(q.min(), error.max(), details=_details(q, error))


@instrument(
    gradients=0.4,
    cost="one forward pass",
    invariances="permutation of neurons; rescaling of layers; not a factor on all weights, which scales them",
    says="How far each example's right class is ahead of the next: which examples are hard, and which are wrong.",
    not_says="A small margin does not say whether the example is hard or its label wrong.",
    needs="a classifier: class numbers, or labels ±1 or 0/1 with one output",
)
def _example_margins(objective: AbstractObjective, *, rng: np.random.Generator, state: dict[str, Any]) -> Estimate:
    r"""The margin $q_i = f_{y_i} - \max_{j \ne y_i} f_j$ of each example, by its number `0` … `n-1` in the probe data.

    With one output, $q_i = \pm f$. The bounds are those of rounding in the outputs. `details` as for `margin`.
    [@soudry2018implicit, number not checked]
    """
    q, error = margins_of(objective)
    return Estimate(q, error, names=tuple(map(str, range(len(q)))), details=_details(q, error))


QUANTILES = {"min": 0.0, "q01": 0.01, "q10": 0.1, "median": 0.5, "q90": 0.9, "max": 1.0}


@instrument(
    gradients=0.4,
    cost="one forward pass",
    invariances="permutation of neurons; rescaling of layers; not a factor on all weights, which scales them",
    says="How the margins are spread over the probe data.",
    not_says="They grow with the size of the weights while the decisions stay, and are those of the probe data alone.",
    needs="a classifier: class numbers, or labels ±1 or 0/1 with one output",
)
def _margin_quantiles(objective: AbstractObjective, *, rng: np.random.Generator, state: dict[str, Any]) -> Estimate:
    r"""Quantiles of the margins $q_i = f_{y_i} - \max_{j \ne y_i} f_j$ over the probe data, from the least.

    A quantile between two examples is interpolated linearly. The bound is that of rounding in the outputs; that the
    probe data are a sample is not counted. `details` as for `margin`. [@bartlett2017spectrally, section 1, on margin
    distributions; number not checked]
    """
    q, error = margins_of(objective)
    value = np.quantile(q, list(QUANTILES.values()))
    return Estimate(value, np.full(len(value), error.max()), names=tuple(QUANTILES), details=_details(q, error))


@instrument(
    gradients=1.0,
    cost="one forward pass, a singular value decomposition of each layer, and four forward passes for the order",
    invariances="permutation of neurons; rescaling of layers (spectral, frobenius); a factor on all weights, where the "
    "network is homogeneous",
    says="The smallest margin in units of what the sizes of the layers allow.",
    not_says="Values of networks of different architecture do not compare, and a larger one does not promise a smaller "
    "test error.",
    needs="a classifier with dense or convolutional layers",
)
def _margin_normalized(objective: AbstractObjective, *, rng: np.random.Generator, state: dict[str, Any]) -> Estimate:
    r"""Smallest margin over the product of the layers' norms: $\min_i q_i / \prod_l \|W_l\|$.

    `spectral`: the largest singular values of the weights as matrices (out, rest) [@bartlett2017spectrally, number not
    checked]; `frobenius`: their Frobenius norms [@golowich2018size, number not checked]; `parameters`, where the
    network is homogeneous of order L as `homogeneity` tests it: $\min_i q_i / \|\theta\|_2^L$ [@lyu2020gradient, number
    not checked]. The weight of a convolution is taken as the matrix of its kernel, whose norm is not that of the
    convolution; a weight used twice counts twice; biases and other parameters do not count in the products, which the
    notes say. The bound is that of rounding.
    """
    layers = objective.layers()
    if not layers:
        raise NotApplicable("There is no layer with a weight: there are no norms to divide the margin by. See margin.")
    q, error = margins_of(objective)
    products = {
        "spectral": np.prod([np.linalg.norm(layer.matrix, 2) for layer in layers]),
        "frobenius": np.prod([np.linalg.norm(layer.matrix) for layer in layers]),
    }
    notes = _notes(objective)
    try:
        order = order_of(objective, None, "The margin normalized by all parameters")
        products["parameters"] = np.linalg.norm(objective.asnumpy(objective.parameters())) ** order
    except NotApplicable as why:
        notes.append(str(why))
    scale = np.array(list(products.values()))
    if np.any(scale == 0):
        raise NotApplicable("A layer is zero, and so are all outputs: there is nothing to divide the margin by.")
    value = q.min() / scale
    bound = error.max() / scale + SUM * len(layers) * np.finfo(np.float64).eps * np.abs(value)
    return Estimate(value, bound, names=tuple(products), notes=tuple(notes), details=_details(q, error))


def _notes(objective: AbstractObjective) -> list[str]:
    layers = objective.layers()
    notes = []
    if any(layer.kind == "convolution" for layer in layers):
        notes.append("The norm of a convolution is that of its kernel as a matrix (out, rest), not of the operator.")
    if any(layer.shared for layer in layers):
        notes.append("Some layers share a weight; it counts once per use.")
    elif rest := objective.size - sum(layer.weight.size for layer in layers):
        notes.append(f"{rest} parameters are in no layer's weight (biases, scales) and not counted in the products.")
    return notes


@instrument(
    gradients=lambda options: 0.4 if options["order"] is not None else 2.0,
    cost="one forward pass; four more to find the order",
    invariances="permutation of neurons; a factor on all weights; not rescaling of layers",
    says="The margin in the norm that the optimizer itself steps in: what its implicit bias would make largest.",
    not_says="That it is large does not mean that it is largest: compare kkt_residual, or the exact maximum for a "
    "linear model.",
    needs="a homogeneous classifier and the optimizer",
)
def _optimizer_margin(
    objective: AbstractObjective, *, rng: np.random.Generator, state: dict[str, Any], order: float | None = None
) -> Estimate:
    r"""Smallest margin normalized in the optimizer's own geometry: $\min_i q_i / \|\theta\|^L$.

    The norm is $\|\theta\|_2$ for gradient descent with or without momentum [@lyu2020gradient, number not checked] and
    $\|\theta\|_\infty$ for methods that step by the sign of a coordinate, as Adam does [@zhang2024implicit, for linear
    models, number not checked]. L is the order of homogeneity: `order`, or else measured as by `homogeneity`. The
    bound is that of rounding. Raises `NotApplicable` without an optimizer, and for a network that is not homogeneous.
    """
    if objective.settings.geometry is None:
        raise NotApplicable(
            "The optimizer's geometry is not known: pass the optimizer. margin_normalized needs none; its value "
            "'parameters' is the one for gradient descent."
        )
    geometry = objective.settings.geometry()
    power = order_of(objective, order, "The margin in the optimizer's norm")
    q, error = margins_of(objective)
    theta = objective.asnumpy(objective.parameters())
    size = float(np.linalg.norm(theta, {"l2": 2, "linf": np.inf}[geometry.norm])) ** power
    if size == 0:
        raise NotApplicable("The weights are zero: there is nothing to divide the margin by.")
    value = q.min() / size
    bound = error.max() / size + SUM * power * np.finfo(np.float64).eps * abs(value)
    details = _details(q, error) | {"norm": geometry.norm, "order": power, "optimizer": geometry.name}
    return Estimate(value, bound, details=details)
