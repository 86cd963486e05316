"""Units as sentences; `test_authority_laws` has the properties."""

from typing import Any

import pytest

from storage import authority as authority_module, certificates, codec
from storage.authority import Authority, Unverifiable
from storage.errors import SignatureError
from storage.facts import Fact, Role
from storage.places import Class, Mode
from storage.records import Flag
from tests.storage import builders as b

DEAD = Flag.TOMBSTONE | Flag.TERMINAL


def given(*more: Fact, without: tuple[Fact, ...] = ()) -> Authority:
    """Return the cast's authority with some facts more or fewer."""
    return Authority(b.MESH, [fact for fact in (*b.SETTING, *more) if fact not in without])


def roles(authority: Authority) -> dict[int, Role]:
    return {user: role for user, role, _ in authority.members(b.PROJECT)}


CAST = {
    b.OWNER: Role.OWNER,
    b.ADMIN: Role.ADMIN,
    b.DEVELOPER: Role.DEVELOPER,
    b.VIEWER: Role.VIEWER,
}


def by_admin(**fields: Any) -> Any:
    return {"by": b.ADMIN, "by_grant_n": 1} | fields


# --- the set ------------------------------------------------------------------------------------


def test_a_fact_is_added_once() -> None:
    authority = Authority(b.MESH)
    assert authority.add(b.GENESIS)
    assert not authority.add(b.GENESIS)
    assert len(authority) == 1
    assert b.GENESIS.id in authority
    assert list(authority) == [b.GENESIS]
    assert b.node_grant().id not in authority


def test_nothing_is_known_before_the_genesis() -> None:
    authority = Authority(b.MESH, b.SETTING[1:])
    assert authority.nodes() == []
    assert authority.users() == []
    assert authority.node_by_key(b.node_keys(1).public_key) is None
    assert roles(authority) == {}
    assert not any(authority.known(fact) for fact in b.SETTING[1:])
    authority.add(b.GENESIS)
    assert roles(authority) == CAST
    assert all(authority.known(fact) for fact in b.SETTING)
    assert authority.users() == [b.OWNER, b.ADMIN, b.DEVELOPER, b.VIEWER, b.OUTSIDER]


def test_a_genesis_of_another_mesh_is_not_known() -> None:
    assert not Authority(bytes(32)).known(b.GENESIS)


# --- nodes --------------------------------------------------------------------------------------


def test_the_founder_is_node_1_and_may_admit_all_others() -> None:
    founder = given().node(1)
    assert founder is not None
    assert founder.is_member
    assert founder.public_key == b.node_keys(1).public_key
    assert [founder.admits(number) for number in (0, 1, 2, 16_383, 16_384)] == [
        False, False, True, True, False,
    ]  # fmt: skip


def test_a_node_says_what_it_was_granted() -> None:
    node = given(b.node_grant(5, block=(6, 9), users_max=3)).node(5)
    assert node is not None
    assert (node.number, node.by, node.block, node.users_max) == (5, 1, (6, 9), 3)
    assert node.roles == ("store", "exec")
    assert node.not_before_ms < node.expires_ms
    assert not node.is_distrusted


def test_a_node_is_found_by_its_key() -> None:
    authority = given()
    for number in (1, 2):
        node = authority.node_by_key(b.node_keys(number).public_key)
        assert node is not None
        assert node.number == number
    assert authority.node_by_key(b.node_keys(9).public_key) is None


def test_an_admitter_admits_within_its_block_only() -> None:
    admitter = b.node_grant(10, block=(11, 20))
    inside = b.node_grant(11, by=10, block=(12, 20))
    authority = given(
        admitter,
        inside,
        b.node_grant(20, by=10),
        b.node_grant(13, by=10, block=(14, 21)),
        b.node_grant(14, by=2),
        b.node_grant(15, by=10, signer=b.node_keys(2)),
        b.node_grant(16, by=9),
    )
    assert [node.number for node in authority.nodes()] == [1, 2, 10, 11]


def test_an_evicted_node_stays_known_but_is_a_member_no_more() -> None:
    authority = given(b.node_revoke())
    node = authority.node(b.HOME)
    assert node is not None
    assert not node.is_member
    assert not node.is_distrusted
    assert roles(authority) == CAST, "and what it made stays"


