"""Logistic regression, n = 40, d = 20: direction error against the certified SVM, flow and plain descent."""

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from table import arguments, first_call, seconds, show

import gradbias as gb

jax.config.update("jax_enable_x64", True)


def main() -> None:
    options = arguments(__doc__)
    data = gb.data.separable_gaussians(40, 20, margin=0.3, key=jr.key(0))
    problem = gb.Problem(gb.models.linear, gb.losses.logistic, data.x, data.y, jnp.zeros(20))
    oracle = gb.oracles.max_margin(data.x, data.y)
    target = oracle.value / np.linalg.norm(oracle.value)
    rate = 4.0 * len(data.y) / np.linalg.norm(data.x, 2) ** 2
    flow = gb.GradientFlow("log_risk", "kvaerno5", rtol=1e-6)
    runs = {
        "gradient flow in s, to s = 1e9": lambda: gb.evolve(problem, flow, until=gb.Until(1e9), key=jr.key(0)),
        "gradient descent, 1e6 steps": lambda: gb.evolve(
            problem, gb.GradientDescent(rate), until=gb.Until(1e6, check_every=1000), key=jr.key(0)
        ),
    }
    rows = []
    for name, run in runs.items():
        result, first = first_call(run)
        error = float(np.linalg.norm(result.theta / np.linalg.norm(result.theta) - target))
        rows.append(
            {
                "run": name,
                "direction error": error,
                "log t": float(result.log_time[-1]),
                "steps": int(result.step),
                "seconds": seconds(run),
                "first call (compiles)": first,
            }
        )
    show(rows, options.json)


if __name__ == "__main__":
    main()
