r"""Bounds on the test error from the training data and the weights, with their constants.

All hold with probability at least $1 - \delta$ over n examples drawn independently from the distribution that the test
error is of, for all weights at once: the probe data must be the training set, or a part of it chosen without a look at
the model. Each says whether it is vacuous, as most are.
"""

from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from ..errors import NotApplicable, ProbeError, UsageError
from .bernoulli import kl_inverse
from .catalogue import instrument
from .estimate import Estimate
from .layers import DenseNetwork, dense_network
from .margin import margins, margins_of
from .objective import AbstractObjective

Matrix = Float[np.ndarray, "_ _"] | Float[Array, "_ _"]  # each layer has its own shape
Scalar = Float[Array, ""] | float
NEEDS = "a classifier; dense layers in a row with ReLU, leaky ReLU or identity (tanh: spectral, without biases)"
NOT_SAYS = (
    "It is a guarantee, not an estimate: the test error is likely far smaller, and a smaller bound does not promise a "
    "smaller error."
)
# Sums of a few thousand terms in float64; what decides is the theorem, not the rounding.
ROUNDING = 1e-9


def _require_delta(delta: float) -> None:
    if not 0 < delta < 1:
        raise UsageError(f"delta, the probability with which the bound may fail, is between 0 and 1; got {delta}.")


def _report(value: float, constant: str, details: Mapping[str, Any]) -> Estimate:
    vacuous = bool(value >= 1)
    told = f"Vacuous: a bound of {value:.3g} on an error rate says nothing." if vacuous else "Not vacuous."
    return Estimate(
        value, ROUNDING * value, details={"vacuous": vacuous, "constant": constant, **details}, notes=(told, constant)
    )


def _whole(index: Int[np.ndarray, "*s"]) -> Float[np.ndarray, "*s"]:
    """ln of 2(|j|+1)(|j|+2): what it costs to have the bound for every integer j; the reciprocals sum to 3/4."""
    return np.log(2.0 * (np.abs(index) + 1.0) * (np.abs(index) + 2.0))


def _natural(index: Int[np.ndarray, "*s"]) -> Float[np.ndarray, "*s"]:
    """ln of (i+1)(i+2): the same for every i = 0, 1, …; the reciprocals sum to 1."""
    return np.log((index + 1.0) * (index + 2.0))


def _one_output(network: DenseNetwork) -> tuple[tuple[np.ndarray, ...], np.ndarray, int]:
    """Weights without biases, inputs, and the number of outputs; two outputs are told apart by their difference."""
    weights, x = network.without_biases()
    if len(weights[-1]) == 2:
        weights = (*weights[:-1], weights[-1][1:] - weights[-1][:1])
    if any(not np.any(w) for w in weights):
        raise NotApplicable("A layer is zero: so are all outputs, and every margin. There is nothing to bound.")
    return weights, x, len(weights[-1])


def _margin_levels(q: Float[np.ndarray, " n"], step: float) -> Int[np.ndarray, " g"]:
    """Integers j for which exp(j · step) are margins to try: those of the data, on the grid that is paid for."""
    positive = q[q > 0]
    if not len(positive):
        return np.array([0])
    levels = np.quantile(positive, np.linspace(0, 1, 201))
    return np.unique(np.floor(np.log(levels) / step)).astype(int)


def _ramp(q: Float[np.ndarray, " n"], gamma: Float[np.ndarray, " g"]) -> Float[np.ndarray, " g"]:
    return np.array([np.mean(np.clip(1 - q / g, 0, 1)) for g in gamma])


def spectral_complexity(weights: tuple[Matrix, ...]) -> Scalar:
    r"""$\prod_l \|W_l\|_2\,(\sum_l (\|W_l^\top\|_{2,1} / \|W_l\|_2)^{2/3})^{3/2}$, the (2,1) norm by rows; traced too.

    >>> value = spectral_complexity((np.diag([2.0, 2.0]), np.array([[3.0, 0.0]])))
    >>> round(value / (6 * (2 ** (2 / 3) + 1) ** 1.5), 9)
    1.0
    """
    xp = jnp if isinstance(weights[0], Array) else np
    spectral = xp.stack([xp.linalg.norm(w, 2) for w in weights])
    rows = xp.stack([xp.sum(xp.linalg.norm(w, axis=1)) for w in weights])
    value = xp.prod(spectral) * xp.sum((rows / spectral) ** (2.0 / 3.0)) ** 1.5
    return value if xp is jnp else float(value)