@pytest.mark.parametrize(
    "revoke",
    [
        b.node_revoke(11, by=3),
        b.node_revoke(11, by=10, signer=b.node_keys(3)),
        b.node_revoke(11, by=9),
        b.node_revoke(11, by=10, public_key=b.node_keys(5).public_key),
    ],
)
def test_who_may_not_admit_a_number_may_not_evict_it(revoke: Fact) -> None:
    authority = given(
        b.node_grant(3), b.node_grant(10, block=(11, 20)), b.node_grant(11, by=10), revoke
    )
    node = authority.node(11)
    assert node is not None
    assert node.is_member


def test_evicting_an_admitter_puts_out_whom_it_admitted_until_they_are_admitted_again() -> None:
    facts = [b.node_grant(10, block=(11, 20)), b.node_grant(11, by=10)]
    authority = given(*facts, b.node_revoke(10))
    node = authority.node(11)
    assert node is not None
    assert not node.is_member
    authority.add(b.node_grant(11))
    adopted = authority.node(11)
    assert adopted is not None
    assert (adopted.is_member, adopted.by) == (True, 1)


def test_an_evicted_admitter_evicts_nobody() -> None:
    authority = given(
        b.node_grant(10, block=(11, 20)),
        b.node_grant(11),
        b.node_revoke(11, by=10),
    )
    assert [node.number for node in authority.nodes() if node.is_member] == [1, 2, 10]
    authority.add(b.node_revoke(10))
    assert [node.number for node in authority.nodes() if node.is_member] == [1, 2, 11]


def test_a_renewed_grant_lasts_until_the_later_end() -> None:
    end = b.NOW_MS + 99_000_000
    authority = given(b.node_grant(expires_ms=end))
    node = authority.node(b.HOME)
    assert node is not None
    assert node.expires_ms == end


@pytest.mark.parametrize("name", ["one", "two", "three", "four", "five"])
def test_of_two_keys_for_one_number_the_admitter_nearest_to_the_founder_decides(name: str) -> None:
    other = b.keys(name).public_key
    near = b.node_grant(11, public_key=other)
    authority = given(b.node_grant(10, block=(11, 20)), b.node_grant(11, by=10), near)
    node = authority.node(11)
    assert node is not None
    assert node.public_key == other
    assert authority.node_by_key(b.node_keys(11).public_key) is None


# --- users --------------------------------------------------------------------------------------


def test_a_user_is_made_by_the_home_node_only() -> None:
    impostor = b.user_key(b.make_id(40), home_signer=b.node_keys(1))
    authority = given(impostor)
    assert authority.user(b.make_id(40)) is None
    assert not authority.known(impostor)
    assert authority.user(b.make_id(41, home=9)) is None


def test_keys_rotate_to_what_was_announced() -> None:
    authority = given(b.user_key(epoch=2), b.user_key(epoch=1))
    chain = authority.user(b.OWNER)
    assert chain is not None
    assert (chain.epoch, chain.floor, chain.current.epoch) == (2, 0, 2)
    assert [chain.public_key(epoch) for epoch in range(4)] == [
        *(b.user_keys(b.OWNER, epoch).public_key for epoch in range(3)),
        None,
    ]


def test_a_thief_of_the_key_cannot_rotate_it() -> None:
    thief = b.keys("thief")
    forged = b.user_key(epoch=1, public_key=thief.public_key, signer=thief)
    authority = given(forged)
    chain = authority.user(b.OWNER)
    assert chain is not None
    assert chain.epoch == 0
    assert not authority.known(forged)
    assert not authority.known(b.user_key(epoch=2)), "without epoch 1"
    assert not authority.known(b.user_key(b.make_id(50), epoch=1)), "without epoch 0"
    assert authority.known(b.user_key(epoch=1))


def test_the_last_strict_epoch_is_the_floor() -> None:
    authority = given(
        b.user_key(epoch=1, strict=True), b.user_key(epoch=2, strict=True), b.user_key(epoch=3)
    )
    chain = authority.user(b.OWNER)
    assert chain is not None
    assert chain.floor == 2


def test_of_two_keys_for_one_epoch_the_lower_id_counts() -> None:
    pair = [b.user_key(epoch=1, name="one"), b.user_key(epoch=1, name="two")]
    winner = min(pair, key=lambda fact: fact.id)
    for facts in (pair, pair[::-1]):
        chain = given(*facts).user(b.OWNER)
        assert chain is not None
        assert chain.current == winner.statement


