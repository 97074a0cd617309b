"""Panels above each other that share one x-axis: a loss over what explains it."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from ..claim import Evidence
from .axes import COLOURS, Axes, Drawing, finish, with_gaps
from .lines import curve

if TYPE_CHECKING:
    from plotly.graph_objects import Figure


@dataclass(frozen=True)
class Panel:
    """One panel: the curve it shows, its title, and a curve of levels (one per line) drawn dashed.

    `names` are those of the panel's own lines, in colours of their own, for panels whose lines are not the same ones.
    A line that is alone in its panel is told by the title and has no entry in the legend.
    """

    y: str
    title: str = ""
    log: bool = False
    level: str = ""
    level_title: str = ""
    names: Sequence[str] = ()


def panels(
    x: str,
    shown: Sequence[Panel],
    *,
    x_title: str = "",
    lines: str = "",
    line_title: str = "",
    log_x: bool = False,
    seed: int = 0,
) -> Drawing:
    r"""Panels from top to bottom over one `x`, with one colour per line in all of them; the run of one seed.

    Curves have shape seeds × points, or seeds × points × lines; `lines` names a curve of shape seeds × lines with the
    number that tells one line from the other, as a step size, written after `line_title` in the legend. A panel's
    `level` names a curve of that shape too: the height of a dashed line for each. Raises `ValueError` for a curve that
    does not exist or fit.
    """

    def draw(evidence: Evidence) -> "Figure":
        across = curve(evidence, x)[seed]
        figure, left_out, first = Axes(x_title or x, "", "", log_x).figure(), 0, 0
        heights, house = np.linspace(1.0, 0.0, len(shown) + 1), figure.layout.yaxis.to_plotly_json()
        for number, panel in enumerate(shown):
            axis = "y" if number == 0 else f"y{number + 1}"
            top, bottom = heights[number] - (0.03 if number else 0.0), heights[number + 1] + 0.03
            scale = {"type": "log", "exponentformat": "power", "dtick": 1} if panel.log else {"type": "linear"}
            spot = {"domain": [max(bottom, 0.0) if number < len(shown) - 1 else 0.0, top], "anchor": "x"}
            title = {"text": panel.title or panel.y, "standoff": 12}
            figure.update_layout({f"yaxis{axis[1:]}": house | scale | spot | {"title": title}})
            values = curve(evidence, panel.y)[seed]
            values = values[:, None] if values.ndim == 1 else values
            if len(values) != len(across):
                raise ValueError(
                    f"Curve {panel.y!r} has {len(values)} points and {x!r} {len(across)}; they must agree."
                )
            names = panel.names or _names(evidence, lines, line_title, seed)
            left_out += _draw_panel(figure, panel, (across, values, axis), names, first=first)
            first += len(panel.names)
            if panel.level:
                _draw_levels(figure, (curve(evidence, panel.level)[seed], axis), panel.level_title)
        figure.update_xaxes(anchor="y" if len(shown) == 1 else f"y{len(shown)}")
        figure.update_layout(showlegend=True, height=240 * len(shown) + 120)
        return finish(figure, left_out)

    return draw


def _names(evidence: Evidence, lines: str, title: str, seed: int) -> list[str]:
    return [f"{title}{value:.3g}" for value in np.ravel(curve(evidence, lines)[seed])] if lines else []


def _draw_panel(
    figure: "Figure", panel: Panel, data: tuple[np.ndarray, np.ndarray, str], names: Sequence[str], *, first: int
) -> int:
    (across, values, axis), left_out = data, 0
    for number, line in enumerate(values.T):
        shown, bad = with_gaps(Axes(log_x=figure.layout.xaxis.type == "log", log_y=panel.log), across, line)
        left_out += int(bad.sum())
        alone = panel.title or panel.y if len(values.T) == 1 else f"line {number + 1}"
        name = names[number] if number < len(names) else alone
        figure.add_scatter(
            x=across,
            y=shown,
            yaxis=axis,
            mode="lines",
            connectgaps=False,
            name=name,
            legendgroup=name,
            showlegend=len(values.T) > 1 and (bool(panel.names) or axis == "y"),
            line={"width": 1.6, "color": COLOURS[(first + number) % len(COLOURS)]},
            hovertemplate=f"{name}<br>%{{x:.4g}}, %{{y:.4g}}<extra></extra>",
        )
    return left_out


def _draw_levels(figure: "Figure", data: tuple[np.ndarray, str], title: str) -> None:
    levels, axis = data
    for number, level in enumerate(np.ravel(levels)):
        colour = COLOURS[number % len(COLOURS)]
        figure.add_shape(
            **{"type": "line", "xref": "paper", "x0": 0, "x1": 1, "yref": axis, "y0": level, "y1": level},
            line={"width": 1.5, "dash": "dash", "color": colour},
        )
    if title:  # a shape has no entry in the legend: an empty trace stands for all of them
        dashes = {"width": 1.5, "dash": "dash", "color": "#7F7F7F"}
        figure.add_scatter(x=[None], y=[None], mode="lines", name=title, line=dashes)
