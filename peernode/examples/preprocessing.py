"""Watch a camera's pictures at the edge, and let only what is found travel to the cloud.

    python -m peernode.examples.preprocessing --url http://127.0.0.1:8440

The function looks for faces in each picture, posts what it found to the cloud, if anything, and
deletes the picture.  The "cloud" here is a tiny web server on this machine; give `--endpoint` for
one of your own, and `--pictures` for what your camera saw.
"""

import argparse
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread
from typing import Any
from urllib.parse import urlsplit

from peernode.client import Client, NotFound
from peernode.examples.face_detection import ASTRONAUT, HERE, ensure_namespace, ensure_project

COFFEE = HERE / "data" / "coffee.jpg"
SOURCES = ("detect_faces.py", "preprocess.py")
"""What the function is made of, in this order."""


class Cloud(HTTPServer):
    """Keeps what is posted to it, as it came, in `received`."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), CloudHandler)
        self.received: list[bytes] = []
        self.url = f"http://127.0.0.1:{self.server_address[1]}/findings"


class CloudHandler(BaseHTTPRequestHandler):
    """Takes one POST."""

    def do_POST(self) -> None:
        """Keep the body."""
        assert isinstance(self.server, Cloud)
        self.server.received.append(self.rfile.read(int(self.headers["content-length"])))
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


def source() -> str:
    """Return the function's one source: the detection, and what to do with what it finds."""
    return "\n\n".join((HERE / "functions" / name).read_text("utf-8") for name in SOURCES)


def prepare(client: Client, project: str, endpoint: str) -> None:
    """Deploy the function, say where model and cloud are, and let it talk to that cloud alone."""
    ensure_project(client, project)
    models = ensure_namespace(client, project, "models")
    if "face" not in models:
        models["face"] = client.put_blob(HERE / "data" / "centerface.onnx", project=project)["id"]
    ensure_namespace(client, project, "cloud")["endpoint"] = endpoint
    host = urlsplit(endpoint).netloc
    client.set("project", client.resolve("project", project), {"egress": [host]})
    client.deploy(project, "preprocess", source(), entry="watch")


def watch(client: Client, project: str, pictures: Iterable[Path]) -> Iterator[dict[str, Any]]:
    """Be the camera: hand in each picture as a job of its own; yield the findings, in order."""
    blobs = (client.put_blob(picture, project=project)["id"] for picture in pictures)
    function = client.function(f"{project}/preprocess")
    yield from function.map({"picture": {"blob": blob}} for blob in blobs)


def is_deleted(client: Client, findings: dict[str, Any]) -> bool:
    """Return whether the picture that these were found in is gone."""
    try:
        client.get("blob", findings["picture"]["id"])
    except NotFound:
        return True
    return False


def main() -> None:
    """Do all of it, as the command line says."""
    parser = argparse.ArgumentParser(description="Look for faces at the edge.")
    parser.add_argument("--url", help="node to use; the one logged in to, unless said")
    parser.add_argument("--project", default="vision")
    parser.add_argument("--pictures", type=Path, nargs="+", default=[COFFEE, ASTRONAUT])
    parser.add_argument(
        "--endpoint", help="where the findings go; a server of its own, unless said"
    )
    given = parser.parse_args()
    with open_cloud() as cloud, Client(given.url) as client:
        endpoint = given.endpoint or cloud.url
        prepare(client, given.project, endpoint)
        seen = watch(client, given.project, given.pictures)
        for picture, findings in zip(given.pictures, seen, strict=True):
            sent = "findings sent" if findings["faces"] else "nothing sent"
            left = "picture deleted" if is_deleted(client, findings) else "PICTURE STILL THERE"
            print(f"{picture.name}: {len(findings['faces'])} found, {sent}, {left}")
        if not given.endpoint:
            print(f"all that arrived at {endpoint}:")
            for body in cloud.received:
                print(body.decode())


if __name__ == "__main__":
    main()