# --- projects -----------------------------------------------------------------------------------


def test_the_home_node_says_whose_a_project_is() -> None:
    authority = given(b.project_owner(b.make_id(50), signer=b.node_keys(1)))
    assert authority.owner(b.PROJECT) == b.OWNER
    assert authority.role(b.PROJECT, b.OWNER) == (Role.OWNER, 0)
    assert authority.last_grant_n(b.PROJECT, b.OWNER) == 0
    assert authority.owner(b.make_id(50)) is None
    assert authority.owner(b.make_id(50, home=9)) is None
    assert authority.role(b.make_id(50), b.OWNER) is None
    assert authority.members(b.make_id(50)) == []


def test_members_and_their_projects_are_listed_in_order() -> None:
    authority = given()
    assert authority.members(b.PROJECT) == [
        (b.OWNER, Role.OWNER, 0),
        (b.ADMIN, Role.ADMIN, 1),
        (b.DEVELOPER, Role.DEVELOPER, 1),
        (b.VIEWER, Role.VIEWER, 1),
    ]
    assert authority.projects(b.DEVELOPER) == authority.projects(b.OWNER) == [b.PROJECT]
    assert authority.projects(b.OUTSIDER) == []


@pytest.mark.parametrize("role", [Role.VIEWER, Role.INVOKER, Role.DEVELOPER])
def test_an_admin_grants_the_three_lowest_roles(role: Role) -> None:
    grant = b.member(b.OUTSIDER, role, **by_admin())
    authority = given(grant)
    assert authority.known(grant)
    assert authority.role(b.PROJECT, b.OUTSIDER) == (role, 1)


@pytest.mark.parametrize(
    "grant",
    [
        b.member(b.OUTSIDER, Role.ADMIN, **by_admin()),
        b.member(b.OUTSIDER, Role.VIEWER, by=b.DEVELOPER, by_grant_n=1),
        b.member(b.OUTSIDER, Role.VIEWER, by=b.OUTSIDER),
        b.member(b.OUTSIDER, Role.VIEWER, **by_admin(by_grant_n=2)),
        b.member(b.OUTSIDER, Role.VIEWER, **by_admin(signer=b.user_keys(b.DEVELOPER))),
        b.member(b.OUTSIDER, Role.VIEWER, by_grant_n=1),
        b.member(b.OUTSIDER, Role.VIEWER, by_epoch=1),
        b.member(b.OUTSIDER, Role.VIEWER, by=b.make_id(60)),
        b.member(b.OUTSIDER, Role.VIEWER, grant_n=2),
        b.member(b.OUTSIDER, Role.VIEWER, project=b.make_id(60)),
    ],
)
def test_nobody_grants_at_or_above_the_own_level_or_in_anothers_name(grant: Fact) -> None:
    assert given(grant).role(b.PROJECT, b.OUTSIDER) is None


def test_the_owner_is_not_granted_anything() -> None:
    grant = b.member(b.OWNER, Role.VIEWER)
    authority = given(grant)
    assert not authority.known(grant)
    assert authority.role(b.PROJECT, b.OWNER) == (Role.OWNER, 0)


def test_the_last_grant_counts() -> None:
    authority = given(b.member(b.DEVELOPER, Role.VIEWER, 2))
    assert authority.role(b.PROJECT, b.DEVELOPER) == (Role.VIEWER, 2)
    authority.add(b.member(b.DEVELOPER, Role.ADMIN, 3))
    assert authority.role(b.PROJECT, b.DEVELOPER) == (Role.ADMIN, 3)


def test_a_number_after_a_gap_does_not_count_until_the_gap_is_filled() -> None:
    authority = given(b.member(b.DEVELOPER, Role.VIEWER, 3))
    assert authority.role(b.PROJECT, b.DEVELOPER) == (Role.DEVELOPER, 1)
    authority.add(b.member(b.DEVELOPER, Role.INVOKER, 2))
    assert authority.role(b.PROJECT, b.DEVELOPER) == (Role.VIEWER, 3)
    assert authority.last_grant_n(b.PROJECT, b.DEVELOPER) == 3


