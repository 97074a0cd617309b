"""Curvature of parts of the parameters, and of parts of the Hessian."""

import dataclasses
import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ..errors import UsageError
from . import stochastic
from .catalogue import instrument
from .curvature import REPARAMETRIZED, sampled, several, single
from .estimate import Estimate
from .krylov import ROUNDING, Eigenpairs, extreme_eigenpairs
from .objective import AbstractObjective, SymmetricOperator, Vector
from .tracking import largest_eigenvalue


def groups_of(blocks: Mapping[str, slice], groups: str) -> dict[str, list[slice]]:
    """The parameter tensors, or those of each layer together: names that differ in their last part only.

    >>> blocks = {"0.weight": slice(0, 6), "0.bias": slice(6, 8), "scale": slice(8, 9)}
    >>> groups_of(blocks, "layer")
    {'0': [slice(0, 6, None), slice(6, 8, None)], 'scale': [slice(8, 9, None)]}
    """
    if groups not in ("tensor", "layer"):
        raise UsageError(f"groups must be 'tensor' or 'layer'; got {groups!r}.")
    found: dict[str, list[slice]] = {}
    for name, block in blocks.items():
        found.setdefault(name if groups == "tensor" else name.rpartition(".")[0] or name, []).append(block)
    return found


def restricted(operator: SymmetricOperator, parts: Sequence[slice]) -> SymmetricOperator:
    """The diagonal block of an operator on these parts of a vector; a product with it is one with the whole."""
    ends = np.cumsum([0, *(part.stop - part.start for part in parts)]).tolist()
    own = [slice(a, b) for a, b in itertools.pairwise(ends)]

    def room(count: int) -> Any:
        return operator.asvector(np.zeros(count * ends[-1])).reshape(count, ends[-1])

    def apply(v: Vector) -> Vector:
        whole, block = operator.rows(1)[0], room(1)[0]
        for part, here in zip(parts, own, strict=True):
            whole[part] = v[here]
        image = operator(whole)
        for part, here in zip(parts, own, strict=True):
            block[here] = image[part]
        return block

    return SymmetricOperator(apply, ends[-1], operator.epsilon, operator.asvector, room)


def stacked(pairs: Sequence[Eigenpairs]) -> Eigenpairs:
    """The first pair of each, in one."""
    fields = ("values", "bounds", "residuals", "converged")
    joined: dict[str, Any] = {name: np.concatenate([getattr(p, name)[:1] for p in pairs]) for name in fields}
    notes = [p.confidence for p in pairs if p.confidence is not None]
    return dataclasses.replace(
        pairs[0],
        **joined,
        products=sum(p.products for p in pairs),
        reason="; ".join(dict.fromkeys(p.reason for p in pairs)),
        confidence=min(notes) if notes else None,
    )


@instrument(
    gradients=lambda options: 20.0,
    cost="about 10 Hessian-vector products per block for the first reading, 1 to 3 for those that follow",
    invariances=REPARAMETRIZED,
    says="How steep the loss is when the parameters of one block alone move: 2 divided by it bounds their step.",
    not_says="The blocks do not add up: the sharpness of the whole is at least the largest of them, often far more.",
    needs="a twice differentiable loss",
)
def _layer_sharpness(
    objective: AbstractObjective,
    *,
    rng: np.random.Generator,
    state: dict[str, Any],
    groups: str = "tensor",
    rtol: float = 1e-2,
    max_products: int = 200,
    audit: int = 20,
) -> Estimate:
    r"""The largest eigenvalue of each diagonal block of the Hessian of the risk.

    $\lambda_{\max}(\nabla^2_{\theta_b} L(\theta))$ for each parameter tensor b, or each layer (`groups`): names that
    differ in their last part only. Each bound holds with 95 % probability by itself; followed along a run and audited
    as the sharpness of the whole is [@vandorsselaer2000computing].
    """
    operator, found = objective.hessian(), {}
    for name, parts in groups_of(objective.blocks, groups).items():
        own = state.setdefault(f"{groups} {name}", {})
        block = restricted(operator, parts)
        found[name] = largest_eigenvalue(block, own, rng=rng, rtol=rtol, max_products=max_products, every=audit)
    return several(stacked(list(found.values())), tuple(found))


