"""What every store promises (`storage.store`), checked on each of them."""

import itertools
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings, strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from storage.batches import counter_value
from storage.errors import StoreClosed, StoreFull
from storage.store import KEY_SIZE_MAX_BYTES, Batch, Conflict, Result, Store, Table
from tests.storage.stores import Loop, Outcomes, open_store, result_of


@pytest.fixture
def loop() -> Loop:
    return Loop()


@pytest.fixture(params=["memory", "lmdb", "inline"])
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def store(kind: str, tmp_path: Path, loop: Loop) -> Iterator[Store]:
    store = open_store(kind, tmp_path / "store", loop)
    yield store
    store.close()


@pytest.fixture
def small_store(kind: str, tmp_path: Path, loop: Loop) -> Iterator[Store]:
    store = open_store(kind, tmp_path / "small", loop, small=True)
    yield store
    store.close()


def put(key: bytes, value: bytes, table: Table = Table.JOBS) -> Batch:
    return Batch(puts=[(table, key, value)])


class TestReading:
    def test_a_row_that_was_never_put_is_none(self, store: Store) -> None:
        assert store.get(Table.JOBS, b"a") is None

    def test_a_durable_row_is_read_back(self, store: Store, loop: Loop) -> None:
        assert result_of(store, loop, put(b"a", b"1")) is None
        assert store.get(Table.JOBS, b"a") == b"1"

    def test_a_row_may_be_empty(self, store: Store) -> None:
        store.apply(put(b"a", b""))
        assert store.get(Table.JOBS, b"a") == b""

    def test_tables_do_not_see_each_other(self, store: Store) -> None:
        store.apply(put(b"a", b"1", Table.JOBS))
        assert store.get(Table.LIVE, b"a") is None

    @pytest.mark.parametrize("size", [0, KEY_SIZE_MAX_BYTES + 1])
    def test_keys_of_other_lengths_are_refused_everywhere(self, store: Store, size: int) -> None:
        key = bytes(size)
        with pytest.raises(ValueError, match="a key of"):
            store.get(Table.JOBS, key)
        for batch in (
            Batch(puts=[(Table.JOBS, key, b"")]),
            Batch(deletes=[(Table.JOBS, key)]),
            Batch(adds=[(Table.JOBS, key, 1)]),
            Batch(expects=[(Table.JOBS, key, None)]),
        ):
            with pytest.raises(ValueError, match="a key of"):
                store.submit(batch)
            with pytest.raises(ValueError, match="a key of"):
                store.apply(batch)

    def test_the_longest_key_is_taken(self, store: Store) -> None:
        key = bytes(KEY_SIZE_MAX_BYTES)
        store.apply(put(key, b"1"))
        assert store.get(Table.JOBS, key) == b"1"
        assert store.scan(Table.JOBS, key) == [(key, b"1")]


class TestScanning:
    ROWS = tuple((bytes([number]), b"v%d" % number) for number in (1, 3, 5, 7))

    @pytest.fixture(autouse=True)
    def rows(self, store: Store) -> None:
        store.apply(Batch(puts=[(Table.JOBS, key, value) for key, value in reversed(self.ROWS)]))

    @pytest.mark.parametrize("reverse", [False, True])
    def test_bounds_order_and_limit(self, store: Store, reverse: bool) -> None:
        starts = [b"", b"\x01", b"\x02", b"\x07", b"\x08"]
        stops = [None, b"", b"\x01", b"\x04", b"\x07", b"\x08"]
        for start, stop, limit in itertools.product(starts, stops, [0, 1, 2, 1000]):
            rows = [r for r in self.ROWS if start <= r[0] and (stop is None or r[0] < stop)]
            expected = (rows[::-1] if reverse else rows)[:limit]
            found = store.scan(Table.JOBS, start, stop, reverse=reverse, limit=limit)
            assert found == expected, (start, stop, limit)

    def test_an_empty_table_has_no_rows(self, store: Store) -> None:
        assert store.scan(Table.LIVE) == []
        assert store.scan(Table.LIVE, b"a", b"b", reverse=True) == []

    def test_impossible_bounds_are_refused(self, store: Store) -> None:
        with pytest.raises(ValueError, match="bound"):
            store.scan(Table.JOBS, bytes(KEY_SIZE_MAX_BYTES + 1))
        with pytest.raises(ValueError, match="bound"):
            store.scan(Table.JOBS, b"", bytes(KEY_SIZE_MAX_BYTES + 1))
        with pytest.raises(ValueError, match="limit"):
            store.scan(Table.JOBS, limit=-1)


