"""What jobs like, and who gets one among workers that fit and have room."""

import heapq

import pytest
from hypothesis import given, strategies as st
from msgspec.structs import replace

from tests.worker.test_scheduler import Node, leases, offer_of
from worker.config import Config
from worker.events import Attach, Detach, Preference, Requires, Start
from worker.forecast import _turn_in_s
from worker.preferences import has, weigh
from worker.protocol import Accelerator, Offer

SSD = Preference("label", "disk=ssd", 5)
OFFER = Offer(
    slots=4,
    cores=4,
    memory_bytes=1 << 33,
    arch="aarch64",
    runtimes=["python"],
    isolation=["process"],
    backends=["CUDAExecutionProvider", "CPUExecutionProvider"],
    accelerators=[Accelerator(kind="CUDA")] * 2,
    labels={"disk": "ssd", "odd": "a=b"},
)


def fleet(node: Node, *offers: Offer) -> None:
    for number, offer in enumerate(offers, 1):
        node.tell(Attach(number, offer))


def test_weights_of_what_a_worker_has_add_up() -> None:
    prefers = (
        SSD,
        Preference("label", "odd=a=b", 1),
        Preference("label", "disk=tape", 100),
        Preference("label", "none", 100),
        Preference("arch", "aarch64", 10),
        Preference("accelerator", "cuda", 20),
        Preference("backend", "CPUExecutionProvider", -2),
    )
    assert weigh(prefers, OFFER) == 5 + 1 + 10 + 20 - 2
    assert weigh((), OFFER) == 0


@given(
    st.lists(
        st.builds(
            Preference,
            st.sampled_from(["label", "arch", "accelerator", "backend"]),
            st.sampled_from(["disk=ssd", "disk=", "=", "cuda", "aarch64", "CUDAExecutionProvider"]),
            st.integers(-9, 9),
        )
    )
)
def test_each_preference_counts_by_itself(prefers: list[Preference]) -> None:
    assert weigh(prefers, OFFER) == sum(one.weight for one in prefers if has(one, OFFER))


def test_the_worker_that_weighs_most_gets_the_job_while_it_has_room() -> None:
    node = Node()
    fleet(node, offer_of(4), replace(offer_of(2), labels={"disk": "ssd"}))
    liked = (SSD,)
    assert leases(node.submit(10, 11, 12, prefers=liked)) == [(2, 10), (2, 11), (1, 12)]
    assert leases(node.submit(13)) == [(1, 13)], "who likes nothing goes where there is most room"


def test_what_weighs_less_than_nothing_is_taken_last() -> None:
    node = Node()
    fleet(node, replace(offer_of(4), labels={"disk": "ssd"}), offer_of(1))
    averse = (replace(SSD, weight=-1),)
    assert leases(node.submit(10, 11, prefers=averse)) == [(2, 10), (1, 11)]


def test_a_preference_never_makes_a_job_wait_nor_run_where_it_does_not_fit() -> None:
    node = Node()
    fleet(node, replace(offer_of(1), labels={"disk": "ssd"}), offer_of(1))
    assert leases(node.submit(9, prefers=(SSD,), requires=Requires(memory_bytes=1 << 40))) == []
    liked = (SSD,)
    assert leases(node.submit(10, 11, prefers=liked)) == [(1, 10), (2, 11)]
    assert leases(node.submit(12, prefers=liked)) == []
    assert leases(node.finish(2, 11)) == [(2, 12)]


def test_quick_jobs_do_not_wait_at_a_liked_worker_while_another_is_free() -> None:
    node = Node()
    fleet(node, replace(offer_of(1), labels={"disk": "ssd"}), offer_of(1))
    liked = (SSD,)
    for job in range(20, 24):
        node.submit(job, prefers=liked)
        node.scheduler.handle(finish_of(node, job, 0.001), node.now)
    assert leases(node.submit(10, 11, prefers=liked)) == [(1, 10), (2, 11)]


