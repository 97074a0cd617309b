"""The empirical tangent kernel: its spectrum, how far it moved, what it is aligned with, how lazy training is."""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy.linalg

from ..errors import NotApplicable, UsageError
from .catalogue import instrument
from .estimate import Estimate
from .objective import AbstractObjective
from .similarity import alignment, centred_gram

# Gradients of single outputs are taken to err by this many rounding units of their norm. Against float64, networks of
# 3 to 20 layers (dense, convolutional with batch normalization, attention) erred by 0.3 to 6.6; outputs by 0.3 to 2.5.
UNITS = 32
ROWS = 8192  # of a kernel, n k: it holds their square, 0.5 GB
COST = 12.0  # gradients, of a kernel on as many examples as there are, with ten outputs

_NEEDS_START = (
    "{what} is measured from the initial weights, and they are not known: pass initial= (the weights before training), "
    "or follow the run from its start."
)


def kernel_spectrum(kernel: np.ndarray, count: int | None = None) -> np.ndarray:
    r"""The `count` largest eigenvalues, all by default, of a tangent kernel (n, k, n, k) as an nk × nk matrix over n.

    >>> kernel_spectrum(np.diag([4.0, 2.0, 6.0]).reshape(3, 1, 3, 1), 2).tolist()
    [2.0, 1.3333333333333333]
    """
    matrix, n = _matrix(kernel), len(kernel)
    first = 0 if count is None else max(0, len(matrix) - count)
    values = scipy.linalg.eigh(matrix, eigvals_only=True, subset_by_index=(first, len(matrix) - 1))
    return values[::-1] / n


def relative_change(now: np.ndarray, before: np.ndarray) -> float:
    r"""$\|A - A_0\|_F / \|A_0\|_F$; NaN for $A_0 = 0$.

    >>> relative_change(np.array([3.0, 4.0]), np.array([3.0, 0.0]))
    1.3333333333333333
    """
    scale = float(np.linalg.norm(before))
    return float(np.linalg.norm(now - before)) / scale if scale > 0 else math.nan


def kernel_target_alignment(kernel: np.ndarray, targets: np.ndarray) -> float:
    r"""$\langle K_c, T_c \rangle_F / (\|K_c\|_F \|T_c\|_F)$ of a kernel (n, n) and targets Y (n, c), $T = Y Y^\top$.

    $A_c = H A H$, $H = I - \mathbf 1 \mathbf 1^\top / n$ [@cortes2012algorithms, number not checked]; without centring
    it is of [@cristianini2001kernel, number not checked]. NaN if either is constant.

    >>> y = np.array([[1.0], [1.0], [-1.0], [-1.0]])
    >>> kernel_target_alignment(y @ y.T + 5, y)
    1.0
    """
    return alignment(_centred(kernel), centred_gram(targets))


def linearization_error(outputs: np.ndarray, initial: np.ndarray, change: np.ndarray) -> float:
    r"""$\|f - f_0 - c\|_F / \|f - f_0\|_F$, the `change` $c = J_0 (\theta - \theta_0)$; NaN if $f = f_0$.

    >>> linearization_error(np.array([[3.0]]), np.array([[1.0]]), np.array([[1.5]]))
    0.25
    """
    moved = outputs - initial
    scale = float(np.linalg.norm(moved))
    return float(np.linalg.norm(moved - change)) / scale if scale > 0 else math.nan


def _matrix(kernel: np.ndarray) -> np.ndarray:
    return kernel.reshape(kernel.shape[0] * kernel.shape[1], -1)


def _centred(kernel: np.ndarray) -> np.ndarray:
    a = kernel - np.mean(kernel, axis=0)
    return a - np.mean(a, axis=1, keepdims=True)


@dataclass(frozen=True)
class _Kernel:
    """A kernel with how far it may be off, in the Frobenius norm."""

    entries: np.ndarray
    error: float


def _kernel(objective: AbstractObjective) -> _Kernel:
    """Gradients g, each off by r ‖g‖, give ‖ΔK‖ ≤ (2 r + r²) ‖(‖g_p‖ ‖g_q‖)_pq‖ = (2 r + r²) tr K."""
    entries = objective.ntk()
    r = UNITS * objective.epsilon
    if not np.all(np.isfinite(entries)):
        raise NotApplicable("The tangent kernel is not finite: gradients of the outputs overflow or are NaN.")
    return _Kernel(entries, (2 * r + r * r) * float(np.trace(_matrix(entries))))


