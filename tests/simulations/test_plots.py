"""Pictures: the same bytes each time, and nothing that a reader could miss."""

import re
from pathlib import Path

import numpy as np
import pytest
from matplotlib.figure import Figure

from simulations import observations, pictures, plots
from simulations.metrics import Observation
from simulations.observations import Observations
from simulations.plots import Axes, Series, Theory
from tests.simulations import small

AXES = Axes(title="waiting", x_label="load", y_label="waiting time (s)")


def picture(passed: tuple[bool | None, ...] = ()) -> Figure:
    return plots.curve(
        [Series("measured", [1, 2, 3], [1.0, 2.0, 3.5], [0.9, 1.9, 3.0], [1.1, 2.1, 4.0], passed)],
        [Theory("M/M/4", [1, 2, 3], [1.0, 2.0, 3.0])],
        AXES,
        verdict=True,
    )


def texts(figure: Figure) -> list[str]:
    (legend,) = figure.legends
    return [text.get_text() for text in legend.get_texts()]


def test_a_picture_is_the_same_bytes_each_time(tmp_path: Path) -> None:
    for name in ("one", "other"):
        plots.save(picture(), tmp_path, name)
    for kind in ("png", "svg"):
        one, other = (tmp_path / f"{name}.{kind}" for name in ("one", "other"))
        assert one.read_bytes() == other.read_bytes()


def test_settings_of_the_user_make_no_difference(tmp_path: Path) -> None:
    import matplotlib as mpl

    before = plots.save(picture(), tmp_path, "one")
    with mpl.rc_context({"axes.facecolor": "pink", "svg.hashsalt": "x", "font.size": 30}):
        assert plots.save(picture(), tmp_path, "other") == before


def test_theory_measurement_and_band_are_named_in_the_legend() -> None:
    assert texts(picture()) == ["M/M/4", "99 % interval", "measured"]


def test_points_that_do_not_agree_are_crossed_and_the_legend_says_so() -> None:
    assert "not as theory says" in texts(picture((True, False, None)))
    assert "not as theory says" not in texts(picture((True, True, None)))


def test_theory_has_the_colour_of_the_series_of_its_name() -> None:
    figure = plots.curve(
        [Series("a", [1, 2], [1, 2]), Series("b", [1, 2], [2, 3])],
        [Theory("b", [1, 2], [2, 3])],
        AXES,
    )
    theory, of_legend, first, second = figure.axes[0].lines
    assert (first.get_label(), second.get_label()) == ("a", "b")
    assert second.get_color() == theory.get_color() != first.get_color()
    assert of_legend.get_label() == "theory"
    assert texts(figure) == ["theory", "a", "b"]


def test_an_infinite_interval_is_no_band() -> None:
    figure = plots.curve([Series("a", [1, 2], [1, 2], [-np.inf, 1.5], [np.inf, 2.5])], axes=AXES)
    paths = [each.get_paths() for each in figure.axes[0].collections]
    drawn = [path.vertices for each in paths for path in each]
    assert all(np.isfinite(vertices).all() for vertices in drawn)


def test_one_line_needs_no_legend() -> None:
    assert plots.curve([Series("a", [1, 2], [1, 2])], axes=AXES).legends == []


def test_a_legend_lies_on_no_panel(tmp_path: Path) -> None:
    many = [Series(f"a rather long name number {i}", [1, 2], [i, i + 1]) for i in range(8)]
    figure = plots.curve(many, axes=AXES)
    plots.save(figure, tmp_path, "many")
    (legend,) = figure.legends
    box, panel = legend.get_window_extent(), figure.axes[0].get_tightbbox()
    assert panel is not None
    assert box.y1 <= panel.y0
    assert min(box.x0, figure.bbox.width - box.x1) >= 0


@pytest.mark.parametrize(
    ("metric", "label"),
    [
        ("job.sojourn_s", "job sojourn (s)"),
        ("link.sent_bytes", "link sent (bytes)"),
        ("load[0].arrivals.rate_per_s", "load[0] arrivals rate (1/s)"),
        ("queue.length", "queue length"),
    ],
)
def test_an_axis_says_the_unit(metric: str, label: str) -> None:
    assert pictures.axis_label(metric) == label


def test_logarithmic_axes_are_written_plainly(tmp_path: Path) -> None:
    axes = Axes(title="", x_label="x", y_label="y", log_x=True, log_y=True)
    figure = plots.curve([Series("a", [0.1, 1000], [0.02, 5])], axes=axes)
    svg = plots.save(figure, tmp_path, "log")
    assert ">1000<" in svg
    assert ">0.1<" in svg


