"""The wheel, installed, and its command in a folder full of the user's own Python files."""

import os
import shlex
import subprocess
import sys
import sysconfig
import zipfile
from functools import partial
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("eval", "ingest", "shards", "slurm", "synshards", "trainer")
# Names that a user may well have, of ours, of Python's and of libraries.
OWN_FILES = ("trainer.py", "shards.py", "ingest.py", "eval/__init__.py", "random.py", "numpy.py")
SMALL = shlex.split("--size 640 640 96 --neurons 16 --synapses 80")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    return next(folder.glob("*.whl"))


@pytest.fixture(scope="module")
def bin_folder(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An environment with the wheel and the dependencies, without the checkout."""
    folder = tmp_path_factory.mktemp("environment")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder)], check=True)
    site = next(folder.glob("lib/python*/site-packages"))
    (site / "dependencies.pth").write_text(sysconfig.get_path("purelib"))
    python = folder / "bin" / "python"
    install = ["install", "--quiet", "--no-deps", "--no-index", "--no-compile", str(wheel)]
    subprocess.run([sys.executable, "-m", "pip", "--python", str(python), *install], check=True)
    return python.parent


@pytest.fixture
def users_folder(tmp_path: Path) -> Path:
    for name in OWN_FILES:
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text("raise SystemExit('a file of the user was imported')")
    return tmp_path


def synshards(bin_folder: Path, folder: Path, *words: str, **environment: str) -> tuple[int, str]:
    kept = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "PYTHONSAFEPATH")}
    ended = subprocess.run(
        [bin_folder / "synshards", *words],
        cwd=folder,
        env=kept | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    return ended.returncode, ended.stdout


def test_the_wheel_holds_every_file_of_the_packages(wheel: Path) -> None:
    listed = subprocess.run(
        ["git", "ls-files", *PACKAGES], cwd=ROOT, check=True, capture_output=True, text=True
    ).stdout.splitlines()
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    assert {f"{name}/py.typed" for name in PACKAGES} <= names
    assert sorted(set(listed) - names) == []
    assert [n for n in names if n.split("/")[0] not in PACKAGES and ".dist-info/" not in n] == []


def test_the_users_own_files_are_not_imported(bin_folder: Path, users_folder: Path) -> None:
    run = partial(synshards, bin_folder, users_folder)
    code, version = run("--version")
    assert (code, version.split()[0]) == (0, "synshards"), version
    code, told = run("ingest", "phantom", "phantom", *SMALL)
    assert code == 0, told
    code, told = run("ingest", "plan", "phantom/ingest.yaml", "--out", "dataset")
    assert (code, "planned" in told) == (0, True), told
    code, told = run("ingest", "run", "dataset", "--scheduler", "processes", "--workers", "2")
    assert (code, "a file of the user" in told) == (0, False), told
    words = shlex.split("submit train unet3d_small --data s --run r --dry-run -- --epochs 0")
    code, told = run("slurm", *words)
    assert (code, "epochs must be positive" in told) == (2, True), told


def test_a_package_that_hides_ours_is_named(bin_folder: Path, users_folder: Path) -> None:
    environment = {"PYTHONPATH": str(users_folder)}
    (users_folder / "random.py").unlink()
    code, told = synshards(bin_folder, users_folder, "train", "--help", **environment)
    assert code == 1
    assert told.count("\n") == 1
    assert f"in {users_folder}/" in told
    assert "out of PYTHONPATH" in told