def _chosen(
    objective: AbstractObjective, examples: int, rng: np.random.Generator, state: dict[str, Any]
) -> tuple[AbstractObjective, tuple[str, ...]]:
    """The examples that the kernel is of, drawn once: as many as asked for and as the memory of a kernel allows."""
    if examples < 2:
        raise UsageError(f"examples counts the probe data that the kernel is of, 2 or more; got {examples}.")
    if "index" not in state:
        outputs = objective.subset(np.arange(1)).outputs().shape[1]
        most = ROWS // outputs
        if most < 2:
            raise NotApplicable(
                f"A kernel of {outputs} outputs per example has {outputs}² entries for each pair of examples: too "
                "many. Pass outputs=, a function that picks fewer of them."
            )
        count = min(examples, objective.examples, most)
        state["index"] = np.sort(rng.choice(objective.examples, count, replace=False))
        if count < min(examples, objective.examples):
            state["note"] = f"The kernel is of {count} examples: with {outputs} outputs each it has {ROWS} rows then."
    return objective.subset(state["index"]), ((state["note"],) if "note" in state else ())


def _initial(objective: AbstractObjective, what: str, state: dict[str, Any]) -> AbstractObjective:
    """The objective at the initial weights, on the chosen examples."""
    if objective.settings.initial is None:
        raise NotApplicable(_NEEDS_START.format(what=what))
    return objective.settings.initial.subset(state["index"])


def _initial_kernel(objective: AbstractObjective, what: str, state: dict[str, Any]) -> _Kernel:
    if "kernel" not in state:
        kernel = _kernel(_initial(objective, what, state))
        if not np.any(kernel.entries):
            raise NotApplicable(f"{what} has no meaning: at the initial weights no output depends on any parameter.")
        state["kernel"] = kernel
    return state["kernel"]


def _drift(now: _Kernel, start: _Kernel) -> tuple[float, float]:
    """Relative change of the kernel with its bound: numerator and denominator may both be off."""
    value, scale = relative_change(now.entries, start.entries), float(np.linalg.norm(start.entries))
    if scale <= start.error:
        return value, math.inf
    return value, (now.error + start.error * (1 + value)) / (scale - start.error)


@instrument(
    gradients=COST,
    cost="a kernel of `examples` examples (k backward passes) and its leading eigenvalues",
    invariances="permutations of units; not: rescaling of layers, other parametrizations of the same function",
    says="How fast small steps of gradient descent with the square loss shrink the error along the directions learned "
    "first: by the factor exp(-eigenvalue t).",
    not_says="Not how fast this run learns: the kernel moves unless training is lazy, other losses weigh it, and only "
    "some examples are seen.",
    needs="a model whose outputs of one example do not depend on the others",
)
def _ntk_spectrum(
    objective: AbstractObjective,
    *,
    rng: np.random.Generator,
    state: dict[str, Any],
    count: int = 10,
    examples: int = 200,
) -> Estimate:
    r"""The largest eigenvalues of the empirical tangent kernel over n [@jacot2018neural, number not checked].

    $\lambda_i(K / n)$, $K_{ia,jb} = \nabla f_a(x_i) \cdot \nabla f_b(x_j)$ as an nk × nk matrix, n examples with k
    outputs each: under gradient flow of $\frac{1}{2n} \sum_i \|f(x_i) - y_i\|^2$ the errors follow $\dot e = -K e / n$.
    At most `examples` of the probe data, chosen once by the seed. `details` has the kernel (n, k, n, k) and its trace
    over n.

    The bound takes each gradient to be off by 32 rounding units of its norm, and Weyl's inequality: the same for all.
    """
    if count < 1:
        raise UsageError(f"count is of eigenvalues, 1 or more; got {count}.")
    chosen, notes = _chosen(objective, examples, rng, state)
    kernel = _kernel(chosen)
    values = kernel_spectrum(kernel.entries, count)
    n, size = len(kernel.entries), _matrix(kernel.entries).shape[0]
    # The eigenvalues of a symmetric matrix of this size are those of one that differs by size·eps of its norm.
    bound = kernel.error / n + size * float(np.finfo(np.float64).eps) * float(np.abs(values[0]))
    return Estimate(
        values,
        np.full(len(values), bound),
        reason="all eigenvalues of the kernel",
        names=tuple(f"eig{i}" for i in range(1, len(values) + 1)),
        details={"kernel": kernel.entries, "trace": float(np.trace(_matrix(kernel.entries))) / n},
        notes=notes,
    )


