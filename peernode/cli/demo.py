"""The whole story on this machine: hand in, leave, come back, and what stays at the edge.

A real node with a real worker; nothing here is staged.  Each step says what it did and how long
it took; a step that fails says which it was and where the node's log lies.
"""

import json
import secrets
import signal
from contextlib import ExitStack
from pathlib import Path

from rich import box
from rich.table import Table

from peernode.cli import demo_node, demo_story
from peernode.cli.demo_story import Story
from peernode.client import Client, ClientError
from peernode.examples import face_detection, preprocessing

PROJECT = "vision"
USER = "ada"
RESULT_TIMEOUT_S = 45.0
"""How long the faces may take. Source: the demo's promise of a minute; they take about a second."""
CAMERA_COLUMNS = ("picture", "size", "faces", "sent to the cloud", "picture now")


def tell(keep: Path | None, port: int, *, keep_running: bool) -> int:
    """Run the demo; return the exit code."""

    def run(story: Story, directory: Path) -> Path:
        _run(story, directory, port, keep_running)
        return directory / "node"

    return demo_story.tell(keep, run)


def _run(story: Story, directory: Path, port: int, keep_running: bool) -> None:
    with ExitStack() as stack:
        with story.step("A node starts, with one worker on this machine"):
            url = stack.enter_context(demo_node.open_node(directory, port))
            story.say(f"{url}, its data in {directory / 'node'}")
        password = secrets.token_urlsafe(12)
        token, job_id = _leave(story, url, password)
        _come_back(story, Client(url, token), job_id, directory)
        _stay_at_the_edge(story, Client(url, token))
        _look_further(story, url, password, directory, keep_running)
        if keep_running:
            signal.pause()
        with story.step("The node stops"):
            stack.close()


def _leave(story: Story, url: str, password: str) -> tuple[str, str]:
    """Be developer and requester, and leave; return a token and the job's id."""
    with Client(url) as client:
        with story.step(f"A user, {USER}, and a project, {PROJECT}"):
            client.signup(USER, password)
            client.login(USER, password)
            client.create_project(PROJECT)
        with story.step("The developer stores a model and deploys a function"):
            face_detection.prepare(client, PROJECT)
            space = client.kv(f"{PROJECT}/models")
            story.say(
                f"key 'face' of namespace 'models' holds the model's blob id: {space['face']}"
            )
            function = client.function(f"{PROJECT}/detect_faces")
            story.say(f"function {PROJECT}/detect_faces is {function.id}")
        with story.step("The requester hands in a picture, and a job that looks at it"):
            job = face_detection.hand_in(client, PROJECT, face_detection.ASTRONAUT)
            story.say(f"job {job.id} is the node's now")
        token = client.token
    story.say("the requester's connection is closed: nobody waits for the answer")
    return token, job.id


def _come_back(story: Story, client: Client, job_id: str, directory: Path) -> None:
    """Ask for the result on a new connection, and show it."""
    with client, story.step("The requester comes back, on a new connection"):
        finished = client.job(job_id).wait(RESULT_TIMEOUT_S)
        faces = client.job(job_id).result()["faces"]
        where = f"worker {finished['worker']}, backend {finished['backend']}"
        story.say(f"{finished['state']} on {where}, {finished['usage']['wall_s']:.2f} s of work")
        table = Table("face", "x", "y", "width", "height", "score", box=box.SIMPLE_HEAD)
        for number, face in enumerate(faces, 1):
            table.add_row(str(number), *map(str, face["box"]), f"{face['score']:.3f}")
        story.console.print(table)
        picture = directory / "faces.png"
        face_detection.draw(face_detection.ASTRONAUT, faces, picture)
        story.say(f"drawn into {picture}")


def _stay_at_the_edge(story: Story, client: Client) -> None:
    """Watch a camera's pictures; show what arrived in the cloud, and what did not."""
    pictures = [preprocessing.COFFEE, face_detection.ASTRONAUT]
    title = "A camera's pictures come in, and only what is found in them leaves"
    with client, preprocessing.open_cloud() as cloud, story.step(title):
        preprocessing.prepare(client, PROJECT, cloud.url)
        story.say(f"function {PROJECT}/preprocess looks for faces, each picture a job of its own")
        seen = [*preprocessing.watch(client, PROJECT, pictures)]
        found = {each["picture"]["id"]: each for each in seen if each["faces"]}
        arrived = {json.loads(body)["picture"]["id"]: body for body in cloud.received}
        if {picture: json.loads(body) for picture, body in arrived.items()} != found:
            raise ClientError(f"{cloud.url} got {cloud.received}, but found was {found}")
        if not all(preprocessing.is_deleted(client, each) for each in seen):
            raise ClientError("a picture should have been deleted, and was not")
        table = Table(*CAMERA_COLUMNS, box=box.SIMPLE_HEAD)
        for picture, each in zip(pictures, seen, strict=True):
            body = arrived.get(each["picture"]["id"], b"")
            table.add_row(
                picture.name,
                f"{picture.stat().st_size:,} bytes",
                str(len(each["faces"])),
                f"{len(body):,} bytes" if body else "nothing",
                "deleted (404)",
            )
        story.console.print(table)
        story.say(f"all that arrived at {cloud.url}:")
        for body in cloud.received:
            story.say(body.decode())


def _look_further(
    story: Story, url: str, password: str, directory: Path, keep_running: bool
) -> None:
    story.console.print(f"\n[bold]Done in {story.elapsed_s:.1f} s.[/bold] Where to look next:")
    if keep_running:
        story.say(f"the API, every call of it:  {url}/docs")
        story.say(f"be {USER} (password {password}):")
        story.say(f"  peernode login {USER} --url {url}")
        story.say("  peernode job ls; peernode fn ls; peernode kv ls vision/models")
        story.say(f"be the operator:  peernode status --data {directory / 'node'}")
        story.say("Ctrl-C stops the node")
        return
    again = "peernode demo --keep-running"
    story.say(f"stay a while, with the API's pages and commands to type:  {again}")
    story.say(f"the functions that ran:  {face_detection.HERE / 'functions'}")
    story.say("your own node:  peernode up --signup open, then peernode user create NAME")
    story.say("the tour:  README.md, from the top")
