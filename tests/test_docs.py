"""The pages name files that exist."""

import re
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parent.parent
PAGES = [*sorted(REPOSITORY.glob("*.md")), *sorted((REPOSITORY / "docs").rglob("*.md"))]
FILE = re.compile(
    r"(?<![\w/.])(?:(?:ingest|shards|trainer|eval|slurm|tests|benchmarks|docs)/[\w/]+\.(?:py|toml|yaml|md|json|sh))\b"
)
LINK = re.compile(r"\]\(([^)#]+)(?:#[^)]*)?\)")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_files_and_links_of_a_page_exist(page: Path) -> None:
    text = page.read_text()
    named = {name: REPOSITORY / name for name in FILE.findall(text)}
    linked = {link: page.parent / link for link in LINK.findall(text) if "://" not in link}
    assert [name for name, path in {**named, **linked}.items() if not path.exists()] == []


def test_architecture_follows_a_synapse_through_at_most_25_files() -> None:
    rows = re.findall(
        r"^\| (\d+) \|", (REPOSITORY / "docs/reference/architecture.md").read_text(), re.M
    )
    assert [int(row) for row in rows] == list(range(1, len(rows) + 1))
    assert 15 < len(rows) <= 25
