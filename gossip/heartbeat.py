"""What a node does about its meshes once a second.

In this order, for each topic of ours: drop who misbehaves or cannot keep up; take more if there
are fewer than Dlo; prune to D if there are more than Dhi, keeping the best and enough of those we
dialled (who dialled us may have come to surround us); see that enough of those we dialled are
there; now and then take better peers, if most of the mesh is poor.

https://github.com/libp2p/specs/blob/master/pubsub/gossipsub/gossipsub-v1.1.md
"""

from gossip.config import Config
from gossip.outbox import Peer
from gossip.overlay import Overlay, Topic


def maintain(overlay: Overlay, topic: Topic, opportunistic: bool, now: float) -> None:
    """Bring one mesh in order."""
    config, mesh = overlay.config, topic.mesh
    assert mesh is not None
    poor = [p for p in mesh.values() if p.slow or p.doomed or p.standing.is_below(0.0)]
    for peer in poor:
        overlay.prune(peer, topic, config.backoff_s, now)
    if len(mesh) < config.degree_low:
        overlay.fill(topic, config.degree - len(mesh), now)
    if len(mesh) > config.degree_high:
        for peer in surplus(config, overlay, list(mesh.values())):
            overlay.prune(peer, topic, config.backoff_s, now)
    if len(mesh) >= config.degree_low:
        missing = config.degree_outbound - sum([peer.outbound for peer in mesh.values()])
        if missing > 0:
            dialled = [peer for peer in overlay.candidates(topic, now) if peer.outbound]
            for peer in overlay.chance.sample(dialled, min(missing, len(dialled))):
                overlay.graft(peer, topic, now)
    if opportunistic and len(mesh) > 1:
        _improve(overlay, topic, now)


def surplus(config: Config, overlay: Overlay, members: list[Peer]) -> list[Peer]:
    """Return who is to leave a mesh that is too large.

    Dscore of the best stay, the others stay by chance, Dout of those we dialled stay if there are.
    """
    # Shuffle first: equal scores are ordered by chance.
    overlay.chance.shuffle(members)
    members.sort(key=lambda peer: -peer.standing.value)
    best, rest = members[: config.degree_score], members[config.degree_score :]
    overlay.chance.shuffle(rest)
    members = best + rest
    kept, gone = members[: config.degree], members[config.degree :]
    missing = config.degree_outbound - sum(peer.outbound for peer in kept)
    dialled = [peer for peer in gone if peer.outbound][: max(0, missing)]
    for peer in dialled:
        # In exchange for the last that was kept and dialled us.
        last = next(other for other in reversed(kept) if not other.outbound)
        kept.remove(last)
        kept.append(peer)
        gone.remove(peer)
        gone.append(last)
    return gone


def _improve(overlay: Overlay, topic: Topic, now: float) -> None:
    """Opportunistic grafting: a mesh of silent peers would never lose them otherwise."""
    config, mesh = overlay.config, topic.mesh
    assert mesh is not None
    median = sorted(peer.standing.value for peer in mesh.values())[len(mesh) // 2]
    if median >= config.score.opportunistic_below:
        return
    better = [p for p in overlay.candidates(topic, now) if p.standing.value > median]
    for peer in overlay.chance.sample(better, min(config.opportunistic_peers, len(better))):
        overlay.graft(peer, topic, now)
