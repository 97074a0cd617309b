"""Clusters of features by class: neural collapse, and the layer from which the nearest class centre decides."""

import math
from typing import Any, NamedTuple

import numpy as np

from ..errors import NotApplicable, ProbeError, UsageError
from .catalogue import instrument
from .estimate import Estimate
from .objective import AbstractObjective

INVARIANCES = "rotations and a scaling of the features together with the classifier"
NEEDS = "a classification loss with class numbers, and a model whose layers can be seen"


class NeuralCollapse(NamedTuple):
    """The five quantities; all zero for exact collapse."""

    nc1: float
    nc2_norms: float
    nc2_angles: float
    nc3: float
    nc4: float


def neural_collapse(
    features: np.ndarray, labels: np.ndarray, classifier: np.ndarray, bias: np.ndarray | None = None
) -> NeuralCollapse:
    r"""NC1 to NC4 of features (n, d), class numbers (n,), a classifier (C, d) and its bias (C,).

    [@papyan2020prevalence, figures 2 to 7, numbers not checked] With class means $\mu_c$, their mean $\mu$,
    $m_c = \mu_c - \mu$, M the matrix of rows $m_c$ and W the classifier: nc1 $= \operatorname{tr}(\Sigma_W
    \Sigma_B^\dagger) / C$; nc2_norms, the coefficient of variation of $\|m_c\|$; nc2_angles, the mean of
    $|\cos(m_c, m_{c'}) + 1/(C-1)|$ over pairs (NaN if some $m_c$ is zero); nc3 $= \|W/\|W\|_F - M/\|M\|_F\|_F$; nc4,
    the share of the examples whose nearest class mean is not the class that the classifier chooses.

    Every class counts alike, however many examples it has: $\mu$, $\Sigma_W$ and $\Sigma_B$ are means over classes, the
    paper's definitions where classes are balanced. Classes without examples are left out of nc1 to nc3. The
    pseudo-inverse drops singular values of M below $\max(C, d)\,u\,\sigma_1$, u the unit of float64, and one more: M
    has rank C - 1 at most. A classifier (1, d) of two classes stands for the rows $-w/2$ and $w/2$. Raises
    `NotApplicable` for a single class, or where all class means are equal.

    >>> h = np.array([[1.0, 0.0], [1.0, 0.0], [-1.0, 0.0]])
    >>> value = neural_collapse(h, np.array([0, 0, 1]), np.array([[3.0, 0.0], [-3.0, 0.0]]))
    >>> max(value) < 1e-15
    True
    """
    classifier, bias = _two_rows(classifier, bias)
    geometry = _geometry(features, labels)
    chosen = np.argmax(features @ classifier.T + (0.0 if bias is None else bias), axis=1)
    nearest, _ = nearest_centre(features, geometry.means)
    disagree = geometry.classes[nearest] != chosen
    m, norms = geometry.centred, np.linalg.norm(geometry.centred, axis=1)
    w = classifier[geometry.classes]
    if not np.any(w):
        raise NotApplicable(
            "The classifier's weights are zero: self-duality (NC3) compares their direction with others."
        )
    return NeuralCollapse(
        float(np.sum(geometry.whitened**2)),
        float(np.std(norms) / np.mean(norms)),
        float(np.mean(np.abs(_cosines(m) + 1 / (len(m) - 1)))) if np.all(norms) else math.nan,
        float(np.linalg.norm(w / np.linalg.norm(w) - m / np.linalg.norm(m))),
        float(np.mean(disagree)),
    )


