"""Who may do what, cell by cell, as a table written apart from the code's own."""

import dataclasses
from typing import Any

import msgspec
import pytest
from hypothesis import given, strategies as st

from peernode.permissions import (
    EVERYTHING,
    RIGHTS,
    SCOPES,
    SCOPES_MAX,
    Actor,
    Target,
    check_scopes,
    is_within,
    may,
    may_grant,
    method_verb,
    require,
)
from peernode.problems import Problem
from storage import certificates
from storage.facts import Role

# Columns: a caller without a token; a user without a role in the project; the five roles; a user
# without a role whose object it is; an invoker whose object it is; the operator; a job of the same
# project; a job of another project; a job of another project with the blob in its input.
MATRIX = """
class    verb          anon none view invo deve admi owne own  own+i oper job other input
user     list          -    -    -    -    -    -    -    yes  yes   yes  -   -     -
user     create        yes  yes  yes  yes  yes  yes  yes  yes  yes   yes  -   -     -
user     get           -    yes  yes  yes  yes  yes  yes  yes  yes   yes  -   -     -
user     read_private  -    -    -    -    -    -    -    yes  yes   yes  -   -     -
user     set           -    -    -    -    -    -    -    yes  yes   -    -   -     -
user     delete        -    -    -    -    -    -    -    yes  yes   -    -   -     -
user     login         yes  yes  yes  yes  yes  yes  yes  yes  yes   yes  -   -     -
user     delegate      -    -    -    -    -    -    -    yes  yes   -    -   -     -
user     rotate        -    -    -    -    -    -    -    yes  yes   -    -   -     -
user     revoke        -    -    -    -    -    -    -    yes  yes   -    -   -     -
project  list          -    -    yes  yes  yes  yes  yes  -    yes   yes  -   -     -
project  create        -    yes  yes  yes  yes  yes  yes  yes  yes   -    -   -     -
project  get           -    -    yes  yes  yes  yes  yes  -    yes   yes  -   -     -
project  set           -    -    -    -    -    yes  yes  -    -     -    -   -     -
project  set_quota     -    -    -    -    -    -    -    -    -     yes  -   -     -
project  delete        -    -    -    -    -    -    yes  -    -     -    -   -     -
project  add_member    -    -    -    -    -    yes  yes  -    -     -    -   -     -
project  remove_member -    -    -    -    -    yes  yes  -    yes   -    -   -     -
project  set_secret    -    -    -    -    -    yes  yes  -    -     -    -   -     -
project  remove_secret -    -    -    -    -    yes  yes  -    -     -    -   -     -
project  use_secret    -    -    -    -    -    -    -    -    -     -    yes -     -
project  usage         -    -    yes  yes  yes  yes  yes  -    yes   yes  -   -     -
function list          -    -    yes  yes  yes  yes  yes  -    yes   yes  -   -     -
function create        -    -    -    -    yes  yes  yes  -    -     -    -   -     -
function get           -    -    yes  yes  yes  yes  yes  -    yes   yes  -   -     -
function read_source   -    -    -    -    yes  yes  yes  -    -     -    -   -     -
function set           -    -    -    -    yes  yes  yes  -    -     -    -   -     -
function delete        -    -    -    -    -    yes  yes  -    -     -    -   -     -
function rollback      -    -    -    -    yes  yes  yes  -    -     -    -   -     -
function call          -    -    -    yes  yes  yes  yes  -    yes   -    yes -     -
job      list          -    -    -    -    -    yes  yes  yes  yes   yes  -   -     -
job      create        -    -    -    yes  yes  yes  yes  -    yes   -    yes -     -
job      get           -    -    -    -    -    yes  yes  yes  yes   yes  -   -     -
job      read_content  -    -    -    -    -    yes  yes  yes  yes   -    -   -     -
job      set           -    -    -    -    -    yes  yes  yes  yes   -    -   -     -
job      delete        -    -    -    -    -    yes  yes  yes  yes   -    -   -     -
job      cancel        -    -    -    -    -    yes  yes  yes  yes   -    -   -     -
job      retry         -    -    -    -    -    yes  yes  -    yes   -    -   -     -
job      logs          -    -    -    -    -    yes  yes  yes  yes   -    -   -     -
job      events        -    -    -    -    -    yes  yes  yes  yes   -    -   -     -
blob     list          -    -    yes  yes  yes  yes  yes  yes  yes   yes  -   -     -
blob     create        -    -    -    yes  yes  yes  yes  yes  yes   -    yes -     -
blob     get           -    -    yes  yes  yes  yes  yes  yes  yes   yes  yes -     yes
blob     content       -    -    yes  yes  yes  yes  yes  yes  yes   -    yes -     yes
blob     set           -    -    -    -    yes  yes  yes  yes  yes   -    -   -     -
blob     delete        -    -    -    -    yes  yes  yes  yes  yes   -    yes -     -
kv       list          -    -    yes  yes  yes  yes  yes  yes  yes   yes  -   -     -
kv       create        -    -    -    -    yes  yes  yes  yes  yes   -    -   -     -
kv       get           -    -    yes  yes  yes  yes  yes  yes  yes   yes  -   -     -
kv       set           -    -    -    -    yes  yes  yes  yes  yes   -    -   -     -
kv       delete        -    -    -    -    yes  yes  yes  yes  yes   -    -   -     -
kv       key_get       -    -    yes  yes  yes  yes  yes  yes  yes   -    yes -     -
kv       key_list      -    -    yes  yes  yes  yes  yes  yes  yes   -    yes -     -
kv       key_put       -    -    -    -    yes  yes  yes  yes  yes   -    yes -     -
kv       key_delete    -    -    -    -    yes  yes  yes  yes  yes   -    yes -     -
kv       key_increment -    -    -    -    yes  yes  yes  yes  yes   -    yes -     -
worker   list          -    -    -    -    -    -    -    -    -     yes  -   -     -
worker   create        -    -    -    -    -    -    -    -    -     yes  -   -     -
worker   get           -    -    -    -    -    -    -    -    -     yes  -   -     -
worker   set           -    -    -    -    -    -    -    -    -     yes  -   -     -
worker   delete        -    -    -    -    -    -    -    -    -     yes  -   -     -
worker   cordon        -    -    -    -    -    -    -    -    -     yes  -   -     -
worker   drain         -    -    -    -    -    -    -    -    -     yes  -   -     -
worker   resume        -    -    -    -    -    -    -    -    -     yes  -   -     -
worker   attach        -    -    -    -    -    -    -    -    -     yes  -   -     -
"""

