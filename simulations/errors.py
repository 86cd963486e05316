"""What a scenario can have wrong: one error, which names the place and what is allowed there."""

import difflib
from collections.abc import Iterable


class ScenarioError(Exception):
    """A scenario that cannot be run: `place: what is wrong there`.

    The place is a path in the scenario as a user writes it, `load[0].function` say, or a row of a
    file that it names.
    """

    def __init__(self, place: str, what: str) -> None:
        super().__init__(f"{place}: {what}" if place else what)
        self.place = place
        self.what = what


def unknown(what: str, name: str, there: Iterable[str]) -> str:
    """Return the sentence for a name that is none: what is near it, or what there is."""
    names = sorted(there)
    near = difflib.get_close_matches(name, names, n=5, cutoff=0.6)
    if near:
        return f"no {what} {name!r}; near it: {', '.join(near)}"
    shown = ", ".join(names[:10]) + (f" and {len(names) - 10} more" if len(names) > 10 else "")
    return f"no {what} {name!r}; there is {shown or 'none'}"
