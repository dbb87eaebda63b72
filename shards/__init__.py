"""Sharded data sets of images: contract, storage, packing, streaming.

from shards import OrderSpec, Position, Stream, open_shards
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from shards.stream.order import OrderSpec, Position
    from shards.stream.shardset import open_shards
    from shards.stream.stream import Stream

__all__ = ["OrderSpec", "Position", "Stream", "open_shards"]


def __getattr__(name: str) -> Any:
    # Imported when asked for: what needs one room of this package does not load the others.
    if name in ("OrderSpec", "Position"):
        from shards.stream import order as module
    elif name == "Stream":
        from shards.stream import stream as module  # type: ignore[no-redef]
    elif name == "open_shards":
        from shards.stream import shardset as module  # type: ignore[no-redef]
    else:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(module, name)
