"""The life of jobs, one rule a test."""

from collections.abc import Iterator

import pytest
from msgspec.structs import replace

from worker.config import Config
from worker.events import (
    Adopt,
    Attach,
    Beat,
    Begin,
    Cancel,
    Cordon,
    Detach,
    Drain,
    Effect,
    Finish,
    Heartbeat,
    Input,
    Job,
    Kill,
    Lease,
    Recall,
    Refuse,
    Remove,
    Reprioritise,
    Requeue,
    Requires,
    Restore,
    Retry,
    Return,
    Running,
    Settle,
    Settled,
    Start,
    Submit,
    Tick,
    Timeouts,
    Uncordon,
    Withdraw,
)
from worker.protocol import Accelerator, ErrorCode, Held, Offer
from worker.scheduler import Scheduler

ANY = frozenset({"lost", "error", "timeout", "limit"})
GIB = 1 << 30


def offer_of(slots: int = 2, memory_bytes: int = 8 * GIB) -> Offer:
    return Offer(
        slots=slots,
        cores=slots,
        memory_bytes=memory_bytes,
        arch="x86_64",
        runtimes=["python"],
        isolation=["process", "sandbox"],
    )


class Node:
    """A scheduler with a clock, and short words for what happens to it."""

    def __init__(self, boot: int = 1, config: Config | None = None) -> None:
        self.now = 1000.0
        self.scheduler = Scheduler(config or Config(), boot)

    def tell(self, *inputs: Input) -> list[Effect]:
        effects: list[Effect] = []
        for one in inputs:
            effects += self.scheduler.handle(one, self.now)
            self.scheduler.check()
        return effects

    def attach(self, worker: int, slots: int = 2, *held: tuple[int, int]) -> list[Effect]:
        return self.tell(Attach(worker, offer_of(slots), tuple(Held(*one) for one in held)))

    def submit(
        self,
        *jobs: int,
        requires: Requires = Requires(),  # noqa: B008
        retry: Retry = Retry(),  # noqa: B008
        timeouts: Timeouts = Timeouts(),  # noqa: B008
        **fields: object,
    ) -> list[Effect]:
        return self.tell(
            *(
                Submit(job_of(job, requires=requires, retry=retry, timeouts=timeouts, **fields))
                for job in jobs
            )
        )

    def finish(self, worker: int, job: int, error: ErrorCode | None = None) -> list[Effect]:
        return self.tell(Finish(worker, job, self.fence(job), error, 1.0))

    def start(self, worker: int, job: int) -> list[Effect]:
        return self.tell(Start(worker, job, self.fence(job)))

    def lose(self, worker: int) -> list[Effect]:
        """A worker's link breaks and it does not come back in time."""
        return self.tell(Detach(worker)) + self.sleep(31.0)

    def sleep(self, elapsed_s: float) -> list[Effect]:
        """Time passes, with a tick at each deadline."""
        until = self.now + elapsed_s
        effects: list[Effect] = []
        while (deadline := self.scheduler.deadline) is not None and deadline <= until:
            assert deadline >= self.now
            self.now = deadline
            effects += self.tell(Tick())
        self.now = until
        return effects

    def fence(self, job: int) -> int:
        snapshot = self.scheduler.snapshot(job)
        assert snapshot is not None
        return snapshot.fence

    def state(self, job: int) -> str:
        snapshot = self.scheduler.snapshot(job)
        assert snapshot is not None
        return snapshot.state

    def codes(self, job: int) -> list[tuple[int, str]]:
        return [(one.worker, one.code) for one in self.scheduler.reasons(job, self.now)]


def job_of(job: int, **fields: object) -> Job:
    given: dict[str, object] = {
        "program": "7.1",
        "requires": Requires(),
        "retry": Retry(),
        "timeouts": Timeouts(),
    }
    return Job(job=job, **(given | fields))  # type: ignore[arg-type]


def leases(effects: list[Effect]) -> list[tuple[int, int]]:
    """Return `(worker, job)` of each lease."""
    return [(one.worker, one.job) for one in effects if isinstance(one, Lease)]


def only(effects: list[Effect]) -> Effect:
    (effect,) = effects
    return effect


@pytest.fixture
def node() -> Iterator[Node]:
    node = Node()
    yield node
    node.scheduler.check()


# --- placing --------------------------------------------------------------------------------


def test_a_job_is_leased_when_it_is_handed_in_and_a_worker_has_room(node: Node) -> None:
    node.attach(1)
    assert node.submit(10) == [Lease(1, 10, (1 << 32) + 1, 1)]
    assert node.state(10) == "leased"


def test_a_job_is_leased_when_a_worker_attaches(node: Node) -> None:
    assert node.submit(10) == []
    assert leases(node.attach(1)) == [(1, 10)]


def test_no_more_jobs_are_leased_than_a_worker_has_slots(node: Node) -> None:
    node.attach(1, 2)
    assert leases(node.submit(10, 11, 12)) == [(1, 10), (1, 11)]
    assert leases(node.finish(1, 11)) == [(1, 12)]


def test_a_job_takes_as_many_slots_as_it_says(node: Node) -> None:
    node.attach(1, 4)
    assert leases(node.submit(10, 11, requires=Requires(cpu=3))) == [(1, 10)]
    assert leases(node.submit(12)) == [(1, 12)]
    assert leases(node.finish(1, 12)) == []
    assert leases(node.finish(1, 10)) == [(1, 11)]


def test_memory_is_never_promised_twice(node: Node) -> None:
    node.attach(1, 8)
    five = Requires(memory_bytes=5 * GIB)
    assert leases(node.submit(10, 11, requires=five)) == [(1, 10)]
    assert node.codes(11) == [(1, "memory_taken")]
    assert leases(node.finish(1, 10)) == [(1, 11)]


