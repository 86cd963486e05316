"""What holds for any set of facts, whatever their order; contradictions included where it can."""

import random
from typing import Any

import pytest
from hypothesis import given, settings, strategies as st

from storage.authority import Authority
from storage.facts import (
    Fact,
    Genesis,
    Member,
    MemberRevoke,
    NodeGrant,
    NodeRevoke,
    ProjectOwner,
    Role,
    UserKey,
)
from storage.ids import NODE_NUMBERS
from storage.places import Class
from storage.records import Record
from tests.storage import builders as b

CARL = b.OUTSIDER
quick = settings(max_examples=20, deadline=None)


def honest_facts() -> list[Fact]:
    """Return facts without two keys for one thing, supported and not."""
    grants = [
        b.member(user, role, n, by=by, by_grant_n=by_n, by_epoch=epoch)
        for user, role, n, by, by_n, epoch in [
            (b.ADMIN, Role.DEVELOPER, 2, b.OWNER, 0, 0),
            (b.ADMIN, Role.ADMIN, 3, b.OWNER, 0, 1),
            (b.DEVELOPER, Role.ADMIN, 2, b.OWNER, 0, 0),
            (b.DEVELOPER, Role.DEVELOPER, 3, b.ADMIN, 1, 0),
            (b.DEVELOPER, Role.VIEWER, 3, b.OWNER, 0, 1),
            (CARL, Role.DEVELOPER, 1, b.ADMIN, 1, 0),
            (CARL, Role.INVOKER, 1, b.DEVELOPER, 2, 0),
            (CARL, Role.DEVELOPER, 2, b.ADMIN, 3, 1),
            (CARL, Role.DEVELOPER, 2, b.VIEWER, 1, 0),
            (b.VIEWER, Role.DEVELOPER, 2, CARL, 1, 0),
            (b.ADMIN, Role.VIEWER, 1, b.DEVELOPER, 2, 0),
            (b.OWNER, Role.VIEWER, 1, b.ADMIN, 1, 0),
        ]
    ]
    revokes = [
        b.member_revoke(user, n, by=by, by_grant_n=by_n)
        for user, n, by, by_n in [
            (b.ADMIN, 1, b.OWNER, 0),
            (b.ADMIN, 3, b.ADMIN, 0),
            (b.ADMIN, 1, b.DEVELOPER, 2),
            (b.DEVELOPER, 2, b.OWNER, 0),
            (b.DEVELOPER, 1, b.ADMIN, 1),
            (b.DEVELOPER, 3, b.ADMIN, 1),
            (CARL, 1, b.ADMIN, 1),
            (b.VIEWER, 1, CARL, 1),
        ]
    ]
    nodes = [
        b.node_grant(b.OTHER, block=(4, 100)),
        b.node_grant(5, by=b.OTHER, block=(6, 50)),
        b.node_grant(6, by=5),
        b.node_grant(6, expires_ms=b.NOW_MS + 1),
        b.node_grant(120, by=b.OTHER),
        b.node_revoke(5, by=b.OTHER),
        b.node_revoke(6, by=5, distrust=True),
        b.node_revoke(b.OTHER),
        b.node_revoke(b.HOME, distrust=True),
        b.node_revoke(b.OTHER, by=b.HOME),
    ]
    users = [
        b.user_key(b.OWNER, 1),
        b.user_key(b.OWNER, 2, strict=True),
        b.user_key(b.ADMIN, 1, strict=True),
        b.user_key(b.DEVELOPER, 1),
        b.user_key(CARL, 2),
        b.user_key(b.make_id(60, home=6)),
        b.user_key(b.make_id(61, home=9)),
    ]
    return [*b.SETTING, *nodes, *users, *grants, *revokes]


def contradictions() -> list[Fact]:
    return [
        b.node_grant(b.HOME, public_key=b.keys("other").public_key),
        b.node_grant(6, by=b.OTHER, public_key=b.keys("sixth").public_key),
        b.user_key(b.OWNER, 1, name="other"),
        b.user_key(b.ADMIN, 0, name="other", public_key=b.keys("a").public_key, signer=b.keys("a")),
        b.project_owner(owner=b.ADMIN),
    ]


HONEST = honest_facts()
FACTS = [*HONEST, *contradictions()]
subsets = st.lists(st.sampled_from(FACTS), unique_by=lambda fact: fact.id, max_size=len(FACTS))
honest_subsets = st.lists(
    st.sampled_from(HONEST), unique_by=lambda fact: fact.id, max_size=len(HONEST)
)
# Most of the cast is always there, or hardly anything would be known.
supported = st.lists(st.sampled_from(b.SETTING), max_size=2).flatmap(
    lambda missing: honest_subsets.map(
        lambda facts: list(
            {fact.id: fact for fact in (*b.SETTING, *facts) if fact not in missing}.values()
        )
    )
)
NUMBERS = (0, 1, 2, 3, 5, 6, 9, 120)
USERS = (b.OWNER, b.ADMIN, b.DEVELOPER, b.VIEWER, CARL, b.make_id(60, home=6))


def answers_about_nodes(authority: Authority) -> Any:
    return [authority.node(number) for number in NUMBERS], authority.nodes()


def answers_about_users(authority: Authority) -> Any:
    return [authority.user(user) for user in USERS], authority.users()


def answers_about_projects(authority: Authority) -> Any:
    return (
        authority.owner(b.PROJECT),
        authority.members(b.PROJECT),
        [(authority.role(b.PROJECT, user), authority.projects(user)) for user in USERS],
        [authority.last_grant_n(b.PROJECT, user) for user in USERS],
    )


def answers(authority: Authority) -> Any:
    return (
        answers_about_nodes(authority),
        answers_about_users(authority),
        answers_about_projects(authority),
        [authority.known(fact) for fact in FACTS],
        [(authority.verifiable(record), authority.admissible(record)) for record in RECORDS],
    )


