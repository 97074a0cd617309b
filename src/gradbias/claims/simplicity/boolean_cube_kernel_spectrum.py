r"""On the Boolean cube parities diagonalize the kernels of networks, and higher degrees want deeper ReLU networks.

"Deeper networks prefer more complex functions" has an optimum: for every degree k there is a depth with the largest
share of variance at k, and for ReLU it grows with k, faster for training all layers (tangent kernel) than for training
the last. It is no law of nature: for erf units odd and even degrees alternate. Optima are computed, not proved to grow.
"""

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

import gradbias as gb
from gradbias.oracles.boolean_cube import Unit

BITS, CUBE = 8, 1.0 - 2.0 * (np.arange(256)[:, None] >> np.arange(8) & 1)
DEPTHS, DEGREES = (1, 2, 4), 4  # of the finite nets: shares of degrees 0 to 4
DEEPEST, TOP = 64, 8  # of the optimal depths: degrees 1 to 8
TOLERANCE = {"eigenvalues": 1e-10, "shares": 1e-6, "shares of nets": 0.03, "optimum": 0.5, "all layers deeper": 0.5}


def data(
    key: PRNGKeyArray, *, d: int, width: int, nets: int, unit: Unit = "relu", weight: float = 2.0, bias: float = 0.5
) -> dict[str, Any]:
    """Exact kernels of infinitely wide nets on d and on 8 bits, and the weights of finite nets."""
    rng, how = gb.data.generator(key), {"weight": weight, "bias": bias, "unit": unit}
    many = gb.oracles.deep_kernels(1 - 2 * np.arange(d + 1) / d, DEEPEST, **how)
    few = gb.oracles.deep_kernels(1 - 2 * np.arange(BITS + 1) / BITS, DEPTHS[-1], **how)
    fans = (BITS, *[width] * (DEPTHS[-1] - 1))
    layers = [rng.normal(size=(nets, width, fan + 1)) for fan in fans]
    outputs = [rng.normal(size=(nets, width)) for _ in DEPTHS]
    return {"many": many, "few": few, "layers": layers, "outputs": outputs}


def by_degree(kernel: Float[Array, "... n n"]) -> Float[Array, "... k"]:
    """Shares of variance of degree 0 to 4: the kernel between parities, with itself."""
    sets = (np.arange(256)[:, None] >> np.arange(BITS) & 1) == 1
    parities = jnp.asarray(np.prod(np.where(sets[:, None, :], CUBE[None], 1.0), axis=2))
    weights = jnp.einsum("...si,si->...s", parities @ kernel, parities)
    member = sets.sum(axis=1)[:, None] == np.arange(DEGREES + 1)
    return (weights @ jnp.asarray(member, float)) / jnp.sum(weights, axis=-1, keepdims=True)


def by_flips(kernel: Float[Array, "... r"]) -> Float[Array, "... k"]:
    """Shares of degree 1 to 8: over k of the flips a difference of neighbours, over the others an average."""
    d, shares = kernel.shape[-1] - 1, []
    for k in range(1, TOP + 1):
        signs = jnp.where(jnp.arange(d) < k, -1.0, 1.0)
        phi, _ = jax.lax.scan(lambda p, sign: ((p + sign * jnp.roll(p, -1, axis=-1)) / 2, None), kernel, signs)
        shares.append(math.comb(d, k) * phi[..., 0] / kernel[..., 0])
    return jnp.stack(shares, axis=-1)


def measured(
    data: Any, key: PRNGKeyArray, *, unit: Unit = "relu", weight: float = 2.0, bias: float = 0.5
) -> gb.Measured:
    act = jax.nn.relu if unit == "relu" else jax.lax.erf

    def one(net: Any) -> Float[Array, "2 depths k"]:
        outputs = dict(zip(DEPTHS, net[1], strict=True))
        some = [outputs.get(depth) for depth in range(1, DEPTHS[-1] + 1)]
        x = jnp.asarray(CUBE)
        return by_degree(gb.models.layered_kernels(x, net[0], some, unit=act, weight=weight, bias=bias))

    shares = jnp.mean(jax.lax.map(one, (data["layers"], data["outputs"])), axis=0)
    flips = ((BITS - CUBE @ CUBE.T) / 2).round().astype(int)
    spectrum = jnp.linalg.eigvalsh(data["few"][1, -1][flips]) / 256
    curve = by_flips(data["many"])
    best = 1.0 + jnp.argmax(curve, axis=1).astype(float)
    value = {"eigenvalues": spectrum, "shares of nets": shares, "shares": curve[1]}
    value |= {"optimum": best, "all layers deeper": best[1, 2:] - best[0, 2:]}
    return gb.Measured(value, 0.0, True, 0, {"depth": jnp.arange(1.0, DEEPEST + 1)})


