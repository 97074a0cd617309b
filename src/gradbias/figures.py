"""Figures that a claim names in one line: each builder returns a function from evidence to a plotly figure.

Plotly is imported when a figure is drawn and not before. Nothing is smoothed or interpolated: a value that is not
finite (or not positive, on a logarithmic axis) is a gap in its line, and the figure says how many there are.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from .claim import Evidence, parts
from .metric import Metric, direction, relative_l2

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

Drawing = Callable[[Evidence], "Figure"]

# Okabe and Ito's palette, without its yellow: told apart by every common kind of colour vision, on light and dark.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#7F7F7F")
# From this many seeds on, single runs are thin and a median is drawn over them.
MANY_SEEDS = 6
# More markers than this say nothing more; the points drawn are evenly spaced ones.
MOST_MARKERS = 3000


@dataclass(frozen=True)
class Axes:
    """Titles and scales of a figure with two axes."""

    x_title: str = ""
    y_title: str = ""
    title: str = ""
    log_x: bool = False
    log_y: bool = False

    def figure(self) -> "Figure":
        """An empty figure in the house style."""
        import plotly.graph_objects as go

        figure = go.Figure()
        line = {"showline": True, "linecolor": "#999999", "ticks": "outside", "tickcolor": "#999999", "zeroline": False}
        grid = {"gridcolor": "rgba(128,128,128,0.18)", "automargin": True}
        figure.update_layout(
            template="none",
            colorway=list(COLOURS),
            font={"family": "system-ui, -apple-system, 'Segoe UI', Roboto, sans-serif", "size": 14, "color": "#444444"},
            title={"text": self.title, "x": 0.0, "xref": "paper", "xanchor": "left", "font": {"size": 17}},
            paper_bgcolor="rgba(0,0,0,0)",
            plot_bgcolor="rgba(0,0,0,0)",
            margin={"l": 70, "r": 24, "t": 84 if self.title else 44, "b": 60},
            hoverlabel={"font": {"size": 13}},
            legend={"bgcolor": "rgba(0,0,0,0)", "orientation": "h", "x": 0, "y": 1.01, "yanchor": "bottom"},
            modebar={"bgcolor": "rgba(0,0,0,0)", "color": "#AAAAAA", "activecolor": "#666666"},
            xaxis={**line, **grid, **_scale(self.log_x), "title": {"text": self.x_title, "standoff": 12}},
            yaxis={**line, **grid, **_scale(self.log_y), "title": {"text": self.y_title, "standoff": 12}},
        )
        return figure


def _scale(logarithmic: bool) -> dict[str, Any]:
    return {"type": "log", "exponentformat": "power"} if logarithmic else {}


def curves(
    x: str | None,
    y: str | Sequence[str],
    *,
    x_title: str = "",
    y_title: str = "",
    title: str = "",
    log_x: bool = False,
    log_y: bool = True,
    labels: Sequence[str] = (),
    guide: tuple[str, float] | None = None,
    target: str | None = None,
) -> Drawing:
    r"""Lines over `x`: one per seed for each named curve, from `evidence.curves` (arrays of shape seeds × points).

    A curve of shape seeds × points × lines gives several lines; `labels` names them all, in order. `x=None` counts the
    points. With many seeds, single runs are thin and a median is drawn over them (of the values where all seeds share
    `x`; else the run whose last value is the median). `guide=("1/t", -1.0)` adds a dashed line of that slope, measured
    in what the axes show: $d\ln y / d\ln x$ where both are logarithmic, $d\ln y/dx$ or $dy/d\ln x$ where one is.
    `target` names a predicted part whose components are drawn as dashed horizontal lines.
    """
    names = [y] if isinstance(y, str) else list(y)
    axes = Axes(x_title or (x or "recorded point"), y_title or ", ".join(names), title, log_x, log_y)

    def draw(evidence: Evidence) -> "Figure":
        figure = axes.figure()
        lines = _lines(evidence, names, list(labels))
        some = next(iter(lines.values()))
        across = _curve(evidence, x) if x else np.broadcast_to(np.arange(some.shape[1]) + 1.0, some.shape)
        across = np.broadcast_to(across, some.shape) if across.ndim < 2 else across
        left_out = 0
        for number, (label, values) in enumerate(lines.items()):
            if values.shape != across.shape:
                raise ValueError(f"Curve {label!r} has shape {values.shape} and {x!r} {across.shape}; they must agree.")
            colour = COLOURS[number % len(COLOURS)] if len(lines) > 1 or evidence.seeds >= MANY_SEEDS else None
            dash = ("solid", "dash", "dot")[number // len(COLOURS) % 3]  # more lines than colours
            left_out += _draw_runs(figure, axes, (across, values), (label if len(lines) > 1 else "", colour, dash))
        if guide:
            _draw_guide(figure, axes, (across, some), guide)
        if target:
            left_out += _draw_target(figure, axes, evidence, (target, len(lines) > 1))
        figure.update_layout(showlegend=len(lines) > 1 or bool(guide or target) or evidence.seeds >= MANY_SEEDS)
        return _finish(figure, left_out)

    return draw


def _curve(evidence: Evidence, name: str) -> np.ndarray:
    if name not in evidence.curves:
        known = ", ".join(sorted(evidence.curves)) or "none"
        raise ValueError(f"There is no curve called {name!r}; `measured` returned these: {known}.")
    return np.asarray(evidence.curves[name], dtype=float)


def _lines(evidence: Evidence, names: list[str], labels: list[str]) -> dict[str, np.ndarray]:
    """Every line as an array of shape seeds × points, by its label."""
    found: dict[str, np.ndarray] = {}
    for name in names:
        values = _curve(evidence, name)
        if values.ndim == 2:
            found[name] = values
            continue
        if values.ndim != 3:
            raise ValueError(
                f"Curve {name!r} has shape {values.shape}; expected seeds × points or seeds × points × lines."
            )
        prefix = f"{name} " if len(names) > 1 else ""
        found |= {f"{prefix}{k + 1}": values[:, :, k] for k in range(values.shape[2])}
    if labels and len(labels) != len(found):
        raise ValueError(f"There are {len(found)} lines ({', '.join(found)}) and {len(labels)} labels; give one each.")
    return dict(zip(labels, found.values(), strict=True)) if labels else found


def _with_gaps(axes: Axes, x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """`y` with NaN wherever a point cannot be shown, and which points those are."""
    bad = ~(np.isfinite(x) & np.isfinite(y))
    with np.errstate(invalid="ignore"):
        bad |= (axes.log_x & (x <= 0)) | (axes.log_y & (y <= 0))
    return np.where(bad, np.nan, y), bad


def _draw_runs(
    figure: "Figure", axes: Axes, data: tuple[np.ndarray, np.ndarray], look: tuple[str, str | None, str]
) -> int:
    """One line per seed (and a median over many); returns how many points had to be left out."""
    (across, values), (label, colour, dash) = data, look
    many, left_out = len(values) >= MANY_SEEDS, 0
    for seed, (x, y) in enumerate(zip(across, values, strict=True)):
        shown, bad = _with_gaps(axes, x, y)
        left_out += int(bad.sum())
        figure.add_scatter(
            x=x,
            y=shown,
            mode="lines" if len(x) > 1 else "markers",
            connectgaps=False,
            name=label or ("run" if len(values) == 1 else "single runs"),
            legendgroup=label,
            showlegend=(seed == 0) if not many else (seed == 0 and not label),
            opacity=max(0.12, 0.6 / math.sqrt(len(values))) if many else 0.9,
            line={"width": 1 if many else 2, "color": colour or COLOURS[seed % len(COLOURS)], "dash": dash},
            hovertemplate=f"seed {seed}{', ' + label if label else ''}<br>%{{x:.4g}}, %{{y:.4g}}<extra></extra>",
        )
    if many:
        x, y, name = _median(across, values)
        figure.add_scatter(
            x=x,
            y=_with_gaps(axes, x, y)[0],
            mode="lines",
            connectgaps=False,
            name=label or name,
            legendgroup=label,
            line={"width": 3, "color": colour, "dash": dash},
            hovertemplate=f"{name}{', ' + label if label else ''}<br>%{{x:.4g}}, %{{y:.4g}}<extra></extra>",
        )
    return left_out


def _median(across: np.ndarray, values: np.ndarray) -> tuple[np.ndarray, np.ndarray, str]:
    if np.array_equal(across, np.broadcast_to(across[0], across.shape), equal_nan=True):
        return across[0], np.median(values, axis=0), f"median of {len(values)} seeds"
    order = np.argsort(values[:, -1])  # NaN sorts last
    middle = order[len(values) // 2]
    return across[middle], values[middle], "run with the median end"


def _draw_guide(figure: "Figure", axes: Axes, data: tuple[np.ndarray, np.ndarray], guide: tuple[str, float]) -> None:
    """A dashed line of known slope through the later part of the middle run, no taller than the run itself."""
    x, y, _ = _median(*data)
    shown = np.isfinite(_with_gaps(axes, x, y)[0])
    if not shown.any():
        return
    x, y = x[shown], y[shown]
    u, v = (np.log(x) if axes.log_x else x), (np.log(y) if axes.log_y else y)
    later = u >= u[0] + 0.4 * (u[-1] - u[0])
    height = float(np.median(v[later] - guide[1] * u[later]))
    ends = np.array([u[later][0], u[-1]])
    if guide[1]:
        reach = np.sort((np.array([v.min(), v.max()]) - height) / guide[1])
        ends = np.clip(ends, *reach)
    heights = height + guide[1] * ends
    figure.add_scatter(
        x=np.exp(ends) if axes.log_x else ends,
        y=np.exp(heights) if axes.log_y else heights,
        mode="lines",
        name=guide[0],
        line={"width": 2, "dash": "dash", "color": "#7F7F7F"},
        hoverinfo="skip",
    )


def _draw_target(figure: "Figure", axes: Axes, evidence: Evidence, look: tuple[str, bool]) -> int:
    """Dashed horizontal lines at the components of a predicted part; returns how many cannot be shown."""
    target, several = look
    predicted = parts(evidence.predicted)
    if target not in predicted:
        raise ValueError(f"There is no predicted part called {target!r}; these exist: {', '.join(predicted)}.")
    values = np.asarray(predicted[target], dtype=float).reshape(evidence.seeds, -1)
    shown, bad = _with_gaps(axes, np.ones_like(values), values)
    for number, component in enumerate(shown.T):
        dashes = {"width": 2, "dash": "dash", "color": COLOURS[number % len(COLOURS)] if several else "#7F7F7F"}
        for level in np.unique(component[np.isfinite(component)]):
            figure.add_hline(y=float(level), line=dashes)
        # A line across the whole figure has no entry in the legend: an empty trace stands for it.
        name = "predicted" if values.shape[1] == 1 else f"predicted, component {number + 1}"
        figure.add_scatter(x=[None], y=[None], mode="lines", name=name, line=dashes)
    return int(bad.sum())


def _finish(figure: "Figure", left_out: int) -> "Figure":
    """Whole decades on logarithmic axes, at most nine of them named; a note on points that cannot be shown."""
    for axis in (figure.layout.xaxis, figure.layout.yaxis):
        if axis.type != "log":
            continue
        name = "x" if axis is figure.layout.xaxis else "y"
        every = np.array([v for trace in figure.data for v in trace[name] if v is not None], dtype=float)
        values = every[np.isfinite(every) & (every > 0)]
        decades = math.log10(values.max() / values.min()) if values.size else 0.0
        if decades > 1.5:
            axis.dtick = math.ceil(decades / 9)
    if left_out:
        figure.add_annotation(
            text=f"gaps: {left_out} points (not finite, or log of ≤ 0)",
            **{"xref": "paper", "yref": "paper", "x": 1.0, "y": 0.0, "yshift": -34},
            **{"xanchor": "right", "yanchor": "top", "showarrow": False, "font": {"size": 11}},
        )
    return figure


def _components(evidence: Evidence, part: str) -> tuple[np.ndarray, np.ndarray]:
    """Measured and predicted of a part as seeds × components; increments where the prediction is one of increments."""
    measured = np.asarray(parts(evidence.measured)[part], dtype=float).reshape(evidence.seeds, -1)
    predicted = np.asarray(parts(evidence.predicted)[part], dtype=float).reshape(evidence.seeds, -1)
    if measured.shape != predicted.shape and predicted.shape[1] in (1, measured.shape[1] - 1):
        measured = np.diff(measured, axis=1)
    return measured, np.broadcast_to(predicted, measured.shape)


def _metric_of(metric: Metric | Mapping[str, Metric], part: str) -> Metric:
    return metric[part] if isinstance(metric, Mapping) else metric


def _half_width(metric: Metric, error: float, a: np.ndarray, b: np.ndarray) -> float:
    """The error budget in units of the value: the budget in the metric's units over its Lipschitz constant."""
    with np.errstate(all="ignore"):
        return float(error / np.max(metric.lipschitz(a, b)))


