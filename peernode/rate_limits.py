"""How often callers that have shown no token may ask: token buckets and login lock-outs.

Machines without clock: `now_s` is the caller's monotonic time.  Authenticated callers are not
limited here; quota and load shedding bound those.

* `Buckets`: a token bucket for each key, kept as one number, its *theoretical arrival time* (the
  generic cell rate algorithm, ITU-T I.371: the same decisions as a bucket that refills).
* `Logins`: a bucket for each address, one for each user, and after `failures_free` wrong passwords
  in a row a lock-out that doubles.  Unknown names are counted like known ones, so that the answers
  tell nothing about who exists.

Memory is bounded: full buckets, which say nothing, are forgotten; if there are none, the bucket
that was used longest ago is.  So a caller with many addresses can wash one bucket out, at the
price of `keys_max` calls from other ones; an IPv6 caller's address is its /64, the smallest
network that is handed out.

What it leaves out: sharing between nodes, and survival of a restart.
"""

import ipaddress
import math
from dataclasses import dataclass
from typing import Final

from peernode.problems import Problem

IPV6_PREFIX_BITS: Final = 64
"""What counts as one IPv6 caller. Source: RFC 6177, the least that an end site is given."""

_FORGET_MAX: Final = 2
"""Full buckets forgotten a call: more than one, so that memory shrinks while calls come in."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """Limits for callers without a token."""

    anonymous_rate_per_minute: float = 120.0
    """Calls without a token from one address. Source: guess; a page load asks ten things."""
    anonymous_burst: int = 60
    login_address_rate_per_minute: float = 20.0
    """Logins and sign-ups from one address. Source: guess; an office behind one address."""
    login_address_burst: int = 20
    login_user_rate_per_minute: float = 5.0
    """Logins that do not succeed, for one user. Source: guess; a person types slower."""
    login_user_burst: int = 5
    failures_free: int = 5
    """Wrong passwords in a row before a lock-out. Source: guess."""
    lock_s: float = 60.0
    """First lock-out, in seconds; each further wrong password doubles it. Source: guess."""
    lock_max_s: float = 900.0
    """Longest lock-out, in seconds; after as long without a try all is forgotten. Source: guess:
    96 tries a day and user, and a victim of someone else's tries waits no longer."""
    keys_max: int = 65_536
    """Addresses, and users, remembered. Source: about 200 bytes each, 13 MB."""


class Buckets:
    """Token buckets of one rate and size, one for each key; new keys start full."""

    def __init__(self, rate_per_s: float, burst: int, keys_max: int) -> None:
        if rate_per_s <= 0 or burst < 1 or keys_max < 1:
            raise ValueError("a bucket's rate, burst and number are positive")
        self._interval_s = 1.0 / rate_per_s
        self._tolerance_s = (burst - 1) * self._interval_s
        self._keys_max = keys_max
        self._full_at_s: dict[str, float] = {}  # in the order in which they were last taken from

    def __len__(self) -> int:
        """Return the number of keys remembered."""
        return len(self._full_at_s)

    def take(self, key: str, now_s: float) -> float:
        """Take a token; return 0.0, or the seconds until there is one and take none."""
        full_at_s = max(self._full_at_s.get(key, now_s), now_s)
        wait_s = full_at_s - self._tolerance_s - now_s
        if wait_s > 0:
            return wait_s
        self._full_at_s.pop(key, None)
        self._full_at_s[key] = full_at_s + self._interval_s
        self._forget(now_s)
        return 0.0

    def forget(self, key: str) -> None:
        """Fill the bucket of `key`."""
        self._full_at_s.pop(key, None)

    def _forget(self, now_s: float) -> None:
        for _ in range(_FORGET_MAX):
            oldest = next(iter(self._full_at_s))
            if self._full_at_s[oldest] > now_s and len(self._full_at_s) <= self._keys_max:
                return
            del self._full_at_s[oldest]

    def check(self) -> None:
        """Assert the invariants."""
        assert len(self._full_at_s) <= self._keys_max


class Anonymous:
    """Calls without a token, by the caller's address."""

    def __init__(self, config: Config) -> None:
        self._buckets = Buckets(
            config.anonymous_rate_per_minute / 60, config.anonymous_burst, config.keys_max
        )

    def admit(self, address: str, now_s: float) -> None:
        """Count one call; raises the `Problem` `rate_limited`."""
        _refuse(self._buckets.take(address_key(address), now_s), "calls without a token")

    def check(self) -> None:
        """Assert the invariants."""
        self._buckets.check()


@dataclass(frozen=True, slots=True)
class _Failures:
    count: int
    locked_until_s: float
    forgotten_at_s: float


class Logins:
    """Logins and sign-ups, by the caller's address and the user they are for.

    `admit` before the password is looked at, then `failed` or `succeeded`.  `user` is the id of the
    user if the name is known, else the name, so that one user is one key however it is spelt.
    """

    def __init__(self, config: Config) -> None:
        self._config = config
        self._addresses = Buckets(
            config.login_address_rate_per_minute / 60, config.login_address_burst, config.keys_max
        )
        self._users = Buckets(
            config.login_user_rate_per_minute / 60, config.login_user_burst, config.keys_max
        )
        self._failures: dict[str, _Failures] = {}  # in the order of the last failure

    def admit(self, address: str, user: str, now_s: float) -> None:
        """Count one try; raises the `Problem` `rate_limited`. Without a `user` it is a sign-up."""
        _refuse(self._addresses.take(address_key(address), now_s), "logins from this address")
        if not user:
            return
        failures = self._failures.get(user)
        if failures is not None:
            _refuse(failures.locked_until_s - now_s, "wrong passwords for this user")
        _refuse(self._users.take(user, now_s), "logins of this user")

    def failed(self, user: str, now_s: float) -> None:
        """Note a wrong password, or a name that is not known."""
        config = self._config
        before = self._failures.pop(user, None)
        count = 1 if before is None or before.forgotten_at_s <= now_s else before.count + 1
        lock_s = 0.0
        if count >= config.failures_free:
            # The exponent is bounded so that a float can hold the power.
            lock_s = min(
                config.lock_s * 2.0 ** min(count - config.failures_free, 64), config.lock_max_s
            )
        until_s = now_s + lock_s
        self._failures[user] = _Failures(count, until_s, until_s + config.lock_max_s)
        for _ in range(_FORGET_MAX):
            oldest = next(iter(self._failures))
            full = len(self._failures) > config.keys_max
            if self._failures[oldest].forgotten_at_s > now_s and not full:
                return
            del self._failures[oldest]

    def succeeded(self, user: str) -> None:
        """Forget the tries of `user`: whoever knows the password is not guessing."""
        self._failures.pop(user, None)
        self._users.forget(user)

    def check(self) -> None:
        """Assert the invariants."""
        self._addresses.check()
        self._users.check()
        assert len(self._failures) <= self._config.keys_max


def address_key(address: str) -> str:
    """Return what counts as one caller: an IPv4 address, an IPv6 /64, any other text as it is."""
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return address
    if parsed.version == 4:
        return str(parsed)
    if parsed.ipv4_mapped is not None:
        return str(parsed.ipv4_mapped)
    return str(ipaddress.IPv6Network((int(parsed), IPV6_PREFIX_BITS), strict=False))


def _refuse(wait_s: float, what: str) -> None:
    """Raise `rate_limited` if there is anything to wait for."""
    if wait_s > 0:
        seconds = math.ceil(wait_s)
        raise Problem(
            "rate_limited",
            f"too many {what}",
            hint=f"try again in {seconds} s",
            headers=(("Retry-After", str(seconds)),),
        )
