"""Python source as it is handed in: checked before it is kept, never run here."""

import ast
import keyword
from typing import TYPE_CHECKING, Final

from peernode.problems import Problem

if TYPE_CHECKING:
    pass


SOURCE_SIZE_MAX_BYTES: Final = 1 << 20
"""Largest Python source. Source: the JSON body it comes in."""


def check_python(source: bytes, entry: str) -> None:
    """Raise a `Problem` unless `source` compiles and defines `entry` at its top level."""
    if len(source) > SOURCE_SIZE_MAX_BYTES:
        raise Problem("too_large", "source: too large", field="source", limit=SOURCE_SIZE_MAX_BYTES)
    if not entry.isidentifier() or keyword.iskeyword(entry):
        raise Problem("invalid_field", f"entry: {entry!r} is not a name", field="entry")
    try:
        tree = ast.parse(source, "function.py")
        compile(tree, "function.py", "exec", dont_inherit=True)
    except SyntaxError as error:
        raise Problem(
            "invalid_source", f"source: line {error.lineno}: {error.msg}", field="source"
        ) from None
    except (ValueError, RecursionError, MemoryError) as error:
        raise Problem(
            "invalid_source", f"source: {str(error) or type(error).__name__}", field="source"
        ) from None
    if entry not in _defined(tree):
        raise Problem(
            "invalid_source",
            f"source: it defines no {entry!r} at its top level",
            hint="def handler(input): ...",
            field="source",
        )


def _defined(tree: ast.AST) -> set[str]:
    """Return the names that may be bound at the top level."""
    found: set[str] = set()
    todo = list(ast.iter_child_nodes(tree))
    while todo:
        statement = todo.pop()
        if isinstance(statement, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            found.add(statement.name)
            continue
        if isinstance(statement, ast.Name) and isinstance(statement.ctx, ast.Store):
            found.add(statement.id)
        elif isinstance(statement, ast.alias):
            found.add((statement.asname or statement.name).split(".")[0])
        todo += ast.iter_child_nodes(statement)
    return found
