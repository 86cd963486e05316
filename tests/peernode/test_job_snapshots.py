"""Snapshots of jobs: signed by their home, and nothing else is taken."""

import json
from typing import Any

import pytest
from hypothesis import given, strategies as st

from peernode import job_rows, job_snapshots
from peernode.job_rows import Outcome, Request
from storage import cid, ids
from storage.errors import InvalidData
from storage.signing import Keypair

HOME = Keypair.from_seed(b"h" * 32)
OTHER = Keypair.from_seed(b"o" * 32)
MESH = b"m" * 32
JOB = ids.pack(1_800_000_000_000, 1, 0)
REQUEST = Request(5, 1, 7, 9, 0, 1_800_000_000_000, b'{"n":1}', [["a", 3]], [3], b"{}")
OUTCOME = Outcome(
    "succeeded",
    1,
    2,
    11,
    "",
    b"[1]",
    "",
    1_800_000_000_000,
    1_800_000_001_000,
    1.0,
    0.5,
    1000,
    "",
    "process",
    [0.5, "half"],
    [[1, "queued", 1_800_000_000_000, 0, 0, ""], [2, "succeeded", 1_800_000_001_000, 1, 11, ""]],
)
ROW = job_rows.encode_request(REQUEST)


def sign(outcome: Outcome = OUTCOME, row: bytes = ROW, keypair: Keypair = HOME) -> bytes:
    return job_snapshots.sign(keypair, MESH, JOB, row, outcome)


def test_what_was_signed_is_read_back() -> None:
    snapshot = job_snapshots.verify(sign(), MESH, JOB, HOME.public_key)
    ended = job_snapshots.read(ROW, snapshot)
    assert (ended.request, ended.outcome) == (REQUEST, OUTCOME)
    assert ended.request_cid == cid.text(cid.raw_leaf(ROW))


@pytest.mark.parametrize(
    ("mesh", "job", "key"),
    [
        (b"n" * 32, JOB, HOME.public_key),
        (MESH, JOB + 1, HOME.public_key),
        (MESH, JOB, OTHER.public_key),
    ],
)
def test_it_is_good_for_one_job_of_one_home_in_one_mesh(mesh: bytes, job: int, key: bytes) -> None:
    with pytest.raises(InvalidData):
        job_snapshots.verify(sign(), mesh, job, key)


def test_another_request_does_not_go_with_it() -> None:
    snapshot = job_snapshots.verify(sign(), MESH, JOB, HOME.public_key)
    with pytest.raises(InvalidData):
        job_snapshots.read(job_rows.encode_request(REQUEST._replace(input=b"2")), snapshot)


@pytest.mark.parametrize(
    "changed",
    [
        {"state": "running"},
        {"history": []},
        {"history": [[1, "queued"]]},
        {"history": [[1, "queued", -5, 0, 0, ""]]},
        {"progress": ["x", 1]},
        {"finished_ms": 1 << 60},
        {"payload": b'{"result": 1}, "role": "owner"'},
        {"payload": b"\xff"},
    ],
)
def test_a_home_cannot_say_what_no_job_is(changed: dict[str, Any]) -> None:
    data = sign(OUTCOME._replace(**changed))
    with pytest.raises(InvalidData):
        job_snapshots.verify(data, MESH, JOB, HOME.public_key)


@pytest.mark.parametrize(
    "changed", [{"input": b"{"}, {"created_ms": -1}, {"function": "x"}, {"granted": ["x"]}]
)
def test_nor_ask_for_what_nobody_can(changed: dict[str, Any]) -> None:
    row = job_rows.encode_request(REQUEST._replace(**changed))
    snapshot = job_snapshots.verify(sign(row=row), MESH, JOB, HOME.public_key)
    with pytest.raises(InvalidData):
        job_snapshots.read(row, snapshot)


@given(at=st.integers(0, 10_000), byte=st.integers(1, 255))
def test_no_byte_can_be_another(at: int, byte: int) -> None:
    data = bytearray(sign())
    data[at % len(data)] ^= byte
    with pytest.raises(InvalidData):
        job_snapshots.verify(bytes(data), MESH, JOB, HOME.public_key)


@given(st.binary(max_size=200))
def test_noise_is_refused(data: bytes) -> None:
    with pytest.raises(InvalidData):
        job_snapshots.read_outcome(data)
    with pytest.raises(InvalidData):
        job_snapshots.check_request(data, cid.raw_leaf(data))


def test_an_error_may_be_any_text() -> None:
    outcome = OUTCOME._replace(state="failed", code="function_error", payload=b"it broke: {")
    snapshot = job_snapshots.verify(sign(outcome), MESH, JOB, HOME.public_key)
    assert job_snapshots.read(ROW, snapshot).outcome.payload == b"it broke: {"
    assert json.loads(REQUEST.input) == {"n": 1}
