"""What is built and installed is what stands in the tree: all of it, and nothing else."""

import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).parent.parent
PACKAGES = ("gossip", "peernode", "simulations", "storage", "worker")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> zipfile.ZipFile:
    """Build a wheel from a copy of the tree, with what is installed and without the network."""
    source, out = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("wheel")
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    for name in PACKAGES:
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    build = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-index", "--no-deps"]
    subprocess.run(
        [*build, "--no-build-isolation", "--wheel-dir", out, source], check=True, timeout=100
    )
    (path,) = out.iterdir()
    return zipfile.ZipFile(path)


@pytest.mark.slow
def test_a_wheel_has_five_packages_and_nothing_else_at_its_top(wheel: zipfile.ZipFile) -> None:
    tops = {name.partition("/")[0] for name in wheel.namelist()}
    assert {top for top in tops if not top.endswith(".dist-info")} == set(PACKAGES)


@pytest.mark.slow
def test_a_wheel_has_every_file_of_the_packages(wheel: zipfile.ZipFile) -> None:
    here = {
        path.relative_to(ROOT).as_posix()
        for package in PACKAGES
        for path in (ROOT / package).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    missing = here - set(wheel.namelist())
    assert not missing, f"name the package or its data in pyproject.toml: {sorted(missing)}"
    assert {name for name in here if name.startswith("peernode/examples/data/")}
    assert "peernode/py.typed" in here


@pytest.mark.slow
def test_a_wheel_names_its_command_and_its_licence(wheel: zipfile.ZipFile) -> None:
    (info,) = {name.partition("/")[0] for name in wheel.namelist() if ".dist-info/" in name}
    entries = wheel.read(f"{info}/entry_points.txt").decode()
    assert "peernode = peernode.__main__:main" in entries
    assert "[peernode.commands]\nsim = simulations.cli:app" in entries
    assert wheel.read(f"{info}/licenses/LICENSE") == (ROOT / "LICENSE").read_bytes()
    assert b"License-Expression: Apache-2.0\n" in wheel.read(f"{info}/METADATA")


@pytest.mark.slow
def test_what_is_installed_under_our_names_is_ours(tmp_path: Path) -> None:
    program = f"import {', '.join(PACKAGES)}\nfor m in {', '.join(PACKAGES)}: print(m.__file__)"
    found = subprocess.run(
        [sys.executable, "-I", "-c", program],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    assert [Path(line).parent for line in found.stdout.splitlines()] == [
        ROOT / package for package in PACKAGES
    ]


def locked() -> dict[str, list[str]]:
    """Return the versions that the lock pins, by name."""
    versions: dict[str, list[str]] = {}
    for line in (ROOT / "requirements.lock").read_text().splitlines():
        if pin := re.match(r"([a-z0-9-]+)==(\S+)", line):
            versions.setdefault(pin[1], []).append(pin[2])
    return versions


def test_the_lock_satisfies_what_the_project_asks_for() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    groups = [project["dependencies"], *project["optional-dependencies"].values()]
    pins = locked()
    for requirement in (Requirement(text) for group in groups for text in group):
        versions = pins.get(requirement.name, [])
        assert versions, f"{requirement.name} is not in requirements.lock: run 'make lock'"
        for version in versions:
            assert requirement.specifier.contains(version), f"{requirement}: run 'make lock'"


def test_the_lock_pins_hashes_and_names_no_registry() -> None:
    text = (ROOT / "requirements.lock").read_text()
    assert text.count("==") >= len(locked()) > 50
    for entry in re.split(r"\n(?=[a-z0-9])", text):
        assert "--hash=sha256:" in entry, entry.splitlines()[0]
    assert "://" not in text
