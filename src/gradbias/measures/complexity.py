"""How much a function varies over its inputs: input derivatives, and the pieces of a piecewise linear network."""

import math
from typing import Any, NamedTuple

import numpy as np
from scipy import stats

from ..errors import NotApplicable, ProbeError, UsageError
from .catalogue import instrument
from .estimate import Estimate
from .objective import AbstractObjective

CONFIDENCE = 0.95
# A derivative passes through each layer forwards and backwards: some ten sums of rounded terms one after another.
DERIVATIVE_UNITS = 64
COARSE = 64  # cells of a segment to begin with
NOISE_PROBES = 16
# A change of slope counts from 4 times the largest rounding error expected: see `rounding_noise`.
CERTAIN = 4.0
CROWDED = 32 * COARSE  # nodes of a segment from which on half of them beside a change of slope is too many


def mean_of_samples(samples: np.ndarray, confidence: float = CONFIDENCE) -> tuple[float, float]:
    r"""Mean of unbiased samples (n, k), k for each of n numbers, and the half-width of its confidence interval.

    Its variance is $\frac{1}{n^2 k} \sum_i s_i^2$ with the sample variances $s_i^2$; Student's t with the
    degrees of freedom of Welch and Satterthwaite, $(\sum_i s_i^2)^2 (k-1) / \sum_i s_i^4$.

    >>> mean_of_samples(np.array([[1.0, 1.0], [4.0, 4.0]]))
    (2.5, 0.0)
    """
    n, k = samples.shape
    variances = np.var(samples, axis=1, ddof=1)
    total = float(np.sum(variances))
    mean = float(np.mean(samples))
    if total == 0:
        return mean, 0.0
    freedom = total**2 * (k - 1) / float(np.sum(variances**2))
    return mean, float(stats.t.ppf(0.5 + confidence / 2, freedom)) * math.sqrt(total / k) / n


@instrument(
    gradients=lambda options: options["directions"] or 10.0,
    cost="one backward pass per output, or per direction",
    invariances="all reparametrisations of the same function, rotations of the inputs; not: a scaling of the inputs",
    says="How fast the outputs change with the inputs at the probe data, in the mean square.",
    not_says="Not how fast they change between or away from the probe data, and not the margin: scaling the outputs "
    "scales it.",
    needs="real inputs",
)
def _geometric_complexity(
    objective: AbstractObjective, *, rng: np.random.Generator, state: dict[str, Any], directions: int | None = None
) -> Estimate:
    r"""$\frac1n \sum_i \|\partial f / \partial x (x_i)\|_F^2$ of the outputs (logits) f, over the probe data.

    The geometric complexity of [@dherin2022geometric, number not checked]. `directions=None` is exact: one backward
    pass per output, and the bound is of rounding. With `directions` = k of 2 or more, k random sign vectors u per
    example give unbiased samples $\|u^\top \partial f / \partial x\|^2$; the bound is Student's at 95 % confidence from
    their spread within examples, so that the spread among examples is no error.
    """
    if directions is not None and directions < 2:
        raise UsageError(f"directions is None (exact), or 2 or more to tell the error of the mean; got {directions}.")
    samples = objective.input_jacobian_squares(directions, rng)
    _require_finite("The input derivatives", samples)
    value, half = (float(np.mean(samples)), 0.0) if directions is None else mean_of_samples(samples)
    bound = half + DERIVATIVE_UNITS * objective.epsilon * value
    if half == 0:
        return Estimate(value, bound, reason="direct")
    return Estimate(value, bound, reason=f"{directions} directions per example", confidence=CONFIDENCE)


