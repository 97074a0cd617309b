"""Sharpness as the user's optimizer meets it: preconditioned, of batches, relative to the size of the weights."""

from typing import Any

import numpy as np

from ..errors import NotApplicable, UsageError
from . import stochastic
from .catalogue import instrument
from .curvature import REPARAMETRIZED, single
from .estimate import Estimate
from .krylov import ROUNDING
from .objective import AbstractObjective, SymmetricOperator, Vector
from .tracking import largest_eigenvalue


@instrument(
    gradients=4.0,
    cost="about 15 Hessian-vector products for the first reading, 1 to 3 for those that follow along a run",
    invariances="those of the optimizer: with Adam or RMSProp, to rescaling single parameters",
    says="The optimizer's step is unstable on the quadratic model of the loss where this value exceeds its threshold.",
    not_says="Values of different optimizers are not comparable; each is to be read against its own threshold.",
    needs="a twice differentiable loss, and the optimizer",
)
def _preconditioned_sharpness(
    objective: AbstractObjective,
    *,
    rng: np.random.Generator,
    state: dict[str, Any],
    rtol: float = 1e-2,
    max_products: int = 200,
    audit: int = 20,
) -> Estimate:
    r"""The largest eigenvalue of the Hessian in the optimizer's own metric.

    $\lambda_{\max}(P^{-1/2} (\nabla^2 L(\theta) + \mu I) P^{-1/2})$, with the preconditioner P and the coupled weight
    decay $\mu$ read from the optimizer. `details`: `threshold`, what it is of (`optimizer`, `source`), and `ratio`, the
    value divided by it [@cohen2022adaptive, section 2, number not checked]. Bound, following and audits as for the
    sharpness. Raises `NotApplicable` where no optimizer was given.
    """
    if objective.settings.geometry is None:
        raise NotApplicable(
            "The preconditioned sharpness is that of an optimizer, and none was given: pass optimizer=. Without one, "
            "'sharpness' is the value for plain gradient descent."
        )
    geometry = objective.settings.geometry()
    hessian = objective.hessian()
    inside, decay = geometry.scale, geometry.decay

    def apply(v: Vector) -> Vector:
        moved = v if inside is None else inside * v
        image = hessian(moved) + decay * moved
        return image if inside is None else inside * image

    operator = SymmetricOperator(apply, hessian.size, hessian.epsilon, hessian.asvector, hessian.allocate)
    pairs = largest_eigenvalue(operator, state, rng=rng, rtol=rtol, max_products=max_products, every=audit)
    ratio = float(pairs.values[0]) / geometry.threshold
    return single(pairs, threshold=geometry.threshold, ratio=ratio, optimizer=geometry.name, source=geometry.source)


@instrument(
    gradients=lambda options: 2.3 * options["max_batches"] * 0.1,
    cost="16 to max_batches gradients and Hessian-vector products on single batches",
    invariances=REPARAMETRIZED,
    says="Stochastic gradient descent with a step above 2 divided by this value is unstable along its own gradients.",
    not_says="It is neither the sharpness of the full loss nor that of any one batch: it averages along gradients.",
    needs="a twice differentiable loss, and the batch size",
)
def _batch_sharpness(
    objective: AbstractObjective,
    *,
    rng: np.random.Generator,
    state: dict[str, Any],
    batch_size: int | None = None,
    rtol: float = 0.05,
    max_batches: int = 64,
) -> Estimate:
    r"""The curvature of a batch's risk along its own gradient, on average over batches.

    $\mathbb E_B \left[ g_B^\top \nabla^2 L_B(\theta)\, g_B / \|g_B\|^2 \right]$, $g_B = \nabla L_B(\theta)$, over
    batches of `batch_size` examples drawn without replacement [@andreyev2024edge, number not checked]. The batch size
    is by default that of the training. The interval covers with 95 %, and is exact where one batch is all there is.
    """
    size = objective.settings.batch_size if batch_size is None else batch_size
    if size is None:
        raise NotApplicable("Batch sharpness depends on the batch size of the training: pass batch_size=.")
    if size < 1 or max_batches < stochastic.PILOT:
        raise UsageError(
            f"batch_size must be positive and max_batches at least {stochastic.PILOT}; got {size} and {max_batches}."
        )

    def one() -> float:
        part = objective
        if size < objective.examples:
            part = objective.subset(np.sort(rng.choice(objective.examples, size, replace=False)))
        g = part.gradient()
        square = float(g @ g)
        if square == 0.0:
            raise NotApplicable("The gradient of a batch vanishes at these weights: there is no direction to take.")
        unit = g / square**0.5
        return float(unit @ part.hessian()(unit))

    if size >= objective.examples:
        value = one()
        return Estimate(value, ROUNDING * objective.epsilon * abs(value), reason="one batch holds all examples")
    samples = stochastic.two_stage(one, lambda mean: rtol * abs(float(mean)), max_batches)
    rounding = ROUNDING * objective.epsilon * float(np.abs(samples).max())
    return Estimate(
        samples.mean(),
        float(stochastic.half_width(samples, stochastic.PILOT - 1)) + rounding,
        reason=f"{len(samples)} random batches of {size}",
        confidence=stochastic.CONFIDENCE,
        details={"samples": samples, "batch_size": size},
    )


