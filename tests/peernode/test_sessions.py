"""A token speaks for its user at its nodes, for its time, and for nobody else anywhere."""

import base64
import hashlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings, strategies as st

from peernode import sessions
from peernode.permissions import EVERYTHING, SCOPES, Actor
from peernode.problems import Problem
from peernode.sessions import Session, Sessions, issue
from storage import certificates, facts, ids, signing
from storage.authority import Authority
from storage.certificates import Terms
from storage.clock import SystemEntropy
from storage.facts import UserKey
from storage.memory_store import MemoryStore
from storage.signing import Keypair
from storage.store import Batch, Table
from storage.users import UserChain

MESH = b"m" * 32
NODE, OTHER_NODE = (Keypair.from_seed(bytes([number]) * 32) for number in (1, 2))
ADA, ADA_NEXT, EVE = (Keypair.from_seed(bytes([number]) * 32) for number in (11, 12, 13))
USER = ids.pack(ids.EPOCH_MS + 1000, 1, 7)
OTHER_USER = ids.pack(ids.EPOCH_MS + 1000, 1, 8)
NOW_MS = ids.EPOCH_MS + 1_000_000_000
DAY_MS = 24 * 3600 * 1000
OPERATOR_TOKEN = "pno1.0123456789abcdef"
GOLDEN = Path(__file__).parent / "golden" / "token_1.txt"


@dataclass
class SetClock:
    now_ms: int = NOW_MS

    def wall_ms(self) -> int:
        return self.now_ms


class ZeroEntropy:
    def token_bytes(self, size_bytes: int) -> bytes:
        return bytes(size_bytes)


def chain(*keypairs: Keypair, strict: bool = False) -> UserChain:
    return UserChain(
        tuple(
            UserKey(
                user=USER,
                epoch=epoch,
                name="ada",
                public_key=keypair.public_key,
                next_key_hash=bytes(32),
                home=facts.FOUNDER_NUMBER,
                strict=strict and epoch > 0,
                signed_at=0,
            )
            for epoch, keypair in enumerate(keypairs)
        )
    )


@dataclass
class Known:
    """Users, as a table; counts how often it is asked."""

    chains: dict[int, UserChain] = field(default_factory=lambda: {USER: chain(ADA)})
    asked: int = 0

    def user(self, user: int) -> UserChain | None:
        self.asked += 1
        return self.chains.get(user)


class World:
    def __init__(self, remembered_max: int = 4) -> None:
        self.clock, self.users, self.store = SetClock(), Known(), MemoryStore()
        self.remembered_max = remembered_max
        self.sessions = self.start()

    def start(self, node: Keypair = NODE) -> Sessions:
        return Sessions(
            self.users,
            self.store,
            self.clock,
            mesh=MESH,
            node_key=node.public_key,
            operator_token=OPERATOR_TOKEN,
            remembered_max=self.remembered_max,
        )

    def token(
        self, keypair: Keypair = ADA, *, user: int = USER, epoch: int = 0, **rest: Any
    ) -> str:
        arguments = {"audience": [NODE.public_key], "entropy": SystemEntropy()} | rest
        return issue(
            user, epoch, keypair, arguments.pop("audience"), mesh=MESH, clock=self.clock,
            **arguments,
        )[0]  # fmt: skip

    def refusal(self, token: str) -> Problem:
        return self.refusal_of(bearer(token))

    def refusal_of(self, header: bytes) -> Problem:
        with pytest.raises(Problem) as caught:
            self.sessions.authenticate(header)
        self.sessions.check()
        refused = caught.value
        for part in header.split(b".")[1:]:
            # Shorter ones stand in the words of a message by chance.
            assert len(part) < 12 or part not in refused.body()
        assert refused.status == 401
        assert refused.hint
        assert dict(refused.headers)["WWW-Authenticate"].startswith("Bearer")
        return refused


def bearer(token: str) -> bytes:
    return b"Bearer " + token.encode("utf-8")


def parts(token: str) -> tuple[bytes, bytes]:
    """Return a token's certificate and secret, by other code than the module's."""
    _, certificate, secret = token.split(".")
    return base64.urlsafe_b64decode(certificate + "=="), base64.urlsafe_b64decode(secret + "==")


def joined(certificate: bytes, secret: bytes) -> str:
    texts = (base64.urlsafe_b64encode(part).decode().rstrip("=") for part in (certificate, secret))
    return ".".join(["pn1", *texts])


