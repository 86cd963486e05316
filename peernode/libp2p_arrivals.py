"""Who may begin a handshake, and whose second connection is taken: what one host or key can cost.

A handshake takes some 5 ms of the loop's time, and only after it is it known who called.  So before
it the *host* is counted: so many handshakes a second, and so many at once, after which its oldest
gives way to its newest.  Those whose host is no member's leave room for those whose host is: with
every place taken, it is one of theirs that ends, of the host that has most of them.

After it the *key* is counted.  A member has one link; a connection that would take the place of a
live one costs more than its handshake, since all that is told once a link is told again.  A node
that lost its line without noticing needs that once in a while, and nobody needs it often.

A second connection is one of three: it crossed the first, or the first is dead and only the other
end knows, or it comes from a second process with that key.  If they crossed, both ends keep the one
that the smaller id dialled, and the other end *ends* the second.  Otherwise it knows nothing of the
first, and goes on with the second.  So whoever dialled the first waits to see which it is.

What it leaves out: what becomes of a connection (`libp2p_network`).
"""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

import trio

from gossip.errors import PeerError
from peernode.libp2p_config import Libp2pConfig
from peernode.rate_limits import Buckets, address_key

if TYPE_CHECKING:
    from peernode.libp2p_connection import Connection, Connector
    from peernode.libp2p_link import Link


class Arrivals:
    """The handshakes under way, and who has begun how many of late."""

    def __init__(self, config: Libp2pConfig, known_hosts: Callable[[], Iterable[str]]) -> None:
        """`known_hosts` returns where members are, or may be."""
        self.begun = 0
        """Handshakes since the start."""
        self.refused = 0
        """Connections that were closed before one."""
        self._config = config
        self._known_hosts = known_hosts
        self._under_way: dict[trio.CancelScope, str] = {}
        """Oldest first, each with its host."""
        self._hosts = Buckets(
            config.handshakes_per_host_per_s,
            config.handshakes_per_host_burst,
            config.stranger_hosts_max,
        )
        self._keys = Buckets(
            config.replacements_per_minute / 60,
            config.replacements_burst,
            config.stranger_hosts_max,
        )

    async def receive(
        self,
        stream: trio.SocketStream,
        connector: "Connector",
        find: "Callable[[str], Link | None]",
    ) -> "Connection | None":
        """Return the connection of somebody who has proved a key, if it comes to that.

        `find` returns the link to a peer.  One that crossed our own is ended here.
        """
        try:
            host = str(stream.socket.getpeername()[0])
        except OSError:
            return None
        with self.handshake(host) as may, suppress(PeerError):
            if may:
                connection = await connector.accept(stream)
                old = find(connection.peer)
                if old is None or not old.connection.is_ours or connection.peer < connector.peer:
                    return connection
                if await self._goes_on(connection):
                    return connection
        return None

    @contextmanager
    def handshake(self, host: str) -> Iterator[bool]:
        """Tell whether somebody from this host may begin one, which the block is then.

        It is cancelled when it has to give way to another.
        """
        host = address_key(host)
        if self._hosts.take(host, trio.current_time()) or not self._make_room(host):
            self.refused += 1
            yield False
            return
        self.begun += 1
        with trio.CancelScope() as scope:
            self._under_way[scope] = host
            try:
                yield True
            finally:
                self._under_way.pop(scope, None)

    def takes_over(self, own: str, old: "Connection", new: "Connection") -> bool:
        """Tell whether a new connection replaces the old one; `own` is this node's peer id."""
        if new.is_ours:
            return old.is_ours or own < new.peer
        return self.may_replace(new.peer)

    def may_replace(self, peer: str) -> bool:
        """Tell whether a peer's new connection may take the place of its link, and count it."""
        return self._keys.take(peer, trio.current_time()) == 0.0

    def check(self) -> None:
        """Assert that limits are kept."""
        hosts = list(self._under_way.values())
        assert len(hosts) <= self._config.handshakes_max
        assert all(hosts.count(h) <= self._config.handshakes_per_host_max for h in hosts)
        self._hosts.check()
        self._keys.check()

    async def _goes_on(self, connection: "Connection") -> bool:
        """Tell whether the other end goes on with a connection; if not, end it."""
        does = False
        try:
            with trio.move_on_after(self._config.handshake_timeout_s):
                does = await connection.goes_on()
        finally:
            if not does:
                connection.break_off()
        return does

    def _make_room(self, host: str) -> bool:
        """Have room for one more of a host; tell whether there is."""
        hosts = list(self._under_way.values())
        if hosts.count(host) >= self._config.handshakes_per_host_max:
            self._end_oldest(host)
        elif len(hosts) >= self._config.handshakes_max:
            known = {address_key(each) for each in self._known_hosts()}
            others = [each for each in hosts if each not in known]
            if not others and host not in known:
                return False
            self._end_oldest(max(others or hosts, key=hosts.count))
        return True

    def _end_oldest(self, host: str) -> None:
        scope = next(scope for scope, each in self._under_way.items() if each == host)
        # Who only connects is older than who goes on to say something.
        del self._under_way[scope]
        scope.cancel()
