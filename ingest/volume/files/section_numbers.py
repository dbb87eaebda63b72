"""The order of section files by the number in their names, and the numbers that are missing.

tifffile's natural sort and sequences know neither signs nor missing numbers, and take whichever of
two numbers comes first; a stack in the wrong order is an error that nobody would see.
"""

import re
from collections import defaultdict
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path


def in_order(paths: Sequence[Path]) -> dict[int, Path]:
    """Return section files by their numbers, in order; without numbers, 0, 1, … by name.

    The number is the one in which all names differ; a minus or plus before it is its sign where
    only some names have it there, or where it follows nothing that it could join to the number.
    Names of several kinds, two files of one number, and two numbers that both could be meant are a
    `ValueError`.
    """
    texts, numbers = zip(*map(_parts, paths), strict=True)
    if not any(numbers):
        return dict(enumerate(sorted(paths, key=lambda path: path.name.casefold())))
    signs = _signs(paths, texts)
    rows = [
        tuple(sign * number for sign, number in zip(*pair, strict=True))
        for pair in zip(signs, numbers, strict=True)
    ]
    column = _column(paths, rows)
    return dict(sorted((row[column], path) for row, path in zip(rows, paths, strict=True)))


def holes(numbers: Collection[int]) -> Iterator[int]:
    """Yield the numbers that are missing between the first and the last of them."""
    there = set(numbers)
    return (number for number in range(min(there), max(there) + 1) if number not in there)


def _parts(path: Path) -> tuple[tuple[str, ...], tuple[int, ...]]:
    """Return the texts around the numbers of a name, and the numbers."""
    parts = re.split(r"([0-9]+)", path.stem.casefold())
    return tuple(parts[::2]), tuple(map(int, parts[1::2]))


def _signs(paths: Sequence[Path], texts: Sequence[tuple[str, ...]]) -> list[tuple[int, ...]]:
    """Return +1 or -1 for each number of each name; other texts around them are refused."""
    bare = [tuple(re.sub(r"[+-]$", "", text) for text in row[:-1]) + row[-1:] for row in texts]
    for path, row in zip(paths, bare, strict=True):
        if row != bare[0]:
            raise ValueError(
                f"{path}: this name and {paths[0].name} differ in more than their numbers; keep "
                "one stack's sections in a folder, all named alike, as sec_0001.tif"
            )
    columns = [[row[place] for row in texts] for place in range(len(bare[0]) - 1)]
    signed = [
        len(set(column)) > 1 or _is_sign(column[0], first=place == 0)
        for place, column in enumerate(columns)
    ]
    return [
        tuple(
            -1 if sign and text.endswith("-") else 1
            for sign, text in zip(signed, row, strict=False)
        )
        for row in texts
    ]


def _is_sign(text: str, *, first: bool) -> bool:
    """Return whether a minus that all names have here belongs to the number behind it."""
    before = text[-2:-1]
    return text.endswith("-") and (first if not before else not before.isalnum())


def _column(paths: Sequence[Path], rows: Sequence[tuple[int, ...]]) -> int:
    """Return which of the numbers in the names counts the sections."""
    columns = list(zip(*rows, strict=True))
    varied = [place for place, column in enumerate(columns) if len(set(column)) > 1]
    if len(paths) == 1:
        return 0
    unique = [place for place in varied if len(set(columns[place])) == len(paths)]
    if unique:
        lows = {place: min(columns[place]) for place in unique}
        steps = {place: [number - lows[place] for number in columns[place]] for place in unique}
        best = min(unique, key=lambda place: max(steps[place]))
        for place in unique:
            if max(steps[place]) < 2 * len(paths) and steps[place] != steps[best]:
                raise ValueError(
                    f"{paths[0]}: two numbers in the names could count the sections, and they do "
                    f"not agree ({rows[0][best]} and {rows[0][place]} here): rename the files so "
                    "that one is left, as sec_0001.tif"
                )
        return best
    same = defaultdict(list)
    for row, path in zip(rows, paths, strict=True):
        same[row].append(path)
    if twice := next((paths for paths in same.values() if len(paths) > 1), None):
        raise ValueError(f"{twice[0]} and {twice[1].name} are of one section number; remove one")
    raise ValueError(
        f"{paths[0]}: {len(varied)} numbers vary in the names of these files, and none of them is "
        "another in each file; keep one channel and one stack in a folder, and number its sections "
        "through, as sec_0001.tif"
    )