def test_of_two_grants_with_one_number_the_owners_counts_then_the_lesser() -> None:
    by_admins = [b.member(b.OUTSIDER, role, **by_admin()) for role in (Role.VIEWER, Role.DEVELOPER)]
    authority = given(*by_admins)
    assert authority.role(b.PROJECT, b.OUTSIDER) == (Role.VIEWER, 1)
    authority.add(b.member(b.OUTSIDER, Role.ADMIN))
    assert authority.role(b.PROJECT, b.OUTSIDER) == (Role.ADMIN, 1)
    authority.add(b.member(b.OUTSIDER, Role.INVOKER))
    assert authority.role(b.PROJECT, b.OUTSIDER) == (Role.INVOKER, 1)


def test_a_removed_member_is_out_until_granted_again() -> None:
    authority = given(b.member_revoke())
    assert authority.role(b.PROJECT, b.DEVELOPER) is None
    assert authority.last_grant_n(b.PROJECT, b.DEVELOPER) == 1
    assert authority.projects(b.DEVELOPER) == []
    authority.add(b.member(b.DEVELOPER, Role.INVOKER, 2))
    assert authority.role(b.PROJECT, b.DEVELOPER) == (Role.INVOKER, 2)


def test_a_revocation_of_a_grant_to_come_waits_for_it() -> None:
    authority = given(b.member_revoke(grant_n=2))
    assert authority.role(b.PROJECT, b.DEVELOPER) == (Role.DEVELOPER, 1)
    authority.add(b.member(grant_n=2))
    assert authority.role(b.PROJECT, b.DEVELOPER) is None


@pytest.mark.parametrize(
    ("revoke", "left"),
    [
        (b.member_revoke(b.DEVELOPER, **by_admin()), b.DEVELOPER),
        (b.member_revoke(b.DEVELOPER, by=b.DEVELOPER), b.DEVELOPER),
        (b.member_revoke(b.ADMIN, by=b.ADMIN), b.ADMIN),
        (b.member_revoke(b.ADMIN), b.ADMIN),
    ],
)
def test_members_are_removed_from_above_or_leave(revoke: Fact, left: int) -> None:
    authority = given(revoke)
    assert authority.known(revoke)
    assert roles(authority) == {user: role for user, role in CAST.items() if user != left}


@pytest.mark.parametrize(
    "revoke",
    [
        b.member_revoke(b.ADMIN, by=b.OUTSIDER, by_grant_n=1),
        b.member_revoke(b.VIEWER, by=b.DEVELOPER, by_grant_n=1),
        b.member_revoke(b.VIEWER, **by_admin(by_grant_n=2)),
        b.member_revoke(b.VIEWER, **by_admin(signer=b.user_keys(b.VIEWER))),
        b.member_revoke(b.VIEWER, by_grant_n=1),
        b.member_revoke(b.OWNER, **by_admin()),
    ],
)
def test_members_are_not_removed_by_others(revoke: Fact) -> None:
    authority = given(revoke)
    assert roles(authority) == CAST
    assert not authority.known(revoke)


def test_an_admin_does_not_remove_an_admin() -> None:
    second = b.member(b.OUTSIDER, Role.ADMIN)
    revoke = b.member_revoke(b.OUTSIDER, **by_admin())
    authority = given(second, revoke)
    assert authority.role(b.PROJECT, b.OUTSIDER) == (Role.ADMIN, 1)
    assert not authority.known(revoke)


def test_with_an_admin_go_whom_he_brought_until_granted_again() -> None:
    brought = b.member(b.OUTSIDER, Role.INVOKER, **by_admin())
    authority = given(brought)
    assert authority.role(b.PROJECT, b.OUTSIDER) == (Role.INVOKER, 1)
    authority.add(b.member_revoke(b.ADMIN))
    assert authority.role(b.PROJECT, b.OUTSIDER) is None
    assert authority.known(brought), "it was a grant once"
    authority.add(b.member(b.OUTSIDER, Role.INVOKER))
    assert authority.role(b.PROJECT, b.OUTSIDER) == (Role.INVOKER, 1)


def test_a_demoted_admins_grants_fall_too() -> None:
    authority = given(
        b.member(b.OUTSIDER, Role.INVOKER, **by_admin()), b.member(b.ADMIN, Role.DEVELOPER, 2)
    )
    assert authority.role(b.PROJECT, b.OUTSIDER) is None


