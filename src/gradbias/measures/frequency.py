"""Which frequencies a function has along lines through the data."""

import math
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np

from ..errors import NotApplicable, ProbeError, UsageError
from .catalogue import instrument
from .estimate import Estimate
from .objective import AbstractObjective

MOST_EXAMPLES = 1000  # principal directions are of at most so many examples
WINDOWS = ("hann", "none")


def power_spectrum(f: np.ndarray, window: str = "hann") -> np.ndarray:
    r"""Power of f (points, k) at 0, 1, …, points/2 cycles per line, summed over the k outputs; one-sided.

    $P_j = c_j \sum_a |\sum_t w_t f_{ta} e^{-2\pi i j t / T}|^2 / (T \sum_t w_t^2)$, c = 2 (1 at both ends), T points:
    the powers sum to the mean of $\|f\|^2$ weighted by $w^2$ (Parseval). `window`: "none", w = 1, exact for f periodic
    along the line; "hann", $w_t = \sin^2(\pi t / T)$, for all others: frequency j also shows at j ± 1, and no further.

    >>> t = np.arange(8) / 8
    >>> power_spectrum(np.sin(2 * np.pi * 3 * t)[:, None], "none").round(12).tolist()
    [0.0, 0.0, 0.0, 0.5, 0.0]
    """
    points = len(f)
    if points % 2 or points < 4:
        raise UsageError(f"A spectrum is of an even number of points, 4 or more; got {points}.")
    if window not in WINDOWS:
        raise UsageError(f"window is one of {', '.join(WINDOWS)}; got {window!r}.")
    w = np.sin(np.pi * np.arange(points) / points) ** 2 if window == "hann" else np.ones(points)
    sides = np.full(points // 2 + 1, 2.0)
    sides[[0, -1]] = 1.0
    power = np.sum(np.abs(np.fft.rfft(w[:, None] * f, axis=0)) ** 2, axis=1)
    return sides * power / (points * float(np.sum(w**2)))


def fourier_coefficients(values: np.ndarray, positions: np.ndarray, frequencies: np.ndarray) -> np.ndarray:
    r"""$\frac1n \sum_i v_i e^{-2\pi i k p_i}$ of values (n, c) at positions (n,), for each frequency k: shape (m, c).

    >>> np.abs(fourier_coefficients(np.ones((2, 1)), np.array([0.0, 0.5]), np.array([0.0, 1.0]))).round(12).tolist()
    [[1.0], [0.0]]
    """
    return np.exp(-2j * np.pi * frequencies[:, None] * positions[None, :]) @ values / len(values)


def octaves(highest: float) -> np.ndarray:
    """Edges of bands 0-1, 1-2, 2-4, … cycles per line, up to and including `highest`.

    >>> octaves(12.0).tolist()
    [0.0, 1.0, 2.0, 4.0, 8.0, 16.0]
    """
    return np.array([0.0, *2.0 ** np.arange(math.floor(math.log2(highest)) + 2)])


class Lines(NamedTuple):
    """Lines centre + s u, one per unit vector u, from s = `low` to `high`."""

    centre: np.ndarray
    units: np.ndarray
    low: np.ndarray
    high: np.ndarray

    def positions(self, flat: np.ndarray) -> np.ndarray:
        """Where inputs (n, d) project to: 0 at the lower end, 1 at the upper one, shape (m, n)."""
        return (self.units @ (flat - self.centre).T - self.low[:, None]) / (self.high - self.low)[:, None]

    def points(self, count: int) -> np.ndarray:
        """Equally spaced points from the lower end, without the upper one, shape (m, count, d)."""
        s = self.low[:, None] + (self.high - self.low)[:, None] * np.arange(count) / count
        return self.centre + s[:, :, None] * self.units[:, None, :]


@instrument(
    gradients=1.0,
    cost="`points` forward passes of one example per line; for the residual, one forward pass",
    invariances="all reparametrisations of the same function, shifts and rotations of the inputs",
    says="How much of the function, or of what is left to learn, lies in each band of frequencies along the lines.",
    not_says="Not the frequencies of the function over the whole input space, nor those that the data ask for.",
    needs="real inputs; for the residual, a regression with targets like the outputs",
)
def _spectral_bias(
    objective: AbstractObjective,
    *,
    rng: np.random.Generator,
    state: dict[str, Any],
    of: str = "function",
    directions: int | np.ndarray = 1,
    points: int = 256,
    bands: np.ndarray | None = None,
    window: str = "hann",
) -> Estimate:
    r"""Power per band of frequencies along lines $\bar x + s u$ through the mean input, averaged over the directions u.

    A line runs as far as the inputs' projections on u do; a frequency is in cycles per line. `directions`: how many
    principal directions of the inputs, or an array (m, ...) of them; kept along a run. Low frequencies are learned
    first [@rahaman2019spectral, number not checked]: read the bands along a run.

    `of="function"`: the outputs at `points` equally spaced points, windowed (see `power_spectrum`); the bands sum to
    the mean square of f along the lines, under the window. `of="residual"`: over the whole k of a band, $\sum_a
    |\frac1n \sum_i (f_a(x_i) - y_{ia}) e^{-2\pi i k p_i}|^2$, $p_i$ the position of $x_i$ along the line, from 0 to 1:
    it is over the probe data themselves, and the bands sum to no norm. `bands`: increasing edges, each band with its
    lower edge and without its upper one; None: octaves, up to points / 2. Names are the bands, as "2-4".

    The bound is of rounding: an output vector is off by $64\,u \max_i \|f_i\|$, u the model's rounding unit. The power
    is that of the points: frequencies above points / 2 fold back onto lower ones (a note tells of power at the upper
    end). Details: the power at each whole frequency, the lines' lengths.
    """
    if of not in ("function", "residual"):
        raise UsageError(f"of= is 'function' or 'residual'; got {of!r}.")
    edges = octaves(points / 2) if bands is None else np.asarray(bands, dtype=np.float64)
    if edges.ndim != 1 or len(edges) < 2 or edges[0] < 0 or not np.all(np.diff(edges) > 0):
        raise UsageError(f"bands are increasing edges from 0 or above, two or more; got {edges.tolist()}.")
    if "lines" not in state:
        state["lines"] = _lines(objective, directions, rng)
    measured = _residual_power if of == "residual" else _function_power
    power, error = measured(objective, state["lines"], points, window)
    frequencies = np.arange(len(power))
    member = (frequencies >= edges[:-1, None]) & (frequencies < edges[1:, None])
    value = member @ power
    # A power is a squared norm of coefficients. Together, windowed ones are off as much as the outputs (Parseval); over
    # scattered positions, each one is.
    off = error * (np.sqrt(np.sum(member, axis=1)) if of == "residual" else np.ones(len(value)))
    bound = (2 * np.sqrt(value) + off) * off + 64 * float(np.finfo(np.float64).eps) * value
    lengths = state["lines"].high - state["lines"].low
    return Estimate(
        value,
        bound,
        reason="direct",
        names=tuple(f"{a:g}-{b:g}" for a, b in pairwise(edges)),
        details={"frequencies": frequencies, "power": power, "lengths": lengths, "edges": edges},
        notes=_aliasing(power) if of == "function" else (),
    )


def _function_power(objective: AbstractObjective, lines: Lines, points: int, window: str) -> tuple[np.ndarray, float]:
    """Power at each frequency, averaged over the lines, and how far an output may be off."""
    flat = lines.points(points).reshape(len(lines.units) * points, -1)
    f = objective.with_inputs(lambda x: flat.reshape(-1, *x.shape[1:])).outputs()
    _require_finite(f)
    spectra = [power_spectrum(part, window) for part in np.split(f, len(lines.units))]
    return np.mean(spectra, axis=0), _output_error(f, objective.epsilon)


def _residual_power(objective: AbstractObjective, lines: Lines, points: int, window: str) -> tuple[np.ndarray, float]:
    f, y, x = objective.outputs(), objective.targets(), objective.inputs()
    _require_finite(f)
    if y.size != f.size or not np.issubdtype(y.dtype, np.inexact):
        raise NotApplicable(
            f"The residual is of a regression, real targets like the outputs; they are {y.dtype} of shape {y.shape}, "
            f"the outputs have the shape {f.shape}. of='function' needs no targets."
        )
    residual = f - y.reshape(f.shape)
    spectra = [
        np.sum(np.abs(fourier_coefficients(residual, at, np.arange(points // 2 + 1))) ** 2, axis=1)
        for at in lines.positions(x.reshape(len(x), -1))
    ]
    return np.mean(spectra, axis=0), _output_error(f, objective.epsilon)


def _output_error(f: np.ndarray, unit: float) -> float:
    # Sums of some hundred terms in each of a few layers, each of which is off as the root of its length.
    return 64 * unit * float(np.max(np.linalg.norm(f, axis=1)))


def _require_finite(f: np.ndarray) -> None:
    if not np.all(np.isfinite(f)):
        raise ProbeError("The outputs hold NaN or infinity: they have no spectrum.")


def _aliasing(power: np.ndarray) -> tuple[str, ...]:
    whole, top = float(np.sum(power)), float(np.sum(power[-max(1, len(power) // 8) :]))
    if top <= 0.01 * whole:
        return ()
    return (f"{top / whole:.0%} of the power is in the highest eighth of the frequencies: raise points=.",)


def _lines(objective: AbstractObjective, directions: int | np.ndarray, rng: np.random.Generator) -> Lines:
    """Lines along the directions given, or along the principal ones, over the range of the inputs."""
    x = objective.inputs()
    flat = x.reshape(len(x), -1)
    centre = np.mean(flat, axis=0)
    if isinstance(directions, int):
        units = _principal(flat - centre, directions, rng)
    else:
        given = np.asarray(directions, dtype=np.float64)
        units = given.reshape(-1, flat.shape[1]) if given.size and given.size % flat.shape[1] == 0 else np.zeros((1, 1))
        if not np.all(np.any(units, axis=1)):
            raise UsageError(
                f"directions are vectors like an input, shape (m, {flat.shape[1]}), none of them zero; got an array of "
                f"shape {given.shape}."
            )
    units = units / np.linalg.norm(units, axis=1, keepdims=True)
    along = units @ (flat - centre).T
    low, high = np.min(along, axis=1), np.max(along, axis=1)
    if np.any(high - low <= 1e3 * objective.epsilon * float(np.max(np.abs(flat)))):
        raise NotApplicable("The inputs do not vary along this direction: a line through them has no length.")
    return Lines(centre, units, low, high)


def _principal(centred: np.ndarray, count: int, rng: np.random.Generator) -> np.ndarray:
    """The directions of largest variance, of some of the examples where there are many."""
    if not 1 <= count <= min(centred.shape):
        raise UsageError(f"directions counts principal ones, from 1 to {min(centred.shape)} here; got {count}.")
    if len(centred) > MOST_EXAMPLES:
        centred = centred[rng.choice(len(centred), MOST_EXAMPLES, replace=False)]
    units = np.linalg.svd(centred, full_matrices=False)[2][:count]
    # The sign of a singular vector is an accident: its largest entry is made positive.
    return units * np.sign(units[np.arange(count), np.argmax(np.abs(units), axis=1)])[:, None]