def test_gpus_are_never_promised_twice_and_small_ones_go_first(node: Node) -> None:
    gpus = [Accelerator(kind="gpu", memory_bytes=size * GIB) for size in (24, 8)]
    offer = Offer(
        slots=8,
        cores=8,
        memory_bytes=GIB,
        arch="x86_64",
        runtimes=["python"],
        isolation=["process"],
        accelerators=gpus,
    )
    node.tell(Attach(1, offer))
    assert leases(node.submit(10, requires=Requires(gpu=1))) == [(1, 10)]
    large = Requires(gpu_memory_bytes=20 * GIB)
    assert leases(node.submit(11, 12, requires=large)) == [(1, 11)]
    assert node.codes(12) == [(1, "gpus_taken")]
    assert leases(node.finish(1, 10)) == [], "a small GPU is free, and does not help"
    assert leases(node.finish(1, 11)) == [(1, 12)]


def test_the_worker_with_most_free_slots_is_chosen_then_the_one_that_attached_first(
    node: Node,
) -> None:
    node.attach(5, 1)
    node.attach(2, 2)
    node.attach(9, 2)
    placed = leases(node.submit(10, 11, 12, 13, 14))
    assert placed == [(2, 10), (9, 11), (5, 12), (2, 13), (9, 14)]


def test_higher_priority_goes_first_then_the_order_of_submission(node: Node) -> None:
    node.submit(10, 11)
    node.submit(12, 13, priority=5)
    assert leases(node.attach(1, 4)) == [(1, 12), (1, 13), (1, 10), (1, 11)]


def test_a_new_priority_changes_the_order_of_queued_jobs(node: Node) -> None:
    node.submit(10, 11, 12)
    node.tell(Reprioritise(12, 1), Reprioritise(10, 1), Reprioritise(99, 1))
    assert leases(node.attach(1, 3)) == [(1, 10), (1, 12), (1, 11)]


def test_a_job_that_fits_no_worker_waits_and_does_not_hold_up_others(node: Node) -> None:
    node.attach(1, 2)
    node.submit(10, requires=Requires(runtime="wasm"), priority=9)
    assert leases(node.submit(11)) == [(1, 11)]
    assert node.codes(10) == [(1, "runtime")]


def test_narrow_jobs_overtake_a_wide_one_for_ten_seconds_and_no_longer(node: Node) -> None:
    node.attach(1, 2)
    node.submit(10)
    node.submit(20, requires=Requires(cpu=2))
    assert leases(node.submit(11)) == [(1, 11)], "there is room that the wide job cannot use"
    node.sleep(10.0)
    node.submit(12)
    assert leases(node.finish(1, 10)) == [], "held free"
    assert (1, "reserved") in node.codes(12)
    assert leases(node.finish(1, 11)) == [(1, 20)]
    assert leases(node.finish(1, 20)) == [(1, 12)]


def test_only_one_worker_is_held_free_for_a_wide_job(node: Node) -> None:
    node.attach(1, 2)
    node.attach(2, 2)
    node.submit(10, 11, 12, 13)
    node.submit(20, requires=Requires(cpu=2))
    node.submit(14, 15, 16)
    node.sleep(10.0)
    assert leases(node.finish(1, 10)) == []
    assert leases(node.finish(2, 11)) == [(2, 14)]
    assert leases(node.tell(Cancel(20))) == [(1, 15)], "nothing to hold it free for"


def test_a_worker_held_free_in_vain_is_used_at_once(node: Node) -> None:
    node.attach(1, 2)
    node.submit(10, 11)
    node.submit(20, requires=Requires(cpu=2))
    node.submit(12)
    node.sleep(10.0)
    assert leases(node.finish(1, 10)) == [], "held free"
    assert leases(node.attach(2, 2)) == [(2, 20), (1, 12)]


def test_a_node_that_goes_on_as_another_start_gives_fences_above_all_before() -> None:
    node = Node(boot=3)
    node.attach(7, 4)
    node.submit(1, 2)
    node.tell(Begin(9), Begin(4))
    node.submit(3)
    assert [node.fence(job) >> 32 for job in (1, 2, 3)] == [3, 3, 9]
    # A worker that still has an attempt of before goes on with it.
    node.tell(Detach(7))
    again = node.attach(7, 4, (1, node.fence(1)))
    assert not [effect for effect in again if isinstance(effect, Kill)]


def test_a_fence_is_the_boot_count_and_a_counter_and_grows_past_restored_ones() -> None:
    node = Node(boot=3)
    node.attach(1, 1)
    node.submit(10)
    assert node.fence(10) == (3 << 32) + 1
    node.submit(11, fence=(9 << 32) + 5, age_s=1.0)
    node.finish(1, 10)
    assert node.fence(11) == (9 << 32) + 6


# --- the course of an attempt ---------------------------------------------------------------


def test_a_start_is_said_once(node: Node) -> None:
    node.attach(1)
    node.submit(10)
    assert node.start(1, 10) == [Running(10, node.fence(10))]
    assert node.start(1, 10) == []
    assert node.state(10) == "running"


def test_progress_counts_as_a_start(node: Node) -> None:
    node.attach(1)
    node.submit(10)
    assert node.tell(Heartbeat(1, 10, node.fence(10))) == [Running(10, node.fence(10))]


def test_a_start_says_how_long_ago_it_was(node: Node) -> None:
    node.attach(1)
    node.submit(10)
    node.sleep(1.0)
    node.tell(Start(1, 10, node.fence(10), 0.25))
    snapshot = node.scheduler.snapshot(10)
    assert snapshot is not None
    assert snapshot.started_at_s == 1000.75


def test_a_job_succeeds_and_is_forgotten_when_that_is_durable(node: Node) -> None:
    node.attach(1)
    node.submit(10)
    fence = node.fence(10)
    assert node.finish(1, 10) == [Settle(10, "succeeded", 1, fence, 1)]
    snapshot = node.scheduler.snapshot(10)
    assert snapshot is not None
    assert snapshot.settling
    assert node.tell(Settled(10)) == []
    assert node.scheduler.snapshot(10) is None


