"""Curvature of the risk."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Float, PyTree

from ..problem import Problem
from . import stochastic
from .catalogue import instrument
from .estimate import Estimate
from .krylov import Eigenpairs, extreme_eigenpairs
from .objective import AbstractObjective
from .tracking import largest_eigenvalue

REPARAMETRIZED = (
    "invariant to rotations of the parameters and to permutations of units; not to rescaling layers against each "
    "other, which leaves the function of a ReLU network as it is"
)


def sharpness(problem: Problem, theta: PyTree) -> Float[Array, ""]:
    r"""$\lambda_{\max}(\nabla^2 L(\theta))$ from the dense Hessian: exact, for up to a few thousand parameters.

    >>> from gradbias import Problem, losses, models
    >>> problem = Problem(models.linear, losses.square, jnp.array([[3.0]]), jnp.array([0.0]), jnp.zeros(1))
    >>> float(sharpness(problem, problem.theta0))
    9.0
    """
    flat, unravel = ravel_pytree(theta)
    return jnp.linalg.eigvalsh(jax.hessian(lambda z: problem.risk(unravel(z)))(flat))[-1]


def single(pairs: Eigenpairs, **details: Any) -> Estimate:
    """The first of the pairs as an estimate; NaN, with what is known, if it did not converge."""
    return several(pairs, ("",), **details)


def several(pairs: Eigenpairs, names: tuple[str, ...], **details: Any) -> Estimate:
    """The pairs as an estimate with a name for each, or as one number for the one name ''."""
    good = pairs.converged
    reason = pairs.reason
    if not good.all():
        known = [f"{v:.6g} off by at most {b:.2g}" for v, b in zip(pairs.values, pairs.bounds, strict=True)]
        reason += f"; known (but for the start's small probability): {', '.join(known)}"
        details["unconverged"] = pairs.values
    value, bound = np.where(good, pairs.values, np.nan), np.where(good, pairs.bounds, np.inf)
    one = names == ("",)
    return Estimate(
        value[0] if one else value,
        bound[0] if one else bound,
        converged=bool(good.all()),
        reason=reason,
        names=() if one else names,
        confidence=pairs.confidence,
        details={"residuals": pairs.residuals, **details},
    )


def sampled(found: stochastic.Sampled) -> Estimate:
    """A sampled number as an estimate."""
    confidence = stochastic.CONFIDENCE if found.samples else None
    reason = f"{found.products} products, {found.samples} of them random" if found.samples else "every column taken"
    return Estimate(found.value, found.bound, reason=reason, confidence=confidence)


@instrument(
    gradients=4.0,
    cost="about 15 Hessian-vector products for the first reading, 1 to 3 for those that follow along a run",
    invariances=REPARAMETRIZED,
    says="Gradient descent with a step above 2 divided by this value is unstable on the quadratic model of the loss.",
    not_says="A flatter minimum need not generalize better: rescaling layers changes it at will [@dinh2017sharp].",
    needs="a twice differentiable loss",
)
def _sharpness(
    objective: AbstractObjective,
    *,
    rng: np.random.Generator,
    state: dict[str, Any],
    rtol: float = 1e-2,
    max_products: int = 200,
    audit: int = 20,
) -> Estimate:
    r"""The largest eigenvalue of the Hessian of the risk.

    $\lambda_{\max}(\nabla^2 L(\theta))$. Along a run it is followed from reading to reading; every `audit`-th reading
    starts afresh from a random vector, and so finds an eigenvalue that has overtaken. The bound holds with 95 %
    probability over that start [@vandorsselaer2000computing]; between audits it assumes that no other eigenvalue has
    overtaken since, and `reason` says so. Source of the quantity's role: [@cohen2021gradient].
    """
    return single(
        largest_eigenvalue(objective.hessian(), state, rng=rng, rtol=rtol, max_products=max_products, every=audit)
    )


@instrument(
    gradients=lambda options: 1.3 * (2.5 * options["k"] + 6),
    cost="about 2.5 k + 5 Hessian-vector products where k eigenvalues stand out, more where they do not",
    invariances=REPARAMETRIZED,
    says="These are the k steepest curvatures of the loss; a classifier has about as many large ones as classes.",
    not_says="A gap after them does not mean that training happens in their span.",
    needs="a twice differentiable loss",
)
def _top_eigenvalues(
    objective: AbstractObjective,
    *,
    rng: np.random.Generator,
    state: dict[str, Any],
    k: int = 10,
    rtol: float = 1e-2,
    copies: bool = False,
    max_products: int = 400,
) -> Estimate:
    r"""The k largest eigenvalues of the Hessian of the risk, with their eigenvectors.

    $\lambda_1 \ge \dots \ge \lambda_k$, by Lanczos from a random start [@wu2000thick]; `details["vectors"]`, shape
    (k, size). Eigenvalues closer together than their bounds count as one unless `copies` is set, at about twice the
    cost: the Hessian of linear regression with several outputs, say, has every eigenvalue as many times.
    """
    return _extreme(objective, "largest", k, rng=rng, rtol=rtol, copies=copies, max_products=max_products)


@instrument(
    gradients=lambda options: 1.3 * (10 * options["k"] + 20),
    cost="some tens of Hessian-vector products: negative eigenvalues stand out less than positive ones",
    invariances=REPARAMETRIZED,
    says="A negative value is a direction in which the loss curves downwards, as at a saddle.",
    not_says="Small negative values are common along the whole of training; none of them shows that it is stuck.",
    needs="a twice differentiable loss",
)
def _bottom_eigenvalues(
    objective: AbstractObjective,
    *,
    rng: np.random.Generator,
    state: dict[str, Any],
    k: int = 3,
    rtol: float = 5e-2,
    copies: bool = False,
    max_products: int = 300,
) -> Estimate:
    r"""The k smallest eigenvalues of the Hessian of the risk, with their eigenvectors.

    $\lambda_n \le \dots \le \lambda_{n-k+1}$; `details["vectors"]`, shape (k, size). The tolerance is relative to the
    value, or to a hundredth of the norm of the Hessian if that is larger. As for the largest [@wu2000thick].
    """
    return _extreme(objective, "smallest", k, rng=rng, rtol=rtol, copies=copies, max_products=max_products)


def _extreme(objective: AbstractObjective, which: Any, k: int, **options: Any) -> Estimate:
    k = min(k, objective.size)
    pairs = extreme_eigenpairs(objective.hessian(), k, which, **options)
    return several(pairs, tuple(map(str, range(1, k + 1))), vectors=objective.asnumpy(pairs.vectors))


@instrument(
    gradients=lambda options: 1.3 * options["probes"] * options["steps"],
    cost="probes x steps Hessian-vector products",
    invariances=REPARAMETRIZED,
    says="The density is the histogram of all eigenvalues, smoothed: a bulk around zero, and few outliers.",
    not_says="A bulk at zero is not flatness in the function: it counts parameters, most of which hardly matter.",
    needs="a twice differentiable loss",
)
def _spectrum(
    objective: AbstractObjective,
    *,
    rng: np.random.Generator,
    state: dict[str, Any],
    probes: int = 6,
    steps: int = 30,
    sigma: float | None = None,
    edge: float | None = None,
    points: int = 256,
) -> Estimate:
    r"""The distribution of the Hessian's eigenvalues, by stochastic Lanczos quadrature.

    $\phi_\sigma(x) = \frac1n \sum_i \mathcal N(x; \lambda_i, \sigma^2)$ in `details`: `grid`, `density`,
    `density_bound` (95 % at each point, quadrature included), `sigma`. Values: the `smallest` and `largest` eigenvalue,
    `mean` ($\operatorname{tr} / n$), and the fraction of eigenvalues `below` and `above` the edge of the bulk, `edge`
    (4 sigma by default), smoothed by sigma [@ghorbani2019investigation; @ubaru2017fast].
    """
    density = stochastic.spectral_density(
        objective.hessian(), rng=rng, probes=probes, steps=steps, sigma=sigma, points=points
    )
    edge = 4 * density.sigma if edge is None else edge
    means = np.sum(density.nodes * density.weights, axis=1)
    (smallest, largest), reach = density.extremes
    quantities = {
        "smallest": (smallest, reach[0]),
        "largest": (largest, reach[1]),
        "mean": (means.mean(), stochastic.half_width(means)),
        "below": density.fraction(-np.inf, -edge),
        "above": density.fraction(edge, np.inf),
    }
    details = dict(grid=density.grid, density=density.density, density_bound=density.bound, sigma=density.sigma)
    return Estimate(
        [value for value, _ in quantities.values()],
        [bound for _, bound in quantities.values()],
        reason=f"{probes} random probes, {density.products} products",
        names=tuple(quantities),
        confidence=stochastic.CONFIDENCE,
        details={**details, "edge": edge, "nodes": density.nodes, "weights": density.weights},
    )


@instrument(
    gradients=60.0,
    cost="36 Hessian-vector products, and up to max_products until the tolerance is met",
    invariances=REPARAMETRIZED,
    says="The mean curvature over all directions, times their number.",
    not_says="It is no bound on generalization: it changes under rescaling of layers [@dinh2017sharp].",
    needs="a twice differentiable loss",
)
def _trace(
    objective: AbstractObjective,
    *,
    rng: np.random.Generator,
    state: dict[str, Any],
    rtol: float = 0.05,
    sketch: int = 10,
    max_products: int = 150,
) -> Estimate:
    r"""The trace of the Hessian of the risk.

    $\operatorname{tr} \nabla^2 L(\theta) = \sum_i \lambda_i$: exactly on the span of `sketch` random images, by random
    directions on the rest [@meyer2021hutch]. The interval covers with 95 % whether or not `rtol` was reached.
    """
    return sampled(stochastic.trace(objective.hessian(), rng=rng, rtol=rtol, sketch=sketch, max_products=max_products))


@instrument(
    gradients=50.0,
    cost="36 Hessian-vector products, and up to max_products until the tolerance is met",
    invariances=REPARAMETRIZED,
    says="The size of the Hessian as a whole: the root of the sum of its squared eigenvalues.",
    not_says="It does not tell whether few large eigenvalues make it up or many small ones.",
    needs="a twice differentiable loss",
)
def _frobenius_norm(
    objective: AbstractObjective,
    *,
    rng: np.random.Generator,
    state: dict[str, Any],
    rtol: float = 0.05,
    sketch: int = 10,
    max_products: int = 150,
) -> Estimate:
    r"""The Frobenius norm of the Hessian of the risk.

    $\|\nabla^2 L(\theta)\|_F = (\sum_i \lambda_i^2)^{1/2}$, from its square as in the trace [@meyer2021hutch].
    """
    found = stochastic.squared_frobenius(
        objective.hessian(), rng=rng, rtol=2 * rtol, sketch=sketch, max_products=max_products
    )
    root = max(found.value, 0.0) ** 0.5
    ends = max(found.value - found.bound, 0.0) ** 0.5, (found.value + found.bound) ** 0.5
    return sampled(stochastic.Sampled(root, max(root - ends[0], ends[1] - root), found.samples, found.products))
