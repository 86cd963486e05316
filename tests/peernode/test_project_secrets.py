"""Secrets: who sets them, who never reads them back, and at which nodes a job gets them."""

import json
from typing import Any

import msgspec
import pytest
import trio
import trio.testing

from peernode.attributes import ProjectAttributes, encode_attributes
from peernode.classes.project_bodies import SetSecret
from peernode.payloads import check_payload
from peernode.sealed_secrets import (
    READERS_MAX,
    SECRETS_MAX,
    SECRETS_SIZE_MAX_BYTES,
    VALUE_SIZE_MAX_BYTES,
    SealedSecret,
    check,
    reveal,
    seal,
    with_secret,
)
from storage import codec, sealing
from storage.errors import InvalidData, RecordError
from storage.places import Class
from storage.records import NO_FLAGS, PAYLOAD_SIZE_MAX_BYTES
from storage.signing import Keypair
from storage.store import Table
from tests.peernode.federated import Federated, open_federated
from tests.peernode.meshes import keypair, secrets as node_secrets
from tests.peernode.nodes import ECHO, Caller, Lab, SeededEntropy, Worker, settle, sign_up
from worker import protocol

Clock = trio.testing.MockClock
MESH, PROJECT = b"m" * 32, 1 << 40
KEYS = [Keypair.from_seed(bytes([number]) * 32) for number in range(READERS_MAX + 1)]
VALUE = "pa55-phrase-of-the-lab"


def sealed(
    name: str = "TOKEN", value: str = VALUE, nodes: tuple[int, ...] = (1, 2)
) -> SealedSecret:
    readers = {number: KEYS[number].public_key for number in nodes}
    return seal(MESH, PROJECT, name, value, readers, SeededEntropy("seal"))


# --- as it is kept --------------------------------------------------------------------------------


@pytest.mark.parametrize("value", ["x", VALUE, "käse\n☃\0", "x" * VALUE_SIZE_MAX_BYTES])
def test_a_secret_opens_at_each_node_it_is_sealed_to(value: str) -> None:
    secret = sealed(value=value)
    for number in (1, 2):
        assert reveal(secret, MESH, PROJECT, number, KEYS[number]) == value
    assert secret.nodes == [1, 2]
    assert VALUE not in repr(secret)


def test_it_opens_nowhere_else() -> None:
    secret = sealed()
    with pytest.raises(InvalidData, match="not sealed to this node"):
        reveal(secret, MESH, PROJECT, 3, KEYS[3])
    with pytest.raises(InvalidData):
        reveal(secret, MESH, PROJECT, 2, KEYS[3])


def test_a_copy_opens_in_no_other_project_mesh_or_name() -> None:
    secret = sealed()
    renamed = msgspec.structs.replace(secret, name="OTHER")
    for copy, mesh, project in (
        (secret, MESH, PROJECT + 1),
        (secret, b"n" * 32, PROJECT),
        (renamed, MESH, PROJECT),
    ):
        with pytest.raises(InvalidData):
            reveal(copy, mesh, project, 1, KEYS[1])


def test_what_it_takes_in_a_record_is_never_underestimated() -> None:
    for nodes in ((1,), tuple(range(1, READERS_MAX + 1))):
        secret = sealed("N" * 64, "x" * 4096, nodes)
        encoded = codec.encode(msgspec.to_builtins(secret, builtin_types=(bytes,)))
        assert len(encoded) <= secret.size_bytes


def test_a_project_with_all_that_it_may_have_fits_into_its_record() -> None:
    room = SECRETS_SIZE_MAX_BYTES // SECRETS_MAX
    found: list[SealedSecret] = []
    for number in range(SECRETS_MAX):
        one = sealed(f"N{number}", "x")
        padded = "x" * (room - one.size_bytes)
        found = with_secret(found, sealed(f"N{number}", padded))
    egress = ["h" * 260] * 64
    whole = ProjectAttributes(name="n" * 64, display_name="☃" * 256, egress=egress, secrets=found)
    assert len(encode_attributes(whole)) <= PAYLOAD_SIZE_MAX_BYTES[Class.PROJECT]


def test_a_record_without_secrets_is_what_it_was_before_there_were_any() -> None:
    assert codec.decode(encode_attributes(ProjectAttributes(name="lab")), 100) == {"name": "lab"}


