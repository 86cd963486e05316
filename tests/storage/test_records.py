from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings, strategies as st

from storage import certificates, codec, places, records
from storage.certificates import Envelope
from storage.errors import CodecError, InvalidData, RecordError, SignatureError
from storage.places import Class, Mode, Scope
from storage.records import PAYLOAD_SIZE_MAX_BYTES, RECORD_SIZE_MAX_BYTES, Flag, Record
from storage.signing import Keypair
from tests.storage import builders as b

GOLDEN = Path(__file__).parent / "golden"
DEAD = Flag.TOMBSTONE | Flag.TERMINAL


def every_kind() -> dict[str, Record]:
    cas = b.place(Class.KV_ENTRY, id=b.CAS_SPACE, mode=Mode.CAS)
    carried = {"flags": Flag.CARRY, "orig": b"o" * 16, "signed_at": b.stamp(20)}
    found = {f"record-{class_.name.lower()}": b.record(b.place(class_)) for class_ in Class}
    return found | {
        "record-delegated": b.record(with_certificate=True),
        "record-tombstone": b.record(b.place(Class.KV_ENTRY), flags=Flag.TOMBSTONE),
        "record-terminal": b.record(flags=DEAD, prev=b"p" * 16, schema=2),
        "record-carried": b.record(**carried),
        "record-job": b.record(b.place(Class.KV_ENTRY), author=b.HOME, job=b.JOB),
        "record-cas": b.record(cas, author=b.HOME),
        "record-node-blob": b.record(b.place(Class.BLOB), author=b.HOME),
    }


@pytest.mark.parametrize("name", sorted(every_kind()))
def test_golden_records_are_still_made_and_read_byte_for_byte(name: str) -> None:
    made = every_kind()[name]
    golden = bytes.fromhex((GOLDEN / f"{name}.hex").read_text())
    assert made.encoded == golden
    assert records.decode_record(golden) == made
    made.verify(b.MESH)


def test_a_record_keeps_the_bytes_it_came_in_and_is_named_by_its_body() -> None:
    record = b.record(with_certificate=True)
    assert codec.decode(record.encoded, RECORD_SIZE_MAX_BYTES)[0] == record.body_encoded
    other_signer = b.record()
    assert other_signer.body_encoded == record.body_encoded
    assert other_signer.encoded != record.encoded
    assert other_signer.rid == record.rid
    assert record.key == (record.slot, b.DEVELOPER)
    assert record.store_key == record.slot + b.DEVELOPER.to_bytes(8, "big")


def test_rank_is_grant_then_epoch_then_time_then_rid() -> None:
    ranks = [
        b.record(grant_n=1, epoch=9, hlc=b.stamp(9)).rank,
        b.record(grant_n=2, epoch=0, hlc=b.stamp(9)).rank,
        b.record(grant_n=2, epoch=1, hlc=b.stamp(1)).rank,
        b.record(grant_n=2, epoch=1, hlc=b.stamp(2)).rank,
    ]
    assert ranks == sorted(ranks)
    assert ranks[0][4] == b.record(grant_n=1, epoch=9, hlc=b.stamp(9)).rid


def test_entries_of_a_space_have_a_slot_each_and_one_birth() -> None:
    one, two = b.place(Class.KV_ENTRY, key=b"1"), b.place(Class.KV_ENTRY, key=b"2")
    space = b.place(Class.KV_SPACE)
    assert len({one.slot, two.slot, space.slot}) == 3
    assert one.birth_statement == two.birth_statement == space.birth_statement
    assert b.place(mode=Mode.NONE).birth_statement != space.birth_statement


# --- what cannot be said ------------------------------------------------------------------------


@pytest.mark.parametrize("class_", [Class.KV_SPACE, Class.KV_ENTRY])
@pytest.mark.parametrize("scope", [Scope.LOCAL, None])
def test_a_local_space_has_no_place_and_so_no_record(class_: Class, scope: Scope | None) -> None:
    with pytest.raises(RecordError, match="only a global space"):
        b.place(class_, scope=scope)