def test_without_a_header_a_caller_is_anonymous():
    assert World().sessions.authenticate(None) == Actor(kind="anonymous")


def test_a_token_speaks_for_its_user_with_its_scopes_and_certificate():
    world = World()
    token = world.token(scopes=["function:call", "job"])
    actor = world.sessions.authenticate(bearer(token))
    assert actor == Actor(
        kind="user", user=USER, scopes=("function:call", "job"), certificate=parts(token)[0]
    )
    everything = world.sessions.authenticate(bearer(world.token()))
    assert everything.scopes == EVERYTHING


def test_the_certificate_names_what_was_asked_for_and_hides_the_secret():
    world = World()
    token, expires_ms = issue(
        USER, 3, ADA, [NODE.public_key, OTHER_NODE.public_key, NODE.public_key],
        mesh=MESH, clock=world.clock, entropy=SystemEntropy(), ttl_s=60,
    )  # fmt: skip
    encoded, secret = parts(token)
    terms = certificates.decode_certificate(encoded).terms
    assert (terms.user, terms.epoch) == (USER, 3)
    assert terms.audience == (NODE.public_key, OTHER_NODE.public_key)
    assert terms.expires_ms == expires_ms == NOW_MS + 60_000
    assert terms.secret_hash == hashlib.sha256(secret).digest()
    assert secret not in encoded
    assert len(secret) == 32


def test_two_tokens_have_different_secrets_and_names():
    world = World()
    (first, first_secret), (second, second_secret) = (parts(world.token()) for _ in range(2))
    assert first_secret != second_secret
    jtis = [certificates.decode_certificate(encoded).terms.jti for encoded in (first, second)]
    assert jtis[0] != jtis[1]


def test_the_text_of_a_token_does_not_change():
    token = World().token(entropy=ZeroEntropy())
    assert token == GOLDEN.read_text().strip()
    assert World().sessions.authenticate(bearer(GOLDEN.read_text().strip())).user == USER


@pytest.mark.parametrize("scheme", ["Bearer ", "bearer ", "BEARER   "])
def test_the_scheme_is_read_as_http_says(scheme):
    world = World()
    header = (scheme + world.token()).encode()
    assert world.sessions.authenticate(header).user == USER


def test_a_token_for_other_nodes_is_refused_with_what_to_do():
    world = World()
    refused = world.refusal(world.token(audience=[OTHER_NODE.public_key]))
    assert refused.code == "token_wrong_node"
    assert "log in at this node" in refused.hint


def test_each_node_of_an_audience_takes_the_token():
    world = World()
    token = world.token(audience=[OTHER_NODE.public_key, NODE.public_key])
    for node in (NODE, OTHER_NODE):
        assert world.start(node).authenticate(bearer(token)).user == USER


def test_a_token_ends_to_the_millisecond_whether_remembered_or_not():
    world = World()
    token = world.token(ttl_s=60)
    world.clock.now_ms = NOW_MS + 60_000
    assert world.sessions.authenticate(bearer(token)).user == USER
    world.clock.now_ms += 1
    assert world.refusal(token).code == "token_expired"
    world.sessions = world.start()
    assert world.refusal(token).code == "token_expired"


def test_a_token_is_good_at_nodes_whose_clock_is_a_little_behind():
    world = World()
    token = world.token()
    world.clock.now_ms = NOW_MS - sessions.CLOCK_SKEW_MAX_MS
    assert world.sessions.authenticate(bearer(token)).user == USER
    world = World()
    world.clock.now_ms = NOW_MS - sessions.CLOCK_SKEW_MAX_MS - 1
    assert "not good yet" in world.refusal(token).detail


def test_a_token_signed_with_another_key_is_nobodys():
    world = World()
    assert world.refusal(world.token(EVE)).code == "unauthenticated"
    assert world.refusal(world.token(ADA_NEXT, epoch=1)).code == "unauthenticated"


def test_a_certificate_that_only_claims_the_users_key_is_nobodys():
    world = World()
    forged, secret = parts(world.token(EVE))
    forged = forged.replace(EVE.public_key, ADA.public_key)
    assert certificates.decode_certificate(forged).seal.public_key == ADA.public_key
    assert world.refusal(joined(forged, secret)).code == "unauthenticated"