def test_two_members_who_grant_each_other_have_nothing() -> None:
    other = {"by": b.OUTSIDER, "by_grant_n": 1}
    authority = given(
        b.member(b.OUTSIDER, Role.DEVELOPER, **by_admin()),
        b.member(b.ADMIN, Role.DEVELOPER, 2, **other),
        b.member_revoke(b.ADMIN),
    )
    assert authority.role(b.PROJECT, b.OUTSIDER) is None
    assert authority.role(b.PROJECT, b.ADMIN) is None


def test_a_removal_outlives_who_removed() -> None:
    authority = given(b.member_revoke(b.DEVELOPER, **by_admin()), b.member_revoke(b.ADMIN))
    assert authority.role(b.PROJECT, b.DEVELOPER) is None


def test_an_ordinary_rotation_changes_no_membership() -> None:
    authority = given(b.user_key(epoch=1), b.user_key(epoch=2), b.user_key(b.ADMIN, epoch=1))
    assert roles(authority) == CAST


def test_a_strict_epoch_disowns_grants_until_they_are_signed_anew() -> None:
    authority = given(b.member(b.OUTSIDER, Role.VIEWER, **by_admin()))
    authority.add(b.user_key(b.OWNER, epoch=1, strict=True))
    assert roles(authority) == {b.OWNER: Role.OWNER}
    authority.add(b.member(b.ADMIN, Role.ADMIN, by_epoch=1))
    assert roles(authority) == {
        b.OWNER: Role.OWNER, b.ADMIN: Role.ADMIN, b.OUTSIDER: Role.VIEWER,
    }  # fmt: skip
    authority.add(b.user_key(b.ADMIN, epoch=1, strict=True))
    assert roles(authority) == {b.OWNER: Role.OWNER, b.ADMIN: Role.ADMIN}


def test_grants_may_be_signed_by_a_delegate() -> None:
    certificate = b.certificate(b.OWNER)
    good = b.member(b.OUTSIDER, signer=b.node_keys(b.HOME), certificate=certificate)
    assert given(good).role(b.PROJECT, b.OUTSIDER) == (Role.DEVELOPER, 1)
    forged = b.certificate(b.OWNER, signer=b.keys("thief"))
    bad = b.member(b.OUTSIDER, signer=b.node_keys(b.HOME), certificate=forged)
    assert given(bad).role(b.PROJECT, b.OUTSIDER) is None


# --- records ------------------------------------------------------------------------------------

CAS = b.place(Class.KV_ENTRY, id=b.CAS_SPACE, mode=Mode.CAS)
USER_ENTRY = b.place(
    Class.KV_ENTRY, id=b.USER_SPACE, owner_class=Class.USER, owner=b.OWNER
)  # fmt: skip


@pytest.mark.parametrize(
    "record",
    [
        *(b.record(b.place(class_)) for class_ in Class),
        b.record(with_certificate=True),
        b.record(flags=DEAD),
        b.record(author=b.OWNER, grant_n=0),
        b.record(b.place(Class.PROJECT), author=b.ADMIN, grant_n=1),
        b.record(USER_ENTRY),
        b.record(b.place(Class.KV_ENTRY), author=b.HOME, job=b.JOB),
        b.record(CAS, author=b.HOME),
        b.record(b.place(Class.BLOB), author=b.HOME, job=b.JOB),
    ],
)
def test_records_of_those_who_may_count(record: Any) -> None:
    authority = given()
    for _ in range(2):
        authority.verify_record(record)
    assert authority.admissible(record)


@pytest.mark.parametrize(
    "record",
    [
        b.record(author=b.VIEWER),
        b.record(b.place(Class.PROJECT), author=b.DEVELOPER, grant_n=1),
    ],
)
def test_records_of_those_who_may_not_verify_but_do_not_count(record: Any) -> None:
    authority = given()
    authority.verify_record(record)
    assert not authority.admissible(record)


