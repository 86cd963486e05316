"""Which node number comes next: each admitter counts in its own block, so none has to ask another.

A number is never given twice, and a part of a block that was given away belongs to the node that
got it, evicted or not.  What is left of a block are gaps; the widest one gives the next number from
its low end and, for the new node to admit others with, a share of itself from its high end.

With a thirty-second as the share the founder, whose block is all of 16,382 numbers, admits some 220
nodes; the first of them holds 511 numbers and admits some 120, whose first admits 15.
"""

from collections.abc import Iterable
from typing import Final

from storage.facts import Fact, NodeGrant

SHARE: Final = 32
"""A new node's block is one part in this many of what is left. Source: formula, see the module."""


def next_number(
    block: tuple[int, int], facts: Iterable[Fact]
) -> tuple[int, tuple[int, int] | None] | None:
    """Return a number of `block` that no fact gives away, and a block for its node, if any is left.

    `None`: all are given.  `facts` may be of any kind.
    """
    low, high = block
    taken = []
    for fact in facts:
        grant = fact.statement
        if isinstance(grant, NodeGrant) and low <= grant.number < high:
            taken.append((grant.number, grant.number + 1))
            if grant.block is not None:
                taken.append(grant.block)
    widest, start = (0, 0), low
    for begin, end in [*sorted(taken), (high, high)]:
        if begin - start > widest[1] - widest[0]:
            widest = start, begin
        start = max(start, end)
    number, end = widest
    if number == end:
        return None
    share = (end - number) // SHARE
    return number, (end - share, end) if share else None
