"""What measuring along a run leaves: readings of each measure, as a flat row, a table, an `xarray.Dataset`."""

import dataclasses
import importlib.metadata
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from .catalogue import Measure
from .estimate import Cost, Estimate

if TYPE_CHECKING:
    from xarray import DataArray, Dataset

MOST_NAMES = 32  # of parts shown one by one; more of them (margins of examples) are summed up in three numbers
MOST_KEPT = 4096  # entries of an array in `details` that outlives its reading: a density's grid, no eigenvector


@dataclass(frozen=True)
class Reading:
    """One estimate and the step it was made at."""

    step: int
    estimate: Estimate


@dataclass
class Series:
    """The readings of one measure along a run; `failure` says why there are none, or none any more."""

    measure: Measure
    options: Mapping[str, Any] = field(default_factory=dict)
    readings: list[Reading] = field(default_factory=list)
    seconds: float = 0.0
    failure: str = ""
    hint: str = ""
    """Why it was not read although it did not fail: what it needs and what the budget has given."""

    @property
    def name(self) -> str:
        """The name of the measure."""
        return self.measure.name

    @property
    def cost(self) -> Cost:
        """The work of all readings together."""
        return sum((reading.estimate.cost for reading in self.readings), Cost())

    def add(self, step: int, estimate: Estimate) -> None:
        """Keep an estimate; of its details only numbers, text and small arrays."""
        small = {
            name: value
            for name, value in estimate.details.items()
            if isinstance(value, bool | int | float | str)
            or (isinstance(value, np.ndarray) and value.size <= MOST_KEPT)
        }
        self.readings.append(Reading(step, dataclasses.replace(estimate, details=small)))

    def names(self) -> list[str]:
        """The names of the parts, in the order of their first appearance; '' is the one of a single number."""
        return list(dict.fromkeys(name for r in self.readings for name, _, _ in r.estimate.items()))


@dataclass
class Run:
    """All that a page shows: the series, facts about what was measured, and notes for the reader."""

    series: list[Series]
    facts: dict[str, str] = field(default_factory=dict)
    settings: dict[str, Any] = field(default_factory=dict)
    """What rules may ask for besides readings: the batch size of the training."""

    def __getitem__(self, name: str) -> list[Reading]:
        """The readings of a measure, none if it was not asked for."""
        return next((series.readings for series in self.series if series.name == name), [])

    @property
    def notes(self) -> list[str]:
        """What a reader of all the numbers must know: the notes that more than one measure has."""
        of = [{note for reading in series.readings for note in reading.estimate.notes} for series in self.series]
        every = dict.fromkeys(note for s in self.series for r in s.readings for note in r.estimate.notes)
        return [note for note in every if sum(note in notes for notes in of) > 1]


def shown(estimate: Estimate, most: int = MOST_NAMES) -> Iterator[tuple[str, float, float]]:
    """Name, value and bound of what is shown of an estimate: each part, or smallest, median and largest of many.

    Order statistics move by no more than the largest change of an entry: their bound is the largest one.
    """
    if len(estimate.names) <= most:
        yield from estimate.items()
        return
    bound = float(np.max(estimate.bound))
    for name, value in (("min", np.min), ("median", np.median), ("max", np.max)):
        yield name, float(value(estimate.value)), bound


def flat(name: str, estimate: Estimate) -> dict[str, float]:
    """The entries of a row: `name` and `name/bound`, or `name/part` and `name/part/bound`."""
    row: dict[str, float] = {}
    for part, value, bound in shown(estimate):
        key = f"{name}/{part}" if part else name
        row |= {key: value, f"{key}/bound": bound}
    return row


def trajectory(run: Run, attributes: Mapping[str, Any]) -> "Dataset":
    """Every reading over the dimension `step`, NaN where a measure was not read.

    A measure `m` of several parts has the dimension `m_part`, with their names; `m_bound` are the bounds. Measures
    that were never read are named, with the reason, in the attribute `not_read`.
    """
    import xarray as xr

    steps = sorted({reading.step for series in run.series for reading in series.readings})
    variables: dict[str, DataArray] = {}
    for series in run.series:
        variables |= _variables(series, steps) if series.readings else {}
    facts = {name: value for name, value in attributes.items() if value is not None}
    facts["not_read"] = "; ".join(f"{s.name}: {s.failure or s.hint or 'not due'}" for s in run.series if not s.readings)
    return xr.Dataset(variables, coords={"step": steps}, attrs=facts | versions())