@instrument(
    gradients=0.5,
    cost="one forward pass and a singular value decomposition of each layer",
    invariances="permutation of neurons; rescaling of layers, but for logarithms",
    says="The test error is at most this, with probability 1 − delta, by the product of the layers' spectral norms "
    "over the margin.",
    not_says=NOT_SAYS,
    needs=NEEDS,
)
def _spectral_margin_bound(
    objective: AbstractObjective, *, rng: np.random.Generator, state: dict[str, Any], delta: float = 0.05
) -> Estimate:
    r"""Spectrally-normalized margin bound on the test 0-1 error, with explicit constants.

    For every margin γ and all weights, with $R = \prod_l \|W_l\|_2 (\sum_l (\|W_l^\top\|_{2,1} /
    \|W_l\|_2)^{2/3})^{3/2}$, $\|X\|_F^2 = \sum_i \|x_i\|^2$, and m the largest width:

    $$ \Pr[\text{error}] \le \hat R_\gamma + \frac{8}{n^{3/2}} + \frac{36\,c\,\|X\|_F \ln n}{\gamma n}
    \sqrt{\ln (2 m^2)}\,R' + 3\sqrt{\frac{\ln (2/\delta) + U}{2n}}. $$

    $\hat R_\gamma$ is the mean ramp loss $\min(1, \max(0, 1 - q_i/\gamma))$; c = 2 is the Lipschitz constant of the
    margin in the outputs (1 with one output, and with two, taken as their difference). The constant 36 = 2 · 18 comes
    from the paper's covering number put into Dudley's integral from 1/n. The theorem hides in $\tilde O$ what it costs
    to hold for all norms at once; here norms and γ are rounded to a grid of ratio $e^{0.1/L}$, which makes R into
    $R' \le e^{0.2} R$, and U is the sum of the logarithms of the grid's weights. Reference matrices are zero,
    activations 1-Lipschitz and zero at zero. Biases are absorbed by a unit that is always 1, which enlarges the norms.
    The model is computed anew from its layers to see that the theorem is of it: convolutions, normalization, residual
    branches raise `NotApplicable`. `details`: `vacuous`, `constant`, `gamma`, `empirical`, `complexity` (R) and
    `union` (U). [@bartlett2017spectrally, Theorem 1.1, constants of appendix A.2 not checked]
    """
    _require_delta(delta)
    network = dense_network(objective)
    weights, x, outputs = _one_output(network)
    q, n = margins(objective.outputs(), objective.labels()), objective.examples
    step = 0.1 / len(weights)
    spectral = np.array([np.linalg.norm(w, 2) for w in weights])
    ratios = np.array([np.linalg.norm(w, axis=1).sum() for w in weights]) / spectral
    s, r = (np.ceil(np.log(a) / step - 1e-9).astype(int) for a in (spectral, ratios))
    complexity = float(np.exp(step * s.sum()) * np.sum(np.exp(step * r * 2 / 3)) ** 1.5)
    levels = _margin_levels(q, step)
    gamma, empirical = np.exp(step * levels), _ramp(q, np.exp(step * levels))
    width = max(max(w.shape) for w in weights)
    lipschitz = 1 if outputs == 1 else 2
    capacity = 36 * lipschitz * np.linalg.norm(x) * np.log(n) * np.sqrt(np.log(2 * width**2)) / n * complexity
    union = float(_whole(s).sum() + _natural(np.maximum(r, 0)).sum()) + _whole(levels)
    value = empirical + 8 / n**1.5 + capacity / gamma + 3 * np.sqrt((np.log(2 / delta) + union) / (2 * n))
    best = int(np.argmin(value))
    details = {
        "gamma": float(gamma[best]),
        "empirical": float(empirical[best]),
        "complexity": spectral_complexity(weights),
        "input_norm": float(np.linalg.norm(x)),
        "union": float(union[best]),
        "activation": network.activation.name,
        "delta": delta,
    }
    constant = f"Constant {36 * lipschitz} before ‖X‖ ln n √ln(2m²) R / (γn), 3 before the deviation."
    return _report(float(value[best]), constant, details)