@pytest.mark.parametrize(
    "found",
    [
        [sealed(), sealed()],
        [sealed(f"N{number}") for number in range(SECRETS_MAX + 1)],
        [msgspec.structs.replace(sealed(), boxes=sealed().boxes[:1] * 2)],
    ],
)
def test_secrets_that_no_node_writes_are_refused(found: list[SealedSecret]) -> None:
    with pytest.raises(RecordError):
        check(found)


@pytest.mark.parametrize(
    "change",
    [
        {"name": "1x"},
        {"name": "a\n"},
        {"name": "x" * 65},
        {"content": b"x" * (VALUE_SIZE_MAX_BYTES + sealing.CONTENT_OVERHEAD_BYTES + 1)},
        {"boxes": []},
        {"boxes": [[0, b"x" * sealing.BOX_SIZE_BYTES]]},
        {"boxes": [[1, b"x"]]},
        {"value": "x"},
    ],
)
def test_a_secret_of_another_form_is_refused(change: dict[str, Any]) -> None:
    row = msgspec.to_builtins(sealed(), builtin_types=(bytes,)) | change
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert(row, SealedSecret, builtin_types=(bytes,))


# --- over the API ---------------------------------------------------------------------------------


@pytest.fixture
def path(lab: Lab) -> str:
    return f"/project/{lab.project}"


async def put(lab: Lab, name: str = "TOKEN", value: str = VALUE, **fields: Any) -> Any:
    body = {"name": name, "value": value, **fields}
    return await lab.ada.post(f"/project/{lab.project}/set_secret", body)


async def test_a_secret_is_shown_by_name_and_nodes_alone(lab: Lab, path: str) -> None:
    before = await lab.ada.get(path)
    assert before["secrets"] == []
    made = await put(lab)
    assert made["secrets"] == [{"name": "TOKEN", "nodes": ["1"]}]
    assert made["revision"] != before["revision"]
    await put(lab, "API_KEY", nodes=["1", lab.node.identity.peer_id])
    seen = await lab.ada.get(path)
    assert [secret["name"] for secret in seen["secrets"]] == ["API_KEY", "TOKEN"]
    assert seen["secrets"][0]["nodes"] == ["1"]
    assert VALUE not in json.dumps(seen)
    left = await lab.ada.post(f"{path}/remove_secret", {"name": "TOKEN"})
    assert [secret["name"] for secret in left["secrets"]] == ["API_KEY"]
    gone = await lab.ada.post(f"{path}/remove_secret", {"name": "TOKEN"}, 404)
    assert (gone["code"], gone["field"]) == ("not_found", "name")


async def test_other_changes_of_a_project_leave_its_secrets(lab: Lab, path: str) -> None:
    await put(lab)
    assert (await lab.ada.post(path, {"egress": ["example.org"]}))["secrets"] != []


