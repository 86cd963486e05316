"""One task makes the next while the other deals with the last."""

from collections.abc import AsyncGenerator

import pytest

from peernode.pairs import ahead


class Source:
    """Counts to three, then ends or fails; knows whether it was closed."""

    def __init__(self, error: Exception | None = None) -> None:
        self.error = error
        self.closed = False

    async def items(self) -> AsyncGenerator[int, None]:
        try:
            for number in range(3):
                yield number
            if self.error is not None:
                raise self.error
        finally:
            self.closed = True


async def divide(source: Source, by: int, seen: list[int]) -> None:
    async with ahead(source.items()) as items:
        async for item in items:
            seen.append(item // by)  # noqa: PERF401  (what came before an error counts)


async def test_items_come_in_order_and_the_source_is_closed() -> None:
    source = Source()
    async with ahead(source.items()) as items:
        assert [item async for item in items] == [0, 1, 2]
    assert source.closed


async def test_an_error_of_the_source_leaves_as_itself_and_is_never_taken_for_the_end() -> None:
    source = Source(ConnectionResetError("cut"))
    seen: list[int] = []
    with pytest.raises(ConnectionResetError, match="cut"):
        await divide(source, 1, seen)
    assert seen == [0, 1, 2]


async def test_an_error_of_the_reader_leaves_as_itself_and_closes_the_source() -> None:
    source = Source()
    with pytest.raises(ZeroDivisionError):
        await divide(source, 0, [])
    assert source.closed


async def test_a_reader_may_leave_early() -> None:
    source = Source()
    async with ahead(source.items()) as items:
        async for item in items:
            assert item == 0
            break
    assert source.closed