def test_a_certificate_of_another_mesh_is_nobodys():
    world = World()
    token, _ = issue(
        USER, 0, ADA, [NODE.public_key], mesh=b"x" * 32, clock=world.clock, entropy=SystemEntropy()
    )
    assert world.refusal(token).code == "unauthenticated"


def test_a_certificate_without_its_secret_is_worth_nothing():
    world = World()
    mine, _ = parts(world.token())
    _, others_secret = parts(world.token())
    for secret in (others_secret, b"", bytes(32)):
        assert world.refusal(joined(mine, secret)).code == "unauthenticated"


def test_unknown_and_deleted_users_have_no_tokens():
    world = World()
    assert world.refusal(world.token(user=OTHER_USER)).code == "unauthenticated"
    token = world.token()
    world.sessions.authenticate(bearer(token))
    del world.users.chains[USER]
    world.sessions.invalidate(USER)
    assert world.refusal(token).code == "unauthenticated"


def test_the_keys_are_those_that_the_facts_of_the_mesh_say():
    genesis = facts.found_mesh(NODE, "mesh", NOW_MS)
    born = UserKey(
        user=USER, epoch=0, name="ada", public_key=ADA.public_key,
        next_key_hash=facts.key_hash(ADA_NEXT.public_key), home=facts.FOUNDER_NUMBER,
        strict=False, signed_at=NOW_MS << 16,
    )  # fmt: skip
    authority = Authority(genesis.id, [genesis])
    clock = SetClock()
    node = Sessions(
        authority, MemoryStore(), clock, mesh=genesis.id, node_key=NODE.public_key,
        operator_token=OPERATOR_TOKEN,
    )  # fmt: skip
    token, _ = issue(
        USER, 0, ADA, [NODE.public_key], mesh=genesis.id, clock=clock, entropy=SystemEntropy()
    )
    with pytest.raises(Problem, match="not a token"):
        node.authenticate(bearer(token))
    seal = facts.sign(born, ADA, genesis.id)
    home = facts.sign_home(born, NODE, genesis.id)
    authority.add(facts.assemble(born, seal, genesis.id, home=home))
    assert node.authenticate(bearer(token)).user == USER


def test_a_rotation_keeps_tokens_and_a_strict_one_ends_them():
    world = World()
    token = world.token()
    world.users.chains[USER] = chain(ADA, ADA_NEXT)
    assert world.sessions.authenticate(bearer(token)).user == USER
    world.users.chains[USER] = chain(ADA, ADA_NEXT, strict=True)
    world.sessions.invalidate(USER)
    assert "rotated" in world.refusal(token).detail
    new = world.token(ADA_NEXT, epoch=1)
    assert world.sessions.authenticate(bearer(new)).user == USER


@pytest.mark.parametrize(
    "header",
    [
        b"",
        b"Bearer",
        b"Bearer ",
        b"Basic YTpi",
        b"Bearer pn1",
        b"Bearer pn1.",
        b"Bearer pn1..",
        b"Bearer pn1.AAAA.AAAA",
        b"Bearer pn1.AAAA.AAAA.AAAA",
        b"Bearer pn2.AAAA.AAAA",
        b"Bearer pn1.\xff\xfe.AAAA",
        b"Bearer pn1." + b"A" * 100_000 + b".AAAA",
        b"Bearer pno1.",
        b"Bearer pno1.0123456789abcde",
        b"Bearer pno1.0123456789abcdef0",
        b"Bearer 0123456789abcdef",
    ],
)
def test_what_is_no_token_is_refused(header):
    assert World().refusal_of(header).code == "unauthenticated"


ONE_TOKEN = World().token()


@settings(max_examples=200)
@given(st.integers(0, len(ONE_TOKEN) - 1), st.characters(max_codepoint=0x2FF))
def test_a_token_with_another_character_anywhere_is_refused(at, character):
    changed = ONE_TOKEN[:at] + character + ONE_TOKEN[at + 1 :]
    if changed != ONE_TOKEN:
        assert World().refusal(changed).code in ("unauthenticated", "token_wrong_node")


@given(st.binary(max_size=300), st.binary(max_size=40))
def test_no_certificate_makes_anything_but_a_refusal(certificate, secret):
    assert World().refusal(joined(certificate, secret)).code == "unauthenticated"


