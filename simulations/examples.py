"""The shipped example functions in a World: deployed as they stand, with what they work on.

Sources, model and pictures are the files of `peernode.examples`.  Model and pictures are blobs of
node 0, so that a job anywhere else fetches them on demand.
"""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files
from typing import TYPE_CHECKING, Final

from simulations.calls import ask
from simulations.errors import ScenarioError, unknown
from simulations.load import Inputs

if TYPE_CHECKING:
    from simulations.world import World

MODEL: Final = "centerface.onnx"
PICTURES: Final = ("coffee.jpg", "astronaut.jpg")
"""Without a face, and with one; in turn."""
ENDPOINT: Final = "http://cloud.example/findings"
"""Where `preprocess` posts; see `inline_functions.answer_http`."""


@dataclass(frozen=True, slots=True)
class Example:
    """A function of `peernode/examples/functions`."""

    files: tuple[str, ...]
    """One source after the other."""
    entry: str
    takes_picture: bool
    """Each job has a picture of its own, which it deletes."""

    @property
    def source(self) -> str:
        """Its text."""
        return "\n\n".join(_read("functions", name).decode() for name in self.files)

    async def prepare(
        self, world: "World", project: str, function: str, tokens: Sequence[str]
    ) -> Inputs:
        """Store what the jobs of this function need; return what makes their inputs.

        `tokens`: one a node.
        """

        async def put(node: int, name: str) -> str:
            content, path = _read("data", name), f"POST /blob?project={project}"
            made = await ask(world, node, path, content, token=tokens[node], status=201)
            return str(made.json()["id"])

        async def keep(space: str, key: str, value: object) -> None:
            body = {"owner": {"function": function}, "name": space, "scope": "global"}
            made = await ask(world, 0, "POST /kv", body, token=tokens[0], status=201)
            call = f"POST /kv/{made.json()['id']}/put"
            await ask(world, 0, call, {"key": key, "value": value}, token=tokens[0])

        await keep("models", "face", await put(0, MODEL))
        turns = itertools.cycle(PICTURES)
        if self.takes_picture:
            await keep("cloud", "endpoint", ENDPOINT)
            body = {"egress": ["cloud.example"]}
            await ask(world, 0, f"POST /project/{project}", body, token=tokens[0])

            async def own(node: int, duration_s: float, result_bytes: int) -> bytes:
                return _input(await put(node, next(turns)), duration_s)

            return own
        blobs = itertools.cycle([await put(0, name) for name in PICTURES])

        async def shared(node: int, duration_s: float, result_bytes: int) -> bytes:
            return _input(next(blobs), duration_s)

        return shared


EXAMPLES: Final[dict[str, Example]] = {
    "detect_faces": Example(("detect_faces.py",), "handler", takes_picture=False),
    "preprocess": Example(("detect_faces.py", "preprocess.py"), "watch", takes_picture=True),
}


def open_example(name: str) -> Example:
    """Return a shipped example. Raises `ScenarioError`."""
    if name not in EXAMPLES:
        raise ScenarioError("functions.example", unknown("example", name, EXAMPLES))
    return EXAMPLES[name]


def _read(*path: str) -> bytes:
    return files("peernode.examples").joinpath(*path).read_bytes()


def _input(blob: str, duration_s: float) -> bytes:
    return b'{"picture":{"blob":"%b"},"duration_s":%b}' % (
        blob.encode(),
        repr(duration_s).encode(),
    )
