"""Figures: what is drawn, and that what cannot be drawn is a gap that is counted."""

import dataclasses

import numpy as np
import pytest

from gradbias import figures
from gradbias.claim import Evidence
from gradbias.metric import difference, direction

T = np.geomspace(1.0, 1e4, 30)


def evidence(seeds: int = 3) -> Evidence:
    rng = np.random.default_rng(0)
    y = np.exp(0.1 * rng.normal(size=(seeds, 1))) / T
    return Evidence(
        measured={"w": np.ones((seeds, 4)), "level": np.full(seeds, 2.0)},
        predicted={"w": np.full((seeds, 4), 1.1), "level": np.full(seeds, 2.0)},
        error={"w": np.full(seeds, 0.01), "level": np.zeros(seeds)},
        converged=np.ones(seeds, dtype=bool),
        certified=np.ones(seeds, dtype=bool),
        steps=np.zeros(seeds, dtype=int),
        curves={"t": np.broadcast_to(T, y.shape), "y": y, "pair": np.stack([y, 2 * y], axis=-1)},
    )


def test_every_seed_is_a_line_and_many_seeds_get_a_median() -> None:
    assert len(figures.curves("t", "y")(evidence(3)).data) == 3
    many = figures.curves("t", "y")(evidence(8))
    assert len(many.data) == 9
    np.testing.assert_allclose(many.data[-1].y, np.median(evidence(8).curves["y"], axis=0))


def test_a_curve_with_several_lines_has_labels_and_a_legend() -> None:
    figure = figures.curves("t", "pair", labels=("one", "two"))(evidence())
    assert {trace.name for trace in figure.data} == {"one", "two"}
    assert figure.layout.showlegend
    assert {t.name for t in figures.curves(None, ("y", "pair"))(evidence()).data} == {"y", "pair 1", "pair 2"}


def test_an_unknown_curve_is_answered_with_those_that_exist() -> None:
    with pytest.raises(ValueError, match=r"no curve called 'z'; `measured` returned these: pair, t, y"):
        figures.curves("t", "z")(evidence())
    with pytest.raises(ValueError, match="no predicted part called 'z'; these exist: w, level"):
        figures.curves("t", "y", target="z")(evidence())
    with pytest.raises(ValueError, match=r"2 lines .* and 1 labels"):
        figures.curves("t", "pair", labels=("one",))(evidence())


@pytest.mark.parametrize("bad", [np.nan, np.inf, -1.0])
def test_what_a_logarithmic_axis_cannot_show_is_a_gap_that_is_counted(bad: float) -> None:
    seen = evidence()
    seen.curves["y"][1, 3:5] = bad
    figure = figures.curves("t", "y", log_x=True, log_y=True)(seen)
    assert np.isnan(figure.data[1].y[3:5]).all()
    assert not figure.data[1].connectgaps
    assert figure.layout.annotations[0].text.startswith("gaps: 2 points")
    figure.to_json()


def test_a_guide_has_the_slope_it_says() -> None:
    guide = figures.curves("t", "y", log_x=True, log_y=True, guide=("1/t", -1.0))(evidence(1)).data[-1]
    assert guide.name == "1/t"
    np.testing.assert_allclose(np.diff(np.log(guide.y)) / np.diff(np.log(guide.x)), -1.0)


def test_a_target_is_a_line_across_the_figure() -> None:
    figure = figures.curves("t", "y", target="level")(evidence())
    assert [shape.y0 for shape in figure.layout.shapes] == [2.0]


def test_agreement_draws_the_error_budget_in_units_of_the_value() -> None:
    figure = figures.agreement(metric={"w": difference, "level": difference})(evidence())
    np.testing.assert_allclose(figure.data[0].error_y.array, 0.01)
    np.testing.assert_allclose(figure.data[0].x, 1.1)
    scaled = figures.agreement(metric=direction)(evidence())
    np.testing.assert_allclose(scaled.data[0].x, 0.5)
    np.testing.assert_allclose(scaled.data[0].y, 0.5)


def test_bars_stand_for_every_component_and_refuse_to_average_over_nan() -> None:
    seen = evidence()
    seen.measured["w"][0, 1] = np.nan
    figure = figures.bars()(seen)
    assert list(figure.data[0].x) == ["w 1", "w 2", "w 3", "w 4", "level"]
    assert np.isnan(figure.data[0].y[1])
    np.testing.assert_allclose(figure.data[1].y, [1.1, 1.1, 1.1, 1.1, 2.0])


def test_required_increments_are_compared_with_measured_increments() -> None:
    seen = dataclasses.replace(evidence(2), predicted={"w": np.zeros(2), "level": np.zeros(2)})
    assert list(figures.bars()(seen).data[0].x) == ["w 1", "w 2", "w 3", "level"]


def test_gaps_and_errors_are_drawn_by_part() -> None:
    figure = figures.gap_by_part()(evidence())
    assert [trace.name for trace in figure.data] == ["w: gap", "w: error", "level: gap", "level: error"]
    np.testing.assert_allclose(figure.data[0].y, 0.1 / 1.1)


