"""What the log says of a fault, and what it leaves out."""

import json

import pytest

from peernode.logs import Log


def failure() -> BaseException:
    password = "correct horse battery staple"
    try:
        raise ValueError(f"a fault, with {len(password)} characters near")
    except ValueError as error:
        return error


@pytest.mark.parametrize("watched", [False, True])
def test_a_fault_is_told_without_the_values_of_variables(
    watched: bool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.stderr.isatty", lambda: watched, raising=False)
    Log("info").failed(failure())
    said = capsys.readouterr().err
    assert "28 characters near" in said
    assert "test_logs.py" in said
    assert "correct horse" not in said
    if not watched:
        (line,) = said.splitlines()
        assert json.loads(line)["event"] == "a request failed"
