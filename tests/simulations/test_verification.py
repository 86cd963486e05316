"""What is remembered is what would be worked out: exact, bounded, audited."""

import pytest

from gossip import wire, wire_encode
from gossip.errors import RemoteProtocolError
from simulations import verification
from simulations.verification import AUDIT_EACH, AuditError, Memory, Verification
from storage.signing import Keypair

KEYPAIR = Keypair.from_seed(bytes(32))
SIGNED = b"libp2p-pubsub:something"
SIGNATURE = KEYPAIR.sign_bytes(SIGNED)


def counted(monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    """Return a list that grows with each signature that is verified for real."""
    asked: list[bytes] = []
    real = verification.is_signed

    def verify(public_key: bytes, signature: bytes, message: bytes) -> bool:
        asked.append(message)
        return real(public_key, signature, message)

    monkeypatch.setattr(verification, "is_signed", verify)
    return asked


def test_a_signature_is_verified_for_real_and_then_remembered(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked = counted(monkeypatch)
    cache = Verification()
    for _ in range(10):
        assert cache.verify(KEYPAIR.public_key, SIGNATURE, SIGNED)
    assert asked == [SIGNED]


@pytest.mark.parametrize("part", [0, 1, 2])
def test_one_bit_more_or_less_is_another_question(part: int) -> None:
    cache = Verification()
    good = [KEYPAIR.public_key, SIGNATURE, SIGNED]
    assert cache.verify(*good)
    for bit in (0, 100, 8 * len(good[part]) - 1):
        bad = list(good)
        changed = bytearray(good[part])
        changed[bit // 8] ^= 1 << bit % 8
        bad[part] = bytes(changed)
        assert not cache.verify(*bad)
    assert cache.verify(*good)


def test_no_is_remembered_like_yes(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = counted(monkeypatch)
    cache = Verification()
    for _ in range(5):
        assert not cache.verify(KEYPAIR.public_key, bytes(64), SIGNED)
    assert len(asked) == 1


def test_it_works_everything_out_if_it_is_not_to_remember(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = counted(monkeypatch)
    cache = Verification(remembering=False)
    for _ in range(5):
        assert cache.verify(KEYPAIR.public_key, SIGNATURE, SIGNED)
    assert len(asked) == 5


def test_one_in_a_thousand_is_worked_out_again(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = counted(monkeypatch)
    cache = Verification()
    for _ in range(3 * AUDIT_EACH + 1):
        cache.verify(KEYPAIR.public_key, SIGNATURE, SIGNED)
    assert cache.signatures.audits == 3
    assert len(asked) == 4


def test_a_wrong_answer_is_found_out() -> None:
    cache = Verification()
    cache.signatures.put((KEYPAIR.public_key, bytes(64), SIGNED), True)
    for _ in range(AUDIT_EACH - 1):
        assert cache.verify(KEYPAIR.public_key, bytes(64), SIGNED)
    with pytest.raises(AuditError):
        cache.verify(KEYPAIR.public_key, bytes(64), SIGNED)


def test_memory_is_bounded_and_forgets_the_oldest() -> None:
    worked: list[int] = []
    memory: Memory[int, int] = Memory(lambda key: worked.append(key) or key, remembered_max=10)
    for number in range(100):
        assert memory.recall(number) == number
        assert len(memory) <= 10
    assert memory.recall(99) == 99
    assert worked == list(range(100))
    assert memory.recall(0) == 0
    assert worked[-1] == 0


def test_what_is_in_use_is_not_forgotten() -> None:
    worked: list[int] = []
    memory: Memory[int, int] = Memory(lambda key: worked.append(key) or key, remembered_max=10)
    for number in range(100):
        memory.recall(-1)
        memory.recall(number)
    assert worked.count(-1) == 1


def rpc(data: bytes) -> bytes:
    unsigned = wire_encode.message(wire.PEER_ID_PREFIX + KEYPAIR.public_key, 1, "t", data)
    return wire_encode.publish(unsigned, KEYPAIR.sign_bytes(wire.SIGNED_PREFIX + unsigned))


def test_a_frame_is_read_once_and_says_the_same_to_all() -> None:
    cache = Verification()
    frame = rpc(b"data")
    first, again = cache.read(frame), cache.read(bytes(bytearray(frame)))
    assert again is first
    message, seal = first.publish[0].message("t")
    assert again.publish[0].message("t") == (message, seal)
    assert cache.verify(seal.public_key, seal.signature, seal.signed)
    for _ in range(AUDIT_EACH):
        cache.read(frame)
    assert cache.frames.audits == 1


def test_a_frame_that_is_none_is_none_each_time() -> None:
    cache = Verification()
    for _ in range(3):
        with pytest.raises(RemoteProtocolError):
            cache.read(b"\xff" * 20)
    assert len(cache.frames) == 0


def test_a_draft_that_is_no_message_is_found_so_by_everybody_and_by_the_audit() -> None:
    cache = Verification()
    frame = wire_encode.field(2, b"\xff")
    for _ in range(2 * AUDIT_EACH):
        with pytest.raises(RemoteProtocolError):
            _ = cache.read(frame).publish[0].topic
    assert cache.frames.audits == 1
