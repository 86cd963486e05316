"""Peers that do not keep up, and what is on its way to them."""

import pytest

from gossip import wire_encode
from gossip.mesh_events import (
    Connected,
    Disconnect,
    Disconnected,
    Effect,
    Publish,
    Received,
    Send,
    Subscribe,
    Tick,
    Unsubscribe,
    Written,
)
from tests.gossip.mesh_swarm import TOPIC, Key, Pipe, Said, peer_id, publish_of, small

AUTHOR = Key.of("author")
LARGE = bytes(100_000)


def p(number: int) -> bytes:
    return peer_id(("p", number))


def pipe_with(count: int, **config: object) -> Pipe:
    pipe = Pipe(small(**config))
    pipe.say(Subscribe(TOPIC))
    for number in range(count):
        for effect in pipe.say(Connected(p(number), outbound=True)):
            pipe.say(Written(effect.peer, len(effect.rpc)))
        pipe.say(Received(p(number), wire_encode.subscription(TOPIC, True)))
    return pipe


def size(effects: list[Effect], peer: bytes) -> int:
    return sum(len(e.rpc) for e in effects if isinstance(e, Send) and e.peer == peer)


def fill(pipe: Pipe, *, reading: tuple[int, ...], until: int) -> None:
    """Publish until so many bytes are on their way to the others; some read what they get."""
    while max(peer.queued_bytes for peer in pipe.mesh._overlay.peers.values()) < until:
        effects = pipe.say(Publish(TOPIC, LARGE))
        for number in reading:
            pipe.say(Written(p(number), size(effects, p(number))))


def test_what_is_on_the_way_is_counted_in_bytes() -> None:
    pipe = pipe_with(1)
    before = pipe.mesh.statistics().queued_bytes
    effects = pipe.say(Publish(TOPIC, b"x"))
    sent = size(effects, p(0))
    assert pipe.mesh.statistics().queued_bytes == before + sent
    pipe.say(Written(p(0), sent + before))
    assert pipe.mesh.statistics().queued_bytes == 0


def test_a_publisher_waits_while_a_peer_has_no_room_and_goes_on_when_it_read() -> None:
    pipe = pipe_with(2)
    fill(pipe, reading=(1,), until=(1 << 20) + 1)
    assert not pipe.mesh.room
    queued = pipe.mesh._overlay.peers[p(0)].queued_bytes
    pipe.say(Written(p(0), queued - (256 << 10)))
    assert not pipe.mesh.room, "not at the first byte: that would be a message a time"
    pipe.say(Written(p(0), 1))
    assert pipe.mesh.room


def test_a_peer_that_does_not_read_is_waited_for_one_second_once() -> None:
    pipe = pipe_with(2)
    pipe.beat()
    fill(pipe, reading=(1,), until=(1 << 20) + 1)
    began = pipe.now
    while not pipe.mesh.room:
        pipe.beat()
    assert pipe.now - began == pytest.approx(1.0)
    assert pipe.mesh.statistics().peers_slow == 1
    effects = pipe.say(Publish(TOPIC, b"news"))
    assert Said(effects, p(0)).nothing
    assert Said(effects, p(1)).data == [b"news"]
    assert pipe.mesh.room


def test_the_deadline_is_when_a_peer_becomes_slow() -> None:
    pipe = pipe_with(1)
    pipe.beat()
    pipe.now += 0.3
    began = pipe.now
    fill(pipe, reading=(), until=(1 << 20) + 1)
    pipe.beat()
    assert pipe.mesh.deadline == pytest.approx(began + 1.0)
    pipe.beat()
    assert pipe.mesh.statistics().peers_slow == 1
    assert pipe.mesh.deadline > pipe.now


def test_a_slow_peer_loses_its_place_and_gets_messages_again_when_it_reads() -> None:
    pipe = pipe_with(4)
    fill(pipe, reading=(1, 2, 3), until=(1 << 20) + 1)
    effects = pipe.later(2.1)
    assert Said(effects, p(0)).prune == [(TOPIC, 60)]
    assert pipe.mesh.statistics().mesh == 3
    pipe.say(Written(p(0), pipe.mesh._overlay.peers[p(0)].queued_bytes))
    assert Said(pipe.say(Publish(TOPIC, b"news")), p(0)).data == [b"news"]


def test_messages_over_the_limit_are_dropped_and_control_is_not() -> None:
    pipe = pipe_with(4, slow_s=1000.0)
    for number in range(60):
        pipe.say(Received(p(1), publish_of(AUTHOR, number, LARGE)))
    peer = pipe.mesh._overlay.peers[p(0)]
    assert peer.queued_bytes <= pipe.config.queue_max_bytes
    assert pipe.mesh.statistics().dropped > 0
    assert Said(pipe.say(Unsubscribe(TOPIC)), p(0)).prune == [(TOPIC, 10)]


def test_a_peer_that_does_not_even_read_control_is_disconnected() -> None:
    pipe = pipe_with(1, queue_max_bytes=1 << 20, queue_control_bytes=2000)
    fill(pipe, reading=(), until=1_000_000)
    ended: list[Effect] = []
    for _ in range(200):
        ended += pipe.say(Subscribe("t" * 250))
        ended += pipe.say(Unsubscribe("t" * 250))
    assert [e for e in ended if isinstance(e, Disconnect)] == [
        Disconnect(p(0), "it does not read what it is sent")
    ]
    assert pipe.say(Publish(TOPIC, b"x")) == []
    pipe.say(Disconnected(p(0)))
    assert pipe.mesh.room


def test_a_peer_that_is_gone_is_not_waited_for() -> None:
    pipe = pipe_with(1)
    fill(pipe, reading=(), until=(1 << 20) + 1)
    assert not pipe.mesh.room
    pipe.say(Disconnected(p(0)))
    assert pipe.mesh.room
    assert pipe.say(Written(p(0), 5)) == []


def test_many_messages_leave_in_rpcs_of_limited_size() -> None:
    pipe = pipe_with(4)
    rpc = b"".join(publish_of(AUTHOR, number, bytes(3000)) for number in range(300))
    effects = pipe.say(Received(p(0), rpc))
    for number in range(1, 4):
        sizes = [len(e.rpc) for e in effects if isinstance(e, Send) and e.peer == p(number)]
        assert len(sizes) == 4
        assert max(sizes) <= pipe.config.rpc_size_bytes
        assert len(Said(effects, p(number)).data) == 300


def test_a_tick_before_its_time_does_nothing() -> None:
    pipe = pipe_with(1)
    pipe.beat()
    assert pipe.say(Tick()) == []