@instrument(
    gradients=50.0,
    cost="16 Hessian-vector products for all blocks together, and up to max_products until the tolerance is met",
    invariances=REPARAMETRIZED,
    says="How much of the trace of the Hessian sits in each block of parameters.",
    not_says="A block with more parameters has more of it; divide by their number to compare.",
    needs="a twice differentiable loss",
)
def _layer_trace(
    objective: AbstractObjective,
    *,
    rng: np.random.Generator,
    state: dict[str, Any],
    groups: str = "tensor",
    rtol: float = 0.1,
    max_products: int = 60,
) -> Estimate:
    r"""The trace of each diagonal block of the Hessian of the risk.

    $\operatorname{tr} \nabla^2_{\theta_b} L(\theta) = \mathbb E\, z_b^\top (\nabla^2 L\, z)_b$ for z independent and
    uniform on the sphere of squared radius $|\theta_b|$ in every block: one product is a sample for all. `rtol` is
    relative to the sum of their absolute values. Each interval covers with 95 % by itself [@meyer2021hutch].
    """
    operator, parts = objective.hessian(), groups_of(objective.blocks, groups)

    def sample() -> list[float]:
        z = operator.asvector(rng.standard_normal(operator.size))
        for own in parts.values():
            square = sum(float(z[s] @ z[s]) for s in own)
            for s in own:
                z[s] = z[s] * (sum(s.stop - s.start for s in own) / square) ** 0.5
        image = operator(z)
        return [sum(float(z[s] @ image[s]) for s in own) for own in parts.values()]

    samples = stochastic.two_stage(sample, lambda mean: rtol * float(np.abs(mean).sum()), max_products)
    rounding = ROUNDING * operator.epsilon * np.abs(samples).max(axis=0)
    return Estimate(
        samples.mean(axis=0),
        stochastic.half_width(samples, stochastic.PILOT - 1) + rounding,
        reason=f"{len(samples)} random products",
        names=tuple(parts),
        confidence=stochastic.CONFIDENCE,
    )


@instrument(
    gradients=4.0,
    cost="about 15 Gauss-Newton products for the first reading, 1 to 3 for those that follow along a run",
    invariances=REPARAMETRIZED,
    says="The sharpness that comes from how the outputs move with the parameters, as if the model were linear in them.",
    not_says="It is not the sharpness: the curvature of the outputs themselves is left out.",
    needs="a loss that is twice differentiable in the outputs",
)
def _gauss_newton_sharpness(
    objective: AbstractObjective,
    *,
    rng: np.random.Generator,
    state: dict[str, Any],
    rtol: float = 1e-2,
    max_products: int = 200,
    audit: int = 20,
) -> Estimate:
    r"""The largest eigenvalue of the Gauss-Newton matrix of the risk.

    $\lambda_{\max}(G)$, $G = \frac1n \sum_i J_i^\top \nabla_f^2 \ell\, J_i$. Bound, following and audits as for the
    sharpness [@vandorsselaer2000computing].
    """
    return single(
        largest_eigenvalue(objective.gauss_newton(), state, rng=rng, rtol=rtol, max_products=max_products, every=audit)
    )


@instrument(
    gradients=250.0,
    cost="some 15 Gauss-Newton, 60 of both products, and up to max_products for each of the four values",
    invariances=REPARAMETRIZED,
    says="How much of the curvature is of the linearized model (G), how much the outputs' own (H - G).",
    not_says="The eigenvalues of the two do not add up to those of the Hessian; the traces do.",
    needs="a twice differentiable loss",
)
def _gauss_newton_split(
    objective: AbstractObjective,
    *,
    rng: np.random.Generator,
    state: dict[str, Any],
    rtol: float = 5e-2,
    max_products: int = 150,
) -> Estimate:
    r"""The largest eigenvalue and the trace of the Gauss-Newton matrix G and of what it leaves of the Hessian.

    $\nabla^2 L = G + \frac1n \sum_i \sum_a \partial_{f_a} \ell\, \nabla^2 f_a(\theta, x_i)$. Values: `sharpness of G`,
    `sharpness of H - G`, `trace of G`, `trace of H - G`; each bound holds with 95 % probability by itself
    [@vandorsselaer2000computing; @meyer2021hutch].
    """
    h, g = objective.hessian(), objective.gauss_newton()
    first = extreme_eigenpairs(g, 1, rng=rng, rtol=rtol, max_products=max_products)
    floor = ROUNDING * g.epsilon * first.norm  # the difference of two products has the rounding of both
    rest = SymmetricOperator(lambda v: h(v) - g(v), h.size, h.epsilon, h.asvector, h.allocate)
    second = extreme_eigenpairs(rest, 1, rng=rng, rtol=rtol, max_products=max_products, floor=2 * floor)
    sharp = several(stacked([first, second]), ("sharpness of G", "sharpness of H - G"))
    traces = [
        sampled(stochastic.trace(a, rng=rng, rtol=rtol, max_products=max_products, floor=added))
        for a, added in ((g, 0.0), (rest, 2 * floor))
    ]
    return dataclasses.replace(
        sharp,
        value=np.append(sharp.value, [t.value for t in traces]),
        bound=np.append(sharp.bound, [t.bound for t in traces]),
        names=(*sharp.names, "trace of G", "trace of H - G"),
        confidence=stochastic.CONFIDENCE,
    )
