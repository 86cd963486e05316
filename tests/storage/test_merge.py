import dataclasses
import functools
import itertools
import random
from collections.abc import Sequence
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings, strategies as st

from storage import merge, records
from storage.authority import Authority
from storage.errors import SignatureError
from storage.facts import Fact, Role
from storage.merge import State, beats, deleted_by, resolve
from storage.places import Class, Place
from storage.records import Flag, Record
from tests.storage import builders as b

quick = settings(max_examples=20, deadline=None)
DEAD = Flag.TOMBSTONE | Flag.TERMINAL
GONE = Flag.TOMBSTONE
ENTRY = b.place(Class.KV_ENTRY)
FUNCTION = b.place()


def state(items: Sequence[Fact | Record] = ()) -> State:
    made = State(Authority(b.MESH))
    for item in items:
        made.apply(item)
    return made


def authority(*facts: Fact) -> Authority:
    return Authority(b.MESH, [*b.SETTING, *facts])


# --- one slot -----------------------------------------------------------------------------------


def test_an_entry_shows_its_latest_value() -> None:
    old = b.record(ENTRY, hlc=b.stamp(1))
    new = b.record(ENTRY, author=b.ADMIN, hlc=b.stamp(2))
    for entries in ([old, new], [new, old]):
        assert resolve(entries, authority()) == new
    assert resolve([], authority()) is None


def test_values_of_one_time_are_told_apart_by_author_then_rid() -> None:
    one = b.record(ENTRY)
    two = b.record(ENTRY, author=b.ADMIN)
    later = max([one, two], key=lambda record: record.body.author)
    assert resolve([one, two], authority()) == later
    same = [b.record(ENTRY, payload=b"1"), b.record(ENTRY, payload=b"2")]
    assert resolve(same, authority()) == max(same, key=lambda record: record.rid)


def test_a_deleted_entry_can_be_written_again() -> None:
    old, gone, again = (
        b.record(ENTRY, author=b.ADMIN, hlc=b.stamp(1)),
        b.record(ENTRY, hlc=b.stamp(2), flags=GONE),
        b.record(ENTRY, author=b.OWNER, grant_n=0, hlc=b.stamp(3)),
    )
    assert resolve([old, gone], authority()) is None
    assert resolve([old, gone, again], authority()) == again
    assert deleted_by([old, gone], authority()) is None


def test_an_object_once_deleted_stays_so() -> None:
    gone = b.record(FUNCTION, hlc=b.stamp(1), flags=DEAD)
    later = b.record(FUNCTION, author=b.ADMIN, hlc=b.stamp(2))
    assert resolve([gone, later], authority()) is None
    assert deleted_by([gone, later], authority()) == gone
    assert deleted_by([later], authority()) is None


def test_who_may_not_delete_does_not() -> None:
    alive = b.record(FUNCTION)
    gone = b.record(FUNCTION, author=b.VIEWER, flags=DEAD)
    assert resolve([alive, gone], authority()) == alive
    assert deleted_by([alive, gone], authority()) is None


def test_when_an_author_is_removed_the_value_before_shows_again() -> None:
    old = b.record(ENTRY, author=b.ADMIN, hlc=b.stamp(1))
    new = b.record(ENTRY, hlc=b.stamp(2))
    assert resolve([old, new], authority(b.member_revoke())) == old


def test_of_an_authors_records_the_higher_rank_is_kept() -> None:
    old, new = b.record(hlc=b.stamp(1)), b.record(hlc=b.stamp(2))
    assert beats(old, None)
    assert beats(new, old)
    assert not beats(old, new)
    assert not beats(new, new)


# --- a state ------------------------------------------------------------------------------------


def test_a_record_waits_for_its_facts() -> None:
    record = b.record(ENTRY)
    made = state([record])
    assert made.deferred == [record]
    assert made.view() == {}
    for fact in b.SETTING:
        made.apply(fact)
    assert made.deferred == []
    assert made.view() == {record.slot: record}
    assert made.resolve(record.slot) == record
    assert made.resolve(b"nothing here") is None