@pytest.mark.parametrize(
    ("class_", "fields"),
    [
        (Class.FUNCTION, {"scope": Scope.GLOBAL}),
        (Class.FUNCTION, {"scope": Scope.LOCAL}),
        (Class.FUNCTION, {"mode": Mode.LWW}),
        (Class.KV_SPACE, {"mode": Mode.NONE}),
        (Class.KV_SPACE, {"key": b"k"}),
        (Class.KV_ENTRY, {"key": b""}),
        (Class.KV_ENTRY, {"key": bytes(257)}),
        (Class.FUNCTION, {"owner_class": Class.FUNCTION}),
        (Class.FUNCTION, {"id": 7}),
        (Class.FUNCTION, {"owner": 7}),
        (Class.USER, {"owner": b.ADMIN}),
        (Class.PROJECT, {"owner_class": Class.USER, "owner": b.OWNER}),
    ],
)
def test_places_that_do_not_exist_cannot_be_named(class_: Class, fields: Any) -> None:
    with pytest.raises(RecordError):
        b.place(class_, **fields)


ENTRY = b.place(Class.KV_ENTRY)
CAS_ENTRY = b.place(Class.KV_ENTRY, id=b.CAS_SPACE, mode=Mode.CAS)
USER_ENTRY = b.place(
    Class.KV_ENTRY, id=b.USER_SPACE, owner_class=Class.USER, owner=b.OWNER
)  # fmt: skip
FOREIGN_JOB = b.make_id(31, b.OTHER)


@pytest.mark.parametrize(
    ("where", "fields", "reason"),
    [
        (b.place(), {"flags": Flag.TOMBSTONE}, "terminal"),
        (b.place(), {"flags": Flag.TERMINAL}, "terminal"),
        (ENTRY, {"flags": DEAD}, "terminal"),
        (ENTRY, {"flags": Flag.TOMBSTONE, "payload": b"x"}, "no payload"),
        (ENTRY, {"flags": Flag.CARRY}, "names its original"),
        (ENTRY, {"orig": bytes(16)}, "names its original"),
        (ENTRY, {"signed_at": b.stamp(11)}, "time of signing"),
        (ENTRY, {"hlc": b.stamp(2), "signed_at": b.stamp(1)}, "time of signing"),
        (
            ENTRY,
            {"flags": Flag.CARRY, "orig": bytes(16), "hlc": b.stamp(2), "signed_at": b.stamp(1)},
            "time of signing",
        ),
        (ENTRY, {"job": b.JOB}, "no job"),
        (CAS_ENTRY, {}, "home node"),
        (USER_ENTRY, {"author": b.ADMIN}, "only the owner"),
        (USER_ENTRY, {"grant_n": 1}, "only the owner"),
        (b.place(), {"author": b.HOME}, "entries and blobs"),
        (ENTRY, {"author": b.HOME, "job": b.JOB, "epoch": 1}, "epoch or grant"),
        (ENTRY, {"author": b.HOME, "job": b.JOB, "grant_n": 1}, "epoch or grant"),
        (ENTRY, {"author": b.HOME, "job": FOREIGN_JOB}, "its home node"),
        (CAS_ENTRY, {"author": b.HOME, "job": FOREIGN_JOB}, "its home node"),
        (ENTRY, {"author": b.HOME}, "for a job"),
        (USER_ENTRY, {"author": b.HOME, "job": b.JOB}, "in a project"),
        (CAS_ENTRY, {"author": b.OTHER}, "their home"),
        (b.place(Class.BLOB), {"author": b.OTHER}, "their home"),
    ],
)
def test_bodies_that_contradict_themselves_cannot_be_made(
    where: places.Place, fields: Any, reason: str
) -> None:
    with pytest.raises(RecordError, match=reason):
        b.body(where, **fields)


@pytest.mark.parametrize("class_", list(Class))
def test_payloads_are_limited_by_class(class_: Class) -> None:
    limit = PAYLOAD_SIZE_MAX_BYTES[class_]
    full = b.record(b.place(class_), payload=bytes(limit), with_certificate=True)
    assert len(full.encoded) <= RECORD_SIZE_MAX_BYTES
    with pytest.raises(RecordError, match=class_.name):
        b.body(b.place(class_), payload=bytes(limit + 1))


