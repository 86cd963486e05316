"""Which code made a run is known where it can be, and never made up."""

import platform
import shutil
import subprocess
import sys
from pathlib import Path

from simulations import provenance

ROOT = Path(__file__).parent.parent.parent


def test_versions_of_what_makes_a_difference_are_known() -> None:
    versions = provenance.versions()
    assert versions["python"] == platform.python_version()
    assert all(versions[name] for name in ("trio", "numpy", "msgspec"))


def ask(root: Path) -> str:
    code = "from simulations import provenance; print(repr(provenance.commit()))"
    done = subprocess.run(
        [sys.executable, "-P", "-c", f"import sys; sys.path.insert(0, {str(root)!r}); {code}"],
        capture_output=True,
        text=True,
        check=True,
        cwd=root,
    )
    return done.stdout.strip()


def test_a_tree_of_somebody_else_around_it_is_not_its_commit(tmp_path: Path) -> None:
    (tmp_path / "simulations").mkdir()
    for name in ("__init__.py", "provenance.py"):
        shutil.copy(ROOT / "simulations" / name, tmp_path / "simulations" / name)
    git = ["git", "-C", str(tmp_path), "-c", "user.name=a", "-c", "user.email=a@b"]
    assert ask(tmp_path) == "Commit(name='', dirty=False)"
    subprocess.run([*git, "init", "-q"], check=True)
    subprocess.run([*git, "commit", "-q", "--allow-empty", "-m", "theirs"], check=True)
    assert ask(tmp_path) == "Commit(name='', dirty=False)"
    subprocess.run([*git, "add", "simulations/__init__.py"], check=True)
    subprocess.run([*git, "commit", "-q", "-m", "ours"], check=True)
    clean = ask(tmp_path)
    assert "dirty=True" in clean, "provenance.py is not committed yet"
    subprocess.run([*git, "add", "simulations/provenance.py"], check=True)
    subprocess.run([*git, "commit", "-q", "-m", "all"], check=True)
    assert "dirty=False" in ask(tmp_path)
