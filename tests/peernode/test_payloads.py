"""What this node could not show, it does not keep."""

from typing import Any

import pytest
from msgspec.structs import replace

from peernode.attributes import (
    FunctionAttributes,
    ProjectAttributes,
    SpaceAttributes,
    UserAttributes,
    Version,
    encode_attributes,
)
from peernode.payloads import check_payload
from peernode.wheel_rows import Wheel
from storage import codec
from storage.cid import raw_leaf
from storage.errors import InvalidData
from storage.places import Class
from storage.records import Flag
from tests.storage.builders import place, record

SOURCE = b"def handler(input): return input\n"
WHEEL = Wheel(bytes(raw_leaf(b"PK")), 2, "a-1-py3-none-any.whl")


def version(number: int = 1, **fields: Any) -> Version:
    values: dict[str, Any] = {
        "version": number,
        "runtime": "python",
        "entry": "handler",
        "cid": bytes(raw_leaf(SOURCE)),
        "size_bytes": len(SOURCE),
        "input_schema": None,
        "created_ms": 1,
    }
    return Version(**values | fields)


def function(**fields: Any) -> bytes:
    values: dict[str, Any] = {
        "name": "echo",
        "current": 1,
        "versions": [version()],
        "source": SOURCE,
    }
    return encode_attributes(FunctionAttributes(**values | fields))


GOOD = [
    (Class.USER, encode_attributes(UserAttributes(display_name="Ada"))),
    (Class.PROJECT, encode_attributes(ProjectAttributes(name="lab"))),
    (Class.KV_SPACE, encode_attributes(SpaceAttributes(name="state"))),
    (Class.FUNCTION, function()),
    (Class.FUNCTION, function(versions=[version(1), version(3)], current=3)),
    (Class.FUNCTION, function(source=None)),
    (Class.FUNCTION, function(versions=[version(wheels=[0])], wheels=[WHEEL])),
    (Class.FUNCTION, function(versions=[version(runtime="exec", arch="x86_64")])),
    (Class.KV_ENTRY, codec.encode([b'{"n": 1.5}', 0])),
]
WRONG = [
    (Class.FUNCTION, function(wheels=[replace(WHEEL, name="../x.whl")])),
    (Class.FUNCTION, function(wheels=[replace(WHEEL, cid=b"x")])),
    (Class.FUNCTION, function(wheels=[replace(WHEEL, size_bytes=-1)])),
    (Class.FUNCTION, function(versions=[version(wheels=[1])], wheels=[WHEEL])),
    (Class.FUNCTION, function(versions=[version(wheels=[-1])], wheels=[WHEEL])),
    (Class.FUNCTION, function(versions=[version(wheels=[0] * 17)], wheels=[WHEEL])),
    (Class.USER, b""),
    (Class.USER, codec.encode({"display_name": 7})),
    (Class.USER, codec.encode({"nick": "Ada"})),
    (Class.PROJECT, encode_attributes(ProjectAttributes(name="Not a name"))),
    (Class.KV_SPACE, encode_attributes(SpaceAttributes(name=""))),
    (Class.FUNCTION, function(versions=[])),
    (Class.FUNCTION, function(versions=[version(arch="x" * 64)])),
    (Class.FUNCTION, function(current=2)),
    (Class.FUNCTION, function(versions=[version(2), version(1)])),
    (Class.FUNCTION, function(versions=[version(1), version(1)])),
    (Class.FUNCTION, function(versions=[version(0)], current=0)),
    (Class.FUNCTION, function(source=SOURCE + b"#")),
    (Class.FUNCTION, function(source=SOURCE.upper())),
    (Class.FUNCTION, function(terms=b"not JSON")),
    (Class.FUNCTION, function(terms=b'{"limits":{"run_s":-1}}')),
    (Class.FUNCTION, function(versions=[version(input_schema=b"{")])),
    (Class.FUNCTION, function(name="../etc")),
    (Class.KV_ENTRY, b""),
    (Class.KV_ENTRY, codec.encode([b"{", 0])),
    (Class.KV_ENTRY, codec.encode([b'"\xff"', 0])),
    (Class.KV_ENTRY, codec.encode(["text", 0])),
    (Class.KV_ENTRY, codec.encode([b"1", -1])),
    (Class.KV_ENTRY, codec.encode([b"1", 1 << 60])),
    (Class.KV_ENTRY, codec.encode([b"1"])),
    (Class.KV_ENTRY, codec.encode([b"1" * (64 * 1024 + 1), 0])),
    (Class.BLOB, codec.encode([])),
]


def made(class_: Class, payload: bytes, **fields: Any) -> Any:
    key = b"k" if class_ is Class.KV_ENTRY else b""
    return record(place(class_, key=key), payload=payload, **fields)


@pytest.mark.parametrize(("class_", "payload"), GOOD)
def test_what_is_written_at_home_is_good_everywhere(class_: Class, payload: bytes) -> None:
    check_payload(made(class_, payload))


@pytest.mark.parametrize(("class_", "payload"), WRONG)
def test_what_could_not_be_shown_is_refused(class_: Class, payload: bytes) -> None:
    with pytest.raises(InvalidData):
        check_payload(made(class_, payload))


def test_a_tombstone_has_nothing_to_check() -> None:
    check_payload(made(Class.FUNCTION, b"", flags=Flag.TOMBSTONE | Flag.TERMINAL))


def test_a_layout_of_a_later_program_is_refused() -> None:
    with pytest.raises(InvalidData, match="layout"):
        check_payload(made(Class.USER, GOOD[0][1], schema=2))


def test_a_version_that_any_architecture_runs_is_written_as_before_there_were_others() -> None:
    assert b"arch" not in function()
    assert b"arch" in function(versions=[version(arch="x86_64")])
