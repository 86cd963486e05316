"""What is written about WebAssembly functions is what the code has."""

import ast
import re
from pathlib import Path

from worker.runtimes.wasm_calls import SIGNATURES

ROOT = Path(__file__).parents[2]
DOCUMENT = (ROOT / "docs" / "functions.md").read_text("utf-8")
WIT_TYPES = {"string": "t", "list<u8>": "b", "s64": "i", "f64": "f"}


def test_the_world_of_components_has_the_calls_of_modules() -> None:
    text = (ROOT / "worker" / "runtimes" / "function.wit").read_text("utf-8")
    found = {}
    for name, parameters in re.findall(
        r"^  ([a-z-]+): func\((.*)\) -> result<", text, re.MULTILINE
    ):
        types = re.findall(r"[a-z-]+: ([a-z0-9<>]+)", parameters)
        found[name.replace("-", "_")] = "".join(WIT_TYPES[kind] for kind in types)
    assert found == SIGNATURES


def test_every_call_is_documented() -> None:
    rows = re.findall(r"^\| (`[a-z_`, ]+`) \| (.*?) \|", DOCUMENT, re.MULTILINE)
    found = {
        name: parameters for names, parameters in rows for name in re.findall("[a-z_]+", names)
    }
    for name, signature in SIGNATURES.items():
        kinds = {"*": "t", "i64": "i", "f64": "f"}
        # Braces hold what a JSON text is of: one argument.
        plain = re.sub(r"\{.*\}", "", found[name])
        said = "".join(kinds[kind] for kind in re.findall(r"\*|i64|f64", plain))
        assert said == signature.replace("b", "t"), name


def test_the_modules_that_python_has_inside_are_listed() -> None:
    guest = ast.parse((ROOT / "worker" / "runtimes" / "wasm_guest.py").read_text("utf-8"))
    ours = {"__future__", "edge", "handling", "wasm_bytes", "wit_world"}
    imported = {
        alias.name for node in guest.body if isinstance(node, ast.Import) for alias in node.names
    } - ours
    (listed,) = re.findall(r"^Modules: `([^`]*)`", DOCUMENT, re.MULTILINE)
    within = {name for name in imported if name.rpartition(".")[0] in imported}
    shown = {"html.entities", "html.parser"} | within
    assert set(listed.split()) == imported - shown