def finish_of(node: Node, job: int, run_s: float) -> object:
    from worker.events import Finish

    snapshot = node.scheduler.snapshot(job)
    assert snapshot is not None
    return Finish(snapshot.worker, job, snapshot.fence, None, run_s)


def test_a_worker_that_comes_back_with_another_offer_is_weighed_anew() -> None:
    node = Node()
    ssd = replace(offer_of(1), labels={"disk": "ssd"})
    fleet(node, ssd, offer_of(1))
    liked = (SSD,)
    node.submit(10, prefers=liked)
    node.finish(1, 10)
    node.tell(Detach(1), Attach(1, offer_of(1)), Attach(2, ssd))
    assert leases(node.submit(11, prefers=liked)) == [(2, 11)]


def test_jobs_that_like_different_things_wait_in_one_queue() -> None:
    """However many there are, a worker with room looks at one of them."""
    node = Node(config=Config(preferences_max=4))
    node.attach(1, 1)
    node.submit(10)
    for weight in range(1, 40):
        node.submit(10 + weight, prefers=(replace(SSD, weight=weight),))
    assert node.scheduler.statistics().queues == 1
    fleet(node, *[replace(offer_of(4), labels={"disk": "ssd"})] * 9)
    for weight in range(1, 40):
        node.submit(100 + weight, prefers=(replace(SSD, weight=weight),))


# --- policies -------------------------------------------------------------------------------


def test_spread_takes_the_emptiest_worker_and_pack_the_fullest_with_room() -> None:
    placed = {}
    for policy in ("spread", "pack"):
        node = Node(config=Config(policy=policy))  # type: ignore[arg-type]
        fleet(node, offer_of(3), offer_of(3))
        placed[policy] = [worker for worker, _ in leases(node.submit(*range(10, 15)))]
    assert placed == {"spread": [1, 2, 1, 2, 1], "pack": [1, 1, 1, 2, 2]}


def test_pack_keeps_the_large_worker_free_for_wide_jobs() -> None:
    node = Node(config=Config(policy="pack"))
    fleet(node, offer_of(8), offer_of(2))
    assert leases(node.submit(10, 11)) == [(2, 10), (2, 11)]
    assert leases(node.submit(12, requires=Requires(cpu=8))) == [(1, 12)]


# --- measured run times ---------------------------------------------------------------------


def measured(fast_s: float, slow_s: float, fast_slots: int = 2) -> Node:
    """Return a node with a slow worker (1) and a fast one (2), of which both are known."""
    node = Node()
    fleet(node, offer_of(4), replace(offer_of(fast_slots), arch="aarch64"))
    for worker, run_s in ((1, slow_s), (2, fast_s)):
        name = "x86_64" if worker == 1 else "aarch64"
        node.submit(90 + worker, requires=Requires(arch=name))
        node.scheduler.handle(finish_of(node, 90 + worker, run_s), node.now)
    return node


def test_a_job_goes_where_its_program_runs_faster() -> None:
    node = measured(fast_s=1.0, slow_s=4.0)
    assert leases(node.submit(10, 11, 12)) == [(2, 10), (2, 11), (1, 12)]


def test_where_it_makes_little_difference_room_decides() -> None:
    assert leases(measured(fast_s=1.0, slow_s=1.1).submit(10)) == [(1, 10)]
    assert leases(measured(fast_s=0.0001, slow_s=0.01).submit(10)) == [(1, 10)]


def test_what_a_job_likes_goes_before_where_it_is_fast() -> None:
    node = measured(fast_s=1.0, slow_s=4.0)
    liked = (Preference("arch", "x86_64", 1),)
    assert leases(node.submit(10, prefers=liked)) == [(1, 10)]


def test_a_class_that_was_not_measured_is_tried() -> None:
    node = measured(fast_s=1.0, slow_s=4.0, fast_slots=1)
    node.tell(Attach(3, replace(offer_of(2), arch="riscv64")))
    assert leases(node.submit(10)) == [(3, 10)], "as fast as the fastest, and more room"