def test_a_decided_job_frees_its_slot_at_once_and_changes_no_more(node: Node) -> None:
    node.attach(1, 1)
    node.submit(10, 11)
    effects = node.finish(1, 10)
    assert isinstance(effects[0], Settle)
    assert leases(effects) == [(1, 11)]
    fence = node.fence(10)
    assert node.tell(Cancel(10), Finish(1, 10, fence, "exited"), Finish(1, 10, fence, None)) == []


@pytest.mark.parametrize(
    ("error", "state"),
    [
        ("function_error", "failed"),
        ("setup_failed", "failed"),
        ("memory_limit", "failed"),
        ("run_timeout", "expired"),
        ("heartbeat_timeout", "expired"),
    ],
)
def test_an_error_that_is_not_to_be_retried_ends_the_job(
    node: Node, error: ErrorCode, state: str
) -> None:
    node.attach(1)
    node.submit(10)
    effect = only(node.finish(1, 10, error))
    assert isinstance(effect, Settle)
    assert (effect.state, effect.code, effect.worker) == (state, error, 1)


@pytest.mark.parametrize(
    ("error", "cause"),
    [("exited", "error"), ("output_limit", "limit"), ("run_timeout", "timeout")],
)
def test_an_error_named_in_retry_is_tried_again(node: Node, error: ErrorCode, cause: str) -> None:
    node.attach(1)
    node.submit(10, retry=Retry(max_attempts=3, backoff_s=2.0, on=frozenset({cause})))
    fence = node.fence(10)
    assert node.finish(1, 10, error) == [Requeue(10, 1, fence, (), cause, 2.0)]
    assert node.codes(10) == [(0, "backoff")]
    assert node.sleep(1.9) == []
    assert only(node.sleep(0.1)) == Lease(1, 10, fence + 1, 2)
    assert only(node.finish(1, 10, error)) == Requeue(10, 2, fence + 1, (), cause, 4.0)
    assert leases(node.sleep(4.0)) == [(1, 10)]
    last = only(node.finish(1, 10, error))
    assert isinstance(last, Settle)
    assert last.attempt == 3


def test_backoff_doubles_up_to_a_limit() -> None:
    node = Node(config=Config(backoff_max_s=5.0))
    node.attach(1)
    node.submit(10, retry=Retry(max_attempts=2000, on=ANY))
    delays = []
    for _ in range(1500):
        effect = only(node.finish(1, 10, "exited"))
        assert isinstance(effect, Requeue)
        delays.append(effect.delay_s)
        node.sleep(effect.delay_s)
        node.tell(Beat(1))
    assert delays[:4] == [1.0, 2.0, 4.0, 5.0]
    assert set(delays[3:]) == {5.0}


def test_a_message_with_another_fence_is_refused_and_changes_nothing(node: Node) -> None:
    node.attach(1)
    node.attach(2)
    node.submit(10)
    fence = node.fence(10)
    assert node.tell(Finish(1, 10, fence - 1, None)) == [Refuse(1, 10, fence - 1)]
    assert node.tell(Finish(2, 10, fence, None)) == [Refuse(2, 10, fence)]
    assert node.tell(Start(1, 11, fence)) == [Refuse(1, 11, fence)]
    assert node.tell(Return(2, 10, fence)) == [Refuse(2, 10, fence)]
    assert node.tell(Heartbeat(3, 10, fence)) == [Refuse(3, 10, fence)]
    assert node.state(10) == "leased"


def test_a_lease_given_back_counts_nothing_and_goes_to_the_front(node: Node) -> None:
    node.attach(1, 1)
    node.submit(10, 11)
    fence = node.fence(10)
    assert node.tell(Return(1, 10, fence)) == [Requeue(10, 0, fence, (), "returned", 0.0)]
    assert leases(node.attach(2, 2)) == [(2, 10), (2, 11)]
    snapshot = node.scheduler.snapshot(10)
    assert snapshot is not None
    assert snapshot.attempt == 1


def test_a_worker_that_gives_back_unasked_gets_nothing_until_its_next_beat(node: Node) -> None:
    node.attach(1, 1)
    node.submit(10)
    node.tell(Return(1, 10, node.fence(10)))
    assert node.codes(10) == [(1, "returning")]
    assert leases(node.tell(Beat(1))) == [(1, 10)]


# --- cancel and withdraw --------------------------------------------------------------------


def test_a_queued_job_is_cancelled_at_once(node: Node) -> None:
    node.submit(10)
    effect = only(node.tell(Cancel(10)))
    assert isinstance(effect, Settle)
    assert (effect.state, effect.worker, effect.code) == ("cancelled", 0, "cancelled")
    assert leases(node.attach(1)) == []


def test_a_job_in_backoff_can_be_cancelled(node: Node) -> None:
    node.attach(1)
    node.submit(10, retry=Retry(on=ANY))
    node.finish(1, 10, "exited")
    assert isinstance(only(node.tell(Cancel(10))), Settle)
    assert node.sleep(10.0) == []
    assert node.scheduler.statistics().backing_off == 0


def test_cancelling_a_running_job_kills_it_and_what_it_says_later_is_refused(node: Node) -> None:
    node.attach(1, 1)
    node.submit(10, 11)
    node.start(1, 10)
    fence = node.fence(10)
    kill, settle, lease = node.tell(Cancel(10))
    assert kill == Kill(1, 10, fence, "cancelled")
    assert isinstance(settle, Settle)
    assert leases([lease]) == [(1, 11)]
    assert node.tell(Cancel(10)) == []
    assert node.tell(Finish(1, 10, fence, None)) == [Refuse(1, 10, fence)]


def test_a_withdrawn_job_never_was(node: Node) -> None:
    node.attach(1, 1)
    node.submit(10, 11, 12)
    fence = node.fence(10)
    assert node.tell(Withdraw(12), Withdraw(12)) == []
    assert node.tell(Withdraw(10))[0] == Kill(1, 10, fence, "withdrawn")
    assert node.state(11) == "leased"
    node.finish(1, 11)
    assert node.tell(Withdraw(11)) == []
    assert [node.scheduler.snapshot(job) for job in (10, 11, 12)] == [None, None, None]
    assert node.scheduler.statistics().settling == 0


