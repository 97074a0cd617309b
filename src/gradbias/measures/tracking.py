r"""The largest eigenvalue of a matrix that changes a little from reading to reading, for one or two products each.

The vectors X of the last reading, those of the largest eigenvalue and of a second one if it is close, span with their
residuals a small space. With the Ritz values $\Theta$ in it, $R = AX - X\Theta$, and no eigenvalue above
$\mu < \theta_1$ in what is orthogonal to X,
$$\theta_1 \le \lambda_{\max}(A) \le \lambda_{\max}(\Theta + R^\top R / (\theta_1 - \mu)),$$
which for one vector is $\theta + \|r\|^2 / (\theta - \mu)$ [@parlett1998symmetric, number not checked]. Nothing short
of a random start tells whether another eigenvalue has overtaken: the first reading and every `every`-th from then on
are audits, Lanczos runs from a random start that certify the largest eigenvalue (`krylov`), whichever vectors were
followed. In between it is assumed that the next eigenvalue has not come closer than half of the gap last seen; a bound
then is never told tighter than the tolerance, for the assumption is not.
"""

import dataclasses
from typing import Any

import numpy as np

from .krylov import ROUNDING, Eigenpairs, extreme_eigenpairs
from .objective import Rows, SymmetricOperator, Vector

LONGEST = 6  # products of a reading from known vectors; an audit costs little more, and settles more
NEAR = 0.9  # a second eigenvalue above this share of the first is followed too: it may be the first at the next audit


def largest_eigenvalue(
    operator: SymmetricOperator,
    state: dict[str, Any],
    *,
    rng: np.random.Generator,
    rtol: float = 1e-2,
    max_products: int | None = None,
    every: int = 20,
) -> Eigenpairs:
    """The largest eigenvalue, from what `state` holds of the last reading; the first of a run is an audit.

    `reason` says which of the two it was, and whether another eigenvalue turned out to have overtaken. A product spent
    without result (the vectors known did not do) counts.
    """
    known = state.get("vectors")
    due = known is None or state["readings"] >= every or known.shape[1] != operator.size
    spent = 0
    if not due:
        pairs = _follow(operator, known, state["share"], rtol)
        if pairs.converged[0]:
            state["readings"] += 1
            _keep(state, pairs)
            return _first(pairs, "", 0)
        spent = pairs.products
    k = min(3, operator.size)
    tolerances = np.array([rtol, np.inf, np.inf])[:k]  # the others as they stand, to see the gap
    pairs = extreme_eigenpairs(operator, k, rng=rng, rtol=tolerances, max_products=max_products)
    story = ""
    if known is not None and known.shape[1] == operator.size:
        overlap = np.linalg.norm([float(v @ pairs.vectors[0]) for v in known])
        if pairs.converged[0] and overlap < 0.5:
            story = "; it has overtaken the one followed since the last audit: readings in between may be low"
    if pairs.converged[0]:
        state.update(readings=0, share=0.0)
        _keep(state, pairs)
    return _first(pairs, story, spent)


def _keep(state: dict[str, Any], pairs: Eigenpairs) -> None:
    """What the next reading starts from, and the share of the largest eigenvalue that the next not followed has."""
    values = pairs.values
    near = 2 if len(values) > 1 and values[1] > NEAR * values[0] else 1
    state["vectors"] = pairs.vectors[:near]
    rest = (values[near] + min(pairs.residuals[near], values[0])) / values[0] if len(values) > near else 0.0
    state["share"] = min(1.0, max(state["share"], float(rest))) if values[0] > 0 else 1.0


def _first(pairs: Eigenpairs, story: str, spent: int) -> Eigenpairs:
    return dataclasses.replace(
        pairs,
        values=pairs.values[:1],
        bounds=pairs.bounds[:1],
        vectors=pairs.vectors[:1],
        residuals=pairs.residuals[:1],
        converged=pairs.converged[:1],
        products=pairs.products + spent,
        reason=pairs.reason + story,
    )


def _follow(operator: SymmetricOperator, known: Rows, share: float, rtol: float) -> Eigenpairs:
    """Rayleigh-Ritz on the known vectors and the residuals that they leave, one product at a time."""
    most, p = min(LONGEST, operator.size), len(known)
    rows, images = operator.rows(most), operator.rows(most)
    t, gram = np.zeros((most, most)), np.zeros((most, most))
    direction, converged, m = known[0], False, 0
    while not converged and m < most:
        rows[m] = _orthogonal(direction, rows[:m])
        images[m] = operator(rows[m])
        m += 1
        for table, left in ((t, rows), (gram, images)):
            table[:m, m - 1] = table[m - 1, :m] = [float(v @ images[m - 1]) for v in left[:m]]
        if m < p:
            direction = known[m]
            continue
        values, columns = np.linalg.eigh(t[:m, :m])
        values, columns = values[::-1], columns[:, ::-1]
        left_over = columns.T @ (gram[:m, :m] - t[:m, :m] @ t[:m, :m]) @ columns  # Gram matrix of the residuals
        gap = values[0] * (1 - share) / 2
        bound = ROUNDING * operator.epsilon * float(gram.max()) ** 0.5
        bound += _rise(values[:p], left_over[:p, :p] / gap) if gap > 0 else np.inf
        converged = bool(bound <= rtol * abs(values[0]))
        mix = [operator.asvector(np.ascontiguousarray(c)) for c in columns.T[: p + 1]]
        direction = mix[0] @ images[:m] - float(values[0]) * (mix[0] @ rows[:m])
    vectors = operator.rows(len(mix))
    for i, mixing in enumerate(mix):
        vectors[i] = mixing @ rows[:m]
    return Eigenpairs(
        values=values[: len(mix)],
        bounds=np.append(max(bound, rtol * abs(values[0])), np.full(len(mix) - 1, np.inf)),
        vectors=vectors,
        residuals=np.sqrt(np.maximum(np.diag(left_over), 0.0))[: len(mix)],
        converged=np.arange(len(mix)) < converged,
        products=m,
        reason=f"followed from the last reading with {m} products, assuming that none has passed it since the audit",
        confidence=0.95,
        norm=float(gram.max()) ** 0.5,
    )


def _rise(values: np.ndarray, added: np.ndarray) -> float:
    """How much the largest of `values` grows at most when the matrix `added` is added to them."""
    return max(float(np.linalg.eigvalsh(np.diag(values) + added)[-1] - values[0]), 0.0)


def _orthogonal(v: Vector, rows: Rows) -> Vector:
    for _ in range(2):
        v = v - (rows @ v) @ rows if len(rows) else v
        v = v / float(v @ v) ** 0.5
    return v
