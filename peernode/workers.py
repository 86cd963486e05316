"""The workers attached to this node: who may attach, and what is known of each.

A worker is made by an operator, who gets a token to carry to the machine.  The token's first use
registers the public key that the worker made for itself, and burns the token; from then on the
worker proves that it holds the key with a signed, dated proof (see `prove`).  The node's own local
worker is a child process with a secret that lives as long as the process.

A node puts into each token who it is, so that the worker knows its node without any authority: one
that speaks TLS the pin of its certificate (`worker.certificate_pin`), any other its own key, which
it proves over plain HTTP to whoever asks (`node_proof`).

Workers never leave their node: nothing here becomes a record.
"""

import base64
import binascii
import hmac
from collections.abc import Callable
from hashlib import sha256
from typing import Any, Final

import msgspec

from peernode.problems import Problem, not_found
from peernode.transactions import Transaction, Transactions
from storage import ids, signing
from storage.clock import Clock, Entropy
from storage.errors import InvalidData
from storage.store import Store, Table
from worker.events import Cordon, Drain

TOKEN_PREFIX: Final = "pnw1"  # noqa: S105  (not a secret)
PROOF_PREFIX: Final = "pnk1"
KEY_PIN_MARK: Final = "n"
"""What the pin of a node that has no certificate begins with; its key follows."""
SECRET_SIZE_BYTES: Final = 32
PROOF_AGE_MAX_MS: Final = 60_000
"""How far a proof's date may be from the node's clock. Source: clocks set by NTP, with room."""
PROOF_KIND: Final = "worker-attach"
DRAIN_MIN_S: Final = 1.0
"""What a worker that comes back after its drain's deadline has left to hand in what it finished.
Source: guess; that comes with its first messages."""
WORKERS_MAX: Final = 10_000
"""Most workers of a node. Source: guess."""


class WorkerRow(msgspec.Struct, frozen=True, kw_only=True):
    """A worker as it is kept."""

    name: str
    labels: dict[str, str]
    created_ms: int
    revision: int = 1
    secret_hash: bytes = b""
    """Of the unburnt token; empty once a key is registered."""
    public_key: bytes = b""
    cordoned: bool = False
    draining: bool = False
    drain_until_ms: int | None = None
    """When what it still runs goes elsewhere. Wall clock."""
    local: bool = False


_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(WorkerRow).decode


def token(worker: int, secret: bytes, pin: str = "") -> str:
    """Return the text an operator carries to a worker's machine; `pin` says who the node is.

    A node's key stands behind where the pin of a certificate would, which is for TLS only.
    """
    parts = [TOKEN_PREFIX, str(worker), _text(secret)]
    if key := pinned_key(pin):
        parts += ["", _text(key)]
    elif pin:
        parts.append(pin)
    return ".".join(parts)


def pin_in(token: str) -> str:
    """Return the pin in a worker's token, which may be any text, or nothing."""
    parts = token.split(".")
    is_key = len(parts) == 5 and not parts[3]
    return KEY_PIN_MARK + parts[4] if is_key else ".".join(parts[3:])


def key_pin(public_key: bytes) -> str:
    """Return the pin of a node that has no certificate."""
    return KEY_PIN_MARK + _text(public_key)


def pinned_key(pin: str) -> bytes:
    """Return the key of the node that `key_pin` made a pin of; nothing for any other text."""
    key = _bytes(pin.removeprefix(KEY_PIN_MARK))
    is_one = len(key) == signing.PUBLIC_KEY_SIZE_BYTES and pin == key_pin(key)
    return key if is_one else b""


def prove(worker: int, keypair: signing.Keypair, now_ms: int) -> str:
    """Return the proof a worker attaches with after its first time."""
    signature = keypair.sign(PROOF_KIND, signing.NO_MESH, _proof_body(worker, now_ms))
    return ".".join([PROOF_PREFIX, str(worker), str(now_ms), _text(signature)])


def _proof_body(worker: int, at_ms: int) -> bytes:
    return ids.key(worker) + at_ms.to_bytes(8, "big")


def _text(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).decode().rstrip("=")


def _bytes(text: str) -> bytes:
    try:
        return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
    except (binascii.Error, ValueError):
        return b""


