"""Files that anybody may have written: read where right, refused with the place where wrong."""

import contextlib
import random
from pathlib import Path

import pytest
from hypothesis import given, settings, strategies as st

from simulations import topology_files
from simulations.errors import ScenarioError
from simulations.scenario import Graphml, Link, Matrix
from simulations.topology import Edge, Graph, build
from simulations.topology_files import read_graphml, read_matrix

HEAD = """<?xml version="1.0" encoding="UTF-8"?>
<graphml xmlns="http://graphml.graphdrawing.org/xmlns">
<key id="l" for="edge" attr.name="latency_s" attr.type="double"/>
<key id="x" for="node" attr.name="x" attr.type="double"/>
<key id="y" for="node" attr.name="y" attr.type="double"/>
<key id="n" for="node" attr.name="label" attr.type="string"/>
<key id="t" for="edge" attr.name="latency_s" attr.type="string"/>
"""


def graphml(tmp_path: Path, body: str, kind: str = "undirected", head: str = HEAD) -> Graph:
    text = f'{head}<graph edgedefault="{kind}">{body}</graph></graphml>'
    (tmp_path / "net.graphml").write_text(text, "utf-8")
    return build(Graphml(path="net.graphml"), Link(), random.Random(1), tmp_path)


def matrix(tmp_path: Path, text: str) -> Graph:
    (tmp_path / "net.csv").write_text(text, "utf-8")
    return build(Matrix(path="net.csv"), Link(backward_factor=2), random.Random(1), tmp_path)


# --- GraphML ---------------------------------------------------------------------------------


def test_latencies_of_links_are_read_both_ways(tmp_path: Path) -> None:
    graph = graphml(
        tmp_path,
        '<node id="a"/><node id="b"><data key="n">Bern</data></node><node id="c"/>'
        '<edge source="a" target="b"><data key="l">0.5</data></edge>'
        '<edge source="b" target="a"><data key="l">0.7</data></edge>'
        '<edge source="c" target="b"><data key="l">0.25</data></edge>',
        "directed",
    )
    assert graph.names == ("a", "Bern", "c")
    assert graph.edges == (Edge(0, 1, 0.5, 0.7), Edge(1, 2, 0.25, 0.25))
    assert graph.positions_km is None


def test_without_latencies_places_count_and_without_places_what_is_drawn(tmp_path: Path) -> None:
    placed = graphml(
        tmp_path,
        '<node id="a"><data key="x">0</data><data key="y">0</data></node>'
        '<node id="b"><data key="x">300</data><data key="y">400</data></node>'
        '<edge source="a" target="b"/>',
    )
    assert placed.edges[0].forth_s == pytest.approx(0.02 + 500 / 200_000)
    assert placed.positions_km == ((0.0, 0.0), (300.0, 400.0))
    bare = graphml(tmp_path, '<node id="a"/><node id="b"/><edge source="a" target="b"/>')
    assert bare.edges == (Edge(0, 1, 0.02, 0.02),)


def test_of_parallel_links_the_fastest_counts(tmp_path: Path) -> None:
    graph = graphml(
        tmp_path,
        '<node id="a"/><node id="b"/>'
        '<edge id="1" source="a" target="b"><data key="l">0.5</data></edge>'
        '<edge id="2" source="a" target="b"><data key="l">0.3</data></edge>',
    )
    assert graph.edges == (Edge(0, 1, 0.3, 0.3),)


@pytest.mark.parametrize(
    ("body", "says"),
    [
        ('<node id="a"/><node id="b"/>', "in 2 parts"),
        ('<node id="a"/><edge source="a" target="b"><data key="l">-1</data></edge>', "'a' to 'b'"),
        ('<edge source="a" target="b"><data key="l">nan</data></edge>', "is not a number"),
        ('<edge source="a" target="b"><data key="l">5000</data></edge>', "5000 s is not 0 to"),
        ('<edge source="a" target="b"><data key="l">soon</data></edge>', "is not GraphML"),
        ('<edge source="a" target="b"><data key="t">soon</data></edge>', "'soon' is not a number"),
        ('<edge source="a" target="b"><data key="?">1</data></edge>', "is not GraphML"),
        ('<node id="a"><data key="x">0</data></node>', "node 'a' has no y"),
        (
            '<node id="a"><data key="x">0</data><data key="y">0</data></node><node id="b"/>'
            '<edge source="a" target="b"/>',
            "node 'b' has no x",
        ),
        ("", "topology.nodes: 0 is not"),
        ("<node", "net.graphml: not well-formed"),
    ],
)
def test_a_wrong_graph_is_told_with_its_place(tmp_path: Path, body: str, says: str) -> None:
    with pytest.raises(ScenarioError, match=says):
        graphml(tmp_path, body)


