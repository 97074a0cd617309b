"""The page of a run, one file that needs no network: curves with bounds, their meaning, a verdict per question."""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from .. import bibliography, pages
from ..errors import StoreError
from ..figures import COLOURS, Axes
from .questions import Answer, answers
from .readings import MOST_NAMES, Reading, Run, Series, short, shown, versions

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

MOST_LINES = 12  # in one figure; of more parts the smallest, the median and the largest are drawn
LOG_FROM = 100.0  # a logarithmic axis where positive values span more than this factor


@dataclass
class Panel:
    """What the page shows of one measure."""

    series: Series
    last: str
    figure: str
    sources: list[tuple[str, str]]
    definition: str
    says: str
    not_says: str
    reason: str
    notes: list[str]

    @property
    def rate(self) -> str:
        """How sure the bounds are."""
        rates = {r.estimate.confidence for r in self.series.readings}
        return ", ".join("certain" if rate is None else f"{rate:.0%} confidence" for rate in sorted(rates, key=str))


def write(run: Run, path: Path | str, *, title: str = "What acts on this run") -> Path:
    """Write the page and return its path; it appears whole or not at all. Raises `StoreError` if it cannot."""
    path = Path(path)
    text = render(run, title=title)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        pages.replace(path, text)
    except OSError as error:
        raise StoreError(f"The report cannot be written to {path}: {error.strerror or error}.") from error
    return path


def render(run: Run, *, title: str) -> str:
    """The page as text."""
    from plotly.offline import get_plotlyjs

    shared = run.notes
    panels = [_panel(number, series, shared) for number, series in enumerate(run.series)]
    given = answers(run)
    whole = sum(series.seconds for series in run.series)
    return (
        pages.templates()
        .get_template("instruments.html")
        .render(
            title=title,
            answers=[answer for answer in given if answer.verdict != Answer.NOT_ASKED],
            unasked=[answer for answer in given if answer.verdict == Answer.NOT_ASKED],
            panels=panels,
            seconds=whole,
            notes=shared,
            facts=run.facts | {name.replace("_", " "): value for name, value in versions().items()},
            script=get_plotlyjs() if any(panel.figure for panel in panels) else "",
        )
    )


def _panel(number: int, series: Series, shared: list[str]) -> Panel:
    last = series.readings[-1].estimate if series.readings else None
    return Panel(
        series=series,
        last="" if last is None else short(last),
        figure=_drawn(number, series),
        sources=[_cited(key) for key in series.measure.source],
        definition=series.measure.definition,
        says=_in_words(series.measure.says),
        not_says=_in_words(series.measure.not_says),
        reason="" if last is None else last.reason,
        notes=[] if last is None else [note for note in last.notes if note not in shared],
    )


def _cited(key: str) -> tuple[str, str]:
    reference = bibliography.references().get(key)
    return (str(reference), reference.url) if reference else (key, "")


def _in_words(text: str) -> str:
    """Keys of the bibliography as authors and year."""

    def named(reference: bibliography.Reference) -> str:
        return f"{reference.authors} {reference.fields.get('year', '')}"

    def cited(found: re.Match[str]) -> str:
        reference = bibliography.references().get(found[1])
        return f"[{found[1] if reference is None else named(reference)}]"

    return re.sub(r"\[@([a-z]+\d{4}[a-z]+)[^\]]*\]", cited, text)


def _drawn(number: int, series: Series) -> str:
    figure = curve(series) if len(series.readings) > 1 else snapshot(series)
    if figure is None:
        return ""
    return figure.to_html(
        full_html=False,
        include_plotlyjs=False,
        div_id=f"figure-{number}",
        default_height="320px",
        config={"responsive": True, "displaylogo": False, "displayModeBar": False},
    )


