"""Runs one Python function for `worker.mjs`: one JSON line for each thing said, both ways."""

import json
import sys
import traceback
import types
from typing import Any

said, heard = sys.stdout, sys.stdin
sys.stdout = sys.stderr


def say(**what: Any) -> None:
    said.write(json.dumps(what) + "\n")
    said.flush()


def ask(**what: Any) -> Any:
    say(**what)
    answer = json.loads(heard.readline())
    if answer.get("error"):
        raise RuntimeError(answer["error"])
    return answer.get("answer")


class Namespace:
    """A namespace, as far as the tests go."""

    def __init__(self, name: str) -> None:
        self.space = ask(operation="kv.open", name=name)["space"]

    def __getitem__(self, key: str) -> Any:
        found = ask(operation="kv.get", space=self.space, key=key)
        if found is None:
            raise KeyError(key)
        return json.loads(found["value"])

    def __setitem__(self, key: str, value: Any) -> None:
        ask(put=self.space, key=key, value=json.dumps(value))


def main() -> None:
    given = json.loads(heard.readline())
    edge: Any = types.ModuleType("edge")
    edge.kv = Namespace
    edge.progress = lambda fraction, message="": say(progress=fraction, message=message)
    edge.log = lambda text: say(log=text)
    sys.modules["edge"] = edge
    try:
        names: dict[str, Any] = {"__name__": "function"}
        exec(compile(given["source"], "function", "exec"), names)
        say(result=json.dumps(names[given["entry"]](json.loads(given["input"]))))
    except BaseException as error:  # noqa: BLE001  (a function may raise anything)
        say(error=str(error) or type(error).__name__, traceback=traceback.format_exc())


main()
