"""The list of what is shipped says of each scenario about how long it takes."""

from simulations import gallery


def test_it_is_known_of_every_scenario_how_long_it_takes() -> None:
    unknown = [entry.name for entry in gallery.entries() if not entry.took_s]
    assert not unknown, "`peernode sim list --measure` measures them"
