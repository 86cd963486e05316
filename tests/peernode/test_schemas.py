"""Input schemas: what is refused when they are deployed, and what when they are used."""

from typing import Any

import pytest

from peernode.problems import Problem
from peernode.schemas import SCHEMA_SIZE_MAX_BYTES, check_input, check_schema

SCHEMA = {
    "type": "object",
    "required": ["width"],
    "properties": {"width": {"type": "integer"}, "tags": {"type": "array", "items": {"enum": [1]}}},
}


@pytest.mark.parametrize("text", [b'{"width": 3}', b'{"width": 3, "tags": [1, 1]}'])
def test_an_input_that_matches_is_taken(text: bytes) -> None:
    check_input(check_schema(SCHEMA), text)


@pytest.mark.parametrize(
    ("text", "field"),
    [
        (b"null", "input"),
        (b"{}", "input"),
        (b'{"width": "3"}', "input.width"),
        (b'{"width": 3, "tags": [1, 2]}', "input.tags.1"),
        (b'{"width": 1e999}', "input"),
    ],
)
def test_an_input_that_does_not_match_is_refused_where_it_does_not(text: bytes, field: str) -> None:
    with pytest.raises(Problem) as refused:
        check_input(check_schema(SCHEMA), text)
    assert (refused.value.code, refused.value.field) == ("input_mismatch", field)


@pytest.mark.parametrize(
    "schema",
    [
        {"type": "no such type"},
        {"$ref": "https://example.org/schema"},
        {"$defs": {"a": {"$ref": "#"}}, "properties": {"b": {"$ref": "http://127.0.0.1:1/"}}},
        {"$dynamicRef": "http://127.0.0.1:1/"},
        {"pattern": "(a+)+$"},
        {"patternProperties": {"(a+)+$": {}}},
    ],
)
def test_a_schema_that_is_none_or_is_dangerous_is_refused(schema: dict[str, Any]) -> None:
    with pytest.raises(Problem) as refused:
        check_schema(schema)
    assert refused.value.field == "input_schema"


def test_a_schema_may_refer_to_itself() -> None:
    schema = {
        "$defs": {"tree": {"type": "array", "items": {"$ref": "#/$defs/tree"}}},
        "$ref": "#/$defs/tree",
    }
    row = check_schema(schema)
    check_input(row, b"[[], [[]]]")
    with pytest.raises(Problem):
        check_input(row, b"[[1]]")


@pytest.mark.parametrize("schema", [{"$ref": "#"}, {"$ref": "#/$defs/nowhere"}])
def test_a_schema_that_leads_nowhere_matches_nothing(schema: dict[str, Any]) -> None:
    with pytest.raises(Problem) as refused:
        check_input(check_schema(schema), b"1")
    assert refused.value.code == "input_mismatch"


def test_a_schema_has_a_size() -> None:
    with pytest.raises(Problem) as refused:
        check_schema({"description": "x" * SCHEMA_SIZE_MAX_BYTES})
    assert (refused.value.code, refused.value.limit) == ("too_large", SCHEMA_SIZE_MAX_BYTES)


def test_equal_schemas_are_kept_as_equal_bytes() -> None:
    assert check_schema({"a": 1, "b": 2}) == check_schema({"b": 2, "a": 1})
