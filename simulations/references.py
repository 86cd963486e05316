"""How a run is named, so that it can be made again: its scenario, and the one line of a failure.

A scenario is named by its file, by its name in the gallery, or by `embedded:...`, which is the
whole of it (what a sweep or an explorer made stands in no file).  The line that repeats a run is

    two-cities.toml seed=12 scenario=9f3c2b1a commit=22ce3405

The same scenario, seed and commit give the same run, to the last event.  `scenario` is the start of
a hash of what the scenario says, comments and spelling left out; where it or `commit` differ from
what is there now, the run may differ, and whoever repeats it is told.
"""

import base64
import hashlib
import shlex
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import msgspec

from simulations import loading
from simulations.checking import check
from simulations.errors import ScenarioError, unknown
from simulations.scenario import Scenario

EMBEDDED: Final = "embedded:"
EMBEDDED_MAX_BYTES: Final = 1 << 20
"""How long an embedded scenario may be. Source: guess; the gallery's have 2 KB."""
DIGEST_LENGTH: Final = 8
"""How much of a hash tells two scenarios or commits apart. Source: what git shows."""
NO_LINE: Final = "is not `SCENARIO seed=N [scenario=DIGEST] [commit=COMMIT]`"


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """A scenario and where it is from."""

    reference: str
    """What finds it again."""
    scenario: Scenario
    text: str
    """As it was written; JSON if it was embedded."""
    directory: str
    """What relative paths in it are relative to."""

    @property
    def digest(self) -> str:
        """The start of a hash of what it says."""
        return digest(self.scenario)


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """What one line says: which run it was."""

    reference: str
    seed: int
    scenario: str = ""
    """The digest of the scenario, "" if the line does not say."""
    commit: str = ""
    directory: str | None = None
    """What relative paths in an embedded scenario are relative to."""


def find(reference: str, directory: str | None = None) -> Source:
    """Return the scenario that a reference names; `directory` is for paths in an embedded one.

    Raises `ScenarioError`.
    """
    if reference.startswith(EMBEDDED):
        return _open_embedded(reference, directory or str(Path.cwd()))
    path = Path(reference)
    if not path.is_file():
        if path.suffix or len(path.parts) != 1:
            why = "is a directory" if path.is_dir() else "is not there"
            raise ScenarioError(reference, why)
        there = loading.gallery()
        if reference not in there:
            raise ScenarioError(
                "", unknown("file, and in the gallery no scenario", reference, there)
            )
        path = there[reference]
    scenario = loading.load(path)
    text = path.read_text("utf-8")
    return Source(
        reference=reference, scenario=scenario, text=text, directory=str(path.parent.absolute())
    )


def embed(scenario: Scenario, directory: str) -> Source:
    """Return a scenario as its own reference."""
    data = msgspec.json.encode(scenario)
    packed = base64.urlsafe_b64encode(zlib.compress(data, 9)).decode()
    return Source(
        reference=EMBEDDED + packed,
        scenario=scenario,
        text=msgspec.json.format(data, indent=2).decode() + "\n",
        directory=directory,
    )


def digest(scenario: Scenario) -> str:
    """Return the start of a hash of what a scenario says."""
    settled = msgspec.json.decode(msgspec.json.encode(scenario), type=Scenario)  # 16 is 16.0
    said = msgspec.json.encode(settled, order="sorted")
    return hashlib.sha256(said).hexdigest()[:DIGEST_LENGTH]


def line_of(source: Source, seed: int, commit: str) -> str:
    """Return the line that repeats a run; `commit` is "" if that is not known."""
    words = [source.reference, f"seed={seed}", f"scenario={source.digest}"]
    if source.reference.startswith(EMBEDDED) and '"path"' in source.text:
        words.append(f"in={source.directory}")
    if commit:
        words.append(f"commit={commit[:DIGEST_LENGTH]}")
    return shlex.join(words)


def parse_line(text: str) -> Line:
    """Return what a line says. Raises `ScenarioError` for one that is none."""
    try:
        reference, *rest = shlex.split(text)
        words = dict(word.split("=", 1) for word in rest)
        seed = int(words.pop("seed"))
        line = Line(
            reference=reference,
            seed=seed,
            scenario=words.pop("scenario", ""),
            commit=words.pop("commit", ""),
            directory=words.pop("in", None),
        )
    except (ValueError, KeyError) as error:
        raise ScenarioError("line", f"{text!r} {NO_LINE}") from error
    if words:
        raise ScenarioError("line", f"{text!r} {NO_LINE}")
    return line


def _open_embedded(reference: str, directory: str) -> Source:
    try:
        packed = base64.urlsafe_b64decode(reference.removeprefix(EMBEDDED))
        unpacking = zlib.decompressobj()
        data = unpacking.decompress(packed, EMBEDDED_MAX_BYTES)
        if not unpacking.eof:
            raise ScenarioError(EMBEDDED, f"cut off, or longer than {EMBEDDED_MAX_BYTES} bytes")
        scenario = msgspec.json.decode(data, type=Scenario)
        check(scenario, directory)
    except (ValueError, zlib.error, msgspec.MsgspecError) as error:
        raise ScenarioError(EMBEDDED, f"not a scenario ({error}); copy the whole line") from error
    return embed(scenario, directory)
