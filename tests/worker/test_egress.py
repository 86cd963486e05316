"""Which hosts a function may reach."""

import pytest

from worker.egress import is_allowed


@pytest.mark.parametrize(
    ("url", "allowed"),
    [
        (("https", "example.org", None), ["example.org"]),
        (("https", "example.org", 8443), ["example.org"]),
        (("https", "example.org", None), ["other.org", "example.org:443"]),
        (("http", "example.org", None), ["example.org:80"]),
        (("http", "EXAMPLE.org", 81), ["example.ORG:81"]),
        (("http", "::1", 8080), ["[::1]:8080"]),
    ],
)
def test_listed_hosts_are_allowed(url: tuple[str, str, int | None], allowed: list[str]) -> None:
    assert is_allowed(*url, allowed)


@pytest.mark.parametrize(
    ("url", "allowed"),
    [
        (("https", "example.org", None), []),
        (("https", "example.org", None), ["example.org:80"]),
        (("https", "example.org.evil.net", None), ["example.org"]),
        (("https", "evil-example.org", None), ["example.org"]),
        (("https", "sub.example.org", None), ["example.org"]),
        (("ftp", "example.org", None), ["example.org"]),
        (("http", "", None), [""]),
    ],
)
def test_others_are_not(url: tuple[str, str, int | None], allowed: list[str]) -> None:
    assert not is_allowed(*url, allowed)
