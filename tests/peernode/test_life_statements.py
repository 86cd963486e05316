"""What a node signs of its lives, and which of them its peers go on keeping."""

from pathlib import Path

import pytest
from hypothesis import given, strategies

from peernode import life_statements
from peernode.heard_lives import HeardLives
from peernode.life_statements import HEADS_MAX, LIFE_SIZE_MAX_BYTES, PAST_MAX, Before, Life
from storage.errors import InvalidData
from storage.signing import Keypair
from storage.store import Table
from tests.peernode.nodes import Disk

GOLDEN = Path(__file__).parent / "golden" / "life.hex"
KEY = Keypair.from_seed(b"k" * 32)
MESH = b"m" * 32


def nonce(n: int) -> bytes:
    return n.to_bytes(16, "big")


def life(boot: int, n: int, at_ms: int = 1000, past: tuple[Before, ...] = ()) -> Life:
    return Life(1, boot, nonce(n), at_ms, past)


def test_a_life_is_laid_out_as_it_always_was() -> None:
    past = ((1, nonce(5), 1_700_000_000_000),)
    signed = life_statements.sign(KEY, MESH, life(3, 7, 1_800_000_000_000, past))
    assert signed.hex() == GOLDEN.read_text("ascii").strip()
    assert life_statements.verify(signed, MESH, KEY.public_key).boot == 3


def test_the_longest_life_fits() -> None:
    past = tuple(((1 << 31) - 1, b"\xff" * 16, (1 << 47) - 1) for _ in range(PAST_MAX))
    longest = Life(1, (1 << 31) - 1, b"\xff" * 16, (1 << 47) - 1, past)
    assert len(life_statements.sign(KEY, MESH, longest)) <= LIFE_SIZE_MAX_BYTES


@given(strategies.data())
def test_what_is_not_signed_by_that_key_in_that_mesh_is_nothing(
    data: strategies.DataObject,
) -> None:
    signed = life_statements.sign(KEY, MESH, life(3, 7))
    # What is remembered of a good one speaks for nothing else.
    assert life_statements.verify(signed, MESH, KEY.public_key) == life(3, 7)
    at = data.draw(strategies.integers(0, len(signed) - 1))
    bit = data.draw(strategies.integers(0, 7))
    damaged = signed[:at] + bytes([signed[at] ^ 1 << bit]) + signed[at + 1 :]
    other = Keypair.from_seed(b"o" * 32)
    for lie, mesh, key in (
        (damaged, MESH, KEY.public_key),
        (signed, b"x" * 32, KEY.public_key),
        (signed, MESH, other.public_key),
        (life_statements.sign(other, MESH, life(3, 7)), MESH, KEY.public_key),
        (b"", MESH, KEY.public_key),
        (b"\xff" * 1000, MESH, KEY.public_key),
    ):
        with pytest.raises(InvalidData):
            life_statements.verify(lie, mesh, key)


def test_a_node_that_goes_on_from_its_own_disk_has_one_head() -> None:
    heads: list[Life] = []
    past: tuple[Before, ...] = ()
    for boot in range(1, 20):
        for at_ms in (boot * 10, boot * 10 + 5):
            heads = life_statements.merge(heads, life(boot, boot, at_ms, past))
            assert heads == [life(boot, boot, at_ms, past)]
        past = life_statements.last_of((*past, (boot, nonce(boot), boot * 10 + 5)))


def test_a_peer_that_slept_through_many_starts_keeps_the_last_one() -> None:
    past = tuple((boot, nonce(boot), 1500) for boot in range(40, 40 + PAST_MAX))
    assert life_statements.merge([life(3, 3)], life(50, 50, 2000, past)) == [
        life(50, 50, 2000, past)
    ]


def test_a_copy_makes_two_heads_until_one_knows_of_the_other() -> None:
    before = ((1, nonce(1), 500),)
    one, other = life(2, 20, 1000, before), life(2, 21, 1010, before)
    heads = life_statements.merge(life_statements.merge([], one), other)
    assert heads == [one, other]
    after = life(3, 30, 1020, (*before, (2, nonce(20), 1000), (2, nonce(21), 1010)))
    assert life_statements.merge(heads, after) == [after]
    # An old word of one of them changes nothing; a later one is more than the node knew of.
    assert life_statements.merge([after], one) == [after]
    again = life(2, 20, 5000, before)
    assert life_statements.merge([after], again) == [after, again]


def test_a_copy_of_a_directory_in_use_does_not_cover_what_was_done_after_it() -> None:
    used, copied = life(1, 10, 2000), life(2, 20, 3000, ((1, nonce(10), 1000),))
    assert life_statements.merge([used], copied) == [used, copied]
    assert life_statements.merge([life(1, 10, 1000)], copied) == [copied]


def test_an_old_word_of_a_life_changes_nothing() -> None:
    late = life(2, 20, 2000)
    assert life_statements.merge([late], life(2, 20, 1000)) == [late]


def test_heads_are_few() -> None:
    heads: list[Life] = []
    for n in range(HEADS_MAX + 3):
        heads = life_statements.merge(heads, life(2, n, 1000 + n))
    assert [head.at_ms for head in heads] == [1003, 1004, 1005, 1006]


def test_what_was_heard_survives_a_restart_and_another_mesh_does_not() -> None:
    disk = Disk()
    heard = HeardLives(disk, MESH)
    assert heard.find(KEY.public_key) == ()
    signed = [life_statements.sign(KEY, MESH, life(2, n, 1000 + n)) for n in (20, 21)]
    for each in signed:
        heard.hear(KEY.public_key, each)
    assert heard.find(KEY.public_key) == tuple(signed)
    assert HeardLives(disk.copy(), MESH).find(KEY.public_key) == tuple(signed)
    assert HeardLives(disk.copy(), b"x" * 32).find(KEY.public_key) == ()
    with pytest.raises(InvalidData):
        heard.hear(b"o" * 32, signed[0])
    assert len(disk.scan(Table.META, b"lives:")) == 1