@instrument(
    gradients=0.4,
    cost="one forward pass",
    invariances="permutation of neurons; rescaling of layers",
    says="The test error is at most this, with probability 1 − delta, by the product of the layers' Frobenius norms "
    "over the margin.",
    not_says=NOT_SAYS,
    needs=NEEDS,
)
def _golowich_bound(
    objective: AbstractObjective, *, rng: np.random.Generator, state: dict[str, Any], delta: float = 0.05
) -> Estimate:
    r"""Size-independent margin bound on the test 0-1 error, by the product of Frobenius norms.

    Networks of L weight matrices with $\prod_l \|W_l\|_F \le M$ and one output have on $x_1, \dots, x_n$ the Rademacher
    complexity at most $M (\sqrt{2 L \ln 2} + 1) \|X\|_F / n$. Hence for every γ and all weights

    $$ \Pr[\text{error}] \le \hat R_\gamma + \frac{c}{\gamma} \frac{(\sqrt{2 L \ln 2} + 1)\,\|X\|_F}{n}
    \prod_l \|W_l\|_F\,e^{0.1} + 3\sqrt{\frac{\ln (2/\delta) + U}{2n}}, $$

    c = 2 with one output (and with two, taken as their difference), 4k with k outputs [@mohri2018foundations, the
    margin bounds of chapters 5 and 9, numbers not checked]. $\hat R_\gamma$ is the mean ramp loss. To hold for all M /
    γ at once, these are rounded to a grid of ratio $e^{0.1}$, at the cost of U. The activation is positively
    homogeneous and 1-Lipschitz. Biases are absorbed by a unit that is always 1. `details`: as those of
    `spectral_margin_bound`. [@golowich2018size, Theorem 1, number not checked]
    """
    _require_delta(delta)
    network = dense_network(objective)
    if not network.activation.homogeneous:
        raise NotApplicable(
            f"The theorem is of positively homogeneous activations; this network's is {network.activation.name}. "
            "spectral_margin_bound holds for it."
        )
    weights, x, outputs = _one_output(network)
    q, n, step = margins(objective.outputs(), objective.labels()), objective.examples, 0.1
    product = float(np.prod([np.linalg.norm(w) for w in weights]))
    lipschitz = 2 if outputs == 1 else 4 * outputs
    gamma = np.exp(0.1 * _margin_levels(q, 0.1))
    levels = np.ceil(np.log(product / gamma) / step - 1e-9).astype(int)
    complexity = (np.sqrt(2 * np.log(2) * len(weights)) + 1) * float(np.linalg.norm(x)) / n
    empirical, union = _ramp(q, gamma), _whole(levels)
    value = empirical + lipschitz * complexity * np.exp(step * levels)
    value = value + 3 * np.sqrt((np.log(2 / delta) + union) / (2 * n))
    best = int(np.argmin(value))
    details = {
        "gamma": float(gamma[best]),
        "empirical": float(empirical[best]),
        "frobenius_product": product,
        "rademacher": float(complexity * product),
        "input_norm": float(np.linalg.norm(x)),
        "union": float(union[best]),
        "activation": network.activation.name,
        "delta": delta,
    }
    constant = (
        f"Constant {lipschitz} (√(2 L ln 2) + 1) before ‖X‖ Π‖W‖ / (γn), L = {len(weights)}; 3 before the deviation."
    )
    return _report(float(value[best]), constant, details)


def perturbed_errors(
    objective: AbstractObjective, sigma: float, draws: int, rng: np.random.Generator
) -> Float[np.ndarray, " m"]:
    r"""0-1 error on the probe data of the network at $\theta + \sigma z$, z standard normal, for each of the draws."""
    theta = objective.parameters()
    errors = []
    for _ in range(draws):
        moved = objective.at(theta + objective.asvector(sigma * rng.normal(size=objective.size)))
        errors.append(np.mean(margins_of(moved)[0] <= 0))
    return np.array(errors)