def test_the_largest_certificate_fits_beside_the_largest_payload() -> None:
    largest = b.certificate(
        audience=(b.node_keys(b.HOME).public_key,) * certificates.AUDIENCE_MAX,
        scopes=("a" * certificates.SCOPE_LENGTH_MAX,) * (certificates.SCOPES_MAX - 1) + ("*",),
    )
    payload = bytes(PAYLOAD_SIZE_MAX_BYTES[Class.FUNCTION])
    b.record(payload=payload, with_certificate=largest).verify(b.MESH)


@pytest.mark.parametrize(
    ("where", "options", "reason"),
    [
        (b.place(), {"birth": False}, "birth"),
        (b.place(Class.USER), {"birth": b.keys("x").seal("birth", b.MESH, b"")}, "birth"),
        (b.place(), {"with_certificate": b.certificate(b.ADMIN)}, "another user"),
        (
            b.place(),
            {"with_certificate": b.certificate(epoch=1, signer=b.user_keys(b.DEVELOPER))},
            "another user or epoch",
        ),
        (b.place(), {"with_certificate": True, "signer": b.node_keys(b.OTHER)}, "audience"),
        (
            b.place(),
            {"with_certificate": b.certificate(not_before_ms=b.NOW_MS + 11)},
            "certificate's time",
        ),
        (
            b.place(),
            {"with_certificate": b.certificate(expires_ms=b.NOW_MS + 9)},
            "certificate's time",
        ),
        (b.place(), {"with_certificate": b.certificate(scopes=("kv",))}, "scopes"),
        (
            b.place(),
            {"with_certificate": b.certificate(scopes=("function:get", "*:list"))},
            "scopes",
        ),
        (b.place(), {"with_certificate": b.certificate(scopes=())}, "scopes"),
    ],
)
def test_a_body_in_the_wrong_envelope_is_refused(
    where: places.Place, options: Any, reason: str
) -> None:
    with pytest.raises(RecordError, match=reason):
        b.record(where, **options)


def test_a_node_does_not_sign_with_a_certificate() -> None:
    record = b.record(b.place(Class.KV_ENTRY), author=b.HOME, job=b.JOB)
    envelope = msgspec.convert(
        codec.decode(record.encoded, 10_000), Envelope, builtin_types=(bytes,)
    )  # fmt: skip
    with_one = msgspec.structs.replace(envelope, certificate=b.certificate().encoded)
    with pytest.raises(RecordError, match="by itself"):
        records.decode_record(codec.encode_struct(with_one))


@pytest.mark.parametrize("scope", ["*", "function", "function:set", "function:rollback"])
def test_a_writing_scope_of_the_class_covers_the_record(scope: str) -> None:
    certificate = b.certificate(scopes=("user:get", scope))
    b.record(with_certificate=certificate).verify(b.MESH)


@pytest.mark.parametrize("scope", ["function:get", "function:call", "function:read_source"])
def test_a_scope_that_only_reads_or_calls_covers_no_record(scope: str) -> None:
    with pytest.raises(RecordError, match="scopes do not cover"):
        b.record(with_certificate=b.certificate(scopes=(scope,)))


@pytest.mark.parametrize("class_", [Class.KV_SPACE, Class.KV_ENTRY])
def test_spaces_and_entries_are_of_the_class_kv(class_: Class) -> None:
    b.record(b.place(class_), with_certificate=b.certificate(scopes=("kv:key_put",)))


# --- signatures ---------------------------------------------------------------------------------


def reseal(record: Record, **changes: Any) -> Record:
    """Return the record with parts of its envelope replaced."""
    envelope = msgspec.convert(
        codec.decode(record.encoded, RECORD_SIZE_MAX_BYTES), Envelope, builtin_types=(bytes,)
    )
    return records.decode_record(codec.encode_struct(msgspec.structs.replace(envelope, **changes)))