def test_points_put_several_values_at_one_place_and_theory_is_a_line_of_one_seed() -> None:
    seen = evidence(3)
    figure = figures.points("t", ("pair", "y"), lines=("y",), labels=("orbit", "theory"), diagonal=True)(seen)
    assert [len(trace.x) for trace in figure.data] == [3 * 30 * 2, 30, 2]
    assert [trace.mode for trace in figure.data] == ["markers", "lines", "lines"]
    np.testing.assert_array_equal(figure.data[0].x, np.repeat(np.tile(T, 3), 2))
    with pytest.raises(ValueError, match=r"'short' has shape \(3, 4\) and 't' \(3, 30\)"):
        figures.points("t", "short")(dataclasses.replace(seen, curves=seen.curves | {"short": np.ones((3, 4))}))


def stacked(**changes: np.ndarray) -> Evidence:
    made = evidence()
    pair = made.curves["pair"]
    own = {"t": made.curves["t"], "pair": pair, "rate": np.array([[0.1, 0.2]] * 3), "level": np.array([[4.0, 2.0]] * 3)}
    return dataclasses.replace(made, curves=own | changes)


PANELS = [figures.Panel("pair", "loss", log=True), figures.Panel("pair", "sharpness", level="level", level_title="2/η")]


def test_panels_share_an_axis_and_a_colour_per_line() -> None:
    figure = figures.panels("t", PANELS, lines="rate", line_title="η = ")(stacked())
    top, bottom = figure.data[:2], figure.data[2:4]
    assert [t.name for t in top] == ["η = 0.1", "η = 0.2"]
    assert [t.line.color for t in top] == [t.line.color for t in bottom]
    assert {t.yaxis for t in top} == {"y"}
    assert {t.yaxis for t in bottom} == {"y2"}
    assert figure.layout.yaxis.type == "log"
    assert figure.layout.yaxis2.type == "linear"
    assert figure.layout.yaxis.domain[0] > figure.layout.yaxis2.domain[1]
    assert [(s.y0, s.yref) for s in figure.layout.shapes] == [(4.0, "y2"), (2.0, "y2")]
    assert figure.data[-1].name == "2/η"


def test_a_line_alone_in_its_panel_is_told_by_the_title_and_not_by_the_legend() -> None:
    shown = [figures.Panel("pair", "loss", names=("one", "two")), figures.Panel("y", "share", names=("y",))]
    drawn = figures.panels("t", shown)(stacked(y=evidence().curves["y"])).data
    assert [(t.name, t.showlegend) for t in drawn] == [("one", True), ("two", True), ("y", False)]
    assert len({t.line.color for t in drawn}) == 3


def test_panels_refuse_curves_of_another_length_and_count_what_cannot_be_shown() -> None:
    with pytest.raises(ValueError, match="'pair' has 5 points and 't' 30"):
        figures.panels("t", PANELS)(stacked(pair=np.ones((3, 5, 2))))
    pair = evidence().curves["pair"].copy()
    pair[0, 3, 1] = np.nan
    figure = figures.panels("t", PANELS)(stacked(pair=pair))
    assert "gaps: 2 points" in figure.layout.annotations[0].text


def test_measured_markers_lie_on_the_predicted_path() -> None:
    seen = dataclasses.replace(evidence(), curves={"scale": np.broadcast_to(np.geomspace(0.1, 1.0, 4), (3, 4))})
    line, markers = figures.along("scale", ["w"])(seen).data
    assert (line.mode, markers.mode) == ("lines", "markers")
    np.testing.assert_allclose(line.y, 1.1)
    np.testing.assert_allclose(markers.y, 1.0)
    with pytest.raises(ValueError, match=r"gives .* numbers and 'scale' has"):
        figures.along("scale", ["w"], of=lambda w: w[:2])(seen)


def test_a_profile_has_a_solid_and_a_dashed_line_and_examples_on_the_dashed_one() -> None:
    angle = np.linspace(0.0, 2 * np.pi, 9)
    given = dataclasses.replace(
        evidence(4),
        measured={"f": np.tile(np.sin(angle), (4, 1))},
        predicted={"f": np.tile(np.cos(angle), (4, 1))},
        curves={
            "angle": np.tile(angle, (4, 1)),
            "at": np.tile(angle[[0, 2]], (4, 1)),
            "label": np.tile([1.0, -1.0], (4, 1)),
        },
    )
    draw = figures.circle_profile("f", angle="angle", examples="at", labels="label")
    traces = draw(given).data
    assert len(traces) == 9  # of three seeds, no more
    assert [trace.line.dash for trace in traces[:2]] == ["solid", "dash"]
    np.testing.assert_allclose(traces[2].y, [1.0, 0.0], atol=1e-12)
    assert list(traces[2].marker.symbol) == ["triangle-up", "triangle-down"]
    with pytest.raises(ValueError, match="no part 'g'"):
        figures.circle_profile("g", angle="angle", examples="at", labels="label")(given)
