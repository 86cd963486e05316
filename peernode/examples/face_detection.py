"""Find the faces in a picture, and draw them.

    python -m peernode.examples.face_detection --url http://127.0.0.1:8440 --picture me.jpg

The program and the model are prepared once; after that, anybody of the project hands in pictures.
Log in first: `peernode user create ada`.
"""

import argparse
from importlib.resources import files
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw

from peernode.client import Client, JobHandle, Namespace, NotFound, ProblemError

HERE = Path(str(files("peernode.examples")))
ASTRONAUT = HERE / "data" / "astronaut.jpg"


def ensure_project(client: Client, name: str) -> None:
    """Make the project unless it is there."""
    try:
        client.create_project(name)
    except ProblemError as problem:
        if problem.code != "name_taken":
            raise


def ensure_namespace(client: Client, project: str, name: str) -> Namespace:
    """Return the project's key-value namespace, made if need be."""
    try:
        return client.kv(f"{project}/{name}")
    except NotFound:
        return client.create_namespace(name, project=project)


def prepare(client: Client, project: str) -> None:
    """Store the model, say where it is, and deploy the function that uses it."""
    ensure_project(client, project)
    model = client.put_blob(HERE / "data" / "centerface.onnx", project=project)
    ensure_namespace(client, project, "models")["face"] = model["id"]
    client.deploy(project, "detect_faces", HERE / "functions" / "detect_faces.py")


def hand_in(client: Client, project: str, picture: Path) -> JobHandle:
    """Store a picture and hand in the job that looks at it."""
    blob = client.put_blob(picture, project=project)
    return client.function(f"{project}/detect_faces").spawn({"picture": {"blob": blob["id"]}})


def draw(picture: Path, faces: list[dict[str, Any]], target: Path) -> None:
    """Write the picture to `target` with a box around each face."""
    with Image.open(picture) as opened:
        image = opened.convert("RGB")
    pen = ImageDraw.Draw(image)
    for face in faces:
        x, y, width, height = face["box"]
        pen.rectangle((x, y, x + width, y + height), outline="lime", width=3)
        pen.text((x, y - 14), f"{face['score']:.2f}", fill="lime")
    image.save(target)


def main() -> None:
    """Do all of it, as the command line says."""
    parser = argparse.ArgumentParser(description="Find the faces in a picture.")
    parser.add_argument("--url", help="node to use; the one logged in to, unless said")
    parser.add_argument("--project", default="vision")
    parser.add_argument("--picture", type=Path, default=ASTRONAUT)
    parser.add_argument("--out", type=Path, default=Path("faces.png"))
    given = parser.parse_args()
    with Client(given.url) as client:
        prepare(client, given.project)
        job = hand_in(client, given.project, given.picture)
        print(f"job {job.id} handed in; you could leave now")
        faces = job.result()["faces"]
        for face in faces:
            print(f"face at {face['box']}, score {face['score']}")
    draw(given.picture, faces, given.out)
    print(f"{len(faces)} found, see {given.out}")


if __name__ == "__main__":
    main()
