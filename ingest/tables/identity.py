"""Identities of tables and volumes, so that a change of one is noticed."""

from collections.abc import Mapping
from pathlib import Path
from typing import Literal, NotRequired

from pydantic import with_config
from typing_extensions import TypedDict

from ingest.tables.remote_tables import check_table, is_remote, remote_identity
from ingest.tables.synapse_tables import num_rows
from ingest.volume.files.image_folder import folder_identity
from shards.contract.documents import parse_plain
from shards.storage.atomic import sha256_of_file


@with_config(extra="allow", strict=True)
class Source(TypedDict):
    """The identity of a table or a volume; a kind of source may have further keys."""

    kind: Literal["table", "volume"]
    path: str
    bytes: NotRequired[int]
    rows: NotRequired[int | None]
    sha256: NotRequired[str]
    materialization_version: NotRequired[int]
    materialization_time: NotRequired[str]
    neurons_asked_for: NotRequired[int | None]
    neurons_not_asked_for: NotRequired[dict[str, int]]


def source_of(value: Mapping[str, object]) -> Source:
    """Return what tells a table or a volume from another as a `Source`."""
    return parse_plain(Source, dict(value), where=f"{value['path']}: its identity", cure="")


def table_identity(path: str) -> Source:
    """Return what tells a table from another."""
    check_table(path)
    if is_remote(path):
        return source_of(remote_identity(path))
    file = Path(path.removeprefix("file://"))
    if file.is_dir():
        return source_of({"kind": "table", **folder_identity(path)})
    size, digest = file.stat().st_size, sha256_of_file(file)
    return {"kind": "table", "path": path, "bytes": size, "sha256": digest, "rows": num_rows(path)}
