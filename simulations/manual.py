"""The tables of docs/simulation.md, made of what the code says of itself.

    python -m simulations.manual docs/simulation.md

writes the page anew between its two marks; a test compares, so the page cannot go stale.  What a
table and its fields mean are their docstrings, what a field may be is its type.
"""

import ast
import inspect
import itertools
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path
from types import UnionType
from typing import Any, Final, get_args

import msgspec
from msgspec import inspect as types

from simulations import distributions, faults, scenario, trace
from simulations.metrics import METRICS, PROBED
from simulations.wording import described, kinds

BEGIN: Final = "<!-- made by simulations.manual: -->"
END: Final = "<!-- end of what is made -->"


def tables() -> str:
    """Return everything a scenario file may have, as Markdown."""
    parts = [
        _struct("The head of the file", scenario.Scenario),
        _kinds("`[topology]`", scenario.Topology),
        _struct("`[link]`", scenario.Link),
        _struct("`[costs]`", scenario.Costs),
        _struct("`[[workers]]`", scenario.Workers),
        _struct("`[[functions]]`", scenario.Function),
        _struct("`[[clients]]`", scenario.Clients),
        _struct("`[[load]]`", scenario.Load),
        _struct("`[[updates]]`", scenario.Updates),
        _kinds("`arrivals` and `reads`", scenario.Arrivals),
        _kinds("`[[faults]]`", faults.Fault),
        _struct("`[[probes]]`", scenario.Probe),
        _struct("`[[pass]]`", scenario.Pass),
        _kinds("Numbers that vary", distributions.Distribution),
        _listed("Metrics", "metric", METRICS),
        _listed("What a probe looks at", "metric", PROBED),
        _listed("Kinds of events", "kind", trace.KINDS),
    ]
    return "\n\n".join(parts)


def renewed(page: str) -> str:
    """Return a page with its tables made anew. Raises `ValueError` for one without marks."""
    before, begin, rest = page.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"the page needs {BEGIN} and {END}")
    return f"{before}{BEGIN}\n\n{tables()}\n\n{END}{after}"


def _struct(title: str, kind: type[msgspec.Struct]) -> str:
    return f"### {title}\n\n{_said(kind)}\n\n{_fields(kind)}"


def _kinds(title: str, union: UnionType) -> str:
    """Return a section with a table for each kind."""
    parts = [f"### {title}"]
    for choice in get_args(union):
        info = types.type_info(choice)
        if isinstance(info, types.StructType):
            parts.append(f'**`kind = "{info.tag}"`**: {_said(info.cls)}')
            if info.fields:
                parts.append(_fields(info.cls))
    return "\n\n".join(parts)


def _listed(title: str, head: str, rows: dict[str, str]) -> str:
    lines = [f"### {title}", "", f"| {head} | |", "|---|---|"]
    lines += [f"| `{name}` | {_cell(meaning)} |" for name, meaning in rows.items()]
    return "\n".join(lines)


def _said(kind: type) -> str:
    return inspect.cleandoc(kind.__doc__ or "")


def _fields(kind: type[msgspec.Struct]) -> str:
    info = types.type_info(kind)
    assert isinstance(info, types.StructType)
    meanings = dict(_meanings(kind))
    lines = ["| field | may be | default | |", "|---|---|---|---|"]
    for field in info.fields:
        meaning = meanings.get(field.name, "")
        lines.append(
            f"| `{field.encode_name}` | {_cell(_may_be(field.type))} | {_default(field)} "
            f"| {_cell(meaning)} |"
        )
    return "\n".join(lines)


def _meanings(kind: type) -> Iterator[tuple[str, str]]:
    """Yield the fields of a struct that have a docstring, which only the source knows."""
    tree = ast.parse(textwrap.dedent(inspect.getsource(kind)))
    body = tree.body[0].body if isinstance(tree.body[0], ast.ClassDef) else []
    for field, said in itertools.pairwise(body):
        match field, said:
            case ast.AnnAssign(target=ast.Name(id=name)), ast.Expr(value=ast.Constant(value=text)):
                yield name, inspect.cleandoc(str(text))
            case _:
                pass  # a field without words, or the words themselves


def _may_be(type_: types.Type) -> str:
    tags = kinds(type_)
    if "lognormal" in tags:
        return "a number that may vary"
    if "poisson" in tags:
        return "arrivals, see below"
    if "crash" in tags or "ring" in tags:
        return "see below"
    match type_:
        case types.ListType(item_type=types.UnionType()) if not kinds(type_.item_type):
            return described(type_)
        case types.ListType(item_type=types.StructType() | types.UnionType()):
            return "tables, see below"
        case types.StructType():
            return "a table, see below"
        case types.DictType(value_type=types.AnyType()):
            return "a table"
        case _:
            return described(type_)


def _default(field: types.Field) -> str:
    if field.required:
        return "must be given"
    if field.default is msgspec.NODEFAULT:
        return ""
    return "" if field.default is None else f"`{_toml(field.default)}`"


def _toml(value: Any) -> str:
    match value:
        case bool():
            return str(value).lower()
        case str():
            return f'"{value}"'
        case tuple():
            return "[" + ", ".join(map(_toml, value)) + "]"
        case msgspec.Struct():
            return "..."
        case float() if value == int(value) and abs(value) >= 1e4:
            return f"{int(value):_}"
        case _:
            return str(value)


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


if __name__ == "__main__":
    path = Path(sys.argv[1])
    path.write_text(renewed(path.read_text("utf-8")), "utf-8")