def test_a_job_cannot_be_submitted_twice(node: Node) -> None:
    node.submit(10)
    with pytest.raises(ValueError, match="job 10 is already here"):
        node.scheduler.handle(Submit(job_of(10)), node.now)


# --- time limits ----------------------------------------------------------------------------


def test_a_job_that_waits_too_long_expires(node: Node) -> None:
    node.submit(10, timeouts=Timeouts(queue_s=5.0))
    assert node.sleep(4.9) == []
    effect = only(node.sleep(0.1))
    assert isinstance(effect, Settle)
    assert (effect.state, effect.code) == ("expired", "queue_timeout")


def test_the_queue_limit_does_not_run_while_a_job_runs_and_starts_anew_after(node: Node) -> None:
    node.attach(1)
    node.submit(10, timeouts=Timeouts(queue_s=50.0), retry=Retry(backoff_s=0.0))
    node.start(1, 10)
    for _ in range(10):
        assert node.sleep(20.0) == []
        node.tell(Beat(1))
    assert isinstance(only(node.lose(1)), Requeue)
    assert node.sleep(48.0) == []
    assert isinstance(only(node.sleep(2.0)), Settle)


def test_the_queue_limit_goes_on_when_a_lease_comes_back_that_never_started(node: Node) -> None:
    node.attach(1, 1)
    node.submit(10, timeouts=Timeouts(queue_s=50.0))
    node.sleep(20.0)
    node.tell(Return(1, 10, node.fence(10)))
    assert node.sleep(29.0) == []
    assert isinstance(only(node.sleep(1.0)), Settle)


def test_the_total_limit_runs_from_submission_and_kills(node: Node) -> None:
    node.attach(1)
    node.submit(10, timeouts=Timeouts(total_s=20.0), age_s=5.0)
    node.start(1, 10)
    fence = node.fence(10)
    assert node.sleep(14.9) == []
    kill, settle = node.sleep(0.2)
    assert kill == Kill(1, 10, fence, "total_timeout")
    assert isinstance(settle, Settle)
    assert (settle.state, settle.code, settle.worker) == ("expired", "total_timeout", 0)


def test_the_total_limit_ends_a_job_in_backoff_too(node: Node) -> None:
    node.attach(1)
    node.submit(10, timeouts=Timeouts(total_s=5.0), retry=Retry(backoff_s=100.0, on=ANY))
    node.finish(1, 10, "exited")
    effect = only(node.sleep(6.0))
    assert isinstance(effect, Settle)
    assert effect.code == "total_timeout"


def test_the_run_limit_is_the_workers_and_the_scheduler_steps_in_two_seconds_later(
    node: Node,
) -> None:
    node.attach(1)
    node.submit(10, timeouts=Timeouts(run_s=10.0))
    node.start(1, 10)
    assert node.sleep(11.9) == []
    kill, settle = node.sleep(0.1)
    assert isinstance(kill, Kill)
    assert isinstance(settle, Settle)
    assert (settle.state, settle.code) == ("expired", "run_timeout")


def test_a_function_without_progress_expires_and_one_with_progress_does_not(node: Node) -> None:
    node.attach(1)
    node.submit(10, 11, timeouts=Timeouts(heartbeat_s=5.0))
    node.start(1, 10)
    node.start(1, 11)
    for _ in range(4):
        effects = node.sleep(4.0)
        node.tell(Heartbeat(1, 11, node.fence(11)))
        if effects:
            kill, settle = effects
            assert isinstance(kill, Kill)
            assert isinstance(settle, Settle)
            assert (settle.job, settle.state, settle.code) == (10, "expired", "heartbeat_timeout")
    assert node.state(11) == "running"
    snapshot = node.scheduler.snapshot(10)
    assert snapshot is not None
    assert snapshot.settling


def test_a_timeout_is_tried_again_when_retry_names_it(node: Node) -> None:
    node.attach(1)
    node.submit(10, timeouts=Timeouts(heartbeat_s=5.0), retry=Retry(on=ANY))
    node.start(1, 10)
    kill, requeue, lease = node.sleep(6.0)
    assert isinstance(kill, Kill)
    assert isinstance(requeue, Requeue)
    assert (requeue.cause, requeue.attempt) == ("timeout", 1)
    assert isinstance(lease, Lease)


def test_no_heartbeat_is_missed_while_a_worker_is_away(node: Node) -> None:
    node.attach(1)
    node.submit(10, timeouts=Timeouts(heartbeat_s=5.0, run_s=8.0))
    node.start(1, 10)
    node.tell(Detach(1))
    assert node.sleep(29.0) == []
    assert node.attach(1, 2, (10, node.fence(10))) == [Adopt(1, 10, node.fence(10))]
    assert node.sleep(1.9) == []
    kill, settle = node.sleep(0.2)
    assert isinstance(kill, Kill)
    assert isinstance(settle, Settle)
    assert settle.code == "run_timeout"


# --- lost links, workers and nodes ----------------------------------------------------------


def test_a_worker_that_comes_back_in_time_keeps_its_jobs(node: Node) -> None:
    node.attach(1, 2)
    node.submit(10, 11)
    node.start(1, 10)
    node.tell(Detach(1))
    assert node.sleep(29.0) == []
    held = [(job, node.fence(job)) for job in (10, 11)]
    assert node.attach(1, 2, *held) == [Adopt(1, *one) for one in held]
    assert node.state(10) == "running"
    assert isinstance(only(node.finish(1, 10)), Settle)