def predicted(data: Any) -> gb.Prediction:
    nets = [[gb.oracles.cube_spectrum(kernels[depth - 1]) for depth in DEPTHS] for kernels in data["few"]]
    many = [gb.oracles.cube_spectrum(phi) for phi in data["many"][1]]
    deep, counts = nets[1][-1], [math.comb(BITS, k) for k in range(BITS + 1)]
    value = {
        "eigenvalues": np.sort(np.repeat(deep.value["eigenvalues"], counts)),
        "shares of nets": np.array([[p.value["shares"][: DEGREES + 1] for p in row] for row in nets]),
        "shares": np.array([p.value["shares"][1 : TOP + 1] for p in many]),
        "optimum": 0.0,
        "all layers deeper": np.zeros(TOP - 2),
    }
    proof = {"transform back": max(p.certificate["transform back"] for p in (*nets[0], *nets[1], *many))}
    d = data["many"].shape[2] - 1
    share = max(p.error["eigenvalues"] / phi[0] for p, phi in zip(many, data["many"][1], strict=True))
    size = math.hypot(*(math.comb(d, k) for k in range(1, TOP + 1))) * DEEPEST**0.5
    error = dict.fromkeys(value, 0.0) | {"eigenvalues": 16 * deep.error["eigenvalues"], "shares": share * size}
    return gb.Prediction(value, proof, error)


CLAIM = gb.Claim(
    statement=r"A kernel $\Phi(x \cdot y / d)$ on $\{\pm 1\}^d$ has the parities $\chi_S$ as eigenfunctions, with "
    r"eigenvalues $\mu_k = 2^{-d} \sum_r \binom dr \Phi(1 - 2r/d) K_k(r) / \binom dk$, $k = |S|$, $K_k$ Krawtchouk "
    r"polynomials; wide nets with Gaussian weights have such kernels. For ReLU with $\sigma_w^2 = 2$, $\sigma_b^2 = "
    r"1/2$, $d = 24$ and up to 64 hidden layers, the depth with the largest share $\binom dk \mu_k / \Phi(1)$ does not "
    r"decrease in $k = 1, \dots, 8$, and for $k \ge 3$ it is no smaller for the tangent kernel than for the last.",
    source=gb.Source("yang2019fine", "Theorem 3.2, Lemma H.2 and Section 4; numbers not checked"),
    data=data,
    measured=measured,
    predicted=predicted,
    metric=dict.fromkeys(TOLERANCE, gb.metric.difference) | {"eigenvalues": gb.metric.relative_l2},
    relation=dict.fromkeys(TOLERANCE, "equals") | {"optimum": "increases", "all layers deeper": "at_least"},
    quantifier=dict.fromkeys(TOLERANCE, "every") | {"shares of nets": "mean"},
    tolerance=TOLERANCE,
    tolerance_reason="Sums over flips are exact up to rounding. Nets of some hundred units have the kernels of "
    "infinite ones up to a few percent of the variance. A depth is a whole number.",
    settings={
        "smoke": dict(d=24, width=128, nets=16, seeds=8),
        "standard": dict(d=24, width=256, nets=16, seeds=10),
        "deep": dict(d=24, width=512, nets=32, seeds=10),
    },
    control=dict(unit="erf"),
    control_reason="The units are odd: odd and even degrees go their own ways, and optima do not grow.",
    figure=gb.figures.part_lines(
        **dict(part="shares", x="depth", labels=[f"degree {k}" for k in range(1, TOP + 1)]),
        **dict(x_title="hidden layers", y_title="share of variance, tangent kernel", log_x=True, log_y=True),
    ),
    seconds=dict(smoke=3, standard=5, deep=300),
)
