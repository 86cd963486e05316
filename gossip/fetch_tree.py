"""The tree of one content that is being fetched: what has been looked for, and what is below it."""

from collections.abc import Iterable, Sequence

from gossip.fetch_events import Block
from storage.cid import LEVELS_MAX, LINKS_MAX, Cid, decode_node, is_leaf
from storage.errors import InvalidData


class Tree:
    """What is known of a tree, from its root down."""

    def __init__(self, size_max_bytes: int) -> None:
        self._size_max_bytes = size_max_bytes
        self._looking: dict[int, tuple[Block, ...]] = {}
        self._looks = 0
        self._seen: dict[Cid, None] = {}

    @property
    def is_looking(self) -> bool:
        """Tell whether it is still to be said of some blocks whether they are here."""
        return bool(self._looking)

    def look_up(self, blocks: Iterable[Block]) -> tuple[int, tuple[Block, ...]] | None:
        """Return those blocks that were not looked for before, and a number for the answer.

        Content may have one block in many places; it is needed once.
        """
        fresh = {block.cid: block for block in blocks if block.cid not in self._seen}
        if not fresh:
            return None
        self._seen |= dict.fromkeys(fresh)
        self._looks += 1
        self._looking[self._looks] = tuple(fresh.values())
        return self._looks, self._looking[self._looks]

    def looked_up(self, look: int) -> Sequence[Block]:
        """Return what was looked for under this number; nothing if that is answered."""
        return self._looking.pop(look, ())

    def children(self, block: Block, data: bytes) -> list[Block]:
        """Return what is below a good block; nothing below a leaf.

        Raises `InvalidData` if it is no content as it is taken here.
        """
        below = [] if is_leaf(block.cid) else decode_node(data)
        size_bytes = sum(size for _, size in below) if below else len(data)
        if block.size_bytes not in (-1, size_bytes):
            raise InvalidData("a block has another size than its parent says")
        if size_bytes > self._size_max_bytes:
            raise InvalidData(f"content of {size_bytes} bytes, over {self._size_max_bytes}")
        if below and block.depth == LEVELS_MAX:
            raise InvalidData("a tree is too deep")
        first = block.index * LINKS_MAX
        return [
            Block(cid, block.depth + 1, first + at, size) for at, (cid, size) in enumerate(below)
        ]


def position(block: Block | None) -> tuple[int, int]:
    """Return where in the content a block begins, in leaves, and how deep it is."""
    if block is None:
        return 0, 0
    return block.index * LINKS_MAX ** (LEVELS_MAX - block.depth), block.depth