def test_a_worker_that_does_not_come_back_has_lost_its_jobs(node: Node) -> None:
    node.attach(1, 1)
    node.submit(10)
    fence = node.fence(10)
    assert node.lose(1) == [Requeue(10, 1, fence, (1,), "lost", 1.0)]
    assert leases(node.attach(2)) == [(2, 10)]
    assert node.attach(1, 1, (10, fence)) == [Refuse(1, 10, fence)]


def test_what_a_returning_worker_does_not_hold_is_lost(node: Node) -> None:
    node.attach(1, 2)
    node.submit(10, 11)
    fences = {job: node.fence(job) for job in (10, 11)}
    effects = node.attach(1, 2, (11, fences[11]))
    assert effects == [Adopt(1, 11, fences[11]), Requeue(10, 1, fences[10], (1,), "lost", 1.0)]


def test_a_silent_worker_loses_its_leases_and_any_message_renews_them(node: Node) -> None:
    node.attach(1, 1)
    node.submit(10)
    node.start(1, 10)
    fence = node.fence(10)
    node.sleep(20.0)
    node.tell(Beat(1))
    assert node.sleep(29.0) == []
    kill, requeue = node.sleep(1.0)
    assert kill == Kill(1, 10, fence, "lease_lost")
    assert isinstance(requeue, Requeue)
    node.sleep(10.0)
    assert node.codes(10) == [(1, "silent")]
    assert leases(node.tell(Beat(1))) == [(1, 10)], "it is alive after all"


def test_a_job_lost_on_two_different_workers_while_it_ran_is_poisoned(node: Node) -> None:
    node.submit(10, retry=Retry(max_attempts=10))
    node.attach(1)
    node.tell(Remove(1))
    node.sleep(2.0)
    node.attach(1)
    requeue = only(node.tell(Remove(1)))
    assert isinstance(requeue, Requeue)
    assert (requeue.lost_on, requeue.attempt) == ((1,), 2), "the same worker twice is one worker"
    node.sleep(5.0)
    node.attach(2)
    settle = only(node.tell(Remove(2)))
    assert isinstance(settle, Settle)
    assert (settle.state, settle.code) == ("poisoned", "poisoned")
    assert settle.detail == "workers 1, 2 were lost while it ran"


def test_a_job_lost_too_often_fails(node: Node) -> None:
    node.submit(10, retry=Retry(max_attempts=2, backoff_s=0.0))
    node.attach(1)
    node.tell(Remove(1))
    node.attach(1)
    settle = only(node.tell(Remove(1)))
    assert isinstance(settle, Settle)
    assert (settle.state, settle.code, settle.attempt) == ("failed", "lost", 2)


def test_a_lease_that_waited_for_a_slot_counts_nothing_when_its_worker_is_lost(node: Node) -> None:
    busy(node, 1, slots=1)
    node.submit(20, 21, 22, 23)
    assert node.scheduler.workers()[0].prefetched == 3
    effects = node.tell(Remove(1))
    assert [(one.job, one.attempt, one.lost_on) for one in effects if isinstance(one, Requeue)] == [
        (20, 1, (1,)),
        (21, 0, ()),
        (22, 0, ()),
        (23, 0, ()),
    ]


def test_a_job_that_started_counts_even_if_the_node_thought_it_waited(node: Node) -> None:
    busy(node, 1, slots=1)
    node.submit(20, 21)
    node.start(1, 21)
    effects = node.tell(Remove(1))
    assert [one.lost_on for one in effects if isinstance(one, Requeue)] == [(1,), (1,)]


def test_a_removed_worker_is_forgotten(node: Node) -> None:
    node.attach(1)
    node.tell(Remove(1), Remove(1), Detach(1), Uncordon(1))
    assert node.scheduler.workers() == []
    node.submit(10)
    assert node.codes(10) == [(0, "no_worker")]


def test_attaching_again_replaces_the_link(node: Node) -> None:
    node.attach(1, 2)
    node.submit(10)
    held = (10, node.fence(10))
    assert node.attach(1, 1, held, held) == [Adopt(1, *held)]
    assert node.scheduler.workers()[0].free_slots == 0


def test_nothing_is_leased_to_a_returning_worker_before_all_it_lost_is_known(node: Node) -> None:
    busy(node, 1, slots=1)
    node.submit(20, 21, 22)
    effects = node.attach(1, 1, (20, node.fence(20)))
    assert [type(one) for one in effects] == [Adopt, Requeue, Requeue, Lease, Lease]


def test_a_finished_attempt_held_by_a_returning_worker_is_not_refused(node: Node) -> None:
    node.attach(1)
    node.submit(10)
    node.finish(1, 10)
    held = (10, node.fence(10))
    node.tell(Detach(1))
    assert node.attach(1, 2, held) == [], "it is acknowledged when it is durable"
    node.tell(Settled(10))
    assert node.attach(1, 2, held) == [Refuse(1, *held)], "nobody knows it any more: forget it"


def test_a_killed_attempt_held_by_a_returning_worker_is_refused(node: Node) -> None:
    node.attach(1)
    node.submit(10)
    held = (10, node.fence(10))
    node.tell(Detach(1))
    assert isinstance(only(node.tell(Cancel(10))), Settle), "nobody is there to be told to kill it"
    assert node.attach(1, 2, held) == [Refuse(1, *held)]


def test_after_a_restart_a_worker_comes_back_with_its_job() -> None:
    node = Node(boot=2)
    fence = (1 << 32) + 7
    job = job_of(10, attempt=1, fence=fence, age_s=60.0)
    assert node.tell(Restore(job, 1, running=True)) == []
    assert node.state(10) == "running"
    assert node.attach(1, 1, (10, fence)) == [Adopt(1, 10, fence)]
    settle = only(node.finish(1, 10))
    assert isinstance(settle, Settle)
    assert (settle.attempt, settle.fence) == (1, fence)


def test_a_worker_that_came_back_after_a_restart_can_lose_its_job_like_any_other() -> None:
    node = Node(boot=2)
    fence = (1 << 32) + 7
    node.tell(Restore(job_of(10, attempt=1, fence=fence, age_s=60.0), 1, running=True))
    node.attach(1, 1, (10, fence))
    assert node.tell(Remove(1)) == [Requeue(10, 1, fence, (1,), "lost", 1.0)]