@pytest.mark.parametrize(
    ("body", "status", "code", "field"),
    [
        ({"name": "1X"}, 422, "invalid_field", "name"),
        ({"name": "a b"}, 422, "invalid_field", "name"),
        ({"name": "X" * 65}, 422, "invalid_field", "name"),
        ({"value": ""}, 422, "invalid_field", "value"),
        ({"value": "x" * (VALUE_SIZE_MAX_BYTES + 1)}, 413, "too_large", "value"),
        ({"value": "é" * (VALUE_SIZE_MAX_BYTES // 2 + 1)}, 413, "too_large", "value"),
        ({"value": 7}, 422, "invalid_field", "value"),
        ({"nodes": []}, 422, "invalid_field", "nodes"),
        ({"nodes": ["1"] * (READERS_MAX + 1)}, 422, "invalid_field", "nodes"),
        ({"nodes": ["all"]}, 404, "not_found", "nodes"),
        ({"nodes": ["77"]}, 404, "not_found", "nodes"),
        ({"more": 1}, 422, "unknown_field", "more"),
    ],
)
async def test_a_wrong_secret_is_refused_by_its_field(
    lab: Lab, path: str, body: dict[str, Any], status: int, code: str, field: str
) -> None:
    whole = {"name": "TOKEN", "value": VALUE} | body
    problem = await lab.ada.post(f"{path}/set_secret", whole, status)
    assert (problem["code"], problem["field"]) == (code, field)
    assert VALUE not in json.dumps(problem)
    assert (await lab.ada.get(path))["secrets"] == []


async def test_there_are_so_many_secrets_and_bytes_of_them_and_no_more(lab: Lab, path: str) -> None:
    large = {"name": "A", "value": "x" * VALUE_SIZE_MAX_BYTES}
    for number in range(SECRETS_SIZE_MAX_BYTES // (VALUE_SIZE_MAX_BYTES + 300)):
        await put(lab, f"A{number}", large["value"])
    problem = await lab.ada.post(f"{path}/set_secret", large, 413)
    assert (problem["code"], problem["limit"]) == ("too_large", SECRETS_SIZE_MAX_BYTES)
    for number in range(SECRETS_MAX):
        await put(lab, f"A{number}", "x")
    problem = await lab.ada.post(f"{path}/set_secret", {"name": "B", "value": "x"}, 409)
    assert problem["limit"] == SECRETS_MAX
    await put(lab, "A0", "another")


async def test_only_admins_set_and_remove_and_a_viewer_sees_names(lab: Lab, path: str) -> None:
    await put(lab)
    bob = await sign_up(lab.node, "bob")
    bodies = {"set_secret": {"name": "X", "value": "x"}, "remove_secret": {"name": "TOKEN"}}
    for role in ("viewer", "invoker", "developer"):
        await lab.ada.post(f"{path}/add_member", {"user": "bob", "role": role})
        assert (await bob.get(path))["secrets"][0]["name"] == "TOKEN"
        for method, body in bodies.items():
            await bob.post(f"{path}/{method}", body, 403)
    await lab.ada.post(f"{path}/add_member", {"user": "bob", "role": "admin"})
    await bob.post(f"{path}/set_secret", bodies["set_secret"])
    await lab.operator.post(f"{path}/set_secret", bodies["set_secret"], 403)
    eve = await sign_up(lab.node, "eve")
    await eve.post(f"{path}/set_secret", bodies["set_secret"], 404)


async def test_a_stale_revision_changes_nothing(lab: Lab, path: str) -> None:
    made = await put(lab)
    body = {"name": "TOKEN", "value": "another"}
    await lab.ada.post(f"{path}/set_secret", body, 412, if_match='"1-0"')
    await lab.ada.post(f"{path}/remove_secret", {"name": "TOKEN"}, 412, if_match='"1-0"')
    assert (await lab.ada.get(path))["revision"] == made["revision"]


def test_the_body_of_a_request_does_not_print_its_value() -> None:
    assert VALUE not in repr(SetSecret(name="TOKEN", value=VALUE))


# --- for jobs -------------------------------------------------------------------------------------


async def running(lab: Lab, worker: Worker, **fields: Any) -> protocol.Lease:
    job = await lab.job(**fields)
    await settle()
    return worker.lease(job)


async def test_a_job_reads_the_secrets_of_its_project(lab: Lab) -> None:
    worker = await lab.worker()
    await put(lab)
    lease = await running(lab, worker)
    assert await worker.ask(lease, "secret.get", name="TOKEN") == {"value": VALUE}
    await put(lab, value="rotated")
    assert await worker.ask(lease, "secret.get", name="TOKEN") == {"value": "rotated"}
    assert await worker.refused(lease, "secret.get", name="OTHER") == "not_found"


async def test_a_job_of_another_project_reads_none(lab: Lab) -> None:
    worker = await lab.worker()
    await put(lab)
    other = (await lab.ada.post("/project", {"name": "other"}, 201))["id"]
    function = await lab.function("echo", other)
    lease = await running(lab, worker, function=function)
    assert await worker.refused(lease, "secret.get", name="TOKEN") == "not_found"


async def test_a_box_that_was_copied_into_another_project_is_not_opened(lab: Lab) -> None:
    worker = await lab.worker()
    await put(lab)
    other = (await lab.ada.post("/project", {"name": "other"}, 201))["id"]
    function = await lab.function("echo", other)
    registry, node = lab.node.registry, lab.node
    stolen = registry.get(Class.PROJECT, int(lab.project))
    target = registry.get(Class.PROJECT, int(other))
    assert stolen is not None
    assert target is not None
    actor = node.sessions.authenticate(f"Bearer {lab.ada.token}".encode())
    copied = msgspec.structs.replace(target.attributes, secrets=stolen.attributes.secrets)
    await node.transactions.run(lambda t: registry.put(t, actor, target.place, copied))
    lease = await running(lab, worker, function=function)
    reply = await worker.call(lease, "secret.get", name="TOKEN")
    assert isinstance(reply, protocol.Reply)
    assert (reply.error, VALUE in repr(reply)) == ("not_found", False)


async def test_no_row_of_the_store_holds_the_value_and_no_line_of_the_log(
    lab: Lab, capfd: pytest.CaptureFixture[str]
) -> None:
    worker = await lab.worker()
    await put(lab)
    lease = await running(lab, worker)
    await worker.ask(lease, "secret.get", name="TOKEN")
    await worker.finish(lease, "done")
    rows = [row for table in lab.disk.snapshot() for row in table.values()]
    submitted = [row for batch in lab.disk.submitted for _, _, row in batch.puts]
    assert rows
    assert not any(VALUE.encode() in row for row in rows + submitted)
    assert not any(VALUE in text for text in capfd.readouterr())


# --- in a mesh ------------------------------------------------------------------------------------


async def worker_at(mesh: Federated, name: str) -> Worker:
    node = mesh.nodes[name]
    operator = Caller(node, node_secrets(name).operator_token)
    made = await operator.post("/worker", {}, 201)
    worker = Worker(node, mesh.nursery, int(made["id"]))
    await worker.attach()
    return worker


async def lease_at(mesh: Federated, worker: Worker, name: str, function: str) -> protocol.Lease:
    body = {"function": function, "input": None}
    job = (await mesh.caller("ada", name).post("/job", body, 202))["id"]
    await settle()
    return worker.lease(job)


async def test_a_secret_works_at_the_node_it_is_sealed_to_and_is_unreadable_elsewhere(
    autojump_clock: Clock, capfd: pytest.CaptureFixture[str]
) -> None:
    async with open_federated(3) as mesh:
        ada = await mesh.sign_up("ada", "a")
        project = (await ada.post("/project", {"name": "lab"}, 201))["id"]
        body = {"project": project, "name": "echo", "runtime": "python", "source": ECHO}
        function = (await ada.post("/function", body, 201))["id"]
        secret = {"name": "TOKEN", "value": VALUE, "nodes": ["2"]}
        await ada.post(f"/project/{project}/set_secret", secret)
        await trio.sleep(2)
        answers = {}
        for name in "abc":
            seen = await mesh.caller("ada", name).get(f"/project/{project}")
            assert seen["secrets"] == [{"name": "TOKEN", "nodes": ["2"]}]
            worker = await worker_at(mesh, name)
            lease = await lease_at(mesh, worker, name, function)
            reply = await worker.call(lease, "secret.get", name="TOKEN")
            assert isinstance(reply, protocol.Reply)
            answers[name] = reply.error or reply.answer
            await worker.detach()
            if reply.error:
                assert "is for node 2, and this is node" in reply.answer
        assert answers == {"a": "not_found", "b": {"value": VALUE}, "c": "not_found"}

        entry = mesh.nodes["c"].registry.get(Class.PROJECT, int(project))
        assert entry is not None
        (held,) = entry.attributes.secrets
        for name in ("a", "c"):
            with pytest.raises(InvalidData):
                sealing.open_key(keypair(name), held.boxes[0].box)
        rows = [
            row
            for disk in mesh.disks.values()
            for table in disk.snapshot()
            for row in table.values()
        ]
        assert any(held.content in frame for frame in mesh.frames), "it was sent"
        assert any(held.content in row for row in rows)
        for data in (*mesh.frames, *rows):
            assert VALUE.encode() not in data
        assert not any(VALUE in text for text in capfd.readouterr())


async def test_an_evicted_node_is_named_for_no_secret(autojump_clock: Clock) -> None:
    async with open_federated(3) as mesh:
        ada = await mesh.sign_up("ada", "a")
        project = (await ada.post("/project", {"name": "lab"}, 201))["id"]
        operator = Caller(mesh.nodes["a"], node_secrets("a").operator_token)
        await operator.post("/mesh/evict", {"node": "3", "reason": "sold"})
        secret = {"name": "TOKEN", "value": VALUE, "nodes": ["1", "3"]}
        problem = await ada.post(f"/project/{project}/set_secret", secret, 409)
        assert problem["detail"] == "nodes: node 3 was evicted"


async def test_a_record_with_secrets_of_another_form_is_not_kept(lab: Lab) -> None:
    await put(lab)
    rows = lab.disk.snapshot()[Table.RECORDS].values()
    assert any(b"TOKEN" in row for row in rows), "names are no secrets"
    entry = lab.node.registry.get(Class.PROJECT, int(lab.project))
    assert entry is not None
    twice = msgspec.structs.replace(entry.attributes, secrets=entry.attributes.secrets * 2)
    actor = lab.node.sessions.authenticate(f"Bearer {lab.ada.token}".encode())
    record = lab.node.registry.sign(actor, entry.place, encode_attributes(twice), NO_FLAGS)
    with pytest.raises(RecordError, match="a name of its own"):
        check_payload(record)