PROJECT, OTHER_PROJECT = 500, 600
USER = Actor(kind="user", user=7)
COLUMNS: dict[str, tuple[Actor, dict[str, Any]]] = {
    "anon": (Actor(kind="anonymous"), {}),
    "none": (USER, {}),
    "view": (USER, {"role": Role.VIEWER}),
    "invo": (USER, {"role": Role.INVOKER}),
    "deve": (USER, {"role": Role.DEVELOPER}),
    "admi": (USER, {"role": Role.ADMIN}),
    "owne": (USER, {"role": Role.OWNER}),
    "own": (USER, {"own": True}),
    "own+i": (USER, {"own": True, "role": Role.INVOKER}),
    "oper": (Actor(kind="operator"), {}),
    "job": (Actor(kind="job", user=7, job=9, project=PROJECT), {}),
    "other": (Actor(kind="job", user=7, job=9, project=OTHER_PROJECT), {}),
    "input": (Actor(kind="job", user=7, job=9, project=OTHER_PROJECT), {"granted": True}),
}


def rows() -> list[tuple[str, str, dict[str, bool]]]:
    head, *lines = (line.split() for line in MATRIX.strip().splitlines())
    assert head[2:] == list(COLUMNS)
    return [
        (line[0], line[1], dict(zip(head[2:], (cell == "yes" for cell in line[2:]), strict=True)))
        for line in lines
    ]


@pytest.mark.parametrize(
    ("class_name", "verb", "cells"), [pytest.param(*row, id=f"{row[0]}-{row[1]}") for row in rows()]
)
def test_every_cell(class_name, verb, cells):
    decided = {
        column: may(actor, verb, Target(class_name=class_name, project=PROJECT, **target))
        for column, (actor, target) in COLUMNS.items()
    }
    assert decided == cells


