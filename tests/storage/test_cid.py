import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given, strategies as st

from storage import cid
from storage.cid import CHUNK_SIZE_BYTES, LINKS_MAX, Cid, Root, TreeBuilder
from storage.errors import BlobTooLarge, InvalidData

GOLDEN = Path(__file__).parent / "golden"
VECTORS: list[dict[str, Any]] = json.loads((GOLDEN / "unixfs-cids.json").read_text())["vectors"]
LEAF = cid.raw_leaf(b"leaf")
NODE = cid.parse("bafybeid2ob3qygbhm34rhkfudgr3z43ewo5yme4jmgxjve6nuc2kfsga5u")


def content(size_bytes: int) -> Iterator[bytes]:
    """Yield the content of a vector in chunks of the profile's size."""
    hashes_a_chunk = CHUNK_SIZE_BYTES // 32
    for start in range(0, (size_bytes + 31) // 32, hashes_a_chunk):
        numbers = range(start, start + hashes_a_chunk)
        chunk = b"".join([hashlib.sha256(b"peernode:%d" % i).digest() for i in numbers])
        yield chunk[: size_bytes - 32 * start]


def build(chunks: Iterator[bytes]) -> tuple[Root, dict[Cid, bytes]]:
    nodes: dict[Cid, bytes] = {}
    builder = TreeBuilder(nodes.__setitem__)
    for chunk in chunks:
        builder.add(cid.raw_leaf(chunk), len(chunk))
    return builder.finish(), nodes


def check_vector(vector: dict[str, Any]) -> None:
    root, nodes = build(content(vector["size_bytes"]))
    assert cid.text(root.cid) == vector["cid"]
    assert cid.parse(vector["cid"]) == root.cid
    assert root.size_bytes == vector["size_bytes"]
    assert size_by_walking(root.cid, nodes, root.size_bytes) == root.size_bytes


def size_by_walking(top: Cid, nodes: dict[Cid, bytes], size_bytes: int) -> int:
    """Check every node below `top` as a reader would, and return the bytes of content."""
    if cid.is_leaf(top):
        return size_bytes
    assert cid.matches(top, nodes[top])
    children = cid.decode_node(nodes[top])
    return sum(size_by_walking(child, nodes, size) for child, size in children)


def marked(vector: dict[str, Any]) -> Any:
    size_bytes = vector["size_bytes"]
    marks: list[pytest.MarkDecorator] = []
    if size_bytes > 2 * CHUNK_SIZE_BYTES:
        marks.append(pytest.mark.slow)
    if size_bytes > 1 << 29:
        marks.append(pytest.mark.torture)
    return pytest.param(vector, marks=marks, id=str(size_bytes))


@pytest.mark.parametrize("vector", [marked(vector) for vector in VECTORS])
def test_a_tree_has_the_cid_that_other_tools_print(vector: dict[str, Any]) -> None:
    check_vector(vector)


@pytest.mark.parametrize("leaves", [1024, 1025])
def test_a_tree_at_the_border_to_a_second_level_has_the_cid_that_other_tools_print(
    leaves: int,
) -> None:
    # The leaves' hashes were computed once from the content of the largest vector.
    digests = (GOLDEN / "unixfs-leaves-1025.bin").read_bytes()
    nodes: dict[Cid, bytes] = {}
    builder = TreeBuilder(nodes.__setitem__)
    for at in range(0, 32 * leaves, 32):
        builder.add(Cid(b"\x01\x55\x12\x20" + digests[at : at + 32]), CHUNK_SIZE_BYTES)
    root = builder.finish()
    (vector,) = [v for v in VECTORS if v["size_bytes"] == leaves * CHUNK_SIZE_BYTES]
    assert cid.text(root.cid) == vector["cid"]
    assert root.blocks == leaves + len(nodes) == {1024: 1025, 1025: 1028}[leaves]
    assert size_by_walking(root.cid, nodes, root.size_bytes) == root.size_bytes


def test_empty_content_is_the_empty_leaf() -> None:
    root, nodes = build(iter(()))
    assert root == build(iter((b"",)))[0] == Root(cid.raw_leaf(b""), 0, 1)
    assert nodes == {}


def test_nodes_are_emitted_before_their_parents_and_as_soon_as_complete() -> None:
    emitted: list[Cid] = []
    builder = TreeBuilder(lambda name, _: emitted.append(name))
    for count in range(3 * LINKS_MAX):
        builder.add(LEAF, CHUNK_SIZE_BYTES)
        assert len(emitted) == count // LINKS_MAX
    root = builder.finish()
    assert emitted[-1] == root.cid
    assert len(emitted) == 4


@pytest.mark.parametrize(
    ("sizes", "reason"),
    [
        ([CHUNK_SIZE_BYTES + 1], "too large"),
        ([-1], "too large"),
        ([5, 5], "follows a short leaf"),
        ([0, 5], "follows a short leaf"),
        ([CHUNK_SIZE_BYTES, 0], "empty leaf"),
    ],
)
def test_a_leaf_that_does_not_fit_is_a_mistake(sizes: list[int], reason: str) -> None:
    builder = TreeBuilder(lambda *_: None)
    for size_bytes in sizes[:-1]:
        builder.add(LEAF, size_bytes)
    with pytest.raises(ValueError, match=reason):
        builder.add(LEAF, sizes[-1])


def test_a_node_is_no_leaf_and_a_spent_builder_takes_no_more() -> None:
    builder = TreeBuilder(lambda *_: None)
    with pytest.raises(ValueError, match="no leaf"):
        builder.add(NODE, 5)
    builder.add(LEAF, CHUNK_SIZE_BYTES)
    builder.finish()
    with pytest.raises(ValueError, match="leaf"):
        builder.add(LEAF, 5)


def test_content_over_the_limit_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cid, "CONTENT_SIZE_MAX_BYTES", 2 * CHUNK_SIZE_BYTES)
    builder = TreeBuilder(lambda *_: None)
    builder.add(LEAF, CHUNK_SIZE_BYTES)
    builder.add(LEAF, CHUNK_SIZE_BYTES)
    with pytest.raises(BlobTooLarge):
        builder.add(LEAF, 1)


