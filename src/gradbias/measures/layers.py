"""Relations between the layers of a network."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from jaxtyping import Array, Float

from ..errors import NotApplicable, UsageError
from .catalogue import instrument
from .estimate import Estimate
from .objective import AbstractObjective, Layer

# A norm of P entries is summed pairwise or in blocks: its relative rounding error is a few units.
SUM = 8.0


def balancedness(theta: tuple[Float[Array, "out in"], ...]) -> tuple[Float[Array, "m m"], ...]:
    r"""$W_{l+1}^\top W_{l+1} - W_l W_l^\top$ for neighbouring layers of a linear network: conserved by gradient flow.

    [@du2018algorithmic, number not checked]

    >>> import jax.numpy as jnp
    >>> [b.tolist() for b in balancedness((jnp.array([[2.0]]), jnp.array([[3.0]])))]
    [[[5.0]]]
    """
    return tuple(after.T @ after - before @ before.T for before, after in pairwise(theta))


def homogeneity_order(
    at_one: Float[np.ndarray, "n k"], scaled: Sequence[tuple[float, Float[np.ndarray, "n k"]]], epsilon: float
) -> tuple[float, float]:
    r"""The order L of $f(c\theta) = c^L f(\theta)$ from pairs $(c, f(c\theta))$, and how far each pair can be from it.

    Each pair gives $L_c = \log\rho_c / \log c$, where $\rho_c$ is the least-squares factor between the outputs. L is
    their mean; the bound is their spread, plus the misfit $\|f(c\theta) - \rho_c f\| / \|f(c\theta)\|$ and rounding,
    both over $|\log c|$. Infinite where an output vanishes or turns round.

    >>> order, bound = homogeneity_order(np.array([[1.0]]), [(2.0, np.array([[8.0]]))], 1e-16)
    >>> round(order, 12), bound < 1e-12
    (3.0, True)
    """
    orders, errors = [], []
    for c, there in scaled:
        rho = float(np.sum(at_one * there)) / float(np.sum(at_one**2))
        size = float(np.linalg.norm(there))
        if not rho > 0 or not np.isfinite(size):
            return np.nan, np.inf
        orders.append(np.log(rho) / np.log(c))
        # Outputs of a network come with a few rounding units per layer, relative to their size; 64 is a deep network.
        misfit = float(np.linalg.norm(there - rho * at_one)) / size + 64 * epsilon
        errors.append(misfit / abs(np.log(c)))
    order = float(np.mean(orders))
    return order, float(np.max(np.abs(np.array(orders) - order)) + np.max(errors))


@dataclass(frozen=True)
class Activation:
    """An activation, 1-Lipschitz and zero at zero; `order` is 1 where positively homogeneous; `pieces` are linear."""

    name: str
    apply: Callable[[np.ndarray], np.ndarray]
    homogeneous: bool = True
    pieces: int | None = 2


ACTIVATIONS = (
    Activation("identity", lambda z: z, pieces=1),
    Activation("relu", lambda z: np.maximum(z, 0)),
    Activation("leaky_relu", lambda z: np.where(z > 0, z, 0.01 * z)),
    Activation("tanh", np.tanh, homogeneous=False, pieces=None),
)


@dataclass(frozen=True)
class DenseNetwork:
    r"""$f(x) = W_L\,\sigma(W_{L-1} \cdots \sigma(W_1 x + b_1) \cdots + b_{L-1}) + b_L$, found to be the model."""

    weights: tuple[np.ndarray, ...]
    biases: tuple[np.ndarray | None, ...]
    activation: Activation
    x: np.ndarray

    @property
    def biased(self) -> bool:
        """Whether a layer has a bias."""
        return any(b is not None for b in self.biases)

    def without_biases(self) -> tuple[tuple[np.ndarray, ...], np.ndarray]:
        """Weights and inputs of the same function without biases: a unit that is always 1 feeds them.

        Raises `NotApplicable` for an activation that does not leave 1 where it is.
        """
        if not self.biased:
            return self.weights, self.x
        if not self.activation.homogeneous:
            raise NotApplicable(
                f"The layers have biases and the activation is {self.activation.name}: the theorem is of layers "
                "without biases, and a constant unit cannot stand for them here. ReLU or bias=False would do."
            )
        wide = []
        for number, (w, b) in enumerate(zip(self.weights, self.biases, strict=True), start=1):
            rows = np.column_stack([w, np.zeros(len(w)) if b is None else b])
            carry = np.eye(1, rows.shape[1], rows.shape[1] - 1)
            wide.append(rows if number == len(self.weights) else np.vstack([rows, carry]))
        return tuple(wide), np.column_stack([self.x, np.ones(len(self.x))])


def dense_network(objective: AbstractObjective) -> DenseNetwork:
    """The model as a chain of dense layers, checked by computing its outputs anew from weights, biases and inputs.

    Raises `NotApplicable` for anything else: convolutions, normalization layers, residual branches, attention, tied
    weights, parameters that are neither a dense weight nor its bias, activations other than those of `ACTIVATIONS`.
    """
    layers = objective.layers()
    if not layers and len(objective.blocks) == 1:  # a vector of weights: a linear model, if it comes out so
        layers = [Layer(next(iter(objective.blocks)), "dense", objective.asnumpy(objective.parameters())[None])]
    wrong = sorted({layer.kind for layer in layers if layer.kind != "dense"} | {"tied" for x in layers if x.shared})
    if wrong or not layers:
        raise NotApplicable(
            f"The theorem is of dense layers one after another; this model has {', '.join(wrong) or 'no'} layers."
        )
    x, outputs = objective.inputs().reshape(objective.examples, -1), objective.outputs()
    biases = _biases(objective, layers)
    for transposed in (False, True):
        weights = tuple(layer.weight.T if transposed else layer.weight for layer in layers)
        widths = [x.shape[1], *(len(w) for w in weights)]
        fits = all(w.shape[1] == width for w, width in zip(weights, widths, strict=False))
        if not fits or widths[-1] != outputs.shape[1]:
            continue
        given = _assign(biases, [len(w) for w in weights])
        for activation in ACTIVATIONS if given is not None else ():
            network = DenseNetwork(weights, tuple(given or ()), activation, x)
            if _reproduces(network, outputs, objective.epsilon):
                return network
    raise NotApplicable(
        "The theorem is of dense layers one after another with the same activation in between "
        f"({', '.join(a.name for a in ACTIVATIONS)}). Computed so from its {len(layers)} dense layers, the outputs of "
        "this model do not come out: it has other parameters (normalization), branches, or another activation."
    )


def _biases(objective: AbstractObjective, layers: Sequence[Layer]) -> list[np.ndarray | None] | list[np.ndarray]:
    """Those that the layers tell; else every parameter that is no weight, in the order of the vector."""
    if any(layer.bias is not None for layer in layers):
        told = [layer.bias for layer in layers]
        if sum(layer.weight.size for layer in layers) + sum(b.size for b in told if b is not None) == objective.size:
            return told
    theta, sizes = objective.asnumpy(objective.parameters()), {layer.weight.size for layer in layers}
    names = {layer.name for layer in layers}
    return [theta[at] for name, at in objective.blocks.items() if name not in names or at.stop - at.start not in sizes]


def _assign(biases: Sequence[np.ndarray | None], widths: Sequence[int]) -> list[np.ndarray | None] | None:
    """One bias or none for each layer, in order; `None` if some are left over."""
    if len(biases) == len(widths) and all(b is None or len(b) == m for b, m in zip(biases, widths, strict=True)):
        return list(biases)
    rest, given = list(biases), []
    for width in widths:
        given.append(rest.pop(0) if rest and rest[0] is not None and len(rest[0]) == width else None)
    return None if rest else given


def _reproduces(network: DenseNetwork, outputs: np.ndarray, epsilon: float) -> bool:
    h, size = network.x, np.abs(network.x)
    for number, (w, b) in enumerate(zip(network.weights, network.biases, strict=True)):
        h = network.activation.apply(h) if number else h
        shift = np.zeros(len(w)) if b is None else b
        h, size = h @ w.T + shift, size @ np.abs(w).T + np.abs(shift)
    # `size` bounds every partial sum, so that a forward pass is off by a few units of it per layer.
    return bool(np.all(np.abs(h - outputs) <= 16 * (1 + len(network.weights)) * epsilon * size))


@instrument(
    gradients=0.01,
    cost="none: it reads the weights",
    invariances="permutation of neurons; not rescaling of layers that leaves the function as it is",
    says="How large the weights are, in all and in each parameter tensor.",
    not_says="A small norm is no simple function: the layers of a ReLU network can be rescaled against each other "
    "without changing it [@dinh2017sharp].",
    needs="any model",
)
def _weight_norm(objective: AbstractObjective, *, rng: np.random.Generator, state: dict[str, Any]) -> Estimate:
    r"""Euclidean norm of the weights, $\|\theta\|_2$, in all (`total`) and of each parameter tensor by its name.

    The bound is that of rounding. [@dinh2017sharp, on what rescaling layers does; number not checked]
    """
    theta = objective.asnumpy(objective.parameters())
    value = np.array([np.linalg.norm(theta), *(np.linalg.norm(theta[at]) for at in objective.blocks.values())])
    # The entries are exact; the sum is in float64.
    return Estimate(value, SUM * np.finfo(np.float64).eps * value, names=("total", *objective.blocks))


def _order(objective: AbstractObjective, scales: Sequence[float]) -> tuple[float, float]:
    if not scales or any(not c > 0 or c == 1 for c in scales):
        raise UsageError(f"scales are positive factors other than 1; got {tuple(scales)}. Try (0.5, 0.9, 1.1, 2.0).")
    theta, outputs = objective.parameters(), objective.outputs()
    if not np.any(outputs):
        raise NotApplicable("The outputs are zero on the probe data: every order would fit. Measure away from zero.")
    there = [(c, objective.at(theta * float(c)).outputs()) for c in scales]
    return homogeneity_order(outputs, there, objective.epsilon)


SCALES = (0.5, 0.9, 1.1, 2.0)
TOLERANCE = 1e-3


def order_of(objective: AbstractObjective, order: float | None, what: str) -> float:
    """The order of homogeneity given, or else measured; raises `NotApplicable` where the model has none."""
    if order is not None:
        if not order > 0:
            raise UsageError(f"The order of homogeneity is positive; got order={order}.")
        return float(order)
    found, bound = _order(objective, SCALES)
    if not bound <= TOLERANCE or not found > TOLERANCE:
        raise NotApplicable(
            f"{what} is of networks that are homogeneous in their weights, f(cθ) = c^L f(θ); this one is not: the "
            f"order that fits best, {found:.4g}, is off by up to {bound:.2g} (biases and normalization break it). "
            "Give order= to take one on trust."
        )
    # An order within the bound of a whole number is that number, as products of layers have it.
    return float(round(found)) if abs(found - round(found)) <= bound else found


@instrument(
    gradients=lambda options: 0.4 * (1 + len(options["scales"])),
    cost="one forward pass per scale, and one",
    invariances="permutation of neurons; rescaling of layers",
    says="The power of c by which the outputs grow when all weights are multiplied by c.",
    not_says="It is tested at the scales and inputs given, not proved for all; an order does not say how many layers "
    "the network has.",
    needs="outputs that are not all zero",
)
def _homogeneity(
    objective: AbstractObjective,
    *,
    rng: np.random.Generator,
    state: dict[str, Any],
    scales: Sequence[float] = SCALES,
    tolerance: float = TOLERANCE,
) -> Estimate:
    r"""Order L of homogeneity of the network in its weights: $f(c\theta, x) = c^L f(\theta, x)$ for every c > 0.

    Tested at each c of `scales`, near 1 and away from it, on the probe data: $L_c = \log \rho_c / \log c$ with
    $\rho_c$ the least-squares factor between $f(c\theta)$ and $f(\theta)$; L is their mean. The bound is their spread
    plus $(\|f(c\theta) - \rho_c f\| / \|f(c\theta)\| + 64\,\epsilon) / |\log c|$. A network for which it exceeds
    `tolerance` is not homogeneous, and the value is not converged. Theorems on the bias of gradient descent towards
    large margins assume it. [@lyu2020gradient, assumption B2, number not checked]
    """
    order, bound = _order(objective, scales)
    if bound <= tolerance:
        return Estimate(order, bound)
    reason = (
        f"not homogeneous: at scales {', '.join(f'{c:g}' for c in scales)} the order that fits best, {order:.4g}, is "
        f"off by up to {bound:.2g}, above the tolerance {tolerance:g}; biases and normalization layers break it"
    )
    return Estimate(np.nan, np.inf, converged=False, reason=reason, details={"unconverged": order})


@instrument(
    gradients=0.01,
    cost="none: it reads the weights",
    invariances="permutation and rotation of hidden units; a factor on all weights; not rescaling of layers",
    says="How unequal neighbouring layers are: 0 for layers balanced as gradient flow from small weights leaves them.",
    not_says="Near 0 does not say that training was from small weights; the differences are conserved by gradient "
    "flow only, and drift with large steps, weight decay, Adam, biases.",
    needs="two dense layers, one after the other, weights stored (out, in)",
)
def _balance(objective: AbstractObjective, *, rng: np.random.Generator, state: dict[str, Any]) -> Estimate:
    r"""Imbalance of neighbouring dense layers, of the matrices and of the norms, relative to the layers' size.

    For layers l and l+1 that follow on each other, with $s = (\|W_l\|_F^2 + \|W_{l+1}\|_F^2) / 2$: by the name
    `l, l+1 matrix`, $\|W_{l+1}^\top W_{l+1} - W_l W_l^\top\|_F / s$, conserved (times s) by gradient flow in linear
    networks; by `l, l+1 norm`, $(\|W_{l+1}\|_F^2 - \|W_l\|_F^2) / s$, conserved for homogeneous activations, where also
    each neuron's own difference is (`details["neurons"]`: one vector per pair, not divided by s). Both are for layers
    without biases. The bound is that of rounding. [@du2018algorithmic, numbers not checked]
    """
    pairs = [
        (a, b)
        for a, b in pairwise(objective.layers())
        if a.kind == b.kind == "dense" and not a.shared and not b.shared and a.weight.shape[0] == b.weight.shape[1]
    ]
    if not pairs:
        raise NotApplicable(
            "Balance compares two dense layers of which the second is as wide at its input as the first at its output; "
            "this model has none. For convolutions compare weight_norm by layer."
        )
    names, value, neurons = [], [], {}
    for a, b in pairs:
        before, after = a.weight @ a.weight.T, b.weight.T @ b.weight
        size = (np.trace(before) + np.trace(after)) / 2
        if size == 0:
            raise NotApplicable(f"The layers {a.name} and {b.name} are zero: balanced, but with no size to compare to.")
        names += [f"{a.name}, {b.name} matrix", f"{a.name}, {b.name} norm"]
        value += [np.linalg.norm(after - before) / size, (np.trace(after) - np.trace(before)) / size]
        neurons[f"{a.name}, {b.name}"] = np.diag(after) - np.diag(before)
    # The weights are exact, the products in float64; sums over the widest layer.
    widest = max(max(layer.matrix.shape) for pair in pairs for layer in pair)
    bound = np.full(len(value), (SUM + widest) * np.finfo(np.float64).eps)
    return Estimate(np.array(value), bound, names=tuple(names), details={"neurons": neurons})
