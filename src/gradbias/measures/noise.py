r"""Noise of the stochastic gradient: how much, in which directions, and how heavy its tails are.

Throughout, $g_i = \nabla \ell_i(\theta)$ is the gradient of one example's loss, $\bar g$ their mean and
$\Sigma = \frac1n \sum_i (g_i - \bar g)(g_i - \bar g)^\top$ their covariance over the probe data.
"""

from typing import Any, Literal

import numpy as np

from ..errors import NotApplicable, ProbeError, UsageError
from . import stochastic
from .catalogue import instrument
from .estimate import Estimate
from .objective import AbstractObjective, Vector
from .per_example import (
    centred_gram,
    each_gradient,
    entropy_rank,
    hill,
    jackknife,
    simple_noise_scale,
    tail_bound,
)

# Back-propagation makes each entry of a gradient with a few rounding units per layer, relative to the size of what is
# summed: 16 covers a deep network, as errors of either sign partly cancel.
ROUNDING = 16.0


def _sample(objective: AbstractObjective, examples: int | None, rng: np.random.Generator) -> tuple[Any, list[str]]:
    """The objective on at most so many examples, and what a reader must know of it."""
    if examples is not None and examples < 2:
        raise UsageError(f"A covariance needs at least 2 examples; got examples={examples}.")
    if objective.examples < 2:
        raise ProbeError("There is one example in the probe data: its gradient has no noise. Give more examples.")
    if examples is None or examples >= objective.examples:
        return objective, []
    chosen = np.sort(rng.choice(objective.examples, examples, replace=False))
    told = f"Σ is that of {examples} examples drawn from the {objective.examples} of the probe data (option examples)."
    return objective.subset(chosen), [told]


@instrument(
    gradients=1.1,
    cost="one gradient",
    invariances="permutation of neurons; not rescaling of layers",
    says="How steep the risk over the probe data is: 0 at a stationary point.",
    not_says="A small gradient is no minimum, and no small distance to one; its size depends on how the network is "
    "parametrized [@dinh2017sharp].",
)
def _gradient_norm(objective: AbstractObjective, *, rng: np.random.Generator, state: dict[str, Any]) -> Estimate:
    r"""Euclidean norm of the gradient of the risk over the probe data, $\|\nabla L(\theta)\|_2$.

    The bound is rounding, $16\,\epsilon\,(\|\nabla L\| + s)$, where s estimates the size of one example's gradient
    from the gradient $g_B$ of up to 8 random ones, $s = \sqrt{8}\,\|g_B\|$: near a stationary point large gradients
    cancel. It does not count what cancels inside one example's loss, as in a saturated softmax in float32.
    """
    g = objective.asnumpy(objective.gradient())
    if not np.all(np.isfinite(g)):
        raise ProbeError("The gradient of the risk has entries that are NaN or infinite: measure before it diverges.")
    few = min(8, objective.examples)
    batch = objective.subset(np.sort(rng.choice(objective.examples, few, replace=False)))
    size = np.sqrt(few) * float(np.linalg.norm(objective.asnumpy(batch.gradient())))
    value = float(np.linalg.norm(g))
    return Estimate(value, ROUNDING * objective.epsilon * (value + size))