def test_every_signature_in_a_record_is_checked() -> None:
    record = b.record(with_certificate=True)
    forged_terms = certificates.issue(b.keys("thief"), b.MESH, b.terms())
    signed = codec.decode(forged_terms.encoded, 10_000)
    claimed = [signed[0], [b.user_keys(b.DEVELOPER).public_key, signed[1][1]]]
    bad_certificate = codec.encode(claimed)
    assert record.birth is not None
    for changes in (
        {"seal": msgspec.structs.replace(record.seal, signature=bytes(64))},
        {"home": msgspec.structs.replace(record.birth, signature=bytes(64))},
        {"home": places.sign_birth(b.node_keys(b.HOME), b.MESH, b.place(id=b.BLOB))},
        {"certificate": bad_certificate},
    ):
        with pytest.raises(SignatureError):
            reseal(record, **changes).verify(b.MESH)
    record.verify(b.MESH)


def test_a_record_of_another_mesh_is_refused() -> None:
    with pytest.raises(SignatureError, match="another mesh"):
        b.record().verify(bytes(32))
    with pytest.raises(SignatureError, match="another mesh"):
        b.record(mesh=bytes(8)).verify(b.MESH)
    with pytest.raises(SignatureError, match="does not match"):
        b.record().verify(b.MESH[:8] + bytes(24))


@settings(max_examples=60)
@given(st.data())
def test_no_changed_byte_goes_unnoticed(data: st.DataObject) -> None:
    record = b.record(with_certificate=True)
    at = data.draw(st.integers(0, len(record.encoded) - 1))
    byte = data.draw(st.integers(0, 255).filter(lambda value: value != record.encoded[at]))
    mutated = record.encoded[:at] + bytes([byte]) + record.encoded[at + 1 :]
    with pytest.raises(InvalidData):
        records.decode_record(mutated).verify(b.MESH)


@given(st.binary(max_size=100))
def test_any_bytes_are_refused_politely(data: bytes) -> None:
    with pytest.raises(InvalidData):
        records.decode_record(data)


@pytest.mark.parametrize(
    ("position", "value"),
    [
        (0, 2),
        (1, b"short"),
        (2, 7),
        (2, True),
        (3, -1),
        (5, 9),
        (7, 3),
        (8, 0),
        (9, 1 << 32),
        (10, -1),
        (12, 8),
        (13, b"x"),
        (17, 0),
        (18, "text"),
    ],
)
def test_fields_out_of_range_are_refused(position: int, value: Any) -> None:
    record = b.record()
    fields = codec.decode(record.body_encoded, RECORD_SIZE_MAX_BYTES)
    assert len(fields) == 19
    fields[position] = value
    with pytest.raises(RecordError):
        reseal(record, body=codec.encode(fields))


def test_a_record_over_the_limit_is_not_decoded() -> None:
    with pytest.raises(CodecError, match="limit"):
        records.decode_record(bytes(RECORD_SIZE_MAX_BYTES + 1))


# --- certificates -------------------------------------------------------------------------------


def test_the_golden_certificate_is_still_made_and_read_byte_for_byte() -> None:
    golden = bytes.fromhex((GOLDEN / "certificate.hex").read_text())
    made = b.certificate(scopes=("kv:call", "function"))
    assert made.encode() == golden
    assert certificates.decode_certificate(golden) == made
    made.verify(b.MESH)


def test_a_certificate_is_current_between_its_times_both_included() -> None:
    certificate = b.certificate(not_before_ms=5, expires_ms=7)
    assert [certificate.is_current(ms) for ms in (4, 5, 7, 8)] == [False, True, True, False]


@pytest.mark.parametrize(
    "fields",
    [
        {"user": 5},
        {"not_before_ms": 8, "expires_ms": 7},
        {"audience": ()},
        {"audience": (bytes(32),) * 33},
        {"audience": (b"short",)},
        {"scopes": ("*",) * 33},
        {"scopes": ("a:b:c",)},
        {"scopes": ("*\n",)},
        {"scopes": ("A",)},
        {"secret_hash": b""},
        {"jti": b""},
        {"version": 2},
    ],
)
def test_certificates_out_of_range_are_refused(fields: Any) -> None:
    with pytest.raises(RecordError):
        b.certificate(signer=Keypair.from_seed(bytes(32)), **fields)
