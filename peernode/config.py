"""Everything an operator can set, in one frozen value.

Sources, later ones win: defaults, a TOML file, environment variables (`PEERNODE_` + the name in
capitals), flags.  An unknown key is an error that names it.
"""

import os
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import msgspec

from peernode.libp2p_address import parse_address, reachable
from peernode.mesh_invites import ADDRESSES_MAX
from peernode.terms import MEMORY_MIN_BYTES, SIZE_MAX_BYTES, Policy
from storage.errors import InvalidData
from worker.backends import parse_backends
from worker.certificate_pin import pin_of_file
from worker.config import Policy as Placement
from worker.egress_addresses import parse_networks

ENVIRONMENT_PREFIX = "PEERNODE_"
_NOT_SETTINGS = frozenset({"url", "token", "config"})
"""Variables with our prefix that belong to the client, or name the file itself."""


class ConfigError(Exception):
    """A setting is unknown or has a wrong value; the message names it."""


class Config(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Settings of one node. Sizes in bytes, times in seconds."""

    data: Path = Path("peernode-data")
    """Data directory; made on first start, mode 0700."""
    http: str = "127.0.0.1:8440"
    """Address of the HTTP API. Port 0 takes a free one."""
    p2p: str = ""
    """Multiaddress for other nodes, `/ip4/ADDRESS/tcp/PORT`; empty: no other node reaches this one,
    nor it them."""
    announce: str = ""
    """Where other nodes reach this one if not at `p2p`, a name or a forwarded port, say:
    multiaddresses with commas between."""
    signup: Literal["open", "invite"] = "invite"
    workers: int | Literal["auto"] = "auto"
    """Slots of the local worker: `auto` is one a core, 0 is no local worker."""
    placement: Placement = "spread"
    """Who gets a job among workers that fit, have room and are liked equally: `spread`, who has
    most free slots; `pack`, who has fewest."""
    egress_networks: str = ""
    """`NETWORK,...`: private networks, as `10.0.0.0/8`, that functions on the local worker may
    reach where their project lists a host in them."""
    backends: str = ""
    """`NAME,...`: what may run models on the local worker, best first; empty: all that is here."""
    isolation: Literal["auto", "wasm", "sandbox", "process"] = "auto"
    """Weakest isolation level of any job: `auto` is `sandbox` where this machine has it, else
    `wasm`; `process` is for a node that runs its operator's own functions only."""
    jobs_per_process: int = 0
    """Most jobs of a function that one process runs: 1 is a fresh one for each job, 0 no limit."""
    job_memory_max_bytes: int = 64 << 30
    """Most `memory_bytes` that a job may be given. Source: guess; a large model in memory."""
    job_output_max_bytes: int = 64 << 30
    """Most `output_bytes`. Source: as `blob_size_max_bytes`; at level `sandbox` what a job has
    written and not handed over lies in memory."""
    tls: str = ""
    """`CERT,KEY`: paths of PEM files. Workers pin the key, so make a new certificate for the
    old one where you can."""
    behind_proxy: bool = False
    """A proxy in front ends TLS, so plain HTTP off the loopback is meant."""
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    mesh_name: str = "mesh"
    """Name of the mesh that a first start founds."""
    blob_size_max_bytes: int = 64 << 30
    """Largest blob. Source: guess."""
    store_size_max_bytes: int = 64 << 30
    """Size of the LMDB map; the file grows only as it fills. Source: guess."""
    jobs_live_max: int = 1_000_000
    """Jobs that are not over; more are answered 503. Source: about 1 KiB of memory each."""
    requests_active_max: int = 1024
    """API calls at work at once; more are answered 503 before their body is read.
    Source: twice the connections of a busy client pool; a wait does not count."""
    wait_max_s: float = 3600.0
    """Longest `?wait=`. Source: guess; clients ask again."""
    sync_interval_s: float = 30.0
    """Pause between reconciliations with a peer chosen by lot, half more or less. Source: guess; a
    change that gossip lost is somewhere else by then, at some hundred bytes a look."""
    greeting_interval_s: float = 30.0
    """How often a peer that is up is greeted. Source: guess; some 30 bytes a second for each peer.
    A node whose directory was put back as it was is held back for two of them; at less than half of
    the longest pause between dials, one that runs elsewhere may be taken for one that is over."""
    drain_s: float = 10.0
    """How long a stopping node lets running calls and jobs end. Source: systemd's habits."""
    lease_s: float = 30.0
    reconnect_s: float = 30.0
    """How long a worker that lost its link may come back with its jobs. Source: guess."""
    password_memory_bytes: int = 64 << 20
    """argon2id memory. Source: OWASP asks for 19 MiB at least; 64 MiB takes 0.14 s here."""
    password_passes: int = 3
    login_rate_per_minute: float = 20.0
    """Logins and sign-ups from one address. Source: guess; 5/min a user besides."""

    @property
    def http_address(self) -> tuple[str, int]:
        """Host and port of `http`; raises `ConfigError`."""
        host, separator, port = self.http.rpartition(":")
        if not separator or not port.isdigit() or int(port) > 65535:
            raise ConfigError(f"http: {self.http!r} is not HOST:PORT")
        return host.strip("[]") or "127.0.0.1", int(port)

    @property
    def announced(self) -> tuple[str, ...]:
        """The addresses of `announce`."""
        return tuple(filter(None, self.announce.split(",")))

    @property
    def on_loopback(self) -> bool:
        """Tell whether only this machine reaches the API."""
        host, _ = self.http_address
        return host == "localhost" or host.startswith("127.") or host == "::1"

    @property
    def slots(self) -> int:
        """Slots of the local worker."""
        return (os.cpu_count() or 1) if self.workers == "auto" else self.workers

    @property
    def policy(self) -> Policy:
        """What is asked of every job; `auto` that nobody settled asks for `sandbox`."""
        level = "sandbox" if self.isolation == "auto" else self.isolation
        return Policy(
            level,
            self.jobs_per_process or None,
            self.job_memory_max_bytes,
            self.job_output_max_bytes,
        )

    def check(self) -> None:
        """Raise `ConfigError` for settings that do not go together."""
        if not self.on_loopback and not self.tls and not self.behind_proxy:
            raise ConfigError(
                f"http: {self.http} is reachable from other machines without TLS; "
                "give --tls CERT,KEY, or --behind-proxy if a proxy ends TLS"
            )
        if self.p2p:
            try:
                parse_address(self.p2p)
            except InvalidData as error:
                raise ConfigError(f"p2p: {error}; write /ip4/ADDRESS/tcp/PORT") from None
        try:
            parse_networks(self.egress_networks)
        except ValueError as error:
            raise ConfigError(f"egress_networks: {error}") from None
        try:
            parse_backends(self.backends)
        except ValueError as error:
            raise ConfigError(str(error)) from None
        if self.announce:
            self._check_announce()
        if self.tls and self.tls.count(",") != 1:
            raise ConfigError(f"tls: {self.tls!r} is not CERT,KEY")
        if self.greeting_interval_s <= 0:
            raise ConfigError(f"greeting_interval_s: {self.greeting_interval_s} is not above 0")
        if not 0 <= self.jobs_per_process <= 1 << 20:
            raise ConfigError(f"jobs_per_process: {self.jobs_per_process} is not 0 to {1 << 20}")
        for name, least in ("job_memory_max_bytes", MEMORY_MIN_BYTES), ("job_output_max_bytes", 1):
            size = getattr(self, name)
            if not least <= size <= SIZE_MAX_BYTES:
                raise ConfigError(f"{name}: {size} is not {least} to {SIZE_MAX_BYTES}")
        if self.workers != "auto" and not 0 <= self.workers <= 1024:
            raise ConfigError(f"workers: {self.workers} is not 0 to 1024, or auto")

    def _check_announce(self) -> None:
        if not self.p2p:
            raise ConfigError("announce: nobody is let in there without p2p; give --p2p too")
        if len(self.announced) > ADDRESSES_MAX:
            raise ConfigError(f"announce: more than {ADDRESSES_MAX} addresses")
        for written in self.announced:
            try:
                address = parse_address(written)
            except InvalidData as error:
                raise ConfigError(f"announce: {error}; write /dns4/NAME/tcp/PORT") from None
            if not address.port or address != reachable(address):
                raise ConfigError(f"announce: {written} is nowhere; name an address others reach")


def certificate_pin(config: Config) -> str:
    """Return the pin of this node's certificate; empty without TLS. Raises `ConfigError`."""
    if not config.tls:
        return ""
    path = config.tls.split(",")[0]
    try:
        return pin_of_file(Path(path))
    except (OSError, ValueError) as error:
        raise ConfigError(f"tls: {path}: {error}") from None


def load(
    path: Path | None = None,
    environment: Mapping[str, str] | None = None,
    flags: Mapping[str, object] | None = None,
) -> Config:
    """Return the settings from `path` (TOML), `environment` and `flags`; `None` flags are unset.

    Raises `ConfigError`.
    """
    values: dict[str, Any] = {}
    if path is not None:
        try:
            values |= tomllib.loads(path.read_text("utf-8"))
        except (OSError, ValueError) as error:
            raise ConfigError(f"{path}: {error}") from None
    for name, value in (environment or {}).items():
        key = name.removeprefix(ENVIRONMENT_PREFIX).lower()
        if name.startswith(ENVIRONMENT_PREFIX) and key not in _NOT_SETTINGS:
            values[key] = value
    values |= {name: value for name, value in (flags or {}).items() if value is not None}
    try:
        config = msgspec.convert(values, Config, strict=False, dec_hook=_decode)
    except msgspec.ValidationError as error:
        raise ConfigError(str(error).replace("$.", "").replace("Object contains u", "u")) from None
    config.check()
    return config


def _decode(kind: type, value: object) -> Any:
    if kind is Path:
        return Path(str(value))
    raise NotImplementedError(kind)