def test_entities_are_not_expanded(tmp_path: Path) -> None:
    bomb = '<!DOCTYPE g [<!ENTITY a "aaaa"><!ENTITY b "&a;&a;&a;">]>' + HEAD.partition("\n")[2]
    with pytest.raises(ScenarioError, match="has a DTD"):
        graphml(tmp_path, '<node id="&b;"/>', head=bomb)


def test_files_too_large_missing_or_binary_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ScenarioError, match="No such file"):
        read_graphml(tmp_path, "net.graphml")
    (tmp_path / "net.graphml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ScenarioError, match="can't decode"):
        read_graphml(tmp_path, "net.graphml")
    with pytest.raises(ScenarioError, match="Is a directory"):
        read_graphml(tmp_path, ".")
    with pytest.raises(ScenarioError, match="null byte"):
        read_graphml(tmp_path, "a\0b")
    monkeypatch.setattr(topology_files, "FILE_BYTES_MAX", 100)
    (tmp_path / "net.graphml").write_text("x" * 101)
    with pytest.raises(ScenarioError, match="more than 100 bytes"):
        read_graphml(tmp_path, "net.graphml")


@settings(max_examples=100, deadline=None)
@given(
    st.lists(
        st.sampled_from(
            [
                *('<node id="a"/>', '<node id="b"/>', "<node/>", '<edge source="a" target="b"/>'),
                *('<edge source="a"/>', '<edge source="b" target="a">', "</edge>", "<graph>"),
                *('<data key="l">1</data>', '<data key="x">1e999</data>', "</graph>", "<port/>"),
                *('<data key="y">', "</data>", "<hyperedge/>", "<key/>", '<key id="l"/>', "&x;"),
                *('<edge source="a" target="b" directed="true"/>', "<![CDATA[", "text", "\0"),
            ]
        )
    )
)
def test_whatever_stands_in_it_is_a_graph_or_a_scenario_error(tmp_path_factory, parts) -> None:
    with contextlib.suppress(ScenarioError):
        graphml(tmp_path_factory.getbasetemp(), "".join(parts))


# --- matrix ----------------------------------------------------------------------------------


def test_a_table_is_one_way_latencies_in_ms_with_or_without_row_names(tmp_path: Path) -> None:
    bare = matrix(tmp_path, "a,b,c\n0,10,\n20,0,5\n-,,0\n")
    assert bare.names == ("a", "b", "c")
    assert bare.edges == (Edge(0, 1, 0.01, 0.02), Edge(1, 2, 0.005, 0.01))
    labelled = matrix(tmp_path, "\ufeff,a,b,c\r\na,0,10,\r\nb,20,0,5\r\nc,-,,0\r\n")
    assert labelled == bare


def test_a_way_known_in_one_direction_only_gives_the_other(tmp_path: Path) -> None:
    assert matrix(tmp_path, "a,b\n,\n10,\n").edges == (Edge(0, 1, 0.005, 0.01),)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "is empty"),
        ("\n\n", "is empty"),
        ("a,b\n0,-1\n1,0\n", "net.csv, row 2, column 'b': -0.001 s is not 0 to 3600 s"),
        ("a,b\n0,x\n1,0\n", "net.csv, row 2, column 'b': 'x' is not a number"),
        ("a,b\n0,1\ninf,0\n", "row 3, column 'a': 'inf' is not a number"),
        ("a,b\n0,1\n", "2 names, 1 rows"),
        ("a,b\n0,1\n1\n", "row 3: 1 cells, must be 2"),
        (",a,b\na,0,1\nc,1,0\n", "row 3: is of 'c', must be of 'b'"),
        ("a,a\n0,1\n1,0\n", "row 1: names must be there and differ"),
        ("a,b,c\n0,1,\n1,0,\n,,0\n", "in 2 parts"),
        ("a,b\n0,9999999\n1,0\n", "column 'b': 10000 s is not"),
    ],
)
def test_a_wrong_table_is_told_with_row_and_column(tmp_path: Path, text: str, says: str) -> None:
    with pytest.raises(ScenarioError, match=says):
        matrix(tmp_path, text)


@settings(max_examples=100, deadline=None)
@given(st.text(alphabet='ab,\n01-. "\r\0', max_size=60))
def test_whatever_a_table_is_it_is_a_graph_or_a_scenario_error(tmp_path_factory, text) -> None:
    with contextlib.suppress(ScenarioError):
        matrix(tmp_path_factory.getbasetemp(), text)


def test_the_newest_path_counts_from_the_directory(tmp_path: Path) -> None:
    (tmp_path / "below").mkdir()
    (tmp_path / "below/net.csv").write_text("a,b\n,1\n1,\n")
    assert read_matrix(tmp_path, "below/net.csv").names == ("a", "b")
