"""Function versions are made ready once, and anew when their function or project changes."""

import pytest

from tests.peernode.nodes import ECHO, Lab, sign_up


async def test_a_version_is_one_object_until_something_changes(lab: Lab) -> None:
    get, function = lab.node.programs.get, int(lab.echo)
    ready = get(function, 1)
    assert ready is not None
    assert get(function, 1) is ready
    assert get(function, None) is ready
    assert (ready.program, ready.source) == (f"{function}.1", ECHO.encode())
    await lab.function("another")
    assert get(function, 1) is ready
    await lab.ada.post(f"/function/{function}", {"description": "Returns its input"})
    assert get(function, 1) is not ready


async def test_a_change_of_egress_makes_every_version_of_the_project_anew(lab: Lab) -> None:
    get, function = lab.node.programs.get, int(lab.echo)
    ready = get(function, 1)
    await lab.ada.post(f"/project/{lab.project}", {"egress": ["example.org:443"]})
    changed = get(function, 1)
    assert changed is not ready
    assert changed is not None
    assert changed.egress == ("example.org:443",)
    assert changed.message().egress == ["example.org:443"]
    other = await sign_up(lab.node, "bob")
    elsewhere = (await other.post("/project", {"name": "elsewhere"}, 201))["id"]
    await other.post(f"/project/{elsewhere}", {"egress": ["example.com"]})
    assert get(function, 1) is changed


async def test_a_new_version_leaves_the_old_one_callable(lab: Lab) -> None:
    get, function = lab.node.programs.get, int(lab.echo)
    source = "def handler(input):\n    return 2\n"
    made = await lab.ada.post(f"/function/{function}", {"source": source})
    assert made["version"] == 2
    assert get(function, None) is get(function, 2)
    assert get(function, 2).source == source.encode()  # type: ignore[union-attr]
    assert get(function, 1).source == ECHO.encode()  # type: ignore[union-attr]
    back = await lab.ada.post(f"/function/{function}/rollback", {"version": 1})
    assert (back["version"], len(back["versions"])) == (1, 2)
    assert get(function, None) is get(function, 1)


async def test_there_is_no_version_of_what_is_not_there(lab: Lab) -> None:
    get = lab.node.programs.get
    assert get(int(lab.echo), 2) is None
    assert get(1 << 40, 1) is None
    await lab.ada.delete(f"/function/{lab.echo}")
    assert get(int(lab.echo), 1) is None


async def test_large_sources_are_read_from_their_content(lab: Lab) -> None:
    source = ECHO + "#" * (64 * 1024)
    function = await lab.function("large", source=source)
    found = lab.node.programs.get(int(function), 1)
    assert found is not None
    assert found.source == source.encode()


async def test_the_cache_is_bounded(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("peernode.programs.VERSIONS_MAX", 4)
    functions = [int(await lab.function(f"f{number}")) for number in range(6)]
    for function in functions:
        assert lab.node.programs.get(function, 1) is not None
    assert len(lab.node.programs._ready) <= 4
    assert lab.node.programs.get(functions[0], None) is not None