# --- names ------------------------------------------------------------------------------------


@given(st.binary(min_size=32, max_size=32), st.sampled_from([LEAF[:4], NODE[:4]]))
def test_a_cid_is_parsed_from_its_text_alone(digest: bytes, prefix: bytes) -> None:
    name = cid.from_bytes(prefix + digest)
    written = cid.text(name)
    assert cid.parse(written) == name
    for other in (written.upper(), written[1:], written + "=", "z" + written[1:]):
        with pytest.raises(InvalidData):
            cid.parse(other)


@given(st.text(max_size=70) | st.text("abcdefghijklmnopqrstuvwxyz234567", min_size=58, max_size=60))
@example("b" + "1" * 58)
@example("b" + "é" * 58)
@example("bafkreihdwdcefgh4dqkjv67uzcmw7ojee6xedzdetojuzjevtenxquvykv")
def test_text_that_is_no_cid_is_refused(written: str) -> None:
    try:
        name = cid.parse(written)
    except InvalidData:
        return
    assert cid.text(name) == written


@pytest.mark.parametrize(
    "data", [b"", LEAF[:35], LEAF + b"\0", b"\x01\x71" + LEAF[2:], b"\x12\x20" + LEAF[4:]]
)
def test_bytes_of_another_kind_of_cid_are_refused(data: bytes) -> None:
    with pytest.raises(InvalidData):
        cid.from_bytes(data)


def test_a_leaf_matches_its_own_bytes_only() -> None:
    assert cid.is_leaf(LEAF)
    assert not cid.is_leaf(NODE)
    assert cid.matches(LEAF, b"leaf")
    assert not cid.matches(LEAF, b"leaves")


# --- hostile nodes ----------------------------------------------------------------------------