def curve(series: Series) -> "Figure":
    """Every part over the steps with its bounds as a band, and the threshold where the measure knows one."""
    lines = _lines(series.readings)
    every = np.array([v for points in lines.values() for _, v, _ in points])
    figure = _axes("step", every).figure()
    for number, (name, points) in enumerate(lines.items()):
        colour, dash = COLOURS[number % len(COLOURS)], ("solid", "dash")[number // len(COLOURS) % 2]
        x, value, bound = (list(column) for column in zip(*points, strict=True))
        figure.add_scatter(
            **_polygons(np.array(x), np.array(value), np.array(bound), log=figure.layout.yaxis.type == "log"),
            mode="lines",  # with few points markers are the default
            fill="toself",
            fillcolor=_faint(colour),
            line={"width": 0},
            hoverinfo="skip",
            showlegend=False,
            legendgroup=name,
        )
        figure.add_scatter(
            x=x,
            y=value,
            mode="lines+markers" if len(x) <= 200 else "lines",
            connectgaps=False,
            name=name or series.name,
            legendgroup=name,
            line={"width": 2, "color": colour, "dash": dash},
            marker={"size": 4},
            customdata=bound,
            hovertemplate=f"{name or series.name}<br>step %{{x}}: %{{y:.5g}} ± %{{customdata:.2g}}<extra></extra>",
        )
    levels = [(r.step, float(r.estimate.details["threshold"])) for r in series.readings if _has_threshold(r)]
    if levels:
        at, level = zip(*levels, strict=True)
        figure.add_scatter(x=at, y=level, mode="lines", name="threshold", line={"dash": "dash", "color": "#7F7F7F"})
    missing = int(np.isnan(every).sum())
    if missing:
        figure.add_annotation(
            text=f"gaps: {missing} values did not converge",
            **{"xref": "paper", "yref": "paper", "x": 1.0, "y": 1.0, "yshift": 16},
            **{"xanchor": "right", "showarrow": False, "font": {"size": 12}},
        )
    figure.update_layout(showlegend=len(lines) > 1 or bool(levels), hovermode="closest", margin={"t": 40, "b": 50})
    return figure


def snapshot(series: Series) -> "Figure | None":
    """The parts of one reading with their bounds; the distribution of many; a density where there is one."""
    if not series.readings:
        return None
    estimate = series.readings[0].estimate
    if {"grid", "density"} <= set(estimate.details):
        figure = _density(estimate.details)
    elif len(estimate.names) > MOST_NAMES:
        figure = _axes("", np.array([]), y_title="how many").figure()
        figure.add_histogram(x=estimate.value, marker={"color": COLOURS[0]}, nbinsx=40)
    elif len(estimate.names) > 1:
        figure = _axes("", np.asarray(estimate.value)).figure()
        bounds = np.where(np.isfinite(estimate.bound), estimate.bound, 0.0)
        marker = {"size": 8, "color": COLOURS[0]}
        figure.add_scatter(
            x=list(estimate.names), y=estimate.value, mode="markers", marker=marker, error_y={"array": bounds}
        )
        figure.update_xaxes(type="category")
    else:
        return None
    figure.update_layout(showlegend=False, margin={"t": 24, "b": 50})
    return figure


def _density(details: Mapping[str, Any]) -> "Figure":
    """A density on a logarithmic axis, down to a ten-thousandth of its peak, with its band."""
    grid, density = (np.asarray(details[name], dtype=float).ravel() for name in ("grid", "density"))
    bound = np.broadcast_to(np.asarray(details.get("density_bound", 0.0), dtype=float).ravel(), density.shape)
    figure = Axes("", "density", log_y=True).figure()
    band = _polygons(grid, density, bound, log=True)
    figure.add_scatter(**band, fill="toself", fillcolor=_faint(COLOURS[0]), line={"width": 0}, hoverinfo="skip")
    figure.add_scatter(x=grid, y=density, mode="lines", line={"width": 2, "color": COLOURS[0]})
    peak = math.log10(max(float(density.max()), float(np.finfo(float).tiny)))
    figure.update_yaxes(range=[peak - 4, peak + 0.3])
    return figure


def _lines(readings: list[Reading]) -> dict[str, list[tuple[int, float, float]]]:
    """Step, value and bound of every line."""
    lines: dict[str, list[tuple[int, float, float]]] = {}
    for reading in readings:
        for name, value, bound in shown(reading.estimate, MOST_LINES):
            lines.setdefault(name, []).append((reading.step, value, bound))
    return lines


def _axes(x_title: str, values: np.ndarray, *, y_title: str = "") -> Axes:
    known = values[np.isfinite(values)]
    wide = bool(known.size and known.min() > 0 and known.max() > LOG_FROM * known.min())
    return Axes(x_title, y_title, log_y=wide)


def _polygons(x: np.ndarray, value: np.ndarray, bound: np.ndarray, *, log: bool) -> dict[str, Any]:
    """Outlines of the bands, one for each stretch of finite values and bounds; empty if there is none."""
    low, high = value - bound, value + bound
    if log:  # a band that reaches zero goes down to the lowest value shown
        floor = np.nanmin(value) / 2
        low = np.maximum(low, floor)
    known = np.isfinite(low) & np.isfinite(high)
    across: list[float | None] = []
    up: list[float | None] = []
    for stretch in np.split(np.arange(len(x)), np.flatnonzero(np.diff(known.astype(int))) + 1):
        if len(stretch) and known[stretch[0]]:
            across += [*x[stretch].tolist(), *x[stretch][::-1].tolist(), None]
            up += [*high[stretch].tolist(), *low[stretch][::-1].tolist(), None]
    return {"x": across, "y": up}


def _faint(colour: str) -> str:
    red, green, blue = (int(colour[k : k + 2], 16) for k in (1, 3, 5))
    return f"rgba({red},{green},{blue},0.22)"


def _has_threshold(reading: Reading) -> bool:
    level = reading.estimate.details.get("threshold")
    return isinstance(level, float | int) and math.isfinite(level)
