"""Wheels are looked at and unpacked; whatever is wrong with one ends in a word, and in no file."""

import io
import platform
import zipfile
from pathlib import Path

import pytest
from hypothesis import given, settings, strategies as st
from msgspec.structs import replace
from packaging import tags as packaging_tags

from tests.worker.fake_node import make_offer
from tests.worker.wheel_files import GREETING, NAME, hash_of, hostile_wheels, make_wheel
from worker.capabilities import match
from worker.events import Requires
from worker.offer import c_library
from worker.wheel_names import WheelError, fits, parse_name
from worker.wheels import check_clashes, read_wheel, unpack


def unpacked(directory: Path, *wheels: bytes, names: tuple[str, ...] = ()) -> Path:
    named = []
    for number, wheel in enumerate(wheels):
        path = directory / f"{number}.blob"
        path.write_bytes(wheel)
        named.append((str(path), names[number] if names else NAME))
    unpack(named, directory / "set")
    return directory / "set"


def test_the_files_of_a_wheel_come_out_read_only(tmp_path: Path) -> None:
    files = GREETING | {
        "greeting-1.0.data/platlib/deep/er.py": b"1",
        "greeting-1.0.data/scripts/greet": b"#!python",
        "greeting-1.0.data/data/share/greet": b"",
    }
    found = unpacked(tmp_path, make_wheel(files))
    places = sorted(str(p.relative_to(found)) for p in found.rglob("*") if p.is_file())
    assert places == [
        "deep/er.py",
        "greeting-1.0.dist-info/METADATA",
        "greeting-1.0.dist-info/RECORD",
        "greeting-1.0.dist-info/WHEEL",
        "greeting/__init__.py",
    ]
    assert (found / "greeting/__init__.py").stat().st_mode & 0o777 == 0o444
    assert found.stat().st_mode & 0o777 == 0o755


def test_several_wheels_stand_side_by_side(tmp_path: Path) -> None:
    other = make_wheel({"other.py": b""}, home="other-2.dist-info")
    found = unpacked(tmp_path, make_wheel(), other, names=(NAME, "other-2-py2.py3-none-any.whl"))
    assert (found / "other.py").exists()
    assert (found / "greeting" / "__init__.py").exists()


def test_what_a_killed_unpacking_left_is_no_hindrance(tmp_path: Path) -> None:
    (tmp_path / "set.part" / "greeting").mkdir(parents=True)
    (tmp_path / "set.part" / "greeting" / "__init__.py").write_text("half")
    found = unpacked(tmp_path, make_wheel())
    assert (found / "greeting/__init__.py").read_bytes() == GREETING["greeting/__init__.py"]


def test_two_wheels_that_bring_one_file_are_refused(tmp_path: Path) -> None:
    other = make_wheel(GREETING, home="other-2.dist-info")
    with pytest.raises(WheelError, match="two wheels bring"):
        unpacked(tmp_path, make_wheel(), other)


@pytest.mark.parametrize("wrong", hostile_wheels())
def test_a_hostile_wheel_leaves_nothing(tmp_path: Path, wrong: str) -> None:
    data, says = hostile_wheels()[wrong]
    inside = tmp_path / "inside" / "deeper"
    inside.mkdir(parents=True)
    with pytest.raises(WheelError, match=says):
        unpacked(inside, data)
    assert [path.name for path in tmp_path.rglob("*")] == ["inside", "deeper", "0.blob"]


def test_what_record_does_not_vouch_for_leaves_nothing(tmp_path: Path) -> None:
    path = "greeting/__init__.py"
    size = len(GREETING[path])
    data = make_wheel(lies={path: f"{path},{hash_of(b'something else')},{size}"})
    with pytest.raises(WheelError, match="not what RECORD says"):
        unpacked(tmp_path, data)
    assert [p.name for p in tmp_path.iterdir()] == ["0.blob"]