@instrument(
    gradients=1.0,
    cost="one backward pass",
    invariances="all reparametrisations of the same function, rotations of the inputs; not: a scaling of the inputs",
    says="How strongly the loss reacts to a small change of an input, on average over the probe data.",
    not_says="Not robustness: the loss can react weakly to small changes and strongly to larger ones.",
    needs="real inputs",
)
def _input_gradient_norm(objective: AbstractObjective, *, rng: np.random.Generator, state: dict[str, Any]) -> Estimate:
    r"""$\frac1n \sum_i \|\partial \ell_i / \partial x_i\|_2$ over the probe data.

    The bound is of rounding: the mean is of the probe data given. As an estimate for other data drawn alike it has the
    standard error told in the notes and in `details["standard_error"]`.
    """
    norms = objective.input_gradient_norms()
    _require_finite("The gradients with respect to the inputs", norms)
    value, n = float(np.mean(norms)), len(norms)
    error = float(np.std(norms, ddof=1)) / math.sqrt(n) if n > 1 else math.nan
    told = f"Standard error {error:.2g} from {n} examples." if n > 1 else "One example: no standard error."
    bound = DERIVATIVE_UNITS * objective.epsilon * value
    return Estimate(value, bound, reason="direct", details={"standard_error": error}, notes=(told,))


def _require_finite(what: str, array: np.ndarray) -> None:
    if not np.all(np.isfinite(array)):
        raise ProbeError(f"{what} hold NaN or infinity at example {int(np.argwhere(~np.isfinite(array))[0][0])}.")


def departures(t: np.ndarray, g: np.ndarray) -> np.ndarray:
    r"""How far g (m, k), at increasing positions t (m,), is from affine over each three neighbours: shape (m - 2,).

    $\max_a |g_{ia} - \frac{(t_{i+1} - t_i) g_{i-1,a} + (t_i - t_{i-1}) g_{i+1,a}}{t_{i+1} - t_{i-1}}|$

    >>> departures(np.array([0.0, 1.0, 3.0]), np.array([[0.0], [1.0], [0.0]])).tolist()
    [1.0]
    """
    left = ((t[2:] - t[1:-1]) / (t[2:] - t[:-2]))[:, None]
    return np.max(np.abs(g[1:-1] - left * g[:-2] - (1 - left) * g[2:]), axis=1)


def disjoint(intervals: np.ndarray) -> int:
    """The largest number of open intervals (m, 2), of any order, that have no point in common two by two.

    >>> disjoint(np.array([[0.0, 2.0], [1.0, 3.0], [2.0, 4.0]]))
    2
    """
    count, end = 0, -math.inf
    for start, stop in intervals[np.argsort(intervals[:, 1])].tolist():
        if start >= end:
            count, end = count + 1, stop
    return count


class Pieces(NamedTuple):
    """Linear pieces found on one segment: those certain, those possible at most, and whether they stand apart."""

    least: int
    most: int
    resolved: bool


class _Line:
    """One segment as it is refined: positions, outputs there, and the intervals known to hold a kink."""

    def __init__(self, ends: np.ndarray, resolution: float) -> None:
        self.ends, self.resolution = ends, resolution
        self.t, self.g = np.zeros(0), np.zeros((0, 1))
        self.noise = 0.0
        self.certain: list[np.ndarray] = []
        self.possible: list[np.ndarray] = []

    def points(self, t: np.ndarray) -> np.ndarray:
        weight = t.reshape(-1, *[1] * (self.ends.ndim - 1))
        return (1 - weight) * self.ends[0] + weight * self.ends[1]

    def add(self, t: np.ndarray, g: np.ndarray) -> None:
        order = np.argsort(np.concatenate([self.t, t]))
        self.t = np.concatenate([self.t, t])[order]
        self.g = np.concatenate([self.g, g])[order] if len(self.g) else g[order]

    def refine(self) -> np.ndarray:
        """Note where there is a kink for sure and perhaps; return the midpoints of the cells beside, down to r."""
        size, around = departures(self.t, self.g), np.stack([self.t[:-2], self.t[2:]], axis=1)
        found = size > CERTAIN * self.noise
        self.certain.append(around[found])
        self.possible.append(around[size > CERTAIN / 2 * self.noise])
        if len(size) > CROWDED and np.mean(found) > 0.5:
            return np.zeros(0)  # changes of slope wherever one looks: a smooth model
        # A kink of which a node sees D is seen as D / 4 at least after halving: a weaker one would be lost.
        clear = size > 4 * CERTAIN * self.noise
        cells = np.zeros(len(self.t) - 1, dtype=bool)
        cells[:-1] |= clear
        cells[1:] |= clear
        # Halves of a cell are not below r.
        cells &= np.diff(self.t) >= 2 * self.resolution
        return (self.t[:-1] + self.t[1:])[cells] / 2

    def pieces(self) -> Pieces:
        """What was found; resolved if nearly all change of slope sits in short runs of kinks, apart from each other."""
        certain, possible = (1 + disjoint(np.concatenate(kept)) for kept in (self.certain, self.possible))
        size = departures(self.t, self.g)
        found = np.concatenate([[False], size > CERTAIN * self.noise, [False]])
        width = np.minimum(np.diff(self.t)[:-1], np.diff(self.t)[1:])
        slope = np.where(size > CERTAIN / 2 * self.noise, size, 0.0) / width
        starts, ends = np.flatnonzero(~found[:-1] & found[1:]), np.flatnonzero(found[:-1] & ~found[1:])
        # One kink between two nodes, or three about one node, are seen from two to four nodes.
        kinks = np.zeros(len(found), dtype=bool)
        for a, b in zip(starts, ends, strict=True):
            kinks[a : b + 2] |= b - a <= 4  # with the node on either side, where it may be too weak to count
        apart = float(np.sum(slope[kinks[1:-1]]))
        return Pieces(certain, max(certain, possible), apart >= 0.9 * float(np.sum(slope)))


