"""Pins are what other tools compute, and name a key, whatever certificate it is in."""

import ssl
from pathlib import Path

import pytest

from tests.worker.certificates import new_key, self_signed
from worker.certificate_pin import PIN_LENGTH, is_pin, pin_of, pin_of_file

ED25519 = """\
-----BEGIN CERTIFICATE-----
MIIBNDCB56ADAgECAhRnfWkkKHUykHPwBSkX2eVrk6byEzAFBgMrZXAwDzENMAsG
A1UEAwwEbm9kZTAgFw0yNjExMzAwMjQxNDdaGA8yMTI2MTEwNjAyNDE0N1owDzEN
MAsGA1UEAwwEbm9kZTAqMAUGAytlcAMhABYgDrbpPDgN+qP09EekKA7LD4CrBB0R
bGm9HKtkYI9Bo1MwUTAdBgNVHQ4EFgQUJYTVjDpqDFj/9nBd7uYQdMgOgeIwHwYD
VR0jBBgwFoAUJYTVjDpqDFj/9nBd7uYQdMgOgeIwDwYDVR0TAQH/BAUwAwEB/zAF
BgMrZXADQQAWyaM07fyzfQ2B2OuR3orysRjfviGUY3BjI2d+6OurPjWh5bq7kjRp
oODTHrVyjzgmhUZhRUBBtXoLUHN9alEI
-----END CERTIFICATE-----
"""
P256 = """\
-----BEGIN CERTIFICATE-----
MIIBdjCCARugAwIBAgIUL3JUncOaMex0TtvN2kAkI8Qf+7YwCgYIKoZIzj0EAwIw
DzENMAsGA1UEAwwEbm9kZTAgFw0yNjExMzAwMjQxNDdaGA8yMTI2MTEwNjAyNDE0
N1owDzENMAsGA1UEAwwEbm9kZTBZMBMGByqGSM49AgEGCCqGSM49AwEHA0IABCKN
sweUAnOa5WOdsfKg/MRkBcrZdf0VB59wEaG8RDdFhP88Tt6GNFnpma4co9GoL7ZW
ehb/0UHeC8RvfE3on9ijUzBRMB0GA1UdDgQWBBTyKfHNcezelvFWYaAhT32d/4t2
8TAfBgNVHSMEGDAWgBTyKfHNcezelvFWYaAhT32d/4t28TAPBgNVHRMBAf8EBTAD
AQH/MAoGCCqGSM49BAMCA0kAMEYCIQCWqbjZWeBYeOGMrXvsqV4ThqpjjsfA405E
pY6HuSzFtgIhAK+Uc2aGd+A+YmQECU4mOAnT2x7VL6Kwy8oFkAhLVmYy
-----END CERTIFICATE-----
"""
PINS = {
    # openssl x509 -in C -pubkey -noout | openssl pkey -pubin -outform der | openssl dgst -sha256
    "uhnmC_av5vh3T6Ky4H8CwdZwLBap6_kII_wAwKxGMVk": ED25519,
    "S0j0ioEY9ioajPc0eC1Jel8oiUx63roYw6i17GoYvIQ": P256,
}


@pytest.mark.parametrize("pin", PINS)
def test_a_pin_is_what_openssl_computes(pin: str, tmp_path: Path) -> None:
    path = tmp_path / "certificate.pem"
    path.write_text("Bag Attributes: none\n" + PINS[pin] + P256)  # a chain: the first one counts
    assert pin_of_file(path) == pin
    assert is_pin(pin)
    assert len(pin) == PIN_LENGTH


def test_a_renewed_certificate_with_the_old_key_has_the_old_pin() -> None:
    key = new_key()
    old, new = (ssl.PEM_cert_to_DER_cert(self_signed(key, name)) for name in ("old", "new"))
    assert old != new
    assert pin_of(old) == pin_of(new)
    assert pin_of(ssl.PEM_cert_to_DER_cert(self_signed(new_key(), "old"))) != pin_of(old)


@pytest.mark.parametrize("data", [b"", b"x", b"\x30\x03\x02\x01\x00"])
def test_what_is_no_certificate_has_no_pin(data: bytes, tmp_path: Path) -> None:
    with pytest.raises(ValueError):  # noqa: PT011  (the library's own words)
        pin_of(data)
    (tmp_path / "c.pem").write_bytes(data)
    with pytest.raises(ValueError):  # noqa: PT011
        pin_of_file(tmp_path / "c.pem")


@pytest.mark.parametrize("text", ["", "A" * 42, "A" * 44, "A" * 42 + "=", "A" * 42 + "+", "é" * 43])
def test_what_is_no_pin_is_seen_at_once(text: str) -> None:
    assert not is_pin(text)