def test_damaged_bytes_leave_nothing(tmp_path: Path) -> None:
    data = bytearray(make_wheel({"greeting.py": bytes(range(256)) * 9}, compression=0))
    data[data.index(bytes(range(256))) + 5] ^= 1
    with pytest.raises(WheelError, match="cannot be unpacked"):
        unpacked(tmp_path, bytes(data))
    assert [p.name for p in tmp_path.iterdir()] == ["0.blob"]


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_no_change_of_some_bytes_gets_past_a_wheel_error(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    wheel = bytearray(make_wheel())
    for _ in range(data.draw(st.integers(1, 4))):
        wheel[data.draw(st.integers(0, len(wheel) - 1))] = data.draw(st.integers(0, 255))
    directory = tmp_path_factory.mktemp("changed")
    try:
        found = unpacked(directory, bytes(wheel))
    except WheelError:
        assert [path.name for path in directory.iterdir()] == ["0.blob"]
    else:
        assert (found / "greeting/__init__.py").read_bytes() == GREETING["greeting/__init__.py"]


@pytest.mark.parametrize(
    "name",
    [
        "",
        "greeting.whl",
        "greeting-1.0.whl",
        "greeting-1.0-py3-none-any.zip",
        "../greeting-1.0-py3-none-any.whl",
        "gre/eting-1.0-py3-none-any.whl",
        "greeting-1.0-py3-none-any.whl\n",
        "-1.0-py3-none-any.whl",
        "greeting-1.0-build-py3-none-any.whl",
        "a" * 240 + "-1.0-py3-none-any.whl",
        "gr\u00e9eting-1.0-py3-none-any.whl",
    ],
)
def test_a_file_name_that_is_no_wheels_is_refused(name: str) -> None:
    with pytest.raises(WheelError):
        parse_name(name)


def test_a_file_name_says_whom_a_wheel_is_for() -> None:
    found = parse_name("numpy-2.1.0-1-cp311-cp311-manylinux_2_17_x86_64.manylinux2014_x86_64.whl")
    assert found == (
        "numpy",
        "2.1.0",
        "cp311-cp311-manylinux_2_17_x86_64.manylinux2014_x86_64",
    )


@pytest.mark.parametrize(
    ("tags", "is_fit"),
    [
        ("py3-none-any", True),
        ("py2.py3-none-any", True),
        ("py2-none-any", False),
        ("py310-none-any", True),
        ("py312-none-any", False),
        ("cp311-cp311-linux_x86_64", True),
        ("cp312-cp312-linux_x86_64", False),
        ("cp39-abi3-manylinux2014_x86_64", True),
        ("cp312-abi3-manylinux2014_x86_64", False),
        ("cp311-none-any", True),
        ("cp310-none-any", False),
        ("cp311-cp311d-linux_x86_64", False),
        ("cp311-cp311-manylinux1_x86_64", True),
        ("cp311-cp311-manylinux_2_36_x86_64", True),
        ("cp311-cp311-manylinux_2_37_x86_64.manylinux_2_28_x86_64", True),
        ("cp311-cp311-manylinux_2_37_x86_64", False),
        ("cp311-cp311-manylinux_2_17_aarch64", False),
        ("cp311-cp311-musllinux_1_2_x86_64", False),
        ("cp311-cp311-win_amd64", False),
        ("cp311-cp311-macosx_11_0_arm64", False),
        ("pp311-pypy311_pp73-any", False),
    ],
)
def test_tags_are_compared_with_what_a_worker_offers(tags: str, is_fit: bool) -> None:
    offer = replace(make_offer(), python="3.11.7", libc="glibc 2.36", system="Linux")
    assert fits(tags, offer) is is_fit
    if tags.endswith("-any") and is_fit and not tags.startswith("cp"):
        assert fits(tags, replace(offer, libc="", system="Darwin"))
    reasons = match(Requires(wheels=(tags,)), offer)
    assert [reason.code for reason in reasons] == ([] if is_fit else ["wheel"])
    if not is_fit:
        detail = f"needs a wheel for {tags}, is Python 3.11.7 on x86_64 glibc 2.36"
        assert reasons[0].detail == detail


def test_wheels_need_a_level_that_is_native() -> None:
    offer = replace(make_offer(), levels={"python": ["process", "wasm"]})
    assert not match(Requires(wheels=("py3-none-any",)), offer)
    for least in ("sandbox", "wasm"):
        assert not match(Requires(isolation=least), offer)
        reasons = match(Requires(isolation=least, wheels=("py3-none-any",)), offer)
        assert [reason.code for reason in reasons] == ["isolation"]


def test_the_environments_own_tags_are_compared_as_packaging_does() -> None:
    supported = {str(tag) for tag in packaging_tags.sys_tags()}
    offer = replace(
        make_offer(),
        python=platform.python_version(),
        arch=platform.machine(),
        system=platform.system(),
        libc=c_library(),
    )
    for tag in sorted(supported):
        if not tag.startswith(("cp3", "py3-", "py3")) or (tag.startswith("cp3") and "abi3" in tag):
            continue
        assert fits(tag, offer), tag


def test_a_directory_of_a_wheel_reads_no_more_than_its_end_promises() -> None:
    data = bytearray(make_wheel())
    data[-12:-10] = data[-14:-12] = (10_001).to_bytes(2, "little")
    with pytest.raises(WheelError, match="of names"):
        read_wheel(io.BytesIO(bytes(data)), NAME)


def test_clashes_are_found_between_looks() -> None:
    one = read_wheel(io.BytesIO(make_wheel()), NAME)[1]
    check_clashes([one])
    with pytest.raises(WheelError, match="two wheels"):
        check_clashes([one, one])


def test_a_wheel_of_directories_is_one(tmp_path: Path) -> None:
    found = unpacked(tmp_path, make_wheel(extra={zipfile.ZipInfo("greeting/"): b""}))
    assert (found / "greeting/__init__.py").is_file()