@pytest.mark.parametrize("running", [False, True])
@pytest.mark.parametrize("how", ["window", "empty", "removed"])
def test_a_restart_of_the_node_counts_nothing(running: bool, how: str) -> None:
    node = Node(boot=2)
    fence = (1 << 32) + 7
    node.tell(Restore(job_of(10, attempt=2, fence=fence, age_s=9.0), 1, running))
    if how == "window":
        assert node.sleep(29.0) == []
        effects = node.sleep(1.0)
    elif how == "empty":
        effects = node.attach(1, 1)[:1]
    else:
        effects = node.tell(Remove(1))
    assert effects == [Requeue(10, 1, fence, (), "node_restart", 0.0)]


def test_a_job_restored_after_its_worker_attached_waits_again() -> None:
    node = Node(boot=2)
    node.attach(1, 1)
    requeue, lease = node.tell(Restore(job_of(10, attempt=1, fence=5, age_s=1.0), 1, True))
    assert isinstance(requeue, Requeue)
    assert requeue.cause == "node_restart"
    assert leases([lease]) == [(1, 10)]


def test_a_lease_that_was_never_written_down_is_adopted_after_a_restart() -> None:
    node = Node(boot=3)
    node.submit(10, age_s=5.0, fence=(1 << 32) + 9, attempt=1)
    held = (10, (2 << 32) + 4)
    assert node.attach(1, 1, held) == [Adopt(1, *held)]
    snapshot = node.scheduler.snapshot(10)
    assert snapshot is not None
    assert (snapshot.state, snapshot.attempt, snapshot.worker) == ("leased", 2, 1)


@pytest.mark.parametrize(
    ("age_s", "fence", "why"),
    [
        (5.0, (3 << 32) + 1, "no earlier boot gave that fence, and this one did not"),
        (5.0, 1 << 32, "an older attempt"),
        (0.0, (2 << 32) + 4, "a new job: nobody can hold it"),
    ],
)
def test_an_attempt_that_cannot_be_is_not_adopted(age_s: float, fence: int, why: str) -> None:
    node = Node(boot=3)
    node.submit(10, age_s=age_s, fence=(1 << 32) + 9)
    assert node.attach(1, 1, (10, fence))[0] == Refuse(1, 10, fence), why


def test_an_attempt_is_not_adopted_by_a_worker_that_does_not_fit() -> None:
    node = Node(boot=3)
    node.submit(10, age_s=5.0, requires=Requires(isolation="wasm"))
    held = (10, (2 << 32) + 4)
    assert node.attach(1, 1, held) == [Refuse(1, *held)]


# --- cordon and drain -----------------------------------------------------------------------


def test_a_cordoned_worker_gets_nothing_new_and_keeps_what_it_has(node: Node) -> None:
    node.attach(1, 2)
    node.submit(10, 11, 12)
    node.start(1, 10)
    assert node.tell(Cordon(1)) == []
    assert node.codes(12) == [(1, "cordoned"), (1, "slots_taken")]
    assert isinstance(only(node.finish(1, 10)), Settle)
    assert isinstance(only(node.finish(1, 11)), Settle)
    assert leases(node.tell(Uncordon(1))) == [(1, 12)]


def test_a_draining_worker_gets_nothing_new_and_gives_back_what_has_not_started(
    node: Node,
) -> None:
    node.attach(1, 2)
    node.submit(10, 11)
    node.start(1, 10)
    assert node.tell(Drain(1)) == [Recall(1, 11, node.fence(11))]
    assert node.tell(Drain(1)) == []
    requeue = only(node.tell(Return(1, 11, node.fence(11))))
    assert isinstance(requeue, Requeue)
    assert node.codes(11) == [(1, "draining")]
    assert beating(node, 1, 3600.0) == [], "without a deadline it runs to its end"
    assert isinstance(only(node.finish(1, 10)), Settle)
    assert leases(node.tell(Uncordon(1))) == [(1, 11)]


def test_a_worker_can_be_cordoned_before_it_attaches_and_stays_so(node: Node) -> None:
    node.tell(Cordon(1))
    node.submit(10)
    assert node.attach(1) == []
    assert node.codes(10) == [(1, "cordoned")]
    assert leases(node.tell(Uncordon(1))) == [(1, 10)]


def test_a_draining_worker_that_comes_back_is_asked_again(node: Node) -> None:
    node.attach(1)
    node.submit(10)
    node.tell(Drain(1))
    held = (10, node.fence(10))
    assert node.attach(1, 2, held) == [Adopt(1, *held), Recall(1, *held)]


def test_what_runs_past_the_deadline_of_a_drain_goes_elsewhere_at_nobodys_fault(
    node: Node,
) -> None:
    node.attach(1)
    node.submit(10, retry=Retry(max_attempts=1))
    node.start(1, 10)
    node.attach(2)
    fence = node.fence(10)
    assert node.tell(Drain(1, 60.0)) == []
    assert beating(node, 1, 59.0, 2) == []
    assert beating(node, 1, 1.0, 2) == [
        Kill(1, 10, fence, "drained"),
        Requeue(10, 0, fence, (), "drained", 0.0),
        Lease(2, 10, fence + 1, 1),
    ]
    assert node.tell(Finish(1, 10, fence, None, 1.0)) == [Refuse(1, 10, fence)]
    assert beating(node, 1, 600.0, 2) == [], "a deadline passes once"
    assert node.scheduler.workers()[0].draining


def test_a_drain_ends_with_a_cordon_or_a_resumption(node: Node) -> None:
    for end in (Cordon(1), Uncordon(1), Drain(1)):
        node.attach(1)
        node.submit(10)
        node.start(1, 10)
        node.tell(Drain(1, 60.0))
        node.tell(end)
        assert beating(node, 1, 120.0) == []
        assert node.state(10) == "running"
        node.finish(1, 10)
        node.tell(Settled(10), Uncordon(1))


