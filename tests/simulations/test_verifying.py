"""Verification finds what depends on more than the seed, and shows where it begins."""

from pathlib import Path

import pytest
from hypothesis import given, settings, strategies as st

from simulations import references, verifying
from simulations.simulate import Options
from tests.simulations import small, stand_ins


def verify(name: str, *hash_seeds: str) -> verifying.Verification:
    source = references.embed(small.scenario(), ".")
    return verifying.verify(source, 1, hash_seeds, simulator=small.stand_in(name))


@pytest.mark.slow
def test_a_run_that_depends_on_nothing_else_is_the_same_in_all_processes() -> None:
    found = verify("steady", "0", "1")
    assert found.same
    alone = stand_ins.steady(small.scenario(), 1, Options())
    assert [outcome.trace_hash for outcome in found.outcomes] == [alone.trace_hash] * 2


@pytest.mark.slow
def test_the_first_event_that_differs_is_shown_with_those_before_it() -> None:
    found = verify("leaking", "0", "1", "2", "3")
    assert len(found.outcomes) == 2, "nothing more is run once two differ"
    assert found.difference is not None
    assert found.difference.hash_seeds == ("0", "1")
    assert found.difference.number == 2
    assert '"node":"n0"' in found.difference.before[0]
    assert found.difference.one != found.difference.other


@pytest.mark.slow
def test_metrics_that_differ_are_found_where_events_do_not() -> None:
    found = verify("leaking_metrics", "0", "1")
    assert found.difference is not None
    assert found.difference.number is None


lines = st.lists(st.sampled_from(["a", "b", "c"]), max_size=20)


@settings(deadline=None)
@given(lines, lines)
def test_two_files_part_where_they_part(one: list[str], other: list[str]) -> None:
    import tempfile

    with tempfile.TemporaryDirectory() as directory:
        paths = [Path(directory) / "one", Path(directory) / "other"]
        for path, content in zip(paths, (one, other), strict=True):
            path.write_text("".join(f"{line}\n" for line in content))
        found = verifying.first_difference(*paths)
    if one == other:
        assert found is None
        return
    assert found is not None
    number, before, left, right = found
    same = number - 1
    assert one[:same] == other[:same]
    assert list(before) == one[:same][-verifying.CONTEXT :]
    assert ([left] if left else []) == one[same : same + 1]
    assert ([right] if right else []) == other[same : same + 1]
    assert left != right
