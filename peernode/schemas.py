"""Input schemas: what a function says its input looks like, in JSON Schema 2020-12.

This module is imported with the first schema: most nodes never see one, and the library takes a
tenth of a second.
"""

from functools import lru_cache
from typing import Any, Final

import jsonschema
import msgspec
import referencing.exceptions

from peernode.problems import Problem

SCHEMA_SIZE_MAX_BYTES: Final = 16 * 1024
"""Largest schema, as JSON. Source: guess."""
CACHED_MAX: Final = 1024


def check_schema(schema: Any) -> bytes:
    """Return a schema as it is kept; raises a `Problem` unless it is one that can be checked."""
    text = msgspec.json.encode(schema, order="deterministic")
    if len(text) > SCHEMA_SIZE_MAX_BYTES:
        raise Problem(
            "too_large",
            "input_schema is too large",
            field="input_schema",
            limit=SCHEMA_SIZE_MAX_BYTES,
        )
    if b'"$dynamicRef"' in text or text.count(b'"$ref"') != text.count(b'"$ref":"#'):
        # One that leads elsewhere would have the node fetch what a stranger names.
        raise Problem(
            "invalid_field", "input_schema: a $ref stays inside the schema", field="input_schema"
        )
    if b'"pattern' in text:
        # A pattern of a stranger can take for ever on an input of a stranger.
        raise Problem(
            "invalid_field", "input_schema: patterns are not supported", field="input_schema"
        )
    try:
        jsonschema.Draft202012Validator.check_schema(schema)
    except jsonschema.SchemaError as error:
        raise Problem(
            "invalid_field", f"input_schema: {error.message}", field="input_schema"
        ) from None
    return text


@lru_cache(maxsize=CACHED_MAX)
def _validator(schema: bytes) -> jsonschema.Draft202012Validator:
    return jsonschema.Draft202012Validator(msgspec.json.decode(schema))


def check_input(schema: bytes, input_json: bytes) -> None:
    """Raise a `Problem` that says where, unless `input_json` matches `schema`."""
    try:
        error = jsonschema.exceptions.best_match(
            _validator(schema).iter_errors(msgspec.json.decode(input_json))
        )
    except msgspec.DecodeError as failure:
        raise Problem("input_mismatch", f"input: {failure}", field="input") from None
    except (RecursionError, OverflowError, referencing.exceptions.Unresolvable) as failure:
        detail = f"input_schema: it cannot be applied: {type(failure).__name__}"
        raise Problem("input_mismatch", detail, field="input") from None
    if error is not None:
        place = "/".join(str(part) for part in error.absolute_path)
        raise Problem(
            "input_mismatch",
            f"input{'/' + place if place else ''}: {error.message[:500]}",
            field=f"input.{place.replace('/', '.')}" if place else "input",
        )
