"""The encrypted line under Yamux: Noise messages of the largest size, and many in one write.

The library's own session sends each frame of Yamux by itself: 64 KiB and a head, which is 17 bytes
more than fit into a Noise message, so that every frame costs two messages and two system calls;
and what comes is copied five times on its way up.  On the wire there is no difference but sizes:
any libp2p understands it.

Half of what a large transfer costs a node is spent here (README has the figures).
"""

from typing import Final

from libp2p.io.exceptions import IncompleteReadError, IOException
from libp2p.security.noise.io import MAX_PLAINTEXT_LENGTH, NoiseTransportReadWriter
from libp2p.security.secure_session import SecureSession

from peernode.libp2p_patches import TcpStream

_HEAD_SIZE_BYTES: Final = 2


class Secured(SecureSession):
    """What Noise has agreed on, over a socket. One reader and one writer at a time."""

    def __init__(self, session: SecureSession, tcp: TcpStream) -> None:
        """Take `session` over right after its handshake: nothing may have been read from it."""
        line = session.conn
        if not isinstance(line, NoiseTransportReadWriter):
            raise IOException("not a session of Noise")
        super().__init__(
            local_peer=session.local_peer,
            local_private_key=session.local_private_key,
            remote_peer=session.remote_peer,
            remote_permanent_pubkey=session.remote_permanent_pubkey,
            is_initiator=session.is_initiator,
            conn=line,
        )
        self._tcp = tcp
        # Not its own `encrypt`, which takes nothing but `bytes`.
        self._encrypt = line.noise_state.noise_protocol.cipher_state_encrypt.encrypt_with_ad
        self._decrypt = line.noise_state.decrypt
        self._plain = bytearray()

    async def read(self, n: int | None = None) -> bytes:
        """Return exactly `n` bytes. Raises `IncompleteReadError` at the end."""
        if n is None:
            raise IOException("a read without a size")
        plain = self._plain
        while len(plain) < n:
            head = await self._tcp.read(_HEAD_SIZE_BYTES)
            size_bytes = int.from_bytes(head, "big")
            sealed = await self._tcp.read(size_bytes)
            if len(head) < _HEAD_SIZE_BYTES or len(sealed) < size_bytes:
                raise IncompleteReadError("the line ended", n, len(plain) + len(head))
            plain += self._decrypt(sealed)
        with memoryview(plain) as view:
            taken = bytes(view[:n])
        del plain[:n]
        return taken

    async def more_comes(self) -> bool:
        """Return whether the other end says more, once it does that or ends; reads nothing."""
        return bool(self._plain) or await self._tcp.more_comes()

    async def write(self, data: bytes) -> None:
        """Write all bytes, in one go."""
        parts: list[bytes] = []
        view = memoryview(data)
        for at in range(0, len(data), MAX_PLAINTEXT_LENGTH):
            sealed = self._encrypt(None, view[at : at + MAX_PLAINTEXT_LENGTH])
            parts += len(sealed).to_bytes(_HEAD_SIZE_BYTES, "big"), sealed
        await self._tcp.write(b"".join(parts))
