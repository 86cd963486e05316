"""Scenarios out of files: what is right is loaded, what is wrong is refused where it stands."""

import contextlib
import copy
import tomllib
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings, strategies as st

from simulations import loading
from simulations.errors import ScenarioError
from simulations.loading import load, parse

BASE = """
name = "a-test"
duration_s = 60

[topology]
kind = "regular"
nodes = 10
degree = 4

[[workers]]

[[functions]]
name = "short"
"""


def refused(text: str, base: str = BASE) -> str:
    with pytest.raises(ScenarioError) as caught:
        parse(base + text, "here.toml")
    return str(caught.value)


def test_what_is_not_said_is_a_default() -> None:
    scenario = parse(BASE)
    assert scenario.driver == "world"
    assert scenario.link.latency_s == 0.02
    assert scenario.workers[0].nodes == "all"


LOAD = '[[load]]\nfunction = "short"\narrivals = { kind = "poisson", rate_per_s = 1 }\n'


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("[link]\nlatncy_s = 1", "link: no field 'latncy_s'; near it: latency_s"),
        ("[link]\nfoo = 1", "link: no field 'foo'; there is backward_factor, "),
        ("[link]\nlatency_s = 'x'", "link.latency_s: must be a number at least 0 or a table of"),
        ("[link]\nlatency_s = -1", "link.latency_s: must be a number at least 0"),
        ("[link]\nlatency_s = { kind = 'normal' }", "link.latency_s.kind: no kind 'normal'; "),
        ("[link]\nlatency_s = { mean = 1 }", "which kind? uniform, exponential, lognormal"),
        ("[link]\nlatency_s = { kind = 'uniform', low = 1 }", "link.latency_s: needs high"),
        (
            "[link]\nlatency_s = { kind = 'uniform', low = 1, high = 0 }",
            "link.latency_s: low 1 is above high 0",
        ),
        ("[link]\nlatency_s = nan", "link.latency_s: nan is not a number that a field takes"),
        ("[link]\nlatency_s = 1e999", "link.latency_s: inf is not a number"),
        ("[link]\nlatency_s = 1" + "0" * 400, "link.latency_s: a number of more than 16 digits"),
        ("[link]\nlatency_s = 07:30:00", "07:30:00 is a date or time; give seconds"),
        ("[link]\nloss = 1", "link.loss: 1 loses all there is"),
        ("[link]\nloss_effect = 'drop'", 'link.loss_effect: must be "delay" or "reset"'),
        ("[workers]\nnodes = 3", "is not TOML: Cannot declare"),
        ("[[workers]]\nnodes = 11", "workers[1].nodes: the first 11; there are 10"),
        ("[[workers]]\nnodes = 0", "workers[1].nodes: the first 0; there are 10, at least 1"),
        ("[[workers]]\nnodes = [1, 10]", "workers[1].nodes[1]: 10 is not 0 to 9"),
        ("[[workers]]\nnodes = [1, 1]", "workers[1].nodes: has a node twice"),
        ("[[workers]]\nnodes = []", "workers[1].nodes: is empty"),
        ("[[workers]]\nnodes = 'some'", 'workers[1].nodes: must be "all" or a whole number or a'),
        ("[[workers]]\nnodes = ['a']", "workers[1].nodes[0]: must be a whole number"),
        ("[[workers]]\ncount = 0", "workers[1].count: 0 is not 1 to 100000"),
        ("[[workers]]\nlabels = { a = 1 }", "workers[1].labels[...]: must be text"),
        ("[[functions]]\nname = 'short'", "functions[1].name: 'short' is functions[0] already"),
        ("[[functions]]\nname = 'Long'", "functions[1].name: 'Long' is not 1 to 64 of a-z"),
        ("[[functions]]\nname = '12'", "functions[1].name: all digits are an id"),
        (
            "[[functions]]\nname = 'a'\nexample = 'detect-faces'",
            "functions[1].example: no example 'detect-faces'; near it: detect_faces",
        ),
        (
            "[[functions]]\nname = 'a'\nrequires = { gpus = 1 }",
            "functions[1].requires: Object contains unknown field `gpus`; there is cpu,",
        ),
        ("[[load]]\nfunction = 'short'", "load[0]: needs arrivals"),
        (LOAD + "model = 'sink'", 'load[0].model: must be "async" or "sync" or "sync-resume" or'),
        (LOAD.replace("short", "shot"), "load[0].function: no function 'shot'; near it: short"),
        (
            "[[functions]]\nname = 'big'\nrequires = { gpu = 1, labels = { room = 'lab' } }\n"
            "[[workers]]\ngpus = 2\n" + LOAD.replace("short", "big"),
            "load[0].function: no worker fits 'big': workers[0]: needs 1 GPUs, has 0, needs label "
            "room=lab, has no label room; workers[1]: needs label room=lab, has no label room",
        ),
        (LOAD + "clients = 'phones'", "load[0].clients: no group of clients 'phones'; there is n"),
        (LOAD + "time_limit_s = 3", 'load[0].time_limit_s: model "async" holds no connection'),
        (LOAD + "model = 'sync'\npoll_s = 3", 'load[0].poll_s: only model "async" asks'),
        (LOAD + "balance = 'stale'", 'load[0].stale_s: goes with balance = "stale"'),
        (LOAD + "stale_s = 2", 'load[0].stale_s: goes with balance = "stale"'),
        (LOAD + "nodes = [99]", "load[0].nodes[0]: 99 is not 0 to 9"),
        (
            LOAD.replace("rate_per_s = 1", "rate_per_s = 1e6"),
            "load[0].arrivals: 6e+07 arrivals so far; at most 1000000",
        ),
        (
            "[[load]]\nfunction = 'short'\narrivals = { kind = 'at_once', count = 1, at_s = 60 }",
            "load[0].arrivals.at_s: after the end, 60",
        ),
        (
            "[[load]]\nfunction = 'short'\narrivals = { kind = 'azure', path = 'none.csv' }",
            "load[0].arrivals.path: none.csv: no such file",
        ),
        (
            "[[clients]]\nname = 'a'\ncount = 1\nup_s = 0",
            "clients[0].up_s: must be above 0",
        ),
        (
            "[[clients]]\nname = 'a'\ncount = 1000\nup_s = 0.001\ndown_s = 0.001",
            "clients: 3e+07 events; at most 1000000",
        ),
        (
            "[[updates]]\nwhat = 'kv'\narrivals = { kind = 'azure', path = 'x' }",
            "updates[0].arrivals: a trace is of jobs",
        ),
        (
            "[[updates]]\nwhat = 'user'\narrivals = { kind = 'periodic', interval_s = 1 }\n"
            "reads = { kind = 'periodic', interval_s = 1 }",
            "updates[0].reads: only of kv and blob",
        ),
        (
            "[[updates]]\nwhat = 'kv'\narrivals = { kind = 'periodic', interval_s = 1 }\n"
            "replaces = true",
            "updates[0]: replaces and quota_bytes go with blobs only",
        ),
        (
            "[[updates]]\nwhat = 'user'\narrivals = { kind = 'periodic', interval_s = 1 }\n"
            "quota_bytes = 1",
            "updates[0]: replaces and quota_bytes go with blobs only",
        ),
        (
            "[[updates]]\nwhat = 'blob'\narrivals = { kind = 'periodic', interval_s = 1 }\n"
            "quota_bytes = -1",
            "updates[0].quota_bytes: ",
        ),
        (
            "[[faults]]\nkind = 'crash'\nat_s = 60\nnodes = 1",
            "faults[0].at_s: after the end, 60",
        ),
        (
            "[[faults]]\nkind = 'partition'\nat_s = 1\nfor_s = 1\nnodes = 10",
            "faults[0].nodes: all of them: nobody is on the other side",
        ),
        ("[[faults]]\nkind = 'byzantine'\nnodes = 'all'", "faults[0].nodes: all of them"),
        (
            "[[faults]]\nkind = 'byzantine'\nnodes = 1\nbehaviours = ['lie']",
            'faults[0].behaviours[0]: must be "forge" or "garbage" or "replay"',
        ),
        ("[[faults]]\nkind = 'fire'\nat_s = 1\nnodes = 1", "faults[0].kind: no kind 'fire'"),
        (
            "[[faults]]\nkind = 'churn'\nup_s = 1e-9\ndown_s = 0",
            "faults[0]: 6e+11 events; at most 1000000",
        ),
        ("[[probes]]\nmetrics = ['queue.len']", "near it: queue.length"),
        ("[[probes]]\nmetrics = ['node.up']\neach_s = 1e-6", "probes[0].each_s: 6e+08 observ"),
        ("[[pass]]\nmetric = 'job.succeded'\nat_least = 1", "near it: job.succeeded"),
        ("[[pass]]\nmetric = 'job.succeeded'", "pass[0]: needs at_least or at_most"),
        (
            "[[pass]]\nmetric = 'job.succeeded'\nat_least = 2\nat_most = 1",
            "pass[0]: at_least 2 is above at_most 1",
        ),
        ("[node]\nlease = 3", "node.lease: no setting 'lease'; near it: lease_s"),
        ("[node]\nlease_s = 'soon'", "node: Expected `float`"),
        ("[node]\nhttp = '0.0.0.0:80'", "node.http: is set by the simulation itself"),
        ("[node]\ngreeting_interval_s = 0", "node: greeting_interval_s: 0.0 is not above 0"),
        ("[node]\nx = " + "[" * 40 + "]" * 40, "more than 32 tables in tables"),
        ("x = 1", "functions[0]: no field 'x'"),
    ],
)
def test_what_is_wrong_is_told_with_its_place_and_what_is_allowed(text: str, says: str) -> None:
    told = refused(text)
    assert told.startswith("here.toml: ")
    assert says in told


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ("nodes = 10", "nodes = 3", "topology.degree: 4 is not 1 to 2"),
        ("nodes = 10", "nodes = 2002", 'topology: 2002 nodes; driver "world" takes 2000 at most'),
        (
            '"regular"',
            '"hexagon"',
            "topology.kind: no kind 'hexagon'; there is complete, ",
        ),
        ("duration_s = 60", "duration_s = 0", "duration_s: must be a number above 0"),
        ("duration_s = 60", "duration_s = 1e9", "duration_s: 1e+09; at most 3.16224e+07"),
        ("duration_s = 60", "duration_s = 60\nwarm_up_s = 60", "warm_up_s: must be below dura"),
        ("duration_s = 60", "", "needs duration_s"),
        ('"a-test"', '"../a"', "name: '../a' is not 1 to 64"),
        ('"a-test"', '"a-test"\ndriver = "model"', 'driver: must be "swarm" or "world"'),
        ('"a-test"', '"a-test"\ndriver = "swarm"', 'workers: driver "swarm" runs no jobs'),
    ],
)
def test_what_is_wrong_at_the_head_is_told_too(old: str, new: str, says: str) -> None:
    assert says in refused("", BASE.replace(old, new))


