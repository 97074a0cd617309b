"""Verdicts on made-up readings, and the page that shows them."""

import math
import re
import warnings
from html.parser import HTMLParser

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gradbias.errors import StoreError
from gradbias.measures.catalogue import Measure, catalogue
from gradbias.measures.estimate import Cost, Estimate
from gradbias.measures.page import curve, snapshot, write
from gradbias.measures.questions import answers, questions
from gradbias.measures.readings import Run, Series, number, short

VOID = {"meta", "br", "link", "img", "hr", "input"}
PARTS = {"laziness": ("nonlinearity",), "kkt_residual": ("stationarity", "complementarity")}
NC = ("nc1", "nc2_norms", "nc2_angles", "nc3", "nc4")
PARTS |= {"neural_collapse": NC}
QUESTIONS = {one.text: one for one in questions()}


def declared(name):
    def take(objective, *, rng, state, **options):
        raise AssertionError

    text = f"The toy {name}. [@dinh2017sharp, number not checked]"
    return Measure(
        name,
        "toys",
        text,
        "",
        lambda o: 1.0,
        "none",
        "up & <b>",
        "down [@dinh2017sharp, 3]",
        "",
        ("dinh2017sharp",),
        {"k": 3},
        take,
    )


def estimate(value, bound, **details):
    """A number, a list of them named l0, l1 …, or a mapping of them."""
    names = ()
    if isinstance(value, dict):
        names, value = tuple(value), list(value.values())
    elif isinstance(value, list):
        names = tuple(f"l{k}" for k in range(len(value)))
    bound = np.broadcast_to(np.asarray(bound, dtype=float), np.shape(value))
    converged = bool(np.all(np.isfinite(value)))
    return Estimate(np.array(value), bound.copy(), converged=converged, names=names, details=details)


def series(name, *estimates):
    made = Series(declared(name), {"k": 3}, seconds=0.5)
    for place, one in enumerate(estimates):
        made.add(10 * place, one)
    return made


def verdict(text, *made, **known):
    found = [answer for answer in answers(Run(list(made), settings=known)) if answer.question.startswith(text)]
    assert len(found) == 1
    return found[0].verdict


def at_edge(*pairs, threshold=2.0):
    return series("preconditioned_sharpness", *(estimate(v, b, threshold=threshold) for v, b in pairs))


@pytest.mark.parametrize(
    ("pairs", "expected"),
    [
        ([(0.1, 0.0), (2.0, 0.01), (2.05, 0.01), (1.95, 0.01)], "yes"),
        ([(1.81, 0.0)], "yes"),
        ([(1.81, 0.02)], "cannot tell"),
        ([(1.7, 0.0)], "no"),
        ([(1.7, 0.2)], "cannot tell"),
        ([(2.0, 0.0), (2.0, 0.0), (0.5, 0.1), (0.5, 0.1)], "no"),
        ([(6.0, 0.1)], "no"),
        ([(math.nan, math.inf)], "cannot tell"),
        ([(2.0, 0.0), (math.nan, math.inf), (2.0, 0.0), (2.0, 0.0)], "yes"),
    ],
)
def test_the_edge_of_stability_is_sharpness_near_the_optimizer_s_threshold(pairs, expected):
    assert verdict("Is the run at the edge", at_edge(*pairs)) == expected


def test_without_a_threshold_there_is_no_edge():
    assert verdict("Is the run at the edge", series("sharpness", estimate(2.0, 0.0))) == "cannot tell"


@pytest.mark.parametrize(("value", "bound", "expected"), [(50, 10, "yes"), (20, 10, "no"), (35, 10, "cannot tell")])
def test_noise_dominates_a_batch_below_the_noise_scale(value, bound, expected):
    text = "Does gradient noise dominate"
    assert verdict(text, series("noise_scale", estimate(float(value), float(bound))), batch_size=32) == expected
    assert verdict(text, series("noise_scale", estimate(float(value), float(bound)))) == "cannot tell"


@pytest.mark.parametrize(
    ("first", "last", "expected"),
    [((-0.5, 0.01), (-0.4, 0.01), "yes"), ((0.5, 0.0), (0.5, 0.0), "no"), ((0.5, 0.1), (0.6, 0.1), "cannot tell")],
)
def test_a_margin_grows_if_the_intervals_are_apart(first, last, expected):
    assert (
        verdict("Is the normalized margin", series("optimizer_margin", estimate(*first), estimate(*last))) == expected
    )