class Workers:
    """Rows of workers, and who is attached."""

    def __init__(
        self,
        store: Store,
        transactions: Transactions,
        clock: Clock,
        entropy: Entropy,
        pin: str = "",
    ) -> None:
        """`pin`: who this node is, for tokens."""
        self._store = store
        self._transactions = transactions
        self._clock = clock
        self._entropy = entropy
        self._pin = pin
        self._rows: dict[int, WorkerRow] = {}
        self._local_secrets: dict[int, bytes] = {}
        self._proof_ms: dict[int, int] = {}
        for key, row in store.scan(Table.WORKERS, limit=WORKERS_MAX):
            self._rows[int.from_bytes(key, "big")] = _decode(row)

    @property
    def local(self) -> frozenset[int]:
        """Workers that are child processes of this node."""
        return frozenset(worker for worker, row in self._rows.items() if row.local)

    def all(self) -> dict[int, WorkerRow]:
        """Return every worker, by id."""
        return dict(self._rows)

    def row(self, worker: int) -> WorkerRow | None:
        """Return what is kept of `worker`."""
        return self._rows.get(worker)

    def hold(self, worker: int) -> Cordon | Drain | None:
        """Return what the operator wants kept from `worker`, as the scheduler is told."""
        row = self._rows.get(worker)
        if row is None or not row.cordoned:
            return None
        if not row.draining:
            return Cordon(worker)
        if row.drain_until_ms is None:
            return Drain(worker)
        left_s = (row.drain_until_ms - self._clock.wall_ms()) / 1000
        return Drain(worker, max(left_s, DRAIN_MIN_S))

    async def create(
        self, worker: int, name: str, labels: dict[str, str], *, local: bool = False
    ) -> str:
        """Keep a new worker and return its token (empty for a local one)."""
        if len(self._rows) >= WORKERS_MAX:
            raise Problem("quota_exceeded", "too many workers", limit=WORKERS_MAX)
        secret = self._entropy.token_bytes(SECRET_SIZE_BYTES)
        row = WorkerRow(
            name=name or f"worker-{worker}",
            labels=labels,
            created_ms=self._clock.wall_ms(),
            secret_hash=b"" if local else sha256(secret).digest(),
            local=local,
        )
        await self._transactions.run(lambda transaction: self._put(transaction, worker, row))
        return "" if local else token(worker, secret, self._pin)

    async def change(
        self, worker: int, check: Callable[[WorkerRow], None] | None = None, **changes: Any
    ) -> WorkerRow:
        """Change what is kept of `worker`, if `check` does not raise; raises `Problem`."""

        def body(transaction: Transaction) -> WorkerRow:
            held = transaction.get(Table.WORKERS, ids.key(worker))
            if held is None:
                raise not_found("worker", str(worker))
            row = _decode(held)
            if check is not None:
                check(row)
            row = msgspec.structs.replace(row, revision=row.revision + 1, **changes)
            self._put(transaction, worker, row)
            return row

        return await self._transactions.run(body)

    def _put(self, transaction: Transaction, worker: int, row: WorkerRow) -> None:
        transaction.put(Table.WORKERS, ids.key(worker), _encode(row))
        transaction.after.append(lambda: self._rows.__setitem__(worker, row))

    async def delete(self, worker: int) -> None:
        """Forget `worker`: its token and key are worth nothing from now on."""

        def body(transaction: Transaction) -> None:
            transaction.delete(Table.WORKERS, ids.key(worker))
            transaction.after.append(lambda: self._rows.pop(worker, None))

        await self._transactions.run(body)

    def open_local(self, worker: int) -> str:
        """Return a token for the local worker, good until the next call."""
        secret = self._entropy.token_bytes(SECRET_SIZE_BYTES)
        self._local_secrets[worker] = sha256(secret).digest()
        return token(worker, secret)

    async def admit(self, id_text: str, authorization: str, key_text: str = "") -> int:
        """Return the worker that wants to attach; raises `Problem`.

        `authorization` carries a token or a proof; `key_text` the public key to register with a
        token's first use.
        """
        refused = Problem(
            "unauthenticated",
            "this is not a valid token or proof of that worker",
            hint="make a worker with `POST /worker` and attach with its token",
        )
        try:
            worker = ids.parse_id(id_text)
        except InvalidData:
            raise refused from None
        scheme, _, credential = authorization.partition(" ")
        parts = credential.split(".")
        row = self._rows.get(worker)
        if row is None or scheme.lower() != "bearer" or len(parts) < 3 or parts[1] != id_text:
            raise refused
        if parts[0] == TOKEN_PREFIX:
            await self._admit_token(worker, row, sha256(_bytes(parts[2])).digest(), key_text)
        elif parts[0] == PROOF_PREFIX and len(parts) == 4:
            self._admit_proof(worker, row, parts[2], parts[3])
        else:
            raise refused
        return worker

    async def _admit_token(self, worker: int, row: WorkerRow, digest: bytes, key_text: str) -> None:
        good = self._local_secrets.get(worker, b"") if row.local else row.secret_hash
        if not good or not hmac.compare_digest(digest, good):
            hint = "each token is good for one first attach" if row.public_key else ""
            raise Problem("unauthenticated", "this token is not valid (any more)", hint=hint)
        if row.local:
            return
        public_key = _bytes(key_text)
        if len(public_key) != signing.PUBLIC_KEY_SIZE_BYTES:
            raise Problem(
                "unauthenticated",
                "a first attach registers the worker's public key",
                field="Peernode-Worker-Key",
            )

        def check(current: WorkerRow) -> None:
            if current.secret_hash != digest:
                raise Problem("unauthenticated", "this token was used meanwhile")

        await self.change(worker, check, public_key=public_key, secret_hash=b"")

    def _admit_proof(self, worker: int, row: WorkerRow, at_text: str, signature: str) -> None:
        now_ms = self._clock.wall_ms()
        at_ms = int(at_text) if at_text.isascii() and at_text.isdigit() else 0
        if abs(now_ms - at_ms) > PROOF_AGE_MAX_MS:
            raise Problem(
                "unauthenticated",
                "the proof's date is more than a minute off",
                hint="set the clocks of both machines",
            )
        # Each proof is good once: a later one has to be dated later.
        if not row.public_key or at_ms <= self._proof_ms.get(worker, 0):
            raise Problem("unauthenticated", "the proof was used before, or no key is registered")
        try:
            signing.verify(
                row.public_key,
                PROOF_KIND,
                signing.NO_MESH,
                _proof_body(worker, at_ms),
                _bytes(signature),
            )
        except InvalidData:
            raise Problem("unauthenticated", "the proof is not by this worker's key") from None
        self._proof_ms[worker] = at_ms
