"""Assignment of samples to shards, before anything is read or written."""

import hashlib
import json
import math
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from shards.contract.schema import SPLITS, TAR, UNLABELLED, ImageSpec, index_name
from shards.pack.make_manifest import UNLABELLED_NAME
from shards.stream.order import shuffled

KEY_PATTERN = re.compile(r"[A-Za-z0-9_-]+")
SHARD_BYTES = 256 << 20


@dataclass(frozen=True, kw_only=True)
class Division:
    """The splits of one manifest: of all samples the split (n,), and those that it lists (n,)."""

    fold: int | None
    splits: np.ndarray
    listed: np.ndarray


@dataclass(frozen=True, kw_only=True)
class IndexPlan:
    """An index of a tar: its split, and which of the tar's samples (n,) it lists.

    `identity` hashes all that decides the bytes of tar and index, so that a finished shard of the
    same plan is told from one of another.
    """

    split: str
    name: str
    listed: np.ndarray
    identity: str


@dataclass(frozen=True, kw_only=True)
class ShardPlan:
    """A tar to write: its samples in order, in the columns of `SAMPLE_COLUMNS`, and its indices.

    There is one index, or one for each fold of a cross-validation.
    """

    name: str
    samples: pa.Table
    indices: tuple[IndexPlan, ...]


@dataclass(frozen=True, kw_only=True)
class PackOptions:
    """Options of packing.

    samples_per_shard: at most so many samples in a tar; None for tars of about `SHARD_BYTES`.
    seed: of the shuffle.
    unlabelled: `leave-out` or `keep` samples without a label, in the split they have.
    exclude_flags: samples with one of these QC flags are left out.
    folds: split anew by neuron, for a cross-validation of so many folds (`shards.pack.folds`).
    """

    samples_per_shard: int | None = None
    seed: int = 42
    unlabelled: str = "leave-out"
    exclude_flags: tuple[str, ...] = ()
    folds: int | None = None

    def __post_init__(self) -> None:
        if self.folds is not None and self.folds < len(SPLITS):
            raise ValueError(
                f"folds must be {len(SPLITS)} or more, got {self.folds}: one to test, one to "
                "validate, the others to train on"
            )
        if self.samples_per_shard is not None and self.samples_per_shard < 1:
            raise ValueError(f"a shard needs at least 1 sample, got {self.samples_per_shard}")
        if self.unlabelled not in ("leave-out", "keep"):
            raise ValueError(f"unlabelled must be leave-out or keep, got {self.unlabelled!r}")


def choose_samples(samples: pa.Table, options: PackOptions) -> tuple[pa.Table, dict[str, int]]:
    """Return the samples to pack and how many were left out, by reason."""
    reasons = np.full(len(samples), "", dtype=object)
    if options.unlabelled == "leave-out":
        reasons[samples["label"].to_numpy() == UNLABELLED] = UNLABELLED_NAME
    flags = [set(text.split(",")) for text in samples["qc_flags"].to_pylist()]
    for flag in options.exclude_flags:
        reasons[[flag in found for found in flags]] = f"QC flag {flag}"
    splits = samples["split"].to_numpy(zero_copy_only=False)
    reasons[splits == ""] = "no split"
    if unknown := set(splits) - {*SPLITS, ""}:
        raise ValueError(
            f"samples.parquet has splits {', '.join(sorted(unknown))}; only {', '.join(SPLITS)} "
            "can be packed: run the ingest's plan again"
        )
    left_out = Counter(reason for reason in reasons if reason)
    return samples.filter(pa.array(reasons == "")), dict(sorted(left_out.items()))


def samples_per_shard(options: PackOptions, image: ImageSpec) -> int:
    """Return how many samples a shard gets at most."""
    return options.samples_per_shard or max(1, SHARD_BYTES // math.prod(image.shape))


def plan_shards(
    samples: pa.Table,
    divisions: Sequence[Division],
    *,
    per_shard: int,
    seed: int,
    content_identity: str,
) -> list[ShardPlan]:
    """Shuffle all samples of each part over its tars; `samples["split"]` names the parts.

    A part's tars differ by at most one sample, in all and in each class. Every division gives
    whole parts to splits. `content_identity` names what the images are (sample store and view).
    """
    _check(samples)
    part_of = samples["split"].to_numpy(zero_copy_only=False)
    parts = SPLITS if divisions[0].fold is None else [f"fold{d.fold}" for d in divisions]
    plans = []
    for number, part in enumerate(parts):
        members = np.flatnonzero(part_of == part)
        labels = samples["label"].to_numpy()[members]
        for index, hand in enumerate(_deal(labels, per_shard, [seed, number])):
            stem = f"{part}-{index:06d}"
            plans.append(_plan(stem, samples, members[hand], divisions, content_identity))
    if not plans:
        raise ValueError(
            "no sample is left to pack: every one is unlabelled, flagged or without a split; "
            "see `python -m ingest inspect DATASET`; --unlabelled keep packs those without a label"
        )
    return plans


def _deal(labels: np.ndarray, per_shard: int, seed: list[int]) -> list[np.ndarray]:
    """Deal shuffled rows, class by class, round the shards; then shuffle each shard."""
    num_shards = math.ceil(len(labels) / per_shard)
    rows = shuffled(np.arange(len(labels)), [*seed, 0])
    by_class = rows[np.argsort(labels[rows], kind="stable")]
    hands = [by_class[shard::num_shards] for shard in range(num_shards)]
    return [shuffled(hand, [*seed, 1, shard]) for shard, hand in enumerate(hands)]


def _plan(
    stem: str,
    samples: pa.Table,
    rows: np.ndarray,
    divisions: Sequence[Division],
    content_identity: str,
) -> ShardPlan:
    samples = samples.take(pa.array(rows)).combine_chunks()
    hashed = hashlib.sha256(content_identity.encode())
    for name in samples.column_names:
        hashed.update(json.dumps([name, samples[name].to_pylist()]).encode())
    indices = []
    for division in divisions:
        listed, of_index = division.listed[rows], hashed.copy()
        if division.fold is not None:
            fold = [division.fold, len(divisions), listed.tolist()]
            of_index.update(json.dumps(fold).encode())
        indices.append(
            IndexPlan(
                split=str(division.splits[rows[0]]),
                name=index_name(stem, division.fold),
                listed=listed,
                identity=of_index.hexdigest(),
            )
        )
    return ShardPlan(name=f"{stem}{TAR}", samples=samples, indices=tuple(indices))


def _check(samples: pa.Table) -> None:
    keys = samples["key"].to_pylist()
    if bad := next((key for key in keys if not KEY_PATTERN.fullmatch(key)), None):
        raise ValueError(
            f"key {bad!r} has other characters than letters, digits, _ and -, so it cannot name "
            "a tar member; change the keys in the ingest"
        )
    if len(set(keys)) != len(keys):
        raise ValueError("two samples have the same key; run the ingest's finish again")
