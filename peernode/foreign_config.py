"""What may be set of answering for other nodes: every limit and waiting time, with its source."""

from dataclasses import dataclass, field, fields

from gossip.fetch_events import FetchConfig


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """Limits of what is asked of other nodes, kept of theirs, and given to them."""

    ask_timeout_s: float = 10.0
    """How long a home has for an answer that waits for nothing. Source: guess; as long as a person
    waits."""
    wait_slice_s: float = 30.0
    """How long one question to a home waits before it is asked again. Source: guess; what a home
    holds for a caller who left ends by then."""
    waits_max: int = 128
    """Most questions to one home that wait there; more callers are served by asking again and
    again. Source: half of what a peer may have open, so that waits do not keep others out."""
    poll_s: float = 1.0
    """How often they ask. Source: guess; what a person takes for at once."""
    find_timeout_s: float = 5.0
    """How long neighbours are asked for what the home cannot be asked for. Source: guess; a tenth
    of a second each, and some that do not answer."""
    content_timeout_s: float = 24 * 3600.0
    """How long one reader may wait for content. Source: formula, the largest blob at 1 MB/s;
    peers that give nothing are given up long before, after `fetch.silence_s`."""
    retry_s: float = 60.0
    """Pause before sources that could not be fetched are tried again. Source: guess."""
    fresh_s: float = 60.0
    """How long a job that is over is answered without asking its home whether it was deleted.
    Source: guess; as long as other caches' shortest."""

    jobs_max: int = 65_536
    """Most jobs of other nodes kept. Source: guess."""
    jobs_size_max_bytes: int = 256 << 20
    """Most bytes of them. Source: guess; 4 KiB each, or 128 of the largest."""
    blobs_max: int = 65_536
    """Most blobs of other nodes whose attributes are kept. Source: guess, 25 MB."""
    blobs_size_max_bytes: int = 64 << 20
    """Most bytes of those attributes. Source: a kibibyte each."""
    cache_size_max_bytes: int = 8 << 30
    """Most bytes of other nodes' content. Source: guess; an eighth of the largest blob."""
    cache_entries_max: int = 65_536
    """Most contents of other nodes. Source: as `blobs_max`."""
    prefetches_max: int = 2
    """Sources of functions fetched ahead at once. Source: guess; leaves room for readers."""

    served_max: int = 1024
    """Most questions of one peer at work here. Source: guess; waits and streams are long."""
    nodes_read_max: int = 64
    """Nodes of trees kept decoded while their blocks are given out. Source: 64 GiB of content,
    about 8 MB of memory."""
    fetch: FetchConfig = field(default_factory=lambda: FetchConfig(window=8))
    """Source: measurement; 28 MB/s with 8 requests open where 4 gave 16, on a loaded machine: one
    of eight stays open until eight blocks are on the disk."""

    def __post_init__(self) -> None:
        """Raise `ValueError` for a limit that allows nothing."""
        for item in fields(self):
            if item.name != "fetch" and getattr(self, item.name) <= 0:
                raise ValueError(f"{item.name} must be greater than 0")