def nearest_centre(features: np.ndarray, means: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    r"""Row number of the nearest of `means` for each feature, and by how much the second is farther.

    >>> nearest_centre(np.array([[0.0], [3.0]]), np.array([[0.0], [4.0]]))[0].tolist()
    [0, 1]
    """
    distances = np.stack([np.linalg.norm(features - mean, axis=1) for mean in means], axis=1)
    ordered = np.sort(distances, axis=1)
    return np.argmin(distances, axis=1), ordered[:, 1] - ordered[:, 0]


def class_means(features: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The classes that have examples, the row of each example's class among them, and the class means.

    >>> class_means(np.array([[0.0], [2.0], [5.0]]), np.array([3, 3, 1]))[2].tolist()
    [[5.0], [1.0]]
    """
    classes, row = np.unique(labels, return_inverse=True)
    if len(classes) < 2:
        raise NotApplicable(f"Centres of classes need two classes or more among the examples; there is {classes}.")
    sums = np.zeros((len(classes), features.shape[1]))
    np.add.at(sums, row, features)
    return classes, row, sums / np.bincount(row)[:, None]


class _Geometry(NamedTuple):
    classes: np.ndarray
    means: np.ndarray
    centred: np.ndarray
    spread: np.ndarray
    """Rows $h_i - \\mu_{y_i}$, weighted so that the squares sum to tr Σ_W."""
    whitened: np.ndarray
    """`spread` times the pseudo-inverse of `centred`: its squares sum to NC1."""
    smallest: float
    """The smallest singular value of `centred` that was kept."""


def _geometry(features: np.ndarray, labels: np.ndarray) -> _Geometry:
    classes, row, means = class_means(features, labels)
    centred = means - np.mean(means, axis=0)
    # By the singular vectors of M, C × d: Σ_B itself, d × d, would square its condition number.
    _, s, vt = np.linalg.svd(centred, full_matrices=False)
    unit = float(np.finfo(np.float64).eps)
    kept = (s > max(centred.shape) * unit * max(s[0], float(np.max(np.abs(means))))) & (
        np.arange(len(s)) < len(means) - 1
    )
    if not np.any(kept):
        raise NotApplicable("The means of all classes are equal: the features do not tell the classes apart at all.")
    weights = 1 / (np.bincount(row)[row] * len(classes))
    spread = np.sqrt(weights)[:, None] * (features - means[row])
    return _Geometry(classes, means, centred, spread, (spread @ vt[kept].T) / s[kept], float(s[kept][-1]))


def _two_rows(classifier: np.ndarray, bias: np.ndarray | None) -> tuple[np.ndarray, np.ndarray | None]:
    if len(classifier) > 1:
        return classifier, bias
    halves = np.array([[-0.5], [0.5]])
    return halves * classifier, None if bias is None else halves[:, 0] * bias


def _cosines(m: np.ndarray) -> np.ndarray:
    """Cosines of all pairs of rows."""
    units = m / np.linalg.norm(m, axis=1, keepdims=True)
    a, b = np.triu_indices(len(m), 1)
    return (units @ units.T)[a, b]


def feature_error(features: np.ndarray, unit: float) -> float:
    r"""How far a row of features may be off in norm: $4\sqrt d\,u \max_i \|h_i\|$.

    Rounding in sums of d terms grows as √d with high probability [@higham2019new, number not checked]; 4, for layers.

    >>> feature_error(np.array([[3.0, 4.0, 0.0, 0.0]]), 1.0)
    40.0
    """
    return 4 * math.sqrt(features.shape[1]) * unit * float(np.max(np.linalg.norm(features, axis=1)))


def _bounds(features: np.ndarray, labels: np.ndarray, value: NeuralCollapse, eta: float) -> list[float]:
    """Errors of the first four, if no row of the features is off by more than `eta` (nor class means; m_c by 2 eta)."""
    geometry = _geometry(features, labels)
    norms = np.linalg.norm(geometry.centred, axis=1)
    count, beta = len(norms), 2 * eta * math.sqrt(len(norms))
    # ‖A M†‖ with A off by 2η in the Frobenius norm, and M† by Wedin's bound for matrices of equal rank.
    trace, least, mean = float(np.linalg.norm(geometry.spread)), geometry.smallest, float(np.mean(norms))
    inverse = 1.62 * beta / (least * (least - beta)) if beta < least else math.inf
    root = 2 * eta / least + (trace + 2 * eta) * inverse
    nc1 = 2 * math.sqrt(value.nc1) * root + root**2
    nc2_norms = 2 * eta * (1 + value.nc2_norms) / (mean - 2 * eta) if 2 * eta < mean else math.inf
    # A unit vector is off by 2 · 2η / ‖m‖, a cosine by the sum for its two, their mean by twice the mean of one.
    nc2_angles = min(2.0, 2 * float(np.mean(4 * eta / norms))) if np.all(norms) else math.inf
    nc3 = min(2.0, 2 * beta / float(np.linalg.norm(geometry.centred)))
    small = 8 * count * float(np.finfo(np.float64).eps)  # the arithmetic here, on numbers of order one
    return [nc1 + small * value.nc1, nc2_norms + small, nc2_angles + small, nc3 + small]


@instrument(
    gradients=1.0,
    cost="one forward pass, and a singular value decomposition of the C × d class means",
    invariances=INVARIANCES,
    says="How close the last features are to one point per class, at equal norms and angles, along the classifier.",
    not_says="Not generalization: networks collapse on random labels too.",
    needs=NEEDS,
)
def _neural_collapse(objective: AbstractObjective, *, rng: np.random.Generator, state: dict[str, Any]) -> Estimate:
    r"""Neural collapse NC1 to NC4 of the last layer's input [@papyan2020prevalence], by name; zeros are exact collapse.

    With class means $\mu_c$, their mean $\mu$, $m_c = \mu_c - \mu$ and W the last dense layer's weight:
    nc1 $= \operatorname{tr}(\Sigma_W \Sigma_B^\dagger) / C$ (within against between classes); nc2_norms, the
    coefficient of variation of $\|m_c\|$; nc2_angles, the mean of $|\cos(m_c, m_{c'}) + 1/(C-1)|$;
    nc3 $= \|W/\|W\|_F - M/\|M\|_F\|_F$; nc4, the share of the examples whose nearest class mean is not the class the
    model chooses. Every class counts alike; classes without examples are left out; one example alone in its class adds
    nothing to $\Sigma_W$. $\Sigma_B$'s pseudo-inverse drops directions below rounding (float64) of the class means.
    The bound takes each feature vector to be off by $4\sqrt d\,u \max_i \|h_i\|$, u the model's rounding unit.
    """
    name, h, w, labels = _last_layer(objective)
    outputs = objective.outputs()
    offset = outputs - h @ w.T
    bias = np.mean(offset, axis=0)
    eta = feature_error(h, objective.epsilon)
    # What the arithmetic of the model can make of h Wᵀ + b.
    slack = 8 * (eta * float(np.linalg.norm(w, 2)) + objective.epsilon * float(np.max(np.abs(outputs))))
    if float(np.max(np.abs(offset - bias))) > slack:
        raise NotApplicable(
            f"Neural collapse is of a linear classifier at the end, and the outputs are not the layer {name} of its "
            "inputs plus a bias. Measure a model that ends with its classifier."
        )
    value = neural_collapse(h, labels, w, bias)
    classes, row, means = class_means(h, labels)
    two = np.concatenate([-outputs / 2, outputs / 2], axis=1) if outputs.shape[1] == 1 else outputs
    lead = np.sort(two, axis=1)
    close = (nearest_centre(h, means)[1] <= 4 * eta) | (lead[:, -1] - lead[:, -2] <= 2 * slack)
    counts = np.bincount(row)
    notes = [f"{int(np.sum(counts == 1))} classes have one example: no spread within."] if np.any(counts == 1) else []
    if len(classes) < two.shape[1]:
        notes.append(f"{two.shape[1] - len(classes)} of {two.shape[1]} classes have no example and are left out.")
    bound = np.array([*_bounds(h, labels, value, eta), float(np.mean(close))])
    details = {"layer": name, "classes": classes, "counts": counts}
    known = not math.isnan(value.nc2_angles)
    reason = "direct" if known else "a class mean is the mean of all: it has no angle to others (NC2)"
    return Estimate(np.array(value), bound, known, reason, names=value._fields, details=details, notes=tuple(notes))


def _last_layer(objective: AbstractObjective) -> tuple[str, np.ndarray, np.ndarray, np.ndarray]:
    """Name, input, weight of the last dense layer, and the labels."""
    labels, features = objective.labels(), objective.features()
    dense = [layer for layer in objective.layers() if layer.kind == "dense" and layer.name in features]
    if not dense:
        raise NotApplicable("Neural collapse is of a linear classifier at the end: there is no dense layer to be seen.")
    name, w, h = dense[-1].name, dense[-1].matrix, features[dense[-1].name]
    if h.shape[1] != w.shape[1] or w.shape[0] != objective.outputs().shape[1]:
        raise NotApplicable(
            f"Neural collapse is of a linear classifier at the end: one feature vector per example. The layer {name} "
            f"has a weight of shape {w.shape} (rows are outputs) and an input of {h.shape[1]} numbers per example."
        )
    _require_finite(name, h)
    return name, h, w, labels


def _require_finite(name: str, h: np.ndarray) -> None:
    if not np.all(np.isfinite(h)):
        raise ProbeError(f"The inputs of the layer {name} hold NaN or infinity: they have no class means.")


@instrument(
    gradients=1.0,
    cost="one forward pass, and the distances of all features to the class means",
    invariances="rotations and scalings of the features of any layer",
    says="After how many layers the examples are separated by the nearest class centre.",
    not_says="Not that later layers can be dropped: they were trained together, and the test error is another matter.",
    needs=NEEDS,
)
def _effective_depth(
    objective: AbstractObjective, *, rng: np.random.Generator, state: dict[str, Any], slack: float = 0.0
) -> Estimate:
    r"""The least number of layers after which the nearest class centre errs on a share `slack` of the examples at most.

    Centres are the class means of the same probe data; the ε-effective depth of [@galanti2022implicit, number not
    checked], ε is `slack`. Named after the layers, the error rates of the nearest centre on their inputs; then
    "effective_depth": 0 if the inputs of the first layer are separable, the number of layers if no layer's input is.
    Details: `holds_from`, the same but for all layers from there on. The bound counts the examples nearly at equal
    distance from two centres: closer than rounding, $4\sqrt d\,u \max_i \|h_i\|$ for each feature vector.
    """
    if not 0 <= slack < 1:
        raise UsageError(f"slack is a share of the examples, from 0 to below 1; got {slack}.")
    labels, features = objective.labels(), objective.features()
    rates, bounds = [], []
    for name, h in features.items():
        _require_finite(name, h)
        classes, _, means = class_means(h, labels)
        nearest, lead = nearest_centre(h, means)
        rates.append(float(np.mean(classes[nearest] != labels)))
        bounds.append(float(np.mean(lead <= 4 * feature_error(h, objective.epsilon))))
    rate, bound = np.array(rates), np.array(bounds)
    depth = _first(rate <= slack)
    off = max(depth - _first(rate - bound <= slack), _first(rate + bound <= slack) - depth)
    return Estimate(
        np.append(rate, depth),
        np.append(bound, off),
        True,
        "direct",
        names=(*features, "effective_depth"),
        details={"effective_depth": depth, "holds_from": len(rate) - _first(~(rate <= slack)[::-1])},
    )


def _first(holds: np.ndarray) -> int:
    """Where `holds` is true first; its length if nowhere."""
    return int(np.argmax(np.append(holds, True)))
