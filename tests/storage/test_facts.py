from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings, strategies as st

from storage import codec, facts
from storage.authority import Authority
from storage.certificates import Envelope
from storage.errors import CodecError, InvalidData, RecordError, SignatureError
from storage.facts import FACT_SIZE_MAX_BYTES, Fact, Role
from tests.storage import builders as b

GOLDEN = Path(__file__).parent / "golden"


def every_kind() -> dict[str, Fact]:
    audience = b.certificate(b.OWNER)
    home = b.node_keys(b.HOME)
    return {
        "fact-genesis": b.GENESIS,
        "fact-node-grant": b.node_grant(),
        "fact-node-grant-block": b.node_grant(block=(3, 100), users_max=7),
        "fact-node-revoke": b.node_revoke(distrust=True),
        "fact-user-key": b.user_key(),
        "fact-user-key-next": b.user_key(epoch=1, strict=True),
        "fact-project-owner": b.project_owner(),
        "fact-member": b.member(),
        "fact-member-delegated": b.member(signer=home, certificate=audience),
        "fact-member-revoke": b.member_revoke(),
        "fact-member-revoke-delegated": b.member_revoke(signer=home, certificate=audience),
    }


@pytest.mark.parametrize("name", sorted(every_kind()))
def test_golden_facts_are_still_made_and_read_byte_for_byte(name: str) -> None:
    golden = bytes.fromhex((GOLDEN / f"{name}.hex").read_text())
    made = every_kind()[name]
    assert made.encoded == golden
    assert facts.decode_fact(golden, b.MESH) == made


def test_a_mesh_is_named_by_its_genesis() -> None:
    assert facts.decode_genesis(b.GENESIS.encoded) == b.GENESIS
    assert b.GENESIS.signed_at == (b.NOW_MS - 10_000) << 16
    assert b.node_grant().signed_at == b.stamp(0)
    other = facts.found_mesh(b.node_keys(1), "another", b.NOW_MS)
    assert other.id != b.MESH
    with pytest.raises(RecordError, match="another mesh"):
        facts.decode_fact(other.encoded, b.MESH)


def test_the_same_bytes_are_one_fact_in_their_mesh_and_one_bit_makes_another() -> None:
    data = b.node_grant().encoded
    fact = facts.decode_fact(data, b.MESH)
    assert facts.decode_fact(bytes(bytearray(data)), b.MESH) is fact
    for at in range(0, len(data), 7):
        damaged = data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]
        with pytest.raises(InvalidData):
            facts.decode_fact(damaged, b.MESH)


def test_a_fact_is_no_genesis_and_a_fact_of_another_mesh_is_none_here() -> None:
    with pytest.raises(InvalidData):
        facts.decode_genesis(b.node_grant().encoded)
    with pytest.raises(SignatureError):
        facts.decode_fact(b.node_grant().encoded, bytes(32))
    in_no_mesh = b.node_grant().statement
    data = facts._encode(in_no_mesh, facts.sign(in_no_mesh, b.node_keys(1), facts.NO_MESH))
    with pytest.raises(RecordError, match="not a genesis"):
        facts.decode_genesis(data)


def test_roles_are_ordered() -> None:
    order = [Role.VIEWER, Role.INVOKER, Role.DEVELOPER, Role.ADMIN, Role.OWNER]
    assert sorted(Role) == order


@pytest.mark.parametrize(
    ("make", "fields", "reason"),
    [
        (b.node_grant, {"number": 1, "by": 1}, "lower number"),
        (b.node_grant, {"number": 3, "by": 4}, "lower number"),
        (b.node_grant, {"number": 0}, "shape"),
        (b.node_grant, {"number": 1 << 14}, "shape"),
        (b.node_grant, {"not_before_ms": 9, "expires_ms": 8}, "before it begins"),
        (b.node_grant, {"block": (2, 9)}, "above"),
        (b.node_grant, {"block": (5, 5)}, "above"),
        (b.node_grant, {"block": (5, (1 << 14) + 1)}, "above"),
        (b.node_grant, {"public_key": b""}, "shape"),
        (b.node_grant, {"roles": ("x\n",)}, "shape"),
        (b.node_revoke, {"number": 2, "by": 2}, "lower number"),
        (b.user_key, {"signer": b.keys("other")}, "for itself"),
        (b.user_key, {"home": b.OTHER}, "node in the id"),
        (b.user_key, {"user": 5}, "shape"),
        (b.user_key, {"name": ""}, "shape"),
        (b.member, {"role": Role.OWNER}, "nobody"),
        (b.member, {"role": 6}, "shape"),
        (b.member, {"grant_n": 0}, "shape"),
        (b.member, {"certificate": b.certificate(b.ADMIN)}, "another user"),
        (b.member, {"certificate": b.certificate(b.OWNER), "by_epoch": 1}, "another user or epoch"),
        (b.member, {"certificate": b.certificate(b.OWNER)}, "audience"),
        (b.member_revoke, {"certificate": b.certificate(b.OWNER)}, "audience"),
    ],
)
def test_facts_that_contradict_themselves_cannot_be_made(
    make: Any, fields: Any, reason: str
) -> None:
    with pytest.raises(RecordError, match=reason):
        make(**fields)


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"expires_ms": b.NOW_MS + 3}, "certificate's time"),
        ({"not_before_ms": b.NOW_MS + 5}, "certificate's time"),
        ({"scopes": ("project:get", "function")}, "scopes"),
    ],
)
def test_a_certificate_must_cover_the_grant(fields: Any, reason: str) -> None:
    certificate = b.certificate(b.OWNER, **fields)
    with pytest.raises(RecordError, match=reason):
        b.member(signer=b.node_keys(b.HOME), certificate=certificate)


