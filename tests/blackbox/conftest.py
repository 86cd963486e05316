"""One node for all tests that only talk to it, and fresh people for each test."""

import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import httpx
import pytest

from tests.blackbox.daemon import Daemon, Person

ECHO = "def handler(input):\n    return input\n"


@dataclass(frozen=True)
class Lab:
    """A user with a project and a function that returns its input."""

    person: Person
    project: str
    echo: str

    @property
    def http(self) -> httpx.Client:
        """The user's HTTP client."""
        return self.person.http


@pytest.fixture(scope="session")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    with Daemon(tmp_path_factory.mktemp("blackbox") / "data", workers=2) as daemon:
        yield daemon


@pytest.fixture(scope="session")
def names() -> Iterator[int]:
    return itertools.count()


@pytest.fixture
def person(node: Daemon, names: Iterator[int]) -> Iterator[Callable[[], Person]]:
    """Return new users, who are logged in."""
    made: list[Person] = []

    def sign_up() -> Person:
        made.append(node.sign_up(f"user-{next(names)}"))
        return made[-1]

    yield sign_up
    for one in made:
        one.http.close()


def _lab(owner: Person) -> Lab:
    project = owner.project("lab")
    return Lab(owner, project, owner.deploy(project, "echo", ECHO))


@pytest.fixture
def lab(person: Callable[[], Person]) -> Lab:
    return _lab(person())


@pytest.fixture(scope="session")
def old_lab(node: Daemon) -> Lab:
    """One for the tests that change nothing in it."""
    return _lab(node.sign_up("old-hand"))


@pytest.fixture
def operator(node: Daemon) -> Iterator[httpx.Client]:
    with node.operator() as client:
        yield client


@pytest.fixture
def anonymous(node: Daemon) -> Iterator[httpx.Client]:
    with node.client() as client:
        yield client