class TestBatches:
    def test_results_come_in_the_order_of_submit(self, store: Store, loop: Loop) -> None:
        outcomes = Outcomes()
        for number in range(50):
            store.submit(put(b"a", b"%d" % number), outcomes.done(number), lazy=number % 3 == 0)
        while len(outcomes) < 50:
            loop.run_one()
        assert outcomes == [(number, None) for number in range(50)]
        assert store.get(Table.JOBS, b"a") == b"49"

    def test_a_failed_expectation_writes_nothing_and_says_what_was_there(
        self, store: Store, loop: Loop
    ) -> None:
        store.apply(put(b"a", b"1"))
        batch = Batch(
            puts=[(Table.JOBS, b"b", b"2")],
            deletes=[(Table.JOBS, b"a")],
            adds=[(Table.USAGE, b"u", 1)],
            expects=[(Table.JOBS, b"c", None), (Table.JOBS, b"a", None)],
        )
        assert result_of(store, loop, batch) == Conflict(Table.JOBS, b"a", b"1")
        assert store.apply(batch) == Conflict(Table.JOBS, b"a", b"1")
        assert store.scan(Table.JOBS) == [(b"a", b"1")]
        assert store.scan(Table.USAGE) == []

    def test_a_conflict_leaves_its_neighbours_in_the_commit_alone(
        self, store: Store, loop: Loop
    ) -> None:
        outcomes = Outcomes()
        create = Batch(puts=[(Table.NAMES, b"n", b"1")], expects=[(Table.NAMES, b"n", None)])
        for number, batch in enumerate([put(b"a", b"1"), create, create, put(b"b", b"2")]):
            store.submit(batch, outcomes.done(number), lazy=number < 3)
        while len(outcomes) < 4:
            loop.run_one()
        conflict = Conflict(Table.NAMES, b"n", b"1")
        assert outcomes == [(0, None), (1, None), (2, conflict), (3, None)]
        assert store.scan(Table.JOBS) == [(b"a", b"1"), (b"b", b"2")]

    def test_within_a_batch_the_order_is_expects_adds_puts_deletes(self, store: Store) -> None:
        store.apply(
            Batch(
                deletes=[(Table.USAGE, b"deleted")],
                puts=[
                    (Table.USAGE, b"deleted", b"x"),
                    (Table.USAGE, b"put", b"first"),
                    (Table.USAGE, b"put", b"second"),
                ],
                adds=[(Table.USAGE, b"put", 5), (Table.USAGE, b"deleted", 5)],
                expects=[(Table.USAGE, b"put", None)],
            )
        )
        assert store.scan(Table.USAGE) == [(b"put", b"second")]

    def test_counters_count_from_nothing_and_vanish_at_nothing(self, store: Store) -> None:
        add = Batch(adds=[(Table.USAGE, b"u", 3), (Table.USAGE, b"u", -5)])
        store.apply(add)
        assert store.get(Table.USAGE, b"u") == (-2).to_bytes(8, "big", signed=True)
        store.apply(Batch(adds=[(Table.USAGE, b"u", 2), (Table.USAGE, b"never", 0)]))
        assert store.scan(Table.USAGE) == []

    def test_an_empty_batch_is_durable_too(self, store: Store, loop: Loop) -> None:
        assert result_of(store, loop, Batch()) is None


class TestLazyBatches:
    def test_a_lazy_batch_waits_for_another(self, store: Store, loop: Loop) -> None:
        outcomes = Outcomes()
        store.submit(put(b"a", b"1"), outcomes.done(0), lazy=True)
        assert store.statistics().queued_batches == 1
        assert store.get(Table.JOBS, b"a") is None
        store.submit(put(b"b", b"2"), outcomes.done(1))
        while len(outcomes) < 2:
            loop.run_one()
        assert outcomes == [(0, None), (1, None)]
        assert store.get(Table.JOBS, b"a") == b"1"

    def test_apply_commits_lazy_batches_before_its_own(self, store: Store, loop: Loop) -> None:
        outcomes = Outcomes()
        store.submit(put(b"a", b"1"), outcomes.done(0), lazy=True)
        expects = Batch(puts=[(Table.JOBS, b"a", b"2")], expects=[(Table.JOBS, b"a", b"1")])
        assert store.apply(expects) is None
        loop.run_one()
        assert outcomes == [(0, None)]
        assert store.get(Table.JOBS, b"a") == b"2"