def test_one_reading_is_no_change():
    assert verdict("Is the normalized margin", series("optimizer_margin", estimate(0.1, 0.0))) == "cannot tell"
    assert verdict("Is rank falling", series("effective_rank", estimate([3.0], 0.0))) == "cannot tell"
    assert verdict("Is it flatter", series("sharpness", estimate(3.0, 0.0))) == "cannot tell"


def test_classes_have_collapsed_if_every_part_is_small():
    def asked(values, bound=0.0):
        return verdict(
            "Have the classes", series("neural_collapse", estimate(dict(zip(NC, values, strict=True)), bound))
        )

    assert asked([0.01, 0.02, 0.03, 0.05, 0.0]) == "yes"
    assert asked([0.01, 0.02, 0.03, 0.5, 0.0]) == "no"
    assert asked([0.01, 0.02, 0.03, 0.05, 0.02]) == "no"
    assert asked([0.01, 0.02, 0.03, 0.095, 0.0], 0.01) == "cannot tell"


def test_rank_falls_if_it_falls_in_one_layer():
    def asked(first, last, bound=0.0):
        return verdict("Is rank falling", series("effective_rank", estimate(first, bound), estimate(last, bound)))

    assert asked([3.0, 8.0], [3.0, 4.0], 0.1) == "yes"
    assert asked([3.0, 8.0], [3.0, 9.0], 0.01) == "no"
    assert asked([3.0, 8.0], [2.9, 8.0], 0.2) == "cannot tell"


def test_it_is_flatter_than_it_was_below_half_of_the_largest():
    def asked(*pairs):
        return verdict("Is it flatter", series("sharpness", *(estimate(*pair) for pair in pairs)))

    assert asked((1.0, 0.1), (9.0, 0.1), (3.0, 0.1)) == "yes"
    assert asked((1.0, 0.1), (9.0, 0.1), (5.0, 0.1)) == "no"
    assert asked((1.0, 0.1), (9.0, 0.1), (4.5, 0.1)) == "cannot tell"
    assert asked((1.0, 0.1), (math.nan, math.inf), (5.0, 0.1)) == "cannot tell"


def test_batches_are_at_the_edge_of_stochastic_descent_where_its_threshold_is_known():
    def asked(value, optimizer):
        known = series("preconditioned_sharpness", estimate(1.0, 0.0, threshold=2.0, optimizer=optimizer))
        return verdict("Does gradient noise set the edge", series("batch_sharpness", estimate(value, 0.05)), known)

    assert (asked(2.0, "SGD"), asked(1.0, "SGD"), asked(2.0, "Adam")) == ("yes", "no", "cannot tell")


@pytest.mark.parametrize(
    ("value", "expected"), [(0.5, "yes"), (0.05, "no"), (0.2, "cannot tell"), (0.29, "cannot tell")]
)
def test_the_lazy_regime_is_left_when_the_linear_model_no_longer_explains_the_outputs(value, expected):
    made = series("laziness", estimate({"nonlinearity": value, "movement": 9.0, "kernel_drift": 9.0}, 0.02))
    assert verdict("Has it left the lazy", made) == expected
    assert verdict("Has it left the lazy", series("ntk_drift", estimate(value, 0.02))) == expected


def test_a_kkt_point_has_both_residuals_small():
    def asked(*values):
        made = dict(zip((*PARTS["kkt_residual"], "one_gradient"), (*values, 5.0), strict=True))
        return verdict("Is the direction of the weights", series("kkt_residual", estimate(made, 0.01)))

    assert (asked(0.05, 0.05), asked(0.05, 0.5), asked(0.095, 0.05)) == ("yes", "no", "cannot tell")


def test_one_bound_below_one_is_enough():
    def asked(**values):
        text = "Does a generalization bound"
        return verdict(text, *(series(f"{name}_bound", estimate(value, 0.01)) for name, value in values.items()))

    assert (asked(golowich=9.0, pac_bayes=0.5), asked(golowich=9.0), asked(golowich=1.0)) == (
        "yes",
        "no",
        "cannot tell",
    )


