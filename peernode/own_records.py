"""Records that this node writes: signed for whoever acts, never behind what they said elsewhere.

A user's record is signed as the delegate that the certificate names.  What a job writes, and an
entry of a `cas` namespace, is signed by the node for itself.
"""

from peernode.identity import Identity
from peernode.permissions import Actor
from peernode.problems import Problem
from storage import merge, records
from storage.authority import Authority
from storage.certificates import decode_certificate
from storage.places import Class, Mode, Place
from storage.records import Flag, Record
from storage.signing import Seal


def sign_for(
    actor: Actor,
    identity: Identity,
    authority: Authority,
    place: Place,
    payload: bytes,
    flags: Flag,
    at: int,
    birth: Seal | None,
) -> Record:
    """Return a record of time `at` by `actor`, signed by this node; `birth` is the object's."""
    by_node = actor.kind == "job" or (place.mode is Mode.CAS and place.class_ is Class.KV_ENTRY)
    certificate = None if by_node else decode_certificate(actor.certificate)
    grant_n = 0
    if not by_node and place.owner_class is Class.PROJECT:
        role = authority.role(place.owner, actor.user)
        grant_n = role[1] if role else 0
    body = records.Body(
        mesh=identity.mesh[:8],
        place=place,
        author=identity.number if by_node else actor.user,
        epoch=certificate.terms.epoch if certificate else 0,
        hlc=at,
        signed_at=at,
        flags=flags,
        grant_n=grant_n,
        job=(actor.job or None) if actor.kind == "job" else None,
        payload=payload,
    )
    return records.sign_record(
        identity.keypair, identity.mesh, body, certificate=certificate, birth=birth
    )


def require_greater(record: Record, held: Record) -> None:
    """Raise a `Problem` if a record's author has said something there that ranks higher."""
    if held.key == record.key and not merge.beats(record, held):
        raise Problem(
            "conflict",
            "a later version by the same author is known, under a newer key or membership",
            hint="log in again",
        )