@instrument(
    gradients=2.0,
    cost="one gradient and one pass of per-example gradients",
    invariances="permutation of neurons; a factor on the loss; not rescaling of layers",
    says="The batch size at which the noise of the stochastic gradient is as large as the gradient itself.",
    not_says="It is of the present weights and the plain loss: it predicts a good batch size only as far as the "
    "Hessian is like the identity, and not for Adam.",
)
def _noise_scale(
    objective: AbstractObjective,
    *,
    rng: np.random.Generator,
    state: dict[str, Any],
    population: Literal["sample", "probe"] = "sample",
) -> Estimate:
    r"""Simple noise scale $B = \operatorname{tr}\Sigma / \|g\|^2$: noise of one example's gradient over the gradient.

    `population="sample"` takes the probe data as a sample of a population and estimates both parts without bias:
    $\operatorname{tr}\Sigma = \frac{n}{n-1}(\frac1n\sum_i \|g_i\|^2 - \|\bar g\|^2)$ and
    $\|g\|^2 = \|\bar g\|^2 - \operatorname{tr}\Sigma / n$. The bound is 1.96 jackknife standard errors of
    $\log B$, taken on the wider side (95 % confidence for large n; fewer for heavy tails). Where
    $\|g\|^2$ is not 3 standard errors above 0 little bounds B from above, and it is not converged.
    Weights trained on the probe data have made $\bar g$ small there: take others for the sample.
    `population="probe"` is B of the probe data themselves, $\Sigma$ with 1/n: exact but for rounding.
    [@mccandlish2018empirical, section 2.2 and appendix A.1, numbers not checked]
    """
    if population not in ("sample", "probe"):
        raise UsageError(f"population is 'sample' or 'probe'; got {population!r}.")
    n = objective.examples
    if n < (3 if population == "sample" else 1):
        raise ProbeError(f"The noise of a population needs at least 3 examples; there are {n}. Give more examples.")
    mean = objective.asnumpy(objective.gradient())
    parts = [(np.sum(rows**2, axis=1), rows @ mean) for rows in each_gradient(objective)]
    squares, inner = (np.concatenate(part) for part in zip(*parts, strict=True))
    rounding = ROUNDING * objective.epsilon * float(np.mean(squares))
    if population == "probe":
        return _of_the_probe(float(np.mean(squares)), float(mean @ mean), rounding, objective.epsilon)
    (trace, signal, ratio), left = simple_noise_scale(squares, inner)
    errors = [jackknife(left[:, 0]), jackknife(left[:, 1])]
    details = {"trace": trace, "signal": signal, "trace_error": errors[0], "signal_error": errors[1]}
    # Three, for a bound that covers: among those just above 1.96, four in a hundred too many are chance.
    low = signal - 3 * errors[1] - rounding
    if not low > 0 or np.any(left[:, 1] <= 0):
        floor = max(0.0, trace - 1.96 * errors[0]) / (max(signal, 0.0) + 1.96 * errors[1] + rounding)
        reason = (
            f"‖g‖² = {signal:.3g} with standard error {errors[1]:.2g} is not clear of 0 with {n} examples: the noise "
            f"scale is above {floor:.3g}, and little bounds it from above; give more data, not trained on"
        )
        return Estimate(
            np.nan, np.inf, converged=False, reason=reason, details=details | {"unconverged": ratio}, confidence=0.95
        )
    spread = 1.96 * jackknife(np.log(left[:, 0] / left[:, 1]))
    bound = ratio * np.expm1(spread) + rounding * (1 + ratio) / signal
    return Estimate(ratio, bound, details=details, confidence=stochastic.CONFIDENCE)


def _of_the_probe(mean: float, signal: float, rounding: float, epsilon: float) -> Estimate:
    trace = mean - signal
    # The rounding of ‖ḡ‖² is twice ‖ḡ‖ times that of ḡ, which is a mean of n gradients.
    off = 2 * ROUNDING * epsilon * np.sqrt(mean * signal)
    if not signal > off:
        return Estimate(
            np.nan,
            np.inf,
            converged=False,
            reason=f"‖ḡ‖² = {signal:.3g} is within rounding ({off:.1g}) of 0: the noise scale has no upper bound",
            details={"unconverged": trace / signal if signal else np.inf, "trace": trace, "signal": signal},
        )
    bound = (rounding + off + trace / signal * off) / (signal - off)
    return Estimate(trace / signal, bound, details={"trace": trace, "signal": signal})


