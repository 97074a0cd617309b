"""Interpolating noise is harmless under three conditions on the spectrum, and failing any one of them shows."""

from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

import gradbias as gb
from gradbias.data import Dataset

# A loose wording asks for "small r_k": wrong. The tail's rank r_k* is large by definition; what must be small is the
# whole trace, r_0 / n. Spectra such as 1 / (i log² i) are benign too, but logarithmically: no computer shows it.
KINDS = ("benign", "r₀/n fails", "k*/n fails", "n/R fails", "tempered", "catastrophic")
Tail = Literal["long", "short"]


def spectrum(kind: str, n: int, tail: Tail) -> tuple[Float[np.ndarray, " k"], float, int]:
    """Strong eigenvalues (the target lies along the first), and a flat tail: its eigenvalue and how many there are."""
    few, many = np.ones(5), n**2 if tail == "long" else 2 * n
    return {
        "benign": (few, n**0.5 / many, many),
        "r₀/n fails": (few, 1.0 / n, n**2),
        "k*/n fails": (np.concatenate([np.ones(1), np.full(n // 4, n**-0.5)]), 1.0 / n**2, n**2),
        "n/R fails": (few, 0.5 / n**0.5, 2 * n),
        "tempered": (np.arange(1.0, 4 * n + 1) ** -2, 0.0, 0),
        "catastrophic": (np.exp(-np.arange(4 * n) / 16.0), 0.0, 0),
    }[kind]


def eigenvalues(kind: str, n: int, tail: Tail) -> Float[np.ndarray, " d"]:
    strong, value, count = spectrum(kind, n, tail)
    return np.concatenate([strong, np.full(count, value)])


def data(key: PRNGKeyArray, *, sizes: tuple[int, ...], designs: int, tail: Tail = "long") -> list[Dataset]:
    """For every n, all spectra as one array: columns of zeros change nothing."""
    rng, made = gb.data.generator(key), []
    for n in sizes:
        draws = designs * sizes[-1] // n  # small designs fluctuate more, and cost less
        x, l = np.zeros((len(KINDS), draws, n, 4 * n)), np.zeros((len(KINDS), 4 * n))
        for k, kind in enumerate(KINDS):
            strong, value, count = spectrum(kind, n, tail)
            rows, variances = gb.measures.flat_tailed_rows(n, strong, tail=(value, count), draws=draws, rng=rng)
            x[k, :, :, : len(variances)], l[k, : len(variances)] = rows, variances
        made.append(Dataset(x, np.zeros(n), l))
    return made


def measured(data: list[Dataset], key: PRNGKeyArray) -> gb.Measured:
    def risk(x: Float[Array, "n d"], l: Float[Array, " d"]) -> tuple[Array, Array]:
        b = jnp.zeros(x.shape[1]).at[0].set(1.0)
        return gb.measures.least_squares_risks(x, [x.shape], variances=l, target=b)

    found = []
    for part in data:
        l, x = jnp.asarray(part.start), jnp.swapaxes(jnp.asarray(part.x), 0, 1)
        each = jax.lax.map(lambda x, l=l: jax.vmap(risk)(x, l), x)
        found.append([jnp.mean(a[:, :, 0], axis=0) for a in each])
    variance, bias = (jnp.stack(each, axis=1) for each in zip(*found, strict=True))
    return gb.Measured(shown(variance + bias, variance), curves={"n": jnp.array([float(len(p.y)) for p in data])})


def shown(risk: Array | np.ndarray, variance: Array | np.ndarray) -> dict[str, Array | np.ndarray]:
    bounded = variance[:-1]  # the theorem's k* is infinite for the catastrophic one
    ends = {"benign ends low": risk[0, -1], "one condition fails": risk[1:5, -1], "grows": risk[5, -1] / risk[5, 0]}
    by_kind = {kind: risk[k] for k, kind in enumerate(KINDS)}
    return ends | {"variance, above": bounded, "variance, below": bounded} | by_kind


def predicted(data: list[Dataset], *, tail: Tail = "long", constant: float = 4.0) -> gb.Prediction:
    risk, bound = np.zeros((2, len(KINDS), len(data)))
    parts: dict[str, gb.Prediction] = {}
    for m, n in enumerate(len(part.y) for part in data):
        for k, kind in enumerate(KINDS):
            l = eigenvalues(kind, n, tail)
            limit, ranks = (
                gb.oracles.ridge_equivalent(n, l, signal=np.eye(1, len(l))[0]),
                gb.oracles.effective_ranks(l, n),
            )
            risk[k, m] = limit.value["variance"] + limit.value["bias"]
            bound[k, m] = np.sum(ranks.value["ratios"][1:])
            parts |= {f"{kind}, n = {n}, risk": limit, f"{kind}, n = {n}, ranks": ranks}
    certificate = {f"{name}: {what}": r for name, p in parts.items() for what, r in p.certificate.items()}
    value = shown(risk, bound) | {"benign ends low": 0.15, "one condition fails": np.full(4, 0.2), "grows": 2.0}
    value |= {"variance, above": constant * bound[:-1], "variance, below": bound[:-1] / constant}
    return gb.Prediction(value, certificate)


def conditions(data: list[Dataset], *, tail: Tail = "long") -> bool:
    """From the first n to the last every ratio falls for the benign one, and all but its own for the next three."""

    def ratios(n: int) -> Float[np.ndarray, "4 3"]:
        return np.stack([gb.oracles.effective_ranks(eigenvalues(k, n, tail), n).value["ratios"] for k in KINDS[:4]])

    return bool(np.array_equal(ratios(len(data[-1].y)) <= 0.8 * ratios(len(data[0].y)), ~np.eye(4, 3, -1, dtype=bool)))


ONE_SIDED = dict.fromkeys(("benign ends low", "variance, above"), "at_most")
ONE_SIDED |= dict.fromkeys(("one condition fails", "grows", "variance, below"), "at_least")

CLAIM = gb.Claim(
    statement=r"$r_k = \sum_{i>k} l_i / l_{k+1}$, $R_k = (\sum_{i>k} l_i)^2 / \sum_{i>k} l_i^2$, $k^* = \min\{k : "
    r"r_k \ge bn\}$: the least-norm interpolant's excess variance lies between constants times $\sigma^2 (k^*/n + "
    r"n/R_{k^*})$, and its risk vanishes along spectra with $r_0/n, k^*/n, n/R_{k^*} \to 0$ (benign). Here, without "
    r"one of the three, or at $l_i = i^{-2}$ (tempered), it does not; at $l_i = e^{-i/16}$ (catastrophic) it grows.",
    source=gb.Source("bartlett2020benign", "Theorem 4, number not checked; the taxonomy: mallinar2022benign"),
    data=data,
    measured=measured,
    predicted=predicted,
    metric=dict.fromkeys(KINDS, gb.metric.relative_difference) | dict.fromkeys(ONE_SIDED, gb.metric.difference),
    relation=dict.fromkeys(KINDS, "equals") | ONE_SIDED,
    tolerance=dict.fromkeys(KINDS, 0.15) | dict.fromkeys(ONE_SIDED, 1e-6),
    tolerance_reason="15 % for a limit used at n = 25, where spectra differ by factors. Thresholds are thresholds.",
    quantifier="mean",
    assumptions={"Gaussian rows": None, "benign meets all three conditions, the next three all but one": conditions},
    settings={
        "smoke": dict(sizes=(25, 50, 100), designs=4, seeds=16),
        "standard": dict(sizes=(25, 50, 100, 200), designs=5, seeds=16),
        "deep": dict(sizes=(50, 100, 150, 200), designs=12, seeds=16),
    },
    control=dict(tail="short"),
    control_reason="A tail of 2n weak directions instead of n²: n/R stays, and so does the harm of interpolation.",
    figure=gb.figures.profile(
        "n",
        {k: k for k in KINDS},
        {k: f"{k}: theory" for k in KINDS},
        x_title="examples n",
        y_title="mean excess risk",
        log_x=True,
        log_y=True,
    ),
    seconds=dict(smoke=6, standard=30, deep=120),
)