class TestAFullStore:
    def fill(self, store: Store, value: bytes) -> int:
        """Put rows one at a time until one does not fit; return how many did."""
        number = 0
        while True:
            try:
                store.apply(put(number.to_bytes(4, "big"), value))
            except StoreFull:
                return number
            number += 1

    @pytest.mark.parametrize("size", [40, 2000, 40_000])
    def test_refuses_keeps_deletes_and_recovers(self, small_store: Store, size: int) -> None:
        store = small_store
        count = self.fill(store, bytes(size)) if size > 40 else self.fill_fast(store, bytes(size))
        assert count * size > 200_000
        rows = store.scan(Table.JOBS, limit=100_000)
        assert len(rows) == count
        with pytest.raises(StoreFull):
            store.apply(put(b"large", bytes(300_000)))
        assert store.scan(Table.JOBS, limit=100_000) == rows
        assert store.apply(put(rows[0][0], bytes(size))) is None, "what does not grow it passes"
        # Everything can be deleted, a row at a time, and then there is as much room as before.
        for key, _ in rows[:20]:
            assert store.apply(Batch(deletes=[(Table.JOBS, key)])) is None
        for at in range(20, count, 500):
            keys = [key for key, _ in rows[at : at + 500]]
            assert store.apply(Batch(deletes=[(Table.JOBS, key) for key in keys])) is None
        assert store.scan(Table.JOBS) == []
        assert store.apply(put(b"again", bytes(200_000))) is None

    def fill_fast(self, store: Store, value: bytes) -> int:
        """As `fill`, a thousand rows a batch."""
        number = 0
        while True:
            keys = [(number + more).to_bytes(4, "big") for more in range(1000)]
            try:
                store.apply(Batch(puts=[(Table.JOBS, key, value) for key in keys]))
            except StoreFull:
                return number
            number += 1000

    def test_only_the_batches_that_do_not_fit_are_refused(
        self, small_store: Store, loop: Loop
    ) -> None:
        store, outcomes = small_store, Outcomes()
        store.apply(put(b"old", bytes(100_000)))
        batches = [
            put(b"a", b"1"),
            put(b"too large", bytes(1_500_000)),
            Batch(adds=[(Table.USAGE, b"u", 1)]),
            Batch(puts=[(Table.JOBS, b"b", b""), (Table.JOBS, b"c", bytes(1_500_000))]),
            Batch(deletes=[(Table.JOBS, b"old")]),
        ]
        for number, batch in enumerate(batches):
            store.submit(batch, outcomes.done(number), lazy=number < 4)
        while len(outcomes) < len(batches):
            loop.run_one()
        kinds = [(number, type(result)) for number, result in outcomes]
        none = type(None)
        assert kinds == [(0, none), (1, StoreFull), (2, none), (3, StoreFull), (4, none)]
        assert store.scan(Table.JOBS) == [(b"a", b"1")]
        assert counter_value(store.get(Table.USAGE, b"u")) == 1


class TestClosing:
    def test_close_commits_what_is_queued_and_reports_it(self, store: Store, loop: Loop) -> None:
        outcomes = Outcomes()
        store.submit(put(b"a", b"1"), outcomes.done(0))
        store.submit(put(b"b", b"2"), outcomes.done(1), lazy=True)
        store.close()
        loop.run_waiting()
        assert outcomes == [(0, None), (1, None)]

    def test_later_calls_raise_and_a_second_close_does_not(self, store: Store) -> None:
        store.close()
        store.close()
        with pytest.raises(StoreClosed):
            store.get(Table.JOBS, b"a")
        with pytest.raises(StoreClosed):
            store.scan(Table.JOBS)
        with pytest.raises(StoreClosed):
            store.submit(Batch())
        with pytest.raises(StoreClosed):
            store.apply(Batch())
        with pytest.raises(StoreClosed):
            store.statistics()


def test_statistics_count_batches_and_grow_with_use(store: Store, loop: Loop) -> None:
    before = store.statistics()
    result_of(store, loop, put(b"a", bytes(100_000)))
    after = store.statistics()
    assert after.committed_batches == before.committed_batches + 1
    assert after.commits == before.commits + 1
    assert after.queued_batches == 0
    assert before.used_bytes + 100_000 <= after.used_bytes < after.capacity_bytes


TABLES = st.sampled_from([Table.JOBS, Table.USAGE])
KEYS = st.sampled_from([b"a", b"ab", b"b", b"\x00", b"\xff\xff"])
VALUES = st.binary(max_size=3)
COUNTERS = st.sampled_from([b"c1", b"c2"])
BATCHES = st.builds(
    Batch,
    puts=st.lists(st.tuples(TABLES, KEYS, VALUES), max_size=3),
    deletes=st.lists(st.tuples(TABLES, KEYS), max_size=2),
    adds=st.lists(st.tuples(TABLES, COUNTERS, st.integers(-2, 2)), max_size=3),
    expects=st.lists(st.tuples(TABLES, KEYS, st.none() | VALUES), max_size=1),
)
Model = dict[tuple[Table, bytes], bytes]