def rounding_noise(g: np.ndarray, unit: float) -> float:
    r"""The largest departure from affine that rounding is expected to make, from triples of close points (3, m, k).

    Twice the unit roundoff of the outputs, and 4 times the median of the measured departures: the median is insensitive
    to the few triples with a kink inside, and 4 medians of a normal error are 2.7 standard deviations.

    >>> rounding_noise(np.ones((3, 5, 1)), 0.5)
    1.0
    """
    apart = np.max(np.abs(g[1] - (g[0] + g[2]) / 2), axis=1)
    return 2 * unit * float(np.max(np.abs(g))) + 4 * float(np.median(apart))


def count_pieces(
    objective: AbstractObjective, segments: np.ndarray, resolution: float, rng: np.random.Generator
) -> list[Pieces]:
    """Linear pieces of the outputs along segments (s, 2, ...), by bisection of the cells beside a change of slope."""
    lines = [_Line(ends, resolution) for ends in segments]
    step = 1024 * objective.epsilon
    middle = rng.uniform(step, 1 - step, size=(len(lines), NOISE_PROBES))
    close = np.stack([middle - step, middle, middle + step], axis=1).reshape(len(lines), -1)
    for line, g in zip(lines, _outputs(objective, lines, list(close)), strict=True):
        line.noise = rounding_noise(g.reshape(3, NOISE_PROBES, -1), objective.epsilon)
    # Inner nodes at random: a kink on a node of a regular grid, at one half, say, is no exception.
    cells = (np.arange(1, COARSE) + rng.uniform(-0.25, 0.25, size=(len(lines), COARSE - 1))) / COARSE
    wanted = [np.concatenate([[0.0], inner, [1.0]]) for inner in cells]
    while any(len(t) for t in wanted):
        for line, t, g in zip(lines, wanted, _outputs(objective, lines, wanted), strict=True):
            line.add(t, g)
        wanted = [line.refine() if len(t) else t for line, t in zip(lines, wanted, strict=True)]
    return [line.pieces() for line in lines]