SIGMAS = tuple(2.0 ** (-j / 2) for j in range(-6, 25))


@instrument(
    gradients=lambda options: 0.4 * (options["draws"] + 4 * len(options["sigmas"])),
    cost="one forward pass per draw, and up to four per σ to choose one",
    invariances="permutation of neurons; not rescaling of layers",
    says="The test error of the network with Gaussian noise of the best σ on its weights is at most this, with "
    "probability 1 − delta.",
    not_says="It is of the randomized network, not of the one at hand, and a guarantee, not an estimate.",
    needs="a classifier",
)
def _pac_bayes_bound(
    objective: AbstractObjective,
    *,
    rng: np.random.Generator,
    state: dict[str, Any],
    delta: float = 0.05,
    draws: int = 200,
    sigmas: tuple[float, ...] = SIGMAS,
) -> Estimate:
    r"""PAC-Bayes bound on the test 0-1 error of the network with weights drawn from $N(\theta, \sigma^2 I)$.

    With the prior $N(\theta_0, \sigma^2 I)$ (θ₀ the initial weights where they are known, else 0: chosen without the
    data) and J values of σ (`sigmas`, a grid fixed beforehand),
    $\mathrm{KL} = \|\theta - \theta_0\|^2 / (2\sigma^2)$ and with probability $1 - \delta/2$, for all σ of the grid,

    $$ \mathrm{kl}(\hat e \,\|\, e) \le \frac{\mathrm{KL} + \ln (2\sqrt n\,J / (\delta/2))}{n}, $$

    [@maurer2004note, number not checked] with $\hat e$ and e the training and test error, averaged over the weights.
    $\hat e$ in turn is bounded from the mean $\tilde e$ of `draws` perturbed networks by
    $\mathrm{kl}(\tilde e \,\|\, \hat e) \le \ln (2 / (\delta/2)) / \mathrm{draws}$, with probability $1 - \delta/2$
    [@dziugaite2017computing, section 3, number not checked]. The value is the result of inverting both; σ is the one
    that looks best from 4 draws each, which are not used again. `details`: `sigma` (a standard deviation), `kl`,
    `empirical` ($\tilde e$), `prior`, `vacuous`, `constant`.
    """
    _require_delta(delta)
    if objective.examples < 8:
        raise ProbeError(f"The inequality is of at least 8 examples; there are {objective.examples}.")
    if draws < 1 or not sigmas or any(not s > 0 for s in sigmas):
        raise UsageError(f"draws is at least 1 and sigmas are positive; got draws={draws}, sigmas={sigmas}.")
    n, count = objective.examples, len(sigmas)
    theta = objective.asnumpy(objective.parameters())
    initial = objective.settings.initial
    start = np.zeros_like(theta) if initial is None else initial.asnumpy(initial.parameters())
    squared = float(np.sum((theta - start) ** 2))
    sampling = np.log(4 / delta) / draws

    def bound(error: float, sigma: float) -> float:
        budget = (squared / (2 * sigma**2) + np.log(4 * np.sqrt(n) * count / delta)) / n
        return float(kl_inverse(kl_inverse(error, sampling), budget))

    best, sigma = np.inf, max(sigmas)
    for candidate in sorted(sigmas, reverse=True):
        # Smaller σ have larger KL: once even a faultless network would do worse, so would all that follow.
        if bound(0.0, candidate) >= min(best, 1.0):
            break
        promised = bound(float(perturbed_errors(objective, candidate, 4, rng).mean()), candidate)
        best, sigma = min((best, sigma), (promised, candidate))
    error = float(perturbed_errors(objective, sigma, draws, rng).mean())
    details = {
        "sigma": sigma,
        "kl": squared / (2 * sigma**2),
        "empirical": error,
        "draws": draws,
        "prior": "zero" if initial is None else "initial weights",
        "delta": delta,
    }
    # A bound on a probability: where the budget is large the inverse is 1, which is what vacuous means.
    constant = f"Constants: (KL + ln(4√n · {count} / δ)) / n and ln(4 / δ) / draws, through inverses of kl."
    return _report(bound(error, sigma), constant, details)