def make_records() -> list[Record]:
    """Return records of one slot by several authors, grants, epochs and times."""
    entry = b.place(Class.KV_ENTRY)
    found = [
        b.record(entry, author=author, grant_n=n, epoch=epoch, hlc=b.stamp(ms))
        for author in (b.ADMIN, b.DEVELOPER, CARL)
        for n in (1, 2, 3)
        for epoch in (0, 1)
        for ms in (1, 2)
    ]
    found += [
        b.record(entry, author=b.OWNER, grant_n=0, epoch=epoch, hlc=b.stamp(ms))
        for epoch in (0, 1, 2)
        for ms in (1, 2)
    ]
    found += [
        b.record(entry, author=home, job=b.make_id(70, home), hlc=b.stamp(ms))
        for home in (b.HOME, 6)
        for ms in (1, 2)
    ]
    return found


RECORDS = make_records()


@quick
@given(subsets, st.randoms(use_true_random=False))
def test_answers_depend_on_the_set_of_facts_and_not_on_its_order(
    facts: list[Fact], chance: random.Random
) -> None:
    shuffled = facts + facts[:3]
    chance.shuffle(shuffled)
    assert answers(Authority(b.MESH, facts)) == answers(Authority(b.MESH, shuffled))


@pytest.mark.slow
@settings(max_examples=50, deadline=None)
@given(st.permutations(FACTS), st.integers(0, len(FACTS)))
def test_asking_between_facts_changes_no_later_answer(facts: list[Fact], until: int) -> None:
    asked = Authority(b.MESH)
    for fact in facts[:until]:
        asked.add(fact)
        answers(asked)
    assert answers(asked) == answers(Authority(b.MESH, facts[:until]))


@pytest.mark.parametrize("facts", [HONEST, FACTS], ids=["honest", "contradictory"])
@pytest.mark.parametrize("last", [ProjectOwner, UserKey, MemberRevoke, Genesis])
def test_asking_between_facts_changes_no_later_answer_whatever_comes_last(
    facts: list[Fact], last: type
) -> None:
    in_order = sorted(facts, key=lambda fact: (isinstance(fact.statement, last), level(fact)))
    asked = Authority(b.MESH)
    for count, fact in enumerate(in_order, 1):
        asked.add(fact)
        assert answers(asked) == answers(Authority(b.MESH, in_order[:count]))


@quick
@given(supported, st.data())
def test_what_is_known_and_verifiable_stays_so(facts: list[Fact], data: st.DataObject) -> None:
    cut = data.draw(st.integers(0, len(facts)))
    before, after = Authority(b.MESH, facts[:cut]), Authority(b.MESH, facts)
    for fact in HONEST:
        # A revocation by an admin may turn out to be of an admin, whom only the owner removes.
        if before.known(fact) and not isinstance(fact.statement, MemberRevoke):
            assert after.known(fact)
    for record in RECORDS:
        if before.verifiable(record):
            assert after.verifiable(record)


@quick
@given(supported)
def test_a_fact_is_known_alike_before_and_after_it_is_added(facts: list[Fact]) -> None:
    authority = Authority(b.MESH, facts)
    for fact in HONEST:
        known = authority.known(fact)
        if fact.id not in authority and not isinstance(fact.statement, Genesis | UserKey):
            assert Authority(b.MESH, [*facts, fact]).known(fact) == known


def level(fact: Fact) -> int:
    match fact.statement:
        case Genesis() | NodeGrant() | NodeRevoke():
            return 1
        case UserKey():
            return 2
        case ProjectOwner():
            return 3
        case Member(role=Role.ADMIN):
            return 4
        case _:
            return 5


@quick
@given(subsets, st.data())
def test_a_fact_changes_no_answer_at_a_lower_level(facts: list[Fact], data: st.DataObject) -> None:
    if not facts:
        return
    without = data.draw(st.sampled_from(facts))
    one = Authority(b.MESH, facts)
    two = Authority(b.MESH, [fact for fact in facts if fact is not without])
    if level(without) > 1:
        assert answers_about_nodes(one) == answers_about_nodes(two)
    if level(without) > 2:
        assert answers_about_users(one) == answers_about_users(two)
    if level(without) > 3:
        assert one.owner(b.PROJECT) == two.owner(b.PROJECT)


@quick
@given(supported)
def test_evicting_a_node_changes_nothing_below_its_number(facts: list[Fact]) -> None:
    authority = Authority(b.MESH, facts)
    lower = [authority.node(number) for number in (1, 2, 3, 5)]
    authority.add(b.node_revoke(6, distrust=True))
    assert [authority.node(number) for number in (1, 2, 3, 5)] == lower


@quick
@given(supported)
def test_below_an_inadmissible_record_of_an_author_all_are_inadmissible(facts: list[Fact]) -> None:
    authority = Authority(b.MESH, facts)
    for author in (b.OWNER, b.ADMIN, b.DEVELOPER, CARL, b.HOME, 6):
        verifiable = sorted(
            (r for r in RECORDS if r.body.author == author and authority.verifiable(r)),
            key=lambda record: record.rank,
        )
        verdicts = [authority.admissible(record) for record in verifiable]
        assert verdicts == sorted(verdicts), "False before True"


def test_the_records_of_these_laws_are_of_all_sorts() -> None:
    authority = Authority(b.MESH, HONEST)
    verdicts = {(authority.verifiable(r), authority.admissible(r)) for r in RECORDS}
    assert verdicts == {(True, True), (True, False), (False, False)}
    assert all(record.body.author > 0 for record in RECORDS)
    assert any(record.body.author < NODE_NUMBERS for record in RECORDS)
