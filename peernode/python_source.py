"""Python source as it is handed in: checked before it is kept, never run here.

Compiling keeps the interpreter to itself for about a second a megabyte, so a large source is looked
at by a process of its own: nobody makes a node wait by deploying something big.
"""

import json
import keyword
import subprocess
import symtable
import sys
from typing import Final

from peernode.problems import Problem

APART_FROM_BYTES: Final = 32 * 1024
"""Sources from this size on are checked in a process of their own. Source: about 30 ms of work."""
APART_TIMEOUT_S: Final = 60.0
_PROGRAM: Final = "from peernode.python_source import main; main()"

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


def check_python_apart(source: bytes, entry: str) -> None:
    """Do what `check_python` does, in a process of its own; blocks."""
    try:
        done = subprocess.run(
            [sys.executable, "-I", "-c", _PROGRAM, entry],
            input=source,
            capture_output=True,
            timeout=APART_TIMEOUT_S,
            check=False,
        )
        found = json.loads(done.stdout)
    except (subprocess.TimeoutExpired, ValueError):
        raise Problem("invalid_source", "source: it cannot be compiled", field="source") from None
    if found is not None:
        raise Problem(found["code"], found["detail"], hint=found["hint"], field=found["field"])


def main() -> None:
    """Check the source on standard input; write what is wrong with it as JSON, or null."""
    found = None
    try:
        check_python(sys.stdin.buffer.read(), sys.argv[1])
    except Problem as problem:
        found = {name: getattr(problem, name) for name in ("code", "detail", "hint", "field")}
    sys.stdout.write(json.dumps(found))


def _binds(names: symtable.SymbolTable, name: str) -> bool:
    """Tell whether `name` may be bound at the top level."""
    if name not in names.get_identifiers():
        return False
    symbol = names.lookup(name)
    return symbol.is_assigned() or symbol.is_imported()
