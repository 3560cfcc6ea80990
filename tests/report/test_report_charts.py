"""What a chart shows is described once; the picture and the page draw the description."""

import html
import json
import re
from dataclasses import replace

import pytest
from drawn_run import external_in, made_run
from matplotlib.figure import Figure
from scipy import stats

from segbench.report import charts, figures
from segbench.report.charts import Axis, Chart, Series
from segbench.report.write import page_of, read_run


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    classes = ("background", "cat", "dog", "cow")
    folder = made_run(tmp_path_factory.mktemp("made"), datasets={"few": classes}, seeds=2)
    external_in(folder)
    return folder


@pytest.fixture(scope="module")
def found(made):
    return read_run(made)


@pytest.fixture(scope="module")
def board(found):
    return found.boards[0]


@pytest.fixture(scope="module")
def on_page(made, found):
    text = page_of(made, found)
    return json.loads(html.unescape(re.search(r'id="data">(.*?)</script>', text, re.DOTALL)[1]))


def test_the_page_holds_the_descriptions_that_pictures_are_drawn_from(board, on_page):
    shown = on_page["boards"][0]["charts"]
    assert shown["frequency"] == json.loads(json.dumps(charts.chart_data(charts.frequency(board))))
    for key, chart in shown["costs"].items():
        assert chart == json.loads(json.dumps(charts.chart_data(charts.cost(board, key))))
    assert shown["classes"]["label"] == charts.classes(board).label


def test_a_picture_has_the_points_titles_and_names_of_its_description(board):
    chart = charts.frequency(board)
    figure = Figure()
    figures._draw_chart(figure, replace(chart, series=chart.series[:2]))
    (axes,) = figure.axes
    assert (axes.get_xlabel(), axes.get_ylabel()) == (chart.x.title, chart.y.title)
    drawn = [list(zip(*line.get_data(), strict=True)) for line in axes.lines]
    assert drawn == [list(zip(s.x, s.y, strict=True)) for s in (chart.series[1], chart.series[0])]
    assert [text.get_text() for text in axes.get_legend().get_texts()] == [
        series.name for series in chart.series[:2]
    ]
    assert [text.get_text() for text in axes.texts] == list(chart.labels)


def test_rank_correlations_are_those_of_scipy_over_the_classes_that_occur(board):
    chart = charts.frequency(board)
    for series in chart.series:
        pairs = [(x, y) for x, y in zip(series.x, series.y, strict=True) if x and y is not None]
        rho = stats.spearmanr(*zip(*pairs, strict=True)).statistic
        assert series.note == f"rank correlation {rho:.2f} over {len(pairs)} classes"


def test_costs_are_coloured_by_the_first_axis_and_marked_by_the_second(board):
    chart = charts.cost(board, "parameters")
    looks = {
        (model.axes["backbone"], model.axes["head"]): (series.colour, series.mark)
        for model, series in zip(board.models, chart.series, strict=True)
    }
    for (backbone, head), look in looks.items():
        for (other, another), theirs in looks.items():
            assert (backbone == other) == (look[0] == theirs[0])
            assert (head == another) == (look[1] == theirs[1])
    assert [text for *_, text in chart.keys if text == "-"] == ["-"]  # the external method's head


def test_a_model_without_the_cost_has_no_point(board):
    outside = [model.is_external for model in board.models]
    chart = charts.cost(board, "parameters")
    assert any(outside)
    assert [series.y == (None,) for series in chart.series] == outside


def test_the_confusion_shows_predictions_of_no_class_only_where_there_are_some():
    found = charts.confusion(charts.Confusion(("a", "b"), ((3, 1, 0), (0, 4, 0))))
    assert (found.columns, found.values) == (("a", "b"), ((75.0, 25.0), (0.0, 100.0)))
    found = charts.confusion(charts.Confusion(("a", "b"), ((3, 0, 1), (0, 0, 0))))
    assert (found.columns[-1], found.values) == ("no class", ((75.0, 0.0, 25.0), (0.0, 0.0, 0.0)))


def test_losses_above_their_quantile_are_drawn_at_the_edge():
    values = (*tuple(float(i) for i in range(200)), 1000000.0)
    axis = Axis("loss", clip=0.995)
    assert charts.clipped_at(axis, values) == pytest.approx(1.05 * 199)
    line = Series("seed 0", tuple(range(201)), values, is_line=True)
    figure = Figure()
    figures._draw_chart(figure, Chart("", Axis("step", low=0), axis, (line,)))
    assert max(figure.axes[0].lines[0].get_ydata()) == pytest.approx(1.05 * 199)