SWARM = 'name = "s"\ndriver = "swarm"\nduration_s = 60\n[topology]\nkind = "ring"\nnodes = 5000\n'


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("[node]\nlease_s = 3", 'node: driver "swarm" has no daemons'),
        ("[costs]\ncall_s = 0.003", 'costs: driver "swarm" has no daemons'),
        ("[[clients]]\nname = 'a'\ncount = 1", 'clients: driver "swarm" runs no jobs'),
        (
            "[[updates]]\nwhat = 'kv'\narrivals = { kind = 'periodic', interval_s = 1 }\n"
            "reads = { kind = 'periodic', interval_s = 1 }",
            'updates[0].reads: driver "swarm" reads only blobs',
        ),
        (
            "[[updates]]\nwhat = 'member'\narrivals = { kind = 'periodic', interval_s = 1 }",
            'updates[0].what: driver "swarm" has no API',
        ),
        (
            "[[updates]]\nwhat = 'blob'\narrivals = { kind = 'periodic', interval_s = 1 }\n"
            "replaces = true",
            'updates[0]: driver "swarm" deletes no blobs',
        ),
        (
            "[[faults]]\nkind = 'disk_full'\nat_s = 1\nfor_s = 1\nnodes = 1",
            'faults[0]: driver "swarm" has no disks',
        ),
        ("[[probes]]\nmetrics = ['queue.length']", 'driver "swarm" runs no jobs: no queue.length'),
    ],
)
def test_a_swarm_has_no_daemons(text: str, says: str) -> None:
    assert parse(SWARM).topology.nodes == 5000
    assert says in refused(text, SWARM)