@instrument(
    gradients=1.5,
    cost="one pass of per-example gradients and an eigendecomposition of size n; (c + 1) / 2 passes for c chunks",
    invariances="permutation of neurons and rotation of the weights; not rescaling of layers",
    says="How much noise the stochastic gradient has, and in how few directions most of it lies.",
    not_says="It is of single examples (a batch of B drawn with replacement has Σ / B); where it points is not said: "
    "see noise_alignment.",
)
def _noise_covariance(
    objective: AbstractObjective,
    *,
    rng: np.random.Generator,
    state: dict[str, Any],
    k: int = 10,
    examples: int | None = 1024,
) -> Estimate:
    r"""Trace, effective rank and `k` largest eigenvalues of the covariance Σ of the per-example gradients.

    $\Sigma = \frac1n\sum_i (g_i - \bar g)(g_i - \bar g)^\top$ has the non-zero eigenvalues of the centred Gram matrix
    over n; nothing of size P × P is formed. Names: `trace`; `effective_rank`, $\exp(-\sum_i p_i \log p_i)$ with
    $p_i = \lambda_i / \operatorname{tr}\Sigma$ [@roy2007effective]; `1` … `k`. At most `examples` examples are used,
    drawn at random; `None` for all. Bounds are those of rounding: $16\,\epsilon\,\overline{\|g_i\|^2}$ on every
    eigenvalue and on their distance in trace norm, carried to the entropy by the inequality of Audenaert
    [@audenaert2007sharp, number not checked]. `details["eigenvalues"]` has all of them.
    """
    if k < 1:
        raise UsageError(f"k counts eigenvalues, from 1; got k={k}.")
    part, notes = _sample(objective, examples, rng)
    gram, size = centred_gram(part)
    n = part.examples
    values = np.linalg.eigvalsh(gram / n)[::-1][: n - 1]
    trace = float(np.trace(gram)) / n
    off = ROUNDING * objective.epsilon * size
    if not trace > off:
        raise NotApplicable(
            f"All {n} examples have the same gradient up to rounding: there is no noise. More or other examples may "
            "have some."
        )
    shown = min(k, n - 1, objective.size)
    rank, rank_bound = entropy_rank(values, off / trace)
    names = ("trace", "effective_rank", *(str(i + 1) for i in range(shown)))
    return Estimate(
        np.array([trace, rank, *values[:shown]]),
        np.array([off, rank_bound, *np.full(shown, off)]),
        names=names,
        notes=tuple(notes),
        details={"eigenvalues": values},
    )


def _noise_directions(objective: AbstractObjective, count: int, rng: np.random.Generator) -> tuple[list[Vector], bool]:
    r"""Vectors u with mean $u u^\top$ equal to Σ: random signs over examples, or all if these are fewer."""
    n, mean = objective.examples, objective.gradient()
    chunks, start = objective.per_example_gradients(), 0
    if count >= n:
        return [row - mean for chunk in chunks for row in chunk], True
    signs = rng.choice([-1.0, 1.0], size=(count, n))
    directions = [mean * float(-s.sum() / np.sqrt(n)) for s in signs]
    for chunk in chunks:
        part = signs[:, start : start + len(chunk)] / np.sqrt(n)
        directions = [u + objective.asvector(s) @ chunk for u, s in zip(directions, part, strict=True)]
        start += len(chunk)
    return directions, False