def test_waiting_records_are_bounded_and_the_oldest_goes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(merge, "DEFERRED_MAX", 2)
    waiting = [b.record(ENTRY, hlc=b.stamp(ms)) for ms in range(3)]
    assert state(waiting).deferred == waiting[1:]


def test_a_record_with_somebody_elses_keys_is_refused_and_if_it_waited_dropped() -> None:
    forged = b.record(ENTRY, signer=b.keys("thief"))
    with pytest.raises(SignatureError):
        state(b.SETTING).apply(forged)
    made = state([forged, *b.SETTING])
    assert made.deferred == made.records() == []


# --- the laws -----------------------------------------------------------------------------------

AUTHORS = (b.ADMIN, b.DEVELOPER, b.OUTSIDER)
SLOTS = (ENTRY, b.place(Class.KV_ENTRY, key=b"other"), FUNCTION)


@functools.cache
def written(
    where: Place, author: int, n: int, epoch: int, ms: int, payload: int, *, dead: bool
) -> Record:
    flags = Flag(0) if not dead else GONE if where.class_ is Class.KV_ENTRY else DEAD
    said = b"" if dead else b"%d" % payload
    return b.record(
        where, author=author, grant_n=n, epoch=epoch, hlc=b.stamp(ms), payload=said, flags=flags
    )


@functools.cache
def job_written(where: Place, ms: int) -> Record:
    return b.record(where, author=b.HOME, job=b.JOB, hlc=b.stamp(ms))


@functools.cache
def granted(user: int, n: int, role: Role) -> Fact:
    return b.member(user, role, n)


@functools.cache
def revoked(user: int, n: int) -> Fact:
    return b.member_revoke(user, n)


@functools.cache
def key_of(user: int, epoch: int, *, strict: bool) -> Fact:
    return b.user_key(user, epoch, strict=strict)


@functools.cache
def evicted(*, distrust: bool) -> Fact:
    return b.node_revoke(distrust=distrust)


BASE = (b.GENESIS, b.node_grant(), b.user_key(b.OWNER), b.project_owner())
facts = st.one_of(
    st.sampled_from(BASE),
    st.builds(
        granted,
        st.sampled_from(AUTHORS),
        st.integers(1, 2),
        st.sampled_from([Role.ADMIN, Role.DEVELOPER, Role.VIEWER]),
    ),
    st.builds(revoked, st.sampled_from(AUTHORS), st.integers(1, 2)),
    st.builds(key_of, st.sampled_from(AUTHORS), st.integers(0, 1), strict=st.booleans()),
    st.builds(evicted, distrust=st.booleans()),
)
written_records = st.builds(
    written,
    st.sampled_from(SLOTS),
    st.sampled_from(AUTHORS),
    st.integers(1, 2),
    st.integers(0, 1),
    st.integers(1, 3),
    st.integers(0, 1),
    dead=st.booleans(),
)
items = st.lists(
    facts | written_records | st.builds(job_written, st.just(ENTRY), st.integers(1, 3)),
    max_size=25,
)
# A set of facts in which one epoch has two keys is outside of what merging promises.
consistent = items.map(
    lambda found: list(
        {
            (
                (item.statement.user, item.statement.epoch)
                if isinstance(item, Fact) and hasattr(item.statement, "next_key_hash")
                else (item.rid if isinstance(item, Record) else item.id)
            ): item
            for item in found
        }.values()
    )
)
histories = st.booleans().flatmap(
    lambda base: consistent.map(lambda found: [*(BASE if base else ()), *found])
)


def what(made: State) -> Any:
    """Return all that two equal states agree in."""
    return (
        sorted(fact.id for fact in made.authority),
        [record.rid for record in made.records()],
        sorted(record.rid for record in made.deferred),
        [record.rid for record in made.admissible_records()],
        {slot: record.rid for slot, record in made.view().items()},
    )


def joined(*states: State) -> State:
    result = state()
    for one in states:
        result.merge(one)
    return result