@instrument(
    gradients=COST,
    cost="a kernel of `examples` examples (k backward passes); another at the first reading",
    invariances="scaling of all outputs; not: rescaling of layers, other parametrizations of the same function",
    says="How far the tangent kernel moved from the initial one: near 0 the network was trained as a kernel method "
    "would be.",
    not_says="Not that features became better, nor which: a mere growth of the gradients moves the kernel as well.",
    needs="the initial weights, and a model whose outputs of one example do not depend on the others",
)
def _ntk_drift(
    objective: AbstractObjective, *, rng: np.random.Generator, state: dict[str, Any], examples: int = 64
) -> Estimate:
    r"""Relative change of the empirical tangent kernel since initialization.

    $\|K - K_0\|_F / \|K_0\|_F$, $K_{ia,jb} = \nabla f_a(x_i) \cdot \nabla f_b(x_j)$, on at most `examples` of the probe
    data, chosen once by the seed; $K_0$ is kept. `details["rotation"]` is $1 - \langle K, K_0 \rangle_F / (\|K\|_F
    \|K_0\|_F)$, which a mere growth of the kernel leaves at 0 [@fort2020deep, number not checked].

    The bound takes each gradient to be off by 32 rounding units of its norm.
    """
    chosen, notes = _chosen(objective, examples, rng, state)
    start = _initial_kernel(objective, "The drift of the tangent kernel", state)
    now = _kernel(chosen)
    value, bound = _drift(now, start)
    rotation = 1 - alignment(now.entries, start.entries)
    return Estimate(value, bound, reason="two kernels", details={"rotation": rotation}, notes=notes)


@instrument(
    gradients=COST,
    cost="a kernel of `examples` examples (k backward passes)",
    invariances="scaling and shifts of the kernel and of the targets; not: rescaling of layers",
    says="How much of the tangent kernel sees what the targets see: 1 if it is the kernel of the targets, near 0 if it "
    "knows nothing of them.",
    not_says="Not the accuracy: a kernel of many small directions can fit targets that it is hardly aligned with.",
    needs="targets that are class numbers or real vectors",
)
def _ntk_alignment(
    objective: AbstractObjective, *, rng: np.random.Generator, state: dict[str, Any], examples: int = 200
) -> Estimate:
    r"""Centred alignment of the empirical tangent kernel with the targets [@cortes2012algorithms, number not checked].

    $\langle \bar K_c, T_c \rangle_F / (\|\bar K_c\|_F \|T_c\|_F)$ with $\bar K_{ij} = \frac1k \sum_a K_{ia,ja}$ the
    kernel averaged over outputs, $T = Y Y^\top$, Y the class numbers as unit vectors or the real targets, (n, c), and
    $A_c = H A H$, $H = I - \mathbf 1 \mathbf 1^\top / n$; between 0 and 1. At most `examples` of the probe data, chosen
    once by the seed. Raises `NotApplicable` where all targets are equal.

    The bound takes each gradient to be off by 32 rounding units of its norm.
    """
    chosen, notes = _chosen(objective, examples, rng, state)
    targets = _target_vectors(chosen)
    kernel = _kernel(chosen)
    n, k = kernel.entries.shape[:2]
    averaged = np.einsum("iaja->ij", kernel.entries) / k
    value, scale = kernel_target_alignment(averaged, targets), float(np.linalg.norm(_centred(averaged)))
    if math.isnan(value):
        raise NotApplicable("All these examples have the same target, or the kernel tells none from another.")
    # The average's error is at most the kernel's: each output's is off by its own trace's share. Centring is a
    # projection. A direction changes by at most twice the relative error. 8n: the rounding of the products in float64.
    bound = 2 * kernel.error / k / scale + 8 * n * float(np.finfo(np.float64).eps)
    return Estimate(value, min(bound, 1.0), reason="one kernel", notes=notes)


def _target_vectors(objective: AbstractObjective) -> np.ndarray:
    """Targets as the rows of a matrix, class numbers as unit vectors."""
    targets = objective.targets()
    if np.issubdtype(targets.dtype, np.floating) and targets.ndim > 1 and targets.shape[1] > 1:
        return targets.reshape(len(targets), -1).astype(np.float64)
    try:
        return np.eye(max(2, objective.outputs().shape[1]))[objective.labels()]
    except NotApplicable:
        if not np.issubdtype(targets.dtype, np.floating):
            raise
    return targets.reshape(len(targets), -1).astype(np.float64)