def link(name: Cid, size_bytes: int, total_bytes: int | None = None) -> Any:
    return cid._Link(name, size_bytes, size_bytes if total_bytes is None else total_bytes)


def good_node() -> bytes:
    return cid._encode_node([link(LEAF, CHUNK_SIZE_BYTES), link(LEAF, 7)])


def test_a_node_gives_its_children_in_order() -> None:
    assert cid.decode_node(good_node()) == [(LEAF, CHUNK_SIZE_BYTES), (LEAF, 7)]


@given(st.data())
def test_no_mutation_of_a_node_reads_as_another_node_unless_it_is_one(data: st.DataObject) -> None:
    good = good_node()
    at = data.draw(st.integers(0, len(good) - 1))
    kind = data.draw(st.sampled_from(["flip", "cut", "insert", "delete"]))
    byte = bytes([data.draw(st.integers(0, 255))])
    mutated = {
        "flip": good[:at] + byte + good[at + 1 :],
        "cut": good[:at],
        "insert": good[:at] + byte + good[at:],
        "delete": good[:at] + good[at + 1 :],
    }[kind]
    try:
        children = cid.decode_node(mutated)
    except InvalidData:
        return
    # What is still accepted differs in a hash or is the node itself.
    assert [size for _, size in children] == [CHUNK_SIZE_BYTES, 7]
    assert len(mutated) == len(good)


@given(st.binary(max_size=200))
@example(b"\x12\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff")
def test_any_bytes_are_refused_politely(data: bytes) -> None:
    with pytest.raises(InvalidData):
        cid.decode_node(data)


FULL_NODE = LINKS_MAX * CHUNK_SIZE_BYTES


@pytest.mark.parametrize(
    ("links", "reason"),
    [
        ([], "no links"),
        ([link(LEAF, CHUNK_SIZE_BYTES), link(NODE, 7)], "mixes"),
        ([link(LEAF, 5), link(LEAF, 5)], "not full"),
        ([link(LEAF, CHUNK_SIZE_BYTES), link(LEAF, 5), link(LEAF, 5)], "differ"),
        ([link(LEAF, CHUNK_SIZE_BYTES), link(LEAF, 0)], "last child"),
        ([link(LEAF, CHUNK_SIZE_BYTES), link(LEAF, CHUNK_SIZE_BYTES + 1)], "last child"),
        ([link(LEAF, 0)], "last child"),
        ([link(LEAF, CHUNK_SIZE_BYTES + 1)], "not full"),
        ([link(LEAF, 5, 6)], "total"),
        ([link(NODE, CHUNK_SIZE_BYTES), link(NODE, 5)], "not full"),
        ([link(NODE, FULL_NODE * LINKS_MAX + 1)], "not full"),
        ([link(LEAF, CHUNK_SIZE_BYTES)] * (LINKS_MAX + 1), "not UnixFS"),
        ([link(LEAF, CHUNK_SIZE_BYTES)] * (LINKS_MAX + 400), "over"),
    ],
)
def test_a_node_that_no_builder_makes_is_refused(links: list[Any], reason: str) -> None:
    with pytest.raises(InvalidData, match=reason):
        cid.decode_node(cid._encode_node(links))


def test_nodes_over_nodes_are_taken_whatever_their_last_size() -> None:
    for links in (
        [link(NODE, FULL_NODE), link(NODE, 1)],
        [link(NODE, FULL_NODE * LINKS_MAX), link(NODE, FULL_NODE * LINKS_MAX)],
        [link(NODE, 1)],
    ):
        children = [(entry.cid, entry.size_bytes) for entry in links]
        assert cid.decode_node(cid._encode_node(links)) == children


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (good_node() + b"\0", "another length"),
        (good_node()[:-1], "another length"),
        (b"\x12\x80", "ends early"),
        (b"\x12" + b"\xff" * 9, "too large"),
    ],
)
def test_a_node_of_another_length_is_refused(data: bytes, reason: str) -> None:
    with pytest.raises(InvalidData, match=reason):
        cid.decode_node(data)
