"""Callers without a token are held to a rate, in bounded memory, and told when to come back."""

import pytest
from hypothesis import given, settings, strategies as st

from peernode.problems import Problem
from peernode.rate_limits import Anonymous, Buckets, Config, Logins, address_key


class Reference:
    """A token bucket as textbooks write it: a level that refills."""

    def __init__(self, rate_per_s: float, burst: int) -> None:
        self.rate_per_s, self.burst = rate_per_s, burst
        self.level, self.at_s = float(burst), 0.0

    def take(self, now_s: float) -> bool:
        self.level = min(self.burst, self.level + (now_s - self.at_s) * self.rate_per_s)
        self.at_s = now_s
        if self.level < 1:
            return False
        self.level -= 1
        return True


def problem(call) -> Problem:
    with pytest.raises(Problem) as caught:
        call()
    assert caught.value.code == "rate_limited"
    return caught.value


def test_a_burst_passes_then_one_call_an_interval():
    buckets = Buckets(rate_per_s=2.0, burst=3, keys_max=10)
    assert [buckets.take("a", 100.0) for _ in range(4)] == [0.0, 0.0, 0.0, 0.5]
    assert buckets.take("a", 100.25) == 0.25
    assert buckets.take("a", 100.5) == 0.0
    assert buckets.take("a", 100.5) > 0


def test_keys_do_not_share_a_bucket():
    buckets = Buckets(rate_per_s=1.0, burst=1, keys_max=10)
    assert buckets.take("a", 0.0) == 0.0
    assert buckets.take("b", 0.0) == 0.0
    assert buckets.take("a", 0.0) == 1.0


# Eighths are exact in a float, so that both sides round alike.
@given(
    st.sampled_from([0.5, 1.0, 2.0, 4.0]),
    st.integers(1, 5),
    st.lists(st.integers(0, 40).map(lambda eighths: eighths / 8), max_size=60),
)
def test_decisions_are_those_of_a_bucket_that_refills(rate_per_s, burst, pauses_s):
    buckets, reference = Buckets(rate_per_s, burst, 10), Reference(rate_per_s, burst)
    now_s = 0.0
    for pause_s in pauses_s:
        now_s += pause_s
        wait_s = buckets.take("a", now_s)
        assert (wait_s == 0.0) == reference.take(now_s)
        assert wait_s <= 1 / rate_per_s


@given(
    st.integers(1, 5),
    st.lists(st.tuples(st.sampled_from("abcdefghij"), st.floats(0, 3)), max_size=80),
)
def test_memory_is_bounded_whatever_the_calls(keys_max, calls):
    buckets = Buckets(1.0, 2, keys_max)
    now_s = 0.0
    for key, pause_s in calls:
        now_s += pause_s
        buckets.take(key, now_s)
        buckets.check()


@given(st.lists(st.tuples(st.sampled_from("abcd"), st.floats(0, 3)), max_size=80))
def test_forgetting_full_buckets_changes_no_decision(calls):
    together, apart = Buckets(1.0, 2, 4), {key: Buckets(1.0, 2, 4) for key in "abcd"}
    now_s = 0.0
    for key, pause_s in calls:
        now_s += pause_s
        assert together.take(key, now_s) == apart[key].take(key, now_s)


def test_full_buckets_are_forgotten_as_calls_come_in():
    buckets = Buckets(1.0, 5, 1000)
    for index in range(500):
        buckets.take(f"early {index}", 0.0)
    assert len(buckets) == 500
    for index in range(500):
        buckets.take(f"late {index}", 10.0 + index * 2)
    assert len(buckets) <= 2


def test_with_every_bucket_in_use_the_one_used_longest_ago_is_forgotten():
    buckets = Buckets(rate_per_s=0.001, burst=1, keys_max=2)
    for key in "abc":
        assert buckets.take(key, 0.0) == 0.0
    assert len(buckets) == 2
    assert buckets.take("c", 0.0) > 0
    assert buckets.take("b", 0.0) > 0
    assert buckets.take("a", 0.0) == 0.0


@pytest.mark.parametrize(("rate", "burst", "keys"), [(0, 1, 1), (1, 0, 1), (1, 1, 0)])
def test_limits_that_limit_nothing_are_bugs(rate, burst, keys):
    with pytest.raises(ValueError, match="positive"):
        Buckets(rate, burst, keys)


