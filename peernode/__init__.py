"""One daemon: where the parts meet; and the SDK of its API.

`peernode.Client` and its friends are those of `peernode.client`, imported with their first use: a
node that starts needs no HTTP client.
"""

import importlib
from typing import Any, Final

_SDK: Final = frozenset(
    {
        "AsyncClient",
        "Client",
        "ClientError",
        "ConnectionFailed",
        "Executor",
        "JobFailed",
        "JobTimeout",
        "NotFound",
        "ProblemError",
        "Unauthenticated",
    }
)


def __getattr__(name: str) -> Any:
    if name in _SDK:
        return getattr(importlib.import_module("peernode.client"), name)
    raise AttributeError(f"module 'peernode' has no attribute {name!r}")