def test_what_was_not_taken_is_not_asked_and_what_to_add_is_said():
    given_ = answers(Run([]))
    assert {answer.verdict for answer in given_} == {"not asked"}
    assert all(answer.number == f"add measure {' or '.join(QUESTIONS[answer.question].measures)}" for answer in given_)


def test_every_question_is_about_measures_that_exist():
    assert {name for one in questions() for name in one.measures} <= set(catalogue())


@pytest.mark.parametrize("text", QUESTIONS)
@given(data=st.data())
@settings(max_examples=150, deadline=None)
def test_a_verdict_holds_wherever_the_truth_lies_within_the_bounds(text, data):
    name = data.draw(st.sampled_from(QUESTIONS[text].measures))
    parts = PARTS.get(name)
    scale = data.draw(st.sampled_from([0.05, 1.0, 30.0]))
    told, exact = [], []
    for _ in range(data.draw(st.integers(1, 5))):
        values = [scale * data.draw(st.floats(0.5, 2.0)) for _ in parts or "x"]
        bounds = [v * data.draw(st.sampled_from([0.0, 0.01, 0.3])) for v in values]
        truths = [v + b * data.draw(st.floats(-1.0, 1.0)) for v, b in zip(values, bounds, strict=True)]
        if parts is None:
            told.append(estimate(values[0], bounds[0], threshold=2.0))
            exact.append(estimate(truths[0], 0.0, threshold=2.0))
        else:
            told.append(estimate(dict(zip(parts, values, strict=True)), bounds))
            exact.append(estimate(dict(zip(parts, truths, strict=True)), 0.0))
    edge = series("preconditioned_sharpness", estimate(1.0, 0.0, threshold=2.0, optimizer="SGD"))
    more = [] if name == "preconditioned_sharpness" else [edge]
    said = verdict(text, series(name, *told), *more, batch_size=32)
    assert said in ("cannot tell", verdict(text, series(name, *exact), *more, batch_size=32))


class Balanced(HTMLParser):
    """Raises if a tag is closed that was not open."""

    def __init__(self):
        super().__init__()
        self.open = []

    def handle_starttag(self, tag, attrs):
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    noted = Estimate(1.0, 0.1, notes=("Attention by the math backend.",), cost=Cost(3.0, 4.0, 5.0, 0.25))
    failed = Series(declared("margin"), failure="step 3: <script>alert(1)</script> no classes")
    unread = Series(declared("ntk"), hint="never read: needs 3 s")
    run = Run(
        [
            at_edge((1.0, 0.1), (2.0, 0.01), (1.97, 0.01), (2.02, 0.01)),
            series("effective_rank", estimate([3.0, 8.0], 0.1), estimate([3.0, 4.0], 0.1)),
            series("gradient_norm", noted, noted),
            series("weight_norm", noted),
            failed,
            unread,
        ],
        facts={"model": "Net, 12 parameters", "overhead": "4.9% of the step time"},
    )
    path = write(run, tmp_path_factory.mktemp("page") / "new" / "run.html")
    return path.read_text()


def test_the_page_is_one_balanced_file_that_needs_no_network(page):
    scripts = re.findall(r"(?s)<script[^>]*>", page)
    assert all("src=" not in script for script in scripts)
    assert not re.search(r'<link[^>]+href="http', page)
    parser = Balanced()
    parser.feed(re.sub(r"(?s)(<script[^>]*>).*?(</script>)", r"\1\2", page))
    assert parser.open == []


def test_the_page_shows_verdicts_meanings_costs_notes_and_facts(page):
    text = re.sub(r"(?s)<script[^>]*>.*?</script>", "", page)
    for words in (
        "Is the run at the edge of stability?",
        ">yes<",
        "threshold 2",
        "questions not asked",
        "add measure noise_scale",
        "up &amp; &lt;b&gt;",
        "<dt>does not mean</dt><dd>down [Dinh et al. 2017]</dd>",
        "Attention by the math backend.",
        "never read: needs 3 s",
        "Net, 12 parameters",
        "Dinh",
        "k = 3",
        "numpy version",
    ):
        assert words in text, words
    assert "&lt;script&gt;alert" in text
    assert re.search(r"<td>gradient_norm</td>\s*<td[^>]*>2</td><td[^>]*>6</td><td[^>]*>8</td><td[^>]*>10</td>", text)