def test_a_genesis_is_signed_by_the_founder() -> None:
    statement = b.GENESIS.statement
    seal = facts.sign(statement, b.keys("other"), facts.NO_MESH)
    with pytest.raises(RecordError, match="founder"):
        facts.assemble(statement, seal, b.MESH)


def test_seals_and_certificates_stand_only_where_they_belong() -> None:
    new = b.user_key()
    with pytest.raises(RecordError, match="home node's seal"):
        facts.assemble(new.statement, new.seal, b.MESH)
    later = b.user_key(epoch=1)
    for fact in (later, b.member(), b.node_grant()):
        with pytest.raises(RecordError, match="home node's seal"):
            facts.assemble(fact.statement, fact.seal, b.MESH, home=new.home)
    grant = b.node_grant()
    with pytest.raises(RecordError, match="with a certificate"):
        facts.assemble(grant.statement, grant.seal, b.MESH, certificate=b.certificate())


@pytest.mark.parametrize("name", sorted(every_kind()))
def test_every_signature_in_a_fact_is_checked(name: str) -> None:
    fact = every_kind()[name]
    envelope = msgspec.convert(
        codec.decode(fact.encoded, FACT_SIZE_MAX_BYTES), Envelope, builtin_types=(bytes,)
    )
    forged = [{"seal": msgspec.structs.replace(envelope.seal, signature=bytes(64))}]
    if envelope.home is not None:
        forged.append({"home": msgspec.structs.replace(envelope.home, signature=bytes(64))})
    if envelope.certificate is not None:
        terms, (key, signature) = codec.decode(envelope.certificate, FACT_SIZE_MAX_BYTES)
        assert isinstance(signature, bytes)
        forged.append({"certificate": codec.encode([terms, [key, bytes(64)]])})  # type: ignore[dict-item]
    for changes in forged:
        data = codec.encode_struct(msgspec.structs.replace(envelope, **changes))
        with pytest.raises(SignatureError):
            facts.decode_fact(data, b.MESH)


@settings(max_examples=60)
@given(st.sampled_from(sorted(every_kind())), st.data())
def test_no_changed_byte_goes_unnoticed(name: str, data: st.DataObject) -> None:
    good = bytes.fromhex((GOLDEN / f"{name}.hex").read_text())
    at = data.draw(st.integers(0, len(good) - 1))
    byte = data.draw(st.integers(0, 255).filter(lambda value: value != good[at]))
    with pytest.raises(InvalidData):
        facts.decode_fact(good[:at] + bytes([byte]) + good[at + 1 :], b.MESH)


@given(st.binary(max_size=100))
def test_any_bytes_are_refused_politely(data: bytes) -> None:
    with pytest.raises(InvalidData):
        facts.decode_fact(data, b.MESH)


def test_a_fact_over_the_limit_is_not_decoded() -> None:
    with pytest.raises(CodecError, match="limit"):
        facts.decode_fact(bytes(FACT_SIZE_MAX_BYTES + 1), b.MESH)


def vouched(signer_name: str) -> Fact:
    """Make epoch 0 of a user whose seal is not by the user's own key."""
    statement = b.user_key().statement
    assert isinstance(statement, facts.UserKey)
    home = b.node_keys(b.HOME)
    signer = home if signer_name == "home" else b.keys(signer_name)
    return facts.assemble(
        statement,
        facts.sign(statement, signer, b.MESH),
        b.MESH,
        home=facts.sign_home(statement, home, b.MESH),
    )


def test_a_home_node_vouches_for_a_key_that_is_kept_elsewhere() -> None:
    made = vouched("home")
    authority = Authority(b.MESH, [*b.SETTING, made])
    assert authority.known(made)


def test_nobody_else_vouches_for_a_new_key() -> None:
    with pytest.raises(RecordError, match="signs for itself"):
        vouched("stranger")
