"""The pages name files that exist and commands that are taken."""

import importlib
import json
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from benchmarks.results import page as bench
from shards.cli.command import run_command
from tests.conftest import REPOSITORY
from tests.documented import PAGES, commands, words_of

FILE = re.compile(
    r"(?<![\w/.])(?:(?:ingest|shards|trainer|eval|slurm|tests|benchmarks|docs)/[\w/]+\.(?:py|toml|yaml|md|json|sh))\b"
)
LINK = re.compile(r"\]\(([^)#]+)(?:#[^)]*)?\)")
PLACEHOLDERS = {"RECIPE": "unet3d_small", "MS": "250", "N": "4", "VIEW": "cube", "CROP": "8 32 32"}
COMMANDS = sorted({command for page in PAGES for command in commands(page)})


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_files_and_links_of_a_page_exist(page: Path) -> None:
    text = page.read_text()
    named = {name: REPOSITORY / name for name in FILE.findall(text)}
    linked = {link: page.parent / link for link in LINK.findall(text) if "://" not in link}
    assert [name for name, path in {**named, **linked}.items() if not path.exists()] == []


def test_architecture_follows_a_synapse_through_at_most_25_files() -> None:
    text = (REPOSITORY / "docs/reference/architecture.md").read_text()
    rows = re.findall(r"^\| (\d+) \|", text, re.M)
    assert [int(row) for row in rows] == list(range(1, len(rows) + 1))
    assert 15 < len(rows) <= 25


def test_the_changelog_begins_with_the_version() -> None:
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
    versions = re.findall(r"^## (\S+)", (REPOSITORY / "CHANGELOG.md").read_text(), re.M)
    assert versions[0] == project["version"]


@pytest.mark.timeout(120)
def test_the_site_builds_without_a_warning(tmp_path: Path) -> None:
    pytest.importorskip("mkdocs", reason="mkdocs is not installed: `make docs` does it")
    settings = str(REPOSITORY / "docs" / "site" / "mkdocs.yml")
    words = ["mkdocs", "build", "--quiet", "-f", settings, "-d", str(tmp_path)]
    environment = {**os.environ, "NO_MKDOCS_2_WARNING": "1", "PYTHONPATH": str(REPOSITORY)}
    done = subprocess.run(
        [sys.executable, "-m", *words], env=environment, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert "open_shards" in (tmp_path / "reference" / "python.html").read_text()


@pytest.mark.parametrize("name", ["demo2d", "demo3d"])
def test_a_notebook_imports_what_the_page_of_the_python_api_lists(name: str) -> None:
    listed = (REPOSITORY / "docs/reference/python.md").read_text()
    notebook = json.loads((REPOSITORY / f"docs/notebooks/{name}.ipynb").read_text())
    code = "".join("".join(cell["source"]) + "\n" for cell in notebook["cells"])
    imports = re.findall(r"^from ((?:eval|ingest|shards|trainer)[\w.]*) import (.+)$", code, re.M)
    names = [f"{module}.{one.strip()}" for module, ones in imports for one in ones.split(",")]
    assert len(names) > 4
    assert [one for one in names if f"::: {one}\n" not in f"{listed}\n"] == []


def test_the_page_of_benchmarks_says_what_their_results_hold() -> None:
    figures, page = bench.results(), bench.PAGE.read_text()
    assert bench.with_table(page, figures) == page, "run: python benchmarks/results/page.py"
    assert bench.picture(figures) == bench.PICTURE.read_text()
    for one in figures["comparisons"]:
        for peer in one["peers"]:
            if peer["rate"]:
                assert peer["ours_is"] == pytest.approx(one["ours"] / peer["rate"], rel=0.03)


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_of_the_pages_is_taken(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    for name, value in PLACEHOLDERS.items():
        command = re.sub(rf"(?<!\S){name}(?!\S)", value, command)
    package, *words = words_of(command)
    main = importlib.import_module(f"{package}.__main__").main
    end = words.index("--") if "--" in words else len(words)
    try:
        code = run_command(main, [*words[:end], "--check", *words[end:]])
    except SystemExit as ended:
        code = int(str(ended.code or 0))
    assert code == 0, capsys.readouterr().err