def test_files_that_are_none_are_refused(tmp_path: Path) -> None:
    for name, data, says in (
        ("none.toml", None, "No such file"),
        ("binary.toml", b"\xff\xfe", "can't decode"),
        ("broken.toml", b"a = ", "is not TOML: Invalid value"),
        ("large.toml", b"#" * (loading.FILE_BYTES_MAX + 1), "more than 1048576 bytes"),
        ("deep.toml", b"a = " + b"[" * 100_000, "tables in tables"),
        ("digits.toml", b"a = " + b"1" * 10_000, "is not TOML"),
    ):
        path = tmp_path / name
        if data is not None:
            path.write_bytes(data)
        with pytest.raises(ScenarioError, match=says) as caught:
            load(path)
        assert str(caught.value).startswith(str(path))
    with pytest.raises(ScenarioError, match="Is a directory"):
        load(tmp_path)


def test_what_a_scenario_names_is_looked_for_beside_it(tmp_path: Path) -> None:
    (tmp_path / "net.csv").write_text("a,b\n,1\n1,\n")
    text = 'name = "m"\nduration_s = 1\n[topology]\nkind = "matrix"\npath = "net.csv"\n'
    (tmp_path / "m.toml").write_text("\ufeff" + text.replace("\n", "\r\n"), "utf-8")
    assert load(tmp_path / "m.toml").name == "m"
    (tmp_path / "net.csv").write_text("a,b\n,-1\n1,\n")
    with pytest.raises(ScenarioError, match=r"m.toml: topology.path: net.csv, row 2, column 'b'"):
        load(tmp_path / "m.toml")


