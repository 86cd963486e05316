"""What is sent again, what is not, and how long the pauses are."""

import io
from collections.abc import Generator

import pytest
from hypothesis import given, strategies as st

from peernode.client.effects import (
    Draw,
    Emit,
    Open,
    Read,
    Reply,
    Request,
    Send,
    Upload,
    Wait,
    open_answer,
    read,
    send,
)
from peernode.client.errors import ConnectionFailed, NotFound, ProblemError
from peernode.client.retries import Policy, is_repeatable, retry_after_s, retrying

LOST = ConnectionFailed("cut", sent=True)
UNREACHED = ConnectionFailed("refused", sent=False)
GET = Request(method="GET", path="/x", repeatable=True)
POST = Request(method="POST", path="/x")
OK = Reply(status=200, content=b"{}")
BUSY = Reply(status=503, content=b'{"detail": "busy", "code": "overloaded"}')


def play(operation, *script: object):
    """Drive an operation; answer each exchange from the script, chance is always 1/2.

    Returns (value or raised error, effects other than chance).
    """
    answers, effects, answer = [*script], [], None
    try:
        while True:
            effect = (
                operation.throw(answer) if isinstance(answer, Exception) else operation.send(answer)
            )
            if isinstance(effect, Draw):
                answer = 0.5
                continue
            effects.append(effect)
            answer = answers.pop(0) if isinstance(effect, Send | Open | Read) else None
    except StopIteration as stop:
        assert not answers
        return stop.value, effects
    except (ConnectionFailed, ProblemError) as error:
        assert not answers
        return error, effects


def waits(effects):
    return [effect.delay_s for effect in effects if isinstance(effect, Wait)]


def test_a_get_survives_a_cut_a_refusal_and_a_busy_node():
    reply, effects = play(retrying(send(GET), Policy()), LOST, UNREACHED, BUSY, OK)
    assert reply.attempt == 4
    assert waits(effects) == [0.125, 0.25, 0.5]


def test_a_post_without_a_key_is_not_sent_twice():
    assert play(retrying(send(POST), Policy()), LOST) == (LOST, [Send(POST)])


def test_a_post_that_never_left_is_sent_again():
    reply, _ = play(retrying(send(POST), Policy()), UNREACHED, OK)
    assert reply.attempt == 2


def test_a_busy_answer_to_an_unrepeatable_post_is_the_answer():
    error, effects = play(retrying(send(POST), Policy()), BUSY)
    assert isinstance(error, ProblemError)
    assert error.code == "overloaded"
    assert waits(effects) == []


def test_other_refusals_are_final():
    error, _ = play(retrying(send(GET), Policy()), Reply(status=404, content=b"{}"))
    assert isinstance(error, NotFound)


def test_attempts_are_bounded():
    policy = Policy(attempts_max=3)
    error, effects = play(retrying(send(GET), policy), LOST, LOST, LOST)
    assert error is LOST
    assert effects.count(Send(GET)) == 3


def test_a_busy_node_has_the_last_word_after_the_last_attempt():
    error, _ = play(retrying(send(GET), Policy(attempts_max=2)), BUSY, BUSY)
    assert isinstance(error, ProblemError)


def test_retry_after_is_waited_for():
    patient = Reply(status=507, headers={"retry-after": "7"})
    _, effects = play(retrying(send(GET), Policy()), patient, OK)
    assert waits(effects) == [7.0]


def test_a_long_retry_after_is_the_callers_affair():
    patient = Reply(status=503, headers={"retry-after": "3600"}, content=b"{}")
    error, effects = play(retrying(send(GET), Policy()), patient)
    assert isinstance(error, ProblemError)
    assert waits(effects) == []


@pytest.mark.parametrize("text", ["", "soon", "-1", "1.5", "Wed, 21 Oct 2026 07:28:00 GMT"])
def test_a_retry_after_that_is_no_number_of_seconds_is_ignored(text):
    assert retry_after_s(Reply(status=503, headers={"retry-after": text})) == 0


@given(st.integers(1, 60), st.floats(0, 1, exclude_max=True), st.floats(0, 100))
def test_delays_stay_between_retry_after_and_the_ceiling(attempt, chance, floor_s):
    policy = Policy()
    delay_s = policy.delay_s(attempt, chance, floor_s)
    assert floor_s <= delay_s <= max(floor_s, policy.delay_max_s)


def test_an_upload_that_cannot_be_read_twice_is_sent_once():
    upload = Upload(file=io.BytesIO(b"x"), start=None, size_bytes=None)
    request = Request(method="POST", path="/blob", content=upload, repeatable=True)
    assert not is_repeatable(request)
    assert play(retrying(send(request), Policy()), UNREACHED)[0] is UNREACHED


def test_an_opened_answer_is_retried_too_and_a_cut_while_reading_is_not():
    def operation() -> Generator:
        yield from open_answer(GET)
        yield Emit((yield from read()))
        return (yield from read())

    error, effects = play(retrying(operation(), Policy()), LOST, OK, b"piece", LOST)
    assert error is LOST
    assert effects[2:] == [Open(GET), Read(), Emit(b"piece"), Read()]


def test_an_abandoned_operation_is_closed():
    closed = []

    def operation() -> Generator:
        try:
            yield Emit(1)
        finally:
            closed.append(True)

    wrapped = retrying(operation(), Policy())
    assert next(wrapped) == Emit(1)
    wrapped.close()
    assert closed == [True]