@instrument(
    gradients=lambda options: 3.0 + 4.0 * options["probes"],
    cost="up to three products with the Hessian per probe, one gradient, two passes of per-example gradients",
    invariances="permutation of neurons and rotation of the weights; factors on the loss; not rescaling of layers",
    says="Whether the gradient noise lies in the directions in which the risk is curved.",
    not_says="Alignment is not size: see noise_scale; and whether the noise leads to flat minima depends on the step "
    "size and the batch.",
    needs="a loss differentiable twice",
)
def _noise_alignment(
    objective: AbstractObjective,
    *,
    rng: np.random.Generator,
    state: dict[str, Any],
    probes: int = 32,
    examples: int | None = 512,
) -> Estimate:
    r"""Alignment of the gradient noise Σ with the Hessian H: their cosine, and noise along curvature over isotropic.

    `cosine` is $\operatorname{tr}(H\Sigma) / (\|H\|_F \|\Sigma\|_F)$ [@wu2022alignment, with the Gauss–Newton matrix
    for H, number not checked]; `anisotropy` is $\operatorname{tr}(H\Sigma) / (\operatorname{tr}H \operatorname{tr}
    \Sigma / P)$, 1 for isotropic noise of equal size [@zhu2019anisotropic, number not checked]. Σ is exact, of at most
    `examples` examples drawn at random. $\operatorname{tr}(H\Sigma)$ is the mean of $u^\top H u$ over `probes` random
    sign combinations u of the centred gradients, or over all examples where these are not more; $\|H\|_F^2$ and
    $\operatorname{tr} H$ are estimated from at most `probes` products each (32 at least). Monte Carlo errors are at 95
    % confidence, to first order in those of the parts. `anisotropy` is not
    converged where the error of $\operatorname{tr} H$ reaches 0.
    """
    if probes < 2:
        raise UsageError(f"A Monte Carlo error needs at least 2 probes; got probes={probes}.")
    part, notes = _sample(objective, examples, rng)
    gram, size = centred_gram(part)
    total, frobenius = float(np.trace(gram)) / part.examples, float(np.linalg.norm(gram)) / part.examples
    if not total > ROUNDING * objective.epsilon * size:
        raise NotApplicable("All examples have the same gradient up to rounding: there is no noise to be aligned.")
    found, exact = _traces(objective, part, probes, rng)
    (t, dt), (h, dh), (f2, df2) = found
    if f2 == 0:
        raise NotApplicable("The Hessian vanishes on every probe: there is no curvature for the noise to align with.")
    scale = np.sqrt(f2) * frobenius
    # Products are off by rounding relative to ‖H‖; what is divided by ‖H‖_F ‖Σ‖_F leaves tr Σ / ‖Σ‖_F units of it.
    off = 4 * ROUNDING * objective.epsilon
    cosine, cosine_bound = t / scale, np.hypot(dt, t * df2 / (2 * f2)) / scale + off * total / frobenius
    value, bound, reason = np.nan, np.inf, f"tr H = {h:.3g} ± {dh:.2g} is not clear of 0: anisotropy needs more probes"
    ratio = t * objective.size / (h * total) if h else np.nan
    if abs(h) > dh:
        unit, value, reason = objective.size / (abs(h) * total), ratio, ""
        bound = unit * np.hypot(dt, t * dh / h) / (1 - dh / abs(h)) + off * unit * total * np.sqrt(f2)
    details = {"tr_HSigma": t, "tr_H": h, "H_F": np.sqrt(f2), "tr_Sigma": total, "Sigma_F": frobenius}
    return Estimate(
        np.array([cosine, value]),
        np.array([cosine_bound, bound]),
        converged=not reason,
        reason=reason,
        names=("cosine", "anisotropy"),
        confidence=None if exact else stochastic.CONFIDENCE,
        notes=tuple(notes),
        details=details | ({"unconverged": ratio} if reason else {}),
    )


def _traces(
    objective: AbstractObjective, part: AbstractObjective, probes: int, rng: np.random.Generator
) -> tuple[list[tuple[float, float]], bool]:
    """tr HΣ, tr H and ‖H‖²_F with their errors at 95 %; and whether all are exact but for rounding."""
    apply = objective.hessian()
    noise, exact = _noise_directions(part, probes, rng)
    along = np.array([float(u @ apply(u)) for u in noise])
    sketch, most = 8, max(32, probes)
    h = stochastic.trace(apply, rng=rng, sketch=sketch, max_products=most)
    squares = stochastic.squared_frobenius(apply, rng=rng, sketch=sketch, max_products=most)
    found = [
        (float(np.mean(along)), 0.0 if exact else float(stochastic.half_width(along))),
        (h.value, h.bound),
        (squares.value, squares.bound),
    ]
    return found, exact and h.samples == squares.samples == 0


