"""Which sample goes into which shard: decided before anything is read or written."""

import hashlib
import json
import math
import re
from collections import Counter
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from shards.contract.schema import SPLITS, UNLABELLED, ImageSpec
from shards.stream.order import shuffled

KEY_PATTERN = re.compile(r"[A-Za-z0-9_-]+")
UNLABELLED_NAME = "unlabelled"
SHARD_BYTES = 256 << 20


@dataclass(frozen=True, kw_only=True)
class ShardPlan:
    """One shard to write: its samples, in order, in the columns of `SAMPLE_COLUMNS`.

    `identity` hashes all that decides the shard's bytes, so that a finished shard of the same
    plan is told from one of another.
    """

    split: str
    name: str
    index_name: str
    samples: pa.Table
    identity: str


@dataclass(frozen=True, kw_only=True)
class PackOptions:
    """What is packed, and how.

    samples_per_shard: at most so many samples in a tar; None for tars of about `SHARD_BYTES`.
    seed: of the shuffle.
    unlabelled: `leave-out` or `keep` samples without a label, in the split they have.
    exclude_flags: samples with one of these QC flags are left out.
    num_folds, fold: split anew, as this fold of a cross-validation by neuron (`shards.pack.folds`).
    """

    samples_per_shard: int | None = None
    seed: int = 42
    unlabelled: str = "leave-out"
    exclude_flags: tuple[str, ...] = ()
    num_folds: int | None = None
    fold: int | None = None

    def __post_init__(self) -> None:
        if (self.num_folds is None) != (self.fold is None):
            raise ValueError("fold and num_folds go together: give both or none")
        if self.num_folds is not None and self.num_folds < len(SPLITS):
            raise ValueError(
                f"num_folds must be {len(SPLITS)} or more, got {self.num_folds}: one fold to test, "
                "one to validate, the others to train on"
            )
        if self.num_folds is not None and not 0 <= (self.fold or 0) < self.num_folds:
            raise ValueError(f"fold must be from 0 to {self.num_folds - 1}, got {self.fold}")
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
    samples: pa.Table, *, per_shard: int, seed: int, content_identity: str
) -> list[ShardPlan]:
    """Shuffle all samples of each split over its shards.

    A split's shards differ by at most one sample, in all and in each class. `content_identity`
    names what the images are (the sample store and the view).
    """
    _check(samples)
    plans = []
    for number, split in enumerate(SPLITS):
        part = samples.filter(pc.equal(samples["split"], split))
        hands = _deal(part["label"].to_numpy(), per_shard, [seed, number])
        for index, rows in enumerate(hands):
            plans.append(_plan(split, index, part.take(pa.array(rows)), content_identity))
    if not plans:
        raise ValueError(
            "no sample is left to pack: every one is unlabelled, flagged or without a split; "
            "see `python -m ingest inspect DATASET`; --unlabelled keep packs those without a label"
        )
    return plans


def class_counts(labels: np.ndarray, class_names: tuple[str, ...]) -> dict[str, int]:
    """Return how many samples each class has, and the unlabelled if there are any."""
    counts = {name: int(np.sum(labels == label)) for label, name in enumerate(class_names)}
    if unlabelled := int(np.sum(labels == UNLABELLED)):
        counts[UNLABELLED_NAME] = unlabelled
    if sum(counts.values()) != len(labels):
        raise ValueError(
            f"labels {sorted(set(labels.tolist()))} do not fit the classes "
            f"{', '.join(class_names)}; run the ingest's plan again"
        )
    return counts


def _deal(labels: np.ndarray, per_shard: int, seed: list[int]) -> list[np.ndarray]:
    """Deal shuffled rows, class by class, round the shards; then shuffle each shard."""
    num_shards = math.ceil(len(labels) / per_shard)
    rows = shuffled(np.arange(len(labels)), [*seed, 0])
    by_class = rows[np.argsort(labels[rows], kind="stable")]
    hands = [by_class[shard::num_shards] for shard in range(num_shards)]
    return [shuffled(hand, [*seed, 1, shard]) for shard, hand in enumerate(hands)]


def _plan(split: str, number: int, samples: pa.Table, content_identity: str) -> ShardPlan:
    samples = samples.combine_chunks()
    hashed = hashlib.sha256(content_identity.encode())
    for name in samples.column_names:
        hashed.update(json.dumps([name, samples[name].to_pylist()]).encode())
    stem = f"{split}-{number:06d}"
    return ShardPlan(
        split=split,
        name=f"{stem}.tar",
        index_name=f"{stem}.index.parquet",
        samples=samples,
        identity=hashed.hexdigest(),
    )


def _check(samples: pa.Table) -> None:
    keys = samples["key"].to_pylist()
    if bad := next((key for key in keys if not KEY_PATTERN.fullmatch(key)), None):
        raise ValueError(
            f"key {bad!r} has other characters than letters, digits, _ and -, so it cannot name "
            "a tar member; change the keys in the ingest"
        )
    if len(set(keys)) != len(keys):
        raise ValueError("two samples have the same key; run the ingest's finish again")
