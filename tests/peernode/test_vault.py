"""The vault opens for the right password at the right node, and for nothing else."""

import hashlib
import os
import stat
import unicodedata
from pathlib import Path

import nacl.pwhash
import nacl.secret
import pytest
from hypothesis import given, settings, strategies as st

from peernode import vault
from peernode.problems import Problem
from storage.clock import SystemEntropy
from storage.memory_store import MemoryStore
from storage.store import Batch, Table

CHEAP = vault.Config(memory_bytes=nacl.pwhash.argon2id.MEMLIMIT_MIN, passes=1)
SEEDS = vault.Seeds(b"k" * 32, b"n" * 32)
PEPPER = b"p" * 32
GOLDEN = Path(__file__).parent / "golden" / "vault_row_1.hex"


class CountingEntropy:
    """Bytes 0, 1, 2, ... for golden files."""

    def __init__(self) -> None:
        self.drawn = 0

    def token_bytes(self, size_bytes: int) -> bytes:
        drawn = bytes((self.drawn + index) % 256 for index in range(size_bytes))
        self.drawn += size_bytes
        return drawn


def make(pepper: bytes = PEPPER, config: vault.Config = CHEAP) -> vault.Vault:
    return vault.Vault(MemoryStore(), pepper, SystemEntropy(), config)


def refusal(of: vault.Vault, row: bytes | None, password: str) -> Problem:
    with pytest.raises(Problem) as caught:
        of.open(row, password)
    return caught.value


def test_a_row_opens_with_its_password_and_gives_back_both_seeds():
    row = make().seal("correct horse", SEEDS)
    assert make().open(row, "correct horse") == SEEDS
    assert len(row) == vault.ROW_SIZE_BYTES


def test_a_wrong_password_and_an_unknown_user_answer_the_same():
    keeper = make()
    wrong = refusal(keeper, keeper.seal("correct horse", SEEDS), "wrong horse")
    unknown = refusal(keeper, None, "wrong horse")
    assert wrong.code == unknown.code == "wrong_credentials"
    assert wrong.body() == unknown.body()
    assert "horse" not in wrong.detail


def test_an_unknown_user_costs_what_a_known_one_costs(monkeypatch):
    asked: list[tuple[int, int]] = []
    kdf = nacl.pwhash.argon2id.kdf

    def counted(size: int, password: bytes, salt: bytes, *, opslimit: int, memlimit: int) -> bytes:
        asked.append((opslimit, memlimit))
        return kdf(size, password, salt, opslimit=opslimit, memlimit=memlimit)

    config = vault.Config(memory_bytes=16_384, passes=2)
    keeper = make(config=config)
    row = keeper.seal("correct horse", SEEDS)
    monkeypatch.setattr(nacl.pwhash.argon2id, "kdf", counted)
    refusal(keeper, row, "wrong horse")
    refusal(keeper, None, "wrong horse")
    assert asked == [(2, 16_384), (2, 16_384)]


def test_a_row_is_worthless_at_a_node_with_another_pepper():
    row = make().seal("correct horse", SEEDS)
    assert refusal(make(pepper=b"q" * 32), row, "correct horse").code == "wrong_credentials"


def test_a_new_configuration_opens_old_rows():
    row = make().seal("correct horse", SEEDS)
    dearer = make(config=vault.Config(memory_bytes=65_536, passes=2))
    assert dearer.open(row, "correct horse") == SEEDS


def test_two_rows_of_one_password_have_nothing_in_common_but_the_header():
    keeper = make()
    first, second = (keeper.seal("correct horse", SEEDS) for _ in range(2))
    header = 13
    assert first[:header] == second[:header]
    assert not any(
        first[at : at + 8] == second[at : at + 8] for at in range(header, len(first) - 8)
    )


def test_rows_are_kept_in_the_vault_table_by_user():
    store = MemoryStore()
    keeper = vault.Vault(store, PEPPER, SystemEntropy(), CHEAP)
    row = keeper.seal("correct horse", SEEDS)
    assert keeper.row(7) is None
    store.apply(Batch(puts=[keeper.put(7, row)]))
    assert keeper.row(7) == row
    assert store.get(Table.VAULT, (7).to_bytes(8, "big")) == row


def test_the_format_of_a_row_does_not_change():
    entropy = CountingEntropy()
    keeper = vault.Vault(MemoryStore(), PEPPER, entropy, CHEAP)
    entropy.drawn = 0
    row = keeper.seal("pässword", SEEDS)
    assert row.hex() == GOLDEN.read_text().strip()
    assert keeper.open(bytes.fromhex(GOLDEN.read_text()), "pässword") == SEEDS


def test_the_key_is_blake2b_of_argon2id_under_the_pepper():
    entropy = CountingEntropy()
    keeper = vault.Vault(MemoryStore(), PEPPER, entropy, CHEAP)
    row = keeper.seal("correct horse", SEEDS)
    stretched = nacl.pwhash.argon2id.kdf(
        32, b"correct horse", row[13:29], opslimit=1, memlimit=CHEAP.memory_bytes
    )
    key = hashlib.blake2b(
        stretched, key=PEPPER, digest_size=32, person=b"peernode/vault/1"
    ).digest()
    box = nacl.secret.SecretBox(key)
    assert box.decrypt(row[53:], row[29:53]) == b"k" * 32 + b"n" * 32


@pytest.mark.parametrize("at", [13, 20, 29, 40, 53, 60, 132])
def test_a_changed_bit_does_not_open(at):
    keeper = make()
    row = bytearray(keeper.seal("correct horse", SEEDS))
    row[at] ^= 1
    assert refusal(keeper, bytes(row), "correct horse").code == "wrong_credentials"