@quick
@given(histories, st.randoms(use_true_random=False))
def test_order_and_repetition_of_deliveries_do_not_matter(
    history: list[Fact | Record], chance: random.Random
) -> None:
    other = history + history[: len(history) // 3]
    chance.shuffle(other)
    assert what(state(history)) == what(state(other))


@quick
@given(histories, histories, histories)
def test_merging_associates_commutes_and_repeats_without_effect(
    one: list[Fact | Record], two: list[Fact | Record], three: list[Fact | Record]
) -> None:
    x, y, z = state(one), state(two), state(three)
    expected = what(joined(joined(x, y), z))
    if any_contradiction([*one, *two, *three]):
        return
    assert what(joined(x, joined(y, z))) == expected
    assert what(joined(z, x, y)) == expected
    assert what(joined(x, x)) == what(x)
    assert what(joined(x, state())) == what(x)


def any_contradiction(history: list[Fact | Record]) -> bool:
    keys: dict[Any, set[bytes]] = {}
    for item in history:
        if isinstance(item, Fact) and hasattr(item.statement, "next_key_hash"):
            key = item.statement.user, item.statement.epoch
            keys.setdefault(key, set()).add(item.id)
    return any(len(found) > 1 for found in keys.values())


@quick
@given(histories, st.randoms(use_true_random=False), st.integers(2, 4))
def test_parts_of_a_history_join_to_the_whole_in_any_tree(
    history: list[Fact | Record], chance: random.Random, parts: int
) -> None:
    states = [state() for _ in range(parts)]
    for item in history:
        for one in chance.sample(states, chance.randrange(1, parts + 1)):
            one.apply(item)
    while len(states) > 1:
        chance.shuffle(states)
        states.append(joined(states.pop(), states.pop()))
    assert what(states[0]) == what(state(history))


@quick
@given(histories)
def test_the_view_is_a_function_of_the_facts_and_the_admissible_records(
    history: list[Fact | Record],
) -> None:
    whole = state(history)
    least = state([*whole.authority, *whole.admissible_records()])
    assert whole.view() == least.view()
    assert whole.admissible_records() == least.admissible_records()


@quick
@given(histories, written_records)
def test_no_record_lowers_a_rank(history: list[Fact | Record], record: Record) -> None:
    made = state(history)
    before = {one.key: one.rank for one in made.records()}
    made.apply(record)
    after = {one.key: one.rank for one in made.records()}
    assert all(after[key] >= rank for key, rank in before.items())


# --- nodes that exchange admissible records only ------------------------------------------------


class GrantLast(State):
    """What must not be: the grant is not the first part of the rank."""

    def beats(self, record: Record, kept: Record | None) -> bool:
        def order(one: Record) -> Any:
            grant_n, epoch, _, hlc, rid = one.rank
            return epoch, hlc, rid, grant_n

        return kept is None or order(record) > order(kept)


class OneWinner(State):
    """What must not be: one record a slot is kept, whoever's it is."""

    def apply(self, item: Fact | Record) -> None:
        super().apply(item)
        for entries in self._slots.values():
            latest = max(entries.values(), key=merge._recency)
            entries.clear()
            entries[latest.body.author] = latest


def random_history(chance: random.Random) -> list[Fact | Record]:
    history: list[Fact | Record] = []
    for author in AUTHORS:
        grants = chance.randrange(1, 3)
        for n in range(1, grants + 1):
            history.append(granted(author, n, chance.choice([Role.DEVELOPER, Role.ADMIN])))
            if n < grants or chance.random() < 0.4:
                history.append(revoked(author, n))
        last = chance.randrange(3)
        strict = chance.random() < 0.3
        history += [
            key_of(author, epoch, strict=strict and epoch == last > 0) for epoch in range(last + 1)
        ]
    if chance.random() < 0.3:
        history.append(evicted(distrust=chance.random() < 0.5))
    for _ in range(chance.randrange(4, 14)):
        where = chance.choice(SLOTS)
        if where.class_ is Class.KV_ENTRY and chance.random() < 0.1:
            history.append(job_written(where, chance.randrange(6)))
            continue
        record = written(
            where,
            chance.choice(AUTHORS),
            chance.randrange(1, 3),
            chance.randrange(3),
            chance.randrange(6),
            chance.randrange(4),
            dead=chance.random() < 0.2,
        )
        history.append(record)
    return history


def exchange(one: State, two: State) -> None:
    """Do as reconciliation does: all facts first, then the admissible records."""
    for fact in list(one.authority):
        two.apply(fact)
    for fact in list(two.authority):
        one.apply(fact)
    from_one, from_two = one.admissible_records(), two.admissible_records()
    for record in from_two:
        one.apply(record)
    for record in from_one:
        two.apply(record)


def converges(seed: int, kind: type[State], nodes: int = 4) -> bool:
    chance = random.Random(seed)
    states = [kind(Authority(b.MESH, BASE)) for _ in range(nodes)]
    schedule: list[tuple[float, int, Fact | Record | None]] = [
        (chance.random(), node, item)
        for item in random_history(chance)
        for node in chance.sample(range(nodes), chance.randrange(1, nodes + 1))
    ]
    schedule += [(chance.random(), -1, None) for _ in range(6)]
    for _, node, item in sorted(schedule, key=lambda step: step[0]):
        if item is None:
            exchange(*chance.sample(states, 2))
        else:
            states[node].apply(item)
    for one, two in list(itertools.combinations(states, 2)) * 3:
        exchange(one, two)
    outcomes = [(one.view(), one.admissible_records()) for one in states]
    return all(outcome == outcomes[0] for outcome in outcomes)


def test_nodes_converge_in_random_schedules() -> None:
    assert [seed for seed in range(20) if not converges(seed, State)] == []


@pytest.mark.slow
def test_nodes_converge_in_many_random_schedules() -> None:
    assert [seed for seed in range(20, 320) if not converges(seed, State)] == []


@pytest.mark.torture
@pytest.mark.slow
def test_nodes_converge_in_very_many_random_schedules() -> None:
    assert [seed for seed in range(320, 10_320) if not converges(seed, State)] == []


@pytest.mark.parametrize(("kind", "seed"), [(GrantLast, 2), (OneWinner, 0)])
def test_the_schedules_find_designs_that_do_not_converge(kind: type[State], seed: int) -> None:
    assert not converges(seed, kind)


def test_what_its_author_deleted_for_ever_is_not_brought_back_by_a_later_record() -> None:
    dead = b.record(flags=Flag.TOMBSTONE | Flag.TERMINAL, hlc=b.stamp(5), payload=b"")
    later = b.record(hlc=b.stamp(9))
    assert dead.key == later.key
    assert dead.rank > later.rank


# --- carrying over after a strict rotation --------------------------------------------------------


def rotated(made: State, user: int) -> Fact:
    """Return the strict key that comes next."""
    chain = made.authority.user(user)
    assert chain is not None
    return b.user_key(user, chain.epoch + 1, strict=True)


def carry_all(made: State, user: int, epoch: int) -> list[Record]:
    """Return a user's records that count, signed anew."""
    at = b.stamp(1_000_000)
    return [
        records.sign_record(
            b.user_keys(user, epoch), b.MESH, records.carried(one, epoch, at), birth=one.birth
        )
        for one in made.admissible_records()
        if one.body.author == user
    ]


def grant_again(made: State, user: int, epoch: int) -> list[Fact]:
    """Return the grants by a user that count, signed anew."""
    return [
        b.fact(
            msgspec.structs.replace(grant, by_epoch=epoch),
            b.user_keys(user, epoch),
        )
        for grant, _ in made.authority.last_grants_by(user)
    ]


def said(made: State) -> dict[bytes, Any]:
    """Return what every slot shows, whoever signed it with which key."""
    return {
        slot: (record.body.author, record.body.hlc, record.body.payload)
        for slot, record in made.view().items()
    }


def carrying(seed: int) -> tuple[int, int]:
    """Rotate a user strictly in a random history, and carry; return how much was carried.

    The view must stay, in whatever order it arrives, and so it must when the thief of the old key
    writes afterwards.
    """
    chance = random.Random(seed)
    history = [*BASE, *random_history(chance)]
    made = state(history)
    user = chance.choice([author for author in (b.OWNER, *AUTHORS) if made.authority.user(author)])
    epoch = rotated(made, user).statement.epoch  # type: ignore[union-attr]

    def is_older(item: Fact | Record) -> bool:
        """Tell whether it needs none but the old keys of the user."""
        of_user = isinstance(item, Record) and item.body.author == user
        return not of_user or item.body.epoch < epoch  # type: ignore[union-attr]

    history = [item for item in history if is_older(item)]
    made = state(history)
    before, members = said(made), made.authority.members(b.PROJECT)
    key = rotated(made, user)
    grants, carried = grant_again(made, user, epoch), carry_all(made, user, epoch)
    new: list[Fact | Record] = [key, *grants, *carried]
    for item in new:
        made.apply(item)
    assert said(made) == before
    assert made.authority.members(b.PROJECT) == members
    shuffled = [*new, *history]
    chance.shuffle(shuffled)
    assert said(state(shuffled)) == before
    for forged in random_history(chance):
        if isinstance(forged, Record) and forged.body.author == user and is_older(forged):
            made.apply(forged)
            assert made.authority.is_disowned(forged)
    assert said(made) == before
    return len(grants), len(carried)


def test_carrying_keeps_the_view_and_what_an_older_key_signs_later_changes_nothing() -> None:
    carried = [carrying(seed) for seed in range(60)]
    assert sum(grants > 0 for grants, _ in carried) > 10
    assert sum(records > 0 for _, records in carried) > 10


@pytest.mark.slow
@settings(max_examples=300, deadline=None)
@given(st.integers(100, 1 << 32))
def test_carrying_keeps_the_view_in_any_history(seed: int) -> None:
    carrying(seed)


def test_what_is_carried_never_hides_what_is_newer_and_would_with_a_new_time() -> None:
    old = b.record(ENTRY, author=b.ADMIN, hlc=b.stamp(1), payload=b"old")
    new = b.record(ENTRY, hlc=b.stamp(2), payload=b"new")
    made = state([*b.SETTING, old, new, b.user_key(b.ADMIN, 1, strict=True)])
    (kept,) = [one for one in made.records() if one.body.author == b.ADMIN]
    again = records.carried(kept, 1, b.stamp(9))
    signer = b.user_keys(b.ADMIN, 1)
    made.apply(records.sign_record(signer, b.MESH, again, birth=old.birth))
    assert said(made)[new.slot][2] == b"new"
    late = dataclasses.replace(again, hlc=b.stamp(9), flags=Flag(0), orig=None)
    made.apply(records.sign_record(signer, b.MESH, late, birth=old.birth))
    assert said(made)[new.slot][2] == b"old"


def test_a_disowned_grant_signed_anew_with_its_number_gives_its_member_all_back() -> None:
    record = b.record(ENTRY)
    made = state([*b.SETTING, record])
    members = made.authority.members(b.PROJECT)
    grants = made.authority.last_grants_by(b.OWNER)
    made.apply(b.user_key(b.OWNER, 1, strict=True))
    assert made.view() == {}
    for grant in grant_again(made, b.OWNER, 1):
        made.apply(grant)
    assert made.view() == {record.slot: record}
    assert made.authority.members(b.PROJECT) == members
    assert len(grants) == 3
    # With the next number, what was written under the one before would stay hidden.
    made.apply(b.member(b.DEVELOPER, Role.DEVELOPER, 2, by_epoch=1))
    assert made.view() == {}


def test_a_grant_that_is_revoked_or_not_the_last_is_not_to_be_signed_anew() -> None:
    found = authority(
        b.member_revoke(b.VIEWER),
        b.member(b.DEVELOPER, Role.VIEWER, 2),
        b.member(b.OUTSIDER, Role.DEVELOPER, 1, by=b.ADMIN, by_grant_n=1),
    )
    last = {(grant.user, grant.grant_n) for grant, _ in found.last_grants_by(b.OWNER)}
    assert last == {(b.ADMIN, 1), (b.DEVELOPER, 2)}
    assert [grant.user for grant, _ in found.last_grants_by(b.ADMIN)] == [b.OUTSIDER]
    assert found.last_grants_by(b.VIEWER) == []
