"""The commands that README and docs show."""

import re
import shlex
from pathlib import Path

from tests.conftest import REPOSITORY

PAGES = [*sorted(REPOSITORY.glob("*.md")), *sorted((REPOSITORY / "docs").rglob("*.md"))]
BLOCK = re.compile(r"^```(?:bash)?\n(.*?)^```$", re.M | re.S)
INLINE = re.compile(r"`([^`\n]+)`")
COMMAND = re.compile(
    r"(?:synshards|python -m (?:eval|ingest|shards|slurm|trainer)|accelerate launch) \S"
)
NAME = re.compile(r"(?:synshards|python -m)(?: [a-z…-]+){1,2}")  # no arguments
PACKAGES = {"train": ["trainer"], "predict": ["trainer", "predict"]}


def blocks(page: Path) -> list[str]:
    """Return the commands of a page's blocks, a line each, without comments."""
    text = "\n".join(BLOCK.findall(page.read_text())).replace("\\\n", " ")
    lines = [re.sub(r"(?:^|\s)# .*", "", line) for line in text.splitlines()]
    parts = [part.strip() for line in lines for part in re.split(r"&&|;", line)]
    return [part for part in parts if COMMAND.match(part)]


def commands(page: Path) -> list[str]:
    """Return all commands of a page, also those within its sentences."""
    inline = [text for text in INLINE.findall(page.read_text()) if COMMAND.match(text)]
    inline = [text for text in inline if not NAME.fullmatch(text)]
    return list(dict.fromkeys([*blocks(page), *inline]))


def words_of(command: str) -> list[str]:
    """Return a command's words from the package's name on."""
    words = shlex.split(command)
    if words[0] == "synshards":
        return [*PACKAGES.get(words[1], [words[1]]), *words[2:]]
    return words[words.index("-m") + 1 :]