@instrument(
    gradients=2.0,
    cost="one gradient and one pass of per-example gradients",
    invariances="permutation of neurons and rotation of the weights; a factor on the loss; not rescaling of layers",
    says="How fast large gradient noise gets rare: P(‖noise‖ > r) falls like r to the minus this; below 2 the variance "
    "is infinite.",
    not_says="Every sample has an index: a large value says only that no heavy tail shows; batches of many examples "
    "have lighter tails than single ones.",
)
def _noise_tail_index(
    objective: AbstractObjective, *, rng: np.random.Generator, state: dict[str, Any], k: int | None = None
) -> Estimate:
    r"""Tail index α of the gradient noise: $P(\|g_i - \bar g\| > r) \sim r^{-\alpha}$, by Hill's estimator.

    $\hat\alpha = (k - 1) / \sum_{i \le k} \log(r_{(i)} / r_{(k+1)})$ over the k largest norms, by default $k =
    \lceil\sqrt n\,\rceil$, at least 10. For an exact power law beyond $r_{(k+1)}$, $\alpha / \hat\alpha$ is χ² with 2k
    degrees of freedom over 2 (k − 1): the bound is the longer side of that 95 % interval, about $2 \alpha / \sqrt k$.
    For a law that is a power in the limit only there is a bias, of order $(k/n)^\beta$ with β the law's own, that the
    bound does not count: it shows as a drift with k, so that the estimate is not converged where those from k and k / 2
    differ by more than 2.58 standard errors of their difference. `details`: `k`, and the estimates by k (`hill_plot`).
    The tail index of gradient noise is discussed in [@simsekli2019tail], by another estimator, for α-stable laws.
    [@hill1975simple, number not checked]
    """
    n = objective.examples
    k = max(10, int(np.ceil(np.sqrt(n)))) if k is None else k
    if not 4 <= k < n:
        raise ProbeError(
            f"Hill's estimator takes k of the n examples, 4 ≤ k < n; k = {k}, n = {n}. Give more examples, or k."
        )
    mean = objective.asnumpy(objective.gradient())
    norms = np.concatenate([np.linalg.norm(rows - mean, axis=1) for rows in each_gradient(objective)])
    rest = np.sort(norms)[::-1][k]
    size = float(np.linalg.norm(mean) + np.linalg.norm(norms) / np.sqrt(n))
    if not rest > ROUNDING * objective.epsilon * size:
        raise NotApplicable(f"Only {np.sum(norms > rest)} of {n} examples have gradient noise above rounding: no tail.")
    value, half = hill(norms, k), hill(norms, k // 2)
    bound = value * tail_bound(k)
    grid = np.unique(np.geomspace(4, n - 1, 24).astype(int))
    positive = [int(j) for j in grid if np.sort(norms)[::-1][j] > 0]
    details = {"k": k, "norms": norms, "hill_plot": {j: hill(norms, j) for j in positive}}
    # 1/α̂ from k/2 and from k of the same sample differ with variance 1 / (α² k) for a power law.
    drift = abs(value / half - 1) * np.sqrt(k)
    if drift <= 2.58:
        return Estimate(value, bound, confidence=stochastic.CONFIDENCE, details=details)
    reason = (
        f"no stable tail: {value:.3g} from the {k} largest norms, {half:.3g} from the {k // 2} largest, {drift:.1f} "
        "standard errors apart; try another k, or more examples"
    )
    details["unconverged"] = value
    return Estimate(np.nan, np.inf, converged=False, reason=reason, confidence=stochastic.CONFIDENCE, details=details)
