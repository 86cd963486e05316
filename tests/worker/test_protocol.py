"""The protocol as it is written down: golden bytes of every message, and the page for others."""

import re
from pathlib import Path
from typing import Any, Final, get_args

import msgspec
import pytest

from peernode.workers import PROOF_AGE_MAX_MS, prove
from storage.signing import Keypair
from worker import protocol
from worker.link import FromWorkerBatch, ToWorkerBatch, decode_batch, encode_batch
from worker.protocol import (
    Accelerator,
    Acked,
    Beat,
    BlobDelete,
    BlobKeep,
    Call,
    Drain,
    Finished,
    Held,
    Hello,
    Kill,
    KvDelete,
    KvIncrement,
    KvPut,
    Lease,
    Limits,
    Log,
    Message,
    Offer,
    Program,
    Progress,
    Recall,
    Refused,
    Reply,
    Returned,
    Started,
    Usage,
    Welcome,
    Wheel,
)

ROOT = Path(__file__).parent.parent.parent
GOLDEN: Final = Path(__file__).parent / "golden" / "protocol_messages.txt"
PAGE: Final = (ROOT / "docs" / "worker-protocol.md").read_text("utf-8")
JOB, FENCE = (1 << 62) + 3, (1 << 32) + 7
"""More than a double holds exactly: what other languages get wrong first."""

FROM_WORKER: list[Message] = [
    Hello(
        1,
        Offer(
            slots=2,
            cores=4,
            memory_bytes=1 << 33,
            arch="x86_64",
            runtimes=["python"],
            isolation=["process"],
            backends=["CPUExecutionProvider"],
            accelerators=[Accelerator(kind="cuda", name="H200", memory_bytes=1 << 37)],
            labels={"room": "\u00fcber"},
            python="3.11.2",
            pythons=["3.11"],
            wasm_engine="wasmtime 30.0.0",
            processor="AMD EPYC",
            system="Linux",
            speed_rounds_per_s=7500,
            software="peernode-worker/1",
        ),
        [Held(JOB, FENCE)],
    ),
    Beat(),
    Started(JOB, FENCE, 0.25),
    Progress(JOB, FENCE, 0.5, "half way"),
    Progress(JOB, FENCE, None, ""),
    Log(JOB, FENCE, [(1_700_000_000_000, "stdout", "\u00fcber \U0001f600")]),
    Finished(
        JOB,
        FENCE,
        None,
        b'{"a":1.5}',
        "",
        Usage(1_700_000_000_000, 0.25, 0.125, 1 << 24),
        "CPUExecutionProvider",
        [
            KvPut(1, "k", b"[1]", 60.0),
            KvPut(1, "k", b"null"),
            KvDelete(1, "k"),
            KvIncrement(1, "n", -2),
            BlobKeep(9),
            BlobDelete(9),
        ],
    ),
    Finished(JOB, FENCE, "function_error", b"boom", "line 1", Usage(0, 1.0, 0.0, 0), "", []),
    Returned(JOB, FENCE),
    Call(7, JOB, FENCE, "kv.get", {"space": 1, "key": "k"}),
]
TO_WORKER: list[Message] = [
    Welcome(1, 7, 10.0),
    Program("3.1", "python", "handler", b"def handler(x): return x\n", ["example.org:443"]),
    Program("4.1", "python", "f", b"", [], "b", 9, [Wheel("b", 7, "a-1-py3-none-any.whl")]),
    Lease(JOB, FENCE, 1, "3.1", b"null", {"image": 9}, Limits(run_s=1.5), "process", 1 << 41),
    Lease(JOB, FENCE, 2, "3.1", b"[]", {}, Limits(), "sandbox", None),
    Kill(JOB, FENCE, "cancelled"),
    Recall(JOB, FENCE),
    Acked([Held(JOB, FENCE)]),
    Refused(JOB, FENCE),
    Reply(7, "", {"value": b"1", "version": -1}),
    Reply(8, "not_found", "no such space"),
    Drain(),
]
PROOF = prove(77, Keypair.from_seed(b"w" * 32), 1_800_000_000_000)


def golden() -> str:
    lines = [
        f"{type(message).__name__} {encode_batch([message])[0].hex()}"
        for message in (*FROM_WORKER, *TO_WORKER)
    ]
    lines.append(f"proof seed={(b'w' * 32).hex()} worker=77 ms=1800000000000 {PROOF}")
    return "\n".join(lines) + "\n"


def kinds(union: Any) -> list[Any]:
    return list(get_args(union))


def fields(kind: Any) -> list[str]:
    return [field.name for field in msgspec.structs.fields(kind)]


def test_the_format_of_every_message_is_decided() -> None:
    assert GOLDEN.read_text() == golden()
    assert {type(message) for message in FROM_WORKER} == set(kinds(protocol.FromWorker))
    assert {type(message) for message in TO_WORKER} == set(kinds(protocol.ToWorker))


def test_every_golden_message_is_read_as_it_was_said() -> None:
    for messages, batch in ((FROM_WORKER, FromWorkerBatch), (TO_WORKER, ToWorkerBatch)):
        for message in messages:
            assert decode_batch(encode_batch([message])[0], batch) == [message]


# --- the page -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "kind",
    [*kinds(protocol.FromWorker), *kinds(protocol.ToWorker), *kinds(protocol.Write)],
    ids=lambda kind: kind.__name__,
)
def test_the_page_has_every_message_with_its_number_and_fields_in_order(kind: Any) -> None:
    (row,) = re.findall(
        rf"^\| {kind.__struct_config__.tag} \| `{kind.__name__}` \|(.*)\|$", PAGE, re.MULTILINE
    )
    named = [name for name in re.findall(r"`(\w+)` \S", row) if name in fields(kind)]
    assert named == fields(kind)


@pytest.mark.parametrize(
    "kind", [Held, Usage, Limits, Offer, Accelerator, Wheel], ids=lambda kind: kind.__name__
)
def test_the_page_has_every_part(kind: Any) -> None:
    assert f"`{kind.__name__}`" in PAGE
    place = PAGE.index(f"\n`{kind.__name__}` is") if kind in (Limits, Offer) else 0
    for name in fields(kind):
        assert f"`{name}`" in PAGE[place:], name


def test_the_page_has_every_operation_error_and_limit() -> None:
    for operation in protocol.OPERATIONS:
        assert f"| `{operation}` |" in PAGE
    for code in get_args(protocol.ErrorCode):
        assert f"`{code}`" in PAGE
    for value in (
        protocol.MESSAGE_SIZE_MAX_BYTES,
        protocol.BATCH_LENGTH_MAX,
        protocol.CHUNK_SIZE_MAX_BYTES,
    ):
        assert re.search(rf"\| {value}\b", PAGE), value
    assert f"version **{protocol.VERSION}**" in PAGE
    assert f"after {protocol.STARTED_DELAY_S} s of running" in PAGE
    assert PROOF_AGE_MAX_MS == 60_000
    assert "within a minute of the node's" in PAGE