def test_a_deadline_counts_while_the_worker_is_away(node: Node) -> None:
    node.attach(1)
    node.submit(10)
    node.start(1, 10)
    held = (10, node.fence(10))
    node.tell(Drain(1, 10.0), Detach(1))
    (requeue,) = node.sleep(10.0)
    assert isinstance(requeue, Requeue)
    assert requeue.cause == "drained"
    assert node.attach(1, 2, held) == [Refuse(1, *held)]


def test_a_drain_without_time_empties_a_worker_at_once(node: Node) -> None:
    node.attach(1)
    node.submit(10, 11)
    node.start(1, 10)
    node.attach(2, 2)
    assert leases(node.tell(Drain(1, 0.0))) == [(2, 10), (2, 11)]
    assert node.scheduler.workers()[0].leased == 0


def beating(node: Node, worker: int, elapsed_s: float, *others: int) -> list[Effect]:
    """Time passes, and these workers are heard of."""
    until, effects = node.now + elapsed_s, []
    while node.now < until:
        effects += node.sleep(min(10.0, until - node.now))
        effects += node.tell(*(Beat(number) for number in (worker, *others)))
    return effects


# --- prefetch -------------------------------------------------------------------------------


def busy(node: Node, worker: int, slots: int, run_s: float = 0.001, program: str = "7.1") -> None:
    """Attach a worker, fill its slots with jobs of a program that usually takes `run_s`."""
    node.attach(worker, slots)
    first = 1000 * worker
    node.submit(first, program=program)
    node.tell(Finish(worker, first, node.fence(first), None, run_s), Settled(first))
    if slots > 1:
        node.submit(*range(first + 1, first + slots), program=program)


def test_long_jobs_run_exactly_as_many_at_a_time_as_there_are_slots(node: Node) -> None:
    node.attach(1, 8)
    jobs = list(range(10, 74))
    running = [job for _, job in leases(node.submit(*jobs))]
    finished = []
    assert running == jobs[:8]
    while running:
        job = running.pop(0)
        finished.append(job)
        running += [job for _, job in leases(node.finish(1, job))]
        assert len(running) == min(8, 64 - len(finished))
    assert finished == jobs


def test_short_jobs_wait_at_the_worker_up_to_a_limit() -> None:
    node = Node(config=Config(prefetch_max=3))
    busy(node, 1, slots=1)
    assert len(leases(node.submit(20, 21, 22, 23, 24, 25))) == 4
    assert node.codes(25) == [(0, "behind"), (1, "slots_taken")]
    assert leases(node.tell(Finish(1, 20, node.fence(20), None, 0.001))) == [(1, 24)]


def test_no_more_work_waits_at_a_worker_than_takes_its_slots_50_ms(node: Node) -> None:
    busy(node, 1, slots=1, run_s=0.02)
    assert len(leases(node.submit(20, 21, 22, 23, 24))) == 3, "one runs, 40 ms of work wait"


def test_a_program_never_measured_or_long_does_not_wait_at_the_worker(node: Node) -> None:
    busy(node, 1, slots=1)
    assert len(leases(node.submit(20, 21))) == 2
    assert leases(node.submit(22, program="8.1")) == []
    assert leases(node.submit(23)) == [], "it would overtake the one before it at that worker"


def test_nothing_waits_behind_long_jobs(node: Node) -> None:
    busy(node, 1, slots=1)
    node.submit(20, program="8.1")
    assert leases(node.submit(21)) == []


def test_nothing_waits_beside_a_job_that_takes_several_slots(node: Node) -> None:
    node.attach(1, 3)
    node.submit(10)
    node.tell(Finish(1, 10, node.fence(10), None, 0.001))
    node.submit(11, requires=Requires(cpu=2))
    assert leases(node.submit(12, 13)) == [(1, 12)]


def test_free_slots_come_before_waiting_at_a_worker(node: Node) -> None:
    busy(node, 1, slots=1)
    node.attach(2, 1)
    assert leases(node.submit(20, 21, 22, 23)) == [(1, 20), (2, 21), (1, 22), (2, 23)]


def test_what_waits_at_a_worker_too_long_is_asked_back_and_not_sent_again(node: Node) -> None:
    busy(node, 1, slots=1)
    node.submit(20, 21, 22)
    node.start(1, 20)
    assert node.sleep(0.9) == []
    assert node.sleep(0.1) == [Recall(1, job, node.fence(job)) for job in (21, 22)]
    assert node.sleep(20.0) == [], "once"
    effects = node.tell(Return(1, 21, node.fence(21)), Return(1, 22, node.fence(22)))
    assert [type(one) for one in effects] == [Requeue, Requeue]
    assert leases(node.attach(2, 2)) == [(2, 21), (2, 22)]


def test_nothing_short_is_sent_behind_a_job_that_turned_out_slow(node: Node) -> None:
    busy(node, 1, slots=1, program="8.1")
    busy(node, 1, slots=1, program="7.1")
    node.submit(20, program="7.1")
    assert leases(node.submit(21, program="8.1")) == [(1, 21)]
    node.sleep(1.0)
    effects = node.tell(Return(1, 21, node.fence(21)))
    assert [type(one) for one in effects] == [Requeue]


def test_a_recalled_lease_that_has_started_goes_on(node: Node) -> None:
    busy(node, 1, slots=1)
    node.submit(20, 21)
    node.sleep(1.0)
    assert node.start(1, 21) == [Running(21, node.fence(21))]
    assert isinstance(node.finish(1, 21)[0], Settle)


def test_what_waits_at_a_worker_is_asked_back_when_another_one_idles(node: Node) -> None:
    busy(node, 1, slots=1)
    node.submit(20, 21, 22)
    assert node.sleep(0.06) == [], "nobody idles"
    assert node.attach(2, 1) == [Recall(1, job, node.fence(job)) for job in (21, 22)]
    effects = node.tell(Return(1, 21, node.fence(21)), Return(1, 22, node.fence(22)))
    assert leases(effects) == [(2, 21)]