def _outputs(objective: AbstractObjective, lines: list[_Line], wanted: list[np.ndarray]) -> list[np.ndarray]:
    points = np.concatenate([line.points(t) for line, t in zip(lines, wanted, strict=True)])
    # Not many more at once than the probe data; padded to powers of two, so that a compiled model is compiled for few
    # sizes only.
    most = 1 << max(2 * COARSE, objective.examples).bit_length() - 1
    size = min(most, max(2 * COARSE, 1 << (len(points) - 1).bit_length()))
    rows = np.minimum(np.arange(-(-len(points) // size) * size), len(points) - 1)
    told = [objective.with_inputs(points[part]).outputs() for part in rows.reshape(-1, size)]
    g = np.concatenate(told)[: len(points)]
    _require_finite("The outputs between the probe data", g)
    return np.split(g, np.cumsum([len(t) for t in wanted])[:-1])


@instrument(
    gradients=10.0,
    cost="forward passes: 64 points per segment, and two per kink and halving",
    invariances="all reparametrisations of the same function, invertible affine maps of the inputs and of the outputs",
    says="At least how many linear pieces the function has on the way between two probe examples, on average.",
    not_says="Not the number of regions of the input space, nor of activation patterns: a kink that the outputs do not "
    "show is not counted.",
    needs="real inputs and a piecewise linear model (ReLU, max pooling)",
)
def _linear_regions(
    objective: AbstractObjective,
    *,
    rng: np.random.Generator,
    state: dict[str, Any],
    segments: int | np.ndarray = 10,
    resolution: float = 2.0**-16,
) -> Estimate:
    r"""Mean number of linear pieces of the outputs f along segments between pairs of probe examples, for ReLU networks.

    As in [@hanin2019complexity, number not checked], regions are counted along lines. `segments`: how many, between
    random pairs chosen once along a run; or their ends, an array (s, 2, ...) of inputs. Counted is a lower bound of the
    pieces: disjoint intervals, in each of which f departs from affine by more than rounding does, measured on close
    points. Cells beside a change of slope are halved down to `resolution` (a share of the segment): kinks closer than
    about 3 of those may count as one, and pieces that begin and end within one of the first 64 cells without a visible
    change of slope are not seen, nor is one that rounding hides (float32 hid a quarter of them in one network).
    The bound is infinite: from above, nothing is known. `details["ambiguous"]` is how many more there would be
    with changes of slope at the size of rounding.

    Not converged where changes of slope do not stand apart: a smooth model, or kinks closer than `resolution`.
    Details: the counts by segment.
    """
    if not 0 < resolution <= 1 / COARSE:
        raise UsageError(f"resolution is a share of a segment, at most 1/{COARSE}; got {resolution}.")
    if "segments" not in state:
        state["segments"] = _pairs(objective, segments, rng) if isinstance(segments, int) else np.asarray(segments)
    ends = state["segments"]
    if ends.ndim < 2 or ends.shape[1] != 2:
        raise UsageError(f"segments are pairs of inputs, an array of shape (s, 2, ...); got shape {ends.shape}.")
    pieces = count_pieces(objective, np.asarray(ends, dtype=np.float64), resolution, rng)
    counts = np.array([one.least for one in pieces])
    value = float(np.mean(counts))
    ambiguous = float(np.mean([one.most - one.least for one in pieces]))
    details = {"counts": counts, "ambiguous": ambiguous, "resolution": resolution}
    seen = (
        f"A lower bound of the pieces: kinks nearer than about {3 * resolution:.2g} of a segment may count as one, "
        f"and a change of slope that rounding in the outputs hides ({objective.epsilon:.1g}) is not seen."
    )
    crowded = sum(not one.resolved for one in pieces)
    if not crowded:
        return Estimate(
            value, math.inf, reason=f"at least {value:.6g}: kinks stand apart", details=details, notes=(seen,)
        )
    reason = (
        f"changes of slope do not stand apart on {crowded} of {len(pieces)} segments: at least {value:.6g} pieces each "
        "on average, if the model is piecewise linear at all; a finer resolution=, or weights in float64, may tell more"
    )
    return Estimate(math.nan, math.inf, False, reason, details={**details, "unconverged": value}, notes=(seen,))


def _pairs(objective: AbstractObjective, count: int, rng: np.random.Generator) -> np.ndarray:
    """Ends of segments between random pairs of different probe inputs."""
    if count < 1:
        raise UsageError(f"segments counts lines between probe examples, 1 or more; got {count}.")
    x = objective.inputs()
    different = np.unique(x.reshape(len(x), -1), axis=0)
    if len(different) < 2:
        raise NotApplicable("A segment joins two different probe inputs, and they are all equal: pass segments=.")
    rows = [rng.choice(len(different), 2, replace=False) for _ in range(count)]
    return different[np.stack(rows)].reshape(count, 2, *x.shape[1:])