def log_growth(
    n: int, parameters: tuple[int, ...], units: tuple[int, ...], outputs: int, *, breakpoints: int = 1
) -> float:
    r"""Upper bound on the logarithm of the number of ways in which such networks can err on n examples.

    `parameters` of each layer, `units` of each hidden one, activations piecewise linear with so many breakpoints.

    >>> round(float(np.exp(log_growth(100, (2,), (), 1))) / (2 * (2 * np.e * 100 / 2) ** 2), 9)
    1.0
    """
    seen = np.cumsum(parameters)
    total = 0.0
    for degree, (w, k) in enumerate(
        zip(seen, (*(breakpoints * u for u in units), max(1, outputs - 1)), strict=True), 1
    ):
        if n * k <= w:
            total += n * k * np.log(2)
        elif k:
            total += np.log(2) + w * (1 + np.log(2 * n * k * degree / w))
    return float(min(total, n * np.log(2)))


@instrument(
    gradients=0.4,
    cost="one forward pass",
    invariances="every change of the weights that leaves the training error as it is",
    says="The test error is at most this, with probability 1 − delta, by the number of parameters alone.",
    not_says=NOT_SAYS,
    needs=NEEDS,
)
def _parameter_count_bound(
    objective: AbstractObjective, *, rng: np.random.Generator, state: dict[str, Any], delta: float = 0.05
) -> Estimate:
    r"""Bound on the test 0-1 error by the number of parameters, of order $\sqrt{W L \log W / n}$.

    $$ \Pr[\text{error}] \le \hat R + \sqrt{\frac{2 \ln \Pi(n)}{n}} + \sqrt{\frac{\ln (1/\delta)}{2n}} $$

    [@mohri2018foundations, chapter 3, number not checked], with $\hat R$ the training error and Π the growth function,
    bounded as for piecewise linear networks in [@bartlett2019nearly, Theorem 6, number not checked],

    $$ \ln \Pi(n) \le \sum_{i=1}^{L} \ln 2 + W_i \ln \frac{2 e\,n\,k_i\,i}{W_i}, $$

    $W_i$ the parameters up to layer i, $k_i$ the units of layer i times the breakpoints of the activation (a layer
    without breakpoints adds nothing). For k classes the last layer counts k − 1 units, the differences that decide
    whether an example is misclassified, which extends the theorem from two classes. `details`: `vc_dimension`, the
    largest number of examples that this does not keep from being shattered; `parameters`, `layers`, `W L log2 W`,
    `log_growth`, `vacuous`, `constant`.
    """
    _require_delta(delta)
    network = dense_network(objective)
    pieces = network.activation.pieces
    if pieces is None:
        raise NotApplicable(
            f"The theorem is of piecewise linear activations; this network's is {network.activation.name}. "
            "pac_bayes_bound holds for any."
        )
    given = zip(network.weights, network.biases, strict=True)
    parameters = tuple(w.size + (0 if b is None else b.size) for w, b in given)
    units, outputs = tuple(len(w) for w in network.weights[:-1]), len(network.weights[-1])
    q, n = margins(objective.outputs(), objective.labels()), objective.examples

    def growth(m: int) -> float:
        return log_growth(m, parameters, units, outputs, breakpoints=pieces - 1)

    low, high = 1, 2
    while growth(high) >= high * np.log(2):
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if growth(middle) >= middle * np.log(2) else (low, middle)
    empirical, total = float(np.mean(q <= 0)), sum(parameters)
    value = empirical + np.sqrt(2 * growth(n) / n) + np.sqrt(np.log(1 / delta) / (2 * n))
    details = {
        "empirical": empirical,
        "vc_dimension": low,
        "parameters": total,
        "layers": len(parameters),
        "W L log2 W": total * len(parameters) * float(np.log2(total)) if total > 1 else 0.0,
        "log_growth": growth(n),
        "activation": network.activation.name,
        "delta": delta,
    }
    return _report(float(value), "Constant 2e inside the logarithm, 2 before ln Π(n), none hidden.", details)
