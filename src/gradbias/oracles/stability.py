"""At which step size gradient descent on a quadratic becomes unstable: the threshold of the edge of stability."""

from typing import Literal

import numpy as np

from ..claim import Prediction
from ._arrays import EPS, Scalar

Form = Literal["polyak", "ema", "nesterov"]
FORMS = ("polyak", "ema", "nesterov")


def _require(momentum: Scalar, form: str) -> None:
    if form not in FORMS:
        raise ValueError(f"form must be one of {', '.join(FORMS)}; got {form!r}.")
    if not 0.0 <= momentum < 1.0:
        raise ValueError(
            f"momentum must lie in [0, 1); got {momentum}. At 1 and beyond no step size is stable; for momentum given "
            f"as 1 - β pass β."
        )


def gd_growth_rate(eta_lambda: Scalar, *, momentum: Scalar = 0.0, form: Form = "polyak") -> float:
    r"""The factor by which gradient descent on $\tfrac{\lambda}{2} w^2$ eventually grows or shrinks per step.

    The spectral radius of the companion matrix of $w_{t+1} = c_1 w_t + c_2 w_{t-1}$ with $h = \eta\lambda$ =
    `eta_lambda`, $\beta$ = `momentum`, and $(c_1, c_2)$ = $(1 + \beta - h, -\beta)$ for `polyak`
    ($m \leftarrow \beta m + g$, as in PyTorch), $(1 + \beta - (1-\beta) h, -\beta)$ for `ema`
    ($m \leftarrow \beta m + (1-\beta) g$, as in Adam) and $(1-h)(1+\beta, -\beta)$ for `nesterov`.

    Raises `ValueError` for a momentum outside [0, 1), an unknown form, or a value that is not finite.

    >>> gd_growth_rate(3.0), round(gd_growth_rate(1.0, momentum=0.25), 12)
    (2.0, 0.5)
    """
    _require(momentum, form)
    if not np.isfinite(eta_lambda):
        raise ValueError(f"eta_lambda must be finite; got {eta_lambda}.")
    h = float(eta_lambda)
    if form == "nesterov":
        first, second = (1.0 - h) * (1.0 + momentum), -(1.0 - h) * momentum
    else:
        first, second = 1.0 + momentum - h * (1.0 - momentum if form == "ema" else 1.0), -momentum
    return float(np.max(np.abs(np.linalg.eigvals(np.array([[first, second], [1.0, 0.0]])))))


def gd_stability_threshold(*, momentum: Scalar = 0.0, form: Form = "polyak") -> Prediction:
    r"""The largest $\eta\lambda_{\max}$ at which gradient descent is linearly stable.

    $$\eta\lambda_{\max} = 2 + 2\beta \text{ (polyak)}, \qquad \frac{2 + 2\beta}{1 - \beta} \text{ (ema)}, \qquad
      \frac{2 + 2\beta}{1 + 2\beta} \text{ (nesterov)},$$

    and 2 without momentum: where a root of the characteristic polynomial passes −1. The value is a number; the forms
    are those of `gd_growth_rate`. The certificate holds the spectral radius minus 1 at the threshold, and by how much
    it fails to be below 1 on a grid under the threshold and above 1 just past it.
    [@cohen2021gradient, §2 and App. B; number not checked]

    Raises `ValueError` for a momentum outside [0, 1) or an unknown form.

    >>> float(gd_stability_threshold(momentum=0.5).value)
    3.0
    """
    _require(momentum, form)
    divisor = {"polyak": 1.0, "ema": 1.0 - momentum, "nesterov": 1.0 + 2.0 * momentum}[form]
    value = (2.0 + 2.0 * momentum) / divisor

    def radius(fraction: Scalar) -> float:
        return gd_growth_rate(fraction * value, momentum=momentum, form=form)

    below = max(radius(f) for f in np.append(np.linspace(0.02, 0.98, 25), 1 - 1e-6))
    certificate = {
        "spectral_radius": radius(1.0) - 1.0,
        "stable_below": max(0.0, below - 1.0),
        "unstable_above": max(0.0, 1.0 - radius(1.0 + 1e-6)),
    }
    return Prediction(np.asarray(value), certificate, 4 * EPS * value)
