"""Look at pictures at the edge, and let only the findings travel to the cloud.

    python -m peernode.examples.preprocessing --url http://127.0.0.1:8440

The function measures the picture, posts what it found to the cloud, and deletes the picture.  The
"cloud" here is a tiny web server on this machine; give `--endpoint` for one of your own.
"""

import argparse
import json
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread
from typing import Any
from urllib.parse import urlsplit

from peernode.client import Client
from peernode.examples.face_detection import ASTRONAUT, HERE, ensure_namespace, ensure_project


class Cloud(HTTPServer):
    """Keeps every JSON text that is posted to it, in `received`."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), CloudHandler)
        self.received: list[Any] = []
        self.url = f"http://127.0.0.1:{self.server_address[1]}/findings"


class CloudHandler(BaseHTTPRequestHandler):
    """Takes one POST."""

    def do_POST(self) -> None:
        """Keep the body."""
        assert isinstance(self.server, Cloud)
        self.server.received.append(
            json.loads(self.rfile.read(int(self.headers["content-length"])))
        )
        self.send_response(204)
        self.end_headers()

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing."""


@contextmanager
def open_cloud() -> Iterator[Cloud]:
    """Run a cloud on this machine for as long as the block lasts."""
    with Cloud() as cloud:
        thread = Thread(target=cloud.serve_forever)
        thread.start()
        try:
            yield cloud
        finally:
            cloud.shutdown()
            thread.join()


def prepare(client: Client, project: str, endpoint: str) -> None:
    """Deploy the function, say where the cloud is, and allow the project to talk to it."""
    ensure_project(client, project)
    host = urlsplit(endpoint).netloc
    client.set("project", client.resolve("project", project), {"egress": [host]})
    ensure_namespace(client, project, "cloud")["endpoint"] = endpoint
    client.deploy(project, "preprocess", HERE / "functions" / "preprocess.py")


def measure(client: Client, project: str, picture: Path) -> dict[str, Any]:
    """Have a picture measured where it is; return the findings, the blob's id in `picture`."""
    blob = client.put_blob(picture, project=project)
    function = client.function(f"{project}/preprocess")
    findings: dict[str, Any] = function.call({"picture": {"blob": blob["id"]}})
    return findings


def main() -> None:
    """Do all of it, as the command line says."""
    parser = argparse.ArgumentParser(description="Measure a picture at the edge.")
    parser.add_argument("--url", help="node to use; the one logged in to, unless said")
    parser.add_argument("--project", default="vision")
    parser.add_argument("--picture", type=Path, default=ASTRONAUT)
    parser.add_argument(
        "--endpoint", help="where the findings go; a server of its own, unless said"
    )
    given = parser.parse_args()
    with open_cloud() as cloud, Client(given.url) as client:
        prepare(client, given.project, given.endpoint or cloud.url)
        print(json.dumps(measure(client, given.project, given.picture), indent=2))
        print(f"{len(cloud.received)} findings arrived at {cloud.url}")


if __name__ == "__main__":
    main()
