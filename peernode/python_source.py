"""Python source as it is handed in: checked before it is kept, never run here."""

import keyword
import symtable
from typing import Final

from peernode.problems import Problem

SOURCE_SIZE_MAX_BYTES: Final = 1 << 20
"""Largest Python source. Source: the JSON body it comes in."""


def check_python(source: bytes, entry: str) -> None:
    """Raise a `Problem` unless `source` compiles and defines `entry` at its top level."""
    if len(source) > SOURCE_SIZE_MAX_BYTES:
        raise Problem("too_large", "source: too large", field="source", limit=SOURCE_SIZE_MAX_BYTES)
    if not entry.isidentifier() or keyword.iskeyword(entry):
        raise Problem("invalid_field", f"entry: {entry!r} is not a name", field="entry")
    try:
        compile(source, "function.py", "exec", dont_inherit=True)
        names = symtable.symtable(source, "function.py", "exec")  # type: ignore[arg-type]
    except SyntaxError as error:
        raise Problem(
            "invalid_source", f"source: line {error.lineno}: {error.msg}", field="source"
        ) from None
    except (ValueError, RecursionError, MemoryError) as error:
        raise Problem(
            "invalid_source", f"source: {str(error) or type(error).__name__}", field="source"
        ) from None
    if not _binds(names, entry):
        raise Problem(
            "invalid_source",
            f"source: it defines no {entry!r} at its top level",
            hint="def handler(input): ...",
            field="source",
        )


def _binds(names: symtable.SymbolTable, name: str) -> bool:
    """Tell whether `name` may be bound at the top level."""
    if name not in names.get_identifiers():
        return False
    symbol = names.lookup(name)
    return symbol.is_assigned() or symbol.is_imported()