def test_the_faster_machine_is_a_hint_between_equals() -> None:
    node = Node()
    fleet(
        node,
        replace(offer_of(2), speed_rounds_per_s=1000),
        replace(offer_of(2), speed_rounds_per_s=9000),
    )
    assert leases(node.submit(10, 11, 12, 13)) == [(2, 10), (1, 11), (2, 12), (1, 13)]


# --- when a job starts ----------------------------------------------------------------------


def starts(node: Node, job: int) -> float | None:
    found = node.scheduler.starts_in_s(job, node.now)
    return None if found is None else round(found, 6)


def known(slots: int = 2, run_s: float = 10.0) -> Node:
    """Return a node with one worker, full of jobs (20, ...) that take `run_s`, and began now."""
    node = Node()
    node.attach(1, slots)
    node.submit(99)
    node.scheduler.handle(finish_of(node, 99, run_s), node.now)
    for job in range(20, 20 + slots):
        node.submit(job)
        node.tell(Start(1, job, node.fence(job)))
    return node


def test_a_job_starts_when_the_first_slot_is_free_and_those_before_it_had_theirs() -> None:
    node = known(slots=2, run_s=10.0)
    node.submit(30, 31, 32, 33, 34)
    assert [starts(node, job) for job in range(30, 35)] == [10.0, 10.0, 20.0, 20.0, 30.0]
    node.sleep(4.0)
    assert starts(node, 30) == 6.0
    node.sleep(9.0)
    assert starts(node, 30) is None, "a slot is overdue: nobody knows"


def test_no_start_is_told_where_it_would_be_a_guess() -> None:
    node = Node()
    node.submit(10)
    assert starts(node, 10) is None, "no worker"
    node.attach(1, 1)
    assert starts(node, 10) is None, "it runs"
    node.submit(11)
    assert starts(node, 11) is None, "nothing is known of what runs"
    node = known()
    node.submit(30, requires=Requires(labels=(("a", "b"),)))
    assert starts(node, 30) is None, "no worker fits"
    node.submit(31, program="8.1")
    assert starts(node, 31) == 10.0
    node.submit(32)
    assert starts(node, 32) is None, "nothing is known of what is before it"
    node.tell(Detach(1))
    assert starts(node, 31) is None, "its worker is away"
    assert starts(node, 12345) is None


def test_a_start_is_no_sooner_than_a_retry_may_be() -> None:
    from worker.events import Retry

    node = known(slots=1, run_s=10.0)
    retry = Retry(max_attempts=3, backoff_s=60.0, on=frozenset({"error"}))
    node.finish(1, 20)
    node.submit(30, retry=retry)
    node.submit(31)
    node.finish(1, 30, "function_error")
    assert starts(node, 30) == 60.0


def test_wide_jobs_count_by_the_slots_they_take() -> None:
    node = known(slots=4, run_s=10.0)
    node.submit(30, 31, requires=Requires(cpu=4))
    assert starts(node, 30) == 10.0
    assert starts(node, 31) == 20.0
    node.submit(32, requires=Requires(cpu=2))
    assert starts(node, 32) == 30.0


@given(
    slots=st.integers(1, 6),
    waiting=st.integers(1, 30),
    run_s=st.floats(0.1, 100.0),
)
def test_a_later_job_never_starts_sooner_and_all_slots_are_used(
    slots: int, waiting: int, run_s: float
) -> None:
    node = known(slots, run_s)
    node.submit(*range(100, 100 + waiting))
    found = [node.scheduler.starts_in_s(job, node.now) for job in range(100, 100 + waiting)]
    assert found == [pytest.approx(run_s * (1 + number // slots)) for number in range(waiting)]


@given(
    ends=st.lists(st.integers(0, 50), min_size=1, max_size=8),
    turn=st.integers(0, 40),
    run_s=st.integers(1, 30),
)
def test_places_that_are_free_at_different_times_are_taken_in_turn(
    ends: list[int], turn: int, run_s: int
) -> None:
    free = sorted(map(float, ends))
    expected = list(free)
    for _ in range(turn):
        heapq.heapreplace(expected, expected[0] + run_s)
    assert _turn_in_s(free, turn, run_s) == pytest.approx(expected[0])
