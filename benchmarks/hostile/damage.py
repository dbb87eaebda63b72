"""Random damage to bytes, as disks, networks and careless tools do it."""

import random


def damaged(data: bytes, rng: random.Random) -> tuple[str, bytes]:
    """Return the name of a damage and the bytes after it; it may change nothing."""
    name = rng.choice(sorted(DAMAGES))
    return name, DAMAGES[name](data, rng)


def _flip(data: bytes, rng: random.Random) -> bytes:
    out = bytearray(data)
    for _ in range(rng.choice((1, 1, 1, 2, 8))):
        out[rng.randrange(len(out))] ^= 1 << rng.randrange(8)
    return bytes(out)


def _cut(data: bytes, rng: random.Random) -> bytes:
    return data[: rng.choice((rng.randrange(len(data)), len(data) // 512 * 256, 1, 0))]


def _head(data: bytes, rng: random.Random) -> bytes:
    return data[rng.randrange(1, min(len(data), 600)) :]


def _range(data: bytes, rng: random.Random) -> tuple[int, int]:
    start = rng.randrange(len(data))
    return start, min(len(data), start + rng.choice((1, 16, 512, 4096)))


def _zero(data: bytes, rng: random.Random) -> bytes:
    start, stop = _range(data, rng)
    return data[:start] + b"\0" * (stop - start) + data[stop:]


def _noise(data: bytes, rng: random.Random) -> bytes:
    start, stop = _range(data, rng)
    return data[:start] + rng.randbytes(stop - start) + data[stop:]


def _twice(data: bytes, rng: random.Random) -> bytes:
    start, stop = _range(data, rng)
    return data[:stop] + data[start:stop] + data[stop:]


def _out(data: bytes, rng: random.Random) -> bytes:
    start, stop = _range(data, rng)
    return data[:start] + data[stop:]


def _swap(data: bytes, rng: random.Random) -> bytes:
    a, b = sorted(rng.randrange(len(data)) for _ in range(2))
    size = min(rng.choice((1, 64, 512)), b - a, len(data) - b)
    return (
        data[:a] + data[b : b + size] + data[a + size : b] + data[a : a + size] + data[b + size :]
    )


def _tail(data: bytes, rng: random.Random) -> bytes:
    return data + rng.choice((b"\0", b"\n", b" ", rng.randbytes(7), b"\0" * 512, data[:700]))


DAMAGES = {
    "bit flip": _flip,
    "truncated": _cut,
    "beginning lost": _head,
    "zeroed range": _zero,
    "random range": _noise,
    "range twice": _twice,
    "range lost": _out,
    "ranges swapped": _swap,
    "tail added": _tail,
}