def apply_to_model(model: Model, batch: Batch) -> Result:
    """The rules of the seam, in the plainest words."""
    for table, key, expected in batch.expects:
        if model.get((table, key)) != expected:
            return Conflict(table, key, model.get((table, key)))
    for table, key, amount in batch.adds:
        total = int.from_bytes(model.pop((table, key), bytes(8)), "big", signed=True) + amount
        if total:
            model[table, key] = total.to_bytes(8, "big", signed=True)
    for table, key, value in batch.puts:
        model[table, key] = value
    for table, key in batch.deletes:
        model.pop((table, key), None)
    return None


class StoreMachine(RuleBasedStateMachine):
    """Any sequence of calls does to a store what it does to a dictionary."""

    kind = "memory"

    def __init__(self) -> None:
        super().__init__()
        self.directory = tempfile.TemporaryDirectory()
        self.loop = Loop()
        self.store = self.open()
        self.model: Model = {}
        self.expected: list[tuple[int, Result]] = []
        self.outcomes = Outcomes()
        self.queued: list[Batch] = []
        self.submitted = 0

    def open(self) -> Store:
        return open_store(self.kind, Path(self.directory.name) / "store", self.loop)

    def settle(self) -> None:
        for batch in self.queued:
            self.expected.append((len(self.expected), apply_to_model(self.model, batch)))
        self.queued = []

    @rule(batch=BATCHES)
    def submit_lazily(self, batch: Batch) -> None:
        self.store.submit(batch, self.outcomes.done(self.submitted), lazy=True)
        self.submitted += 1
        self.queued.append(batch)

    @rule(batch=BATCHES)
    def submit(self, batch: Batch) -> None:
        self.store.submit(batch, self.outcomes.done(self.submitted))
        self.submitted += 1
        self.queued.append(batch)
        self.settle()
        while len(self.outcomes) < self.submitted:
            self.loop.run_one()

    @rule(batch=BATCHES)
    def apply(self, batch: Batch) -> None:
        result = self.store.apply(batch)
        self.settle()
        assert result == apply_to_model(self.model, batch)
        while len(self.outcomes) < self.submitted:
            self.loop.run_one()

    @rule()
    def close_and_open(self) -> None:
        if self.kind != "memory":
            self.store.close()
            self.store = self.open()
            self.settle()
            self.loop.run_waiting()

    @rule(
        table=TABLES,
        start=st.just(b"") | KEYS,
        stop=st.none() | KEYS,
        reverse=st.booleans(),
        limit=st.integers(0, 6),
    )
    def scan(
        self, table: Table, start: bytes, stop: bytes | None, reverse: bool, limit: int
    ) -> None:
        rows = sorted(
            (key, value)
            for (where, key), value in self.model.items()
            if where == table and key >= start and (stop is None or key < stop)
        )
        expected = rows[::-1] if reverse else rows
        found = self.store.scan(table, start, stop, reverse=reverse, limit=limit)
        assert found == expected[:limit]

    @invariant()
    def every_result_and_row_is_the_model_s(self) -> None:
        assert self.outcomes == self.expected
        rows = {
            (table, key): value
            for table in (Table.JOBS, Table.USAGE)
            for key, value in self.store.scan(table)
        }
        assert rows == self.model
        assert self.store.statistics().queued_batches == len(self.queued)

    def teardown(self) -> None:
        self.store.close()
        self.directory.cleanup()


class LmdbMachine(StoreMachine):
    kind = "lmdb"


class InlineMachine(StoreMachine):
    kind = "inline"


StoreMachine.TestCase.settings = settings(max_examples=60, stateful_step_count=25, deadline=None)
LmdbMachine.TestCase.settings = InlineMachine.TestCase.settings = settings(
    max_examples=25,
    stateful_step_count=25,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
)


@pytest.mark.slow
class TestMemoryStoreAgainstAModel(StoreMachine.TestCase):  # type: ignore[misc, valid-type]
    pass


@pytest.mark.slow
class TestLmdbStoreAgainstAModel(LmdbMachine.TestCase):  # type: ignore[misc, valid-type]
    pass


@pytest.mark.slow
class TestLmdbStoreWithoutAThreadAgainstAModel(InlineMachine.TestCase):  # type: ignore[misc, valid-type]
    pass