@pytest.mark.parametrize(
    ("record", "missing"),
    [
        (b.record(), b.SETTING[1]),
        (b.record(b.place(Class.KV_ENTRY), author=b.HOME, job=b.JOB), b.GENESIS),
        (b.record(b.place(Class.USER)), b.user_key(b.OWNER)),
        (b.record(b.place(Class.PROJECT)), b.project_owner()),
        (b.record(), b.member(b.DEVELOPER)),
    ],
)
def test_a_record_waits_for_the_facts_it_rests_on(record: Any, missing: Fact) -> None:
    authority = given(without=(missing,))
    assert not authority.verifiable(record)
    assert not authority.admissible(record)
    with pytest.raises(Unverifiable):
        authority.verify_record(record)
    authority.add(missing)
    authority.verify_record(record)


@pytest.mark.parametrize(
    "record",
    [
        b.record(epoch=1),
        b.record(grant_n=2),
        b.record(grant_n=0),
        b.record(author=b.OWNER, grant_n=1),
        b.record(author=b.OUTSIDER, grant_n=1),
        b.record(b.place(Class.BLOB, id=b.make_id(70, home=9)), author=9),
    ],
)
def test_a_record_that_rests_on_what_may_never_come_waits_too(record: Any) -> None:
    assert not given().verifiable(record)


@pytest.mark.parametrize(
    ("record", "reason"),
    [
        (b.record(signer=b.keys("thief")), "author's key"),
        (b.record(with_certificate=b.certificate(signer=b.keys("thief"))), "author's key"),
        (
            b.record(b.place(Class.KV_ENTRY), author=b.HOME, job=b.JOB, signer=b.keys("thief")),
            "its author",
        ),
        (
            b.record(birth=b.keys("thief").seal("birth", b.MESH, b.place().birth_statement)),
            "home node",
        ),
        (b.record(birth=b.node_keys(b.HOME).seal("birth", b.MESH, b"other")), "birth"),
        (b.record(mesh=bytes(8)), "another mesh"),
    ],
)
def test_a_record_with_somebody_elses_keys_is_bad_for_good(record: Any, reason: str) -> None:
    authority = given()
    assert authority.verifiable(record)
    with pytest.raises(SignatureError, match=reason):
        authority.verify_record(record)


def test_a_certificate_that_the_user_did_not_sign_is_bad_for_good() -> None:
    good = b.certificate()
    forged = codec.encode([good.body, [good.seal.public_key, bytes(64)]])
    record = b.record(with_certificate=certificates.decode_certificate(forged))
    with pytest.raises(SignatureError, match="certificate"):
        given().verify_record(record)


def test_another_owner_cannot_be_written_into_an_object() -> None:
    # A developer of another project claims a function with a birth copied from it.
    own = b.make_id(11)
    authority = given(b.project_owner(own, owner=b.OUTSIDER))
    stolen = b.place(owner=own)
    birth = b.record().birth
    assert birth is not None
    record = b.record(stolen, author=b.OUTSIDER, grant_n=0, birth=birth)
    assert record.slot == b.record().slot
    with pytest.raises(SignatureError, match="birth"):
        authority.verify_record(record)


def test_records_count_under_the_last_grant_only() -> None:
    old, new = b.record(), b.record(grant_n=2)
    authority = given(b.member(grant_n=2))
    assert not authority.admissible(old)
    assert authority.admissible(new)
    authority.add(b.member_revoke(grant_n=2))
    assert not authority.admissible(new)


def test_records_survive_rotations_until_a_strict_one() -> None:
    record = b.record()
    authority = given(b.user_key(b.DEVELOPER, 1), b.user_key(b.DEVELOPER, 2))
    assert authority.admissible(record)
    authority.add(b.user_key(b.DEVELOPER, 3, strict=True))
    authority.verify_record(record)
    assert not authority.admissible(record)
    assert authority.admissible(b.record(epoch=3))


def test_what_an_evicted_node_wrote_counts_unless_it_is_distrusted() -> None:
    by_job = b.record(b.place(Class.KV_ENTRY), author=b.HOME, job=b.JOB)
    authority = given(b.node_revoke())
    assert authority.admissible(by_job)
    authority.add(b.node_revoke(distrust=True))
    authority.verify_record(by_job)
    assert not authority.admissible(by_job)
    assert authority.admissible(b.record()), "users go on"


def test_remembered_signatures_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(authority_module, "CHECKED_MAX", 3)
    authority = given()
    for n in range(5):
        authority.verify_record(b.record(b.place(id=b.make_id(80 + n))))
        assert len(authority._checked) <= 3