@pytest.mark.parametrize(
    ("row", "why"),
    [
        (b"", "0 bytes"),
        (b"\x02" + bytes(132), "format 2"),
        (b"\x01" + bytes(132), "0 passes"),
        (b"\x01\x00\x00\x00\x01" + b"\xff" * 8 + bytes(120), "1 passes"),
    ],
)
def test_a_row_that_is_not_ours_is_the_disks_fault_and_not_the_callers(row, why):
    with pytest.raises(vault.VaultRowError, match=why):
        make().open(row, "correct horse")


@pytest.mark.parametrize(
    ("password", "why"),
    [("seven77", "shorter than 8"), ("", "shorter"), ("x" * 1025, "longer than 1024")],
)
def test_the_rules_for_passwords_name_the_field(password, why):
    with pytest.raises(Problem, match=why) as caught:
        make().seal(password, SEEDS, name="new_password")
    assert caught.value.code == "invalid_field"
    assert caught.value.field == "new_password"
    assert not password or password not in caught.value.detail


def test_half_a_surrogate_pair_is_not_text():
    with pytest.raises(Problem, match="not Unicode"):
        vault.normalise("password\ud800")


def test_passwords_of_the_least_and_most_length_are_taken():
    assert vault.normalise("x" * 8) == b"x" * 8
    assert vault.normalise("x" * 1024) == b"x" * 1024
    assert vault.normalise("😀" * 8) == ("😀" * 8).encode()


@settings(max_examples=50, deadline=None)
@given(st.text(st.characters(exclude_categories=["Cs"]), min_size=8, max_size=40))
def test_any_spelling_of_the_same_characters_opens(text):
    composed = unicodedata.normalize("NFC", text)
    decomposed = unicodedata.normalize("NFD", text)
    if len(composed) < vault.PASSWORD_LENGTH_MIN:
        return
    keeper = make()
    assert keeper.open(keeper.seal(composed, SEEDS), decomposed) == SEEDS


def test_secrets_do_not_show():
    assert "k" * 8 not in repr(SEEDS)


def test_wrong_sizes_are_bugs():
    with pytest.raises(ValueError, match="seed"):
        vault.Seeds(b"", b"n" * 32)
    with pytest.raises(ValueError, match="pepper"):
        make(pepper=b"short")
    with pytest.raises(ValueError, match="passes"):
        vault.Config(passes=0)
    with pytest.raises(ValueError, match="memory"):
        vault.Config(memory_bytes=1)


@pytest.mark.slow
def test_the_default_configuration_works():
    keeper = make(config=vault.Config())
    assert keeper.open(keeper.seal("correct horse", SEEDS), "correct horse") == SEEDS


def test_a_secret_file_is_made_once_and_kept(tmp_path):
    path = tmp_path / "pepper"
    secret = vault.load_secret_file(path, SystemEntropy())
    assert len(secret) == 32
    assert vault.load_secret_file(path, SystemEntropy()) == secret
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert os.listdir(tmp_path) == ["pepper"]


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o666, 0o620, 0o601])
def test_a_secret_file_that_others_may_use_is_refused_with_what_to_do(tmp_path, mode):
    path = tmp_path / "pepper"
    vault.load_secret_file(path, SystemEntropy())
    path.chmod(mode)
    with pytest.raises(vault.SecretFileError, match="chmod 600"):
        vault.load_secret_file(path, SystemEntropy())


def test_a_secret_file_of_another_size_is_refused(tmp_path):
    path = tmp_path / "pepper"
    path.touch(mode=0o600)
    with pytest.raises(vault.SecretFileError, match="0 bytes instead of 32"):
        vault.load_secret_file(path, SystemEntropy())


def test_a_link_folder_or_pipe_in_place_of_a_secret_file_is_refused(tmp_path):
    target = tmp_path / "target"
    vault.load_secret_file(target, SystemEntropy())
    (tmp_path / "link").symlink_to(target)
    (tmp_path / "dangling").symlink_to(tmp_path / "nowhere")
    (tmp_path / "folder").mkdir(mode=0o700)
    os.mkfifo(tmp_path / "pipe", 0o600)
    for name in ("link", "dangling", "folder", "pipe", "missing/pepper"):
        with pytest.raises(vault.SecretFileError, match=name):
            vault.load_secret_file(tmp_path / name, SystemEntropy())
    assert sorted(os.listdir(tmp_path)) == ["dangling", "folder", "link", "pipe", "target"]


def test_a_secret_that_another_process_makes_first_is_the_one_that_counts(tmp_path):
    path = tmp_path / "pepper"

    class Late(SystemEntropy):
        def token_bytes(self, size_bytes: int) -> bytes:
            if not path.exists():
                vault.load_secret_file(path, SystemEntropy(), size_bytes)
            return super().token_bytes(size_bytes)

    secret = vault.load_secret_file(path, Late())
    assert secret == path.read_bytes()


def test_a_text_secret_is_one_line_that_people_can_read(tmp_path):
    path = tmp_path / "operator.token"
    assert vault.load_secret_text(path, lambda: "pno1.abc") == "pno1.abc"
    assert path.read_text() == "pno1.abc\n"
    assert vault.load_secret_text(path, lambda: "pno1.other") == "pno1.abc"


@pytest.mark.parametrize("content", [b"", b"\n", b"\xff\xfe"])
def test_a_text_secret_without_text_is_refused(tmp_path, content):
    path = tmp_path / "operator.token"
    path.touch(mode=0o600)
    path.write_bytes(content)
    with pytest.raises(vault.SecretFileError, match="no token"):
        vault.load_secret_text(path, lambda: "pno1.abc")
