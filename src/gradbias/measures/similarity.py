"""How alike two representations of the same examples are."""

import math
from typing import Any

import numpy as np

from ..errors import NotApplicable, ProbeError, UsageError
from .catalogue import instrument
from .collapse import feature_error
from .estimate import Estimate
from .objective import AbstractObjective


def linear_cka(x: np.ndarray, y: np.ndarray, *, unbiased: bool = False) -> float:
    r"""Linear centred kernel alignment of features x (n, p) and y (n, q) of the same n examples; NaN for constant ones.

    $\|Y^\top X\|_F^2 / (\|X^\top X\|_F \|Y^\top Y\|_F)$ of centred features [@kornblith2019similarity, number not
    checked]; `unbiased`: with the unbiased estimate of the Hilbert-Schmidt independence criterion
    [@song2012feature, number not checked] in all three places, which can be negative and needs n of 4 or more.

    >>> x = np.array([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0], [0.0, -1.0]])
    >>> linear_cka(x, x @ np.array([[0.0, -3.0], [3.0, 0.0]]))
    1.0
    """
    k, l = (centred_gram(a, unbiased=unbiased) for a in (x, y))
    return alignment(k, l)


def centred_gram(x: np.ndarray, *, unbiased: bool = False) -> np.ndarray:
    r"""The Gram matrix of centred features, n × n; `unbiased`: U-centred, with zero diagonal and zero row sums.

    U-centring is the orthogonal projection of $X X^\top$, without its diagonal, on the matrices with zero diagonal and
    zero row sums; inner products of U-centred matrices are n (n - 3) times the unbiased criterion.

    >>> centred_gram(np.array([[0.0], [2.0]])).tolist()
    [[1.0, -1.0], [-1.0, 1.0]]
    """
    # Centring before the product: a large mean would cancel in the Gram matrix only up to its square.
    a = x - np.mean(x, axis=0)
    return _u_centred(a @ a.T) if unbiased else a @ a.T


def _u_centred(k: np.ndarray) -> np.ndarray:
    n = len(k)
    if n < 4:
        raise UsageError(f"The unbiased estimate needs four examples or more; got {n}.")
    hollow = k - np.diag(np.diag(k))
    rows = np.sum(hollow, axis=1)
    hollow -= (rows[:, None] + rows[None, :]) / (n - 2) - np.sum(rows) / ((n - 1) * (n - 2))
    np.fill_diagonal(hollow, 0.0)
    return hollow


def alignment(k: np.ndarray, l: np.ndarray) -> float:
    r"""$\langle K, L \rangle_F / (\|K\|_F \|L\|_F)$; NaN if one is zero.

    >>> alignment(np.eye(4), np.diag([1.0, 0.0, 0.0, 0.0]))
    0.5
    """
    scale = float(np.linalg.norm(k)) * float(np.linalg.norm(l))
    return float(np.sum(k * l)) / scale if scale > 0 else math.nan


@instrument(
    gradients=1.0,
    cost="one forward pass and a Gram matrix per layer; another forward pass at the first reading",
    invariances="rotations and scalings of each layer's features, shifts; not: other linear maps",
    says="How far the geometry of a layer's features, up to rotation and scale, is still that of the initial weights: "
    "1 is the same.",
    not_says="Not whether a layer learned: a few directions of large variance dominate it, and a change of many small "
    "ones, or of scale alone, does not show.",
    needs="the initial weights, and a model whose layers can be seen",
)
def _cka_to_init(
    objective: AbstractObjective,
    *,
    rng: np.random.Generator,
    state: dict[str, Any],
    examples: int = 500,
    unbiased: bool = False,
) -> Estimate:
    r"""Linear CKA of each layer's input with that at the initial weights, same examples [@kornblith2019similarity].

    $\langle K, K_0 \rangle_F / (\|K\|_F \|K_0\|_F)$, K the Gram matrix of the centred features; between 0 and 1.
    `unbiased` removes the diagonals' share, which draws the plain one towards 1 where features are many and examples
    few (Song et al.'s estimate; it can be negative). At most `examples` of the probe data, chosen once by the seed; the
    initial Gram matrices are computed at the first reading and kept. The input of the first layer is the data: 1.

    The bound takes each feature vector to be off by $4\sqrt d\,u \max_i \|h_i\|$, u the model's rounding unit. Constant
    features have no alignment: NaN.
    """
    if examples < 4:
        raise UsageError(f"examples counts the probe data to compare on, 4 or more; got {examples}.")
    if "grams" not in state:
        initial = objective.settings.initial
        if initial is None:
            raise NotApplicable(
                "CKA to initialization compares with the features at the initial weights, and they are not known: pass "
                "initial= (the weights before training)."
            )
        count = min(examples, objective.examples)
        state["index"] = np.sort(rng.choice(objective.examples, count, replace=False))
        state["grams"] = _grams(initial, state["index"], unbiased)
    values, bounds = [], []
    now = _grams(objective, state["index"], unbiased)
    for name, (gram, error) in now.items():
        reference, its_error = state["grams"][name]
        values.append(alignment(gram, reference))
        # 8n: the rounding of the product in float64.
        bounds.append(min(2.0, error + its_error) + 8 * len(gram) * float(np.finfo(np.float64).eps))
    constant = [name for name, value in zip(now, values, strict=True) if math.isnan(value)]
    bound = np.where(np.isnan(values), np.inf, bounds)
    reason = f"the features of {', '.join(constant)} are constant: they have no alignment" if constant else "direct"
    notes = (f"CKA on {len(state['index'])} of {objective.examples} probe examples.",)
    return Estimate(np.array(values), bound, not constant, reason, names=tuple(now), notes=notes)


def _grams(objective: AbstractObjective, index: np.ndarray, unbiased: bool) -> dict[str, tuple[np.ndarray, float]]:
    """Centred Gram matrix and its error by layer."""
    grams = {}
    for name, x in objective.subset(index).features().items():
        if not np.all(np.isfinite(x)):
            raise ProbeError(f"The inputs of the layer {name} hold NaN or infinity: they have no alignment.")
        plain = centred_gram(x)
        gram = _u_centred(plain) if unbiased else plain
        grams[name] = (gram, _direction_error(x, plain, float(np.linalg.norm(gram)), objective.epsilon))
    return grams


def _direction_error(x: np.ndarray, plain: np.ndarray, norm: float, unit: float) -> float:
    """How far the Gram matrix, scaled to norm one, may be off: 2 ‖ΔK‖ / ‖K‖, ‖ΔK‖ ≤ (2 ‖X‖₂ + ‖ΔX‖) ‖ΔX‖."""
    # Centring and U-centring are projections: they make no error larger. ‖X‖₂² = ‖X Xᵀ‖₂ ≤ ‖X Xᵀ‖_F.
    off = math.sqrt(len(x)) * feature_error(x, unit)
    return 2 * (2 * math.sqrt(float(np.linalg.norm(plain))) + off) * off / norm if norm > 0 else math.inf
