"""How far a measured value is from a predicted one, and how errors in the value travel into that distance."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

Value = Float[np.ndarray | np.floating, "..."]  # the difference of two arrays of rank 0 is a NumPy scalar


@dataclass(frozen=True)
class Metric:
    r"""A distance $g(a, b)$ between a measured $a$ and a predicted $b$, in units a reader understands.

    `gap(a, b)` may be a number or an array of components, each judged by itself (signed where direction matters).
    `lipschitz(a, b)` bounds $|g(a + \delta, b) - g(a, b)| / \|\delta\|_2$, so that a bound on the distance of $a$ to
    its limit becomes a bound in the units of the metric. `move(b, s)` is a value with $g(\text{move}(b, s), b) = s$;
    the contract uses it to corrupt predictions.
    """

    name: str
    gap: Callable[[Value, Value], Value]
    lipschitz: Callable[[Value, Value], Value]
    move: Callable[[Value, float], Value]


def _norm(a: Value) -> Value:
    return np.asarray(np.linalg.norm(np.ravel(a)))


def _unit(a: Value) -> Value:
    with np.errstate(invalid="ignore", divide="ignore"):  # zero has no direction: NaN, never supported
        return a / _norm(a)


def _orthogonal_unit(b: Value) -> Value:
    """A unit array orthogonal to `b`: the coordinate axis least aligned with it, made orthogonal."""
    u = np.ravel(_unit(b))
    e = np.zeros_like(u)
    e[np.argmin(np.abs(u))] = 1.0
    e -= u * (u @ e)
    return np.reshape(e / np.linalg.norm(e), np.shape(b))


relative_l2 = Metric(
    name="relative ℓ2 distance",
    gap=lambda a, b: _norm(a - b) / _norm(b),
    lipschitz=lambda a, b: 1.0 / _norm(b),
    move=lambda b, s: b + s * _norm(b) * _unit(b),
)

# Chord between unit vectors; if |δ| < |a| the angle is at most arcsin(|δ|/|a|), and 2 sin(θ/2) ≤ √2 sin θ on [0, π/2].
direction = Metric(
    name="distance between directions",
    gap=lambda a, b: _norm(_unit(a) - _unit(b)),
    lipschitz=lambda a, b: np.sqrt(2.0) / _norm(a),
    move=lambda b, s: (
        (1 - s**2 / 2) * _unit(b) + s * np.sqrt(1 - s**2 / 4) * _orthogonal_unit(b) if s <= 2 else -_unit(b)
    ),
)

difference = Metric(
    name="difference",
    gap=lambda a, b: a - b,
    lipschitz=lambda a, b: np.ones_like(a - b),
    move=lambda b, s: b + s,
)

relative_difference = Metric(
    name="relative difference",
    gap=lambda a, b: (a - b) / np.abs(b),
    lipschitz=lambda a, b: 1.0 / np.abs(b) + 0.0 * a,
    move=lambda b, s: b + s * np.abs(b),
)
