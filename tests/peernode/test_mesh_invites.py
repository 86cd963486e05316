"""Mesh invites: one line of text that lets one node in, and says nothing over the network."""

from pathlib import Path

import msgspec
import pytest
from hypothesis import given, strategies

from peernode import mesh_invites
from storage.errors import InvalidData
from storage.signing import Keypair
from tests.peernode.nodes import START_MS, SeededEntropy, WallClock

GOLDEN = Path(__file__).parent / "golden" / "mesh_invite.txt"
OPERATOR = "pno1." + "0" * 48
MESH = b"m" * 32
INVITER, JOINER, THIEF = (Keypair.from_seed(seed * 32).public_key for seed in (b"i", b"j", b"t"))
ADDRESSES = ("/ip4/192.0.2.7/tcp/4001", "/dns4/node.example/tcp/4001")


def invite(seed: str = "", ttl_s: float = 60) -> mesh_invites.Invite:
    return mesh_invites.make(
        OPERATOR, MESH, INVITER, ADDRESSES, SeededEntropy(seed), WallClock(), ttl_s
    )


def test_the_text_is_what_it_was_in_the_first_version() -> None:
    assert mesh_invites.write(invite()) == GOLDEN.read_text("ascii").strip()


def test_an_invite_comes_out_of_its_text_as_it_went_in() -> None:
    made = invite()
    text = mesh_invites.write(made)
    assert mesh_invites.read(f"  {text}\n") == made
    assert text.isascii()
    assert not any(letter.isspace() for letter in text)
    assert made.expires_ms == START_MS + 60_000


def test_the_longest_invite_fits() -> None:
    longest = f"/dns4/{'a' * 112}/tcp/65535"
    assert len(longest) <= mesh_invites.ADDRESS_LENGTH_MAX
    full = msgspec.structs.replace(invite(), addresses=(longest,) * mesh_invites.ADDRESSES_MAX)
    text = mesh_invites.write(full)
    assert mesh_invites.read(text) == full


def test_the_inviter_knows_its_own_again_and_nobody_elses() -> None:
    made = invite()
    assert mesh_invites.secret_of(OPERATOR, made.name, made.expires_ms) == made.secret
    later = [mesh_invites.secret_of(OPERATOR, made.name, made.expires_ms, n) for n in (0, 1, 2)]
    assert later[0] == made.secret
    assert len(dict.fromkeys(later)) == 3
    assert mesh_invites.secret_of("pno1.other", made.name, made.expires_ms) != made.secret
    assert mesh_invites.secret_of(OPERATOR, made.name, made.expires_ms + 1) != made.secret
    assert invite("1").secret != invite("2").secret


def test_a_proof_is_bound_to_the_mesh_and_to_both_keys() -> None:
    secret = invite().secret
    proof = mesh_invites.proof(secret, MESH, INVITER, JOINER)
    assert len(proof) == mesh_invites.PROOF_SIZE_BYTES
    others = (
        mesh_invites.proof(secret, MESH, INVITER, THIEF),
        mesh_invites.proof(secret, MESH, THIEF, JOINER),
        mesh_invites.proof(secret, b"n" * 32, INVITER, JOINER),
        mesh_invites.proof(bytes(16), MESH, INVITER, JOINER),
    )
    assert proof not in others
    assert secret not in proof


def test_no_part_of_the_secret_is_in_its_representation() -> None:
    made = invite()
    assert made.secret.hex() not in repr(made)
    assert repr(made.secret)[2:-1] not in repr(made)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "not an invite"),
        ("hello", "not an invite"),
        ("pni1.AAAA", "for a user"),
        ("pnm1.", "not copied whole"),
        ("pnm1.****", "not copied whole"),
        ("pnm1.AAAAAAAA", "not copied whole"),
        ("pnm1." + "A" * 5000, "not an invite"),
    ],
)
def test_what_is_no_invite_says_so(text: str, says: str) -> None:
    with pytest.raises(InvalidData, match=says):
        mesh_invites.read(text)


@given(strategies.data())
def test_no_letter_can_be_lost_or_changed_unnoticed(data: strategies.DataObject) -> None:
    text = mesh_invites.write(invite())
    place = data.draw(strategies.integers(0, len(text) - 1))
    letter = data.draw(strategies.sampled_from("ABCabc019-_ .é"))
    changed = text[:place] + letter + text[place + 1 :]
    for wrong in (text[:place], text[:place] + text[place + 1 :], changed):
        try:
            found = mesh_invites.read(wrong)
        except InvalidData:
            continue
        # Base64's last letter has bits that mean nothing.
        assert found == invite()


@pytest.mark.parametrize(
    "address",
    ["", "192.0.2.7:4001", "/ip4/192.0.2.7/udp/4001/quic-v1", "/ip4/192.0.2.7/tcp/4001/p2p/x",
     "/ip4/1 2/tcp/1", "/unix/tmp/socket", "/ip4/192.0.2.7/tcp/400111", "/ip4//tcp/1"],
)  # fmt: skip
def test_only_addresses_of_tcp_are_taken(address: str) -> None:
    text = mesh_invites.write(msgspec.structs.replace(invite(), addresses=(address,)))
    with pytest.raises(InvalidData):
        mesh_invites.read(text)


@given(strategies.binary(max_size=400))
def test_any_bytes_under_a_right_checksum_are_refused_in_one_way(body: bytes) -> None:
    import base64
    import hashlib

    data = hashlib.sha256(body).digest()[:4] + body
    text = mesh_invites.PREFIX + base64.urlsafe_b64encode(data).decode().rstrip("=")
    with pytest.raises(InvalidData):
        mesh_invites.read(text)