def test_anonymous_calls_are_refused_with_the_seconds_to_wait():
    anonymous = Anonymous(Config(anonymous_rate_per_minute=6, anonymous_burst=2))
    anonymous.admit("192.0.2.1", 50.0)
    anonymous.admit("192.0.2.1", 50.0)
    refused = problem(lambda: anonymous.admit("192.0.2.1", 50.5))
    assert refused.status == 429
    assert refused.headers == (("Retry-After", "10"),)
    assert "192.0.2.1" not in refused.detail
    anonymous.admit("192.0.2.2", 50.5)
    anonymous.admit("192.0.2.1", 60.0)


def test_twenty_logins_a_minute_come_from_one_address():
    logins = Logins(Config())
    for index in range(20):
        logins.admit("192.0.2.1", f"user {index}", 0.0)
    assert problem(lambda: logins.admit("192.0.2.1", "ada", 0.0)).headers == (("Retry-After", "3"),)
    logins.admit("192.0.2.2", "ada", 0.0)
    logins.admit("192.0.2.1", "ada", 3.0)


def test_signups_count_towards_the_address_alone():
    logins = Logins(Config())
    for _ in range(20):
        logins.admit("192.0.2.1", "", 0.0)
    problem(lambda: logins.admit("192.0.2.1", "", 0.0))
    logins.admit("192.0.2.2", "", 0.0)


def test_five_tries_a_minute_are_for_one_user_from_wherever():
    logins = Logins(Config())
    for index in range(5):
        logins.admit(f"192.0.2.{index}", "ada", 0.0)
    refused = problem(lambda: logins.admit("192.0.2.9", "ada", 0.0))
    assert refused.headers == (("Retry-After", "12"),)
    logins.admit("192.0.2.9", "bob", 0.0)


def test_whoever_knows_the_password_may_log_in_often():
    logins = Logins(Config(login_address_burst=1000))
    for _ in range(100):
        logins.admit("192.0.2.1", "ada", 0.0)
        logins.succeeded("ada")


def locked_for_s(logins: Logins, user: str, now_s: float) -> int:
    """Return the seconds that a refusal names, 0 for none; at a fresh address each time."""
    try:
        logins.admit(f"address at {now_s}", user, now_s)
    except Problem as refused:
        return int(dict(refused.headers)["Retry-After"])
    return 0


def test_wrong_passwords_lock_for_ever_longer_up_to_a_limit():
    logins = Logins(Config(login_user_burst=1000))
    now_s = 0.0
    seen: list[int] = []
    for _ in range(12):
        assert locked_for_s(logins, "ada", now_s) == 0
        logins.failed("ada", now_s)
        wait_s = locked_for_s(logins, "ada", now_s + 0.001)
        seen.append(wait_s)
        now_s += max(wait_s, 0)
    assert seen == [0, 0, 0, 0, 60, 120, 240, 480, 900, 900, 900, 900]
    assert locked_for_s(logins, "bob", now_s) == 0


def test_a_success_ends_the_count():
    logins = Logins(Config(login_user_burst=1000))
    for _ in range(4):
        logins.failed("ada", 0.0)
    logins.succeeded("ada")
    logins.failed("ada", 0.0)
    assert locked_for_s(logins, "ada", 0.0) == 0


def test_wrong_passwords_of_long_ago_are_forgotten():
    config = Config(login_user_burst=1000)
    logins = Logins(config)
    for _ in range(5):
        logins.failed("ada", 0.0)
    logins.failed("ada", 60.0 + config.lock_max_s)
    assert locked_for_s(logins, "ada", 61.0 + config.lock_max_s) == 0


@settings(max_examples=50)
@given(st.lists(st.tuples(st.sampled_from("abcdefghij"), st.integers(0, 2000)), max_size=80))
def test_memory_for_wrong_passwords_is_bounded(tries):
    logins = Logins(Config(keys_max=3))
    now_s = 0.0
    for user, pause_s in tries:
        now_s += pause_s
        logins.failed(user, now_s)
        logins.check()


def test_any_number_of_wrong_passwords_is_counted():
    logins = Logins(Config())
    for _ in range(5000):
        logins.failed("ada", 0.0)
    assert locked_for_s(logins, "ada", 0.0) == 900


@pytest.mark.parametrize(
    ("address", "key"),
    [
        ("192.0.2.1", "192.0.2.1"),
        ("::ffff:192.0.2.1", "192.0.2.1"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("2001:db8:1:2::9", "2001:db8:1:2::/64"),
        ("::1", "::/64"),
        ("fe80::1%eth0", "fe80::/64"),
        ("testclient", "testclient"),
        ("", ""),
    ],
)
def test_one_network_is_one_caller(address, key):
    assert address_key(address) == key
