"""Blobs named in a job's input: `{"blob": "ID"}`, anywhere in it."""

from typing import Any, Final

import msgspec

from peernode.problems import Problem

REFERENCES_MAX: Final = 1000
"""Most blobs named in one input. Source: guess."""


def find_references(input_json: bytes) -> list[str]:
    """Return the ids named in JSON text, as text, without repetition."""
    found: dict[str, None] = {}
    try:
        _walk(msgspec.json.decode(input_json), found)
    except msgspec.DecodeError as error:  # Such as a number that no program holds.
        raise Problem("invalid_field", f"input: {error}", field="input") from None
    if len(found) > REFERENCES_MAX:
        raise Problem(
            "too_large", "the input names too many blobs", field="input", limit=REFERENCES_MAX
        )
    return list(found)


def _walk(value: Any, found: dict[str, None]) -> None:
    if isinstance(value, dict):
        blob = value.get("blob")
        if len(value) == 1 and isinstance(blob, str):
            found[blob] = None
            return
        for part in value.values():
            _walk(part, found)
    elif isinstance(value, list):
        for part in value:
            _walk(part, found)