def runs(*rows: tuple[str, float, float, str]) -> list[Observations]:
    """Return one run of rows: metric, time, value, label."""
    return [observations.from_rows(Observation(m, t, v, label=text) for m, t, v, text in rows)]


def test_a_span_is_named_even_if_it_is_all_there_is_to_name() -> None:
    axes = Axes(title="", x_label="x", y_label="y", spans=[plots.Span("crash", 1.0, 1.0)])
    assert texts(plots.curve([Series("", [1, 2], [1, 2])], axes=axes)) == ["crash"]


def drawn(measured: list[Observations]) -> dict[str, Figure]:
    return dict(pictures.draw_run(small.scenario(), measured))


def test_what_is_always_the_same_has_no_picture() -> None:
    measured = runs(
        ("a", 1, 5.0, ""), ("a", 2, 5.0, ""), ("b", 1, 0.1 + 0.2, ""), ("b", 2, 0.3, "")
    )
    assert drawn(measured) == {}


def test_durations_have_a_distribution_that_is_exact_for_few() -> None:
    measured = runs(*(("a.wait_s", float(i + 20), float(i), "") for i in range(4)))
    panel = drawn(measured)["a.wait_s"].axes[1]
    (line,) = panel.lines
    assert line.get_xdata().tolist() == [0, 0, 1, 2, 3]
    assert line.get_ydata().tolist() == [0, 0.25, 0.5, 0.75, 1]


def test_the_distribution_leaves_the_warm_up_out() -> None:
    measured = runs(("a.wait_s", 1.0, 99.0, ""), ("a.wait_s", 20.0, 1.0, ""))
    (line,) = drawn(measured)["a.wait_s"].axes[1].lines
    assert line.get_xdata().tolist() == [1, 1]


def test_a_share_is_the_mean_of_successes_in_each_part_of_time() -> None:
    measured = runs(("ok", 20.1, 1.0, ""), ("ok", 20.2, 0.0, ""), ("ok", 80.0, 1.0, ""))
    line = drawn(measured)["ok"].axes[0].lines[0]
    assert line.get_ydata().tolist() == [0.5, 1.0]


def test_what_was_observed_at_one_moment_is_a_distribution() -> None:
    measured = runs(("copies", 100.0, 2.0, ""), ("copies", 100.0, 1.0, ""))
    (panel,) = drawn(measured)["copies"].axes
    assert panel.lines[0].get_xdata().tolist() == [1, 1, 2]


def test_time_goes_as_far_as_something_was_observed() -> None:
    late = runs(("q", 20.0, 1.0, ""), ("q", 140.0, 2.0, ""))
    early = runs(("q", 20.0, 1.0, ""), ("q", 30.0, 2.0, ""))
    assert drawn(late)["q"].axes[0].get_xlim()[1] == 140
    assert drawn(early)["q"].axes[0].get_xlim()[1] == small.scenario().duration_s


def test_faults_and_the_warm_up_are_in_the_legend() -> None:
    measured = runs(("q", 20.0, 1.0, ""), ("q", 80.0, 2.0, ""))
    assert {"warm-up", "partition"} <= set(texts(drawn(measured)["q"]))


def test_a_band_needs_some_replications() -> None:
    few = [
        observations.from_rows([Observation("q", 20.0, i), Observation("q", 60.0, 1.0)])
        for i in (0.0, 2.0, 4.0)
    ]
    many = few + few
    assert "99 % interval" not in texts(drawn(few)["q"])
    assert "99 % interval" in texts(drawn(many)["q"])


def test_at_most_so_many_labels_are_drawn_as_can_be_told_apart() -> None:
    measured = runs(*(("q", 20.0 + i, float(i), f"label {i}") for i in range(30)))
    labels = [text for text in texts(drawn(measured)["q"]) if text.startswith("label")]
    assert len(labels) == plots.SERIES_MAX


def test_numbers_that_are_none_are_left_out() -> None:
    assert drawn(runs(("q", 20.0, float("nan"), ""), ("q", 30.0, 1.0, ""))) == {}


def test_no_picture_carries_a_date_or_a_version(tmp_path: Path) -> None:
    svg = plots.save(picture(), tmp_path, "one")
    assert not re.search(r"\d{4}-\d\d-\d\d|Matplotlib v", svg)
    assert b"Software" not in (tmp_path / "one.png").read_bytes()