def test_no_cell_is_left_out():
    written = [(class_name, verb) for class_name, verb, _ in rows()]
    assert len(written) == len(set(written))
    assert set(written) == {(name, verb) for name, verbs in RIGHTS.items() for verb in verbs}


def test_every_class_has_the_six_calls():
    for verbs in RIGHTS.values():
        assert {"list", "create", "get", "set", "delete"} <= set(verbs)


def test_nobody_but_a_user_gets_anything_from_a_role_or_from_owning():
    """A caller that resolves a target for the wrong kind of actor gives no rights away."""
    generous: dict[str, Any] = {"role": Role.OWNER, "own": True}
    for class_name, verb, cells in rows():
        for column in ("anon", "oper", "job", "other", "input"):
            actor, target = COLUMNS[column]
            resolved = Target(class_name=class_name, project=PROJECT, **(target | generous))
            assert may(actor, verb, resolved) == cells[column], (class_name, verb, column)


def test_a_grant_is_for_jobs_alone():
    target = Target(class_name="blob", project=PROJECT, granted=True)
    for column in ("anon", "none"):
        assert not may(COLUMNS[column][0], "content", target)


def test_a_job_without_a_project_reaches_nothing_that_has_none():
    job = Actor(kind="job", job=9)
    for class_name, verb, _ in rows():
        assert not may(job, verb, Target(class_name=class_name))


actors = st.sampled_from([actor for actor, _ in COLUMNS.values()])
verbs = st.sampled_from(sorted({verb for _, verb, _ in rows()}))
targets = st.builds(
    Target,
    class_name=st.sampled_from(sorted(RIGHTS)),
    project=st.sampled_from([0, PROJECT, OTHER_PROJECT]),
    role=st.none() | st.sampled_from(Role),
    own=st.booleans(),
    granted=st.booleans(),
)
scopes = st.one_of(
    st.just("*"),
    st.sampled_from([*sorted(RIGHTS), "planet"]),
    st.sampled_from([f"{class_name}:{verb}" for class_name, verb, _ in rows()]),
    st.text(max_size=12),
)
scope_lists = st.lists(scopes, max_size=4).map(tuple)


@given(actors, verbs, targets, scope_lists)
def test_scopes_never_widen(actor, verb, target, narrowed):
    narrow = dataclasses.replace(actor, scopes=narrowed)
    assert may(narrow, verb, target) <= may(actor, verb, target)


@given(actors, verbs, targets, scope_lists, scope_lists)
def test_scopes_within_others_never_reach_further(actor, verb, target, inner, outer):
    if is_within(inner, outer):
        narrow = dataclasses.replace(actor, scopes=inner)
        assert may(narrow, verb, target) <= may(
            dataclasses.replace(actor, scopes=outer), verb, target
        )


@given(scope_lists)
def test_scopes_are_within_themselves_and_within_everything(some):
    assert is_within(some, some)
    assert is_within(some, EVERYTHING)


@given(actors, st.text(max_size=12), st.text(max_size=12), st.sampled_from(Role))
def test_what_is_not_in_the_table_is_denied(actor, class_name, verb, role):
    target = Target(class_name=class_name, project=PROJECT, role=role, own=True)
    if verb not in RIGHTS.get(class_name, {}):
        assert not may(actor, verb, target)


@given(verbs, targets)
def test_a_greater_role_may_all_that_a_lesser_may(verb, target):
    decided = [
        may(USER, verb, dataclasses.replace(target, role=role)) for role in (None, *sorted(Role))
    ]
    assert decided == sorted(decided)


def scoped(*scopes: str) -> Actor:
    return dataclasses.replace(USER, scopes=scopes)


def test_a_scope_names_everything_or_a_class_or_one_of_its_verbs():
    function = Target(class_name="function", role=Role.OWNER)
    assert may(scoped("*"), "call", function)
    assert may(scoped("function"), "call", function)
    assert may(scoped("job", "function:call"), "call", function)
    assert not may(scoped("function:get"), "call", function)
    assert not may(scoped("job:call"), "call", function)
    assert not may(scoped("function:"), "call", function)
    assert not may(scoped("function:*"), "call", function)


