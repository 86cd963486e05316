"""The Python SDK: what a requester and a developer hold in their hands.

    with peernode.Client() as client:
        job = client.function("vision/detect_faces").spawn({"image": {"blob": blob["id"]}})
    ...                                  # gone; the job is not
    with peernode.Client() as client:
        print(client.job(job_id).result())

Each call is an operation (`objects`, `jobs`, `blobs`): a generator that yields effects and does no
I/O, so that it is written once.  `transport` carries effects out, blocking or on trio; `retries`
stands between the two.  `Client` and `AsyncClient` only give the operations names.
"""

from peernode.client.async_client import (
    AsyncClient,
    AsyncFunction,
    AsyncJobHandle,
    AsyncNamespace,
)
from peernode.client.errors import (
    ClientError,
    ConfigurationError,
    ConnectionFailed,
    JobFailed,
    JobTimeout,
    NotFound,
    ProblemError,
    Unauthenticated,
    WrongNode,
)
from peernode.client.executor import Executor
from peernode.client.retries import Policy
from peernode.client.sse import Event
from peernode.client.sync_client import Client, Function, JobHandle, Namespace

__all__ = [
    "AsyncClient",
    "AsyncFunction",
    "AsyncJobHandle",
    "AsyncNamespace",
    "Client",
    "ClientError",
    "ConfigurationError",
    "ConnectionFailed",
    "Event",
    "Executor",
    "Function",
    "JobFailed",
    "JobHandle",
    "JobTimeout",
    "Namespace",
    "NotFound",
    "Policy",
    "ProblemError",
    "Unauthenticated",
    "WrongNode",
]
