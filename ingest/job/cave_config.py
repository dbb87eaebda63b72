"""The CAVE datastack of a job. No token belongs here: it comes from its own places."""

import re
from dataclasses import dataclass
from urllib.parse import urlsplit

from shards.contract.documents import document

PUBLIC_SERVER = "https://global.daf-apis.com"
PUBLIC_ROW_CAP = 500_000


@document
@dataclass(frozen=True, kw_only=True, slots=True)
class CaveConfig:
    """A datastack at one materialization version, and how it is asked."""

    datastack: str
    """its name. Example: `minnie65_public`."""
    version: int
    """the materialization version; root ids of different ones do not fit. Example: `1300`."""
    server: str = PUBLIC_SERVER
    """the address of CAVE. Example: `https://global.daf-apis.com`."""
    cache: str | None = None
    """the folder that keeps the answers; null: `synshards/cave` in the user's cache. Example:
    `answers`."""
    neurons_per_query: int = 100
    """neurons per question; halved where the server cuts an answer. Example: `20`."""
    row_cap: int = PUBLIC_ROW_CAP
    """the rows at which the server cuts an answer. Example: `500000`."""
    concurrency: int = 2
    """questions under way at a time. Example: `4`."""

    def __post_init__(self) -> None:
        parts = urlsplit(self.server)
        netloc = re.fullmatch(r"([^@\s]+?)(:\d{1,5})?", parts.netloc)
        if parts.scheme not in ("http", "https") or netloc is None or parts.query or parts.fragment:
            raise ValueError(f"cave.server must be an address like {PUBLIC_SERVER}, nothing more")
        if min(self.version, self.neurons_per_query, self.row_cap, self.concurrency) < 1:
            raise ValueError(
                "cave.version, neurons_per_query, row_cap and concurrency must be 1 or more"
            )
