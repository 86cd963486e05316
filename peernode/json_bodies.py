"""JSON bodies of requests: read within their limits, decoded with the field named that is wrong."""

import re
from contextlib import aclosing
from typing import Any, Final

import msgspec

from peernode.calls import Call
from peernode.problems import Problem

BODY_SIZE_MAX_BYTES: Final = 1 << 20
"""Largest JSON body. Source: API contract."""


DEPTH_MAX: Final = 32
"""Deepest JSON. Source: API contract."""


FIELD: Final = re.compile(r"unknown field `(?P<unknown>[^`]*)`|required field `(?P<missing>[^`]*)`")


PATH: Final = re.compile(r" - at (?:`key` in )?`\$\.?(?P<path>[^`]*)`")


def check_depth(text: bytes) -> None:
    """Raise a `Problem` if JSON `text` nests deeper than `DEPTH_MAX`."""
    if text.count(b"[") + text.count(b"{") <= DEPTH_MAX:
        return
    depth, in_string, escaped = 0, False, False
    for byte in text:
        if in_string:
            if escaped:
                escaped = False
            elif byte == 0x5C:
                escaped = True
            elif byte == 0x22:
                in_string = False
        elif byte == 0x22:
            in_string = True
        elif byte in b"[{":
            depth += 1
            if depth > DEPTH_MAX:
                raise Problem(
                    "too_large", f"the body nests deeper than {DEPTH_MAX}", limit=DEPTH_MAX
                )
        elif byte in b"]}":
            depth -= 1


def decode_body(decoder: "msgspec.json.Decoder[Any]", raw: bytes) -> Any:
    """Return `raw` decoded; raises a `Problem` that names the field."""
    check_depth(raw)
    try:
        # Strings inside parts that stay raw are not looked into by the decoder.
        raw.decode()
        return decoder.decode(raw)
    except msgspec.ValidationError as error:
        text = str(error)
        found, place = FIELD.search(text), PATH.search(text)
        path = place.group("path") if place else ""
        if found is None:
            raise Problem("invalid_field", text.replace("`$.", "`"), field=path) from None
        name = found.group("unknown") or found.group("missing")
        field = f"{path}.{name}" if path else name
        if found.group("unknown"):
            raise Problem(
                "unknown_field", f"{field}: there is no such field", field=field
            ) from None
        raise Problem("invalid_field", f"{field}: this field is required", field=field) from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise Problem("invalid_json", f"the body is not JSON: {error}") from None


async def read_body(call: Call) -> bytes:
    """Return the body of a call; raises a `Problem` for what is no JSON or too large."""
    kind = call.header(b"content-type")
    if kind is not None and not kind.lower().startswith(b"application/json"):
        raise Problem(
            "unsupported_media_type",
            f"the body is {kind.decode('latin-1')!r}, not JSON",
            hint="send Content-Type: application/json",
        )
    length = call.header(b"content-length")
    if length is not None and int(length) > BODY_SIZE_MAX_BYTES:
        raise _body_too_large()
    assert call.receive is not None
    message = await call.receive()
    if message["type"] == "http.disconnect":
        raise ConnectionResetError("the caller left before its body was read")
    body: bytes = message.get("body", b"")
    if message.get("more_body"):
        pieces, size = [body], len(body)
        async with aclosing(call.pieces()) as more:
            async for piece in more:
                size += len(piece)
                if size > BODY_SIZE_MAX_BYTES:
                    raise _body_too_large()
                pieces.append(piece)
        body = b"".join(pieces)
    if len(body) > BODY_SIZE_MAX_BYTES:
        raise _body_too_large()
    return body


def _body_too_large() -> Problem:
    return Problem(
        "too_large",
        f"a JSON body has at most {BODY_SIZE_MAX_BYTES} bytes",
        hint="store large data as a blob and pass its id",
        limit=BODY_SIZE_MAX_BYTES,
    )
