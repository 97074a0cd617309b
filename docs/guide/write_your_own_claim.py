"""Preconditioned gradient descent from zero finds the interpolant of least norm in the preconditioner's metric."""

# # Write your own claim
#
# This page is a claim. Run it as a script, or hold it to the contract that every claim meets:
#
#     python docs/guide/write_your_own_claim.py
#     gradbias check docs/guide/write_your_own_claim.py
#
# A claim answers five questions, and each has one place. The first line above is the statement in one sentence, and the
# file's name is the claim's id.

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

import gradbias as gb
from gradbias.data import Dataset


# ## 1. On what data?
#
# `data` makes the arrays of one seed, on the host, from an explicit key. Its keyword-only arguments are the claim's
# parameters: `gradbias run … --set n=40` changes them. `Dataset` has inputs, targets and a start; any named tuple or
# dict of arrays will do.
def data(key: PRNGKeyArray, *, n: int, d: int) -> Dataset:
    return gb.data.gaussian_regression(n, d, key=key)


# ## 2. What does training do?
#
# `measured` is traced by JAX: it is compiled once and `vmap`ped over seeds. Preconditioned descent with the diagonal
# matrix P is gradient descent in the coordinates $v = P^{-1/2} w$, so that is what is trained here. `Until` stops on a
# bound on the distance to the limit, never on a step count; a run that reaches its horizon first is inconclusive.
# `run.measured` hands over the value with that bound, and with whatever was recorded for the figure.
#
# A parameter annotated `float` arrives as a traced number, so that changing it does not compile again.
def scales(d: int, stretch: float) -> Float[Array, " d"]:
    return jnp.geomspace(1.0, stretch, d)


def progress(problem: gb.Problem, v: Float[Array, " d"]) -> dict[str, Array]:
    return {"residual": gb.dynamics.residual(problem, v)}


def measured(data: Dataset, key: PRNGKeyArray, *, stretch: float = 4.0) -> gb.Measured:
    root = scales(data.x.shape[1], stretch)
    x = data.x * root[None, :]
    problem = gb.Problem(gb.models.linear, gb.losses.square, x, data.y, data.start)
    rate = len(data.y) / jnp.linalg.norm(x, 2) ** 2
    until = gb.Until(1e6, gb.dynamics.to_interpolation(), below=1e-9, check_every=100)
    record = gb.Record(progress, jnp.geomspace(1.0, 1e6, 60).round())
    run = gb.evolve(problem, gb.GradientDescent(rate), until=until, record=record, key=key)
    # |w - w∞| ≤ max(root) |v - v∞|: the bound travels with the change of coordinates.
    return gb.Measured(root * run.theta, stretch * run.error, run.converged, run.step, run.measured(run.theta).curves)


# ## 3. Where does theory say it ends?
#
# `predicted` sees the data and never the run. It runs on the host, so NumPy, SciPy and cvxpy are fine, and it returns a
# `Prediction`: the value, and residuals that vanish only if the value is right. The oracles of gradbias do that; for
# your own, compute the residuals from the arrays, not from what a solver says of itself. The control below asks for the
# prediction of another norm.
def predicted(data: Dataset, *, believed: float = 4.0) -> gb.Prediction:
    root = np.asarray(scales(data.x.shape[1], believed))
    shortest = gb.oracles.min_norm_interpolant(data.x * root, data.y)
    residual = np.linalg.norm(data.x @ (root * shortest.value) - data.y) / np.linalg.norm(data.y)
    certificate = dict(shortest.certificate) | {"interpolates": float(residual)}
    return gb.Prediction(root * shortest.value, certificate, believed * float(shortest.error), shortest.condition)


# ## 4. When do they agree, and what must fail?
#
# The tolerance is the largest gap that a reader would still call agreement; choose it before looking. The error budget
# is not yours to type: shared code adds what stopping early, rounding and the oracle can have cost, and the claim is
# supported only if gap *plus* error is within the tolerance. The control is a change under which the claim must come
# out refuted: it shows that the experiment could have failed.
#
# ## 5. What should a person see?
#
# `figure` draws from the record alone; `gb.figures` has builders for the usual ones.
CLAIM = gb.Claim(
    statement=r"With a positive diagonal $P$ and $X$ of full row rank, $w_{k+1} = w_k - \eta P \nabla L(w_k)$ on the "
    r"square loss from $w_0 = 0$ with $0 < \eta < 2/\lambda_{\max}(P^{1/2} X^\top X P^{1/2} / n)$ converges to "
    r"$\arg\min_{Xw = y} w^\top P^{-1} w$.",
    source=gb.Source("gunasekar2018characterizing", "Section 2, quadratic potentials; number not checked"),
    data=data,
    measured=measured,
    predicted=predicted,
    tolerance=1e-6,
    tolerance_reason="The limit is a point: six digits are agreement for any purpose.",
    assumptions={"X has full row rank": gb.assumptions.full_row_rank},
    settings={
        "smoke": dict(n=10, d=30, seeds=3),
        "standard": dict(n=40, d=200, seeds=10),
        "deep": dict(n=100, d=1000, seeds=10),
    },
    control=dict(believed=1.0),
    control_reason="The Euclidean norm is the wrong one: the preconditioner decides which interpolant is found.",
    figure=gb.figures.curves(x="clock", y="residual", x_title="steps", y_title="residual ‖Xw − y‖", log_x=True),
    seconds=dict(smoke=3, standard=4, deep=20),
)

# ## Run it
#
# `collect` trains, predicts and assembles the evidence; `judge` decides. `gradbias check` does this and more: it moves
# the prediction and expects the verdict to turn, runs the control, and repeats the seeds in another order. A claim that
# passes can be copied to `src/gradbias/claims/<family>/` as it is; nothing else has to be edited.
if __name__ == "__main__":
    jax.config.update("jax_enable_x64", True)
    for name in ("smoke", "control"):
        verdict = gb.judge(CLAIM, gb.collect(CLAIM, CLAIM.setting(name), control=name == "control"))
        print(f"{name}: {verdict.outcome.name}, gap {verdict.gap:.1e}, error {verdict.error:.1e}")