def test_base64_that_says_the_same_in_another_way_is_refused():
    world = World()
    token = world.token()
    certificate, secret = parts(token)
    assert len(secret) % 3 == 2
    for other in (token + "=", token + "==", token[:-1] + chr(ord(token[-1]) + 1)):
        assert world.refusal(other).code == "unauthenticated"
    assert world.sessions.authenticate(bearer(joined(certificate, secret))).user == USER


def test_the_operators_token_is_the_operator():
    world = World()
    assert world.sessions.authenticate(bearer(OPERATOR_TOKEN)) == Actor(kind="operator")


def test_an_operators_token_that_anyone_could_guess_is_a_bug():
    with pytest.raises(ValueError, match="operator"):
        Sessions(
            Known(), MemoryStore(), SetClock(), mesh=MESH, node_key=NODE.public_key,
            operator_token="",
        )  # fmt: skip


def test_a_token_seen_before_is_not_verified_again():
    world = World()
    header = bearer(world.token())
    first = world.sessions.authenticate(header)
    asked = world.users.asked
    assert world.sessions.authenticate(bytes(bytearray(header))) is first
    assert world.users.asked == asked


def test_memory_is_bounded_and_the_oldest_token_is_verified_again():
    world = World(remembered_max=3)
    headers = [bearer(world.token()) for _ in range(5)]
    for header in headers:
        world.sessions.authenticate(header)
        world.sessions.check()
    asked = world.users.asked
    world.sessions.authenticate(headers[-1])
    assert world.users.asked == asked
    world.sessions.authenticate(headers[0])
    assert world.users.asked == asked + 1
    world.sessions.check()


def test_tokens_that_are_refused_are_not_remembered():
    world = World()
    for _ in range(10):
        world.refusal(world.token(EVE))
    good = bearer(world.token())
    world.sessions.authenticate(good)
    asked = world.users.asked
    world.sessions.authenticate(good)
    assert world.users.asked == asked


def test_invalidation_touches_one_user_alone():
    world = World()
    world.users.chains[OTHER_USER] = chain(EVE)
    mine, others = bearer(world.token()), bearer(world.token(EVE, user=OTHER_USER))
    for header in (mine, others):
        world.sessions.authenticate(header)
    world.sessions.invalidate(USER)
    world.sessions.invalidate(USER)
    world.sessions.check()
    asked = world.users.asked
    world.sessions.authenticate(others)
    assert world.users.asked == asked
    world.sessions.authenticate(mine)
    assert world.users.asked == asked + 1


def revoke(world: World, token: str) -> Terms:
    terms = world.sessions.read(token.encode()).terms
    world.store.apply(Batch(puts=[world.sessions.revocation(terms)]))
    world.sessions.revoke(terms)
    return terms


def test_a_revoked_token_is_refused_and_stays_so_after_a_restart():
    world = World()
    token, other = world.token(), world.token()
    world.sessions.authenticate(bearer(token))
    revoke(world, token)
    for _ in range(2):
        assert "revoked" in world.refusal(token).detail
        assert world.sessions.authenticate(bearer(other)).user == USER
        world.sessions = world.start()


def test_revocations_are_forgotten_a_day_after_their_token_ended():
    world = World()
    token = world.token(ttl_s=60)
    terms = revoke(world, token)
    world.clock.now_ms = terms.expires_ms + DAY_MS
    assert world.sessions.sweep() == []
    world.clock.now_ms += 1
    deletes = world.sessions.sweep()
    world.store.apply(Batch(deletes=deletes))
    assert world.store.scan(Table.META) == []
    assert world.sessions.sweep() == []
    world.clock.now_ms = NOW_MS
    assert world.sessions.authenticate(bearer(token)).user == USER


def test_a_clock_that_was_an_hour_ahead_brings_no_token_back():
    world = World()
    token = world.token(ttl_s=60)
    revoke(world, token)
    world.clock.now_ms = NOW_MS + 3_600_000
    assert world.sessions.sweep() == []
    world.clock.now_ms = NOW_MS
    assert "revoked" in world.refusal(token).detail


def test_other_rows_of_the_table_are_left_alone():
    world = World()
    world.store.apply(
        Batch(
            puts=[
                (Table.META, b"revoked:", b""),
                (Table.META, b"revoked", b"x" * 8),
                (Table.META, b"revokes:" + b"x" * 16, b"x" * 8),
            ]
        )
    )
    assert world.start().sweep() == []