def test_a_token_without_scopes_is_worth_nothing():
    assert not may(scoped(), "create", Target(class_name="project"))


def test_a_role_is_given_by_whoever_stands_above_it_from_admin_up():
    given_by = {
        own: [granted for granted in sorted(Role) if may_grant(own, granted)] for own in Role
    }
    lowest = [Role.VIEWER, Role.INVOKER, Role.DEVELOPER]
    assert given_by == {
        Role.OWNER: [*lowest, Role.ADMIN],
        Role.ADMIN: lowest,
        Role.DEVELOPER: [],
        Role.INVOKER: [],
        Role.VIEWER: [],
    }


def refusal(actor: Actor, verb: str, target: Target) -> Problem:
    with pytest.raises(Problem) as caught:
        require(actor, verb, target, "42")
    return caught.value


def test_what_you_may_not_read_answers_as_if_it_were_not_there():
    hidden = Target(class_name="function")
    for verb in ("get", "set", "delete", "call", "read_source"):
        assert refusal(USER, verb, hidden).code == "not_found"
    assert refusal(USER, "drain", Target(class_name="worker")).code == "not_found"


def test_what_you_may_read_says_that_you_may_not_change_it():
    seen = Target(class_name="function", role=Role.VIEWER)
    assert refusal(USER, "set", seen).code == "forbidden"
    assert refusal(USER, "set", Target(class_name="user")).code == "forbidden"


def test_creating_where_you_may_not_is_forbidden():
    target = Target(class_name="function", role=Role.INVOKER)
    assert refusal(USER, "create", target).code == "forbidden"
    assert refusal(USER, "list", Target(class_name="worker")).code == "forbidden"


def test_without_a_token_you_are_asked_for_one_whatever_is_there():
    for target in (Target(class_name="function"), Target(class_name="user")):
        refused = refusal(Actor(kind="anonymous"), "get", target)
        assert refused.code == "unauthenticated"
        assert ("WWW-Authenticate", "Bearer") in refused.headers


def test_a_narrow_token_is_told_so_where_it_may_read():
    function = Target(class_name="function", role=Role.OWNER)
    refused = refusal(scoped("function:get"), "delete", function)
    assert refused.code == "forbidden"
    assert "scopes" in refused.detail


def test_what_is_allowed_is_not_refused():
    require(USER, "call", Target(class_name="function", role=Role.INVOKER), "42")


def test_methods_are_verbs_and_those_of_kv_x():
    assert method_verb("kv", "get") == "key_get"
    assert method_verb("job", "cancel") == "cancel"


def test_known_scopes_within_the_askers_own_pass():
    check_scopes(["*"])
    check_scopes(["function:call", "function:get", "job", "kv:key_get"])
    check_scopes(["function:call"], ["function:call", "function:get"])
    check_scopes(["function", "function:call"], ["function"])


@pytest.mark.parametrize(
    "asked",
    [
        ["planet"],
        ["planet:get"],
        [""],
        [":"],
        ["*:get"],
        ["function:"],
        ["function:*"],
        ["function:fly"],
        ["function:call:42"],
        [],
        ["function"] * (SCOPES_MAX + 1),
    ],
)
def test_scopes_that_are_not_known_are_refused(asked):
    with pytest.raises(Problem) as caught:
        check_scopes(asked)
    assert (caught.value.code, caught.value.field) == ("invalid_field", "scopes")


@pytest.mark.parametrize("asked", [["*"], ["function"], ["function:set"], ["job:get"]])
def test_scopes_beyond_the_askers_own_are_refused(asked):
    with pytest.raises(Problem) as caught:
        check_scopes(asked, ["function:get", "function:call"])
    assert caught.value.code == "forbidden"


def test_every_scope_can_stand_in_a_certificate():
    for scope in sorted(SCOPES):
        assert msgspec.convert(scope, certificates.Scope) == scope


def test_a_certificate_does_not_show():
    assert "secret" not in repr(Actor(kind="user", user=7, certificate=b"secret"))
