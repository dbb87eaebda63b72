"""Hooks of mkdocs: pages from the checkout's top, and links to code as plain text.

The site holds what lies under docs/. A page elsewhere (README.md, …) becomes a page of the site,
with its links rewritten; a link to a file that the site does not hold keeps its text alone.
"""

import os
import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

TOP = Path(__file__).parents[2]
PAGES = {
    "README.md": "index.md",
    "SECURITY.md": "security.md",
    "CONTRIBUTING.md": "contributing.md",
    "CHANGELOG.md": "changelog.md",
}
ORDER = (  # of the pages; others follow those of their folder
    "index",
    "guide/first_job",
    "guide/cave",
    "guide/images",
    "guide/phantom",
    "guide",
    "results",
    "benchmarks",
    "reference/job",
    "reference/python",
    "reference",
)
LINK = re.compile(r"(!?)\[([^\]]*)\]\(([^)#\s]*)(#[^)\s]*)?\)")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages of the checkout's top; the order of files is that of the navigation."""
    for source, page in PAGES.items():
        files.append(File.generated(config, page, content=(TOP / source).read_text()))
    return Files(sorted(files, key=_place))


def _place(file: File) -> tuple[int, str]:
    name = file.src_uri.removesuffix(".md")
    folder = str(Path(name).parent)
    places = [ORDER.index(one) for one in (name, folder) if one in ORDER]
    return (places[0] if places else len(ORDER)), name


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Return a page whose links lead to pages and files of the site."""
    sources = {page_name: source for source, page_name in PAGES.items()}
    place = TOP / sources.get(page.file.src_uri, f"docs/{page.file.src_uri}")

    def rewritten(link: re.Match[str]) -> str:
        mark, text, target, anchor = link.group(1), link.group(2), link.group(3), link.group(4)
        if not target or "://" in target or target.startswith("mailto:"):
            return link.group(0)
        path = os.path.relpath(place.parent / target, TOP)
        uri = PAGES.get(path, path.removeprefix("docs/"))
        held = files.get_file_from_path(uri)
        if held is None or held.inclusion.is_excluded():
            return text
        uri = os.path.relpath(uri, Path(page.file.src_uri).parent)
        return f"{mark}[{text}]({uri}{anchor or ''})"

    return LINK.sub(rewritten, markdown)
