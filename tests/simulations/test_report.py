"""The report: one file, that says nothing it was not told, and asks nobody."""

import re
from html.parser import HTMLParser
from pathlib import Path

import pytest

from simulations import plots, report
from simulations.plots import Axes, Series
from simulations.statistics import Interval


class Reader(HTMLParser):
    """Notes tags that are open, and what a page wants to load."""

    VOID = ("meta", "br", "hr", "img", "link", "input")

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.loads: list[str] = []
        self.ids: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag not in self.VOID:
            self.open.append(tag)
        self.loads += [v or "" for name, v in attrs if name in ("src", "href", "xlink:href")]
        self.ids += [value or "" for name, value in attrs if name == "id"]

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in self.VOID:
            self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def svg(tmp_path: Path) -> str:
    figure = plots.curve(
        [Series("a", [1, 2, 3], [1, 2, 3], [0, 1, 2], [2, 3, 4]), Series("b", [1, 2], [2, 1])],
        axes=Axes(title="<a & b>", x_label="x", y_label="y"),
        verdict=False,
    )
    return plots.save(figure, tmp_path, "a")


def test_a_page_is_whole_and_loads_nothing(tmp_path: Path) -> None:
    picture = svg(tmp_path)
    page = report.page(
        "<x>", [report.section("P", report.picture(picture, "a"), report.picture(picture, "b.c"))]
    )
    reader = Reader()
    reader.feed(page)
    assert reader.open == []
    assert all(load.startswith("#") for load in reader.loads)
    assert not re.search(r"url\((?!#)|@import|<script|<link", page)
    assert len(reader.ids) == len({*reader.ids}), "two pictures on a page share no name"
    assert {load[1:] for load in reader.loads} <= {*reader.ids}
    assert set(re.findall(r"url\(#([^)]+)\)", page)) <= {*reader.ids}


def test_every_colour_of_a_picture_follows_the_page(tmp_path: Path) -> None:
    inner = report.picture(svg(tmp_path), "a")
    assert re.findall(r"#[0-9a-f]{6}\b", inner) == []
    page = report.page("x", [inner])
    names = {*re.findall(r"var\(--([a-z0-9-]+)\)", page)}
    light, dark = page.split("prefers-color-scheme: dark", 1)
    for name in names:
        assert f"--{name}:" in light
        assert f"--{name}:" in dark


def test_what_a_scenario_says_is_text() -> None:
    cells = report.table(["<b>"], [["<script>alert(1)</script>"], ["&"]])
    assert "<script>" not in cells
    assert "&lt;script&gt;" in cells
    assert "<title>&lt;/title&gt;</title>" in report.page("</title>", [])


def test_columns_that_say_nothing_are_left_out() -> None:
    made = report.table(["a", "b", "c"], [[1.0, None, ""], [2.0, "", None]])
    assert "<th>b</th>" not in made
    assert ">c<" not in made
    assert made.count('class="number"') == 3


def test_truth_is_pass_or_fail_and_no_number() -> None:
    made = report.table(["verdict"], [[True], [False]])
    assert '<span class="pass">pass</span>' in made
    assert '<span class="fail">fail</span>' in made
    assert "number" not in made


@pytest.mark.parametrize(
    ("value", "text"),
    [(3.0, "3"), (0.12345, "0.1235"), (1234567.0, "1.235e+06"), (float("inf"), "inf")],
)
def test_numbers_have_the_digits_that_say_something(value: float, text: str) -> None:
    assert report.number(value) == text


def test_an_interval_is_a_range() -> None:
    assert report.range_of(Interval(2.0, 1.5, 2.5, 5)) == "1.5 to 2.5"
    assert report.range_of(None) == ""


def test_a_section_without_content_has_no_headline() -> None:
    assert report.section("Empty", "", "") == ""
