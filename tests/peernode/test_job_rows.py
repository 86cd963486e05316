"""Rows of jobs are read for ever as they were written."""

from pathlib import Path

import pytest
from hypothesis import given, settings, strategies as st

from peernode import job_rows
from peernode.job_rows import Change, Lease, Outcome, Request
from storage import cid, codec
from storage.errors import RecordError

GOLDEN = Path(__file__).parent / "golden"

REQUEST = Request(
    function=269737367961600258,
    version=3,
    project=269737367961600257,
    caller=269737367961600256,
    parent=0,
    created_ms=1_800_000_000_000,
    input=b'{"width": 3, "image": {"blob": "269737367961600300"}}',
    blobs=[["model", 269737367961600301]],
    granted=[269737367961600300, 269737367961600301],
    terms=b'{"limits":{"run_s":60.0}}',
)
LEASE = Lease(
    attempt=2,
    fence=(7 << 32) + 5,
    worker=269737367961600400,
    leased_ms=1_800_000_000_123,
    running=True,
    lost_on=[269737367961600401],
    priority=-5,
)
OUTCOME = Outcome(
    state="failed",
    attempt=2,
    fence=(7 << 32) + 5,
    worker=269737367961600400,
    code="function_error",
    payload="it broke: é".encode(),
    traceback="line 1\nline 2",
    started_ms=1_800_000_000_200,
    finished_ms=1_800_000_001_000,
    wall_s=0.75,
    cpu_s=0.5,
    rss_max_bytes=1 << 24,
    backend="CPUExecutionProvider",
    isolation="process",
    progress=[0.5, "half way"],
    history=[
        list(Change(1, "queued", 1_800_000_000_000, 0, 0, "")),
        list(Change(2, "failed", 1_800_000_001_000, 2, 269737367961600400, "function_error")),
    ],
)
ROWS = {"job_request": REQUEST, "job_lease": LEASE, "job_outcome": OUTCOME}
ENCODE = {
    "job_request": job_rows.encode_request,
    "job_lease": job_rows.encode,
    "job_outcome": job_rows.encode,
}
DECODE = {
    "job_request": job_rows.decode_request,
    "job_lease": job_rows.decode_lease,
    "job_outcome": job_rows.decode_outcome,
}


@pytest.mark.parametrize("name", sorted(ROWS))
def test_golden_rows_are_still_made_and_read_byte_for_byte(name: str) -> None:
    golden = bytes.fromhex((GOLDEN / f"{name}.hex").read_text())
    assert ENCODE[name](ROWS[name]) == golden
    assert DECODE[name](golden) == ROWS[name]


def test_a_requests_cid_is_that_of_its_row_and_its_row_is_deterministic() -> None:
    row = job_rows.encode_request(REQUEST)
    assert cid.text(cid.raw_leaf(row)) == (GOLDEN / "job_request.cid").read_text().strip()
    value = codec.decode(row, len(row))  # Strict: the deterministic subset.
    assert codec.encode(value) == row


def test_a_fallback_is_kept_and_rows_from_before_have_none() -> None:
    row = job_rows.encode(OUTCOME._replace(backend_fallback_from="CUDAExecutionProvider"))
    assert job_rows.decode_outcome(row).backend_fallback_from == "CUDAExecutionProvider"
    assert job_rows.decode_outcome(job_rows.encode(OUTCOME)).backend_fallback_from == ""


def test_no_lease_is_a_job_that_waits() -> None:
    assert job_rows.decode_lease(job_rows.NO_LEASE) == Lease()


@pytest.mark.parametrize("name", sorted(ROWS))
def test_another_version_is_refused_by_name(name: str) -> None:
    row = bytes([job_rows.VERSION + 1]) + job_rows.encode(LEASE)[1:]
    if name == "job_request":
        row = codec.dump_row([job_rows.VERSION + 1, *REQUEST])
    with pytest.raises(RecordError, match="version 2"):
        DECODE[name](row)


numbers = st.integers(0, (1 << 63) - 1)


@settings(max_examples=40)
@given(
    st.builds(
        Lease,
        attempt=numbers,
        fence=numbers,
        worker=numbers,
        leased_ms=numbers,
        running=st.booleans(),
        lost_on=st.lists(numbers, max_size=3),
        priority=st.integers(-1000, 1000),
    )
)
def test_a_lease_is_read_as_it_was_written(lease: Lease) -> None:
    assert job_rows.decode_lease(job_rows.encode(lease)) == lease