@instrument(
    gradients=COST + 3,
    cost="a kernel, outputs and a Jacobian-vector product on `examples` examples; another kernel at the first reading",
    invariances="scaling of all outputs; not: rescaling of layers, other parametrizations of the same function",
    says="Whether the function moved as its linearization at the initial weights: 0 is lazy (a kernel method), of "
    "order 1 is rich (features were learned).",
    not_says="Not whether rich is better, and nothing about outputs off the probe data; a mere oscillation of weights "
    "after a lazy phase makes it large as well.",
    needs="the initial weights, and a model whose outputs of one example do not depend on the others",
)
def _laziness(
    objective: AbstractObjective, *, rng: np.random.Generator, state: dict[str, Any], examples: int = 64
) -> Estimate:
    r"""Lazy or rich: how far training left its linearization at the start [@chizat2019lazy, number not checked].

    - nonlinearity: $\|f(\theta) - f(\theta_0) - J_0 (\theta - \theta_0)\|_F / \|f(\theta) - f(\theta_0)\|_F$, the
      share of the outputs' change that the linear model $f(\theta_0) + J_0 (\theta - \theta_0)$ does not have; $J_0$
      is the Jacobian at the initial weights, its product a derivative, not a difference;
    - movement: $\|\theta - \theta_0\| / \|\theta_0\|$ over the trainable parameters;
    - kernel_drift: $\|K - K_0\|_F / \|K_0\|_F$ of the empirical tangent kernel, as `ntk_drift`.

    On at most `examples` of the probe data, chosen once by the seed. At the initial weights nonlinearity is 0 / 0: NaN.

    The bounds take gradients, outputs and products to be off by 32 rounding units of their norm, of $\|J_0\|_F
    \|\theta - \theta_0\|$ for a product: near the initial weights little is left of the outputs' change.
    """
    chosen, notes = _chosen(objective, examples, rng, state)
    start = _initial_kernel(objective, "Laziness", state)
    initial, whole = _initial(objective, "Laziness", state), objective.settings.initial
    assert whole is not None
    before = whole.parameters()
    moved = objective.parameters() - before
    length, origin = (float(np.linalg.norm(objective.asnumpy(v))) for v in (moved, before))
    now = _kernel(chosen)
    f0, f, change = initial.outputs(), chosen.outputs(), initial.jacobian_product(moved)
    unit = UNITS * objective.epsilon
    jacobian = math.sqrt(float(np.trace(_matrix(start.entries))))
    off = unit * float(np.linalg.norm(f) + np.linalg.norm(f0)), unit * jacobian * length
    nonlinearity = _nonlinearity(f, f0, change, off)
    movement = (math.nan, math.inf)
    if origin > 0:
        # The difference is rounded once; a norm, summed in float64, is off by its number of terms at most.
        rounding = 2 * objective.epsilon + 2 * objective.size * float(np.finfo(np.float64).eps)
        movement = length / origin, rounding * length / origin
    drift = _drift(now, start)
    told = nonlinearity, movement, drift
    return Estimate(
        np.array([v for v, _ in told]),
        np.array([b for _, b in told]),
        converged=all(math.isfinite(v) for v, _ in told),
        reason=_reason(nonlinearity[0], movement[0]),
        names=("nonlinearity", "movement", "kernel_drift"),
        notes=notes,
    )


def _nonlinearity(f: np.ndarray, f0: np.ndarray, change: np.ndarray, off: tuple[float, float]) -> tuple[float, float]:
    """The linearization error with its bound for outputs and product that may be `off`; NaN where rounding hides it."""
    scale = float(np.linalg.norm(f - f0))
    if scale <= off[0]:
        return math.nan, math.inf
    value = linearization_error(f, f0, change)
    return value, (off[0] + off[1] + value * off[0]) / (scale - off[0])


def _reason(nonlinearity: float, movement: float) -> str:
    if math.isnan(movement):
        return "the initial weights are all 0, so that no movement is relative to them"
    if math.isnan(nonlinearity):
        return "the outputs have not changed by more than rounding since the initial weights"
    return "outputs, their linearization and two kernels"