# --- whatever stands there -------------------------------------------------------------------

WHOLE = (
    BASE
    + """
[link]
latency_s = { kind = "lognormal", median = 0.02, sigma = 0.3 }
jitter_s = { kind = "pareto", minimum = 0.1, shape = 2 }
[node]
lease_s = 3.5
[[clients]]
name = "phones"
count = 5
up_s = { kind = "exponential", mean = 60 }
[[load]]
function = "short"
clients = "phones"
arrivals = { kind = "bursty", low_per_s = 0, high_per_s = 1, low_mean_s = 9, high_mean_s = 9 }
[[updates]]
what = "kv"
arrivals = { kind = "at_once", count = 4, at_s = 3 }
[[faults]]
kind = "flapping"
at_s = 1
for_s = 20
nodes = [3, 4]
[[faults]]
kind = "crash"
at_s = 1
nodes = 2
for_s = { kind = "hyperexponential", mean_short = 1, mean_long = 9, share_long = 0.1 }
[[probes]]
metrics = ["node.up"]
[[pass]]
metric = "job.succeeded"
at_least = 0.9
"""
)

junk: st.SearchStrategy[Any] = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.sampled_from(
        ["all", "uniform", "poisson", "short", "world", "swarm", "", "a" * 99, 1e-300]
    ),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["kind", "mean", "nodes", "x"]), inner, max_size=3)
    ),
    max_leaves=5,
)


def places(value: Any) -> list[tuple[Any, Any]]:
    """Return every table or list in it with each of its keys."""
    found = []
    keys = list(value) if isinstance(value, dict) else range(len(value))
    for key in keys:
        found.append((value, key))
        if isinstance(value[key], dict | list):
            found.extend(places(value[key]))
    return found


@settings(max_examples=100, deadline=None)
@given(st.data())
def test_a_scenario_with_anything_anywhere_is_loaded_or_refused(data: st.DataObject) -> None:
    values = copy.deepcopy(tomllib.loads(WHOLE))
    for _ in range(data.draw(st.integers(1, 3))):
        table, key = data.draw(st.sampled_from(places(values)))
        if data.draw(st.booleans()) and isinstance(table, dict):
            del table[key]
        else:
            table[key] = data.draw(junk)
    with contextlib.suppress(ScenarioError):
        parse(written(values))


def written(values: dict[str, Any]) -> str:
    """Return TOML, all of it in one-line tables; `None` has no words there and is left out."""

    def one(value: Any) -> str:
        match value:
            case dict():
                inner = (f'"{key}" = {one(v)}' for key, v in value.items() if v is not None)
                return "{" + ", ".join(inner) + "}"
            case list():
                return "[" + ", ".join(one(v) for v in value if v is not None) + "]"
            case bool():
                return str(value).lower()
            case str():
                return f'"{value}"'
            case _:
                return repr(value)

    return "".join(f"{key} = {one(v)}\n" for key, v in values.items() if v is not None)


def test_the_whole_one_is_right_and_written_as_it_is_read() -> None:
    assert parse(WHOLE) == parse(written(tomllib.loads(WHOLE)))


@settings(max_examples=100, deadline=None)
@given(st.text(alphabet='abk=[]{}"\n.,-019:T\\# é\0', max_size=50))
def test_a_text_of_anything_is_loaded_or_refused(text: str) -> None:
    with pytest.raises(ScenarioError):
        parse(text)