@instrument(
    gradients=lambda options: 2.0 * (options["steps"] + 1) * options["starts"],
    cost="starts x (steps + 1) gradients and forward passes, and some 15 Hessian-vector products",
    invariances="to rescaling single weights, and so to rescaling the layers of a ReLU network against each other",
    says="A relative change of the weights of this size was found that raises the loss by this much.",
    not_says="It is the most that ascent found, not the most there is; `second_order` is what a quadratic would allow.",
    needs="a twice differentiable loss",
)
def _adaptive_sharpness(
    objective: AbstractObjective,
    *,
    rng: np.random.Generator,
    state: dict[str, Any],
    rho: float = 0.5,
    steps: int = 10,
    starts: int = 2,
) -> Estimate:
    r"""The most by which a small relative change of the weights was found to raise the risk.

    $\max_{\|T_w^{-1} \epsilon\|_2 \le \rho} L(w + \epsilon) - L(w)$, $T_w = \operatorname{diag}(|w|)$
    [@kwon2021asam, number not checked], a maximum over a ball that nobody can compute: the value is
    a certified lower bound on it, the largest increase at any point visited by `starts` ascents, the first along the
    gradient, the others from random points, each of `steps` steps to the point of the sphere in the direction of the
    gradient there. The bound is that of the increase at that point (rounding), not that of the maximum.
    `details["second_order"]`: $\rho \|T_w g\| + \frac{\rho^2}{2} \max(\lambda_{\max}(T_w \nabla^2 L\, T_w), 0)$, at
    most which a quadratic loss would rise.
    """
    w = objective.parameters()
    scale = objective.asvector(np.abs(objective.asnumpy(w)))
    base, slope = objective.risk(), scale * objective.gradient()
    best, increases = 0.0, []

    def to_sphere(direction: Vector) -> Vector | None:
        length = float(direction @ direction) ** 0.5
        return None if length == 0.0 else direction * (rho / length)

    for start in range(starts):
        u = to_sphere(slope if start == 0 else objective.asvector(rng.standard_normal(objective.size)))
        for _ in range(steps):
            if u is None:
                break  # the gradient vanishes: no direction is better than another
            there = objective.at(w + scale * u)
            increases.append(there.risk() - base)
            u = to_sphere(scale * there.gradient())
    best = max([0.0, *increases])
    hessian = objective.hessian()
    operator = SymmetricOperator(
        lambda v: scale * hessian(scale * v), hessian.size, hessian.epsilon, hessian.asvector, hessian.allocate
    )
    top = largest_eigenvalue(operator, state, rng=rng, rtol=0.05)
    quadratic = rho * float(slope @ slope) ** 0.5 + 0.5 * rho**2 * max(float(top.values[0] + top.bounds[0]), 0.0)
    return Estimate(
        best,
        ROUNDING * objective.epsilon * (2 * abs(base) + best),
        reason=f"largest of {len(increases)} points visited by {starts} ascents",
        details={"second_order": quadratic, "increases": np.array(increases), "rho": rho},
        notes=("A lower bound on the worst case: the largest increase found.",),
    )