def test_another_worker_that_idles_waits_for_the_expected_time_first(node: Node) -> None:
    busy(node, 1, slots=1)
    node.submit(20, 21)
    assert node.attach(2, 1) == []
    assert node.sleep(0.04) == []
    assert node.sleep(0.01) == [Recall(1, 21, node.fence(21))]


def test_adopted_leases_never_take_more_slots_than_a_smaller_offer_has(node: Node) -> None:
    node.attach(1, 4)
    node.submit(10, 11, 12, requires=Requires(cpu=1))
    node.submit(13)
    held = [(job, node.fence(job)) for job in (10, 11, 12, 13)]
    node.attach(1, 2, *held)
    worker = node.scheduler.workers()[0]
    assert (worker.leased, worker.prefetched, worker.free_slots) == (4, 2, 0)
    node.submit(14)
    assert leases(node.finish(1, 10)) == []
    assert leases(node.finish(1, 11)) == []
    assert leases(node.finish(1, 12)) == [(1, 14)]


# --- reading --------------------------------------------------------------------------------


def test_every_reason_is_named_for_every_worker(node: Node) -> None:
    node.attach(1, 1)
    node.attach(2, 1)
    node.attach(3, 1)
    node.submit(10, 11, 12)
    node.tell(Cordon(2), Detach(3))
    node.tell(Attach(4, replace_offer(runtimes=["wasm"], isolation=["process"], arch="riscv")))
    needs = Requires(isolation="sandbox", arch="x86_64", labels=(("site", "x"),))
    node.submit(20, 21, requires=needs)
    labels = {"site": "x"}
    for worker in (1, 2):
        node.tell(
            Attach(
                worker,
                replace_offer(labels=labels),
                (Held(9 + worker, node.fence(9 + worker)),),
            )
        )
    assert node.codes(21) == [
        (0, "behind"),
        (3, "label"),
        (3, "disconnected"),
        (4, "runtime"),
        (4, "isolation"),
        (4, "arch"),
        (4, "label"),
        (1, "slots_taken"),
        (2, "cordoned"),
        (2, "slots_taken"),
    ]
    details = {one.code: one.detail for one in node.scheduler.reasons(21, node.now)}
    assert details["behind"] == "behind 1 job of equal or higher priority"
    assert details["isolation"] == "needs isolation sandbox or stronger, has process"
    assert details["slots_taken"] == "1 of 1 slots are taken, needs 1"


def replace_offer(**fields: object) -> Offer:
    return replace(offer_of(1), **fields)


def test_a_job_that_does_not_wait_has_no_reasons(node: Node) -> None:
    node.attach(1)
    node.submit(10)
    assert node.scheduler.reasons(10, node.now) == []
    assert node.scheduler.reasons(11, node.now) == []
    node.finish(1, 10)
    assert node.scheduler.reasons(10, node.now) == []


def test_the_number_of_jobs_before_one_is_counted(node: Node) -> None:
    node.submit(10, 11, 12)
    node.submit(13, priority=1)
    node.submit(14, requires=Requires(memory_bytes=1))
    node.attach(1, 1)
    reasons = node.scheduler.reasons(14, node.now)
    assert reasons[0].detail == "behind 3 jobs of equal or higher priority"


def test_the_scheduler_says_what_it_is_in_a_sentence(node: Node) -> None:
    node.attach(1, 2)
    node.submit(10, 11, 12, 13)
    node.start(1, 10)
    assert repr(node.scheduler) == (
        "<Scheduler of boot 1: 2 jobs queued, 1 leased, 1 running, 0 settling; "
        "1 of 1 workers attached, 0 of 2 slots free>"
    )
    statistics = node.scheduler.statistics()
    assert (statistics.leases_total, statistics.settles_total) == (2, 0)
    worker = node.scheduler.workers()[0]
    assert (worker.leased, worker.running, worker.since_s) == (2, 1, 1000.0)


def test_the_same_inputs_have_the_same_effects() -> None:
    def story() -> list[Effect]:
        node = Node()
        effects = node.attach(1, 2) + node.attach(2, 3) + node.submit(*range(10, 30))
        for job in range(10, 20):
            snapshot = node.scheduler.snapshot(job)
            assert snapshot is not None
            if snapshot.worker:
                effects += node.finish(snapshot.worker, job, "exited")
        return effects + node.lose(1) + node.lose(2)

    assert story() == story()


# --- nothing piles up -----------------------------------------------------------------------


def test_a_stream_of_jobs_with_long_limits_leaves_no_timers_behind(node: Node) -> None:
    node.attach(1, 1)
    for job in range(2000):
        node.scheduler.handle(Submit(job_of(job)), node.now)
        fence = node.fence(job)
        node.scheduler.handle(Finish(1, job, fence, None, 0.0001), node.now)
        node.scheduler.handle(Settled(job), node.now)
        node.now += 0.0004
    node.scheduler.check()
    assert node.scheduler.statistics().deadlines == 1, "that of the worker"


def test_distinct_requirements_are_forgotten_when_no_job_has_them() -> None:
    node = Node(config=Config(queues_max=10))
    for job in range(100):
        node.submit(job, requires=Requires(memory_bytes=job))
        node.tell(Cancel(job), Settled(job))
    assert node.scheduler.statistics().queues <= 10


@pytest.mark.parametrize(
    "field",
    [
        {"lease_s": 0.0},
        {"grace_s": -1.0},
        {"prefetch_max": -1},
        {"programs_max": 0},
        {"estimate_weight": 0.0},
        {"estimate_weight": 1.5},
    ],
)
def test_a_setting_that_would_stop_the_scheduler_is_refused(field: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=next(iter(field))):
        Config(**field)  # type: ignore[arg-type]
