"""The seven classes: everything that is particular to each stands in its own module.

A new class is one new module and one line here.
"""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

from peernode.calls import ObjectClass
from peernode.classes.blob import BLOB
from peernode.classes.function import FUNCTION
from peernode.classes.job import JOB
from peernode.classes.kv import KV
from peernode.classes.project import PROJECT
from peernode.classes.user import USER
from peernode.classes.worker import WORKER

CLASSES: Final[Mapping[str, ObjectClass]] = MappingProxyType(
    {spec.name: spec for spec in (USER, PROJECT, FUNCTION, JOB, WORKER, BLOB, KV)}
)
"""Name -> class, in the paper's order."""