def test_thousands_of_revocations_are_loaded():
    world = World()
    puts = []
    for user in (USER, OTHER_USER):
        for number in range(1001):
            jti = number.to_bytes(8, "big")
            puts.append((Table.META, b"revoked:" + ids.key(user) + jti, NOW_MS.to_bytes(8, "big")))
    world.store.apply(Batch(puts=puts))
    started = world.start()
    world.clock.now_ms = NOW_MS + DAY_MS + 1
    assert len(started.sweep()) == 2002


def test_a_user_cannot_fill_the_node_with_revocations(monkeypatch):
    monkeypatch.setattr(sessions, "REVOKED_PER_USER_MAX", 2)
    world = World()
    tokens = [world.token() for _ in range(3)]
    terms = [revoke(world, token) for token in tokens[:2]]
    world.sessions.revocation(terms[0])
    last = world.sessions.read(tokens[2].encode()).terms
    with pytest.raises(Problem) as caught:
        world.sessions.revocation(last)
    assert (caught.value.code, caught.value.limit) == ("conflict", 2)


def self_signed(world: World, **changes: Any) -> tuple[str, str]:
    """Return a certificate and secret as an SDK would make them at home."""
    secret = b"s" * 32
    terms = {
        "user": USER,
        "epoch": 0,
        "audience": (NODE.public_key,),
        "scopes": ("*",),
        "not_before_ms": NOW_MS,
        "expires_ms": NOW_MS + DAY_MS,
        "secret_hash": hashlib.sha256(secret).digest(),
        "jti": b"12345678",
    } | changes
    certificate = certificates.issue(ADA, MESH, Terms(**terms))
    return sessions.encode(certificate.encoded), sessions.encode(secret)


def test_a_certificate_signed_at_home_is_a_token():
    world = World()
    session = world.sessions.accept(*self_signed(world))
    assert isinstance(session, Session)
    assert session.expires_ms == NOW_MS + DAY_MS
    assert world.sessions.authenticate(bearer(session.token)) == session.actor
    assert session.token not in repr(session)


def test_a_certificate_signed_at_home_that_is_not_good_is_refused():
    world = World()
    certificate, secret = self_signed(world)
    with pytest.raises(Problem, match="not a token"):
        world.sessions.accept(certificate, sessions.encode(b"x" * 32))
    with pytest.raises(Problem, match="not a token"):
        world.sessions.accept(certificate + ".", secret)
    with pytest.raises(Problem, match="not a token"):
        world.sessions.accept("\ud800", secret)
    with pytest.raises(Problem, match="longer than 90 days"):
        world.sessions.accept(*self_signed(world, expires_ms=NOW_MS + 91 * DAY_MS))


def test_a_certificate_without_scopes_is_worth_nothing():
    world = World()
    session = world.sessions.accept(*self_signed(world, scopes=()))
    assert session.actor.scopes == ()


@pytest.mark.parametrize("ttl_s", [0, -1, 0.5, 90 * 24 * 3600 + 1, float("nan"), float("inf")])
def test_a_life_out_of_bounds_names_the_field(ttl_s):
    with pytest.raises(Problem) as caught:
        World().token(ttl_s=ttl_s)
    assert (caught.value.code, caught.value.field) == ("invalid_field", "ttl_s")


@pytest.mark.parametrize("ttl_s", [1, 1.5, 90 * 24 * 3600])
def test_a_life_within_bounds_is_good(ttl_s):
    world = World()
    assert world.sessions.authenticate(bearer(world.token(ttl_s=ttl_s))).user == USER


def test_an_audience_or_scopes_out_of_bounds_name_the_field():
    keys = [signing.fingerprint("test", bytes([index])) for index in range(33)]
    for field_name, rest in (
        ("audience", {"audience": []}),
        ("audience", {"audience": keys}),
        ("scopes", {"scopes": []}),
        ("scopes", {"scopes": ["planet:get"]}),
    ):
        with pytest.raises(Problem) as caught:
            World().token(**rest)
        assert (caught.value.code, caught.value.field) == ("invalid_field", field_name)


def test_the_largest_token_is_within_the_limit():
    world = World()
    keys = [signing.fingerprint("test", bytes([index])) for index in range(31)]
    scopes = sorted(SCOPES, key=len)[-32:]
    token = world.token(audience=[*keys, NODE.public_key], scopes=scopes)
    assert world.sessions.authenticate(bearer(token)).user == USER
    assert len(token) <= sessions.TOKEN_SIZE_MAX_BYTES
