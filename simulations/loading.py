"""A scenario out of a file: TOML, then the structs of `simulations.scenario`, then sense.

    scenario = load("two-cities.toml")

Whatever stands in the file, it is a scenario that can be run, or a `ScenarioError` whose text names
the file, the place as it is written there, and what is allowed.  Sense is looked for by
`simulations.checking`, its words are of `simulations.wording`.
"""

import math
import re
import tomllib
from functools import lru_cache
from pathlib import Path
from typing import Any, Final

import msgspec
from msgspec import inspect

from simulations.checking import check
from simulations.errors import ScenarioError, unknown
from simulations.scenario import Scenario
from simulations.wording import described, fields, kinds

GALLERY: Final = Path(__file__).parent / "scenarios"
FILE_BYTES_MAX: Final = 1 << 20
"""Source: guess; those of the gallery have 2 KB."""
DEPTH_MAX: Final = 32
"""Of tables in tables. Source: guess; ours need 5."""
WHOLE_MAX: Final = 1 << 53
"""Source: what a float still tells apart from its neighbours."""
_WHERE: Final = re.compile(r"(.*) - at `(?:key in )?\$\.?(.*)`", re.DOTALL)


def load(path: str | Path) -> Scenario:
    """Return the scenario of a file; what it names is looked for beside it.

    Raises `ScenarioError`.
    """
    path = Path(path)
    try:
        with path.open("rb") as file:
            data = file.read(FILE_BYTES_MAX + 1)
        text = data.decode("utf-8-sig")
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise ScenarioError(str(path), str(reason)) from None
    if len(data) > FILE_BYTES_MAX:
        raise ScenarioError(str(path), f"more than {FILE_BYTES_MAX} bytes")
    return parse(text, str(path), path.parent)


def parse(text: str, place: str = "", directory: str | Path = ".") -> Scenario:
    """Return the scenario of a text; `place` is how errors call it. Raises `ScenarioError`."""
    try:
        return from_values(_read(text), directory)
    except ScenarioError as error:
        where = ": ".join(part for part in (place, error.place) if part)
        raise ScenarioError(where, error.what) from None


def from_values(values: dict[str, Any], directory: str | Path = ".") -> Scenario:
    """Return the scenario of tables, as TOML has them. Raises `ScenarioError`."""
    _check_values(values)
    scenario = _convert(values)
    check(scenario, directory)
    return scenario


def gallery() -> dict[str, Path]:
    """Return the scenarios that are shipped, by name."""
    return {path.stem: path for path in sorted(GALLERY.glob("*.toml"))}


def _read(text: str) -> dict[str, Any]:
    try:
        # TOML has line ends of its own, and no bare carriage return.
        return tomllib.loads(text.replace("\r\n", "\n"))
    except (tomllib.TOMLDecodeError, ValueError) as error:  # ValueError: thousands of digits
        raise ScenarioError("", f"is not TOML: {error}") from None
    except RecursionError:
        raise ScenarioError("", f"more than {DEPTH_MAX} tables in tables") from None


def _check_values(value: object, place: str = "", depth: int = 0) -> None:
    """Refuse what TOML knows and no field takes: infinity, no number, dates, depths."""
    if depth > DEPTH_MAX:
        raise ScenarioError(place[:80], f"more than {DEPTH_MAX} tables in tables")
    match value:
        case dict():
            for key, inner in value.items():
                _check_values(inner, f"{place}.{key}" if place else key, depth + 1)
        case list():
            for number, inner in enumerate(value):
                _check_values(inner, f"{place}[{number}]", depth + 1)
        case float() if not math.isfinite(value):
            raise ScenarioError(place, f"{value} is not a number that a field takes")
        case int() if not -WHOLE_MAX <= value <= WHOLE_MAX:
            raise ScenarioError(place, "a number of more than 16 digits")
        case str() | int() | float():
            pass
        case _:
            raise ScenarioError(place, f"{value} is a date or time; give seconds")


def _convert(values: dict[str, Any]) -> Scenario:
    try:
        return msgspec.convert(values, Scenario)
    except msgspec.ValidationError as error:
        raise _refusal(str(error), values) from None


# --- what to say -----------------------------------------------------------------------------


def _refusal(message: str, values: dict[str, Any]) -> ScenarioError:
    """Return msgspec's refusal in a scenario's words: where, and what is allowed there."""
    found = _WHERE.fullmatch(message)
    reason, place = found.groups() if found else (message, "")
    parts = re.findall(r"\.\.\.|[^.\[\]]+", place)
    type_, value = _at(parts, values)
    if reason.startswith("Object contains unknown field"):
        name = reason.split("`")[1]
        return ScenarioError(place, unknown("field", name, fields(type_)))
    if reason.startswith("Object missing required field"):
        name = reason.split("`")[1]
        there = kinds(type_)
        what = f"which kind? {', '.join(there)}" if name == "kind" else f"needs {name}"
        return ScenarioError(place, what)
    if parts and parts[-1] == "kind" and reason.startswith("Invalid value"):
        kind = reason.split("'")[1]
        return ScenarioError(place, unknown("kind", kind, kinds(_at(parts[:-1], values)[0])))
    shown = "" if value is None else f", is {value!r:.60}"
    return ScenarioError(place, f"must be {described(type_)}{shown}")


def _at(parts: list[str], value: Any) -> tuple[inspect.Type, Any]:
    """Return the type of a place, of several the one that is meant, and what stands there."""
    type_ = _scenario_type()
    for part in parts:
        type_ = _meant(type_, value)
        match type_:
            case inspect.StructType(fields=known):
                there = [field.type for field in known if field.encode_name == part]
                type_ = there[0] if there else inspect.AnyType()
                value = value.get(part) if isinstance(value, dict) else None
            case inspect.ListType(item_type=item) | inspect.VarTupleType(item_type=item):
                type_ = item
                value = value[int(part)] if isinstance(value, list) else None
            case inspect.DictType(value_type=inner):
                type_, value = inner, None  # which one is not told
            case _:
                return inspect.AnyType(), None
    return _meant(type_, value), value


@lru_cache(maxsize=1)
def _scenario_type() -> inspect.Type:
    return inspect.type_info(Scenario)  # some 20 ms


def _meant(type_: inspect.Type, value: object) -> inspect.Type:
    if not isinstance(type_, inspect.UnionType):
        return type_
    for choice in type_.types:
        match choice:
            case inspect.StructType(tag=tag) if isinstance(value, dict):
                if value.get("kind") == tag:
                    return choice
            case inspect.ListType() if isinstance(value, list):
                return choice
    return type_
