"""Reading speed of a shard set on this machine, and its meaning for a given step time."""

import math
import time
from dataclasses import dataclass, field

import numpy as np

from shards.stream.mixture import Mixture
from shards.stream.order import OrderSpec, Samples, epoch_order
from shards.stream.section_view import Sections
from shards.stream.shardset import ShardSet, open_shards
from shards.stream.stream import Stream

RAW_READ_BYTES = 4 << 20


@dataclass(frozen=True, kw_only=True)
class BenchSpec:
    """The reading to time: one rank's stream of `split`, for up to `seconds` each time."""

    split: str = "train"
    batch_size: int = 32
    threads: int | None = None
    prefetch: int = 3
    seconds: float = 10.0
    order: OrderSpec = field(default_factory=OrderSpec)
    sections: Sections | None = None

    def __post_init__(self) -> None:
        _require_above_zero("seconds", self.seconds)


@dataclass(frozen=True, kw_only=True)
class Rate:
    """Samples and bytes handed out a second, and the share of the time spent waiting for them."""

    samples: float
    bytes: float
    waiting: float


def raw_rate(shards: ShardSet, split: str, seconds: float) -> float:
    """Return bytes a second of reading the tars one after the other, warm."""
    infos = shards.index(split).shards
    buffer = memoryview(bytearray(RAW_READ_BYTES))
    rate = 0.0
    for _ in range(2):  # the first time warms the disk cache
        start, done = time.perf_counter(), 0
        for info in infos:
            for offset in range(0, info.bytes, RAW_READ_BYTES):
                part = buffer[: min(RAW_READ_BYTES, info.bytes - offset)]
                shards.storage.read_into(info.name, offset, part)
                done += len(part)
            if time.perf_counter() - start > seconds:
                break
        rate = done / (time.perf_counter() - start)
    return rate


def stream_rate(stream: Stream, seconds: float) -> Rate:
    """Return the rate of a stream's next epoch, or of its first `seconds`."""
    next(stream)  # start-up apart
    start, samples, size, waited = time.perf_counter(), 0, 0, 0.0
    for _ in range(stream.steps_per_epoch):
        asked = time.perf_counter()
        batch = next(stream)
        waited += time.perf_counter() - asked
        samples += len(batch.rows)
        size += batch.images.nbytes
        if time.perf_counter() - start > seconds:
            break
    elapsed = time.perf_counter() - start
    return Rate(samples=samples / elapsed, bytes=size / elapsed, waiting=waited / elapsed)


def first_batch_seconds(shards: ShardSet, spec: BenchSpec) -> float:
    """Return how long a new stream takes to its first batch."""
    start = time.perf_counter()
    with _stream(shards, spec) as stream:
        next(stream)
    return time.perf_counter() - start


def order_quality(samples: Samples, order: np.ndarray, batch_size: int) -> dict[str, float]:
    """Return what a batch is made of, on average, and how far the order follows the disk's.

    `shards`, `neurons`: distinct ones in a batch. `disk_order`: Spearman's rank correlation of a
    sample's turn and its place on the disk, without sign; 0 for a perfect shuffle, 1 for none.
    """
    steps = max(1, len(order) // batch_size)
    batches = order[: steps * batch_size].reshape(steps, -1)[:1000]
    turns = np.argsort(np.argsort(order, kind="stable"), kind="stable")
    return {
        "shards": float(np.mean([len(np.unique(samples.shard[rows])) for rows in batches])),
        "neurons": float(np.mean([len(np.unique(samples.neuron_id[rows])) for rows in batches])),
        "disk_order": float(abs(np.corrcoef(np.arange(len(turns)), turns)[0, 1])),
    }


def bench(
    url: str, spec: BenchSpec, step_ms: float | None, *, fold: int | None = None
) -> list[str]:
    """Return lines: this machine's ceiling, the reader's rates, headroom, the order's quality."""
    if step_ms is not None:
        _require_above_zero("step time in ms", step_ms)
    with open_shards(url, fold=fold) as shards:
        raw = raw_rate(shards, spec.split, spec.seconds)
        lines = [f"raw sequential warm read  {raw / 1e9:8.2f} GB/s"]
    with open_shards(url, fold=fold) as shards:
        lines.append(f"time to the first batch   {first_batch_seconds(shards, spec):8.2f} s")
    with open_shards(url, fold=fold) as shards, _stream(shards, spec) as stream:
        for title in ("first epoch, checksums", "second epoch"):
            rate = stream_rate(stream, spec.seconds)
            lines.append(
                f"{title:24s}  {rate.bytes / 1e9:8.2f} GB/s {rate.samples:10.0f} samples/s, "
                f"{rate.waiting:.0%} of the time waiting"
            )
        if step_ms is not None:
            lines.append(_headroom(rate, spec.batch_size, step_ms))
        mixture = Mixture([shards], spec.split)
        order = epoch_order(mixture.samples, spec.order, 0, spec.batch_size)
        found = order_quality(mixture.samples, order, spec.batch_size)
    lines.append(
        f"a batch of {spec.batch_size} holds samples of {found['shards']:.1f} shards and "
        f"{found['neurons']:.1f} neurons; correlation with the disk's order "
        f"{found['disk_order']:.3f}"
    )
    return lines


def _stream(shards: ShardSet, spec: BenchSpec) -> Stream:
    return Stream(
        shards,
        spec.split,
        batch_size=spec.batch_size,
        order=spec.order,
        num_threads=spec.threads,
        prefetch=spec.prefetch,
        sections=spec.sections,
    )


def _headroom(rate: Rate, batch_size: int, step_ms: float) -> str:
    needed = batch_size / (step_ms / 1e3)
    verdict = "reading keeps up" if rate.samples >= needed else "reading holds training up"
    return (
        f"steps of {step_ms:g} ms need     {needed:8.0f} samples/s: {verdict}, "
        f"headroom {rate.samples / needed:.1f}"
    )


def _require_above_zero(what: str, value: float) -> None:
    if not 0 < value < math.inf:
        raise ValueError(f"{what} must be above 0, got {value:g}")
