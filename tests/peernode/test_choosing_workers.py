"""Functions say what they need and like, and jobs when they may start, over the API."""

import pytest

from peernode.timestamps import rfc3339
from tests.peernode.nodes import CONFIG, ECHO, OFFER, Lab, settle
from worker.protocol import Accelerator, Usage


async def cuda_and_plain(lab: Lab) -> tuple[int, int]:
    """Attach a worker with much room and one with an accelerator; return their ids."""
    from msgspec.structs import replace

    plain = await lab.worker(slots=8, labels={"disk": "ssd"})
    cuda = await lab.worker(attach=False)
    cuda.offer = replace(OFFER, slots=2, accelerators=[Accelerator(kind="cuda")])
    await cuda.attach()
    return plain.id, cuda.id


async def holder(lab: Lab, job: str) -> int:
    await settle()
    return int((await lab.ada.get(f"/job/{job}"))["worker"])


async def test_a_job_goes_where_it_likes_to_be(lab: Lab) -> None:
    plain, cuda = await cuda_and_plain(lab)
    assert await holder(lab, await lab.job()) == plain
    assert await holder(lab, await lab.job(prefers={"accelerators": {"cuda": 1}})) == cuda
    both = {"accelerators": {"cuda": 1}, "labels": {"disk=ssd": 2}}
    assert await holder(lab, await lab.job(prefers=both)) == plain


async def test_a_function_likes_for_its_jobs_and_a_caller_otherwise(lab: Lab) -> None:
    plain, cuda = await cuda_and_plain(lab)
    likes = {"accelerators": {"cuda": 5}, "arch": {"riscv64": 1}}
    body = {
        "project": lab.project,
        "name": "liking",
        "runtime": "python",
        "source": ECHO,
        "prefers": likes,
    }
    made = await lab.ada.post("/function", body, 201)
    assert made["prefers"] == likes
    assert await holder(lab, await lab.job(function=made["id"])) == cuda
    called = await lab.ada.post(
        f"/function/{made['id']}/call", {"prefers": {"accelerators": {"cuda": -5}}}, 202
    )
    assert await holder(lab, called["id"]) == plain
    changed = await lab.ada.post(f"/function/{made['id']}", {"prefers": {"arch": {"x": 1}}})
    assert changed["prefers"] == {"arch": {"x": 1}}


@pytest.mark.parametrize(
    "prefers",
    [
        {"labels": {"disk": 1}},
        {"labels": {"disk=ssd": 1001}},
        {"colours": {"red": 1}},
        {"arch": {str(n): 1 for n in range(17)}},
        {"arch": ["x86_64"]},
    ],
    ids=str,
)
async def test_preferences_that_make_no_sense_are_refused(lab: Lab, prefers: object) -> None:
    body = {"function": lab.echo, "prefers": prefers}
    problem = await lab.ada.post("/job", body, 422)
    assert "prefers" in problem["field"]


async def test_a_job_that_waits_says_when_it_may_start(lab: Lab) -> None:
    worker = await lab.worker()
    first = await lab.job()
    await settle()
    minute = Usage(lab.clock.now_ms, 60.0, 1.0, 1 << 20)
    await worker.finish(worker.lease(first), usage=minute)
    running = await lab.job()
    await settle()
    assert (await lab.ada.get(f"/job/{running}"))["estimated_start_at"] is None
    jobs = [await lab.job() for _ in range(2)]
    told = [(await lab.ada.get(f"/job/{job}"))["estimated_start_at"] for job in jobs]
    now_ms = lab.clock.now_ms
    assert told == [rfc3339(now_ms + 60_000), rfc3339(now_ms + 120_000)]
    other = await lab.job(requires={"labels": {"a": "b"}})
    assert (await lab.ada.get(f"/job/{other}"))["estimated_start_at"] is None
    await worker.detach()
    assert (await lab.ada.get(f"/job/{jobs[0]}"))["estimated_start_at"] is None


def test_a_node_spreads_or_packs() -> None:
    from peernode.config import ConfigError, load

    assert CONFIG.placement == "spread"
    assert load(flags={"placement": "pack"}).placement == "pack"
    with pytest.raises(ConfigError, match="placement"):
        load(flags={"placement": "stack"})
