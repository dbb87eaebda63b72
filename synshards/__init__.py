"""One command for the whole project: `synshards ingest|shards|train|predict|eval|slurm …`."""

from typing import Any


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from importlib.metadata import version

        return version("synshards")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