def agreement(*, metric: Metric | Mapping[str, Metric] = relative_l2, title: str = "", log: bool = False) -> Drawing:
    """Measured against predicted, every component of every part and seed, with the error budget and the line y = x.

    `metric` is the claim's own; where it compares directions both sides are scaled to length one. Of more than 3000
    components an even selection is drawn.
    """
    axes = Axes("predicted", "measured", title, log, log)

    def draw(evidence: Evidence) -> "Figure":
        figure, left_out, ends = axes.figure(), 0, []
        names = list(parts(evidence.predicted))
        for number, part in enumerate(names):
            points = np.concatenate(
                [_agreeing(evidence, part, _metric_of(metric, part), seed) for seed in range(evidence.seeds)], axis=1
            )
            x, y, bar = points[:, :: max(1, points.shape[1] // MOST_MARKERS)]
            shown, bad = _with_gaps(axes, x, y)
            left_out += int(bad.sum())
            ends += [*x[~bad], *y[~bad]]
            figure.add_scatter(
                x=x,
                y=shown,
                mode="markers",
                name=part,
                marker={"size": 7, "opacity": 0.65, "color": COLOURS[number % len(COLOURS)]},
                error_y={"array": bar, "thickness": 1, "width": 3, "color": "rgba(128,128,128,0.6)"},
                hovertemplate=f"{part}<br>predicted %{{x:.6g}}<br>measured %{{y:.6g}}<extra></extra>",
            )
        if ends:
            figure.add_scatter(
                x=[min(ends), max(ends)],
                y=[min(ends), max(ends)],
                mode="lines",
                name="measured = predicted",
                line={"width": 1.5, "dash": "dash", "color": "#7F7F7F"},
                hoverinfo="skip",
            )
        figure.update_layout(showlegend=True)
        return _finish(figure, left_out)

    return draw


def _agreeing(evidence: Evidence, part: str, metric: Metric, seed: int) -> np.ndarray:
    """Predicted, measured and half width of the error bar of one part and seed: 3 × components."""
    measured, predicted = _components(evidence, part)
    a, b = measured[seed], predicted[seed]
    width = _half_width(metric, float(evidence.error[part][seed]), a, b)
    if metric is direction:
        with np.errstate(all="ignore"):
            width, a, b = float(evidence.error[part][seed]), a / np.linalg.norm(a), b / np.linalg.norm(b)
    return np.stack([b, a, np.full(len(a), width)])


def bars(*, labels: Sequence[str] = (), y_title: str = "value", title: str = "", log: bool = False) -> Drawing:
    """Measured and predicted for every part and component: mean over seeds, whiskers from least to most."""
    axes = Axes("", y_title, title, False, log)

    def draw(evidence: Evidence) -> "Figure":
        figure = axes.figure()
        ticks: list[str] = []
        sides: dict[str, list[np.ndarray]] = {"measured": [], "predicted": []}
        for part in parts(evidence.predicted):
            measured, predicted = _components(evidence, part)
            many = measured.shape[1] > 1
            ticks += [f"{part} {k + 1}" if many else part for k in range(measured.shape[1])]
            sides["measured"] += list(measured.T)
            sides["predicted"] += list(predicted.T)
        if labels and len(labels) != len(ticks):
            raise ValueError(
                f"There are {len(ticks)} bars ({', '.join(ticks)}) and {len(labels)} labels; give one each."
            )
        left_out = 0
        for (name, columns), colour in zip(sides.items(), (COLOURS[0], "#B8B8B8"), strict=True):
            values = np.stack(columns)
            shown, bad = _with_gaps(axes, np.ones_like(values), values)
            left_out += int(bad.sum())
            middle = shown.mean(axis=1)  # NaN where a seed has none: no bar rather than a mean of the others
            figure.add_bar(
                x=list(labels) or ticks,
                y=middle,
                name=name,
                marker={"color": colour},
                error_y={
                    "array": shown.max(axis=1) - middle,
                    "arrayminus": middle - shown.min(axis=1),
                    "thickness": 1.2,
                    "width": 4,
                    "color": "#7F7F7F",
                    "visible": evidence.seeds > 1,
                },
            )
        figure.update_layout(barmode="group", bargap=0.3, showlegend=True)
        return _finish(figure, left_out)

    return draw


def gap_by_part(*, metric: Metric | Mapping[str, Metric] = relative_l2, title: str = "") -> Drawing:
    """The gap of every part and seed (its largest component) and its error budget, on a logarithmic axis."""
    axes = Axes("seed", "gap (dots) and error budget (ticks)", title, False, True)

    def draw(evidence: Evidence) -> "Figure":
        figure, left_out = axes.figure(), 0
        names, seeds = list(parts(evidence.predicted)), np.arange(evidence.seeds)
        for number, part in enumerate(names):
            measured, predicted = _components(evidence, part)
            with np.errstate(all="ignore"):
                gap = _metric_of(metric, part).gap
                gaps = np.array([np.max(np.abs(gap(a, b))) for a, b in zip(measured, predicted, strict=True)])
            for values, symbol, what in ((gaps, "circle", "gap"), (evidence.error[part], "line-ew-open", "error")):
                shown, bad = _with_gaps(axes, seeds, np.asarray(values, dtype=float))
                left_out += int(bad.sum())
                figure.add_scatter(
                    x=seeds,
                    y=shown,
                    mode="markers",
                    name=f"{part}: {what}" if len(names) > 1 else what,
                    marker={"size": 10, "symbol": symbol, "color": COLOURS[number % len(COLOURS)]},
                )
        figure.update_xaxes(dtick=1 if evidence.seeds <= 20 else None)
        figure.update_layout(showlegend=True)
        return _finish(figure, left_out)

    return draw
