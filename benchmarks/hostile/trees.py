"""Edits of plain values (dicts, lists, text, numbers), for documents of every format."""

import copy
import random
from typing import Any

Path = tuple[str | int, ...]
ODD: tuple[Any, ...] = (
    None, [], {}, "", "x", "0", 0, -1, 1, 3.7, -0.5, 1e308, 2**31, 2**63, 2**70, True, False,
    [None], [[]], {"x": 1}, [1, 2, 3, 4], "../../etc/passwd", "/dev/zero", "\u202e", "a" * 5000,
    "nan", "1e3", "a\nb", "\u0000", [1] * 1000, float("inf"), float("nan"),
)  # fmt: skip


def leaves(value: Any, path: Path = ()) -> list[Path]:
    """Return the path of every value, inner ones included."""
    items = (
        value.items()
        if isinstance(value, dict)
        else enumerate(value)
        if isinstance(value, list)
        else ()
    )
    return [path] * bool(path) + [p for key, child in items for p in leaves(child, (*path, key))]


def get(value: Any, path: Path) -> Any:
    """Return what stands at a path."""
    for key in path:
        value = value[key]
    return value


def edited(tree: Any, rng: random.Random) -> tuple[str, Any, Path]:
    """Return the name of an edit, the tree after it, and where it was."""
    tree = copy.deepcopy(tree)
    path = rng.choice(leaves(tree))
    parent, key = get(tree, path[:-1]), path[-1]
    name = rng.choice(("odd value", "odd value", "key lost", "key added", "key renamed", "whole"))
    if name == "odd value":
        parent[key] = rng.choice(ODD)
    elif name == "key lost":
        del parent[key]
    elif name == "whole":
        return name, rng.choice((None, [], {}, "x", 1, [tree], True)), ()
    elif isinstance(parent, dict):
        if name == "key added":
            parent[rng.choice(("x", "__class__", "path ", "Paths", ""))] = rng.choice(ODD)
        else:
            parent[f"{key}_"] = parent.pop(key)
    else:
        parent.insert(int(key), rng.choice(ODD))
    return name, tree, path


def shuffled(value: Any, rng: random.Random) -> Any:
    """Return an equal value whose keys stand in another order."""
    if isinstance(value, dict):
        return {k: shuffled(value[k], rng) for k in rng.sample(list(value), len(value))}
    return [shuffled(v, rng) for v in value] if isinstance(value, list) else value