def test_a_page_that_cannot_be_written_names_the_path(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match=r"cannot be written to .*file"):
        write(Run([]), tmp_path / "file" / "run.html")


def test_a_failed_page_leaves_the_old_one(tmp_path, monkeypatch):
    path = write(Run([]), tmp_path / "run.html")
    before = path.read_text()
    monkeypatch.setattr("os.replace", lambda *_: (_ for _ in ()).throw(OSError("full")))
    with pytest.raises(StoreError, match="full"):
        write(Run([]), path)
    assert path.read_text() == before
    assert [p.name for p in tmp_path.iterdir()] == ["run.html"]


def test_a_curve_has_its_band_its_threshold_and_gaps_where_nothing_converged():
    figure = curve(at_edge((1.0, 0.25), (2.0, 0.5), (math.nan, math.inf), (3.0, 0.5)))
    band, line, threshold = figure.data
    assert list(band.x) == [0, 10, 10, 0, None, 30, 30, None]
    assert list(band.y) == [1.25, 2.5, 1.5, 0.75, None, 3.5, 2.5, None]
    np.testing.assert_array_equal(np.array(line.y, dtype=float), [1.0, 2.0, math.nan, 3.0])
    assert list(threshold.y) == [2.0] * 4
    assert "1 values did not converge" in figure.layout.annotations[0].text


def test_positive_values_over_decades_have_a_logarithmic_axis_and_many_parts_three_lines():
    figure = curve(series("m", estimate([1.0] * 40, 0.0), estimate([float(k + 1) ** 2 for k in range(40)], 2.0)))
    assert figure.layout.yaxis.type == "log"
    assert [trace.name for trace in figure.data[1::2]] == ["min", "median", "max"]
    assert min(y for y in figure.data[0].y if y is not None) > 0


def test_a_snapshot_shows_parts_a_distribution_or_a_density():
    assert snapshot(series("m", estimate(1.0, 0.1))) is None
    assert list(snapshot(series("m", estimate([1.0, 2.0], 0.1))).data[0].y) == [1.0, 2.0]
    assert snapshot(series("m", estimate([1.0] * 40, 0.1))).data[0].type == "histogram"
    dense = estimate(1.0, 0.1, grid=np.array([0.0, 1.0]), density=np.array([0.5, 0.25]), density_bound=np.full(2, 0.1))
    band, line = snapshot(series("m", dense)).data
    assert list(line.y) == [0.5, 0.25]
    assert list(band.y) == [0.6, 0.35, 0.15, 0.4, None]


def test_what_did_not_converge_is_said_in_words():
    made = Estimate(math.nan, math.inf, converged=False, reason="between 0 and 3")
    assert short(made) == "not converged (between 0 and 3)"
    with warnings.catch_warnings():
        assert short(estimate([1.0, math.nan], [0.1, math.inf])) == "l0 1 ± 0.1, l1 not converged"


@pytest.mark.parametrize(
    ("value", "bound", "told"),
    [
        (173.98, 36.2, "170 ± 40"),
        (19.902, 10.0, "20 ± 10"),
        (2.1604, 0.0101, "2.16 ± 0.02"),
        (0.02631, 0.0003, "0.0263 ± 0.0003"),
        (57.4, 2e-11, "57.4 ± 2e-11"),
        (0.001, 5.0, "0.001 ± 5"),
        (-1234567.0, 1000.0, "-1.235e+06 ± 1000"),
        (0.0, 0.5, "0 ± 0.5"),
        (3.0, 0.0, "3"),
        (3.0, math.inf, "3 (no bound)"),
        (math.nan, math.inf, "not converged"),
    ],
)
def test_a_number_has_the_digits_that_its_bound_leaves(value, bound, told):
    assert number(value, bound) == told


def test_a_note_of_one_measure_stands_beside_it_and_one_of_several_above():
    both, one = "Attention by the math backend.", "On 200 examples."
    first = series("margin", Estimate(1.0, 0.0, notes=(both, one)))
    second = series("weight_norm", Estimate(1.0, 0.0, notes=(both,)))
    assert Run([first, second]).notes == [both]
    assert Run([first]).notes == []