def _variables(series: Series, steps: list[int]) -> dict[str, "DataArray"]:
    import xarray as xr

    names = series.names()
    values, bounds = (np.full((len(steps), len(names)), math.nan) for _ in range(2))
    for reading in series.readings:
        row = steps.index(reading.step)
        for name, value, bound in reading.estimate.items():
            values[row, names.index(name)], bounds[row, names.index(name)] = value, bound
    dims: list[str] = ["step"]
    coords: dict[str, Any] = {"step": steps}
    if names != [""]:
        part = f"{series.name}_part"
        dims, coords = ["step", part], {"step": steps, part: names}
    else:
        values, bounds = values[:, 0], bounds[:, 0]
    confidence = next((r.estimate.confidence for r in series.readings if r.estimate.confidence is not None), None)
    told = {
        "definition": series.measure.definition,
        "means": series.measure.says,
        "does_not_mean": series.measure.not_says,
        "source": ", ".join(series.measure.source),
        "options": ", ".join(f"{name} = {value}" for name, value in series.options.items()),
        "confidence": "certain" if confidence is None else str(confidence),
        "seconds": series.seconds,
        "failure": series.failure or series.hint,
    }
    return {
        series.name: xr.DataArray(values, coords, dims, attrs=told),
        f"{series.name}_bound": xr.DataArray(bounds, coords, dims),
    }


def versions() -> dict[str, str]:
    """Versions of what computes, where it is installed."""
    found = {}
    for name in ("gradbias", "numpy", "jax", "torch"):
        try:
            found[f"{name}_version"] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def short(estimate: Estimate) -> str:
    """Value ± bound on one line: the parts by name, the summary of many."""
    if not estimate.converged and not estimate.names:
        return str(estimate)
    rate = "" if estimate.confidence is None else f" ({estimate.confidence:.0%} confidence)"
    told = [f"{n} {number(v, b)}".strip() for n, v, b in shown(estimate)]
    return ", ".join(told) + rate


def number(value: float, bound: float) -> str:
    """A value with its bound, rounded up to one digit, and no digits that the bound makes meaningless."""
    if math.isnan(value):
        return "not converged"
    if math.isinf(bound):
        return f"{value:.4g} (no bound)"
    if bound == 0:
        return f"{value:.6g}"
    place = math.floor(math.log10(bound))
    rounded = math.ceil(bound / 10.0**place * (1 - 1e-12)) * 10.0**place
    known = math.floor(math.log10(abs(value))) - place + 1 if value else 1
    told = f"{value:.{min(max(known, 1), 6)}g}"
    if "e" in told and abs(value) < 1e6:
        told = f"{float(told):.0f}" if abs(value) >= 1 else told
    return f"{told} ± {rounded:.0f}" if 1 <= rounded < 1e6 else f"{told} ± {rounded:.1g}"


def summary(run: Run, lines: Mapping[str, str]) -> str:
    """A table in plain text: the last reading of every measure, how many there are, and what they took."""
    rows = [("measure", "last reading", "readings", "seconds")]
    for series in run.series:
        last = short(series.readings[-1].estimate) if series.readings else ""
        told = "; ".join(part for part in (last, series.failure or series.hint) if part)
        rows.append((series.name, told or "not read yet", str(len(series.readings)), f"{series.seconds:.3g}"))
    widths = [max(len(row[k]) for row in rows) for k in (0, 2, 3)]
    table = [f"{n:<{widths[0]}}  {c:>{widths[1]}}  {s:>{widths[2]}}  {told}" for n, told, c, s in rows]
    return "\n".join([*table, *(f"{name}: {value}" for name, value in lines.items())])
